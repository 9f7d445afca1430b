"""Allocation environments: nothing is overspent, requests are replayed, and policies may set prices."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import prefrl.envs
from prefrl.envs.wrappers import DualPriceAction

FAMILIES = prefrl.envs.ALLOCATION_IDS
every_family = pytest.mark.parametrize("env_id", FAMILIES)


def random_answers(space, rng, n):
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n, size=n)
    if isinstance(space, gym.spaces.MultiBinary):
        return rng.integers(2, size=(n, space.n))
    return rng.uniform(space.low, space.high, (n, *space.shape)).astype(np.float32)


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_overspent(env_id, dtype):
    """A careless policy, in 170,000 requests of each family: a million of each float type."""
    horizon, n = 200, 850
    env = prefrl.envs.make_device(
        env_id, n, horizon=horizon, float_dtype=dtype, autoreset_mode="Disabled", seed=0
    )
    rng = np.random.default_rng(0)
    spent = np.zeros((n, len(env.budget)))
    rejected = 0
    for step in range(horizon):
        answers = torch.as_tensor(random_answers(env.single_action_space, rng, n))
        obs, rewards, terminated, truncated, infos = env.step(answers)
        spent += infos["consumption"].double().numpy()
        assert (spent <= env.budget).all(), "not by a rounding error"
        assert (obs["remaining"] >= 0.0).all()
        refused = infos["rejected"]
        if env_id != "prefrl/AssortmentMNL-v0":  # there a smaller set is offered
            assert not rewards[refused].any()
            assert not infos["consumption"][refused].any()
            accepted = ~refused
            assert torch.equal(infos["consumption"][accepted], infos["intended_consumption"][accepted])
        assert (rewards >= 0.0).all() or env_id == "prefrl/SecondPriceBudget-v0"  # bids above the value
        assert bool(terminated.all()) == (step == horizon - 1)
        assert not truncated.any()
        rejected += int(refused.sum())
        np.testing.assert_allclose(obs["remaining"].numpy(), 1.0 - spent / env.budget, atol=1e-6)
    assert rejected > 0, "the budgets must bind for the test to mean anything"
    assert (infos["depletion"] < horizon).float().mean() > 0.3


@pytest.mark.slow
def test_a_million_requests_are_not_overspent_by_a_rounding_error():
    """A float32 sum of a million payments would lose parts; what is spent is counted in float64."""
    n, horizon = 50, 20_000
    env = prefrl.envs.make_device(
        "prefrl/SecondPriceBudget-v0", n, horizon=horizon, autoreset_mode="Disabled", seed=1, rho=0.15
    )
    paid = [[] for _ in range(n)]
    bids = torch.ones(n, 1)
    for _ in range(horizon):
        for row, payment in zip(paid, env.step(bids)[4]["consumption"][:, 0].tolist(), strict=True):
            row.append(payment)
    total = np.array([math.fsum(row) for row in paid])
    assert (total <= env.budget[0]).all()
    assert (total > env.budget[0] - 1.0).all()


@every_family
def test_requests_are_those_that_come(env_id):
    def seen_by(make, **settings):
        env = make(env_id, 3, horizon=6, **settings)
        obs, _ = env.reset(seed=4)
        told = env.requests()
        answers = random_answers(env.single_action_space, np.random.default_rng(0), 3)
        seen = [np.asarray(obs["request"])]
        for _ in range(5):
            obs = env.step(torch.as_tensor(answers) if settings.get("float_dtype") else answers)[0]
            seen.append(np.asarray(obs["request"]))
            np.testing.assert_array_equal(env.requests(), told)
        return told[:, :, : env.dynamics.problem.num_seen], np.array(seen)

    for mode in ("NextStep", "SameStep", "Disabled"):
        for make, settings in ((gym.make_vec, {}), (prefrl.envs.make_device, {"float_dtype": torch.float64})):
            told, seen = seen_by(make, autoreset_mode=mode, **settings)
            np.testing.assert_allclose(seen, told, rtol=2e-7)
    env = gym.make(env_id, horizon=6).unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.requests()
    for _ in range(2):  # each episode has its own
        obs, _ = env.reset()
        told = env.requests()
        for request in told:
            np.testing.assert_allclose(obs["request"], request[: len(obs["request"])], rtol=2e-7)
            obs = env.step(env.action_space.sample())[0]


def test_an_answer_has_no_influence_on_the_requests():
    for env_id in FAMILIES:
        streams = []
        for seed in range(2):
            env = gym.make(env_id, horizon=8)
            env.action_space.seed(seed)
            obs, _ = env.reset(seed=3)
            stream = [obs["request"]]
            for _ in range(7):
                stream.append(env.step(env.action_space.sample())[0]["request"])
            streams.append(stream)
        np.testing.assert_array_equal(*streams)


def test_a_request_that_is_left_is_gone():
    env = gym.make("prefrl/MultiSecretary-v0", horizon=3, rho=1.0 / 3.0)
    env.reset(seed=0)
    abilities = env.unwrapped.requests()[:, 0]
    assert len(set(abilities)) == 3
    assert env.step(0)[1] == 0.0
    obs, reward, terminated, _, info = env.step(1)
    assert reward == abilities[1]
    assert obs["request"][0] == np.float32(abilities[2])
    assert (obs["remaining"][0], obs["time"][0]) == (0.0, np.float32(2 / 3))
    assert (info["t"], info["rejected"], info["f_max"], info["depletion"]) == (2, False, abilities[1], 2)
    obs, reward, terminated, _, info = env.step(1)
    assert (reward, terminated, info["rejected"]) == (0.0, True, True)
    assert (info["consumption"], info["intended_consumption"]) == ([0.0], [1.0])


def test_stop_when_empty():
    env = gym.make("prefrl/MultiSecretary-v0", horizon=10, rho=0.2, stop_when_empty=True)
    env.reset(seed=0)
    assert [env.step(1)[2] for _ in range(2)] == [False, True]


def test_a_smaller_set_is_offered_where_a_product_is_out_of_stock():
    env = gym.make("prefrl/AssortmentMNL-v0", d=1, horizon=10, rho=0.1)
    env.reset(seed=0)
    sold = refused = meant = 0
    for _ in range(10):
        _, reward, _, _, info = env.step(np.array([1], dtype=np.int8))
        meant += info["intended_consumption"][0]
        sold += reward > 0.0
        refused += info["rejected"]
        assert info["rejected"] == (sold == 1 and reward == 0.0)
    assert (sold, refused > 0) == (1, True)
    assert meant > 1.0, "what customers would have bought, had it been there"


def test_the_adversary():
    env = gym.make("prefrl/AdversarialKnapsack-v0", horizon=12, alpha=4.0, eps=0.25).unwrapped
    env.reset()
    assert env.requests()[:, 0].tolist() == [0.25] * 9 + [1.0] * 3
    assert env.budget == [3.0]
    assert env.hindsight_optimum() == 3.0


def test_network_revenue_follows_its_distribution():
    env = gym.make_vec("prefrl/NetworkRevenue-v0", 2000, horizon=5, m=3, d=4, sd=0.5)
    env.reset(seed=0)
    dynamics = env.dynamics
    requests = env.requests().reshape(-1, 16)
    needed = requests[:, 4:].reshape(-1, 3, 4)
    assert set(np.unique(needed)) == {0.0, 1.0}
    np.testing.assert_allclose(needed.mean((0, 2)), dynamics.p, atol=0.01)
    assert ((dynamics.p >= 0.5) & (dynamics.p <= 1.0)).all()
    assert np.linalg.norm(dynamics.theta) == pytest.approx(1.0)
    assert ((dynamics.rho / dynamics.p >= 0.25) & (dynamics.rho / dynamics.p <= 0.75)).all()
    error = requests[:, :4] - np.einsum("tij,i->tj", needed, dynamics.theta)
    inside = (requests[:, :4] > 0.0) & (requests[:, :4] < 10.0)
    assert abs(error[inside].std() - 0.5) < 0.05
    other = gym.make("prefrl/NetworkRevenue-v0", m=3, d=4, instance_seed=1).unwrapped
    assert (other.dynamics.p != dynamics.p).all()


def test_what_matching_takes_too_much_of_is_divided_by_its_sum():
    env = gym.make("prefrl/EntropyMatching-v0", d=2, horizon=100)
    env.reset(seed=0)
    info = env.step(np.float32([1.0, 1.0]))[4]
    np.testing.assert_allclose(info["consumption"], [0.5, 0.5])


# Prices as actions -------------------------------------------------------


@every_family
def test_prices_are_turned_into_the_best_answer(env_id):
    env, plain = DualPriceAction(gym.make(env_id, horizon=30)), gym.make(env_id, horizon=30)
    obs, _ = env.reset(seed=0)
    plain.reset(seed=0)
    problem = env.unwrapped.allocation.problem
    rng = np.random.default_rng(1)  # not the environment's own numbers
    for _ in range(30):
        mu = (rng.random(env.action_space.shape) * 0.5 * env.action_space.high).astype(np.float32)
        best = problem.best_response(obs["request"][None].astype(np.float64), mu[None].astype(np.float64))[0]
        obs, reward, _, _, info = env.step(mu)
        np.testing.assert_allclose(info["answer"], best, atol=1e-6)
        space = plain.action_space
        answer = np.asarray(best, dtype=space.dtype) if space.shape else int(best)
        assert plain.step(answer)[1] == pytest.approx(reward, abs=1e-6)


def test_prices_that_are_none_are_refused():
    env = DualPriceAction(gym.make("prefrl/MultiSecretary-v0"))
    assert env.action_space == gym.spaces.Box(0.0, 2.0, (1,))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(1))
    env.reset(seed=0)
    for action in (np.array([-0.1]), np.zeros(2), np.array([np.nan]), np.array([2.1]), np.array([np.inf])):
        with pytest.raises(ValueError, match=r"it must hold prices in Box\(0.0, 2.0"):
            env.step(action)
    with pytest.raises(TypeError, match="DualPriceAction prices the resources of allocation environments"):
        DualPriceAction(gym.make("prefrl/Delivery-v0"))


def test_ppo_trains_on_prices_and_on_answers():
    for env in (
        DualPriceAction(gym.make("prefrl/NetworkRevenue-v0", horizon=30)),
        gym.make("prefrl/AssortmentMNL-v0"),
    ):
        model = PPO("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
        model.learn(128)
        assert model.num_timesteps == 128


def test_prices_are_set_below_any_wrapper_of_observations():
    env = DualPriceAction(gym.wrappers.FlattenObservation(gym.make("prefrl/MultiSecretary-v0", horizon=5)))
    env.reset(seed=0)
    ability = env.unwrapped.request()[0]
    assert env.step(np.array([ability + 0.01]))[1] == 0.0
    ability = env.unwrapped.request()[0]
    assert env.step(np.array([ability - 0.01]))[1] == ability


@pytest.mark.parametrize(
    ("rho", "horizon", "places"), [(0.29, 100, 29), (0.57, 100, 57), (1.0 / 49.0, 49, 1)]
)
def test_a_budget_that_is_whole_but_for_rounding_is_whole(rho, horizon, places):
    env = gym.make("prefrl/MultiSecretary-v0", rho=rho, horizon=horizon)
    assert env.unwrapped.budget.tolist() == [float(places)]
    env.reset(seed=0)
    assert sum(env.step(1)[1] > 0.0 for _ in range(horizon)) == places
    assert gym.make("prefrl/MultiSecretary-v0", rho=0.255, horizon=10).unwrapped.budget[0] == pytest.approx(
        2.55
    )


def test_the_rival_is_never_told():
    env = gym.make("prefrl/SecondPriceBudget-v0", horizon=5)
    env.reset(seed=0)
    value, rival = env.unwrapped.requests()[0]
    info = env.step(np.float32([0.0]))[4]
    assert info["f_max"] == value
    assert rival not in [number for part in info.values() for number in np.ravel(part)]
    # a bid that equals the rival's wins
    table = np.array([[0.5, 0.25], [0.5, 0.25]])
    env = gym.make("prefrl/SecondPriceBudget-v0", requests=table, rho=1.0)
    env.reset()
    assert env.step(np.float32([0.25]))[1] == 0.25
    assert env.step(np.float32([0.24]))[1] == 0.0


def test_a_budget_too_small_for_any_product_is_refused():
    with pytest.raises(ValueError, match="every request consumes more: nothing could be served"):
        gym.make("prefrl/NetworkRevenue-v0", rho=1e-6, horizon=100)


def test_numbers_of_numpy_will_do():
    gym.make("prefrl/AdversarialKnapsack-v0", alpha=np.float32(2), eps=np.float64(0.5))
    env = gym.make(
        "prefrl/MultiSecretary-v0", corrupted_rounds=np.int64(5), input_model="corrupted", horizon=9
    )
    env.reset(seed=0)
    assert (env.unwrapped.requests()[:, 0] == 1.0).sum() == 5
    with pytest.raises(ValueError, match="rho is True"):
        gym.make("prefrl/MultiSecretary-v0", rho=True)


def test_answers_that_are_no_numbers_serve_nobody_on_a_device():
    env = prefrl.envs.make_device("prefrl/EntropyMatching-v0", 2, seed=0)
    answers = torch.full((2, 5), 0.1)
    answers[0, 0] = torch.nan
    _, rewards, _, _, infos = env.step(answers)
    assert rewards[0] == 0.0
    assert rewards[1] > 0.0
    assert infos["rejected"].tolist() == [True, False]
    assert not infos["consumption"][0].any()


def test_requests_are_not_told_where_they_cannot_be():
    settings = {"horizon": 10, "rho": 0.3}
    masked = gym.make_vec("prefrl/MultiSecretary-v0", 3, autoreset_mode="Disabled", **settings)
    masked.reset(seed=0)
    masked.requests()
    masked.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(gym.error.ResetNeeded, match="reset\\(\\) of all rows"):
        masked.hindsight_optimum()
    obs, _ = masked.reset(options={"reset_mask": np.ones(3, dtype=bool)})  # all rows after all
    np.testing.assert_allclose(masked.requests()[0, :, 0], obs["request"][:, 0], rtol=1e-6)
    for early in ({"stop_when_empty": True}, {"max_episode_steps": 5}):
        env = gym.make_vec("prefrl/MultiSecretary-v0", 3, **early, **settings)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="rows may restart before the horizon"):
            env.requests()
        device = prefrl.envs.make_device("prefrl/MultiSecretary-v0", 3, seed=0, **early, **settings)
        told, seen = device.requests(), [device.reset(seed=0)[0]["request"]]
        seen += [device.step(torch.ones(3, dtype=torch.int64))[0]["request"] for _ in range(9)]
        first = np.array([part.numpy()[:, 0] for part in seen])[:3]
        np.testing.assert_allclose(told[:3, :, 0], first, rtol=1e-6)


def test_stop_when_empty_means_every_budget():
    env = gym.make("prefrl/NetworkRevenue-v0", horizon=200, m=2, d=2, rho=[0.05, 0.5], stop_when_empty=True)
    env.reset(seed=0)
    for _ in range(200):
        obs, _, terminated, _, info = env.step(1)
        left = obs["remaining"] * env.unwrapped.budget
        assert terminated == ((left < 1.0 - 1e-4).all() or info["t"] == 200)
        if terminated:
            break


@pytest.mark.parametrize("stop_when_empty", [False, True])
def test_a_resource_in_another_unit_is_empty_at_the_same_time(stop_when_empty):
    table = np.random.default_rng(0).uniform(0.5, 1.0, (60, 3))
    found = []
    for unit in (1.0, 1024.0, 1.0 / 1024.0):
        env = gym.make("prefrl/NetworkRevenue-v0", m=2, d=1, requests=table * [1.0, 1.0, unit],
                       rho=[0.2, 0.3 * unit], stop_when_empty=stop_when_empty)  # fmt: skip
        env.reset(seed=0)
        steps, terminated, depletions = 0, False, []
        while not terminated:
            _, _, terminated, _, info = env.step(1)
            depletions.append(int(info["depletion"]))
            steps += 1
        found.append((steps, depletions))
    assert found[0] == found[1] == found[2]
    assert 0 < found[0][1][-1] < 60
