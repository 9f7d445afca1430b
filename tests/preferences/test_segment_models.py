"""General preference models as networks of steps: what they express, their faces, files, and doors."""

import copy
from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from torch import nn

from prefrl.config import checked, from_json, to_json
from prefrl.data import Preferences, Segments, concatenate_preferences
from prefrl.functional.preferences.general_models.margins import probit_margin, rotation_margin, unit
from prefrl.preferences import RewardModel, RewardModelConfig
from prefrl.preferences.general_models import (
    REWARD_CONFIGS,
    AnyRewardConfig,
    GPMNetworkConfig,
    PALNetworkConfig,
    SegmentModel,
    ThurstoneNetworkConfig,
    load_reward_model,
    make_reward_model,
)
from prefrl.preferences.reward_loss import Compared
from prefrl.preferences.trajectories import ByModel, Trajectory
from tests.preferences.test_reward_model import BOX, TWO, compared, segments

SMALL = {"members": 2, "hidden": (8,), "epochs": 2, "batch_size": 8}
CONFIGS = {
    "bradley_terry": RewardModelConfig(**SMALL),
    "thurstone": ThurstoneNetworkConfig(**SMALL),
    "gpm": GPMNetworkConfig(**SMALL),
    "gpm, free": GPMNetworkConfig(**SMALL, blocks=1, normalise=False, temperature=1.0),
    "pal, A": PALNetworkConfig(**SMALL, form="A", pooling="mean"),
    "pal, B": PALNetworkConfig(**SMALL, form="B", user=1),
    "pal, linear": PALNetworkConfig(**SMALL, user=1),
}
ALL = pytest.mark.parametrize("name", CONFIGS)


def by_two(n=40, **settings):
    """Comparisons that two annotators answered in turn, the second always the other way round."""
    answers = compared(n, **settings)
    who = torch.arange(n) % 2
    labels = torch.where(who == 0, answers.labels, 1.0 - answers.labels)
    return replace(answers, labels=labels, annotators=who, annotator_names=("one", "other"))


def fitted(name, n=40):
    model = make_reward_model(BOX, TWO, CONFIGS[name], seed=3)
    model.fit(by_two(n))
    return model


def options(places):
    """Segments of one step, that are known by the state that they begin and end in."""
    obs = torch.as_tensor(places)[:, None].expand(-1, 2)
    count = len(obs)
    return Segments(obs, torch.zeros(count, 1, dtype=torch.int64), torch.ones(count, dtype=torch.int64),
                    torch.zeros(count, dtype=torch.bool))  # fmt: skip


def circle(dominator=False):
    """Each of three options beats the next one round; the fourth, if there is one, beats all."""
    pairs = [(0, 1), (1, 2), (2, 0), *([(3, 0), (3, 1), (3, 2)] if dominator else [])]
    return Preferences.from_labels(
        options([lost for _, lost in pairs]), options([won for won, _ in pairs]), torch.ones(len(pairs))
    )


def of_circle(kind, seed, dominator=False, **settings):
    config = kind(bootstrap=False, epochs=400, hidden=(32,), **settings)
    spaces = gym.spaces.Discrete(4), gym.spaces.Discrete(1)
    model = make_reward_model(*spaces, config, seed=seed)
    answers = circle(dominator)
    model.fit(answers)
    return float(model.accuracy(answers))


def test_a_circle_is_beyond_bradley_terry_and_not_beyond_one_plane():
    for seed in range(3):
        assert of_circle(GPMNetworkConfig, seed, blocks=1, members=4) == 1.0
        assert of_circle(RewardModelConfig, seed) < 0.67
        assert of_circle(ThurstoneNetworkConfig, seed) < 0.67


def test_an_option_that_beats_a_circle_takes_two_planes():
    found = [of_circle(GPMNetworkConfig, seed, True, blocks=1, members=1) for seed in range(4)]
    assert max(found) < 0.84
    assert [of_circle(GPMNetworkConfig, seed, True, members=1) for seed in range(4)] == [1.0] * 4


@pytest.mark.parametrize("form", ["linear", "B"])
def test_pal_learns_opposite_tastes_that_are_ties_for_one_reward(form):
    learning = {"epochs": 40, "hidden": (32,), "learning_rate": 3e-3}
    seen, unseen = by_two(400, short=False), by_two(200, short=False)
    unseen = replace(unseen, first=unseen.second, second=unseen.first, labels=1.0 - unseen.labels)
    pal = make_reward_model(BOX, TWO, PALNetworkConfig(form=form, **learning))
    one = make_reward_model(BOX, TWO, RewardModelConfig(**learning))
    for model in (pal, one):
        model.fit(seen)
    assert float(pal.accuracy(unseen)) > 0.85
    assert float(one.accuracy(unseen)) < 0.7
    first = [pal.margin(unseen.first, unseen.second, user) for user in (0, 1)]
    assert float((first[0] * first[1] < 0).double().mean()) > 0.8, "they disagree"


