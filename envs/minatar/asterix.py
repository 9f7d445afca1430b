"""MinAtar's Asterix: gather gold and keep away from enemies, ever faster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State, select

from .game import DOWN, LEFT, RIGHT, SIZE, STAY, UP, MinAtarDynamics, Sprites

SLOTS = 8
"""Rows 1 to 8 hold one enemy or piece of gold each."""

ENEMY, GOLD = 1, 2
SPAWN_SPEED, MOVE_SPEED, RAMP_INTERVAL = 10, 5, 100
"""Steps between new arrivals, between their moves, and between steps of the difficulty, at the start."""


class AsterixDynamics(MinAtarDynamics):
    """Gather gold and keep away from enemies, which come from both sides, ever faster.

    ## Description
    MinAtar's Asterix (Young and Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible
    Reinforcement Learning Experiments", 2019, arXiv 1903.03176), as batched dynamics of our own. The player
    walks in the eight middle rows. Enemies and, one time in three, gold come from the left or right, each in
    a row of its own, and go straight on to the other side.

    Step for step the game of the `minatar` package (1.0.15), of which every observation, reward and end is
    the same for the same random numbers.

    ## Action Space
    `Discrete(5)`: 0 stay, 1 left, 2 up, 3 right, 4 down; with `minimal_action_set=False` also 5 fire, which
    does nothing. With probability `sticky_action_prob` the previous action is repeated instead of the one
    given.

    ## Observation Space
    `Box(0, 1, (10, 10, 4), bool)`: which kinds of object are in a cell (row, column): player, enemy, trail
    (behind whatever moves), gold. `env.unwrapped.channels` has their names.

    ## Rewards
    1 for a piece of gold.

    ## Starting State
    The player in row 5, column 5; nobody else. The previous action is "stay" (the package itself carries the
    last one over from the episode before).

    ## Episode End
    Terminates when the player meets an enemy. `gym.make` truncates after 5,000 steps: our choice.

    ## Arguments
    - `sticky_action_prob` (0.1): probability that the previous action is repeated.
    - `difficulty_ramping` (True): every 102 steps arrivals become more frequent and, every other time, moves
      faster. What is seen does not tell how far that has gone.
    - `minimal_action_set` (True), `render_mode`.

    ## Version History
    - v0: first version.
    """

    channels = ("player", "enemy", "trail", "gold")
    minimal_actions = (STAY, LEFT, UP, RIGHT, DOWN)
    colours = {  # noqa: RUF012
        "trail": (70, 74, 92),
        "enemy": (226, 84, 72),
        "gold": (250, 202, 62),
        "player": (92, 176, 250),
    }

    def __init__(
        self,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        minimal_action_set: bool = True,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(sticky_action_prob, minimal_action_set, backend)
        self.difficulty_ramping = bool(difficulty_ramping)
        self._lanes = self.small(self.backend.asarray(np.arange(SLOTS)))[:, None]

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: besides, who comes from where, into which of the free rows."""
        return {**super().step_noise(rng, n), "left": rng.uniform(n), "gold": rng.uniform(n),
                "slot": rng.uniform(n)}  # fmt: skip

    def start(self, noise: Noise, n: int) -> State:
        """See :meth:`MinAtarDynamics.start`."""
        nobody = self.whole((SLOTS, n), 0)
        return {
            "row": self.whole(n, 5),
            "column": self.whole(n, 5),
            "kind": nobody,
            "place": nobody,
            "motion": nobody,
            "spawn_speed": self.whole(n, SPAWN_SPEED),
            "spawn_timer": self.whole(n, SPAWN_SPEED),
            "move_speed": self.whole(n, MOVE_SPEED),
            "move_timer": self.whole(n, MOVE_SPEED),
            "ramp_timer": self.whole(n, RAMP_INTERVAL),
            "ramp_index": self.whole(n, 0),
        }

    def play(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`MinAtarDynamics.play`."""
        xp = self.xp
        kind, place, motion = self._arrive(state, noise)
        spawn_timer = select(state["spawn_timer"] == 0, state["spawn_speed"], state["spawn_timer"])
        row = xp.clip(state["row"] + self.sign(actions, UP, DOWN), 1, SLOTS)
        column = xp.clip(state["column"] + self.sign(actions, LEFT, RIGHT), 0, SIZE - 1)

        in_row = row - 1 == self._lanes
        kind, points, over = self._meet(kind, in_row & (place == column))
        moves = state["move_timer"] == 0
        place = place + motion * self.small(moves)
        kind = kind * self.inside(place)
        kind, more, over_now = self._meet(kind, in_row & (place == column))

        after = {
            "row": row,
            "column": column,
            "kind": kind,
            "place": place,
            "motion": motion,
            "spawn_timer": spawn_timer - 1,
            "move_timer": select(moves, state["move_speed"], state["move_timer"]) - 1,
            **self._ramp(state),
        }
        return after, points | more, over | over_now

    def _meet(self, kind: Array, met: Array) -> tuple[Array, Array, Array]:
        """Return who is left of those met [8, n], and whether the player [n] meets gold, and an enemy."""
        gold = met & self.equal(kind, GOLD)
        return kind * ~gold, self.some(gold), self.some(met & self.equal(kind, ENEMY))

    def _arrive(self, state: State, noise: Noise) -> tuple[Array, Array, Array]:
        """Return who is where and goes where [8, n], with a newcomer in a free row if it is time."""
        xp, kind = self.xp, state["kind"]
        free = self.equal(kind, 0)
        so_far = xp.cumulative_sum(self.small(free), axis=0, dtype=xp.int8)
        nth = self.below(noise["slot"], so_far[-1]) + 1
        comes = free & (so_far == nth) & (state["spawn_timer"] == 0)
        left = self.small(noise["left"] < 0.5)
        who = ENEMY + self.small(noise["gold"] < 1.0 / 3.0)
        return (
            select(comes, who, kind),
            select(comes, (SIZE - 1) * (1 - left), state["place"]),
            select(comes, 2 * left - 1, state["motion"]),
        )

    def _ramp(self, state: State) -> State:
        """Return the speeds, faster where it is time; without ramping as they are."""
        spawn, move = state["spawn_speed"], state["move_speed"]
        timer, index = state["ramp_timer"], state["ramp_index"]
        if self.difficulty_ramping:
            ramps = (spawn > 1) | (move > 1)
            due = ramps & (timer < 0)
            move = move - self.small(due & (move > 1) & (index & 1 == 1))
            spawn = spawn - self.small(due & (spawn > 1))
            index = index + self.small(due)
            timer = select(due, RAMP_INTERVAL, timer - self.small(ramps))
        return {"spawn_speed": spawn, "move_speed": move, "ramp_timer": timer, "ramp_index": index}

    def row_table(self) -> NDArray[np.bool_]:
        """See :meth:`MinAtarDynamics.row_table`: nobody, then by kind, way and column."""
        rows = np.zeros((2, 2, SIZE, SIZE, len(self.channels)), bool)
        for right in range(2):
            for place in range(SIZE):
                rows[0, right, place, place, self.channels.index("enemy")] = True
                rows[1, right, place, place, self.channels.index("gold")] = True
                behind = place - 1 if right else place + 1
                if 0 <= behind < SIZE:
                    rows[:, right, place, behind, self.channels.index("trail")] = True
        return self.with_nothing(rows)

    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """See :meth:`MinAtarDynamics.scene`."""
        kind = state["kind"]
        right = self.small(state["motion"] > 0)
        codes = (1 + (2 * (kind - 1) + right) * SIZE + state["place"]) * self.small(kind > 0)
        edge = self.whole((1, kind.shape[1]), 0)
        codes = self.xp.astype(self.xp.concat([edge, codes, edge]), self.xp.int32)
        return codes, [("player", state["row"] * SIZE + state["column"])]
