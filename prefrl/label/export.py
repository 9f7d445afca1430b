"""``prefrl label export``: answers as a preference file, or rankings of factors as one for HERON.

What is kept, and what is not: practice never counts; repeats and questions whose answer is known tell how
people answer, and are left out; who can't tell gives a row of weight 0. Several people are several rows. What
was left out, and why, is counted in the file's metadata.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from prefrl.config import Count, Settings, Share

from .records import CurrentAnswer, escaped
from .status import ranking_pairs, regular
from .store import LabelStore

if TYPE_CHECKING:
    from prefrl.data import Preferences

UNSURE = 0.5
"""Label of rows of weight 0."""


@dataclass(frozen=True)
class ExportSettings(Settings):
    """Whose answers are taken, to which questions."""

    min_agreement: Share = 0.0
    """Least share of answers to a question that must be the most frequent one, where two people or more
    answered; answers to other questions are left out."""

    exclude: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="(default: nobody)")
    ] = ()
    """Names of people whose answers are left out."""

    min_checks: Share = 0.0
    """Least share of questions with known answers that a person must have answered so; the answers of others
    are left out. Who was asked none stays."""

    session: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: all)")] = None
    """Take answers to questions of this session only, such as a run's."""

    rating_pairs: Count = 5
    """Of ratings: how many comparisons with others of the same person are made out of each."""


@dataclass(frozen=True)
class _Row:
    """One comparison of two segments by one person."""

    question: int
    first: str
    second: str
    label: float | None
    """None: can't tell."""
    annotator: str


def export_preferences(store: LabelStore, settings: ExportSettings | None = None) -> Preferences:
    """Return the answers of a study as comparisons of its segments.

    Labels are the probability that the second segment, as posted, is preferred: 0, 0.5 for a tie, or 1;
    "can't tell" is a row of weight 0. A ranking becomes all its pairs. Ratings are compared within each
    person only, since people use scales differently: ``rating_pairs`` comparisons of each with others, drawn
    alike every time, equal ratings as ties; who can't tell gives none.

    Raises:
        ValueError: if there is nothing to export, a name in ``exclude`` is unknown, or ``min_agreement`` is
            asked of ratings.
    """
    import torch

    from prefrl.data import Preferences

    from .segments import stacked

    settings = settings or ExportSettings()
    taken = _Taken(store, settings)
    rows = [row for row in taken.rows() if row is not None]
    if not rows:
        raise ValueError(f"{store.folder} holds no answers about clips to export{taken.why()}")
    names = list(dict.fromkeys(row.annotator for row in rows))
    digests = sorted({digest for row in rows for digest in (row.first, row.second)})
    place = {digest: number for number, digest in enumerate(digests)}
    segments = stacked([store.segment(digest) for digest in digests])
    first, second = (
        torch.tensor([place[getattr(row, side)] for row in rows]) for side in ("first", "second")
    )
    labels = [UNSURE if row.label is None else row.label for row in rows]
    return Preferences(
        segments[first],
        segments[second],
        torch.tensor(labels, dtype=torch.float64),
        torch.tensor([float(row.label is not None) for row in rows], dtype=torch.float64),
        torch.tensor([names.index(row.annotator) for row in rows], dtype=torch.int64),
        tuple(escaped(name) for name in names),
        taken.metadata(len(rows)),
    ).validate()


