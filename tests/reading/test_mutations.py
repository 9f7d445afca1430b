"""Every kind of file, changed at random ten thousand times: it is read, or one clear ValueError says why."""

import os
import pickle
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import mutating
import numpy as np
import pytest
import torch
from archives import unpack

import prefrl
from prefrl.agents import MartingaleEvaluation, SB3Agent, SB3Config
from prefrl.data import (
    Segments,
    TransitionDataset,
    load_human_preferences,
    load_minari,
    load_preferences,
    load_transitions,
    save_preferences,
    save_transitions,
)
from prefrl.data.comparisons import Preferences
from prefrl.data.files import bounded
from prefrl.data.files.human_archives import read_clip_labels
from prefrl.data.files.matrices import read_matrix
from prefrl.preferences import RewardModel, RewardModelConfig, read_label_table
from prefrl.preferences.general_models import PALNetworkConfig, SegmentModel, load_reward_model
from prefrl.run.checkpoint import load_checkpoint, save_checkpoint
from prefrl.run.curves import read_curve, read_settings
from prefrl.run.folder import RunFolder
from prefrl.run.launch import open_recipe
from prefrl.run.logger import logged_step, read_progress
from prefrl.run.sweep.results import read_result
from prefrl.run.sweep.trials import make_trials, open_sweep

MUTATIONS = 10_000
FAST = 30
"""How many the fast suite tries."""

MOST_MEMORY = 400 << 20
"""Bytes that the process may grow by, whatever the files claim."""

SLOWEST = 20.0
"""Seconds that reading a file may take on a busy machine; it takes milliseconds."""


@dataclass
class Kind:
    """A kind of file, sound ones of it, and its reader."""

    path: Path
    contents: list[bytes]
    read: Callable[[Path], Any]
    mutate: mutating.Mutate
    name: str = ""
    """What a message names, where it is not the path."""


def segments() -> Segments:
    obs = torch.arange(18).reshape(3, 3, 2).to(torch.float32)
    actions = torch.zeros(3, 2, dtype=torch.int64)
    return Segments(obs, actions, torch.tensor([2, 2, 2]), torch.zeros(3, dtype=torch.bool))


def preferences() -> Preferences:
    return Preferences.from_labels(segments(), segments(), torch.tensor([0.0, 1.0, 0.5]))


def make_preferences(folder: Path) -> Kind:
    path = folder / "preferences.npz"
    save_preferences(path, preferences())
    return Kind(path, [path.read_bytes()], load_preferences, mutating.other_zip)


def make_transitions(folder: Path) -> Kind:
    path, flags = folder / "transitions.npz", torch.zeros(4, dtype=torch.bool)
    actions = torch.tensor([0, 1, 1, 0])
    box = gym.spaces.Box(-1.0, 9.0, (2,))
    data = TransitionDataset.from_transitions(
        torch.zeros(4, 2), actions, torch.ones(4), torch.zeros(4, 2), flags, flags,
        observation_space=box, action_space=gym.spaces.Discrete(2), env_id="prefrl/Delivery-v0",
    )  # fmt: skip
    save_transitions(path, data)
    return Kind(path, [path.read_bytes()], load_transitions, mutating.other_zip)


def requests(path: Path) -> Any:
    return gym.make("prefrl/MultiSecretary-v0", requests=str(path))


def make_request_arrays(folder: Path) -> Kind:
    path, contents = folder / "requests.npz", []
    problem = gym.make("prefrl/MultiSecretary-v0").unwrapped.dynamics.problem
    table = np.random.default_rng(0).uniform(0.1, 0.9, (6, len(problem.columns)))
    for arrays in ({"requests": table}, dict(zip(problem.columns, table.T, strict=True))):
        np.savez(path, **arrays)
        contents.append(path.read_bytes())
    np.savez_compressed(path, requests=table)
    return Kind(path, [*contents, path.read_bytes()], requests, mutating.other_zip)


def make_request_table(folder: Path) -> Kind:
    columns = gym.make("prefrl/MultiSecretary-v0").unwrapped.dynamics.problem.columns
    lines = [",".join(columns), *(",".join(["0.25"] * len(columns)) for _ in range(6))]
    content = "\n".join(lines).encode()
    return Kind(folder / "requests.csv", [content], requests, mutating.other_table)


