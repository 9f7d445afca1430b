"""The recorder of stances, and claims of ``scripts/reproduce_audits.py`` on a seed of the pilot."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from resuming import assert_same
from stable_baselines3 import PPO

from prefrl.agents.base import Spaces
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.audit.policies.recording import StanceRecorder
from prefrl.audit.policies.stances import Categories, Stances, StanceSettings, gap_of
from prefrl.preferences.asking import exact_answers
from scripts import loaded

study = loaded("reproduce_audits.py")
BANDIT = "prefrl/PreferenceBandit-v0"


def learner() -> PreferenceOptimization:
    env = gym.make(BANDIT, contexts=1, arms=3)
    config = PreferenceOptimizationConfig(cloning_steps=10, batch_size=2)
    return PreferenceOptimization(env, config, exact_answers(env), device="cpu")


@pytest.mark.parametrize("deterministic", [False, True])
def test_recording_leaves_no_trace(deterministic: bool) -> None:
    """The agent draws for the recorder what it would have drawn anyway: the same run with and without."""
    settings = StanceSettings(situations=20, draws=3)
    recorder = StanceRecorder(Stances(settings, gym.make(BANDIT, contexts=1, arms=3)), 25,
                              deterministic=deterministic)  # fmt: skip
    seen = learner().learn(60, callback=recorder)
    assert_same(seen.state_dict(), learner().learn(60).state_dict())
    assert recorder.times == [0, 25, 50, 60]
    assert recorder.shares.shape == (4, 3)
    torch.testing.assert_close(recorder.shares.sum(1), torch.ones(4, dtype=torch.float64))
    found = recorder.drift()
    if deterministic:
        return  # the likeliest arm may be the same from the start
    assert float(found.total) > 0.2
    wanted = gym.make(BANDIT, contexts=1, arms=3).unwrapped.sequence_returns()[0].argmax()  # type: ignore[attr-defined]
    assert int(found.magnitude.argmax()) == int(wanted)


def test_recording_an_agent_that_steps() -> None:
    """With a replay and an environment of its own."""

    def trained(callback: Any) -> DQN:
        env = gym.make("prefrl/CartPole-v0")
        config = DQNConfig(learning_starts=20, batch_size=8, hidden=(8,))
        return DQN(env, config, device="cpu", seed=0).learn(60, callback=callback)

    recorder = StanceRecorder(Stances(StanceSettings(situations=10), gym.make("prefrl/CartPole-v0")), 20)
    assert_same(trained(recorder).state_dict(), trained(None).state_dict())
    assert recorder.times == [0, 20, 40, 60]


def test_what_the_recorder_refuses() -> None:
    stances = Stances(StanceSettings(situations=2), gym.make(BANDIT))
    with pytest.raises(ValueError, match="every is 0"):
        StanceRecorder(stances, 0)
    with pytest.raises(ValueError, match="episodes need a recipe"):
        Stances(StanceSettings(stance="return"), gym.make(BANDIT))
    with pytest.raises(ValueError, match="asked for actions alone"):
        StanceRecorder(Stances(StanceSettings(stance="return"), gym.make(BANDIT), recipe=object()), 5)


def test_a_recorder_goes_on_with_its_agent_alone() -> None:
    stances = Stances(StanceSettings(situations=5), gym.make(BANDIT, contexts=1, arms=3))
    recorder, agent = StanceRecorder(stances, 20), learner()
    agent.learn(20, callback=recorder)
    agent.learn(20, callback=recorder)
    assert recorder.times == [0, 20, 40]
    with pytest.raises(ValueError, match="take a new recorder"):
        learner().learn(20, callback=recorder)
    other = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(TypeError, match="agents of prefrl"):
        other.learn(8, callback=StanceRecorder(stances, 20))


def test_no_bin_is_empty() -> None:
    """Of a Box, many numbers lie at its bounds."""
    for low, high in ((0, 60), (60, 0), (40, 40), (70, 10), (10, 85)):
        numbers = np.concatenate([np.full(low, -1.0), np.linspace(-0.9, 0.9, 20), np.full(high, 1.0)])
        for bins in (2, 3, 5):
            found = Categories.binned(numbers, bins)
            assert bool((found.shares(numbers) > 0.0).all()), (low, high, found.names)


def test_numbers_that_no_policy_took() -> None:
    """Comparisons may hold actions that the policy never takes: they have stances too, or the nearest."""
    space = gym.spaces.MultiDiscrete([2, 4], start=[0, 5])
    stances = Stances.__new__(Stances)  # what asks nobody
    stances.settings, stances.action_space = StanceSettings(component=1), space
    found = stances.categories([np.array([5.0, 8.0, 8.0])])
    assert found.names == ("action 5", "action 6", "action 7", "action 8")
    assert found.of(np.array([6.0, 8.0])).tolist() == [1, 3]
    two = Categories.named(np.array([-1.0, 1.0]), "action")
    assert two.of(np.array([-1.0, -0.3, 0.2, 3.0])).tolist() == [0, 0, 1, 1]


def test_categories_by_hand() -> None:

    bins = Categories.binned(np.arange(9.0), 3)
    assert bins.names == ("up to 2", "2 to 5", "above 5")
    assert bins.of(np.array([0.0, 3.0, 8.0])).tolist() == [0, 1, 2]
    assert bins.shares(np.arange(9.0)).tolist() == pytest.approx([1 / 3] * 3)
    halves = Categories.binned(np.zeros(5), 3)  # all the same: one edge
    assert halves.of(np.array([-1.0, 0.0, 1.0])).tolist() == [0, 0, 1]
    named = Categories.named(np.array([2, 3, 4]), "action")
    assert named.names == ("action 2", "action 3", "action 4")
    assert named.of(np.array([4.0, 2.0])).tolist() == [2, 0]
    pooled = Categories(np.array([5.0, 9.0]), None, ("end 5", "end 9", "other ends"))
    assert pooled.of(np.array([9.0, 5.0, 7.0, 11.0])).tolist() == [1, 0, 2, 2]


def test_the_gap_of_answers() -> None:
    """In 3,000 pairs of three stances, the most favourable is in 2/3, and wins or loses as often as asked."""
    env = Spaces(gym.spaces.Discrete(study.TOPICS), gym.spaces.Discrete(study.STANCES))
    for gap in (0.0, 1.0):
        answers = study.answers_with_gap(0, gap)
        stances = Stances.__new__(Stances)  # what asks nobody
        stances.settings = StanceSettings()
        stances.action_space, stances.observation_space = (
            env.single_action_space,
            env.single_observation_space,
        )

        found = gap_of(answers, stances, Categories.named(np.arange(3), "action"))
        torch.testing.assert_close(found, torch.tensor([2 / 3, 0.0, -2 / 3], dtype=torch.float64) * gap,
                                   rtol=0.0, atol=0.04)  # fmt: skip


@pytest.mark.parametrize("name", ["growth", "settles", "stability", "amplification", "trap", "identity",
                                  "step_time", "bad_reference"])  # fmt: skip
def test_quick_claims(name: str) -> None:

    claim = study.CLAIMS[name]
    numbers = claim.measure(0)
    assert claim.holds({key: np.array([value]) for key, value in numbers.items()})


def test_ties_alone_have_no_gap() -> None:
    stances = Stances(StanceSettings(situations=2), gym.make(BANDIT))
    answers = exact_answers(gym.make(BANDIT))
    categories = Categories.named(np.arange(5), "action")
    assert float(gap_of(answers, stances, categories).abs().max()) > 0.01
    with pytest.raises(ValueError, match="every comparison is a tie"):
        gap_of(replace(answers, labels=torch.full_like(answers.labels, 0.5)), stances, categories)


def test_drift_grows_with_the_gap() -> None:
    found = study.follows_gap(0)
    assert abs(found["drift_none"]) < 0.05
    assert found["drift_none"] < found["drift_half"] < found["drift_full"]
    assert found["value_gap_none"] < found["value_gap_half"] < found["value_gap_full"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sampled", "simpo", "planted_choices", "trained_choices"])
def test_slow_claims(name: str) -> None:

    claim = study.CLAIMS[name]
    numbers = claim.measure(0)
    assert claim.holds({key: np.array([value]) for key, value in numbers.items()})
