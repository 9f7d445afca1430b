"""Many deep Q-learners as one: each is what it would be alone, whoever its neighbours are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prefrl import cli
from prefrl.agents import DQN, DQNConfig, DQNLearners
from prefrl.agents.base import LearningFailedError, Spaces, load
from prefrl.envs import make_device
from prefrl.reading.text import read_json
from prefrl.run.loop import learn
from tests.shared.resuming import assert_same, crash_at, new_folder

LOSSES = ("mse", "huber", "hl_gauss", "two_hot", "c51", "quantile", "mse_softmax")
SMALL: dict[str, Any] = {
    "hidden": (8, 8), "learning_starts": 20, "batch_size": 8, "train_freq": 2, "bins": 11, "quantiles": 5,
    "epsilon_timesteps": 50, "target_update_interval": 20, "max_clamped_fraction": 1.0,
}  # fmt: skip
PICTURES = gym.spaces.Box(0, 255, (5, 5, 2), np.uint8)


class Pictures(gym.Env[Any, Any]):
    """Noise as pictures; the reward is the action."""

    observation_space, action_space = PICTURES, gym.spaces.Discrete(3, start=1)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.picture(), {}

    def step(self, action: Any) -> Any:
        return self.picture(), float(action), self.np_random.random() < 0.2, False, {}

    def picture(self) -> Any:
        return self.np_random.integers(0, 256, PICTURES.shape, dtype=np.uint8)


def on_device(learners: int, rows: int = 2) -> Any:
    return make_device("prefrl/CartPole-v0", learners * rows, num_streams=learners)


def in_sync(learners: int, rows: int = 2) -> Any:
    return gym.vector.SyncVectorEnv([Pictures] * (learners * rows))


def trained(
    learners: int, steps: int = 200, *, seed: int = 0, env: Callable[[int], Any] = on_device, **settings: Any
) -> DQNLearners:
    config = DQNConfig(**{**SMALL, **settings})
    agent = DQNLearners(env(learners), config, num_learners=learners, device="cpu", seed=seed)
    return learn(agent, steps)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_learner_is_the_same_among_others(loss: str) -> None:
    many, few = trained(4, loss=loss, n_step=2), trained(2, loss=loss, n_step=2)
    alone = trained(1, seed=1, loss=loss, n_step=2)
    start = DQNLearners(on_device(1), DQNConfig(**SMALL, loss=loss), num_learners=1, device="cpu", seed=1)
    assert torch.equal(many.online.vectors[:2], few.online.vectors)
    torch.testing.assert_close(alone.online.vectors[0], many.online.vectors[1], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(alone.online.vectors, start.online.vectors, atol=1e-3)
    assert not torch.allclose(many.online.vectors[0], many.online.vectors[1], atol=1e-3)
    assert torch.equal(many._noise.streams.keys[1:2], alone._noise.streams.keys)


@pytest.mark.parametrize("loss", ["huber", "c51"])
def test_convolutions_learn_side_by_side_too(loss: str) -> None:
    many, few = (trained(learners, 100, env=in_sync, loss=loss) for learners in (3, 2))
    torch.testing.assert_close(many.online.vectors[:2], few.online.vectors, rtol=1e-3, atol=1e-5)
    assert many._chains is not None
    assert many._chains[0].front is not None


def test_one_learner_starts_as_the_agent_of_its_seed() -> None:
    agent = DQN(Spaces(Pictures.observation_space, Pictures.action_space), device="cpu", seed=5)
    spaces = Spaces(Pictures.observation_space, Pictures.action_space)
    many = DQNLearners(spaces, num_learners=3, device="cpu", seed=4)
    for name, value in agent.network.state_dict().items():
        if name in (mine := many.online.state_dict()):
            assert torch.equal(value, mine[name][1])


@pytest.mark.parametrize("env", [on_device, in_sync])
def test_a_learner_is_an_agent_of_its_own(tmp_path: Path, env: Callable[[int], Any]) -> None:
    many = trained(3, 100, env=env)
    obs = env(1).reset(seed=3)[0]
    seen = torch.as_tensor(np.asarray(obs))
    for index in range(3):
        one = many.learner(index)
        assert isinstance(one, DQN)
        expected = many.q_values(seen.expand(3, *seen.shape))[index]
        torch.testing.assert_close(one.q_values(seen), expected, rtol=1e-4, atol=1e-5)
        assert (one.seed, one.num_timesteps) == (index, many.num_timesteps)
    one.save(tmp_path / "one.pt")
    again = DQN.load(tmp_path / "one.pt", env=env(1))
    assert_same(again.optimizer.state_dict(), one.optimizer.state_dict())
    learn(again, 60)
    assert again.num_timesteps == many.num_timesteps + 60
    with pytest.raises(ValueError, match="index is 3; the learners are 0 to 2"):
        many.learner(3)
    with pytest.raises(ValueError, match=r"there are 3 learners; ask one: agent.learner\(0\)"):
        many.predict(np.asarray(obs))


def test_all_of_them_are_saved_and_loaded(tmp_path: Path) -> None:
    many = trained(2, 100)
    many.save(tmp_path / "many.pt")
    again = load(tmp_path / "many.pt", env=on_device(2))
    assert isinstance(again, DQNLearners)
    assert again.num_learners == 2
    assert torch.equal(again.online.vectors, many.online.vectors)
    learn(again, 60)


def test_settings_may_be_those_of_each() -> None:
    rates, gammas = (1e-3, 1e-2, 1e-3), (0.9, 0.9, 0.5)
    many = trained(3, learning_rate=rates, gamma=gammas, n_step=3)
    for index in range(3):
        same = trained(3, learning_rate=rates[index], gamma=gammas[index], n_step=3)
        torch.testing.assert_close(
            many.online.vectors[index], same.online.vectors[index], rtol=1e-4, atol=1e-6
        )
    assert many.learner(1).config == DQNConfig(**{**SMALL, "learning_rate": 1e-2, "gamma": 0.9, "n_step": 3})


def test_one_that_diverges_is_frozen_and_the_others_go_on() -> None:
    with pytest.warns(UserWarning, match=r"learners \[1\] diverged and stay as they were before"):
        many = trained(3, loss="huber", learning_rate=(1e-3, 3e38, 1e-3))
    sound = trained(3, loss="huber", learning_rate=1e-3)
    assert torch.equal(many.online.vectors[[0, 2]], sound.online.vectors[[0, 2]])
    assert many.result()["frozen_learners"] == [1]
    before = many.online.vectors[1].clone()
    learn(many, 40)
    assert torch.equal(many.online.vectors[1], before)
    assert before.isfinite().all()


@pytest.mark.parametrize("loss", ["huber", "hl_gauss"])
def test_a_resumed_run_is_bit_equal(tmp_path: Path, loss: str) -> None:
    whole, broken = (
        DQNLearners(on_device(2), DQNConfig(**SMALL, loss=loss), num_learners=2, device="cpu", seed=3)
        for _ in range(2)
    )
    learn(whole, 300, folder=new_folder(tmp_path / "whole"), checkpoint_every=100)
    folder = new_folder(tmp_path / "broken")
    with pytest.raises(RuntimeError, match="crash"):
        learn(broken, 300, folder=folder, checkpoint_every=100, callback=crash_at(150))
    fresh = DQNLearners(on_device(2), DQNConfig(**SMALL, loss=loss), num_learners=2, device="cpu", seed=3)
    learn(fresh, 300, folder=folder, checkpoint_every=100, resume=True)
    assert_same(fresh.state_dict(), whole.state_dict())


class Calls(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("env", [on_device, in_sync])
def test_more_learners_take_no_more_operations(env: Callable[[int], Any]) -> None:
    counts = []
    for learners in (2, 16):
        agent = trained(learners, 60, env=env)
        agent._places.next(agent.config.batch_size)  # not the one that draws ahead
        with Calls() as calls:
            agent._gradient_step()
        counts.append(calls.count)
    assert counts[0] == counts[1]


def test_targets_beyond_the_support_end_the_run() -> None:
    with pytest.raises(LearningFailedError, match=r"of the targets of learner \d lay outside the support"):
        trained(2, 300, loss="hl_gauss", v_min=-1.0, v_max=0.5, max_clamped_fraction=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": (1e-3, 1e-3, 1e-3)}, "learning_rate is for 3 learners; num_learners is 2"),
        ({"compile": True}, "compile is True; for several learners it must be False"),
        ({"cuda_graph": True}, "cuda_graph is True; for several learners it must be False"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DQNLearners(on_device(2), DQNConfig(**settings), num_learners=2, device="cpu")


def test_sarsa_targets_are_refused_where_environments_are_stepped() -> None:
    agents = DQNLearners(on_device(2), DQNConfig(target_policy="sarsa"), num_learners=2, device="cpu")
    with pytest.raises(ValueError, match="target_policy is 'sarsa'; it must be 'greedy' where several"):
        agents.learn(10)


def test_environments_that_are_refused() -> None:
    with pytest.raises(ValueError, match="env has 4 rows; they must be a multiple of the 3 learners"):
        DQNLearners(on_device(2), num_learners=3, device="cpu")
    with pytest.raises(ValueError, match="make it with num_streams=2"):
        DQNLearners(make_device("prefrl/CartPole-v0", 4), num_learners=2, device="cpu")
    with pytest.raises(
        ValueError, match="learning_rate is for 3, gamma is for 2 learners; they must be for as many"
    ):
        DQNConfig(gamma=(0.9, 0.9), learning_rate=(1e-3, 1e-3, 1e-3))
    with pytest.raises(ValueError, match="gamma is for 2 learners; num_learners is 1"):
        DQN(on_device(1), DQNConfig(gamma=(0.9, 0.9)), device="cpu")


def test_a_run_of_several_tells_of_each(tmp_path: Path) -> None:
    flags = {"env-id": "prefrl/CartPole-v0", "num-learners": 3, "num-envs": 2, "total-timesteps": 120,
             "learning-starts": 20, "batch-size": 8, "hidden": 8, "eval-episodes": 2, "final-episodes": 2,
             "eval-every": 60, "max-clamped-fraction": 1, "device": "cpu", "out": tmp_path / "r"}  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert cli.main(["train", "dqn", *words]) == 0
    result = read_json(tmp_path / "r" / "result.json", "result.json")
    assert [learner["seed"] for learner in result["learners"]] == [0, 1, 2]
    assert result["eval_timesteps"] == [60, 120]
    assert all(len(learner["eval_returns"]) == 2 for learner in result["learners"])
    low, high = result["interval"]
    assert low <= result["final_return"] <= high
    assert cli.main(["plot", str(tmp_path / "r"), "--y", "eval/mean_reward"]) == 0
