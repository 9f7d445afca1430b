"""Noise of blocks of rows: each block's hangs on its own seed alone, whatever is beside it, and goes on."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.envs.core import sources
from prefrl.envs.core.backend import NumpyBackend
from prefrl.envs.core.sources import OneSource, SourceOfStreams, make_source
from prefrl.envs.core.vector import BatchedEnv

ROWS, STEPS, LIMIT = 2, 14, 5
"""Rows of a block; steps of a trajectory, some of them over the end of what was drawn ahead."""

SHORT: dict[str, dict[str, Any]] = {
    "prefrl/TokenTree-v0": {"depth": 3},
    "prefrl/PreferenceBandit-v0": {},
    "prefrl/WindowTSP-v0": {},
    "prefrl/TwentyQuestions-v0": {"features": 6},
    "prefrl/ProgramSynthesis-v0": {},
    "prefrl/Ring-v0": {"context": "rotation"},
    "prefrl/LotteryChoice-v0": {},
}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    *((env_id, SHORT.get(env_id, {"dt": 0.125} if env_id in prefrl.envs.DIFFUSION_IDS else {"horizon": 7}))
      for env_id, family in prefrl.envs.REGISTRY.items() if not family.max_episode_steps),
    *((env_id, {}) for env_id, family in prefrl.envs.REGISTRY.items() if family.max_episode_steps),
    ("prefrl/RandomGrid-v0", {"stochastic": True, "layout_seed": 2}),
]  # fmt: skip
CHANCE = ("prefrl/RandomGrid-v0", {"stochastic": True, "layout_seed": 2})
"""Steps are drawn as well as starts."""

SEEDS = [10, 11, 20, 21, 30, 31]
"""Of six rows, in three blocks of two."""


@pytest.fixture(autouse=True)
def few_steps_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "AHEAD", 8)  # four steps of two rows


def make(
    env_id: str, kwargs: Any, blocks: int | None, mode: Any, *, device: bool, rows: int = 0
) -> BatchedEnv:
    rows = rows or ROWS * (blocks or 1)
    settings = {"autoreset_mode": mode, "max_episode_steps": LIMIT, "num_streams": blocks, **kwargs}
    if device:
        return prefrl.envs.make_device(env_id, rows, device="cpu", **settings)
    env = gym.make_vec(env_id, rows, **settings)
    assert isinstance(env, BatchedEnv)
    return env


def actions_of(env: BatchedEnv, seed: int) -> Any:
    """Actions [STEPS, blocks, ROWS, ...] of three blocks, for both kinds of array."""
    space = env.single_action_space
    space.seed(seed)
    drawn = [[[space.sample() for _ in range(ROWS)] for _ in range(3)] for _ in range(STEPS)]
    actions = np.array(drawn)
    if actions.dtype.kind == "f":
        actions = actions.clip(-2.0, 2.0)
    return torch.as_tensor(actions) if env.dynamics.backend.on_device else actions


def columns(obs: Any) -> np.ndarray:
    if isinstance(obs, dict):
        return np.concatenate([columns(obs[name]) for name in sorted(obs)], axis=-1)
    rows = np.asarray(obs)
    return rows.reshape(len(rows), -1)


def said_by(env: BatchedEnv, step: Any) -> list[np.ndarray]:
    obs, rewards, terminated, truncated, infos = step
    final = [columns(infos["final_obs"])] if "final_obs" in infos else []
    return [columns(obs), *(columns(values) for values in (rewards, terminated, truncated)), *final]


def play(env: BatchedEnv, actions: Any, steps: range = range(STEPS)) -> list[list[np.ndarray]]:
    """What an environment says of each step; with DISABLED it is reset in every step, needed or not."""
    said, ended = [], None
    for t in steps:
        if env.autoreset_mode is AutoresetMode.DISABLED and ended is not None:
            said.append([columns(env.reset(options={"reset_mask": ended})[0])])
        step = env.step(actions[t].reshape(env.num_envs, *actions.shape[3:]))
        ended = step[2] | step[3]
        said.append(said_by(env, step))
    return said


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize(("place", "env_id", "kwargs"), [(i, *each) for i, each in enumerate(FAMILIES)],
                         ids=["-".join([i, *k]) for i, k in FAMILIES])  # fmt: skip
def test_a_block_does_not_hang_on_the_others(place: int, env_id: str, kwargs: Any, device: bool) -> None:
    check_blocks(env_id, kwargs, list(AutoresetMode)[(place + device) % 3], device=device)


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_block_does_not_hang_on_the_others_in_any_mode(mode: AutoresetMode, device: bool) -> None:
    check_blocks(*CHANCE, mode, device=device)


def check_blocks(env_id: str, kwargs: Any, mode: AutoresetMode, *, device: bool) -> None:
    together = make(env_id, kwargs, 3, mode, device=device)
    actions = actions_of(together, seed=0)
    first = columns(together.reset(seed=SEEDS)[0])
    said = play(together, actions)
    ends = sum(int(step[2].sum() + step[3].sum()) for step in said if len(step) > 1)
    assert ends > 0
    for block in range(3):
        alone = make(env_id, kwargs, 1, mode, device=device)
        rows = slice(block * ROWS, (block + 1) * ROWS)
        np.testing.assert_array_equal(columns(alone.reset(seed=SEEDS[rows])[0]), first[rows])
        own = play(alone, actions[:, block : block + 1])
        for ours, all_of_them in zip(own, said, strict=True):
            for one, other in zip(ours, all_of_them, strict=True):
                # (Sines of several lengths of array may differ in the last bit.)
                np.testing.assert_allclose(one, other[rows], rtol=1e-5, atol=1e-6)


def test_blocks_differ_from_each_other_and_steps_from_starts() -> None:
    env = make(*CHANCE, 3, "SameStep", device=False)
    noise = [make_source(env.dynamics, 6, 3, 0) for _ in range(2)]
    steps, starts = noise[0].step_noise(), noise[0].reset_noise()
    for values in (*steps.values(), *starts.values()):
        blocks = np.asarray(values).reshape(3, ROWS, -1)
        assert not np.array_equal(blocks[0], blocks[1])
        assert not np.array_equal(blocks[1], blocks[2])
    assert not np.array_equal(*(np.ravel(next(iter(kind.values())))[:2] for kind in (steps, starts)))
    for name, values in noise[1].step_noise().items():  # and the same seed gives the same noise
        np.testing.assert_array_equal(values, steps[name])


def test_seeds_of_blocks_are_those_of_their_first_rows() -> None:
    env = make(*CHANCE, 3, "SameStep", device=False)
    by_number, by_list = env.reset(seed=10)[0], env.reset(seed=[10, 1, 12, 2, 14, 3])[0]
    np.testing.assert_array_equal(by_number, by_list)
    assert not np.array_equal(env.reset(seed=[10, 1, 12, 2, 99, 3])[0], by_list)


def test_without_streams_all_is_as_it_was() -> None:
    env = make(*CHANCE, None, "NextStep", device=False)
    source = make_source(env.dynamics, ROWS, None, 5)
    assert isinstance(source, OneSource)
    expected = env.dynamics.step_noise(NumpyBackend().random(5), ROWS)
    for name, values in source.step_noise().items():
        np.testing.assert_array_equal(values, expected[name])


def test_every_step_has_noise_of_its_own_across_blocks_ahead() -> None:
    env = make(*CHANCE, 3, "SameStep", device=False)
    source = make_source(env.dynamics, 6, 3, 0)
    assert isinstance(source, SourceOfStreams)
    steps = [next(iter(source.step_noise().values())).tobytes() for _ in range(13)]
    assert len(set(steps)) == 13


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("at", [0, 1, 4, 6])
def test_the_state_goes_on(at: int, mode: AutoresetMode, device: bool) -> None:
    """Right after a reset, in the midst of what was drawn ahead, and at its end."""
    env, other = (make(*CHANCE, 3, mode, device=device) for _ in range(2))
    actions = actions_of(env, seed=1)
    env.reset(seed=SEEDS)
    other.reset(seed=0)
    play(other, actions, range(3))
    said = play(env, actions, range(at))
    state = env.state_dict()
    ended = state["done"]
    if mode is AutoresetMode.DISABLED and at:
        env.reset(options={"reset_mask": ended})
    expected = play(env, actions, range(at, STEPS))
    other.load_state_dict(state)
    if mode is AutoresetMode.DISABLED and at:
        other.reset(options={"reset_mask": ended})
    found = play(other, actions, range(at, STEPS))
    assert len(said) == at or mode is AutoresetMode.DISABLED
    for ours, theirs in zip(found, expected, strict=True):
        for one, another in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, another)


def test_states_of_other_numbers_of_streams_are_refused() -> None:
    env, other = (make(*CHANCE, blocks, "SameStep", device=False, rows=6) for blocks in (3, 2))
    for each in (env, other):
        each.reset(seed=0)
        each.step(np.zeros(6, dtype=np.int64))
    with pytest.raises(ValueError, match="zip"):
        other.load_state_dict(env.state_dict())


@pytest.mark.parametrize(("blocks", "message"), [
    (4, "num_streams is 4; it must divide the 6 rows"), (0, "num_streams is 0"), (7, "divide the 6 rows"),
    (1.5, "num_streams is 1.5"),
])  # fmt: skip
def test_numbers_of_streams_that_do_not_divide_the_rows_are_refused(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(*CHANCE, blocks, "SameStep", device=False, rows=6)


def test_a_step_costs_no_more_calls_for_more_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "AHEAD", 1_000)
    env = make(*CHANCE, 3, "SameStep", device=False)
    source = make_source(env.dynamics, 6, 3, 0)
    calls = []
    draw = env.dynamics.step_noise
    monkeypatch.setattr(env.dynamics, "step_noise", lambda rng, n: calls.append(n) or draw(rng, n))
    source = make_source(env.dynamics, 6, 3, 0)
    for _ in range(500):
        source.step_noise()
    assert calls == [1_000] * 3
