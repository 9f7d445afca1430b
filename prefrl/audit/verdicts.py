"""Can one reward explain the answers? One word, by rules that are fixed, and a sentence with the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .evidence import LEVEL, Circles, Heterogeneity
from .held_out import Candidate, Prediction

ERRORS = 2.0
"""Standard errors by which a model must be ahead on answers held out."""

MOST_ERRORS = 999.0
"""Standard errors, of more than which nothing is said."""

ENOUGH_POWER = 0.5
"""How often a test must notice what is planted before its silence counts."""

Word = Literal["scalar", "cyclic", "groups", "unclear"]


@dataclass(frozen=True)
class Verdict:
    """What the answers show."""

    word: Word
    """"scalar": one reward explains them as well as anything; "cyclic": majorities go round; "groups": users
    want different things; "unclear": they are too few, or too noisy, to tell, or none of these."""
    reason: str
    """The numbers that decided."""


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a verdict is made of."""

    models: Mapping[str, Candidate]
    """By name."""
    predictions: Mapping[str, Prediction]
    """By name, of the same models."""
    coin: Prediction
    """What knows nothing."""
    circles: Circles | None
    """None where no three options were all compared without a tie."""
    users: Heterogeneity | None
    """None where no question was answered by two users."""
    planted: float | None
    """How often GPM finds a circle planted in features; None where triads say enough, or there are none."""
    num_options: int
    """K."""
    loops: bool
    """Whether answers could go round: not where pairs of options in a table make a tree."""

    def best(self, kind: str) -> str | None:
        """Return the model of a kind that loses least; None if there is none."""
        names = [name for name in self.models if self.models[name].kind == kind]
        return min(names, key=lambda name: self.predictions[name].log_loss) if names else None

    def lead(self, name: str | None, other: str | None) -> float:
        """Return by how many standard errors a model is ahead of another (None: a coin); 0 without it.

        Where each answer gains the same, it is :data:`MOST_ERRORS`, as it is for more.
        """
        if name is None:
            return 0.0
        than = self.coin if other is None else self.predictions[other]
        gain, error = self.predictions[name].ahead_of(than)
        if abs(gain) < 1e-9:  # the same but for rounding
            return 0.0
        return max(-MOST_ERRORS, min(MOST_ERRORS, gain / max(error, 1e-300)))


def verdict(found: Findings) -> Verdict:
    """Return the verdict, by the first rule that fits.

    1. groups: a model of groups predicts better than the best single reward and than a coin by
       :data:`ERRORS` standard errors, and no worse than a model with circles; and users differ (p at most
       :data:`~prefrl.audit.evidence.LEVEL`) where that can be tested.
    2. cyclic: there are more circles of three, or a clearer one, than the best single reward would give by
       chance (p at most LEVEL, both tests together); where triads say too little, as no three options were
       all compared or too few times, and there are features, or no triads at all, a model with circles
       predicts better, and better than a coin, by :data:`ERRORS` standard errors, and the pairs that were
       asked about are no tree, in which nothing could go round.
    3. unclear: users differ, but no groups were found that predict better.
    4. scalar: a single reward predicts better than a coin and no worse than a model with circles, by ERRORS
       standard errors, and what was not seen would have been, had it been there, in
       :data:`ENOUGH_POWER` of the cases.
    5. unclear.
    """
    scalar, general, groups = (found.best(kind) for kind in ("scalar", "general", "groups"))
    differ = found.users is not None and found.users.p_value <= LEVEL
    grouped = found.lead(groups, scalar)
    told = grouped > ERRORS and found.lead(groups, None) > ERRORS and found.lead(groups, general) > 0.0
    if told and (differ or found.users is None):
        return Verdict("groups", f"{groups} predicts held-out answers better than {scalar}, the best single "
                                 f"reward, by {grouped:.1f} standard errors: users want different "
                                 "things")  # fmt: skip
    circular = _circular(found, scalar, general)
    if circular is not None:
        return circular
    if found.users is not None and differ:
        return Verdict("unclear", f"users differ (p = {found.users.p_value:.2g}), but no groups of them were "
                                  "found that predict better")  # fmt: skip
    return _scalar(found, scalar, general, groups)


def _circular(found: Findings, scalar: str | None, general: str | None) -> Verdict | None:
    """Return that there are circles, or None."""
    lead = found.lead(general, scalar)
    if found.circles is None or found.circles.p > LEVEL:
        ahead = min(lead, found.lead(general, None)) > ERRORS
        if not ahead or not found.loops or (found.circles is not None and found.planted is None):
            return None
        return Verdict("cyclic", f"{general} predicts held-out answers better than {scalar}, the best single "
                                 f"reward, by {lead:.1f} standard errors; what triads there are say too "
                                 "little to show a circle itself")  # fmt: skip
    return Verdict("cyclic", f"{found.circles.cyclic} of {found.circles.triads} triads go round, noise gives "
                             f"{found.circles.expected:.1%}; p = {found.circles.p:.2g} for their number and "
                             "the clearest one")  # fmt: skip


def _scalar(found: Findings, scalar: str | None, general: str | None, groups: str | None) -> Verdict:
    """Return that one reward explains the answers, or what is missing for that."""
    lead = found.lead(scalar, None)
    if lead <= ERRORS:
        return Verdict("unclear", f"{scalar}, the best single reward, predicts held-out answers no better "
                                  f"than a coin ({lead:.1f} standard errors)")  # fmt: skip
    if found.lead(general, scalar) > ERRORS:
        return Verdict("unclear", f"{general} predicts held-out answers better than {scalar} by "
                                  f"{found.lead(general, scalar):.1f} standard errors, but there are no more "
                                  "circles than noise gives")  # fmt: skip
    if found.users is not None and found.users.power < ENOUGH_POWER:
        return Verdict("unclear", "users with opposite rewards would have been noticed in "
                                  f"{found.users.power:.0%} of cases only: too few answers")  # fmt: skip
    tried = [each for each in (found.planted, found.circles and found.circles.power) if each is not None]
    power = max(tried, default=None)
    if found.num_options > 2 and (power is None or power < ENOUGH_POWER):
        seen = "could not be seen in these pairs" if power is None else \
            f"would have been noticed in {power:.0%} of cases only"  # fmt: skip
        return Verdict("unclear", f"{scalar} predicts better than a coin, but a circle {seen}: too few "
                                  "answers")  # fmt: skip
    people = "neither do groups of users" if groups else "there are no users to tell apart"
    return Verdict("scalar", f"{scalar} predicts held-out answers better than a coin by {lead:.1f} standard "
                             f"errors; circles do not predict better, and {people}")  # fmt: skip
