"""Runs that people teach, from the command line on: killed, resumed, waiting, refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from labelling_server import Person as PersonAtPage, Site
from people import AtWork, Person

from prefrl.config import from_json
from prefrl.data import load_preferences
from prefrl.label.store import LabelStore
from prefrl.run.launch import evaluate_run, resume, train
from prefrl.run.recipes.preferences.preference_rl import TrainPreferenceRL

SMALL = {
    "env_id": "Pendulum-v1", "agent": "sac", "teacher": "human", "total_timesteps": 400, "num_labels": 20,
    "first_labels": 8, "sessions": 4, "first_session": 60, "segment_length": 10, "checkpoint_every": 50,
    "eval_episodes": 1, "device": "cpu", "refit_every": 4,
    "agent_args": ("hidden=[8]", "learning_starts=20", "batch_size=8"),
    "reward": {"members": 2, "hidden": (8,), "epochs": 2},
}  # fmt: skip


def recipe(folder: Path, **settings: object) -> TrainPreferenceRL:
    made: TrainPreferenceRL = from_json(TrainPreferenceRL, {**SMALL, "label_dir": str(folder), **settings})
    return made


def keys(folder: Path) -> list[str]:
    with LabelStore.open(folder) as store:
        return [row.key for row in store.questions()]


def test_a_run_that_people_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    made = recipe(study, wait=True, question="Which swings up?", instructions="Look.")
    with AtWork(study, pause=0.0) as person:
        path = train("preference_rl", made, tmp_path / "run")
    printed = capsys.readouterr().out
    assert f"people answer with `prefrl label serve {study}`" in printed
    result = json.loads(path.read_text())
    assert (result["asked"], result["labels_used"], result["answered_share"]) == (20, 20, 1.0)
    assert result["annotators"] == {"ann": 20}
    assert len(person.answered) == len(set(person.answered)) == len(keys(study)) == 20
    answers = load_preferences(tmp_path / "run" / "preferences.npz")
    assert answers.annotator_names == ("ann",)
    assert bool((answers.weights == 1.0).all())
    with LabelStore.open(study) as store:
        settings = store.study
        assert (settings.question, settings.instructions, settings.fps) == ("Which swings up?", "Look.", 30)
        assert (settings.environment, settings.kind) == ("Pendulum-v1", "pair")
    file = str(tmp_path / "run" / "preferences.npz")
    people = dict.fromkeys(("label_dir", "refit_every"))
    offline = from_json(TrainPreferenceRL, {**SMALL, **people, "teacher": "file", "preferences": file})
    later = json.loads(train("preference_rl", offline, tmp_path / "offline", quiet=True).read_text())
    assert later["labels_used"] == 20


def test_what_is_answered_last_is_learned_from_and_late_is_better_than_never(tmp_path: Path) -> None:
    """Nobody answers while the agent acts; at the end it takes what there is, also too few for a fit."""
    study = tmp_path / "study"

    class Recipe(TrainPreferenceRL):
        def outcome(self, agent, loop, folder):  # type: ignore[no-untyped-def]
            assert agent.labels_used == 3
            return super().outcome(agent, loop, folder)

        def timesteps(self, agent):  # type: ignore[no-untyped-def]
            store, learner_update = agent.teacher.store, agent.update

            def update():  # type: ignore[no-untyped-def]
                if agent.num_timesteps == 395:
                    person = Person(store)
                    for _ in range(3):
                        person.answer()
                return learner_update()

            agent.update = update
            return super().timesteps(agent)

    made = from_json(Recipe, {**SMALL, "label_dir": str(study)})
    result = json.loads(train("preference_rl", made, tmp_path / "run", quiet=True).read_text())
    assert (result["asked"], result["labels_used"], result["answered_share"]) == (20, 3, 3 / 20)


def command(*words: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "prefrl.cli", *map(str, words)],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def flags(study: Path, run: Path, *more: object) -> list[object]:
    words: list[object] = ["train", "preference_rl", "--label-dir", study, "--out", run]
    for name, value in SMALL.items():
        if name == "reward":
            words += ["--members", 2, "--epochs", 2]
        elif name == "agent_args":
            words += ["--agent-args", *value]  # type: ignore[misc]
        else:
            words += ["--" + name.replace("_", "-"), value]
    return [*words, *more]


def until(condition, process, seconds: float = 60.0) -> bool:  # type: ignore[no-untyped-def]
    """Wait until something is so, or the process ended; return whether it is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.slow
