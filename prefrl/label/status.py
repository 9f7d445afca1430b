"""``prefrl label status``: how far a study is, who answered how, and whether people agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .notes import rendering_error
from .records import CurrentAnswer, Kind, QuestionRow, Totals, escaped
from .store import LabelStore
from .store.values import meaning

if TYPE_CHECKING:
    from rich.table import Table

LEVEL = 0.95
"""Share of intervals that hold the true share."""


@dataclass(frozen=True)
class PersonStatus:
    """How one person answered. Practice is left out; repeats and checks count where they are named only."""

    name: str
    answers: int
    """Answers to questions, "can't tell" among them."""
    median_seconds: float | None
    """Of these, from showing to answer; None without answers."""
    left: int
    """Of pairs, times that the left side was preferred, repeats and checks included."""
    right: int
    """The same of the right side."""
    left_share: float | None
    """left / (left + right); .5 without a leaning, since a coin decides what is on the left."""
    left_interval: tuple[float, float] | None
    """Interval of this share (exact binomial, 95 %)."""
    left_p: float | None
    """How likely a share at least this far from .5 is by chance."""
    ties: int
    """Ties: of pairs, and of rankings whose items are all in one group."""
    skips: int
    """Answers "can't tell"."""
    late: int
    """Answers after their lease was over."""
    repeats: int
    """Questions that were asked again, where both answers stand."""
    repeats_agreed: int
    """Those of them that were answered as before."""
    checks: int
    """Questions whose answer is known."""
    checks_passed: int
    """Those of them that were answered so."""


@dataclass(frozen=True)
class PairStatus:
    """How far two people agree; who can't tell says nothing."""

    names: tuple[str, str]
    questions: int
    """Statements of both about the same: pairs, pairs out of rankings, or ratings of one clip."""
    agreed: float | None
    """Share of them that are the same."""
    kappa: float | None
    """Cohen's kappa over left out chance; of ratings with squared distances."""


@dataclass(frozen=True)
class StudyStatus:
    """How a study stands."""

    question: str
    kind: Kind
    totals: Totals
    answered: int
    """Questions with an answer, without practice, checks and repeats."""
    finished: int
    """Those of them that as many people as wanted have answered."""
    people: tuple[PersonStatus, ...]
    """Who answered anything, in the order of their first answers."""
    pairs: tuple[PairStatus, ...]
    """Every two people who answered the same question."""
    alpha: float | None
    """Krippendorff's alpha of all people, with squared differences, of pairs and rankings; None without two
    answers of different people to a question."""


def study_status(store: LabelStore) -> StudyStatus:
    """Return how a study stands now."""
    return status_of(store.study.question, store.study.kind, store.study.annotators_per_question,
                     store.current(), store.questions(), store.totals())  # fmt: skip


def status_of(
    question: str,
    kind: Kind,
    wanted: int,
    answers: Sequence[CurrentAnswer],
    questions: Sequence[QuestionRow],
    totals: Totals,
) -> StudyStatus:
    """Return how a study stands, out of what is in its store.

    Args:
        question: what is asked.
        kind: what kind of question it is.
        wanted: answers that each question needs.
        answers: those that stand.
        questions: all of them.
        totals: counts.
    """
    real = [answer for answer in answers if not answer.practice]
    names = list(dict.fromkeys(answer.annotator for answer in real))
    asked = [row for row in questions if not row.practice and row.check_answer is None]
    said = statements(real)
    return StudyStatus(
        question, kind, totals,
        sum(row.answers > 0 for row in asked),
        sum(row.answers >= wanted for row in asked),
        tuple(_person(name, [answer for answer in real if answer.annotator == name]) for name in names),
        tuple(_agreements(names, said, kind)),
        _alpha(said) if kind != "rating" else None,
    )  # fmt: skip


def regular(answers: Sequence[CurrentAnswer]) -> list[CurrentAnswer]:
    """Return answers that are opinions: no practice, no repeats, no questions whose answer is known."""
    return [found for found in answers
            if not found.practice and found.repeat_of is None and found.check is None]  # fmt: skip


def statements(answers: Sequence[CurrentAnswer]) -> dict[str, dict[tuple[int, int, int], float]]:
    """Return for each person what they said about what: (question, place, place) -> label, or rating."""
    found: dict[str, dict[tuple[int, int, int], float]] = {}
    for answer in regular(answers):
        mine = found.setdefault(answer.annotator, {})
        if answer.rating is not None:
            mine[answer.question, 0, 0] = float(answer.rating)
        elif answer.label is not None:
            mine[answer.question, 0, 1] = answer.label
        elif answer.ranking is not None:
            for first, second, label in ranking_pairs(answer.ranking):
                mine[answer.question, first, second] = label
    return found


def ranking_pairs(ranking: Sequence[Sequence[int]]) -> list[tuple[int, int, float]]:
    """Return every two places of a ranking, the lower one first, and the label: 1 if the second is better."""
    rank = {place: level for level, group in enumerate(ranking) for place in group}
    return [(first, second, 0.5 + 0.5 * ((rank[second] < rank[first]) - (rank[second] > rank[first])))
            for first, second in combinations(sorted(rank), 2)]  # fmt: skip


