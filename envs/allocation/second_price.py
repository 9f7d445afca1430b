"""Bidding in repeated second-price auctions out of one budget."""

from __future__ import annotations

from typing_extensions import Unpack

from prefrl.envs.core.backend import Array, Backend, Noise, Random

from .dynamics import AllocationDynamics
from .problems import SecondPriceBid
from .request_streams import StreamArgs


class SecondPriceBudgetDynamics(AllocationDynamics):
    """Bid in T second-price auctions with a budget, never knowing the rival's bid beforehand.

    ## Description
    In every auction the own value v is seen and the highest rival bid is not; both are uniform in [0, 1]. A
    bid of at least the rival's wins and pays the rival's bid. The problem of adaptive pacing (Balseiro and
    Gur 2019, "Learning in repeated auctions with budgets"), an instance of online allocation with one
    resource.

    ## Action Space
    `Box(0, 1, (1,), float32)`: the bid.

    ## Observation Space
    `Dict`: `request` (1), the value; `remaining` (1) and `time` (1), the shares of the budget that is left
    and of the auctions gone. What was paid shows in `remaining` and in `info["consumption"]` after the
    auction; the bid of a rival who won is never shown.

    ## Rewards
    Value less payment where the bid wins. Where the budget does not cover the payment the auction is lost,
    and `info["rejected"]` is True.

    ## Starting State
    The budget is whole.

    ## Episode End
    Terminates after T auctions; with `stop_when_empty`, as soon as less than 1 is left, the most
    that an auction can cost.

    ## Arguments
    `horizon` (int, 1000): T. `rho` (float, 0.1): budget per auction. `stop_when_empty` (bool, False);
    `input_model` and what goes with it, `requests` (columns `value` and `rival_bid`), `render_mode`: see
    `prefrl/MultiSecretary-v0`.

    ## Ground truth
    `requests()` (with the rival's bids), `hindsight_optimum()` and `fluid_optimum()`: at the price
    mu = sqrt(1 / (6 rho)) - 1 a bid of v / (1 + mu) gains (1 / (1 + mu) - 1 / (2 (1 + mu)^2)) / 3 on average.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        horizon: int | None = None,
        rho: float = 0.1,
        *,
        stop_when_empty: bool = False,
        backend: Backend | None = None,
        **stream: Unpack[StreamArgs],
    ) -> None:
        problem = SecondPriceBid(reward_bound=1.0)
        super().__init__(problem, horizon, rho, stop_when_empty=stop_when_empty, backend=backend, **stream)

    def request_noise(self, rng: Random, n: int) -> Noise:
        """See :class:`AllocationDynamics`."""
        return {"value": rng.uniform(n), "rival_bid": rng.uniform(n)}

    def draw_requests(self, noise: Noise) -> Array:
        """See :class:`AllocationDynamics`."""
        return self.xp.stack([noise["value"], noise["rival_bid"]], axis=1)

    def known_fluid(self, rho: Array) -> tuple[Array, Array] | None:
        """See :class:`AllocationDynamics`: at the price mu the payment is 1 / (6 (1 + mu)^2) per auction."""
        mu = ((6.0 * rho.clip(min=1e-12)) ** -0.5 - 1.0).clip(min=0.0)
        shade = 1.0 + mu[..., 0]
        return (1.0 / shade - 0.5 / shade**2) / 3.0, mu
