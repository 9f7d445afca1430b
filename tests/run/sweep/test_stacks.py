"""Trials that train side by side: which do, and that each folder holds what a run of its own would leave."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prefrl
from prefrl.config import from_json
from prefrl.run.curves import find_runs, read_curve
from prefrl.run.folder import read_json
from prefrl.run.launch import evaluate_run, train
from prefrl.run.recipes.actor_critic.ppo import TrainPPO
from prefrl.run.sweep.stacks import make_stacks, open_stack
from prefrl.run.sweep.sweep import sweep
from prefrl.run.sweep.trials import Trial, make_trials, open_sweep
from prefrl.run.sweep.worker import work

SMALL = {
    "env_id": ["prefrl/CartPole-v0"], "total_timesteps": ["64"], "num_envs": ["4"], "eval_episodes": ["2"],
    "n_steps": ["8"], "batch_size": ["16"], "hidden": ["8"], "device": ["cpu"],
}  # fmt: skip


def names(trials: tuple[Trial, ...]) -> list[tuple[int, Any]]:
    return [(trial.seed, trial.settings.get("agent.learning_rate")) for trial in trials]


def test_what_learners_may_have_for_themselves_is_stacked() -> None:
    settings = {"learning_rate": ["0.01", "0.001"], "n_epochs": ["1", "2"]}
    stacks = make_stacks("ppo", make_trials("ppo", [4, 2], {**SMALL, **settings}))
    assert [names(stack.trials) for stack in stacks] == [[(4, 0.01), (2, 0.01), (4, 0.001), (2, 0.001)]] * 2
    for epochs, stack in enumerate(stacks, start=1):
        config, agent = stack.config, stack.config["agent"]
        assert (config["num_learners"], config["seeds"], agent["n_epochs"]) == (4, [4, 2, 4, 2], epochs)
        assert (agent["learning_rate"], agent["gamma"]) == ([0.01, 0.01, 0.001, 0.001], 0.99)
    assert stacks[0].name != stacks[1].name


def test_what_cannot_be_stacked_stays_by_itself() -> None:
    assert make_stacks("ppo", make_trials("ppo", [0], SMALL)) == []
    settings = {"loss": ["huber"], "compile": ["True", "False"]}
    (stack,) = make_stacks("dqn", make_trials("dqn", [0, 1], settings))
    assert stack.config["agent"]["compile"] is False
    refusals = {
        "q_learning": "runs cannot be stacked",
        "preference_optimization": "trials each learn from data",
    }
    for recipe, why in refusals.items():
        with pytest.raises(ValueError, match=f"recipe is '{recipe}', whose {why}"):
            make_stacks(recipe, make_trials(recipe, [0, 1], {}))


def test_each_trial_gets_what_a_run_of_its_own_leaves(tmp_path: Path) -> None:
    settings = {**SMALL, "learning_rate": ["0.01", "0.001"]}
    result, failed = sweep("ppo", tmp_path / "sweep", seeds=[3, 1], settings=settings, stack=True, jobs=1)
    assert not failed
    assert read_json(result)["failed"] == {}
    runs = find_runs([tmp_path / "sweep"])
    assert len(runs) == 4  # the stack's own folder is gone
    assert not list((tmp_path / "sweep").glob(".*"))
    recipe = from_json(TrainPPO, make_stacks("ppo", make_trials("ppo", [3, 1], settings))[0].config)
    train("ppo", recipe, tmp_path / "whole", quiet=True)
    whole = prefrl.load(tmp_path / "whole" / "agent.pt", device="cpu").alone()
    for run in runs:
        found, config = read_json(run / "result.json"), read_json(run / "config.json")["config"]
        learner = [(0.01, 3), (0.01, 1), (0.001, 3), (0.001, 1)].index(
            (config["agent"]["learning_rate"], config["seed"])
        )
        agent = prefrl.PPO.load(run / "agent.pt", device="cpu")
        assert (agent.seed, agent.config.learning_rate) == (config["seed"], config["agent"]["learning_rate"])
        assert torch.equal(agent.network.vectors, whole[learner].network.vectors)  # type: ignore[attr-defined]
        assert (found["seed"], found["num_timesteps"], found["learners_side_by_side"]) == (agent.seed, 64, 4)
        x, y = read_curve(run, "time/total_timesteps", "eval/mean_reward")
        np.testing.assert_allclose(y, found["eval_returns"])
        assert len(x) == len(found["eval_timesteps"]) > 2
        assert read_json(evaluate_run(run, episodes=2))["episodes"] == 2
    again, failed = sweep("ppo", tmp_path / "sweep", seeds=[3, 1], settings=settings, stack=True, jobs=1)
    assert (again, failed) == (result, {})


def test_a_learner_that_diverges_fails_alone_and_nothing_is_trained_again(tmp_path: Path) -> None:
    settings = {**SMALL, "learning_rate": ["0.001", "1e30"]}
    trials = make_trials("ppo", [0, 1], settings)
    arguments: dict[str, Any] = {"seeds": [0, 1], "settings": settings, "stack": True, "jobs": 1}
    for _ in range(2):
        _, failed = sweep("ppo", tmp_path, **arguments)
        assert sorted(failed) == sorted(
            trial.name for trial in trials if trial.settings["agent.learning_rate"] > 1
        )
        assert all("diverged" in problem for problem in failed.values())
    (stack,) = tmp_path.glob(".stack-*")
    assert (stack / "trial.log").read_text().count("is finished") == 1
    assert len(list(tmp_path.glob("*/result.json"))) == 3  # two trials, and the stack


def test_a_stack_that_was_killed_while_it_was_unpacked_goes_on(tmp_path: Path) -> None:
    trials = make_trials("ppo", [0, 1], SMALL)
    open_sweep(tmp_path, "ppo", trials)
    (stack,) = make_stacks("ppo", trials)
    place = open_stack(tmp_path, "ppo", stack)
    first = tmp_path / trials[0].name / "result.json"
    first.write_text('{"final_return": -1.0}')  # as far as it had come
    (place / "stack.json").unlink()  # or was killed while it was made
    assert open_stack(tmp_path, "ppo", stack) == place
    work(place)
    assert read_json(first) == {"final_return": -1.0}
    assert read_json(tmp_path / trials[1].name / "result.json")["seed"] == 1
    assert not place.exists()


@pytest.mark.slow
def test_trials_left_of_a_stack_run_by_themselves(tmp_path: Path) -> None:
    """As where they were begun without --stack, or one of them was removed."""
    arguments: dict[str, Any] = {"settings": SMALL, "jobs": 1}
    sweep("ppo", tmp_path, seeds=[0], **arguments)
    _, failed = sweep("ppo", tmp_path, seeds=[0, 1], stack=True, **arguments)
    assert not failed
    results = [read_json(path) for path in tmp_path.glob("*,seed=*/result.json")]
    assert len(results) == 2
    assert all("learners_side_by_side" not in found for found in results)


def test_seeds_are_those_of_the_trials() -> None:
    env = prefrl.make_device("prefrl/CartPole-v0", 6, num_streams=3)
    stack = prefrl.PPO(env, num_learners=3, seed=[7, 2, 7], device="cpu")
    assert [agent.seed for agent in stack.alone()] == stack.seeds == [7, 2, 7]
    weights = stack.network.vectors
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    with pytest.raises(ValueError, match="seed has 2 numbers; it must be one, or one for each of 3"):
        prefrl.PPO(env, num_learners=3, seed=[7, 2], device="cpu")
    with pytest.raises(ValueError, match="seed is -1; it must"):
        prefrl.PPO(env, num_learners=3, seed=[7, -1, 2], device="cpu")
    with pytest.raises(ValueError, match="seeds has 2 numbers; it must have one for each of several"):
        TrainPPO(num_learners=3, seeds=(1, 2))
