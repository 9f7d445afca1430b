"""Comparisons of segments: who preferred what; and groups of segments with scores."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.data.observations import ObservationLayout
from prefrl.data.segments import (
    Segments,
    check_dtype,
    check_finite,
    check_same_kind,
    check_tensors,
    concatenate_segments,
    first_row,
)


@dataclass(frozen=True, eq=False)
class Preferences:
    """N comparisons of two segments.

    Raises:
        TypeError: if the sides are no segments, or another array no tensor.
        ValueError: if the shapes contradict each other, or the two sides hold different kinds of arrays.
    """

    first: Segments
    """N segments."""
    second: Segments
    """N segments."""
    labels: Tensor
    """[N] float64 probability that the SECOND segment is preferred; 0.5 is a tie. Real, never clamped."""
    weights: Tensor
    """[N] float64 weight of each comparison in a loss, not negative."""
    annotators: Tensor
    """[N] int64 who answered: a place in ``annotator_names``."""
    annotator_names: tuple[str, ...] = ("unknown",)
    """Names of the annotators."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that say where the comparisons come from (environment, teacher, seed, ...)."""
    offsets: Tensor | None = None
    """[N] float64 what a loss subtracts from the log-odds that the second segment is preferred (a margin that
    it must be preferred by, where positive; that the first must be, where negative), if any; None: 0."""

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            value = getattr(self, name)
            if not isinstance(value, Segments):
                raise TypeError(f"{name} is a {type(value).__name__}; it must be Segments")
        columns = ("labels", "weights", "annotators", *(() if self.offsets is None else ("offsets",)))
        check_tensors(self, columns)
        count = len(self.first)
        if len(self.second) != count:
            raise ValueError(f"there are {count} first segments and {len(self.second)} second ones")
        check_same_kind(self.first, self.second, "two sides of the comparisons")
        for name in columns:
            if tuple(getattr(self, name).shape) != (count,):
                raise ValueError(f"{name} have shape {tuple(getattr(self, name).shape)}, not [{count}]")

    @classmethod
    def from_labels(
        cls, first: Segments, second: Segments, labels: Tensor, metadata: Mapping[str, Any] | None = None
    ) -> Preferences:
        """Return comparisons of weight 1 by one unknown annotator."""
        labels = torch.as_tensor(labels, dtype=torch.float64)
        nobody = torch.zeros_like(labels, dtype=torch.int64)
        return cls(first, second, labels, torch.ones_like(labels), nobody, metadata=dict(metadata or {}))

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def margins(self) -> Tensor:
        """[N] the offsets, zeros where there are none."""
        return torch.zeros_like(self.labels) if self.offsets is None else self.offsets

    def __getitem__(self, index: Tensor | slice) -> Preferences:
        return replace(
            self,
            first=self.first[index],
            second=self.second[index],
            labels=self.labels[index],
            weights=self.weights[index],
            annotators=self.annotators[index],
            offsets=None if self.offsets is None else self.offsets[index],
        )

    def to(self, device: torch.device | str) -> Preferences:
        """Return the comparisons with every tensor on a device."""
        return replace(
            self,
            first=self.first.to(device),
            second=self.second.to(device),
            labels=self.labels.to(device),
            weights=self.weights.to(device),
            annotators=self.annotators.to(device),
            offsets=None if self.offsets is None else self.offsets.to(device),
        )

    def swapped(self) -> Preferences:
        """Return the same comparisons, segments exchanged, labels and offsets turned round."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            labels=1.0 - self.labels,
            offsets=None if self.offsets is None else -self.offsets,
        )

    def with_absorbing(self) -> Preferences:
        """Return the comparisons with both sides padded alike and :meth:`Segments.with_absorbing` applied."""
        longest = max(self.first.max_length, self.second.max_length)
        sides = [segments.padded(longest).with_absorbing() for segments in (self.first, self.second)]
        return replace(self, first=sides[0], second=sides[1])

    def validate(self) -> Preferences:
        """Check the values as well as the shapes; return self.

        Raises:
            ValueError: naming the first field that is wrong, and how.
        """
        for side in ("first", "second"):
            try:
                getattr(self, side).validate()
            except ValueError as error:
                raise ValueError(f"{side} segments: {error}") from error
        for name in ("labels", "weights", "offsets"):
            if getattr(self, name) is not None:
                check_dtype(name, getattr(self, name), torch.float64)
                check_finite(name, getattr(self, name))
        row = first_row(self.weights < 0)
        if row is not None:
            raise ValueError(f"weights[{row}] is {float(self.weights[row])}; weights must not be negative")
        self._check_annotators()
        self._check_metadata()
        return self

    def _check_annotators(self) -> None:
        names = self.annotator_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"annotator_names are {reprlib.repr(names)}; they must be a tuple of strings")
        check_dtype("annotators", self.annotators, torch.int64)
        row = first_row((self.annotators < 0) | (self.annotators >= len(names)))
        if row is not None:
            raise ValueError(
                f"annotators[{row}] is {int(self.annotators[row])}; "
                f"annotators must be places in the {len(names)} annotator_names"
            )

    def _check_metadata(self) -> None:
        if not isinstance(self.metadata, Mapping):
            raise ValueError(f"metadata are a {type(self.metadata).__name__}; they must be a mapping")
        content = dict(self.metadata)
        try:
            same = bool(json.loads(json.dumps(content, allow_nan=False)) == content)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"metadata must hold JSON values only ({error})") from error
        if not same:
            raise ValueError("metadata change on their way through JSON; use text as keys, lists for tuples")

    def validate_tabular(self, num_states: int, num_actions: int, num_features: int) -> Preferences:
        """Check also that these are comparisons of segments of a tabular environment; return self.

        Raises:
            ValueError: naming the first thing that does not belong to it.
        """
        if len(self) == 0:
            raise ValueError("there is no comparison")
        self.validate()
        for side, segments in (("first", self.first), ("second", self.second)):
            for name, limit in (("obs", num_states), ("actions", num_actions)):
                value = getattr(segments, name)
                if value.ndim != 2 or value.dtype != torch.int64:
                    raise ValueError(
                        f"{name} of the {side} segments are {value.dtype} {list(value.shape)}; in a tabular "
                        "environment they are int64 numbers, one per step"
                    )
                low, high = int(value.min()), int(value.max())
                if low < 0 or high >= limit:
                    raise ValueError(f"{name} of the {side} segments range from {low} to {high}; "
                                     f"the environment has 0 to {limit - 1}")  # fmt: skip
            given = None if segments.features is None else segments.features.shape[-1]
            if given != num_features:
                raise ValueError(f"the {side} segments have {given or 'no'} reward features per transition; "
                                 f"the environment has {num_features}")  # fmt: skip
        return self


def concatenate_preferences(parts: Sequence[Preferences]) -> Preferences:
    """Return several sets of comparisons as one, with the annotators and metadata of the first.

    Offsets are 0 for the sets that have none, where another has some.

    Raises:
        ValueError: if there is none, their arrays are of different kinds, or their annotators differ.
    """
    if not parts:
        raise ValueError("parts is empty; give at least one set of comparisons")
    if len({part.annotator_names for part in parts}) > 1:
        raise ValueError("the sets of comparisons have different annotators")
    return replace(
        parts[0],
        first=concatenate_segments([part.first for part in parts]),
        second=concatenate_segments([part.second for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        weights=torch.cat([part.weights for part in parts]),
        annotators=torch.cat([part.annotators for part in parts]),
        offsets=torch.cat([part.margins for part in parts])
        if any(part.offsets is not None for part in parts)
        else None,
    )


def merge_preferences(parts: Sequence[Preferences]) -> Preferences:
    """Return several sets of comparisons as one, whoever answered: annotators of one name are taken for one.

    Names stand in the order in which they come up first; the metadata are those of the first set.

    Raises:
        ValueError: if there is none, or their arrays are of different kinds.
    """
    names = tuple(dict.fromkeys(name for part in parts for name in part.annotator_names))
    known = []
    for part in parts:
        places = [names.index(name) for name in part.annotator_names]
        answered = part.annotators
        if places != list(range(len(places))):
            answered = torch.tensor(places, device=answered.device)[answered]
        known.append(replace(part, annotators=answered, annotator_names=names))
    return concatenate_preferences(known)


def split_preferences(preferences: Preferences, parts: int, *, seed: int = 0) -> list[Preferences]:
    """Split comparisons at random into disjoint parts whose sizes differ by at most one.

    Raises:
        ValueError: unless there are 1 to N parts.
    """
    if not 1 <= parts <= len(preferences):
        raise ValueError(f"parts is {parts}; it must lie in 1 to {len(preferences)}")
    order = torch.as_tensor(np.random.default_rng(seed).permutation(len(preferences)))
    return [preferences[index.sort().values] for index in order.tensor_split(parts)]


@dataclass(frozen=True, eq=False)
class ScoredSegments:
    """N segments in groups that start in the same state, such as outputs to one prompt, each with a score.

    Raises:
        TypeError: if the segments are none, or another array no tensor.
        ValueError: if the shapes contradict each other.
    """

    segments: Segments
    """N segments."""
    groups: Tensor
    """[N] int64 which group each belongs to: any numbers."""
    scores: Tensor
    """[N] float64 how good each is: a return, or what a reward model makes of it."""

    def __post_init__(self) -> None:
        if not isinstance(self.segments, Segments):
            raise TypeError(f"segments is a {type(self.segments).__name__}; it must be Segments")
        check_tensors(self, ("groups", "scores"))
        for name in ("groups", "scores"):
            shape = tuple(getattr(self, name).shape)
            if shape != (len(self.segments),):
                raise ValueError(f"{name} have shape {shape}, not [{len(self.segments)}]")

    def __len__(self) -> int:
        return self.scores.shape[0]

    def validate(self) -> ScoredSegments:
        """Check the values as well as the shapes; return self.

        Raises:
            ValueError: naming the first field that is wrong, and how.
        """
        if not len(self):
            raise ValueError("there is no segment")
        self.segments.validate()
        check_dtype("groups", self.groups, torch.int64)
        check_dtype("scores", self.scores, torch.float64)
        check_finite("scores", self.scores)
        places, there = self.members()
        row = first_row(there.sum(1) < 2)
        if row is not None:
            raise ValueError(f"groups hold {int(self.groups[places[row, 0]])} once; a group must have two "
                             "segments at least")  # fmt: skip
        starts = self.segments.obs[:, 0].reshape(len(self), -1)
        row = first_row((starts[places] != starts[places[:, :1]]).any(-1) & there)
        if row is not None:
            raise ValueError(f"segments of group {int(self.groups[places[row, 0]])} start in different "
                             "observations; a group's must start in the same")  # fmt: skip
        return self

    def members(self) -> tuple[Tensor, Tensor]:
        """Return the places of each group's segments, int64 [G, M], and which of them there are, bool."""
        order = self.groups.argsort(stable=True)
        counts = torch.unique(self.groups, return_counts=True)[1]
        column = torch.arange(int(counts.max()), device=order.device)
        there = column < counts[:, None]
        places = (counts.cumsum(0) - counts)[:, None] + torch.where(there, column, 0)
        return order[places], there


