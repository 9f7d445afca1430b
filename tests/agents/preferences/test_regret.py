"""The regret agent: settings, acting and learning, SB3's face, files, errors."""

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.agents import RegretAgent, RegretConfig
from prefrl.agents.base import Spaces
from prefrl.data import Preferences, Transitions
from prefrl.data.files.tensor_file import read_tensor_file, write_tensor_file
from prefrl.preferences import ask_teacher
from prefrl.tabular import TabularMDP, scaled_return

ENTRIES = (50.0, -50.0, 1.0, -1.0, -2.0, 0.0, -10.0, 10.0, 5.0)
QUICK: dict[str, Any] = {"max_policies": 30, "policy_entries": ENTRIES, "learning_rate": 0.1}
"""For fits of a few steps, which the default learning rate would spend on finding its way back."""
FULL: dict[str, Any] = {"max_policies": 1000, "learning_rate": 2.0}
PARTIAL: dict[str, Any] = {"preference_model": "partial-return"}
NEURAL: dict[str, Any] = {**PARTIAL, "reward": "neural", "hidden": (16,), "neural_learning_rate": 0.02}


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def make_env(layout: int = 11) -> Any:
    return gym.make("prefrl/RandomGrid-v0", layout_seed=layout)


@cache
def answers(layout: int = 11, count: int = 60) -> Preferences:
    return ask_teacher(TabularMDP.from_env(make_env(layout)), count)


# Settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gamma": 1.0}, r"gamma is 1\.0; it must lie in \[0, 1\)"),
        ({"gamma": math.nan}, "gamma is nan"),
        ({"preference_model": "partial_return"}, "preference_model is 'partial_return'; it must be one of"),
        ({"regret_form": "stochastic"}, "regret_form is 'stochastic'; it must be one of"),
        ({"reward": "table"}, "reward is 'table'; it must be one of"),
        ({"interpretation": "value"}, "interpretation is 'value'; it must be one of"),
        ({"reward": "neural"}, "reward is 'neural'; the regret model needs a linear reward"),
        ({"interpretation": "advantage"}, "interpretation is 'advantage'; the regret model learns a reward"),
        ({**PARTIAL, "absorbing": True}, "absorbing is True; for a linear reward"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; it must be above 0"),
        ({"neural_learning_rate": math.nan}, "neural_learning_rate is nan; it must be finite"),
        ({"steps_per_update": 0}, "steps_per_update is 0; it must be at least 1"),
        ({"temperature": -1.0}, r"temperature is -1\.0; it must be above 0"),
        ({"ridge": -1.0}, r"ridge is -1\.0; it must not be negative"),
        ({"gpi_temperature": -1e-3}, r"gpi_temperature is -0\.001; it must not be negative"),
    ],
)
def test_wrong_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegretConfig(**config)


# The agent ---------------------------------------------------------------------------------------------


def make_agent(seed: int = 0, env: Any = None, preferences: Any = None, **config: Any) -> RegretAgent:
    return RegretAgent(
        make_env() if env is None else env,
        RegretConfig(**{**QUICK, "steps_per_update": 10, **config}),
        answers() if preferences is None else preferences,
        device="cpu",
        seed=seed,
    )


def test_a_new_agent_acts_at_random() -> None:
    agent = make_agent()
    actions = agent.act(torch.zeros(8000, dtype=torch.int64))
    assert (torch.bincount(actions, minlength=4) - 2000).abs().max() < 200


def test_actions_are_drawn_uniformly_among_ties() -> None:
    agent = make_agent()
    agent.policy[3] = torch.tensor([0.5, 0.0, 0.5, 0.0])
    counts = torch.bincount(agent.act(torch.full((4000,), 3)), minlength=4).tolist()
    assert counts[1] == counts[3] == 0
    assert abs(counts[0] - 2000) < 150
    assert agent.act(torch.full((5,), 3), deterministic=True).tolist() == [0] * 5


