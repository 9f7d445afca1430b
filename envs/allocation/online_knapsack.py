"""Online knapsacks: serve a request with one of d products or not, out of m budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import Unpack

from prefrl.envs.core.backend import Array, Backend, Noise, Random
from prefrl.envs.core.checks import check_count, check_number

from .dynamics import DEFAULT_HORIZON, AllocationDynamics
from .problems import SingleChoice
from .request_streams import StreamArgs


class MultiSecretaryDynamics(AllocationDynamics):
    """Hire from a stream of candidates, each to be taken or left at once.

    ## Description
    T candidates come one after the other, of ability uniform in [0, 1]; there are rho T places. The
    multi-secretary problem with a known distribution (Arlotto and Gurvich 2019), as an instance of online
    allocation with one resource (Balseiro, Lu and Mirrokni 2023).

    ## Action Space
    `Discrete(2)`: 0 leaves the candidate, 1 takes the candidate.

    ## Observation Space
    `Dict`: `request` (2), ability and the place it takes, always 1; `remaining` (1), the share of the places
    that is left; `time` (1), the share of the candidates that are gone. All float32 in [0, 1].

    ## Rewards
    The ability of a candidate that is taken. Where no place is left the action becomes 0, and
    `info["rejected"]` is True.

    ## Starting State
    All places are free.

    ## Episode End
    Terminates after T candidates; with `stop_when_empty`, as soon as all places are taken.

    ## Arguments
    `horizon` (int, 1000): T. `rho` (float, 0.5): places per candidate. `stop_when_empty` (bool, False).
    `input_model` ("iid", "periodic", "ergodic", "corrupted" or "drift"), `period` (int, 20), `persistence`
    (float, 0.9), `corrupted_rounds` (int or None, the square root of T), `drift_start` (float, 0.5): see
    `prefrl.envs.allocation.request_streams.RequestStream`.
    `requests`: a .csv or .npz file, or an array, of columns
    `reward_0` and `consumption_0_0`, to be replayed. `render_mode`.

    ## Ground truth
    `requests()`, `hindsight_optimum()` and `fluid_optimum()`, after `env.unwrapped`. The fluid optimum is
    (1 - (1 - rho)^2) / 2 per candidate at the price 1 - rho: 0.375 and 0.5 at rho 0.5.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        horizon: int | None = None,
        rho: float = 0.5,
        *,
        stop_when_empty: bool = False,
        backend: Backend | None = None,
        **stream: Unpack[StreamArgs],
    ) -> None:
        problem = SingleChoice(reward_bound=1.0, m=1, d=1, smallest_consumption=1.0)
        super().__init__(problem, horizon, rho, stop_when_empty=stop_when_empty, backend=backend, **stream)

    def request_noise(self, rng: Random, n: int) -> Noise:
        """See :class:`AllocationDynamics`."""
        return {"ability": rng.uniform(n)}

    def draw_requests(self, noise: Noise) -> Array:
        """See :class:`AllocationDynamics`."""
        return self.xp.stack([noise["ability"], self.xp.ones_like(noise["ability"])], axis=1)

    def known_fluid(self, rho: Array) -> tuple[Array, Array] | None:
        """See :class:`AllocationDynamics`: take the best share rho, those above 1 - rho."""
        mu = (1.0 - rho).clip(min=0.0)
        return 0.5 * (1.0 - mu[..., 0] ** 2), mu


