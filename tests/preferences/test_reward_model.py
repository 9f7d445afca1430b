"""Reward models: against a plain computation, on HERON's labels, over every kind of space, and as files."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from prefrl.data import (
    Preferences,
    Segments,
    TransitionDataset,
    concatenate_preferences,
    concatenate_segments,
    map_obs,
)
from prefrl.functional.preferences.hierarchy import all_pairs, hierarchy_verdicts
from prefrl.functional.preferences.preferences import preference_cross_entropy
from prefrl.preferences import RewardModel, RewardModelConfig, reward_model

BOX = gym.spaces.Box(-1.0, 1.0, (3,))
TWO = gym.spaces.Discrete(2)


def segments(n=20, length=5, seed=0, short=True):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (n,), generator=generator) if short else torch.full((n,), length)
    obs = torch.randn(n, length + 1, 3, generator=generator)
    actions = torch.randint(2, (n, length), generator=generator)
    for i in range(n):
        obs[i, lengths[i] :] = obs[i, lengths[i]]
        actions[i, lengths[i] :] = 0
    return Segments(obs, actions, lengths, torch.zeros(n, dtype=torch.bool))


def compared(n=20, **settings):
    first, second = segments(n, seed=1, **settings), segments(n, seed=2, **settings)
    gap = [(part.obs[:, :-1, 0] * part.mask).sum(1) for part in (first, second)]
    return Preferences.from_labels(first, second, (gap[1] > gap[0]).double())


def test_scores_are_sums_of_rewards_of_transitions():
    model = RewardModel(BOX, TWO, RewardModelConfig(members=2, normalize_rewards="none"))
    part = segments(6)
    scores = model.scores(part)
    assert scores.shape == (2, 6)
    for i in range(6):
        n = int(part.lengths[i])
        rewards = model.rewards(part.obs[i, :n], part.actions[i, :n])
        assert float(rewards.sum()) == pytest.approx(float(scores[:, i].mean()), abs=1e-5)


def test_members_are_networks_of_their_own():
    """A member's reward is that of a plain network with its weights, whatever the others hold."""
    model = RewardModel(BOX, TWO, RewardModelConfig(members=3, hidden=(4,), normalize_rewards="none"))
    obs, actions = torch.randn(7, 3), torch.randint(2, (7,))
    x = torch.cat([obs, torch.nn.functional.one_hot(actions, 2)], 1)
    first, last = model.network.mlp.layers
    plain = [
        torch.relu(x @ first.weight[e] + first.bias[e]) @ last.weight[e] + last.bias[e] for e in range(3)
    ]
    torch.testing.assert_close(model.rewards(obs, actions), torch.stack(plain).mean(0)[:, 0])


def test_fit_learns_and_repeats():
    preferences = compared(150)
    config = RewardModelConfig(members=2, hidden=(32,), epochs=30, learning_rate=3e-3)
    models = [RewardModel(BOX, TWO, config, seed=4) for _ in range(2)]
    before = float(models[0].accuracy(preferences))
    metrics = [model.fit(preferences) for model in models]
    assert float(metrics[0]["accuracy"]) > max(0.95, before)
    assert torch.equal(metrics[0]["loss"], metrics[1]["loss"])
    fresh = Preferences.from_labels(segments(100, seed=8), segments(100, seed=9), torch.zeros(100))
    sums = [(part.obs[:, :-1, 0] * part.mask).sum(1) for part in (fresh.first, fresh.second)]
    fresh = Preferences.from_labels(fresh.first, fresh.second, (sums[1] > sums[0]).double())
    assert float(models[0].accuracy(fresh)) > 0.85


def test_comparisons_of_weight_zero_teach_nothing():
    right = compared(60)
    wrong = Preferences.from_labels(right.first, right.second, 1.0 - right.labels)
    both = concatenate_preferences([right, replace(wrong, weights=0.0 * wrong.weights)])
    model = RewardModel(
        BOX, TWO, RewardModelConfig(members=1, bootstrap=False, epochs=30, learning_rate=3e-3)
    )
    model.fit(both)
    assert float(model.accuracy(right)) > 0.9


