"""Do networks lose the ability to fit new targets, and does it depend on the loss they are trained with?

The synthetic study of Farebrother et al. 2024 (arXiv 2403.03950, on non-stationary targets), on random inputs
in place of images: targets y = sin(frequency * f(x)) + b, with a fresh random frozen network f in every phase
and an offset b that grows from phase to phase, as values grow while a policy improves. One network lives
through all phases, and so does its optimiser. Four losses: squared error, squared error of the mean of a
softmax (the network of HL-Gauss without its cross-entropy), Two-Hot, HL-Gauss.

At the published frequency, 1e5, targets are all but unrelated from point to point and have to be memorised;
at frequency 10 they are a smooth function of x.

All seeds of a loss are one stack of networks. A seed is the same for every loss: inputs, targets, batches,
hidden layers at the start. The last layer starts as a value network's does here: like ``torch.nn.Linear`` for
a scalar; with weights 0 and the bias of the flattest distribution that decodes to 0 for a softmax. Batches
are drawn with replacement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from prefrl.cli import execute
from prefrl.data.devices import seeded_generator
from prefrl.functional.statistics import FloatArray, bootstrap_interval, interquartile_mean
from prefrl.functional.value_based.value_distributions import (
    atoms,
    bin_centers,
    bin_edges,
    cross_entropy,
    expected_value,
    hl_gauss_probs,
    resolve_sigma,
    two_hot_probs,
)
from prefrl.nn import StackedLinear, StackedMLP, flattest_log_probs
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.plot import PALETTE, save_figure
from prefrl.run.study.study import check_positive, run_study

LOSSES = {
    "mse": "squared error (L2)",
    "mse_softmax": "squared error of a softmax mean",
    "two_hot": "Two-Hot",
    "hl_gauss": "HL-Gauss",
}
"""Keys of the result, and names in the figure."""

MARGIN = 1.0
"""Largest distance of a target from its phase's offset."""


@dataclass(frozen=True)
class Plasticity:
    """Networks trained with four losses on targets that change and grow, phase after phase."""

    out: Path = Path("runs/plasticity")
    """Run folder, new or empty."""

    frequencies: tuple[float, ...] = (10.0, 1e5)
    """Of the sine [rad per unit of the frozen network's output]."""

    offsets: tuple[float, ...] = (0.0, 8.0, 16.0, 24.0, 32.0)
    """b, one per phase; the first and the last are compared."""

    num_seeds: int = 5
    """Seeds per loss, trained as one stack."""

    points: int = 2_048
    """Inputs, normally distributed."""

    inputs: int = 32
    """Size of an input."""

    hidden: tuple[int, ...] = (256, 256)
    """Layers of the networks that learn and of those that make the targets."""

    steps: int = 2_000
    """Optimiser steps per phase."""

    batch_size: int = 256
    """Points per step."""

    learning_rate: float = 1e-3
    """Of Adam, for every loss (as published)."""

    v_max: float = 40.0
    """The support of the distributions reaches from -v_max to v_max (as published)."""

    bins: int = 101
    """Bins of HL-Gauss and of the softmax mean, atoms of Two-Hot (as published)."""

    sigma_ratio: float = 0.75
    """HL-Gauss' sigma in bin widths."""

    eval_every: int = 100
    """Steps between two measurements of the error over all points; divides ``steps``."""

    seed: int = 0
    """The first seed; the others follow."""

    def __post_init__(self) -> None:
        check_positive(self, "num_seeds", "points", "inputs", "hidden", "steps", "batch_size", "eval_every")
        if self.steps % self.eval_every:
            raise ValueError(f"eval_every is {self.eval_every}; it must divide steps, {self.steps}")
        if not self.frequencies or len(set(self.frequencies)) < len(self.frequencies):
            raise ValueError(f"frequencies is {self.frequencies}; it must be one or more different numbers")
        if len(self.offsets) < 2:
            raise ValueError(f"offsets is {self.offsets}; it must have at least 2, a first and a last phase")
        if not max(map(abs, self.offsets)) + MARGIN <= self.v_max:
            raise ValueError(f"v_max is {self.v_max}; it must be at least {MARGIN:g} above all offsets, "
                             f"{self.offsets}")  # fmt: skip
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")
        decoder("hl_gauss", self)  # refuses bins and sigma_ratio

    @property
    def seeds(self) -> range:
        """The seeds."""
        return range(self.seed, self.seed + self.num_seeds)

    def run(self) -> None:
        """Run the study in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return the errors and the comparisons; draw ``plasticity.png``."""
        torch.set_flush_denormal(True)  # Adam's moments of idle weights become denormal, which are slow
        curves: dict[str, dict[str, FloatArray]] = {}
        variances: dict[str, list[float]] = {}
        with Progress(console=Console(stderr=True), transient=True) as progress:
            total = len(self.frequencies) * len(LOSSES) * len(self.offsets) * self.steps
            job = progress.add_task("steps", total=total)
            for frequency in self.frequencies:
                key = f"{frequency:g}"
                tasks = make_tasks(self, frequency)
                variances[key] = tasks.targets.var(-1, correction=0).mean(1).tolist()
                curves[key] = {}
                for loss in LOSSES:
                    rows = []
                    for row in train(self, loss, tasks):
                        rows.append(row)
                        progress.advance(job, self.eval_every)
                    curves[key][loss] = torch.stack(rows, 1).double().numpy()
        result = summarise(self, curves, variances)
        save_figure(draw(self, curves, variances), folder.path / "plasticity.png")
        show(result)
        return result


