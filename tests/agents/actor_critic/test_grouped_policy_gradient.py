"""Policy gradients from groups: the exact gradient, learning, files, continuation, refusals."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import prefrl.envs
from prefrl import GroupedPolicyGradient, GroupedPolicyGradientConfig, load
from prefrl.agents.base import Spaces
from prefrl.cli import main
from prefrl.preferences.asking import exact_groups

assert prefrl.envs.REGISTRY
TREE, BANDIT = "prefrl/TokenTree-v0", "prefrl/PreferenceBandit-v0"


def made(
    env_id: str = TREE, seed: int = 0, env_settings: Any = None, **settings: Any
) -> GroupedPolicyGradient:
    env = gym.make(env_id, **(env_settings or {}))
    config = GroupedPolicyGradientConfig(**settings)
    return GroupedPolicyGradient(env, config, exact_groups(env), device="cpu", seed=seed)


def gradient(agent: GroupedPolicyGradient) -> torch.Tensor:
    """The gradient of a step's loss; nothing moves."""
    vector = agent._update.weights.vector
    vector.grad = None if vector.grad is None else vector.grad.zero_()
    agent._loss(agent.policy, agent._places, agent._there)[0].backward()  # type: ignore[no-untyped-call]
    return agent._update.weights.gradient.clone()


def test_exact_gradient_by_hand() -> None:
    # One choice among arms: d E r / d logit_k = pi_k (r_k - E r), averaged over the contexts.
    agent = made(BANDIT, advantage="exact")
    with torch.no_grad():
        agent.policy.table.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    env: Any = gym.make(BANDIT).unwrapped
    rewards = torch.as_tensor(env.sequence_returns())
    probs = agent.policy_table().view(2, 6, 5)[:, 0]
    expected = torch.zeros(2, 6, 5, dtype=torch.float64)
    expected[:, 0] = probs * (rewards - (probs * rewards).sum(1, keepdim=True)) / 2.0
    torch.testing.assert_close(-gradient(agent).view(2, 6, 5), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("env_id", [TREE, BANDIT])
def test_drawn_gradients_are_right_on_average(env_id: str) -> None:
    exact, drawn = made(env_id, advantage="exact"), made(env_id, group_size=4)
    wanted = gradient(exact) * (1.0 - 1.0 / 4.0)
    found = torch.stack([gradient(drawn) for _ in range(1_000)])
    errors = (found.mean(0) - wanted)[wanted.abs() > 1e-9]
    spread = (found.std(0) / 1_000**0.5)[wanted.abs() > 1e-9]
    assert (errors / spread).abs().max() < 4.5  # of up to 240 numbers
    assert found.mean(0).norm() > 0.5 * wanted.norm()


@pytest.mark.parametrize("policy", ["table", "network"])
@pytest.mark.parametrize("advantage", ["exact", "centred", "grpo", "bnpo"])
def test_it_learns(advantage: Any, policy: Any) -> None:
    rate = 0.05 if policy == "table" else 3e-3
    agent = made(advantage=advantage, policy=policy, success_returns=(1.0,), learning_rate=rate, hidden=(32,))
    assert agent.result()["success_rate"] < 0.26
    agent.learn(200)
    assert agent.result()["success_rate"] > 0.9
    # Table and draws agree with what is said of sequences.
    env: Any = gym.make(TREE).unwrapped
    probs = torch.as_tensor(env.sequence_log_probs(agent.policy_table().numpy())).exp()
    successes = torch.as_tensor(env.sequence_returns() >= 1.0)
    assert float((probs * successes).sum(1).mean()) == pytest.approx(agent.result()["success_rate"], abs=1e-6)


def test_several_successes_are_one_reward() -> None:
    agent = made(advantage="bnpo", success_returns=(0.0, 1.0))
    env: Any = gym.make(TREE).unwrapped
    returns = torch.as_tensor(env.sequence_returns()).flatten()
    assert agent._rewards.tolist() == [(returns >= limit).double().tolist() for limit in (0.0, 1.0)]
    assert agent.result()["mean_reward"] == pytest.approx(float(agent._rewards.mean()))


def test_prompts_are_taken_in_turns() -> None:
    agent = made(env_settings={"prompts": 10}, batch_size=3, learning_rate=0.5)
    agent.learn(1)
    moved = agent.policy.table.detach().view(10, -1).abs().amax(1) > 0.0  # type: ignore[union-attr]
    assert int(moved.sum()) == 3


def test_groups_of_one() -> None:
    agent = made(BANDIT, group_size=1, lonely="plain", learning_rate=0.05).learn(500)
    assert agent.result()["mean_reward"] > 1.0
    with pytest.raises(ValueError, match="group_size is 1; it must be at least 2, or lonely 'plain'"):
        GroupedPolicyGradientConfig(group_size=1)


def test_file_and_continuation(tmp_path: Path) -> None:
    whole, first = made(success_returns=(1.0,)), made(success_returns=(1.0,))
    whole.learn(40)
    first.learn(25).save(tmp_path / "agent.pt")
    again: Any = load(tmp_path / "agent.pt", device="cpu")
    with pytest.raises(ValueError, match="has no sequences to learn from"):
        again.update()
    second = made(seed=9, success_returns=(1.0,))
    second.load_state_dict(first.state_dict())
    second.learn(15)
    assert torch.equal(second.policy_table(), whole.policy_table())
    obs = torch.arange(40)
    assert torch.equal(again.act(obs, deterministic=True), first.act(obs, deterministic=True))


def test_run(tmp_path: Path) -> None:
    flags = ["--total-timesteps", "300", "--advantage", "bnpo", "--success-returns", "0", "0.25",
             "--learning-rate", "0.05", "--env.depth", "3", "--quiet",
             "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(["train", "grouped_policy_gradient", *flags]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["mean_reward"] >= result["success_rate"] > 0.8
    assert result["value"] <= result["optimal_value"] + 1e-9
    assert {"final_return", "seconds"} <= set(result)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"success_returns is \(\); it must hold a number"):
        GroupedPolicyGradientConfig(advantage="bnpo")
    space = gym.spaces.Discrete(4)
    with pytest.raises(ValueError, match="sequences of a Box cannot all be known"):
        GroupedPolicyGradient(Spaces(space, gym.spaces.Box(-1.0, 1.0)), device="cpu")
    with pytest.raises(TypeError, match="sequences is a list; it must be ScoredSegments"):
        GroupedPolicyGradient(Spaces(space, space), None, [], device="cpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="obs of the sequences are"):
        GroupedPolicyGradient(Spaces(space, space), None, exact_groups(gym.make(TREE)), device="cpu")
