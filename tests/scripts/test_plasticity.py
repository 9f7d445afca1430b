"""The plasticity study against one network at a time, and its numbers."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prefrl.functional.value_based.value_distributions import hl_gauss_log_probs

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce_plasticity.py"
LOSSES = ["mse", "mse_softmax", "two_hot", "hl_gauss"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reproduce_plasticity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def small(script, **changes):
    settings = {"num_seeds": 2, "points": 40, "inputs": 4, "hidden": (8, 6), "steps": 12, "batch_size": 16,
                "eval_every": 6, "offsets": (0.0, 3.0, 6.0), "v_max": 10.0, "bins": 21,
                "learning_rate": 1e-2}  # fmt: skip
    return script.Plasticity(**(settings | changes))


def curve(script, study, loss, tasks):
    return torch.stack(list(script.train(study, loss, tasks)), 1)


def twin(script, study, loss, tasks, seed):
    """Errors [measurements] of one seed, by torch's own layers and plain loops over points."""
    bins, width = study.bins, 2 * study.v_max / study.bins
    start = script.start_network(study, None if loss == "mse" else torch.arange(1.0 * bins))
    layers = []
    for layer in start.layers:
        linear = nn.Linear(*layer.weight.shape[1:])
        linear.weight.data = layer.weight[seed].T.detach().clone()
        linear.bias.data = layer.bias[seed, 0].detach().clone()
        layers += [linear, nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    if loss != "mse":
        network[-1].weight.data.zero_()
        network[-1].bias.data.zero_()
    edges = torch.tensor([-study.v_max + width * i for i in range(bins + 1)])
    places = torch.linspace(-study.v_max, study.v_max, bins)
    support = places if loss == "two_hot" else (edges[1:] + edges[:-1]) / 2

    def two_hot(y):
        row, below = torch.zeros(bins), max(i for i in range(bins - 1) if places[i] <= y)
        row[below + 1] = (y - places[below]) / (places[below + 1] - places[below])
        row[below] = 1 - row[below + 1]
        return row

    def value(outputs):
        return outputs[:, 0] if loss == "mse" else outputs.softmax(1) @ support

    def loss_of(outputs, y):
        if loss.startswith("mse"):
            return nn.functional.mse_loss(value(outputs), y)
        gauss = hl_gauss_log_probs(y, edges, study.sigma_ratio * width).exp()
        labels = torch.stack([two_hot(each) for each in y]) if loss == "two_hot" else gauss
        return nn.functional.cross_entropy(outputs, labels)

    optimizer = torch.optim.Adam(network.parameters(), lr=study.learning_rate)
    x, errors = tasks.x[seed], []
    for phase in range(len(study.offsets)):
        for step, rows in enumerate(script.batches(study, phase)[:, seed], start=1):
            optimizer.zero_grad()
            loss_of(network(x[rows]), tasks.targets[phase, seed, rows]).backward()
            optimizer.step()
            if step % study.eval_every == 0:
                errors.append((value(network(x)) - tasks.targets[phase, seed]).square().mean().item())
    return errors


@pytest.mark.parametrize("loss", LOSSES)
def test_a_stack_learns_what_single_networks_learn(script, loss):
    study = small(script)
    tasks = script.make_tasks(study, 10.0)
    errors = curve(script, study, loss, tasks)
    assert errors.shape == (2, 6)
    for seed in range(2):
        np.testing.assert_allclose(errors[seed], twin(script, study, loss, tasks, seed), rtol=2e-3)


def test_targets_are_sines_of_a_fresh_network_in_every_phase(script):
    study = small(script, points=500)
    tasks = script.make_tasks(study, 10.0)
    waves = tasks.targets - torch.tensor(study.offsets)[:, None, None]
    assert waves.abs().max() <= 1 + 1e-5
    frozen = [script.make_networks(study, None, "frozen network", phase)(tasks.x) for phase in range(3)]
    torch.testing.assert_close(waves, torch.sin(10.0 * torch.stack(frozen)).detach(), atol=1e-5, rtol=0)
    flat = waves.flatten(0, 1)
    assert not any(torch.allclose(flat[i], flat[j], atol=0.01) for i in range(6) for j in range(i))
    fast = script.make_tasks(study, 1e5)
    assert torch.equal(fast.x, tasks.x)
    wild = fast.targets - torch.tensor(study.offsets)[:, None, None]
    assert wild.var(-1).min() > 0.4  # a sine of many turns: 1/2


def test_batches_are_fresh_in_every_phase_and_seed(script):
    study = small(script)
    first, second = script.batches(study, 0), script.batches(study, 1)
    assert first.shape == (12, 2, 16)
    assert set(first.flatten().tolist()) == set(range(40))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(first[0], first[1])


def test_losses_start_from_the_same_hidden_layers_at_value_0(script):
    study = small(script)
    scalar = script.start_network(study, None)
    for loss in LOSSES[1:]:
        support, _ = script.decoder(loss, study)
        network = script.start_network(study, support)
        for mine, other in zip(network.layers[:-1], scalar.layers[:-1], strict=True):
            assert torch.equal(mine.weight, other.weight)
            assert torch.equal(mine.bias, other.bias)
        values = script.decode(network(torch.randn(2, 5, 4)), support)
        torch.testing.assert_close(values, torch.zeros(2, 5), atol=1e-5, rtol=0)


def test_a_seed_does_not_depend_on_the_others(script):
    both = small(script)
    alone = small(script, num_seeds=1, seed=1)
    for loss in ("mse", "hl_gauss"):
        pair = curve(script, both, loss, script.make_tasks(both, 10.0))
        one = curve(script, alone, loss, script.make_tasks(alone, 10.0))
        torch.testing.assert_close(pair[1:], one, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(pair[0], pair[1], rtol=0.01)


def test_comparisons(script):
    def ends(first, last):
        return np.array([first, last]).T

    result = script.compare(
        {
            "mse": ends([1.0, 1.0, 2.0, 2.0, 1.0], [2.0, 2.0, 4.0, 4.0, 2.0]),
            "mse_softmax": ends([1.0] * 5, [0.9, 1.0, 2.0, 2.0, 2.0]),
            "two_hot": ends([1.0] * 5, [2.0, 2.0, 2.0, 1.0, 0.5]),
            "hl_gauss": ends([1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]),
        }
    )
    assert result["last_over_first"]["mse"]["iqm"] == 2.0
    assert result["last_over_first"]["mse"]["seeds"] == [2.0] * 5
    assert result["mse_grows_at_least_2"] is True
    assert result["hl_gauss_grows_at_most_1.5"] is True
    assert result["seeds_with_hl_gauss_below_two_hot"] == 3
    assert result["hl_gauss_below_two_hot_in_4_of_5"] is False
    assert result["seeds_with_mse_softmax_not_below_hl_gauss"] == 4
    assert result["mse_softmax_not_below_hl_gauss_in_4_of_5"] is True


def test_an_error_that_is_not_finite_stops_the_run(script):
    study = small(script)
    tasks = script.make_tasks(study, 10.0)
    tasks.targets[1] = float("inf")
    with pytest.raises(FloatingPointError, match=r"error of mse is .* step 6 of phase 1"):
        curve(script, study, "mse", tasks)


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_small_run(tmp_path):
    flags = ("--num-seeds", 3, "--points", 64, "--hidden", 16, 8, "--steps", 20, "--eval-every", 10,
             "--batch-size", 16, "--offsets", 0, 8)  # fmt: skip
    results = []
    for name in ("a", "b"):
        done = run(*flags, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(tmp_path / name / "result.json")
        assert (tmp_path / name / "plasticity.png").stat().st_size > 10_000
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
    result, again = results
    assert result["end_mse"] == again["end_mse"]
    assert set(result["end_mse"]) == {"10", "100000"}
    for key, of in result["end_mse"].items():
        assert set(of) == set(LOSSES)
        for loss, end in of.items():
            curves = np.array(result["curves"][key][loss])
            assert curves.shape == (3, 4)
            np.testing.assert_array_equal(end["seeds"], curves[:, [1, 3]])
            assert (np.array(end["low"]) <= end["iqm"]).all()
            assert (np.array(end["iqm"]) <= end["high"]).all()
            growth = result["comparisons"][key]["last_over_first"][loss]["seeds"]
            np.testing.assert_allclose(growth, curves[:, 3] / curves[:, 1])
        assert len(result["target_variance"][key]) == 2
    assert all(0.3 < variance < 0.7 for variance in result["target_variance"]["100000"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seeds": 0}, "num_seeds is 0"),
        ({"steps": 10, "eval_every": 3}, "eval_every is 3"),
        ({"frequencies": ()}, "frequencies is"),
        ({"frequencies": (10.0, 10.0)}, "frequencies is"),
        ({"offsets": (8.0,)}, "offsets is"),
        ({"offsets": (0.0, -9.5)}, "v_max is 10"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"bins": 1}, "bins is 1"),
        ({"sigma_ratio": 0.0}, "sigma_ratio is 0"),
    ],
)
def test_settings_that_make_no_study_are_refused(script, changes, message):
    with pytest.raises(ValueError, match=message):
        small(script, **changes)
