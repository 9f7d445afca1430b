"""People who answer a labelling study by the return of a pendulum, without a browser."""

import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefrl.label.records import Clip, Showing
from prefrl.label.store import LabelStore


def draw(store: LabelStore) -> int:
    """Give every segment that is waited for a clip that holds nothing but its name; return how many."""
    drawn = 0
    while waiting := store.unrendered(100):
        for segment in waiting:
            store.put_clip(
                segment.digest, Clip(segment.digest.encode(), "video/webm", 1, 16, 16, 30.0, "none")
            )
            drawn += 1
    return drawn


def pendulum_return(arrays: Mapping[str, Any]) -> float:
    """Return what Pendulum-v1 pays for a segment."""
    x, y, speed = arrays["obs"][:-1].astype(np.float64).T
    torque = np.clip(arrays["actions"][:, 0].astype(np.float64), -2.0, 2.0)
    return -float((np.arctan2(y, x) ** 2 + 0.1 * speed**2 + 0.001 * torque**2).sum())


class Person:
    """Somebody who looks at clips that :func:`draw` made, and answers by the pendulum's return."""

    def __init__(self, store: LabelStore, name: str = "ann") -> None:
        self.store, self.id = store, store.add_annotator(name).id

    def returns(self, showing: Showing) -> list[float]:
        """Return the true returns of what is shown, from left to right."""
        found = []
        for item in showing.items:
            clip = self.store.clip(item.clip or "")
            assert clip is not None
            found.append(pendulum_return(self.store.segment(clip.media.decode()).arrays))
        return found

    def answer(self, value: str | None = None, showing: Showing | None = None) -> int | None:
        """Answer a question, or the next, by the return if nothing is given; return its number, if any."""
        draw(self.store)
        showing = showing or self.store.next(self.id)
        if showing is None:
            return None
        left, right = self.returns(showing)
        value = value or ("tie" if abs(left - right) < 1e-6 else "left" if left > right else "right")
        receipt = self.store.answer(self.id, str(uuid.uuid4()), showing.id, value, 1.0, 1)
        assert receipt.stored
        return showing.question

    def undo(self) -> Showing | None:
        """Take the last answer back."""
        return self.store.undo(self.id, str(uuid.uuid4()))


class AtWork:
    """A person who answers in a thread, with a pause after each answer, until the context is left."""

    def __init__(self, folder: Path, name: str = "ann", pause: float = 0.05, most: int = 10**9) -> None:
        self.folder, self.name, self.pause, self.most = folder, name, pause, most
        self.stop = threading.Event()
        self.answered: list[int] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._work)

    def __enter__(self) -> "AtWork":
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        self.thread.join()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            while not (self.folder / "labels.sqlite3").exists():
                if self.stop.wait(0.05):
                    return
            with LabelStore.open(self.folder) as store:
                person = Person(store, self.name)
                while not self.stop.is_set() and len(self.answered) < self.most:
                    number = person.answer()
                    if number is not None:
                        self.answered.append(number)
                    self.stop.wait(self.pause)
        except BaseException as error:  # the test's own thread tells
            self.error = error
