"""Data sets of transitions, in the order in which they happened, to learn from without an environment."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.data.segments import Segments
from prefrl.reading.npy import DTYPES

STORED = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "has_next_action")
"""Arrays that a data set consists of; next actions are the next rows' actions."""

_FLAGS = ("terminations", "truncations", "has_next_action")


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class TransitionDataset:
    """N transitions on the CPU; those of an episode stand together, in the order in which they happened.

    Everything is checked when the data set is made. Observations must be finite and of their space's shape
    and dtype; that they lie within a Box's bounds is not asked, since environments are not strict about it.

    Raises:
        TypeError: if a field is no tensor, or a space is none.
        ValueError: naming the field, and the first row where it is wrong.
    """

    obs: Tensor
    """[N, ...] observations the actions were chosen at; int64 [N] of a Discrete space."""
    actions: Tensor
    """[N, ...] actions; int64 [N] of a Discrete space."""
    rewards: Tensor
    """[N] float32 rewards."""
    next_obs: Tensor
    """[N, ...] true successors: never the first observation of a new episode."""
    terminations: Tensor
    """[N] bool: the successor is terminal."""
    truncations: Tensor
    """[N] bool: the episode was cut here, though it could have gone on."""
    next_actions: Tensor
    """[N, ...] actions taken at the successors; the row's own action where there is none."""
    has_next_action: Tensor
    """[N] bool: the next row goes on from this one. False where an episode, or what is known of it, ends."""
    observation_space: gym.Space[Any]
    """Discrete or Box space of one observation."""
    action_space: gym.Space[Any]
    """Discrete or Box space of one action."""
    env_id: str | None = None
    """Gymnasium id of the environment, if known."""

    def __post_init__(self) -> None:
        self._check_kinds()
        _check_values("obs", self.obs, self.observation_space)
        _check_values("next_obs", self.next_obs, self.observation_space)
        _check_values("actions", self.actions, self.action_space, bounded=True)
        _check_values("next_actions", self.next_actions, self.action_space, bounded=True)
        _refuse("rewards", ~torch.isfinite(self.rewards), self.rewards, "they must be finite")
        self._check_order()

    @classmethod
    def from_transitions(
        cls,
        obs: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_obs: Tensor,
        terminations: Tensor,
        truncations: Tensor,
        *,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        env_id: str | None = None,
        ends: Tensor | None = None,
    ) -> TransitionDataset:
        """Return a data set of transitions in order, whose next actions are found in the next rows.

        Args:
            obs: [N, ...]; this and the rest as in the fields of the same names.
            actions: [N, ...].
            rewards: [N].
            next_obs: [N, ...].
            terminations: [N].
            truncations: [N].
            observation_space: space of one observation.
            action_space: space of one action.
            env_id: id of the environment, if known.
            ends: [N] bool, rows after which an episode's data stop though it neither terminated nor was
                truncated there (default: none but the last row).

        Raises:
            TypeError: as the class.
            ValueError: as the class.
        """
        for name, value in (("actions", actions), ("rewards", rewards), ("terminations", terminations)):
            _check_tensor(name, value)
        if ends is None:
            ends = torch.zeros_like(terminations)
        flags = {"terminations": terminations, "truncations": truncations, "ends": ends}
        for name, value in flags.items():
            _check_tensor(name, value)
            check_flags(name, value, _rows(rewards))
        going = ~(terminations | truncations | ends)
        going[-1:] = False
        return cls(
            obs=obs,
            actions=actions,
            rewards=rewards,
            next_obs=next_obs,
            terminations=terminations,
            truncations=truncations,
            next_actions=shifted_actions(actions, going),
            has_next_action=going,
            observation_space=observation_space,
            action_space=action_space,
            env_id=env_id,
        )

    def __len__(self) -> int:
        return self.rewards.shape[0]

    @property
    def num_episodes(self) -> int:
        """Episodes, those included whose end is not known."""
        return int((~self.has_next_action).sum())

    def check_matches(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        """Refuse spaces other than the data set's own.

        Raises:
            ValueError: naming both sides.
        """
        if (self.observation_space, self.action_space) != (observation_space, action_space):
            name = "" if self.env_id is None else f" ({self.env_id})"
            raise ValueError(
                f"a dataset from another environment{name}: it has observations {self.observation_space} and "
                f"actions {self.action_space}; here they are {observation_space} and {action_space}"
            )

    def returns(self, gamma: float) -> Tensor:
        """Return [N] float64: discounted sums of the rewards from each row to the end of its episode.

        An episode that was cut, or whose data stop, counts as far as it goes: nothing is put in for the rest.

        Args:
            gamma: discount per step, in [0, 1].

        Raises:
            ValueError: if ``gamma`` lies outside.
        """
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}; it must lie in [0, 1]")
        # A row is the map x -> reward + factor * x. Composing it with the map `reach` rows further on doubles
        # how far the sums reach; a factor is 0 where the episode ends before that.
        sums = self.rewards.to(torch.float64)
        factors = gamma * self.has_next_action.to(torch.float64)
        reach = 1
        while reach < len(self) and bool(factors.any()):
            further_sums, further_factors = torch.zeros_like(sums), torch.zeros_like(factors)
            further_sums[:-reach], further_factors[:-reach] = sums[reach:], factors[reach:]
            sums, factors = sums + factors * further_sums, factors * further_factors
            reach *= 2
        return sums

    def best_episodes(self, share: float) -> TransitionDataset:
        """Return the episodes of largest undiscounted return: this share of them, rounded up.

        Args:
            share: in (0, 1].

        Raises:
            ValueError: if ``share`` lies outside.
        """
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share is {share}; it must lie in (0, 1]")
        last = torch.nonzero(~self.has_next_action)[:, 0]
        episode = torch.searchsorted(last, torch.arange(len(self)))
        returns = torch.zeros(len(last), dtype=torch.float64).index_add_(0, episode, self.rewards.double())
        best = returns.argsort(descending=True, stable=True)[: math.ceil(len(last) * share)]
        return self._rows(torch.isin(episode, best))

    def _rows(self, chosen: Tensor) -> TransitionDataset:
        """Return whole episodes, given which rows [N] they are."""
        names = (*STORED, "next_actions")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def segment_starts(self, length: int) -> Tensor:
        """Return the rows [M] at which whole segments start: no cut, nor the end of the data, shortens them.

        A segment that a terminal state ends early is whole.

        Args:
            length: L, steps of a segment.

        Raises:
            ValueError: if ``length`` is below 1.
        """
        if length < 1:
            raise ValueError(f"length is {length}; it must be at least 1")
        rows, count = torch.arange(len(self)), len(self)
        ends = torch.where(self.has_next_action, count, rows).flip(0).cummin(0).values.flip(0)
        return rows[(ends - rows >= length - 1) | self.terminations[ends]]

    def segments(self, starts: Tensor, length: int) -> tuple[Segments, Tensor]:
        """Return the segments that start at rows of the data, and their rewards.

        Args:
            starts: [M] rows, of :meth:`segment_starts`.
            length: L, most steps of a segment.

        Returns:
            M segments, and their rewards [M, L], 0 in the padding.
        """
        rows = (starts[:, None] + torch.arange(length)).clamp(max=len(self) - 1)
        goes_on = self.has_next_action[rows].to(torch.int64).cumprod(1)
        mask = torch.cat([torch.ones_like(goes_on[:, :1]), goes_on[:, :-1]], 1).bool()
        lengths = mask.sum(1)
        last = rows.gather(1, lengths[:, None] - 1)[:, 0]
        end, actions = self.next_obs[last][:, None], self.actions[rows]
        obs = torch.cat([self.obs[rows], end], 1)
        inside = torch.arange(length + 1) < lengths[:, None]
        segments = Segments(
            torch.where(inside.view(*inside.shape, *[1] * (obs.ndim - 2)), obs, end),
            torch.where(mask.view(*mask.shape, *[1] * (actions.ndim - 2)), actions, 0),
            lengths, self.terminations[last],
        )  # fmt: skip
        return segments, torch.where(mask, self.rewards[rows], 0.0)

    def _check_kinds(self) -> None:
        for name in (*STORED, "next_actions"):
            _check_tensor(name, getattr(self, name))
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(self, name), (gym.spaces.Discrete, gym.spaces.Box)):
                raise TypeError(f"{name} is {getattr(self, name)!r}; allowed are Discrete and Box spaces")
        if self.env_id is not None and not isinstance(self.env_id, str):
            raise TypeError(f"env_id is a {type(self.env_id).__name__}; it must be a string or None")
        if self.rewards.dtype != torch.float32:
            raise ValueError(f"rewards have dtype {self.rewards.dtype}; it must be torch.float32")
        count = _rows(self.rewards)
        for name in _FLAGS:
            check_flags(name, getattr(self, name), count)
        for name in ("obs", "actions", "next_obs", "next_actions"):
            kind = "observation" if "obs" in name else "action"
            space = getattr(self, f"{kind}_space")
            _check_shape(name, getattr(self, name), count, space)

    def _check_order(self) -> None:
        going, done = self.has_next_action, self.terminations | self.truncations
        _refuse("has_next_action", going & done, going, "an episode that ended has no next action")
        if bool(going[-1]):
            raise ValueError("has_next_action is True in the last row, which nothing follows")
        same = _every(self.next_obs[:-1] == self.obs[1:])
        _refuse(
            "next_obs",
            going[:-1] & ~same,
            None,
            "where the episode goes on they must be the next row's obs, and they are not",
        )
        expected = shifted_actions(self.actions, going)
        wrong = ~_every(self.next_actions == expected)
        _refuse(
            "next_actions", wrong, self.next_actions, "they must be the next row's action where the episode "
            "goes on, and the row's own where it does not"
        )  # fmt: skip


