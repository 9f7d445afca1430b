"""Every loss of deep Q-learning, its gradient and what it counts, against numpy in float64."""

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefrl.agents import DQN, DQNConfig
from prefrl.agents.base import LearningFailedError, Spaces
from prefrl.agents.value_based import by_hand
from prefrl.agents.value_based.dqn import gradients_by_hand
from prefrl.data.replay import Batch

LOSSES = ["mse", "huber", "hl_gauss", "two_hot", "c51", "quantile", "mse_softmax"]
CATEGORICAL = ["hl_gauss", "two_hot", "c51", "mse_softmax"]
START, ACTIONS, PLACES = 2, 3, 9
SETTINGS: dict[str, Any] = {
    "hidden": (5, 4), "bins": PLACES, "quantiles": PLACES, "v_min": -3.0, "v_max": 5.0, "max_grad_norm": 1e9,
    "learning_starts": 0, "train_freq": 1, "target_update_interval": 1000,
}  # fmt: skip

# Six transitions: the discounts are those of one and of three steps, of a terminal successor (0), of one that
# was cut (not 0); the last row is none.
BATCH = Batch(
    obs=torch.randn(6, 3, generator=torch.Generator().manual_seed(1)),
    actions=torch.tensor([2, 3, 4, 4, 2, 3]),
    returns=torch.tensor([1.0, -1.5, 0.25, 2.0, 30.0, 1e6]),
    next_obs=torch.randn(6, 3, generator=torch.Generator().manual_seed(2)),
    discounts=torch.tensor([0.9, 0.0, 0.9**3, 0.9, 0.9, 0.9]),
    weights=torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
    next_actions=torch.tensor([4, 2, 3, 2, 2, 4]),
    next_known=torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
)
INSIDE = replace(BATCH, returns=torch.tensor([1.0, -1.5, 0.25, 0.5, -0.75, 1e6]))
Array = NDArray[np.float64]


class Fixed:
    """A replay that always gives the same batch."""

    num_envs = 1
    capacity = 1_000

    def __init__(self, batch: Batch) -> None:
        self.only = batch
        self.storage: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return 1_000

    def draw(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros(0), torch.zeros(())

    def batch(self, storage: dict[str, Tensor], index: Tensor, newest: Tensor) -> Batch:
        return self.only


def make_agent(batch: Batch = BATCH, shape: tuple[int, ...] = (3,), **settings: Any) -> DQN:
    """An agent whose networks differ, and are far from where heads start."""
    spaces = Spaces(gym.spaces.Box(-9, 9, shape), gym.spaces.Discrete(ACTIONS, start=START))
    agent = DQN(spaces, DQNConfig(**{**SETTINGS, **settings}), device="cpu")
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for network in (agent.network, agent.target):
            for parameter in network.parameters():
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=rng))
    agent.replay = Fixed(batch)  # type: ignore[assignment]
    return agent


def update(agent: DQN) -> dict[str, float]:
    agent.num_timesteps += 1
    return {name: value.item() for name, value in agent.update().items()}


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_actions_are_chosen_by_the_network_as_it_is(loss: str, dueling: bool, rows: int) -> None:
    agent = make_agent(loss=loss, dueling=dueling)
    update(agent)
    obs = torch.randn(rows, 3, generator=torch.Generator().manual_seed(4))
    found = agent.q_values(obs)
    assert not found.requires_grad
    torch.testing.assert_close(found, agent.network.head.values(agent.network(obs)).detach())


# The same in numpy -------------------------------------------------------------------------------------


def softmax(x: Array) -> Array:
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


