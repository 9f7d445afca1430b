"""Diffusions: transitions, rewards, arguments, paths on a device, and the closed forms of single families."""

import copy
import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

import prefrl.envs
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.diffusions.brownian_square import BrownianSquareDynamics
from prefrl.envs.diffusions.dynamics import DiffusionDynamics, diffusion_from_json
from prefrl.envs.diffusions.linear_quadratic import LQErgodicDynamics
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.envs.wrappers import DiscreteTimeTask

IDS = prefrl.envs.DIFFUSION_IDS
CONTROLLED = [i for i in IDS if "LQ" in i or "MeanVariance" in i]


def make(env_id, **kwargs):
    return gym.make(env_id, **kwargs).unwrapped


def policy_of(env):
    m = env.diffusion.action_dim
    return None if m == 0 else lambda t, x, z: -0.3 * x[:, :m] + 0.5 + 0.2 * z


# Steps -----------------------------------------------------------


def test_a_step_pays_the_rate_at_its_start_and_h_at_the_horizon():
    env = gym.make("prefrl/OrnsteinUhlenbeck-v0", k=2.0, q=3.0, beta=0.5, dt=0.1, x0=1.5)
    obs, info = env.reset(seed=0)
    assert obs == np.float32(1.5)
    assert info == {
        "t": 0.0,
        "dt": 0.1,
        "discount": math.exp(-0.05),
        "reward_rate": 0.0,
        "terminal_reward": 0.0,
    }
    _, reward, terminated, _, info = env.step(0)
    assert reward == pytest.approx(-3.0 * 1.5**2 * 0.1, abs=1e-12)
    assert info["reward_rate"] == pytest.approx(-3.0 * 1.5**2, abs=1e-12)
    assert (info["t"], terminated) == (0.1, False)

    env = gym.make("prefrl/BlackScholesCall-v0", K=0.5, dt=0.5)
    env.reset(seed=0)
    obs, reward, terminated, _, info = env.step(0)
    assert (reward, terminated, info["terminal_reward"], obs[0]) == (0.0, False, 0.0, 0.5)
    obs, reward, terminated, _, info = env.step(0)
    assert terminated
    assert obs[0] == 1.0
    assert reward == info["terminal_reward"] == pytest.approx(max(obs[1] - 0.5, 0.0), abs=1e-6)


def test_the_reward_rate_of_linear_quadratic_control_by_hand():
    args = {
        "M": [[2.0, 1.0], [1.0, 4.0]],
        "N": 3.0,
        "R": [[0.5, -1.0]],
        "P": [1.0, 2.0],
        "Q": [0.25],
        "dt": 0.1,
    }
    env = make("prefrl/LQPlane-v0", **args)
    env.reset(options={"x": [1.0, -2.0]})
    _, reward, *_ = env.step(np.float32([2.0]))
    # 1/2 (2 - 4 + 16) + 2 (.5 + 2) + 1/2 3 4 + (1 - 4) + .5
    assert reward == pytest.approx(-0.1 * (7.0 + 5.0 + 6.0 - 3.0 + 0.5), abs=1e-9)


@pytest.mark.parametrize("env_id", IDS)
def test_exact_and_fine_euler_transitions_have_the_same_moments(env_id):
    """Over one long step, from one place, with one action held."""
    args = {"dt": 0.5} if env_id != "prefrl/LQPlane-v0" else {"dt": 0.1}
    if env_id == "prefrl/OrnsteinUhlenbeck-v0":
        args["x0"] = 0.7
    exact = make(env_id, **args)
    if env_id == "prefrl/LQPlane-v0":
        assert not exact.diffusion.exact
        with pytest.raises(ValueError, match="exact transitions"):
            make(env_id, scheme="exact")
        return
    assert exact.diffusion.scheme == "exact"
    euler = make(env_id, scheme="euler", substeps=200, **args)
    moments = []
    for env in (exact, euler):
        x = env.simulate(policy_of(env) and (lambda t, x, z: 0.8 + 0.0 * x), 40_000, 1, seed=1).x[-1, :, 0]
        moments.append((x.mean().item(), x.std().item()))
    np.testing.assert_allclose(moments[0], moments[1], atol=0.02)


