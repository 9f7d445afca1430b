"""Grid worlds as tabular MDPs: what a cell pays, exact values, and what a model must be."""

import dataclasses

import numpy as np
import pytest
import torch

from prefrl.envs.core.backend import NumpyRandom
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.grids.grid import GridDynamics, TabularModel, grid_model
from prefrl.envs.grids.random_grid import RandomGridDynamics

UP, DOWN, LEFT, RIGHT = range(4)
W = np.array([-1.0, 50.0, -50.0, 1.0, -1.0, -2.0])


def corridor(code, here=0):
    """Return the features of going right into ``code`` from a cell of code ``here``."""
    model = grid_model(np.array([[here, code]]), W)
    return dict(zip(model.feature_names, model.features[0, RIGHT, 0], strict=True))


@pytest.mark.parametrize(
    ("code", "paid"),
    [
        (0, {"gas"}),
        (1, {"goal"}),
        (2, {"gas"}),  # a house: stays, and pays where it stands
        (3, {"sheep"}),
        (4, {"gas", "coin"}),
        (5, {"gas", "roadblock"}),
        (6, {"brick gas"}),
        (7, {"goal"}),
        (8, {"gas"}),
        (9, {"sheep"}),
        (10, {"brick gas", "coin"}),
        (11, {"brick gas", "roadblock"}),
    ],
)
def test_entering_a_cell_pays_for_what_stands_there(code, paid):
    assert {name for name, count in corridor(code).items() if count} == paid
    assert set(corridor(code).values()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("here", "paid"),
    [(0, "gas"), (4, "gas"), (5, "gas"), (6, "brick gas"), (10, "brick gas"), (11, "brick gas")],
)
def test_a_blocked_move_pays_the_gas_of_the_cell_alone(here, paid):
    model = grid_model(np.array([[here, 2]]), W)
    for action in (UP, DOWN, LEFT, RIGHT):  # three walls and a house
        assert model.successors[0, action].tolist() == [0]
        assert model.features[0, action, 0].tolist() == [float(name == paid) for name in model.feature_names]


def test_lottery_doubles_the_sheep():
    model = grid_model(np.array([[0, 3, 1]]), np.append(W, 100.0), sheep_lottery=True)
    assert model.feature_names[-1] == "sheep won"
    assert model.terminal.tolist() == [False, True, True, True]
    assert model.successors[0, RIGHT].tolist() == [1, 3]
    assert model.probabilities[0, RIGHT].tolist() == [0.5, 0.5]
    assert model.rewards[0, RIGHT].tolist() == [-50.0, 100.0]
    assert model.probabilities[0, LEFT].tolist() == [1.0, 0.0]
    assert model.optimal_value(1.0)[0] == 25.0
    dynamics = GridDynamics(np.array([[0, 3, 1]]), np.append(W, 100.0), sheep_lottery=True)
    assert dynamics.features([0, 0], [RIGHT, RIGHT], [1, 3]).argmax(1).tolist() == [2, 6]
    for state in (1, 3):  # either outcome is drawn where the sheep stands
        picture = dynamics.draw({"state": np.array([state])}, 0, RIGHT)
        np.testing.assert_array_equal(picture, dynamics.draw({"state": np.array([1])}, 0, RIGHT))


def all_models():
    for seed in range(12):
        yield RandomGridDynamics(seed).model
        yield RandomGridDynamics(seed, stochastic=True).model


def test_random_models_keep_the_contract():
    for model in all_models():
        np.testing.assert_allclose(model.probabilities.sum(-1), 1.0, atol=1e-15)
        terminal = np.flatnonzero(model.terminal)
        assert (model.successors[terminal] == terminal[:, None, None]).all()
        assert not model.features[terminal].any()
        assert model.features.shape == (*model.successors.shape, len(model.feature_names))
        assert ((model.start > 0) == ~model.terminal).all()
        sheep = (model.features[..., 2].max((1, 2)) > 0).any()
        assert sheep or model.terminal.sum() == 1


def test_every_possible_transition_is_stepped_and_pays_its_features():
    """All pairs and outcomes at once, through the dynamics; the impossible ones are refused."""
    for seed in range(6):
        for stochastic in (False, True):
            dynamics = RandomGridDynamics(seed, stochastic)
            model = dynamics.model
            states, actions = (grid.ravel() for grid in np.mgrid[: len(model.terminal), :4])
            for outcome, noise in enumerate((0.25, 0.75)[: 1 + stochastic]):
                state, rewards, terminated = dynamics.step(
                    {"state": states}, actions, {"outcome": np.full(len(states), noise)}
                )
                likely = model.probabilities[states, actions, outcome] > 0
                expected = model.successors[states, actions, np.where(likely, outcome, 0)]
                np.testing.assert_array_equal(state["state"], expected)
                phi = dynamics.features(states, actions, state["state"])
                np.testing.assert_allclose(phi @ model.weights, rewards, rtol=0, atol=1e-12)
                np.testing.assert_array_equal(terminated, model.terminal[expected])


