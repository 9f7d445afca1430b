"""The search itself: Optuna asks for one setting after the other, and is told what came of it.

Several seeds are run of each setting, and their interquartile mean is what counts, for the best of single
runs is the luckiest one. Rungs save time: a setting is first run for a part of its timesteps, and goes on
if it is among the best third of those so far (asynchronous successive halving, Li et al. 2020,
arXiv 1810.05934, one setting at a time).

What was told is in a journal; how runs stand is in their folders. The sampler of each trial has a seed of its
own, so that a trial during which the search was killed is asked for once more and is the same again.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from prefrl.functional.statistics import interquartile_mean

from .space import Space

REDUCTION = 3
"""One of so many settings goes on to the next rung, each of which is so many times as long."""


class Objective(NamedTuple):
    """A number of ``result.json`` to make large or small."""

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"

    @property
    def sign(self) -> float:
        """1 where more is better."""
        return 1.0 if self.direction == "maximize" else -1.0


class Constraint(NamedTuple):
    """A number of ``result.json`` that must not be above, or below, a bound."""

    metric: str
    at_most: bool
    bound: float

    def excess(self, value: float) -> float:
        """Return by how much a value is on the wrong side; 0 or less is allowed."""
        return value - self.bound if self.at_most else self.bound - value

    def __str__(self) -> str:
        return f"{self.metric}{'<=' if self.at_most else '>='}{self.bound:g}"


def parse_constraint(text: str) -> Constraint:
    """Return what ``metric<=value`` says; ValueError for anything else."""
    for sign in ("<=", ">="):
        metric, found, bound = text.partition(sign)
        if found and metric:
            try:
                return Constraint(metric.strip(), sign == "<=", float(bound))
            except ValueError:
                break
    raise ValueError(f"constraint has {text!r}; each must be METRIC<=NUMBER or METRIC>=NUMBER")


@dataclass
class Outcome:
    """What came of one setting."""

    number: int
    settings: dict[str, Any]
    """The tuned settings."""
    history: list[dict[str, float]] = field(default_factory=list)
    """For each rung that it finished, the interquartile means over seeds of objectives and constraints."""
    state: Literal["complete", "stopped", "failed"] = "complete"
    problem: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """The means at its last rung; empty for one that failed before the first."""
        return self.history[-1] if self.history else {}


Run = Callable[[int, Mapping[str, Any], int], Sequence[Mapping[str, Any]]]
"""Runs a setting's seeds to a rung: from its number, the tuned settings and the rung (from 1) to results.

Raises:
    RunFailed: if a seed failed.
