"""MinAtar's Seaquest: a submarine that rescues divers, shoots enemies and needs air."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State, select

from .game import DOWN, FIRE, LEFT, RIGHT, SIZE, STAY, UP, MinAtarDynamics, Sprites

ENEMIES, DIVERS, BULLETS = 32, 4, 2
"""Slots. At the fastest an enemy comes every step and crosses in 30, so that 31 are the most there can be; a
diver comes every 30 steps and crosses in 60; a bullet is gone before the next but one can be shot."""

FISH, SUBMARINE = 1, 2
MAX_OXYGEN, MAX_DIVERS = 200, 6
SPAWN_SPEED, DIVER_SPAWN_SPEED, MOVE_INTERVAL, DIVER_MOVE_INTERVAL = 20, 30, 5, 5
FASTEST_MOVE, COOL_DOWN, SHOT_INTERVAL = 2, 5, 10
OXYGEN_CELL = MAX_OXYGEN // 10
NOWHERE = -2
"""Row of a bullet that is nowhere: with it no column makes a cell."""


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
        self._slots, self._diver_slots = (
            self.small(self.backend.asarray(np.arange(count)))[:, None] for count in (ENEMIES, DIVERS)
        )
        self._nowhere = self.small(self.backend.asarray(np.array(NOWHERE)))

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: besides, which enemy and which diver come from where."""
        names = ("enemy_left", "enemy_submarine", "enemy_row", "diver_left", "diver_row")
        return {**super().step_noise(rng, n), **{name: rng.uniform(n) for name in names}}

    def start(self, noise: Noise, n: int) -> State:
        """See :meth:`MinAtarDynamics.start`.

        Slots are taken in turn, ``next_slot`` comes next, and so tell who came first. An enemy's bullet is in
        its slot, since it is gone before the next; below 0 is none. Of the player's the last one is first.
        """
        enemies, divers = self.whole((ENEMIES, n), 0), self.whole((DIVERS, n), 0)
        return {
            "row": self.whole(n, 0),
            "column": self.whole(n, 5),
            "facing": self.whole(n, -1),
            "oxygen": self.whole(n, MAX_OXYGEN, self.xp.int16),
            "rescued": self.whole(n, 0),
            "surfaced": self.whole(n, 1),
            "shot_timer": self.whole(n, 0),
            "bullet_rows": self.whole((BULLETS, n), NOWHERE),
            "bullet_columns": self.whole((BULLETS, n), 0),
            "bullet_motions": self.whole((BULLETS, n), 0),
            "spawn_speed": self.whole(n, SPAWN_SPEED),
            "spawn_timer": self.whole(n, SPAWN_SPEED),
            "move_speed": self.whole(n, MOVE_INTERVAL),
            "ramp_index": self.whole(n, 0),
            "next_slot": self.whole(n, 0),
            **{f"enemy_{name}": enemies for name in ("kind", "row", "column", "motion", "timer", "shot")},
            "enemy_bullet": enemies - 1,
            "diver_spawn_timer": self.whole(n, DIVER_SPAWN_SPEED),
            "next_diver_slot": self.whole(n, 0),
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
        due = state["spawn_timer"] == 0
        row = 1 + self.below(noise["enemy_row"], 8)
        motion = 2 * self.small(noise["enemy_left"] < 0.5) - 1
        against = (
            ~self.equal(state["enemy_kind"], 0)
            & (state["enemy_row"] == row)
            & (state["enemy_motion"] != motion)
        )
        comes = due & ~self.some(against)
        here = (self._slots == state["next_slot"]) & comes
        new = {
            "kind": FISH + self.small(noise["enemy_submarine"] < 1.0 / 3.0),
            "row": row,
            "column": (SIZE - 1) * self.small(motion < 0),
            "motion": motion,
            "timer": state["move_speed"],
            "shot": SHOT_INTERVAL,
        }
        return {
            **{f"enemy_{name}": select(here, value, state[f"enemy_{name}"]) for name, value in new.items()},
            "next_slot": (state["next_slot"] + self.small(comes)) & (ENEMIES - 1),
            "spawn_timer": select(due, state["spawn_speed"], state["spawn_timer"]),
        }

    def _diver_comes(self, state: State, noise: Noise) -> State:
        """Return divers with a newcomer where it is time."""
        due = state["diver_spawn_timer"] == 0
        left = self.small(noise["diver_left"] < 0.5)
        here = (self._diver_slots == state["next_diver_slot"]) & due
        new = {
            "here": 1,
            "row": 1 + self.below(noise["diver_row"], 8),
            "column": (SIZE - 1) * (1 - left),
            "motion": 2 * left - 1,
            "timer": DIVER_MOVE_INTERVAL,
        }
        return {
            **{f"diver_{name}": select(here, value, state[f"diver_{name}"]) for name, value in new.items()},
            "next_diver_slot": (state["next_diver_slot"] + self.small(due)) & (DIVERS - 1),
            "diver_spawn_timer": select(due, DIVER_SPAWN_SPEED, state["diver_spawn_timer"]),
        }

    def _steer(self, state: State, actions: Array) -> State:
        """Return the submarine after an action, and its bullets with one that was shot."""
        xp = self.xp
        fires = (actions == FIRE) & (state["shot_timer"] == 0)
        bullets = {}
        for bullet, own in (("rows", "row"), ("columns", "column"), ("motions", "facing")):
            before = state[f"bullet_{bullet}"]
            bullets[f"bullet_{bullet}"] = select(fires, xp.stack([state[own], before[0]]), before)
        across = self.sign(actions, LEFT, RIGHT)
        return {
            **bullets,
            "shot_timer": select(fires, COOL_DOWN, state["shot_timer"]),
            "row": xp.clip(state["row"] + self.sign(actions, UP, DOWN), 0, SIZE - 2),
            "column": xp.clip(state["column"] + across, 0, SIZE - 1),
            "facing": select(across == 0, state["facing"], across),
        }

    def _bullets_fly(self, state: State) -> tuple[State, Array]:
        """Return bullets and enemies after the bullets' step, and how many were hit [n].

        The last bullet is first; each takes the fish that came first, if there is none the submarine.
        """
        columns = self.xp.clip(state["bullet_columns"] + state["bullet_motions"], -1, SIZE)
        flying = self.inside(state["bullet_rows"]) & self.inside(columns)
        rows = select(flying, state["bullet_rows"], self._nowhere)
        kind = state["enemy_kind"]
        turn = self._age(state) + ENEMIES * (1 + self.small(self.equal(kind, FISH)))
        cells = state["enemy_row"] * SIZE + state["enemy_column"]
        there = rows * SIZE + columns
        kind, rows, hits = self._strike(kind, rows, ~self.equal(kind, 0), cells, there, turn, (0, 1))
        return {"enemy_kind": kind, "bullet_rows": rows, "bullet_columns": columns}, hits

    def _age(self, state: State) -> Array:
        """Return 0 in the slot of the last enemy that came, 1 in the one before it ... [32, n]."""
        return (state["next_slot"] - 1 - self._slots) & (ENEMIES - 1)

    def _strike(
        self,
        kind: Array,
        rows: Array,
        exposed: Array,
        cells: Array,
        there: Array,
        turn: Array,
        order: tuple[int, ...],
    ) -> tuple[Array, Array, Array]:
        """Let each bullet, in order, take the exposed enemy of its cell whose turn [32, n] is the highest.

        Returns:
            Kinds of enemies, rows of bullets, and how many [n] were hit.
        """
        hits, left = self.xp.zeros_like(rows[0]), list(rows)
        for i in order:
            score = turn * (exposed & (cells == there[i]) & (rows[i] >= 0))
            best = self.xp.max(score, axis=0)
            missed = (score != best) | self.equal(score, 0)
            kind, exposed = kind * missed, exposed & missed
            left[i] = select(best > 0, NOWHERE, rows[i])
            hits = hits + self.small(best > 0)
        return kind, self.xp.stack(left), hits

    def _divers_swim(self, state: State) -> State:
        """Return divers, and how many are rescued; of two at once the last that came is first."""
        here, timer, columns = state["diver_here"] > 0, state["diver_timer"], state["diver_column"]
        boat = state["column"]
        moves = here & (timer == 0)
        after = columns + state["diver_motion"] * moves
        met = here & (state["diver_row"] == state["row"]) & ((columns == boat) | (after == boat))
        age = (state["next_diver_slot"] - 1 - self._diver_slots) & (DIVERS - 1)
        sooner = self._count(met[None] & (age[None] < age[:, None]), axis=1)
        rescued = met & (sooner < MAX_DIVERS - state["rescued"])
        return {
            "diver_here": self.small(here & ~rescued & self.inside(after)),
            "diver_column": after,
            "diver_timer": select(moves, DIVER_MOVE_INTERVAL, timer - 1),
            "rescued": state["rescued"] + self._count(rescued, axis=0),
        }

    def _count(self, mask: Array, axis: int) -> Array:
        return self.xp.sum(self.small(mask), axis=axis, dtype=self.xp.int8)

    def _enemies_swim(self, state: State) -> tuple[State, Array, Array]:
        """Return enemies and bullets after their steps, how many swam into the player's, and who met him."""
        kind, row, motion = state["enemy_kind"], state["enemy_row"], state["enemy_motion"]
        timer, shot, boat = state["enemy_timer"], state["enemy_shot"], state["column"]
        level, alive = row == state["row"], ~self.equal(kind, 0)
        moves = alive & self.equal(timer, 0)
        column = state["enemy_column"] + motion * moves
        inside = self.inside(column)
        met = level & alive & ((state["enemy_column"] == boat) | (column == boat))

        submarine = self.equal(kind, SUBMARINE)
        shoots = submarine & self.equal(shot, 0)
        bullet = select(shoots, column, state["enemy_bullet"])
        flown = bullet + motion * self.inside(bullet)
        met = met | (level & ((bullet == boat) | (flown == boat)))

        turn = ENEMIES * (1 + self.small(submarine)) + (ENEMIES - 1) - self._age(state)
        exposed = moves & inside & ~(level & (column == boat))
        rows, there = state["bullet_rows"], state["bullet_rows"] * SIZE + state["bullet_columns"]
        cells = row * SIZE + column
        kind, rows, hits = self._strike(kind * inside, rows, exposed, cells, there, turn, (1, 0))
        after = {
            "enemy_kind": kind,
            "enemy_column": column,
            "enemy_timer": select(moves, state["move_speed"], timer - 1),
            "enemy_shot": select(shoots, SHOT_INTERVAL, shot - 1),
            "enemy_bullet": select(self.inside(flown), flown, self._nowhere),
            "bullet_rows": rows,
        }
        return after, hits, self.some(met)

    def _breathe(self, state: State) -> tuple[State, Array, Array]:
        """Return timers, oxygen and divers, what coming up pays, and whether it or the oxygen is the end."""
        xp, oxygen, rescued = self.xp, state["oxygen"], state["rescued"]
        below = state["row"] > 0
        comes_up = ~below & (state["surfaced"] == 0)
        up = comes_up & (rescued != 0)
        full = up & (rescued == MAX_DIVERS)
        over = (oxygen <= 0) | (comes_up & (rescued == 0))
        after = {
            "oxygen": select(up, MAX_OXYGEN, oxygen - xp.astype(below, xp.int16)),
            "rescued": rescued - MAX_DIVERS * self.small(full) - self.small(up),
            "surfaced": self.small(~below & (up | (state["surfaced"] == 1))),
            **{
                name: xp.clip(state[name] - 1, 0, None)
                for name in ("shot_timer", "spawn_timer", "diver_spawn_timer")
            },
        }
        return {**after, **self._ramp(state, up)}, self.small(oxygen // OXYGEN_CELL) * full, over

    def _ramp(self, state: State, due: Array) -> State:
        """Return the speeds, faster where it is time; without ramping as they are."""
        spawn, move, index = state["spawn_speed"], state["move_speed"], state["ramp_index"]
        if self.difficulty_ramping:
            due = due & ((spawn > 1) | (move > FASTEST_MOVE))
            move = move - self.small(due & (move > FASTEST_MOVE) & (index & 1 == 1))
            spawn = spawn - self.small(due & (spawn > 1))
            index = index + self.small(due)
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
        oxygen = self.small(xp.clip(state["oxygen"], 0, None) // OXYGEN_CELL)
        gauges = 1 + oxygen * (MAX_DIVERS + 1) + xp.clip(state["rescued"], 0, None)
        codes = xp.concat([self.whole((SIZE - 1, gauges.shape[0]), 0), gauges[None]])
        boat = state["row"] * SIZE + state["column"]
        sprites: list[Sprites] = [
            ("sub_front", boat),
            ("sub_back", boat - state["facing"]),
            ("friendly_bullet", state["bullet_rows"] * SIZE + state["bullet_columns"]),
        ]
        kind, row, bullet = state["enemy_kind"], state["enemy_row"] * SIZE, state["enemy_bullet"]
        enemies = row + state["enemy_column"]
        divers, swims = state["diver_row"] * SIZE + state["diver_column"], state["diver_here"] > 0
        sprites += [
            self._seen("enemy_bullet", self.inside(bullet), row + bullet),
            self._seen("enemy_fish", self.equal(kind, FISH), enemies),
            self._seen("enemy_sub", self.equal(kind, SUBMARINE), enemies),
            self._seen("diver", swims, divers),
        ]
        for name, here, cells in (("enemy", ~self.equal(kind, 0), enemies), ("diver", swims, divers)):
            motion = state[f"{name}_motion"]
            behind = self.inside(state[f"{name}_column"] - motion)
            sprites.append(self._seen("trail", here & behind, cells - motion))
        return xp.astype(codes, xp.int32), sprites

    def _seen(self, channel: str, where: Array, cells: Array) -> Sprites:
        return channel, select(where, cells, self._nowhere)