# Tasks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tasks:
    """What the seeds of every loss have in common."""

    x: Tensor
    """Inputs [seeds, points, in]."""

    targets: Tensor
    """Targets of every phase [phases, seeds, points]."""


def make_tasks(study: Plasticity, frequency: float) -> Tasks:
    """Draw inputs and the targets of all phases; inputs and frozen networks do not depend on frequency."""
    size = (study.points, study.inputs)
    x = torch.stack([torch.randn(size, generator=seeded_generator(s, "inputs")) for s in study.seeds])
    targets = []
    for phase, offset in enumerate(study.offsets):
        with torch.no_grad():
            f = make_networks(study, None, "frozen network", phase)(x)
        targets.append(torch.sin(frequency * f.double()).float() + offset)
    return Tasks(x, torch.stack(targets))


def make_networks(study: Plasticity, outputs: int | None, purpose: str, index: int = 0) -> StackedMLP:
    """Return a stack with one random network per seed, the same whichever other seeds are in the stack."""
    stack = StackedMLP(study.num_seeds, study.inputs, study.hidden, outputs)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for member, seed in enumerate(study.seeds):
            torch.manual_seed(seeded_generator(seed, purpose, index).initial_seed())
            one = StackedMLP(1, study.inputs, study.hidden, outputs)
            for stacked, own in zip(stack.parameters(), one.parameters(), strict=True):
                stacked[member] = own[0]
    return stack


def batches(study: Plasticity, phase: int) -> Tensor:
    """Return the points of every batch of a phase [steps, seeds, batch]."""
    size = (study.steps, study.batch_size)
    return torch.stack(
        [
            torch.randint(study.points, size, generator=seeded_generator(s, "batches", phase))
            for s in study.seeds
        ],
        dim=1,
    )


# Learning ----------------------------------------------------------------------------------------------

Labels = Callable[[Tensor], Tensor]


def decoder(loss: str, study: Plasticity) -> tuple[Tensor | None, Labels | None]:
    """Return the support [bins] that outputs are decoded with, and what makes labels [..., bins] of targets.

    Each is None where a loss has none.
    """
    edges = bin_edges(-study.v_max, study.v_max, study.bins)
    sigma = resolve_sigma(2.0 * study.v_max / study.bins, sigma_ratio=study.sigma_ratio)
    places = atoms(-study.v_max, study.v_max, study.bins)
    kinds: dict[str, tuple[Tensor | None, Labels | None]] = {
        "mse": (None, None),
        "mse_softmax": (bin_centers(edges), None),
        "two_hot": (places, lambda y: two_hot_probs(y, places)),
        "hl_gauss": (bin_centers(edges), lambda y: hl_gauss_probs(y, edges, sigma, clamp=True)),
    }
    return kinds[loss]


