"""MBPO with an ensemble, and with one model and robust critics, beside soft actor-critic without a model.

Experiments, all by default:

- pendulum: Pendulum-v1, 3,000 steps of 10 gradient steps each; soft actor-critic with as many gradient steps,
  and with one per step for as long as it needs
- inverted_pendulum: InvertedPendulum-v5, 5,000 steps of 10 gradient steps each
- sac: soft actor-critic alone, with its defaults, on both; five seeds on Pendulum-v1

Every seed is reported. Each run has a folder of its own, with its curves, below the study's; the same command
goes on with a study that was stopped, from the checkpoint of the run that was under way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from prefrl.agents.actor_critic.mbpo_config import mbpo_preset
from prefrl.agents.actor_critic.sac import SACConfig
from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.actor_critic.mbpo import TrainMBPO
from prefrl.run.recipes.actor_critic.sac import TrainSAC
from prefrl.run.study.arms import finish_arms, save_evaluations
from prefrl.run.study.study import check_positive, run_study

Experiment = Literal["pendulum", "inverted_pendulum", "sac"]

GOALS = {
    "pendulum": -200.0,
    "inverted_pendulum": 1000.0,
    "Pendulum-v1": -200.0,
    "InvertedPendulum-v5": 1000.0,
}
"""Returns that are good enough."""

SINGLE_ROBUST: dict[str, Any] = {
    "ensemble_size": 1, "probabilistic": False, "critic_regularizer": "robust", "robust_weight": 0.01
}  # fmt: skip


@dataclass(frozen=True)
class MBPOStudy:
    """MBPO beside soft actor-critic without a model."""

    out: Path = Path("runs/mbpo")
    """Run folder: new, empty, or of the same study."""

    experiments: tuple[Experiment, ...] = get_args(Experiment)
    """Which; see above."""

    seeds: int = 3
    """Seeds 0, 1, ..."""

    pendulum_timesteps: int = 3_000
    """Timesteps in pendulum."""

    inverted_timesteps: int = 5_000
    """Timesteps in inverted_pendulum."""

    sac_seeds: int = 5
    """Most seeds in sac."""

    sac_percent: int = 100
    """Percentage of the timesteps in sac: 10,000 and 20,000."""

    sac_times: int = 3
    """How many times as long soft actor-critic with one gradient step per step goes on."""

    def __post_init__(self) -> None:
        check_positive(
            self, "seeds", "pendulum_timesteps", "inverted_timesteps", "sac_times", "sac_seeds", "sac_percent"
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
            if name == "sac":
                result[name] = self._alone(folder)
                continue
            runs = finish_arms(self.arms(name), self.seeds, folder.path / name)
            save_evaluations(runs, folder.path / f"{name}.png", "return")
            result[name] = {
                arm: [{**run, "steps_to_goal": steps_to(run, GOALS[name])} for run in found]
                for arm, found in runs.items()
            }
            show(name, result[name])
        return result

    def _alone(self, folder: RunFolder) -> dict[str, Any]:
        """Run soft actor-critic with its defaults."""
        found: dict[str, Any] = {}
        for env_id, steps, seeds in (("Pendulum-v1", 10_000, 5), ("InvertedPendulum-v5", 20_000, 3)):
            recipe = TrainSAC(
                env_id=env_id, total_timesteps=steps * self.sac_percent // 100, eval_every=1_000
            )
            runs = finish_arms({"SAC": recipe}, min(seeds, self.sac_seeds), folder.path / "sac" / env_id)
            found[env_id] = [{**run, "steps_to_goal": steps_to(run, GOALS[env_id])} for run in runs["SAC"]]
            show(env_id, {"SAC": found[env_id]})
        return found

    def arms(self, experiment: Experiment) -> dict[str, Any]:
        """Return what is compared in an experiment."""
        pendulum = experiment == "pendulum"
        env_id = "Pendulum-v1" if pendulum else "InvertedPendulum-v5"
        steps = self.pendulum_timesteps if pendulum else self.inverted_timesteps
        ensemble = replace(mbpo_preset(env_id, "cpu"), learning_starts=250 if pendulum else 500)
        common: dict[str, Any] = {
            "env_id": env_id, "eval_every": max(1, steps // (12 if pendulum else 20)), "eval_episodes": 5
        }  # fmt: skip
        plain = SACConfig(hidden=ensemble.hidden)
        many = replace(plain, gradient_steps=ensemble.updates_per_step)
        return {
            "ens7_prob": TrainMBPO(agent=ensemble, total_timesteps=steps, **common),
            "single_det+rr": TrainMBPO(
                agent=replace(ensemble, **SINGLE_ROBUST), total_timesteps=steps, **common
            ),
            "SAC": TrainSAC(agent=plain, total_timesteps=self.sac_times * steps, **common),
            "SAC, 10 gradient steps": TrainSAC(agent=many, total_timesteps=steps, **common),
        }


def steps_to(run: Mapping[str, Any], goal: float) -> int | None:
    """Return the timesteps before the first evaluation that reached a goal; None if none did."""
    pairs = zip(run["eval_timesteps"], run["eval_returns"], strict=True)
    return next((steps for steps, value in pairs if value >= goal), None)


def show(experiment: str, arms: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print a table of every seed."""
    columns = ("steps to goal", "last 5", "final", "largest |Q|", "seconds")
    table = Table("arm", "seed", *columns, title=f"{experiment}, goal {GOALS[experiment]:g}")
    for arm, runs in arms.items():
        for seed, run in enumerate(runs):
            last = float(np.mean(run["eval_returns"][-5:]))
            table.add_row(arm, str(seed), str(run["steps_to_goal"]), f"{last:.1f}",
                          f"{run['final_return']:.1f}", f"{run['largest_q']:.1f}",
                          f"{run['seconds']:.0f}")  # fmt: skip
    Console(width=110).print(table)


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(MBPOStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
