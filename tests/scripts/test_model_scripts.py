"""Scripts of soft actor-critic and MBPO, as a person would run them, on small settings."""

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[2] / "scripts"

KEYS = {"final_return", "eval_returns", "eval_timesteps", "seconds_model", "seconds_rollout",
        "seconds_policy", "seconds", "local_lipschitz", "value_aware_model_error"}  # fmt: skip

SMALL = ("--hidden", 8, 8, "--learning-starts", 100, "--quiet", "--device", "cpu", "--eval-episodes", 1,
         "--final-episodes", 2)  # fmt: skip

MODEL = ("--model-hidden", 8, "--max-fit-steps", 5, "--refit-every", 50, "--epoch-timesteps", 100,
         "--rollouts-per-step", 4, "--updates-per-step", 1, "--diagnostics-every", 50)  # fmt: skip


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def result_of(out: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert str(out / "result.json") in done.stdout.splitlines()[-1]
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_train_sac(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("train_sac.py", "--env-id", "Pendulum-v1", "--total-timesteps", 150, *SMALL, "--out", out)
    result = result_of(out, done)
    assert {"final_return", "eval_returns", "steps_per_second", "seconds"} <= result.keys()
    assert len(result["eval_returns"]) == 10
    assert result["final_return"] < -100.0
    assert (out / "agent.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    ("--ensemble-size", 2, "--probabilistic", "True", "--critic-regularizer", "none", "--model-loss", "nll"),
    pytest.param(("--ensemble-size", 1, "--probabilistic", "False", "--critic-regularizer", "spectral",
                  "--model-loss", "mse"), marks=pytest.mark.slow),
    pytest.param(("--ensemble-size", 1, "--probabilistic", "False", "--critic-regularizer", "robust",
                  "--model-loss", "value_gradient", "--distractors", 3), marks=pytest.mark.slow),
    pytest.param(("--preset", "paper", "--env-id", "InvertedPendulum-v5"), marks=pytest.mark.slow),
])  # fmt: skip
def test_train_mbpo(tmp_path: Path, flags: tuple[Any, ...]) -> None:
    out = tmp_path / "run"
    env = () if "--env-id" in flags else ("--env-id", "Pendulum-v1", "--preset", "cpu")
    done = run("train_mbpo.py", *env, "--total-timesteps", 200, "--seed", 3, *flags, *SMALL, *MODEL,
               "--out", out)  # fmt: skip
    result = result_of(out, done)
    assert result.keys() >= KEYS
    assert result["local_lipschitz"] > 0.0
    assert result["value_aware_model_error"] > 0.0
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["seed"] == 3
    assert config["agent"]["model_hidden"] == [8]
    if "--preset" in flags:  # what no flag gave is the preset's
        assert config["agent"]["target_entropy"] == -0.05
        assert config["agent"]["rollout_schedule"] == [1, 15, 1, 1]
    else:
        assert config["agent"]["standardize_targets"] is True
        assert config["agent"]["ensemble_size"] == flags[1]
    events = (out / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"smoothness/local_normalized", "model/value_aware_error", "model/rollout_length"} <= set(events)


@pytest.mark.parametrize(("flags", "message"), [
    (("--env-id", "CartPole-v1"), "action_space is Discrete(2)"),
    (("--env-id", "HumanoidStandup-v5"), "HumanoidStandupEnv ends; known are Ant-v5"),
    (("--model-loss", "mse"), "model_loss is 'mse' and probabilistic True"),
    (("--preset", "fast"), "invalid choice"),
    (("--distractors", "-1"), "distractors is -1; it must not be negative"),
])  # fmt: skip
def test_train_mbpo_says_what_is_wrong(
    tmp_path: Path, flags: tuple[Any, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefrl import cli

    arguments = ["train", "mbpo", *map(str, flags), "--quiet", "--out", str(tmp_path / "run")]
    try:
        status = cli.main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    printed = capsys.readouterr()
    assert status == 2
    assert message in " ".join((printed.err + printed.out).replace("│", " ").split())
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_reproduce_mbpo(tmp_path: Path) -> None:
    out = tmp_path / "study"
    flags = ("--seeds", 1, "--pendulum-timesteps", 300, "--sac-times", 1, "--experiments", "pendulum", "sac",
             "--sac-seeds", 1, "--sac-percent", 2)  # fmt: skip
    result = result_of(out, run("reproduce_mbpo.py", *flags, "--out", out))
    assert set(result["pendulum"]) == {"ens7_prob", "single_det+rr", "SAC", "SAC, 10 gradient steps"}
    assert result["pendulum"]["SAC"][0]["steps_to_goal"] is None
    assert set(result["sac"]) == {"Pendulum-v1", "InvertedPendulum-v5"}
    assert (out / "pendulum.png").stat().st_size > 10_000


@pytest.mark.slow
def test_reproduce_lipschitz(tmp_path: Path) -> None:
    out = tmp_path / "study"
    flags = ("--seeds", 1, "--transitions", 400, "--held-out", 100, "--policy-timesteps", 1200,
             "--updates", 100, "--rollouts", 1000, "--closed-loop", "--closed-timesteps", 1300,
             "--closed-updates-per-step", 1)  # fmt: skip
    done = run("reproduce_lipschitz.py", *flags, "--out", out)
    result = result_of(out, done)
    assert set(result["quick"]) == {"ens7_prob", "single_det", "single_det+sn", "single_det+rr"}
    milder = {"single_det+sn, cap 3", "single_det+rr, weight 0.1"}
    assert set(result["closed_loop"]) == set(result["quick"]) | milder
    assert result["quick_ratios"]["least share of rows where the bound holds"] > 0.99
    assert result["closed_loop_ratios"]["seconds ens7_prob / single_det+rr, weight 0.1"] > 0.0
    again = run("reproduce_lipschitz.py", *flags, "--out", out)
    assert "is finished" in again.stdout


def test_the_ratios_of_the_closed_loop() -> None:
    study = load("reproduce_lipschitz")

    def seed(final: float, late: float, lipschitz: float, error: float, fits: float, all_: float) -> Any:
        return {"final_return": final, "eval_returns": [0.0, *[late] * 5], "local_lipschitz": lipschitz,
                "value_aware_model_error": error, "seconds_model": fits, "seconds": all_}  # fmt: skip

    found = study.closed_ratios({
        "ens7_prob": [seed(300.0, 200.0, 1.0, 1.0, 80.0, 90.0), seed(500.0, 600.0, 4.0, 1.0, 80.0, 110.0)],
        "single_det": [seed(200.0, 100.0, 4.0, 1.0, 4.0, 20.0), seed(600.0, 100.0, 4.0, 4.0, 4.0, 30.0)],
        "single_det+rr": [seed(800.0, 300.0, 1.0, 1.0, 4.0, 50.0), seed(800.0, 300.0, 1.0, 1.0, 4.0, 50.0)],
    })  # fmt: skip
    expected = {
        "return single_det / ens7_prob": 1.0, "late return single_det / ens7_prob": 0.25,
        "seconds ens7_prob / single_det": 4.0, "return single_det+rr / ens7_prob": 2.0,
        "late return single_det+rr / ens7_prob": 0.75, "seconds ens7_prob / single_det+rr": 2.0,
        "return single_det+rr / single_det": 2.0, "late return single_det+rr / single_det": 3.0,
        "lipschitz single_det+rr / single_det": 0.25, "value-aware error single_det+rr / single_det": 0.5,
        "lipschitz single_det / ens7_prob": 2.0, "model seconds single_det / ens7_prob": 0.05,
    }  # fmt: skip
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", ["policy_timesteps", "distracted_timesteps"])
def test_reproduce_vagram_refuses_runs_that_are_too_short(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 5999; 5000 transitions and 1000 held out need"):
        load("reproduce_vagram").VaGraMStudy(**{name: 5999})


def test_reproduce_vagram_refuses_no_experiment() -> None:
    with pytest.raises(ValueError, match="experiments is empty; give some of offline, distracted, plain"):
        load("reproduce_vagram").VaGraMStudy(experiments=())


def test_the_longer_runs_differ_in_loss_and_share_alone() -> None:
    study = load("reproduce_vagram").VaGraMStudy(schedule_epochs=4, schedule_timesteps=5000)
    schedule, constant = study.longer("schedule"), study.longer("constant")
    assert (list(schedule), list(constant)) == (["sac", "mse", "value_gradient"], ["mse", "value_gradient"])
    for recipe in (*schedule.values(), *constant.values()):
        assert (recipe.distractors, recipe.total_timesteps, recipe.eval_every) == (15, 5000, 250)
        agent = recipe.agent
        assert (agent.hidden, agent.learning_starts, agent.learning_rate) == ((64, 64), 250, 3e-4)
    sac = schedule.pop("sac").agent
    assert (sac.gradient_steps, sac.train_freq) == (2, 1)
    shares = {250: 1.0, 2250: 0.5, 4250: 0.0, 5000: 0.0}
    for arms, expected in ((schedule, shares), (constant, dict.fromkeys(shares, 0.05))):
        for name, recipe in arms.items():
            assert (recipe.agent.loss, recipe.agent.updates_per_step) == (name, 2)
            assert {step: recipe.agent.real_share(step) for step in shares} == expected
            same = replace(recipe.agent, model_loss="mse", real_ratio=0.0, real_ratio_start=1.0,
                           real_ratio_epochs=4)  # fmt: skip
            assert same == schedule["mse"].agent


def test_what_is_kept_of_the_curves() -> None:
    run = {"final_return": -1.0, "eval_timesteps": [5], "eval_returns": [-2.0], "seconds": 3.0}
    found = load("reproduce_vagram").curves({"sac": [run], "mse": [{**run, "model_rmse": 0.5}]})
    kept = {name: value for name, value in run.items() if name != "seconds"}
    assert found == {"sac": [kept], "mse": [{**kept, "model_rmse": 0.5}]}


@pytest.mark.slow
def test_reproduce_vagram(tmp_path: Path) -> None:
    out = tmp_path / "study"
    flags = ("--experiments", "offline", "schedule", "--seeds", 1, "--transitions", 300, "--held-out", 100,
             "--policy-timesteps", 600, "--fits", 1, "--distracted-timesteps", 600, "--schedule-seeds", 1,
             "--schedule-timesteps", 300, "--schedule-epochs", 1)  # fmt: skip
    result = result_of(out, run("reproduce_vagram.py", *flags, "--out", out))
    assert set(result["offline"]) == {
        "15 distractors, 1 x 16", "15 distractors, 2 x 32", "no distractors, 4 x 200"
    }  # fmt: skip
    found = result["offline"]["15 distractors, 1 x 16"]["value_gradient"][0]
    assert 0.0 < found["distractor_gradient"] < 1.0
    kept = json.loads((out / "schedule.json").read_text())
    assert kept.keys() == result["schedule"].keys()
    assert kept["sac"][0]["eval_returns"] == result["schedule"]["sac"][0]["eval_returns"]
    assert (out / "schedule.png").stat().st_size > 10_000


@pytest.mark.slow
def test_bench_mbpo(tmp_path: Path) -> None:
    out = tmp_path / "bench"
    flags = ("--steps", 2, "--repeats", 1, "--blocks", 1, "--threads", 1,
             "--parts", "sac", "regularizers", "fit", "parts")  # fmt: skip
    result = result_of(out, run("bench_mbpo.py", *flags, "--out", out))["threads_1"]
    ratios = [result["fit"]["ensemble_over_single"], result["parts"]["without_over_with"]]
    for case in ("Pendulum-v1", "Hopper-v5", "Pendulum-v1, 64 x 64"):
        ratios += [result["sac"][case][name] for name in ("sb3_over_ours", "share_of_products")]
    for name in ("spectral_over_none", "robust_over_none"):
        ratios.append(result["regularizers"]["hidden_256"][name])
    for ratio in ratios:
        assert 0.0 < ratio["min"] <= ratio["median"] <= ratio["max"] < math.inf


def test_the_share_of_the_products_counts_those_that_a_step_has() -> None:
    import gymnasium as gym

    from prefrl.agents import SAC, SACConfig

    agent = SAC(gym.make("Hopper-v5"), SACConfig(learning_starts=8, hidden=(64, 32)), device="cpu")
    agent.learn(16)
    batch = agent.replay.sample(256, agent.networks.generator)
    with FlopCounterMode(display=False) as counter:
        agent.networks.step(batch)
    # The products with a critic's only column on the way back are elementwise, which torch does not count.
    assert load("bench_mbpo").update_flops(agent) == pytest.approx(counter.get_total_flops(), rel=5e-3)


@pytest.mark.parametrize(
    ("python", "message"),
    [(Path("nowhere"), "No such file"), (Path(sys.executable), r"does not run.*No module named 'mbrl'")],
)
def test_a_python_without_mbrl_is_refused_at_the_start(tmp_path: Path, python: Path, message: str) -> None:
    bench = load("bench_mbpo")
    with pytest.raises(ValueError, match=message):
        bench.Bench(out=tmp_path, mbrl_python=python).measure(None)


def test_the_plain_side_of_the_benchmark_has_the_same_losses() -> None:
    """Else the benchmark would compare two algorithms."""
    bench = load("bench_mbpo")
    from prefrl.agents import SACConfig
    from prefrl.agents.actor_critic.networks import SoftActorCritic
    from prefrl.data.replay import Batch

    config, place = SACConfig(hidden=(8, 8), learning_rate=1e-3), {"device": torch.device("cpu"), "seed": 0}
    ours, plain = SoftActorCritic(3, 2, config, **place), bench.PlainActorCritic(3, 2, config, **place)
    with torch.no_grad():
        for networks, stack, axis in (([plain.pi], ours.actor, 1), (plain.q, ours.critic, 2),
                                      (plain.q_target, ours.target, 2)):  # fmt: skip
            for member, network in enumerate(networks):
                linears = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
                pairs = zip(linears, stack.weights(), stack.biases(), strict=True)
                for linear, weight, bias in pairs:
                    linear.weight.copy_(weight[member].T)
                    linear.bias.copy_(bias[member, 0])
            assert axis == stack.members
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 3, generator=draws)
    batch = Batch(rows, torch.randn(40, 2, generator=draws).tanh(), rows[:, 0], rows.flip(0),
                  torch.full((40,), 0.99), torch.ones(40))  # fmt: skip
    plain.generator.set_state(ours.generator.get_state())
    for _ in range(3):
        found, expected = ours.step(batch), plain.step(batch)
        for name in ("train/critic_loss", "train/actor_loss"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
