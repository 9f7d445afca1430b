"""Value iteration (Bellman 1957): the exact best policy of a finite MDP that is known.

    V(s) <- max_a [ r(s, a) + gamma sum_s' p(s' | s, a) V(s') ]

for all states at once, from 0. After each sweep the values are within gamma / (1 - gamma) times the largest
change of the best ones (Puterman 1994, "Markov decision processes", theorem 6.3.1), which ``result`` tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.config import Settings, Share
from prefrl.data import Transitions
from prefrl.data.devices import make_generator, restore_generator
from prefrl.tabular import TabularMDP
from prefrl.tabular.solvers import action_values


@dataclass(frozen=True)
class ValueIterationConfig(Settings):
    """Settings of :class:`ValueIteration`."""

    gamma: Share = 0.99
    """Discount per step; at 1, values of policies that never end may grow for ever."""


class ValueIteration(Agent):
    """Value iteration; a timestep is a sweep over all states.

    Args:
        env: an environment that offers a ``tabular_model``, a :class:`prefrl.TabularMDP` of one MDP, or
            :class:`prefrl.agents.base.Spaces` for an agent that only acts.
        config: settings.
        device: torch device, or "auto".
        seed: of the draws among equally good actions.

    Raises:
        ValueError: if the environment offers no model, or there are several MDPs.

    Attributes:
        values: [S] V.
        q: [S, A] Q under it.
    """

    config_class: ClassVar[type[ValueIterationConfig]] = ValueIterationConfig
    config: ValueIterationConfig
    steps_env = False

    def __init__(
        self,
        env: Any,
        config: ValueIterationConfig | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        known = env if isinstance(env, TabularMDP) else None
        if known is not None:
            if known.num_mdps != 1:
                raise ValueError(f"env holds {known.num_mdps} MDPs; this agent takes one: env.select(...)")
            env = Spaces(gym.spaces.Discrete(known.num_states), gym.spaces.Discrete(known.num_actions))
        super().__init__(env, config or ValueIterationConfig(), device=device, seed=seed)
        if known is None and not isinstance(env, Spaces):
            known = TabularMDP.from_env(env, self.device)
        self.mdp = None if known is None else known.to(self.device)
        self._generator = make_generator(self.device, seed)
        shape = [int(getattr(space, "n", 0)) for space in (self.observation_space, self.action_space)]
        self.q = torch.zeros(shape, dtype=torch.float64, device=self.device)
        self.values = self.q.amax(-1)
        self._change = torch.full((), math.inf, dtype=torch.float64, device=self.device)
        if self.mdp is not None:
            self._rewards = self.mdp.linear_rewards(self.mdp.weights)

    def q_values(self, obs: Tensor) -> Tensor:
        """Return Q(s, a) [n, A] in states [n]."""
        return self.q[obs]

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return best actions [n] in states [n]; among equals the first, or drawn evenly."""
        q = self.q_values(obs)
        if deterministic:
            return q.argmax(-1)
        best = (q >= q.amax(-1, keepdim=True) - 1e-9).to(torch.float64)
        return torch.multinomial(best, 1, generator=self._generator)[:, 0]

    def observe(self, transitions: Transitions) -> None:
        """Nothing is learned from stepping: the model is known."""

    def update(self) -> dict[str, Tensor]:
        """Sweep once; see :meth:`Agent.update`."""
        if self.mdp is None:
            raise ValueError("this agent was loaded without an environment; it can act, but not learn")
        self.num_timesteps += 1
        self.q = action_values(self.mdp, self.values[None], self._rewards, self.config.gamma)[0]
        values = self.q.amax(-1)
        self._change, self.values = (values - self.values).abs().amax(), values
        return {"train/bellman_residual": self._change, "train/q": values.mean()}

    def result(self) -> dict[str, Any]:
        """Return the value of the start, and a bound on how far any value is from the best one."""
        gamma, change = self.config.gamma, float(self._change)
        bound = change * gamma / (1.0 - gamma) if gamma < 1.0 else math.inf
        start = None if self.mdp is None else float(self.mdp.start[0] @ self.values)
        return {"start_value": start, "error_bound": bound if math.isfinite(bound) else None}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {"q": self.q, "values": self.values, "change": self._change,
                "generator": self._generator.get_state()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; ValueError for tables of other spaces."""
        if state["q"].shape != self.q.shape or state["values"].shape != self.values.shape:
            raise ValueError(f"the table has shape {tuple(state['q'].shape)}; the spaces need "
                             f"{tuple(self.q.shape)}")  # fmt: skip
        self.q, self.values, self._change = (
            state[name].to(self.device) for name in ("q", "values", "change")
        )
        restore_generator(self._generator, state["generator"])
