"""An environment is one class: every face has its page, its arguments and what it tells."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import prefrl.envs
from prefrl.envs.core.face import registered_dynamics, registered_id
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.grids.delivery import DeliveryDynamics
from prefrl.envs.grids.random_grid import RandomGridDynamics

SECTIONS = ("Description", "Action Space", "Observation Space", "Rewards", "Starting State", "Episode End",
            "Arguments", "Version History")  # fmt: skip
FRAMES = {"CartPole": 50, "Acrobot": 15, "MountainCar": 30, "MountainCarContinuous": 30, "Pendulum": 20}

every_id = pytest.mark.parametrize("env_id", prefrl.envs.REGISTRY)


def faces(env_id, **kwargs):
    made = prefrl.envs.make_device(env_id, 2, **kwargs)
    return gym.make(env_id, **kwargs), gym.make_vec(env_id, 2, **kwargs), made


@every_id
def test_the_docstring_of_the_class_is_the_page_of_every_face(env_id):
    page = registered_dynamics(env_id).__doc__
    assert [line[3:] for line in page.replace("    ", "").splitlines() if line.startswith("## ")
            and line != "## Ground truth"] == list(SECTIONS)  # fmt: skip
    assert all(env.unwrapped.__doc__ == page for env in faces(env_id))


@every_id
def test_every_face_has_the_public_attributes_of_its_dynamics(env_id):
    for env in faces(env_id):
        inner = env.unwrapped
        for name in (name for name in dir(inner.dynamics) if not name.startswith("_")):
            assert name in dir(inner)
            assert hasattr(inner, name)
        assert type(inner.dynamics) is registered_dynamics(env_id)
        assert registered_id(inner.dynamics) == env_id


@every_id
def test_a_spec_makes_its_environment_again(env_id):
    env = gym.make(env_id)
    for spec in (env.spec, EnvSpec.from_json(env.spec.to_json())):
        again = gym.make(spec)
        assert type(again.unwrapped.dynamics) is type(env.unwrapped.dynamics)
        assert again.spec == spec
    fps = 30 if env_id in prefrl.envs.DIFFUSION_IDS else 15 if env_id in prefrl.envs.MINATAR_IDS else 8
    fps = FRAMES.get(env_id[7:-3], fps)
    assert env.metadata == {"render_modes": ["rgb_array", "human"], "render_fps": fps}
    vector = gym.make_vec(env_id, 2).metadata
    assert (vector["render_modes"], vector["render_fps"]) == (["rgb_array"], fps)


def test_wrappers_and_copies_reach_what_the_dynamics_tell():
    env = gym.make("prefrl/RandomGrid-v0", layout_seed=2)
    value = RandomGridDynamics(2).optimal_value(0.9)
    env.reset(seed=0)
    inner = env.unwrapped
    for face in (inner, copy.deepcopy(inner), copy.copy(inner)):
        np.testing.assert_array_equal(face.optimal_value(0.9), value)
    assert env.has_wrapper_attr("optimal_value")
    np.testing.assert_array_equal(env.get_wrapper_attr("optimal_value")(0.9), value)
    rows = gym.make_vec("prefrl/RandomGrid-v0", 2, layout_seed=2)
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(rows)
    np.testing.assert_array_equal(wrapped.unwrapped.optimal_value(0.9), value)


def test_what_neither_has_is_missing():
    env = gym.make("prefrl/CartPole-v0")
    for name in ("optimal_value", "envs", "_cells", "__length_hint__"):
        assert not hasattr(env.unwrapped, name)
        assert not env.has_wrapper_attr(name)
    with pytest.raises(AttributeError, match=r"'CartPoleDynamics' .*'true_value'"):
        env.unwrapped.true_value  # noqa: B018
    with pytest.raises(AttributeError, match=r"'ScalarEnv' .*'_secret'"):
        env.unwrapped._secret  # noqa: B018
    empty = ScalarEnv.__new__(ScalarEnv)  # as copies begin
    assert not hasattr(empty, "cells")


def test_what_is_told_of_episodes_is_told_of_the_faces_own():
    kwargs = {"horizon": 6}
    scalar, rows, _ = faces("prefrl/MultiSecretary-v0", **kwargs)
    tell = scalar.unwrapped.hindsight_optimum
    for seed in (0, 1):
        scalar.reset(seed=seed)
        best = np.sort(scalar.unwrapped.requests()[:, 0])[-3:].sum()
        assert tell() == pytest.approx(best), "of the episode that runs when it is asked"
    assert scalar.unwrapped.requests.__doc__ == scalar.unwrapped.dynamics.requests.__doc__
    rows.reset(seed=0)
    assert rows.requests().shape == (6, 2, 2)
    other = copy.deepcopy(rows)
    other.reset(seed=5)
    assert (other.requests() != rows.requests()).any()


def test_what_is_to_come_is_told_after_a_state_was_loaded():
    for env, other in zip(*(faces("prefrl/MultiSecretary-v0", horizon=6) for _ in range(2)), strict=True):
        env.reset(seed=0)
        other.reset(seed=1)
        told = env.unwrapped.requests()
        other.unwrapped.load_state_dict(env.unwrapped.state_dict())
        np.testing.assert_array_equal(other.unwrapped.requests(), told)
    env = gym.make("prefrl/CartPole-v0")
    env.reset(seed=0)
    assert set(env.unwrapped.state_dict()) == {"state", "rng"}, "and nothing is kept where nothing is told"


@pytest.mark.parametrize("face", [ScalarEnv, BatchedEnv])
def test_dynamics_come_as_an_object_a_class_or_a_place(face):
    place = "prefrl.envs.grids.random_grid:RandomGridDynamics"
    made = [face(RandomGridDynamics(2)), face(RandomGridDynamics, layout_seed=2), face(place, layout_seed=2)]
    for env in made:
        np.testing.assert_array_equal(env.cells, made[0].cells)
    with pytest.raises(TypeError, match=r"\['layout_seed'\] are for the class RandomGridDynamics"):
        face(RandomGridDynamics(2), layout_seed=3)
    with pytest.raises(TypeError, match="colour"):
        face(DeliveryDynamics, colour="red")


def test_your_own_environment_is_one_class():
    class Hill(DeliveryDynamics):
        """A page."""

        render_fps = 3

        def height(self, state):
            return 2.0 * state

    assert registered_id(Hill()) is None
    gym.register("Hill-v0", entry_point="prefrl.envs.core.scalar:ScalarEnv", kwargs={"dynamics": Hill})
    try:
        env = gym.make("Hill-v0")
        assert registered_dynamics("Hill-v0") is Hill
    finally:
        gym.registry.pop("Hill-v0")
    assert env.unwrapped.height(2.0) == 4.0
    assert env.metadata["render_fps"] == 3
    assert env.unwrapped.__doc__ == "A page."
