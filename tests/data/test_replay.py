"""Replay: what is kept, how it is drawn, n-step returns against a slow twin, a state that goes on."""

import os
import warnings
from typing import Any

import gymnasium as gym
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats

from prefrl.data import TransitionDataset, Transitions
from prefrl.data.replay import Batch, ReplayBuffer

# A transition here is (id, action, reward, next id, terminated, truncated, mask), its ids unlike all others.
Row = tuple[int, int, float, int, bool, bool, bool]


def step_of(rows: list[Row]) -> Transitions:
    obs, actions, rewards, next_obs, *flags = zip(*rows, strict=True)
    return Transitions(
        torch.tensor(obs), torch.tensor(actions), torch.tensor(rewards, dtype=torch.float32),
        torch.tensor(next_obs), *(torch.tensor(flag, dtype=torch.bool) for flag in flags),
    )  # fmt: skip


def simple_step(time: int, num_envs: int, **changes: Any) -> Transitions:
    ids = torch.arange(num_envs) + time * num_envs
    no = torch.zeros(num_envs, dtype=torch.bool)
    fields = {"obs": ids, "actions": ids % 3, "rewards": ids.float(), "next_obs": ids + num_envs,
              "terminations": no, "truncations": no, "mask": ~no}  # fmt: skip
    return Transitions(**{**fields, **changes})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(capacity: int, num_envs: int, steps: int, n_step: int = 1) -> ReplayBuffer:
    replay = ReplayBuffer(capacity, num_envs, gamma=0.5, n_step=n_step)
    for time in range(steps):
        replay.add(simple_step(time, num_envs))
    return replay


def everything(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


# The ring ----------------------------------------------------------------------------------------------


def test_the_newest_transitions_stay() -> None:
    replay = ReplayBuffer(7, 2, gamma=0.5)  # three steps of two rows
    lengths, kept = [], []
    for time in range(5):
        replay.add(simple_step(time, 2))
        lengths.append(len(replay))
        kept.append(set(replay.sample(300, generator()).obs.tolist()))
    assert lengths == [2, 4, 6, 6, 6]
    assert kept[2:] == [set(range(6)), set(range(2, 8)), set(range(4, 10))]


def test_rows_stay_together() -> None:
    batch = filled(6, 2, 5).sample(100, generator())
    assert torch.equal(batch.actions, batch.obs % 3)
    assert torch.equal(batch.returns, batch.obs.float())
    assert torch.equal(batch.next_obs, batch.obs + 2)
    assert batch.discounts.tolist() == [0.5] * 100
    assert batch.weights.tolist() == [1.0] * 100
    assert batch.next_actions is None
    assert batch.next_known is None


def test_draws_are_uniform_over_what_is_filled() -> None:
    for steps in (5, 23):  # half full, and wrapped
        replay = filled(20, 2, steps)
        drawn = replay.sample(40_000, generator(steps)).obs
        counts = torch.bincount(drawn - drawn.min(), minlength=len(replay))
        assert len(counts) == len(replay)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
        # With replacement, and one draw tells nothing of the next.
        pairs = torch.bincount((drawn[:-1] - drawn.min()) * len(replay) + drawn[1:] - drawn.min(),
                               minlength=len(replay) ** 2)  # fmt: skip
        assert stats.chisquare(pairs.numpy()).pvalue > 1e-3


def test_draws_are_the_generators() -> None:
    replay = filled(40, 2, 20)
    rng = generator(1)
    first, second = replay.sample(64, rng).obs, replay.sample(64, rng).obs
    assert torch.equal(first, replay.sample(64, generator(1)).obs)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_observations_keep_their_dtype(dtype: torch.dtype) -> None:
    replay = ReplayBuffer(4, 2, gamma=0.5)
    obs = torch.tensor([[[0, 1]], [[1, 1]]]).to(dtype)
    replay.add(simple_step(0, 2, obs=obs, next_obs=~obs if dtype == torch.bool else obs + 1))
    batch = replay.sample(50, generator())
    assert batch.obs.dtype == batch.next_obs.dtype == dtype
    assert batch.obs.shape == (50, 1, 2)
    assert {tuple(row.flatten().tolist()) for row in batch.obs} == {(0, 1), (1, 1)}


def test_rewards_are_float32_and_actions_of_any_shape() -> None:
    replay = ReplayBuffer(4, 2, gamma=0.5)
    replay.add(simple_step(0, 2, rewards=torch.tensor([0.25, 4.0], dtype=torch.float64),
                           actions=torch.tensor([[1.0, 2.0], [3.0, 4.0]])))  # fmt: skip
    batch = replay.sample(9, generator())
    assert batch.returns.dtype == batch.discounts.dtype == batch.weights.dtype == torch.float32
    assert batch.actions.shape == (9, 2)


def test_what_is_added_is_copied() -> None:
    replay, step = ReplayBuffer(2, 2, gamma=0.5), simple_step(0, 2)
    replay.add(step)
    step.rewards.fill_(99.0)
    assert set(replay.sample(50, generator()).returns.tolist()) == {0.0, 1.0}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="buffer_size is 11; 4 environments and n_step 3 need at least 12"):
        ReplayBuffer(11, 4, gamma=0.5, n_step=3)
    ReplayBuffer(12, 4, gamma=0.5, n_step=3)
    replay = ReplayBuffer(12, 4, gamma=0.5)
    with pytest.raises(ValueError, match="the replay is empty"):
        replay.sample(3, generator())
    with pytest.raises(ValueError, match="the step is of 2 environments; this replay takes 4"):
        replay.add(simple_step(0, 2))


