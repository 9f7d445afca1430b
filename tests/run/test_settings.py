from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from prefrl.run.settings import flatten, full_name, nest, parse_setting, setting_types


@dataclass(frozen=True)
class Inner:
    gamma: float = 0.9
    seed: int = 0


@dataclass(frozen=True)
class Outer:
    seed: int = 0
    agent: Inner = field(default_factory=Inner)
    kind: Literal["a", "b"] = "a"
    env_id: str = "E"
    limit: int | None = None
    sizes: tuple[int, ...] = ()
    on: bool = False
    file: Path | None = None


def test_flatten_and_nest() -> None:
    nested = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}}
    flat = {"a": 1, "b.c": [1, 2], "b.d.e": None}
    assert flatten(nested) == flat
    assert nest(flat) == nested


def test_setting_types() -> None:
    types = setting_types(Outer)
    assert list(types) == [
        "seed", "agent.gamma", "agent.seed", "kind", "env_id", "limit", "sizes", "on", "file",
    ]  # fmt: skip
    assert (types["agent.gamma"], types["kind"]) == (float, Literal["a", "b"])


def test_full_name() -> None:
    known = setting_types(Outer)
    assert full_name("gamma", known, "it") == full_name("agent.gamma", known, "it") == "agent.gamma"
    assert full_name("env-id", known, "it") == "env_id"
    assert full_name("seed", known, "it") == "seed"  # what is exact means itself
    with pytest.raises(ValueError, match=r"'lr' of it is unknown; it has agent\.gamma, agent\.seed, env_id"):
        full_name("lr", known, "it")
    with pytest.raises(ValueError, match=r"'x' of it may mean a\.x or b\.x"):
        full_name("x", ["a.x", "b.x"], "it")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("agent.gamma", "1e-3", 0.001),
        ("seed", "-5", -5),
        ("kind", "b", "b"),
        ("env_id", "prefrl/Delivery-v0", "prefrl/Delivery-v0"),
        ("env_id", 'two words"', 'two words"'),
        ("limit", "None", None),
        ("limit", "3", 3),
        ("sizes", "64 32", (64, 32)),
        ("sizes", "", ()),
        ("on", "True", True),
        ("file", "'a b.npz'", Path("a b.npz")),
    ],
)
def test_parse_setting(name: str, text: str, value: object) -> None:
    parsed = parse_setting(Outer, name, text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("agent.gamma", "high", "float"),
        ("agent.gamma", "", "float"),
        ("seed", "2.5", "int"),
        ("seed", "1 2", "int"),
        ("seed", "--help", "int"),
        ("kind", "c", r"typing\.Literal\['a', 'b'\]"),
        ("sizes", "3 x", r"tuple\[int, \.\.\.\]"),
        ("on", "'", "bool"),
        ("file", "a b.npz", ".*Path.*"),
    ],
)
def test_text_that_is_no_value(name: str, text: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*; it must be of type {kind}$"):
        parse_setting(Outer, name, text)
    assert capsys.readouterr() == ("", "")
