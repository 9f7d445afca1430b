"""How fast our agents are beside Stable-Baselines3's and SBX's (JAX on the CPU), all on one core.

DQN and SAC take one gradient step per timestep in one environment; PPO learns in 256 CartPoles, ours on the
device, theirs in vector environments. ``--sbx-python`` names a Python that has sbx-rl; without one, SBX is
left out. "sbx_scan" is SBX's DQN with the loop over its gradient steps under one jit.

Sides take turns, each on the same core by affinity, which XLA's own thread settings do not ensure. Ratios are
of processor seconds and taken within a turn; their median, minimum and maximum are reported. What is finished
is kept in the folder, and not done again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env

import prefrl.envs
from prefrl.agents import DQN, PPO, SAC
from prefrl.agents.actor_critic.ppo_config import PPOConfig
from prefrl.agents.actor_critic.sac import SACConfig
from prefrl.agents.base import Agent
from prefrl.agents.value_based.dqn import DQNConfig
from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread


class Case(NamedTuple):
    """What is trained."""

    kind: str
    env_id: str
    width: int
    num_envs: int
    timesteps: int
    """Of a turn."""
    settings: dict[str, Any]
    """By SB3's names."""


REPLAY: dict[str, Any] = {"train_freq": 1, "gradient_steps": 1, "learning_starts": 250, "buffer_size": 50_000}
DQN_SETTINGS: dict[str, Any] = {
    **REPLAY, "batch_size": 64, "learning_rate": 1e-3, "target_update_interval": 10_000,
}  # fmt: skip
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 32, "batch_size": 1_024, "n_epochs": 4, "learning_rate": 5e-3, "gae_lambda": 0.98,
}  # fmt: skip

CASES = {
    "dqn 64": Case("DQN", "CartPole-v1", 64, 1, 600, DQN_SETTINGS),
    "dqn 256": Case("DQN", "CartPole-v1", 256, 1, 600, DQN_SETTINGS),
    "sac 64": Case("SAC", "Pendulum-v1", 64, 1, 200, {**REPLAY, "batch_size": 128}),
    "sac 256": Case("SAC", "Pendulum-v1", 256, 1, 100, {**REPLAY, "batch_size": 256}),
    "sac hopper 256": Case("SAC", "Hopper-v5", 256, 1, 100, {**REPLAY, "batch_size": 256}),
    "ppo 64": Case("PPO", "CartPole-v1", 64, 256, 32_768, PPO_SETTINGS),
}
"""What is trained, by name."""

WORKER = """
import json, os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
kind, env_id, width, num_envs, timesteps, settings, scan = json.loads(sys.argv[2])
import jax, sbx, sbx.dqn.dqn
from stable_baselines3.common.env_util import make_vec_env
if scan:
    one_by_one = jax.lax.scan
    def loop(carry, indices):
        return one_by_one(sbx.DQN._train, carry, indices)
    as_one = jax.jit(loop)
    jax.lax.scan = lambda function, carry, indices, unroll: as_one(carry, indices)
policy = {"net_arch": [width, width], "activation_fn": jax.nn.relu}
if kind == "PPO":
    policy["net_arch"] = {"pi": [width, width], "vf": [width, width]}
env = make_vec_env(env_id, num_envs)
model = getattr(sbx, kind)("MlpPolicy", env, policy_kwargs=policy, seed=0, **settings)
model.learn(timesteps + settings.get("learning_starts", timesteps))
print("compiled", flush=True)
for _ in sys.stdin:
    started = time.process_time()
    model.learn(timesteps, reset_num_timesteps=False)
    print(time.process_time() - started, flush=True)
"""
"""Answers every line of its input with the processor seconds of a turn, once it has compiled."""


