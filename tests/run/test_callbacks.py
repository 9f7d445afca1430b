"""Every callback of SB3 on our agents, in scalar and in vector environments."""

import inspect

import gymnasium as gym
import pytest
from stable_baselines3.common import callbacks

import prefrl.envs
from prefrl import DQN, DQNConfig

ENV = "prefrl/CartPole-v0"


class Often(callbacks.BaseCallback):
    """Counts how often it is asked."""

    calls = 0

    def _on_step(self) -> bool:
        self.calls += 1
        return True


def evaluating(**more):
    return callbacks.EvalCallback(
        gym.make(ENV, max_episode_steps=9), eval_freq=20, n_eval_episodes=2, verbose=0, **more
    )


MAKERS = {
    "CallbackList": lambda folder: callbacks.CallbackList([Often(), Often()]),
    "CheckpointCallback": lambda folder: callbacks.CheckpointCallback(
        20, str(folder), save_replay_buffer=True
    ),
    "ConvertCallback": lambda folder: callbacks.ConvertCallback(lambda local, world: True),
    "EvalCallback": lambda folder: evaluating(),
    "EveryNTimesteps": lambda folder: callbacks.EveryNTimesteps(20, Often()),
    "LogEveryNTimesteps": lambda folder: callbacks.LogEveryNTimesteps(20),
    "ProgressBarCallback": lambda folder: callbacks.ProgressBarCallback(),
    "StopTrainingOnMaxEpisodes": lambda folder: callbacks.StopTrainingOnMaxEpisodes(3),
    "StopTrainingOnNoModelImprovement": lambda folder: evaluating(
        callback_after_eval=callbacks.StopTrainingOnNoModelImprovement(1)
    ),
    "StopTrainingOnRewardThreshold": lambda folder: evaluating(
        callback_on_new_best=callbacks.StopTrainingOnRewardThreshold(1.0)
    ),
}


def test_none_is_left_out():
    known = {name for name, kind in vars(callbacks).items()
             if inspect.isclass(kind) and issubclass(kind, callbacks.BaseCallback)}  # fmt: skip
    assert known - {"BaseCallback", "EventCallback"} == set(MAKERS)


@pytest.mark.parametrize("make", [
    lambda: gym.make(ENV, max_episode_steps=9),
    lambda: prefrl.envs.make_device(ENV, 2, max_episode_steps=9, autoreset_mode="SameStep"),
], ids=["scalar", "device"])  # fmt: skip
@pytest.mark.parametrize("name", MAKERS)
def test_a_callback_works(name, make, tmp_path):
    env = make()
    agent = DQN(env, DQNConfig(hidden=(8,), learning_starts=30), device="cpu")
    callback = MAKERS[name](tmp_path)
    agent.learn(400, callback=callback)
    stops = {
        "StopTrainingOnMaxEpisodes": 27 * getattr(env, "num_envs", 1),
        "StopTrainingOnRewardThreshold": 40,
    }
    if name in stops:
        assert agent.num_timesteps <= stops[name]
    elif name != "StopTrainingOnNoModelImprovement":
        assert agent.num_timesteps == 400
    if name == "EveryNTimesteps":
        assert callback.callback.calls == 20
    if name == "CheckpointCallback":
        steps = 20 * getattr(env, "num_envs", 1)
        assert DQN.load(next(tmp_path.glob(f"*_{steps}_steps*")), device="cpu").num_timesteps == steps


def test_the_environment_stays_the_agents_own():
    env = gym.make(ENV)
    agent = DQN(env, device="cpu")
    seen = []
    agent.learn(3, callback=lambda local, world: seen.append(agent.get_env().num_envs) or True)
    assert seen == [1, 1, 1]
    assert agent.get_env() is env
