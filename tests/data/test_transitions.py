"""Which rows of a vector environment's step are transitions, and where their true successors stand."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
import prefrl.envs.grids.random_grid
from prefrl.data import step_infos, successor_obs, transition_mask

NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
ROWS, LIMIT = 8, 12


def make(kind, mode):
    env_id = "prefrl/RandomGrid-v0"
    kwargs = {"max_episode_steps": LIMIT, "layout_seed": 2, "stochastic": True}
    if kind == "device":
        return prefrl.envs.make_device(env_id, ROWS, autoreset_mode=mode, **kwargs)
    if kind == "ours":
        return gym.make_vec(env_id, ROWS, autoreset_mode=mode, **kwargs)
    return gym.make_vec(env_id, ROWS, kind, vector_kwargs={"autoreset_mode": mode}, **kwargs)


def collect(env, steps, seed=0):
    """Step at random; yield what a learner would take for transitions, and everything of each step."""
    mode = env.metadata["autoreset_mode"]
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    done = (
        torch.zeros(ROWS, dtype=torch.bool) if isinstance(obs, torch.Tensor) else np.zeros(ROWS, dtype=bool)
    )
    for _ in range(steps):
        actions = rng.integers(4, size=ROWS)
        next_obs, rewards, terminated, truncated, infos = env.step(actions)
        mask = transition_mask(mode, done)
        assert type(mask) is type(done)
        yield tuple(
            np.asarray(part)
            for part in (
                obs,
                actions,
                rewards,
                successor_obs(mode, next_obs, infos),
                terminated,
                truncated,
                mask,
            )
        )
        done, obs = terminated | truncated, next_obs
        if mode is DISABLED and done.any():
            obs, _ = env.reset(options={"reset_mask": done})


KINDS = [(kind, mode) for kind in ("ours", "device", "sync", "async") for mode in (NEXT, SAME, DISABLED)]
KINDS.remove(("async", DISABLED))  # as little different from "sync" as SAME, and each process costs time


@pytest.mark.parametrize(("kind", "mode"), KINDS, ids=[f"{k}-{m.value}" for k, m in KINDS])
def test_every_masked_row_is_a_possible_transition(kind, mode):
    """Each (s, a, r, s') of a mask's rows is one that the exact model knows, and no others are left out."""
    env = make(kind, mode)
    model = prefrl.envs.grids.random_grid.RandomGridDynamics(2, stochastic=True).tabular_model()
    steps, rows, ends, cuts, spurious = 60, 0, 0, 0, 0
    for obs, actions, rewards, successors, terminated, truncated, mask in collect(env, steps):
        match = (model.successors[obs, actions] == successors[:, None]) & (
            model.probabilities[obs, actions] > 0
        )
        assert match.any(1)[mask].all()
        paid = (model.rewards[obs, actions] * match).sum(1)
        np.testing.assert_allclose(rewards[mask], paid[mask], rtol=0, atol=1e-6)
        assert not model.terminal[obs[mask]].any()
        np.testing.assert_array_equal(terminated[mask], model.terminal[successors[mask]])
        assert not (terminated | truncated)[~mask].any()
        rows += mask.sum()
        ends += terminated.sum()
        cuts += (truncated & ~terminated).sum()
        spurious += (~mask).sum()
    env.close()
    assert ends > 20
    assert cuts > 0
    if mode is NEXT:
        assert 0 <= ends + cuts - spurious <= ROWS, "one row is lost for each end before the last step"
    else:
        assert rows == steps * ROWS


@pytest.mark.parametrize("mode", [NEXT, SAME, DISABLED])
def test_masked_rows_chain_into_episodes(mode):
    """A row's obs is its predecessor's successor, unless an episode ended in between."""
    before = None
    chained = 0
    for obs, _, _, successors, terminated, truncated, mask in collect(make("ours", mode), 60):
        if before is not None:
            goes_on = mask & ~before[1]
            np.testing.assert_array_equal(obs[goes_on], before[0][goes_on])
            chained += goes_on.sum()
        before = (successors, terminated | truncated)
    assert chained > 200


def test_masks_by_hand():
    done = np.array([True, False])
    assert transition_mask(NEXT, done).tolist() == [False, True]
    assert transition_mask(SAME, done).tolist() == [True, True]
    assert transition_mask(DISABLED, torch.tensor([True, False])).tolist() == [True, True]
    assert transition_mask("NextStep", torch.tensor([True, False])).tolist() == [False, True]
    assert done.tolist() == [True, False]


def test_successors_by_hand():
    """Row 0 ended at 7 and begins anew at 3; row 1 went on to 4, whatever stands in its final_obs."""
    next_obs, ended = np.array([3, 4]), np.array([True, False])
    gymnasiums = np.array([7, None], dtype=object)
    for final in (np.array([7, 4]), gymnasiums):
        assert successor_obs(SAME, next_obs, {"final_obs": final, "_final_obs": ended}).tolist() == [7, 4]
    assert next_obs.tolist() == [3, 4], "what was given stays as it is"
    infos = {"final_obs": torch.tensor([7, 9]), "_final_obs": torch.tensor([True, False])}
    assert successor_obs("SameStep", torch.tensor([3, 4]), infos).tolist() == [7, 4]
    for mode in (NEXT, SAME, DISABLED):
        assert successor_obs(mode, next_obs, {}) is next_obs


@pytest.mark.parametrize("kind", ["array", "objects", "tensor"])
def test_successors_of_observations_with_axes(kind):
    rng = np.random.default_rng(0)
    next_obs, final = rng.normal(size=(2, 4, 3, 2)).astype(np.float32)
    ended = np.array([True, False, True, False])
    expected = np.where(ended[:, None, None], final, next_obs)
    if kind == "objects":
        filled = np.full(4, None, dtype=object)
        for row in np.flatnonzero(ended):
            filled[row] = final[row]
        final = filled
    elif kind == "tensor":
        next_obs, final, ended = torch.tensor(next_obs), torch.tensor(final), torch.tensor(ended)
    found = successor_obs(SAME, next_obs, {"final_obs": final, "_final_obs": ended})
    assert type(found) is type(next_obs)
    assert found.dtype == next_obs.dtype
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_unknown_modes_are_refused():
    for mode in ("never", None, 3):
        with pytest.raises(ValueError, match="AutoresetMode"):
            transition_mask(mode, np.array([True]))
        with pytest.raises(ValueError, match="AutoresetMode"):
            successor_obs(mode, np.array([1]), {})


# Dict observations, and infos ----------------------------------------


def test_successors_of_dict_observations():
    """Gymnasium's own final observations are an object array of dicts, ours a dict of arrays."""
    next_obs = {"a": np.array([[1.0], [2.0]]), "b": np.array([10, 20])}
    ended = np.array([False, True])
    theirs = np.array([None, {"a": np.array([9.0]), "b": 90}], dtype=object)
    ours = {"a": np.array([[8.0], [9.0]]), "b": np.array([80, 90])}
    tensors = {name: torch.as_tensor(values) for name, values in ours.items()}
    for obs, final, flags in (
        (next_obs, theirs, ended),
        (next_obs, ours, ended),
        ({name: torch.as_tensor(part) for name, part in next_obs.items()}, tensors, torch.as_tensor(ended)),
    ):
        found = successor_obs("SameStep", obs, {"final_obs": final, "_final_obs": flags})
        assert {name: part.tolist() for name, part in found.items()} == {"a": [[1.0], [9.0]], "b": [10, 90]}
    assert next_obs["a"].tolist() == [[1.0], [2.0]], "what was given is not written to"
    assert successor_obs("NextStep", next_obs, {"final_obs": ours, "_final_obs": ended}) is next_obs


def test_infos_of_a_step_are_those_before_a_restart():
    infos = {"used": np.array([0.0, 0.0, 3.0]), "_used": np.ones(3, dtype=bool), "other": 1}
    final = {"used": np.array([1.0, 2.0, 0.0])}
    ended = np.array([True, True, False])
    assert step_infos((), infos) == {}
    np.testing.assert_array_equal(step_infos(("used",), infos)["used"], [0.0, 0.0, 3.0])
    merged = step_infos(("used",), {**infos, "final_info": final, "_final_info": ended})["used"]
    np.testing.assert_array_equal(merged, [1.0, 2.0, 3.0])
    alone = step_infos(("used",), {"final_info": final, "_final_info": np.ones(3, dtype=bool)})
    np.testing.assert_array_equal(alone["used"], [1.0, 2.0, 0.0])
    with pytest.raises(ValueError, match=r"info has no 'spent'; it has \['_used', 'other', 'used'\]"):
        step_infos(("spent",), infos)
