"""An agent of trained members: as the planner's, choices, abstention, files and refusals."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

import prefrl.envs
from prefrl import DQN, SAC, DQNConfig, UncertainObjective, UncertainObjectiveConfig, ValueIteration, load
from prefrl.envs.grids.random_grid import RandomGridDynamics, generate_grid
from prefrl.tabular import TabularMDP, plan_under_uncertainty

assert prefrl.envs.REGISTRY
GRID = "prefrl/RandomGrid-v0"


def planners(layout: int = 25, members: int = 3) -> tuple[TabularMDP, torch.Tensor, list[ValueIteration]]:
    """Return a grid, its members' rewards, and an agent that planned for each."""
    mdp = TabularMDP.from_env(RandomGridDynamics(layout_seed=layout))
    weights = torch.stack([torch.as_tensor(generate_grid(100 + m)[1]) for m in range(members)])
    agents = []
    for own in weights:
        known = TabularMDP(**{**vars(mdp), "weights": own[None]})
        agents.append(ValueIteration(known, device="cpu").learn(3_000))
    return mdp, mdp.linear_rewards(weights[:, None])[:, 0], agents


def test_it_acts_as_the_planner_does() -> None:
    mdp, rewards, agents = planners()
    weights = (0.2, 0.5, 0.3)
    agent = UncertainObjective(
        config=UncertainObjectiveConfig(weights=weights, agreement=0.7), members=agents, device="cpu"
    )
    plan = plan_under_uncertainty(
        mdp, rewards, torch.tensor(weights), 0.99, continuation="own", agreement=0.7, rescale=False
    )
    live = torch.nonzero(~mdp.terminal[0])[:, 0]
    values = agent.member_values(live)
    torch.testing.assert_close(values, plan.values[:, live], rtol=0.0, atol=1e-6)
    gaps = values - values.amax(-1, keepdim=True)
    mean = torch.tensordot(torch.tensor(weights, dtype=torch.float64), gaps, dims=1)
    actions = agent.act(live)
    torch.testing.assert_close(mean.gather(-1, actions[:, None])[:, 0], mean.amax(-1), rtol=0.0, atol=1e-6)
    assert torch.equal(agent.abstains(live), plan.abstains[live])
    assert 0 < int(agent.abstains(live).sum()) < len(live)
    torch.testing.assert_close(agent.approval(live), plan.approval[live], rtol=0.0, atol=1e-6)


def test_fallback_units_and_evaluation() -> None:
    mdp, _, agents = planners()
    live = torch.nonzero(~mdp.terminal[0])[:, 0]
    config = UncertainObjectiveConfig(agreement=1.0, fallback=2)
    agent = UncertainObjective(config=config, members=agents, device="cpu")
    unsure = agent.abstains(live)
    assert unsure.any()
    assert (agent.act(live)[unsure] == 2).all()
    free = UncertainObjective(members=agents, device="cpu")
    assert torch.equal(agent.act(live)[~unsure], free.act(live)[~unsure])
    # A member whose unit is tiny has the word; what is dominated stays the same.
    loud = UncertainObjective(
        config=UncertainObjectiveConfig(units=(1e-9, 1.0, 1.0)), members=agents, device="cpu"
    )
    best = agents[0].q_values(live)
    chosen = best.gather(-1, loud.act(live)[:, None])[:, 0]
    torch.testing.assert_close(chosen, best.amax(-1), rtol=0.0, atol=1e-6)
    assert torch.equal(loud.undominated(live), free.undominated(live))
    env = gym.make(GRID, layout_seed=25)
    mean, _ = evaluate_policy(free, env, n_eval_episodes=3, warn=False)
    assert np.isfinite(mean)
    action, state = free.predict(env.reset(seed=0)[0])
    assert env.action_space.contains(action)
    assert state is None


def test_members_of_networks_and_files(tmp_path: Path) -> None:
    env = gym.make("prefrl/CartPole-v0")
    members = [DQN(env, DQNConfig(hidden=(8,)), device="cpu", seed=seed) for seed in range(2)]
    agent = UncertainObjective(
        config=UncertainObjectiveConfig(weights=(0.4, 0.6), agreement=0.9), members=members, device="cpu"
    )
    obs = torch.randn(50, 4)
    agent.save(tmp_path / "agent.pt")
    again: Any = load(tmp_path / "agent.pt", device="cpu")
    assert isinstance(again, UncertainObjective)
    assert torch.equal(again.member_values(obs), agent.member_values(obs))
    assert torch.equal(again.act(obs), agent.act(obs))
    assert torch.equal(again.abstains(obs), agent.abstains(obs))
    with pytest.raises(ValueError, match="learns nothing; train its members"):
        again.learn(10)


def test_refusals() -> None:
    env = gym.make("prefrl/CartPole-v0")
    one = DQN(env, DQNConfig(hidden=(8,)), device="cpu")
    grid = planners(members=1)[2][0]

    class Stranger:
        observation_space, action_space = one.observation_space, one.action_space

        def q_values(self, obs: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(obs), 2)

    sac: Any = SAC(gym.make("prefrl/Pendulum-v0"), device="cpu")
    for members, config, error, message in (
        ([], {}, ValueError, "members is empty"),
        ([one, sac], {}, TypeError, r"members\[1\] is a SAC; it must have q_values"),
        ([one, grid], {}, ValueError, r"members\[1\] has Discrete"),
        ([one], {"weights": (0.5, 0.5)}, ValueError, "weights has 2 numbers; there are 1 members"),
        ([one], {"weights": (0.5,)}, ValueError, "sum to 1"),
        ([one], {"units": (1.0, 2.0)}, ValueError, "units has 2 numbers"),
        ([one], {"agreement": 0.5, "fallback": 2}, ValueError, "fallback is 2; there are 2 actions"),
        ([one], {"fallback": 1}, ValueError, "fallback is 1 and agreement 0"),
    ):
        with pytest.raises(error, match=message):
            UncertainObjective(config=UncertainObjectiveConfig(**config), members=members, device="cpu")
    strange = UncertainObjective(members=[one, Stranger()], device="cpu")
    with pytest.raises(ValueError, match="a member is a Stranger; only prefrl's agents are saved"):
        strange.state_dict()
    with pytest.raises(ValueError, match="env has"):
        UncertainObjective(gym.make("prefrl/MountainCar-v0"), members=[one], device="cpu")
