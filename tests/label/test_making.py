"""Questions made of segments: different ones, every segment used, obvious ones among the others."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from prefrl.label.drawing import pictures_of
from prefrl.label.making import Pool, draw_groups, factor_question, make_questions, obvious_pairs
from prefrl.label.records import StoredSegment


def pool(count: int, returns: np.ndarray | None = None, pairs: tuple = ()) -> Pool:
    segments = [
        StoredSegment({"obs": np.full((2, 1), place), "actions": np.zeros(1), "terminated": np.array(False)})
        for place in range(count)
    ]
    return Pool(segments, returns, pairs)


@given(number=st.integers(2, 9), size=st.integers(1, 3), share=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_groups_are_different_groups_of_different_segments(
    number: int, size: int, share: float, seed: int
) -> None:
    possible = len(list(combinations(range(number), size)))
    count = round(share * possible)
    groups = draw_groups(number, count, size, np.random.default_rng(seed))
    assert len({frozenset(group) for group in groups}) == count
    assert all(len(set(group)) == size and set(group) <= set(range(number)) for group in groups)


def test_every_segment_is_used_before_one_is_used_again() -> None:
    groups = draw_groups(100, 50, 2, np.random.default_rng(0))
    assert Counter(place for group in groups for place in group) == dict.fromkeys(range(100), 1)


def test_more_questions_than_there_are_are_refused() -> None:
    with pytest.raises(
        ValueError, match="4 questions of 2 are wanted; of 3 different segments 3 can be made"
    ):
        make_questions(pool(3), "pair", 4)
    with pytest.raises(ValueError, match="3 questions are wanted; there are 2"):
        make_questions(pool(4, pairs=((0, 1), (2, 3))), "pair", 3)
    with pytest.raises(ValueError, match="there are no segments to ask about"):
        pool(0)
    with pytest.raises(ValueError, match="items is 13; a ranking has 2 to 12 clips"):
        make_questions(pool(20), "ranking", 1, items=13)


def test_obvious_pairs_are_the_worst_against_the_best() -> None:
    returns = np.array([0.0, 5.0, 5.1, 4.9, 5.0, 5.2, 10.0, 5.0, 0.5, 9.5])
    pairs = obvious_pairs(pool(10, returns), 2, np.random.default_rng(3))
    assert {frozenset(group) for group, _ in pairs} == {frozenset({0, 6}), frozenset({8, 9})}
    for (first, second), answer in pairs:
        assert answer == ("first" if returns[first] > returns[second] else "second")
    answers = [obvious_pairs(pool(10, returns), 2, np.random.default_rng(seed))[0][1] for seed in range(20)]
    assert set(answers) == {"first", "second"}
    with pytest.raises(
        ValueError, match="checks is 3; the true returns of 2 pairs of segments are far apart"
    ):
        obvious_pairs(pool(10, returns), 3, np.random.default_rng(3))
    with pytest.raises(ValueError, match="the true returns of 0 pairs"):
        obvious_pairs(pool(10, np.ones(10)), 1, np.random.default_rng(3))
    with pytest.raises(ValueError, match="checks is 1; no true returns are known"):
        make_questions(pool(10), "pair", 4, checks=1)
    with pytest.raises(ValueError, match="only pairs can be obvious"):
        make_questions(pool(10, returns), "rating", 4, checks=1)


def test_questions_are_practice_then_the_others_with_checks_among_them() -> None:
    segments = pool(60, np.r_[np.linspace(0, 1, 58), -100.0, 100.0])
    questions = make_questions(segments, "pair", 20, practice=3, checks=1, seed=1)
    keys = [question.key for question in questions]
    assert keys[:3] == ["practice/0", "practice/1", "practice/2"]
    assert [question.practice for question in questions] == [True] * 3 + [False] * 21
    assert keys[3:] == [*(f"pair/{i}" for i in range(10)), "check/0", *(f"pair/{i}" for i in range(10, 20))]
    assert [question.check_answer is not None for question in questions].count(True) == 1
    again = make_questions(segments, "pair", 20, practice=3, checks=1, seed=1)
    other = make_questions(segments, "pair", 20, practice=3, checks=1, seed=2)
    assert questions == again
    assert questions != other


def test_practice_is_of_pairs_whose_answer_is_known_as_far_as_there_are() -> None:
    returns = np.r_[np.linspace(0, 1, 56), -100.0, -90.0, 90.0, 100.0]
    questions = make_questions(pool(60, returns), "pair", 20, practice=3, checks=1, seed=1)
    tried = [question for question in questions if question.practice]
    assert [question.check_answer is not None for question in tried] == [True, False, False]
    assert {item.segment for item in tried[0].items} == {
        pool(60).segments[place].digest for place in (57, 58)
    }
    (check,) = [question for question in questions if question.key == "check/0"]
    assert {item.segment for item in check.items} == {pool(60).segments[place].digest for place in (56, 59)}
    for unknown in (pool(60), pool(60, np.ones(60)), pool(6, returns[54:], ((0, 1), (2, 3), (4, 5)))):
        some = make_questions(unknown, "pair", 1, practice=2)
        assert [question.check_answer for question in some] == [None] * 3
    assert make_questions(pool(60, returns), "rating", 5, practice=2)[0].check_answer is None


def test_pairs_that_belong_together_stay_together() -> None:
    segments = pool(6, pairs=((0, 1), (2, 3), (4, 5)))
    digests = [segment.digest for segment in segments.segments]
    for question in make_questions(segments, "pair", 3, seed=4):
        places = {digests.index(str(item.segment)) for item in question.items}
        assert places in ({0, 1}, {2, 3}, {4, 5})


def test_factors_make_one_question() -> None:
    question = factor_question(("speed", "cost"))
    assert [item.factor for item in question.items] == ["speed", "cost"]
    with pytest.raises(ValueError, match="there are 1 factors; 2 to 12 can be put in order"):
        factor_question(("speed",))


def test_observations_are_pictures_or_are_not() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pictures_of(colour), colour)
    np.testing.assert_array_equal(pictures_of(colour.transpose(0, 3, 1, 2)), colour)
    grey = pictures_of(colour[..., :1])
    assert grey is not None
    np.testing.assert_array_equal(grey, colour[..., :1].repeat(3, 3))
    np.testing.assert_array_equal(pictures_of(colour[..., 0]), grey)
    stacked = np.zeros((5, 12, 16, 4), np.uint8)
    for nothing in (stacked, colour.astype(float), np.zeros((5, 12), np.uint8), colour[:, :4]):
        assert pictures_of(nothing) is None
