"""Learners: which agent a config is of, what older files meant, who takes which spaces; SAC learns."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents import (
    DQN,
    PPO,
    SAC,
    DQNConfig,
    Heron,
    HeronConfig,
    LearnerConfig,
    PPOConfig,
    PreferenceRL,
    PreferenceRLConfig,
    SACConfig,
    SB3Agent,
    SB3Config,
    SelfPlay,
    SelfPlayConfig,
)
from prefrl.agents.base import Spaces
from prefrl.agents.preferences.learners import default_learner, make_learner, on_device
from prefrl.config import from_json, to_json
from prefrl.envs import AgentsAsRows
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.factors import Factors
from prefrl.preferences import RewardModelConfig
from tests.shared.spots import HEIGHT, PICTURE as SPOTS, WIDTH, Spots

FLAT = gym.spaces.Box(-1.0, 1.0, (3,))
PICTURE = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
BOX, TWO = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Discrete(2)
ALGORITHMS = ("ppo", "a2c", "sac", "td3", "ddpg", "dqn")
CONFIGS = (PreferenceRLConfig, HeronConfig, SelfPlayConfig)
LEARNERS = [SACConfig(), DQNConfig(hidden=(8,)), PPOConfig(n_steps=8), SB3Config("dqn", {"gamma": 0.5})]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_bare_names_of_older_files_are_those_of_sb3(kind, algorithm):
    settings = {"gamma": 0.9}
    written = {"algorithm": algorithm, "settings": settings, "schedule_timesteps": 70, "warmup_hold": 3}
    wanted = SB3Config(algorithm, settings, 70, 3)
    assert from_json(kind, {"learner": written}).learner == wanted
    assert kind(learner=LearnerConfig(algorithm, settings, 70, 3)).learner == wanted


@pytest.mark.parametrize("kind", CONFIGS)
def test_prefrl_dqn_of_older_files_is_ours(kind):
    settings = {"hidden": [8], "gamma": 0.9}
    written = {"algorithm": "prefrl_dqn", "settings": settings, "schedule_timesteps": 70, "warmup_hold": 1}
    wanted = DQNConfig(hidden=(8,), gamma=0.9)
    assert from_json(kind, {"learner": written}).learner == wanted
    assert kind(learner=LearnerConfig("prefrl_dqn", settings)).learner == wanted


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_file_tells_which_learner_it_was(kind, learner):
    config = kind(learner=learner)
    read = from_json(kind, to_json(config))
    assert read == config
    assert type(read.learner) is type(learner)


@pytest.mark.parametrize(
    ("config", "actions", "kind"),
    [
        (SACConfig(), BOX, SAC),
        (DQNConfig(), TWO, DQN),
        (PPOConfig(), TWO, PPO),
        (PPOConfig(), BOX, PPO),
        (SB3Config("sac"), BOX, SB3Agent),
        (LearnerConfig("dqn"), TWO, SB3Agent),
        (LearnerConfig("prefrl_dqn"), TWO, DQN),
    ],
)
def test_which_agent_a_config_is_of(config, actions, kind):
    learner = make_learner(config, Spaces(FLAT, actions), rows=2, device="cpu", seed=0)
    assert type(learner) is kind


@pytest.mark.parametrize(
    ("config", "obs", "actions", "message"),
    [
        (SACConfig(), FLAT, TWO, r"takes a Box .*; learners that take these spaces: PPOConfig, DQN"),
        (DQNConfig(), FLAT, BOX, r"DQN takes .*: SACConfig, PPOConfig, SB3Config\('sac'\), SB3Conf"),
        (SACConfig(), PICTURE, BOX, r"spaces: PPOConfig, SB3Config\('sac'\), SB3Config\('ppo'\)$"),
        (SB3Config("sac"), FLAT, TWO, "SB3's sac does not take .* spaces: PPOConfig, DQN"),
        (DQNConfig(), FLAT, gym.spaces.MultiBinary(2), r"spaces: SB3Config\('ppo'\)$"),
        (SB3Config("dqn"), FLAT, gym.spaces.Discrete(2, start=1), "spaces: PPOConfig, DQNConfig$"),
        (PPOConfig(), gym.spaces.Text(3), TWO, r"Text.* is not supported.* spaces: SB3Config\('dqn'\), SB3"),
        (DQNConfig(), FLAT, gym.spaces.MultiDiscrete([2, 3]), r"spaces: PPOConfig, SB3Config\('ppo'\)$"),
    ],
)  # fmt: skip
def test_a_learner_that_does_not_take_the_spaces_is_refused_with_those_that_do(config, obs, actions, message):
    with pytest.raises(ValueError, match=message):
        make_learner(config, Spaces(obs, actions), rows=1, device="cpu", seed=0)
    with pytest.raises(ValueError, match=message):
        PreferenceRL(Spaces(obs, actions), PreferenceRLConfig(config), device="cpu")


def test_what_a_learner_refuses_of_spaces_that_it_takes_is_said_as_it_is():
    unbounded = gym.spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(ValueError, match=r"takes a Box with finite bounds.*for example$"):
        make_learner(SACConfig(), Spaces(FLAT, unbounded), rows=1, device="cpu", seed=0)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: LearnerConfig("reinforce"), ValueError, "algorithm is 'reinforce'"),
        (lambda: LearnerConfig("sac", {"hidden": [8]}), ValueError, "settings hold 'hidden'; sac of SB3 has"),
        (lambda: LearnerConfig("prefrl_dqn", {"net_arch": 1}), ValueError, "net_arch is unknown; DQNConfig"),
        (lambda: PreferenceRLConfig("sac"), TypeError, "learner is 'sac'; it must be of type SACConfig or "),
        (lambda: SB3Config("sac", {"gamma": float("nan")}), ValueError, "they must be JSON values"),
        (lambda: SB3Config("sac", {"gamma": torch.zeros(())}), TypeError, "they must be JSON values"),
    ],
)  # fmt: skip
def test_wrong_learners(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    ("obs", "actions", "wanted"),
    [
        (FLAT, BOX, SACConfig()),
        (FLAT, TWO, PPOConfig()),
        (FLAT, gym.spaces.Discrete(2, start=1), PPOConfig()),
        (FLAT, gym.spaces.MultiDiscrete([2, 3]), PPOConfig()),
        (gym.spaces.Discrete(3), BOX, PPOConfig()),
        (PICTURE, TWO, PPOConfig()),
        (PICTURE, BOX, PPOConfig()),
        (gym.spaces.Tuple([FLAT, FLAT]), TWO, SB3Config("ppo")),
        (FLAT, gym.spaces.MultiBinary(2), SB3Config("ppo")),
    ],
)
def test_which_learner_is_taken_where_none_is_given(obs, actions, wanted):
    chosen = default_learner(Spaces(obs, actions))
    assert (type(chosen), chosen) == (type(wanted), wanted)


def test_on_the_device_it_is_ppo_whatever_the_actions():
    made = prefrl.envs.make_device
    grid = AgentsAsRows(made("prefrl/TrafficGrid-v0", 2, rows=1, columns=2))
    for env in (made("prefrl/Pendulum-v0", 2), made("prefrl/CartPole-v0", 2), grid):
        assert on_device(env)
        assert type(default_learner(env)) is PPOConfig
    for env in (
        gym.make("prefrl/Pendulum-v0"),
        gym.make_vec("prefrl/Pendulum-v0", 2),
        gym.make("Pendulum-v1"),
    ):
        assert not on_device(env)
        assert type(default_learner(env)) is SACConfig


@pytest.mark.parametrize("kind", [PreferenceRL, Heron, SelfPlay])
def test_agents_keep_which_learner_was_taken(kind, tmp_path):
    """What is read without an environment does not know that there was one on the device."""
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 2, max_episode_steps=60)
    agent = kind(env, device="cpu")
    assert agent.config.learner == PPOConfig()
    agent.save(tmp_path / "agent.pt")
    assert type(kind.load(tmp_path / "agent.pt", device="cpu").learner) is PPO


class Target(gym.Env):
    """Choose the number that is shown: four steps an episode, paid by how near the action is."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._shown(), {}

    def _shown(self):
        self.target = self.np_random.uniform(-1.0, 1.0, 1).astype(np.float32)
        return self.target

    def step(self, action):
        reward = -abs(float(action[0] - self.target[0]))
        self.steps += 1
        return self._shown(), reward, self.steps == 4, False, {}


