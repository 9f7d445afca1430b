"""How fast proximal policy optimisation is beside others', and whether it learns what they learn.

- rates: timesteps per second in CartPole, at equal settings (environments, steps of a rollout, batch, epochs,
  networks), ours on the device and Stable-Baselines3's with its vector environment of Gymnasium's
- solve: processor seconds of training until CartPole-v1 is solved, 20 greedy episodes of at least 475 on
  average twice in a row: ours and SB3's in many environments, SB3's with the settings that rl-zoo3 has for it
- hopper: returns after equal timesteps in 16 environments on the host, and timesteps per second, of both

Sides take turns; ratios are taken within a turn, and their median, minimum and maximum are reported. "cpu" is
of processor seconds, "wall" of seconds, which mean little on a busy machine. Evaluations are not counted.
What is finished is kept in the folder, and not done again.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import prefrl
import prefrl.envs
from prefrl.agents.actor_critic.ppo import PPO, PPOConfig
from prefrl.cli import execute
from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.run.environments import make_rollout_env
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread

Part = Literal["rates", "solve", "hopper"]
Activation = Literal["relu", "tanh"]

SOLVED = 475.0
"""Mean return of :data:`EPISODES` greedy episodes at which CartPole-v1 counts as solved."""

EPISODES = 20

MANY: dict[str, Any] = {
    "n_steps": 32, "batch_size": 1_024, "n_epochs": 4, "learning_rate": 5e-3, "gae_lambda": 0.98,
}  # fmt: skip
"""Settings of rates, of both sides; the rest are SB3's defaults."""

SOLVING: dict[str, Any] = {**MANY, "batch_size": 256}
"""Settings of solve, ours and SB3's with the same."""

ZOO: dict[str, Any] = {
    "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8, "ent_coef": 0.0,
    "learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left,
}  # fmt: skip
"""What rl-zoo3 2.6 has for PPO in CartPole-v1, in 8 environments and 100,000 timesteps."""

HOPPER: dict[str, Any] = {"n_steps": 128, "batch_size": 64, "n_epochs": 10, "learning_rate": 3e-4}
"""Settings of hopper, of both sides; the rest are defaults, which are the same."""


