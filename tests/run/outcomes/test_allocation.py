"""Outcomes of online allocation, slopes of regret, and runs of dual mirror descent."""

import json

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.agents.allocation.baselines import AllocationBaseline, AllocationBaselineConfig
from prefrl.run.folder import RunFolder
from prefrl.run.launch import evaluate_run, resume, train
from prefrl.run.outcomes.allocation import (
    AllocationOutcome,
    Slope,
    allocation_outcome,
    has_instances,
    regret_slope,
)
from prefrl.run.recipes.allocation.dual_mirror_descent import TrainDualMirrorDescent

KEYS = {
    "reward_mean", "hindsight_mean", "regret_mean", "regret_stderr", "competitive_ratio", "final_dual",
    "fluid_dual", "overspend_max", "microseconds_per_request", "seconds",
}  # fmt: skip


def test_a_summary_by_hand():
    outcome = AllocationOutcome(
        rewards=np.array([3.0, 5.0]),
        hindsight=np.array([4.0, 8.0]),
        spent=np.array([[1.0, 2.0], [2.0, 1.0]]),
        budget=np.array([2.0, 4.0]),
        depletion=np.array([5, 6]),
        price=np.array([[0.5, 0.0], [1.5, 0.0]]),
    )
    assert outcome.summary() == {
        "reward_mean": 4.0,
        "hindsight_mean": 6.0,
        "regret_mean": 2.0,
        "regret_stderr": 1.0,  # of 1 and 3
        "competitive_ratio": 1.5,
        "final_dual": [1.0, 0.0],
        "smallest_share_spent": 0.375,
        "overspend_max": 0.0,
    }


def test_a_power_law_has_its_slope():
    horizons = (100, 1000, 10_000)
    rng = np.random.default_rng(0)
    exact = regret_slope(horizons, [np.full(20, 3.0 * t**0.5) for t in horizons])
    assert exact.value == pytest.approx(0.5)
    assert exact.interval == pytest.approx((0.5, 0.5))
    noisy = regret_slope(horizons, [3.0 * t**0.7 * rng.uniform(0.5, 1.5, 50) for t in horizons])
    assert noisy.interval[0] < 0.7 < noisy.interval[1]
    assert 0.01 < noisy.interval[1] - noisy.interval[0] < 0.2
    assert regret_slope((100,), [np.ones(3)]) is None
    assert regret_slope((100, 400), [np.ones(1), np.full(1, 2.0)]) == Slope(pytest.approx(0.5), None)
    assert regret_slope((100, 200), [np.ones(3), np.full(3, -1.0)]) is None


def test_an_outcome_is_that_of_one_whole_horizon():
    env = prefrl.envs.make_device("prefrl/MultiSecretary-v0", 2, horizon=20, stop_when_empty=True, rho=0.2)
    agent = AllocationBaseline(env, AllocationBaselineConfig(kind="greedy"), device="cpu")
    agent.learn(2 * 20)  # rows restarted when they were empty
    with pytest.raises(ValueError, match="one whole horizon, 20 requests, no more and no less"):
        allocation_outcome(agent, env)
    env = prefrl.envs.make_device("prefrl/MultiSecretary-v0", 2, horizon=20)
    agent = AllocationBaseline(env, AllocationBaselineConfig(kind="greedy"), device="cpu")
    for wrong in (2 * 10, 2 * 40):
        agent.learn(wrong)
        with pytest.raises(ValueError, match="no more and no less"):
            allocation_outcome(agent, env)
    agent.learn(2 * 20)  # which resets the environment, so that this is one horizon again
    assert (allocation_outcome(agent, env).rewards > 0.0).all()
    scalar = gym.make("prefrl/MultiSecretary-v0", horizon=20)
    agent = AllocationBaseline(scalar, AllocationBaselineConfig(kind="greedy"), device="cpu").learn(20)
    with pytest.raises(ValueError, match="in every row of a vector environment"):
        allocation_outcome(agent, scalar)


def test_the_fluid_price_is_told_where_the_distribution_stays_the_same(tmp_path):
    told = {}
    for model in ("iid", "ergodic", "periodic", "drift"):
        recipe = TrainDualMirrorDescent(horizon=20, replications=2, env_args=(f"input_model={model}",))
        told[model] = read(train("dual_mirror_descent", recipe, tmp_path / model, quiet=True))["fluid_dual"]
    assert told == {"iid": [0.5], "ergodic": [0.5], "periodic": None, "drift": None}


