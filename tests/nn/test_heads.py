"""Heads: where they start, what they decode to, and that they agree with plain layers."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from prefrl.functional.value_based.value_distributions import (
    atoms,
    bin_centers,
    bin_edges,
    cross_entropy,
    entropy,
    expected_value,
    quantile_huber_loss,
    two_hot_probs,
)
from prefrl.nn import CategoricalHead, Head, QuantileHead, ScalarHead, flattest_log_probs

SUPPORT = atoms(-10.0, 40.0, 51)
HEADS: dict[str, Callable[..., Head]] = {
    "scalar": ScalarHead,
    "categorical": lambda inputs, actions, **dueling: CategoricalHead(inputs, actions, SUPPORT, **dueling),
    "quantile": lambda inputs, actions, **dueling: QuantileHead(inputs, actions, 9, **dueling),
}
PLACES = {"scalar": 1, "categorical": 51, "quantile": 9}


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def shaken(head: Head) -> Head:
    """With random weights in place of the initial ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return head


# Outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_outputs_are_those_of_plain_layers(name: str, dueling: bool) -> None:
    head, m = shaken(HEADS[name](6, 4, dueling=dueling)), PLACES[name]
    features = torch.randn(5, 6)
    (linear,) = [module for module in head.modules() if isinstance(module, nn.Linear)]
    assert sum(p.numel() for p in head.parameters()) == (4 + dueling) * m * 7
    rows = [features @ linear.weight[k : k + m].T + linear.bias[k : k + m]
            for k in range(0, linear.out_features, m)]  # fmt: skip
    if dueling:
        state, *advantages = rows
        mean = sum(advantages[1:], advantages[0]) / 4.0
        rows = [state + advantage - mean for advantage in advantages]
    expected = torch.stack(rows, 1)
    outputs = head(features)
    assert outputs.shape == ((5, 4) if name == "scalar" else (5, 4, m))
    close(outputs, expected[..., 0] if name == "scalar" else expected, 1e-5)


def test_values_by_hand() -> None:
    features = torch.randn(5, 6)
    scalar = ScalarHead(6, 4)
    assert torch.equal(scalar.values(scalar(features)), scalar(features))
    quantile = QuantileHead(6, 1, 3)
    assert quantile.values(torch.tensor([[[1.0, 2.0, 6.0]]])).tolist() == [[3.0]]
    categorical = CategoricalHead(6, 1, atoms(-1.0, 1.0, 3))
    logits = torch.tensor([[[0.2, 0.3, 0.5]]]).log() + 7.0
    assert categorical.values(logits).item() == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_dueling_leaves_the_mean_over_actions_to_the_state(name: str) -> None:
    """Before the softmax: outputs differ from the state's row by advantages of mean 0."""
    head = shaken(HEADS[name](6, 4, dueling=True))
    features = torch.randn(5, 6)
    m = PLACES[name]
    state = (features @ head.output.weight[:m].T + head.output.bias[:m])[:, None]
    outputs = head(features).reshape(5, 4, m)
    close(outputs.mean(1, keepdim=True), state, 1e-5)
    assert (outputs - state).abs().amax((1, 2)).min() > 0.1


# Start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize(
    "support",
    [SUPPORT, atoms(-10.0, 10.0, 51), bin_centers(bin_edges(-20.0, 120.0, 101)), atoms(-200.0, 10.0, 201)],
)
def test_every_action_starts_at_zero(support: Tensor, dueling: bool) -> None:
    for head in (CategoricalHead(6, 4, support, dueling=dueling), QuantileHead(6, 4, 9, dueling=dueling)):
        features = 10.0 * torch.randn(50, 6)
        values = head.values(head(features))
        close(values, torch.zeros(50, 4), 1e-6 * (support[-1] - support[0]).item())


