"""Does it help a model that is too small to know what matters: plain regression beside value gradients.

Pendulum-v1 with and without 15 distractors, one deterministic model, the loss plain (mse) or weighted by the
value's gradient (VaGraM, Voelcker et al. 2022, arXiv 2204.01464). Experiments:

- offline: transitions and critics of a run of soft actor-critic, which sees the distractors too, are fixed;
  models of several sizes are fitted to the transitions
- distracted: MBPO from scratch with distractors, a small model, 95 % imagined transitions from the first fit
- plain: MBPO from scratch without distractors, a large model
- schedule: as distracted, but that the share of imagined transitions grows from 0 to 1; smaller actor and
  critics, fewer gradient steps, and more timesteps: as long as soft actor-critic on real transitions, which
  runs beside it, takes to learn, and some more
- constant: as schedule, with 95 % imagined transitions throughout

The reward is known, so that models predict observations alone. Errors are in standard deviations of each
entry, on transitions held out. Every seed is reported; runs have folders of their own below the study's, and
the same command goes on with a study that was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.agents.actor_critic.mbpo_config import MBPOConfig, ModelLoss, mbpo_preset
from prefrl.agents.actor_critic.mbpo_parts import value_aware_error
from prefrl.agents.actor_critic.networks import STD_FLOOR
from prefrl.agents.actor_critic.sac import SACConfig
from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.recipes.actor_critic.box import DISTRACTED
from prefrl.run.recipes.actor_critic.mbpo import TrainMBPO
from prefrl.run.recipes.actor_critic.sac import TrainSAC
from prefrl.run.recipes.base import small_networks
from prefrl.run.study.arms import finish_arms, save_evaluations
from prefrl.run.study.fixed_policy import take_over
from prefrl.run.study.study import check_positive, finish_run, run_study

ENV_ID, TASK_ENTRIES = "Pendulum-v1", 3

LARGE = (200, 200, 200, 200)

SETTINGS: dict[str, tuple[int, tuple[int, ...]]] = {
    "15 distractors, 1 x 16": (15, (16,)),
    "15 distractors, 2 x 32": (15, (32, 32)),
    "no distractors, 4 x 200": (0, LARGE),
}
"""Distractors and hidden layers of the offline comparisons."""

Experiment = Literal["offline", "distracted", "plain", "schedule", "constant"]

CLOSED: dict[str, tuple[int, tuple[int, ...]]] = {"distracted": (15, (16,)), "plain": (0, LARGE)}
"""Distractors and hidden layers of the comparisons from scratch."""

LOSSES: tuple[ModelLoss, ...] = ("mse", "value_gradient")

SHOWN = ("value_aware_error", "task_mse", "total_mse", "distractor_gradient")


@dataclass(frozen=True)
class VaGraMStudy:
    """Plain regression beside value gradients."""

    out: Path = Path("runs/vagram")
    """Run folder: new, empty, or of the same study."""

    experiments: tuple[Experiment, ...] = ("offline",)
    """Which; see above."""

    seeds: int = 5
    """Seeds 0, 1, ... of the offline comparison."""

    transitions: int = 5_000
    """Transitions that models are fitted to."""

    held_out: int = 1_000
    """Transitions beside those, on which everything is measured."""

    policy_timesteps: int = 10_000
    """Timesteps of the runs without distractors that critics and transitions are from."""

    distracted_timesteps: int = 30_000
    """Timesteps of the runs with distractors: critics take that long to see that those mean nothing."""

    fits: int = 3
    """Fits one after the other: each has at most 2,000 gradient steps."""

    closed_seeds: int = 3
    """Seeds 0, 1, ... of distracted and plain."""

    closed_timesteps: int = 4_000
    """Timesteps of those runs."""

    schedule_seeds: int = 5
    """Seeds 0, 1, ... of schedule and constant."""

    schedule_timesteps: int = 20_000
    """Timesteps of those runs."""

    schedule_epochs: int = 15
    """Epochs of 1,000 timesteps until every transition in schedule is an imagined one."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "transitions", "held_out", "policy_timesteps", "distracted_timesteps",
                       "fits", "closed_seeds", "closed_timesteps", "schedule_seeds", "schedule_timesteps",
                       "schedule_epochs")  # fmt: skip
        if not self.experiments:
            raise ValueError(f"experiments is empty; give some of {', '.join(get_args(Experiment))}")
        for name in ("policy_timesteps", "distracted_timesteps"):
            if self.transitions + self.held_out > getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; {self.transitions} transitions and "
                                 f"{self.held_out} held out need at least as many")  # fmt: skip

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Run what has not been run yet; print and return all of it."""
        result: dict[str, Any] = {}
        for name in self.experiments:
            if name == "offline":
                result |= self._models(folder.path)
                continue
            arms = self.closed(name) if name in CLOSED else self.longer(name)
            seeds = self.closed_seeds if name in CLOSED else self.schedule_seeds
            result[name] = finish_arms(arms, seeds, folder.path / name)
            save_evaluations(result[name], folder.path / f"{name}.png", "return")
            write_json(folder.path / f"{name}.json", curves(result[name]))
            show_closed(name, result[name])
        return result

    def closed(self, name: str) -> dict[str, TrainMBPO]:
        """Return what is compared from scratch, with as many imagined transitions from the first fit on."""
        distractors, hidden = CLOSED[name]
        base = TrainMBPO(
            env_id=ENV_ID, distractors=distractors, total_timesteps=self.closed_timesteps,
            agent=config(hidden, learning_starts=250, value_gradient_warmup=500),
            eval_every=max(1, self.closed_timesteps // 16),
        )  # fmt: skip
        return {loss: replace(base, agent=replace(base.agent, model_loss=loss)) for loss in LOSSES}

    def longer(self, name: str) -> dict[str, Any]:
        """Return what is compared in schedule or constant.

        All have the same actor, critics and number of gradient steps.
        """
        distractors, hidden = CLOSED["distracted"]
        common: dict[str, Any] = {
            "env_id": ENV_ID, "distractors": distractors, "total_timesteps": self.schedule_timesteps,
            "eval_every": max(1, self.schedule_timesteps // 20),
        }  # fmt: skip
        agent = config(hidden, hidden=(64, 64), learning_starts=250, updates_per_step=2)
        arms: dict[str, Any] = {}
        if name == "schedule":
            agent = replace(agent, real_ratio=0.0, real_ratio_start=1.0,
                            real_ratio_epochs=self.schedule_epochs)  # fmt: skip
            real = SACConfig(hidden=agent.hidden, learning_starts=250, gradient_steps=agent.updates_per_step)
            arms["sac"] = TrainSAC(agent=real, **common)
        return arms | {loss: TrainMBPO(agent=replace(agent, model_loss=loss), **common) for loss in LOSSES}

    def _models(self, path: Path) -> dict[str, Any]:
        """Return what models are like that are fitted to fixed transitions, and their ratios."""
        offline: dict[str, dict[str, list[dict[str, float]]]] = {
            name: {loss: [self._offline(path, name, loss, seed) for seed in range(self.seeds)]
                   for loss in LOSSES}
            for name in SETTINGS
        }  # fmt: skip
        found = {name: ratios(arms) for name, arms in offline.items()}
        for name, arms in offline.items():
            show(name, arms, found[name])
        return {"offline": offline, "offline_ratios": found}

    def _offline(self, path: Path, name: str, loss: ModelLoss, seed: int) -> dict[str, float]:
        """Return what a model is like, from its file if it was fitted before."""
        file = path / "offline" / f"{name.replace(' ', '_').replace(',', '')}-{loss}-{seed}.json"
        if not file.exists():
            distractors, hidden = SETTINGS[name]
            steps = self.distracted_timesteps if distractors else self.policy_timesteps
            source = TrainSAC(
                env_id=ENV_ID, distractors=distractors, total_timesteps=steps, seed=seed,
                agent=SACConfig(hidden=config(hidden).hidden, learning_starts=250),
            )  # fmt: skip
            policy = path / "policies" / f"{distractors}-{seed}"
            finish_run(source, policy)
            file.parent.mkdir(exist_ok=True)
            with small_networks():
                found = self._fit(
                    policy, distractors, config(hidden, model_loss=loss, value_gradient_warmup=0), seed
                )
            write_json(file, found)
        done: dict[str, float] = read_json(file)
        return done

    def _fit(self, policy: Path, distractors: int, settings: MBPOConfig, seed: int) -> dict[str, float]:
        """Fit a model to a run's transitions; return its errors on others, and what values feel of them."""
        more: dict[str, Any] = {"env_id": ENV_ID, "distractors": distractors} if distractors else {}
        env = gym.make(DISTRACTED if distractors else ENV_ID, **more)
        agent = MBPO(env, settings, device="cpu", seed=seed)
        held = take_over(agent, policy, transitions=self.transitions, held_out=self.held_out, seed=seed,
                         critics=True)  # fmt: skip
        for _ in range(self.fits):
            agent.fit_model()
        predicted, _ = agent.model_step(held["obs"], held["actions"], deterministic=True)
        deviations = agent.networks.moments.std(STD_FLOOR)
        errors = ((predicted - held["next_obs"]) / deviations).square().mean(0)
        with torch.no_grad():
            slopes = agent.networks.partial_gradients(held["next_obs"])[1] * deviations
        mass = slopes.square().mean((0, 1))
        found = value_aware_error(agent.networks, held["next_obs"], predicted, held["mask"])
        return {
            "value_aware_error": float(found["model/value_aware_error"]),
            "task_mse": float(errors[:TASK_ENTRIES].mean()),
            "total_mse": float(errors.mean()),
            "distractor_gradient": float(mass[TASK_ENTRIES:].sum() / mass.sum()),
        }


