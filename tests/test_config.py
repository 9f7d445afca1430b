"""Settings that check themselves: kinds, bounds, messages, JSON, and every config of the library."""

import dataclasses
import inspect
import json
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from hypothesis import given, strategies as st

import prefrl
from prefrl.config import (
    Bounds,
    Count,
    Length,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    Settings,
    Share,
    Sizes,
    checked,
    field_types,
    from_json,
    to_json,
)
from prefrl.preferences.label_models import LabelModel
from prefrl.preferences.reward_model import RewardModel
from prefrl.preferences.trajectories import MaxReturn


@dataclass(frozen=True)
class Inner(Settings):
    gamma: Share = 0.5
    hidden: Sizes = (2, 3)


@dataclass(frozen=True)
class Everything(Settings):
    """One field of every kind."""

    on: bool = False
    whole: int = 0
    real: float = 0.0
    count: Count = 1
    natural: Natural = 0
    positive: Positive = 1.0
    non_negative: NonNegative = 0.0
    share: Share = 0.5
    positive_share: PositiveShare = 0.5
    few: Annotated[int, Bounds(low=-(2**31), high=2**31)] = 2
    inside: Annotated[float, Bounds(low=-1, high=0.5, above=True, below=True)] = 0.0
    capped: Annotated[float, Bounds(high=3, below=True)] = 0.0
    order: Annotated[float, Bounds(low=1, infinite=True)] = 2.0
    any_number: Annotated[float | None, Bounds(infinite=True)] = None
    word: str = ""
    kind: Literal["a", "b"] = "a"
    digit: Literal[1, 2] | None = None
    maybe: Annotated[Positive | None, tyro.conf.arg(metavar="RATE")] = None
    sizes: Sizes = (1,)
    counts: tuple[Count, ...] = ()
    words: tuple[str, ...] = ()
    switches: tuple[bool, ...] = ()
    pair: tuple[Count, float] = (1, 0.0)
    pairs: tuple[tuple[int, float], ...] = ()
    several: Literal["auto"] | Count = "auto"
    path: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    anything: Any = None


