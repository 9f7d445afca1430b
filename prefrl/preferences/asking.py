"""Data made to order: pairs of segments, answered by who knows, and all sequences with their returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prefrl.config import Count, Positive, checked
from prefrl.data import Preferences, ScoredSegments, Segments, TransitionDataset, seeded_generator
from prefrl.data.segment_store import Excerpt
from prefrl.tabular import TabularMDP, optimal_policy
from prefrl.tabular.segments import count_pairs, random_pairs

from .general_models.comparisons import feature_sums
from .models import PartialReturn, Regret, StepwiseModel, Valuation, valuate
from .questions.rounds import LinearBelief, Rounds, ask_in_rounds, ask_options, rounds_of_segments
from .reward_model import RewardModel, RewardModelConfig
from .teachers import TEACHER, Answerer, Questions, Teacher, TeacherKind, teacher_of_kind


def ask_teacher(
    mdp: TabularMDP,
    num_pairs: int,
    *,
    kind: TeacherKind = "noiseless",
    model: StepwiseModel | None = None,
    length: int | Sequence[int] = 3,
    temperature: float = 1.0,
    gamma: float = 0.999,
    rounds: Rounds | None = None,
    seed: int = 0,
) -> Preferences:
    """Return comparisons of pairs, drawn or chosen among drawn ones, by a teacher who knows the true reward.

    Args:
        mdp: a batch of one.
        num_pairs: pairs shown; a teacher that skips answers fewer.
        kind: the teacher's kind.
        model: what it judges by (default: regret).
        length: transitions per segment, or several lengths to mix.
        temperature: of the logistic teacher.
        gamma: discount of the optimal values.
        rounds: how pairs are chosen, by a belief about partial returns that are linear in the features
            (None: at random).
        seed: of pairs and answers.

    Raises:
        ValueError: for a bad argument, or if the teacher answered nothing.
    """
    model, rounds = model or Regret(), rounds or Rounds()
    rounds.check_pool()
    drawn = num_pairs if rounds.query == "uniform" else rounds.pool(
        num_pairs, count_pairs(mdp, length=length, seed=seed))  # fmt: skip
    first, second = random_pairs(mdp, drawn, length=length, seed=seed)
    valuations = [true_valuation(mdp, segments, gamma) for segments in (first, second)]
    scores = torch.cat([model.score(valuation) for valuation in valuations])
    teacher = teacher_of_kind(kind, model, scores, temperature=temperature)
    labels, answered = teacher.label(*valuations, seed=seed)
    if rounds.query != "uniform":
        belief = _belief_of_features(first, second, seed=seed)
        chosen = ask_in_rounds(belief, num_pairs, _of(labels, answered), query=rounds.query,
                               rounds=rounds.rounds, seed=seed).places  # fmt: skip
        first, second, labels, answered = first[chosen], second[chosen], labels[chosen], answered[chosen]
    if not bool(answered.any()):
        raise ValueError(f"the teacher skipped all {num_pairs} pairs; ask for more")
    metadata = {"teacher": kind, "teacher_model": type(model).__name__, "seed": seed, "gamma": gamma,
                **rounds.metadata}  # fmt: skip
    return Preferences.from_labels(first[answered], second[answered], labels[answered], metadata)


def _belief_of_features(first: Segments, second: Segments, *, seed: int) -> LinearBelief:
    """Return a belief about N pairs by the sums of their features."""
    sums = torch.cat([feature_sums(side) for side in (first, second)]).to(torch.float64).cpu()
    place = torch.arange(len(first))
    return LinearBelief(sums, place, place + len(first), seed=seed)


def _of(labels: Tensor, weights: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return who gives the answers of a pool that is answered already, which no choice has seen."""
    return lambda places: (labels.cpu()[places], weights.cpu()[places].to(torch.float64))


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


class ReturnTeacher(Answerer):
    """A simulated teacher who adds up the rewards; see :func:`answers_by_return`.

    Args:
        kind: the teacher's kind.
        temperature: of the logistic teacher, in standard deviations of the segments' returns.
        seed: of the answers; in each session others are drawn.
    """

    def __init__(self, kind: TeacherKind = "noiseless", *, temperature: float = 0.2, seed: int = 0) -> None:
        self.kind, self.temperature, self.seed = kind, temperature, seed

    def ask(self, questions: Questions) -> Preferences:
        """See :meth:`Answerer.ask`."""
        seed = self.seed + 7919 * questions.session
        answers = answers_by_return(self.kind, questions.first, questions.second,
                                    temperature=self.temperature, seed=seed)  # fmt: skip
        return replace(answers, annotator_names=(TEACHER,))


def _by_reward(side: Excerpt) -> Valuation:
    """Return what a teacher who judges by the return knows of segments."""
    rewards, mask = side.rewards.to(torch.float64), side.segments.mask
    count, length = mask.shape
    nothing = torch.zeros(count, length + 1, dtype=torch.float64, device=mask.device)
    return Valuation(rewards, mask, nothing, nothing[:, 1:])


