"""Deep Q-learning as an agent: exploration, schedule, targets, spaces, settings, files, SB3's face."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import prefrl.envs
from prefrl.agents import DQN, DQNConfig
from prefrl.agents.base import Spaces
from prefrl.agents.value_based.dqn import LEARNING_RATES
from prefrl.data import Transitions
from prefrl.nn.torsos import ConvTorso, MLPTorso, NatureTorso
from prefrl.run.evaluate import scaled_return

LOSSES = list(LEARNING_RATES)
SMALL: dict[str, Any] = {"hidden": (16,), "batch_size": 8, "bins": 11, "quantiles": 5}
NOW = {**SMALL, "learning_starts": 0, "train_freq": 1}
BOX = gym.spaces.Box(-1, 1, (3,))
ACTIONS = gym.spaces.Discrete(2)


def make_agent(
    observations: gym.Space[Any] = BOX, actions: int = 4, *, start: int = 0, seed: int = 0, **config: Any
) -> DQN:
    spaces = Spaces(observations, gym.spaces.Discrete(actions, start=start))
    return DQN(spaces, DQNConfig(**{**SMALL, **config}), device="cpu", seed=seed)


def step(agent: DQN, num_envs: int = 1, reward: float = 1.0) -> dict[str, float]:
    """One step of all rows, as the training loop takes it."""
    obs = torch.rand(num_envs, 3)
    no = torch.zeros(num_envs, dtype=torch.bool)
    actions = torch.full((num_envs,), int(agent.action_space.start))
    agent.observe(Transitions(obs, actions, no + reward, obs, no, no, ~no))
    agent.num_timesteps += num_envs
    return {name: value.item() for name, value in agent.update().items()}


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).clone()


def prefer(agent: DQN, action: int) -> None:
    """Make one action the best everywhere."""
    with torch.no_grad():
        agent.network.head.output.weight.zero_()
        agent.network.head.output.bias.zero_()
        agent.network.head.output.bias[action] = 1.0


# Exploration -------------------------------------------------------------------------------------------


def test_epsilon_is_one_before_learning_starts_and_then_falls_linearly() -> None:
    agent = make_agent(learning_starts=100, epsilon_start=0.8, epsilon_end=0.2, epsilon_timesteps=1000)
    seen = []
    for agent.num_timesteps in (0, 99, 100, 500, 1000, 9000):
        seen.append(agent.epsilon)
    assert seen == pytest.approx([1.0, 1.0, 0.74, 0.5, 0.2, 0.2])
    at_once = make_agent(learning_starts=0, epsilon_start=0.8, epsilon_end=0.2, epsilon_timesteps=0)
    at_once.num_timesteps = 1
    assert at_once.epsilon == pytest.approx(0.2)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_row_alone_acts_as_rows_do(deterministic: bool) -> None:
    alone, rows = (make_agent(loss="mse", learning_starts=0, epsilon_start=0.5, start=3) for _ in range(2))
    for obs in torch.rand(50, 1, 3, generator=torch.Generator().manual_seed(0)):
        best = rows.q_values(obs).argmax(-1)
        expected = rows.explore(best, deterministic=deterministic)
        found = alone.act(obs, deterministic=deterministic)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_epsilon_is_the_share_of_uniform_actions() -> None:
    agent = make_agent(loss="mse", learning_starts=0, epsilon_start=0.4, epsilon_end=0.4)
    prefer(agent, 2)
    counts = torch.bincount(agent.act(torch.rand(40_000, 3)), minlength=4) / 40_000
    torch.testing.assert_close(counts, torch.tensor([0.1, 0.1, 0.7, 0.1]), atol=0.01, rtol=0)
    assert agent.act(torch.rand(500, 3), deterministic=True).unique().tolist() == [2]


def test_before_learning_starts_actions_are_uniform() -> None:
    agent = make_agent(actions=3, loss="mse", learning_starts=10)
    prefer(agent, 1)
    counts = torch.bincount(agent.act(torch.rand(30_000, 3)), minlength=3)
    assert (counts - 10_000).abs().max() < 5 * (30_000 * 2 / 9) ** 0.5


def test_randomness_is_seeded() -> None:
    obs = torch.rand(64, 3)
    first, same, other = (make_agent(loss="mse", seed=seed) for seed in (3, 3, 4))
    actions = first.act(obs)
    assert torch.equal(actions, same.act(obs))
    assert not torch.equal(actions, first.act(obs))
    assert torch.equal(weights(first.network), weights(same.network))
    assert not torch.equal(weights(first.network), weights(other.network))
    before = torch.random.get_rng_state()
    make_agent(seed=9)
    assert torch.equal(torch.random.get_rng_state(), before)  # the program's own generator is left alone


# Schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_envs", "train_freq", "gradient_steps", "learning_starts", "expected"),
    [
        (1, 1, 1, 0, [1, 1, 1, 1, 1, 1]),
        (1, 3, 1, 0, [0, 0, 1, 0, 0, 1]),
        (1, 2, 3, 0, [0, 3, 0, 3, 0, 3]),
        (1, 1, 1, 4, [0, 0, 0, 1, 1, 1]),
        (8, 4, 1, 0, [2, 2, 2, 2, 2, 2]),  # a step crosses several multiples
        (8, 3, 2, 0, [4, 6, 6, 4, 6, 6]),  # 2, 5, 8, 10, 13, 16 multiples
        (8, 16, 1, 0, [0, 1, 0, 1, 0, 1]),
        (8, 4, 1, 20, [0, 0, 2, 2, 2, 2]),  # none is made up for
    ],
)
def test_gradient_steps_are_those_due(
    num_envs: int, train_freq: int, gradient_steps: int, learning_starts: int, expected: list[int]
) -> None:
    agent = make_agent(train_freq=train_freq, gradient_steps=gradient_steps, learning_starts=learning_starts)
    taken, before = [], 0
    for due in expected:
        metrics = step(agent, num_envs)
        assert ("train/loss" in metrics) == (due > 0)
        assert agent.schedules() == {"rollout/exploration_rate": agent.epsilon}
        count = int(agent.optimizer.states[0]["step"])
        taken.append(count - before)
        before = count
    assert taken == expected


@pytest.mark.parametrize("tau", [1.0, 0.25])
@pytest.mark.parametrize(("num_envs", "interval"), [(1, 3), (4, 6), (4, 1)])
def test_the_target_follows_at_its_interval(num_envs: int, interval: int, tau: float) -> None:
    agent = make_agent(**NOW, learning_rate=0.01, target_update_interval=interval, tau=tau)
    expected = weights(agent.target)
    assert torch.equal(expected, weights(agent.network))
    for _ in range(9):
        before = agent.num_timesteps
        step(agent, num_envs)
        if agent.num_timesteps // interval > before // interval:
            expected = torch.lerp(expected, weights(agent.network), tau)
        torch.testing.assert_close(weights(agent.target), expected, rtol=0, atol=1e-6)
        assert not torch.equal(weights(agent.network), expected) or tau == 1.0


def test_metrics_are_means_over_the_gradient_steps() -> None:
    one, four = (make_agent(**NOW, loss="mse", learning_rate=1e-12, gradient_steps=k) for k in (1, 4))
    torch.manual_seed(0)
    first = step(one)
    torch.manual_seed(0)
    assert step(four)["train/loss"] == pytest.approx(first["train/loss"], rel=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_learning_rates(loss: str) -> None:
    default = make_agent(loss=loss).optimizer
    assert default.lr == LEARNING_RATES[loss]
    assert default.eps == DQNConfig().adam_eps
    given = make_agent(loss=loss, learning_rate=0.5, adam_eps=0.25).optimizer
    assert (given.lr, given.eps) == (0.5, 0.25)


# Spaces and networks -----------------------------------------------------------------------------------


def test_discrete_observations_are_one_hot_and_may_start_anywhere() -> None:
    plain = make_agent(gym.spaces.Discrete(5), loss="mse")
    moved = make_agent(gym.spaces.Discrete(5, start=-7), loss="mse")
    assert torch.equal(plain.q_values(torch.arange(5)), moved.q_values(torch.arange(-7, -2)))
    layer = plain.network.torso.torso.layers[0]
    hidden = torch.relu(layer.weight.T + layer.bias)  # row s is what state s gives
    expected = plain.network.head(hidden)
    torch.testing.assert_close(plain.q_values(torch.arange(5)), expected.detach())
    assert moved.predict(-7, deterministic=True)[0] in range(4)
    with pytest.raises(ValueError, match="observation is 0; this agent takes -7 to -3"):
        moved.predict(0)


def test_actions_may_start_anywhere() -> None:
    agent = make_agent(**NOW, loss="mse", start=5)
    prefer(agent, 3)
    assert agent.act(torch.rand(9, 3), deterministic=True).unique().tolist() == [8]
    agent = make_agent(loss="mse", start=5)
    assert agent.act(torch.rand(500, 3)).unique().tolist() == [5, 6, 7, 8]
    learner = make_agent(**NOW, loss="mse", start=5, learning_rate=0.01)
    for _ in range(60):
        step(learner, reward=9.0)  # of the first action
    assert learner.act(torch.rand(50, 3), deterministic=True).unique().tolist() == [5]


def test_the_network_suits_the_observations() -> None:
    picture = gym.spaces.Box(0, 1, (6, 5, 2), np.bool_)
    agent = make_agent(picture, conv_filters=3, conv_features=7)
    torso = agent.network.torso.torso
    assert isinstance(torso, ConvTorso)
    assert (torso.conv.out_channels, torso.features) == (3, 7)
    assert agent.q_values(torch.ones(2, 6, 5, 2, dtype=torch.bool)).shape == (2, 4)
    assert agent.predict(picture.sample(), deterministic=True)[0] in range(4)
    flat = make_agent(picture, network="mlp").network.torso.torso
    assert isinstance(flat, MLPTorso)
    assert flat.layers[0].in_features == 60
    assert isinstance(make_agent(gym.spaces.Box(0, 1, (6, 5))).network.torso.torso, MLPTorso)
    with pytest.raises(ValueError, match=r"observations are \(3,\); this network takes \(height, width"):
        make_agent(network="conv")


@pytest.mark.parametrize("loss", LOSSES)
def test_heads_and_values(loss: str) -> None:
    for dueling in (False, True):
        agent = make_agent(loss=loss, dueling=dueling, v_min=-4.0, v_max=4.0)
        assert agent.network.head.dueling is dueling
        assert agent.q_values(torch.rand(6, 3)).shape == (6, 4)
    if loss not in ("mse", "huber"):
        torch.testing.assert_close(agent.q_values(torch.rand(6, 3)), torch.zeros(6, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (Spaces(BOX, BOX), r"action_space is Box.*; DQN takes Discrete actions"),
        (Spaces(gym.spaces.MultiBinary(3), ACTIONS), "observation_space is MultiBinary.*Q-network takes"),
        (Spaces(gym.spaces.Box(0, 1, ()), ACTIONS), "observation_space is Box.*Q-network takes"),
    ],
)
def test_other_spaces_are_refused(spaces: Spaces, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DQN(spaces, device="cpu")


# Settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "l1"}, r"loss is 'l1'; it must be one of \['mse', 'huber', 'hl_gauss'"),
        ({"network": "rnn"}, "network is 'rnn'; it must be one of"),
        ({"placement": "left"}, "placement is 'left'; it must be one of"),
        ({"target_policy": "best"}, "target_policy is 'best'; it must be one of"),
        ({"gamma": 1.1}, r"gamma is 1.1; it must lie in \[0, 1\]"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"epsilon_start": -0.1}, "epsilon_start is -0.1"),
        ({"epsilon_end": 2.0}, "epsilon_end is 2.0"),
        ({"max_clamped_fraction": 1.5}, "max_clamped_fraction is 1.5"),
        ({"n_step": 0}, "n_step is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"train_freq": 0}, "train_freq is 0"),
        ({"gradient_steps": 0}, "gradient_steps is 0"),
        ({"target_update_interval": 0}, "target_update_interval is 0"),
        ({"quantiles": 0}, "quantiles is 0"),
        ({"conv_filters": 0}, "conv_filters is 0"),
        ({"learning_starts": -1}, "learning_starts is -1; it must not be negative"),
        ({"epsilon_timesteps": -1}, "epsilon_timesteps is -1"),
        ({"cql_alpha": -0.5}, "cql_alpha is -0.5"),
        ({"kappa": float("inf")}, "kappa is inf"),
        ({"hidden": ()}, r"hidden is \(\); it must have at least 1 entry"),
        ({"conv_features": -1}, "conv_features is -1; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"adam_eps": 0.0}, "adam_eps is 0.0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"tau": 0.0}, r"tau is 0.0; it must lie in \(0, 1\]"),
        ({"tau": 1.1}, "tau is 1.1"),
        ({"bins": 1}, "bins is 1; it must be at least 2"),
        ({"v_max": float("inf")}, "v_max is inf; it must be finite"),
        ({"v_min": 3.0, "v_max": 3.0}, "v_min is 3.0 and v_max 3.0; v_min must be below v_max"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"sigma": 1.0, "sigma_ratio": 1.0}, "only one of them may be given"),
        ({"sigma_ratio": 0.0}, "sigma_ratio is 0.0"),
    ],
)
def test_wrong_settings_are_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DQNConfig(**config)


def test_settings_that_only_show_later() -> None:
    with pytest.raises(ValueError, match="buffer_size is 7; 4 environments and n_step 2 need at least 8"):
        step(make_agent(buffer_size=7, n_step=2, batch_size=7), 4)
    with pytest.raises(ValueError, match="buffer_size is 63; it must hold a batch of 64"):
        DQNConfig(buffer_size=63)
    assert DQNConfig(hidden=[3, 4]).hidden == (3, 4)  # as from JSON


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 64.5}, "batch_size is 64.5; it must be of type int"),
        ({"epsilon_timesteps": float("nan")}, "epsilon_timesteps is nan; it must be of type int"),
        ({"n_step": True}, "n_step is True; it must be of type int"),
        ({"gamma": "0.9"}, "gamma is '0.9'; it must be of type float"),
        ({"dueling": "no"}, "dueling is 'no'; it must be of type bool"),
        ({"hidden": 128}, "hidden is 128; it must be a tuple of whole numbers"),
        ({"hidden": (128, 1.5)}, r"hidden\[1\] is 1\.5; it must be of type int"),
    ],
)
def test_settings_of_another_kind(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        DQNConfig(**settings)


def test_a_replay_smaller_than_asked_still_teaches() -> None:
    """Three rows do not divide 64: the ring holds 63, which must do for a batch."""
    agent = DQN(gym.make_vec("CartPole-v1", 3), DQNConfig(batch_size=64, buffer_size=64, learning_starts=64),
                device="cpu")  # fmt: skip
    before = [parameter.clone() for parameter in agent.network.parameters()]
    agent.learn(120)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.network.parameters(), strict=True))


def test_pictures_of_bytes_are_scaled() -> None:
    space = gym.spaces.Box(0, 255, (5, 5, 2), np.uint8)
    agent = DQN(Spaces(space, gym.spaces.Discrete(3)), DQNConfig(loss="mse"), device="cpu")
    picture = torch.randint(256, (4, 5, 5, 2), dtype=torch.uint8)
    torch.testing.assert_close(
        agent.network(picture), agent.network.head(agent.network.torso.torso(picture / 255))
    )


def test_sarsa_targets_are_refused_without_a_data_set() -> None:
    with pytest.raises(ValueError, match="without a dataset it must be 'greedy'"):
        DQN(gym.make("CartPole-v1"), DQNConfig(target_policy="sarsa"), device="cpu").learn(10)


def test_large_pictures_are_read_by_the_network_of_nature_wherever_their_channels_are() -> None:
    first, last = (gym.spaces.Box(0, 255, shape, np.uint8) for shape in ((4, 84, 84), (84, 84, 4)))
    agent, other = make_agent(first), make_agent(last)
    assert isinstance(agent.network.torso.torso, NatureTorso)
    assert torch.equal(weights(agent.network), weights(other.network))
    picture = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    for each in (agent, other):
        with torch.no_grad():
            each.network.head.output.weight.normal_(generator=torch.Generator().manual_seed(0))
    q, theirs = agent.q_values(picture), other.q_values(picture.permute(0, 2, 3, 1))
    assert q.std() > 1e-3
    torch.testing.assert_close(q, theirs, rtol=1e-4, atol=1e-5)
    small = make_agent(first, network="conv").network.torso.torso
    assert isinstance(small, ConvTorso)
    assert make_agent(first, network="mlp", hidden=(4,)).network.torso.features == 4
    with pytest.raises(ValueError, match=r"observations are \(35, 84, 4\); .* at least 36 x 36"):
        make_agent(gym.spaces.Box(0, 255, (35, 84, 4), np.uint8), network="nature")


# Stable-Baselines3 and files ---------------------------------------------------------------------------

GRID = {"layout_seed": 233}
"""A grid of 3 x 5 cells whose rewards are -6, -1 and 5."""
GRID_CONFIG: dict[str, Any] = {
    "gamma": 0.9, "hidden": (64,), "learning_starts": 512, "train_freq": 16, "target_update_interval": 512,
    "buffer_size": 4096, "batch_size": 64, "v_min": -15.0, "v_max": 15.0, "bins": 31, "quantiles": 10,
    "learning_rate": 5e-3, "epsilon_timesteps": 4096, "epsilon_end": 0.5, "max_clamped_fraction": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_becomes_optimal_in_a_small_grid(loss: str) -> None:
    env = prefrl.envs.make_device("prefrl/RandomGrid-v0", 16, device="cpu", **GRID)
    agent = DQN(env, DQNConfig(**GRID_CONFIG, loss=loss), device="cpu")
    plain = gym.make("prefrl/RandomGrid-v0", **GRID)
    before = scaled_return(agent, plain, 0.9)
    agent.learn(8192)
    assert before is not None
    assert before < 0.5
    after = scaled_return(agent, plain, 0.9)
    assert after is not None
    assert after > 0.98


def test_evaluate_policy_and_eval_callback(tmp_path: Path) -> None:
    env, folder = Monitor(gym.make("prefrl/RandomGrid-v0", **GRID, max_episode_steps=20)), str(tmp_path)
    train = prefrl.envs.make_device("prefrl/RandomGrid-v0", 16, device="cpu", **GRID)
    agent = DQN(train, DQNConfig(**{**GRID_CONFIG, "batch_size": 8}), device="cpu")
    callback = EvalCallback(
        env, n_eval_episodes=3, eval_freq=50, log_path=folder, best_model_save_path=folder, verbose=0
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(16 * 100, callback=callback)
        mean, _ = evaluate_policy(DQN.load(tmp_path / "best_model", device="cpu"), env, n_eval_episodes=3)
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [800, 1600]
    assert np.isfinite(mean)


def learned(loss: str = "hl_gauss", seed: int = 5, env_id: str = "CartPole-v1", **config: Any) -> DQN:
    agent = DQN(gym.make(env_id), DQNConfig(**{**SMALL, "learning_starts": 20, **config}, loss=loss),
                device="cpu", seed=seed)  # fmt: skip
    return agent.learn(80)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loaded_agent_predicts_the_same_and_goes_on_learning(loss: str, tmp_path: Path) -> None:
    agent = learned(loss)
    agent.save(tmp_path / "agent.pt")
    loaded = DQN.load(tmp_path / "agent.pt", device="cpu")
    obs = torch.randn(20, 4)
    assert torch.equal(loaded.q_values(obs), agent.q_values(obs))
    assert torch.equal(loaded.act(obs), agent.act(obs))  # the generator too
    assert (loaded.config, loaded.seed, loaded.num_timesteps) == (agent.config, 5, 80)
    assert loaded.clamped_fraction == agent.clamped_fraction
    with pytest.raises(ValueError, match="no environment to learn in"):
        loaded.learn(10)
    again = DQN.load(tmp_path / "agent.pt", env=gym.make("CartPole-v1"), device="cpu")
    assert torch.equal(weights(again.target), weights(agent.target))
    before, moments = weights(again.network), again.optimizer.state_dict()["state"][0]
    assert torch.equal(moments["exp_avg"], agent.optimizer.state_dict()["state"][0]["exp_avg"])
    again.learn(20)
    assert again.num_timesteps == 100
    assert not torch.equal(weights(again.network), before)


def test_a_file_has_no_replay_and_other_spaces_are_refused(tmp_path: Path) -> None:
    agent = learned()
    agent.save(tmp_path / "agent.pt")
    assert agent.replay is not None
    assert len(agent.replay) == 80
    assert DQN.load(tmp_path / "agent.pt", device="cpu").replay is None
    with pytest.raises(ValueError, match=r"was trained on Box\(.*; env has Box\("):
        DQN.load(tmp_path / "agent.pt", env=gym.make("Acrobot-v1"))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_seed_gives_the_same_run(loss: str) -> None:
    first, same, other = learned(loss), learned(loss), learned(loss, seed=6)
    assert torch.equal(weights(first.network), weights(same.network))
    assert not torch.equal(weights(first.network), weights(other.network))
