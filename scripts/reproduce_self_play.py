"""Self-play from preferences (SPO) beside a reward model of the same preferences and the true reward.

Experiments, all of them by default:

- matrix: cycles of three options with random strengths: Hedge on exact preferences, the policy gradient on
  sampled ones, and a Bradley-Terry reward
- goals: which of three goals to reach, when left beats top, top beats right and right beats left
- cartpole: the larger return is preferred, answered rightly, and wrongly in a fifth of the cases
- meadow: return counts only within a budget of steps, which no reward of single steps can say
- budget_model: how much of that a reward model can learn from comparisons of random walks

Every seed is reported. Each run has a folder of its own below the study's; the same command goes on with a
study that was stopped.
"""

from __future__ import annotations

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

from prefrl.agents.preferences.matrix_self_play import MatrixSelfPlay, MatrixSelfPlayConfig
from prefrl.cli import execute
from prefrl.data import Preferences, Segments
from prefrl.functional.preferences.games import cycle_of_three, minimax_winner
from prefrl.preferences.reward_model import RewardModel, RewardModelConfig
from prefrl.preferences.trajectories import Trajectory, WithinBudget
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.preferences.self_play import TrainSelfPlay
from prefrl.run.study.arms import finish_arms, save_evaluations
from prefrl.run.study.study import check_positive, run_study

Experiment = Literal["matrix", "goals", "cartpole", "meadow", "budget_model"]

WALKS = 1_000
"""Comparisons of random walks in ``budget_model``."""

MATRICES = 20
"""Random cycles that Hedge plays."""

WITH_SUCCESSOR = RewardModelConfig(members=1, bootstrap=False, epochs=3, use_next_obs=True)
"""The reward model of the boards, where what counts is the cell that is entered."""


@dataclass(frozen=True)
class SelfPlayStudy:
    """Self-play from preferences beside a reward model and the true reward."""

    out: Path = Path("runs/self_play")
    """Run folder: new, empty, or of the same study."""

    experiments: tuple[Experiment, ...] = get_args(Experiment)
    """Which; see above."""

    seeds: int = 3
    """Seeds 0, 1, ..."""

    rounds: int = 10_000
    """Rounds on matrices."""

    goals_timesteps: int = 100_000
    """Timesteps in goals."""

    cartpole_timesteps: int = 80_000
    """Timesteps in cartpole."""

    meadow_timesteps: int = 80_000
    """Timesteps in meadow."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "rounds", "goals_timesteps", "cartpole_timesteps", "meadow_timesteps")
        if not self.experiments:
            raise ValueError(f"experiments is empty; give some of {', '.join(get_args(Experiment))}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Run what has not been run yet; draw, print and return all of it."""
        result: dict[str, Any] = {}
        for name in self.experiments:
            if name in ("matrix", "budget_model"):
                result[name] = self._matrices() if name == "matrix" else budget_model()
                continue
            rows = finish_arms(self.arms(name), self.seeds, folder.path / name)
            show(name, rows)
            save_evaluations(rows, folder.path / f"{name}.png", "true return of the likeliest actions")
            result[name] = rows
        return result

    def arms(self, experiment: Experiment) -> dict[str, TrainSelfPlay]:
        """Return what is compared in an experiment."""
        if experiment == "cartpole":
            base = TrainSelfPlay(
                env_id="prefrl/CartPole-v0", agent="sb3_ppo", num_envs=8,
                total_timesteps=self.cartpole_timesteps,
                agent_args=("n_steps=256", "batch_size=256", "n_epochs=20", "learning_rate=1e-3",
                            "gamma=1.0"),
            )  # fmt: skip
            # The true reward adds up over 500 steps: its usual discount is less than 1.
            usual = tuple("gamma=0.98" if entry == "gamma=1.0" else entry for entry in base.agent_args)
            true = replace(base, reward_source="true", agent_args=(*usual, "gae_lambda=0.8"))
            model = replace(base, reward_source="reward_model", agent_args=true.agent_args)
            noisy = {"preference": "noisy", "flip": 0.2}
            return {
                "self-play": base,
                "self-play, noisy": replace(base, **noisy),  # type: ignore[arg-type]
                "reward model": model,
                "reward model, noisy": replace(model, **noisy),  # type: ignore[arg-type]
                "true reward": true,
            }
        board = TrainSelfPlay(agent="sb3_ppo", num_envs=16, reward=WITH_SUCCESSOR)
        common = ("n_steps=512", "batch_size=128", "learning_rate=1e-3", "gamma=1.0")
        if experiment == "goals":
            base = replace(
                board, preference="cyclic", credit="last", total_timesteps=self.goals_timesteps,
                agent_args=(*common, "ent_coef=0.05", "normalize_advantage=false"),
            )  # fmt: skip
        else:
            base = replace(
                board, env_id="prefrl/Meadow-v0", preference="budget",
                total_timesteps=self.meadow_timesteps, agent_args=(*common, "ent_coef=0.01"),
            )  # fmt: skip
        return {"self-play": base, "reward model": replace(base, reward_source="reward_model")}

    def _matrices(self) -> dict[str, Any]:
        """Return exploitability and distance to the winner on random cycles."""
        generator = torch.Generator().manual_seed(0)
        rows: dict[str, list[dict[str, Any]]] = {"hedge": [], "sampled": [], "reward_model": []}
        for number in range(MATRICES):
            strengths = 0.2 + 0.8 * torch.rand(3, generator=generator, dtype=torch.float64)
            matrix = cycle_of_three(*strengths.tolist())
            winner = minimax_winner(matrix)
            for mode, found in rows.items():
                if mode != "hedge" and number >= self.seeds:
                    continue
                config = MatrixSelfPlayConfig(mode=mode, rounds=self.rounds)  # type: ignore[arg-type]
                agent = MatrixSelfPlay(None, config, matrix=matrix, device="cpu", seed=number)
                for _ in range(self.rounds):
                    agent.update()
                distance = float((agent.average_policy - winner).abs().sum())
                found.append({"strengths": strengths.tolist(), "distance": distance, **agent.result()})
        table = Table("mode", "exploitability", "distance to the winner", "last policy's largest share",
                      title="matrix", title_justify="left")  # fmt: skip
        for mode, found in rows.items():
            cells = ([row["exploitability"] for row in found], [row["distance"] for row in found],
                     [max(row["last_policy"]) for row in found])  # fmt: skip
            table.add_row(mode, *(" ".join(f"{value:.3g}" for value in cell[:5]) for cell in cells))
        Console(width=170).print(table)
        return rows


