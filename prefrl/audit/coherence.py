"""Whether one reward explains answers: all that is looked at, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro

from prefrl.config import Bounds, Count, Natural, Settings, to_json
from prefrl.data.devices import seeded_generator
from prefrl.functional.preferences.general_models.agreement import agreement
from prefrl.functional.preferences.general_models.lapses import flip_rate
from prefrl.preferences.general_models import PAL

from .answers import Answers
from .evidence import Circles, Pairs, find_circles, find_differences, find_noise, find_planted_circle
from .held_out import Candidate, candidates, coin, folds_of, held_out, pair_of, told
from .verdicts import ENOUGH_POWER, ERRORS, Findings, Verdict, verdict


@dataclass(frozen=True)
class AuditSettings(Settings):
    """How comparisons are looked at."""

    folds: Annotated[int, Bounds(low=2)] = 5
    """Parts of the answers, each predicted by models that are fitted to the others."""

    blocks: Annotated[
        tuple[Count, ...],
        tyro.conf.arg(metavar="INT [INT ...]", help_behavior_hint="(default: 1 and 2, as options allow)"),
    ] = ()
    """Planes of the general preference model."""

    prototypes: Annotated[
        tuple[Count, ...],
        tyro.conf.arg(metavar="INT [INT ...]", help_behavior_hint="(default: 2, if there are two users)"),
    ] = ()
    """Ideals of the model of groups."""

    draws: Annotated[int, Bounds(low=199)] = 999
    """Sets of answers that noise alone gives; with fewer than 199 no p-value is small enough to count."""

    seed: Natural = 0
    """Of folds, starts of fits, and draws."""


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found."""

    answers: Answers
    """What was looked at."""
    findings: Findings
    """What speaks for what."""
    verdict: Verdict
    """The word, and why."""
    pairs: Pairs
    """Pairs of options with all their answers."""
    result: dict[str, Any]
    """What is written."""


def audit_preferences(
    answers: Answers,
    settings: AuditSettings | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> Audit:
    """Say whether one reward explains answers; see :func:`prefrl.audit.verdicts.verdict`.

    Args:
        answers: see :func:`prefrl.audit.answers.read_answers`.
        settings: None: the defaults.
        report: is told which share of the fits is done.

    Raises:
        ValueError: if there are fewer answers than folds, or settings ask for more than they allow.
    """
    settings = settings or AuditSettings()
    comparisons, seed = answers.comparisons, settings.seed
    models = candidates(comparisons, settings.blocks, settings.prototypes, seed)
    folds = folds_of(comparisons, settings.folds, seeded_generator(seed, "audit folds"))
    done = iter(range(1, len(models) * settings.folds + 1))
    predictions = held_out(comparisons, models, folds,
                           lambda: report(next(done) / (len(models) * settings.folds)))  # fmt: skip
    scalar = min((name for name in models if models[name].kind == "scalar"),
                 key=lambda name: predictions[name].log_loss)  # fmt: skip
    pairs = Pairs.of(comparisons, models[scalar])
    circles = find_circles(pairs, settings.draws, seed)
    users = find_differences(comparisons, models[scalar], pairs.chances, settings.draws, seed)
    planted = None
    features = comparisons.features
    blind = circles is None or circles.power < ENOUGH_POWER
    if blind and features is not None and features.shape[1] > 1:
        few = {name: each for name, each in models.items() if each.kind != "groups"}
        planted = find_planted_circle(comparisons, few, pairs, settings.folds, seed, ERRORS)
    # The options of a table are all linked, so that as many pairs as options close a loop.
    loops = features is not None or len(pairs.first) >= comparisons.num_options
    findings = Findings(models, predictions, coin(comparisons), circles, users, planted,
                        comparisons.num_options, loops)  # fmt: skip
    word = verdict(findings)
    return Audit(answers, findings, word, pairs, _result(answers, findings, word, pairs, settings))


def _result(
    answers: Answers, found: Findings, word: Verdict, pairs: Pairs, settings: AuditSettings
) -> dict[str, Any]:
    """Return what is written."""
    comparisons, circles = answers.comparisons, found.circles
    pair, labels = pair_of(comparisons)
    agree = agreement(pair, labels, comparisons.user)
    noise = find_noise(pairs, comparisons)
    again = agreement(pair, labels, torch.arange(len(pair)))  # two answers to a question, whoever gave them
    return {
        "verdict": word.word,
        "reason": word.reason,
        "models": {"coin": _numbers(found, None), **{name: _numbers(found, name) for name in found.models}},
        **_circle_numbers(circles),
        "circle_power": None if circles is None else circles.power,
        "planted_circle_found": found.planted,
        "agreement": None if agree is None else agree.share,
        "krippendorff_alpha": None if agree is None else agree.alpha,
        "users_p_value": None if found.users is None else found.users.p_value,
        "users_power": None if found.users is None else found.users.power,
        "groups": _groups(answers, found) if word.word == "groups" else None,
        "noise": None if noise is None else noise.rate,
        "noise_interval": None if noise is None else [noise.low, noise.high],
        "repeat_disagreement": None if again is None else 1.0 - again.share,
        "flip_rate": None if again is None else flip_rate(1.0 - again.share),
        "num_answers": len(comparisons),
        "num_pairs": len(pairs.first),
        "num_options": comparisons.num_options,
        "num_users": comparisons.num_users,
        "left_out": answers.left_out,
        "known_by": answers.known_by,
        **to_json(settings),
    }


def _numbers(found: Findings, name: str | None) -> dict[str, float]:
    """Return what is written of a model, or of the coin."""
    seen = found.coin if name is None else found.predictions[name]
    gain, error = seen.ahead_of(found.coin)
    return {"accuracy": seen.accuracy, "log_loss": seen.log_loss, "gain_over_coin": gain,
            "gain_standard_error": error}  # fmt: skip


def _circle_numbers(circles: Circles | None) -> dict[str, Any]:
    """Return what is written of circles."""
    if circles is None:
        names = ("", "_expected", "_interval", "_p_value", "_count")
        return {f"cyclic_triads{name}": None for name in names} | {"triads": None, "clearest_p_value": None}
    return {
        "cyclic_triads": circles.rate,
        "cyclic_triads_expected": circles.expected,
        "cyclic_triads_interval": list(circles.interval),
        "cyclic_triads_p_value": circles.p_value,
        "cyclic_triads_count": circles.cyclic,
        "triads": circles.triads,
        "clearest_p_value": circles.clearest_p_value,
    }


def _groups(answers: Answers, found: Findings) -> dict[str, int]:
    """Return by user which ideal they are nearest to, by the best model of groups, fitted to all answers."""
    candidate: Candidate = found.models[found.best("groups") or ""]
    model = candidate.make()
    assert isinstance(model, PAL)
    model.fit(told(answers.comparisons, candidate))
    nearest = model.parameters["users"].argmax(1).tolist()
    return dict(zip(answers.user_names, nearest, strict=True))
