"""What methods that learn from returns, choices and search promise, each claim over many seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.study.claims import Claim, ClaimStudy
from prefrl.run.study.values import choice, search


@dataclass(frozen=True)
class ValueStudy(ClaimStudy):
    """Claims about dynamic choice and search, measured."""

    known: ClassVar[Mapping[str, Claim]] = {**choice.CLAIMS, **search.CLAIMS}

    out: Path = Path("runs/values_and_returns")
    """Run folder: new, empty, or of the same study."""


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(ValueStudy, description=__doc__)))
