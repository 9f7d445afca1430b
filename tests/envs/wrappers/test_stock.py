"""The stock in the observations: the identity it keeps, restarts in every mode, on every face."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.data import successor_obs
from prefrl.envs import StockAugmentation, VectorStockAugmentation
from prefrl.envs.wrappers.stock import augment

CLIFF, POLE, HOME = "prefrl/RiskyCliff-v0", "CartPole-v1", "prefrl/Homeostasis-v0"


class Keyed(gym.Env):
    """A dict of observations, with rewards 0.1, 0.2, ... and an end after four steps."""

    observation_space = gym.spaces.Dict(
        {"place": gym.spaces.Box(-9, 9, (1,)), "left": gym.spaces.Discrete(9)}
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def _obs(self):
        return {"place": np.array([self.time], dtype=np.float32), "left": np.int64(4 - self.time)}

    def step(self, action):
        self.time += 1
        return self._obs(), 0.1 * self.time, self.time == 4, False, {}


def test_scalar_checkers_have_nothing_to_say():
    for env_id in (CLIFF, POLE, "prefrl/Delivery-v0"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check_env(StockAugmentation(gym.make(env_id).unwrapped), skip_render_check=True)
        unavoidable = ("different from the unwrapped version", "infinity. This is probably too")
        assert all(any(text in str(one.message) for text in unavoidable) for one in said)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_what_was_and_what_is_to_come_keep_their_sum(gamma):
    """c_0 + sum_{i < t} gamma^i R_{i+1} = gamma^t C_t, in float64."""
    env = StockAugmentation(gym.make(CLIFF), gamma, initial_stock=4.5)
    env.action_space.seed(0)
    for seed in range(10):
        obs, info = env.reset(seed=seed)
        assert obs["stock"].dtype == np.float64
        assert env.observation_space.contains(obs)
        assert obs["stock"] == info["stock"] == 4.5
        total, factor, done = 4.5, 1.0, False
        while not done:
            obs, reward, done, _, info = env.step(env.action_space.sample())
            total, factor = total + factor * reward, factor * gamma
            assert factor * obs["stock"][0] == pytest.approx(total, abs=1e-12)
            np.testing.assert_array_equal(obs["stock"], info["stock"])


def test_dict_observations_get_a_part():
    env = StockAugmentation(Keyed())
    assert set(env.observation_space) == {"place", "left", "stock"}
    env.reset(seed=0)
    for _ in range(4):
        obs = env.step(0)[0]
    assert obs["stock"][0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="a part named 'stock' already"):
        StockAugmentation(env)


def test_the_stock_starts_where_it_is_told():
    env = StockAugmentation(gym.make(CLIFF), stock_range=(-2.0, 3.0))
    starts = np.array([env.reset(seed=seed)[0]["stock"][0] for seed in range(300)])
    assert starts.min() > -2.0
    assert starts.max() < 3.0
    assert starts.mean() == pytest.approx(0.5, abs=0.3)
    assert env.reset(seed=7)[0]["stock"] == env.reset(seed=7)[0]["stock"]
    assert env.reset()[0]["stock"] != env.reset()[0]["stock"]
    assert env.reset(options={"stock": 8})[0]["stock"] == 8.0
    assert env.reset(options={"stock": [7.5]})[0]["stock"] == 7.5
    assert StockAugmentation(gym.make(CLIFF)).reset(seed=0)[0]["stock"] == 0.0
    plain = gym.make("prefrl/Delivery-v0")
    same = [env.reset(seed=3)[0] for env in (plain, StockAugmentation(gym.make("prefrl/Delivery-v0")))]
    assert same[0] == same[1]["obs"], "the environment's own randomness is as without"
    assert StockAugmentation(plain).reset(options={"cell": (0, 0), "stock": 1.0})[0] == {
        "obs": 0,
        "stock": 1.0,
    }


def test_vector_rewards():
    env = StockAugmentation(gym.make(HOME, initial_deviation=(-1.0, 2.0)), reward_key="reward_vector")
    obs, _ = env.reset(seed=0)
    assert obs["stock"].tolist() == [-1.0, 2.0]
    before = obs["stock"]
    for action in (2, 0, 1, 3):
        obs, _, _, _, info = env.step(action)
        np.testing.assert_allclose(obs["stock"] - before, info["reward_vector"])
        before = obs["stock"]
    wrong = StockAugmentation(gym.make(HOME), initial_stock=(0, 0, 0), reward_key="reward_vector")
    wrong.reset(seed=0)
    with pytest.raises(ValueError, match="the info 'reward_vector' has 2 components; the stock has 3"):
        wrong.step(0)


def test_frozen_stays():
    env = StockAugmentation(gym.make(CLIFF), initial_stock=3.0, frozen=True)
    env.reset(seed=0)
    assert all(env.step(0)[0]["stock"] == 3.0 for _ in range(5))
    rows = VectorStockAugmentation(gym.make_vec(CLIFF, 3), initial_stock=3.0, frozen=True)
    rows.reset(seed=0)
    assert all((rows.step(np.zeros(3, dtype=int))[0]["stock"] == 3.0).all() for _ in range(5))


# Rows ----------------------------------------------------------------------------------------------------


def play(env, steps, gamma, start, on_device=False):
    """Step at random, following every row's stock in plain Python; check it, and the true successors."""
    n, mode = env.num_envs, AutoresetMode(env.metadata["autoreset_mode"])
    rng = np.random.default_rng(0)
    host = (lambda x: x.numpy()) if on_device else np.asarray
    obs, infos = env.reset(seed=1)
    stocks = [start] * n
    over, ends = np.zeros(n, dtype=bool), 0
    np.testing.assert_array_equal(host(obs["stock"])[:, 0], stocks)
    for _ in range(steps):
        if mode is AutoresetMode.DISABLED and over.any():
            mask = torch.as_tensor(over) if on_device else over
            obs, infos = env.reset(options={"reset_mask": mask})
            stocks = [start if over[i] else stocks[i] for i in range(n)]
            np.testing.assert_array_equal(host(obs["stock"])[:, 0], stocks)
            over[:] = False
        actions = rng.integers(2, size=n)
        obs, rewards, terminations, truncations, infos = env.step(
            torch.as_tensor(actions) if on_device else actions
        )
        rewards, ended = host(rewards), host(terminations | truncations)
        final = successor_obs(mode, obs, infos)
        for i in range(n):
            if mode is AutoresetMode.NEXT_STEP and over[i]:
                stocks[i] = start
                continue
            stocks[i] = (stocks[i] + float(rewards[i])) / gamma
            assert host(final["stock"])[i, 0] == pytest.approx(stocks[i], rel=1e-12)
            if ended[i] and mode is AutoresetMode.SAME_STEP:
                stocks[i] = start
        ends += ended.sum()
        over = ended
        np.testing.assert_allclose(host(obs["stock"])[:, 0], stocks, rtol=1e-12)
        np.testing.assert_array_equal(host(obs["stock"]), host(infos["stock"]))
    assert ends > n


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
def test_rows_restart_with_their_stock(mode, gamma):
    for env_id in (CLIFF, POLE):
        settings = {"vector_kwargs": {"autoreset_mode": mode}, "vectorization_mode": "sync"}
        env = gym.make_vec(env_id, 5, **settings)
        play(VectorStockAugmentation(env, gamma, initial_stock=2.5), 120, gamma, 2.5)
    env = gym.make_vec(CLIFF, 5, autoreset_mode=mode)
    play(VectorStockAugmentation(env, gamma, initial_stock=2.5), 120, gamma, 2.5)
    env = prefrl.envs.make_device(CLIFF, 5, autoreset_mode=mode)
    play(VectorStockAugmentation(env, gamma, initial_stock=2.5), 120, gamma, 2.5, on_device=True)


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("device", [False, True])
def test_vector_rewards_of_rows(mode, device):
    if device:
        env = prefrl.envs.make_device(HOME, 4, horizon=5, autoreset_mode=mode)
    else:
        env = gym.make_vec(HOME, 4, horizon=5, autoreset_mode=mode)
    env = VectorStockAugmentation(env, reward_key="reward_vector")
    obs, _ = env.reset(seed=0)
    total, over = np.zeros((4, 2)), np.zeros(4, dtype=bool)
    for time in range(23):
        if mode is AutoresetMode.DISABLED and over.any():
            obs, _ = env.reset(options={"reset_mask": torch.as_tensor(over) if device else over})
            total[over] = 0.0
        actions = np.full(4, time % 4)
        obs, _, terminations, _, infos = env.step(torch.as_tensor(actions) if device else actions)
        seen = np.asarray(successor_obs(mode, obs, infos)["stock"])
        paid = np.asarray(infos["reward_vector"])
        ended = np.asarray(terminations)
        if "final_info" in infos and ended.any():
            paid = np.where(ended[:, None], np.asarray(infos["final_info"]["reward_vector"]), paid)
        if mode is AutoresetMode.NEXT_STEP:
            total[over], paid = 0.0, np.where(over[:, None], 0.0, paid)
        total += paid
        np.testing.assert_allclose(seen, total, atol=1e-12)
        over = ended
        if mode is AutoresetMode.SAME_STEP:
            total[ended] = 0.0


