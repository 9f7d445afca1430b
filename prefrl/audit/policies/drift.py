"""``prefrl audit drift``: how did a policy's stances move while it learned, and when?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from prefrl.config import Natural
from prefrl.data import load_preferences
from prefrl.functional.preferences.audits.value_drift import drift
from prefrl.run.folder import RunFolder
from prefrl.run.plot import PALETTE

from .base import PolicyAudit, facts, figure, open_run
from .stances import Categories, Numbers, Stances, StanceSettings, gap_of


@dataclass(frozen=True, kw_only=True)
class AuditDrift(StanceSettings, PolicyAudit):
    """How did a policy's stances move from checkpoint to checkpoint, how far, when, and as the data say?"""

    kind: ClassVar[str] = "drift"

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, in the order in which the policy went through them: of one, its checkpoints (all of them
    where it was trained with --keep-checkpoints, else the last two); of several, those of all."""

    since: Natural = 0
    """Timestep from which the drift is measured: the first checkpoint from there on; cloning ends there."""

    preferences: Path | None = None
    """Comparisons whose value gap is set beside the drift of actions; by default those that the last run
    learned from, if its folder keeps them."""

    def check(self) -> None:
        """Raise ValueError without a run, or for comparisons beside stances that are no actions."""
        super().check()
        if not self.runs:
            raise ValueError("runs is empty; give at least one run folder")
        if self.preferences is not None and self.stance != "action":
            raise ValueError(f"preferences are given and stance is {self.stance!r}; the value gap of "
                             "comparisons is one of actions")  # fmt: skip

    def look(self) -> dict[str, Any]:
        """See :class:`PolicyAudit`."""
        times, answers, stances = self._answers()
        categories = stances.categories(answers)
        shares = torch.stack([categories.shares(each) for each in answers])
        moved = drift(shares, torch.tensor(times, dtype=torch.float64))
        gap = self._gap(stances, categories)
        return {
            "stance": self.stance,
            "stances": list(categories.names),
            "timesteps": times,
            "shares": shares.tolist(),
            "standard_error": (shares * (1.0 - shares) / len(answers[0])).sqrt().tolist(),
            "magnitude": moved.magnitude.tolist(),
            "extremum": moved.extremum.tolist(),
            "drift_time": moved.time.tolist(),
            "total_drift": float(moved.total),
            "value_gap": None if gap is None else gap.tolist(),
            "follows_gap": None if gap is None else _agreement(gap, moved.magnitude),
        }

    def _answers(self) -> tuple[list[int], list[Numbers], Stances]:
        """Return timesteps of checkpoints, what the policy did at each, and who asked."""
        settings = StanceSettings(
            **{field.name: getattr(self, field.name) for field in fields(StanceSettings)}
        )
        times: list[int] = []
        answers: list[Numbers] = []
        stances: Stances | None = None
        begun = 0  # timesteps of the runs before
        for path in self.runs:
            folder = RunFolder.open(path, quiet=True)
            views = folder.kept() or [folder]  # without any, the agent that was saved at the end
            done = begun
            for view in views:
                agent, env, recipe = open_run(view)
                if stances is None:
                    stances = Stances(settings, env, recipe)
                elif (env.observation_space, env.action_space) != (
                    stances.observation_space, stances.action_space
                ):  # fmt: skip
                    raise ValueError(f"{path} has observations {env.observation_space} and actions "
                                     f"{env.action_space}; those of {self.runs[0]} are "
                                     f"{stances.observation_space} and {stances.action_space}")  # fmt: skip
                done = begun + agent.num_timesteps
                if done >= self.since:
                    times.append(done)
                    answers.append(stances.ask(agent))
            begun = done
        if len(times) < 2:
            raise ValueError(f"runs have {len(times)} checkpoints from timestep {self.since} on; a drift "
                             "needs two: train with --keep-checkpoints, or give several runs")  # fmt: skip
        assert stances is not None
        return times, answers, stances

    def _gap(self, stances: Stances, categories: Categories) -> Tensor | None:
        """Return the value gap [C] of the comparisons, if there are some."""
        kept = self.runs[-1] / "preferences.npz"
        path = self.preferences or (kept if kept.exists() else None)
        if path is None or self.stance != "action":
            return None
        return gap_of(load_preferences(path), stances, categories)

    def draw(self, result: Mapping[str, Any]) -> Figure:
        """See :class:`PolicyAudit`: shares over time, and where they went beside what the data say."""
        drawn = figure(10.4)
        left, right = drawn.subplots(1, 2, width_ratios=(1.5, 1.0))
        times, shares = result["timesteps"], torch.tensor(result["shares"])
        for place, name in enumerate(result["stances"]):
            colour = PALETTE[place % len(PALETTE)]
            style = "-" if place < len(PALETTE) else "--"
            left.plot(times, shares[:, place], style, marker=".", color=colour, label=name)
            if result["extremum"][place]:
                left.axvline(
                    times[0] + result["drift_time"][place], color=colour, linewidth=0.7, linestyle=":"
                )
        left.set(xlabel="timesteps (dotted: 95 % of the way)", ylabel="share of stances", ylim=(0.0, None))
        left.legend(fontsize=8, frameon=False)
        places = torch.arange(len(result["stances"])).double()
        right.bar(places - 0.2, result["magnitude"], 0.38, color=PALETTE[0], label="drift")
        if result["value_gap"] is not None:
            right.bar(
                places + 0.2, result["value_gap"], 0.38, color=PALETTE[4], label="value gap of the data"
            )
        right.axhline(0.0, color="0.3", linewidth=0.8)
        right.set_xticks(places, result["stances"], rotation=30, ha="right", fontsize=8)
        right.legend(fontsize=8, frameon=False)
        drawn.suptitle(f"total drift {result['total_drift']:.3f}", fontsize=12, fontweight="bold")
        return drawn

    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """See :class:`PolicyAudit`."""
        table = Table("stance", "first", "last", "drift", "95 % after", "value gap",
                      title=f"Stances over {len(result['timesteps'])} checkpoints",
                      title_justify="left")  # fmt: skip
        for place, name in enumerate(result["stances"]):
            first, last = (result["shares"][at][place] for at in (0, -1))
            gap = "" if result["value_gap"] is None else f"{result['value_gap'][place]:+.3f}"
            error = result["standard_error"][-1][place]
            moved, after = (result[key][place] for key in ("magnitude", "drift_time"))
            table.add_row(
                name, f"{first:.3f}", f"{last:.3f} ± {error:.3f}", f"{moved:+.3f}", f"{after:,.0f}", gap
            )
        rows = {"total drift": f"{result['total_drift']:.3f}"}
        if result["follows_gap"] is not None:
            rows["drift and value gap have one sign"] = f"{result['follows_gap']:.0%} of the drift"
        return [table, facts("All stances", rows)]


def _agreement(gap: Tensor, magnitude: Tensor) -> float:
    """Return the share of all drift that goes where the value gap points; 0 where nothing drifted."""
    size = magnitude.abs()
    same = (gap.sign() == magnitude.sign()).double()
    return float((size * same).sum() / size.sum().clamp(min=1e-300))
