"""Replay on the device: a ring of transitions, sampled uniformly, with n-step returns made when sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prefrl.functional.draws import integers

from .datasets import TransitionDataset
from .devices import unfilled, warn_beyond_memory
from .transitions import Transitions


@dataclass(frozen=True)
class Batch:
    """``B`` sampled n-step transitions, on the replay's device.

    With rewards r_t and K <= n steps until the episode ended, was cut, or the data end,

        returns = sum_{k < K} gamma^k r_{t+k},        discounts = gamma^K (0 where s_{t+K} is terminal),

    so that a target is ``returns + discounts * value(next_obs)``.
    """

    obs: Tensor
    """[B, ...] observations."""
    actions: Tensor
    """[B, ...] actions."""
    returns: Tensor
    """[B] discounted sums of the rewards in between."""
    next_obs: Tensor
    """[B, ...] observations K steps later."""
    discounts: Tensor
    """[B] what a value at ``next_obs`` is multiplied with."""
    weights: Tensor
    """[B] 1 for transitions; 0 for rows that are none (see ``prefrl.data.transition_mask``)."""
    next_actions: Tensor | None = None
    """[B, ...] actions taken at ``next_obs``; data sets only."""
    next_known: Tensor | None = None
    """[B] 1 where that action is known or, after an end, not needed; data sets only."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """[B, ...] what else was kept of the first step."""

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the same with a function applied to every tensor."""

        def optional(values: Tensor | None) -> Tensor | None:
            return None if values is None else function(values)

        return Batch(
            function(self.obs), function(self.actions), function(self.returns), function(self.next_obs),
            function(self.discounts), function(self.weights), optional(self.next_actions),
            optional(self.next_known), {name: function(values) for name, values in self.extras.items()},
        )  # fmt: skip

    def of_learners(self, learners: int) -> Batch:
        """Return the same with an axis of learners, [S, B / S, ...]."""
        return self.mapped(lambda values: values.view(learners, -1, *values.shape[1:]))


