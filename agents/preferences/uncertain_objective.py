"""Acting under several objectives of which nobody knows the right one, by agents that were trained for each.

Every member, an agent with action values, was trained for an objective of its own. An action that another one
beats by every member's values is never taken,

    dominated(a):  there is a b with Q_m(b) >= Q_m(a) for all members m, and > for one of them;

among the others a weighted choice decides, and where no action has the approval of enough members the agent
abstains: it falls back on an action that is known to be safe, or says so and lets somebody else decide.

Each member values an action as if it alone decided from then on. In a task that is known,
``prefrl.tabular.plan_under_uncertainty`` also plans for one policy that all have to live with.

Source: the idea of uncertain objectives in place of one total order, Eckersley, arXiv 1901.00064; the choice
among undominated actions and the fallback are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Agent, Spaces, agent_of
from prefrl.config import Natural, NonNegative, Positive, Settings, Share
from prefrl.data import Transitions
from prefrl.functional.preferences.uncertain_objectives import (
    Choice,
    abstains,
    approval,
    preferred,
    undominated,
)


class HasActionValues(Protocol):
    """What can be a member: DQN, QLearning and ValueIteration are."""

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]

    def q_values(self, obs: Tensor) -> Tensor:
        """Return Q(s, a) [n, A] for observations [n, ...]."""


@dataclass(frozen=True)
class UncertainObjectiveConfig(Settings):
    """Settings of :class:`UncertainObjective`."""

    weights: tuple[Positive, ...] | None = None
    """How likely each member is right, of sum 1; None: evenly."""

    units: tuple[Positive, ...] | None = None
    """What each member's values are measured in, for instance the range of its returns, before they are
    weighed against each other; None: 1 each. What is dominated does not depend on it."""

    choice: Choice = "mean"
    """Among undominated actions: the largest weighted mean of advantages, the one whose worst advantage is
    highest, or what most weight approves of."""

    tolerance: NonNegative = 1e-6
    """How much worse than a member's best action, in its unit, one may be that it approves of. Values that
    were learned want more: what they are wrong by."""

    agreement: Share = 0.0
    """Weight of the members that must approve of one action, or the agent abstains; 0: it never does."""

    fallback: Natural | None = None
    """The action where it abstains, counted from 0; None: the chosen one, and ``abstains`` tells where."""

    def check(self) -> None:
        """Raise ValueError for settings that do not go together."""
        if self.weights is not None and abs(sum(self.weights) - 1.0) > 1e-6:
            raise ValueError(f"weights is {self.weights}; they must sum to 1")
        if self.fallback is not None and self.agreement == 0.0:
            raise ValueError(f"fallback is {self.fallback} and agreement 0, with which nobody ever abstains; "
                             "give an agreement above 0")  # fmt: skip


class UncertainObjective(Agent):
    """Acts for several trained members at once; see the module's text. There is nothing to learn.

    Args:
        env: not needed (None); the spaces are the members'.
        config: settings.
        members: trained agents with action values (:class:`HasActionValues`), on one device.
        device: of the members.
        seed: without use, since nothing is drawn.

    Raises:
        ValueError: if there is no member, their spaces differ, one has several learners, or settings do not
            fit their number.
        TypeError: if one has no action values.
    """

    config_class: ClassVar[type[UncertainObjectiveConfig]] = UncertainObjectiveConfig
    config: UncertainObjectiveConfig
    steps_env = False

    def __init__(
        self,
        env: Any = None,
        config: UncertainObjectiveConfig | None = None,
        *,
        members: Sequence[HasActionValues] = (),
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        _check_members(members)
        spaces = members[0].observation_space, members[0].action_space
        super().__init__(
            env or Spaces(*spaces), config or UncertainObjectiveConfig(), device=device, seed=seed
        )
        if (self.observation_space, self.action_space) != spaces:
            raise ValueError(f"env has {self.observation_space} and {self.action_space}; the members were "
                             f"trained in {spaces[0]} and {spaces[1]}")  # fmt: skip
        self.members = list(members)
        config, count = self.config, len(members)
        weights = _per_member("weights", config.weights or (1.0 / count,) * count, count)
        self.weights = weights.to(self.device)
        self._units = _per_member("units", config.units or (1.0,) * count, count).to(self.device)
        if config.fallback is not None and config.fallback >= int(self.action_space.n):
            raise ValueError(f"fallback is {config.fallback}; there are {self.action_space.n} actions")

    def member_values(self, obs: Tensor) -> Tensor:
        """Return every member's action values [M, n, A] for observations [n, ...], in its unit."""
        values = torch.stack([member.q_values(obs) for member in self.members])
        return values / self._units.to(values.dtype)[:, None, None]

    def undominated(self, obs: Tensor) -> Tensor:
        """Return which actions may be taken [n, A] bool."""
        return undominated(self.member_values(obs))

    def approval(self, obs: Tensor) -> Tensor:
        """Return the weight [n, A] of the members to whom an action is as good as their best."""
        return approval(self.member_values(obs), self.weights, self.config.tolerance)

    def abstains(self, obs: Tensor) -> Tensor:
        """Return where too few members agree [n] bool."""
        config = self.config
        return abstains(self.member_values(obs), self.weights, config.agreement, config.tolerance)

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return the chosen actions [n], always the same for the same observations."""
        config, values = self.config, self.member_values(obs)
        chosen = preferred(values, undominated(values), self.weights, config.choice, config.tolerance)
        if config.fallback is not None:
            unsure = abstains(values, self.weights, config.agreement, config.tolerance)
            chosen = chosen.masked_fill(unsure, config.fallback)
        return chosen + int(self.action_space.start)

    def observe(self, transitions: Transitions) -> None:
        """There is nothing to observe."""

    def update(self) -> dict[str, Tensor]:
        """Refuse: members are trained one by one, each for its objective."""
        raise ValueError("UncertainObjective learns nothing; train its members, each for its own objective")

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; ValueError if a member is no agent of the library."""
        return {"members": [_member_state(member) for member in self.members]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; ValueError for members that do not fit these."""
        self.members = _members(state, self.device)
        _check_members(self.members)

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> UncertainObjective:
        return cls(env, config, members=_members(state, settings["device"]), **settings)


def _members(state: Mapping[str, Any], device: torch.device | str) -> list[Any]:
    """Return the agents of a state."""
    return [agent_of(f"members[{i}]", content, device) for i, content in enumerate(state["members"])]


def _check_members(members: Sequence[HasActionValues]) -> None:
    """Raise ValueError or TypeError for members that cannot act together."""
    if not members:
        raise ValueError("members is empty; give at least one trained agent with action values")
    first = members[0]
    for place, member in enumerate(members):
        if not hasattr(member, "q_values") or not isinstance(
            getattr(member, "action_space", None), gym.spaces.Discrete
        ):
            raise TypeError(f"members[{place}] is a {type(member).__name__}; it must have q_values(obs) of "
                            "Discrete actions, as DQN, QLearning and ValueIteration have")  # fmt: skip
        if getattr(member, "num_learners", 1) > 1:
            raise ValueError(f"members[{place}] has {member.num_learners} learners; give them one by one: "  # type: ignore[attr-defined]
                             "members=agent.alone()")  # fmt: skip
        theirs, ours = ((one.observation_space, one.action_space) for one in (member, first))
        if theirs != ours:
            raise ValueError(f"members[{place}] has {theirs[0]} and {theirs[1]}; members[0] has {ours[0]} "
                             f"and {ours[1]}")  # fmt: skip


def _per_member(name: str, given: tuple[float, ...], count: int) -> Tensor:
    if len(given) != count:
        raise ValueError(f"{name} has {len(given)} numbers; there are {count} members")
    return torch.tensor(given)


def _member_state(member: Any) -> dict[str, Any]:
    if not isinstance(member, Agent):
        raise ValueError(f"a member is a {type(member).__name__}; only prefrl's agents are saved")
    return member.content()
