"""Does an ensemble help MBPO because it makes the critics smooth, and can one model do with smooth critics?

Four arms (Zheng et al. 2023, arXiv 2302.01244): a probabilistic ensemble of seven (ens7_prob), one
deterministic model (single_det), and that with spectrally capped (single_det+sn) or robust critics
(single_det+rr).

- quick, always: 10,000 transitions of Hopper-v5 and one policy, both of a run of soft actor-critic, are
  fixed; each arm fits its model to the transitions and imagines, and critics learn from that what the policy
  is worth. Nothing else differs, so this isolates what the model's data do to the critics.
- closed loop, with --closed-loop: MBPO on Hopper-v5 from scratch, every arm, and smooth critics with milder
  settings too, which were piloted on seed 0.

Smoothness is measured on real states in standard deviations of each entry and divided by the standard
deviation of the values; see docs/actor_critic/mbpo.md. Every seed is reported. Each run has a folder of its
own below the study's; the same command goes on with a study that was stopped, from the checkpoint of the run
under way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.agents.actor_critic.mbpo_config import MBPOConfig, mbpo_preset
from prefrl.agents.actor_critic.mbpo_parts import smoothness, value_aware_error
from prefrl.agents.actor_critic.sac import SACConfig
from prefrl.cli import execute
from prefrl.data import seeded_generator
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.recipes.actor_critic.mbpo import TrainMBPO
from prefrl.run.recipes.actor_critic.sac import TrainSAC
from prefrl.run.recipes.base import small_networks
from prefrl.run.study.arms import finish_arms, save_evaluations
from prefrl.run.study.fixed_policy import take_over
from prefrl.run.study.study import check_positive, finish_run, run_study

ENV_ID, REFIT_EVERY = "Hopper-v5", 250

SINGLE = {"ensemble_size": 1, "probabilistic": False}

ARMS: dict[str, dict[str, Any]] = {
    "ens7_prob": {},
    "single_det": SINGLE,
    "single_det+sn": {**SINGLE, "critic_regularizer": "spectral"},
    "single_det+rr": {**SINGLE, "critic_regularizer": "robust", "robust_eps": 0.1, "robust_weight": 1.0},
}
"""What differs between the arms."""

CLOSED_ARMS: dict[str, dict[str, Any]] = {
    **ARMS,
    "single_det+sn, cap 3": {**ARMS["single_det+sn"], "spectral_cap": 3.0},
    "single_det+rr, weight 0.1": {**ARMS["single_det+rr"], "robust_weight": 0.1},
}
"""Those of the closed loop: what is smooth enough for fixed data may be too smooth to learn with."""

SHOWN = ("smoothness/local_normalized", "smoothness/gradient_mean", "smoothness/global_log10",
         "smoothness/value_scale", "model/value_aware_error", "model/rmse", "model/bound_holds")  # fmt: skip
"""What the tables show."""


@dataclass(frozen=True)
class LipschitzStudy:
    """Ensembles and smooth critics."""

    out: Path = Path("runs/lipschitz")
    """Run folder: new, empty, or of the same study."""

    seeds: int = 3
    """Seeds 0, 1, ..."""

    transitions: int = 10_000
    """Transitions that the quick comparison fits."""

    held_out: int = 1_000
    """Transitions beside those, on which everything is measured."""

    policy_timesteps: int = 20_000
    """Timesteps of the run that policy and transitions are from."""

    updates: int = 5_000
    """Gradient steps of the critics."""

    rollouts: int = 100_000
    """Imagined transitions of each arm."""

    closed_loop: bool = False
    """Run MBPO from scratch too."""

    closed_timesteps: int = 15_000
    """Timesteps of those runs."""

    closed_updates_per_step: int = 5
    """Gradient steps per timestep of those runs."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "transitions", "held_out", "policy_timesteps", "updates", "rollouts",
                       "closed_timesteps", "closed_updates_per_step")  # fmt: skip
        if self.transitions + self.held_out > self.policy_timesteps:
            raise ValueError(f"policy_timesteps is {self.policy_timesteps}; {self.transitions} transitions "
                             f"and {self.held_out} held out need at least as many")  # fmt: skip
        if self.rollouts % REFIT_EVERY:
            raise ValueError(f"rollouts is {self.rollouts}; it must be a multiple of {REFIT_EVERY}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Run what has not been run yet; print and return all of it."""
        quick = {arm: [self._quick(folder.path, arm, seed) for seed in range(self.seeds)] for arm in ARMS}
        result: dict[str, Any] = {"quick": quick, "quick_ratios": ratios(quick)}
        show("quick", quick, result["quick_ratios"])
        if self.closed_loop:
            base = TrainMBPO(
                env_id=ENV_ID, agent=self._config(updates_per_step=self.closed_updates_per_step),
                total_timesteps=self.closed_timesteps, eval_every=1_000, checkpoint_every=1_000,
            )  # fmt: skip
            arms = {
                arm: replace(base, agent=replace(base.agent, **change)) for arm, change in CLOSED_ARMS.items()
            }
            runs = finish_arms(arms, self.seeds, folder.path / "closed_loop")
            save_evaluations(runs, folder.path / "closed_loop.png", "return")
            result["closed_loop"] = runs
            result["closed_loop_ratios"] = closed_ratios(runs)
            show_closed(runs, result["closed_loop_ratios"])
        return result

    def _config(self, **change: Any) -> MBPOConfig:
        return replace(mbpo_preset(ENV_ID, "cpu"), learning_starts=1_000, **change)

    def _quick(self, path: Path, arm: str, seed: int) -> dict[str, float]:
        """Return what an arm's critics are like, from its file if it was done before."""
        file = path / "quick" / f"{arm}-{seed}.json"
        if not file.exists():
            source = TrainSAC(
                env_id=ENV_ID, total_timesteps=self.policy_timesteps, seed=seed,
                agent=SACConfig(hidden=self._config().hidden, learning_starts=1_000),
            )  # fmt: skip
            finish_run(source, path / "policies" / f"sac-{seed}")
            file.parent.mkdir(exist_ok=True)
            with small_networks():
                found = self._evaluate(path / "policies" / f"sac-{seed}", ARMS[arm], seed)
            write_json(file, found)
        done: dict[str, float] = read_json(file)
        return done

    def _evaluate(self, source: Path, change: Mapping[str, Any], seed: int) -> dict[str, float]:
        """Fit an arm's model, imagine, and learn what the policy is worth; return what came of it."""
        config = self._config(rollouts_per_step=self.rollouts // REFIT_EVERY, **change)
        agent = MBPO(gym.make(ENV_ID), config, device="cpu", seed=seed)
        held = take_over(agent, source, transitions=self.transitions, held_out=self.held_out, seed=seed,
                         critics=False)  # fmt: skip
        agent.fit_model()
        agent.imagine()
        for done in range(0, self.updates, 100):
            for batch in agent.batches(min(100, self.updates - done)):
                agent.networks.step(batch, evaluate=True)
        generator = seeded_generator(seed, "diagnostics")
        found = smoothness(agent.networks, held["obs"], radius=config.diagnostics_radius, generator=generator)
        predicted, _ = agent.model_step(held["obs"], held["actions"], deterministic=True)
        found |= value_aware_error(agent.networks, held["next_obs"], predicted, held["mask"])
        return {name: float(value) for name, value in found.items()} | agent.seconds


def geometric(runs: list[dict[str, Any]], name: str) -> float:
    """Return the geometric mean over seeds."""
    return float(np.exp(np.mean([np.log(max(run[name] or 0.0, 1e-12)) for run in runs])))


def ratios(arms: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return the ratios of geometric means that the claims are about."""
    lip = {arm: geometric(runs, "smoothness/local_normalized") for arm, runs in arms.items()}
    error = {arm: geometric(runs, "model/value_aware_error") for arm, runs in arms.items()}
    return {
        "lipschitz single_det / ens7_prob": lip["single_det"] / lip["ens7_prob"],
        "lipschitz sn / single_det": lip["single_det+sn"] / lip["single_det"],
        "lipschitz rr / single_det": lip["single_det+rr"] / lip["single_det"],
        "value-aware error rr / single_det": error["single_det+rr"] / error["single_det"],
        "least share of rows where the bound holds": min(
            run["model/bound_holds"] for runs in arms.values() for run in runs
        ),
    }


def closed_ratios(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Return medians of returns and seconds in ratio, and geometric means of smoothness and errors.

    Returns are those of the final episodes, and, since policies change quickly, of the last five evaluations.
    """

    def median(arm: str, name: str) -> float:
        return float(np.median([run[name] for run in runs[arm]]))

    lip = {arm: geometric(each, "local_lipschitz") for arm, each in runs.items()}
    error = {arm: geometric(each, "value_aware_model_error") for arm, each in runs.items()}
    returns = {arm: median(arm, "final_return") for arm in runs}
    late = {
        arm: float(np.median([np.mean(run["eval_returns"][-5:]) for run in each]))
        for arm, each in runs.items()
    }
    found = {}
    for arm in runs:
        if arm != "ens7_prob":
            found[f"return {arm} / ens7_prob"] = returns[arm] / returns["ens7_prob"]
            found[f"late return {arm} / ens7_prob"] = late[arm] / late["ens7_prob"]
            found[f"seconds ens7_prob / {arm}"] = median("ens7_prob", "seconds") / median(arm, "seconds")
        if arm not in ("ens7_prob", "single_det"):
            found[f"return {arm} / single_det"] = returns[arm] / returns["single_det"]
            found[f"late return {arm} / single_det"] = late[arm] / late["single_det"]
            found[f"lipschitz {arm} / single_det"] = lip[arm] / lip["single_det"]
            found[f"value-aware error {arm} / single_det"] = error[arm] / error["single_det"]
    return {
        **found,
        "lipschitz single_det / ens7_prob": lip["single_det"] / lip["ens7_prob"],
        "model seconds single_det / ens7_prob": median("single_det", "seconds_model")
        / median("ens7_prob", "seconds_model"),
    }


def show(title: str, arms: Mapping[str, list[dict[str, Any]]], found: Mapping[str, float]) -> None:
    """Print a table of every seed, and the ratios."""
    table = Table("arm", "seed", *(name.partition("/")[2] for name in SHOWN), title=title)
    for arm, runs in arms.items():
        for seed, run in enumerate(runs):
            table.add_row(arm, str(seed), *(f"{run[name]:.4g}" for name in SHOWN))
    console = Console(width=130)
    console.print(table)
    for name, value in found.items():
        console.print(f"{name}: {value:.3g}")


def show_closed(runs: Mapping[str, list[dict[str, Any]]], found: Mapping[str, float]) -> None:
    """Print a table of every closed-loop run, and the ratios."""
    names = ("final_return", "local_lipschitz", "value_aware_model_error", "seconds_model",
             "seconds_policy", "seconds")  # fmt: skip
    table = Table("arm", "seed", *names, title="closed loop")
    for arm, results in runs.items():
        for seed, run in enumerate(results):
            table.add_row(arm, str(seed), *(number(run[name]) for name in names))
    console = Console(width=130)
    console.print(table)
    for name, value in found.items():
        console.print(f"{name}: {value:.3g}")


def number(value: float | None) -> str:
    """Return a number for a table."""
    return "-" if value is None else f"{value:.4g}"


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(LipschitzStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
