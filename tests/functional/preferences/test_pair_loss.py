"""What holds of pair losses whatever the row: exchange, padding, batches, devices, errors."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prefrl.functional.preferences.pair_loss import (
    PAIR_LOSSES,
    PairLoss,
    chosen_nll,
    effective_labels,
    expected_log_ratio,
    first_differing_step,
    pair_leads,
    pair_loss,
    pair_slopes,
    visit_noise,
    weighted_entropy,
)

LENGTHS = torch.tensor([[3, 2], [1, 4], [4, 4], [2, 1], [3, 3]])
MASK = torch.arange(4) < LENGTHS[..., None]
LABELS = torch.tensor([1.0, 0.0, 0.3, 1.4, -0.2], dtype=torch.float64)
every_row = pytest.mark.parametrize("name", list(PAIR_LOSSES))


def close(actual: Tensor, expected: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def draw(seed: int, *leading: int) -> Tensor:
    """Log-likelihoods [..., 5, 2, 4]."""
    generator = torch.Generator().manual_seed(seed)
    return -0.9 * torch.rand(*leading, 5, 2, 4, generator=generator, dtype=torch.float64) - 0.05


def extras(name: str, *leading: int) -> dict[str, Any]:
    """Whatever else the row needs, and what every row takes."""
    row = PAIR_LOSSES[name]
    given: dict[str, Any] = {"reference": draw(1), "offsets": draw(2)[:, 0, 0], "weights": -draw(3)[:, 0, 0]}
    if row.needs_opponents:
        given["opponents"] = draw(4, *leading)
    if row.suffix:
        given["starts"] = torch.tensor([1, 0, 2, 0, 1])
    if "log_ratio" in row.regularisers:
        given["calibration"] = -draw(5)[..., 0]
    if "rationale" in row.regularisers:
        given["rationales"] = draw(6)[:, 0, 0]
    return given


def exchanged(given: dict[str, Any]) -> dict[str, Any]:
    """The same with the first segment and the second exchanged."""
    turn = {
        "reference": lambda x: x.flip(-2),
        "opponents": lambda x: x.flip(-2),
        "offsets": lambda x: -x,
        "calibration": lambda x: x.flip(-1),
    }
    return {name: turn.get(name, lambda x: x)(value) for name, value in given.items()}


# Whatever the row ---------------------------------------------------------------------------------------


@every_row
def test_exchanging_the_segments_changes_nothing(name: str) -> None:
    given = extras(name)
    loss = pair_loss(name, draw(0), MASK, LABELS, **given)
    turned = pair_loss(name, draw(0).flip(-2), MASK.flip(-2), 1.0 - LABELS, **exchanged(given))
    close(loss, turned)
    slopes = pair_slopes(name, draw(0), MASK, LABELS, **given)
    close(
        slopes, pair_slopes(name, draw(0).flip(-2), MASK.flip(-2), 1.0 - LABELS, **exchanged(given)).flip(-2)
    )


@every_row
def test_slopes_are_those_of_autograd(name: str) -> None:
    log_probs = draw(0, 3).requires_grad_()
    given = extras(name, 3)
    (wanted,) = torch.autograd.grad(pair_loss(name, log_probs, MASK, LABELS, **given).sum(), log_probs)
    close(pair_slopes(name, log_probs.detach(), MASK, LABELS, **given), wanted)
    assert wanted[~MASK.expand_as(wanted)].eq(0.0).all()
    assert wanted.abs().max() > 1e-3


@every_row
def test_what_stands_in_the_padding_does_not_matter(name: str) -> None:
    given = extras(name)
    spoilt = {**given, "reference": given["reference"].masked_fill(~MASK, math.nan)}
    log_probs = draw(0).masked_fill(~MASK, math.nan).requires_grad_()
    loss = pair_loss(name, log_probs, MASK, LABELS, **spoilt)
    assert torch.equal(loss, pair_loss(name, draw(0), MASK, LABELS, **given))
    (slopes,) = torch.autograd.grad(loss.sum(), log_probs)
    close(slopes, pair_slopes(name, draw(0), MASK, LABELS, **given))


@every_row
def test_leading_axes_are_separate_calls(name: str) -> None:
    """Three learners by two settings of beta, against six calls."""
    log_probs, betas = draw(0, 2, 3), torch.tensor([0.2, 1.1], dtype=torch.float64)
    given = extras(name, 2, 3)
    together = pair_loss(name, log_probs, MASK, LABELS, beta=betas[:, None, None], **given)
    slopes = pair_slopes(name, log_probs, MASK, LABELS, beta=betas[:, None, None], **given)
    for i in range(2):
        for j in range(3):
            one = {key: value[i, j] if key == "opponents" else value for key, value in given.items()}
            alone = (name, log_probs[i, j], MASK, LABELS)
            close(together[i, j], pair_loss(*alone, beta=float(betas[i]), **one))
            close(slopes[i, j], pair_slopes(*alone, beta=float(betas[i]), **one))


@every_row
def test_settings_may_be_tensors(name: str) -> None:
    """Settings that differ from pair to pair, against one call for each pair."""
    row, given = PAIR_LOSSES[name], extras(name)
    numbers = {key: value for key, value in row.settings.items() if isinstance(value, float)}
    scales = torch.linspace(0.5, 1.0, 5, dtype=torch.float64)
    stacked = {key: value * (scales if value != -1.0 else torch.ones(5)) for key, value in numbers.items()}
    together = pair_loss(name, draw(0), MASK, LABELS, settings=stacked, **given)
    slopes = pair_slopes(name, draw(0), MASK, LABELS, settings=stacked, **given)
    for i in range(5):
        one = {key: value[i : i + 1] for key, value in given.items()}
        settings = {key: float(value[i]) for key, value in stacked.items()}
        alone = (name, draw(0)[i : i + 1], MASK[i : i + 1], LABELS[i : i + 1])
        close(together[i : i + 1], pair_loss(*alone, settings=settings, **one))
        close(slopes[i : i + 1], pair_slopes(*alone, settings=settings, **one))


@every_row
def test_no_row_waits_for_its_device(name: str) -> None:
    """Tensors without contents: whatever looks into one raises."""
    given = {key: value.to("meta") for key, value in extras(name).items()}
    forms = ("clip", "cpo", "inverse") if name == "constrained_po" else (None,)
    for form in forms:
        settings = {} if form is None else {"form": form}
        alone = (name, draw(0).to("meta"), MASK.to("meta"), LABELS.to("meta"))
        assert pair_loss(*alone, settings=settings, **given).shape == (5,)
        assert pair_slopes(*alone, settings=settings, **given).shape == (5, 2, 4)


@every_row
def test_single_precision_stays_single(name: str) -> None:
    given = {key: value.to(torch.float32) if value.is_floating_point() else value
             for key, value in extras(name).items()}  # fmt: skip
    loss = pair_loss(name, draw(0).to(torch.float32), MASK, LABELS, **given)
    assert loss.dtype == torch.float32
    exact = pair_loss(name, draw(0), MASK, LABELS, **extras(name))
    torch.testing.assert_close(loss, exact.to(torch.float32), rtol=1e-4, atol=1e-4)


def test_weights_scale_whole_losses() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    plain = pair_loss("slic", draw(0), MASK, LABELS, reference=draw(1))
    close(pair_loss("slic", draw(0), MASK, LABELS, reference=draw(1), weights=weights), weights * plain)


def test_extreme_leads_stay_finite() -> None:
    log_probs = torch.tensor([[[-2000.0], [-1.0]], [[-1.0], [-2000.0]]], dtype=torch.float64)
    mask = torch.ones(2, 2, 1, dtype=torch.bool)
    loss = pair_loss("dpo", log_probs, mask, torch.ones(2), reference=torch.zeros_like(log_probs), beta=1.0)
    close(loss, torch.tensor([0.0, 1999.0], dtype=torch.float64))


@pytest.mark.parametrize("log_prob", [-1e-12, -1e-3, -1.0, -50.0])
def test_log_odds_keep_their_digits(log_prob: float) -> None:
    """Of a second segment against a first of even odds, whose log-odds are 0."""
    log_probs = torch.tensor([[[-math.log(2.0)], [log_prob]]], dtype=torch.float64, requires_grad=True)
    lead = pair_leads("orpo", log_probs, torch.ones(1, 2, 1, dtype=torch.bool), beta=1.0)
    assert lead.item() == pytest.approx(log_prob - math.log(-math.expm1(log_prob)), rel=1e-14, abs=1e-15)
    (slopes,) = torch.autograd.grad(lead, log_probs)
    assert slopes.flatten().tolist() == pytest.approx([-2.0, -1.0 / math.expm1(log_prob)], rel=1e-14)


# Offsets and margins ------------------------------------------------------------------------------------


def test_offsets_belong_to_the_pair_and_margins_to_the_preferred() -> None:
    """beta 1, s_1 - s_0 = 0.5, offset and margin 0.2, both labels, by hand."""
    log_probs = torch.tensor([[[-1.5], [-1.0]]], dtype=torch.float64).expand(2, 2, 1)
    mask, labels = torch.ones(2, 2, 1, dtype=torch.bool), torch.tensor([1.0, 0.0], dtype=torch.float64)
    offsets = torch.full((2,), 0.2, dtype=torch.float64)
    free = replace(PAIR_LOSSES["simpo"], margin="none")
    found = pair_loss(free, log_probs, mask, labels, offsets=offsets, beta=1.0)
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-0.3)), math.log1p(math.exp(0.3))], abs=1e-12)
    found = pair_loss("simpo", log_probs, mask, labels, beta=1.0, settings={"margin": 0.2})
    assert found.tolist() == pytest.approx([math.log1p(math.exp(-0.3)), math.log1p(math.exp(0.7))], abs=1e-12)


def test_an_offset_of_power_is_its_weights() -> None:
    """Its row's 1 / length in the score is the offset -beta (w_w - w_l) of its paper."""
    plain = replace(PAIR_LOSSES["power"], score="likelihood")
    offsets = -0.8 * (1.0 / LENGTHS[:, 1].double() - 1.0 / LENGTHS[:, 0].double())
    close(pair_loss("power", draw(0), MASK, LABELS, beta=0.8),
          pair_loss(plain, draw(0), MASK, LABELS, beta=0.8, offsets=offsets))  # fmt: skip


