"""Generators that go on from saved states, those of another device, and damaged ones."""

import pytest
import torch

from prefrl.data.devices import restore_generator


def test_a_generator_goes_on_from_its_state() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    later = generator.get_state()
    first = torch.rand(3, generator=generator)
    restore_generator(generator, later)
    assert torch.equal(torch.rand(3, generator=generator), first)


def test_a_generator_of_another_device_is_left_as_it_was_seeded() -> None:
    generator = torch.Generator().manual_seed(3)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(3))
    restore_generator(generator, torch.zeros(16, dtype=torch.uint8))  # as CUDA's
    assert torch.equal(torch.rand(3, generator=generator), expected)


@pytest.mark.parametrize("state", [
    torch.zeros(0, dtype=torch.uint8), torch.zeros(15, dtype=torch.uint8), torch.zeros(16),
    torch.zeros(16, dtype=torch.int64), torch.zeros(5055, dtype=torch.uint8),
    torch.zeros(5056, dtype=torch.uint8), torch.Generator().get_state()[:-1],
    torch.Generator().get_state().float(),
], ids=lambda state: f"{state.dtype}-{state.numel()}")  # fmt: skip
def test_a_damaged_state_is_refused(state: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    with pytest.raises((RuntimeError, TypeError)):
        restore_generator(generator, state)
