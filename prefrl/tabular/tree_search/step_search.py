"""The tree search by an environment's own steps, where states are too many for a table.

A node is made by taking all its actions at once, in all trees: of the deterministic environments of
:mod:`prefrl.envs`, whose dynamics are pure functions of batches, nothing else is needed. Priors and values
are functions of observations, such as a policy's network and its critic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike

from prefrl.envs.core.backend import State
from prefrl.envs.core.dynamics import Dynamics

from .host_trees import Arrivals, HostTrees, Nodes, Numbers, Places
from .model import SearchTrees, check_numbers

OfObservations = Callable[[Any], ArrayLike]
"""A function of observations [n, ...]: of priors [n, A], or of values [n]."""


class SteppedTrees(NamedTuple):
    """What a search by steps leaves."""

    trees: SearchTrees
    """Trees, whose ``states`` are rows of the following."""
    states: State
    """Arrays [R, ...] of states; rows that no node stands for mean nothing."""


def step_search(
    env: Any, states: Mapping[str, Any], *, priors: OfObservations | None = None,
    values: OfObservations | None = None, simulations: int, exploration: float = 1.0, gamma: float = 1.0,
    max_depth: int,
) -> SteppedTrees:  # fmt: skip
    """Search from B states of a deterministic environment, ``simulations`` times each.

    As :func:`tree_search` otherwise. Time limits are not seen: episodes end where the environment terminates.

    Args:
        env: an environment of :mod:`prefrl.envs` in NumPy, any face, wrapped or not, or its dynamics, with
            Discrete actions from 0.
        states: arrays [B, ...] as its dynamics have them, none of them terminal: where a face stands is
            ``env.unwrapped.state_dict()["state"]``.
        priors: p [n, A] of observations [n, ...] (None: even).
        values: v [n] of observations: what is to come in a state before it is searched (None: 0), in the unit
            of returns: where every step pays and v is 0, what was tried first looks best. Of terminal states
            it is 0, whatever it says.
        simulations: of each root.
        exploration: w of PUCT.
        gamma: discount of a step.
        max_depth: steps of the longest path.

    Raises:
        ValueError: if the environment is none of these or its steps draw something, states have no rows or
            not the same number of them, a function returns another shape, NaN or infinity, or a number is
            out of range.
    """
    dynamics = _deterministic(env)
    given = {name: np.asarray(each) for name, each in states.items()}
    counts = {len(each) if each.ndim else 0 for each in given.values()}
    if len(counts) != 1 or 0 in counts:
        shapes = {name: list(each.shape) for name, each in given.items()}
        raise ValueError(f"states have shapes {shapes}; all must be [B, ...], B at least 1")
    for name, number in (("simulations", simulations), ("max_depth", max_depth)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
    check_numbers(exploration, gamma)
    roots, size = counts.pop(), simulations + 1
    steps = Steps(dynamics, priors, values, exploration, gamma, HostTrees.rows_for(roots, size))
    trees = HostTrees(steps, roots, size, gamma, max_depth)
    trees.plant(given)
    for node in range(1, size):
        trees.simulate(node)
    return SteppedTrees(trees.finished(np.arange(trees.rows)), steps.states)


def _deterministic(env: Any) -> Dynamics:
    """Return the dynamics of an environment that a search can step."""
    task = getattr(env, "unwrapped", env)
    dynamics = getattr(task, "dynamics", task)
    if not isinstance(dynamics, Dynamics) or dynamics.backend.on_device:
        raise ValueError(f"env is {task}; a search by steps needs an environment of prefrl.envs in NumPy")
    space = dynamics.single_action_space
    if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
        raise ValueError(f"actions are {space}; a search needs Discrete ones, from 0 on")
    if noise := dynamics.step_noise(dynamics.backend.random(0), 1):
        raise ValueError(f"steps draw {', '.join(noise)}; a search needs a deterministic environment")
    return dynamics


class Steps:
    """An environment's steps as a problem of R rows; see :class:`Problem`."""

    def __init__(
        self, dynamics: Dynamics, priors: OfObservations | None, values: OfObservations | None,
        exploration: float, gamma: float, rows: int,
    ) -> None:  # fmt: skip
        self.count = int(dynamics.single_action_space.n)  # type: ignore[attr-defined]
        self._dynamics, self._priors, self._values = dynamics, priors, values
        self._exploration, self._gamma, self._rows = exploration, gamma, rows
        # Of edges, by action and row: a pair is an edge.
        self.rewards, self.drive, self._later = np.zeros((3, self.count * rows))
        self._ended = np.zeros(self.count * rows, np.bool_)
        self.states: dict[str, Any] = {}

    def plant(self, roots: Mapping[str, Any]) -> Nodes:
        """See :meth:`Problem.plant`."""
        self.states = {
            name: np.zeros((self._rows, *each.shape[1:]), each.dtype) for name, each in roots.items()
        }
        count = len(next(iter(roots.values())))
        return self._expanded(dict(roots), slice(0, count))

    def arrive(self, rows: Places, actions: Places, new: slice) -> Arrivals:
        """See :meth:`Problem.arrive`."""
        pairs = actions * self._rows + rows
        closed, before = self._ended.take(pairs), {name: each[rows] for name, each in self.states.items()}
        after, _, _ = self._dynamics.step(before, actions, {})
        # Nobody says what a step from a terminal state is: there the state before is expanded, in vain.
        state = {
            name: np.where(closed.reshape(-1, *[1] * (each.ndim - 1)), before[name], each)
            for name, each in after.items()
        }
        return Arrivals(pairs, self._expanded(state, new), closed, self._later.take(pairs))

    def _expanded(self, state: State, new: slice) -> Nodes:
        """Write rows of states [B, ...] and what each action does there; return them as nodes."""
        count, size = self.count, new.stop - new.start
        for name, each in state.items():
            self.states[name][new] = each
        repeated = {name: np.concatenate([each] * count) for name, each in state.items()}
        actions = np.repeat(np.arange(count), size)
        after, rewards, ended = self._dynamics.step(repeated, actions, {})
        shape = (count, size)
        worth = np.where(ended, 0.0, self._asked("values", self._values, after, (count * size,)))
        q = rewards.reshape(shape) + self._gamma * worth.reshape(shape)
        drive = self._exploration * self._asked("priors", self._priors, state, (size, count)).T
        for table, found in (
            (self.rewards, rewards), (self.drive, drive), (self._later, worth), (self._ended, ended),
        ):  # fmt: skip
            table.reshape(count, -1)[:, new] = found.reshape(shape)
        return Nodes(np.concatenate([q, drive]), q.sum(0), (q + drive).argmax(0) * self._rows)

    def _asked(
        self, name: str, function: OfObservations | None, state: State, shape: tuple[int, ...]
    ) -> Numbers:
        if function is None:
            return np.full(shape, 0.0 if name == "values" else 1.0 / self.count)
        with torch.no_grad():
            found = np.asarray(function(self._dynamics.observe(state)), dtype=np.float64)
        if found.shape != shape or not np.isfinite(found).all():
            raise ValueError(f"{name} of {shape[0]} observations have shape {list(found.shape)}; they must "
                             f"be finite and {list(shape)}")  # fmt: skip
        return found