# n-step returns ----------------------------------------------------------------------------------------


def twin(rows: list[Row], start: int, gamma: float, n_step: int) -> tuple[float, float, int, bool]:
    """Return, discount, last id and whether it is a transition, of one row's history, one step at a time."""
    total, factor, place = 0.0, 1.0, start
    while True:
        _, _, reward, next_id, terminated, truncated, _ = rows[place]
        total, factor = total + factor * reward, factor * gamma
        if terminated or truncated or place - start + 1 == n_step or place + 1 == len(rows):
            return total, 0.0 if terminated else factor, next_id, rows[start][6]
        place += 1


def history(ends: list[int], row: int, masked: bool) -> list[Row]:
    """One row's transitions: 0 goes on, 1 terminates, 2 is cut, 3 both."""
    rows: list[Row] = []
    previous = 0
    for time, end in enumerate(ends):
        number = 1000 * row + time
        if masked and previous:  # NEXT_STEP: this row is the reset
            rows.append((number, 0, 0.0, number + 500, False, False, False))
            previous = 0
        else:
            reward = float((7 * number) % 11 - 5)
            rows.append((number, number % 4, reward, number + 500, bool(end & 1), bool(end & 2), True))
            previous = end
    return rows


ends = st.sampled_from([0, 0, 0, 0, 1, 2, 3])


@given(
    num_envs=st.integers(1, 3),
    data=st.data(),
    n_step=st.integers(1, 6),
    steps=st.integers(6, 12),
    masked=st.booleans(),
)
def test_n_step_returns_equal_their_plain_twin(
    num_envs: int, data: Any, n_step: int, steps: int, masked: bool
) -> None:
    count = data.draw(st.integers(1, 30))
    rows = [
        history(data.draw(st.lists(ends, min_size=count, max_size=count)), row, masked)
        for row in range(num_envs)
    ]
    replay = ReplayBuffer(steps * num_envs + num_envs - 1, num_envs, gamma=0.5, n_step=n_step)
    for time in range(count):
        replay.add(step_of([row[time] for row in rows]))
    assert_like_the_twin(replay, rows)


def assert_like_the_twin(replay: ReplayBuffer, rows: list[list[Row]]) -> None:
    """Compare everything that is drawn from a replay with the histories of its rows."""
    count = len(rows[0])
    batch = replay.sample(40 * len(replay), generator())
    seen = set()
    fields = (batch.obs, batch.actions, batch.returns, batch.discounts, batch.next_obs, batch.weights)
    for number, action, total, discount, last, weight in set(
        zip(*(field.tolist() for field in fields), strict=True)
    ):
        row, time = divmod(number, 1000)
        expected = twin(rows[row], time, 0.5, replay.n_step)
        assert weight == expected[3]
        seen.add(number)
        if weight:
            assert (total, discount, last) == expected[:3]
            assert action == rows[row][time][1]
    kept = range(max(0, count - replay.steps), count)
    assert seen == {1000 * row + time for row in range(replay.num_envs) for time in kept}


