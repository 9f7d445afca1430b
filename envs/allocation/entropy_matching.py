"""Proportional matching: spread every impression over advertisers, with a bonus for spreading."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Unpack

from prefrl.envs.core.backend import Array, Backend, Noise, Random
from prefrl.envs.core.checks import check_count, check_number

from .dynamics import AllocationDynamics
from .online_knapsack import instance_generator
from .problems import EntropyMatch, largest_entropy
from .request_streams import StreamArgs

QUALITY_BOUND = 5.0
"""Qualities above are cut."""


class EntropyMatchingDynamics(AllocationDynamics):
    """Divide every impression among advertisers with budgets; an entropy bonus rewards spreading.

    ## Description
    An impression has a quality for each of d advertisers, each of whom has bought rho_j T impressions. A
    fraction x_j of it goes to advertiser j. The proportional matching of Balseiro, Lu and Mirrokni (2023);
    their data are not public domain, so the qualities are a log-normal mixture of our own: an impression is
    of one of some types, and log q_j is normal around the type's mean, itself drawn from N(0, 1/2).

    ## Action Space
    `Box(0, 1, (d,), float32)`: the fractions. What sums to more than 1 is divided by its sum.

    ## Observation Space
    `Dict`: `request` (d), the qualities, in [0, 5]; `remaining` (d) and `time` (1), the shares of each budget
    that is left and of the impressions gone.

    ## Rewards
    `sum_j q_j x_j - lam sum_j x_j log x_j`. Where a budget does not suffice nothing is allocated, and
    `info["rejected"]` is True.

    ## Starting State
    All budgets are whole.

    ## Episode End
    Terminates after T impressions; with `stop_when_empty`, as soon as less than an impression is
    left of every budget.

    ## Arguments
    `horizon` (int, 1000): T. `d` (int, 5): advertisers. `lam` (float, 0.1): weight of the entropy, positive.
    `rho` (float or list of d, None): budgets per impression; None draws them, 0.9 in sum. `types` (int, 10)
    and `sd` (float, 0.3) of the log-quality within a type; `instance_seed` (int, 0) draws the means and rho.
    `stop_when_empty` (bool, False); `input_model` and what goes with it, `requests` (columns `quality_j`),
    `render_mode`: see `prefrl/MultiSecretary-v0`.

    ## Ground truth
    `requests()`, `hindsight_optimum()` (the concave program's dual, to a relative 1e-6) and
    `fluid_optimum()`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        horizon: int | None = None,
        d: int = 5,
        lam: float = 0.1,
        rho: float | Sequence[float] | None = None,
        types: int = 10,
        sd: float = 0.3,
        instance_seed: int = 0,
        *,
        stop_when_empty: bool = False,
        backend: Backend | None = None,
        **stream: Unpack[StreamArgs],
    ) -> None:
        d, types = check_count("d", d), check_count("types", types)
        if not 0.0 < check_number("lam", lam) < np.inf:
            raise ValueError(f"lam is {lam!r}; it must be a positive, finite number")
        if not 0.0 <= check_number("sd", sd) < np.inf:
            raise ValueError(f"sd is {sd!r}; it must be a finite number, not negative")
        rng = instance_generator(instance_seed)
        self.type_means = rng.normal(0.0, 0.5, (types, d))
        """[types, d] mean log-qualities of the types of impression, which are equally likely."""
        drawn = rng.dirichlet(np.full(d, 10.0)) * 0.9
        self.sd = float(sd)
        problem = EntropyMatch(reward_bound=QUALITY_BOUND + lam * largest_entropy(d), d=d, lam=float(lam))
        super().__init__(problem, horizon, drawn if rho is None else rho, stop_when_empty=stop_when_empty,
                         backend=backend, **stream)  # fmt: skip
        self._type_means = self.backend.asarray(self.type_means, dtype=self.backend.float_dtype)

    def request_noise(self, rng: Random, n: int) -> Noise:
        """See :class:`AllocationDynamics`."""
        return {"type": rng.uniform(n), "error": rng.normal(n, self.problem.num_resources)}

    def draw_requests(self, noise: Noise) -> Array:
        """See :class:`AllocationDynamics`."""
        xp = self.xp
        kind = xp.astype(noise["type"] * len(self._type_means), xp.int64).clip(max=len(self._type_means) - 1)
        return xp.exp(self._type_means[kind] + self.sd * noise["error"]).clip(max=QUALITY_BOUND)
