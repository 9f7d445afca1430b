"""What diffusion policies learn from preferences, demonstrations and their own generations, over seeds.

docs/preferences/diffusion_preferences.md has what was asked and what was seen. The same command goes on with
a study that was stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import prefrl.envs
from prefrl.agents import (
    DiffusionDPO,
    DiffusionDPOConfig,
    DiffusionDRO,
    DiffusionDROConfig,
    DiffusionPolicy,
    DiffusionPolicyConfig,
    SelfNPO,
    SelfNPOConfig,
)
from prefrl.cli import execute
from prefrl.run.collect import collect_mixture, compare_mixtures
from prefrl.run.evaluate import evaluate_rows
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.plot import save_figure
from prefrl.run.recipes.base import small_networks
from prefrl.run.study.claims import Claim, ClaimStudy
from prefrl.run.study.mixed_data import EPISODE, mixed_pendulum

assert prefrl.envs.REGISTRY

HIDDEN = (128, 128)
"""Of all networks here."""

DRAWN = 4_096
"""Actions by which masses are measured."""


# The ring ----------------------------------------------------------------------------------------------


def actions_of(agent: DiffusionPolicy, obs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return drawn actions [n, 2]."""
    drawn: NDArray[np.float32] = agent.act(torch.as_tensor(obs)).numpy()
    return drawn


def masses(name: str, agent: DiffusionPolicy, task: Any, seed: int) -> dict[str, float]:
    """Return which share of drawn actions lies nearest to experts' modes, near no mode, and their reward."""
    obs, _, _ = task.draw_actions(DRAWN, seed=seed + 1_000_000)
    drawn = actions_of(agent, obs)
    return {
        f"{name}_expert_mass": task.expert_mass(drawn, obs),
        f"{name}_off_mode": task.off_mode_mass(drawn, obs),
        f"{name}_return": float(task.score(drawn, obs).mean()),
    }


def ring_agents(seed: int) -> tuple[gym.Env[Any, Any], dict[str, DiffusionPolicy], float]:
    """Return a ring, a clone of all its modes and what it was tuned to by each method, and DRO's seconds."""
    env = gym.make("prefrl/Ring-v0")
    given: dict[str, Any] = {"device": "cpu", "seed": seed}
    data = collect_mixture(env, 10_000, seed=seed)
    clone = DiffusionPolicy(env, DiffusionPolicyConfig(hidden=HIDDEN), dataset=data, **given).learn(5_000)
    none: dict[str, Any] = {"hidden": HIDDEN, "cloning_steps": 0}
    given["clone"] = clone
    experts = collect_mixture(env, 1_000, mixture="expert", seed=seed)
    dro = DiffusionDRO(env, DiffusionDROConfig(**none), demonstrations=experts, **given)
    started = time.perf_counter()
    dro.learn(1_500)
    seconds = time.perf_counter() - started
    config = DiffusionDROConfig(**none, guidance=1.0)
    guided = DiffusionDRO(env, config, demonstrations=experts, **given).learn(1_500)
    pairs = compare_mixtures(env, 1_000, seed=seed)
    found = {"clone": clone, "dro": dro, "dro_guided": guided}
    for loss in ("dpo", "ipo"):
        settings = DiffusionDPOConfig(**none, loss=loss, beta=1.0, pairs=256)
        found[loss] = DiffusionDPO(env, settings, preferences=pairs, **given).learn(1_500)
    return env, found, seconds


def ring(seed: int) -> dict[str, float]:
    """Return masses of the clone and of every method."""
    env, agents, seconds = ring_agents(seed)
    found = {"dro_seconds": seconds}
    for name, agent in agents.items():
        found |= masses(name, agent, env.unwrapped, seed)
    return found


# Pendulum ----------------------------------------------------------------------------------------------


def returned(agent: DiffusionPolicy, seed: int) -> float:
    """Return the mean return of 100 deterministic episodes."""
    rows: Any = gym.make_vec("prefrl/Pendulum-v0", 100)
    return float(evaluate_rows(agent, rows, seed=seed + 1_000_000)["mean_return"])


def pendulum(seed: int) -> dict[str, float]:
    """Return returns of a clone of mixed data, and of what 500 comparisons of whole episodes tune it to."""
    env = gym.make("prefrl/Pendulum-v0")
    data, pairs = mixed_pendulum(length=EPISODE, seed=seed)
    given: dict[str, Any] = {"device": "cpu", "seed": seed}
    clone = DiffusionPolicy(env, DiffusionPolicyConfig(hidden=HIDDEN), dataset=data, **given).learn(5_000)
    given |= {"clone": clone, "preferences": pairs}
    none: dict[str, Any] = {"hidden": HIDDEN, "cloning_steps": 0}
    slow: dict[str, Any] = {**none, "tuning_rate": 2e-4, "averaging": 0.999, "replay_refreshes": 4}
    dro = DiffusionDRO(env, DiffusionDROConfig(**slow), **given).learn(2_500)
    found = {"clone_return": returned(clone, seed), "dro_return": returned(dro, seed)}
    dro.config = replace(dro.config, guidance=1.0)
    found["dro_guided_return"] = returned(dro, seed)
    for loss in ("dpo", "ipo"):
        settings = DiffusionDPOConfig(**none, loss=loss, beta=1.0, pairs=8, tuning_rate=1e-4, averaging=0.99)
        dpo = DiffusionDPO(env, settings, **given)
        for steps in (50, 150):
            dpo.learn(steps)
            found[f"{loss}_{dpo.num_timesteps}_return"] = returned(dpo, seed)
    return found


