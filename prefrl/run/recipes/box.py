"""What recipes share whose agent acts in a bounded box: soft actor-critic, with and without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from prefrl.agents.base import Agent
from prefrl.data.devices import resolve_device
from prefrl.run.environments import make_evaluation_env, make_rollout_env, parse_env_args
from prefrl.run.evaluate import Evaluation, evaluate_rows
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop

DISTRACTED = "prefrl/Distracted-v0"
"""Id of an environment with distractors beside another's observations."""


@dataclass(frozen=True)
class BoxRecipe:
    """Fields and steps of recipes with continuous actions."""

    env_id: str = "Pendulum-v1"
    """Environment with a bounded Box of actions; prefrl's own are stepped on the device."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: exclude_current_positions_from_observation=true."""

    distractors: int = 0
    """Numbers appended to every observation that have nothing to do with the task."""

    num_envs: int = 1
    """Environments stepped together."""

    total_timesteps: int = 10_000
    """Timesteps to train for; a step of n environments is n."""

    eval_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")] = (
        None
    )
    """Timesteps between two evaluations of the deterministic policy."""

    eval_episodes: int = 10
    """Episodes of an evaluation."""

    final_episodes: int = 20
    """Episodes of the evaluation after training."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")
    ] = None
    """Timesteps between two checkpoints."""

    seed: int = 0
    """Seeds everything random."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    def check(self) -> None:
        """Raise ValueError for a field that is out of range."""
        for name in ("num_envs", "total_timesteps", "eval_every", "eval_episodes", "final_episodes",
                     "log_every", "checkpoint_every"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        for name in ("seed", "distractors"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        parse_env_args(self.env_args)
        resolve_device(self.device)

    @property
    def made(self) -> tuple[str, tuple[str, ...]]:
        """Id and arguments of the environment, with its distractors."""
        if not self.distractors:
            return self.env_id, self.env_args
        return DISTRACTED, (f"env_id={self.env_id}", f"distractors={self.distractors}", *self.env_args)

    def training_env(self) -> Any:
        """Return the environments to learn in."""
        return make_rollout_env(*self.made, self.num_envs, self.device)

    def train(self, agent: Agent, folder: RunFolder, *, resume: bool, progress_bar: bool) -> Loop:
        """Train an agent, with evaluations; save it as ``agent.pt``, and return the finished loop."""
        loop = Loop(
            agent,
            self.total_timesteps,
            folder=folder,
            resume=resume,
            progress_bar=progress_bar,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every or max(1, self.total_timesteps // 10),
            evaluation=Evaluation(
                make_evaluation_env(*self.made, self.eval_episodes),
                every=self.eval_every or max(1, self.total_timesteps // 10),
                seed=self.seed,
            ),
        )
        loop.run()
        agent.save(folder.path / "agent.pt")
        return loop

    def outcome(self, agent: Agent, loop: Loop) -> dict[str, Any]:
        """Return what every such run reports."""
        final = evaluate_rows(agent, make_evaluation_env(*self.made, self.final_episodes), seed=self.seed)
        return {
            "final_return": final["mean_return"],
            "eval_returns": [found["mean_return"] for found in loop.evaluations],
            "eval_timesteps": [found["timesteps"] for found in loop.evaluations],
            "num_timesteps": agent.num_timesteps,
            "seconds": loop.seconds,
            # Of learning: evaluations are as long as their episodes are.
            "steps_per_second": agent.num_timesteps / (loop.seconds - loop.evaluation_seconds),
            **agent.result(),
        }
