"""What an agent is shown, whatever the face of its environment, against the environment's exact model."""

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch._subclasses.fake_tensor import FakeTensorMode

import prefrl.envs
from prefrl.agents import QLearning
from prefrl.data import Transitions
from prefrl.data.episodes import DeviceEpisodes, HostEpisodes
from prefrl.data.metrics import Metrics
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.grids.delivery import DeliveryDynamics
from prefrl.run.loop import learn
from prefrl.run.stepping import Listener, OneRow, Stepper

ENV = "prefrl/Delivery-v0"
LIMIT = 6
"""Steps to truncation: both kinds of end then occur often."""


class Recorder(QLearning):
    """Acts uniformly and keeps what it is shown."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, device="cpu", seed=0)
        self.seen: list[Transitions] = []

    def observe(self, transitions: Transitions) -> None:
        self.seen.append(transitions)

    def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
        return torch.randint(0, 4, (len(obs),), generator=self._generator)


def sync(mode: AutoresetMode) -> Any:
    return SyncVectorEnv([lambda: gym.make(ENV, max_episode_steps=LIMIT)] * 3, autoreset_mode=mode)


FACES = {
    "scalar": lambda mode: gym.make(ENV, max_episode_steps=LIMIT),
    "sync": sync,
    "vector": lambda mode: BatchedEnv(DeliveryDynamics, 8, max_episode_steps=LIMIT, autoreset_mode=mode),
    "wrapped": lambda mode: gym.wrappers.vector.RecordEpisodeStatistics(
        BatchedEnv(DeliveryDynamics, 8, max_episode_steps=LIMIT, autoreset_mode=mode)
    ),
    "device": lambda mode: prefrl.envs.make_device(ENV, 8, max_episode_steps=LIMIT, autoreset_mode=mode),
}


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("face", FACES)
def test_every_transition_shown_is_one_of_the_model(face: str, mode: AutoresetMode) -> None:
    agent = Recorder(FACES[face](mode))
    learn(agent, 600)
    model = gym.make(ENV).unwrapped.tabular_model()
    table = {name: torch.cat([getattr(step, name) for step in agent.seen]).numpy() for name in
             ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask")}  # fmt: skip
    shown = {name: values[table["mask"]] for name, values in table.items()}
    pairs = shown["obs"], shown["actions"]
    np.testing.assert_array_equal(shown["next_obs"], model.successors[pairs][:, 0])
    np.testing.assert_allclose(shown["rewards"], model.rewards[pairs][:, 0])
    np.testing.assert_array_equal(shown["terminations"], model.terminal[shown["next_obs"]])
    assert not model.terminal[shown["obs"]].any()
    assert shown["terminations"].sum() > 10
    assert (shown["truncations"] & ~shown["terminations"]).sum() > 10
    # Only with NEXT_STEP are there rows that are no transitions: one after each end.
    ends = (table["terminations"] | table["truncations"]).sum()
    one_per_end = mode is AutoresetMode.NEXT_STEP and face != "scalar"
    assert abs((~table["mask"]).sum() - (ends if one_per_end else 0)) <= (8 if one_per_end else 0)


class Uniform:
    """A plain policy: neither an agent nor anything like it."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.asked: list[bool] = []

    def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
        self.asked.append(deterministic)
        return torch.randint(0, 4, (len(obs),), generator=self.generator)


class Record(Listener):
    """Keeps what it is told."""

    info_keys = ("shade",)

    def __init__(self) -> None:
        self.seen: list[Transitions] = []

    def observe(self, transitions: Transitions) -> None:
        self.seen.append(transitions)


@pytest.mark.parametrize("face", FACES)
def test_a_plain_policy_and_listener_are_enough(face: str) -> None:
    agent = Recorder(FACES[face](AutoresetMode.SAME_STEP))
    of_agent = Stepper.of_agent(agent)
    agent._generator.manual_seed(0)
    record = Record()
    record.info_keys = ()
    plain = Stepper(FACES[face](AutoresetMode.SAME_STEP), Uniform(), record, seed=agent.seed)
    for stepper in (of_agent, plain):
        stepper.reset()
        for _ in range(20):
            stepper.step()
    for one, other in zip(agent.seen, record.seen, strict=True):
        for name in ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert plain.timesteps == 20 * plain.num_envs


