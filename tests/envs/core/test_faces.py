"""The three faces of every registered environment: same trajectories, Gymnasium's rules, continuation."""

import copy
import io
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import prefrl.envs
import prefrl.envs.core.dynamics
import prefrl.envs.grids.delivery
from prefrl.envs.core.backend import NumpyRandom
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.wrappers import DiscreteTimeTask

# Settings of families beyond the registered defaults: each needs its own run through the generic tests.
VARIANTS = [("prefrl/RandomGrid-v0", {"stochastic": True, "layout_seed": 2})]
DIFFUSIONS = prefrl.envs.DIFFUSION_IDS
HORIZON = [i for i, family in prefrl.envs.REGISTRY.items() if not family.max_episode_steps]
"""Families that end by themselves, after a number of steps."""

SHORT = {
    **{env_id: {"dt": 0.125} if env_id in DIFFUSIONS else {"horizon": 7} for env_id in HORIZON},
    "prefrl/TokenTree-v0": {"depth": 3, "prompts": 3},
    "prefrl/ProgramSynthesis-v0": {"depth": 4, "prompts": 3},
    "prefrl/PreferenceBandit-v0": {"arms": 4, "preferences": "intransitive"},
    "prefrl/WindowTSP-v0": {"cities": 4, "layout_seed": 1},
    "prefrl/TwentyQuestions-v0": {"items": 5, "features": 6, "error": 0.1, "cost": 0.25},
    "prefrl/Ring-v0": {"context": "rotation"},
    "prefrl/LotteryChoice-v0": {"prizes": 4, "layout_seed": 1},
}

FAMILIES = [
    *((env_id, SHORT.get(env_id, {})) for env_id in prefrl.envs.REGISTRY),
    ("prefrl/LQPlane-v0", {"scheme": "euler", "substeps": 3, "x0_spread": 0.5, "C": 0.1}),
    *VARIANTS,
    ("prefrl/SecondPriceBudget-v0", {"horizon": 7, "input_model": "ergodic"}),
    ("prefrl/NetworkRevenue-v0", {"horizon": 7, "m": 2, "d": 3, "input_model": "periodic"}),
    ("prefrl/MultiSecretary-v0", {"horizon": 7, "stop_when_empty": True, "input_model": "drift"}),
]
MODES = list(AutoresetMode)
ROWS, STEPS, LIMIT = 6, 60, 9
NEVER_TERMINATE = {
    "prefrl/Pendulum-v0",
    "prefrl/TrafficGrid-v0",
    *(i for i in DIFFUSIONS if i not in HORIZON),
    "prefrl/MinAtar-Asterix-v0",
    "prefrl/MinAtar-Freeway-v0",
}
"""Families whose episodes only the time limit ends, or nothing else within so few steps."""

ONE_STEP = ("prefrl/PreferenceBandit-v0", "prefrl/Ring-v0", "prefrl/LotteryChoice-v0")
"""Families whose episodes are one step."""

LIMITS = {"prefrl/CartPole-v0": 20, "prefrl/MinAtar-SpaceInvaders-v0": 25}
"""Where episodes of LIMIT steps are too short for both kinds of ending, with starts as below."""

# Starts near an end, where a random walk from a usual start would reach none within the limit.
STARTS = {
    "prefrl/Acrobot-v0": {"low": -2.5, "high": 2.5},
    "prefrl/MountainCar-v0": {"low": 0.48, "high": 0.4999},
    "prefrl/MountainCarContinuous-v0": {"low": 0.43, "high": 0.4499},
}

STEERED = [i for i in DIFFUSIONS if isinstance(gym.make(i).action_space, gym.spaces.Box)]
"""SB3 takes bounded actions only."""

every_family = pytest.mark.parametrize(
    ("env_id", "kwargs"), FAMILIES, ids=["-".join([i, *k]) for i, k in FAMILIES]
)
every_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)


def limit_of(env_id):
    return LIMITS.get(env_id, LIMIT)


def random_actions(space, rng, *shape):
    """Random actions [*shape, ...] of a single action space."""
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n, size=shape)
    if isinstance(space, gym.spaces.MultiBinary):
        return rng.integers(2, size=(*shape, space.n), dtype=np.int8)
    low, high = space.low.clip(-2.0, 2.0), space.high.clip(-2.0, 2.0)
    return rng.uniform(low, high, (*shape, *space.shape)).astype(space.dtype)


