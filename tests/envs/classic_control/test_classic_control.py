"""Classic control: step for step Gymnasium's worlds, their options, and the compiled steps."""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs

PEERS = {
    "prefrl/CartPole-v0": "CartPole-v1",
    "prefrl/Acrobot-v0": "Acrobot-v1",
    "prefrl/MountainCar-v0": "MountainCar-v0",
    "prefrl/MountainCarContinuous-v0": "MountainCarContinuous-v0",
    "prefrl/Pendulum-v0": "Pendulum-v1",
}
every_id = pytest.mark.parametrize("env_id", PEERS)


def policy(env_id, rng, obs, skilled):
    """A random action, or one that gets somewhere: balances, or pumps energy in."""
    if env_id == "prefrl/CartPole-v0":
        return int(obs[2] + obs[3] + 0.1 * obs[1] + 0.1 * obs[0] > 0) if skilled else int(rng.integers(2))
    if env_id == "prefrl/Acrobot-v0":
        return 2 * int(obs[4] < 0) if skilled else int(rng.integers(3))
    if env_id == "prefrl/MountainCar-v0":
        return 2 * int(obs[1] > 0) if skilled else int(rng.integers(3))
    # float64: with float32 actions NumPy 2 makes Gymnasium compute torques in float32
    if env_id == "prefrl/MountainCarContinuous-v0":
        return np.array([math.copysign(0.9, obs[1])]) if skilled else rng.uniform(-1.0, 1.0, 1)
    return np.array([2.0 * math.copysign(1.0, obs[2])]) if skilled else rng.uniform(-2.0, 2.0, 1)


def our_state(env):
    return np.array([column[0] for column in env.unwrapped.state_dict()["state"].values()])


# Poles fall and acrobots are chaotic: rounding grows without bounds, so that both are put together again now
# and then. Gymnasium rounds the state of the continuous mountain car to float32 after every step.
TOGETHER = 25
TOLERANCES = {"prefrl/Acrobot-v0": 1e-9, "prefrl/MountainCarContinuous-v0": 1e-5}


@every_id
def test_the_same_seed_plays_gymnasiums_episodes(env_id):
    ours, theirs = gym.make(env_id), gym.make(PEERS[env_id])
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    atol = TOLERANCES.get(env_id, 1e-12)
    rng, ends = np.random.default_rng(0), np.zeros(2, dtype=int)
    for episode in range(12):
        obs, their_obs = ours.reset(seed=episode)[0], theirs.reset(seed=episode)[0]
        np.testing.assert_allclose(obs, their_obs, rtol=2e-7)
        np.testing.assert_array_equal(our_state(ours), theirs.unwrapped.state)
        ended, steps = False, 0
        while not ended:
            action = policy(env_id, rng, obs, skilled=episode % 2 == 0)
            obs, reward, terminated, truncated, _ = ours.step(action)
            their_obs, their_reward, *their_end, _ = theirs.step(action)
            assert obs.dtype == their_obs.dtype == np.float32
            np.testing.assert_allclose(obs, their_obs, rtol=1e-6, atol=atol)
            np.testing.assert_allclose(our_state(ours), theirs.unwrapped.state, rtol=0.0, atol=atol)
            assert reward == pytest.approx(their_reward, rel=0.0, abs=1e-12)
            assert [terminated, truncated] == their_end
            steps += 1
            if steps % TOGETHER == 0:
                theirs.unwrapped.state = our_state(ours)
            ended = terminated or truncated
            ends += their_end
    assert ends[1] > 0
    assert (ends[0] > 0) == (env_id != "prefrl/Pendulum-v0")


