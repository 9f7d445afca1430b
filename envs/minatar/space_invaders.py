"""MinAtar's Space Invaders: shoot a block of aliens that comes down, before it arrives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, State, select

from .game import FIRE, LEFT, RIGHT, SIZE, STAY, MinAtarDynamics, Sprites, bits

FULL_ROW = sum(2**column for column in range(2, 8))
WAVE = (FULL_ROW,) * 4 + (0,) * 6
ALIENS = 4 * 6
"""Aliens of each row: bit c of a whole number is one in column c; and how many there are."""

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
        self._wave = self.backend.asarray(np.array(WAVE, np.int16))[:, None]
        self._nearest = self.backend.asarray(_nearest_columns())
        self._rows_down = self.backend.asarray(np.arange(SIZE, dtype=np.int16))[:, None]

    def start(self, noise: Noise, n: int) -> State:
        """See :meth:`MinAtarDynamics.start`; a bullet that is nowhere is above the board, in row -1."""
        return {
            "cannon": self.whole(n, 5),
            "aliens": self.whole((SIZE, n), 0, self.xp.int16) + self._wave,
            "left": self.whole(n, ALIENS),
            "motion": self.whole(n, -1),
            "bullet_rows": self.whole((2, n), -1),
            "bullet_columns": self.whole((2, n), 0),
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
        row = select((row < 0) | (row == SIZE - 1), -1, row + 1)
        over = over | ((row == SIZE - 1) & (column == cannon))
        shoots = state["enemy_shot_timer"] == 0
        shooter_row, shooter_column = self._shooter(aliens, cannon)
        aliens, rows, kills = self._hit(aliens, rows, columns)

        left = state["left"] - kills
        gone = left == 0
        interval = state["move_interval"]
        if self.difficulty_ramping:
            interval = interval - self.small(gone & (interval > SHORTEST_INTERVAL))
        after = {
            "cannon": cannon,
            "aliens": select(gone, self._wave, aliens),
            "left": select(gone, ALIENS, left),
            "motion": motion,
            "bullet_rows": rows,
            "bullet_columns": columns,
            "enemy_bullet_row": select(shoots, shooter_row, row),
            "enemy_bullet_column": select(shoots, shooter_column, column),
            "shot_timer": xp.clip(shot_timer - 1, 0, None),
            "move_interval": interval,
            "move_timer": move_timer - 1,
            "enemy_shot_timer": select(shoots, SHOT_INTERVAL, state["enemy_shot_timer"]) - 1,
        }
        return after, kills, over

    def _shoot(self, state: State, actions: Array) -> tuple[Array, Array, Array, Array]:
        """Return cannon, rows and columns of its bullets [2, n] a step later, and its timer.

        It never has more than two, since a bullet is gone before the next but one can be shot.
        """
        xp = self.xp
        fires = (actions == FIRE) & (state["shot_timer"] == 0)
        cannon = xp.clip(state["cannon"] + self.sign(actions, LEFT, RIGHT), 0, SIZE - 1)
        rows, columns = state["bullet_rows"], state["bullet_columns"]
        rows = select(fires, xp.stack([self.whole(fires.shape[0], SIZE - 1), rows[0]]), rows)
        columns = select(fires, xp.stack([cannon, columns[0]]), columns)
        return cannon, xp.clip(rows - 1, -1, None), columns, select(fires, COOL_DOWN, state["shot_timer"])

    def _march(self, state: State, cannon: Array) -> tuple[Array, Array, Array, Array]:
        """Return aliens, their motion, their timer, and whether that is the end."""
        xp, aliens, motion = self.xp, state["aliens"], state["motion"]
        here = xp.ones_like(aliens[-1]) << xp.astype(cannon, xp.int16)
        over = aliens[-1] & here != 0
        moves, right = state["move_timer"] == 0, motion > 0
        taken = self._columns(aliens)
        turns = moves & (((taken & FIRST != 0) & ~right) | ((taken & LAST != 0) & right))
        over = over | (turns & (aliens[-1] != 0))
        walks = moves & ~turns
        across = (aliens << xp.astype(walks & right, xp.int16)) >> xp.astype(walks & ~right, xp.int16)
        aliens = select(turns, xp.concat([aliens[-1:], aliens[:-1]]), across)
        over = over | (aliens[-1] & here != 0)
        timer = select(moves, xp.minimum(state["left"], state["move_interval"]), state["move_timer"])
        return aliens, select(turns, -motion, motion), timer, over

    def _columns(self, aliens: Array) -> Array:
        """Return the columns [n] with aliens, as bits."""
        taken = aliens[0]
        for row in aliens[1:]:
            taken = taken | row
        return taken

    def _shooter(self, aliens: Array, cannon: Array) -> tuple[Array, Array]:
        """Return row and column of the lowest alien in the column nearest to the cannon, of two the left."""
        xp = self.xp
        column = xp.take(self._nearest, xp.astype(cannon, xp.int32) * 2**SIZE + self._columns(aliens), axis=0)
        rows = ((aliens >> column) & 1) * self._rows_down
        return self.small(xp.max(rows, axis=0)), self.small(column)

    def _hit(self, aliens: Array, rows: Array, columns: Array) -> tuple[Array, Array, Array]:
        """Return aliens and rows of bullets without those that met, and how many did."""
        xp = self.xp
        kills = xp.zeros_like(rows[0])
        left = []
        for row, column in zip(rows, columns, strict=True):
            there = xp.ones_like(aliens[0]) << xp.astype(column, xp.int16)
            hit = select(self._rows_down == row, aliens & there, xp.zeros_like(aliens))
            aliens = aliens ^ hit
            met = xp.max(hit, axis=0) > 0
            kills = kills + self.small(met)
            left.append(select(met, -1, row))
        return aliens, xp.stack(left), kills

    def row_table(self) -> NDArray[np.bool_]:
        """See :meth:`MinAtarDynamics.row_table`: by way and aliens."""
        rows = np.zeros((2, 2**SIZE, SIZE, len(self.channels)), bool)
        rows[:, :, :, self.channels.index("alien")] = bits(SIZE)
        rows[0, :, :, self.channels.index("alien_left")] = bits(SIZE)
        rows[1, :, :, self.channels.index("alien_right")] = bits(SIZE)
        return rows

    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """See :meth:`MinAtarDynamics.scene`; bullets that are nowhere are seen as the cannon."""
        sprites = [
            ("cannon", (SIZE - 1) * SIZE + state["cannon"]),
            ("friendly_bullet", state["bullet_rows"] * SIZE + state["bullet_columns"]),
            ("enemy_bullet", state["enemy_bullet_row"] * SIZE + state["enemy_bullet_column"]),
        ]
        way = self.xp.astype(state["motion"] > 0, self.xp.int16) * 2**SIZE
        return self.xp.astype(state["aliens"] + way, self.xp.int32), sprites


def _nearest_columns() -> NDArray[np.int16]:
    """Return the nearest of some columns [10 * 1024] by place of the cannon and columns as bits."""
    cannon, column = np.arange(SIZE)[:, None, None], np.arange(SIZE)
    distance = np.where(bits(SIZE), np.abs(column - cannon), SIZE)
    nearest: NDArray[np.int16] = np.argmin(distance, axis=-1).reshape(-1).astype(np.int16)
    return nearest