class Taken(NamedTuple):
    """Seconds that work took."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Bench:
    """How fast proximal policy optimisation is, and whether it learns what others' learns."""

    out: Path = Path("runs/bench_ppo")
    """Run folder, new, empty, or begun."""

    parts: tuple[Part, ...] = ("rates", "solve", "hopper")
    """What is measured."""

    repeats: int = 7
    """Turns of rates."""

    num_envs: int = 256
    """Environments of rates."""

    solve_envs: int = 64
    """Environments of solve, but for the zoo's 8."""

    rollouts: int = 10
    """Rollouts of a turn."""

    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads of rates."""

    seeds: int = 5
    """Seeds of solve and hopper."""

    solve_timesteps: int = 1_000_000
    """Timesteps after which solve gives up in many environments."""

    zoo_timesteps: int = 100_000
    """Timesteps of solve with the zoo's settings, which fall linearly to 0 by then."""

    env_id: str = "Hopper-v5"
    """Environment of hopper, with a Box of actions."""

    hopper_envs: int = 16
    """Environments of hopper."""

    hopper_timesteps: int = 300_000
    """Timesteps of hopper."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "num_envs", "solve_envs", "rollouts", "threads", "seeds",
                       "solve_timesteps", "zoo_timesteps", "hopper_envs", "hopper_timesteps")  # fmt: skip

    def run(self) -> None:
        """Run the benchmark in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return what the parts found."""
        torch.set_flush_denormal(True)
        work = {"rates": self._rates, "solve": self._solve, "hopper": self._hopper}
        result = {part: work[part](folder) for part in self.parts}
        show(result)
        return result

    # Speed -----------------------------------------------------------------------------------------------

    def _rates(self, folder: RunFolder) -> dict[str, Any]:
        found = {}
        activations: tuple[Activation, ...] = ("relu", "tanh")
        for threads in self.threads:
            torch.set_num_threads(threads)
            for activation in activations:

                def measure(activation: Activation = activation) -> dict[str, Any]:
                    return self._turns(self._sb3(activation), self._ours(activation))

                name = f"{activation}_{threads}_threads"
                found[name] = once(folder, f"rates_{name}", measure)
        torch.set_num_threads(1)
        return found

    def _turns(self, theirs: Callable[[], Taken], ours: Callable[[], Taken]) -> dict[str, Any]:
        """Return ratios of what a turn takes them and us, and timesteps per processor second of each."""
        rows = [(theirs(), ours()) for _ in range(self.repeats)]
        steps = self._turn
        return {
            "cpu": spread([slow.cpu / fast.cpu for slow, fast in rows]),
            "wall": spread([slow.wall / fast.wall for slow, fast in rows]),
            "theirs_per_cpu_second": steps / statistics.median(slow.cpu for slow, _ in rows),
            "ours_per_cpu_second": steps / statistics.median(fast.cpu for _, fast in rows),
        }

    @property
    def _turn(self) -> int:
        """Timesteps of a turn."""
        return self.rollouts * self.num_envs * MANY["n_steps"]

    def _ours(self, activation: Activation) -> Callable[[], Taken]:
        config = PPOConfig(activation=activation, normalize_rewards=False, **MANY)
        agent = PPO(prefrl.envs.make_device("prefrl/CartPole-v0", self.num_envs), config, device="cpu")
        agent.learn(2 * self.num_envs * MANY["n_steps"])
        return lambda: taken(lambda: agent.learn(self._turn))

    def _sb3(self, activation: Activation) -> Callable[[], Taken]:
        model = many_sb3(self.num_envs, activation, MANY, seed=0)
        model.learn(2 * self.num_envs * MANY["n_steps"])
        return lambda: taken(lambda: model.learn(self._turn, reset_num_timesteps=False))

    # What is learned -------------------------------------------------------------------------------------

    def _solve(self, folder: RunFolder) -> dict[str, Any]:
        """Return processor seconds until it is solved, by seed, and how ours are to SB3's medians."""
        sides = {"ours": self._solve_ours, "sb3_zoo": self._solve_zoo, "sb3_same_settings": self._solve_sb3}
        found: dict[str, Any] = {name: [] for name in sides}
        for seed in range(self.seeds):
            for name, solve in sides.items():

                def measure(solve: Callable[[int], Solving] = solve, seed: int = seed) -> dict[str, Any]:
                    return solve(seed).outcome()

                found[name].append(once(folder, f"solve_{name}_{seed}", measure))
        median = statistics.median(run["cpu_seconds"] for run in found["sb3_zoo"])
        found["share_of_zoo_median"] = [run["cpu_seconds"] / median for run in found["ours"]]
        median = statistics.median(run["cpu_seconds"] for run in found["sb3_same_settings"])
        found["share_of_same_median"] = [run["cpu_seconds"] / median for run in found["ours"]]
        return found

    def _solve_ours(self, seed: int) -> Solving:
        env = prefrl.envs.make_device("prefrl/CartPole-v0", self.solve_envs)
        config = PPOConfig(activation="relu", normalize_rewards=False, **SOLVING)
        agent = PPO(env, config, device="cpu", seed=seed)
        watch = Solving(agent, every=self.solve_envs * SOLVING["n_steps"])
        prefrl.learn(agent, self.solve_timesteps, callback=watch)
        return watch

    def _solve_sb3(self, seed: int) -> Solving:
        model = many_sb3(self.solve_envs, "relu", SOLVING, seed=seed)
        watch = Solving(model, every=self.solve_envs * SOLVING["n_steps"])
        model.learn(self.solve_timesteps, callback=watch)
        return watch

    def _solve_zoo(self, seed: int) -> Solving:
        env = make_vec_env("CartPole-v1", 8, seed=seed)
        model = sb3.PPO("MlpPolicy", env, seed=seed, device="cpu", **ZOO)
        watch = Solving(model, every=8 * ZOO["n_steps"])
        model.learn(self.zoo_timesteps, callback=watch)
        return watch

    def _hopper(self, folder: RunFolder) -> dict[str, Any]:
        """Return final returns of both, their intervals, and how many timesteps each takes in a second."""
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "sb3": []}
        for seed in range(self.seeds):
            for name, train in (("ours", self._hopper_ours), ("sb3", self._hopper_sb3)):

                def measure(
                    train: Callable[[int], dict[str, float]] = train, seed: int = seed
                ) -> dict[str, float]:
                    return train(seed)

                runs[name].append(once(folder, f"hopper_{name}_{seed}", measure))
        found: dict[str, Any] = {"runs": runs}
        for name, rows in runs.items():
            returns = [row["return"] for row in rows]
            found[name] = {
                "returns": returns,
                "interquartile_mean": float(interquartile_mean(returns)),
                "interval": [float(end) for end in bootstrap_interval(returns)],
                "steps_per_cpu_second": statistics.median(row["steps_per_cpu_second"] for row in rows),
            }
        pairs = list(zip(runs["ours"], runs["sb3"], strict=True))
        for clock in ("cpu", "wall"):
            rate = f"steps_per_{clock}_second"
            found[f"{clock}_ratio"] = spread([mine[rate] / other[rate] for mine, other in pairs])
        return found

    def _hopper_ours(self, seed: int) -> dict[str, float]:
        env = make_rollout_env(self.env_id, (), self.hopper_envs, "cpu")
        agent = PPO(env, PPOConfig(normalize_observations=True, **HOPPER), device="cpu", seed=seed)
        seconds = taken(lambda: agent.learn(self.hopper_timesteps))
        return self._reached(agent, make_vec_env(self.env_id, seed=1_000 + seed), seconds)

    def _hopper_sb3(self, seed: int) -> dict[str, float]:
        env = VecNormalize(make_vec_env(self.env_id, self.hopper_envs, seed=seed))
        model = sb3.PPO("MlpPolicy", env, seed=seed, device="cpu", **HOPPER)
        seconds = taken(lambda: model.learn(self.hopper_timesteps))
        test = VecNormalize(make_vec_env(self.env_id, seed=1_000 + seed), training=False, norm_reward=False)
        test.obs_rms = env.obs_rms
        return self._reached(model, test, seconds)

    def _reached(self, agent: Any, env: Any, seconds: Taken) -> dict[str, float]:
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=EPISODES, warn=False)
        return {
            "return": float(mean),  # type: ignore[arg-type]
            "steps_per_cpu_second": self.hopper_timesteps / seconds.cpu,
            "steps_per_wall_second": self.hopper_timesteps / seconds.wall,
        }