class ReplayBuffer:
    """The latest transitions of ``num_envs`` environments, in memory of the device.

    Nothing is allocated before the first step, whose shapes and dtypes it takes over (boolean and uint8
    observations stay so). Positions are counted on the host and indices drawn on the device: neither
    :meth:`add` nor :meth:`sample` waits for it.

    Args:
        capacity: transitions to keep, over all environments together.
        num_envs: environments that step together.
        gamma: discount per step, in [0, 1]; or one for each environment [num_envs].
        n_step: steps of a return, at least 1.

    Raises:
        ValueError: if the capacity holds fewer than ``n_step`` steps of all environments.
    """

    def __init__(self, capacity: int, num_envs: int, *, gamma: float | Tensor, n_step: int = 1) -> None:
        if capacity < n_step * num_envs:
            raise ValueError(f"buffer_size is {capacity}; {num_envs} environments and n_step {n_step} need "
                             f"at least {n_step * num_envs}")  # fmt: skip
        self.num_envs = num_envs
        self.steps = capacity // num_envs
        self.gamma = gamma
        self.n_step = n_step
        self.added = 0
        """Steps added since the start, of all environments together."""
        self.storage: dict[str, Tensor] = {}
        """[steps, num_envs, ...] what is kept, by name; empty before the first step."""

    @classmethod
    def from_dataset(
        cls, dataset: TransitionDataset, *, gamma: float, n_step: int, device: torch.device
    ) -> ReplayBuffer:
        """Return a replay that holds a data set, in its order, on the device.

        Its samples have ``next_actions`` and ``next_known`` too.
        """
        replay = cls(len(dataset), 1, gamma=gamma, n_step=n_step)
        steps = Transitions(
            obs=dataset.obs, actions=dataset.actions, rewards=dataset.rewards, next_obs=dataset.next_obs,
            terminations=dataset.terminations,
            # n-step returns stop where what is known of an episode stops, whatever the reason.
            truncations=~(dataset.has_next_action | dataset.terminations),
            mask=torch.ones(len(dataset), dtype=torch.bool),
        )  # fmt: skip
        fields = _fields(steps)
        fields["rewards"] = fields["rewards"].to(torch.float32)
        fields["next_actions"] = dataset.next_actions
        fields["next_known"] = (dataset.has_next_action | dataset.terminations).to(torch.float32)
        replay.storage = {name: value.to(device)[:, None] for name, value in fields.items()}
        replay.added = len(dataset)
        return replay

    @property
    def capacity(self) -> int:
        """Transitions that it can hold: whole steps of all environments."""
        return self.steps * self.num_envs

    def __len__(self) -> int:
        return min(self.added, self.steps) * self.num_envs

    def add(self, transitions: Transitions, extras: Mapping[str, Tensor] | None = None) -> None:
        """Take in one step of all environments; the oldest one makes room.

        Args:
            transitions: the step.
            extras: what else to keep of it, [n, ...], under names of its own.

        Raises:
            ValueError: if the step has another number of rows.
        """
        given = transitions.rewards.shape[0]
        if given != self.num_envs:
            raise ValueError(f"the step is of {given} environments; this replay takes {self.num_envs}")
        step = _fields(transitions)
        if extras:
            step.update(extras)
        if not self.storage:
            step["rewards"] = step["rewards"].to(torch.float32)
            place = transitions.rewards.device
            if place.type == "cpu":
                nbytes = sum(self.steps * value.nbytes for value in step.values())
                warn_beyond_memory(f"a replay of {self.capacity} transitions", nbytes)
            self.storage = {
                name: unfilled((self.steps, *value.shape), value.dtype, value.device)
                for name, value in step.items()
            }
        position = self.added % self.steps
        rows = [stored[position] for stored in self.storage.values()]
        torch._foreach_copy_(rows, list(step.values()))
        self.added += 1

    def cut(self) -> None:
        """Let the newest step end its episodes: the next one that is added does not follow it."""
        if self.added:
            self.storage["truncations"][(self.added - 1) % self.steps] = True

    def relabel(self, rewards: Tensor) -> None:
        """Replace the rewards of the latest T steps by others [T, num_envs], the newest last."""
        if self.added:
            kept = self.storage["rewards"]
            newest = rewards[max(0, len(rewards) - min(self.added, self.steps)) :]
            kept[self.latest(len(newest), kept.device)] = newest.to(kept.dtype)

    def latest(self, count: int, device: torch.device) -> Tensor:
        """Return the places [count] on axis 0 of :attr:`storage` of the latest steps, the newest last."""
        return (self.added - count + torch.arange(count, device=device)) % self.steps

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw transitions uniformly, with replacement.

        Args:
            batch_size: B.
            generator: draws the places, on its own device.

        Raises:
            ValueError: if the replay is empty.
        """
        return self.batch(self.storage, *self.draw(batch_size, generator))

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the places [B] of a batch, and tell which step is the newest, [].

        With :meth:`batch` this is :meth:`sample` in two parts: the second one is a pure function of tensors,
        which a compiled update may hold.
        """
        if not self.added:
            raise ValueError("the replay is empty; add() comes before sample()")
        device = self.storage["rewards"].device
        index = integers(generator, len(self), batch_size, device=device)
        return index, torch.full((), (self.added - 1) % self.steps, device=device)

    def places(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return places and newest step as :meth:`draw` does, for learners with blocks of the environments.

        Args:
            numbers: [S, B] whole numbers, uniform from 0 to 2^31 - 1; those of learner s choose among the
                transitions of its block.

        Returns:
            Places [S * B], learner by learner.

        Raises:
            ValueError: if the replay is empty.
        """
        if not self.added:
            raise ValueError("the replay is empty; add() comes before places()")
        learners, device = len(numbers), numbers.device
        chosen = (numbers * (len(self) // learners)) >> 31
        if learners > 1:
            block = self.num_envs // learners
            step = torch.div(chosen, block, rounding_mode="floor")
            first = block * torch.arange(learners, device=device)[:, None]
            chosen = chosen + step * (self.num_envs - block) + first
        return chosen.view(-1), torch.full((), (self.added - 1) % self.steps, device=device)

    def batch(self, storage: Mapping[str, Tensor], index: Tensor, newest: Tensor) -> Batch:
        """Return the transitions at places [B] of :attr:`storage`; see :meth:`draw`."""
        rows = {name: values.flatten(0, 1) for name, values in storage.items()}
        gamma = self.gamma if isinstance(self.gamma, float) else self.gamma[index % self.num_envs]
        returns, power, last = rows["rewards"].index_select(0, index), gamma, index
        if self.n_step > 1:
            returns, power, last = self._follow(rows, index, newest, gamma)
        next_actions, next_known = rows.get("next_actions"), rows.get("next_known")
        return Batch(
            obs=rows["obs"].index_select(0, index),
            actions=rows["actions"].index_select(0, index),
            returns=returns,
            next_obs=rows["next_obs"].index_select(0, last),
            discounts=power * ~rows["terminations"].index_select(0, last),
            weights=rows["mask"].index_select(0, index).to(returns.dtype),
            next_actions=None if next_actions is None else next_actions.index_select(0, last),
            next_known=None if next_known is None else next_known.index_select(0, last),
            extras={name: rows[name].index_select(0, index) for name in rows if name not in FIELDS},
        )

    def _follow(
        self, rows: Mapping[str, Tensor], index: Tensor, newest: Tensor, gamma: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return sums of rewards, gamma^K and the places of the last steps, all [B], of n-step returns."""
        # Age 0 is the newest step; a return that would reach beyond it is cut there.
        step, env = index // self.num_envs, index % self.num_envs
        age = (newest - step) % self.steps
        last, returns = index, rows["rewards"].index_select(0, index)
        power = torch.ones_like(returns) * gamma
        for k in range(1, self.n_step):
            # At the first end `last` stays, and with it its flag: once stopped, always stopped.
            ended = rows["terminations"].index_select(0, last) | rows["truncations"].index_select(0, last)
            going = ~ended & (age >= k)
            after = (step + k) % self.steps * self.num_envs + env
            rewards = rows["rewards"].index_select(0, after)
            returns = returns + torch.where(going, power * rewards, 0.0)
            power = torch.where(going, power * gamma, power)
            last = torch.where(going, after, last)
        return returns, power, last

    def state_dict(self) -> dict[str, Any]:
        """Return what the ring holds: as with networks the tensors themselves, which go on changing."""
        filled = min(self.added, self.steps)
        return {
            "added": self.added,
            "storage": {name: value[:filled] for name, value in self.storage.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: if it was held by a ring of another size.
        """
        added, stored = int(state["added"]), state["storage"]
        filled = min(added, self.steps)
        for name, value in stored.items():
            if value.shape[0] != filled or value.shape[1] != self.num_envs:
                raise ValueError(f"replay of {name} holds {list(value.shape[:2])} steps and environments; "
                                 f"this one expects {[filled, self.num_envs]}")  # fmt: skip
        self.added = added
        self.storage = {}
        for name, value in stored.items():
            whole = unfilled((self.steps, *value.shape[1:]), value.dtype, device)
            whole[:filled] = value.to(device)
            self.storage[name] = whole


def replay_state(replay: ReplayBuffer | None) -> dict[str, Any]:
    """Return what an agent's state holds of its replay, which it has from its first step on."""
    if replay is None:
        return {"num_envs": None, "replay": None}
    return {"num_envs": replay.num_envs, "replay": replay.state_dict()}


def restored_replay(
    state: Mapping[str, Any], make: Callable[[int], ReplayBuffer], device: torch.device
) -> ReplayBuffer:
    """Return the replay that :func:`replay_state` described.

    Args:
        state: the agent's, which holds one.
        make: makes an empty replay for so many environments.
        device: where to hold it.
    """
    replay = make(int(state["num_envs"]))
    replay.load_state_dict(state["replay"], device)
    return replay


FIELDS = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask", "next_actions",
          "next_known")  # fmt: skip
"""Names of what is kept of transitions themselves."""


def _fields(step: Transitions) -> dict[str, Tensor]:
    """Return what is kept of a step."""
    return {
        "obs": step.obs,
        "actions": step.actions,
        "rewards": step.rewards,  # of any dtype, kept as float32
        "next_obs": step.next_obs,
        "terminations": step.terminations,
        "truncations": step.truncations,
        "mask": step.mask,
    }
