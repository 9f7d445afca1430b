"""What a tree search searches, a deterministic model in tables, and what it leaves, trees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.value_based.tree_search import node_values

MAX_STEPS = 4_096
"""Steps that a state may offer."""


@dataclass(frozen=True)
class DeterministicModel:
    """A model in which every pair has one successor; S states, A steps, each of up to L actions."""

    successors: Tensor
    """[S, A] int64 next states; terminal states lead to themselves."""
    rewards: Tensor
    """[S, A] float64 rewards, 0 in terminal states; of several actions, their discounted sum."""
    terminal: Tensor
    """[S] bool."""
    start: Tensor
    """[S] float64 start distribution."""
    actions: Tensor
    """[A, L] int64 the actions of a step."""
    states: Tensor
    """[S, A, L] int64 the state in which each of them is taken."""

    @classmethod
    def from_env(cls, env: Any, device: torch.device | str = "cpu") -> DeterministicModel:
        """Take the model of an environment that offers ``tabular_model()``, any face, wrapped or not.

        Raises:
            ValueError: if it offers none, or a pair of it has several successors.
        """
        task = getattr(env, "unwrapped", env)
        if not hasattr(task, "tabular_model"):
            raise ValueError(f"{task} offers no tabular_model(); a search needs an environment that does")
        model = task.tabular_model()
        likely = model.probabilities.argmax(-1)[..., None]
        certain = np.take_along_axis(model.probabilities, likely, -1)[..., 0]
        wrong = np.argwhere((certain < 1.0 - 1e-9) & ~model.terminal[:, None])
        if len(wrong):
            state, action = wrong[0].tolist()
            raise ValueError(f"action {action} in state {state} has several successors; a search needs a "
                             "deterministic model")  # fmt: skip
        successors, rewards = (
            np.take_along_axis(table, likely, -1)[..., 0] for table in (model.successors, model.rewards)
        )
        return cls.of_tables(successors, rewards, model.terminal, model.start, device=device)

    @classmethod
    def of_tables(
        cls, successors: Any, rewards: Any, terminal: Any, start: Any, *, device: torch.device | str = "cpu"
    ) -> DeterministicModel:
        """Make one of tables [S, A], [S, A], [S] and [S].

        Raises:
            ValueError: if they do not fit together, or successors are no states.
        """
        following, pays = torch.as_tensor(successors), torch.as_tensor(rewards, dtype=torch.float64)
        ends, begin = torch.as_tensor(terminal), torch.as_tensor(start, dtype=torch.float64)
        if following.ndim != 2 or following.is_floating_point():
            raise ValueError(f"successors are {following.dtype} {list(following.shape)}; they must be whole "
                             "numbers [S, A]")  # fmt: skip
        states, count = following.shape
        for name, table, shape in (("rewards", pays, (states, count)), ("terminal", ends, (states,)),
                                   ("start", begin, (states,))):  # fmt: skip
            if tuple(table.shape) != shape:
                raise ValueError(f"{name} has shape {list(table.shape)}; it must be {list(shape)}")
        if not states or not count:
            raise ValueError(f"successors have shape {[states, count]}; there must be states and actions")
        if ends.dtype != torch.bool:
            raise ValueError(f"terminal is {ends.dtype}; it must be torch.bool")
        if int(following.min()) < 0 or int(following.max()) >= states:
            raise ValueError(f"successors lie in {int(following.min())} to {int(following.max())}; states "
                             f"are 0 to {states - 1}")  # fmt: skip
        for name, table in (("rewards", pays), ("start", begin)):
            if not bool(table.isfinite().all()):
                raise ValueError(f"{name} hold NaN or infinity")
        here = torch.arange(states)[:, None]
        following = torch.where(ends[:, None], here, following)
        tables = (following, torch.where(ends[:, None], 0.0, pays), ends, begin,
                  torch.arange(count)[:, None], here[..., None].expand(-1, count, 1))  # fmt: skip
        return cls(*(table.to(device) for table in tables))

    def in_steps_of(self, length: int, gamma: float = 1.0) -> DeterministicModel:
        """Return the same model whose steps are ``length`` actions each, fewer where the episode ends.

        Raises:
            ValueError: if the steps would be more than 4,096.
        """
        base, count = self, self.successors.shape[1]
        if count**length > MAX_STEPS:
            raise ValueError(f"step_length is {length}; {count} actions make {count**length} such steps, at "
                             f"most {MAX_STEPS} are searched")  # fmt: skip
        found = base
        for done in range(1, length):
            last = found.successors[..., None].expand(-1, -1, count)  # [S, steps so far, A]
            rewards = found.rewards[..., None] + gamma**done * base.rewards[found.successors]
            before = found.states[:, :, None].expand(-1, -1, count, -1)
            actions = [found.actions.repeat_interleave(count, 0), base.actions.repeat(len(found.actions), 1)]
            found = DeterministicModel(
                base.successors[found.successors].flatten(1), rewards.flatten(1), base.terminal, base.start,
                torch.cat(actions, 1), torch.cat([before, last[..., None]], -1).flatten(1, 2),
            )  # fmt: skip
        return found

    def log_probs(self, policy: Tensor) -> Tensor:
        """Return log pi [S, A, L] of the actions of every step; NaN after the end of the episode.

        Args:
            policy: [S, actions] probabilities.
        """
        found = policy.log()[self.states, self.actions]
        return torch.where(self.after_the_end, torch.nan, found)

    @property
    def after_the_end(self) -> Tensor:
        """[S, A, L] bool: actions that a step does not have, since the episode ended before."""
        return self.terminal[self.states] & (
            torch.arange(self.states.shape[-1], device=self.states.device) > 0
        )


def check_numbers(exploration: float, gamma: float) -> None:
    """Raise ValueError unless exploration w is finite and not negative, and gamma a discount."""
    if not 0.0 <= exploration < math.inf:
        raise ValueError(f"exploration is {exploration}; it must be a finite number, not negative")
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma is {gamma}; it must be from 0 to 1")


class SearchTrees(NamedTuple):
    """What a search leaves: B trees of up to M nodes, the root first."""

    states: Tensor
    """[B, M] int64 state of each node; -1 where a simulation made none."""
    q: Tensor
    """[B, M, A]."""
    visits: Tensor
    """[B, M, A] N."""
    children: Tensor
    """[B, M, A] int64 node that an edge leads to; -1: none, also where the episode ends."""

    @property
    def values(self) -> Tensor:
        """[B, M] V of the nodes."""
        return node_values(self.q, self.visits)
