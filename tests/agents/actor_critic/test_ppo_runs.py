"""Runs of PPO: going on after a crash in mid-rollout, what the outcome says, curves of learners."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from resuming import assert_same, crash_at, new_folder

import prefrl
from prefrl import cli
from prefrl.agents import PPO, PPOConfig
from prefrl.agents.actor_critic.policy_value import TorsoLearners
from prefrl.config import from_json, to_json
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.curves import read_curve, read_curves
from prefrl.run.evaluate import Evaluation
from prefrl.run.folder import RunFolder
from prefrl.run.logger import STEP, read_progress
from prefrl.run.loop import Loop
from prefrl.run.plot import default_column
from prefrl.run.recipes.actor_critic.ppo import TrainPPO

SMALL: dict[str, Any] = {"hidden": (8,), "n_steps": 7, "batch_size": 10, "n_epochs": 2}
CART_POLE, PENDULUM, GRID = "prefrl/CartPole-v0", "prefrl/Pendulum-v0", "prefrl/RandomGrid-v0"
LIMIT: dict[str, Any] = {"max_episode_steps": 9}


def device(env_id: str, mode: str = "SameStep", learners: int = 1, **settings: Any) -> PPO:
    streams = learners if learners > 1 else None
    env = prefrl.make_device(
        env_id, 4 * learners, device="cpu", autoreset_mode=mode, num_streams=streams, **LIMIT
    )
    return made(env, learners, settings)


def vector(env_id: str, mode: str = "SameStep", learners: int = 1, **settings: Any) -> PPO:
    streams = learners if learners > 1 else None
    env = gym.make_vec(env_id, 4 * learners, autoreset_mode=mode, num_streams=streams, **LIMIT)
    return made(env, learners, settings)


def scalar(env_id: str, mode: str = "", learners: int = 1, **settings: Any) -> PPO:
    return made(gym.make(env_id, **LIMIT), learners, settings)


def made(env: Any, learners: int, settings: dict[str, Any]) -> PPO:
    config = PPOConfig(**{**SMALL, **settings})
    return PPO(env, config, num_learners=learners, device="cpu", seed=1)


NORMALIZED = {"normalize_observations": True, "schedule": "linear", "schedule_timesteps": 400}
CASES: list[tuple[Callable[..., PPO], tuple[Any, ...], dict[str, Any]]] = [
    (device, (CART_POLE,), NORMALIZED),
    (device, (PENDULUM, "NextStep"), {"clip_range_vf": 0.2, "normalize_rewards": False}),
    (device, (GRID, "Disabled"), {"target_kl": 0.01}),
    (device, (CART_POLE, "SameStep", 3), {**NORMALIZED, "learning_rate": (1e-2, 1e-3, 1e-4)}),
    (device, (GRID, "NextStep", 2), {}),
    (vector, (PENDULUM,), NORMALIZED),
    (vector, (GRID, "Disabled", 2), {"target_kl": 0.01}),
    (vector, (CART_POLE, "NextStep", 3), NORMALIZED),
    (scalar, (CART_POLE,), NORMALIZED),
    (scalar, (GRID,), {}),
]


def evaluation(agent: PPO) -> Evaluation:
    env_id = getattr(agent.env, "spec", None)
    rows = 2 * agent.num_learners
    place = {"num_streams": agent.num_learners} if agent.num_learners > 1 else {}
    name = (
        env_id.id if env_id is not None else {4: CART_POLE, 3: PENDULUM}.get(agent.layout.vector_size, GRID)
    )
    return Evaluation(gym.make_vec(name, rows, **LIMIT, **place), every=70, seed=4)


@pytest.mark.parametrize(("make", "place", "settings"), CASES)
@pytest.mark.parametrize("crash", [90, 200])
def test_resumed_equals_uninterrupted(
    make: Callable[..., PPO], place: tuple[Any, ...], settings: dict[str, Any], crash: int, tmp_path: Path
) -> None:
    """From checkpoints in mid-rollout, and in the midst of noise that was drawn ahead."""
    run: dict[str, Any] = {"total_timesteps": 240, "log_every": 30, "checkpoint_every": 32}
    whole_folder, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "crashed")
    whole = make(*place, **settings)
    Loop(whole, **run, folder=whole_folder, evaluation=evaluation(whole)).run()
    crashed = make(*place, **settings)
    with pytest.raises(RuntimeError, match="crash"):
        Loop(crashed, **run, folder=folder, callback=crash_at(crash), evaluation=evaluation(crashed)).run()
    state = load_checkpoint(folder.checkpoint_path)
    assert len(state["agent"]["rollout"]["held"]["rewards"]) > 0
    agent = make(*place, **settings)
    Loop(agent, **run, folder=folder, resume=True, evaluation=evaluation(agent)).run()
    ours, theirs = (load_checkpoint(each.checkpoint_path) for each in (folder, whole_folder))
    for key in ("agent", "stepper", "metrics", "num_timesteps", "evaluations"):
        assert_same(ours[key], theirs[key])
    rows = [read_progress(each.progress_path) for each in (folder, whole_folder)]
    assert_same(
        *[[{k: v for k, v in row.items() if not k.startswith("time/")} for row in each] for each in rows]
    )
    assert float(agent.descent.optimizer.states[0]["step"].max()) > 10


def test_a_state_replaces_whatever_was_under_way() -> None:
    """Also that of an agent which has not begun."""
    fresh, used = device(CART_POLE), device(CART_POLE)
    state = {**fresh.state_dict()}
    state = {name: value if value is None else _copied(value) for name, value in state.items()}
    used.learn(50)
    used.load_state_dict(state)
    for agent in (fresh, used):
        agent.num_timesteps = 0
        agent.learn(100)
    assert_same(used.state_dict(), fresh.state_dict())


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _copied(part) for name, part in tree.items()}
    return tree.clone() if isinstance(tree, torch.Tensor) else tree


def test_a_run_in_an_environment_that_cannot_be_restored_goes_on(tmp_path: Path) -> None:
    """With new episodes: the rollout under way is cut, and goes on."""
    make = lambda: made(gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync"), 1, {"n_steps": 16})  # noqa: E731
    run: dict[str, Any] = {"total_timesteps": 120, "checkpoint_every": 20}
    folder = new_folder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="crash"):
        Loop(make(), **run, folder=folder, callback=crash_at(50)).run()
    agent = make()
    loop = Loop(agent, **run, folder=folder, resume=True)
    assert agent.rollout is not None
    assert agent.rollout.storage["truncations"][agent.rollout.size - 1].all()
    loop.run()
    assert agent.num_timesteps == 120


# The recipe ----------------------------------------------------------------------------------------------

RUN = ("--n-steps", "8", "--batch-size", "16", "--hidden", "8", "--num-envs", "2", "--eval-episodes", "2",
       "--total-timesteps", "96", "--eval-every", "32", "--quiet", "--device", "cpu")  # fmt: skip


def result_of(folder: Path, *flags: str) -> dict[str, Any]:
    assert cli.main(["train", "ppo", *RUN, *flags, "--out", str(folder)]) == 0
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.parametrize("env_id", ["CartPole-v1", CART_POLE, "Pendulum-v1"])
def test_the_outcome_of_one_learner(env_id: str, tmp_path: Path) -> None:
    result = result_of(tmp_path / "run", "--env-id", env_id)
    assert set(result) == {"final_return", "eval_returns", "eval_timesteps", "steps_per_second", "seconds",
                           "num_timesteps"}  # fmt: skip
    assert result["eval_timesteps"] == [32, 64, 96]
    assert len(result["eval_returns"]) == 3
    assert result["steps_per_second"] >= 96 / result["seconds"]
    agent = prefrl.load(tmp_path / "run" / "agent.pt", device="cpu")
    assert (agent.num_learners, agent.num_timesteps) == (1, 96)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--episodes", "2"]) == 0
    assert "learners" not in json.loads((tmp_path / "run" / "evaluation.json").read_text())


@pytest.mark.parametrize("env_id", ["CartPole-v1", CART_POLE])
def test_the_outcome_of_three_learners(env_id: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = result_of(
        run, "--env-id", env_id, "--num-learners", "3", "--seed", "7", "--gamma", "0.9", "0.99", "1"
    )
    assert set(result) == {"final_return", "interquartile_mean", "interval", "eval_returns", "eval_timesteps",
                           "steps_per_second", "seconds", "num_timesteps", "learners",
                           "frozen_learners"}  # fmt: skip
    assert [each["seed"] for each in result["learners"]] == [7, 8, 9]
    for each in result["learners"]:
        assert set(each) == {"seed", "final_return", "eval_returns", "eval_timesteps", "steps_per_second"}
        assert each["eval_timesteps"] == result["eval_timesteps"] == [32, 64, 96]
        assert each["steps_per_second"] == pytest.approx(result["steps_per_second"] / 3)
        assert len(each["eval_returns"]) == 3
    finals = sorted(each["final_return"] for each in result["learners"])
    assert result["final_return"] == result["interquartile_mean"] == pytest.approx(np.mean(finals), rel=0.5)
    low, high = result["interval"]
    assert finals[0] <= low <= result["final_return"] <= high <= finals[-1]
    assert (result["num_timesteps"], result["frozen_learners"]) == (96, [])  # each takes them

    curves = read_curves(run, STEP, "eval/mean_reward")
    assert len(curves) == 3
    for learner, (x, y) in enumerate(curves):
        assert x.tolist() == result["eval_timesteps"]
        assert y.tolist() == pytest.approx(result["learners"][learner]["eval_returns"], rel=1e-3)
    assert default_column([run]) == "eval/mean_reward"
    assert len(read_curves(run, STEP, "rollout/ep_rew_mean")) == 1
    _, means = read_curve(run, STEP, "eval/interquartile_mean")
    assert means.tolist() == pytest.approx(result["eval_returns"], rel=1e-3)
    assert len(read_curve(run, STEP, "eval/interval_low")[0]) == 3

    assert cli.main(["evaluate", str(run), "--episodes", "2"]) == 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert len(evaluation["learners"]) == 3
    assert evaluation["episodes"] == 6


@pytest.mark.parametrize("learners", [1, 2])
def test_a_run_of_pictures(learners: int, tmp_path: Path) -> None:
    """MinAtar's, by its own small network."""
    flags = ("--env-id", "prefrl/MinAtar-Breakout-v0", "--num-learners", str(learners), "--conv-filters", "3",
             "--conv-features", "5", "--env-args", "sticky_action_prob=0.25")  # fmt: skip
    result_of(tmp_path / "run", *flags)
    agent = prefrl.load(tmp_path / "run" / "agent.pt", device="cpu")
    assert isinstance(agent, PPO)
    assert isinstance(agent.network, TorsoLearners)
    assert agent.num_learners == learners
    torso = agent.network.modules[0].torsos[0].torso
    assert (torso.conv.out_channels, torso.features) == (3, 5)


