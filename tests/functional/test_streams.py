"""Streams of random numbers: a twin in plain Python, what they look like; neighbours do not count."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats
from torch import Tensor

from prefrl.functional.streams import Ahead, Streams, mix

CPU = torch.device("cpu")
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def twin_mix(z: int) -> int:
    """SplitMix64's finaliser, in numbers without sign."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def unsigned(values: Tensor) -> list[int]:
    return [value & MASK for value in values.tolist()]


def streams(*seeds: int, purpose: str = "test") -> Streams:
    return Streams(seeds, purpose, CPU)


@given(st.lists(st.integers(0, MASK), min_size=1))
def test_mixing_is_splitmix64s(numbers: list[int]) -> None:
    signed = torch.tensor([n - (1 << 64) if n >> 63 else n for n in numbers])
    assert unsigned(mix(signed)) == [twin_mix(n) for n in numbers]


def test_splitmix64s_published_numbers() -> None:
    """What Vigna's splitmix64.c gives for the seed 1234567: mix of the seed + n times the golden number."""
    places = torch.arange(1, 4) * (GOLDEN - (1 << 64)) + 1234567
    assert unsigned(mix(places)) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_are_those_of_the_formula() -> None:
    drawn = streams(3, 4)
    keys = unsigned(drawn.keys)
    for draw in (1, 2, 3):
        bits = drawn.bits(2, 3)
        assert bits.shape == (2, 2, 3)
        for key, row in zip(keys, bits, strict=True):
            at = twin_mix((key + draw * GOLDEN) & MASK)
            assert unsigned(row.flatten()) == [twin_mix((at + j * GOLDEN) & MASK) for j in range(1, 7)]
    assert drawn.count == 3


def test_floats_are_those_of_the_bits() -> None:
    bits = unsigned(streams(0).bits(1000)[0])
    uniform = [((b >> 41) + 0.5) / 2**23 for b in bits]
    assert streams(0).uniform(1000)[0].tolist() == uniform
    assert min(uniform) > 0.0
    assert max(uniform) < 1.0
    gumbel = [-math.log(-math.log(u)) for u in uniform]
    np.testing.assert_allclose(streams(0).gumbel(1000)[0], gumbel, rtol=1e-4, atol=1e-6)
    normal = [math.sqrt(-2.0 * math.log(a)) * math.cos(2.0 * math.pi * b)
              for a, b in zip(uniform[:500], uniform[500:], strict=True)]  # fmt: skip
    np.testing.assert_allclose(streams(0).normal(500)[0], normal, rtol=1e-4, atol=1e-5)
    assert streams(0).integers(7, 1000)[0].tolist() == [(b >> 1) % 7 for b in bits]


