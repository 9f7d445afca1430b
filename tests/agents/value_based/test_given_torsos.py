"""Networks that somebody made, as torsos of deep Q-learners: what they learn, files, many learners."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl
from prefrl.agents import DQN, DQNConfig, DQNLearners, StockDQN, StockDQNConfig
from prefrl.agents.base import Spaces
from prefrl.envs import StockAugmentation, make_device
from prefrl.nn.torsos import MLPTorso
from prefrl.run.loop import learn
from tests.shared.resuming import assert_same

SMALL: dict[str, Any] = {"hidden": (8, 8), "learning_starts": 20, "batch_size": 8, "train_freq": 2,
                         "epsilon_timesteps": 50}  # fmt: skip
HUBER = DQNConfig(**SMALL, loss="huber", target_update_interval=20, dueling=True)
STOCK = StockDQNConfig(**SMALL, quantiles=5, target_update_gradient_steps=10)


class Tanh(torch.nn.Module):
    """Somebody's network."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__()
        self.first, self.norm = torch.nn.Linear(inputs, 6), torch.nn.LayerNorm(6)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.norm(self.first(obs)))


class Stubborn(Tanh):
    """One that ``torch.vmap`` cannot call."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return super().forward(obs) * float(obs.sum() >= 0.0)


def pole() -> Any:
    return gym.make("CartPole-v1")


def stocked() -> Any:
    return StockAugmentation(gym.make("CartPole-v1"), gamma=1.0)


def test_our_own_network_as_a_given_torso_learns_what_it_learns() -> None:
    """By autograd, what the settings' network learns by hand."""
    ours = DQN(pole(), HUBER, device="cpu", seed=3)
    given = DQN(pole(), HUBER, torso=MLPTorso(4, (8, 8)), device="cpu", seed=3)
    assert ours._chains is not None
    assert given._chains is None
    given.network.load_state_dict(ours.network.state_dict())
    given.target.load_state_dict(ours.target.state_dict())
    start = ours._update.weights.vector.detach().clone()
    for agent in (ours, given):
        agent.learn(60)
    moved = (ours._update.weights.vector - start).abs().max()
    assert moved > 5e-3
    torch.testing.assert_close(
        given._update.weights.vector, ours._update.weights.vector, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(("kind", "make", "config"), [(DQN, pole, HUBER), (StockDQN, stocked, STOCK)])
def test_a_given_torso_learns_and_is_given_again(kind: Any, make: Any, config: Any, tmp_path: Path) -> None:
    torso = Tanh()
    before = [parameter.detach().clone() for parameter in torso.parameters()]
    agent = kind(make(), config, torso=torso, device="cpu").learn(80)
    for mine, copied, old in zip(
        torso.parameters(), agent.network.torso.torso.parameters(), before, strict=True
    ):
        assert torch.equal(mine, old)
        assert not torch.allclose(copied, old, atol=1e-4)
    agent.save(tmp_path / "agent")
    again = kind.load(tmp_path / "agent", env=make(), device="cpu", torso=Tanh())
    assert_same({**again.saved_state(), "num_envs": 1}, agent.saved_state())
    obs, _ = make().reset(seed=0)
    assert again.predict(obs, deterministic=True)[0] == agent.predict(obs, deterministic=True)[0]
    again.learn(60)
    name = kind.__name__
    for load in (kind.load, prefrl.load):
        with pytest.raises(
            ValueError, match=rf"{name} was given a torso, a Tanh; .*{name}\.load\(path, torso"
        ):
            load(tmp_path / "agent")
    with pytest.raises(ValueError, match=rf"agent holds no state of a {name} in these spaces"):
        kind.load(tmp_path / "agent", torso=torch.nn.Linear(4, 6))
    kind(make(), config, device="cpu").save(tmp_path / "plain")
    with pytest.raises(ValueError, match=rf"this {name} was made without a torso.*give none to load it"):
        kind.load(tmp_path / "plain", torso=Tanh())


def test_a_torso_for_pictures_reads_shares_of_255() -> None:
    spaces = Spaces(gym.spaces.Box(0, 255, (5, 5, 2), np.uint8), gym.spaces.Discrete(3))
    torso = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(50, 7))
    agent = DQN(spaces, HUBER, torso=torso, device="cpu")
    obs = torch.randint(0, 256, (4, 5, 5, 2), dtype=torch.uint8)
    assert torch.equal(agent.network.torso(obs), torso(obs / 255.0))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        DQN(spaces, HUBER, torso=Tanh(), device="cpu")


def test_learners_with_a_given_torso_are_what_they_would_be_alone(tmp_path: Path) -> None:
    def trained(learners: int, seed: int = 0) -> DQNLearners:
        env = make_device("prefrl/CartPole-v0", 2 * learners, num_streams=learners)
        torch.manual_seed(0)
        agent = DQNLearners(env, HUBER, num_learners=learners, torso=Tanh(), device="cpu", seed=seed)
        return learn(agent, 100)

    many, alone = trained(3), trained(1, seed=2)
    torch.testing.assert_close(alone.online.vectors[0], many.online.vectors[2], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(many.online.vectors[0], many.online.vectors[1], atol=1e-3)
    one = many.learner(2)
    obs = torch.randn(3, 5, 4)
    torch.testing.assert_close(one.q_values(obs[2]), many.q_values(obs)[2])
    one.save(tmp_path / "one")
    assert_same(DQN.load(tmp_path / "one", device="cpu", torso=Tanh()).saved_state(), one.saved_state())
    many.save(tmp_path / "many")
    again = DQNLearners.load(tmp_path / "many", device="cpu", torso=Tanh())
    assert_same({**again.saved_state(), "num_envs": 6}, many.saved_state())
    with pytest.raises(ValueError, match="this DQNLearners was given a torso, a Tanh; give a module like it"):
        prefrl.load(tmp_path / "many")


def test_learners_refuse_a_torso_that_is_not_for_several() -> None:
    env = make_device("prefrl/CartPole-v0", 2, num_streams=2)
    with pytest.raises(ValueError, match=r"torso is a Stubborn, which torch\.vmap cannot call for several"):
        DQNLearners(env, HUBER, num_learners=2, torso=Stubborn(), device="cpu")
    DQN(pole(), HUBER, torso=Stubborn(), device="cpu").learn(40)