# Fields, one by one ------------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, str]] = [
    ("on", 1, "on is 1; it must be of type bool"),
    ("on", None, "on is None; it must be of type bool"),
    ("whole", True, "whole is True; it must be of type int"),
    ("whole", 1.0, "whole is 1.0; it must be of type int"),
    ("whole", math.nan, "whole is nan; it must be of type int"),
    ("whole", None, "whole is None; it must be of type int"),
    ("whole", "3", "whole is '3'; it must be of type int"),
    ("whole", np.float64(2.0), "whole is .*2.0.*; it must be of type int"),
    ("real", False, "real is False; it must be of type float"),
    ("real", "0.5", "real is '0.5'; it must be of type float"),
    ("real", 1j, "real is 1j; it must be of type float"),
    ("real", math.nan, "real is nan; it must be finite"),
    ("real", math.inf, "real is inf; it must be finite"),
    ("real", np.float32("-inf"), "real is -inf; it must be finite"),
    ("real", 10**400, "real is a whole number beyond all floats; it must be finite"),
    ("real", np.zeros(1), r"real is array\(\[0.\]\); it must be of type float"),
    ("count", 0, "count is 0; it must be at least 1"),
    ("natural", -1, "natural is -1; it must not be negative"),
    ("positive", 0, "positive is 0.0; it must be above 0"),
    ("non_negative", -1e-9, "non_negative is -1e-09; it must not be negative"),
    ("share", 1.5, r"share is 1.5; it must lie in \[0, 1\]"),
    ("share", -0.5, r"share is -0.5; it must lie in \[0, 1\]"),
    ("positive_share", 0.0, r"positive_share is 0.0; it must lie in \(0, 1\]"),
    ("few", 2**32, r"few is 4294967296; it must lie in \[-2147483648, 2147483648\]"),
    ("inside", 0.5, r"inside is 0.5; it must lie in \(-1, 0.5\)"),
    ("capped", 3, "capped is 3.0; it must be below 3"),
    ("order", 0.5, "order is 0.5; it must be at least 1"),
    ("order", math.nan, "order is nan; it must be at least 1"),
    ("any_number", math.nan, "any_number is nan; it must be a number"),
    ("word", 3, "word is 3; it must be of type str"),
    ("kind", "c", r"kind is 'c'; it must be one of \['a', 'b'\]"),
    ("digit", 3, r"digit is 3; it must be one of \[1, 2\]"),
    ("digit", True, r"digit is True; it must be one of \[1, 2\]"),
    ("maybe", 0.0, "maybe is 0.0; it must be above 0"),
    ("maybe", "x", "maybe is 'x'; it must be of type float"),
    ("sizes", (), r"sizes is \(\); it must have at least 1 entry"),
    ("sizes", (3, 0), r"sizes\[1\] is 0; it must be at least 1"),
    ("counts", 3, "counts is 3; it must be a tuple of whole numbers"),
    ("counts", (1.5,), r"counts\[0\] is 1.5; it must be of type int"),
    ("words", "ab", "words is 'ab'; it must be a tuple of words"),
    ("switches", None, "switches is None; it must be a tuple of switches"),
    ("pair", (1,), r"pair is \(1,\); it must be a tuple of 2: of type int, of type float"),
    ("pair", (0, 1), r"pair\[0\] is 0; it must be at least 1"),
    ("pairs", ((1, "x"),), r"pairs\[0\]\[1\] is 'x'; it must be of type float"),
    ("pairs", 1, "pairs is 1; it must be a tuple of entries"),
    ("several", 0, r"several is 0; it must be one of \['auto'\] or be at least 1"),
    ("several", 0.5, r"several is 0.5; it must be one of \['auto'\] or be of type int"),
    ("several", None, r"several is None; it must be one of \['auto'\] or be of type int"),
    ("path", 3, "path is 3; it must be of type Path"),
    ("options", 3, "options is 3; it must be of type Mapping"),
    ("inner", 3, "inner is 3; it must be of type Inner"),
    ("inner", None, "inner is None; it must be of type Inner"),
    ("inner", {"gama": 1}, r"inner\.gama is unknown; Inner has \['gamma', 'hidden'\]"),
    ("inner", {"gamma": 7}, r"inner\.gamma is 7.0; it must lie in \[0, 1\]"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_what_a_field_may_not_hold(name: str, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
        Everything(**{name: value})


def test_wrong_kinds_are_type_errors_and_wrong_values_are_value_errors() -> None:
    for name, value in (("whole", 1.0), ("real", "x"), ("counts", 3), ("inner", 3), ("maybe", True)):
        with pytest.raises(TypeError):
            Everything(**{name: value})
    for name, value in (("real", math.nan), ("count", 0), ("kind", "c"), ("sizes", ()), ("several", 0.5)):
        with pytest.raises(ValueError):  # noqa: PT011
            Everything(**{name: value})


RIGHT: list[tuple[str, Any, Any]] = [
    ("on", np.True_, True),
    ("whole", np.int32(-3), -3),
    ("whole", np.array(3), 3),
    ("whole", torch.tensor(3), 3),
    ("real", 2, 2.0),
    ("real", np.float32(0.5), 0.5),
    ("real", np.longdouble(0.5), 0.5),
    ("real", np.uint8(4), 4.0),
    ("real", torch.tensor(0.25), 0.25),
    ("positive", 5e-324, 5e-324),
    ("share", 1, 1.0),
    ("order", math.inf, math.inf),
    ("any_number", -math.inf, -math.inf),
    ("any_number", None, None),
    ("kind", np.str_("b"), "b"),
    ("digit", np.int64(2), 2),
    ("sizes", [2, np.int64(3)], (2, 3)),
    ("counts", np.array([1, 2]), (1, 2)),
    ("pair", [1, 2], (1, 2.0)),
    ("pairs", [[1, 2]], ((1, 2.0),)),
    ("several", np.int64(2), 2),
    ("path", "x/y", Path("x/y")),
    ("inner", {"hidden": [4]}, Inner(hidden=(4,))),
]


def plain_types(value: Any) -> Any:
    return type(value), tuple(map(plain_types, value)) if isinstance(value, tuple) else ()


@pytest.mark.parametrize(("name", "given", "kept"), RIGHT)
def test_what_is_kept_of_a_value(name: str, given: Any, kept: Any) -> None:
    value = getattr(Everything(**{name: given}), name)
    assert value == kept
    assert plain_types(value) == plain_types(kept)


def test_other_objects_are_kept_as_they_are() -> None:
    for value in (np.zeros(()), torch.zeros(()), object(), math.nan):
        assert Everything(anything=value).anything is value
    tensor = torch.zeros(())
    assert checked(torch.Tensor, tensor, "matrix") is tensor


numbers = st.integers(-3, 3) | st.floats(-3, 3)


@given(low=numbers, high=numbers, above=st.booleans(), below=st.booleans(), value=numbers)
def test_a_number_is_taken_where_its_bounds_hold(
    low: float, high: float, above: bool, below: bool, value: float
) -> None:
    fits = not (value < low or value > high or (above and value == low) or (below and value == high))
    bounded = Annotated[float, Bounds(low, high, above, below)]
    if fits:
        assert checked(bounded, value, "x") == value
    else:
        with pytest.raises(ValueError, match=r"^x is .*; it must lie in [\[(]"):
            checked(bounded, value, "x")


@dataclass(frozen=True)
class Range(Settings):
    low: float = 0.0
    high: Positive = 1.0

    def check(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; low must be below high")


@dataclass(frozen=True)
class Rates(Range):
    rate: Annotated[tuple[Positive, ...], Length(2)] = (1.0, 2.0)


def test_conditions_over_several_fields_come_after_each_by_itself() -> None:
    assert Range(low=np.int64(0), high=2) == Range(0.0, 2.0)
    with pytest.raises(ValueError, match=r"^low is 2.0 and high 1.0; low must be below high"):
        Range(low=2)
    with pytest.raises(ValueError, match=r"^high is -1.0; it must be above 0"):
        Range(high=-1)
    with pytest.raises(ValueError, match=r"^rate is \(1.0,\); it must have at least 2 entries"):
        Rates(low=2, rate=(1,))
    with pytest.raises(ValueError, match=r"^low is 2.0 and high 1.0"):
        dataclasses.replace(Rates(), low=2)


# JSON and the command line -----------------------------------------------------------------------------

inners = st.builds(Inner, st.floats(0, 1), st.lists(st.integers(1, 9), min_size=1).map(tuple))
finite = st.floats(allow_nan=False, allow_infinity=False)
everything = st.builds(
    Everything,
    on=st.booleans(),
    whole=st.integers(),
    real=finite | st.integers(-9, 9),
    few=st.integers(2, 2**31),
    kind=st.sampled_from(["a", "b"]),
    digit=st.sampled_from([None, 1, 2]),
    maybe=st.none() | st.floats(1e-9, 9),
    words=st.lists(st.text()).map(tuple),
    switches=st.lists(st.booleans()).map(tuple),
    pair=st.tuples(st.integers(1), finite),
    pairs=st.lists(st.tuples(st.integers(), finite)).map(tuple),
    several=st.just("auto") | st.integers(1),
    path=st.none() | st.sampled_from([Path("x"), Path("/y/z")]),
    options=st.dictionaries(st.text(), st.integers() | st.text()),
    inner=inners,
)


@given(everything)
def test_settings_come_back_from_json(settings: Everything) -> None:
    text = json.dumps(to_json(settings), allow_nan=False)
    assert from_json(Everything, json.loads(text)) == settings


@given(everything)
def test_settings_take_what_json_holds(settings: Everything) -> None:
    """An agent file's settings, nested ones too, are given to the class as they were read."""
    assert Everything(**json.loads(json.dumps(dataclasses.asdict(settings), default=str))) == settings


def test_json_is_refused_with_the_path_to_the_field() -> None:
    for content, message in (
        (3, r"^config is 3; it must be an object"),
        ({"inner": 3}, r"^inner is 3; it must be of type Inner"),
        ({"inner": {"hidden": [0]}}, r"^inner\.hidden\[0\] is 0; it must be at least 1"),
        ({"inner": {"hidden": "12"}}, r"^inner\.hidden is '12'; it must be a tuple of whole numbers"),
        ({"count": True}, r"^count is True; it must be of type int"),
    ):
        with pytest.raises(ValueError, match=message):
            from_json(Everything, content)


def test_the_command_line_reads_settings_and_shows_no_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--sizes", "3", "4", "--maybe", "0.5", "--inner.gamma", "1", "--several", "2"]
    read = tyro.cli(Narrow, args=few[:-2])
    assert read == Narrow(sizes=(3, 4), maybe=0.5, inner=Inner(1.0))
    with pytest.raises(SystemExit):
        tyro.cli(Narrow, args=["--help"])
    shown = capsys.readouterr().out
    assert re.search(r"--sizes INT \[INT \.\.\.\]|--sizes \[INT \[INT \.\.\.\]\]", shown)
    assert re.search(r"--count INT .*\(default: 1\)", shown)
    assert "--maybe RATE" in shown
    assert "Bounds" not in shown
    assert "Annotated" not in shown


@dataclass(frozen=True)
class Narrow(Settings):
    count: Count = 1
    sizes: Sizes = (1,)
    maybe: Annotated[Positive | None, tyro.conf.arg(metavar="RATE")] = None
    inner: Inner = field(default_factory=Inner)


# Every config of the library ---------------------------------------------------------------------------

PACKAGES = ("prefrl.agents", "prefrl.preferences", "prefrl.run.recipes", "prefrl.functional", "prefrl.nn")

UNBOUNDED = {
    "above", "below", "end_weight", "return_weight", "start_weight", "stock_high", "stock_low", "target",
    "uniform_logit", "column", "initial_stock", "policy_entries", "f1", "f2", "v", "initial_value", "v_min",
    "v_max", "target_entropy", "margin", "reward_range", "success_return", "success_returns", "expert_return",
    "max_value",
}  # fmt: skip
"""Fields that may hold any finite number."""

MODEL = RewardModel(gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2))
EXAMPLES = {"of": MaxReturn(), "model": MODEL, "matrix": torch.tensor([[0.0, 1.0], [-1.0, 0.0]])}
"""Values of fields without a default that their annotations do not tell."""


def is_dataclass(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def is_config(name: str) -> bool:
    return name.endswith("Config") or name.startswith("Train")


def is_required(each: "dataclasses.Field[Any]") -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING


def is_abstract(kind: Any) -> bool:
    return bool(getattr(kind, "__abstractmethods__", None))


def config_classes() -> dict[str, Any]:
    """Return the dataclasses that are named like settings or are some, by name."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            for name, kind in vars(import_module(module.name)).items():
                if not (is_dataclass(kind) and kind.__module__ == module.name):
                    continue
                if issubclass(kind, LabelModel) and any(map(is_required, dataclasses.fields(kind))):
                    continue  # it is made with functions or data
                if is_config(name) or (issubclass(kind, Settings) and not is_abstract(kind)):
                    assert name not in found
                    found[name] = kind
    return found


CLASSES = config_classes()
FIELDS = [(kind, name) for kind in CLASSES.values() for name in field_types(kind)]


def test_every_config_checks_itself() -> None:
    """By annotations and, for what several fields decide, in ``check``: none writes a __post_init__."""
    assert len(CLASSES) > 30
    base = Settings.__post_init__
    configs = {name: kind for name, kind in CLASSES.items() if is_config(name)}
    assert {name for name, kind in configs.items() if getattr(kind, "__post_init__", 0) != base} == set()


def has_free_numbers(annotation: Any) -> bool:
    kind, bounds, _ = split(annotation)
    if kind in (int, float):
        return bounds == Bounds()
    return get_origin(kind) is not Literal and any(map(has_free_numbers, get_args(kind)))


def test_every_number_has_bounds() -> None:
    free = {name for kind, name in FIELDS if has_free_numbers(field_types(kind)[name])}
    assert free == UNBOUNDED


def split(annotation: Any) -> tuple[Any, Bounds, int]:
    """Return an annotation without its metadata, the bounds and the least length that these say."""
    if get_origin(annotation) is not Annotated:
        return annotation, Bounds(), 0
    kind, *metadata = get_args(annotation)
    bounds = [each for each in metadata if isinstance(each, Bounds)]
    return (
        kind,
        (bounds or [Bounds()])[0],
        max([each.low for each in metadata if isinstance(each, Length)] or [0]),
    )


def steps(kind: type, value: float) -> tuple[float, float]:
    """Return the numbers next to a number."""
    if kind is int:
        return int(value) - 1, int(value) + 1
    return math.nextafter(value, -math.inf), math.nextafter(value, math.inf)


def good(annotation: Any) -> list[Any]:
    """Return values that a field must take, those at the bounds among them."""
    kind, bounds, length = split(annotation)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in (int, float):
        far = 10**12 if kind is int else 1e300
        low, high = bounds.low, bounds.high
        lowest = -far if low == -math.inf else steps(kind, low)[1] if bounds.above else kind(low)
        highest = far if high == math.inf else steps(kind, high)[0] if bounds.below else kind(high)
        plain = [lowest, highest, *([math.inf] if bounds.infinite and high == math.inf else [])]
        return [*plain, (np.int64 if kind is int else np.float64)(lowest)]
    if origin in (Union, UnionType):
        return [value for option in arguments for value in good(option)]
    if origin is Literal:
        return list(arguments)
    if origin is tuple:
        several = arguments[-1:] == (Ellipsis,)
        entries = [good(part) for part in (arguments[:1] * max(1, length) if several else arguments)]
        full = tuple(values[0] for values in entries)
        rows = [full, list(full), *([tuple(entries[0]) * max(1, length)] if several else [])]
        return rows + [()] * (several and length == 0)
    if is_dataclass(kind) and not is_abstract(kind):
        example = kind(**required(kind))
        return [example, to_json(example)]
    known = {bool: [True, False, np.True_], str: ["", "x"], Path: [Path("x"), "x"], type(None): [None]}
    return list(known.get(kind, []))


def nonsense(annotation: Any) -> Iterator[Any]:
    """Yield values that no field of this annotation may hold."""
    kind, bounds, length = split(annotation)
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if origin in (Union, UnionType):
        options = [option for option in arguments if option is not type(None)]
        one = len(options) == 1
        wrong = nonsense(Annotated[options[0], bounds, Length(length)]) if one else [object()]
        yield from (each for each in wrong if each is not None or type(None) not in arguments)
        return
    yield from (None, object(), b"x", {1, 2})
    if kind in (int, float):
        yield from (True, "3", 1j, (1,), [], math.nan, np.float64("nan"), np.ones(1))
        yield from () if bounds.infinite else (math.inf, -math.inf)
        yield from (1.5, 1.0, np.float32(2.0)) if kind is int else (10**400,)
        if bounds.low > -math.inf:
            yield from (
                kind(bounds.low) if bounds.above else steps(kind, bounds.low)[0],
                kind(bounds.low) - 3,
            )
        if bounds.high < math.inf:
            yield from (
                kind(bounds.high) if bounds.below else steps(kind, bounds.high)[1],
                kind(bounds.high) + 3,
            )
    elif kind is bool:
        yield from (0, 1, "no", 0.0, np.int64(1))
    elif kind is str or kind is Path:
        yield from (3, 0.5, True, ("x",))
    elif origin is Literal:
        yield from ("no such word", 0.5, ("x",), -12345)
    elif origin is tuple:
        yield from (3, "word", 0.5, {"x": 1})
        several = arguments[-1:] == (Ellipsis,)
        parts = arguments[:1] * max(1, length) if several else arguments
        right = [(good(part) or [None])[0] for part in parts]
        yield from (right[:short] for short in range(length if several else len(parts)))
        yield from () if several else ((*right, right[0]),)
        for place, part in enumerate(parts):
            yield from ((*right[:place], wrong, *right[place + 1 :]) for wrong in nonsense(part))
    elif is_dataclass(kind):
        yield from (3, "x", {"no_such_setting": 1})
        yield from ({name: wrong} for name, part in field_types(kind).items() for wrong in nonsense(part))
        yield from [{}] if is_abstract(kind) else []
    else:
        yield from (3, "x", (("a", 1),))


def required(kind: Any) -> dict[str, Any]:
    """Return values of the fields that have no default."""
    annotations, missing = field_types(kind), dataclasses.MISSING
    names = [each.name for each in dataclasses.fields(kind)
             if each.init and each.default is missing and each.default_factory is missing]  # fmt: skip
    return {name: EXAMPLES[name] if name in EXAMPLES else good(annotations[name])[0] for name in names}


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_no_config_takes_nonsense(kind: Any, name: str) -> None:
    others = required(kind)
    for value in nonsense(field_types(kind)[name]):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b") as refused:
            pytest.fail(f"took {kind(**{**others, name: value})}")
        assert re.search(r"; it must |; \w+ has \[", str(refused.value))


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_every_config_takes_what_lies_within_its_bounds(
    kind: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "check", lambda self: None)  # only what the field by itself may be
    others = required(kind)
    for value in good(field_types(kind)[name]):
        kept = getattr(kind(**{**others, name: value}), name)
        if isinstance(value, (int, float, str)) and not isinstance(kept, Path):
            assert kept == value


def test_a_setting_is_not_given_by_its_old_and_its_new_name() -> None:
    old, new = "target_update_interval", "target_update_gradient_steps"
    kind = CLASSES["SACConfig"]
    assert from_json(kind, {old: 3}) == kind(target_update_gradient_steps=3)
    with pytest.raises(ValueError, match=f"^agent.{old} and agent.{new} are both given"):
        from_json(kind, {old: 3, new: 4}, "agent.")


# What help() shows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [kind for name, kind in CLASSES.items() if is_config(name)])
def test_every_setting_is_explained(settings: Any) -> None:
    text = settings.__doc__
    for name in field_types(settings):
        (line,) = re.findall(rf"^    {name}: (.*)$", text, re.MULTILINE)
        assert len(line) > 8, name


def test_a_field_with_another_default_keeps_its_text() -> None:
    assert "    epsilon_end: Probability of a uniform action once" in prefrl.StockDQNConfig.__doc__
    assert "    batch_size: Transitions per gradient step." in prefrl.StockDQNConfig.__doc__
    assert inspect.getdoc(prefrl.StockDQNConfig) == prefrl.StockDQNConfig.__doc__
