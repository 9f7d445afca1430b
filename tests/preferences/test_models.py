"""Preference models: each score against a plain loop, and what regret is on exact MDPs."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import gymnasium as gym
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.data import Segments
from prefrl.preferences import (
    DeterministicRegret,
    Expanded,
    PartialReturn,
    PreferenceModel,
    Regret,
    StepwiseModel,
    Valuation,
    valuate,
)
from prefrl.tabular import TabularMDP, action_values, optimal_policy, value_iteration
from prefrl.tabular.segments import random_segments

MakeValuation = Callable[..., Valuation]
GAMMA = 0.999
MODELS: list[PreferenceModel] = [
    PartialReturn(),
    DeterministicRegret(),
    Regret(),
    Expanded(return_weight=0.3, start_weight=-0.16, end_weight=0.28),
]


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def twin(model: PreferenceModel, v: Valuation, i: int) -> float:
    """The score of segment i, transition by transition, as the paper writes it."""
    n = sum(bool(real) for real in v.mask[i])
    returns = sum(float(v.rewards[i, t]) for t in range(n))
    start, end = float(v.state_value[i, 0]), float(v.state_value[i, n])
    if isinstance(model, PartialReturn):
        return returns
    if isinstance(model, DeterministicRegret):
        return -(start - (returns + end))
    if isinstance(model, Regret):
        return -sum(float(v.state_value[i, t]) - float(v.action_value[i, t]) for t in range(n))
    assert isinstance(model, Expanded)
    return model.return_weight * returns + model.start_weight * start + model.end_weight * end


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_equal_their_plain_twins(valuation: MakeValuation, model: PreferenceModel, seed: int) -> None:
    v = valuation(seed)
    expected = [twin(model, v, i) for i in range(7)]
    close(model.score(v), torch.tensor(expected, dtype=torch.float64))
    if isinstance(model, StepwiseModel):
        steps = torch.where(v.mask, model.contributions(v), 0.0)
        close(steps.sum(-1), model.score(v))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_padding_does_not_count(valuation: MakeValuation, model: PreferenceModel) -> None:
    v = valuation(0)
    soiled = replace(
        v,
        rewards=v.rewards.masked_fill(~v.mask, math.nan),
        action_value=v.action_value.masked_fill(~v.mask, math.nan),
        state_value=torch.cat([v.state_value[:, :1], v.state_value[:, 1:].masked_fill(~v.mask, math.nan)], 1),
    )
    assert not v.mask.all()
    assert torch.equal(model.score(soiled), model.score(v))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_reward_functions_are_leading_axes(valuation: MakeValuation, model: PreferenceModel) -> None:
    v = valuation(1, leading=(2, 3))
    scores = model.score(v)
    assert scores.shape == (2, 3, 7)
    for i in range(2):
        for j in range(3):
            one = Valuation(v.rewards[i, j], v.mask, v.state_value[i, j], v.action_value[i, j])
            close(scores[i, j], model.score(one), 1e-15)


def test_start_and_end_values() -> None:
    v = Valuation(
        torch.zeros(2, 3),
        torch.tensor([[True, True, True], [True, False, False]]),
        torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]),
        torch.zeros(2, 3),
    )
    assert v.start_value.tolist() == [1.0, 5.0]
    assert v.end_value.tolist() == [4.0, 6.0]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_log_odds_probabilities_and_losses(valuation: MakeValuation, model: PreferenceModel) -> None:
    first, second = valuation(2), valuation(3)
    scaled = replace(model, scale=0.4)
    differences = [twin(model, second, i) - twin(model, first, i) for i in range(7)]
    difference = torch.tensor(differences, dtype=torch.float64)
    close(scaled.logit(first, second), 0.4 * difference)
    chance = torch.sigmoid(0.4 * difference)
    close(scaled.probability(first, second), chance)
    close(scaled.probability(second, first), 1.0 - chance)
    labels = torch.linspace(-0.2, 1.3, 7, dtype=torch.float64)
    entropy = -(labels * chance.log() + (1.0 - labels) * (1.0 - chance).log())
    close(scaled.loss(first, second, labels), entropy)
    guessing = replace(model, scale=0.4, uniform_logit=math.log(0.25))  # one in five
    close(guessing.probability(first, second), 0.8 * chance + 0.1)
    close(guessing.loss(first, second, torch.ones(7).double()), -(0.8 * chance + 0.1).log())


def test_the_expanded_model_contains_the_others(valuation: MakeValuation) -> None:
    v = valuation(4)
    close(Expanded().score(v), DeterministicRegret().score(v))
    close(Expanded(start_weight=0.0, end_weight=0.0).score(v), PartialReturn().score(v))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("model", [PartialReturn, DeterministicRegret, Regret, Expanded])
def test_a_scale_that_is_not_positive_is_refused(model: Callable[..., PreferenceModel], scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale is {scale}; it must be"):
        model(scale=scale)


@pytest.mark.parametrize("field", ["rewards", "state_value", "action_value"])
def test_shapes_that_contradict_the_mask_are_refused(valuation: MakeValuation, field: str) -> None:
    v = valuation(0)
    with pytest.raises(ValueError, match=rf"{field} has shape \(7, \d\); it must end in \[7, \d\]"):
        replace(v, **{field: getattr(v, field)[:, :-1]})


# On exact MDPs -----------------------------------------------------------------------------------------


@cache
def mdp_of(kind: str) -> TabularMDP:
    if kind == "delivery":
        return TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))
    return TabularMDP.from_env(
        gym.make("prefrl/RandomGrid-v0", layout_seed=int(kind[-1]), stochastic="lottery" in kind)
    )


def optimal(mdp: TabularMDP, gamma: float) -> tuple[Tensor, Tensor]:
    rewards = mdp.linear_rewards(mdp.weights)
    if gamma < 1.0:
        value, quality, _ = optimal_policy(mdp, rewards, gamma)
    else:
        value = value_iteration(mdp, rewards, gamma)
        quality = action_values(mdp, value, rewards, gamma)
    return value[0], quality[0]


def valued(mdp: TabularMDP, segments: Segments, gamma: float) -> Valuation:
    assert segments.features is not None
    return valuate(segments, segments.features @ mdp.weights[0], *optimal(mdp, gamma))


def test_valuate_looks_everything_up() -> None:
    mdp = mdp_of("delivery")
    segments = random_segments(mdp, 200, 5, seed=0)
    value, quality = optimal(mdp, GAMMA)
    v = valued(mdp, segments, GAMMA)
    for i in range(200):
        for t in range(int(segments.lengths[i])):
            s, a = int(segments.obs[i, t]), int(segments.actions[i, t])
            assert v.state_value[i, t] == value[s]
            assert v.action_value[i, t] == quality[s, a]
            assert v.state_value[i, t + 1] == value[segments.obs[i, t + 1]]
    assert (v.end_value[segments.terminated] == 0.0).all()
    assert segments.terminated.any()


def test_valuate_with_many_reward_functions() -> None:
    mdp = mdp_of("delivery")
    segments = random_segments(mdp, 20, 3, seed=0)
    value, quality = optimal(mdp, GAMMA)
    both = valuate(segments, torch.zeros(2, 20, 3), torch.stack([value, -value]), torch.stack([quality] * 2))
    one = valuate(segments, torch.zeros(20, 3), value, quality)
    assert torch.equal(both.state_value[0], one.state_value)
    assert torch.equal(both.state_value[1], -one.state_value)
    assert torch.equal(both.action_value[1], one.action_value)


@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("kind", ["delivery", "grid 0", "grid 1", "grid 3"])
def test_both_forms_of_regret_are_equal_undiscounted_where_nothing_is_random(kind: str, length: int) -> None:
    mdp = mdp_of(kind)
    v = valued(mdp, random_segments(mdp, 500, length, seed=1), 1.0)
    close(Regret().score(v), DeterministicRegret().score(v), 1e-10)


@pytest.mark.parametrize("gamma", [0.5, 0.9, GAMMA])
def test_with_a_discount_the_forms_differ_by_what_telescopes(gamma: float) -> None:
    mdp = mdp_of("delivery")
    v = valued(mdp, random_segments(mdp, 500, 5, seed=2), gamma)
    following = torch.where(v.mask, v.state_value[:, 1:], 0.0).sum(-1)
    difference = Regret().score(v) - DeterministicRegret().score(v)
    close(difference, (gamma - 1.0) * following, 1e-10)
    assert difference.abs().max() > 1e-3 * (1.0 - gamma)


@pytest.mark.parametrize("gamma", [0.9, GAMMA, 1.0])
@pytest.mark.parametrize("kind", ["delivery", "grid 1", "lottery 1", "lottery 2"])
def test_regret_is_never_negative_and_zero_for_optimal_segments_alone(kind: str, gamma: float) -> None:
    mdp = mdp_of(kind)
    segments = random_segments(mdp, 2_000, 3, seed=3)
    _, quality = optimal(mdp, gamma)
    best = quality.amax(-1)
    regret = -Regret().score(valued(mdp, segments, gamma))
    assert (regret >= -1e-10).all()
    for i in range(len(segments)):
        good = all(
            quality[segments.obs[i, t], segments.actions[i, t]] > best[segments.obs[i, t]] - 1e-9
            for t in range(int(segments.lengths[i]))
        )
        assert good == (regret[i].item() < 1e-9)
    assert (regret < 1e-9).any()
    assert (regret > 1e-3).any()


def test_in_a_lottery_luck_counts_as_return_but_not_as_regret() -> None:
    """Entering the same sheep, won or lost: 150 apart in return, nothing apart in stochastic regret."""
    mdp = mdp_of("lottery 2")
    segments = random_segments(mdp, 5_000, 1, seed=0)
    v = valued(mdp, segments, 1.0)
    returns, regret = PartialReturn().score(v), Regret().score(v)
    for s in range(mdp.num_states):
        for a in range(4):
            rows = (segments.obs[:, 0] == s) & (segments.actions[:, 0] == a)
            if len(returns[rows].unique()) > 1:
                assert sorted(returns[rows].unique().tolist()) == [-50.0, 100.0]
                assert regret[rows].max() - regret[rows].min() < 1e-12
                return
    raise AssertionError("no sheep was entered both ways")
