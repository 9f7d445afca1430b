"""Policy evaluation by martingales: what an agent does is what the formulas say, and it finds the truth."""

import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl
import prefrl.envs
from prefrl.agents.base import Spaces
from prefrl.agents.continuous_time.ascent import Ascent, Pace, Scale, step_factor
from prefrl.agents.continuous_time.evaluation import MartingaleConfig, MartingaleEvaluation
from prefrl.agents.continuous_time.task import task_of
from prefrl.data import Transitions
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.diffusions.dynamics import DiffusionDynamics
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.functional.continuous_time import martingale
from prefrl.nn.value_families import LinearFamily
from prefrl.run.stepping import Stepper

F64 = torch.float64
POLICY = LinearPolicy(-0.5, -0.5, 0.1)


def make(env_id, num_envs=64, policy=None, env=None, seed=0, **config):
    envs = prefrl.envs.make_device(f"prefrl/{env_id}-v0", num_envs, float_dtype=F64, **(env or {}))
    return MartingaleEvaluation(envs, MartingaleConfig(**config), policy, device="cpu", seed=seed)


def record(agent, steps):
    """Step the agent's environment; return x [K + 1, n, d], t [K + 1, n] and the rates of the path."""
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    times, states, rates, terminal = [], [], [], None
    for _ in range(steps):
        stepper.step()
        seen = agent._transitions
        t, x = agent.task.split(seen.obs)
        times.append(t)
        states.append(x)
        terminal = seen.infos.get("terminal_reward", torch.zeros_like(t))
        rates.append((seen.rewards - terminal) / agent.task.dt)
        agent.update()
    t, x = agent.task.split(seen.next_obs)
    return torch.stack([*times, t]), torch.stack([*states, x]), torch.stack(rates), terminal


def values_along(family, theta, t, x, terminal):
    """Values [K + 1, n] and gradients [K + 1, n, P] along paths; h in the last row."""
    kept, family.theta = family.theta, theta
    found = [family.gradient(*row) for row in zip(t, x, strict=True)]
    family.theta = kept
    values = torch.stack([value for value, _ in found])
    values[-1] = terminal
    return values, torch.stack([gradient for _, gradient in found])


# One episode, by the formulas ------------------------------------


@pytest.mark.parametrize(("lam", "beta"), [(0.0, 0.3), (0.4, 0.3), (1.0, 0.0)])
def test_an_episode_of_ctd_moves_along_the_orthogonality_conditions(lam, beta):
    agent = make(
        "BlackScholesCall",
        50,
        env={"dt": 0.1, "b": beta},
        objective="ctd",
        lam=lam,
        learning_rate=0.5,
        decay="constant",
        averaging=None,
    )
    before = agent.value.theta.clone()
    t, x, rates, terminal = record(agent, 10)
    values, gradients = values_along(agent.value, before, t, x, terminal)
    deltas = martingale.increments(values, rates, 0.1, beta)
    direction = martingale.orthogonality(martingale.traces(gradients[:-1], lam, 0.1), deltas)
    torch.testing.assert_close(agent.value.theta, before + 0.5 * direction)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_episode_of_the_martingale_loss_descends_it(weight):
    agent = make(
        "BlackScholesCall",
        50,
        env={"dt": 0.1, "b": 0.6},
        objective="martingale_loss",
        learning_rate=0.5,
        decay="constant",
        averaging=None,
        loss_weight=weight,
    )
    before = agent.value.theta.clone()
    t, x, rates, terminal = record(agent, 10)
    theta = before.clone().requires_grad_()
    agent.value.theta, kept = theta, agent.value.theta
    values = torch.stack([agent.value.value(*row) for row in zip(t[:-1], x[:-1], strict=True)])
    agent.value.theta = kept
    values = torch.cat([values, terminal[None]])
    loss = martingale.martingale_loss(values, rates, 0.1, 0.6, weight=weight).mean()
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(agent.value.theta, before - 0.5 * gradient, rtol=1e-9, atol=1e-12)


