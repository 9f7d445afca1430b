"""How fast preferences are learned from: reward models, HERON's labels, and learned rewards in SB3's loop.

- fit: reward models on pairs of 50 steps, 256 x 256 and 64 x 64, batches of 32 comparisons, one member,
  beside a plain PyTorch loop for the same (an ``nn.Sequential`` and Adam), the matrix products of the layer
  in the middle alone, and, where ``--imitation-python`` names a Python that has it, imitation 1.0.1, whose
  trainer is timed in the same run
- labels: the verdicts of a hierarchy of 4 factors on a million pairs
- wrapper: SB3's PPO on 16 environments with and without a learned reward
- learner: PreferenceRL on Pendulum-v1 with SB3's SAC as the learner over the same with our SAC, fits and
  questions included, a gradient step per timestep, by processor time

Comparisons run both sides back to back, several times; ratios are taken within a repetition, and their
median, minimum and maximum are reported. Everything runs on one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import stable_baselines3 as sb3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

from prefrl.agents import PreferenceRL, PreferenceRLConfig, SACConfig, SB3Config
from prefrl.cli import execute
from prefrl.data import Preferences, Segments
from prefrl.functional.preferences.hierarchy import hierarchy_verdicts
from prefrl.preferences import RewardModel, RewardModelConfig
from prefrl.preferences.vec_env import LearnedRewardVecEnv
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import seconds, spread

LENGTH, BATCH = 50, 32
"""Steps of a segment, and comparisons of a batch."""

IMITATION = """
import json, sys, time
import gymnasium as gym, numpy as np, torch
from imitation.algorithms import preference_comparisons as pc
from imitation.data.types import TrajectoryWithRew
from imitation.rewards.reward_nets import BasicRewardNet
pairs, epochs, hidden = (int(entry) for entry in sys.argv[1:4])
torch.set_num_threads(1)
torch.set_flush_denormal(True)
rng = np.random.default_rng(0)
space, actions = gym.spaces.Box(-8.0, 8.0, (3,)), gym.spaces.Box(-2.0, 2.0, (1,))
def fragment():
    obs = rng.normal(size=(51, 3)).astype(np.float32)
    acts = rng.uniform(-2, 2, size=(50, 1)).astype(np.float32)
    return TrajectoryWithRew(obs=obs, acts=acts, infos=None, terminal=False, rews=obs[:-1, 0].astype(float))
data = pc.PreferenceDataset()
both = [(fragment(), fragment()) for _ in range(pairs)]
labels = np.array([float(a.rews.sum() > b.rews.sum()) for a, b in both], dtype=np.float32)
data.push(both, labels)
net = BasicRewardNet(space, actions, hid_sizes=(hidden, hidden))
model = pc.PreferenceModel(net)
trainer = pc.BasicRewardTrainer(model, pc.CrossEntropyRewardLoss(), rng=rng, epochs=epochs, batch_size=32)
trainer.train(data)  # warm up, as ours does
start = time.perf_counter()
trainer.train(data)
print(json.dumps(pairs * epochs / (time.perf_counter() - start)))
"""
"""Times imitation's own trainer on pairs like ours; prints comparisons per second."""