def start_network(study: Plasticity, support: Tensor | None) -> StackedMLP:
    """Return the networks of all seeds before the first phase; hidden layers do not depend on the loss."""
    network = make_networks(study, None if support is None else study.bins, "network")
    last = network.layers[-1]
    if support is not None and isinstance(last, StackedLinear):
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(flattest_log_probs(support).expand_as(last.bias))
    return network


def train(study: Plasticity, loss: str, tasks: Tasks) -> Iterator[Tensor]:
    """Train one stack through all phases; yield its error [seeds] every ``eval_every`` steps.

    Raises:
        FloatingPointError: if an error is not finite.
    """
    support, labels = decoder(loss, study)
    network = start_network(study, support)
    optimizer = torch.optim.Adam(network.parameters(), lr=study.learning_rate, fused=True)
    member = torch.arange(study.num_seeds)[:, None]
    for phase, targets in enumerate(tasks.targets):
        for step, rows in enumerate(batches(study, phase), start=1):
            y, outputs = targets[member, rows], network(tasks.x[member, rows])
            if labels is not None:
                errors = cross_entropy(outputs, labels(y))
            else:
                errors = (decode(outputs, support) - y).square()
            optimizer.zero_grad()
            errors.mean(1).sum().backward()  # a sum over seeds: none changes another's gradient
            optimizer.step()
            if step % study.eval_every == 0:
                with torch.no_grad():
                    error = (decode(network(tasks.x), support) - targets).square().mean(1)
                if not bool(error.isfinite().all()):
                    raise FloatingPointError(f"the error of {loss} is {error.tolist()} at step {step} of "
                                             f"phase {phase}")  # fmt: skip
                yield error


def decode(outputs: Tensor, support: Tensor | None) -> Tensor:
    """Return the values of outputs."""
    return outputs if support is None else expected_value(outputs, support)


# Results -----------------------------------------------------------------------------------------------


def summarise(
    study: Plasticity, curves: dict[str, dict[str, FloatArray]], variances: dict[str, list[float]]
) -> dict[str, Any]:
    """Return what goes in the result; ``curves`` are errors [seeds, measurements]."""
    per_phase = study.steps // study.eval_every
    ends = {
        key: {loss: errors[:, per_phase - 1 :: per_phase] for loss, errors in of.items()}
        for key, of in curves.items()
    }  # [seeds, phases]
    return {
        "num_seeds": study.num_seeds,
        "offsets": list(study.offsets),
        "target_variance": variances,
        "end_mse": {key: {loss: aggregate(end) for loss, end in of.items()} for key, of in ends.items()},
        "comparisons": {key: compare(of) for key, of in ends.items()},
        "curves": {key: {loss: errors.tolist() for loss, errors in of.items()} for key, of in curves.items()},
    }


def aggregate(values: FloatArray) -> dict[str, Any]:
    """Return interquartile mean and 95% bootstrap interval over the first axis, and the values themselves."""
    low, high = bootstrap_interval(values)
    return {
        "iqm": interquartile_mean(values).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "seeds": values.tolist(),
    }


