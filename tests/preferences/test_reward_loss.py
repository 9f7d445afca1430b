"""Gradients of reward models by hand: equal to autograd's, in parts, in double precision, and in bfloat16."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.agents import Heron, HeronConfig, PreferenceRL, PreferenceRLConfig
from prefrl.config import from_json
from prefrl.data import Preferences, Segments, devices
from prefrl.functional.preferences.preferences import preference_cross_entropy, preference_slopes
from prefrl.nn.reward_nets import RewardChain, RewardNetwork
from prefrl.nn.update import AdamUpdate
from prefrl.preferences import PartialReturn, RewardModel, RewardModelConfig, ask_teacher
from prefrl.preferences.reward_fit import RegretConfig, RewardFit
from prefrl.preferences.reward_loss import Compared, gradients_by_hand, reward_loss
from prefrl.tabular import TabularMDP

MEMBERS, LENGTH, PAIRS, SIZE = 3, 5, 12, 4
BOX, CHOICE = gym.spaces.Box(-1.0, 1.0, (SIZE,)), gym.spaces.Discrete(2)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compared(kind: str) -> Compared:
    """Return comparisons of segments of several lengths, of which some weigh nothing for anybody."""
    segments = 2 * PAIRS if kind != "pairs among some" else 8
    lengths = 1 + (draws(segments) * LENGTH).long()
    weights = (3.0 * draws(MEMBERS, PAIRS, seed=1)).floor()
    weights[:, 4] = 0.0
    if kind == "a member without data":
        weights[1] = 0.0
    labels = (2.0 * draws(PAIRS, seed=2)).round() / 2.0
    if kind == "labels beyond 0 and 1":
        labels = 1.6 * labels - 0.3
    places = (draws(2, PAIRS, seed=3) * segments).long() if kind == "pairs among some" else [None, None]
    offsets = 2.0 * draws(PAIRS, seed=4) - 1.0 if kind == "offsets" else None
    return Compared(torch.arange(LENGTH) < lengths[:, None], labels, weights, offsets, *places)


def both_gradients(
    kind: str, dtype: torch.dtype, rows: int | None = None, hidden: tuple[int, ...] = (16, 8),
    low: torch.dtype | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Return gradient and metrics by autograd, and by hand."""
    torch.manual_seed(0)
    network = RewardNetwork(MEMBERS, SIZE, hidden).to(dtype)
    network._rows = rows or network._rows
    update = AdamUpdate(network, reward_loss, lr=1e-3, eps=1e-8, max_grad_norm=float("inf"))
    given = compared(kind)
    given = Compared(given.mask, given.labels.to(dtype), given.weights.to(dtype),
                     None if given.offsets is None else given.offsets.to(dtype), *given[4:])  # fmt: skip
    vectors = (2.0 * draws(given.mask.numel(), SIZE, seed=5) - 1.0).to(dtype)
    loss, metrics = reward_loss(network, vectors, None, given)
    loss.backward()  # type: ignore[no-untyped-call]
    by_autograd = update.weights.gradient.clone()
    update.weights.gradient.fill_(7.0)
    with torch.inference_mode():
        found = gradients_by_hand(RewardChain(network, low), vectors, given)
    return (by_autograd, metrics), (update.weights.gradient, found)


KINDS = ("in turn", "pairs among some", "offsets", "labels beyond 0 and 1", "a member without data")


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_hand_are_those_of_autograd(kind: str, dtype: torch.dtype, atol: float) -> None:
    (wanted, metrics), (found, by_hand) = both_gradients(kind, dtype)
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=atol)
    torch.testing.assert_close(by_hand["loss"], metrics["loss"], rtol=0.0, atol=atol)
    assert by_hand["right"].tolist() == metrics["right"].tolist()


@pytest.mark.parametrize("kind", ["in turn", "pairs among some"])
def test_in_parts(kind: str) -> None:
    """Parts may end within a segment: whose rows are together does not matter."""
    for rows in (1, 7, 50):
        (wanted, _), (found, _) = both_gradients(kind, torch.float64, rows)
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-12)


def test_gradients_in_bfloat16() -> None:
    """They differ by the rounding of 8 bits, and losses by less; weights are float32."""
    (wanted, metrics), (found, low) = both_gradients(
        "in turn", torch.float32, hidden=(256, 256), low=torch.bfloat16
    )
    assert found.dtype is torch.float32
    error = (found - wanted).norm() / wanted.norm()
    assert 1e-4 < error < 0.05
    assert low["loss"].dtype is torch.float32
    torch.testing.assert_close(low["loss"], metrics["loss"], rtol=0.01, atol=0.01)


# The cross-entropy's slopes ----------------------------------------------------------------------------


