"""Tuning as learning: how far a setting chosen on N tasks is as good on others as it looked (G3).

A setting (a combination of hyper-parameters) is chosen on N tasks as the one of the largest mean utility.
The gap between that mean and its mean on other tasks is what tuning overrates it by; for few settings it
falls as 1 / sqrt(N) (arXiv 2501.13734 bounds it for utilities that are piecewise polynomial).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 400
"""Draws of N tasks."""

SHARE = 4
"""Tasks for each that is tuned on at most: the others say what the choice is worth."""


def tuning_gap(
    utilities: ArrayLike, sizes: Sequence[int] | None = None, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Choose a setting on N tasks, many times, and see what it is worth on the others.

    Args:
        utilities: [settings, tasks], the more the better.
        sizes: numbers N of tasks to choose on (None: 1, 2, 4, ... up to a quarter of the tasks).
        draws: of N tasks each, without repeats.
        seed: of the draws.

    Returns:
        Lists by N: ``num_tasks``; ``gap``, the mean of |train - test|, with ``optimism``, the mean of
        train - test; ``train`` and ``test``, mean utilities of the chosen setting on the N tasks and on all
        others; ``regret``, how much better on the others the best setting of all tasks is. And ``slope`` of
        the gap against N, both as logarithms (None where there are not two sizes, or a gap is 0).

    Raises:
        ValueError: if utilities are no finite matrix of 2 settings and 4 tasks at least, or a size does not
            leave as many tasks to test on.
    """
    table = np.asarray(utilities, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < SHARE or not np.isfinite(table).all():
        raise ValueError(f"utilities have shape {table.shape}; they must be finite, [settings, tasks], with "
                         f"at least 2 settings and {SHARE} tasks")  # fmt: skip
    tasks = table.shape[1]
    counts = [2**i for i in range(20) if 2**i <= tasks // SHARE] if sizes is None else list(sizes)
    for count in counts:
        if not 1 <= count <= tasks // 2:
            raise ValueError(f"sizes has {count}; of {tasks} tasks it must be from 1 to {tasks // 2}")
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    rng, total, best = np.random.default_rng(seed), table.sum(1), int(table.mean(1).argmax())
    names = ("gap", "optimism", "train", "test", "regret")
    found: dict[str, Any] = {"num_tasks": counts, **{name: [] for name in names}}
    for count in counts:
        seen = np.stack([table[:, rng.permutation(tasks)[:count]].sum(1) for _ in range(draws)], 1)
        chosen = seen.argmax(0)
        train = seen.max(0) / count
        others = (total[:, None] - seen) / (tasks - count)
        test = others[chosen, np.arange(draws)]
        values = (np.abs(train - test), train - test, train, test, others[best] - test)
        for name, value in zip(names, values, strict=True):
            found[name].append(float(value.mean()))
    found["slope"] = _slope(counts, found["gap"])
    return found


def _slope(counts: Sequence[int], gaps: Sequence[float]) -> float | None:
    if len(counts) < 2 or min(gaps) <= 0.0:
        return None
    return float(np.polyfit(np.log(counts), np.log(gaps), 1)[0])
