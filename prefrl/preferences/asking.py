"""Comparisons made to order: random pairs of segments of a tabular MDP, answered by a simulated teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefrl.data import Preferences, Segments
from prefrl.tabular import TabularMDP, optimal_policy
from prefrl.tabular.segments import random_pairs

from .models import Regret, StepwiseModel, Valuation, valuate
from .teachers import TeacherKind, teacher_of_kind


def ask_teacher(
    mdp: TabularMDP,
    num_pairs: int,
    *,
    kind: TeacherKind = "noiseless",
    model: StepwiseModel | None = None,
    length: int | Sequence[int] = 3,
    temperature: float = 1.0,
    gamma: float = 0.999,
    seed: int = 0,
) -> Preferences:
    """Return comparisons of random pairs by a teacher who knows the true reward.

    Args:
        mdp: a batch of one.
        num_pairs: pairs shown; a teacher that skips answers fewer.
        kind: the teacher's kind.
        model: what it judges by (default: regret).
        length: transitions per segment, or several lengths to mix.
        temperature: of the logistic teacher.
        gamma: discount of the optimal values.
        seed: of pairs and answers.

    Raises:
        ValueError: for a bad argument, or if the teacher answered nothing.
    """
    model = model or Regret()
    first, second = random_pairs(mdp, num_pairs, length=length, seed=seed)
    valuations = [true_valuation(mdp, segments, gamma) for segments in (first, second)]
    scores = torch.cat([model.score(valuation) for valuation in valuations])
    teacher = teacher_of_kind(kind, model, scores, temperature=temperature)
    labels, answered = teacher.label(*valuations, seed=seed)
    if not bool(answered.any()):
        raise ValueError(f"the teacher skipped all {num_pairs} pairs; ask for more")
    metadata = {"teacher": kind, "teacher_model": type(model).__name__, "seed": seed, "gamma": gamma}
    return Preferences.from_labels(first[answered], second[answered], labels[answered], metadata)


def true_valuation(mdp: TabularMDP, segments: Segments, gamma: float) -> Valuation:
    """Return what the true reward of one MDP says along segments with features."""
    assert segments.features is not None
    state_value, action_value, _ = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), gamma)
    return valuate(segments, segments.features @ mdp.weights[0], state_value[0], action_value[0])
