"""Settings of preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from prefrl.config import Bounds, Count, Natural, NonNegative, Positive, PositiveShare, Settings, Share, Sizes
from prefrl.data.devices import Precision
from prefrl.functional.preferences.pair_rows import PAIR_LOSSES, PairLoss

from ..actor_critic.ppo_config import Schedule

PairLossName = Literal[
    "dpo", "conservative_dpo", "robust_dpo", "ipo", "simpo", "cpl", "power", "vpo", "constrained_po", "dno",
    "inpo", "slic", "orpo", "upo", "mcts",
]  # fmt: skip
"""Rows of the table of pair losses that need nothing but comparisons (and a reference)."""

OF_THE_ROW = (
    "epsilon", "margin", "bias", "gamma", "alpha", "strength", "sign", "form", "target", "sharpness",
    "multiplier", "inverse_limit", "reference_share", "nll_weight", "pair_weight",
)  # fmt: skip
"""Settings that belong to some rows only."""


@dataclass(frozen=True)
class PreferenceOptimizationConfig(Settings):
    """Settings of :class:`PreferenceOptimization`; those that are None have the default of the loss."""

    of_each: ClassVar[tuple[str, ...]] = ("learning_rate", "beta")

    in_rounds: ClassVar[tuple[str, ...]] = ("dno", "upo", "inpo")
    """Losses that rounds of the same comparisons change something of."""

    loss: PairLossName = "dpo"
    """What is made of a comparison; see ``prefrl.functional.preferences.pair_rows``."""

    beta: Positive | tuple[Positive, ...] | None = None
    """Scale of log-ratios; one for all learners, or one for each."""

    epsilon: Share | None = None
    """Share of labels that are turned round, for losses that smooth or correct them."""

    margin: Annotated[float, Bounds()] | None = None
    """What the preferred side must lead by (simpo, slic)."""

    bias: PositiveShare | None = None
    """Scale of the side that is not preferred (cpl)."""

    gamma: PositiveShare | None = None
    """Discount per step (cpl)."""

    alpha: Positive | None = None
    """constrained_po: a scale of its margin, in the form cpo."""

    strength: NonNegative | None = None
    """Weight of the regulariser of power and vpo."""

    sign: Literal[-1, 1] | None = None
    """Of vpo's regulariser: 1 is optimism (online), -1 pessimism (offline)."""

    form: Literal["clip", "cpo", "inverse"] | None = None
    """How constrained_po sets its margin."""

    target: Annotated[float, Bounds()] | None = None
    """Lead that constrained_po asks for, in the form cpo."""

    sharpness: Positive | None = None
    """Of the soft maximum there."""

    multiplier: NonNegative | None = None
    """Of constrained_po's constraint, in the form inverse."""

    inverse_limit: Positive | None = None
    """Largest inverse probability there."""

    reference_share: Share | None = None
    """Share of the reference in what inpo measures against; the rest is the policy of the round."""

    nll_weight: NonNegative | None = None
    """Weight of the chosen's negative log-likelihood (slic, orpo, upo)."""

    pair_weight: NonNegative | None = None
    """Weight of orpo's log odds ratio."""

    label_rate: Share = 0.0
    """Share of the way that a comparison's label moves to what the policy believes, each time that it is
    learned from (POWER-DL's dynamic labels, arXiv 2412.09544, whose rate is not known to us); 0: none."""

    cloning_steps: Natural = 1_000
    """Gradient steps of behaviour cloning on all segments, first; what comes of it is the reference. Adam's
    averages go on from there."""

    round_steps: Count | None = None
    """Gradient steps of a round, after which the policy becomes the reference of dno and upo, and the
    opponent of inpo; None: all steps are one round."""

    policy: Literal["auto", "table", "mlp"] = "auto"
    """A table of logits for Discrete observations and actions, in float64, or a multilayer perceptron."""

    hidden: Sizes = (256, 256)
    """Sizes of the hidden layers of the mlp."""

    activation: Literal["relu", "tanh"] = "relu"
    """What comes after a hidden layer."""

    log_std_init: Annotated[float, Bounds(low=-20, high=2)] = -1.0
    """Logarithm of the standard deviations at the start (Box actions, in units of half its width)."""

    precision: Precision = "float32"
    """Of the products of the mlp: bf16 is faster where the processor has it (AMX or avx512_bf16) and layers
    are 256 wide or more; weights, Adam and losses stay float32."""

    learning_rate: Positive | tuple[Positive, ...] | None = None
    """Adam's step size; one for all learners, or one for each; None: 3e-4, for a table 0.1."""

    schedule: Schedule | None = None
    """What becomes of the step size after cloning: it stays, or falls linearly to 0; None: it falls where
    schedule_timesteps are given."""

    schedule_timesteps: Count | None = None
    """Timesteps in which a linear schedule reaches 0; None: those of the run, for ``prefrl train`` only."""

    batch_size: Count | None = None
    """Comparisons of a gradient step, at most all; None: 64, for a table all of them."""

    max_grad_norm: Positive | None = None
    """Gradients are cut to this norm; None: they are not."""

    adam_eps: Positive = 1e-8
    """Adam's epsilon."""

    def check(self) -> None:
        """Raise ValueError for settings that the loss does not take."""
        super().check()
        for name in OF_THE_ROW:
            if getattr(self, name) is not None and name not in self.row.settings:
                takes = ", ".join(["beta", *sorted(self.row.settings)])
                raise ValueError(f"{name} is {getattr(self, name)!r}; the loss {self.loss!r} takes {takes}")
        self.row.resolve(None, self.of_row)
        if self.round_steps is not None and self.loss not in self.in_rounds:
            raise ValueError(f"round_steps is {self.round_steps}; it must be None for {self.loss!r}, whose "
                             "reference stays")  # fmt: skip
        if self.label_rate and self.row.link != "logistic":
            raise ValueError(f"label_rate is {self.label_rate}; it must be 0 for {self.loss!r}, whose leads "
                             "are no log-odds")  # fmt: skip

    @property
    def row(self) -> PairLoss:
        """The row of the table."""
        return PAIR_LOSSES[self.loss]

    @property
    def of_row(self) -> dict[str, Any]:
        """The settings of the row that were given."""
        return {name: value for name in OF_THE_ROW if (value := getattr(self, name)) is not None}
