"""PPO with torsos, our convolutions for pictures and somebody's modules: learned by autograd as by hand."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ppo_twin import loss_of, random_columns
from resuming import assert_same, crash_at, new_folder
from spots import HEIGHT, SPACES, WIDTH, Spots
from torch import Tensor

import prefrl
from prefrl.agents import PPO, PPOConfig
from prefrl.agents.actor_critic import policy_value
from prefrl.agents.actor_critic.policy_value import PolicyValue, TorsoLearners
from prefrl.agents.base import Spaces, read_agent_file
from prefrl.data.files.tensor_file import write_tensor_file
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.scalar import ScalarEnv
from prefrl.envs.core.vector import BatchedEnv
from prefrl.nn.torsos import ConvTorso, MLPTorso, NatureTorso
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.loop import Loop, learn

SMALL: dict[str, Any] = {"hidden": (8, 6), "conv_filters": 3, "conv_features": 7, "n_steps": 8,
                         "batch_size": 12, "n_epochs": 2}  # fmt: skip
CART_POLE, PENDULUM = "prefrl/CartPole-v0", "prefrl/Pendulum-v0"
TWO = gym.spaces.Discrete(2)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)  # given torsos are made of torch's own numbers


class Tanh(torch.nn.Module):
    """Somebody's network."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__()
        self.first, self.norm = torch.nn.Linear(inputs, 6), torch.nn.LayerNorm(6)

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.first(obs.flatten(1))))


class Stubborn(Tanh):
    """One that ``torch.vmap`` cannot call."""

    def forward(self, obs: Tensor) -> Tensor:
        return super().forward(obs) * float(obs.abs().sum() >= 0.0)


def spots(kind: str = "bytes", learners: int = 1, device: bool = True, limit: int = 9) -> Any:
    """Four small pictures of each learner at once."""
    backend = TorchBackend("cpu") if device else None
    return BatchedEnv(Spots, 4 * learners, kind=kind, backend=backend, max_episode_steps=limit,
                      autoreset_mode="SameStep", num_streams=learners)  # fmt: skip


def control(env_id: str, learners: int = 1) -> Any:
    return prefrl.make_device(env_id, 4 * learners, device="cpu", max_episode_steps=11,
                              autoreset_mode="SameStep", num_streams=learners)  # fmt: skip


def agent_of(env: Any, learners: int = 1, torso: Any = None, seed: int = 0, **settings: Any) -> PPO:
    config = PPOConfig(**{**SMALL, **settings})
    return PPO(env, config, num_learners=learners, torso=torso, device="cpu", seed=seed)


# By autograd as by hand -----------------------------------------------------------------------------------


def as_torsos(networks: PolicyValue, layers: int) -> dict[str, Tensor]:
    """The parameters of multilayer perceptrons by the names that they have behind torsos of their own."""
    found = {"free": networks.free.detach()}
    for number, name in enumerate(("policy", "value")):
        for place, layer in enumerate(getattr(networks, name).layers):
            theirs = f"torsos.{number}.torso.layers.{place}" if place < layers else name
            found[f"{theirs}.weight"] = layer.weight.detach().transpose(1, 2)
            found[f"{theirs}.bias"] = layer.bias.detach()[:, 0]
    return found


