"""Questions in rounds: what is asked how often, by whom answered, and what the answers change."""

import functools
import operator
from typing import get_args

import gymnasium as gym
import pytest
import torch

import prefrl.envs
from prefrl.preferences import PartialReturn, RewardModel, RewardModelConfig
from prefrl.preferences.asking import ask_about, ask_teacher, exact_answers
from prefrl.preferences.queries import RULES, OptionQueryKind, PoolQueryKind, choose_queries
from prefrl.preferences.questions import (
    Asked,
    LinearBelief,
    Rounds,
    SegmentBelief,
    ask_in_rounds,
    ask_options,
)
from prefrl.run.collect import collect_transitions
from prefrl.tabular import TabularMDP

assert prefrl.envs.REGISTRY
SMALL = RewardModelConfig(members=2, hidden=(8,), epochs=2)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pool(seed=0, pairs=200, size=4):
    """Options of random features, and answers by random weights."""
    features, place = normal(seed, 2 * pairs, size), torch.arange(pairs)
    weights = 2.0 * normal(seed + 1, size)
    margins = (features[pairs:] - features[:pairs]) @ weights
    belief = LinearBelief(features, place, place + pairs, seed=seed)
    asked = []

    def answer(places):
        asked.append(places.tolist())
        return (margins[places] > 0).double(), torch.ones(len(places))

    return belief, answer, asked, margins


@pytest.mark.parametrize("query", get_args(OptionQueryKind))
def test_every_pair_is_asked_about_once_in_rounds_of_one_size(query):
    belief, answer, asked, margins = pool()
    found = ask_in_rounds(belief, 50, answer, query=query, rounds=8)
    assert [len(places) for places in asked] == [7, 7, 6, 6, 6, 6, 6, 6]
    assert functools.reduce(operator.iadd, asked, []) == found.places.tolist()
    assert len(set(found.places.tolist())) == 50
    assert torch.equal(found.labels, (margins[found.places] > 0).double())
    again, answer, _, _ = pool()
    assert torch.equal(ask_in_rounds(again, 50, answer, query=query, rounds=8).places, found.places)


def test_answers_decide_what_is_asked_next():
    belief, answer, _, _ = pool()
    found = ask_in_rounds(belief, 50, answer, query="entropy")
    other, _, _, margins = pool()

    def opposite(places):
        first = (margins[places] > 0).double()
        return torch.where(torch.arange(len(places)) % 2 > 0, first, 1.0 - first), torch.ones(len(places))

    asked = ask_in_rounds(other, 50, opposite, query="entropy")
    assert torch.equal(asked.places[:7], found.places[:7])
    assert not torch.equal(asked.places, found.places)
    near = margins[found.places[25:]].abs().mean()
    assert float(near) < 0.5 * float(margins.abs().mean()), "pairs that are nearly tied"


def test_nothing_is_learned_from_skipped_questions():
    belief, answer, _, _ = pool()

    def skip(places):
        return answer(places)[0], torch.zeros(len(places))

    found = ask_in_rounds(belief, 50, skip, query="bald")
    assert not found.weights.any()
    assert len(set(found.places.tolist())) == 50


def test_a_linear_belief_is_the_posterior_near_its_mode():
    """By the gradient of log posterior at the mode, and the spread of members against its curvature."""
    belief, answer, _, _ = pool(pairs=300)
    places = torch.arange(200)
    labels, weights = answer(places)
    weights[::3] = 2.0
    weights[1::7] = 0.0
    belief.fit(Asked(places, labels, weights.double()))
    slopes, mode = belief.slopes(places), belief._mode
    prior = 9.0 / float(belief.slopes(torch.arange(300)).square().sum(1).mean())
    p = torch.sigmoid(slopes @ mode)
    gradient = (weights * (labels - p)) @ slopes - mode / prior
    assert float(gradient.abs().max()) < 1e-6
    some = torch.arange(200, 300)
    wide = LinearBelief(belief._features, belief._first, belief._second, draws=20_000, seed=1)
    wide.fit(Asked(places, labels, weights.double()))
    curvature = torch.einsum("n,np,nq->pq", weights * p * (1 - p), slopes, slopes) + torch.eye(4) / prior
    x = wide.slopes(some)
    wanted = torch.einsum("np,pq,nq->n", x, curvature.inverse(), x)
    seen = wide.candidates(some, RULES["bald"]).log_odds
    torch.testing.assert_close(seen.mean(0), x @ mode)
    torch.testing.assert_close(seen.var(0, correction=0), wanted, rtol=0.05, atol=0.0)


