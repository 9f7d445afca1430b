"""Aggregates over few runs, and how sure of them one may be.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264), sections 4.1 (interval estimates) and 4.3 (interquartile mean, probability of
improvement).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

CHUNK_VALUES = 200_000
"""How many resampled values :func:`bootstrap_interval` holds at a time: few enough to stay in the cache."""


class Statistic(Protocol):
    """Reduces one axis, as ``np.mean``, ``np.median`` and :func:`interquartile_mean` do."""

    def __call__(self, values: FloatArray, /, *, axis: int) -> ArrayLike:
        """Reduce ``axis`` of ``values``."""


def interquartile_mean(values: ArrayLike, *, axis: int = 0) -> FloatArray:
    """Return the mean of the middle half of the values along ``axis``.

    A quarter of the mass is cut from either side. Where the count is no multiple of four, the values at the
    two edges count in part, so that every value moves the result continuously and any count works: of three
    values the outer ones weigh 1/6 each, of two 1/2. Where the count is a multiple of four it equals
    ``scipy.stats.trim_mean(values, 0.25)``. NaN anywhere gives NaN; infinities within the cut are ignored.

    Args:
        values: numbers [..., n, ...].
        axis: the axis of length n.

    Raises:
        ValueError: if there are no values.

    Source: Agarwal et al. 2021, section 4.3.
    """
    data = np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1)
    n = data.shape[-1]
    if n == 0:
        raise ValueError(f"values has shape {np.shape(values)}; axis {axis} must hold at least one value")
    first, last = n // 4, n - n // 4
    ranks = np.arange(first, last)  # the rest lies wholly in a cut quarter; its weight of 0 times inf is NaN
    weights = np.minimum(ranks + 1, 3 * n / 4) - np.maximum(ranks, n / 4)
    data = np.sort(data, axis=-1)
    mean = data[..., first:last] @ (weights / weights.sum())
    # NaN sorts to the end, where it would be cut away unseen.
    return np.asarray(np.where(np.isnan(data[..., -1]), np.nan, mean))


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = interquartile_mean,
    *,
    interval: float = 0.95,
    strata: Sequence[object] | None = None,
    resamples: int = 2000,
    rng: np.random.Generator | int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Return the ends of the percentile bootstrap interval of a statistic over runs.

    Whole runs are drawn with replacement, so the points of a curve stay together. With ``strata`` each task
    keeps its number of runs (the stratified bootstrap) and the statistic is taken over the runs of all tasks.
    The interval of a single run is the run itself: one run says nothing about the others. With two runs or
    more per task it agrees with ``scipy.stats.bootstrap(..., method="percentile")``, which refuses one.

    Args:
        values: one row per run [runs, ...], for example the points of its curve.
        statistic: reduces an axis.
        interval: the share of the resampled statistics that lies inside, in (0, 1).
        strata: the task of each run [runs]; all of one task if None.
        resamples: how often the runs are drawn anew.
        rng: generator, or its seed.

    Returns:
        The lower and upper end, each of shape [...].

    Raises:
        ValueError: if an argument is out of range, there are no runs, or ``strata`` has another length.

    Source: Agarwal et al. 2021, section 4.1.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim == 0 or data.shape[0] == 0:
        raise ValueError(f"values has shape {data.shape}; the first axis must hold at least one run")
    if not 0 < interval < 1:
        raise ValueError(f"interval is {interval}; it must lie between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")
    rows = _resampled_rows(data.shape[0], strata, resamples, np.random.default_rng(rng))
    points = data.reshape(data.shape[0], -1).T
    ends = np.empty((2, len(points)))
    chunk = max(1, CHUNK_VALUES // rows.size)
    for start in range(0, len(points), chunk):
        drawn = np.asarray(statistic(points[start : start + chunk, rows], axis=-1))  # [chunk, resamples]
        ends[:, start : start + chunk] = np.quantile(drawn, [(1 - interval) / 2, (1 + interval) / 2], axis=-1)
    shape = data.shape[1:]
    return ends[0].reshape(shape), ends[1].reshape(shape)


def probability_of_improvement(
    ours: Sequence[ArrayLike],
    theirs: Sequence[ArrayLike],
    *,
    interval: float = 0.95,
    resamples: int = 2000,
    rng: np.random.Generator | int = 0,
) -> tuple[float, float, float]:
    """Return how likely a run of ours beats one of theirs on a random task, and its bootstrap interval.

    Of a task it is the share of all pairs of runs in which ours is better, ties counting one half
    (Mann-Whitney's U over the number of pairs); the tasks' shares are averaged. Runs are drawn anew within
    each task, ours and theirs independently.

    Args:
        ours: for each task, the scores of our runs [runs]; more is better, infinities allowed.
        theirs: the same of the others, in the same order of tasks; numbers of runs may differ.
        interval: the share of the resampled probabilities that lies inside, in (0, 1).
        resamples: how often the runs are drawn anew.
        rng: generator, or its seed.

    Returns:
        The probability, and the lower and upper end of the percentile interval.

    Raises:
        ValueError: if an argument is out of range, there are no tasks or not equally many, or a task has no
            runs or scores that are NaN.

    Source: Agarwal et al. 2021, section 4.3; the interval, section 4.1.
    """
    if len(ours) == 0 or len(ours) != len(theirs):
        raise ValueError(f"ours has {len(ours)} tasks and theirs {len(theirs)}; both must have the same, "
                         "and at least one")  # fmt: skip
    if not 0 < interval < 1:
        raise ValueError(f"interval is {interval}; it must lie between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")
    generator = np.random.default_rng(rng)
    probability, drawn = 0.0, np.zeros(resamples)
    for task, sides in enumerate(zip(ours, theirs, strict=True)):
        mine, other = (_scores(name, task, x) for name, x in zip(("ours", "theirs"), sides, strict=True))
        better = (mine[:, None] > other) + 0.5 * (mine[:, None] == other)  # [our runs, their runs]
        probability += float(better.mean()) / len(ours)
        # How often each run is drawn says all: [resamples, our runs] and [resamples, their runs].
        rows, columns = (generator.multinomial(n, np.full(n, 1 / n), size=resamples) for n in better.shape)
        drawn += ((rows @ better) * columns).sum(1) / (better.size * len(ours))
    low, high = np.quantile(drawn, [(1 - interval) / 2, (1 + interval) / 2])
    return probability, float(low), float(high)


def _scores(name: str, task: int, values: ArrayLike) -> FloatArray:
    """Return the scores of one task as an array; raise ValueError if they are none."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or not scores.size or np.isnan(scores).any():
        raise ValueError(f"{name} has {values!r} for task {task}; it must be [runs], at least one, none NaN")
    return scores


def _resampled_rows(
    n: int, strata: Sequence[object] | None, resamples: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return row numbers [resamples, n], drawn with replacement within each stratum."""
    members: dict[object, list[int]] = {}
    for row, stratum in enumerate([None] * n if strata is None else strata):
        members.setdefault(stratum, []).append(row)
    if sum(map(len, members.values())) != n:
        raise ValueError(f"strata has {len(strata or ())} entries; values has {n} runs")
    groups = [np.array(rows) for rows in members.values()]
    return np.concatenate([rng.choice(rows, size=(resamples, len(rows))) for rows in groups], axis=1)
