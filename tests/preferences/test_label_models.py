"""Label models over preferences: what each changes, what it leaves, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prefrl.data import Preferences, Segments, load_preferences, save_preferences
from prefrl.preferences.general_models import (
    GPM,
    PAL,
    BradleyTerry,
    Comparisons,
    GPMConfig,
    PALConfig,
    Thurstone,
)
from prefrl.preferences.label_models import (
    LABEL_MODELS,
    AnchorRanking,
    DensityRatio,
    DropoutFilter,
    DynamicLabels,
    EnsembleVote,
    HasLogProb,
    LabelModel,
    ModelLabels,
    MultiLevelPairs,
    Rationale,
    RobustFlips,
    Routed,
    compose,
)

ONE_IDEAL = PALConfig(prototypes=1, dimension=1)


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def segments(*worth: float, features: Tensor | None = None) -> Segments:
    """Segments of one or two transitions whose actions are numbers; what they are worth is their sum."""
    count = len(worth)
    actions = torch.stack([t(*worth) - 1.0, torch.ones(count, dtype=torch.float64)], 1)
    obs = torch.arange(3).expand(count, 3)
    return Segments(obs, actions, torch.full((count,), 2), torch.zeros(count) > 0, features)


def comparisons(*margins: float, labels: Tensor) -> Preferences:
    """Comparisons of a segment worth 0 and one worth this."""
    return Preferences(
        segments(*[0.0] * len(margins)), segments(*margins), labels, t(*range(1, len(margins) + 1)),
        torch.zeros(len(margins), dtype=torch.int64), ("ann",), {"seed": 3},
    )  # fmt: skip


def worth(rows: Segments) -> Tensor:
    return (rows.actions * rows.mask).sum(1)


def voters(rows: Segments) -> Tensor:
    """[2, N] members of twice and no worth: the mean is the worth."""
    return torch.stack([2.0 * worth(rows), 0.0 * worth(rows)])


LABELS = t(1.0, 0.0, 0.5, 1.0, 0.8)
PAIRS = comparisons(-2.0, -1.0, 3.0, 4.0, -0.5, labels=LABELS)
"""Strength -2, 1, 0 (a tie), 4, -0.5."""


def assert_left_alone(before: Preferences, after: Preferences, *but: str) -> None:
    for name in {"labels", "weights", "annotators"} - set(but):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    if "offsets" not in but:
        assert (before.offsets is None) == (after.offsets is None)
    assert torch.equal(before.first.actions, after.first.actions)
    assert torch.equal(before.second.actions, after.second.actions)
    assert after.metadata == before.metadata


# Together -----------------------------------------------------------------------------------------------


def test_label_models_have_names() -> None:
    assert len(LABEL_MODELS) == 9
    assert all(issubclass(kind, LabelModel) for kind in LABEL_MODELS.values())
    assert isinstance(LABEL_MODELS["robust_flips"](), RobustFlips)


def test_composed_models_are_applied_in_order() -> None:
    robust, vote = RobustFlips(0.25), EnsembleVote(voters, "flip_margin", flip_share=0.3)
    both = compose([vote, robust])(PAIRS)
    assert both.labels.tolist() == robust(vote(PAIRS)).labels.tolist()
    assert both.labels.tolist() != PAIRS.labels.tolist()
    assert both.margins.tolist() == vote(PAIRS).margins.tolist()
    smooth = EnsembleVote(voters, "soft_margin", smoothing=0.5)
    there, back = compose([robust, smooth])(PAIRS), compose([smooth, robust])(PAIRS)
    assert there.validate().margins.tolist() == back.margins.tolist()
    twice = compose([EnsembleVote(voters, "margin"), EnsembleVote(voters, "margin")])(PAIRS)
    assert twice.margins.tolist() == [2.0 * m for m in EnsembleVote(voters, "margin")(PAIRS).margins.tolist()]
    assert compose([])(PAIRS) is PAIRS


def test_what_was_given_stays_as_it_was() -> None:
    before = PAIRS.labels.clone()
    models = [RobustFlips(0.2), DynamicLabels(worth), EnsembleVote(voters), DropoutFilter(voters)]
    for model in models:
        model(PAIRS)
    assert torch.equal(PAIRS.labels, before)
    assert PAIRS.offsets is None
    assert PAIRS.weights.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_no_gradient_comes_out_of_a_label_model() -> None:
    scale = t(1.0).requires_grad_()
    assert not DynamicLabels(lambda rows: scale * worth(rows))(PAIRS).labels.requires_grad
    assert not EnsembleVote(lambda rows: scale * worth(rows))(PAIRS).margins.requires_grad


def test_what_label_models_make_can_be_saved(tmp_path) -> None:
    made = compose([EnsembleVote(voters), RobustFlips(0.1)])(PAIRS)
    save_preferences(tmp_path / "made.npz", made)
    loaded = load_preferences(tmp_path / "made.npz")
    assert loaded.labels.tolist() == made.labels.tolist()
    assert loaded.margins.tolist() == made.margins.tolist()


# Noise --------------------------------------------------------------------------------------------------


def test_robust_flips_leave_the_unit_interval() -> None:
    made = RobustFlips(0.25)(PAIRS)
    assert made.labels.tolist() == pytest.approx([1.5, -0.5, 0.5, 1.5, 1.1])
    assert_left_alone(PAIRS, made, "labels")


def test_dynamic_labels_move_to_the_belief_that_the_loss_has() -> None:
    marked = replace(PAIRS, offsets=t(0.0, 0.0, 1.0, 0.0, 0.0))
    made = DynamicLabels(voters, rate=0.25, scale=2.0)(marked)
    logits = [-4.0, -2.0, 5.0, 8.0, -1.0]  # twice the worth, less the offset
    wanted = [0.75 * y + 0.25 / (1.0 + math.exp(-m)) for y, m in zip(LABELS.tolist(), logits, strict=True)]
    assert made.labels.tolist() == pytest.approx(wanted)
    assert_left_alone(marked, made, "labels")


# Ensembles ----------------------------------------------------------------------------------------------


def test_arms_of_the_vote_by_hand() -> None:
    strength = EnsembleVote(voters).strength(PAIRS)
    assert strength.tolist() == [-2.0, 1.0, 0.0, 4.0, -0.5]
    margins = [-2.0, -1.0, 0.0, 4.0, -0.5]  # seen from the second segment; nothing for the tie
    flipped = EnsembleVote(voters, "flip", flip_share=0.25)(PAIRS)
    assert flipped.labels.tolist() == [0.0, 0.0, 0.5, 1.0, 0.8]
    assert flipped.offsets is None
    margin = EnsembleVote(voters, "margin")(PAIRS)
    assert margin.labels.tolist() == LABELS.tolist()
    assert margin.margins.tolist() == margins
    both = EnsembleVote(voters, "flip_margin", flip_share=0.5, margin_scale=0.5)(PAIRS)
    assert both.labels.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 0.2])
    assert both.margins.tolist() == [0.5 * m for m in margins]
    soft = EnsembleVote(voters, "soft_margin", smoothing=0.25)(PAIRS)
    assert soft.labels.tolist() == pytest.approx([0.75, 0.0, 0.5, 1.0, 0.65])
    assert soft.margins.tolist() == margins
    for made in (flipped, margin, both, soft):
        assert_left_alone(PAIRS, made.validate(), "labels", "offsets")


def test_a_label_that_the_vote_agrees_with_is_never_turned_round() -> None:
    made = EnsembleVote(voters, "flip", flip_share=1.0)(PAIRS)
    assert made.labels.tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0, 0.2])


def test_the_vote_is_the_same_for_the_same_pairs_the_other_way_round() -> None:
    vote = EnsembleVote(voters, "soft_margin")
    one, other = vote(PAIRS.swapped()), vote(PAIRS).swapped()
    torch.testing.assert_close(one.labels, other.labels)
    torch.testing.assert_close(one.margins, other.margins)


def test_the_filter_keeps_what_the_passes_agree_on() -> None:
    def passes(rows: Segments) -> Tensor:
        """They differ in sign by how much the worth exceeds 1."""
        apart = (worth(rows).abs() - 1.0).clamp(min=0.0)
        return torch.stack([worth(rows) + 4.0 * apart, worth(rows) - 4.0 * apart])

    model = DropoutFilter(passes, 0.4, smooth=False)
    information = model.information(PAIRS)
    assert information[[1, 4]].tolist() == [0.0, 0.0]
    assert float(information[[0, 2, 3]].min()) > 0.1
    kept = model(PAIRS)
    assert kept.labels.tolist() == [0.0, 0.8]
    assert kept.weights.tolist() == pytest.approx([2.0, 5.0])  # no disagreement, equal shares
    assert len(DropoutFilter(passes, 0.41)(PAIRS)) == 3
    assert len(DropoutFilter(passes, 0.6)(PAIRS)) == 3
    whole = DropoutFilter(passes, 1.0, exponent=2.0)(PAIRS)
    mass = (1.0 - information) ** 2
    torch.testing.assert_close(whole.weights, PAIRS.weights * mass / mass.mean())
    share = information / (2.0 * math.log(2.0))
    torch.testing.assert_close(whole.labels, (1.0 - share) * LABELS + share * (1.0 - LABELS))
    assert len(DropoutFilter(passes)(PAIRS[:0])) == 0


def test_the_filter_of_a_network_without_dropout_only_counts() -> None:
    model = DropoutFilter(lambda rows: worth(rows).repeat(10, 1), 1.0)
    assert float(model.information(PAIRS).abs().max()) < 1e-12
    made = model(PAIRS)
    torch.testing.assert_close(made.labels, PAIRS.labels)
    torch.testing.assert_close(made.weights, PAIRS.weights)


# Scorers ------------------------------------------------------------------------------------------------


class Scaled:
    """A policy whose log-likelihood of an action is so many times the action."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def log_prob(self, rows: Segments) -> Tensor:
        return self.factor * rows.actions