LEARNER = SACConfig(hidden=(32, 32), learning_rate=3e-3, batch_size=64, gamma=0.8, initial_temperature=0.3)
OUR_PPO = PPOConfig(hidden=(32, 32), learning_rate=3e-3, n_steps=128, gamma=0.8)
REWARD = RewardModelConfig(members=1, hidden=(32, 32), bootstrap=False, epochs=100)
NEAR = Factors(("distance",), (-1,), lambda step: (step.actions - step.obs).abs())


def learned(kind, learner, timesteps):
    """Return an agent that has learned in :class:`Target`."""
    if kind is PreferenceRL:
        schedule = {"segment_length": 1, "first_session": 200, "session_every": 200, "query": "uniform"}
        labels = {"num_labels": 300, "first_labels": 100, "session_labels": 100}
        agent = kind(Target(), PreferenceRLConfig(learner, REWARD, **schedule, **labels), device="cpu")
    elif kind is Heron:
        reads = RewardModelConfig(members=1, hidden=(32, 32), bootstrap=False, use_features=True)
        config = HeronConfig(learner, reads, first_fit=200, fit_every=200, batches=50)
        agent = kind(Target(), config, factors=NEAR, device="cpu")
    else:
        agent = kind(Target(), SelfPlayConfig(learner, REWARD), device="cpu")
    return agent.learn(timesteps)


