"""What is built by the numbers of a file takes no more memory than the file can account for."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import prefrl
from prefrl.agents import DQN, DQNConfig, Heron, HeronConfig, QLearning, SB3Agent, SB3Config
from prefrl.data.files import bounded
from prefrl.data.files.bounded import MAX_ROWS, BoundedTensors, kept_rows
from prefrl.preferences import RewardModel, RewardModelConfig

BOX, TWO = gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Discrete(2)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bounded, "MAX_BUILT_BYTES", 100_000)
    (tmp_path / "file").write_bytes(bytes(10))
    return tmp_path / "file"


def test_tensors_are_added_up(path: Path) -> None:
    with BoundedTensors(path):
        for _ in range(10):
            torch.empty(2000)  # 80 kB
        with pytest.raises(ValueError, match="takes more than 100000 bytes"):
            torch.zeros(6000)
    assert torch.zeros(10**6).sum() == 0  # outside of it all is allowed


def test_no_memory_is_taken_to_find_out(path: Path) -> None:
    size = 10**15
    makers: list[Any] = [
        lambda: torch.zeros(size),
        lambda: torch.empty(10**8, 10**8, 10**8),
        lambda: torch.arange(size),
        lambda: torch.rand((size,), generator=torch.Generator()),
        lambda: torch.full((size,), 1.0),
        lambda: torch.linspace(0.0, 1.0, size),
        lambda: torch.randn(size, dtype=torch.float64),
        lambda: torch.nn.Linear(10**8, 10**8),
        lambda: torch.nn.Sequential(*(torch.nn.Linear(9, 9) for _ in range(size))),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="takes more than 100000 bytes"), BoundedTensors(path):
            make()


def test_large_files_may_ask_for_more(path: Path) -> None:
    path.write_bytes(bytes(50_000))
    with BoundedTensors(path):
        assert len(torch.zeros(150_000)) == 150_000
    with pytest.raises(ValueError, match="takes more than 800000 bytes"), BoundedTensors(path):
        torch.zeros(250_000)


def with_header(path: Path, key: str, **changes: Any) -> None:
    """Change some of a file's settings."""
    content = torch.load(path, weights_only=True)
    header = json.loads(content[key])
    header["config"].update(changes)
    torch.save({**content, key: json.dumps(header)}, path)


@pytest.mark.parametrize("hidden", [[400, 400], [10**12, 8]])
def test_networks_of_a_file(path: Path, hidden: list[int]) -> None:
    DQN(gym.make("CartPole-v1"), DQNConfig(hidden=(8,)), device="cpu").save(path)
    assert isinstance(prefrl.load(path, device="cpu"), DQN)
    with_header(path, "header", hidden=hidden)
    with pytest.raises(ValueError, match=r"file: what its numbers ask for takes more than"):
        prefrl.load(path, device="cpu")
    RewardModel(BOX, TWO, RewardModelConfig(hidden=(4,))).save(path)
    RewardModel.load(path)
    for changes in ({"hidden": hidden}, {"members": 10**7}):
        with_header(path, "reward_model", **changes)
        with pytest.raises(ValueError, match=r"file: what its numbers ask for takes more than"):
            RewardModel.load(path)


def test_spaces_of_a_file(path: Path) -> None:
    QLearning(gym.make("prefrl/Delivery-v0"), device="cpu").save(path)
    content = torch.load(path, weights_only=True)
    header = json.loads(content["header"])
    header["observation_space"]["n"] = 10**12
    torch.save({**content, "header": json.dumps(header)}, path)
    with pytest.raises(ValueError, match="what its numbers ask for takes more than"):
        QLearning.load(path)


@pytest.mark.parametrize("rows", [0, -1, MAX_ROWS + 1, 10**15, 2.5, True, None, "3"])
def test_rows_of_a_file(rows: Any) -> None:
    with pytest.raises(ValueError, match=rf"rows is .*; it must be a whole number from 1 to {MAX_ROWS}"):
        kept_rows({"rows": rows})


def test_agents_of_too_many_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.pt"
    heron = HeronConfig(learner=SB3Config("ppo", {"n_steps": 8, "batch_size": 8}))
    for agent in (SB3Agent(gym.make("CartPole-v1"), SB3Config("a2c"), device="cpu"),
                  Heron(gym.make("prefrl/Pendulum-v0"), heron, device="cpu")):  # fmt: skip
        agent.save(path)
        assert prefrl.load(path, device="cpu").state_dict()
        content = torch.load(path, weights_only=True)
        content["state"]["rows"] = 10**12
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"agent\.pt: rows is 1000000000000; it must be"):
            prefrl.load(path, device="cpu")