def test_density_ratio_answers() -> None:
    assert isinstance(Scaled(1.0), HasLogProb)
    pairs = comparisons(-2.0, 0.0, 3.0, labels=t(0.3, 0.3, 0.3))
    made = DensityRatio(Scaled(3.0), Scaled(1.0))(pairs).validate()
    assert made.labels.tolist() == [0.0, 0.5, 1.0]
    assert [made.annotator_names[a] for a in made.annotators.tolist()] == ["density_ratio"] * 3
    soft = DensityRatio(Scaled(3.0), Scaled(1.0), temperature=4.0)(pairs)
    torch.testing.assert_close(soft.labels, torch.sigmoid(t(-1.0, 0.0, 1.5)))
    worse = DensityRatio(Scaled(1.0), Scaled(3.0))(pairs)
    assert worse.labels.tolist() == [1.0, 0.5, 0.0]
    assert_left_alone(pairs, made, "labels", "annotators")


def test_a_router_chooses_the_policy() -> None:
    rows = segments(5.0, -5.0)
    routed = Routed((Scaled(1.0), Scaled(10.0)), lambda rows: (worth(rows) < 0).long())
    assert routed.log_prob(rows).tolist() == [[4.0, 1.0], [-60.0, 10.0]]
    for place in (torch.tensor([0, 2]), torch.tensor([-1, 0]), torch.tensor([0])):
        with pytest.raises(ValueError, match="a place among 2 policies for each of 2 segments"):
            Routed((Scaled(1.0), Scaled(2.0)), lambda rows, place=place: place).log_prob(rows)