def test_features_refuse_what_cannot_happen():
    dynamics = GridDynamics(np.array([[0, 0, 0, 1]]), W)
    assert dynamics.features(0, RIGHT, 1).shape == (6,)
    assert dynamics.features([[0, 1]], [[RIGHT, LEFT]], [[1, 0]]).shape == (1, 2, 6)
    assert dynamics.features(torch.tensor([0]), torch.tensor([RIGHT]), torch.tensor([1])).shape == (1, 6)
    for transition, message in [
        ((0, RIGHT, 2), "next_obs"),
        ((4, RIGHT, 1), "obs must lie"),
        ((-1, RIGHT, 1), "obs must lie"),
        ((0, 4, 1), "actions must lie"),
    ]:
        with pytest.raises(ValueError, match=message):
            dynamics.features(*transition)


# Starts ----------------------------------------------------------


def test_starts_are_uniform_over_the_cells_that_go_on():
    dynamics = GridDynamics(np.array([[0, 2, 4], [3, 6, 1]]), W)
    starts = dynamics.initial(dynamics.reset_noise(NumpyRandom(np.random.default_rng(0)), 3000))["state"]
    counts = np.bincount(starts, minlength=6)
    assert (counts > 0).tolist() == [True, False, True, False, True, False]
    assert (abs(counts[[0, 2, 4]] - 1000) < 150).all()
    assert dynamics.initial({"start": np.array([0.0, 0.5, 1.0 - 1e-16])})["state"].tolist() == [0, 2, 4]


def test_noise_that_rounds_up_to_one_stays_inside():
    dynamics = GridDynamics(np.array([[0, 0, 1]]), W, backend=TorchBackend("cpu"))
    start = dynamics.initial({"start": torch.tensor([1.0 - 1e-12]).float()})["state"]
    assert start.tolist() == [1]


def test_what_is_done_to_the_model_does_not_reach_the_environment():
    cells = np.array([[0, 0, 1]])
    for backend in (None, TorchBackend("cpu")):
        dynamics = GridDynamics(cells, W, backend=backend)
        for name in ("successors", "weights", "terminal", "features"):
            getattr(dynamics.model, name)[...] = 0
        cells[0, 0] = 3
        state, rewards, terminated = dynamics.step(
            {"state": dynamics.backend.asarray([0, 1])}, dynamics.backend.asarray([RIGHT, RIGHT]), {}
        )
        assert (state["state"].tolist(), rewards.tolist()) == ([1, 2], [-1.0, 50.0])
        assert terminated.tolist() == [False, True]
        assert dynamics.cells.tolist() == [[0, 0, 1]]
        cells[0, 0] = 0


# Exact values ----------------------------------------------------


def value_iteration(model, gamma, tolerance=1e-12):
    value = np.zeros(len(model.terminal))
    for _ in range(60_000):
        targets = (model.probabilities * (model.rewards + gamma * value[model.successors])).sum(2)
        new = np.where(model.terminal, 0.0, targets.max(1))
        if abs(new - value).max() < tolerance:
            return new
        value = new
    raise AssertionError("no convergence")


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.999])
def test_optimal_value_is_the_fixed_point_of_value_iteration(gamma):
    for model in all_models():
        np.testing.assert_allclose(
            model.optimal_value(gamma), value_iteration(model, gamma), rtol=0, atol=1e-8
        )


def test_optimal_value_where_driving_in_circles_pays():
    rng = np.random.default_rng(0)
    for model in all_models():
        paid = dataclasses.replace(model, weights=rng.normal(size=len(model.weights)) + 1.0)
        value = paid.optimal_value(0.95)
        np.testing.assert_allclose(value, value_iteration(paid, 0.95), rtol=0, atol=1e-8)
    assert value.max() > paid.weights.max(), "somewhere it is collected again and again"


def test_undiscounted_value():
    model = grid_model(np.array([[0, 0, 0, 1]]), W)
    np.testing.assert_allclose(model.optimal_value(1.0), [48.0, 49.0, 50.0, 0.0], atol=1e-12)
    with pytest.raises(ValueError, match="never ends"):  # staying pays: no finite value
        dataclasses.replace(model, weights=-W).optimal_value(1.0)
    closed = grid_model(np.array([[0, 2, 0, 1]]), W)
    with pytest.raises(ValueError, match="never ends"):
        closed.optimal_value(1.0)
    assert closed.optimal_value(0.9)[0] == pytest.approx(-10.0)