def test_a_listener_says_which_infos_it_needs_and_none_is_needed() -> None:
    class Shaded(gym.Wrapper):  # type: ignore[type-arg]
        def step(self, action: Any) -> Any:
            *rest, info = self.env.step(action)
            return *rest, {**info, "shade": 0.5, "other": 1.0}

    policy, record = Uniform(), Record()
    stepper = Stepper(Shaded(gym.make(ENV)), policy, record, deterministic=True)
    stepper.reset()
    stepper.step()
    assert {key: value.tolist() for key, value in record.seen[0].infos.items()} == {"shade": [0.5]}
    assert policy.asked == [True]
    alone = Stepper(Shaded(gym.make(ENV)), policy)
    alone.reset()
    assert alone.step()["transitions"].infos == {}
    assert policy.asked == [True, False]


def test_episodes_are_seeded_by_the_seed_and_the_timesteps() -> None:
    def start(seed: int, timesteps: int) -> list[int]:
        stepper = Stepper(FACES["vector"](AutoresetMode.SAME_STEP), Uniform(), seed=seed)
        stepper.reset(timesteps)
        found: list[int] = stepper.obs.tolist()
        return found

    assert start(1, 0) == start(1, 0)
    assert start(1, 0) != start(1, 8)
    assert start(1, 0) != start(2, 0)


def plain_episodes(seen: list[Transitions], row: int) -> list[tuple[float, int]]:
    """Returns and lengths of the episodes of one row, one transition at a time."""
    episodes, total, length = [], 0.0, 0
    for step in seen:
        if step.mask[row]:
            total, length = total + float(step.rewards[row]), length + 1
        if step.terminations[row] or step.truncations[row]:
            episodes.append((total, length))
            total, length = 0.0, 0
    return episodes


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("face", ["vector", "device"])
def test_episode_statistics(face: str, mode: AutoresetMode) -> None:
    agent = Recorder(FACES[face](mode))
    stepper = Stepper.of_agent(agent)
    stepper.reset()
    for _ in range(9):
        stepper.step()
    if face == "device":  # reports what ended since the last report
        stepper.episodes.reported()
    known = {row: len(plain_episodes(agent.seen, row)) for row in range(8)}
    for _ in range(11):
        stepper.step()
    expected = [
        episode
        for row in range(8)
        for episode in plain_episodes(agent.seen, row)[known[row] if face == "device" else 0 :]
    ]
    assert len(expected) > 8
    totals = [sum(r for r, _ in expected), sum(n for _, n in expected), len(expected)]
    assert stepper.episodes.totals().tolist() == pytest.approx(totals)


def test_the_host_reports_the_last_hundred_episodes() -> None:
    episodes = HostEpisodes(1)
    for value in range(250):
        episodes.add(np.array([float(value)]), np.array([True]), np.array([True]))
    assert episodes.totals().tolist() == [sum(range(150, 250)), 100, 100]
    episodes.reported()
    assert episodes.totals()[2] == 100


@pytest.mark.parametrize("kind", [HostEpisodes, lambda n: DeviceEpisodes(n, torch.device("cpu"))])
def test_masked_rows_do_not_count(kind: Any) -> None:
    episodes = kind(2)
    convert = np.array if kind is HostEpisodes else torch.tensor
    for mask, ended in (
        ((True, True), (False, False)),
        ((False, True), (False, True)),
        ((True, True), (True, False)),
    ):
        episodes.add(convert([1.0, 10.0]), convert(mask), convert(ended))
    assert episodes.totals().tolist() == [2.0 + 20.0, 2.0 + 2.0, 2.0]
    alone = kind(1)
    for mask, ended in ((True, False), (False, False), (True, True), (True, True)):
        alone.add(convert([3.0]), convert([mask]), convert([ended]))
    assert alone.totals().tolist() == [6.0 + 3.0, 2.0 + 1.0, 2.0]


def test_the_same_seed_gives_the_same_run() -> None:
    def seen(seed: int) -> torch.Tensor:
        agent = Recorder(prefrl.envs.make_device(ENV, 8))
        agent.seed = seed
        learn(agent, 80)
        return torch.stack([step.obs for step in agent.seen])

    assert torch.equal(seen(0), seen(0))
    assert not torch.equal(seen(0), seen(1))


