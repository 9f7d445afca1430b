"""Finite-horizon tasks: their models against what their pages say, and stepping against the models."""

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.envs.finite_horizon.small_mdps import random_mdp, two_coins
from prefrl.envs.finite_horizon.tabular import HorizonModel, Outcome, walk
from prefrl.envs.grids.grid import MOVES, TabularModel

TASKS = prefrl.envs.RETURN_IDS


def outcomes(model, state, action):
    """What may follow, as {(next state, features): probability}."""
    found = {}
    for p, nxt, phi in zip(
        model.probabilities[state, action],
        model.successors[state, action],
        model.features[state, action],
        strict=True,
    ):
        if p > 0:
            key = (int(nxt), tuple(float(x) for x in phi))
            found[key] = found.get(key, 0.0) + float(p)
    return {key: pytest.approx(p) for key, p in found.items()}


def entered(shape, state, action):
    row, column = np.divmod(state, shape[1])
    row, column = np.clip(
        (row + MOVES[action][0], column + MOVES[action][1]), 0, (shape[0] - 1, shape[1] - 1)
    )
    return int(row * shape[1] + column)


def test_apples():
    world = gym.make("prefrl/StochasticApples-v0").unwrapped.horizon_model()
    assert world.horizon == 16
    for state in range(16):
        for action in range(4):
            cell = entered((4, 4), state, action)
            if cell in (3, 12):
                expected = {(cell, (1.0 if cell == 3 else -1.0,)): 0.5, (cell, (0.0,)): 0.5}
            else:
                expected = {(cell, (0.0,)): 1.0}
            assert outcomes(world.model, state, action) == expected
    assert world.model.start[0] == 1.0
    sure = gym.make(
        "prefrl/StochasticApples-v0", probability=1.0, size=3, horizon=5
    ).unwrapped.horizon_model()
    assert outcomes(sure.model, 1, 3) == {(2, (1.0,)): 1.0}


def test_cliff():
    world = gym.make("prefrl/RiskyCliff-v0").unwrapped.horizon_model()
    cliff, goal = {11, 12, 13}, 14
    for state in range(15):
        for action in range(4):
            if state in cliff or state == goal:
                assert outcomes(world.model, state, action) == {(state, (0.0,)): 1.0}
                continue
            expected = {}
            for chance, way in ((0.9, action), (0.1, 1)):
                cell = entered((3, 5), state, way)
                key = (cell, (-12.0 if cell in cliff else 0.0 if cell == goal else -1.0,))
                expected[key] = expected.get(key, 0.0) + chance
            assert outcomes(world.model, state, action) == expected
    assert world.final_features[:, 0].tolist() == [-4.0] * 11 + [0.0] * 4
    assert world.model.start[10] == 1.0


@pytest.mark.parametrize("variables", [2, 3])
def test_homeostasis(variables):
    env = gym.make("prefrl/Homeostasis-v0", variables=variables).unwrapped
    model, sources = env.tabular_model(), {3: 0, 5: 1, **({1: 2} if variables == 3 else {})}
    for state in range(9):
        for action in range(4):
            cell = entered((3, 3), state, action)
            found = outcomes(model, state, action)
            assert {key[0] for key in found} == {cell}
            mean = np.full(variables, -0.5)
            if cell in sources:
                mean[sources[cell]] += 2.0
            got = (model.probabilities[state, action][:, None] * model.features[state, action]).sum(0)
            np.testing.assert_allclose(got, mean)
            assert len(found) == 2**variables * (2 if cell in sources else 1)
    assert env.initial_stock == (0.0,) * variables
    told = gym.make("prefrl/Homeostasis-v0", initial_deviation=(1, -2)).unwrapped
    assert told.initial_stock == (1.0, -2.0)


def test_budget():
    env = gym.make("prefrl/BudgetedCollection-v0", budget=7, accident=0.25).unwrapped
    model = env.tabular_model()
    assert env.initial_stock == (0.0, 7.0)
    assert outcomes(model, 8, 1) == {(12, (3.0, -1.0)): 0.75, (12, (3.0, -4.0)): 0.25}
    assert outcomes(model, 2, 3) == {(3, (1.0, 0.0)): 1.0}
    assert outcomes(model, 5, 1) == {(9, (0.0, 0.0)): 1.0}
    assert model.weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("env_id", TASKS)