def read(path):
    return json.loads(path.read_text())


def test_a_run_writes_what_it_found(tmp_path):
    recipe = TrainDualMirrorDescent(horizon=200, replications=20, env_args=("rho=0.3",), seed=1)
    result = read(train("dual_mirror_descent", recipe, tmp_path / "run", quiet=True))
    assert set(result) >= KEYS
    assert result["overspend_max"] == 0.0
    assert result["fluid_dual"] == [0.7]
    assert result["regret_mean"] == pytest.approx(result["hindsight_mean"] - result["reward_mean"])
    assert 0.0 < result["regret_mean"] < 10.0
    assert abs(result["final_dual"][0] - 0.7) < 0.1
    assert result["num_timesteps"] == 4000
    header = (tmp_path / "run" / "progress.csv").read_text().splitlines()[0]
    assert {"train/price", "rollout/ep_rew_mean"} <= set(header.split(","))
    evaluate_run(tmp_path / "run", episodes=5)
    mean = read(tmp_path / "run" / "evaluation.json")["mean_return"]
    assert mean == pytest.approx(result["reward_mean"], rel=0.1)


def test_an_interrupted_run_ends_as_the_other(tmp_path, monkeypatch):
    recipe = TrainDualMirrorDescent(
        env_id="prefrl/SecondPriceBudget-v0", horizon=300, replications=4, checkpoint_every=400, seed=2,
        env_args=("input_model=ergodic",),
    )  # fmt: skip
    whole = read(train("dual_mirror_descent", recipe, tmp_path / "whole", quiet=True))
    saved = RunFolder.save_checkpoint
    calls = []

    def interrupt(self, state):
        saved(self, state)
        calls.append(state["num_timesteps"])
        if len(calls) == 2:
            raise RuntimeError("the power went off")

    monkeypatch.setattr(RunFolder, "save_checkpoint", interrupt)
    with pytest.raises(RuntimeError, match="power"):
        train("dual_mirror_descent", recipe, tmp_path / "broken", quiet=True)
    assert calls == [400, 800]
    monkeypatch.undo()
    resumed = read(resume(tmp_path / "broken", quiet=True))
    for key in ("reward_mean", "hindsight_mean", "regret_mean", "final_dual", "num_timesteps"):
        assert resumed[key] == whole[key], key


@pytest.mark.slow
def test_the_seed_draws_the_instance_unless_it_is_given(tmp_path):
    def duals(seed, *env_args):
        recipe = TrainDualMirrorDescent(
            env_id="prefrl/NetworkRevenue-v0", horizon=20, replications=2, seed=seed, env_args=env_args
        )
        out = tmp_path / f"{seed}-{len(env_args)}"
        return read(train("dual_mirror_descent", recipe, out, quiet=True))["fluid_dual"]

    own = [
        gym.make("prefrl/NetworkRevenue-v0", instance_seed=i).unwrapped.fluid_optimum().mu for i in range(2)
    ]
    np.testing.assert_allclose(duals(0), own[0], atol=0.3)
    np.testing.assert_allclose(duals(1), own[1], atol=0.3)
    np.testing.assert_allclose(duals(1, "instance_seed=0"), own[0], atol=0.3)
    assert abs(own[0] - own[1]).max() > 0.5
    assert not has_instances("prefrl/MultiSecretary-v0")
    assert not has_instances("prefrl/CartPole-v0")
    assert not has_instances("CartPole-v1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 0}, "horizon is 0"),
        ({"replications": 0}, "replications is 0"),
        ({"seed": -1}, "seed is -1"),
        (
            {"env_args": ("stop_when_empty=true",)},
            "env_args has stop_when_empty; every horizon must be served",
        ),
        ({"env_args": ("max_episode_steps=9",)}, "env_args has max_episode_steps"),
        ({"env_args": ("autoreset_mode=Disabled",)}, "env_args has autoreset_mode"),
        ({"env_args": ("horizon=5",)}, "env_args has horizon; it has a flag of its own"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainDualMirrorDescent(**settings)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v1", "allocation environments are those of prefrl"),
        ("prefrl/CartPole-v0", "is no allocation"),
    ],
)
def test_other_environments_are_refused_and_nothing_is_left(tmp_path, env_id, message):
    with pytest.raises(ValueError, match=message):
        train("dual_mirror_descent", TrainDualMirrorDescent(env_id=env_id), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
