"""Comparisons of options: which two, by whom, and who won; from tables of counts or from segments."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prefrl.config import Count, Natural, Settings
from prefrl.data import Preferences, Segments


@dataclass(frozen=True, eq=False)
class Comparisons:
    """N comparisons of two of K options.

    Raises:
        TypeError: if a field is no tensor of its kind.
        ValueError: if shapes contradict each other, or a value is out of range.
    """

    first: Tensor
    """[N] int64 place of the first option."""
    second: Tensor
    """[N] int64 place of the second option, another one."""
    labels: Tensor
    """[N] float64 probability, or share of answers, that the SECOND option is preferred; any real number."""
    num_options: int
    """K."""
    weights: Tensor | None = None
    """[N] float64 how often each was answered, not negative; None: once."""
    users: Tensor | None = None
    """[N] int64 who answered, 0 to U - 1; None: one user."""
    num_users: int = 1
    """U."""
    features: Tensor | None = None
    """[K, F] float64 what is known of the options; None: nothing but their places."""
    contexts: Tensor | None = None
    """[N, C] float64 what is known of the occasion (the prompt, the start); None: nothing."""
    user_names: tuple[str, ...] | None = None
    """U names, by which a model knows its users again; None: by their numbers alone."""

    def __post_init__(self) -> None:
        count = len(self.first)
        shapes: dict[str, tuple[int | None, ...]] = dict.fromkeys(
            ("first", "second", "labels", "weights", "users"), (count,)
        )
        shapes |= {"features": (self.num_options, None), "contexts": (count, None)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name in ("weights", "users", "features", "contexts"):
                continue
            kind = torch.int64 if name in ("first", "second", "users") else torch.float64
            if not isinstance(value, Tensor) or value.dtype != kind:
                found = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name} is {found}; it must be a tensor of {kind}")
            fits = len(value.shape) == len(shape) and all(
                b in (None, a) for a, b in zip(value.shape, shape, strict=True)
            )
            if not fits:
                wanted = ["any" if size is None else size for size in shape]
                raise ValueError(f"{name} has shape {list(value.shape)}; it must be {wanted}")
            if kind == torch.float64 and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} holds NaN or infinity; every number must be finite")
        self._check_values()

    def _check_values(self) -> None:
        for name in ("num_options", "num_users"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if len(self) == 0:
            raise ValueError("there is no comparison")
        for name, limit in (("first", self.num_options), ("second", self.num_options),
                            ("users", self.num_users)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 <= int(value.min()) <= int(value.max()) < limit:
                raise ValueError(f"{name} range from {int(value.min())} to {int(value.max())}; they must lie "
                                 f"in 0 to {limit - 1}")  # fmt: skip
        alone = torch.nonzero(self.first == self.second)
        if len(alone):
            raise ValueError(f"comparison {int(alone[0])} is of option {int(self.first[alone[0]])} with "
                             "itself")  # fmt: skip
        check_user_names(self.user_names, self.num_users)
        if self.weights is not None and (
            bool((self.weights < 0).any()) or not bool((self.weights > 0).any())
        ):
            raise ValueError("weights must not be negative, nor all 0")

    def __len__(self) -> int:
        return self.first.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Comparisons:
        parts = ("first", "second", "labels", "weights", "users", "contexts")
        kept = {name: value[rows] for name in parts if (value := getattr(self, name)) is not None}
        return replace(self, **kept)

    @classmethod
    def from_wins(cls, wins: Tensor, features: Tensor | None = None) -> Comparisons:
        """Return comparisons of K options from how often each was preferred to each.

        Args:
            wins: [K, K], or [U, K, K] with a table per user: how often the row was preferred to the column.
            features: [K, F] of the options.

        Raises:
            ValueError: if it is not square, or holds negative or infinite numbers.
        """
        tables = wins.to(torch.float64)[None] if wins.ndim == 2 else wins.to(torch.float64)
        if tables.ndim != 3 or tables.shape[1] != tables.shape[2]:
            raise ValueError(f"wins has shape {list(wins.shape)}; it must be [K, K] or [U, K, K]")
        if not bool((torch.isfinite(tables) & (tables >= 0)).all()):
            raise ValueError("wins holds negative, infinite or no numbers; it must hold counts")
        lost, won = tables, tables.transpose(1, 2)  # of the second, the column
        asked = torch.nonzero(torch.triu(lost + won, 1))
        count, up = (lost + won)[tuple(asked.T)], won[tuple(asked.T)]
        return cls(asked[:, 1].contiguous(), asked[:, 2].contiguous(), up / count, tables.shape[1], count,
                   asked[:, 0].contiguous(), len(tables), features)  # fmt: skip

    @classmethod
    def from_preferences(
        cls,
        preferences: Preferences,
        describe: Callable[[Segments], Tensor] | None = None,
        *,
        contexts: Tensor | None = None,
    ) -> Comparisons:
        """Return comparisons of segments as 2 N options; annotators are the users.

        Args:
            preferences: N comparisons.
            describe: features [N, F] of segments; None: :func:`feature_sums`.
            contexts: [N, C].

        Raises:
            ValueError: if the segments have no features, or the comparisons carry offsets.
        """
        if preferences.offsets is not None:
            raise ValueError("the comparisons carry offsets, which these models know nothing of")
        describe = describe or feature_sums
        features = torch.cat([describe(preferences.first), describe(preferences.second)])
        place = torch.arange(len(preferences), device=features.device)
        return cls(place, place + len(preferences), preferences.labels, len(features), preferences.weights,
                   preferences.annotators, len(preferences.annotator_names), features.double(),
                   contexts, preferences.annotator_names)  # fmt: skip

    @property
    def counts(self) -> Tensor:
        """[N] the weights, ones where there are none."""
        return torch.ones_like(self.labels) if self.weights is None else self.weights

    @property
    def user(self) -> Tensor:
        """[N] the users, zeros where there are none."""
        return torch.zeros_like(self.first) if self.users is None else self.users

    def wins(self, counts: Tensor | None = None) -> Tensor:
        """Return [..., K, K] how often the row was preferred to the column, all users together.

        Args:
            counts: [..., N] how often each was answered, in place of :attr:`counts`.
        """
        counts, k = self.counts if counts is None else counts, self.num_options
        table = counts.new_zeros(*counts.shape[:-1], k * k)
        table.index_add_(-1, self.second * k + self.first, counts * self.labels)
        table.index_add_(-1, self.first * k + self.second, counts * (1.0 - self.labels))
        return table.reshape(*counts.shape[:-1], k, k)

    def merged(self) -> Comparisons:
        """Return the same comparisons, each pair of a user once; as they are where there are contexts.

        The likelihood is the same up to a constant.
        """
        if self.contexts is not None:
            return self
        turned = self.first > self.second
        low, high = torch.where(turned, self.second, self.first), torch.where(turned, self.first, self.second)
        labels = torch.where(turned, 1.0 - self.labels, self.labels)
        keys, place = torch.unique((self.user * self.num_options + low) * self.num_options + high,
                                   return_inverse=True)  # fmt: skip
        counts, won = torch.zeros(2, len(keys), dtype=torch.float64, device=keys.device)
        counts.index_add_(0, place, self.counts)
        won.index_add_(0, place, self.counts * labels)
        kept = counts > 0.0
        keys, counts, won = keys[kept], counts[kept], won[kept]
        pair = keys % self.num_options**2
        return replace(self, first=pair // self.num_options, second=pair % self.num_options,
                       labels=won / counts, weights=counts,
                       users=None if self.users is None else keys // self.num_options**2)  # fmt: skip

    def check_linked(self) -> None:
        """Raise ValueError unless chains of comparisons link all options: no model knows more than that."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if self.num_options**2 <= 8 * len(self) and self._all_reached():
            return
        asked = self.counts > 0.0
        edges = [side[asked].cpu().numpy() for side in (self.first, self.second)]
        seen = torch.zeros(self.num_options, dtype=torch.bool)
        seen[torch.cat([self.first[asked], self.second[asked]]).cpu()] = True
        never = torch.nonzero(~seen)[:, 0]
        if len(never):
            raise ValueError(f"option {int(never[0])} was never compared ({len(never)} of {self.num_options} "
                             "options); leave it out, or give the options' features")  # fmt: skip
        table = coo_matrix((np.ones(len(edges[0])), tuple(edges)), shape=(self.num_options,) * 2)
        count, part = connected_components(table, directed=False)
        if count > 1:
            other = int((part != part[0]).argmax())
            raise ValueError(f"no chain of comparisons links option 0 and option {other}; compare options of "
                             f"the {count} groups with each other")  # fmt: skip

    def _all_reached(self) -> bool:
        """Return whether edges lead from option 0 to all others; of many edges a tenth of scipy's time."""
        size, counts = self.num_options, self.counts
        asked = counts.new_zeros(size * size).index_add_(0, self.first * size + self.second, counts)
        table = (asked.cpu().numpy() > 0.0).reshape(size, size)
        table = table | table.T
        reached, before = table[0], 0
        while reached.sum() > before:
            before = reached.sum()
            reached = reached | table[reached].any(0)
        return bool(reached.all())

    def check_users(self) -> None:
        """Raise ValueError unless every user gave an answer."""
        asked = torch.zeros(self.num_users, dtype=torch.float64, device=self.first.device)
        silent = torch.nonzero(asked.index_add(0, self.user, self.counts) == 0.0)[:, 0]
        if len(silent):
            raise ValueError(f"user {int(silent[0])} gave no answer ({len(silent)} of {self.num_users} users "
                             "gave none); nothing can be said about them")  # fmt: skip


