"""Deep Q-learning by classification against squared errors, in MinAtar's five games.

A small version of the online study of Farebrother et al. 2024 (arXiv 2403.03950, section 4.1), with power
where it can be had: the same agent with seven losses, many learners each, trained as one stack on the device.
As there, it is plain deep Q-learning: no double estimator, one-step returns, sticky actions. Adam, whose step
size is tuned for each loss with the same budget, on some of the games, with seeds that are then not used.

``losses``: every loss in every game. ``width``: some losses with networks 2, 4 ... times as wide (2 is
MinAtar's own network, of 16 filters and 128 units, Young and Tian 2019, arXiv 1903.03176). ``sticky``: some
losses with targets that are noisier, or less so, since actions are repeated more or less often.

Every stack is a run folder below DIR/tuning and DIR/runs. The same command goes on with a study that was
stopped. Of a finished run the checkpoint is deleted, which holds the replay. ``returns.csv`` has every
evaluation of every learner; ``--tables A.csv B.csv`` puts several together instead
of running anything.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from prefrl.agents.value_based.dqn import DQNConfig, Loss
from prefrl.cli import execute
from prefrl.config import to_json
from prefrl.envs import MINATAR_IDS
from prefrl.functional.statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
)
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json
from prefrl.run.plot import PALETTE, save_figure, tick_label
from prefrl.run.recipes.value_based.dqn import TrainDQN
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.sweep.engines import run_locally
from prefrl.run.sweep.sweep import Display
from prefrl.run.sweep.trials import Trial, open_sweep

OURS = "hl_gauss"
"""The loss that the others are compared with."""

GAMES = {env_id.removeprefix("prefrl/MinAtar-").removesuffix("-v0"): env_id for env_id in MINATAR_IDS}

FILTERS, UNITS = 8, 64
"""Of a network of width 1."""

LAST = 4
"""The mean of the last quarter of a run's evaluations is what step sizes are chosen by."""

STICKY = 0.1
"""Probability that the previous action is repeated, where nothing else is compared."""

COLUMNS = ("game", "loss", "width", "sticky_action_prob", "learning_rate", "seed", "frames", "return")
"""Of the table of returns; the row without frames is the evaluation after training."""

Experiment = Literal["losses", "width", "sticky"]


class Arm(NamedTuple):
    """What a stack of learners has in common."""

    game: str
    loss: Loss
    width: int = 1
    sticky: float = STICKY


