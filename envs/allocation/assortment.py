"""Assortments under the multinomial logit model: which products to show a customer, while stocks last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Unpack

from prefrl.envs.core.backend import Array, Backend, Noise, Random
from prefrl.envs.core.checks import check_count

from .dynamics import AllocationDynamics
from .online_knapsack import instance_generator
from .problems import AssortmentOffer
from .request_streams import StreamArgs

ATTRACTION_BOUND = 20.0
"""Attractions above are cut."""


class AssortmentMNLDynamics(AllocationDynamics):
    """Show each customer a selection of products with limited stocks; the customer buys one or none.

    ## Description
    A customer belongs to one of some segments. Of the products shown the customer buys j with probability
    v_j / (1 + sum v), the multinomial logit model, where v are the segment's attractions: exp(N(0, 1)), drawn
    once, as are the prices, uniform in [1/2, 1].

    ## Action Space
    `MultiBinary(d)`: 1 for the products that are shown.

    ## Observation Space
    `Dict`: `request` (2 d), prices and then the customer's attractions; `remaining` (d) and `time` (1), the
    shares of each stock that is left and of the customers gone.

    ## Rewards
    The price of what is bought. Products out of stock are not shown, whatever the action says; then
    `info["rejected"]` is True.

    ## Starting State
    All stocks are whole: rho_j T pieces (parts of a piece cannot be sold).

    ## Episode End
    Terminates after T customers; with `stop_when_empty`, as soon as everything is sold.

    ## Arguments
    `horizon` (int, 1000): T. `d` (int, 5): products. `rho` (float or list of d, 0.17): stock per customer.
    `segments` (int, 4). `instance_seed` (int, 0): draws prices and attractions. `stop_when_empty` (bool,
    False); `input_model` and what goes with it, `requests` (columns `price_j`, `attraction_j` and `choice`,
    the number in [0, 1) that decides), `render_mode`: see `prefrl/MultiSecretary-v0`.

    ## Ground truth
    `requests()`, `hindsight_optimum()` (the segments of all customers known, their choices not: the linear
    program over assortments, by its dual) and `fluid_optimum()`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        horizon: int | None = None,
        d: int = 5,
        rho: float | Sequence[float] = 0.17,
        segments: int = 4,
        instance_seed: int = 0,
        *,
        stop_when_empty: bool = False,
        backend: Backend | None = None,
        **stream: Unpack[StreamArgs],
    ) -> None:
        d, segments = check_count("d", d), check_count("segments", segments)
        rng = instance_generator(instance_seed)
        self.prices = rng.uniform(0.5, 1.0, d)
        """[d] prices."""
        self.attractions = np.exp(rng.normal(0.0, 1.0, (segments, d))).clip(max=ATTRACTION_BOUND)
        """[segments, d] attractions of the products to the segments, which are equally likely."""
        problem = AssortmentOffer(reward_bound=1.0, d=d, attraction_bound=ATTRACTION_BOUND)
        super().__init__(problem, horizon, rho, stop_when_empty=stop_when_empty, backend=backend, **stream)
        self._prices = self.backend.asarray(self.prices, dtype=self.backend.float_dtype)
        self._attractions = self.backend.asarray(self.attractions, dtype=self.backend.float_dtype)

    def request_noise(self, rng: Random, n: int) -> Noise:
        """See :class:`AllocationDynamics`."""
        return {"segment": rng.uniform(n), "choice": rng.uniform(n)}

    def draw_requests(self, noise: Noise) -> Array:
        """See :class:`AllocationDynamics`."""
        xp, segments = self.xp, len(self._attractions)
        segment = xp.astype(noise["segment"] * segments, xp.int64).clip(max=segments - 1)
        attractions = self._attractions[segment]
        prices = xp.broadcast_to(self._prices, tuple(attractions.shape))
        return xp.concat([prices, attractions, noise["choice"][:, None]], axis=1)
