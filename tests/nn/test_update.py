"""Adam's step on a loss: beside torch's own, the cut of the gradient, compiled beside eager."""

import pytest
import torch
from torch import nn

from prefrl.nn.update import AdamUpdate


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def loss(network, x, y):
    error = (network(x) - y).square().mean()
    return error, {"train/loss": error.detach()}


def data(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(16, 3, generator=rng), 5.0 * torch.randn(16, 2, generator=rng)


@pytest.mark.parametrize("max_norm", [1e9, 0.1])
def test_steps_are_those_of_torch(max_norm):
    ours, theirs = make_network(), make_network()
    update = AdamUpdate(ours, loss, lr=0.01, eps=1e-7, max_grad_norm=max_norm)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01, eps=1e-7)
    for step in range(5):
        metrics = update.step(*data(step))
        value, _ = loss(theirs, *data(step))
        torch.testing.assert_close(metrics["train/loss"], value.detach())
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert not next(iter(metrics.values())).requires_grad


@pytest.mark.slow
def test_compiled_steps_are_the_eager_ones():
    networks = make_network(), make_network()
    eager, compiled = (
        AdamUpdate(network, loss, lr=0.01, eps=1e-8, max_grad_norm=1.0, compile=compile)
        for network, compile in zip(networks, (False, True), strict=True)
    )
    for step in range(4):
        if step == 2:
            compiled.forget_compiled()
        torch.testing.assert_close(eager.step(*data(step)), compiled.step(*data(step)))
    torch.testing.assert_close(eager.weights.vector, compiled.weights.vector)


def test_adams_state_is_taken_over_as_a_copy():
    first, second = (AdamUpdate(make_network(), loss, lr=0.01, eps=1e-8, max_grad_norm=1.0) for _ in range(2))
    first.step(*data())
    state = first.optimizer.state_dict()
    before = state["state"][0]["exp_avg"].clone()
    second.optimizer.load_state_dict(state)
    second.step(*data(1))
    assert torch.equal(state["state"][0]["exp_avg"], before)
    assert not torch.equal(second.optimizer.state_dict()["state"][0]["exp_avg"], before)
