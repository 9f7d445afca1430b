"""Value iteration against exact solvers and by hand, in environments and in tables."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl import TabularMDP, ValueIteration, ValueIterationConfig
from prefrl.tabular.solvers import optimal_policy

CHAIN = np.zeros((3, 2, 3))
CHAIN[0, 0, 0] = CHAIN[1, 0, 0] = 1.0  # action 0: back to the start
CHAIN[0, 1] = [0.0, 0.5, 0.5]
CHAIN[1, 1, 2] = 1.0
PAYS = np.array([[1.0, 0.0], [1.0, 6.0], [9.0, 9.0]])


def chain(**changes):
    tables = {"transitions": CHAIN, "rewards": PAYS, "terminal": [False, False, True], **changes}
    return TabularMDP.from_arrays(**tables)


def test_tables_by_hand():
    """From the middle 6 and the end; from the start 1 for ever, or half of what the middle is worth."""
    agent = ValueIteration(chain(), ValueIterationConfig(gamma=0.5), device="cpu").learn(60)
    np.testing.assert_allclose(agent.values, [2.0, 6.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(agent.q[0], [2.0, 1.5])
    assert agent.act(torch.tensor([0, 1]), deterministic=True).tolist() == [0, 1]
    assert agent.result() == {"start_value": pytest.approx(4.0), "error_bound": pytest.approx(0.0, abs=1e-15)}


def test_rewards_of_each_successor_are_averaged():
    each = np.zeros((3, 2, 3))
    each[0, 1] = [100.0, 2.0, 4.0]
    mdp = chain(rewards=each, start=[0.25, 0.75, 0.0])
    assert mdp.linear_rewards(mdp.weights)[0].tolist() == [[0.0, 3.0], [0.0, 0.0], [0.0, 0.0]]
    assert mdp.start[0].tolist() == [0.25, 0.75, 0.0]
    assert mdp.successors.shape[-1] == 2, "no more than are possible"


@pytest.mark.parametrize("env_id", ["prefrl/Delivery-v0", "prefrl/RandomGrid-v0"])
def test_it_ends_where_the_solver_does(env_id):
    env = gym.make(env_id)
    agent = ValueIteration(env, ValueIterationConfig(gamma=0.9), device="cpu").learn(300)
    mdp = TabularMDP.from_env(env)
    value, _, policy = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), 0.9)
    bound = agent.result()["error_bound"]
    assert bound < 1e-9
    assert float((agent.values - value[0]).abs().max()) <= bound + 1e-12
    states = torch.arange(mdp.num_states)
    chosen = policy[0][states, agent.act(states)]
    assert bool((chosen[~mdp.terminal[0]] > 0.0).all())


def test_the_bound_holds_before_it_is_done():
    agent = ValueIteration(chain(), ValueIterationConfig(gamma=0.9), device="cpu").learn(5)
    best = ValueIteration(chain(), ValueIterationConfig(gamma=0.9), device="cpu").learn(500).values
    error = float((agent.values - best).abs().max())
    assert 0.1 < error <= agent.result()["error_bound"]


def test_equal_actions_are_drawn_evenly_and_files_keep_the_policy(tmp_path):
    agent = ValueIteration(chain(rewards=np.zeros((3, 2))), device="cpu").learn(3)
    drawn = agent.act(torch.zeros(1000, dtype=torch.int64))
    assert 400 < int(drawn.sum()) < 600
    agent = ValueIteration(chain(), device="cpu").learn(50)
    agent.save(tmp_path / "agent.pt")
    loaded = prefrl.load(tmp_path / "agent.pt", device="cpu")
    assert torch.equal(loaded.q, agent.q)
    assert loaded.result()["error_bound"] == agent.result()["error_bound"]
    with pytest.raises(ValueError, match="loaded without an environment"):
        loaded.learn(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transitions": CHAIN[:2]}, r"transitions have shape \(2, 2, 3\); they must be \[S, A, S\]"),
        ({"transitions": CHAIN * 0.5}, "transitions of state 0 and action 0 are no distribution"),
        ({"rewards": PAYS.T}, r"rewards have shape \(2, 3\); they must be \(3, 2\) or \(3, 2, 3\)"),
        ({"rewards": PAYS * np.nan}, "features must be finite"),
        ({"terminal": [0, 0, 1]}, "it must be 3 booleans"),
        ({"terminal": [True] * 3}, "all states are terminal"),
        ({"start": [0.5, 0.0, 0.0]}, "start must not be negative and must sum to 1"),
        ({"start": [1.0]}, r"start has shape \(1,\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        chain(**changes)


def test_what_has_no_model_is_refused():
    with pytest.raises(ValueError, match="offers no tabular_model"):
        ValueIteration(gym.make("CartPole-v1"), device="cpu")
    with pytest.raises(ValueError, match="env holds 2 MDPs; this agent takes one"):
        ValueIteration(chain().select(torch.tensor([0, 0])), device="cpu")
