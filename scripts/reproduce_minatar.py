"""Deep Q-learning by classification against squared errors, in MinAtar's games.

A small version of the online study of Farebrother et al. 2024 (arXiv 2403.03950, section 4.1): the same agent
with four losses, with sticky actions, and without them, where the paper finds that the losses tie. As there,
it is plain deep Q-learning: no double estimator, one-step returns. Replay, exploration, batch and target
network are those of MinAtar's own agent (Young & Tian 2019, arXiv 1903.03176), with a gradient step every
four frames instead of every one. Adam, whose step size is tuned for each loss with the same budget.

Every run is a run folder of its own below DIR/tuning and DIR/runs. The same command goes on with a study that
was stopped. Of a finished run the checkpoint is deleted, which holds the replay; the agent stays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from prefrl.agents.base import LearningFailedError
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

LAST = 4
"""The mean of the last quarter of a run's evaluations is what step sizes are chosen by."""


@dataclass(frozen=True)
class MinAtarStudy:
    """Deep Q-learning by classification against squared errors, in MinAtar's games."""

    out: Path = Path("runs/minatar")
    """Run folder: new, empty, or that of the same study, which goes on."""

    jobs: int = 2
    """Runs at once, one thread each."""

    games: tuple[str, ...] = ("Breakout", "Asterix")
    """MinAtar's games; step sizes are tuned on the first one."""

    losses: tuple[Loss, ...] = ("mse", "two_hot", "c51", "hl_gauss")
    """Losses to compare; hl_gauss must be among them."""

    sticky_free_losses: tuple[Loss, ...] = ("mse", "hl_gauss")
    """Those of them that also play the first game without sticky actions."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""

    frames: int = 200_000
    """Timesteps of a run; eight environments are stepped together, a gradient step is taken every 4."""

    rates: tuple[float, ...] = ()
    """Adam's step size for each of losses, in their order; without any they are tuned."""

    tried_rates: tuple[float, ...] = (1e-4, 2.5e-4, 1e-3)
    """Step sizes that are tried for each loss."""

    tune_frames: int = 50_000
    """Timesteps of a tuning run."""

    tune_seed: int = 1_000
    """Seed of the tuning runs; it must not be one of seeds."""

    sticky_action_prob: float = 0.1
    """Probability that the previous action is repeated."""

    learning_starts: int = 5_000
    """Frames of uniform actions before the first gradient step."""

    epsilon_frames: int = 100_000
    """Frames over which epsilon falls from 1 to 0.1."""

    buffer_size: int = 100_000
    """Transitions in the replay."""

    v_min: float = -5.0
    """Lowest value of the support."""

    v_max: float = 25.0
    """Highest value of the support."""

    bins: int = 51
    """Bins or atoms of the support."""

    eval_episodes: int = 20
    """Episodes of each of the 20 evaluations during a run."""

    final_episodes: int = 100
    """Episodes of the evaluation after it."""

    compile: bool = False
    """Compile the gradient steps: runs take a quarter less time; on the CPU it takes a C++ compiler."""

    def __post_init__(self) -> None:
        check_positive(self, "jobs", "frames", "tune_frames", "eval_episodes", "final_episodes")
        _check_chosen("games", self.games, GAMES)
        _check_chosen("losses", self.losses)
        if OURS not in self.losses:
            raise ValueError(f"losses is {self.losses}; {OURS} must be among them")
        _check_chosen("sticky_free_losses", self.sticky_free_losses, self.losses, empty=True)
        _check_chosen("seeds", self.seeds)
        _check_chosen("tried_rates", self.tried_rates)
        if self.rates and len(self.rates) != len(self.losses):
            raise ValueError(f"rates has {len(self.rates)} step sizes for {len(self.losses)} losses")
        if self.tune_seed in self.seeds:
            raise ValueError(f"tune_seed is {self.tune_seed}; it must not be one of seeds, {self.seeds}")
        if min(*self.seeds, self.tune_seed) < 0:
            raise ValueError(f"seeds is {self.seeds} and tune_seed {self.tune_seed}; none may be negative")
        if not 0.0 <= self.sticky_action_prob <= 1.0:
            raise ValueError(f"sticky_action_prob is {self.sticky_action_prob}; it must lie in [0, 1]")
        for loss in self.losses:
            for rate in self.rates or self.tried_rates:
                self._recipe(self.games[0], loss, rate, self.tune_seed, self.frames)

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return every number of the study; draw ``learning_curves.png``."""
        rates, tuning = dict(zip(self.losses, self.rates, strict=False)), {}
        if not rates:
            rates, tuning = self._tune(folder.path / "tuning")
        arms = self._arms()
        trials = {
            (arm, loss, seed): self._trial(arm, game, loss, rates[loss], seed, self.frames, sticky)
            for arm, (game, losses, sticky) in arms.items()
            for loss in losses
            for seed in self.seeds
        }
        failed = finish(folder.path / "runs", list(trials.values()), self.jobs)
        runs: dict[str, dict[str, Any]] = {arm: {} for arm in arms}
        for (arm, loss, _), trial in trials.items():
            if trial.name not in failed:
                found = read_json(folder.path / "runs" / trial.name / "result.json")
                runs[arm].setdefault(loss, []).append(found | {"seed": trial.seed})
        result = self._summary(runs, failed) | {"learning_rates": rates, "tuning": tuning}
        save_figure(draw(result), folder.path / "learning_curves.png")
        show(result)
        return result

    def _arms(self) -> dict[str, tuple[str, tuple[Loss, ...], float]]:
        """Return game, losses and probability of sticky actions of each arm, by its name."""
        arms: dict[str, tuple[str, tuple[Loss, ...], float]] = {
            game: (game, self.losses, self.sticky_action_prob) for game in self.games
        }
        if self.sticky_free_losses:
            arms[f"{self.games[0]} sticky-free"] = (self.games[0], self.sticky_free_losses, 0.0)
        return arms

    def _recipe(
        self, game: str, loss: Loss, rate: float, seed: int, frames: int, sticky: float = 0.0
    ) -> TrainDQN:
        return TrainDQN(
            env_id=GAMES[game],
            env_args=(f"sticky_action_prob={sticky}",),
            num_envs=8,
            total_timesteps=frames,
            eval_episodes=self.eval_episodes,
            final_episodes=self.final_episodes,
            seed=seed,
            agent=DQNConfig(
                loss=loss,
                gamma=0.99,
                double=False,
                learning_rate=rate,
                batch_size=32,
                buffer_size=self.buffer_size,
                learning_starts=self.learning_starts,
                train_freq=4,
                target_update_interval=1_000,
                epsilon_start=1.0,
                epsilon_end=0.1,
                epsilon_timesteps=self.epsilon_frames,
                v_min=self.v_min,
                v_max=self.v_max,
                bins=self.bins,
                compile=self.compile,
            ),
        )

    def _trial(
        self, arm: str, game: str, loss: Loss, rate: float, seed: int, frames: int, sticky: float
    ) -> Trial:
        name = f"{arm.replace(' ', '-')},loss={loss},learning_rate={rate:g},seed={seed}"
        config = to_json(self._recipe(game, loss, rate, seed, frames, sticky))
        return Trial(name, seed, {"agent.loss": loss, "agent.learning_rate": rate}, config)

    def _tune(self, folder: Path) -> tuple[dict[Loss, float], dict[Loss, dict[str, float | None]]]:
        """Return the best step size of each loss, and the scores of all; None where the run failed."""
        game = self.games[0]
        trials = {
            (loss, rate): self._trial(
                game, game, loss, rate, self.tune_seed, self.tune_frames, self.sticky_action_prob
            )
            for loss in self.losses
            for rate in self.tried_rates
        }
        failed = finish(folder, list(trials.values()), self.jobs)
        best: dict[Loss, float] = {}
        scores: dict[Loss, dict[str, float | None]] = {loss: {} for loss in self.losses}
        for loss in self.losses:
            achieved = {}
            for rate in self.tried_rates:
                name = trials[loss, rate].name
                if name not in failed:
                    returns = read_json(folder / name / "result.json")["eval_returns"]
                    achieved[rate] = float(np.mean(returns[-max(1, len(returns) // LAST) :]))
                scores[loss][f"{rate:g}"] = achieved.get(rate)
            if not achieved:
                raise LearningFailedError(f"every tuning run of {loss} failed: {sorted(failed.values())[0]}")
            best[loss] = max(achieved, key=achieved.__getitem__)
        return best, scores

    def _summary(self, runs: dict[str, dict[str, Any]], failed: dict[str, str]) -> dict[str, Any]:
        for arm, (_, losses, _) in self._arms().items():
            for loss in losses:
                if loss not in runs[arm]:
                    raise LearningFailedError(
                        f"every run of {loss} in {arm} failed: {sorted(failed.values())[0]}"
                    )
        arms = {arm: {loss: aggregate(found) for loss, found in of.items()} for arm, of in runs.items()}
        groups = {"sticky": list(self.games), "sticky_free": [arm for arm in arms if arm not in self.games]}
        return {
            "frames": self.frames,
            "seeds": list(self.seeds),
            "arms": arms,
            "failed": failed,
            f"probability_{OURS}_improves_on": {
                kind: against(arms, names) for kind, names in groups.items() if names
            },
            f"{OURS}_iqm_over_best_iqm": {
                arm: ratio_to_best({loss: each["iqm"] for loss, each in of.items()})
                for arm, of in arms.items()
            },
            "run_seconds": sum(sum(each["seconds"]) for of in arms.values() for each in of.values()),
        }


def _check_chosen(name: str, given: Sequence[Any], allowed: Any = None, *, empty: bool = False) -> None:
    """Raise ValueError for nothing, for the same thing twice, and for what is not allowed."""
    if (not given and not empty) or len(set(given)) < len(given):
        raise ValueError(f"{name} is {tuple(given)}; each must be given once, and at least one")
    for each in given:
        if allowed is not None and each not in allowed:
            raise ValueError(f"{name} has {each!r}; allowed are {', '.join(allowed)}")


def finish(folder: Path, trials: list[Trial], jobs: int) -> dict[str, str]:
    """Run trials, or go on with them; return what went wrong, by the names of those that failed."""
    open_sweep(folder, "dqn", trials)
    runs = {folder / trial.name: trial for trial in trials}
    failed = {}
    with Display(runs) as display:

        def tell(message: str) -> None:
            display.tell(message)
            discard_checkpoints(runs)

        unfinished = [run for run in runs if not (run / "result.json").exists()]
        failed = run_locally(unfinished, jobs, tell=tell, tick=display.tick)
    discard_checkpoints(runs)
    return {run.name: problem for run, problem in failed.items()}


def discard_checkpoints(runs: dict[Path, Trial]) -> None:
    """Delete the checkpoints of finished runs: each is a replay of some 80 MB that nobody needs again."""
    for run in runs:
        if (run / "result.json").exists():
            (run / "checkpoint.pt").unlink(missing_ok=True)


def aggregate(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what came out of one loss in one arm: everything per seed, and the finals' aggregate."""
    finals = [run["final_return"] for run in runs]
    low, high = bootstrap_interval(finals)
    keys = ("seed", "final_return", "clamped_fraction", "seconds", "steps_per_second", "eval_returns")
    return {
        **{key: [run[key] for run in runs] for key in keys},
        "eval_timesteps": runs[0]["eval_timesteps"],
        "iqm": float(interquartile_mean(finals)),
        "low": float(low),
        "high": float(high),
    }


