"""Products of low precision: who has them, what is warned of, and what is rounded."""

import warnings
from typing import Any

import pytest
import torch

from prefrl.data import devices as precision
from prefrl.data.devices import low_dtype
from prefrl.nn.mlp import pull_layers, record_layers

CPU = torch.device("cpu")


def test_who_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert low_dtype("float32", CPU, (8,)) is None
        assert low_dtype("bf16", CPU, (64, 256)) is torch.bfloat16
    with pytest.warns(UserWarning, match=r"hidden layers of \[64, 64\]; below 256 'float32' is as fast"):
        low_dtype("bf16", CPU, (64, 64))
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    with pytest.warns(UserWarning, match="cpu has no fast products of bfloat16"):
        assert low_dtype("bf16", CPU, (256,)) is torch.bfloat16


@pytest.mark.parametrize("answers", [(True, False), (False, True), (False, False)])
def test_a_processor_has_it_by_either_set_of_instructions(
    answers: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, answer in zip(("avx512_bf16", "amx_tile"), answers, strict=True):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda answer=answer: answer, raising=False)
    assert precision.has_fast_bf16(CPU) is any(answers)
    for name in ("avx512_bf16", "amx_tile"):  # another version of torch
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported")
    assert precision.has_fast_bf16(CPU) is False


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("outputs", [1, 3, 20])
def test_numbers_flow_in_it_and_come_out_as_they_went_in(activation: Any, outputs: int) -> None:
    draws = torch.Generator().manual_seed(0)
    sizes = [(5, 64), (64, 64), (64, outputs)]
    weights = [torch.randn(2, a, b, generator=draws) / a**0.5 for a, b in sizes]
    biases = [torch.randn(2, 1, b, generator=draws) for _, b in sizes]
    x = torch.randn(2, 300, 5, generator=draws)
    slopes = torch.randn(2, 300, outputs, generator=draws)
    found = []
    for low in (None, [weight.to(torch.bfloat16) for weight in weights]):
        gradients = [(torch.empty_like(w), torch.empty_like(b)) for w, b in zip(weights, biases, strict=True)]
        record = record_layers(x, weights, biases, activation, low)
        of_inputs = pull_layers(record, slopes, gradients, activation, inputs=slice(1, 4))
        doubled = [(w.clone(), b.clone()) for w, b in gradients]
        pull_layers(record, slopes, doubled, activation, add=True)
        assert of_inputs is not None
        found.append([record.outputs, of_inputs, *(part for pair in gradients for part in pair)])
        for (weight, bias), (twice, both) in zip(gradients, doubled, strict=True):
            torch.testing.assert_close(twice, 2 * weight, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(both, 2 * bias, rtol=1e-2, atol=1e-2)
    assert record.flows[1].dtype is torch.bfloat16
    for wanted, low_one in zip(*found, strict=True):
        assert low_one.dtype is torch.float32
        error = (wanted - low_one).norm() / wanted.norm()
        assert 0 < error < 0.1  # where a ReLU is on or off may be rounded too