class Numpy:
    """Networks, targets and losses in float64, by their definitions."""

    def __init__(self, agent: DQN) -> None:
        self.config = config = agent.config
        self.online, self.target = (
            [p.detach().double().numpy().copy() for p in network.parameters()]
            for network in (agent.network, agent.target)
        )
        low, high, count = config.v_min, config.v_max, config.bins
        if config.loss in ("two_hot", "c51"):
            self.support = np.linspace(low, high, count)
        else:
            width = (high - low) / (count - (config.placement == "centers"))
            margin = width / 2 if config.placement == "centers" else 0.0
            self.edges = low - margin + width * np.arange(count + 1)
            self.support = (self.edges[1:] + self.edges[:-1]) / 2
            self.sigma = config.sigma or (config.sigma_ratio or 0.75) * width

    def outputs(self, parameters: list[Array], obs: Array) -> Array:
        """[B, A, m], with m = 1 for scalars."""
        x = obs
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            x = np.maximum(x @ weight.T + bias, 0.0)
        x = x @ parameters[-2].T + parameters[-1]
        if not self.config.dueling:
            return x.reshape(len(x), ACTIONS, -1)
        x = x.reshape(len(x), ACTIONS + 1, -1)
        return x[:, :1] + x[:, 1:] - x[:, 1:].mean(1, keepdims=True)

    def values(self, outputs: Array) -> Array:
        if self.config.loss in CATEGORICAL:
            return softmax(outputs) @ self.support
        return outputs.mean(-1)

    def next_actions(self, batch: Batch) -> Array:
        if self.config.target_policy == "sarsa":
            assert batch.next_actions is not None
            return batch.next_actions.numpy() - START
        chooser = self.online if self.config.double else self.target
        return self.values(self.outputs(chooser, batch.next_obs.double().numpy())).argmax(-1)

    def triangular(self, y: float) -> Array:
        spacing = self.support[1] - self.support[0]
        clipped = min(max(y, self.support[0]), self.support[-1])
        return np.maximum(0.0, 1.0 - abs(clipped - self.support) / spacing)

    def normal(self, y: float) -> Array:
        y = min(max(y, self.edges[0]), self.edges[-1])
        below = np.array([0.5 * (1 + math.erf((e - y) / (self.sigma * 2**0.5))) for e in self.edges])
        return np.diff(below) / (below[-1] - below[0])

    def is_outside(self, y: float) -> bool:
        return y < self.config.v_min or y > self.config.v_max

    def row(self, taken: Array, following: Array, returned: float, discount: float) -> tuple[float, float]:
        """The loss of one row, and how much of its target lies outside."""
        kind = self.config.loss
        if kind == "quantile":
            total = 0.0
            for i, quantile in enumerate(taken):
                tau = (i + 0.5) / PLACES
                for other in following:
                    u = returned + discount * other - quantile
                    huber = 0.5 * u**2 if abs(u) <= 1 else abs(u) - 0.5
                    total += abs(tau - (u < 0)) * huber / PLACES
            return total, 0.0
        y = returned + discount * float(self.values(following))
        if kind == "mse":
            return float((taken[0] - y) ** 2), 0.0
        if kind == "huber":
            u = abs(taken[0] - y)
            return float(0.5 * u**2 if u < 1 else u - 0.5), 0.0
        if kind == "mse_softmax":
            return float((self.values(taken) - y) ** 2), float(self.is_outside(y))
        distribution = softmax(following)
        outside = float(self.is_outside(y))
        if kind == "c51":
            places = returned + discount * self.support
            label = sum(p * self.triangular(z) for p, z in zip(distribution, places, strict=True))
            outside = float(self.is_outside(float(distribution @ places)))
        else:
            label = self.normal(y) if kind == "hl_gauss" else self.triangular(y)
        return float(-(label * np.log(softmax(taken))).sum()), outside

    def loss(self, batch: Batch) -> dict[str, float]:
        obs, next_obs = batch.obs.double().numpy(), batch.next_obs.double().numpy()
        actions, chosen = batch.actions.numpy() - START, self.next_actions(batch)
        outputs, following = self.outputs(self.online, obs), self.outputs(self.target, next_obs)
        losses, outside, gaps = [], [], []
        for row in range(len(actions)):
            loss, beyond = self.row(
                outputs[row, actions[row]], following[row, chosen[row]],
                float(batch.returns[row]), float(batch.discounts[row]),
            )  # fmt: skip
            values = self.values(outputs[row])
            gap = math.log(sum(math.exp(value) for value in values)) - values[actions[row]]
            losses.append(loss + self.config.cql_alpha * gap)
            gaps.append(gap)
            outside.append(beyond)
        weights = batch.weights.double().numpy()
        learned = weights.copy()
        if self.config.target_policy == "sarsa":
            assert batch.next_known is not None
            learned *= batch.next_known.double().numpy()
        return {
            "train/loss": float(learned @ losses / learned.sum()),
            "train/cql": float(np.mean(gaps)),
            "train/clamped_fraction": float(weights @ outside / weights.sum()),
        }


