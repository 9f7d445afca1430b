"""Policies from pairs of segments: gradients, exact optima, many learners, files, refusals."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.agents.preferences import compared_segments as module
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.agents.preferences.preference_optimization_config import PairLossName
from prefrl.data import Preferences, Segments
from prefrl.functional.preferences.pair_loss import pair_leads, pair_loss
from prefrl.preferences.label_models import DensityRatio

LOSSES = get_args(PairLossName)
STATES, ARMS = 4, 3
TABLE = Spaces(gym.spaces.Discrete(STATES), gym.spaces.Discrete(ARMS, start=2))
NUMBERS = Spaces(gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(ARMS))
BOX = Spaces(gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Box(-2.0, 3.0, (2,)))
CHOICES = Spaces(gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.MultiDiscrete([2, 3]))
PARTS = Spaces(gym.spaces.Dict({"where": gym.spaces.Box(-1.0, 1.0, (2,)), "left": gym.spaces.Discrete(4)}),
               gym.spaces.Discrete(ARMS))  # fmt: skip
SPACES = {"table": TABLE, "numbers": NUMBERS, "box": BOX, "choices": CHOICES, "parts": PARTS}


def comparisons(spaces: Spaces, count: int = 9, length: int = 4, seed: int = 0) -> Preferences:
    """Return comparisons of random segments of unequal lengths."""
    draws = torch.Generator().manual_seed(seed)

    def drawn(space: gym.Space[Any], *shape: int) -> Tensor:
        if isinstance(space, gym.spaces.Discrete):
            return torch.randint(int(space.start), int(space.start + space.n), shape, generator=draws)
        if isinstance(space, gym.spaces.MultiDiscrete):
            return torch.stack([torch.randint(int(n), shape, generator=draws) for n in space.nvec], -1)
        if isinstance(space, gym.spaces.Dict):  # parts side by side, as they are kept
            parts = [drawn(part, *shape).view(*shape, -1) for _, part in sorted(space.items())]
            return torch.cat([part.to(torch.float32) for part in parts], -1)
        return torch.rand(*shape, *space.shape, generator=draws) * 1.8 - 0.9

    def segments() -> Segments:
        lengths = torch.randint(1, length + 1, (count,), generator=draws)
        obs = drawn(spaces.single_observation_space, count, length + 1)
        actions = drawn(spaces.single_action_space, count, length)
        for row, steps in enumerate(lengths.tolist()):
            obs[row, steps + 1 :] = obs[row, steps]
            actions[row, steps:] = 0
        return Segments(obs, actions, lengths, torch.zeros(count, dtype=torch.bool))

    labels = torch.rand(count, generator=draws, dtype=torch.float64)
    preferences = Preferences.from_labels(segments(), segments(), labels)
    weights = torch.rand(count, generator=draws, dtype=torch.float64)
    return replace(preferences, weights=weights, offsets=0.1 * labels)


def make(spaces: Spaces, preferences: Preferences | None = None, seed: Any = 0, **settings: Any) -> Any:
    """Return an agent with small networks on all comparisons at once."""
    learners = settings.pop("num_learners", 1)
    given = {"cloning_steps": 2, "hidden": (8, 8), "batch_size": 10**6, "learning_rate": 1e-2, **settings}
    if preferences is None:
        preferences = comparisons(spaces)
    config = PreferenceOptimizationConfig(**given)
    return PreferenceOptimization(spaces, config, preferences, device="cpu", seed=seed, num_learners=learners)


def by_autograd(agent: PreferenceOptimization) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient [P], from the forward pass of the networks on whole segments."""
    pairs, network = agent.pairs, agent.network
    assert pairs is not None
    agent.weights.gradient.zero_()
    x = agent._read(pairs.obs[None].flatten(1, 3))
    said = agent.actions.distribution.evaluate(network.layers(x), network.free, pairs.raw[None].flatten(1, 3))
    log_probs = said.log_probs.view(1, *pairs.mask.shape)
    row = agent.config.row
    given: dict[str, Any] = {"weights": pairs.weights / len(pairs), "offsets": pairs.offsets}
    if row.needs_reference or row.regularisers == ("log_ratio",):
        given["reference"] = agent._said["reference"]
    if row.needs_opponents:
        given["opponents"] = agent._said["opponents"]
    if row.suffix:
        given["starts"] = pairs.starts
    loss = pair_loss(row, log_probs, pairs.mask, pairs.labels, settings=agent.config.of_row, **given).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), agent.weights.gradient.clone()


