"""Baselines of online allocation: greedy, static prices, re-solving, PID."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents.allocation.baselines import AllocationBaseline, AllocationBaselineConfig
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent
from prefrl.run.outcomes.allocation import allocation_outcome

SECRETARY, REVENUE = "prefrl/MultiSecretary-v0", "prefrl/NetworkRevenue-v0"
FAMILIES = prefrl.envs.ALLOCATION_IDS


def run(kind, env_id=SECRETARY, horizon=1000, n=50, *, seed=0, config=None, **settings):
    env = prefrl.envs.make_device(env_id, n, horizon=horizon, float_dtype=torch.float64, **settings)
    agent = AllocationBaseline(
        env, AllocationBaselineConfig(kind=kind, **(config or {})), device="cpu", seed=seed
    )
    agent.learn(n * agent.pricing.allocation.horizon)
    return allocation_outcome(agent, env), agent


def test_greedy_takes_whatever_comes():
    outcome, agent = run("greedy", horizon=100, n=5)
    requests = agent.get_env().requests()
    np.testing.assert_allclose(outcome.rewards, requests[:50, :, 0].sum(0))
    assert not outcome.price.any()


def test_static_prices_are_a_threshold():
    outcome, agent = run("static", horizon=100, n=5)
    requests = agent.get_env().requests()[:, :, 0]
    for row in range(5):
        taken = requests[requests[:, row] > 0.5, row][:50]
        assert outcome.rewards[row] == pytest.approx(taken.sum())
    assert (outcome.price == 0.5).all()


def test_resolving_is_a_threshold_on_what_is_left():
    outcome, agent = run("resolving", horizon=100, n=5)
    requests = agent.get_env().requests()[:, :, 0]
    for row in range(5):
        left, total = 50, 0.0
        for t, ability in enumerate(requests[:, row]):
            if left and ability > 1.0 - left / (100 - t):
                left, total = left - 1, total + ability
        assert outcome.rewards[row] == pytest.approx(total)


@pytest.mark.slow
def test_resolving_beats_what_does_not_know_the_distribution():
    dmd_env = prefrl.envs.make_device(SECRETARY, 50, horizon=1000, float_dtype=torch.float64)
    dmd = DualMirrorDescent(dmd_env, device="cpu")
    dmd.learn(50 * 1000)
    regret = {kind: run(kind)[0].regret.mean() for kind in ("greedy", "static", "resolving", "pid")}
    regret["dmd"] = allocation_outcome(dmd, dmd_env).regret.mean()
    assert regret["resolving"] < min(regret["static"], regret["dmd"])
    assert max(regret["static"], regret["dmd"]) < regret["greedy"]
    assert regret["resolving"] < 1.0
    assert regret["pid"] == pytest.approx(regret["dmd"], rel=0.2)


def test_pid_with_integral_gain_alone_is_mirror_descent():
    config = {"proportional_gain": 0.0, "integral_gain": 1.0}
    outcome, _ = run("pid", horizon=200, n=4, config=config)
    env = prefrl.envs.make_device(SECRETARY, 4, horizon=200, float_dtype=torch.float64)
    dmd = DualMirrorDescent(env, device="cpu")
    dmd.learn(800)
    np.testing.assert_allclose(allocation_outcome(dmd, env).price, outcome.price, atol=1e-12)


def test_pid_by_hand():
    config = AllocationBaselineConfig(
        kind="pid", proportional_gain=2.0, integral_gain=3.0, derivative_gain=0.5, step_scale=2.0
    )
    agent = AllocationBaseline(gym.make(SECRETARY, horizon=4), config, device="cpu")
    rule = agent.pricing.streams.rule
    mu, memory = np.array([1.0]), np.zeros((2, 1))
    mu, memory = rule.next_price(mu, np.array([1.0]), 1, None, memory)  # e = .5, eta = 1
    assert mu[0] == pytest.approx(1.0 + 3.0 * 0.5 + 2.0 * 0.5 + 0.5 * 0.5)
    mu, memory = rule.next_price(mu, np.array([0.0]), 2, None, memory)  # e = -.5, before .5
    assert mu[0] == pytest.approx(max(3.75 - 3.0 * 0.5 - 2.0 * 1.0 + 0.5 * (-0.5 - 1.0), 0.0))
    assert memory.tolist() == [[-0.5], [0.5]]


@pytest.mark.parametrize("kind", ["greedy", "static", "resolving", "pid"])
@pytest.mark.parametrize("env_id", FAMILIES)
def test_every_baseline_serves_every_family(env_id, kind):
    """In the loop and by hand; the account is the environment's."""
    outcome, agent = run(kind, env_id, horizon=60, n=2)
    assert (outcome.spent <= outcome.budget).all()
    assert (outcome.rewards > 0.0).all()
    scalar = gym.make(env_id, horizon=60)
    agent = AllocationBaseline(scalar, AllocationBaselineConfig(kind=kind), device="cpu")
    obs, _ = scalar.reset(seed=0)
    total, terminated = 0.0, False
    while not terminated:
        action, _ = agent.predict(obs)
        obs, reward, terminated, *_ = scalar.step(action)
        total += reward
    assert total > 0.3 * outcome.rewards.mean()


