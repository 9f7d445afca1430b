"""Random MDPs that are no grids, for tests of the solvers."""

from collections.abc import Callable

import numpy as np
import pytest

from prefrl.envs.grids.grid import TabularModel

MakeModel = Callable[..., TabularModel]


def make_random_model(
    seed: int, states: int = 6, actions: int = 3, outcomes: int = 2, features: int = 3, ends: int = 1
) -> TabularModel:
    """Random successors, probabilities and features (small whole numbers, so that ties occur).

    The last ``ends`` states are terminal. Elsewhere one outcome in three is impossible, and some actions stay
    where they are for sure.
    """
    rng = np.random.default_rng(seed)
    shape = (states, actions, outcomes)
    successors = rng.integers(states, size=shape)
    probabilities = rng.random(shape) * (rng.random(shape) < 2 / 3)
    probabilities[..., 0] += 1e-3  # some outcome is possible
    loops = rng.random((states, actions)) < 0.1
    successors[loops] = np.arange(states)[:, None].repeat(actions, 1)[loops][:, None]
    probabilities /= probabilities.sum(-1, keepdims=True)
    phi = rng.integers(-2, 3, size=(*shape, features)).astype(np.float64)
    terminal = np.arange(states) >= states - ends
    successors[terminal] = np.flatnonzero(terminal)[:, None, None]
    phi[terminal] = 0.0
    start = rng.random(states) * ~terminal
    names = tuple(f"feature {i}" for i in range(features))
    weights = rng.integers(-3, 4, size=features).astype(np.float64)
    return TabularModel(successors, probabilities, phi, weights, terminal, start / start.sum(), names)


@pytest.fixture(scope="session")
def random_model() -> MakeModel:
    """:func:`make_random_model`."""
    return make_random_model
