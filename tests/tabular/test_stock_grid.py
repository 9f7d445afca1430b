"""Infinite horizons on a grid of stocks: bounds, closed forms, projections, policy iteration."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from prefrl.envs.finite_horizon.small_mdps import random_mdp
from prefrl.envs.grids.grid import TabularModel
from prefrl.functional.returns.objectives import (
    MEAN,
    Hinges,
    NegativeNorm,
    NegativePower,
    ReachesZero,
    TwoSlope,
    UnsoundObjectiveError,
)
from prefrl.tabular import BackwardInduction, FiniteHorizon, StockGrid, StockGridSolver, TabularMDP
from prefrl.tabular.solvers import value_iteration
from prefrl.tabular.stock_grid import error_bound, grid_axes, quantile_projection

GAMMA = 0.5
WHOLE = torch.arange(-6.0, 5.0, dtype=torch.float64)
"""Where the sign of c + G is open for rewards from -2 to 3 and gamma 1/2; whole stocks stay whole."""

LOWER = TwoSlope(1.0, 0.0)


def mdp_of(seed):
    mdp = TabularMDP.stack([random_mdp(seed).model])
    return mdp, mdp.features[..., 0]


def solver(seed, objective=LOWER, grid=None, **settings):
    mdp, rewards = mdp_of(seed)
    grid = StockGrid((WHOLE,)) if grid is None else grid
    return StockGridSolver(mdp, rewards, objective, GAMMA, grid, **settings)


def plain_optimum(seed, below=1.0, above=0.0, sweeps=60):
    """V*(s, c) on the whole stocks in plain Python: closed forms outside, nothing shared with the solver."""
    model = random_mdp(seed).model
    p, succ, r = model.probabilities, model.successors, model.rewards
    sides = {}
    for name, slope in (("below", below), ("above", above)):
        sign = -1.0 if slope < 0 else 1.0
        v = np.zeros(3)
        for _ in range(200):
            v = (p * (sign * r + GAMMA * v[succ])).sum(2).max(1)
        sides[name] = sign * v
    v = {(s, c): 0.0 for s in range(3) for c in range(-6, 5)}

    def at(s, c):
        if c < -6:
            return below * (c + sides["below"][s])
        if c > 4:
            return above * (c + sides["above"][s])
        return v[s, round(c)]

    for _ in range(sweeps):
        v = {
            (s, c): GAMMA * max(
                sum(p[s, a, k] * at(succ[s, a, k], (c + r[s, a, k]) / GAMMA) for k in range(2))
                for a in range(2)
            )
            for s, c in v
        }  # fmt: skip
    return torch.tensor([[v[s, c] for c in range(-6, 5)] for s in range(3)], dtype=torch.float64)


@pytest.mark.parametrize("slopes", [(1.0, 0.0), (0.0, 1.0), (1.0, -1.0), (3.0, 0.5)])
def test_expectations_beside_plain_python(slopes):
    for seed in range(12):
        found = solver(seed, TwoSlope(*slopes)).value_iteration().keys()[0, :, :, 0]
        torch.testing.assert_close(found, plain_optimum(seed, *slopes), rtol=0, atol=1e-9)


def test_value_iteration_converges_as_its_bound_says():
    """|F T*^n delta_0 - F V*| <= 6 2^-n, by exact finite horizons, and some MDP comes near."""
    largest = torch.zeros(9)
    for seed in range(40):
        mdp, rewards = mdp_of(seed)
        optimum = solver(seed).value_iteration().keys()[0, :, :, 0]
        errors = [(optimum - WHOLE.clamp(max=0.0)).abs().max()]
        for n in range(1, 9):
            induction = BackwardInduction(FiniteHorizon(mdp, rewards, n, GAMMA), LOWER, WHOLE)
            induction.run()
            errors.append((induction.rows[0, :, induction.lattice.initial, 0] - optimum).abs().max())
        for n, error in enumerate(errors):
            bound = error_bound(GAMMA, 1.0, sweeps=n, reward=3.0)
            assert bound == 6.0 * 0.5**n
            assert float(error) <= bound + 1e-9
            largest[n] = max(largest[n], error / bound)
    assert (largest > 0.85).all()


def test_policy_iteration_only_improves_and_ends_at_the_optimum():
    improved = 0
    for seed in range(20):
        iteration = solver(seed)
        history = iteration.policy_iteration()
        for before, after in pairwise(history):
            assert bool((after >= before - 1e-9).all())
        improved += len(history) > 1
        optimum = solver(seed).value_iteration().keys()
        torch.testing.assert_close(history[-1], optimum, rtol=0, atol=1e-9)
    assert improved > 5


def test_quantiles_err_as_their_bound_says():
    mean_errors = []
    for count in (10, 50, 250):
        errors = []
        for seed in range(4):
            exact = solver(seed).value_iteration().keys()
            approximate = solver(seed, form="quantile", places=count).value_iteration(tolerance=1e-7)
            errors.append(float((approximate.keys() - exact).abs().max()))
        assert max(errors) <= error_bound(GAMMA, 1.0, quantiles=count, width=20.0)
        mean_errors.append(np.mean(errors))
    assert mean_errors[0] > mean_errors[1] > mean_errors[2] > 0.0


def test_a_categorical_distribution_with_an_atom_at_0_loses_nothing_of_k():
    for seed in range(4):
        exact = solver(seed).value_iteration().keys()
        for places in (11, 51):
            found = solver(seed, form="categorical", places=places).value_iteration(tolerance=1e-9)
            assert (found.support == 0.0).sum() == 1
            torch.testing.assert_close(found.keys(), exact, rtol=0, atol=1e-7)
            torch.testing.assert_close(found.rows.sum(-1), torch.ones(len(found.rows), dtype=torch.float64))


def test_coarse_grids_of_stocks_err_as_their_bound_says():
    """Rewards of thirds: whole stocks are no longer enough."""
    rng = np.random.default_rng(0)
    for seed in range(4):
        mdp, _ = mdp_of(seed)
        rewards = torch.as_tensor(rng.uniform(-2.0, 3.0, (1, 3, 2, 2)))
        values = {}
        for spacing in (1.0, 0.5, 0.1, 0.01):
            grid = StockGrid.linear(-6.0, 4.0, round(10 / spacing) + 1)
            values[spacing] = StockGridSolver(mdp, rewards, LOWER, GAMMA, grid).value_iteration().keys()
        fine = values[0.01][0, :, ::100, 0]
        errors = []
        for spacing in (1.0, 0.5, 0.1):
            coarse = values[spacing][0, :, :: round(1 / spacing), 0]
            errors.append(float((coarse - fine).abs().max()))
            slack = error_bound(GAMMA, 1.0, spacing=0.01)
            assert errors[-1] <= error_bound(GAMMA, 1.0, spacing=spacing) + slack
        assert errors[0] > errors[2]


def test_beyond_the_grid_the_mean_is_all_that_counts():
    """From far below, min(x, 0) is the mean: the policy is the risk-neutral one."""
    mdp, rewards = mdp_of(3)
    solved = solver(3, tie_break=MEAN).value_iteration()
    mean = value_iteration(mdp, mdp.expected_rewards(rewards), GAMMA)
    lowest = solved.keys()[0, :, 0, 0]
    assert bool((lowest <= -6.0 + mean[0] + 1e-9).all())
    torch.testing.assert_close(solved.keys()[0, :, 0, 1] + 0.0, lowest + 0.0, atol=1.0, rtol=0)
    assert solved.act(torch.tensor([0, 1, 2]), torch.tensor([-50.0, -50.0, -50.0])).shape == (3,)


def test_terminal_states_keep_their_stock():
    successors = np.array([[[1], [0]], [[1], [1]]])
    features = np.zeros((2, 2, 1, 1))
    features[0, :, 0, 0] = (2.0, -1.0)
    model = TabularModel(successors, np.ones((2, 2, 1)), features, np.ones(1), np.array([False, True]),
                         np.eye(2)[0], ("reward",))  # fmt: skip
    mdp = TabularMDP.stack([model])
    for form in ("expectation", "quantile", "categorical"):
        found = StockGridSolver(
            mdp, mdp.features[..., 0], TwoSlope(1.0, -1.0), GAMMA, StockGrid.linear(-4.0, 4.0, 17), form=form
        ).value_iteration(tolerance=1e-9)
        points = found.grid.points[:, 0]
        torch.testing.assert_close(found.keys()[0, 1, :, 0], -points.abs(), atol=1e-9, rtol=0)
        at = int((points == -2.0).nonzero())
        assert float(found.keys()[0, 0, at, 0]) == pytest.approx(0.0, abs=1e-9), "take the 2 and stop"
        assert found.act(torch.tensor([0]), torch.tensor([-2.0])).tolist() == [0]


def test_vectors_of_stocks():
    """Components that do not meet: the norm l1 splits into two problems of one number each."""
    mdp, rewards = mdp_of(2)
    both = torch.stack([rewards, torch.zeros_like(rewards)], -1)
    grid = grid_axes([-6.0, -3.0], [4.0, 3.0], [11, 7])
    found = StockGridSolver(mdp, both, NegativeNorm(2, 1.0), GAMMA, grid, outside="clamp").value_iteration()
    keys = found.keys()[0, :, :, 0].view(3, 11, 7)
    middle = keys[:, :, 3]
    one = (
        StockGridSolver(mdp, rewards, TwoSlope(1.0, -1.0), GAMMA, StockGrid((WHOLE,)), outside="clamp")
        .value_iteration()
        .keys()[0, :, :, 0]
    )
    torch.testing.assert_close(middle, one, atol=1e-9, rtol=0)
    assert found.act(torch.tensor([0, 1]), torch.tensor([[0.0, 0.0], [1.0, -1.0]])).shape == (2,)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40))
def test_quantile_projection_is_near(seed, count):
    rng = np.random.default_rng(seed)
    atoms = torch.as_tensor(rng.normal(size=(3, 7)))
    probs = torch.as_tensor(rng.dirichlet(np.ones(7), size=3))
    projected = quantile_projection(atoms, probs, count)
    assert bool((projected[:, 1:] >= projected[:, :-1]).all())
    # The distribution itself as a thousand equal pieces for each of the projection's.
    fine = quantile_projection(atoms, probs, count * 1000)
    distance = (fine - projected.repeat_interleave(1000, -1)).abs().mean(-1)  # both rise
    width = atoms.amax(-1) - atoms.amin(-1)
    assert bool((distance <= width / (2 * count) + 1e-3 * width).all())


def test_quantile_projection_by_hand():
    atoms = torch.tensor([3.0, -1.0, 0.0], dtype=torch.float64)
    probs = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert quantile_projection(atoms, probs, 4).tolist() == [-1.0, 0.0, 3.0, 3.0]
    assert quantile_projection(atoms, probs, 1).tolist() == [0.0]


def test_locating_stocks_interpolates():
    grid = grid_axes([0.0, 0.0], [2.0, 1.0], [3, 2])
    place, weight = grid.locate(torch.tensor([[0.5, 0.25], [2.0, 1.0], [9.0, -9.0]], dtype=torch.float64))
    points = grid.points
    mean = (weight[..., None] * points[place]).sum(1)
    assert mean.tolist() == [[0.5, 0.25], [2.0, 1.0], [2.0, 0.0]]
    torch.testing.assert_close(weight.sum(-1), torch.ones(3, dtype=torch.float64))
    outside = grid.outside(torch.tensor([[0.5, 0.25], [2.1, 0.0], [0.0, -0.1]], dtype=torch.float64))
    assert outside.tolist() == [False, True, True]


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"grid": StockGrid.linear(-3.0, 3.0, 7)}, ValueError,
     "from -3 to 3; closed forms .* covers -4 to 4"),
    ({"objective": NegativePower(2.0), "outside": "closed_form"}, ValueError,
     "no closed form beyond the grid"),
    ({"objective": ReachesZero(), "outside": "clamp"}, UnsoundObjectiveError, "not Lipschitz"),
    ({"form": "distributions"}, ValueError, "form is 'distributions'"),
    ({"objective": Hinges((1.0, 1.0), (1.0, 0.0))}, ValueError, "they must agree"),
    ({"form": "categorical", "places": 2}, ValueError, "places is 2; a categorical distribution needs at"),
    ({"form": "quantile", "places": 0}, ValueError, "places is 0; a quantile distribution needs at least 1"),
    ({"form": "categorical", "support": (1.0, -1.0)}, ValueError, "its lowest atom must be below"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        solver(0, **settings)


def test_gamma_one_is_refused_and_bounded_powers_are_not():
    mdp, rewards = mdp_of(0)
    with pytest.raises(ValueError, match=r"gamma is 1.0; an infinite horizon needs it in \(0, 1\)"):
        StockGridSolver(mdp, rewards, LOWER, 1.0, StockGrid((WHOLE,)))
    found = solver(0, NegativePower(2.0), outside="clamp").value_iteration()
    assert bool(torch.isfinite(found.keys()).all())
    for wrong, message in ((rewards.float(), "dtype torch.float64"), (rewards[:, :2], "rewards has shape")):
        with pytest.raises(ValueError, match=message):
            StockGridSolver(mdp, wrong, LOWER, GAMMA, StockGrid((WHOLE,)))
    with pytest.raises(RuntimeError, match="a policy's evaluation did not settle in 3 sweeps"):
        solver(0).policy_iteration(max_sweeps=3)
    with pytest.raises(ValueError, match="every axis"):
        StockGrid((torch.tensor([1.0, 0.0]),))
    with pytest.raises(RuntimeError, match="did not settle in 2 sweeps"):
        solver(0).value_iteration(max_sweeps=2)
