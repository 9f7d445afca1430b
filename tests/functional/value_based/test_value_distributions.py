"""HL-Gauss labels, decoders and cross-entropy: published and derived numbers, tails, shapes, types."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy.special import log_ndtr
from torch import Tensor

from prefrl.functional.value_based.value_distributions import (
    atoms,
    bin_centers,
    bin_edges,
    categorical_projection,
    cross_entropy,
    entropy,
    expected_value,
    hl_gauss_log_probs,
    hl_gauss_probs,
    quantile_huber_loss,
    resolve_sigma,
    two_hot_probs,
)

WIDTH = 20.0 / 51.0
RATIOS = [0.1, 0.25, 0.5, 0.75, 1.0, 2.0]


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def support(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Edges and centres of 51 bins on [-10, 10]."""
    edges = bin_edges(-10.0, 10.0, 51, dtype=dtype)
    return edges, bin_centers(edges)


def tail_reference(targets: Tensor, edges: Tensor, sigma: float) -> np.ndarray:
    """log p_i in float64 from scipy's logarithm of the normal distribution function."""
    x = (edges.double().numpy() - targets.double().numpy()[..., None]) / sigma
    a, b = x[..., :-1], x[..., 1:]
    upper, lower = np.where(a + b > 0, -a, b), np.where(a + b > 0, -b, a)
    log_mass = log_ndtr(upper) + np.log(-np.expm1(log_ndtr(lower) - log_ndtr(upper)))
    log_mass -= log_mass.max(-1, keepdims=True)
    return log_mass - np.log(np.exp(log_mass).sum(-1, keepdims=True))


# Supports ----------------------------------------------------------------------------------------------


def test_supports_by_hand() -> None:
    assert bin_edges(-1.0, 1.0, 4).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert bin_edges(-1.0, 1.0, 3, placement="centers").tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert bin_centers(bin_edges(-1.0, 1.0, 3, placement="centers")).tolist() == [-1.0, 0.0, 1.0]
    assert atoms(-1.0, 1.0, 5).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    # The two conventions of 51 places on [-10, 10]: bins 0.392 wide with centres to 9.804, atoms 0.4 apart.
    _, centers = support()
    assert centers[-1].item() == pytest.approx(10.0 - 10.0 / 51.0, abs=1e-12)
    assert (centers[1] - centers[0]).item() == pytest.approx(WIDTH, abs=1e-12)
    wide = bin_centers(bin_edges(-10.0, 10.0, 51, placement="centers", dtype=torch.float64))
    close(wide, atoms(-10.0, 10.0, 51, dtype=torch.float64), 1e-12)
    for made in (bin_edges(0, 1, 5, dtype=torch.float64, device="meta"),
                 atoms(0, 1, 6, dtype=torch.float64, device="meta")):  # fmt: skip
        assert (made.dtype, made.device.type, made.shape) == (torch.float64, "meta", (6,))


