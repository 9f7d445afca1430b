"""The exact agent: what it finds, how it acts, its files, runs that stop and go on, and what it refuses."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

import prefrl
from prefrl.agents.base import Spaces
from prefrl.agents.returns.distributional_dp import DistributionalDP, DistributionalDPConfig
from prefrl.envs import StockAugmentation
from prefrl.envs.wrappers.stock import VectorStockAugmentation
from prefrl.functional.returns.objectives import UnsoundObjectiveError
from prefrl.functional.returns.risk_measures import CVaR
from prefrl.run.launch import evaluate_run, resume, train
from prefrl.run.outcomes.returns import sample_returns
from prefrl.run.recipes.returns.distributional_dp import TrainDistributionalDP
from prefrl.tabular import TooManyTotalsError

CLIFF = "prefrl/RiskyCliff-v0"


def make_agent(env_id=CLIFF, env_args=None, rule=None, **settings):
    config = DistributionalDPConfig(**settings)
    key = "reward_vector" if config.takes_vectors else None
    env = StockAugmentation(
        gym.make(env_id, **(env_args or {})), config.gamma, reward_key=key, **(rule or {})
    )
    return DistributionalDP(env, config, device="cpu")


def solved(*args, **kwargs):
    agent = make_agent(*args, **kwargs)
    return agent.learn(agent.stages_left)


def test_it_finds_the_best_cvar():
    agent = solved(tau=0.25)
    assert agent.num_timesteps == 16
    found = agent.result()
    assert found["objective_value"] == pytest.approx(-10.88303, abs=1e-5)
    assert found["initial_stock"] == 9.0
    assert found["risk_neutral_value"] == pytest.approx(-15.38284, abs=1e-5)
    assert found["naive_value"] == pytest.approx(-12.44444, abs=1e-5)


@pytest.mark.parametrize(("settings", "value"), [
    ({"objective": "mean"}, -8.03668),
    ({"objective": "worst_case"}, -20.0),
    ({"objective": "mean_cvar", "weight": 1.0}, -8.03668),
    ({"objective": "mean_cvar", "weight": 0.0, "tau": 0.5}, -9.22507),
    ({"objective": "cvar", "tau": 0.25, "stock_low": 0.0, "stock_high": 20.0, "stock_points": 21}, -10.88303),
    ({"objective": "two_slope", "below": 1.0, "above": 0.0, "initial_stock": (9.0,)},
     (-10.88303 + 9.0) * 0.25),
])  # fmt: skip
def test_objectives_by_their_words(settings, value):
    assert solved(**settings).result()["objective_value"] == pytest.approx(value, abs=1e-5)


def test_all_words_are_solved():
    for word in ("optimistic_cvar", "target_return", "target_probability", "exponential"):
        found = solved("prefrl/TwoCoins-v0", objective=word, target=3.0, tau=0.5).result()
        assert np.isfinite(found["objective_value"])
        assert found["objective_value"] >= found["risk_neutral_value"] - 1e-9
    assert solved("prefrl/TwoCoins-v0", objective="target_probability", target=3.0).result() == {
        "objective_value": 0.875, "initial_stock": -3.0, "risk_neutral_value": 0.75, "naive_value": 0.75,
    }  # fmt: skip


def test_vectors():
    found = solved("prefrl/Homeostasis-v0", {"horizon": 8}, objective="homeostasis").result()
    assert found["initial_stock"] == [0.0, 0.0]
    assert found["objective_value"] > max(found["risk_neutral_value"], found["naive_value"])
    agent = solved(
        "prefrl/BudgetedCollection-v0", {"horizon": 10}, objective="constraint", initial_stock=(0.0, 9.0)
    )
    assert agent.result()["objective_value"] == pytest.approx(1.0)
    assert agent.result()["initial_stock"] == [0.0, 9.0]
    three = solved("prefrl/Homeostasis-v0", {"variables": 3, "horizon": 3}, objective="homeostasis",
                   initial_stock=(1.0, 0.0, -1.0))  # fmt: skip
    assert three.result()["initial_stock"] == [1.0, 0.0, -1.0]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_what_it_does_is_what_it_promises(gamma):
    """The CVaR of many sampled episodes is the exact one."""
    agent = solved("prefrl/RandomMDP-v0", {"mdp_seed": 5, "horizon": 5}, tau=0.5, gamma=gamma)
    rows = VectorStockAugmentation(gym.make_vec("prefrl/RandomMDP-v0", 20_000, mdp_seed=5, horizon=5), gamma)
    returns = sample_returns(agent, rows, agent.solution.initial_stock[0], seed=0)
    sampled = float(CVaR(0.5).value(torch.as_tensor(returns)))
    assert sampled == pytest.approx(agent.result()["objective_value"], abs=0.04)
    assert agent.solution.value == pytest.approx(
        float(CVaR(0.5).value(agent.solution.returns, agent.solution.probs))
    )


def test_it_acts_on_vectors_of_stocks_and_from_one_observation():
    agent = solved("prefrl/Homeostasis-v0", {"horizon": 8}, objective="homeostasis")
    env = StockAugmentation(gym.make("prefrl/Homeostasis-v0", horizon=8), reward_key="reward_vector")
    deviations = []
    for seed in range(300):
        obs, _ = env.reset(seed=seed)
        done = False
        while not done:
            action, _ = agent.predict(obs, deterministic=True)
            obs, _, done, _, info = env.step(action)
        deviations.append(np.linalg.norm(info["stock"]))
    assert -np.mean(deviations) == pytest.approx(agent.solution.value, abs=0.2)
    with pytest.raises(ValueError, match=r"observation is .*; this agent takes a dict of \['obs', 'stock'\]"):
        agent.predict(obs["obs"])
    with pytest.raises(ValueError, match="some parts of the observation are a batch"):
        agent.predict({"obs": obs["obs"], "stock": obs["stock"][None]})


def test_nothing_is_known_before_the_start_is_reached():
    agent = make_agent()
    agent.learn(15)
    assert agent.stages_left == 1
    assert agent.result() == {}
    env = agent.get_env()
    with pytest.raises(ValueError, match="the policy is not there yet: 1 stages are left"):
        agent.predict(env.reset(seed=0)[0])
    agent.learn(1)
    assert agent.predict(env.reset(seed=0)[0], deterministic=True)[0] in range(4)


def test_sb3_evaluates_it():
    agent = solved(objective="mean", rule={"initial_stock": 0.0})
    mean, _ = evaluate_policy(agent, agent.get_env(), n_eval_episodes=400, warn=False)
    assert mean == pytest.approx(-8.037, abs=0.6)


def test_files(tmp_path):
    agent = solved(tau=0.5)
    agent.save(tmp_path / "agent.pt")
    loaded = prefrl.DistributionalDP.load(tmp_path / "agent.pt", device="cpu")
    rng = np.random.default_rng(0)
    cells, gone = np.eye(15)[rng.integers(15, size=90)], rng.integers(16, size=(90, 1)) / 16
    obs = {
        "obs": np.concatenate([cells, gone], 1).astype(np.float32),
        "stock": rng.integers(-9, 13, size=(90, 1)).astype(float),
    }
    np.testing.assert_array_equal(agent.predict(obs)[0], loaded.predict(obs)[0])
    with pytest.raises(ValueError, match="loaded without an environment; it can act"):
        loaded.update()
    again = prefrl.DistributionalDP.load(tmp_path / "agent.pt", env=agent.get_env(), device="cpu")
    assert again.result() == agent.result()
    loaded.save(tmp_path / "copy.pt")
    copy = prefrl.DistributionalDP.load(tmp_path / "copy.pt", device="cpu")
    np.testing.assert_array_equal(copy.predict(obs)[0], loaded.predict(obs)[0])
    other = StockAugmentation(gym.make(CLIFF, fall=-13.0))
    with pytest.raises(ValueError, match="the totals that can be reached differ"):
        prefrl.DistributionalDP.load(tmp_path / "agent.pt", env=other, device="cpu")
    half = make_agent()
    half.learn(3)
    half.save(tmp_path / "half.pt")
    with pytest.raises(ValueError, match="13 stages are left to do; give env to go on"):
        prefrl.DistributionalDP.load(tmp_path / "half.pt", device="cpu")
    on = prefrl.DistributionalDP.load(tmp_path / "half.pt", env=half.get_env(), device="cpu")
    assert on.learn(13).result() == make_agent().learn(16).result()


def test_runs_and_their_pictures(tmp_path):
    recipe = TrainDistributionalDP(env_args=("slip=0.2",), horizon=10, device="cpu",
                                   agent=DistributionalDPConfig(tau=0.1))  # fmt: skip
    path = train("distributional_dp", recipe, tmp_path / "run", quiet=True)
    result = json.loads(path.read_text())
    assert {"objective_value", "initial_stock", "risk_neutral_value", "naive_value", "seconds"} <= set(result)
    assert result["num_timesteps"] == 10
    assert result["objective_value"] > result["risk_neutral_value"]
    assert (tmp_path / "run/returns.png").stat().st_size > 5_000
    assert (tmp_path / "run/policy.png").stat().st_size > 5_000
    assert "train/objective" in (tmp_path / "run/progress.csv").read_text()
    assert evaluate_run(tmp_path / "run", episodes=20).exists()


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    recipe = TrainDistributionalDP(device="cpu", figures=False)
    whole = json.loads(train("distributional_dp", recipe, tmp_path / "whole", quiet=True).read_text())
    assert not (tmp_path / "whole/returns.png").exists()
    stage = DistributionalDP.update

    def interrupted(agent):
        if agent.num_timesteps == 9:
            raise KeyboardInterrupt
        return stage(agent)

    with monkeypatch.context() as patch:
        patch.setattr(DistributionalDP, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("distributional_dp", recipe, tmp_path / "run", quiet=True)
    result = json.loads(resume(tmp_path / "run", quiet=True).read_text())
    assert {k: v for k, v in result.items() if k != "seconds"} == {
        k: v for k, v in whole.items() if k != "seconds"
    }


def test_pictures_where_there_is_no_board_or_the_rewards_are_vectors(tmp_path):
    for env_id, objective, pictures in (
        ("prefrl/TwoCoins-v0", "cvar", {"returns.png"}),
        ("prefrl/BudgetedCollection-v0", "constraint", {"returns.png", "policy.png"}),
    ):
        recipe = TrainDistributionalDP(
            env_id, device="cpu", agent=DistributionalDPConfig(objective=objective)
        )
        folder = train("distributional_dp", recipe, tmp_path / objective, quiet=True).parent
        assert {path.name for path in folder.glob("*.png")} == pictures


@pytest.mark.parametrize(("settings", "message"), [
    ({"tau": 0.0}, r"tau is 0.0; it must lie in \(0, 1\]"),
    ({"objective": "mean_cvar", "weight": 2.0}, r"weight is 2.0"),
    ({"objective": "regret"}, "objective is 'regret'; it must be one of"),
    ({"gamma": 0.0}, "gamma is 0.0"),
    ({"tie_break": "last"}, "tie_break is 'last'"),
    ({"stock_low": 1.0}, "stock_low is 1.0 and stock_high None; give both or neither"),
    ({"stock_low": 1.0, "stock_high": 0.0}, "they must rise"),
    ({"stock_points": 1}, "stock_points is 1"),
    ({"initial_stock": (1.0,)}, r"initial_stock is \(1.0,\); cvar sets it by itself"),
    ({"objective": "mean", "initial_stock": (1.0, 2.0)}, "it must have 1 entries"),
    ({"objective": "two_slope", "below": float("nan")}, "below is nan; it must be finite"),
    ({"objective": "exponential", "risk_aversion": -1.0}, "risk_aversion is -1.0"),
    ({"objective": "homeostasis", "norm": 0.5}, "norm is 0.5; it must be at least 1"),
    ({"objective": "homeostasis", "norm": float("nan")}, "norm is nan"),
    ({"objective": "constraint_penalty", "penalty": -1.0}, "penalty is -1.0; it must not be negative"),
    ({"objective": "target_return", "exponent": 0.0}, "exponent is 0.0"),
])  # fmt: skip
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DistributionalDPConfig(**settings)


def test_environments_that_are_refused():
    with pytest.raises(ValueError, match=r"wrap the environment in prefrl\.envs\.StockAugmentation"):
        DistributionalDP(gym.make(CLIFF), device="cpu")
    with pytest.raises(ValueError, match=r"offers no horizon_model\(\)"):
        DistributionalDP(StockAugmentation(gym.make("CartPole-v1")), device="cpu")
    with pytest.raises(ValueError, match=r"gamma is 1.0; the environment's stock has gamma 0.5"):
        DistributionalDP(StockAugmentation(gym.make(CLIFF), 0.5), device="cpu")
    with pytest.raises(ValueError, match="has frozen=True; the agent takes False"):
        make_agent(rule={"frozen": True})
    with pytest.raises(ValueError, match="reward_key=None; the agent takes the name of an info"):
        DistributionalDP(StockAugmentation(gym.make("prefrl/Homeostasis-v0")),
                         DistributionalDPConfig(objective="homeostasis"), device="cpu")  # fmt: skip
    with pytest.raises(ValueError, match="reward_key='reward_vector'; the agent takes None"):
        DistributionalDP(StockAugmentation(gym.make("prefrl/Homeostasis-v0"), reward_key="reward_vector"),
                         device="cpu")  # fmt: skip
    with pytest.raises(ValueError, match="initial_stock is missing"):
        make_agent("prefrl/RandomMDP-v0", rule={"initial_stock": 0.0}, objective="homeostasis")
    with pytest.raises(ValueError, match="target_return does not search the initial stock"):
        make_agent(objective="target_return", stock_low=0.0, stock_high=1.0)
    with pytest.raises(TooManyTotalsError, match="max_points 30"):
        make_agent(max_points=30)
    assert issubclass(UnsoundObjectiveError, ValueError)
    agent = make_agent()
    assert (
        DistributionalDP(Spaces(agent.observation_space, agent.action_space), device="cpu").stages_left == 0
    )
