"""Minari's datasets become data sets of transitions, transition for transition."""

import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from prefrl.data import load_minari, load_transitions, save_transitions

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

pytestmark = pytest.mark.filterwarnings("ignore:.*(eval_env|env_spec)")

NAMES = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def play(env, lengths, seed=0):
    """Transitions one by one, in plain Python, and Minari's buffers of them."""
    rng = np.random.default_rng(seed)
    rows, buffers = [], []
    for episode, length in enumerate(lengths):
        obs, _ = env.reset(seed=seed + episode)
        seen = {"observations": [obs], "actions": [], "rewards": [], "terminations": [], "truncations": []}
        for _ in range(length):
            if isinstance(env.action_space, Discrete):
                action = int(rng.integers(env.action_space.n)) + int(env.action_space.start)
            else:
                action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
            next_obs, reward, terminated, truncated, _ = env.step(action)
            rows.append((obs, action, reward, next_obs, terminated, truncated))
            values = (next_obs, action, reward, terminated, truncated)
            for name, value in zip(seen, values, strict=True):
                seen[name].append(value)
            obs = next_obs
            if terminated or truncated:
                break
        buffers.append(buffer(seen))
    return rows, buffers


def buffer(seen):
    from minari.data_collector.episode_buffer import EpisodeBuffer

    return EpisodeBuffer(**seen)


def create(env_id, lengths, name="test/line-v0", **kwargs):
    env = gym.make(env_id, **kwargs)
    rows, buffers = play(env, lengths)
    dataset = minari.create_dataset_from_buffers(
        name, buffers, env=env, algorithm_name="random", author="test", author_email="test@example.org",
        code_permalink="https://example.org", description="test",
    )  # fmt: skip
    return rows, dataset


@pytest.mark.parametrize("by", ["id", "dataset"])
def test_cart_pole_transition_for_transition(by):
    # the second episode is left in the midst, the others end: by a fallen pole, and after 20 steps
    rows, dataset = create("CartPole-v1", [100, 5, 100, 100], max_episode_steps=20)
    data = load_minari("test/line-v0" if by == "id" else dataset)
    assert data.env_id == "CartPole-v1"
    assert data.observation_space == gym.make("CartPole-v1").observation_space
    assert data.action_space == Discrete(2)
    for name, column in zip(NAMES, zip(*rows, strict=True), strict=True):
        np.testing.assert_array_equal(getattr(data, name).numpy(), np.array(column), err_msg=name)
    assert data.obs.dtype == torch.float32
    assert data.actions.dtype == torch.int64
    cut = {i for i in range(len(rows) - 1) if not np.array_equal(rows[i][3], rows[i + 1][0])}
    assert torch.nonzero(~data.has_next_action).flatten().tolist() == sorted(cut | {len(rows) - 1})
    assert data.num_episodes == 4
    assert data.terminations.any()
    assert data.truncations.any()
    assert len(cut - set(torch.nonzero(data.terminations | data.truncations).flatten().tolist())) == 1


def test_chosen_episodes():
    rows, dataset = create("CartPole-v1", [3, 5, 4])
    data = load_minari(dataset.filter_episodes(lambda episode: len(episode) != 5))
    np.testing.assert_array_equal(data.actions, np.array([row[1] for row in rows[:3] + rows[8:]]))
    assert data.has_next_action.tolist() == [True, True, False, True, True, True, False]


def test_continuous_actions_and_discrete_observations():
    rows, _ = create("Pendulum-v1", [20, 20], name="test/pendulum-v0")
    data = load_minari("test/pendulum-v0")
    np.testing.assert_array_equal(data.actions.numpy(), np.array([row[1] for row in rows]))
    np.testing.assert_allclose(data.rewards.numpy(), np.array([row[2] for row in rows]), rtol=1e-6)
    rows, _ = create("prefrl.envs:prefrl/Delivery-v0", [20, 20], name="test/delivery-v0")
    data = load_minari("test/delivery-v0")
    assert data.obs.dtype == torch.int64
    assert data.obs.tolist() == [row[0] for row in rows]
    assert data.env_id == "prefrl/Delivery-v0"