def test_an_on_device_step_never_waits_for_the_device() -> None:
    """Fake tensors have no values: reading one raises."""
    with FakeTensorMode():
        env = prefrl.envs.make_device(ENV, 16, device="cpu", max_episode_steps=LIMIT)
        agent = QLearning(env, device="cpu")
        stepper, metrics = Stepper.of_agent(agent), Metrics()
        stepper.reset()
        for _ in range(3):
            stepper.step()
            metrics.add(agent.update())
        with pytest.raises(Exception, match=r"data-dependent|DataDependent|_local_scalar_dense"):
            metrics.means()


def test_an_agent_without_environment_cannot_learn() -> None:
    from prefrl.agents.base import Spaces

    with pytest.raises(ValueError, match="the agent has no environment to learn in"):
        learn(QLearning(Spaces(gym.spaces.Discrete(2), gym.spaces.Discrete(2)), device="cpu"), 10)


def test_only_what_can_be_restored_has_a_state() -> None:
    """A wrapper of somebody else's may have a state of its own."""
    envs = {
        "standard": gym.make(ENV),
        "plain": gym.make(ENV).unwrapped,
        "wrapped": gym.wrappers.RecordEpisodeStatistics(gym.make(ENV)),
        "other": gym.make("FrozenLake-v1"),
    }
    told = {}
    for name, env in envs.items():
        stepper = Stepper.of_agent(QLearning(env, device="cpu"))
        stepper.reset()
        told[name] = stepper.state_dict() is not None
    assert told == {"standard": True, "plain": True, "wrapped": False, "other": False}


def test_a_restored_episode_is_cut_when_the_first_one_is() -> None:
    def one_row() -> OneRow:
        env = OneRow(gym.make(ENV, max_episode_steps=LIMIT))
        env.reset(seed=0, options={"cell": (0, 0)})
        return env

    up = np.array([0])  # into the edge, where the van stays
    env, restored = one_row(), one_row()
    for _ in range(LIMIT - 2):
        env.step(up)
    restored.load_state_dict(env.state_dict() or {})
    for cut in (False, True):
        assert [row.step(up)[3].tolist() for row in (env, restored)] == [[cut], [cut]]


# One row -----------------------------------------------------------------------------------------------

ONE_ROW_ENVS = {
    "own": lambda: gym.make(ENV, max_episode_steps=LIMIT),
    "lottery": lambda: gym.make(
        "prefrl/RandomGrid-v0", layout_seed=3, stochastic=True, max_episode_steps=LIMIT
    ),
    "CartPole": lambda: gym.make("CartPole-v1", max_episode_steps=20),
    "continuous": lambda: gym.make("Pendulum-v1", max_episode_steps=15),
    "discrete": lambda: gym.make("FrozenLake-v1"),
    "wrapped": lambda: gym.wrappers.FlattenObservation(gym.make("FrozenLake-v1")),
}  # fmt: skip


def assert_alike(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ONE_ROW_ENVS)
def test_one_row_is_gymnasiums_vector_of_one(name: str) -> None:
    ours = OneRow(ONE_ROW_ENVS[name]())
    theirs = SyncVectorEnv([ONE_ROW_ENVS[name]], autoreset_mode=AutoresetMode.SAME_STEP)
    for side in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, side) == getattr(theirs, side)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"]
    assert ours.num_envs == 1
    assert_alike(ours.reset(seed=7)[0], theirs.reset(seed=7)[0])
    theirs.action_space.seed(7)
    ends = 0
    for _ in range(90):
        actions = theirs.action_space.sample()
        mine, plain = ours.step(actions), theirs.step(actions)
        for one, other in zip(mine[:4], plain[:4], strict=True):
            assert_alike(one, other)
        assert ("final_obs" in mine[4]) == ("final_obs" in plain[4]) == bool(mine[2] | mine[3])
        if "final_obs" in mine[4]:
            ends += 1
            assert mine[4]["_final_obs"].tolist() == [True]
            # An array of the space's kind, where Gymnasium's holds objects.
            assert mine[4]["final_obs"].dtype == ours.observation_space.dtype
            np.testing.assert_array_equal(mine[4]["final_obs"][0], plain[4]["final_obs"][0])
    assert ends > 2


