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

Numbers may come as scalars of NumPy or as tensors without axes, whole numbers are reals too, lists become
tuples, mappings become the nested settings that the annotation names: what JSON holds can be given as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import numbers
import textwrap
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

SettingsType = TypeVar("SettingsType")
AnySettings = TypeVar("AnySettings", bound="Settings")


@dataclass(frozen=True)
class Bounds:
    """Where a number must lie, as metadata of an ``Annotated`` type."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Leave ``low`` itself out."""
    below: bool = False
    """Leave ``high`` itself out."""
    infinite: bool = False
    """Let infinite numbers be numbers too, where they are within the bounds."""

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        """Return what the number must do, as in "be at least 1"."""
        low, high = f"{self.low:.15g}", f"{self.high:.15g}"
        if -math.inf < self.low and self.high < math.inf:
            return f"lie in {'(' if self.above else '['}{low}, {high}{')' if self.below else ']'}"
        if self.high < math.inf:
            return f"be {'below' if self.below else 'at most'} {high}"
        if self.low == -math.inf:
            return "be a number"
        if self.low == 0 and not self.above:
            return "not be negative"
        return f"be {'above' if self.above else 'at least'} {low}"


@dataclass(frozen=True)
class Length:
    """How many entries a tuple must have at least, as metadata of an ``Annotated`` type."""

    low: int

    def __contains__(self, value: Sequence[Any]) -> bool:
        return len(value) >= self.low

    def __str__(self) -> str:
        """Return what the tuple must do, as in "have at least 1 entry"."""
        return f"have at least {self.low} {'entry' if self.low == 1 else 'entries'}"


Count = Annotated[int, Bounds(low=1)]
"""A whole number from 1 on."""

Rows = Annotated[int, Bounds(low=1, high=1 << 24)]
"""Environments, episodes, or transitions of a batch, that are worked on together."""

Natural = Annotated[int, Bounds(low=0)]
"""A whole number from 0 on."""

Positive = Annotated[float, Bounds(low=0, above=True)]
"""A finite number above 0."""

Time = Annotated[float, Bounds(low=1e-12, high=1e12)]
"""A length of time, in any unit in which steps can be counted."""

NonNegative = Annotated[float, Bounds(low=0)]
"""A finite number from 0 on."""

Share = Annotated[float, Bounds(low=0, high=1)]
"""A number in [0, 1]."""

PositiveShare = Annotated[float, Bounds(low=0, high=1, above=True)]
"""A number in (0, 1]."""

Sizes = Annotated[tuple[Count, ...], Length(1)]
"""Sizes of one layer or more."""


class Settings:
    """Base of frozen dataclasses whose fields are checked against their annotations.

    Raises:
        TypeError: for a value of another kind than its field's.
        ValueError: for a number out of its bounds, NaN or infinite, a word that is none of the choices, or
            what :meth:`check` refuses.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    """What settings in files of older versions are called now."""

    of_each: ClassVar[tuple[str, ...]] = ()
    """Settings that may be tuples, of a number for each of many learners."""

    def __init_subclass__(cls) -> None:
        """Let the docstring go on with what every setting is."""
        super().__init_subclass__()
        if isinstance(text := vars(cls).get("__doc__"), str):
            cls.__doc__ = Page(text)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check every field, and keep it as its annotation says (a list as a tuple, ...)."""
        kind: Any = type(self)
        for name, annotation in field_types(kind).items():
            object.__setattr__(self, name, checked(annotation, getattr(self, name), name))
        self.check()
        counts = {
            name: len(value) for name in self.of_each if isinstance(value := getattr(self, name), tuple)
        }
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} is for {count}" for name, count in counts.items())
            raise ValueError(f"{said} learners; they must be for as many, or one number for all")

    def of_learner(self: AnySettings, index: int) -> AnySettings:
        """Return the settings of one of many learners."""
        own = {name: value[index] for name in self.of_each if isinstance(value := getattr(self, name), tuple)}
        return dataclasses.replace(self, **own)  # type: ignore[type-var]

    def check_learners(self, learners: int) -> None:
        """Raise ValueError for settings of each that are for another number of learners."""
        for name in self.of_each:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != learners:
                raise ValueError(f"{name} is for {len(value)} learners; num_learners is {learners}")

    def check(self) -> None:
        """Raise ValueError for fields that do not go together; each by itself is right already."""


class Page:
    """A docstring that goes on with the settings, whose own strings are read from the source when asked for.

    Attributes:
        text: the docstring alone.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, instance: Any, owner: Any) -> str:
        if "__match_args__" not in vars(owner):  # it is no dataclass yet
            return self.text
        described = {
            name: text for kind in reversed(owner.__mro__) for name, text in field_texts(kind).items()
        }
        lines = [f"    {name}: {described.get(name, '')}" for name in field_types(owner)]
        return "\n".join([inspect.cleandoc(self.text), "", "Settings:", *lines])


@cache
def field_texts(kind: Any) -> dict[str, str]:
    """Return the strings that stand below the fields of a class in its source, each in one line."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # there is no source, as of what is built in
        return {}
    found = {}
    for field, text in pairwise(getattr(tree, "body", ())):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