def assert_equals_numpy(agent: DQN, batch: Batch) -> None:
    twin = Numpy(agent)
    expected = twin.loss(batch)
    metrics = update(agent)
    for name, value in expected.items():
        if name in metrics:
            assert metrics[name] == pytest.approx(value, rel=2e-4, abs=1e-5), name
    gradients = [p.grad for p in agent.network.parameters()]
    for parameter, gradient in zip(twin.online, gradients, strict=True):  # the last value of each
        assert gradient is not None
        slopes = []
        for sign in (1, -1):
            parameter.flat[-1] += sign * 1e-5
            slopes.append(twin.loss(batch)["train/loss"])
            parameter.flat[-1] -= sign * 1e-5
        slope = (slopes[0] - slopes[1]) / 2e-5
        assert gradient.flatten()[-1].item() == pytest.approx(slope, rel=1e-2, abs=2e-4)


# The losses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"double": False}, {"dueling": True}], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient(loss: str, settings: dict[str, Any]) -> None:
    batch = BATCH if loss in ("hl_gauss", "two_hot", "c51") else INSIDE
    assert_equals_numpy(make_agent(batch, loss=loss, **settings), batch)


def test_double_matters_in_this_batch() -> None:
    """Else the cases above would not tell the two apart."""
    for loss in LOSSES:
        single, double = (Numpy(make_agent(loss=loss, double=double)) for double in (False, True))
        assert (single.next_actions(BATCH) != double.next_actions(BATCH)).any(), loss


@pytest.mark.parametrize(
    "settings", [{"sigma": 1.3}, {"sigma_ratio": 1.5}, {"placement": "centers"}], ids=str
)
@pytest.mark.parametrize("loss", ["hl_gauss", "mse_softmax"])
def test_widths_and_places_of_bins(loss: str, settings: dict[str, Any]) -> None:
    assert_equals_numpy(make_agent(INSIDE, loss=loss, **settings), INSIDE)


def test_the_ablation_has_the_network_of_hl_gauss() -> None:
    first, second = make_agent(loss="hl_gauss"), make_agent(loss="mse_softmax")
    obs = BATCH.obs
    assert first.q_values(obs).shape == (6, ACTIONS)
    assert torch.equal(first.q_values(obs), second.q_values(obs))
    assert torch.equal(first.network.head.support, second.network.head.support)


def test_rows_that_are_no_transitions_count_for_nothing() -> None:
    for loss in LOSSES:
        tensors = {name: value for name, value in vars(BATCH).items() if isinstance(value, Tensor)}
        kept = Batch(**{name: value[:5] for name, value in tensors.items()})
        ours, theirs = (update(make_agent(batch, loss=loss)) for batch in (BATCH, kept))
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
        if "train/clamped_fraction" in ours:
            assert ours["train/clamped_fraction"] == pytest.approx(theirs["train/clamped_fraction"])


def test_a_batch_without_any_transition_changes_nothing() -> None:
    agent = make_agent(replace(INSIDE, weights=torch.zeros(6)))
    metrics = update(agent)
    assert metrics["train/loss"] == 0.0
    assert all(not parameter.grad.any() for parameter in agent.network.parameters())


@pytest.mark.parametrize("alpha", [0.1, 2.0])
@pytest.mark.parametrize("loss", ["mse", "hl_gauss", "quantile"])
def test_conservative_regulariser(loss: str, alpha: float) -> None:
    agent = make_agent(INSIDE, loss=loss, cql_alpha=alpha)
    assert_equals_numpy(agent, INSIDE)
    assert "train/cql" in update(agent)


@pytest.mark.parametrize("loss", LOSSES)
def test_sarsa_targets(loss: str) -> None:
    agent = make_agent(INSIDE, loss=loss, target_policy="sarsa")
    greedy = Numpy(make_agent(INSIDE, loss=loss)).loss(INSIDE)["train/loss"]
    assert abs(Numpy(agent).loss(INSIDE)["train/loss"] - greedy) > 1e-3
    assert_equals_numpy(agent, INSIDE)


