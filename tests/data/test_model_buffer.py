"""The ring of imagined transitions against a list."""

import pytest
import torch
from torch import Tensor

from prefrl.data.model_buffer import ModelBuffer

CPU = torch.device("cpu")


def rows(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(-1, 2)


def content(buffer: ModelBuffer) -> list[int]:
    """The rows, the oldest first."""
    filled, position = int(buffer.filled), int(buffer.position)
    places = [(position - filled + place) % buffer.capacity for place in range(filled)]
    return [int(value) for value in buffer.storage[places, 0]]


def test_it_keeps_the_newest_of_those_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    buffer, expected = ModelBuffer(10, 2, CPU), []
    for step in range(20):
        counts = torch.rand(7, generator=generator) < 0.6
        buffer.add(rows(7 * step, 7), counts)
        expected += [7 * step + place for place in range(7) if counts[place]]
        assert content(buffer) == expected[-10:]


@pytest.mark.parametrize("capacity", [3, 10, 25])
def test_resizing_keeps_the_newest(capacity: int) -> None:
    buffer = ModelBuffer(10, 2, CPU)
    for step in range(3):
        buffer.add(rows(6 * step, 6), torch.ones(6, dtype=torch.bool))
    buffer.resize(capacity)
    expected = list(range(8, 18))[-capacity:]
    assert content(buffer) == expected
    buffer.add(rows(100, 2), torch.ones(2, dtype=torch.bool))
    assert content(buffer) == [*expected, 100, 101][-capacity:]


def test_samples_are_uniform_over_what_there_is() -> None:
    buffer = ModelBuffer(1000, 2, CPU)
    buffer.add(rows(1, 5), torch.tensor([True, False, True, True, True]))
    found = buffer.sample(40_000, torch.Generator().manual_seed(0))[:, 0].long().bincount(minlength=6)
    assert found[[0, 2]].tolist() == [0, 0]
    assert (found[[1, 3, 4, 5]] - 10_000).abs().max() < 400


def test_an_empty_one_gives_zeros_and_a_dead_rollout_adds_nothing() -> None:
    buffer = ModelBuffer(4, 2, CPU)
    buffer.add(rows(1, 3), torch.zeros(3, dtype=torch.bool))
    buffer.add(torch.full((2, 2), torch.nan), torch.zeros(2, dtype=torch.bool))
    for capacity in (4, 7, 3):
        buffer.resize(capacity)
        assert content(buffer) == []
        assert not buffer.sample(5, torch.Generator()).any()


def test_it_goes_on_from_its_state() -> None:
    buffer, other = ModelBuffer(10, 2, CPU), ModelBuffer(1, 2, CPU)
    buffer.add(rows(0, 7), torch.ones(7, dtype=torch.bool))
    other.load_state_dict(buffer.state_dict())
    other.add(rows(7, 6), torch.ones(6, dtype=torch.bool))
    assert content(other) == list(range(3, 13))
    assert content(buffer) == list(range(7))  # another one


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="capacity is 0"):
        ModelBuffer(0, 2, CPU)
    with pytest.raises(ValueError, match="5 rows are added to a buffer of 4"):
        ModelBuffer(4, 2, CPU).add(rows(0, 5), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="rows have 2 numbers; this buffer's have 3"):
        ModelBuffer(4, 3, CPU).load_state_dict(ModelBuffer(4, 2, CPU).state_dict())
