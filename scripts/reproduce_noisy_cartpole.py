"""Offline double Q-learning on CartPole data with noisy rewards: four losses, and what noise costs each.

A small version of the reward-noise study of Farebrother et al. 2024 (arXiv 2403.03950, section 5.2). A deep
Q-network learns in three parts; after each a third of the data is collected with its policy, a uniform action
taken with probability 0.3. To every reward of the data U(0, eta) is added once, as in the paper. That is not
zero-mean: it shifts all values by eta / (2 (1 - gamma)), by which the support is widened, keeping the width
of its bins. A last arm adds zero-mean noise, U(-eta / 2, eta / 2), of the largest eta.

A value spreads by one step for each copy of the target network: after N copies, values are short of their
fixed point by about gamma^N. So the interval between copies follows from the horizon, 1 / (1 - gamma): a run
makes ``horizons`` times as many, whatever its loss. Much shorter intervals are no way out: what the network
overshoots between two copies becomes the next target, and values of squared errors then grow without bound.

J is the mean return of 20 greedy episodes, over 500, the longest episode. Step sizes are tuned without noise,
with the same budget for each loss. The same seeds draw the same noise, up to its size, for all losses.

Up to four seeds of a loss and a noise learn side by side, as one stack, which leaves a file below DIR/runs;
the same command goes on with a study that was stopped.
"""

from __future__ import annotations

import csv
import math
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from prefrl.agents.value_based.dqn import DQN, DQNConfig, Loss
from prefrl.agents.value_based.dqn_learners import DQNLearners
from prefrl.cli import execute
from prefrl.data import seeded_generator
from prefrl.data.datasets import TransitionDataset
from prefrl.data.files.atomic import atomic_path, remove_stale_temporaries
from prefrl.data.files.transition_files import load_transitions, save_transitions
from prefrl.data.replay import ReplayBuffer
from prefrl.functional.statistics import FloatArray, bootstrap_interval, interquartile_mean
from prefrl.run.collect import collect_transitions
from prefrl.run.evaluate import evaluate_rows
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.plot import PALETTE, save_figure
from prefrl.run.study.study import check_positive, run_study

ENV_ID, LONGEST = "CartPole-v1", 500
GAMMA, V_MIN, V_MAX, BINS = 0.99, -20.0, 120.0, 51
HORIZON = 1.0 / (1.0 - GAMMA)
"""Steps that values look ahead; as many copies of the target network carry them a share 1 - 1/e there."""
EPSILON = 0.3
PARTS = 3
"""Parts of the behaviour's training, and of the data."""
EVALUATIONS = 5
"""Evaluations of a run; the last one is J, the mean of the last three is what step sizes are chosen by."""
CLAMPED_LIMIT = 0.01
"""Share of clamped targets above which a support was too narrow for its run."""
SIDE_BY_SIDE = 4
"""Seeds of a stack, at most."""
ROWS_VALUED = 1_000
"""Rows of the data, evenly spread, whose values are looked at."""

Noise = Literal["uniform", "zero_mean"]
Targets = Literal["greedy", "sarsa"]


@dataclass(frozen=True)
class Stack:
    """Offline runs that learn side by side, as a worker is told of them: seeds, and step sizes, of each."""

    loss: Loss
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    updates: int
    interval: int
    """Updates from one copy of the target network to the next."""
    episodes: int
    eta: float = 0.0
    noise: Noise = "uniform"
    targets: Targets = "greedy"
    tuning: bool = False

    @property
    def name(self) -> str:
        """Name of its file."""
        kind = "tuning" if self.tuning else f"eta={self.eta:g},{self.noise},{self.targets}"
        return f"loss={self.loss},{kind},seeds={self.seeds[0]}-{self.seeds[-1]}.json"


