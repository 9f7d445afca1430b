"""Torsos: what they compute, in plain loops, and what they refuse."""

import numpy as np
import pytest
import torch

from prefrl.nn.torsos import ConvTorso, MLPTorso


def test_mlp_by_numpy() -> None:
    torso = MLPTorso(6, (5, 4))
    obs = torch.randn(7, 2, 3)
    x = obs.double().numpy().reshape(7, 6)
    for layer in torso.layers:
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        x = np.maximum(x @ weight.T + bias, 0.0)
    features = torso(obs)
    assert features.shape == (7, 4) == (7, torso.features)
    np.testing.assert_allclose(features.detach().numpy(), x, atol=1e-6)
    assert (features == 0).any()
    assert (features > 0).any()


def test_mlp_has_gradients_though_it_works_in_place() -> None:
    torso = MLPTorso(3, (8, 8)).double()
    obs = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(torso, obs)
    before = obs.detach().clone()
    torso(obs).sum().backward()
    assert torch.equal(obs, before)
    assert all(parameter.grad.any() for parameter in torso.parameters())


def test_conv_in_plain_loops() -> None:
    torso = ConvTorso((4, 5, 2), filters=3, features=6)
    obs = torch.randn(2, 4, 5, 2)
    parameters = {name: value.detach().double().numpy() for name, value in torso.named_parameters()}
    pictures, hidden = obs.double().numpy(), np.zeros((2, 3, 2, 3))
    for n in range(2):
        for f in range(3):
            for i in range(2):
                for j in range(3):
                    patch = pictures[n, i : i + 3, j : j + 3]  # [3, 3, channels]
                    kernel = parameters["conv.weight"][f].transpose(1, 2, 0)
                    hidden[n, f, i, j] = max(0.0, (patch * kernel).sum() + parameters["conv.bias"][f])
    expected = hidden.reshape(2, -1) @ parameters["full.weight"].T + parameters["full.bias"]
    features = torso(obs)
    assert features.shape == (2, 6) == (2, torso.features)
    np.testing.assert_allclose(features.detach().numpy(), np.maximum(expected, 0.0), atol=1e-5)
    features.sum().backward()
    assert all(parameter.grad.any() for parameter in torso.parameters())


def test_conv_of_the_paper_on_a_picture_of_minatar() -> None:
    torso = ConvTorso((10, 10, 4))
    assert sum(parameter.numel() for parameter in torso.parameters()) == (
        16 * (4 * 9 + 1) + 128 * (16 * 8 * 8 + 1)
    )


@pytest.mark.parametrize(("inputs", "hidden"), [(3, ()), (0, (4,)), (3, (4, 0)), (3, (-1, 4))])
def test_mlp_without_a_layer_or_a_size_is_refused(inputs: int, hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"hidden is \[.*\] for {inputs} inputs; give at least one layer"):
        MLPTorso(inputs, hidden)


@pytest.mark.parametrize("shape", [(10,), (10, 10), (2, 10, 4), (10, 2, 4), (10, 10, 0), (1, 10, 10, 4)])
def test_conv_refuses_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"observations are \(.*\); this network takes \(height, width"):
        ConvTorso(shape)


@pytest.mark.parametrize("sizes", [{"filters": 0}, {"features": 0}])
def test_conv_refuses_sizes_below_one(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"filters is \d+ and features \d+; they must be at least 1"):
        ConvTorso((5, 5, 1), **sizes)