def make_vector(env_id, kwargs, mode=AutoresetMode.NEXT_STEP, num_envs=ROWS, **more):
    return gym.make_vec(
        env_id, num_envs, autoreset_mode=mode, **{"max_episode_steps": limit_of(env_id), **kwargs, **more}
    )


def make_sync(env_id, kwargs, mode, vectorization_mode="sync"):
    """The scalar face, put into a vector by Gymnasium."""
    options = {"vectorization_mode": vectorization_mode, "vector_kwargs": {"autoreset_mode": mode}}
    return gym.make_vec(env_id, ROWS, **options, max_episode_steps=limit_of(env_id), **kwargs)


def make_device(env_id, kwargs, mode=AutoresetMode.SAME_STEP, num_envs=ROWS, **more):
    more = {"max_episode_steps": limit_of(env_id), "autoreset_mode": mode, **more}
    return prefrl.envs.make_device(env_id, num_envs, **more, **kwargs)


class Tape:
    """Noise and actions, recorded once and played to any face: all that is random happens at its clock."""

    def __init__(self, dynamics, action_space, seed=0, options=None):
        rng = NumpyRandom(np.random.default_rng(seed))
        self.resets = [dynamics.reset_noise(rng, ROWS) for _ in range(STEPS + 1)]
        self.steps = [dynamics.step_noise(rng, ROWS) for _ in range(STEPS + 1)]
        action_space.seed(seed)
        self.actions = [np.array([action_space.sample() for _ in range(ROWS)]) for _ in range(STEPS + 1)]
        self.options = options
        self.clock = 0

    def play(self, dynamics, rows=slice(None)):
        """Make ``dynamics`` read its noise here."""

        def read(recorded):
            noise = recorded[self.clock]
            return {name: dynamics.backend.asarray(value[rows].copy()) for name, value in noise.items()}

        dynamics.reset_noise = lambda rng, n: read(self.resets)
        dynamics.step_noise = lambda rng, n: read(self.steps)
        if self.options is not None:  # at the restarts within a step too
            initial = type(dynamics).initial
            dynamics.initial = lambda noise, _=None: initial(dynamics, noise, self.options)


def host(values):
    """Copy a numpy array or a tensor into numpy; of a dict of them, put the columns side by side."""
    if isinstance(values, dict):
        parts = [np.asarray(values[name]) for name in sorted(values)]
        return np.concatenate(parts, axis=-1)
    return np.asarray(values).copy()


def plain(values):
    """Values that == compares: arrays as lists."""
    if isinstance(values, dict):
        return {name: plain(part) for name, part in values.items()}
    return values.tolist() if isinstance(values, np.ndarray) else values


def final_rows(final, ended):
    """The final observations of the rows that ended, of our vectors and of Gymnasium's own."""
    if isinstance(final, dict):
        return host(final)[ended]
    rows = [final[row] for row in np.flatnonzero(ended)]
    return np.array([host(row) if isinstance(row, dict) else row for row in rows])


def play(tape, env, mode, dynamics_of_rows=None):
    """Run ``env`` along the tape; return all it said, as numpy arrays."""
    if dynamics_of_rows is None:
        tape.play(env.unwrapped.dynamics)
    else:
        for row, dynamics in enumerate(dynamics_of_rows):
            tape.play(dynamics, slice(row, row + 1))
    tape.clock = 0
    obs, _ = env.reset()
    said = [{"obs": host(obs)}]
    for tape.clock in range(1, STEPS + 1):
        obs, rewards, terminated, truncated, infos = env.step(tape.actions[tape.clock])
        arrays = {"obs": host(obs), "rewards": rewards, "terminated": terminated, "truncated": truncated}
        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        ended = arrays["terminated"] | arrays["truncated"]
        if mode is AutoresetMode.SAME_STEP and ended.any():
            arrays["final_obs"] = final_rows(infos["final_obs"], ended)
            np.testing.assert_array_equal(np.asarray(infos["_final_obs"]), ended)
        if mode is AutoresetMode.DISABLED and ended.any():
            obs, _ = env.reset(options={"reset_mask": terminated | truncated})
            arrays["restarted"] = host(obs)
        said.append(arrays)
    return said


def assert_same(said, reference, rtol=0.0):
    """All equal; with ``rtol`` so much rounding is allowed; float32 on the host counts as such."""
    for t, (left, right) in enumerate(zip(said, reference, strict=True)):
        assert left.keys() == right.keys(), t
        for name in right:
            at = f"{name} at step {t}"
            if not rtol or right[name].dtype.kind != "f":
                np.testing.assert_array_equal(left[name], right[name], err_msg=at)
            else:
                allowed = 2e-7 if right[name].dtype == np.float32 else rtol
                np.testing.assert_allclose(left[name], right[name], rtol=allowed, atol=allowed, err_msg=at)


