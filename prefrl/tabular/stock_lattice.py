"""The totals that a finite horizon can reach, and the finite-horizon problem itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefrl.envs.finite_horizon.tabular import HorizonModel

from .mdp import TabularMDP
from .solvers import check_gamma

RESOLUTION = 1e-9
"""Totals nearer to each other than this share of the largest are one: sums of rewards are rounded."""

MAX_POINTS = 2**22
"""Largest number of totals of one time; more ask for a stock grid."""


class TooManyTotalsError(ValueError):
    """A problem whose totals cannot all be listed."""


def check_finite(name: str, table: Tensor) -> None:
    """Raise ValueError unless a table is of finite float64 numbers."""
    if table.dtype != torch.float64 or not bool(torch.isfinite(table).all()):
        raise ValueError(f"{name} must be finite numbers of dtype torch.float64")


def check_rewards(mdp: TabularMDP, rewards: Tensor) -> None:
    """Raise ValueError unless rewards are finite float64 [M, S, A, K] or [M, S, A, K, k], beside the MDPs."""
    shape = tuple(mdp.successors.shape)
    if tuple(rewards.shape[:4]) != shape or rewards.ndim > 5:
        raise ValueError(f"rewards has shape {tuple(rewards.shape)}; it must be {shape} or that and k")
    if rewards.device != mdp.device:
        raise ValueError(
            f"rewards are on {rewards.device} and the MDPs on {mdp.device}; they must be together"
        )
    check_finite("rewards", rewards)


@dataclass(frozen=True)
class FiniteHorizon:
    """M finite MDPs for so many steps, with rewards that are numbers or vectors.

    Raises:
        ValueError: if the tensors contradict each other, or a number is out of range.
    """

    mdp: TabularMDP
    """The MDPs; episodes end at their terminal states, or after ``horizon`` steps."""

    rewards: Tensor
    """[M, S, A, K] rewards of transitions, or [M, S, A, K, k] vectors, float64."""

    horizon: int
    """H, at least 1."""

    gamma: float = 1.0
    """Discount."""

    final_rewards: Tensor | None = None
    """[M, S] or [M, S, k]: paid with the last reward to an episode that goes on until the horizon."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if self.gamma == 0.0:
            raise ValueError("gamma is 0.0; a stock, which is divided by it, needs more")
        if self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}; it must be at least 1")
        check_rewards(self.mdp, self.rewards)
        shape = tuple(self.mdp.successors.shape)
        expected = (*shape[:2], *self.rewards.shape[4:])
        if self.final_rewards is not None and tuple(self.final_rewards.shape) != expected:
            raise ValueError(f"final_rewards has shape {tuple(self.final_rewards.shape)}; it must be "
                             f"{expected}")  # fmt: skip
        if self.final_rewards is not None:
            check_finite("final_rewards", self.final_rewards)

    @classmethod
    def of_model(
        cls,
        world: HorizonModel,
        *,
        vector: bool = False,
        horizon: int | None = None,
        gamma: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> FiniteHorizon:
        """Return the problem of an environment's ``horizon_model()``.

        Args:
            world: the model.
            vector: rewards are the features themselves, not their weighted sum.
            horizon: H; None: the model's own.
            gamma: discount.
            device: where the tensors live.
        """
        mdp = TabularMDP.stack([world.model], device)
        final = torch.as_tensor(world.final_features, device=device)[None]
        rewards = mdp.features
        if not vector:
            rewards, final = rewards @ mdp.weights[0], final @ mdp.weights[0]
        return cls(mdp, rewards, world.horizon if horizon is None else horizon, gamma,
                   final if bool(final.any()) else None)  # fmt: skip

    @property
    def dim(self) -> int:
        """Components of a reward; 0 for numbers."""
        return self.rewards.shape[4] if self.rewards.ndim == 5 else 0


def merged(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ones of numbers [n] or vectors [n, k], rising, and where each one went, [n].

    Values nearer than :data:`RESOLUTION` times the largest count as the same one.
    """
    scale = RESOLUTION * values.abs().amax().clamp(min=1.0)
    keys = torch.round(values / scale).to(torch.int64)
    dim = 0 if values.ndim > 1 else None  # for numbers the form without it is several times as fast
    _, place = torch.unique(keys, return_inverse=True, dim=dim)
    return values[first_places(place)], place  # the first of each: the same whenever it is done again


def first_places(group: Tensor) -> Tensor:
    """Return where each group 0, 1, ... first stands in [n] numbers of groups."""
    first = torch.full((int(group.max()) + 1,), len(group), dtype=torch.int64, device=group.device)
    return first.scatter_reduce_(0, group, torch.arange(len(group), device=group.device), "amin")


class StockLattice:
    """All totals x_t = gamma^t c_t that can be reached at each time, in some state, whatever the policy.

    In these coordinates c' = (c + r) / gamma is x' = x + gamma^t r: nothing is divided, and the total at the
    end is c_0 + G itself. Totals are listed for all states together; one that is reached in some states only
    has places to go for those.

    Args:
        problem: the MDPs.
        initial_stocks: [C_0] stocks to start from, or [C_0, k].
        from_start: list what is reached from the MDPs' own starts only, instead of from all states.
        max_points: largest number of totals of one time.

    Raises:
        ValueError: for stocks of another dimension.
        TooManyTotalsError: if there are more.

    Attributes:
        points: for t = 0 .. H the totals [C_t] or [C_t, k], then those after the final rewards.
        moves: for t = 0 .. H, [C_t, R], where each reward leads: a place in ``points[t + 1]``.
        place_of: [M, S, A, K] which of the R rewards a transition pays.
        final_place_of: [M, S] which of the final rewards a state pays.
        initial: [number of given stocks] their places in ``points[0]``.
        reached: for t = 0 .. H - 1, bool [M, S, C_t], in which states a total is reached; what ``moves`` says
            of other pairs means nothing.
        still: [2] which reward is 0, of a step and at the end.
    """

    def __init__(
        self,
        problem: FiniteHorizon,
        initial_stocks: Tensor,
        *,
        from_start: bool = False,
        max_points: int = MAX_POINTS,
    ) -> None:
        rewards, mdp, dim = problem.rewards, problem.mdp, problem.dim
        stocks = initial_stocks.to(rewards)
        if stocks.ndim != 1 + bool(dim) or (dim and stocks.shape[1] != dim) or not stocks.shape[0]:
            wanted = f"[C, {dim}]" if dim else "[C]"
            raise ValueError(f"initial_stocks has shape {tuple(stocks.shape)}; it must be {wanted}")
        happens = (mdp.probabilities > 0.0) & ~mdp.terminal[:, :, None, None]
        paid = rewards * (happens[..., None] if dim else happens)  # what cannot happen pays nothing
        zero = rewards.new_zeros((1, *rewards.shape[4:]))  # a terminal state pays nothing
        distinct, place = merged(torch.cat([zero, paid.flatten(0, 3)]))
        if not bool((~happens).any()):  # no zero needed, but where it is there already
            distinct, place = merged(paid.flatten(0, 3))
            place = torch.cat([place[:1], place])
        self.still = [int(place[0]), 0]
        self.place_of = place[1:].view(mdp.successors.shape)
        self.points: list[Tensor] = []
        self.moves: list[Tensor] = []
        self.reached: list[Tensor] = []
        points, self.initial = merged(stocks)
        alive = mdp.start > 0.0 if from_start else torch.ones_like(mdp.terminal)
        reached = alive.view(-1, 1).expand(-1, points.shape[0])  # [M S, C_t]
        next_states, paid_at, happens = self._transitions(problem)
        factor = 1.0
        for t in range(problem.horizon):
            self._check_size(t, points.shape[0] * distinct.shape[0], max_points)
            after, move = merged((points[:, None] + factor * distinct).flatten(0, 1))
            self._check_size(t, after.shape[0], max_points)
            move = move.view(points.shape[0], -1)
            target = next_states[..., None] * after.shape[0] + move.T[paid_at]  # [M S, A K, C_t]
            goes = (reached[:, None] & happens[..., None]).flatten()
            found = torch.zeros(reached.shape[0] * after.shape[0], dtype=torch.bool, device=goes.device)
            found[target.flatten()[goes]] = True
            found = found.view(reached.shape[0], -1)
            kept = found.any(0)
            self.reached.append(reached.view(*mdp.terminal.shape, -1))
            self.points.append(points)
            self.moves.append((kept.cumsum(0) - 1).clamp(min=0)[move])
            points, reached, factor = after[kept], found[:, kept], factor * problem.gamma
        self.points.append(points)
        final = problem.final_rewards
        paid = zero.expand(mdp.terminal.numel(), *zero.shape[1:]) if final is None else final.flatten(0, 1)
        paid = torch.where(mdp.terminal.view(-1, *[1] * (paid.ndim - 1)), 0.0, paid)
        distinct, place = merged(torch.cat([zero, paid]))
        self.still[1] = int(place[0])
        self.final_place_of = place[1:].view(mdp.terminal.shape)
        # With gamma^(H-1), since it is paid together with the last reward.
        last = problem.gamma ** (problem.horizon - 1)
        after, move = merged((points[:, None] + last * distinct).flatten(0, 1))
        move = move.view(points.shape[0], -1)
        kept = torch.zeros(after.shape[0], dtype=torch.bool, device=move.device)
        kept[move.T[place[1:]][reached]] = True
        self.moves.append((kept.cumsum(0) - 1).clamp(min=0)[move])
        self.points.append(after[kept])

    def _transitions(self, problem: FiniteHorizon) -> tuple[Tensor, Tensor, Tensor]:
        """Return next states, which reward is paid, and whether it happens, all [M S, A K]."""
        mdp, (m, s, a, k) = problem.mdp, problem.mdp.successors.shape
        ended = mdp.terminal[:, :, None, None]
        states = torch.arange(s, device=mdp.device)[:, None, None]
        offset = (torch.arange(m, device=mdp.device) * s)[:, None, None, None]
        next_states = torch.where(ended, states, mdp.successors) + offset
        paid = torch.where(ended, self.still[0], self.place_of)
        return tuple(part.reshape(m * s, a * k) for part in (next_states, paid, mdp.probabilities > 0.0))  # type: ignore[return-value]

    @staticmethod
    def _check_size(t: int, size: int, max_points: int) -> None:
        if size > max_points:
            raise TooManyTotalsError(
                f"by time {t + 1} there are {size} totals, more than max_points {max_points}: rewards have "
                "few common multiples; round them, shorten the horizon, or start from fewer stocks"
            )

    @property
    def outcomes(self) -> Tensor:
        """[Z] or [Z, k] totals at the end, c_0 + G."""
        return self.points[-1]
