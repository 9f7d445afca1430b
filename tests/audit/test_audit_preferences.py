"""The command `prefrl audit preferences`: what it writes, says and refuses."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

from prefrl import cli
from prefrl.audit import AUDITS
from prefrl.run.flags import class_summary

KEYS = {"models", "cyclic_triads", "cyclic_triads_expected", "agreement", "noise", "verdict"}


def written(path: Path, kind: str, *, each: int = 40, users: int = 4, options: int = 4) -> Path:
    """A table of answers: an order, a circle of all three options of it, or two groups."""
    g = torch.Generator().manual_seed(0)
    lines = ["first,second,label,user"] if users > 1 else ["first,second,label"]
    for _ in range(each):
        for a in range(options):
            for b in range(a + 1, options):
                user = int(torch.randint(users, (), generator=g))
                second = 0.85 if kind != "circle" or (a, b) != (0, options - 1) else 0.15
                if kind == "groups" and user % 2:
                    second = 1.0 - second
                label = int(float(torch.rand((), generator=g)) < second)
                lines.append(f"{a},{b},{label}" + (f",{user}" if users > 1 else ""))
    path.write_text("\n".join(lines) + "\n")
    return path


def audited(tmp_path: Path, file: Path, *more: str) -> dict[str, object]:
    out = tmp_path / "run"
    assert (
        cli.main(
            ["audit", "preferences", str(file), "--out", str(out), "--draws", "199", "--folds", "2", *more]
        )
        == 0
    )
    result: dict[str, object] = json.loads((out / "result.json").read_text())
    return result


@pytest.mark.parametrize(("kind", "word"), [("order", "scalar"), ("circle", "cyclic"), ("groups", "groups")])
def test_three_kinds_of_answers(
    tmp_path: Path, kind: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = audited(tmp_path, written(tmp_path / "answers.csv", kind))
    assert set(result) >= KEYS
    assert result["verdict"] == word
    models = result["models"]
    assert isinstance(models, dict)
    assert models["coin"]["log_loss"] == pytest.approx(math.log(2.0))
    assert {"bradley_terry", "thurstone", "gpm_1", "gpm_2", "pal_2"} <= set(models)
    assert (tmp_path / "run" / "audit.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "run" / "result.json")
    if kind == "groups":
        groups = result["groups"]
        assert isinstance(groups, dict)
        assert groups["0"] == groups["2"] != groups["1"] == groups["3"]


def test_one_user_and_pairs_asked_once(tmp_path: Path) -> None:
    result = audited(tmp_path, written(tmp_path / "answers.csv", "order", each=1, users=1, options=6))
    assert (result["agreement"], result["noise"], result["users_p_value"]) == (None, None, None)
    assert result["verdict"] == "unclear"


@pytest.mark.parametrize("leaves", [1, 5])
def test_a_tree_of_pairs_cannot_go_round(leaves: int, tmp_path: Path) -> None:
    """Answers at random about one option and each of the others, where GPM's ridge loses less than BT's."""
    draw = random.Random(0)
    lines = [f"0,{1 + i // 10},{int(draw.random() < 0.5)}" for i in range(50)]
    if leaves == 1:
        lines = ["0,1,0", "0,1,1"] * 20
    file = tmp_path / "answers.csv"
    file.write_text("\n".join(["first,second,label", *lines]) + "\n")
    result = audited(tmp_path, file)
    assert result["verdict"] == "unclear"
    assert result["cyclic_triads"] is None


def test_answers_that_all_agree_are_better_than_a_coin(tmp_path: Path) -> None:
    """Every held-out answer gains the same, so that the standard error is 0 but for rounding."""
    file = tmp_path / "answers.csv"
    file.write_text("first,second,label\n" + "a,b,1\n" * 40)
    result = audited(tmp_path, file)
    assert result["verdict"] == "scalar"
    assert "by 999.0 standard errors" in str(result["reason"])


def test_the_same_seed_says_the_same(tmp_path: Path) -> None:
    file = written(tmp_path / "answers.csv", "order", each=5)
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(audited(tmp_path / name, file, "--seed", "3", "--blocks", "1", "--prototypes", "2"))
    assert found[0] == found[1]
    assert "gpm_2" not in found[0]["models"]  # type: ignore[operator]  # a dict


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "answers.csv", "order", each=2, users=1)
    out = tmp_path / "run"

    def refused(*arguments: str) -> str:
        assert cli.main(["audit", *arguments]) == 2
        return capsys.readouterr().err

    assert "did you mean preferences?" in refused("preference", str(file))
    assert "blocks is 3; 4 inputs of options allow at most 2" in refused(
        "preferences", str(file), "--out", str(out), "--blocks", "3"
    )
    assert not out.exists()
    assert "folds is 50" in refused("preferences", str(file), "--out", str(out), "--folds", "50")
    with pytest.raises(SystemExit):  # p-values could never be small enough
        cli.main(["audit", "preferences", str(file), "--out", str(out), "--draws", "198"])
    assert "at least 199" in " ".join(capsys.readouterr().err.split())
    assert "there is no file of comparisons" in refused("preferences", "nothing.csv", "--out", str(out))
    out.mkdir()
    (out / "mine").touch()
    assert "is not empty" in refused("preferences", str(file), "--out", str(out))


def test_every_audit_is_named_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(["audit", "--help"])
    printed = capsys.readouterr().out
    for kind, place in AUDITS.items():
        assert f"{kind}" in printed
        assert class_summary(place).split()[0] in printed