@given(
    num_envs=st.integers(1, 3),
    data=st.data(),
    n_step=st.integers(1, 5),
    steps=st.integers(5, 8),
    masked=st.booleans(),
    events=st.lists(st.sampled_from(["go on", "go on", "cut", "relabel"]), min_size=1, max_size=24),
)
def test_cut_and_relabelled_returns_equal_their_plain_twin(
    num_envs: int, data: Any, n_step: int, steps: int, masked: bool, events: list[str]
) -> None:
    """After each step its episodes may be cut, or the rewards of the latest steps replaced."""
    count = len(events)
    rows = [
        history(data.draw(st.lists(ends, min_size=count, max_size=count)), row, masked)
        for row in range(num_envs)
    ]
    replay = ReplayBuffer(steps * num_envs, num_envs, gamma=0.5, n_step=n_step)
    for time, event in enumerate(events):
        replay.add(step_of([row[time] for row in rows]))
        if event == "cut":
            replay.cut()
            for row in rows:
                row[time] = (*row[time][:5], True, row[time][6])
        elif event == "relabel":
            latest = data.draw(st.integers(1, 2 * steps))  # more than there are do no harm
            rewards = torch.arange(latest * num_envs).reshape(latest, num_envs) - 100.0 * time
            replay.relabel(rewards)
            for back in range(min(latest, time + 1)):
                for number, row in enumerate(rows):
                    now = row[time - back]
                    row[time - back] = (*now[:2], float(rewards[-1 - back, number]), *now[3:])
    assert_like_the_twin(replay, rows)


def test_what_is_cut_and_relabelled_by_hand() -> None:
    replay = ReplayBuffer(6, 2, gamma=0.5, n_step=2)  # three steps of two rows
    replay.cut(), replay.relabel(torch.ones(4, 2))  # nothing is there
    for time in range(5):
        replay.add(simple_step(time, 2))
        if time == 3:  # which lies at the ring's beginning
            replay.cut()
    replay.relabel(torch.tensor([[9.0, 9.0], [9.0, 9.0], [1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]))
    batch = replay.sample(200, generator())
    fields = (batch.obs, batch.returns, batch.discounts, batch.next_obs)
    assert {row[0]: row[1:] for row in zip(*(field.tolist() for field in fields), strict=True)} == {
        4: (1.0 + 0.5 * 2.0, 0.25, 8), 5: (10.0 + 0.5 * 20.0, 0.25, 9),
        6: (2.0, 0.5, 8), 7: (20.0, 0.5, 9),  # cut, and not terminal
        8: (4.0, 0.5, 10), 9: (40.0, 0.5, 11),
    }  # fmt: skip


def test_a_three_step_return_by_hand() -> None:
    no, yes = False, True
    steps: list[Row] = [(0, 0, 1.0, 1, no, no, yes), (1, 0, 2.0, 2, no, no, yes), (2, 0, 4.0, 3, no, no, yes),
                        (3, 0, 8.0, 9, no, yes, yes), (4, 0, 16.0, 5, yes, no, yes)]  # fmt: skip
    replay = ReplayBuffer(5, 1, gamma=0.5, n_step=3)
    for row in steps:
        replay.add(step_of([row]))
    batch = replay.sample(200, generator())
    found = {
        obs: values
        for obs, *values in zip(*(x.tolist() for x in (batch.obs, batch.returns, batch.discounts,
                                                       batch.next_obs)), strict=True)
    }  # fmt: skip
    assert found == {
        0: [1.0 + 0.5 * 2.0 + 0.25 * 4.0, 0.125, 3],
        1: [2.0 + 0.5 * 4.0 + 0.25 * 8.0, 0.125, 9],
        2: [4.0 + 0.5 * 8.0, 0.25, 9],  # cut after two steps, and not terminal
        3: [8.0, 0.5, 9],
        4: [16.0, 0.0, 5],
    }


# State -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 4, 10, 13])  # empty, filling, full, wrapped
def test_a_restored_replay_goes_on_alike(steps: int) -> None:
    replay, restored = filled(20, 2, steps, n_step=3), filled(20, 2, 0, n_step=3)
    restored.load_state_dict(replay.state_dict(), torch.device("cpu"))
    assert len(restored) == len(replay)
    for time in range(steps, steps + 8):
        for each in (replay, restored):
            each.add(simple_step(time, 2))
        ours, theirs = (everything(each.sample(64, generator(time))) for each in (replay, restored))
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name])
            assert ours[name].dtype == theirs[name].dtype


def test_what_else_is_kept_of_a_step_comes_back_with_it() -> None:
    replay = ReplayBuffer(20, 2, gamma=0.5)
    for time in range(6):
        replay.add(simple_step(time, 2), {"stock": torch.tensor([time, -time], dtype=torch.float64)})
    restored = ReplayBuffer(20, 2, gamma=0.5)
    restored.load_state_dict(replay.state_dict(), torch.device("cpu"))
    batch = restored.sample(64, generator(0))
    step, row = batch.obs // 2, batch.obs % 2
    assert set(batch.extras) == {"stock"}
    assert batch.extras["stock"].dtype is torch.float64
    assert torch.equal(batch.extras["stock"], (step * (1 - 2 * row)).to(torch.float64))


def test_a_state_holds_what_is_filled_and_takes_no_memory() -> None:
    replay = filled(20, 2, 4)
    state = replay.state_dict()
    assert state["added"] == 4
    assert {tuple(value.shape[:2]) for value in state["storage"].values()} == {(4, 2)}
    for name, value in state["storage"].items():
        assert value.data_ptr() == replay.storage[name].data_ptr()