def test_killed_again_and_again_nothing_is_lost_or_asked_twice(tmp_path: Path) -> None:
    """Killed after each session is posted, before and after checkpoints; people answer all the time."""
    study, run = tmp_path / "study", tmp_path / "run"
    posted = lambda: len(keys(study)) if (study / "labels.sqlite3").exists() else 0  # noqa: E731
    with AtWork(study, pause=0.3) as person:
        process = command(*flags(study, run))
        seen: dict[str, tuple[object, ...]] = {}
        for sessions, count in enumerate((8, 12, 16)):
            assert until(lambda count=count: posted() >= count, process), process.stderr.read()
            time.sleep(0.05 * sessions)
            process.kill()
            process.wait()
            with LabelStore.open(study) as store:
                rows = {row.key: row.items for row in store.questions()}
            assert all(rows[key] == items for key, items in seen.items()), "what was asked stays as it is"
            seen = rows
            process = command("resume", run)
        assert process.wait(120) == 0, process.stderr.read()
        while len(person.answered) < 20:
            time.sleep(0.05)
    result = json.loads((run / "result.json").read_text())
    assert result["asked"] == 20
    assert len(keys(study)) == len(set(keys(study))) == 20
    assert sorted({key.rsplit("/", 1)[0].split("/")[1] for key in keys(study)}) == ["0", "1", "2", "3"]
    assert len(person.answered) == len(set(person.answered)) == 20, "each question is answered once"
    answers = load_preferences(run / "preferences.npz")
    assert len(answers) == result["labels_used"] == result["annotators"]["ann"]


@pytest.mark.slow
def test_ctrl_c_while_it_waits_leaves_a_checkpoint(tmp_path: Path) -> None:
    study, run = tmp_path / "study", tmp_path / "run"
    process = command(*flags(study, run, "--wait"))
    assert until(lambda: (study / "labels.sqlite3").exists() and len(keys(study)) == 8, process)
    time.sleep(1.0)
    assert process.poll() is None, "nobody answers"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert (run / "checkpoint.pt").exists()
    with AtWork(study, pause=0.0) as person:
        process = command("resume", run)
        assert process.wait(120) == 0, process.stderr.read()
    assert len(person.answered) == 20
    assert json.loads((run / "result.json").read_text())["labels_used"] == 20


@pytest.mark.slow
def test_a_person_teaches_a_pendulum_to_stand(tmp_path: Path) -> None:
    """With the settings that the page on labelling gives; five seeds of five reach more than is asked."""
    made = from_json(TrainPreferenceRL, {
        "env_id": "Pendulum-v1", "agent": "sac", "teacher": "human", "label_dir": str(tmp_path / "study"),
        "wait": True, "num_labels": 100, "first_labels": 40, "sessions": 5, "first_session": 500,
        "segment_length": 50, "total_timesteps": 6000, "device": "cpu", "reward": {"use_actions": False},
        "agent_args": ("learning_rate=1e-3", "learning_starts=500", "gamma=0.98", "hidden=[64, 64]"),
    })  # fmt: skip
    with AtWork(tmp_path / "study", pause=0.0):
        result = json.loads(train("preference_rl", made, tmp_path / "run", quiet=True).read_text())
    assert result["labels_used"] == 100
    assert result["reward_model_accuracy"] >= 0.85
    assert result["true_return"] > -350.0, "random actions get about -1200, the true reward's agent -145"


# Refused ---------------------------------------------------------------------------------------------------


def test_a_study_of_another_run_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    study = tmp_path / "study"
    with AtWork(study, pause=0.0):
        train("preference_rl", recipe(study), tmp_path / "one", quiet=True)
    with pytest.raises(ValueError, match="questions of another run"):
        train("preference_rl", recipe(study), tmp_path / "two", quiet=True)
    assert not (tmp_path / "two").exists()
    assert resume(tmp_path / "one", quiet=True).exists()