@every_id
def test_one_step_from_any_state_is_gymnasiums(env_id):
    """Far from the start too: against the wall, at full speed, past half a turn, beyond the limits."""
    ours, theirs = gym.make(env_id).unwrapped, gym.make(PEERS[env_id]).unwrapped
    ours.reset(seed=0), theirs.reset(seed=0)
    space = ours.observation_space
    widest = np.clip(space.high.astype(np.float64), 0.05, 4.0)
    if env_id == "prefrl/Acrobot-v0":
        widest = np.array([math.pi, math.pi, 4.0 * math.pi, 9.0 * math.pi])
    if env_id == "prefrl/Pendulum-v0":
        widest = np.array([20.0, 8.0])
    rng, terminations = np.random.default_rng(1), 0
    for _ in range(2_000):
        state = rng.uniform(-1.0, 1.0, len(widest)) * widest
        if "MountainCar" in env_id:
            state = rng.uniform(space.low, space.high)
        saved = ours.state_dict()
        saved["state"] = {name: np.array([v]) for name, v in zip(saved["state"], state, strict=True)}
        ours.load_state_dict(saved)
        theirs.state = state.copy()
        theirs.steps_beyond_terminated = None
        action = policy(env_id, rng, ours.observation_space.sample(), skilled=False)
        obs, reward, terminated, _, _ = ours.step(action)
        their_obs, their_reward, their_terminated, _, _ = theirs.step(action)
        # Gymnasium rounds the state of the continuous car
        rounding = 1e-7 if env_id == "prefrl/MountainCarContinuous-v0" else 0.0
        np.testing.assert_allclose(our_state(ours), theirs.state, rtol=1e-12, atol=1e-12 + rounding)
        np.testing.assert_allclose(obs, their_obs, rtol=1e-6, atol=1e-12)
        assert reward == pytest.approx(their_reward, rel=1e-12, abs=1e-12)
        assert terminated == their_terminated
        terminations += terminated
    assert (terminations > 0) == (env_id != "prefrl/Pendulum-v0")


@pytest.mark.parametrize("name", ["Pendulum", "MountainCarContinuous"])
def test_a_device_clips_what_gymnasium_clips(name):
    """The motor cannot do more than its best; the continuous car is charged for what was asked of it."""
    env_id, most = f"prefrl/{name}-v0", {"Pendulum": 2.0, "MountainCarContinuous": 1.0}[name]
    for asked in (3.0 * most, -3.0 * most):
        envs = prefrl.envs.make_device(env_id, 2, float_dtype=torch.float64)
        theirs = gym.make(PEERS[env_id]).unwrapped
        obs, _ = envs.reset(seed=0)
        theirs.reset()
        theirs.state = np.array([float(column[1]) for column in envs.state_dict()["state"].values()])
        obs, rewards, *_ = envs.step(torch.full((2, 1), asked))
        their_obs, their_reward, *_ = theirs.step(np.array([asked]))
        np.testing.assert_allclose(obs[1].numpy(), their_obs, rtol=1e-6)
        assert float(rewards[1]) == pytest.approx(their_reward, abs=1e-12)


# Reset options ---------------------------------------------------

OPTIONS = {
    "prefrl/CartPole-v0": {"low": -0.02, "high": 0.1},
    "prefrl/Acrobot-v0": {"low": 0.3, "high": 0.4},
    "prefrl/MountainCar-v0": {"low": -1.0, "high": 0.0},
    "prefrl/MountainCarContinuous-v0": {"high": 0.2},
    "prefrl/Pendulum-v0": {"x_init": 0.2, "y_init": 3},
}


@every_id
def test_reset_options_are_gymnasiums(env_id):
    ours, theirs = gym.make(env_id), gym.make(PEERS[env_id])
    for seed in range(5):
        starts = [env.reset(seed=seed, options=OPTIONS[env_id])[0] for env in (ours, theirs)]
        np.testing.assert_allclose(*starts, rtol=2e-7)
        assert (starts[0] != ours.reset(seed=seed)[0]).any()


@every_id
@pytest.mark.parametrize("face", ["scalar", "vector", "device"])
def test_other_reset_options_are_refused(env_id, face):
    makers = {"scalar": gym.make, "vector": gym.make_vec}
    env = makers[face](env_id) if face != "device" else prefrl.envs.make_device(env_id, 2)
    names = ("x_init", "y_init") if "Pendulum" in env_id else ("low", "high")
    with pytest.raises(ValueError, match=rf"\['width'\].*\['{names[0]}', '{names[1]}'\]"):
        env.reset(options={"width": 1.0})
    for name in names:
        for wrong in (math.nan, math.inf, "0.1", None, True, [0.1]):
            with pytest.raises(ValueError, match=f"^{name} is .*finite number"):
                env.reset(options={name: wrong})
    if "Pendulum" in env_id:
        with pytest.raises(ValueError, match=r"y_init is -1\.0; it must not be negative"):
            env.reset(options={"y_init": -1})
    else:
        with pytest.raises(ValueError, match=r"low is 3.0, above high -?0\."):
            env.reset(options={"low": 3})


