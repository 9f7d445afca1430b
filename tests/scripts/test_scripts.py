"""Every script runs as a person would run it, on small settings."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prefrl.envs.grids.delivery import BOARD, WEIGHTS
from prefrl.envs.grids.grid import MOVES, grid_model
from scripts import refused

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def result_of(out: Path, done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    assert str(out / "result.json") in done.stdout.splitlines()[-1:] + done.stdout.splitlines()[-2:-1]
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def published_files(tmp_path_factory):
    """Synthetic answers by regret in the published layout, under the condition's name "Made-Up"."""
    folder, model, rng = (
        tmp_path_factory.mktemp("human"),
        grid_model(BOARD, WEIGHTS),
        np.random.default_rng(0),
    )
    value, starts, rows, differences = model.optimal_value(1.0), np.flatnonzero(model.start), [], []
    for _ in range(240):
        pair, statistics = [], []
        for start in rng.choice(starts, 2):
            actions = rng.integers(4, size=3)
            state, total = start, 0.0
            for action in actions:
                total += model.rewards[state, action, 0]
                state = model.successors[state, action, 0]
            pair.append(np.vstack([divmod(start, 10), MOVES[actions]]))
            statistics.append((total, value[start], value[state]))
        rows.append(pair)
        differences.append(np.subtract(statistics[1], statistics[0]))
    x = np.array(differences)
    regret = x @ [1.0, -1.0, 1.0]
    np.save(folder / "Made-Up_segment_pairs.npy", np.array(rows, dtype=np.int64))
    np.save(folder / "Made-Up_X.npy", x)
    np.save(folder / "Made-Up_Y.npy", np.where(regret == 0, 0.5, (regret > 0).astype(float)))
    return folder


@pytest.mark.slow
def test_human_preferences(tmp_path, published_files):
    out = tmp_path / "run"
    flags = ("--partitions", 4, 8, "--shuffles", 2, "--fit-steps", 100, "--repeats", 2, "--out", out)
    done = run("reproduce_human_preferences.py", "--data", published_files, "--condition", "Made-Up", *flags)
    result = result_of(out, done)
    assert result["n"] == 240
    assert set(result["cross_entropy"]) == {"partial_return", "regret", "expanded", "uninformed"}
    assert result["cross_entropy"]["uninformed"] == pytest.approx(np.log(2))
    assert result["cross_entropy"]["regret"] < 0.1 < result["cross_entropy"]["partial_return"]
    assert result["accuracy"]["regret"] == 1.0 > result["accuracy"]["partial_return"]
    assert result["scaled_return"]["regret"] > 0.9
    for model in ("partial_return", "regret"):
        shares = result["near_optimal_percent_by_shuffle"][model]
        assert list(shares) == ["4", "8"]
        assert all(len(row) == 2 for row in shares.values())
        assert result["near_optimal_percent"][model]["8"] == pytest.approx(np.mean(shares["8"]))
    assert (out / "near_optimal.png").stat().st_size > 10_000


def test_human_preferences_name_the_conditions_there_are(tmp_path, published_files):
    flags = ("--data", published_files, "--condition", "Other", "--out", tmp_path / "run")
    errors = refused("reproduce_human_preferences.py", *flags)
    assert errors.startswith("error: ")
    assert "Made-Up" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stochastic", [False, True])
def test_random_grids(tmp_path, stochastic):
    out = tmp_path / "run"
    flags = ("--num-mdps", 3, "--sizes", 20, 60, "--fit-steps", 60, "--max-policies", 20, "--out", out)
    result = result_of(out, run("reproduce_random_grids.py", *flags, *["--stochastic"] * stochastic))
    for labels in ("noiseless", "logistic"):
        assert 0.0 <= result["regret_beats_partial_return_p"][labels] <= 1.0
        for model in ("partial_return", "regret"):
            assert set(result["near_optimal_percent"][labels][model]) == {"20", "60"}
            assert len(result["scaled_return"][labels][model]["60"]) == 3
            assert max(result["scaled_return"][labels][model]["60"]) <= 1.0 + 1e-9
    assert (out / "near_optimal.png").stat().st_size > 10_000


