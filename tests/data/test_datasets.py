"""Data sets of transitions: what is checked at the door, their returns, their files."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings, strategies as st

from prefrl.data import TransitionDataset, concatenate_transitions, load_transitions, save_transitions
from prefrl.data.datasets import space_dtype
from prefrl.data.files.spaces import space_from_json, space_to_json
from prefrl.data.files.transition_files import FORMAT
from prefrl.reading import archives

# Three episodes: one that terminates, one that is cut, one that the data leave in the midst.
OBS = [0, 1, 2, 5, 6, 3, 4]
NEXT_OBS = [1, 2, 9, 6, 7, 4, 5]
TERMINATED = [0, 0, 1, 0, 0, 0, 0]
TRUNCATED = [0, 0, 0, 0, 1, 0, 0]
GOING = [1, 1, 0, 1, 0, 1, 0]
ACTIONS = [0, 1, 2, 1, 0, 2, 1]
REWARDS = [1.0, 2.0, 4.0, -1.0, 8.0, 16.0, 32.0]
NAMES = [*FORMAT.arrays, "next_actions"]


def discrete(**changes):
    fields = {
        "obs": torch.tensor(OBS),
        "actions": torch.tensor(ACTIONS),
        "rewards": torch.tensor(REWARDS),
        "next_obs": torch.tensor(NEXT_OBS),
        "terminations": torch.tensor(TERMINATED, dtype=torch.bool),
        "truncations": torch.tensor(TRUNCATED, dtype=torch.bool),
        "observation_space": Discrete(10),
        "action_space": Discrete(3),
        "env_id": "test/Line-v0",
    }
    return TransitionDataset.from_transitions(**{**fields, **changes})


def continuous(dtype=np.float32, **changes):
    """Pairs of numbers instead of the states, and actions in [-1, 1] with bounds per component."""
    kind = torch.from_numpy(np.zeros(0, dtype)).dtype
    fields = {
        "obs": torch.tensor([[o, o % 2] for o in OBS], dtype=kind),
        "next_obs": torch.tensor([[o, o % 2] for o in NEXT_OBS], dtype=kind),
        "actions": torch.tensor([[a / 4, -a / 4] for a in ACTIONS]),
        "observation_space": Box(0, 100, (2,), dtype),
        "action_space": Box(np.array([0, -1], np.float32), np.array([1, 0], np.float32)),
    }
    return discrete(**{**fields, **changes})


def assert_equal(a, b):
    for name in NAMES:
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype, name
        assert torch.equal(left, right), name
    assert (a.observation_space, a.action_space, a.env_id) == (b.observation_space, b.action_space, b.env_id)


# The data set ----------------------------------------------------


def test_next_actions_are_those_of_the_next_row():
    data = discrete()
    assert len(data) == 7
    assert data.num_episodes == 3
    assert data.has_next_action.int().tolist() == [1, 1, 0, 1, 0, 1, 0]
    assert data.next_actions.tolist() == [1, 2, 2, 0, 0, 1, 1]  # its own where there is none


def test_ends_cut_without_ending_the_episode():
    ends = torch.tensor([0, 1, 0, 0, 0, 0, 0], dtype=torch.bool)
    data = discrete(ends=ends)
    assert data.has_next_action.int().tolist() == [1, 0, 0, 1, 0, 1, 0]
    assert not (data.terminations | data.truncations)[1]
    # rows before and after an end need not fit together
    obs = torch.tensor([0, 1, 8, 5, 6, 3, 4])
    assert len(discrete(obs=obs, ends=ends)) == 7
    with pytest.raises(ValueError, match="next_obs are wrong in row 1"):
        discrete(obs=obs)


def test_one_transition():
    one = {name: getattr(discrete(), name)[:1] for name in FORMAT.arrays if name != "has_next_action"}
    data = discrete(**one)
    assert data.has_next_action.tolist() == [False]
    assert data.returns(0.9).tolist() == [1.0]


def test_continuous_and_boolean_observations():
    assert continuous().obs.dtype == torch.float32
    assert continuous(np.float64).obs.dtype == torch.float64
    flags = torch.zeros(7, 2, 2, dtype=torch.bool)
    data = discrete(obs=flags, next_obs=flags, observation_space=Box(0, 1, (2, 2), np.bool_))
    assert data.obs.dtype == torch.bool


def test_discrete_spaces_with_another_start():
    moved = {"actions": torch.tensor(ACTIONS) + 4, "action_space": Discrete(3, start=4)}
    assert discrete(**moved).next_actions.min() >= 4
    with pytest.raises(ValueError, match="actions are wrong in row 0"):
        discrete(action_space=Discrete(3, start=4))


def row(values, index, value):
    values = values.clone()
    values[index] = value
    return values


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (
            discrete,
            lambda d: {"actions": row(d.actions, 3, 3)},
            r"actions are wrong in row 3 \(3\).*Discrete",
        ),
        (discrete, lambda d: {"actions": row(d.actions, 2, -1)}, r"actions are wrong in row 2 \(-1\)"),
        (discrete, lambda d: {"obs": row(d.obs, 0, 10)}, r"obs are wrong in row 0 \(10\)"),
        (discrete, lambda d: {"next_obs": row(d.next_obs, 4, -1)}, r"next_obs are wrong in row 4 \(-1\)"),
        (discrete, lambda d: {"next_obs": row(d.next_obs, 3, 2)}, r"next_obs are wrong in row 3.*next row's"),
        (
            discrete,
            lambda d: {"rewards": row(d.rewards, 5, torch.nan)},
            r"rewards are wrong in row 5 \(nan\)",
        ),
        (
            discrete,
            lambda d: {"rewards": row(d.rewards, 1, torch.inf)},
            r"rewards are wrong in row 1 \(inf\)",
        ),
        (discrete, lambda d: {"rewards": d.rewards.double()}, "rewards have dtype torch.float64"),
        (discrete, lambda d: {"rewards": d.rewards[:, None]}, r"rewards have shape \[7, 1\]"),
        (discrete, lambda d: {"rewards": d.rewards[:0]}, "N at least 1"),
        (discrete, lambda d: {"obs": d.obs[:6]}, r"obs are torch.int64 \[6\]; 7 rows"),
        (discrete, lambda d: {"obs": d.obs.int()}, r"obs are torch.int32 \[7\]"),
        (discrete, lambda d: {"actions": d.actions.float()}, r"actions are torch.float32 \[7\]"),
        (discrete, lambda d: {"terminations": d.terminations.int()}, r"terminations are torch.int32"),
        (discrete, lambda d: {"truncations": d.truncations[:3]}, r"truncations are torch.bool \[3\]"),
        (discrete, lambda d: {"ends": torch.zeros(3, dtype=torch.bool)}, r"ends are torch.bool \[3\]"),
        (discrete, lambda d: {"obs": d.obs.to("meta")}, "obs is on meta"),
        (continuous, lambda d: {"obs": row(d.obs, 2, torch.nan)}, r"obs are wrong in row 2.*finite"),
        (continuous, lambda d: {"next_obs": row(d.next_obs, 6, -torch.inf)}, r"next_obs are wrong in row 6"),
        (continuous, lambda d: {"actions": row(d.actions, 4, 0.5)}, r"actions are wrong in row 4.*Box"),
        (continuous, lambda d: {"actions": row(d.actions, 4, -0.5)}, r"actions are wrong in row 4.*Box"),
        (
            continuous,
            lambda d: {"actions": row(d.actions, 1, torch.nan)},
            r"actions are wrong in row 1.*finite",
        ),
        (continuous, lambda d: {"obs": d.obs[:, :1]}, r"obs are torch.float32 \[7, 1\]"),
        (continuous, lambda d: {"observation_space": Box(0, 9, (2,), np.uint16)}, "dtype uint16"),
    ],
)
def test_what_is_wrong_is_named(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes(make()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs": np.zeros(7, np.int64)}, "obs is a ndarray"),
        ({"rewards": [0.0] * 7}, "rewards is a list"),
        ({"terminations": None}, "terminations is a NoneType"),
        ({"next_obs": None}, "next_obs is a NoneType"),
        ({"observation_space": gym.spaces.MultiBinary(3)}, "observation_space is MultiBinary"),
        ({"action_space": None}, "action_space is None"),
        ({"env_id": 3}, "env_id is a int"),
    ],
)
def test_wrong_kinds(changes, message):
    with pytest.raises(TypeError, match=message):
        discrete(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"has_next_action": [1, 1, 1, 1, 0, 1, 0]}, "has_next_action are wrong in row 2"),
        ({"has_next_action": [1, 1, 0, 1, 1, 1, 0]}, "has_next_action are wrong in row 4"),
        ({"has_next_action": [1, 1, 0, 1, 0, 1, 1]}, "has_next_action is True in the last row"),
        ({"next_actions": [1, 2, 2, 2, 0, 1, 1]}, "next_actions are wrong in row 3"),
        ({"next_actions": [1, 2, 0, 0, 0, 1, 1]}, "next_actions are wrong in row 2"),
    ],
)
def test_order_is_checked(changes, message):
    changes = {
        name: torch.tensor(value).to(getattr(discrete(), name).dtype) for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(discrete(), **changes)


def test_check_matches():
    data = discrete()
    data.check_matches(Discrete(10), Discrete(3))
    for spaces in ((Discrete(11), Discrete(3)), (Discrete(10), Discrete(4)), (Box(0, 1, (2,)), Discrete(3))):
        with pytest.raises(ValueError, match="a dataset from another environment") as caught:
            data.check_matches(*spaces)
        for named in ("test/Line-v0", "Discrete(10)", *map(str, spaces)):
            assert named in str(caught.value)


# Returns ---------------------------------------------------------


def test_returns_by_hand():
    # backwards: 4, 2 + 4/2, 1 + 4/2; 8, -1 + 8/2; 32, 16 + 32/2
    assert discrete().returns(0.5).tolist() == [3.0, 4.0, 4.0, 3.0, 8.0, 32.0, 32.0]
    assert discrete().returns(1.0).tolist() == [7.0, 6.0, 4.0, 7.0, 8.0, 48.0, 32.0]
    assert discrete().returns(0.0).tolist() == REWARDS


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_returns_equal_a_plain_loop(data):
    count = data.draw(st.integers(1, 70))
    rewards = data.draw(st.lists(st.floats(-10, 10, width=32), min_size=count, max_size=count))
    ends = data.draw(st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, 3]), min_size=count, max_size=count))
    gamma = data.draw(st.sampled_from([0.0, 0.3, 0.99, 1.0]))
    kinds = torch.tensor(ends)
    dataset = TransitionDataset.from_transitions(
        obs=torch.zeros(count, dtype=torch.int64),
        actions=torch.zeros(count, dtype=torch.int64),
        rewards=torch.tensor(rewards),
        next_obs=torch.zeros(count, dtype=torch.int64),
        terminations=kinds == 1,
        truncations=kinds == 2,
        ends=kinds == 3,
        observation_space=Discrete(1),
        action_space=Discrete(1),
    )
    expected, running = [], 0.0
    for reward, end in zip(reversed(rewards), reversed(ends), strict=True):
        running = reward + (0.0 if end else gamma * running)
        expected.append(running)
    torch.testing.assert_close(
        dataset.returns(gamma), torch.tensor(expected[::-1], dtype=torch.float64), rtol=1e-12, atol=1e-9
    )


@pytest.mark.parametrize("gamma", [-0.1, 1.01, float("nan")])
def test_gamma_is_a_discount(gamma):
    with pytest.raises(ValueError, match="gamma is"):
        discrete().returns(gamma)


# Files -----------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        discrete,
        continuous,
        lambda: continuous(np.float64),
        lambda: continuous(np.uint8),
        lambda: discrete(env_id=None, observation_space=Discrete(12, start=-1)),
        lambda: continuous(observation_space=Box(-np.inf, np.inf, (2,))),
        lambda: discrete(ends=torch.tensor([0, 1, 0, 0, 0, 0, 0], dtype=torch.bool)),
        lambda: discrete(
            obs=torch.zeros(7, 2, 2, dtype=torch.bool),
            next_obs=torch.zeros(7, 2, 2, dtype=torch.bool),
            observation_space=Box(0, 1, (2, 2), np.bool_),
        ),
    ],
)
def test_a_file_gives_back_what_was_saved(make, tmp_path):
    data = make()
    save_transitions(tmp_path / "data.npz", data)
    assert_equal(load_transitions(tmp_path / "data.npz"), data)
    with np.load(tmp_path / "data.npz", allow_pickle=False) as arrays:  # numpy reads it too
        assert set(arrays) == {*FORMAT.arrays, "schema"}
        np.testing.assert_array_equal(arrays["rewards"], np.array(REWARDS, np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


def test_compressed_files_are_read(tmp_path):
    save_transitions(tmp_path / "data.npz", discrete())
    with np.load(tmp_path / "data.npz") as arrays:
        np.savez_compressed(tmp_path / "small.npz", **arrays)
    assert_equal(load_transitions(tmp_path / "small.npz"), discrete())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    save_transitions(tmp_path / "data.npz", discrete())
    before = (tmp_path / "data.npz").read_bytes()

    def fail(stream, **arrays):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        save_transitions(tmp_path / "data.npz", continuous())
    assert (tmp_path / "data.npz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_wrong_places(tmp_path):
    with pytest.raises(TypeError, match="dataset is a dict"):
        save_transitions(tmp_path / "data.npz", {})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save_transitions(tmp_path / "none" / "data.npz", discrete())
    with pytest.raises(FileNotFoundError, match="there is no transition file"):
        load_transitions(tmp_path / "data.npz")
    with pytest.raises(IsADirectoryError, match="transition file"):
        load_transitions(tmp_path)


@pytest.fixture
def spoil(tmp_path):
    """Write a file with some arrays or keys of its schema replaced (None: left out); return its path."""
    path = tmp_path / "data.npz"
    save_transitions(path, discrete())
    with np.load(path) as file:
        arrays = dict(file)

    def write(replaced=None, **keys):
        schema = json.loads(arrays["schema"].tobytes())
        schema.update(keys)
        for name, value in (replaced or {}).items():
            if value is not None and name in schema["arrays"]:
                schema["arrays"][name] = {"dtype": value.dtype.name, "shape": list(value.shape)}
        schema = {key: value for key, value in schema.items() if value != "leave out"}
        document = np.frombuffer(json.dumps(schema).encode(), np.uint8)
        content = {**arrays, "schema": document, **(replaced or {})}
        np.savez(path, **{name: value for name, value in content.items() if value is not None})
        return path

    return write


@pytest.mark.parametrize(
    ("replaced", "keys", "message"),
    [
        ({}, {"format": "prefrl-preferences"}, "schema.format is 'prefrl-preferences'"),
        ({}, {"version": 2}, "schema.version is 2; this release"),
        ({}, {"version": True}, "schema.version is True"),
        ({}, {"count": 6}, "schema.count is 6"),
        ({}, {"count": 0}, "schema.count is 0"),
        ({}, {"extra": 1}, "schema has the keys"),
        ({}, {"env_id": "leave out"}, "schema has the keys"),
        ({}, {"env_id": 7}, "schema.env_id is 7"),
        ({}, {"arrays": {}}, "schema.arrays describes"),
        ({}, {"arrays": 3}, "schema.arrays is 3"),
        ({}, {"observation_space": None}, "None describes no space"),
        ({}, {"observation_space": {"kind": "Text"}}, "describes no space"),
        ({}, {"action_space": {"kind": "Discrete", "n": 0, "start": 0}}, "describes no Discrete space"),
        ({}, {"action_space": {"kind": "Discrete", "n": 10**30, "start": 0}}, "describes no Discrete space"),
        ({}, {"action_space": {"kind": "Discrete", "n": 2, "start": 0}}, "actions are wrong in row 2"),
        ({"obs": None}, {}, "the array 'obs' is missing"),
        ({"more": np.zeros(7)}, {}, "the array 'more' is unknown"),
        ({"schema": None}, {}, "no array 'schema'"),
        ({"schema": np.frombuffer(b"{", np.uint8)}, {}, "schema is no JSON document"),
        ({"schema": np.frombuffer(b'{"a": NaN}', np.uint8)}, {}, "NaN is no JSON number"),
        ({"schema": np.frombuffer(b'{"a": 1, "a": 2}', np.uint8)}, {}, "twice"),
        ({"schema": np.zeros(3)}, {}, "schema is float64"),
        ({"obs": np.zeros((7, 3), np.int64)}, {}, r"obs are torch.int64 \[7, 3\]"),
        ({"obs": np.zeros((7, 0), np.int64)}, {}, "every axis must be at least 1"),
        ({"obs": np.array(OBS, object)}, {}, "the array 'obs' cannot be read"),
        ({"rewards": np.array([np.nan] * 7, np.float32)}, {}, "rewards are wrong in row 0"),
        ({"has_next_action": np.ones(7, bool)}, {}, "has_next_action are wrong in row 2"),
        ({"has_next_action": np.ones(7, np.int64)}, {}, "has_next_action are torch.int64"),
        ({"terminations": np.zeros(7, np.float32)}, {}, "terminations are torch.float32"),
    ],
)
def test_damaged_content(spoil, replaced, keys, message):
    path = spoil(replaced, **keys)
    with pytest.raises(ValueError, match=message) as caught:
        load_transitions(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_schema_that_misdescribes_an_array(spoil):
    described = json.loads(np.load(spoil())["schema"].tobytes())["arrays"]
    path = spoil(arrays={**described, "obs": {"dtype": "int64", "shape": [8]}})
    with pytest.raises(ValueError, match=r"obs is .*; schema.arrays says"):
        load_transitions(path)


def test_truncated_and_flipped_bytes(spoil):
    whole = spoil().read_bytes()
    path = spoil()
    rng = np.random.default_rng(0)
    for cut in [0, 1, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"damaged|empty"):
            load_transitions(path)
    for place in rng.integers(len(whole), size=200):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            loaded = load_transitions(path)
        except ValueError:
            continue
        assert_equal(loaded, discrete())  # bytes that mean nothing, such as a time stamp


def test_a_small_file_may_not_expand_without_limit(spoil, monkeypatch):
    count = 1 << 18
    zeros = {name: np.zeros(count, np.load(spoil())[name].dtype) for name in FORMAT.arrays}
    path = spoil(zeros, count=count)
    assert len(load_transitions(path)) == count
    with np.load(path) as arrays:
        np.savez_compressed(path.with_name("bomb.npz"), **arrays)
    monkeypatch.setattr(archives, "MAX_EXPANDED_BYTES", 1 << 20)
    assert path.with_name("bomb.npz").stat().st_size < 1 << 16
    with pytest.raises(ValueError, match=r"expand to \d+ bytes"):
        load_transitions(path.with_name("bomb.npz"))
    assert len(load_transitions(path)) == count  # it has its size on disk


# Spaces ----------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        Discrete(4),
        Discrete(3, start=-5),
        Box(-1, 1, (2, 3)),
        Box(-np.inf, np.inf, (4,), np.float64),
        Box(0, 255, (4, 4), np.uint8),
        Box(0, 1, (2,), np.bool_),
        Box(np.array([-1, -np.inf], np.float32), np.array([0.1, 2], np.float32)),
        Box(-3.0, 3.0, ()),
        gym.spaces.MultiBinary([2, 3]),
        gym.spaces.MultiDiscrete([3, 2]),
        gym.spaces.MultiDiscrete([[3], [2]], dtype=np.int32, start=[[-1], [5]]),
    ],
)
def test_spaces_through_json(space):
    again = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert again == space
    assert again.dtype == space.dtype
    if isinstance(space, Box):
        np.testing.assert_array_equal(again.low, space.low)
        np.testing.assert_array_equal(again.high, space.high)


def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="allowed are Discrete, MultiDiscrete, MultiBinary, Box and Dict"):
        space_to_json(gym.spaces.Tuple([gym.spaces.Discrete(2)]))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "object"},
        {"dtype": "uint16"},
        {"dtype": ["float32"]},
        {"low": [[0.0], [1.0, 2.0]]},
        {"low": [0.0]},
        {"low": "zero"},
        {"low": [3.0, 0.0]},
        {"low": [], "high": []},
        {"low": None},
    ],
)
def test_damaged_boxes(changes):
    description = {"kind": "Box", "low": [0.0, 0.0], "high": [1.0, 1.0], "dtype": "float32"}
    assert space_from_json(description) == Box(0, 1, (2,))
    with pytest.raises(ValueError, match="describes no Box space"):
        space_from_json({**description, **changes})


def test_dtypes_of_spaces():
    assert space_dtype(Discrete(3)) == torch.int64
    assert space_dtype(Box(0, 1, (1,), np.bool_)) == torch.bool
    assert space_dtype(Box(0, 9, (1,), np.int32)) == torch.int32
    with pytest.raises(ValueError, match="dtype uint32"):
        space_dtype(Box(0, 9, (1,), np.uint32))


@pytest.mark.parametrize("make", [discrete, continuous])
def test_segments_by_hand(make):
    """Of episodes 0-1-2 (terminal), 3-4 (cut) and 5-6 (unknown): no cut shortens a segment, an end does."""
    data = make()
    assert data.segment_starts(1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert data.segment_starts(2).tolist() == [0, 1, 2, 3, 5]
    assert data.segment_starts(3).tolist() == [0, 1, 2]
    segments, rewards = data.segments(torch.tensor([2, 0, 3]), 2)
    segments.validate()
    rows = [[2, 2], [0, 1], [3, 4]]
    assert segments.lengths.tolist() == [1, 2, 2]
    assert segments.terminated.tolist() == [True, False, False]
    assert rewards.tolist() == [[4.0, 0.0], [1.0, 2.0], [-1.0, 8.0]]
    assert torch.equal(segments.obs[1:, :-1], data.obs[torch.tensor(rows)[1:]])
    assert torch.equal(segments.last_obs, data.next_obs[torch.tensor([2, 1, 4])])
    assert torch.equal(segments.actions[0, 0], data.actions[2])
    assert not segments.actions[0, 1].any()


def test_segments_have_steps():
    with pytest.raises(ValueError, match="length is 0"):
        discrete().segment_starts(0)


@pytest.mark.parametrize("make", [discrete, continuous])
@pytest.mark.parametrize(("share", "rows"), [(0.1, [5, 6]), (0.4, [3, 4, 5, 6]), (1.0, range(7))])
def test_best_episodes_by_hand(make, share, rows):
    """Their returns are 7, 8 and 48."""
    data = make(rewards=torch.tensor([1.0, 2.0, 4.0, -1.0, 9.0, 16.0, 32.0]))
    best, rows = data.best_episodes(share), torch.tensor(list(rows))
    assert torch.equal(best.rewards, data.rewards[rows])
    assert torch.equal(best.has_next_action, data.has_next_action[rows])
    assert best.env_id == data.env_id


def test_data_sets_become_one():
    data = discrete()
    both = concatenate_transitions([data, data.best_episodes(0.1)])
    assert len(both) == 9
    assert both.num_episodes == 4
    assert torch.equal(both.next_actions[:7], data.next_actions)
    with pytest.raises(ValueError, match="a dataset from another environment"):
        concatenate_transitions([data, continuous()])
    with pytest.raises(ValueError, match="parts is empty"):
        concatenate_transitions([])
    with pytest.raises(ValueError, match=r"share is 0.0; it must lie in \(0, 1\]"):
        data.best_episodes(0.0)
