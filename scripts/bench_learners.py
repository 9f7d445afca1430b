"""How much faster many learners are as one stack than one after the other, and whether they learn the same.

``speed``: steps of learners per second of processor time, of a stack over those of the ordinary agent by
itself, both in one process and in turn; and how many operations of torch an update takes with 2 learners and
with all of them. ``processes``: what else one would do, the ordinary agent in as many processes as there are
cores, by the clock. ``curves``: returns after training of stacked learners and of as many ordinary agents,
with Welch's test of equal means. ``steps``: the same learner by itself and in the stack, step by step.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import ttest_ind
from torch.utils._python_dispatch import TorchDispatchMode

import prefrl.envs
from prefrl.agents import DQN, PPO, SAC, DQNConfig, DQNLearners, PPOConfig, SACConfig, SACLearners
from prefrl.cli import execute
from prefrl.run.evaluate import evaluate_rows
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn
from prefrl.run.recipes.base import small_networks
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread

Part = Literal["speed", "processes", "curves", "steps"]

CART_POLE, MOUNTAIN_CAR, PENDULUM = "prefrl/CartPole-v0", "prefrl/MountainCar-v0", "prefrl/Pendulum-v0"
Q: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 64, "train_freq": 1, "buffer_size": 20_000,
                     "learning_starts": 500, "double": False, "max_clamped_fraction": 1.0}  # fmt: skip
"""A gradient step for every timestep."""

ROLLOUTS: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "n_epochs": 10}

ACTOR_CRITIC: dict[str, Any] = {"learning_rate": 1e-3, "buffer_size": 20_000, "learning_starts": 500}


@dataclass(frozen=True)
class Case:
    """What learns, and in what."""

    agent: Literal["dqn", "ppo", "sac"]
    env_id: str
    settings: Mapping[str, Any]
    num_envs: int = 1
    """Environments of each learner."""


CASES = {
    "dqn 64x64": Case("dqn", CART_POLE, {**Q, "loss": "huber", "hidden": (64, 64)}),
    "dqn 256x256": Case("dqn", CART_POLE, {**Q, "loss": "huber", "hidden": (256, 256)}),
    "dqn 128x128 hl_gauss": Case("dqn", MOUNTAIN_CAR, {**Q, "loss": "hl_gauss", "hidden": (128, 128),
                                                       "v_min": -100.0, "v_max": 0.0}),
    "dqn 32x32 quantile": Case("dqn", CART_POLE, {**Q, "loss": "quantile", "hidden": (32, 32)}),
    "ppo 64x64": Case("ppo", CART_POLE, ROLLOUTS, num_envs=8),
    "ppo 32x32, actions in a box": Case("ppo", PENDULUM, {**ROLLOUTS, "hidden": (32, 32)}, num_envs=4),
    "sac 64x64": Case("sac", PENDULUM, {**ACTOR_CRITIC, "hidden": (64, 64), "batch_size": 128}),
    "sac 32x32": Case("sac", PENDULUM, {**ACTOR_CRITIC, "hidden": (32, 32), "batch_size": 64}),
}  # fmt: skip


@dataclass(frozen=True)
class BenchLearners:
    """How much faster many learners are as one stack."""

    out: Path = Path("runs/bench_learners")
    """Run folder: new, empty, or of the same study."""

    parts: tuple[Part, ...] = ("speed", "processes", "steps", "curves")
    """Which; see above."""

    cases: tuple[str, ...] = tuple(CASES)
    """Which agents, of speed; curves and steps are of the first one of each kind."""

    learners: int = 16
    """Learners of a stack."""

    repeats: int = 9
    """Measurements of each side, in turn."""

    timesteps: int = 1_000
    """Timesteps of a measurement, of the ordinary agent; a stack takes as many of all its learners together
    at least, and four of each of them."""

    threads: int = 1
    """Threads of torch."""

    curve_timesteps: int = 20_000
    """Timesteps of each learner in curves."""

    def __post_init__(self) -> None:
        check_positive(self, "learners", "repeats", "timesteps", "threads", "curve_timesteps")
        for name in self.cases:
            if name not in CASES:
                raise ValueError(f"cases has {name!r}; there are {', '.join(CASES)}")

    def run(self) -> None:
        """Measure in the folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return what was measured, by part and case; print it as a table."""
        result: dict[str, Any] = {}
        first = {CASES[name].agent: name for name in reversed(self.cases)}
        with small_networks():
            torch.set_num_threads(self.threads)
            if "speed" in self.parts:
                result["speed"] = {name: self._speed(CASES[name]) for name in self.cases}
            if "processes" in self.parts:
                result["processes"] = {name: self._processes(name) for name in first.values()}
            if "steps" in self.parts:
                result["steps"] = {name: self._steps(CASES[name]) for name in first.values()}
            if "curves" in self.parts:
                result["curves"] = {name: self._curves(CASES[name]) for name in first.values()}
        show(result)
        return result

    def _speed(self, case: Case) -> dict[str, Any]:
        alone, stack = make(case, 1), make(case, self.learners)
        for agent in (alone, stack):
            learn(agent, max(600, 2 * length(case)))
        one = max(self.timesteps, 2 * length(case))
        each = max(one // self.learners, 4, 2 * length(case))
        rates = []
        for _ in range(self.repeats):
            rates.append((one / processor(lambda: learn(alone, one)),
                          self.learners * each / processor(lambda: learn(stack, each))))  # fmt: skip
        return {
            "over_alone": spread([b / a for a, b in rates]),
            "alone_per_second": statistics.median(a for a, _ in rates),
            "stack_per_second": statistics.median(b for _, b in rates),
            "operations": {str(count): operations(case, count) for count in (2, self.learners)},
        }

    def _processes(self, name: str) -> dict[str, Any]:
        """Return steps of learners per second by the clock: processes of ordinary agents, and the stack."""
        case, cores = CASES[name], multiprocessing.cpu_count()
        stack = make(case, self.learners)
        learn(stack, max(600, 2 * length(case)))
        each = max(self.timesteps // 2, 4 * length(case))
        rows = []
        context = multiprocessing.get_context("spawn")
        for _ in range(max(1, self.repeats // 3)):
            with context.Pool(cores) as pool:
                rates = pool.starmap(by_itself, [(name, max(self.timesteps, 4 * length(case)))] * cores)
            start = time.perf_counter()
            learn(stack, each)
            rows.append((sum(rates), self.learners * each / (time.perf_counter() - start)))
        return {
            "over_processes": spread([b / a for a, b in rows]),
            "cores": cores,
            "processes_per_second": statistics.median(a for a, _ in rows),
            "stack_per_second": statistics.median(b for _, b in rows),
        }

    def _steps(self, case: Case) -> dict[str, Any]:
        """Return how far a learner of the stack is from the same one by itself, along 200 timesteps."""
        last = self.learners - 1
        if case.agent != "ppo":  # learn from the beginning
            case = replace(case, settings={**case.settings, "learning_starts": 1})
        stack, same = make(case, self.learners), make(case, 1, seed=last, of_stack=True)
        differences = []
        for _ in range(4):
            for agent in (stack, same):
                learn(agent, max(50, length(case)))
            wanted, found = vectors(same)[0], vectors(stack)[last]
            differences.append(float((wanted - found).abs().max() / wanted.abs().max()))
        return {"differences": differences}

    def _curves(self, case: Case) -> dict[str, Any]:
        """Return the returns of learners after training, stacked and by themselves."""
        stack = make(case, self.learners)
        learn(stack, self.curve_timesteps)
        alone = []
        for seed in range(self.learners):
            agent = make(case, 1, seed=seed)
            learn(agent, self.curve_timesteps)
            alone.append(agent)
        found = {
            name: [
                float(evaluate_rows(agent, gym.make_vec(case.env_id, 20), seed=1_000)["mean_return"])
                for agent in agents
            ]
            for name, agents in (("stacked", stack.alone()), ("alone", alone))
        }
        test = ttest_ind(found["stacked"], found["alone"], equal_var=False)
        same = float(np.nan_to_num(test.pvalue, nan=1.0))  # NaN: all returns are the same number
        return {**found, "p_of_equal_means": same}


def make(case: Case, learners: int, *, seed: int = 0, of_stack: bool = False) -> Any:
    """Return an agent with an environment; of one learner the ordinary one, or else a stack of one."""
    streams = {"num_streams": learners} if learners > 1 or of_stack else {}
    env = prefrl.envs.make_device(case.env_id, case.num_envs * learners, device="cpu", **streams)
    several = {"num_learners": learners} if learners > 1 or of_stack else {}
    if case.agent == "ppo":
        return PPO(env, PPOConfig(**case.settings), device="cpu", seed=seed, **several)
    if case.agent == "sac":
        soft = SACLearners if several else SAC
        return soft(env, SACConfig(**case.settings), device="cpu", seed=seed, **several)
    kind = DQNLearners if several else DQN
    return kind(env, DQNConfig(**case.settings), device="cpu", seed=seed, **several)


def length(case: Case) -> int:
    """Return after how many timesteps of a learner it updates."""
    return case.num_envs * int(case.settings.get("n_steps", 1))


def vectors(agent: Any) -> torch.Tensor:
    """Return the parameters [S, P] of a stack."""
    return agent.descent.vectors.detach()  # type: ignore[no-any-return]


def by_itself(name: str, timesteps: int) -> float:
    """Return timesteps per second, by the clock, of an ordinary agent in a process of its own."""
    case = CASES[name]
    with small_networks():
        agent = make(case, 1)
        learn(agent, max(600, 2 * length(case)))
        start = time.perf_counter()
        learn(agent, timesteps)
        return timesteps / (time.perf_counter() - start)


def processor(work: Callable[[], object]) -> float:
    """Return the seconds of processor time that a call takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


class Counting(TorchDispatchMode):
    """Counts calls of torch's operators."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one, and do it."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def operations(case: Case, learners: int) -> int:
    """Return how many operators of torch an update takes."""
    agent = make(case, learners)
    for step in range(2):  # the second time, what is drawn ahead is there
        learn(agent, max(600, length(case)) if step == 0 else length(case))
    counting = Counting()
    update = agent.update

    def counted() -> Any:
        with counting:
            return update()

    agent.update = counted
    learn(agent, length(case))
    return counting.calls


def show(result: Mapping[str, Any]) -> None:
    """Print the ratios as a table, and what else was found."""
    table = Table("ratio", "median", "min", "max", "alone, steps/s", "stack, steps/s", "operations")
    for name, found in result.get("speed", {}).items():
        ratio = (f"{found['over_alone'][key]:.3g}" for key in ("median", "min", "max"))
        calls = ", ".join(f"{count}: {calls}" for count, calls in found["operations"].items())
        table.add_row(
            name, *ratio, *(f"{found[key]:,.0f}" for key in ("alone_per_second", "stack_per_second")), calls
        )
    Console().print(table, {name: part for name, part in result.items() if name != "speed"})


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(BenchLearners, description=__doc__)))