def test_one_row_hands_out_arrays_of_its_own() -> None:
    class Reuses(gym.Env):  # type: ignore[type-arg]
        """Writes every observation into the same array, in another dtype than its space's."""

        observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
        action_space = gym.spaces.Discrete(2)
        held = np.zeros(2)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            self.held[:] = 0.0
            return self.held, {}

        def step(self, action: Any) -> Any:
            self.held += 1.0
            return self.held, 1, self.held[0] >= 3, False, {}

    env = OneRow(Reuses())
    seen = [env.reset(seed=0)[0]]
    finals = []
    for _ in range(4):
        obs, rewards, *_, infos = env.step(np.array([0]))
        seen.append(obs)
        assert (obs.dtype, rewards.dtype) == (np.float32, np.float64)
        finals += [infos["final_obs"].tolist()] if "final_obs" in infos else []
    assert [obs[0, 0] for obs in seen] == [0.0, 1.0, 2.0, 0.0, 1.0]
    assert finals == [[[3.0, 3.0]]]


@pytest.mark.parametrize("steps", [1, LIMIT - 1, LIMIT, 9])
def test_one_row_goes_on_from_its_state(steps: int) -> None:
    make = ONE_ROW_ENVS["lottery"]
    env, restored = OneRow(make()), OneRow(make())
    rng = np.random.default_rng(0)
    env.reset(seed=3)
    restored.reset(seed=99)
    for _ in range(steps):
        env.step(rng.integers(4, size=1))
    restored.load_state_dict(env.state_dict() or {})
    for _ in range(40):
        actions = rng.integers(4, size=1)
        for one, other in zip(env.step(actions)[:4], restored.step(actions)[:4], strict=True):
            assert_alike(one, other)
    with pytest.raises(ValueError, match="state of an environment of prefrl; this is another"):
        OneRow(gym.make("CartPole-v1")).load_state_dict({})


def test_closing_one_row_closes_the_environment() -> None:
    closed = []
    env = gym.make(ENV)
    env.unwrapped.close = lambda: closed.append(True)
    OneRow(env).close()
    assert closed == [True]


# Environments that go on writing to what they returned ---------------------------------------------------