def test_a_stacked_run_is_drawn_as_its_learners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn: list[Any] = []
    result_of(tmp_path / "run", "--env-id", CART_POLE, "--num-learners", "3")
    with pytest.MonkeyPatch.context() as patch:
        from prefrl.run import plot

        inner = plot.plot_curves
        patch.setattr(
            plot, "plot_curves", lambda curves, **more: drawn.append(curves) or inner(curves, **more)
        )
        assert cli.main(["plot", str(tmp_path / "run"), "--out", str(tmp_path / "curves.png")]) == 0
    (curves,) = drawn
    assert [len(group) for group in curves.values()] == [3]
    assert (tmp_path / "curves.png").stat().st_size > 1_000


@pytest.mark.parametrize("learners", [1, 3])
def test_a_run_that_was_killed_comes_out_the_same(learners: int, tmp_path: Path) -> None:
    """Through config.json, its recipe and the checkpoint."""
    recipe = TrainPPO(env_id=CART_POLE, num_envs=2, num_learners=learners, total_timesteps=96, eval_every=32,
                      eval_episodes=2, checkpoint_every=16, device="cpu",
                      agent=PPOConfig(hidden=(8,), n_steps=5, batch_size=7, schedule="linear"))  # fmt: skip
    assert from_json(TrainPPO, json.loads(json.dumps(to_json(recipe)))) == recipe
    folders = [RunFolder.create(tmp_path / name, {"recipe": "ppo", "config": to_json(recipe)}, quiet=True)
               for name in ("whole", "cut")]  # fmt: skip
    whole = recipe.run(folders[0], resume=False, progress_bar=False)
    part = TrainPPO(**{**vars(recipe), "total_timesteps": 96})
    env = part.training_env()
    agent = part.make_agent(env)
    with pytest.raises(RuntimeError, match="crash"):
        Loop(agent, 96, folder=folders[1], callback=crash_at(50), log_every=1, checkpoint_every=16,
             evaluation=part.evaluations()).run()  # fmt: skip
    assert cli.main(["resume", str(tmp_path / "cut"), "--quiet"]) == 0
    again = json.loads((tmp_path / "cut" / "result.json").read_text())
    for name in ("final_return", "eval_returns", "eval_timesteps", "num_timesteps"):
        assert again[name] == whole[name]
    states = [prefrl.load(each.path / "agent.pt", device="cpu").state_dict() for each in folders]
    assert_same(*states)


@pytest.mark.parametrize(("flags", "message"), [
    (("--num-learners", "2", "--gamma", "0.9", "0.8", "0.7"), "gamma is for 3 learners; num_learners is 2"),
    (("--gamma", "0.9", "0.8"), "gamma is for 2 learners; num_learners is 1"),
    (("--num-learners", "0"), "num_learners is 0"),
    (("--env-id", "MountainCar-v0", "--activation", "silu"), "activation"),
])  # fmt: skip
def test_wrong_flags_leave_no_folder(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    try:
        status = cli.main(["train", "ppo", *RUN, *flags, "--out", str(out)])
    except SystemExit as stop:
        status = int(stop.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_host_environments_restart_in_the_step_that_ended_them() -> None:
    env = TrainPPO(env_id="CartPole-v1", num_envs=2, num_learners=2).training_env()
    assert env.num_envs == 4
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    own = TrainPPO(env_id=CART_POLE, num_envs=2, num_learners=2, device="cpu").training_env()
    assert (own.num_envs, own.num_streams) == (4, 2)
    assert TrainPPO(env_id=CART_POLE, num_envs=2, device="cpu").training_env().num_streams is None
