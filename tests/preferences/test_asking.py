"""Comparisons by a teacher who knows the true reward of an environment."""

from functools import cache
from typing import Any

import gymnasium as gym
import pytest
import torch
from scipy import stats

import prefrl.envs  # noqa: F401
from prefrl.data import TransitionDataset
from prefrl.preferences import PartialReturn, Regret, StepwiseModel, TeacherKind, ask_teacher, true_valuation
from prefrl.preferences.asking import ask_about, exact_answers
from prefrl.tabular import TabularMDP, optimal_policy
from prefrl.tabular.segments import random_pairs


@cache
def delivery() -> TabularMDP:
    return TabularMDP.from_env(gym.make("prefrl/Delivery-v0"))


def test_the_true_valuation_is_that_of_the_true_reward() -> None:
    mdp = delivery()
    segments, _ = random_pairs(mdp, 50, seed=0)
    value, quality, _ = optimal_policy(mdp, mdp.linear_rewards(mdp.weights), 0.9)
    v = true_valuation(mdp, segments, 0.9)
    assert segments.features is not None
    for i in range(50):
        for t in range(int(segments.lengths[i])):
            s, a = int(segments.obs[i, t]), int(segments.actions[i, t])
            reward = float(segments.features[i, t] @ mdp.weights[0])
            assert v.rewards[i, t].item() == pytest.approx(reward, abs=1e-12)
            assert v.state_value[i, t] == value[0, s]
            assert v.action_value[i, t] == quality[0, s, a]


@pytest.mark.parametrize("model", [None, PartialReturn()])
def test_noiseless_answers_prefer_the_better_segment(model: StepwiseModel | None) -> None:
    mdp = delivery()
    data = ask_teacher(mdp, 400, model=model, length=(2, 5), seed=3).validate()
    assert len(data) == 400
    judge = model or Regret()
    first, second = (judge.score(true_valuation(mdp, side, 0.999)) for side in (data.first, data.second))
    expected = torch.where((second - first).abs() <= 1e-6, 0.5, (second > first).double())
    assert torch.equal(data.labels, expected)
    # Discounted regrets hardly ever tie; whole numbers do.
    assert set(data.labels.tolist()) == ({0.0, 1.0} if model is None else {0.0, 0.5, 1.0})
    pairs = random_pairs(mdp, 400, length=(2, 5), seed=3)
    assert torch.equal(data.first.obs, pairs[0].obs)
    assert torch.equal(data.second.obs, pairs[1].obs)
    assert dict(data.metadata) == {
        "teacher": "noiseless", "teacher_model": type(judge).__name__, "seed": 3, "gamma": 0.999
    }  # fmt: skip


def test_logistic_answers_are_calibrated_whatever_the_seed() -> None:
    """Pairs and answers come from one seed: they must be independent all the same."""
    mdp, surprise = delivery(), []
    for seed in range(12):
        data = ask_teacher(mdp, 1500, kind="logistic", temperature=2.0, seed=seed)
        score = [Regret().score(true_valuation(mdp, side, 0.999)) for side in (data.first, data.second)]
        decided = data.labels != 0.5
        chances = torch.sigmoid((score[1] - score[0]) / 2.0)[decided]
        spread = (chances * (1.0 - chances)).sum().sqrt()
        surprise.append(((data.labels[decided] - chances).sum() / spread).item())
    assert stats.kstest(surprise, "norm").pvalue > 1e-3


def test_a_teacher_who_skips_answers_fewer() -> None:
    full, fewer = (ask_teacher(delivery(), 300, kind=kind, seed=1) for kind in ("noiseless", "skips"))
    assert 0 < len(fewer) < len(full) == 300
    assert len(fewer) == pytest.approx(300 * (1 - 0.25**2), abs=20)


def test_the_discount_and_the_seed_count() -> None:
    settings: dict[str, Any] = {"kind": "logistic"}
    first, same, other = (ask_teacher(delivery(), 100, seed=seed, **settings) for seed in (0, 0, 1))
    assert torch.equal(first.labels, same.labels)
    assert not torch.equal(first.first.obs, other.first.obs)
    myopic = ask_teacher(delivery(), 300, gamma=0.1)
    assert not torch.equal(myopic.labels, ask_teacher(delivery(), 300).labels)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma is 2\.0"):
        ask_teacher(delivery(), 10, gamma=2.0)
    with pytest.raises(ValueError, match="kind is 'moody'"):
        ask_teacher(delivery(), 10, kind="moody")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"temperature is -1\.0"):
        ask_teacher(delivery(), 10, kind="logistic", temperature=-1.0)
    with pytest.raises(ValueError, match="mdp holds 2 MDPs"):
        ask_teacher(delivery().select(torch.tensor([0, 0])), 10)


def rows(count: int = 60, length: int = 6) -> TransitionDataset:
    """Episodes of so many steps, the action of each step paid as its reward."""
    numbers = torch.rand(count, 1, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    ends = torch.arange(1, count + 1) % length == 0
    box = gym.spaces.Box(-1.0, 1.0, (1,))
    return TransitionDataset.from_transitions(
        numbers, numbers, numbers[:, 0], numbers.roll(-1, 0), torch.zeros(count, dtype=torch.bool), ends,
        observation_space=box, action_space=box,
    )  # fmt: skip


def test_segments_of_data_are_compared_by_their_returns() -> None:
    answers = ask_about(rows(), 50, length=4, seed=1).validate()
    first, second = (side.actions.sum((1, 2)) for side in (answers.first, answers.second))
    assert torch.equal(answers.labels, (second > first).double())
    assert (answers.first.lengths == 4).all()
    assert answers.metadata == {"teacher": "noiseless", "teacher_model": "PartialReturn", "seed": 1}
    again = ask_about(rows(), 50, length=4, seed=1)
    assert torch.equal(again.first.obs, answers.first.obs)


@pytest.mark.parametrize(("kind", "share"), [("logistic", (0.03, 0.25)), ("mistakes", (0.07, 0.14))])
def test_teachers_of_data_err_as_they_should(kind: TeacherKind, share: tuple[float, float]) -> None:
    answers = ask_about(rows(), 2_000, kind=kind, length=4)
    first, second = (side.actions.sum((1, 2)) for side in (answers.first, answers.second))
    assert share[0] < float((answers.labels != (second > first).double()).double().mean()) < share[1]


def test_skipped_pairs_of_data_are_left_out() -> None:
    assert 0 < len(ask_about(rows(), 200, kind="skips", length=4)) < 200


@pytest.mark.parametrize(
    ("pairs", "length", "message"),
    [(0, 4, "num_pairs is 0"), (5, 7, "length is 7; the data have 0 segments"), (5, 0, "length is 0")],
)
def test_data_without_segments_are_refused(pairs: int, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask_about(rows(), pairs, length=length)


def test_other_numbers_are_refused() -> None:
    """A temperature below 0 would turn every answer round."""
    with pytest.raises(ValueError, match=r"temperature is -1\.0; it must be above 0"):
        ask_about(rows(), 5, length=4, kind="logistic", temperature=-1.0)
    with pytest.raises(TypeError, match=r"num_pairs is 3\.5"):
        ask_about(rows(), 3.5, length=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_pairs is -1; it must be at least 1"):
        exact_answers(gym.make("prefrl/PreferenceBandit-v0"), -1)
