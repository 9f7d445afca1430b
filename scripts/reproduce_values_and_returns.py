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
from prefrl.run.study.values import choice, composers, grouped, oreo, oreo_peers, programs, search, units


@dataclass(frozen=True)
class ValueStudy(ClaimStudy):
    """Claims about values and returns, measured."""

    known: ClassVar[Mapping[str, Claim]] = {
        **choice.CLAIMS,
        **composers.CLAIMS,
        **grouped.CLAIMS,
        **oreo.CLAIMS,
        **oreo_peers.CLAIMS,
        **programs.CLAIMS,
        **search.CLAIMS,
        **units.CLAIMS,
    }

    out: Path = Path("runs/values_and_returns")
    """Run folder: new, empty, or of the same study."""

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure as recipes train, without denormal numbers, which are slow; draw what can be drawn."""
        with small_networks():
            found = super().measure(folder)
        if "program_synthesis" in found:
            programs.draw_success(found["program_synthesis"], folder.path / "program_synthesis.png")
        if "oreo_peers" in found:
            oreo_peers.draw_peers(found["oreo_peers"], folder.path / "oreo.png")
        if set(choice.DRAWN) <= set(found):
            choice.draw_choices(found, folder.path / "dynamic_choice.png")
        if set(grouped.CLAIMS) <= set(found):
            grouped.draw_noise(found, folder.path / "grouped_advantages.png")
        return found


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(ValueStudy, description=__doc__)))
