"""How regret grows with the horizon in online allocation, for any environment, input model and policy.

Regret is the hindsight optimum of the same requests less the reward, in the mean over replications. Its slope
is that of log regret over log T, by least squares, with a 95 % bootstrap interval over replications. With
--all every input model is measured and, beside regrets, the competitive ratio under the adversary over alpha.

The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import RescaleAction
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from tyro.conf import arg

from prefrl.agents.allocation.baselines import AllocationBaseline, AllocationBaselineConfig
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent, DualMirrorDescentConfig, Reference
from prefrl.cli import execute
from prefrl.envs.allocation.request_streams import InputModel
from prefrl.envs.wrappers import DualPriceAction
from prefrl.run.environments import make_scalar_env, make_training_env, parse_env_args
from prefrl.run.flags import gather_env_flags, parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.outcomes.allocation import (
    allocation_outcome,
    check_whole_horizons,
    has_instances,
    regret_slope,
)
from prefrl.run.plot import PALETTE, save_figure, tidy
from prefrl.run.study.study import check_positive, run_study

Floats = NDArray[np.float64]

Policy = Literal[
    "euclidean", "scaled_euclidean", "entropy", "projected_entropy",
    "greedy", "static", "resolving", "pid", "ppo",
]  # fmt: skip
"""Dual mirror descent with a reference function, a baseline, or SB3's PPO setting the prices."""

INPUT_MODELS = tuple(model for model in get_args(InputModel) if model != "replay")

ADVERSARY = "prefrl/AdversarialKnapsack-v0"
ALPHAS, EPS = (1.0, 2.0, 4.0, 8.0, 16.0), 0.02
RATIO_POLICIES: tuple[Policy, ...] = ("euclidean", "pid", "greedy")


