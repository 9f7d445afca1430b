"""Recipes as JSON and back."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

RecipeType = TypeVar("RecipeType")


def recipe_to_json(recipe: Any) -> dict[str, Any]:
    """Return a recipe as JSON values: nested dataclasses as objects, tuples as lists, paths as strings."""
    content: dict[str, Any] = _to_json(dataclasses.asdict(recipe))
    return content


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def recipe_from_json(recipe_class: type[RecipeType], content: Mapping[str, Any]) -> RecipeType:
    """Return the recipe that :func:`recipe_to_json` described; what is missing takes its default.

    Raises:
        ValueError: if a key is unknown, a value has the wrong type, or the recipe refuses it.
    """
    recipe: RecipeType = _dataclass_from_json(recipe_class, content, "")
    return recipe


def _dataclass_from_json(dataclass: Any, content: Any, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'config'} is {content!r}; it must be an object")
    fields = {field.name: field for field in dataclasses.fields(dataclass) if field.init}
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise ValueError(f"{where}{unknown[0]} is unknown; {dataclass.__name__} has {sorted(fields)}")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in content:
            raise ValueError(f"{where}{name} is missing")
    annotations = get_type_hints(dataclass)
    values = {name: _from_json(annotations[name], value, where + name) for name, value in content.items()}
    return dataclass(**values)


def _from_json(annotation: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotated type; ValueError naming ``where`` if it is none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _from_json(option, value, where)
            except ValueError:
                continue
    elif origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
    elif dataclasses.is_dataclass(annotation):
        return _dataclass_from_json(annotation, value, f"{where}.")
    elif origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
        if len(kinds) == len(value):
            return tuple(_from_json(kind, entry, where) for kind, entry in zip(kinds, value, strict=True))
    elif annotation is float and type(value) in (int, float):
        return float(value)
    elif annotation is Path and isinstance(value, str):
        return Path(value)
    elif annotation in (int, str, bool, type(None)) and type(value) is annotation:
        return value
    name = getattr(annotation, "__name__", None) if origin is None else None
    raise ValueError(f"{where} is {value!r}; it must be of type {name or annotation}")
