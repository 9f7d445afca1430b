"""A grid of streets with lights at every crossing: several agents, and no one number for what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import check_count, check_number, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics

APPROACHES = ("north", "south", "west", "east")
"""Where vehicles come from, in the order of all arrays with an axis of 4."""

HEADING = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""(row, column) that vehicles from each approach drive towards."""

SECONDS = 5.0
"""A step."""

GREEN_FLOW, CHANGING_FLOW = 2, 1
"""Vehicles that may leave an approach in a step: at green, and in the step in which lights change."""

ROOM = 20.0
"""Vehicles that an approach at the edge has room for; more are turned away."""

STRAIGHT, RIGHT, LEFT = 0.6, 0.2, 0.2
"""Shares of vehicles."""

OBSERVED = 11
"""Numbers that an intersection observes."""

FACTOR_NAMES = ("queue", "waiting_time", "switches", "throughput", "longest_queue", "held_at_red")
FACTOR_SIGNS = (-1, -1, -1, 1, -1, -1)


def routes(rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where vehicles go: places [K, 4, 3] and matrix [K * 12, K * 4].

    The axis of 3 is straight on, right, left. A place is crossing * 4 + approach, or -1 for a street that
    leaves the grid; the matrix has a 1 for each place.
    """
    places = np.full((rows * columns, 4, 3), -1)
    for crossing, approach in np.ndindex(rows * columns, 4):
        row, column = divmod(crossing, columns)
        ahead = np.array(HEADING[approach])
        right = np.array((ahead[1], -ahead[0]))  # turning clockwise, rows counting downwards
        for way, heading in enumerate((ahead, right, -right)):
            r, c = row + int(heading[0]), column + int(heading[1])
            if 0 <= r < rows and 0 <= c < columns:
                places[crossing, approach, way] = (r * columns + c) * 4 + HEADING.index(
                    (int(heading[0]), int(heading[1]))
                )
    matrix = np.zeros((places.size, rows * columns * 4))
    inside = np.flatnonzero(places.ravel() >= 0)
    matrix[inside, places.ravel()[inside]] = 1.0
    return places, matrix


class TrafficGridDynamics(Dynamics):
    """Switch the lights of a grid of crossings.

    ## Description
    2 to 16 crossings of two streets each, in rows and columns; a step is 5 s. Vehicles come in at the edge,
    wait in a queue, and at green two of each approach drive on, one in a step in which the lights change. 60
    % go straight on, 20 % turn to each side; they queue at the next crossing or leave the grid. Several
    things are wanted at once - short queues, short waits, steady lights - and nobody says what they weigh.

    ## Action Space
    `MultiBinary(K)`: for each crossing, row by row, 0: green for north and south, 1: for west and east. With
    `prefrl.envs.AgentsAsRows` every crossing is a row of its own with `Discrete(2)`.

    ## Observation Space
    `Box` of 11 numbers for each crossing: vehicles waiting from north, south, west and east (in tens), their
    mean waiting time (in minutes), which street is green (two indicators), and steps since the lights changed
    (in tens).

    ## Rewards
    Minus the mean number of vehicles waiting at a crossing. `info["factors"]` are six factors, means over the
    crossings: vehicles waiting, their mean waiting time in s, switches of the lights, vehicles let through,
    the longest queue, vehicles held at red; `info["agent_factors"]` are those of each crossing.

    ## Starting State
    0 to 3 vehicles on every approach, green for north and south.

    ## Episode End
    Never terminates. `gym.make` truncates after 100 steps.

    ## Arguments
    `rows`, `columns` (int, 2): 2 to 16 crossings; `rate` (float, 0.35): probability of a vehicle on each
    approach from outside, per step; `imbalance` (float, 0.5): how much less there is from west and east;
    `render_mode`.

    ## Version History
    - v0: first version.
    """

    endless = True

    factor_names, factor_signs = FACTOR_NAMES, FACTOR_SIGNS
    """[6] what the factors are called, and whether more of each is better (1) or worse (-1)."""

    agent_observation_space = gym.spaces.Box(0.0, np.inf, (OBSERVED,))
    agent_action_space = gym.spaces.Discrete(2)

    def __init__(
        self,
        rows: int = 2,
        columns: int = 2,
        rate: float = 0.35,
        imbalance: float = 0.5,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(backend)
        self.rows, self.columns = check_count("rows", rows), check_count("columns", columns)
        self.num_agents = k = self.rows * self.columns
        if not 2 <= k <= 16:
            raise ValueError(f"rows is {rows} and columns {columns}; there must be 2 to 16 intersections")
        rate, imbalance = check_number("rate", rate), check_number("imbalance", imbalance)
        if not 0.0 <= rate <= 1.0 or not 0.0 <= imbalance <= 1.0:
            raise ValueError(f"rate is {rate} and imbalance {imbalance}; they must lie in [0, 1]")
        self.single_observation_space = gym.spaces.Box(0.0, np.inf, (k * OBSERVED,))
        self.single_action_space = gym.spaces.MultiBinary(k)
        asarray, real = self.backend.asarray, self.backend.float_dtype
        _, matrix = routes(rows, columns)
        self._matrix = asarray(matrix, real)
        self._entry_rate = asarray(
            self._entries() * np.array([1.0, 1.0, 1.0 - imbalance, 1.0 - imbalance]) * rate, real
        )
        self._along = asarray(np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]), real)

    def _entries(self) -> NDArray[np.float64]:
        """Return [K, 4] 1 for approaches that come from outside the grid."""
        entries = np.zeros((self.num_agents, 4))
        for crossing, approach in np.ndindex(self.num_agents, 4):
            row, column = divmod(crossing, self.columns)
            r, c = row - HEADING[approach][0], column - HEADING[approach][1]
            entries[crossing, approach] = not (0 <= r < self.rows and 0 <= c < self.columns)
        return entries

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"queue": rng.uniform(n, self.num_agents, 4)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: arrivals, and where each vehicle that may leave turns."""
        return {
            "arrivals": rng.uniform(n, self.num_agents, 4),
            "turns": rng.uniform(n, self.num_agents, 4, GREEN_FLOW),
        }

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start with 0 to 3 vehicles on every approach, green for north and south."""
        reject_unknown_options(options, ())
        xp = self.xp
        queue = xp.floor(noise["queue"] * 4.0)
        crossing = xp.zeros_like(queue[..., 0])
        return {
            "queue": queue,
            "waited": xp.zeros_like(queue),
            "east_west": xp.zeros_like(crossing, dtype=xp.int64),
            "since": xp.zeros_like(crossing),
            "factors": xp.stack([xp.zeros_like(crossing)] * len(FACTOR_NAMES), axis=-1),
        }

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: crossing by crossing."""
        xp = self.xp
        local = self.local_observations(state)
        flat = xp.reshape(local, (local.shape[0], -1))
        return flat if self.backend.on_device else flat.astype(np.float32)

    def local_observations(self, state: State) -> Array:
        """Return what each crossing observes [n, K, 11]; see :class:`TrafficGridDynamics`."""
        xp, real = self.xp, self.backend.float_dtype
        mean_wait = state["waited"] / xp.maximum(state["queue"], xp.ones_like(state["queue"]))
        east_west = xp.astype(state["east_west"], real)[..., None]
        parts = [state["queue"] / 10.0, mean_wait / 60.0, 1.0 - east_west, east_west,
                 state["since"][..., None] / 10.0]  # fmt: skip
        return xp.concat(parts, axis=-1)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp, real = self.xp, self.backend.float_dtype
        wanted = xp.astype(actions, xp.int64)
        changed = xp.astype(wanted != state["east_west"], real)
        green = self._along[wanted]  # [n, K, 4]
        flow = green * (GREEN_FLOW - (GREEN_FLOW - CHANGING_FLOW) * changed[..., None])
        leaving = xp.minimum(state["queue"], flow)
        kept = state["queue"] - leaving
        arrived = self._arrivals(leaving, noise["turns"])
        entered = xp.astype(noise["arrivals"] < self._entry_rate, real)
        entered = xp.minimum(entered, xp.maximum(ROOM - kept - arrived, xp.zeros_like(kept)))
        queue = kept + arrived + entered
        # Vehicles that leave take their share of the waiting with them; those that stay wait a step longer.
        share = kept / xp.maximum(state["queue"], xp.ones_like(kept))
        waited = state["waited"] * share + kept * SECONDS
        held = xp.sum(queue * (1.0 - green), axis=-1)
        total = xp.sum(queue, axis=-1)
        factors = xp.stack([
            total, xp.sum(waited, axis=-1) / xp.maximum(total, xp.ones_like(total)), changed,
            xp.sum(leaving, axis=-1), xp.max(queue, axis=-1), held,
        ], axis=-1)  # fmt: skip
        next_state = {
            "queue": queue,
            "waited": waited,
            "east_west": wanted,
            "since": (state["since"] + 1.0) * (1.0 - changed),
            "factors": factors,
        }
        rewards = -xp.mean(total, axis=-1)
        return next_state, rewards, xp.zeros_like(rewards, dtype=xp.bool)

    def _arrivals(self, leaving: Array, turns: Array) -> Array:
        """Return how many vehicles reach each approach [n, K, 4] from other crossings."""
        xp, real = self.xp, self.backend.float_dtype
        ways = []
        for low, high in ((0.0, STRAIGHT), (STRAIGHT, STRAIGHT + RIGHT), (STRAIGHT + RIGHT, 1.0)):
            turning = 0.0 * leaving
            for vehicle in range(GREEN_FLOW):
                drawn = turns[..., vehicle]
                takes = (leaving > vehicle) & (drawn >= low) & (drawn < high)
                turning = turning + xp.astype(takes, real)
            ways.append(turning)
        flows = xp.reshape(xp.stack(ways, axis=-1), (leaving.shape[0], -1))
        return xp.reshape(flows @ self._matrix, leaving.shape)

    def info(self, state: State) -> dict[str, Array]:
        """See :meth:`Dynamics.info`: the factors, of each crossing and their mean."""
        xp = self.xp
        factors = xp.asarray(state["factors"], copy=True)
        return {"factors": xp.mean(factors, axis=1), "agent_factors": factors}

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: streets, queues, and lights."""
        from prefrl.envs.rendering.scenes import draw_traffic

        queue = np.asarray(state["queue"][index], dtype=np.float64).reshape(self.rows, self.columns, 4)
        lights = np.asarray(state["east_west"][index]).reshape(self.rows, self.columns)
        return draw_traffic(queue, lights.astype(bool))