@pytest.mark.parametrize(("env_id", "learners", "settings"), [
    (CART_POLE, 1, {"target_kl": 0.05}),
    (CART_POLE, 3, {"learning_rate": (1e-3, 3e-3, 1e-2), "ent_coef": 0.1}),
    (PENDULUM, 2, {"clip_range_vf": 0.1, "normalize_observations": True, "log_std_init": -0.5}),
    (PENDULUM, 1, {"schedule": "linear", "schedule_timesteps": 2_000}),
])  # fmt: skip
def test_our_own_network_as_a_given_torso_learns_what_it_learns(
    env_id: str, learners: int, settings: dict[str, Any]
) -> None:
    """By autograd, in five rollouts, what the settings' network learns by hand."""
    more = {"learning_rate": 3e-3, "activation": "relu", "share_torso": False, **settings}
    ours = agent_of(control(env_id, learners), learners, **more)
    inputs = ours.layout.vector_size
    given = agent_of(control(env_id, learners), learners, MLPTorso(inputs, SMALL["hidden"]), **more)
    assert isinstance(ours.network, PolicyValue)
    assert isinstance(given.network, TorsoLearners)
    given.network.load_state_dict(as_torsos(ours.network, 2))
    start = ours.network.vectors.detach().clone()
    for agent in (ours, given):
        learn(agent, 5 * 8 * 4)
        assert agent.rollout is not None
        assert agent.rollout.size == 0
    assert (ours.network.vectors - start).abs().amax(1).min() > 5e-3
    expected = as_torsos(ours.network, 2)
    for name, value in given.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("kind", "learners", "torso"), [
    ("bytes", 1, None), ("dict", 2, None), ("dict", 1, Tanh), ("bools", 2, None), ("first", 2, Tanh),
])  # fmt: skip
def test_a_gradient_step_is_autograds_of_the_loss(kind: str, learners: int, torso: Any, share: bool) -> None:
    agent = agent_of(spots(kind, learners), learners, torso and torso(HEIGHT * WIDTH), max_grad_norm=None,
                     ent_coef=0.1, vf_coef=0.7, clip_range_vf=2.0, normalize_advantage=False,
                     share_torso=share)  # fmt: skip
    obs, network = batch(SPACES[kind], 20 * learners), agent.network
    with torch.no_grad():  # the policy's last weights are small at first, and so are slopes behind them
        network.vectors.add_(
            0.1 * torch.randn(network.vectors.shape, generator=torch.Generator().manual_seed(2))
        )
    raw, columns = random_columns(agent, obs, learners, 20)
    inputs = agent._read(agent._by_learner(agent.layout.keep(obs)[None]))
    assert isinstance(network, TorsoLearners)
    both = network(*inputs)
    of_each = loss_of(agent, both[..., :-1], both[..., -1], network.free, raw, columns)
    (expected,) = torch.autograd.grad(of_each.sum(), network.vectors) if learners > 1 else (None,)
    if expected is None:  # of one learner the module's own parameters are called
        slopes = torch.autograd.grad(of_each.sum(), list(network.modules[0].parameters()), allow_unused=True)
        expected = torch.cat([slope.flatten() for slope in slopes if slope is not None])[None]
    with torch.no_grad():
        agent._step(raw, columns, agent.descent.going, 0.2, 1.0, *inputs)
    assert network.vectors.grad is not None
    assert all(part.any() for part in network.named(expected).values() if part.numel())
    torch.testing.assert_close(network.vectors.grad, expected, rtol=1e-4, atol=1e-6)


def batch(space: gym.Space[Any], rows: int) -> Any:
    space.seed(0)
    drawn = [space.sample() for _ in range(rows)]
    if isinstance(space, gym.spaces.Dict):
        return {name: torch.as_tensor(np.stack([each[name] for each in drawn])) for name in space}
    return torch.as_tensor(np.stack(drawn))


# What reads which observations ----------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "kind", "count"), [
    (gym.spaces.Box(0, 255, (84, 84, 4), np.uint8), NatureTorso, 1),
    (gym.spaces.Box(0, 255, (4, 40, 36), np.uint8), NatureTorso, 1),
    (gym.spaces.Box(0, 1, (10, 10, 6), np.bool_), ConvTorso, 1),  # type: ignore[arg-type]
    (gym.spaces.Box(-1.0, 1.0, (3, 5, 6)), ConvTorso, 1),
    (SPACES["dict"], ConvTorso, 2),
])  # fmt: skip
def test_which_torso_reads_pictures(space: Any, kind: type, count: int) -> None:
    agent = agent_of(Spaces(space, TWO), 2, share_torso=count == 1)
    assert isinstance(agent.network, TorsoLearners)
    for module in agent.network.modules:
        assert len(module.torsos) == count
        for torso in module.torsos:
            assert type(torso.torso) is kind
            assert (torso.embedding is None) == (space is not SPACES["dict"])
    agent.learner(1).predict(space.sample())
    mlp = agent_of(Spaces(space, TWO), network="mlp")
    assert isinstance(mlp.network, PolicyValue)
    mlp.predict(space.sample())