def test_on_to_a_file_of_ours(tmp_path):
    create("CartPole-v1", [10])
    data = load_minari("test/line-v0")
    save_transitions(tmp_path / "data.npz", data)
    again = load_transitions(tmp_path / "data.npz")
    assert torch.equal(again.obs, data.obs)
    assert again.observation_space == data.observation_space


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("it tried to download")

    monkeypatch.setattr(minari.storage.hosting, "download_dataset", refuse)
    with pytest.raises(FileNotFoundError, match="minari download D4RL/door/human-v2"):
        load_minari("D4RL/door/human-v2")


def make(buffers, **spaces):
    spaces = {"observation_space": Box(-1, 1, (1,)), "action_space": Discrete(2), **spaces}
    return minari.create_dataset_from_buffers(
        "test/made-v0", [buffer(b) for b in buffers], algorithm_name="none", author="test",
        author_email="test@example.org", code_permalink="https://example.org", description="test", **spaces,
    )  # fmt: skip


def episode(**changes):
    return {
        "observations": np.zeros((4, 1), np.float32), "actions": np.array([0, 1, 1]), "rewards": np.ones(3),
        "terminations": np.array([False] * 3), "truncations": np.array([False, False, True]), **changes,
    }  # fmt: skip


def test_without_an_environment():
    data = load_minari(make([episode(), episode()]))
    assert data.env_id is None
    assert data.has_next_action.tolist() == [True, True, False] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((3, 1), np.float32)}, "episode 1 of .* observations are for 2 steps"),
        ({"actions": np.array([0, 1])}, "episode 1 of .* actions are for 2 steps"),
        ({"truncations": np.array([False])}, "episode 1 of .* truncations are for 1 steps"),
        ({"actions": np.array([0.0, 1.0, 0.5])}, "actions of episode 1 are torch.float64"),
        ({"actions": np.array([0, 1, 2])}, r"actions are wrong in row 5 \(2\)"),
        ({"observations": np.full((4, 1), np.nan, np.float32)}, "obs are wrong in row 3"),
        ({"rewards": np.array([1.0, np.nan, 0.0])}, "rewards are wrong in row 4"),
    ],
)
def test_damaged_episodes(changes, message):
    dataset = make([episode(), episode(**changes)])
    with pytest.raises(ValueError, match=message):
        load_minari(dataset)


def test_other_spaces_are_refused():
    space = Dict({"a": Box(-1, 1, (1,))})
    dataset = make([episode(observations={"a": np.zeros((4, 1), np.float32)})], observation_space=space)
    with pytest.raises(ValueError, match=r"observation_space Dict.*Discrete and Box"):
        load_minari(dataset)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="dataset is a int"):
        load_minari(3)
    dataset = make([episode()])
    with pytest.raises(ValueError, match="no transitions"):
        load_minari(dataset.filter_episodes(lambda episode: False))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ImportError, match=re.escape('pip install ".[minari]"')):
        load_minari("test/line-v0")


def test_importing_prefrl_does_not_import_it(tmp_path):
    """The last one imports the others."""
    code = """
import sys, prefrl, prefrl.data, prefrl.run.collect
print({"minari", "h5py", "minatar"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_file_that_promises_more_than_it_has(folder, monkeypatch):
    import h5py

    monkeypatch.setattr("prefrl.data.files.bounded.MAX_EXPANDED_BYTES", 1 << 16)
    create("CartPole-v1", [10])
    assert len(load_minari("test/line-v0")) == 10
    path = folder / "test" / "line-v0" / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        file["episode_0/rewards"].resize((1 << 18,))  # 2 MB, none of which is written
    assert path.stat().st_size < 1 << 16
    with pytest.raises(ValueError, match=r"test/line-v0/.*main_data\.hdf5 promises arrays of \d+ bytes"):
        load_minari("test/line-v0")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"data_format": "x"}', "[" * 100_000])
def test_metadata_that_are_none(folder, content):
    create("CartPole-v1", [10])
    (folder / "test" / "line-v0" / "data" / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match=r"\Atest/line-v0[^\n]{1,480}\Z"):
        load_minari("test/line-v0")