def test_settings_that_were_refused_leave_a_study_that_can_be_used(tmp_path: Path) -> None:
    study = tmp_path / "study"
    with pytest.raises(ValueError, match="segment_length is 300; episodes end after 200 steps"):
        train("preference_rl", recipe(study, segment_length=300), tmp_path / "run", quiet=True)
    assert not study.exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_dir": None}, "teacher is 'human' and label_dir None"),
        ({"teacher": "oracle", "refit_every": None}, "teacher is 'oracle' and label_dir"),
        ({"teacher": "oracle", "label_dir": None}, "refit_every is 4; it goes with --teacher human"),
        (
            {"teacher": "oracle", "label_dir": None, "refit_every": None, "wait": True},
            "wait is True; it goes",
        ),
        ({"question": " "}, "question is empty"),
        ({"env_id": "prefrl/TrafficGrid-v0"}, "has several agents, of which no clips are drawn"),
        ({"env_id": "FrozenLake-v1"}, "state"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train("preference_rl", recipe(tmp_path / "study", **settings), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_agent_of_such_a_run_is_evaluated_without_its_study(tmp_path: Path) -> None:
    study = tmp_path / "study"
    train("preference_rl", recipe(study), tmp_path / "run", quiet=True)
    study.rename(tmp_path / "moved")
    found = json.loads(evaluate_run(tmp_path / "run", episodes=1).read_text())
    assert torch.isfinite(torch.tensor(found["mean_return"]))


@contextmanager
def served(study: Path) -> Iterator[tuple["subprocess.Popen[str]", PersonAtPage]]:
    """Serve a study by the command, clips drawn and filmed; yield the process, and somebody at the page."""
    words = ["label", "serve", str(study), "--port", "0", "--annotators", "ann"]
    process = subprocess.Popen(
        [sys.executable, "-m", "prefrl.cli", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r":(\d+)/\?token=(\S+)", process.stdout.readline())
        assert found is not None
        site = Site(int(found[1]))
        yield process, PersonAtPage(site, site.enter(found[2]))
    finally:
        process.kill()
        process.wait()


def answer_at_page(person: PersonAtPage, wanted: int) -> int:
    """Answer until so many are answered in all, or all that was asked is; return how many were here."""
    answered, end = 0, time.monotonic() + 120
    while time.monotonic() < end:
        state = person.next()
        if state["progress"]["answered"] >= wanted:
            return answered
        if state["showing"] is None:
            time.sleep(0.2)
            continue
        assert person.get(state["showing"]["items"][0]["clip"]).status == 200
        answered += person.answer(state["showing"]["id"], "left").json["stored"]
    raise AssertionError(f"after two minutes: {state}")


@pytest.mark.slow
def test_trainer_and_server_are_killed_apart_from_each_other(tmp_path: Path) -> None:
    """Each is killed while the other goes on, and once both are; through the page's server itself."""
    pytest.importorskip("starlette")
    pytest.importorskip("av")
    study, run = tmp_path / "study", tmp_path / "run"
    trainer = command(*flags(study, run, "--wait"))
    assert until(lambda: (study / "labels.sqlite3").exists() and len(keys(study)) == 8, trainer)
    with served(study) as (_, person):
        answered = answer_at_page(person, 5)
    trainer.kill()  # it waits, and the server is dead already
    trainer.wait()
    with served(study) as (_, person):
        answered += answer_at_page(person, 8)
        trainer = command("resume", run)
        answered += answer_at_page(person, 10)
        trainer.kill()
        trainer.wait()
        answered += answer_at_page(person, 12)
        trainer = command("resume", run)
        answered += answer_at_page(person, 20)
        assert person.next()["showing"] is None
    assert trainer.wait(120) == 0, trainer.stderr.read()
    result = json.loads((run / "result.json").read_text())
    assert (answered, result["asked"], result["labels_used"], len(keys(study))) == (20, 20, 20, 20)
    assert result["annotators"] == {"ann": 20}
    with LabelStore.open(study) as store:
        assert store.totals().answers == 20


def test_a_run_that_fails_at_its_first_step_leaves_no_folder_and_a_study_that_can_be_used(
    tmp_path: Path,
) -> None:
    class Fails(TrainPreferenceRL):
        def timesteps(self, agent):  # type: ignore[no-untyped-def]
            raise ValueError("not today")

    study = tmp_path / "study"
    failing = from_json(Fails, {**SMALL, "label_dir": str(study)})
    with pytest.raises(ValueError, match="not today"):
        train("preference_rl", failing, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    assert keys(study) == []
    train("preference_rl", recipe(study, num_labels=4, sessions=1), tmp_path / "run", quiet=True)
    assert len(keys(study)) == 4
