"""Soft generalised policy improvement: what it promises, on grids whose values are known exactly."""

import math
from functools import cache
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.data import Preferences
from prefrl.functional.value_based.policy_improvement import soft_maximum, soft_policy_improvement
from prefrl.preferences import DeterministicRegret, Regret, Valuation, valuate
from prefrl.preferences.reward_fit import RegretConfig, RewardFit
from prefrl.tabular import TabularMDP, build_policy_set, optimal_policy, policy_iteration, successor_features
from prefrl.tabular.segments import random_pairs, random_segments

GAMMA = 0.999
KINDS = ["delivery", "grid 1", "grid 12", "lottery 1"]
ENTRIES = RegretConfig().policy_entries


@cache
def mdp_of(kind: str) -> TabularMDP:
    if kind == "delivery":
        return TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))
    name, seed = kind.split()
    return TabularMDP.from_env(
        gym.make("prefrl/RandomGrid-v0", layout_seed=int(seed), stochastic=name == "lottery")
    )


@cache
def policies_of(kind: str) -> tuple[Tensor, Tensor]:
    """psi [P, S, F] and psi of pairs [P, S, A, F] of a set without the optimal policy."""
    mdp = mdp_of(kind)
    policies = build_policy_set(mdp, GAMMA, entries=ENTRIES, max_policies=30, exclude=mdp.weights)
    return policies.psi[0], policies.psi_action[0]


def some_weights(kind: str, count: int = 6) -> Tensor:
    """The true weights, and random ones [count, F]."""
    true = mdp_of(kind).weights
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 50.0, 50.0, 2.0, 5.0, 2.0, 50.0], dtype=torch.float64)[: true.shape[-1]]
    others = scale * torch.randn(count - 1, true.shape[-1], generator=generator, dtype=torch.float64)
    return torch.cat([true, others])


def values(psi: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """V [W, S] of a set [P, S, F] under weights [W, F]."""
    return soft_policy_improvement(weights[None], [psi.transpose(0, 1).contiguous()], temperature)[0]


def optimal_values(kind: str, weights: Tensor) -> Tensor:
    mdp = mdp_of(kind)
    return policy_iteration(mdp, mdp.linear_rewards(weights[:, None]), GAMMA)[:, 0]


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0, 30.0])
def test_it_is_a_lower_bound_of_the_optimal_value(kind: str, temperature: float) -> None:
    weights, (psi, psi_action) = some_weights(kind), policies_of(kind)
    best = optimal_values(kind, weights)
    slack = 1e-10 * (1.0 + best.abs().max().item())
    assert (values(psi, weights, temperature) <= best + slack).all()
    mdp = mdp_of(kind)
    quality = optimal_policy(mdp, mdp.linear_rewards(weights[:, None]), GAMMA)[1][:, 0]
    assert (values(psi_action.flatten(1, 2), weights, temperature) <= quality.flatten(1) + slack).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_hard_maximum_grows_with_the_set(kind: str) -> None:
    weights, (psi, _) = some_weights(kind), policies_of(kind)
    before = torch.full((len(weights), psi.shape[1]), -math.inf, dtype=torch.float64)
    for size in range(1, len(psi) + 1):
        after = values(psi[:size], weights, 0.0)
        assert (after >= before).all()
        before = after
    assert not torch.equal(before, values(psi[:1], weights, 0.0))


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_optimal_policy_in_the_set_it_is_the_optimal_value(kind: str) -> None:
    mdp, weights, (psi, psi_action) = mdp_of(kind), some_weights(kind), policies_of(kind)
    for w in weights:
        value, quality, policy = optimal_policy(mdp, mdp.linear_rewards(w[None]), GAMMA)
        own, own_action = successor_features(mdp, policy, GAMMA)
        slack = 1e-9 * (1.0 + value.abs().max().item())
        close(values(torch.cat([psi, own]), w[None], 0.0)[0], value[0], slack)
        pairs = torch.cat([psi_action, own_action]).flatten(1, 2)
        close(values(pairs, w[None], 0.0)[0], quality[0].flatten(), slack)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1e-3, 0.1, 5.0])
def test_the_soft_maximum_stays_within_t_log_of_the_size(kind: str, temperature: float) -> None:
    weights, (psi, _) = some_weights(kind), policies_of(kind)
    small = 0.03 * temperature * weights  # so small that the members' values come near to each other
    gaps = [values(psi, w, 0.0) - values(psi, w, temperature) for w in (weights, small)]
    for gap in gaps:
        assert (gap >= -1e-9).all()
        assert (gap <= temperature * math.log(len(psi)) + 1e-9).all()
    assert gaps[1].max() > 0.1 * temperature


# The likelihood ----------------------------------------------------------------------------------------


