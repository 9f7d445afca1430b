"""Symmetric zero-sum games that preferences make: who beats whom, and by how much.

A preference matrix P [K, K] is antisymmetric with entries in [-1, 1]: P[i, j] = 2 Pr(i is preferred to j) -
1. It may be intransitive. What is always there is a minimax winner (von Neumann winner), a mixture p* in
argmax_p min_q p P q, of value 0. Playing one no-regret learner against its own iterates finds it (SPO, Swamy
et al. 2024, arXiv 2401.04056): since p P p = 0, the exploitability of the average is the average regret.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-9
"""How far from antisymmetric a preference matrix may be."""


def check_preference_matrix(matrix: Tensor) -> Tensor:
    """Return a preference matrix [K, K] as float64.

    Raises:
        ValueError: if it is not square, of at least 2 options, antisymmetric, and within [-1, 1].
    """
    matrix = _check_square(matrix, "preference matrix")
    if not bool(torch.isfinite(matrix).all()) or float(matrix.abs().max()) > 1.0:
        raise ValueError("the preference matrix has entries outside [-1, 1]")
    return _check_antisymmetric(matrix, "preference matrix", TOLERANCE)


def check_payoff_matrix(matrix: Tensor) -> Tensor:
    """Return a matrix of payoffs [K, K], of any size, as float64.

    Raises:
        ValueError: if it is not square, of at least 2 options, finite, and antisymmetric.
    """
    matrix = _check_square(matrix, "payoff matrix")
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the payoff matrix has entries that are not finite")
    return _check_antisymmetric(matrix, "payoff matrix", TOLERANCE * max(1.0, float(matrix.abs().max())))


def _check_square(matrix: Tensor, name: str) -> Tensor:
    if matrix.is_complex():
        raise ValueError(f"the {name} has dtype {matrix.dtype}; it must be of real numbers")
    matrix = matrix.to(torch.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"the {name} has shape {list(matrix.shape)}; it must be [K, K], K at least 2")
    return matrix


def _check_antisymmetric(matrix: Tensor, name: str, tolerance: float) -> Tensor:
    wrong = torch.nonzero((matrix + matrix.T).abs() > tolerance)
    if len(wrong):
        i, j = wrong[0].tolist()
        hint = ""
        if bool(((matrix + matrix.T - 1.0).abs() <= tolerance).all()):
            wanted = "p - 1/2" if name == "payoff matrix" else "2 p - 1"
            hint = f"; these look like probabilities p: give {wanted}"
        raise ValueError(f"the {name} is not antisymmetric: entry ({i}, {j}) is "
                         f"{float(matrix[i, j])} and ({j}, {i}) is {float(matrix[j, i])}{hint}")  # fmt: skip
    return matrix


def cycle_of_three(first: float, second: float, third: float) -> Tensor:
    """Return P [3, 3] where 0 beats 1 by ``first``, 1 beats 2 by ``second``, and 2 beats 0 by ``third``.

    Its minimax winner is proportional to (second, third, first).
    """
    a, c, b = first, second, third
    return torch.tensor([[0.0, a, -b], [-a, 0.0, c], [b, -c, 0.0]], dtype=torch.float64)


def exploitability(matrix: Tensor, policy: Tensor) -> Tensor:
    """Return max_q q P p [...], what the best answer wins against mixtures p [..., K]; 0 for a winner."""
    return (policy @ matrix.T).amax(-1)


def minimax_winner(matrix: Tensor) -> Tensor:
    """Return a minimax winner [K], by linear programming: maximise v subject to p P >= v for every column.

    Where there are several, it is one of them.

    Raises:
        ValueError: if the matrix is no preference matrix.
    """
    from scipy.optimize import linprog

    payoff = check_preference_matrix(matrix).numpy()
    k = len(payoff)
    objective = np.append(np.zeros(k), -1.0)
    found = linprog(objective, A_ub=np.hstack([-payoff.T, np.ones((k, 1))]), b_ub=np.zeros(k),
                    A_eq=np.append(np.ones(k), 0.0)[None], b_eq=[1.0],
                    bounds=[(0.0, 1.0)] * k + [(None, None)])  # fmt: skip
    return torch.as_tensor(found.x[:k]).clamp(min=0.0)


def hedge_rate(num_options: int, rounds: int) -> float:
    """Return the learning rate sqrt(2 ln K / T) of Hedge for payoffs in [-1, 1]."""
    return math.sqrt(2.0 * math.log(num_options) / rounds)


def hedge_step(log_weights: Tensor, payoffs: Tensor, rate: float) -> Tensor:
    """Return the logarithms [..., K] of Hedge's mixture after payoffs [..., K], normalised."""
    return log_normalised(torch.add(log_weights, payoffs, alpha=rate))


def log_normalised(scores: Tensor) -> Tensor:
    """Return ``log_softmax(scores, -1)`` [..., K], in the order in memory that scores [..., K] have.

    Where games lie side by side (see :func:`prefrl.functional.preferences.game_steps.games_last`) all of them
    are added up at once, which of few options takes a sixth of the time.
    """
    if scores.ndim == 2 and scores.stride(0) == 1:
        return torch.log_softmax(scores.T, 0).T
    return torch.log_softmax(scores, -1)


def normalised(scores: Tensor) -> Tensor:
    """Return ``softmax(scores, -1)`` [..., K], in the order in memory that scores have, as above."""
    if scores.ndim == 2 and scores.stride(0) == 1:
        return torch.softmax(scores.T, 0).T
    return torch.softmax(scores, -1)


def bradley_terry(wins: Tensor, *, prior: float = 2.0, iterations: int = 40) -> Tensor:
    """Return utilities [K], of mean 0, that explain best how often each option beat each other.

    P(i beats j) = logistic(u_i - u_j). The fixed point is that of Newman (2023, Journal of Machine Learning
    Research 24(238)): s_i = sum_j w_ij s_j / (s_i + s_j) / sum_j w_ji / (s_i + s_j) for s = exp(u), option
    after option, each with the strengths that are known by then.

    Args:
        wins: [K, K] how often the row was preferred to the column.
        prior: wins that each option is given, and as many losses, spread evenly over the others, above 0:
            they keep utilities finite, and do not grow with the number of pairs.
        iterations: of the fixed point. 6 to 37 brought utilities within 1e-8 where we tried; options that
            nearly always win need more.
    """
    k = len(wins)
    apart = 1.0 - torch.eye(k, dtype=wins.dtype, device=wins.device)
    wins = (wins + prior / max(k - 1, 1)) * apart
    lost = wins.T.contiguous()
    strength = torch.ones(k, dtype=wins.dtype, device=wins.device)
    for _ in range(iterations):
        for i in range(k if k > 1 else 0):
            share = 1.0 / (strength[i] + strength)
            strength[i] = (wins[i] @ (strength * share)) / (lost[i] @ share)
        strength = strength / strength.log().mean().exp()
    utilities = strength.log()
    return utilities - utilities.mean()


def win_rates(preferences: Tensor) -> Tensor:
    """Return the mean preference [n] of n trajectories over B others, of P [n, B]; 0 where B is 0."""
    return preferences.mean(1) if preferences.shape[1] else preferences.new_zeros(len(preferences))
