"""The training loop: the one place that steps environments, for every agent.

An agent that steps its environment is shown one step of all rows, then updates; a solver only updates. The
loop logs at fixed timesteps, so that the rows of a run do not depend on where it was interrupted, and it
looks at metrics only then: between two logs nothing waits for the device.
"""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
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

from .checkpoint import global_rng_state, save_checkpoint, set_global_rng_state
from .evaluate import Evaluation
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

    A timestep is one row of one environment step; for an agent with ``steps_env`` False it is what the agent
    says. The environment is seeded from the agent's seed, so that the same seed gives the same run.

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
            says that going on is no use. Except for a reward on the host, which is refused before it does
            harm, ``failed.pt`` in the folder then holds the state.
        KeyboardInterrupt: on Ctrl-C, after the step under way is complete and a checkpoint is written.
        ValueError: if a number of timesteps is not positive, or the agent has no environment to step.
    """
    loop = Loop(agent, total_timesteps, callback=callback, progress_bar=progress_bar, folder=folder,
                resume=resume, log_every=log_every, checkpoint_every=checkpoint_every)  # fmt: skip
    loop.run()
    return agent


class Loop:
    """One training run; the arguments are those of :func:`learn`, and when and how to evaluate.

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
    ) -> None:
        every = {"log_every": log_every, "checkpoint_every": checkpoint_every}
        for name, value in {"total_timesteps": total_timesteps, **every}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.agent = agent
        self.target = agent.num_timesteps + total_timesteps
        self.log_every = log_every or max(1, total_timesteps // 100)
        self.checkpoint_every = checkpoint_every
        self.folder = folder
        self.progress_bar = progress_bar
        self.seconds = 0.0
        self.evaluation = evaluation
        self.evaluations: list[dict[str, float]] = []
        self.evaluation_seconds = 0.0
        self._callback = as_callback(callback)
        self._stepper = Stepper.of_agent(agent) if agent.steps_env else None
        self._metrics = Metrics()
        checkpoint = folder.load_checkpoint() if folder is not None and resume else None
        self._since = agent.num_timesteps if resume else None
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
            agent.logger = self.folder.open_logger(self._since)
        elif agent.logger is None:
            agent.logger = Logger(None, [])
        self._clock = self._start_time = time.perf_counter()
        self._start_timesteps = agent.num_timesteps
        try:
            with deferred_interrupt() as interrupted, self._progress() as advance:
                self._train(interrupted, advance)
        finally:
            self._tick()
            if self.folder is not None:
                agent.logger.close()
                agent.logger = None

    def _train(self, interrupted: threading.Event, advance: Callable[[int], None]) -> None:
        agent, callback = self.agent, self._callback
        if callback is not None:
            with warnings.catch_warnings():  # SB3 compares the classes of its own kind of vector environment
                warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
                callback.init_callback(agent)  # type: ignore[arg-type]
            callback.on_training_start(locals(), globals())
        going_on = True
        saved = agent.num_timesteps
        while going_on and agent.num_timesteps < self.target:
            before = agent.num_timesteps
            going_on = self._once()
            if self.evaluation is not None and self._due(before, self.evaluation.every):
                self._evaluate(self.evaluation)
            if not going_on or self._due(before, self.log_every):
                self._log()
            if self._due(before, self.checkpoint_every):
                self._save()
                saved = agent.num_timesteps
            if interrupted.is_set():
                self._save()
                raise KeyboardInterrupt
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
            agent.num_timesteps += self._stepper.num_envs
        self._metrics.add(agent.update())
        if agent.num_timesteps <= before:
            raise RuntimeError(f"{type(agent).__name__}.update() must advance num_timesteps")
        if callback is None:
            return True
        callback.update_locals(happened)
        going_on = callback.on_step()
        if self._stepper is not None:
            callback.on_rollout_end()
        return going_on

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
        row = self._metrics.means()
        if self._stepper is not None:
            returns, lengths, episodes = self._stepper.episodes.totals().tolist()
            if episodes:
                row["rollout/ep_rew_mean"] = returns / episodes
                row["rollout/ep_len_mean"] = lengths / episodes
        if self.evaluations and self.evaluations[-1]["timesteps"] > now - self.log_every:
            row["eval/mean_reward"] = self.evaluations[-1]["mean_return"]
            row["eval/mean_ep_length"] = self.evaluations[-1]["mean_length"]
        self._refuse_non_finite(row)
        for name, value in row.items():
            logger.record(name, value)
        elapsed = time.perf_counter() - self._start_time
        logger.record("time/fps", int((now - self._start_timesteps) / max(elapsed, 1e-9)))
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

    def _failed(self, reason: str) -> str:
        """Keep the state of a run that failed; return the reason, with when, and where the state is."""
        message = f"{reason} at timestep {self.agent.num_timesteps}"
        if self.folder is not None:
            failed = self.folder.path / "failed.pt"
            save_checkpoint(failed, self._state_dict())
            message += f"; the state at that moment is in {failed}"
        return message

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


class Metrics:
    """Running means of what ``update()`` returns, summed where the metrics live, without waiting for them."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take in the scalars of one update."""
        for name, value in metrics.items():
            if name in self._sums:
                self._sums[name] += value
            else:
                self._sums[name] = value.detach().to(torch.float64, copy=True)
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Fetch the means since :meth:`clear`, in one transfer."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        return {name: value / self._counts[name] for name, value in zip(self._sums, sums, strict=True)}

    def clear(self) -> None:
        """Forget everything."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])


def as_callback(callback: Any) -> BaseCallback | None:
    """Return an SB3 callback for a callback, a list of them, or a function of (locals, globals)."""
    if callback is None or isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, list):
        return CallbackList(callback)
    return ConvertCallback(callback)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets instead of interrupting; the second interrupts at once.

    An interrupt in the middle of an update would leave half-updated tensors behind.
    """
    asked = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield asked  # signals reach the main thread only, and an ignored Ctrl-C stays ignored
        return

    def ask(signum: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)
