"""How fast deep Q-learning is beside Stable-Baselines3's, and whether both learn the same.

Each comparison runs both sides back to back in one process, several times; ratios are taken within a
repetition, and their median, minimum and maximum are reported. Denormal numbers are flushed to zero for both
sides, which helps both.

"device" steps 256 environments together and learns from as many samples per timestep as SB3 does, in one
gradient step on 256 batches at once. "one_batch" takes one gradient step on a single batch per step of the
256 environments instead: as often as SB3 per step of its environment, but 256 times less per timestep.
"device_bf16" is "device" with products in bfloat16, where the processor has it. "products" are the matrix
products of such a gradient step, all of them, and nothing else.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.evaluation import evaluate_policy

import prefrl.envs
from prefrl.agents.base import Spaces
from prefrl.agents.value_based.dqn import DQN, DQNConfig, Loss
from prefrl.cli import execute
from prefrl.data import TransitionDataset
from prefrl.data.devices import Precision, has_fast_bf16
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study

BATCH = 64
"""Samples of a batch, of both sides."""

WARM_UP = 500
"""Timesteps before the clock starts: learning is under way by then."""


@dataclass(frozen=True)
class Bench:
    """How fast deep Q-learning is, and whether it learns what SB3's learns."""

    out: Path = Path("runs/bench_dqn")
    """Run folder, new or empty."""

    repeats: int = 9
    """Repetitions of each comparison."""

    timesteps: int = 1_000
    """Timesteps of one repetition, of either side."""

    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads to compare at."""

    hidden: tuple[int, ...] = (256, 256)
    """Layers of both networks, where speed is measured."""

    num_envs: int = 256
    """On-device environments: one gradient step on as many batches at once, as many samples per timestep."""

    env_rows: int = 1_024
    """Rows of the vector environments that are compared without an agent."""

    curve_timesteps: int = 50_000
    """Timesteps of the runs that compare what is learned (networks of 64 x 64, a gradient step every 4)."""

    curve_seeds: int = 5
    """Seeds of those runs."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "timesteps", "threads", "hidden", "num_envs", "env_rows",
                       "curve_timesteps", "curve_seeds")  # fmt: skip

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima of ratios, and what both sides learned."""
        torch.set_flush_denormal(True)
        result: dict[str, Any] = {}
        for threads in self.threads:
            torch.set_num_threads(threads)
            key = f"{threads}_threads"
            theirs = self._theirs()
            for name, compiled in (("steps", False), ("compiled_steps", True)):
                result[f"{name}_over_sb3_{key}"] = self._ratios(theirs, self._ours(compiled=compiled))
                device = self._ours(self.num_envs, batches=self.num_envs, compiled=compiled)
                result[f"device_{name}_over_sb3_{key}"] = self._ratios(theirs, device)
            if has_fast_bf16(torch.device("cpu")):
                low = self._ours(self.num_envs, batches=self.num_envs, precision="bf16")
                result[f"device_bf16_steps_over_sb3_{key}"] = self._ratios(theirs, low)
            one_batch = self._ours(self.num_envs, batches=1)
            result[f"device_one_batch_steps_over_sb3_{key}"] = self._ratios(theirs, one_batch)
            for name, batches in (("", 1), ("device_", self.num_envs)):
                result[f"{name}products_over_sb3_{key}"] = self._ratios(theirs, self._products(batches))
        torch.set_num_threads(1)
        networks: tuple[Literal["mlp", "conv"], ...] = ("mlp", "conv")
        for network in networks:
            for name, compiled in (("", False), ("_compiled", True)):
                result[f"hl_gauss_over_huber_{network}_update_seconds{name}"] = self._heads(network, compiled)
        result.update(self._environments())
        result["curves"] = self._curves()
        show(result)
        return result

    def _ratios(self, slow: Callable[[], float], fast: Callable[[], float]) -> dict[str, float]:
        """Return statistics of slow() / fast(), both in seconds per unit of work."""
        slow(), fast()  # warm up
        rows = [(slow(), fast()) for _ in range(self.repeats)]
        ratios = [a / b for a, b in rows]
        return {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "first_per_second": 1.0 / statistics.median(a for a, _ in rows),
            "second_per_second": 1.0 / statistics.median(b for _, b in rows),
        }

    def _theirs(self) -> Callable[[], float]:
        """Return a function that measures SB3's seconds per timestep: one gradient step per timestep."""
        model = sb3.DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": list(self.hidden)},
                        learning_rate=1e-3, batch_size=BATCH, train_freq=1, gradient_steps=1,
                        buffer_size=50_000, device="cpu",
                        learning_starts=WARM_UP // 2, exploration_initial_eps=0.05, seed=0)  # fmt: skip
        model.learn(WARM_UP)

        def measure() -> float:
            return timed(lambda: model.learn(self.timesteps, reset_num_timesteps=False)) / self.timesteps

        return measure

    def _ours(
        self, rows: int = 1, *, batches: int = 1, compiled: bool = False, precision: Precision = "float32"
    ) -> Callable[[], float]:
        """Return a function that measures prefrl's, with a gradient step for every step of its environments.

        Args:
            rows: environments; from 2 on they are on the device.
            batches: how many batches of SB3's size a gradient step is taken on.
            compiled: compile it.
            precision: of its products.
        """
        env: Any = gym.make("CartPole-v1")
        if rows > 1:
            env = prefrl.envs.make_device("prefrl/CartPole-v0", rows)
        config = DQNConfig(
            loss="huber",
            double=False,
            learning_rate=1e-3,
            hidden=self.hidden,
            batch_size=BATCH * batches,
            train_freq=rows,
            buffer_size=50_000,
            learning_starts=WARM_UP // 2,
            target_update_interval=10_000,
            epsilon_start=0.05,
            compile=compiled,
            precision=precision,
        )
        agent = DQN(env, config, device="cpu")
        agent.learn(max(WARM_UP, 80 * rows))  # what is compiled is so by then
        timesteps = -(-self.timesteps // rows) * rows

        def measure() -> float:
            return timed(lambda: agent.learn(timesteps)) / timesteps

        return measure

    def _products(self, batches: int) -> Callable[[], float]:
        """Return a function that measures the matrix products of a gradient step, in seconds per batch."""
        sizes = [4, *self.hidden, 2]
        layers = [
            (torch.randn(BATCH * batches, a), torch.randn(a, b), torch.randn(BATCH * batches, b))
            for a, b in pairwise(sizes)
        ]

        def work() -> None:
            for number, (inputs, weights, outputs) in enumerate(layers):
                inputs @ weights, inputs @ weights  # of the network and of its target
                inputs.T @ outputs
                if number:  # nobody asks for the gradient of the observations
                    outputs @ weights.T

        count = max(1, self.timesteps // batches)
        return lambda: timed(lambda: [work() for _ in range(count)]) / (count * batches)

    def _heads(self, network: Literal["mlp", "conv"], compiled: bool) -> dict[str, float]:
        """Return seconds of a gradient step with HL-Gauss' 51 bins over those with one number per action."""
        shape, actions = ((4,), 2) if network == "mlp" else ((10, 10, 4), 6)  # CartPole's, MinAtar's
        spaces = Spaces(gym.spaces.Box(-1.0, 1.0, shape), gym.spaces.Discrete(actions))
        states, never = torch.rand(5_001, *shape), torch.zeros(5_000, dtype=torch.bool)
        dataset = TransitionDataset.from_transitions(
            states[:-1], torch.randint(actions, never.shape), torch.rand(never.shape), states[1:],
            never, never, observation_space=spaces.single_observation_space,
            action_space=spaces.single_action_space,
        )  # fmt: skip

        def seconds(loss: Loss) -> Callable[[], float]:
            config = DQNConfig(loss=loss, network=network, hidden=self.hidden, bins=51, double=False,
                               max_clamped_fraction=1.0, compile=compiled)  # fmt: skip
            agent = DQN(spaces, config, dataset=dataset, device="cpu")
            return lambda: timed(lambda: [agent.update() for _ in range(500)]) / 500

        return self._ratios(seconds("hl_gauss"), seconds("huber"))

    def _environments(self) -> dict[str, dict[str, float]]:
        rows = self.env_rows
        actions = np.random.default_rng(0).integers(2, size=(64, rows))
        theirs = gym.make_vec("CartPole-v1", rows, vectorization_mode="vector_entry_point")
        given = torch.as_tensor(actions)
        return {
            f"device_over_gymnasium_env_steps{name}": self._ratios(
                stepping(theirs, actions),
                stepping(prefrl.envs.make_device("prefrl/CartPole-v0", rows, compile=compiled), given),
            )
            for name, compiled in (("", False), ("_compiled", True))
        }

    def _curves(self) -> dict[str, Any]:
        """Return the final returns of both libraries' agents at equal settings, and their intervals."""
        found: dict[str, list[float]] = {"sb3": [], "prefrl": []}
        for seed in range(self.curve_seeds):
            shared: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 64, "train_freq": 4,
                                      "buffer_size": 50_000, "learning_starts": 1_000,
                                      "target_update_interval": 500}  # fmt: skip
            theirs = sb3.DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [64, 64]},
                             exploration_fraction=0.2, seed=seed, device="cpu", **shared)  # fmt: skip
            config = DQNConfig(loss="huber", double=False, hidden=(64, 64),
                               epsilon_timesteps=self.curve_timesteps // 5, **shared)  # fmt: skip
            ours = DQN(gym.make("CartPole-v1"), config, device="cpu", seed=seed)
            for name, agent in (("sb3", theirs), ("prefrl", ours)):
                agent.learn(self.curve_timesteps)
                env = gym.make("CartPole-v1")
                env.reset(seed=1_000 + seed)
                mean, _ = evaluate_policy(agent, env, n_eval_episodes=20, warn=False)  # type: ignore[arg-type]
                found[name].append(float(mean))  # type: ignore[arg-type]
        intervals = {
            name: [float(end) for end in bootstrap_interval(values)] for name, values in found.items()
        }
        (low, high), (other_low, other_high) = intervals.values()
        return {
            "final_returns": found,
            "interquartile_mean": {name: float(interquartile_mean(values)) for name, values in found.items()},
            "interval": intervals,
            "intervals_overlap": low <= other_high and other_low <= high,
        }


def stepping(env: VectorEnv[Any, Any, Any], actions: Any) -> Callable[[], float]:
    """Return a function that measures the seconds per step and row of a vector environment."""
    env.reset(seed=0)
    steps = 1_000

    def work() -> None:
        for i in range(steps):
            env.step(actions[i % len(actions)])

    return lambda: timed(work) / (steps * env.num_envs)


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    table = Table("ratio", "median", "min", "max", "per second, first", "second")
    for name, numbers in result.items():
        if "median" in numbers:
            rates = (f"{numbers[key]:,.0f}" for key in ("first_per_second", "second_per_second"))
            table.add_row(name, *(f"{numbers[key]:.3g}" for key in ("median", "min", "max")), *rates)
    Console().print(table, result["curves"])


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