@dataclass(frozen=True)
class RegretStudy:
    """How regret grows with the horizon in online allocation."""

    out: Path = Path("runs/regret")
    """Run folder: new, empty, or of the same study."""

    env_id: str = "prefrl/MultiSecretary-v0"
    """An allocation environment of prefrl."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: rho=0.3 (or --env.rho 0.3)."""

    horizons: str = "100,316,1000,3162,10000,31623"
    """Horizons T, with commas between them."""

    replications: int = 100
    """Independent streams of requests for each horizon."""

    policies: tuple[Policy, ...] = ("euclidean",)
    """Reference functions of dual mirror descent, and baselines."""

    input_models: tuple[str, ...] = ()
    """Input models; none: what env_args says, or iid."""

    all: bool = False
    """Measure every input model, and the competitive ratio over alpha."""

    adversary_horizon: int = 40_000
    """Requests where the competitive ratio is measured."""

    initial_price: tuple[float, ...] = ()
    """First prices of dual mirror descent; see its settings."""

    step_scale: float | None = 1.0
    """c of the step size c / sqrt(T) of dual mirror descent and PID; None: their default, without a unit."""

    instances: int = 1
    """Instances, instance_seed 0, 1, ..., that the replications are divided among, where there are such."""

    ppo_timesteps: int = 200_000
    """Requests that PPO is trained for at each horizon."""

    seed: int = 0
    """Seeds the requests."""

    device: str = "cpu"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    def __post_init__(self) -> None:
        check_positive(self, "replications", "instances", "ppo_timesteps", "adversary_horizon")
        if not self.policies:
            raise ValueError(f"policies is empty; give some of {', '.join(get_args(Policy))}")
        if min(self.steps) < 2 or len(set(self.steps)) < len(self.steps):
            raise ValueError(
                f"horizons is {self.horizons!r}; it must be different whole numbers of at least 2"
            )
        if self.replications % self.instances:
            raise ValueError(f"replications is {self.replications}; it must be a multiple of instances")
        given = parse_env_args(self.env_args)
        check_whole_horizons(given)
        if self.instances > 1 and not has_instances(self.env_id):
            raise ValueError(f"instances is {self.instances}, but there is only one {self.env_id}")
        if "instance_seed" in given and self.instances > 1:
            raise ValueError("env_args has instance_seed, and instances sets it too; give one of them")
        wrong = sorted(set(self.models) - {*INPUT_MODELS, ""})
        if wrong:
            raise ValueError(f"input_models has {wrong[0]!r}; allowed are {', '.join(INPUT_MODELS)}")

    @property
    def steps(self) -> tuple[int, ...]:
        """The horizons, from the shortest on."""
        try:
            return tuple(sorted(int(text) for text in self.horizons.split(",")))
        except ValueError:
            raise ValueError(
                f"horizons is {self.horizons!r}; it must be whole numbers, as in 100,1000"
            ) from None

    @property
    def models(self) -> tuple[str, ...]:
        """The input models; an empty name leaves it to ``env_args``."""
        return INPUT_MODELS if self.all else self.input_models or ("",)

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure what has not been measured yet; draw, print and return all of it."""
        parts = folder.path / "parts"
        parts.mkdir(exist_ok=True)
        found: dict[str, dict[str, Any]] = {}
        for model in self.models:
            name = model or str(parse_env_args(self.env_args).get("input_model", "iid"))
            found[name] = {}
            for policy in self.policies:
                found[name][policy] = self._over_horizons(parts, model, name, policy)
        ratios = self._ratios(parts) if self.all else {}
        first = next(iter(next(iter(found.values())).values()))
        result = {**first, "env_id": self.env_id, "input_models": found, "competitive_ratios": ratios}
        draw(self, result, folder.path)
        show(result)
        return result

    def _over_horizons(self, parts: Path, model: str, name: str, policy: Policy) -> dict[str, Any]:
        regrets, rows = [], []
        for horizon in self.steps:
            path = parts / f"{name}-{policy}-{horizon}.json"
            if not path.exists():
                write_json(path, self._once(model, policy, horizon))
            rows.append(read_json(path))
            regrets.append(np.array(rows[-1]["regret"]))
        slope = regret_slope(self.steps, regrets, seed=self.seed)
        count = len(regrets[0])
        return {
            "horizons": list(self.steps),
            "regret": [float(values.mean()) for values in regrets],
            "regret_stderr": [float(v.std(ddof=1) / count**0.5) if count > 1 else None for v in regrets],
            "relative_regret": [float(np.mean(row["regret"]) / np.mean(row["hindsight"])) for row in rows],
            "left_at_depletion": [
                None if row["depletion"] is None else float(horizon - np.mean(row["depletion"]))
                for row, horizon in zip(rows, self.steps, strict=True)
            ],
            "slope": None if slope is None else slope.value,
            "slope_interval": None if slope is None or slope.interval is None else list(slope.interval),
            "slope_of_last": self._slope_of_last(regrets),
        }

    def _slope_of_last(self, regrets: Sequence[Floats]) -> float | None:
        """Return the slope over the last three horizons, past what is peculiar to short ones."""
        slope = regret_slope(self.steps[-3:], regrets[-3:]) if len(self.steps) > 3 else None
        return None if slope is None else slope.value

    def _once(self, model: str, policy: Policy, horizon: int) -> dict[str, Any]:
        """Return regrets, optima and depletion times of every replication at one horizon."""
        arguments = (*self.env_args, f"horizon={horizon}", *([f"input_model={model}"] if model else []))
        rows = self.replications // self.instances
        regrets: list[float] = []
        hindsight: list[float] = []
        depletion: list[int] = []
        for instance in range(self.instances):
            env_args = (*arguments, f"instance_seed={instance}") if self.instances > 1 else arguments
            seed = int(np.random.SeedSequence([self.seed, horizon, instance]).generate_state(1)[0])
            if policy == "ppo":
                rewards, best = run_ppo(self, env_args, rows, seed=seed)
                regrets += (best - rewards).tolist()
                hindsight += best.tolist()
                continue
            env = make_training_env(self.env_id, env_args, rows, self.device, torch.float64)
            agent = self._agent(policy, env, seed)
            agent.learn(rows * horizon)
            outcome = allocation_outcome(agent, env)
            regrets += outcome.regret.tolist()
            hindsight += outcome.hindsight.tolist()
            depletion += outcome.depletion.tolist()
        return {"regret": regrets, "hindsight": hindsight, "depletion": depletion or None}

    def _agent(self, policy: Policy, env: Any, seed: int) -> DualMirrorDescent | AllocationBaseline:
        """Return a policy of dual prices by name."""
        for reference in get_args(Reference):
            if policy == reference:
                config = DualMirrorDescentConfig(
                    reference=reference, step_scale=self.step_scale, initial_price=self.initial_price
                )
                return DualMirrorDescent(env, config, device=self.device, seed=seed)
        baseline: Any = policy
        config_of_baseline = AllocationBaselineConfig(kind=baseline, step_scale=self.step_scale)
        return AllocationBaseline(env, config_of_baseline, device=self.device, seed=seed)

    def _ratios(self, parts: Path) -> dict[str, Any]:
        """Return OPT / reward under the adversary for every alpha, and its limit for dual mirror descent."""
        ratios: dict[str, Any] = {"alpha": list(ALPHAS), "eps": EPS, "horizon": self.adversary_horizon}
        ratios["limit"] = [1.0 / (1.0 / alpha + (1.0 - 1.0 / alpha) * EPS) for alpha in ALPHAS]
        for policy in RATIO_POLICIES:
            ratios[policy] = []
            for alpha in ALPHAS:
                path = parts / f"adversary-{policy}-{alpha:g}.json"
                if not path.exists():
                    settings = (f"alpha={alpha}", f"eps={EPS}", f"horizon={self.adversary_horizon}")
                    env = make_training_env(ADVERSARY, settings, 1, self.device, torch.float64)
                    agent = self._agent(policy, env, self.seed)
                    agent.learn(self.adversary_horizon)
                    write_json(path, allocation_outcome(agent, env).summary())
                ratios[policy].append(read_json(path)["competitive_ratio"])
        return ratios


def run_ppo(study: RegretStudy, env_args: tuple[str, ...], rows: int, *, seed: int) -> tuple[Floats, Floats]:
    """Train SB3's PPO to set prices, with its own settings; return rewards and hindsight optima [rows]."""
    env = DualPriceAction(make_scalar_env(study.env_id, env_args))
    scaled: gym.Env[Any, Any] = RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    model = PPO("MultiInputPolicy", scaled, seed=seed, device="cpu")
    model.learn(study.ppo_timesteps)
    rewards, best = np.zeros(rows), np.zeros(rows)
    for row in range(rows):
        obs, _ = scaled.reset(seed=int(np.random.SeedSequence([seed, row, 1]).generate_state(1)[0]))
        best[row] = scaled.unwrapped.hindsight_optimum()  # type: ignore[attr-defined]
        terminated = False
        while not terminated:
            obs, reward, terminated, _, _ = scaled.step(model.predict(obs, deterministic=True)[0])
            rewards[row] += float(reward)
    return rewards, best


