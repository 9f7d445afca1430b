"""How far every solver of preference games gets, and how fast: duality gaps against steps.

Games, all by default:

- random: ten random 10 x 10 games with entries in [-1, 1], beta .1, an even reference
- random_free: the same games, beta 0
- cycle: rock, paper, scissors as probabilities less 1/2, beta .01, three references that are not even, where
  play begins
- cycle_free: the same, beta 0
- oracles: 20 times three random 6 x 6 oracles, alone or with half of each what all share, beta .1. Is the
  mean policy of three players, each with an oracle of its own (MNPO's steps), at least as good by the one
  that likes it least as each oracle's own equilibrium?
- tree: sequences of prefrl/TokenTree-v0 by a network of steps, beta .1, where solvers descend the losses of
  their papers: gaps against steps of descent, three seeds each. 8 and 32 are such steps in one of the
  solver's; 64 pairs are drawn each time where they are not all there are.

The step size is 1 / (beta + 3) unless one is given, mnpo's population is half the present policy and half the
one before. Every game's gaps are in ``result.json``; the tables show the median and, behind it, the largest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

import prefrl.envs
from prefrl.agents import NashLearning, NashLearningConfig
from prefrl.agents.preferences.games.nash_learning_config import DESCENDING, REGRESSING
from prefrl.cli import execute
from prefrl.data.files.atomic import atomic_path
from prefrl.functional.preferences.game_steps import (
    SOLVERS,
    Game,
    advance,
    begin,
    default_step_size,
    divergence,
    duality_gap,
    multiplayer_step,
)
from prefrl.functional.preferences.games import cycle_of_three
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.plot import LINE_STYLES, PALETTE
from prefrl.run.study.study import check_positive, run_study
from prefrl.tabular import nash_equilibrium

assert prefrl.envs.REGISTRY

Which = Literal["random", "random_free", "cycle", "cycle_free", "oracles", "tree"]

BETAS: dict[str, float] = {"random": 0.1, "random_free": 0.0, "cycle": 0.01, "cycle_free": 0.0}

REFERENCES = ((0.6, 0.3, 0.1), (0.5, 0.3, 0.2), (0.7, 0.2, 0.1))
"""Where play on the cycle begins."""

SAME = ("inpo", "dno", "gpo")
"""Solvers whose steps and answers are omd's, drawn as one."""

LOWEST = 1e-17
"""Gaps below this are drawn there: rounding is all that they are."""

TREE: dict[str, dict[str, Any]] = {
    **{solver: {"solver": solver} for solver in DESCENDING},
    **{f"{solver}, {n}": {"solver": solver, "inner_steps": n} for solver in REGRESSING for n in (8, 32)},
    **{f"{solver}, 64 pairs": {"solver": solver, "pairs": 64} for solver in DESCENDING},
    **{f"{solver}, 8, 64 pairs": {"solver": solver, "inner_steps": 8, "pairs": 64} for solver in REGRESSING},
}
"""What a network descends, and how."""

POINTS = 200
"""Of a curve, evenly spaced on a logarithmic axis."""