def against(arms: dict[str, Any], names: list[str]) -> dict[str, dict[str, float]]:
    """Return how likely hl_gauss is to improve on each other loss, with intervals, over these arms."""
    found = {}
    for other in arms[names[0]]:
        if other != OURS and all(OURS in arms[name] for name in names):
            ours, theirs = ([arms[name][loss]["final_return"] for name in names] for loss in (OURS, other))
            found[other] = dict(
                zip(("probability", "low", "high"), probability_of_improvement(ours, theirs), strict=True)
            )
    return found


def ratio_to_best(iqms: dict[str, float]) -> float | None:
    """Return hl_gauss' aggregate over the best one; None where that is not positive, or there is none."""
    best = max(iqms.values())
    return iqms[OURS] / best if OURS in iqms and best > 0 else None


def draw(result: dict[str, Any]) -> Figure:
    """Draw the evaluations during training, a panel for each arm."""
    arms = result["arms"]
    figure = Figure(figsize=(4.2 * len(arms), 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    losses = list(next(iter(arms.values())))
    for axes, (arm, of) in zip(figure.subplots(1, len(arms), squeeze=False)[0], arms.items(), strict=True):
        for loss, each in of.items():
            color, returns = PALETTE[losses.index(loss) % len(PALETTE)], np.array(each["eval_returns"])
            axes.plot(each["eval_timesteps"], interquartile_mean(returns), color=color, label=loss)
            axes.fill_between(
                each["eval_timesteps"], *bootstrap_interval(returns), color=color, alpha=0.15, linewidth=0
            )
        axes.set_title(f"{arm} ({len(result['seeds'])} seeds)", loc="left", fontsize=11)
        axes.set(xlabel="frames", ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda value, _: tick_label(value))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("return of an evaluation episode")
    legend = figure.axes[0].legend(title="interquartile mean,\n95% bootstrap interval", frameon=False)
    legend.get_title().set_fontsize(7.5)
    return figure


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    table = Table("arm", "loss", "step size", "final return", "clamped", "steps/s")
    for arm, of in result["arms"].items():
        for loss, each in of.items():
            table.add_row(
                arm,
                loss,
                f"{result['learning_rates'][loss]:g}",
                f"{each['iqm']:.2f} [{each['low']:.2f}, {each['high']:.2f}]",
                f"{max(each['clamped_fraction']):.2%}",
                f"{np.mean(each['steps_per_second']):,.0f}",
            )
    improvement = Table("", f"{OURS} improves on", "probability")
    for kind, of in result[f"probability_{OURS}_improves_on"].items():
        for other, p in of.items():
            text = f"{p['probability']:.2f} [{p['low']:.2f}, {p['high']:.2f}]"
            improvement.add_row(kind.replace("_", "-"), other, text)
    console = Console()
    console.print(table, improvement)
    for name, problem in result["failed"].items():
        console.print(f"{name} failed: {problem}", markup=False)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(MinAtarStudy, description=__doc__)))
