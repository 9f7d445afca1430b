"""How well models predict answers that they were not fitted to: cross-validation over answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.preferences.preferences import preference_cross_entropy
from prefrl.preferences.general_models import (
    GPM,
    PAL,
    BradleyTerry,
    BradleyTerryConfig,
    Comparisons,
    GeneralModel,
    GPMConfig,
    PALConfig,
    Thurstone,
    ThurstoneConfig,
)

from .answers import kept_options, linked_options

ITERATIONS = 100
"""Of L-BFGS in each fit; more changed no held-out loss of a pilot by .002."""

MOST_SQUARED = 12
"""Features whose products are features of a model of their own."""


@dataclass(frozen=True)
class Candidate:
    """One model that is fitted."""

    make: Callable[[], GeneralModel]
    """Returns one that is not fitted."""
    kind: str
    """"scalar" (one reward), "general" (circles allowed) or "groups" (of users)."""
    squares: bool = False
    """Whether it is told products of features as well."""
    inputs: int = 1
    """Options (or features and 1) that it needs at least."""
    users: int = 1
    """Users that it needs at least."""


def candidates(
    comparisons: Comparisons, blocks: tuple[int, ...], prototypes: tuple[int, ...], seed: int
) -> dict[str, Candidate]:
    """Return the models that comparisons allow, by name.

    Priors are alike: margins of a deviation of 2 or so, on average, before anything was answered.

    Args:
        comparisons: what they are fitted to.
        blocks: numbers of planes of GPM; none: 1 and 2, as far as options allow.
        prototypes: numbers of ideals of PAL; none: 2, if there are two users.
        seed: of starts.

    Raises:
        ValueError: if the comparisons do not allow a number that was given.
    """
    features = comparisons.features
    inputs = comparisons.num_options if features is None else features.shape[1] + 1
    thurstone = ThurstoneConfig(max_iterations=ITERATIONS)
    found = {
        "bradley_terry": Candidate(partial(BradleyTerry, BradleyTerryConfig(ridge=0.5)), "scalar"),
        "thurstone": Candidate(partial(Thurstone, thurstone, seed=seed), "scalar"),
    }
    if features is not None and features.shape[1] <= MOST_SQUARED:
        found["bradley_terry_squares"] = replace(found["bradley_terry"], squares=True)
    for k in _allowed("blocks", blocks, (1, 2), inputs // 2, f"{inputs} inputs of options"):
        gpm = GPMConfig(blocks=k, normalise=False, temperature=1.0, ridge=1.0, starts=2,
                        max_iterations=ITERATIONS)  # fmt: skip
        found[f"gpm_{k}"] = Candidate(partial(GPM, gpm, seed=seed), "general", inputs=2 * k)
    users = comparisons.num_users
    for k in _allowed("prototypes", prototypes, (2,), users if users > 1 else 0, f"{users} users"):
        pal = PALConfig(prototypes=k, dimension=min(2, inputs), starts=4, max_iterations=ITERATIONS)
        # One ideal is one reward, the same for all users.
        found[f"pal_{k}"] = Candidate(partial(PAL, pal, seed=seed), "groups" if k > 1 else "scalar", users=k)
    return found


def _allowed(
    name: str, given: tuple[int, ...], usual: tuple[int, ...], most: int, what: str
) -> tuple[int, ...]:
    """Return the numbers given, if they can be, or those of the usual ones that can."""
    if not given:
        return tuple(k for k in usual if k <= most)
    for k in given:
        if k > most:
            raise ValueError(f"{name} is {k}; {what} allow at most {most}")
    return given


def told(comparisons: Comparisons, candidate: Candidate) -> Comparisons:
    """Return comparisons as a model is told of them: users only where it looks at them."""
    if candidate.kind != "groups":
        comparisons = replace(comparisons, users=None, num_users=1)
    if candidate.squares and comparisons.features is not None:
        i, j = torch.triu_indices(comparisons.features.shape[1], comparisons.features.shape[1])
        products = comparisons.features[:, i] * comparisons.features[:, j]
        comparisons = replace(comparisons, features=torch.cat([comparisons.features, products], 1))
    return comparisons


def folds_of(comparisons: Comparisons, count: int, generator: torch.Generator) -> Tensor:
    """Return which fold [N] each answer is in: of each user (of each pair, where there is one) as many.

    Raises:
        ValueError: if there are fewer answers than folds.
    """
    if not 2 <= count <= len(comparisons):
        raise ValueError(f"folds is {count}; it must lie in 2 to {len(comparisons)}, the answers")
    noise = torch.rand(len(comparisons), generator=generator).numpy()
    group = comparisons.user if comparisons.num_users > 1 else pair_of(comparisons)[0]
    order = torch.from_numpy(np.lexsort((noise, group.numpy())))
    folds = torch.empty(len(comparisons), dtype=torch.int64)
    folds[order] = torch.arange(len(comparisons)) % count
    return folds


def pair_of(comparisons: Comparisons) -> tuple[Tensor, Tensor]:
    """Return which pair [N] each answer is about, 0 to M - 1, and its label about the larger option [N]."""
    low = torch.minimum(comparisons.first, comparisons.second)
    high = torch.maximum(comparisons.first, comparisons.second)
    pair = torch.unique(low * comparisons.num_options + high, return_inverse=True)[1]
    turned = comparisons.first > comparisons.second
    return pair, torch.where(turned, 1.0 - comparisons.labels, comparisons.labels)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of answers that it was not fitted to."""

    losses: Tensor
    """[N] cross-entropy, in nats."""
    hits: Tensor
    """[N] 1 if it names the answer, 0 if the other; half of that between where either is a tie."""
    weights: Tensor
    """[N]."""

    @property
    def log_loss(self) -> float:
        """Mean cross-entropy."""
        return float((self.weights * self.losses).sum() / self.weights.sum())

    @property
    def accuracy(self) -> float:
        """Share of answers that it names."""
        return float((self.weights * self.hits).sum() / self.weights.sum())

    def ahead_of(self, other: Prediction) -> tuple[float, float]:
        """Return how much less it loses than another, per answer, and the standard error of that."""
        gain = other.losses - self.losses
        share = self.weights / self.weights.sum()
        mean = (share * gain).sum()
        return float(mean), float((share * (gain - mean)).square().sum().sqrt())


