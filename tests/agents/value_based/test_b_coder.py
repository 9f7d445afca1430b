"""B-Coder: its stages against plain twins, a small task solved exactly, candidates, files, runs, refusals."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import prefrl
import prefrl.envs
from prefrl import BCoder, BCoderConfig, TransitionDataset
from prefrl.agents.base import Spaces
from prefrl.agents.value_based.b_coder import expert_rows
from prefrl.cli import main
from prefrl.data import Segments, save_transitions
from prefrl.nn.likelihood_policies import DiscretePolicy
from prefrl.run.collect import collect_programs, collect_transitions
from prefrl.run.outcomes import programs
from prefrl.run.outcomes.programs import (
    policy_table,
    program_outcome,
    program_segments,
    reranked,
    success_rates,
)

ID = "prefrl/ProgramSynthesis-v0"
SMALL: dict[str, Any] = {"hidden": (16,), "batch_size": 32, "cloning_steps": 4, "value_steps": 3}


@cache
def task(**settings: Any) -> gym.Env[Any, Any]:
    return gym.make(ID, **{"depth": 3, "prompts": 2, **settings})


@cache
def data(count: int = 400, **settings: Any) -> TransitionDataset:
    return collect_programs(task(**settings), count, seed=0)


def agent(seed: int = 0, dataset: Any = None, pretrained: Any = None, **settings: Any) -> BCoder:
    config = BCoderConfig(**{**SMALL, **settings})
    return BCoder(task(), config, dataset=dataset or data(), pretrained=pretrained, seed=seed, device="cpu")


def updated(learner: BCoder, steps: int) -> BCoder:
    for _ in range(steps):
        learner.update()
    return learner


def parameters(module: torch.nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in module.state_dict().values()]).clone()


# Stages ---------------------------------------------------------------------------------------------------


def test_each_stage_changes_its_own_networks_alone() -> None:
    learner = agent()
    parts = {"policy": learner.network.policy, "residual": learner.network.residual,
             "value": learner.value, "q": learner.pretrained}  # fmt: skip
    before = {name: parameters(part) for name, part in parts.items()}

    def moved() -> set[str]:
        now = {name: parameters(part) for name, part in parts.items()}
        found = {name for name in parts if not torch.equal(now[name], before[name])}
        before.update(now)
        return found

    stages = []
    for _ in range(9):
        learner.update()
        stages.append((learner.stage, moved()))
    assert stages[:3] == [(0, {"policy"})] * 3
    assert stages[3] == (0, {"policy", "q"})  # what was cloned is frozen
    assert stages[4:7] == [(1, {"value"})] * 3
    assert stages[7:] == [(2, {"policy", "residual"})] * 2


def test_the_first_stage_keeps_every_greedy_action() -> None:
    """Greedy actions of Q are those of the cloned policy, in all states, and softmax(Q / alpha) is it."""
    learner = updated(agent(cloning_steps=40, alpha=0.3), 43)
    assert learner.stage == 1
    known: Any = task().unwrapped
    obs = torch.as_tensor(known.observations(np.arange(800)))
    q, logits = learner.q_values(obs), learner.pretrained.logits(obs[None])[0].detach()
    assert bool((q.argmax(-1) == logits.argmax(-1)).all())
    assert bool((learner.act(obs, deterministic=True) == logits.argmax(-1)).all())
    torch.testing.assert_close(torch.softmax(q / 0.3, -1), torch.softmax(logits, -1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("operator", ["conservative", "optimal"])
@pytest.mark.parametrize("max_value", [None, 0.05])
def test_losses_are_those_of_plain_python(operator: Any, max_value: float | None) -> None:
    config: dict[str, Any] = {"operator": operator, "max_value": max_value, "gamma": 0.9, "alpha": 0.2}
    learner = updated(agent(beta_adv=0.7, beta_ce=0.3, **config), 10)
    assert learner._replay is not None
    batch = learner._replay.sample(32, torch.Generator().manual_seed(3))
    with torch.no_grad():
        loss, metrics = learner._loss(learner.network, batch)
        value_loss, _ = learner._value_loss(learner.value, batch)
        q, next_q = (net.q_values(value, obs)[0].tolist() for net, value, obs in (
            (learner.network, learner.value, batch.obs),
            (learner.target, learner.target_value, batch.next_obs)))  # fmt: skip
        frozen = learner.pretrained.logits(batch.next_obs[None])[0].argmax(-1).tolist()
        logits = learner.network.policy.logits(batch.obs[None])[0]
        log_probs = torch.log_softmax(logits, -1).tolist()
    squares, adv, cross, experts = 0.0, 0.0, 0.0, 0
    for i, action in enumerate(batch.actions.tolist()):
        after = next_q[i][frozen[i]] if operator == "conservative" else max(next_q[i])
        after = after if max_value is None else min(after, max_value)
        target = float(batch.returns[i]) + float(batch.discounts[i]) * after
        squares += (target - q[i][action]) ** 2 / 64.0
        if batch.extras["expert"][i] > 0:
            experts += 1
            adv += 0.2 * float(logits[i].max() - logits[i, action])
            cross -= log_probs[i][action]
    assert 0 < experts < 32
    assert float(metrics["train/q_loss"]) == pytest.approx(squares, rel=1e-4)
    assert float(loss) == pytest.approx(squares + (0.7 * adv + 0.3 * cross) / experts, rel=1e-4)
    assert float(value_loss) == pytest.approx(squares, rel=1e-4)


def test_values_are_those_of_following_the_frozen_policy() -> None:
    """Stage 1 and 2 on all pairs of a small tree: Q is r + gamma Q(s', argmax q), solved by recursion."""
    env = gym.make("prefrl/TokenTree-v0", vocabulary=2, depth=2, prompts=1, layout_seed=4)
    known: Any = env.unwrapped
    model = known.tabular_model()
    inner = np.flatnonzero(~model.terminal)
    states, actions = (grid.ravel() for grid in np.meshgrid(inner, np.arange(2), indexing="ij"))
    following = model.successors[states, actions, 0]
    order = np.arange(len(states))  # every pair is a row of its own
    rows = TransitionDataset.from_transitions(
        torch.as_tensor(states), torch.as_tensor(actions),
        torch.as_tensor(model.rewards[states, actions, 0]).to(torch.float32), torch.as_tensor(following),
        torch.as_tensor(model.terminal[following]), torch.zeros(len(order), dtype=torch.bool),
        observation_space=env.observation_space, action_space=env.action_space,
        ends=torch.ones(len(order), dtype=torch.bool),
    )  # fmt: skip
    config = BCoderConfig(
        hidden=(32,), learning_rate=3e-3, batch_size=32, cloning_steps=5, value_steps=300, gamma=0.9,
        beta_adv=0.0, beta_ce=0.0, max_value=None, tau=0.05, alpha=1.0,
    )  # fmt: skip
    learner = updated(BCoder(env, config, dataset=rows, device="cpu"), 2_500)
    frozen = learner.pretrained.logits(torch.arange(7)[None])[0].argmax(-1).numpy()

    def exact(state: int, action: int) -> float:
        after = int(model.successors[state, action, 0])
        gain = 0.0 if model.terminal[after] else 0.9 * exact(after, int(frozen[after]))
        return float(model.rewards[state, action, 0]) + gain

    expected = [[exact(int(state), action) for action in range(2)] for state in inner]
    found = learner.q_values(torch.as_tensor(inner))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0.0, atol=0.03)
    # And the recovered reward of the exact inverse is the reward.
    pairs = Segments(
        torch.as_tensor(np.stack([states, following], 1)), torch.as_tensor(actions)[:, None],
        torch.ones(len(states), dtype=torch.int64), torch.as_tensor(model.terminal[following]),
    )  # fmt: skip
    torch.testing.assert_close(learner.recovered_returns(pairs, "policy"), rows.rewards, rtol=0.0, atol=0.05)