@pytest.mark.slow
def test_train_regret(tmp_path):
    out = tmp_path / "run"
    flags = ("--preference-model", "regret", "--teacher", "logistic", "--num-pairs", 200, "--fit-steps", 1000)
    result = result_of(out, run("train_regret.py", *flags, "--seed", 1, "--quiet", "--out", out))
    assert {"scaled_return", "near_optimal", "train_cross_entropy", "seconds"} <= set(result)
    assert result["near_optimal"] is (result["scaled_return"] > 0.9)
    again = tmp_path / "again"
    flags = ("--preference-model", "partial-return", "--preferences", out / "preferences.npz")
    other = result_of(again, run("train_regret.py", *flags, "--seed", 1, "--quiet", "--out", again))
    assert other["num_pairs"] == 200
    assert other["train_cross_entropy"] > result["train_cross_entropy"]


def test_demo(tmp_path):
    out = tmp_path / "run"
    done = run("demo.py", "--sizes", 30, 100, "--seeds", 2, "--fit-steps", 100, "--out", out)
    assert done.returncode == 0, done.stderr
    shares = json.loads((out / "result.json").read_text())["near_optimal_percent"]
    assert len(shares) == 4
    assert all(len(row) == 2 for row in shares.values())
    assert "demo.png" in done.stdout
    assert (out / "demo.png").stat().st_size > 50_000


@pytest.mark.slow
def test_bench_foundation_on_little_work(tmp_path):
    out = tmp_path / "run"
    flags = ("--repeats", 1, "--num-mdps", 20, "--num-envs", 64, "--fit-steps", 20, "--out", out)
    result = result_of(out, run("bench_foundation.py", *flags))
    ratio = result["value_iteration_batched_speedup"]
    assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert result["peak_memory_mib"] > 50


@pytest.mark.slow
def test_bench_dqn_on_little_work(tmp_path):
    out = tmp_path / "run"
    flags = ("--repeats", 1, "--timesteps", 32, "--threads", 1, "--hidden", 8, "--num-envs", 4,
             "--env-rows", 4, "--curve-timesteps", 100, "--curve-seeds", 2, "--out", out)  # fmt: skip
    result = result_of(out, run("bench_dqn.py", *flags))
    curves = result.pop("curves")
    assert {len(values) for values in curves["final_returns"].values()} == {2}
    assert {"steps_over_sb3_1_threads", "device_products_over_sb3_1_threads"} <= set(result)
    assert all(0.0 < numbers["min"] <= numbers["median"] <= numbers["max"] for numbers in result.values())


@pytest.mark.slow
def test_bench_host_loop_on_little_work(tmp_path):
    out = tmp_path / "run"
    flags = ("--repeats", 1, "--timesteps", 20, "--widths", 8, "--out", out)
    result = result_of(out, run("bench_host_loop.py", *flags))
    assert set(result) == {"dqn_8", "sac_8"}
    for parts in result.values():
        assert set(parts) == {"ours", "sb3", "env", "act", "observe", "step", "sb3_over_ours"}
        assert all(0.0 < numbers["min"] <= numbers["median"] <= numbers["max"] for numbers in parts.values())


def test_bench_host_loop_takes_no_gradient_step_and_no_uniform_warm_up():
    spec = importlib.util.spec_from_file_location("bench_host_loop", SCRIPTS / "bench_host_loop.py")
    bench = importlib.util.module_from_spec(spec)
    sys.modules["bench_host_loop"] = bench
    spec.loader.exec_module(bench)
    dqn, sac = (bench.ours(kind, 8).learn(300) for kind in ("dqn", "sac"))
    assert dqn.epsilon == 0.05
    assert len(dqn.replay) == len(sac.replay) == 300
    assert sac.networks.updates == 0
    fresh = bench.ours("dqn", 8).network.state_dict()
    assert all(np.array_equal(value, fresh[name]) for name, value in dqn.network.state_dict().items())
    # The first action is the policy's: of a policy that always says 1 it is the highest torque.
    policy = bench.ours("sac", 8)
    policy.networks.actor.layers[-1].bias.data[..., 0] = 99.0
    assert policy.act(policy.networks.noise(1, 3)).item() == 2.0


