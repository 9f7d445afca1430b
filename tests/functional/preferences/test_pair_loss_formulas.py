"""Every row of the pair losses against the formula of its source, in scalar Python, value and slope.

A formula here sees a chosen and a rejected response as lists of the steps' log-likelihoods, calls nothing but
``math``, and returns its value and its derivatives, worked out by hand, by each step of the two.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from prefrl.functional.preferences.pair_loss import PAIR_LOSSES, pair_loss, pair_slopes

Steps: TypeAlias = list[float]
Answer: TypeAlias = tuple[float, Steps, Steps]


@dataclass(frozen=True)
class Pair:
    """A chosen (w) and a rejected (l) response, and whatever else a formula looks at."""

    w: Steps
    l: Steps  # noqa: E741  the papers' letter
    ref_w: Steps = field(default_factory=list)
    ref_l: Steps = field(default_factory=list)
    old_w: Steps = field(default_factory=list)
    old_l: Steps = field(default_factory=list)
    start: int = 0
    rationale: float = 0.0


def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


def mean(steps: Sequence[float]) -> float:
    return sum(steps) / len(steps)


def log_ratio(p: Pair) -> float:
    """h = log pi(w) / pi_ref(w) - log pi(l) / pi_ref(l)."""
    return (sum(p.w) - sum(p.ref_w)) - (sum(p.l) - sum(p.ref_l))


def dpo(p: Pair, beta: float) -> Answer:
    h = log_ratio(p)
    slope = -sigmoid(-beta * h) * beta
    return -math.log(sigmoid(beta * h)), [slope for _ in p.w], [-slope for _ in p.l]


def conservative_dpo(p: Pair, beta: float, epsilon: float) -> Answer:
    h = log_ratio(p)
    value = -(1 - epsilon) * math.log(sigmoid(beta * h)) - epsilon * math.log(sigmoid(-beta * h))
    slope = beta * (-(1 - epsilon) * sigmoid(-beta * h) + epsilon * sigmoid(beta * h))
    return value, [slope for _ in p.w], [-slope for _ in p.l]


def robust_dpo(p: Pair, beta: float, epsilon: float) -> Answer:
    h = log_ratio(p)
    right, wrong = -math.log(sigmoid(beta * h)), -math.log(sigmoid(-beta * h))
    value = ((1 - epsilon) * right - epsilon * wrong) / (1 - 2 * epsilon)
    slope = -beta * (sigmoid(-beta * h) + epsilon / (1 - 2 * epsilon))
    return value, [slope for _ in p.w], [-slope for _ in p.l]


def ipo(p: Pair, beta: float) -> Answer:
    h = log_ratio(p)
    slope = 2 * (h - 1 / (2 * beta))
    return (h - 1 / (2 * beta)) ** 2, [slope for _ in p.w], [-slope for _ in p.l]


def simpo(p: Pair, beta: float, margin: float) -> Answer:
    m = beta / len(p.w) * sum(p.w) - beta / len(p.l) * sum(p.l) - margin
    push = -sigmoid(-m) * beta
    return -math.log(sigmoid(m)), [push / len(p.w) for _ in p.w], [-push / len(p.l) for _ in p.l]


def cpl(p: Pair, beta: float, bias: float, gamma: float) -> Answer:
    plus = sum(gamma**t * beta * x for t, x in enumerate(p.w))
    minus = sum(gamma**t * beta * x for t, x in enumerate(p.l))
    share = math.exp(bias * minus) / (math.exp(plus) + math.exp(bias * minus))
    value = -math.log(math.exp(plus) / (math.exp(plus) + math.exp(bias * minus)))
    return (value, [-share * gamma**t * beta for t in range(len(p.w))],
            [share * bias * gamma**t * beta for t in range(len(p.l))])  # fmt: skip


def power(p: Pair, beta: float, strength: float) -> Answer:
    w_w, w_l = 1 / len(p.w), 1 / len(p.l)
    m = beta * (w_w * sum(p.w) - w_l * sum(p.l) + w_w - w_l)
    value = -math.log(sigmoid(m)) - strength * beta * w_w * sum(p.w)
    push = sigmoid(-m) * beta
    return value, [-push * w_w - strength * beta * w_w for _ in p.w], [push * w_l for _ in p.l]


def vpo(p: Pair, beta: float, strength: float, sign: float) -> Answer:
    value, slopes_w, slopes_l = dpo(p, beta)
    value += sign * strength * beta * (sum(p.w) - sum(p.ref_w))
    return value, [slope + sign * strength * beta for slope in slopes_w], slopes_l


def constrained_clip(p: Pair, beta: float) -> Answer:
    delta, delta_ref = mean(p.w) - mean(p.l), mean(p.ref_w) - mean(p.ref_l)
    m = beta * (delta - max(delta_ref, 0.0))
    push = -beta * sigmoid(-m)
    return -math.log(sigmoid(m)), [push / len(p.w) for _ in p.w], [-push / len(p.l) for _ in p.l]


def constrained_cpo(p: Pair, beta: float, alpha: float, target: float, sharpness: float) -> Answer:
    delta, delta_ref = mean(p.w) - mean(p.l), mean(p.ref_w) - mean(p.ref_l)
    pull = math.log(1 + math.exp(sharpness * (target - delta_ref))) / sharpness
    m = beta * (delta - delta_ref) - beta / alpha * pull
    push = -beta * sigmoid(-m)
    return -math.log(sigmoid(m)), [push / len(p.w) for _ in p.w], [-push / len(p.l) for _ in p.l]


def constrained_inverse(p: Pair, beta: float, multiplier: float, inverse_limit: float) -> Answer:
    delta, delta_ref = mean(p.w) - mean(p.l), mean(p.ref_w) - mean(p.ref_l)
    inverses = [min(1 / math.exp(mean(ref)), inverse_limit) for ref in (p.ref_w, p.ref_l)]
    m = beta * (delta - delta_ref) - multiplier * (inverses[0] + inverses[1])
    push = -beta * sigmoid(-m)
    return -math.log(sigmoid(m)), [push / len(p.w) for _ in p.w], [-push / len(p.l) for _ in p.l]


def inpo(p: Pair, beta: float, reference_share: float) -> Answer:
    tau = reference_share * beta  # beta is eta
    delta, ref, old = sum(p.w) - sum(p.l), sum(p.ref_w) - sum(p.ref_l), sum(p.old_w) - sum(p.old_l)
    h = delta - tau / beta * ref - (1 - tau / beta) * old
    slope = 2 * (h - 1 / (2 * beta))
    return (h - 1 / (2 * beta)) ** 2, [slope for _ in p.w], [-slope for _ in p.l]


def slic(p: Pair, beta: float, margin: float, nll_weight: float) -> Answer:
    gap = margin - beta * log_ratio(p)
    slope = -beta if gap > 0 else 0.0
    value = max(0.0, gap) - nll_weight * sum(p.w)
    return value, [slope - nll_weight for _ in p.w], [-slope for _ in p.l]


def diffusion_dro(p: Pair, beta: float, margin: float) -> Answer:
    """e = -log pi; the expert is w: max(0, m + [e(w) - e_ref(w)] - [e(l) - e_ref(l)]), state means."""
    gains = [beta * (mean(own) - mean(ref)) for own, ref in ((p.w, p.ref_w), (p.l, p.ref_l))]
    gap = margin - gains[0] + gains[1]
    slope = -beta if gap > 0 else 0.0
    return max(0.0, gap), [slope / len(p.w) for _ in p.w], [-slope / len(p.l) for _ in p.l]


def orpo(p: Pair, beta: float, pair_weight: float, nll_weight: float) -> Answer:
    p_w, p_l = math.exp(mean(p.w)), math.exp(mean(p.l))
    log_odds_ratio = math.log(p_w / (1 - p_w)) - math.log(p_l / (1 - p_l))
    value = -nll_weight * mean(p.w) - pair_weight * math.log(sigmoid(beta * log_odds_ratio))
    push = pair_weight * sigmoid(-beta * log_odds_ratio) * beta
    return (value, [(-push / (1 - p_w) - nll_weight) / len(p.w) for _ in p.w],
            [push / (1 - p_l) / len(p.l) for _ in p.l])  # fmt: skip


def upo(p: Pair, beta: float, epsilon: float, nll_weight: float) -> Answer:
    h = log_ratio(p)
    value = -((1 - epsilon) * math.log(sigmoid(beta * h)) + epsilon * math.log(sigmoid(-beta * h)))
    slope = beta * (epsilon - sigmoid(-beta * h))
    value -= nll_weight * sum(p.w)
    return value, [slope - nll_weight for _ in p.w], [-slope for _ in p.l]


def mcts(p: Pair, beta: float, epsilon: float) -> Answer:
    k = p.start
    h = sum(p.w[k:]) - sum(p.ref_w[k:]) - sum(p.l[k:]) + sum(p.ref_l[k:])
    value = -(1 - epsilon) * math.log(sigmoid(beta * h)) - epsilon * math.log(sigmoid(-beta * h))
    slope = beta * (epsilon - sigmoid(-beta * h))
    return (value, [slope if t >= k else 0.0 for t in range(len(p.w))],
            [-slope if t >= k else 0.0 for t in range(len(p.l))])  # fmt: skip


def rationale_likelihood(p: Pair, beta: float, rationale_weight: float) -> Answer:
    value, slopes_w, slopes_l = dpo(p, beta)
    return value - rationale_weight * p.rationale, slopes_w, slopes_l


def rationale_logistic(p: Pair, beta: float, rationale_weight: float) -> Answer:
    value, slopes_w, slopes_l = dpo(p, beta)
    return value - math.log(sigmoid(rationale_weight * p.rationale)), slopes_w, slopes_l


Case: TypeAlias = tuple[str, Callable[..., Answer], dict[str, float], str | None]

CASES: list[Case] = [
    ("dpo", dpo, {"beta": 0.7}, None),
    ("conservative_dpo", conservative_dpo, {"beta": 0.7, "epsilon": 0.2}, None),
    ("robust_dpo", robust_dpo, {"beta": 0.7, "epsilon": 0.2}, None),
    ("ipo", ipo, {"beta": 0.3}, None),
    ("simpo", simpo, {"beta": 1.3, "margin": 0.4}, None),
    ("cpl", cpl, {"beta": 0.8, "bias": 0.6, "gamma": 0.9}, None),
    ("power", power, {"beta": 0.9, "strength": 0.3}, None),
    ("vpo", vpo, {"beta": 0.7, "strength": 0.3, "sign": -1.0}, None),
    ("vpo", vpo, {"beta": 0.7, "strength": 0.3, "sign": 1.0}, None),
    ("constrained_po", constrained_clip, {"beta": 0.7}, "clip"),
    ("constrained_po", constrained_cpo, {"beta": 0.7, "alpha": 0.8, "target": 0.5, "sharpness": 1.7}, "cpo"),
    ("constrained_po", constrained_inverse,
     {"beta": 0.7, "multiplier": 0.2, "inverse_limit": 1.6}, "inverse"),
    ("dno", dpo, {"beta": 0.6}, None),
    ("inpo", inpo, {"beta": 0.4, "reference_share": 0.3}, None),
    ("slic", slic, {"beta": 0.7, "margin": 0.8, "nll_weight": 0.2}, None),
    ("slic", slic, {"beta": 1.5, "margin": 0.05, "nll_weight": 0.2}, None),
    ("diffusion_dro", diffusion_dro, {"beta": 1.0, "margin": 0.001}, None),
    ("orpo", orpo, {"beta": 1.2, "pair_weight": 0.4, "nll_weight": 0.9}, None),
    ("upo", upo, {"beta": 0.7, "epsilon": 0.15, "nll_weight": 0.3}, None),
    ("mcts", mcts, {"beta": 0.7, "epsilon": 0.15}, None),
    ("rationale", rationale_likelihood, {"beta": 0.7, "rationale_weight": 0.3}, "likelihood"),
    ("rationale", rationale_logistic, {"beta": 0.7, "rationale_weight": 0.3}, "logistic"),
]  # fmt: skip

cases = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0]}-{case[3] or case[2].get('sign', '')}"
)


def with_form(name: str, values: dict[str, float], form: str | None) -> dict[str, float | str]:
    """The settings besides beta, with the form under its name in the row."""
    settings: dict[str, float | str] = {key: value for key, value in values.items() if key != "beta"}
    if form is not None:
        settings["rationale_form" if name == "rationale" else "form"] = form
    return settings


LENGTHS = [[3, 2], [1, 4], [4, 4], [2, 1], [3, 3], [2, 4]]
LABELS = [1.0, 0.0, 0.3, 1.4, -0.2, 0.5]
WEIGHTS = [1.0, 2.0, 0.5, 1.0, 3.0, 0.0]
STARTS = [1, 0, 2, 0, 1, 1]


def draw(seed: int, scale: float = 0.8) -> tuple[list[list[Steps]], Tensor]:
    """Log-likelihoods [6][2][length] as lists, and [6, 2, 4] with NaN in the padding."""
    generator = torch.Generator().manual_seed(seed)
    table = -scale * torch.rand(6, 2, 4, generator=generator, dtype=torch.float64) - 0.05
    lists = [[table[i, c, : LENGTHS[i][c]].tolist() for c in range(2)] for i in range(6)]
    mask = torch.arange(4) < torch.tensor(LENGTHS)[..., None]
    return lists, table.masked_fill(~mask, math.nan)


def expected_of(case: Case, seed: int) -> tuple[list[float], list[list[Steps]]]:
    """Values [6] and slopes [6][2][4], each label as odds of which of the two is the chosen one."""
    _, formula, values, _ = case
    policy, reference, old = (draw(seed + i)[0] for i in range(3))
    losses, slopes = [], []
    for i in range(6):
        loss, slope = 0.0, [[0.0] * 4, [0.0] * 4]
        for chosen, share in ((1, LABELS[i]), (0, 1.0 - LABELS[i])):
            w, l = chosen, 1 - chosen  # noqa: E741
            pair = Pair(policy[i][w], policy[i][l], reference[i][w], reference[i][l], old[i][w], old[i][l],
                        STARTS[i], RATIONALES[i])  # fmt: skip
            value, slopes_w, slopes_l = formula(pair, **values)
            loss += WEIGHTS[i] * share * value
            for t, one in enumerate(slopes_w):
                slope[w][t] += WEIGHTS[i] * share * one
            for t, one in enumerate(slopes_l):
                slope[l][t] += WEIGHTS[i] * share * one
        losses.append(loss)
        slopes.append(slope)
    return losses, slopes


RATIONALES = [-0.2, -1.5, -0.7, -3.0, -0.1, -2.0]


def arguments(case: Case, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
    """What the library is given for the same pairs."""
    name, _, values, form = case
    policy, reference, old = (draw(seed + i)[1] for i in range(3))
    mask = ~torch.isnan(policy)
    row = PAIR_LOSSES[name]
    more: dict[str, Any] = {
        "reference": reference if row.needs_reference else None,
        "opponents": old if row.needs_opponents else None,
        "weights": torch.tensor(WEIGHTS, dtype=torch.float64),
        "starts": torch.tensor(STARTS) if row.suffix else None,
        "rationales": torch.tensor(RATIONALES, dtype=torch.float64) if name == "rationale" else None,
        "beta": values["beta"],
        "settings": with_form(name, values, form),
    }
    return (policy, mask, torch.tensor(LABELS, dtype=torch.float64)), more


@cases
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_values_and_slopes_are_those_of_the_source(case: Case, seed: int) -> None:
    (policy, mask, labels), more = arguments(case, seed)
    losses, slopes = expected_of(case, seed)
    policy.requires_grad_()
    found = pair_loss(case[0], policy, mask, labels, **more)
    torch.testing.assert_close(found, torch.tensor(losses, dtype=torch.float64), rtol=0.0, atol=1e-10)
    (by_autograd,) = torch.autograd.grad(found.sum(), policy)
    wanted = torch.tensor(slopes, dtype=torch.float64)
    torch.testing.assert_close(by_autograd, wanted, rtol=0.0, atol=1e-10)
    closed = pair_slopes(case[0], policy.detach(), mask, labels, **more)
    torch.testing.assert_close(closed, wanted, rtol=0.0, atol=1e-10)


@cases
def test_slopes_worked_out_by_hand_are_those_of_the_formula(case: Case) -> None:
    """Central differences of the scalar formula: the formulas above are checked as well."""
    _, formula, values, _ = case
    policy, reference, old = (draw(i)[0] for i in range(3))
    for i in range(6):
        sides = [list(policy[i][1]), list(policy[i][0])]

        def value(sides: list[Steps], i: int = i) -> float:
            return formula(Pair(sides[0], sides[1], reference[i][1], reference[i][0], old[i][1], old[i][0],
                                STARTS[i], RATIONALES[i]), **values)[0]  # fmt: skip

        answer = formula(Pair(sides[0], sides[1], reference[i][1], reference[i][0], old[i][1], old[i][0],
                              STARTS[i], RATIONALES[i]), **values)  # fmt: skip
        for side in range(2):
            for t, slope in enumerate(answer[1 + side]):
                up, down = ([list(steps) for steps in sides] for _ in range(2))
                up[side][t] += 1e-5
                down[side][t] -= 1e-5
                assert (value(up) - value(down)) / 2e-5 == pytest.approx(slope, abs=1e-7)


def test_every_row_has_a_formula() -> None:
    assert {case[0] for case in CASES} == set(PAIR_LOSSES)


def test_soft_labels_of_dno_are_those_of_its_objective() -> None:
    """-[ sigma(r1 - r2) log sigma(eta (k1 - k2)) + sigma(r2 - r1) log sigma(eta (k2 - k1)) ]."""
    rewards, ratios, eta = (0.8, 0.3), (0.4, -0.9), 1.7
    literal = -sigmoid(rewards[0] - rewards[1]) * math.log(sigmoid(eta * (ratios[0] - ratios[1])))
    literal -= sigmoid(rewards[1] - rewards[0]) * math.log(sigmoid(eta * (ratios[1] - ratios[0])))
    reference = torch.tensor([[[-1.0], [-2.0]]], dtype=torch.float64)
    policy = reference + torch.tensor([[[ratios[0]], [ratios[1]]]], dtype=torch.float64)
    label = torch.tensor([sigmoid(rewards[1] - rewards[0])], dtype=torch.float64)
    found = pair_loss(
        "dno", policy, torch.ones(1, 2, 1, dtype=torch.bool), label, reference=reference, beta=eta
    )
    assert found.item() == pytest.approx(literal, abs=1e-12)
