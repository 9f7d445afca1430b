"""MinAtar's Seaquest: a submarine that rescues divers, shoots enemies and needs air."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State

from .game import DOWN, FIRE, LEFT, RIGHT, SIZE, STAY, UP, MinAtarDynamics, Sprites

ENEMIES, DIVERS, BULLETS = 32, 4, 2
"""Slots. At the fastest an enemy comes every step and crosses in 30, so that 31 are the most there can be; a
diver comes every 30 steps and crosses in 60; a bullet is gone before the next but one can be shot."""

FISH, SUBMARINE = 1, 2
MAX_OXYGEN, MAX_DIVERS = 200, 6
SPAWN_SPEED, DIVER_SPAWN_SPEED, MOVE_INTERVAL, DIVER_MOVE_INTERVAL = 20, 30, 5, 5
FASTEST_MOVE, COOL_DOWN, SHOT_INTERVAL = 2, 5, 10


class SeaquestDynamics(MinAtarDynamics):
    """Rescue divers, shoot enemies, and come up for air.

    ## Description
    MinAtar's Seaquest (Young and Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible
    Reinforcement Learning Experiments", 2019, arXiv 1903.03176), as batched dynamics of our own. A submarine
    of two cells moves anywhere but in the lowest row and can shoot every fifth step, the way it faces. Fish
    and, one time in three, enemy submarines cross from both sides, in one row all the same way; the latter
    shoot every eleventh step. Divers cross too, and are rescued by moving onto them, up to six. Below the
    surface oxygen falls by 1 of 200 a step. Coming to the surface with a diver costs that diver, and fills
    the oxygen; with six it pays by what oxygen is left.

    Step for step the game of the `minatar` package (1.0.15), of which every observation, reward and end is
    the same for the same random numbers. So it is in what surprises: coming up with six divers leaves minus
    one, with which coming up again is no end of the game, nor with fewer ever after; only 0 is.

    ## Action Space
    `Discrete(6)`: 0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire. With probability `sticky_action_prob` the
    previous action is repeated instead of the one given.

    ## Observation Space
    `Box(0, 1, (10, 10, 10), bool)`: which kinds of object are in a cell (row, column): sub_front, sub_back,
    friendly_bullet, trail (behind whatever moves), enemy_bullet, enemy_fish, enemy_sub, oxygen_guage (in the
    lowest row from the left, a cell for every 20), diver_guage (there from the right but one), diver.
    `env.unwrapped.channels` has their names.

    ## Rewards
    1 for an enemy; for coming up with six divers 0 to 10, a tenth of the percentage of oxygen left.

    ## Starting State
    At the surface in column 5, facing left, with all the oxygen and nobody else. The previous action is
    "stay" (the package itself carries the last one over from the episode before).

    ## Episode End
    Terminates when an enemy or its bullet meets the submarine, when the oxygen is used up, and when it comes
    to the surface without a diver. `gym.make` truncates after 5,000 steps: our choice.

    ## Arguments
    - `sticky_action_prob` (0.1): probability that the previous action is repeated.
    - `difficulty_ramping` (True): each time at the surface enemies come more often and, every other time,
      move faster. What is seen does not tell how far that has gone.
    - `minimal_action_set` (True; all actions do something here), `render_mode`.

    ## Version History
    - v0: first version.
    """

    channels = (
        "sub_front",
        "sub_back",
        "friendly_bullet",
        "trail",
        "enemy_bullet",
        "enemy_fish",
        "enemy_sub",
        "oxygen_guage",
        "diver_guage",
        "diver",
    )
    minimal_actions = (STAY, LEFT, UP, RIGHT, DOWN, FIRE)
    colours = {  # noqa: RUF012
        "trail": (54, 70, 92),
        "oxygen_guage": (110, 206, 240),
        "diver_guage": (250, 202, 62),
        "diver": (250, 160, 62),
        "enemy_fish": (120, 200, 110),
        "enemy_sub": (226, 84, 72),
        "enemy_bullet": (246, 142, 150),
        "friendly_bullet": (240, 240, 246),
        "sub_back": (58, 108, 176),
        "sub_front": (92, 176, 250),
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
        self._slots = self.small(np.arange(ENEMIES))
        self._diver_slots = self.small(np.arange(DIVERS))

    def small(self, values: Any) -> Array:
        """Return numbers as bytes: slots are many, and what they hold is small."""
        return self.backend.asarray(values, dtype=self.xp.int8)

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: besides, which enemy and which diver come from where."""
        names = ("enemy_left", "enemy_submarine", "enemy_row", "diver_left", "diver_row")
        return {**super().step_noise(rng, n), **{name: rng.uniform(n) for name in names}}

    def start(self, noise: Noise, n: int) -> State:
        """See :meth:`MinAtarDynamics.start`.

        Slots are taken in turn, ``came`` [n] so far: their order tells who came first. An enemy's bullet is
        in its slot, since it is gone before the next; -1 is none. Of the player's the last one is first.
        """
        enemies, divers = self.whole((n, ENEMIES), 0, self.xp.int8), self.whole((n, DIVERS), 0)
        return {
            "row": self.whole(n, 0),
            "column": self.whole(n, 5),
            "facing": self.whole(n, -1),
            "oxygen": self.whole(n, MAX_OXYGEN),
            "rescued": self.whole(n, 0),
            "surfaced": self.whole(n, 1),
            "shot_timer": self.whole(n, 0),
            "bullet_rows": self.whole((n, BULLETS), -1),
            "bullet_columns": self.whole((n, BULLETS), 0),
            "bullet_motions": self.whole((n, BULLETS), 0),
            "spawn_speed": self.whole(n, SPAWN_SPEED),
            "spawn_timer": self.whole(n, SPAWN_SPEED),
            "move_speed": self.whole(n, MOVE_INTERVAL),
            "ramp_index": self.whole(n, 0),
            "came": self.whole(n, 0),
            **{f"enemy_{name}": enemies for name in ("kind", "row", "column", "motion", "timer", "shot")},
            "enemy_bullet": enemies - 1,
            "diver_spawn_timer": self.whole(n, DIVER_SPAWN_SPEED),
            "divers_came": self.whole(n, 0),
            **{f"diver_{name}": divers for name in ("here", "row", "column", "motion", "timer")},
        }

    def play(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`MinAtarDynamics.play`, in the package's order."""
        state = {**state, **self._enemy_comes(state, noise)}
        state = {**state, **self._diver_comes(state, noise)}
        state = {**state, **self._steer(state, actions)}
        bullets, hits = self._bullets_fly(state)
        state = {**state, **bullets}
        state = {**state, **self._divers_swim(state)}
        enemies, more, over = self._enemies_swim(state)
        state = {**state, **enemies}
        air, points, ends = self._breathe(state)
        return {**state, **air}, hits + more + points, over | ends

    def _enemy_comes(self, state: State, noise: Noise) -> State:
        """Return enemies with a newcomer where it is time, unless its row has one that goes the other way."""
        xp = self.xp
        due = state["spawn_timer"] == 0
        row = self.small(1 + self.below(noise["enemy_row"], 8))[:, None]
        motion = self.small(xp.where(noise["enemy_left"] < 0.5, 1, -1))[:, None]
        others = (state["enemy_kind"] > 0) & (state["enemy_row"] == row) & (state["enemy_motion"] != motion)
        comes = due & ~xp.any(others, axis=1)
        here = (self._slots == self.small(state["came"] % ENEMIES)[:, None]) & comes[:, None]
        kind = self.small(xp.where(noise["enemy_submarine"] < 1.0 / 3.0, SUBMARINE, FISH))[:, None]
        new = {
            "kind": kind,
            "row": row,
            "column": self.small(xp.where(motion > 0, 0, SIZE - 1)),
            "motion": motion,
            "timer": self.small(state["move_speed"])[:, None],
            "shot": self.small(xp.full_like(motion, SHOT_INTERVAL)),
        }
        return {
            **{f"enemy_{name}": xp.where(here, value, state[f"enemy_{name}"]) for name, value in new.items()},
            "came": state["came"] + xp.astype(comes, xp.int64),
            "spawn_timer": xp.where(due, state["spawn_speed"], state["spawn_timer"]),
        }

    def _diver_comes(self, state: State, noise: Noise) -> State:
        """Return divers with a newcomer where it is time."""
        xp = self.xp
        due = state["diver_spawn_timer"] == 0
        left = noise["diver_left"] < 0.5
        here = (self._diver_slots == (state["divers_came"] % DIVERS)[:, None]) & due[:, None]
        new = {
            "here": xp.ones_like(state["row"]),
            "row": 1 + self.below(noise["diver_row"], 8),
            "column": xp.where(left, 0, SIZE - 1),
            "motion": xp.where(left, 1, -1),
            "timer": self.whole(left.shape[0], DIVER_MOVE_INTERVAL),
        }
        divers = {f"diver_{k}": xp.where(here, v[:, None], state[f"diver_{k}"]) for k, v in new.items()}
        return {
            **divers,
            "divers_came": state["divers_came"] + xp.astype(due, xp.int64),
            "diver_spawn_timer": xp.where(due, DIVER_SPAWN_SPEED, state["diver_spawn_timer"]),
        }

    def _steer(self, state: State, actions: Array) -> State:
        """Return the submarine after an action, and its bullets with one that was shot."""
        xp = self.xp
        fires = (actions == FIRE) & (state["shot_timer"] == 0)
        bullets = {}
        for name in ("row", "column", "facing"):
            key = "bullet_motions" if name == "facing" else f"bullet_{name}s"
            bullets[key] = xp.where(
                fires[:, None], xp.stack([state[name], state[key][:, 0]], axis=1), state[key]
            )
        across = self.sign(actions, LEFT, RIGHT)
        return {
            **bullets,
            "shot_timer": xp.where(fires, COOL_DOWN, state["shot_timer"]),
            "row": xp.clip(state["row"] + self.sign(actions, UP, DOWN), 0, SIZE - 2),
            "column": xp.clip(state["column"] + across, 0, SIZE - 1),
            "facing": xp.where(across == 0, state["facing"], across),
        }

    def _bullets_fly(self, state: State) -> tuple[State, Array]:
        """Return bullets and enemies after the bullets' step, and how many were hit [n].

        The last bullet is first; each takes the fish that came first, if there is none the submarine.
        """
        xp = self.xp
        columns = state["bullet_columns"] + state["bullet_motions"]
        flying = (state["bullet_rows"] >= 0) & (columns >= 0) & (columns < SIZE)
        rows = xp.where(flying, state["bullet_rows"], -1)
        kind, age = state["enemy_kind"], self._age(state)
        turn = age + xp.where(kind == FISH, self.small(2 * ENEMIES), self.small(ENEMIES))
        cell = self._cells(state["enemy_row"], state["enemy_column"])
        there = self.small(rows * SIZE + columns)
        kind, rows, hits = self._strike(kind, rows, kind > 0, cell, there, turn, (0, 1))
        return {"enemy_kind": kind, "bullet_rows": rows, "bullet_columns": columns}, hits

    def _age(self, state: State) -> Array:
        """Return 0 in the slot of the last enemy that came, 1 in the one before it ... [n, 32]."""
        return (self.small(state["came"] % ENEMIES)[:, None] - 1 - self._slots) % ENEMIES

    def _cells(self, row: Array, column: Array) -> Array:
        return row * SIZE + column

    def _strike(
        self,
        kind: Array,
        rows: Array,
        exposed: Array,
        cell: Array,
        there: Array,
        turn: Array,
        order: tuple[int, ...],
    ) -> tuple[Array, Array, Array]:
        """Let each bullet, in order, take the exposed enemy of its cell whose turn [n, 32] is the highest.

        Returns:
            Kinds of enemies, rows of bullets, and how many [n] were hit.
        """
        xp = self.xp
        hits = self.whole(rows.shape[0], 0)
        left = [rows[:, i] for i in range(BULLETS)]
        for i in order:
            met = exposed & (cell == there[:, i, None]) & (rows[:, i] >= 0)[:, None]
            score = turn * met
            best = xp.max(score, axis=1)
            struck = met & (score == best[:, None])
            kind, exposed = kind * ~struck, exposed & ~struck
            left[i] = xp.where(best > 0, -1, rows[:, i])
            hits = hits + xp.astype(best > 0, xp.int64)
        return kind, xp.stack(left, axis=1), hits

    def _divers_swim(self, state: State) -> State:
        """Return divers, and how many are rescued; of two at once the last that came is first."""
        xp = self.xp
        here, timer, columns = state["diver_here"] > 0, state["diver_timer"], state["diver_column"]
        level = here & (state["diver_row"] == state["row"][:, None])
        boat = state["column"][:, None]
        moves = here & (timer == 0)
        after = columns + state["diver_motion"] * xp.astype(moves, xp.int64)
        met = level & ((columns == boat) | (after == boat))
        age = (state["divers_came"][:, None] - 1 - self._diver_slots) % DIVERS
        sooner = xp.sum(xp.astype(met[:, None, :] & (age[:, None, :] < age[:, :, None]), xp.int64), axis=2)
        rescued = met & (sooner < MAX_DIVERS - state["rescued"][:, None])
        stays = here & ~rescued & (after >= 0) & (after < SIZE)
        return {
            "diver_here": xp.astype(stays, xp.int64),
            "diver_column": after,
            "diver_timer": xp.where(moves, DIVER_MOVE_INTERVAL, timer - 1),
            "rescued": state["rescued"] + xp.sum(xp.astype(rescued, xp.int64), axis=1),
        }

    def _enemies_swim(self, state: State) -> tuple[State, Array, Array]:
        """Return enemies and bullets after their steps, how many swam into the player's, and who met him."""
        xp = self.xp
        kind, row, motion = state["enemy_kind"], state["enemy_row"], state["enemy_motion"]
        timer, shot = state["enemy_timer"], state["enemy_shot"]
        level = row == self.small(state["row"])[:, None]
        boat = self.small(state["column"])[:, None]
        alive = kind > 0
        moves = alive & (timer == 0)
        column = state["enemy_column"] + motion * moves
        inside = (column >= 0) & (column < SIZE)
        met = level & alive & ((state["enemy_column"] == boat) | (column == boat))

        submarine = kind == SUBMARINE
        shoots = submarine & (shot == 0)
        bullet = xp.where(shoots, column, state["enemy_bullet"])
        flown = xp.where(bullet >= 0, bullet + motion, bullet)
        met = met | (level & ((bullet == boat) | (flown == boat)))

        kind = kind * inside
        age = self._age(state)
        turn = ENEMIES - 1 - age + xp.where(submarine, self.small(2 * ENEMIES), self.small(ENEMIES))
        exposed = moves & inside & ~(level & (column == boat))
        rows, columns = state["bullet_rows"], state["bullet_columns"]
        there = self.small(rows * SIZE + columns)
        kind, rows, hits = self._strike(kind, rows, exposed, self._cells(row, column), there, turn, (1, 0))
        after = {
            "enemy_kind": kind,
            "enemy_column": column,
            "enemy_timer": xp.where(moves, self.small(state["move_speed"])[:, None], timer - 1),
            "enemy_shot": xp.where(shoots, self.small(SHOT_INTERVAL), shot - 1),
            "enemy_bullet": xp.where((flown >= 0) & (flown < SIZE), flown, self.small(-1)),
            "bullet_rows": rows,
        }
        return after, hits, xp.any(met, axis=1)

    def _breathe(self, state: State) -> tuple[State, Array, Array]:
        """Return timers, oxygen and divers, what coming up pays, and whether it or the oxygen is the end."""
        xp = self.xp
        oxygen, rescued = state["oxygen"], state["rescued"]
        below = state["row"] > 0
        comes_up = ~below & (state["surfaced"] == 0)
        up = comes_up & (rescued != 0)
        full = up & (rescued == MAX_DIVERS)
        over = (oxygen <= 0) | (comes_up & (rescued == 0))
        points = xp.where(full, oxygen * 10 // MAX_OXYGEN, 0)
        rescued = xp.where(full, 0, rescued) - xp.astype(up, xp.int64)
        after = {
            "oxygen": xp.where(up, MAX_OXYGEN, oxygen - xp.astype(below, xp.int64)),
            "rescued": rescued,
            "surfaced": xp.astype(~below & (up | (state["surfaced"] == 1)), xp.int64),
            **{
                name: xp.clip(state[name] - 1, 0, None)
                for name in ("shot_timer", "spawn_timer", "diver_spawn_timer")
            },
        }
        return {**after, **self._ramp(state, up)}, points, over

    def _ramp(self, state: State, due: Array) -> State:
        """Return the speeds, faster where it is time; without ramping as they are."""
        xp = self.xp
        spawn, move, index = state["spawn_speed"], state["move_speed"], state["ramp_index"]
        if self.difficulty_ramping:
            due = due & ((spawn > 1) | (move > FASTEST_MOVE))
            move = move - xp.astype(due & (move > FASTEST_MOVE) & (index % 2 == 1), xp.int64)
            spawn = spawn - xp.astype(due & (spawn > 1), xp.int64)
            index = index + xp.astype(due, xp.int64)
        return {"spawn_speed": spawn, "move_speed": move, "ramp_index": index}

    def row_table(self) -> NDArray[np.bool_]:
        """See :meth:`MinAtarDynamics.row_table`: nothing, then the lowest row by oxygen and divers."""
        rows = np.zeros((11, MAX_DIVERS + 1, SIZE, len(self.channels)), bool)
        for i in range(11):
            rows[i, :, :i, self.channels.index("oxygen_guage")] = True
        for i in range(MAX_DIVERS + 1):
            rows[:, i, SIZE - 1 - i : SIZE - 1, self.channels.index("diver_guage")] = True
        return self.with_nothing(rows)

    def scene(self, state: State) -> tuple[Array, list[Sprites]]:
        """See :meth:`MinAtarDynamics.scene`."""
        xp = self.xp
        n = state["row"].shape[0]
        oxygen = xp.clip(state["oxygen"], 0, None) * 10 // MAX_OXYGEN
        gauges = 1 + oxygen * (MAX_DIVERS + 1) + xp.clip(state["rescued"], 0, None)
        codes = xp.concat([self.whole((n, SIZE - 1), 0), gauges[:, None]], axis=1)
        wide = {
            name: xp.astype(state[f"enemy_{name}"], xp.int64)
            for name in ("kind", "row", "column", "motion", "bullet")
        }
        kind, enemy_row = wide["kind"], wide["row"]
        divers = xp.where(state["diver_here"] > 0, state["diver_row"], -1)
        sprites: list[Sprites] = [
            ("sub_front", state["row"], state["column"]),
            ("sub_back", state["row"], state["column"] - state["facing"]),
            ("friendly_bullet", state["bullet_rows"], state["bullet_columns"]),
            ("enemy_bullet", xp.where(wide["bullet"] < 0, -1, enemy_row), wide["bullet"]),
            ("enemy_fish", xp.where(kind == FISH, enemy_row, -1), wide["column"]),
            ("enemy_sub", xp.where(kind == SUBMARINE, enemy_row, -1), wide["column"]),
            ("diver", divers, state["diver_column"]),
        ]
        for rows, columns, motion in (
            (xp.where(kind > 0, enemy_row, -1), wide["column"], wide["motion"]),
            (divers, state["diver_column"], state["diver_motion"]),
        ):
            behind = columns - motion
            sprites.append(("trail", xp.where((behind < 0) | (behind >= SIZE), -1, rows), behind))
        return codes, sprites
