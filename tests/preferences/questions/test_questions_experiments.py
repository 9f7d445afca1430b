"""What questions that are chosen teach, on a few seeds; thresholds were fixed after one pilot.

The experiments stand in ``scripts/reproduce_questions.py``, which measures them on other seeds.
"""

import pytest
import torch

from prefrl.run.study.claims import measure_claims
from prefrl.run.study.known_functions import LOWEST, branin, hartmann
from scripts import loaded

study = loaded("reproduce_questions.py")


def held(name: str, seeds: int) -> None:
    found = measure_claims({name: study.CLAIMS[name]}, range(seeds))[name]
    assert found["holds"], found["spread"]


def test_expected_improvement() -> None:
    held("improvement", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["options_by_kind", "best_option"])
def test_claims_of_options(name: str) -> None:
    held(name, 10)


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("curve", 5), *(pytest.param(name, 2, marks=pytest.mark.slow) for name in ("surface", "optimum"))],
)
def test_claims_of_gaussian_processes(name: str, seeds: int) -> None:
    pytest.importorskip("botorch", reason="the extra bayes is not installed")
    held(name, seeds)


def test_functions_have_their_known_optima() -> None:
    best = branin(torch.tensor([[torch.pi, 2.275], [-torch.pi, 12.275]], dtype=torch.float64))
    torch.testing.assert_close(best, torch.full((2,), -LOWEST).double(), rtol=0.0, atol=1e-6)
    lowest = hartmann(torch.tensor([0.114614, 0.555649, 0.852547], dtype=torch.float64))
    assert float(lowest) == pytest.approx(-3.86278, abs=1e-5)