def test_actions_are_seeded() -> None:
    obs = torch.zeros(50, dtype=torch.int64)
    first, same, other = (make_agent(seed).act(obs) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("config", [{}, PARTIAL, NEURAL])
def test_it_acts_on_what_was_learned_last(config: dict[str, Any]) -> None:
    agent = make_agent(**config)
    assert agent.fit is not None
    for _ in range(2):
        agent.update()
        states = torch.arange(15)
        actions = agent.act(states, deterministic=True)
        close(agent.policy, agent.fit.policy()[0], 0.0)
        assert torch.equal(actions, agent.policy.argmax(-1))


def test_updates_report_and_count() -> None:
    agent = make_agent(uniform_response=True)
    assert agent.fit is not None
    losses = []
    for i in range(5):
        metrics = agent.update()
        assert agent.num_timesteps == 10 * (i + 1)
        assert all(not value.requires_grad and value.shape == () for value in metrics.values())
        losses.append(metrics["train/best_loss"].item())
    assert losses == sorted(losses, reverse=True)
    assert metrics["train/loss"] >= metrics["train/best_loss"]
    close(metrics["reward_model/weight_brick_gas"], agent.fit.weights[0, 5], 0.0)
    assert set(make_agent(**NEURAL).update()) == {"train/loss", "train/best_loss"}


def test_the_agent_recovers_the_reward_of_delivery() -> None:
    env = gym.make("prefrl/Delivery-v0")
    mdp = TabularMDP.from_env(env)
    agent = RegretAgent(env, preferences=ask_teacher(mdp, 500), device="cpu")
    agent.learn(600)
    result = agent.result()
    assert result["scaled_return"] > 0.9
    assert result["near_optimal"] is True
    weights = result["reward_weights"]
    assert list(weights) == ["gas", "goal", "sheep", "coin", "roadblock", "brick_gas"]
    assert weights["goal"] > 0.0 > weights["gas"] > weights["sheep"]


def test_stepping_teaches_nothing() -> None:
    agent = make_agent()
    before = copy.deepcopy(agent.state_dict())
    flags = torch.zeros(2, dtype=torch.bool)
    states = torch.zeros(2, dtype=torch.int64)
    agent.observe(Transitions(states, states, flags.float(), states, flags, flags, ~flags))
    torch.testing.assert_close(agent.state_dict(), before, rtol=0.0, atol=0.0)


class Count(BaseCallback):
    calls = 0

    def _on_step(self) -> bool:
        self.calls += 1
        return self.calls < 4


def test_learn_counts_optimiser_steps_and_calls_back() -> None:
    agent = make_agent()
    assert agent.learn(25) is agent  # rounds up to whole updates
    assert agent.num_timesteps == 30
    agent.learn(10)
    assert agent.num_timesteps == 40
    counter = Count()
    agent.learn(1000, callback=counter)
    assert counter.calls == 4
    assert agent.num_timesteps == 80


def test_a_fit_that_diverges_stops_the_run() -> None:
    agent = make_agent(learning_rate=1e308)
    with pytest.raises(FloatingPointError, match=r"train/loss is (nan|inf)"):
        agent.learn(100)


def test_sb3_evaluates_it() -> None:
    agent = make_agent(preferences=answers(11, 300), **FULL)
    callback = EvalCallback(Monitor(make_env()), n_eval_episodes=5, eval_freq=20, verbose=0, warn=False)
    agent.learn(400, callback=callback)
    assert callback.n_calls == 40
    mean, _ = evaluate_policy(agent, Monitor(make_env()), n_eval_episodes=30, warn=False)
    model = make_env().unwrapped.tabular_model()
    best = model.start @ model.optimal_value(1.0)
    assert mean == pytest.approx(best, abs=3.0)
    action, state = agent.predict(0, deterministic=True)
    assert action in range(4)
    assert state is None
    assert agent.predict(np.array([0, 1, 2]))[0].shape == (3,)


def test_results_agree_with_the_environment() -> None:
    agent = make_agent(preferences=answers(11, 100))
    agent.learn(50)
    result, model = agent.result(), make_env().unwrapped.tabular_model()
    uniform = np.full(agent.policy.shape, 0.25)
    worst, reached = (model.start @ model.true_value(p, 0.999) for p in (uniform, agent.policy.numpy()))
    best = model.start @ model.optimal_value(0.999)
    assert result["scaled_return"] == pytest.approx((reached - worst) / (best - worst), abs=1e-9)
    assert result["near_optimal"] == (result["scaled_return"] > 0.9)
    assert agent.fit is not None
    assert result["train_cross_entropy"] == agent.fit.best_loss.item()
    assert list(result["reward_weights"].values()) == agent.fit.weights[0].tolist()
    assert make_agent(**NEURAL).result()["reward_weights"] is None


def test_the_learned_reward_of_one_transition() -> None:
    for config in ({}, NEURAL):
        agent = make_agent(**config)
        agent.update()
        model = make_env().unwrapped.tabular_model()
        s = int(np.flatnonzero(model.start)[0])
        for a in range(4):
            phi, following = torch.tensor(model.features[s, a, 0]), int(model.successors[s, a, 0])
            assert agent.fit is not None
            expected = agent.fit.reward(phi[None])[0, 0].item()
            assert agent.reward(s, a, following) == pytest.approx(expected, abs=1e-9)
            if not config:
                assert expected == pytest.approx(float(phi @ agent.fit.weights[0]), abs=1e-9)


# Files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [{}, {"uniform_response": True}, PARTIAL, {**PARTIAL, "uniform_response": True}, NEURAL]
)
def test_going_on_from_a_state_is_bit_equal(config: dict[str, Any], tmp_path: Path) -> None:
    whole, first, second = (make_agent(**config) for _ in range(3))
    obs = torch.arange(15)
    for _ in range(4):
        whole.update()
    for _ in range(2):
        first.update()
    write_tensor_file(tmp_path / "state", {"agent": first.state_dict(), "n": first.num_timesteps})
    content = read_tensor_file(tmp_path / "state", "state")
    second.load_state_dict(content["agent"])
    second.num_timesteps = content["n"]
    metrics: dict[str, Tensor] = {}
    for _ in range(2):
        metrics = second.update()
    assert second.num_timesteps == whole.num_timesteps
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0.0, atol=0.0)
    assert torch.equal(second.act(obs), whole.act(obs))
    assert metrics["train/best_loss"] < math.log(2.0)
    assert torch.equal(second.policy, whole.policy)


