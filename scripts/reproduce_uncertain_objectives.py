"""Planning for several reward functions of which nobody knows the right one, in many random grid worlds.

Each grid has a few members, who weigh goal, sheep, coins and roadblocks each in their own way. Plans for all
of them are held against each other: whether they ever take an action that every member thinks worse than
another, how much of its own optimum a member loses by the plan (0: nothing, 1: as much as by random actions),
and how much of that remains if, where members disagree, the one that is right is asked.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from prefrl.cli import execute
from prefrl.envs.grids.random_grid import RandomGridDynamics, generate_grid
from prefrl.envs.rendering.boards import draw_board
from prefrl.functional.preferences.uncertain_objectives import approval
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.plot import PALETTE, save_figure
from prefrl.run.study.study import check_positive, run_study
from prefrl.tabular import (
    TabularMDP,
    UncertainPlan,
    mean_start_value,
    optimal_policy,
    plan_under_uncertainty,
    policy_evaluation,
)

CONTINUATIONS, CHOICES = ("shared", "own"), ("mean", "worst", "approval")
AGREEMENTS = (0.0, 0.6, 0.8, 1.0)
"""Weights of members that must approve of an action, or somebody is asked."""

CLEARLY = 1e-7
"""Share of a member's range by which an action must be worse to count as dominated here."""

ARROWS = ((0.0, -0.32), (0.0, 0.32), (-0.32, 0.0), (0.32, 0.0))
"""Up, down, left, right in a picture."""


@dataclass(frozen=True)
class Task:
    """A grid and what its members want."""

    mdp: TabularMDP
    rewards: Tensor
    """[M, S, A]."""
    values: Tensor
    """[M, S, A] of each member's own best policy."""
    best: Tensor
    """[M] value of the start under it."""
    random: Tensor
    """[M] value of the start under random actions."""
    gamma: float

    @classmethod
    def drawn(cls, layout: int, members: int, gamma: float) -> Task:
        """Return the task of a layout: members' weights are those of other layouts."""
        mdp = TabularMDP.from_env(RandomGridDynamics(layout_seed=layout))
        drawn = np.stack([generate_grid(1_000_000 + layout * members + m)[1] for m in range(members)])
        rewards = mdp.linear_rewards(torch.as_tensor(drawn)[:, None])
        values, quality, _ = optimal_policy(mdp, rewards, gamma)
        even = torch.full_like(rewards, 1.0 / mdp.num_actions)
        random = mean_start_value(mdp, policy_evaluation(mdp, even, rewards, gamma))
        return cls(
            mdp, rewards[:, 0], quality[:, 0], mean_start_value(mdp, values)[:, 0], random[:, 0], gamma
        )

    def regret(self, policy: Tensor) -> Tensor:
        """Return what each member loses [M] by policies [M, S, A], or one [S, A]."""
        policy = policy.expand_as(self.rewards)[:, None]
        reached = policy_evaluation(self.mdp, policy, self.rewards[:, None], self.gamma)
        return (self.best - mean_start_value(self.mdp, reached)[:, 0]) / (self.best - self.random)

    def dominated(self, actions: Tensor, values: Tensor) -> int:
        """Return in how many states actions [S] are worse than another by the values [M, S, A] of everybody.

        Counted one by one, and not as the planner does.
        """
        spread = (values.amax((1, 2)) - values.amin((1, 2))).tolist()
        rows, live, found = values.tolist(), (~self.mdp.terminal[0]).tolist(), 0
        for state, action in enumerate(actions.tolist()):
            gains = [
                [
                    (row[state][other] - row[state][action]) / (size or 1.0)
                    for row, size in zip(rows, spread, strict=True)
                ]
                for other in range(self.mdp.num_actions)
            ]
            found += live[state] and any(min(gain) >= 0.0 and max(gain) > CLEARLY for gain in gains)
        return found


