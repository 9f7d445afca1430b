"""Where requests come from: input models over a distribution of single requests, and files of requests."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.backend import Array, Random
from prefrl.envs.core.checks import check_count, check_number
from prefrl.reading.archives import read_npz
from prefrl.reading.errors import reading
from prefrl.reading.text import read_table

from .problems import AllocationProblem

InputModel = Literal["iid", "periodic", "ergodic", "corrupted", "drift", "replay"]
"""How the requests of a horizon hang together; see :class:`RequestStream`."""

Requests = str | os.PathLike[str] | ArrayLike
"""Requests to replay: a file, or an array [T, columns]."""


class StreamArgs(TypedDict, total=False):
    """Arguments that environments with a distribution of requests take; see :class:`RequestStream`."""

    input_model: InputModel
    period: int
    persistence: float
    corrupted_rounds: int | None
    drift_start: float
    requests: Requests | None


@dataclass(frozen=True)
class RequestStream:
    """An input model over a distribution of single requests.

    Balseiro, Lu and Mirrokni (2023, section 4) prove bounds for classes of inputs; these are one member of
    each, of our choice:

    - ``iid``: independent draws from the distribution.
    - ``periodic``: independent draws whose rewards are scaled by ``(3 + sin(2 pi t / period)) / 4``, between
      1/2 and 1.
    - ``ergodic``: with probability ``persistence`` the seen part of the request before comes again, else a
      new one is drawn: a Markov chain with the distribution as its stationary distribution.
    - ``corrupted``: independent draws, but in the first ``corrupted_rounds`` requests everything pays as much
      as anything can.
    - ``drift``: independent draws whose rewards are scaled by a factor that rises in a line from
      ``drift_start`` to 1. (No bound of order sqrt(T) covers it.)
    - ``replay``: given requests, in their order.

    Raises:
        ValueError: for an unknown input model, a parameter outside its range, or replay without requests.
    """

    problem: AllocationProblem
    """What a request asks."""
    horizon: int
    """Number T of requests."""
    input_model: InputModel = "iid"
    """Which of the above."""
    period: int = 20
    """Requests per period."""
    persistence: float = 0.9
    """Probability that the request before comes again, in [0, 1)."""
    corrupted_rounds: int | None = None
    """Number of corrupted requests; None: the square root of the horizon, rounded."""
    drift_start: float = 0.5
    """First factor of the rewards, in [0, 1]."""
    requests: NDArray[np.float64] | None = None
    """Requests [T, columns] to replay."""

    def __post_init__(self) -> None:
        if self.input_model not in get_args(InputModel):
            raise ValueError(
                f"input_model is {self.input_model!r}; allowed are {', '.join(get_args(InputModel))}"
            )
        if self.input_model == "replay" and self.requests is None:
            raise ValueError("input_model is 'replay', but there are no requests to replay: give requests")
        check_count("period", self.period)
        for name, value, below_one in (("persistence", self.persistence, True),
                                       ("drift_start", self.drift_start, False)):  # fmt: skip
            number = check_number(name, value)
            if not 0.0 <= number <= 1.0 or (below_one and number == 1.0):
                raise ValueError(f"{name} is {value!r}; it must lie in [0, 1{')' if below_one else ']'}")
        rounds = self.corrupted_rounds
        whole = isinstance(rounds, (int, np.integer)) and not isinstance(rounds, bool)
        if rounds is not None and not (whole and 0 <= rounds <= self.horizon):
            raise ValueError(f"corrupted_rounds is {rounds!r}; it must be a whole number from 0 to the "
                             f"horizon, {self.horizon}")  # fmt: skip

    def noise(self, rng: Random, n: int) -> dict[str, Array]:
        """Draw what a step of the input model needs besides the distribution's own noise."""
        return {"again": rng.uniform(n)} if self.input_model == "ergodic" else {}

    def drawn(self, before: Array, fresh: Array, noise: Mapping[str, Array]) -> Array:
        """Return the requests [n, columns] that come next, before any scaling.

        Args:
            before: the requests before, unscaled.
            fresh: draws from the distribution.
            noise: what :meth:`noise` drew.
        """
        if self.input_model != "ergodic":
            return fresh
        again = (noise["again"] < self.persistence)[:, None] & (fresh == fresh)  # [n, columns]
        again[:, self.problem.num_seen :] = False  # what is not seen is always new
        return before * again + fresh * ~again

    def scaled(self, requests: Array, t: Array, xp: Any) -> Array:
        """Return the requests [n, columns] as they come at the times ``t`` [n] (in their float type)."""
        k = self.problem.num_reward_columns
        rewards = requests[:, :k]
        if self.input_model == "periodic":
            rewards = rewards * (0.25 * (3.0 + xp.sin(t * (2.0 * math.pi / self.period))))[:, None]
        elif self.input_model == "drift":
            rise = (1.0 - self.drift_start) / self.horizon
            rewards = rewards * (self.drift_start + rise * t)[:, None]
        elif self.input_model == "corrupted":
            rounds = self.corrupted_rounds
            rounds = round(math.sqrt(self.horizon)) if rounds is None else rounds
            bound = float(self.problem.column_bounds()[1][0])  # of every reward column
            corrupted = (t < rounds)[:, None]
            rewards = xp.where(corrupted, xp.full_like(rewards, bound), rewards)
        else:
            return requests
        return xp.concat([rewards, requests[:, k:]], axis=1)


