"""Runs of deep Q-learning: going on after a crash, what stops them, evaluations that leave no trace."""

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from resuming import assert_same, crash_at, new_folder

import prefrl.envs
from prefrl import cli
from prefrl.agents import DQN, DQNConfig
from prefrl.agents.base import LearningFailedError, Spaces
from prefrl.agents.value_based.dqn import LEARNING_RATES
from prefrl.data import TransitionDataset
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.evaluate import Evaluation
from prefrl.run.folder import RunFolder
from prefrl.run.logger import read_progress
from prefrl.run.loop import Loop, learn

ENV = "prefrl/Delivery-v0"
CONFIG: dict[str, Any] = {
    "hidden": (8,), "batch_size": 8, "bins": 11, "quantiles": 4, "learning_starts": 40, "train_freq": 8,
    "target_update_interval": 30, "buffer_size": 160, "epsilon_timesteps": 200, "v_min": -400.0,
    "v_max": 400.0, "max_clamped_fraction": 1.0, "learning_rate": 0.01,
}  # fmt: skip


def on_device(**config: Any) -> DQN:
    env = prefrl.envs.make_device(ENV, 8, device="cpu", max_episode_steps=12)
    return DQN(env, DQNConfig(**{**CONFIG, **config}), device="cpu", seed=1)


def vector(**config: Any) -> DQN:
    env = gym.make_vec(ENV, num_envs=8, max_episode_steps=12)
    return DQN(env, DQNConfig(**{**CONFIG, **config}), device="cpu", seed=1)


def scalar(**config: Any) -> DQN:
    return DQN(gym.make(ENV, max_episode_steps=12), DQNConfig(**{**CONFIG, **config}), device="cpu", seed=1)


def cart_pole(**config: Any) -> DQN:
    return DQN(gym.make("CartPole-v1"), DQNConfig(**{**CONFIG, **config}), device="cpu", seed=1)


def untimed(folder: RunFolder) -> list[dict[str, str]]:
    rows = read_progress(folder.progress_path)
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def evaluation(every: int = 70) -> Evaluation:
    return Evaluation(gym.make_vec(ENV, 3, max_episode_steps=9), every=every, seed=4)


# Going on ----------------------------------------------------------------------------------------------

CASES: list[tuple[Callable[..., DQN], dict[str, Any]]] = [
    *((on_device, {"loss": loss}) for loss in LEARNING_RATES),
    (on_device, {"n_step": 3, "tau": 0.3, "dueling": True, "double": False}),
    (vector, {"n_step": 2}),
    (scalar, {"loss": "mse", "n_step": 3}),
]


@pytest.mark.parametrize(("make", "config"), CASES)
def test_resumed_equals_uninterrupted(
    make: Callable[..., DQN], config: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"total_timesteps": 320, "log_every": 50, "checkpoint_every": 64}
    whole_folder, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "crashed")
    whole = make(**config)
    Loop(whole, **settings, folder=whole_folder, evaluation=evaluation()).run()
    for crash in (90, 250):  # after the checkpoints at 64, and at 192 with a wrapped ring
        with pytest.raises(RuntimeError, match="crash"):
            Loop(make(**config), **settings, folder=folder, resume=True, evaluation=evaluation(),
                 callback=crash_at(crash)).run()  # fmt: skip
    agent = make(**config)
    loop = Loop(agent, **settings, folder=folder, resume=True, evaluation=evaluation())
    loop.run()
    ours, theirs = (load_checkpoint(each.checkpoint_path) for each in (folder, whole_folder))
    for key in ("agent", "stepper", "metrics", "num_timesteps", "target", "evaluations"):
        assert_same(ours[key], theirs[key])
    assert_same(agent.state_dict(), whole.state_dict())
    assert untimed(folder) == untimed(whole_folder)
    assert len(loop.evaluations) == 5  # at 70, 140, 210 and 280, or the step after, and at the end
    assert int(ours["agent"]["optimizer"]["state"][0]["step"]) > 30