# Labels -------------------------------------------------------------------------------------------------


def test_robust_and_smoothed_rows_are_dpo_with_other_labels() -> None:
    both = {"reference": draw(1), "beta": 0.4}
    for name in ("robust_dpo", "conservative_dpo"):
        settings = {"epsilon": 0.3}
        labels = effective_labels(name, LABELS, settings)
        close(pair_loss(name, draw(0), MASK, LABELS, settings=settings, **both),
              pair_loss("dpo", draw(0), MASK, labels, **both))  # fmt: skip
    certain, settings = torch.tensor([1.0, 0.0], dtype=torch.float64), {"epsilon": 0.3}
    corrected, smoothed = (effective_labels(row, certain, settings) for row in ("robust_dpo", "upo"))
    close(corrected, torch.tensor([1.75, -0.75], dtype=torch.float64))
    close(smoothed, torch.tensor([0.7, 0.3], dtype=torch.float64))
    assert torch.equal(effective_labels("dpo", certain), certain)


# Where segments part ------------------------------------------------------------------------------------


def test_first_differing_step() -> None:
    first = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3], [9, 2, 3]])
    second = torch.tensor([[1, 0, 3], [1, 2, 3], [1, 2, 4], [1, 0, 0]])
    assert first_differing_step(first, second).tolist() == [1, 3, 2, 0]


