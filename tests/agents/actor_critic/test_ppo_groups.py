"""PPO with advantages of groups: a slow twin, whole runs, continuation, refusals."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from resuming import assert_same, crash_at, new_folder
from torch import Tensor

import prefrl.envs
from prefrl import PPO, PPOConfig, load
from prefrl.agents.actor_critic.grouped.episodes import episode_advantages
from prefrl.agents.base import LearningFailedError, Spaces
from prefrl.cli import main
from prefrl.envs import GroupedStarts
from prefrl.functional.actor_critic.grouped import grouped_advantages
from prefrl.run.evaluate import evaluate_rows
from prefrl.run.logger import read_progress
from prefrl.run.loop import Loop

GROUPS: dict[str, Any] = {"advantage": "grpo", "group_size": 4, "n_steps": 64, "normalize_rewards": False}


def made(rows: int = 8, size: int = 4, **settings: Any) -> GroupedStarts:
    env = prefrl.envs.make_device("prefrl/CartPole-v0", rows, autoreset_mode="Disabled", **settings)
    return GroupedStarts(env, size)


def steps_of(lengths: list[list[list[int]]], length: int, rng: Any) -> dict[str, Tensor]:
    """A rollout [length, rows] of groups whose episodes have lengths [group][episode][row]; -1: goes on."""
    rows = sum(len(group[0]) for group in lengths)
    found = {
        "rewards": torch.as_tensor(rng.integers(0, 3, size=(length, rows)).astype(np.float32)),
        "mask": torch.zeros(length, rows, dtype=torch.bool),
        "terminations": torch.zeros(length, rows, dtype=torch.bool),
        "truncations": torch.zeros(length, rows, dtype=torch.bool),
        "ages": torch.zeros(length, rows, dtype=torch.int64),
    }
    first = 0
    for group in lengths:
        start, width = 0, len(group[0])
        for episode in group:
            for row, steps in enumerate(episode):
                stop = min(length, length if steps < 0 else start + steps)
                found["mask"][start:stop, first + row] = True
                found["ages"][start:stop, first + row] = torch.arange(stop - start)
                if steps >= 0 and start + steps <= length:
                    ends = "terminations" if row % 2 else "truncations"
                    found[ends][start + steps - 1 :, first + row] = True
            start += max(episode) + 1
            ended = ("terminations", "truncations")
            for name in ended:  # the step of the restart
                found[name][start - 1 :, first : first + width] = False
            if start >= length:
                break
        first += width
    return found


def slow(steps: dict[str, Tensor], kind: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and weights by walking along every row."""
    length, rows = steps["mask"].shape
    episodes: dict[tuple[int, int], dict[int, list[int]]] = {}
    for row in range(rows):
        start = None
        for t in range(length):
            if steps["mask"][t, row]:
                start = t if steps["ages"][t, row] == 0 else start
                if start is not None:
                    episodes.setdefault((row // size, start), {}).setdefault(row, []).append(t)
    whole = {
        key: rows_of
        for key, rows_of in episodes.items()
        if len(rows_of) == size
        and all((steps["terminations"] | steps["truncations"])[ts[-1], row] for row, ts in rows_of.items())
    }
    returns = torch.stack([
        torch.stack([steps["rewards"][ts, row].sum() for row, ts in sorted(rows_of.items())])
        for rows_of in whole.values()
    ])  # fmt: skip
    returns = (returns >= 10.0).float()
    found, counts = np.zeros((length, rows)), np.zeros((length, rows), dtype=bool)
    for rows_of, values in zip(whole.values(), grouped_advantages(returns, kind), strict=True):
        for (row, ts), value in zip(sorted(rows_of.items()), values, strict=True):
            found[ts, row], counts[ts, row] = value, True
    return found, counts


@pytest.mark.parametrize("kind", ["centred", "grpo", "bnpo"])
def test_advantages_are_those_of_whole_groups(kind: Any) -> None:
    # The last episode of each group is cut by the rollout's end.
    lengths = [
        [[9, 12, 7], [11, 4, 13], [6, 20, -1]],
        [[15, 14, 3], [9, 8, 10], [12, 9, 11], [1, -1, 1]],
    ]
    steps = steps_of(lengths, 45, np.random.default_rng(0))
    # And the first of the second group began before it.
    steps["ages"][:15, 3:] += 5 * steps["mask"][:15, 3:]
    found = episode_advantages(steps, kind, 3, 1, 10.0)
    expected, counts = slow(steps, kind, 3)
    assert (found["mask"].numpy() == counts).all()
    assert counts.sum() == 9 + 12 + 7 + 11 + 4 + 13 + 27 + 32
    np.testing.assert_allclose(found["advantages"].numpy() * counts, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.3


def test_exponents_are_of_each_learner() -> None:
    rng = np.random.default_rng(1)
    lengths = [[[int(n) for n in rng.integers(3, 12, size=4)] for _ in range(4)] for _ in range(6)]
    steps = steps_of(lengths, 60, rng)
    both = episode_advantages(steps, "bnpo", 4, 2, 10.0)
    alone = [
        episode_advantages({name: part[:, half] for name, part in steps.items()}, "bnpo", 4, 1, 10.0)
        for half in (slice(0, 12), slice(12, 24))
    ]
    for name in ("advantages", "mask"):
        assert torch.equal(both[name], torch.cat([part[name] for part in alone], 1))
    together = episode_advantages(steps, "bnpo", 4, 1, 10.0)
    assert not torch.allclose(together["advantages"], both["advantages"])


@pytest.mark.parametrize(("kind", "success"), [("centred", None), ("grpo", None), ("bnpo", 30.0)])
def test_it_learns(kind: Any, success: float | None) -> None:
    config = PPOConfig(**{**GROUPS, "advantage": kind, "success_return": success, "n_steps": 128,
                          "batch_size": 256, "learning_rate": 3e-3})  # fmt: skip
    env = made(max_episode_steps=60)
    agent = PPO(env, config, device="cpu", seed=0)
    value = [p.clone() for p in agent.network.value.parameters()]  # type: ignore[union-attr]
    agent.learn(8_000)
    rows = gym.make_vec("prefrl/CartPole-v0", 50, max_episode_steps=60)
    assert evaluate_rows(agent, rows, seed=0)["mean_return"] > 40.0  # at first 9
    for before, after in zip(value, agent.network.value.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(before, after)  # nothing is asked of it


def test_file_and_learners(tmp_path: Path) -> None:
    agent = PPO(made(16, num_streams=2), PPOConfig(**GROUPS), num_learners=2, device="cpu").learn(1_000)
    agent.learner(1).save(tmp_path / "agent.pt")
    again: Any = load(tmp_path / "agent.pt", device="cpu")
    obs = torch.randn(5, 4)
    expected = agent.learner(1).act(obs, deterministic=True)
    assert torch.equal(again.act(obs, deterministic=True), expected)
    assert again.config.group_size == 4


FLAGS = ["--env-id", "prefrl/CartPole-v0", "--num-envs", "8", "--advantage", "grpo",
         "--group-size", "4", "--n-steps", "100", "--no-normalize-rewards"]  # fmt: skip


@pytest.mark.parametrize("stop", [150, 900])  # within the first rollout, and later
def test_resumed_equals_uninterrupted(tmp_path: Path, stop: int) -> None:
    def new() -> PPO:
        return PPO(made(), PPOConfig(**{**GROUPS, "n_steps": 50}), device="cpu", seed=0)

    whole, run = new(), {"log_every": 300, "checkpoint_every": 96}
    Loop(whole, 1_200, folder=new_folder(tmp_path / "whole"), **run).run()  # type: ignore[arg-type]
    folder = new_folder(tmp_path / "cut")
    with pytest.raises(RuntimeError, match="crash"):
        Loop(new(), 1_200, callback=crash_at(stop), folder=folder, **run).run()  # type: ignore[arg-type]
    resumed = new()
    Loop(resumed, 1_200, folder=folder, resume=True, **run).run()  # type: ignore[arg-type]
    assert_same(resumed.state_dict(), whole.state_dict())


def test_run(tmp_path: Path) -> None:
    flags = [*FLAGS, "--total-timesteps", "1600", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["train", "ppo", *flags]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["final_return"] > 8.0
    rows = read_progress(tmp_path / "run" / "progress.csv")
    counted = [float(row["train/counted"]) for row in rows if row["train/counted"]]
    assert all(0.0 < share < 1.0 for share in counted)
    assert len(counted) == 2
    assert not any("train/value_loss" in row for row in rows)
    # Rows that wait are no episodes of length 0.
    assert min(float(row["rollout/ep_len_mean"]) for row in rows if row["rollout/ep_len_mean"]) > 8.0


def test_other_environments(tmp_path: Path) -> None:
    flags = [*FLAGS, "--total-timesteps", "1600", "--quiet", "--out", str(tmp_path / "run")]
    assert main(["train", "ppo", *flags, "--env-id", "CartPole-v1"]) == 0


def test_short_rollouts_are_told_of() -> None:
    env = made(max_episode_steps=100)
    agent = PPO(env, PPOConfig(**{**GROUPS, "n_steps": 8}), device="cpu", seed=0)
    with pytest.raises(
        LearningFailedError, match="no group of episodes was over within a rollout of 8 steps"
    ):
        agent.learn(640)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": None}, "group_size is None; it must be given where advantage is 'grpo'"),
        ({"group_size": 1}, "group_size is 1; it must be at least 2"),
        ({"n_steps": None}, "n_steps is None; it must be given"),
        ({"advantage": "bnpo"}, "success_return is None; it must be given where advantage is 'bnpo'"),
        ({"advantage": "gae"}, "group_size is 4; it must be None where advantage is 'gae'"),
        ({"normalize_rewards": True}, "normalize_rewards is True; it must be False"),
    ],
)
def test_settings_that_do_not_go_together(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**{**GROUPS, **settings})


def test_environments_without_groups() -> None:
    plain = gym.make_vec("prefrl/CartPole-v0", 8)
    with pytest.raises(
        ValueError, match=r"env starts rows in groups of None; wrap it: GroupedStarts\(env, 4"
    ):
        PPO(plain, PPOConfig(**GROUPS), device="cpu")
    with pytest.raises(ValueError, match="env starts rows in groups of 2"):
        PPO(made(8, 2), PPOConfig(**GROUPS), device="cpu")
    with pytest.raises(ValueError, match="group_size is 4; it must divide the 6 rows of a learner"):
        PPO(made(12, num_streams=2), PPOConfig(**GROUPS), num_learners=2, device="cpu")
    PPO(Spaces(plain.single_observation_space, plain.single_action_space), PPOConfig(**GROUPS), device="cpu")
