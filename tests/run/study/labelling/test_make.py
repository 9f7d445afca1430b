"""``prefrl label make``: studies of runs, environments, files and other studies."""

import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from prefrl import cli
from prefrl.data import Preferences, TransitionDataset, save_preferences, save_transitions
from prefrl.label import drawing
from prefrl.label.drawing import render_segment
from prefrl.label.store import LabelStore
from prefrl.run.study.labelling import make as make_module, sources
from prefrl.run.study.labelling.make import MakeCommand

pytest.importorskip("av")

SMALL = ("--num-pairs", "3", "--segment-length", "4", "--steps", "200", "--size", "64")


def make(folder: Path, *flags: str) -> LabelStore:
    assert cli.main(["label", "make", str(folder), *SMALL, *flags]) == 0
    return LabelStore.open(folder)


def transitions(pictures: bool) -> TransitionDataset:
    rng = np.random.default_rng(0)
    shape = (16, 20, 3) if pictures else (4,)
    obs = rng.integers(0, 256, (31, *shape), dtype=np.uint8)
    space = gym.spaces.Box(0, 255, shape, np.uint8)
    ends = torch.zeros(30, dtype=torch.bool)
    return TransitionDataset.from_transitions(
        obs=torch.as_tensor(obs[:-1]), actions=torch.zeros(30, dtype=torch.int64), rewards=torch.rand(30),
        next_obs=torch.as_tensor(obs[1:]), terminations=ends, truncations=ends,
        observation_space=space, action_space=gym.spaces.Discrete(2),
    )  # fmt: skip


