"""What methods that learn from returns, choices and search promise, each claim over many seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.base import small_networks
from prefrl.run.study.claims import Claim, ClaimStudy
from prefrl.run.study.values import choice, oreo


@dataclass(frozen=True)
class ValueStudy(ClaimStudy):
    """Claims about dynamic choice and OREO, measured."""

    known: ClassVar[Mapping[str, Claim]] = {**choice.CLAIMS, **oreo.CLAIMS}

    out: Path = Path("runs/values_and_returns")
    """Run folder: new, empty, or of the same study."""

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure as recipes train: on one thread, and without denormal numbers, which are slow."""
        with small_networks():
            return super().measure(folder)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(ValueStudy, description=__doc__)))