@pytest.mark.slow
def test_bench_allocation_on_little_work(tmp_path):
    out = tmp_path / "run"
    flags = ("--repeats", 2, "--streams", 8, "--horizon", 20, "--single-requests", 30, "--resources", 1, 3,
             "--resource-streams", 2, "--hindsight-requests", 9, "--skip-compiled", "--out", out)  # fmt: skip
    result = result_of(out, run("bench_allocation.py", *flags))
    assert set(result["single_microseconds"]) == {
        "euclidean", "scaled_euclidean", "entropy", "projected_entropy"
    }  # fmt: skip
    spreads = [
        result["batched_requests_per_second"], result["single_over_plain_loop"],
        result["hindsight_seconds"], *result["microseconds_by_resources"].values(),
    ]  # fmt: skip
    assert all(0.0 < of["min"] <= of["median"] <= of["max"] for of in spreads)
    assert set(result["growth_by_resources"]) == {"3/1"}


@pytest.mark.slow
def test_train_dual_mirror_descent(tmp_path):
    out = tmp_path / "run"
    flags = ("--env-id", "prefrl/NetworkRevenue-v0", "--horizon", 100, "--replications", 3, "--reference",
             "projected_entropy", "--env.m", 2, "--env.d=3", "--seed", 1)  # fmt: skip
    result = result_of(out, run("train_dual_mirror_descent.py", *flags, "--quiet", "--out", out))
    assert {
        "reward_mean", "hindsight_mean", "regret_mean", "regret_stderr", "competitive_ratio", "final_dual",
        "fluid_dual", "overspend_max", "microseconds_per_request", "seconds",
    } <= set(result)  # fmt: skip
    assert len(result["final_dual"]) == len(result["fluid_dual"]) == 2
    assert result["overspend_max"] == 0.0
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["env_args"] == ["m=2", "d=3"]


