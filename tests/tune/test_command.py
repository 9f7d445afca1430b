"""``prefrl tune`` in whole: runs, files, best.json, and what it refuses."""

import csv
import json
import sys

import pytest

from prefrl.cli import main
from prefrl.run.folder import RunFolder, paused_path, write_json
from prefrl.run.launch import resume

pytest.importorskip("optuna")

QUICK = ["total_timesteps=2000", "num_envs=10", "env_id=prefrl/RandomGrid-v0"]


def tune(folder, *more, trials=2):
    return main([
        "tune", "q_learning", "--out", str(folder),
        "--space", "learning_rate=log:0.05..1.0", "gamma=0.9,0.99",
        "--metric", "final_return", "--trials", str(trials), "--seeds", "0", "--fresh-seeds", "7",
        "--rungs", "2", "--set", *QUICK, *more,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "search"
    assert tune(folder) == 0
    return folder


def test_the_files_of_a_search(tuned):
    result = json.loads((tuned / "result.json").read_text())
    assert result["trials"] == 2
    assert result["complete"] + result["stopped"] == 2
    assert {"defaults", "trial 0"} <= set(result["fresh"])
    assert result["fresh"]["defaults"]["metrics"]["final_return"]["n"] == 1
    rows = list(csv.DictReader((tuned / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert float(rows[0]["final_return"]) == float(rows[0]["final_return_low"])  # one seed
    assert (tuned / "tuning.png").read_bytes().startswith(b"\x89PNG")
    chosen = result["fresh"][result["chosen"]]["settings"]
    config = json.loads((tuned / "best.json").read_text())["config"]
    assert config["total_timesteps"] == 2000
    assert "seed" not in config
    for name, value in chosen.items():
        assert config["agent"][name.split(".")[-1]] == value


@pytest.mark.slow
def test_the_same_command_goes_on_and_more_trials_may_be_asked_for(tuned):
    before = (tuned / "trials.csv").read_text()
    assert tune(tuned, trials=3) == 0
    assert (tuned / "trials.csv").read_text().startswith(before)
    assert sorted(path.name for path in (tuned / "trials").iterdir()) == ["0000", "0001", "0002"]


def test_another_search_is_refused(tuned, capsys):
    assert tune(tuned, "--sampler-seed", "5") == 2
    assert "was made with sampler = tpe 0, now it is tpe 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--trials", "0"], "trials is 0; it must be at least 1"),
        (["--fresh-seeds", "0"], "fresh_seeds has 0, which is in seeds"),
        (["--direction", "minimize", "maximize"], "direction has 2 words for 1 metrics"),
        (["--address", "auto"], "give --engine ray as well"),
        (["--constraint", "seconds"], "each must be METRIC<=NUMBER"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(tmp_path, capsys, more, problem):
    assert tune(tmp_path / "x", *more) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune(tmp_path / "x") == 2
    assert 'pip install ".[tune]"' in capsys.readouterr().err


# train --config ------------------------------------------------------------------------------------------


def trained(folder, file, *flags):
    status = main(["train", "q_learning", "--config", str(file), "--quiet", "--out", str(folder), *flags])
    return status, json.loads((folder / "config.json").read_text())["config"] if status == 0 else None


def test_best_json_trains_and_flags_win(tuned, tmp_path):
    status, config = trained(tmp_path / "a", tuned / "best.json", "--gamma", "0.5", "--seed", "3")
    best = json.loads((tuned / "best.json").read_text())["config"]
    assert status == 0
    assert config == {**best, "seed": 3, "agent": {**best["agent"], "gamma": 0.5}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"recipe": "sac", "config": {}}, "is for the recipe 'sac', not for q_learning"),
        ({"recipe": "q_learning", "config": {"gama": 1}}, "gama is unknown"),
        ({"recipe": "q_learning", "config": {"agent": {"gamma": "much"}}}, "agent.gamma is 'much'"),
        ({"recipe": "q_learning"}, "config"),
        ([], "settings"),
    ],
)
def test_files_of_settings_are_checked(tmp_path, capsys, content, problem):
    (tmp_path / "file.json").write_text(json.dumps(content))
    assert trained(tmp_path / "run", tmp_path / "file.json") == (2, None)
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_missing_or_not_named(tmp_path, capsys):
    assert trained(tmp_path / "run", tmp_path / "none.json")[0] == 2
    assert main(["train", "q_learning", "--config"]) == 2
    assert "--config has no value" in capsys.readouterr().err


# Pauses --------------------------------------------------------------------------------------------------


def test_a_run_that_pauses_ends_as_one_that_does_not(tmp_path):
    flags = ["--total-timesteps", "2000", "--num-envs", "10", "--env-id", "prefrl/RandomGrid-v0", "--quiet"]
    assert main(["train", "q_learning", *flags, "--out", str(tmp_path / "whole")]) == 0
    whole = json.loads((tmp_path / "whole" / "result.json").read_text())
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    run = tmp_path / "paused"
    RunFolder.create(run, {"recipe": config["recipe"], "config": config["config"]})
    write_json(run / "pause.json", {"share": 1 / 3})
    resume(run, quiet=True)
    assert not (run / "result.json").exists()
    assert json.loads(paused_path(run, 1 / 3).read_text())["num_timesteps"] == 670  # of whole steps of ten
    (run / "pause.json").unlink()
    resume(run, quiet=True)
    paused = json.loads((run / "result.json").read_text())
    times = {"seconds", "steps_per_second"}
    assert {k: v for k, v in paused.items() if k not in times} == {
        k: v for k, v in whole.items() if k not in times
    }


def test_a_pause_that_is_none_is_refused(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"recipe": "q_learning", "config": {}})
    (tmp_path / "run" / "pause.json").write_text('{"share": 2}')
    with pytest.raises(ValueError, match=r"share is 2\.0; it must be above 0 and at most 1"):
        folder.pause()
