"""Who answers PreferenceRL: functions, teachers who take time and change their minds, waiting for them."""

import os
import signal
import threading
from dataclasses import replace

import gymnasium as gym
import pytest
import torch

import prefrl.envs
from prefrl.agents import PreferenceRL, PreferenceRLConfig, SACConfig
from prefrl.data import Preferences, concatenate_preferences
from prefrl.envs.wrappers.simulator_states import SimulatorStates
from prefrl.preferences import Answerer, RewardModelConfig
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn

LEARNER = SACConfig(hidden=(8,), learning_starts=10, batch_size=8, buffer_size=100)
REWARD = RewardModelConfig(members=2, hidden=(8,), epochs=2)
SCHEDULE = {
    "segment_length": 5, "num_labels": 14, "first_labels": 6, "session_labels": 5, "first_session": 20,
    "session_every": 10, "refit_every": 3,
}  # fmt: skip


class Slow(Answerer):
    """Answers by the true return, when it is told to; may change its mind about what it answered."""

    revises = True

    def __init__(self, needs_states=False):
        self.needs_states = needs_states
        self.asked, self.labels, self.taken, self.polls = [], {}, {}, 0

    def answer(self, *places, label=None):
        for place in places:
            asked = self.asked[place]
            better = float(asked.second.rewards.sum() > asked.first.rewards.sum())
            self.labels[place] = better if label is None else label

    def ask(self, questions):
        self.asked += [questions[k : k + 1] for k in range(len(questions))]
        self.polls += not len(questions)
        self.taken = dict(self.labels)
        told = [self.asked[place].answered([label], annotator="ann")
                for place, label in sorted(self.labels.items())]  # fmt: skip
        if not told:
            return questions.nothing()
        return concatenate_preferences(told)

    def news(self):
        places = self.labels.keys() | self.taken.keys()
        return sum(self.labels.get(place) != self.taken.get(place) for place in places)

    def unanswered(self):
        return len(self.asked) - len(self.labels)


def agent_of(teacher=None, rows=2, **settings):
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", rows, max_episode_steps=9)
    config = PreferenceRLConfig(LEARNER, REWARD, **{**SCHEDULE, **settings})
    return PreferenceRL(env, config, teacher=teacher, device="cpu")


def rewards_kept(agent):
    return agent.learner.replay.storage["rewards"][: agent.learner.replay.added]


def test_a_function_is_a_teacher():
    """The one that does what the simulated teacher does makes the same run, bit for bit."""
    asked = []

    def by_return(questions):
        asked.append((questions.session, len(questions)))
        gap = questions.second.rewards.double().sum(1) - questions.first.rewards.double().sum(1)
        return questions.answered(torch.where(gap.abs() <= 1e-6, 0.5, (gap > 0).double()))

    ours, theirs = agent_of(by_return), agent_of()
    for agent in (ours, theirs):
        learn(agent, 60)
    assert asked == [(0, 6), (1, 5), (2, 3)]
    assert torch.equal(ours.preferences.labels, theirs.preferences.labels)
    assert torch.equal(rewards_kept(ours), rewards_kept(theirs))
    assert rewards_kept(ours).any()


def test_what_is_no_teacher_is_refused():
    with pytest.raises(TypeError, match="teacher is a int; it must be an Answerer, or a function"):
        agent_of(3)
    agent = agent_of(lambda questions: [1.0] * len(questions))
    with pytest.raises(TypeError, match="teacher returned a list; it must return Preferences"):
        learn(agent, 30)
    with pytest.raises(ValueError, match=r"labels have shape \[2\]; there are 6 questions"):
        learn(agent_of(lambda questions: questions.answered([1.0, 0.0])), 30)


def test_answers_have_a_name_and_a_weight():
    agent = agent_of(lambda questions: questions.answered(
        [1.0] * len(questions), [0.0, *[2.0] * (len(questions) - 1)], annotator="bo"))  # fmt: skip
    learn(agent, 20)
    assert agent.preferences.annotator_names == ("bo",)
    assert agent.preferences.weights.tolist() == [0.0, *[2.0] * 5]
    agent.teacher = lambda questions: questions.answered([0.0] * len(questions), annotator="cy")
    learn(agent, 10)
    assert agent.preferences.annotator_names == ("bo", "cy"), "another teacher adds to what is known"
    assert agent.preferences.annotators.tolist() == [0] * 6 + [1] * 5


def test_nothing_waits_for_a_teacher_who_takes_time():
    teacher = Slow()
    agent = agent_of(teacher)
    learn(agent, 60)
    assert (agent.asked, agent.sessions, len(teacher.asked), teacher.polls) == (14, 3, 14, 0)
    assert (agent.fitted, agent.labels_used) == (False, 0)
    assert not rewards_kept(agent).any(), "there is no reward before the first answer"
    teacher.answer(0, 1)
    learn(agent, 2)
    assert not agent.fitted, "two answers are fewer than refit_every"
    teacher.answer(2)
    learn(agent, 2)
    assert (agent.fitted, agent.labels_used, teacher.polls) == (True, 3, 1)
    assert rewards_kept(agent).all(), "what is kept is relabelled"
    teacher.answer(*range(3, 13))
    learn(agent, 2)
    teacher.answer(13)
    learn(agent, 2)
    assert agent.labels_used == 14, "the last one is learned from alone: no other will come"
    learn(agent, 20)
    assert (teacher.polls, agent.asked) == (3, 14), "nothing new, nothing done; the budget stays"


