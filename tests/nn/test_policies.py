"""What a policy's outputs mean, beside torch's distributions; gradients beside autograd's, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from prefrl.functional.streams import Streams
from prefrl.nn.policies import ActionDistribution, Categoricals, DiagonalGaussian

LEARNERS, ROWS = 3, 7
FAMILIES = {
    "one choice": Categoricals([4]),
    "one option": Categoricals([1]),
    "three choices": Categoricals([2, 5, 3]),
    "numbers": DiagonalGaussian(3),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> ActionDistribution:
    return FAMILIES[request.param]


def inputs(family: ActionDistribution, learners: int = LEARNERS, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    outputs = 2.0 * torch.randn(learners, rows, family.outputs, generator=draws, dtype=torch.float64)
    free = 0.5 * torch.randn(learners, 1, family.width, generator=draws, dtype=torch.float64)
    return outputs.requires_grad_(), free.requires_grad_()


def drawn(family: ActionDistribution, outputs: Tensor, free: Tensor) -> Tensor:
    noise = family.noise(Streams(range(len(outputs)), "test", torch.device("cpu")), outputs.shape[1])
    return family.draw(outputs.detach(), free.detach(), noise.to(torch.float64))


def torchs(family: ActionDistribution, outputs: Tensor, free: Tensor) -> list[Any]:
    """The same distribution as torch's, one for each part that is independent of the others."""
    if isinstance(family, Categoricals):
        return [Categorical(logits=part) for part in torch.split(outputs, family.sizes, -1)]
    return [Independent(Normal(outputs, free.exp().expand_as(outputs)), 1)]


def test_log_probabilities_and_entropies_are_torchs(family: ActionDistribution) -> None:
    outputs, free = inputs(family)
    raw = drawn(family, outputs, free)
    said, parts = family.evaluate(outputs, free, raw), torchs(family, outputs, free)
    chosen = raw.unbind(-1) if isinstance(family, Categoricals) else [raw]
    log_probs = sum(part.log_prob(each) for part, each in zip(parts, chosen, strict=True))
    torch.testing.assert_close(said.log_probs, log_probs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(said.entropies, sum(part.entropy() for part in parts), rtol=1e-12, atol=1e-12)
    assert said.log_probs.shape == said.entropies.shape == (LEARNERS, ROWS)


def test_divergences_are_torchs(family: ActionDistribution) -> None:
    outputs, free = inputs(family)
    others, others_free = 0.3 - 0.5 * outputs.flip(1), free + 0.2
    found = family.divergences(outputs, free, others, others_free)
    parts = zip(torchs(family, outputs, free), torchs(family, others, others_free), strict=True)
    torch.testing.assert_close(found, sum(kl_divergence(p, q) for p, q in parts), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("for_all", [False, True])
def test_slopes_are_autograds(family: ActionDistribution, for_all: bool) -> None:
    outputs, free = inputs(family)
    raw = drawn(family, outputs, free)
    draws = torch.Generator().manual_seed(1)
    of_log_probs = torch.randn(LEARNERS, ROWS, generator=draws, dtype=torch.float64)
    of_entropies = torch.randn(LEARNERS, 1 if for_all else ROWS, generator=draws, dtype=torch.float64)
    said = family.evaluate(outputs, free, raw)
    loss = (said.log_probs * of_log_probs + said.entropies * of_entropies).sum()
    expected = torch.autograd.grad(loss, [outputs, free], allow_unused=True)
    with torch.no_grad():
        kept = family.evaluate(outputs, free, raw).kept
        found = family.slopes(kept, of_log_probs, of_entropies)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    assert found[1].shape == (LEARNERS, 1, family.width)
    if family.width:
        torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-12)


def test_slopes_change_nothing_that_is_theirs_to_read(family: ActionDistribution) -> None:
    outputs, free = (each.detach() for each in inputs(family))
    raw = drawn(family, outputs, free)
    of_log_probs, of_entropies = torch.ones(LEARNERS, ROWS).double(), torch.ones(LEARNERS, 1).double()
    given = [each.clone() for each in (outputs, free, raw, of_log_probs, of_entropies)]
    family.slopes(family.evaluate(outputs, free, raw).kept, of_log_probs, of_entropies)
    for now, before in zip((outputs, free, raw, of_log_probs, of_entropies), given, strict=True):
        assert torch.equal(now, before)


def test_the_mode_is_the_most_likely(family: ActionDistribution) -> None:
    outputs, free = inputs(family)
    best = family.evaluate(outputs, free, family.mode(outputs)).log_probs
    for seed in range(20):
        noise = family.noise(Streams([seed] * LEARNERS, "test", torch.device("cpu")), ROWS)
        raw = family.draw(outputs, free, noise.to(torch.float64))
        assert (family.evaluate(outputs, free, raw).log_probs <= best).all()


def test_draws_are_as_likely_as_they_should_be() -> None:
    family, rows = Categoricals([2, 3]), 40_000
    logits = torch.tensor([[1.0, -0.5, 0.3, 0.0, -2.0], [0.0, 0.0, 3.0, 1.0, 2.0]])
    outputs = logits[:, None].expand(2, rows, 5)
    raw = drawn(family, outputs, torch.zeros(2, 1, 0))
    assert raw.shape == (2, rows, 2)
    assert raw.dtype == torch.int64
    for learner in range(2):
        places = raw[learner, :, 0] * 3 + raw[learner, :, 1]
        first, second = logits[learner, :2].softmax(0), logits[learner, 2:].softmax(0)
        expected = (first[:, None] * second).flatten()
        found = places.bincount(minlength=6) / rows
        assert ((found - expected).abs() < 5 * (expected * (1 - expected) / rows).sqrt()).all()


def test_numbers_are_drawn_around_the_means() -> None:
    family, rows = DiagonalGaussian(2), 40_000
    means, log_stds = torch.tensor([[1.0, -2.0], [0.0, 5.0]]), torch.tensor([[0.5, -1.0], [0.0, 1.0]])
    raw = drawn(family, means[:, None].expand(2, rows, 2), log_stds[:, None])
    z = (raw - means[:, None]) / log_stds[:, None].exp()
    assert (z.mean(1).abs() < 5 / rows**0.5).all()
    assert ((z.std(1) - 1.0).abs() < 5 / rows**0.5).all()
    assert abs(float((z[0, :, 0] * z[0, :, 1]).mean())) < 5 / rows**0.5  # independent of each other
    assert torch.equal(family.mode(means), means)


def test_unlikely_choices_give_finite_numbers() -> None:
    family, free = Categoricals([3]), torch.zeros(1, 1, 0)
    outputs = torch.tensor([[[0.0, -5e3, -1e30]]])
    said = family.evaluate(outputs, free, torch.tensor([[[1]]]))
    slopes, _ = family.slopes(said.kept, torch.ones(1, 1), torch.ones(1, 1))
    assert said.log_probs.item() == -5e3
    assert said.entropies.item() == 0.0
    assert slopes.isfinite().all()
