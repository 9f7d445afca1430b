"""The agent of dynamic choice: as its functions, files, data of strangers, refusals, runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

import prefrl.envs
from prefrl import DynamicChoice, DynamicChoiceConfig, load
from prefrl.cli import main
from prefrl.data import TransitionDataset, save_transitions
from prefrl.functional.choice import dynamic_choice as F
from prefrl.run.collect import collect_choices
from prefrl.run.outcomes.choices import choice_outcome

assert prefrl.envs.REGISTRY
ID = "prefrl/DynamicChoice-v0"


def task(**settings: Any) -> gym.Env[Any, Any]:
    return gym.make(ID, **settings)


def choices(env: Any, count: int, seed: int = 0, **settings: Any) -> TransitionDataset:
    return collect_choices(
        env, gym.make_vec(ID, count // env.unwrapped.horizon, **settings), count, seed=seed
    )


def learned(env: Any, dataset: TransitionDataset, **settings: Any) -> DynamicChoice:
    return DynamicChoice(env, DynamicChoiceConfig(**settings), dataset=dataset, device="cpu").learn(3)


def refused(env: Any, data: Any, settings: Any, given: Any) -> None:
    DynamicChoice(env, DynamicChoiceConfig(**settings), **{"dataset": data, "device": "cpu", **given})


def test_it_is_its_three_functions() -> None:
    env = task(layout_seed=1)
    data = choices(env, 9_000, layout_seed=1)
    moves = np.zeros((3, 5, 3, 5))
    for obs, action, following in zip(
        data.obs.tolist(), data.actions.tolist(), data.next_obs.tolist(), strict=True
    ):
        moves[obs // 5, obs % 5, action, following % 5] += 1.0
    counts, phi = torch.as_tensor(moves), F.indicator_features(5, 3)
    q = F.choice_values(counts.sum(-1), phi, 0, 1e-3)
    rewards = F.bellman_rewards(q, counts, phi, 1.0, "policy", 1.0)
    bounds = env.unwrapped.reward_range()  # type: ignore[attr-defined]
    plan = F.pessimistic_plan(rewards, counts, phi, pessimism=1.0, ridge=1.0, reward_range=bounds)
    agent = learned(env, data)
    for found, expected in ((agent.q, q), (agent.rewards, rewards), (agent.plan, plan.q)):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    assert agent.num_timesteps == 3
    outcome = choice_outcome(agent, env)
    assert 0.0 <= outcome["suboptimality"] + 1e-9 < 0.1 < outcome["behaviour_suboptimality"]
    assert outcome["reward_rmse"] < 0.3
    mean, _ = evaluate_policy(agent, env, n_eval_episodes=400, warn=False)  # type: ignore[arg-type]
    assert mean == pytest.approx(env.unwrapped.optimal_value().mean(), abs=0.5)  # type: ignore[attr-defined]


def test_sample_splitting_uses_each_episode_once() -> None:
    env = task()
    data = choices(env, 9_000)
    agent, whole = learned(env, data, sample_splitting=True), learned(env, data)
    assert agent._moves is not None
    assert whole._moves is not None
    torch.testing.assert_close(agent._moves.sum(0), whole._moves[0])
    assert agent._moves.sum((1, 2, 3, 4)).tolist() == [3_000.0] * 3
    assert (agent.rewards - whole.rewards).abs().max() > 1e-3
    assert choice_outcome(agent, env)["suboptimality"] < 0.2


def test_linear_features_and_files(tmp_path: Path) -> None:
    env = task()
    phi = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    data = choices(env, 3_000, 1)
    agent = DynamicChoice(env, dataset=data, features=phi, device="cpu").learn(3)
    assert agent.q.std() > 0.01
    agent.save(tmp_path / "agent.pt")
    again: Any = load(tmp_path / "agent.pt", device="cpu")
    assert isinstance(again, DynamicChoice)
    for name in ("q", "rewards", "plan", "penalty", "features"):
        assert torch.equal(getattr(again, name), getattr(agent, name))
    obs = torch.arange(20)
    assert torch.equal(again.act(obs), agent.act(obs))
    with pytest.raises(ValueError, match="was given no data set"):
        again.update()


def test_refusals() -> None:
    env = task()
    data = choices(env, 30)
    for settings, given, message in (
        ({"anchor": 3}, {}, "anchor is 3; there are 3 actions"),
        (
            {},
            {"features": torch.ones(5, 3)},
            r"features have shape \[5, 3\]; they must be \[S, A, d\] = \[5, 3, d\]",
        ),
        ({}, {"features": torch.full((5, 3, 1), np.nan)}, "features hold NaN"),
        ({}, {"horizon": 2}, "observations are"),
        ({"reward_range": (1.0, 0.0)}, {}, "reward_range is"),
        ({"sample_splitting": True}, {"dataset": choices(env, 6)}, "there are 2 episodes"),
    ):
        with pytest.raises(ValueError, match=message):
            refused(env, data, settings, given)
    with pytest.raises(ValueError, match="a dataset from another environment"):
        DynamicChoice(task(num_states=6), dataset=data, device="cpu")
    still = replace(data, next_obs=data.obs, has_next_action=torch.zeros(30, dtype=torch.bool),
                    next_actions=data.actions)  # fmt: skip
    with pytest.raises(ValueError, match=r"next_obs\[0\] is \d after \d; observations are 5 \* h"):
        DynamicChoice(env, dataset=still, device="cpu")
    with pytest.raises(ValueError, match="knows no people who act in it; give a file"):
        collect_choices(gym.make("prefrl/CartPole-v0"), None, 10, seed=0)
    with pytest.raises(ValueError, match="observations are"):
        DynamicChoice(gym.make("prefrl/CartPole-v0"), device="cpu")
    unfinished = DynamicChoice(env, dataset=data, device="cpu").learn(1)
    with pytest.warns(UserWarning, match="1 of 3 steps were taken"):
        unfinished.result()


def test_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    task_flags = "--env.num-states 4 --env.num-actions 2 --env.horizon 2 --env.layout-seed 5"
    agent_flags = "--num-choices 4000 --gamma 0.5 --value logsumexp --pessimism 0.5"
    flags = [*task_flags.split(), *agent_flags.split()]
    assert main(["train", "dynamic_choice", *flags, "--out", str(out), "--quiet"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert {"suboptimality", "behaviour_suboptimality", "reward_rmse", "seconds"} <= set(result)
    assert result["reward_rmse"] < 0.3
    config = json.loads((out / "config.json").read_text())
    assert config["config"]["agent"]["value"] == "logsumexp"
    # The same people, from a file; and people who look less far than is thought.
    same: Any = {"num_states": 4, "num_actions": 2, "horizon": 2, "layout_seed": 5, "gamma": 0.5,
                 "value": "logsumexp"}  # fmt: skip
    save_transitions(tmp_path / "choices.npz", choices(task(**same), 4_000, **same))
    again, other = tmp_path / "again", tmp_path / "other"
    given = ["--dataset", str(tmp_path / "choices.npz"), "--out", str(again), "--quiet"]
    assert main(["train", "dynamic_choice", *flags, *given]) == 0
    repeated = json.loads((again / "result.json").read_text())
    assert repeated["reward_rmse"] < 0.3
    assert (
        main(["train", "dynamic_choice", *flags, "--env.gamma", "0.0", "--out", str(other), "--quiet"]) == 0
    )
    assert json.loads((other / "result.json").read_text())["reward_rmse"] > result["reward_rmse"]