def config(model_hidden: tuple[int, ...], **change: Any) -> MBPOConfig:
    """Return the settings of one deterministic model of a size."""
    settings: dict[str, Any] = {"ensemble_size": 1, "probabilistic": False, "reward": "known"}
    return replace(mbpo_preset(ENV_ID, "cpu"), model_hidden=model_hidden, **{**settings, **change})


def ratios(arms: Mapping[str, list[dict[str, float]]]) -> dict[str, float]:
    """Return what value gradients have over plain regression: ratios of means over seeds."""
    return {
        name: float(np.mean([run[name] for run in arms["value_gradient"]])
                    / np.mean([run[name] for run in arms["mse"]]))
        for name in SHOWN[:3]
    }  # fmt: skip


def show(title: str, arms: Mapping[str, list[dict[str, float]]], found: Mapping[str, float]) -> None:
    """Print a table of every seed, and the ratios."""
    table = Table("loss", "seed", *SHOWN, title=title)
    for loss, runs in arms.items():
        for seed, run in enumerate(runs):
            table.add_row(loss, str(seed), *(f"{run[name]:.4g}" for name in SHOWN))
    console = Console(width=110)
    console.print(table)
    console.print(
        "value_gradient / mse: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    )


def curves(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return what a figure and a table are made of: returns and errors of every seed, in order."""
    names = ("final_return", "eval_timesteps", "eval_returns", "value_aware_model_error", "model_rmse")
    return {
        arm: [{name: run[name] for name in names if name in run} for run in seeds]
        for arm, seeds in runs.items()
    }


def show_closed(title: str, runs: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print a table of every closed-loop run."""
    names = ("final_return", "value_aware_model_error", "model_rmse", "seconds")
    table = Table("loss", "seed", *names, title=f"closed loop, {title}")
    for loss, results in runs.items():
        for seed, run in enumerate(results):
            found = (run.get(name) for name in names)  # no model, no errors of it
            table.add_row(loss, str(seed), *("-" if value is None else f"{value:.4g}" for value in found))
    Console(width=110).print(table)


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(VaGraMStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
