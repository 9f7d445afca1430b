"""Cloning by other divergences: what saturates and what does not, stages, preference tuning after it."""

import statistics
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from likelihoods import step_log_probs
from torch import Tensor

import prefrl.envs
from prefrl import cli
from prefrl.agents import (
    BehaviourCloning,
    BehaviourCloningConfig,
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.agents.base import Spaces
from prefrl.data import TransitionDataset
from prefrl.nn.likelihood_policies import DiscretePolicy
from prefrl.preferences.asking import exact_answers

assert prefrl.envs.REGISTRY


def data_of(obs: Tensor, actions: Tensor, spaces: Any) -> TransitionDataset:
    no = torch.zeros(len(obs), dtype=torch.bool)
    return TransitionDataset.from_transitions(
        obs, actions, torch.zeros(len(obs)), obs, no, no, ends=~no,
        observation_space=spaces.single_observation_space, action_space=spaces.single_action_space,
    )  # fmt: skip


CHOICES = Spaces(gym.spaces.Discrete(2), gym.spaces.Discrete(5))
BOX = Spaces(gym.spaces.Box(-9.0, 9.0, (1,)), gym.spaces.Box(-2.0, 2.0, (1,)))
SURE = data_of(torch.arange(64) % 2, torch.arange(64) % 2 + 1, CHOICES)
"""Action 1 in state 0, action 2 in state 1, always."""


def agent_of(data: TransitionDataset = SURE, seed: int = 0, **settings: Any) -> BehaviourCloning:
    given = {"hidden": (16,), "batch_size": 32, "learning_rate": 3e-3, **settings}
    spaces = Spaces(data.observation_space, data.action_space)
    return BehaviourCloning(spaces, BehaviourCloningConfig(**given), dataset=data, device="cpu", seed=seed)


def log_ratios(agent: BehaviourCloning, data: TransitionDataset, reference: Tensor) -> Tensor:
    now = step_log_probs(agent, data.obs, data.actions)
    with agent._update.weights.holding(reference):
        return now - step_log_probs(agent, data.obs, data.actions)


def test_chi_square_saturates_while_plain_cloning_goes_on() -> None:
    """Five actions, beta 2: h could grow to 2 log 5 = 3.2; with V = 0 it stays at 2."""
    beta = 2.0
    chi = agent_of(divergence="chi_square", value="zero", beta=beta, reference_steps=0)
    plain = agent_of()
    start = plain._update.weights.vector.detach().clone()
    grown: dict[str, list[float]] = {"chi": [], "plain": []}
    for _ in range(3):
        chi.learn(400), plain.learn(400)
        assert chi.reference is not None
        assert torch.equal(chi.reference, start), "the reference stays"
        for name, agent in (("chi", chi), ("plain", plain)):
            h = beta * log_ratios(agent, SURE, start)
            grown[name].append(float(h.mean()))
            if name == "chi":
                assert float((h - 2.0).abs().max()) < 0.05
    assert grown["plain"][0] > 2.5
    assert grown["plain"][0] < grown["plain"][1] < grown["plain"][2]


def test_hellinger_goes_on_more_slowly() -> None:
    ends = {}
    for name, settings in {
        "plain": {}, "hellinger": {"divergence": "hellinger", "value": "zero", "reference_steps": 0},
    }.items():  # fmt: skip
        agent = agent_of(learning_rate=1e-3, **settings)
        start = agent._update.weights.vector.detach().clone()
        ends[name] = float(log_ratios(agent.learn(100), SURE, start).mean())
    assert 0.1 < ends["hellinger"] < ends["plain"]


def test_the_first_stage_is_plain_cloning_to_the_bit() -> None:
    plain, staged = agent_of(), agent_of(divergence="chi_square", reference_steps=20)
    for _ in range(20):
        assert plain.update().keys() == staged.update().keys()
    assert torch.equal(plain._update.weights.vector, staged._update.weights.vector)
    assert staged.reference is None
    plain.update()
    assert set(staged.update()) == {"train/loss", "train/implicit_reward"}
    assert torch.equal(plain._update.weights.vector, staged._update.weights.vector), "where h is 0 all agree"
    plain.update(), staged.update()
    assert not torch.equal(plain._update.weights.vector, staged._update.weights.vector)
    assert plain.reference is None


@pytest.mark.parametrize("box", [False, True])
def test_the_gradient_is_that_of_the_mean_and_the_variance(box: bool) -> None:
    data = SURE
    if box:
        draws = torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
        data = data_of(draws[:, :1], 2.0 * draws[:, 1:] - 1.0, BOX)
    agent = agent_of(data, divergence="chi_square", beta=0.5, reference_steps=3).learn(8)
    batches = []
    step = agent._update.step
    agent._update.step = lambda *given: batches.append(given[0]) or step(*given)  # type: ignore[func-returns-value,method-assign]
    before = agent._update.weights.vector.detach().clone()
    agent.update()
    found = agent._update.weights.gradient.clone()
    (batch,) = batches
    with agent._update.weights.holding(agent.reference):  # type: ignore[arg-type]
        base = agent.policy.log_prob(batch.obs[None], batch.actions[None])
    agent._update.weights.vector.detach().copy_(before)
    h = 0.5 * (agent.policy.log_prob(batch.obs[None], batch.actions[None]) - base)
    loss = -h.mean() + 0.25 * h.var(correction=0)
    parts = torch.autograd.grad(loss, list(agent.policy.parameters()))
    expected = torch.cat([part.flatten() for part in parts])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("after", [2, 3, 7])
def test_a_continuation_is_equal_to_the_bit(after: int, tmp_path: Any) -> None:
    settings: dict[str, Any] = {"divergence": "hellinger", "reference_steps": 3}
    whole = agent_of(**settings).learn(after)
    whole.save(tmp_path / "agent.pt")
    again = BehaviourCloning.load(tmp_path / "agent.pt", device="cpu", dataset=SURE)
    whole.learn(5), again.learn(5)
    assert torch.equal(whole._update.weights.vector, again._update.weights.vector)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 1.0}, "beta is 1.0; plain cloning, of the total_variation, takes none"),
        ({"value": "zero"}, "value is 'zero'; plain cloning"),
        ({"reference_steps": 0}, "reference_steps is 0; plain cloning"),
        ({"divergence": "kl"}, "divergence is 'kl'; it must be one of"),
        ({"divergence": "hellinger", "beta": 0.0}, "beta is 0.0; it must be above 0"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BehaviourCloningConfig(**settings)


def test_a_run_that_would_end_before_its_second_stage_is_refused(capsys: Any) -> None:
    flags = ["--divergence", "chi_square", "--total-timesteps", "1000", "--dataset", "data.npz"]
    assert cli.main(["train", "behaviour_cloning", *flags]) == 2
    assert "after 1000 reference_steps the divergence 'chi_square'" in capsys.readouterr().err


# Cloning, then preference tuning -----------------------------------------------------------------------

SEEDS = range(10, 20)
"""Others than those of the pilot, 0 to 5."""

SETTINGS = {"few of a poor player": (3, 1.0), "many of a good player": (100, 0.5)}
"""Demonstrations of a prompt, and the temperature of the soft optimum that they are drawn from."""

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chi square": {"divergence": "chi_square", "reference_steps": 50},
    "chi square, V = 0": {"divergence": "chi_square", "value": "zero", "reference_steps": 50},
}


