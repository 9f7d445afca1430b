"""The scripts of preference RL, HERON and self-play run as a person would run them, on small settings."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import refused

SCRIPTS = Path(__file__).parents[2] / "scripts"
SAC = ("--agent", "sac", "--agent-args", "learning_starts=50", "batch_size=16", "hidden=[8]")
PPO = ("--agent-args", "n_steps=32", "batch_size=32", "n_epochs=1")


def run(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


def result_of(out, done):
    assert done.returncode == 0, done.stderr
    assert str(out / "result.json") in done.stdout.splitlines()[-2:]
    return json.loads((out / "result.json").read_text())


@pytest.mark.slow
def test_train_heron(tmp_path):
    out = tmp_path / "run"
    flags = ("--env-id", "prefrl/Pendulum-v0", "--ranking", "angle_squared,velocity_squared",
             "--margins", "0.5,0.1", "--total-timesteps", 150, "--first-fit", 60, "--fit-every", 40,
             "--eval-episodes", 2, *SAC, "--seed", 1, "--quiet", "--out", out)  # fmt: skip
    result = result_of(out, run("train_heron.py", *flags))
    assert {"true_return", "factor_means", "decided_fraction", "reward_model_accuracy", "seconds"} <= set(
        result
    )
    assert result["ranking"] == ["angle_squared", "velocity_squared"]
    assert {"agent.pt", "reward_model.pt", "progress.csv", "checkpoint.pt"} <= {p.name for p in out.iterdir()}
    header = (out / "progress.csv").read_text().splitlines()[0]
    assert "preferences/decided_by_angle_squared" in header
    flags = ("--env-id", "prefrl/Pendulum-v0", "--ranking", "mass", "--out", tmp_path / "other")
    assert "ranking holds 'mass'; the factors here are" in refused("train_heron.py", *flags)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_train_preference_rl(tmp_path):
    out = tmp_path / "run"
    flags = ("--env-id", "Pendulum-v1", "--teacher", "mistakes", "--num-labels", 14,
             "--agent", "sb3_ppo", *PPO, "--segment-length", 5, "--total-timesteps", 512,
             "--eval-episodes", 2, "--epochs", 1, "--baseline", "--quiet", "--out", out)  # fmt: skip
    result = result_of(out, run("train_preference_rl.py", *flags))
    assert {"true_return", "true_reward_baseline", "reward_model_accuracy", "labels_used", "seconds"} <= set(
        result
    )
    assert result["labels_used"] == 14
    # What was answered teaches another run, without a teacher.
    again = tmp_path / "again"
    flags = ("--teacher", "file", "--preferences", out / "preferences.npz", *SAC,
             "--total-timesteps", 100, "--eval-episodes", 2, "--quiet", "--out", again)  # fmt: skip
    result = result_of(again, run("train_preference_rl.py", *flags))
    assert result["labels_used"] == 14
    errors = refused("train_preference_rl.py", "--teacher", "file", "--out", tmp_path / "other")
    assert "a file of preferences goes with --teacher file" in errors


@pytest.mark.slow
def test_train_self_play(tmp_path):
    out = tmp_path / "run"
    flags = ("--preference", "cyclic", "--env-id", "prefrl/ThreeGoals-v0", *PPO, "--total-timesteps", 400,
             "--eval-episodes", 2, "--seed", 3, "--quiet", "--out", out)  # fmt: skip
    result = result_of(out, run("train_self_play.py", *flags))
    assert {"true_return", "seconds", "option_shares_all", "trajectories"} <= set(result)
    assert sum(result["option_shares_all"]) == pytest.approx(1.0)
    matrix = tmp_path / "matrix.csv"
    np.savetxt(matrix, [[0.0, 0.5, -1.0], [-0.5, 0.0, 0.25], [1.0, -0.25, 0.0]], delimiter=",")
    played = []
    for words in (("--preference", "matrix"), (), ("--preference", "cyclic")):
        out = tmp_path / f"matrix_run_{len(words)}_{len(played)}"
        flags = (*words, "--matrix", matrix, "--total-timesteps", 2_000, "--quiet", "--out", out)
        result = result_of(out, run("train_self_play.py", *flags))
        assert {"exploitability", "average_policy", "seconds"} <= set(result)
        assert result["exploitability"] < 0.02
        played.append(result["average_policy"])
    assert played[0] == played[1] == played[2]
    errors = refused("train_self_play.py", "--preference", "matrix", "--out", tmp_path / "other")
    assert "give its file with --matrix" in errors
    matrix.write_text("0,1\n1,0\n")
    errors = refused("train_self_play.py", "--matrix", matrix, "--out", tmp_path / "other")
    assert "not antisymmetric" in errors


@pytest.mark.slow
def test_the_studies_run_and_go_on(tmp_path):
    out = tmp_path / "heron"
    flags = ("--experiments", "pendulum", "units", "--seeds", 1, "--pendulum-timesteps", 1_500,
             "--short-timesteps", 1_300, "--out", out)  # fmt: skip
    result = result_of(out, run("reproduce_heron.py", *flags))
    assert set(result["units"]) == {"HERON", "HERON, other unit", "plain sum", "plain sum, other unit"}
    (out / "result.json").unlink()
    assert result_of(out, run("reproduce_heron.py", *flags)) == result
    out = tmp_path / "sums"
    flags = ("--experiments", "sums", "--seeds", 1, "--mountain-car-seeds", 1, "--short-timesteps", 300,
             "--mountain-car-timesteps", 300, "--traffic-timesteps", 600, "--out", out)  # fmt: skip
    sums = result_of(out, run("reproduce_heron.py", *flags))["sums"]
    for name, rows in sums.items():
        chosen = [arm for arm in rows if not arm.startswith("tuning")]
        assert [arm.split()[0] for arm in chosen] == ["HERON", "sum"], name
        tried = {arm: sum(one["true_return"] for one in runs) for arm, runs in rows.items()}
        for arm in chosen:
            kind = arm.split()[0]
            assert tried[f"tuning: {arm}"] == max(
                total for other, total in tried.items() if other.startswith(f"tuning: {kind}")
            )
        seeds = [row["seed"] for row in csv.DictReader((out / f"{name}.csv").open())]
        assert seeds == ["20" if "car" in name else "0"] * 2 + ["100", "101"] * 8
    out = tmp_path / "self_play"
    flags = ("--experiments", "goals", "meadow", "--seeds", 1, "--goals-timesteps", 2_000,
             "--meadow-timesteps", 2_000, "--out", out)  # fmt: skip
    result = result_of(out, run("reproduce_self_play.py", *flags))
    assert len(result["goals"]["reward model"]) == 1
    assert (out / "meadow.png").exists()


@pytest.mark.slow
def test_the_benchmark_reports_ratios(tmp_path):
    out = tmp_path / "bench"
    flags = (
        "--repeats",
        1,
        "--pairs",
        64,
        "--epochs",
        1,
        "--label-pairs",
        1000,
        "--ppo-timesteps",
        2048,
        "--learner-timesteps",
        60,
        "--out",
        out,
    )
    result = result_of(out, run("bench_preferences.py", *flags))
    assert result["fit_64"]["ours_over_plain"]["median"] > 0.0
    assert set(result) >= {
        "fit_256",
        "labels_seconds",
        "wrapper_over_plain_seconds",
        "learner_sb3_over_ours_64",
    }


def test_the_study_of_games(tmp_path):
    """A few steps of every solver: gaps of each game; regret matching knows no regulariser."""
    out = tmp_path / "games"
    flags = ("--games", "cycle", "random_free", "oracles", "--steps", 60, "--cycle-steps", 3_000)
    result = result_of(out, run("reproduce_games.py", *flags, "--out", out))
    assert set(result) == {"cycle", "random_free", "oracles"}
    assert result["oracles"]["shared 0"]["even"]["not_behind"] > 10
    assert set(result["random_free"]) - set(result["cycle"]) == {"regret_matching"}
    assert max(result["cycle"]["egpo"]["last_gaps"]) < 1e-9 < min(result["cycle"]["omd"]["last_gaps"])
    assert max(result["cycle"]["egpo"]["distances"]) < 1e-9
    assert (out / "games.png").stat().st_size > 10_000


def test_the_study_of_uncertain_objectives(tmp_path):
    out = tmp_path / "objectives"
    result = result_of(out, run("reproduce_uncertain_objectives.py", "--num-grids", 4, "--out", out))
    planned = {name: row for name, row in result["plans"].items() if "," in name}
    assert len(planned) == 6
    assert {row["dominated"] for row in planned.values()} == {0}
    asked = [result["asking"][name]["regret"] for name in ("0.0", "1.0")]
    assert asked[0] > 2.0 * asked[1] >= 0.0
    assert (out / "uncertain_objectives.png").stat().st_size > 10_000


def test_the_bench_of_games(tmp_path):
    """With or without peers: what is timed comes out right."""
    flags = ("--options", 12, "--comparisons", 600, "--games", 20, "--steps", 20, "--repeats", 1)
    parts = ("--parts", "bradley_terry", "egpo")
    result = result_of(tmp_path / "run", run("bench_games.py", *flags, *parts, "--out", tmp_path / "run"))
    for given in ("from_comparisons", "from_table"):
        assert result["bradley_terry"][given]["largest_error"]["ours"] < 1e-9
    assert result["egpo"]["largest_difference"] < 1e-12
    assert result["egpo"]["loop_over_ours"]["median"] > 0.0


def test_the_bench_of_the_search(tmp_path):
    """What is timed visits the same edges, or the script fails."""
    flags = ("--roots", 20, "--simulations", 8, "--repeats", 1, "--parts", "small_grid", "two_actions")
    result = result_of(tmp_path / "run", run("bench_search.py", *flags, "--out", tmp_path / "run"))
    for part in ("small_grid", "two_actions"):
        assert result[part]["plain_over_ours"]["median"] > 0.0
        assert result[part]["ours_us"]["min"] <= result[part]["ours_us"]["median"]
    assert "plain_once_over_ours" in result["small_grid"]
    assert "plain_once_over_ours" not in result["two_actions"]


def test_the_study_of_losses_in_the_tree(tmp_path):
    """A few steps of descent by every loss: gaps of each seed, at multiples of what a solver's step takes."""
    out = tmp_path / "tree"
    flags = ("--games", "tree", "--descents", 128, "--tree-seeds", 1, "--out", out)
    tree = result_of(out, run("reproduce_games.py", *flags))["tree"]
    assert tree["egpo"]["curves"][0]["descents"][:2] == [2, 4]
    assert tree["onpo, 32"]["curves"][0]["descents"] == [64, 128]
    for name, row in tree.items():
        (curve,) = row["curves"]
        assert [curve["last"][-1]] == row["last_gaps"]
        assert 0.0 < curve["last"][-1] < curve["last"][0] or "egpo" in name, name
    assert (out / "games_tree.png").stat().st_size > 10_000