def test_multiplied_noise_by_hand():
    """dX = (A X + B a) dt + sum_j (C_j X + D_j a + s_j) dW_j, one Euler step with known noise."""
    args = {
        "A": [[0.1, 0.2], [0.3, 0.4]],
        "B": [[1.0], [2.0]],
        "C": [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, 0.0]]],
        "D": [[[0.5], [0.0]], [[0.0], [1.0]]],
        "sigma": [[0.0, 0.1], [0.2, 0.0]],
        "dt": 0.25,
    }
    dynamics = make("prefrl/LQPlane-v0", **args).dynamics
    x, a, z = np.array([[1.0, -1.0]]), np.array([[2.0]]), np.array([[[1.0, -2.0]]])
    drift = np.array([0.1 - 0.2 + 2.0, 0.3 - 0.4 + 4.0])
    first = np.array([1.0 + 1.0, -1.0 + 0.1])  # C_1 x + D_1 a + s_1
    second = np.array([-2.0 + 0.2, 2.0])
    expected = x[0] + drift * 0.25 + (first - 2.0 * second) * 0.5
    np.testing.assert_allclose(dynamics.advance(0.0, x, a, z)[0], expected, atol=1e-12)


def test_a_user_writes_a_diffusion_of_their_own():
    class Drifting(DiffusionDynamics):
        def __init__(self, backend=None):
            super().__init__(1, 1, 1, dt=0.5, T=1.0, beta=0.0, x0=0.0, backend=backend)

        def drift(self, t, x, actions):
            return t + actions

        def diffuse(self, t, x, actions, z):
            return 0.0 * z

    env = ScalarEnv(Drifting)
    paths = env.simulate(lambda t, x, z: x * 0.0 + 1.0, 3)
    np.testing.assert_allclose(paths.x[:, 0, 0].numpy(), [0.0, 0.5, 1.25])  # t is 0, then .5
    env.reset(seed=0)
    assert [round(float(env.step(np.float32([1.0]))[0][1]), 6) for _ in range(2)] == [0.5, 1.25]
    assert env.diffusion_to_json() == ""


# Paths -----------------------------------------------------------


@pytest.mark.parametrize("env_id", IDS)
def test_paths_are_those_of_the_scalar_face(env_id):
    """What simulate says of rewards and ends is what stepping from the same states says."""
    env = make(env_id, dt=0.25)
    steps = env.diffusion.num_steps or 5
    paths = env.simulate(policy_of(env), 4, steps, seed=3)
    d, m = env.diffusion.dim, env.diffusion.action_dim
    shapes = [(steps + 1,), (steps + 1, 4, d), (steps, 4, m), (steps, 4), (4,)]
    assert [tuple(part.shape) for part in paths] == shapes
    np.testing.assert_allclose(paths.t.numpy(), 0.25 * np.arange(steps + 1))
    for row in range(4):
        env.reset(options={"x": paths.x[-2, row].tolist()})
        if env.diffusion.num_steps:
            env._state["k"][:] = steps - 1
        env._state["x"][:] = paths.x[-2, row].numpy()
        action = np.float32(paths.actions[-1, row].numpy()) if m else 0
        *_, info = env.step(action)
        assert info["reward_rate"] == pytest.approx(paths.reward_rates[-1, row].item(), rel=1e-5, abs=1e-7)
    terminal = env.diffusion.terminal_reward(paths.x[-1].numpy()) if env.diffusion.num_steps else np.zeros(4)
    np.testing.assert_allclose(paths.terminal_rewards.numpy(), terminal)


