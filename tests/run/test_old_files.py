"""Run folders and agent files that were written before the families go on here as they would there.

``before_families.tar.xz`` holds, for each case, what a small run had written at its first checkpoint, and the
agent at its end (``final.pt``), all written by the commit before the move (version 0.1.0).
"""

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import prefrl
from prefrl.agents.base import read_agent_file
from prefrl.run.launch import resume

ARCHIVE = Path(__file__).with_name("before_families.tar.xz")

CASES = (
    "continuous_control", "distributional_dp", "dqn", "dual_mirror_descent", "heron_ppo", "martingale",
    "mbpo", "preference_rl_dqn", "preference_rl_sac", "q_learning", "regret", "sac", "self_play_dqn",
    "self_play_matrix", "stock_dqn",
)  # fmt: skip


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def tensors(state: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a nested state, with its place."""
    entries = (
        state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    )
    for key, value in entries:
        if isinstance(value, torch.Tensor):
            yield f"{place}.{key}", value
        else:
            yield from tensors(value, f"{place}.{key}")


@pytest.mark.parametrize("case", CASES)
def test_an_old_run_goes_on(case: str, old_runs: Path, tmp_path: Path) -> None:
    """Where it was made it ended bit-equal; other processors round in other ways."""
    run = tmp_path / "run"
    shutil.copytree(old_runs / case, run)
    resume(run, quiet=True)
    expected, found = (read_agent_file(path)[1] for path in (run / "final.pt", run / "agent.pt"))
    there, here = dict(tensors(expected)), dict(tensors(found))
    assert set(there) <= set(here)
    assert len(there) > 1
    for place, value in there.items():
        if "generator" in place:
            assert torch.equal(here[place], value), place
        else:
            torch.testing.assert_close(
                here[place], value, rtol=1e-3, atol=1e-5, msg=lambda m, p=place: f"{p}: {m}"
            )


# What MartingaleEvaluation evaluates belongs to an environment, so that its files are not read without one.
@pytest.mark.parametrize("case", [case for case in CASES if case != "martingale"])
def test_an_old_agent_file_is_read(case: str, old_runs: Path) -> None:
    header, _ = read_agent_file(old_runs / case / "final.pt")
    agent = prefrl.load(old_runs / case / "final.pt", device="cpu")
    assert type(agent).__name__ == header["agent"]
    assert agent.num_timesteps == header["num_timesteps"] > 0
    action, _ = agent.predict(agent.observation_space.sample(), deterministic=True)
    assert action.shape == agent.action_space.shape