# Same noise, same trajectory -------------------------------------


@every_mode
@every_family
def test_same_noise_same_trajectory_on_every_face(env_id, kwargs, mode):
    """The reference is the scalar face under Gymnasium's own TimeLimit and SyncVectorEnv."""
    sync = make_sync(env_id, kwargs, mode)
    tape = Tape(sync.envs[0].unwrapped.dynamics, sync.single_action_space, options=STARTS.get(env_id))
    reference = play(tape, sync, mode, [env.unwrapped.dynamics for env in sync.envs])
    ends = np.array([[a["terminated"].sum(), a["truncated"].sum()] for a in reference[1:]]).sum(0)
    by_themselves = env_id in HORIZON
    assert (ends[1] > 0) != by_themselves, "the tape must show both kinds of ending"
    assert (ends[0] > 0) == (env_id not in NEVER_TERMINATE), "the tape must show both kinds of ending"

    # Finite worlds are equal to the bit; elsewhere NumPy and torch have sines of their own.
    rtol = 0.0 if isinstance(sync.single_observation_space, gym.spaces.Discrete) else 1e-12
    assert_same(play(tape, make_vector(env_id, kwargs, mode), mode), reference, rtol)
    device = make_device(env_id, kwargs, mode, float_dtype=torch.float64)
    assert_same(play(tape, device, mode), reference, rtol)


@every_family
def test_noise_is_all_there_is_to_chance(env_id, kwargs):
    dynamics = make_vector(env_id, kwargs).dynamics
    tape = Tape(dynamics, dynamics.single_action_space)
    start, again = (dynamics.initial(tape.resets[0]) for _ in range(2))
    assert_same([start], [again])
    kept = copy.deepcopy((start, tape.actions[1], tape.steps[1]))
    first, second = (dynamics.step(start, tape.actions[1], tape.steps[1]) for _ in range(2))
    assert_same([first[0]], [second[0]])
    assert_same([kept[0], kept[2]], [start, tape.steps[1]])  # nothing was written to
    np.testing.assert_array_equal(kept[1], tape.actions[1])


def spoil_obs(obs):
    for part in obs.values() if isinstance(obs, dict) else [obs]:
        part[...] = 0


@every_family
@pytest.mark.parametrize("make", [make_vector, make_device])
def test_observations_belong_to_the_caller(env_id, kwargs, make):
    runs = []
    for spoil in (False, True):
        env = make(env_id, kwargs, AutoresetMode.SAME_STEP)
        obs, _ = env.reset(seed=3)
        run = []
        for step in range(30):
            run.append(host(obs))
            if spoil:
                spoil_obs(obs)
            actions = random_actions(env.single_action_space, np.random.default_rng(step), ROWS)
            obs, _, _, _, infos = env.step(actions)
            if spoil and "final_obs" in infos:
                spoil_obs(infos["final_obs"])
                infos["_final_obs"][...] = True
        runs.append(run)
    np.testing.assert_array_equal(runs[0], runs[1])


# Gymnasium's and Stable-Baselines3's rules -----------------------


# What the checkers would rather have otherwise, and say of Gymnasium's own spaces too.
KNOWN = {
    "prefrl/CartPole-v0": [".*observation space (min|max)imum value is -?infinity.*"],
    "prefrl/Pendulum-v0": [".*symmetric and normalized.*"],
    "prefrl/TrafficGrid-v0": [".*infinity.*"],
    "prefrl/SecondPriceBudget-v0": [".*symmetric and normalized.*"],
    "prefrl/EntropyMatching-v0": [".*symmetric and normalized.*"],
    **{env_id: [".*infinity.*", ".*symmetric and normalized.*"] for env_id in DIFFUSIONS},
    **{
        env_id: [".*observation( space)? +is an image.*", ".*resolution for an image.*"]
        for env_id in prefrl.envs.MINATAR_IDS
    },
}


