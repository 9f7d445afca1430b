"""MinAtar's Breakout: bounce a ball off a paddle to break three rows of bricks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Noise, Random, State, select

from .game import LEFT, RIGHT, SIZE, STAY, MinAtarDynamics, Sprites, bits

BRICK_ROWS = range(1, 4)
WALL = 2 ** (SIZE * len(BRICK_ROWS)) - 1
"""All bricks: bit 10 (row - 1) + column of a whole number is a brick."""

PADDLE_ROW = SIZE - 1


class BreakoutDynamics(MinAtarDynamics):
    """Bounce a ball off a paddle, and break bricks with it.

    ## Description
    MinAtar's Breakout (Young and Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible
    Reinforcement Learning Experiments", 2019, arXiv 1903.03176), as batched dynamics of our own. Three rows
    of ten bricks lie near the top. The ball flies along diagonals, one cell a step. Walls and the ceiling
    turn it back. A brick breaks and turns it back, but a ball that flies on into further bricks passes
    through them until it has left the bricks. When it comes to the lowest row and all bricks are gone, new
    ones appear.

    Step for step the game of the `minatar` package (1.0.15), of which every observation, reward and end is
    the same for the same random numbers.

    ## Action Space
    `Discrete(3)`: 0 stay, 1 left, 2 right; with `minimal_action_set=False` MinAtar's six: 0 stay, 1 left,
    2 up, 3 right, 4 down, 5 fire. With probability `sticky_action_prob` the previous action is repeated
    instead of the one given.

    ## Observation Space
    `Box(0, 1, (10, 10, 4), bool)`: which kinds of object are in a cell (row, column): paddle, ball, trail
    (where the ball was), brick. `env.unwrapped.channels` has their names.

    ## Rewards
    1 for a brick.

    ## Starting State
    The ball in row 3, in the left or right corner with equal chances, on its way down; the paddle in column
    4. The previous action is "stay" (the package itself carries the last one over from the episode before).

    ## Episode End
    Terminates when the ball passes the paddle. A policy that never fails would play for ever, so `gym.make`
    truncates after 5,000 steps: our choice.

    ## Arguments
    `sticky_action_prob` (0.1), `minimal_action_set` (True), `render_mode`.

    ## Version History
    - v0: first version.
    """

    channels = ("paddle", "ball", "trail", "brick")
    minimal_actions = (STAY, LEFT, RIGHT)
    colours = {  # noqa: RUF012
        "trail": (96, 84, 60),
        "brick": (196, 98, 74),
        "paddle": (92, 176, 250),
        "ball": (252, 226, 120),
    }

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`: from which side the ball comes."""
        return {"start": rng.uniform(n)}

    def start(self, noise: Noise, n: int) -> State:
        """See :meth:`MinAtarDynamics.start`."""
        side = self.below(noise["start"], 2)
        row, column = self.whole(n, 3), side * (SIZE - 1)
        return {
            "row": row,
            "column": column,
            "trail_row": row,
            "trail_column": column,
            "down": self.whole(n, 1),
            "right": 1 - 2 * side,
            "paddle": self.whole(n, 4),
            "bricks": self.whole(n, WALL, self.xp.int32),
            "in_bricks": self.whole(n, 0),
        }

    def play(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`MinAtarDynamics.play`; ``down`` and ``right`` are the ball's motion, 1 or -1."""
        xp = self.xp
        paddle = xp.clip(state["paddle"] + self.sign(actions, LEFT, RIGHT), 0, SIZE - 1)
        last_row, last_column = state["row"], state["column"]
        down, right, bricks = state["down"], state["right"], state["bricks"]
        row, column = last_row + down, last_column + right
        right = select((column < 0) | (column >= SIZE), -right, right)
        column = xp.clip(column, 0, SIZE - 1)
        ceiling = row < 0

        bit = xp.clip(row - BRICK_ROWS.start, 0, len(BRICK_ROWS) - 1) * SIZE + column
        brick = xp.ones_like(bricks) << xp.astype(bit, xp.int32)
        strikes = (row >= BRICK_ROWS.start) & (row < BRICK_ROWS.stop) & (bricks & brick != 0)
        breaks = strikes & (state["in_bricks"] == 0)
        bricks = bricks ^ select(breaks, brick, xp.zeros_like(brick))

        lowest = row == PADDLE_ROW
        bricks = select(lowest & (bricks == 0), WALL, bricks)
        square = lowest & (last_column == paddle)  # the ball comes from right above the paddle
        corner = lowest & ~square & (column == paddle)  # it comes from beside it, and goes back
        stays = breaks | square | corner
        after = {
            "row": select(stays, last_row, xp.clip(row, 0, None)),
            "column": column,
            "trail_row": last_row,
            "trail_column": last_column,
            "down": select(ceiling | stays, -down, down),
            "right": select(corner, -right, right),
            "paddle": paddle,
            "bricks": bricks,
            "in_bricks": self.small(strikes),
        }
        return after, breaks, lowest & ~square & ~corner

    def row_table(self) -> NDArray[np.bool_]:
        """See :meth:`MinAtarDynamics.row_table`: by the bricks of a row."""
        rows = np.zeros((2**SIZE, SIZE, len(self.channels)), bool)
        rows[:, :, self.channels.index("brick")] = bits(SIZE)
        return rows

    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """See :meth:`MinAtarDynamics.scene`."""
        xp, bricks = self.xp, state["bricks"]
        empty = xp.zeros_like(bricks)
        rows = [(bricks >> (SIZE * i)) & (2**SIZE - 1) for i in range(len(BRICK_ROWS))]
        sprites = [
            ("paddle", PADDLE_ROW * SIZE + state["paddle"]),
            ("ball", state["row"] * SIZE + state["column"]),
            ("trail", state["trail_row"] * SIZE + state["trail_column"]),
        ]
        return xp.stack([empty] * BRICK_ROWS.start + rows + [empty] * (SIZE - BRICK_ROWS.stop)), sprites