def demonstrations(env: Any, seed: int, count: int, temperature: float) -> TransitionDataset:
    task, draws = env.unwrapped, np.random.default_rng(seed)
    obs, tokens = task.sequence_observations(), task.sequences()
    shares = np.exp(task.soft_optimum(temperature).log_probs)
    rows = [draws.choice(len(tokens), count, p=each / each.sum()) for each in shares]
    seen = np.concatenate([obs[prompt, row] for prompt, row in enumerate(rows)])[:, :-1]
    did = np.concatenate([tokens[row] for row in rows])
    spaces = Spaces(env.observation_space, env.action_space)
    return data_of(torch.as_tensor(seen.flatten()), torch.as_tensor(did.flatten()), spaces)


def value(env: Any, table: Tensor) -> float:
    task = env.unwrapped
    return float(task.tabular_model().start @ task.true_value(table.numpy()))


def cloned_then_tuned(kind: str, setting: str, seed: int) -> tuple[float, float]:
    """Return the exact value after cloning, and after DPO from 400 answers on top of it."""
    env = gym.make("prefrl/TokenTree-v0", layout_seed=seed)
    data = demonstrations(env, seed, *SETTINGS[setting])
    agent = agent_of(data, seed, hidden=(32,), batch_size=64, **KINDS[kind]).learn(1_500)
    assert isinstance(agent.policy, DiscretePolicy)
    states = torch.arange(int(env.observation_space.n))
    logits = agent.policy.logits(states[None])[0].detach().double()
    config = PreferenceOptimizationConfig(loss="dpo", beta=0.5, cloning_steps=0, learning_rate=0.01)
    tuned = PreferenceOptimization(env, config, exact_answers(env, 400, seed=seed), device="cpu", seed=seed)
    parameters = dict(tuned.network.layers.named_parameters())
    (weight,) = (each for each in parameters.values() if each.numel() == logits.numel())
    weight.data.copy_(logits.view(weight.shape))
    torch.testing.assert_close(tuned.policy_table()[0], torch.softmax(logits, -1))
    return value(env, torch.softmax(logits, -1)), value(env, tuned.learn(1_000).policy_table()[0])


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_after_preference_tuning_other_divergences_are_no_worse_than_noise(setting: str) -> None:
    """The bar, fixed after the pilot: below plain cloning by the standard error of its mean at most.

    It is no better than plain cloning either, which docs/actor_critic/iql.md says.
    """
    found = {kind: [cloned_then_tuned(kind, setting, seed) for seed in SEEDS] for kind in KINDS}
    for kind, rows in found.items():
        after = [[round(row[stage], 2) for row in rows] for stage in range(2)]
        print(f"{setting}, {kind}: cloned {after[0]}, tuned {after[1]}")
    means = {kind: statistics.mean(row[1] for row in rows) for kind, rows in found.items()}
    plain = [row[1] for row in found["plain"]]
    noise = statistics.stdev(plain) / len(plain) ** 0.5
    print(setting, {kind: round(mean, 3) for kind, mean in means.items()}, f"noise {noise:.3f}")
    assert means["chi square"] >= means["plain"] - noise
    assert means["chi square, V = 0"] >= means["plain"] - noise


def test_the_reference_says_what_the_policy_said_when_it_became_one() -> None:
    segments, _ = SURE.segments(SURE.segment_starts(1), 1)
    agent = agent_of(divergence="chi_square", reference_steps=5)
    with pytest.raises(ValueError, match="there is no reference"):
        agent.reference_log_prob(segments)
    agent.learn(5)
    before = agent.log_prob(segments)
    agent.learn(10)
    torch.testing.assert_close(agent.reference_log_prob(segments), before)
    assert not torch.allclose(agent.log_prob(segments), before)
