"""Actor-critic and q-learning in continuous time: single steps by the formulas, and the policies they
find."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

import prefrl
import prefrl.envs
from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic, ContinuousActorCriticConfig
from prefrl.agents.continuous_time.ascent import Moments
from prefrl.agents.continuous_time.q_learning import (
    ContinuousQLearning,
    ContinuousQLearningConfig,
    QuadraticAdvantage,
)
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.nn.continuous_time.gaussian_policies import AffineGaussian
from prefrl.run.stepping import Stepper

F64 = torch.float64
KINDS = {
    "actor_critic": (ContinuousActorCritic, ContinuousActorCriticConfig),
    "q_learning": (ContinuousQLearning, ContinuousQLearningConfig),
}


def make(kind, env_id="LQErgodic", num_envs=16, env=None, seed=0, **config):
    agent_class, config_class = KINDS[kind]
    envs = prefrl.envs.make_device(f"prefrl/{env_id}-v0", num_envs, float_dtype=F64, **(env or {}))
    return agent_class(envs, config_class(**config), device="cpu", seed=seed)


def one_step(agent, warm=3):
    """Step some times, then once more; return the last step, and the agent as it was before its update."""
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    for _ in range(warm):
        stepper.step()
        agent.update()
    stepper.step()
    step = agent._transitions
    before = {
        name: value.clone()
        for name, value in (
            ("phi", agent.policy.phi),
            ("theta", agent.value.theta),
            ("V", agent.average_reward),
        )
    }
    return step, before


def log_density(phi, x, a):
    """log of N(phi1 x + phi2, e^{phi3}) at a, from the definition."""
    mean = phi[0] * x + phi[1]
    return -0.5 * ((a - mean) ** 2 * torch.exp(-phi[2]) + phi[2] + math.log(2.0 * math.pi))


def parts(agent, step):
    x, y, a = (part[:, 0] for part in (step.obs, step.next_obs, step.actions))
    return x, y, a, step.rewards


# Single steps ----------------------------------------------------


@pytest.mark.parametrize("entropy", ["sampled", "closed_form"])
@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_a_step_of_actor_critic(entropy, beta):
    env_id = "LQDiscounted" if beta else "LQErgodic"
    env = {"dt": 0.1, "beta": beta, "max_episode_steps": None}
    agent = make(
        "actor_critic",
        env_id,
        env=env,
        entropy=entropy,
        temperature=0.3,
        policy_rate=0.4,
        value_rate=0.2,
        decay="constant",
        averaging=None,
    )
    step, before = one_step(agent)
    x, y, a, rewards = parts(agent, step)
    phi, theta = before["phi"].clone().requires_grad_(), before["theta"].clone().requires_grad_()

    def J(z):
        level = theta[0] if beta else 0.0
        return level + theta[-2] * z + theta[-1] * z**2 / 2.0

    log_prob = log_density(phi, x, a)
    closed = 0.5 * (phi[2] + math.log(2.0 * math.pi * math.e))
    p = (-log_prob if entropy == "sampled" else closed.expand_as(x)).detach()
    value = J(x)
    V = before["V"] if not beta else 0.0
    delta = (J(y) - value + rewards + (0.3 * p - beta * value - V) * 0.1).detach()
    (critic,) = torch.autograd.grad((delta * value).mean(), theta)
    objective = (delta * log_prob).mean()
    if entropy == "closed_form":
        objective = objective + 0.3 * 0.1 * closed
    (policy,) = torch.autograd.grad(objective, phi)
    agent.update()
    torch.testing.assert_close(agent.value.theta, before["theta"] + 0.2 * critic)
    torch.testing.assert_close(agent.policy.phi, before["phi"] + 0.4 * policy)
    if not beta:
        torch.testing.assert_close(agent.average_reward, before["V"] + 0.2 * delta.mean())


def test_a_step_of_q_learning_with_a_known_normaliser():
    """q = -1/2 e^{-psi3} (a - psi1 x - psi2)^2 - gamma/2 (log(2 pi gamma) + psi3), the variance gamma
    e^{psi3}."""
    env = {"dt": 0.1, "max_episode_steps": None}
    agent = make(
        "q_learning",
        env=env,
        temperature=0.3,
        policy_rate=0.4,
        value_rate=0.2,
        decay="constant",
        averaging=None,
    )
    assert agent.parameters()["psi3"] == pytest.approx(0.0, abs=1e-12)
    assert agent.policy_parameters()["variance"] == pytest.approx(0.3)
    step, before = one_step(agent)
    x, y, a, rewards = parts(agent, step)
    psi = (before["phi"] - torch.tensor([0.0, 0.0, math.log(0.3)], dtype=F64)).requires_grad_()
    theta = before["theta"].clone().requires_grad_()
    q = -0.5 * torch.exp(-psi[2]) * (a - psi[0] * x - psi[1]) ** 2 - 0.15 * (
        math.log(2 * math.pi * 0.3) + psi[2]
    )
    value, after = (theta[0] * z + theta[1] * z**2 / 2.0 for z in (x, y))
    delta = (after - value + rewards - (q + before["V"]) * 0.1).detach()
    (critic,) = torch.autograd.grad((delta * value).mean(), theta)
    (policy,) = torch.autograd.grad((delta * q).mean(), psi)
    agent.update()
    torch.testing.assert_close(agent.value.theta, before["theta"] + 0.2 * critic)
    found = agent.parameters()
    expected = psi.detach() + 0.4 * policy
    assert [found["psi1"], found["psi2"], found["psi3"]] == pytest.approx(expected.tolist())


def test_the_quadratic_advantage_is_normalised_under_the_policy():
    """int (q - gamma log pi) pi da = 0, by many actions; and its gradient by autograd."""
    policy = AffineGaussian(2, 2, torch.device("cpu"), F64)
    generator = torch.Generator().manual_seed(0)
    policy.phi = torch.randn(8, generator=generator, dtype=F64) * 0.4
    advantage = QuadraticAdvantage(policy, 2, 2, temperature=0.3)
    psi = torch.randn(len(advantage.psi), generator=generator, dtype=F64).requires_grad_()
    advantage.psi = psi
    n = 400_000
    x, t = torch.tensor([[0.7, -1.1]], dtype=F64).expand(n, 2), torch.zeros(n, dtype=F64)
    actions = policy.sample(t, x, torch.randn(n, 2, generator=generator, dtype=F64))
    q, features = advantage.gradient(t, x, actions)
    log_prob, _ = policy.score(t, x, actions)
    assert (q - 0.3 * log_prob).mean().item() == pytest.approx(0.0, abs=0.02)
    (gradient,) = torch.autograd.grad(q[0], psi)
    torch.testing.assert_close(features[0], gradient)


def test_a_step_of_q_learning_with_an_unknown_normaliser():
    env = {"dt": 0.1, "max_episode_steps": None}
    agent = make(
        "q_learning",
        env=env,
        normalizer="unknown",
        temperature=0.3,
        policy_rate=0.4,
        value_rate=0.2,
        decay="constant",
        averaging=None,
    )
    agent._places.window = agent._moments.window = 4
    step, before = one_step(agent, warm=4 * 10)  # 16 chains for a time of 4 tell the features' moments
    moments, places = agent._moments.mean.clone(), agent._places.mean.clone()
    x, y, a, rewards = parts(agent, step)
    psi, phi = agent.advantage.psi.clone().requires_grad_(), before["phi"].clone().requires_grad_()
    mean, variance = phi[0] * x + phi[1], torch.exp(phi[2])

    def q_of(action, m, v):
        centred = psi[0] * (action**2 - m**2 - v) + (psi[1] * x + psi[2]) * (action - m)
        return centred - 0.3 * 0.5 * (torch.log(v) + math.log(2 * math.pi * math.e))

    q = q_of(a, mean.detach(), variance.detach())
    value, after = (before["theta"][0] * z + before["theta"][1] * z**2 / 2.0 for z in (x, y))
    delta = (after - value + rewards - (q + before["V"]) * 0.1).detach()
    place = torch.stack([x, torch.ones_like(x)], 1)
    places = 0.75 * places + 0.25 * place.T @ place / 16
    far = ((place @ torch.linalg.inv(places)) * place).sum(1)
    weight = torch.where(far > 8.0, (8.0 / far) ** 2, 1.0)  # 4 times what it is on average
    (slope,) = torch.autograd.grad((weight * delta * q).mean(), psi, retain_graph=True)
    f = torch.stack([a**2 - mean**2 - variance, (a - mean) * x, a - mean], 1).detach()
    moments = 0.75 * moments + 0.25 * f.T @ (f * weight[:, None]) / 16
    generator = copy.deepcopy(agent._generator.get_state())
    agent.update()
    moved = psi.detach() + 0.25 * 0.2 * torch.linalg.solve(moments, slope)
    torch.testing.assert_close(agent.advantage.psi, moved, rtol=1e-5, atol=1e-8)
    assert (moved - psi.detach()).abs().max() > 1e-4
    redrawn = torch.Generator()
    redrawn.set_state(generator)
    own = (mean + variance.sqrt() * torch.randn(16, 1, generator=redrawn, dtype=F64)[:, 0]).detach()
    psi = psi.detach()  # the policy goes by the q that it acted with
    better = (q_of(own, mean, variance) - 0.3 * log_density(phi, x, own)).detach()
    (policy,) = torch.autograd.grad((better * log_density(phi, x, own)).mean() * 0.1, phi)
    torch.testing.assert_close(agent.policy.phi, before["phi"] + 0.4 * policy)


def test_how_far_out_a_place_is():
    """On average as many as there are features; among places up to 1, one at 30 is far out."""
    agent = make("q_learning", num_envs=64, env={"max_episode_steps": None}, normalizer="unknown")
    x = torch.linspace(-1.0, 1.0, 64, dtype=F64)[:, None]
    places = torch.cat([x, torch.ones_like(x)], 1)
    agent._places.add(places, torch.full((64,), 1 / 64, dtype=F64), torch.ones((), dtype=F64))
    assert agent._places.leverage(places).mean().item() == pytest.approx(2.0)
    assert agent._places.leverage(places).max().item() < 8.0
    assert agent._places.leverage(torch.tensor([[30.0, 1.0]], dtype=F64)).item() > 1_000.0


def test_moments_solve_at_one_pace():
    """Features of size 1 and 1e-3, correlated: after so many steps both parameters are where they belong."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 2, generator=generator, dtype=F64)
    features[:, 1] = 1e-3 * (features[:, 1] + features[:, 0])
    wanted, psi = torch.tensor([0.3, -50.0], dtype=F64), torch.zeros(2, dtype=F64)
    moments = Moments(psi, window=10, warm=2)
    weights, share = torch.full((200,), 1 / 200, dtype=F64), torch.ones((), dtype=F64)
    for k in range(100):
        moments.add(features, weights, share)
        step = moments.solved(features.T @ (features @ (wanted - psi)) / 200)
        assert bool(step.any()) == (k > 0)
        psi = psi + 0.1 * step
    torch.testing.assert_close(psi, wanted, rtol=1e-3, atol=0.0)


