"""Are our MinAtar and the package's the same game to an agent?

Learners train as one stack, on the device, in our dynamics. Each one's deterministic policy is then scored
in ours, with fresh random numbers, and in the bare `minatar` package, which needs `pip install minatar`: the
same sticky actions, the same cut at 5,000 steps. If the games are the same, the scores of a learner differ
by chance only. `scores.csv` has all of them; `result.json` the interquartile means, and that of the learners'
differences, with 95 % bootstrap intervals.

The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import prefrl
from prefrl.agents.actor_critic.ppo import PPOConfig
from prefrl.cli import execute
from prefrl.envs import MINATAR_IDS
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.run.evaluate import rollout
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.actor_critic.ppo import TrainPPO
from prefrl.run.study.study import check_positive, finish_run, run_study

GAMES = {env_id.removeprefix("prefrl/MinAtar-").removesuffix("-v0"): env_id for env_id in MINATAR_IDS}

NAMES = {"SpaceInvaders": "space_invaders"}
"""What the package calls a game, where that is not our name in small letters."""


SEED = 1_000_000
"""Seeds the episodes that are scored."""


class PackageRows(gym.vector.VectorEnv[Any, Any, Any]):
    """Episodes of the package's games, one in each row, which rests when its own is over."""

    def __init__(self, game: str, num_envs: int, sticky_action_prob: float) -> None:
        from minatar import Environment

        name = NAMES.get(game, game.lower())
        self.rows = [Environment(name, sticky_action_prob=sticky_action_prob) for _ in range(num_envs)]
        self.num_envs = num_envs
        self.actions = np.array(self.rows[0].minimal_action_set())
        like = gym.make(GAMES[game])
        self.limit: int = gym.spec(GAMES[game]).max_episode_steps or 0
        self.single_observation_space = like.observation_space
        self.single_action_space = like.action_space
        assert self.actions.tolist() == list(like.unwrapped.actions)  # type: ignore[attr-defined]
        self.observation_space = batch_space(like.observation_space, num_envs)
        self.action_space = batch_space(like.action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """Start anew in every row, each with its seed."""
        assert isinstance(seed, list)
        self.steps, self.over = 0, np.zeros(self.num_envs, bool)
        for row, of_row in zip(self.rows, seed, strict=True):
            row.seed(of_row)
            row.last_action = 0
            row.reset()
        self.obs = np.stack([row.state() for row in self.rows])
        return self.obs, {}

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Go on in the rows that are not over."""
        rewards = np.zeros(self.num_envs)
        self.obs = self.obs.copy()
        for i in np.flatnonzero(~self.over):
            rewards[i], self.over[i] = self.rows[i].act(int(self.actions[actions[i]]))
            self.obs[i] = self.rows[i].state()
        self.steps += 1
        return self.obs, rewards, self.over.copy(), np.full(self.num_envs, self.steps >= self.limit), {}


@dataclass(frozen=True)
class Transfer:
    """Learners trained in our MinAtar, scored there and in the package."""

    out: Path = Path("runs/minatar_transfer")
    """Run folder: new, empty, or that of the same study, which goes on."""

    games: tuple[str, ...] = ("Breakout", "SpaceInvaders")
    """MinAtar's games."""

    num_learners: int = 16
    """Learners of a stack, with seeds from 0 on."""

    frames: int = 200_000
    """Timesteps of each."""

    num_envs: int = 16
    """Environments of each."""

    episodes: int = 400
    """Episodes of each learner in ours, and as many in the package."""

    sticky_action_prob: float = 0.1
    """Probability that the previous action is repeated."""

    agent: PPOConfig = field(
        default_factory=lambda: PPOConfig(learning_rate=1e-3, batch_size=256, n_epochs=4, ent_coef=0.01)
    )
    """Settings of the agent."""

    def __post_init__(self) -> None:
        check_positive(self, "frames", "num_envs", "episodes")
        if self.num_learners < 2:
            raise ValueError(f"num_learners is {self.num_learners}; it must be at least 2")
        for game in self.games:
            if game not in GAMES:
                raise ValueError(f"games has {game!r}; allowed are {', '.join(GAMES)}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Train and score the learners of each game."""
        result, table = {}, Table("game", "ours", "package", "package less ours")
        for game in self.games:
            found = result[game] = self._game(game, folder.path / game)
            table.add_row(game, *(_text(found[key]) for key in ("ours", "package", "difference")))
        with (folder.path / "scores.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("game", "seed", "ours", "package"))
            for game, found in result.items():
                scores = zip(found["ours"]["learners"], found["package"]["learners"], strict=True)
                rows.writerows((game, seed, *pair) for seed, pair in enumerate(scores))
        Console().print(table)
        return result

    def _game(self, game: str, path: Path) -> dict[str, Any]:
        sticky = (f"sticky_action_prob={self.sticky_action_prob}",)
        recipe = TrainPPO(
            env_id=GAMES[game], env_args=sticky, num_learners=self.num_learners, num_envs=self.num_envs,
            total_timesteps=self.frames, eval_every=self.frames, final_episodes=1, agent=self.agent,
        )  # fmt: skip
        trained = finish_run(recipe, path)
        agent = prefrl.load(path / "agent.pt", device="cpu")
        rows = self.num_learners * self.episodes
        worlds: dict[str, gym.vector.VectorEnv[Any, Any, Any]] = {
            "ours": gym.make_vec(GAMES[game], rows, sticky_action_prob=self.sticky_action_prob),
            "package": PackageRows(game, rows, self.sticky_action_prob),
        }
        # A seed of its own for every episode: chance that all learners share would not average out.
        seeds = np.random.SeedSequence(SEED).generate_state(rows).tolist()
        found, scores = {}, []
        for name, env in worlds.items():
            returns, lengths = rollout(agent, env, seed=seeds)
            scores.append(returns.reshape(self.num_learners, -1).mean(1))
            found[name] = _aggregate(scores[-1]) | {"mean_length": float(lengths.mean())}
        difference = _aggregate(scores[1] - scores[0])
        return {**found, "difference": difference, "training_seconds": trained["seconds"]}


def _aggregate(scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return the interquartile mean over learners, its 95 % bootstrap interval, and all of them."""
    interval = [float(end) for end in bootstrap_interval(scores)]
    return {"iqm": float(interquartile_mean(scores)), "interval": interval, "learners": scores.tolist()}


def _text(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['iqm']:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Transfer, description=__doc__)))