def test_channels_may_come_first_or_last_and_bytes_are_shares_of_255() -> None:
    spaces = [gym.spaces.Box(0, 255, shape, np.uint8) for shape in ((6, 7, 2), (2, 6, 7))]
    last, first = (agent_of(Spaces(space, TWO), seed=4) for space in spaces)
    pictures = torch.randint(0, 256, (1, 5, 6, 7, 2), dtype=torch.uint8)
    nothing = torch.zeros(1, 5, 0)
    said = last.network.record(nothing, pictures)
    turned = first.network.record(nothing, pictures.permute(0, 1, 4, 2, 3))
    torch.testing.assert_close(said.outputs, turned.outputs)
    torch.testing.assert_close(said.values, turned.values)
    assert said.values.std() > 1e-3
    assert isinstance(last.network, TorsoLearners)
    module = last.network.modules[0]
    features = module.torsos[0].torso(pictures[0] / 255.0)
    torch.testing.assert_close(module.policy(features), said.outputs[0])
    obs = pictures[0].numpy()
    assert last.predict(obs, deterministic=True)[0].tolist() == said.outputs[0].argmax(1).tolist()


def test_numbers_beside_a_picture_are_read_and_normalised() -> None:
    agent = agent_of(spots("dict"), normalize_observations=True)
    learn(agent, 40 * 4)
    assert agent._seen.mean.shape == (1, 1, 1)
    assert 0.5 < float(agent._seen.mean) < 8.0  # of clocks
    obs = batch(SPACES["dict"], 30)
    kept = agent._by_learner(agent.layout.keep(obs)[None])
    vectors, pictures = agent._normalized(agent._read(kept))
    torch.testing.assert_close(vectors, agent._seen.normalized(obs["clock"][None], 10.0))
    assert torch.equal(pictures[0], obs["eye"])
    moved = agent.network.values(vectors + 1.0, pictures)
    assert (moved - agent.network.values(vectors, pictures)).abs().min() > 1e-5


def test_a_multilayer_perceptron_reads_a_picture_as_numbers() -> None:
    agent = agent_of(spots("dict"), network="mlp")
    assert isinstance(agent.network, PolicyValue)
    obs = batch(SPACES["dict"], 5)
    numbers = torch.cat([obs["clock"], obs["eye"].flatten(1) / 255.0], 1)[None]
    inputs = agent._read(agent._by_learner(agent.layout.keep(obs)[None]))
    torch.testing.assert_close(agent.network.values(*inputs), agent.network.value(numbers).detach())
    learn(agent, 16 * 4)


def test_a_rollout_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of(spots(learners=2), 2)
    inputs = agent._read(agent._by_learner(batch(SPACES["bytes"], 16)[None]))
    whole = agent.network.record(*inputs)
    monkeypatch.setattr(policy_value, "AT_ONCE", 3)
    torch.testing.assert_close(agent.network.values(*inputs), whole.values)
    torch.testing.assert_close(agent.network.outputs(*inputs), whole.outputs)


def test_own_torsos_start_orthogonal_and_given_ones_as_they_are() -> None:
    agent = agent_of(spots("dict"))
    assert isinstance(agent.network, TorsoLearners)
    module = agent.network.modules[0]
    gains = [(module.torsos[0].torso.conv, 2.0), (module.torsos[0].torso.full, 2.0),
             (module.torsos[0].embedding, 2.0), (module.policy, 1e-4), (module.value, 1.0)]  # fmt: skip
    for layer, squared in gains:
        rows = layer.weight.detach().flatten(1)
        short = rows if rows.shape[0] <= rows.shape[1] else rows.T
        torch.testing.assert_close(short @ short.T, squared * torch.eye(len(short)), rtol=1e-4, atol=1e-6)
        assert not layer.bias.any()
    torso = Tanh(HEIGHT * WIDTH)
    given = agent_of(spots(), torso=torso).network
    assert isinstance(given, TorsoLearners)
    assert_same(dict(given.modules[0].torsos[0].torso.state_dict()), dict(torso.state_dict()))


