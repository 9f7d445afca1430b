"""Settings that check themselves: one base for every config dataclass and every recipe.

A field's annotation says what it may hold, and is all that has to be written::

    @dataclass(frozen=True)
    class MyConfig(Settings):
        gamma: Share = 0.99
        batch_size: Count = 64
        learning_rate: Positive | None = None
        hidden: tuple[Count, ...] = (64, 64)
        loss: Literal["mse", "huber"] = "mse"

        def check(self) -> None:  # what several fields decide together
            ...

NumPy's numbers are numbers, whole numbers are reals too, lists become tuples, mappings become the nested
settings that the annotation names: what JSON holds can be given as it is.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

SettingsType = TypeVar("SettingsType")


@dataclass(frozen=True)
class Bounds:
    """Where a number must lie, as metadata of an ``Annotated`` type."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Leave ``low`` itself out."""
    below: bool = False
    """Leave ``high`` itself out."""

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        """Return what the number must do, as in "be at least 1"."""
        if self.high < math.inf and self.low > -math.inf:
            return (
                f"lie in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"
            )
        if self.high < math.inf:
            return f"be {'below' if self.below else 'at most'} {self.high:g}"
        if self.low == 0 and not self.above:
            return "not be negative"
        return f"be {'above' if self.above else 'at least'} {self.low:g}"


Count = Annotated[int, Bounds(low=1)]
"""A whole number from 1 on."""

Natural = Annotated[int, Bounds(low=0)]
"""A whole number from 0 on."""

Positive = Annotated[float, Bounds(low=0, above=True)]
"""A finite number above 0."""

NonNegative = Annotated[float, Bounds(low=0)]
"""A finite number from 0 on."""

Share = Annotated[float, Bounds(low=0, high=1)]
"""A number in [0, 1]."""

PositiveShare = Annotated[float, Bounds(low=0, high=1, above=True)]
"""A number in (0, 1]."""


class Settings:
    """Base of frozen dataclasses whose fields are checked against their annotations.

    Raises:
        TypeError: for a value of another kind than its field's.
        ValueError: for a number out of its bounds, NaN or infinite, a word that is none of the choices, or
            what :meth:`check` refuses.
    """

    def __post_init__(self) -> None:
        """Check every field, and keep it as its annotation says (a list as a tuple, ...)."""
        kind: Any = type(self)
        for name, annotation in field_types(kind).items():
            object.__setattr__(self, name, checked(annotation, getattr(self, name), name))
        self.check()

    def check(self) -> None:
        """Raise ValueError for fields that do not go together; each by itself is right already."""


@cache
def field_types(settings: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass' fields, bounds included."""
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings) if field.init}


