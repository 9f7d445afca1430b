"""A tour through cities, each open for a while only: what must be, and what is merely better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import check_count, check_layout_seed, check_number, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics

Floats = NDArray[np.float64]

GRAIN = 64
"""Distances and times are multiples of 1 / GRAIN: their sums are exact, in float32 too."""

MAX_CITIES = 40
"""As many as a picture can name."""

MAX_ENUMERATED = 7
"""Cities of which all sequences (N to the N) are gone through."""


class WindowTSPDynamics(Dynamics):
    """A tour through cities that are open for a while only, from a depot in the middle.

    ## Description
    A choice is the next city. Going there takes as long as it is far; who comes before a city opens waits,
    who comes after it has closed is too late. Visiting every city in time is a must (the hard part of the
    reward), a short way is better than a long one (the soft part). Both together, as they stand, tempt: the
    way is shortest for those who stay where they are. `prefrl.envs.wrappers.GatedReward` pays for the way
    only where the must is met (after TourPlanner, arXiv 2601.04698; the task is ours).
    Places are drawn evenly from the unit square. Windows are drawn around a tour in random order, which
    therefore meets them all.

    ## Action Space
    `Discrete(cities)`: the next city; the one where one is, or has been, is allowed and serves nobody.

    ## Observation Space
    `Box(-1, 1, (2 * cities + 1,))`: of each city 1 if it was served in time, -1 if too late, else 0; 1 at the
    city where one is (none is the depot); and the clock, as a share of the latest it can be.

    ## Rewards
    `info["reward_vector"]`, [2]: hard, 1 / cities for a city served in time, so that their sum is 1 for
    a tour that meets every window; soft, (longest - way) / (cities * longest), where longest is the longest
    way between two places, so that their sum is between 0 and 1. The reward itself is hard + soft_weight *
    soft.

    ## Starting State
    At the depot, at time 0.

    ## Episode End
    Terminates after as many choices as there are cities.

    ## Arguments
    `cities` (int, 5), at most 40. `width` (float, 1): a window opens up to so much before the arrival of
    the tour it was drawn around, and closes up to so much after. `soft_weight` (float, 2): of the soft part
    in the reward. `layout_seed` (int, 0): which places and windows. `render_mode`.

    ## Ground truth
    Of up to 7 cities, over all sequences of choices, repeats included: `sequences()` [K, cities],
    `sequence_scores()` [K, 2] hard and soft, `best_feasible_tour()` and `optimal_value()`. Of any
    number: `score(sequences)`, `places` and `windows`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, cities: int = 5, width: float = 1.0, soft_weight: float = 2.0, layout_seed: int = 0,
        backend: Backend | None = None,
    ) -> None:  # fmt: skip
        super().__init__(backend)
        n = self.cities = check_count("cities", cities)
        if not 2 <= n <= MAX_CITIES:
            raise ValueError(f"cities is {cities}; it must be from 2 to {MAX_CITIES}")
        for name, value in (("width", width), ("soft_weight", soft_weight)):
            if not 0.0 <= check_number(name, value) < np.inf:
                raise ValueError(f"{name} is {value!r}; it must be a finite number, not negative")
        self.soft_weight = float(soft_weight)
        rng = np.random.default_rng(check_layout_seed(layout_seed))
        self.places: Floats = np.concatenate([rng.random((n, 2)), [[0.5, 0.5]]])
        """[cities + 1, 2] where the cities are, the depot last."""
        gaps = self.places[:, None] - self.places
        self.ways: Floats = np.ceil(np.hypot(gaps[..., 0], gaps[..., 1]) * GRAIN) / GRAIN
        """[cities + 1, cities + 1] how long it takes from place to place."""
        self.windows: Floats = self._draw_windows(rng, float(width))
        """[cities, 2] when each city opens and closes."""
        self.latest = float(self.windows[:, 0].max() + n * self.ways.max())
        """The latest that an episode can end."""
        self.single_observation_space = gym.spaces.Box(-1.0, 1.0, (2 * n + 1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(n)
        asarray, real = self.backend.asarray, self.backend.float_dtype
        self._ways = asarray(self.ways[:, :n].flatten(), real)
        self._soft = asarray(((1.0 - self.ways[:, :n] / self.ways.max()) / n).flatten(), real)
        self._opens, self._closes = (asarray(column.copy(), real) for column in self.windows.T)
        self._one_hot = asarray(np.concatenate([np.eye(n), np.zeros((1, n))]), real)

    def _draw_windows(self, rng: np.random.Generator, width: float) -> Floats:
        tour = rng.permutation(self.cities)
        legs = self.ways[np.concatenate([[self.cities], tour[:-1]]), tour]
        arrivals = np.empty(self.cities)
        arrivals[tour] = legs.cumsum()
        early, late = width * rng.random((2, self.cities))
        opens = np.maximum(0.0, np.floor((arrivals - early) * GRAIN) / GRAIN)
        return np.stack([opens, np.ceil((arrivals + late) * GRAIN) / GRAIN], 1)

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`; one number that nothing depends on, to count the rows by."""
        return {"row": rng.uniform(n)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`; a tour needs none."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start at the depot."""
        reject_unknown_options(options, ())
        xp, real, device = self.xp, self.backend.float_dtype, self.backend.device
        n = noise["row"].shape[0]
        return {
            "place": xp.full((n,), self.cities, dtype=xp.int64, device=device),
            "served": xp.zeros((n, self.cities), dtype=real, device=device),
            "clock": xp.zeros(n, dtype=real, device=device),
            "time": xp.zeros(n, dtype=xp.int64, device=device),
            "earned": xp.zeros((n, 2), dtype=real, device=device),
        }

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: who was served, where one is, and the clock."""
        here = self._one_hot[state["place"]]
        return self.observation(*state["served"].T, *here.T, state["clock"] / self.latest)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp, real = self.xp, self.backend.float_dtype
        leg = state["place"] * self.cities + actions
        arrival = state["clock"] + self._ways[leg]
        opens = self._opens[actions]
        here = self._one_hot[actions]
        fresh = xp.sum(here * xp.abs(state["served"]), axis=1) == 0.0
        in_time = arrival <= self._closes[actions]
        mark = xp.astype(fresh, real) * xp.where(in_time, xp.ones_like(arrival), -xp.ones_like(arrival))
        earned = xp.stack([xp.astype(fresh & in_time, real) / self.cities, self._soft[leg]], axis=1)
        time = state["time"] + 1
        after = {
            "place": actions, "served": state["served"] + mark[:, None] * here,
            "clock": xp.where(arrival > opens, arrival, opens), "time": time, "earned": earned,
        }  # fmt: skip
        return after, earned[:, 0] + self.soft_weight * earned[:, 1], time >= self.cities

    def info(self, state: State) -> dict[str, Array]:
        """See :meth:`Dynamics.info`: the hard and the soft part of the last reward."""
        return {"reward_vector": self.xp.asarray(state["earned"], copy=True)}

    def score(self, sequences: NDArray[np.int64]) -> Floats:
        """Return the sums of hard and soft parts [K, 2] of sequences of choices [K, cities].

        Raises:
            ValueError: unless these are whole numbers [K, cities] of cities.
        """
        chosen = np.asarray(sequences)
        if chosen.ndim != 2 or chosen.shape[1] != self.cities or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"sequences have shape {chosen.shape} and dtype {chosen.dtype}; they must be "
                             f"whole numbers [K, {self.cities}]")  # fmt: skip
        if ((chosen < 0) | (chosen >= self.cities)).any():
            raise ValueError(f"sequences must hold cities from 0 to {self.cities - 1}")
        rows = np.arange(len(chosen))
        place, clock = np.full(len(chosen), self.cities), np.zeros(len(chosen))
        visited, scores = np.zeros((len(chosen), self.cities), dtype=bool), np.zeros((len(chosen), 2))
        for city in chosen.T:
            way = self.ways[place, city]
            in_time = clock + way <= self.windows[city, 1]
            scores[:, 0] += (in_time & ~visited[rows, city]) / self.cities
            scores[:, 1] += (1.0 - way / self.ways.max()) / self.cities
            visited[rows, city] = True
            clock, place = np.maximum(clock + way, self.windows[city, 0]), city
        return scores

    def sequences(self) -> NDArray[np.int64]:
        """Return all sequences of choices [K, cities]; ValueError for more than 7 cities."""
        if self.cities > MAX_ENUMERATED:
            raise ValueError(f"cities is {self.cities}; sequences of more than {MAX_ENUMERATED} are too many "
                             "to go through")  # fmt: skip
        return np.indices((self.cities,) * self.cities).reshape(self.cities, -1).T.astype(np.int64)

    def sequence_scores(self) -> Floats:
        """Return the sums of hard and soft parts [K, 2] of all sequences."""
        return self.score(self.sequences())

    def best_feasible_tour(self) -> tuple[NDArray[np.int64], float]:
        """Return the tour [cities] that meets every window on the shortest way, and its soft part."""
        sequences = self.sequences()
        hard, soft = self.score(sequences).T
        best = int(np.where(hard > 1.0 - 0.5 / self.cities, soft, -np.inf).argmax())
        return sequences[best], float(soft[best])

    def optimal_value(self) -> float:
        """Return the largest sum of rewards of an episode, hard + soft_weight * soft."""
        return float((self.sequence_scores() @ (1.0, self.soft_weight)).max())

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: a map of who was served, and the windows with the clock."""
        from prefrl.envs.rendering.puzzles import draw_tour

        served = [int(mark) for mark in state["served"][index]]
        clock = float(state["clock"][index])
        return draw_tour(self.places, self.windows, served, int(state["place"][index]), clock, self.latest)