def test_experts_are_the_best_episodes() -> None:
    rows = data()
    ends = torch.nonzero(~rows.has_next_action)[:, 0].tolist()
    first, expected = 0, []
    for last in ends:
        expected += [float(rows.rewards[first : last + 1].sum()) >= 1.0] * (last + 1 - first)
        first = last + 1
    assert expert_rows(rows, None).tolist() == expected == expert_rows(rows, 1.0).tolist()
    assert 0 < sum(expected) < len(rows)
    assert bool(expert_rows(rows, 0.0).all())
    assert not bool(expert_rows(rows, 1.5).any())


# A policy that is given -----------------------------------------------------------------------------------


def test_a_given_policy_takes_the_place_of_cloning() -> None:
    first = updated(agent(), 4)
    kept = parameters(first.network.policy)
    second = agent(pretrained=first.network.policy, seed=5)
    assert torch.equal(parameters(second.network.policy), kept)
    assert torch.equal(parameters(second.pretrained), kept)
    second.update()
    assert second.stage == 1
    updated(second, 8)
    assert second.stage == 2
    assert torch.equal(parameters(first.network.policy), kept)  # a copy was taken
    assert torch.equal(parameters(second.pretrained), kept)
    assert not torch.equal(parameters(second.network.policy), kept)


# Candidates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("successors", ["value", "policy"])
def test_recovered_returns_are_sums_over_steps(successors: Any) -> None:
    learner, known = updated(agent(gamma=0.8), 20), task().unwrapped
    prompts, nodes = known.draw_programs(30, seed=3)  # type: ignore[attr-defined]
    # Programs of two lengths: 'x end' is shorter.
    nodes[0] = int(np.flatnonzero((known.programs.words == [0, 6, 6]).all(-1) & known.programs.reached)[-1])  # type: ignore[attr-defined]
    candidates = program_segments(known, prompts, nodes)
    assert len(set(candidates.lengths.tolist())) == 2
    expected = []
    for i in range(30):
        total = 0.0
        for t in range(int(candidates.lengths[i])):
            here, after = (learner.q_values(candidates.obs[i, t + k][None])[0] for k in (0, 1))
            place = after.argmax()
            if successors == "policy":
                place = learner.pretrained.logits(candidates.obs[i, t + 1][None, None])[0, 0].argmax()
            last = t + 1 == int(candidates.lengths[i])
            gain = 0.0 if last else 0.8 * float(after[place])
            total += 0.8**t * (float(here[candidates.actions[i, t]]) - gain)
        expected.append(total)
    found = learner.recovered_returns(candidates, successors)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    order = learner.rerank(candidates, successors)
    assert sorted(order.tolist()) == list(range(30))
    assert bool((found[order].diff() <= 0.0).all())