def test_a_prefix_that_both_share_drops_out_of_sums_but_not_of_means() -> None:
    """So suffixes matter to means only: with sums, DPO on suffixes is DPO, in value and in gradient."""
    shared = draw(0)[:, :1, :2].expand(-1, 2, -1)
    policy = torch.cat([shared, draw(0)[..., 2:]], -1)
    reference = torch.cat([draw(1)[:, :1, :2].expand(-1, 2, -1), draw(1)[..., 2:]], -1)
    mask, starts = torch.ones(5, 2, 4, dtype=torch.bool), torch.full((5,), 2)
    mask[0, 0, 3] = False
    suffix = {"reference": reference, "starts": starts}
    close(pair_loss("mcts", policy, mask, LABELS, **suffix),
          pair_loss("dpo", policy, mask, LABELS, reference=reference))  # fmt: skip
    means = replace(PAIR_LOSSES["mcts"], likelihood="mean")
    whole = replace(PAIR_LOSSES["dpo"], likelihood="mean")
    gap = pair_loss(means, policy, mask, LABELS, **suffix) - pair_loss(
        whole, policy, mask, LABELS, reference=reference
    )
    assert gap.abs().max() > 1e-3


def test_visit_noise_by_hand() -> None:
    best, worst = torch.tensor([3, 1, 0, 9, 0]), torch.tensor([1, 3, 5, 0, 0])
    assert visit_noise(best, worst).tolist() == pytest.approx([0.25, 0.5, 0.5, 0.0, 0.5])