def test_undiscounted_value_is_the_best_of_the_policies_that_end():
    """Between two coins driving is free, so that an endless loop would be worth 0; it does not count."""
    model = grid_model(np.array([[3, 4, 4]]), W)
    np.testing.assert_allclose(model.optimal_value(1.0), [0.0, -50.0, -50.0], atol=1e-12)


def test_true_value_of_a_policy_by_hand():
    model = grid_model(np.array([[0, 0, 1]]), W)
    right = np.eye(4)[[RIGHT, RIGHT, RIGHT]]
    np.testing.assert_allclose(model.true_value(right, 0.5), [-1.0 + 25.0, 50.0, 0.0])
    np.testing.assert_allclose(model.true_value(right, 0.0), [-1.0, 50.0, 0.0])
    half = 0.5 * right + 0.5 * np.eye(4)[[UP, UP, UP]]
    np.testing.assert_allclose(
        model.true_value(half, 1.0), [46.0 + 1.0, 49.0, 0.0]
    )  # each step costs one bump


def test_true_value_by_simulation():
    dynamics = RandomGridDynamics(1, stochastic=True)
    policy = np.random.default_rng(0).dirichlet(np.ones(4), size=len(dynamics.model.terminal))
    rng, n, gamma = np.random.default_rng(1), 20_000, 0.9
    state = dynamics.initial(dynamics.reset_noise(NumpyRandom(rng), n))
    returns, running = np.zeros(n), np.ones(n)
    for step in range(150):
        actions = (rng.random((n, 1)) > policy[state["state"]].cumsum(1)).sum(1)
        state, rewards, terminated = dynamics.step(state, actions, dynamics.step_noise(NumpyRandom(rng), n))
        returns += gamma**step * running * rewards
        running *= ~terminated
    expected = dynamics.model.start @ dynamics.model.true_value(policy, gamma)
    assert returns.mean() == pytest.approx(expected, abs=4 * returns.std() / np.sqrt(n))


# Errors at the door ----------------------------------------------


def test_true_value_refuses_what_is_no_policy():
    model = grid_model(np.array([[0, 0, 1]]), W)
    uniform = np.full((3, 4), 0.25)
    for policy, gamma, message in [
        (uniform, 1.5, "gamma is 1.5"),
        (uniform, -0.1, "gamma is -0.1"),
        (uniform, float("nan"), "gamma is nan"),
        (uniform[:2], 0.9, "policy has shape"),
        (uniform[0], 0.9, "policy has shape"),
        (uniform * 2, 0.9, "policy must hold probabilities"),
        (uniform * np.nan, 0.9, "policy must hold probabilities"),
        (uniform + np.array([0.5, -0.5, 0.0, 0.0]), 0.9, "policy must hold probabilities"),
        (np.eye(4)[[UP, UP, UP]], 1.0, "policy never ends"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.true_value(policy, gamma)
    with pytest.raises(ValueError, match="gamma is 2"):
        model.optimal_value(2)


@pytest.mark.parametrize(
    ("cells", "weights", "message"),
    [
        ([0, 1], W, "cells have shape"),
        ([[0.0, 1.0]], W, "dtype float64"),
        ([[0, 12]], W, "codes from 0 to 12"),
        ([[0, -1]], W, "codes from -1 to 0"),
        ([[1, 2, 3]], W, "cells hold none"),
        (np.zeros((0, 4), dtype=int), W, "cells hold none"),
        ([[0, 1]], W[:5], "weights has shape"),
        ([[0, 1]], W * np.inf, "weights .* finite"),
    ],
)
def test_grids_that_are_none(cells, weights, message):
    with pytest.raises(ValueError, match=message):
        GridDynamics(cells, weights)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("successors", lambda a: a[..., 0], "successors has shape"),
        ("successors", lambda a: a + 3, "successors must be states"),
        ("successors", lambda a: 0 * a, "terminal states must lead to themselves"),
        ("probabilities", lambda a: a / 2, "probabilities must"),
        ("probabilities", lambda a: a[..., None], "probabilities has shape"),
        ("features", lambda a: a[..., :5], "features has shape"),
        ("features", lambda a: a + 1, "terminal states must .* zero features"),
        ("features", lambda a: np.where(a > 0, np.nan, a), "finite"),
        ("weights", lambda a: a[:5], "weights has shape"),
        ("terminal", lambda a: a[:2], "terminal has shape"),
        ("start", lambda a: a * 2, "start must"),
        ("start", lambda a: np.array([2.0, -1.0, 0.0]), "start must"),
    ],
)
def test_models_that_contradict_themselves(field, change, message):
    model = grid_model(np.array([[0, 0, 1]]), W)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model, **{field: change(getattr(model, field))})
    assert isinstance(dataclasses.replace(model), TabularModel)