def test_sigma() -> None:
    assert resolve_sigma(0.4) == pytest.approx(0.3)
    assert resolve_sigma(0.4, sigma_ratio=2.0) == pytest.approx(0.8)
    assert resolve_sigma(0.4, sigma=0.1) == 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bin_edges(1.0, 1.0, 5), "v_min is 1.0 and v_max 1.0"),
        (lambda: bin_edges(0.0, math.inf, 5), "finite"),
        (lambda: atoms(math.nan, 1.0, 5), "finite"),
        (lambda: bin_edges(0.0, 1.0, 1), "bins is 1"),
        (lambda: atoms(0.0, 1.0, 1), "count is 1"),
        (lambda: bin_edges(0.0, 1.0, 5, placement="middle"), "placement is 'middle'"),  # type: ignore[arg-type]
        (lambda: resolve_sigma(0.4, sigma=1.0, sigma_ratio=1.0), "only one"),
        (lambda: resolve_sigma(0.4, sigma=0.0), "sigma is 0.0"),
        (lambda: resolve_sigma(0.4, sigma_ratio=-1.0), "sigma_ratio is -1.0"),
        (lambda: resolve_sigma(math.inf), "bin_width is inf"),
        (lambda: bin_centers(torch.zeros(1)), r"edges has shape \(1,\)"),
        (lambda: hl_gauss_log_probs(torch.zeros(2), torch.zeros(2), 1.0), r"edges has shape \(2,\)"),
        (lambda: hl_gauss_probs(torch.zeros(2), torch.zeros(2, 5), 1.0, clamp=True), r"shape \(2, 5\)"),
        (lambda: two_hot_probs(torch.zeros(2), torch.zeros(1)), r"atoms has shape \(1,\)"),
        (lambda: categorical_projection(torch.ones(2), torch.ones(2), torch.ones(1)), "atoms has shape"),
        (lambda: categorical_projection(torch.zeros(2, 3), torch.zeros(3), torch.zeros(5)), "same shape"),
        (lambda: quantile_huber_loss(torch.zeros(2), torch.zeros(2), kappa=-1.0), "kappa is -1.0"),
        (lambda: quantile_huber_loss(torch.zeros(2), torch.zeros(2), kappa=math.inf), "kappa is inf"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# HL-Gauss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("ratio", RATIOS)
def test_labels_equal_differences_of_error_functions(ratio: float, clamp: bool) -> None:
    """The definition in plain Python, inside the support."""
    edges, _ = support()
    sigma = ratio * WIDTH
    for y in (-10.0, -9.9, -3.3, 0.0, edges[20].item(), 0.77, 9.99, 10.0):
        cdf = [math.erf((e - y) / (math.sqrt(2.0) * sigma)) for e in edges.tolist()]
        expected = [(b - a) / (cdf[-1] - cdf[0]) for a, b in pairwise(cdf)]
        label = hl_gauss_probs(torch.tensor(y, dtype=torch.float64), edges, sigma, clamp=clamp)
        close(label, torch.tensor(expected, dtype=torch.float64), 1e-14)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize(("ratio", "bias"), [(0.25, 9.27e-2), (0.5, 2.29e-3), (0.75, 4.79e-6)])
def test_the_decoded_mean_is_off_by_aliasing_alone(ratio: float, bias: float, clamp: bool) -> None:
    """Farebrother et al. 2024 leave the bias open; it is (width / pi) exp(-2 pi^2 ratio^2)."""
    edges, centers = support()
    targets = torch.linspace(-2.0 * WIDTH, 2.0 * WIDTH, 4001, dtype=torch.float64)
    labels = hl_gauss_probs(targets, edges, ratio * WIDTH, clamp=clamp)
    seen = (labels @ centers - targets).abs().max().item() / WIDTH
    assert seen == pytest.approx(math.exp(-2.0 * (math.pi * ratio) ** 2) / math.pi, rel=0.02)
    assert seen == pytest.approx(bias, rel=0.02)


def test_a_ratio_of_one_is_exact() -> None:
    edges, centers = support()
    targets = torch.linspace(-1.0, 1.0, 401, dtype=torch.float64)
    labels = hl_gauss_probs(targets, edges, WIDTH)
    assert (labels @ centers - targets).abs().max() < 1.1 * 8.5e-10 * WIDTH


EDGE_BIAS = {
    0.5: [-0.546, -0.190, -0.035, -0.0001, 0.0],
    0.75: [-0.690, -0.369, -0.155, -0.0096, -0.0001],
    1.0: [-0.866, -0.552, -0.312, -0.060, -0.005],
    2.0: [-1.63, -1.32, -1.04, -0.587, -0.283],
}


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("ratio", EDGE_BIAS)
def test_near_an_end_the_mean_is_pulled_inside(ratio: float, clamp: bool) -> None:
    edges, centers = support()
    depth = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64) * WIDTH
    for side in (1.0, -1.0):
        targets = side * (10.0 - depth)
        labels = hl_gauss_probs(targets, edges, ratio * WIDTH, clamp=clamp)
        bias = side * (labels @ centers - targets) / WIDTH
        close(bias, torch.tensor(EDGE_BIAS[ratio], dtype=torch.float64), 0.002)