@pytest.mark.parametrize(("learner", "timesteps"), [(LEARNER, 800), (OUR_PPO, 4_000)])
@pytest.mark.parametrize("kind", [PreferenceRL, Heron, SelfPlay])
def test_our_learners_learn_from_a_learned_reward(kind, learner, timesteps):
    """Uniform actions are 2/3 away from the target on average, those of 0 one half."""
    obs = torch.linspace(-0.9, 0.9, 19)[:, None]
    distance = (learned(kind, learner, timesteps).act(obs, deterministic=True) - obs).abs().mean()
    assert float(distance) < 0.25


def is_lower(pictures):
    return pictures.flatten(1).argmax(1) >= HEIGHT // 2 * WIDTH


RIGHT = Factors(("right",), (1,), lambda step: (is_lower(step.obs) == (step.actions == 2)).float()[:, None])
READS_PICTURES = {"members": 1, "hidden": (32,), "bootstrap": False, "conv_filters": 4}


@pytest.mark.parametrize("kind", [PreferenceRL, Heron, SelfPlay])
def test_ppo_learns_from_pictures_by_a_learned_reward(kind):
    env = BatchedEnv(Spots, 4, backend=TorchBackend("cpu"), max_episode_steps=4, autoreset_mode="SameStep")
    learner = PPOConfig(
        conv_filters=4, conv_features=16, n_steps=32, batch_size=32, learning_rate=3e-3, gamma=0.0
    )
    if kind is PreferenceRL:
        reward = RewardModelConfig(**READS_PICTURES, epochs=100)
        schedule = {"segment_length": 1, "first_session": 200, "session_every": 200, "query": "uniform"}
        labels = {"num_labels": 300, "first_labels": 100, "session_labels": 100}
        agent = kind(env, PreferenceRLConfig(learner, reward, **schedule, **labels), device="cpu")
    elif kind is Heron:
        reward = RewardModelConfig(**READS_PICTURES, use_features=True)
        config = HeronConfig(learner, reward, first_fit=200, fit_every=200, batches=50)
        agent = kind(env, config, factors=RIGHT, device="cpu")
    else:
        agent = kind(env, SelfPlayConfig(learner), device="cpu")
    agent.learn(3_000)
    pictures = (torch.eye(HEIGHT * WIDTH, dtype=torch.uint8) * 255).view(-1, *SPOTS)
    right = agent.act(pictures, deterministic=True) == 1 + is_lower(pictures).long()
    assert right.float().mean() > 0.9
