"""Agents whose right answer is known exactly: how far from it sixteen seeds of each setting end.

Parts, all by default:

- nash: duality gaps of NashLearning's last policy after 400 steps in prefrl/TokenTree-v0, beta .1, by a table
  or a network, with all pairs or 64 drawn ones
- circle: the same after 3,000 steps of rock, paper, scissors, beta .01, a reference that is not even, by a
  network: plain descent, and Adam at two rates
- brain: BRAIn's largest error of a probability of a sequence, temperature .5, in the tree and in the bandit
- rounds: the exact value of IteratedPreferenceOptimization's policy in the tree, after eight rounds of 1,024
  timesteps, 256 comparisons and 50 steps on all of them or on 64 drawn ones, by DPO and IPO, the reference
  moving or fixed

A part's numbers go to ``PART.csv`` as they come, one row per case and seed, and the same command goes on with
what is missing. Tables show the interquartile mean with its 95% bootstrap interval over seeds.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import torch
from rich.console import Console
from rich.table import Table

import prefrl.envs
from prefrl.agents import BRAIn, BRAInConfig, NashLearning, NashLearningConfig
from prefrl.agents.preferences.games.nash_learning_config import DESCENDING
from prefrl.agents.preferences.iterated_preference_optimization import (
    IteratedPreferenceOptimization,
    IteratedPreferenceOptimizationConfig,
)
from prefrl.cli import execute
from prefrl.data.files.atomic import atomic_path
from prefrl.functional.preferences.games import cycle_of_three
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.nn.likelihood_policies import TabularPolicy
from prefrl.preferences.asking import exact_groups
from prefrl.run.environments import make_training_env
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn
from prefrl.run.outcomes.policies import posterior_outcome, tabular_outcome
from prefrl.run.study.study import check_positive, run_study

assert prefrl.envs.REGISTRY

Part = Literal["nash", "brain", "rounds", "circle"]

TREE, BANDIT = "prefrl/TokenTree-v0", "prefrl/PreferenceBandit-v0"


def nash(seed: int, **settings: Any) -> float:
    """Return the duality gap of the last policy after 400 steps in the tree."""
    agent = NashLearning(gym.make(TREE), NashLearningConfig(**settings), device="cpu", seed=seed)
    return float(agent.learn(400).result()["last_iterate_gap"])


def circle(seed: int, **settings: Any) -> float:
    """Return the same of rock, paper, scissors after 3,000 steps."""
    agent = NashLearning(
        matrix=cycle_of_three(0.5, 0.5, 0.5),
        reference=torch.tensor([0.5, 0.3, 0.2]),
        config=NashLearningConfig(policy="network", beta=0.01, **settings),
        device="cpu",
        seed=seed,
    )
    return float(agent.learn(3_000).result()["last_iterate_gap"])


def brain(seed: int, env_id: str, steps: int, uneven: bool = True, **settings: Any) -> float:
    """Return the largest error of a probability; the seed is that of rewards, reference and agent."""
    env = gym.make(env_id, layout_seed=seed)
    reference = None
    if uneven:
        reference = TabularPolicy(1, env.observation_space, env.action_space).double()
        reference.table.data.normal_(generator=torch.Generator().manual_seed(seed))
    config = BRAInConfig(temperature=0.5, cloning_steps=0, **settings)
    agent = BRAIn(env, config, exact_groups(env), reference=reference, device="cpu", seed=seed)
    return float(posterior_outcome(agent.learn(steps), env)["policy_error"])


def rounds(seed: int, **settings: Any) -> float:
    """Return the exact value of the policy after eight rounds."""
    config = IteratedPreferenceOptimizationConfig(
        beta=0.5, learning_rate=0.05, round_timesteps=1_024, round_pairs=256, round_steps=50,
        segment_length=4, same_start=True, schedule_timesteps=8_192, **settings,
    )  # fmt: skip
    env = make_training_env(TREE, (), 16, "cpu")
    agent = IteratedPreferenceOptimization(env, config, device="cpu", seed=seed)
    learn(agent, 8_192)
    return float(tabular_outcome(agent, gym.make(TREE), 0.0, exact=False)["value"])


def cases() -> dict[Part, dict[str, Callable[[int], float]]]:
    """Return what is measured with a seed, by part and by name."""
    all_pairs: dict[str, Any] = {"proposal": "even", "num_outputs": None, "learning_rate": 0.03}
    plain: dict[str, Any] = {"optimizer": "gradient", "learning_rate": 4.15e-4}
    drawn: dict[str, Any] = {"num_outputs": 8, "learning_rate": 0.01}
    return {
        "nash": {
            f"{policy}, {pairs or 'all'}, {solver}": partial(nash, policy=policy, pairs=pairs, solver=solver)
            for policy, pairs in (("network", None), ("table", 64), ("network", 64))
            for solver in DESCENDING
        },
        "circle": {
            **{f"plain descent, {solver}": partial(circle, solver=solver, **plain) for solver in DESCENDING},
            **{
                f"Adam {rate:g}, {solver}": partial(circle, solver=solver, learning_rate=rate)
                for rate in (3e-3, 3e-4)
                for solver in ("egpo", "omd")
            },
        },
        "brain": {
            f"{name}, {what}": partial(brain, env_id=env_id, **given)
            for name, env_id in (("bandit", BANDIT), ("tree", TREE))
            for what, given in (
                ("all outputs", {"steps": 2_000, "uneven": False, **all_pairs}),
                *((f"eight, {q}", {"steps": 3_000, "proposal": q, **drawn})
                  for q in ("policy", "reference", "even")),
            )
        },
        "rounds": {
            f"{loss}, {'fixed' if fixed else 'moving'} reference, {size or 'all'} at once": partial(
                rounds, loss=loss, fixed_reference=fixed, batch_size=size
            )
            for size in (None, 64)
            for loss in ("dpo", "ipo")
            for fixed in (False, True)
        },
    }  # fmt: skip


@dataclass(frozen=True)
class ExactAnswers:
    """Agents beside what they should come to, over many seeds."""

    out: Path = Path("runs/exact_answers")
    """Run folder: new, empty, or of the same study."""

    parts: tuple[Part, ...] = get_args(Part)
    """Which; see above."""

    seeds: int = 16
    """Seeds of each case, from 0 on."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds")
        if not self.parts:
            raise ValueError(f"parts is empty; give some of {', '.join(get_args(Part))}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure what has not been measured yet; print and return all of it."""
        known = cases()
        return {part: self.part(part, known[part], folder.path / f"{part}.csv") for part in self.parts}

    def part(self, part: str, known: Mapping[str, Callable[[int], float]], path: Path) -> dict[str, Any]:
        """Measure a part; a seed of all cases comes before the next, so that a stop leaves equal counts."""
        found = read_rows(path)
        for seed in range(self.seeds):
            for case, measure in known.items():
                if (case, seed) not in found:
                    found[case, seed] = measure(seed)
                    write_rows(path, found)
        numbers = {case: [found[case, seed] for seed in range(self.seeds)] for case in known}
        table = Table("case", "interquartile mean", "interval", "least", "most", title=part)
        rows: dict[str, Any] = {}
        for case, values in numbers.items():
            low, high = bootstrap_interval(values)
            mean = float(interquartile_mean(values))
            rows[case] = {"iqm": mean, "low": float(low), "high": float(high), "seeds": values}
            cells = (mean, float(low), float(high), min(values), max(values))
            texts = [f"{cell:.3g}" for cell in cells]
            table.add_row(case, texts[0], f"{texts[1]} to {texts[2]}", *texts[3:])
        Console(width=100).print(table)
        return rows


def read_rows(path: Path) -> dict[tuple[str, int], float]:
    """Return the numbers of a file by case and seed; none, if it is not there."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["case"], int(row["seed"])): float(row["value"]) for row in csv.DictReader(file)}


def write_rows(path: Path, found: Mapping[tuple[str, int], float]) -> None:
    """Write the numbers, in the order of cases and seeds."""
    with atomic_path(path) as made, made.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "seed", "value"])
        writer.writerows([case, seed, repr(value)] for (case, seed), value in sorted(found.items()))


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(ExactAnswers, description=__doc__)))