@dataclass(frozen=True)
class GameStudy:
    """Gaps of every solver of preference games."""

    out: Path = Path("runs/games")
    """Run folder, new or empty."""

    games: tuple[Which, ...] = get_args(Which)
    """Which; see above."""

    steps: int = 400
    """Steps on random games."""

    cycle_steps: int = 20_000
    """Steps on the cycle."""

    step_size: float | None = None
    """None: 1 / (beta + 3)."""

    descents: int = 3_200
    """Steps of descent in the tree."""

    tree_seeds: int = 3
    """Seeds of the network, and of the pairs."""

    seed: int = 0
    """Seeds the random games."""

    def __post_init__(self) -> None:
        check_positive(self, "steps", "cycle_steps", "descents", "tree_seeds")
        if not self.games:
            raise ValueError(f"games is empty; give some of {', '.join(get_args(Which))}")
        if self.step_size is not None and self.step_size <= 0.0:
            raise ValueError(f"step_size is {self.step_size}; it must be above 0")

    def run(self) -> None:
        """Run the study in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Play every game with every solver that can; draw, print and return the gaps."""
        result: dict[str, Any] = {"oracles": three_oracles()} if "oracles" in self.games else {}
        if "tree" in self.games:
            result["tree"] = self.tree(folder)
        names = [name for name in self.games if name in BETAS]
        if not names:
            return result
        figure = Figure(figsize=(10.0, 3.2 * -(-len(names) // 2) + 0.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(-(-len(names) // 2), 2, squeeze=False).flatten()
        for axes in panels[len(names) :]:
            axes.remove()
        for axes, name in zip(panels, names, strict=False):
            random = name.startswith("random")
            game = random_games(BETAS[name], self.seed) if random else cycles(BETAS[name])
            steps = self.steps if random else self.cycle_steps
            size = self.step_size or default_step_size(game.beta)
            result[name] = {
                solver: solve(game, solver, steps, size)
                for solver, row in SOLVERS.items()
                if row.regularised or game.beta == 0.0
            }
            draw(axes, name, result[name])
            show(f"{name}, beta {game.beta:g}, {steps} steps of {size:.3g}", result[name])
        lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, frameon=False)
        with atomic_path(folder.path / "games.png") as path:
            figure.savefig(path, dpi=110)
        return result

    def tree(self, folder: RunFolder) -> dict[str, Any]:
        """Descend every loss in the tree; draw, print and return the gaps."""
        env, found = gym.make("prefrl/TokenTree-v0"), {}
        for name, settings in TREE.items():
            curves = [descend(env, settings, self.descents, seed) for seed in range(self.tree_seeds)]
            found[name] = {"last_gaps": [curve["last"][-1] for curve in curves], "curves": curves}
            print(f"tree, {name}:", " ".join(f"{gap:.1e}" for gap in found[name]["last_gaps"]), flush=True)
        draw_tree(folder.path / "games_tree.png", found)
        return found


def descend(env: Any, settings: dict[str, Any], descents: int, seed: int) -> dict[str, list[float]]:
    """Return gaps of the last policy of a network against its steps of descent."""
    config = NashLearningConfig(policy="network", **settings)
    agent = NashLearning(env, config, device="cpu", seed=seed)
    each = config.descents * (2 if config.solver in ("egpo", "onpo") else 1)
    curve: dict[str, list[float]] = {"descents": [], "last": []}
    for step in range(1, descents // each + 1):
        gap = agent.update()["train/last_iterate_gap"]
        curve["descents"].append(step * each)
        curve["last"].append(float(gap))
    return curve


def draw_tree(path: Path, rows: dict[str, Any]) -> None:
    """Draw every seed's gap: of one step of descent a time, of 8, of 32, and of drawn pairs."""
    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    solvers = (*DESCENDING, *REGRESSING)
    for axes, (title, end) in zip(
        figure.subplots(2, 2, sharex=True).flatten(),
        (
            ("one step of descent", ""),
            ("8 steps", ", 8"),
            ("32 steps", ", 32"),
            ("64 drawn pairs a time", ", 64 pairs"),
        ),
        strict=True,
    ):
        for name, row in rows.items():
            solver, _, rest = name.partition(", ")
            if end == (", 64 pairs" if "pairs" in rest else f", {rest}" if rest else ""):
                place = solvers.index(solver)
                style = {"color": PALETTE[place % 7], "linestyle": LINE_STYLES[place // 7]}
                for seed, curve in enumerate(row["curves"]):
                    gaps = [max(LOWEST, gap) for gap in curve["last"]]
                    axes.semilogy(curve["descents"], gaps, lw=1.0, label=None if seed else solver, **style)
        axes.set_title(title, loc="left", fontsize=11)
        axes.legend(frameon=False, fontsize=8)
        axes.set(xlabel="steps of descent", ylabel="duality gap")
    with atomic_path(path) as drawn:
        figure.savefig(drawn, dpi=110)


def random_games(beta: float, seed: int) -> Game:
    """Return ten antisymmetric 10 x 10 games with entries even in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = 2.0 * torch.rand(10, 10, 10, generator=generator, dtype=torch.float64) - 1.0
    return Game(noise.triu(1) - noise.triu(1).mT, torch.zeros(10, 10).double().log_softmax(-1), beta)


def cycles(beta: float) -> Game:
    """Return rock, paper, scissors with three references."""
    matrix = 0.5 * cycle_of_three(1.0, 1.0, 1.0)
    references = torch.tensor(REFERENCES, dtype=torch.float64).log()
    return Game(matrix.expand(len(REFERENCES), 3, 3), references, beta)


def solve(game: Game, solver: str, steps: int, size: float) -> dict[str, Any]:
    """Return a solver's last and average gaps: of every game at the end, and medians on the way.

    ``distance`` is the divergence of the last policies from the equilibria, where there is only one.
    """
    population = (0.5, 0.5) if solver == "mnpo" else (1.0,)
    play = begin(solver, game.reference, len(population))
    total = torch.zeros_like(play.policy)
    marks = {round(steps ** (i / POINTS)) for i in range(POINTS + 1)}
    curves: dict[str, list[float]] = {"steps": [], "last": [], "average": []}
    for step in range(1, steps + 1):
        total += play.policy.exp()
        play = advance(solver, game, play, size, population)
        if step in marks:
            gaps = duality_gap(game, play.policy), duality_gap(game, (total / step).log())
            for name, value in zip(curves, (step, *(gap.median().item() for gap in gaps)), strict=True):
                curves[name].append(value)
    found: dict[str, Any] = {
        "last_gaps": gaps[0].tolist(),
        "average_gaps": gaps[1].tolist(),
        "curves": curves,
    }
    if game.beta > 0.0:
        found["distances"] = divergence(play.policy, nash_equilibrium(game)).tolist()
    return found


def three_oracles(count: int = 20, beta: float = 0.1, steps: int = 1_500) -> dict[str, Any]:
    """Return what the least content of three oracles gives to MNPO's players and to single equilibria.

    ``even`` and ``equilibria`` say whom policies are compared with: the even policy, or the three equilibria.
    Each holds [MNPO, the best equilibrium] for every seed, and how often the first was not behind.
    """
    even = torch.zeros(3, 6, dtype=torch.float64).log_softmax(-1)
    found: dict[str, Any] = {}
    for shared in (0.0, 0.5):
        rows: dict[str, list[list[float]]] = {"even": [], "equilibria": []}
        for seed in range(count):
            noise = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            games = (2.0 * noise - 1.0).triu(1) - (2.0 * noise - 1.0).triu(1).mT
            game = Game((1.0 - shared) * games[:3] + shared * games[3], even, beta)
            players = even
            for _ in range(steps):
                players = multiplayer_step(game, players, default_step_size(beta))
            own = nash_equilibrium(game).exp()
            for name, others in (("even", even[:1].exp()), ("equilibria", own)):
                policies = torch.cat([players.exp().mean(0, keepdim=True), own])
                worst = (policies @ game.matrix @ others.T).amin((0, 2))
                rows[name].append([float(worst[0]), float(worst[1:].max())])
        found[f"shared {shared:g}"] = {
            name: {"not_behind": sum(mine >= best for mine, best in pairs), "of": count, "worst": pairs}
            for name, pairs in rows.items()
        }
    for name, against in found.items():
        print(f"oracles, {name}:", {whom: f"{row['not_behind']} of {count}" for whom, row in against.items()})
    return found


def draw(axes: Axes, name: str, rows: dict[str, Any]) -> None:
    """Draw medians of the gaps of the policy that is each solver's answer."""
    for place, solver in enumerate(solver for solver in SOLVERS if solver not in SAME):
        if solver in rows:
            curves, answer = rows[solver]["curves"], SOLVERS[solver].answer
            gaps = [max(LOWEST, gap) for gap in curves[answer]]
            names = [solver, *SAME] if solver == "omd" else [solver]
            style = {"color": PALETTE[place % 7], "linestyle": LINE_STYLES[place // 7]}
            axes.loglog(curves["steps"], gaps, label=f"{', '.join(names)}: {answer}", **style)
    axes.set_title(f"{name}, beta {BETAS[name]:g}", loc="left", fontsize=11)
    axes.set(xlabel="steps", ylabel="duality gap")


def show(title: str, rows: dict[str, Any]) -> None:
    """Print the median and the largest gap of every solver."""
    table = Table("solver", "last", "average", "answer", title=title, title_justify="left")
    for solver, found in rows.items():
        gaps = (torch.tensor(found[f"{kind}_gaps"]) for kind in ("last", "average"))
        table.add_row(solver, *(_text(gap) for gap in gaps), SOLVERS[solver].answer)
    Console(width=100).print(table)


def _text(gaps: Tensor) -> str:
    return f"{float(gaps.median()):.1e} ({float(gaps.max()):.1e})"


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(GameStudy, description=__doc__)))
