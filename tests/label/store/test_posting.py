"""What is put into a study, and who may answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling_study import clip, make_study, pair, segment

from prefrl.label.records import Item, NewQuestion, StudySettings
from prefrl.label.store import LabelStore
from prefrl.label.store.packing import packed, unpacked


def items(count: int) -> tuple[Item, ...]:
    return tuple(Item(segment(number).digest) for number in range(count))


def test_posting_again_changes_nothing(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 2)
    totals, rows = store.totals(), store.questions()
    assert store.post([segment(0)], [pair(0), replace(pair(1), key="q0", priority=9.0), pair(1)]) == 0
    assert (store.totals(), store.questions()) == (totals, rows)
    assert store.post([], [NewQuestion(items(2), "new")]) == 1
    assert store.questions()[-1].ready  # its clips are there already


def test_the_order_of_asking(tmp_path: Path) -> None:
    questions = [pair(0), pair(1, priority=1.0), pair(2, priority=-1.0), pair(3, priority=1.0)]
    store = make_study(tmp_path / "s", questions)
    anna = store.add_annotator("anna").id
    found = [showing.question for _ in range(4) if (showing := store.next(anna)) is not None]
    assert found == [2, 4, 1, 3]


@pytest.mark.parametrize(
    ("kind", "question", "message"),
    [
        ("pair", NewQuestion(items(3), "k"), "has 3 items; a pair has 2"),
        ("ranking", NewQuestion(items(1), "k"), "a ranking has 2 to 12"),
        ("rating", NewQuestion(items(2), "k"), "a rating has 1"),
        ("pair", NewQuestion((Item(factor="a"), Item(factor="b")), "k"), "only a ranking may"),
        ("ranking", NewQuestion((Item(factor="a"), *items(1)), "k"), "all its items must be factors"),
        ("ranking", NewQuestion((Item(factor="a"), Item(factor="a")), "k"), "names a factor twice"),
        ("ranking", NewQuestion((Item(factor="a"), Item(factor="")), "k"), "a factor is ''"),
        ("pair", NewQuestion(items(2), ""), "key is ''"),
        ("pair", NewQuestion(items(2), "x" * 201), "key is"),
        ("pair", NewQuestion(items(2), "a\0"), "must hold no null"),
        ("pair", NewQuestion(items(2), "\ud800"), "half characters"),
        ("pair", NewQuestion(items(2), "k", session="x" * 201), "session is"),
        ("pair", NewQuestion(items(2), "k", priority=float("nan")), "priority is nan"),
        ("pair", NewQuestion(items(2), "k", check_answer="left"), "check_answer is 'left'"),
        ("rating", NewQuestion(items(1), "k", check_answer="6"), "check_answer: value is 6"),
        ("ranking", NewQuestion(items(2), "k", check_answer="skip"), "check_answer: value is 'skip'"),
        ("pair", NewQuestion((Item("0" * 64), Item("1" * 64)), "k"), "which is not there"),
        ("pair", "question", "must be a NewQuestion"),
    ],
)
def test_wrong_questions_are_refused(tmp_path: Path, kind: Any, question: Any, message: str) -> None:
    store = LabelStore.create(tmp_path / "s", StudySettings(kind=kind))
    with pytest.raises(ValueError, match=message):
        store.post([segment(number) for number in range(3)], [question])
    assert store.totals().segments == store.totals().questions == 0


@pytest.mark.parametrize("given", [{}, {"segment": "a", "factor": "b"}])
def test_an_item_is_one_thing(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="either a segment or a factor"):
        Item(**given)


def test_the_first_clip_of_a_segment_stays(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 1, rendered=False)
    digest = segment(0).digest
    store.put_clip(digest, clip(1))
    store.put_clip(digest, clip(2))
    assert store.clip(clip(1).digest) == clip(1)
    assert store.clip(clip(2).digest) is None
    assert store.clip("'; DROP TABLE clip; --") is None
    with pytest.raises(LookupError, match="there is no segment"):
        store.put_clip("nothing", clip(1))
    for changed in ({"media": b""}, {"media": "text"}, {"mime": "text/html\r\nX: y"}, {"mime": ""},
                    {"frames": 0}, {"width": -1}, {"height": 0}, {"fps": float("nan")}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(changed))):
            store.put_clip(segment(1).digest, replace(clip(3), **changed))


def test_links_are_used_once_and_only_hashes_are_kept(tmp_path: Path) -> None:
    store = make_study(tmp_path / "s", 1)
    anna, ben = store.add_annotator("anna"), store.add_annotator("  ben ")
    assert store.annotators() == [anna, ben]
    assert ben.name == "ben"
    assert store.add_annotator("anna") == anna
    token = store.new_link(anna)
    assert len(token) == 22  # 128 bits
    cookie = store.exchange(token)
    assert cookie is not None
    assert store.exchange(token) is None
    assert store.annotator_of(cookie) == anna
    assert store.annotator_of(token) is None
    assert store.exchange(cookie) is None
    other = store.exchange(store.new_link(ben))
    assert other is not None
    assert store.annotator_of(other) == ben
    assert len({token, cookie, other}) == 3
    for wrong in ("", "x", cookie[:-1], cookie + "=", "ä" * 22, "\ud800" * 22, "x" * 10**6, None, b"x"):
        assert store.annotator_of(wrong) is None  # type: ignore[arg-type]
        assert store.exchange(wrong) is None  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="there is no annotator 99"):
        store.new_link(99)
    store.close()
    content = (tmp_path / "s" / "labels.sqlite3").read_bytes()
    for secret in (token, cookie, other):
        assert secret.encode() not in content


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\0b", "\ud800", None, 3])
def test_wrong_names_are_refused(tmp_path: Path, name: Any) -> None:
    store = LabelStore.create(tmp_path / "s", StudySettings())
    with pytest.raises(ValueError, match="the name of an annotator"):
        store.add_annotator(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 321}, "width is 321; it must be even"),
        ({"height": 15}, "height is 15"),
        ({"question": " "}, "question is empty"),
        ({"question": "x" * 501}, "question has 501 characters"),
        ({"instructions": "x" * 20_001}, "instructions has 20001 characters"),
        ({"env_args": ("g",)}, "env_args has 'g'; each must be NAME=VALUE"),
        ({"kind": "poem"}, "kind is 'poem'"),
        ({"ratings": 1}, "ratings is 1"),
        ({"lease_seconds": 0}, "lease_seconds is 0"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudySettings(**given)


def test_packed_arrays_are_equal_bytes_and_nothing_else_is_read() -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array(True)}
    assert packed(arrays) == packed(dict(arrays))
    back = unpacked(packed(arrays, compressed=True))
    assert all(np.array_equal(back[name], value) for name, value in arrays.items())
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        packed({"a": np.array([None])})
    for wrong in (b"", "text", None):
        with pytest.raises(ValueError, match="must be"):
            unpacked(wrong)


def test_a_study_is_there_with_its_first_questions_or_not_at_all(tmp_path: Path) -> None:
    one = segment(0)
    good = NewQuestion((Item(one.digest), Item(one.digest)), "good")
    for bad in (NewQuestion((Item(one.digest),), "bad"), NewQuestion((Item(one.digest), Item("x")), "bad")):
        with pytest.raises(ValueError, match=r"bad|which is not there"):
            LabelStore.create(tmp_path / "s", StudySettings(), [one], [good, bad])
        assert not (tmp_path / "s").exists() or not list((tmp_path / "s").iterdir())
    with LabelStore.create(tmp_path / "s", StudySettings(), [one], [good]) as store:
        assert [row.key for row in store.questions()] == ["good"]