def starting(rows: Segments, *starts: int) -> Segments:
    obs = rows.obs.clone()
    obs[:, 0] = torch.tensor(starts)
    return replace(rows, obs=obs)


def closeness(candidates: Segments, anchors: Segments) -> Tensor:
    return -(worth(candidates) - worth(anchors)).abs()


def test_anchors_rank_candidates_of_their_start() -> None:
    anchors = starting(segments(10.0, 0.0), 7, 8)
    model = AnchorRanking(closeness, anchors, temperature=2.0)
    candidates = starting(segments(9.0, 1.0, 4.0, -1.0), 7, 8, 7, 8)
    assert model.anchor_of(candidates).tolist() == [0, 1, 0, 1]
    q = model.distribution(candidates)
    torch.testing.assert_close(q[[0, 2]], torch.softmax(t(-0.5, -3.0), 0))
    torch.testing.assert_close(q[[1, 3]], t(0.5, 0.5))
    pairs = Preferences.from_labels(candidates[:2], candidates[2:], t(0.1, 0.1))
    made = model(pairs).validate()
    torch.testing.assert_close(made.labels, torch.stack([q[2] / (q[0] + q[2]), q[3] / (q[1] + q[3])]))
    assert made.annotator_names == ("unknown", "anchor_ranking")
    assert made.annotators.tolist() == [1, 1]
    free = model.pairs(candidates).validate()
    assert worth(free.first).tolist() == [9.0, 1.0, 4.0, -1.0, 4.0]  # start 8: no best, no worst
    assert worth(free.second).tolist() == [10.0, 0.0, 10.0, 0.0, 9.0]
    assert free.labels.tolist() == [1.0] * 5


