"""What an audit found, as a picture and as a table."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from prefrl.run.plot import save_figure

from .coherence import Audit

COLOURS = {"scalar": "#0b2a5b", "general": "#c1440e", "groups": "#2a7d4f"}
"""By kind of model."""

MOST_SHOWN = 40
"""Options in the matrix of answers."""


def draw_audit(audit: Audit, path: str | os.PathLike[str]) -> None:
    """Write a picture: held-out losses, circles against noise, and who is preferred to whom."""
    with_table = audit.answers.comparisons.features is None
    figure = Figure(figsize=(12.6 if with_table else 8.8, 3.9), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3 if with_table else 2)
    _draw_losses(axes[0], audit)
    _draw_circles(axes[1], audit)
    if with_table:
        _draw_answers(axes[2], audit)
    figure.suptitle(f"verdict: {audit.verdict.word}", fontsize=12, fontweight="bold")
    save_figure(figure, path)


def _draw_losses(axes: Axes, audit: Audit) -> None:
    """Draw what models gain over a coin on held-out answers, with two standard errors."""
    found = audit.findings
    names = list(found.models)
    for row, name in enumerate(names):
        gain, error = found.predictions[name].ahead_of(found.coin)
        colour = COLOURS[found.models[name].kind]
        axes.errorbar(math.log(2.0) - gain, row, xerr=2.0 * error, fmt="o", color=colour, capsize=3)
    axes.axvline(math.log(2.0), color="0.5", linestyle="--", linewidth=1)
    axes.annotate(" coin", (math.log(2.0), -0.6), color="0.4", fontsize=8, va="bottom")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlabel("held-out log-loss [nats], two standard errors")
    axes.set_title("which model predicts", fontsize=10)


def _draw_circles(axes: Axes, audit: Audit) -> None:
    """Draw the share of cyclic triads against what noise gives."""
    circles = audit.findings.circles
    axes.set_title("circles of three", fontsize=10)
    if circles is None:
        text = "no three options were all\ncompared without a tie"
        axes.text(0.5, 0.5, text, ha="center", va="center", color="0.4", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.hist(circles.null.numpy(), bins=30, color="0.75", label="noise, one reward")
    axes.axvline(circles.rate, color="#c1440e", linewidth=2, label="seen")
    axes.set_xlabel("share of triads that go round")
    axes.set_ylabel("draws")
    axes.set_title(f"circles of three, p = {circles.p:.2g} with the clearest", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _draw_answers(axes: Axes, audit: Audit) -> None:
    """Draw how often the row was preferred to the column, options sorted by their shares of all answers."""
    comparisons = audit.answers.comparisons
    wins = comparisons.wins()
    counts = wins + wins.T
    order = (wins.sum(1) / counts.sum(1)).argsort(descending=True, stable=True)
    kept = order[:MOST_SHOWN]
    share = torch.where(counts > 0.0, wins / counts.clamp(min=1e-300), torch.nan)[kept][:, kept]
    image = axes.imshow(share.numpy(), cmap="PuOr_r", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_title("row preferred to column", fontsize=10)
    if len(kept) <= 15:
        names = [cut(audit.answers.option_names[int(i)]) for i in kept]
        axes.set_xticks(range(len(kept)), names, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(kept)), names, fontsize=8)
    else:
        axes.set_xlabel(f"options, most preferred first ({len(kept)} of {comparisons.num_options})")
        axes.set_xticks([])
        axes.set_yticks([])
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="share of answers")


def show_audit(audit: Audit) -> None:
    """Print what was found."""
    result, console = audit.result, Console()
    table = Table("model", "accuracy", "log-loss", "better than a coin by", title="Answers held out",
                  title_justify="left")  # fmt: skip
    for name, numbers in result["models"].items():
        gain = f"{numbers['gain_over_coin']:.4f} ± {numbers['gain_standard_error']:.4f}"
        table.add_row(name.replace("_", " "), f"{numbers['accuracy']:.3f}", f"{numbers['log_loss']:.4f}",
                      "" if name == "coin" else gain)  # fmt: skip
    console.print(table)
    about = Table(title="All answers", title_justify="left", show_header=False)
    for row in _facts(result):
        about.add_row(*row)
    console.print(about)
    console.print(f"[bold]{audit.verdict.word}[/bold]: {audit.verdict.reason}", highlight=False)


def _facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is said of all answers."""
    agree, alpha, noise = (result[name] for name in ("agreement", "krippendorff_alpha", "noise"))
    people = "no question was answered by two"
    if agree is not None:
        people = f"{agree:.1%} of pairs of answers" + ("" if alpha is None else f", alpha {alpha:.2f}")
    turned = "cannot be told"
    if noise is not None:
        turned = "{:.0%}, {:.0%} to {:.0%}".format(noise, *result["noise_interval"])
    asked = (f"{result['num_answers']}, pairs: {result['num_pairs']}, options: {result['num_options']}, "
             f"users: {result['num_users']}, left out: {result['left_out']}")  # fmt: skip
    return [("answers", asked), ("options known by", result["known_by"]),
            ("cyclic triads", _circle_text(result)), ("users agree", people),
            ("answers turned", turned)]  # fmt: skip


def _circle_text(result: dict[str, Any]) -> str:
    """Return what is said of circles."""
    if result["cyclic_triads"] is None:
        return "(no three options were all compared without a tie)"
    low, high = result["cyclic_triads_interval"]
    return (f"{result['cyclic_triads']:.1%} of {result['triads']}; noise gives "
            f"{result['cyclic_triads_expected']:.1%} ({low:.1%} to {high:.1%}), "
            f"p = {result['cyclic_triads_p_value']:.2g}; clearest circle p = "
            f"{result['clearest_p_value']:.2g}")  # fmt: skip


def cut(name: str, longest: int = 16) -> str:
    """Return a name, or as much of it as fits and dots."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