def test_the_gradient_is_cut() -> None:
    for max_norm in (1e-3, 0.1):
        agent = make_agent(INSIDE, loss="mse", max_grad_norm=max_norm)
        update(agent)
        squares = sum(float((p.grad**2).sum()) for p in agent.network.parameters())
        assert squares**0.5 == pytest.approx(max_norm, rel=1e-3)


# Clamped targets ---------------------------------------------------------------------------------------


def clamped(loss: str, returns: list[float], discount: float = 0.0, **settings: Any) -> float:
    """The share that is counted with these returns and a terminal or going-on successor."""
    count = len(returns)
    batch = Batch(BATCH.obs[:count], BATCH.actions[:count], torch.tensor(returns), BATCH.next_obs[:count],
                  torch.full((count,), discount), torch.ones(count))  # fmt: skip
    agent = make_agent(batch, loss=loss, **settings)
    assert update(agent)["train/clamped_fraction"] == pytest.approx(agent.clamped_fraction)
    return agent.clamped_fraction


@pytest.mark.parametrize("loss", ["hl_gauss", "two_hot", "c51", "mse_softmax"])
def test_targets_beyond_the_support_are_counted(loss: str) -> None:
    assert clamped(loss, [5.0, -3.0, 0.0, 4.999]) == 0.0  # the ends belong to it
    assert clamped(loss, [5.01, 0.0, 0.0, 0.0]) == 0.25
    assert clamped(loss, [5.01, -3.01, 1e6, 0.0]) == 0.75
    assert clamped(loss, [4.0, 4.0], 0.0, v_max=3.5) == 1.0


def test_c51_counts_means() -> None:
    """Distributions are wide at first, and lose mass beyond any support: the mean of the target counts."""
    agent = make_agent(loss="c51")
    distribution = torch.softmax(agent.target(BATCH.next_obs[:1]), -1)[0]  # [A, m]
    best = int(agent.q_values(BATCH.next_obs[:1]).argmax())
    mean = (distribution[best] @ agent.network.head.support).item()  # type: ignore[operator]
    assert clamped("c51", [5.0 - mean - 0.01], 1.0) == 0.0  # though some of its mass lies beyond
    assert clamped("c51", [5.0 - mean + 0.01], 1.0) == 1.0


def test_the_share_is_over_all_targets_so_far() -> None:
    agent = make_agent(loss="two_hot")
    outside = replace(BATCH, returns=torch.full((6,), 99.0))
    inside = replace(BATCH, returns=torch.zeros(6), discounts=torch.zeros(6))
    shares = []
    for batch in (inside, outside, inside, inside):
        agent.replay = Fixed(batch)  # type: ignore[assignment]
        update(agent)
        shares.append(agent.clamped_fraction)
    assert shares == pytest.approx([0.0, 1 / 2, 1 / 3, 1 / 4])
    assert agent.result() == {"clamped_fraction": agent.clamped_fraction}


@pytest.mark.parametrize("loss", ["mse", "huber", "quantile"])
def test_other_losses_clamp_nothing(loss: str) -> None:
    agent = make_agent(loss=loss)
    assert "train/clamped_fraction" not in update(agent)
    assert agent.clamped_fraction == 0.0
    agent.check()


def test_check_stops_above_the_share_that_is_set() -> None:
    for allowed, stops in ((0.19, True), (0.21, False), (1.0, False)):
        agent = make_agent(loss="hl_gauss", max_clamped_fraction=allowed)
        agent.check()  # nothing was learned yet
        update(agent)  # one of five transitions
        if stops:
            message = (
                r"^20\.0% of the targets lay outside the support \[-3, 5\] \(max_clamped_fraction is 0\.19"
            )
            with pytest.raises(LearningFailedError, match=message):
                agent.check()
        else:
            agent.check()