def budget_model() -> dict[str, Any]:
    """Fit reward models to comparisons of random walks in the meadow, within a budget of half the steps.

    Returns:
        The share of the comparisons, all of them answered without fault, that a model agrees with after the
        fit, with the time that is gone among its inputs and without.
    """
    env = gym.make_vec("prefrl/Meadow-v0", 2 * WALKS, vectorization_mode="vector_entry_point")
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=0)[0]]
    actions, vectors = [], []
    for _ in range(16):
        actions.append(rng.integers(4, size=2 * WALKS))
        obs, *_, infos = env.step(actions[-1])
        seen.append(obs)
        vectors.append(infos["reward_vector"])
    obs, did, told = (torch.as_tensor(np.stack(part, 1)) for part in (seen, actions, vectors))
    walks = [
        Trajectory(obs[i], did[i], told[i, :, 0], True, {"reward_vector": told[i]}) for i in range(2 * WALKS)
    ]
    preference = WithinBudget(0.5)
    numbers = torch.stack([preference.summarize(walk) for walk in walks])
    wins = preference.compare(numbers[:WALKS], numbers[WALKS:], torch.Generator()).diagonal()
    found = {}
    for name in ("with_time", "without_time"):
        shown = obs.clone()
        if name == "without_time":
            shown[..., 2] = 0.0
        lengths, ended = torch.full((2 * WALKS,), 16), torch.ones(2 * WALKS, dtype=torch.bool)
        segments = Segments(shown, did, lengths, ended)
        answers = Preferences.from_labels(segments[:WALKS], segments[WALKS:], (1.0 - wins) / 2.0)
        space, choices = env.single_observation_space, env.single_action_space
        model = RewardModel(space, choices, replace(WITH_SUCCESSOR, epochs=150))
        model.fit(answers)
        found[name] = float(model.accuracy(answers))
    print(f"budget_model: agreement with the answers {found}")
    return found


def show(name: str, rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print what every seed ended with."""
    kept = (
        "true_return",
        "option_shares",
        "mean_return",
        "within_budget",
        "reward_model_accuracy",
        "seconds",
    )
    names = [key for key in next(reversed(rows.values()))[0] if key.startswith(kept)]
    for arm in rows.values():
        names += [key for key in arm[0] if key.startswith(kept) and key not in names]
    table = Table("arm", *names, title=name, title_justify="left")
    for arm_name, runs in rows.items():
        table.add_row(arm_name, *("\n".join(_text(run.get(key)) for run in runs) for key in names))
    Console(width=190).print(table)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{entry:.2f}" for entry in value)
    return "" if value is None else f"{value:.4g}"


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(SelfPlayStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
