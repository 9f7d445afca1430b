"""Settings as flags of a command line: in groups, switches in pairs, whole numbers as people write them.

What tyro is given is a form: a dataclass with one nested dataclass for each group, whose fields are the
settings of a recipe and of the dataclasses in it. The recipe is then filled from the form.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from decimal import Decimal, InvalidOperation
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from prefrl.config import field_texts, field_types, unknown

MOST_DIGITS = 18
"""Digits of a whole number written with an exponent: 1e999999999 must not fill the memory."""


# Reading values ------------------------------------------------------------------------------------------


def whole_number(text: str) -> int:
    """Return the whole number that a text means: ``100000``, ``1e5`` or ``2.5e3``.

    Raises:
        ValueError: if it is none, as ``1.5``, or has more than 18 digits and an exponent.
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = Decimal(text)
        if number.is_finite() and number.adjusted() < MOST_DIGITS and number == int(number):
            return int(number)
    except InvalidOperation:
        pass
    raise ValueError(f"{text!r} is no whole number")


NUMBERS = ConstructorRegistry()
"""How tyro reads whole numbers."""


@NUMBERS.primitive_rule
def _whole_numbers(info: Any) -> PrimitiveConstructorSpec[int] | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda texts: whole_number(texts[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def parse(kind: Any, arguments: Sequence[str] | None = None, **settings: Any) -> Any:
    """Return what arguments say, as :func:`tyro.cli` reads them, with whole numbers like ``1e5``.

    Args:
        kind: the type to make, such as a dataclass whose fields become flags without prefixes.
        arguments: words of the command line; None: those of this process.
        **settings: others of :func:`tyro.cli`.
    """
    with NUMBERS:
        return tyro.cli(kind, args=arguments, config=(tyro.conf.OmitArgPrefixes,), **settings)


def class_summary(place: str) -> str:
    """Return the first line of the docstring of MODULE:CLASS, out of its source: loading it takes long."""
    module, _, class_name = place.partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return (ast.get_docstring(node) or "").splitlines()[0]
    raise ImportError(f"{spec.origin} has no class {class_name}")


@dataclass(frozen=True)
class _Kinds:
    """Stands for all commands of a group where only their list is shown."""


def parse_kind(group: str, what: str, kinds: Mapping[str, str], arguments: Sequence[str], about: str) -> Any:
    """Return the command of a group that arguments name; with --help in place of its name, tyro prints all.

    Args:
        group: the group's name on the command line, as in "audit".
        what: what messages call one of its commands.
        kinds: the commands' names, and MODULE:CLASS of each, a dataclass of flags with a ``run``.
        arguments: the rest of the command line.
        about: what the group is for.

    Raises:
        ValueError: if there is no such command, or none is named.
    """
    kind, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if kind.startswith("-"):
        lines = [f"{name}: {class_summary(place)}" for name, place in kinds.items()]
        return parse(_Kinds, arguments, prog=f"prefrl {group}", usage=f"prefrl {group} KIND ...",
                     description="\n\n".join([f"{about} KIND is one of:", *lines]))  # fmt: skip
    if kind not in kinds:
        raise ValueError(unknown(what, kind, kinds) if kind else f"no {what} is named; there are "
                         f"{', '.join(kinds)}")  # fmt: skip
    module, _, class_name = kinds[kind].partition(":")
    found = getattr(import_module(module), class_name)
    text = vars(found)["__doc__"]  # of settings without what its flags say themselves
    return parse(found, rest, prog=f"prefrl {group} {kind}", description=getattr(text, "text", text).strip())


# The form ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    """One setting on the command line."""

    path: str
    """Dotted name of the setting."""

    group: str
    """Under which heading ``--help`` shows it."""

    annotation: Any
    """Its type."""

    default: Any

    text: str
    """What ``--help`` says of it."""

    @property
    def name(self) -> str:
        """The last part of its path, which is the flag."""
        return self.path.split(".")[-1]


def recipe_flags(recipe: Any) -> list[Flag]:
    """Return the flags of a recipe, whose values are the defaults; those of nested dataclasses among them.

    A setting's group is what ``recipe.groups`` says of it or of the dataclass that it is in, else ``agent``.
    """
    flags: list[Flag] = []
    kind: Any = type(recipe)
    for name in field_types(kind):
        group, value = recipe.groups.get(name, "agent"), getattr(recipe, name)
        if dataclasses.is_dataclass(value):
            inner: Any = type(value)
            flags += settings_flags(value, field_types(inner), group, prefix=f"{name}.")
        else:
            flags += settings_flags(recipe, (name,), group)
    return flags


def settings_flags(settings: Any, names: Iterable[str], group: str, prefix: str = "") -> list[Flag]:
    """Return the flags of some fields of a dataclass, whose values are the defaults."""
    kind: Any = type(settings)
    kinds = field_types(kind)
    texts = {name: text for base in reversed(kind.__mro__) for name, text in field_texts(base).items()}
    return [
        Flag(prefix + name, group, kinds[name], getattr(settings, name), texts.get(name, ""))
        for name in names
    ]


def form(flags: Sequence[Flag]) -> type[Any]:
    """Return a dataclass with a nested dataclass for each group of flags."""
    groups: dict[str, list[tuple[str, Any, Any]]] = {}
    for flag in flags:
        kind: Any = flag.annotation
        told: Any = Annotated[kind, tyro.conf.arg(help=flag.text)]
        groups.setdefault(flag.group, []).append((flag.name, told, field(default=flag.default)))
    parts = [(name, make_dataclass(name, fields, frozen=True, namespace={"__doc__": ""}))
             for name, fields in groups.items()]  # fmt: skip
    return make_dataclass("Form", [(name, part, field(default_factory=part)) for name, part in parts])


def filled(recipe: Any, flags: Sequence[Flag], form: Any) -> Any:
    """Return a recipe with the values of a filled form; ValueError for what it refuses."""
    given: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for flag in flags:
        value = getattr(getattr(form, flag.group), flag.name)
        owner, _, leaf = flag.path.rpartition(".")
        (nested.setdefault(owner, {}) if owner else given)[leaf] = value
    for name, values in nested.items():
        given[name] = dataclasses.replace(getattr(recipe, name), **values)
    return dataclasses.replace(recipe, **given)


# Ways to write flags -------------------------------------------------------------------------------------


def is_switch(annotation: Any) -> bool:
    """Whether a setting is either on or off."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation is bool


def plain_switches(arguments: Sequence[str], flags: Sequence[Flag]) -> list[str]:
    """Return arguments with ``--compile True`` and ``--compile=False`` as ``--compile``, ``--no-compile``."""
    switches = {flag.name for flag in flags if is_switch(flag.annotation)}
    rest, waiting = [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in switches:
            if not equals and waiting and waiting[0] in ("True", "False"):
                value = waiting.pop(0)
            argument = f"--no-{flag.removeprefix('--')}" if value == "False" else flag
        rest.append(argument)
    return rest


ENV_ARGS = "--env-args"


def gather_env_flags(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with ``--env.NAME VALUE`` as entries NAME=VALUE of ``--env-args``.

    Raises:
        ValueError: if a flag has no name or no value.
    """
    rest: list[str] = []
    pairs: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") == "--env-args":  # in any way of writing it, as in two words
            rest += [ENV_ARGS, value] if equals else [ENV_ARGS]
        elif not flag.startswith("--env."):
            rest.append(argument)
        else:
            if not equals and (not waiting or waiting[0].startswith("--")):
                raise ValueError(f"{argument} has no value; give --env.NAME VALUE")
            name = flag.removeprefix("--env.").replace("-", "_")
            pairs.append(f"{name}={value if equals else waiting.pop(0)}")
    if not pairs:
        return rest
    if ENV_ARGS not in rest:
        return [*rest, ENV_ARGS, *pairs]
    place = rest.index(ENV_ARGS) + 1
    return [*rest[:place], *pairs, *rest[place:]]


def taken_out(arguments: Sequence[str], flag: str) -> tuple[list[str], str | None]:
    """Return arguments without a flag and its value, and the value; ValueError if it is missing or twice."""
    rest: list[str] = []
    found: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        if name != flag:
            rest.append(argument)
        elif equals or (waiting and not waiting[0].startswith("--")):
            found.append(value if equals else waiting.pop(0))
        else:
            raise ValueError(f"{flag} has no value; give {flag} FILE")
    if len(found) > 1:
        raise ValueError(f"{flag} is given {len(found)} times; give it once")
    return rest, found[0] if found else None