def test_offsets_are_margins_within_the_loss():
    config = RewardModelConfig(members=2, hidden=(8,), epochs=1, bootstrap=False, batch_size=64)
    plain = compared(40)
    offsets = torch.linspace(-3.0, 3.0, 40, dtype=torch.float64)
    model, shy = RewardModel(BOX, TWO, config), RewardModel(BOX, TWO, config)
    model.take_statistics(concatenate_segments([plain.first, plain.second]))
    logits = model.scores(plain.second) - model.scores(plain.first)
    losses = preference_cross_entropy(logits.double() - offsets, plain.labels)
    metrics = shy.fit(replace(plain, offsets=offsets))
    torch.testing.assert_close(metrics["loss"].double(), losses.mean(), atol=1e-5, rtol=0.0)
    right = ((logits.mean(0) > 0) == (plain.labels > 0.5)).double().mean()
    torch.testing.assert_close(metrics["accuracy"].double(), right)  # of the scores, not of the margins


def test_members_differ_by_the_bootstrap():
    config = RewardModelConfig(members=2, hidden=(8,), epochs=5)
    model = RewardModel(BOX, TWO, config)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter[1] = parameter[0]
    same = [bool((p[0] == p[1]).all()) for p in model.network.parameters()]
    model.fit(compared(40))
    assert all(same)
    assert not all(bool((p[0] == p[1]).all()) for p in model.network.parameters())


@pytest.mark.parametrize(("kind", "mean", "std"), [("scale", None, 1.0), ("standard", 0.0, 1.0)])
def test_rewards_are_normalised_over_what_was_fitted(kind, mean, std):
    preferences = compared(80, short=False)
    model = RewardModel(BOX, TWO, RewardModelConfig(members=2, epochs=3, normalize_rewards=kind))
    model.fit(preferences)
    both = [part.obs[:, :-1].flatten(0, 1) for part in (preferences.first, preferences.second)]
    actions = torch.cat([part.actions.flatten() for part in (preferences.first, preferences.second)])
    rewards = model.rewards(torch.cat(both), actions)
    assert float(rewards.std()) == pytest.approx(std, rel=0.01)
    assert mean is None or float(rewards.mean()) == pytest.approx(mean, abs=1e-4)


def test_units_of_inputs_do_not_matter():
    preferences = compared(100)
    factor = torch.tensor([1e4, 1.0, 1e-4])
    sides = [
        Segments(side.obs * factor, side.actions, side.lengths, side.terminated)
        for side in (preferences.first, preferences.second)
    ]
    config = RewardModelConfig(members=1, epochs=20, learning_rate=3e-3)
    space = gym.spaces.Box(-np.inf, np.inf, (3,))
    accuracies = []
    for given in (preferences, Preferences.from_labels(*sides, preferences.labels)):
        accuracies.append(float(RewardModel(space, TWO, config).fit(given)["accuracy"]))
    assert min(accuracies) > 0.9