def _person(name: str, answers: Sequence[CurrentAnswer]) -> PersonStatus:
    """Return how one person answered what was no practice."""
    from scipy.stats import binomtest

    first = regular(answers)
    left, right = (sum(found.value == side for found in answers) for side in ("left", "right"))
    test = binomtest(left, left + right) if left + right else None
    by_question = {found.question: found for found in first}
    twice = [(by_question[found.repeat_of], found) for found in answers if found.repeat_of in by_question]
    checks = [found.check for found in answers if found.check is not None]
    interval = None if test is None else test.proportion_ci(LEVEL)
    return PersonStatus(
        name=name,
        answers=len(first),
        median_seconds=median(found.seconds for found in first) if first else None,
        left=left,
        right=right,
        left_share=None if test is None else left / (left + right),
        left_interval=None if interval is None else (float(interval.low), float(interval.high)),
        left_p=None if test is None else float(test.pvalue),
        ties=sum(found.label == 0.5 or (found.ranking is not None and len(found.ranking) == 1)
                 for found in first),
        skips=sum(found.skip for found in first),
        late=sum(found.late for found in first),
        repeats=len(twice),
        repeats_agreed=sum(_same(one, other) for one, other in twice),
        checks=len(checks),
        checks_passed=sum(checks),
    )  # fmt: skip


def _same(one: CurrentAnswer, other: CurrentAnswer) -> bool:
    """Whether two answers say the same about the stored places."""
    return meaning(one.kind, one.value, one.places) == meaning(other.kind, other.value, other.places)


def _agreements(
    names: Sequence[str], said: dict[str, dict[tuple[int, int, int], float]], kind: Kind
) -> list[PairStatus]:
    import torch

    from prefrl.functional.preferences.general_models.agreement import cohen_kappa

    found = []
    for one, other in combinations(names, 2):
        mine, theirs = said.get(one, {}), said.get(other, {})
        common = sorted(mine.keys() & theirs.keys())
        if not common:
            continue
        first, second = (torch.tensor([whose[key] for key in common], dtype=torch.float64)
                         for whose in (mine, theirs))  # fmt: skip
        agreed = float((first == second).double().mean())
        kappa = cohen_kappa(first, second, squared=kind == "rating")
        found.append(PairStatus((one, other), len(common), agreed, kappa))
    return found


def _alpha(said: dict[str, dict[tuple[int, int, int], float]]) -> float | None:
    """Return Krippendorff's alpha of what people said; None if no two said anything about the same."""
    import torch

    from prefrl.functional.preferences.general_models.agreement import agreement

    rows = [(key, who, label) for who, mine in enumerate(said.values()) for key, label in mine.items()]
    if not rows:
        return None
    number = {key: place for place, key in enumerate(sorted({key for key, _, _ in rows}))}
    found = agreement(
        torch.tensor([number[key] for key, _, _ in rows]),
        torch.tensor([label for _, _, label in rows], dtype=torch.float64),
        torch.tensor([who for _, who, _ in rows]),
    )
    return None if found is None else found.alpha


# The command -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StatusCommand:
    """How far a study is: answers of each person, their leanings, and whether they agree."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the study."""

    def run(self) -> None:
        """Print tables, write status.json into the folder, and print its path in the last line."""
        from rich.console import Console

        from prefrl.data.files.atomic import atomic_path

        with LabelStore.open(self.folder) as store:
            status = study_status(store)
        for table in status_tables(status):
            Console().print(table)
        if (problem := rendering_error(self.folder)) is not None:
            print(f"warning: {escaped(problem)}", file=sys.stderr)
        path = self.folder / "status.json"
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(as_json(status), indent=2, allow_nan=False) + "\n", "utf-8")
            temporary.chmod(0o600)
        print(path)


def as_json(status: StudyStatus) -> dict[str, Any]:
    """Return a status as JSON values, names with control characters written out."""
    content = asdict(status)
    for person in content["people"]:
        person["name"] = escaped(person["name"])
    for pair in content["pairs"]:
        pair["names"] = [escaped(name) for name in pair["names"]]
    return content


def _text(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _of(count: int, all_of: int) -> str:
    return f"{count} of {all_of}" if all_of else "-"


def status_tables(status: StudyStatus) -> list[Table]:
    """Return the tables that ``prefrl label status`` prints."""
    from rich.markup import escape
    from rich.table import Table

    totals = status.totals
    whole = Table(show_header=False, title=escape(escaped(status.question)), title_justify="left")
    asked = totals.questions - totals.practice - totals.checks
    for name, value in (("questions", f"{asked}, and {totals.practice} for practice, {totals.checks} checks"),
                        ("with all clips", _of(totals.ready, totals.questions)),
                        ("answered", f"{_of(status.answered, asked)}, {status.finished} by all wanted"),
                        ("answers taken back", str(totals.undone)),
                        ("alpha of all people", _text(status.alpha))):  # fmt: skip
        whole.add_row(name, value)
    people = Table("who", "answers", "median s", "ties", "can't tell", "late", title="People",
                   title_justify="left")  # fmt: skip
    care = Table("who", "left", "95 %", "p", "repeats agreed", "checks passed", title="Sides and care",
                 title_justify="left")  # fmt: skip
    for person in status.people:
        name, ends = escape(escaped(person.name)), person.left_interval
        counts = (str(count) for count in (person.ties, person.skips, person.late))
        people.add_row(name, str(person.answers), _text(person.median_seconds, ".1f"), *counts)
        interval = "-" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"
        repeats, checks = (_of(*each) for each in ((person.repeats_agreed, person.repeats),
                                                   (person.checks_passed, person.checks)))  # fmt: skip
        care.add_row(name, _text(person.left_share), interval, _text(person.left_p, ".3f"), repeats, checks)
    pairs = Table(
        "who", "and who", "both answered", "the same", "kappa", title="Agreement", title_justify="left"
    )
    for pair in status.pairs:
        one, other = (escape(escaped(name)) for name in pair.names)
        pairs.add_row(one, other, str(pair.questions), _text(pair.agreed), _text(pair.kappa))
    for table in (people, care, pairs):
        for column in table.columns:
            column.overflow = "fold"  # a long name takes several lines
    return [whole, *([people, care] if status.people else []), *([pairs] if status.pairs else [])]
