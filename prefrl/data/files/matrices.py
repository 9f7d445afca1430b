"""Matrices of games: comma-separated text, a line for each option; lines that begin with # say something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.preferences.games import check_preference_matrix
from prefrl.reading.errors import reading
from prefrl.reading.text import read_table

from .atomic import atomic_path


def read_matrix(path: Path, check: Callable[[Tensor], Tensor] = check_preference_matrix) -> Tensor:
    """Return the matrix [K, K] of a CSV file, float64.

    Args:
        path: the file.
        check: what is asked of it: that it is a preference matrix, or one of payoffs of any size
            (:func:`prefrl.functional.preferences.games.check_payoff_matrix`).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such matrix.
    """
    rows = [row for row in read_table(path, "matrix file") if not row[0].startswith("#")]
    with reading(path, "matrix file"):
        if len({len(row) for row in rows}) > 1 or len(rows) != len(rows[0] if rows else ()):
            raise ValueError(f"it has {len(rows)} rows of {sorted({len(row) for row in rows})} numbers; a "
                             "preference matrix is square")  # fmt: skip
        return check(torch.tensor([[float(entry) for entry in row] for row in rows], dtype=torch.float64))


def save_matrix(path: Path, matrix: Tensor) -> None:
    """Write a matrix [K, K] as :func:`read_matrix` reads it, to the last bit; whole or not at all."""
    with atomic_path(path) as file:
        np.savetxt(file, matrix.numpy(), delimiter=",", fmt="%.17g")