# What is added ------------------------------------------------------------------------------------------


def test_regularisers_by_hand() -> None:
    likelihoods = torch.tensor([-2.0, -3.0], dtype=torch.float64)
    assert float(chosen_nll(likelihoods, torch.tensor(0.25))) == pytest.approx(0.75 * 2.0 + 0.25 * 3.0)
    reference = torch.tensor([-1.0, -5.0], dtype=torch.float64)
    assert float(expected_log_ratio(likelihoods, reference)) == pytest.approx((-1.0 + 2.0) / 2)
    shares = torch.tensor([0.9, 0.1], dtype=torch.float64)
    assert float(expected_log_ratio(likelihoods, reference, shares)) == pytest.approx(-0.9 + 0.2)
    importance = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert float(weighted_entropy(likelihoods, importance, shares)) == pytest.approx(0.9 * 1.0 + 0.1 * 6.0)
    own = 0.5 * 2.0 * math.exp(-2.0) + 2.0 * 3.0 * math.exp(-3.0)
    assert float(weighted_entropy(likelihoods, importance)) == pytest.approx(own)


def test_an_option_that_never_happens_has_no_entropy() -> None:
    certain = torch.tensor([0.0, -math.inf], dtype=torch.float64)
    assert float(weighted_entropy(certain, torch.ones(2, dtype=torch.float64))) == 0.0


def test_calibration_shares_replace_the_chosen() -> None:
    """VPO with a calibration of its own: DPO and the expected log-ratio beside it."""
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(5, 2)
    policy, reference = draw(0), draw(1)
    ratios = [((policy - reference) * MASK).sum(-1)[:, c] for c in range(2)]
    wanted = pair_loss("dpo", policy, MASK, LABELS, reference=reference, beta=0.5)
    wanted = wanted - 0.2 * 0.5 * (0.3 * ratios[0] + 0.7 * ratios[1])
    found = pair_loss("vpo", policy, MASK, LABELS, reference=reference, beta=0.5, calibration=shares,
                      settings={"strength": 0.2, "sign": -1.0})  # fmt: skip
    close(found, wanted)


# Identities among rows ----------------------------------------------------------------------------------


def test_at_equal_lengths_simpo_and_cpl_are_dpo_without_a_reference() -> None:
    """SimPO without margin with beta / length; CPL without bias and discount: values and gradients."""
    mask, policy = torch.ones(5, 2, 4, dtype=torch.bool), draw(0)
    free = replace(PAIR_LOSSES["dpo"], reference="none")
    for function in (pair_loss, pair_slopes):
        simpo = function("simpo", policy, mask, LABELS, beta=2.0, settings={"margin": 0.0})
        close(simpo, function(free, policy, mask, LABELS, beta=0.5), atol=1e-7)
        cpl = function("cpl", policy, mask, LABELS, beta=0.3, settings={"bias": 1.0, "gamma": 1.0})
        close(cpl, function(free, policy, mask, LABELS, beta=0.3), atol=1e-7)
        biased = function("cpl", policy, mask, LABELS, beta=0.3, settings={"bias": 0.9})
        assert (biased - cpl).abs().max() > 1e-3


def test_inpo_with_the_reference_as_its_opponent_is_ipo() -> None:
    found = pair_loss("inpo", draw(0), MASK, LABELS, reference=draw(1), opponents=draw(1), beta=0.3)
    close(found, pair_loss("ipo", draw(0), MASK, LABELS, reference=draw(1), beta=0.3))


def test_a_pull_of_constrained_po_is_a_smooth_maximum() -> None:
    """At alpha 1 the target of its form cpo is log(e^(tau delta_ref) + e^(tau gamma)) / tau."""
    policy, reference = draw(0), draw(1)
    settings = {"form": "cpo", "alpha": 1.0, "target": 0.4, "sharpness": 1.5}
    found = pair_loss(
        "constrained_po", policy, MASK, torch.ones(5), reference=reference, settings=settings, beta=1.0
    )
    steps = MASK.sum(-1)
    delta, ref = ((x * MASK).sum(-1) / steps for x in (policy, reference))
    delta, ref = delta[:, 1] - delta[:, 0], ref[:, 1] - ref[:, 0]
    goal = torch.logaddexp(1.5 * ref, torch.tensor(0.6, dtype=torch.float64)) / 1.5
    close(found, torch.log1p(torch.exp(goal - delta)))


# Leads --------------------------------------------------------------------------------------------------


