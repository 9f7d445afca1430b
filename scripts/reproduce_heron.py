"""HERON beside the true reward and a tuned weighted sum of the same factors.

Experiments, all of them by default:

- pendulum: HERON and the true reward on Pendulum
- sums: the tuned weighted sum sum_l beta^(l-1) z_l / s_l of the same factors in all three environments: as
  many runs are spent on beta as on HERON's margins, with seeds that are not reported
- units: one factor is measured in a unit a thousand times smaller: HERON, and the weighted sum without
  normalisation, which has to be weighed anew
- warmup: how often uniform actions reach the goal of mountain car, held for 1 to 100 steps
- learned_returns: what standing still and swinging up are worth in mountain car, by the reward that is
  learned from a warm-up, for stretches of several lengths
- mountain_car: reach the goal first, then save energy; the true reward; the first with shorter stretches, and
  with slower targets; and energy first, then the goal
- traffic: a grid of lights with a shared policy and a shared reward model: short queues first, or
  steady lights first

Every seed is reported, and written to a CSV file for each experiment. Each run has a folder of its own, with
its curves, below the study's; the same command goes on with a study that was stopped, from the checkpoint of
the run that was under way.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from prefrl.cli import execute
from prefrl.envs import make_device
from prefrl.preferences import RewardModel, RewardModelConfig
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn
from prefrl.run.recipes.preferences.heron import TrainHeron
from prefrl.run.study.arms import Results, finish_arms, save_evaluations
from prefrl.run.study.study import check_positive, run_study

Experiment = Literal["traffic", "pendulum", "units", "warmup", "learned_returns", "mountain_car", "sums"]

SMALL_SAC = ("learning_rate=1e-3", "batch_size=128", 'policy_kwargs={"net_arch": [64, 64]}')
"""SB3's SAC with small networks, which are enough here and several times as fast."""

OWN_SAC = ("learning_rate=1e-3", "batch_size=128", "hidden=[64,64]")
"""Our SAC, with the same."""

WARMUP = 10_000
"""Timesteps of held uniform actions in mountain_car."""

SMALL_REWARD = RewardModelConfig(
    members=1, hidden=(64, 64), use_actions=False, use_features=True, bootstrap=False
)
"""Reward model of mountain_car: HERON's with smaller layers."""

CANDIDATES = (0.03, 0.1, 0.3, 1.0)
"""What is tried in sums: weights of a level against the one above it, and factors on HERON's margins of 1."""

TUNING_SEEDS, FIRST_TUNING_SEED = 2, 100
"""Seeds of every candidate: 100 and 101."""

MOUNTAIN_CAR_SEED = 20
"""First seed of mountain_car and of its sums: others were looked at while its settings were found."""

HOLDS = (1, 5, 10, 30, 50, 100)
"""Steps that an action is held for in warmup."""

WARMUPS = 1_000
"""Warm-ups of each kind."""

LENGTHS = (50, 200)
"""Steps of a stretch in learned_returns."""

FITS = 20
"""Fits of the reward model in learned_returns."""

UNIT = 1000.0
"""What the torque is multiplied with in ``units``."""


