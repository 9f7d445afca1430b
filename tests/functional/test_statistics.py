import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st

from prefrl.functional import statistics
from prefrl.functional.statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], 7),
        ([1, 3], 2),
        ([1, 2, 6], 2.5),  # weights 1/6, 4/6, 1/6
        ([100, 2, 1, 4], 3),  # the mean of 2 and 4
        ([0, 1, 2, 4, 50], 2.3),  # a quarter of five is 1.25: weights 0, .3, .4, .3, 0
        ([1, 2, 3, 4, 5, 6, 7, 800], 4.5),
    ],
)
def test_interquartile_mean_by_hand(values: list[float], expected: float) -> None:
    assert interquartile_mean(values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [4, 8, 20])
def test_interquartile_mean_equals_scipy_where_the_count_is_a_multiple_of_four(n: int) -> None:
    values = np.random.default_rng(n).normal(size=(n, 3))
    np.testing.assert_allclose(interquartile_mean(values), scipy.stats.trim_mean(values, 0.25, axis=0))
    np.testing.assert_allclose(interquartile_mean(values.T, axis=1), interquartile_mean(values))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=13), st.randoms(use_true_random=False))
def test_interquartile_mean_is_the_mean_of_the_middle_of_four_copies(values: list[float], random) -> None:
    """Fractional cutting is what exact cutting does to the same values, each taken four times."""
    shuffled = random.sample(values, len(values))
    expected = scipy.stats.trim_mean(np.repeat(values, 4), 0.25)
    assert interquartile_mean(shuffled) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_interquartile_mean_shows_nan_and_cuts_infinities() -> None:
    assert np.isnan(interquartile_mean([1.0, 2.0, 3.0, np.nan]))
    assert interquartile_mean([-np.inf, 1.0, 2.0, np.inf]) == 1.5


def test_interquartile_mean_refuses_no_values() -> None:
    with pytest.raises(ValueError, match=r"shape \(0, 3\); axis 0 must hold"):
        interquartile_mean(np.empty((0, 3)))


@pytest.mark.parametrize("statistic", [interquartile_mean, np.mean])
def test_interval_agrees_with_scipy(statistic) -> None:
    values = np.random.default_rng(1).normal(size=(7, 40)).cumsum(axis=1)
    low, high = bootstrap_interval(values, statistic, interval=0.9, resamples=20_000, rng=2)
    twin = scipy.stats.bootstrap(
        (values,),
        statistic,
        vectorized=True,
        confidence_level=0.9,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = twin.high - twin.low
    assert np.abs((low - twin.low) / width).max() < 0.05
    assert np.abs((high - twin.high) / width).max() < 0.05


def test_interval_of_two_runs_by_hand() -> None:
    """The mean of two draws from {0, 1} is 0, .5, .5 or 1: a quarter of the mass lies at either end."""
    assert bootstrap_interval([0, 1], np.mean, interval=0.6) == (0, 1)
    assert bootstrap_interval([0, 1], np.mean, interval=0.4) == (0.5, 0.5)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """500 experiments of 20 runs each, as the points of one curve; the percentile interval is a bit short."""
    values = np.random.default_rng(3).normal(size=(20, 500))
    low, high = bootstrap_interval(values, np.mean, resamples=1000)
    assert 0.87 < np.mean((low < 0) & (high > 0)) < 0.97


def test_chunks_of_points_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(5, 3, 7))
    whole = bootstrap_interval(values, resamples=50)
    assert whole[0].shape == (3, 7)
    monkeypatch.setattr(statistics, "CHUNK_VALUES", 1)
    np.testing.assert_allclose(bootstrap_interval(values, resamples=50), whole, rtol=1e-12)


def test_strata_keep_their_number_of_runs() -> None:
    """Two tasks without noise: drawn within each, nothing varies; drawn over both, much does."""
    values = [0.0, 0.0, 0.0, 10.0, 10.0, 10.0]
    assert bootstrap_interval(values, np.mean, strata=list("aaabbb")) == (5, 5)
    assert bootstrap_interval(values, np.mean, strata=list("ababab")) != (5, 5)
    low, high = bootstrap_interval(values, np.mean)
    assert low < 5 < high


