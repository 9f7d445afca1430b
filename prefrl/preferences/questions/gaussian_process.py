"""Where to look next, by a Gaussian process: the best point of a domain, or a whole curve.

The process, its fit and what is maximised over a domain are BoTorch's (extra ``bayes``). Ours is the choice
in a pool: by largest variance (kriging), by expected improvement over the best posterior mean, by knowledge
gradient, exactly over the pool. Points may be settings of an agent, states to label, or whatever numbers say.

Sources: Frazier's tutorial (arXiv 1807.02811); curves by largest variance: arXiv 2010.06896.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from prefrl.config import Count, Natural, NonNegative, Positive, checked
from prefrl.functional.preferences.general_models.questions import (
    expected_improvement,
    greedy_max_variance,
    knowledge_gradient,
)

AcquisitionName = Literal[
    "expected_improvement", "noisy_expected_improvement", "knowledge_gradient", "variance"
]
"""What :func:`maximise` looks for: improvement of the best value seen (for values without noise), of the best
mean under noise, of what is known about the best, or ignorance."""

LEAST_NOISE = 2e-6
"""Noise that values without any are given, in their variances, so that matrices can be inverted: GPyTorch
takes no less than half of it."""

PointQueryKind = Literal["variance", "expected_improvement", "knowledge_gradient"]
"""Ways to choose points of a pool."""


def _import_botorch() -> Any:
    """Return BoTorch.

    Raises:
        ImportError: if it is not installed; it says how to install it.
    """
    try:
        import botorch.acquisition
        import botorch.models.transforms
        import botorch.optim
        import botorch.utils.sampling
    except ImportError as error:
        raise ImportError("Gaussian processes need BoTorch: pip install 'prefrl[bayes]'") from error
    return botorch


class GaussianProcess:
    """A Gaussian process on a box, conditioned on what was seen.

    Inputs are measured in the box, values in their mean and standard deviation (those of what was seen). With
    nothing given, length scales and noise are those of the largest marginal likelihood.

    Args:
        inputs: [N, d] points that were looked at.
        values: [N] what was seen there.
        bounds: [2, d] lowest and highest point of the box.
        length_scale: of the squared exponential kernel, in the unit of the inputs, if it is known.
        noise: variance of a value, in the unit of the values, if it is known; 0: there is none.

    Attributes:
        model: BoTorch's ``SingleTaskGP``.

    Raises:
        ImportError: without BoTorch.
        ValueError: for shapes or numbers that do not fit.
    """

    def __init__(
        self, inputs: Tensor, values: Tensor, bounds: Tensor, *, length_scale: float | None = None,
        noise: float | None = None,
    ) -> None:  # fmt: skip
        botorch = _import_botorch()
        self.bounds = check_bounds(bounds)
        checked(Positive | None, length_scale, "length_scale")
        checked(NonNegative | None, noise, "noise")
        size = self.bounds.shape[1]
        if inputs.ndim != 2 or inputs.shape[1] != size or values.shape != inputs.shape[:1] or not len(inputs):
            raise ValueError(f"inputs have shape {list(inputs.shape)} and values {list(values.shape)}; they "
                             f"must be [N, {size}] and [N]")  # fmt: skip
        inputs, values = inputs.double(), values.double()[:, None]
        if not bool(torch.isfinite(inputs).all() & torch.isfinite(values).all()):
            raise ValueError("inputs or values hold NaN or infinity")
        self.inputs, self.noise = inputs, noise
        scale = float(values.var()) if len(values) > 1 else 1.0
        known = None if noise is None else torch.full_like(values, max(noise, LEAST_NOISE * scale))
        self.model = botorch.models.SingleTaskGP(
            inputs, values, train_Yvar=known, outcome_transform=botorch.models.transforms.Standardize(1),
            input_transform=botorch.models.transforms.Normalize(size, bounds=self.bounds),
        )  # fmt: skip
        if length_scale is not None:
            self.model.covar_module.lengthscale = length_scale / (self.bounds[1] - self.bounds[0])
            self.model.covar_module.raw_lengthscale.requires_grad_(False)
        if length_scale is None or noise is None:
            from gpytorch.mlls import ExactMarginalLogLikelihood  # comes with BoTorch

            botorch.fit_gpytorch_mll(ExactMarginalLogLikelihood(self.model.likelihood, self.model))
        self.model.eval()

    def believed(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means [N] and covariances [N, N] of values without noise at points [N, d]."""
        with torch.no_grad():
            posterior = self.model.posterior(points.double())
            covariance: Tensor = posterior.distribution.covariance_matrix
            mean: Tensor = posterior.mean[:, 0]
            return mean, covariance

    def noise_variance(self) -> float:
        """Return the variance of an observation's noise, in the unit of the values."""
        if self.noise is not None:
            return self.noise
        scale = self.model.outcome_transform.stdvs.squeeze()
        return float(self.model.likelihood.noise.squeeze().detach() * scale.square())