def test_paths_repeat_with_seed_or_generator():
    env = make("prefrl/OrnsteinUhlenbeck-v0")
    one, two = env.simulate(None, 3, 4, seed=5), env.simulate(None, 3, 4, seed=5)
    assert torch.equal(one.x, two.x)
    assert not torch.equal(one.x, env.simulate(None, 3, 4, seed=6).x)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(env.simulate(None, 3, 4, generator=generator).x, one.x)
    assert env.simulate(None, 3, 4, float_dtype=torch.float32).x.dtype is torch.float32
    assert (env.simulate(None, 3, 4, x0=[2.0]).x[0] == 2.0).all()
    assert torch.equal(env.simulate(None, 3, 4, x0=one.x[-1]).x[0], one.x[-1])
    with pytest.raises(ValueError, match="not finite"):
        env.simulate(None, 3, 4, x0=[math.nan])
    with pytest.raises(ValueError, match=r"x0 has shape \(2, 1\)"):
        env.simulate(None, 3, 4, x0=[[1.0], [2.0]])


def test_paths_are_refused_where_they_make_no_sense():
    uncontrolled, controlled = make("prefrl/OrnsteinUhlenbeck-v0"), make("prefrl/LQErgodic-v0")
    with pytest.raises(ValueError, match="steps is None; without a horizon"):
        uncontrolled.simulate(None, 3)
    with pytest.raises(ValueError, match=r"policy is given.*0 numbers"):
        uncontrolled.simulate(lambda t, x, z: x, 3, 2)
    with pytest.raises(ValueError, match=r"policy is None.*1 numbers"):
        controlled.simulate(None, 3, 2)
    with pytest.raises(ValueError, match="steps is 101; the horizon is 100"):
        make("prefrl/BrownianSquare-v0").simulate(None, 3, 101)
    with pytest.raises(ValueError, match="n_paths is 0"):
        uncontrolled.simulate(None, 0, 2)


