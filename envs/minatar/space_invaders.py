"""MinAtar's Space Invaders: shoot a block of aliens that comes down, before it arrives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, State

from .game import FIRE, LEFT, RIGHT, SIZE, STAY, MinAtarDynamics, Sprites, bits

FULL_ROW = sum(2**column for column in range(2, 8))
WAVE = (FULL_ROW,) * 4 + (0,) * 6
"""Aliens of each row: bit c of a whole number is one in column c."""

FIRST, LAST = 1, 2 ** (SIZE - 1)
"""The outer columns."""

COOL_DOWN, MOVE_INTERVAL, SHORTEST_INTERVAL, SHOT_INTERVAL = 5, 12, 6, 10


class SpaceInvadersDynamics(MinAtarDynamics):
    """Shoot a block of aliens that comes down, and dodge what they shoot.

    ## Description
    MinAtar's Space Invaders (Young and Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and
    Reproducible Reinforcement Learning Experiments", 2019, arXiv 1903.03176), as batched dynamics of our own.
    A cannon moves along the lowest row and can shoot every fifth step; bullets fly up one cell a step. Four
    rows of six aliens go to one side until one is at the edge; then all come down a row and turn round. The
    fewer there are, the sooner they move again: after as many steps as aliens are left, at most 12. Every
    tenth step the lowest alien of the column nearest to the cannon shoots. A wave that is gone is followed by
    the next one.

    Step for step the game of the `minatar` package (1.0.15), of which every observation, reward and end is
    the same for the same random numbers.

    ## Action Space
    `Discrete(4)`: 0 stay, 1 left, 2 right, 3 fire; with `minimal_action_set=False` MinAtar's six: 0 stay,
    1 left, 2 up, 3 right, 4 down, 5 fire. With probability `sticky_action_prob` the previous action is
    repeated instead of the one given.

    ## Observation Space
    `Box(0, 1, (10, 10, 6), bool)`: which kinds of object are in a cell (row, column): cannon, alien,
    alien_left or alien_right (where the aliens are, by which way they go), friendly_bullet, enemy_bullet.
    `env.unwrapped.channels` has their names.

    ## Rewards
    1 for an alien.

    ## Starting State
    The cannon in column 5, the aliens in rows 0 to 3 and columns 2 to 7, going left. The previous action is
    "stay" (the package itself carries the last one over from the episode before).

    ## Episode End
    Terminates when an alien or its bullet hits the cannon, and when aliens in the lowest row turn round.
    `gym.make` truncates after 5,000 steps: our choice.

    ## Arguments
    - `sticky_action_prob` (0.1): probability that the previous action is repeated.
    - `difficulty_ramping` (True): each further wave moves after at most one step less, down to 6.
    - `minimal_action_set` (True), `render_mode`.

    ## Version History
    - v0: first version.
    """

    channels = ("cannon", "alien", "alien_left", "alien_right", "friendly_bullet", "enemy_bullet")
    minimal_actions = (STAY, LEFT, RIGHT, FIRE)
    colours = {  # noqa: RUF012 (which way aliens go says no more than their motion)
        "alien": (120, 200, 110),
        "enemy_bullet": (246, 142, 150),
        "friendly_bullet": (240, 240, 246),
        "cannon": (92, 176, 250),
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
        self._wave = self.backend.asarray(np.array(WAVE))
        self._count = self.backend.asarray(bits(SIZE).sum(1))
        self._nearest = self.backend.asarray(_nearest_columns())
        self._row_numbers = self.backend.asarray(np.arange(SIZE))

    def start(self, noise: Noise, n: int) -> State:
        """See :meth:`MinAtarDynamics.start`; a bullet that is nowhere is above the board, in row -1."""
        return {
            "cannon": self.whole(n, 5),
            "aliens": self.whole((n, 1), 0) + self._wave,
            "motion": self.whole(n, -1),
            "bullet_rows": self.whole((n, 2), -1),
            "bullet_columns": self.whole((n, 2), 0),
            "enemy_bullet_row": self.whole(n, -1),
            "enemy_bullet_column": self.whole(n, 0),
            "shot_timer": self.whole(n, 0),
            "move_interval": self.whole(n, MOVE_INTERVAL),
            "move_timer": self.whole(n, MOVE_INTERVAL),
            "enemy_shot_timer": self.whole(n, SHOT_INTERVAL),
        }

    def play(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`MinAtarDynamics.play`."""
        xp = self.xp
        cannon, rows, columns, shot_timer = self._shoot(state, actions)
        aliens, motion, move_timer, over = self._march(state, cannon)
        row, column = state["enemy_bullet_row"], state["enemy_bullet_column"]
        row = xp.where((row < 0) | (row == SIZE - 1), -1, row + 1)
        over = over | ((row == SIZE - 1) & (column == cannon))
        shoots = state["enemy_shot_timer"] == 0
        shooter_row, shooter_column = self._shooter(aliens, cannon)
        aliens, rows, kills = self._hit(aliens, rows, columns)

        gone = xp.all(aliens == 0, axis=1)
        interval = state["move_interval"]
        if self.difficulty_ramping:
            interval = interval - xp.astype(gone & (interval > SHORTEST_INTERVAL), xp.int64)
        after = {
            "cannon": cannon,
            "aliens": xp.where(gone[:, None], self._wave, aliens),
            "motion": motion,
            "bullet_rows": rows,
            "bullet_columns": columns,
            "enemy_bullet_row": xp.where(shoots, shooter_row, row),
            "enemy_bullet_column": xp.where(shoots, shooter_column, column),
            "shot_timer": xp.clip(shot_timer - 1, 0, None),
            "move_interval": interval,
            "move_timer": move_timer - 1,
            "enemy_shot_timer": xp.where(shoots, SHOT_INTERVAL, state["enemy_shot_timer"]) - 1,
        }
        return after, kills, over

    def _shoot(self, state: State, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Return cannon, rows and columns of its bullets a step later, and its timer.

        It never has more than two, since a bullet is gone before the next but one can be shot.
        """
        xp = self.xp
        fires = (actions == FIRE) & (state["shot_timer"] == 0)
        cannon = xp.clip(state["cannon"] + self.sign(actions, LEFT, RIGHT), 0, SIZE - 1)
        rows, columns = state["bullet_rows"], state["bullet_columns"]
        new_rows = xp.stack([self.whole(fires.shape[0], SIZE - 1), rows[:, 0]], axis=1)
        new_columns = xp.stack([cannon, columns[:, 0]], axis=1)
        rows = xp.where(fires[:, None], new_rows, rows)
        columns = xp.where(fires[:, None], new_columns, columns)
        return cannon, xp.clip(rows - 1, -1, None), columns, xp.where(fires, COOL_DOWN, state["shot_timer"])

    def _march(self, state: State, cannon: Array) -> tuple[Array, Array, Array, Array]:
        """Return aliens, their motion, their timer, and whether that is the end."""
        xp, aliens, motion = self.xp, state["aliens"], state["motion"]
        over = (aliens[:, -1] >> cannon) & 1 == 1
        moves = state["move_timer"] == 0
        taken = self._columns(aliens)
        turns = moves & (((taken & FIRST != 0) & (motion < 0)) | ((taken & LAST != 0) & (motion > 0)))
        over = over | (turns & (aliens[:, -1] != 0))
        across = xp.where((motion > 0)[:, None], aliens << 1, aliens >> 1)
        aliens = xp.where((moves & ~turns)[:, None], across, aliens)
        aliens = xp.where(turns[:, None], xp.concat([aliens[:, -1:], aliens[:, :-1]], axis=1), aliens)
        over = over | ((aliens[:, -1] >> cannon) & 1 == 1)
        left = xp.sum(
            xp.take(self._count, state["aliens"].reshape((-1,)), axis=0).reshape((-1, SIZE)), axis=1
        )
        interval = xp.minimum(left, state["move_interval"])
        timer = xp.where(moves, interval, state["move_timer"])
        return aliens, xp.where(turns, -motion, motion), timer, over

    def _columns(self, aliens: Array) -> Array:
        """Return the columns [n] with aliens, as bits."""
        taken = aliens[:, 0]
        for i in range(1, SIZE):
            taken = taken | aliens[:, i]
        return taken

    def _shooter(self, aliens: Array, cannon: Array) -> tuple[Array, Array]:
        """Return row and column of the lowest alien in the column nearest to the cannon, of two the left."""
        xp = self.xp
        column = xp.take(self._nearest, cannon * 2**SIZE + self._columns(aliens), axis=0)
        rows = ((aliens >> column[:, None]) & 1) * self._row_numbers
        return xp.max(rows, axis=1), column

    def _hit(self, aliens: Array, rows: Array, columns: Array) -> tuple[Array, Array, Array]:
        """Return aliens and rows of bullets without those that met, and how many did."""
        xp = self.xp
        kills = xp.zeros_like(rows[:, 0])
        left = []
        for i in range(2):
            there = (self._row_numbers == rows[:, i, None]) & ((aliens >> columns[:, i, None]) & 1 == 1)
            aliens = xp.where(there, aliens ^ (xp.ones_like(aliens) << columns[:, i, None]), aliens)
            met = xp.any(there, axis=1)
            kills = kills + xp.astype(met, xp.int64)
            left.append(xp.where(met, -1, rows[:, i]))
        return aliens, xp.stack(left, axis=1), kills

    def row_table(self) -> NDArray[np.bool_]:
        """See :meth:`MinAtarDynamics.row_table`: by way and aliens."""
        rows = np.zeros((2, 2**SIZE, SIZE, len(self.channels)), bool)
        rows[:, :, :, self.channels.index("alien")] = bits(SIZE)
        rows[0, :, :, self.channels.index("alien_left")] = bits(SIZE)
        rows[1, :, :, self.channels.index("alien_right")] = bits(SIZE)
        return rows

    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """See :meth:`MinAtarDynamics.scene`; bullets that are nowhere are seen as the cannon."""
        cannon = state["cannon"]
        way = (state["motion"] + 1) // 2
        sprites = [("cannon", self.whole(cannon.shape[0], SIZE - 1), cannon)]
        sprites.append(("friendly_bullet", state["bullet_rows"], state["bullet_columns"]))
        sprites.append(("enemy_bullet", state["enemy_bullet_row"], state["enemy_bullet_column"]))
        return state["aliens"] + (way * 2**SIZE)[:, None], sprites


def _nearest_columns() -> NDArray[np.int64]:
    """Return the nearest of some columns [10 * 1024] by place of the cannon and columns as bits."""
    cannon, column = np.arange(SIZE)[:, None, None], np.arange(SIZE)
    distance = np.where(bits(SIZE), np.abs(column - cannon), SIZE)
    nearest: NDArray[np.int64] = np.argmin(distance, axis=-1).reshape(-1)
    return nearest
