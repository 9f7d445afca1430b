"""What a time limit, an end and a cut are worth to PPO, by hand, in every mode and kind of environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from prefrl.agents import PPO, PPOConfig
from prefrl.envs.core.backend import Array, Noise, NumpyBackend, State
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.dynamics import Dynamics
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.run.loop import learn

LIMIT = 3


class ClockDynamics(Dynamics):
    """Shows how many steps there were; each is worth 1, whatever is done.

    ## Arguments
    * ``last``: steps after which the world ends.
    """

    def __init__(self, last: int = 99, backend: Any = None) -> None:
        self.backend, self.last = backend or NumpyBackend(), last
        self.single_observation_space = gym.spaces.Box(0.0, 99.0, (1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)

    def reset_noise(self, rng: Any, n: int) -> Noise:
        return {"unused": rng.uniform(n)}

    def step_noise(self, rng: Any, n: int) -> Noise:
        return {}

    def initial(self, noise: Noise, options: Any = None) -> State:
        return {"count": self.xp.zeros_like(noise["unused"])}

    def observe(self, state: State) -> Array:
        return self.xp.astype(state["count"][:, None], self.xp.float32)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        count = state["count"] + 1
        return {"count": count}, self.xp.ones_like(count), count >= self.last


class Clock(gym.Env[Any, Any]):
    """The same as a scalar environment of somebody else's."""

    observation_space = gym.spaces.Box(0.0, 99.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, last: int = 99) -> None:
        self.last = last

    def _obs(self) -> Any:
        return np.array([self.count], dtype=np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self._obs(), 1.0, self.count >= self.last, False, {}


def scalar(last: int, mode: AutoresetMode) -> Any:
    return gym.wrappers.TimeLimit(Clock(last), LIMIT)


def own_scalar(last: int, mode: AutoresetMode) -> Any:
    return gym.wrappers.TimeLimit(ScalarEnv(ClockDynamics(last)), LIMIT)


def vector(last: int, mode: AutoresetMode) -> Any:
    make = lambda: scalar(last, mode)  # noqa: E731
    return gym.vector.SyncVectorEnv([make, make], autoreset_mode=mode)


def own_vector(last: int, mode: AutoresetMode) -> Any:
    return BatchedEnv(ClockDynamics(last), 2, max_episode_steps=LIMIT, autoreset_mode=mode)


def device(last: int, mode: AutoresetMode) -> Any:
    dynamics = ClockDynamics(last, TorchBackend("cpu"))
    return BatchedEnv(dynamics, 2, max_episode_steps=LIMIT, autoreset_mode=mode)


class Seen(PPO):
    """Keeps what it worked out, by the seam for other kinds of advantage."""

    found: Tensor
    mask: Tensor

    def advantages(self, steps: Any, values: Tensor, next_values: Tensor) -> Tensor:
        self.found, self.mask = super().advantages(steps, values, next_values), steps["mask"].clone()
        return self.found


def agent_of(env: Any, **settings: Any) -> Seen:
    """An agent that takes every observation for its value: V(s) = s; gamma is 1/2, lambda 1."""
    config = PPOConfig(**{"hidden": (1,), "activation": "relu", "n_steps": 6, "n_epochs": 1, "gamma": 0.5,
                          "gae_lambda": 1.0, "normalize_rewards": False, **settings})  # fmt: skip
    agent = Seen(env, config, device="cpu")
    with torch.no_grad():
        for weight in agent.network.value.weights():
            weight.fill_(1.0)
    return agent


def episode(*deltas: float) -> list[float]:
    """Advantages of an episode, or a piece of one: sums of deltas, each step counting half."""
    return [sum(delta / 2**k for k, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


# delta = 1 + V(s') / 2 - V(s): at 0 it is 1.5, at 1 it is 1, at 2 it is 0.5, with the true successor, 3;
# with the next episode's first observation it were -1, and so it is where the world ends.
LIMITED, ENDED = episode(1.5, 1.0, 0.5), episode(1.5, 1.0, -1.0)
RESTART = None
"""In place of a row that is no transition."""


@pytest.mark.parametrize(("last", "whole"), [(99, LIMITED), (LIMIT, ENDED)], ids=["limit", "end"])
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("make", [scalar, own_scalar, vector, own_vector, device])
def test_a_limit_is_no_end(make: Any, mode: AutoresetMode, last: int, whole: list[float]) -> None:
    agent = agent_of(make(last, mode))
    rows = getattr(agent.env, "num_envs", 1)
    learn(agent, 6 * rows)
    expected: list[Any] = [*whole, *whole]
    if rows > 1 and mode is AutoresetMode.NEXT_STEP:
        expected = [*whole, RESTART, *episode(1.5, 1.0)]  # the rollout stops in mid-episode
    for row in range(rows):
        for t, value in enumerate(expected):
            assert agent.mask[t, row] == (value is not RESTART)
            assert value is RESTART or agent.found[t, row].item() == pytest.approx(value)


@pytest.mark.parametrize("make", [scalar, own_vector, device])
def test_a_new_call_of_learn_cuts_the_episode(make: Any) -> None:
    agent = agent_of(make(99, AutoresetMode.SAME_STEP))
    rows = getattr(agent.env, "num_envs", 1)
    learn(agent, 2 * rows)
    learn(agent, 4 * rows)  # begins with a reset
    for row in range(rows):
        assert agent.found[:, row].tolist() == [*episode(1.5, 1.0), *episode(1.5, 1.0, 0.5), 1.5]


def test_the_newest_step_is_not_cut_when_a_rollout_was_just_learned_from() -> None:
    agent = agent_of(scalar(99, AutoresetMode.SAME_STEP))
    learn(agent, 6)
    learn(agent, 6)
    assert agent.found[:, 0].isfinite().all()
    assert agent.rollout is not None
    assert agent.rollout.storage["truncations"][:, 0].tolist() == [False, False, True] * 2


@pytest.mark.parametrize("first", [4, 6, 8])
def test_sums_for_the_scale_of_rewards_begin_anew_with_the_episode(first: int) -> None:
    """Also where a call of ``learn`` ends with a rollout; the sums are 1, 1.5 and 1.75 then."""
    agent = agent_of(gym.wrappers.TimeLimit(Clock(), 4), normalize_rewards=True, n_steps=2)
    for steps in (first, 2):
        learn(agent, steps)
    episodes = [1.0, 1.5, 1.75, 1.875] * 2
    sums = [*episodes[:first], 1.0, 1.5]
    assert float(agent._sums.mean) == pytest.approx(np.mean(sums))
    assert float(agent._sums.scale) == pytest.approx(1.0 / np.std(sums), rel=1e-5)


def test_a_cut_within_a_rollout_begins_the_sums_anew() -> None:
    agent = agent_of(gym.wrappers.TimeLimit(Clock(), 99), normalize_rewards=True, n_steps=4)
    learn(agent, 3)
    learn(agent, 5)
    assert float(agent._sums.mean) == pytest.approx(np.mean([1.0, 1.5, 1.75, 1.0, 1.5, 1.75, 1.875, 1.9375]))


def test_advantages_may_be_of_another_kind() -> None:
    """The seam: what a subclass says is what is learned from."""

    class Nothing(PPO):
        def advantages(self, steps: Any, values: Tensor, next_values: Tensor) -> Tensor:
            return torch.zeros_like(values)

    agent = Nothing(scalar(99, AutoresetMode.SAME_STEP), PPOConfig(n_steps=6, hidden=(4,)), device="cpu")
    before = [parameter.clone() for parameter in agent.network.policy.parameters()]
    learn(agent, 12)
    assert all(
        torch.equal(now, then) for now, then in zip(agent.network.policy.parameters(), before, strict=True)
    )
    assert isinstance(agent.learner(0), Nothing)