@pytest.mark.parametrize("kind", ["none", "standard"])
def test_padding_moves_no_scale(kind):
    """Scales of inputs and rewards are those of the transitions, as if each were a segment of its own."""
    padded = segments(30, length=8)
    real = padded.mask
    pairs = torch.stack([padded.obs[:, :-1][real], padded.obs[:, 1:][real]], 1)
    count = len(pairs)
    alone = Segments(pairs, padded.actions[real][:, None], torch.ones(count, dtype=torch.int64),
                     torch.zeros(count, dtype=torch.bool))  # fmt: skip
    assert count < 0.7 * real.numel()
    found = []
    for part in (padded, alone):
        model = RewardModel(BOX, TWO, RewardModelConfig(members=1, normalize_rewards=kind))
        model.take_statistics(part), model.take_scale(part)
        found.append(model.rewards(padded.obs[:, 0], padded.actions[:, 0]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("margin", "least"), [(0.25, 0.95), pytest.param(1.0, 0.9, marks=pytest.mark.slow)])
def test_a_hierarchy_of_three_factors_is_learned(margin, least):
    """H2: 5,000 pairs of single steps with random factors; held-out decided pairs.

    Wide margins make preferences that go round in circles, so no reward agrees with all of them.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 6_000, 3, generator=generator, dtype=torch.float64)
    verdicts = hierarchy_verdicts(z[0], z[1], margin * z.flatten(0, 1).std(0))
    decided = verdicts.levels < 3
    sides = [
        Segments(torch.zeros(6_000, 2, 1), torch.zeros(6_000, 1, 1), torch.ones(6_000, dtype=torch.int64),
                 torch.zeros(6_000, dtype=torch.bool), part[:, None])
        for part in z
    ]  # fmt: skip
    whole = Preferences.from_labels(sides[0], sides[1], verdicts.labels)
    config = RewardModelConfig(members=1, use_obs=False, use_actions=False, use_features=True, epochs=12,
                               bootstrap=False, learning_rate=3e-3)  # fmt: skip
    one = gym.spaces.Box(-1.0, 1.0, (1,))
    model = RewardModel(one, one, config, num_features=3)
    places = torch.arange(6_000)
    model.fit(whole[places[decided & (places < 5_000)]])
    assert float(model.accuracy(whole[places[decided & (places >= 5_000)]])) >= least


def test_wide_margins_make_circles():
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    above = hierarchy_verdicts(z[:, None], z[None], z.std(0)).labels == 0.0  # the row is preferred
    circle = above[:, :, None] & above[None, :, :] & above.T[:, None, :]
    assert circle.any()
    strict = hierarchy_verdicts(z[:, None], z[None], torch.zeros(3)).labels == 0.0
    assert not (strict[:, :, None] & strict[None, :, :] & strict.T[:, None, :]).any()


def test_pairs_of_a_batch_equal_separate_pairs():
    part, config = segments(6), RewardModelConfig(members=1, bootstrap=False, normalize_inputs=False)
    first, second = all_pairs(6)
    labels = torch.rand(15, generator=torch.Generator().manual_seed(3))
    weights = (torch.arange(15) % 3 > 0).double()
    models = [RewardModel(BOX, TWO, config, seed=1) for _ in range(2)]
    at_once = models[0].fit_pairs(part, first, second, labels, weights)["loss"]
    scores = models[1].scores(part)[0]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        scores[second] - scores[first], labels, reduction="none"
    )
    torch.testing.assert_close(at_once, ((losses * weights).sum() / weights.sum()).float())


PICTURE = gym.spaces.Box(0, 255, (12, 12, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "action_space"),
    [
        (gym.spaces.Discrete(4), gym.spaces.Discrete(3)),
        (BOX, gym.spaces.Box(-1.0, 1.0, (2,))),
        (PICTURE, gym.spaces.Discrete(2)),
        (gym.spaces.Dict(eye=PICTURE, speed=BOX), gym.spaces.MultiDiscrete([2, 3])),
    ],
    ids=["discrete", "box", "picture", "dict"],
)
def test_every_kind_of_space(space, action_space, tmp_path):
    """A fit lowers the loss, and a file gives the same rewards."""
    model = RewardModel(
        space, action_space, RewardModelConfig(members=2, hidden=(16,), epochs=1, conv_filters=4)
    )
    space.seed(0), action_space.seed(0)
    rows = [space.sample() for _ in range(24)]
    obs = (
        {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in space}
        if isinstance(space, gym.spaces.Dict)
        else torch.as_tensor(np.stack(rows))
    )
    kept = model.layout.keep(obs).reshape(8, 3, -1) if isinstance(space, gym.spaces.Dict) else None
    kept = torch.as_tensor(np.stack(rows)).reshape(8, 3, *space.shape) if kept is None else kept
    actions = torch.as_tensor(np.stack([action_space.sample() for _ in range(16)])).reshape(
        8, 2, *action_space.shape
    )
    sides = Segments(kept, actions, torch.full((8,), 2), torch.zeros(8, dtype=torch.bool))
    preferences = Preferences.from_labels(sides[:4], sides[4:], torch.tensor([0.0, 1.0, 1.0, 0.0]))
    several = isinstance(action_space, gym.spaces.MultiDiscrete)  # which has no form in our files
    path = None if several else tmp_path / "model.pt"
    losses = [float(model.fit(preferences)["loss"]) for _ in range(40)]
    assert losses[-1] < losses[0]
    flat_actions = actions.flatten(0, 1)
    rewards = model.rewards(
        {n: v[:16] for n, v in obs.items()} if isinstance(obs, dict) else obs[:16], flat_actions
    )
    assert rewards.shape == (16,)
    if path is not None:
        model.save(path)
        again = RewardModel.load(path, observation_space=space)
        torch.testing.assert_close(again.rewards(obs[:16], flat_actions), rewards)


def test_files_of_other_spaces_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    RewardModel(BOX, TWO).save(path)
    RewardModel.load(path, observation_space=BOX, action_space=TWO)
    with pytest.raises(
        ValueError, match=r"was fitted with observation_space Box.*; this environment has Discrete"
    ):
        RewardModel.load(path, observation_space=gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match="was fitted with action_space"):
        RewardModel.load(path, action_space=BOX)
    (tmp_path / "other.pt").write_bytes(b"no model")
    with pytest.raises(ValueError, match="damaged or no reward model"):
        RewardModel.load(tmp_path / "other.pt")


def test_a_restored_fit_goes_on_bit_equal():
    preferences, config = compared(40), RewardModelConfig(members=2, epochs=2)
    one, two = RewardModel(BOX, TWO, config), RewardModel(BOX, TWO, config, seed=9)
    one.fit(preferences)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    left, right = (model.fit(preferences) for model in (one, two))
    assert torch.equal(left["loss"], right["loss"])
    assert torch.equal(one.scores(preferences.first), two.scores(preferences.first))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="the reward model would look at nothing"):
        RewardModelConfig(use_obs=False, use_actions=False)
    with pytest.raises(ValueError, match="epochs is 0"):
        RewardModelConfig(epochs=0)
    with pytest.raises(ValueError, match="use_features is True, and num_features 0"):
        RewardModel(BOX, TWO, RewardModelConfig(use_features=True))
    with pytest.raises(ValueError, match="use_obs and use_next_obs are both set"):
        RewardModel(PICTURE, TWO, RewardModelConfig(use_next_obs=True))
    model = RewardModel(gym.spaces.Box(-1.0, 1.0, (4,)), TWO)
    with pytest.raises(
        ValueError, match=r"obs of the segments have shape \(3,\); the reward model was made for \(4,\)"
    ):
        model.fit(compared(4))
    with pytest.raises(ValueError, match="there is no comparison"):
        RewardModel(BOX, TWO).fit(compared(4)[:0])
    with pytest.raises(ValueError, match="epochs is 0"):
        RewardModel(BOX, TWO).fit(compared(4), epochs=0)
    wrong = compared(4)
    wrong.labels[2] = float("nan")
    with pytest.raises(ValueError, match=r"labels\[2\] hold NaN"):
        RewardModel(BOX, TWO).fit(wrong)
    actions = compared(4)
    actions.first.actions[0, 0] = 7
    with pytest.raises(ValueError, match="actions of the segments range from 0 to 7"):
        RewardModel(BOX, TWO).fit(actions)
    with pytest.raises(ValueError, match="looks at next_obs, which was not given"):
        RewardModel(BOX, TWO, RewardModelConfig(use_next_obs=True)).rewards(torch.zeros(1, 3), torch.zeros(1))


def test_rewards_have_the_leading_axes_of_what_is_given():
    """Trajectories and grids of them as well as rows; also where an observation is a number, or a dict."""
    pairs = gym.spaces.Dict(a=gym.spaces.Discrete(3), b=gym.spaces.Box(-1, 1, (2, 2)))
    cases = {
        "box": (gym.spaces.Box(-1, 1, (3,)), lambda n: torch.rand(n, 3)),
        "discrete": (gym.spaces.Discrete(4), lambda n: torch.arange(n) % 4),
        "dict": (pairs, lambda n: {"a": torch.arange(n) % 3, "b": torch.rand(n, 2, 2)}),
    }
    for space, draw in cases.values():
        model = RewardModel(space, gym.spaces.Box(-1, 1, (2,)), RewardModelConfig(members=2, hidden=(8,)))
        obs, actions = draw(12), torch.rand(12, 2)
        flat = model.rewards(obs, actions)
        assert flat.shape == (12,)
        for leading in ((12,), (3, 4), (2, 3, 2)):
            shaped = map_obs(lambda values, to=leading: values.reshape(*to, *values.shape[1:]), obs)
            assert torch.equal(model.rewards(shaped, actions.reshape(*leading, 2)), flat.reshape(leading))
        one = map_obs(lambda values: values[0], obs)
        torch.testing.assert_close(model.rewards(one, actions[0]), flat[0])


def test_the_accuracy_of_ties_is_no_number():
    model = RewardModel(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2))
    side = Segments(torch.rand(4, 3, 3), torch.zeros(4, 2, dtype=torch.int64), torch.full((4,), 2),
                    torch.zeros(4, dtype=torch.bool))  # fmt: skip
    ties = Preferences.from_labels(side, side, torch.full((4,), 0.5))
    assert model.accuracy(ties).isnan()
    assert model.fit(ties)["accuracy"].isnan()


def test_a_reward_that_does_not_vary_is_not_divided_by_nothing():
    model = RewardModel(gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2))
    same = Segments(torch.zeros(4, 3, 1), torch.zeros(4, 2, dtype=torch.int64), torch.full((4,), 2),
                    torch.zeros(4, dtype=torch.bool))  # fmt: skip
    model.take_scale(same)
    assert float(model._std) == 1.0
    assert float(model.rewards(torch.rand(9, 1), torch.ones(9, dtype=torch.int64)).abs().max()) < 10.0


# Data sets -------------------------------------------------------


def transitions(n=23, **changes):
    generator = torch.Generator().manual_seed(5)
    obs = 2.0 * torch.rand(n + 1, 3, generator=generator) - 1.0
    ends = torch.arange(n) % 7 == 6
    fields = {
        "obs": obs[:-1], "actions": torch.randint(2, (n,), generator=generator),
        "rewards": torch.arange(n).float(), "next_obs": obs[1:], "terminations": ends & (torch.arange(n) < 9),
        "truncations": ends & (torch.arange(n) > 9), "observation_space": BOX, "action_space": TWO,
        "env_id": "test/Any-v0",
    }  # fmt: skip
    return TransitionDataset.from_transitions(**{**fields, **changes})


@pytest.mark.parametrize("chunk", [4, 1 << 14])
@pytest.mark.parametrize("normalize_rewards", ["scale", "standard", "none"])
def test_relabelled_data_have_the_models_rewards_and_nothing_else_new(chunk, normalize_rewards, monkeypatch):
    monkeypatch.setattr(reward_model, "CHUNK", chunk)
    config = RewardModelConfig(members=2, use_next_obs=True, epochs=2, normalize_rewards=normalize_rewards)
    model, data = RewardModel(BOX, TWO, config), transitions()
    model.fit(compared(30))
    found = model.relabel(data)
    for row in range(len(data)):
        part = slice(row, row + 1)
        own = model.rewards(data.obs[part], data.actions[part], data.next_obs[part])
        assert float(found.rewards[row]) == pytest.approx(float(own[0]), abs=1e-5)
    assert found.rewards.dtype == torch.float32
    assert data.rewards.tolist() == list(range(23))  # what was given stays
    for name in vars(data):
        if name != "rewards":
            assert getattr(found, name) is getattr(data, name)


def test_what_cannot_be_relabelled_is_refused():
    model = RewardModel(BOX, TWO)
    with pytest.raises(TypeError, match="dataset is a Segments; it must be a TransitionDataset"):
        model.relabel(segments())
    with pytest.raises(ValueError, match=r"another environment.*Discrete\(3\).*Discrete\(2\)"):
        model.relabel(transitions(action_space=gym.spaces.Discrete(3)))
    with pytest.raises(ValueError, match="reads 2 features; a TransitionDataset has none"):
        RewardModel(BOX, TWO, RewardModelConfig(use_features=True), num_features=2).relabel(transitions())
    with torch.no_grad():
        model.network.mlp.layers[0].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"rewards are wrong in row 0.*finite"):
        model.relabel(transitions())
