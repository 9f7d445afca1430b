"""Rerun the benchmarks, one after the other, and write what they found on one page.

``BENCHES`` is the list of them: which script with which flags, which number of its ``result.json`` is which
ratio, and what both sides do. Each runs in a process and a folder of its own below ``--out``; what is
finished there is not done again, so that the same command goes on where it was stopped. After each of them
its rows, and no others, are replaced in ``docs/results/data/benchmarks.json``, and
``docs/results/benchmarks.md`` is rendered from that file.

A bench whose peer is not installed is listed with the reason. Peers are looked for where this script runs
(``minatar``, ``choix``, ``nashpy``, ``open_spiel``, ``cvxpy``), or in the Python that a flag names (SBX,
mbrl-lib, imitation), since these ask for other versions of what we use.

Run it on a machine that does nothing else: what others took of its processors meanwhile is written down too.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prefrl.cli import execute
from prefrl.data.files.atomic import atomic_path
from prefrl.processes import Terminated, claimed
from prefrl.run.flags import parse
from prefrl.run.folder import read_json, write_json
from prefrl.run.study.timing import spread

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "results" / "data" / "benchmarks.json"

# The manifest --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """Another library."""

    name: str
    packages: tuple[str, ...]
    """All of which must be installed; their versions are written down."""
    flag: str = ""
    """Of the script, and of this one: a Python that has them. Without one they must be where this runs."""


PEERS = {
    "sb3": Peer("Stable-Baselines3", ("stable-baselines3",)),
    "gymnasium": Peer("Gymnasium", ("gymnasium",)),
    "sbx": Peer("SBX", ("sbx-rl", "jax"), "--sbx-python"),
    "mbrl": Peer("mbrl-lib", ("mbrl", "torch"), "--mbrl-python"),
    "imitation": Peer("imitation", ("imitation", "torch"), "--imitation-python"),
    "minatar": Peer("MinAtar", ("minatar",)),
    "choix": Peer("choix", ("choix",)),
    "nashpy": Peer("nashpy", ("nashpy",)),
    "open_spiel": Peer("open_spiel", ("open_spiel",)),
    "open_spiel_programs": Peer("open_spiel", ("open_spiel", "cvxpy")),
}
"""What our benchmarks know."""


@dataclass(frozen=True)
class Row:
    """One number of a ``result.json``: a ratio, or with a unit an amount."""

    label: str
    path: tuple[str | int, ...]
    """Keys that lead to {"median", "min", "max"}, or to a list of numbers."""
    peer: str = ""
    """Of :data:`PEERS`; empty: a plain version of our own."""
    more_is_better: bool = True
    unit: str = ""
    """Empty: it is a ratio."""
    of: str = ""
    """What is counted, where it is not what the bench counts."""
    absent: str = ""
    """Why it may be missing though its peer is there."""


@dataclass(frozen=True)
class Bench:
    """One call of a script."""

    name: str
    script: str
    minutes: float
    """About how long it takes with :attr:`flags` on two cores, all peers included."""
    flags: tuple[str, ...]
    quick: tuple[str, ...]
    """Flags of a call that only shows that it works."""
    of: str
    """What is counted."""
    sides: str
    """What both sides do, for the page."""
    rows: tuple[Row, ...]
    resumable: bool = False
    """Whether the script goes on in its folder."""
    packages: tuple[str, ...] = ()
    """Without which nothing of it can be measured."""


PROCESSOR, CLOCK = "processor time", "time on the clock"
NO_BF16 = "the processor has no fast bfloat16"


def beside_sbx() -> Iterator[Row]:
    """Yield the rows of bench_sbx."""
    cases = {
        "dqn 64": "DQN, CartPole-v1, 64 x 64",
        "dqn 256": "DQN, CartPole-v1, 256 x 256",
        "sac 64": "SAC, Pendulum-v1, 64 x 64",
        "sac 256": "SAC, Pendulum-v1, 256 x 256",
        "sac hopper 256": "SAC, Hopper-v5, 256 x 256",
        "ppo 64": "PPO, 256 CartPoles, 64 x 64",
    }
    for case, label in cases.items():
        yield Row(label, (case, "sb3_over_ours"), "sb3")
        yield Row(label, (case, "sbx_over_ours"), "sbx")
        if case.startswith("dqn"):
            yield Row(f"{label}; its loop under one jit", (case, "sbx_scan_over_ours"), "sbx")


def beside_sb3_dqn() -> Iterator[Row]:
    """Yield the rows of bench_dqn."""
    device = "256 environments on the device, one step on 16,384 samples for SB3's 256 on 64"
    kinds = {
        "steps": "one environment",
        "compiled_steps": "one environment, our step compiled",
        "device_steps": device,
        "device_compiled_steps": f"{device}, our step compiled",
        "device_bf16_steps": f"{device}, our products in bfloat16",
    }
    for threads in (1, 2):
        for kind, label in kinds.items():
            yield Row(f"DQN, 256 x 256, {counted(threads)}: {label}", (f"{kind}_over_sb3_{threads}_threads",),
                      "sb3", absent=NO_BF16 if "bf16" in kind else "")  # fmt: skip
    for kind, label in (("", ""), ("_compiled", ", ours compiled")):
        yield Row(f"1,024 CartPoles, steps{label}", (f"device_over_gymnasium_env_steps{kind}",), "gymnasium")


def counted(threads: int) -> str:
    """Return a number of threads in words."""
    return f"{threads} thread{'s' * (threads > 1)}"


SAC_CASES = ("Pendulum-v1", "Hopper-v5", "Pendulum-v1, 64 x 64")
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
STACKS = ("dqn 64x64", "dqn 256x256", "dqn 128x128 hl_gauss", "dqn 32x32 quantile", "ppo 64x64",
          "ppo 32x32, actions in a box", "sac 64x64", "sac 32x32")  # fmt: skip
SEARCHES = {"grid": "a grid of 20 x 20", "small_grid": "a grid of 5 x 5", "two_actions": "2 actions",
            "four_actions": "4 actions", "sixteen_actions": "16 actions"}  # fmt: skip

BENCHES: tuple[Bench, ...] = (
    Bench(
        "sbx", "bench_sbx.py", 5,
        ("--repeats", "9"), ("--repeats", "1"), PROCESSOR,
        "DQN and SAC take a gradient step for every timestep of one environment; PPO learns in 256 "
        "CartPoles, ours one batch of tensors, theirs Gymnasium's one after another, so that environments "
        "count. Networks, batches and rates are equal; all on one core; nobody evaluates. SBX has compiled "
        "before the clock starts; \"one jit\" is its DQN as it is not released.",
        tuple(beside_sbx()), resumable=True,
    ),
    Bench(
        "ppo", "bench_ppo.py", 6,
        ("--parts", "rates", "solve"),
        ("--parts", "rates", "solve", "--repeats", "1", "--num-envs", "4", "--solve-envs", "4",
         "--rollouts", "1", "--seeds", "1", "--solve-timesteps", "300", "--zoo-timesteps", "600"),
        PROCESSOR,
        "Rates: equal settings, 256 CartPoles as above. Solved is two evaluations in a row of 475 or more, "
        "which are not counted: ours has settings that were chosen for 64 environments, SB3's those of "
        "rl-zoo3 for 8, or ours; a run that does not get there counts with what it took.",
        (
            *(Row(f"PPO, 256 CartPoles, {kind}, {counted(threads)}",
                  ("rates", f"{kind}_{threads}_threads", "cpu"), "sb3")
              for threads in (1, 2) for kind in ("relu", "tanh")),
            Row("PPO, until CartPole-v1 is solved, ours over the median of the zoo's settings, by seed",
                ("solve", "share_of_zoo_median"), "sb3", more_is_better=False),
            Row("PPO, the same over the median with our settings", ("solve", "share_of_same_median"), "sb3",
                more_is_better=False),
        ),
        resumable=True,
    ),
    Bench(
        "sac", "bench_mbpo.py", 4,
        ("--parts", "sac"), ("--parts", "sac", "--repeats", "1", "--steps", "5"), CLOCK,
        "One gradient step for every timestep of one environment, equal networks and batches (256, or 128 "
        "with 64 x 64); both write no files and log nothing.",
        tuple(Row(f"SAC, {case if '64' in case else f'{case}, 256 x 256'}, {counted(threads)}",
                  (f"threads_{threads}", "sac", case, "sb3_over_ours"), "sb3")
              for threads in (1, 2) for case in SAC_CASES),
    ),
    Bench(
        "preferences", "bench_preferences.py", 6,
        ("--repeats", "7"),
        ("--repeats", "1", "--pairs", "64", "--epochs", "1", "--label-pairs", "10", "--ppo-timesteps", "64",
         "--learner-timesteps", "40"),
        CLOCK,
        "Fits: a reward network learns from 1,000 comparisons of 50 steps in batches of 32, by each "
        "library's own trainer, after one fit that is not counted; imitation has another torch, see the run. "
        "The plain loop is an nn.Sequential and Adam. As learner of PreferenceRL, SB3's SAC and ours are "
        "stepped by the same loop of ours.",
        (
            *(Row(f"reward model, {width} x {width}", (f"fit_{width}", "ours_over_imitation"), "imitation")
              for width in (256, 64)),
            *(Row(f"PreferenceRL, Pendulum-v1, with SAC of {width} x {width}",
                  (f"learner_sb3_over_ours_{width}",), "sb3", of=PROCESSOR) for width in (64, 256)),
            Row("SB3's PPO in 16 environments, with our learned reward over without",
                ("wrapper_over_plain_seconds",), more_is_better=False),
            *(Row(f"reward model, {width} x {width}, over a plain loop", (f"fit_{width}", "ours_over_plain"))
              for width in (256, 64)),
        ),
    ),
    Bench(
        "host_loop", "bench_host_loop.py", 2,
        (), ("--repeats", "1", "--timesteps", "20"), PROCESSOR,
        "A timestep without its gradient step: acting by the network, stepping one environment, keeping the "
        "transition, counting.",
        tuple(Row(f"a timestep of {kind.upper()} without learning, {width} x {width}",
                  (f"{kind}_{width}", "sb3_over_ours"), "sb3")
              for kind in ("dqn", "sac") for width in (64, 256)),
    ),
    Bench(
        "pictures", "bench_pictures.py", 2,
        (), ("--repeats", "1", "--steps", "1", "--batch-size", "2", "--transitions", "20"), PROCESSOR,
        "Gradient steps alone, on pictures of noise: the network of Mnih et al. (2015), Huber's loss, "
        "batches of 32, gradients cut to the same norm.",
        (Row("DQN, a gradient step on 84 x 84 x 4", ("steps_over_sb3",), "sb3"),),
    ),
    Bench(
        "memory", "bench_memory.py", 4,
        (), ("--repeats", "1", "--buffer-size", "2000", "--timesteps", "10", "--full-size", "100",
             "--rows", "10"),
        "memory",
        "A process that trains SAC for 200 timesteps of HalfCheetah-v5 with room for 1,000,000 transitions; "
        "the peak that Linux saw.",
        (Row("SAC, peak memory, ours over theirs", ("peak_over_sb3",), "sb3", more_is_better=False),),
    ),
    Bench(
        "minatar", "bench_minatar.py", 3,
        (), ("--repeats", "1", "--num-envs", "8", "--steps", "2", "--package-steps", "20"), PROCESSOR,
        "Uniform actions out of those that a game uses, every observation made: the package one game at a "
        "time, ours 4,096 at once, which is what each is for. Starting anew in the same step makes two "
        "observations.",
        tuple(Row(f"{game}, steps{label}", ("games", game, "over_package", mode), "minatar")
              for game in GAMES
              for mode, label in (("next_step", ""), ("same_step", ", ours anew in the same step"))),
        packages=("minatar",),
    ),
    Bench(
        "mbpo", "bench_mbpo.py", 50,
        ("--parts", "mbrl", "parts", "--blocks", "2"),
        ("--parts", "mbrl", "parts", "--repeats", "1", "--blocks", "1"), CLOCK,
        "Beside mbrl-lib: its own settings for InvertedPendulum-v5 on both sides, 7 networks of 4 x 200, 10 "
        "gradient steps of 256 x 256 for every timestep; fits stop by each library's own rule, so that their "
        "lengths differ. Beside ourselves: MBPO in Pendulum-v1 with every row asked of all networks, "
        "transitions in NumPy and critics one by one by autograd.",
        (
            *(Row(f"MBPO, InvertedPendulum-v5, {counted(threads)}",
                  (f"threads_{threads}", "mbrl", "ours_over_mbrl"), "mbrl") for threads in (1, 2)),
            *(Row(f"MBPO, Pendulum-v1, {counted(threads)}, over one without what makes it fast",
                  (f"threads_{threads}", "parts", "without_over_with")) for threads in (1, 2)),
        ),
    ),
    Bench(
        "dqn", "bench_dqn.py", 10,
        ("--curve-timesteps", "1000", "--curve-seeds", "1"),
        ("--repeats", "1", "--timesteps", "20", "--num-envs", "2", "--env-rows", "2",
         "--hidden", "8", "8", "--curve-timesteps", "1000", "--curve-seeds", "1"),
        CLOCK,
        "A gradient step on 64 samples for every timestep. With 256 environments on the device ours takes as "
        "many samples for each timestep, but in one step of 16,384, a 256th of the updates: it is the same "
        "arithmetic and not the same algorithm. HL-Gauss is our own loss of 51 bins over our own Huber.",
        (
            *beside_sb3_dqn(),
            *(Row(f"a gradient step with HL-Gauss over one with Huber, {name}{label}",
                  (f"hl_gauss_over_huber_{kind}_update_seconds{suffix}",), more_is_better=False)
              for kind, name in (("mlp", "256 x 256"), ("conv", "MinAtar's convolution"))
              for suffix, label in (("", ""), ("_compiled", ", compiled"))),
        ),
    ),
    Bench(
        "ppo_hopper", "bench_ppo.py", 30,
        ("--parts", "hopper"),
        ("--parts", "hopper", "--seeds", "1", "--env-id", "Pendulum-v1", "--hopper-envs", "2",
         "--hopper-timesteps", "300"),
        PROCESSOR,
        "300,000 timesteps in 16 environments, equal settings, both stepping Gymnasium's one after another "
        "and standardising what they see; evaluations are not counted.",
        (Row("PPO, Hopper-v5, timesteps, seed by seed", ("hopper", "cpu_ratio"), "sb3"),),
        resumable=True,
    ),
    Bench(
        "games", "bench_games.py", 8,
        (), ("--repeats", "1", "--options", "5", "--comparisons", "200", "--games", "3", "--steps", "5"),
        PROCESSOR,
        "The same utilities by maximum likelihood, ours with all comparisons checked and loss and accuracy "
        "worked out; the same linear programs (ours, too, by HiGHS); the same steps. choix and "
        "nashpy are Python and NumPy, so is open_spiel's regret matching; its fit is C++. The loop over "
        "1,000 games is NumPy, one game after another.",
        (
            *(Row(f"Bradley-Terry of 100 options from 10,000 comparisons, {label}",
                  ("bradley_terry", "from_comparisons", f"{key}_over_ours"), peer)
              for key, label, peer in (
                  ("choix_ilsr_dense", "ilsr, dense", "choix"), ("choix_ilsr", "ilsr", "choix"),
                  ("choix_mm", "minorisation", "choix"), ("choix_newton", "Newton", "choix"),
                  ("open_spiel", "minorisation", "open_spiel"))),
            *(Row(f"the same from a table of wins, {label}",
                  ("bradley_terry", "from_table", f"{key}_over_ours"), peer)
              for key, label, peer in (
                  ("choix_ilsr_dense", "ilsr, dense", "choix"),
                  ("choix_lsr_dense", "lsr, dense, which stops after a step, short of the maximum", "choix"),
                  ("open_spiel", "minorisation", "open_spiel"))),
            Row("20 games of 10 x 10, a linear program each",
                ("equilibria", "linear_program", "nashpy_over_ours"), "nashpy"),
            Row("the same", ("equilibria", "linear_program", "open_spiel_over_ours"), "open_spiel_programs"),
            Row("1,000 steps of regret matching in one game",
                ("equilibria", "regret_matching", "open_spiel_over_ours"), "open_spiel"),
            Row("1,000 games as a batch, 400 steps of EGPO, over a NumPy loop", ("egpo", "loop_over_ours")),
        ),
    ),
    Bench(
        "learners", "bench_learners.py", 8,
        ("--parts", "speed", "processes"),
        ("--parts", "speed", "processes", "--learners", "2", "--repeats", "1", "--timesteps", "20"),
        PROCESSOR,
        "16 learners as one stack, over the same agent by itself, steps of all learners together; or over as "
        "many processes of that agent as there are cores, by the clock.",
        (
            *(Row(f"{case}, 16 as a stack over one", ("speed", case, "over_alone")) for case in STACKS),
            *(Row(f"{case}, 16 as a stack over processes", ("processes", case, "over_processes"), of=CLOCK)
              for case in ("dqn 64x64", "ppo 64x64", "sac 64x64")),
        ),
    ),
    Bench(
        "foundation", "bench_foundation.py", 6,
        (), ("--repeats", "1", "--num-mdps", "3", "--num-envs", "16", "--fit-steps", "2"), CLOCK,
        "The same solver, with one grid at a time; the same environment, one row at a time by gym.make.",
        (
            Row("value iteration, 1,000 grids as a batch", ("value_iteration_batched_speedup",)),
            Row("the delivery board, 4,096 rows on the device, steps", ("device_over_scalar_steps",)),
        ),
    ),
    Bench(
        "distributional_dp", "bench_distributional_dp.py", 6,
        ("--skip-compiled", "--skip-memory"),
        ("--skip-compiled", "--skip-memory", "--repeats", "1", "--updates", "2"), CLOCK,
        "One search for the best CVaR, beside memoised recursion in plain Python that carries distributions "
        "as dicts, or, as our solver does, expectations only.",
        tuple(Row(f"CVaR of RiskyCliff, {board}, over plain Python {label}",
                  ("plain_python", place, f"times_slower{suffix}"))
              for place, board in enumerate(("3 x 5", "6 x 12", "8 x 20"))
              for suffix, label in (("", "with distributions"),
                                    ("_without_distributions", "with expectations"))),
    ),
    Bench(
        "martingale", "bench_martingale.py", 8,
        (), ("--repeats", "1", "--chains", "4", "--steps", "10", "--paths", "16", "--path-steps", "1000",
             "--scalar-steps", "50"),
        CLOCK,
        "The same algorithm as a bare NumPy loop over one environment of gym.make; ours 256 chains at once.",
        (Row("actor-critic in continuous time, steps", ("actor_critic_over_scalar_loop",)),),
    ),
    Bench(
        "preference_optimization", "bench_preference_optimization.py", 1,
        (), ("--repeats", "1", "--pairs", "20", "--length", "3", "--hidden", "8", "--batch-size", "4",
             "--seeds", "2", "--steps", "2"),
        PROCESSOR,
        "The same loss by autograd and torch.optim.Adam, in a plain loop over batches.",
        tuple(Row(f"{loss.upper()}, 256 x 256, a gradient step", (loss, "plain_over_ours"))
              for loss in ("cpl", "dpo")),
    ),
    Bench(
        "diffusion", "bench_diffusion.py", 2,
        (), ("--repeats", "1", "--rows", "8", "--width", "8", "--sampling-steps", "2", "--calls", "1"),
        PROCESSOR,
        "The same network and the same samples, by a loop that calls all of it in every step; the same "
        "gradient step by autograd (with silu both are one).",
        tuple(row for activation in ("relu", "silu") for row in (
            Row(f"diffusion policy, {activation}, sampling", (activation, "ordinary_over_ours")),
            Row(f"diffusion policy, {activation}, a gradient step", (activation, "autograd_over_step")))),
    ),
    Bench(
        "search", "bench_search.py", 3,
        (), ("--repeats", "1", "--roots", "20", "--simulations", "4"), PROCESSOR,
        "256 roots at once over one tree after another in plain Python, equal visits; \"each start once\" is "
        "a plain tree that searches no root twice, as ours does.",
        (
            *(Row(f"tree search, {label}", (part, "plain_over_ours")) for part, label in SEARCHES.items()),
            Row("tree search, a grid of 5 x 5, each start once", ("small_grid", "plain_once_over_ours"),
                absent="there are as many starts as roots"),
        ),
    ),
    Bench(
        "allocation", "bench_allocation.py", 6,
        ("--skip-compiled",),
        ("--skip-compiled", "--repeats", "1", "--streams", "8", "--horizon", "20", "--single-requests", "30",
         "--resources", "1", "--resource-streams", "2", "--hindsight-requests", "9"),
        CLOCK,
        "`predict` of one request after another, with all that it checks, over the bare algorithm in NumPy.",
        (Row("dual mirror descent, a single request, time over the plain loop's",
             ("single_over_plain_loop",), more_is_better=False),),
    ),
    Bench(
        "label", "bench_label.py", 3,
        (), ("--repeats", "1", "--seconds", "1", "--people", "2", "--rate", "10", "--answered", "1",
             "--frames", "3"),
        CLOCK,
        "Ten people ask the labelling server 50 times a second together; a pair of clips of HalfCheetah-v5, "
        "50 pictures each, drawn and encoded.",
        (
            Row("server, half of the requests are answered in", ("server_p50_ms",), unit="ms",
                more_is_better=False),
            Row("server, 99 of 100", ("server_p99_ms",), unit="ms", more_is_better=False),
            Row("a pair of clips", ("clips_pair_cpu_s",), unit="s", of=PROCESSOR, more_is_better=False),
        ),
        packages=("starlette", "uvicorn", "av"),
    ),
)  # fmt: skip
"""All of them, the most telling first."""

# Running -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchAll:
    """Rerun the benchmarks, one after the other, and write what they found on one page."""

    out: Path = Path("runs/benchmarks")
    """Folder of the run folders: new, or of a call that was stopped."""

    only: tuple[str, ...] = ()
    """Names of benchmarks; all by default."""

    list: bool = False
    """Say what there is, about how long it takes, and what cannot be measured here; run nothing."""

    render: bool = False
    """Render the page from the file; run nothing."""

    quick: bool = False
    """Show that all of it works, in some minutes: the numbers mean nothing, and go to files in --out."""

    data: Path | None = None
    """File of what was found (default: docs/results/data/benchmarks.json; with --quick, in --out)."""

    page: Path | None = None
    """Page (default: docs/results/benchmarks.md; with --quick or another file, beside that file)."""

    sbx_python: Path | None = None
    """Python of an environment with sbx-rl."""

    mbrl_python: Path | None = None
    """Python of an environment with mbrl-lib."""

    imitation_python: Path | None = None
    """Python of an environment with imitation 1.0.1."""

    def __post_init__(self) -> None:
        names = [bench.name for bench in BENCHES]
        if unknown := [name for name in self.only if name not in names]:
            raise ValueError(f"only has {unknown[0]!r}; there are {', '.join(names)}")
        if self.list and self.render:
            raise ValueError("list and render are both given; one of them may be")
        if self.quick and self.data is not None and self.data.resolve() == DATA:
            raise ValueError(f"data is {self.data}; numbers of --quick do not go there")
        for peer in PEERS.values():
            if (python := self.python_of(peer)) is not None and not python.exists():
                raise ValueError(f"{field_of(peer.flag)} is {python}; there is no such file")

    @property
    def data_path(self) -> Path:
        """Where what was found is kept."""
        return self.data or (self.out / "benchmarks.json" if self.quick else DATA)

    @property
    def page_path(self) -> Path:
        """Where the page is."""
        if self.page is not None:
            return self.page
        return (
            DATA.parents[1] / "benchmarks.md" if self.data_path == DATA else self.data_path.with_suffix(".md")
        )

    def python_of(self, peer: Peer) -> Path | None:
        """Return the Python that is named for a peer."""
        found: Path | None = getattr(self, field_of(peer.flag)) if peer.flag else None
        return found

    def run(self) -> None:
        """Run what was asked for; exit with 1 where a bench failed."""
        data = read_data(self.data_path)
        if self.render:
            write_page(self.page_path, data)
            return
        chosen = [bench for bench in BENCHES if not self.only or bench.name in self.only]
        peers = {key: self.installed(peer) for key, peer in PEERS.items()}
        if self.list:
            show_list(chosen, peers)
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with claimed(self.out):
            failed, result = [], read_data(self.out / "result.json")
            for bench in chosen:
                found = self.one(bench, peers)
                for kept in (data, result):
                    merge(kept, bench, found)
                if found.failed:
                    failed.append(bench.name)
                write_json(self.data_path, data)
                write_page(self.page_path, data)
            write_json(self.out / "result.json", result)
            show_rows(chosen, result)
            print(self.out / "result.json")
        if failed:
            raise SystemExit(f"error: {', '.join(failed)} did not end well")

    def installed(self, peer: Peer) -> dict[str, str] | str:
        """Return the versions of a peer's packages, or why it is left out."""
        python = self.python_of(peer)
        if peer.flag and python is None:
            return f"{peer.name} is left out without {peer.flag}"
        found = versions_in(python, peer.packages)
        if missing := [package for package in peer.packages if package not in found]:
            return f"not installed: {', '.join(missing)}"
        return found

    def one(self, bench: Bench, peers: Mapping[str, dict[str, str] | str]) -> Found:
        """Run a bench unless its folder holds its result already; return what it found."""
        if reason := cannot_run(bench, peers):
            print(f"{bench.name} is not run: {reason}")
            return Found({}, {key(bench, row): reason for row in bench.rows})
        used = [PEERS[name] for name in PEERS if not isinstance(peers[name], str)
                and name in {row.peer for row in bench.rows}]  # fmt: skip
        words = list(bench.quick if self.quick else bench.flags)
        shown = ["python", f"scripts/{bench.script}", *words]
        for peer in (peer for peer in used if peer.flag):
            words += [peer.flag, str(self.python_of(peer))]
            shown += [peer.flag, "PYTHON"]
        folder = self.out / bench.name
        status = run_once(bench, folder, words, shlex.join([*shown, "--out", "RUN"]))
        if status:
            reason = f"it ended with status {status}"
            return Found({}, {key(bench, row): reason for row in bench.rows}, failed=True)
        rows, absent = rows_of(bench, read_json(folder / "result.json"), peers)
        versions = {peer.name: versions_in(self.python_of(peer), peer.packages) for peer in used}
        failed = NO_KEY in absent.values()
        return Found(rows, absent, described(folder, versions), failed=failed)


