"""Answers to be looked at, out of every format that comparisons are read from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from prefrl.data import Preferences, Segments, concatenate_segments, load_preferences
from prefrl.data.files.comparison_tables import ComparisonTable, load_comparison_table
from prefrl.data.files.human import load_human_preferences
from prefrl.preferences.general_models import Comparisons
from prefrl.preferences.general_models.comparisons import feature_sums
from prefrl.reading.errors import check_file

OFTEN = 10.0
"""Answers that an option must have on average for a number of its own to be worth more than its features."""

MOST_NUMBERS = 64
"""Values of a Discrete observation or action that are counted one by one."""

MOST_FEATURES = 256
"""Features that options are described by."""

MOST_ANSWERS = 1_000_000
"""Answers that weights stand for."""

HUMAN_ENDING = "_segment_pairs.npy"
"""How the file names of the published human comparisons end."""

KnownBy = Literal["auto", "table", "features"]


@dataclass(frozen=True, eq=False)
class Answers:
    """One row per answer, about options that are told apart wherever they occur again."""

    comparisons: Comparisons
    """N answers; weights other than 1 only where they are no counts of whole answers."""
    option_names: tuple[str, ...]
    """Of the K options."""
    user_names: tuple[str, ...]
    """Of the U users."""
    known_by: str
    """What models know of an option: "its place in a table", or features, in words."""
    left_out: int
    """Answers that nothing can be learned from: of an option with itself, or without a link to the rest."""

    @property
    def many_users(self) -> bool:
        """Whether there is more than one user."""
        return len(self.user_names) > 1


def read_answers(path: Path, known_by: KnownBy = "auto") -> Answers:
    """Read answers from a table (.csv), a preference file, or the published human comparisons.

    Args:
        path: the file; of the human comparisons, a condition's ``..._segment_pairs.npy``.
        known_by: whether models have numbers for each option ("table") or know its features.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is in none of these formats, or says nothing.
    """
    check_file(path, "file of comparisons")
    if path.suffix.lower() == ".csv":
        if known_by == "features":
            raise ValueError(f"known_by is 'features'; the options of {path} have none but their names")
        return from_table(load_comparison_table(path))
    if path.name.endswith(HUMAN_ENDING):
        condition = path.name.removesuffix(HUMAN_ENDING)
        return from_preferences(load_human_preferences(path.parent, condition), known_by)
    return from_preferences(load_preferences(path), known_by)


def from_table(table: ComparisonTable) -> Answers:
    """Return the answers of a table."""
    comparisons = Comparisons(table.first, table.second, table.labels, len(table.option_names),
                              table.weights, table.users, len(table.user_names))  # fmt: skip
    return _linked(_one_by_one(comparisons), table.option_names, table.user_names)


def from_preferences(preferences: Preferences, known_by: KnownBy = "auto") -> Answers:
    """Return the answers of comparisons of segments; equal segments are one option.

    Options are places in a table where a segment is one step with Discrete observation and action, or each
    has :data:`OFTEN` answers on average and chains of comparisons link all; else they are known by the sums
    of their features, and without features by the sums of their observations and actions (of Discrete
    ones, how often each occurred).

    Raises:
        ValueError: if there is no comparison, a label lies outside [0, 1], or there are offsets.
    """
    _check(preferences)
    longest = max(preferences.first.max_length, preferences.second.max_length)
    both = concatenate_segments([side.padded(longest) for side in (preferences.first, preferences.second)])
    sample, place = _equal_segments(both)
    count = len(preferences)
    first, second = place[:count], place[count:]
    kept = (first != second) & (preferences.weights > 0.0)
    if not bool(kept.any()):
        raise ValueError("every comparison is of a segment with itself, or has weight 0; nothing was asked")
    comparisons = Comparisons(
        first[kept], second[kept], preferences.labels[kept], len(sample), preferences.weights[kept],
        preferences.annotators[kept], len(preferences.annotator_names),
    )  # fmt: skip
    comparisons = _one_by_one(comparisons)
    names = tuple(f"segment {int(i) % count} ({'first' if int(i) < count else 'second'})" for i in sample)
    options = both[sample]
    left_out = int((~kept).sum())
    if known_by == "table" or (known_by == "auto" and _worth_a_table(comparisons, options)):
        return _linked(comparisons, names, preferences.annotator_names, left_out)
    features, known = described(options)
    comparisons = replace(comparisons, features=scaled(features, comparisons))
    return _with_known_users(Answers(comparisons, names, preferences.annotator_names, known, left_out))


def _check(preferences: Preferences) -> None:
    """Raise ValueError for comparisons that cannot be looked at."""
    if len(preferences) == 0:
        raise ValueError("there is no comparison")
    if preferences.offsets is not None:
        raise ValueError("the comparisons carry offsets, which these models know nothing of")
    wrong = torch.nonzero((preferences.labels < 0.0) | (preferences.labels > 1.0))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"labels[{row}] is {float(preferences.labels[row])}; answers lie in 0 to 1 (labels "
                         "of a label model may not: give those that were answered)")  # fmt: skip


def _equal_segments(segments: Segments) -> tuple[Tensor, Tensor]:
    """Return one place [K] of each different segment, and which of them each [N] is."""
    columns = [segments.obs, segments.actions, segments.lengths, segments.terminated]
    rows = np.concatenate([column.reshape(len(segments), -1).double().numpy() for column in columns], 1)
    rows = np.ascontiguousarray(rows + 0.0)  # -0 is 0
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, sample, place = np.unique(keys, return_index=True, return_inverse=True)
    return torch.from_numpy(sample), torch.from_numpy(place.reshape(-1)).to(torch.int64)


def _worth_a_table(comparisons: Comparisons, options: Segments) -> bool:
    """Whether options are known well enough by their places alone."""
    whole = [not part.is_floating_point() and part.ndim == 2 for part in (options.obs, options.actions)]
    if all(whole) and options.max_length == 1:
        return True
    often = 2.0 * float(comparisons.counts.sum()) >= OFTEN * comparisons.num_options
    return often and bool(linked_options(comparisons).all())


def described(options: Segments) -> tuple[Tensor, str]:
    """Return features [K, F] of segments, and what they are, in words.

    Raises:
        ValueError: if there are more than :data:`MOST_FEATURES`.
    """
    if options.features is not None:
        features, known = feature_sums(options), "sums of features"
    else:
        mask = options.mask
        parts = [_sums(part, mask) for part in (options.obs[:, :-1], options.actions)]
        features, known = torch.cat(parts, 1), "sums of observations and actions"
    if features.shape[1] > MOST_FEATURES:
        raise ValueError(f"segments are described by {features.shape[1]} numbers; at most {MOST_FEATURES} are"
                         " allowed: give them features")  # fmt: skip
    return features, known


def _sums(values: Tensor, mask: Tensor) -> Tensor:
    """Return the sum [K, F] over steps [K, L, ...]; of few whole numbers, how often each occurred."""
    if not values.is_floating_point() and values.ndim == 2:
        low, high = int(values.min()), int(values.max())
        if high - low < MOST_NUMBERS:
            values = torch.nn.functional.one_hot(values.long() - low, high - low + 1)
    values = values.reshape(*mask.shape, -1).double()
    return torch.where(mask[..., None], values, 0.0).sum(1)


def scaled(features: Tensor, comparisons: Comparisons) -> Tensor:
    """Return features whose differences have a mean square of 1, without those that never differ.

    Raises:
        ValueError: if none does.
    """
    differences = features[comparisons.second] - features[comparisons.first]
    size = differences.square().mean(0).sqrt()
    moves = size > 1e-12 * features.abs().amax(0).clamp(min=1e-300)
    if not bool(moves.any()):
        raise ValueError("no feature differs between two compared options")
    return (features[:, moves] - features[:, moves].mean(0)) / size[moves]


def _one_by_one(comparisons: Comparisons) -> Comparisons:
    """Return one row per answer, where weights are counts and labels shares of so many whole answers."""
    counts = comparisons.counts
    won = counts * comparisons.labels
    whole = [bool(((part - part.round()).abs() < 1e-9).all()) for part in (counts, won)]
    if bool((counts == 1.0).all()):
        return replace(comparisons, weights=None)
    if not all(whole):
        return comparisons
    if float(counts.sum()) > MOST_ANSWERS:
        raise ValueError(f"the weights stand for {float(counts.sum()):.3g} answers; at most {MOST_ANSWERS} "
                         "are looked at")  # fmt: skip
    repeats = torch.stack([won, counts - won], 1).round().to(torch.int64).flatten()
    rows = torch.arange(len(comparisons)).repeat_interleave(2).repeat_interleave(repeats)
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(len(comparisons)).repeat_interleave(repeats)
    return replace(comparisons[rows], labels=ends, weights=None)


def linked_options(comparisons: Comparisons) -> Tensor:
    """Return [K] bool: the options of the largest group that chains of comparisons link."""
    edges = (comparisons.first.numpy(), comparisons.second.numpy())
    table = coo_matrix((np.ones(len(comparisons)), edges), shape=(comparisons.num_options,) * 2)
    _, part = connected_components(table, directed=False)
    return torch.from_numpy(part == np.bincount(part).argmax())


def kept_options(comparisons: Comparisons, options: Tensor) -> tuple[Comparisons, Tensor]:
    """Return the comparisons among some options [K] bool, which get new places, and those rows [N] bool."""
    rows = options[comparisons.first] & options[comparisons.second]
    place = options.cumsum(0) - 1
    kept = comparisons[rows]
    features = None if kept.features is None else kept.features[options]
    return replace(kept, first=place[kept.first], second=place[kept.second],
                   num_options=int(options.sum()), features=features), rows  # fmt: skip


def _linked(
    comparisons: Comparisons, names: tuple[str, ...], users: tuple[str, ...], left_out: int = 0
) -> Answers:
    """Return answers about the largest group of options that are linked, in a table."""
    options = linked_options(comparisons)
    kept, rows = kept_options(comparisons, options)
    names = tuple(name for name, stays in zip(names, options.tolist(), strict=True) if stays)
    left_out += math.ceil(float(comparisons.counts[~rows].sum()))
    return _with_known_users(Answers(kept, names, users, "their places in a table", left_out))


def _with_known_users(answers: Answers) -> Answers:
    """Return the same without users who gave no answer."""
    comparisons = answers.comparisons
    there, place = torch.unique(comparisons.user, return_inverse=True)
    names = tuple(answers.user_names[int(i)] for i in there)
    one = len(there) == 1
    comparisons = replace(comparisons, users=None if one else place, num_users=len(there))
    return replace(answers, comparisons=comparisons, user_names=names)
