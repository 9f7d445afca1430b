"""What label models are for, on linear and tabular models; thresholds as in the papers' summaries or piloted."""

import itertools
import math

import pytest
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from prefrl.data import Preferences, Segments, concatenate_preferences
from prefrl.functional.preferences.label_models import rationale_log_likelihood, robust_labels, smooth_labels
from prefrl.functional.preferences.logistic import logistic_regression
from prefrl.preferences.label_models import (
    AnchorRanking,
    DensityRatio,
    DropoutFilter,
    DynamicLabels,
    EnsembleVote,
    MultiLevelPairs,
    Rationale,
    RobustFlips,
)

SEEDS = range(20)


def one_step(features: Tensor) -> Segments:
    """Segments of one transition with reward features [N, F]."""
    n = len(features)
    nothing = torch.zeros(n, dtype=torch.int64)
    return Segments(
        nothing[:, None].expand(n, 2), nothing[:, None], nothing + 1, nothing > 0, features.double()[:, None]
    )


def linear_pairs(difference: Tensor, labels: Tensor) -> Preferences:
    """Comparisons of a segment without features and one with these."""
    return Preferences.from_labels(one_step(torch.zeros_like(difference)), one_step(difference), labels)


def differences(preferences: Preferences) -> Tensor:
    """[N, F] features of the second segment minus those of the first."""
    first, second = preferences.first.features, preferences.second.features
    assert first is not None
    assert second is not None
    return (second - first).sum(1)


def fitted(preferences: Preferences, *, ridge: float = 0.0) -> Tensor:
    """[F] weights of Bradley-Terry on features."""
    x, y, w = differences(preferences), preferences.labels, preferences.weights
    return logistic_regression(x[None], y[None], w[None], ridge=ridge)[0]


def linear_score(weights: Tensor):
    """Score [K, N] of segments under weights [K, F]."""
    return lambda segments: torch.einsum("nlf,kf->kn", segments.features, weights)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flip(labels: Tensor, share: float, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Labels of which a share is turned round, and which ones."""
    wrong = torch.rand(len(labels), generator=g, dtype=torch.float64) < share
    return torch.where(wrong, 1.0 - labels, labels), wrong


# A2: labels outside [0, 1] ------------------------------------------------------------------------------


def robust_errors(seed: int, epsilon: float = 0.3) -> dict[str, float]:
    """Relative errors of weights |w| = sqrt 2 fitted to 4,000 labels of which 30 % are turned round."""
    g = generator(seed)
    truth = torch.randn(5, generator=g, dtype=torch.float64)
    truth *= math.sqrt(2.0) / truth.norm()
    x = torch.randn(4000, 5, generator=g, dtype=torch.float64)
    clean = (torch.rand(4000, generator=g, dtype=torch.float64) < torch.sigmoid(x @ truth)).double()
    noisy, _ = flip(clean, epsilon, g)
    pairs = linear_pairs(x, noisy)
    smooth = Preferences.from_labels(pairs.first, pairs.second, smooth_labels(noisy, epsilon))
    fits = {"plain": pairs, "robust": RobustFlips(epsilon)(pairs), "smooth": smooth}
    return {name: float((fitted(p) - truth).norm() / truth.norm()) for name, p in fits.items()}


# B2: votes ----------------------------------------------------------------------------------------------


def vote_shares(seed: int) -> tuple[float, float, float, float, float]:
    """Shares of wrong labels in the weakest decile, fifth, and the strongest half; before and after flips."""
    g = generator(seed)
    truth = torch.randn(5, generator=g, dtype=torch.float64)
    x = torch.randn(2000, 5, generator=g, dtype=torch.float64)
    right = (x @ truth > 0).double()
    labels, wrong = flip(right, 0.2, g)
    drawn = torch.poisson(torch.ones(10, 2000, dtype=torch.float64), generator=g)
    members = logistic_regression(x.expand(10, -1, -1), labels.expand(10, -1), drawn)
    vote = EnsembleVote(linear_score(members), "flip", flip_share=0.2)
    pairs = linear_pairs(x, labels)
    order = vote.strength(pairs).argsort()
    share = [float(wrong[order[part]].double().mean()) for part in (slice(200), slice(400), slice(1000, None))]
    after = float((vote(pairs).labels != right).double().mean())
    return share[0], share[1], share[2], float(wrong.double().mean()), after


# B1: dropout --------------------------------------------------------------------------------------------


def dropout_rates(seed: int, *, random_flips: bool) -> tuple[float, float]:
    """Shares of wrong labels among 2,000 pseudo-labelled pairs, and in the half that is kept."""
    g = generator(seed)
    truth = torch.randn(20, generator=g, dtype=torch.float64)
    x = torch.randn(2100, 20, generator=g, dtype=torch.float64)
    right = (x @ truth > 0).double()
    model = fitted(linear_pairs(x[:100], right[:100]), ridge=0.05)
    pseudo = (x[100:] @ model > 0).double()
    if random_flips:
        pseudo, _ = flip(right[100:], 0.25, g)
    else:  # a learned reward that is wrong about as often
        rough = fitted(linear_pairs(x[:30], right[:30]), ridge=0.05)
        pseudo = (x[100:] @ rough > 0).double()
        model = rough
    kept = torch.bernoulli(torch.full((10, 20), 0.7, dtype=torch.float64), generator=g) / 0.7
    pairs = linear_pairs(x[100:], pseudo)
    marked = Preferences.from_labels(pairs.first, pairs.second, (pseudo != right[100:]).double())
    chosen = DropoutFilter(linear_score(model * kept), 0.5, smooth=False)(marked)
    return float(marked.labels.mean()), float(chosen.labels.mean())


# A6: reasons --------------------------------------------------------------------------------------------


def rationale_accuracies(seed: int) -> tuple[float, float, float]:
    """Held-out accuracy of 60 pairs, each decided by one of 20 features: alone, weight 0, with reasons."""
    g = generator(seed)
    truth = torch.randn(20, generator=g, dtype=torch.float64)
    x = torch.randn(2060, 20, generator=g, dtype=torch.float64)
    decided = (x * truth).abs().argmax(1)
    labels = ((x * truth).gather(1, decided[:, None])[:, 0] > 0).double()
    pairs = linear_pairs(x[:60], labels[:60])
    found = []
    for weight in (None, 0.0, 1.0):
        data = pairs if weight is None else Rationale("factor", decided[:60], weight)(pairs)
        w = fitted(data, ridge=0.01)
        found.append(float(((x[60:] @ w > 0) == (labels[60:] > 0.5)).double().mean()))
    return found[0], found[1], found[2]


if __name__ == "__main__":
    import time

    t = time.time()
    for seed in SEEDS:
        print("A2", seed, robust_errors(seed))
    print(time.time() - t)
    for seed in SEEDS:
        print("B2", seed, vote_shares(seed))
    print(time.time() - t)
    for seed in SEEDS:
        print("B1", seed, dropout_rates(seed, random_flips=False), dropout_rates(seed, random_flips=True))
    print(time.time() - t)
    for seed in SEEDS:
        print("A6", seed, rationale_accuracies(seed))
    print(time.time() - t)
