"""``prefrl audit alignment``: does a policy prefer what is preferred, or more than its reference alone?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import Preferences, Segments, load_preferences
from prefrl.data.comparisons import check_segments
from prefrl.functional.preferences.alignment import alignment, pair_accuracy
from prefrl.run.folder import RunFolder
from prefrl.run.plot import PALETTE

from .base import PolicyAudit, RunArgument, facts, figure, open_run

MOST_SHOWN = 5_000
"""Comparisons in the picture, and in ``result.json``."""


@dataclass(frozen=True, kw_only=True)
class AuditAlignment(PolicyAudit):
    """Does a policy itself prefer what is preferred (absolute), or more than its reference (relative)?"""

    kind: ClassVar[str] = "alignment"

    run_folder: RunArgument
    """Run folder of a policy with a likelihood, such as one of preference_optimization."""

    preferences: Path | None = None
    """Comparisons to look at, also others than were learned from; by default those that the folder keeps."""

    reference: Path | None = None
    """Run folder of the reference; by default the policy that it began to learn from comparisons with."""

    per_step: bool = False
    """Take the mean of log-likelihoods over the steps of a segment instead of their sum."""

    def look(self) -> dict[str, Any]:
        """See :class:`PolicyAudit`."""
        folder = RunFolder.open(self.run_folder, quiet=True)
        kept = folder.path / "preferences.npz"
        if self.preferences is None and not kept.exists():
            raise ValueError(f"preferences is None and {folder.path} keeps none; give comparisons: "
                             "--preferences FILE")  # fmt: skip
        comparisons = load_preferences(self.preferences or kept)
        agents: Sequence[Any] = open_run(folder).agent.alone()
        references: list[Any] = [None] * len(agents)
        if self.reference is not None:
            found = open_run(RunFolder.open(self.reference, quiet=True)).agent.alone()
            references = [found[place % len(found)] for place in range(len(agents))]
        self._check(agents, comparisons, references)
        leads = [self._leads(agent.log_prob, comparisons) for agent in agents]
        bases = [
            self._leads(agent.reference_log_prob if base is None else base.log_prob, comparisons)
            for agent, base in zip(agents, references, strict=True)
        ]
        return _numbers(torch.stack(leads), torch.stack(bases), comparisons)

    def _check(
        self, agents: Sequence[Agent], comparisons: Preferences, references: Sequence[Agent | None]
    ) -> None:
        """Raise ValueError for policies without likelihood or reference, and for other spaces."""
        agent = agents[0]
        if not hasattr(agent, "log_prob"):
            raise ValueError(f"{self.run_folder} is a run of {type(agent).__name__}, which has no likelihood "
                             "of actions; alignment is one of policies that have")  # fmt: skip
        if self.reference is None and not (
            hasattr(agent, "reference_log_prob") and getattr(agent, "reference", None) is not None
        ):
            raise ValueError(f"reference is None and the {type(agent).__name__} of {self.run_folder} has "
                             "none of its own; give a run: --reference RUN")  # fmt: skip
        for side in (comparisons.first, comparisons.second):
            check_segments("the segments", side, agent.observation_space, agent.action_space)
        base = references[0]
        if base is None:
            pass
        elif not hasattr(base, "log_prob"):
            raise ValueError(f"reference {self.reference} is a run of {type(base).__name__}, which has no "
                             "likelihood of actions")  # fmt: skip
        elif (base.observation_space, base.action_space) != (agent.observation_space, agent.action_space):
            raise ValueError(f"reference {self.reference} has observations {base.observation_space} and "
                             f"actions {base.action_space}; those of {self.run_folder} are "
                             f"{agent.observation_space} and {agent.action_space}")  # fmt: skip
        if not bool(((comparisons.labels != 0.5) & (comparisons.weights > 0.0)).any()):
            raise ValueError("every comparison is a tie, or has weight 0; none says what is preferred")

    def _leads(self, said_by: Callable[[Segments], Tensor], comparisons: Preferences) -> Tensor:
        """Return by how much the second is likelier [N], of a sum or a mean of log-likelihoods over steps."""
        sides = []
        for segments in (comparisons.first, comparisons.second):
            total = said_by(segments).sum(-1).double().cpu()
            sides.append(total / segments.lengths.cpu() if self.per_step else total)
        return sides[1] - sides[0]

    def draw(self, result: Mapping[str, Any]) -> Figure:
        """See :class:`PolicyAudit`: how far reference and policy put the preferred one first."""
        drawn = figure(5.6, 4.6)
        axes = drawn.subplots()
        base, own = result["reference_leads"], result["leads"]
        reach = 1.05 * max(1e-9, *(abs(value) for value in (*base, *own)))
        axes.fill([-reach, -reach, 0.0], [-reach, 0.0, 0.0], color=PALETTE[1], alpha=0.15,
                  label="undesired: moved, still wrong")  # fmt: skip
        axes.plot([-reach, reach], [-reach, reach], color="0.5", linewidth=0.8, linestyle="--")
        for line in (axes.axhline, axes.axvline):
            line(0.0, color="0.5", linewidth=0.8)
        axes.scatter(base, own, s=9, color=PALETTE[0], alpha=0.5, linewidths=0)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="lead of the preferred one, reference",
                 ylabel="lead of the preferred one, policy")  # fmt: skip
        axes.set_title(f"absolute {result['absolute_alignment']:.3f}, relative "
                       f"{result['relative_alignment']:.3f}", fontsize=11, fontweight="bold")  # fmt: skip
        axes.legend(fontsize=8, frameon=False, loc="upper left")
        return drawn

    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """See :class:`PolicyAudit`."""
        names = {
            "absolute_alignment": "prefers what is preferred (absolute)",
            "relative_alignment": "more than the reference does (relative)",
            "undesired": "moved there, and still prefers the other (undesired)",
            "reference_alignment": "the reference prefers what is preferred",
            "pair_accuracy": "names the answer, ties of the policy half",
        }
        rows = {text: f"{result[name]:.1%} of pairs" for name, text in names.items()}
        rows["comparisons, policies"] = f"{result['num_pairs']}, {len(result['learners'])}"
        return [facts("Alignment", rows)]


def _numbers(leads: Tensor, bases: Tensor, comparisons: Preferences) -> dict[str, Any]:
    """Return what is found, means over learners, of leads [S, N]."""
    labels, weights = (each.cpu().double() for each in (comparisons.labels, comparisons.weights))
    found = alignment(leads, bases, labels, weights)
    own, base = (pair_accuracy(each, labels, weights) for each in (leads, bases))
    sides = torch.sign(labels - 0.5)
    shown = torch.nonzero(sides)[:MOST_SHOWN, 0]
    of_reference = alignment(bases, bases, labels, weights).absolute
    return {
        "absolute_alignment": float(found.absolute.mean()),
        "relative_alignment": float(found.relative.mean()),
        "undesired": float(found.undesired.mean()),
        "reference_alignment": float(of_reference.mean()),
        "pair_accuracy": float(own.mean()),
        "reference_accuracy": float(base.mean()),
        "learners": [
            {"absolute_alignment": float(a), "relative_alignment": float(r), "undesired": float(u)}
            for a, r, u in zip(*found, strict=True)
        ],
        "num_pairs": len(labels),
        "leads": (sides * leads[0])[shown].tolist(),
        "reference_leads": (sides * bases[0])[shown].tolist(),
    }
