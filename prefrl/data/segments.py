"""Segments of behaviour, and preferences between pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Segments:
    """N segments of at most L transitions, padded at the end.

    Segment i is obs[i, 0], actions[i, 0], ..., actions[i, n-1], obs[i, n] with n = lengths[i]; what stands
    after it is padding: the last observation repeated, actions and features 0.

    Raises:
        TypeError: if a field is no tensor.
        ValueError: if the shapes contradict each other.
    """

    obs: Tensor
    """[N, L+1, ...] observations; int64 state numbers [N, L+1] in tabular environments."""
    actions: Tensor
    """[N, L, ...] actions."""
    lengths: Tensor
    """[N] int64 number of transitions, 1 to L."""
    terminated: Tensor
    """[N] bool: the segment's last observation is terminal."""
    features: Tensor | None = None
    """[N, L, F] float64 reward features of each transition, if known."""

    def __post_init__(self) -> None:
        check_tensors(self, ("obs", "actions", "lengths", "terminated"))
        if self.features is not None:
            check_tensors(self, ("features",))
        count, length = self.actions.shape[:2] if self.actions.ndim >= 2 else (-1, -1)
        problems = []
        if self.actions.ndim < 2:
            problems.append(f"actions have shape {tuple(self.actions.shape)}, not [N, L, ...]")
        elif self.obs.ndim < 2 or tuple(self.obs.shape[:2]) != (count, length + 1):
            problems.append(f"obs have shape {tuple(self.obs.shape)}, not [{count}, {length + 1}, ...]")
        for name in ("lengths", "terminated"):
            if tuple(getattr(self, name).shape) != (count,):
                problems.append(f"{name} have shape {tuple(getattr(self, name).shape)}, not [{count}]")
        if self.features is not None and (
            self.features.ndim != 3 or tuple(self.features.shape[:2]) != (count, length)
        ):
            problems.append(f"features have shape {tuple(self.features.shape)}, not [{count}, {length}, F]")
        if problems:
            raise ValueError("segments do not fit together: " + "; ".join(problems))

    def __len__(self) -> int:
        return self.actions.shape[0]

    @property
    def max_length(self) -> int:
        """L."""
        return self.actions.shape[1]

    @property
    def mask(self) -> Tensor:
        """[N, L] bool: True for transitions, False for padding."""
        return torch.arange(self.max_length, device=self.lengths.device) < self.lengths[:, None]

    @property
    def last_obs(self) -> Tensor:
        """[N, ...] observation that each segment ends in."""
        return self.obs[torch.arange(len(self), device=self.lengths.device), self.lengths]

    def __getitem__(self, index: Tensor | slice) -> Segments:
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Segments:
        """Return the segments with every tensor on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Segments:
        return Segments(
            function(self.obs),
            function(self.actions),
            function(self.lengths),
            function(self.terminated),
            None if self.features is None else function(self.features),
        )

    def padded(self, max_length: int) -> Segments:
        """Return the same segments padded to ``max_length`` transitions.

        Raises:
            ValueError: if that is shorter than L.
        """
        extra = max_length - self.max_length
        if extra < 0:
            raise ValueError(f"max_length is {max_length}; the segments already have {self.max_length}")
        if extra == 0:
            return self
        last = self.obs[:, -1:].expand(-1, extra, *self.obs.shape[2:])
        return replace(
            self,
            obs=torch.cat([self.obs, last], 1),
            actions=_append_zeros(self.actions, extra),
            features=None if self.features is None else _append_zeros(self.features, extra),
        )

    def with_absorbing(self) -> Segments:
        """Return the segments with terminated ones continued to L by absorbing transitions.

        An absorbing transition stays in the terminal state and has zero features; unlike padding it counts
        as a transition. Without them, a partial-return model fitted to regret preferences sees every
        continuation as worth more or less than stopping (Knox et al. 2023, arXiv 2310.02456).
        """
        return replace(
            self,
            lengths=torch.where(
                self.terminated, torch.full_like(self.lengths, self.max_length), self.lengths
            ),
        )

    def validate(self) -> Segments:
        """Check the values as well as the shapes; return self.

        Raises:
            ValueError: naming the first field that is wrong, and how.
        """
        check_dtype("lengths", self.lengths, torch.int64)
        check_dtype("terminated", self.terminated, torch.bool)
        if self.features is not None:
            check_dtype("features", self.features, torch.float64)
        for name in ("obs", "actions", "features"):
            check_finite(name, getattr(self, name))
        row = first_row((self.lengths < 1) | (self.lengths > self.max_length))
        if row is not None:
            raise ValueError(
                f"lengths[{row}] is {int(self.lengths[row])}; lengths must lie in 1 to {self.max_length}"
            )
        self._check_padding()
        return self

    def _check_padding(self) -> None:
        """Raise ValueError unless padding is what the class says, so that equal segments are equal arrays."""
        short = torch.nonzero(self.lengths < self.max_length)[:, 0]
        if not len(short):
            return
        part = self[short]
        moved = part.obs[:, 1:] != part.last_obs[:, None]
        wrong = {"obs": moved, "actions": part.actions != 0}
        if part.features is not None:
            wrong["features"] = part.features != 0
        for name, bad in wrong.items():
            row = first_row(bad.flatten(2).any(2) & ~part.mask if bad.ndim > 2 else bad & ~part.mask)
            if row is not None:
                allowed = "the last observation repeated" if name == "obs" else "0"
                raise ValueError(
                    f"{name}[{int(short[row])}] hold something else after the segment's "
                    f"{int(part.lengths[row])} transitions; padding must be {allowed}"
                )


def check_tensors(owner: object, names: Sequence[str]) -> None:
    """Raise TypeError unless the named attributes are tensors."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; it must be a torch.Tensor")