@every_family
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_checkers_have_nothing_to_say(env_id, kwargs, render_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for message in KNOWN.get(env_id, ()):
            warnings.filterwarnings("ignore", message)
        env = gym.make(env_id, render_mode=render_mode, **kwargs)
        check_env(env.unwrapped)
        bounded = DiscreteTimeTask(env, action_bound=2.0) if env_id in STEERED else env
        sb3_check_env(bounded)


def test_module_prefix_registers_the_ids():
    code = 'import gymnasium; print(gymnasium.make("prefrl.envs:prefrl/Delivery-v0").reset(seed=0))'
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("(")
    assert result.stdout.endswith(", {})\n")


@every_family
def test_registered_time_limit_holds_in_every_face(env_id, kwargs):
    limit = prefrl.envs.REGISTRY[env_id].max_episode_steps
    assert gym.make(env_id, **kwargs).spec.max_episode_steps == limit
    assert gym.make_vec(env_id, **kwargs).max_episode_steps == limit
    assert prefrl.envs.make_device(env_id, 1, **kwargs).max_episode_steps == limit
    assert gym.make_vec(env_id, max_episode_steps=None, **kwargs).max_episode_steps is None


@every_family
def test_spaces_and_metadata_of_the_vector_faces(env_id, kwargs):
    single = gym.make(env_id, **kwargs)
    for mode in MODES:
        for env in (make_vector(env_id, kwargs, mode), make_device(env_id, kwargs, mode)):
            assert env.metadata["autoreset_mode"] is mode
            assert env.single_observation_space == single.observation_space
            assert env.single_action_space == single.action_space
            space = env.observation_space
            spaces = [*space.values()] if isinstance(space, gym.spaces.Dict) else [space]
            assert {part.shape[0] for part in [*spaces, env.action_space]} == {ROWS}
    assert make_vector(env_id, kwargs).metadata is not type(make_vector(env_id, kwargs)).metadata


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_gymnasium_statistics_wrapper_agrees_with_its_own_vector(mode):
    """RecordEpisodeStatistics counts alike over our vector and over Gymnasium's."""
    env_id, statistics = "prefrl/Delivery-v0", []
    sync = make_sync(env_id, {}, mode)
    tape = Tape(sync.envs[0].unwrapped.dynamics, sync.single_action_space)
    for env, rows in (
        (sync, [e.unwrapped.dynamics for e in sync.envs]),
        (make_vector(env_id, {}, mode), None),
    ):
        wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
        play(tape, wrapped, mode, rows)
        statistics.append((list(wrapped.return_queue), list(wrapped.length_queue)))
    assert statistics[0] == statistics[1]
    assert len(statistics[0][0]) > ROWS


def test_async_vector_env_steps_and_restarts():
    env = make_sync("prefrl/RandomGrid-v0", {"layout_seed": 1}, AutoresetMode.NEXT_STEP, "async")
    try:
        obs, _ = env.reset(seed=0)
        assert obs.shape == (ROWS,)
        ends = 0
        for _ in range(LIMIT + 2):
            obs, rewards, terminated, truncated, _ = env.step(np.zeros(ROWS, dtype=np.int64))
            ends += (terminated | truncated).sum()
        assert ends >= ROWS
        assert env.observation_space.contains(obs)
        assert np.isfinite(rewards).all()
    finally:
        env.close()


# Autoreset by hand -----------------------------------------------


def test_next_step_shows_the_reset_on_the_row_after_the_end():
    """From (8, 8), right enters the goal; see the board."""
    env = gym.make_vec("prefrl/Delivery-v0", 1)
    env.reset(seed=0, options={"cell": (8, 8)})
    obs, rewards, terminated, truncated, _ = env.step([3])
    assert (obs[0], rewards[0], terminated[0], truncated[0]) == (89, 50.0, True, False)
    obs, rewards, terminated, truncated, infos = env.step([3])
    assert (rewards[0], terminated[0], truncated[0], infos) == (0.0, False, False, {})
    assert obs[0] != 89
    assert env.step([0])[1][0] != 0.0


def test_same_step_keeps_the_true_successor():
    env = gym.make_vec("prefrl/Delivery-v0", 2, autoreset_mode="SameStep")
    env.reset(seed=0, options={"cell": (8, 8)})
    obs, rewards, terminated, _, infos = env.step([3, 2])
    assert rewards.tolist() == [50.0, -2.0]
    assert terminated.tolist() == [True, False]
    assert infos["final_obs"].tolist() == [89, 87]
    assert infos["_final_obs"].tolist() == [True, False]
    assert obs[0] != 89
    assert obs[1] == 87
    assert env.step([0, 0])[4] == {}, "no row ended, nothing to say"


def test_disabled_waits_for_the_reset_of_each_row():
    env = gym.make_vec("prefrl/Delivery-v0", 2, autoreset_mode="Disabled")
    env.reset(seed=0, options={"cell": (8, 8)})
    obs, _, terminated, _, infos = env.step([3, 2])
    assert obs.tolist() == [89, 87]
    assert infos == {}
    with pytest.raises(ResetNeeded, match="reset_mask"):
        env.step([0, 0])
    obs, _ = env.reset(options={"reset_mask": terminated, "cell": (5, 5)})
    assert obs.tolist() == [55, 87]
    assert env.step([0, 2])[0].tolist() == [45, 86]


@pytest.mark.parametrize("make", [make_vector, make_device])
def test_each_row_has_its_own_clock(make):
    """A row that was reset by mask is truncated LIMIT steps later, not with the others."""
    env = make("prefrl/Delivery-v0", {}, AutoresetMode.DISABLED, num_envs=2)
    env.reset(seed=0, options={"cell": (5, 5)})
    wander = [[0, 1][t % 2] for t in range(2 * LIMIT)]
    seen = []
    for t, action in enumerate(wander[: LIMIT - 2]):
        truncated = env.step([action, action])[3]
        seen.append(truncated.tolist())
        if t == 2:
            first = np.array([True, False])
            mask = torch.as_tensor(first) if make is make_device else first
            env.reset(options={"reset_mask": mask, "cell": (5, 5)})
    for action in wander[LIMIT - 2 : LIMIT]:
        seen.append(env.step([action, action])[3].tolist())
    assert seen[-1] == [False, True]
    assert not np.any(seen[:-1])


# Seeds and continuation ------------------------------------------


@every_family
@pytest.mark.parametrize("make", [make_vector, make_device])
def test_seeds(env_id, kwargs, make):
    def start(seed):
        env = make(env_id, kwargs, num_envs=50)
        return host(env.reset(seed=seed)[0])

    for seed in (5, np.int64(5), 2**70, list(range(50)), [None, *range(49)]):
        np.testing.assert_array_equal(start(seed), start(seed))
    told = (
        "prefrl/AdversarialKnapsack-v0",
        *prefrl.envs.RETURN_IDS,
        "prefrl/ThreeGoals-v0",
        "prefrl/Meadow-v0",
        "prefrl/WindowTSP-v0",
        "prefrl/TwentyQuestions-v0",
        *(f"prefrl/MinAtar-{game}-v0" for game in ("Asterix", "Seaquest", "SpaceInvaders")),
    )
    if env_id in told or (env_id in DIFFUSIONS and not kwargs.get("x0_spread")):
        return  # nothing at the start is random, or starts are told
    assert (start(5) != start(6)).any()
    assert (start(list(range(50))) != start(list(range(1, 51)))).any()
    assert (start(None) != start(None)).any(), "unseeded runs differ"
    assert (start([None] * 50) != start([None] * 50)).any(), "unseeded rows differ"


@every_family
def test_a_seeded_scalar_run_repeats(env_id, kwargs):
    def run():
        env = gym.make(env_id, **kwargs)
        actions = random_actions(env.action_space, np.random.default_rng(0), 5)
        return [env.reset(seed=4)] + [env.step(a) for a in actions] + [env.reset() for _ in range(5)]

    for left, right in zip(run(), run(), strict=True):
        np.testing.assert_array_equal(host(left[0]), host(right[0]))
        assert [plain(part) for part in left[1:]] == [plain(part) for part in right[1:]]


def walk(env, steps, seed):
    """Take random steps, restarting what ended where nobody else does; return all that was said."""
    said = []
    rng = np.random.default_rng(seed)
    for actions in random_actions(env.single_action_space, rng, steps, env.num_envs):
        obs, rewards, terminated, truncated, _ = env.step(actions)
        said += [host(part) for part in (obs, rewards, terminated, truncated)]
        if env.autoreset_mode is AutoresetMode.DISABLED and (terminated | truncated).any():
            said.append(host(env.reset(options={"reset_mask": terminated | truncated})[0]))
    return said


def through_a_checkpoint(state):
    """Write and read the state as a checkpoint holds it: tensors and plain numbers, no pickled objects."""

    def tensors(value):
        if isinstance(value, dict):
            return {name: tensors(part) for name, part in value.items()}
        return torch.as_tensor(value) if isinstance(value, np.ndarray) else value

    file = io.BytesIO()
    torch.save(tensors(state), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_mode
@every_family
@pytest.mark.parametrize("make", [make_vector, make_device])
def test_continuation_is_bit_equal(env_id, kwargs, mode, make):
    env = make(env_id, kwargs, mode)
    env.reset(seed=1)
    walk(env, limit_of(env_id) + 3, seed=0)
    if not env.state_dict()["elapsed"].any():  # all rows have just started anew
        walk(env, 1, seed=0)
    state = env.state_dict()
    assert state["elapsed"].any() or env_id in ONE_STEP
    expected = walk(env, 40, seed=2)
    for saved in (state, through_a_checkpoint(state)):
        other = make(env_id, kwargs, mode)
        other.load_state_dict(saved)
        for left, right in zip(walk(other, 40, seed=2), expected, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("make", [make_vector, make_device])
def test_state_of_another_environment_is_refused(make):
    env, smaller = make("prefrl/Delivery-v0", {}), make("prefrl/Delivery-v0", {}, num_envs=2)
    with pytest.raises(ResetNeeded, match="reset"):
        env.state_dict()
    smaller.reset(seed=0)
    with pytest.raises(ValueError, match=r"state holds arrays .*\(2,\).*\(6,\)"):
        env.load_state_dict(smaller.state_dict())


# Continuous actions ----------------------------------------------


class Push(prefrl.envs.core.dynamics.Dynamics):
    """A point on a line, pushed by at most 1."""

    def __init__(self, backend=None):
        super().__init__(backend)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset_noise(self, rng, n):
        return {"x": rng.normal(n, 1)}

    def step_noise(self, rng, n):
        return {"wind": rng.normal(n, 1)}

    def initial(self, noise, options=None):
        return {"x": noise["x"]}

    def observe(self, state):
        return state["x"] + 0.0

    def step(self, state, actions, noise):
        x = state["x"] + actions + noise["wind"]
        return {"x": x}, -(x**2)[:, 0], (abs(x) > 3.0)[:, 0]


def test_continuous_actions():
    scalar = prefrl.envs.core.scalar.ScalarEnv(Push())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unbounded observation, no spec: as meant
        check_env(scalar, skip_render_check=True)
    vector = prefrl.envs.core.vector.BatchedEnv(Push(), 2)
    device = prefrl.envs.core.vector.BatchedEnv(Push(TorchBackend("cpu", torch.float64)), 2)
    for env, one in ((scalar, True), (vector, False), (device, False)):
        env.reset(seed=0)
        for good in (np.float32([0.5]), np.array([0.1]), [1], [1.0]):
            env.step(good if one else np.stack([good, good]))
        bad = [(np.array([True]), "dtype"), (0.5, "shape"), (["left"], "numbers")]
        if env is not device:  # there values are trusted
            bad += [([1.5], "lie in"), ([np.nan], "lie in")]
        for action, message in bad:
            with pytest.raises(ValueError, match=f"^actions? .*({message})"):
                env.step(action if one else np.array([action, action]))


def test_a_dynamics_without_a_picture_says_so():
    for face, arguments in (
        (prefrl.envs.core.scalar.ScalarEnv, ()),
        (prefrl.envs.core.vector.BatchedEnv, (2,)),
    ):
        with pytest.raises(ValueError, match="render_mode is 'rgb_array'"):
            face(Push, *arguments, render_mode="rgb_array")
    with pytest.raises(gym.error.UnsupportedMode, match="Push has no picture"):
        Push().draw({}, 0, None)


@pytest.mark.parametrize("env_id", prefrl.envs.REGISTRY)
def test_scalar_state_goes_on_bit_equal(env_id):
    kwargs = {"stochastic": True} if "RandomGrid" in env_id else {}
    env, other = (gym.make(env_id, **kwargs).unwrapped for _ in range(2))
    with pytest.raises(gym.error.ResetNeeded, match="state_dict"):
        env.state_dict()
    env.reset(seed=3)
    other.reset(seed=9)
    rng = np.random.default_rng(0)
    for action in random_actions(env.action_space, rng, 3):
        env.step(action)
    other.load_state_dict(env.state_dict())
    for action in random_actions(env.action_space, rng, 40):
        ours, theirs = env.step(action), other.step(action)
        np.testing.assert_array_equal(host(ours[0]), host(theirs[0]))
        assert [plain(part) for part in ours[1:]] == [plain(part) for part in theirs[1:]]
        if ours[2]:
            np.testing.assert_array_equal(host(env.reset()[0]), host(other.reset()[0]))


def test_scalar_state_of_another_world_is_refused():
    env = gym.make("prefrl/Delivery-v0").unwrapped
    env.reset(seed=0)
    state = env.state_dict()
    with pytest.raises(ValueError, match="state holds arrays of shapes"):
        env.load_state_dict({**state, "state": {"speed": np.zeros(1)}})