@dataclass(frozen=True)
class NoisyCartPole:
    """Offline double Q-learning on CartPole data with noisy rewards."""

    out: Path = Path("runs/noisy_cartpole")
    """Run folder: new, empty, or that of the same study, which goes on."""

    jobs: int = 2
    """Stacks at once, one thread each."""

    losses: tuple[Loss, ...] = ("mse", "c51", "two_hot", "hl_gauss")
    """Losses to compare; mse and hl_gauss must be among them."""

    etas: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    """Sizes of the reward noise, ascending from 0."""

    seeds: tuple[int, ...] = tuple(range(16))
    """Seeds of the runs: network, batches and noise."""

    updates: int = 15_000
    """Gradient steps of a run."""

    horizons: float = 3.0
    """Copies of the target network in a run, in horizons of 1 / (1 - gamma) steps: values are short of where
    they go by a share exp(-horizons)."""

    episodes: int = 20
    """Episodes of an evaluation."""

    behaviour_timesteps: int = 60_000
    """Timesteps that the agent which collects the data learns for."""

    transitions: int = 100_000
    """Transitions in the data."""

    data_seed: int = 500
    """Seeds that agent and its data."""

    tried_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Adam's step sizes that are tried for each loss, for as long as a run."""

    tune_seeds: tuple[int, ...] = (1_000, 1_001)
    """Seeds of the tuning runs; none may be one of seeds."""

    sarsa: bool = False
    """Also learn the value of the behaviour (SARSA targets), without noise and with the largest eta."""

    def __post_init__(self) -> None:
        check_positive(self, "jobs", "episodes", "behaviour_timesteps")
        for name in ("updates", "transitions"):
            if getattr(self, name) < (least := {"updates": EVALUATIONS, "transitions": PARTS}[name]):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("losses", "etas", "seeds", "tried_rates", "tune_seeds"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} is {given}; each must be given once, and at least one")
        if not {"mse", "hl_gauss"} <= set(self.losses):
            raise ValueError(f"losses is {self.losses}; mse and hl_gauss must be among them")
        if list(self.etas) != sorted(self.etas) or self.etas[0] != 0 or len(self.etas) < 2:
            raise ValueError(f"etas is {self.etas}; it must ascend from 0 and have two sizes at least")
        if not math.isfinite(self.etas[-1]):
            raise ValueError(f"etas is {self.etas}; it must be finite")
        if not 0.0 < self.horizons < math.inf:
            raise ValueError(f"horizons is {self.horizons}; it must be positive and finite")
        if min(*self.seeds, *self.tune_seeds, self.data_seed) < 0 or {*self.tune_seeds} & {*self.seeds}:
            raise ValueError(f"seeds is {self.seeds}, tune_seeds {self.tune_seeds}, data_seed "
                             f"{self.data_seed}; none may be negative, or stand twice")  # fmt: skip
        for loss in self.losses:
            for rate in self.tried_rates:
                DQNConfig(loss=loss, learning_rate=rate)

    @property
    def interval(self) -> int:
        """Updates from one copy of the target network to the next."""
        return max(1, round(self.updates / (self.horizons * HORIZON)))

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return every number of the study; draw ``noise.png``."""
        torch.set_flush_denormal(True)
        data = folder.path / "data.npz"
        if not (about := data.with_suffix(".json")).exists():
            dataset, description = self._collect()
            save_transitions(data, dataset)
            write_json(about, description)
        rates, tuned = self._tune(folder.path)
        found = finish(folder.path, self._stacks(rates), self.jobs)
        write_rows(found, folder.path / "runs.csv")
        backups = self.updates // self.interval
        result = {
            "data": read_json(about),
            "target_update_interval": self.interval,
            "backups": backups,
            "backups_over_horizon": backups / HORIZON,
            "learning_rates": rates,
            **tuned,
            **self._summary(found),
        }
        save_figure(draw(result), folder.path / "noise.png")
        show(result)
        return result

    def _collect(self) -> tuple[TransitionDataset, dict[str, Any]]:
        """Return the data of a mixture of policies, and how good those were."""
        agent = DQN(gym.make_vec(ENV_ID, 8), DQNConfig(loss="huber", gamma=GAMMA, hidden=(128, 128)),
                    device="cpu", seed=self.data_seed)  # fmt: skip
        parts, returns = [], []
        for part in range(PARTS):
            agent.learn(max(1, self.behaviour_timesteps // PARTS))
            seed = self.data_seed + part
            returns.append(evaluate_rows(agent, gym.make_vec(ENV_ID, 20), seed=seed)["mean_return"])
            count = self.transitions // PARTS + (part < self.transitions % PARTS)
            parts.append(
                collect_transitions(agent, gym.make_vec(ENV_ID, 8), count, epsilon=EPSILON, seed=seed)
            )
        names = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations")
        dataset = TransitionDataset.from_transitions(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in names},
            ends=torch.cat([~part.has_next_action for part in parts]),
            observation_space=parts[0].observation_space,
            action_space=parts[0].action_space,
            env_id=ENV_ID,
        )
        lengths = [len(part) / part.num_episodes for part in parts]
        return dataset, {
            "transitions": len(dataset),
            "behaviour_returns": returns,
            "mean_episode_lengths": lengths,
        }

    def _stacks(self, rates: dict[Loss, float]) -> list[Stack]:
        """Return the stacks of the study: all of the first seeds, then all of the next ones."""
        arms: list[dict[str, Any]] = [{"eta": eta} for eta in self.etas]
        arms.append({"eta": self.etas[-1], "noise": "zero_mean"})
        if self.sarsa:
            arms += [{"eta": eta, "targets": "sarsa"} for eta in (0.0, self.etas[-1])]
        return [
            self._stack(
                loss, [(seed, rates[loss]) for seed in self.seeds[first : first + SIDE_BY_SIDE]], **arm
            )
            for first in range(0, len(self.seeds), SIDE_BY_SIDE)
            for arm in arms
            for loss in self.losses
        ]

    def _stack(self, loss: Loss, learners: list[tuple[int, float]], **arm: Any) -> Stack:
        seeds, rates = zip(*learners, strict=True)
        return Stack(loss, rates, seeds, self.updates, self.interval, self.episodes, **arm)

    def _tune(self, folder: Path) -> tuple[dict[Loss, float], dict[str, Any]]:
        """Return the best step size of each loss, and what all came to; ties go to the first tried.

        A score is the interquartile mean over seeds of J, the mean of the last three evaluations. Step sizes
        with a support that was too narrow come last.
        """
        learners = [(seed, rate) for rate in self.tried_rates for seed in self.tune_seeds]
        stacks = [self._stack(loss, learners, tuning=True) for loss in self.losses]
        best: dict[Loss, float] = {}
        tuned: dict[str, Any] = {"tuning": {}, "tuning_values": {}}
        for stack, outcome in finish(folder, stacks, self.jobs).items():
            shape = len(self.tried_rates), len(self.tune_seeds)
            late = np.mean(outcome["returns"][-3:], axis=0).reshape(shape) / LONGEST
            achieved = interquartile_mean(late, axis=1)
            fits = np.max(np.reshape(outcome["clamped_fractions"], shape), axis=1) <= CLAMPED_LIMIT
            order = range(len(self.tried_rates))
            best[stack.loss] = self.tried_rates[max(order, key=lambda i: (fits[i], achieved[i]))]
            values = np.reshape(outcome["values"][-1], shape).tolist()
            names = [f"{rate:g}" for rate in self.tried_rates]
            tuned["tuning"][stack.loss] = dict(zip(names, achieved.tolist(), strict=True))
            tuned["tuning_values"][stack.loss] = dict(zip(names, values, strict=True))
        return best, tuned

    def _summary(self, found: dict[Stack, dict[str, Any]]) -> dict[str, Any]:
        j: dict[str, dict[str, list[float]]] = {}
        values: dict[str, dict[str, list[float]]] = {}
        clamped: dict[str, float] = {}
        for stack, outcome in found.items():
            arm = arm_name(stack)
            reached, valued = (of.setdefault(arm, {}).setdefault(stack.loss, []) for of in (j, values))
            reached += [mean / LONGEST for mean in outcome["returns"][-1]]
            valued += outcome["values"][-1]
            for seed, share in zip(stack.seeds, outcome["clamped_fractions"], strict=True):
                clamped[f"{arm}, {stack.loss}, seed {seed}"] = share
        clean, noisy = "eta=0", f"eta={self.etas[-1]:g}"
        arms = {arm: {loss: aggregate(each) for loss, each in of.items()} for arm, of in j.items()}
        iqms = {arm: {loss: each["iqm"] for loss, each in of.items()} for arm, of in arms.items()}
        lost = {
            arm: {loss: degradation(j[clean][loss], each) for loss, each in of.items()}
            for arm, of in j.items()
            if arm != clean and not arm.startswith("sarsa")
        }
        ours, theirs = (lost[noisy][loss]["value"] for loss in ("hl_gauss", "mse"))
        return {
            "j": arms,
            "values": values,
            "degradation": lost,
            "losses_within_0.1_without_noise": max(iqms[clean].values()) - min(iqms[clean].values()) <= 0.1,
            "hl_gauss_degrades_at_most_0.05_more_than_mse": ours <= theirs + 0.05,
            "hl_gauss_minus_mse": {arm: of["hl_gauss"] - of["mse"] for arm, of in iqms.items()},
            "support_too_narrow": {name: share for name, share in clamped.items() if share > CLAMPED_LIMIT},
            "run_seconds": sum(outcome["seconds"] for outcome in found.values()),
        }


# Runs, in processes of their own --------------------------------------------------------------------------


def finish(folder: Path, stacks: list[Stack], jobs: int) -> dict[Stack, dict[str, Any]]:
    """Do the stacks that are not done yet, several at once; return what came out of each, in their order.

    Raises:
        ChildProcessError: if a process died; what was finished is kept.
    """
    files = folder / "runs"
    files.mkdir(exist_ok=True)
    remove_stale_temporaries(files)
    missing = [stack for stack in stacks if not (files / stack.name).exists()]
    # Not forked: torch's threads do not survive that.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=prepare_worker)
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("stacks", total=len(stacks), completed=len(stacks) - len(missing))
            for future in as_completed([pool.submit(work, folder, stack) for stack in missing]):
                future.result()
                progress.advance(task)
    except BrokenProcessPool as error:
        raise ChildProcessError("a process of this study died, perhaps for want of memory; the same command "
                                "goes on") from error  # fmt: skip
    finally:
        pool.shutdown(cancel_futures=True)
    return {stack: read_json(files / stack.name) for stack in stacks}


def prepare_worker() -> None:
    """Use one thread, and leave when the study is gone, however it ended."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments of idle weights become denormal, which are slow
    threading.Thread(target=leave_with_parent, daemon=True).start()