@pytest.mark.parametrize("guess", [None, -3.0, 0.0, 4.0])
def test_slopes_of_the_cross_entropy(guess: float | None) -> None:
    logit = torch.tensor([-700.0, -30.0, -2.0, 0.0, 0.5, 30.0, 700.0], dtype=torch.float64)
    logit = logit.expand(2, -1).clone().requires_grad_()
    labels = torch.tensor([[0.0], [1.3]], dtype=torch.float64).expand(2, 7).clone()
    uniform = None if guess is None else torch.full((2, 1), guess, dtype=torch.float64, requires_grad=True)
    loss = preference_cross_entropy(logit, labels, uniform).sum()
    wanted = torch.autograd.grad(loss, [logit] if uniform is None else [logit, uniform])
    found, of_guess = preference_slopes(logit.detach(), labels, None if uniform is None else uniform.detach())
    torch.testing.assert_close(found, wanted[0], rtol=1e-12, atol=1e-12)
    if uniform is None:
        assert of_guess is None
    else:
        assert of_guess is not None
        torch.testing.assert_close(of_guess.sum(1, keepdim=True), wanted[1], rtol=1e-12, atol=1e-12)


def test_slopes_worked_out_by_hand() -> None:
    """At log-odds 0, half of the answers uniform, P(second) = 1/2 changes by (1/2)(1/4)."""
    none = torch.zeros(1, dtype=torch.float64)
    slopes, of_guess = preference_slopes(none, torch.ones(1, dtype=torch.float64), none)
    assert of_guess is not None
    assert slopes.item() == pytest.approx(-0.125 / 0.5)
    assert of_guess.item() == pytest.approx(0.0)


# Neural rewards of tabular fits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"uniform_response": True}, {"temperature": 0.4}, {"absorbing": True}]
)
def test_fits_of_neural_rewards(settings: dict[str, Any]) -> None:
    """Two fits at once, of segments of several lengths: every gradient, and the losses."""
    mdp = TabularMDP.from_env(gym.make("prefrl/RandomGrid-v0", layout_seed=11))
    data = [ask_teacher(mdp, 30, model=PartialReturn(), length=(1, 2, 4), seed=seed) for seed in (0, 1)]
    config = RegretConfig(preference_model="partial-return", reward="neural", hidden=(16, 8), **settings)
    fit = RewardFit(mdp, data, config)
    assert fit._chain is not None
    found = {"losses": fit._gradients_by_hand(fit._chain)}
    found |= {name: value.grad.clone() for name, value in fit._parameters.items()}
    wanted = {"losses": fit._gradients()}
    wanted |= {name: value.grad.clone() for name, value in fit._parameters.items()}
    assert max(float(value.abs().max()) for name, value in wanted.items() if name != "losses") > 0.01
    for name, value in wanted.items():
        exact = name in ("losses", "uniform_logit")  # of outputs that float32 gave
        torch.testing.assert_close(found[name], value, rtol=0.0, atol=1e-9 if exact else 1e-6)


# Precision ---------------------------------------------------------------------------------------------


def pairs(count: int) -> Preferences:
    sides = [
        Segments(2.0 * draws(count, LENGTH + 1, SIZE, seed=seed).float() - 1.0,
                 torch.zeros(count, LENGTH, dtype=torch.int64), torch.full((count,), LENGTH),
                 torch.zeros(count, dtype=torch.bool))
        for seed in (1, 2)
    ]  # fmt: skip
    gap = [side.obs[:, :-1, 0].sum(1) for side in sides]
    return Preferences.from_labels(sides[0], sides[1], (gap[1] > gap[0]).double())


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
def test_fits_in_bfloat16_learn_as_in_float32() -> None:
    accuracies, held_out = [], pairs(200)[100:]
    for precision in ("float32", "bf16"):
        config = RewardModelConfig(hidden=(256, 256), epochs=6, precision=precision)
        model = RewardModel(BOX, CHOICE, config)
        model.fit(pairs(200)[:100])
        assert {value.dtype for value in model.network.parameters()} == {torch.float32}
        assert {value.dtype for value in model._update.optimizer.states[0].values()} == {torch.float32}
        accuracies.append(float(model.accuracy(held_out)))
        scores = model.scores(held_out.first)
    assert scores.dtype is torch.float32
    assert min(accuracies) > 0.85


def test_who_is_told_and_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = RewardModelConfig(hidden=(256,), precision="bf16")
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RewardModel(BOX, CHOICE, wide)
    with pytest.warns(UserWarning, match=r"hidden layers of \[64, 64\]; below 256 'float32' is as fast"):
        RewardModel(BOX, CHOICE, RewardModelConfig(precision="bf16"))
    monkeypatch.setattr(devices, "has_fast_bf16", lambda device: False)
    with pytest.warns(UserWarning, match="cpu has no fast products of bfloat16"):
        RewardModel(BOX, CHOICE, wide)
    picture = gym.spaces.Box(0, 255, (12, 12, 3), np.uint8)
    with pytest.raises(ValueError, match="precision is 'bf16'; it must be 'float32' where the reward"):
        RewardModel(picture, CHOICE, wide)
    with pytest.raises(ValueError, match="precision is 'half'"):
        RewardModelConfig(precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reads a picture"):
        RewardChain(RewardNetwork(1, 2, (4,), (12, 12, 3)))


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
@pytest.mark.parametrize(
    ("agent", "config", "env"),
    [(PreferenceRL, PreferenceRLConfig, "Pendulum-v1"), (Heron, HeronConfig, "Pendulum-v1")],
)
def test_agents_pass_it_on(agent: Any, config: Any, env: str) -> None:
    given = from_json(config, {"reward": {"precision": "bf16", "hidden": [256]}})
    model = agent(gym.make(env), given, device="cpu").reward_model
    assert model._chain.chain.low is torch.bfloat16
