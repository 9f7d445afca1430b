"""The training loop: the one place that steps environments, for every agent.

An agent that steps its environment is shown one step of all rows, then updates; a solver only updates. The
loop logs at fixed timesteps, so that the rows of a run do not depend on where it was interrupted, and it
looks at metrics only then: between two logs nothing waits for the device.
"""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import gymnasium as gym
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor

from prefrl.agents.base import Agent, LearningFailedError, taking_over
from prefrl.data.metrics import Metrics
from prefrl.processes import Terminated as Terminated, deferred_signals

from .checkpoint import global_rng_state, save_checkpoint, set_global_rng_state
from .evaluate import Evaluation, columns
from .folder import RunFolder
from .logger import STEP
from .stepping import Stepper

AgentType = TypeVar("AgentType", bound=Agent)


def learn(
    agent: AgentType,
    total_timesteps: int,
    *,
    callback: Any = None,
    progress_bar: bool = False,
    folder: RunFolder | None = None,
    resume: bool = False,
    log_every: int | None = None,
    checkpoint_every: int | None = None,
) -> AgentType:
    """Train an agent in its own environment for ``total_timesteps`` more timesteps, and return it.

    A timestep is one row of one environment step, of every learner; for an agent with ``steps_env`` False it
    is what the agent says. The environment is seeded from the agent's seed, so that the same seed gives the
    same run.

    Args:
        agent: any agent.
        total_timesteps: how many timesteps to add; the last step or update may overshoot.
        callback: an SB3 callback, a list of them, or a function of (locals, globals); False stops the run.
        progress_bar: show rate and time left on stderr.
        folder: a run folder to log to and to keep checkpoints in; without one, ``agent.logger`` is used.
        resume: go on from the folder's checkpoint, if there is one; ``total_timesteps`` is then the number
            that the interrupted call was given.
        log_every: timesteps between two logs (None: a hundredth of ``total_timesteps``).
        checkpoint_every: timesteps between two checkpoints (None: only one, at the end).

    Raises:
        FloatingPointError: if a reward or a metric is NaN or infinite, or (``LearningFailedError``) the agent
            says that going on is no use.
        RunFailedError: for any other exception after the first step, with a folder; without one, and in the
            first step, it is that exception. The folder then holds the state: as its checkpoint, where an
            environment that cannot be restored failed, or an evaluation; else as ``failed.pt``.
        KeyboardInterrupt: on Ctrl-C, after the step under way is complete and a checkpoint is written; with a
            folder also (:class:`Terminated`) on SIGTERM and SIGHUP.
        ValueError: if a number of timesteps is not positive, or the agent has no environment to step.
    """
    loop = Loop(agent, total_timesteps, callback=callback, progress_bar=progress_bar, folder=folder,
                resume=resume, log_every=log_every, checkpoint_every=checkpoint_every)  # fmt: skip
    loop.run()
    return agent


class OneEnv(gym.Wrapper[Any, Any, Any, Any]):
    """A scalar environment that tells callbacks of SB3 how many there are."""

    num_envs = 1


class RunFailedError(RuntimeError):
    """An exception ended a run whose state was kept; the message says where."""