def test_it_learns_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a third of programs correct to nearly all; exact rates are those of episodes."""
    monkeypatch.setattr(programs, "GROUPS", 32)
    learner = agent(hidden=(64,), batch_size=64, cloning_steps=300, value_steps=200, learning_rate=3e-3)
    updated(learner, 1_100)
    known = task().unwrapped
    rates = success_rates(learner, known)
    assert rates["pretrained_sampled_success_rate"] < 0.5
    assert rates["success_rate"] == 1.0
    assert rates["sampled_success_rate"] > rates["pretrained_sampled_success_rate"] + 0.15
    chosen = reranked(learner, known, learner.pretrained, 0)
    assert chosen["rerank_success_rate"] > chosen["random_success_rate"] + 0.15
    assert chosen["any_success_rate"] >= chosen["rerank_success_rate"]
    assert chosen["random_success_rate"] == pytest.approx(rates["pretrained_sampled_success_rate"], abs=0.1)
    obs, _ = (rows := gym.make_vec(ID, 500, depth=3, prompts=2)).reset(seed=0)
    returns, running = np.zeros(500), np.ones(500, bool)
    for _ in range(3):
        actions = learner.act(torch.as_tensor(obs)).numpy()
        obs, rewards, terminations, truncations, _ = rows.step(actions)
        returns += rewards * running
        running &= ~(terminations | truncations)
    assert returns.mean() == pytest.approx(rates["sampled_success_rate"], abs=0.08)
    table = policy_table(learner.network.policy, known, learner.device)
    np.testing.assert_allclose(table.sum(-1), 1.0, atol=1e-9)


def test_what_is_known_exactly_of_a_task_of_numbers() -> None:
    env = task(observation="number")
    config = BCoderConfig(hidden=(16,), batch_size=32, cloning_steps=30, value_steps=5)
    learner = BCoder(env, config, dataset=data(observation="number"), device="cpu").learn(40)
    found = program_outcome(learner, env, 0)
    assert found["optimal_value"] == 1.0
    assert found["policy_error"] == pytest.approx(1.0 - found["success_rate"], abs=1e-9)
    strange = collect_transitions(None, gym.make("prefrl/CartPole-v0"), 64, epsilon=1.0, seed=0)
    other = BCoder(gym.make("prefrl/CartPole-v0"), config, dataset=strange, device="cpu").learn(40)
    assert set(program_outcome(other, gym.make("prefrl/CartPole-v0"), 0)) == set(found)
    assert set(program_outcome(other, gym.make("prefrl/CartPole-v0"), 0).values()) == {None}


# Files, runs and refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [2, 6, 9])
def test_saved_and_loaded_it_goes_on_bit_for_bit(before: int, tmp_path: Path) -> None:
    through = updated(agent(), before)
    through.save(tmp_path / "agent.pt")
    loaded = BCoder.load(tmp_path / "agent.pt", task(), "cpu", dataset=data())
    updated(through, 12 - before)
    updated(loaded, 12 - before)
    for name in ("network", "value", "target", "target_value", "pretrained"):
        ours, theirs = (parameters(getattr(each, name)) for each in (through, loaded))
        assert torch.equal(ours, theirs), name
    obs = data().obs[:9]
    assert torch.equal(through.act(obs), loaded.act(obs))


def test_a_file_knows_that_its_policy_was_given(tmp_path: Path) -> None:
    given = updated(agent(pretrained=updated(agent(), 4).network.policy), 1)
    given.save(tmp_path / "agent.pt")
    loaded: Any = prefrl.load(tmp_path / "agent.pt", device="cpu")
    assert loaded.stage == given.stage == 1
    with pytest.raises(ValueError, match="dataset is None; BCoder learns from a TransitionDataset alone"):
        loaded.update()


FLAGS = ["--env-id", ID, "--env.depth", "3", "--env.prompts", "2", "--num-programs", "200", "--hidden", "16",
         "--batch-size", "32", "--cloning-steps", "8", "--value-steps", "6", "--total-timesteps", "20",
         "--eval-episodes", "2", "--final-episodes", "4", "--quiet"]  # fmt: skip


def test_a_run_writes_what_it_should_and_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GROUPS", 4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", "b_coder", *FLAGS, "--out", str(whole)]) == 0
    result = json.loads((whole / "result.json").read_text())
    keys = {"final_return", "success_rate", "optimal_value", "policy_error", "seconds", "rerank_success_rate",
            "pretrained_success_rate", "random_success_rate", "pretrained_rerank_success_rate"}  # fmt: skip
    assert keys <= set(result)
    assert result["policy_error"] is None
    assert result["num_timesteps"] == 20
    with monkeypatch.context() as patch:
        real, calls = BCoder.update, []

        def stopped(learner: BCoder) -> dict[str, Tensor]:
            calls.append(1)
            if len(calls) > 11:
                raise KeyboardInterrupt
            return real(learner)

        patch.setattr(BCoder, "update", stopped)
        main(["train", "b_coder", *FLAGS, "--out", str(cut)])
    assert not (cut / "result.json").exists()
    assert main(["resume", str(cut), "--quiet"]) == 0
    one, other = (prefrl.load(path / "agent.pt", device="cpu").state_dict() for path in (whole, cut))
    assert torch.equal(one["generator"], other["generator"])
    for name in ("network", "value", "target", "target_value", "pretrained"):
        for key, value in one[name].items():
            assert torch.equal(value, other[name][key]), (name, key)


def test_a_run_from_a_file_in_another_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = gym.make("prefrl/TokenTree-v0", depth=2)
    save_transitions(tmp_path / "data.npz", collect_transitions(None, env, 60, epsilon=1.0, seed=0))
    flags = ["--env-id", "prefrl/TokenTree-v0", "--env.depth", "2", *FLAGS[8:]]
    out = tmp_path / "run"
    given = ["--dataset", str(tmp_path / "data.npz"), "--out", str(out)]
    assert main(["train", "b_coder", *flags, *given]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["success_rate"] is None
    assert result["policy_error"] == pytest.approx(result["optimal_value"] - result["final_return"], abs=1.0)
    assert 0.0 <= result["policy_error"] <= 4.0
    assert main(["train", "b_coder", *flags, "--out", str(tmp_path / "none")]) == 2
    assert "knows nobody who writes programs; give a file of transitions: --dataset FILE" in (
        capsys.readouterr().err
    )


BOX = Spaces(gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Box(-1.0, 1.0, (2,)))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="BCoder takes Discrete actions"):
        BCoder(BOX, BCoderConfig(hidden=(4,)), device="cpu")
    with pytest.raises(ValueError, match="policy is 'squashed'; BCoder takes Discrete actions"):
        BCoderConfig(policy="squashed")
    with pytest.raises(TypeError, match="pretrained is a Linear; it must be a DiscretePolicy"):
        agent(pretrained=torch.nn.Linear(2, 2))
    known = task().unwrapped
    other = DiscretePolicy(1, known.observation_space, known.action_space, (8,))
    with pytest.raises(ValueError, match=r"pretrained has parameters .* hidden \[16\] they are"):
        agent(pretrained=other)
    with pytest.raises(TypeError, match="dataset is a dict; it must be a TransitionDataset"):
        agent(dataset={"obs": 1})
    candidates = program_segments(known, *known.draw_programs(3))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="successors is 'best'; allowed are"):
        agent().rerank(candidates, "best")  # type: ignore[arg-type]
    for name, value in (("alpha", 0.0), ("tau", 0.0), ("beta_ce", -1.0), ("gamma", 1.5), ("operator", "max")):
        with pytest.raises(ValueError, match=name):
            BCoderConfig(**{name: value})


def test_settings_are_not_shared_between_copies() -> None:
    """Two agents of one seed are the same, of two seeds are not."""
    one, same, other = updated(agent(), 9), updated(agent(), 9), updated(agent(seed=1), 9)
    assert torch.equal(parameters(one.network), parameters(same.network))
    assert not torch.equal(parameters(one.network), parameters(other.network))
    assert copy.copy(one.config) == same.config
