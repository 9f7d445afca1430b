"""A small labelling study, and a clock that tests turn."""

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrl.label.records import Clip, Item, NewQuestion, StoredSegment, StudySettings
from prefrl.label.store import LabelStore

SECOND = 1_000_000_000

_numbers = itertools.count()


def request() -> str:
    """Return a request's id that was not used before."""
    return f"request-{next(_numbers):08d}"


def segment(number: int, length: int = 3) -> StoredSegment:
    """Return a segment that no other number gives."""
    obs = np.arange(2.0 * (length + 1)).reshape(length + 1, 2).astype(np.float32) + 100 * number
    arrays = {"obs": obs, "actions": np.full((length, 1), 0.5, np.float32), "terminated": np.array(False)}
    return StoredSegment(arrays, np.full((length + 1, 4), float(number)))


def clip(number: int) -> Clip:
    """Return a clip that no other number gives; its media are no film."""
    return Clip(f"film {number}".encode(), "video/webm", 4, 32, 16, 30.0, "none")


def pair(number: int, **more: Any) -> NewQuestion:
    """Return question q<number> about the segments 2 n and 2 n + 1."""
    items = tuple(Item(segment(2 * number + side).digest) for side in (0, 1))
    return NewQuestion(items, f"q{number}", **more)


def make_study(
    folder: Path, questions: list[NewQuestion] | int = 6, *, rendered: bool = True, **settings: Any
) -> LabelStore:
    """Return a new study with questions (pairs if a number is given), their segments, and clips."""
    store = LabelStore.create(folder, StudySettings(**settings))
    asked = [pair(number) for number in range(questions)] if isinstance(questions, int) else questions
    wanted = {item.segment for question in asked for item in question.items}
    segments = [found for found in map(segment, range(60)) if found.digest in wanted]
    assert store.post(segments, asked) == len(asked)
    if rendered:
        render(store)
    return store


def render(store: LabelStore) -> None:
    """Put a clip for every segment that needs one."""
    number = 0
    while waiting := store.unrendered():
        store.put_clip(waiting[0].digest, clip(number))
        number += 1


class Clock:
    """Time as the store sees it: it stands still unless it is turned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: self.now)

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * SECOND)
