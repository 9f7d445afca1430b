"""Labels, weights and margins for comparisons: by hand, and against slow twins in plain Python."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from prefrl.functional.preferences import label_models as F


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


NUMBERS = st.floats(-20.0, 20.0)
PROBABILITIES = st.floats(0.0, 1.0)


# Labels -------------------------------------------------------------------------------------------------


def test_robust_labels_by_hand():
    """At 1/4: (y - .25) / .5."""
    assert F.robust_labels(t(0.0, 0.5, 1.0, 2.0), 0.25).tolist() == [-0.5, 0.5, 1.5, 3.5]
    assert F.robust_labels(t(-3.0, 0.3), 0.0).tolist() == [-3.0, 0.3]


@given(label=NUMBERS, epsilon=st.floats(0.0, 0.45))
def test_robust_labels_are_right_on_average_over_flips(label, epsilon):
    kept, turned = (float(F.robust_labels(t(y), epsilon)) for y in (label, 1.0 - label))
    assert (1.0 - epsilon) * kept + epsilon * turned == pytest.approx(label, abs=1e-10)
    assert float(F.smooth_labels(F.robust_labels(t(label), epsilon), epsilon)) == pytest.approx(
        label, abs=1e-10
    )


def test_smooth_labels_by_hand():
    torch.testing.assert_close(F.smooth_labels(t(0.0, 0.5, 1.0, 2.0), 0.1), t(0.1, 0.5, 0.9, 1.7))
    assert F.smooth_labels(t(0.2, 1.0), t(1.0, 0.0)).tolist() == [0.8, 1.0]


@given(label=NUMBERS, logit=NUMBERS, rate=PROBABILITIES)
def test_dynamic_labels_against_a_twin(label, logit, rate):
    belief = 1.0 / (1.0 + math.exp(-logit))
    wanted = (1.0 - rate) * label + rate * belief
    assert float(F.dynamic_labels(t(label), t(logit), rate)) == pytest.approx(wanted, abs=1e-12)


def test_dynamic_labels_stand_still_at_the_belief_and_have_no_gradient():
    logits = t(-1.0, 0.0, 2.5).requires_grad_()
    labels = torch.sigmoid(logits.detach())
    moved = F.dynamic_labels(labels, logits, 0.7)
    assert moved.tolist() == labels.tolist()
    assert not moved.requires_grad


# Ensembles ----------------------------------------------------------------------------------------------


def test_strength_by_hand():
    margins = t(1.0, -3.0, 2.0, 5.0).repeat(2, 1) + t(1.0, -1.0)[:, None] * t(9.0, 1.0, 0.5, 2.0)
    labels = t(1.0, 1.0, 0.2, 0.5)
    assert F.preference_strength(margins, labels).tolist() == [1.0, -3.0, -2.0, 0.0]
    assert F.preferred_sign(t(1.4, 0.5, -0.4)).tolist() == [1.0, 0.0, -1.0]


def slow_weakest(strength, share, among):
    rows = sorted((s, i) for i, (s, a) in enumerate(zip(strength, among, strict=True)) if a)
    chosen = {i for _, i in rows[: math.floor(share * len(rows) + 1e-9)]}
    return [i in chosen for i in range(len(strength))]


@given(st.data(), st.integers(0, 8), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.3, 1.0]))
def test_weakest_against_a_twin(data, count, share):
    strength = data.draw(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.5]), min_size=count, max_size=count))
    among = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    found = F.weakest(t(*strength), share, torch.tensor(among, dtype=torch.bool))
    assert found.tolist() == slow_weakest(strength, share, among)


def test_three_tenths_of_ten_are_three():
    assert int(F.weakest(torch.arange(10.0), 0.3, torch.ones(10) > 0).sum()) == 3
    assert int(F.weakest(torch.arange(10.0), 0.29, torch.ones(10) > 0).sum()) == 2


def slow_entropy(p):
    return -sum(q * math.log(q) for q in (p, 1.0 - p) if q > 0.0)


@given(st.lists(PROBABILITIES, min_size=1, max_size=6))
def test_bald_against_a_twin(passes):
    mean = sum(passes) / len(passes)
    wanted = slow_entropy(mean) - sum(map(slow_entropy, passes)) / len(passes)
    assert float(F.bald(t(*passes)[:, None])) == pytest.approx(wanted, abs=1e-9)


def test_bald_is_nothing_without_dropout_and_one_bit_at_most():
    sure = t(0.0, 1e-9, 0.1, 1.0 / 3.0, 0.5, 0.9, 1.0).repeat(10, 1)
    assert float(F.bald(sure).abs().max()) < 1e-12
    torch.testing.assert_close(F.bald(t(0.0, 1.0)[:, None]), t(math.log(2.0)))
    wanted = math.log(2.0) + 0.2 * math.log(0.2) + 0.8 * math.log(0.8)  # .8 and .2
    assert float(F.bald(t(0.2, 0.8)[:, None])) == pytest.approx(wanted)


def test_sampling_shares_by_hand():
    torch.testing.assert_close(F.sampling_shares(t(0.5, 0.0, 0.5)), t(0.25, 0.5, 0.25))
    torch.testing.assert_close(F.sampling_shares(t(0.5, 0.0), 2.0), t(0.2, 0.8))
    torch.testing.assert_close(F.sampling_shares(t(0.5, 0.1), 0.0), t(0.5, 0.5))


def test_the_repaired_smoothing_goes_from_nothing_to_a_tie_and_the_printed_one_turns_labels_round():
    information = t(0.0, 0.5 * math.log(2.0), math.log(2.0))
    torch.testing.assert_close(F.uncertain_share(information), t(0.0, 0.25, 0.5))
    torch.testing.assert_close(F.smooth_labels(t(1.0, 1.0, 1.0), F.uncertain_share(information)),
                               t(1.0, 0.75, 0.5))  # fmt: skip
    printed = 1.0 / (F.sampling_shares(information) + 1.0)
    assert bool((printed >= 0.5).all())


# Scores -------------------------------------------------------------------------------------------------


def test_density_ratio_by_hand():
    strong, weak = t(-1.0, -2.0, -math.inf).repeat(2, 1), t(-3.0, -2.5, -math.inf).repeat(2, 1)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert F.density_ratio(strong, weak, mask).tolist() == [2.5, 2.0]


def test_two_optima_of_one_reward_differ_by_it_up_to_scale_and_state():
    """pi_b proportional to ref exp(r / b): the ratio is (1 / b_s - 1 / b_w) r + c(x)."""
    g = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 5, generator=g, dtype=torch.float64)
    reference = torch.randn(6, 5, generator=g, dtype=torch.float64).log_softmax(1)
    scores = []
    for strong, weak in ((0.5, 2.0), (0.1, 2.0)):
        optima = [(reference + rewards / beta).log_softmax(1)[..., None] for beta in (strong, weak)]
        ratio = F.density_ratio(*optima, torch.ones(6, 5, 1) > 0)
        wanted = (1.0 / strong - 1.0 / weak) * rewards
        rest = ratio - wanted
        assert float((rest - rest[:, :1]).abs().max()) < 1e-10
        scores.append(ratio - ratio.mean(1, keepdim=True))
    # A better checkpoint says the same, louder.
    assert torch.equal(scores[0].argsort(1), scores[1].argsort(1))
    torch.testing.assert_close(scores[1], scores[0] * 9.5 / 1.5)


@given(st.lists(NUMBERS, min_size=2, max_size=6), st.sampled_from([0.5, 1.0, 4.0]))
def test_anchor_distribution_against_a_twin(scores, temperature):
    top = max(scores)
    mass = [math.exp((s - top) / temperature) for s in scores]
    q = [m / sum(mass) for m in mass]
    found = F.anchor_distribution(t(*scores), temperature)
    assert found.tolist() == pytest.approx(q, abs=1e-12)
    mean = 1.0 / len(q)
    spread = math.sqrt(sum((x - mean) ** 2 for x in q) / len(q))
    if spread > 1e-9:
        assert F.anchor_advantages(found).tolist() == pytest.approx(
            [(x - mean) / spread for x in q], rel=1e-5
        )


def test_advantages_of_equals_are_nothing():
    for count in (1, 2, 3, 7, 49):
        uniform = F.anchor_distribution(torch.full((count,), 0.1, dtype=torch.float64), 0.3)
        assert F.anchor_advantages(uniform).tolist() == [0.0] * count


# Contexts, reasons --------------------------------------------------------------------------------------


def test_the_partition_does_not_cancel_between_contexts():
    g, beta = torch.Generator().manual_seed(1), 0.5
    rewards = torch.randn(2, 4, generator=g, dtype=torch.float64)  # two contexts, four responses
    reference = torch.randn(2, 4, generator=g, dtype=torch.float64).log_softmax(1)
    log_partition = torch.logsumexp(reference + rewards / beta, 1)
    ratio = beta * ((reference + rewards / beta).log_softmax(1) - reference)
    wanted = rewards[1] - rewards[0]
    found = F.context_logit(ratio[0], ratio[1], beta * log_partition[0], beta * log_partition[1])
    assert float((found - wanted).abs().max()) < 1e-12
    without = F.context_logit(ratio[0], ratio[1], 0.0, 0.0) - wanted
    assert float(without.abs().max()) > 0.01
    torch.testing.assert_close(without, (beta * (log_partition[0] - log_partition[1])).expand(4))


def test_gap_logit_by_hand():
    assert F.gap_logit(t(1.0, -2.0), t(4.0, -2.5)).tolist() == [3.0, -0.5]


@given(st.data(), st.integers(1, 5))
def test_rationale_likelihood_against_a_twin(data, width):
    contributions = data.draw(st.lists(NUMBERS, min_size=width, max_size=width))
    decided = data.draw(st.integers(0, width - 1))
    label = data.draw(st.sampled_from([-0.5, 0.0, 0.3, 0.5, 0.9, 1.5]))
    sign = (label > 0.5) - (label < 0.5)
    speaks = [sign * c for c in contributions]
    top = max(speaks)
    wanted = speaks[decided] - top - math.log(sum(math.exp(s - top) for s in speaks))
    found = F.rationale_log_likelihood(t(*contributions)[None], t(label), torch.tensor([decided]))
    assert float(found) == pytest.approx(wanted, abs=1e-10)


def test_rationale_penalty_by_hand():
    assert F.rationale_penalty(t(-2.0), 0.5).tolist() == [1.0]
    squashed = F.rationale_penalty(t(-2.0), 0.5, squashed=True)
    assert float(squashed) == pytest.approx(math.log(1.0 + math.e))