def choose_points(
    process: GaussianProcess, points: Tensor, count: int, *, query: PointQueryKind = "variance"
) -> Tensor:
    """Return the places [count] of points of a pool to look at next.

    Args:
        process: what is believed.
        points: [N, d] the pool.
        count: how many. Those of largest variance are chosen one after another, as if those before had been
            looked at; the others by their worth alone.
        query: how. Expected improvement is over the best posterior mean of what was looked at; knowledge
            gradient is of the best of the pool.

    Raises:
        ValueError: for a bad argument, or if the pool is too small.
    """
    checked(PointQueryKind, query, "query")
    if checked(Count, count, "count") > len(points):
        raise ValueError(f"count is {count}; the pool has {len(points)} points")
    mean, covariance = process.believed(points)
    noise = process.noise_variance()
    if query == "variance":
        return greedy_max_variance(covariance[None], torch.full_like(mean, noise)[None], count)[0]
    variance = covariance.diagonal().clamp(min=0.0)
    if query == "expected_improvement":
        best = process.believed(process.inputs)[0].max()
        worth = expected_improvement(mean, variance.sqrt(), best)
    else:
        smallest = torch.finfo(mean.dtype).tiny
        worth = knowledge_gradient(mean, covariance / (variance + noise).clamp(min=smallest).sqrt()[:, None])
    return worth.topk(count).indices


class Found(NamedTuple):
    """What :func:`maximise` looked at, in order, and what it recommends."""

    inputs: Tensor
    """[N, d]."""
    values: Tensor
    """[N]."""
    best: Tensor
    """[d] the point looked at with the largest posterior mean."""


def maximise(
    objective: Callable[[Tensor], Any], bounds: Tensor, evaluations: int, *,
    acquisition: AcquisitionName = "noisy_expected_improvement", initial: int = 5, noise: float | None = None,
    restarts: int = 4, samples: int = 128, fantasies: int = 16, seed: int = 0,
) -> Found:  # fmt: skip
    """Look for the largest value of a function on a box, where every look is costly.

    Args:
        objective: returns the value, a number, at a point [d].
        bounds: [2, d].
        evaluations: looks in all.
        acquisition: what the next point is chosen by.
        initial: points of a scrambled Sobol sequence that come first.
        noise: variance of the values, if it is known; 0: there is none.
        restarts: local searches for the next point.
        samples: points among which these start.
        fantasies: outcomes that BoTorch's knowledge gradient plays through.
        seed: of all that is drawn; torch's own generator is left as it was.

    Raises:
        ImportError: without BoTorch.
        ValueError: for a bad argument, or if the objective returns NaN or infinity.
    """
    botorch, bounds = _import_botorch(), check_bounds(bounds)
    checked(AcquisitionName, acquisition, "acquisition")
    for name, value in (("initial", initial), ("restarts", restarts), ("samples", samples),
                        ("fantasies", fantasies)):  # fmt: skip
        checked(Count, value, name)
    if checked(Count, evaluations, "evaluations") < max(2, initial):
        raise ValueError(
            f"evaluations is {evaluations}; it must be at least 2, and at least initial, {initial}"
        )
    seed = checked(Natural, seed, "seed")
    inputs = botorch.utils.sampling.draw_sobol_samples(bounds, n=max(2, initial), q=1, seed=seed)[
        :, 0
    ].double()
    values = torch.tensor([_look(objective, point) for point in inputs], dtype=torch.float64)
    search = {"bounds": bounds, "q": 1, "num_restarts": restarts, "raw_samples": samples}
    for number in range(len(inputs), evaluations):
        process = GaussianProcess(inputs, values, bounds, noise=noise)
        with botorch.utils.sampling.manual_seed(seed + 7919 * number):
            worth = _acquisition(botorch, process, values, acquisition, fantasies)
            point = botorch.optim.optimize_acqf(worth, **search)[0].detach()
        inputs = torch.cat([inputs, point])
        values = torch.cat([values, values.new_tensor([_look(objective, point[0])])])
    means, _ = GaussianProcess(inputs, values, bounds, noise=noise).believed(inputs)
    return Found(inputs, values, inputs[means.argmax()])


def _acquisition(
    botorch: Any, process: GaussianProcess, values: Tensor, name: AcquisitionName, fantasies: int
) -> Any:  # fmt: skip
    """Return BoTorch's acquisition function."""
    if name == "expected_improvement":
        return botorch.acquisition.LogExpectedImprovement(process.model, best_f=values.max())
    if name == "noisy_expected_improvement":
        return botorch.acquisition.qLogNoisyExpectedImprovement(process.model, X_baseline=process.inputs)
    if name == "knowledge_gradient":
        return botorch.acquisition.qKnowledgeGradient(process.model, num_fantasies=fantasies)
    return botorch.acquisition.PosteriorStandardDeviation(process.model)


def _look(objective: Callable[[Tensor], Any], point: Tensor) -> float:
    value = float(objective(point))
    if not abs(value) < float("inf"):
        raise ValueError(f"objective returned {value} at {point.tolist()}; it must return finite numbers")
    return value


def check_bounds(bounds: Tensor) -> Tensor:
    """Return the bounds of a box in float64.

    Raises:
        ValueError: if they are none.
    """
    bounds = torch.as_tensor(bounds, dtype=torch.float64)
    if bounds.ndim != 2 or bounds.shape[0] != 2 or not bounds.shape[1]:
        raise ValueError(f"bounds have shape {list(bounds.shape)}; they must be [2, d], lowest and highest")
    if not bool(torch.isfinite(bounds).all() & (bounds[0] < bounds[1]).all()):
        raise ValueError(f"bounds are {bounds.tolist()}; every lowest must be below its highest, and finite")
    return bounds