@dataclass(frozen=True)
class Bench:
    """How fast our agents are beside Stable-Baselines3's and SBX's."""

    out: Path = Path("runs/bench_sbx")
    """Run folder, new, empty, or begun."""

    cases: tuple[str, ...] = tuple(CASES)
    """What is measured."""

    repeats: int = 7
    """Turns."""

    sbx_python: Path | None = None
    """Python of an environment with sbx-rl."""

    compile: bool = False
    """Measure our compiled steps of DQN and SAC too, which takes a minute for each and a compiler."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats")
        if unknown := [name for name in self.cases if name not in CASES]:
            raise ValueError(f"cases has {unknown[0]!r}; there are {', '.join(CASES)}")

    def run(self) -> None:
        """Run the benchmark in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return ratios and rates of every case."""
        torch.set_flush_denormal(True)
        torch.set_num_threads(1)
        result = {}
        for name in self.cases:
            path = folder.path / f"{name.replace(' ', '_')}.json"
            if not path.exists():
                write_json(path, self._beside(CASES[name]))
            result[name] = read_json(path)
        show(result)
        return result

    def _beside(self, case: Case) -> dict[str, Any]:
        """Return the processor seconds of each side over ours, and everyone's timesteps per second."""
        with ExitStack() as stack:
            core = stack.enter_context(one_core())
            sides = {"ours": ours(case), "sb3": theirs(case)}
            if self.compile and case.kind != "PPO":
                sides["ours_compiled"] = ours(case, compile=True)
            if self.sbx_python is not None:
                kinds = {"sbx": False, "sbx_scan": True} if case.kind == "DQN" else {"sbx": False}
                for side, scan in kinds.items():
                    sides[side] = stack.enter_context(sbx_worker(self.sbx_python, core, case, scan=scan))
            rows = [{side: measure() for side, measure in sides.items()} for _ in range(self.repeats)]
        found: dict[str, Any] = {}
        for side in sides:
            found[f"{side}_per_second"] = spread([case.timesteps / row[side] for row in rows])
            if not side.startswith("ours"):
                for mine in (name for name in sides if name.startswith("ours")):
                    found[f"{side}_over_{mine}"] = spread([row[side] / row[mine] for row in rows])
        return found


@contextmanager
def one_core() -> Iterator[int]:
    """Keep this process to one of its cores, and say which."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield min(before)
    finally:
        os.sched_setaffinity(0, before)


def timed(learn: Callable[[], object]) -> Callable[[], float]:
    """Return a function that measures the processor seconds of a call."""

    def measure() -> float:
        started = time.process_time()
        learn()
        return time.process_time() - started

    return measure


def ours(case: Case, *, compile: bool = False) -> Callable[[], float]:
    """Return a function that measures a turn of our agent."""
    hidden, settings = (case.width, case.width), case.settings
    agent: Agent
    if case.kind == "DQN":
        config = DQNConfig(loss="huber", double=False, hidden=hidden, compile=compile, **settings)
        agent = DQN(gym.make(case.env_id), config, device="cpu")
    elif case.kind == "SAC":
        agent = SAC(
            gym.make(case.env_id), SACConfig(hidden=hidden, compile=compile, **settings), device="cpu"
        )
    else:
        of_ppo = PPOConfig(hidden=hidden, activation="relu", normalize_rewards=False, **settings)
        env = prefrl.envs.make_device(f"prefrl/{case.env_id.replace('v1', 'v0')}", case.num_envs)
        agent = PPO(env, of_ppo, device="cpu")
    agent.learn(case.timesteps + settings.get("learning_starts", case.timesteps))
    return timed(lambda: agent.learn(case.timesteps))


def theirs(case: Case) -> Callable[[], float]:
    """Return a function that measures a turn of SB3's agent."""
    policy: dict[str, Any] = {"net_arch": [case.width, case.width], "activation_fn": torch.nn.ReLU}
    if case.kind == "PPO":
        policy["net_arch"] = {"pi": [case.width, case.width], "vf": [case.width, case.width]}
    env = make_vec_env(case.env_id, case.num_envs)
    model = getattr(sb3, case.kind)("MlpPolicy", env, policy_kwargs=policy, device="cpu", seed=0,
                                    **case.settings)  # fmt: skip
    model.learn(case.timesteps + case.settings.get("learning_starts", case.timesteps))
    return timed(lambda: model.learn(case.timesteps, reset_num_timesteps=False))


@contextmanager
def sbx_worker(python: Path, core: int, case: Case, *, scan: bool) -> Iterator[Callable[[], float]]:
    """Start SBX on a core, and return a function that measures a turn of its agent.

    Raises:
        ValueError: if that Python does not run it.
    """
    words = json.dumps([*case, scan])
    command = [str(python), "-W", "ignore", "-c", WORKER, str(core), words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    try:
        process = subprocess.Popen(command, text=True, **pipes)
    except OSError as error:
        raise ValueError(f"sbx_python is {python}: {error.strerror}") from error
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def measure() -> float:
            stdin.write("\n")
            stdin.flush()
            return float(stdout.readline())

        if not stdout.readline():
            raise ValueError(f"SBX does not run with sbx_python {python}; what it says is above")
        yield measure


def show(result: dict[str, Any]) -> None:
    """Print the ratios as a table."""
    table = Table("processor seconds", "ratio", "median", "min", "max")
    for case, found in result.items():
        for name, numbers in found.items():
            if "_over_" in name:
                row = (f"{numbers[key]:.3g}" for key in ("median", "min", "max"))
                table.add_row(case, name.replace("_", " "), *row)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
