"""Exported policies act as the agent does, for any number of rows, without prefrl."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl
from prefrl.agents.base import Agent
from prefrl.cli import main
from prefrl.share import export
from prefrl.share.export import agreement, export_policy, sampled


def trained(name: str) -> Agent:
    if name == "dqn":
        config: Any = prefrl.DQNConfig(hidden=(16,), learning_starts=50)
        return prefrl.DQN(gym.make("prefrl.envs:prefrl/Delivery-v0"), config).learn(150)
    if name == "pictures":
        config = prefrl.DQNConfig(loss="mse", conv_filters=4, conv_features=16, learning_starts=50)
        return prefrl.DQN(gym.make("prefrl.envs:prefrl/MinAtar-Breakout-v0"), config).learn(80)
    if name == "ppo":
        config = prefrl.PPOConfig(normalize_observations=True, n_steps=64, batch_size=32)
        return prefrl.PPO(gym.make("Pendulum-v1"), config).learn(128)
    if name == "sac":
        return prefrl.SAC(gym.make("Pendulum-v1"), prefrl.SACConfig(hidden=(16, 16))).learn(150)
    if name == "iql":
        env = gym.make("Pendulum-v1")
        data = prefrl.collect_transitions(None, env, 200, epsilon=1.0, seed=0)
        return prefrl.IQL(env, prefrl.IQLConfig(hidden=(16, 16)), dataset=data).learn(20)
    return prefrl.QLearning(gym.make("prefrl.envs:prefrl/Delivery-v0")).learn(500)


@pytest.mark.parametrize("name", ["dqn", "pictures", "ppo", "sac", "iql", "q_learning"])
def test_programs_act_as_the_agent(name: str, tmp_path: Path) -> None:
    agent = trained(name)
    made = export_policy(agent, tmp_path, ("pt2", "onnx"), checks=200)
    told = json.loads(made.read_text())
    assert told["files"] == ["policy.onnx", "policy.pt2"]
    assert told["agreement"]["pt2"] == 1.0
    assert told["agreement"]["onnx"] > 0.98  # rounding decides between actions of the same value
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    for rows in (1, 7, 1500):
        obs = sampled(agent, rows, seed=3)
        wanted = agent.predict(obs.numpy(), deterministic=True)[0]
        np.testing.assert_allclose(program(obs).numpy(), wanted, atol=1e-5)
        found = session.run(None, {session.get_inputs()[0].name: obs.numpy()})[0]
        assert found.shape == wanted.shape
        assert np.isclose(found, wanted, atol=1e-4).reshape(rows, -1).all(1).mean() > 0.97


def test_a_program_needs_no_prefrl(tmp_path: Path) -> None:
    export_policy(trained("sac"), tmp_path, checks=10)
    code = (
        "import sys, torch\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "print(list(program(torch.zeros(3, 3)).shape), 'prefrl' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "policy.pt2")],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[3, 1] False"


def test_a_dict_of_observations_is_taken_by_its_names(tmp_path: Path) -> None:
    spaces = gym.spaces

    class Two(gym.Env[Any, Any]):
        observation_space = spaces.Dict({"where": spaces.Discrete(3), "numbers": spaces.Box(-1, 1, (2,))})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return {"where": 0, "numbers": np.zeros(2, np.float32)}, {}

        def step(self, action: Any) -> Any:
            return {"where": 1, "numbers": np.ones(2, np.float32)}, 1.0, False, True, {}

    agent = prefrl.PPO(Two(), prefrl.PPOConfig(n_steps=16, batch_size=8)).learn(16)
    export_policy(agent, tmp_path, checks=50)
    program = torch.export.load(tmp_path / "policy.pt2").module()
    obs = sampled(agent, 5, seed=1)
    assert torch.equal(program(obs), agent.act(obs, deterministic=True))
    assert set(json.loads((tmp_path / "policy.json").read_text())["inputs"]) == {"where", "numbers"}


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    env = gym.make("CartPole-v1")
    sb3 = prefrl.SB3Agent(env, prefrl.SB3Config("ppo", {"n_steps": 32, "batch_size": 32}))
    with pytest.raises(ValueError, match="policy of SB3Agent is no fixed program of tensors"):
        export_policy(sb3, tmp_path / "sb3", checks=4)
    agent = trained("sac")
    with pytest.raises(ValueError, match=r"formats is \('tflite',\); allowed are pt2 and onnx"):
        export_policy(agent, tmp_path / "sac", ("tflite",), checks=4)
    monkeypatch.setattr(export, "agreement", lambda found, wanted: 0.5)
    with pytest.raises(ValueError, match=r"agrees with it in a share of 0.5 of 4 observations only"):
        export_policy(agent, tmp_path / "sac", checks=4)
    assert not list(tmp_path.iterdir())


def test_agreement_is_a_share_of_rows() -> None:
    wanted = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert agreement(wanted + torch.tensor([[0.0, 0.0], [0.0, 1e-3]]), wanted) == 0.5
    assert agreement(wanted + 1e-6, wanted) == 1.0
    assert agreement(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.75


def test_the_command_takes_one_of_many_learners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    flags = ["--env-id", "prefrl/CartPole-v0", "--num-learners", "2", "--total-timesteps", "600"]
    assert main(["train", "dqn", *flags, "--loss", "mse", "--hidden", "8", "--out", run, "--quiet"]) == 0
    assert main(["export", run, "--learner", "1", "--checks", "20"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}/policy/policy.json"
    assert (
        json.loads((tmp_path / "run/policy/policy.json").read_text())["observation_space"]["high"][1] is None
    )
    assert main(["export", run, "--learner", "2"]) == 2
    assert "learner is 2; this run has learners 0 to 1" in capsys.readouterr().err
