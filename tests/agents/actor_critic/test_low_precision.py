"""Steps in bfloat16 beside those in float32: soft actor-critic, one learner and several, and PPO."""

from typing import Any

import gymnasium as gym
import pytest
import torch

import prefrl
import prefrl.envs
from prefrl.agents import MBPO, PPO, SAC, MBPOConfig, PPOConfig, SACConfig
from prefrl.agents.actor_critic.sac_learners import SACLearners

pytestmark = pytest.mark.filterwarnings("ignore:precision is 'bf16'")


def pendulum(rows: int, **settings: Any) -> Any:
    return prefrl.make_device("prefrl/Pendulum-v0", rows, device="cpu", **settings)


def vectors(agent: Any) -> list[torch.Tensor]:
    return [flat.vector.detach() for flat in agent.networks.flat.values()]


@pytest.mark.parametrize("learners", [1, 3])
def test_a_step_of_sac(learners: int) -> None:
    """The first step moves every weight by about the step size; in bfloat16 nearly always the same way."""
    agents = []
    for precision in ("float32", "bf16"):
        config = SACConfig(hidden=(256, 256), learning_starts=64, batch_size=64, precision=precision)
        if learners == 1:
            agent: Any = SAC(pendulum(4), config, device="cpu")
        else:
            agent = SACLearners(pendulum(4 * learners, num_streams=learners), config, num_learners=learners,
                                device="cpu")  # fmt: skip
        agent.learn(64)  # as many uniform actions
        before = [vector.clone() for vector in vectors(agent)]
        agent.learn(4)
        assert all(vector.dtype is torch.float32 for vector in vectors(agent))
        agents.append([now - then for now, then in zip(vectors(agent), before, strict=True)])
    for exact, low in zip(*agents, strict=True):
        assert (exact - low).abs().max() > 0.0
        assert torch.nn.functional.cosine_similarity(exact.flatten(), low.flatten(), dim=0) > 0.97


def test_a_step_of_ppo() -> None:
    moved = []
    for precision in ("float32", "bf16"):
        settings = PPOConfig(hidden=(256, 256), n_steps=16, batch_size=256, n_epochs=1, precision=precision)
        agent = PPO(pendulum(16), settings, device="cpu")
        before = agent.network.vectors.detach().clone()
        agent.learn(256)
        assert agent.network.vectors.dtype is torch.float32
        moved.append((agent.network.vectors.detach() - before).flatten())
    assert (moved[0] - moved[1]).abs().max() > 0.0
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.9


def test_mbpo_takes_it_for_actor_and_critics() -> None:
    config = MBPOConfig(precision="bf16", hidden=(256,), model_hidden=(16,), ensemble_size=1, elites=1)
    agent = MBPO(gym.make("Pendulum-v1"), config, device="cpu")
    assert {chain.low for chain in agent.networks.chains.values()} == {torch.bfloat16}


def test_compiled_steps_are_of_float32() -> None:
    with pytest.raises(ValueError, match="compile is True and precision 'bf16'"):
        SACConfig(compile=True, precision="bf16")


@pytest.mark.slow
def test_sac_learns_in_it() -> None:
    """As in float32: -200 within 10,000 timesteps."""
    config = SACConfig(precision="bf16", learning_starts=500, learning_rate=1e-3, hidden=(256, 256))
    agent = SAC(gym.make("Pendulum-v1"), config, device="cpu", seed=0).learn(8_000)
    from prefrl.run.evaluate import evaluate

    assert evaluate(agent, gym.make("Pendulum-v1"), episodes=20, seed=1)["mean_return"] > -200
