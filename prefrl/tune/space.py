"""Where settings are looked for: ranges and choices, in the recipe's own types.

========================  ======================================================================
``learning_rate=1e-4..1e-2``  a range of floats; both ends may be taken
``batch_size=16..256``    a range of whole numbers, where the setting is one
``log:1e-4..1e-2``        the same, every factor as likely as any other
``loss=mse,huber``        choices, of any kind: words, switches, numbers
========================  ======================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefrl.config import from_json, to_json
from prefrl.run.recipes import load_recipe
from prefrl.run.settings import full_name, nest, parse_setting, present_name, setting_types


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; whole ones where both ends are of type int."""

    low: float
    high: float
    log: bool = False

    def suggested(self, trial: Any, name: str) -> Any:
        """Return what Optuna tries."""
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choices:
    """One of several values, by their texts."""

    values: Mapping[str, Any]

    def suggested(self, trial: Any, name: str) -> Any:
        """Return what Optuna tries; it is told texts, which may stand for anything."""
        return self.values[trial.suggest_categorical(name, list(self.values))]


Space = Mapping[str, Range | Choices]


def parse_space(recipe: str, texts: Sequence[str]) -> Space:
    """Return the space that texts such as ``gamma=0.9..0.999`` say, by full names.

    Raises:
        ValueError: if a name is unknown or given twice, or a text is no range and no choices of the setting.
    """
    kind = load_recipe(recipe)
    types = setting_types(kind)
    space: dict[str, Range | Choices] = {}
    for text in texts:
        given, equals, values = text.partition("=")
        if not given or not equals or not values:
            raise ValueError(
                f"space has {text!r}; each must be FIELD=LOW..HIGH, FIELD=log:LOW..HIGH or FIELD=V1,V2"
            )
        name = full_name(present_name(kind, given), types, f"the recipe {recipe}")
        if name in space:
            raise ValueError(f"space names {name} twice; give it once")
        if name == "seed":
            raise ValueError("seed is no setting to tune; seeds has a place of its own")
        space[name] = _parsed(kind, name, values)
    if not space:
        raise ValueError("space is empty; give at least one setting to tune")
    return space


def _parsed(kind: type[Any], name: str, text: str) -> Range | Choices:
    if ".." not in text:
        values = {each: parse_setting(kind, name, each) for each in text.split(",")}
        if len(values) < 2 or len(values) < len(text.split(",")):
            raise ValueError(f"{name} has the choices {text!r}; give at least two, each once")
        return Choices(values)
    log = text.startswith("log:")
    ends = [parse_setting(kind, name, end) for end in text.removeprefix("log:").split("..")]
    if len(ends) != 2 or not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends):
        raise ValueError(f"{name} has the range {text!r}; it must be LOW..HIGH, of numbers")
    low, high = ends
    if not low < high:
        raise ValueError(f"{name} has the range {text!r}; its low end must be below its high end")
    if log and low <= 0:
        raise ValueError(f"{name} has the range {text!r}; in a log range both ends must be above 0")
    return Range(low, high, log)


def settings_of(recipe: str, fixed: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return settings that are the same in all trials, by full names.

    Raises:
        ValueError: if a name is unknown or given twice, or a text is none of its setting's values.
    """
    kind = load_recipe(recipe)
    types = setting_types(kind)
    found: dict[str, Any] = {}
    for given, texts in fixed.items():
        name = full_name(present_name(kind, given), types, f"the recipe {recipe}")
        if name in found:
            raise ValueError(f"set names {name} twice; give it once")
        if name == "seed":
            raise ValueError("seed is no setting to fix; seeds has a place of its own")
        if len(texts) != 1:
            raise ValueError(
                f"set gives {name} {len(texts)} values; those that are to be tried stand in space"
            )
        found[name] = parse_setting(kind, name, texts[0])
    return found


def config_of(recipe: str, settings: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Return the whole recipe as JSON; ValueError if it refuses the settings, by dotted names."""
    plain = json.loads(json.dumps({**settings, "seed": seed}, default=str))  # as in a config.json
    return to_json(from_json(load_recipe(recipe), nest(plain)))


def check_space(recipe: str, space: Space, fixed: Mapping[str, Any]) -> None:
    """Raise ValueError if a setting is both tuned and fixed, or the recipe refuses an end or a choice."""
    if both := sorted(set(space) & set(fixed)):
        raise ValueError(f"{both[0]} is in space and in set; it is either tuned or fixed")
    for name, where in space.items():
        tried = where.values.values() if isinstance(where, Choices) else (where.low, where.high)
        for value in tried:
            config_of(recipe, {**fixed, name: value})
