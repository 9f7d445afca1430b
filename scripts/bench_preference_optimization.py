"""How fast preference optimisation is beside the same loss written in the ordinary way in PyTorch.

The ordinary way is autograd, ``torch.optim.Adam`` and a loop over batches, with the reference's likelihoods
worked out once, as here. Both sides learn by CPL and by DPO from the same comparisons of segments of random
numbers, one thread, in turns; so many seeds as one batch are timed beside one seed; and ours also with
products in bfloat16, which pay where the processor has them (avx512_bf16 or AMX).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from prefrl.agents.base import Spaces
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.cli import execute
from prefrl.data import Preferences, Segments
from prefrl.data.devices import Precision
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread

SPACES = Spaces(gym.spaces.Box(-9.0, 9.0, (3,)), gym.spaces.Box(-2.0, 2.0, (1,)))
"""Pendulum's sizes."""

BETA, BIAS = 0.1, 0.5


@dataclass(frozen=True)
class Bench:
    """How fast preference optimisation is."""

    out: Path = Path("runs/bench_preference_optimization")
    """Run folder, new or empty."""

    pairs: int = 1_000
    """Comparisons."""

    length: int = 50
    """Steps of a segment."""

    hidden: int = 256
    """Width of both layers."""

    batch_size: int = 32
    """Comparisons of a gradient step."""

    seeds: int = 16
    """Seeds that are trained as one batch."""

    steps: int = 31
    """Gradient steps of a turn."""

    repeats: int = 7
    """Turns."""

    def __post_init__(self) -> None:
        check_positive(self, "pairs", "length", "hidden", "batch_size", "seeds", "steps", "repeats")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return ratios of processor seconds."""
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        data, result = comparisons(self.pairs, self.length), {}
        for loss in ("cpl", "dpo"):
            sides = {
                "plain": self._plain(loss, data),
                "ours": self._ours(loss, data, 1),
                "stack": self._ours(loss, data, self.seeds),
                "bf16": self._ours(loss, data, 1, "bf16"),
                "bf16_stack": self._ours(loss, data, self.seeds, "bf16"),
            }
            rows = [{name: side() for name, side in sides.items()} for _ in range(self.repeats)]
            result[loss] = {
                "plain_over_ours": spread([row["plain"] / row["ours"] for row in rows]),
                "plain_over_bf16": spread([row["plain"] / row["bf16"] for row in rows]),
                "stack_of_bf16_over_one": spread([row["bf16_stack"] / row["ours"] for row in rows]),
                "stack_over_one": spread([row["stack"] / row["ours"] for row in rows]),
                "comparisons_per_second": spread(
                    [self.steps * self.batch_size / row["ours"] for row in rows]
                ),
            }
        show(result)
        return result

    def _ours(
        self, loss: Any, data: Preferences, learners: int, precision: Precision = "float32"
    ) -> Callable[[], float]:
        bias = BIAS if loss == "cpl" else None
        config = PreferenceOptimizationConfig(
            loss=loss, beta=BETA, bias=bias, hidden=(self.hidden, self.hidden), batch_size=self.batch_size,
            cloning_steps=1, precision=precision,
        )  # fmt: skip
        agent = PreferenceOptimization(SPACES, config, data, num_learners=learners, device="cpu")
        agent.update(), agent.update()
        return timed(lambda: [agent.update() for _ in range(self.steps)])

    def _plain(self, loss: str, data: Preferences) -> Callable[[], float]:
        width = self.hidden
        policy = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                               nn.Linear(width, 1))  # fmt: skip
        log_std = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.Adam([*policy.parameters(), log_std], lr=3e-4)
        obs = torch.stack([data.first.obs[:, :-1], data.second.obs[:, :-1]], 1)
        actions = torch.stack([data.first.actions, data.second.actions], 1) / 2.0
        labels = data.labels.to(torch.float32)

        def log_likelihood(rows: Tensor) -> Tensor:
            errors = (actions[rows] - policy(obs[rows])) * torch.exp(-log_std)
            return (-0.5 * errors.square() - log_std - 0.5 * math.log(2.0 * math.pi)).sum((2, 3))

        with torch.no_grad():
            reference = log_likelihood(torch.arange(len(labels)))

        def step() -> None:
            rows = torch.randint(len(labels), (self.batch_size,))
            scores, y = BETA * log_likelihood(rows), labels[rows]
            if loss == "dpo":
                scores = scores - BETA * reference[rows]
            bias = BIAS if loss == "cpl" else 1.0
            first, second = scores.unbind(1)
            losses = -y * F.logsigmoid(second - bias * first) - (1.0 - y) * F.logsigmoid(
                first - bias * second
            )
            optimizer.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        step()
        return timed(lambda: [step() for _ in range(self.steps)])


def comparisons(count: int, length: int) -> Preferences:
    """Return comparisons of segments of random numbers."""
    draws = torch.Generator().manual_seed(0)

    def segments() -> Segments:
        obs = torch.randn(count, length + 1, 3, generator=draws)
        actions = 4.0 * torch.rand(count, length, 1, generator=draws) - 2.0
        whole, no = torch.full((count,), length), torch.zeros(count, dtype=torch.bool)
        return Segments(obs, actions, whole, no)

    labels = torch.randint(2, (count,), generator=draws)
    return Preferences.from_labels(segments(), segments(), labels)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a function that measures the processor seconds of a call."""

    def measure() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return measure


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("loss", "what", "median", "min", "max")
    for loss, found in result.items():
        for name, numbers in found.items():
            row = (f"{numbers[key]:.3g}" for key in ("median", "min", "max"))
            table.add_row(loss, name.replace("_", " "), *row)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