@ALL
def test_exchanged_segments_turn_the_margin_round(name):
    model, answers = fitted(name), by_two(12)
    margins = model.preference_margins(answers)
    assert margins.shape == (12,)
    assert float(margins.abs().max()) > 0.0
    torch.testing.assert_close(model.preference_margins(answers.swapped()), -margins, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        model.probability(answers.first, answers.second, answers.annotators), torch.sigmoid(margins)
    )


@ALL
def test_win_rates_are_means_over_a_population(name):
    model, some, others = fitted(name), segments(3, seed=4), segments(5, seed=5)
    rates = model.win_rates(some, others)
    for i in range(3):
        one = some[slice(i, i + 1)]
        each = [model.probability(others[slice(j, j + 1)], one) for j in range(5)]
        torch.testing.assert_close(rates[i], torch.cat(each).mean(), rtol=0, atol=1e-5)


@ALL
def test_segments_that_a_model_cannot_read_are_refused(name):
    model, some = fitted(name), segments(3, seed=4)
    with pytest.raises(ValueError, match="there is no segment"):
        model.win_rates(some[slice(0, 0)], some)
    wide = replace(some, obs=torch.cat([some.obs, some.obs], -1))
    for asked in (lambda: model.margin(wide, some), lambda: model.win_rates(some, wide)):
        with pytest.raises(ValueError, match=r"obs of the segments have shape \(\d+,\); the reward model"):
            asked()


def outputs(model, member, part):
    """What a member's network says of the steps of one segment, worked out by plain layers."""
    n = int(part.lengths[0])
    x, _ = model._inputs(part.obs[0, :n], part.actions[0, :n], None, None)
    for place, layer in enumerate(model.network.encoder.mlp.layers):
        x = (torch.relu(x) if place else x) @ layer.weight[member] + layer.bias[member, 0]
    return x


def test_margins_are_those_of_the_formulas():
    pair = by_two(6)
    for name in ("thurstone", "gpm", "pal, A", "pal, B", "pal, linear"):
        model = fitted(name)
        head, config = model.network.head, model.config
        for i in range(6):
            one = pair[slice(i, i + 1)]
            user, wanted = int(one.annotators), []
            for e in range(2):
                steps = [outputs(model, e, side) for side in (one.first, one.second)]
                if name == "thurstone":
                    mean, variance = ([each[:, k] for each in steps] for k in (0, 1))
                    whole = sum(each.exp().sum() for each in variance)
                    wanted.append(probit_margin(mean[0].sum(), mean[1].sum(), whole))
                    continue
                pooled = [each.sum(0) if config.pooling == "sum" else each.mean(0) for each in steps]
                if name == "gpm":
                    rates = 2 * torch.softmax(head.gate[e], 0)
                    wanted.append(rotation_margin(*(unit(each) for each in pooled), rates) / 0.1)
                    continue
                ideal = torch.softmax(head.users[e, user], 0) @ head.prototypes[e]
                if config.form == "A":
                    worth = [-(each - ideal).norm() for each in pooled]
                elif config.form == "B":
                    cosines = [torch.cosine_similarity(each, ideal, 0) for each in pooled]
                    worth = [head.log_temperature[e].exp() * cosine for cosine in cosines]
                else:
                    worth = [each @ ideal for each in pooled]
                wanted.append(worth[1] - worth[0])
            torch.testing.assert_close(
                model.preference_margins(one)[0], torch.stack(wanted).mean().detach(), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("name", ["thurstone", "pal, linear"])
def test_rewards_of_steps_sum_to_scores(name):
    config = replace(CONFIGS[name], normalize_rewards="none")
    model = make_reward_model(BOX, TWO, config)
    model.fit(by_two())
    part = segments(6)
    scores = model.scores(part).mean(0)
    for i in range(6):
        n = int(part.lengths[i])
        rewards = model.rewards(part.obs[i, :n], part.actions[i, :n])
        torch.testing.assert_close(rewards.sum(), scores[i], rtol=0, atol=1e-5)


def test_pal_tells_the_user_of_the_settings_what_it_told_when_asked_for_him():
    model = fitted("pal, linear")
    part = segments(6)
    torch.testing.assert_close(model.scores(part), model.scores(part, 1))
    assert not torch.allclose(model.scores(part), model.scores(part, 0))


def test_thurstone_is_as_sure_as_variances_are_small():
    """One reward decides, but answers on segments whose action is 1 throughout are noise."""
    first, second = (segments(600, 1, seed=seed, short=False) for seed in (1, 2))
    noisy = (first.actions[:, 0] + second.actions[:, 0]) > 0
    gap = second.obs[:, 0, 0] - first.obs[:, 0, 0]
    drawn = torch.rand(600, generator=torch.Generator().manual_seed(0))
    labels = torch.where(noisy, drawn < 0.5, gap > 0).double()
    model = make_reward_model(BOX, TWO, ThurstoneNetworkConfig(epochs=60, hidden=(32,), learning_rate=3e-3))
    model.fit(Preferences.from_labels(first, second, labels))
    variance = model.embeddings(first)[..., 1].mean(0)
    there = first.actions[:, 0] == 1
    assert float(variance[there].median()) > 3.0 * float(variance[~there].median())


def test_the_penalty_holds_log_variances():
    spread = {}
    for ridge in (0.0, 10.0):
        learning = {**SMALL, "epochs": 30, "learning_rate": 1e-2}
        config = ThurstoneNetworkConfig(**learning, variance_ridge=ridge)
        model = make_reward_model(BOX, TWO, config)
        model.fit(by_two(short=False))
        spread[ridge] = float(model.embeddings(segments(50, 1, short=False))[..., 1].log().abs().max())
    assert spread[10.0] < 0.5 * spread[0.0]


@pytest.mark.parametrize("name", ["gpm", "pal, A", "pal, B"])
def test_embeddings_are_spread_out_before_the_first_fit_and_not_again(name):
    model = make_reward_model(BOX, TWO, CONFIGS[name])
    part = segments(60)
    model.take_statistics(part)
    embedded = model.embeddings(part)
    torch.testing.assert_close(embedded.square().mean(1), torch.ones(2, embedded.shape[2]), rtol=0, atol=1e-3)
    before = copy.deepcopy(model.network.state_dict())
    model.take_statistics(segments(30, seed=7))
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, before[key])