class Count(gym.Env[Any, Any]):
    """Observes how many steps there were; truncates after five. Reports it, as a list, and clips actions."""

    observation_space = gym.spaces.Box(-1.0, 99.0, (1,), np.float32)
    action_space = gym.spaces.Box(-9.0, 9.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seen = np.zeros(1, np.float32)
        return self.seen, {}

    def step(self, action: Any) -> Any:
        np.clip(action, -1.0, 1.0, out=action)
        self.seen += 1.0
        told = {"steps": [float(self.seen[0]), 0.5]}
        return self.seen, 2.0, False, bool(self.seen[0] >= 5.0), told


class CountInArrays(Count):
    """Pays arrays of one number, and flags that are such."""

    def step(self, action: Any) -> Any:
        obs, *step, told = super().step(action)
        return obs, *(np.array([value]) for value in step), told


class OneBuffer(gym.vector.VectorWrapper):
    """Hands out the same tensors at every step, as simulators do that never allocate."""

    def reset(self, **kwargs: Any) -> Any:
        obs, info = self.env.reset(**kwargs)
        self.kept = obs.clone()
        return self.kept, info

    def step(self, actions: Any) -> Any:
        obs, self.rewards, *rest = self.env.step(actions)
        actions.zero_()
        return self.kept.copy_(obs), self.rewards, *rest


class Nines:
    """A policy that always gives 9."""

    device = torch.device("cpu")

    def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
        return torch.full((len(obs), 1), 9.0)


class All(Listener):
    """Keeps every step as it was shown."""

    def __init__(self, *info_keys: str) -> None:
        self.info_keys, self.steps = info_keys, list[Transitions]()

    def observe(self, transitions: Transitions) -> None:
        self.steps.append(transitions)


def shared(mode: AutoresetMode) -> Any:
    return SyncVectorEnv([Count] * 3, copy=False, autoreset_mode=mode)


@pytest.mark.parametrize("make", [
    Count, CountInArrays, lambda: shared(AutoresetMode.SAME_STEP), lambda: shared(AutoresetMode.NEXT_STEP),
    lambda: gym.wrappers.vector.RecordEpisodeStatistics(shared(AutoresetMode.SAME_STEP)),
])  # fmt: skip
def test_what_is_shown_stays_as_it_was_seen(make: Any) -> None:
    listener = All("steps")
    stepper = Stepper(make(), Nines(), listener)
    stepper.reset()
    for _ in range(13):
        stepper.step()
    counted = 0
    for step in listener.steps:
        real = step.mask
        assert torch.equal(step.next_obs[real], step.obs[real] + 1.0)
        assert (step.rewards[real] == 2.0).all()
        assert (step.actions == 9.0).all(), "not what the environment made of them"
        assert torch.equal(step.truncations[real], step.next_obs[real][:, 0] == 5.0)
        assert torch.equal(
            step.infos["steps"][real], torch.cat([step.next_obs, step.next_obs * 0 + 0.5], 1)[real]
        )
        counted += int(real.sum())
    assert counted >= 11 * stepper.num_envs


class Broken(gym.Env[Any, Any]):
    """Its last number becomes infinite after two steps."""

    action_space = Count.action_space

    def __init__(self, size: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.count = 0
        return np.ones(self.observation_space.shape or (), np.float32), {}

    def step(self, action: Any) -> Any:
        obs = np.ones(self.observation_space.shape or (), np.float32)
        self.count += 1
        obs[-1] = np.inf if self.count == 2 else 1.0
        return obs, 1.0, False, False, {}


@pytest.mark.parametrize("size", [1, 16, 17])
def test_observations_of_any_size_are_looked_at(size: int) -> None:
    stepper = Stepper(Broken(size), Nines())
    stepper.reset()
    stepper.step()
    with pytest.raises(FloatingPointError, match="observation is inf after timestep 1"):
        stepper.step()


def test_a_successor_is_brought_to_the_device_once() -> None:
    listener = All("steps")
    stepper = Stepper(Count(), Nines(), listener)
    stepper.reset()
    for _ in range(13):
        stepper.step()
    again = [after.obs is before.next_obs for before, after in pairwise(listener.steps)]
    ended = [bool(step.truncations) for step in listener.steps[:-1]]
    assert again == [not end for end in ended]
    assert any(ended)


def test_what_a_device_shows_stays_as_it_was_seen() -> None:
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 4, max_episode_steps=5)
    seen = []
    for wrap in (lambda inner: inner, OneBuffer):
        listener = All()
        stepper = Stepper(wrap(env), Nines(), listener)
        stepper.reset()
        for _ in range(7):
            stepper.step()
        seen.append(listener.steps)
    for plain, wrapped in zip(*seen, strict=True):
        assert torch.equal(plain.obs, wrapped.obs)
        assert torch.equal(plain.next_obs, wrapped.next_obs)
        assert torch.equal(plain.actions, wrapped.actions)


def test_a_step_in_which_all_rows_restart_tells_nothing() -> None:
    """Gymnasium's infos are those of the resets then, and have no steps."""
    listener = All("steps")
    stepper = Stepper(shared(AutoresetMode.NEXT_STEP), Nines(), listener)
    stepper.reset()
    for _ in range(7):
        stepper.step()
    masks = [bool(step.mask.any()) for step in listener.steps]
    assert masks == [True] * 5 + [False, True]
    assert listener.steps[5].infos["steps"].shape == (3, 2)


def test_infos_that_are_no_numbers_are_refused() -> None:
    class Words(Count):
        def step(self, action: Any) -> Any:
            *step, _ = super().step(action)
            return *step, {"steps": ["many"]}

    stepper = Stepper(SyncVectorEnv([Words] * 2), Nines(), All("steps"))
    stepper.reset()
    with pytest.raises(ValueError, match=r"info\['steps'\] is .*many.*it must be numbers"):
        stepper.step()


def test_a_reward_of_two_numbers_is_refused() -> None:
    class Pair(Count):
        def step(self, action: Any) -> Any:
            obs, _, *rest = super().step(action)
            return obs, np.ones(2), *rest

    stepper = Stepper(Pair(), Nines())
    stepper.reset()
    with pytest.raises(ValueError, match=r"reward has shape \(2,\); it must be one number"):
        stepper.step()


@pytest.mark.parametrize(("shared_memory", "mode", "right"), [
    (False, AutoresetMode.NEXT_STEP, False), (False, AutoresetMode.SAME_STEP, True),
    (True, AutoresetMode.NEXT_STEP, True),
])  # fmt: skip
def test_workers_that_reset_twice_are_refused(shared_memory: bool, mode: AutoresetMode, right: bool) -> None:
    env = gym.vector.AsyncVectorEnv([Count], shared_memory=shared_memory, autoreset_mode=mode)
    try:
        if right:
            Stepper(env, Nines())
        else:
            with pytest.raises(ValueError, match="ignores the first action after a reset; make it with SAME"):
                Stepper(env, Nines())
    finally:
        env.close()