class NetworkRevenueDynamics(AllocationDynamics):
    """Sell products made of shared resources: the random online linear program.

    ## Description
    Each request offers d products; a product needs some of m resources, a unit of each, and pays. The
    distribution is that of the numerical experiments of Balseiro, Lu and Mirrokni (2023): resource i is
    needed with probability p_i = (1 + Beta(3, 1)) / 2, and a product pays what its resources are worth, sum_i
    theta_i with theta = |N(0, I)| on the unit sphere, plus a normal error, cut to [0, 10].

    ## Action Space
    `Discrete(d + 1)`: 0 serves nobody, j + 1 sells product j.

    ## Observation Space
    `Dict`: `request` (d + m d), what the products pay and then what they need, resource by resource;
    `remaining` (m), the share of each budget that is left; `time` (1), the share of the requests gone.

    ## Rewards
    What the product sold pays. Where a resource does not suffice the action becomes 0, and
    `info["rejected"]` is True.

    ## Starting State
    All budgets are whole.

    ## Episode End
    Terminates after T requests; with `stop_when_empty`, as soon as less than a unit is left of every
    resource.

    ## Arguments
    `horizon` (int, 1000): T. `m` (int, 5): resources. `d` (int, 5): products. `rho` (float or list of m,
    None): budgets per request; None draws them as U(1/4, 3/4) p_i. `sd` (float, 1): standard deviation of the
    error. `instance_seed` (int, 0): draws p, theta and rho. `stop_when_empty` (bool, False); `input_model`
    and what goes with it, `requests` (columns `reward_j` and `consumption_i_j`), `render_mode`: see
    `prefrl/MultiSecretary-v0`.

    ## Ground truth
    `requests()`, `hindsight_optimum()` (a linear program, by HiGHS) and `fluid_optimum()` (over a sample).

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        horizon: int | None = None,
        m: int = 5,
        d: int = 5,
        rho: float | Sequence[float] | None = None,
        sd: float = 1.0,
        instance_seed: int = 0,
        *,
        stop_when_empty: bool = False,
        backend: Backend | None = None,
        **stream: Unpack[StreamArgs],
    ) -> None:
        m, d = check_count("m", m), check_count("d", d)
        if not 0.0 <= check_number("sd", sd) < np.inf:
            raise ValueError(f"sd is {sd!r}; it must be a finite number, not negative")
        rng = instance_generator(instance_seed)
        self.p = (1.0 + rng.beta(3.0, 1.0, m)) / 2.0
        """[m] probability that a product needs each resource."""
        theta = np.abs(rng.standard_normal(m))
        self.theta = theta / np.linalg.norm(theta)
        """[m] what a resource is worth on average."""
        drawn = rng.uniform(0.25, 0.75, m) * self.p
        self.sd = float(sd)
        problem = SingleChoice(reward_bound=10.0, m=m, d=d, smallest_consumption=1.0)
        super().__init__(problem, horizon, drawn if rho is None else rho, stop_when_empty=stop_when_empty,
                         backend=backend, **stream)  # fmt: skip
        asarray, dtype = self.backend.asarray, self.backend.float_dtype
        self._p, self._theta = asarray(self.p, dtype=dtype), asarray(self.theta, dtype=dtype)

    def request_noise(self, rng: Random, n: int) -> Noise:
        """See :class:`AllocationDynamics`."""
        m, d = self.problem.num_resources, len(self.problem.columns) // (self.problem.num_resources + 1)
        return {"needed": rng.uniform(n, m, d), "revenue": rng.normal(n, d)}

    def draw_requests(self, noise: Noise) -> Array:
        """See :class:`AllocationDynamics`."""
        xp = self.xp
        consumption = xp.astype(noise["needed"] < self._p[:, None], self.backend.float_dtype)
        value = (consumption * self._theta[:, None]).sum(1)
        revenue = (value + self.sd * noise["revenue"]).clip(0.0, self.problem.reward_bound)
        return xp.concat([revenue, consumption.reshape((len(revenue), -1))], axis=1)


def instance_generator(seed: Any) -> np.random.Generator:
    """Return what an instance is drawn from; ValueError unless the seed is a whole number, not negative.

    Its numbers are unrelated to those of requests with the same seed.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"instance_seed is {seed!r}; it must be a whole number, not negative")
    return np.random.default_rng([int(seed), 1])


class AdversarialKnapsackDynamics(MultiSecretaryDynamics):
    """Poor requests first, rich ones when a careless policy has spent its budget.

    ## Description
    One resource, a unit per request, budget T / alpha. The first (1 - 1 / alpha) T requests pay eps, the rest
    pay 1. The best in hindsight waits for these: T / alpha. Who does not know the future must spend some of
    the budget early, in case the poor requests go on: no policy is better than alpha-competitive in general
    (Balseiro, Lu and Mirrokni 2023, section 4), and on these inputs dual mirror descent reaches
    1 / (1 / alpha + (1 - 1 / alpha) eps).

    ## Action Space
    `Discrete(2)`: 0 leaves the request, 1 serves it.

    ## Observation Space
    `Dict`: `request` (2), what it pays and the unit it takes; `remaining` (1) and `time` (1), the shares of
    the budget that is left and of the requests gone.

    ## Rewards
    What the request pays, where it is served. Where the budget is spent the action becomes 0, and
    `info["rejected"]` is True.

    ## Starting State
    The budget is whole. Nothing is random.

    ## Episode End
    Terminates after T requests; with `stop_when_empty`, as soon as less than a unit is left.

    ## Arguments
    `horizon` (int, 1000): T. `alpha` (float, 2): at least 1, the budget per request is 1 / alpha. `eps`
    (float, 0.02): what poor requests pay, in (0, 1]. `stop_when_empty` (bool, False). `render_mode`.

    ## Ground truth
    `requests()`, `hindsight_optimum()` and `fluid_optimum()`, after `env.unwrapped`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self,
        horizon: int | None = None,
        alpha: float = 2.0,
        eps: float = 0.02,
        *,
        stop_when_empty: bool = False,
        backend: Backend | None = None,
    ) -> None:
        if not 1.0 <= check_number("alpha", alpha) < np.inf:
            raise ValueError(f"alpha is {alpha!r}; it must be a finite number of at least 1")
        if not 0.0 < check_number("eps", eps) <= 1.0:
            raise ValueError(f"eps is {eps!r}; it must lie in (0, 1]")
        steps = check_count("horizon", DEFAULT_HORIZON if horizon is None else horizon)
        rewards = np.full(steps, float(eps))
        rewards[steps - round(steps / alpha) :] = 1.0
        super().__init__(
            steps,
            1.0 / alpha,
            requests=np.stack([rewards, np.ones(steps)], axis=1),
            stop_when_empty=stop_when_empty,
            backend=backend,
        )