@pytest.mark.parametrize("loss", ["hl_gauss", "two_hot", "c51"])
def test_metrics_of_a_classification(loss: str) -> None:
    """The divergence is what is left to learn: the cross-entropy less the labels' entropy."""
    batch = replace(INSIDE, weights=torch.ones(6), returns=torch.zeros(6))
    metrics = update(make_agent(batch, loss=loss))
    assert 0.0 < metrics["train/kl"] < metrics["train/loss"]
    assert -3.0 < metrics["train/target"] < 5.0
    one = update(
        make_agent(replace(batch, returns=torch.full((6,), 2.0), discounts=torch.zeros(6)), loss=loss)
    )
    assert one["train/target"] == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_predictions_and_their_errors_are_logged_as_values(loss: str) -> None:
    batch = replace(INSIDE, discounts=torch.zeros(6), returns=torch.full((6,), 2.0))
    agent = make_agent(batch, loss=loss)
    with torch.no_grad():
        q = agent.network.head.values(agent.network(batch.obs))[torch.arange(6), batch.actions - START]
    metrics = update(agent)
    assert metrics["train/q"] == pytest.approx(float(q.mean()), abs=1e-5)
    assert metrics["train/td_error"] == pytest.approx(float((q - 2.0).abs().mean()), abs=1e-4)


@pytest.mark.parametrize("loss", ["mse", "huber", "quantile", "mse_softmax"])
def test_the_mean_target_is_logged(loss: str) -> None:
    batch = replace(INSIDE, discounts=torch.zeros(6), returns=torch.full((6,), 2.0))
    assert update(make_agent(batch, loss=loss))["train/target"] == pytest.approx(2.0)


