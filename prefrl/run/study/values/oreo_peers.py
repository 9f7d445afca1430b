"""OREO beside what else learns from the same random episodes: implicit Q-learning and DQN, offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import prefrl.envs
from prefrl.agents.actor_critic.iql import IQL, IQLConfig
from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.agents.value_based.oreo import OREO, OREOConfig
from prefrl.data import TransitionDataset
from prefrl.nn.likelihood_policies import policy_table
from prefrl.run.collect import collect_episodes
from prefrl.run.outcomes.soft_values import success_rate
from prefrl.run.plot import save_figure
from prefrl.run.study.claims import Claim
from prefrl.tabular import TabularMDP

from .oreo import BOARD, BOARD_STEPS, greedy

assert prefrl.envs.REGISTRY

LOOKS = 8
"""Measurements of an agent."""

SPAN = 128_000
"""Transitions that are looked at between two of them, in gradient steps of whichever size (about)."""

EPISODES = (500, 100)
"""Random episodes that are learned from."""

IQL_SETTINGS = IQLConfig(hidden=(64, 64), learning_rate=3e-3, expectile=0.9, temperature=1.0, tau=0.02)
DQN_SETTINGS = DQNConfig(hidden=(64, 64), loss="mse", batch_size=256, target_update_interval=50)
CQL_SETTINGS = replace(DQN_SETTINGS, cql_alpha=1.0)
"""The best of four each that were tried on seeds 0 and 1."""


def agents(env: Any, data: TransitionDataset, seed: int) -> dict[str, tuple[Any, Callable[[], Tensor]]]:
    """Return agents by name, each with what gives the table [S, A] whose largest actions it takes."""
    states = torch.arange(env.observation_space.n)
    oreo = OREO(env, OREOConfig(beta=1.0, kappa=0.0, learning_rate=0.5), data, device="cpu", seed=seed)
    iql = IQL(env, IQL_SETTINGS, dataset=data, device="cpu", seed=seed)
    dqn, cql = (
        DQN(env, settings, dataset=data, device="cpu", seed=seed) for settings in (DQN_SETTINGS, CQL_SETTINGS)
    )
    return {
        "oreo": (oreo, lambda: oreo.tables()[0]),
        "iql": (iql, lambda: policy_table(iql.policy, env.observation_space)),
        "dqn": (dqn, lambda: dqn.q_values(states)),
        "cql": (cql, lambda: cql.q_values(states)),
    }


def peers(seed: int) -> dict[str, float]:
    """Shares of starts from which greedy actions reach the goal in 20 steps, as agents learn."""
    env = gym.make(BOARD, max_episode_steps=BOARD_STEPS)
    mdp, found = TabularMDP.from_env(env), {}
    goal = env.unwrapped.tabular_model().feature_names.index("goal")  # type: ignore[attr-defined]
    for episodes in EPISODES:
        rows = gym.make_vec(BOARD, episodes, max_episode_steps=BOARD_STEPS)
        data = collect_episodes(None, rows, seed=seed)
        for name, (agent, table) in agents(env, data, seed).items():
            # OREO's batches are of episodes.
            mean = len(data) / episodes if name == "oreo" else 1.0
            every = round(SPAN / (agent.config.batch_size * mean))
            for look in range(1, LOOKS + 1):
                for _ in range(every):
                    agent.update()
                with torch.no_grad():
                    share = success_rate(mdp, greedy(table().double()), goal, BOARD_STEPS)
                found[f"{name}_{episodes}_{look}"] = share
    return found


def last(numbers: Mapping[str, Any], name: str, episodes: int) -> Any:
    """Return the success at the end by seed [seeds]."""
    return np.asarray(numbers[f"{name}_{episodes}_{LOOKS}"])


CLAIMS: Mapping[str, Claim] = {
    "oreo_peers": Claim(
        "OREO is on average no worse at the end than IQL, DQN and DQN with CQL from the same 500 and 100 "
        "random episodes, as many transitions looked at (greedy actions)",
        peers,
        lambda n: all(
            last(n, "oreo", episodes).mean() >= last(n, name, episodes).mean()
            for episodes in EPISODES
            for name in ("iql", "dqn", "cql")
        ),
    ),
}
"""Claims of OREO beside its peers by name."""

NAMES = {"oreo": "OREO", "iql": "IQL", "dqn": "DQN", "cql": "DQN with CQL"}
"""Agents in the figure."""


def draw_peers(found: Mapping[str, Any], path: Path) -> None:
    """Draw success against transitions looked at: means over seeds, and every seed thin.

    Args:
        found: what was measured for the claim.
        path: of the PNG.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    looked = np.arange(1, LOOKS + 1) * SPAN / 1e6
    for axes, episodes in zip(figure.subplots(1, 2, sharey=True), EPISODES, strict=True):
        for place, (name, label) in enumerate(NAMES.items()):
            curves = np.array([found["numbers"][f"{name}_{episodes}_{k}"] for k in range(1, LOOKS + 1)])
            axes.plot(looked, curves, color=f"C{place}", linewidth=0.6, alpha=0.35)
            axes.plot(looked, curves.mean(-1), color=f"C{place}", linewidth=2.0, label=label)
        axes.set(title=f"{episodes} random episodes", xlabel="transitions looked at [million]",
                 ylim=(-0.02, 1.02))  # fmt: skip
    figure.axes[0].set_ylabel("success of greedy actions")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save_figure(figure, path)
