"""Torsos: what they compute, in plain loops, and what they refuse."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prefrl.nn.torsos import EMBEDDING, ConvTorso, MLPTorso, NatureTorso, ObservationTorso, given_torso


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


def test_nature_as_in_the_paper() -> None:
    torso = NatureTorso((84, 84, 4))
    assert sum(parameter.numel() for parameter in torso.parameters()) == (
        32 * (4 * 64 + 1) + 64 * (32 * 16 + 1) + 64 * (64 * 9 + 1) + 512 * (64 * 7 * 7 + 1)
    )
    obs, p = torch.rand(2, 84, 84, 4), dict(torso.named_parameters())
    x = obs.permute(0, 3, 1, 2).contiguous()
    for name, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        x = F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], stride).relu()
    expected = F.linear(x.flatten(1), p["full.weight"], p["full.bias"]).relu()
    torch.testing.assert_close(torso(obs), expected, rtol=1e-4, atol=1e-6)
    torso(obs).sum().backward()
    assert all(parameter.grad.any() for parameter in torso.parameters())


@pytest.mark.parametrize(("shape", "kind"), [
    ((4,), MLPTorso), ((84, 84), MLPTorso), ((10, 10, 4), ConvTorso), ((4, 10, 11), ConvTorso),
    ((35, 90, 3), ConvTorso), ((36, 36, 1), NatureTorso), ((3, 36, 40), NatureTorso),
    ((3, 35, 90), ConvTorso), ((5, 5, 10), ConvTorso), ((210, 160, 3), NatureTorso),
])  # fmt: skip
def test_which_network_auto_takes(shape: tuple[int, ...], kind: type[torch.nn.Module]) -> None:
    torso = ObservationTorso(gym.spaces.Box(0, 255, shape, np.uint8), hidden=(5,))
    assert type(torso.torso) is kind
    assert not torso.given
    obs = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    assert torso(obs).shape == (2, torso.features)


def test_channels_first_and_last_are_the_same_picture() -> None:
    obs, torsos = torch.randint(0, 256, (2, 6, 7, 4), dtype=torch.uint8), []
    for shape in ((6, 7, 4), (4, 6, 7)):
        torch.manual_seed(0)
        torsos.append(ObservationTorso(gym.spaces.Box(0, 255, shape, np.uint8), hidden=(5,), extra=1))
    features = [torsos[0](obs, torch.ones(2, 1)), torsos[1](obs.permute(0, 3, 1, 2), torch.ones(2, 1))]
    assert torch.equal(*features)
    scaled = torsos[0].torso(obs / 255.0)  # shares of 255
    assert torch.equal(features[0][:, : scaled.shape[1]], scaled)


class Layers(torch.nn.Module):
    """Somebody's network; what it returns may be changed."""

    def __init__(self, change=lambda x: x, norm: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.change = torch.nn.Linear(3, 6), norm or torch.nn.Identity(), change

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.change(self.norm(torch.tanh(self.first(obs))))


def test_a_given_torso_is_copied_and_tried() -> None:
    mine = Layers(norm=torch.nn.LayerNorm(6))
    torso, features = given_torso(mine, (3,))
    assert features == 6
    assert torso is not mine
    obs = torch.randn(5, 3)
    assert torch.equal(torso(obs), mine(obs))
    assert {p.data_ptr() for p in torso.parameters()}.isdisjoint(p.data_ptr() for p in mine.parameters())
    beside = ObservationTorso(gym.spaces.Box(-1, 1, (3,)), hidden=(5,), extra=2, torso=MLPTorso(3, (4,)))
    assert beside.given
    assert beside(obs, torch.ones(5, 2)).shape == (5, beside.features) == (5, 4 + EMBEDDING)


@pytest.mark.parametrize(("torso", "error", "words"), [
    (lambda: len, TypeError, "torso is a builtin_function_or_method; it must be a torch.nn.Module"),
    (lambda: Layers(lambda x: x.sum()), ValueError, r"returns \[\] torch.float32 for two observations \[3\]"),
    (lambda: Layers(lambda x: x[:1]), ValueError, r"returns \[1, 6\]"),
    (lambda: Layers(lambda x: x.double()), ValueError, r"returns \[2, 6\] torch.float64"),
    (lambda: Layers(lambda x: (x, x)), ValueError, "returns <class 'tuple'>"),
    (lambda: Layers(norm=torch.nn.BatchNorm1d(6)), ValueError, "torso changes norm.running_mean when it is"),
    (lambda: Layers().requires_grad_(False), ValueError, "without gradients, first.weight among them"),
])  # fmt: skip
def test_what_no_torso_can_be_is_refused(torso, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        given_torso(torso(), (3,))


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
