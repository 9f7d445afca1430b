"""What a timestep costs besides learning, beside Stable-Baselines3's: acting, stepping, keeping, counting.

One scalar environment, one thread, microseconds of process CPU time per timestep. No gradient step is taken
(ours: the next one is never due; SB3: ``gradient_steps=0``), and nothing is uniform from the start on: the
policy acts by its network in every timestep, as it does while it learns. Deep Q-learning runs on CartPole-v1
with epsilon 0.05, soft actor-critic on Pendulum-v1.

All sides take turns in one process; medians over the repetitions are reported, with minimum and maximum.
"env" is the environment's own step, its resets included, by actions that were drawn before. "act" is the
agent's choice of an action, and "observe" what it does with a step that it is shown, each called by itself;
"step" is one step of the loop's stepper, all of these included; "ours" is the whole loop. "sb3_over_ours" is
a ratio, taken within a turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table

from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.agents.base import Agent
from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.stepping import Stepper
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread

NEVER = 1 << 40
"""Timesteps until the first gradient step."""

ENV_IDS = {"dqn": "CartPole-v1", "sac": "Pendulum-v1"}

Kind = Literal["dqn", "sac"]


@dataclass(frozen=True)
class Bench:
    """What a timestep costs besides learning, in microseconds of CPU time."""

    out: Path = Path("runs/bench_host_loop")
    """Run folder, new or empty."""

    agents: tuple[Kind, ...] = ("dqn", "sac")
    """Agents to measure."""

    widths: tuple[int, ...] = (64, 256)
    """Widths of the two hidden layers."""

    repeats: int = 9
    """Turns of each side."""

    timesteps: int = 2_000
    """Timesteps of a turn."""

    def __post_init__(self) -> None:
        check_positive(self, "widths", "repeats", "timesteps")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return microseconds per timestep, by agent and width."""
        torch.set_num_threads(1)
        result = {
            f"{kind}_{width}": self._turns(kind, width) for kind in self.agents for width in self.widths
        }
        show(result)
        return result

    def _turns(self, kind: Kind, width: int) -> dict[str, dict[str, float]]:
        agent = ours(kind, width)
        sides: dict[str, Callable[[], object]] = {
            "ours": lambda: agent.learn(self.timesteps),
            "sb3": self._theirs(kind, width),
            "env": self._environment(kind),
            **self._parts(ours(kind, width)),
        }
        for side in sides.values():  # warm up
            side()
        turns = [{name: cpu_seconds(side) for name, side in sides.items()} for _ in range(self.repeats)]
        unit = 1e6 / self.timesteps
        found = {name: spread([unit * turn[name] for turn in turns]) for name in sides}
        return {**found, "sb3_over_ours": spread([turn["sb3"] / turn["ours"] for turn in turns])}

    def _theirs(self, kind: Kind, width: int) -> Callable[[], object]:
        shared: dict[str, Any] = {
            "policy_kwargs": {"net_arch": [width, width]}, "buffer_size": 50_000, "learning_starts": 0,
            "train_freq": 1, "gradient_steps": 0, "seed": 0, "device": "cpu",
        }  # fmt: skip
        env = gym.make(ENV_IDS[kind])
        model: Any
        if kind == "dqn":
            model = sb3.DQN("MlpPolicy", env, exploration_initial_eps=0.05, **shared)
        else:
            model = sb3.SAC("MlpPolicy", env, **shared)
        return lambda: model.learn(self.timesteps, reset_num_timesteps=False)

    def _environment(self, kind: Kind) -> Callable[[], object]:
        env = gym.make(ENV_IDS[kind])
        env.action_space.seed(0)
        env.reset(seed=0)
        actions = [env.action_space.sample() for _ in range(self.timesteps)]

        def work() -> None:
            for action in actions:
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()

        return work

    def _parts(self, agent: Agent) -> dict[str, Callable[[], object]]:
        stepper = Stepper.of_agent(agent)
        stepper.reset()
        transitions = stepper.step()["transitions"]

        def repeated(function: Callable[[], object]) -> Callable[[], object]:
            return lambda: [function() for _ in range(self.timesteps)]

        return {
            "act": repeated(lambda: agent.act(transitions.obs)),
            "observe": repeated(lambda: agent.observe(transitions)),
            "step": repeated(stepper.step),
        }


def ours(kind: Kind, width: int) -> Agent:
    """Return an agent that acts by its network, and never learns."""
    env, hidden = gym.make(ENV_IDS[kind]), (width, width)
    if kind == "dqn":
        config = DQNConfig(loss="huber", hidden=hidden, buffer_size=50_000, learning_starts=0,
                           train_freq=NEVER, epsilon_start=0.05, target_update_interval=10_000)  # fmt: skip
        return DQN(env, config, device="cpu")
    settings = SACConfig(hidden=hidden, buffer_size=50_000, learning_starts=0, train_freq=NEVER)
    return SAC(env, settings, device="cpu")


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the seconds of CPU time that a call takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def show(result: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the medians."""
    names = list(next(iter(result.values())))
    table = Table("us per timestep", *names)
    for case, numbers in result.items():
        table.add_row(case, *(f"{numbers[name]['median']:.1f}" for name in names))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
