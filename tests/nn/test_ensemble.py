"""Ensembles of dynamics against one network at a time, and fits against what is known of the data."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from prefrl.nn import ensemble as module
from prefrl.nn.ensemble import DECAYS, DynamicsEnsemble, EnsembleFit, FitSettings

SMALL = FitSettings(batch_size=32, max_epochs=4)


def make(members: int = 3, probabilistic: bool = True, hidden: Any = (16, 16), **settings: Any) -> Any:
    torch.manual_seed(0)
    return DynamicsEnsemble(members, 4, 2, hidden, probabilistic=probabilistic, **settings)


def fit_of(ensemble: DynamicsEnsemble, settings: FitSettings = SMALL, **more: Any) -> EnsembleFit:
    return EnsembleFit(ensemble, settings, **{"elites": 2, "lr": 1e-3, "decays": 0.0, **more})


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def data(count: int = 200) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, 4, generator=generator())
    return inputs, torch.stack([inputs[:, 0] * inputs[:, 1], 100.0 + 10.0 * inputs[:, 2]], 1)


@pytest.mark.parametrize("probabilistic", [True, False])
def test_every_network_is_one_of_its_own(probabilistic: bool) -> None:
    ensemble = make(7, probabilistic)
    ensemble.input_mean.fill_(0.3)
    ensemble.input_std.fill_(2.0)
    ensemble.target_mean.fill_(5.0)
    ensemble.target_std.fill_(3.0)
    inputs = torch.randn(11, 4)
    means, stds = ensemble.predict(inputs)
    for e in range(7):
        x = (inputs - 0.3) / 2.0
        pairs = list(zip(ensemble.network.weights(), ensemble.network.biases(), strict=True))
        for weight, bias in pairs[:-1]:
            x = torch.nn.functional.silu(x @ weight[e] + bias[e])
        output = x @ pairs[-1][0][e] + pairs[-1][1][e]
        torch.testing.assert_close(means[e], output[:, :2] * 3.0 + 5.0, rtol=1e-5, atol=1e-5)
        if probabilistic:
            assert stds is not None
            raw = output[:, 2:]
            held = 0.5 - torch.nn.functional.softplus(0.5 - raw)
            held = -10.0 + torch.nn.functional.softplus(held + 10.0)
            torch.testing.assert_close(stds[e], 3.0 * torch.exp(0.5 * held), rtol=1e-5, atol=1e-5)
    assert (stds is None) != probabilistic


def test_variances_are_bounded_wherever_it_is_asked() -> None:
    _, log_variance = make()(1e4 * torch.randn(3, 100, 4))
    assert log_variance is not None
    assert log_variance.min() >= -10.0
    assert log_variance.max() <= 0.5 + 1e-4


def test_weights_start_within_two_deviations() -> None:
    ensemble = make(2, hidden=(400,))
    weight = ensemble.network.weights()[1]
    scale = 0.5 / math.sqrt(400)
    assert weight.abs().max() <= 2.0 * scale
    # a normal cut at two deviations has .880 of its deviation; cutting instead of drawing anew leaves .959
    assert float(weight.detach().std()) / scale == pytest.approx(0.880, abs=0.03)
    assert not ensemble.network.biases()[0].any()


def test_split_rollouts_are_distributed_like_picking_a_network_for_each_row() -> None:
    ensemble = make(5)
    inputs = torch.randn(1, 4).expand(4003, -1)  # not a multiple of 5
    mean, std = ensemble.predict_split(inputs, generator())
    assert std is not None
    every, _ = ensemble.predict(inputs[:1])
    nearest = (mean[:, None] - every[:, 0]).abs().sum(-1)
    assert nearest.min(1).values.max() < 1e-5  # each row is some network's
    counts = nearest.argmin(1).bincount(minlength=5)
    assert counts.max() - counts.min() <= 5
    draws = mean + std * torch.randn(mean.shape, generator=generator())
    picked, spread = ensemble.predict(inputs)
    assert spread is not None
    chosen = torch.randint(5, (4003,), generator=generator())
    rows = torch.arange(4003)
    reference = picked[chosen, rows] + spread[chosen, rows] * torch.randn(mean.shape)
    for entry in range(2):
        found = stats.ks_2samp(draws[:, entry].detach().numpy(), reference[:, entry].detach().numpy())
        assert found.pvalue > 0.01


@pytest.mark.parametrize("count", [1, 2, 6, 11])
def test_few_rows_go_to_every_network_as_often(count: int) -> None:
    ensemble = make(5, probabilistic=False)
    inputs = torch.randn(1, 4).expand(count, -1)
    every, _ = ensemble.predict(inputs[:1])
    draws, found = generator(), []
    for _ in range(2000):
        mean, _ = ensemble.predict_split(inputs, draws)
        found.append((mean[:, None] - every[:, 0]).abs().sum(-1).argmin(1))
    shares = torch.cat(found).bincount(minlength=5) / (2000.0 * count)
    assert (shares - 0.2).abs().max() < 0.04


def test_split_rows_stay_in_their_places() -> None:
    torch.manual_seed(0)
    ensemble = make(3, probabilistic=False)
    inputs = torch.randn(10, 4)
    mean, std = ensemble.predict_split(inputs, generator())
    every, _ = ensemble.predict(inputs)
    assert std is None
    assert (mean - every).abs().sum(-1).min(0).values.max() < 1e-5
    few, _ = ensemble.predict_split(inputs[:1], generator())  # fewer rows than networks
    assert few.shape == (1, 2)


def test_a_fit_ends_with_each_network_at_its_own_best(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = make(3)
    fit = fit_of(ensemble, dataclasses.replace(SMALL, patience=0, max_epochs=10))
    scores = iter([[3.0, 3.0, 3.0], [2.0, 4.0, 4.0], [3.0, 1.0, 4.0], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    seen: list[list[Tensor]] = []

    def losses(*_: Any) -> Tensor:
        seen.append([parameter.detach().clone() for parameter in ensemble.network.parameters()])
        return torch.tensor(next(scores))

    monkeypatch.setattr(fit, "holdout_losses", losses)
    metrics = fit.fit(*data(), generator())
    assert float(metrics["model/epochs"]) == 4.0  # the fourth brings nothing: more than 0 in a row
    for e, epoch in enumerate([1, 2, 0]):
        for parameter, then in zip(ensemble.network.parameters(), seen[epoch], strict=True):
            assert torch.equal(parameter[e], then[e])
    best = [1, 0]  # losses 1, 2, 3
    for mine, theirs in zip(fit.elite.network.parameters(), ensemble.network.parameters(), strict=True):
        assert torch.equal(mine, theirs[best])


def test_patience_counts_epochs_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_of(make(), dataclasses.replace(SMALL, patience=2, max_epochs=50))
    scores = iter([5.0, 5.0, 5.0, 1.0, *[1.0] * 40])
    monkeypatch.setattr(fit, "holdout_losses", lambda *_: torch.full((3,), next(scores)))
    assert float(fit.fit(*data(), generator())["model/epochs"]) == 7.0  # 4, and 3 without a better one


def test_steps_are_limited() -> None:
    fit = fit_of(make(), dataclasses.replace(SMALL, max_steps=7, max_epochs=50))
    assert float(fit.fit(*data(), generator())["model/steps"]) == 7.0  # 5 of the first epoch, 2 of another


def test_the_host_asks_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[Tensor] = []
    monkeypatch.setattr(module, "asked", lambda answer: bool(questions.append(answer)))
    fit_of(make()).fit(*data(), generator())
    assert len(questions) == 4


@pytest.mark.parametrize("standardize", [True, False])
def test_inputs_and_targets_are_standardised_by_the_training_rows(standardize: bool) -> None:
    fit = fit_of(make(), dataclasses.replace(SMALL, standardize_targets=standardize))
    inputs, targets = data(1000)
    inputs[:, 3] = 0.1  # constant, and no number of binary places
    rows = torch.ones(1000)
    rows[500:] = 0.0  # no transitions
    inputs[500:] = 1e6
    fit.fit(inputs, targets, generator(), rows=rows)
    ensemble = fit.ensemble
    torch.testing.assert_close(ensemble.input_mean, inputs[:500].mean(0), rtol=0.1, atol=0.15)
    torch.testing.assert_close(ensemble.input_std[:3], inputs[:500, :3].std(0), rtol=0.1, atol=0.1)
    assert float(ensemble.input_std[3]) == 1.0
    if standardize:
        torch.testing.assert_close(ensemble.target_std, targets[:500].std(0), rtol=0.15, atol=0.1)
    else:
        assert ensemble.target_std.tolist() == [1.0, 1.0]
    torch.testing.assert_close(fit.elite.input_mean, ensemble.input_mean)


def test_rows_that_are_none_are_not_learned_from() -> None:
    inputs, targets = data(100)
    rows = (torch.arange(100) % 2 == 0).float()
    found = []
    for wrong in (0.0, 1e3):
        spoilt = targets + wrong * (1.0 - rows[:, None])
        fit = fit_of(make(), SMALL)
        fit.fit(inputs, spoilt, generator(), rows=rows)
        found.append(fit.ensemble.predict(inputs)[0])
    torch.testing.assert_close(found[0], found[1])


def test_weighted_entries() -> None:
    inputs, targets = data()
    targets = (targets - torch.tensor([0.0, 100.0])) / torch.tensor([1.0, 10.0])
    settings = dataclasses.replace(SMALL, max_epochs=25)
    ones, some = torch.ones(200, 2), torch.tensor([1.0, 0.0]).expand(200, -1)
    errors = {}
    for name, entries in (("none", None), ("ones", ones), ("first", some)):
        fit = fit_of(make(probabilistic=False), settings, lr=1e-2)
        fit.fit(inputs, targets, generator(), entries=entries)
        errors[name] = (fit.ensemble.predict(inputs)[0] - targets).square().mean((0, 1))
    torch.testing.assert_close(errors["none"], errors["ones"])
    assert errors["first"][1] > 2.0 * errors["ones"][1]
    rest = torch.tensor([0.0, 1.0]).expand(200, -1)
    fit = fit_of(make(probabilistic=False), settings, lr=1e-2)
    fit.fit(inputs, targets, generator(), entries=rest)
    second = (fit.ensemble.predict(inputs)[0] - targets).square().mean((0, 1))
    assert second[1] < errors["first"][1]


def test_the_loss_by_hand() -> None:
    ensemble = make(2, learn_bounds=True, hidden=())
    fit = fit_of(ensemble)
    x, y, rows = torch.randn(2, 5, 4), torch.randn(2, 5, 2), torch.tensor([[1.0] * 5, [1.0, 1.0, 0, 0, 0]])
    mean, log_variance = ensemble(x)
    errors = (mean - y) ** 2 * torch.exp(-log_variance) + log_variance
    expected = errors[0].mean() + errors[1, :2].mean() + 0.01 * 2 * 10.5
    found, _ = fit._loss(ensemble, x, y, rows, None)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert ensemble.high.grad is not None


def test_only_the_weights_of_layers_decay() -> None:
    ensemble = make(2, hidden=(8,) * 4, learn_bounds=True)
    decays = ensemble.layer_decays(DECAYS)
    assert list(decays.values()) == list(DECAYS)
    assert all(name.endswith("weight") for name in decays)
    fit = fit_of(ensemble, lr=0.1, decays=1.0)
    before = {name: value.detach().clone() for name, value in ensemble.named_parameters()}
    with torch.no_grad():
        for bias in ensemble.network.biases():
            bias.fill_(1.0)
    fit._update.weights.gradient.zero_()
    fit._update.optimizer.step()
    for name, value in ensemble.named_parameters():
        if name.endswith("weight"):
            assert (value.abs() < before[name].abs() + 0.1).all()
            assert not torch.equal(value, before[name])
        elif name.endswith("bias"):
            assert (value == 1.0).all()
        else:
            assert torch.equal(value, before[name])


def test_networks_differ_by_their_bootstrap() -> None:
    found = {}
    for bootstrap in (True, False):
        ensemble = make(2, probabilistic=False)
        with torch.no_grad():  # the same start for both
            for parameter in ensemble.network.parameters():
                parameter[1] = parameter[0]
        settings = FitSettings(batch_size=1000, max_epochs=3, bootstrap=bootstrap)
        fit_of(ensemble, settings, elites=1).fit(*data(), generator())
        weights = ensemble.network.weights()[0]
        found[bootstrap] = float((weights[0] - weights[1]).detach().abs().max())
    assert found[False] < 1e-5 < 1e-3 < found[True]


def test_a_fit_goes_on_from_its_state() -> None:
    inputs, targets = data()
    first, second = fit_of(make()), fit_of(make())
    shared = generator()
    first.fit(inputs, targets, shared)
    second.load_state_dict(first.state_dict())  # of which it must change nothing
    drawn = shared.get_state()
    ends = []
    for fit in (first, second):
        shared.set_state(drawn)
        fit.fit(inputs, targets, shared)
        ends.append(fit.ensemble.predict(inputs)[0])
    assert torch.equal(*ends)


def test_deviations_of_data_whose_noise_is_known() -> None:
    """E1: predicted deviations within 20 % of the truth, and 90 % intervals that cover 85 to 95 %."""
    draws = generator()
    x = torch.rand(5000, 1, generator=draws) * 4.0 - 2.0
    truth, noise = torch.sin(2.0 * x), 0.05 + 0.2 * x.abs()
    y = truth + noise * torch.randn(5000, 1, generator=draws)
    torch.manual_seed(0)
    ensemble = DynamicsEnsemble(3, 1, 1, (64, 64), probabilistic=True)
    settings = FitSettings(max_epochs=60, standardize_targets=True)
    fit = EnsembleFit(ensemble, settings, elites=2, lr=3e-3, decays=1e-5)
    fit.fit(x, y, draws)
    at = torch.linspace(-1.9, 1.9, 400)[:, None]
    means, stds = fit.elite.predict(at)
    assert stds is not None
    ratio = stds.mean(0) / (0.05 + 0.2 * at.abs())
    assert (ratio.mean() - 1.0).abs() < 0.2
    assert ((ratio - 1.0).abs() < 0.2).float().mean() > 0.8
    fresh = torch.sin(2.0 * at) + (0.05 + 0.2 * at.abs()) * torch.randn(400, 50, generator=draws)
    covered = ((fresh - means[0]).abs() <= 1.645 * stds[0]).float().mean()
    assert 0.85 < covered < 0.95


@pytest.mark.parametrize(("change", "message"), [
    ({"rows": 1}, "there are 1 rows to fit"),
    ({"entries": True}, "deterministic ensemble only"),
])  # fmt: skip
def test_refuses_what_it_cannot_fit(change: dict[str, Any], message: str) -> None:
    inputs, targets = data(change.get("rows", 10))
    entries = torch.ones(10, 2) if "entries" in change else None
    with pytest.raises(ValueError, match=message):
        fit_of(make()).fit(inputs, targets, generator(), entries=entries)


def test_refuses_another_number_of_decays() -> None:
    with pytest.raises(ValueError, match="has 5 entries; the networks have 3 layers"):
        fit_of(make(), decays=DECAYS)
