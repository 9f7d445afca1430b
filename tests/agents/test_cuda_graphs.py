"""Gradient steps as CUDA graphs: on tapes that stand for them, every agent learns what it learns without.

No graph has been recorded by CUDA itself here; ``scripts/check_gpu.py`` does that where there is a GPU.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from taped_cuda import TapedCuda
from torch import Tensor

import prefrl
from prefrl.agents import DQN, PPO, SAC, DQNConfig, PPOConfig, SACConfig
from prefrl.agents.actor_critic import ppo, sac
from prefrl.agents.actor_critic.sac_learners import SACLearners
from prefrl.agents.base import Spaces
from prefrl.agents.value_based import dqn
from prefrl.agents.value_based.dqn_learners import DQNLearners
from prefrl.nn import update
from prefrl.nn.flat import clip_factor
from prefrl.run.recipes.actor_critic.sac import TrainSAC
from prefrl.run.recipes.value_based.dqn import TrainDQN


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> TapedCuda:
    """Let the CPU be taken for CUDA where graphs are asked for, and gradients be cut as they are there."""
    cuda = TapedCuda()
    monkeypatch.setattr(update, "cuda", cuda)
    for module in (update, dqn, sac, ppo):
        monkeypatch.setattr(module, "check_cuda_graph", lambda wanted, device: None)
    monkeypatch.setattr(update, "cut_", lambda gradient, norm: gradient.mul_(clip_factor(gradient, norm)))
    return cuda


def device_env(env_id: str, rows: int, **settings: Any) -> Any:
    return prefrl.make_device(f"prefrl/{env_id}-v0", rows, device="cpu", **settings)


OFF: dict[str, Any] = {"hidden": (16, 16), "batch_size": 16, "learning_starts": 32}


def make_dqn(graph: bool, **settings: Any) -> Any:
    config = DQNConfig(**{**OFF, "train_freq": 4, "target_update_interval": 20, **settings}, cuda_graph=graph)
    return DQN(device_env("CartPole", 4), config, device="cpu")


def make_sac(graph: bool, **settings: Any) -> Any:
    config = SACConfig(**{**OFF, "learning_rate": 1e-3, **settings}, cuda_graph=graph)
    return SAC(device_env("Pendulum", 4), config, device="cpu")


def make_ppo(graph: bool, env_id: str = "CartPole", learners: int = 1, **settings: Any) -> Any:
    # tanh_ takes NumPy's on the CPU, which is on no tape
    config = PPOConfig(hidden=(16,), activation="relu", n_steps=8, n_epochs=4, **settings, cuda_graph=graph)
    env = device_env(env_id, 8 * learners, num_streams=learners)
    return PPO(env, config, num_learners=learners, device="cpu")


def state(agent: Any) -> dict[str, Tensor]:
    if isinstance(agent, SAC):
        return {name: flat.vector.detach() for name, flat in agent.networks.flat.items()}
    return {name: value for name, value in agent.network.state_dict().items() if value.numel()}


def close(ours: Any, theirs: Any) -> None:
    """Weights are alike to rounding; a step of theirs is about 1e-3.

    (SAC's recorded step has another way to write Adam, whose rounding grows with the gradients' smallness.)
    """
    atol = 3e-4 if isinstance(ours, SAC) else 2e-5
    wanted, found = state(theirs), state(ours)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=atol)


CASES: dict[str, Any] = {
    "DQN, Huber, dueling": (make_dqn, {"loss": "huber", "dueling": True}, 200, 1),
    "DQN, HL-Gauss, three steps": (make_dqn, {"loss": "hl_gauss", "n_step": 3, "tau": 0.1}, 200, 1),
    "DQN, C51": (make_dqn, {"loss": "c51", "max_grad_norm": 0.1}, 200, 1),
    "DQN, bfloat16": (make_dqn, {"loss": "quantile", "precision": "bf16"}, 200, 1),
    "SAC": (make_sac, {}, 120, 1),
    "SAC, cut": (make_sac, {"max_grad_norm": 0.5, "target_update_gradient_steps": 3}, 120, 1),
    "PPO": (make_ppo, {"batch_size": 32}, 256, 1),
    "PPO, last batches are smaller": (make_ppo, {"batch_size": 24}, 256, 2),
    "PPO, schedules": (
        make_ppo,
        {"schedule": "linear", "clip_schedule": "linear", "schedule_timesteps": 300, "batch_size": 32},
        256, 1,
    ),
    "PPO, several learners, who stop": (
        make_ppo,
        {"learners": 3, "env_id": "Pendulum", "target_kl": 0.01, "learning_rate": (1e-2, 1e-3, 1e-4),
         "batch_size": 32},
        256, 1,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_are_the_steps(name: str, taped: TapedCuda) -> None:
    make, settings, timesteps, graphs = CASES[name]
    recorded, plain = make(True, **settings), make(False, **settings)
    before = {part: value.clone() for part, value in state(plain).items()}
    recorded.learn(timesteps), plain.learn(timesteps)
    assert len(taped.graphs) == graphs
    assert all(graph.replays > 3 for graph in taped.graphs)
    moved = max(float((value - before[part]).abs().max()) for part, value in state(plain).items())
    assert moved > 1e-3
    close(recorded, plain)


@pytest.mark.parametrize("make", [make_dqn, make_sac])
def test_another_replay_is_another_graph(make: Any, taped: TapedCuda) -> None:
    """A state brings a replay of its own, and with it places that a graph does not know."""
    recorded, plain = make(True), make(False)
    for agent in (recorded, plain):
        agent.learn(80)
    other = make(False)
    other.learn(80)
    agents = recorded, plain
    for agent in agents:
        agent.load_state_dict(other.state_dict())
        agent.learn(80)
    assert len(taped.graphs) == 2
    close(recorded, plain)


def test_what_is_refused() -> None:
    wanted = r"cuda_graph is True and device 'cpu'; it must be False unless that is CUDA"
    for make in (make_dqn, make_sac, make_ppo):
        with pytest.raises(ValueError, match=wanted):
            make(True)
    picture = Spaces(gym.spaces.Box(0, 255, (10, 10, 3), np.uint8), gym.spaces.Discrete(3))
    with pytest.raises(
        ValueError, match="cuda_graph is True; it must be False unless the network is a multilayer"
    ):
        DQN(picture, DQNConfig(cuda_graph=True), device="cpu")
    with pytest.raises(ValueError, match=r"cuda_graph is True; it must be False unless .* are not compiled"):
        make_dqn(True, compile=True)
    with pytest.raises(ValueError, match="compile and cuda_graph are both True"):
        SACConfig(compile=True, cuda_graph=True)
    with pytest.raises(ValueError, match="cuda_graph is True and critic_regularizer 'robust'"):
        SACConfig(cuda_graph=True, critic_regularizer="robust")
    with pytest.raises(ValueError, match="cuda_graph is True and precision 'bf16'"):
        SACConfig(cuda_graph=True, precision="bf16")


def test_several_learners_of_a_replay_have_none() -> None:
    wanted = "cuda_graph is True; for several learners it must be False"
    with pytest.raises(ValueError, match=wanted):
        DQNLearners(device_env("CartPole", 4, num_streams=2), DQNConfig(cuda_graph=True), device="cpu")
    with pytest.raises(ValueError, match=wanted):
        SACLearners(device_env("Pendulum", 4, num_streams=2), SACConfig(cuda_graph=True), device="cpu")
    with pytest.raises(ValueError, match="num_learners is 2; with cuda_graph it must be 1"):
        TrainDQN(num_learners=2, agent=DQNConfig(cuda_graph=True))
    with pytest.raises(ValueError, match="num_learners is 2; with cuda_graph it must be 1"):
        TrainSAC(num_learners=2, agent=SACConfig(cuda_graph=True))