def test_anchors_of_vectors() -> None:
    anchors = segments(1.0, 2.0)
    anchors = replace(anchors, obs=torch.stack([anchors.obs, anchors.obs + 1], 2).double())
    with pytest.raises(ValueError, match="segment 0 starts where 2 anchors start; it must be exactly one"):
        AnchorRanking(closeness, anchors).anchor_of(anchors)
    apart = replace(anchors, obs=anchors.obs + t(0.0, 1.0)[:, None, None])
    assert AnchorRanking(closeness, apart).anchor_of(apart[torch.tensor([1, 0, 1])]).tolist() == [1, 0, 1]


def test_wrong_starts_are_refused() -> None:
    model = AnchorRanking(closeness, starting(segments(1.0, 2.0), 7, 8))
    with pytest.raises(ValueError, match="segment 1 starts where 0 anchors start"):
        model.distribution(starting(segments(1.0, 2.0), 7, 9))
    sides = starting(segments(1.0, 2.0), 7, 8), starting(segments(1.0, 2.0), 7, 7)
    with pytest.raises(ValueError, match="the segments of comparison 1 start apart"):
        model(Preferences.from_labels(*sides, t(1.0, 1.0)))


# Additions ----------------------------------------------------------------------------------------------


def with_goal(rows: Segments, goals: Tensor) -> Segments:
    return replace(rows, obs=goals.long()[:, None].expand(-1, 3).clone())


def reached(rows: Segments, goals: Tensor) -> Tensor:
    """How many of the goal's levels the worth reaches."""
    return (worth(rows)[:, None] >= goals[:, None] * t(1.0, 2.0)).sum(1)


def test_contexts_are_compared_for_one_behaviour() -> None:
    pairs = comparisons(4.0, 9.0, labels=t(1.0, 0.0))
    model = MultiLevelPairs(t(1.0, 3.0, 5.0), reached, with_goal, pairs_per_segment=50, weight=0.25, seed=1)
    assert model.levels(segments(4.0, 9.0, 0.0)).tolist() == [[2, 1, 0], [2, 2, 1], [0, 0, 0]]
    made = model(pairs).validate()
    assert made.labels[:2].tolist() == [1.0, 0.0]
    assert made.annotator_names == ("ann", "checker")
    assert made.annotators.tolist() == [0, 0, *[1] * 100]  # those worth 0 satisfy nothing
    assert made.weights[2:].tolist() == [0.25] * 100
    added = made[2:]
    assert torch.equal(added.first.actions, added.second.actions)
    seen = {
        (float(w), int(a), int(b), float(y))
        for w, a, b, y in zip(
            worth(added.first), added.first.obs[:, 0], added.second.obs[:, 0], added.labels, strict=True
        )
    }
    assert seen == {
        (4.0, 1, 3, 0.0), (4.0, 3, 1, 1.0), (4.0, 1, 5, 0.0), (4.0, 5, 1, 1.0), (4.0, 3, 5, 0.0),
        (4.0, 5, 3, 1.0), (9.0, 1, 5, 0.0), (9.0, 5, 1, 1.0), (9.0, 3, 5, 0.0), (9.0, 5, 3, 1.0),
    }  # fmt: skip
    again, other = model(pairs), replace(model, seed=2)(pairs)
    assert torch.equal(again.first.obs, made.first.obs)
    assert not torch.equal(other.first.obs, made.first.obs)