def compare(ends: dict[str, FloatArray]) -> dict[str, Any]:
    """Return how errors at the end of a phase [seeds, phases] grow, and which loss ends below which."""
    growth = {loss: aggregate(end[:, -1] / end[:, 0]) for loss, end in ends.items()}
    last = {loss: end[:, -1] for loss, end in ends.items()}
    below = int((last["hl_gauss"] < last["two_hot"]).sum())
    not_better = int((last["mse_softmax"] >= last["hl_gauss"]).sum())
    most = 0.8 * len(last["mse"])
    return {
        "last_over_first": growth,
        "hl_gauss_grows_at_most_1.5": growth["hl_gauss"]["iqm"] <= 1.5,
        "mse_grows_at_least_2": growth["mse"]["iqm"] >= 2.0,
        "seeds_with_hl_gauss_below_two_hot": below,
        "hl_gauss_below_two_hot_in_4_of_5": below >= most,
        "seeds_with_mse_softmax_not_below_hl_gauss": not_better,
        "mse_softmax_not_below_hl_gauss_in_4_of_5": not_better >= most,
    }


def draw(
    study: Plasticity, curves: dict[str, dict[str, FloatArray]], variances: dict[str, list[float]]
) -> Figure:
    """Draw the errors along the phases, one panel per frequency."""
    figure = Figure(figsize=(5.2 * len(curves), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (key, of) in zip(panels, curves.items(), strict=True):
        axes.set_title(f"targets sin({float(key):,.0f} f(x)) + b", loc="left", fontsize=11)
        draw_panel(axes, study, of, variances[key])
    panels[0].set_ylabel("mean squared error of the decoded value")
    note = f"interquartile mean over {study.num_seeds} seeds, 95% bootstrap interval"
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, title=note,
                  fontsize=9, title_fontsize=9)  # fmt: skip
    return figure


def draw_panel(axes: Axes, study: Plasticity, curves: dict[str, FloatArray], variances: list[float]) -> None:
    """Draw the curves of one frequency; phases are set apart, since the error jumps where one begins."""
    per_phase = study.steps // study.eval_every
    for color, (loss, errors) in zip(PALETTE, curves.items(), strict=False):
        low, high = bootstrap_interval(errors)
        middle = interquartile_mean(errors)
        for phase in range(len(study.offsets)):
            span = slice(phase * per_phase, (phase + 1) * per_phase)
            steps = study.eval_every * np.arange(span.start + 1, span.stop + 1)
            axes.fill_between(steps, low[span], high[span], color=color, alpha=0.2, linewidth=0)
            axes.plot(steps, middle[span], color=color, linewidth=1.5, label=None if phase else LOSSES[loss])
    for phase, (offset, variance) in enumerate(zip(study.offsets, variances, strict=True)):
        start, end = phase * study.steps, (phase + 1) * study.steps
        axes.hlines(variance, start, end, color="0.5", linestyle=":",
                    label="" if phase else "constant (variance of the targets)")  # fmt: skip
        if phase:
            axes.axvline(start, color="0.8", linewidth=0.8, zorder=0)
        axes.text((start + end) / 2, 0.985, f"b = {offset:g}", transform=axes.get_xaxis_transform(),
                  ha="center", va="top", fontsize=8, color="0.3")  # fmt: skip
    axes.set(yscale="log", xlabel="optimiser steps", xlim=(0, len(study.offsets) * study.steps))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * (top / bottom) ** 0.08)  # room for the offsets
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    for key, ends in result["end_mse"].items():
        table = Table("loss", *(f"b = {b:g}" for b in result["offsets"]), "last / first",
                      title=f"end-of-phase mean squared error, frequency {key}, IQM [95% interval] over "
                            f"{result['num_seeds']} seeds")  # fmt: skip
        comparison = result["comparisons"][key]
        for loss, end in ends.items():
            growth = comparison["last_over_first"][loss]
            phases = zip(end["iqm"], end["low"], end["high"], strict=True)
            cells = [f"{iqm:.2g}\n[{low:.2g}, {high:.2g}]" for iqm, low, high in phases]
            table.add_row(loss, *cells, f"{growth['iqm']:.2f}\n[{growth['low']:.2f}, {growth['high']:.2f}]")
        table.add_row("(constant)", *(f"{v:.2g}" for v in result["target_variance"][key]), "")
        Console().print(table)
        for name, value in comparison.items():
            if name != "last_over_first":
                print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Plasticity, description=__doc__)))
