"""How right a learned value function or policy is, and the two recipes of continuous time."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.image import imread

import prefrl.envs
from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic, ContinuousActorCriticConfig
from prefrl.agents.continuous_time.evaluation import MartingaleConfig, MartingaleEvaluation
from prefrl.cli import main
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.run.outcomes.diffusions import compare_values, make_diffusions, policy_outcome, true_policy

F64 = torch.float64


def train(tmp_path, recipe, *arguments):
    out = tmp_path / "run"
    status = main(["train", recipe, *map(str, arguments), "--out", str(out), "--quiet", "--no-progress-bar"])
    assert status == 0
    return json.loads((out / "result.json").read_text()), out


@pytest.mark.parametrize(
    "env_id", ["OrnsteinUhlenbeck", "LQErgodic", "BlackScholesCall", "LQPlane", "MeanVariance"]
)
def test_the_true_parameters_have_no_error(env_id):
    env = prefrl.envs.make_device(f"prefrl/{env_id}-v0", 2, float_dtype=F64)
    face = env.unwrapped
    policy = None
    if env_id.startswith("LQ"):
        d = face.diffusion.dim
        policy = LinearPolicy(np.full((1, d), -0.2), [-0.3], [0.1])
    elif env_id == "MeanVariance":
        policy = face.true_optimum(0.1).policy
    agent = MartingaleEvaluation(env, MartingaleConfig(), policy, device="cpu")
    known = {} if policy is None else {"temperature": 0.1}
    if isinstance(policy, LinearPolicy):
        known["policy"] = policy
    truth = face.true_parameters(face.diffusion.value_families[0], **known)
    flat = []
    for name, value in truth.items():
        if name != "V":
            part = np.asarray(value)
            flat += part[np.triu_indices(len(part))].tolist() if part.ndim == 2 else part.reshape(-1).tolist()
    agent.ascent.average.copy_(torch.tensor(flat, dtype=F64))
    comparison = compare_values(agent)
    assert comparison.sup_error < (1e-6 if env_id == "BlackScholesCall" else 1e-9)
    agent.ascent.average[-1] += 0.1
    assert compare_values(agent).sup_error > 1e-3
    assert comparison.x.shape == (len(comparison.t), face.diffusion.dim)


def test_average_values_count_up_to_a_constant():
    env = prefrl.envs.make_device("prefrl/LQErgodic-v0", 2, float_dtype=F64)
    config = MartingaleConfig(value="neural", hidden=(4,))
    agent = MartingaleEvaluation(env, config, LinearPolicy(-0.5, -0.5, 0.1), device="cpu")
    agent.ascent.average.normal_(generator=torch.Generator().manual_seed(0))
    before = compare_values(agent).sup_error
    agent.ascent.average[-1] += 7.0  # the last bias
    assert compare_values(agent).sup_error == pytest.approx(before)


def test_a_policy_is_judged_exactly_where_that_is_possible():
    env = make_diffusions("prefrl/LQErgodic-v0", (), 2, "cpu", None)
    agent = ContinuousActorCritic(env, ContinuousActorCriticConfig(averaging=None), device="cpu")
    best = env.true_optimum(0.1)
    parameters = [best.policy.f1.item(), best.policy.f2.item(), math.log(best.policy.v.item())]
    agent.policy.phi.copy_(torch.tensor(parameters, dtype=F64))
    assert policy_outcome(agent, env, 0.1, 0) == {"average_reward": pytest.approx(best.average_reward)}
    assert agent.policy_parameters() == pytest.approx(true_policy(env, 0.1))
    agent.policy.phi[0] = 5.0  # it drives the state away
    assert policy_outcome(agent, env, 0.1, 0) == {"average_reward": None}

    env = make_diffusions("prefrl/LQPlane-v0", ("x0=[1,-1]",), 2, "cpu", None)
    agent = ContinuousActorCritic(env, ContinuousActorCriticConfig(averaging=None), device="cpu")
    best = env.true_optimum(0.1)
    parameters = [*best.policy.f1[0], *best.policy.f2, math.log(best.policy.v.item())]
    agent.policy.phi.copy_(torch.tensor(parameters, dtype=F64))
    assert policy_outcome(agent, env, 0.1, 0)["value"] == pytest.approx(
        float(best.value(np.array([1.0, -1.0])))
    )
    assert true_policy(env, 0.1)["phi1"] == best.policy.f1.tolist()
    coupled = {
        "B": [[0.0, 0.0]],
        "D": [[1.0, 1.0]],
        "N": [[2.0, 1.5], [1.5, 2.0]],
        "R": [[1.0], [1.0]],
        "Q": [2.0, 2.0],
    }
    env = gym.make("prefrl/LQDiscounted-v0", **coupled)
    k2 = env.unwrapped.true_optimum(0.1).value.k2.item()
    assert true_policy(env, 0.1)["variance"] == pytest.approx([0.1 / (2.0 - k2)] * 2)


@pytest.mark.slow
def test_a_policy_without_a_closed_form_is_judged_by_paths():
    env = make_diffusions("prefrl/MeanVariance-v0", ("mu=0.1", "dt=0.05"), 2, "cpu", None)
    agent = ContinuousActorCritic(env, ContinuousActorCriticConfig(averaging=None), device="cpu")
    best = env.true_optimum(0.1)
    agent.policy.phi.copy_(torch.tensor([best.policy.phi1, best.policy.phi2, best.policy.phi3], dtype=F64))
    found = policy_outcome(agent, env, 0.1, 0)
    assert found["terminal_mean"] == pytest.approx(best.mean, abs=0.03)
    assert found["terminal_variance"] == pytest.approx(best.variance, rel=0.06)
    assert found["value"] == pytest.approx(-best.variance + 0.0, rel=0.1)
    for env_id, key in (("LQErgodic", "average_reward"), ("LQDiscounted", "value")):
        env = make_diffusions(f"prefrl/{env_id}-v0", (), 2, "cpu", 0.05)
        agent = ContinuousActorCritic(env, ContinuousActorCriticConfig(policy="neural"), device="cpu")
        face = env.unwrapped
        policy = LinearPolicy(0.0, 0.0, 1.0)  # what an untrained network is
        expected = face.diffusion.problem.value(policy, 0.1 if key == "value" else 0.0)
        expected = expected.V if expected.V is not None else float(expected(face.diffusion.x0[None])[0])
        assert policy_outcome(agent, env, 0.1, 0)[key] == pytest.approx(expected, abs=0.15)


def test_environments_are_made_in_float64_and_run_forever():
    env = make_diffusions("prefrl/OrnsteinUhlenbeck-v0", ("k=2",), 3, "cpu", 0.5)
    assert (env.diffusion.dt, env.diffusion.k, env.max_episode_steps) == (0.5, 2, None)
    assert env.reset(seed=0)[0].dtype is F64
    assert (
        make_diffusions("prefrl/LQErgodic-v0", ("max_episode_steps=7",), 3, "cpu", None).max_episode_steps
        == 7
    )
    with pytest.raises(ValueError, match=r"dt is 0\.5, and 0\.25 in env_args"):
        make_diffusions("prefrl/OrnsteinUhlenbeck-v0", ("dt=0.25",), 3, "cpu", 0.5)


# Recipes ---------------------------------------------------------


def test_a_run_of_policy_evaluation(tmp_path):
    arguments = (
        "--env-id",
        "prefrl/OrnsteinUhlenbeck-v0",
        "--objective",
        "clstd",
        "--lam",
        0.2,
        "--dt",
        0.05,
        "--env.k",
        2,
        "--num-envs",
        128,
        "--total-time",
        100,
    )
    result, out = train(tmp_path, "martingale", *arguments)
    assert result["true_parameters"] == {"c0": -0.2, "c1": 0.0, "c2": -0.2}
    for name, value in result["true_parameters"].items():
        assert result["parameters"][name] == pytest.approx(value, abs=0.03)
    assert 0.0 < result["sup_error"] < 0.2
    assert result["seconds"] > 0.0
    assert result["num_timesteps"] == 128 * 2000
    assert imread(out / "value.png").shape[2] == 4
    columns = (out / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"parameters/c0", "parameters/c1", "parameters/c2", "train/td_error"} <= set(columns)
    assert main(["evaluate", str(out), "--episodes", "1"]) == 0


def test_a_misspecified_family_has_no_true_parameters(tmp_path):
    result, _ = train(
        tmp_path,
        "martingale",
        "--env-id",
        "prefrl/BrownianSquare-v0",
        "--objective",
        "clstd",
        "--dt",
        0.1,
        "--total-time",
        20,
    )
    assert result["true_parameters"] is None
    assert result["parameters"]["theta"] == pytest.approx(2 / 3, abs=0.15)
    assert 0.1 < result["sup_error"] < 0.5


@pytest.mark.parametrize("agent", ["actor_critic", "q_learning"])
def test_a_run_of_control(tmp_path, agent):
    result, out = train(
        tmp_path,
        "continuous_control",
        "--agent",
        agent,
        "--env-id",
        "prefrl/LQErgodic-v0",
        "--env.A",
        -2,
        "--dt",
        0.1,
        "--num-envs",
        512,
        "--total-timesteps",
        512 * 1500,
    )
    best = gym.make("prefrl/LQErgodic-v0", A=-2).unwrapped.true_optimum(0.1)
    assert result["true_policy"]["phi1"] == pytest.approx(best.policy.f1.item())
    assert result["policy"]["phi2"] == pytest.approx(result["true_policy"]["phi2"], abs=0.15)
    assert result["average_reward"] == pytest.approx(best.average_reward, abs=0.1)
    assert {"V", "k1", "k2"} < set(result["parameters"])
    assert main(["evaluate", str(out), "--episodes", "1"]) == 0


def test_a_foreign_environment(tmp_path):
    result, _ = train(
        tmp_path,
        "continuous_control",
        "--env-id",
        "Pendulum-v1",
        "--dt",
        0.05,
        "--beta",
        1.0,
        "--hidden",
        8,
        "--num-envs",
        2,
        "--total-timesteps",
        40,
    )
    assert math.isfinite(result["final_return"])
    assert result["true_policy"] is None


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path):
    arguments = (
        "--env-id",
        "prefrl/BlackScholesCall-v0",
        "--dt",
        0.1,
        "--num-envs",
        64,
        "--total-time",
        30,
        "--checkpoint-every",
        640,
    )
    whole, out = train(tmp_path, "martingale", *arguments)
    (out / "result.json").unlink()
    assert main(["resume", str(out), "--quiet", "--no-progress-bar"]) == 0
    again = json.loads((out / "result.json").read_text())
    assert again["parameters"] == whole["parameters"]


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        ("martingale", ("--env-id", "Pendulum-v1"), "is no diffusion of prefrl"),
        ("martingale", ("--total-time", "-1"), "total_time is -1.0"),
        ("martingale", ("--env-id", "prefrl/LQPlane-v0", "--f1", "1", "2", "3"), "f1 has 3 numbers"),
        ("martingale", ("--env.beta", "0", "--env.k", "-1"), "beta is 0; it must exceed -2 k = 2"),
        (
            "martingale",
            ("--env-id", "prefrl/LQDiscounted-v0", "--env.B", "1", "--f1", "3", "--value", "neural"),
            "it must exceed",
        ),
        ("continuous_control", ("--agent", "q_learning", "--entropy", "sampled"), "only actor_critic has it"),
        ("martingale", ("--f1", "1"), "it is for linear-quadratic problems"),
        ("martingale", ("--beta", "2", "--env.beta", "1"), "beta is 2.0, and 1 in env_args"),
        ("martingale", ("--env-id", "prefrl/MeanVariance-v0", "--temperature", "0"), "temperature is 0.0"),
        ("martingale", ("--env-id", "prefrl/LQDiscounted-v0", "--v", "0"), "count none, temperature 0"),
        ("martingale", ("--env-id", "prefrl/LQDiscounted-v0", "--env.B", "1", "--f1", "3"), "it must exceed"),
        (
            "continuous_control",
            ("--env-id", "prefrl/MeanVariance-v0", "--temperature", "0"),
            "temperature is 0",
        ),
        ("continuous_control", ("--normalizer", "known"), "only q_learning has it"),
        ("continuous_control", ("--env-id", "prefrl/OrnsteinUhlenbeck-v0"), "nobody steers"),
    ],
)
def test_wrong_settings_end_with_a_message(tmp_path, capsys, recipe, arguments, message):
    assert main(["train", recipe, *arguments, "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