def test_options_that_come_again():
    utilities = normal(3, 12)

    def answer(first, second):
        assert bool((first // 6 == second // 6).all()), "within a group"
        return torch.sigmoid(utilities[second] - utilities[first]), torch.ones(len(first))

    first, second, asked = ask_options(6, 20, answer, Rounds("active_edges", rounds=3), groups=2)
    pairs = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(pairs) == 20
    degrees = torch.cat([first[:12], second[:12]]).bincount()
    assert degrees.tolist() == [2] * 12, "a circle through each group first"
    torch.testing.assert_close(asked.labels, torch.sigmoid(utilities[second] - utilities[first]))
    with pytest.raises(ValueError, match="count is 31; the pool has 30 pairs"):
        ask_options(6, 31, answer, Rounds("active_edges"), groups=2)
    with pytest.raises(ValueError, match="there are 2002 options"):
        ask_options(1001, 5, answer, Rounds("bald"), groups=2)


def test_a_reward_model_chooses_by_what_it_believes():
    """Its slopes are those of its mean score, and what it was told is its information."""
    env = gym.make("Pendulum-v1")
    data = collect_transitions(None, env, 300, epsilon=1.0, seed=0)
    answers = ask_about(data, 40, length=6)
    model = RewardModel(env.observation_space, env.action_space, SMALL)
    belief = SegmentBelief(model, answers.first, answers.second)
    belief.fit(Asked(torch.arange(30), answers.labels[:30], torch.ones(30).double()))
    slopes = model.slopes(answers.first)
    layer = model.network.mlp.layers[-1]
    last = torch.cat([weight.flatten() for weight in layer.weight]).double()
    bias = layer.bias.flatten().double().mean() * answers.first.lengths
    torch.testing.assert_close(slopes @ last + bias, model.scores(answers.first).mean(0).double(), rtol=1e-4,
                               atol=1e-4)  # fmt: skip
    some = torch.arange(30, 40)
    seen = belief.candidates(some, RULES["d_optimal"])
    first, second = answers.first[some], answers.second[some]
    wanted = choose_queries(
        "d_optimal", 4, model.scores(first), model.scores(second),
        slopes=model.slopes(second) - model.slopes(first), information=model.information(answers[:30]),
    )  # fmt: skip
    assert torch.equal(RULES["d_optimal"].choose(seen, 4), wanted)
    gaps = model.scores(answers.second).mean(0) - model.scores(answers.first).mean(0)
    x = (model.slopes(answers.second) - model.slopes(answers.first))[:30]
    p = torch.sigmoid(gaps[:30].double())
    torch.testing.assert_close(seen.information, x.T @ ((p * (1 - p))[:, None] * x))


@pytest.mark.parametrize("query", get_args(PoolQueryKind))
def test_pairs_of_a_data_set(query):
    data = collect_transitions(None, gym.make("Pendulum-v1"), 300, epsilon=1.0, seed=0)
    rounds = Rounds(query, candidates=3, rounds=2)
    answers = ask_about(data, 10, length=6, rounds=rounds, reward=SMALL).validate()
    assert len(answers) == 10
    drawn = ask_about(data, 10, length=6)
    assert torch.equal(answers.first.obs, drawn.first.obs) == (query == "uniform")


@pytest.mark.parametrize("query", ["bald", "g_optimal", "uniform"])
def test_pairs_of_a_table(query):
    mdp = TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))
    answers = ask_teacher(mdp, 20, model=PartialReturn(), rounds=Rounds(query, candidates=3)).validate()
    assert len(answers) == 20
    drawn = ask_teacher(mdp, 20, model=PartialReturn())
    assert torch.equal(answers.first.obs, drawn.first.obs) == (query == "uniform")


@pytest.mark.parametrize("query", ["active_edges", "variance"])
def test_pairs_of_sequences(query):
    env = gym.make("prefrl/TokenTree-v0")
    answers = exact_answers(env, 100, rounds=Rounds(query)).validate()
    keys = torch.cat([answers.first.actions, answers.second.actions], 1).unique(dim=0)
    assert len(answers) == 100
    assert bool((answers.first.actions != answers.second.actions).flatten(1).any(1).all())
    assert set(answers.labels.tolist()) == {0.0, 1.0}
    assert len(keys) == 100
    with pytest.raises(ValueError, match="num_pairs None, which is all pairs"):
        exact_answers(env, rounds=Rounds(query))


def test_what_cannot_be_served_is_refused():
    data = collect_transitions(None, gym.make("Pendulum-v1"), 300, epsilon=1.0, seed=0)
    with pytest.raises(ValueError, match=r"'active_edges', which counts.*choose one of uniform"):
        ask_about(data, 10, length=6, rounds=Rounds("active_edges"))
    with pytest.raises(ValueError, match="one member, who agrees with itself"):
        ask_about(data, 10, length=6, rounds=Rounds("bald"), reward=RewardModelConfig(members=1))
    with pytest.raises(ValueError, match="query"):
        Rounds("recent")
    belief, answer, _, _ = pool()
    with pytest.raises(ValueError, match="rounds"):
        ask_in_rounds(belief, 5, answer, rounds=0)
    with pytest.raises(ValueError, match="query"):
        ask_in_rounds(belief, 5, answer, query="recent")
