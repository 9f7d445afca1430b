"""A recipe's settings by their dotted names, as in ``agent.gamma``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from prefrl.config import from_json, to_json
from prefrl.reading.errors import reading
from prefrl.reading.text import read_json

from .flags import parse

FORMAT = 3
"""Version of ``config.json`` and ``sweep.json``."""

ENORMOUS, MAX_FLOAT = 1 << 31, 1e38
"""From where on numbers of things, and numbers that the device calculates with, are called enormous."""

SB3_NAMES = ("ppo", "a2c", "sac", "td3", "ddpg", "dqn")
"""Algorithms of Stable-Baselines3; learners had these names before format 2 (ppo: before 3), and are
``sb3_NAME`` now."""


def as_now(settings: Mapping[str, Any], written_in: int | None) -> dict[str, Any]:
    """Return settings that a file holds as they are called now.

    Args:
        settings: a recipe's.
        written_in: the file's format (None: it names none, as before 2).

    Raises:
        ValueError: if the format is none that this version reads.
    """
    if written_in not in (None, 2, FORMAT):
        raise ValueError(f"format is {written_in!r}; this version reads 2, {FORMAT}, and files without one")
    agent = settings.get("agent")
    if written_in == 2 and agent == "ppo":
        return {**settings, "agent": "sb3_ppo"}
    if written_in is None and agent in SB3_NAMES:
        return {**settings, "agent": f"sb3_{agent}"}
    if written_in is None and agent == "prefrl_dqn":
        return {**settings, "agent": "dqn", "warmup_hold": 1}  # which it never minded
    return dict(settings)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def enormous(settings: Mapping[str, Any]) -> list[str]:
    """Return ``NAME = VALUE`` for settings, nested or not, that no machine holds or calculates with."""
    found = []
    for name, value in flatten(settings).items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            limit = ENORMOUS if isinstance(number, int) else MAX_FLOAT
            if isinstance(number, (int, float)) and limit <= abs(number) < math.inf:
                found.append(f"{name} = {number}")
    return found


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`flatten`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = value
    return nested


def setting_types(recipe_class: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the type of each setting of a dataclass, those of nested dataclasses by dotted names."""
    annotations = get_type_hints(recipe_class)
    types: dict[str, Any] = {}
    for field in dataclasses.fields(recipe_class):
        annotation = annotations[field.name]
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            types.update(setting_types(annotation, f"{prefix}{field.name}."))
        elif field.init:
            types[f"{prefix}{field.name}"] = annotation
    return types


def present_name(recipe_class: type[Any], name: str) -> str:
    """Return what a setting of a dataclass, or of one nested in it, is called now; others as they are."""
    annotations = get_type_hints(recipe_class).values()
    nested = [each for each in annotations if dataclasses.is_dataclass(each) and isinstance(each, type)]
    head, dot, leaf = name.replace("-", "_").rpartition(".")
    for each in (recipe_class, *nested):
        if leaf in getattr(each, "renamed", {}):
            return f"{head}{dot}{each.renamed[leaf]}"
    return name


def value_text(value: Any) -> str:
    """Return a setting's value as one would type it."""
    return " ".join(map(value_text, value)) if isinstance(value, list) else str(value)


def full_name(name: str, known: Collection[str], place: str) -> str:
    """Return the dotted name that is meant: ``gamma`` and ``num-envs`` will do where they say it all.

    Args:
        name: a dotted name, or its last part.
        known: all dotted names.
        place: where they come from, for the message.

    Raises:
        ValueError: if none is meant, or several may be.
    """
    plain = name.replace("-", "_")
    if plain in known:
        return plain
    meant = [each for each in known if each.split(".")[-1] == plain]
    if len(meant) == 1:
        return meant[0]
    problem = f"may mean {' or '.join(meant)}" if meant else f"is unknown; it has {', '.join(sorted(known))}"
    raise ValueError(f"setting {name!r} of {place} {problem}")


def parse_setting(recipe_class: type[Any], name: str, text: str) -> Any:
    """Return the value that a text gives a setting, as a command line would read it.

    Args:
        recipe_class: the recipe.
        name: dotted name of the setting.
        text: for example ``0.9``, ``True``, ``None``; the entries of a tuple have spaces between them.

    Raises:
        ValueError: if the text is none of the setting's values.
    """
    annotation = setting_types(recipe_class)[name]
    if annotation is str:
        return text
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # tyro prints some errors whatever it is told
            return parse(annotation, shlex.split(text), add_help=False, console_outputs=False)
    except (SystemExit, ValueError) as error:  # of tyro, or of shlex for an open quote
        kind = (
            annotation if get_origin(annotation) or not isinstance(annotation, type) else annotation.__name__
        )
        raise ValueError(f"{name} is {text!r}; it must be of type {kind}") from error


def with_settings(recipe: str, start: Any, path: Path) -> Any:
    """Return a recipe with the settings of a file: a ``best.json`` of tuning, or a run's ``config.json``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another recipe, or names or values in it are none of the recipe's.
    """
    content = read_json(path)
    with reading(path, "file of settings"):
        if content.get("recipe") != recipe:
            raise ValueError(f"{path} is for the recipe {content.get('recipe')!r}, not for {recipe}")
        kind = type(start)
        given = as_now(content["config"], content.get("format"))
        from_json(kind, given)  # each name and value is one of the recipe's
        settings = {present_name(kind, name): value for name, value in flatten(given).items()}
        return from_json(kind, nest({**flatten(to_json(start)), **settings}))
