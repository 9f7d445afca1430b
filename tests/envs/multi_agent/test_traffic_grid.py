"""The grid of lights against a plain simulation of every vehicle."""

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.envs.multi_agent.traffic_grid import (
    APPROACHES,
    HEADING,
    ROOM,
    SECONDS,
    STRAIGHT,
    TrafficGridDynamics,
    routes,
)

BACK = {"north": "south", "south": "north", "west": "east", "east": "west"}


def test_routes():
    """A vehicle that goes straight on keeps its approach; right of south is west, seen from above."""
    places, _ = routes(3, 3)
    middle = 4
    for approach, name in enumerate(APPROACHES):
        row, column = np.array([1, 1]) + HEADING[approach]
        assert places[middle, approach, 0] == (row * 3 + column) * 4 + approach, name
    north = APPROACHES.index("north")
    assert places[middle, north, 1] == 3 * 4 + APPROACHES.index("east"), (
        "turns right, to the west, from the east"
    )
    assert places[middle, north, 2] == 5 * 4 + APPROACHES.index("west")
    assert places[0, APPROACHES.index("south"), 0] == -1, "leaves the grid"
    assert (places >= 0).sum() == 12 * 2 * 3, "each of 24 streets inwards is reached by three ways"


class Slow:
    """Every vehicle by itself, with loops."""

    def __init__(self, rows, columns, rate, imbalance, start):
        self.rows, self.columns = rows, columns
        k = rows * columns
        self.queue = np.floor(start * 4.0)
        self.waited, self.light, self.since = np.zeros((k, 4)), np.zeros(k, int), np.zeros(k)
        self.rates = np.array([rate, rate, rate * (1 - imbalance), rate * (1 - imbalance)])

    def step(self, actions, arrivals, turns):
        k = self.rows * self.columns
        places, _ = routes(self.rows, self.columns)
        changed = actions != self.light
        leaving, arrived = np.zeros((k, 4)), np.zeros((k, 4))
        for crossing in range(k):
            for approach in range(4):
                green = (approach >= 2) == bool(actions[crossing])
                flow = (1 if changed[crossing] else 2) if green else 0
                leaving[crossing, approach] = min(self.queue[crossing, approach], flow)
                for vehicle in range(int(leaving[crossing, approach])):
                    u = turns[crossing, approach, vehicle]
                    way = 0 if u < STRAIGHT else 1 if u < STRAIGHT + 0.2 else 2
                    place = places[crossing, approach, way]
                    if place >= 0:
                        arrived.ravel()[place] += 1
        kept = self.queue - leaving
        for crossing in range(k):
            for approach in range(4):
                row, column = divmod(crossing, self.columns)
                r, c = row - HEADING[approach][0], column - HEADING[approach][1]
                outside = not (0 <= r < self.rows and 0 <= c < self.columns)
                enters = outside and arrivals[crossing, approach] < self.rates[approach]
                if enters and kept[crossing, approach] + arrived[crossing, approach] < ROOM:
                    arrived[crossing, approach] += 1
        share = kept / np.maximum(self.queue, 1.0)
        self.waited = self.waited * share + kept * SECONDS
        self.queue, self.light = kept + arrived, actions.copy()
        self.since = np.where(changed, 0, self.since + 1)
        total = self.queue.sum(1)
        red = np.array([self.queue[i, :2].sum() if actions[i] else self.queue[i, 2:].sum() for i in range(k)])
        return np.stack([total, self.waited.sum(1) / np.maximum(total, 1.0), changed, leaving.sum(1),
                         self.queue.max(1), red], 1)  # fmt: skip


@pytest.mark.parametrize(("rows", "columns", "rate"), [(1, 2, 0.9), (2, 2, 0.5), (3, 2, 1.0)])
def test_equals_a_simulation_with_loops(rows, columns, rate):
    dynamics = TrafficGridDynamics(rows, columns, rate, 0.25)
    rng, k = np.random.default_rng(0), rows * columns
    noise = {"queue": rng.random((3, k, 4))}
    state = dynamics.initial(noise)
    slow = [Slow(rows, columns, rate, 0.25, noise["queue"][i]) for i in range(3)]
    for t in range(60):
        hold = np.full((3, k), t // 20 % 2) if t > 30 else rng.integers(2, size=(3, k))
        noise = {"arrivals": rng.random((3, k, 4)), "turns": rng.random((3, k, 4, 2))}
        state, rewards, terminated = dynamics.step(state, hold, noise)
        wanted = np.stack(
            [one.step(hold[i], noise["arrivals"][i], noise["turns"][i]) for i, one in enumerate(slow)]
        )
        np.testing.assert_allclose(state["factors"], wanted, atol=1e-9)
        np.testing.assert_allclose(rewards, -wanted[:, :, 0].mean(1))
        np.testing.assert_array_equal(state["since"], np.stack([one.since for one in slow]))
        assert not terminated.any()


def test_factors_are_told_and_the_picture_shows_the_lights():
    env = gym.make("prefrl/TrafficGrid-v0", rows=1, columns=2, render_mode="rgb_array")
    _, info = env.reset(seed=0)
    assert info["factors"].shape == (6,)
    env.step(np.array([0, 1], dtype=np.int8))
    before = env.render()
    env.step(np.array([1, 1], dtype=np.int8))
    assert before.shape == (120, 240, 3)
    assert (before != env.render()).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 1, "columns": 1}, "2 to 16 intersections"),
        ({"rows": 5, "columns": 4}, "2 to 16 intersections"),
        ({"rate": 1.5}, r"rate is 1.5"),
        ({"imbalance": -0.1}, "imbalance -0.1"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        gym.make("prefrl/TrafficGrid-v0", **settings)


def test_more_vehicles_than_room_are_turned_away():
    env = prefrl.envs.make_device("prefrl/TrafficGrid-v0", 8, rate=1.0)
    env.reset(seed=0)
    for _ in range(99):
        env.step(env.dynamics.xp.zeros((8, 4), dtype=env.dynamics.xp.int64))
    assert float(env._state["queue"].max()) >= ROOM
    assert float(env._state["queue"][:, 0, 3].max()) < 60.0
