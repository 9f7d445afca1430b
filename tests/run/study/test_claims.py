"""Claims over seeds: what is measured, kept, judged, shown and refused."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from prefrl.run.study.claims import Claim, ClaimStudy

CALLS: list[int] = []


def measure(seed: int) -> dict[str, float]:
    CALLS.append(seed)
    return {"square": float(seed**2), "half": 0.5 * seed}


CLAIMS = {
    "small": Claim("squares below 10", measure, lambda of: of["square"].max() < 10.0),
    "large": Claim("halves from 1 on", measure, lambda of: of["half"].min() >= 1.0),
}


@dataclass(frozen=True)
class Study(ClaimStudy):
    known: ClassVar[Any] = CLAIMS


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setattr(sys, "argv", ["reproduce_something.py"])


def test_every_seed_is_kept_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Study(tmp_path / "run", seeds=3, first_seed=2).run()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result) == {"small", "large"}
    assert (result["small"]["holds"], result["large"]["holds"]) == (False, True)
    assert result["small"]["seeds"] == [2, 3, 4]
    assert result["small"]["numbers"] == {"square": [4.0, 9.0, 16.0], "half": [1.0, 1.5, 2.0]}
    assert result["small"]["spread"]["square"] == {"median": 9.0, "min": 4.0, "max": 16.0}
    printed = capsys.readouterr().out
    assert "small" in printed
    assert "NO" in printed


def test_what_is_finished_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path / "run", seeds=2, first_seed=2)

    def stopped(seed: int) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setitem(CLAIMS, "large", Claim("", stopped, lambda of: True))
    with pytest.raises(KeyboardInterrupt):
        study.run()
    assert CALLS == [2, 3]
    monkeypatch.setitem(CLAIMS, "large", Claim("", lambda seed: {"half": 1.0}, lambda of: True))
    study.run()
    assert CALLS == [2, 3]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["small"]["numbers"]["square"] == [4.0, 9.0]
    assert result["large"]["numbers"] == {"half": [1.0, 1.0]}


def test_some_claims_alone(tmp_path: Path) -> None:
    Study(tmp_path / "run", ("large",), seeds=1, first_seed=5).run()
    assert list(json.loads((tmp_path / "run" / "result.json").read_text())) == ["large"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claims": ("smal",)}, "claims has 'smal'; allowed are small, large"),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
    ],
    ids=str,
)
def test_nonsense_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Study(tmp_path / "run", **change)
