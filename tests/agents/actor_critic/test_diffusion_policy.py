"""The diffusion policy: chunks, what it clones, its faces, and runs."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from resuming import assert_same, crash_at, new_folder
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import prefrl
from prefrl import cli
from prefrl.agents import DiffusionPolicy, DiffusionPolicyConfig
from prefrl.agents.actor_critic.diffusion.chunks import Chunks
from prefrl.agents.base import Spaces
from prefrl.data import TransitionDataset, save_transitions
from prefrl.nn.likelihood_policies import Actions
from prefrl.run.collect import collect_transitions
from prefrl.run.evaluate import evaluate, evaluate_rows
from prefrl.run.loop import learn

LINE, BOX = gym.spaces.Box(-99.0, 99.0, (1,)), gym.spaces.Box(-2.0, 2.0, (2,))
SPACES = Spaces(LINE, BOX)
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"hidden": (16, 16), "batch_size": 32, "noise_steps": 10, "sampling_steps": 4}


def bandit(count: int, actions: torch.Tensor) -> TransitionDataset:
    """Episodes of one step, observation 0."""
    zeros, ends = torch.zeros(count, 1), torch.ones(count, dtype=torch.bool)
    return TransitionDataset.from_transitions(
        zeros, actions, zeros[:, 0], zeros, ends, ~ends, observation_space=LINE, action_space=BOX
    )


def counting(lengths: list[int]) -> TransitionDataset:
    """Episodes whose action is a hundredth of the row's number."""
    count, ends = sum(lengths), torch.zeros(sum(lengths), dtype=torch.bool)
    ends[torch.tensor(lengths).cumsum(0) - 1] = True
    obs = torch.arange(count, dtype=torch.float32)[:, None]
    actions = (obs / 100.0).expand(-1, 2).contiguous()
    return TransitionDataset.from_transitions(
        obs, actions, obs[:, 0], obs + 1.0, ends, torch.zeros_like(ends), observation_space=LINE,
        action_space=BOX,
    )  # fmt: skip


def agent_of(data: TransitionDataset | None = None, seed: int = 0, **settings: Any) -> DiffusionPolicy:
    config = DiffusionPolicyConfig(**{**SMALL, **settings})
    return DiffusionPolicy(SPACES, config, dataset=data, device="cpu", seed=seed)


# Chunks ------------------------------------------------------------------------------------------------


def test_chunks_lie_within_episodes() -> None:
    data = counting([3, 1, 4])
    chunks = Chunks(data, 3, Actions(BOX, CPU), CPU)
    assert chunks.starts.tolist() == [0, 4, 5]
    batch = chunks.sample(200, torch.Generator().manual_seed(0))
    rows = batch.obs[:, 0]
    assert set(rows.tolist()) == {0.0, 4.0, 5.0}
    expected = torch.stack([rows, rows, rows + 1, rows + 1, rows + 2, rows + 2], 1) / 100.0 / 2.0
    torch.testing.assert_close(batch.chunks, expected)
    assert len(Chunks(data, 1, Actions(BOX, CPU), CPU)) == 8
    for horizon in (5, 9):
        with pytest.raises(ValueError, match=f"horizon is {horizon}; no episode of the dataset has as many"):
            agent_of(data, horizon=horizon)


# What it clones ----------------------------------------------------------------------------------------

