"""How fast the foundation is: exact solvers, reward fits, environments.

Each comparison runs both sides back to back, several times; ratios are taken within a repetition, and their
median, minimum and maximum are reported. One thread.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import prefrl.envs
from prefrl.cli import execute
from prefrl.data import Preferences, split_preferences
from prefrl.envs.grids.random_grid import RandomGridDynamics
from prefrl.preferences import ask_teacher
from prefrl.preferences.reward_fit import RegretConfig, RewardFit
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.tabular import TabularMDP, value_iteration

PAIRS, POLICIES, PARTS = 1_793, 69, 100
"""Size of the published human study: comparisons, policies in the set, partitions."""


@dataclass(frozen=True)
class Bench:
    """How fast the foundation is."""

    out: Path = Path("runs/bench_foundation")
    """Run folder, new or empty."""

    repeats: int = 5
    """Repetitions of each comparison."""

    num_mdps: int = 1_000
    """Random grids of the value iteration."""

    num_envs: int = 4_096
    """Rows of the on-device environment."""

    fit_steps: int = 3_000
    """Optimiser steps of a regret fit."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "num_mdps", "num_envs", "fit_steps")

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima."""
        preferences = ask_teacher(TabularMDP.from_env(gym.make("prefrl/Delivery-v0")), PAIRS, kind="logistic")
        result = {
            "value_iteration_batched_speedup": self._value_iteration(),
            "device_over_scalar_steps": self._device(),
            "scalar_over_cartpole_seconds": self._scalar(),
            "regret_fit_seconds": self._seconds(lambda: fit([preferences], "regret", self.fit_steps)),
            "partition_sweep_seconds": self._seconds(lambda: sweep(preferences, self.fit_steps)),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        show(result)
        return result

    def _ratios(self, slow: Callable[[], float], fast: Callable[[], float]) -> dict[str, float]:
        """Return statistics of slow() / fast(), both in seconds per unit of work."""
        fast(), slow()  # warm up
        rows = [(slow(), fast()) for _ in range(self.repeats)]
        ratios = [a / b for a, b in rows]
        return {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "first_seconds": statistics.median(a for a, _ in rows),
            "second_seconds": statistics.median(b for _, b in rows),
        }

    def _seconds(self, work: Callable[[], object]) -> dict[str, float]:
        seconds = [timed(work) for _ in range(min(self.repeats, 3))]
        return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}

    def _value_iteration(self) -> dict[str, float]:
        models = [RandomGridDynamics(seed).model for seed in range(self.num_mdps)]
        singles = [TabularMDP.stack([model]) for model in models]
        batch = TabularMDP.stack(models)
        rewards = [mdp.linear_rewards(mdp.weights) for mdp in (*singles, batch)]

        def one_at_a_time() -> None:
            for mdp, reward in zip(singles, rewards, strict=False):
                value_iteration(mdp, reward, 0.999)

        return self._ratios(
            lambda: timed(one_at_a_time), lambda: timed(lambda: value_iteration(batch, rewards[-1], 0.999))
        )

    def _device(self) -> dict[str, float]:
        env = prefrl.envs.make_device("prefrl/Delivery-v0", self.num_envs, seed=0)
        env.reset(seed=0)
        actions = torch.randint(4, (64, self.num_envs))

        def device() -> None:
            for i in range(512):
                env.step(actions[i % 64])

        return self._ratios(
            lambda: seconds_per_step("prefrl/Delivery-v0"), lambda: timed(device) / (512 * self.num_envs)
        )

    def _scalar(self) -> dict[str, float]:
        return self._ratios(
            lambda: seconds_per_step("prefrl/Delivery-v0"), lambda: seconds_per_step("CartPole-v1")
        )

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def seconds_per_step(env_id: str, steps: int = 20_000) -> float:
    """Return the time of one step of ``gym.make(env_id)`` under random actions, resets included."""
    env = gym.make(env_id)
    actions = [int(a) for a in np.random.default_rng(0).integers(env.action_space.n, size=steps)]  # type: ignore[attr-defined]
    env.reset(seed=0)

    def run() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return timed(run) / steps


def fit(data: list[Preferences], model: str, steps: int) -> RewardFit:
    """Fit rewards on the delivery board, policy set included."""
    config = RegretConfig(preference_model=model, max_policies=POLICIES)  # type: ignore[arg-type]
    reward_fit = RewardFit(TabularMDP.from_env(gym.make("prefrl/Delivery-v0")), data, config)
    reward_fit.step(steps)
    return reward_fit


def sweep(preferences: Preferences, steps: int) -> None:
    """Learn rewards from each of 100 partitions by both models, plan in them, and evaluate the policies."""
    for model in ("partial-return", "regret"):
        fit(split_preferences(preferences, PARTS), model, steps).scaled_returns()


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("what", "median", "min", "max")
    for name, numbers in result.items():
        if isinstance(numbers, dict):
            table.add_row(name, *(f"{numbers[key]:.3g}" for key in ("median", "min", "max")))
        else:
            table.add_row(name, f"{numbers:.0f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