@pytest.mark.parametrize("env_id", ["prefrl/Pendulum-v0", "prefrl/Delivery-v0", "prefrl/NetworkRevenue-v0"])
def test_pairs_of_an_environment(tmp_path: Path, env_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    with make(tmp_path / "study", "--env-id", env_id, "--practice", "1", "--repeat-every", "7") as store:
        rows = store.questions()
        assert [row.key for row in rows] == ["practice/0", "pair/0", "pair/1", "pair/2"]
        assert all(row.ready for row in rows)
        study = store.study
        assert (study.environment, study.kind, study.practice, study.repeat_every) == (env_id, "pair", 1, 7)
        assert study.fps == gym.make(env_id).unwrapped.metadata["render_fps"]
        segment = store.segment(str(rows[0].items[0].segment))
        assert segment.length == 4
        assert len(render_segment(study, segment)) == 5
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == str(tmp_path / "study")
    assert "4 questions; answer them by `prefrl label serve" in captured.err.replace("\n", " ")


def test_segments_carry_the_states_that_lead_to_their_observations(tmp_path: Path) -> None:
    with make(tmp_path / "study", "--env-id", "Pendulum-v1", "--lazy") as store:
        rows = store.questions()
        assert not any(row.ready for row in rows)
        for item in (item for row in rows for item in row.items):
            segment = store.segment(str(item.segment))
            assert segment.states is not None
            np.testing.assert_allclose(np.cos(segment.states[:, 0]), segment.arrays["obs"][:, 0], atol=1e-6)


def test_checks_are_pairs_of_far_returns(tmp_path: Path) -> None:
    flags = ("--env-id", "prefrl/Pendulum-v0", "--checks", "2", "--steps", "2000", "--lazy")
    with make(tmp_path / "study", *flags) as store:
        rows = [row for row in store.questions() if row.check_answer is not None]
        assert [row.key for row in rows] == ["check/0", "check/1"]
        for row in rows:
            paid = []
            for item in row.items:
                obs = store.segment(str(item.segment)).arrays["obs"][:4]
                paid.append(-float((np.arctan2(obs[:, 1], obs[:, 0]) ** 2 + 0.1 * obs[:, 2] ** 2).sum()))
            assert row.check_answer == ("first" if paid[0] > paid[1] else "second")
            assert abs(paid[0] - paid[1]) > 5.0


@pytest.mark.parametrize(("kind", "size"), [("ranking", 3), ("rating", 1)])
def test_other_kinds(tmp_path: Path, kind: str, size: int) -> None:
    flags = ("--env-id", "prefrl/Pendulum-v0", "--kind", kind, "--items", "3", "--lazy")
    with make(tmp_path / "study", *flags) as store:
        assert store.study.kind == kind
        assert [len(row.items) for row in store.questions()] == [size] * 3


def test_factors_are_one_question_that_is_ready(tmp_path: Path) -> None:
    with make(tmp_path / "study", "--env-id", "prefrl/Pendulum-v0", "--kind", "factors") as store:
        (row,) = store.questions()
        assert row.ready
        assert [item.factor for item in row.items] == ["angle_squared", "velocity_squared", "torque_squared"]
        assert store.study.question.startswith("What matters more?")


@pytest.mark.slow
def test_of_a_run_at_every_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = [
        "train",
        "dqn",
        "--env-id",
        "prefrl/CartPole-v0",
        "--total-timesteps",
        "400",
        "--checkpoint-every",
        "200",
    ]
    assert cli.main([*train, "--keep-checkpoints", "--out", str(run), "--quiet"]) == 0
    for place, flags in enumerate([(), ("--every-checkpoint",)]):
        with make(tmp_path / f"study{place}", "--from", str(run), *flags) as store:
            assert len(store.questions()) == 3
            assert store.study.environment == "prefrl/CartPole-v0"


def test_files_with_pictures_are_shown(tmp_path: Path) -> None:
    data = transitions(pictures=True)
    save_transitions(tmp_path / "seen.npz", data)
    with make(tmp_path / "study", "--from", str(tmp_path / "seen.npz")) as store:
        assert all(row.ready for row in store.questions())
        assert store.study.environment is None
        digest = str(store.questions()[0].items[0].segment)
        np.testing.assert_array_equal(render_segment(store.study, store.segment(digest)),
                                      store.segment(digest).arrays["obs"])  # fmt: skip
    first, second = (data.segments(torch.tensor(starts), 4)[0] for starts in ([0, 5, 9], [12, 17, 5]))
    save_preferences(tmp_path / "pairs.npz", Preferences.from_labels(first, second, torch.zeros(3)))
    with make(tmp_path / "again", "--from", str(tmp_path / "pairs.npz"), "--lazy") as store:
        told = set()
        for row in store.questions():
            sides = [store.segment(str(item.segment)).arrays["obs"] for item in row.items]
            told.add(frozenset(int(obs[0, 0, 0, 0]) for obs in sides))
        starts = [[int(data.obs[at, 0, 0, 0]) for at in pair] for pair in ([0, 12], [5, 17], [9, 5])]
        assert told == {frozenset(pair) for pair in starts}


def test_another_study_is_asked_otherwise(tmp_path: Path) -> None:
    make(tmp_path / "pairs", "--env-id", "prefrl/Pendulum-v0", "--lazy").close()
    with make(tmp_path / "ratings", "--from", str(tmp_path / "pairs"), "--kind", "rating") as store:
        assert all(row.ready for row in store.questions())
        assert store.study.environment == "prefrl/Pendulum-v0"


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert cli.main(["label", "make", str(folder), *SMALL, *flags]) == 2
    assert not folder.exists()
    return " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_made_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    save_transitions(tmp_path / "blind.npz", transitions(pictures=False))
    found = refusal(study, capsys, "--from", str(tmp_path / "blind.npz"))
    assert "holds neither simulator states nor pictures: its observations are torch.uint8 [4]" in found
    (tmp_path / "text.npz").write_text("hello")
    assert "is neither a file of comparisons" in refusal(study, capsys, "--from", str(tmp_path / "text.npz"))
    found = refusal(study, capsys, "--env-id", "FrozenLake-v1")
    assert "FrozenLake-v1 has no simulator state that could be set; those that have one are" in found
    found = refusal(study, capsys, "--env-id", "prefrl/LQPlane-v0")
    assert "prefrl/LQPlane-v0 has actions without bounds, of which none are uniform; let the agent" in found
    found = refusal(study, capsys, "--env-id", "prefrl/Pendulum-v0", "--segment-length", "201")
    assert "200 steps hold no whole segment of that length" in found
    found = refusal(
        study, capsys, "--env-id", "prefrl/Pendulum-v0", "--kind", "factors", "--env-args", "speed=2"
    )
    assert "do not suit" in found
    (tmp_path / "empty").mkdir()
    assert "empty" in refusal(study, capsys, "--from", str(tmp_path / "empty"))


def test_without_pyav_clips_are_left_for_later_or_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    flags = ("--env-id", "prefrl/Pendulum-v0")
    assert "PyAV is not installed" in refusal(tmp_path / "study", capsys, *flags)
    with make(tmp_path / "study", *flags, "--lazy") as store:
        assert len(store.questions()) == 3


def test_a_study_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--env-id", "prefrl/Pendulum-v0", "--kind", "factors")
    make(tmp_path / "study", *flags).close()
    assert cli.main(["label", "make", str(tmp_path / "study"), *flags]) == 2
    assert "there is a study in" in capsys.readouterr().err


def test_what_is_refused_is_refused_before_anything_acts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def acts(*_: object, **__: object) -> None:
        raise AssertionError("it acts")

    monkeypatch.setattr(sources, "collect_with_states", acts)
    env = ("--env-id", "prefrl/Pendulum-v0")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert cli.main(["label", "make", str(tmp_path / "full"), *env]) == 2
    assert "is not empty (it holds mine.txt)" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert "may not be written" in refusal(tmp_path / "s", capsys, *env)
    assert f"there is no {tmp_path / 'none'}" in refusal(
        tmp_path / "s", capsys, "--from", str(tmp_path / "none")
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--kind", "ranking", "--items", "13"), "items is 13; a ranking has 2 to 12 clips"),
        (("--kind", "rating", "--checks", "1"), "checks is 1; only pairs can be obvious"),
        (("--kind", "factors", "--practice", "1"), "practice is 1; the order of factors is one question"),
        (("--kind", "factors", "--repeat-every", "1"), "repeat_every is 1; the order of factors is"),
        (("--size", "321"), "size is 321; it must be even"),
    ],
)
def test_flags_that_do_nothing_or_cannot_be_are_refused(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MakeCommand(Path("s"), env_id="prefrl/Pendulum-v0", **{
            flag[2:].replace("-", "_"): int(value) if value.isdigit() else value
            for flag, value in zip(flags[::2], flags[1::2], strict=True)
        })  # fmt: skip


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "full")], ids=repr)
def test_a_study_is_whole_when_the_making_of_its_clips_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def stopped(store: LabelStore, **_: object) -> None:
        raise stop

    monkeypatch.setattr(make_module, "render_waiting", stopped)
    study = tmp_path / "study"
    assert cli.main(["label", "make", str(study), *SMALL, "--env-id", "prefrl/Pendulum-v0"]) != 0
    assert f"`prefrl label serve {study}` makes the clips that are missing" in capsys.readouterr().err
    with LabelStore.open(study) as store:
        assert len(store.questions()) == 3


def test_clips_that_cannot_be_made_are_told_and_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, drawn = drawing.picture, []

    def failing(env: object) -> object:
        drawn.append(env)
        if len(drawn) in (9, 13):  # after the first clip, which is tried, and the environment's own first
            raise RuntimeError("no such state")
        return real(env)

    monkeypatch.setattr(drawing, "picture", failing)
    study = tmp_path / "study"
    assert cli.main(["label", "make", str(study), *SMALL, "--env-id", "prefrl/Pendulum-v0"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "not all of its questions can be asked: 2 clips cannot be made; segment" in error
    assert "RuntimeError: no such state" in error
    with LabelStore.open(study) as store:
        assert any(row.ready for row in store.questions())  # one bad state does not hold up others
    assert cli.main(["label", "status", str(study)]) == 0
    assert "warning: 2 clips cannot be made" in capsys.readouterr().err
