"""Studies whose clips a browser plays: a square that crosses a small picture, another one for each number."""

import io
import itertools
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from prefrl.label.records import Clip, Item, NewQuestion, StoredSegment, StudySettings
from prefrl.label.store import LabelStore

SIZE = 64
"""Width and height in pixels."""


def segment(number: int) -> StoredSegment:
    """Return a segment of two transitions whose observations are its number."""
    obs = np.full((3, 1), number, np.float32)
    return StoredSegment(
        {"obs": obs, "actions": np.zeros((2, 1), np.float32), "terminated": np.array(False)},
        frames=np.full((3, 16, 16, 3), number % 256, np.uint8),
    )


@cache
def film(number: int, frames: int = 6, fps: int = 24) -> Clip:
    """Return a clip in VP9."""
    target = io.BytesIO()
    with av.open(target, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=fps)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"deadline": "realtime", "cpu-used": "8"}
        for place in range(frames):
            picture = np.full((SIZE, SIZE, 3), (40, 60, 5 * number % 200), np.uint8)
            left = (SIZE - 16) * place // max(1, frames - 1)
            picture[number % 48 : number % 48 + 16, left : left + 16] = (250, 200, 90)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return Clip(target.getvalue(), "video/webm", frames, SIZE, SIZE, float(fps), "libvpx-vp9")


def make_film_study(
    folder: Path, groups: Iterable[Sequence[int]], *, frames: int = 6, practice: int = 0, **settings: Any
) -> LabelStore:
    """Return the store of a new study.

    Args:
        folder: where it goes.
        groups: numbers of the clips of each question.
        frames: length of the clips.
        practice: how many further questions are for practice.
        settings: of the study.
    """
    store = LabelStore.create(folder, StudySettings(practice=practice, **settings))
    post_films(store, groups, frames=frames)
    each = 1 if store.study.kind == "rating" else 2
    for number in range(practice):
        places = range(900 + each * number, 900 + each * (number + 1))
        post_films(store, [tuple(places)], frames=frames, practice=True)
    return store


def post_films(
    store: LabelStore, groups: Iterable[Sequence[int]], *, frames: int = 6, practice: bool = False
) -> None:
    """Ask about groups of clips; the key of a question is the numbers of its clips."""
    for group in groups:
        segments = [segment(number) for number in group]
        items = tuple(Item(segment=found.digest) for found in segments)
        key = "-".join(map(str, group))
        store.post(segments, [NewQuestion(items, key, practice=practice)])
        for number, found in zip(group, segments, strict=True):
            store.put_clip(found.digest, film(number, frames))


def numbers_of(digests: Sequence[str], most: int = 1000, frames: int = 6) -> list[int]:
    """Return the numbers of clips by their digests."""
    known = {film(number, frames).digest: number for number in range(most) if number < 100 or number >= 900}
    return [known[digest] for digest in digests]


class ServedStudy:
    """``prefrl label serve`` in a process of its own, on a port that stays."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Start it; return the link that it prints."""
        command = [sys.executable, "-m", "prefrl.cli", "label", "serve", str(self.folder)]
        command += ["--port", str(self.port), "--no-render"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if found := re.search(r"http://\S+token=\S+", text):
                return found[0]
        raise AssertionError(f"the server ended with {self.process.wait()} and printed no link")

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


@contextmanager
def served(folder: Path, port: int) -> Iterator[ServedStudy]:
    """Return a server that ends with the test."""
    found = ServedStudy(folder, port)
    try:
        yield found
    finally:
        found.kill()


def until(condition: Any, patience: float = 10.0) -> None:
    """Wait until something holds; AssertionError if it never does."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# What is answered in tests: a rule of the numbers ---------------------------------------------------------


def by_number(digests: list[str]) -> str:
    """Return what is answered to two clips."""
    return rule(*numbers_of(digests))


def rule(left: int, right: int) -> str:
    """The higher number is better; numbers ten apart are equal; beside a seven nobody can tell."""
    if 7 in (left, right):
        return "skip"
    if abs(left - right) == 10:
        return "tie"
    return "left" if left > right else "right"


def pairs(count: int) -> list[tuple[int, int]]:
    """Return so many pairs of numbers, each pair once."""
    drawn = random.Random(count).sample(list(itertools.combinations(range(1, 30), 2)), count - 2)
    return [(7, 31), (20, 30), *drawn]


def expected(key: str) -> float | None:
    """Return the label that the rule gives a question by its key."""
    first, second = map(int, key.split("-"))
    return {"skip": None, "tie": 0.5, "left": 0.0, "right": 1.0}[rule(first, second)]


def check_once(store: LabelStore, groups: list[tuple[int, int]]) -> None:
    """Fail unless every pair has exactly one answer, and the right one."""
    answers = [answer for answer in store.current() if not answer.practice]
    assert sorted(answer.key for answer in answers) == sorted(f"{a}-{b}" for a, b in groups)
    assert {answer.key: answer.label for answer in answers} == {
        answer.key: expected(answer.key) for answer in answers
    }
