"""``python -m prefrl.label.render DIR``: make the clips that a study waits for, until standard input ends.

:class:`prefrl.label.clips.RenderWorker` starts it.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from .clips import ERROR_FILE, Rendering
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
    rendering, note, seen, noted = Rendering(store), store.folder / ERROR_FILE, -1, ""
    note.unlink(missing_ok=True)
    try:
        while not ended.is_set():
            now = store.version()
            if now == seen or not rendering.step():
                seen = now
                ended.wait(PAUSE)
            if (problem := rendering.problem() or "") != noted:
                noted = problem
                _write(note, problem)
    except (ImportError, ValueError) as error:
        _write(note, str(error))
        raise
    finally:
        rendering.close()


def _write(note: Path, text: str) -> None:
    note.write_text(f"{text}\n", "utf-8")
    note.chmod(0o600)


def main() -> None:
    """Make clips until standard input ends, or print why that cannot be done."""
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
        sys.exit(f"clips cannot be made: {error}")


if __name__ == "__main__":
    main()
