"""How fast preference games and preference models are beside choix, nashpy, open_spiel and loops in NumPy.

- bradley_terry: utilities of 100 options from 10,000 comparisons without a ridge, from the comparisons and
  from a table of wins, beside choix's fits and open_spiel's C++ (minorisation and maximisation of a table,
  ``pyspiel.elo``). Ours from comparisons also checks them, and says loss and accuracy. Errors are the
  largest distance to the maximum of the likelihood by a Newton's method written out here in NumPy. choix's
  ``lsr_pairwise_dense`` is no maximum but ilsr's first step.
- egpo: 1,000 games of 10 x 10, 400 steps: one batch, as it is and by ``torch.compile``, beside a loop over
  games, each step vectorised in NumPy
- equilibria: 20 games of 10 x 10 without a regulariser, one after another, by linear programming beside
  nashpy's and open_spiel's, and 1,000 steps of regret matching beside open_spiel's, which are in Python
- fits: seconds that GPM, PAL and Thurstone take for 10,000 comparisons

Peers are used where they are installed: ``pip install choix nashpy open_spiel cvxpy`` in an environment of
your own (open_spiel's linear program needs cvxpy). One thread; sides take turns; ratios are theirs over ours,
of processor seconds, and of seconds on the clock as ``..._wall``.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from prefrl.cli import execute
from prefrl.functional.preferences.game_steps import (
    Game,
    Play,
    advance,
    begin,
    default_step_size,
    duality_gap,
    games_last,
)
from prefrl.functional.preferences.games import exploitability, minimax_winner
from prefrl.functional.preferences.general_models import inference
from prefrl.preferences.general_models import (
    GPM,
    PAL,
    BradleyTerry,
    BradleyTerryConfig,
    Comparisons,
    Thurstone,
)
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import clocked, spread

Numbers = NDArray[np.float64]
Part = Literal["bradley_terry", "egpo", "equilibria", "fits"]

BETA = 0.1

TURN = 0.05
"""Seconds for which a side is called at least, when it has its turn."""


@dataclass(frozen=True)
class Bench:
    """How fast games and models are."""

    out: Path = Path("runs/bench_games")
    """Run folder, new or empty."""

    parts: tuple[Part, ...] = get_args(Part)
    """Which; see above."""

    options: int = 100
    """Options of bradley_terry and fits."""

    comparisons: int = 10_000
    """Comparisons of bradley_terry and fits."""

    games: int = 1_000
    """Games of egpo."""

    steps: int = 400
    """Steps of egpo."""

    compile: bool = False
    """Whether egpo's steps are also timed as ``torch.compile`` makes them; it needs a C++ compiler."""

    repeats: int = 5
    """Turns; the fits take one each."""

    def __post_init__(self) -> None:
        check_positive(self, "options", "comparisons", "games", "steps", "repeats")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return times, their ratios, and errors."""
        torch.set_num_threads(1)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "bradley_terry": self.bradley_terry,
            "egpo": self.egpo,
            "equilibria": self.equilibria,
            "fits": self.fits,
        }
        result = {name: parts[name]() for name in self.parts}
        show(result)
        return result

    def bradley_terry(self) -> dict[str, Any]:
        """Return times and errors of fits of utilities."""
        winners, losers = contests(self.options, self.comparisons)
        first, second = torch.as_tensor(losers), torch.as_tensor(winners)
        labels = torch.ones(len(first), dtype=torch.float64)
        wins = counted(winners, losers, self.options)
        table, model = torch.as_tensor(wins)[None], BradleyTerry(BradleyTerryConfig(ridge=0.0))

        def ours() -> Numbers:
            model.fit(Comparisons(first, second, labels, self.options))
            return model.parameters["utilities"].numpy()

        from_list, from_table = peers_of_bradley_terry(winners, losers, wins)
        found, best = {}, most_likely(wins)
        for name, sides in (
            ("from_comparisons", {"ours": ours, **from_list}),
            ("from_table", {"ours": lambda: inference.utilities(table, 0.0)[0].numpy(), **from_table}),
        ):
            errors = {peer: float(np.abs(centred(side()) - best).max()) for peer, side in sides.items()}
            found[name] = {"largest_error": errors, **turns(sides, self.repeats)}
        return found

    def egpo(self) -> dict[str, Any]:
        """Return times of a batch of games and of a loop over them."""
        game = random_games(self.games)
        beside, size = games_last(game), default_step_size(BETA)

        def batch(games: Game, step: Callable[..., Play] = advance) -> Numbers:
            play = begin("egpo", games.reference)
            for _ in range(self.steps):
                play = step("egpo", games, play, size)
            return play.policy.numpy()

        def loop() -> Numbers:
            pairs = zip(game.matrix.numpy(), game.reference.numpy(), strict=True)
            return np.stack([numpy_egpo(one, prior, size, self.steps) for one, prior in pairs])

        sides = {"ours": lambda: batch(beside), "ours_rows": lambda: batch(game), "loop": loop}
        if self.compile:
            step = torch.compile(advance, fullgraph=True)
            sides["ours_compiled"] = lambda: batch(beside, step)
        looped = sides["loop"]()
        apart = max(float(np.abs(side() - looped).max()) for side in sides.values())
        gap = float(duality_gap(game, torch.as_tensor(sides["ours"]())).max())
        own = tuple(name for name in sides if name in ("ours", "ours_compiled"))
        return {"largest_difference": apart, "largest_gap": gap, **turns(sides, self.repeats, own)}

    def equilibria(self) -> dict[str, Any]:
        """Return times of a linear program for each of 20 games, and of 1,000 steps of regret matching."""
        game = random_games(20)._replace(beta=0.0)
        matrices, steps = game.matrix.numpy(), 1_000

        def matching(games: Game) -> Any:
            play = begin("regret_matching", games.reference)
            total = torch.zeros_like(play.policy)
            for _ in range(steps):
                total += play.policy.exp()
                play = advance("regret_matching", games, play, 1.0)
            return total / steps

        one = Game(game.matrix[:1], game.reference[:1], 0.0)
        programs = {"ours": lambda: [minimax_winner(matrix) for matrix in game.matrix]}
        walks = {"ours": lambda: matching(one), "ours_20": lambda: matching(game)}
        peers = peers_of_equilibria(matrices, steps)
        solved = {**programs, **peers["linear_program"]}
        worst = {
            name: max(float(exploitability(game.matrix[i], torch.as_tensor(p))) for i, p in enumerate(side()))
            for name, side in solved.items()
        }
        matched = turns({**walks, **peers["regret_matching"]}, self.repeats)
        return {"linear_program": {"exploitability": worst, **turns(solved, self.repeats)},
                "regret_matching": matched}  # fmt: skip

    def fits(self) -> dict[str, Any]:
        """Return the seconds of fits that have no peer, and their accuracies."""
        winners, losers = contests(self.options, self.comparisons)
        flipped = np.random.default_rng(2).random(len(winners)) < 0.5
        first, second = np.where(flipped, winners, losers), np.where(flipped, losers, winners)
        labels = torch.as_tensor(1.0 - flipped)
        users = torch.arange(len(winners)) % 60
        plain = Comparisons(torch.as_tensor(first), torch.as_tensor(second), labels, self.options)
        people = Comparisons(plain.first, plain.second, labels, self.options, users=users, num_users=60)
        found = {}
        for model, data in ((GPM(), plain), (PAL(), people), (Thurstone(), plain)):
            wall, processor, fitted = clocked(lambda model=model, data=data: model.fit(data))
            found[model.name] = {
                "wall": wall, "processor": processor, "accuracy": float(fitted["accuracy"])
            }  # fmt: skip
        return found


# What is solved -------------------------------------------------------------------------------------------


def contests(options: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return winners and losers [N] of random pairs, by normal utilities."""
    rng = np.random.default_rng(0)
    worth = rng.standard_normal(options)
    first = rng.integers(options, size=count)
    second = (first + rng.integers(1, options, size=count)) % options
    won = rng.random(count) < 1.0 / (1.0 + np.exp(worth[second] - worth[first]))
    return np.where(won, first, second), np.where(won, second, first)


