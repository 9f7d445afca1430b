"""OREO: its loss written out, the soft optimum in every form, data of all kinds, beams, files, runs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl import OREO, OREOConfig, ScoredSegments, Segments, load
from prefrl.agents.base import Spaces
from prefrl.agents.value_based.oreo import oreo_loss
from prefrl.agents.value_based.whole_episodes import whole_episodes
from prefrl.cli import main
from prefrl.data import TransitionDataset, save_transitions
from prefrl.functional.value_based.soft_bellman import soft_value_iteration
from prefrl.preferences.asking import exact_groups
from prefrl.run.collect import collect_episodes
from prefrl.run.evaluate import evaluate_rows
from prefrl.run.outcomes.soft_values import policy_error
from prefrl.run.study.values.oreo import learned
from prefrl.tabular import TabularMDP

assert prefrl.envs.REGISTRY
ID = "prefrl/TokenTree-v0"
SMALL: dict[str, Any] = {"depth": 2, "layout_seed": 4}
FORMS = ("trajectory", "step", "response", "one_step")


def task(**settings: Any) -> Any:
    return gym.make(ID, **{**SMALL, **settings})


def episodes(count: int, seed: int = 0, **settings: Any) -> TransitionDataset:
    return collect_episodes(None, gym.make_vec(ID, count, **{**SMALL, **settings}), seed=seed)


def chain(paths: list[list[int]], cut: int | None = None) -> TransitionDataset:
    """Paths [state, action, reward, state, ...] over five states and two actions, one of them cut."""
    rows = [(*path[i : i + 3], path[i + 3], i + 4 == len(path), place == cut and i + 4 == len(path))
            for place, path in enumerate(paths) for i in range(0, len(path) - 1, 3)]  # fmt: skip
    obs, actions, rewards, following, ends, cuts = (
        torch.tensor(column) for column in zip(*rows, strict=True)
    )
    return TransitionDataset.from_transitions(
        obs, actions, rewards.float(), following, ends & ~cuts, cuts,
        observation_space=gym.spaces.Discrete(5), action_space=gym.spaces.Discrete(2),
    )  # fmt: skip


SPACES = Spaces(gym.spaces.Discrete(5), gym.spaces.Discrete(2))


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_written_out(form: Any) -> None:
    """Two episodes, the second cut, each residual as the module's text has it."""
    paths = [[0, 1, 2, 1, 0, -1, 2, 1, 3, 4], [0, 0, 1, 3]]
    config = OREOConfig(form=form, beta=0.4, kappa=0.2, step_length=2)
    agent = OREO(SPACES, config, chain(paths, cut=1), device="cpu")
    network, generator = agent.network, torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    assert agent.episodes is not None
    reference = torch.full((5, 2), 0.5, dtype=torch.float64).log()
    log_reference = reference[agent.episodes.obs[:, :-1]]
    with torch.no_grad():
        found, metrics = oreo_loss(network, agent.episodes, log_reference, config)
    log_policy, values = agent.tables()
    squares, divergences = [], []
    for place, path in enumerate(paths):
        states, actions, rewards = path[0::3], path[1::3], path[2::3]
        ratios = [float((log_policy - reference)[s, a]) for s, a in zip(states[:-1], actions, strict=True)]
        ahead = [float(values[s]) for s in states[:-1]] + [float(values[states[-1]]) if place == 1 else 0.0]
        count = len(actions)
        every = {"trajectory": 1, "one_step": 1, "step": 2, "response": count}[form]
        for t in range(0, count, every):
            until = t + 1 if form == "one_step" else count
            ends = ahead[t + 1] if form == "one_step" else ahead[-1]
            squares.append((ahead[t] - sum(rewards[t:until]) - ends + 0.4 * sum(ratios[t:until])) ** 2)
        for s in states[:-1]:
            divergences.append(float((log_policy[s].exp() * (log_policy - reference)[s]).sum()))
    expected = 2.0 * np.mean(squares) + 0.2 * np.mean(divergences)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(metrics["train/kl"]) == pytest.approx(np.mean(divergences), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_finds_the_soft_optimum_from_random_episodes(form: Any) -> None:
    env, data = task(), episodes(200)
    agent = learned(env, data, 200, 0, form=form, kappa=0.0, beta=0.2)
    error = policy_error(agent, TabularMDP.from_env(env))
    assert error is not None
    assert error < 1e-3
    if form in ("trajectory", "one_step"):
        known = env.unwrapped.soft_optimum(0.2).values
        ended = env.unwrapped.tabular_model().terminal
        assert abs(agent.tables()[1].numpy() - known)[~ended].max() < 1e-3
    pulled = learned(env, data, 100, 0, form=form, kappa=0.01, beta=0.03)
    assert (policy_error(pulled, TabularMDP.from_env(env)) or 0.0) > 0.02  # kappa keeps it near the reference


def test_groups_with_scores_and_a_cloned_reference() -> None:
    env = task()
    groups = exact_groups(env)
    agent = learned(env, groups, 200, 0, kappa=0.0, beta=0.2)  # type: ignore[arg-type]
    assert (policy_error(agent, TabularMDP.from_env(env)) or 0.0) < 1e-3
    # Episodes that prefer action 0: the optimum is that of the policy they were acted by.
    data = episodes(300)
    first = data.actions[::2] == 0
    kept = first | (torch.arange(300) % 4 == 0)
    chosen = data._rows(kept.repeat_interleave(2))
    cloned = learned(env, chosen, 500, 0, kappa=0.0, beta=0.5, cloning_steps=100)
    reference = cloned.tables(cloned.reference)[0].exp()
    assert float(reference[0, 0]) > 0.5
    optimum = env.unwrapped.soft_optimum(0.5, reference.numpy()).policy
    ended = env.unwrapped.tabular_model().terminal
    assert abs(cloned.tables()[0].exp().numpy() - optimum)[~ended].max() < 2e-3


def test_one_step_where_transitions_are_random() -> None:
    """State 0 leads to 1 or 2 by chance; in the mean over the data's own transitions that is a known MDP."""
    generator = np.random.default_rng(0)
    paths, counts = [], np.zeros((2, 2))
    for _ in range(400):
        first, second = generator.integers(2, size=2)
        state = 1 + int(generator.random() < 0.5 + 0.3 * first)
        counts[first, state - 1] += 1
        paths.append([0, int(first), 0, state, int(second), int([[1, 0], [-1, 2]][state - 1][second]), 4])
    data = chain(paths)
    with pytest.raises(
        ValueError, match=r"transitions are random: action \d .* led to \d and to \d; give form"
    ):
        OREO(SPACES, OREOConfig(), data, device="cpu")
    agent = learned(SPACES, data, 600, 0, form="one_step", kappa=0.0, beta=0.5, batch_size=400,
                    learning_rate=0.03)  # fmt: skip
    table = np.zeros((5, 2, 5))
    table[0, :, 1:3] = counts / counts.sum(-1, keepdims=True)
    table[1:, :, 4] = 1.0
    rewards = [[0, 0], [1, 0], [-1, 2], [0, 0], [0, 0]]
    mdp = TabularMDP.from_arrays(table, rewards, [1, 0, 0, 0, 0], [False, False, False, True, True])
    values, log_policy = soft_value_iteration(
        mdp.successors[0], mdp.probabilities[0], mdp.linear_rewards(mdp.weights)[0], mdp.terminal[0],
        torch.full((5, 2), 0.5, dtype=torch.float64).log(), 0.5,
    )  # fmt: skip
    assert (agent.tables()[1] - values)[:3].abs().max() < 0.01
    assert (agent.tables()[0].exp() - log_policy.exp())[:3].abs().max() < 0.01


def test_networks_learn_boxes_and_states() -> None:
    env = task()
    agent = learned(env, episodes(100), 400, 0, policy="network", hidden=(32,), beta=0.2, kappa=0.0,
                    learning_rate=3e-3)  # fmt: skip
    optimum = env.unwrapped.soft_optimum(0.2).policy
    ended = env.unwrapped.tabular_model().terminal
    assert abs(agent.tables()[0].exp().numpy() - optimum)[~ended].max() < 0.05
    poles = gym.make_vec("prefrl/CartPole-v0", 100)
    data = collect_episodes(None, poles, seed=0)
    # Episodes of random actions are of 22 steps on average.
    balancing = learned(poles, data, 100, 0, hidden=(64,), beta=1.0, learning_rate=3e-3)
    assert evaluate_rows(balancing, poles, seed=0)["mean_return"] > 60.0
    with pytest.raises(ValueError, match="there are tables of Discrete ones only"):
        balancing.tables()


def test_whole_episodes_are_those_of_the_data() -> None:
    found = whole_episodes(chain([[0, 1, 2, 1, 0, -1, 2], [0, 0, 1, 3]], cut=1), gym.spaces.Discrete(2))
    assert found.obs.tolist() == [[0, 1, 2], [0, 3, 3]]
    assert found.actions.tolist() == [[1, 0], [0, 0]]
    assert found.rewards.tolist() == [[2.0, -1.0], [1.0, 0.0]]
    assert found.mask.tolist() == [[True, True], [True, False]]
    assert found.cut.tolist() == [False, True]


def test_beams() -> None:
    env = task(depth=3)
    data = episodes(15, depth=3)
    agent = learned(env, data, 5, 0)
    start, best = env.unwrapped.tabular_model().start, env.unwrapped.optimal_value()
    returns = []
    for beam in (1, 3, 9):
        searching = OREO(env, OREOConfig(beam=beam), device="cpu")
        searching.load_state_dict(agent.state_dict())
        chosen = searching.act(torch.arange(len(start)), deterministic=True)
        returns.append(start @ env.unwrapped.true_value(np.eye(3)[chosen.numpy()]))
    assert returns[0] < returns[2] == pytest.approx(float(start @ best))
    assert torch.equal(
        searching.plan(torch.tensor([0]))[0][0, :1], searching.act(torch.tensor([0]), deterministic=True)
    )
    with pytest.raises(ValueError, match=r"beam is 2; it must be 1 in an environment whose transitions"):
        OREO(
            gym.make("prefrl/RandomGrid-v0", layout_seed=1, stochastic=True), OREOConfig(beam=2), device="cpu"
        )
    with pytest.raises(ValueError, match=r"beam is 1, and no model is known"):
        agent.plan(torch.tensor([0]))
    with pytest.raises(ValueError, match=r"beam is 2; it must be 1 with the form 'response'"):
        OREOConfig(beam=2, form="response")


def test_files_and_continuations(tmp_path: Path) -> None:
    env, data = task(), episodes(50)
    config = OREOConfig(batch_size=8, cloning_steps=5)
    for steps in (3, 20):  # in the midst of cloning, and after
        agent = OREO(env, config, data, device="cpu", seed=2)
        for _ in range(steps):
            agent.update()
        agent.act(torch.zeros(4, dtype=torch.int64))
        agent.save(tmp_path / "agent.pt")
        again: Any = load(tmp_path / "agent.pt", device="cpu")
        with pytest.raises(ValueError, match="was given no dataset"):
            again.update()
        other = OREO(env, config, data, device="cpu", seed=2)
        other.num_timesteps = agent.num_timesteps
        other.load_state_dict(again.state_dict())
        for one in (agent, other):
            for _ in range(10):
                one.update()
        seen = torch.arange(10)
        assert torch.equal(agent.act(seen), other.act(seen))
        for found, expected in zip(other.tables(), agent.tables(), strict=True):
            assert torch.equal(found, expected)


def test_refusals() -> None:
    env, data = task(), episodes(5)
    with pytest.raises(ValueError, match="a dataset from another environment"):
        OREO(task(depth=3), None, data, device="cpu")
    with pytest.raises(TypeError, match="dataset is a list; it must be a TransitionDataset"):
        OREO(env, None, [data], device="cpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="OREO takes Discrete actions"):
        OREO(gym.make("Pendulum-v1"), device="cpu")
    with pytest.raises(ValueError, match=r"observation_space is .*; a table of logits"):
        OREO(gym.make("prefrl/CartPole-v0"), OREOConfig(policy="table"), device="cpu")
    groups = exact_groups(env)
    beyond = groups.segments.actions.clone()
    beyond[3, 0] = 7
    segments = replace(groups.segments, actions=beyond)
    with pytest.raises(ValueError, match=r"actions of the segments are torch.int64 from 0 to 7; those of"):
        OREO(env, None, ScoredSegments(segments, groups.groups, groups.scores), device="cpu")
    wide = Segments(groups.segments.obs[..., None], groups.segments.actions, groups.segments.lengths,
                    groups.segments.terminated)  # fmt: skip
    with pytest.raises(ValueError, match=r"obs of the segments have shape \(1,\); those of"):
        OREO(env, None, ScoredSegments(wide, groups.groups, groups.scores), device="cpu")


def test_runs(tmp_path: Path) -> None:
    flags = ["--env.depth", "2", "--env.layout-seed", "4", "--num-episodes", "200", "--beta", "0.2",
             "--kappa", "0", "--total-timesteps", "200", "--quiet"]  # fmt: skip
    assert main(["train", "oreo", *flags, "--out", str(tmp_path / "tree")]) == 0
    result = json.loads((tmp_path / "tree" / "result.json").read_text())
    assert {"final_return", "optimal_value", "policy_error", "seconds"} <= set(result)
    assert result["policy_error"] < 0.01
    assert "success_rate" not in result
    save_transitions(tmp_path / "data.npz", episodes(200))
    given = ["--dataset", str(tmp_path / "data.npz"), "--out", str(tmp_path / "file")]
    assert main(["train", "oreo", *flags, *given]) == 0
    assert json.loads((tmp_path / "file" / "result.json").read_text())["policy_error"] < 0.01
    board = ["--env-id", "prefrl/Delivery-v0", "--env.max-episode-steps", "20", "--num-episodes", "200",
             "--form", "one_step", "--beta", "1", "--kappa", "0",
             "--total-timesteps", "30", "--quiet"]  # fmt: skip
    assert main(["train", "oreo", *board, "--out", str(tmp_path / "board")]) == 0
    result = json.loads((tmp_path / "board" / "result.json").read_text())
    assert 0.0 <= result["success_rate"] <= 1.0
    assert result["policy_error"] > 0.1
    assert main(["train", "oreo", "--cloning-steps", "400", *flags, "--out", str(tmp_path / "no")]) == 2
