"""Clips of segments: their pictures made into short films, and a process that does so while people answer.

Films are VP9 in WebM, or H.264 in MP4, by PyAV (the extra ``label``).
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from .drawing import Frame, NotDrawn, Painter
from .records import Clip, StoredSegment
from .store import LabelStore


class _Codec(NamedTuple):
    encoder: str
    container: str
    mime: str
    options: dict[str, str]


CODECS = {
    # One thread and the fast presets: an eighth of the time of the good ones, and still 38 dB of a runner
    # before a chequered floor that moves.
    "vp9": _Codec("libvpx-vp9", "webm", "video/webm",
                  {"deadline": "realtime", "cpu-used": "8", "crf": "28", "b": "0", "g": "30"}),
    "h264": _Codec("libx264", "mp4", "video/mp4",
                   {"preset": "superfast", "crf": "22", "bf": "0", "g": "30"}),
}  # fmt: skip
"""How films are made, by the name in a study."""


def encode(
    frames: Iterable[Frame],
    fps: int,
    codec: Literal["vp9", "h264"] = "vp9",
    size: tuple[int, int] | None = None,
) -> Clip:
    """Return a film of pictures, all of which are in it.

    Args:
        frames: pictures uint8 [height, width, 3], all of one size, at least one; each is asked for when
            the one before it has been taken in.
        fps: pictures per second.
        codec: "vp9" in WebM, or "h264" in MP4.
        size: most width and height; larger pictures are made smaller, in proportion. None: as they are.
            Sides become even: where a row or column is missing, the last is repeated.

    Raises:
        ImportError: if PyAV is not installed.
        ValueError: if there is no picture, or they are not alike.
    """
    av = _av()
    count, frames = 0, iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("frames is empty; give at least one picture")
    shape = first.shape
    height, width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    if size is not None:
        width, height = _fitted(width, height, *size)
    kind, file = CODECS[codec], io.BytesIO()
    # Without what changes from one making to the next: dates, identifiers, the library's version.
    with av.open(file, "w", format=kind.container, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(kind.encoder, rate=fps, options=kind.options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in chain([first], frames):
            count += 1
            if frame.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or frame.shape != shape:
                raise ValueError(f"frames have {frame.dtype.name} {list(frame.shape)}, not {list(shape)}; "
                                 "all must be uint8 [height, width, 3] of one size")  # fmt: skip
            image = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
            container.mux(stream.encode(image.reformat(width, height, "yuv420p", interpolation="AREA")))
        container.mux(stream.encode(None))
    made = f"PyAV {av.__version__}, {kind.encoder}"
    return Clip(file.getvalue(), kind.mime, count, width, height, float(fps), made)


def _fitted(width: int, height: int, most_width: int, most_height: int) -> tuple[int, int]:
    """Return even sides within the given ones, in proportion; small pictures stay as they are."""
    share = min(1.0, most_width / width, most_height / height)
    return tuple(max(2, 2 * math.floor(side * share / 2.0 + 1e-9)) for side in (width, height))  # type: ignore[return-value]


def _even(frame: Frame) -> Frame:
    """Return a picture with an even number of rows and of columns."""
    rows, columns = frame.shape[0] % 2, frame.shape[1] % 2
    if rows or columns:
        frame = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError('PyAV is not installed: pip install ".[label]"') from error
    return av


def make_clip(painter: Painter, segment: StoredSegment) -> Clip:
    """Return the film of a segment.

    Raises:
        NoDrawing: if nothing of the study can be drawn.
        NotDrawn: if this segment cannot.
    """
    study, frames = painter.study, painter.frames(segment)
    try:
        return encode(frames, study.fps, study.codec, (study.width, study.height))
    except ValueError as error:
        raise NotDrawn(f"segment {segment.digest[:12]} cannot be filmed: {error}") from error


class Rendering:
    """Makes the clips that a study waits for, the most wanted first.

    Attributes:
        made: how many clips were made.
        failed: what was wrong with segments that no clip can be made of, by digest; they are not tried again.
    """

    def __init__(self, store: LabelStore) -> None:
        self.store = store
        self.made = 0
        self.failed: dict[str, str] = {}
        self._painter = Painter(store.study)

    def step(self) -> bool:
        """Try to make one clip, if one is waited for; return whether one was.

        Raises:
            NoDrawing: if the environment cannot draw, so that no other clip can be made either.
        """
        waiting = self.store.unrendered(len(self.failed) + 1)
        segment = next((one for one in waiting if one.digest not in self.failed), None)
        if segment is None:
            return False
        try:
            self.store.put_clip(segment.digest, make_clip(self._painter, segment))
            self.made += 1
        except NotDrawn as error:
            self.failed[segment.digest] = str(error)
        return True

    def problem(self) -> str | None:
        """Return what was wrong with segments that failed, in one sentence; None: nothing."""
        if not self.failed:
            return None
        first = next(iter(self.failed.values()))
        return first if len(self.failed) == 1 else f"{len(self.failed)} clips cannot be made; {first}"

    def close(self) -> None:
        """Close the environment."""
        with suppress(Exception):  # a driver that could not draw may not close either
            self._painter.close()


def render_waiting(
    store: LabelStore, *, stop: Callable[[], bool] | None = None, told: Callable[[int], None] | None = None
) -> int:
    """Make all clips that a study waits for.

    Args:
        store: the study.
        stop: asked before every clip; True ends it.
        told: told after every segment how many clips were made.

    Returns:
        How many clips were made.

    Raises:
        ImportError: if PyAV is not installed.
        ValueError: if one cannot be made, once all others are.
    """
    rendering = Rendering(store)
    try:
        while not (stop is not None and stop()) and rendering.step():
            if told is not None:
                told(rendering.made)
    finally:
        rendering.close()
    if problem := rendering.problem():
        raise NotDrawn(problem)
    return rendering.made


class RenderWorker:
    """A process that makes the clips of a study, as they come to be waited for.

    It gives way to others, and ends with the process that started it, however that ends. What it could not do
    it leaves in the study's folder (:func:`prefrl.label.notes.rendering_error`); without an environment that
    draws, it ends.

    Args:
        folder: the study's.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether it is at work."""
        return self._process is not None and self._process.poll() is None

    @property
    def fate(self) -> str | None:
        """How it ended by itself, in one sentence; None: it is at work, or nobody wants it to be."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return None
        how = f"with exit status {status}" if status >= 0 else f"by signal {-status}"
        return f"the process that makes clips has ended {how}; no more are made until it is started again"

    def start(self) -> None:
        """Start the process, unless it is at work."""
        if self.alive:
            return
        command = [sys.executable, "-m", "prefrl.label.render", str(self.folder)]
        # What it reads from ends with this process. Signals that end this one are not meant for it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def stop(self, patience: float = 10.0) -> None:
        """End the process, after the clip that it is at.

        Args:
            patience: seconds after which it is killed.
        """
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