def test_rows_draw_and_are_told():
    for env in (gym.make_vec(CLIFF, 200), prefrl.envs.make_device(CLIFF, 200)):
        rows = VectorStockAugmentation(env, stock_range=(1.0, 2.0))
        first = np.asarray(rows.reset(seed=4)[0]["stock"])
        assert first.shape == (200, 1)
        assert first.min() >= 1.0
        assert first.max() <= 2.0
        assert first.std() > 0.2
        np.testing.assert_array_equal(first, np.asarray(rows.reset(seed=4)[0]["stock"]))
        assert (np.asarray(rows.reset()[0]["stock"]) != first).all()
        told = np.linspace(0, 1, 200)
        np.testing.assert_allclose(np.asarray(rows.reset(options={"stock": told})[0]["stock"])[:, 0], told)
        assert (np.asarray(rows.reset(options={"stock": 5.0})[0]["stock"]) == 5.0).all()
        mask = np.arange(200) < 50
        given = torch.as_tensor(mask) if isinstance(rows.stock, torch.Tensor) else mask
        some = np.asarray(rows.reset(options={"stock": 7.0, "reset_mask": given})[0]["stock"])[:, 0]
        np.testing.assert_array_equal(some, np.where(mask, 7.0, 5.0))
        with pytest.raises(ValueError, match=r"the option 'stock' has shape \(3, 1\)"):
            rows.reset(options={"stock": [1.0, 2.0, 3.0]})


