"""Whether the verdict of `prefrl audit preferences` is right, on planted answers of three kinds.

Each claim is measured over seeds that nothing was chosen on: docs/preferences/audit.md has what was asked and
what was seen. The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from prefrl.audit.answers import from_table
from prefrl.audit.coherence import AuditSettings, audit_preferences
from prefrl.audit.verdicts import Word
from prefrl.cli import execute
from prefrl.data.files.comparison_tables import ComparisonTable
from prefrl.run.flags import parse
from prefrl.run.study.claims import Claim, ClaimStudy, Numbers

Kind = Literal["transitive", "cycle", "opposed", "ideals"]

RIGHT: dict[Kind, Word] = {
    "transitive": "scalar", "cycle": "cyclic", "opposed": "groups", "ideals": "groups",
}  # fmt: skip
"""The verdict that is right."""


def chances(kind: Kind, options: int, g: torch.Generator, clarity: float, scale: float) -> Tensor:
    """Return [2, K, K] by group that the column is preferred to the row.

    Utilities are normal with a deviation of ``scale``. In "cycle", the first three options go round with
    ``clarity`` each, and are worth the same against the others; in "opposed", the second group wants the
    opposite; in "ideals", options lie in the plane and groups have opposite ideal points at distance 1.5, and
    answers are logistic in twice ``scale`` times the difference of distances.
    """
    worth = scale * torch.randn(options, generator=g, dtype=torch.float64).expand(2, -1).clone()
    if kind == "cycle":
        worth[:, :3] = worth[:, :3].mean()
    if kind == "opposed":
        worth[1] = -worth[0]
    if kind == "ideals":
        places = torch.randn(options, 2, generator=g, dtype=torch.float64)
        angle = 2.0 * math.pi * torch.rand((), generator=g, dtype=torch.float64)
        ideal = 1.5 * torch.stack([angle.cos(), angle.sin()])
        worth = torch.stack([-2.0 * scale * (places - sign * ideal).norm(dim=1) for sign in (1.0, -1.0)])
    found = torch.sigmoid(worth[:, None, :] - worth[:, :, None])
    if kind == "cycle":
        for i in range(3):
            found[:, i, (i + 1) % 3], found[:, (i + 1) % 3, i] = 1.0 - clarity, clarity
    return found


def planted(
    seed: int, kind: Kind, *, options: int = 6, per_pair: float = 40.0, users: int = 20, clarity: float = 0.8,
    scale: float = 1.5, flips: float = 0.0,
) -> ComparisonTable:  # fmt: skip
    """Return answers to pairs that are drawn at random, by users who take turns, in two groups of one half.

    Args:
        seed: of all draws.
        kind: see :func:`chances`.
        options: K.
        per_pair: answers to each pair, on average.
        users: U.
        clarity: see :func:`chances`.
        scale: see :func:`chances`.
        flips: rate of answers that are turned round.
    """
    g = torch.Generator().manual_seed(seed)
    count = round(per_pair * options * (options - 1) / 2)
    who = torch.arange(count) % users
    table = chances(kind, options, g, clarity, scale)
    first = torch.randint(options, (count,), generator=g)
    second = (first + torch.randint(1, options, (count,), generator=g)) % options
    chance = table[who % 2, first, second]
    chance = flips + (1.0 - 2.0 * flips) * chance
    labels = torch.bernoulli(chance, generator=g)
    names = tuple(f"option {i}" for i in range(options))
    return ComparisonTable(first, second, labels, torch.ones_like(labels), who, names,
                           tuple(f"user {i}" for i in range(users)))  # fmt: skip


def audited(seed: int, kind: Kind, **sizes: float) -> dict[str, float]:
    """Return the verdict, as a 1 at its word, whether it is right or wrong, and what it was made of."""
    table = planted(seed, kind, **sizes)  # type: ignore[arg-type]  # numbers as named
    result = audit_preferences(from_table(table), AuditSettings(seed=seed)).result
    word = result["verdict"]
    numbers = ("noise", "agreement", "users_p_value", "cyclic_triads_p_value", "clearest_p_value",
               "circle_power", "users_power")  # fmt: skip
    return {
        **{name: float(name == word) for name in get_args(Word)},
        "right": float(word == RIGHT[kind]),
        "wrong": float(word not in (RIGHT[kind], "unclear")),
        **{name: -1.0 if result[name] is None else float(result[name]) for name in numbers},
    }


def mostly_right(of: Numbers) -> np.bool_:
    """Whether 19 of 20 verdicts are right."""
    return np.bool_(of["right"].mean() >= 0.95)


def never_wrong(of: Numbers) -> np.bool_:
    """Whether at most one of 20 verdicts is wrong, and all others right or "unclear"."""
    return np.bool_(of["wrong"].mean() <= 0.05)


SIZES: Mapping[str, Mapping[str, float]] = {
    "": {},
    "_flips": {"flips": 0.1},
    "_ten": {"options": 10},
    "_one_user": {"users": 1},
    "_half": {"per_pair": 20.0},
    "_few": {"per_pair": 8.0},
    "_fewest": {"per_pair": 3.0},
}
"""What else is tried: noise, more options, nobody's name, fewer answers."""

ASKED_RIGHT = ("", "_ten", "_one_user")
"""Sizes of which 19 of 20 verdicts must be right; of the others at most one of 20 may be wrong."""

CLAIMS: Mapping[str, Claim] = {
    f"{kind}{size}": Claim(
        f"{kind} {dict(given) or ''}: {RIGHT[kind]}" + ("" if size in ASKED_RIGHT else ', or "unclear"'),
        partial(audited, kind=kind, **given),
        mostly_right if size in ASKED_RIGHT else never_wrong,
    )
    for size, given in SIZES.items()
    for kind in RIGHT
    if not (size == "_one_user" and RIGHT[kind] == "groups")
}


@dataclass(frozen=True)
class PreferenceAuditStudy(ClaimStudy):
    """Whether the verdict of an audit of preferences is right."""

    known: ClassVar[Mapping[str, Claim]] = CLAIMS

    out: Path = Path("runs/preference_audit")
    """Run folder: new, empty, or of the same study."""


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(PreferenceAuditStudy, description=__doc__)))
