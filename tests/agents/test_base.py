"""What every agent does at the door, and files of any agent."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.env_util import make_vec_env

import prefrl
from prefrl.agents import DQN, Agent, DQNConfig, QLearning


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("CartPole-v1",), {},
         r"^env is 'CartPole-v1'; give the environment: DQN\(gymnasium.make\('CartPole-v1'\)\)"),
        (("MlpPolicy", "CartPole-v1"), {},
         r"^env is 'MlpPolicy'; DQN takes no policy.*DQN\(env, DQNConfig\(...\)\)"),
        ((), {"env": "CnnPolicy"}, "^env is 'CnnPolicy'; DQN takes no policy"),
        ((None, "MlpPolicy"), {}, r"^config is 'MlpPolicy'; give DQN\(env, DQNConfig\(...\)\)"),
        ((None,), {"learning_rate": 0.1, "gamma": 0.9},
         r"^gamma, learning_rate: settings belong to the config; give "
         r"DQN\(env, DQNConfig\(learning_rate=0.1, gamma=0.9\)\)"),
        ((None,), {"nonsense": 1}, "unexpected keyword argument 'nonsense'"),
    ],
)  # fmt: skip
def test_an_sb3_user_is_told_what_to_give(
    arguments: tuple[Any, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        DQN(*arguments, **settings)


def test_vector_environments_of_sb3_are_refused_by_every_agent() -> None:
    env = make_vec_env("CartPole-v1", n_envs=2)
    kinds = {getattr(prefrl.agents, name) for name in prefrl.agents.__all__}
    agents = [
        kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Agent) and kind is not Agent
    ]
    assert len(agents) >= 15
    for kind in agents:
        with pytest.raises(
            TypeError, match=r"^env is a DummyVecEnv of Stable-Baselines3; give a Gymnasium env"
        ):
            kind(env)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"log_interval": 4}, ValueError, r"^log_interval is 4; .* prefrl\.learn"),
        ({"tb_log_name": "run"}, ValueError, "^tb_log_name is 'run'; set agent.logger"),
        ({"reset_num_timesteps": True}, ValueError, "^reset_num_timesteps is True; it must be False"),
        ({"progress_bar": 4}, TypeError, "^progress_bar is 4; it must be True or False"),
    ],
)
def test_settings_of_sb3s_learn_are_refused_in_words(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    agent = QLearning(gym.make("FrozenLake-v1"), device="cpu")
    with pytest.raises(error, match=message):
        agent.learn(8, **settings)
    assert agent.num_timesteps == 0
    assert agent.learn(8, reset_num_timesteps=False).num_timesteps == 8


def test_learn_goes_on_counting_and_logs_as_often_as_asked() -> None:
    rows = []

    class Rows:
        def record(self, name: str, value: Any, exclude: Any = None) -> None: ...

        def dump(self, step: int) -> None:
            rows.append(step)

    agent = QLearning(gym.make("FrozenLake-v1"), device="cpu")
    agent.logger = Rows()
    prefrl.learn(agent, 20, log_every=5)
    assert rows == [5, 10, 15, 20]


def test_a_file_of_any_agent_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.pt"
    QLearning(gym.make("FrozenLake-v1"), device="cpu").learn(16).save(path)
    agent = prefrl.load(path, device="cpu")
    assert (type(agent), agent.num_timesteps) == (QLearning, 16)
    assert prefrl.load(path, env=gym.make("FrozenLake-v1"), device="cpu").learn(4).num_timesteps == 20


class Mine(DQN):
    """An agent that is not the library's."""


def test_files_of_other_agents_are_left_to_their_classes(tmp_path: Path) -> None:
    path = tmp_path / "agent.pt"
    Mine(gym.make("CartPole-v1"), DQNConfig(hidden=(4,)), device="cpu").save(path)
    with pytest.raises(ValueError, match="holds a Mine, which is no agent of prefrl"):
        prefrl.load(path)
    assert isinstance(Mine.load(path, device="cpu"), Mine)
    (tmp_path / "other.pt").write_text("no agent")
    with pytest.raises(ValueError, match=r"other\.pt"):
        prefrl.load(tmp_path / "other.pt")
