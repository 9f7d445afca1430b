"""Proximal policy optimisation as an agent: an update beside its twin, time limits, what it learns."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ppo_twin import Twin, loss_of, random_columns
from torch import Tensor

import prefrl
from prefrl.agents import PPO, PPOConfig
from prefrl.agents.actor_critic.policy_value import PolicyValue
from prefrl.agents.base import Spaces
from prefrl.data import Transitions

BOX = gym.spaces.Box(-2.0, 2.0, (3,))
PICTURE = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
ACTIONS: dict[str, gym.Space[Any]] = {
    "Discrete": gym.spaces.Discrete(4, start=2),
    "MultiDiscrete": gym.spaces.MultiDiscrete([3, 2, 4]),
    "Box": gym.spaces.Box(np.array([-1.0, 0.0]), np.array([3.0, np.inf]), dtype=np.float64),
}
LENGTH, ROWS = 6, 4
STEEP: dict[str, Any] = {"hidden": (8, 5), "n_steps": LENGTH, "n_epochs": 2, "batch_size": 9,
                         "learning_rate": 3e-3}  # fmt: skip
"""Batches of 9, 9 and 6 of the 24 transitions; steps large enough to clip."""


def agent_of(actions: str = "Discrete", learners: int = 1, **settings: Any) -> PPO:
    spaces = Spaces(BOX, ACTIONS[actions])
    return PPO(spaces, PPOConfig(**{**STEEP, **settings}), num_learners=learners, device="cpu", seed=3)


def random_steps(agent: PPO, seed: int, masked: float = 0.2) -> list[Transitions]:
    """A rollout's steps, with actions of the agent and whatever else; log-probabilities are a bit off."""
    draws, steps = torch.Generator().manual_seed(seed), []
    rows = ROWS * agent.num_learners
    for _ in range(LENGTH):
        obs, next_obs = 3.0 * torch.randn(2, rows, 3, generator=draws)
        actions = agent.act(obs)
        acted = {**agent.acted}
        acted["log_probs"] = acted["log_probs"] + 0.2 * torch.randn(rows, generator=draws)
        ends = torch.rand(3, rows, generator=draws) < torch.tensor([0.15, 0.15, 1.0 - masked])[:, None]
        steps.append(Transitions(obs, actions, 5.0 * torch.randn(rows, generator=draws), next_obs, ends[0],
                                 ends[1], ends[2], infos=acted))  # fmt: skip
    return steps


def one_learners(steps: list[Transitions], index: int) -> dict[str, np.ndarray]:
    """What the twin of a learner takes, [T, n, ...] by name."""
    rows = slice(index * ROWS, (index + 1) * ROWS)
    names = ("obs", "next_obs", "rewards", "terminations", "truncations", "mask")
    found = {name: torch.stack([getattr(step, name)[rows] for step in steps]).numpy() for name in names}
    for name in ("raw_actions", "log_probs"):
        found[name] = torch.stack([step.infos[name][rows] for step in steps]).numpy()
    return {name: value.astype(np.float64) if value.dtype == np.float32 else value
            for name, value in found.items()}  # fmt: skip


