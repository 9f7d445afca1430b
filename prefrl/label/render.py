"""``python -m prefrl.label.render DIR``: make the clips that a study waits for, until standard input ends.

:class:`prefrl.label.clips.RenderWorker` starts it.
"""

from __future__ import annotations

import os
import sys
import threading

from .clips import Rendering
from .notes import note_rendering_error
from .store import LabelStore

PAUSE = 0.1
"""Seconds between two looks at a study that waits for nothing."""

NICENESS = 10
"""How far the process gives way to others."""


def render_until(store: LabelStore, ended: threading.Event) -> None:
    """Make clips as they come to be waited for.

    Args:
        store: the study; why a clip could not be made is written in its folder.
        ended: set when it is to end.
    """
    rendering, seen, noted = Rendering(store), -1, ""
    note_rendering_error(store.folder, None)
    try:
        while not ended.is_set():
            now = store.version()
            if now == seen or not rendering.step():
                seen = now
                ended.wait(PAUSE)
            if (problem := rendering.problem() or "") != noted:
                noted = problem
                note_rendering_error(store.folder, problem)
    finally:
        rendering.close()


def main() -> None:
    """Make clips until standard input ends, or leave word in the folder of why that cannot be done."""
    ended = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):
            pass
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        with LabelStore.open(sys.argv[1]) as store:
            render_until(store, ended)
    except (ImportError, OSError, ValueError) as error:
        try:
            note_rendering_error(sys.argv[1], str(error))
        except OSError:
            sys.exit(f"clips cannot be made: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
