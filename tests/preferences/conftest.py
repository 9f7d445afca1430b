"""Valuations for tests of models and teachers."""

from collections.abc import Callable

import pytest
import torch

from prefrl.preferences import Valuation

MakeValuation = Callable[..., Valuation]


def make_valuation(seed: int, count: int = 7, length: int = 4, leading: tuple[int, ...] = ()) -> Valuation:
    """Random numbers along segments of 1 to ``length`` transitions."""
    generator = torch.Generator().manual_seed(seed)

    def draw(columns: int) -> torch.Tensor:
        return torch.randn(*leading, count, columns, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, length + 1, (count, 1), generator=generator)
    return Valuation(draw(length), torch.arange(length) < lengths, draw(length + 1), draw(length))


@pytest.fixture(scope="session")
def valuation() -> MakeValuation:
    """:func:`make_valuation`."""
    return make_valuation


@pytest.fixture(scope="session")
def score() -> Callable[..., Valuation]:
    """Valuations of one transition each, whose partial returns are given."""

    def of(*rewards: float) -> Valuation:
        column = torch.tensor(rewards, dtype=torch.float64)[:, None]
        nothing = torch.zeros(len(rewards), 2, dtype=torch.float64)
        return Valuation(column, torch.ones_like(column) > 0, nothing, nothing[:, :1])

    return of