def concatenate_transitions(parts: Sequence[TransitionDataset]) -> TransitionDataset:
    """Return data sets of one environment as one, the episodes of each after those of the one before.

    Raises:
        ValueError: if there is none, or they are of different spaces.
    """
    if not parts:
        raise ValueError("parts is empty; give at least one data set")
    first = parts[0]
    for part in parts[1:]:
        part.check_matches(first.observation_space, first.action_space)
    columns: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in (*STORED, "next_actions")
    }
    return replace(first, **columns)


def space_dtype(space: gym.Space[Any]) -> torch.dtype:
    """Return the dtype that a data set keeps values of a Discrete or Box space in.

    Raises:
        ValueError: if torch has none (unsigned integers of more than 8 bits).
    """
    if isinstance(space, gym.spaces.Discrete):
        return torch.int64
    dtype = np.dtype(space.dtype or "O")
    if dtype.name not in DTYPES:
        raise ValueError(f"{space} has dtype {dtype}; allowed are {', '.join(DTYPES)}")
    return torch.from_numpy(np.zeros(0, dtype)).dtype


def shifted_actions(actions: Tensor, going: Tensor) -> Tensor:
    """Return the next rows' actions [N, ...], a row's own where nothing goes on."""
    where = torch.arange(len(going))
    return actions[torch.where(going, where + 1, where).clamp(max=len(actions) - 1)]


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it must be a tensor")
    if value.device.type != "cpu":
        raise ValueError(f"{name} is on {value.device}; a dataset is kept on the CPU")