# By hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"double": False, "dueling": True}, {"cql_alpha": 0.5}, {"cql_alpha": 0.5, "dueling": True},
     {"target_policy": "sarsa"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_by_hand_are_those_of_autograd(loss: str, settings: dict[str, Any]) -> None:
    agent = make_agent(INSIDE, loss=loss, **settings)
    drawn = agent.replay.draw(6, agent._generator)
    weights = agent._update.weights
    weights.gradient.zero_()
    total, metrics = agent._loss(agent.network, agent.replay.storage, *drawn)
    total.backward()
    expected = weights.gradient.clone()
    weights.gradient.fill_(7.0)  # what was there is replaced
    found = gradients_by_hand(*agent._chains, INSIDE, START, agent.config)
    torch.testing.assert_close(weights.gradient, expected, rtol=1e-4, atol=1e-6)
    assert set(found) == set(metrics)
    for name, value in metrics.items():
        torch.testing.assert_close(found[name][0], value, rtol=1e-4, atol=1e-6)


PICTURES = {"last": (4, 5, 2), "first": (2, 5, 4)}
"""Shapes of pictures with their channels there."""


@pytest.mark.parametrize("channels", PICTURES)
@pytest.mark.parametrize("settings", [{}, {"double": False, "dueling": True}, {"cql_alpha": 0.5}], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_a_convolution_are_those_of_autograd(
    loss: str, settings: dict[str, Any], channels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a whole batch, and of one in parts."""
    shape, draws = PICTURES[channels], torch.Generator().manual_seed(4)
    obs, next_obs = (torch.randn(6, *shape, generator=draws) for _ in range(2))
    batch = replace(INSIDE, obs=obs, next_obs=next_obs)
    agent = make_agent(batch, shape, conv_filters=3, conv_features=5, **settings)
    weights = agent._update.weights
    weights.gradient.zero_()
    agent._loss(agent.network, agent.replay.storage, *agent.replay.draw(6, agent._generator))[0].backward()
    expected = weights.gradient.clone()
    assert (expected != 0).float().mean() > 0.3
    for many in (by_hand.MANY, 5):
        monkeypatch.setattr(by_hand, "MANY", many)
        monkeypatch.setattr(by_hand, "IN_CACHE", 4)
        weights.gradient.fill_(7.0)
        gradients_by_hand(*agent._chains, batch, START, agent.config)
        torch.testing.assert_close(weights.gradient, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(agent.q_values(obs), agent.network.head.values(agent.network(obs)).detach())
    torch.testing.assert_close(agent.q_values(obs[:1]), agent.q_values(obs)[:1])


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_numpy_takes_the_small_steps_of_plain_heads(
    loss: str, double: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives the gradients and metrics that torch's calls give, also where rows do not count."""
    agent = make_agent(INSIDE, loss=loss, double=double)
    batch = replace(INSIDE, weights=torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0]))
    in_arrays, calls = by_hand.gradients_in_arrays, []
    monkeypatch.setattr(
        by_hand, "gradients_in_arrays", lambda *args: (calls.append(loss), in_arrays(*args))[1]
    )
    found = gradients_by_hand(*agent._chains, batch, START, agent.config)
    gradient = agent._update.weights.gradient.clone()
    assert bool(calls) == (loss in ("mse", "huber"))
    monkeypatch.setattr(by_hand, "SMALL", 0)
    expected = gradients_by_hand(*agent._chains, batch, START, agent.config)
    assert len(calls) <= 1
    torch.testing.assert_close(gradient, agent._update.weights.gradient, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
        assert found[name].dtype is value.dtype


@pytest.mark.parametrize("settings", [{}, {"cql_alpha": 0.5}, {"target_policy": "sarsa"}], ids=str)
@pytest.mark.parametrize("loss", ["huber", "hl_gauss", "quantile"])
def test_a_large_batch_is_taken_in_parts(
    loss: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of unequal size give the gradients and metrics of the whole batch."""
    agent = make_agent(INSIDE, loss=loss, **settings)
    monkeypatch.setattr(by_hand, "SMALL", 0)  # for NumPy, that is
    arguments = (*agent._chains, INSIDE, START, agent.config)
    whole = gradients_by_hand(*arguments)
    expected = agent._update.weights.gradient.clone()
    monkeypatch.setattr(by_hand, "MANY", 5)
    monkeypatch.setattr(by_hand, "IN_CACHE", 4)
    parts: list[int] = []
    of_part = by_hand.gradients_of_part
    monkeypatch.setattr(
        by_hand, "gradients_of_part",
        lambda *args, **kwargs: (parts.append(args[3].shape[1]), of_part(*args, **kwargs))[1],
    )  # fmt: skip
    found = gradients_by_hand(*arguments)
    assert parts == [3, 3]
    torch.testing.assert_close(agent._update.weights.gradient, expected, rtol=1e-4, atol=1e-6)
    assert set(found) == set(whole)
    for name, value in whole.items():
        close = {"rtol": 1e-4, "atol": 1e-6}
        if name == "train/clamped_fraction":  # of the rows that count, which parts need not share alike
            close = {"rtol": 1.0, "atol": 1.0}
        torch.testing.assert_close(found[name], value, **close)


# In low precision --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_in_bfloat16(loss: str) -> None:
    """They differ by the rounding of 8 bits, and what is compared with targets by less."""
    rows, draws = torch.arange(6).repeat(200), torch.Generator().manual_seed(0)
    batch = INSIDE.mapped(lambda values: values[rows])
    obs, next_obs = (torch.randn(part.shape, generator=draws) for part in (batch.obs, batch.next_obs))
    batch = replace(batch, obs=obs, next_obs=next_obs)
    exact, low = (make_agent(INSIDE, loss=loss, hidden=(256, 256), precision=precision)
                  for precision in ("float32", "bf16"))  # fmt: skip
    both = []
    for agent in (exact, low):
        metrics = gradients_by_hand(*agent._chains, batch, START, agent.config)
        both.append((agent._update.weights.gradient.clone(), metrics))
        assert agent._update.weights.gradient.dtype is torch.float32
    (wanted, metrics), (found, low_metrics) = both
    error = (found - wanted).norm() / wanted.norm()
    assert 1e-4 < error < 0.15  # 5 % but for mse_softmax, whose gradients are small differences
    assert low_metrics["train/q"].dtype is torch.float32
    torch.testing.assert_close(low_metrics["train/q"], metrics["train/q"], rtol=0.02, atol=0.02)


def test_low_precision_is_refused_where_it_does_nothing() -> None:
    with pytest.raises(ValueError, match=r"precision is 'bf16'; it must be 'float32' unless the network"):
        make_agent(INSIDE, precision="bf16", compile=True)
    picture = Spaces(gym.spaces.Box(0, 255, (10, 10, 3), np.uint8), gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match="precision is 'bf16'; it must be"):
        DQN(picture, DQNConfig(precision="bf16"), device="cpu")
    with pytest.raises(ValueError, match=r"precision is 'float16'"):
        DQNConfig(precision="float16")  # type: ignore[arg-type]
