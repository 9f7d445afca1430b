"""Distributional dynamic programming with stock augmentation, exact, for finite horizons.

    greedy action at time t in (s, c):  argmax_a K(distribution of gamma (C' + G(S', C'))),    C' = (c + R') /
    gamma

by backward induction over all states and all stocks that can be reached (Avila Pires et al. 2025, arXiv
2501.13028; the mathematics was derived anew, see ``prefrl/functional/returns/objectives.py`` for which K this
optimises and ``prefrl/tabular/return_distributions.py`` for the computation). Where the objective leaves
the initial stock open, as CVaR does, the best one is searched for among all that can be:

    max_pi CVaR_tau(G) = max_{c_0} h(c_0),        h(c_0) = E min(c_0 + G, 0) / tau - c_0

Nothing is stepped: the environment tells its model, and one timestep is one stage, the policy of one time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.config import Bounds, PositiveShare
from prefrl.data import Transitions
from prefrl.envs.finite_horizon.tabular import HorizonModel
from prefrl.functional.returns.objectives import Objective
from prefrl.functional.returns.stock_problems import ObjectiveSettings, StockProblem
from prefrl.tabular.blind_policies import return_to_go_policy
from prefrl.tabular.return_distributions import (
    MAX_DISTANCES,
    BackwardInduction,
    Solution,
    StockPolicy,
    candidate_stocks,
    mean_objective,
    policy_value,
    solution_of,
)
from prefrl.tabular.stock_lattice import FiniteHorizon


@dataclass(frozen=True)
class DistributionalDPConfig(ObjectiveSettings):
    """Settings of :class:`DistributionalDP`."""

    gamma: PositiveShare = 1.0
    """Discount per step, in (0, 1]."""

    tie_break: Literal["mean", "first"] = "mean"
    """What decides between equally good actions: the mean of the return, or their order."""

    stock_low: float | None = None
    """Search the initial stock on a grid from here; default: among all that can be the best."""

    stock_high: float | None = None
    """End of that grid."""

    stock_points: Annotated[int, Bounds(low=2)] = 201
    """Points of that grid."""

    max_points: Annotated[int, Bounds(low=2)] = 2**22
    """Largest number of totals, of one time, to go through."""

    def check(self) -> None:
        """Refuse half a grid of stocks, and one that does not rise."""
        super().check()
        ends = (self.stock_low, self.stock_high)
        if (ends[0] is None) != (ends[1] is None):
            raise ValueError(f"stock_low is {ends[0]} and stock_high {ends[1]}; give both or neither")
        if ends[0] is not None and ends[1] is not None and not ends[0] < ends[1]:
            raise ValueError(f"stock_low is {ends[0]} and stock_high {ends[1]}; they must rise")


class DistributionalDP(Agent):
    """Exact optimisation of a return distribution; see the module's text.

    Args:
        env: an environment that offers ``horizon_model()``, with its stock
            (:class:`prefrl.envs.StockAugmentation`), or :class:`prefrl.agents.base.Spaces` to load an agent
            that only acts.
        config: settings.
        device: torch device, or "auto".
        seed: not used; nothing here is random.

    Raises:
        ValueError: if the environment has no stock or no model, or its stock is another one than the settings
            ask for.
        UnsoundObjectiveError: if dynamic programming does not optimise the objective.
        TooManyTotalsError: if more totals can be reached than the settings allow.

    Attributes:
        solution: what was found, once all stages are done.
    """

    config_class: ClassVar[type[DistributionalDPConfig]] = DistributionalDPConfig
    steps_env = False

    def __init__(
        self,
        env: Any,
        config: DistributionalDPConfig | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or DistributionalDPConfig(), device=device, seed=seed)
        size = stock_size(self.observation_space)
        self.solution: Solution | None = None
        self.problem: FiniteHorizon | None = None
        self._induction: BackwardInduction | None = None
        self._table: _Table | None = None
        self._loaded: dict[str, Any] = {}
        if isinstance(env, Spaces):
            return
        inner = env.unwrapped
        if not hasattr(inner, "horizon_model"):
            raise ValueError(f"{inner} offers no horizon_model(), which exact solutions need")
        check_stock_rule(env, self.config.gamma, frozen=False, vector=self.config.takes_vectors)
        world: HorizonModel = inner.horizon_model()
        vector = self.config.takes_vectors
        self.problem = FiniteHorizon.of_model(
            world, vector=vector, gamma=self.config.gamma, device=self.device
        )
        if size != max(1, self.problem.dim):
            raise ValueError(f"the stock has {size} components; {self.config.objective} takes "
                             f"{max(1, self.problem.dim)}")  # fmt: skip
        self.wanted: StockProblem = self.config.problem(self.problem.dim)
        self._stocks = self._initial_stocks(getattr(inner, "initial_stock", None))
        self._induction = BackwardInduction(
            self.problem,
            self.wanted.objective,
            self._stocks,
            time_indexed=self.wanted.time_indexed,
            tie_break=mean_objective(self.problem) if self.config.tie_break == "mean" else None,
            max_points=self.config.max_points,
        )
        self._coordinates = torch.as_tensor(inner.observations(0)[:, :-1], device=self.device)

    def _initial_stocks(self, own: tuple[float, ...] | None) -> Tensor:
        """Return the initial stocks [C] or [C, k] to start from."""
        assert self.problem is not None
        config, place = self.config, self.problem.rewards
        if self.wanted.searched:
            if config.stock_low is None or config.stock_high is None:
                return candidate_stocks(self.problem, self.wanted, max_points=config.max_points)
            return torch.linspace(config.stock_low, config.stock_high, config.stock_points, dtype=place.dtype,
                                  device=place.device)  # fmt: skip
        if config.stock_low is not None:
            raise ValueError(f"stock_low is {config.stock_low}; {config.objective} does not search the "
                             "initial stock")  # fmt: skip
        stock = own if self.wanted.initial_stock is None else self.wanted.initial_stock
        if stock is None:
            raise ValueError(f"initial_stock is missing; {config.objective} needs one in this environment")
        return place.new_tensor([stock]) if self.problem.dim else place.new_tensor(stock)

    @property
    def stages_left(self) -> int:
        """Stages until the start is reached."""
        return 0 if self._induction is None else self._induction.time

    def update(self) -> dict[str, Tensor]:
        """Do one stage; see :meth:`Agent.update`. When the start is reached, the solution is there."""
        if self._induction is None:
            raise ValueError("this agent was loaded without an environment; it can act, but not learn")
        self.num_timesteps += 1
        metrics = {}
        if self._induction.time > 0:
            self._induction.stage()
            totals = float(self._induction.rows.shape[2])
            metrics["dp/totals"] = torch.full((), totals, device=self.device)
        if self._induction.time == 0 and self.solution is None:
            self._conclude()
        if self.solution is not None:
            metrics["train/objective"] = torch.full((), self.solution.value, device=self.device)
        return metrics

    def _conclude(self) -> None:
        assert self._induction is not None
        self.solution = solution_of(self._induction, self.wanted, self._stocks)
        self._table = _Table.of(self.state_dict(), self.device)

    def observe(self, transitions: Transitions) -> None:
        """Nothing is learned from steps."""

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return the best actions [n] for observations with stocks; always deterministic.

        Raises:
            ValueError: before all stages are done.
        """
        if self._table is None:
            raise ValueError(f"the policy is not there yet: {self.stages_left} stages are left")
        table, horizon = self._table, self._table.actions.shape[0]
        seen = obs["obs"].to(table.coordinates)
        states = torch.cdist(seen[:, :-1], table.coordinates).argmin(-1)
        times = torch.round(seen[:, -1] * horizon).to(torch.int64).clamp(0, horizon - 1)
        totals = obs["stock"].to(torch.float64) * self.config.gamma ** times[:, None]
        return table.act(times, states, totals)

    # What came of it -------------------------------------------------------------------------------------

    def risk_neutral_policy(self) -> StockPolicy:
        """Return the policy of the largest mean, which does not look at the stock."""
        assert self.problem is not None
        return self._blind(mean_objective(self.problem))

    def naive_policy(self) -> StockPolicy:
        """Return the policy that is greedy, at each time, on the objective of what is still to come."""
        assert self.problem is not None
        assert self.solution is not None
        return self._blind(self.wanted.criterion(self.solution.initial_stock))

    def _blind(self, objective: Objective) -> StockPolicy:
        assert self.problem is not None
        return return_to_go_policy(self.problem, objective, max_points=self.config.max_points)[0]

    def result(self) -> dict[str, Any]:
        """Return the objective's value, the initial stock, and the values of two other policies."""
        if self.solution is None:
            return {}
        criterion = self.wanted.criterion(self.solution.initial_stock)
        stock = self.solution.initial_stock
        return {
            "objective_value": self.solution.value,
            "initial_stock": stock[0] if len(stock) == 1 else list(stock),
            "risk_neutral_value": policy_value(self.risk_neutral_policy(), criterion),
            "naive_value": policy_value(self.naive_policy(), criterion),
        }

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        if self._induction is None:
            return dict(self._loaded)
        return {
            "time": self._induction.time,
            "rows": self._induction.rows,
            "actions": [table.to(torch.int16) for table in self._induction.actions],
            "points": list(self._induction.lattice.points),
            "reached": list(self._induction.lattice.reached),
            "coordinates": self._coordinates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; ValueError for the state of another problem."""
        induction, time = self._induction, int(state["time"])
        if induction is None:
            if time:
                raise ValueError(f"{time} stages are left to do; give env to go on")
            self._loaded = dict(state)
            self._table = _Table.of(state, self.device)
            return
        ours, theirs = induction.lattice.points, state["points"]
        if len(ours) != len(theirs) or not all(
            torch.equal(a, b.to(a)) for a, b in zip(ours, theirs, strict=True)
        ):
            raise ValueError("it holds the policy of another problem: the totals that can be reached differ")
        induction.time = time
        induction.rows = state["rows"].to(self.device)
        induction.actions = [table.to(self.device, torch.int64) for table in state["actions"]]
        if time == 0:
            self._conclude()


@dataclass(frozen=True)
class _Table:
    """What acting takes: one table over time, state and total."""

    points: Tensor
    """[H, C, k] totals gamma^t c, the last one repeated where a time has fewer."""

    actions: Tensor
    """[H, S, C]."""

    coordinates: Tensor
    """[S, d] what is observed of the states."""

    reached: Tensor
    """[H, S, C] bool: which totals are reached in which state; only these have an action."""

    def act(self, times: Tensor, states: Tensor, totals: Tensor) -> Tensor:
        """Return the actions [n] of the reached totals that are nearest to totals [n, k]."""
        rows = max(1, MAX_DISTANCES // self.points[0].numel())
        found = []
        for t, s, x in zip(*(torch.split(part, rows) for part in (times, states, totals)), strict=True):
            distances = torch.cdist(x[:, None], self.points[t])[:, 0]
            found.append(torch.where(self.reached[t, s], distances, torch.inf).argmin(-1))
        return self.actions[times, states, torch.cat(found)].to(torch.int64)

    @classmethod
    def of(cls, state: Mapping[str, Any], device: torch.device) -> _Table:
        """Make the table of an agent's state."""
        actions, points = state["actions"], state["points"][: len(state["actions"])]
        most = max(len(part) for part in points)
        padded = [
            torch.cat([part, part[-1:].expand(most - len(part), *part.shape[1:])]).view(most, -1)
            for part in points
        ]
        tables, reached = (
            torch.stack([F.pad(part[0], (0, most - part.shape[2])) for part in parts]).to(device)
            for parts in (actions, state["reached"])
        )
        return cls(torch.stack(padded).to(device), tables, state["coordinates"].to(device), reached)


def stock_size(space: gym.Space[Any]) -> int:
    """Return the components of the stock in observations; ValueError where there is none."""
    if not isinstance(space, gym.spaces.Dict) or set(space) != {"obs", "stock"}:
        raise ValueError(f"observation_space is {space}; this agent takes a Dict of 'obs' and 'stock': wrap "
                         "the environment in prefrl.envs.StockAugmentation")  # fmt: skip
    stock = space["stock"]
    assert stock.shape is not None
    return int(stock.shape[0])


def check_stock_rule(env: Any, gamma: float, *, frozen: bool, vector: bool) -> None:
    """Raise ValueError if an environment's stock moves, as far as one can see, by other rules."""
    while env is not None and not hasattr(env, "rule"):
        env = getattr(env, "env", None)
    if env is None:
        return
    if env.rule.gamma != gamma:
        raise ValueError(f"gamma is {gamma}; the environment's stock has gamma {env.rule.gamma}")
    if (env.rule.reward_key is not None) != vector:
        wanted = "the name of an info that holds vector rewards" if vector else "None"
        raise ValueError(
            f"the environment's stock has reward_key={env.rule.reward_key!r}; the agent takes {wanted}"
        )
    if env.rule.frozen != frozen:
        raise ValueError(f"the environment's stock has frozen={env.rule.frozen}; the agent takes {frozen}")