def test_contexts_that_say_nothing_add_nothing() -> None:
    pairs = comparisons(0.0, labels=t(1.0))
    assert MultiLevelPairs(t(1.0, 3.0), reached, with_goal)(pairs) is pairs
    assert MultiLevelPairs(t(1.0, 3.0), reached, with_goal, weight=0.0)(PAIRS) is PAIRS
    with pytest.raises(ValueError, match=r"level returned \[2, 1\]; it must return \[2\]"):
        MultiLevelPairs(t(1.0), lambda rows, goals: torch.zeros(2, 1), with_goal)(pairs)


FEATURES = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(2, 2, 3)
REASONED = Preferences(
    replace(segments(0.0, 0.0, features=FEATURES), lengths=torch.tensor([2, 1]),
            terminated=torch.tensor([True, True])),
    segments(1.0, 2.0, features=-FEATURES), t(1.0, 0.0), t(2.0, 4.0), torch.zeros(2, dtype=torch.int64),
)  # fmt: skip


def test_reasons_of_factors() -> None:
    made = Rationale("factor", torch.tensor([2, -1]), 0.5)(REASONED)
    assert made.labels.tolist() == [1.0, 0.0, 1.0]
    assert made.weights.tolist() == [2.0, 4.0, 1.0]
    assert made.first.features is not None
    assert made.second.features is not None
    assert made.first.features[:2].tolist() == FEATURES.tolist()
    assert made.first.features[2].tolist() == [[0.0, 0.0, 3.0], [0.0, 0.0, 6.0]]
    assert (-made.second.features[2]).tolist() == [[0.0, 0.0, 3.0], [0.0, 0.0, 6.0]]
    several = Rationale("factor", torch.tensor([[True, False, True], [False, False, False]]))(REASONED)
    assert several.first.features is not None
    assert several.first.features[2].tolist() == [[1.0, 0.0, 3.0], [4.0, 0.0, 6.0]]
    assert len(several) == 3


def test_reasons_of_steps() -> None:
    made = Rationale("step", lambda pairs: torch.tensor([[1, 0], [0, 1]]))(REASONED)
    assert made.first.lengths.tolist() == [2, 1, 1, 1]
    assert made.first.obs[2:].tolist() == [[1, 2, 2], [0, 1, 1]]
    assert made.second.obs[2:].tolist() == [[0, 1, 1], [1, 2, 2]]
    assert made.first.actions[2:].tolist() == [[1.0, 0.0], [-1.0, 0.0]]
    assert made.second.actions[2:].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert made.first.terminated.tolist() == [True, True, True, True]
    early = Rationale("step", torch.tensor([0, -1]))(REASONED)
    assert early.first.terminated.tolist() == [True, True, False]
    assert early.labels.tolist() == [1.0, 0.0, 1.0]


def test_reasons_of_no_weight_change_nothing() -> None:
    assert Rationale("factor", torch.tensor([0, 1]), 0.0)(REASONED) is REASONED


@pytest.mark.parametrize(
    ("kind", "reasons", "message"),
    [
        ("factor", torch.tensor([3, 0]), r"rationales\[0\] is 3; there are 3 factors, numbered from 0"),
        ("factor", torch.tensor([0, -2]), r"rationales\[1\] is -2"),
        (
            "factor",
            torch.tensor([0.0, 1.0]),
            r"rationales are torch.float32 \[2\]; they must be int64 \[2\] or",
        ),
        ("factor", torch.ones(2, 2) > 0, r"rationales are torch.bool \[2, 2\]"),
        ("factor", torch.tensor([0]), r"rationales are torch.int64 \[1\]"),
        ("step", torch.tensor([1, 1]), r"rationales\[1\] is 1; there are 1 transitions"),
        ("step", torch.tensor([[0, 2], [0, 0]]), r"rationales\[0\] is 2; there are 2 transitions"),
        ("step", torch.zeros(2, 3, dtype=torch.int64), r"rationales are torch.int64 \[2, 3\]"),
    ],
)
def test_wrong_reasons_are_refused(kind, reasons, message) -> None:
    with pytest.raises(ValueError, match=message):
        Rationale(kind, reasons)(REASONED)