def counted(winners: Any, losers: Any, options: int) -> Numbers:
    """Return how often the row won against the column [K, K]."""
    return np.bincount(winners * options + losers, minlength=options**2).reshape(options, -1).astype(float)


def random_games(count: int) -> Game:
    """Return antisymmetric 10 x 10 games with entries even in [-1, 1]."""
    noise = 2.0 * torch.rand(count, 10, 10, generator=torch.Generator().manual_seed(0)).double() - 1.0
    even = torch.full((count, 10), -math.log(10.0), dtype=torch.float64)
    return Game(noise.triu(1) - noise.triu(1).mT, even, BETA)


def numpy_egpo(matrix: Numbers, reference: Numbers, size: float, steps: int) -> Numbers:
    """Return the logarithms of a policy after EGPO's steps in one game."""
    pull = size * BETA
    policy = reference
    for _ in range(steps):
        base = (1.0 - pull) * policy + pull * reference
        for _ in range(2):
            scores = base + size * (matrix @ np.exp(policy))
            scores -= scores.max()
            policy = scores - np.log(np.exp(scores).sum())
    return policy


def most_likely(wins: Numbers) -> Numbers:
    """Return the utilities, of mean 0, that maximise Bradley and Terry's likelihood, by Newton's method."""
    u = np.zeros(len(wins))
    counts = wins + wins.T
    for _ in range(30):
        p = 1.0 / (1.0 + np.exp(u[None] - u[:, None]))
        links = counts * p * (1.0 - p)
        curvature = np.diag(links.sum(1)) - links + 1.0 / len(wins)
        u = u - np.linalg.solve(curvature, (counts * p - wins).sum(1))
    return centred(u)