@pytest.mark.parametrize("sigmas", [0.0, 1.0, 5.0, 5.6, 8.0, 30.0, 100.0, 1000.0])
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_tail_agrees_with_float64(ratio: float, sigmas: float) -> None:
    edges, _ = support(torch.float32)
    sigma = ratio * WIDTH
    targets = torch.tensor([10.0 + sigmas * sigma, -10.0 - sigmas * sigma, 9.7 + sigmas * sigma])
    reference = torch.from_numpy(tail_reference(targets, edges, sigma))
    log_probs = hl_gauss_log_probs(targets, edges, sigma)
    assert log_probs.dtype == torch.float32
    assert log_probs.isfinite().all()
    assert ((log_probs - reference).abs() <= 1e-6 * (1.0 + reference.abs())).all()
    probs = hl_gauss_probs(targets, edges, sigma)
    close(probs.double(), reference.exp(), 5e-7)
    close(probs.sum(-1), torch.ones(3), 1e-6)
    exact = hl_gauss_log_probs(targets.double(), edges.double(), sigma)
    torch.testing.assert_close(exact, reference, rtol=1e-11, atol=1e-12)


def test_a_hundred_sigma_outside() -> None:
    edges, centers = support(torch.float32)
    sigma = 0.75 * WIDTH
    targets = torch.tensor([10.0 + 100.0 * sigma, -10.0 - 100.0 * sigma, 1e9, -1e30])
    labels = hl_gauss_probs(targets, edges, sigma)
    close(labels.sum(-1), torch.ones(4), 1e-6)
    # All mass is in the outer bin, where the plain quotient of error functions is 0 / 0.
    close(labels @ centers, centers[-1] * torch.tensor([1.0, -1.0, 1.0, -1.0]), 1e-6)
    close(labels[:2].double(), torch.from_numpy(np.exp(tail_reference(targets[:2], edges, sigma))), 6e-8)
    # Clamped targets decode to what the end itself does.
    clamped = hl_gauss_probs(targets, edges, sigma, clamp=True)
    assert torch.equal(clamped[::2], hl_gauss_probs(torch.tensor([10.0, 10.0]), edges, sigma, clamp=True))
    assert (clamped[0] @ centers).item() == pytest.approx(10.0 - 0.690 * WIDTH, abs=0.002 * WIDTH)


@given(st.floats(-10.0, 10.0), st.integers(2, 80), st.floats(0.05, 8.0), st.floats(-5.0, 5.0), st.booleans())
def test_labels_are_distributions_that_move_with_the_target(
    y: float, bins: int, ratio: float, shift: float, clamp: bool
) -> None:
    edges = bin_edges(-10.0, 10.0, bins, dtype=torch.float64)
    sigma, target = ratio * 20.0 / bins, torch.tensor(y, dtype=torch.float64)
    label = hl_gauss_probs(target, edges, sigma, clamp=clamp)
    assert (label >= 0.0).all()
    assert label.sum().item() == pytest.approx(1.0, abs=1e-12)
    close(hl_gauss_probs(target + shift, edges + shift, sigma, clamp=clamp), label, 1e-9)
    close(hl_gauss_probs(-target, -edges.flip(0), sigma, clamp=clamp), label.flip(0), 1e-12)
    close(hl_gauss_probs(3.0 * target, 3.0 * edges, 3.0 * sigma, clamp=clamp), label, 1e-12)
    close(hl_gauss_probs(target, edges, sigma, clamp=not clamp), label, 1e-12)
    higher = hl_gauss_probs(target + 0.5, edges, sigma)
    assert higher @ bin_centers(edges) >= label @ bin_centers(edges) - 1e-9


# Entropy, start, estimand ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "floor"), [(0.25, 0.217), (0.5, 0.860), (0.75, 1.200), (1.0, 1.459), (2.0, 2.122)]
)
def test_cross_entropy_cannot_fall_below_the_entropy_of_the_label(ratio: float, floor: float) -> None:
    edges, centers = support()
    label = hl_gauss_probs(centers[25], edges, ratio * WIDTH)
    assert entropy(label).item() == pytest.approx(floor, abs=0.001)
    best = hl_gauss_log_probs(centers[25], edges, ratio * WIDTH)
    assert cross_entropy(best, label).item() == pytest.approx(entropy(label).item(), abs=1e-12)
    worse = cross_entropy(best + 0.1 * torch.randn(51, dtype=torch.float64), label)
    assert worse > entropy(label) + 1e-6