def test_an_episode_of_mstde_descends_the_squares():
    agent = make(
        "BlackScholesCall",
        50,
        env={"dt": 0.1},
        objective="mstde",
        learning_rate=0.5,
        decay="constant",
        averaging=None,
    )
    before = agent.value.theta.clone()
    t, x, rates, terminal = record(agent, 10)
    theta = before.clone().requires_grad_()
    agent.value.theta, kept = theta, agent.value.theta
    values = torch.stack([agent.value.value(*row) for row in zip(t[:-1], x[:-1], strict=True)])
    agent.value.theta = kept
    values = torch.cat([values, terminal[None]])
    loss = martingale.mean_square_td_error(values, rates, 0.1, 0.05).mean() * 0.1
    (gradient,) = torch.autograd.grad(loss, theta)
    torch.testing.assert_close(agent.value.theta, before - 0.5 * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("lam", "beta"), [(0.0, 0.7), (0.3, 0.7), (0.3, 0.0)])
def test_clstd_is_that_of_the_paths(lam, beta):
    env = {"dt": 0.1, "beta": beta, "max_episode_steps": None}
    agent = make("OrnsteinUhlenbeck", 30, env=env, objective="clstd", lam=lam, ridge=0.0)
    t, x, rates, _ = record(agent, 40)
    features = torch.stack([agent.value.features(*row) for row in zip(t, x, strict=True)])
    expected = martingale.clstd(features, rates, 0.1, beta, lam=lam, ergodic=beta == 0.0, ridge=0.0)
    found = torch.cat([agent.value.theta, agent.average_reward])
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-6, atol=1e-8)
    assert ("V" in agent.parameters()) == (beta == 0.0)


def test_a_linear_mstde_is_least_squares():
    agent = make(
        "OrnsteinUhlenbeck", 30, env={"dt": 0.1, "max_episode_steps": None}, objective="mstde", ridge=0.0
    )
    t, x, rates, _ = record(agent, 40)
    features = torch.stack([agent.value.features(*row) for row in zip(t, x, strict=True)])
    slope = (features[1:] - 1.1 * features[:-1]).flatten(0, 1)
    expected = torch.linalg.lstsq(slope, -0.1 * rates.reshape(-1, 1)).solution[:, 0]
    torch.testing.assert_close(agent.value.theta, expected, rtol=1e-6, atol=1e-8)


def test_the_entropy_of_the_policy_counts():
    settings = {"objective": "clstd"}
    env = {"dt": 0.1, "max_episode_steps": None}
    plain = make("LQDiscounted", 40, POLICY, env, temperature=0.0, **settings)
    regular = make("LQDiscounted", 40, POLICY, env, temperature=0.4, **settings)
    for agent in (plain, regular):
        agent.learn(40 * 200)
    gain = regular.parameters()["k0"] - plain.parameters()["k0"]
    assert gain == pytest.approx(0.4 * POLICY.entropy(0.0), rel=1e-4)  # beta is 1
    assert make("LQDiscounted", 2, POLICY).temperature == 0.1
    assert make("OrnsteinUhlenbeck", 2).temperature == 0.0


# Truth -----------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "ctd"},
        {"objective": "ctd", "lam": 0.3},
        {"objective": "clstd"},
        {"objective": "cgtd"},
        {"objective": "cgtd", "correction": "tdc"},
    ],
    ids=str,
)
def test_online_methods_find_the_value(settings):
    agent = make("OrnsteinUhlenbeck", 1024, env={"dt": 0.05, "max_episode_steps": None}, **settings)
    agent.learn(1024 * 1500)
    found = agent.parameters()
    for name in ("c0", "c1", "c2"):  # the fixed point at dt = .05 is off by .011
        assert found[name] == pytest.approx({"c0": -1 / 3, "c1": 0.0, "c2": -1 / 3}[name], abs=0.03)


