"""Whether people agree: answers of different people to the same pair, and who differs from the rest.

Sources: Krippendorff, "Content Analysis" (alpha); Cohen 1960, "A coefficient of agreement for nominal
scales", and 1968, "Weighted kappa"; permutation tests as in Good, "Permutation, Parametric, and
Bootstrap Tests of Hypotheses".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 1000
"""Labels are told apart in steps of 1 / 1000."""


class Agreement(NamedTuple):
    """How far people agree."""

    share: float
    """1 - |difference|, on average over pairs of answers to one question by two people: the share of pairs
    that agree where labels are 0 and 1; a tie agrees by half with either."""
    alpha: float | None
    """Krippendorff's alpha with squared differences: 1 agreement, 0 as by chance; None if all answers are
    ties."""
    answer_pairs: int
    """Pairs of answers that were compared."""


def agreement(pair: Tensor, labels: Tensor, users: Tensor) -> Agreement | None:
    """Return how far different people agree; None if no question was answered by two.

    By chance one would expect two answers drawn from all, each of which may be turned round: which option of
    a pair is called the first says nothing. Alpha is then 1 - (mean squared difference of two answers to a
    question) / (that of two random ones, without the
    published correction for few answers); a question with m answers counts m times in it, as published, and
    each pair of its answers the same.

    Args:
        pair: [N] int64 which question it was, 0 to P - 1.
        labels: [N] in [0, 1], all turned so that they are about the same option of the pair.
        users: [N] int64.
    """
    answers = _answers(pair, users, labels)
    questions, _, value, count = answers
    size = int(questions.max()) + 1
    of_all = _differences(questions, value, count, size)
    # Two answers of one person are no agreement of people.
    person = torch.unique(torch.stack([questions, answers[1]]), dim=1, return_inverse=True)[1]
    place = torch.zeros(int(person.max()) + 1, dtype=torch.int64).scatter(0, person, questions)
    of_one = _differences(person, value, count, len(place))
    pairs, absolute, squared = (
        every - torch.zeros_like(every).index_add_(0, place, same)
        for every, same in zip(of_all, of_one, strict=True)
    )
    several = pairs > 0.5
    if not bool(several.any()):
        return None
    share = 1.0 - float(absolute[several].sum() / pairs[several].sum())
    answered = torch.zeros(size, dtype=torch.float64).index_add_(0, questions, count)[several]
    observed = float((answered * squared[several] / pairs[several]).sum() / answered.sum())
    kept = several[questions]
    total = count[kept].sum()
    centred = value[kept] - 0.5
    # Of two different answers, each turned or not: E (x - y)^2 = 2 E c^2, as c has mean 0 either way.
    expected = float(2.0 * (count[kept] * centred.square()).sum() / total)
    return Agreement(share, 1.0 - observed / expected if expected > 0.0 else None, int(pairs.sum()))


def cohen_kappa(first: Tensor, second: Tensor, *, squared: bool = False) -> float | None:
    """Return Cohen's kappa of two people who answered the same questions: 1 agreement, 0 as by chance.

    It is 1 - (how far the two differ) / (how far answers drawn from each by itself would).

    Args:
        first: [N] answers of one person.
        second: [N] answers of the other.
        squared: whether answers differ by their squared distance, as on a scale, instead of all alike.

    Returns:
        None if there is no question, or both always gave one and the same answer.

    Raises:
        ValueError: if the two are no vectors of the same length.

    Source: Cohen 1960, equation 1; 1968, equation 8, with squared weights.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"first and second have shapes {list(first.shape)} and {list(second.shape)}; both "
                         "must be [N]")  # fmt: skip
    if not len(first):
        return None
    first, second = first.double(), second.double()
    if squared:
        differ = (first - second).square().mean()
        expected = first.square().mean() + second.square().mean() - 2.0 * first.mean() * second.mean()
    else:
        differ = (first != second).double().mean()
        values = torch.unique(torch.cat([first, second]))
        shares = [(answers[:, None] == values).double().mean(0) for answers in (first, second)]
        expected = 1.0 - (shares[0] * shares[1]).sum()
    return 1.0 - float(differ / expected) if float(expected) > 1e-12 else None


def _answers(pair: Tensor, users: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return questions, people, values and how often each came."""
    steps = (labels * STEPS).round().to(torch.int64)
    keys, count = torch.unique(torch.stack([pair, users, steps]), dim=1, return_counts=True)
    return keys[0], keys[1], keys[2].double() / STEPS, count.double()


def _differences(group: Tensor, value: Tensor, count: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pairs of answers within each group [G], their absolute and their squared differences."""
    sums = [torch.zeros(groups, dtype=torch.float64).index_add_(0, group, part)
            for part in (count, count * value, count * value.square())]  # fmt: skip
    pairs = 0.5 * (sums[0].square() - torch.zeros_like(sums[0]).index_add_(0, group, count))
    squared = (sums[0] * sums[2] - sums[1].square()).clamp(min=0.0)
    # Of sorted values, each is larger than all before it: sum (2 x rank - n) x value, with counts.
    order = torch.argsort(value, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    group, value, count = group[order], value[order], count[order]
    ends = count.cumsum(0)
    before = ends - count
    starts = torch.full((groups,), torch.inf, dtype=torch.float64).scatter_reduce(0, group, before, "amin")
    below = before - starts[group]
    above = sums[0][group] - below - count
    absolute = torch.zeros(groups, dtype=torch.float64).index_add_(0, group, count * value * (below - above))
    return pairs, absolute.clamp(min=0.0), squared


def user_scores(slopes: Tensor, residuals: Tensor, users: Tensor, num_users: int) -> Tensor:
    """Return sum_u |sum_n r_n x_n|^2 [B]: how far the answers of each user pull away from what all say.

    Args:
        slopes: [N, P] x, the derivatives of the margins in the parameters that all users share.
        residuals: [B, N] r, label minus what is usual for the question.
        users: [N] int64.
        num_users: U.
    """
    pulls = residuals.new_zeros(len(residuals), num_users, slopes.shape[1])
    for column in range(slopes.shape[1]):  # B x N numbers at a time, not B x N x P
        pulls[:, :, column].index_add_(1, users, residuals * slopes[:, column])
    return pulls.square().sum((1, 2))


def permuted(pair: Tensor, copies: int, generator: torch.Generator) -> Tensor:
    """Return permutations [copies, N] of answers, each of which exchanges answers to the same question only.

    Args:
        pair: [N] int64 which question it was.
        copies: permutations.
        generator: draws.
    """
    home = torch.argsort(pair, stable=True)
    noise = torch.rand(copies, len(pair), generator=generator, dtype=torch.float64)
    shuffled = torch.argsort(noise, 1)
    order = torch.gather(shuffled, 1, torch.argsort(pair[shuffled], dim=1, stable=True))
    found = torch.empty_like(order)
    found[:, home] = order
    return found