def test_zero_logits() -> None:
    """They decode to the middle of the support, and the loss starts at log m."""
    logits = torch.zeros(51, dtype=torch.float64)
    edges = bin_edges(0.0, 100.0, 51, dtype=torch.float64)
    assert expected_value(logits, bin_centers(edges)).item() == pytest.approx(50.0, abs=1e-9)
    label = hl_gauss_probs(torch.tensor(3.0, dtype=torch.float64), edges, 1.0)
    assert cross_entropy(logits, label).item() == pytest.approx(math.log(51.0), abs=1e-9)
    assert math.log(51.0) == pytest.approx(3.932, abs=5e-4)


def test_entropy_by_hand() -> None:
    distributions = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    close(entropy(distributions), torch.tensor([math.log(2.0), 0.0, 1.5 * math.log(2.0)]), 1e-6)


def test_the_average_label_decodes_to_the_average_target() -> None:
    """Decoding is linear, so cross-entropy and squared error want the same, E[y], for y well inside."""
    edges, centers = support()
    rng = np.random.default_rng(0)
    targets = torch.from_numpy(rng.choice([-8.5, -1.0, 0.3, 8.8], size=20_000, p=[0.2, 0.3, 0.4, 0.1]))
    targets = targets.clamp(-10.0 + 3.0 * WIDTH, 10.0 - 3.0 * WIDTH)
    mean_label = hl_gauss_probs(targets, edges, 0.75 * WIDTH).mean(0)
    assert abs(mean_label @ centers - targets.mean()) < 1e-4 * WIDTH
    # And it is where gradient descent on the mean loss comes to rest.
    logits = mean_label.log().clamp(min=-50.0).requires_grad_()
    sample = hl_gauss_probs(targets[:500], edges, 0.75 * WIDTH)
    (gradient,) = torch.autograd.grad(cross_entropy(logits.expand(500, -1), sample).mean(), logits)
    close(gradient, mean_label - sample.mean(0), 1e-9)


