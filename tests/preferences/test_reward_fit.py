"""Reward fits: what is recovered, the optimum, batches of fits, every setting, data that do not belong."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.agents import RegretConfig
from prefrl.data import Preferences, Segments
from prefrl.data.files.human import load_human_preferences
from prefrl.preferences import PartialReturn, Regret, StepwiseModel, ask_teacher
from prefrl.preferences.reward_fit import RewardFit
from prefrl.tabular import TabularMDP, greedy_policy, optimal_policy, scaled_return, successor_features
from prefrl.tabular.segments import random_pairs

SMALL = (11, 30, 34, 38)
"""Layouts of 15 or 18 cells."""
ENTRIES = (50.0, -50.0, 1.0, -1.0, -2.0, 0.0, -10.0, 10.0, 5.0)
QUICK: dict[str, Any] = {"max_policies": 30, "policy_entries": ENTRIES, "learning_rate": 0.1}
"""For fits of a few steps, which the default learning rate would spend on finding its way back."""
FULL: dict[str, Any] = {"max_policies": 1000, "learning_rate": 2.0}
PARTIAL: dict[str, Any] = {"preference_model": "partial-return"}
NEURAL: dict[str, Any] = {**PARTIAL, "reward": "neural", "hidden": (16,), "neural_learning_rate": 0.02}


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def make_env(layout: int = 11, **kwargs: Any) -> Any:
    return gym.make("prefrl/RandomGrid-v0", layout_seed=layout, **kwargs)


@cache
def grids(*layouts: int, stochastic: bool = False) -> TabularMDP:
    envs = [make_env(layout, stochastic=stochastic).unwrapped for layout in layouts]
    return TabularMDP.stack([env.tabular_model() for env in envs])


@cache
def answers(
    layout: int = 11,
    count: int = 60,
    model: StepwiseModel | None = None,
    length: int | tuple[int, ...] = 3,
    stochastic: bool = False,
    **settings: Any,
) -> Preferences:
    mdp = grids(layout, stochastic=stochastic)
    return ask_teacher(mdp, count, model=model or Regret(), length=length, **settings)


def fitted(
    mdps: TabularMDP, data: Sequence[Preferences], steps: int = 40, seed: int = 0, **config: Any
) -> RewardFit:
    fit = RewardFit(mdps, data, RegretConfig(**{**QUICK, **config}), seed=seed)
    fit.step(steps)
    return fit


# What is recovered -------------------------------------------------------------------------------------


def test_regret_recovers_rewards_from_answers_about_regret() -> None:
    data = [answers(layout, 300) for layout in SMALL]
    fit = fitted(grids(*SMALL), data, 600, **FULL)
    assert (fit.scaled_returns() > 0.9).all()


def test_partial_return_recovers_rewards_from_answers_about_partial_return() -> None:
    """Segments of several lengths tell it what a step costs."""
    data = [answers(layout, 1000, PartialReturn(), (1, 2, 3, 6)) for layout in SMALL]
    fit = fitted(grids(*SMALL), data, 1, **PARTIAL)
    assert (fit.scaled_returns() > 0.9).all()


@pytest.mark.parametrize("form", ["auto", "action"])
def test_regret_recovers_rewards_of_lotteries(form: str) -> None:
    data = [answers(layout, 600, stochastic=True) for layout in (1, 2, 3)]
    fit = fitted(grids(1, 2, 3, stochastic=True), data, 400, regret_form=form, **FULL)
    assert fit.action_form
    assert (fit.scaled_returns() > 0.9).all()


@pytest.mark.parametrize("layout", [11, 38])
def test_a_neural_reward_learns_and_plans(layout: int) -> None:
    data = answers(layout, 1000, PartialReturn(), (1, 2, 3, 6))
    fit = fitted(grids(layout), [data], 1, **NEURAL)
    first = fit.best_loss.item()
    fit.step(400)
    linear = fitted(grids(layout), [data], 1, **PARTIAL)
    assert fit.best_loss.item() < 0.5 * first
    assert fit.best_loss.item() < linear.best_loss.item() + 0.03
    assert fit.scaled_returns().item() > 0.9


@pytest.mark.needs_human_data
@pytest.mark.parametrize("model", ["regret", "partial-return"])
def test_rewards_from_all_human_answers(human_data: Path, model: Any) -> None:
    data = load_human_preferences(human_data, "Privileged-Control")
    mdp = TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))
    fit = RewardFit(mdp, [data], RegretConfig(preference_model=model))
    fit.step(3000)
    assert fit.scaled_returns().item() >= 0.95
    # With the published policies regret reaches 0.5636; ours are other ones, and seeds differ by some 0.003.
    expected = {"regret": 0.5636, "partial-return": 0.589}[model]
    assert fit.best_loss.item() == pytest.approx(expected, abs=0.006)


# The optimum -------------------------------------------------------------------------------------------


def test_the_convex_fit_is_where_the_gradient_vanishes() -> None:
    data = answers(11, 200, PartialReturn(), kind="logistic", temperature=3.0)
    fit = fitted(grids(11), [data], 1, ridge=0.0, temperature=2.0, **PARTIAL)
    weights = fit.weights.clone().requires_grad_()
    loss = fit.losses({"weights": weights})
    loss.sum().backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-6
    assert loss.item() == fit.best_loss.item()
    by_adam = fitted(
        grids(11), [data], 2000, temperature=2.0, learning_rate=0.05, uniform_response=True, **PARTIAL
    )
    assert by_adam.best_loss.item() == pytest.approx(fit.best_loss.item(), abs=2e-3)


def test_the_best_iterate_is_kept() -> None:
    fit = RewardFit(grids(11), [answers()], RegretConfig(**{**QUICK, "learning_rate": 5.0}))
    seen, best = math.inf, torch.zeros(1, 6)
    for _ in range(60):
        before = fit._parameters["weights"].detach().clone()
        fit.step(1)
        if fit.loss.item() < seen:
            seen, best = fit.loss.item(), before
    assert fit.best_loss.item() == seen
    assert torch.equal(fit.weights, best)
    close(fit.losses({"weights": fit.weights}), fit.best_loss)
    assert fit.loss.item() > seen  # steps this large do not end at their best


def test_exchanging_the_segments_changes_nothing() -> None:
    data = answers()
    for config in ({}, PARTIAL, {**PARTIAL, "uniform_response": True}):
        one, other = (fitted(grids(11), [d], **config) for d in (data, data.swapped()))
        assert one.weights.any()
        close(one.weights, other.weights, 1e-6)
        close(one.best_loss, other.best_loss, 1e-9)


def test_the_temperature_divides_the_scores() -> None:
    """A convex fit at temperature 10 has ten times the weights."""
    data = answers(11, 200, PartialReturn(), kind="logistic", temperature=3.0)
    cold, hot = (fitted(grids(11), [data], temperature=t, ridge=0.0, **PARTIAL) for t in (1.0, 10.0))
    moved = cold.weights.abs() > 1e-6
    assert moved.sum() >= 3
    close(hot.weights[moved], 10.0 * cold.weights[moved], 1e-4)
    regret = RewardFit(grids(11), [answers()], RegretConfig(**QUICK, temperature=4.0))
    plain = RewardFit(grids(11), [answers()], RegretConfig(**QUICK))
    some = {"weights": torch.randn(1, 6, dtype=torch.float64)}
    close(4.0 * regret.logits(some), plain.logits(some))


def test_weights_of_comparisons_count() -> None:
    counts = torch.randint(0, 4, (120,), generator=torch.Generator().manual_seed(0))
    cases: list[tuple[StepwiseModel, dict[str, Any]]] = [(PartialReturn(), PARTIAL), (Regret(), {})]
    for model, config in cases:
        data = answers(11, 120, model, kind="logistic")
        weighted = replace(data, weights=counts.double())
        repeated = data[torch.arange(120).repeat_interleave(counts)]
        one, same, other = (fitted(grids(11), [d], **config) for d in (weighted, repeated, data))
        close(one.weights, same.weights, 1e-4)
        close(one.best_loss, same.best_loss, 1e-9)
        assert (one.weights - other.weights).abs().max() > 1e-2


def test_answers_at_random_are_found_out() -> None:
    """Three in ten answers are given by the toss of a coin; the others are about partial return."""
    mdp = grids(38)
    first, second = random_pairs(mdp, 4000, length=(1, 2, 3), seed=3)
    difference = (second.features - first.features).sum(1) @ mdp.weights[0]  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    chances = 0.7 * torch.sigmoid(4.0 * difference) + 0.15
    labels = (torch.rand(4000, generator=generator) < chances).double()
    data = Preferences.from_labels(first, second, labels)
    settings: dict[str, Any] = {**PARTIAL, "uniform_response": True, "learning_rate": 0.3}
    fit = fitted(mdp, [data], 400, **settings)
    share = torch.sigmoid(fit._best["uniform_logit"]).item()
    assert share == pytest.approx(0.3, abs=0.05)
    assert fit.best_loss.item() < fitted(mdp, [data], **PARTIAL).best_loss.item() - 0.01


# Batches of fits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [{}, {"regret_form": "action"}, PARTIAL, {**PARTIAL, "uniform_response": True}]
)
def test_a_batch_of_fits_equals_one_at_a_time(config: dict[str, Any]) -> None:
    """Data sets of different size and segments of different length, all of one MDP."""
    data = [answers(11, 60), answers(11, 17, seed=1, length=5), answers(11, 33, seed=2, length=(1, 2))]
    batch = fitted(grids(11), data, **config)
    assert batch.num_fits == 3
    for b, one in enumerate(data):
        alone = fitted(grids(11), [one], **config)
        close(batch.weights[b], alone.weights[0], 1e-6)
        close(batch.best_loss[b], alone.best_loss[0], 1e-9)
        close(batch.policy()[b], alone.policy()[0], 0.0)
    assert batch.weights.any(1).all()
    assert (batch.weights[0] - batch.weights[1]).abs().max() > 0.01


@pytest.mark.parametrize("config", [{}, {"regret_form": "action"}, PARTIAL])
@pytest.mark.parametrize("stochastic", [False, True])
def test_fits_over_mdps_of_different_size_equal_one_at_a_time(
    config: dict[str, Any], stochastic: bool
) -> None:
    layouts = (11, 2, 1)
    mdps = grids(*layouts, stochastic=stochastic)
    assert len(set(mdps.valid.sum(1).tolist())) == 3
    data = [answers(layout, 40, seed=s, stochastic=stochastic) for layout in layouts for s in (0, 1)]
    batch = fitted(mdps, data, seed=5, **config)
    fitted_mdps = batch.fitted_mdps()
    returns = batch.scaled_returns()
    assert batch.weights.any(1).all()
    for b, one in enumerate(data):
        m = b // 2
        alone = fitted(grids(layouts[m], stochastic=stochastic), [one], seed=5, **config)
        size = alone.mdps.num_states
        assert torch.equal(fitted_mdps.valid[b], mdps.valid[m])
        close(batch.weights[b], alone.weights[0], 1e-6)
        close(batch.best_loss[b], alone.best_loss[0], 1e-9)
        close(batch.rewards()[b, :size], alone.rewards()[0], 1e-5)
        close(batch.policy()[b, :size], alone.policy()[0], 0.0)
        close(returns[b], alone.scaled_returns()[0], 1e-6)


def test_neural_fits_do_not_see_each_other() -> None:
    data = [answers(11, 30, PartialReturn(), seed=s) for s in (0, 1, 2)]
    one, other = (fitted(grids(11), [data[0], data[s]], **NEURAL) for s in (1, 2))
    close(one.best_loss[0], other.best_loss[0], 1e-9)
    close(one.rewards()[0], other.rewards()[0], 1e-6)
    assert (one.rewards()[1] - other.rewards()[1]).abs().max() > 1e-3
    assert (one.rewards()[0] - one.rewards()[1]).abs().max() > 1e-3


def test_seeds_of_networks_and_policy_sets() -> None:
    networks = [fitted(grids(11), [answers()], 3, seed=s, **NEURAL).rewards() for s in (1, 1, 2)]
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])
    sets = [RewardFit(grids(11), [answers()], RegretConfig(**QUICK), seed=s).policies for s in (1, 1, 2)]
    assert torch.equal(sets[0].psi, sets[1].psi)  # type: ignore[union-attr]
    assert not torch.equal(sets[0].psi, sets[2].psi)  # type: ignore[union-attr]
    before = torch.get_rng_state()
    fitted(grids(11), [answers()], 3, **NEURAL).rewards()
    assert torch.equal(torch.get_rng_state(), before)


# Settings ----------------------------------------------------------------------------------------------


def test_the_form_follows_the_environment() -> None:
    for stochastic in (False, True):
        mdp, data = grids(1, stochastic=stochastic), answers(1, 10, stochastic=stochastic)
        forms = [RewardFit(mdp, [data], RegretConfig(**QUICK, regret_form=form)).action_form
                 for form in ("auto", "deterministic", "action")]  # fmt: skip
        assert forms == [stochastic, False, True]


def test_the_true_policy_may_stay_in_the_set() -> None:
    """Entries that draw the true weights now and then find their policy, unless it is kept out."""
    mdp, found = grids(11), []
    _, _, policy = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), 0.999)
    true, _ = successor_features(mdp, policy, 0.999)
    for exclude in (True, False):
        config = RegretConfig(
            policy_entries=tuple(mdp.weights[0].tolist()), max_duplicates=400, exclude_true_policy=exclude
        )
        fit = RewardFit(mdp, [answers()], config)
        assert fit.policies is not None
        found.append((fit.policies.psi[0] - true).abs().flatten(1).amax(1).min().item())
    assert found[0] > 1e-3
    assert found[1] < 1e-9


def test_an_advantage_is_acted_on_without_planning() -> None:
    data = answers(38, 300)
    planned = fitted(grids(38), [data], **PARTIAL)
    greedy = fitted(grids(38), [data], **PARTIAL, interpretation="advantage")
    assert torch.equal(planned.weights, greedy.weights)
    rewards = planned.rewards()
    close(planned.policy(), optimal_policy(grids(38), rewards, 0.999)[2], 0.0)
    close(greedy.policy(), greedy_policy(rewards), 0.0)
    assert not torch.equal(planned.policy(), greedy.policy())


def test_absorbing_steps_count_and_are_worth_nothing() -> None:
    data = answers(11, 60, PartialReturn(), length=4)
    ended = data.second.terminated & (data.second.lengths < 4)
    assert ended.any()
    plain, absorbing = (
        RewardFit(grids(11), [data], RegretConfig(**NEURAL, absorbing=on)) for on in (False, True)
    )
    assert plain._segment_mask.sum() < absorbing._segment_mask.sum()
    assert absorbing._segment_mask[0, 1, ended].all()
    # The same network, asked the same: it only adds what it gives for zero features after the end.
    nothing = plain.reward(torch.zeros(1, 6, dtype=torch.float64))[0, 0]
    missing = (~plain._segment_mask[0] * absorbing._segment_mask[0]).sum(-1) * nothing
    expected = plain.logits(plain._parameters) + (missing[1] - missing[0])
    close(absorbing.logits(absorbing._parameters), expected, 1e-5)
    # A learned reward that ends in nothing: the constant that was never seen is taken out.
    assert nothing.abs() > 1e-3
    phi = torch.eye(6, dtype=torch.float64)
    close(absorbing.reward(phi), plain.reward(phi) - nothing, 1e-6)
    assert absorbing.reward(torch.zeros(1, 6, dtype=torch.float64)).abs().max() < 1e-9


def test_an_absorbing_neural_reward_plans_well() -> None:
    data = answers(38, 1000, PartialReturn(), 4)
    fit = fitted(grids(38), [data], 400, **NEURAL, absorbing=True)
    assert fit.scaled_returns().item() > 0.9


def test_network_rewards_of_lotteries_are_means() -> None:
    data = answers(1, 30, PartialReturn(), stochastic=True)
    mdp = grids(1, stochastic=True)
    fit = fitted(mdp, [data], 5, **NEURAL)
    rewards, each = fit.rewards()[0], fit.reward(mdp.features[0].flatten(0, 2))[0].reshape(-1, 4, 2)
    for s in range(mdp.num_states):
        for a in range(4):
            expected = sum(float(mdp.probabilities[0, s, a, k] * each[s, a, k]) for k in range(2))
            assert rewards[s, a].item() == pytest.approx(expected, abs=1e-6)


# Data that do not belong -------------------------------------------------------------------------------


def spoiled(change: Callable[[Segments], dict[str, Any]]) -> Preferences:
    data = answers()
    sides = {side: getattr(data, side) for side in ("first", "second")}
    return replace(data, **{side: replace(given, **change(given)) for side, given in sides.items()})


def elsewhere(segments: Segments) -> dict[str, Any]:
    """The same segments, but started one state further."""
    obs = segments.obs.clone()
    obs[:, 0] = (obs[:, 0] + 1) % 15
    return {"obs": obs}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: [], "there are 0 data sets for 1 MDPs"),
        (lambda: [answers()[:0]], "data set 0: there is no comparison"),
        (lambda: [replace(answers(), offsets=answers().labels)], "data set 0: the comparisons carry offsets"),
        (lambda: [answers(), answers(0)], r"data set 1: obs of the first segments range from \d+ to \d+"),
        (lambda: [spoiled(lambda s: {"obs": s.obs.double()})], r"data set 0: obs of .* are torch\.float64"),
        (lambda: [spoiled(lambda s: {"actions": s.actions.int()})], r"actions of .* are torch\.int32"),
        (
            lambda: [spoiled(lambda s: {"actions": s.actions + 4 * s.mask})],
            r"data set 0: actions of the first segments range from \d to \d; the environment has 0 to 3",
        ),
        (
            lambda: [spoiled(lambda s: {"features": None})],
            "data set 0: the first segments have no reward features per transition; the environment has 6",
        ),
        (
            lambda: [spoiled(lambda s: {"features": s.features[..., :5]})],  # type: ignore[index]
            "data set 0: the first segments have 5 reward features",
        ),
        (
            lambda: [spoiled(lambda s: {"features": 2.0 * s.features})],  # type: ignore[operator]
            "data set 0: row 0 of the first segments goes from state .* which cannot happen in this",
        ),
        (
            lambda: [spoiled(lambda s: {"actions": (s.actions + 1) % 4 * s.mask})],
            "which cannot happen in this",
        ),
        (lambda: [spoiled(elsewhere)], "which cannot happen in this environment"),
        (
            lambda: [spoiled(lambda s: {"terminated": ~s.terminated})],
            r"data set 0: row 0 of the first segments ends in state \d+, which .*, with terminated",
        ),
        (
            lambda: [replace(answers(), labels=torch.full((60,), math.nan, dtype=torch.float64))],
            r"data set 0: labels\[0\] hold NaN",
        ),
    ],
)
def test_data_that_do_not_belong_are_refused(data: Callable[[], list[Preferences]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardFit(grids(11), data(), RegretConfig(**QUICK))


def test_data_sets_must_be_shared_out_evenly() -> None:
    with pytest.raises(ValueError, match="there are 3 data sets for 2 MDPs; give the same number for each"):
        RewardFit(grids(11, 38), [answers()] * 3, RegretConfig(**QUICK))


def test_what_a_fit_does_not_have_it_says() -> None:
    neural, convex = fitted(grids(11), [answers()], 1, **NEURAL), fitted(grids(11), [answers()], **PARTIAL)
    with pytest.raises(ValueError, match="the reward is neural; it has no weights per feature"):
        _ = neural.weights
    with pytest.raises(ValueError, match="there is no policy set"):
        convex.values(convex.weights)


def test_scaled_returns_are_those_of_the_planned_policy() -> None:
    fit = fitted(grids(11, 38), [answers(), answers(38)])
    close(fit.scaled_returns(), scaled_return(grids(11, 38), fit.policy(), 0.999), 0.0)
