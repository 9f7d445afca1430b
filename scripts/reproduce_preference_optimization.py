"""Policies from comparisons alone: every loss at three rates of wrong labels, and the roads from a file.

Parts, all by default:

- tree: every loss x label noise in prefrl/TokenTree-v0, from comparisons of random sequences that its exact
  preferences answer, on one layout for each seed; a uniform reference
- pendulum, hopper: every loss x label noise, from comparisons of segments by regret, of data of mixed quality
  that soft actor-critic made while it learned online
- roads: with Pendulum-v1's comparisons without noise: CPL, DPO, and a reward model with IQL on the data it
  relabels, beside behaviour cloning of all the data and of their best tenth by true return

Losses have their own defaults of beta and all else. Every seed is reported. What is finished is kept in the
folder, and the same command goes on with the rest.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from prefrl.agents.actor_critic.behaviour_cloning import BehaviourCloning, BehaviourCloningConfig
from prefrl.agents.actor_critic.box import flat
from prefrl.agents.actor_critic.iql import IQL, IQLConfig
from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.agents.base import Agent
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.agents.preferences.preference_optimization_config import PairLossName
from prefrl.cli import execute
from prefrl.data import (
    Preferences,
    TransitionDataset,
    atomic_path,
    concatenate_transitions,
    load_transitions,
    save_transitions,
)
from prefrl.data.segment_store import Excerpt
from prefrl.functional.preferences.pair_rows import PAIR_LOSSES
from prefrl.preferences import DeterministicRegret, RewardModel, Teacher, Valuation
from prefrl.preferences.asking import exact_answers, random_excerpts, with_flips
from prefrl.run.collect import collect_transitions
from prefrl.run.environments import make_evaluation_env, make_scalar_env, make_training_env
from prefrl.run.evaluate import evaluate_rows
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json
from prefrl.run.loop import learn
from prefrl.run.plot import save_figure
from prefrl.run.study.study import check_positive, run_study

Part = Literal["tree", "roads", "pendulum", "hopper"]

TREE = "prefrl/TokenTree-v0"

CONTROL: dict[str, tuple[str, int]] = {"pendulum": ("Pendulum-v1", 20_000), "hopper": ("Hopper-v5", 100_000)}
"""Environments of continuous actions, and the timesteps that soft actor-critic learns online."""

EPISODES = 50
"""Of each evaluation of a deterministic policy."""

STAGES = 10
"""Policies that the data are of."""

UNIFORM = 0.3
"""Share of uniform actions, but of the untrained policy: all of its."""

ROWS = 10
"""Environments that the data are collected in, side by side."""

Seeds = dict[str, list[float]]


@dataclass(frozen=True)
class MixedQuality:
    """Settings of the data.

    Args:
        env_id: an environment with a bounded Box of actions.
        timesteps: that the agent learns online.
        transitions: in all.
        seed: seeds agent and data.
    """

    env_id: str
    timesteps: int
    transitions: int
    seed: int

    def made(self, folder: Path) -> tuple[SAC, TransitionDataset]:
        """Return the agent as it is in the end, and the data; from the folder, if they are there.

        Args:
            folder: where both are kept, ``expert.pt`` and ``data.npz``.
        """
        expert, data = folder / "expert.pt", folder / "data.npz"
        if not (expert.exists() and data.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            self._make(expert, data)
        return SAC.load(expert, device="cpu"), load_transitions(data)

    def _make(self, expert: Path, data: Path) -> None:
        config = SACConfig(hidden=(64, 64))
        agent = SAC(make_training_env(self.env_id, (), 1, "cpu"), config, device="cpu", seed=self.seed)
        parts = []
        for stage in range(STAGES):
            if stage:
                learn(agent, self.timesteps * stage // (2 * STAGES) - agent.num_timesteps)
            rows = make_evaluation_env(self.env_id, (), ROWS)
            parts.append(collect_transitions(
                agent, rows, self.transitions // STAGES, epsilon=UNIFORM if stage else 1.0,
                seed=STAGES * self.seed + stage, env_id=self.env_id,
            ))  # fmt: skip
        learn(agent, self.timesteps - agent.num_timesteps)
        save_transitions(data, concatenate_transitions(parts))
        agent.save(expert)


@dataclass(frozen=True)
class PreferenceStudy:
    """Policies from comparisons alone."""

    out: Path = Path("runs/preference_optimization")
    """Run folder: new, empty, or of the same study."""

    parts: tuple[Part, ...] = get_args(Part)
    """Which; see above."""

    seeds: int = 3
    """Seeds 0, 1, ... of control: of the agent that makes the data, of the data, of what learns from them."""

    tree_seeds: int = 10
    """Seeds of the tree: of the layout, the comparisons and the rest."""

    noises: tuple[float, ...] = (0.0, 0.1, 0.3)
    """Shares of labels that are turned round."""

    losses: tuple[PairLossName, ...] = get_args(PairLossName)
    """Which losses."""

    num_pairs: int = 1_000
    """Comparisons."""

    length: int = 50
    """Steps of a segment in control."""

    transitions: int = 40_000
    """Of the data in control."""

    steps: int = 2_000
    """Gradient steps of cloning, and then of the loss; in a tree of the loss alone."""

    offline_steps: int = 20_000
    """Gradient steps of IQL and of cloning from transitions."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "tree_seeds", "num_pairs", "length", "transitions", "steps",
                       "offline_steps")  # fmt: skip
        for name in ("parts", "losses", "noises"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        if not all(0.0 <= noise < 0.5 for noise in self.noises):
            raise ValueError(f"noises is {self.noises}; each must lie in [0, 0.5)")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Run what has not been run yet; draw, print and return all of it."""
        result: dict[str, Any] = {}
        for part in self.parts:
            if part == "roads":
                result[part] = [self._roads(seed, folder.path) for seed in range(self.seeds)]
                show_roads(result[part])
            else:
                result[part] = self._shoot_out(part, folder.path)
                show(part, result[part])
        shown = {part: found for part, found in result.items() if part != "roads"}
        if shown:
            save_figure(draw(shown), folder.path / "losses.png")
        return result

    def _shoot_out(self, part: Part, folder: Path) -> dict[str, dict[str, list[float]]]:
        """Return the score of each seed, by loss and noise: 0 is the reference, 1 the best."""
        clones: dict[int, Any] = {}
        one = self._in_tree if part == "tree" else partial(self._in_control, clones)
        found: dict[str, dict[str, list[float]]] = {}
        for loss in self.losses:
            if part != "tree" and PAIR_LOSSES[loss].probabilities_only:
                continue  # densities are no probabilities
            found[loss] = {}
            for noise in self.noises:
                seeds = range(self.tree_seeds if part == "tree" else self.seeds)
                found[loss][f"{noise:g}"] = [
                    kept(
                        folder / part / f"{loss}-{noise:g}-{seed}.json",
                        partial(one, part, loss, noise, seed, folder),
                    )
                    for seed in seeds
                ]
        return found

    def _config(self, loss: PairLossName, noise: float, **settings: Any) -> PreferenceOptimizationConfig:
        """Return settings in which a loss that reckons with wrong labels knows their rate."""
        if loss in ("robust_dpo", "conservative_dpo", "upo"):
            settings["epsilon"] = noise
        return PreferenceOptimizationConfig(loss=loss, schedule="linear", **settings)

    def _in_tree(self, part: Part, loss: PairLossName, noise: float, seed: int, folder: Path) -> float:
        env = make_scalar_env(TREE, (f"layout_seed={seed}",))
        answers = with_flips(exact_answers(env, self.num_pairs, seed=seed), noise, seed=seed)
        config = self._config(loss, noise, cloning_steps=0, batch_size=64, learning_rate=0.03,
                              schedule_timesteps=self.steps)  # fmt: skip
        agent = PreferenceOptimization(env, config, answers, device="cpu", seed=seed).learn(self.steps)
        task: Any = env.unwrapped
        start = task.tabular_model().start

        def value(policy: Any) -> float:
            return float(start @ task.true_value(policy))

        policy = agent.policy_table()[0].numpy()
        uniform, best = (
            value(np.full_like(policy, 1.0 / policy.shape[1])),
            float(start @ task.optimal_value()),
        )
        return (value(policy) - uniform) / (best - uniform)

    def _in_control(
        self, clones: dict[int, Any], part: Part, loss: PairLossName, noise: float, seed: int, folder: Path
    ) -> float:
        answers, _, expert = self._data(part, noise, seed, folder)
        env_id = CONTROL[part][0]
        config = self._config(loss, noise, hidden=(64, 64), batch_size=32, cloning_steps=self.steps,
                              schedule_timesteps=2 * self.steps)  # fmt: skip
        env = make_scalar_env(env_id, ())
        agent = PreferenceOptimization(env, config, answers, device="cpu", seed=seed)
        if seed in clones:  # cloning looks at no label, and at no setting of the loss
            agent.load_state_dict(copy.deepcopy(clones[seed]))
            agent.num_timesteps = self.steps
        else:
            clones[seed] = copy.deepcopy(agent.learn(self.steps).state_dict())
        cloned = kept(folder / part / f"cloned-{seed}.json", lambda: returned(agent, env_id))
        best = kept(folder / part / f"expert-{seed}.json", lambda: returned(expert, env_id))
        agent.learn(self.steps)
        return (returned(agent, env_id) - cloned) / (best - cloned)

    def _data(
        self, part: str, noise: float, seed: int, folder: Path
    ) -> tuple[Preferences, TransitionDataset, Agent]:
        env_id, timesteps = CONTROL[part]
        made = MixedQuality(env_id, timesteps, self.transitions, seed)
        expert, dataset = made.made(folder / "data" / f"{part}-{seed}")
        answers = regret_answers(expert, dataset, self.num_pairs, self.length, noise=noise, seed=seed)
        return answers, dataset, expert

    def _roads(self, seed: int, folder: Path) -> dict[str, float]:
        """Return the return at the end of each road, of the agent that learned online, and of the cloned."""
        env_id = CONTROL["pendulum"][0]
        env = make_scalar_env(env_id, ())
        answers, dataset, expert = self._data("pendulum", 0.0, seed, folder)

        def by_pairs(loss: PairLossName, **settings: Any) -> Agent:
            config = PreferenceOptimizationConfig(
                loss=loss, batch_size=32, cloning_steps=self.steps, schedule="linear", hidden=(64, 64),
                schedule_timesteps=2 * self.steps, **settings,
            )  # fmt: skip
            agent = PreferenceOptimization(env, config, answers, device="cpu", seed=seed)
            return agent.learn(2 * self.steps)

        def cloned(data: TransitionDataset) -> Agent:
            agent = BehaviourCloning(env, BehaviourCloningConfig(), dataset=data, device="cpu", seed=seed)
            return agent.learn(self.offline_steps)

        def by_reward() -> Agent:
            rewards = RewardModel(dataset.observation_space, dataset.action_space, seed=seed)
            rewards.fit(answers)
            agent = IQL(env, IQLConfig(), dataset=rewards.relabel(dataset), device="cpu", seed=seed)
            return agent.learn(self.offline_steps)

        ways: dict[str, Callable[[], Agent]] = {
            "online SAC": lambda: expert,
            "cloning": lambda: cloned(dataset),
            "cloning, best tenth": lambda: cloned(dataset.best_episodes(0.1)),
            "CPL": lambda: by_pairs("cpl"),
            "CPL, bias 1": lambda: by_pairs("cpl", bias=1.0),
            "DPO": lambda: by_pairs("dpo"),
            "reward model, IQL": by_reward,
        }
        return {
            name: kept(
                folder / "roads" / f"{name.replace(' ', '_')}-{seed}.json", partial(at_end, way, env_id)
            )
            for name, way in ways.items()
        }


def regret_answers(
    expert: SAC, dataset: TransitionDataset, num_pairs: int, length: int, *, noise: float = 0.0, seed: int
) -> Preferences:
    """Return comparisons of random segments by their regret, sum_t V(s_t) - r_t - gamma V(s_{t+1}).

    Args:
        expert: whose V(s), the smaller critic at its most likely action, is taken for the optimal one.
        dataset: what the segments are of.
        num_pairs: comparisons.
        length: steps of a segment.
        noise: share of labels that are turned round.
        seed: of pairs and flips.
    """
    first, second = random_excerpts(dataset, num_pairs, length, seed=seed)
    teacher = Teacher(DeterministicRegret(), mistake_rate=noise)
    labels, _ = teacher.label(_valued(expert, first), _valued(expert, second), seed=seed)
    metadata: dict[str, Any] = {"teacher": "regret", "seed": seed}
    return Preferences.from_labels(first.segments, second.segments, labels, metadata)


@torch.no_grad()
def _valued(expert: SAC, side: Excerpt) -> Valuation:
    """Return what the expert says along segments; V is 0 after a terminal state."""
    obs, lengths = side.segments.obs, side.segments.lengths
    rows = obs.flatten(0, 1).to(torch.float32)
    value = expert.networks.value(flat(rows)).view(obs.shape[:2]).double()
    steps = torch.arange(obs.shape[1])
    value = torch.where(side.segments.terminated[:, None] & (steps >= lengths[:, None]), 0.0, value)
    gamma = float(expert.config.of_learner(0).gamma)
    # The model's contributions are r_t + V(s_{t+1}) - V(s_t): the discount goes into the reward.
    rewards = side.rewards.double() - (1.0 - gamma) * value[:, 1:]
    return Valuation(rewards, side.segments.mask, value, value[:, :-1])


def returned(agent: Agent, env_id: str) -> float:
    """Return the mean return of the deterministic policy in fresh episodes."""
    return float(evaluate_rows(agent, make_evaluation_env(env_id, (), EPISODES), seed=10_000)["mean_return"])


def at_end(way: Callable[[], Agent], env_id: str) -> float:
    """Return the mean return of what a way of learning leads to."""
    return returned(way(), env_id)


def kept(path: Path, work: Callable[[], float]) -> float:
    """Return the number that a file holds, or do the work and write it there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = work()
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps({"value": found}), encoding="utf-8")
    return float(read_json(path)["value"])