def test_leads_are_what_a_row_takes_for_differences_of_rewards() -> None:
    h = ((draw(0) - draw(1)) * MASK).sum(-1)
    close(pair_leads("dpo", draw(0), MASK, reference=draw(1), beta=0.3), 0.3 * (h[:, 1] - h[:, 0]))
    close(pair_leads("rationale", draw(0), MASK, reference=draw(1), beta=0.3), 0.3 * (h[:, 1] - h[:, 0]))
    means = (draw(0) * MASK).sum(-1) / LENGTHS
    close(pair_leads("simpo", draw(0), MASK), 2.0 * (means[:, 1] - means[:, 0]))


# At the door --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dpo", {"reference": None}, "reference is missing; this loss needs it"),
        ("inpo", {"opponents": None}, "opponents is missing"),
        ("mcts", {"starts": None}, "starts is missing"),
        ("rationale", {"rationales": None}, "rationales is missing"),
        ("dpo", {"opponents": draw(1)}, "opponents was given; this loss does not take it"),
        ("dpo", {"starts": torch.zeros(5)}, "starts was given"),
        ("dpo", {"calibration": torch.zeros(5, 2)}, "calibration was given"),
        ("dpo", {"rationales": torch.zeros(5)}, "rationales was given"),
        ("dpo", {"reference": draw(1)[..., :3]}, r"reference has shape \[5, 2, 3\]; it must be \[5, 2, 4\]"),
        ("dpo", {"reference": draw(1, 3)}, r"reference has shape \[3, 5, 2, 4\]"),
        ("dpo", {"weights": torch.ones(5, 1)}, r"weights has shape \[5, 1\]; it must be \[5\]"),
        ("dpo", {"offsets": torch.ones(2)}, r"offsets has shape \[2\]"),
        ("dpo", {"beta": 0.0}, "beta is 0.0; it must be a number above 0"),
        ("dpo", {"beta": math.nan}, "beta is nan"),
        ("dpo", {"settings": {"epsilon": 0.1}}, "settings has 'epsilon'; this loss takes: none besides beta"),
        ("cpl", {"settings": {"lambda": 0.1}}, "settings has 'lambda'; this loss takes: bias, gamma"),
        ("cpl", {"settings": {"bias": 0.0}}, "bias is 0.0; it must be above 0 and at most 1"),
        ("robust_dpo", {"settings": {"epsilon": 0.5}}, "epsilon is 0.5; it must lie below 0.5"),
        ("conservative_dpo", {"settings": {"epsilon": 0.6}}, "epsilon is 0.6; it must be a share"),
        ("vpo", {"settings": {"sign": 0.0}}, "sign is 0.0; it must be 1"),
        ("constrained_po", {"settings": {"form": "easy"}}, "form is 'easy'; it must be one of clip, cpo"),
        ("constrained_po", {"settings": {"form": torch.ones(5)}}, "form is a tensor"),
        ("nonsense", {}, "row is 'nonsense'; the pair losses are dpo, "),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(name: str, change: dict[str, Any], message: str) -> None:
    given = extras(name) if name in PAIR_LOSSES else {}
    for function in (pair_loss, pair_slopes):
        with pytest.raises(ValueError, match=message):
            function(name, draw(0), MASK, LABELS, **{**given, **change})


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"log_probs have shape \[5, 4\]; they must be \[..., N, 2, L\]"):
        pair_loss("simpo", draw(0)[:, 0], MASK, LABELS)
    with pytest.raises(ValueError, match=r"mask has shape \[5, 2\]"):
        pair_loss("simpo", draw(0), MASK[..., 0], LABELS)
    with pytest.raises(ValueError, match=r"labels has shape \[5, 1\]"):
        pair_loss("simpo", draw(0), MASK, LABELS[:, None])


def test_a_row_states_the_settings_that_it_reads() -> None:
    with pytest.raises(ValueError, match="settings lacks a default of 'nll_weight'"):
        replace(PAIR_LOSSES["dpo"], regularisers=("nll",))
    own = PairLoss("a row of one's own", beta=0.5, regularisers=("nll",), settings={"nll_weight": 2.0})
    loss = pair_loss(own, draw(0), MASK, LABELS)
    likelihoods = (draw(0) * MASK).sum(-1)
    free = replace(PAIR_LOSSES["dpo"], reference="none")
    close(loss, pair_loss(free, draw(0), MASK, LABELS, beta=0.5) + 2.0 * chosen_nll(likelihoods, LABELS))
