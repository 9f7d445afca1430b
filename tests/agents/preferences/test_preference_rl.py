"""Preference RL: what is asked and fitted when, relabelling, budgets, teachers, files, and resuming."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents import DQNConfig, PPOConfig, PreferenceRL, PreferenceRLConfig, SACConfig, SB3Config
from prefrl.agents.base import Spaces
from prefrl.data import Preferences
from prefrl.functional.preferences.general_models.questions import mutual_information
from prefrl.preferences import Answerer, RewardModelConfig
from prefrl.preferences.queries import (
    Candidates,
    choose_queries,
    disagreement,
    improvement,
    knowledge,
    preference_entropy,
)
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn

REWARD = RewardModelConfig(members=2, hidden=(8,), epochs=2)
OFF_POLICY = {"learning_starts": 10, "batch_size": 8, "buffer_size": 100}
SMALL = {"policy_kwargs": {"net_arch": [8]}}
LEARNERS = {
    "sac": SACConfig(hidden=(8,), **OFF_POLICY),
    "dqn": DQNConfig(hidden=(8,), **OFF_POLICY),
    "ppo": PPOConfig(hidden=(8,), n_steps=8, batch_size=8, n_epochs=2),
    "sb3_ppo": SB3Config("ppo", {"n_steps": 8, "batch_size": 8, "n_epochs": 1, **SMALL}),
    "sb3_sac": SB3Config("sac", {**OFF_POLICY, **SMALL}),
    "sb3_dqn": SB3Config("dqn", {**OFF_POLICY, **SMALL}),
}
SCHEDULE = {
    "segment_length": 5, "num_labels": 14, "first_labels": 6, "session_labels": 5, "first_session": 20,
    "session_every": 10,
}  # fmt: skip


def agent_of(learner="sac", seed=0, preferences=None, rows=2, **settings):
    env_id = "prefrl/CartPole-v0" if "dqn" in learner else "prefrl/Pendulum-v0"
    env = prefrl.envs.make_device(env_id, rows, max_episode_steps=9)
    config = PreferenceRLConfig(LEARNERS[learner], REWARD, **{**SCHEDULE, **settings})
    return PreferenceRL(env, config, preferences=preferences, device="cpu", seed=seed)


def kept_rewards(agent):
    learner = agent.learner
    if isinstance(agent.config.learner, PPOConfig):
        return learner.rollout.storage["rewards"][: learner.rollout.size]
    if not isinstance(agent.config.learner, SB3Config):
        return learner.replay.storage["rewards"][: learner.replay.added]
    buffer = learner.model.replay_buffer
    return torch.as_tensor(buffer.rewards[: buffer.pos])


@pytest.mark.parametrize(
    "learner",
    [
        "sac",
        "dqn",
        "ppo",
        "sb3_sac",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sb3_ppo", "sb3_dqn")),
    ],
)
def test_trains_and_resumes_bit_equal(learner, tmp_path):
    whole = agent_of(learner)
    learn(whole, 60)
    assert whole.schedules() == (
        {"rollout/exploration_rate": whole.learner.epsilon} if learner == "dqn" else {}
    )
    assert (whole.asked, whole.sessions, len(whole.preferences)) == (14, 3, 14)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    first = agent_of(learner)
    learn(
        first, 60, folder=folder, checkpoint_every=26, callback=lambda local, world: first.num_timesteps < 28
    )
    second = agent_of(learner)
    learn(second, 60, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    sides = [agent.reward_model.scores(whole.preferences.first) for agent in (whole, second)]
    assert torch.equal(*sides)
    obs = torch.as_tensor(np.stack([whole.observation_space.sample() for _ in range(4)]))
    assert torch.equal(*(agent.act(obs, deterministic=True) for agent in (whole, second)))
    whole.save(tmp_path / "agent.pt")
    loaded = PreferenceRL.load(tmp_path / "agent.pt", device="cpu")
    assert loaded.config == whole.config
    assert torch.equal(loaded.act(obs, deterministic=True), whole.act(obs, deterministic=True))
    assert torch.equal(loaded.reward_model.scores(whole.preferences.first), sides[0])


@pytest.mark.parametrize("learner", ["sac", "dqn", "ppo", "sb3_sac"])
def test_the_learner_sees_the_learned_reward_of_all_that_it_keeps(learner):
    """After the last session everything in the replay has the reward that the model gives it now."""
    agent = agent_of(learner)
    learn(agent, 44 if learner == "ppo" else 60)  # the third session is at 40, two steps into a rollout of 8
    kept = agent.store.latest(len(kept_rewards(agent)))
    assert (agent.sessions, len(kept["rewards"])) == (3, 4 if learner == "ppo" else 30)
    flat = [kept[name].flatten(0, 1) for name in ("obs", "actions", "next_obs")]
    wanted = agent.reward_model.kept_rewards(*flat).reshape(-1, 2)
    torch.testing.assert_close(kept_rewards(agent), wanted, atol=1e-4, rtol=1e-4)
    assert bool((kept["rewards"] != wanted).any()), "the store keeps the true ones"


def test_before_the_first_fit_the_reward_is_zero_or_novelty():
    plain, novel = agent_of(first_session=1000), agent_of(first_session=1000, pretraining=True)
    for agent in (plain, novel):
        learn(agent, 30)
    assert not kept_rewards(plain).any()
    assert bool((kept_rewards(novel) >= 0.0).all())
    assert float(kept_rewards(novel).std()) > 0.0


def test_ppo_is_shown_nothing_before_there_is_a_reward():
    """What it made of zeros were the errors of its values."""
    agent = agent_of("ppo", first_session=20)
    before = copy.deepcopy(agent.learner.network.state_dict())
    learn(agent, 20)
    assert agent.fitted
    assert agent.learner.rollout is None
    assert all(torch.equal(value, agent.learner.network.state_dict()[name]) for name, value in before.items())
    learn(agent, 4)
    assert agent.learner.rollout.size == 2
    novel = agent_of("ppo", first_session=1000, pretraining=True)
    learn(novel, 8)
    assert novel.learner.rollout.size == 3, "all but the first, to which nothing was novel"


def test_the_budget_is_kept_and_skipped_questions_teach_nothing():
    agent = agent_of(teacher="skips", num_labels=71, first_labels=60, session_labels=40)
    learn(agent, 80)
    assert (agent.asked, agent.sessions) == (71, 2)
    assert agent.labels_used == int((agent.preferences.weights > 0).sum()) < 71
    assert agent.result()["labels_used"] == agent.labels_used


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda answers: None, TypeError, "teacher returned a NoneType; it must return Preferences"),
        (lambda answers: answers.labels, TypeError, "teacher returned a Tensor"),
        (lambda answers: replace(answers, labels=answers.labels * torch.nan), ValueError, "labels"),
        (lambda answers: replace(answers, weights=-answers.weights), ValueError, "weights"),
        (
            lambda answers: replace(
                answers, **{side: of_two_numbers(getattr(answers, side)) for side in ("first", "second")}
            ),
            ValueError,
            "obs of the segments have shape",
        ),
    ],
)
def test_bad_answers_are_refused_and_leave_the_agent_as_it_was(spoil, error, message):
    class Teacher(Answerer):
        good = False

        def ask(self, questions):
            answers = questions.answered(torch.ones(len(questions)))
            return answers if self.good else spoil(answers)

    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 2, max_episode_steps=9)
    config = PreferenceRLConfig(LEARNERS["sac"], REWARD, **SCHEDULE)
    agent = PreferenceRL(env, config, teacher=Teacher(), device="cpu")
    for _ in range(2):
        with pytest.raises(error, match=message):
            learn(agent, 22)
    assert (agent.asked, agent.sessions, agent.preferences) == (0, 0, None)
    agent.teacher.good = True
    learn(agent, 22)
    assert agent.asked == agent.labels_used > 0


def of_two_numbers(segments):
    return replace(segments, obs=segments.obs[..., :2])


@pytest.mark.parametrize("teacher", ["noiseless", "logistic", "mistakes", "skips", "ties", "myopia"])
@pytest.mark.parametrize("query", ["uniform", "recent"])
def test_teachers_and_queries(teacher, query):
    agent = agent_of(teacher=teacher, query=query)
    learn(agent, 40)
    assert agent.asked == 14
    agent.preferences.validate()


def test_a_noisy_teacher_draws_anew_in_each_session():
    """At such a temperature answers are tosses of a coin, whatever the segments are."""
    agent = agent_of(teacher="logistic", teacher_temperature=1e6, num_labels=60, first_labels=30,
                     session_labels=30)  # fmt: skip
    learn(agent, 40)
    assert agent.sessions == 2
    first, second = agent.preferences.labels.split(30)
    assert 5 < int(first.sum()) < 25
    assert 5 < int((first != second).sum()) < 25


def test_with_segments_as_long_as_episodes_every_label_is_used():
    for seed in range(3):
        agent = agent_of(segment_length=9, num_labels=30, first_labels=30, first_session=60, seed=seed)
        learn(agent, 60)
        for side in (agent.preferences.first, agent.preferences.second):
            assert bool((side.lengths == 9).all())
        assert (agent.asked, agent.labels_used) == (30, 30)
        assert bool((agent.preferences.first.obs != agent.preferences.second.obs).flatten(1).any(1).all())


def test_nothing_is_asked_before_there_are_whole_segments():
    class Short(gym.Wrapper):  # and its limit is not known
        def step(self, action):
            *step, _, info = super().step(action)
            self.steps = 0 if step[2] else self.steps + 1
            return *step, self.steps % 4 == 0, info

        def reset(self, **kwargs):
            self.steps = 0
            return super().reset(**kwargs)

    env = Short(gym.make("Pendulum-v1"))
    config = PreferenceRLConfig(LEARNERS["sac"], REWARD, **SCHEDULE)
    agent = PreferenceRL(env, config, device="cpu")
    with pytest.warns(UserWarning, match=r"no two segments of 5 steps.*\(segment_length\)"):
        learn(agent, 60)
    assert (agent.asked, agent.sessions, agent.preferences) == (0, 0, None)
    assert agent.result() == {"reward_model_accuracy": None, "labels_used": 0}


def test_a_loaded_agent_asks_once_it_has_seen_as_much_again(tmp_path):
    agent = agent_of()
    learn(agent, 24)
    assert agent.sessions == 1
    agent.save(tmp_path / "agent.pt")
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 2, max_episode_steps=9)
    loaded = PreferenceRL.load(tmp_path / "agent.pt", env, device="cpu")
    learn(loaded, 16)
    assert loaded.sessions == 1
    learn(loaded, 4)
    assert loaded.sessions == 2


WORTH = {
    "disagreement": lambda scores: disagreement(*scores),
    "entropy": lambda scores: preference_entropy(*scores),
    "bald": lambda scores: mutual_information(scores[1] - scores[0]),
    "variance": lambda scores: (scores[1] - scores[0]).var(0, correction=0),
    "expected_improvement": lambda scores: improvement(Candidates(*scores)),
    "knowledge_gradient": lambda scores: knowledge(Candidates(*scores)),
}


@pytest.mark.parametrize("query", WORTH)
def test_questions_are_chosen_by_the_ensemble(query):
    """Those asked are worth more than the candidates that they were chosen among, on average."""
    agent = agent_of(query=query, num_labels=6)
    learn(agent, 60)
    agent.reward_model.fit(agent.preferences, epochs=200)
    agent.sessions = 1
    candidates = agent.store.sample_pairs(50, 5, copy.deepcopy(agent._generator))
    everyone = [agent.reward_model.scores(side.segments) for side in candidates]
    asked = [agent.reward_model.scores(side.segments) for side in agent._questions(5)]
    worth = WORTH[query](everyone)
    best = worth.topk(5).indices
    for side, all_of_it in zip(asked, everyone, strict=True):
        torch.testing.assert_close(side, all_of_it[:, best])
    assert float(worth[best].mean()) > float(worth.mean())


@pytest.mark.parametrize("query", ["d_optimal", "g_optimal"])
def test_designs_are_of_the_last_layer_and_reckon_with_all_answers(query):
    agent = agent_of(query=query, num_labels=6)
    learn(agent, 60)
    model = agent.reward_model
    answers = agent.preferences
    agent.preferences = replace(answers, weights=1e7 * answers.weights)  # as much as of many more
    sides = [s.segments for s in agent.store.sample_pairs(50, 5, copy.deepcopy(agent._generator))]
    slopes = model.slopes(sides[1]) - model.slopes(sides[0])
    scores = [model.scores(side) for side in sides]
    known = model.information(agent.preferences)
    best = choose_queries(query, 5, *scores, slopes=slopes, information=known)
    asked = agent._questions(5)
    for side, all_of_it in zip(asked, sides, strict=True):
        assert torch.equal(side.segments.obs, all_of_it.obs[best])
    assert best.tolist() != choose_queries(query, 5, *scores, slopes=slopes).tolist()


@pytest.mark.parametrize("query", sorted({*WORTH} - {"entropy"}))
def test_an_ensemble_of_one_cannot_disagree(query):
    with pytest.raises(ValueError, match=f"query is '{query}', and the reward model has one member"):
        PreferenceRLConfig(reward=replace(REWARD, members=1), query=query)
    for other in ("entropy", "d_optimal", "recent"):
        PreferenceRLConfig(reward=replace(REWARD, members=1), query=other)


def test_answers_are_those_of_the_true_return():
    agent = agent_of()
    learn(agent, 40)
    first, second = (agent.store.sample(30, 5, torch.Generator().manual_seed(s)) for s in (1, 2))
    answers = agent._answered(first, second)
    gap = second.rewards.sum(1) - first.rewards.sum(1)
    assert torch.equal(answers.labels, torch.where(gap.abs() < 1e-6, 0.5, (gap > 0).double()))


def test_preferences_of_a_file_need_nobody_to_ask():
    source = agent_of()
    learn(source, 60)
    agent = agent_of(preferences=source.preferences, num_labels=0, seed=1)
    assert agent.fitted
    learn(agent, 30)
    assert agent.asked == 0
    assert agent.labels_used == 14
    assert kept_rewards(agent).any()


def test_given_answers_and_questions_mix_and_keep_their_names(tmp_path):
    source = agent_of()
    learn(source, 60)
    people = replace(source.preferences, annotator_names=("ann", "bob"), annotators=torch.arange(14) % 2,
                     metadata={"where": "lab"})  # fmt: skip
    agent = agent_of(preferences=people, num_labels=4, first_labels=4)
    learn(agent, 30)
    assert agent.preferences.annotator_names == ("ann", "bob", "teacher")
    assert agent.preferences.annotators.tolist() == [*people.annotators.tolist(), 2, 2, 2, 2]
    agent.save(tmp_path / "agent.pt")
    loaded = PreferenceRL.load(tmp_path / "agent.pt", device="cpu")
    assert loaded.preferences.annotator_names == ("ann", "bob", "teacher")
    assert loaded.preferences.metadata == {"where": "lab"}
    assert loaded.labels_used == 18
    assert loaded.result()["reward_model_accuracy"] is None, "nothing was visited yet"


def test_no_segment_reaches_across_a_restart():
    agent = agent_of(rows=1, first_session=1000)
    learn(agent, 5)
    learn(agent, 5)  # which starts anew in mid-episode
    assert bool(agent.store.latest()["truncations"][4, 0])


def test_goes_on_in_another_number_of_environments(tmp_path):
    agent = agent_of("sb3_ppo")
    learn(agent, 30)
    agent.save(tmp_path / "agent.pt")
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 4, max_episode_steps=9)
    loaded = PreferenceRL.load(tmp_path / "agent.pt", env=env, device="cpu")
    learn(loaded, 40)
    assert loaded.rows == 4


def test_what_does_not_suit_the_environment_is_refused():
    with pytest.raises(ValueError, match="segment_length is 10; episodes end after 9 steps"):
        agent_of(segment_length=10)
    picture = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    spaces = Spaces(picture, gym.spaces.Discrete(2))
    config = PreferenceRLConfig(SB3Config("ppo"), REWARD, pretraining=True)
    with pytest.raises(ValueError, match="pretraining measures distances between observations"):
        PreferenceRL(spaces, config, device="cpu")
    with pytest.raises(ValueError, match="the reward model has one member"):
        PreferenceRLConfig(reward=RewardModelConfig(members=1))


def test_dict_observations():
    class Both(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.observation_space = gym.spaces.Dict(
                a=env.observation_space, b=gym.spaces.Box(-9.0, 9.0, (1,))
            )

        def observation(self, obs):
            return {"a": obs, "b": obs[:1]}

    config = PreferenceRLConfig(LEARNERS["sb3_ppo"], REWARD, **{**SCHEDULE, "first_session": 10})
    agent = PreferenceRL(Both(gym.make("Pendulum-v1")), config, device="cpu")
    learn(agent, 40)
    assert agent.sessions == 3
    assert agent.preferences.first.obs.shape[2:] == (4,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "human"}, "teacher is 'human'"),
        ({"query": "best"}, "query is 'best'"),
        ({"segment_length": 0}, "segment_length is 0"),
        ({"num_labels": -1}, "num_labels is -1"),
        ({"recent": 0.0}, "recent is 0.0"),
        ({"teacher_temperature": 0.0}, "teacher_temperature is 0.0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PreferenceRLConfig(**settings)


def test_preferences_of_another_environment_are_refused():
    source = agent_of("dqn")
    learn(source, 30)
    with pytest.raises(ValueError, match="obs of the segments have shape"):
        agent_of("sac", preferences=source.preferences)
    with pytest.raises(TypeError, match="preferences is a list"):
        agent_of("sac").reward_model.fit([])
    skipped = replace(source.preferences, weights=torch.zeros_like(source.preferences.weights))
    with pytest.raises(ValueError, match="preferences have weight 0 only"):
        agent_of("dqn", preferences=skipped)
    assert isinstance(source.preferences, Preferences)
