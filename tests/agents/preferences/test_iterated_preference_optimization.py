"""A policy that is compared with itself in rounds: what comes of it, continuations, files, refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import prefrl.envs
from prefrl.agents import (
    IteratedPreferenceOptimization,
    IteratedPreferenceOptimizationConfig,
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.agents.base import Spaces
from prefrl.agents.preferences.iterated_preference_optimization import with_same_start
from prefrl.cli import main
from prefrl.data import Preferences, Segments, load_preferences, save_preferences
from prefrl.data.segment_store import Excerpt
from prefrl.preferences.asking import exact_answers
from prefrl.preferences.label_models import DensityRatio
from prefrl.run.environments import make_training_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn

SMALL = {"hidden": (8,), "round_timesteps": 40, "round_pairs": 12, "round_steps": 5, "batch_size": 4,
         "learning_rate": 1e-2}  # fmt: skip


def tree(depth: int = 2) -> Any:
    return gym.make("prefrl/TokenTree-v0", depth=depth)


def value(agent: PreferenceOptimization, task: Any) -> float:
    table = agent.policy_table()[0].numpy()
    return float(task.unwrapped.tabular_model().start @ task.unwrapped.true_value(table))


def make(
    env_id: str = "prefrl/Pendulum-v0", seed: int = 0, label_model: Any = None, rows: int = 2, **settings: Any
) -> IteratedPreferenceOptimization:
    env = prefrl.envs.make_device(env_id, rows, max_episode_steps=9)
    config = IteratedPreferenceOptimizationConfig(**{**SMALL, "segment_length": 4, **settings})
    return IteratedPreferenceOptimization(env, config, label_model=label_model, device="cpu", seed=seed)


def test_rounds_make_the_policy_better_and_move_the_reference() -> None:
    """On a tree whose best sequence is known, from no comparison at all."""
    task, values = tree(), []
    for fixed in (False, True):
        config = IteratedPreferenceOptimizationConfig(
            loss="ipo", beta=0.5, segment_length=2, same_start=True, round_timesteps=256, round_pairs=64,
            round_steps=50, learning_rate=0.05, fixed_reference=fixed,
        )  # fmt: skip
        env = make_training_env("prefrl/TokenTree-v0", ("depth=2",), 16, "cpu")
        agent = IteratedPreferenceOptimization(env, config, device="cpu")
        start = value(agent, task)
        agent.learn(8 * 256)
        assert agent.rounds == 8
        assert agent.asked == 8 * 64
        values.append(value(agent, task))
        assert (agent.reference == 0).all() == fixed, "the first policy of a table is uniform"
    best = float(task.unwrapped.tabular_model().start @ task.unwrapped.optimal_value())
    assert start < values[1] < values[0], "a reference that stays holds the policy back"
    assert values[0] > start + 0.8 * (best - start)


def test_only_the_latest_rounds_are_learned_from() -> None:
    agent = make(keep_rounds=2)
    agent.learn(40 * 5)
    assert agent.rounds == 5
    assert agent.pairs is not None
    assert len(agent.pairs) == 2 * 12
    assert agent.asked == 5 * 12


def test_a_label_model_answers_alone() -> None:
    """Two policies of a table say what is better, whatever the teacher says."""
    task = tree()
    answers = exact_answers(task)
    config = PreferenceOptimizationConfig(beta=0.5, cloning_steps=0, learning_rate=0.1, batch_size=None)

    class Believes:
        def __init__(self, labels: float) -> None:
            self.agent = PreferenceOptimization(
                task, config, replace(answers, labels=answers.labels + labels), device="cpu"
            ).learn(50)

        def log_prob(self, segments: Any) -> torch.Tensor:
            states = torch.where(segments.mask, segments.obs[:, :-1], 0)
            return torch.log(self.agent.policy_table()[0][states, segments.actions])

    # One likes what the task rewards, the other the contrary.
    right, wrong = Believes(0.0), Believes(0.0)
    wrong.agent.weights.vector.data.mul_(-1.0)
    values = []
    for strong, weak in ((right, wrong), (wrong, right)):
        env = make_training_env("prefrl/TokenTree-v0", ("depth=2",), 16, "cpu")
        settings = IteratedPreferenceOptimizationConfig(
            beta=0.5,
            segment_length=2,
            round_timesteps=256,
            round_pairs=64,
            round_steps=50,
            learning_rate=0.05,
        )
        agent = IteratedPreferenceOptimization(
            env, settings, label_model=DensityRatio(strong, weak), device="cpu"
        )
        agent.learn(4 * 256)
        values.append(value(agent, task))
    assert values[1] < 0.0 < values[0]


def test_segments_of_one_start_come_first() -> None:
    agent = make("prefrl/CartPole-v0")
    agent.learn(38)
    sides = agent.store.sample_pairs(50, 4, agent._generator)
    segments = sides[1].segments
    obs = segments.obs.clone()
    obs[7], obs[30] = sides[0].segments.obs[7], sides[0].segments.obs[30]
    second = Excerpt(replace(segments, obs=obs), *sides[1][1:])
    first, chosen = with_same_start(sides[0], second, 5)
    assert torch.equal(chosen.segments.obs[:2], obs[[7, 30]])
    assert torch.equal(first.segments.obs[:2], obs[[7, 30]])
    assert chosen.weights.tolist()[:2] == [1.0, 1.0]
    same = (first.segments.obs[:, 0] == chosen.segments.obs[:, 0]).all(1)
    assert torch.equal(chosen.weights > 0, same)


@pytest.mark.parametrize("settings", [{}, {"loss": "inpo"}, {"label_rate": 0.2}], ids=str)
def test_a_resumed_run_is_equal_to_the_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    whole, part = make(**settings), make(**settings)
    learn(whole, 300)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    learn(
        part, 300, folder=folder, checkpoint_every=130, callback=lambda local, world: part.num_timesteps < 150
    )
    agent = make(**settings)
    learn(agent, 300, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    assert agent.num_timesteps == whole.num_timesteps
    assert torch.equal(agent.weights.vector, whole.weights.vector)
    assert agent.asked == whole.asked > 0


def test_comparisons_that_were_given_come_first() -> None:
    task = tree()
    env = make_training_env("prefrl/TokenTree-v0", ("depth=2",), 16, "cpu")
    config = IteratedPreferenceOptimizationConfig(
        beta=0.5,
        cloning_steps=3,
        round_steps=100,
        round_timesteps=10**6,
        learning_rate=0.05,
        segment_length=2,
    )
    agent = IteratedPreferenceOptimization(env, config, exact_answers(task), device="cpu")
    before = value(agent, task)
    agent.learn(16)
    assert agent.rounds == 1
    assert agent.asked == 0
    assert value(agent, task) > before + 0.3


def test_the_step_size_falls_with_the_timesteps() -> None:
    agent = make(schedule_timesteps=200)
    agent.learn(100)
    assert agent._share(0) == 0.5
    constant = make(schedule="constant", schedule_timesteps=200)
    constant.learn(100)
    assert constant._share(0) == 1.0
    assert not torch.equal(agent.weights.vector, constant.weights.vector)


def test_observations_of_parts_are_learned_from() -> None:
    agent = make("prefrl/NetworkRevenue-v0")
    before = agent.weights.vector.detach().clone()
    agent.learn(40 * 2)
    assert agent.rounds == 2
    assert not torch.equal(agent.weights.vector, before)


@pytest.mark.parametrize("start", [3, -5])
def test_rounds_of_other_lengths_than_what_was_given_are_kept_together(start: int) -> None:
    """What pads the shorter ones, 0, is no state of this space."""
    spaces = Spaces(gym.spaces.Discrete(2, start=start), gym.spaces.Discrete(2))
    agents = []
    for length in (3, 5):
        obs, actions = torch.full((4, length + 1), start), torch.zeros(4, length, dtype=torch.int64)
        sides = [
            Segments(obs + obs.new_tensor(side), actions + side, torch.full((4,), length), actions[:, 0] > 0)
            for side in (0, 1)
        ]
        answers = Preferences.from_labels(*sides, torch.ones(4))
        config = IteratedPreferenceOptimizationConfig(**{**SMALL, "segment_length": 3, "keep_rounds": 2})
        agents.append(IteratedPreferenceOptimization(spaces, config, answers, rows=1, device="cpu"))
    agents[1]._kept = [agents[1].pairs, agents[0].pairs]
    agents[1]._learn_round()
    assert agents[1].policy_table()[0, 1, 1] > 0.5


def test_nothing_to_compare_is_said() -> None:
    agent = make(rows=1, round_timesteps=3)
    with pytest.warns(UserWarning, match="nothing was answered in 3 timesteps"):
        agent.learn(3)
    assert agent.rounds == 0


def test_a_file_brings_back_what_acts_and_goes_on(tmp_path: Path) -> None:
    agent = make()
    agent.learn(90)
    agent.save(tmp_path / "agent.pt")
    again = IteratedPreferenceOptimization.load(tmp_path / "agent.pt", env=agent.env, device="cpu")
    obs = agent.observation_space.sample()
    assert again.predict(obs, deterministic=True)[0] == pytest.approx(
        agent.predict(obs, deterministic=True)[0]
    )
    again.learn(40)
    assert again.rounds == agent.rounds + 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"segment_length": 10}, ValueError, "segment_length is 10; episodes end after 9 steps"),
        ({"label_model": 3}, TypeError, "label_model is a int"),
        ({"round_steps": None}, TypeError, "round_steps is None"),
        ({"loss": "ipo", "label_rate": 0.1}, ValueError, "label_rate is 0.1; it must be 0 for 'ipo'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**settings)


def test_from_the_command_line_with_a_file(tmp_path: Path) -> None:
    answers = exact_answers(tree(), 40)
    save_preferences(tmp_path / "answers.npz", answers)
    flags = {
        "env-id": "prefrl/TokenTree-v0", "env.depth": 2, "num-envs": 8, "segment-length": 2,
        "round-timesteps": 64, "round-steps": 20, "cloning-steps": 5, "total-timesteps": 256,
        "preferences": tmp_path / "answers.npz", "out": tmp_path / "run",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert main(["train", "iterated_preference_optimization", *words]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["value"] <= result["optimal_value"]
    assert result["kl_to_reference"] >= 0.0
    kept: Preferences = load_preferences(tmp_path / "run" / "preferences.npz")
    assert torch.equal(kept.labels, answers.labels)


def test_a_run_without_a_round_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "iterated_preference_optimization", "--total-timesteps", "1999"]) == 2
    assert "before a round is over: 2000 round_timesteps" in capsys.readouterr().err
