"""Policies with a likelihood: beside torch's distributions, over every space, learner by learner."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from prefrl.data import Segments
from prefrl.functional.streams import Streams
from prefrl.nn.likelihood_policies import (
    DiscretePolicy,
    GaussianPolicy,
    LikelihoodPolicy,
    TabularPolicy,
    joined_policies,
    likelihood_policy,
    policy_table,
    segment_log_probs,
    table_or_network,
)

S, N = 3, 6
CPU = torch.device("cpu")
STATES = gym.spaces.Discrete(5, start=2)
CHOICES = gym.spaces.Discrete(4, start=-1)
PLANE = gym.spaces.Box(-9.0, 9.0, (2, 2))
BOX = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 3.0], np.float32))
LINE = gym.spaces.Box(-np.inf, np.inf, (1,))


def made(kind: str, seed: int = 0, learners: int = S) -> LikelihoodPolicy:
    """A policy of each kind, in float64, with parameters of no special value."""
    torch.manual_seed(seed)
    policy: LikelihoodPolicy
    if kind == "table":
        policy = TabularPolicy(learners, STATES, CHOICES)
    elif kind == "choices":
        policy = DiscretePolicy(learners, PLANE, CHOICES, (8,))
    elif kind == "of states":
        policy = DiscretePolicy(learners, STATES, gym.spaces.MultiDiscrete([2, 3]), (8, 4))
    elif kind == "line":
        policy = GaussianPolicy(learners, PLANE, LINE, (8,), log_std=-0.5)
    else:
        policy = GaussianPolicy(learners, PLANE, BOX, (8,), squashed=kind == "squashed")
    policy.double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


KINDS = ["table", "choices", "of states", "line", "gaussian", "squashed"]


def observed(kind: str, rows: int = N) -> Tensor:
    torch.manual_seed(9)
    if kind in ("table", "of states"):
        return torch.randint(2, 7, (S, rows))
    return 0.5 * torch.randn(S, rows, 2, 2, dtype=torch.float64)


def drawn(policy: LikelihoodPolicy, obs: Tensor) -> Tensor:
    noise = policy.noise(Streams(range(policy.learners), "test", CPU), obs.shape[1]).double()
    return policy.draw(obs, noise).detach()


# Likelihoods -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["table", "choices"])
def test_choices_are_torchs(kind: str) -> None:
    policy, obs = made(kind), observed(kind)
    if isinstance(policy, TabularPolicy):
        logits = torch.stack([policy.table[s][obs[s] - 2] for s in range(S)])
    else:
        assert isinstance(policy, DiscretePolicy)
        (w1, w2), (b1, b2) = policy.network.weights(), policy.network.biases()
        flat = obs.flatten(2)
        logits = torch.stack([torch.relu(flat[s] @ w1[s] + b1[s]) @ w2[s] + b2[s] for s in range(S)])
    actions = torch.randint(-1, 3, (S, N))
    expected = Categorical(logits=logits).log_prob(actions + 1)
    torch.testing.assert_close(policy.log_prob(obs, actions), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(policy.mode(obs), logits.argmax(-1) - 1)


def test_numbers_are_torchs() -> None:
    """In units of the environment: the numbers of the box are 2 and 1.5 times as wide as those of [-1, 1]."""
    policy, obs = made("gaussian"), observed("gaussian")
    assert isinstance(policy, GaussianPolicy)
    (w1, w2), (b1, b2) = policy.network.weights(), policy.network.biases()
    flat = obs.flatten(2)
    outputs = torch.stack([torch.relu(flat[s] @ w1[s] + b1[s]) @ w2[s] + b2[s] for s in range(S)])
    half, middle = torch.tensor([2.0, 1.5]).double(), torch.tensor([0.0, 1.5]).double()
    normal = Normal(middle + half * torch.tanh(outputs), half * policy.free.exp())
    actions = torch.rand(S, N, 2).double() * 2 * half + middle - half
    expected = normal.log_prob(actions).sum(-1)
    torch.testing.assert_close(policy.log_prob(obs, actions), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(policy.mode(obs), normal.mean, rtol=1e-9, atol=1e-9)


def test_without_bounds_the_mean_may_lie_anywhere() -> None:
    policy, obs = made("line"), observed("line")
    assert isinstance(policy, GaussianPolicy)
    with torch.no_grad():
        policy.network.biases()[-1].add_(30.0)
    mean, log_std = policy.parameters_at(obs)
    assert mean.min() > 20.0
    actions = mean.detach() + 1.0
    expected = Normal(mean, log_std.exp()).log_prob(actions)[..., 0]
    torch.testing.assert_close(policy.log_prob(obs, actions), expected, rtol=1e-12, atol=1e-12)


def test_squashed_numbers_are_torchs() -> None:
    policy, obs = made("squashed"), observed("squashed")
    assert isinstance(policy, GaussianPolicy)
    assert policy.free.numel() == 0
    mean, log_std = policy.parameters_at(obs)
    torch.testing.assert_close(torch.cat([mean, log_std], -1), policy.network(obs.flatten(2)))
    half, middle = torch.tensor([2.0, 1.5]).double(), torch.tensor([0.0, 1.5]).double()
    unit = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    inside = torch.tanh(torch.randn(S, N, 2).double())
    expected = (unit.log_prob(inside) - half.log()).sum(-1)
    found = policy.log_prob(obs, middle + half * inside)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy.mode(obs), middle + half * torch.tanh(mean), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["line", "gaussian", "squashed"])
def test_densities_have_mass_1(kind: str) -> None:
    policy, obs = made(kind), observed(kind, rows=1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(0.3)  # so that squashed numbers are not piled up at the bounds
    space: Any = policy.actions.space
    low = np.maximum(space.low, -40.0) - (9.0 if kind == "gaussian" else 0.0)
    high = np.minimum(space.high, 40.0) + (9.0 if kind == "gaussian" else 0.0)
    axes = [torch.linspace(float(a), float(b), 1_001, dtype=torch.float64)[:-1] + (b - a) / 2_002
            for a, b in zip(low, high, strict=True)]  # fmt: skip
    grid = torch.cartesian_prod(*axes).view(-1, len(axes))
    with torch.no_grad():
        density = policy.log_prob(obs.expand(-1, len(grid), -1, -1), grid.expand(S, -1, -1)).exp()
    cell = math.prod((b - a) / 1_000 for a, b in zip(low, high, strict=True))
    assert (density.sum(-1) * cell).tolist() == pytest.approx([1.0] * S, abs=2e-3)


@pytest.mark.parametrize("kind", ["table", "choices"])
def test_probabilities_add_up_to_1(kind: str) -> None:
    policy, obs = made(kind), observed(kind)
    total = sum(policy.log_prob(obs, torch.full((S, N), action)).exp() for action in range(-1, 3))
    torch.testing.assert_close(total, torch.ones(S, N, dtype=torch.float64))


# Draws -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_of_the_space_and_as_likely_as_said(kind: str) -> None:
    """The mean of log pi over many draws is minus the entropy, here told by half of the draws themselves."""
    policy = made(kind)
    obs = observed(kind, rows=1)
    obs = obs.expand(S, 4_000, *obs.shape[2:])
    actions = drawn(policy, obs)
    space = policy.actions.space
    assert all(space.contains(row.numpy().astype(space.dtype)) for row in actions.flatten(0, 1)[:50])
    assert all(space.contains(row.numpy().astype(space.dtype)) for row in policy.mode(obs).detach()[:, 0])
    if not isinstance(space, gym.spaces.Box):
        probs = policy.log_prob(obs, actions).detach().exp()
        for s in range(S):
            for action in torch.unique(actions[s], dim=0):
                here = (actions[s] == action).view(4_000, -1).all(-1)
                assert float(here.double().mean()) == pytest.approx(float(probs[s][here][0]), abs=0.03)


def test_gaussian_draws_are_around_the_mean() -> None:
    policy = made("line")
    assert isinstance(policy, GaussianPolicy)
    obs = observed("line", rows=1).expand(S, 4_000, 2, 2)
    actions = drawn(policy, obs)[..., 0]
    mean, log_std = policy.parameters_at(obs)
    torch.testing.assert_close(actions.mean(1), mean[:, 0, 0], rtol=0, atol=0.08)
    torch.testing.assert_close(actions.std(1), log_std[:, 0, 0].exp(), rtol=0.06, atol=0)


# Learners ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_learners_are_policies_of_their_own(kind: str) -> None:
    parts = [made(kind, seed=seed, learners=1) for seed in range(S)]
    whole, obs = joined_policies(parts), observed(kind)
    assert whole.learners == S
    actions = drawn(whole, obs)
    found = whole.log_prob(obs, actions)
    for s, part in enumerate(parts):
        alone = part.log_prob(obs[s : s + 1], actions[s : s + 1])
        torch.testing.assert_close(found[s : s + 1], alone, rtol=1e-12, atol=1e-12)
    assert parts[0].learners == 1  # they stay as they were
    found.sum().backward()
    slopes = [parameter.grad for parameter in whole.parameters() if parameter.numel()]
    assert all(slope is not None and slope.isfinite().all() and slope.any() for slope in slopes)


# Segments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_segments(kind: str) -> None:
    policy, length = made(kind), 4
    obs = observed(kind, rows=N * (length + 1))[0].unflatten(0, (N, length + 1))
    steps = obs[:, :-1].flatten(0, 1)
    actions = drawn(policy, steps.expand(S, *steps.shape))[0].unflatten(0, (N, length))
    lengths = torch.tensor([1, 4, 2, 3, 4, 1])
    for row, n in enumerate(lengths):
        actions[row, n:] = 0  # which is no action of a space that starts at 1
        obs[row, n:] = obs[row, n].clone()
    segments = Segments(obs, actions, lengths, torch.zeros(N, dtype=torch.bool)).validate()
    found = segment_log_probs(policy, segments)
    assert found.shape == (S, N, length)
    for row in range(N):
        for t in range(length):
            if t >= lengths[row]:
                assert (found[:, row, t] == 0.0).all()
                continue
            at = (obs[row, t].expand(S, 1, *obs.shape[2:]), actions[row, t].expand(S, 1, *actions.shape[2:]))
            torch.testing.assert_close(found[:, row, t], policy.log_prob(*at)[:, 0], rtol=1e-12, atol=1e-12)


def test_padding_need_not_be_an_action() -> None:
    policy = TabularPolicy(1, STATES, gym.spaces.Discrete(2, start=3))
    segments = Segments(torch.full((1, 4), 2), torch.tensor([[4, 0, 0]]), torch.tensor([1]),
                        torch.tensor([False]))  # fmt: skip
    assert segment_log_probs(policy, segments)[0, 0].tolist() == pytest.approx([math.log(0.5), 0.0, 0.0])


# What is refused ---------------------------------------------------------------------------------------


def test_the_policy_that_suits_a_space() -> None:
    assert isinstance(likelihood_policy(PLANE, CHOICES), DiscretePolicy)
    plain, squashed = (likelihood_policy(STATES, BOX, kind=kind) for kind in ("gaussian", "squashed"))
    assert isinstance(plain, GaussianPolicy)
    assert isinstance(squashed, GaussianPolicy)
    assert (plain.squashed, squashed.squashed) == (False, True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TabularPolicy(1, PLANE, CHOICES), "observation_space is Box.*for Discrete spaces"),
        (lambda: TabularPolicy(1, STATES, BOX), "action_space is Box.*for Discrete spaces"),
        (lambda: DiscretePolicy(1, PLANE, BOX), "action_space is Box.*takes Discrete and MultiDiscrete"),
        (lambda: GaussianPolicy(1, PLANE, CHOICES), "action_space is Discrete.*takes a Box"),
        (lambda: GaussianPolicy(1, PLANE, LINE, squashed=True), "action_space is Box.*takes finite bounds"),
        (lambda: likelihood_policy(PLANE, gym.spaces.Box(0, 9, (1,), np.int64)), "Boxes of floating-point"),
        (lambda: likelihood_policy(PLANE, gym.spaces.MultiBinary(2)), "action_space is MultiBinary"),
        (lambda: DiscretePolicy(1, gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), CHOICES), "without pictures"),
        (lambda: DiscretePolicy(1, gym.spaces.MultiBinary(2), CHOICES), "observation_space is MultiBinary"),
    ],
)
def test_other_spaces_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("spaces", "kind", "expected"),
    [
        ((STATES, CHOICES), "auto", TabularPolicy),
        ((STATES, CHOICES), "network", DiscretePolicy),
        ((PLANE, CHOICES), "auto", DiscretePolicy),
        ((STATES, PLANE), "auto", GaussianPolicy),
    ],
)
def test_a_table_where_there_can_be_one(spaces: Any, kind: Any, expected: type) -> None:
    policy = table_or_network(*spaces, kind, hidden=(3,))
    assert type(policy) is expected
    assert policy.learners == 1
    if expected is TabularPolicy:
        assert policy.table.dtype == torch.float64


@pytest.mark.parametrize("kind", ["table", "network"])
def test_a_table_of_what_a_policy_does(kind: Any) -> None:
    policy = table_or_network(STATES, CHOICES, kind, hidden=(3,))
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter)
    table = policy_table(policy, STATES)
    states = torch.arange(5) + 2
    for action in range(4):
        own = policy.log_prob(states[None], torch.full((1, 5), action - 1))[0].exp()
        torch.testing.assert_close(table[:, action], own.double())


def test_a_table_of_boxes_is_refused() -> None:
    with pytest.raises(ValueError, match="table of logits is for Discrete spaces"):
        table_or_network(PLANE, CHOICES, "table")
    with pytest.raises(ValueError, match="both must be Discrete: there is no table"):
        policy_table(table_or_network(STATES, PLANE, "auto", hidden=(3,)), STATES)