def check_segments(
    whose: str, segments: Segments, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> None:
    """Refuse segments of other spaces.

    Args:
        whose: what messages call them.
        segments: what was seen and done.
        observation_space: of the policy.
        action_space: of the policy.

    Raises:
        ValueError: naming what is wrong.
    """
    for name, values, space in (("obs", segments.obs, observation_space),
                                ("actions", segments.actions, action_space)):  # fmt: skip
        shape = ObservationLayout(space).kept_shape
        if tuple(values.shape[2:]) != shape:
            raise ValueError(f"{name} of {whose} have shape {tuple(values.shape[2:])}; those of {space} "
                             f"have {shape}")  # fmt: skip
        used = values if name == "obs" else values[segments.mask]
        if isinstance(space, gym.spaces.Discrete):
            first, last = int(space.start), int(space.start + space.n - 1)
            if used.is_floating_point() or int(used.min()) < first or int(used.max()) > last:
                raise ValueError(f"{name} of {whose} are {used.dtype} from {used.min()} to {used.max()}; "
                                 f"those of {space} are whole numbers from {first} to {last}")  # fmt: skip
        elif isinstance(space, gym.spaces.MultiDiscrete):
            start, sizes = (torch.as_tensor(each, device=used.device) for each in (space.start, space.nvec))
            outside = (used < start) | (used >= start + sizes)
            if used.is_floating_point() or bool(outside.any()):
                raise ValueError(f"{name} of {whose} are {used.dtype}, {int(outside.sum())} of them outside "
                                 f"of {space}")  # fmt: skip