class _Taken:
    """Which answers of a study are taken, and counts of the others."""

    def __init__(self, store: LabelStore, settings: ExportSettings):
        self.store, self.settings = store, settings
        self.study = store.study
        if self.study.kind == "rating" and settings.min_agreement > 0.0:
            raise ValueError(
                "min_agreement is for pairs and rankings; people use scales of ratings differently"
            )
        self.all = [found for found in store.current() if settings.session in (None, found.session)]
        known = {person.name: escaped(person.name) for person in store.annotators()}
        for name in settings.exclude:
            if name not in known and name not in known.values():
                raise ValueError(
                    f"exclude names {name!r}; the people are {', '.join(known.values()) or 'none'}"
                )
        self.excluded = {name for name, shown in known.items() if {name, shown} & set(settings.exclude)}
        self.inattentive = self._inattentive() - self.excluded
        opinions = regular(self.all)
        self.out = Counter[str]()
        self.answers = []
        for found in opinions:
            if found.annotator in self.excluded:
                self.out["excluded"] += 1
            elif found.annotator in self.inattentive:
                self.out["failed_checks"] += 1
            else:
                self.answers.append(found)
        self.opinions = len(opinions)
        self.disputed: set[int] = set()

    def _inattentive(self) -> set[str]:
        """Return who passed too few of the questions whose answer is known."""
        passed: dict[str, list[bool]] = defaultdict(list)
        for found in self.all:
            if found.check is not None and not found.practice:
                passed[found.annotator].append(found.check)
        return {name for name, checks in passed.items() if np.mean(checks) < self.settings.min_checks}

    def rows(self) -> list[_Row]:
        """Return one row for each comparison, in the order of the answers."""
        clips = [found for found in self.answers if found.items[0].segment is not None]
        if self.study.kind == "rating":
            return self._of_ratings(clips)
        rows = [row for found in clips for row in _comparisons(found)]
        return self._agreed(rows)

    def _agreed(self, rows: list[_Row]) -> list[_Row]:
        """Return the rows of comparisons that enough people agree about."""
        labels: dict[tuple[int, str, str], Counter[float]] = defaultdict(Counter)
        for row in rows:
            if row.label is not None:
                labels[row.question, row.first, row.second][row.label] += 1
        shares = {key: max(counts.values()) / counts.total() for key, counts in labels.items()}
        least = self.settings.min_agreement
        kept = [row for row in rows if shares.get((row.question, row.first, row.second), 1.0) >= least]
        self.out["comparisons_without_agreement"] = len(rows) - len(kept)
        self.disputed = {row.question for row in rows} - {row.question for row in kept}
        return kept

    def _of_ratings(self, answers: Sequence[CurrentAnswer]) -> list[_Row]:
        """Return comparisons of what each person rated."""
        rows = []
        for name in dict.fromkeys(found.annotator for found in answers):
            mine = [found for found in answers if found.annotator == name and found.rating is not None]
            order = np.random.default_rng(0).permutation(len(mine))
            for one, other in circle_pairs(len(mine), self.settings.rating_pairs):
                first, second = (mine[int(order[place])] for place in (one, other))
                assert first.rating is not None
                assert second.rating is not None
                label = 0.5 + 0.5 * float(np.sign(second.rating - first.rating))
                rows.append(_Row(second.question, _digest(first), _digest(second), label, name))
        return rows

    def counted(self) -> dict[str, Any]:
        """Return what became of everything that was asked and answered."""
        totals = self.store.totals()
        asked = [row for row in self.store.questions(self.settings.session)
                 if not row.practice and row.check_answer is None]  # fmt: skip
        checks = [found for found in self.all if found.check is not None and not found.practice]
        return {
            "questions": len(asked),
            "questions_answered": sum(row.answers > 0 for row in asked),
            "answers": self.opinions,
            "answers_skipped": sum(found.skip for found in regular(self.all)),
            "answers_late": sum(found.late for found in regular(self.all)),
            "answers_excluded": self.out["excluded"],
            "answers_of_failed_checks": self.out["failed_checks"],
            "answers_to_practice": sum(found.practice for found in self.all),
            "answers_to_repeats": sum(found.repeat_of is not None for found in self.all),
            "answers_to_checks": len(checks),
            "checks_failed": sum(not found.check for found in checks),
            "answers_undone_in_study": totals.undone,
            "comparisons_without_agreement": self.out["comparisons_without_agreement"],
            "questions_without_agreement": len(self.disputed),
        }

    def why(self) -> str:
        """Return what a person needs to know where nothing is left to be exported."""
        kinds = {
            True: "rankings of factors are written as .json",
            False: "answers about clips are written as .npz",
        }
        other = "".join(f"; {kinds[of_factors]}" for of_factors in {
            found.items[0].factor is not None for found in self.answers})  # fmt: skip
        counts = [f"{name.replace('_', ' ')} {count}" for name, count in self.counted().items() if count]
        return f"{other} ({', '.join(counts) or 'no questions'})"

    def metadata(self, rows: int) -> dict[str, Any]:
        """Return what the file says of itself."""
        study = self.study
        return {
            "teacher": "human", "source": "prefrl label", "question": study.question, "kind": study.kind,
            "environment": study.environment, "env_args": list(study.env_args), "comparisons": rows,
            **self.counted(), "min_agreement": self.settings.min_agreement,
            "min_checks": self.settings.min_checks, "session": self.settings.session,
            "excluded": sorted(map(escaped, self.excluded)),
            "inattentive": sorted(map(escaped, self.inattentive)),
        }  # fmt: skip


def _comparisons(found: CurrentAnswer) -> list[_Row]:
    """Return the comparisons that an answer to a pair or a ranking says."""
    if found.ranking is not None:
        said: list[tuple[int, int, float | None]] = list(ranking_pairs(found.ranking))
    elif found.kind == "ranking":
        count = len(found.items)
        said = [(first, second, None) for first in range(count) for second in range(first + 1, count)]
    else:
        said = [(0, 1, found.label)]
    return [_Row(found.question, _digest(found, one), _digest(found, other), label, found.annotator)
            for one, other, label in said]  # fmt: skip


def _digest(found: CurrentAnswer, place: int = 0) -> str:
    """Return the digest of a segment that was answered about."""
    digest = found.items[place].segment
    assert digest is not None
    return digest