def test_a_replay_beyond_the_machine_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 3, "SC_PAGE_SIZE": 100}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReplayBuffer(9, 1, gamma=0.5).add(simple_step(0, 1))  # of 31 bytes each
    with pytest.warns(UserWarning, match=r"a replay of 1000 transitions takes .* this machine has 0\.0 GiB"):
        ReplayBuffer(1000, 1, gamma=0.5).add(simple_step(0, 1))


def test_a_restored_replay_is_its_own() -> None:
    replay, restored = filled(20, 2, 10), ReplayBuffer(20, 2, gamma=0.5)
    restored.load_state_dict(replay.state_dict(), torch.device("cpu"))
    for time in range(10, 20):
        replay.add(simple_step(time, 2))
    assert restored.storage["obs"].tolist() == [[2 * time, 2 * time + 1] for time in range(10)]


@pytest.mark.parametrize(("capacity", "num_envs"), [(18, 2), (10, 1), (22, 2)])
def test_a_state_of_another_size_is_refused(capacity: int, num_envs: int) -> None:
    state = filled(20, 2, 13).state_dict()
    other = ReplayBuffer(capacity, num_envs, gamma=0.5)
    with pytest.raises(ValueError, match=r"replay of obs holds \[10, 2\] steps and environments; this one"):
        other.load_state_dict(state, torch.device("cpu"))


# Data sets ---------------------------------------------------------------------------------------------

# Three episodes: one that terminates, one that is cut, one that the data leave in the midst; then one more.
OBS = [0, 1, 2, 5, 6, 3, 4, 8]
NEXT_OBS = [1, 2, 9, 6, 7, 4, 5, 9]
ACTIONS = [0, 1, 2, 1, 0, 2, 1, 0]
REWARDS = [1.0, 2.0, 4.0, -1.0, 8.0, 16.0, 32.0, 64.0]
TERMINATED = [0, 0, 1, 0, 0, 0, 0, 1]
TRUNCATED = [0, 0, 0, 0, 1, 0, 0, 0]
ENDS = [0, 0, 0, 0, 0, 0, 1, 0]


def dataset() -> TransitionDataset:
    flags = {"terminations": TERMINATED, "truncations": TRUNCATED, "ends": ENDS}
    return TransitionDataset.from_transitions(
        torch.tensor(OBS), torch.tensor(ACTIONS), torch.tensor(REWARDS), torch.tensor(NEXT_OBS),
        **{name: torch.tensor(flag, dtype=torch.bool) for name, flag in flags.items()},
        observation_space=gym.spaces.Discrete(10), action_space=gym.spaces.Discrete(3),
    )  # fmt: skip


@pytest.mark.parametrize("n_step", [1, 2, 3, 8])
def test_a_data_set_in_its_order(n_step: int) -> None:
    replay = ReplayBuffer.from_dataset(dataset(), gamma=0.5, n_step=n_step, device=torch.device("cpu"))
    assert len(replay) == 8
    rows: list[Row] = [
        (index, action, reward, next_id, bool(terminated), bool(truncated or ended), True)
        for index, action, reward, next_id, terminated, truncated, ended in zip(
            range(8), ACTIONS, REWARDS, NEXT_OBS, TERMINATED, TRUNCATED, ENDS, strict=True
        )
    ]
    batch = replay.sample(400, generator())
    assert batch.next_actions is not None
    assert batch.next_known is not None
    assert batch.weights.tolist() == [1.0] * 400
    fields = (batch.obs, batch.actions, batch.returns, batch.discounts, batch.next_obs,
              batch.next_actions, batch.next_known)  # fmt: skip
    found = {row[0]: row[1:] for row in zip(*(field.tolist() for field in fields), strict=True)}
    assert set(found) == set(OBS)
    for index, obs in enumerate(OBS):
        action, total, discount, next_obs, next_action, known = found[obs]
        assert (total, discount, next_obs) == twin(rows, index, 0.5, n_step)[:3]
        assert action == ACTIONS[index]
        last = NEXT_OBS.index(next_obs, index)  # the row that leads there
        ended = TERMINATED[last] or TRUNCATED[last] or ENDS[last]
        assert known == float(not ended or TERMINATED[last])
        if not ended:
            assert next_action == ACTIONS[last + 1]


def test_a_data_set_shorter_than_a_return_is_refused() -> None:
    with pytest.raises(ValueError, match="n_step 9"):
        ReplayBuffer.from_dataset(dataset(), gamma=0.5, n_step=9, device=torch.device("cpu"))