def check_requests(
    requests: Requests, problem: AllocationProblem, horizon: int | None
) -> NDArray[np.float64]:
    """Return requests [T, columns] from an array or a file, for :attr:`RequestStream.requests`.

    A CSV file has a header with the problem's ``columns``, in any order, and a row per request; an .npz file
    has an array per column, [T], or one array ``requests`` [T, columns].

    Raises:
        ValueError: if columns are missing or unknown, numbers are not finite or negative, nothing pays
            anything, or there are fewer or more requests than the horizon.
        FileNotFoundError: if there is no such file.
    """
    if isinstance(requests, (str, os.PathLike)):
        path = Path(requests)
        if path.suffix.lower() not in (".csv", ".npz"):
            raise ValueError(f"{path} is no file of requests: its name must end in .csv or .npz")
        read = _read_csv if path.suffix.lower() == ".csv" else _read_npz
        with reading(path, "file of requests"):
            table = read(path, problem.columns)
            return _checked(table, str(requests), problem, horizon)
    try:
        table = np.array(requests, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"requests is no array of numbers: {error}") from error
    return _checked(table, "requests", problem, horizon)


def _checked(
    table: NDArray[np.float64], place: str, problem: AllocationProblem, horizon: int | None
) -> NDArray[np.float64]:
    """Return a table of requests if it is one of the problem's, and as long as the horizon."""
    width = len(problem.columns)
    if table.ndim != 2 or table.shape[1] != width or not len(table):
        raise ValueError(f"{place} has shape {table.shape}; it must be [T, {width}], a column for each of "
                         f"{', '.join(problem.columns)}")  # fmt: skip
    if horizon is not None and len(table) != horizon:
        relation = "shorter" if horizon < len(table) else "longer"
        raise ValueError(f"the horizon, {horizon}, is {relation} than {place}, which has {len(table)} "
                         "requests: a horizon must serve all of them")  # fmt: skip
    largest = float(np.finfo(np.float32).max)  # observations are float32
    below = np.array([1.0 if name in problem.unit_columns else largest for name in problem.columns])
    wrong = ~((table >= 0.0) & (table < below))  # NaN is wrong too
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        allowed = "lie in [0, 1)" if below[column] == 1.0 else "be finite and not negative"
        what = f"{problem.columns[column]} of request {row}"
        raise ValueError(f"{place}: {what} is {table[row, column]}; it must {allowed}")
    if not table[:, : problem.num_reward_columns].any():
        raise ValueError(f"{place}: no request pays anything")
    table.flags.writeable = False
    return table


def _read_csv(path: Path, columns: tuple[str, ...]) -> NDArray[np.float64]:
    rows = read_table(path, "CSV file")
    if not rows:
        raise ValueError(f"{path} is empty; its first line must be {','.join(columns)}")
    header = [name.strip() for name in rows[0]]
    order = _order(path, header, columns)
    table = np.empty((len(rows) - 1, len(columns)))
    for index, row in enumerate(rows[1:]):
        if len(row) != len(header):
            raise ValueError(f"{path}: request {index} has {len(row)} entries; the header has {len(header)}")
        for column, place in enumerate(order):
            try:
                table[index, column] = float(row[place])
            except ValueError:
                what = f"{columns[column]} of request {index}"
                raise ValueError(f"{path}: {what} is {row[place]!r}; it must be a number") from None
    return table


def _order(path: Path, names: list[str], columns: tuple[str, ...]) -> list[int]:
    """Return where each column stands among the names."""
    if sorted(names) != sorted(columns):
        raise ValueError(f"{path} has the columns {', '.join(names)}; they must be {', '.join(columns)}")
    return [names.index(column) for column in columns]


def _read_npz(path: Path, columns: tuple[str, ...]) -> NDArray[np.float64]:
    arrays = read_npz(path, ".npz file of numbers")
    if set(arrays) == {"requests"}:
        return arrays["requests"].astype(np.float64)
    order = _order(path, list(arrays), columns)
    values = list(arrays.values())
    shapes = {array.shape for array in values}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"{path} has arrays of the shapes {sorted(shapes)}; all must be [T]")
    return np.stack([values[place].astype(np.float64) for place in order], axis=1)