@pytest.mark.parametrize("kind", ["greedy", "static", "resolving", "pid"])
@pytest.mark.parametrize("env_id", [SECRETARY, "prefrl/NetworkRevenue-v0"])
def test_a_baseline_earns_the_same_on_every_face(env_id, kind):
    faces = {
        "scalar": gym.make(env_id, horizon=20),
        "vector": gym.make_vec(env_id, 1, horizon=20, autoreset_mode="SameStep"),
        "device": prefrl.envs.make_device(env_id, 1, horizon=20),
    }
    prices = {}
    for face, env in faces.items():
        config = AllocationBaselineConfig(kind=kind)
        agent = AllocationBaseline(env, config, device="cpu")
        prices[face] = agent.learn(20).result()["final_dual"]
    assert all(np.isfinite(price).all() for price in prices.values())
    np.testing.assert_allclose(prices["scalar"], prices["vector"])


def test_resolving_several_resources_is_done_now_and_then():
    outcome, agent = run("resolving", REVENUE, horizon=60, n=2, m=2, d=3, config={"resolve_every": 20})
    rule = agent.pricing.streams.rule
    assert rule.every == 20
    default = AllocationBaseline(agent.get_env(), AllocationBaselineConfig(kind="resolving"), device="cpu")
    assert default.pricing.streams.rule.every == 3, "a 20th of the horizon"
    calls = []
    original = rule.fluid_price
    rule.fluid_price = lambda rates: calls.append(len(rates)) or original(rates)
    agent.learn(2 * 60)
    assert calls == [2, 2, 2]
    assert (outcome.regret / outcome.hindsight < 0.2).all()


def test_a_baseline_is_saved_and_goes_on(tmp_path):
    env = gym.make(SECRETARY, horizon=50)
    agent = AllocationBaseline(env, AllocationBaselineConfig(kind="pid"), device="cpu")
    obs, _ = env.reset(seed=0)
    for _ in range(20):
        obs, *_ = env.step(agent.predict(obs)[0])
    agent.save(tmp_path / "agent.pt")
    again = AllocationBaseline.load(tmp_path / "agent.pt", env=env)
    for _ in range(30):
        actions = [each.predict(obs)[0] for each in (agent, again)]
        assert actions[0] == actions[1]
        obs, *_ = env.step(actions[0])
    mu = [each.pricing.server.streams.state["mu"] for each in (agent, again)]
    np.testing.assert_array_equal(*mu)
    with pytest.raises(ValueError, match="knows the distribution of requests from its environment"):
        AllocationBaseline.load(tmp_path / "agent.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "oracle"}, "kind is 'oracle'; it must be one of .*'greedy'"),
        ({"resolve_every": 0}, "resolve_every is 0"),
        ({"integral_gain": -1.0}, "integral_gain is -1.0"),
        ({"step_scale": 0.0}, "step_scale is 0.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AllocationBaselineConfig(**settings)