def test_answers_are_taken_at_sessions_and_at_the_end_however_few():
    teacher = Slow()
    agent = agent_of(teacher)
    learn(agent, 20)
    teacher.answer(4)
    learn(agent, 10)
    assert (agent.sessions, agent.labels_used, teacher.polls) == (2, 1, 0)
    teacher.answer(5)
    learn(agent, 4)
    assert agent.labels_used == 1
    agent.take_answers()
    assert agent.labels_used == 2
    assert agent.take_answers() == {}


def test_answers_that_change_replace_what_was_learned():
    source = agent_of()
    learn(source, 20)
    given = replace(source.preferences, annotator_names=("zoe",))
    teacher = Slow()
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 2, max_episode_steps=9)
    config = PreferenceRLConfig(LEARNER, REWARD, **SCHEDULE)
    agent = PreferenceRL(env, config, preferences=given, teacher=teacher, device="cpu")
    learn(agent, 20)
    teacher.answer(0, 1, 2, label=0.0)
    learn(agent, 2)
    assert agent.preferences.labels[6:].tolist() == [0.0] * 3
    state = agent.state_dict()
    teacher.answer(0, 1, 2, label=1.0)
    learn(agent, 2)
    assert agent.preferences.labels[6:].tolist() == [1.0] * 3
    assert torch.equal(agent.preferences.labels[:6], given.labels)
    assert agent.preferences.annotators.tolist() == [0] * 6 + [2] * 3
    assert agent.preferences.annotator_names == ("zoe", "teacher", "ann")
    teacher.labels.clear()
    learn(agent, 10)
    assert len(agent.preferences) == 6, "all taken back"
    again = PreferenceRL(env, config, preferences=given, teacher=teacher, device="cpu")
    again.load_state_dict(state)
    teacher.answer(3, label=1.0)
    again.take_answers()
    assert again.preferences.labels[6:].tolist() == [1.0], "a resumed one knows which may be replaced"


def test_a_teacher_who_takes_time_may_tell_what_is_new_only():
    class Adds(Slow):
        revises = False

        def ask(self, questions):
            known = len(self.taken)
            return super().ask(questions)[known:]

    teacher = Adds()
    agent = agent_of(teacher)
    learn(agent, 20)
    teacher.answer(0, 1, 2)
    learn(agent, 2)
    assert (agent.fitted, agent.labels_used) == (True, 3)
    teacher.answer(3, 4, 5)
    learn(agent, 2)
    assert agent.labels_used == 6
    assert agent.preferences.annotator_names == ("ann",)


def test_all_skipped_is_nothing_learned():
    class Skips(Slow):
        def ask(self, questions):
            answers = super().ask(questions)
            return replace(answers, weights=0.0 * answers.weights)

    teacher = Skips()
    agent = agent_of(teacher)
    learn(agent, 20)
    teacher.answer(*range(6))
    learn(agent, 4)
    assert (len(agent.preferences), agent.labels_used, agent.fitted) == (6, 0, False)


def test_waits_for_answers_where_it_is_told_to():
    teacher = Slow()
    agent = agent_of(teacher, wait=True)
    at = []

    def answer():
        while not teacher.asked:
            pause.wait(0.01)
        pause.wait(0.3)
        at.append(agent.num_timesteps)
        teacher.answer(*range(6))

    pause = threading.Event()
    person = threading.Thread(target=answer)
    person.start()
    learn(agent, 24)
    person.join()
    assert at == [20], "it stood still"
    assert (agent.labels_used, agent.num_timesteps) == (6, 24)


def test_waiting_is_interrupted_with_a_checkpoint(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"recipe": "preference_rl", "config": {}}, quiet=True)
    teacher = Slow()
    agent = agent_of(teacher, wait=True)
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        learn(agent, 60, folder=folder)
    assert agent.num_timesteps == 20
    again = agent_of(teacher, wait=True)
    timer = threading.Timer(1.0, teacher.answer, range(6))
    timer.start()
    stop = threading.Timer(4.0, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    with pytest.raises(KeyboardInterrupt):
        learn(again, 60, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    assert (again.sessions, again.asked, again.labels_used, again.num_timesteps) == (2, 11, 6, 30)


def test_states_are_kept_for_teachers_who_need_them(tmp_path):
    """The states belong to the observations of the same places, whatever was cut and resumed."""

    def look(questions):
        for side in (questions.first, questions.second):
            angle = side.states[..., 0]
            seen = torch.stack([angle.cos(), angle.sin()], -1).float()
            torch.testing.assert_close(side.segments.obs[..., :2], seen, atol=1e-6, rtol=0)
        sizes.append(len(questions))
        return questions.answered([1.0] * len(questions))

    class Draws(Answerer):
        needs_states = True

        def ask(self, questions):
            return look(questions)

    def made():
        env = SimulatorStates(gym.make("Pendulum-v1", max_episode_steps=9))
        return PreferenceRL(
            env, PreferenceRLConfig(LEARNER, REWARD, **SCHEDULE), teacher=Draws(), device="cpu"
        )

    sizes = []
    folder = RunFolder.create(tmp_path / "run", {"recipe": "preference_rl", "config": {}}, quiet=True)
    agent = made()
    learn(agent, 60, folder=folder, callback=lambda *_: agent.num_timesteps < 24)
    learn(made(), 60, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    assert sizes == [6, 5, 3]
    assert isinstance(agent.preferences, Preferences)
