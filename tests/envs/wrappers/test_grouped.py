"""Groups of rows start alike, wait for each other, restart together, and go on after a checkpoint."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.data import transition_mask
from prefrl.envs import GroupedStarts

FACES = ["device", "host", "sync"]


def grouped(face: str, rows: int = 6, size: int = 3, **settings: Any) -> Any:
    if face == "device":
        env = prefrl.envs.make_device("prefrl/CartPole-v0", rows, autoreset_mode="Disabled", **settings)
    elif face == "host":
        env = gym.make_vec("prefrl/CartPole-v0", rows, autoreset_mode="Disabled", **settings)
    else:
        env = gym.make_vec("CartPole-v1", rows, vectorization_mode="sync",
                           vector_kwargs={"autoreset_mode": "Disabled"})  # fmt: skip
    return GroupedStarts(env, size)


def played(env: Any, face: str, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What came of random actions, [steps, rows, ...] by name, and the first observations."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"obs": [], "rewards": [], "terminated": [], "truncated": []}
    for _ in range(steps):
        actions = rng.integers(2, size=env.num_envs)
        found = env.step(torch.as_tensor(actions) if face == "device" else actions)
        for name, values in zip(rows, found, strict=False):
            rows[name].append(torch.as_tensor(values).numpy().copy())
    return {name: np.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("face", FACES)
def test_groups_start_together_and_wait(face: str) -> None:
    env = grouped(face)
    first = torch.as_tensor(env.reset(seed=1)[0]).numpy().copy()
    assert (first[:3] == first[0]).all()
    assert (first[3:] == first[3]).all()
    assert (first[0] != first[3]).any()
    steps = played(env, face, 400)
    done = steps["terminated"] | steps["truncated"]
    before = np.concatenate([np.zeros((1, 6), bool), done[:-1]])
    mask = np.stack([transition_mask(env.metadata["autoreset_mode"], row) for row in before])
    restarts = waits = 0
    starts = []
    for t in range(400):
        for rows in (slice(0, 3), slice(3, 6)):
            if before[t, rows].all():  # now all start anew, in one state
                assert not done[t, rows].any()
                assert (steps["obs"][t, rows] == steps["obs"][t, rows.start]).all()
                assert np.abs(steps["obs"][t, rows]).max() <= 0.05
                starts.append(steps["obs"][t, rows.start])
                restarts += 1
            else:  # who has ended waits
                assert (done[t, rows] >= before[t, rows]).all()
                waits += int(before[t, rows].sum())
        assert (steps["rewards"][t] == mask[t]).all()  # CartPole pays 1 for every transition
    assert restarts > 10
    assert waits > 50
    assert len({tuple(start) for start in starts}) == restarts
    # True successors: a pole that fell, not one that starts.
    fell = done & mask
    assert (np.abs(steps["obs"][fell][:, [0, 2]]).max(1) > 0.2).all()


@pytest.mark.parametrize("face", FACES)
def test_same_seed_same_run(face: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        env = grouped(face)
        env.reset(seed=seed)
        runs.append(played(env, face, 60))
    assert all((runs[0][name] == runs[1][name]).all() for name in runs[0])
    assert (runs[0]["obs"] != runs[2]["obs"]).any()


@pytest.mark.parametrize("face", ["device", "host"])
def test_state_goes_on(face: str) -> None:
    env, other = grouped(face), grouped(face)
    env.reset(seed=0)
    played(env, face, 33)
    state = env.state_dict()
    copied: Any = {
        "env": {name: _copy(value) for name, value in state["env"].items()},
        "terminated": torch.as_tensor(state["terminated"]).clone(),
        "truncated": torch.as_tensor(state["truncated"]).clone(),
    }
    expected = played(env, face, 60, seed=1)
    other.load_state_dict(copied)
    found = played(other, face, 60, seed=1)
    assert all((found[name] == expected[name]).all() for name in found)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(part) for name, part in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else np.array(value) if isinstance(
        value, np.ndarray) else value  # fmt: skip


def test_other_envs_tell_no_state() -> None:
    env = grouped("sync")
    env.reset(seed=0)
    assert env.state_dict() is None


def test_time_limits_stay_truncations() -> None:
    env = grouped("host", max_episode_steps=5)
    env.reset(seed=0)
    steps = played(env, "host", 12)
    assert steps["truncated"][4].all()
    assert not steps["truncated"][5].any()
    assert steps["truncated"][10].all()
    assert not steps["terminated"].any()


def test_learners_are_the_same_alone() -> None:
    both = grouped("device", 12, num_streams=2)
    alone = grouped("device", 6, num_streams=1)
    both.reset(seed=[10 + i for i in range(12)])
    alone.reset(seed=[16 + i for i in range(6)])
    rng = np.random.default_rng(0)
    for _ in range(50):
        actions = torch.as_tensor(rng.integers(2, size=12))
        obs, *_ = both.step(actions)
        assert torch.equal(obs[6:], alone.step(actions[6:])[0])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="env has autoreset_mode NextStep; GroupedStarts takes Disabled"):
        GroupedStarts(gym.make_vec("prefrl/CartPole-v0", 4), 2)
    with pytest.raises(ValueError, match="group_size is 4; it must divide the 6 rows"):
        grouped("host", 6, 4)
    with pytest.raises(ValueError, match="group_size"):
        grouped("host", 6, 0)
    with pytest.raises(ValueError, match="reset_mask is given"):
        grouped("host").reset(options={"reset_mask": np.ones(6, dtype=bool)})
    with pytest.raises(ValueError, match="shared_starts is 4; it must divide the 6 rows"):
        gym.make_vec("prefrl/CartPole-v0", 6).reset(options={"shared_starts": 4})
