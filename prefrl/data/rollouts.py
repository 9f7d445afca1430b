"""Rollouts: the last few steps of all environments, which an on-policy agent learns from once.

With them, what of tensors and states belongs to which of S learners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .devices import unfilled


class Rollout:
    """``steps`` steps of all environments, on their device; nothing is allocated before the first.

    Args:
        steps: T.

    Attributes:
        size: steps that it holds.
        storage: [T, n, ...] what is kept, by name; empty before the first step.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.size = steps, 0
        self.storage: dict[str, Tensor] = {}

    @property
    def full(self) -> bool:
        """Whether there is no place for another step."""
        return self.size == self.steps

    def add(self, step: Mapping[str, Tensor]) -> None:
        """Take in one step of all environments, [n, ...] by name.

        Raises:
            ValueError: if it is full.
        """
        if self.full:
            raise ValueError(f"the rollout holds its {self.steps} steps; update() makes room")
        if not self.storage:
            self.storage = {
                name: unfilled((self.steps, *value.shape), value.dtype, value.device)
                for name, value in step.items()
            }
        rows = [stored[self.size] for stored in self.storage.values()]
        torch._foreach_copy_(rows, [step[name] for name in self.storage])
        self.size += 1

    def cut(self) -> None:
        """Let the newest step end its episodes: the next one that is added does not follow it."""
        if self.size:
            self.storage["truncations"][self.size - 1] = True

    def relabel(self, rewards: Tensor) -> None:
        """Replace the rewards of the latest T steps by others [T, n], the newest last."""
        count = min(self.size, len(rewards))
        if count:
            self.storage["rewards"][self.size - count : self.size] = rewards[len(rewards) - count :]

    def clear(self) -> None:
        """Make room for new steps."""
        self.size = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what it holds."""
        held = {name: value[: self.size] for name, value in self.storage.items()}
        return {"steps": self.steps, "held": held}

    @classmethod
    def restored(cls, state: Mapping[str, Any], device: torch.device) -> Rollout:
        """Return a rollout that holds what :meth:`state_dict` returned."""
        rollout = cls(int(state["steps"]))
        held = {name: value.to(device) for name, value in state["held"].items()}
        for at in range(len(next(iter(held.values()), ()))):
            rollout.add({name: value[at] for name, value in held.items()})
        return rollout


def each(value: float | Sequence[float], learners: int, device: torch.device) -> Tensor:
    """Return a setting of every learner [S, 1] float32, given one number for all or one for each."""
    values = list(value) if isinstance(value, Sequence) else [value] * learners
    return torch.stack([torch.full((1,), float(one), device=device) for one in values])


def by_learner(steps: Tensor, learners: int) -> Tensor:
    """Return steps [T, S * n, ...] as rows of the learners [S, T * n, ...]."""
    length, rows = steps.shape[:2]
    split = steps.reshape(length, learners, rows // learners, *steps.shape[2:])
    return split.transpose(0, 1).reshape(learners, -1, *steps.shape[2:])


def in_time(rows: Tensor, length: int) -> Tensor:
    """Return rows of the learners [S, T * n] as steps [T, S * n]."""
    return rows.reshape(len(rows), length, -1).transpose(0, 1).reshape(length, -1)


def one_of(tree: Any, index: int) -> Any:
    """Return a copy of a state for one of S learners, [1, ...] of every tensor [S, ...] in dicts."""
    if isinstance(tree, Tensor):
        return tree[index : index + 1].clone()
    if isinstance(tree, Mapping):
        return {name: one_of(part, index) for name, part in tree.items()}
    return tree
