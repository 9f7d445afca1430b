"""Runs of IQL and behaviour cloning from a file of transitions, and IQL against cloning in Pendulum."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

import prefrl
from prefrl import cli
from prefrl.agents import IQL, BehaviourCloning, BehaviourCloningConfig, IQLConfig
from prefrl.data import TransitionDataset, save_transitions
from prefrl.run.collect import collect_transitions
from prefrl.run.evaluate import evaluate_rows

assert prefrl.make_device
RECIPES = {"iql": IQL, "behaviour_cloning": BehaviourCloning}
SMALL = ["--hidden", "8", "--batch-size", "16", "--eval-episodes", "2", "--final-episodes", "3", "--quiet"]


def file_of(tmp_path: Path, env_id: str) -> str:
    data = collect_transitions(None, gym.make(env_id), 64, epsilon=1.0, seed=0)
    save_transitions(tmp_path / "data.npz", data)
    return str(tmp_path / "data.npz")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("env_id", ["prefrl/Pendulum-v0", "prefrl/CartPole-v0"])
def test_a_run_from_a_file(name: str, env_id: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--env-id", env_id, "--dataset", file_of(tmp_path, env_id), "--total-timesteps", "20", *SMALL]
    assert cli.main(["train", name, *flags, "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert {"final_return", "eval_returns", "eval_timesteps", "steps_per_second", "seconds"} <= set(result)
    assert result["num_timesteps"] == 20
    assert len(result["eval_returns"]) == 10
    agent = prefrl.load(out / "agent.pt", device="cpu")
    assert type(agent) is RECIPES[name]
    header = (out / "progress.csv").read_text().splitlines()[0]
    assert "train/loss" in header
    assert cli.main(["evaluate", str(out), "--episodes", "2"]) == 0


@pytest.mark.parametrize("name", RECIPES)
def test_what_cannot_be_learned_from_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = file_of(tmp_path, "prefrl/CartPole-v0")
    for given, message in (
        ([], "dataset is None; it must be a file of transitions to learn from: --dataset FILE"),
        (["--dataset", str(tmp_path / "none.npz")], "there is no transition file"),
        (["--dataset", data], "a dataset from another environment (prefrl/CartPole-v0)"),
    ):
        out = tmp_path / "run"
        assert (
            cli.main(["train", name, "--env-id", "prefrl/Pendulum-v0", *given, *SMALL, "--out", str(out)])
            == 2
        )
        assert message in capsys.readouterr().err
        assert not out.exists()


# IQL against cloning -----------------------------------------------------------------------------------


class Swinging:
    """Swings a pendulum up by its energy, and holds it there."""

    device = torch.device("cpu")

    def act(self, obs: Tensor, *, deterministic: bool = True) -> Tensor:
        cos, sin, speed = obs.unbind(-1)
        missing = 15.0 - 0.5 * speed.square() - 15.0 * cos  # of what it has at rest at the top
        swing = 2.0 * torch.sign(missing * speed + 1e-9)
        hold = -10.0 * torch.atan2(sin, cos) - 2.5 * speed
        return torch.where(cos > 0.93, hold, swing).clamp(-2.0, 2.0)[:, None]


def mixed(seed: int) -> TransitionDataset:
    """10,000 steps of a good controller: a third of its actions at random, most of them, and all of them."""
    parts = []
    for place, (epsilon, count) in enumerate(((0.2, 3_000), (0.6, 3_000), (1.0, 4_000))):
        env: Any = gym.make_vec("Pendulum-v1", num_envs=5)
        agent: Any = Swinging()
        parts.append(collect_transitions(agent, env, count, epsilon=epsilon, seed=10 * seed + place))
    names = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return TransitionDataset.from_transitions(
        **joined, ends=torch.cat([~part.has_next_action for part in parts]), env_id="Pendulum-v1",
        observation_space=parts[0].observation_space, action_space=parts[0].action_space,
    )  # fmt: skip


def returned(agent: Any, seed: int) -> float:
    found = evaluate_rows(agent, gym.make_vec("Pendulum-v1", num_envs=20), seed=100 + seed)
    return float(found["mean_return"])


@pytest.mark.slow
def test_iql_beats_cloning_on_data_of_mixed_quality() -> None:
    """Rewards in tens: temperature 3 is then .3 in Pendulum's own unit, whose advantages are tens."""
    env, rows = gym.make("Pendulum-v1"), {}
    settings: dict[str, Any] = {"hidden": (64, 64), "batch_size": 128, "learning_rate": 1e-3}
    for seed in range(3):
        data = mixed(seed)
        data = dataclasses.replace(data, rewards=0.1 * data.rewards)
        given: dict[str, Any] = {"dataset": data, "device": "cpu", "seed": seed}
        cloned = BehaviourCloning(env, BehaviourCloningConfig(**settings), **given).learn(1_200)
        config = IQLConfig(**settings, expectile=0.8, gamma=0.95, tau=0.02)
        iql = IQL(env, config, **given).learn(3_600)
        whole = data.returns(1.0)[torch.cat([torch.ones(1).bool(), ~data.has_next_action[:-1]])]
        rows[seed] = [returned(cloned, seed), returned(iql, seed), 10.0 * float(whole.mean())]
        print(f"seed {seed}: cloned, IQL, data's mean:", *(round(value) for value in rows[seed]))
    assert all(iql > cloned + 100.0 for cloned, iql, _ in rows.values()), rows
    assert all(iql > data for _, iql, data in rows.values()), rows
