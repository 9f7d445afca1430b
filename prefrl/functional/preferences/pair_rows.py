"""The pair losses by name: each a row of choices that :mod:`pair_loss` puts together.

Seventeen ways to fit a policy to preferences differ in a handful of choices only: what of a segment's
log-likelihood counts, what it is measured against, by how much the preferred side must lead, which function
of the lead is paid, what is done to labels, and what is added. A row states those choices; a method of your
own is ``dataclasses.replace(PAIR_LOSSES["dpo"], ...)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from torch import Tensor

Setting: TypeAlias = float | str | Tensor
"""A number, the name of a form, or a tensor [...] or [..., N] that broadcasts against pairs [..., N]."""


@dataclass(frozen=True)
class PairLoss:
    """One method as data; see :func:`prefrl.functional.preferences.pair_loss.pair_loss` for the formula."""

    source: str
    """Where the formula stands, and what we chose where it is silent."""
    beta: float
    """Default of beta: the scale of the log-ratio, or for the square link 1 / (2 target)."""
    link: Literal["logistic", "square", "hinge"] = "logistic"
    """What a lead m costs: -log sigmoid(m), (m - 1 / (2 beta))^2 with no beta in m, or max(0, -m)."""
    likelihood: Literal["sum", "mean", "discounted"] = "sum"
    """What counts of the steps: their sum, their mean, or their sum weighted by gamma^t."""
    score: Literal["likelihood", "odds", "likelihood_and_weight"] = "likelihood"
    """The likelihood itself, its log-odds log(p / (1 - p)), or with the weight 1 / length added (POWER)."""
    reference: Literal["none", "ratio", "mixture", "margin"] = "none"
    """Whether likelihoods are measured against a reference, against a mixture of reference and opponents, or
    whether the reference only sets the margin."""
    margin: Literal["none", "fixed", "constrained"] = "none"
    """What the preferred side must lead by: nothing, the setting ``margin``, or what the reference says."""
    labels: Literal["given", "smoothed", "robust"] = "given"
    """Labels as they are, mixed with their opposite by ``epsilon``, or corrected for flips at that rate."""
    regularisers: tuple[Literal["nll", "log_ratio", "entropy", "rationale"], ...] = ()
    """What is added."""
    suffix: bool = False
    """Only steps from ``starts`` on count."""
    probabilities_only: bool = False
    """Likelihoods must be probabilities, not densities: Discrete actions."""
    settings: Mapping[str, float | str] = field(default_factory=dict)
    """Names and defaults of the further settings."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        missing = sorted(self._needed() - set(self.settings))
        if missing:
            raise ValueError(f"settings lacks a default of {missing[0]!r}, which this loss needs")

    def _needed(self) -> set[str]:
        """Return the settings that the row's choices read."""
        choices = (self.likelihood, self.reference, self.margin, self.labels, *self.regularisers)
        return {name for choice in choices for name in NEEDED.get(choice, ())}

    @property
    def needs_reference(self) -> bool:
        """Whether the loss cannot do without a reference."""
        return self.reference != "none"

    @property
    def needs_opponents(self) -> bool:
        """Whether the loss needs the likelihoods of an opponent besides the reference."""
        return self.reference == "mixture"

    def resolve(self, beta: float | Tensor | None, settings: Mapping[str, Setting] | None) -> PairSettings:
        """Return all settings with the defaults filled in.

        Only plain numbers are checked: looking into a tensor would wait for its device.

        Raises:
            ValueError: if a name is none of the row's, or a value is not allowed.
        """
        given = dict(settings or {})
        unknown = sorted(set(given) - set(self.settings))
        if unknown:
            allowed = ", ".join(sorted(self.settings)) or "none besides beta"
            raise ValueError(f"settings has {unknown[0]!r}; this loss takes: {allowed}")
        values: dict[str, Setting] = {"beta": self.beta if beta is None else beta, **self.settings, **given}
        for name, value in values.items():
            self._check(name, value)
        return PairSettings(values)

    def _check(self, name: str, value: Setting) -> None:
        if isinstance(value, Tensor):
            if name in FORMS:
                raise ValueError(f"{name} is a tensor; it must be one of {', '.join(FORMS[name])}")
            return
        if name in FORMS:
            if value not in FORMS[name]:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(FORMS[name])}")
            return
        allowed, text = ALLOWED[name]
        if not isinstance(value, (int, float)) or not allowed(value):
            raise ValueError(f"{name} is {value!r}; it must be {text}")
        if name == "epsilon" and self.labels == "robust" and value >= 0.5:
            raise ValueError(f"epsilon is {value!r}; it must lie below 0.5: labels flipped half of the time "
                             "say nothing")  # fmt: skip