def test_steps_follow_the_model(env_id):
    """Frequencies of what happens in many rows; every row's observation and reward are the model's."""
    horizon = {} if env_id == "prefrl/TwoCoins-v0" else {"horizon": 6}
    rows = gym.make_vec(env_id, 4_000, **horizon)
    world, model = rows.unwrapped.horizon_model(), rows.unwrapped.tabular_model()
    coordinates = rows.unwrapped.observations(0)[:, :-1]
    rng = np.random.default_rng(0)
    obs, _ = rows.reset(seed=0)
    counts, visits = {}, {}

    def state_of(obs):
        return np.abs(coordinates[None] - obs[:, None, :-1]).sum(-1).argmin(-1)

    state = state_of(obs)
    assert set(state) == set(np.flatnonzero(model.start))
    for time in range(world.horizon):
        np.testing.assert_allclose(obs, rows.unwrapped.observations(time)[state], atol=1e-6)
        actions = rng.integers(rows.single_action_space.n, size=4_000)
        alive = ~model.terminal[state]
        obs, rewards, terminations, truncations, infos = rows.step(actions)
        after = state_of(obs)
        assert not truncations.any()
        late = time + 1 == world.horizon
        np.testing.assert_array_equal(terminations[alive], (model.terminal[after] | late)[alive])
        for s, a, nxt, r in zip(state[alive], actions[alive], after[alive], rewards[alive], strict=True):
            counts[s, a, nxt, round(float(r), 6), late] = (
                counts.get((s, a, nxt, round(float(r), 6), late), 0) + 1
            )
            visits[s, a, late] = visits.get((s, a, late), 0) + 1
        if "reward_vector" in infos:
            np.testing.assert_allclose(
                infos["reward_vector"][alive] @ model.weights, rewards[alive], atol=1e-9
            )
        if late or (alive & terminations).any():
            break  # rows that ended start anew from here on
        state = after
    for (s, a, nxt, r, late), n in counts.items():
        p = 0.0
        for k in range(model.successors.shape[2]):
            paid = model.rewards[s, a, k] + late * (world.final_features[nxt] @ model.weights)
            p += model.probabilities[s, a, k] * (model.successors[s, a, k] == nxt and abs(paid - r) < 1e-5)
        total = visits[s, a, late]
        assert n / total == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / total) + 1e-9)


def test_two_coins_and_random_mdps_start_in_their_first_state():
    assert two_coins().model.start.tolist() == [1.0, 0.0, 0.0]
    model = random_mdp(3, 5, states=4, actions=3).model
    assert model.successors.shape == (4, 3, 2)
    assert set(model.rewards.flatten()) <= set(range(-2, 4))
    assert set((4 * model.probabilities[..., 0]).flatten()) <= {1.0, 2.0, 3.0}
    assert not (model.rewards == random_mdp(4, 5, states=4, actions=3).model.rewards).all()


def test_pictures_show_the_time():
    env = gym.make("prefrl/RiskyCliff-v0", render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(2)
    env.step(2)
    after = env.render()
    assert before.shape == after.shape
    blue = [(picture[-1, :, 2].astype(int) - picture[-1, :, 0] > 50).mean() for picture in (before, after)]
    assert blue[0] == 0.0
    assert blue[1] == pytest.approx(2 / 16, abs=0.01)


@pytest.mark.parametrize(("env_id", "settings", "message"), [
    ("StochasticApples", {"size": 1}, "size is 1; it must be at least 2"),
    ("StochasticApples", {"probability": 1.5}, r"probability is 1.5; it must lie in \[0, 1\]"),
    ("StochasticApples", {"horizon": 0}, "horizon is 0"),
    ("RiskyCliff", {"width": 2}, "they must be at least 2 and 3"),
    ("RiskyCliff", {"slip": 1.0}, r"slip must lie in \[0, 1\)"),
    ("RiskyCliff", {"fall": float("inf")}, "the others be finite"),
    ("Homeostasis", {"variables": 4}, "variables is 4; it must be 2 or 3"),
    ("Homeostasis", {"drain": -0.1}, "drain is -0.1"),
    ("Homeostasis", {"meals": (1.0,)}, "meals is"),
    ("Homeostasis", {"initial_deviation": (1.0,)}, "it must be 2 finite numbers"),
    ("BudgetedCollection", {"accident": 2.0}, "accident lie in"),
    ("TwoCoins", {"horizon": 0}, "horizon is 0"),
    ("RandomMDP", {"mdp_seed": -1}, "seed is -1"),
    ("RandomMDP", {"states": 0}, "states is 0"),
])  # fmt: skip
def test_arguments_that_are_refused(env_id, settings, message):
    with pytest.raises(ValueError, match=message):
        gym.make(f"prefrl/{env_id}-v0", **settings)


def test_models_that_are_refused():
    model = two_coins().model
    with pytest.raises(ValueError, match=r"final_features has shape \(2, 1\)"):
        HorizonModel(model, 2, np.zeros((2, 1)))
    with pytest.raises(ValueError, match="of terminal states must be 0"):
        HorizonModel(model, 2, np.ones((3, 1)))
    env = gym.make("prefrl/TwoCoins-v0").unwrapped
    with pytest.raises(ValueError, match="time is 3; the horizon is 2"):
        env.observations(3)
    with pytest.raises(ValueError, match=r"reset options \['cell'\] are unknown"):
        env.reset(options={"cell": (0, 0)})
    assert isinstance(walk((2, 2), {}, (Outcome(1.0, (0.0,)),), start=(0, 0), weights=(1.0,),
                           feature_names=("reward",)), TabularModel)  # fmt: skip