def make_matrix(folder: Path) -> Kind:
    return Kind(folder / "matrix.csv", [b"0,0.4,1\n-0.4,0,0\n-1,0,0\n"], read_matrix, mutating.other_table)


def make_labels(folder: Path) -> Kind:
    content = b"first,second,label\n0,1,0.5\n1,2,1\n2,0,0\n"
    read = lambda path: read_label_table(path, segments())  # noqa: E731
    return Kind(folder / "labels.csv", [content], read, mutating.other_table)


def make_human(folder: Path) -> Kind:
    """One of the three files of a condition; the others are sound."""
    pairs = np.zeros((2, 2, 3, 2), np.int64)
    pairs[:, :, 0] = (1, 3)
    pairs[:, :, 1] = (0, 1)
    np.save(folder / "A_segment_pairs.npy", pairs)
    np.save(folder / "A_Y.npy", np.array([0.0, 1.0]))
    path = folder / "A_segment_pairs.npy"
    read = lambda _: load_human_preferences(folder, "A", check=False)  # noqa: E731
    return Kind(path, [path.read_bytes()], read, mutating.other_npy)


def make_clip_labels(folder: Path) -> Kind:
    """One of the three pickles of a published set of labels; the others are sound."""
    for name, rows in (("indices_num4", [0, 5, 9, 2]), ("indices_2_num4", [4, 4, 1, 7])):
        (folder / name).write_bytes(pickle.dumps(np.array(rows, np.int32), 4))
    path = folder / "label_human"
    values = ([0, 1, -1, 1], np.array([0, 1, -1, 1]))
    contents = [pickle.dumps(value, protocol) for value in values for protocol in (0, 2, 4, 5)]
    read = lambda path: read_clip_labels(path.parent)  # noqa: E731
    return Kind(path, contents, read, mutating.flipped, name=str(folder))


def make_reward_model(folder: Path) -> Kind:
    path = folder / "model.pt"
    config = RewardModelConfig(members=2, hidden=(4,))
    RewardModel(gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Discrete(2), config).save(path)
    return Kind(path, [path.read_bytes()], RewardModel.load, mutating.other_tensors)


def make_segment_model(folder: Path) -> Kind:
    path = folder / "model.pt"
    config = PALNetworkConfig(members=2, hidden=(4,))
    SegmentModel(gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Discrete(2), config).save(path)
    return Kind(path, [path.read_bytes()], load_reward_model, mutating.other_tensors)


def make_checkpoint(folder: Path) -> Kind:
    path = folder / "checkpoint.pt"
    state = {"num_timesteps": 3, "agent": {"w": torch.arange(5.0), "list": [1, 2.5, None, True, 2**70, "x"]}}
    save_checkpoint(path, {**state, "doubles": torch.zeros(2, dtype=torch.float64)})
    return Kind(path, [path.read_bytes()], load_checkpoint, mutating.other_tensors)


def make_agents(folder: Path) -> Kind:
    """Files of every agent, of an older version, and one of SB3's algorithms."""
    archive = Path(__file__).parents[1] / "run" / "before_families.tar.xz"
    unpack(archive, folder)
    paths = [path for path in sorted(folder.glob("*/final.pt")) if path.parent.name != "martingale"]
    contents = [path.read_bytes() for path in paths]
    for algorithm in ("ppo", "dqn"):
        settings = {"policy_kwargs": {"net_arch": [8]}}
        agent = SB3Agent(gym.make("CartPole-v1"), SB3Config(algorithm, settings), device="cpu")
        agent.save(folder / "sb3.pt")
        contents.append((folder / "sb3.pt").read_bytes())
    read = lambda path: prefrl.load(path, device="cpu")  # noqa: E731
    return Kind(folder / "agent.pt", contents, read, mutating.other_tensors)


def make_evaluation(folder: Path) -> Kind:
    """The agent whose files are read with an environment only."""
    path, env = folder / "agent.pt", gym.make("prefrl/BrownianSquare-v0")
    MartingaleEvaluation(env, device="cpu").save(path)
    read = lambda path: MartingaleEvaluation.load(path, env=env, device="cpu")  # noqa: E731
    return Kind(path, [path.read_bytes()], read, mutating.other_tensors)