def test_traces_and_discounts_of_the_policy():
    """zeta_k = lam^dt zeta_{k-1} + dlog pi_{k-1} dt; with discount_policy by e^{-beta t} on top."""
    env = {"dt": 0.1, "beta": 0.5, "max_episode_steps": None}
    agent = make(
        "actor_critic",
        "LQDiscounted",
        env=env,
        policy_lam=0.4,
        discount_policy=True,
        lam=0.3,
        policy_rate=0.4,
        value_rate=0.2,
        decay="constant",
        averaging=None,
    )
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    zeta, xi = torch.zeros(16, 3, dtype=F64), torch.zeros(16, 3, dtype=F64)
    for k in range(4):
        stepper.step()
        seen = agent._seen(agent._transitions)
        log_prob, score = agent.policy.score(seen.t, seen.x, seen.actions)
        delta = agent._delta(seen, -0.1 * log_prob)
        xi = 0.3**0.1 * xi + seen.gradient * 0.1
        phi = agent.policy.phi + 0.4 * math.exp(-0.5 * 0.1 * k) * (delta[:, None] * (score + zeta)).mean(0)
        theta = agent.value.theta + 0.2 * (delta[:, None] * xi).mean(0)
        zeta = 0.4**0.1 * zeta + score * 0.1
        agent.update()
        torch.testing.assert_close(agent.policy.phi, phi)
        torch.testing.assert_close(agent.value.theta, theta)


