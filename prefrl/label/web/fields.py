"""What requests of the page hold, field by field: each is checked before the store sees it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .security import Refusal

MOST_SECONDS = 86_400.0
"""How long an answer may have taken."""

MOST_PLAYS = 100_000
"""How often clips may have been played."""

MOST_EVENTS = 1_000
"""How much may have happened during one showing."""

MOST_HELD = 16
"""How many showings a tab may hold."""

MOST_PLACES = 64
"""How many things a ranking may have."""

EVENTS = frozenset({"play", "pause", "step", "speed", "blur"})
"""What may have happened."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def checked(body: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    """Return a body that has these names; Refusal where it has others, or fewer."""
    if missing := sorted(set(names) - body.keys()):
        raise Refusal(400, f"the body has no {', '.join(missing)}")
    if more := sorted(body.keys() - set(names)):
        raise Refusal(400, f"the body has {more[0][:40]!r}, which is none of {', '.join(sorted(names))}")
    return body


def number(value: Any, name: str, high: float, *, whole: bool = True) -> Any:
    """Return a number from 0 to ``high``; Refusal for anything else, such as text or true."""
    kinds = (int,) if whole else (int, float)
    if type(value) not in kinds or not 0 <= value <= high:
        raise Refusal(400, f"{name} must be a {'whole ' if whole else ''}number from 0 to {high:g}")
    return value


def listed(value: Any, name: str, most: int) -> list[Any]:
    """Return a list of at most so many entries; Refusal for anything else."""
    if type(value) is not list or len(value) > most:
        raise Refusal(400, f"{name} must be a list of at most {most}")
    return value


def request_id(value: Any) -> str:
    """Return the id of a request, by which one that is sent twice is known."""
    if type(value) is not str or not _UUID.fullmatch(value):
        raise Refusal(400, "request must be a UUID in small letters")
    return value


def held_showings(body: Mapping[str, Any]) -> list[int]:
    """Return the showings that a tab holds."""
    held = listed(checked(body, {"held"})["held"], "held", MOST_HELD)
    return [number(showing, "held", 2**62) for showing in held]


def answer_of(body: Mapping[str, Any]) -> tuple[str, int, Any, float, int, Sequence[dict[str, Any]]]:
    """Return the answer in a body: request, showing, value, seconds, plays and events."""
    checked(body, {"request", "showing", "value", "seconds", "plays", "events"})
    return (
        request_id(body["request"]),
        number(body["showing"], "showing", 2**62),
        _value(body["value"]),
        float(number(body["seconds"], "seconds", MOST_SECONDS, whole=False)),
        number(body["plays"], "plays", MOST_PLAYS),
        [_event(event) for event in listed(body["events"], "events", MOST_EVENTS)],
    )


def _value(value: Any) -> Any:
    """Return a value of the shape of an answer; the store knows which the question allows."""
    if type(value) is str and value in ("left", "right", "tie", "skip"):
        return value
    if type(value) is int:
        return number(value, "value", MOST_PLACES)
    groups = [listed(group, "value", MOST_PLACES) for group in listed(value, "value", MOST_PLACES)]
    return [[number(place, "value", MOST_PLACES) for place in group] for group in groups]


def _event(event: Any) -> dict[str, Any]:
    if type(event) is not dict:
        raise Refusal(400, "an event must be an object")
    checked(event, {"kind", "at_ms"})
    if type(event["kind"]) is not str or event["kind"] not in EVENTS:
        raise Refusal(400, f"kind of an event must be one of {', '.join(sorted(EVENTS))}")
    number(event["at_ms"], "at_ms", 1e3 * MOST_SECONDS, whole=False)
    return event
