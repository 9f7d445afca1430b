"""Points of known functions, chosen by what a Gaussian process believes: what such a choice finds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prefrl.functional.preferences.general_models.questions import expected_improvement
from prefrl.preferences.questions import GaussianProcess, choose_points, maximise
from prefrl.preferences.questions.gaussian_process import AcquisitionName, PointQueryKind


def generator(seed: int) -> torch.Generator:
    """Generator of draws."""
    return torch.Generator().manual_seed(seed)


def normal(g: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=g, dtype=torch.float64)


# The best point -----------------------------------------------------------------------------------------


def improvement(seed: int, draws: int = 4_000_000) -> dict[str, float]:
    """Difference of expected improvement and the mean over draws, at a random belief."""
    g = generator(seed)
    mean, best, deviation = normal(g), normal(g), 0.1 + torch.rand((), generator=g, dtype=torch.float64)
    seen = (mean + deviation * normal(g, draws) - best).clamp(min=0.0).mean()
    return {"difference": float((expected_improvement(mean, deviation, best) - seen).abs())}


BOX = torch.tensor([[-5.0, 0.0], [10.0, 15.0]], dtype=torch.float64)
"""Where Branin's function is looked at."""

LOWEST = 0.397887
"""Of Branin's function."""


def branin(points: Tensor) -> Tensor:
    """Return Branin's function, turned round to be maximised, at points [..., 2]."""
    x, y = points.unbind(-1)
    bend = y - 5.1 / (4.0 * math.pi**2) * x.square() + 5.0 / math.pi * x - 6.0
    return -(bend.square() + 10.0 * (1.0 - 1.0 / (8.0 * math.pi)) * x.cos() + 10.0)


def optimum(seed: int, acquisition: AcquisitionName = "expected_improvement") -> dict[str, float]:
    """Regret of the best of 30 looks at Branin's function, 5 of them at the beginning."""
    found = maximise(branin, BOX, 30, acquisition=acquisition, noise=0.0, seed=seed)
    return {"regret": float(-LOWEST - found.values.max())}


def noisy_optimum(seed: int, looks: int = 30, points: int = 150, deviation: float = 10.0) -> dict[str, float]:
    """Regret of the point recommended after 30 noisy looks at Branin's function, among 150 points.

    Both begin with the same 5, and the noise at each number of looks is the same.
    """
    engine = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    pool = engine.draw(points, dtype=torch.float64)
    pool = BOX[0] + pool * (BOX[1] - BOX[0])
    truth, noise = branin(pool), deviation * normal(generator(seed), looks)
    kinds: tuple[PointQueryKind, ...] = ("expected_improvement", "knowledge_gradient")
    found: dict[str, float] = {}
    for query in kinds:
        places = torch.arange(5)
        while True:
            values = truth[places] + noise[: len(places)]
            process = GaussianProcess(pool[places], values, BOX, noise=deviation**2)
            if len(places) == looks:
                break
            places = torch.cat([places, choose_points(process, pool, 1, query=query)])
        found[query] = float(truth.max() - truth[process.believed(pool)[0].argmax()])
    return found


# A whole curve ------------------------------------------------------------------------------------------


def curve(seed: int, looks: int = 12, length_scale: float = 0.1) -> dict[str, float]:
    """Squared error of a curve after 12 looks where it is least known, over that after looks at random.

    The curve is a draw of a Gaussian process whose length scale is known, at 201 points of [0, 1].
    """
    g, unit = generator(seed), torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    points = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)[:, None]
    kernel = torch.exp(-0.5 * ((points - points.T) / length_scale).square())
    factor = torch.linalg.cholesky(kernel + 1e-8 * torch.eye(len(points), dtype=torch.float64))
    truth = factor @ normal(g, len(points))
    order = torch.randperm(len(points), generator=g)

    def process(places: Tensor) -> GaussianProcess:
        return GaussianProcess(points[places], truth[places], unit, length_scale=length_scale, noise=0.0)

    def error(places: Tensor) -> float:
        return float((process(places).believed(points)[0] - truth).square().mean())

    begin = order[:2]  # two, so that values have a deviation
    chosen = torch.cat([begin, choose_points(process(begin), points, looks - 2)])
    return {"ratio": error(chosen) / error(order[:looks])}


def hartmann(points: Tensor) -> Tensor:
    """Return Hartmann's function of three variables, at points [..., 3] of the unit cube."""
    weights = points.new_tensor([1.0, 1.2, 3.0, 3.2])
    scales = points.new_tensor([[3.0, 10, 30], [0.1, 10, 35], [3.0, 10, 30], [0.1, 10, 35]])
    centres = points.new_tensor([[0.3689, 0.117, 0.2673], [0.4699, 0.4387, 0.747],
                                 [0.1091, 0.8732, 0.5547], [0.0381, 0.5743, 0.8828]])  # fmt: skip
    away = (scales * (points[..., None, :] - centres).square()).sum(-1)
    return -(weights * torch.exp(-away)).sum(-1)


def surface(seed: int, looks: int = 50, first: int = 10, deviation: float = 0.1) -> dict[str, float]:
    """The same of Hartmann's function with noise, length scales fitted, 10 looks at a time, 50 in all."""
    g, cube = generator(seed), torch.stack([torch.zeros(3), torch.ones(3)]).double()
    points = torch.rand(1_500, 3, generator=g, dtype=torch.float64)
    pool, others = points[:500], points[500:]
    values = hartmann(pool) + deviation * normal(g, 500)

    def process(places: Tensor) -> GaussianProcess:
        return GaussianProcess(pool[places], values[places], cube)

    def error(places: Tensor) -> float:
        return float((process(places).believed(others)[0] - hartmann(others)).square().mean())

    chosen = torch.arange(first)
    while len(chosen) < looks:
        left = torch.ones(500, dtype=torch.bool)
        left[chosen] = False
        places = torch.nonzero(left)[:, 0]
        chosen = torch.cat([chosen, places[choose_points(process(chosen), pool[places], 10)]])
    return {"ratio": error(chosen) / error(torch.arange(looks))}
