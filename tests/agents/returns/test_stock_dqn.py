"""The deep agent: its targets by hand, ties, relabelling, the search, ablations, files, runs."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

import prefrl
import prefrl.envs
from prefrl.agents.base import Spaces
from prefrl.agents.returns.stock_dqn import StockDQN, StockDQNConfig
from prefrl.config import from_json, to_json
from prefrl.data import Transitions
from prefrl.envs import StockAugmentation, VectorStockAugmentation
from prefrl.functional.returns.risk_measures import CVaR
from prefrl.functional.returns.stock_problems import conditional_value_at_risk
from prefrl.functional.value_based.value_distributions import quantile_huber_loss
from prefrl.run.launch import evaluate_run, resume, train
from prefrl.run.outcomes.returns import (
    agent_policy,
    exact_distribution,
    sample_returns,
    start_observations,
)
from prefrl.run.recipes.returns.stock_dqn import TrainStockDQN
from prefrl.tabular import FiniteHorizon

STOCK = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
OBS = gym.spaces.Box(-9.0, 9.0, (3,))
SMALL = {"hidden": (16,), "quantiles": 8, "batch_size": 16, "learning_starts": 64, "train_freq": 8,
         "target_update_gradient_steps": 20, "epsilon_timesteps": 2_000}  # fmt: skip


def spaces(obs=OBS, actions=3, start=0):
    return Spaces(gym.spaces.Dict({"obs": obs, "stock": STOCK}), gym.spaces.Discrete(actions, start=start))


def make_agent(obs=OBS, start=0, seed=0, **settings):
    """An agent whose networks differ, and are far from where heads start."""
    agent = StockDQN(
        spaces(obs, start=start), StockDQNConfig(**{**SMALL, **settings}), device="cpu", seed=seed
    )
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for network in (agent.network, agent.target):
            for parameter in network.parameters():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=rng))
    return agent


def transitions(n=12, seed=0):
    rng = np.random.default_rng(seed)

    def obs():
        return {"obs": torch.as_tensor(rng.normal(size=(n, 3)).astype(np.float32)),
                "stock": torch.as_tensor(rng.normal(size=(n, 1)) * 3)}  # fmt: skip

    return Transitions(
        obs(), torch.as_tensor(rng.integers(3, size=n)), torch.as_tensor(rng.normal(size=n)), obs(),
        torch.as_tensor(rng.random(n) < 0.3), torch.zeros(n, dtype=torch.bool),
        torch.as_tensor(rng.random(n) < 0.8),
    )  # fmt: skip


def by_hand(agent, step, stocks, *, moves=True, fed=True):
    """The loss of every row in plain loops over rows and actions."""
    config, losses, weights = agent.config, [], []
    for i, stock in enumerate(stocks):
        seen = float(stock) if fed else 0.0
        taken = agent.network(step.obs["obs"][i][None], torch.tensor([seen]))[0, int(step.actions[i])]
        after = (float(stock) + float(step.rewards[i].float())) / config.gamma if moves else float(stock)
        seen = after if fed else 0.0
        online = agent.network(step.next_obs["obs"][i][None], torch.tensor([seen]))[0]
        slow = agent.target(step.next_obs["obs"][i][None], torch.tensor([seen]))[0]
        chosen = online if config.double else slow
        scored = []
        for a in range(3):
            total = after + chosen[a].double()
            worth = CVaR(config.tau).value(chosen[a].double()) if not fed else total.clamp(max=0.0).mean()
            scored.append((round(float(worth.detach()), 6), float(chosen[a].detach().mean())))
        best = max(range(3), key=lambda a: scored[a])
        goal = float(step.rewards[i].float()) + config.gamma * (1 - float(step.terminations[i])) * slow[best]
        losses.append(quantile_huber_loss(taken, goal.detach(), kappa=config.kappa))
        weights.append(float(step.mask[i]))
    return (torch.stack(losses) * torch.tensor(weights)).sum() / sum(weights)


@pytest.mark.parametrize("settings", [
    {}, {"double": False}, {"gamma": 0.9}, {"kappa": 1.0}, {"relabel": False}, {"use_of_stock": "frozen"},
    {"use_of_stock": "naive"},
])  # fmt: skip
def test_the_loss_by_hand(settings):
    agent = make_agent(tie_tolerance=1e-6, stock_low=-5.0, stock_high=3.0, **settings)
    step = transitions()
    agent.observe(step)
    draws = torch.linspace(0.02, 0.97, 12)
    index = torch.arange(12)
    loss, metrics = agent._loss(agent.network, agent.replay.storage, index, torch.zeros(()), draws)
    relabelled = -5.0 + 8.0 * draws
    stocks = relabelled if agent.config.relabel else step.obs["stock"][:, 0]
    use = agent.config.use_of_stock
    expected = by_hand(agent, step, stocks, moves=use == "stock", fed=use != "naive")
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert set(metrics) == {"train/loss", "train/q", "train/target", "train/td_error"}


def test_settings_of_older_files_count_gradient_steps_under_their_old_name():
    old = {**to_json(StockDQNConfig()), "target_update_interval": 7}
    del old["target_update_gradient_steps"]
    assert from_json(StockDQNConfig, old).target_update_gradient_steps == 7
    with pytest.raises(TypeError, match="target_update_interval"):
        StockDQNConfig(target_update_interval=7)


def test_gradient_steps_take_the_loss_down_and_move_the_target_at_times():
    agent = make_agent(target_update_gradient_steps=5, learning_rate=3e-3)
    agent.num_timesteps = 64
    for seed in range(8):
        agent.observe(transitions(seed=seed))
    before = agent.target.state_dict()["head.output.weight"].clone()
    losses = []
    for step in range(1, 6):
        losses.append(float(agent._gradient_step()["train/loss"]))
        same = torch.equal(before, agent.target.state_dict()["head.output.weight"])
        assert same == (step < 5)
    assert torch.equal(agent.target.head.output.weight, agent.network.head.output.weight)
    for _ in range(200):
        losses.append(float(agent._gradient_step()["train/loss"]))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:3])


def test_ties_are_broken_by_the_mean_alike_in_acting_and_in_targets():
    agent = make_agent()
    safe = torch.tensor([[[1.0] * 8, [3.0] * 8, [2.0] * 8]])  # min(x, 0) is 0 for all of them
    assert agent.greedy(safe, torch.tensor([0.0])).tolist() == [1]
    assert agent.greedy(safe, torch.tensor([-2.5])).tolist() == [1]
    near = torch.tensor([[[-1.0] * 8, [-1.00005] * 4 + [-1.00005] * 3 + [9.0], [-2.0] * 8]])
    assert make_agent(tie_tolerance=0.0).greedy(near, torch.tensor([-8.0])).tolist() == [1]
    close = torch.tensor([[[-1.0] * 8, [-1.001] + [9.0] * 7, [-2.0] * 8]])
    assert make_agent(tie_tolerance=0.0).greedy(close * 1.0, torch.tensor([0.0])).tolist() == [1]
    strict = torch.tensor([[[0.0] * 8, [-0.1] + [9.0] * 7, [-2.0] * 8]])
    assert make_agent(tie_tolerance=0.0).greedy(strict, torch.tensor([0.0])).tolist() == [0]
    assert make_agent(tie_tolerance=0.05).greedy(strict, torch.tensor([0.0])).tolist() == [1]


def test_the_stock_changes_what_is_greedy():
    agent = make_agent(objective="target_return", target=3.0)
    distributions = torch.tensor([[[0.0] * 8, [2.0] * 8, [5.0] * 8]]).expand(4, 3, 8)
    stocks = torch.tensor([0.0, -2.0, -5.0, -3.0])
    assert agent.greedy(distributions, stocks).tolist() == [0, 1, 2, 1]


def test_naive_does_not_look_at_the_stock():
    agent = make_agent(use_of_stock="naive", tau=0.25)
    obs = torch.randn(6, 3)
    acts = [
        agent.act(
            {"obs": obs, "stock": torch.full((6, 1), c, dtype=torch.float64)}, deterministic=True
        ).tolist()
        for c in (-9.0, 0.0, 4.0)
    ]
    assert acts[0] == acts[1] == acts[2]
    distributions = torch.tensor([[[-1.0, 9.0] * 4, [0.0] * 8, [-2.0] * 8]])
    assert agent.greedy(distributions, torch.tensor([-50.0])).tolist() == [1], "the CVaR of what is to come"
    assert agent.search_initial_stock(obs) == 0.0


def test_exploration():
    agent = make_agent(
        epsilon_start=1.0, epsilon_end=0.2, epsilon_timesteps=1_000, learning_starts=100, start=5
    )
    obs = {"obs": torch.zeros(3000, 3), "stock": torch.zeros(3000, 1, dtype=torch.float64)}
    best = int(agent.act(obs, deterministic=True)[0])
    assert agent.epsilon == 1.0
    assert np.bincount(agent.act(obs) - 5, minlength=3).min() > 850
    agent.num_timesteps = 500
    assert agent.epsilon == pytest.approx(0.6)
    agent.num_timesteps = 10**6
    share = float((agent.act(obs) == best).float().mean())
    assert share == pytest.approx(0.8 + 0.2 / 3, abs=0.03)
    assert set(agent.act(obs).tolist()) == {5, 6, 7}


def test_the_search_is_over_the_grid():
    agent = make_agent(stock_low=-4.0, stock_high=2.0, stock_points=61, tau=0.5)
    obs = torch.randn(5, 3)
    grid = torch.linspace(-4.0, 2.0, 61)
    scores = []
    for c in grid:
        distributions = agent.network(obs, c.expand(5)).detach()
        worth = (distributions + c).clamp(max=0.0).mean(-1)
        best = agent.greedy(distributions, c.expand(5))
        scores.append(float(worth.gather(1, best[:, None]).mean() / 0.5 - c))
    np.testing.assert_allclose(agent.scores(obs, grid).numpy(), scores, atol=1e-5)
    assert agent.search_initial_stock(obs) == pytest.approx(float(grid[int(np.argmax(scores))]))
    other = agent.search_initial_stock(obs, conditional_value_at_risk(0.9))
    assert other in [pytest.approx(float(c)) for c in grid]
    with pytest.warns(UserWarning, match="is stock_high -4; a larger one may be better"):
        make_agent(stock_low=-30.0, stock_high=-4.0, tau=0.01).search_initial_stock(obs)
    assert make_agent(objective="target_return", target=2.5).search_initial_stock(obs) == -2.5


def test_the_optimistic_search_compares_what_is_greedy():
    """Pooled over the starts: the best half of all quantiles of the greedy actions."""
    agent = make_agent(objective="optimistic_cvar", stock_low=-4.0, stock_high=2.0, stock_points=61, tau=0.5)
    obs, grid = torch.randn(5, 3), torch.linspace(-4.0, 2.0, 61)
    worth = []
    for c in grid:
        distributions = agent.network(obs, c.expand(5)).detach()
        best = agent.greedy(distributions, c.expand(5))
        pooled = distributions[torch.arange(5), best].flatten().sort().values
        worth.append(float(pooled[len(pooled) // 2 :].mean()))
    assert agent.search_initial_stock(obs) == pytest.approx(float(grid[int(np.argmax(worth))]))
    assert int(np.argmax(worth)) != int(agent.scores(obs, grid).argmax()), "not where the bound is least"


def cliff_agent(num_envs=8, rule=None, **settings):
    config = StockDQNConfig(**{**SMALL, "stock_low": -12.0, "stock_high": 14.0, **settings})
    env = prefrl.envs.make_device("prefrl/RiskyCliff-v0", num_envs)
    frozen = config.use_of_stock == "frozen"
    rows = VectorStockAugmentation(
        env, config.gamma, stock_range=(-12.0, 14.0), frozen=frozen, **(rule or {})
    )
    return StockDQN(rows, config, device="cpu")


@pytest.mark.slow
def test_it_learns_two_coins():
    """CVaR at 1/2, where whoever forgets the coin gets 1 at most, and the best is 1.75."""
    config = StockDQNConfig(tau=0.5, stock_low=-7.0, stock_high=3.0, quantiles=32, hidden=(64, 64),
                            epsilon_timesteps=8_000, train_freq=8)  # fmt: skip
    env = prefrl.envs.make_device("prefrl/TwoCoins-v0", 16)
    agent = StockDQN(VectorStockAugmentation(env, stock_range=(-7.0, 3.0)), config, device="cpu")
    agent.learn(12_000)
    scalar = gym.make("prefrl/TwoCoins-v0")
    model = FiniteHorizon.of_model(scalar.unwrapped.horizon_model())
    stock = agent.search_initial_stock(torch.as_tensor(scalar.unwrapped.observations(0))[:1])
    returns, probs = exact_distribution(agent_policy(agent, scalar, model, stock), stock)
    assert float(CVaR(0.5).value(returns, probs)) == pytest.approx(1.75)


def test_exact_evaluation_is_what_episodes_show():
    agent = cliff_agent()
    agent.learn(2_000)
    scalar = gym.make("prefrl/RiskyCliff-v0")
    model = FiniteHorizon.of_model(scalar.unwrapped.horizon_model())
    rows = VectorStockAugmentation(gym.make_vec("prefrl/RiskyCliff-v0", 4_000))
    for stock in (9.0, 2.0):
        returns, probs = exact_distribution(agent_policy(agent, scalar, model, stock), stock)
        assert float(probs.sum()) == pytest.approx(1.0)
        sampled = sample_returns(agent, rows, stock, seed=0)
        assert sampled.mean() == pytest.approx(float(returns @ probs), abs=0.35)
    frozen = cliff_agent(use_of_stock="frozen")
    frozen.learn(500)
    still = VectorStockAugmentation(gym.make_vec("prefrl/RiskyCliff-v0", 4_000), frozen=True)
    returns, probs = exact_distribution(agent_policy(frozen, scalar, model, 9.0, frozen=True), 9.0)
    assert sample_returns(frozen, still, 9.0, seed=0).mean() == pytest.approx(
        float(returns @ probs), abs=0.35
    )


@pytest.mark.parametrize("env_id", ["CartPole-v1", "prefrl/Delivery-v0"])
def test_any_environment_with_discrete_actions(env_id):
    """A scalar environment of Gymnasium, and states that are numbers."""
    env = StockAugmentation(gym.make(env_id), 0.9, stock_range=(-20.0, 20.0))
    agent = StockDQN(
        env, StockDQNConfig(**SMALL, gamma=0.9, objective="target_return", target=5.0), device="cpu"
    )
    metrics = agent.learn(300).gradient_steps_done
    assert metrics == 300 // 8 - 63 // 8
    assert agent.predict(env.reset(seed=0)[0])[0] in range(env.action_space.n)
    evaluate_policy(agent, env, n_eval_episodes=1, warn=False)


def test_pictures_and_a_stock():
    obs = gym.spaces.Box(0, 255, (6, 5, 2), np.uint8)
    agent = StockDQN(spaces(obs), StockDQNConfig(**SMALL), device="cpu")
    picture = torch.as_tensor(np.stack([obs.sample() for _ in range(4)]))
    with torch.no_grad():
        agent.network.head.output.weight.normal_()
    distributions = [agent.network(picture, torch.full((4,), c)) for c in (0.0, 5.0)]
    assert distributions[0].shape == (4, 3, 8)
    assert not torch.allclose(distributions[0], distributions[1])
    torso = agent.network.torso
    features = torso.torso(picture.float() / 255.0)
    embedded = torch.relu(torso.embedding(torch.full((4, 1), 0.5)))
    torch.testing.assert_close(distributions[1], agent.network.head(torch.cat([features, embedded], 1)))


def test_same_seed_same_run():
    weights = []
    for seed in (0, 0, 1):
        given = cliff_agent()
        agent = StockDQN(given.env, given.config, device="cpu", seed=seed)
        agent.learn(400)
        weights.append(torch.cat([p.flatten() for p in agent.network.parameters()]).detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_compiled_steps_are_the_eager_ones():
    agents = [cliff_agent(compile=compiled) for compiled in (False, True)]
    for agent in agents:
        agent.learn(400)
    ours, theirs = (torch.cat([p.flatten() for p in agent.network.parameters()]) for agent in agents)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_files(tmp_path):
    agent = cliff_agent()
    agent.learn(300)
    agent.save(tmp_path / "agent.pt")
    loaded = prefrl.StockDQN.load(tmp_path / "agent.pt", device="cpu")
    obs = {
        "obs": np.random.default_rng(0).random((50, 16), dtype=np.float32),
        "stock": np.linspace(-9, 9, 50)[:, None],
    }
    expected = agent.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(expected, loaded.predict(obs, deterministic=True)[0])
    assert loaded.gradient_steps_done == agent.gradient_steps_done
    again = prefrl.StockDQN.load(tmp_path / "agent.pt", env=agent.get_env(), device="cpu")
    before = again.gradient_steps_done
    assert again.learn(300).gradient_steps_done > before


def test_runs(tmp_path):
    recipe = TrainStockDQN(num_envs=8, total_timesteps=1_200, device="cpu", horizon=8,
                           agent=StockDQNConfig(**SMALL, stock_low=-9.0))  # fmt: skip
    path = train("stock_dqn", recipe, tmp_path / "run", quiet=True)
    result = json.loads(path.read_text())
    assert {"objective_value", "exact_optimum", "seconds", "initial_stock"} <= set(result)
    assert result["exact"] is True
    assert result["objective_value"] <= result["exact_optimum"] + 1e-9
    assert evaluate_run(tmp_path / "run", episodes=20).exists()
    recipe = TrainStockDQN("CartPole-v1", num_envs=2, total_timesteps=300, eval_episodes=20, device="cpu",
                           agent=StockDQNConfig(**SMALL, objective="target_return", target=9.0,
                                                stock_low=-50.0))  # fmt: skip
    result = json.loads(train("stock_dqn", recipe, tmp_path / "pole", quiet=True).read_text())
    assert result["exact_optimum"] is None
    assert result["exact"] is False
    assert result["objective_value"] <= 0.0


def test_the_objective_is_evaluated_while_training():
    recipe = TrainStockDQN(num_envs=8, eval_episodes=40, device="cpu", horizon=8, env_args=("slip=0",))
    evaluation, agent = recipe.evaluations(), recipe.make_agent(recipe.training_env())
    found = evaluation.run(agent, 0)
    assert found == evaluation.run(agent, 0)
    rows, seed = evaluation.env, evaluation.seed_of(0)
    stock = agent.search_initial_stock(start_observations(rows, seed))
    returns = sample_returns(agent, rows, stock, seed=seed)
    assert len(set(returns.tolist())) == 1  # nothing is random, so CVaR is the return
    assert found["objective"] == pytest.approx(returns[0])
    assert found["mean_return"] == pytest.approx(returns[0])
    acted, shown = agent.act, []
    agent.act = lambda obs, **how: shown.append(obs["stock"]) or acted(obs, **how)
    evaluation.run(agent, 1)
    assert (shown[0] == agent.search_initial_stock(start_observations(rows, evaluation.seed_of(1)))).all()


def test_a_distribution_that_is_too_large_is_sampled(tmp_path):
    config = StockDQNConfig(**SMALL, gamma=0.9, objective="mean")
    recipe = TrainStockDQN("prefrl/RandomMDP-v0", num_envs=8, total_timesteps=400, horizon=16,
                           eval_episodes=50, device="cpu", agent=config)  # fmt: skip
    result = json.loads(train("stock_dqn", recipe, tmp_path / "run", quiet=True).read_text())
    assert result["exact"] is False
    assert result["exact_optimum"] is None
    assert np.isfinite(result["objective_value"])


@pytest.mark.parametrize("env_id", ["prefrl/RiskyCliff-v0", "prefrl/CartPole-v0"])
@pytest.mark.parametrize("num_envs", [1, 8])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, env_id, num_envs):
    recipe = TrainStockDQN(env_id, num_envs=num_envs, total_timesteps=600, eval_episodes=5, device="cpu",
                           checkpoint_every=200, agent=StockDQNConfig(**SMALL))  # fmt: skip
    train("stock_dqn", recipe, tmp_path / "whole", quiet=True)
    observe, seen = StockDQN.observe, []

    def interrupted(agent, step):
        seen.append(1)
        if len(seen) * num_envs == 400:
            raise KeyboardInterrupt
        return observe(agent, step)

    with monkeypatch.context() as patch:
        patch.setattr(StockDQN, "observe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("stock_dqn", recipe, tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    ours, theirs = (
        prefrl.StockDQN.load(tmp_path / name / "agent.pt", device="cpu").network.state_dict()
        for name in ("whole", "run")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("settings", "message"), [
    ({"objective": "homeostasis"}, "distributions of numbers, not of vectors: use DistributionalDP"),
    ({"stock_low": 3.0, "stock_high": 3.0}, "they must be finite and rise"),
    ({"stock_scale": 0.0}, "stock_scale is 0.0"),
    ({"objective": "target_return", "target": 50.0}, "starts with the stock -50, outside stock_low -10"),
    ({"use_of_stock": "never"}, r"use_of_stock is 'never'; it must be one of \['stock', 'frozen', 'naive'\]"),
    ({"network": "lstm"}, "network is 'lstm'"),
    ({"quantiles": 0}, "quantiles is 0; it must be at least 1"),
    ({"kappa": -1.0}, "kappa is -1.0"),
    ({"epsilon_end": 2.0}, "epsilon_end is 2.0"),
    ({"polyak": 0.0}, "polyak is 0.0"),
    ({"gamma": 1.5}, "gamma is 1.5"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ({"buffer_size": 4, "batch_size": 5}, "buffer_size is 4; it must hold a batch of 5"),
    ({"tau": 2.0}, "tau is 2.0"),
])  # fmt: skip
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StockDQNConfig(**settings)


def test_environments_that_are_refused():
    with pytest.raises(ValueError, match="wrap the environment in"):
        StockDQN(gym.make("CartPole-v1"), device="cpu")
    with pytest.raises(ValueError, match="takes Discrete actions"):
        StockDQN(StockAugmentation(gym.make("Pendulum-v1")), device="cpu")
    with pytest.raises(ValueError, match="the stock has several components"):
        StockDQN(
            StockAugmentation(gym.make("prefrl/Homeostasis-v0"), reward_key="reward_vector"), device="cpu"
        )
    one = StockAugmentation(gym.make("prefrl/RiskyCliff-v0"), reward_key="earned", initial_stock=0.0)
    with pytest.raises(ValueError, match="reward_key='earned'; the agent takes None"):
        StockDQN(one, device="cpu")
    with pytest.raises(ValueError, match=r"gamma is 0.9; the environment's stock has gamma 1"):
        StockDQN(StockAugmentation(gym.make("CartPole-v1")), StockDQNConfig(gamma=0.9), device="cpu")
    with pytest.raises(ValueError, match="frozen=False; the agent takes True"):
        StockDQN(
            StockAugmentation(gym.make("CartPole-v1")), StockDQNConfig(use_of_stock="frozen"), device="cpu"
        )
    with pytest.raises(ValueError, match=r"not indifferent to gamma 0.9"):
        make_agent(objective="exponential", gamma=0.9)