def circle_pairs(count: int, steps: int) -> list[tuple[int, int]]:
    """Return pairs of places on a circle: each with the next ``steps``, or all pairs if these are no more."""
    if 2 * steps >= count - 1:
        return [(one, other) for one in range(count) for other in range(one + 1, count)]
    return [(one, (one + step) % count) for one in range(count) for step in range(1, steps + 1)]


# Factors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FactorRanking:
    """An order of factors that people's rankings agree with as far as can be."""

    ranking: tuple[str, ...]
    """The most important factor first."""
    answers: int
    """Rankings that it is made of."""
    annotators: tuple[str, ...]
    """Whose."""
    statements: int
    """What they say: one factor before another, or a tie."""
    agreeing: float
    """Those of them that the order agrees with; a tie counts one half."""
    best_orders: int
    """Orders that agree with as many: 1 if there is one best order."""
    skipped: int
    """Answers "can't tell"."""

    @property
    def flag(self) -> str:
        """What ``prefrl train heron`` takes."""
        return f"--ranking {shlex.quote(','.join(self.ranking))}"


def export_ranking(store: LabelStore, settings: ExportSettings | None = None) -> FactorRanking:
    """Return the order of factors that contradicts the answers of a study least (Kemeny's, exactly).

    Raises:
        ValueError: if nobody ranked factors, there are too many of them, or a name in ``exclude`` is unknown.
    """
    import torch

    from prefrl.functional.preferences.hierarchy import kemeny_order

    taken = _Taken(store, settings or ExportSettings())
    answers = [found for found in taken.answers if found.items[0].factor is not None]
    given = [found for found in answers if found.ranking is not None]
    if not given:
        raise ValueError(f"{store.folder} holds no rankings of factors to export{taken.why()}")
    names = sorted({item.factor or "" for found in given for item in found.items})
    before = torch.zeros(len(names), len(names), dtype=torch.float64)
    statements = 0
    for found in given:
        places = [names.index(item.factor or "") for item in found.items]
        for one, other, label in ranking_pairs(found.ranking or ()):
            before[places[one], places[other]] += 1.0 - label
            before[places[other], places[one]] += label
            statements += 1
    best = kemeny_order(before)
    people = dict.fromkeys(escaped(found.annotator) for found in given)
    return FactorRanking(tuple(names[place] for place in best.order), len(given), tuple(people), statements,
                         best.agreeing, best.best_orders, len(answers) - len(given))  # fmt: skip


# The command -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ExportCommand(ExportSettings):
    """Answers as a preference file that trains agents (.npz), or rankings of factors for HERON (.json)."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the study."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npz")]
    """The file to write: .npz, or .json for rankings of factors."""

    def run(self) -> None:
        """Write the file, print what is in it, and its path in the last line."""
        if self.out.suffix not in (".npz", ".json"):
            raise ValueError(
                f"out is {self.out}; its name must end in .npz, or .json for rankings of factors"
            )
        if not self.out.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {self.out.parent} for out")
        own = ExportSettings(
            self.min_agreement, self.exclude, self.min_checks, self.session, self.rating_pairs
        )
        with LabelStore.open(self.folder) as store:
            if self.out.suffix == ".json":
                _write_ranking(export_ranking(store, own), self.out)
            else:
                _write_preferences(export_preferences(store, own), self.out)
        print(self.out)


def _write_preferences(preferences: Preferences, out: Path) -> None:
    from prefrl.data import save_preferences

    save_preferences(out, preferences)
    _show([("comparisons", len(preferences)),
           ("first preferred", int((preferences.labels == 0.0).sum())),
           ("second preferred", int((preferences.labels == 1.0).sum())),
           ("weight 0 (can't tell)", int((preferences.weights == 0.0).sum())),
           ("people", ", ".join(preferences.annotator_names)),
           *((name, value) for name, value in preferences.metadata.items() if isinstance(value, int)
             and name != "comparisons")])  # fmt: skip
    if not (preferences.weights > 0.0).any():
        print("warning: nobody could tell anything: all weights are 0, and nothing can be learned from them",
              file=sys.stderr)  # fmt: skip


def _write_ranking(ranking: FactorRanking, out: Path) -> None:
    from prefrl.data.files.atomic import atomic_path

    content = {**asdict(ranking), "method": "Kemeny", "flag": ranking.flag}
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", "utf-8")
    shown = ("method", "answers", "skipped", "statements", "agreeing", "best_orders")
    _show([*((name, content[name]) for name in shown),
           ("people", ", ".join(ranking.annotators))])  # fmt: skip
    print(f"for prefrl train heron: {escaped(ranking.flag)}")  # in one line, to be copied


def _show(rows: Sequence[tuple[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(escape(name.replace("_", " ")), escape(str(value)))
    Console().print(table)
