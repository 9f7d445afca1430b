"""Objectives of distributions: values by hand, what they declare, and that the declarations hold."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from prefrl.functional.returns.objectives import (
    MEAN,
    Clipped,
    Exponential,
    Hinges,
    Lexicographic,
    LinearForm,
    NegativeNorm,
    NegativePower,
    ReachesZero,
    Shifted,
    TwoSlope,
    UnsoundObjectiveError,
    WorstCase,
    check_optimisable,
)
from prefrl.functional.returns.ordering import best_actions
from prefrl.functional.returns.risk_measures import CVaR, MeanCVaR, MeanVariance, UpperCVaR, ValueAtRisk
from prefrl.functional.returns.stock_problems import (
    ObjectiveSettings,
    StockProblem,
    conditional_value_at_risk,
    constrained,
    mean_cvar,
    optimistic_cvar,
    target_return,
)

ATOMS = torch.tensor([3.0, -2.0, 0.0, 1.0], dtype=torch.float64)
PROBS = torch.tensor([0.25, 0.25, 0.4, 0.1], dtype=torch.float64)

BY_HAND = [
    (MEAN, 0.35),
    (TwoSlope(1, 0), -0.5),
    (TwoSlope(0, 1), 0.85),
    (TwoSlope(1, -1), -1.35),
    (NegativePower(2), -(2.25 + 1.0 + 0.1)),
    (ReachesZero(), 0.75),
    (Exponential(0.5), -(0.25 * math.exp(-1.5) + 0.25 * math.e + 0.4 + 0.1 * math.exp(-0.5))),
    (Clipped(-1, 1), 0.25 - 0.25 + 0.1),
    (WorstCase(), -2.0),
    (CVaR(0.25), -2.0),
    (CVaR(0.5), -1.0),
    (CVaR(0.7), (-0.5 + 0.0 + 0.05) / 0.7),
    (CVaR(1.0), 0.35),
    (UpperCVaR(0.3), (0.75 + 0.05) / 0.3),
    (ValueAtRisk(0.25), -2.0),
    (ValueAtRisk(0.5), 0.0),
    (ValueAtRisk(0.7), 1.0),
    (MeanVariance(0.5), 0.35 - 0.5 * (2.25 + 1.0 + 0.1 - 0.35**2)),
    (MeanCVaR(0.5, 0.25), 0.175 - 1.0),
]
SCALARS = [objective for objective, _ in BY_HAND]
names = lambda part: str(part)[:25]  # noqa: E731


@pytest.mark.parametrize(("objective", "value"), BY_HAND, ids=names)
def test_values_by_hand(objective, value):
    assert float(objective.value(ATOMS, PROBS)) == pytest.approx(value, abs=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    batch = objective.keys(ATOMS[order].expand(2, 3, 4), PROBS[order])
    assert batch.shape == (2, 3, 1)
    torch.testing.assert_close(batch, torch.full((2, 3, 1), value, dtype=torch.float64))


@pytest.mark.parametrize("objective", SCALARS, ids=names)
def test_equal_weights_are_the_default(objective):
    same = torch.full_like(ATOMS, 0.25)
    torch.testing.assert_close(objective.keys(ATOMS), objective.keys(ATOMS, same))


def test_vectors_by_hand():
    atoms = torch.tensor([[3.0, -4.0], [0.0, 1.0]], dtype=torch.float64)
    probs = torch.tensor([0.25, 0.75], dtype=torch.float64)
    for objective, value in (
        (NegativeNorm(2), -(0.25 * 5 + 0.75)),
        (NegativeNorm(2, 1.0), -(0.25 * 7 + 0.75)),
        (NegativeNorm(2, math.inf), -(0.25 * 4 + 0.75)),
        (Hinges((1.0, 2.0), (1.0, 0.0)), 0.25 * (3 - 8)),
        (LinearForm((1.0, 10.0)), 0.25 * -37 + 0.75 * 10),
        (ReachesZero(2), 0.75),
        (ReachesZero(2, first=1), 0.75),
    ):
        assert float(objective.value(atoms, probs)) == pytest.approx(value, abs=1e-12)
    shifted = Shifted(NegativeNorm(2), (-3.0, 4.0))
    assert float(shifted.value(atoms[:1], probs[:1] * 4)) == 0.0


def random_distribution(rng, size=5):
    return torch.as_tensor(rng.integers(-4, 5, size).astype(float)), torch.as_tensor(
        rng.dirichlet(np.ones(size))
    )


def mixture(weight, first, second):
    return torch.cat([first[0], second[0]]), torch.cat([weight * first[1], (1 - weight) * second[1]])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), weight=st.floats(0.01, 0.99))
def test_what_declares_it_is_indifferent_to_mixtures(seed, weight):
    rng = np.random.default_rng(seed)
    for objective in SCALARS:
        if not objective.indifferent_to_mixtures:
            continue
        a, b, c = (random_distribution(rng) for _ in range(3))
        if objective.value(*a) < objective.value(*b):
            a, b = b, a
        mixed = [float(objective.value(*mixture(weight, distribution, c))) for distribution in (a, b)]
        assert mixed[0] >= mixed[1] - 1e-12, objective


@pytest.mark.parametrize("objective", [CVaR(0.25), ValueAtRisk(0.5), MeanVariance(), MeanCVaR(), UpperCVaR()])
def test_what_denies_it_is_not(objective):
    rng = np.random.default_rng(0)
    for _ in range(4000):
        a, b, c = (random_distribution(rng, 3) for _ in range(3))
        if objective.value(*a) >= objective.value(*b):
            mixed = [float(objective.value(*mixture(0.5, distribution, c))) for distribution in (a, b)]
            if mixed[0] < mixed[1] - 1e-6:
                return
    raise AssertionError("no counterexample was found")


@pytest.mark.parametrize("objective", SCALARS, ids=names)
def test_indifference_to_gamma(objective):
    rng, broken = np.random.default_rng(1), False
    for _ in range(1500):
        a, b = random_distribution(rng, 3), random_distribution(rng, 3)
        if objective.value(*a) < objective.value(*b):
            a, b = b, a
        values = [float(objective.value(0.5 * distribution[0], distribution[1])) for distribution in (a, b)]
        broken |= values[0] < values[1] - 1e-9
    assert broken == (not objective.indifferent_to_gamma(0.5))
    assert objective.indifferent_to_gamma(1.0)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_lipschitz_constants_bound(seed):
    """Distributions of equal weights, whose distance is that of their sorted atoms."""
    rng = np.random.default_rng(seed)
    a, b = (torch.as_tensor(rng.uniform(-3, 3, 8)) for _ in range(2))
    distance = float((a.sort().values - b.sort().values).abs().mean())
    for objective in (MEAN, TwoSlope(3, -1), NegativePower(2), NegativePower(1), Exponential(0.7), Clipped(),
                      CVaR(0.25)):  # fmt: skip
        gap = float((objective.value(a) - objective.value(b)).abs())
        assert gap <= objective.lipschitz(3.0) * distance + 1e-9, objective


def test_lipschitz_constants_are_declared():
    bounded = (MEAN, TwoSlope(3, -1), NegativeNorm(2), Hinges((1.0, 4.0), (1.0, 0.0)))
    assert [k.lipschitz() for k in bounded] == [
        1.0, 3.0, 1.0, 4.0,
    ]  # fmt: skip
    assert [k.lipschitz() for k in (NegativePower(2), ReachesZero(), WorstCase())] == [math.inf] * 3
    assert NegativePower(2).lipschitz(5.0) == 10.0
    assert NegativePower(0.5).lipschitz(5.0) == math.inf


def test_what_can_be_optimised():
    check_optimisable(TwoSlope(1, 0), 0.5, time_indexed=False, reach=9.0)
    check_optimisable(NegativePower(2), 0.5, time_indexed=False, reach=9.0)
    check_optimisable(Exponential(), 0.5, time_indexed=True)
    check_optimisable(Lexicographic(ReachesZero(), MEAN), 0.5, time_indexed=False)
    for objective, gamma, reach, message in (
        (
            CVaR(0.1),
            1.0,
            None,
            r"CVaR\(tau=0.1\) is not indifferent to mixtures.*use conditional_value_at_risk",
        ),
        (MeanCVaR(), 1.0, None, "use mean_cvar"),
        (UpperCVaR(), 1.0, None, "use optimistic_cvar"),
        (Lexicographic(MEAN, ValueAtRisk()), 1.0, None, "use target_probability"),
        (Exponential(), 0.5, None, "not indifferent to gamma 0.5"),
        (Lexicographic(MEAN, Clipped()), 0.9, None, "not indifferent to gamma 0.9"),
        (ReachesZero(), 0.5, 9.0, "not Lipschitz.*finite horizon"),
        (WorstCase(), 0.5, 9.0, "not Lipschitz"),
    ):
        with pytest.raises(UnsoundObjectiveError, match=message):
            check_optimisable(objective, gamma, time_indexed=False, reach=reach)


def test_best_actions_compare_in_order():
    keys = torch.tensor([[[1.0, 0.0], [1.0, 2.0], [0.5, 9.0]], [[0.0, 1.0], [0.0, 1.0], [-1.0, 9.0]]])
    assert best_actions(keys).tolist() == [1, 0]
    assert best_actions(keys, tolerance=0.6).tolist() == [2, 0]
    assert best_actions(keys[..., :1]).tolist() == [0, 0]


def test_what_is_wanted_of_the_return():
    """CVaR is the best of h over all initial stocks, mean-CVaR likewise, the optimistic one the least."""
    rng = np.random.default_rng(2)
    for tau in (0.1, 0.5, 1.0):
        for problem, end in (
            (conditional_value_at_risk(tau), max), (mean_cvar(0.3, tau), max), (optimistic_cvar(tau), max),
        ):  # fmt: skip
            atoms, probs = random_distribution(rng)
            stocks = -atoms
            values = problem.objective.value(atoms + stocks[:, None], probs)
            h = problem.score(values, stocks).tolist()
            wanted = float(problem.criterion().value(atoms, probs))
            assert end(h) == pytest.approx(-wanted if problem.minimise else wanted, abs=1e-9)
    assert float(target_return(2.0).criterion().value(ATOMS, PROBS)) == pytest.approx(
        -(0.25 * 1 + 0.25 * 4 + 0.4 * 2 + 0.1 * 1)
    )
    with pytest.raises(ValueError, match="needs an initial stock"):
        StockProblem(MEAN).criterion()
    assert float(StockProblem(MEAN).criterion((2.0,)).value(ATOMS, PROBS)) == pytest.approx(2.35)
    with pytest.raises(ValueError, match=r"the initial stock \(1.0, 2.0\) has 2 components"):
        StockProblem(MEAN).criterion((1.0, 2.0))


def test_constraints():
    atoms = torch.tensor([[5.0, 1.0], [9.0, -2.0]], dtype=torch.float64)
    probs = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert constrained(2, 3.0).objective.keys(atoms, probs).tolist() == [4.0]
    assert constrained(2, None).objective.keys(atoms, probs).tolist() == [0.5, 7.0]
    with pytest.raises(ValueError, match="components is 1"):
        constrained(1, 1.0)


def test_settings_make_every_problem():
    for field in dataclasses.fields(ObjectiveSettings):
        if field.name == "objective":
            words = field.type
    assert words == "Name"
    from prefrl.functional.returns import stock_problems

    for word in stock_problems.Name.__args__:
        settings_ = ObjectiveSettings(word, tau=0.5, target=2.0, below=2.0, above=-1.0)
        problem = settings_.problem(2 if settings_.takes_vectors else 0)
        assert problem.searched == (word in ("cvar", "mean_cvar", "optimistic_cvar"))
        assert problem.objective.indifferent_to_mixtures
        if word in ("target_return", "target_probability"):
            assert problem.initial_stock == (-2.0,)
    assert ObjectiveSettings("two_slope", below=2.0, above=-1.0).problem().objective == TwoSlope(2.0, -1.0)
    assert ObjectiveSettings("target_return", exponent=2.0).problem().objective == NegativePower(2.0)
    assert ObjectiveSettings("mean", initial_stock=(3,)).problem().initial_stock == (3.0,)
    with pytest.raises(ValueError, match="takes vector rewards; these are scalars"):
        ObjectiveSettings("homeostasis").problem(0)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: CVaR(0.0), "tau is 0.0"),
    (lambda: NegativePower(-1.0), "exponent is -1.0"),
    (lambda: Clipped(1.0, 1.0), "low must be below high"),
    (lambda: Hinges((1.0,), ()), "one of each per component"),
    (lambda: Lexicographic(MEAN, NegativeNorm(2)), "first has 0 components and second 2"),
])  # fmt: skip
def test_objectives_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
