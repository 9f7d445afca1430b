"""A callback that records an agent's stances while it learns."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.functional.preferences.audits.value_drift import Drift, drift

from .stances import Categories, Numbers, Stances


class StanceRecorder(BaseCallback):
    """Asks an agent for its stances at the start, every so many timesteps and at the end; leaves no trace.

    What the agent draws for its answers is drawn again afterwards: its state is put back, so that a run with
    the recorder is equal to one without. That takes a copy of the state at each time, which is large where a
    replay is part of it; deterministic actions take none.

    Args:
        stances: what is asked.
        every: timesteps between two records.
        deterministic: whether to ask for deterministic actions.

    Attributes:
        times: timesteps of the records.
        answers: what the agent did at each of them.

    Raises:
        ValueError: if ``every`` is not positive, or stances are of episodes (``prefrl audit drift`` looks
            at those of checkpoints); as training starts, if the agent is further behind than the last record.
        TypeError: as training starts, if the agent is none of ours.
    """

    def __init__(self, stances: Stances, every: int, *, deterministic: bool = False) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every is {every}; it must be at least 1")
        if stances.situations is None:
            raise ValueError(f"stance is {stances.settings.stance!r}; while it learns an agent is asked for "
                             "actions alone")  # fmt: skip
        self.stances, self.every, self.deterministic = stances, every, deterministic
        self.times: list[int] = []
        self.answers: list[Numbers] = []

    def _on_training_start(self) -> None:
        agent: Any = self.model
        if not isinstance(agent, Agent):
            raise TypeError(f"the agent is a {type(agent).__name__}; stances are asked of agents of prefrl")
        seen = self.times[-1] if self.times else -1
        if agent.num_timesteps < seen:
            raise ValueError(f"the agent is at timestep {agent.num_timesteps} and the recorder at {seen}; "
                             "take a new recorder for another agent")  # fmt: skip
        if agent.num_timesteps > seen:  # else it goes on where it was recorded last
            self._record()

    def _on_step(self) -> bool:
        if self.num_timesteps // self.every > self.times[-1] // self.every:
            self._record()
        return True

    def _on_training_end(self) -> None:
        if self.times[-1] < self.model.num_timesteps:
            self._record()

    def _record(self) -> None:
        agent: Any = self.model
        state = None if self.deterministic else copy.deepcopy(agent.state_dict())
        self.answers.append(self.stances.ask(agent, deterministic=self.deterministic))
        if state is not None:
            agent.load_state_dict(state)
        self.times.append(agent.num_timesteps)

    @property
    def categories(self) -> Categories:
        """The stances, of all that was recorded."""
        return self.stances.categories(self.answers)

    @property
    def shares(self) -> Tensor:
        """[T, C] how common each stance was at each record."""
        categories = self.categories
        return torch.stack([categories.shares(np.asarray(each)) for each in self.answers])

    def drift(self) -> Drift:
        """Return how far stances moved, and when."""
        return drift(self.shares, torch.tensor(self.times, dtype=torch.float64))
