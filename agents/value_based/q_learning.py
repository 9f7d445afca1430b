"""Tabular Q-learning (Watkins 1989; Watkins and Dayan 1992), for any number of environments at once.

The table Q(s, a) estimates the return of taking ``a`` in ``s`` and acting greedily afterwards. A transition
``(s, a, r, s')`` has the temporal-difference error

    delta = r + gamma * (1 - terminal(s')) * max_b Q(s', b) - Q(s, a)

All rows of a step learn together: every target is computed from the table as it was before the step, and
rows that share a pair ``(s, a)`` move it by the mean of their errors,

    Q(s, a) += alpha(s, a) * mean_i delta_i,        alpha(s, a) = learning_rate / N(s, a) ** decay

where N(s, a) counts the steps in which the pair occurred, this one included. ``decay = 0`` is a constant
step size, for where nothing is random. 1/2 < decay <= 1 converges with probability 1 also where rewards
and transitions are random, if every pair comes again and again, and decay < 1 does so in polynomial time
(Even-Dar and Mansour 2003, "Learning rates for Q-learning"); it is slow to forget an optimistic start,
such as 0 where every step costs.

Actions are epsilon-greedy: uniform with probability epsilon, else uniform among the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.config import Natural, PositiveShare, Settings, Share
from prefrl.data import Transitions
from prefrl.data.devices import make_generator, restore_generator
from prefrl.functional.draws import uniform
from prefrl.functional.value_based.exploration import linear_epsilon


@dataclass(frozen=True)
class QLearningConfig(Settings):
    """Settings of :class:`QLearning`."""

    gamma: Share = 0.999
    """Discount per step, in [0, 1]; the default is the delivery domain's (Knox et al. 2022)."""

    learning_rate: PositiveShare = 1.0
    """Step size of a pair's first update, in (0, 1]."""

    learning_rate_decay: Share = 0.0
    """Exponent of the visit count that divides the step size, in [0, 1]; random worlds need about 0.6."""

    epsilon_start: Share = 1.0
    """Probability of a uniform action at the start."""

    epsilon_end: Share = 0.2
    """Probability of a uniform action once exploration has fallen off."""

    epsilon_timesteps: Natural = 100_000
    """Timesteps over which epsilon falls linearly from its start to its end."""

    initial_value: float = 0.0
    """Every Q(s, a) before learning; above the best return it makes the agent try everything (optimism)."""


class QLearning(Agent):
    """Tabular Q-learning; see the module's text.

    Args:
        env: an environment with Discrete observations and actions, or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        device: torch device, or "auto".
        seed: seeds the exploration.

    Raises:
        ValueError: if the observation or the action space is not Discrete.
    """

    config_class: ClassVar[type[QLearningConfig]] = QLearningConfig
    config: QLearningConfig

    def __init__(
        self,
        env: Any,
        config: QLearningConfig | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or QLearningConfig(), device=device, seed=seed)
        self.num_states, self._first_state = _discrete("observation_space", self.observation_space)
        self.num_actions, self._first_action = _discrete("action_space", self.action_space)
        shape = (self.num_states, self.num_actions)
        self.q = torch.full(shape, self.config.initial_value, dtype=torch.float64, device=self.device)
        """[S, A] estimated returns."""
        self.visits = torch.zeros(shape, dtype=torch.int64, device=self.device)
        """[S, A] steps in which the pair occurred."""
        self._rows = torch.zeros(shape[0] * shape[1], dtype=torch.float64, device=self.device)
        self._generator = make_generator(self.device, seed)
        self._transitions: Transitions | None = None

    @property
    def epsilon(self) -> float:
        """Probability of a uniform action at the present timestep."""
        config = self.config
        return linear_epsilon(
            config.epsilon_start, config.epsilon_end, config.epsilon_timesteps, self.num_timesteps
        )

    def q_values(self, obs: Tensor) -> Tensor:
        """Return Q(s, a) [n, A] for states [n]."""
        return self.q[obs - self._first_state]

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return epsilon-greedy actions [n] for states [n]; deterministic: the first of the best."""
        q = self.q_values(obs)
        if deterministic:
            return q.argmax(-1) + self._first_action
        noise = uniform(self._generator, len(q), self.num_actions + 1, device=self.device)
        allowed = (q == q.amax(-1, keepdim=True)) | (noise[:, -1:] < self.epsilon)
        return torch.where(allowed, noise[:, :-1], -1.0).argmax(-1) + self._first_action

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments; :meth:`update` learns from it."""
        self._transitions = transitions

    def update(self) -> dict[str, Tensor]:
        """Learn from the last observed step, once; see :meth:`Agent.update`."""
        step, self._transitions = self._transitions, None
        if step is None:
            return {}
        q, visits = self.q.view(-1), self.visits.view(-1)
        pairs = (step.obs - self._first_state) * self.num_actions + (step.actions - self._first_action)
        mask = step.mask.to(q.dtype)

        next_values = self.q[step.next_obs - self._first_state].amax(-1)
        targets = step.rewards + self.config.gamma * next_values * ~step.terminations
        td_errors = (targets - q[pairs]) * mask

        # Of each row: how many rows of this step share its pair. The buffer is zero between two steps.
        rows = self._rows.index_add_(0, pairs, mask)[pairs]
        self._rows.index_fill_(0, pairs, 0.0)
        count = visits[pairs] + (rows > 0)
        visits[pairs] = count  # rows of one pair all write the same number
        alpha = self.config.learning_rate * count.clamp(min=1).to(q.dtype) ** -self.config.learning_rate_decay
        # index_put_ adds in a fixed order on every device, index_add_ does not on CUDA: same seed, same bits.
        q.index_put_((pairs,), alpha * td_errors / rows.clamp(min=1.0), accumulate=True)
        return {"train/td_error": td_errors.abs().sum() / mask.sum().clamp(min=1.0)}

    def schedules(self) -> dict[str, float]:
        """See :meth:`Agent.schedules`: the exploration rate."""
        return {"rollout/exploration_rate": self.epsilon}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {"q": self.q, "visits": self.visits, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; ValueError for a table of another size."""
        for name, table in (("q", self.q), ("visits", self.visits)):
            if state[name].shape != table.shape:
                given = list(state[name].shape)
                raise ValueError(f"the table {name} is {given}; this agent's is {list(table.shape)}")
        self.q.copy_(state["q"])
        self.visits.copy_(state["visits"])
        restore_generator(self._generator, state["generator"])


def _discrete(name: str, space: gym.Space[Any]) -> tuple[int, int]:
    """Return size and first element of a Discrete space; ValueError for any other."""
    if not isinstance(space, gym.spaces.Discrete):
        raise ValueError(f"{name} is {space}; tabular Q-learning takes Discrete spaces")
    return int(space.n), int(space.start)
