"""Soft maxima over policies: bounds, limits, gradients, and the fused form against the plain one."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from prefrl.functional.value_based import policy_improvement
from prefrl.functional.value_based.policy_improvement import soft_maximum, soft_policy_improvement


def random_values(seed: int, *shape: int, scale: float = 5.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def test_soft_maximum_by_hand() -> None:
    values = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0], [-7.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([0.75 * math.log(3.0), 2.0], dtype=torch.float64)
    close(soft_maximum(values[:2], 1.0), expected)
    assert soft_maximum(values, 0.0).tolist() == [math.log(3.0), 2.0, 5.0]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.1, 1.0, 30.0]), st.integers(1, 9))
def test_soft_maximum_lies_just_below_the_maximum(seed: int, temperature: float, policies: int) -> None:
    values = random_values(seed, 6, policies)
    gap = values.amax(-1) - soft_maximum(values, temperature)
    assert (gap >= -1e-12).all()
    assert (gap <= temperature * math.log(policies) + 1e-12).all()
    if temperature == 1e-3:
        close(soft_maximum(values, temperature), values.amax(-1), atol=1e-3 * math.log(policies) + 1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 0.0, 2.0])
def test_extreme_values_stay_finite(temperature: float) -> None:
    values = torch.tensor([[1e6, -1e6, 0.0], [3.0, 3.0, -1e9]], dtype=torch.float64, requires_grad=True)
    result = soft_maximum(values, temperature)
    result.sum().backward()
    assert result.tolist() == [1e6, 3.0]
    assert values.grad is not None
    if temperature:
        assert values.grad.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_gradient_of_the_soft_maximum(temperature: float) -> None:
    values = random_values(1, 4, 5, scale=2.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: soft_maximum(v, temperature), values)
    result = soft_maximum(values, temperature)
    (gradient,) = torch.autograd.grad(result.sum(), values)
    share = torch.softmax(values / temperature, -1)
    close(gradient, (share * (1.0 + (values - result[:, None]) / temperature)).detach())


# The fused form ----------------------------------------------------------------------------------------


def plain(weights: Tensor, psi: list[Tensor], temperature: float) -> Tensor:
    """The same from soft_maximum, one MDP after the other."""
    result = torch.zeros(*weights.shape[:2], max(len(table) for table in psi), dtype=weights.dtype)
    for m, table in enumerate(psi):
        returns = torch.einsum("xpf,gf->gxp", table, weights[m])
        result[m, :, : len(table)] = soft_maximum(returns, temperature)
    return result


def problem(seed: int, scale: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Weights of 3 fits in each of 2 MDPs, of 5 places and 4 policies, and of 2 places and 6 policies."""
    weights = random_values(seed, 2, 3, 2, scale=scale)
    return weights, [random_values(seed + 1, 5, 4, 2, scale=scale), random_values(seed + 2, 2, 6, 2)]


@pytest.mark.parametrize("chunk", [1, 2**16])
@pytest.mark.parametrize("temperature", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_fused_equals_plain(
    monkeypatch: pytest.MonkeyPatch, scale: float, temperature: float, chunk: int
) -> None:
    monkeypatch.setattr(policy_improvement, "CHUNK_ELEMENTS", chunk)
    weights, psi = problem(0, scale)
    weights.requires_grad_()
    cotangent = random_values(9, 2, 3, 5)
    fused = soft_policy_improvement(weights, psi, temperature)
    (gradient,) = torch.autograd.grad((fused * cotangent).sum(), weights)
    expected = plain(weights, psi, temperature)
    (wanted,) = torch.autograd.grad((expected * cotangent).sum(), weights)
    size = 1.0 + expected.abs().max().item()
    close(fused, expected, atol=1e-13 * size)
    close(gradient, wanted, atol=1e-11 * size)
    assert not fused[1, :, 2:].any()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_fused_gradient_is_the_finite_difference(temperature: float) -> None:
    weights, psi = problem(4)
    weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: soft_policy_improvement(w, psi, temperature), weights)


def test_fused_leaves_its_inputs_alone() -> None:
    weights, psi = problem(5)
    copies = [weights.clone(), *(table.clone() for table in psi)]
    soft_policy_improvement(weights, psi, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(copies, [weights, *psi], strict=True))


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    weights, psi = problem(6)
    weights.requires_grad_()
    result = soft_policy_improvement(weights, psi, 0.5)
    cotangent = torch.ones_like(result, requires_grad=True)
    (gradient,) = torch.autograd.grad(result, weights, cotangent, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|not have been used"):
        torch.autograd.grad(gradient.sum(), weights)
