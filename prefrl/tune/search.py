"""The search itself: Optuna asks for one setting after the other, and is told what came of it.

Several seeds are run of each setting, and their interquartile mean is what counts, for the best of single
runs is the luckiest one. Rungs save time: a setting is first run for a part of its timesteps, and goes on where
it is among the best third of those that came so far (asynchronous successive halving, Li et al. 2020,
arXiv 1810.05934, one setting at a time).

All that was asked and told is in a journal; how runs stand is in their folders. So a search that was killed
goes on where it was, and tries what it would have tried: the sampler of each trial has a seed of its own.
"""

from __future__ import annotations

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
    """The tuned settings, by full names."""

    rungs: list[dict[str, float]] = field(default_factory=list)
    """Interquartile means over seeds, by metric, at each rung that it finished."""

    state: Literal["complete", "stopped", "failed"] = "complete"
    problem: str = ""
    """Why it failed."""

    def violation(self, constraints: Sequence[Constraint]) -> float:
        """Return by how much constraints are violated together; 0 where all hold."""
        last = self.rungs[-1]
        return sum(max(0.0, each.excess(last[each.metric])) for each in constraints)


class RunFailed(Exception):
    """A run of a setting failed; the message says why."""


Run = Callable[[int, Mapping[str, Any], int], list[dict[str, Any]]]
"""Runs a setting's seeds up to a rung, from its number, the tuned settings and the rung, 1 the first; returns
what came out, flat, of each seed. Raises RunFailed."""


@dataclass
class Search:
    """A search over settings that are run elsewhere.

    Args:
        path: the journal's file, made where it is missing.
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

    def __post_init__(self) -> None:
        if len(self.objectives) not in (1, 2):
            raise ValueError(f"there are {len(self.objectives)} objectives; there may be one or two")

    def run(self, trials: int, run: Run) -> list[Outcome]:
        """Try settings until there are so many; return what came of each, those of before included."""
        optuna = import_optuna()
        study = self._study(optuna)
        before = study.get_trials(deepcopy=False)
        outcomes = [Outcome(**each.user_attrs["outcome"]) for each in before if each.state.is_finished()]
        begun = [each for each in before if not each.state.is_finished()]
        for number in range(len(outcomes), trials):
            study.sampler = self._sampler(optuna, number)
            # One that was asked for before a kill has what was suggested by then, and is given the rest.
            trial = optuna.trial.Trial(study, begun.pop()._trial_id) if begun else study.ask()
            settings = {name: where.suggested(trial, name) for name, where in self.space.items()}
            outcome = Outcome(number, settings)
            self._climb(outcome, outcomes, run)
            self._record(optuna, study, trial, outcome)
            outcomes.append(outcome)
            self.tell(self._told(outcome))
        return outcomes

    def _climb(self, outcome: Outcome, before: Sequence[Outcome], run: Run) -> None:
        """Run a setting rung by rung, as far as it is worth it."""
        for rung in range(1, self.rungs + 1):
            try:
                outcome.rungs.append(self._aggregated(run(outcome.number, outcome.settings, rung)))
            except RunFailed as error:
                outcome.state, outcome.problem = "failed", str(error)
                return
            if rung < self.rungs:
                rivals = [each for each in before if len(each.rungs) >= rung]
                better = sum(self._dominates(each.rungs[rung - 1], outcome.rungs[-1]) for each in rivals)
                if better >= max(1.0, (len(rivals) + 1) / REDUCTION):
                    outcome.state = "stopped"
                    return

    def _dominates(self, one: Mapping[str, float], other: Mapping[str, float]) -> bool:
        """Whether one is better in some objective and worse in none; what is allowed is better than what is not."""
        wrong, other_wrong = (
            sum(max(0.0, each.excess(metrics[each.metric])) for each in self.constraints)
            for metrics in (one, other)
        )
        if wrong != other_wrong and max(wrong, other_wrong) > 0.0:
            return wrong < other_wrong
        gains = [each.sign * (one[each.metric] - other[each.metric]) for each in self.objectives]
        return max(gains) > 0.0 and min(gains) >= 0.0

    def _aggregated(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the interquartile mean over seeds of each metric that matters; RunFailed where one is none."""
        found = {}
        for name in dict.fromkeys([*(each.metric for each in self.objectives), *(c.metric for c in self.constraints)]):
            values = [result.get(name) for result in results]
            if not all(isinstance(value, (int, float)) for value in values):
                known = sorted(key for key, value in results[0].items() if isinstance(value, (int, float)))
                raise ValueError(f"metric {name!r} is no number of result.json; it has {', '.join(known)}")
            found[name] = float(interquartile_mean(np.array(values, dtype=np.float64)))
        return found

    def best(self, outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
        """Return those that were run to the end and that fewest others dominate, the best first."""
        whole = [each for each in outcomes if each.state == "complete" and each.violation(self.constraints) == 0.0]
        dominated = {
            each.number: sum(self._dominates(other.rungs[-1], each.rungs[-1]) for other in whole) for each in whole
        }
        return sorted(whole, key=lambda each: (dominated[each.number], each.number))[:count]

    # Optuna ---------------------------------------------------------------------------------------------

    def _study(self, optuna: Any) -> Any:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = optuna.storages.journal
        storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(self.path)))
        return optuna.create_study(
            study_name="tune", storage=storage, load_if_exists=True,
            directions=[each.direction for each in self.objectives],
        )  # fmt: skip

    def _sampler(self, optuna: Any, number: int) -> Any:
        """Return the sampler of one trial. Its seed is its own, since no study keeps a generator over a kill."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        more: dict[str, Any] = {}
        if self.constraints and not hasattr(optuna.trial.Trial, "set_constraint"):  # before Optuna 5
            more["constraints_func"] = lambda trial: trial.user_attrs.get("excess", ())
        return optuna.samplers.TPESampler(seed=seed, **more)

    def _record(self, optuna: Any, study: Any, trial: Any, outcome: Outcome) -> None:
        """Tell Optuna what came of a trial; last, and at once, that it is over."""
        states = optuna.trial.TrialState
        trial.set_user_attr("outcome", asdict(outcome))
        if outcome.state == "failed":
            study.tell(trial, state=states.FAIL)
            return
        last = outcome.rungs[-1]
        excess = {str(each): each.excess(last[each.metric]) for each in self.constraints}
        if hasattr(trial, "set_constraint"):
            for name, value in excess.items():
                trial.set_constraint(name, value)
        elif excess:
            trial.set_user_attr("excess", list(excess.values()))
        if outcome.state == "stopped":
            if len(self.objectives) == 1:  # with two, Optuna takes no values of trials that were stopped
                for rung, metrics in enumerate(outcome.rungs, 1):
                    trial.report(metrics[self.objectives[0].metric], rung)
            study.tell(trial, state=states.PRUNED)
        else:
            study.tell(trial, [last[each.metric] for each in self.objectives])

    def _told(self, outcome: Outcome) -> str:
        settings = ", ".join(f"{name.split('.')[-1]} = {value}" for name, value in outcome.settings.items())
        if outcome.state == "failed":
            return f"trial {outcome.number} failed ({settings}): {outcome.problem}"
        found = ", ".join(f"{name} {value:.6g}" for name, value in outcome.rungs[-1].items())
        stopped = f", stopped at rung {len(outcome.rungs)} of {self.rungs}" if outcome.state == "stopped" else ""
        return f"trial {outcome.number}: {found} ({settings}){stopped}"


def import_optuna() -> Any:
    """Return the module; ImportError, which names the extra, if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError('Optuna is not installed: pip install ".[tune]"') from error
    return optuna
