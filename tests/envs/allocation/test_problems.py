"""Sub-problems of online allocation against brute force and numerical optimisation."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from prefrl.envs.allocation.problems import (
    AssortmentOffer,
    EntropyMatch,
    SecondPriceBid,
    SingleChoice,
    largest_entropy,
    problem_from_json,
)


def choices(rng, n, m, d):
    """A single-choice problem, requests and prices."""
    problem = SingleChoice(reward_bound=1.0, m=m, d=d)
    requests = np.concatenate([rng.random((n, d)), rng.random((n, m * d))], axis=1)
    return problem, requests, rng.exponential(0.4, (n, m))


@pytest.mark.parametrize(("m", "d"), [(1, 1), (1, 4), (3, 1), (3, 5)])
def test_single_choice_is_the_best_of_all(m, d):
    problem, requests, mu = choices(np.random.default_rng(0), 300, m, d)
    answers = problem.best_response(requests, mu)
    rewards, consumption = problem.outcome(requests, answers)
    null = 0
    for row, (request, price) in enumerate(zip(requests, mu, strict=True)):
        f, b = request[:d], request[d:].reshape(m, d)
        gains = [0.0] + [f[j] - sum(price[i] * b[i, j] for i in range(m)) for j in range(d)]
        best = max(range(d + 1), key=lambda a: gains[a])
        assert answers[row] == best
        null += best == 0
        assert rewards[row] == (0.0 if best == 0 else f[best - 1])
        np.testing.assert_array_equal(consumption[row], np.zeros(m) if best == 0 else b[:, best - 1])
        action, taken = problem.serve(request, price)
        assert action == best
        np.testing.assert_array_equal(taken, consumption[row])
    assert 0 < null < 300
    np.testing.assert_array_equal(problem.best_reward(requests), requests[:, :d].max(1))


def test_ties_with_not_serving_do_not_serve():
    problem = SingleChoice(reward_bound=1.0, m=1, d=2)
    request = np.array([[0.5, 0.25, 1.0, 0.5]])  # both products gain exactly 0 at the price 1/2
    assert problem.best_response(request, np.array([[0.5]])) == [0]
    assert problem.serve(request[0], np.array([0.5]))[0] == 0
    assert problem.best_response(request, np.array([[0.4999]])) == [1]


def test_the_best_bid_needs_no_rival():
    problem = SecondPriceBid(reward_bound=1.0)
    rng = np.random.default_rng(0)
    requests, mu = rng.random((500, 2)), rng.exponential(0.5, (500, 1))
    bids = problem.best_response(requests[:, :1], mu)
    assert bids.shape == (500, 1)
    rewards, payments = problem.outcome(requests, bids)
    achieved = rewards - mu[:, 0] * payments[:, 0]
    for bid in np.linspace(0.0, 1.0, 101):
        other, paid = problem.outcome(requests, np.full((500, 1), bid))
        assert (achieved >= other - mu[:, 0] * paid[:, 0] - 1e-12).all()
    won = bids[:, 0] >= requests[:, 1]
    np.testing.assert_allclose(payments[:, 0], requests[:, 1] * won)
    np.testing.assert_allclose(achieved, problem.bound_terms(requests, mu)[0], atol=1e-12)
    assert problem.expected_consumption(requests[:, :1], bids) is None
    # a bid of nothing takes no part, though a rival may bid nothing as well
    assert problem.outcome(np.array([[0.5, 0.0]]), np.zeros((1, 1)))[0] == [0.0]


@pytest.mark.parametrize("lam", [0.05, 0.5, 2.0])
def test_entropy_match_is_the_numerical_optimum(lam):
    problem = EntropyMatch(reward_bound=10.0, d=4, lam=lam)
    rng = np.random.default_rng(1)
    kinds = set()
    for _ in range(40):
        q, mu = rng.random((1, 4)), rng.exponential(0.6, (1, 4))
        x = problem.best_response(q, mu)
        assert (x >= 0.0).all()
        assert x.sum() <= 1.0 + 1e-12
        kinds.add(bool(x.sum() > 1.0 - 1e-9))
        value = problem.outcome(q, x)[0][0] - (mu * x).sum()

        def loss(z, c=(q - mu)[0]):
            z = np.maximum(z, 1e-300)
            return -(c @ z - lam * (z * np.log(z)).sum())

        found = minimize(loss, np.full(4, 0.2), method="SLSQP", bounds=[(0.0, 1.0)] * 4, tol=1e-13,
                         constraints={"type": "ineq", "fun": lambda z: 1.0 - z.sum()})  # fmt: skip
        assert value >= -found.fun - 1e-7
        np.testing.assert_allclose(x[0], found.x, atol=2e-3)
    if lam == 0.5:
        assert kinds == {False, True}, "both sums below 1 and equal to 1 must occur"
    # hand-computed: d = 1, q = 0, lam = 1: x = 1/e pays 1/e, the largest entropy
    one = EntropyMatch(reward_bound=10.0, d=1, lam=1.0)
    x = one.best_response(np.zeros((1, 1)), np.zeros((1, 1)))
    assert x[0, 0] == pytest.approx(np.exp(-1.0))
    assert one.outcome(np.zeros((1, 1)), x)[0][0] == pytest.approx(np.exp(-1.0)) == largest_entropy(1)
    assert largest_entropy(5) == pytest.approx(np.log(5.0))


def test_entropy_match_survives_extreme_qualities():
    problem = EntropyMatch(reward_bound=10.0, d=3, lam=1e-3)
    x = problem.best_response(np.array([[5.0, 1.0, 0.0]]), np.array([[0.0, 900.0, 0.0]]))
    np.testing.assert_allclose(x, [[1.0, 0.0, 0.0]], atol=1e-12)


def assortments(rng, d):
    problem = AssortmentOffer(reward_bound=1.0, d=d, attraction_bound=20.0)
    prices, attractions = rng.random(d), np.exp(rng.normal(0.0, 1.5, d))
    return problem, np.concatenate([prices, attractions])


def test_assortments_equal_brute_force():
    rng = np.random.default_rng(2)
    sizes = set()
    for case in range(500):
        d = 1 + case % 8
        problem, seen = assortments(rng, d)
        mu = rng.exponential(0.4, d)
        best = -1.0
        for chosen in itertools.product((0, 1), repeat=d):
            weight = np.array(chosen) * seen[d:]
            best = max(best, float((weight * (seen[:d] - mu)).sum() / (1.0 + weight.sum())))
        offered = problem.best_response(seen[None], mu[None])
        weight = offered[0] * seen[d:]
        assert (weight * (seen[:d] - mu)).sum() / (1.0 + weight.sum()) == pytest.approx(best, abs=1e-12)
        terms, slopes = problem.bound_terms(np.append(seen, 0.5)[None], mu[None])
        assert terms[0] == pytest.approx(best, abs=1e-12)
        np.testing.assert_allclose(-slopes, problem.expected_consumption(seen[None], offered))
        sizes.add(int(offered.sum()))
    assert sizes >= {0, 1, 2, 3, 4}


def test_customers_choose_as_the_logit_model_says():
    rng = np.random.default_rng(3)
    problem, seen = assortments(rng, 4)
    n = 40_000
    requests = np.concatenate([np.tile(seen, (n, 1)), rng.random((n, 1))], axis=1)
    offered = np.tile([1, 0, 1, 1], (n, 1))
    rewards, bought = problem.outcome(requests, offered)
    assert set(np.unique(bought)) == {0.0, 1.0}
    assert bought.sum(1).max() == 1.0
    weight = seen[4:] * offered[0]
    np.testing.assert_allclose(bought.mean(0), weight / (1.0 + weight.sum()), atol=0.01)
    np.testing.assert_allclose(rewards, bought @ seen[:4])
    np.testing.assert_allclose(
        problem.expected_consumption(requests[:, :-1], offered)[0], bought.mean(0), atol=0.01
    )


def test_what_is_out_of_stock_is_not_offered():
    problem, _ = assortments(np.random.default_rng(0), 3)
    actions, stock = np.array([[1, 1, 0]]), np.array([[True, False, True]])
    assert problem.without(actions, stock).tolist() == [[1, 0, 0]]


def every_problem(rng, n):
    """Problems with requests and prices."""
    yield choices(rng, n, 2, 3)
    yield SecondPriceBid(1.0), rng.random((n, 2)), rng.random((n, 1))
    yield EntropyMatch(6.0, 3, 0.2), rng.random((n, 3)), rng.random((n, 3))
    seen = np.concatenate([rng.random((n, 3)), rng.exponential(1.0, (n, 3)), rng.random((n, 1))], axis=1)
    yield AssortmentOffer(1.0, 3, 20.0), seen, rng.random((n, 3)) * 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_give_what_arrays_give(dtype):
    for problem, requests, mu in every_problem(np.random.default_rng(4), 200):
        atol = 1e-12 if dtype is torch.float64 else 1e-5
        seen = requests[:, : problem.num_seen]
        tensors = [torch.as_tensor(part).to(dtype) for part in (requests, mu)]
        ours = problem.best_response(tensors[0][:, : problem.num_seen], tensors[1])
        answers = problem.best_response(seen, mu)
        np.testing.assert_allclose(ours, answers, atol=atol)
        for left, right in zip(
            problem.outcome(tensors[0], ours), problem.outcome(requests, answers), strict=True
        ):
            assert left.dtype is dtype
            np.testing.assert_allclose(left, right, atol=atol)
        for left, right in zip(problem.bound_terms(*tensors), problem.bound_terms(requests, mu), strict=True):
            np.testing.assert_allclose(left, right, atol=atol)


def test_bounds_hold():
    rng = np.random.default_rng(5)
    for problem, requests, mu in every_problem(rng, 500):
        low, high = problem.column_bounds()
        assert (requests >= low).all()
        assert (requests <= high).all()
        answers = problem.best_response(requests[:, : problem.num_seen], mu)
        rewards, consumption = problem.outcome(requests, answers)
        assert (rewards >= 0.0).all()
        assert (rewards <= problem.reward_bound + 1e-12).all()
        assert (consumption >= 0.0).all()
        assert (consumption <= problem.consumption_bound + 1e-12).all()
        assert (
            rewards <= problem.best_reward(requests) + problem.reward_bound * (problem.num_seen == 6)
        ).all()
        nothing = answers * 0
        for part in problem.outcome(requests, nothing):
            assert not part.any(), "the null answer pays and consumes nothing"


def test_the_subgradient_is_one():
    """f*(mu') >= f*(mu) + slope . (mu' - mu) for the convex f*."""
    rng = np.random.default_rng(6)
    for problem, requests, mu in every_problem(rng, 300):
        terms, slopes = problem.bound_terms(requests, mu)
        other = mu * rng.uniform(0.0, 2.0, mu.shape)
        assert (
            problem.bound_terms(requests, other)[0] >= terms + (slopes * (other - mu)).sum(1) - 1e-12
        ).all()


def test_json_round_trip():
    for problem, *_ in every_problem(np.random.default_rng(0), 1):
        assert problem_from_json(problem.to_json()) == problem
    with pytest.raises(ValueError, match="kind 'Other'; known are"):
        problem_from_json({"kind": "Other"})