# Arguments -------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("OrnsteinUhlenbeck", {"dt": 0.0}, "dt is 0.0; it must lie in"),
        ("OrnsteinUhlenbeck", {"beta": -1.0}, "beta is -1.0"),
        ("OrnsteinUhlenbeck", {"k": -0.5, "x0": 0.0}, "beta is 1; it must exceed -2 k = 1"),
        ("OrnsteinUhlenbeck", {"k": -0.2}, "k is -0.2; without a stationary distribution"),
        ("OrnsteinUhlenbeck", {"k": float("nan")}, "k is nan"),
        ("OrnsteinUhlenbeck", {"sigma": 0.0}, "sigma is 0.0"),
        ("OrnsteinUhlenbeck", {"x0_spread": 1.0}, "x0_spread is 1.0, but starts"),
        ("OrnsteinUhlenbeck", {"substeps": 2}, "substeps is 2, but exact"),
        ("OrnsteinUhlenbeck", {"scheme": "milstein"}, "scheme is 'milstein'"),
        ("BrownianSquare", {"T": 1.0, "dt": 0.3}, "whole number of steps"),
        ("BrownianSquare", {"T": 1.0, "dt": 1e-6}, "more than 100000"),
        ("BrownianSquare", {"x0": [1.0, 2.0]}, r"x0 has shape \(2,\)"),
        ("BrownianSquare", {"x0": "left"}, "x0 is 'left'; it must hold numbers"),
        ("BlackScholesCall", {"K": -1.0}, "K is -1.0"),
        ("BlackScholesCall", {"S0": 0.5, "x0_spread": 0.5}, "a stock starts above 0"),
        ("MeanVariance", {"mu": 0.02, "r": 0.02}, "no multiplier reaches z"),
        ("MeanVariance", {"mu": 10.0, "sigma": 0.1}, "must not exceed 500"),
        ("LQErgodic", {"A": 0.5}, "beta = 0: the Riccati equation has no stabilising root"),
        ("LQDiscounted", {"beta": 0.0}, "take prefrl/LQErgodic-v0"),
        ("LQErgodic", {"beta": 1.0}, "take prefrl/LQDiscounted-v0"),
        ("LQDiscounted", {"A": float("inf")}, "A is inf; its numbers must be finite"),
        ("LQDiscounted", {"M": [[1.0, 2.0]]}, r"M has shape \(1, 2\)"),
        ("LQPlane", {"M": [[1.0, 2.0], [0.0, 1.0]]}, "must be symmetric"),
        ("LQPlane", {"B": [[1.0]]}, r"B has shape \(1, 1\)"),
    ],
)
def test_arguments_are_refused_by_name(env_id, kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make(f"prefrl/{env_id}-v0", **kwargs)


def test_start_options():
    env = make("prefrl/LQPlane-v0", x0=[1.0, 2.0], x0_spread=0.5)
    starts = np.array([env.reset(seed=s)[0] for s in range(200)])
    assert (abs(starts - [1.0, 2.0]) <= 0.5).all()
    assert starts.std(0).min() > 0.2
    assert env.reset(options={"x": [3.0, 4.0]})[0].tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        env.reset(options={"x": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="unknown"):
        env.reset(options={"y": 1.0})


@pytest.mark.parametrize("env_id", IDS)
def test_a_diffusion_goes_through_json(env_id):
    kwargs = {"dt": 0.25}
    for env in (make(env_id, **kwargs), gym.make_vec(env_id, 2, **kwargs)):
        text = env.diffusion_to_json()
        again = diffusion_from_json(text)
        assert type(again) is type(env.diffusion)
        assert again.dt == 0.25
    for broken in ("", "{}", json.dumps({"env_id": "prefrl/Delivery-v0", "settings": {}})):
        with pytest.raises(ValueError, match="diffusion"):
            diffusion_from_json(broken)


def test_a_diffusion_made_by_hand_keeps_its_settings():
    made = LQErgodicDynamics(A=-2.0, dt=0.1)
    assert json.loads(made.diffusion_to_json())["settings"] == {"A": -2.0, "dt": 0.1}
    brownian = BrownianSquareDynamics(3.0, 0.5, dt=0.25, backend=TorchBackend("cpu"))
    settings = json.loads(brownian.diffusion_to_json())["settings"]
    assert settings == {"x0": 3.0, "T": 0.5, "dt": 0.25}, "by place or by name, but for where its arrays live"
    for diffusion in (brownian, copy.deepcopy(brownian)):
        assert diffusion.simulate(None, 2).x[:, :, 0].shape == (3, 2)
        assert (diffusion.simulate(None, 2).x[0] == 3.0).all()


# Single families -------------------------------------------------


def residual(face, t, x, *, drift, diffusion, rate=0.0, h=1e-3, **known):
    """dJ/dt + b J' + 1/2 s^2 J'' + r - beta J by differences."""

    def J(t, x):
        return float(face.true_value(t, x, **known))

    dt = (J(t + h, x) - J(t - h, x)) / (2.0 * h)
    dx = (J(t, x + h) - J(t, x - h)) / (2.0 * h)
    dxx = (J(t, x + h) - 2.0 * J(t, x) + J(t, x - h)) / h**2
    return dt + drift * dx + 0.5 * diffusion**2 * dxx + rate - face.diffusion.beta * J(t, x)


@pytest.mark.parametrize("x", [-1.3, 0.4, 2.0])
def test_values_obey_their_equations(x):
    face = make("prefrl/OrnsteinUhlenbeck-v0", k=0.7, sigma=1.3, beta=0.4, q=2.0)
    assert abs(residual(face, 1.0, x, drift=-0.7 * x, diffusion=1.3, rate=-2.0 * x**2)) < 1e-6
    face = make("prefrl/BrownianSquare-v0", T=2.0, dt=0.5)
    assert abs(residual(face, 0.5, x, drift=0.0, diffusion=1.0)) < 1e-6
    stock = 1.0 + x / 4.0
    face = make("prefrl/BlackScholesCall-v0", b=0.1, s0=0.35, K=1.1, T=2.0, dt=0.5)
    assert abs(residual(face, 0.5, stock, drift=0.1 * stock, diffusion=0.35 * stock)) < 1e-5


def test_ornstein_uhlenbeck_parameters():
    face = make("prefrl/OrnsteinUhlenbeck-v0")
    assert face.true_parameters() == {"c0": -1 / 3, "c1": 0.0, "c2": -1 / 3}
    assert face.true_parameters("neural") is None
    ergodic = make("prefrl/OrnsteinUhlenbeck-v0", beta=0.0, k=2.0, sigma=3.0, q=0.5)
    assert ergodic.true_parameters() == {"V": -0.125 * 9.0, "c1": 0.0, "c2": -0.125}
    paths = ergodic.simulate(None, 20_000, 1, seed=0)
    assert paths.reward_rates.mean().item() == pytest.approx(-1.125, abs=0.03)
    assert float(face.true_value(0.0, 2.0)) == pytest.approx(-1 / 3 - 4 / 3)


def test_call_prices():
    for strike, price in ((0.9, 0.166994), (1.0, 0.104506), (1.1, 0.060401), (1.2, 0.032475)):
        face = make("prefrl/BlackScholesCall-v0", K=strike)
        assert float(face.true_value(0.0, 1.0)) == pytest.approx(price, abs=5e-7)
    assert face.true_value(1.0, [1.0, 1.5]).tolist() == [0.0, pytest.approx(0.3)]
    assert face.true_parameters() == {"theta": 0.2}
    assert np.isnan(face.true_value(float("nan"), 1.0))
    with pytest.raises(ValueError, match="a stock's price is above 0"):
        face.true_value(0.0, [1.0, 0.0])
    with pytest.raises(ValueError, match="a stock starts above 0"):
        face.reset(options={"x": -1.0})
    paths = face.simulate(None, 200_000, seed=0)
    discounted = math.exp(-0.05) * paths.terminal_rewards.mean().item()
    assert discounted == pytest.approx(0.032475, abs=0.001)


def test_mean_variance_optimum():
    face = make("prefrl/MeanVariance-v0")
    best = face.true_optimum(0.1)
    assert face.dynamics.w == pytest.approx(1.4655810052, abs=1e-9)
    assert (best.policy.phi1, best.policy.phi2, best.policy.phi3) == pytest.approx(
        (7.0, 0.2231435513, 1.96), abs=1e-9
    )
    assert best.theta == pytest.approx((0.2010510309, -0.049, 1.96), abs=1e-9)
    assert best.variance == pytest.approx(0.0762324021, abs=1e-9)
    assert best.variance - best.exploration_variance == pytest.approx(0.0262324021, abs=1e-9)
    assert best.mean == pytest.approx(1.4, abs=1e-12)
    for z, x0, T in ((1.1, 1.0, 0.5), (2.0, 1.5, 2.0)):  # the textbook form of the variance
        face = make("prefrl/MeanVariance-v0", mu=0.1, z=z, x0=x0, T=T, dt=T / 10)
        best = face.true_optimum(0.2)
        growth = math.expm1(0.16 * T)
        assert best.variance == pytest.approx((z - x0) ** 2 / growth + 0.2 * T / 2, abs=1e-9)


def test_mean_variance_value_obeys_its_equation_and_its_paths():
    """HJB: dJ/dt + max over policies; the best one is Gaussian, so plug it in."""
    lam = 0.1
    face = make("prefrl/MeanVariance-v0", mu=0.1, dt=0.02)
    best, h = face.true_optimum(lam), 1e-3
    for t, x in ((0.3, 1.0), (0.7, 2.5)):
        mean = -best.policy.phi1 * (x - best.policy.w)
        second = mean**2 + math.exp(best.policy.phi2 + best.policy.phi3 * (1.0 - t))
        entropy = lam * best.policy.entropy(t)
        # b = a (mu - r) and s^2 = a^2 sigma^2, in the mean over actions
        found = residual(face, t, x, drift=0.08 * mean, diffusion=0.2 * math.sqrt(second), rate=entropy, h=h)
        assert abs(found) < 1e-5
    spread = make("prefrl/MeanVariance-v0", mu=0.1, dt=0.02, x0_spread=0.5)
    wealth = spread.simulate(spread.true_optimum(lam).policy, 100_000, seed=0).x[-1, :, 0]
    assert wealth.var().item() == pytest.approx(spread.true_optimum(lam).variance, rel=0.04)
    assert spread.true_optimum(lam).variance - best.variance == pytest.approx(0.25 / 3.0 * math.exp(-0.16))
    wealth = face.simulate(best.policy, 40_000, seed=0).x[-1, :, 0]
    assert wealth.mean().item() == pytest.approx(1.4, abs=0.02)
    assert wealth.var().item() == pytest.approx(0.9721, rel=0.04)
    at_end = face.true_value(1.0, [1.0, 2.0])
    np.testing.assert_allclose(at_end, face.dynamics.terminal_reward(np.array([[1.0], [2.0]])), atol=1e-12)


# The bridge to ordinary agents -----------------------------------


def test_discrete_time_task_scales_actions_and_rewards():
    plain = gym.make("prefrl/LQDiscounted-v0", dt=0.1, beta=2.0)
    for reward in ("increment", "rate"):
        task = DiscreteTimeTask(
            gym.make("prefrl/LQDiscounted-v0", dt=0.1, beta=2.0), 4.0, reward, episode_time=0.3
        )
        assert task.gamma == pytest.approx(math.exp(-0.2))
        assert task.action_space == gym.spaces.Box(-1.0, 1.0, (1,))
        plain.reset(seed=3)
        task.reset(seed=3)
        ends = []
        for action in (0.5, -1.0, 0.25):
            expected = plain.step(np.float32([4.0 * action]))
            obs, paid, terminated, truncated, info = task.step(np.float32([action]))
            np.testing.assert_array_equal(obs, expected[0])
            assert paid == pytest.approx(expected[1] / (0.1 if reward == "rate" else 1.0))
            assert info["reward_rate"] == pytest.approx(expected[1] / 0.1)
            ends.append((terminated, truncated))
        assert ends == [(False, False), (False, False), (False, True)]
        with pytest.raises(ValueError, match="action is"):
            task.step(np.float32([1.5]))
    assert DiscreteTimeTask(ScalarEnv(LQErgodicDynamics, dt=0.1), beta=1.0).gamma == pytest.approx(
        math.exp(-0.1)
    )


def test_a_terminal_reward_counts_as_it_is():
    for reward in ("increment", "rate"):
        task = DiscreteTimeTask(gym.make("prefrl/MeanVariance-v0", dt=0.5), reward=reward)
        task.reset(seed=0)
        assert task.step(np.float32([0.5]))[1] == 0.0
        _, paid, terminated, _, info = task.step(np.float32([0.5]))
        assert terminated
        assert paid == info["terminal_reward"] != 0.0


def test_discrete_time_task_refuses_by_name():
    env = gym.make("prefrl/LQDiscounted-v0")
    for kwargs, message in (
        ({"action_bound": 0.0}, "action_bound"),
        ({"reward": "sum"}, "reward is 'sum'"),
        ({"episode_time": -1.0}, "episode_time"),
        ({"beta": -1.0}, "beta is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            DiscreteTimeTask(env, **kwargs)
    with pytest.raises(ValueError, match=r"the horizon is 1\.0"):
        DiscreteTimeTask(gym.make("prefrl/MeanVariance-v0"), episode_time=1.0)
    for env_id in ("prefrl/OrnsteinUhlenbeck-v0", "prefrl/Pendulum-v0"):
        with pytest.raises(TypeError, match="diffusions with actions"):
            DiscreteTimeTask(gym.make(env_id))


def test_sb3_trains_on_a_diffusion():
    task = DiscreteTimeTask(gym.make("prefrl/MeanVariance-v0", dt=0.1))
    model = SAC("MlpPolicy", task, gamma=task.gamma, learning_starts=20, seed=0).learn(40)
    assert model.predict(task.reset(seed=0)[0])[0].shape == (1,)


def test_linear_policies_are_refused_by_name():
    for args, message in (
        (([[1.0, 2.0]], [1.0, 2.0], 1.0), "must be"),
        ((1.0, 1.0, -1.0), "positive semidefinite"),
        ((float("nan"), 1.0, 1.0), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            LinearPolicy(*args)
