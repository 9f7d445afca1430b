"""Run folders and agent files that were written before the families go on here as they would there.

``before_families.tar.xz`` holds, for each case, what a small run had written at its first checkpoint, and the
agent at its end (``final.pt``), all written by the commit before the move (version 0.1.0).
"""

import shutil
from pathlib import Path

import pytest
import torch
from archives import unpack
from old_runs import ARCHIVE, CASES, tensors

import prefrl
from prefrl.agents.base import read_agent_file
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.folder import RunFolder
from prefrl.run.launch import open_recipe, resume

DRAWN_ANEW = ("heron_ppo", "preference_rl_dqn", "preference_rl_sac")


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    unpack(ARCHIVE, folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_an_old_run_goes_on(case: str, old_runs: Path, tmp_path: Path) -> None:
    """Where it was made it ended bit-equal; other processors round in other ways.

    Some are compared where they go on from, since what they go on with is drawn in another way today.
    """
    run = tmp_path / "run"
    shutil.copytree(old_runs / case, run)
    folder = RunFolder.open(run)
    if case in DRAWN_ANEW:
        agent, _ = open_recipe(folder).evaluation(folder)
        agent.save(tmp_path / "begun.pt")
        expected = load_checkpoint(folder.checkpoint_path)["agent"]
    resume(run, quiet=True)
    if case in DRAWN_ANEW:
        here = dict(tensors(read_agent_file(tmp_path / "begun.pt")[1]))
        there = {place: value for place, value in tensors(expected) if place in here}
    else:
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