@dataclass(frozen=True)
class Bench:
    """How fast preferences are learned from."""

    out: Path = Path("runs/bench_preferences")
    """Run folder, new or empty."""

    repeats: int = 5
    """Repetitions of each comparison."""

    pairs: int = 1_000
    """Comparisons that reward models are fitted to."""

    epochs: int = 3
    """Passes over them."""

    label_pairs: int = 1_000_000
    """Pairs that a hierarchy labels."""

    ppo_timesteps: int = 8_192
    """Timesteps of PPO, with and without a learned reward."""

    learner_timesteps: int = 300
    """Timesteps of a turn of PreferenceRL, which has taken five times as many before."""

    imitation_python: Path | None = None
    """Python of an environment with imitation 1.0.1, to be measured too."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "pairs", "epochs", "label_pairs", "ppo_timesteps",
                       "learner_timesteps")  # fmt: skip

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return rates, and medians, minima and maxima of ratios."""
        torch.set_flush_denormal(True)
        result: dict[str, Any] = {f"fit_{hidden}": self._fits(hidden) for hidden in (256, 64)}
        factors = torch.randn(2, self.label_pairs, 4)
        margins = factors.flatten(0, 1).std(0)
        times = [
            seconds(lambda: hierarchy_verdicts(factors[0], factors[1], margins)) for _ in range(self.repeats)
        ]
        result["labels_seconds"] = spread(times)
        result["wrapper_over_plain_seconds"] = self._wrapper()
        for hidden, batch_size in ((64, 128), (256, 256)):
            result[f"learner_sb3_over_ours_{hidden}"] = self._learners(hidden, batch_size)
        show(result)
        return result

    def _fits(self, hidden: int) -> dict[str, Any]:
        """Return comparisons per second of each side, and ratios of ours to the others."""
        preferences = pairs_of_pendulum(self.pairs)
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda: ours(preferences, hidden, self.epochs),
            "plain": lambda: plain(preferences, hidden, self.epochs),
            "products": lambda: products(self.pairs, hidden, self.epochs),
        }
        if self.imitation_python is not None:
            sides["imitation"] = lambda: self._imitation(hidden)
        for side in ("ours", "plain"):
            sides[side]()  # warm up
        rows = [{name: side() for name, side in sides.items()} for _ in range(self.repeats)]
        found: dict[str, Any] = {f"{name}_per_second": spread([row[name] for row in rows]) for name in sides}
        for name in sides:
            if name != "ours":
                found[f"ours_over_{name}"] = spread([row["ours"] / row[name] for row in rows])
        return found

    def _imitation(self, hidden: int) -> float:
        arguments = [str(number) for number in (self.pairs, self.epochs, hidden)]
        command = [str(self.imitation_python), "-W", "ignore", "-c", IMITATION, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"imitation did not run: {done.stderr.strip().splitlines()[-1]}")
        return float(json.loads(done.stdout.splitlines()[-1]))

    def _wrapper(self) -> dict[str, float]:
        """Return the time of SB3's PPO with a learned reward over that without."""

        def train(learned: bool) -> float:
            env: Any = make_vec_env("CartPole-v1", n_envs=16, seed=0)
            model = RewardModel(env.observation_space, env.action_space)
            if learned:
                env = LearnedRewardVecEnv(env, model.numpy_rewards)
            ppo = sb3.PPO("MlpPolicy", env, n_steps=128, batch_size=256, device="cpu", seed=0)
            return seconds(lambda: ppo.learn(self.ppo_timesteps))

        train(True), train(False)
        return spread([train(True) / train(False) for _ in range(self.repeats)])

    def _learners(self, hidden: int, batch_size: int) -> dict[str, float]:
        """Return the time of PreferenceRL with SB3's SAC over that with ours."""
        theirs = SB3Config("sac", {"policy_kwargs": {"net_arch": [hidden, hidden]}, "batch_size": batch_size,
                                   "learning_starts": 100})  # fmt: skip
        ours = SACConfig(hidden=(hidden, hidden), batch_size=batch_size, learning_starts=100)
        agents = []
        for learner in (theirs, ours):
            config = PreferenceRLConfig(learner=learner, num_labels=50)
            agents.append(PreferenceRL(gym.make("Pendulum-v1"), config, device="cpu"))
            agents[-1].learn(5 * self.learner_timesteps)

        def taken(agent: PreferenceRL) -> float:
            start = time.process_time()
            agent.learn(self.learner_timesteps)
            return time.process_time() - start

        return spread([taken(agents[0]) / taken(agents[1]) for _ in range(self.repeats)])


def pairs_of_pendulum(count: int) -> Preferences:
    """Return comparisons of segments with Pendulum's shapes."""
    generator = torch.Generator().manual_seed(0)
    sides = []
    for _ in range(2):
        obs = torch.randn(count, LENGTH + 1, 3, generator=generator)
        actions = torch.rand(count, LENGTH, 1, generator=generator) * 4.0 - 2.0
        sides.append(
            Segments(obs, actions, torch.full((count,), LENGTH), torch.zeros(count, dtype=torch.bool))
        )
    returns = [side.obs[:, :-1, 0].sum(1) for side in sides]
    return Preferences.from_labels(sides[0], sides[1], (returns[1] > returns[0]).double())


def ours(preferences: Preferences, hidden: int, epochs: int) -> float:
    """Return comparisons per second of a fit of one member, with all that a fit does."""
    observations, actions = gym.spaces.Box(-8.0, 8.0, (3,)), gym.spaces.Box(-2.0, 2.0, (1,))
    config = RewardModelConfig(members=1, hidden=(hidden, hidden), batch_size=BATCH, bootstrap=False)
    model = RewardModel(observations, actions, config)
    return len(preferences) * epochs / seconds(lambda: model.fit(preferences, epochs=epochs))


def plain(preferences: Preferences, hidden: int, epochs: int) -> float:
    """Return comparisons per second of a plain loop: what one would write by hand."""
    network = nn.Sequential(
        nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    inputs = [
        torch.cat([side.obs[:, :-1], side.actions], -1) for side in (preferences.first, preferences.second)
    ]
    labels = preferences.labels.float()

    def score(x: Tensor) -> Tensor:
        total: Tensor = network(x).sum((1, 2))
        return total

    start = time.perf_counter()
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            logits = score(inputs[1][chosen]) - score(inputs[0][chosen])
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return len(labels) * epochs / (time.perf_counter() - start)


def products(count: int, hidden: int, epochs: int) -> float:
    """Return comparisons per second if only the products of the layer in the middle had to be computed."""
    x, weight = torch.randn(2 * BATCH * LENGTH, hidden), torch.randn(hidden, hidden)

    def batch() -> Tensor:
        y = x @ weight  # forward; then the gradients of the weights, and of the layer below
        return x.T @ y + (y @ weight.T)[:hidden]

    batches = epochs * -(-count // BATCH)
    return count * epochs / seconds(lambda: [batch() for _ in range(batches)])


def show(result: dict[str, Any]) -> None:
    """Print a table."""
    table = Table("what", "median", "min", "max", title_justify="left")
    for name, found in result.items():
        parts = {name: found} if "median" in found else {f"{name} {key}": part for key, part in found.items()}
        for part, numbers in parts.items():
            table.add_row(part, *(f"{numbers[key]:.4g}" for key in ("median", "min", "max")))
    Console(width=110).print(table)


def main() -> int:
    """Run the benchmark that the flags describe; return the exit status."""
    return execute(lambda: parse(Bench, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
