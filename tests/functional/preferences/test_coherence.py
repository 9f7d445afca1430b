"""Circles of three, agreement and turned answers, against numbers by hand and slow twins."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from prefrl.functional.preferences.general_models.agreement import (
    agreement,
    cohen_kappa,
    permuted,
    user_scores,
)
from prefrl.functional.preferences.general_models.lapses import (
    flip_rate,
    lapse_log_likelihood,
    lapse_rate,
)
from prefrl.functional.preferences.general_models.triads import (
    circles,
    compared_triads,
    drawn_wins,
    majority_deviance,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# Circles ------------------------------------------------------------------------------------------------


def test_deviance_by_hand() -> None:
    found = majority_deviance(doubles(8.0, 2.0, 5.0, 10.0), doubles(10.0, 10.0, 10.0, 10.0))
    eight = 2.0 * (8.0 * math.log(1.6) + 2.0 * math.log(0.4))
    np.testing.assert_allclose(found, [eight, -eight, 0.0, 20.0 * math.log(2.0)], rtol=1e-12)


def test_one_circle_among_four() -> None:
    """0 < 1 < 2 < 0 goes round, and 3 is beaten by all."""
    first, second = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 2, 3, 2, 3, 3])
    triads = compared_triads(first, second, 100, generator(0))
    assert len(triads) == 4
    counts = torch.full((6,), 10.0, dtype=torch.float64)
    wins = doubles(9.0, 2.0, 0.0, 8.0, 1.0, 0.0)
    cyclic, directed, clearest = circles(wins[None], counts, triads)
    assert (int(cyclic), int(directed)) == (1, 4)
    np.testing.assert_allclose(clearest, -majority_deviance(wins[1:2], counts[:1]))
    turned = circles((10.0 - wins)[None], counts, triads)
    assert (int(turned[0]), int(turned[1])) == (1, 4)
    tied = wins.clone()
    tied[0] = 5.0  # 0 and 1 are in two triads, which have no direction
    assert [int(part) for part in circles(tied[None], counts, triads)[:2]] == [0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_triads_against_all_triples(seed: int) -> None:
    g = generator(seed)
    pairs = [pair for pair in combinations(range(9), 2) if float(torch.rand((), generator=g)) < 0.7]
    order = torch.randperm(len(pairs), generator=g)
    first, second = torch.tensor(pairs)[order].T
    place = {(int(a), int(b)): i for i, (a, b) in enumerate(zip(first, second, strict=True))}
    wanted = {(place[a, b], place[b, c], place[a, c]) for a, b, c in combinations(range(9), 3)
              if {(a, b), (b, c), (a, c)} <= place.keys()}  # fmt: skip
    found = compared_triads(first, second, 1000, g)
    assert {tuple(row) for row in found.tolist()} == wanted
    assert len(found) == len(wanted)
    fewer = compared_triads(first, second, 10, g)
    assert len({tuple(row) for row in fewer.tolist()} & wanted) == 10
    wins = torch.randint(0, 4, (3, len(pairs)), generator=g).double()
    counts = torch.full((len(pairs),), 3.0, dtype=torch.float64)
    cyclic, _, _ = circles(wins, counts, found)
    for row, count in zip(wins, cyclic, strict=True):
        beats = {(b, a): w > 1.5 for (a, b), w in zip(((int(a), int(b)) for a, b in zip(first, second,
                 strict=True)), row.tolist(), strict=True)}  # fmt: skip
        up = [(beats[b, a], beats[c, b], not beats[c, a]) for a, b, c in combinations(range(9), 3)
              if {(a, b), (b, c), (a, c)} <= place.keys()]  # fmt: skip
        assert int(count) == sum(all(each) or not any(each) for each in up)


def test_equally_good_options_go_round_in_a_quarter_of_triads() -> None:
    first, second = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    counts = torch.full((3,), 9.0, dtype=torch.float64)
    wins = drawn_wins(counts / 18.0, counts, torch.zeros_like(counts), 20_000, generator(1))
    cyclic, directed, _ = circles(wins, counts, compared_triads(first, second, 10, generator(1)))
    assert int(directed.min()) == 1
    assert float(cyclic.double().mean()) == pytest.approx(0.25, abs=0.012)  # four standard errors


def test_drawn_answers_keep_counts_and_ties() -> None:
    wins = drawn_wins(doubles(1.0, 0.0, 0.5), doubles(6.0, 6.0, 4.0), doubles(2.0, 2.0, 4.0), 3, generator(0))
    assert wins.tolist() == [[5.0, 1.0, 2.0]] * 3


# Agreement ----------------------------------------------------------------------------------------------


def twin_agreement(pair: list[int], labels: list[float], users: list[int]) -> tuple[float, float, int]:
    """Share, alpha and pairs, answer by answer."""
    same, squared, weights, seen = [], [], [], []
    for question in set(pair):
        rows = [i for i, each in enumerate(pair) if each == question]
        two = [(i, j) for i, j in combinations(rows, 2) if users[i] != users[j]]
        same += [1.0 - abs(labels[i] - labels[j]) for i, j in two]
        if two:
            squared.append(sum((labels[i] - labels[j]) ** 2 for i, j in two) / len(two))
            weights.append(len(rows))
            seen += [value for i in rows for value in (labels[i], 1.0 - labels[i])]
    expected = sum((a - b) ** 2 for a in seen for b in seen) / len(seen) ** 2
    observed = sum(w * s for w, s in zip(weights, squared, strict=True)) / sum(weights)
    return sum(same) / len(same), 1.0 - observed / expected, len(same)


@pytest.mark.parametrize("seed", range(6))
def test_agreement_against_all_pairs_of_answers(seed: int) -> None:
    g = generator(seed)
    pair, users = torch.randint(5, (40,), generator=g), torch.randint(4, (40,), generator=g)
    labels = torch.randint(3, (40,), generator=g).double() / 2.0
    found = agreement(pair, labels, users)
    assert found is not None
    twin = twin_agreement(pair.tolist(), labels.tolist(), users.tolist())
    np.testing.assert_allclose(found, twin, rtol=1e-9)


def test_agreement_of_those_who_agree_and_of_one() -> None:
    pair, users = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert agreement(pair, doubles(1.0, 1.0, 0.0, 0.0), users) == (1.0, 1.0, 2)
    assert agreement(pair, doubles(1.0, 0.0, 0.0, 1.0), users) == (0.0, -1.0, 2)
    assert agreement(pair, doubles(0.5, 0.5, 0.5, 0.5), users) == (1.0, None, 2)
    assert agreement(pair, doubles(1.0, 1.0, 0.0, 0.0), torch.zeros_like(users)) is None
    assert agreement(torch.arange(4), doubles(1.0, 1.0, 0.0, 0.0), users) is None


def test_permutations_stay_within_a_question() -> None:
    pair = torch.tensor([2, 0, 1, 0, 2, 2, 1])
    found = permuted(pair, 200, generator(0))
    assert bool((pair[found] == pair).all())
    assert bool((found.sort(1).values == torch.arange(7)).all())
    assert {tuple(row) for row in found[:, [0, 4, 5]].tolist()} == {
        (0, 4, 5), (0, 5, 4), (4, 0, 5), (4, 5, 0), (5, 0, 4), (5, 4, 0),
    }  # fmt: skip


def test_scores_of_users_by_hand() -> None:
    slopes = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    residuals = torch.tensor([[0.5, -0.5, 1.0]], dtype=torch.float64)
    # User 0: .5 (1, 0) - .5 (0, 2) = (.5, -1); user 1: (1, 1).
    assert user_scores(slopes, residuals, torch.tensor([0, 0, 1]), 3).tolist() == [0.25 + 1.0 + 2.0]


# Turned answers -----------------------------------------------------------------------------------------


def test_likelihood_of_lapses_by_hand() -> None:
    found = lapse_log_likelihood(doubles(math.log(3.0))[None], doubles(0.1), doubles(0.25), doubles(4.0))
    assert float(found) == pytest.approx(math.log(0.1 + 0.8 * 0.75) + 3.0 * math.log(0.1 + 0.8 * 0.25))


@pytest.mark.parametrize("rate", [0.0, 0.15])
def test_an_order_with_turned_answers(rate: float) -> None:
    first, second = torch.triu_indices(6, 6, 1)
    slopes = torch.eye(6, dtype=torch.float64)[second] - torch.eye(6, dtype=torch.float64)[first]
    found = lapse_rate(slopes, torch.full((15,), 1.0 - rate, dtype=torch.float64),
                       torch.full((15,), 100.0, dtype=torch.float64))  # fmt: skip
    assert found.rate == pytest.approx(rate, abs=0.011)  # the grid's step
    assert found.low <= found.rate <= found.high


def test_uncertain_answers_are_not_turned_ones() -> None:
    first, second = torch.triu_indices(6, 6, 1)
    slopes = torch.eye(6, dtype=torch.float64)[second] - torch.eye(6, dtype=torch.float64)[first]
    labels = torch.sigmoid(slopes @ torch.linspace(-2.0, 2.0, 6, dtype=torch.float64))
    assert lapse_rate(slopes, labels, torch.full((15,), 1000.0, dtype=torch.float64)).rate == 0.0


def test_flips_from_repeats() -> None:
    assert flip_rate(2.0 * 0.1 * 0.9) == pytest.approx(0.1)
    assert flip_rate(0.0) == 0.0
    assert flip_rate(0.5) == 0.5
    assert flip_rate(0.6) is None


def test_cohen_kappa_by_hand() -> None:
    # Cohen 1960's kind of table: 20 and 15 of 50 alike, 30 of 50 against 25 of 50 say yes.
    table = {(1, 1): 20, (1, 0): 10, (0, 1): 5, (0, 0): 15}
    first, second = (torch.tensor([pair[side] for pair, count in table.items() for _ in range(count)])
                     for side in (0, 1))  # fmt: skip
    assert cohen_kappa(first, second) == pytest.approx((0.7 - 0.5) / (1.0 - 0.5))
    assert cohen_kappa(first, first) == 1.0
    # On a scale each pair of answers is 1 apart; by chance (x - y)^2 is the mean over all nine pairs.
    one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 2.0])
    chance = sum((a - b) ** 2 for a in (1, 2, 3) for b in (2, 3, 2)) / 9
    assert cohen_kappa(one, other, squared=True) == pytest.approx(1.0 - 1.0 / chance)


def test_cohen_kappa_without_chance() -> None:
    assert cohen_kappa(torch.ones(4), torch.ones(4)) is None
    assert cohen_kappa(torch.ones(0), torch.ones(0)) is None
    assert cohen_kappa(torch.ones(3), torch.zeros(3)) == 0.0  # as by chance: each always says the same
    with pytest.raises(ValueError, match="both must be"):
        cohen_kappa(torch.ones(3), torch.ones(4))
