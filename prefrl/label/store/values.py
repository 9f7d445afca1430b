"""Values of answers: what a page may send, and what it means in the stored places of the items."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefrl.label.records import Kind

SIDES = ("left", "right", "tie", "skip")
"""Answers to a pair, as shown."""

STORED_SIDES = {0.0: "first", 1.0: "second", 0.5: "tie"}
"""Answers to a pair in stored places, by their labels."""

EVENTS = ("play", "pause", "step", "seek", "speed", "restart", "blur", "focus")
"""What a page tells of how clips were looked at."""

MOST_EVENTS = 2000
"""Events of one answer."""

MOST_SECONDS = 86_400.0
"""Longest time between showing and answer: a day."""

MOST_PLAYS = 100_000
"""How often clips may have been played."""

LARGEST = (1 << 63) - 1
"""Largest whole number that a database holds."""

_REQUEST = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Meaning(NamedTuple):
    """What an answer says about the stored places."""

    label: float | None = None
    ranking: tuple[tuple[int, ...], ...] | None = None
    rating: int | None = None
    skip: bool = False

    def text(self) -> str | None:
        """Return it as ``check_answer`` has it; None for "can't tell"."""
        if self.label is not None:
            return STORED_SIDES[self.label]
        if self.ranking is not None:
            return ranking_text(self.ranking)
        return None if self.rating is None else str(self.rating)


def ranking_text(groups: Sequence[Sequence[int]]) -> str:
    """Return groups of places as JSON, each group in order: equal rankings are equal texts."""
    return json.dumps([sorted(group) for group in groups], separators=(",", ":"))


def value_text(kind: Kind, value: Any, *, count: int, ratings: int) -> str:
    """Return a value that a page sent as it is stored.

    Args:
        kind: what was asked.
        value: what was sent.
        count: number of items.
        ratings: steps of the scale.

    Raises:
        ValueError: naming what is allowed.
    """
    given = reprlib.repr(value)
    if kind != "pair" and isinstance(value, str) and value == "skip":
        return value
    if kind == "pair":
        if not isinstance(value, str) or value not in SIDES:
            raise ValueError(f"value is {given}; it must be one of {', '.join(SIDES)}")
        return value
    if kind == "rating":
        if type(value) is not int or not 1 <= value <= ratings:
            raise ValueError(f"value is {given}; it must be a whole number from 1 to {ratings}, or skip")
        return str(value)
    if not _is_ranking(value, count):
        raise ValueError(f"value is {given}; it must be lists of the places 0 to {count - 1}, best first, "
                         "each place once, ties in one list; or skip")  # fmt: skip
    return ranking_text(value)


def _is_ranking(value: Any, count: int) -> bool:
    """Whether a value is groups of places, each place once."""
    if not isinstance(value, (list, tuple)) or len(value) > count:
        return False
    if not all(isinstance(group, (list, tuple)) and 1 <= len(group) <= count for group in value):
        return False
    places = [place for group in value for place in group]
    return all(type(place) is int for place in places) and sorted(places) == list(range(count))


def page_value(text: str) -> Any:
    """Return a stored value as the page sent it."""
    return text if text in SIDES else json.loads(text)


def meaning(kind: Kind, text: str, places: Sequence[int]) -> Meaning:
    """Return what a stored value says.

    Args:
        kind: what was asked.
        text: the value.
        places: stored places in the order shown.
    """
    if text == "skip":
        return Meaning(skip=True)
    if kind == "pair":
        return Meaning(label=0.5 if text == "tie" else float(places[SIDES.index(text)]))
    if kind == "rating":
        return Meaning(rating=int(text))
    groups = tuple(tuple(sorted(places[place] for place in group)) for group in json.loads(text))
    return Meaning(ranking=groups)


def check_answer_text(kind: Kind, text: str, *, count: int, ratings: int) -> str:
    """Return a known answer, checked, so that equal answers are equal texts.

    Raises:
        ValueError: naming what is allowed.
    """
    if kind == "pair":
        if text not in STORED_SIDES.values():
            raise ValueError(f"check_answer is {text!r}; it must be first, second or tie")
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    try:
        if value == "skip":
            raise ValueError(f"value is {value!r}; it must be an answer")
        return value_text(kind, value, count=count, ratings=ratings)
    except ValueError as error:
        raise ValueError(f"check_answer: {error}") from error


def check_request(request: Any) -> str:
    """Return a request's id.

    Raises:
        ValueError: if it is no text of 8 to 64 letters, digits, hyphens and underscores.
    """
    if not isinstance(request, str) or not _REQUEST.fullmatch(request):
        raise ValueError(f"request is {reprlib.repr(request)}; it must be 8 to 64 letters, digits, - and _")
    return request


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number.

    Raises:
        ValueError: if it is none, or out of bounds.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {reprlib.repr(value)}; it must be a whole number from {low} to {high}")
    return value


def check_seconds(value: Any) -> float:
    """Return a time between showing and answer.

    Raises:
        ValueError: if it is no number, or out of bounds.
    """
    number = type(value) in (int, float)
    if not number or not 0 <= value <= MOST_SECONDS or not math.isfinite(value):  # NaN fails the bounds too
        raise ValueError(f"seconds is {reprlib.repr(value)}; it must be a number from 0 to {MOST_SECONDS:g}")
    return float(value)


def check_tab(tab: Any) -> str:
    """Return the id of a browser's tab; empty: unknown.

    Raises:
        ValueError: if it is something else.
    """
    if tab == "" and isinstance(tab, str):
        return ""
    if not isinstance(tab, str) or not _REQUEST.fullmatch(tab):
        raise ValueError(f"tab is {reprlib.repr(tab)}; it must be 8 to 64 letters, digits, - and _")
    return tab


def check_events(events: Any) -> list[tuple[str, int]]:
    """Return kinds and times of events, each ``{"kind": ..., "at_ms": ...}``.

    Raises:
        ValueError: naming the first that is none.
    """
    if not isinstance(events, (list, tuple)) or len(events) > MOST_EVENTS:
        raise ValueError(f"events is {reprlib.repr(events)}; it must be a list of at most {MOST_EVENTS}")
    found = []
    for place, event in enumerate(events):
        if not isinstance(event, dict) or event.keys() != {"kind", "at_ms"}:
            raise ValueError(f"events[{place}] is {reprlib.repr(event)}; it must have kind and at_ms")
        kind = event["kind"]
        if not isinstance(kind, str) or kind not in EVENTS:
            raise ValueError(f"events[{place}].kind is {reprlib.repr(kind)}; it must be one of "
                             f"{', '.join(EVENTS)}")  # fmt: skip
        at = check_whole(f"events[{place}].at_ms", event["at_ms"], 0, int(MOST_SECONDS * 1000))
        found.append((kind, at))
    return found
