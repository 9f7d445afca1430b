"""Arms of a study over seeds: the order in which they are run, and where."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefrl.run.study import arms


@dataclass(frozen=True)
class Fake:
    """A recipe of which only the seed counts."""

    name: str
    seed: int = 7


def test_every_arm_has_a_seed_before_any_has_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[tuple[str, int, str]] = []

    def finish(recipe: Fake, path: Path) -> dict[str, Any]:
        ran.append((recipe.name, recipe.seed, path.relative_to(tmp_path).as_posix()))
        return {"found": 10 * len(recipe.name) + recipe.seed}

    monkeypatch.setattr(arms, "finish_run", finish)
    found = arms.finish_arms({"a": Fake("a"), "b b": Fake("bb")}, 2, tmp_path)
    assert ran == [("a", 0, "a-0"), ("bb", 0, "b_b-0"), ("a", 1, "a-1"), ("bb", 1, "b_b-1")]
    assert found == {"a": [{"found": 10}, {"found": 11}], "b b": [{"found": 20}, {"found": 21}]}