def test_zero_in_the_middle_starts_uniform() -> None:
    log_probs = flattest_log_probs(atoms(-10.0, 10.0, 51, dtype=torch.float64))
    close(log_probs, torch.full((51,), -math.log(51.0), dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("value", [-9.0, -3.3, 0.0, 17.0, 39.0])
def test_the_start_is_the_flattest_distribution_with_its_mean(value: float) -> None:
    support = SUPPORT.double()
    log_probs = flattest_log_probs(support, value)
    probs = log_probs.exp()
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (probs @ support).item() == pytest.approx(value, abs=1e-11)
    # The entropy is stationary, given sum and mean, where log p is a straight line.
    slope = (log_probs[1:] - log_probs[:-1]) / (support[1:] - support[:-1])
    close(slope, slope[:1].expand(50), 1e-9)
    # And moves of that kind lower the entropy.
    for i, j, k in itertools.combinations(range(20, 30, 3), 3):
        move = torch.zeros(51, dtype=torch.float64)
        move[i], move[j], move[k] = k - j, i - k, j - i
        move *= 0.03 * probs[[i, j, k]].min()
        assert abs(move.sum()) + abs(move @ support) < 1e-12
        for sign in (1.0, -1.0):
            assert entropy((probs + sign * move)[[i, j, k]]) < entropy(probs[[i, j, k]])


@pytest.mark.parametrize(
    ("v_min", "v_max", "start"),
    [(0.0, 50.0, 0.5), (5.0, 55.0, 5.5), (-50.0, 0.0, -0.5), (-70.0, -20.0, -20.5), (-0.25, 49.75, 0.25)],
)
def test_zero_outside_the_support_or_at_its_end_starts_half_a_spacing_inside(
    v_min: float, v_max: float, start: float
) -> None:
    support = atoms(v_min, v_max, 51)
    log_probs = flattest_log_probs(support)
    assert log_probs.isfinite().all()
    assert expected_value(log_probs, support).item() == pytest.approx(start, abs=1e-4)
    assert log_probs.min() > -60.0  # log 3 per spacing


def test_a_start_may_be_given() -> None:
    start = two_hot_probs(torch.tensor(3.25), SUPPORT) * 0.9 + 0.1 / 51.0
    for dueling in (False, True):
        head = CategoricalHead(6, 4, SUPPORT, start.log(), dueling=dueling)
        logits = head(torch.randn(5, 6))
        close(logits.softmax(-1), start.expand(5, 4, -1), 1e-6)
        if dueling:  # the state's row has it all
            assert not head.output.bias[51:].any()


def test_a_scalar_head_starts_like_torch_linear() -> None:
    torch.manual_seed(0)
    head = ScalarHead(6, 4)
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    features = torch.randn(5, 6)
    assert torch.equal(head(features), linear(features))


# Learning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_it_learns_values_from_where_it_starts(name: str, dueling: bool) -> None:
    """A torso and a head, weights of 0 included, fit another function for each action."""
    torch.manual_seed(0)
    torso, head = nn.Sequential(nn.Linear(1, 32), nn.ReLU()), HEADS[name](32, 2, dueling=dueling)
    x = torch.linspace(-1.0, 1.0, 64)[:, None]
    targets = torch.cat([10.0 * x.abs(), 5.0 - 8.0 * x], 1)
    start = torso[0].weight.detach().clone()
    optimizer = torch.optim.Adam([*torso.parameters(), *head.parameters()], lr=0.03)
    for _ in range(500):
        outputs = head(torso(x))
        if name == "scalar":
            loss = (outputs - targets).square().mean()
        elif name == "categorical":
            loss = cross_entropy(outputs, two_hot_probs(targets, SUPPORT)).mean()
        else:
            loss = quantile_huber_loss(outputs, targets[..., None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not torch.allclose(torso[0].weight, start, atol=1e-3)
    assert (head.values(head(torso(x))) - targets).abs().mean() < 0.5


# Devices, types, states --------------------------------------------------------------------------------


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_it_is_built_on_the_default_device(name: str, dueling: bool) -> None:
    with torch.device("meta"):
        support = atoms(-1.0, 2.0, 5)
        head = HEADS[name](6, 4, dueling=dueling) if name != "categorical" else CategoricalHead(
            6, 4, support, dueling=dueling)  # fmt: skip
        values = head.values(head(torch.empty(5, 6)))
    tensors = [*head.parameters(), *head.buffers(), values]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    with FakeTensorMode():  # raises where the host asks for a value
        head = HEADS[name](6, 4, dueling=dueling) if name != "categorical" else CategoricalHead(
            6, 4, atoms(-1.0, 2.0, 5), dueling=dueling)  # fmt: skip
        head.values(head(torch.empty(5, 6)))


def test_the_support_moves_with_the_module_and_is_saved() -> None:
    head = shaken(CategoricalHead(6, 4, SUPPORT))
    assert set(head.state_dict()) == {"support", "output.weight", "output.bias"}
    other = CategoricalHead(6, 4, atoms(0.0, 1.0, 51))
    other.load_state_dict(head.state_dict())
    features = torch.randn(5, 6)
    assert torch.equal(other.values(other(features)), head.values(head(features)))
    head.double()
    assert head.support.dtype == torch.float64
    assert head.values(head(features.double())).dtype == torch.float64
    assert head.to("meta").support.device.type == "meta"
    # A copy: the caller's tensor and the module's are two.
    support = SUPPORT.clone()
    head = CategoricalHead(6, 4, support)
    support.zero_()
    assert torch.equal(head.support, SUPPORT)


@pytest.mark.parametrize("name", HEADS)
def test_values_under_autocast_are_in_single_precision(name: str) -> None:
    head = shaken(HEADS[name](6, 4))
    features = torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = head(features)
        values = head.values(outputs)
    assert outputs.dtype == torch.bfloat16
    if name != "scalar":
        assert values.dtype == torch.float32
    close(values.float(), head.values(outputs.float()), 1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_torch_compile_sees_one_graph(name: str) -> None:
    head = shaken(HEADS[name](6, 4, dueling=True))
    compiled = torch.compile(lambda x: head.values(head(x)), backend="eager", fullgraph=True)
    features = torch.randn(5, 6)
    close(compiled(features), head.values(head(features)), 1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScalarHead(0, 2), "inputs 0"),
        (lambda: ScalarHead(2, 0, dueling=True), "actions 0"),
        (lambda: QuantileHead(2, 2, 0), "per action 0"),
        (lambda: CategoricalHead(2, 2, torch.zeros(1)), r"support has shape \(1,\)"),
        (lambda: CategoricalHead(2, 2, torch.zeros(2, 3)), r"support has shape \(2, 3\)"),
        (lambda: CategoricalHead(2, 2, SUPPORT, torch.zeros(50)), r"initial_log_probs \(50,\)"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_head_needs_a_kind() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Head(2, 2, 1)  # type: ignore[abstract]