def check_user_names(names: tuple[str, ...] | None, num_users: int) -> None:
    """Raise ValueError unless there are no names, or one for each user, by which they are told apart."""
    if names is None:
        return
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"user_names are {reprlib.repr(names)}; they must be a tuple of strings")
    if len(names) != num_users:
        raise ValueError(f"user_names are {len(names)}; there are {num_users} users")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"user_names have {twice!r} more than once; they must tell users apart")


@dataclass(frozen=True)
class ModelSizes(Settings):
    """What a fitted model knows of."""

    num_options: Natural
    """K where options are known by their places alone; 0 where they have features."""
    num_features: Natural
    """F; 0 for a table of options."""
    num_users: Count
    """U."""
    num_contexts: Natural
    """C; 0 where occasions are alike."""

    @classmethod
    def of(cls, comparisons: Comparisons) -> ModelSizes:
        """Return the sizes of comparisons."""
        features, contexts = comparisons.features, comparisons.contexts
        return cls(0 if features is not None else comparisons.num_options,
                   0 if features is None else features.shape[1], comparisons.num_users,
                   0 if contexts is None else contexts.shape[1])  # fmt: skip

    @property
    def inputs(self) -> int:
        """Rows of an encoder: K options, or F features and a constant."""
        return self.num_options or self.num_features + 1

    def __str__(self) -> str:
        """Return what options are known by, in words."""
        return f"{self.num_options} options" if self.num_options else f"{self.num_features} features"


def feature_sums(segments: Segments) -> Tensor:
    """Return the sum of the features of each segment's transitions [N, F].

    Raises:
        ValueError: if the segments have none.
    """
    if segments.features is None:
        raise ValueError("the segments have no features; give a function that describes them")
    return torch.where(segments.mask[..., None], segments.features, 0.0).sum(1)
