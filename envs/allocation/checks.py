"""Budgets, checked at the door."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array


def to_host(values: Array) -> NDArray[np.float64]:
    """Return an array of any backend as float64 in host memory."""
    values = values.cpu() if hasattr(values, "cpu") else values
    return np.asarray(values, dtype=np.float64)


def check_rho(rho: Any, num_resources: int) -> NDArray[np.float64]:
    """Return the budgets per request [m]; ValueError unless they are positive and finite."""
    try:
        if isinstance(rho, (bool, np.bool_)):
            raise TypeError("a truth value is no budget")
        values = np.asarray(rho, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"rho is {rho!r}; it must be a number, or one for each resource") from error
    if values.shape not in ((), (1,), (num_resources,)):
        raise ValueError(f"rho has shape {values.shape}; give one number, or one for each of the "
                         f"{num_resources} resources")  # fmt: skip
    if not (np.isfinite(values).all() and (values > 0.0).all()):
        raise ValueError(f"rho is {rho!r}; budgets per request must be positive and finite")
    return np.array(np.broadcast_to(values, (num_resources,)))
