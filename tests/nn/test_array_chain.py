"""What NumPy makes of a small stack is what torch makes of it."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from prefrl.nn import array_chain
from prefrl.nn.array_chain import ArrayChain
from prefrl.nn.mlp import Chain


def chain(*sizes: int, networks: int = 1, dtype: torch.dtype = torch.float32, **settings: str) -> Chain:
    """Return a stack whose weights are views of torch.nn.Linear's, as those of Q-networks are."""
    draws = torch.Generator().manual_seed(0)

    def layers() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (torch.randn(networks, out, entered, generator=draws, dtype=dtype).mT,
             torch.randn(networks, 1, out, generator=draws, dtype=dtype))
            for entered, out in pairwise(sizes)
        ]  # fmt: skip

    weights, biases = zip(*layers(), strict=True)
    return Chain(list(weights), list(biases), layers(), **settings)


@pytest.mark.parametrize("alone", [0, 200, 10**9], ids=["torch's products", "both", "numpy's products"])
def test_both_say_and_learn_the_same(alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_chain, "ALONE", alone)
    both = chain(4, 7, 6, 3)
    arrays, draws = ArrayChain(both), torch.Generator().manual_seed(1)
    x, slopes = torch.randn(5, 4, generator=draws), torch.randn(5, 3, generator=draws)
    record = both.record(x[None])
    flows = arrays.record(x.numpy())
    torch.testing.assert_close(torch.from_numpy(flows[-1]), record.outputs[0])
    both.pull(record, slopes[None])
    expected = [(weight.clone(), bias.clone()) for weight, bias in both.gradients]
    for weight, bias in both.gradients:
        weight.fill_(7.0), bias.fill_(7.0)
    given = x.clone()
    arrays.pull(flows, slopes.numpy())
    for (weight, bias), (wanted, wanted_bias) in zip(both.gradients, expected, strict=True):
        torch.testing.assert_close(weight, wanted)
        torch.testing.assert_close(bias, wanted_bias)
    assert torch.equal(x, given)


def test_its_memory_is_that_of_the_tensors() -> None:
    both = chain(4, 7, 3)
    arrays, x = ArrayChain(both), np.ones((2, 4), np.float32)
    before = arrays.record(x)[-1]
    both.biases[-1] += 1.0
    np.testing.assert_allclose(arrays.record(x)[-1], before + 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"networks": 2}, {"dtype": torch.float64}, {"activation": "tanh"}], ids=str
)
def test_others_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="one float32 network with ReLUs on the CPU"):
        ArrayChain(chain(4, 7, 3, **settings))  # type: ignore[arg-type]
