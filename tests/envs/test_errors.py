"""Wrong arguments, actions, seeds and options: one clear error each, that names the argument."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

import prefrl.envs
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.grids.delivery import DeliveryDynamics


def make_vector(num_envs=2, **kwargs):
    return BatchedEnv(DeliveryDynamics, num_envs, **kwargs)


def make_device(num_envs=2, **kwargs):
    return prefrl.envs.make_device("prefrl/Delivery-v0", num_envs, **kwargs)


every_vector = pytest.mark.parametrize("make", [make_vector, make_device])


GOOD_ACTIONS = [
    2,
    np.int64(2),
    np.uint8(2),
    np.uint64(2),
    np.array(2),
    np.array(2, dtype=np.uint64),
    torch.tensor(2),
]
BAD_ACTIONS = [
    (4, "lie in"),
    (-1, "lie in"),
    (np.int64(4), "lie in"),
    (2**63, "lie in|dtype|numbers"),
    (True, "dtype"),
    (np.True_, "dtype"),
    (np.array(True), "dtype"),
    (2.0, "dtype"),
    (np.float32(2.0), "dtype"),
    ("up", "dtype|numbers"),
    (None, "dtype|numbers"),
    ([2], "shape"),
    (np.array([2]), "shape"),
]


@pytest.mark.parametrize("action", GOOD_ACTIONS, ids=repr)
def test_scalar_face_takes_any_whole_number(action):
    env = gym.make("prefrl/Delivery-v0")
    env.reset(options={"cell": (5, 5)})
    assert env.step(action)[0] == 54


@pytest.mark.parametrize(("action", "message"), BAD_ACTIONS, ids=[repr(a) for a, _ in BAD_ACTIONS])
def test_scalar_face_refuses_other_actions(action, message):
    env = ScalarEnv(DeliveryDynamics)
    env.reset(options={"cell": (5, 5)})
    with pytest.raises(ValueError, match=f"^action .*({message})"):
        env.step(action)
    assert env.step(2)[0] == 54, "the refused action changed nothing"


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64])
@every_vector
def test_vector_faces_take_any_whole_numbers(make, dtype):
    env = make()
    env.reset(options={"cell": (5, 5)})
    assert env.step(np.array([2, 3], dtype=dtype))[0].tolist() == [54, 56]
    assert env.step([3, 2])[0].tolist() == [55, 55]


@every_vector
@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([2.0, 2.0], "dtype"),
        ([True, False], "dtype"),
        ([2], "shape"),
        ([[2, 2]], "shape"),
        (2, "shape"),
        (["up", "down"], "dtype|numbers"),
        (None, "shape|numbers"),
    ],
    ids=repr,
)
def test_vector_faces_refuse_other_actions(make, actions, message):
    env = make()
    env.reset(options={"cell": (5, 5)})
    with pytest.raises(ValueError, match=f"^actions .*({message})"):
        env.step(actions)
    if make is make_vector:
        for outside in ([4, 0], [0, -1]):
            with pytest.raises(ValueError, match="actions must lie in"):
                env.step(outside)
    assert env.step([2, 2])[0].tolist() == [54, 54], "the refused actions changed nothing"


def test_step_needs_a_reset():
    for env, action in (
        (ScalarEnv(DeliveryDynamics), 0),
        (make_vector(), [0, 0]),
        (make_device(), [0, 0]),
    ):
        with pytest.raises(ResetNeeded, match="reset"):
            env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cel": (0, 0)}, r"\['cel'\].*\['cell'\]"),
        ({"cell": (10, 0)}, "cell .* outside"),
        ({"cell": (0, -1)}, "cell .* outside"),
        ({"cell": (3, 4)}, "cell .* house"),
        ({"cell": (3, 5)}, "cell .* sheep"),
        ({"cell": (8, 9)}, "cell .*goal"),
        ({"cell": 5}, "cell is 5.*pair"),
        ({"cell": (1, 2, 3)}, "cell is .*pair"),
        ({"cell": (0.5, 1)}, "cell is .*whole"),
        ({"cell": "up"}, "cell is .*whole"),
    ],
    ids=repr,
)
def test_reset_refuses_other_options(options, message):
    for env in (gym.make("prefrl/Delivery-v0"), make_vector(), make_device()):
        with pytest.raises(ValueError, match=message):
            env.reset(seed=0, options=options)


@every_vector
def test_reset_refuses_other_masks(make):
    env = make()
    with pytest.raises(ResetNeeded, match="reset_mask"):
        env.reset(options={"reset_mask": [True, True]})
    env.reset(seed=0)
    for mask in ([True], [1, 0], [[True, True]]):
        with pytest.raises(ValueError, match="reset_mask has shape"):
            env.reset(options={"reset_mask": mask})
    options = {"reset_mask": np.array([True, False]), "cell": (0, 0)}
    env.reset(options=options)
    assert set(options) == {"reset_mask", "cell"}, "the caller's dictionary stays whole"


@every_vector
@pytest.mark.parametrize("seed", [-1, 1.5, "a", True, [1], [0] * 5 + [-1]], ids=repr)
def test_vector_faces_refuse_other_seeds(make, seed):
    with pytest.raises(ValueError, match=r"^seed (is|has)"):
        make(6).reset(seed=seed)


def test_scalar_face_refuses_other_seeds():
    for seed in (-1, 1.5):
        with pytest.raises(gym.error.Error, match="Seed must be"):
            ScalarEnv(DeliveryDynamics).reset(seed=seed)


@every_vector
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_envs", 0),
        ("num_envs", 2.5),
        ("num_envs", True),
        ("max_episode_steps", 0),
        ("max_episode_steps", "9"),
        ("autoreset_mode", "never"),
        ("autoreset_mode", None),
        ("render_mode", "ascii"),
        ("render_mode", "human"),
    ],
)
def test_vector_faces_refuse_other_arguments(make, argument, value):
    with pytest.raises(ValueError, match=f"^{argument} is {value!r}"):
        make(**{argument: value})


@pytest.mark.parametrize("env_id", prefrl.envs.REGISTRY)
def test_unknown_arguments_are_refused(env_id):
    for make in (gym.make, gym.make_vec, lambda i, **k: prefrl.envs.make_device(i, 1, **k)):
        with pytest.raises(TypeError, match="colour"):
            make(env_id, colour="red")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns before it asks us
        with pytest.raises(ValueError, match="render_mode is 'ascii'"):
            gym.make(env_id, render_mode="ascii")


def test_make_device_names_what_it_can_make():
    with pytest.raises(ValueError, match=r"env_id is 'CartPole-v1'.*prefrl/Delivery-v0"):
        prefrl.envs.make_device("CartPole-v1", 4)


def test_devices_of_make_device():
    for name in ("device", "generator_device"):
        for wrong in ("abacus", "cuda:-1"):
            with pytest.raises(ValueError, match=f"^{name} is {wrong!r}; give 'auto'"):
                make_device(**{name: wrong})
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert make_device(device="auto", generator_device="auto").reset()[0].device.type == here


def test_make_device_takes_the_id_with_its_module():
    assert prefrl.envs.make_device("prefrl.envs:prefrl/Delivery-v0", 2).max_episode_steps == 200