# Own generations ---------------------------------------------------------------------------------------


def own_generations(form: Any, context: str, seed: int) -> dict[str, float]:
    """Return the shares of actions near no mode of a hasty clone, with and without what guides it."""
    env = gym.make("prefrl/Ring-v0", context=context)
    task, data = env.unwrapped, collect_mixture(env, 10_000, seed=seed)
    config = SelfNPOConfig(hidden=HIDDEN, cloning_steps=1_000, form=form)
    agent = SelfNPO(env, config, dataset=data, device="cpu", seed=seed).learn(2_000)
    found: dict[str, float] = {}
    for weight in (0.0, 0.25, 0.5, 1.0):
        agent.config = replace(config, guidance=weight)
        found |= {f"off_mode_w_{weight:g}": masses("", agent, task, seed)["_off_mode"]}
    return found


def guided_share(n: Mapping[str, NDArray[np.float64]]) -> Any:
    """Return the off-mode share with guidance of weight .5 by that without [seeds]."""
    return n["off_mode_w_0.5"] / n["off_mode_w_0"]


# The study ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiffusionStudy(ClaimStudy):
    """Claims about diffusion policies that are tuned, measured."""

    known: ClassVar[Mapping[str, Claim]] = {
        "ring": Claim(
            "Tuned by 1,000 demonstrations at 2 of 8 modes, Diffusion-DRO has at least .85 of its mass at "
            "these after at most 60 s in every seed; the clone has .25",
            ring,
            lambda n: (n["dro_expert_mass"] >= 0.85).all() and (n["dro_seconds"] <= 60.0).all(),
        ),
        "pendulum": Claim(
            "Tuned by 500 comparisons of mixed data, Diffusion-DRO's return is above the clone's in every "
            "seed, on the same 100 episodes",
            pendulum,
            lambda n: (n["dro_return"] > n["clone_return"]).all(),
        ),
        "self_npo": Claim(
            "Of a hasty clone of the ring, guided by Self-NPO with weight .5, at most .9 times as many "
            "actions lie near no mode as without, in every seed",
            lambda seed: own_generations("unguided", "none", seed),
            lambda n: (guided_share(n) <= 0.9).all(),
        ),
        "self_npo_unconditional": Claim(
            "The same of the released form, on a ring that is turned by any angle",
            lambda seed: own_generations("unconditional", "rotation", seed),
            lambda n: (guided_share(n) <= 0.9).all(),
        ),
    }

    out: Path = Path("runs/diffusion")
    """Run folder: new, empty, or of the same study."""

    seeds: int = 3
    """Seeds of each."""

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure as recipes train, without denormal numbers, which are slow; draw the ring."""
        with small_networks():
            found = super().measure(folder)
            if "ring" in found:
                draw_ring(self.first_seed, folder.path / "diffusion_ring.png")
        return found


TITLES = {
    "clone": "clone of the reference",
    "dro": "Diffusion-DRO",
    "dro_guided": "Diffusion-DRO, guided away\nfrom the clone, w = 1",
    "dpo": "Diffusion-DPO",
    "ipo": "Diffusion-DPO, IPO's loss",
}
"""Of the pictures."""


def draw_ring(seed: int, path: Path) -> None:
    """Draw what a clone does, and what each method made of it, with one seed."""
    env, agents, _ = ring_agents(seed)
    task: Any = env.unwrapped
    obs, reference, _ = task.draw_actions(1_000, seed=seed)
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    clouds = {"reference": reference} | {name: actions_of(agent, obs) for name, agent in agents.items()}
    titles = {"reference": "data: all modes alike"} | TITLES
    for axes, (name, points) in zip(
        figure.subplots(2, 3, sharex=True, sharey=True).flat, clouds.items(), strict=True
    ):
        near = np.isin(task.mode_of(points, obs), task.experts)
        away = task.mode_of(points, obs, reach=3.0) < 0
        for rows, colour, label in (
            (near & ~away, "C2", "at an expert's mode"),
            (~near & ~away, "C0", "at another mode"),
            (away, "C3", "near no mode"),
        ):
            axes.scatter(*points[rows].T, s=3.0, color=colour, label=label, linewidths=0.0)
        axes.set(title=titles[name], xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
        share = f"experts {near.mean():.2f}, near no mode {away.mean():.2f}"
        axes.text(0.5, 0.02, share, transform=axes.transAxes, ha="center", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, markerscale=4.0)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(DiffusionStudy, description=__doc__)))