SHARES = torch.tensor([0.3, 0.05, 0.2, 0.05, 0.15, 0.05, 0.1, 0.1])
ANGLES = torch.arange(8) * (math.pi / 4)
CENTRES = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def ring(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    modes = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    return CENTRES[modes] + 0.1 * torch.randn(count, 2, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_all_modes_of_a_ring_are_drawn_as_often_as_in_the_data(seed: int) -> None:
    config = DiffusionPolicyConfig()
    data = bandit(20_000, ring(20_000, seed))
    agent = DiffusionPolicy(SPACES, config, dataset=data, device="cpu", seed=seed).learn(6_000)
    away, modes = torch.cdist(agent.act(torch.zeros(20_000, 1)), CENTRES).min(1)
    near = away < 0.4
    shares = torch.bincount(modes[near], minlength=8) / len(near)
    print("off the ring:", 1.0 - float(near.float().mean()), "shares:", shares.tolist())
    assert float(near.float().mean()) > 0.9
    assert float((shares - SHARES).abs().max()) < 0.05


def test_two_modes_are_learned_in_moments() -> None:
    """Three actions of four at (1, 1), the others at (-1, -1)."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.where(torch.rand(2_000, generator=generator) < 0.75, 1.0, -1.0)
    actions = signs[:, None].expand(-1, 2) + 0.1 * torch.randn(2_000, 2, generator=generator)
    settings: dict[str, Any] = {"hidden": (64, 64), "batch_size": 128, "noise_steps": 20}
    agent = agent_of(bandit(2_000, actions), **settings, sampling_steps=10).learn(800)
    drawn = agent.act(torch.zeros(4_000, 1))
    assert float((drawn > 0.0).all(1).float().mean()) == pytest.approx(0.75, abs=0.07)
    assert float((drawn < 0.0).all(1).float().mean()) == pytest.approx(0.25, abs=0.07)
    assert float((drawn.abs() - 1.0).abs().mean()) < 0.2


def test_likelihoods_prefer_what_was_cloned() -> None:
    agent = agent_of(counting([40] * 4), horizon=2, hidden=(32, 32)).learn(300)
    data = counting([40] * 4)
    segments, _ = data.segments(data.segment_starts(5)[:20], 5)
    said = agent.log_prob(segments)
    assert said.shape == (20, 5)
    assert torch.equal(said[:, 0], said[:, 1])  # a chunk's error is shared by its steps
    assert bool((said[:, :4] < 0).all())
    assert bool((said[:, 4] == 0).all())  # no whole chunk
    turned = dataclasses.replace(segments, actions=-1.9 - segments.actions)
    assert bool((agent.log_prob(turned).sum(1) < said.sum(1)).all())
    short = dataclasses.replace(segments, lengths=torch.full((20,), 3))
    assert bool((agent.log_prob(short)[:, 2:] == 0).all())
    assert torch.equal(agent.log_prob(short)[:, :2], said[:, :2])
    one, _ = data.segments(torch.arange(3), 1)
    assert agent.log_prob(one).tolist() == [[0.0]] * 3


# The agent ---------------------------------------------------------------------------------------------


def test_the_average_follows_and_acts() -> None:
    agent = agent_of(counting([20]), averaging=0.5)
    first = agent._average_weights.vector.detach().clone()
    agent.update()
    weights = agent._update.weights.vector.detach()
    kept = 2 / 11  # (1 + n) / (10 + n), after the first step
    torch.testing.assert_close(agent._average_weights.vector, kept * first + (1 - kept) * weights)
    obs = torch.ones(1, 3, 1)
    assert torch.equal(agent.act(obs[0], deterministic=True), agent.average.mode(obs)[0])


def test_chunks_are_played_on() -> None:
    agent = agent_of(counting([20]), horizon=3, played=2).learn(5)
    obs = np.zeros((2, 1), np.float32)
    chunks = agent.chunks(torch.zeros(2, 1), deterministic=True).numpy()
    state: Any = None
    for place in (0, 1, 0):
        actions, state = agent.predict(obs, state, deterministic=True)
        np.testing.assert_array_equal(actions, chunks[:, place])
    again, state = agent.predict(obs, state, np.array([True, False]), deterministic=True)
    np.testing.assert_array_equal(again, np.stack([chunks[0, 0], chunks[1, 1]]))
    alone, _ = agent.predict(obs[0], deterministic=True)
    np.testing.assert_allclose(alone, chunks[0, 0], atol=1e-5)
    with pytest.raises(ValueError, match="state is of 2 rows; there are 1 observations"):
        agent.predict(obs[0], state)


def test_every_evaluation_plays_chunks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows at once, one after another, and Stable-Baselines3's see the same episode."""
    env = gym.make("Pendulum-v1")
    agent = DiffusionPolicy(env, DiffusionPolicyConfig(**SMALL, horizon=4, played=3), device="cpu")
    chunk = torch.tensor([0.5, -2.0, 1.5, 9.0])[None, :, None]
    monkeypatch.setattr(agent, "chunks", lambda obs, *, deterministic: chunk.expand(len(obs), -1, -1))
    env.reset(seed=3)
    expected = sum(float(env.step(chunk[0, step % 3].numpy())[1]) for step in range(200))
    assert evaluate(agent, env, episodes=1, seed=3)["mean_return"] == pytest.approx(expected)
    rows = gym.make_vec("Pendulum-v1", num_envs=1)
    assert evaluate_rows(agent, rows, seed=3)["mean_return"] == pytest.approx(expected)
    vector = DummyVecEnv([lambda: Monitor(gym.make("Pendulum-v1"))])
    vector.seed(3)
    mean, _ = evaluate_policy(agent, vector, 1)
    assert mean == pytest.approx(expected, abs=1e-3)


def test_saved_agents_act_alike_and_learn_on(tmp_path: Path) -> None:
    data = counting([20])
    agent = agent_of(data, seed=3).learn(7)
    agent.save(tmp_path / "agent.pt")
    again = DiffusionPolicy.load(tmp_path / "agent.pt", SPACES, device="cpu", dataset=data)
    obs = torch.randn(5, 1)
    assert torch.equal(agent.act(obs), again.act(obs))
    assert torch.equal(agent.act(obs, deterministic=True), again.act(obs, deterministic=True))
    agent.learn(3), again.learn(3)
    assert torch.equal(agent._update.weights.vector, again._update.weights.vector)
    assert torch.equal(agent._average_weights.vector, again._average_weights.vector)
    with pytest.raises(ValueError, match="dataset is None; DiffusionPolicy learns from a TransitionDataset"):
        prefrl.load(tmp_path / "agent.pt", device="cpu").update()


def test_seeds_decide_everything() -> None:
    one, same, other = (agent_of(counting([20]), seed=seed).learn(5) for seed in (1, 1, 2))
    vectors = [agent._update.weights.vector for agent in (one, same, other)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def test_wrong_settings_and_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="sampling_steps is 11; it must be at most noise_steps, 10"):
        DiffusionPolicyConfig(noise_steps=10, sampling_steps=11)
    with pytest.raises(ValueError, match="played is 3; it must be at most horizon, 2"):
        DiffusionPolicyConfig(horizon=2, played=3)
    with pytest.raises(ValueError, match=r"^action_space is Discrete.*; a DenoisingPolicy takes a Box"):
        DiffusionPolicy(Spaces(LINE, gym.spaces.Discrete(3)), device="cpu")


# Runs --------------------------------------------------------------------------------------------------


def flags(tmp_path: Path) -> list[str]:
    data = collect_transitions(None, gym.make("prefrl/Pendulum-v0"), 64, epsilon=1.0, seed=0)
    save_transitions(tmp_path / "data.npz", data)
    return ["--env-id", "prefrl/Pendulum-v0", "--dataset", str(tmp_path / "data.npz"), "--hidden", "8", "8",
            "--batch-size", "16", "--noise-steps", "6", "--sampling-steps", "3", "--horizon", "2",
            "--eval-episodes", "2", "--final-episodes", "3", "--quiet"]  # fmt: skip


def test_a_run_from_a_file(tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [*flags(tmp_path), "--method", "clone", "--total-timesteps", "20", "--out", str(out)]
    assert cli.main(["train", "diffusion_policy", *given]) == 0
    result = json.loads((out / "result.json").read_text())
    assert {"final_return", "eval_returns", "steps_per_second", "seconds"} <= set(result)
    assert "train/loss" in (out / "progress.csv").read_text().splitlines()[0]
    assert type(prefrl.load(out / "agent.pt", device="cpu")) is DiffusionPolicy
    assert cli.main(["evaluate", str(out), "--episodes", "2"]) == 0


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    data = counting([20])
    whole, folder = agent_of(data, horizon=2).learn(40), new_folder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="crash"):
        learn(agent_of(data, horizon=2), 40, folder=folder, checkpoint_every=20, callback=crash_at(30))
    resumed = learn(agent_of(data, horizon=2), 40, folder=folder, checkpoint_every=20, resume=True)
    assert resumed.num_timesteps == 40
    assert_same(resumed.state_dict(), whole.state_dict())
    obs = torch.zeros(5, 1)
    assert torch.equal(resumed.act(obs), whole.act(obs))
