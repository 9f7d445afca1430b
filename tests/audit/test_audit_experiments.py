"""Verdicts on planted answers; ``scripts/reproduce_preference_audit.py`` measures them on other seeds."""

import pytest
import torch

from scripts import loaded

study = loaded("reproduce_preference_audit.py")


def test_what_is_planted() -> None:
    g = torch.Generator().manual_seed(0)
    cycle = study.chances("cycle", 6, g, 0.8, 1.5)
    torch.testing.assert_close(cycle + cycle.transpose(1, 2), torch.ones(2, 6, 6, dtype=torch.float64))
    assert [float(cycle[0, i, (i + 1) % 3]) for i in range(3)] == pytest.approx([0.2] * 3)
    torch.testing.assert_close(cycle[:, 0, 3:], cycle[:, 1, 3:])
    opposed = study.chances("opposed", 6, g, 0.8, 1.5)
    torch.testing.assert_close(opposed[0], opposed[1].T)
    ideals = study.chances("ideals", 6, g, 0.8, 1.5)
    assert not torch.allclose(ideals[0], ideals[1])
    table = study.planted(0, "transitive", flips=0.5)
    assert len(table) == 600
    assert float(table.labels.mean()) == pytest.approx(0.5, abs=0.1)  # half of the answers turned


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transitive", "cycle", "opposed", "ideals"])
def test_the_verdict_is_right(kind: str) -> None:
    assert study.audited(0, kind)["right"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transitive", "cycle", "ideals"])
def test_few_answers_are_unclear(kind: str) -> None:
    found = study.audited(0, kind, per_pair=2.0)
    assert (found["wrong"], found["unclear"]) == (0.0, 1.0)
