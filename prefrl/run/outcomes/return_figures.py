"""Pictures of return distributions, of the CVaR frontier, and of policies that change with the stock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from prefrl.agents.returns.distributional_dp import DistributionalDP
from prefrl.envs.grids.grid import MOVES
from prefrl.envs.rendering.fields import draw_field
from prefrl.run.plot import PALETTE, save_figure, tidy
from prefrl.tabular.return_distributions import StockPolicy, nearest_action

from .figures import draw_policy

SHOWN_STOCKS = 5
"""Stocks whose policy is drawn."""


def draw_distribution(
    axes: Axes, returns: Tensor, probs: Tensor, *, label: str, colour: str, shift: float
) -> None:
    """Draw a distribution of numbers as thin bars, moved sideways so that several can be told apart."""
    kept = probs > 1e-4
    places, heights = returns[kept].cpu().numpy(), probs[kept].cpu().numpy()
    axes.vlines(places + shift, 0.0, heights, color=colour, linewidth=2.2)
    axes.plot(places + shift, heights, "o", color=colour, markersize=3.5, label=label)


def draw_plane(axes: Axes, returns: Tensor, probs: Tensor, *, title: str, colour: str) -> None:
    """Draw a distribution of the first two components of vectors as discs, as large as they are likely."""
    kept = probs > 1e-4
    places, sizes = returns[kept].cpu().numpy(), probs[kept].cpu().numpy()
    axes.scatter(places[:, 0], places[:, 1], s=1500.0 * sizes, color=colour, alpha=0.6, linewidths=0)
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.axvline(0.0, color="0.6", linewidth=0.8)
    axes.set_title(title, fontsize=10)


def three_distributions(agent: DistributionalDP) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """Return the distributions of G of the risk-neutral, the naive and the best policy, and their values."""
    solution = agent.solution
    assert solution is not None
    criterion = agent.wanted.criterion(solution.initial_stock)
    policies = {"risk-neutral": agent.risk_neutral_policy(), "naive": agent.naive_policy()}
    distributions = {
        name: (policy.lattice.outcomes, policy.distribution()[0, 0]) for name, policy in policies.items()
    }
    distributions["optimised"] = (solution.returns, solution.probs)
    return distributions, {
        name: float(criterion.value(*distribution)) for name, distribution in distributions.items()
    }


def draw_returns(axes: Axes, agent: DistributionalDP) -> None:
    """Draw the distribution of returns before and after, of numbers."""
    distributions, values = three_distributions(agent)
    for place, (label, distribution) in enumerate(distributions.items()):
        draw_distribution(axes, *distribution, label=f"{label}: {values[label]:.4g}", colour=PALETTE[place],
                 shift=(place - 1) * 0.09)  # fmt: skip
    tidy(axes)
    axes.set_xlabel("return G")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.set_ylabel("probability")
    axes.set_ylim(bottom=0.0)
    axes.legend(title=agent.config.objective.replace("_", " "), fontsize=9, frameon=False)


def save_returns_figure(path: Path, agent: DistributionalDP) -> None:
    """Draw the returns' distribution before and after: of the risk-neutral, the naive and the best policy."""
    assert agent.solution is not None
    if agent.solution.returns.ndim > 1:
        save_plane_figure(path, *three_distributions(agent), agent.solution.initial_stock)
        return
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    draw_returns(figure.subplots(), agent)
    save_figure(figure, path)


def save_plane_figure(
    path: Path,
    distributions: Mapping[str, tuple[Tensor, Tensor]],
    values: Mapping[str, float],
    initial_stock: Sequence[float],
) -> None:
    """Draw distributions of where vector stocks end, c_0 + G, beside each other."""
    figure = Figure(figsize=(3.4 * len(distributions), 3.6), layout="constrained")
    panels = figure.subplots(1, len(distributions), sharex=True, sharey=True, squeeze=False)[0]
    for place, (axes, (label, (returns, probs))) in enumerate(
        zip(panels, distributions.items(), strict=True)
    ):
        totals = returns + returns.new_tensor(initial_stock)
        draw_plane(axes, totals, probs, title=f"{label}: {values[label]:.4g}", colour=PALETTE[place])
        axes.set_xlabel("final stock, component 1")
    panels[0].set_ylabel("component 2")
    save_figure(figure, path)


def draw_frontier(axes: Axes, taus: Sequence[float], curves: Mapping[str, Sequence[float]]) -> None:
    """Draw CVaR over tau for several kinds of policies."""
    for place, (label, values) in enumerate(curves.items()):
        axes.plot(taus, values, "o-", color=PALETTE[place], label=label, markersize=4)
    tidy(axes)
    axes.set_xlabel("tau: the fraction of worst returns")
    axes.set_ylabel("CVaR of the return")
    axes.legend(fontsize=9, frameon=False)


def policy_by_stock(policy: StockPolicy, time: int, total: Tensor) -> NDArray[np.float64]:
    """Return the first MDP's policy [S, A] at a time for a total gamma^t c, [] or [k].

    In states where that total is not reached it is that of the nearest one which is.
    """
    mdp = policy.problem.mdp
    states = torch.arange(mdp.num_states, device=mdp.device)
    totals = total.expand(mdp.num_states, *total.shape)
    actions = nearest_action(
        policy.actions[time][0], policy.lattice.points[time], policy.lattice.reached[time][0], states, totals
    )
    chosen: NDArray[np.float64] = np.eye(mdp.num_actions)[actions.cpu().numpy()]
    return chosen


def stocks_to_show(policy: StockPolicy) -> tuple[int, list[Tensor]]:
    """Return a time at which there are several totals, and some of them: [] each, or [k]."""
    points = policy.lattice.points
    time = 0 if len(points[0]) >= SHOWN_STOCKS else policy.problem.horizon // 2
    totals = points[time]
    if totals.ndim == 1:
        places = torch.unique(torch.linspace(0, len(totals) - 1, SHOWN_STOCKS).round().long())
        return time, list(totals[places])
    low, middle, high = (torch.quantile(totals, share, dim=0) for share in (0.25, 0.5, 0.75))
    mixed = [torch.cat([low[:1], high[1:]]), torch.cat([high[:1], low[1:]])]
    wanted = torch.stack([low, mixed[0], middle, mixed[1], high])
    return time, list(totals[torch.cdist(wanted, totals).argmin(-1)])


def save_policy_figure(path: Path, agent: DistributionalDP) -> bool:
    """Draw the policy on the board for several stocks; return False where there is no board."""
    assert agent.solution is not None
    cells = getattr(getattr(agent.env.unwrapped, "dynamics", None), "cells", None)
    policy = agent.solution.policy
    if cells is None or min(cells.shape) < 2 or policy.problem.mdp.num_actions != len(MOVES):
        return False
    time, totals = stocks_to_show(policy)
    reached = policy.lattice.reached[time][0].any(-1)  # in other states no action is known
    live = (reached & ~policy.problem.mdp.terminal[0]).cpu().numpy()
    height, width = cells.shape
    figure = Figure(figsize=(max(1.7, 0.45 * width) * len(totals), 0.5 * height + 0.9), layout="constrained")
    for axes, total in zip(figure.subplots(1, len(totals), squeeze=False)[0], totals, strict=True):
        stock = total / policy.problem.gamma**time
        shown = ", ".join(f"{value:.3g}" for value in stock.reshape(-1).tolist())
        draw_policy(axes, cells, policy_by_stock(policy, time, total), live, title=f"c = {shown}",
                    paint=draw_field)  # fmt: skip
    figure.suptitle(f"best actions at time {time}, by stock c", fontsize=10)
    save_figure(figure, path)
    return True
