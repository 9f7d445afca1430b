"""Small finite-horizon MDPs whose best return distributions can be found by enumeration."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_count
from prefrl.envs.grids.grid import TabularModel
from prefrl.envs.rendering.fields import GOAL, STATE

from .tabular import HorizonModel, TabularTask


def two_coins(horizon: int = 2) -> HorizonModel:
    """Return the smallest MDP in which CVaR needs memory.

    A fair coin pays 0 or 2; then "safe" pays 1, or "risky" 3 with probability 3/4 and -2 with 1/4. For the
    CVaR at 1/2 the best is to risk only after 2 (1.75); every policy that forgets the coin scores 1 at most.
    """
    successors = np.array([[[1, 1], [1, 1]], [[2, 2], [2, 2]], [[2, 2], [2, 2]]])
    probabilities = np.array([[[0.5, 0.5]] * 2, [[1.0, 0.0], [0.75, 0.25]], [[1.0, 0.0]] * 2])
    rewards = np.array([[[0.0, 2.0]] * 2, [[1.0, 0.0], [3.0, -2.0]], [[0.0, 0.0]] * 2])
    return _world(successors, probabilities, rewards, horizon, terminal=[False, False, True])


def random_mdp(seed: int, horizon: int = 3, *, states: int = 3, actions: int = 2) -> HorizonModel:
    """Draw an MDP in which every pair has two outcomes; rewards are whole numbers from -2 to 3.

    The generator is Python's own, so that the draws are the same everywhere: for every state and action p
    from {1/4, 1/2, 3/4}, then reward and next state of the first outcome and of the second one.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; it must be a whole number, not negative")
    rng = random.Random(seed)
    shape = (states, actions, 2)
    successors, probabilities = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    rewards = np.zeros(shape)
    for state in range(states):
        for action in range(actions):
            p = rng.choice([1, 2, 3]) / 4
            for outcome, probability in enumerate((p, 1.0 - p)):
                probabilities[state, action, outcome] = probability
                rewards[state, action, outcome] = rng.randint(-2, 3)
                successors[state, action, outcome] = rng.randrange(states)
    return _world(successors, probabilities, rewards, horizon, terminal=[False] * states)


def _world(
    successors: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    rewards: NDArray[np.float64],
    horizon: int,
    *,
    terminal: list[bool],
) -> HorizonModel:
    """Return an MDP with one feature, the reward, that starts in state 0."""
    start = np.eye(len(terminal))[0]
    model = TabularModel(successors, probabilities, rewards[..., None], np.ones(1), np.array(terminal), start,
                         ("reward",))  # fmt: skip
    return HorizonModel(model, horizon, np.zeros((len(terminal), 1)))


class _SmallDynamics(TabularTask):
    """A small MDP, its state observed as an indicator of each."""

    def __init__(self, world: HorizonModel, backend: Backend | None) -> None:
        ends = world.model.terminal
        legend = {STATE: "a state", **({GOAL: "the end"} if ends.any() else {})}
        super().__init__(world, np.eye(len(ends)), np.where(ends, GOAL, STATE)[None], legend, backend=backend)


class TwoCoinsDynamics(_SmallDynamics):
    """Two steps in which CVaR needs memory.

    ## Description
    A fair coin pays 0 or 2, whatever is done. Then action 0 ("safe") pays 1, and action 1 ("risky") pays 3
    with probability 3/4 and -2 with 1/4.

    ## Action Space
    `Discrete(2)`: 0 safe, 1 risky; without effect in the first step.

    ## Observation Space
    `Box(0, 1, (4,))`: an indicator of each of the three states, and the share of the horizon that is gone.
    The coin is not observed: it is in the stock, for an agent that carries one.

    ## Rewards
    As above.

    ## Starting State
    State 0.

    ## Episode End
    Terminates after two steps, or after `horizon` steps where that is 1.

    ## Arguments
    `horizon` (int, 2), `render_mode`.

    ## Ground truth
    `horizon_model()`. For the CVaR at 1/2 the best is 1.75, risking after 2 only; no policy that forgets
    the coin scores more than 1.

    ## Version History
    - v0: first version.
    """

    def __init__(self, horizon: int = 2, backend: Backend | None = None) -> None:
        super().__init__(two_coins(check_count("horizon", horizon)), backend)


class RandomMDPDynamics(_SmallDynamics):
    """An MDP drawn from a seed, small enough to enumerate every policy.

    ## Description
    Every state and action has two outcomes: with probability p from {1/4, 1/2, 3/4} the first, else the
    second; each has a whole reward from -2 to 3 and a next state of its own.

    ## Action Space
    `Discrete(actions)`.

    ## Observation Space
    `Box(0, 1, (states + 1,))`: an indicator of each state, and the share of the horizon that is gone.

    ## Rewards
    As drawn.

    ## Starting State
    State 0.

    ## Episode End
    Terminates after `horizon` steps.

    ## Arguments
    `mdp_seed` (int, 0): which MDP; `reset(seed=...)` changes only what happens in it. `horizon` (int, 3),
    `states` (int, 3), `actions` (int, 2), `render_mode`.

    ## Ground truth
    `horizon_model()`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, mdp_seed: int = 0, horizon: int = 3, states: int = 3, actions: int = 2,
        backend: Backend | None = None,
    ) -> None:  # fmt: skip
        sizes = {"horizon": horizon, "states": states, "actions": actions}
        horizon, states, actions = (check_count(name, size) for name, size in sizes.items())
        super().__init__(random_mdp(mdp_seed, horizon, states=states, actions=actions), backend)