def make_config(folder: Path) -> Kind:
    archive = Path(__file__).parents[1] / "run" / "before_families.tar.xz"
    unpack(archive, folder)
    contents = [path.read_bytes() for path in sorted(folder.glob("*/config.json"))]

    def read(path: Path) -> None:
        read_settings(path.parent)
        open_recipe(RunFolder.open(path.parent, quiet=True))

    return Kind(folder / "config.json", contents, read, mutating.other_json)


def make_result(folder: Path) -> Kind:
    content = b'{"final_return": 1.5, "curve": [1, 2.0, null], "nested": {"a": {"b": true}}, "name": "x"}'
    return Kind(folder / "result.json", [content], read_result, mutating.other_json)


def make_progress(folder: Path) -> Kind:
    content = b"time/total_timesteps,train/loss,rollout/ep_rew_mean\n10,0.5,\n20,0.25,3\n30,,4.5\n"

    def read(path: Path) -> None:
        for row in read_progress(path):
            logged_step(path, row)
        read_curve(path.parent, "time/total_timesteps", "train/loss")

    return Kind(folder / "progress.csv", [content], read, mutating.other_table)


def make_sweep(folder: Path) -> Kind:
    trials = make_trials("q_learning", [0, 1], {"agent.gamma": ["0.5"]})
    open_sweep(folder, "q_learning", trials)
    path = folder / "sweep.json"
    read = lambda path: open_sweep(path.parent, "q_learning", trials)  # noqa: E731
    return Kind(path, [path.read_bytes()], read, mutating.other_json)


def make_minari(folder: Path) -> Kind:
    """What Minari says of a data set; its arrays are read by HDF5's own library."""
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    from minari.data_collector.episode_buffer import EpisodeBuffer

    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    flags = [False, True]
    episode = EpisodeBuffer(observations=[0, 1, 2], actions=[0, 1], rewards=[0.0, 1.0], terminations=flags,
                            truncations=[False, False])  # fmt: skip
    minari.create_dataset_from_buffers("test/line-v0", [episode], observation_space=gym.spaces.Discrete(3),
                                       action_space=gym.spaces.Discrete(2))  # fmt: skip
    path = folder / "test" / "line-v0" / "data" / "metadata.json"
    read = lambda _: load_minari("test/line-v0")  # noqa: E731
    return Kind(path, [path.read_bytes()], read, mutating.other_json, name="test/line-v0")


MAKERS = {
    name.removeprefix("make_"): maker
    for name, maker in list(globals().items())
    if name.startswith("make_") and name != "make_trials"
}


def try_mutations(kind: Kind, count: int, seed: int) -> tuple[int, int]:
    """Return how many files were read, and how many refused as they should be."""
    rng, read, refused = random.Random(seed), 0, 0
    for content in kind.contents:
        kind.path.write_bytes(content)
        kind.read(kind.path)  # sound files are read
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        changed = kind.mutate(kind.contents[number % len(kind.contents)], rng)
        kind.path.write_bytes(changed)
        started = time.monotonic()
        try:
            kind.read(kind.path)
            read += 1
        except ValueError as error:
            text = str(error)
            assert (kind.name or str(kind.path)) in text, (number, text)
            assert "\n" not in text, (number, text)
            assert len(text) < 500, (number, text)
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}: {error!r}") from error
        assert time.monotonic() - started < SLOWEST, number
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < MOST_MEMORY
    return read, refused


@pytest.fixture
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setattr(bounded, "MAX_BUILT_BYTES", 1 << 26)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")  # and as it was afterwards
    made: Kind = MAKERS[request.param](tmp_path)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS, indirect=True)
@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_mutations(kind: Kind) -> None:
    _, refused = try_mutations(kind, MUTATIONS, seed=0)
    assert refused > MUTATIONS // 10


FAST_KINDS = [name for name in MAKERS if name not in ("agents", "config", "sweep")]


@pytest.mark.parametrize("kind", FAST_KINDS, indirect=True)
@pytest.mark.filterwarnings("ignore")
def test_a_few_mutations(kind: Kind) -> None:
    _, refused = try_mutations(kind, FAST, seed=1)
    assert refused > 0
