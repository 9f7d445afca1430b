"""Random numbers on a generator's device."""

import torch

from prefrl.functional.draws import integers, normal, permutation, uniform

CPU = torch.device("cpu")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_draws_are_those_of_torch() -> None:
    assert torch.equal(uniform(generator(), 2, 3, device=CPU), torch.rand(2, 3, generator=generator()))
    wide = uniform(generator(), 4, device=CPU, dtype=torch.float64)
    assert torch.equal(wide, torch.rand(4, generator=generator(), dtype=torch.float64))
    assert torch.equal(normal(generator(), 3, device=CPU), torch.randn(3, generator=generator()))
    ordered = permutation(generator(), 6, device=CPU)
    assert torch.equal(ordered, torch.randperm(6, generator=generator()))
    assert torch.equal(integers(generator(), 7, 9, device=CPU), torch.randint(7, (9,), generator=generator()))


def test_they_go_to_the_device_that_needs_them() -> None:
    there = torch.device("meta")
    for drawn in (uniform(generator(), 2, device=there), normal(generator(), 2, device=there)):
        assert drawn.device.type == "meta"
    assert integers(generator(), 3, 2, device=there).device.type == "meta"
    assert permutation(generator(), 3, device=there).device.type == "meta"
