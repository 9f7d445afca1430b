"""People as an agent's teacher: what is posted once, what comes back, and whose study it is."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from people import Person, draw

from prefrl.agents import PreferenceRL, PreferenceRLConfig, SACConfig
from prefrl.data import Segments
from prefrl.data.segment_store import Excerpt
from prefrl.envs.wrappers.simulator_states import SimulatorStates
from prefrl.label.records import NewQuestion, StudySettings
from prefrl.label.store import LabelStore
from prefrl.label.teacher import BELONGS, HumanTeacher
from prefrl.preferences import Questions, RewardModelConfig
from prefrl.run.loop import learn

STUDY = StudySettings(environment="Pendulum-v1")


def questions(count=4, session=0, seed=0, states=True):
    """Questions about made-up behaviour of a pendulum, of 3 to 5 steps."""
    draws = np.random.default_rng([seed, session])

    def side():
        angle, speed = draws.uniform(-3, 3, (2, count, 6))
        length = draws.integers(3, 6, count)
        for row, end in enumerate(length):
            angle[row, end + 1 :], speed[row, end + 1 :] = angle[row, end], speed[row, end]
        actions = draws.uniform(-2, 2, (count, 5, 1)) * (np.arange(5) < length[:, None])[..., None]
        obs = np.stack([np.cos(angle), np.sin(angle), speed], -1).astype(np.float32)
        segments = Segments(torch.from_numpy(obs), torch.from_numpy(actions.astype(np.float32)),
                            torch.from_numpy(length), torch.from_numpy(length < 5))  # fmt: skip
        rewards = -(angle[:, :-1] ** 2 + 0.1 * speed[:, :-1] ** 2)
        known = torch.from_numpy(np.stack([angle, speed], -1)) if states else None
        weights = torch.ones(count, dtype=torch.float64)
        return Excerpt(segments.validate(), torch.from_numpy(rewards), weights, known)

    return Questions(side(), side(), session)


NONE = Questions(*(getattr(questions(1), side).at(slice(0)) for side in ("first", "second")))


@pytest.fixture
def teacher(tmp_path):
    made = HumanTeacher(tmp_path / "study", "run", STUDY)
    yield made
    made.store.close()


def test_what_is_answered_comes_back_to_the_bit(teacher):
    """Whichever side was shown where: the better one by the return is the better one in the end."""
    asked = questions(12)
    nothing = teacher.ask(asked)
    assert (len(nothing), teacher.news(), teacher.unanswered()) == (0, 0, 12)
    person = Person(teacher.store)
    numbers = [person.answer() for _ in range(12)]
    assert len(set(numbers)) == 12
    assert person.answer() is None
    teacher.look()
    assert (teacher.news(), teacher.unanswered()) == (12, 0)
    answers = teacher.ask(NONE)
    assert (teacher.news(), len(answers)) == (0, 12)
    answers.validate()
    order = torch.tensor([number - min(numbers) for number in numbers])
    for side in ("first", "second"):
        ours, theirs = getattr(answers, side), getattr(asked, side).segments[order]
        padded = ours.padded(5)
        assert torch.equal(padded.obs, theirs.obs)
        assert torch.equal(padded.actions, theirs.actions)
        assert torch.equal(padded.lengths, theirs.lengths)
        assert torch.equal(padded.terminated, theirs.terminated)
    gap = (asked.second.rewards * asked.second.segments.mask).sum(1) - (
        asked.first.rewards * asked.first.segments.mask).sum(1)  # fmt: skip
    assert torch.equal(answers.labels, (gap[order] > 0).double())
    assert {answer.places for answer in teacher.store.current()} == {(0, 1), (1, 0)}


def test_ties_skips_undos_and_several_people(tmp_path):
    teacher = HumanTeacher(tmp_path / "study", "run", replace(STUDY, annotators_per_question=2))
    teacher.ask(questions(3))
    ann, bob = Person(teacher.store, "ann"), Person(teacher.store, "bob")
    for value in ("tie", "skip", "left"):
        ann.answer(value)
    bob.answer("tie")
    answers = teacher.ask(NONE)
    assert answers.weights.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert answers.labels[[0, 1, 3]].tolist() == [0.5, 0.5, 0.5]
    assert answers.annotator_names == ("ann", "bob")
    assert answers.annotators.tolist() == [0, 0, 0, 1]
    assert teacher.unanswered() == 0, "a skipped question is done with"
    assert teacher.summary() == {"answered_share": 2 / 3, "annotators": {"ann": 2, "bob": 1}}
    shown = ann.undo()
    teacher.look()
    assert (teacher.news(), teacher.unanswered()) == (1, 1)
    ann.answer("right", shown)
    teacher.look()
    assert (teacher.news(), teacher.unanswered()) == (1, 0), "another answer than was taken"
    assert teacher.ask(NONE).labels[3] == 1.0 - answers.labels[2]


def test_nothing_is_posted_twice(teacher):
    """One that goes on from an older checkpoint asks about other segments; those in the study count."""
    first = questions(4)
    teacher.ask(first)
    Person(teacher.store).answer()
    again = HumanTeacher(teacher.folder, "run")
    before = [row.items for row in again.store.questions()]
    answers = again.ask(questions(4, seed=1))
    assert [row.items for row in again.store.questions()] == before
    assert again.store.totals().segments == 8, "not even the segments"
    assert len(answers) == 1
    assert again.unanswered() == 3
    again.ask(questions(2, session=1))
    rows = again.store.questions()
    assert [row.key for row in rows] == [*(f"run/0/{k}" for k in range(4)), "run/1/0", "run/1/1"]
    assert rows[-1].priority > rows[0].priority, "what the agent does now is asked first"


def test_pairs_without_whole_segments_are_not_posted(teacher):
    asked = questions(3)
    weights = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    teacher.ask(replace(asked, first=asked.first._replace(weights=weights)))
    assert [row.key for row in teacher.store.questions()] == ["run/0/0", "run/0/2"]


def test_repeats_checks_and_practice_are_not_learned_from(tmp_path):
    study = replace(STUDY, repeat_every=1, practice=1)
    teacher = HumanTeacher(tmp_path / "study", "run", study)
    teacher.ask(questions(2))
    items = teacher.store.questions()[0].items
    teacher.store.post([], [
        NewQuestion(items, "practice", practice=True), NewQuestion(items, "check", check_answer="first"),
    ])  # fmt: skip
    assert HumanTeacher(tmp_path / "study", "run", study).unanswered() == 2, (
        "and they do not make it another's"
    )
    person = Person(teacher.store)
    while person.answer() is not None:
        pass
    kinds = [(answer.practice, answer.check is None, answer.repeat_of is None)
             for answer in teacher.store.current()]  # fmt: skip
    assert len(set(kinds)) == 4, "there are some of each kind"
    assert len(teacher.ask(NONE)) == 2
    assert teacher.summary()["answered_share"] == 1.0


def test_nobody_at_work_costs_nothing(teacher, monkeypatch):
    teacher.ask(questions(3))
    looks = []
    look = teacher.look
    monkeypatch.setattr(teacher, "look", lambda: (looks.append(1), look())[1])
    for _ in range(1000):
        teacher._look_again = 0.0  # whatever the last look took
        teacher.news()
    assert len(looks) <= 1
    draw(teacher.store)
    looks.clear()
    now = 1e9
    monkeypatch.setattr("prefrl.label.teacher.time", SimpleNamespace(monotonic=lambda: now))
    for number in range(50):
        teacher.store.add_annotator(f"p{number}")
        teacher.news()
        now += 0.01  # however long writing takes here
    assert 2 <= len(looks) < 25, "somebody busy is seen, and does not make it look all the time"


# Whose study it is -----------------------------------------------------------------------------------------


def test_a_study_of_something_else_is_refused(tmp_path, teacher):
    teacher.ask(questions(2))
    with pytest.raises(ValueError, match=r"holds 2 questions of another run or of nobody's"):
        HumanTeacher(teacher.folder, "other", STUDY)
    with pytest.raises(
        ValueError, match=r"a study whose question is 'Which of the two does better.', not 'Hm.'"
    ):
        HumanTeacher(teacher.folder, "run", replace(STUDY, question="Hm?"))
    LabelStore.create(tmp_path / "ratings", StudySettings(kind="rating")).close()
    with pytest.raises(ValueError, match="a study of kind 'rating'; an agent asks which of a pair"):
        HumanTeacher(tmp_path / "ratings", "run")
    with pytest.raises(FileNotFoundError, match="no folder"):
        HumanTeacher(tmp_path / "nothing", "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(OSError, match=r"full"):
        HumanTeacher(tmp_path / "full", "run", STUDY)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_another_run_that_was_faster_is_not_mixed_with(teacher):
    other = HumanTeacher(teacher.folder, "other", STUDY)
    other.ask(questions(2))
    with pytest.raises(ValueError, match="questions of another run"):
        teacher.ask(questions(2))
    assert len(other.store.questions()) == 2


def test_of_two_runs_that_post_at_the_same_moment_one_is_refused(tmp_path):
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        teachers = [HumanTeacher(folder, "one", STUDY), HumanTeacher(folder, "two")]
        ready, posted, refused = threading.Barrier(2), [], []

        def ask(teacher, ready=ready, posted=posted, refused=refused):
            ready.wait()
            try:
                teacher.ask(questions(4, seed=len(teacher.run)))
                posted.append(teacher.run)
            except ValueError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=ask, args=(teacher,)) for teacher in teachers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(posted), len(refused)) == (1, 1)
        assert "questions of another run" in refused[0]
        assert {row.session for row in teachers[0].store.questions()} == set(posted)
        for teacher in teachers:
            teacher.store.close()


def test_questions_without_states_are_refused(teacher):
    with pytest.raises(ValueError, match=r"come without simulator states.*with_simulator_states"):
        teacher.ask(questions(states=False))
    assert teacher.store.questions() == []


def test_a_run_folder_knows_its_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    teacher = HumanTeacher.of_run(Path("run"), Path("study"), STUDY)
    teacher.ask(questions(2))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = HumanTeacher.of_run(tmp_path / "run", Path("study"), STUDY)
    assert (again.run, again.folder) == (teacher.run, tmp_path / "study")
    assert again.ask(NONE).labels.shape == (0,)
    (tmp_path / "fresh").mkdir()
    with pytest.raises(ValueError, match="another run"):
        HumanTeacher.of_run(tmp_path / "fresh", tmp_path / "study", STUDY)
    assert list((tmp_path / "fresh").iterdir()) == [], "nothing is left of what was refused"
    with pytest.raises(ValueError, match="says no study"):
        HumanTeacher.of_run(tmp_path / "fresh", None)
    (tmp_path / "run" / BELONGS).write_text(json.dumps({"run": 3}))
    with pytest.raises(ValueError, match=r"labelling.json.*it must hold"):
        HumanTeacher.of_run(tmp_path / "run", None)


def test_a_study_that_is_gone_is_not_made_anew(tmp_path):
    (tmp_path / "run").mkdir()
    teacher = HumanTeacher.of_run(tmp_path / "run", tmp_path / "study", STUDY)
    teacher.store.close()
    (tmp_path / "study").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="study"):
        HumanTeacher.of_run(tmp_path / "run", tmp_path / "study", STUDY)
    assert not (tmp_path / "study").exists()


def test_an_agent_learns_from_people(tmp_path):
    teacher = HumanTeacher(tmp_path / "study", "run", STUDY)
    config = PreferenceRLConfig(
        SACConfig(hidden=(8,), learning_starts=10, batch_size=8, buffer_size=100),
        RewardModelConfig(members=2, hidden=(8,), epochs=2), segment_length=5, num_labels=9, first_labels=5,
        session_labels=4, first_session=20, session_every=20, refit_every=3,
    )  # fmt: skip
    env = SimulatorStates(gym.make("Pendulum-v1", max_episode_steps=12))
    agent = PreferenceRL(env, config, teacher=teacher, device="cpu")
    person = Person(teacher.store)
    learn(agent, 22)
    assert (agent.asked, agent.fitted) == (5, False)
    for _ in range(3):
        person.answer()
    teacher.look()
    learn(agent, 2)
    assert (agent.fitted, agent.labels_used) == (True, 3)
    learn(agent, 20)
    while person.answer() is not None:
        pass
    teacher.look()
    learn(agent, 2)
    assert (agent.asked, agent.labels_used, agent.preferences.annotator_names) == (9, 9, ("ann",))
    stored = teacher.store.segment(teacher.store.questions()[0].items[0].segment)
    angle = stored.states[:, 0]
    np.testing.assert_allclose(stored.arrays["obs"][:, 0], np.cos(angle), atol=1e-6)


@pytest.mark.parametrize("same", [True, False])
def test_a_loaded_agent_knows_its_people_again(tmp_path, same):
    """Their answers are those that it was fitted to; others' are added."""
    config = PreferenceRLConfig(
        SACConfig(hidden=(8,), learning_starts=10, batch_size=8, buffer_size=100),
        RewardModelConfig(members=2, hidden=(8,), epochs=2), segment_length=5, num_labels=9, first_labels=5,
        session_labels=4, first_session=20, session_every=20, refit_every=1,
    )  # fmt: skip
    env = SimulatorStates(gym.make("Pendulum-v1", max_episode_steps=12))
    teacher = HumanTeacher(tmp_path / "study", "run", STUDY)
    agent = PreferenceRL(env, config, teacher=teacher, device="cpu")
    learn(agent, 22)
    for _ in range(3):
        Person(teacher.store).answer()
    teacher.look()
    learn(agent, 2)
    agent.save(tmp_path / "agent.pt")
    teacher.store.close()
    loaded = PreferenceRL.load(tmp_path / "agent.pt", env=env, device="cpu")
    if same:
        (tmp_path / "study").rename(tmp_path / "moved")
        loaded.teacher = again = HumanTeacher(tmp_path / "moved", "run")
    else:
        loaded.teacher = again = HumanTeacher(tmp_path / "another", "run", STUDY)
        again.ask(questions(3, session=7))
    Person(again.store).answer()
    again.look()
    learn(loaded, 2)
    assert loaded.labels_used == 4
    assert len(loaded.preferences) == 4
    again.store.close()
