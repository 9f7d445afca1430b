"""How long a gradient step on pictures of 84 x 84 x 4 takes, ours and that of Stable-Baselines3's CnnPolicy.

Both have the network of Mnih et al. (2015), Huber's loss, one target network and the same batches. They are
measured in turn in one process, on one thread, by its CPU time; ratios are taken within a repetition, and
their median, minimum and maximum are reported. Denormal numbers are flushed to zero for both sides.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table

from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.cli import execute
from prefrl.data import TransitionDataset
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread

ACTIONS = 6


class Noise(gym.Env[Any, Any]):
    """Pictures of noise; an episode is one step."""

    def __init__(self, size: int) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 4), np.uint8)
        self.action_space = gym.spaces.Discrete(ACTIONS)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return a picture."""
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, self.observation_space.shape, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return a picture; the reward is the action."""
        return self.reset()[0], float(action), True, False, {}


@dataclass(frozen=True)
class Bench:
    """How long a gradient step on pictures takes."""

    out: Path = Path("runs/bench_pictures")
    """Run folder, new or empty."""

    repeats: int = 9
    """Repetitions of the comparison."""

    steps: int = 50
    """Gradient steps of one repetition, of either side."""

    size: int = 84
    """Height and width of a picture of four channels, at least 36."""

    batch_size: int = 32
    """Pictures of a gradient step."""

    transitions: int = 500
    """Transitions to draw from."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "steps", "batch_size", "transitions")
        if self.size < 36:
            raise ValueError(f"size is {self.size}; it must be at least 36")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima of both sides' milliseconds and of their ratio."""
        torch.set_flush_denormal(True)
        theirs, ours = self._theirs(), self._ours()
        theirs(), ours()  # warm up
        rows = [(theirs(), ours()) for _ in range(self.repeats)]
        result = {
            "steps_over_sb3": spread([slow / fast for slow, fast in rows]),
            "sb3_milliseconds": spread([1e3 * slow for slow, _ in rows]),
            "milliseconds": spread([1e3 * fast for _, fast in rows]),
        }
        show(result)
        return result

    def _theirs(self) -> Callable[[], float]:
        """Return a function that measures the seconds of a gradient step of SB3."""
        model = sb3.DQN("CnnPolicy", Noise(self.size), batch_size=self.batch_size, device="cpu", seed=0,
                        buffer_size=self.transitions, learning_starts=self.transitions)  # fmt: skip
        model.learn(self.transitions)
        return lambda: cpu_seconds(lambda: model.train(self.steps, self.batch_size)) / self.steps

    def _ours(self) -> Callable[[], float]:
        """Return a function that measures those of prefrl."""
        env, shape = Noise(self.size), (self.transitions, self.size, self.size, 4)
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8)
        over = torch.ones(self.transitions, dtype=torch.bool)
        actions = torch.randint(ACTIONS, (self.transitions,))
        dataset = TransitionDataset.from_transitions(
            pictures, actions, actions.float(), pictures.flip(0), over, ~over,
            observation_space=env.observation_space, action_space=env.action_space,
        )  # fmt: skip
        config = DQNConfig(loss="huber", double=False, batch_size=self.batch_size)
        agent = DQN(env, config, dataset=dataset, device="cpu", seed=0)
        return lambda: cpu_seconds(lambda: [agent.update() for _ in range(self.steps)]) / self.steps


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return how much of the processor's time a call takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("what", "median", "min", "max")
    for name, numbers in result.items():
        table.add_row(name, *(f"{numbers[key]:.3g}" for key in ("median", "min", "max")))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
