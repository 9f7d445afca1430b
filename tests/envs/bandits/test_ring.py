"""Modes on a ring: what is paid, drawn and dense is what plain sums and closed forms say."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import prefrl.envs
from prefrl.envs.rendering.scenes import ARROW, BODY_LIGHT, GREEN_LIGHT

ID = "prefrl/Ring-v0"
CONTEXTS = ("none", "experts", "rotation")
UPRIGHT = np.array([1.0, 0.0])
assert prefrl.envs.REGISTRY


def made(**settings: Any) -> Any:
    return gym.make(ID, **settings).unwrapped


def centre(env: Any, mode: int, turn: float) -> NDArray[np.float64]:
    angle = turn + 2.0 * math.pi * mode / env.num_modes
    return np.array([math.cos(angle), math.sin(angle)]) * float(env.radius)


def by_hand(env: Any, action: NDArray[Any], turn: float) -> tuple[float, int]:
    """The reward, and the nearest mode, one by one."""
    away = [float(np.linalg.norm(action - centre(env, mode, turn))) for mode in range(env.num_modes)]
    nearest = min(away[mode] for mode in env.experts)
    return math.exp(-(nearest**2) / (2.0 * env.width**2)), int(np.argmin(away))


@pytest.mark.parametrize("context", CONTEXTS)
def test_steps_scores_and_plain_sums_agree(context: str) -> None:
    env, rng = made(num_modes=7, expert_modes=3, width=0.07, context=context), np.random.default_rng(0)
    for seed in range(30):
        obs, _ = env.reset(seed=seed)
        turn = math.atan2(obs[1], obs[0])
        action = (centre(env, int(rng.integers(7)), turn) + 0.07 * rng.normal(size=2)).astype(np.float32)
        after, reward, terminated, truncated, _ = env.step(action)
        paid, nearest = by_hand(env, action.astype(float), turn)
        assert reward == pytest.approx(paid, abs=1e-6)
        assert env.score(action[None], obs[None])[0] == pytest.approx(paid, abs=1e-6)
        assert env.mode_of(action[None], obs[None]).tolist() == [nearest]
        assert (terminated, truncated) == (True, False)
        np.testing.assert_array_equal(after, obs)


def test_an_expert_centre_pays_one_and_the_rest_next_to_nothing() -> None:
    env = made()
    assert env.experts.tolist() == [0, 4]
    paid = env.score(env.modes, np.tile(UPRIGHT, (8, 1)))
    np.testing.assert_allclose(paid[[0, 4]], env.optimal_value(), atol=1e-15)
    assert np.delete(paid, [0, 4]).max() < 1e-12
    between = env.modes[env.experts].mean(0)[None]  # the mean of what experts do
    assert env.score(between, UPRIGHT[None])[0] < 1e-20
    side = env.modes[:1] + np.array([0.0, env.width])  # one width beside the centre
    assert env.score(side, UPRIGHT[None])[0] == pytest.approx(math.exp(-0.5))


def test_contexts_turn_the_ring_as_they_say() -> None:
    turns = {}
    for context in CONTEXTS:
        obs, _ = gym.make_vec(ID, 4_000, context=context).reset(seed=1)
        turns[context] = np.arctan2(obs[:, 1], obs[:, 0]) % (2.0 * math.pi)
    assert not turns["none"].any()
    notches = turns["experts"] / (math.pi / 4.0)
    np.testing.assert_allclose(notches, notches.round(), atol=1e-5)
    counts = np.bincount(notches.round().astype(int) % 8, minlength=8)
    assert counts.min() > 400  # of 500, whose standard deviation is 21
    quarters = np.bincount((turns["rotation"] / (math.pi / 2.0)).astype(int), minlength=4)
    assert quarters.min() > 850  # of 1000, whose standard deviation is 27
    assert len(np.unique(turns["rotation"])) > 3_900


def test_a_start_can_be_told() -> None:
    env = made(context="none")
    obs, _ = env.reset(options={"turn": 0.5})
    np.testing.assert_allclose(obs, [math.cos(0.5), math.sin(0.5)], atol=1e-7)
    assert env.step(centre(env, 4, 0.5).astype(np.float32))[1] == pytest.approx(1.0, abs=1e-6)
    told = prefrl.envs.make_device(ID, 3)
    seen = told.reset(options={"turn": 0.5})[0]
    np.testing.assert_allclose(seen.numpy(), np.tile(obs, (3, 1)), atol=1e-6)


def test_actions_from_given_noise_by_hand() -> None:
    env = made(num_modes=4, expert_modes=2, radius=0.5, width=0.1)
    quarter = np.array([0.0, 1.0])  # turned by a quarter: mode 0 stands at (0, .5)
    obs = np.tile(quarter, (3, 1))
    found = env.mixture_actions(obs, [0.0, 0.3, 0.99], [[0.0, 0.0], [1.0, 0.0], [0.0, -2.0]])
    np.testing.assert_allclose(found, [[0.0, 0.5], [-0.5, 0.1], [0.7, 0.0]], atol=1e-12)
    experts = env.mixture_actions(obs, [0.0, 0.3, 0.99], np.zeros((3, 2)), "expert")
    np.testing.assert_allclose(experts, [[0.0, 0.5], [0.0, 0.5], [0.0, -0.5]], atol=1e-12)
    cut = env.mixture_actions(UPRIGHT[None], [0.0], [[9.0, 0.0]])
    np.testing.assert_array_equal(cut, [[1.0, 0.0]])


@pytest.mark.parametrize("mixture", ["reference", "expert"])
def test_densities_are_plain_sums_that_integrate_to_one(mixture: Any) -> None:
    env, turn = made(num_modes=5, expert_modes=2), 0.7
    obs = np.array([math.cos(turn), math.sin(turn)])
    steps = np.arange(-1.0, 1.0, 0.01) + 0.005
    points = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    density = np.exp(env.log_density(points, np.tile(obs, (len(points), 1)), mixture))
    assert density.sum() * 0.01**2 == pytest.approx(1.0, abs=1e-5)
    point = np.array([[0.55, 0.31]])
    members = range(5) if mixture == "reference" else env.experts
    heaps = [
        math.exp(-((point[0] - centre(env, mode, turn)) ** 2).sum() / (2.0 * env.width**2))
        / (2.0 * math.pi * env.width**2)
        for mode in members
    ]
    wanted = math.log(sum(heaps) / len(heaps))
    assert env.log_density(point, obs[None], mixture)[0] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("context", CONTEXTS)
def test_draws_have_the_masses_and_the_values_that_are_known(context: Any) -> None:
    env, count = made(context=context), 40_000
    obs, actions, rewards = env.draw_actions(count, seed=3)
    assert (obs.dtype, actions.dtype, env.action_space.contains(actions[0])) == (np.float32, np.float32, True)
    error = math.sqrt(0.25 * 0.75 / count)
    assert env.expert_mass(actions, obs) == pytest.approx(0.25, abs=4.0 * error)
    assert np.bincount(env.mode_of(actions, obs), minlength=8).min() > 0.9 * count / 8
    off = math.exp(-4.5)
    assert env.off_mode_mass(actions, obs) == pytest.approx(off, abs=4.0 * math.sqrt(off / count))
    assert env.expert_mass(actions, obs, reach=1.0) == pytest.approx(
        0.25 * (1.0 - math.exp(-0.5)), abs=4.0 * error
    )
    assert rewards.mean() == pytest.approx(env.true_value(), abs=4.0 * rewards.std() / math.sqrt(count))
    assert env.true_value() == pytest.approx(0.125, abs=1e-5)
    obs, actions, rewards = env.draw_actions(count, "expert", seed=3)
    assert env.expert_mass(actions, obs) > 0.999
    assert env.true_value("expert") == pytest.approx(0.5, abs=1e-9)
    assert rewards.mean() == pytest.approx(0.5, abs=4.0 * rewards.std() / math.sqrt(count))
    again = env.draw_actions(count, "expert", seed=3)
    np.testing.assert_array_equal(again[1], actions)
    assert (env.draw_actions(count, "expert", seed=4)[1] != actions).any()


def test_the_value_of_modes_that_overlap_against_draws() -> None:
    env = made(num_modes=12, expert_modes=5, radius=0.3, width=0.1)
    _, _, rewards = env.draw_actions(200_000, seed=0)
    assert env.true_value() == pytest.approx(rewards.mean(), abs=4.0 * rewards.std() / math.sqrt(200_000))
    assert env.true_value() > 0.3  # far from half the expert mass


def test_the_device_face_knows_the_same_in_numpy() -> None:
    device, host = prefrl.envs.make_device(ID, 2, context="rotation"), made(context="rotation")
    for ours, theirs in zip(device.draw_actions(10, seed=1), host.draw_actions(10, seed=1), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    obs, _ = device.reset(seed=0)
    actions = torch.tensor([[0.6, 0.0], [0.0, 0.0]])
    rewards = device.step(actions)[1]
    np.testing.assert_allclose(rewards.numpy(), device.score(actions, obs), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_modes": 0}, "num_modes is 0"),
        ({"num_modes": 101}, "num_modes is 101; it must be from 1 to 100"),
        ({"expert_modes": 9}, "expert_modes is 9; it must be from 1 to num_modes, 8"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"width": 0.0}, "width is 0.0"),
        ({"radius": 0.8}, r"radius is 0.8 and width 0.06; radius \+ 5 width must be at most 1"),
        ({"context": "colour"}, "context is 'colour'; allowed are"),
    ],
)
def test_wrong_arguments_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**settings)


def test_wrong_questions_are_refused() -> None:
    env, obs = made(), np.tile(UPRIGHT, (2, 1))
    with pytest.raises(ValueError, match=r"actions have shape \(2,\); they must be numbers \[M, 2\]"):
        env.mode_of(np.zeros(2), obs)
    with pytest.raises(ValueError, match=r"obs have shape \(2, 2\); they must be numbers \[3, 2\]"):
        env.score(np.zeros((3, 2)), obs)
    with pytest.raises(ValueError, match="actions hold NaN"):
        env.log_density(np.full((2, 2), np.nan), obs)
    with pytest.raises(ValueError, match="mixture is 'all'"):
        env.log_density(np.zeros((2, 2)), obs, "all")
    with pytest.raises(ValueError, match="reach is 0"):
        env.expert_mass(np.zeros((2, 2)), obs, reach=0)
    with pytest.raises(ValueError, match=r"uniforms have shape \(2,\); they must be \[M\], from 0"):
        env.mixture_actions(obs, [0.0, 1.0], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="count is 0"):
        env.draw_actions(0)
    with pytest.raises(ValueError, match="reset options"):
        env.reset(options={"angle": 1})
    with pytest.raises(ValueError, match="turn is inf"):
        env.reset(options={"turn": math.inf})


def test_the_picture_shows_what_pays_and_what_was_chosen(project_root: Path) -> None:
    env = made(render_mode="rgb_array")
    env.reset(options={"turn": 0.3})
    env.step(np.array([-0.46, 0.36], dtype=np.float32))
    picture = env.render()

    def pixel(x: float, y: float) -> tuple[int, ...]:
        return tuple(picture[int(192 - 180 * y), int(192 + 180 * x)].tolist())

    for mode in range(8):
        assert pixel(*centre(env, mode, 0.3)) == (GREEN_LIGHT if mode in (0, 4) else BODY_LIGHT)
    assert pixel(-0.46, 0.36) == ARROW
    shown = plt.imread(project_root / "docs" / "images" / "ring.png")[..., :3]
    np.testing.assert_array_equal(np.round(shown * 255.0).astype(np.uint8), picture)