@dataclass(frozen=True)
class HeronStudy:
    """HERON beside the true reward and a tuned weighted sum."""

    out: Path = Path("runs/heron")
    """Run folder: new, empty, or of the same study."""

    experiments: tuple[Experiment, ...] = get_args(Experiment)
    """Which; see above."""

    seeds: int = 3
    """Seeds 0, 1, ... of all but mountain car."""

    mountain_car_seeds: int = 5
    """Seeds 20, 21, ... in mountain car (0, 1, ... in learned_returns)."""

    pendulum_timesteps: int = 30_000
    """Timesteps in pendulum, with a gradient step for every second."""

    short_timesteps: int = 12_000
    """Timesteps in sums and units, with a gradient step for each."""

    mountain_car_timesteps: int = 30_000
    """Timesteps in mountain_car."""

    traffic_timesteps: int = 100_000
    """Timesteps in traffic, over all crossings."""

    def __post_init__(self) -> None:
        check_positive(
            self,
            "seeds",
            "mountain_car_seeds",
            "pendulum_timesteps",
            "short_timesteps",
            "mountain_car_timesteps",
            "traffic_timesteps",
        )
        if not self.experiments:
            raise ValueError(f"experiments is empty; give some of {', '.join(get_args(Experiment))}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Run what has not been run yet; draw, print and return all of it."""
        result: dict[str, Any] = {}
        for name in self.experiments:
            if name in ("warmup", "learned_returns"):
                result[name] = warmups() if name == "warmup" else self._learned_returns()
                continue
            if name == "sums":
                result[name] = {
                    f"{name}_{env}": self._contest(arms, env, folder.path / name / env)
                    for env, arms in self.contests().items()
                }
            else:
                result[name] = self._finish(self.arms(name), name, folder.path / name)
            for title, rows in (result[name] if name == "sums" else {name: result[name]}).items():
                show(title, rows)
                reported = {arm: runs for arm, runs in rows.items() if not arm.startswith("tuning")}
                save_evaluations(reported, folder.path / f"{title}.png", "true return")
                save_seeds(rows, folder.path / f"{title}.csv")
        return result

    def arms(self, experiment: Experiment) -> dict[str, TrainHeron]:
        """Return what is compared in an experiment."""
        if experiment in ("pendulum", "units"):
            return self._pendulum(experiment)
        if experiment == "mountain_car":
            base = self._mountain_car()
            return {
                "goal first": base,
                "true reward": replace(base, reward_source="true"),
                "stretches of 50": replace(base, compare_steps=50),
                "tau of 0.005": replace(base, agent_args=(*base.agent_args, "tau=0.005")),
                "energy first": replace(base, ranking="energy,reached_goal", margins="1,0"),
            }
        traffic = TrainHeron(
            env_id="prefrl/TrafficGrid-v0", agent="sb3_ppo", num_envs=4,
            agent_args=("n_steps=128", "batch_size=256", "gamma=0.95", "learning_rate=1e-3"), first_fit=2_000,
            fit_every=2_000, margins="0.1,0.1,0.1", total_timesteps=self.traffic_timesteps,
        )  # fmt: skip
        return {
            "queue first": replace(traffic, ranking="queue,waiting_time,switches"),
            "switches first": replace(traffic, ranking="switches,queue,waiting_time"),
        }

    def _pendulum(self, experiment: Experiment) -> dict[str, TrainHeron]:
        base = TrainHeron(
            env_id="prefrl/Pendulum-v0", agent="sb3_sac",
            agent_args=(*SMALL_SAC, "learning_starts=1000", "gamma=0.98"),
            total_timesteps=self.pendulum_timesteps,
        )  # fmt: skip
        if experiment == "pendulum":
            base = replace(base, agent_args=(*base.agent_args, "train_freq=2"))
            return {"HERON": base, "true reward": replace(base, reward_source="true")}
        base = replace(base, total_timesteps=self.short_timesteps)
        plain = replace(base, reward_source="weighted_sum", beta=0.3, normalize_factors=False)
        units = (f"torque_squared={UNIT:g}",)
        return {
            "HERON": base,
            "HERON, other unit": replace(base, factor_units=units),
            "plain sum": plain,
            "plain sum, other unit": replace(plain, factor_units=units),
        }

    def _mountain_car(self) -> TrainHeron:
        return TrainHeron(
            env_id="prefrl/MountainCarContinuous-v0", agent="sac", warmup_hold=30,
            agent_args=(*OWN_SAC, f"learning_starts={WARMUP}", "gamma=0.999", "tau=0.05", "train_freq=2"),
            reward=SMALL_REWARD, first_fit=WARMUP, fit_every=1_000, compare_steps=200,
            ranking="reached_goal,energy", margins="0,1", total_timesteps=self.mountain_car_timesteps,
        )  # fmt: skip

    def _learned_returns(self) -> dict[str, list[dict[str, float]]]:
        """Return what the learned reward says of behaviours, for each length and seed."""
        found = {
            f"compared over {length} steps": [
                learned_returns(replace(self._mountain_car(), compare_steps=length, seed=seed))
                for seed in range(self.mountain_car_seeds)
            ]
            for length in LENGTHS
        }
        for title, rows in found.items():
            table = Table(*rows[0], title=title, title_justify="left")
            for row in rows:
                table.add_row(*(f"{value:.4g}" for value in row.values()))
            Console(width=170).print(table)
        return found

    def contests(self) -> dict[str, dict[str, TrainHeron]]:
        """Return HERON with each candidate for its margins, and the weighted sum with each beta."""
        pendulum = replace(
            self._pendulum("units")["HERON"], agent="sac",
            agent_args=(*OWN_SAC, "learning_starts=1000", "gamma=0.98"),
        )  # fmt: skip
        contests = {
            "pendulum": (pendulum, "{c:g},{c:g},{c:g}"),
            "mountain_car": (self._mountain_car(), "0,{c:g}"),
            "traffic": (self.arms("traffic")["queue first"], "{c:g},{c:g},{c:g}"),
        }
        # A sum compares nothing: its standard deviations are those of single steps.
        found: dict[str, dict[str, TrainHeron]] = {}
        for name, (base, margins) in contests.items():
            plain = replace(base, reward_source="weighted_sum", compare_steps=1)
            found[name] = {
                **{f"HERON {c:g}": replace(base, margins=margins.format(c=c)) for c in CANDIDATES},
                **{f"sum {c:g}": replace(plain, beta=c) for c in CANDIDATES},
            }
        return found

    def _finish(self, arms: Mapping[str, TrainHeron], name: str, folder: Path) -> Results:
        """Run arms with the seeds that are reported."""
        seeds = self.mountain_car_seeds if name == "mountain_car" else self.seeds
        return finish_arms(arms, seeds, folder, first_seed(name))

    def _contest(self, arms: Mapping[str, TrainHeron], name: str, folder: Path) -> Results:
        """Run the candidates with the seeds for tuning, and of each kind the best one with those reported."""
        tried = finish_arms(arms, TUNING_SEEDS, folder / "tuning", FIRST_TUNING_SEED)
        returns = {arm: sum(run["true_return"] for run in runs) for arm, runs in tried.items()}
        best = [
            max((arm for arm in arms if arm.startswith(kind)), key=returns.__getitem__)
            for kind in ("HERON", "sum")
        ]
        chosen = self._finish({arm: arms[arm] for arm in best}, name, folder)
        return {**chosen, **{f"tuning: {arm}": runs for arm, runs in tried.items()}}


def warmups() -> dict[str, dict[str, float]]:
    """Return how often the goal is reached in a warm-up of uniform actions."""
    found = {}
    for hold in HOLDS:
        env = make_device("prefrl/MountainCarContinuous-v0", WARMUPS, device="cpu")
        env.reset(seed=0)
        generator = torch.Generator().manual_seed(0)
        goals = torch.zeros(WARMUPS)
        for step in range(WARMUP):
            if step % hold == 0:
                actions = 2.0 * torch.rand(WARMUPS, 1, generator=generator) - 1.0
            goals += env.step(actions)[2]
        found[f"held for {hold}"] = {
            "mean_goals": round(goals.mean(dtype=torch.float64).item(), 3),
            "share_without": (goals == 0).sum().item() / WARMUPS,
        }
        print(f"held for {hold}: {found[f'held for {hold}']}")
    return found


def learned_returns(recipe: TrainHeron) -> dict[str, float]:
    """Return what the reward that is learned from a warm-up says of behaviours, discounted by .999."""
    steps = WARMUP + FITS - 1
    recipe = replace(
        recipe, total_timesteps=steps, fit_every=1, agent_args=(f"learning_starts={2 * WARMUP}",)
    )
    agent = learn(recipe.make_agent(recipe.training_env()), steps)
    model = agent.reward_model
    return {
        "standing still": learned_return(model, 0.0),
        "swinging up": learned_return(model, 0.7),
        "swinging up at full throttle": learned_return(model, 1.0),
        "accuracy": agent.result()["reward_model_accuracy"],
    }


def learned_return(model: RewardModel, push: float) -> float:
    """Return what an episode of pushing the way that the car rolls is worth."""
    env = gym.make("prefrl.envs:prefrl/MountainCarContinuous-v0")
    obs, _ = env.reset(seed=0)
    seen, pushed, factors = [], [], []
    ended = False
    while not ended:
        action = np.array([push if obs[1] >= 0.0 else -push], dtype=np.float32)
        seen.append(torch.as_tensor(obs))
        pushed.append(torch.as_tensor(action))
        obs, _, arrived, truncated, _ = env.step(action)
        factors.append(torch.tensor([float(arrived), -push * push]))
        ended = arrived or truncated
    env.close()
    rewards = model.rewards(torch.stack(seen), torch.stack(pushed), features=torch.stack(factors))
    return float(0.999 ** torch.arange(len(rewards)) @ rewards)


def first_seed(name: str) -> int:
    """Return the first seed that is reported of an experiment."""
    return MOUNTAIN_CAR_SEED if name.endswith("mountain_car") else 0


def save_seeds(rows: Results, path: Path) -> None:
    """Write what every seed ended with."""
    factors = list(next(iter(rows.values()))[0]["factor_means"])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arm", "seed", "true_return", *factors, "eval_returns", "seconds"])
        for arm, runs in rows.items():
            first = FIRST_TUNING_SEED if arm.startswith("tuning") else first_seed(path.stem)
            for seed, run in enumerate(runs, first):
                numbers = [run["true_return"], *(run["factor_means"][name] for name in factors)]
                curve = " ".join(f"{value:.6g}" for value in run["eval_returns"])
                writer.writerow([arm, seed, *(f"{value:.6g}" for value in numbers), curve,
                                 round(run["seconds"], 1)])  # fmt: skip


def show(name: str, rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print what every seed ended with."""
    factors = list(next(iter(rows.values()))[0]["factor_means"])
    table = Table("arm", "true return", *factors, "seconds", title=name, title_justify="left")
    for arm, runs in rows.items():
        columns = [[run["factor_means"][factor] for run in runs] for factor in factors]
        cells = [[run["true_return"] for run in runs], *columns, [run["seconds"] for run in runs]]
        table.add_row(arm, *(" ".join(f"{value:.4g}" for value in cell) for cell in cells))
    Console(width=170).print(table)


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(HeronStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