@dataclass(frozen=True)
class Found:
    """What a bench found."""

    rows: dict[str, dict[str, float]]
    absent: dict[str, str]
    """Why a row has no number."""
    run: dict[str, Any] = field(default_factory=dict)
    """When, where and how."""
    failed: bool = False


NO_KEY = "result.json has no such key"


def field_of(flag: str) -> str:
    """Return the field that a flag sets."""
    return flag.removeprefix("--").replace("-", "_")


def key(bench: Bench, row: Row) -> str:
    """Return the name of a row in the file."""
    return "/".join(map(str, (bench.name, *row.path)))


VERSIONS = """
import importlib.metadata, json, sys
found = {}
for package in sys.argv[1:]:
    try:
        found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions_in(python: Path | None, packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that a Python has (None: this one).

    Raises:
        ValueError: if it does not run.
    """
    try:
        done = subprocess.run([python or sys.executable, "-c", VERSIONS, *packages], capture_output=True,
                              text=True, check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{python} is no Python that runs: {error}") from error
    found: dict[str, str] = json.loads(done.stdout)
    return found


def cannot_run(bench: Bench, peers: Mapping[str, dict[str, str] | str]) -> str:
    """Return why nothing of a bench can be measured here, or nothing."""
    there = versions_in(None, bench.packages)
    if missing := [package for package in bench.packages if package not in there]:
        return f"not installed: {', '.join(missing)}"
    reasons = [peers[row.peer] if row.peer else {} for row in bench.rows]
    left_out = {reason for reason in reasons if isinstance(reason, str)}
    return "; ".join(sorted(left_out)) if all(isinstance(reason, str) for reason in reasons) else ""


def run_once(bench: Bench, folder: Path, words: list[str], shown: str) -> int:
    """Run a bench in its folder unless it is finished; return its exit status.

    Beside the folder a file says how it was called and, once it has ended, how long it took.

    Raises:
        ValueError: if the folder is that of another call.
    """
    path = folder.with_suffix(".json")
    begun = read_json(path)["command"] if path.exists() else None
    if begun != shown and (begun is not None or folder.exists()):
        raise ValueError(f"{folder} was begun by {begun or 'something else'}, now it is {shown}: choose "
                         "another --out")  # fmt: skip
    if (folder / "result.json").exists():
        print(f"{bench.name} is finished")
        return 0
    again = bench.resumable and folder.exists()
    if folder.exists() and not again:
        shutil.rmtree(folder)  # it was stopped, and cannot go on
    write_json(path, {"command": shown})
    print(f"{bench.name}: {shown}", flush=True)
    # NumPy's products do not ask torch how many threads there are; what is said to run on one must do so.
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / bench.script), *words, "--out", str(folder)]
    spent = processors_busy(), processor_seconds()
    started = time.perf_counter()
    status = subprocess.run(command, env=os.environ | one).returncode
    seconds = time.perf_counter() - started
    if status == 0:
        others = processors_busy() - spent[0] - (processor_seconds() - spent[1])
        record = {"command": shown, "seconds": None if again else round(seconds),
                  "others": max(0.0, round(others / seconds, 2)), "machine": machine()}  # fmt: skip
        write_json(path, record)
    return status