@pytest.mark.parametrize(("lowest", "bits"), [(0, 2**-24), (-1, 1.0 - 2**-24)])
def test_the_ends_of_the_uniform_numbers_have_finite_logarithms(
    lowest: int, bits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = streams(0)
    monkeypatch.setattr(Streams, "bits", lambda self, *shape: torch.full((1, *shape), lowest))
    assert drawn.uniform(3).tolist() == [[bits] * 3]
    assert drawn.gumbel(3).isfinite().all()
    assert drawn.normal(3).isfinite().all()


def test_they_look_as_they_should() -> None:
    drawn = streams(0, 1, 2)
    for make, law in ((drawn.uniform, stats.uniform), (drawn.normal, stats.norm),
                      (drawn.gumbel, stats.gumbel_r)):  # fmt: skip
        for row in make(20_000).numpy():
            assert stats.kstest(row, law.cdf).pvalue > 1e-3
    counts = torch.stack([row.bincount(minlength=5) for row in drawn.integers(5, 20_000)]).numpy()
    assert stats.chisquare(counts, axis=1).pvalue.min() > 1e-3
    each_bit = torch.stack([(drawn.bits(20_000) >> place) & 1 for place in range(64)]).double().mean(-1)
    assert (each_bit - 0.5).abs().max() < 5 * 0.5 / math.sqrt(20_000)


def test_neighbours_draws_and_purposes_are_unrelated() -> None:
    many = Streams(range(8), "test", CPU)  # seeds that differ in a bit
    rows = [*many.normal(4_000), *many.normal(4_000), *Streams(range(8), "other", CPU).normal(4_000)]
    correlations = np.corrcoef(torch.stack(rows).numpy()) - np.eye(len(rows))
    assert np.abs(correlations).max() < 5 / math.sqrt(4_000)


def test_a_stream_is_the_same_whoever_is_beside_it() -> None:
    alone, one, other = streams(5), streams(5, 6), streams(9, 8, 5, 7)
    for _ in range(3):
        row = alone.uniform(4, 2)[0]
        assert torch.equal(one.uniform(4, 2)[0], row)
        assert torch.equal(other.uniform(4, 2)[2], row)


def test_permutations_are_permutations_and_uniform() -> None:
    drawn = streams(0, 1)
    orders = torch.stack([drawn.permutations(4) for _ in range(3_000)])  # [draws, S, 4]
    assert torch.equal(orders.sort(-1).values, torch.arange(4).expand_as(orders))
    names = (orders * torch.tensor([64, 16, 4, 1])).sum(-1)
    for row in names.T:
        counts = row.unique(return_counts=True)[1].numpy()
        assert len(counts) == 24
        assert stats.chisquare(counts).pvalue > 1e-3
    assert drawn.permutations(1).tolist() == [[0], [0]]


def test_permutations_are_the_same_on_every_kind_of_device() -> None:
    keys = streams(3).bits(500)
    assert torch.equal(streams(3).permutations(500), keys.argsort(1))


def test_the_state_goes_on() -> None:
    first = streams(1, 2)
    first.uniform(3)
    state = first.state_dict()
    expected = first.normal(5)
    other = streams(7, 8)
    other.load_state_dict(state)
    assert torch.equal(other.normal(5), expected)


# Ahead ---------------------------------------------------------------------------------------------------


class Small(Ahead):
    """Three steps of five rows are a block."""

    NUMBERS = 3 * 5 * 16


def make(drawn: Streams, rows: int) -> Tensor:
    return drawn.uniform(rows, 2)


def test_ahead_gives_what_is_drawn_in_blocks_step_by_step() -> None:
    ahead, drawn = Small(streams(1, 2), make), streams(1, 2)
    for _ in range(2):
        block = drawn.uniform(15, 2).view(2, 3, 5, 2)
        for step in range(3):
            assert torch.equal(ahead.next(5), block[:, step])
    assert ahead.next(7).shape == (2, 7, 2)  # another number of rows begins anew
    assert ahead.streams.count == 3


def test_a_block_does_not_hang_on_the_number_of_streams() -> None:
    alone, many = Small(streams(5), make), Small(streams(4, 5, 6), make)
    for _ in range(5):
        assert torch.equal(many.next(5)[1], alone.next(5)[0])


@pytest.mark.parametrize("used", range(8))
@pytest.mark.parametrize("ahead_of_it", [0, 2, 5])
def test_the_state_of_a_block_goes_on(used: int, ahead_of_it: int) -> None:
    """Whatever the one that takes it over has done before."""
    first, other = Small(streams(1, 2), make), Small(streams(3, 4), make)
    for _ in range(used):
        first.next(5)
    for _ in range(ahead_of_it):
        other.next(5)
    state = first.state_dict()
    expected = [first.next(5) for _ in range(5)]
    other.load_state_dict(state)
    again: Any = other.state_dict()
    assert {**again, "keys": 0} == {**state, "keys": 0}
    assert torch.equal(again["keys"], state["keys"])
    assert all(torch.equal(other.next(5), step) for step in expected)


def test_a_state_beyond_its_block_is_refused() -> None:
    ahead = Small(streams(1), make)
    ahead.next(5)
    with pytest.raises(ValueError, match="used is 4; a block has 3 steps"):
        ahead.load_state_dict({**ahead.state_dict(), "used": 4})