@dataclass(frozen=True)
class PairSettings:
    """The settings of one call, all of them."""

    values: Mapping[str, Setting]

    def number(self, name: str) -> float | Tensor:
        """Return a number, or a tensor that broadcasts against [..., N]."""
        value = self.values[name]
        assert not isinstance(value, str)
        return value

    def per_side(self, name: str) -> float | Tensor:
        """Return a number, or a tensor that broadcasts against [..., N, 2]."""
        value = self.number(name)
        return value[..., None] if isinstance(value, Tensor) else value

    def form(self, name: str) -> str:
        """Return the name of a form."""
        return str(self.values[name])


FORMS: Mapping[str, tuple[str, ...]] = {
    "form": ("clip", "cpo", "inverse"),
    "rationale_form": ("likelihood", "logistic"),
}
"""Settings that are names: how constrained preference optimisation sets its margin, and how the likelihood of
a rationale is paid."""

NEEDED: Mapping[str, tuple[str, ...]] = {
    "discounted": ("gamma",),
    "mixture": ("reference_share",),
    "fixed": ("margin",),
    "constrained": ("form", "alpha", "target", "sharpness", "multiplier", "inverse_limit"),
    "smoothed": ("epsilon",),
    "robust": ("epsilon",),
    "nll": ("nll_weight",),
    "log_ratio": ("strength", "sign"),
    "entropy": ("strength",),
    "rationale": ("rationale_form", "rationale_weight"),
}
"""Settings by the choice that reads them."""


def _not_negative(value: float) -> bool:
    return 0.0 <= value < math.inf


def _positive(value: float) -> bool:
    return 0.0 < value < math.inf


ALLOWED: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "beta": (_positive, "a number above 0"),
    "epsilon": (lambda value: 0.0 <= value <= 0.5, "a share from 0 to 0.5"),
    "margin": (math.isfinite, "a finite number"),
    "bias": (lambda value: 0.0 < value <= 1.0, "above 0 and at most 1"),
    "gamma": (lambda value: 0.0 < value <= 1.0, "above 0 and at most 1"),
    "alpha": (_positive, "a number above 0"),
    "strength": (_not_negative, "a number of at least 0"),
    "sign": (lambda value: value in (-1.0, 1.0), "1 (online, optimistic) or -1 (offline, pessimistic)"),
    "target": (math.isfinite, "a finite number"),
    "sharpness": (_positive, "a number above 0"),
    "multiplier": (_not_negative, "a number of at least 0"),
    "inverse_limit": (_positive, "a number above 0"),
    "reference_share": (lambda value: 0.0 <= value <= 1.0, "a share from 0 to 1"),
    "nll_weight": (_not_negative, "a number of at least 0"),
    "pair_weight": (_not_negative, "a number of at least 0"),
    "rationale_weight": (_not_negative, "a number of at least 0"),
}
"""What each setting may be, and how that is said."""