def leave_with_parent() -> None:
    """Wait for the study's own process to end, then end this one."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def work(folder: Path, stack: Stack) -> None:
    """Do a stack and write its file; Ctrl-C, which reaches every process, ends this one."""
    try:
        outcome = learn_offline(load_transitions(folder / "data.npz"), stack)
        write_json(folder / "runs" / stack.name, {**asdict(stack), **outcome})
    except KeyboardInterrupt:
        os._exit(130)


def learn_offline(dataset: TransitionDataset, stack: Stack) -> dict[str, Any]:
    """Return each run's mean return and mean value at its evaluations, and its share of clamped targets."""
    start, learners = time.process_time(), len(stack.seeds)
    env = gym.make_vec(ENV_ID, learners * stack.episodes)
    agents = DQNLearners(env, settings(stack), num_learners=learners, device="cpu", seed=stack.seeds)
    agents.replay = noisy_replay(dataset, stack)
    obs = dataset.obs[:: max(1, len(dataset) // ROWS_VALUED)].expand(learners, -1, -1)
    returns, values = [], []
    for number in range(1, EVALUATIONS + 1):
        while agents.num_timesteps < stack.updates * number // EVALUATIONS:
            agents.num_timesteps += 1  # nothing is stepped: a timestep is one update
            agents.update()
        found = evaluate_rows(agents, env, seed=1_000 * stack.seeds[0] + number)
        returns.append(found["learners"] if learners > 1 else [found["mean_return"]])
        values.append(agents.q_values(obs).amax(-1).mean(-1).tolist())
    if frozen := agents.descent.frozen():
        raise FloatingPointError(f"{stack.name}: seeds {[stack.seeds[i] for i in frozen]} diverged")
    return {
        "returns": returns,
        "values": values,
        "clamped_fractions": agents.clamped_fractions,
        "seconds": time.process_time() - start,
    }


def noisy_replay(dataset: TransitionDataset, stack: Stack) -> ReplayBuffer:
    """Return a replay with the data in a column for each run, whose rewards have noise of its own seed."""
    learners, rows = len(stack.seeds), len(dataset)
    alone = ReplayBuffer.from_dataset(dataset, gamma=GAMMA, n_step=1, device=torch.device("cpu"))
    replay = ReplayBuffer(learners * rows, learners, gamma=GAMMA)
    replay.storage = {
        name: kept.expand(-1, learners, *kept.shape[2:]).clone() for name, kept in alone.storage.items()
    }
    replay.added = rows
    centre = 0.5 if stack.noise == "zero_mean" else 0.0
    for column, seed in enumerate(stack.seeds):
        uniform = torch.rand(rows, generator=seeded_generator(seed, "reward noise"))
        replay.storage["rewards"][:, column] += stack.eta * (uniform - centre)
    return replay


def settings(stack: Stack) -> DQNConfig:
    """Return the agents' settings; with more noise there are more bins of the same width."""
    shift = stack.eta / (2 * (1 - GAMMA)) if stack.noise == "uniform" else 0.0
    atoms = stack.loss in ("c51", "two_hot")  # the support has one atom more than steps between them
    width = (V_MAX - V_MIN) / (BINS - atoms)
    steps = math.ceil((V_MAX + shift - V_MIN) / width - 1e-9)
    return DQNConfig(
        loss=stack.loss,
        gamma=GAMMA,
        double=True,
        learning_rate=stack.learning_rates,
        batch_size=64,
        learning_starts=0,
        train_freq=1,
        target_update_interval=stack.interval,
        hidden=(128, 128),
        v_min=V_MIN,
        v_max=V_MIN + steps * width,
        bins=steps + atoms,
        max_clamped_fraction=1.0,  # the study goes on, and names the run
        target_policy=stack.targets,
    )


# What came out -------------------------------------------------------------------------------------------


def arm_name(stack: Stack) -> str:
    """Return the name of a stack's arm: ``eta=0.3``, ``zero-mean eta=1``, ``sarsa eta=0``."""
    kind = "sarsa " if stack.targets == "sarsa" else "zero-mean " if stack.noise == "zero_mean" else ""
    return f"{kind}eta={stack.eta:g}"


def write_rows(found: dict[Stack, dict[str, Any]], path: Path) -> None:
    """Write every evaluation of every run as a row."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("noise", "loss", "learning_rate", "seed", "updates", "mean_return", "mean_value"))
        for stack, outcome in found.items():
            for number, pairs in enumerate(zip(outcome["returns"], outcome["values"], strict=True), 1):
                each = zip(stack.learning_rates, stack.seeds, *pairs, strict=True)
                for rate, seed, mean, value in each:
                    updates = stack.updates * number // EVALUATIONS
                    row = f"{mean:g}", f"{value:.4g}"
                    writer.writerow((arm_name(stack), stack.loss, f"{rate:g}", seed, updates, *row))


def aggregate(values: list[float]) -> dict[str, Any]:
    """Return J of each seed, its interquartile mean and bootstrap interval."""
    low, high = bootstrap_interval(values)
    return {
        "values": values,
        "iqm": float(interquartile_mean(values)),
        "low": float(low),
        "high": float(high),
    }


def degradation(clean: list[float], noisy: list[float], resamples: int = 2_000) -> dict[str, float]:
    """Return (J(0) - J(eta)) / J(0) and its 95% bootstrap interval; seeds are drawn with both their runs."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(clean), size=(resamples, len(clean)))

    def lost(before: FloatArray, after: FloatArray) -> FloatArray:
        return 1.0 - interquartile_mean(after, axis=-1) / interquartile_mean(before, axis=-1)

    before, after = np.array(clean), np.array(noisy)
    low, high = np.quantile(lost(before[rows], after[rows]), [0.025, 0.975])
    return {"value": float(lost(before, after)), "low": float(low), "high": float(high)}


def draw(result: dict[str, Any]) -> Figure:
    """Draw J against eta, a line for each loss, and the zero-mean arm beside it."""
    arms = [arm for arm in result["j"] if not arm.startswith("sarsa")]
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    losses = list(result["j"][arms[0]])
    for number, loss in enumerate(losses):
        each = [result["j"][arm][loss] for arm in arms]
        iqm = np.array([entry["iqm"] for entry in each])
        errors = [iqm - [entry["low"] for entry in each], [entry["high"] for entry in each] - iqm]
        x = np.arange(len(arms)) + 0.06 * (number - (len(losses) - 1) / 2)
        color = PALETTE[number % len(PALETTE)]
        axes.errorbar(x, iqm, errors, color=color, fmt="o", capsize=2, markersize=4, label=loss)
        axes.plot(x[:-1], iqm[:-1], color=color, linewidth=1.2)
    axes.set_xticks(range(len(arms)), [arm.replace(" ", "\n") for arm in arms])
    axes.set(xlabel="noise added to the rewards", ylabel="J: mean return / 500", ylim=(0, 1.05))
    axes.set_title(f"{ENV_ID}, offline, {len(each[0]['values'])} seeds", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    legend = figure.legend(
        title="interquartile mean,\n95% bootstrap interval", frameon=False, loc="outside right upper"
    )
    legend.get_title().set_fontsize(7.5)
    return figure


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    losses = list(result["learning_rates"])
    table = Table("J and degradation", *losses)
    table.add_row("step size", *(f"{result['learning_rates'][loss]:g}" for loss in losses))
    for arm, of in result["j"].items():
        table.add_row(f"J, {arm}", *(interval_text(of[loss], "iqm") for loss in losses))
    for arm, lost in result["degradation"].items():
        table.add_row(f"D, {arm}", *(interval_text(lost[loss], "value") for loss in losses))
    console = Console()
    console.print(table)
    console.print(f"the target network is copied every {result['target_update_interval']} updates: "
                  f"{result['backups']} backups, {result['backups_over_horizon']:.2g} horizons")  # fmt: skip
    if result["support_too_narrow"]:
        count = len(result["support_too_narrow"])
        console.print(f"in {count} runs more than {CLAMPED_LIMIT:.0%} of the targets were clamped")


def interval_text(entry: dict[str, float], key: str) -> str:
    """Return a number and its interval."""
    return f"{entry[key]:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(NoisyCartPole, description=__doc__)))