@cache
def field_types(settings: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass' fields, bounds included."""
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings) if field.init}


def checked(annotation: Any, value: Any, name: str, *, infinite: bool = False) -> Any:
    """Return ``value`` as a type annotation has it.

    Args:
        annotation: of int, float, bool, str, Path, Literal, tuples and unions of these, Mapping, dataclasses
            and other classes; ``Annotated`` with :class:`Bounds` and :class:`Length` where they hold.
        value: what was given.
        name: of the setting, for messages.
        infinite: whether a float may be infinite, or no number.

    Raises:
        TypeError: for a value of another kind.
        ValueError: for one that its kind, its bounds or its choices leave out.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [each for each in arguments[1:] if isinstance(each, (Bounds, Length))]
        infinite = any(getattr(limit, "infinite", False) for limit in limits)
        value = checked(arguments[0], value, name, infinite=infinite)
        for limit in limits:
            if value is not None and value not in limit:
                raise ValueError(f"{name} is {value}; it must {limit}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, name, infinite)
    if origin is Literal:
        plain = _plain(value)
        for option in arguments:
            if type(plain) is type(option) and plain == option:
                return option
        raise ValueError(f"{name} is {value!r}; it must be one of {list(arguments)}")
    if origin is tuple:
        return _tuple(arguments, value, name, annotation)
    nested = dataclasses.is_dataclass(annotation) and not inspect.isabstract(annotation)
    if nested and isinstance(value, Mapping):
        return from_json(annotation, value, f"{name}.")
    if annotation is float:
        return _real(value, name, infinite)
    return _scalar(origin or annotation, value, name)


def _plain(value: Any) -> Any:
    """Return the number that a NumPy scalar, or an array or a tensor of no axis, is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _real(value: Any, name: str, infinite: bool) -> float:
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(f"{name} is {value!r}; it must be of type float")
    try:
        real = float(plain)
    except OverflowError:
        raise ValueError(f"{name} is a whole number beyond all floats; it must be finite") from None
    if not (infinite or math.isfinite(real)):
        raise ValueError(f"{name} is {real}; it must be finite")
    return real


def _scalar(kind: Any, value: Any, name: str) -> Any:
    plain = _plain(value) if kind in (bool, int, str, Path) else value
    if kind is Path and isinstance(plain, str):
        return Path(plain)
    if kind is not Any and (not isinstance(plain, kind) or (kind is int and isinstance(plain, bool))):
        raise TypeError(f"{name} is {value!r}; it must be {described(kind)}")
    return plain


def _tuple(arguments: tuple[Any, ...], value: Any, name: str, annotation: Any) -> tuple[Any, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value  # an array or a tensor
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name} is {value!r}; it must be {described(annotation)}")
    kinds = arguments[:1] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
    if len(kinds) != len(value):
        raise ValueError(f"{name} is {value!r}; it must be {described(annotation)}")
    return tuple(
        checked(kind, entry, f"{name}[{place}]")
        for place, (kind, entry) in enumerate(zip(kinds, value, strict=True))
    )


def _one_of(options: tuple[Any, ...], value: Any, name: str, infinite: bool) -> Any:
    """Return the value as the first of several types that takes it."""
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:  # the message is then about the one thing that it may be
        return checked(options[0], value, name, infinite=infinite)
    errors, wishes = [], []
    for option in options:
        try:
            return checked(option, value, name, infinite=infinite)
        except (TypeError, ValueError) as error:
            subject, _, wish = str(error).partition("; it must ")
            wishes.append(wish if subject.startswith(f"{name} is ") else f"be {described(option)}")
            errors.append(error)
    kind = TypeError if all(isinstance(error, TypeError) for error in errors) else ValueError
    raise kind(f"{name} is {value!r}; it must {' or '.join(wishes)}")


def described(annotation: Any) -> str:
    """Return a type in words, as in "a tuple of whole numbers"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return described(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(described(option) for option in arguments)
    if origin is Literal:
        return f"one of {list(arguments)}"
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        entry = get_args(arguments[0])[0] if get_origin(arguments[0]) is Annotated else arguments[0]
        return f"a tuple of {_PLURALS.get(entry, 'entries')}"
    if origin is tuple:
        return f"a tuple of {len(arguments)}: {', '.join(map(described, arguments))}"
    if annotation is type(None):
        return "None"
    return f"of type {getattr(origin or annotation, '__name__', annotation)}"


_PLURALS = {int: "whole numbers", float: "numbers", str: "words", bool: "switches"}


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
    known, renamed = field_types(kind), getattr(kind, "renamed", {})
    for old, new in renamed.items():
        if old in content and new in content:
            raise ValueError(f"{where}{old} and {where}{new} are both given; they are one setting")
    content = {renamed.get(name, name): value for name, value in content.items()}
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


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that is none of the known ones, with the one that may be meant."""
    names, close = ", ".join(sorted(known)), get_close_matches(name, known, 1)
    return f"there is no {kind} {name!r}; " + (
        f"did you mean {close[0]}? ({names})" if close else f"there are {names}"
    )