def draw(study: RegretStudy, result: dict[str, Any], folder: Path) -> None:
    """Draw regret over T, what was left at the first depletion over T, and the competitive ratio."""
    found = result["input_models"]
    figure = Figure(figsize=(1.0 + 3.3 * len(found), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (model, of) in zip(panels, found.items(), strict=True):
        draw_regret(axes, model, of)
    panels[0].set_ylabel("regret against the best in hindsight")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=8, frameon=False, fontsize=9)
    figure.suptitle(f"{study.env_id}, mean and standard error over {study.replications} replications",
                    fontsize=11, x=0.01, ha="left")  # fmt: skip
    save_figure(figure, folder / "regret.png")
    draw_depletion(found, folder / "depletion.png")
    if result["competitive_ratios"]:
        draw_ratios(result["competitive_ratios"], folder / "competitive_ratio.png")


def styles(names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names with how to draw them: what lies on top of each other must be seen."""
    for index, name in enumerate(names):
        color, line = PALETTE[index % len(PALETTE)], ("-", "--", "-.")[index % 3]
        yield name, {"color": color, "linestyle": line, "marker": "o", "markersize": 3, "linewidth": 1.5,
                     "zorder": 3.0 - 0.1 * index}  # fmt: skip


def draw_regret(axes: Axes, model: str, of: dict[str, Any]) -> None:
    """Draw the regrets of all policies under one input model, and a line of slope 1/2."""
    for policy, style in styles(of):
        row = of[policy]
        errors = [error or 0.0 for error in row["regret_stderr"]]
        axes.errorbar(row["horizons"], row["regret"], yerr=errors, label=policy, **style)
    row = next(iter(of.values()))
    steps = np.array(row["horizons"], dtype=np.float64)
    axes.plot(
        steps, row["regret"][0] * np.sqrt(steps / steps[0]), color="0.6", linestyle=":", label="slope 1/2"
    )
    axes.set_xscale("log")
    axes.set_yscale("log" if min(min(r["regret"]) for r in of.values()) > 0 else "symlog")
    axes.set_xlabel("requests T")
    slope = "" if row["slope"] is None else f", {next(iter(of))} slope {row['slope']:.2f}"
    axes.set_title(f"{model}{slope}", loc="left", fontsize=10)
    tidy(axes)


def draw_depletion(found: dict[str, Any], path: Path) -> None:
    """Draw how many requests were left when a budget first ran low."""
    first_model, of = next(iter(found.items()))
    first_policy = next(iter(of))
    by_model = {model: rows[first_policy] for model, rows in found.items()}
    sides = [(f"{first_model} requests, by policy", of)]
    if len(found) > 1:
        sides.append((f"{first_policy}, by input model", by_model))
    figure = Figure(figsize=(0.5 + 4.6 * len(sides), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sides), squeeze=False)[0]
    for axes, (title, rows) in zip(panels, sides, strict=True):
        for name, style in styles(rows):
            left = rows[name]["left_at_depletion"]
            if None not in left:
                axes.plot(rows[name]["horizons"], left, label=name, **style)
        axes.set(xscale="log", xlabel="requests T")
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=0.0)
        axes.set_title(title, loc="left", fontsize=10)
        if axes.get_lines():
            axes.legend(frameon=False, fontsize=8)
        tidy(axes)
    panels[0].set_ylabel("requests left when a budget first ran low")
    save_figure(figure, path)


def draw_ratios(ratios: dict[str, Any], path: Path) -> None:
    """Draw OPT / reward under the adversary over alpha."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for policy, style in styles(RATIO_POLICIES):
        axes.plot(ratios["alpha"], ratios[policy], label=policy, **style)
    axes.plot(
        ratios["alpha"],
        ratios["limit"],
        color="0.4",
        linestyle=":",
        label="1 / (1/alpha + (1 - 1/alpha) eps)",
    )
    axes.plot(ratios["alpha"], ratios["alpha"], color="0.7", linestyle="--", linewidth=1, label="alpha")
    axes.set(xscale="log", yscale="log", xlabel="alpha", ylabel="hindsight optimum / reward")
    axes.set_xticks(ratios["alpha"], [f"{alpha:g}" for alpha in ratios["alpha"]], minor=False)
    axes.set_title(f"adversary, eps {ratios['eps']}, T {ratios['horizon']:,}", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    tidy(axes)
    save_figure(figure, path)


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    for model, of in result["input_models"].items():
        horizons = next(iter(of.values()))["horizons"]
        table = Table("policy", *(f"T = {t:,}" for t in horizons), "slope [95% interval]", "last three",
                      title=f"regret, {result['env_id']}, {model}")  # fmt: skip
        for policy, row in of.items():
            interval = row["slope_interval"]
            slope = "" if interval is None else f"{row['slope']:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
            last = "" if row["slope_of_last"] is None else f"{row['slope_of_last']:.3f}"
            table.add_row(policy, *(f"{value:.3g}" for value in row["regret"]), slope, last)
        Console().print(table)
    ratios = result["competitive_ratios"]
    if ratios:
        table = Table(
            "alpha", "limit", *RATIO_POLICIES, title="hindsight optimum / reward under the adversary"
        )
        for index, alpha in enumerate(ratios["alpha"]):
            cells = [ratios[name][index] for name in ("limit", *RATIO_POLICIES)]
            table.add_row(f"{alpha:g}", *(f"{value:.4g}" for value in cells))
        Console().print(table)


if __name__ == "__main__":
    arguments = gather_env_flags(sys.argv[1:])
    sys.exit(execute(lambda: parse(RegretStudy, arguments, description=__doc__)))
