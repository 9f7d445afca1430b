"""Any sequence of questions, answers, undos and requests sent twice leaves what a list of answers would."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from labelling_study import Clock, make_study, pair, request

from prefrl.label.records import Receipt, Showing

PEOPLE = st.integers(0, 2)
VALUES = st.sampled_from(["left", "right", "tie", "skip"])


class LabellingMachine(RuleBasedStateMachine):
    """Each person has a list of answers; an answer is put at its end, an undo takes it away."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock(self.patch)
        self.folder = tempfile.TemporaryDirectory()
        self.lists: list[list[tuple[int, str]]] = [[], [], []]
        self.showings: list[tuple[int, Showing]] = []
        self.over: set[int] = set()
        """Showings that something was answered to, taken back or not."""
        self.sent: list[tuple[int, str, Showing, str, Receipt]] = []
        self.undone: list[tuple[int, str, Showing | None]] = []
        self.given = 0

    @initialize(wanted=st.integers(1, 3), every=st.integers(0, 2), practice=st.integers(0, 1))
    def begin(self, wanted: int, every: int, practice: int) -> None:
        questions = [pair(0, practice=True), pair(1, check_answer="first"), *map(pair, range(2, 7))]
        self.store = make_study(Path(self.folder.name) / "s", questions, annotators_per_question=wanted,
                                repeat_every=every, practice=practice, lease_seconds=60)  # fmt: skip
        self.people = [self.store.add_annotator(name) for name in ("anna", "ben", "carl")]
        self.wanted = wanted

    @rule(who=PEOPLE, tab=st.sampled_from(["", "tab-00001", "tab-00002"]))
    def look(self, who: int, tab: str) -> None:
        found = self.store.next(self.people[who].id, tab=tab)
        if found is not None:
            assert found.question not in {question for question, _ in self.lists[who]}
            assert found.id not in self.over
            self.showings.append((who, found))

    @precondition(lambda self: self.showings)
    @rule(data=st.data(), value=VALUES)
    def answer(self, data: st.DataObject, value: str) -> None:
        who, showing = data.draw(st.sampled_from(self.showings))
        name = request()
        receipt = self.store.answer(self.people[who].id, name, showing.id, value, 1.0)
        answered = showing.question in {question for question, _ in self.lists[who]}
        expected = showing.id not in self.over and not answered
        assert (receipt.stored, receipt.duplicate) == (expected, not expected)
        if expected:
            self.lists[who].append((showing.question, value))
            self.over.add(showing.id)
            self.sent.append((who, name, showing, value, receipt))
            self.given += 1

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        who, name, showing, value, receipt = data.draw(st.sampled_from(self.sent))
        again = self.store.answer(self.people[who].id, name, showing.id, value, 1.0)
        assert again == Receipt(True, True, receipt.late)

    @rule(who=PEOPLE)
    def undo(self, who: int) -> None:
        name = request()
        found = self.store.undo(self.people[who].id, name)
        assert (found is None) == (not self.lists[who])
        if found is not None:
            assert (found.question, found.previous) == self.lists[who].pop()
            self.showings.append((who, found))
            self.undone.append((who, name, found))

    @precondition(lambda self: self.undone)
    @rule(data=st.data())
    def undo_again(self, data: st.DataObject) -> None:
        who, name, found = data.draw(st.sampled_from(self.undone))
        again = self.store.undo(self.people[who].id, name)
        assert again == (None if found is None or found.id in self.over else found)

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.turn(seconds)

    @invariant()
    def the_store_holds_the_lists(self) -> None:
        if not hasattr(self, "store"):
            return
        current = self.store.current()
        for who, person in enumerate(self.people):
            mine = [(found.question, found.value) for found in current if found.annotator == person.name]
            assert mine == self.lists[who]
        totals = self.store.totals()
        assert (totals.answers, totals.undone) == (self.given, self.given - len(current))
        counted: dict[int, int] = {}
        for found in current:
            counted[found.question] = counted.get(found.question, 0) + 1
        for row in self.store.questions():
            assert row.answers == counted.get(row.id, 0)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        self.folder.cleanup()
        self.patch.undo()


LabellingMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_any_sequence_equals_lists: Any = LabellingMachine.TestCase