def checked(annotation: Any, value: Any, name: str) -> Any:
    """Return ``value`` as a type annotation has it.

    Args:
        annotation: of int, float, bool, str, Path, Literal, tuples and unions of these, Mapping, dataclasses
            and other classes; ``Annotated`` with :class:`Bounds` where they hold.
        value: what was given.
        name: of the setting, for messages.

    Raises:
        TypeError: for a value of another kind.
        ValueError: for one that its kind, its bounds or its choices leave out.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        value = checked(arguments[0], value, name)
        for bounds in arguments[1:]:
            if isinstance(bounds, Bounds) and value is not None and value not in bounds:
                raise ValueError(f"{name} is {value}; it must {bounds}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, name, annotation)
    if origin is Literal:
        plain = _plain(value)
        for option in arguments:
            if type(plain) is type(option) and plain == option:
                return option
        raise ValueError(f"{name} is {value!r}; it must be one of {list(arguments)}")
    if origin is tuple:
        return _tuple(arguments, value, name, annotation)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
        return from_json(annotation, value, f"{name}.")
    return _scalar(annotation, origin, value, name)


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as the Python number that it is."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


def _scalar(annotation: Any, origin: Any, value: Any, name: str) -> Any:
    kind, value = origin or annotation, _plain(value)
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        value = _real(value, name)
    if kind is Path and isinstance(value, str):
        value = Path(value)
    wrong = type(value) is not kind if kind in (bool, int, float) else not isinstance(value, kind)
    if wrong:
        raise TypeError(f"{name} is {value!r}; it must be {described(annotation)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite")
    return value


def _real(value: int, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is a whole number of {len(str(value))} digits; it must be finite") from None


def _tuple(arguments: tuple[Any, ...], value: Any, name: str, annotation: Any) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} is {value!r}; it must be {described(annotation)}")
    kinds = arguments[:1] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
    if len(kinds) != len(value):
        raise ValueError(f"{name} is {value!r}; it must be {described(annotation)}")
    return tuple(
        checked(kind, entry, f"{name}[{place}]")
        for place, (kind, entry) in enumerate(zip(kinds, value, strict=True))
    )


def _one_of(options: tuple[Any, ...], value: Any, name: str, annotation: Any) -> Any:
    """Return the value as the first of several types that takes it."""
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:  # the message is then about the one thing that it may be
        return checked(options[0], value, name)
    for option in options:
        try:
            return checked(option, value, name)
        except (TypeError, ValueError):
            continue
    raise TypeError(f"{name} is {value!r}; it must be {described(annotation)}")


def described(annotation: Any) -> str:
    """Return a type in words, as in "a tuple of whole numbers"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return described(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(described(option) for option in arguments)
    if origin is Literal:
        return f"one of {list(arguments)}"
    if origin is tuple:
        if arguments[-1:] != (Ellipsis,):
            return f"a tuple of {len(arguments)}: {', '.join(map(described, arguments))}"
        return f"a tuple of {_PLURALS.get(_bare(arguments[0]), described(arguments[0]))}"
    if annotation is type(None):
        return "None"
    return f"of type {getattr(origin or annotation, '__name__', annotation)}"


_PLURALS = {int: "whole numbers", float: "numbers", str: "words", bool: "switches"}


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


# As JSON ------------------------------------------------------------------------------------------------


def to_json(settings: Any) -> dict[str, Any]:
    """Return a dataclass as JSON values: nested dataclasses as objects, tuples as lists, paths as strings."""
    content: dict[str, Any] = _to_json(dataclasses.asdict(settings))
    return content


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def from_json(settings: type[SettingsType], content: Any, where: str = "") -> SettingsType:
    """Return the dataclass that :func:`to_json` described; what is missing takes its default.

    Args:
        settings: the dataclass.
        content: the JSON object.
        where: what stands before names in messages, as in "agent.".

    Raises:
        ValueError: if a key is unknown or missing, a value is of another kind, or the dataclass refuses it.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'config'} is {content!r}; it must be an object")
    kind: Any = settings
    known = field_types(kind)
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise ValueError(f"{where}{unknown[0]} is unknown; {settings.__name__} has {sorted(known)}")
    for field in dataclasses.fields(kind):
        required = field.init and field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in content:
            raise ValueError(f"{where}{field.name} is missing")
    try:
        values = {name: checked(known[name], value, where + name) for name, value in content.items()}
        return settings(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error


def check_kinds(config: Any) -> None:
    """Check that the fields of a settings dataclass hold values of their kinds.

    Looks at fields annotated ``bool``, ``int`` and ``float``, the latter two also with ``| None``, and at
    tuples of ``int``.

    Raises:
        TypeError: for a value of another kind.
        ValueError: for a number that is NaN or infinite.
    """
    allowed: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float)}
    for field in dataclasses.fields(config):
        kind, _, optional = str(field.type).partition(" | ")
        value = getattr(config, field.name)
        if value is None and optional == "None":
            continue
        if kind.startswith("tuple[int"):  # a list, where it comes from JSON
            if not isinstance(value, (tuple, list)) or any(type(entry) is not int for entry in value):
                raise TypeError(f"{field.name} is {value!r}; it must be a tuple of whole numbers")
            continue
        if kind not in allowed:
            continue
        if not isinstance(value, allowed[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise TypeError(f"{field.name} is {value!r}; it must be of type {kind}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} is {value}; it must be finite")