def test_rows_go_on_bit_equal():
    for make in (lambda: gym.make_vec(CLIFF, 6), lambda: prefrl.envs.make_device(CLIFF, 6)):
        ours, theirs = (VectorStockAugmentation(make(), 0.9, stock_range=(-1.0, 1.0)) for _ in range(2))
        ours.reset(seed=0)
        theirs.reset(seed=5)
        actions = np.zeros(6, dtype=int)
        actions = torch.as_tensor(actions) if isinstance(ours.stock, torch.Tensor) else actions
        for _ in range(9):
            ours.step(actions)
        state = ours.state_dict()
        theirs.load_state_dict({**state, "stock": state["stock"] + 0, "done": state["done"] | False})
        for _ in range(30):
            a, b = ours.step(actions), theirs.step(actions)
            np.testing.assert_array_equal(np.asarray(a[0]["stock"]), np.asarray(b[0]["stock"]))
            np.testing.assert_array_equal(np.asarray(a[0]["obs"]), np.asarray(b[0]["obs"]))
    assert VectorStockAugmentation(gym.make_vec(POLE, 2, vectorization_mode="sync")).state_dict() is None


class Silent(Keyed):
    """Rewards in an info that a reset does not have."""

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"paid": np.array([reward, 1.0])}


def test_rows_that_all_start_anew_have_no_info_of_rewards():
    rows = VectorStockAugmentation(
        gym.vector.SyncVectorEnv([Silent] * 3), initial_stock=(5.0, 0.0), reward_key="paid"
    )
    rows.reset(seed=0)
    counts = [rows.step(np.zeros(3, dtype=int))[0]["stock"][:, 1].tolist() for _ in range(7)]
    assert counts == [[c] * 3 for c in (1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 2.0)]


def test_without_a_seed_stocks_differ():
    envs = [StockAugmentation(gym.make(CLIFF), stock_range=(0.0, 1.0)) for _ in range(2)]
    assert envs[0].reset()[0]["stock"] != envs[1].reset()[0]["stock"]
    rows = [VectorStockAugmentation(gym.make_vec(CLIFF, 2), stock_range=(0.0, 1.0)) for _ in range(2)]
    assert (rows[0].reset()[0]["stock"] != rows[1].reset()[0]["stock"]).all()


def test_augment_takes_any_face():
    assert isinstance(augment(gym.make(CLIFF)), StockAugmentation)
    assert isinstance(augment(gym.make_vec(CLIFF, 2)), VectorStockAugmentation)


@pytest.mark.parametrize(("settings", "message"), [
    ({"gamma": 0.0}, r"gamma is 0.0; it must lie in \(0, 1\]"),
    ({"initial_stock": 1.0, "stock_range": (0.0, 1.0)}, "both given"),
    ({"stock_range": (1.0, 0.0)}, "low must not exceed high"),
    ({"stock_range": (1.0, 0.0, 2.0)}, "must be a pair"),
    ({"initial_stock": (1.0, 0.0)}, "the stock has 2 components; a reward that is a number makes one of 1"),
    ({"initial_stock": float("nan")}, "it must be a finite number"),
])  # fmt: skip
def test_arguments_that_are_refused(settings, message):
    for env in (gym.make(CLIFF), gym.make_vec(CLIFF, 2)):
        with pytest.raises(ValueError, match=message):
            augment(env, **settings)


def test_options_and_infos_that_are_refused():
    env = StockAugmentation(gym.make(CLIFF))
    with pytest.raises(ValueError, match="the option 'stock' is nan"):
        env.reset(options={"stock": float("nan")})
    with pytest.raises(ValueError, match=r"the option 'stock' has shape \(2, 1\)"):
        env.reset(options={"stock": [1.0, 2.0]})
    rows = VectorStockAugmentation(gym.make_vec(CLIFF, 2), reward_key="prices")
    rows.reset(seed=0)
    with pytest.raises(ValueError, match="the environment's info has no 'prices'"):
        rows.step(np.zeros(2, dtype=int))
