"""Pictures of the faces: the right number of frames, at the right time, in the right place."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import prefrl.envs


def random_actions(space, rng, rows):
    """Random actions [rows, ...] of a single action space."""
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n, size=rows)
    if isinstance(space, gym.spaces.MultiBinary):
        return rng.integers(2, size=(rows, space.n), dtype=np.int8)
    low, high = space.low.clip(-2.0, 2.0), space.high.clip(-2.0, 2.0)
    return rng.uniform(low, high, (rows, *space.shape)).astype(space.dtype)


def make_vector(env_id, **kwargs):
    return gym.make_vec(env_id, 3, **kwargs)


def make_device(env_id, **kwargs):
    return prefrl.envs.make_device(env_id, 3, **kwargs)


every_family = pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [*((env_id, {}) for env_id in prefrl.envs.REGISTRY), ("prefrl/RandomGrid-v0", {"stochastic": True})],
)
NOT_SHOWN = prefrl.envs.ALLOCATION_IDS + prefrl.envs.DIFFUSION_IDS
"""What a request asks, and where a diffusion is to the last digit."""

SEQUENCES = ("prefrl/TokenTree-v0", "prefrl/PreferenceBandit-v0", "prefrl/DynamicChoice-v0",
             "prefrl/WindowTSP-v0", "prefrl/TwentyQuestions-v0", "prefrl/LotteryChoice-v0",
             *prefrl.envs.MINATAR_IDS)  # fmt: skip
"""Their pictures show the observation, and nothing else: in those of sequences the last action is."""

SEVERAL = {"prefrl/PreferenceBandit-v0": {"contexts": 20}, "prefrl/DynamicChoice-v0": {"num_actions": 4},
           "prefrl/TwentyQuestions-v0": {"items": 2}}  # fmt: skip
"""Where rows that end start anew within a step, and show nothing but starts; or there are three actions; or
most actions are guesses, and end."""

picturesque = pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        *((env_id, SEVERAL.get(env_id, {})) for env_id in prefrl.envs.REGISTRY if env_id not in NOT_SHOWN),
        ("prefrl/RandomGrid-v0", {"stochastic": True}),
    ],
)
"""Families whose pictures show the whole observation."""


@pytest.mark.parametrize("env_id", prefrl.envs.DIFFUSION_IDS)
def test_a_diffusion_is_drawn_where_it_is(env_id):
    env = gym.make(env_id, render_mode="rgb_array").unwrapped
    frames = []
    for place in (0.3, 0.9, 10.0, 20.0):
        env.reset(options={"x": place})
        frames.append(env.render())
        assert frames[-1].shape == (400, 600, 3)
    assert (frames[0] != frames[1]).any()
    assert (frames[1] != frames[2]).any()
    np.testing.assert_array_equal(frames[2], frames[3])  # beyond the edge
    before = env.render()
    env.step(env.action_space.sample() if env.diffusion.action_dim == 0 else np.float32([1.0]))
    moved = env.render()
    if env.diffusion.action_dim or env.diffusion.T is not None:  # an arrow, and time that is gone
        assert (moved != before).any()


@picturesque
@pytest.mark.parametrize("make", [make_vector, make_device])
def test_vector_render_returns_one_frame_per_row(env_id, kwargs, make):
    env = make(env_id, render_mode="rgb_array", **kwargs)
    with pytest.raises(ResetNeeded, match="reset"):
        env.render()
    pictures = {}
    obs, _ = env.reset(seed=2)
    grid = isinstance(env.single_observation_space, gym.spaces.Discrete) and env_id not in SEQUENCES
    van = grid or env_id in prefrl.envs.RETURN_IDS
    rng = np.random.default_rng(0)
    several = [random_actions(env.single_action_space, rng, 3) for _ in range(2)]
    for actions in (None, *([[0, 1, 2], [3, 3, 3]] if grid else several)):
        if actions is not None:
            obs = env.step(actions)[0]
        frames = env.render()
        assert len(frames) == 3
        for row, frame in enumerate(frames):
            assert frame.dtype == np.uint8
            # what a picture depends on; a fresh van faces right
            action = (3 if van else None) if actions is None else np.asarray(actions)[row].tolist()
            seen = (np.asarray(obs)[row].tobytes(), "" if env_id in SEQUENCES else str(action))
            np.testing.assert_array_equal(pictures.setdefault(seen, frame), frame)
    assert len({frame.tobytes() for frame in pictures.values()}) == len(pictures) > 2


@every_family
def test_render_without_a_mode_warns(env_id, kwargs):
    for env in (gym.make(env_id, **kwargs).unwrapped, make_vector(env_id, **kwargs)):
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="render_mode"):
            assert env.render() is None


def test_human_mode_shows_the_frame():
    pygame = pytest.importorskip("pygame")
    shown = gym.make("prefrl/Delivery-v0", render_mode="human")
    drawn = gym.make("prefrl/Delivery-v0", render_mode="rgb_array")
    for env in (shown, drawn):
        env.reset(options={"cell": (5, 5)})
        env.step(1)
    screen = pygame.surfarray.array3d(pygame.display.get_surface()).transpose(1, 0, 2)
    np.testing.assert_array_equal(screen, drawn.render())
    shown.close()
    assert pygame.display.get_surface() is None
    shown.close()