@pytest.mark.parametrize(("actions", "learners", "settings"), [
    ("Discrete", 1, {}),
    ("MultiDiscrete", 1, {"activation": "relu", "normalize_rewards": False}),
    ("Box", 1, {"log_std_init": -0.5, "ent_coef": 0.1}),
    ("Discrete", 1, {"clip_range_vf": 0.05, "max_grad_norm": None, "normalize_advantage": False}),
    ("Box", 1, {"clip_range_vf": 0.05, "target_kl": 0.02, "normalize_observations": True}),
    ("MultiDiscrete", 3, {"ent_coef": (0.0, 0.3, 0.1), "target_kl": 0.02}),
    ("Discrete", 3, {"ent_coef": (0.0, 0.5, 0.1), "gamma": (0.9, 0.0, 1.0), "normalize_observations": True}),
    ("Box", 3, {"learning_rate": (1e-3, 5e-3, 1e-2), "ent_coef": (0.0, 0.1, 0.2), "vf_coef": 2.0}),
    ("Discrete", 2, {"gae_lambda": 0.0, "batch_size": 100, "clip_range": 0.05, "adam_eps": 1e-3}),
])  # fmt: skip
def test_updates_are_those_of_the_twin(actions: str, learners: int, settings: dict[str, Any]) -> None:
    agent = agent_of(actions, learners, **settings)
    twins = [Twin(agent, index) for index in range(learners)]
    for seed in range(3):
        steps = random_steps(agent, seed)
        for step in steps:
            assert agent.update() == {}
            agent.observe(step)
        metrics = agent.update()
        for index, twin in enumerate(twins):
            twin.update(one_learners(steps, index))
            for name, parameter in agent.network.named_parameters():
                expected = twin.parameters[name].detach().float()
                torch.testing.assert_close(parameter.detach()[index], expected, rtol=1e-4, atol=1e-5)
            if agent.config.target_kl is None:  # else the last gradient may be of a step that was not taken
                scale = float(twin.gradient.abs().max())
                own = agent.network.vectors.grad[index]
                torch.testing.assert_close(own, twin.gradient.float(), rtol=1e-3, atol=1e-4 * scale)
        assert metrics.keys() == twins[0].metrics.keys()
        for name, value in metrics.items():
            mean = np.mean([twin.metrics[name] for twin in twins])
            assert float(value) == pytest.approx(mean, rel=1e-3, abs=1e-5), name
    assert float(metrics["train/clip_fraction"]) > 0.0


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("clip_range_vf", [None, 0.5])
def test_a_gradient_step_is_autograds_of_the_loss(actions: str, clip_range_vf: float | None) -> None:
    """One step on one batch, of two learners, far from the policy that acted; the loss is written out."""
    agent = agent_of(actions, 2, n_epochs=1, batch_size=100, clip_range_vf=clip_range_vf, max_grad_norm=None,
                     ent_coef=(0.01, 0.3), normalize_advantage=False)  # fmt: skip
    inputs = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1))
    raw, columns = random_columns(agent, inputs.flatten(0, 1), 2, 40)
    network = agent.network
    assert isinstance(network, PolicyValue)
    of_each = loss_of(agent, network.policy(inputs), network.value(inputs), network.free, raw, columns)
    expected = torch.autograd.grad(of_each.sum(), list(network.parameters()), allow_unused=True)

    with torch.no_grad():
        agent._step(raw, columns, agent.descent.going, 0.2, 1.0, inputs)
    for parameter, slope in zip(network.parameters(), expected, strict=True):
        assert parameter.grad is not None
        if parameter.numel():
            assert slope is not None
            torch.testing.assert_close(parameter.grad, slope, rtol=1e-4, atol=1e-6)


# Settings ------------------------------------------------------------------------------------------------


def fill(agent: PPO, seed: int = 0) -> dict[str, Tensor]:
    """A rollout and its update."""
    for step in random_steps(agent, seed):
        agent.observe(step)
    return agent.update()


@pytest.mark.parametrize(("settings", "rate", "clip_range"), [
    ({}, 3e-3, 0.2),
    ({"schedule": "linear"}, 2.25e-3, 0.2),
    ({"clip_schedule": "linear"}, 3e-3, 0.15),
    ({"schedule": "linear", "clip_schedule": "linear"}, 2.25e-3, 0.15),
])  # fmt: skip
def test_schedules(settings: dict[str, Any], rate: float, clip_range: float) -> None:
    agent = agent_of(**settings, schedule_timesteps=400)
    twin = Twin(agent, 0)
    agent.num_timesteps = 100
    steps = random_steps(agent, 0)
    for step in steps:
        agent.observe(step)
    metrics = agent.update()
    assert float(metrics["train/learning_rate"]) == pytest.approx(rate)
    assert float(metrics["train/clip_range"]) == pytest.approx(clip_range)
    twin.update(one_learners(steps, 0), rate / 3e-3, clip_range / 0.2)
    for name, parameter in agent.network.named_parameters():
        expected = twin.parameters[name].detach().float()
        torch.testing.assert_close(parameter.detach()[0], expected, rtol=1e-4, atol=1e-5)


def test_a_schedule_ends_at_zero_and_stays_there() -> None:
    agent = agent_of(schedule="linear", schedule_timesteps=400)
    for timesteps in (400, 1_000):
        agent.num_timesteps = timesteps
        before = agent.network.vectors.detach().clone()
        assert float(fill(agent)["train/learning_rate"]) == 0.0
        assert torch.equal(agent.network.vectors, before)


