"""Simulated teachers: each irrationality does what it says, as often as it says, and nothing else."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats

from prefrl.preferences import DeterministicRegret, PartialReturn, Regret, StepwiseModel, Teacher, Valuation
from prefrl.preferences.teachers import TeacherKind, teacher_of_kind

MakeValuation = Callable[..., Valuation]
MODELS: list[StepwiseModel] = [PartialReturn(), DeterministicRegret(), Regret()]


def same(v: Valuation, count: int) -> Valuation:
    """The first segment again and again."""
    return Valuation(*(getattr(v, name)[:1].expand(count, -1) for name in Valuation.__dataclass_fields__))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_noiseless_teacher_prefers_the_larger_score(
    valuation: MakeValuation, model: StepwiseModel, seed: int
) -> None:
    first, second = valuation(seed), valuation(seed + 1)
    labels, answered = Teacher(model).label(first, second, seed=seed)
    assert labels.dtype == torch.float64
    scores = zip(model.score(first), model.score(second), strict=True)
    assert labels.tolist() == [float(b > a) for a, b in scores]
    assert answered.all()
    swapped, _ = Teacher(model).label(second, first)
    assert torch.equal(swapped, 1.0 - labels)
    tied, _ = Teacher(model).label(first, first)
    assert (tied == 0.5).all()


def test_the_default_is_noiseless_by_partial_return(score: Callable[..., Valuation]) -> None:
    labels, answered = Teacher().label(score(1.0, 2.0, 3.0), score(2.0, 1.0, 3.0))
    assert labels.tolist() == [1.0, 0.0, 0.5]
    assert answered.tolist() == [True] * 3
    assert Teacher().model == PartialReturn()


def test_ties_within_the_margin(score: Callable[..., Valuation]) -> None:
    first, second = score(0.0, 0.0, 0.0, 0.0), score(0.5, -0.5, 0.75, -0.75)
    for settings in ({}, {"temperature": 1e-3}):
        labels, _ = Teacher(tie_margin=0.5, **settings).label(first, second)
        assert labels.tolist() == [0.5, 0.5, 1.0, 0.0]
    assert Teacher().label(first, second)[0].tolist() == [1.0, 0.0, 1.0, 0.0]
    exact = Teacher(tie_margin=0.0).label(score(1.0, 1.0), score(1.0, 1.0 + 1e-15))[0]
    assert exact.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("temperature", "scale", "uniform_logit"),
    [(1.0, 1.0, None), (0.1, 1.0, None), (2.0, 0.5, None), (1.0, 1.0, -1.0), (0.5, 2.0, 0.5)],
)
def test_logistic_answers_have_the_models_frequencies(
    score: Callable[..., Valuation], temperature: float, scale: float, uniform_logit: float | None
) -> None:
    draws = 20_000
    teacher = Teacher(PartialReturn(scale=scale, uniform_logit=uniform_logit), temperature=temperature)
    for i, difference in enumerate((-2.0, -0.3, 0.1, 1.5)):
        first, second = same(score(0.0), draws), same(score(difference), draws)
        labels, answered = teacher.label(first, second, seed=i)
        assert set(labels.tolist()) <= {0.0, 1.0}
        assert answered.all()
        chance = 1.0 / (1.0 + math.exp(-scale * difference / temperature))
        if uniform_logit is not None:
            share = 1.0 / (1.0 + math.exp(-uniform_logit))
            chance = (1.0 - share) * chance + share / 2.0
        ones = labels.sum().item()
        expected = [draws * (1.0 - chance), draws * chance]
        if min(expected) < 5.0:
            assert abs(ones - expected[1]) < 20.0
        else:
            assert stats.chisquare([draws - ones, ones], expected).pvalue > 1e-3


def test_answers_to_different_questions_are_independent(score: Callable[..., Valuation]) -> None:
    labels, _ = Teacher(temperature=1.0).label(same(score(0.0), 20_001), same(score(0.2), 20_001))
    correlation = torch.corrcoef(torch.stack([labels[1:], labels[:-1]]))[0, 1]
    assert abs(correlation.item()) < 4.0 / 20_000**0.5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_mistakes_turn_answers_round_at_their_rate(
    score: Callable[..., Valuation], temperature: float
) -> None:
    first, second = same(score(0.0), 20_000), same(score(0.7), 20_000)
    sure = Teacher(temperature=temperature, tie_margin=0.0)
    right, _ = sure.label(first, second, seed=4)
    wrong, _ = replace(sure, mistake_rate=0.2).label(first, second, seed=4)
    turned = (right != wrong).sum().item()
    assert stats.chisquare([turned, 20_000 - turned], [4_000, 16_000]).pvalue > 1e-3
    # Whoever was going to err does not depend on the answer.
    if temperature:
        assert (right != wrong)[right == 1.0].double().mean().item() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(replace(sure, mistake_rate=1.0).label(first, second, seed=4)[0], 1.0 - right)


def test_mistakes_leave_ties_alone(score: Callable[..., Valuation]) -> None:
    labels, _ = Teacher(mistake_rate=1.0).label(score(1.0, 1.0), score(1.0, 2.0))
    assert labels.tolist() == [0.5, 0.0]


def test_skips_where_neither_segment_is_good_enough(score: Callable[..., Valuation]) -> None:
    first, second = score(0.0, 3.0, 0.0, 2.0), score(1.0, 0.0, 2.0, 2.5)
    labels, answered = Teacher(skip_below=2.0).label(first, second)
    assert answered.tolist() == [False, True, False, True]  # 2 does not exceed 2
    assert torch.equal(labels, Teacher().label(first, second)[0])


def test_a_myopic_teacher_remembers_the_end_best() -> None:
    rewards = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 3.0], [8.0, 0.0, 0.0], [6.0, 0.0, 99.0]]).double()
    mask = torch.tensor([[True] * 3, [True] * 3, [True] * 3, [True, False, False]])
    v = Valuation(rewards, mask, torch.zeros(4, 4), torch.zeros(4, 3))
    assert Teacher(myopia=0.5).score(v).tolist() == [1.0, 3.0, 2.0, 6.0]
    assert Teacher().score(v).tolist() == [4.0, 3.0, 8.0, 6.0]
    first, second = (Valuation(rewards[i : i + 1], mask[i : i + 1], torch.zeros(1, 4), torch.zeros(1, 3))
                     for i in (0, 1))  # fmt: skip
    assert Teacher().label(first, second)[0].item() == 0.0
    assert Teacher(myopia=0.5).label(first, second)[0].item() == 1.0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@given(seed=st.integers(0, 2**32 - 1), myopia=st.sampled_from([0.3, 0.9, 1.0]))
def test_myopic_scores_equal_their_plain_twin(
    valuation: MakeValuation, model: StepwiseModel, seed: int, myopia: float
) -> None:
    v = valuation(seed)
    steps, scores = model.contributions(v), Teacher(model, myopia=myopia).score(v)
    for i in range(7):
        expected = 0.0
        for t in range(int(v.mask[i].sum())):
            expected = myopia * expected + float(steps[i, t])
        assert scores[i].item() == pytest.approx(expected, abs=1e-12)


def test_the_seed_decides(valuation: MakeValuation) -> None:
    first, second = valuation(0, count=500), valuation(1, count=500)
    for settings in ({"temperature": 1.0}, {"mistake_rate": 0.3}):
        teacher = Teacher(**settings)
        labels = [teacher.label(first, second, seed=seed)[0] for seed in (7, 7, 8)]
        assert torch.equal(labels[0], labels[1])
        assert not torch.equal(labels[0], labels[2])
    certain = [Teacher().label(first, second, seed=seed)[0] for seed in (7, 8)]
    assert torch.equal(*certain)


def test_labels_are_drawn_apart_from_the_global_generator(valuation: MakeValuation) -> None:
    first, second = valuation(0), valuation(1)
    before = torch.get_rng_state()
    Teacher(temperature=1.0, mistake_rate=0.1).label(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must not be negative"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"tie_margin": -1e-9}, "tie_margin is -1e-09; it must not be negative"),
        ({"mistake_rate": 1.5}, r"mistake_rate is 1.5; it must lie in \[0, 1\]"),
        ({"mistake_rate": -0.1}, r"mistake_rate is -0.1"),
        ({"myopia": 0.0}, r"myopia is 0.0; it must lie in \(0, 1\]"),
        ({"myopia": 1.1}, r"myopia is 1.1"),
        ({"skip_below": math.nan}, "skip_below is nan; it must be a number"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Teacher(**settings)


# Kinds -------------------------------------------------------------------------------------------------


def test_kinds_depart_from_a_noiseless_teacher_in_one_setting_each() -> None:
    model, scores = Regret(scale=2.0), torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    settings: dict[str, float] = {
        "temperature": 0.7, "mistake_rate": 0.2, "skip_share": 0.25, "tie_share": 0.1, "myopia": 0.5
    }  # fmt: skip
    expected = {
        "noiseless": Teacher(model),
        "logistic": Teacher(model, temperature=0.7),
        "mistakes": Teacher(model, mistake_rate=0.2),
        "skips": Teacher(model, skip_below=1.0),
        "ties": Teacher(model, tie_margin=0.1 * 2.5**0.5),
        "myopia": Teacher(model, myopia=0.5),
    }
    assert set(get_args(TeacherKind)) == set(expected)
    for kind, teacher in expected.items():
        made = teacher_of_kind(kind, model, scores, **settings)  # type: ignore[arg-type]
        assert replace(made, tie_margin=0.0) == replace(teacher, tie_margin=0.0)
        assert made.tie_margin == pytest.approx(teacher.tie_margin)


def test_wrong_kinds_and_shares_are_refused() -> None:
    scores = torch.arange(5.0)
    with pytest.raises(ValueError, match="kind is 'moody'; it must be one of"):
        teacher_of_kind("moody", PartialReturn(), scores)  # type: ignore[arg-type]
    for settings in ({"skip_share": 1.5}, {"skip_share": math.nan}, {"tie_share": -0.1}):
        with pytest.raises(ValueError, match=r"skip_share is .* and tie_share"):
            teacher_of_kind("skips", PartialReturn(), scores, **settings)
    with pytest.raises(ValueError, match=r"myopia is 2\.0"):
        teacher_of_kind("myopia", PartialReturn(), scores, myopia=2.0)
