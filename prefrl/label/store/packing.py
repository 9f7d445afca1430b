"""Arrays as bytes of a column: .npz without objects, read without believing it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrl.label.records import StoredSegment
from prefrl.reading.archives import arrays_of, member_header, member_numbers, opened_stream
from prefrl.reading.npy import DTYPES

MOST_BYTES = 1 << 29
"""Most bytes of one column: half of what SQLite lets a row have by default."""


def packed(arrays: Mapping[str, NDArray[Any]], *, compressed: bool = False) -> bytes:
    """Return arrays as the bytes of an .npz file.

    Raises:
        ValueError: if they are larger than a column may be.
    """
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", method, compresslevel=1 if compressed else None) as archive:
        for name, array in arrays.items():
            # A time of its own would make equal arrays other bytes.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = method
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
    if stream.tell() > MOST_BYTES:
        raise ValueError(f"the arrays {', '.join(arrays)} of one segment take {stream.tell()} bytes; at most "
                         f"{MOST_BYTES} are allowed")  # fmt: skip
    return stream.getvalue()


def unpacked(blob: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of :func:`packed` bytes.

    Raises:
        ValueError: if they are something else, or claim more than they hold.
        zipfile.BadZipFile: if they are no zip.
    """
    if not isinstance(blob, bytes):
        raise ValueError(f"the arrays of a segment are {type(blob).__name__}; they must be bytes")
    with opened_stream(io.BytesIO(blob)) as archive:
        members = arrays_of(archive)
        headers = {name: member_header(archive, info, name, DTYPES) for name, info in members.items()}
        return {name: member_numbers(archive, members[name], name, headers[name]) for name in members}


def segment_columns(segment: StoredSegment) -> tuple[str, bytes, bytes | None, bytes | None]:
    """Return a segment as its columns: digest, arrays, states, frames."""
    states, frames = segment.states, segment.frames
    return (
        segment.digest,
        packed(segment.arrays),
        None if states is None else packed({"states": states}),
        None if frames is None else packed({"frames": frames}, compressed=True),
    )


def segment_of(digest: str, arrays: Any, states: Any, frames: Any) -> StoredSegment:
    """Return the segment of its columns.

    Raises:
        ValueError: if they are not what the digest says.
    """
    parts = [None if blob is None else unpacked(blob) for blob in (states, frames)]
    segment = StoredSegment(
        unpacked(arrays),
        None if parts[0] is None else parts[0].get("states"),
        None if parts[1] is None else parts[1].get("frames"),
    )
    if segment.digest != digest:
        raise ValueError(f"segment {digest} holds something else than its digest says")
    return segment
