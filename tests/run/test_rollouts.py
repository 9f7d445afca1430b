"""Rollouts by any policy, and episodes that never end."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from prefrl.agents import QLearning
from prefrl.envs.factors import factors_of
from prefrl.run.evaluate import evaluate, evaluate_rows, rollout
from prefrl.run.outcomes.factors import factor_means

LENGTH = 12


class Corridor(gym.Env[Any, Any]):
    """Ends after LENGTH steps of action 1; action 0 stays. Pays the number of the step."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = self.time = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        self.place, self.time = self.place + int(action), self.time + 1
        return 0, float(self.time), self.place >= LENGTH, False, {}


class Always:
    """A plain policy: neither an agent nor anything like it."""

    device = torch.device("cpu")

    def __init__(self, action: int) -> None:
        self.action = action

    def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
        assert deterministic
        return torch.full((len(obs),), self.action)


def rows() -> Any:
    return SyncVectorEnv([Corridor] * 3)


def agent(action: int) -> QLearning:
    found = QLearning(Corridor(), device="cpu")
    found.q[:, action] = 1.0
    return found


def test_returns_and_lengths_of_a_plain_policy() -> None:
    returns, lengths = rollout(Always(1), rows(), seed=0, gamma=0.5)
    expected = sum(0.5**t * (t + 1) for t in range(LENGTH))
    np.testing.assert_allclose(returns, [expected] * 3)
    assert lengths.tolist() == [LENGTH] * 3


def test_drawn_actions_are_asked_for_and_every_step_is_watched() -> None:
    class Drawn(Always):
        def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
            assert not deterministic
            return torch.tensor([0, 1, 1])  # the first row never ends

    seen: list[tuple[list[int], list[bool]]] = []

    def watch(actions: Any, obs: Any, infos: Any, going: Any) -> None:
        seen.append((actions.tolist(), going.tolist()))

    with pytest.warns(UserWarning, match="was cut"):
        rollout(Drawn(0), rows(), seed=0, max_steps=LENGTH + 2, deterministic=False, watch=watch)
    assert len(seen) == LENGTH + 2
    assert seen[LENGTH - 1] == ([0, 1, 1], [True, True, True])
    assert seen[LENGTH] == ([0, 1, 1], [True, False, False])


def test_uniform_actions_need_no_policy_and_follow_the_seed() -> None:
    first, again, other = (rollout(None, rows(), seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert min(first) > LENGTH  # half of the steps stay


ENDLESS: dict[str, Callable[[int, int], Any]] = {
    "rows": lambda action, most: evaluate_rows(agent(action), rows(), seed=0, max_steps=most),
    "scalar": lambda action, most: evaluate(agent(action), Corridor(), episodes=2, seed=0, max_steps=most),
    "rollout": lambda action, most: rollout(Always(action), rows(), seed=0, max_steps=most),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_episode_that_never_ends_is_cut_and_warned_of(kind: str) -> None:
    with pytest.warns(
        UserWarning, match=r"in the environment was cut after 1,000 steps \(max_steps\).*limit"
    ):
        found = ENDLESS[kind](0, 1000)
    length = found[1][0] if isinstance(found, tuple) else found["mean_length"]
    assert length == 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ENDLESS[kind](1, LENGTH)  # over in time
    with pytest.warns(UserWarning, match=f"was cut after {LENGTH - 1} steps"):
        ENDLESS[kind](1, LENGTH - 1)
    with pytest.raises(ValueError, match="max_steps is 0; it must be at least 1"):
        ENDLESS[kind](1, 0)


def test_episodes_one_after_the_other_start_anew_where_one_was_cut() -> None:
    with pytest.warns(UserWarning, match="was cut after 5 steps"):
        found = evaluate(agent(1), Corridor(), episodes=3, seed=0, max_steps=5)
    assert (found["mean_return"], found["std_return"], found["mean_length"]) == (15.0, 0.0, 5.0)


def test_the_warning_names_the_environment_and_what_to_do() -> None:
    """The greedy policy of a fresh agent goes up for ever."""
    up = QLearning(gym.make("CliffWalking-v1"), device="cpu")
    env = gym.make_vec("CliffWalking-v1", 2)
    with pytest.warns(UserWarning, match=r"in CliffWalking-v1 was cut after 300 steps.*--env\.max_episode"):
        evaluate_rows(up, env, seed=0, max_steps=300)
    limited = gym.make_vec("CliffWalking-v1", 2, max_episode_steps=200)
    assert evaluate_rows(up, limited, seed=0, max_steps=300)["mean_length"] == 200


def test_rows_that_wait_for_a_reset_are_reset() -> None:
    """Their first episodes are of different lengths; with DISABLED somebody must restart them."""
    modes = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
    found = [rollout(None, SyncVectorEnv([Corridor] * 3, autoreset_mode=mode), seed=0) for mode in modes]
    for values in zip(*found, strict=True):
        np.testing.assert_array_equal(*values)
    assert len(set(found[0][1])) > 1


def test_factors_of_an_endless_episode() -> None:
    class Zero(Always):
        def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
            assert deterministic
            return torch.zeros(len(obs), 1)

    env = gym.make("Pendulum-v1", max_episode_steps=50)
    means = factor_means(Zero(0), env, factors_of(env), seed=0)
    assert means["torque_squared"] == 0.0
    assert means["angle_squared"] != 0.0
    with pytest.warns(UserWarning, match="in Pendulum-v1 was cut after 40 steps"):
        cut = factor_means(Zero(0), env, factors_of(env), seed=0, max_steps=40)
    assert cut["angle_squared"] != means["angle_squared"]
