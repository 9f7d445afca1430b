"""Evaluations of many episodes at once, and those that the loop takes: what counts, seeds, the log."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import KVWriter, Logger

import prefrl.envs
from prefrl.agents import QLearning
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.evaluate import Evaluation, evaluate, evaluate_rows
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop, learn

ENV = "prefrl/Delivery-v0"
REWARDS = [[1.0, 2.0, 4.0], [10.0], [-1.0, -1.0, -1.0, -1.0, 0.5]]
"""Of the first episode of each row; later ones pay 1000 a step."""


class Script(gym.vector.VectorEnv[Any, Any, Any]):
    """Pays what is written above, whatever the actions; keeps the actions, and its seeds."""

    num_envs = 3
    single_observation_space, single_action_space = gym.spaces.Discrete(9), gym.spaces.Discrete(4)

    def __init__(self, mode: AutoresetMode, cut: bool) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.cut = cut
        self.seeds: list[Any] = []
        self.actions: list[list[int]] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        self.steps = 0
        return np.array([0, 1, 2]), {}

    def step(self, actions: Any) -> Any:
        self.actions.append(actions.tolist())
        rewards = np.array([r[self.steps] if self.steps < len(r) else 1000.0 for r in REWARDS])
        # Later episodes end after every step, which must not count either.
        ended = np.array([self.steps + 1 >= len(r) for r in REWARDS])
        self.steps += 1
        no = np.zeros(3, dtype=bool)
        obs = np.array([0, 1, 2]) + self.steps
        return obs, rewards, no if self.cut else ended, ended if self.cut else no, {}


def known_agent() -> QLearning:
    """Takes action ``obs % 4``, and else noise."""
    agent = QLearning(gym.make("FrozenLake-v1"), device="cpu")
    agent.q[torch.arange(16), torch.arange(16) % 4] = 1.0
    return agent


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("cut", [False, True])
def test_the_first_episode_of_every_row_counts(mode: AutoresetMode, cut: bool) -> None:
    env = Script(mode, cut)
    found = evaluate_rows(known_agent(), env, seed=5)
    returns, lengths = [7.0, 10.0, -3.5], [3, 1, 5]
    assert found == {
        "mean_return": pytest.approx(np.mean(returns)),
        "std_return": pytest.approx(np.std(returns)),
        "mean_length": pytest.approx(np.mean(lengths)),
        "episodes": 3,
    }
    assert env.seeds == [5]
    assert env.actions == [[(row + time) % 4 for row in range(3)] for time in range(5)]  # greedy ones


def trained() -> QLearning:
    agent = QLearning(prefrl.envs.make_device(ENV, 64, device="cpu"), device="cpu")
    return agent.learn(64 * 60)


def test_seeds_decide_and_single_episodes_agree() -> None:
    agent, rows = trained(), gym.make_vec(ENV, 300, max_episode_steps=30)
    first = evaluate_rows(agent, rows, seed=1)
    assert first == evaluate_rows(agent, rows, seed=1)
    assert first != evaluate_rows(agent, rows, seed=2)
    one_by_one = evaluate(agent, gym.make(ENV, max_episode_steps=30), episodes=300, seed=0)
    error = (first["std_return"] ** 2 + one_by_one["std_return"] ** 2) ** 0.5 / 300**0.5
    assert first["mean_return"] == pytest.approx(one_by_one["mean_return"], abs=4 * error)
    assert first["episodes"] == 300


def test_every_evaluation_has_episodes_of_its_own() -> None:
    agent = known_agent()
    env = Script(AutoresetMode.SAME_STEP, cut=False)
    for seed, index in ((0, 0), (0, 1), (1, 0), (0, 0)):
        Evaluation(env, every=1, seed=seed).run(agent, index)
    assert env.seeds[0] == env.seeds[3]
    assert len(set(env.seeds)) == 3


# In the loop -------------------------------------------------------------------------------------------


class Rows(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append((step, dict(key_values)))


def learner(num_envs: int = 8) -> QLearning:
    return QLearning(prefrl.envs.make_device(ENV, num_envs, device="cpu"), device="cpu", seed=3)


def evaluation(every: int) -> Evaluation:
    return Evaluation(gym.make_vec(ENV, 4, max_episode_steps=10), every=every, seed=1)


def test_evaluations_come_at_their_timesteps_and_are_logged_once() -> None:
    agent, rows = learner(), Rows()
    agent.logger = Logger(None, [rows])
    loop = Loop(agent, 200, log_every=40, evaluation=evaluation(80))
    loop.run()
    assert [found["timesteps"] for found in loop.evaluations] == [80, 160, 200]
    logged = {step: row["eval/mean_reward"] for step, row in rows.rows if "eval/mean_reward" in row}
    assert logged == {found["timesteps"]: found["mean_return"] for found in loop.evaluations}
    lengths = [row["eval/mean_ep_length"] for _, row in rows.rows if "eval/mean_ep_length" in row]
    assert lengths == [found["mean_length"] for found in loop.evaluations]
    assert [step for step, _ in rows.rows] == [40, 80, 120, 160, 200]
    assert 0 < loop.evaluation_seconds < loop.seconds


def test_an_evaluation_between_two_rows_is_in_the_next() -> None:
    agent, rows = learner(), Rows()
    agent.logger = Logger(None, [rows])
    loop = Loop(agent, 160, log_every=80, evaluation=evaluation(48))
    loop.run()
    assert [found["timesteps"] for found in loop.evaluations] == [48, 96, 144, 160]
    last = [loop.evaluations[0], loop.evaluations[3]]
    assert [row["eval/mean_reward"] for _, row in rows.rows] == [found["mean_return"] for found in last]


def test_evaluations_do_not_disturb_the_run() -> None:
    plain, evaluated = learner(), learner()
    learn(plain, 400)
    Loop(evaluated, 400, evaluation=evaluation(40)).run()
    assert torch.equal(plain.q, evaluated.q)
    assert torch.equal(plain._generator.get_state(), evaluated._generator.get_state())


def test_evaluations_survive_a_crash(tmp_path: Path) -> None:
    def crash(local: dict[str, Any], _: Any) -> bool:
        if local["self"].agent.num_timesteps >= 200:
            raise RuntimeError("crash")
        return True

    whole = Loop(learner(), 320, evaluation=evaluation(80))
    whole.run()
    folder = RunFolder.create(tmp_path / "run", {"recipe": "test", "config": {}}, quiet=True)
    with pytest.raises(RuntimeError, match="crash"):
        Loop(
            learner(), 320, folder=folder, checkpoint_every=120, evaluation=evaluation(80), callback=crash
        ).run()
    loop = Loop(learner(), 320, folder=folder, resume=True, evaluation=evaluation(80))
    assert [found["timesteps"] for found in loop.evaluations] == [80]
    before = loop.evaluation_seconds
    assert before > 0
    loop.run()
    assert loop.evaluations == whole.evaluations
    assert loop.evaluation_seconds > before
    assert load_checkpoint(folder.checkpoint_path)["evaluations"] == whole.evaluations
