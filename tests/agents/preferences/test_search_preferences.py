"""The agent that learns from searches: it learns, resumes bit by bit, saves, refuses; runs."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import prefrl.envs
from prefrl import SearchPreferences, SearchPreferencesConfig
from prefrl.cli import main

assert prefrl.envs.REGISTRY
ID = "prefrl/SparseGrid-v0"


def made(seed: int = 0, values: Any = None, **settings: Any) -> SearchPreferences:
    config = SearchPreferencesConfig(**{"simulations": 32, "num_roots": 32, "round_steps": 20, **settings})
    return SearchPreferences(gym.make(ID), config, values=values, device="cpu", seed=seed)


def success(agent: SearchPreferences) -> float:
    return float(agent.env.unwrapped.success_rate(agent.policy_table()[0].numpy(), 12))


def test_rounds_make_the_policy_better() -> None:
    agent = made()
    assert success(agent) == pytest.approx(0.2, abs=0.01)
    agent.learn(5)
    assert agent.num_timesteps == 5
    assert success(agent) > 0.7


def test_off_policy_searches_are_those_of_the_first_policy() -> None:
    agent, other = made(online=False), made(online=True)
    roots = torch.nonzero(agent.model.start)[:, 0]
    before = agent.search(roots)
    for each in (agent, other):
        each.learn(2)
    assert torch.equal(agent.search(roots).visits, before.visits)
    assert not torch.equal(other.search(roots).visits, before.visits)


@pytest.mark.parametrize("settings", [{}, {"policy": "mlp", "hidden": (8,)}, {"online": False}])
def test_a_resumed_agent_goes_on_bit_by_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    whole, first = made(**settings).learn(4), made(**settings).learn(2)
    again = made(**settings)
    again.load_state_dict(first.state_dict())
    again.num_timesteps = 2
    again.learn(2)
    assert torch.equal(again.policy_table(), whole.policy_table())
    whole.save(tmp_path / "agent.pt")
    loaded = SearchPreferences.load(tmp_path / "agent.pt")
    assert torch.equal(loaded.policy_table(), whole.policy_table())
    with pytest.raises(ValueError, match="has no environment to search in"):
        loaded.update()


@pytest.mark.parametrize("layout_seed", [3, 4, 5])
def test_steps_of_two_actions_in_a_tree(layout_seed: int) -> None:
    """Returns spread over some 5: with w = 1, searches settle on what they tried first, .3 to .8 short."""
    env = gym.make("prefrl/TokenTree-v0", layout_seed=layout_seed)
    task = env.unwrapped
    config = SearchPreferencesConfig(discount=1.0, step_length=2, max_depth=2, num_roots=8, exploration=3.0)
    agent = SearchPreferences(env, config, device="cpu").learn(8)
    start = task.tabular_model().start
    best, value = (start @ each for each in (task.optimal_value(), task.true_value(agent.policy_table()[0])))
    assert best - value < 0.1
    assert best - start @ task.true_value(made_even(task)) > 2.0


def test_a_judge_of_states() -> None:
    with pytest.raises(ValueError, match=r"values have shape \[3\]"):
        made(value="given", values=torch.ones(3))
    task = gym.make(ID).unwrapped
    terminal = torch.as_tensor(task.tabular_model().terminal)
    values = torch.as_tensor(task.optimal_value(0.9)).where(~terminal, 1.0)
    assert success(made(value="given", num_roots=16, values=values).learn(3)) > 0.5


def test_what_an_edge_is_worth_before_it_is_taken() -> None:
    """r + V of the policy as it is known exactly; nothing; or the difference of a judge's values."""
    env = gym.make("prefrl/TokenTree-v0", layout_seed=3)
    model, even = env.unwrapped.tabular_model(), made_even(env.unwrapped)
    judge = torch.linspace(-1.0, 1.0, len(even), dtype=torch.float64)
    later = torch.as_tensor(env.unwrapped.true_value(even))
    for value, values, expected in (
        ("policy", None, lambda state, after, pays: pays + later[after]),
        ("none", None, lambda state, after, pays: pays),
        ("given", judge, lambda state, after, pays: judge[after] - judge[state]),
    ):
        config = SearchPreferencesConfig(discount=1.0, max_depth=4, simulations=1, value=value)
        trees = SearchPreferences(env, config, values=values, device="cpu").search(torch.tensor([0]))
        untaken = int(trees.visits[0, 0].argmin())
        after, pays = (int(model.successors[0, untaken, 0]), float(model.rewards[0, untaken, 0]))
        found = float(trees.q[0, 0, untaken])
        assert found == pytest.approx(float(expected(0, after, pays)), abs=1e-9), value


def test_steps_of_two_actions_are_discounted_twice() -> None:
    config = SearchPreferencesConfig(discount=0.5, step_length=2, max_depth=2, simulations=1, value="none")
    agent = SearchPreferences(gym.make("prefrl/TokenTree-v0", layout_seed=3), config, device="cpu")
    trees = agent.search(torch.tensor([0]))
    taken = int(trees.visits[0, 0].argmax())
    paid = float(agent.model.rewards[0, taken])
    assert float(trees.q[0, 0, taken]) == pytest.approx(paid + 0.25 * float(trees.q[0, 1].mean()))
    assert abs(float(trees.q[0, 1].mean())) > 0.01


def test_siblings_and_references() -> None:
    trees = made().search(torch.arange(3))
    worst, second = (made(sibling=sibling).compare(trees) for sibling in ("worst", "second"))
    assert not torch.equal(worst.first.actions, second.first.actions)
    fixed, moved = made(fixed_reference=True), made()
    start = fixed.weights.vector.detach().clone()
    for agent in (fixed, moved):
        agent.learn(2)
    assert torch.equal(fixed.reference, start)
    assert not torch.equal(moved.reference, start)


def made_even(task: Any) -> Any:
    count = task.tabular_model().successors.shape[:2]
    return torch.full(count, 1.0 / count[1], dtype=torch.float64).numpy()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="offers no tabular_model"):
        SearchPreferences(gym.make("FrozenLake-v1"), device="cpu")
    with pytest.raises(ValueError, match="has several successors"):
        SearchPreferences(gym.make("prefrl/RandomGrid-v0", stochastic=True), device="cpu")
    with pytest.raises(ValueError, match="both must be Discrete"):
        SearchPreferences(gym.make("prefrl/CartPole-v0"), device="cpu")
    with pytest.raises(ValueError, match="values are missing"):
        made(value="given")
    with pytest.raises(ValueError, match="cloning_steps is 5"):
        made(cloning_steps=5)
    with pytest.raises(ValueError, match="step_length is 9"):
        made(step_length=9)


def test_runs(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--total-timesteps", "2", "--simulations", "16", "--num-roots", "16", "--round-steps", "5"]
    assert main(["train", "search_preferences", *flags, "--out", str(out), "--quiet"]) == 0
    result = json.loads((out / "result.json").read_text())
    wanted = {"final_return", "success_rate", "optimal_value", "policy_error", "seconds"}
    assert wanted <= set(result)
    assert result["optimal_value"] > 0.9
    assert 0.0 < result["policy_error"] < result["optimal_value"]
    assert main(["train", "search_preferences", "--value", "given", "--out", str(tmp_path / "x")]) != 0