@pytest.mark.slow
def test_a_file_of_requests_is_served(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{reward:.3f},{use:.3f}" for reward, use in rng.random((40, 2)) * [300.0, 5.0]]
    (tmp_path / "requests.csv").write_text("\n".join(["reward_0,consumption_0_0", *rows]))
    out = tmp_path / "run"
    flags = ("--env.requests", tmp_path / "requests.csv", "--replications", 1, "--quiet", "--out", out)
    result = result_of(out, run("train_dual_mirror_descent.py", *flags))
    assert result["horizon"] == result["num_timesteps"] == 40
    assert result["regret_stderr"] is None
    assert 0.0 < result["reward_mean"] < result["hindsight_mean"]
    errors = refused("train_dual_mirror_descent.py", *flags[:-1], tmp_path / "other", "--horizon", 39)
    assert "the horizon, 39, is shorter than" in errors
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_regret(tmp_path):
    out = tmp_path / "run"
    flags = ("--env-id", "prefrl/MultiSecretary-v0", "--horizons", "30,60,120,240", "--replications", 6,
             "--policies", "euclidean", "resolving", "--env.rho", 0.4, "--out", out)  # fmt: skip
    result = result_of(out, run("reproduce_regret.py", *flags))
    assert result["horizons"] == [30, 60, 120, 240]
    assert len(result["regret"]) == 4
    assert all(regret > 0.0 for regret in result["regret"])
    low, high = result["slope_interval"]
    assert low <= result["slope"] <= high
    assert set(result["input_models"]["iid"]) == {"euclidean", "resolving"}
    assert result["input_models"]["iid"]["resolving"]["regret"][-1] < result["regret"][-1]
    assert (out / "regret.png").stat().st_size > 10_000
    assert (out / "depletion.png").stat().st_size > 10_000
    # The same command goes on with what is missing.
    (out / "result.json").unlink()
    part = out / "parts" / "iid-euclidean-120.json"
    before = part.read_text()
    part.unlink()
    kept = (out / "parts" / "iid-euclidean-60.json").stat().st_mtime_ns
    again = result_of(out, run("reproduce_regret.py", *flags))
    assert again["regret"] == result["regret"]
    assert part.read_text() == before
    assert (out / "parts" / "iid-euclidean-60.json").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_regret_of_every_input_model_and_of_ppo(tmp_path):
    flags = ("--horizons", "20,40", "--replications", 4)
    out = tmp_path / "all"
    result = result_of(
        out, run("reproduce_regret.py", *flags, "--all", "--adversary-horizon", 1_600, "--out", out)
    )
    assert set(result["input_models"]) == {"iid", "periodic", "ergodic", "corrupted", "drift"}
    ratios = result["competitive_ratios"]
    for alpha, ratio, limit in zip(ratios["alpha"], ratios["euclidean"], ratios["limit"], strict=True):
        assert ratio <= alpha + 1e-9
        assert ratio == pytest.approx(limit, rel=0.2)
    assert ratios["greedy"][1:] == pytest.approx([1.0 / ratios["eps"]] * 4)
    assert (out / "competitive_ratio.png").stat().st_size > 10_000
    out = tmp_path / "ppo"
    flags += ("--env-id", "prefrl/NetworkRevenue-v0", "--instances", 2, "--policies", "ppo", "euclidean")
    result = result_of(out, run("reproduce_regret.py", *flags, "--ppo-timesteps", 100, "--out", out))
    assert len(result["regret"]) == 2


MINATAR_FLAGS = (
    "--games", "Breakout", "Freeway", "--losses", "mse", "hl_gauss", "--learners", 3, "--frames", 400,
    "--learning-starts", 80, "--epsilon-frames", 200, "--buffer-size", 400, "--evaluations", 2,
    "--eval-episodes", 1, "--final-episodes", 2,
)  # fmt: skip


@pytest.mark.slow
def test_minatar(tmp_path):
    out = tmp_path / "run"
    flags = [*MINATAR_FLAGS, "--rates", 1e-4, 1e-3, "--widths", 1, 2, "--sticky-action-probs", 0.0, 0.1]
    flags += ["--experiments", "losses", "width", "sticky"]
    result = result_of(out, run("reproduce_minatar.py", *flags, "--out", out))
    assert result["learning_rates"] == {"mse": 1e-4, "hl_gauss": 1e-3}
    assert "tuning" not in result
    table = list(csv.DictReader((out / "returns.csv").open()))
    assert len(table) == 8 * 3 * 3  # arms, learners, two evaluations and the one after training
    assert {row["learning_rate"] for row in table if row["loss"] == "mse"} == {"0.0001"}
    for game, of in result["games"].items():
        for loss, each in of.items():
            finals = [
                float(row["return"])
                for row in table
                if (row["game"], row["loss"], row["width"], row["frames"]) == (game, loss, "1", "")
                and row["sticky_action_prob"] == "0.1"
            ]
            assert each["learners"] == finals
            assert each["low"] <= each["iqm"] <= each["high"]
    assert set(result["widths"]) == {f"Breakout {loss} {w}" for loss in ("mse", "hl_gauss") for w in (1, 2)}
    assert set(result["sticky_action_probs"]) == {
        f"Breakout {loss} {prob}" for loss in ("mse", "hl_gauss") for prob in (0, 0.1)
    }
    assert 0.0 <= result["all_games"]["mse"]["hl_gauss_improves"]["probability"] <= 1.0
    assert not list(out.rglob("checkpoint.pt"))
    for name in ("curves.png", "profiles.png"):
        assert (out / name).stat().st_size > 10_000
    again = tmp_path / "again"
    flags = [*MINATAR_FLAGS, "--tables", out / "returns.csv", "--out", again]
    told = result_of(again, run("reproduce_minatar.py", *flags))
    for key in ("games", "all_games", "widths", "sticky_action_probs"):
        assert told[key] == result[key]


@pytest.mark.slow
def test_minatar_tunes_and_goes_on(tmp_path):
    out = tmp_path / "run"
    flags = [*MINATAR_FLAGS, "--tune-games", "Breakout", "--tune-frames", 200, "--tune-learners", 2,
             "--tried-rates", 1e-4, 1e-3, "--out", out]  # fmt: skip
    result = result_of(out, run("reproduce_minatar.py", *flags))
    for loss in ("mse", "hl_gauss"):
        scores = result["tuning"][f"Breakout {loss}"]
        assert set(scores) == {"0.0001", "0.001"}
        assert scores[f"{result['learning_rates'][loss]:g}"] == max(scores.values())
    (out / "result.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("agent.pt")}
    assert before
    assert result_of(out, run("reproduce_minatar.py", *flags)) == result
    assert {path: path.stat().st_mtime_ns for path in out.rglob("agent.pt")} == before


@pytest.mark.slow
def test_noisy_cartpole(tmp_path):
    out = tmp_path / "run"
    flags = ("--losses", "mse", "hl_gauss", "--etas", 0, 1, "--seeds", 0, 1, "--updates", 20, "--horizons",
             0.05, "--episodes", 2, "--behaviour-timesteps", 300, "--transitions", 400, "--tune-seeds", 7,
             "--tried-rates", 1e-4, 1e-3, "--sarsa", "--out", out)  # fmt: skip
    result = result_of(out, run("reproduce_noisy_cartpole.py", *flags))
    assert result["data"]["transitions"] == 400
    assert len(result["data"]["behaviour_returns"]) == 3
    assert (result["target_update_interval"], result["backups"]) == (4, 5)
    assert result["backups_over_horizon"] == pytest.approx(0.05)
    assert set(result["j"]) == {"eta=0", "eta=1", "zero-mean eta=1", "sarsa eta=0", "sarsa eta=1"}
    assert set(result["degradation"]) == {"eta=1", "zero-mean eta=1"}
    for arm, lost in result["degradation"].items():
        for loss, entry in lost.items():
            before, after = (result["j"][each][loss]["iqm"] for each in ("eta=0", arm))
            assert entry["value"] == pytest.approx((before - after) / before)
    for loss, rate in result["learning_rates"].items():
        assert result["tuning"][loss][f"{rate:g}"] == max(result["tuning"][loss].values())
    files = sorted((out / "runs").iterdir())
    assert len(files) == 2 + 10
    rows = (out / "runs.csv").read_text().splitlines()
    assert rows[0] == "noise,loss,learning_rate,seed,updates,mean_return,mean_value"
    assert len(rows) == 1 + 10 * 2 * 5
    assert (out / "noise.png").stat().st_size > 10_000
    kept = {path: path.stat().st_mtime_ns for path in files[1:]}
    outcome = json.loads(files[0].read_text())["returns"]
    files[0].unlink()
    (out / "result.json").unlink()
    again = result_of(out, run("reproduce_noisy_cartpole.py", *flags, "--jobs", 1))
    assert again["j"] == result["j"]
    assert json.loads(files[0].read_text())["returns"] == outcome
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == kept


@pytest.mark.parametrize(
    ("script", "flags", "name"),
    [
        ("demo.py", ("--fit-steps", -5), "fit_steps"),
        ("reproduce_random_grids.py", ("--num-mdps", 0), "num_mdps"),
        ("reproduce_human_preferences.py", ("--data", ".", "--partitions", 10, 0), "partitions"),
        ("bench_foundation.py", ("--repeats", 0), "repeats"),
        ("reproduce_minatar.py", ("--frames", 0), "frames"),
        ("reproduce_minatar.py", ("--losses", "mse"), "losses"),
        ("reproduce_minatar.py", ("--sticky-action-probs", 1.5), "sticky_action_probs"),
        ("reproduce_minatar.py", ("--rates", 1e-3), "rates"),
        ("reproduce_noisy_cartpole.py", ("--etas", 0.1, 1.0), "etas"),
        ("reproduce_noisy_cartpole.py", ("--seeds", 0, 1_000), "seeds"),
        ("reproduce_noisy_cartpole.py", ("--horizons", 0), "horizons"),
        ("reproduce_regret.py", ("--replications", 0), "replications"),
        ("reproduce_regret.py", ("--horizons", "100,x"), "horizons"),
        ("reproduce_regret.py", ("--horizons", "100,100"), "horizons"),
        ("reproduce_regret.py", ("--policies",), "policies"),
        ("reproduce_regret.py", ("--instances", 2), "instances"),
        ("reproduce_regret.py", ("--replications", 5, "--instances", 2), "replications"),
        ("bench_allocation.py", ("--streams", 0), "streams"),
        ("bench_host_loop.py", ("--timesteps", 0), "timesteps"),
    ],
)
def test_a_wrong_number_is_refused_before_anything_is_made(tmp_path, script, flags, name):
    errors = refused(script, *flags, "--out", tmp_path / "run")
    assert f"{name} is " in errors or f"{name} has " in errors
    assert not (tmp_path / "run").exists()