class Solving:
    """A callback that stops training once it is solved, and counts what training took until then.

    Args:
        agent: what is asked.
        every: timesteps between two evaluations.
    """

    def __init__(self, agent: Any, every: int) -> None:
        self.agent, self.every, self.next, self.good = agent, every, every, 0
        self.spent = 0.0
        self.started = time.process_time()

    def __call__(self, local: dict[str, Any], world: dict[str, Any]) -> bool:
        """Return whether to go on; ask in the first step after a rollout was learned from."""
        if self.agent.num_timesteps <= self.next:
            return True
        self.spent += time.process_time() - self.started
        self.next += self.every
        self.good = self.good + 1 if greedy_return(self.agent, self.next) >= SOLVED else 0
        self.started = time.process_time()
        return self.good < 2

    def outcome(self) -> dict[str, Any]:
        """Return what it took."""
        return {
            "solved": self.good >= 2,
            "cpu_seconds": self.spent,
            "timesteps": int(self.agent.num_timesteps),
        }


def greedy_return(agent: Any, seed: int) -> float:
    """Return the mean return of greedy episodes in CartPole-v1, all at once."""
    env = gym.make_vec("CartPole-v1", EPISODES, vectorization_mode="vector_entry_point")
    obs, _ = env.reset(seed=seed)
    going, total = np.ones(EPISODES, dtype=bool), np.zeros(EPISODES)
    while going.any():
        obs, rewards, terminations, truncations, _ = env.step(agent.predict(obs, deterministic=True)[0])
        total += going * rewards
        going &= ~(terminations | truncations)
    return float(total.mean())


def many_sb3(num_envs: int, activation: Activation, settings: dict[str, Any], *, seed: int) -> sb3.PPO:
    """Return SB3's PPO with the settings of ours, in as many environments."""
    kinds = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
    return sb3.PPO("MlpPolicy", make_vec_env("CartPole-v1", num_envs, seed=seed), seed=seed, device="cpu",
                   policy_kwargs={"activation_fn": kinds[activation]}, **settings)  # fmt: skip


def taken(work: Callable[[], object]) -> Taken:
    """Return how long a call takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Taken(time.process_time() - cpu, time.perf_counter() - wall)


def once(folder: RunFolder, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what work found, or what an earlier call of it kept in the folder."""
    path = folder.path / f"{name}.json"
    if not path.exists():
        write_json(path, work())
    found: dict[str, Any] = read_json(path)
    return found


def show(result: dict[str, Any]) -> None:
    """Print the numbers as tables."""
    table = Table("ratio of processor seconds", "median", "min", "max", "theirs per second", "ours")
    for name, row in result.get("rates", {}).items():
        rates = (f"{row[key]:,.0f}" for key in ("theirs_per_cpu_second", "ours_per_cpu_second"))
        table.add_row(name, *(f"{row['cpu'][key]:.3g}" for key in ("median", "min", "max")), *rates)
    console = Console()
    if table.row_count:
        console.print(table)
    for name, runs in result.get("solve", {}).items():
        if not name.startswith("share_"):
            words = [f"{run['cpu_seconds']:.2f}{'' if run['solved'] else ' (not solved)'}" for run in runs]
            console.print(f"solve, {name}: {', '.join(words)} processor seconds")
    if "solve" in result:
        console.print("share of the zoo's median:", result["solve"]["share_of_zoo_median"])
        console.print("share of the median with our settings:", result["solve"]["share_of_same_median"])
    hopper = {name: row for name, row in result.get("hopper", {}).items() if name != "runs"}
    if hopper:
        console.print(hopper)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