def check_dtype(name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError for a tensor of another dtype."""
    if value.dtype != dtype:
        raise ValueError(f"{name} have dtype {value.dtype}; it must be {dtype}")


def check_finite(name: str, value: Tensor | None) -> None:
    """Raise ValueError for NaN and infinity, naming the first row."""
    if value is None or not (value.is_floating_point() or value.is_complex()):
        return
    row = first_row(~torch.isfinite(value))
    if row is not None:
        raise ValueError(f"{name}[{row}] hold NaN or infinity; every number must be finite")


def first_row(bad: Tensor) -> int | None:
    """Return the first place on axis 0 with a True in it."""
    rows = torch.nonzero(bad.flatten(1).any(1) if bad.ndim > 1 else bad)
    return int(rows[0]) if len(rows) else None


def _append_zeros(tensor: Tensor, extra: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], extra, *tensor.shape[2:])], 1)


def check_same_kind(one: Segments, other: Segments, what: str) -> None:
    """Raise ValueError unless both hold the same arrays, up to count and length."""
    if (one.features is None) != (other.features is None):
        raise ValueError(f"only some of the {what} carry features; give them to all or to none")
    for name in ("obs", "actions", "features"):
        a, b = getattr(one, name), getattr(other, name)
        if a is not None and (a.dtype, a.shape[2:]) != (b.dtype, b.shape[2:]):
            raise ValueError(
                f"{name} of the {what} differ: {a.dtype} {list(a.shape[2:])} per step "
                f"and {b.dtype} {list(b.shape[2:])}; they must be alike"
            )


def concatenate_segments(parts: Sequence[Segments]) -> Segments:
    """Return several batches of segments as one, padded to the longest.

    Raises:
        ValueError: if there is none, or their arrays are of different kinds.
    """
    if not parts:
        raise ValueError("parts is empty; give at least one batch of segments")
    for part in parts[1:]:
        check_same_kind(parts[0], part, "segments to concatenate")
    longest = max(part.max_length for part in parts)
    padded = [part.padded(longest) for part in parts]
    features = [part.features for part in padded if part.features is not None]
    return Segments(
        torch.cat([part.obs for part in padded]),
        torch.cat([part.actions for part in padded]),
        torch.cat([part.lengths for part in padded]),
        torch.cat([part.terminated for part in padded]),
        torch.cat(features) if features else None,
    )