# Shapes, types, gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (3, 4, 2)])
def test_any_batch_shape(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    edges, centers = support()
    targets = 30.0 * torch.rand(shape, generator=generator, dtype=torch.float64) - 15.0
    logits = torch.randn((*shape, 51), generator=generator, dtype=torch.float64)
    moved = targets[..., None] + 0.9 * centers
    whole = {
        "log": lambda y, x, m: hl_gauss_log_probs(y, edges, 0.3),
        "clamp": lambda y, x, m: hl_gauss_probs(y, edges, 0.3, clamp=True),
        "two hot": lambda y, x, m: two_hot_probs(y, centers),
        "c51": lambda y, x, m: categorical_projection(x.softmax(-1), m, centers),
        "value": lambda y, x, m: expected_value(x, centers),
        "loss": lambda y, x, m: cross_entropy(x, two_hot_probs(y, centers)),
        "entropy": lambda y, x, m: entropy(x.softmax(-1)),
        "quantile": lambda y, x, m: quantile_huber_loss(x, m[..., :7]),
    }
    for name, function in whole.items():
        result = function(targets, logits, moved)
        last = result.shape[len(shape) :]
        assert result.shape == (*shape, *last), name
        assert last == ((51,) if name in ("log", "clamp", "two hot", "c51") else ()), name
        rows = zip(targets.reshape(-1), logits.reshape(-1, 51), moved.reshape(-1, 51), strict=True)
        close(result.reshape(-1, *last), torch.stack([function(*row) for row in rows]), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_types(dtype: torch.dtype) -> None:
    """float64 stays; half precision is computed in float32, also under autocast."""
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    edges, centers = support(wanted)
    targets = torch.tensor([-3.25, 0.5, 9.0, 40.0], dtype=dtype)  # exact in all of them
    logits = torch.randint(-8, 8, (4, 51), generator=torch.Generator().manual_seed(0)).to(dtype) / 4
    probs = logits.to(wanted).softmax(-1)

    moved = (targets[:, None] + 0.9 * centers).to(dtype)

    def results() -> list[Tensor]:
        labels = [hl_gauss_probs(targets, edges, 0.3, clamp=clamp) for clamp in (False, True)]
        labels += [hl_gauss_log_probs(targets, edges, 0.3), two_hot_probs(targets, centers)]
        labels.append(categorical_projection(probs.to(dtype), moved, centers))
        return [*labels, expected_value(logits, centers), cross_entropy(logits, labels[0]), entropy(probs),
                quantile_huber_loss(logits, targets[:, None])]  # fmt: skip

    plain = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = results()
    exact_edges, exact_centers = support()
    for got in (plain, mixed):
        assert [r.dtype for r in got] == [wanted] * len(got)
        close(got[0].double(), hl_gauss_probs(targets.double(), exact_edges, 0.3), 1e-6)
        close(got[3].double(), two_hot_probs(targets.double(), exact_centers), 1e-5)
        distribution = categorical_projection(probs.to(dtype).double(), moved.double(), exact_centers)
        close(got[4].double(), distribution, 1e-5)
        close(got[5].double(), expected_value(logits.double(), exact_centers), 2e-6)
        label = hl_gauss_probs(targets.double(), exact_edges, 0.3)
        close(got[6].double(), cross_entropy(logits.double(), label), 2e-6)
        close(got[8].double(), quantile_huber_loss(logits.double(), targets.double()[:, None]), 1e-3)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    probs = torch.rand(3, 7, generator=generator, dtype=torch.float64).softmax(-1)
    places = atoms(-1.0, 2.0, 7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, probs), (logits,))
    assert torch.autograd.gradcheck(lambda x: expected_value(x, places), (logits,))
    targets = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    for kappa in (0.0, 0.3, 1.0):
        assert torch.autograd.gradcheck(
            lambda x, kappa=kappa: quantile_huber_loss(x, targets, kappa=kappa), (logits,)
        )


def test_the_device_is_that_of_the_tensors_and_is_not_waited_for() -> None:
    """On the meta device nothing has a value: whatever asks for one raises."""
    y, z, x = (torch.empty(shape, device="meta") for shape in ((5,), (51,), (5, 51)))
    results = [hl_gauss_log_probs(y, z, 0.3), hl_gauss_probs(y, z, 0.3), two_hot_probs(y, z),
               hl_gauss_probs(y, z, 0.3, clamp=True), categorical_projection(x, x, z), bin_centers(z),
               quantile_huber_loss(x, x), expected_value(x, z), cross_entropy(x, x), entropy(x)]  # fmt: skip
    assert {result.device.type for result in results} == {"meta"}
    with torch.device("meta"):  # another default device does not matter
        assert two_hot_probs(torch.zeros(2, device="cpu"), atoms(0, 1, 3, device="cpu")).device.type == "cpu"


def test_arguments_are_left_alone() -> None:
    edges, centers = support()
    targets = torch.tensor([0.3, 12.0], dtype=torch.float64)
    probs = torch.full((2, 51), 1.0 / 51.0, dtype=torch.float64)
    moved = targets[:, None] + centers
    given_before = [t.clone() for t in (edges, centers, targets, probs, moved)]
    hl_gauss_probs(targets, edges, 0.3)
    hl_gauss_probs(targets, edges, 0.3, clamp=True)
    two_hot_probs(targets, centers)
    categorical_projection(probs, moved, centers)
    quantile_huber_loss(probs, moved)
    for before, after in zip(given_before, (edges, centers, targets, probs, moved), strict=True):
        assert torch.equal(before, after)


def test_the_projection_can_be_differentiated() -> None:
    places, probs = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    locations = torch.tensor([-1.3, -0.2, 0.1, 0.9], dtype=torch.float64).expand(3, 4)

    def project(probs: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
        return categorical_projection(probs, locations, places)

    assert torch.autograd.gradcheck(project, (probs.requires_grad_(), locations.clone().requires_grad_()))