@dataclass(frozen=True)
class UncertainObjectives:
    """Plans for several reward functions at once, in random grid worlds."""

    out: Path = Path("runs/uncertain_objectives")
    """Run folder, new or empty."""

    num_grids: int = 180
    """Random grids."""

    first_layout: int = 0
    """Layout seed of the first grid; the others follow."""

    members: int = 5
    """Reward functions of each."""

    gamma: float = 0.95
    """Discount."""

    def __post_init__(self) -> None:
        check_positive(self, "num_grids", "members")

    def run(self) -> None:
        """Run the study in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return every number of the study; draw ``uncertain_objectives.png``."""
        layouts = range(self.first_layout, self.first_layout + self.num_grids)
        grids = [self._grid(layout) for layout in track(layouts, "grids", transient=True)]
        found = {"states": sum(grid["states"] for grid in grids), "plans": _pooled(grids, "plans"),
                 "asking": _pooled(grids, "asking"), "grids": grids}  # fmt: skip
        show(found)
        save_figure(self.draw(found), folder.path / "uncertain_objectives.png")
        return found

    def _grid(self, layout: int) -> dict[str, Any]:
        """Return the numbers of one grid."""
        task = Task.drawn(layout, self.members, self.gamma)
        live, plans = ~task.mdp.terminal[0], {}
        for continuation in CONTINUATIONS:
            for choice in CHOICES:
                plan = self.plan(task, continuation=continuation, choice=choice)
                plans[f"{continuation}, {choice}"] = _numbers(task, plan.policy(), plan.values)
        weights = task.rewards.new_full((self.members,), 1.0 / self.members)
        vote = approval(task.values, weights, 1e-9).argmax(-1)
        plans["vote alone"] = _numbers(task, _one_hot(vote, task), task.values)
        drawn = task.values[0].argmax(-1)
        plans["one member"] = _numbers(task, _one_hot(drawn, task), task.values)
        own, asking = _one_hot(task.values.argmax(-1), task), {}
        for agreement in AGREEMENTS:
            plan = self.plan(task, agreement=agreement)
            mixed = torch.where(plan.abstains[:, None], own, plan.policy())
            share = float(plan.abstains[live].double().mean())
            asking[str(agreement)] = {"asked": share, "regret": float(task.regret(mixed).mean())}
        return {"layout": layout, "states": int(live.sum()), "plans": plans, "asking": asking}

    def plan(self, task: Task, **settings: Any) -> UncertainPlan:
        """Return a plan for members that are equally likely to be right."""
        weights = task.rewards.new_full((self.members,), 1.0 / self.members)
        return plan_under_uncertainty(task.mdp, task.rewards, weights, self.gamma, **settings)

    def draw(self, found: dict[str, Any]) -> Figure:
        """Draw a grid with what may be done in each cell, and what asking is worth."""
        figure = Figure(figsize=(9, 4), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1.0))
        asked = {grid["layout"]: grid["asking"]["1.0"]["asked"] for grid in found["grids"]}
        layout = min(asked, key=lambda key: abs(asked[key] - 0.4))
        self._draw_grid(left, layout)
        shares = [100.0 * found["asking"][str(a)]["asked"] for a in AGREEMENTS]
        regrets = [found["asking"][str(a)]["regret"] for a in AGREEMENTS]
        right.plot(shares, regrets, "o-", color=PALETTE[0])
        for share, regret, agreement in zip(shares, regrets, AGREEMENTS, strict=True):
            right.annotate(f"{agreement:g}", (share, regret), xytext=(5, 5), textcoords="offset points")
        right.set(xlabel="states in which somebody is asked (%)", ylabel="mean regret of the members")
        right.set(title=f"by the agreement asked for, {len(found['grids'])} grids", ylim=(0.0, None))
        right.grid(alpha=0.3)
        return figure

    def _draw_grid(self, axes: Any, layout: int) -> None:
        """Draw a grid with the undominated actions as arrows, and the cells without agreement."""
        cells = generate_grid(layout)[0]
        task = Task.drawn(layout, self.members, self.gamma)
        plan = self.plan(task, agreement=1.0)
        height, width = cells.shape
        axes.imshow(draw_board(cells), extent=(-0.5, width - 0.5, height - 0.5, -0.5), alpha=0.45)
        for state in torch.nonzero(~task.mdp.terminal[0])[:, 0].tolist():
            row, column = divmod(state, width)
            color = PALETTE[1] if bool(plan.abstains[state]) else PALETTE[0]
            for action, (dx, dy) in enumerate(ARROWS):
                if bool(plan.undominated[state, action]):
                    chosen = int(plan.actions[state]) == action
                    style = {"arrowstyle": "->", "color": color, "mutation_scale": 8,
                             "lw": 1.8 if chosen else 0.7}  # fmt: skip
                    axes.annotate("", (column + dx, row + dy), (column, row), arrowprops=style)
        axes.set(title=f"grid {layout}: undominated actions, the chosen one thick;\n"
                 "orange: no action is best for everybody", xticks=[], yticks=[])  # fmt: skip


def _one_hot(actions: Tensor, task: Task) -> Tensor:
    """Return actions [..., S] as a policy [..., S, A]."""
    return torch.nn.functional.one_hot(actions, task.mdp.num_actions).to(task.rewards.dtype)


def _numbers(task: Task, policy: Tensor, values: Tensor) -> dict[str, float]:
    """Return how often a policy [S, A] takes dominated actions, and mean and worst regret of the members."""
    regret = task.regret(policy)
    return {"dominated": task.dominated(policy.argmax(-1), values), "regret": float(regret.mean()),
            "worst": float(regret.max())}  # fmt: skip


def _pooled(grids: list[dict[str, Any]], key: str) -> dict[str, dict[str, float]]:
    """Return means over grids, and the sum of dominated actions."""
    return {
        row: {
            name: sum(grid[key][row][name] for grid in grids) / (1 if name == "dominated" else len(grids))
            for name in grids[0][key][row]
        }
        for row in grids[0][key]
    }


def show(found: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    plans = Table("plan", "dominated actions", "mean regret", "worst member's",
                  title=f"{len(found['grids'])} grids, {found['states']:,} states")  # fmt: skip
    for name, row in found["plans"].items():
        plans.add_row(name, f"{row['dominated']:.0f}", f"{row['regret']:.3f}", f"{row['worst']:.3f}")
    asking = Table("agreement", "asked, % of states", "mean regret", title="asking whoever is right")
    for name, row in found["asking"].items():
        asking.add_row(name, f"{100 * row['asked']:.1f}", f"{row['regret']:.3f}")
    for table in (plans, asking):
        Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(UncertainObjectives, description=__doc__)))
