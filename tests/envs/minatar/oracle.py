"""The games of the `minatar` package beside ours, with the same random numbers.

The package draws from a `numpy.random.RandomState`. Here it is given one that hands out, in the order in
which the package asks, what our dynamics' noise holds for that step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from minatar import Environment
from numpy.typing import NDArray

from prefrl.envs.core.backend import Backend, NumpyBackend, NumpyRandom, State
from prefrl.envs.minatar.asterix import AsterixDynamics
from prefrl.envs.minatar.breakout import BreakoutDynamics
from prefrl.envs.minatar.freeway import FreewayDynamics
from prefrl.envs.minatar.seaquest import SeaquestDynamics
from prefrl.envs.minatar.space_invaders import SpaceInvadersDynamics

GAMES: dict[str, Any] = {
    "asterix": AsterixDynamics,
    "breakout": BreakoutDynamics,
    "freeway": FreewayDynamics,
    "seaquest": SeaquestDynamics,
    "space_invaders": SpaceInvadersDynamics,
}
RAMPED = ("asterix", "seaquest", "space_invaders")

Policy = Callable[[Any, np.random.Generator], int]
"""Chooses an action with a look at the package's game."""


class Scripted:
    """Stands for the package's random source; says what it is told."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def rand(self, *shape: int) -> Any:
        return self.answers.pop(0)

    def randint(self, low: int, high: int | None = None, size: int | None = None) -> Any:
        if size is not None:  # Freeway's speeds, which are whole numbers already
            return self.answers.pop(0)
        low, high = (0, low) if high is None else (low, high)
        return low + int(self.answers.pop(0) * (high - low))


def cars(uniform: NDArray[np.float64]) -> list[Any]:
    """What Freeway's package draws where ours draws one number for each car: speeds, and ways."""
    which = (uniform * 10).astype(int)
    return [1 + which % 5, np.where(which >= 5, 0.75, 0.25)]


class Row:
    """One game of the package."""

    def __init__(self, game: str, sticky: float, ramping: bool) -> None:
        self.package = Environment(game, sticky_action_prob=sticky, difficulty_ramping=ramping)
        self.game, self.env = game, self.package.env
        self.package.random = self.env.random = self.source = Scripted()

    def reset(self, noise: dict[str, Any]) -> None:
        start = noise["start"]
        drawn: dict[str, list[Any]] = {"freeway": cars(start), "breakout": [start]}
        self.source.answers = drawn.get(self.game, [])
        self.package.last_action = 0  # the package itself carries it over
        self.package.reset()

    def act(self, action: int, noise: dict[str, Any]) -> tuple[float, bool]:
        self.source.answers = [noise["sticky"], *self.draws(noise)]
        reward, over = self.package.act(action)
        return float(reward), bool(over)

    def draws(self, noise: dict[str, Any]) -> list[Any]:
        """What the game will ask for in this step, at most."""
        names: tuple[str, ...] = ()
        if self.game == "freeway":
            return cars(noise["cars"])
        if self.game == "asterix" and self.env.spawn_timer == 0:
            names = ("left", "gold", "slot")
        if self.game == "seaquest":
            if self.env.e_spawn_timer == 0:
                names = ("enemy_left", "enemy_submarine", "enemy_row")
            if self.env.d_spawn_timer == 0:
                names += ("diver_left", "diver_row")
        return [noise[name] for name in names]


class Both:
    """Rows of our dynamics, and as many games of the package, which must stay the same.

    Args:
        game: which.
        rows: how many.
        seed: of noise and policies.
        ramping: whether games get harder.
        sticky: probability that the previous action is repeated.
        immortal: games that are over go on, in the package by its own flag; how the package ends is
            compared all the same.
        backend: of our dynamics; in float64, so that its noise is the package's to the last bit.
    """

    def __init__(
        self, game: str, *, rows: int = 4, seed: int = 0, ramping: bool = True, sticky: float = 0.1,
        immortal: bool = False, backend: Backend | None = None,
    ) -> None:  # fmt: skip
        more = {"difficulty_ramping": ramping} if game in RAMPED else {}
        self.backend = backend or NumpyBackend()
        self.dynamics = GAMES[game](
            sticky_action_prob=sticky, minimal_action_set=False, backend=self.backend, **more
        )
        self.noise = NumpyRandom(np.random.default_rng(seed))
        self.rng = np.random.default_rng([seed, 1])
        self.rows = [Row(game, sticky, ramping) for _ in range(rows)]
        self.immortal, self.ends, self.steps = immortal, 0, 0
        self.returns, self.best = np.zeros(rows), 0.0
        noise = self.dynamics.reset_noise(self.noise, rows)
        self.state: State = self.dynamics.initial(self.given(noise))
        for i, row in enumerate(self.rows):
            row.reset(self.row_of(noise, i))
        self.compare()

    def given(self, arrays: dict[str, Any]) -> dict[str, Any]:
        return {name: self.backend.asarray(value) for name, value in arrays.items()}

    def row_of(self, noise: dict[str, Any], i: int) -> dict[str, Any]:
        return {name: value[i] for name, value in noise.items()}

    def step(self, policy: Policy) -> None:
        """Take a step in every row, and start anew where one is over."""
        count = len(self.rows)
        actions = np.array([policy(row.env, self.rng) for row in self.rows])
        noise = self.dynamics.step_noise(self.noise, count)
        self.state, *found = self.dynamics.step(self.state, self.backend.asarray(actions), self.given(noise))
        rewards, over = (np.asarray(each) for each in found)
        theirs = [row.act(int(actions[i]), self.row_of(noise, i)) for i, row in enumerate(self.rows)]
        assert [*zip(rewards.tolist(), over.tolist(), strict=True)] == theirs, self.steps
        self.compare()
        self.steps += count
        self.returns += rewards
        self.best = max(self.best, self.returns.max())
        self.ends += int(over.sum())
        if self.immortal:
            for row in self.rows:
                row.env.terminal = False
        elif over.any():
            self.restart(over)

    def restart(self, over: NDArray[np.bool_]) -> None:
        noise = self.dynamics.reset_noise(self.noise, len(self.rows))
        start, mask = self.dynamics.initial(self.given(noise)), self.backend.asarray(over)
        for name, value in self.state.items():
            shaped = mask.reshape((-1,) + (1,) * (value.ndim - 1))
            self.state[name] = self.dynamics.xp.where(shaped, start[name], value)
        for i in np.flatnonzero(over):
            self.rows[i].reset(self.row_of(noise, i))
        self.returns[over] = 0.0
        self.compare()

    def compare(self) -> None:
        """Every cell of every row's observation."""
        ours = np.asarray(self.dynamics.observe(self.state))
        theirs = np.stack([row.package.state() for row in self.rows])
        different = [(*map(int, at[:3]), self.dynamics.channels[at[3]]) for at in np.argwhere(ours != theirs)]
        assert not different, (self.steps, different[:10])


def at_random(env: Any, rng: np.random.Generator) -> int:
    """Any of the six actions."""
    return int(rng.integers(6))


def play(both: Both, steps: int, policy: Policy = at_random) -> Both:
    """Play until so many steps were taken, in all rows together."""
    while both.steps < steps:
        both.step(policy)
    return both