def coin(comparisons: Comparisons) -> Prediction:
    """Return the prediction that knows nothing."""
    return _prediction(torch.zeros_like(comparisons.labels), comparisons)


def _prediction(margins: Tensor, comparisons: Comparisons) -> Prediction:
    losses = preference_cross_entropy(margins, comparisons.labels)
    hits = 0.5 + margins.sign() * (comparisons.labels - 0.5)
    return Prediction(losses, hits, comparisons.counts)


def held_out(
    comparisons: Comparisons, models: Mapping[str, Candidate], folds: Tensor,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Prediction]:  # fmt: skip
    """Return by model the prediction of each answer, by a fit to the other folds.

    What the other folds say nothing about, an option, a user or a link, is predicted by a coin.

    Args:
        comparisons: N answers.
        models: by name.
        folds: [N] int64.
        report: called after each fit.
    """
    margins = {name: torch.zeros_like(comparisons.labels) for name in models}
    for fold in torch.unique(folds).tolist():
        fitted, asked = comparisons[folds != fold], folds == fold
        options = torch.ones(comparisons.num_options, dtype=torch.bool)
        if comparisons.features is None:
            options = linked_options(fitted)
        fitted, _ = kept_options(fitted, options)
        for name, candidate in models.items():
            users = torch.zeros(comparisons.num_users, dtype=torch.bool)
            users[fitted.user] = True
            known = asked & options[comparisons.first] & options[comparisons.second]
            if candidate.kind == "groups":
                known &= users[comparisons.user]
            if bool(known.any()):
                margins[name][known] = _margins(candidate, fitted, comparisons[known], options, users)
            report()
    return {name: _prediction(value, comparisons) for name, value in margins.items()}


def _margins(
    candidate: Candidate, fitted: Comparisons, asked: Comparisons, options: Tensor, users: Tensor
) -> Tensor:
    """Return the margins [N] of what is asked, by a fit to answers about those options and of those users."""
    asked, _ = kept_options(asked, options)
    fitted, asked = (told(part, candidate) for part in (fitted, asked))
    if candidate.kind == "groups":
        place = users.cumsum(0) - 1
        fitted, asked = (
            replace(part, users=place[part.user], num_users=int(users.sum())) for part in (fitted, asked)
        )
    features = fitted.features
    inputs = fitted.num_options if features is None else features.shape[1] + 1
    if inputs < candidate.inputs or fitted.num_users < candidate.users:
        return torch.zeros_like(asked.labels)
    model = candidate.make()
    model.fit(fitted)
    return model.margins(asked)