def test_the_multiplier_moves_after_every_episode():
    agent = make("actor_critic", "MeanVariance", 8, env={"dt": 0.25, "mu": 0.1}, multiplier_rate=0.5)
    assert agent.w.item() == pytest.approx(1.4), "it starts at z"
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    for k in range(4):
        stepper.step()
        step = agent._transitions
        expected = torch.tensor(1.4, dtype=F64)
        if k == 3:
            wealth = step.next_obs[:, 1]
            expected = expected - 0.5 * (wealth.mean() - 1.4)
            h = -((wealth - 1.4) ** 2)  # of the w that held during the episode
            torch.testing.assert_close(agent._seen(step).next_value, h)
            agent._miss.zero_()  # which looking has added to
        agent.update()
        torch.testing.assert_close(agent.w, expected)
    assert agent.policy.w is agent.value.w is agent.w


@pytest.mark.parametrize("kind", KINDS)
def test_the_natural_step_of_mean_variance_policies(kind):
    """phi += .3 / 4 (price F)^-1 sum of weighted scores times delta: 16 of 64 chains, before any decay."""
    agent = make(kind, "MeanVariance", 16, env={"dt": 0.5, "mu": 0.2}, temperature=0.4, averaging=None)
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    fisher, direction = torch.zeros(3, 3, dtype=F64), torch.zeros(3, dtype=F64)
    before, places = agent.policy.phi.clone(), torch.zeros(2, 2, dtype=F64)
    for k in range(2):
        stepper.step()
        step = agent._transitions
        x = step.obs[:, 1]
        place = torch.stack([x, torch.ones_like(x)], 1)
        places = places + (place.T @ place / 16 - places) / (k + 1)
        ridge = 1e-9 * places.diagonal().mean() * torch.eye(2, dtype=F64)
        weight = 1 / (((place @ torch.linalg.inv(places + ridge)) * place).sum(1) / 8).clamp(min=1) ** 2
        log_prob, score = agent.policy.score(step.obs[:, 0], x[:, None], step.actions)
        (value, _), (after, _) = (
            agent.value.gradient(obs[:, 0], obs[:, 1:]) for obs in (step.obs, step.next_obs)
        )
        after = torch.where(
            step.terminations, agent.task.diffusion.terminal_reward(step.next_obs[:, 1:]), after
        )
        delta = after - value - 0.4 * log_prob * 0.5
        fisher = fisher + (score.T @ (score * weight[:, None]) / 16 - fisher) / (k + 1)
        direction = direction + score.T @ (weight * delta) / 16 * (1.0 if kind == "actor_critic" else 0.4)
        agent.update()
    price = 0.4 if kind == "actor_critic" else 0.16
    ridge = 1e-9 * fisher.diagonal().mean() * torch.eye(3, dtype=F64)
    step = 0.3 / 4 * torch.linalg.solve(fisher + ridge, direction) / price
    divergence = 0.5 * step @ fisher @ step
    step = step * min(1.0, math.sqrt(0.01 / divergence))  # no farther than that
    torch.testing.assert_close(agent.policy.phi, before + step, rtol=1e-4, atol=1e-7)