@pytest.mark.parametrize("config", [{}, PARTIAL, NEURAL])
def test_a_saved_agent_predicts_the_same_without_its_environment(
    config: dict[str, Any], tmp_path: Path
) -> None:
    agent = make_agent(seed=3, **config)
    agent.learn(30)
    agent.save(tmp_path / "agent.pt")
    assert (agent.policy != 0.25).any()
    loaded = RegretAgent.load(tmp_path / "agent.pt", device="cpu")
    assert loaded.get_env() is None
    assert (loaded.config, loaded.seed, loaded.num_timesteps) == (agent.config, 3, 30)
    assert torch.equal(loaded.policy, agent.policy)
    states = np.arange(15)
    assert np.array_equal(loaded.predict(states)[0], agent.predict(states)[0])  # the generator too
    assert loaded.reward_parameters.keys() == agent.reward_parameters.keys()
    for name, value in agent.reward_parameters.items():
        assert torch.equal(loaded.reward_parameters[name], value)
    mean, _ = evaluate_policy(loaded, Monitor(make_env()), n_eval_episodes=2, warn=False)
    assert math.isfinite(mean)
    for learn in (loaded.update, lambda: loaded.learn(10)):
        with pytest.raises(ValueError, match="this agent has no preferences to learn from"):
            learn()
    with pytest.raises(ValueError, match="loaded without an environment"):
        loaded.result()
    again = RegretAgent.load(tmp_path / "agent.pt", make_env(), device="cpu")
    assert again.result() == agent.result()
    assert again.reward(0, 1, make_env().unwrapped.tabular_model().successors[0, 1, 0]) == agent.reward(
        0, 1, make_env().unwrapped.tabular_model().successors[0, 1, 0]
    )


@pytest.mark.parametrize("config", [{}, PARTIAL, {**NEURAL, "absorbing": True}])
def test_a_loaded_agent_gives_rewards_and_results(config: dict[str, Any], tmp_path: Path) -> None:
    agent = make_agent(**config)
    with pytest.raises(ValueError, match="this agent has learned no reward yet"):
        RegretAgent(make_env(), device="cpu").reward(0, 0, 0)
    agent.learn(30)
    agent.save(tmp_path / "agent.pt")
    loaded = RegretAgent.load(tmp_path / "agent.pt", env=make_env(), device="cpu")
    model = make_env().unwrapped.tabular_model()
    for s in np.flatnonzero(model.start):
        following = int(model.successors[s, 1, 0])
        assert loaded.reward(s, 1, following) == agent.reward(s, 1, following)
    assert loaded.result() == agent.result()


def test_results_do_not_depend_on_the_agents_own_discount() -> None:
    agent = make_agent(gamma=0.5)
    agent.learn(50)
    mdp = TabularMDP.from_env(make_env())
    assert agent.result()["scaled_return"] == scaled_return(mdp, agent.policy[None], 0.999).item()
    assert scaled_return(mdp, agent.policy[None], 0.5).item() != agent.result()["scaled_return"]


def test_saving_plans_first(tmp_path: Path) -> None:
    agent = make_agent()
    agent.update()
    agent.save(tmp_path / "agent.pt")
    assert agent.fit is not None
    assert torch.equal(RegretAgent.load(tmp_path / "agent.pt", device="cpu").policy, agent.fit.policy()[0])


def test_an_agent_of_another_size_is_refused(tmp_path: Path) -> None:
    agent = make_agent()
    agent.save(tmp_path / "agent.pt")
    with pytest.raises(ValueError, match=r"trained on Discrete\(15\)"):
        RegretAgent.load(tmp_path / "agent.pt", env=make_env(38), device="cpu")


# Errors ------------------------------------------------------------------------------------------------


def test_environments_without_a_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"offers no tabular_model\(\)"):
        RegretAgent(gym.make("CartPole-v1"), preferences=answers())


def test_preferences_need_an_environment() -> None:
    spaces = Spaces(gym.spaces.Discrete(15), gym.spaces.Discrete(4))
    with pytest.raises(ValueError, match="preferences need an environment to be understood in; give env"):
        RegretAgent(spaces, preferences=answers())


def test_preferences_of_another_environment_are_refused() -> None:
    with pytest.raises(ValueError, match="data set 0: obs of the first segments range from"):
        make_agent(preferences=answers(0))


def test_an_agent_without_preferences_says_so() -> None:
    agent = RegretAgent(make_env(), device="cpu")
    assert agent.act(torch.arange(15)).shape == (15,)
    with pytest.raises(ValueError, match="this agent has no preferences to learn from"):
        agent.update()


def test_a_policy_of_another_shape_is_refused() -> None:
    agent = make_agent()
    state = agent.state_dict()
    with pytest.raises(ValueError, match=r"policy has shape \(3,\)"):
        agent.load_state_dict({**state, "policy": torch.zeros(3)})