"""


class RunFailed(Exception):
    """A run of a setting failed; the message says why."""


def import_optuna() -> Any:
    """Return the module ``optuna``, without its messages; ImportError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError('tuning needs Optuna: pip install ".[tune]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass
class Search:
    """A study of Optuna over settings that are run elsewhere.

    Args:
        path: the journal's file, made where it is missing; one process at a time works with it.
        space: where to look.
        objectives: one, or two for what is best in either without being worse in the other.
        constraints: what must hold besides.
        rungs: how many lengths a setting is run for; 1: it is run to the end at once.
        seed: seeds the sampler.
        sampler: tpe, or random.
        tell: is told of each setting.
    """

    path: Path
    space: Space
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint] = ()
    rungs: int = 3
    seed: int = 0
    sampler: Literal["tpe", "random"] = "tpe"
    tell: Callable[[str], None] = print

    @property
    def metrics(self) -> list[str]:
        """Names of the numbers that objectives and constraints are about."""
        return list(
            dict.fromkeys([*(o.metric for o in self.objectives), *(c.metric for c in self.constraints)])
        )

    def run(self, trials: int, run: Run) -> list[Outcome]:
        """Try settings until there are so many; return what came of each."""
        optuna = import_optuna()
        study = self._study(optuna)
        outcomes: list[Outcome] = []
        for each in study.get_trials(deepcopy=False):
            if "outcome" in each.user_attrs:
                outcomes.append(Outcome(**each.user_attrs["outcome"]))
                if not each.state.is_finished():  # the process was killed before it could say so
                    self._close(optuna, study, each.number, outcomes[-1])
            elif not each.state.is_finished():  # it was killed in the midst of it; it is asked for again
                study.tell(each.number, state=optuna.trial.TrialState.FAIL)
        while len(outcomes) < trials:
            number = len(outcomes)
            study.sampler = self._sampler(optuna, number)
            trial = study.ask()
            settings = {name: where.suggested(trial, name) for name, where in self.space.items()}
            outcome = self._tried(Outcome(number, settings), outcomes, run)
            self._told(optuna, study, trial, outcome)
            outcomes.append(outcome)
            self.tell(said(outcome, self.rungs))
        return outcomes

    def _study(self, optuna: Any) -> Any:
        """Return the study in the journal; what a process that was killed left half done there is undone."""
        for lock in self.path.parent.glob(f"{self.path.name}.lock*"):
            lock.unlink()
        if self.path.exists():
            lines = self.path.read_bytes()
            os.truncate(self.path, lines.rfind(b"\n") + 1)
        backend = optuna.storages.journal.JournalFileBackend(str(self.path))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="prefrl",
            directions=[objective.direction for objective in self.objectives],
            load_if_exists=True,
        )

    def _sampler(self, optuna: Any, number: int) -> Any:
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        given: dict[str, Any] = {}
        if self.constraints and not hasattr(optuna.trial.Trial, "set_constraint"):  # before Optuna 5
            given["constraints_func"] = lambda trial: self._excesses(
                trial.user_attrs["outcome"]["history"][-1]
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of its features are called experimental
            return optuna.samplers.TPESampler(seed=seed, **given)

    def _tried(self, outcome: Outcome, before: Sequence[Outcome], run: Run) -> Outcome:
        """Run a setting from rung to rung, as long as it is good enough."""
        for rung in range(1, self.rungs + 1):
            try:
                outcome.history.append(self._means(run(outcome.number, outcome.settings, rung)))
            except RunFailed as error:
                outcome.state, outcome.problem = "failed", str(error)
                return outcome
            if rung < self.rungs and not self._goes_on(outcome, before, rung):
                outcome.state = "stopped"
                return outcome
        return outcome

    def _means(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the interquartile means of what matters; ValueError if a result has no such number."""
        means = {}
        for metric in self.metrics:
            values = [number(result, metric) for result in results]
            means[metric] = float(interquartile_mean(values))
        return means

    def _excesses(self, means: Mapping[str, float]) -> list[float]:
        return [constraint.excess(means[constraint.metric]) for constraint in self.constraints]

    def _goes_on(self, outcome: Outcome, before: Sequence[Outcome], rung: int) -> bool:
        """Whether a setting is among the best third (rounded up) of those that finished a rung so far."""
        others = [each.history[rung - 1] for each in before if len(each.history) >= rung]
        ahead = sum(self.beats(other, outcome.history[rung - 1]) for other in others)
        return ahead < math.ceil((len(others) + 1) / REDUCTION)

    def beats(self, first: Mapping[str, float], second: Mapping[str, float]) -> bool:
        """Whether one breaks constraints less or, keeping them, is better in an objective, worse in none."""
        broken = [sum(max(0.0, excess) for excess in self._excesses(each)) for each in (first, second)]
        if max(broken) > 0:
            return broken[0] < broken[1]
        gains = [each.sign * (first[each.metric] - second[each.metric]) for each in self.objectives]
        return min(gains) >= 0 and max(gains) > 0

    def allowed(self, means: Mapping[str, float]) -> bool:
        """Whether the constraints hold."""
        return all(excess <= 0 for excess in self._excesses(means))

    def best(self, outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
        """Return the best complete outcomes that keep the constraints, the best first.

        With two objectives they are of the Pareto front, from its best in the first objective to its best in
        the second.
        """
        there = [each for each in outcomes if each.state == "complete" and self.allowed(each.metrics)]
        first = self.objectives[0]
        there.sort(key=lambda each: -first.sign * each.metrics[first.metric])
        if len(self.objectives) == 1 or len(there) <= 1:
            return there[:count]
        front = self.front(there)
        places = np.linspace(0, len(front) - 1, min(count, len(front))).round().astype(int)
        return [front[place] for place in places]

    def front(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return those that no other beats."""
        return [
            each
            for each in outcomes
            if not any(self.beats(other.metrics, each.metrics) for other in outcomes)
        ]

    def _told(self, optuna: Any, study: Any, trial: Any, outcome: Outcome) -> None:
        """Tell Optuna what came of a trial; from the moment its outcome is written, it counts."""
        if outcome.state != "failed" and hasattr(trial, "set_constraint"):
            for constraint in self.constraints:
                trial.set_constraint(str(constraint), constraint.excess(outcome.metrics[constraint.metric]))
        trial.set_user_attr("outcome", asdict(outcome))
        self._close(optuna, study, trial.number, outcome)

    def _close(self, optuna: Any, study: Any, number: int, outcome: Outcome) -> None:
        """Tell Optuna that a trial is over."""
        states = optuna.trial.TrialState
        if outcome.state == "complete":
            study.tell(number, [outcome.metrics[each.metric] for each in self.objectives])
        else:
            study.tell(number, state=states.FAIL if outcome.state == "failed" else states.PRUNED)


def number(result: Mapping[str, Any], metric: str) -> float:
    """Return a number of a result; ValueError if there is none of that name."""
    value = result.get(metric)
    if not isinstance(value, (bool, int, float)):
        there = ", ".join(name for name, each in result.items() if isinstance(each, (bool, int, float)))
        raise ValueError(f"metric {metric!r} is no number in the results; there are {there}")
    return float(value)


def said(outcome: Outcome, rungs: int) -> str:
    """Return a line about what came of a setting."""
    if outcome.state == "failed":
        return f"trial {outcome.number} failed: {outcome.problem}"
    numbers = ", ".join(f"{name} = {value:.5g}" for name, value in outcome.metrics.items())
    stop = f", stopped after rung {len(outcome.history)} of {rungs}" if outcome.state == "stopped" else ""
    return f"trial {outcome.number}: {numbers}{stop}"
