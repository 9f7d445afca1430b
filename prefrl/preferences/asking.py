"""Data made to order: pairs of segments, answered by who knows, and all sequences with their returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prefrl.config import Count, Positive, checked
from prefrl.data import Preferences, ScoredSegments, Segments, TransitionDataset, seeded_generator
from prefrl.data.segment_store import Excerpt
from prefrl.tabular import TabularMDP, optimal_policy
from prefrl.tabular.segments import random_pairs

from .models import PartialReturn, Regret, StepwiseModel, Valuation, valuate
from .teachers import Teacher, TeacherKind, teacher_of_kind


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


def answers_by_return(
    kind: TeacherKind, first: Excerpt, second: Excerpt, *, temperature: float = 0.2, seed: int = 0
) -> Preferences:
    """Return what a teacher who adds up rewards says of N pairs; those that it skips have weight 0.

    Args:
        kind: the teacher's kind.
        first: N segments, with rewards and weights.
        second: what each is compared with.
        temperature: of the logistic teacher, in standard deviations of the segments' returns.
        seed: of the answers.

    Raises:
        ValueError: if the temperature is not above 0.
    """
    checked(Positive, temperature, "temperature")
    model, valuations = PartialReturn(), [_by_reward(side) for side in (first, second)]
    teacher = Teacher(model)
    if kind != "noiseless":  # whose answers wait for no device
        scores = torch.cat([model.score(valuation) for valuation in valuations])
        spread = temperature * float(scores.std()) + 1e-12
        teacher = teacher_of_kind(kind, model, scores, temperature=spread)
    labels, answered = teacher.label(*valuations, seed=seed)
    answers = Preferences.from_labels(first.segments, second.segments, labels, {"teacher": kind})
    return replace(answers, weights=answered * first.weights * second.weights)


def _by_reward(side: Excerpt) -> Valuation:
    """Return what a teacher who judges by the return knows of segments."""
    rewards, mask = side.rewards.to(torch.float64), side.segments.mask
    count, length = mask.shape
    nothing = torch.zeros(count, length + 1, dtype=torch.float64, device=mask.device)
    return Valuation(rewards, mask, nothing, nothing[:, 1:])


def ask_about(
    dataset: TransitionDataset, num_pairs: int, *, kind: TeacherKind = "noiseless", length: int = 50,
    temperature: float = 0.2, seed: int = 0,
) -> Preferences:  # fmt: skip
    """Return comparisons of random segments of a data set by a teacher who adds up the data's rewards.

    Args:
        dataset: what happened.
        num_pairs: pairs shown, of two segments each that start at different rows; a teacher that skips
            answers fewer.
        kind: the teacher's kind.
        length: steps of a segment; shorter ones end in a terminal state.
        temperature: of the logistic teacher, in standard deviations of the segments' returns.
        seed: of pairs and answers.

    Raises:
        ValueError: for a bad argument, if the data hold no two such segments, or if the teacher answered
            nothing.
    """
    first, second = random_excerpts(dataset, num_pairs, length, seed=seed)
    answers = answers_by_return(kind, first, second, temperature=temperature, seed=seed)
    answers = answers[answers.weights > 0]
    if not len(answers):
        raise ValueError(f"the teacher skipped all {num_pairs} pairs; ask for more")
    metadata = {**answers.metadata, "teacher_model": PartialReturn.__name__, "seed": seed}
    return replace(answers, metadata=metadata)


def random_excerpts(
    dataset: TransitionDataset, num_pairs: int, length: int, *, seed: int = 0
) -> tuple[Excerpt, Excerpt]:
    """Return pairs of segments of a data set that start at different rows, drawn evenly, with repeats.

    Raises:
        ValueError: for a bad argument, or if the data hold no two such segments.
    """
    checked(Count, num_pairs, "num_pairs")
    starts = dataset.segment_starts(length)
    if len(starts) < 2:
        raise ValueError(f"length is {length}; the data have {len(starts)} segments of so many steps, and "
                         "a comparison needs two")  # fmt: skip
    draws = seeded_generator(seed, "pairs")
    one = torch.randint(len(starts), (num_pairs,), generator=draws)
    other = (one + torch.randint(1, len(starts), (num_pairs,), generator=draws)) % len(starts)
    weights = torch.ones(num_pairs, dtype=torch.float64)
    first, second = (Excerpt(*dataset.segments(starts[places], length), weights) for places in (one, other))
    return first, second


MAX_EXACT_PAIRS = 1_000_000
"""Comparisons of all pairs of sequences that are made."""


def exact_answers(task: Any, num_pairs: int | None = None, *, seed: int = 0) -> Preferences:
    """Return comparisons of complete sequences, answered by the task's exact preference matrix.

    Args:
        task: an environment that knows all its sequences: their ``sequences()`` [K, T],
            ``sequence_observations()`` [P, K, T + 1] and ``preference_matrix()`` [P, K, K].
        num_pairs: pairs that are drawn evenly, each answered once, by 0 or 1; None: every pair of every
            prompt once, with the exact probability for its label.
        seed: of pairs and answers.

    Raises:
        TypeError: if ``num_pairs`` is no number.
        ValueError: if ``task`` knows no such thing, ``num_pairs`` is below 1, or pairs are more than a
            million.
    """
    checked(Count | None, num_pairs, "num_pairs")
    task = getattr(task, "unwrapped", task)
    if not hasattr(task, "preference_matrix"):
        raise ValueError(f"{type(task).__name__} does not know who beats whom; give comparisons")
    matrix = torch.as_tensor(task.preference_matrix(), dtype=torch.float64)
    prompts, count = matrix.shape[:2]
    total = prompts * count * (count - 1) // 2
    if num_pairs is None and total > MAX_EXACT_PAIRS:
        raise ValueError(f"there are {total} pairs of sequences; give num_pairs")
    first, second = torch.triu_indices(count, count, 1)
    prompt = torch.arange(prompts).repeat_interleave(len(first))
    first, second = first.repeat(prompts), second.repeat(prompts)
    if num_pairs is not None:
        draws = seeded_generator(seed, "pairs")
        chosen = torch.randint(len(first), (num_pairs,), generator=draws)
        turned = torch.rand(num_pairs, generator=draws) < 0.5
        prompt, first, second = prompt[chosen], first[chosen], second[chosen]
        first, second = torch.where(turned, second, first), torch.where(turned, first, second)
    labels = matrix[prompt, second, first]
    if num_pairs is not None:
        drawn = torch.rand(num_pairs, generator=seeded_generator(seed, "answers"), dtype=torch.float64)
        labels = (drawn < labels).to(torch.float64)

    metadata = {"teacher": "exact", "seed": seed}
    sides = [_sequences(task, prompt, places) for places in (first, second)]
    return Preferences.from_labels(sides[0], sides[1], labels, metadata)


def _sequences(task: Any, prompt: Tensor, places: Tensor) -> Segments:
    """Return complete sequences [N] of prompts [N] as segments."""
    obs, tokens = torch.as_tensor(task.sequence_observations()), torch.as_tensor(task.sequences())
    length = torch.full_like(places, tokens.shape[1])
    return Segments(obs[prompt, places], tokens[places], length, torch.ones_like(places, dtype=torch.bool))


def exact_groups(task: Any) -> ScoredSegments:
    """Return all complete sequences of a task, a group for each prompt, with their returns for scores.

    Args:
        task: as of :func:`exact_answers`, with ``sequence_returns()`` [P, K].

    Raises:
        ValueError: if ``task`` knows no such thing.
    """
    task = getattr(task, "unwrapped", task)
    if not hasattr(task, "sequence_returns"):
        raise ValueError(f"{type(task).__name__} does not know all its sequences; give groups of segments")
    returns = torch.as_tensor(task.sequence_returns(), dtype=torch.float64)
    prompts, count = returns.shape
    prompt = torch.arange(prompts).repeat_interleave(count)
    sequences = _sequences(task, prompt, torch.arange(count).repeat(prompts))
    return ScoredSegments(sequences, prompt, returns.flatten())


def with_flips(preferences: Preferences, rate: float, *, seed: int = 0) -> Preferences:
    """Return comparisons whose labels are turned round at a rate.

    Where all labels are answers (0, 1, or ties), each is turned round or is not, by the seed; where they are
    probabilities, they become what they would be on the average, y + rate (1 - 2 y).
    """
    labels = preferences.labels
    if bool(((labels == 0.0) | (labels == 1.0) | (labels == 0.5)).all()):
        draws = torch.rand(len(labels), generator=seeded_generator(seed, "flips"), dtype=torch.float64)
        return replace(preferences, labels=torch.where(draws < rate, 1.0 - labels, labels))
    return replace(preferences, labels=labels + rate * (1.0 - 2.0 * labels))


def true_valuation(mdp: TabularMDP, segments: Segments, gamma: float) -> Valuation:
    """Return what the true reward of one MDP says along segments with features."""
    assert segments.features is not None
    state_value, action_value, _ = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), gamma)
    return valuate(segments, segments.features @ mdp.weights[0], state_value[0], action_value[0])