def centred(utilities: Any) -> Numbers:
    """Return utilities less their mean."""
    values = np.asarray(utilities, dtype=np.float64)
    return values - values.mean()


# Peers ----------------------------------------------------------------------------------------------------


def peer(name: str) -> Any:
    """Return a package, or None, having said so, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is left out: {error}")
        return None


Sides = dict[str, Callable[[], Any]]


def peers_of_bradley_terry(winners: Any, losers: Any, wins: Numbers) -> tuple[Sides, Sides]:
    """Return the fits of others: from comparisons, counted where they want a table; and from a table."""
    of_list: Sides = {}
    of_table: Sides = {}
    k, listed = len(wins), list(zip(winners.tolist(), losers.tolist(), strict=True))
    if choix := peer("choix"):
        of_list["choix_ilsr_dense"] = lambda: choix.ilsr_pairwise_dense(counted(winners, losers, k))
        of_list["choix_ilsr"] = lambda: choix.ilsr_pairwise(k, listed)
        of_list["choix_mm"] = lambda: choix.mm_pairwise(k, listed, max_iter=10_000)
        of_list["choix_newton"] = lambda: choix.opt_pairwise(k, listed, alpha=0.0)
        of_table["choix_ilsr_dense"] = lambda: choix.ilsr_pairwise_dense(wins)
        of_table["choix_lsr_dense"] = lambda: choix.lsr_pairwise_dense(wins)
    if pyspiel := peer("pyspiel"):
        options = pyspiel.elo.default_elo_options()
        options.smoothing_factor, options.scale_factor = 0.0, math.log(10.0)  # its unit is a decade

        def ratings(table: Any) -> Any:
            return pyspiel.elo.compute_ratings_from_matrices(table, [], options)

        whole = wins.astype(int).tolist()  # it takes whole numbers only
        of_list["open_spiel"] = lambda: ratings(counted(winners, losers, k).astype(int).tolist())
        of_table["open_spiel"] = lambda: ratings(whole)
    return of_list, of_table


def peers_of_equilibria(matrices: Numbers, steps: int) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return the linear programs and the regret matching of others."""
    programs: dict[str, Callable[[], Any]] = {}
    walks: dict[str, Callable[[], Any]] = {}
    if nashpy := peer("nashpy"):
        programs["nashpy"] = lambda: [nashpy.Game(matrix).linear_program()[0] for matrix in matrices]
    if pyspiel := peer("pyspiel"):
        if peer("cvxpy") and (solver := peer("open_spiel.python.algorithms.lp_solver")):
            games = [pyspiel.create_matrix_game(one.tolist(), (-one).tolist()) for one in matrices]
            programs["open_spiel"] = lambda: [
                np.ravel(solver.solve_zero_sum_matrix_game(game)[0]) for game in games
            ]
        if matching := peer("open_spiel.python.algorithms.regret_matching"):
            both = [matrices[0], -matrices[0]]
            walks["open_spiel"] = lambda: matching.regret_matching(both, iterations=steps, gamma=0.0)
    return {"linear_program": programs, "regret_matching": walks}


# Time -----------------------------------------------------------------------------------------------------


def turns(
    sides: dict[str, Callable[[], Any]], repeats: int, ours: tuple[str, ...] = ("ours",)
) -> dict[str, Any]:
    """Return every side's milliseconds of the processor for a call, and theirs over each of ours, in turns.

    What is over in less than TURN seconds is called again and again for as long, as ``timeit`` does: a single
    call of a millisecond would tell how cold the turn before it left the caches.
    """
    rows = []
    calls = {name: max(1, math.ceil(TURN / min(clocked(side)[0] for _ in range(2))))
             for name, side in sides.items()}  # fmt: skip
    for _ in range(repeats):
        row = {}
        for name, side in sides.items():
            wall, processor, _ = clocked(lambda side=side, n=calls[name]: [side() for _ in range(n)])
            row[name] = wall / calls[name], processor / calls[name]
        rows.append(row)
    found: dict[str, Any] = {
        f"{name}_ms": spread([1_000.0 * row[name][1] for row in rows]) for name in sides
    }  # fmt: skip
    for own in ours:
        for name in (each for each in sides if each != own):
            found[f"{name}_over_{own}"] = spread([row[name][1] / row[own][1] for row in rows])
            found[f"{name}_over_{own}_wall"] = spread([row[name][0] / row[own][0] for row in rows])
    return found


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("part", "what", "median", "min", "max")

    def add(part: str, found: dict[str, Any]) -> None:
        for name, value in found.items():
            if not isinstance(value, dict):
                table.add_row(part, name, f"{value:.3g}")
            elif "median" in value:
                table.add_row(part, name, *(f"{value[key]:.3g}" for key in ("median", "min", "max")))
            else:
                add(f"{part}: {name}", value)

    for part, found in result.items():
        add(part, found)
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