def test_n_step_returns_do_not_reach_from_one_call_of_learn_into_the_next() -> None:
    """A new call starts new episodes: what came before is cut there."""
    agent = cart_pole(n_step=3, learning_starts=10_000)
    agent.learn(5)
    agent.learn(5)
    assert agent.replay is not None
    batch = agent.replay.sample(400, torch.Generator().manual_seed(0))
    storage = agent.replay.state_dict()["storage"]
    first = storage["next_obs"][:5, 0]  # no pole falls in 5 steps
    in_first = (batch.obs[:, None] == storage["obs"][:5, 0]).all(-1).any(-1)
    assert in_first.any()
    ends = (batch.next_obs[in_first][:, None] == first).all(-1).any(-1)
    assert ends.all()


@pytest.mark.parametrize(("settings", "needed"), [
    ({"batch_size": 8, "learning_starts": 40}, 40), ({"batch_size": 8, "learning_starts": 5}, 5),
])  # fmt: skip
def test_after_loading_learning_waits_for_as_much_as_before_its_first_step(
    settings: dict[str, Any], needed: int, tmp_path: Path
) -> None:
    agent = scalar(train_freq=1, **settings).learn(60)
    agent.save(tmp_path / "agent.pt")
    loaded = DQN.load(tmp_path / "agent.pt", env=gym.make(ENV, max_episode_steps=12), device="cpu")
    loaded.learn(needed - 1)
    assert torch.equal(weights(loaded), weights(agent))
    loaded.learn(1)
    assert not torch.equal(weights(loaded), weights(agent))


# Evaluations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [on_device, vector])
def test_evaluations_leave_no_trace_in_the_run(make: Callable[..., DQN]) -> None:
    plain, evaluated = make(), make()
    learn(plain, 240)
    loop = Loop(evaluated, 240, evaluation=evaluation(40))
    loop.run()
    assert len(loop.evaluations) == 6
    assert_same(evaluated.state_dict(), plain.state_dict())


# What stops a run --------------------------------------------------------------------------------------


def test_too_narrow_a_support_stops_the_run_and_keeps_its_state(tmp_path: Path) -> None:
    agent = on_device(v_min=-2.0, v_max=2.0, max_clamped_fraction=0.01)
    folder = new_folder(tmp_path / "run")
    message = r"of the targets lay outside the support \[-2, 2\].*at timestep \d+; .*failed\.pt"
    with pytest.raises(LearningFailedError, match=message):
        learn(agent, 4000, folder=folder, log_every=80)
    assert agent.num_timesteps < 400
    failed = load_checkpoint(folder.path / "failed.pt")
    assert failed["num_timesteps"] == agent.num_timesteps
    assert_same(failed["agent"], agent.state_dict())
    assert not folder.checkpoint_path.exists()


@pytest.fixture
def denormals() -> Iterator[None]:
    """The recipe flushes denormal numbers to zero, for the whole process."""
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("denormals")
def test_the_command_line_says_so_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["train", "dqn", "--env-id", ENV, "--num-envs", "8", "--total-timesteps", "4000", "--quiet",
                 "--learning-starts", "40", "--v-min", "-2", "--v-max", "2",
                 "--hidden", "8", "--batch-size", "8", "--device", "cpu", "--log-every", "80",
                 "--out", str(out)]  # fmt: skip
    assert cli.main(arguments) == 1
    assert "of the targets lay outside the support [-2, 2]" in capsys.readouterr().err
    assert (out / "failed.pt").exists()
    assert not (out / "agent.pt").exists()
    result = out / "result.json"
    assert not result.exists() or "final_return" not in json.loads(result.read_text())


@pytest.mark.parametrize("loss", LEARNING_RATES)
def test_rewards_that_are_not_numbers_stop_the_run(loss: str) -> None:
    env = gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: math.nan)
    config = DQNConfig(**{**CONFIG, "learning_starts": 0, "train_freq": 1}, loss=loss)
    with pytest.raises(FloatingPointError, match=r"(rewards?|rollout/ep_rew_mean|train/\w+) .*nan"):
        DQN(env, config, device="cpu").learn(200)


class NaNRewards(gym.vector.VectorWrapper):  # type: ignore[type-arg]
    """An environment on the device whose rewards are no numbers."""

    def step(self, actions: Any) -> Any:
        obs, rewards, *rest = self.env.step(actions)
        return obs, rewards * math.nan, *rest