@dataclass(frozen=True)
class MinAtarStudy:
    """Deep Q-learning by classification against squared errors, in MinAtar's five games."""

    out: Path = Path("runs/minatar")
    """Run folder: new, empty, or that of the same study, which goes on."""

    jobs: int = 1
    """Stacks at once, one thread each."""

    experiments: tuple[Experiment, ...] = ("losses",)
    """What to run."""

    games: tuple[str, ...] = ("Breakout", "Asterix", "SpaceInvaders", "Freeway", "Seaquest")
    """MinAtar's games, in the order in which they are run."""

    losses: tuple[Loss, ...] = ("hl_gauss", "mse", "c51", "two_hot", "quantile", "huber", "mse_softmax")
    """Losses to compare; hl_gauss must be among them."""

    learners: int = 16
    """Learners of a stack, with seeds from 0 on."""

    frames: int = 100_000
    """Timesteps of each learner, in eight environments; a gradient step is taken every 4."""

    widths: tuple[int, ...] = (1, 2, 4)
    """Widths of the networks that are compared."""

    sticky_action_probs: tuple[float, ...] = (0.0, 0.1, 0.25)
    """Probabilities of repeating the previous action that are compared; elsewhere it is 0.1."""

    few_games: tuple[str, ...] = ("Breakout",)
    """Games in which widths and these probabilities are compared."""

    few_losses: tuple[Loss, ...] = ("hl_gauss", "mse")
    """Losses with which they are compared; hl_gauss must be among them."""

    rates: tuple[float, ...] = ()
    """Adam's step size for each of losses, in their order; without any they are tuned."""

    tried_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Step sizes that are tried for each loss."""

    tune_games: tuple[str, ...] = ("Breakout", "Asterix")
    """Games that step sizes are tuned on; the mean of the shares of the best of a game counts."""

    tune_frames: int = 40_000
    """Timesteps of a tuning run."""

    tune_learners: int = 3
    """Learners that try a step size, with seeds from 1,000 on."""

    learning_starts: int = 2_000
    """Frames of uniform actions before the first gradient step."""

    epsilon_frames: int = 50_000
    """Frames over which epsilon falls from 1 to 0.1."""

    target_interval: int = 250
    """Frames between two copies of the target network: 400 of them in a run, for a horizon of 100 steps."""

    buffer_size: int = 50_000
    """Transitions in the replay of each learner."""

    v_min: float = -5.0
    """Lowest value of the support."""

    v_max: float = 25.0
    """Highest value of the support."""

    bins: int = 51
    """Bins or atoms of the support."""

    evaluations: int = 10
    """Evaluations of the greedy policy during a run."""

    eval_episodes: int = 10
    """Episodes of each of them."""

    final_episodes: int = 30
    """Episodes of the evaluation after training."""

    tables: tuple[Path, ...] = ()
    """Tables of returns to read instead of running anything."""

    def __post_init__(self) -> None:
        check_positive(self, "jobs", "learners", "frames", "tune_frames", "tune_learners", "evaluations")
        for name in ("games", "few_games", "tune_games"):
            _check_chosen(name, getattr(self, name), GAMES)
        for name in ("losses", "few_losses"):
            _check_chosen(name, getattr(self, name))
            if OURS not in getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; {OURS} must be among them")
        _check_chosen("few_losses", self.few_losses, self.losses)
        _check_chosen("widths", self.widths)
        _check_chosen("sticky_action_probs", self.sticky_action_probs)
        for prob in self.sticky_action_probs:
            if not 0.0 <= prob <= 1.0:
                raise ValueError(f"sticky_action_probs has {prob}; allowed are 0 to 1")
        _check_chosen("tried_rates", self.tried_rates)
        if self.rates and len(self.rates) != len(self.losses):
            raise ValueError(f"rates has {len(self.rates)} step sizes for {len(self.losses)} losses")
        for loss in self.losses:
            self._recipe(Arm(self.games[0], loss), self.tried_rates[:1], self.learners, 0, self.frames)

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return every number of the study; write the table, draw curves, profiles and widths."""
        found: dict[str, Any] = {}
        if not self.tables:
            rates = dict(zip(self.losses, self.rates, strict=False))
            if not rates:
                rates, found["tuning"] = self._tune(folder.path / "tuning")
            found |= {"learning_rates": rates, **self._train(folder, rates)}
        finals, curves = read_returns(self.tables or [folder.path / "returns.csv"])
        main = {arm: values for arm, values in finals.items() if arm == Arm(arm.game, arm.loss)}
        found |= {
            "games": by_game(main),
            "all_games": over_games(main),
            "widths": by_variant(finals, "width"),
            "sticky_action_probs": by_variant(finals, "sticky"),
        }
        save_figure(
            draw_curves({arm: curves[arm] for arm in main if arm in curves}), folder.path / "curves.png"
        )
        save_figure(draw_profiles(main), folder.path / "profiles.png")
        show(found)
        return found

    def _arms(self) -> list[Arm]:
        arms = []
        if "losses" in self.experiments:
            arms += [Arm(game, loss) for game in self.games for loss in self.losses]
        few = [Arm(game, loss) for game in self.few_games for loss in self.few_losses]
        if "width" in self.experiments:
            arms += [arm._replace(width=width) for width in self.widths for arm in few]
        if "sticky" in self.experiments:
            arms += [arm._replace(sticky=prob) for prob in self.sticky_action_probs for arm in few]
        return list(dict.fromkeys(arms))

    def _recipe(self, arm: Arm, rates: Sequence[float], learners: int, seed: int, frames: int) -> TrainDQN:
        """Return a stack's recipe; each of the step sizes is that of as many learners."""
        return TrainDQN(
            env_id=GAMES[arm.game],
            env_args=(f"sticky_action_prob={arm.sticky}",),
            num_envs=8,
            num_learners=learners,
            total_timesteps=frames,
            eval_every=max(1, frames // self.evaluations),
            eval_episodes=self.eval_episodes,
            final_episodes=self.final_episodes,
            seed=seed,
            agent=DQNConfig(
                loss=arm.loss,
                gamma=0.99,
                double=False,
                learning_rate=tuple(rate for rate in rates for _ in range(learners // len(rates))),
                batch_size=32,
                buffer_size=self.buffer_size,
                learning_starts=self.learning_starts,
                train_freq=4,
                target_update_interval=self.target_interval,
                epsilon_start=1.0,
                epsilon_end=0.1,
                epsilon_timesteps=self.epsilon_frames,
                v_min=self.v_min,
                v_max=self.v_max,
                bins=self.bins,
                max_clamped_fraction=1.0,
                conv_filters=FILTERS * arm.width,
                conv_features=UNITS * arm.width,
            ),
        )

    def _tune(self, folder: Path) -> tuple[dict[Loss, float], dict[str, Any]]:
        """Return the best step size of each loss, and the scores of all."""
        learners, rates = self.tune_learners, self.tried_rates
        trials = {}
        for game in self.tune_games:
            for loss in self.losses:
                recipe = self._recipe(Arm(game, loss), rates, learners * len(rates), 1_000, self.tune_frames)
                trials[game, loss] = Trial(
                    f"{game},loss={loss}", 1_000, {"agent.loss": loss}, to_json(recipe)
                )
        finish(folder, list(trials.values()), self.jobs)
        scores = {}
        for key, trial in trials.items():
            each = read_json(folder / trial.name / "result.json")["learners"]
            late = [np.mean(run["eval_returns"][-max(1, self.evaluations // LAST) :]) for run in each]
            scores[key] = np.reshape(late, (len(rates), learners)).mean(1)
        best = {game: max(scores[game, loss].max() for loss in self.losses) for game in self.tune_games}
        shares = {
            loss: np.mean([scores[game, loss] / max(best[game], 1e-9) for game in self.tune_games], 0)
            for loss in self.losses
        }
        told = {
            f"{game} {loss}": dict(zip(map("{:g}".format, rates), each.tolist(), strict=True))
            for (game, loss), each in scores.items()
        }
        return {loss: rates[int(share.argmax())] for loss, share in shares.items()}, told

    def _train(self, folder: RunFolder, rates: dict[Loss, float]) -> dict[str, Any]:
        """Run every arm; write the table of returns; return times and shares of targets off the support."""
        runs = folder.path / "runs"
        trials = {}
        for arm in self._arms():
            rate = rates[arm.loss]
            name = f"{arm.game},loss={arm.loss},width={arm.width},sticky={arm.sticky:g}"
            recipe = to_json(self._recipe(arm, (rate,), self.learners, 0, self.frames))
            trials[arm] = Trial(name, 0, {"agent.loss": arm.loss}, recipe)
        finish(runs, list(trials.values()), self.jobs)
        results = {arm: read_json(runs / trial.name / "result.json") for arm, trial in trials.items()}
        write_returns(folder.path / "returns.csv", results, rates)
        return {
            "seconds": {trials[arm].name: result["seconds"] for arm, result in results.items()},
            "clamped": {
                trials[arm].name: max(result["clamped_fractions"]) for arm, result in results.items()
            },
            "diverged": {
                trials[arm].name: result["frozen_learners"]
                for arm, result in results.items()
                if result["frozen_learners"]
            },
        }


def _check_chosen(name: str, given: Sequence[Any], allowed: Any = None) -> None:
    """Raise ValueError for nothing, for the same thing twice, and for what is not allowed."""
    if not given or len(set(given)) < len(given):
        raise ValueError(f"{name} is {tuple(given)}; each must be given once, and at least one")
    for each in given:
        if allowed is not None and each not in allowed:
            raise ValueError(f"{name} has {each!r}; allowed are {', '.join(allowed)}")


def finish(folder: Path, trials: list[Trial], jobs: int) -> None:
    """Run trials, or go on with them; delete checkpoints, each of which is a replay that nobody needs again.

    Raises:
        RuntimeError: naming the first that failed.
    """
    open_sweep(folder, "dqn", trials)
    runs = {folder / trial.name: trial.config["total_timesteps"] for trial in trials}

    def discard() -> None:
        for run in runs:
            if (run / "result.json").exists():
                (run / "checkpoint.pt").unlink(missing_ok=True)

    with Display(runs, {run: run for run in runs}) as display:

        def tell(message: str) -> None:
            display.tell(message)
            discard()

        unfinished = [run for run in runs if not (run / "result.json").exists()]
        failed = run_locally(unfinished, jobs, tell=tell, tick=display.tick)
    discard()
    for run, problem in failed.items():
        raise RuntimeError(f"{run.name} failed: {problem}")


def write_returns(path: Path, results: dict[Arm, dict[str, Any]], rates: dict[Loss, float]) -> None:
    """Write the table of returns."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for arm, result in results.items():
            for run in result["learners"]:
                head = (*arm, f"{rates[arm.loss]:g}", run["seed"])
                for frames, value in zip(run["eval_timesteps"], run["eval_returns"], strict=True):
                    writer.writerow((*head, frames, f"{value:.6g}"))
                writer.writerow((*head, "", f"{run['final_return']:.6g}"))


Curves = dict[Arm, tuple[list[int], np.ndarray]]


def read_returns(paths: Sequence[Path]) -> tuple[dict[Arm, np.ndarray], Curves]:
    """Return what tables of returns say: after training [learners], and frames and curves [learners, n]."""
    finals: dict[Arm, list[float]] = {}
    points: dict[Arm, dict[int, list[float]]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                loss: Any = row["loss"]
                arm = Arm(row["game"], loss, int(row["width"]), float(row["sticky_action_prob"]))
                if row["frames"]:
                    points.setdefault(arm, {}).setdefault(int(row["frames"]), []).append(float(row["return"]))
                else:
                    finals.setdefault(arm, []).append(float(row["return"]))
    curves = {arm: (list(of), np.array(list(of.values())).T) for arm, of in points.items()}
    return {arm: np.array(values) for arm, values in finals.items()}, curves


def with_interval(values: np.ndarray, strata: Sequence[str] | None = None) -> dict[str, float]:
    """Return the interquartile mean of runs and its 95 % bootstrap interval, stratified by game."""
    low, high = bootstrap_interval(values, strata=strata)
    return {"iqm": float(interquartile_mean(values)), "low": float(low), "high": float(high)}


def by_game(finals: dict[Arm, np.ndarray]) -> dict[str, Any]:
    """Return for each game what came of each loss."""
    found: dict[str, Any] = {}
    for arm, values in finals.items():
        found.setdefault(arm.game, {})[arm.loss] = {**with_interval(values), "learners": values.tolist()}
    return found


def normalized(finals: dict[Arm, np.ndarray]) -> dict[Loss, dict[str, np.ndarray]]:
    """Return the scores of each loss in the games that all losses played, the mean of a game being 1.

    A game in which no run has scored at all is left out: it compares nothing.
    """
    losses = list(dict.fromkeys(arm.loss for arm in finals))
    games = dict.fromkeys(arm.game for arm in finals)
    shared = [game for game in games if all(Arm(game, loss) in finals for loss in losses)]
    scale = {game: np.mean([finals[Arm(game, loss)] for loss in losses]) for game in shared}
    return {
        loss: {game: finals[Arm(game, loss)] / scale[game] for game in shared if scale[game] > 0.0}
        for loss in losses
    }


def over_games(finals: dict[Arm, np.ndarray]) -> dict[str, Any]:
    """Return for each loss its aggregate over games, and how likely hl_gauss improves on it."""
    scores, found = normalized(finals), {}
    for loss, of in scores.items():
        strata = [game for game, values in of.items() for _ in values]
        found[loss] = with_interval(np.concatenate(list(of.values())), strata) if of else {}
        if loss != OURS and of:
            mine = list(scores[OURS].values())
            names = ("probability", "low", "high")
            found[loss][f"{OURS}_improves"] = dict(
                zip(names, probability_of_improvement(mine, list(of.values())), strict=True)
            )
    return found


def by_variant(finals: dict[Arm, np.ndarray], field: Literal["width", "sticky"]) -> dict[str, Any]:
    """Return what came of each width, or of each stickiness, where there is another than the usual one."""
    rest = {"width": "sticky", "sticky": "width"}[field]
    of_field = [arm for arm in finals if getattr(arm, rest) == getattr(Arm("", OURS), rest)]
    varied = {arm[:2] for arm in of_field if arm != Arm(*arm[:2])}
    return {
        f"{arm.game} {arm.loss} {getattr(arm, field):g}": with_interval(finals[arm])
        for arm in sorted(of_field)
        if arm[:2] in varied
    }


def _panels(names: Sequence[str], title: str) -> tuple[Figure, Iterator[Any]]:
    figure = Figure(figsize=(3.4 * len(names), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for each, name in zip(axes, names, strict=True):
        each.set_title(name, loc="left", fontsize=11)
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.3)
    axes[0].set_ylabel(title)
    return figure, iter(axes)


def draw_curves(curves: Curves) -> Figure:
    """Draw the evaluations during training, a panel for each game."""
    games = list(dict.fromkeys(arm.game for arm in curves))
    losses = list(dict.fromkeys(arm.loss for arm in curves))
    figure, panels = _panels(games, "return of an evaluation episode")
    for game, axes in zip(games, panels, strict=True):
        for arm, (frames, returns) in curves.items():
            if arm.game == game:
                color = PALETTE[losses.index(arm.loss) % len(PALETTE)]
                axes.plot(frames, interquartile_mean(returns), color=color, label=arm.loss)
                axes.fill_between(frames, *bootstrap_interval(returns), color=color, alpha=0.12, linewidth=0)
        axes.set(xlabel="frames", ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda value, _: tick_label(value))
    legend = figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8,
        title="interquartile mean,\n95% bootstrap interval",
    )  # fmt: skip
    legend.get_title().set_fontsize(7.5)
    return figure


def draw_profiles(finals: dict[Arm, np.ndarray]) -> Figure:
    """Draw the share of runs above a score, over all games (Agarwal et al. 2021, figure 5)."""
    scores = normalized(finals)
    figure, panels = _panels(["share of runs above a score"], "share of runs")
    axes = next(panels)
    for place, (loss, of) in enumerate(scores.items()):
        if of:
            grid = np.linspace(0.0, 2.5, 126)
            share = np.mean([(values[:, None] > grid).mean(0) for values in of.values()], 0)
            axes.plot(grid, share, color=PALETTE[place % len(PALETTE)], label=loss)
    axes.set(xlabel="score (the mean of a game is 1)", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    return figure


def show(found: dict[str, Any]) -> None:
    """Print the numbers as tables."""

    def text(numbers: dict[str, float], first: str = "iqm") -> str:
        return f"{numbers[first]:.2f} [{numbers['low']:.2f}, {numbers['high']:.2f}]"

    table = Table("loss", *found["games"], "all games", f"{OURS} improves on it")
    for loss, overall in found["all_games"].items():
        cells = [text(of[loss]) if loss in of else "" for of in found["games"].values()]
        better = overall.get(f"{OURS}_improves")
        table.add_row(
            loss, *cells, text(overall) if overall else "", text(better, "probability") if better else ""
        )
    Console().print(table)
    for kind in ("widths", "sticky_action_probs"):
        for name, numbers in found[kind].items():
            Console().print(kind, name, text(numbers))


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(MinAtarStudy, description=__doc__)))