def test_a_policy_rate_of_ones_own_goes_along_the_plain_gradient():
    agent = make("actor_critic", "MeanVariance", 16, env={"dt": 0.5}, policy_rate=0.1)
    assert agent._fisher is None
    assert make("actor_critic", "MeanVariance", 16, temperature=0.0)._fisher is None
    assert make("actor_critic", "LQErgodic", 16)._fisher is None


def test_what_was_drawn_is_what_is_scored():
    """Where actions are bounded the environment gets them cut, and the score is of what was drawn."""
    env = gym.make_vec("Pendulum-v1", 8, vectorization_mode="sync")
    config = ContinuousActorCriticConfig(dt=0.05, beta=1.0, hidden=(4,))
    agent = ContinuousActorCritic(env, config, device="cpu")
    agent.policy.phi[-1] = 20.0  # a large variance
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    stepper.step()
    sent, drawn = agent._transitions.actions, agent._seen(agent._transitions).actions
    assert sent.abs().max() <= 2.0
    assert drawn.abs().max() > 2.0
    torch.testing.assert_close(sent, drawn.clamp(-2.0, 2.0))
    agent.learn(40)


# Truth -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("actor_critic", {}),
        pytest.param("actor_critic", {"entropy": "closed_form"}, marks=pytest.mark.slow),
        ("q_learning", {}),
        ("q_learning", {"normalizer": "unknown"}),
    ],
)
def test_the_best_policy_of_the_ergodic_problem(kind, settings):
    agent = make(kind, num_envs=2048, env={"max_episode_steps": None}, **settings)
    agent.learn(2048 * 4000)
    found = agent.policy_parameters()
    best = agent.env.unwrapped.true_optimum(0.1)
    assert found["phi1"] == pytest.approx(best.policy.f1.item(), abs=0.06)
    assert found["phi2"] == pytest.approx(best.policy.f2.item(), abs=0.06)
    assert agent.parameters()["V"] == pytest.approx(best.value.V, abs=0.03)
    if settings == {"normalizer": "unknown"}:
        assert math.exp(agent.policy.phi[2]) == pytest.approx(best.policy.v.item(), rel=0.3)


