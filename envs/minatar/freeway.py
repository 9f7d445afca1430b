"""MinAtar's Freeway: cross a road of eight lanes, again and again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State, select

from .game import DOWN, SIZE, STAY, UP, MinAtarDynamics, Sprites

CARS, SPEEDS = 8, 5
"""Lanes, rows 1 to 8, with a car each, which moves every step or every 2 to 6."""

COLUMN = 4
"""Where the chicken crosses."""

PLAYER_SPEED, TIME_LIMIT = 3, 2500


class FreewayDynamics(MinAtarDynamics):
    """Cross a road of eight lanes, again and again.

    ## Description
    MinAtar's Freeway (Young and Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible
    Reinforcement Learning Experiments", 2019, arXiv 1903.03176), as batched dynamics of our own. A chicken
    starts in the lowest row and can take a step every third step of the game. Eight cars go left or right,
    each at a speed of its own, and come in again on the other side. A car that hits the chicken brings it
    back to the lowest row. So does the highest row, where all cars take new speeds and ways.

    Step for step the game of the `minatar` package (1.0.15), of which every observation, reward and end is
    the same for the same random numbers.

    ## Action Space
    `Discrete(3)`: 0 stay, 1 up, 2 down; with `minimal_action_set=False` MinAtar's six: 0 stay, 1 left, 2 up,
    3 right, 4 down, 5 fire. With probability `sticky_action_prob` the previous action is repeated instead of
    the one given.

    ## Observation Space
    `Box(0, 1, (10, 10, 7), bool)`: which kinds of object are in a cell (row, column): chicken, car, and
    speed1 to speed5, the trail behind a car, whose kind is its speed (1: fastest).
    `env.unwrapped.channels` has their names.

    ## Rewards
    1 for reaching the highest row.

    ## Starting State
    The chicken in the lowest row, all cars in the first column with speeds and ways drawn at random. The
    previous action is "stay" (the package itself carries the last one over from the episode before).

    ## Episode End
    Terminates after 2,501 steps. That is a time limit, which observations do not tell, and still the package
    calls it an end of the game; with `max_episode_steps=2500` it becomes a truncation. `gym.make` truncates
    after 5,000 steps, which are never reached.

    ## Arguments
    `sticky_action_prob` (0.1), `minimal_action_set` (True), `render_mode`.

    ## Version History
    - v0: first version.
    """

    channels = ("chicken", "car", "speed1", "speed2", "speed3", "speed4", "speed5")
    minimal_actions = (STAY, UP, DOWN)
    colours = {  # noqa: RUF012 (the faster the warmer)
        "speed5": (56, 72, 110),
        "speed4": (64, 98, 110),
        "speed3": (94, 108, 84),
        "speed2": (122, 96, 64),
        "speed1": (134, 72, 66),
        "car": (226, 226, 232),
        "chicken": (250, 202, 62),
    }

    def __init__(
        self,
        sticky_action_prob: float = 0.1,
        minimal_action_set: bool = True,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(sticky_action_prob, minimal_action_set, backend)
        self._lanes = self.small(self.backend.asarray(np.arange(CARS)))[:, None]

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`: speed and way of each car."""
        return {"start": rng.uniform(n, CARS)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: besides, speeds and ways after a crossing."""
        return {**super().step_noise(rng, n), "cars": rng.uniform(n, CARS)}

    def start(self, noise: Noise, n: int) -> State:
        """See :meth:`MinAtarDynamics.start`."""
        speed, motion = self._cars(noise["start"])
        return {
            "row": self.whole(n, SIZE - 1),
            "move_timer": self.whole(n, PLAYER_SPEED),
            "time_left": self.whole(n, TIME_LIMIT, self.xp.int16),
            "place": self.whole((CARS, n), 0),
            "speed": speed,
            "motion": motion,
            "car_timer": speed,
        }

    def _cars(self, uniform: Array) -> tuple[Array, Array]:
        """Return speeds, 1 to 5, and motions, 1 or -1, all equally likely [8, n], for numbers [n, 8]."""
        which = self.below(uniform, 2 * SPEEDS)
        which = self.xp.stack([which[:, i] for i in range(CARS)])  # and not its transpose, for memory's sake
        right = self.small(which >= SPEEDS)
        return 1 + which - SPEEDS * right, 2 * right - 1

    def play(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`MinAtarDynamics.play`."""
        xp = self.xp
        way = self.sign(actions, UP, DOWN) * self.small(state["move_timer"] == 0)
        move_timer = select(way != 0, PLAYER_SPEED, state["move_timer"])
        row = xp.clip(state["row"] + way, None, SIZE - 1)
        crossed = row == 0
        row = select(crossed, SIZE - 1, row)
        speed, motion = self._cars(noise["cars"])
        speed, motion = select(crossed, speed, state["speed"]), select(crossed, motion, state["motion"])
        timer = select(crossed, speed, state["car_timer"])

        moves = self.equal(timer, 0)
        place = state["place"] + motion * self.small(moves)
        place = place + SIZE * (self.small(place < 0) - self.small(place >= SIZE))
        lane = row - 1 == self._lanes
        hit = self.some(lane & (self.equal(state["place"], COLUMN) | self.equal(place, COLUMN)))
        time_left = state["time_left"] - 1
        after = {
            "row": select(hit, SIZE - 1, row),
            "move_timer": xp.clip(move_timer - 1, 0, None),
            "time_left": time_left,
            "place": place,
            "speed": speed,
            "motion": motion,
            "car_timer": select(moves, speed, timer - 1),
        }
        return after, crossed, time_left < 0

    def row_table(self) -> NDArray[np.bool_]:
        """See :meth:`MinAtarDynamics.row_table`: no car, then by way, speed and column."""
        rows = np.zeros((2, SPEEDS, SIZE, SIZE, len(self.channels)), bool)
        for place in range(SIZE):
            rows[:, :, place, place, self.channels.index("car")] = True
            for speed in range(SPEEDS):
                trail = self.channels.index(f"speed{speed + 1}")
                rows[0, speed, place, (place + 1) % SIZE, trail] = True
                rows[1, speed, place, place - 1, trail] = True
        return self.with_nothing(rows)

    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """See :meth:`MinAtarDynamics.scene`."""
        right = self.small(state["motion"] > 0)
        cars = 1 + (right * SPEEDS + state["speed"] - 1) * SIZE + state["place"]
        edge = self.whole((1, cars.shape[1]), 0)
        codes = self.xp.astype(self.xp.concat([edge, cars, edge]), self.xp.int32)
        return codes, [("chicken", state["row"] * SIZE + COLUMN)]
