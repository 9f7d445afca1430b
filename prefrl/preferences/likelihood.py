"""How well models explain people's answers: scales fitted to statistics of segments, cross-validated.

Rows are comparisons; the statistics are differences (second minus first segment) of partial return, V*(s_0)
and V*(s_n) under the reward that people were taught (Knox et al. 2022, section 5 and table 1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.preferences.logistic import logistic_regression
from prefrl.functional.preferences.preferences import preference_cross_entropy

DESIGNS = {
    "uninformed": torch.zeros(3, 0, dtype=torch.float64),
    "partial_return": torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64),
    "regret": torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64),
    "expanded": torch.eye(3, dtype=torch.float64),
}
"""[3, k] what each model makes of (dG, dV0, dVn): one scale, or a weight for each."""


def _design(model: str) -> Tensor:
    if model not in DESIGNS:
        raise ValueError(f"model is {model!r}; it must be one of {list(DESIGNS)}")
    return DESIGNS[model]


def fit_scale(statistics: Tensor, labels: Tensor, model: str) -> Tensor:
    """Return the weights [k] of a model of :data:`DESIGNS` that maximise the likelihood.

    Args:
        statistics: [N, 3] differences of partial return, V*(s_0) and V*(s_n).
        labels: [N] probability that the second segment is preferred.
        model: a key of :data:`DESIGNS`.
    """
    inputs = (statistics @ _design(model))[None]
    return logistic_regression(inputs, labels[None], torch.ones_like(labels)[None])[0]


def cross_entropy(statistics: Tensor, labels: Tensor, model: str, weights: Tensor) -> Tensor:
    """Return the cross-entropy [N] of each comparison under fitted weights [k]."""
    return preference_cross_entropy(statistics @ _design(model) @ weights, labels)


def cross_validated_cross_entropy(
    statistics: Tensor, labels: Tensor, model: str, *, folds: int = 10, repeats: int = 10, seed: int = 0
) -> float:
    """Return the mean test cross-entropy of a model over repeated k-fold cross-validation.

    All folds of all repeats are fitted as one batch.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer rows than folds, or fewer than 2 folds.
    """
    count = labels.shape[0]
    if statistics.shape != (count, 3):
        raise ValueError(f"statistics have shape {tuple(statistics.shape)}; they must be [{count}, 3]")
    if not 2 <= folds <= count or repeats < 1:
        raise ValueError(
            f"folds is {folds} and repeats {repeats}; there are {count} rows to split 2 or more ways"
        )
    rng = np.random.default_rng(seed)
    fold_of_row = np.stack([rng.permutation(np.arange(count) % folds) for _ in range(repeats)])
    test = torch.as_tensor(fold_of_row[:, None] == np.arange(folds)[:, None]).reshape(-1, count)
    inputs = (statistics @ _design(model)).expand(len(test), -1, -1)
    targets = labels.expand(len(test), -1)
    weights = logistic_regression(inputs, targets, (~test).to(torch.float64))
    entropy = preference_cross_entropy(torch.einsum("bnk,bk->bn", inputs, weights), targets)
    fold_means = (entropy * test).sum(-1) / test.sum(-1)
    return float(fold_means.mean())


def accuracy(statistics: Tensor, labels: Tensor, model: str) -> float:
    """Return the share of rows without tie where the model's only score prefers what the person preferred.

    Rows where the model is undecided count half.

    Raises:
        ValueError: if the model has more than one weight, so that it decides nothing before a fit.
    """
    if _design(model).shape[1] != 1:
        raise ValueError(f"model is {model!r}; accuracy needs one with a single scale")
    decided = labels != 0.5
    difference = (statistics @ DESIGNS[model])[decided, 0]
    right = (difference * (labels[decided] - 0.5)).sign()
    return float((0.5 + 0.5 * right).mean())