def test_padding_of_segments_changes_nothing():
    for name in CONFIGS:
        model, part = fitted(name), segments(5)
        padded = part.padded(9)
        padded.actions[:, 5:] = 1
        torch.testing.assert_close(model.embeddings(padded), model.embeddings(part), rtol=0, atol=1e-5)


@ALL
def test_files_and_continued_fits_are_bit_equal(name, tmp_path):
    model = fitted(name)
    model.save(tmp_path / "model.pt")
    again = load_reward_model(tmp_path / "model.pt", observation_space=BOX, action_space=TWO)
    assert type(again) is type(model)
    assert again.config == model.config
    answers = by_two(20, length=4)
    assert torch.equal(again.preference_margins(answers), model.preference_margins(answers))
    for each in (model, again):
        each.fit(answers)
    assert torch.equal(again.preference_margins(answers), model.preference_margins(answers))


def test_files_say_which_class_reads_them(tmp_path):
    fitted("gpm").save(tmp_path / "gpm.pt")
    with pytest.raises(ValueError, match=r"holds a model 'gpm'; RewardModel reads \['bradley_terry'\]"):
        RewardModel.load(tmp_path / "gpm.pt")
    fitted("bradley_terry").save(tmp_path / "reward.pt")
    with pytest.raises(ValueError, match=r"'bradley_terry'; SegmentModel reads \['thurstone', "):
        SegmentModel.load(tmp_path / "reward.pt")


@ALL
def test_settings_in_files_tell_which_they_are_of(name):
    config = CONFIGS[name]
    again = checked(AnyRewardConfig, to_json(config), "reward")
    assert type(again) is type(config)
    assert again == config
    assert from_json(REWARD_CONFIGS[config.name], to_json(config)) == config


def test_every_way_to_name_pairs_is_the_same_loss():
    for name in ("thurstone", "gpm", "pal, A"):
        model = make_reward_model(BOX, TWO, CONFIGS[name])
        part = segments(6)
        vectors, _ = model._inputs(*model._flat(part))
        labels, weights, users = torch.tensor([1.0, 0.0, 0.3]), torch.ones(2, 3), torch.tensor([0, 1, 1])
        in_turn = Compared(part.mask, labels, weights, users=users)
        by_place = Compared(part.mask, labels, weights, first=torch.tensor([0, 2, 4]),
                            second=torch.tensor([1, 3, 5]), users=users)  # fmt: skip
        losses = [model._loss(model.network, vectors, None, each)[0] for each in (in_turn, by_place)]
        assert torch.equal(*losses)


