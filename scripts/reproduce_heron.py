"""HERON beside the true reward and a tuned weighted sum of the same factors.

Experiments, all of them by default:

- pendulum: HERON and the true reward on Pendulum
- sums: the weighted sum sum_l beta^(l-1) z_l / s_l of the same factors, for several beta
- units: one factor is measured in a unit a thousand times smaller: HERON, and the weighted sum without
  normalisation, which has to be weighed anew
- mountain_car: reach the goal first, then save energy; and the other way round
- traffic: a grid of lights with a shared policy and a shared reward model: short queues first, or
  steady lights first

Every seed is reported. Each run has a folder of its own, with its curves, below the study's; the same command
goes on with a study that was stopped, from the checkpoint of the run that was under way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.table import Table

from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.preferences.heron import TrainHeron
from prefrl.run.study.arms import finish_arms, save_evaluations
from prefrl.run.study.study import check_positive, run_study

Experiment = Literal["traffic", "pendulum", "units", "mountain_car", "sums"]

SMALL_SAC = ("learning_rate=1e-3", "batch_size=128", 'policy_kwargs={"net_arch": [64, 64]}')
"""SB3's SAC with small networks, which are enough here and several times as fast."""

BETAS = (0.1, 0.3, 1.0)
"""Weights of a level against the one above it, among which the weighted sum is tuned."""

UNIT = 1000.0
"""What the torque is multiplied with in ``units``."""


@dataclass(frozen=True)
class HeronStudy:
    """HERON beside the true reward and a tuned weighted sum."""

    out: Path = Path("runs/heron")
    """Run folder: new, empty, or of the same study."""

    experiments: tuple[Experiment, ...] = get_args(Experiment)
    """Which; see above."""

    seeds: int = 3
    """Seeds 0, 1, ..."""

    pendulum_timesteps: int = 30_000
    """Timesteps in pendulum, with a gradient step for every second."""

    short_timesteps: int = 12_000
    """Timesteps in sums and units, with a gradient step for each."""

    mountain_car_timesteps: int = 30_000
    """Timesteps in mountain_car."""

    traffic_timesteps: int = 100_000
    """Timesteps in traffic, over all crossings."""

    def __post_init__(self) -> None:
        check_positive(
            self,
            "seeds",
            "pendulum_timesteps",
            "short_timesteps",
            "mountain_car_timesteps",
            "traffic_timesteps",
        )
        if not self.experiments:
            raise ValueError(f"experiments is empty; give some of {', '.join(get_args(Experiment))}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Run what has not been run yet; draw, print and return all of it."""
        result: dict[str, Any] = {}
        for name in self.experiments:
            rows = finish_arms(self.arms(name), self.seeds, folder.path / name)
            show(name, rows)
            save_evaluations(rows, folder.path / f"{name}.png", "true return")
            result[name] = rows
        return result

    def arms(self, experiment: Experiment) -> dict[str, TrainHeron]:
        """Return what is compared in an experiment."""
        if experiment in ("pendulum", "sums", "units"):
            return self._pendulum(experiment)
        if experiment == "mountain_car":
            base = TrainHeron(
                env_id="prefrl/MountainCarContinuous-v0", agent="sb3_sac", warmup_hold=30,
                agent_args=(*SMALL_SAC, "learning_starts=10000", "gamma=0.999"), first_fit=10_000,
                fit_every=1_000, compare_steps=50, total_timesteps=self.mountain_car_timesteps,
            )  # fmt: skip
            return {
                "goal first": replace(base, ranking="reached_goal,energy", margins="0,1"),
                "energy first": replace(base, ranking="energy,reached_goal", margins="1,0"),
            }
        traffic = TrainHeron(
            env_id="prefrl/TrafficGrid-v0", agent="sb3_ppo", num_envs=4,
            agent_args=("n_steps=128", "batch_size=256", "gamma=0.95", "learning_rate=1e-3"), first_fit=2_000,
            fit_every=2_000, margins="0.1,0.1,0.1", total_timesteps=self.traffic_timesteps,
        )  # fmt: skip
        return {
            "queue first": replace(traffic, ranking="queue,waiting_time,switches"),
            "switches first": replace(traffic, ranking="switches,queue,waiting_time"),
        }

    def _pendulum(self, experiment: Experiment) -> dict[str, TrainHeron]:
        base = TrainHeron(
            env_id="prefrl/Pendulum-v0", agent="sb3_sac",
            agent_args=(*SMALL_SAC, "learning_starts=1000", "gamma=0.98"),
            total_timesteps=self.pendulum_timesteps,
        )  # fmt: skip
        if experiment == "pendulum":
            base = replace(base, agent_args=(*base.agent_args, "train_freq=2"))
            return {"HERON": base, "true reward": replace(base, reward_source="true")}
        base = replace(base, total_timesteps=self.short_timesteps)
        if experiment == "sums":
            return {f"sum {b:g}": replace(base, reward_source="weighted_sum", beta=b) for b in BETAS}
        plain = replace(base, reward_source="weighted_sum", beta=0.3, normalize_factors=False)
        units = (f"torque_squared={UNIT:g}",)
        return {
            "HERON": base,
            "HERON, other unit": replace(base, factor_units=units),
            "plain sum": plain,
            "plain sum, other unit": replace(plain, factor_units=units),
        }


def show(name: str, rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print what every seed ended with."""
    factors = list(next(iter(rows.values()))[0]["factor_means"])
    table = Table("arm", "true return", *factors, "seconds", title=name, title_justify="left")
    for arm, runs in rows.items():
        columns = [[run["factor_means"][factor] for run in runs] for factor in factors]
        cells = [[run["true_return"] for run in runs], *columns, [run["seconds"] for run in runs]]
        table.add_row(arm, *(" ".join(f"{value:.4g}" for value in cell) for cell in cells))
    Console(width=170).print(table)


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(HeronStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
