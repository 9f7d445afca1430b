"""Simulator states: what is read while acting draws the same pictures later."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.data import Transitions
from prefrl.envs.core.backend import state_rows
from prefrl.envs.simulator_states import (
    frame_of_state,
    picture,
    set_simulator_state,
    simulator_of,
    simulator_state,
)
from prefrl.envs.wrappers.simulator_states import SimulatorStates, with_simulator_states
from prefrl.run.stepping import Listener, OneRow, Stepper

CLASSIC = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
DRAWN = sorted(prefrl.envs.REGISTRY)
PICTURES = {"render_mode": "rgb_array"}


def drawn_again(env_id: str, steps: int = 6) -> int:
    """Return how many bytes differ between pictures of an episode and those of its stored states."""
    first, later = SimulatorStates(gym.make(env_id, **PICTURES)), gym.make(env_id, **PICTURES)
    first.action_space.seed(3)
    _, info = first.reset(seed=3)
    stored, actions, frames = [info["simulator_state"][1]], [None], [picture(first)]
    for _ in range(steps):
        action = first.action_space.sample()
        _, _, ended, _, info = first.step(action)
        np.testing.assert_array_equal(info["simulator_state"][0], stored[-1])
        stored.append(info["simulator_state"][1])
        actions.append(action)
        frames.append(picture(first))
        if ended:
            break
    later.reset(seed=8)
    again = [frame_of_state(later, *both) for both in zip(stored[::-1], actions[::-1], strict=True)][::-1]
    assert len(again) == len(stored)
    return sum(int((one != other).sum()) for one, other in zip(frames, again, strict=True))


@pytest.mark.parametrize("env_id", CLASSIC)
def test_classic_control_is_drawn_again(env_id: str) -> None:
    pytest.importorskip("pygame")
    assert drawn_again(env_id) == 0


@pytest.mark.parametrize("env_id", DRAWN)
def test_our_environments_are_drawn_again(env_id: str) -> None:
    assert drawn_again(env_id) == 0


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Pusher-v5", "Ant-v5"])
def test_mujoco_goes_on_the_same_from_a_stored_state(env_id: str) -> None:
    first, other = gym.make(env_id), gym.make(env_id)
    first.reset(seed=1)
    other.reset(seed=2)
    first.action_space.seed(1)
    for _ in range(5):
        first.step(first.action_space.sample())
    set_simulator_state(other, simulator_state(first))
    model = first.unwrapped.model  # type: ignore[attr-defined]
    import mujoco

    mujoco.mj_forward(model, first.unwrapped.data)  # type: ignore[attr-defined]
    for places in ("xpos", "xquat", "geom_xpos", "cvel"):
        one, two = (getattr(env.unwrapped.data, places) for env in (first, other))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(one, two)


def test_states_of_other_sizes_and_environments_are_refused() -> None:
    env = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"state has shape \(3,\); that of PendulumEnv must be \(4,\)"):
        set_simulator_state(env, np.zeros(3))
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        simulator_state(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="render_mode is None; it must be 'rgb_array'"):
        frame_of_state(env, np.zeros(4))

    class Strange(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)

    with pytest.raises(ValueError, match="Strange has no simulator state that could be set; those that have"):
        simulator_of(Strange())


class Told(Listener):
    """Keeps what the stepper tells of steps that are transitions."""

    info_keys = ("simulator_state",)

    def __init__(self) -> None:
        self.steps: list[tuple[torch.Tensor, ...]] = []

    def observe(self, transitions: Transitions) -> None:
        told = (transitions.obs, transitions.infos["simulator_state"], transitions.next_obs)
        self.steps.append(tuple(part[transitions.mask] for part in told))


class Still:
    device = torch.device("cpu")

    def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
        return self.actions[: len(obs)]


FACES = {
    "scalar": lambda mode: gym.make("Pendulum-v1", max_episode_steps=4),
    "own scalar": lambda mode: gym.make("prefrl/Pendulum-v0", max_episode_steps=4),
    "rows of Gymnasium": lambda mode: gym.make_vec(
        "Pendulum-v1",
        3,
        max_episode_steps=4,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
    ),
    "own rows": lambda mode: gym.make_vec("prefrl/Pendulum-v0", 3, max_episode_steps=4, autoreset_mode=mode),
    "device": lambda mode: prefrl.envs.make_device(
        "prefrl/Pendulum-v0", 3, max_episode_steps=4, autoreset_mode=mode
    ),
}


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("face", FACES)
def test_every_face_tells_the_state_before_and_after_a_step(face: str, mode: AutoresetMode) -> None:
    told, policy = Told(), Still()
    policy.actions = torch.ones(3, 1, dtype=torch.float32)
    stepper = Stepper(with_simulator_states(FACES[face](mode)), policy, told, seed=1)
    stepper.reset()
    for _ in range(11):
        stepper.step()
    assert len(told.steps) == 11
    for obs, states, next_obs in told.steps:
        assert states.dtype == torch.float64
        assert states.shape[1] == 2
        for place, seen in ((0, obs), (1, next_obs)):
            torch.testing.assert_close(states[:, place, 0].cos(), seen[:, 0].double(), rtol=0.0, atol=1e-6)
    assert sum(len(obs) for obs, _, _ in told.steps) > 7 * stepper.num_envs


def test_the_vector_of_cart_poles_tells_its_rows() -> None:
    env = gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    told, policy = Told(), Still()
    policy.actions = torch.ones(2, dtype=torch.int64)
    stepper = Stepper(with_simulator_states(env), policy, told, seed=1)
    stepper.reset()
    for _ in range(30):
        stepper.step()
    obs, states, next_obs = (torch.cat(part) for part in zip(*told.steps, strict=True))
    assert 40 < len(obs) < 60
    torch.testing.assert_close(states[:, 0].float(), obs)
    torch.testing.assert_close(states[:, 1].float(), next_obs)


def test_rows_of_states_keep_whole_numbers_and_their_order() -> None:
    many = 2**53 - 1
    states = [
        {"b": torch.tensor([[0.5, 1.5]]), "a": torch.tensor([many]), "c": torch.tensor([True])},
        {"c": torch.tensor([False]), "a": torch.tensor([-many]), "b": torch.tensor([[2.5, 3.5]])},
    ]
    rows = state_rows(*states)
    assert rows.tolist() == [[[many, 0.5, 1.5, 1.0], [-many, 2.5, 3.5, 0.0]]]
    assert rows.dtype == torch.float64
    host = state_rows(*({name: part.numpy() for name, part in state.items()} for state in states))
    np.testing.assert_array_equal(host, rows.numpy())


def test_rows_in_other_processes_are_refused() -> None:
    env = gym.make_vec("Pendulum-v1", 2, vectorization_mode="async")
    with pytest.raises(ValueError, match="env is a AsyncVectorEnv, whose rows' states are out of reach"):
        with_simulator_states(env)
    env.close()


def test_wrapped_environments_of_ours_are_resumed_as_bare_ones_are() -> None:
    bare, wrapped = (
        OneRow(gym.make("prefrl/Pendulum-v0")),
        OneRow(SimulatorStates(gym.make("prefrl/Pendulum-v0"))),
    )
    for env in (bare, wrapped):
        env.reset(seed=4)
        env.step(np.ones((1, 1)))
    assert wrapped.state_dict() is not None
    assert repr(wrapped.state_dict()) == repr(bare.state_dict())
