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
from prefrl.run.study.claims import Claim, ClaimStudy
from prefrl.run.study.values import choice, composers, programs
from prefrl.run.study.values import choice, oreo
from prefrl.run.study.values import choice, grouped, units
from prefrl.run.study.values import choice, search


@dataclass(frozen=True)
class ValueStudy(ClaimStudy):
    """Claims about values and returns, measured."""

    known: ClassVar[Mapping[str, Claim]] = {**choice.CLAIMS, **composers.CLAIMS, **programs.CLAIMS}
    """Claims about dynamic choice and OREO, measured."""

    known: ClassVar[Mapping[str, Claim]] = {**choice.CLAIMS, **oreo.CLAIMS}
    """Claims about dynamic choice, advantages of groups and stochastic units, measured."""

    known: ClassVar[Mapping[str, Claim]] = {**choice.CLAIMS, **grouped.CLAIMS, **units.CLAIMS}
    """Claims about dynamic choice and search, measured."""

    known: ClassVar[Mapping[str, Claim]] = {**choice.CLAIMS, **search.CLAIMS}

    out: Path = Path("runs/values_and_returns")
    """Run folder: new, empty, or of the same study."""

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure; where there is what can be drawn, draw it."""
        found = super().measure(folder)
        if "program_synthesis" in found:
            programs.draw_success(found["program_synthesis"], folder.path / "program_synthesis.png")
        return found


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(ValueStudy, description=__doc__)))
