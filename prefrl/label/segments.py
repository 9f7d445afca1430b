"""Segments of tensors as a store keeps them, one by one, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prefrl.data import Segments, concatenate_segments

from .records import StoredSegment


def segments_from(
    segments: Segments,
    states: NDArray[np.float64] | None = None,
    frames: Sequence[NDArray[np.uint8]] | None = None,
) -> list[StoredSegment]:
    """Return segments as a store keeps them, without padding.

    Args:
        segments: N segments of at most L transitions, on any device.
        states: [N, L+1, D] simulator states, padded as the segments are; None: there are none.
        frames: for each segment its pictures [F, H, W, 3]; None: there are none.

    Raises:
        ValueError: if ``states`` or ``frames`` are of another number of segments or steps.
    """
    count = len(segments)
    if states is not None and (states.ndim != 3 or states.shape[:2] != (count, segments.max_length + 1)):
        raise ValueError(f"states have shape {list(states.shape)}; for these segments it must be "
                         f"[{count}, {segments.max_length + 1}, D]")  # fmt: skip
    if frames is not None and len(frames) != count:
        raise ValueError(f"there are frames of {len(frames)} segments; there are {count} segments")
    obs, actions, terminated = (
        part.numpy(force=True) for part in (segments.obs, segments.actions, segments.terminated)
    )
    features = None if segments.features is None else segments.features.numpy(force=True)
    found = []
    for row, length in enumerate(segments.lengths.tolist()):
        arrays: dict[str, Any] = {
            "obs": obs[row, : length + 1].copy(),
            "actions": actions[row, :length].copy(),
            "terminated": np.array(terminated[row]),
        }
        if features is not None:
            arrays["features"] = features[row, :length].copy()
        own = None if states is None else np.array(states[row, : length + 1], np.float64)
        found.append(StoredSegment(arrays, own, None if frames is None else frames[row]))
    return found


def stacked(stored: Sequence[StoredSegment]) -> Segments:
    """Return segments out of a store as one batch, padded to the longest.

    Raises:
        ValueError: if there is none, or their arrays are of different kinds.
    """
    return concatenate_segments([_batch_of_one(segment) for segment in stored])


def _batch_of_one(segment: StoredSegment) -> Segments:
    arrays = {name: torch.from_numpy(np.array(value)[None]) for name, value in segment.arrays.items()}
    return Segments(arrays["obs"], arrays["actions"], torch.tensor([segment.length]), arrays["terminated"],
                    arrays.get("features"))  # fmt: skip
