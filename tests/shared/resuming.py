"""What tests of interrupted and resumed runs share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prefrl.run.folder import RunFolder


def new_folder(path: Path) -> RunFolder:
    """Return a run folder at a path where nothing is yet."""
    return RunFolder.create(path, {"recipe": "test", "config": {}}, quiet=True)


def crash_at(timestep: int) -> Callable[..., bool]:
    """Return a callback of the loop that raises RuntimeError once the agent is that far."""

    def callback(local: dict[str, Any], _: Any) -> bool:
        if local["self"].agent.num_timesteps >= timestep:
            raise RuntimeError("crash")
        return True

    return callback


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare states bit by bit, but for the seconds that were measured."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            if not str(key).startswith("seconds"):
                assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