@pytest.mark.parametrize(("space", "torso", "settings", "message"), [
    (SPACES["bytes"], None, {"normalize_observations": True}, "normalize_observations is True; it must be"),
    (SPACES["bytes"], None, {"precision": "bf16"}, "precision is 'bf16'; it must be 'float32' unless"),
    (gym.spaces.Box(-1, 1, (4,)), Tanh(), {"precision": "bf16"}, "precision is 'bf16'"),
    (gym.spaces.Box(-1, 1, (4,)), None, {"network": "conv"}, r"observations are \(4,\); this network takes"),
    (SPACES["bytes"], None, {"network": "nature"}, "of at least 36 x 36"),
    (SPACES["bytes"], torch.nn.Identity(), {}, r"torso returns \[2, 6, 5, 1\] .*; it must return"),
])  # fmt: skip
def test_what_does_not_suit_is_refused(space: Any, torso: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent_of(Spaces(space, TWO), torso=torso, **settings)


# Files, learners, resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_a_given_torso_learns_and_is_given_again(share: bool, tmp_path: Path) -> None:
    torso = Tanh()
    before = [parameter.detach().clone() for parameter in torso.parameters()]
    agent = agent_of(gym.make("CartPole-v1"), torso=torso, learning_rate=3e-3, share_torso=share).learn(40)
    assert isinstance(agent.network, TorsoLearners)
    for copied in agent.network.modules[0].torsos:
        for mine, own, old in zip(torso.parameters(), copied.parameters(), before, strict=True):
            assert torch.equal(mine, old)
            assert not torch.allclose(own, old, atol=1e-4)
    path = tmp_path / "agent"
    agent.save(path)
    again = PPO.load(path, env=gym.make("CartPole-v1"), device="cpu", torso=Tanh())
    assert_same(again.saved_state(), agent.saved_state())
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    said, theirs = (each.predict(obs, deterministic=True)[0] for each in (again, agent))
    assert said.tolist() == theirs.tolist()
    again.learn(20)
    for load in (PPO.load, prefrl.load):
        with pytest.raises(ValueError, match=r"PPO was given a torso, a Tanh; .*PPO\.load\(path, torso"):
            load(path)
    with pytest.raises(ValueError, match="agent holds no state of a PPO in these spaces"):
        PPO.load(path, torso=torch.nn.Linear(4, 6))
    agent_of(gym.make("CartPole-v1")).save(path)
    with pytest.raises(ValueError, match=r"this PPO was made without a torso.*give none to load it"):
        PPO.load(path, torso=Tanh())


def test_files_of_before_there_were_torsos_hold_multilayer_perceptrons(tmp_path: Path) -> None:
    agent, path = agent_of(spots("bools"), network="mlp"), tmp_path / "agent"
    agent.save(path)
    header, state = read_agent_file(path)
    for name in ("network", "conv_filters", "conv_features", "share_torso"):
        del header["config"][name]
    del state["torso"]
    write_tensor_file(path, {"header": json.dumps(header), "state": state})
    loaded, pictures = PPO.load(path, device="cpu"), batch(SPACES["bools"], 9)
    assert loaded.config.network == "mlp"
    assert torch.equal(loaded.network.vectors, agent.network.vectors)
    assert (
        loaded.act(pictures, deterministic=True).tolist() == agent.act(pictures, deterministic=True).tolist()
    )


@pytest.mark.parametrize(("kind", "torso"), [("dict", None), ("bytes", Tanh)])
def test_learners_are_what_they_would_be_alone(kind: str, torso: Any, tmp_path: Path) -> None:
    def trained(learners: int, seed: int = 0) -> PPO:
        torch.manual_seed(1)
        given = torso and torso(HEIGHT * WIDTH)
        more: dict[str, Any] = {"normalize_observations": kind == "dict", "learning_rate": 3e-3}
        return learn(agent_of(spots(kind, learners), learners, given, seed, **more), 5 * 8 * 4)

    many, alone = trained(3), trained(1, seed=2)
    torch.testing.assert_close(alone.network.vectors[0], many.network.vectors[2], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(many.network.vectors[0], many.network.vectors[1], atol=1e-3)
    one, obs = many.learner(2), batch(SPACES[kind], 12)
    last = {name: part[8:] for name, part in obs.items()} if isinstance(obs, dict) else obs[8:]
    assert one.act(last, deterministic=True).tolist() == many.act(obs, deterministic=True)[8:].tolist()
    one.save(tmp_path / "one")
    given = torso and torso(HEIGHT * WIDTH)
    assert_same(PPO.load(tmp_path / "one", device="cpu", torso=given).saved_state(), one.saved_state())
    many.save(tmp_path / "many")
    again = PPO.load(tmp_path / "many", env=spots(kind, 3), device="cpu", torso=given)
    for each in (many, again):
        learn(each, 16 * 4)
    assert torch.equal(again.network.vectors, many.network.vectors)


def test_several_learners_refuse_a_torso_that_is_not_for_several() -> None:
    with pytest.raises(ValueError, match=r"torso is a Stubborn, which torch\.vmap cannot call .*one by one$"):
        agent_of(control(CART_POLE, 2), 2, Stubborn())
    with pytest.raises(ValueError, match=r"torso is a Stubborn, which torch\.vmap cannot call"):
        agent_of(spots("dict", 2), 2, Stubborn(HEIGHT * WIDTH))
    learn(agent_of(control(CART_POLE), 1, Stubborn()), 16 * 4)


@pytest.mark.parametrize(("kind", "learners", "device", "torso"), [
    ("bytes", 1, True, None), ("dict", 2, True, None), ("first", 1, False, Tanh), ("bools", 2, False, Tanh),
])  # fmt: skip
def test_resumed_equals_uninterrupted(
    kind: str, learners: int, device: bool, torso: Any, tmp_path: Path
) -> None:
    def made() -> PPO:
        torch.manual_seed(1)
        given = torso and torso(HEIGHT * WIDTH)
        more = {"normalize_observations": kind == "dict", "n_steps": 7}
        return agent_of(spots(kind, learners, device), learners, given, **more)

    run: dict[str, Any] = {"total_timesteps": 160, "log_every": 30, "checkpoint_every": 24}
    whole, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "crashed")
    Loop(made(), **run, folder=whole).run()
    with pytest.raises(RuntimeError, match="crash"):
        Loop(made(), **run, folder=folder, callback=crash_at(90)).run()
    agent = made()
    Loop(agent, **run, folder=folder, resume=True).run()
    ours, theirs = (load_checkpoint(each.checkpoint_path) for each in (folder, whole))
    for key in ("agent", "stepper", "metrics", "num_timesteps"):
        assert_same(ours[key], theirs[key])
    assert float(agent.descent.optimizer.states[0]["step"].max()) > 10


# What it learns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "settings"), [
    ("bytes", {}), ("first", {}), ("bools", {"share_torso": False}),
    ("dict", {"normalize_observations": True}),
])  # fmt: skip
def test_it_learns_what_a_picture_says(kind: str, settings: dict[str, Any]) -> None:
    config = PPOConfig(conv_filters=4, conv_features=16, n_steps=16, batch_size=32, n_epochs=4,
                       learning_rate=1e-2, gamma=0.0, **settings)  # fmt: skip
    agent = PPO(spots(kind, limit=32), config, device="cpu", seed=0)
    learn(agent, 2_048)
    found = prefrl.evaluate(
        agent, gym.wrappers.TimeLimit(ScalarEnv(Spots, kind=kind), 32), episodes=20, seed=1
    )
    lengths = found["mean_length"]
    assert found["mean_return"] / lengths > 0.95  # by chance 0.5