def test_no_step_is_taken_beyond_the_target() -> None:
    """The first batch is where the old policy was; after one huge step the second is far away."""
    agent = agent_of(target_kl=1e-3, learning_rate=0.1, batch_size=8, n_epochs=5)
    steps = random_steps(agent, 0)
    for step in steps:
        exact = {**step.infos, "log_probs": step.infos["log_probs"] * 1.0}
        said = agent.actions.distribution.evaluate(
            agent.network.policy(agent.layout.read(step.obs).vectors[None]), agent.network.free,
            exact["raw_actions"][None],
        )  # fmt: skip
        exact["log_probs"] = said.log_probs[0].detach()
        agent.observe(Transitions(step.obs, step.actions, step.rewards, step.next_obs, step.terminations,
                                  step.truncations, step.mask, exact))  # fmt: skip
    agent.update()
    assert agent.descent.optimizer.states[0]["step"].tolist() == [[1.0]]
    assert not agent.descent.frozen()  # it goes on with the next rollout
    fill(agent, 1)
    assert agent.descent.optimizer.states[0]["step"].item() >= 1.0


def test_observations_are_normalised_by_the_rollouts_before_and_so_is_what_is_loaded(tmp_path: Any) -> None:
    agent = agent_of("Box", 2, normalize_observations=True)
    obs = torch.randn(2 * ROWS, 3)
    first = agent.act(obs, deterministic=True)
    fill(agent)
    rows = torch.stack([step.obs for step in random_steps(agent, 0)]).numpy()
    masks = torch.stack([step.mask for step in random_steps(agent, 0)]).numpy()
    for learner in range(2):
        own = slice(learner * ROWS, (learner + 1) * ROWS)
        seen = rows[:, own][masks[:, own]]
        np.testing.assert_allclose(agent._seen.shift[learner, 0], seen.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(agent._seen.scale[learner, 0], 1 / seen.std(0), rtol=1e-4)
    acts = agent.act(obs, deterministic=True)
    assert not torch.equal(acts, first)
    agent.save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt", device="cpu")
    assert loaded.num_learners == 2
    assert loaded.config == agent.config
    assert torch.equal(loaded.act(obs, deterministic=True), acts)
    assert torch.equal(loaded._sums.scale, agent._sums.scale)
    agent.restarted()  # as a loaded agent's episodes begin anew
    fill(loaded, 1)
    fill(agent, 1)
    assert torch.equal(loaded.network.vectors, agent.network.vectors)  # the noise and the orders go on too


def test_indicators_are_not_normalised() -> None:
    space = gym.spaces.Dict({"kind": gym.spaces.Discrete(3), "size": gym.spaces.Box(-9.0, 9.0, (1,))})
    agent = PPO(Spaces(space, gym.spaces.Discrete(2)), PPOConfig(normalize_observations=True), device="cpu")
    agent._seen.add(torch.tensor([[[1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, 7.0]]]), torch.ones(1, 2))
    assert agent._seen.shift[0, 0].tolist() == [0.0, 0.0, 0.0, 6.0]
    assert agent._seen.scale[0, 0].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(("observations", "actions", "message"), [
    (gym.spaces.Box(0, 255, (2, 2, 3), np.uint8), gym.spaces.Discrete(2), "of at least 3 x 3"),
    (gym.spaces.Dict(a=PICTURE, b=PICTURE), gym.spaces.Discrete(2), "has 2 pictures"),
    (gym.spaces.Text(3), gym.spaces.Discrete(2), "space Text.* is not supported"),
    (BOX, gym.spaces.MultiBinary(3), "action_space is MultiBinary"),
    (BOX, gym.spaces.Box(0, 3, (2,), np.int64), "action_space is .*; PPO takes Discrete"),
    (BOX, gym.spaces.Dict(a=gym.spaces.Discrete(2)), "action_space is Dict"),
])  # fmt: skip
def test_refuses_spaces(observations: Any, actions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPO(Spaces(observations, actions), device="cpu")


@pytest.mark.parametrize(("settings", "message"), [
    ({"gamma": 1.5}, "gamma is 1.5"), ({"gamma": (0.9, 1.5)}, "gamma"),
    ({"learning_rate": 0.0}, "learning_rate"),
    ({"ent_coef": -0.1}, "ent_coef is -0.1"), ({"clip_range": 0.0}, "clip_range is 0.0"),
    ({"batch_size": 0}, "batch_size is 0"), ({"hidden": ()}, "hidden"),
    ({"activation": "silu"}, "activation is"),
    ({"gamma": (0.9, 0.8), "ent_coef": (0.0, 0.1, 0.2)},
     "gamma is for 2, ent_coef is for 3 learners; they must be for as many"),
])  # fmt: skip
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**settings)


def test_a_linear_schedule_needs_its_length() -> None:
    for name in ("schedule", "clip_schedule"):
        with pytest.raises(ValueError, match="schedule_timesteps is None; a linear schedule needs"):
            agent_of(**{name: "linear"})


# What it learns ------------------------------------------------------------------------------------------


class Aim(gym.Env[Any, Any]):
    """One step: the reward says how near the action is to what the observation asks for."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, action_space: gym.Space[Any]) -> None:
        self.action_space = action_space

    def best(self, obs: Any) -> Any:
        """The best action for an observation, or for rows of them."""
        places = np.asarray(obs > 0.0).astype(int)
        if isinstance(self.action_space, gym.spaces.Discrete):
            return self.action_space.start + 2 * places[..., 0] + places[..., 1]
        if isinstance(self.action_space, gym.spaces.MultiDiscrete):
            return places * [1, 2]
        return 2.0 * obs[..., :1] + 1.0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        if isinstance(self.action_space, gym.spaces.Box):
            reward = -float((action - self.best(self.obs)).item() ** 2)
        else:
            reward = float(np.mean(action == self.best(self.obs)))
        return self.obs, reward, True, False, {}


@pytest.mark.parametrize("space", [
    gym.spaces.Discrete(4, start=-1), gym.spaces.MultiDiscrete([2, 3]), gym.spaces.Box(-3.0, 5.0, (1,)),
], ids=["Discrete", "MultiDiscrete", "Box"])  # fmt: skip
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_it_learns_what_to_do(space: gym.Space[Any], activation: Any) -> None:
    config = PPOConfig(hidden=(16,), activation=activation, n_steps=64, n_epochs=6, learning_rate=1e-2)
    agent = PPO(Aim(space), config, device="cpu", seed=0).learn(2_048)
    obs = np.random.default_rng(0).uniform(-1.0, 1.0, (400, 2)).astype(np.float32)
    actions, _ = agent.predict(obs, deterministic=True)
    best = Aim(space).best(obs)
    if isinstance(space, gym.spaces.Box):
        assert np.abs(actions - best).mean() < 0.3
        assert np.abs(best).mean() > 0.9  # what doing nothing would miss by
    else:
        assert np.mean(actions == best) > 0.9


def test_it_solves_cart_pole_on_the_device() -> None:
    env = prefrl.make_device("prefrl/CartPole-v0", 256, device="cpu")
    config = PPOConfig(activation="relu", n_steps=32, batch_size=512, n_epochs=4, learning_rate=3e-3,
                       normalize_rewards=False)  # fmt: skip
    agent = PPO(env, config, device="cpu", seed=0).learn(150_000)
    found = prefrl.evaluate(agent, gym.make("CartPole-v1"), episodes=5, seed=1)
    assert found["mean_return"] > 400.0


def test_actions_of_diverged_numbers_stay_in_the_space() -> None:
    agent = agent_of("Box")
    raw = torch.tensor([[torch.nan, torch.inf], [-torch.inf, torch.nan], [0.5, -torch.inf]])
    actions = agent.actions.to_env(raw).numpy()
    assert all(agent.action_space.contains(row.astype(np.float64)) for row in actions)


def test_what_was_drawn_may_be_told_later() -> None:
    """Who observes an action after other actions were drawn gives what the agent said of it then."""
    agent, other = agent_of("Box"), agent_of("Box")
    for step in random_steps(agent, 0):
        agent.observe(step)
    for step in random_steps(other, 0):
        acted, rest = step.infos, {name: value for name, value in vars(step).items() if name != "infos"}
        other.acted = dict(acted)
        other.observe(Transitions(**rest))
    agent.update()
    other.update()
    assert torch.equal(agent.network.vectors, other.network.vectors)
