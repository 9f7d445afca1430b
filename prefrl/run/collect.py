"""Data sets of transitions, made by letting a policy act."""

from __future__ import annotations

from typing import Any, Protocol, cast

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import TransitionDataset, Transitions, seeded_generator
from prefrl.data.datasets import space_dtype

from .stepping import Stepper

_COLUMNS = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask")


class Policy(Protocol):
    """What acts: every agent of prefrl, and anything else with these two."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...], both on the device."""


def collect_transitions(
    agent: Policy | None,
    env: Any,
    num_transitions: int,
    *,
    epsilon: float = 0.0,
    seed: int = 0,
    env_id: str | None = None,
) -> TransitionDataset:
    """Let a policy act, and return what happened.

    The agent's deterministic action is taken, or with probability ``epsilon`` a uniform one. Rows of a step
    that are no transitions are left out (see ``prefrl.data.transition_mask``). Each row of a vector
    environment contributes its episodes one after the other, the last of them possibly unfinished: then its
    last transition has ``has_next_action`` False though it neither terminated nor was truncated.

    Args:
        agent: an agent or other policy; None for uniform actions only (``epsilon`` 1).
        env: a scalar, vector or on-device environment. It is reset first, and left in the midst of episodes.
        num_transitions: how many transitions to return, exactly; where a step of many rows gives more
            than are wanted, its first rows are taken.
        epsilon: probability of a uniform action, in [0, 1].
        seed: seeds the environment and the uniform actions.
        env_id: id to note down; default: that of ``env.spec``, if it has one.

    Returns:
        The data set, on the CPU.

    Raises:
        ValueError: if an argument lies outside its range, the agent has other spaces than the environment,
            uniform actions are asked for in an unbounded action space, or the environment or agent gives
            what no data set takes (NaN, actions outside the space).
        FloatingPointError: if a reward on the host is NaN or infinite.
        TypeError: if a space is neither Discrete nor Box.
    """
    if isinstance(num_transitions, bool) or not isinstance(num_transitions, int) or num_transitions < 1:
        raise ValueError(f"num_transitions is {num_transitions!r}; it must be a whole number of at least 1")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon is {epsilon}; it must be a probability")
    if agent is None and epsilon < 1.0:
        raise ValueError(f"agent is None and epsilon {epsilon}; without an agent epsilon must be 1")
    recorder = _Recorder(agent, env, epsilon, seed)
    stepper = Stepper(cast(Agent, recorder))
    stepper.reset()
    while (missing := num_transitions - recorder.count()) > 0:
        for _ in range(-(-missing // stepper.num_envs)):
            stepper.step()
    spec = getattr(env, "spec", None)
    return TransitionDataset.from_transitions(
        **_in_episodes(recorder, num_transitions),
        observation_space=recorder.observation_space,
        action_space=recorder.action_space,
        env_id=spec.id if env_id is None and spec is not None else env_id,
    )


class _Recorder:
    """Stands where the loop has its agent: acts like one, and keeps what it is shown."""

    num_timesteps = 0
    info_keys = ()

    def __init__(self, agent: Policy | None, env: Any, epsilon: float, seed: int) -> None:
        self.agent, self.env, self.epsilon, self.seed = agent, env, epsilon, seed
        self.device = torch.device("cpu") if agent is None else agent.device
        self.observation_space = getattr(env, "single_observation_space", None) or env.observation_space
        self.action_space = getattr(env, "single_action_space", None) or env.action_space
        for name in ("observation_space", "action_space"):
            here = getattr(self, name)
            if not isinstance(here, (gym.spaces.Discrete, gym.spaces.Box)):
                raise TypeError(f"env has the {name} {here}; allowed are Discrete and Box spaces")
            known = getattr(agent, name, here)
            if known != here:
                raise ValueError(f"the agent's {name} is {known}; the environment's is {here}")
        if epsilon > 0.0:
            self._check_bounded()
        self.generator = seeded_generator(seed, "uniform actions of a data set")
        self.steps: list[Transitions] = []

    def restarted(self) -> None:
        """Take note of a reset: there is one, before the first step."""

    def _check_bounded(self) -> None:
        space = self.action_space
        if isinstance(space, gym.spaces.Box) and not (
            space_dtype(space).is_floating_point and space.is_bounded("both")
        ):
            raise ValueError(
                f"epsilon is {self.epsilon}, but the action space {space} has no uniform actions; "
                "it must be Discrete, or a bounded Box of floats"
            )

    def get_env(self) -> Any:
        return self.env

    def act(self, obs: Tensor) -> Tensor:
        if self.agent is None:
            return self._uniform(len(obs)).to(self.device)
        actions = self.agent.act(obs, deterministic=True)
        if self.epsilon == 0.0:
            return actions
        uniform = self._uniform(len(obs)).to(actions)
        chosen = torch.rand(len(obs), generator=self.generator) < self.epsilon
        chosen = chosen.reshape(-1, *(1,) * (actions.ndim - 1)).to(self.device)
        return torch.where(chosen, uniform, actions)

    def _uniform(self, count: int) -> Tensor:
        space = self.action_space
        if isinstance(space, gym.spaces.Discrete):
            drawn = torch.randint(int(space.n), (count,), generator=self.generator)
            return drawn + int(space.start)
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        unit = torch.rand((count, *low.shape), generator=self.generator, dtype=low.dtype)
        return torch.lerp(low.expand_as(unit), high.expand_as(unit), unit)

    def observe(self, transitions: Transitions) -> None:
        self.steps.append(transitions)

    def count(self) -> int:
        return int(torch.stack([step.mask for step in self.steps]).sum()) if self.steps else 0


def _in_episodes(recorder: _Recorder, num_transitions: int) -> dict[str, Tensor]:
    """Return the fields of the first transitions, row after row of the environment, and where rows end."""
    columns = {name: torch.stack([getattr(step, name) for step in recorder.steps]).cpu() for name in _COLUMNS}
    mask = columns.pop("mask")
    kept = mask & (mask.flatten().cumsum(0).reshape(mask.shape) <= num_transitions)
    ends = torch.zeros_like(kept)
    last = torch.where(kept, torch.arange(len(kept))[:, None], -1).max(0).values
    rows = torch.nonzero(last >= 0).flatten()
    ends[last[rows], rows] = True
    columns["ends"] = ends
    by_row = {name: values.transpose(0, 1)[kept.T] for name, values in columns.items()}
    obs_dtype = space_dtype(recorder.observation_space)
    return {
        **by_row,
        "obs": by_row["obs"].to(obs_dtype),
        "next_obs": by_row["next_obs"].to(obs_dtype),
        "actions": by_row["actions"].to(space_dtype(recorder.action_space)),
        "rewards": by_row["rewards"].to(torch.float32),
    }