def processor_seconds() -> float:
    """Return the processor time of this process and of those that it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def processors_busy() -> float:
    """Return the seconds that all processors together were not idle, since the machine was started.

    Raises:
        OSError: elsewhere than on Linux.
    """
    user, nice, system, _, _, *rest = (
        int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """Return what the machine is."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    said = {name.strip(): value.strip() for name, _, value in lines}
    threads = os.cpu_count() or 1
    each = int(said.get("siblings", 1)) // int(said.get("cpu cores", 1))
    return {
        "processor": said.get("model name", platform.machine()),
        "cores": max(1, threads // max(1, each)),
        "threads": threads,
        "system": platform.platform(),
    }


def described(folder: Path, peers: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    """Return when, where and how a bench was run."""
    versions, record = read_json(folder / "versions.json"), read_json(folder.with_suffix(".json"))
    diff = folder / "git.diff"
    ended = datetime.fromtimestamp((folder / "result.json").stat().st_mtime, timezone.utc)
    return {
        "finished": f"{ended:%Y-%m-%d %H:%M}",
        "command": record["command"],
        "seconds": record.get("seconds"),
        "others": record.get("others"),
        "commit": versions["commit"],
        "changed": diff.exists() and diff.stat().st_size > 0,
        "machine": {
            **record.get("machine", {}),
            **{name: versions[name] for name in ("python", "torch", "numpy")},
        },
        "peers": dict(peers),
    }


# What was found ------------------------------------------------------------------------------------------


def number_at(result: Any, path: tuple[str | int, ...]) -> dict[str, float] | None:
    """Return median, minimum and maximum of what stands at the end of a path, or None."""
    for step in path:
        if (isinstance(step, int) and isinstance(result, list) and step < len(result)) or (
            isinstance(result, Mapping) and step in result
        ):
            result = result[step]
        else:
            return None
    if isinstance(result, list):
        result = spread(result)
    return {name: float(f"{result[name]:.4g}") for name in ("median", "min", "max")}


def rows_of(
    bench: Bench, result: Mapping[str, Any], peers: Mapping[str, dict[str, str] | str]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the numbers of a result by row, and why others have none."""
    rows, absent = {}, {}
    for row in bench.rows:
        found = number_at(result, row.path)
        if found is not None:
            rows[key(bench, row)] = found
        elif row.peer and isinstance(reason := peers[row.peer], str):
            absent[key(bench, row)] = reason
        else:
            absent[key(bench, row)] = row.absent or NO_KEY
    return rows, absent


def read_data(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing, where there is none.

    Raises:
        ValueError: if it is another kind of file.
    """
    if not path.exists():
        return {"rows": {}, "absent": {}, "runs": {}}
    data = read_json(path)
    if set(data) != {"rows", "absent", "runs"} or not all(isinstance(part, dict) for part in data.values()):
        raise ValueError(f"{path} is no file of benchmarks: it must hold rows, absent and runs")
    return data


def merge(data: dict[str, Any], bench: Bench, found: Found) -> None:
    """Put what a bench found in the place of what was known of its rows; others stay as they are.

    What was not measured this time keeps its number and the run that it is of.
    """
    rows, absent, runs = (data[name] for name in ("rows", "absent", "runs"))
    run = f"{bench.name}, {found.run.get('finished')}"
    for name, numbers in found.rows.items():
        rows[name] = {**numbers, "run": run}
        runs[run] = found.run
    absent |= found.absent
    known = {key(each, row) for each in BENCHES for row in each.rows}
    for part in (rows, absent):
        for name in set(part) - known:  # of an older list
            del part[name]
    for name in rows:
        absent.pop(name, None)
    for unused in set(runs) - {row["run"] for row in rows.values()}:
        del runs[unused]


# The page ------------------------------------------------------------------------------------------------

TOP = """\
# Results: benchmarks

How fast prefrl is beside other libraries, and beside the same written plainly. How these pages are made is
said on [the first one](README.md); what was learned meanwhile, and older measurements, are on
[speed](speed.md).

```sh
python scripts/bench_all.py --list       # what there is, and what cannot be measured here
python scripts/bench_all.py --sbx-python PYTHON --mbrl-python PYTHON --imitation-python PYTHON --out RUN
python scripts/bench_all.py --only sbx ppo --sbx-python PYTHON --out RUN
```

The first call of the last two reruns everything below, one benchmark after the other, about {hours:.1f}
hours on two cores; both go on where they were stopped, and replace their own rows only. `choix`, `nashpy`,
`open_spiel` and `cvxpy` are looked for where the script runs, the other peers where a flag says. This page
is rendered from [benchmarks.json](data/benchmarks.json) (`--render`).

Sides take turns; a ratio is taken within a turn, and is the median of all turns, with the least and the
most in brackets. Above 1 is how many times as fast ours is, unless the row says otherwise: then it is what
ours takes over what the other takes, and less is better. "ahead" and "behind" are of all turns; where the
turns lie on both sides of 1, no difference is shown.
"""


def page_of(data: Mapping[str, Any]) -> str:
    """Return the page."""
    numbers = {name: place for place, name in enumerate(sorted(data["runs"], key=order), 1)}
    tables = {
        "Beside other libraries": [(b, r) for b, r in all_rows() if r.peer],
        "Beside the same, written plainly": [(b, r) for b, r in all_rows() if not r.peer and not r.unit],
        "Beside nothing": [(b, r) for b, r in all_rows() if r.unit],
    }
    parts = [top(data)]
    for title, rows in tables.items():
        parts.append(f"## {title}\n\n" + table_of(rows, data, numbers))
    sides = [f"- **{bench.name}** ([{bench.script}](../../scripts/{bench.script})). {bench.sides}"
             for bench in BENCHES]  # fmt: skip
    parts.append("## What both sides do\n\n" + "\n".join(sides) + "\n")
    parts.append("## Runs\n\n" + runs_of(data["runs"], numbers))
    return "\n".join(parts)


def all_rows() -> list[tuple[Bench, Row]]:
    """Return all rows and their benches, in order."""
    return [(bench, row) for bench in BENCHES for row in bench.rows]


def order(run: str) -> int:
    """Return the place of a run's bench."""
    return [bench.name for bench in BENCHES].index(run.partition(",")[0])


def verdict(row: Row, numbers: Mapping[str, float]) -> str:
    """Return how ours is, in all turns."""
    if numbers["min"] <= 1.0 <= numbers["max"]:
        return "no difference shown"
    return "ahead" if (numbers["min"] > 1.0) == row.more_is_better else "**behind**"


def top(data: Mapping[str, Any]) -> str:
    """Return the head of the page."""
    ratios = [(bench, row) for bench, row in all_rows() if not row.unit]
    found = [verdict(row, data["rows"][key(b, row)]) for b, row in ratios if key(b, row) in data["rows"]]
    hours = sum(bench.minutes for bench in BENCHES) / 60
    counts = ", ".join(f"{found.count(word)} {word.strip('*')}"
                       for word in ("ahead", "**behind**", "no difference shown"))  # fmt: skip
    said = f"{len(found)} of {len(ratios)} ratios have been measured: {counts}." if found else (
        f"None of the {len(ratios)} ratios has been measured by this script yet.")  # fmt: skip
    return TOP.format(hours=hours) + f"\n{said}\n"


def table_of(rows: list[tuple[Bench, Row]], data: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    """Return a table of rows, those without a number among them."""
    lines = ["| what | beside | measured | ours is | of | bench, run |", "|---|---|---|---|---|---|"]
    for bench, row in rows:
        peer = PEERS[row.peer] if row.peer else None
        cells = [row.label, peer.name if peer else "", "not measured yet", "", "", bench.name]
        if found := data["rows"].get(key(bench, row)):
            run = data["runs"][found["run"]]
            if peer:
                cells[1] += f" {run['peers'][peer.name][peer.packages[0]]}"
            values = (number_text(found[name]) for name in ("median", "min", "max"))
            cells[2] = "{}{unit} ({} to {})".format(*values, unit=f" {row.unit}" if row.unit else "")
            cells[3] = "" if row.unit else verdict(row, found)
            cells[4] = row.of or bench.of
            cells[5] += f", {numbers[found['run']]}"
        elif reason := data["absent"].get(key(bench, row)):
            cells[2] = f"not measured: {reason}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def number_text(value: float) -> str:
    """Return a number to three digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def runs_of(runs: Mapping[str, Any], numbers: Mapping[str, int]) -> str:
    """Return the tables of runs and machines."""
    if not runs:
        return "There are none yet.\n"
    machines = list(dict.fromkeys(json.dumps(runs[name]["machine"], sort_keys=True) for name in numbers))
    lines = ["| run | ended (UTC) | code | minutes | others took | machine | command |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, number in numbers.items():
        run = runs[name]
        code = f"`{run['commit'][:7]}`" if run["commit"] else "not known"
        others = "not known" if run["others"] is None else f"{run['others']:.2f} processors"
        lines.append(
            f"| {number} | {run['finished']} | {code}{' and changes' if run['changed'] else ''} "
            f"| {minutes_text(run['seconds'])} | {others} "
            f"| {1 + machines.index(json.dumps(run['machine'], sort_keys=True))} | `{run['command']}` |"
        )
    lines.append("")
    for number, text in enumerate(machines, 1):
        lines.append(f"Machine {number}: {machine_text(json.loads(text))}.\n")
    peers = {name: found for run in runs.values() for name, found in run["peers"].items() if len(found) > 1}
    lines += [f"{name}: {', '.join(f'{package} {text}' for package, text in found.items())}.\n"
              for name, found in sorted(peers.items())]  # fmt: skip
    return "\n".join(lines)


def minutes_text(seconds: float | None) -> str:
    """Return how many minutes a run took."""
    return "not known: it was stopped in between" if seconds is None else f"{seconds / 60:.1f}"


def machine_text(found: Mapping[str, Any]) -> str:
    """Return what a machine is, in words."""
    hardware = "hardware not known"
    if "processor" in found:
        hardware = (f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, "
                    f"{found['system']}")  # fmt: skip
    return f"{hardware}, Python {found['python']}, torch {found['torch']}, NumPy {found['numpy']}"


def write_page(path: Path, data: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(page_of(data), "utf-8")


# On the terminal -----------------------------------------------------------------------------------------


def show_list(chosen: list[Bench], peers: Mapping[str, dict[str, str] | str]) -> None:
    """Print what there is, and what cannot be measured here."""
    table = Table("name", "command", "rows", "minutes", "not here")
    for bench in chosen:
        reasons = {peers[row.peer] for row in bench.rows if row.peer and isinstance(peers[row.peer], str)}
        reason = cannot_run(bench, peers) or "; ".join(sorted(map(str, reasons)))
        table.add_row(bench.name, " ".join((bench.script, *bench.flags)), str(len(bench.rows)),
                      f"{bench.minutes:g}", reason)  # fmt: skip
    Console().print(table)
    print(f"about {sum(bench.minutes for bench in chosen):g} minutes on two cores that do nothing else")


def show_rows(chosen: list[Bench], data: Mapping[str, Any]) -> None:
    """Print what was found of some benchmarks."""
    table = Table("bench", "what", "beside", "measured", "ours is")
    for bench in chosen:
        for row in bench.rows:
            found = data["rows"].get(key(bench, row))
            beside = PEERS[row.peer].name if row.peer else ""
            if found is None:
                table.add_row(bench.name, row.label, beside, data["absent"].get(key(bench, row), ""), "")
                continue
            text = "{} ({} to {})".format(*(number_text(found[name]) for name in ("median", "min", "max")))
            table.add_row(bench.name, row.label, beside, f"{text} {row.unit}".strip(),
                          "" if row.unit else verdict(row, found).strip("*"))  # fmt: skip
    Console().print(table)


def end(signum: int, frame: Any) -> None:
    """End as Ctrl-C does, so that the benchmark that is running ends too."""
    raise Terminated(signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(execute(lambda: parse(BenchAll, description=__doc__)))