def test_one_run_is_its_own_interval() -> None:
    low, high = bootstrap_interval([[1.0, 2.0]])
    assert low.tolist() == high.tolist() == [1.0, 2.0]


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(5).normal(size=9)
    assert bootstrap_interval(values, rng=1) == bootstrap_interval(values, rng=1)
    assert bootstrap_interval(values, rng=1) != bootstrap_interval(values, rng=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, r"values has shape \(0,\)"),
        ({"values": 3.0}, r"values has shape \(\)"),
        ({"values": [1, 2], "interval": 95}, "interval is 95"),
        ({"values": [1, 2], "resamples": 0}, "resamples is 0"),
        ({"values": [1, 2], "strata": "a"}, "strata has 1 entries; values has 2 runs"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([[1, 2, 3]], [[0, 0]], 1.0),
        ([[0.0]], [[1.0, 2.0]], 0.0),
        ([[5, 5]], [[5]], 0.5),
        ([[1, 3]], [[2, 3]], 3 / 8),  # of four pairs 3 > 2, and 3 ties with 3
        ([[1, 3], [9, 9, 9]], [[2, 3], [8]], 11 / 16),  # a task counts once, however many its runs
        ([[np.inf]], [[np.inf, 0.0]], 0.75),
    ],
)
def test_probability_of_improvement_by_hand(ours, theirs, expected: float) -> None:
    probability, low, high = probability_of_improvement(ours, theirs)
    assert probability == pytest.approx(expected, abs=1e-12)
    assert low <= probability <= high


def test_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(6)
    ours, theirs = rng.integers(5, size=9), rng.integers(4, size=7)
    expected = scipy.stats.mannwhitneyu(ours, theirs).statistic / (9 * 7)
    assert probability_of_improvement([ours], [theirs])[0] == pytest.approx(expected, abs=1e-12)
    assert probability_of_improvement([theirs], [ours])[0] == pytest.approx(1 - expected, abs=1e-12)


def test_probability_of_improvement_has_the_interval_of_a_slow_twin() -> None:
    rng = np.random.default_rng(7)
    ours, theirs = [rng.normal(0.5, size=6), rng.normal(size=4)], [rng.normal(size=5), rng.normal(size=3)]
    found = probability_of_improvement(ours, theirs, interval=0.8, resamples=20_000)
    drawn = []
    for _ in range(4_000):
        shares = []
        for mine, other in zip(ours, theirs, strict=True):
            a, b = rng.choice(mine, len(mine)), rng.choice(other, len(other))
            shares.append(np.mean([x > y for x in a for y in b]))
        drawn.append(np.mean(shares))
    assert found[1:] == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])), abs=0.02)


def test_probability_of_improvement_draws_within_tasks() -> None:
    """Two tasks without noise: ours wins the one and loses the other, whichever runs are drawn."""
    assert probability_of_improvement([[2, 2], [0, 0]], [[1, 1], [1, 1]]) == (0.5, 0.5, 0.5)


def test_probability_of_improvement_is_reproducible() -> None:
    runs = np.random.default_rng(8).normal(size=(2, 1, 11))
    assert probability_of_improvement(*runs, rng=1) == probability_of_improvement(*runs, rng=1)
    assert probability_of_improvement(*runs, rng=1) != probability_of_improvement(*runs, rng=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ours": [], "theirs": []}, "ours has 0 tasks and theirs 0"),
        ({"ours": [[1]], "theirs": [[1], [2]]}, "ours has 1 tasks and theirs 2"),
        ({"ours": [[1], []], "theirs": [[1], [2]]}, r"ours has \[\] for task 1"),
        ({"ours": [[1]], "theirs": [[float("nan")]]}, r"theirs has \[nan\] for task 0"),
        ({"ours": [1], "theirs": [[1]]}, "ours has 1 for task 0"),
        ({"ours": [[1]], "theirs": [[1]], "interval": 95}, "interval is 95"),
        ({"ours": [[1]], "theirs": [[1]], "resamples": 0}, "resamples is 0"),
    ],
)
def test_wrong_arguments_of_the_probability_of_improvement(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probability_of_improvement(**arguments)
