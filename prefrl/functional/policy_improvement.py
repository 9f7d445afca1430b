"""Generalised policy improvement over a policy set (Barreto et al. 2017; soft form: Knox et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_maximum(values: Tensor, temperature: float) -> Tensor:
    """Return sum_p softmax_p(values / T) values over the last axis.

    It lies between ``max - T log P`` and the maximum of the P values, and is the maximum at T = 0. Its
    gradient is softmax_p (1 + (values_p - result) / T).

    Args:
        values: [..., P], for example psi^pi(s) . w of P policies.
        temperature: T, in units of the values; not negative.

    Returns:
        [...].
    """
    if temperature == 0.0:
        return values.amax(-1)
    return (torch.softmax(values / temperature, -1) * values).sum(-1)