@pytest.mark.slow
def test_the_mean_square_td_error_finds_a_constant():
    agent = make("OrnsteinUhlenbeck", 256, env={"dt": 0.02, "max_episode_steps": None}, objective="mstde")
    agent.learn(256 * 4000)
    found = agent.parameters()
    assert abs(found["c2"]) <= 0.03
    assert found["c0"] == pytest.approx(-0.5, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("strike", [1.0, 1.2])
def test_the_volatility_in_a_price(strike):
    found = {}
    for objective in ("martingale_loss", "ctd"):
        agent = make(
            "BlackScholesCall",
            4000,
            env={"K": strike, "dt": 0.05},
            objective=objective,
            learning_rate=2.0,
            decay_time=20.0,
        )
        agent.learn(4000 * 20 * 100)
        found[objective] = agent.parameters()["theta"]
        assert found[objective] == pytest.approx(0.2, abs=0.015)


@pytest.mark.slow
def test_average_rewards():
    agent = make("LQErgodic", 2048, POLICY, {"dt": 0.05, "max_episode_steps": None}, objective="clstd")
    agent.learn(2048 * 3000)
    truth = agent.env.unwrapped.true_parameters("quadratic", POLICY, 0.1)
    found = agent.parameters()
    assert found["V"] == pytest.approx(truth["V"], abs=0.01)
    assert found["k1"] == pytest.approx(truth["k1"], abs=0.03)
    assert found["k2"] == pytest.approx(truth["k2"], abs=0.06)


@pytest.mark.parametrize("objective", ["ctd", "cgtd"])
def test_average_rewards_online(objective):
    env = {"dt": 0.05, "beta": 0.0, "max_episode_steps": None}
    agent = make("OrnsteinUhlenbeck", 1024, env=env, objective=objective).learn(1024 * 1500)
    found = agent.parameters()
    assert found["V"] == pytest.approx(-0.5, abs=0.02)
    assert found["c2"] == pytest.approx(-0.5, abs=0.06)


@pytest.mark.slow
def test_halving_dt_changes_nothing():
    """The same total time and the same step size per unit of time."""
    found = []
    for dt in (0.1, 0.05, 0.025):
        agent = make("OrnsteinUhlenbeck", 2048, env={"dt": dt, "max_episode_steps": None}, objective="ctd")
        agent.learn(2048 * round(60 / dt))
        found.append(list(agent.parameters().values()))
    assert np.ptp(np.array(found), axis=0).max() <= 0.04


@pytest.mark.slow
def test_a_neural_value_function_learns():
    env = {"dt": 0.05, "max_episode_steps": 20, "x0_spread": 1.0}
    agent = make(
        "LQDiscounted", 256, POLICY, env, objective="ctd", value="neural", decay_time=10.0, decay_power=1.0
    )
    x = np.linspace(-1.0, 1.0, 9)[:, None]
    true = agent.env.unwrapped.true_value(0.0, x[:, 0], POLICY, 0.1)
    assert np.abs(agent.value_at(0.0, x) - true).max() > 0.3
    agent.learn(256 * 2000)
    assert np.abs(agent.value_at(0.0, x) - true).max() < 0.1


@pytest.mark.parametrize("objective", ["martingale_loss", "mstde", "ctd"])
def test_every_objective_takes_a_network(objective):
    lam = 0.5 if objective == "ctd" else 0.0
    agent = make(
        "BlackScholesCall", 8, env={"dt": 0.25}, objective=objective, lam=lam, value="neural", hidden=(4,)
    )
    before = agent.value.theta.clone()
    agent.learn(8 * 8)
    assert (agent.value.theta != before).any()
    assert agent.parameters() == {}


# Faces, files and refusals ---------------------------------------


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_rows_that_are_no_transitions_teach_nothing(mode):
    """Batches of the host under any autoreset mode learn what paths on the device do: only true steps."""
    env = gym.make_vec("prefrl/BrownianSquare-v0", 16, dt=0.25, autoreset_mode=mode)
    agent = MartingaleEvaluation(env, MartingaleConfig(objective="clstd", lam=0.5), device="cpu")
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    kept = []
    for _ in range(10):
        stepper.step()
        kept.append(agent._transitions)
        agent.update()
    A, c = torch.zeros(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    trace = torch.zeros(16, 1, dtype=F64)
    for step in kept:
        if not step.mask.any():
            continue
        (t, x), (after, y) = agent.task.split(step.obs), agent.task.split(step.next_obs)
        phi = (1.0 - t).square()[:, None]
        trace = 0.5**0.25 * trace * (t > 0.0)[:, None] + phi * 0.25
        end = step.terminations
        change = phi[:, 0] - torch.where(end, 0.0, (1.0 - after).square())
        A += (trace[:, 0] * change).mean()
        c += (trace[:, 0] * (y[:, 0].square() - x[:, 0].square())).mean()
    torch.testing.assert_close(agent._moments.A, A, rtol=1e-5, atol=1e-6)  # the host's times are float32
    torch.testing.assert_close(agent._moments.c, c, rtol=1e-5, atol=1e-6)


LEAST_SQUARES = {("OrnsteinUhlenbeck", "mstde"), ("Ergodic", "mstde")}


@pytest.mark.parametrize(
    ("env_id", "config"),
    [
        ("OrnsteinUhlenbeck", {"objective": "ctd", "lam": 0.5}),
        ("OrnsteinUhlenbeck", {"objective": "cgtd"}),
        ("OrnsteinUhlenbeck", {"objective": "cgtd", "correction": "tdc", "lam": 0.3}),
        ("OrnsteinUhlenbeck", {"objective": "mstde"}),
        ("Ergodic", {"objective": "clstd", "lam": 0.3}),
        ("Ergodic", {"objective": "mstde"}),
        ("Ergodic", {"objective": "ctd"}),
        ("BlackScholesCall", {"objective": "martingale_loss"}),
        ("BlackScholesCall", {"objective": "ctd", "lam": 0.5}),
        ("BlackScholesCall", {"objective": "mstde"}),
        ("BlackScholesCall", {"objective": "ctd", "value": "neural", "hidden": (4,)}),
    ],
    ids=str,
)
def test_pauses_change_nothing(env_id, config):
    """Under NEXT_STEP an agent ends where one does that is shown the transitions alone."""
    env = {"dt": 0.25} if env_id == "BlackScholesCall" else {"dt": 0.25, "max_episode_steps": 4}
    if env_id == "Ergodic":
        env |= {"beta": 0.0}
    if config["objective"] != "clstd" and (env_id, config["objective"]) not in LEAST_SQUARES:
        config = {**config, "learning_rate": 0.3, "decay": "constant"}  # schedules count pauses as time
    name = f"prefrl/{'BlackScholesCall' if env_id == 'BlackScholesCall' else 'OrnsteinUhlenbeck'}-v0"
    agents = [
        MartingaleEvaluation(
            gym.make_vec(name, 8, autoreset_mode=mode, **env), MartingaleConfig(**config), device="cpu"
        )
        for mode in ("NextStep", "SameStep")
    ]
    stepper = Stepper.of_agent(agents[0])
    stepper.reset()
    shown = 0
    for _ in range(25):
        stepper.step()
        step = agents[0]._transitions
        agents[0].update()
        if step.mask.all():
            shown += 1
            agents[1].observe(step)
            agents[1].update()
        else:
            assert not step.mask.any()
    assert shown == 20
    for left, right in ((a.value.theta, b.value.theta) for a, b in [agents]):
        assert left.abs().max() > 0.0
        torch.testing.assert_close(left, right)
    torch.testing.assert_close(agents[0].average_reward, agents[1].average_reward)


@pytest.mark.parametrize(
    "config",
    [
        {"objective": "ctd", "lam": 0.5},
        {"objective": "cgtd"},
        {"objective": "cgtd", "correction": "tdc"},
        {"objective": "clstd"},
        {"objective": "mstde"},
        {"objective": "ctd", "value": "neural", "hidden": (4,)},
        {"objective": "ctd"},
    ],
    ids=str,
)
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_rows_without_a_transition_might_as_well_not_be_there(config, beta):
    """Half of the rows pause: what is learned is what the others alone teach."""
    env = {"dt": 0.25, "beta": beta, "max_episode_steps": None}
    if config["objective"] in ("ctd", "cgtd") and "value" not in config:
        config = {**config, "learning_rate": 0.3}
    agents = [make("OrnsteinUhlenbeck", n, env=env, **config) for n in (8, 4)]
    stepper = Stepper.of_agent(make("OrnsteinUhlenbeck", 8, env=env))
    stepper.reset()
    live = torch.arange(8) % 2 == 0
    for _ in range(6):
        stepper.step()
        step = stepper.listener._transitions
        agents[0].observe(dataclasses.replace(step, mask=live))
        kept = {
            name: getattr(step, name)[live]
            for name in ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask")
        }
        agents[1].observe(Transitions(**kept))
        for agent in agents:
            agent.update()
    assert agents[0].value.theta.any()
    torch.testing.assert_close(agents[0].value.theta, agents[1].value.theta)
    torch.testing.assert_close(agents[0].average_reward, agents[1].average_reward)


def test_steps_are_scaled_by_the_largest_response_so_far():
    scale = Scale(torch.zeros(2, dtype=F64), window=10, warm=2)
    direction, one = torch.tensor([6.0, 6.0], dtype=F64), torch.ones((), dtype=F64)
    scale.add(torch.tensor([1.0, 4.0], dtype=F64), one)
    assert scale.applied(direction).tolist() == [0.0, 0.0]
    scale.add(torch.tensor([3.0, 0.0], dtype=F64), one)
    torch.testing.assert_close(scale.applied(direction), torch.tensor([3.0, 3.0], dtype=F64))
    scale.add(torch.tensor([0.0, 0.0], dtype=F64), 0.0 * one)  # a step without a transition
    for _ in range(50):
        scale.add(torch.tensor([0.0, 5.0], dtype=F64), one)
    assert scale.applied(direction)[0].item() == pytest.approx(3.0)
    assert 1.2 <= scale.applied(direction)[1].item() < 1.3


def test_a_new_reset_begins_a_new_episode():
    """What was gathered along half an episode is dropped, and the next ones are whole."""
    agent = make("BrownianSquare", 8, env={"dt": 0.25}, learning_rate=0.5)
    agent.learn(8 * 6)
    assert agent.ascent.steps == 1
    agent.learn(8 * 3)
    assert agent.ascent.steps == 1
    assert agent.pace.phase == 3
    agent.learn(8 * 4)
    assert (agent.ascent.steps, agent.pace.phase) == (2, 0)


@pytest.mark.parametrize("sigma", [0.2, 4.0])
def test_default_steps_suit_features_of_any_size(sigma):
    env = {"dt": 0.05, "sigma": sigma, "max_episode_steps": None}
    agent = make("OrnsteinUhlenbeck", 256, env=env).learn(256 * 1500)
    truth, found = agent.env.unwrapped.true_parameters(), agent.parameters()
    assert found["c2"] == pytest.approx(truth["c2"], abs=0.04)
    assert found["c0"] == pytest.approx(truth["c0"], rel=0.1)


def test_a_scalar_environment_will_do():
    agent = MartingaleEvaluation(gym.make("prefrl/OrnsteinUhlenbeck-v0"), MartingaleConfig(objective="clstd"))
    agent.learn(300)
    assert set(agent.parameters()) == {"c0", "c1", "c2"}
    assert agent.predict(np.zeros((2, 1), np.float32))[0].tolist() == [0, 0]


def test_any_environment_in_continuous_time():
    """Pendulum-v1 moves by .05 a step; its observations and actions are vectors."""
    config = MartingaleConfig(objective="ctd", dt=0.05, beta=1.0, hidden=(8,))
    env = gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    agent = MartingaleEvaluation(env, config, lambda t, x, z: 0.1 * z, device="cpu")
    before = agent.value.theta.clone()
    agent.learn(20)
    assert (agent.value.theta != before).any()
    assert math.isfinite(float(agent.value_at(0.0, np.zeros((1, 3)))[0]))


@pytest.mark.parametrize("lam", [0.0, 0.5])
@pytest.mark.parametrize("value", ["auto", "neural"])
def test_a_resumed_run_is_the_same_run(tmp_path, lam, value):
    def agent():
        return make("BlackScholesCall", 8, env={"dt": 0.25}, lam=lam, value=value, hidden=(4,))

    whole = agent().learn(8 * 30)
    half = agent()
    stepper = Stepper.of_agent(half)
    stepper.reset()
    for _ in range(13):  # in mid-episode
        stepper.step()
        half.update()
    torch.save({"agent": half.state_dict(), "stepper": stepper.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = agent()
    stepper = Stepper.of_agent(again)
    stepper.reset()
    again.load_state_dict(state["agent"])
    stepper.load_state_dict(state["stepper"])
    for _ in range(17):
        stepper.step()
        again.update()
    assert torch.equal(again.value.theta, whole.value.theta)
    assert torch.equal(again.ascent.average, whole.ascent.average)


def test_other_rows_begin_new_paths():
    """What half an episode of eight rows had gathered is none of four rows' business."""
    eight, four = (make("BlackScholesCall", n, env={"dt": 0.25}) for n in (8, 4))
    eight.learn(8 * 6)
    assert eight._direction.any()
    assert eight.pace.phase == 2
    four.load_state_dict(eight.state_dict())
    assert torch.equal(four.value.theta, eight.value.theta)
    assert not four._direction.any()
    assert (four.pace.phase, four.pace.steps) == (0, 6)


def test_save_and_load(tmp_path):
    agent = make("LQDiscounted", 8, POLICY, objective="clstd").learn(8 * 50)
    agent.save(tmp_path / "agent.pt")
    env = gym.make("prefrl/LQDiscounted-v0")
    loaded = prefrl.MartingaleEvaluation.load(tmp_path / "agent.pt", env)
    assert loaded.parameters() == agent.parameters()
    np.testing.assert_array_equal(loaded.policy.f1, POLICY.f1)
    loaded.learn(10)
    with pytest.raises(ValueError, match=r"env is missing.*load\(path, env="):
        MartingaleEvaluation.load(tmp_path / "agent.pt")
    best = gym.make("prefrl/MeanVariance-v0", dt=0.1).unwrapped.true_optimum(0.1).policy
    agent = make("MeanVariance", 4, best, {"dt": 0.1}).learn(40)
    agent.save(tmp_path / "agent.pt")
    loaded = MartingaleEvaluation.load(tmp_path / "agent.pt", gym.make("prefrl/MeanVariance-v0", dt=0.1))
    assert loaded.policy == best
    own = make("LQDiscounted", 4, lambda t, x, z: x)
    own.save(tmp_path / "own.pt")
    with pytest.raises(ValueError, match="the policy was one of your own"):
        MartingaleEvaluation.load(tmp_path / "own.pt", env)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"objective": "td"}, "objective is 'td'"),
        ({"lam": 1.5}, "lam is 1.5"),
        ({"objective": "mstde", "lam": 0.5}, "mstde has no test process"),
        ({"objective": "martingale_loss", "mode": "online"}, "mode is 'online'"),
        ({"value": "cubic"}, "value is 'cubic'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"decay": "fast"}, "decay is 'fast'"),
        ({"decay_power": -1.0}, "decay_power is -1.0"),
        ({"hidden": ()}, "hidden is"),
        ({"ridge": -1.0, "objective": "clstd"}, "ridge is -1.0"),
        ({"ridge": 1.0}, "ridge is 1.0, but only clstd and mstde have it"),
        ({"correction": "tdc"}, "correction is tdc, but only cgtd"),
        ({"loss_weight": 0.5}, "loss_weight is 0.5, but only martingale_loss"),
        ({"learning_rate": 0.5, "objective": "clstd"}, "learning_rate is 0.5, but only"),
        ({"auxiliary_rate": 0.0}, "auxiliary_rate is 0.0"),
    ],
)
def test_settings_are_refused_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MartingaleConfig(**kwargs)


@pytest.mark.parametrize(
    ("env_id", "policy", "config", "message"),
    [
        ("OrnsteinUhlenbeck", POLICY, {}, "policy is given, but the environment's actions have 0 numbers"),
        ("LQDiscounted", None, {}, "policy is None, but the environment's actions have 1 numbers"),
        ("LQDiscounted", lambda t, x, z: x, {"temperature": 0.1}, r"the policy has no entropy\(t\)"),
        ("OrnsteinUhlenbeck", None, {"value": "tau_x"}, "this environment's families are quadratic, neural"),
        ("BlackScholesCall", None, {"objective": "clstd"}, "clstd needs a family that is linear"),
        ("OrnsteinUhlenbeck", None, {"objective": "martingale_loss"}, "path_time must be given"),
        ("OrnsteinUhlenbeck", None, {"path_time": 1.0}, "path_time is 1.0; it is for learning offline"),
        ("OrnsteinUhlenbeck", None, {"mode": "offline", "path_time": 0.03}, "path_time is 0.03 and dt 0.02"),
        ("OrnsteinUhlenbeck", None, {"lam": 1.0}, "lam is 1 without a horizon"),
        ("LQErgodic", POLICY, {"objective": "martingale_loss"}, "needs a horizon or a discount"),
        ("OrnsteinUhlenbeck", None, {"dt": 0.5}, "dt is 0.5, and the environment's is 0.02"),
    ],
)
def test_what_does_not_go_together_is_refused(env_id, policy, config, message):
    with pytest.raises(ValueError, match=message):
        make(env_id, 2, policy, **config)


def test_other_environments_are_refused_by_name():
    with pytest.raises(ValueError, match="dt and beta must be given"):
        MartingaleEvaluation(gym.make("Pendulum-v1"), policy=lambda t, x, z: z)
    with pytest.raises(ValueError, match="Box spaces of vectors"):
        MartingaleEvaluation(gym.make("CartPole-v1"), MartingaleConfig(dt=0.1, beta=1.0))
    agent = make("OrnsteinUhlenbeck", 2)
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        agent.value_at(0.0, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="env is missing"):
        MartingaleEvaluation(Spaces(agent.observation_space, agent.action_space))


# What the agents of continuous time share ------------------------


def test_schedules():
    def factor(decay, time):
        return step_factor(MartingaleConfig(decay=decay, decay_time=4.0, decay_power=0.5), time)

    assert factor("constant", 1e9) == 1.0
    assert (factor("log", 0.0), factor("log", 2.0)) == (1.0, 1.0)
    assert factor("log", math.exp(4.0)) == pytest.approx(0.25)
    assert factor("power", 12.0) == pytest.approx(0.5)


def test_the_average_forgets_the_start():
    """eta = 0 is the plain mean; eta = 1 weighs by the number of the step."""
    for eta, weights in ((0.0, np.ones(5)), (1.0, np.arange(1.0, 6.0))):
        ascent = Ascent(torch.zeros(1, dtype=F64), adam=False, averaging=eta)
        path = []
        for _ in range(5):
            ascent.step(torch.ones(1, dtype=F64), 2.0, 0.1)
            path.append(ascent.parameters.item())
        assert path == [2.0, 4.0, 6.0, 8.0, 10.0]
        assert ascent.best.item() == pytest.approx((weights * path).sum() / weights.sum())
    with pytest.raises(ValueError, match=r"shape \(1,\); this agent's are \(2,\)"):
        Ascent(torch.zeros(2), adam=False, averaging=None).load_state_dict(ascent.state_dict())


def test_steps_of_adam_are_per_root_of_time():
    sizes = []
    for interval in (0.01, 0.04):
        ascent = Ascent(torch.zeros(1, dtype=F64), adam=True, averaging=None)
        ascent.step(torch.ones(1, dtype=F64), 0.5, interval)
        sizes.append(ascent.parameters.item())
    assert sizes == pytest.approx([0.05, 0.1], rel=1e-6)


def test_pace():
    agent = make("BrownianSquare", 2, env={"dt": 0.25})
    pace = Pace(agent.task, mode="offline", path_time=None)
    assert [pace.tick() for _ in range(8)] == [False, False, False, True] * 2
    assert (pace.time, pace.interval) == (2.0, 1.0)
    online = Pace(agent.task, mode="online", path_time=None)
    assert online.tick()
    assert online.interval == 0.25
    assert task_of(agent, None, None) == agent.task


# Diffusions and values of one's own ----------------------------------------------------------------------


class MyProcess(DiffusionDynamics):
    """The Ornstein-Uhlenbeck process of the library, by Euler's scheme."""

    value_families = ("quadratic", "neural")

    def __init__(self, dt=0.1, *, T=None, backend=None):
        super().__init__(1, 0, 1, dt=dt, T=T, beta=1.0, x0=0.0, x0_spread=1.0, backend=backend)

    def drift(self, t, x, actions):
        return -x

    def diffuse(self, t, x, actions, z):
        return z

    def reward_rate(self, t, x, actions):
        return -(x[:, 0] ** 2)


class MyValues(LinearFamily):
    def __init__(self):
        self.theta = torch.zeros(3, dtype=F64)

    def features(self, t, x):
        return torch.cat([torch.ones_like(x), x, x * x], 1)

    def named(self, theta):
        return {"level": theta[0], "slope": theta[1], "bend": theta[2]}


@pytest.mark.parametrize("face", ["scalar", "vector", "device"])
def test_a_diffusion_and_values_of_ones_own(face):
    envs = {
        "scalar": lambda: ScalarEnv(MyProcess()),
        "vector": lambda: BatchedEnv(MyProcess(), 4, autoreset_mode="SameStep"),
        "device": lambda: BatchedEnv(MyProcess, 4, backend=TorchBackend("cpu"), autoreset_mode="SameStep"),
    }
    config = MartingaleConfig(objective="clstd")
    given, own = (
        MartingaleEvaluation(envs[face](), config, value=value, device="cpu").learn(400)
        for value in (None, MyValues())
    )
    assert own.value.theta.abs().min() > 0.0
    torch.testing.assert_close(own.value.theta, given.value.theta)
    again = MartingaleEvaluation(envs[face](), config, value=MyValues(), device="cpu")
    again.load_state_dict(own.state_dict())
    assert torch.equal(again.value.theta, own.value.theta)


def test_a_family_that_does_not_suit_says_which_do():
    with pytest.raises(
        ValueError, match="value is 'tau_x'; this environment's families are quadratic, neural"
    ):
        MartingaleEvaluation(ScalarEnv(MyProcess()), MartingaleConfig(value="tau_x"), device="cpu")
    env = ScalarEnv(MyProcess(T=1.0))
    with pytest.raises(
        ValueError, match="'quadratic', which meets no end condition; with a horizon give 'neu"
    ):
        MartingaleEvaluation(env, MartingaleConfig(value="quadratic"), device="cpu")