def _rows(rewards: Tensor) -> int:
    if rewards.ndim != 1 or len(rewards) == 0:
        raise ValueError(f"rewards have shape {list(rewards.shape)}; it must be [N], with N at least 1")
    return len(rewards)


def check_flags(name: str, flags: Tensor, count: int) -> None:
    """Raise ValueError unless flags are bool [count]."""
    if flags.dtype != torch.bool or tuple(flags.shape) != (count,):
        raise ValueError(f"{name} are {flags.dtype} {list(flags.shape)}; they must be bool [{count}]")


def _check_shape(name: str, value: Tensor, count: int, space: gym.Space[Any]) -> None:
    wanted, dtype = (count, *(space.shape or ())), space_dtype(space)
    if tuple(value.shape) != wanted or value.dtype != dtype:
        raise ValueError(
            f"{name} are {value.dtype} {list(value.shape)}; "
            f"{count} rows of {space} are {dtype} {list(wanted)}"
        )


def _check_values(name: str, value: Tensor, space: gym.Space[Any], *, bounded: bool = False) -> None:
    """Refuse values that are not finite, or lie outside the space (of a Box where ``bounded``)."""
    if isinstance(space, gym.spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n - 1)
        _refuse(name, (value < first) | (value > last), value, f"they must lie in {space}")
        return
    if value.is_floating_point():
        _refuse(name, ~_every(torch.isfinite(value)), value, "they must be finite")
    if bounded and isinstance(space, gym.spaces.Box) and value.dtype != torch.bool:
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        inside = _every((value >= low) & (value <= high))
        _refuse(name, ~inside, value, f"they must lie in {space}")


def _every(found: Tensor) -> Tensor:
    """Return [N] bool: everything in a row of [N, ...] is True."""
    return found if found.ndim == 1 else found.flatten(1).all(-1)


def _refuse(name: str, bad: Tensor, values: Tensor | None, reason: str) -> None:
    """Raise ValueError naming the first row where ``bad`` [N] is True; do nothing if there is none."""
    if not bool(bad.any()):
        return
    row = int(bad.to(torch.uint8).argmax())
    found = "" if values is None else f" ({reprlib.repr(values[row].tolist())})"
    raise ValueError(f"{name} are wrong in row {row}{found}: {reason}")