def make_fit(kind: str, form: str, count: int = 60, **config: Any) -> tuple[RewardFit, Preferences]:
    mdp = mdp_of(kind)
    first, second = random_pairs(mdp, count, length=(2, 4), seed=1)  # some end before they are over
    labels = torch.rand(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    preferences = Preferences.from_labels(first, second, labels)
    config = {"max_policies": 12, "regret_form": form, **config}
    return RewardFit(mdp, [preferences], RegretConfig(**config)), preferences


@pytest.mark.parametrize("kind", ["grid 1", "lottery 1"])
@pytest.mark.parametrize("form", ["deterministic", "action"])
@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_the_gradient_of_the_loss_is_the_finite_difference(kind: str, form: str, temperature: float) -> None:
    fit, _ = make_fit(kind, form, gpi_temperature=temperature, temperature=20.0)
    for weights in some_weights(kind, 3):
        start = weights[None].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda w: fit.losses({"weights": w}), start, rtol=1e-4)


@pytest.mark.parametrize("form", ["deterministic", "action"])
@pytest.mark.parametrize("kind", ["delivery", "grid 1", "lottery 1"])
def test_log_odds_equal_a_plain_twin(kind: str, form: str) -> None:
    fit, preferences = make_fit(kind, form, temperature=2.0)
    assert fit.policies is not None
    psi, psi_action = fit.policies.psi[0], fit.policies.psi_action[0]
    for weights in some_weights(kind, 3):
        state = soft_maximum((psi @ weights).T, 1e-3)
        action = soft_maximum((psi_action @ weights).permute(1, 2, 0), 1e-3)
        scores = []
        for segments in (preferences.first, preferences.second):
            assert segments.features is not None
            for i in range(len(segments)):
                n = int(segments.lengths[i])
                states, actions = segments.obs[i].tolist(), segments.actions[i].tolist()
                score = 0.0
                for t in range(n):
                    if form == "action":
                        score += float(action[states[t], actions[t]] - state[states[t]])
                    else:
                        score += float(segments.features[i, t] @ weights)
                if form == "deterministic":
                    score += float(state[states[n]] - state[states[0]])
                scores.append(score)
        count = len(preferences)
        expected = torch.tensor(scores[count:], dtype=torch.float64) - torch.tensor(
            scores[:count], dtype=torch.float64
        )
        close(fit.logits({"weights": weights[None]})[0], expected / 2.0, 1e-9)


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 2.0])
@pytest.mark.parametrize("kind", ["delivery", "grid 1", "grid 12"])
def test_both_forms_are_equal_undiscounted_where_nothing_is_random(kind: str, temperature: float) -> None:
    """Policies that try every action end, so their features exist at gamma 1."""
    mdp, weights = mdp_of(kind), some_weights(kind)
    generator = torch.Generator().manual_seed(0)
    shape = (10, 1, mdp.num_states, 4)
    policy = torch.softmax(torch.randn(shape, generator=generator, dtype=torch.float64), -1)
    psi, psi_action = (table[:, 0] for table in successor_features(mdp, policy, 1.0))
    value = values(psi, weights, temperature)
    quality = values(psi_action.flatten(1, 2), weights, temperature).unflatten(1, (-1, 4))
    segments = random_segments(mdp, 400, 4, seed=0)
    assert segments.features is not None
    rewards = torch.einsum("nlf,wf->wnl", segments.features, weights)
    v: Valuation = valuate(segments, rewards, value, quality)
    scale = 1.0 + value.abs().max().item()
    assert (quality.amax(-1) - value).abs().max() > 1e-3 * scale  # the values are nobody's optimum
    close(Regret().score(v) / scale, DeterministicRegret().score(v) / scale, 1e-12)
    if kind == "grid 12":
        close(Regret().score(v)[0], DeterministicRegret().score(v)[0], 1e-10)


def test_with_a_discount_the_forms_of_the_fit_differ_by_what_telescopes() -> None:
    deterministic, preferences = make_fit("delivery", "deterministic", gpi_temperature=0.0)
    action, _ = make_fit("delivery", "action", gpi_temperature=0.0)
    for weights in some_weights("delivery", 4):
        value = action.values(weights[None])[0][0]
        extra = []
        for segments in (preferences.first, preferences.second):
            following = torch.where(segments.mask, value[segments.obs[:, 1:]], 0.0)
            extra.append((GAMMA - 1.0) * following.sum(-1))
        parameters = {"weights": weights[None]}
        difference = action.logits(parameters)[0] - deterministic.logits(parameters)[0]
        close(difference, extra[1] - extra[0], 1e-10)
        assert difference.abs().max() > 1e-3


def test_values_are_those_of_the_set() -> None:
    fit, _ = make_fit("lottery 1", "action", gpi_temperature=0.5)
    assert fit.policies is not None
    weights = some_weights("lottery 1", 1)
    state, advantage = fit.values(weights)
    close(state, values(fit.policies.psi[0], weights, 0.5), 1e-12)
    quality = values(fit.policies.psi_action[0].flatten(1, 2), weights, 0.5).unflatten(1, (-1, 4))
    close(advantage, quality - state[..., None], 1e-12)
    terminal = mdp_of("lottery 1").terminal
    assert not state[terminal].any()
    assert not advantage[terminal].any()