@pytest.mark.slow
def test_q_learning_learns_from_another_policys_actions():
    """Off-policy: the behaviour is N(.3 x + .2, 1), far from the best policy."""
    env = prefrl.envs.make_device("prefrl/LQErgodic-v0", 2048, float_dtype=F64, max_episode_steps=None)
    config = ContinuousQLearningConfig(policy_rate=0.5, value_rate=0.5)
    agent = ContinuousQLearning(env, config, behavior=LinearPolicy(0.3, 0.2, 1.0), device="cpu")
    agent.learn(2048 * 8000)
    found = agent.policy_parameters()
    assert found["phi1"] == pytest.approx(-0.3542, abs=0.06)
    assert found["phi2"] == pytest.approx(-0.7085, abs=0.06)


@pytest.mark.slow
def test_the_mean_variance_policy_invests_more_where_it_is_poorer():
    agent = make("actor_critic", "MeanVariance", 512, env={"mu": 0.16, "dt": 0.05}, multiplier_rate=0.05)
    agent.learn(512 * 20 * 250)
    found = agent.policy_parameters()
    assert found["phi1"] == pytest.approx(3.5, abs=0.5)
    assert found["w"] == pytest.approx(2.033, abs=0.15)
    wealth = agent.env.unwrapped.simulate(
        lambda t, x, z: agent.policy.sample(torch.full((len(x),), float(t), dtype=F64), x, z), 4000
    ).x[-1]
    assert wealth.mean().item() == pytest.approx(1.4, abs=0.1)


# Files and faces -------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("env_id", ["LQErgodic", "LQPlane", "MeanVariance"])
def test_save_load_and_predict(tmp_path, kind, env_id):
    agent = make(kind, env_id, 4, env={"dt": 0.25}).learn(4 * 10)
    agent.save(tmp_path / "agent.pt")
    obs = np.ones((3, *agent.observation_space.shape), np.float32)
    expected, _ = agent.predict(obs, deterministic=True)
    for env in (None, gym.make(f"prefrl/{env_id}-v0", dt=0.25)):
        loaded = type(agent).load(tmp_path / "agent.pt", env)
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
        assert loaded.policy_parameters() == agent.policy_parameters()
    loaded.learn(8)
    assert (loaded.predict(obs)[0] != loaded.predict(obs)[0]).any()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("actor_critic", {"lam": 0.5, "policy_lam": 0.5}),
        ("actor_critic", {"policy": "neural", "value": "neural", "hidden": (4,)}),
        ("q_learning", {"normalizer": "unknown"}),
        ("q_learning", {"mode": "offline", "path_time": 0.35}),
    ],
)
def test_a_resumed_run_is_the_same_run(tmp_path, kind, settings):
    def agent():
        return make(kind, "LQErgodic", 4, **settings)

    whole = agent().learn(4 * 30)
    half, state = agent(), None
    stepper = Stepper.of_agent(half)
    stepper.reset()
    for _ in range(13):
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
    for name in ("phi", "theta"):
        left, right = (getattr(a.policy if name == "phi" else a.value, name) for a in (again, whole))
        assert torch.equal(left, right)


def test_sb3_evaluates_it():
    agent = make("actor_critic", "MeanVariance", 4, env={"dt": 0.25}).learn(16)
    mean, _ = evaluate_policy(
        agent, gym.make("prefrl/MeanVariance-v0", dt=0.25), n_eval_episodes=3, warn=False
    )
    assert math.isfinite(mean)


