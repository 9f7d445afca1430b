"""The base of every recipe: the settings that all share, and the course of a run.

A recipe adds settings and says three things: in which environment, which agent, and what came out::

    @dataclass(frozen=True)
    class TrainMine(SteppingRecipe):
        "The line that ``prefrl list`` shows."

        agent: MineConfig = field(default_factory=MineConfig)
        "Settings of the agent."

        def make_agent(self, env: Any) -> Mine:
            return Mine(env, self.agent, device=self.device, seed=self.seed)

A field that is given another default keeps its text.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from tyro.conf import arg

from prefrl.agents.base import Agent, read_agent_file, taking_over
from prefrl.config import Count, Natural, Rows, Settings
from prefrl.data.devices import resolve_device
from prefrl.run.environments import make_evaluation_env, make_scalar_env, make_training_env, parse_env_args
from prefrl.run.evaluate import Evaluation, evaluate_rows
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop

Pairs = Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")]
"""Settings of something else, as texts NAME=VALUE."""


def default(words: str) -> Any:
    """Return how ``--help`` shows a number whose default depends on others."""
    return arg(metavar="INT", help_behavior_hint=f"(default: {words})")


@dataclass(frozen=True)
class Recipe(Settings, ABC):
    """What to train in what: settings that become flags and ``config.json``, and the course of a run."""

    logs: ClassVar[int] = 100
    checkpoints: ClassVar[int] = 10
    """How many there are in a run, where ``log_every`` and ``checkpoint_every`` do not say."""

    groups: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("env_id", "env_args", "num_envs", "horizon"), "environment"),
        **dict.fromkeys(("seed", "device", "total_timesteps", "log_every", "checkpoint_every"), "run"),
        "keep_checkpoints": "run",
        **dict.fromkeys(("eval_every", "eval_episodes", "final_episodes"), "run"),
        "reward": "reward_model",
    }
    """Under which heading ``--help`` shows settings, and those of nested dataclasses; others: agent."""

    env_id: str = "prefrl/Delivery-v0"
    """Environment; prefrl's own are stepped on the device."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: layout_seed=3 stochastic=true (or --env.layout_seed 3)."""

    log_every: Annotated[Count | None, default("1 % of the run")] = None
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[Count | None, default("10 % of the run")] = None
    """Timesteps between two checkpoints."""

    keep_checkpoints: bool = False
    """Keep the agent's state at the start and at each checkpoint, for `prefrl audit drift`."""

    seed: Natural = 0
    """Seeds everything random."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    def check(self) -> None:
        """Raise ValueError for arguments of the environment that cannot be read, or a device that is none."""
        parse_env_args(self.env_args)
        resolve_device(self.device)

    # Which environment -----------------------------------------------------------------------------------

    @property
    def made(self) -> tuple[str, tuple[str, ...]]:
        """Id and arguments of the environment that is made."""
        return self.env_id, self.env_args

    def scalar_env(self) -> Any:
        """Return a fresh scalar environment, for an agent that is restored."""
        return make_scalar_env(*self.made)

    def training_env(self) -> Any:
        """Return the environment to learn in: the scalar one, unless a recipe says otherwise."""
        return self.scalar_env()

    # Which agent -----------------------------------------------------------------------------------------

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return what else the agent is made with: data, from their file or, resumed, from the folder."""
        return {}

    @abstractmethod
    def make_agent(self, env: Any) -> Agent:
        """Return a fresh agent; to train it, also with what :meth:`given` returned."""

    def begin(self, agent: Any, folder: RunFolder, given: dict[str, Any]) -> None:
        """Do what comes before training.

        Refuse what is better known before it than after; keep what the agent was given, so that a resumed
        run does not depend on the first files.
        """

    @abstractmethod
    def timesteps(self, agent: Any) -> int:
        """Return how many timesteps the whole run has."""

    def evaluations(self) -> Evaluation | None:
        """Return how the agent is evaluated while it learns, if it is."""
        return None

    # What came out ---------------------------------------------------------------------------------------

    def outcome(self, agent: Any, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return what ``result.json`` has besides ``agent.result()``; other files may be written too."""
        return {}

    # The course of a run ---------------------------------------------------------------------------------

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, from the folder's checkpoint if ``resume`` and there is one; return the result.

        The agent is saved as ``agent.pt``.
        """
        with small_networks():
            env = self.training_env()
            given = self.given(env, folder, resume=resume)
            started = time.perf_counter()
            agent = self.make_agent(env, **given)
            # Of an agent that solves, making it is a part of the work: it plans, or fits what is convex.
            making = 0.0 if agent.steps_env else time.perf_counter() - started
            self.begin(agent, folder, given)
            loop = self.train(agent, folder, resume=resume, progress_bar=progress_bar)
            agent.save(folder.path / "agent.pt")
            return {
                "num_timesteps": agent.num_timesteps,
                "seconds": making + loop.seconds,
                **agent.result(),
                **self.outcome(agent, loop, folder),
            }

    def train(
        self, agent: Agent, folder: RunFolder | None, *, resume: bool = False, progress_bar: bool = False
    ) -> Loop:
        """Train an agent, with or without a folder; return the finished loop."""
        total = self.timesteps(agent)
        loop = Loop(
            agent,
            total,
            folder=folder,
            resume=resume,
            progress_bar=progress_bar,
            log_every=self.log_every or max(1, total // self.logs),
            checkpoint_every=self.checkpoint_every or max(1, total // self.checkpoints),
            evaluation=self.evaluations(),
            share=1.0 if folder is None else folder.pause(),
        )
        if folder is not None:
            folder.keeps = self.keep_checkpoints
            if folder.keeps and agent.num_timesteps == 0:
                folder.keep(0, agent.state_dict())
        loop.run()
        return loop

    def evaluation(self, folder: RunFolder) -> tuple[Agent, Any]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = self.scalar_env()
        return self.restored(env, folder), env

    def restored(self, env: Any, folder: RunFolder) -> Any:
        """Return the agent of a run's checkpoint or, where that was deleted, of its ``agent.pt``.

        Raises:
            FileNotFoundError: if there is neither yet.
            ValueError: if it is damaged, or another agent's.
        """
        agent, path = self.make_agent(env), folder.checkpoint_path
        finished = folder.path / "agent.pt"
        deleted = finished.exists() and not path.exists()
        checkpoint = None if deleted else folder.load_checkpoint()
        if checkpoint is None:
            path = finished
            if not path.exists():
                raise FileNotFoundError(
                    f"{folder.path} holds no checkpoint yet; run `prefrl resume {folder.path}`"
                )
            header, state = read_agent_file(path)
            checkpoint = {"num_timesteps": header["num_timesteps"], "agent": state}
        with taking_over(path, f"state of this run's {type(agent).__name__}"):
            agent.num_timesteps = int(checkpoint["num_timesteps"])
            agent.load_state_dict(checkpoint["agent"])
        return agent


@dataclass(frozen=True)
class SteppingRecipe(Recipe):
    """A recipe whose agent steps environments for a number of timesteps."""

    steps: ClassVar[bool] = True
    """Whether environments are stepped to learn; of data, nothing is."""

    num_envs: Rows | None = None
    """Environments stepped together."""

    total_timesteps: Count = 10_000
    """Timesteps to train for; a step of n environments is n."""

    def check(self) -> None:
        """Raise ValueError for environments that would not be stepped."""
        super().check()
        if not self.steps and self.num_envs is not None:
            raise ValueError(f"num_envs is {self.num_envs}; it must be None, since nothing is stepped here")

    @property
    def rows(self) -> int:
        """Environments stepped together."""
        return self.num_envs or 1

    def training_env(self) -> Any:
        """Return ``num_envs`` environments; where nothing is stepped, the one that the data are of."""
        if not self.steps:
            return self.scalar_env()
        return make_training_env(*self.made, self.rows, self.device)

    def timesteps(self, agent: Agent) -> int:
        """See :meth:`Recipe.timesteps`."""
        return self.total_timesteps

    def outcome(self, agent: Any, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the speed of learning: evaluations are as long as their episodes are."""
        return {"steps_per_second": agent.num_timesteps / (loop.seconds - loop.evaluation_seconds)}


@dataclass(frozen=True)
class EvaluatedRecipe(SteppingRecipe):
    """A recipe whose agent is evaluated while it learns, and at the end."""

    evaluated: ClassVar[int] = 10
    """How often, where ``eval_every`` does not say."""

    result_name: ClassVar[str] = "final_return"
    """What ``result.json`` calls the return after training."""

    eval_every: Annotated[Count | None, default("10 % of the run")] = None
    """Timesteps between two evaluations of the deterministic policy."""

    eval_episodes: Rows = 20
    """Episodes of an evaluation."""

    final_episodes: Annotated[Rows | None, default("--eval-episodes")] = None
    """Episodes of the evaluation after training."""

    def evaluation_env(self, episodes: int) -> Any:
        """Return a vector environment on the host with a row per episode."""
        return make_evaluation_env(*self.made, episodes)

    def evaluations(self) -> Evaluation | None:
        """See :meth:`Recipe.evaluations`."""
        every = self.eval_every or max(1, self.total_timesteps // self.evaluated)
        return Evaluation(self.evaluation_env(self.eval_episodes), every=every, seed=self.seed)

    def final_evaluation(self, agent: Agent) -> dict[str, Any]:
        """Return what fresh episodes say after training; see :func:`prefrl.run.evaluate.evaluate_rows`."""
        rows = self.evaluation_env(self.final_episodes or self.eval_episodes)
        return evaluate_rows(agent, rows, seed=self.seed)

    def final_return(self, agent: Agent) -> float:
        """Return the mean return of fresh episodes."""
        return float(self.final_evaluation(agent)["mean_return"])

    def outcome(self, agent: Any, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return the return after training and those before."""
        return {
            **super().outcome(agent, loop, folder),
            self.result_name: self.final_return(agent),
            "eval_returns": [found["mean_return"] for found in loop.evaluations],
            "eval_timesteps": [found["timesteps"] for found in loop.evaluations],
        }


@contextmanager
def small_networks() -> Iterator[None]:
    """Settle torch for small networks and tables on the CPU: one thread, and denormal numbers are 0.

    More threads make small products slower; Adam's moments of idle weights become denormal numbers, which
    processors are slow with. Afterwards both are as they were.
    """
    threads = torch.get_num_threads()
    smallest = torch.tensor(5e-324, dtype=torch.float64)
    flushed = not bool(smallest * 1.0)  # torch does not tell
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(threads)