class Loop:
    """One training run; the arguments are those of :func:`learn`, how to evaluate, and a share to stop after.

    Attributes:
        seconds: wall-clock time spent in the loop, over all parts of an interrupted run.
        evaluations: what every evaluation found, with its ``timesteps``.
        evaluation_seconds: the part of ``seconds`` that evaluations took.
    """

    def __init__(
        self,
        agent: Agent,
        total_timesteps: int,
        *,
        callback: Any = None,
        progress_bar: bool = False,
        folder: RunFolder | None = None,
        resume: bool = False,
        log_every: int | None = None,
        checkpoint_every: int | None = None,
        evaluation: Evaluation | None = None,
        share: float = 1.0,
    ) -> None:
        every = {"log_every": log_every, "checkpoint_every": checkpoint_every}
        for name, value in {"total_timesteps": total_timesteps, **every}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.agent = agent
        self.target = agent.num_timesteps + total_timesteps
        self._share = share
        self.log_every = log_every or max(1, total_timesteps // 100)
        self.table_every = max(1, total_timesteps // 10)
        self.checkpoint_every = checkpoint_every
        self.folder = folder
        self.progress_bar = progress_bar
        self.seconds = 0.0
        self.evaluation = evaluation
        self.evaluations: list[dict[str, Any]] = []
        self.evaluation_seconds = 0.0
        self._callback = as_callback(callback)
        self._stepper = Stepper.of_agent(agent) if agent.steps_env else None
        self._metrics = Metrics()
        checkpoint = folder.load_checkpoint() if folder is not None and resume else None
        self._since = agent.num_timesteps if resume else None
        self._sound = True  # whether the agent's state is that after a whole step
        if folder is not None and checkpoint is not None:
            with taking_over(folder.checkpoint_path, f"state of this run's {type(agent).__name__}"):
                self._load_state_dict(checkpoint)
            self._since = agent.num_timesteps
        elif self._stepper is not None:
            self._stepper.reset(agent.num_timesteps)

    def run(self) -> None:
        """Train until the target is reached or a callback returns False."""
        agent = self.agent
        if self.folder is not None:
            agent.logger = self.folder.open_logger(self._since, table_every=self.table_every)
        elif agent.logger is None:
            agent.logger = Logger(None, [])
        self._clock = self._start_time = time.perf_counter()
        self._start_timesteps = agent.num_timesteps
        try:
            with deferred_signals(all_of_them=self.folder is not None) as asked, self._progress() as advance:
                self._train(asked, advance)
        finally:
            self._tick()
            agent.dump_logs = None
            vars(agent).pop("get_env", None)
            if self.folder is not None:
                agent.logger.close()
                agent.logger = None

    def _train(self, asked: list[int], advance: Callable[[int], None]) -> None:
        agent, callback, total_timesteps = self.agent, self._callback, self.target  # under SB3's names
        if callback is not None:
            agent.dump_logs = self._log
            if isinstance(agent.env, gym.Env):
                counted = OneEnv(agent.env)
                vars(agent)["get_env"] = lambda: counted  # while there are callbacks to ask for it
            with warnings.catch_warnings():  # SB3 compares the classes of its own kind of vector environment
                warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
                callback.init_callback(agent)  # type: ignore[arg-type]
            callback.on_training_start(locals(), globals())
        going_on = True
        saved = agent.num_timesteps
        while going_on and agent.num_timesteps < math.ceil(self._share * self.target):
            before = agent.num_timesteps
            try:
                while agent.waits() and not asked:
                    time.sleep(0.1)
                    self._clock += 0.1  # what people take is no time of the run
                going_on = bool(asked) or self._once()
                if self.evaluation is not None and self._due(before, self.evaluation.every):
                    self._evaluate(self.evaluation)
            except Exception as error:
                self._fail(error)
            if not going_on or self._due(before, self.log_every):
                self._log()
            if self._due(before, self.checkpoint_every):
                self._save()
                saved = agent.num_timesteps
            if asked:
                self._save()
                raise KeyboardInterrupt if asked[0] == signal.SIGINT else Terminated(asked[0])
            advance(agent.num_timesteps)
        if saved < agent.num_timesteps:
            self._save()
        if callback is not None:
            callback.on_training_end()

    def _once(self) -> bool:
        """Step once and update once; return False where the callback wants to stop."""
        agent, callback, before = self.agent, self._callback, self.agent.num_timesteps
        happened: dict[str, Any] = {}
        if self._stepper is not None:
            if callback is not None:
                callback.on_rollout_start()
            happened = self._stepper.step()
            agent.num_timesteps += self._stepper.num_envs // agent.num_learners
        self._updated()
        if agent.num_timesteps <= before:
            raise RuntimeError(f"{type(agent).__name__}.update() must advance num_timesteps")
        if callback is None:
            return True
        for name in ("rewards", "dones"):  # of an environment on a device
            if isinstance(happened.get(name), Tensor):
                happened[name] = happened[name].cpu().numpy()
        callback.update_locals(happened)
        going_on = callback.on_step()
        if self._stepper is not None:
            callback.on_rollout_end()
        return going_on

    def _updated(self) -> None:
        """Update the agent; what it is in the midst of that is not a state to go on from."""
        self._sound = False
        self._metrics.add(self.agent.update())
        self._sound = True

    def _evaluate(self, evaluation: Evaluation) -> None:
        start = time.perf_counter()
        found = evaluation.run(self.agent, index=len(self.evaluations))
        self.evaluations.append({"timesteps": self.agent.num_timesteps, **found})
        self.evaluation_seconds += time.perf_counter() - start

    def _due(self, before: int, every: int | None) -> bool:
        """Whether a multiple of ``every`` was reached since ``before``, or the target."""
        now = self.agent.num_timesteps
        return every is not None and (now // every > before // every or now >= self.target)

    def _log(self) -> None:
        logger, now = self.agent.logger, self.agent.num_timesteps
        row = {**self._metrics.means(), **self.agent.schedules()}
        if self._stepper is not None:
            returns, lengths, episodes = self._stepper.episodes.totals().tolist()
            if episodes:
                row["rollout/ep_rew_mean"] = returns / episodes
                row["rollout/ep_len_mean"] = lengths / episodes
        if self.evaluations and self.evaluations[-1]["timesteps"] > now - self.log_every:
            row.update(columns(self.evaluations[-1]))
        self._refuse_non_finite(row)
        for name, value in row.items():
            one_of_many = name[-1].isdigit()  # a column of a learner's
            logger.record(name, value, exclude="stdout" if one_of_many else None)
        elapsed = time.perf_counter() - self._start_time
        logger.record(
            "time/fps", int((now - self._start_timesteps) * self.agent.num_learners / max(elapsed, 1e-9))
        )
        logger.record("time/time_elapsed", self._tick(), exclude="tensorboard")
        logger.record(STEP, now, exclude="tensorboard")
        logger.dump(now)
        self._metrics.clear()
        if self._stepper is not None:
            self._stepper.episodes.reported()
        try:
            self.agent.check()
        except LearningFailedError as error:
            raise LearningFailedError(self._failed(str(error))) from error

    def _refuse_non_finite(self, row: Mapping[str, float]) -> None:
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if not bad:
            return
        advice = f"; {self.agent.advice}" if self.agent.advice else ""
        raise FloatingPointError(self._failed(f"{bad[0]} is {row[bad[0]]}") + advice)

    def _restorable(self) -> bool:
        """Whether a checkpoint holds the environment's state too."""
        return self._stepper is None or self._stepper.state_dict() is not None

    def _fail(self, error: Exception) -> NoReturn:
        """Raise the error again, once the state is kept; as it is where there is nothing to lose."""
        first = self.agent.num_timesteps == self._start_timesteps
        if self.folder is None or (first and isinstance(error, (ValueError, FloatingPointError))):
            raise error
        reason = str(error).strip().split("\n", 1)[0]
        kind: type[Exception] = RunFailedError
        if isinstance(error, FloatingPointError):
            kind = type(error)
        else:
            reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        if not first:
            reason = self._failed(reason, going_on=self._sound and not self._restorable())
        raise kind(reason) from error

    def _failed(self, reason: str, *, going_on: bool = False) -> str:
        """Keep the state of a run that failed; return the reason, with when, and where the state is.

        Args:
            reason: what failed.
            going_on: whether the agent's state is one to go on from. (Where the environment can be restored,
                the last checkpoint is the better one: its continuation is that of the uninterrupted run.)
        """
        message = f"{reason} at timestep {self.agent.num_timesteps}"
        if self.folder is None:
            return message
        failed = self.folder.path / "failed.pt"
        try:
            if going_on:
                self.folder.save_checkpoint(self._state_dict())
                return f"{message}; what was learned is kept: go on with `prefrl resume {self.folder.path}`"
            save_checkpoint(failed, self._state_dict())
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            return f"{message}; the state could not be kept: {str(error).split(chr(10), 1)[0]}"
        return f"{message}; the state at that moment is in {failed}"

    def _save(self) -> None:
        if self.folder is None:
            return
        self._refuse_non_finite(self._metrics.means())  # a checkpoint must be worth going back to
        self._tick()
        self.folder.save_checkpoint(self._state_dict())

    def _tick(self) -> float:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        return self.seconds

    def _state_dict(self) -> dict[str, Any]:
        return {
            "num_timesteps": self.agent.num_timesteps,
            "target": self.target,
            "seconds": self.seconds,
            "evaluations": self.evaluations,
            "evaluation_seconds": self.evaluation_seconds,
            "agent": self.agent.state_dict(),
            "stepper": None if self._stepper is None else self._stepper.state_dict(),
            "metrics": self._metrics.state_dict(),
            "rng": global_rng_state(),
        }

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.agent.num_timesteps = int(state["num_timesteps"])
        self.target = int(state["target"])
        self.seconds = float(state["seconds"])
        self.evaluations = list(state["evaluations"])
        self.evaluation_seconds = float(state["evaluation_seconds"])
        self.agent.load_state_dict(state["agent"])
        if self._stepper is not None:
            self._stepper.load_state_dict(state["stepper"], self.agent.num_timesteps)
        self._metrics.load_state_dict(state["metrics"], self.agent.device)
        set_global_rng_state(state["rng"])

    @contextmanager
    def _progress(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes the timesteps done so far, and shows them if a bar is wanted."""
        if not self.progress_bar:
            yield lambda completed: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _Rate(),
                   TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(
                type(self.agent).__name__, total=self.target, completed=self.agent.num_timesteps
            )
            shown = 0.0

            def advance(completed: int) -> None:
                nonlocal shown
                now = time.perf_counter()
                if now - shown > 0.1 or completed >= self.target:
                    progress.update(task, completed=min(completed, self.target))
                    shown = now

            yield advance


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} timesteps/s", style="progress.data.speed")


def as_callback(callback: Any) -> BaseCallback | None:
    """Return an SB3 callback for a callback, a list of them, or a function of (locals, globals)."""
    if callback is None or isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, list):
        return CallbackList(callback)
    return ConvertCallback(callback)
