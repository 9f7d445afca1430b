"""What B-Coder promises in program synthesis, measured against what it starts from and simpler ways on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure

import prefrl.envs
from prefrl.agents.value_based.b_coder import BCoder, BCoderConfig, expert_rows
from prefrl.data import TransitionDataset
from prefrl.run.outcomes.programs import reranked, success_rates
from prefrl.run.plot import save_figure
from prefrl.run.recipes.value_based.b_coder import TrainBCoder
from prefrl.run.study.claims import Claim, Numbers

assert prefrl.envs.REGISTRY

PROGRAMS = 4_000
"""Programs that people wrote, 30 % of them correct."""

STEPS, EVERY = 6_000, 1_000
"""Gradient steps after cloning, and those between two measurements."""

PLAIN = {"operator": "optimal", "beta_adv": 0.0, "beta_ce": 0.0, "value_steps": 0, "max_value": None}
"""Settings that make DQN of B-Coder, from the same initialisation."""

ARMS: Mapping[str, Mapping[str, Any]] = {
    "b_coder": {}, "without_experts": {"beta_adv": 0.0, "beta_ce": 0.0}, "dqn": PLAIN,
    "cloned_experts": {"cloning_steps": STEPS},
}  # fmt: skip
"""Settings by way of learning; the last one goes on cloning, correct programs only."""


def experts_alone(data: TransitionDataset) -> TransitionDataset:
    """Return the episodes of the largest return."""
    experts = int((expert_rows(data, None) & ~data.has_next_action).sum())
    return data.best_episodes((experts - 0.5) / data.num_episodes)


def arm(name: str, start: BCoder, data: TransitionDataset, seed: int) -> BCoder:
    """Return an agent that goes on from the cloned policy of another in one of the ways."""
    config = replace(start.config, **ARMS[name])
    if name != "cloned_experts":
        return BCoder(
            start.env, config, dataset=data, pretrained=start.network.policy, seed=seed, device="cpu"
        )
    agent = BCoder(start.env, config, dataset=experts_alone(data), seed=seed, device="cpu")
    agent.network.policy.load_state_dict(copy.deepcopy(start.network.policy.state_dict()))
    return agent


@cache
def learned(seed: int) -> dict[str, float]:
    """Success of every way at every measurement, greedy and drawn, and of re-ranking at the end."""
    env = gym.make("prefrl/ProgramSynthesis-v0", layout_seed=seed)
    task: Any = env.unwrapped
    data = TrainBCoder(num_programs=PROGRAMS, seed=seed).drawn(env)
    start = BCoder(env, BCoderConfig(), dataset=data, seed=seed, device="cpu")
    for _ in range(start.config.cloning_steps):
        start.update()
    rates = success_rates(start, task)
    found = {name: rates[f"pretrained_{name}success_rate"] for name in ("", "sampled_")}
    found = {f"{name}pretrained": rate for name, rate in found.items()}
    for name in ARMS:
        agent = arm(name, start, data, seed)
        for step in range(1, STEPS + 1):
            agent.update()
            if step % EVERY == 0:
                rates = success_rates(agent, task)
                found[f"{name}_{step}"] = rates["success_rate"]
                found[f"sampled_{name}_{step}"] = rates["sampled_success_rate"]
        if name == "b_coder":
            for which, policy in (("own", agent.network.policy), ("pretrained", agent.pretrained)):
                chosen = reranked(agent, task, policy, seed)
                found |= {f"{which}_{key.removesuffix('_success_rate')}": n for key, n in chosen.items()}
    return found


def improves(n: Numbers) -> bool:
    """Whether success rose by 15 points in every seed, greedy and drawn."""
    return all(
        (n[f"{kind}b_coder_{STEPS}"] >= n[f"{kind}pretrained"] + 0.15).all() for kind in ("", "sampled_")
    )


def collapses(n: Numbers) -> bool:
    """Whether plain DQN is below the cloned policy at some measurement in every seed, greedy or drawn."""
    below = [n[f"{kind}dqn_{step}"] < n[f"{kind}pretrained"]
             for kind in ("", "sampled_") for step in range(EVERY, STEPS + 1, EVERY)]  # fmt: skip
    return bool(np.any(below, 0).all())


CLAIMS: Mapping[str, Claim] = {
    "program_synthesis": Claim(
        "E3: success after B-Coder is at least 15 points above the cloned policy's, greedy and drawn, in "
        "every seed",
        learned,
        improves,
    ),
    "reranking": Claim(
        "E3: the best of 8 by the recovered reward passes at least 5 points more often than a random one: in "
        "every seed of candidates of the cloned policy, on average of those of its own",
        learned,
        lambda n: (
            (n["pretrained_rerank"] - n["pretrained_random"]).min() >= 0.05
            and (n["own_rerank"] - n["own_random"]).mean() >= 0.05
        ),
    ),
    "plain_q_learning": Claim(
        "E3: DQN from the same initialisation falls below the cloned policy at some measurement, in every "
        "seed",
        learned,
        collapses,
    ),
}
"""Claims of B-Coder by name; all look at the same runs."""

NAMES = {"b_coder": "B-Coder", "without_experts": "B-Coder, no experts", "dqn": "plain DQN",
         "cloned_experts": "cloning of correct programs"}  # fmt: skip
"""Ways of learning in the figure."""


def draw_success(found: Mapping[str, Any], path: Path) -> None:
    """Draw success against gradient steps, greedy and drawn: means over seeds, and every seed thin.

    Args:
        found: what was measured for one of the claims.
        path: of the PNG.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    steps = np.arange(0, STEPS + 1, EVERY)
    for axes, (kind, title) in zip(
        figure.subplots(1, 2, sharey=True),
        (("", "likeliest words"), ("sampled_", "words drawn")),
        strict=True,
    ):
        start = np.array(found["numbers"][f"{kind}pretrained"])
        for place, (arm_name, label) in enumerate(NAMES.items()):
            curves = np.stack([start, *(found["numbers"][f"{kind}{arm_name}_{step}"] for step in steps[1:])])
            axes.plot(steps, curves, color=f"C{place}", linewidth=0.6, alpha=0.35)
            axes.plot(steps, curves.mean(-1), color=f"C{place}", linewidth=2.0, label=label)
        axes.axhline(start.mean(), color="0.3", linestyle="--", label="cloned policy")
        axes.set(title=title, xlabel="gradient steps after cloning", ylim=(0.0, 1.02))
    figure.axes[0].set_ylabel("success")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    save_figure(figure, path)