PAIR_LOSSES: Mapping[str, PairLoss] = MappingProxyType({
    "dpo": PairLoss("DPO, arXiv 2305.18290, equation 7", beta=0.1, reference="ratio"),
    "conservative_dpo": PairLoss(
        "DPO with smoothed labels (cDPO): (1 - epsilon) l(beta h) + epsilon l(-beta h)",
        beta=0.1, reference="ratio", labels="smoothed", settings={"epsilon": 0.1}),
    "robust_dpo": PairLoss(
        "robust DPO, arXiv 2403.00409: [(1 - epsilon) l(beta h) - epsilon l(-beta h)] / (1 - 2 epsilon)",
        beta=0.1, reference="ratio", labels="robust", settings={"epsilon": 0.1}),
    "ipo": PairLoss("IPO, arXiv 2310.12036, equation 17, its tau as beta",
                    beta=0.1, link="square", reference="ratio"),
    "simpo": PairLoss(
        "SimPO, arXiv 2405.14734, equation 6; margin is gamma, half of beta as in the released code",
        beta=2.0, likelihood="mean", margin="fixed", settings={"margin": 1.0}),
    "cpl": PairLoss(
        "CPL, arXiv 2310.13639: beta is alpha, bias lambda, which scales the side that is not preferred",
        beta=0.1, likelihood="discounted", settings={"bias": 0.5, "gamma": 1.0}),
    "power": PairLoss(
        "POWER, arXiv 2412.09544, with weights 1 / length and the chosen as its baseline; strength is eta, "
        "its default is ours",
        beta=1.0, likelihood="mean", score="likelihood_and_weight", regularisers=("entropy",),
        settings={"strength": 0.01}),
    "vpo": PairLoss(
        "VPO, arXiv 2405.19320: strength is alpha, its default is ours; without calibration shares the "
        "chosen calibrate, as offline",
        beta=0.1, reference="ratio", regularisers=("log_ratio",),
        settings={"strength": 0.01, "sign": -1.0}),
    "constrained_po": PairLoss(
        "Constrained preference optimisation, arXiv 2605.20834: form clip, cpo (alpha, target "
        "gamma, sharpness tau) or inverse (multiplier gamma over reference probabilities, each term at most "
        "inverse_limit, both defaults ours)",
        beta=0.1, likelihood="mean", reference="margin", margin="constrained",
        settings={"form": "clip", "alpha": 1.0, "target": 0.5, "sharpness": 2.0, "multiplier": 0.1,
                  "inverse_limit": 100.0}),
    "dno": PairLoss(
        "DNO, arXiv 2404.03715: beta is eta, the reference the policy of this round, labels "
        "sigmoid(r(second) - r(first)) of win rates against it",
        beta=1.0, reference="ratio"),
    "inpo": PairLoss(
        "INPO, arXiv 2407.00617: beta is eta, reference_share tau / eta; opponents are this round's policy, "
        "or a mixture of rounds (MNPO, arXiv 2509.23102, whose released numbers are the defaults)",
        beta=0.0075, link="square", reference="mixture", settings={"reference_share": 1.0 / 3.0}),
    "slic": PairLoss(
        "SLiC-HF, arXiv 2305.10425, in the form max(0, margin - beta h) with a reference; nll_weight is ours",
        beta=0.1, link="hinge", reference="ratio", margin="fixed", regularisers=("nll",),
        settings={"margin": 1.0, "nll_weight": 0.01}),
    "diffusion_dro": PairLoss(
        "Diffusion-DRO, arXiv 2510.18353: max(0, margin - h), with minus the denoising error as log pi; the "
        "second is an expert's, the first the policy's own",
        beta=1.0, link="hinge", likelihood="mean", reference="ratio", margin="fixed",
        settings={"margin": 0.001}),
    "orpo": PairLoss(
        "ORPO, arXiv 2403.07691: NLL on the chosen plus pair_weight (lambda) times the log odds ratio's loss",
        beta=1.0, likelihood="mean", score="odds", regularisers=("nll",), probabilities_only=True,
        settings={"pair_weight": 0.1, "nll_weight": 1.0}),
    "upo": PairLoss(
        "UPO, arXiv 2409.11212: epsilon is alpha_j of each pair, the reference the last round's policy; its "
        "printed alpha_j flips most labels and the printed NLL has the wrong sign, both are mended",
        beta=0.1, reference="ratio", labels="smoothed", regularisers=("nll",),
        settings={"epsilon": 0.0, "nll_weight": 1.0}),
    "mcts": PairLoss(
        "MCTS-DPO, arXiv 2405.00451: from the first step that differs; epsilon is min(1 - c, 1/2) of visits",
        beta=0.1, reference="ratio", labels="smoothed", suffix=True, settings={"epsilon": 0.0}),
    "rationale": PairLoss(
        "Rationales, arXiv 2407.14477: form likelihood adds -gamma log pi(rationale), logistic "
        "-log sigmoid(gamma log pi(rationale)) as the released code for DPO does; rationale_weight is gamma",
        beta=0.1, reference="ratio", regularisers=("rationale",),
        settings={"rationale_form": "likelihood", "rationale_weight": 1.0}),
})  # fmt: skip
"""Every row by its name."""


def pair_loss_row(row: PairLoss | str) -> PairLoss:
    """Return a row by its name, or the row itself.

    Raises:
        ValueError: if there is no loss of that name.
    """
    if isinstance(row, PairLoss):
        return row
    if row not in PAIR_LOSSES:
        raise ValueError(f"row is {row!r}; the pair losses are {', '.join(PAIR_LOSSES)}")
    return PAIR_LOSSES[row]
