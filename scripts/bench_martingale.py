"""How fast policy evaluation and control in continuous time are, beside a loop over a scalar environment.

Each comparison runs its sides back to back in one process, several times, on one thread; medians, minima and
maxima are reported, ratios within a repetition.

"actor_critic" is prefrl/LQErgodic-v0 with 256 chains, the whole training loop, environment included.
"simulation" draws 4,096 paths of prefrl/OrnsteinUhlenbeck-v0, 25 steps at a time, which fit in a processor's
memory, and sums CTD(0)'s direction over them.
"evaluation" is the same online, by the agent in the training loop. "long_run" is the paper's run of 1e8 steps
(Jia and Zhou 2022, JMLR 23(275)), measured over 1e7 with 4,096 chains in the place of one.
"scalar_loop" is actor-critic as a bare NumPy loop over `gym.make(...).step`, one chain, as such experiments
are usually written.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import prefrl.envs
from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic
from prefrl.agents.continuous_time.evaluation import MartingaleEvaluation
from prefrl.agents.continuous_time.task import DTYPE
from prefrl.cli import execute
from prefrl.functional.continuous_time.martingale import increments, orthogonality
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import seconds, spread

LQ, OU = "prefrl/LQErgodic-v0", "prefrl/OrnsteinUhlenbeck-v0"
CHUNK = 25
"""Steps of simulation between two sums."""

LONG_RUN = 100_000_000
"""Steps of the paper's run."""


@dataclass(frozen=True)
class Bench:
    """How fast evaluation and control in continuous time are."""

    out: Path = Path("runs/bench_martingale")
    """Run folder, new or empty."""

    repeats: int = 3
    """Repetitions of each measurement."""

    chains: int = 256
    """Chains of actor_critic."""

    steps: int = 60_000
    """Steps of each of them."""

    paths: int = 4_096
    """Paths of simulation, evaluation and long_run."""

    path_steps: int = 10_000_000
    """Steps of all of those paths together."""

    scalar_steps: int = 20_000
    """Steps of scalar_loop."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "chains", "steps", "paths", "path_steps", "scalar_steps")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima."""
        actor_critic, simulation, evaluation, long_run, scalar, ratios = ([] for _ in range(6))
        for repeat in range(self.repeats):
            taken = self._actor_critic(self.chains, self.steps, repeat)
            actor_critic.append(taken)
            scalar.append(self.scalar_steps / seconds(partial(scalar_loop, self.scalar_steps, repeat)))
            ratios.append(self.chains * self.steps / taken / scalar[-1])
            simulation.append(self.path_steps / seconds(partial(self._simulate, repeat)))
            evaluation.append(self.path_steps / self._evaluation(repeat))
            steps = max(1, self.path_steps // self.paths)
            rate = self.paths * steps / self._actor_critic(self.paths, steps, repeat)
            long_run.append(LONG_RUN / rate)
        result = {
            "actor_critic_seconds": spread(actor_critic),
            "actor_critic_steps": self.chains * self.steps,
            "scalar_loop_steps_per_second": spread(scalar),
            "actor_critic_over_scalar_loop": spread(ratios),
            "simulation_path_steps_per_second": spread(simulation),
            "evaluation_path_steps_per_second": spread(evaluation),
            "long_run_seconds": spread(long_run),
            "long_run_steps": LONG_RUN,
        }
        show(result)
        return result

    def _actor_critic(self, chains: int, steps: int, seed: int) -> float:
        """Return the seconds of actor-critic."""
        env = prefrl.envs.make_device(LQ, chains, float_dtype=DTYPE, max_episode_steps=None)
        agent = ContinuousActorCritic(env, device="cpu", seed=seed)
        return seconds(lambda: agent.learn(chains * steps))

    def _simulate(self, seed: int) -> None:
        """Draw paths, CHUNK steps at a time, and sum CTD(0)'s direction at theta = 0 over them."""
        face: Any = gym.make(OU).unwrapped
        generator = torch.Generator().manual_seed(seed)
        start = None
        for _ in range(max(1, self.path_steps // self.paths // CHUNK)):
            paths = face.simulate(None, self.paths, CHUNK, x0=start, generator=generator)
            start, x = paths.x[-1], paths.x[..., 0]
            features = torch.stack([torch.ones_like(x), x, x * x], -1)
            theta = torch.zeros(3, dtype=DTYPE)
            deltas = increments(features @ theta, paths.reward_rates, face.diffusion.dt, face.diffusion.beta)
            orthogonality(features[:-1], deltas)

    def _evaluation(self, seed: int) -> float:
        """Return the seconds of CTD(0) by the agent."""
        env = prefrl.envs.make_device(OU, self.paths, float_dtype=DTYPE, max_episode_steps=None)
        agent = MartingaleEvaluation(env, device="cpu", seed=seed)
        return seconds(lambda: agent.learn(self.path_steps))


def scalar_loop(steps: int, seed: int) -> None:
    """Learn as :class:`ContinuousActorCritic` does, one chain, one Gymnasium step after the other."""
    env = gym.make(LQ, max_episode_steps=None)
    rng = np.random.default_rng(seed)
    dt, temperature = env.unwrapped.diffusion.dt, 0.1  # type: ignore[attr-defined]
    phi, theta, V = np.zeros(3), np.zeros(2), 0.0
    obs, _ = env.reset(seed=seed)
    x = float(obs[0])
    for k in range(steps):
        alpha = 0.005 / max(1.0, math.log(max(k * dt, 1e-300)))
        deviation = math.exp(0.5 * phi[2])
        noise = rng.standard_normal()
        action = phi[0] * x + phi[1] + deviation * noise
        obs, reward, *_ = env.step(np.array([action], dtype=np.float32))
        y = float(obs[0])
        log_prob = -0.5 * (noise**2 + phi[2] + math.log(2.0 * math.pi))
        gradient = np.array([x, 0.5 * x * x])
        delta = (
            theta @ (np.array([y, 0.5 * y * y]) - gradient)
            + float(reward)
            - (temperature * log_prob + V) * dt
        )
        score = np.array([noise / deviation * x, noise / deviation, 0.5 * (noise**2 - 1.0)])
        theta = theta + alpha * delta * gradient
        phi = phi + alpha * delta * score
        V += alpha * delta
        x = y


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("what", "median", "min", "max", title="continuous time, one thread")
    labels = {
        "actor_critic_seconds": f"actor-critic, {result['actor_critic_steps']:,} steps: seconds",
        "scalar_loop_steps_per_second": "bare loop over a scalar environment: steps per second",
        "actor_critic_over_scalar_loop": "actor-critic / bare loop, steps per second",
        "simulation_path_steps_per_second": "paths and CTD(0): path-steps per second",
        "evaluation_path_steps_per_second": "CTD(0) by the agent: path-steps per second",
        "long_run_seconds": f"actor-critic, {result['long_run_steps']:,} steps: seconds, extrapolated",
    }
    for key, label in labels.items():
        table.add_row(label, *(f"{result[key][part]:,.4g}" for part in ("median", "min", "max")))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