@pytest.mark.parametrize("rows", [10**6, 20], ids=["whole", "in parts"])
@pytest.mark.parametrize("spaces", SPACES)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_autograd(
    loss: str, spaces: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loss == "orpo" and spaces == "box":
        pytest.skip("densities are no probabilities")
    monkeypatch.setattr(module, "ROWS", rows)
    agent = make(SPACES[spaces], loss=loss, learning_rate=0.05)
    for _ in range(5):
        agent.update()  # two of cloning, and away from the reference
    expected, gradient = by_autograd(agent)
    agent.weights.gradient.fill_(7.0)
    metrics = agent.update()
    torch.testing.assert_close(agent.weights.gradient, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["train/loss"], expected, rtol=1e-4, atol=1e-6)


def test_cloning_a_table_ends_in_the_shares_of_actions() -> None:
    agent = make(TABLE, comparisons(TABLE, 40), cloning_steps=2_000)
    for _ in range(2_000):
        agent.update()
    assert agent.pairs is not None
    obs, raw = agent.pairs.obs[agent.pairs.mask], agent.pairs.raw[agent.pairs.mask][:, 0]
    counts = torch.zeros(STATES, ARMS, dtype=torch.float64)
    counts.index_put_((obs, raw), torch.ones(len(obs), dtype=torch.float64), accumulate=True)
    logits = agent.network.layers(torch.eye(STATES, dtype=torch.float64)[None])[0]
    torch.testing.assert_close(torch.softmax(logits, -1), counts / counts.sum(-1, keepdim=True),
                               rtol=0, atol=1e-3)  # fmt: skip


def bandit(rewards: Tensor) -> Preferences:
    """Return all pairs of arms with a Bradley-Terry answerer's probabilities."""
    first, second = torch.triu_indices(len(rewards), len(rewards), 1)

    def segments(arms: Tensor) -> Segments:
        nothing = torch.zeros(len(arms), 2, dtype=torch.int64)
        return Segments(
            nothing, arms[:, None], torch.ones_like(arms), torch.ones_like(arms, dtype=torch.bool)
        )

    labels = torch.sigmoid(rewards[second] - rewards[first])
    return Preferences.from_labels(segments(first), segments(second), labels)


@pytest.mark.parametrize("loss", ["dpo", "ipo", "cpl", "robust_dpo"])
def test_a_bandit_with_exact_answers_has_the_known_optimum(loss: str) -> None:
    """Spec: beta log(pi / ref) is the reward (DPO), mean_j (p_ij - 1/2) / beta (IPO), up to a constant."""
    rewards, beta = torch.tensor([0.0, 0.5, 1.0, 1.5, 3.0], dtype=torch.float64), 0.5
    settings: dict[str, Any] = {"bias": 1.0} if loss == "cpl" else {}
    data = bandit(rewards)
    if loss == "robust_dpo":  # what is flipped in a fifth of the cases, told to the loss
        settings, data = {"epsilon": 0.2}, replace(data, labels=0.2 + 0.6 * data.labels)
    agent = make(
        Spaces(gym.spaces.Discrete(1), gym.spaces.Discrete(5)), data, loss=loss, beta=beta, cloning_steps=0,
        learning_rate=0.1, schedule="linear", schedule_timesteps=800, **settings,
    )  # fmt: skip
    for _ in range(800):
        agent.update()
    log_policy = torch.log_softmax(agent.network.layers(torch.ones(1, 1, 1, dtype=torch.float64))[0, 0], -1)
    expected = rewards / beta
    if loss == "ipo":
        expected = (torch.sigmoid(rewards[:, None] - rewards) - 0.5).mean(1) / beta
    torch.testing.assert_close(log_policy - log_policy.mean(), expected - expected.mean(), rtol=0, atol=1e-6)


def test_rounds_move_the_reference() -> None:
    still, moving = make(TABLE, loss="dno"), make(TABLE, loss="dno", round_steps=3)
    for _ in range(6):  # two of cloning, three and one of the second round
        still.update(), moving.update()
    assert not torch.equal(still._said["reference"], moving._said["reference"])
    torch.testing.assert_close(moving._said["reference"], moving._say(moving._round))
    assert torch.equal(still.reference, moving.reference), "what was cloned stays known"


@pytest.mark.parametrize("spaces", ["table", "box"])
def test_a_learner_is_what_it_would_be_alone(spaces: str) -> None:
    settings = {"batch_size": 4, "loss": "ipo"}
    stack = make(SPACES[spaces], num_learners=3, seed=5, beta=(0.1, 0.5, 0.2), **settings)
    alone = make(SPACES[spaces], seed=6, beta=0.5, **settings)
    for _ in range(20):
        stack.update(), alone.update()
    torch.testing.assert_close(stack.weights.vector[1], alone.weights.vector[0], rtol=1e-4, atol=1e-5)
    one = stack.learner(1)
    assert torch.equal(one.weights.vector[0], stack.weights.vector[1])
    assert one.config.beta == 0.5
    assert one.seeds == [6]


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_continuation_is_equal_to_the_bit(after: int) -> None:
    settings: dict[str, Any] = {"batch_size": 4, "loss": "inpo", "round_steps": 2}
    whole, other = make(BOX, **settings), make(BOX, seed=1, **settings)
    for _ in range(after):
        whole.update()
    state = {name: value.clone() if isinstance(value, Tensor) else value
             for name, value in whole.state_dict().items()}  # fmt: skip
    other.load_state_dict(state)
    other.num_timesteps = after
    for _ in range(4):
        whole.update(), other.update()
    assert torch.equal(whole.weights.vector, other.weights.vector)


@pytest.mark.parametrize("spaces", SPACES)
def test_likelihoods_are_those_that_are_learned_from(spaces: str) -> None:
    data = comparisons(SPACES[spaces])
    agent = make(SPACES[spaces], data)
    for _ in range(5):
        agent.update()
    kept, mask = agent._say(agent.weights.vector.detach())[0], agent.pairs.mask
    unit = 2.0 * math.log(2.5) if spaces == "box" else 0.0  # of halves of [-2, 3]
    for side, segments in enumerate((data.first, data.second)):
        found = agent.log_prob(segments)
        expected = torch.where(mask[:, side], kept[:, side] - unit, 0.0)[:, : segments.max_length]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_ties_alone_have_no_accuracy() -> None:
    data = comparisons(TABLE)
    agent = make(TABLE, replace(data, labels=torch.full_like(data.labels, 0.5)))
    agent.update()
    result = agent.result()
    assert [result[name] for name in ("pair_accuracy", "absolute_alignment")] == [None, None]
    assert 0.0 <= make(TABLE, data).result()["pair_accuracy"] <= 1.0


def test_two_checkpoints_label_comparisons() -> None:
    """What was learned for longer, against what was cloned, finds the labels that it learned."""
    data = comparisons(BOX, 40)
    data = replace(data, labels=(data.labels > 0.5).double())
    early, late = make(BOX, data, cloning_steps=300), make(BOX, data, cloning_steps=300)
    for step in range(600):
        late.update()
        if step < 300:
            early.update()
    found = DensityRatio(late, early)(data)
    assert float(((found.labels > 0.5) == (data.labels > 0.5)).double().mean()) > 0.9
    with pytest.raises(ValueError, match="there are 2 learners; ask one"):
        make(BOX, data, num_learners=2).log_prob(data.first)
    with pytest.raises(ValueError, match="obs of the segments have shape"):
        early.log_prob(comparisons(TABLE).first)


def test_a_file_brings_back_what_acts(tmp_path: Path) -> None:
    agent = make(BOX)
    for _ in range(5):
        agent.update()
    agent.save(tmp_path / "agent.pt")
    again = PreferenceOptimization.load(tmp_path / "agent.pt", device="cpu")
    obs = BOX.single_observation_space.sample()
    action, _ = agent.predict(obs, deterministic=True)
    assert again.predict(obs, deterministic=True)[0] == pytest.approx(action)
    assert BOX.single_action_space.contains(again.predict(obs)[0])
    with pytest.raises(ValueError, match="no preferences to learn from"):
        again.update()


@pytest.mark.parametrize(
    ("spaces", "change", "message"),
    [
        (TABLE, lambda data: data[:0], "hold no comparison"),
        (TABLE, lambda data: replace(data, labels=data.labels * torch.nan), "labels.* hold NaN"),
        (TABLE, lambda data: replace(data, weights=0 * data.weights), "weight 0 only"),
        (NUMBERS, lambda data: comparisons(BOX), r"actions of the first segments have shape \(2,\)"),
        (BOX, lambda data: comparisons(TABLE), r"obs of the first segments have shape \(\)"),
        (TABLE, lambda data: comparisons(Spaces(gym.spaces.Discrete(9), gym.spaces.Discrete(3, start=2))),
         "obs of the first segments are torch.int64 from 0 to 8"),
        (CHOICES, lambda data: comparisons(Spaces(NUMBERS.single_observation_space,
                                                  gym.spaces.MultiDiscrete([2, 4]))),
         "actions of the first segments are torch.int64, .* of them outside of MultiDiscrete"),
        (PARTS, lambda data: comparisons(NUMBERS), r"obs of the first segments have shape \(2,\)"),
    ],
    ids=["none", "nan", "no weight", "actions", "observations", "states", "choices", "parts"],
)  # fmt: skip
def test_bad_comparisons_are_refused(spaces: Spaces, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(spaces, change(comparisons(spaces)))


def test_states_may_be_of_any_whole_numbers() -> None:
    """A file's uint8 are no mask."""
    answers = comparisons(TABLE)
    small = [replace(side, obs=side.obs.to(torch.uint8)) for side in (answers.first, answers.second)]
    agents = [make(TABLE, answers), make(TABLE, replace(answers, first=small[0], second=small[1]))]
    for agent in agents:
        for _ in range(4):
            agent.update()
    assert torch.equal(agents[0].weights.vector, agents[1].weights.vector)


def test_what_are_no_comparisons_is_refused() -> None:
    with pytest.raises(TypeError, match="preferences is a list; it must be Preferences"):
        make(TABLE, [1, 2])  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:precision is 'bf16'")
@pytest.mark.parametrize("loss", ["cpl", "ipo"])
def test_bf16_takes_nearly_the_same_steps(loss: str) -> None:
    plain, low = (make(BOX, loss=loss, hidden=(256, 256), precision=kind) for kind in ("float32", "bf16"))
    for _ in range(6):
        plain.update(), low.update()
    before, after, lower = (
        agent.weights.vector.detach() for agent in (make(BOX, hidden=(256, 256)), plain, low)
    )
    moved, away = after - before, lower - after
    assert low.weights.vector.dtype == torch.float32
    assert 0.0 < float(away.norm()) < 0.3 * float(moved.norm())


def test_a_table_has_no_bf16() -> None:
    with pytest.raises(ValueError, match="precision is 'bf16'; a table is of float64"):
        make(TABLE, precision="bf16")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "dpo", "margin": 1.0}, "margin is 1.0; the loss 'dpo' takes beta$"),
        ({"loss": "robust_dpo", "epsilon": 0.5}, "epsilon is 0.5; it must lie below 0.5"),
        ({"loss": "sft"}, "loss is 'sft'"),
        ({"policy": "table"}, "needs Discrete observations and actions"),
        ({"loss": "orpo"}, "needs probabilities"),
        ({"schedule": "linear"}, "schedule_timesteps is None"),
        ({"round_steps": 3}, "round_steps is 3; it must be None for 'dpo', whose reference stays"),
        ({"beta": (0.1, 0.2)}, "beta is for 2 learners"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(BOX, **settings)


def test_labels_move_to_what_is_believed() -> None:
    """By hand: a step at rate r leaves the label y + r (sigmoid(lead - offset) - y), for each learner."""
    agent = make(NUMBERS, label_rate=0.3, num_learners=2, cloning_steps=1)
    agent.update(), agent.update()
    before = agent._labels.clone()
    log_probs = agent._say(agent.weights.vector.detach())
    leads = pair_leads("dpo", log_probs, agent.pairs.mask, reference=agent._said["reference"])
    agent.update()
    believed = torch.sigmoid(leads - agent.pairs.offsets)
    torch.testing.assert_close(agent._labels, before + 0.3 * (believed - before))
    assert not torch.equal(agent._labels[0], agent._labels[1])
