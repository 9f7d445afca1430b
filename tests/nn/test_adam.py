"""Adam beside torch's: the same steps, states that go over from one to the other, and no compiler loaded."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prefrl.nn.adam import Adam, AdamOfEach, adam_step_

SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-4}


def parameters(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draws, dtype=dtype).requires_grad_() for shape in ((5,), (), (2, 3))]


def set_gradients(tensors: list[Tensor], seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=draws, dtype=tensor.dtype)


def torchs(tensors: list[Tensor]) -> torch.optim.Adam:
    return torch.optim.Adam(tensors, fused=True, **SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_torchs(dtype: torch.dtype) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    mine, reference = Adam(ours, **SETTINGS), torchs(theirs)
    for seed in range(5):
        set_gradients(ours, seed)
        set_gradients(theirs, seed)
        mine.step()
        reference.step()
    for one, other, start in zip(ours, theirs, parameters(dtype), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, start)


def test_a_decay_holds_for_its_part() -> None:
    (ours, *_), (head, *_), (tail, *_) = parameters(), parameters(), parameters()
    mine = Adam([ours], **SETTINGS, decays=[(slice(0, 2), 0.5), (slice(2, None), 0.0)])
    with_decay = torch.optim.Adam([head], fused=True, weight_decay=0.5, **SETTINGS)
    without = torchs([tail])
    for seed in range(3):
        for each, optimizer in ((ours, mine), (head, with_decay), (tail, without)):
            set_gradients([each], seed)
            optimizer.step()
    assert torch.equal(ours[:2], head[:2])
    assert torch.equal(ours[2:], tail[2:])
    assert not torch.equal(head, tail)


def test_the_step_written_out_is_the_fused_one() -> None:
    (ours, *_), (theirs, *_) = parameters(), parameters()
    state, reference = Adam([ours], **SETTINGS).states[0], torchs([theirs])
    compiled = torch.compile(adam_step_, backend="eager", fullgraph=True)
    for seed in range(5):
        set_gradients([ours], seed)
        set_gradients([theirs], seed)
        compiled(ours.detach(), ours.grad, state, **SETTINGS | {"lr": torch.tensor(SETTINGS["lr"])})
        reference.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    for name, value in reference.state[theirs].items():
        torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-7)


def test_one_goes_on_from_torchs_state_with_a_copy_of_its_own() -> None:
    ours, theirs = parameters(), parameters()
    mine, reference = Adam(ours, **SETTINGS), torchs(theirs)
    fresh = reference.state_dict()
    for seed in range(3):
        set_gradients(theirs, seed)
        reference.step()
    state = reference.state_dict()
    mine.load_state_dict(state)
    for one, other in zip(ours, theirs, strict=True):
        one.data.copy_(other.data)
    before = state["state"][0]["exp_avg"].clone()
    set_gradients(ours, 7)
    mine.step()
    assert torch.equal(state["state"][0]["exp_avg"], before)
    set_gradients(theirs, 7)
    reference.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert torch.equal(mine.state_dict()["state"][2]["exp_avg_sq"], reference.state[theirs[2]]["exp_avg_sq"])
    mine.load_state_dict(fresh)  # as torch's has none before its first step
    assert not any(value.any() for state in mine.states for value in state.values())


def test_averages_of_another_shape_are_refused() -> None:
    mine = Adam(parameters()[:1], **SETTINGS)
    state = Adam([torch.zeros(4)], lr=0.1).state_dict()
    with pytest.raises(ValueError, match=r"exp_avg is of shape \(4,\); it must be of shape \(5,\)"):
        mine.load_state_dict(state)


# The rows of a matrix ------------------------------------------------------------------------------------

SHARES = (1.0, 0.75, 0.5, 0.5, 0.25, 0.125, 0.0)
GOING = ((1, 1, 1), (1, 0, 1), (0, 0, 1), (1, 0, 1), (0, 0, 0), (1, 1, 0), (1, 1, 1))
"""Which of three rows go in each of the steps: the second stands still for long, all of them once."""


def of_each(dtype: torch.dtype = torch.float32, **settings: Any) -> AdamOfEach:
    draws = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 5, generator=draws, dtype=dtype).requires_grad_()
    vectors.grad = torch.zeros_like(vectors)
    return AdamOfEach(vectors, **{"rates": (1e-2, 1e-1, 1e-3), "betas": (0.8, 0.99), "eps": 1e-4, **settings})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rates", [1e-2, (1e-2, 1e-1, 1e-3)])
def test_every_row_is_a_run_of_torchs(dtype: torch.dtype, rates: Any) -> None:
    ours = of_each(dtype, rates=rates)
    (vectors,) = ours.parameters
    theirs = [row.detach().clone().requires_grad_() for row in vectors]
    steps = [rates] * 3 if isinstance(rates, float) else rates
    optimizers = [torch.optim.Adam([row], lr=lr, betas=(0.8, 0.99), eps=1e-4)
                  for row, lr in zip(theirs, steps, strict=True)]  # fmt: skip
    draws = torch.Generator().manual_seed(1)
    for share, going in zip(SHARES, GOING, strict=True):
        gradients = torch.randn(3, 5, generator=draws, dtype=dtype)
        going_now = torch.tensor(going, dtype=torch.bool)[:, None]
        before = vectors.detach().clone()
        assert vectors.grad is not None
        vectors.grad.copy_(torch.where(going_now, gradients, torch.nan))
        ours.step_of(going_now, share)
        for row, goes in enumerate(going):
            if not goes:
                assert torch.equal(vectors[row], before[row])
                continue
            theirs[row].grad = gradients[row]
            optimizers[row].param_groups[0]["lr"] = steps[row] * share
            optimizers[row].step()
    for row, (one, optimizer) in enumerate(zip(theirs, optimizers, strict=True)):
        torch.testing.assert_close(vectors[row].detach(), one.detach(), rtol=1e-5, atol=1e-7)
        for name, value in optimizer.state[one].items():
            found = ours.states[0][name][row]
            torch.testing.assert_close(found.reshape(value.shape), value.to(found), rtol=1e-5, atol=1e-9)


def test_a_row_that_stands_still_keeps_its_state() -> None:
    ours = of_each()
    (vectors,) = ours.parameters
    assert vectors.grad is not None
    vectors.grad.fill_(1.0)
    ours.step_of(torch.ones(3, 1, dtype=torch.bool))
    before = {name: value.clone() for name, value in ours.states[0].items()}
    vectors.grad[1] = torch.inf
    ours.step_of(torch.tensor([[True], [False], [True]]))
    for name, value in ours.states[0].items():
        assert torch.equal(value[1], before[name][1])
        assert not torch.equal(value[0], before[name][0])
    assert ours.states[0]["step"][:, 0].tolist() == [2.0, 1.0, 2.0]


def test_rows_go_on_from_their_state() -> None:
    first, other, all_of_them = of_each(), of_each(), torch.ones(3, 1, dtype=torch.bool)
    for seed in range(3):
        set_gradients(first.parameters, seed)
        first.step_of(all_of_them)
    other.load_state_dict(first.state_dict())
    other.parameters[0].data.copy_(first.parameters[0].data)
    for each in (first, other):
        set_gradients(each.parameters, 7)
        each.step_of(all_of_them)
    assert torch.equal(first.parameters[0], other.parameters[0])
    with pytest.raises(ValueError, match=r"step is of shape \(1, 1\); it must be of shape \(3, 1\)"):
        other.load_state_dict(AdamOfEach(torch.zeros(1, 5), rates=0.1).state_dict())