# What is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RobustFlips(0.5), r"epsilon is 0.5; it must lie in \[0, 0.5\)"),
        (lambda: RobustFlips(-0.1), "epsilon is -0.1"),
        (lambda: DynamicLabels(worth, rate=1.5), r"rate is 1.5; it must lie in \[0, 1\]"),
        (lambda: DynamicLabels(3), "score is 3; it must be of type Callable"),
        (lambda: EnsembleVote(voters, "turn"), r"arm is 'turn'; it must be one of \['flip'"),
        (lambda: EnsembleVote(voters, flip_share=2.0), "flip_share is 2.0"),
        (lambda: DropoutFilter(voters, 0.0), r"keep_share is 0.0; it must lie in \(0, 1\]"),
        (lambda: DensityRatio(worth, Scaled(1.0)), "strong is .*; it must be of type HasLogProb"),
        (lambda: AnchorRanking(closeness, 3), "anchors is 3; it must be of type Segments"),
        (lambda: AnchorRanking(closeness, segments(1.0), temperature=0.0), "temperature is 0.0"),
        (lambda: Rationale("word", torch.tensor([0])), "kind is 'word'"),
        (lambda: compose([RobustFlips(), worth]), r"models\[1\] is .*; it must be of type LabelModel"),
        (lambda: RobustFlips()(segments(1.0)), "preferences is a Segments; it must be Preferences"),
        (lambda: DynamicLabels(lambda rows: worth(rows)[:3])(PAIRS), r"score returned \[3\] for 10 segments"),
        (lambda: DynamicLabels(lambda rows: 3.0)(PAIRS), "score returned a float for 10 segments"),
        (lambda: DynamicLabels(lambda rows: worth(rows) / 0.0)(PAIRS), "score returned NaN or infinity"),
        (lambda: Rationale("factor", torch.tensor([0] * 5))(PAIRS), "the segments have no features"),
        (
            lambda: DensityRatio(Wide(), Scaled(1.0))(PAIRS),
            r"log_prob of strong has shape \[10\]; .*\[10, 2\]",
        ),
    ],
)
def test_what_is_wrong_is_said(make, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


class Wide:
    def log_prob(self, rows: Segments) -> Tensor:
        return worth(rows)


# What a model believes ----------------------------------------------------------------------------------


def test_labels_are_what_a_model_believes() -> None:
    made = ModelLabels(lambda pairs: worth(pairs.second) - worth(pairs.first))(PAIRS)
    believed = [1.0 / (1.0 + math.exp(-margin)) for margin in (-2.0, -1.0, 3.0, 4.0, -0.5)]
    assert made.labels.tolist() == pytest.approx(believed)
    assert_left_alone(PAIRS, made, "labels")
    half = ModelLabels(lambda pairs: worth(pairs.second) - worth(pairs.first), share=0.25)(PAIRS)
    mixed = [0.25 * mine + 0.75 * given for mine, given in zip(believed, LABELS.tolist(), strict=True)]
    assert half.labels.tolist() == pytest.approx(mixed)


@pytest.mark.parametrize("model", [BradleyTerry(), Thurstone(), GPM(GPMConfig(blocks=1)), PAL(ONE_IDEAL)])
def test_every_general_model_labels(model) -> None:
    """Of its own probability, on the sums of the segments' features."""
    known = segments(1.0, 2.0, 3.0, 4.0, features=torch.rand(4, 2, 2, dtype=torch.float64))
    first, second = known[torch.tensor([0, 1, 2, 3])], known[torch.tensor([1, 2, 3, 0])]
    answers = Preferences.from_labels(first, second, t(1.0, 0.0, 1.0, 0.5))
    model.fit(Comparisons.from_preferences(answers))
    made = ModelLabels(model.preference_margins)(answers)
    places = Comparisons.from_preferences(answers)
    wanted = torch.sigmoid(model.margins(places))
    assert made.labels.tolist() == pytest.approx(wanted.tolist())
    assert not torch.equal(made.labels, answers.labels)


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        (lambda pairs: torch.zeros(2, 5), r"margins returned \[2, 5\]; it must return \[5\]"),
        (lambda pairs: torch.full((5,), torch.nan), "margins returned NaN or infinity"),
    ],
)
def test_margins_that_are_none_are_refused(margins, message) -> None:
    with pytest.raises(ValueError, match=message):
        ModelLabels(margins)(PAIRS)