@pytest.mark.parametrize("user", [2, -1, torch.tensor([0, 5])])
def test_users_that_a_model_does_not_know_are_refused(user):
    model, pairs = fitted("pal, linear"), by_two(2)
    with pytest.raises(ValueError, match="the model knows 0 to 1"):
        model.margin(pairs.first, pairs.second, user=user)


def test_a_fitted_model_judges_trajectories():
    for name in CONFIGS:
        model = fitted(name)
        parts = segments(3, seed=8, short=False)
        trajectories = [
            Trajectory(parts.obs[i], parts.actions[i], torch.zeros(5), terminated=False) for i in range(3)
        ]
        judge = ByModel(model, user=1)
        numbers = torch.stack([judge.summarize(each) for each in trajectories])
        found = judge.compare(numbers[:1], numbers, torch.Generator())
        wanted = 2.0 * model.probability(parts, parts[torch.zeros(3, dtype=torch.int64)], 1) - 1.0
        torch.testing.assert_close(found[0].float(), wanted, rtol=0, atol=1e-5)
        whole = judge.compare(numbers, numbers, torch.Generator())
        torch.testing.assert_close(whole, -whole.T, rtol=0, atol=1e-5)


def test_pictures_are_read():
    space = gym.spaces.Box(0, 255, (12, 12, 3), "uint8")
    generator = torch.Generator().manual_seed(0)
    obs = torch.randint(256, (10, 4, 12, 12, 3), generator=generator, dtype=torch.uint8)
    sides = [
        Segments(part, torch.zeros(5, 3, dtype=torch.int64), torch.full((5,), 3), torch.zeros(5, dtype=bool))
        for part in (obs[:5], obs[5:])
    ]
    answers = Preferences.from_labels(*sides, torch.tensor([1.0, 0, 1, 0, 1]))
    for kind in (ThurstoneNetworkConfig, GPMNetworkConfig, PALNetworkConfig):
        model = make_reward_model(space, TWO, kind(**SMALL, conv_filters=2))
        model.fit(answers)
        assert bool(torch.isfinite(model.preference_margins(answers)).all())


def test_what_a_model_has_not_is_refused():
    gpm, ideal = fitted("gpm"), fitted("pal, A")
    with pytest.raises(ValueError, match="GPMHead has no score"):
        gpm.scores(segments(2))
    part = segments(2)
    for model, name in ((gpm, "gpm"), (ideal, "pal")):
        with pytest.raises(ValueError, match=f"a {name} model of this form has no reward of single"):
            model.rewards(part.obs[:, 0], part.actions[:, 0])
    three = replace(by_two(), annotator_names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"num_users is 2; the comparisons have 3 annotators: a, b, c"):
        ideal.fit(three)
    with pytest.raises(ValueError, match="precision is 'bf16'; it must be 'float32'"):
        make_reward_model(BOX, TWO, GPMNetworkConfig(precision="bf16"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user": 2}, "user is 2; it must be below num_users, 2"),
        ({"prototypes": 3}, "prototypes is 3; 2 users allow at most as many"),
        ({"form": "C"}, "form is 'C'"),
        ({"pooling": "max"}, "pooling is 'max'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PALNetworkConfig(**settings)


def test_members_are_networks_of_their_own():
    """What one member says does not change when another one's parameters do."""
    for name in ("thurstone", "gpm", "pal, A", "pal, B", "pal, linear"):
        model, answers = fitted(name), by_two(8)
        sides = [model.embeddings(side) for side in (answers.first, answers.second)]
        before = model.member_margins(*sides, answers.annotators)
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter[1].add_(nn.init.normal_(torch.empty_like(parameter[1])))
        sides = [model.embeddings(side) for side in (answers.first, answers.second)]
        after = model.member_margins(*sides, answers.annotators)
        assert torch.equal(after[0], before[0])
        assert not torch.equal(after[1], before[1])


def test_weights_of_comparisons_count():
    """Answers of weight 0 are as good as none, for every model."""
    answers = by_two(30)
    wrong = replace(answers, labels=1.0 - answers.labels, weights=torch.zeros_like(answers.weights))
    for name in ("thurstone", "gpm", "pal, linear"):
        config = replace(CONFIGS[name], epochs=30, learning_rate=1e-2, bootstrap=False)
        model = make_reward_model(BOX, TWO, config)
        model.fit(concatenate_preferences([answers, wrong]))
        plain = make_reward_model(BOX, TWO, config)
        plain.fit(answers)
        gap = float(model.accuracy(answers)) - float(plain.accuracy(answers))
        assert abs(gap) < 0.15