def test_such_rewards_stop_it_on_the_device_too() -> None:
    env = NaNRewards(prefrl.envs.make_device(ENV, 8, device="cpu", max_episode_steps=12))
    with pytest.raises(FloatingPointError, match=r"(rewards?|rollout/ep_rew_mean|train/\w+) .*nan"):
        DQN(env, DQNConfig(**CONFIG), device="cpu").learn(400)


def weights(agent: DQN) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in agent.network.parameters()])


@pytest.mark.slow
def test_compiled_agents_of_one_process_do_not_take_each_others_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    kinds: list[dict[str, Any]] = [
        {"loss": "mse"},
        {"loss": "huber"},
        {"loss": "huber", "max_grad_norm": 0.1},
    ]
    kinds += [{"gamma": 0.9 + 0.01 * number} for number in range(8)]  # past what torch keeps of one function
    eager, compiled = ([on_device(**kind, compile=c) for kind in kinds] for c in (False, True))
    for _ in range(3):  # in turns, so that a function which has been found to fit meets the others'
        for agent in (*eager, *compiled):
            agent.learn(80)
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(weights(other), weights(one), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weights(eager[0]), weights(eager[1]), atol=1e-3)
    assert not torch.allclose(weights(eager[1]), weights(eager[2]), atol=1e-3)


@pytest.mark.slow
def test_a_compiled_run_goes_on_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    whole = on_device(compile=True)
    learn(whole, 400, folder=new_folder(tmp_path / "whole"), checkpoint_every=80)
    folder = new_folder(tmp_path / "broken")
    with pytest.raises(RuntimeError, match="crash"):
        learn(on_device(compile=True), 400, folder=folder, checkpoint_every=80, callback=crash_at(232))
    resumed = on_device(compile=True)
    learn(resumed, 400, folder=folder, checkpoint_every=80, resume=True)
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.slow
@pytest.mark.parametrize("loss", LEARNING_RATES)
def test_the_compiled_step_is_the_same(loss: str) -> None:
    # With a small epsilon Adam makes whole steps of gradients that are nothing but rounding.
    settings = {**CONFIG, "loss": loss, "n_step": 2, "dueling": True, "adam_eps": 1e-3}
    agents = [
        DQN(gym.make("CartPole-v1"), DQNConfig(**settings, compile=c), device="cpu") for c in (False, True)
    ]
    for agent in agents:
        agent.learn(300)
    eager, compiled = (weights(agent) for agent in agents)
    start = weights(DQN(gym.make("CartPole-v1"), DQNConfig(**settings), device="cpu"))
    assert (eager - start).abs().max() > 1e-2
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
    assert agents[0].clamped_fraction == agents[1].clamped_fraction


@pytest.mark.slow
def test_the_compiled_step_is_the_same_for_pictures_and_from_a_data_set() -> None:
    spaces = Spaces(gym.spaces.Box(0, 1, (10, 10, 4), np.bool_), gym.spaces.Discrete(3))
    states = torch.rand(201, 10, 10, 4, generator=torch.Generator().manual_seed(0)) < 0.3
    data = TransitionDataset.from_transitions(
        states[:-1], torch.arange(200) % 3, torch.arange(200.0) % 2, states[1:], *torch.zeros(2, 200).bool(),
        observation_space=spaces.single_observation_space, action_space=spaces.single_action_space,
    )  # fmt: skip
    settings = {**CONFIG, "cql_alpha": 0.3, "target_policy": "sarsa", "loss": "hl_gauss"}
    settings |= {"adam_eps": 1e-2}  # as above
    agents = [
        DQN(spaces, DQNConfig(**settings, compile=c), dataset=data, device="cpu").learn(40)
        for c in (False, True)
    ]
    eager, compiled = (weights(agent) for agent in agents)
    start = weights(DQN(spaces, DQNConfig(**settings), dataset=data, device="cpu"))
    assert (eager - start).abs().max() > 1e-2
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4)
    for agent in agents:  # another step size is taken at once
        agent.optimizer.lr = 0.0
        before = weights(agent)
        agent.learn(3)
        assert torch.equal(weights(agent), before)
