"""Claims that are measured over seeds: what was asked, what every seed gave, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from prefrl.run.folder import RunFolder, read_json, write_json

from .study import check_positive, run_study
from .timing import spread

Numbers = Mapping[str, NDArray[np.float64]]
"""What all seeds gave, by name [seeds]."""


@dataclass(frozen=True)
class Claim:
    """One claim, how it is measured with a seed, and when it holds."""

    asked: str
    """What must be seen, in words."""
    measure: Callable[[int], Mapping[str, float]]
    """Returns the numbers of one seed by name."""
    holds: Callable[[Numbers], bool | np.bool_]
    """Whether the numbers of all seeds are what was asked."""


@dataclass(frozen=True)
class ClaimStudy:
    """Measures claims over seeds; a study says which there are, and where its folder is by default."""

    known: ClassVar[Mapping[str, Claim]] = {}
    """Claims by name."""

    out: Path
    """Run folder: new, empty, or of the same study."""

    claims: tuple[str, ...] = ()
    """Which claims; none: all."""

    seeds: int = 20
    """Seeds of each."""

    first_seed: int = 1_000
    """The first of them; settings were chosen with seeds from 0 on."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds")
        wrong = [name for name in self.claims if name not in self.known]
        if wrong:
            raise ValueError(f"claims has {wrong[0]!r}; allowed are {', '.join(self.known)}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure what has not been measured yet; print and return all of it."""
        chosen = {name: self.known[name] for name in self.claims or self.known}
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        found = measure_claims(chosen, seeds, folder.path / "parts")
        show_claims(found)
        return found


def measure_claims(
    claims: Mapping[str, Claim], seeds: Sequence[int], parts: Path | None = None
) -> dict[str, Any]:
    """Return by claim what was asked, every seed's numbers with their spread, and whether it holds.

    Args:
        claims: by name.
        seeds: at least one.
        parts: a folder that keeps what is finished; what it holds already is not measured again.
    """
    found: dict[str, Any] = {}
    for name, claim in claims.items():
        path = None if parts is None else parts / f"{name}.json"
        if path is not None and path.exists():
            found[name] = read_json(path)
            continue
        rows = [claim.measure(seed) for seed in seeds]
        numbers = {key: [float(row[key]) for row in rows] for key in rows[0]}
        found[name] = {
            "asked": claim.asked,
            "holds": bool(claim.holds({key: np.array(values) for key, values in numbers.items()})),
            "seeds": list(seeds),
            "numbers": numbers,
            "spread": {key: spread(values) for key, values in numbers.items()},
        }
        if path is not None:
            path.parent.mkdir(exist_ok=True)
            write_json(path, found[name])
    return found


def show_claims(found: Mapping[str, Any]) -> None:
    """Print what :func:`measure_claims` returned as a table."""
    table = Table("claim", "holds", "seen", "min", "median", "max")
    for name, claim in found.items():
        first = name, "yes" if claim["holds"] else "NO"
        for key, numbers in claim["spread"].items():
            cells = (f"{numbers[part]:.3g}" for part in ("min", "median", "max"))
            table.add_row(*first, key.replace("_", " "), *cells)
            first = "", ""
    Console().print(table)