# Pictures --------------------------------------------------------


@every_id
def test_the_picture_shows_state_and_action(env_id):
    """What was done is an arrow, but for the cars, which show where they are alone."""
    env = gym.make(env_id, render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    fresh = env.render()
    assert fresh.dtype == np.uint8
    assert fresh.shape[2] == 3
    assert 400 <= min(fresh.shape[:2]) <= max(fresh.shape[:2]) <= 600
    assert 3 < len(np.unique(fresh.reshape(-1, 3), axis=0)) < 5_000
    start = env.state_dict()
    pictures = []
    for action in (
        (env.action_space.low, env.action_space.high) if "n" not in vars(env.action_space) else (0, -1)
    ):
        env.load_state_dict(start)
        env.step(env.action_space.n - 1 if isinstance(action, int) and action < 0 else action)
        pictures.append(env.render())
    state = env.state_dict()
    env.load_state_dict(state)  # forgets the action, not the state
    still = env.render()
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[1] != still).any() == ("MountainCar" not in env_id)
    np.testing.assert_array_equal(env.render(), still)


# Compiled steps --------------------------------------------------


def run(env_id, mode, compiled, steps=24):
    env = prefrl.envs.make_device(
        env_id, 5, max_episode_steps=9, autoreset_mode=mode, compile=compiled, float_dtype=torch.float64
    )
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    said = [obs.clone()]
    for _ in range(steps):
        obs, rewards, terminated, truncated, infos = env.step(torch.as_tensor(env.action_space.sample()))
        said += [part.clone() for part in (obs, rewards, terminated, truncated, *infos.values())]
        if mode == "Disabled":
            env.reset(options={"reset_mask": terminated | truncated})
        else:
            for part in (obs, rewards, terminated, truncated, *infos.values()):
                part[...] = 1  # what was said is the caller's
    return env, said


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode.value for mode in AutoresetMode])
@pytest.mark.parametrize("env_id", [*PEERS, "prefrl/RandomGrid-v0"])
def test_compiled_steps_are_the_eager_ones(env_id, mode):
    compare_with_eager(env_id, mode)


@pytest.mark.slow
def test_compiled_cart_pole_steps_are_the_eager_ones():
    """The state of the world too, after a continuation."""
    env = compare_with_eager("prefrl/CartPole-v0", "SameStep")
    saved = copy.deepcopy(env.state_dict())
    expected = env.step(torch.zeros(5, dtype=torch.int64))[0].clone()
    env.step(torch.ones(5, dtype=torch.int64))
    env.load_state_dict(saved)
    assert torch.equal(env.step(torch.zeros(5, dtype=torch.int64))[0], expected), "goes on bit by bit"
    plan = torch.arange(10).reshape(5, 2) % 3 % 2  # a column of it does not lie in one piece of memory
    taken = plan[:, 1].contiguous()
    env.load_state_dict(saved)
    expected = env.step(taken)[0].clone()
    env.load_state_dict(saved)
    assert torch.equal(env.step(plan[:, 1])[0], expected)
    copied = copy.deepcopy(env)
    assert copied._advance._program is None, "a copy compiles its own"


def compare_with_eager(env_id, mode):
    env, said = run(env_id, mode, True)
    assert env._advance._program is not None
    for left, right in zip(said, run(env_id, mode, False)[1], strict=True):
        assert left.dtype == right.dtype
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    return env


def test_compile_is_true_or_false():
    with pytest.raises(ValueError, match="compile is 'yes'; it must be True or False"):
        prefrl.envs.make_device("prefrl/CartPole-v0", 2, compile="yes")