def test_train_nash_learning(tmp_path):
    matrix, out = tmp_path / "matrix.csv", tmp_path / "run"
    np.savetxt(matrix, [[0.0, 1.5, -1.0], [-1.5, 0.0, 0.25], [1.0, -0.25, 0.0]], delimiter=",")
    flags = ("--matrix", matrix, "--solver", "egpo", "--beta", 0.5, "--total-timesteps", 300, "--seed", 3)
    result = result_of(out, run("train_nash_learning.py", *flags, "--out", out))
    assert {"duality_gap", "policy", "last_iterate_gap", "average_gap", "seconds"} <= set(result)
    assert result["duality_gap"] < 1e-12
    matrix.write_text("0,1\n1,0\n")
    errors = refused("train_nash_learning.py", "--matrix", matrix, "--out", tmp_path / "other")
    assert "not antisymmetric" in errors


def test_the_study_of_exact_answers_goes_on(tmp_path):
    """Numbers that the folder has are kept, and the rest is measured; a solver's noise is not its zero."""
    out, flags = tmp_path / "exact", ("--parts", "nash", "--seeds", 2)
    first = result_of(out, run("reproduce_exact_answers.py", *flags, "--out", out))["nash"]
    assert all(len(row["seeds"]) == 2 and row["low"] <= row["iqm"] <= row["high"] for row in first.values())
    assert max(first["network, all, egpo"]["seeds"]) < 1e-12 < min(first["network, 64, egpo"]["seeds"])
    (out / "result.json").unlink()
    kept = (out / "nash.csv").read_text().splitlines()[:-3]
    kept[1] = f"{kept[1].rpartition(',')[0]},0.125"
    (out / "nash.csv").write_text("\n".join(kept) + "\n")
    again = result_of(out, run("reproduce_exact_answers.py", *flags, "--out", out))["nash"]
    assert sum(again[case] != first[case] for case in first) == 1
    assert 0.125 in again["network, 64, egpo"]["seeds"]