def closed(roads: dict[str, float], name: str) -> float:
    """Return the share of the way from cloning to online SAC that a road goes."""
    return (roads[name] - roads["cloning"]) / (roads["online SAC"] - roads["cloning"])


def show_roads(roads: list[dict[str, float]]) -> None:
    """Print every seed's returns, and how much of the way each road goes."""
    table = Table("road", *(f"seed {seed}" for seed in range(len(roads))), "of the way")
    for name in roads[0]:
        returns, way = [each[name] for each in roads], [closed(each, name) for each in roads]
        table.add_row(name, *(f"{value:.0f}" for value in returns), " ".join(f"{share:.2f}" for share in way))
    Console(width=110).print(table)


def show(part: str, found: dict[str, Seeds]) -> None:
    """Print the median score of each loss and noise, with the least and the largest."""
    noises = list(next(iter(found.values())))
    table = Table("loss", *(f"noise {noise}" for noise in noises), title=part)
    for loss, by_noise in found.items():
        cells = (
            f"{np.median(by_noise[n]):.2f} ({min(by_noise[n]):.2f} to {max(by_noise[n]):.2f})" for n in noises
        )
        table.add_row(loss, *cells)
    Console(width=110).print(table)


def draw(results: dict[str, dict[str, Seeds]]) -> Figure:
    """Draw the scores of every seed, a panel for each environment, a row for each loss."""
    losses = list(dict.fromkeys(loss for found in results.values() for loss in found))
    figure = Figure(
        figsize=(3.4 * len(results) + 1.6, 0.36 * len(losses) + 1.4), dpi=150, layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (part, found) in zip(panels, results.items(), strict=True):
        noises = list(next(iter(found.values())))
        for place, noise in enumerate(noises):
            color = ("#1b9e77", "#7570b3", "#d95f02", "#666666")[place % 4]
            offset = 0.22 * (place - (len(noises) - 1) / 2)
            for row, loss in enumerate(losses):
                scores = found.get(loss, {}).get(noise, [])
                label = f"noise {noise}" if row == 0 else None
                axes.plot(scores, [row + offset] * len(scores), ".", color=color, alpha=0.4, markersize=4)
                if scores:
                    axes.plot(np.median(scores), row + offset, "|", color=color, markersize=8, label=label)
        axes.axvline(0.0, color="0.6", linewidth=0.8)
        axes.axvline(1.0, color="0.6", linewidth=0.8, linestyle="--")
        axes.set_title(part, loc="left", fontsize=11)
        axes.set_xlabel("0: reference, 1: optimum" if part == "tree" else "0: cloned, 1: online SAC")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(losses)), losses)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=len(labels), loc="outside upper right")
    return figure


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(PreferenceStudy, description=__doc__)))
