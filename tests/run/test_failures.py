"""Whatever fails, at whatever stage of whatever recipe: one line says so, and the run can go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import unpack
from old_runs import ARCHIVE, CASES, begin

from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.cli import execute
from prefrl.nn.ensemble import EnsembleFit
from prefrl.preferences.reward_model import RewardModel
from prefrl.run.launch import resume
from prefrl.run.loop import Loop
from prefrl.run.stepping import Stepper

STAGES: dict[str, tuple[type, str, int]] = {
    "environment": (Stepper, "step", 60),
    "update": (Loop, "_updated", 60),
    "evaluation": (Loop, "_evaluate", 2),
    "fit of the reward": (RewardModel, "fit", 2),
    "fit of the model": (EnsembleFit, "fit", 2),
    "rollout": (MBPO, "imagine", 2),
}
"""What fails, and at the how manieth call of it."""

ERRORS = {
    "bug": RuntimeError("simulator lost:\nsecond line"),
    "refusal": ValueError("no such thing"),
    "nothing": AssertionError(),
    "number": FloatingPointError("the reward is nan"),
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    unpack(ARCHIVE, folder)
    return folder


def failing(original: Callable[..., Any], at: int, error: Exception, met: list[int]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        met[0] += 1
        if met[0] == at:
            raise error
        return original(*args, **kwargs)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
def test_a_failure_leaves_a_state_and_one_line(
    case: str, stage: str, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    owner, name, at = STAGES[stage]
    for kind, error in ERRORS.items():
        run, met = begin(case, configs, tmp_path / kind), [0]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing(getattr(owner, name), at, error, met))
            status = execute(lambda folder=run: Going(folder))  # type: ignore[misc]
        if met[0] < at:  # this recipe has no such stage, or few of them
            assert status == 0
            return
        said = capsys.readouterr().err.strip().splitlines()
        assert status == 1, said
        assert len(said) == 1, said
        assert said[0].startswith("error: ")
        assert len(said[0]) < 500
        assert "at timestep" in said[0]
        kept = {path.name for path in run.glob("*.pt")}
        assert kept & {"checkpoint.pt", "failed.pt"}, said
        assert not (run / "result.json").exists()
        resume(run, quiet=True)
        assert json.loads((run / "result.json").read_text("utf-8"))


class Going:
    """A command that goes on with a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self) -> None:
        resume(self.folder, quiet=True)