def test_a_network_steers_and_learns():
    agent = make(
        "actor_critic",
        "LQErgodic",
        256,
        env={"max_episode_steps": None},
        policy="neural",
        value="neural",
        hidden=(16,),
    )
    agent.learn(256 * 900)
    assert agent.policy_parameters() == {}
    action = agent.predict(np.zeros((1, 1), np.float32), deterministic=True)[0].item()
    assert action == pytest.approx(-0.7085, abs=0.25)
    assert set(agent.parameters()) == {"V"}


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        ("actor_critic", {"entropy": "none"}, "entropy is 'none'"),
        ("actor_critic", {"policy_lam": 0.0}, "policy_lam is 0.0"),
        ("actor_critic", {"temperature": -1.0}, "temperature is -1.0"),
        ("actor_critic", {"policy": "cubic"}, "policy is 'cubic'"),
        ("actor_critic", {"lam": 2.0}, "lam is 2.0"),
        ("actor_critic", {"policy_rate": 0.0}, "policy_rate is 0.0"),
        ("actor_critic", {"hidden": (0,)}, r"hidden\[0\] is 0"),
        ("q_learning", {"normalizer": "half"}, "normalizer is 'half'"),
        ("q_learning", {"temperature": 0.0}, "temperature is 0"),
    ],
)
def test_settings_are_refused_by_name(kind, kwargs, message):
    with pytest.raises(ValueError, match=message):
        KINDS[kind][1](**kwargs)


@pytest.mark.parametrize(
    ("kind", "env_id", "kwargs", "message"),
    [
        ("actor_critic", "OrnsteinUhlenbeck", {}, "nobody steers this diffusion"),
        ("actor_critic", "LQErgodic", {"policy": "mean_variance"}, "mean_variance is for"),
        ("actor_critic", "MeanVariance", {"policy": "affine"}, "affine for problems without a horizon"),
        ("actor_critic", "LQErgodic", {"multiplier_rate": 0.1}, "the task has no multiplier"),
        ("actor_critic", "LQErgodic", {"mode": "offline"}, "path_time must be given"),
        ("actor_critic", "LQErgodic", {"discount_policy": True}, "beta is 0"),
        ("actor_critic", "LQErgodic", {"policy_lam": 1.0}, "lam is 1 without a horizon"),
        ("q_learning", "MeanVariance", {"normalizer": "unknown"}, "affine policies only"),
    ],
)
def test_what_does_not_go_together_is_refused(kind, env_id, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(kind, env_id, 2, **kwargs)


def test_offline_moves_nothing_within_a_path():
    """Policy, critic, q and average reward move together, once a path."""
    agent = make(
        "q_learning", env={"max_episode_steps": None}, mode="offline", path_time=0.25, normalizer="unknown"
    )
    agent._moments.warm = 1  # psi need not wait
    vectors = (agent.policy.phi, agent.value.theta, agent.advantage.psi, agent.average_reward)
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    for k in range(1, 11):
        before = [vector.clone() for vector in vectors]
        stepper.step()
        agent.update()
        moved = [bool((vector != kept).any()) for vector, kept in zip(vectors, before, strict=True)]
        assert moved == [k % 5 == 0] * 4


def test_traces_end_with_paths():
    agent = make(
        "actor_critic",
        env={"max_episode_steps": None},
        mode="offline",
        path_time=0.25,
        lam=1.0,
        policy_lam=1.0,
    )
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    for k in range(1, 6):
        stepper.step()
        agent.update()
        if k > 1:  # at x = 0 gradients are 0
            assert bool(agent._trace.any()) == bool(agent._policy_trace.any()) == (k < 5)


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_few_chains_do_not_blow_up(kind, num_envs):
    agent = make(kind, num_envs=num_envs, env={"max_episode_steps": None}).learn(num_envs * 2000)
    assert abs(agent.policy_parameters()["phi1"]) < 1.0


def test_a_run_that_blows_up_says_what_may_help():
    agent = make("actor_critic", num_envs=4, env={"max_episode_steps": None}, policy_rate=1e3, value_rate=1e3)
    with pytest.raises(
        FloatingPointError, match="a lower policy_rate and value_rate or more environments may help"
    ):
        agent.learn(4 * 2000)


def test_the_public_names():
    assert prefrl.ContinuousActorCritic is ContinuousActorCritic
    assert prefrl.ContinuousQLearning is ContinuousQLearning