def ask_about(
    dataset: TransitionDataset, num_pairs: int, *, kind: TeacherKind = "noiseless", length: int = 50,
    temperature: float = 0.2, rounds: Rounds | None = None, reward: RewardModelConfig | None = None,
    seed: int = 0,
) -> Preferences:  # fmt: skip
    """Return comparisons of segments of a data set by a teacher who adds up the data's rewards.

    Args:
        dataset: what happened.
        num_pairs: pairs shown, of two segments each that start at different rows; a teacher that skips
            answers fewer.
        kind: the teacher's kind.
        length: steps of a segment; shorter ones end in a terminal state.
        temperature: of the logistic teacher, in standard deviations of the segments' returns.
        rounds: how pairs are chosen among drawn ones, by a reward model (None: they are drawn).
        reward: settings of that model.
        seed: of pairs and answers.

    Raises:
        ValueError: for a bad argument, if the data hold no two such segments, or if the teacher answered
            nothing.
    """
    rounds = rounds or Rounds()
    rounds.check_pool()
    checked(Count, num_pairs, "num_pairs")
    first, second = random_excerpts(dataset, rounds.pool(num_pairs), length, seed=seed)
    answers = answers_by_return(kind, first, second, temperature=temperature, seed=seed)
    if rounds.query != "uniform":
        model = RewardModel(dataset.observation_space, dataset.action_space, reward, seed=seed)
        answers = answers[rounds_of_segments(
            rounds, model, first.segments, second.segments, num_pairs,
            _of(answers.labels, answers.weights), seed=seed,
        ).places]  # fmt: skip
    answers = answers[answers.weights > 0]
    if not len(answers):
        raise ValueError(f"the teacher skipped all {num_pairs} pairs; ask for more")
    metadata = {**answers.metadata, "teacher_model": PartialReturn.__name__, "seed": seed, **rounds.metadata}
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


def exact_answers(
    task: Any, num_pairs: int | None = None, *, rounds: Rounds | None = None, seed: int = 0
) -> Preferences:
    """Return comparisons of complete sequences, answered by the task's exact preference matrix.

    Args:
        task: an environment that knows all its sequences: their ``sequences()`` [K, T],
            ``sequence_observations()`` [P, K, T + 1] and ``preference_matrix()`` [P, K, K].
        num_pairs: pairs that are drawn evenly, each answered once, by 0 or 1; None: every pair of every
            prompt once, with the exact probability for its label.
        rounds: how pairs are chosen, each at most once, by a belief about a utility of every sequence
            (None: they are drawn).
        seed: of pairs and answers.

    Raises:
        TypeError: if ``num_pairs`` is no number.
        ValueError: if ``task`` knows no such thing, ``num_pairs`` is below 1, pairs are more than a million,
            or pairs are to be chosen and there are fewer, or sequences are more than 2,000.
    """
    checked(Count | None, num_pairs, "num_pairs")
    rounds = rounds or Rounds()
    task = getattr(task, "unwrapped", task)
    if not hasattr(task, "preference_matrix"):
        raise ValueError(f"{type(task).__name__} does not know who beats whom; give comparisons")
    matrix = torch.as_tensor(task.preference_matrix(), dtype=torch.float64)
    prompts, count = matrix.shape[:2]
    total = prompts * count * (count - 1) // 2
    if (num_pairs is None or rounds.query != "uniform") and total > MAX_EXACT_PAIRS:
        raise ValueError(f"there are {total} pairs of sequences; give num_pairs, and let them be drawn")
    if rounds.query != "uniform":
        if num_pairs is None:
            raise ValueError(f"query is {rounds.query!r}, and num_pairs None, which is all pairs: there is "
                             "nothing to choose; give num_pairs")  # fmt: skip
        first, second, labels = _chosen_sequences(matrix, num_pairs, rounds, seed)
        prompt, first, second = first // count, first % count, second % count
    else:
        prompt, first, second = _pairs_of_sequences(prompts, count, num_pairs, seed)
        labels = matrix[prompt, second, first]
        labels = labels if num_pairs is None else _drawn_answers(labels, seeded_generator(seed, "answers"))

    metadata = {"teacher": "exact", "seed": seed, **rounds.metadata}
    sides = [_sequences(task, prompt, places) for places in (first, second)]
    return Preferences.from_labels(sides[0], sides[1], labels, metadata)


def _pairs_of_sequences(
    prompts: int, count: int, num_pairs: int | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return prompts, first and second sequences [N] of all pairs once, or of drawn ones."""
    first, second = torch.triu_indices(count, count, 1)
    prompt = torch.arange(prompts).repeat_interleave(len(first))
    first, second = first.repeat(prompts), second.repeat(prompts)
    if num_pairs is not None:
        draws = seeded_generator(seed, "pairs")
        chosen = torch.randint(len(first), (num_pairs,), generator=draws)
        turned = torch.rand(num_pairs, generator=draws) < 0.5
        prompt, first, second = prompt[chosen], first[chosen], second[chosen]
        first, second = torch.where(turned, second, first), torch.where(turned, first, second)
    return prompt, first, second


def _chosen_sequences(
    matrix: Tensor, num_pairs: int, rounds: Rounds, seed: int
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return first and second sequences, counted through all prompts, and answers [N] of chosen pairs."""
    prompts, count = matrix.shape[:2]
    draws = seeded_generator(seed, "answers")

    def answer(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        chances = matrix[first // count, second % count, first % count]
        labels = _drawn_answers(chances, draws)
        return labels, torch.ones_like(labels)

    first, second, asked = ask_options(count, num_pairs, answer, rounds, groups=prompts, seed=seed)
    return first, second, asked.labels


def _drawn_answers(chances: Tensor, draws: torch.Generator) -> Tensor:
    """Return answers [N], 0 or 1, that have these probabilities of being 1."""
    return (torch.rand(len(chances), generator=draws, dtype=torch.float64) < chances).to(torch.float64)


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
