"""Data sets collected by acting, against the environment's exact model and a plain loop."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import prefrl.envs
from prefrl.agents import QLearning
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.grids.delivery import DeliveryDynamics
from prefrl.run.collect import collect_episodes, collect_transitions

ENV = "prefrl/Delivery-v0"
LIMIT = 6
ROWS = 5


def sync(mode):
    return SyncVectorEnv([lambda: gym.make(ENV, max_episode_steps=LIMIT)] * ROWS, autoreset_mode=mode)


FACES = {
    "scalar": lambda mode: gym.make(ENV, max_episode_steps=LIMIT),
    "sync": sync,
    "vector": lambda mode: BatchedEnv(DeliveryDynamics, ROWS, max_episode_steps=LIMIT, autoreset_mode=mode),
    "device": lambda mode: prefrl.envs.make_device(ENV, ROWS, max_episode_steps=LIMIT, autoreset_mode=mode),
}


class Table:
    """A deterministic policy given as a table [S]; its other face must not be asked."""

    device = torch.device("cpu")

    def __init__(self, actions):
        self.actions = torch.as_tensor(actions)

    def act(self, obs, *, deterministic=False):
        assert deterministic
        return self.actions[obs]


def table(seed=0):
    return Table(np.random.default_rng(seed).integers(4, size=100))


def episodes_of(data):
    """Row indices of each episode."""
    ends = torch.nonzero(~data.has_next_action).flatten().tolist()
    return [
        list(range(start, end + 1)) for start, end in zip([0, *(e + 1 for e in ends)], ends, strict=False)
    ]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_every_transition_is_one_of_the_model(face, mode, epsilon):
    policy = table()
    data = collect_transitions(policy, FACES[face](mode), 400, epsilon=epsilon, seed=3, env_id=ENV)
    assert len(data) == 400
    model = gym.make(ENV).unwrapped.tabular_model()
    obs, actions, next_obs = data.obs.numpy(), data.actions.numpy(), data.next_obs.numpy()
    np.testing.assert_array_equal(next_obs, model.successors[obs, actions, 0])
    np.testing.assert_array_equal(data.rewards.numpy(), model.rewards[obs, actions, 0])
    np.testing.assert_array_equal(data.terminations.numpy(), model.terminal[next_obs])
    assert not model.terminal[obs].any()
    assert (model.start[obs[[e[0] for e in episodes_of(data)]]] > 0).all()
    if epsilon == 0.0:
        np.testing.assert_array_equal(actions, policy.actions[obs])
    rows = 1 if face == "scalar" else ROWS
    unfinished = 0
    for episode in episodes_of(data):
        last, length = episode[-1], len(episode)
        assert not (data.terminations | data.truncations)[episode[:-1]].any()
        assert bool(data.truncations[last]) == (length == LIMIT)
        unfinished += not (data.terminations | data.truncations)[last]
        np.testing.assert_array_equal(data.next_actions[episode[:-1]], actions[episode[1:]])
    assert unfinished <= rows
    assert data.terminations.any()
    assert data.truncations.any()


def test_equals_a_plain_loop_in_a_scalar_environment():
    policy = table()
    data = collect_transitions(policy, gym.make(ENV, max_episode_steps=LIMIT), 100, seed=7)
    env = gym.make(ENV, max_episode_steps=LIMIT)
    seed = int(np.random.SeedSequence([7, 0]).generate_state(1)[0])
    obs, _ = env.reset(seed=seed)
    rows = []
    while len(rows) < 100:
        action = int(policy.actions[obs])
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        obs = env.reset()[0] if terminated or truncated else next_obs
    names = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations")
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        assert getattr(data, name).tolist() == list(column), name
    assert data.env_id == ENV


def test_rows_stand_one_after_the_other_without_the_steps_that_are_none():
    """NEXT_STEP by hand: after an end, a row's step only brings the new episode's first observation."""
    policy = table()
    env, twin = (FACES["vector"](AutoresetMode.NEXT_STEP) for _ in range(2))
    data = collect_transitions(policy, env, 203, seed=7)
    seed = int(np.random.SeedSequence([7, 0]).generate_state(1)[0])
    obs, _ = twin.reset(seed=seed)
    rows, ended, count = [[] for _ in range(ROWS)], np.zeros(ROWS, bool), 0
    while count < 203:
        actions = policy.actions[torch.as_tensor(obs)].numpy()
        next_obs, rewards, terminations, truncations, _ = twin.step(actions)
        for row in range(ROWS):
            if not ended[row] and count < 203:
                rows[row].append((obs[row], actions[row], rewards[row], next_obs[row], terminations[row]))
                count += 1
        obs, ended = next_obs, terminations | truncations
    expected = [transition for row in rows for transition in row]
    names = ("obs", "actions", "rewards", "next_obs", "terminations")
    for name, column in zip(names, zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(getattr(data, name).numpy(), np.array(column), err_msg=name)
    # where the data of a row stop, the next row's must not seem to go on from there
    boundaries = np.cumsum([len(row) for row in rows]) - 1
    assert not data.has_next_action[boundaries].any()


def test_same_seed_same_data():
    def collect(seed):
        return collect_transitions(
            table(), FACES["vector"](AutoresetMode.SAME_STEP), 200, epsilon=0.5, seed=seed
        )

    first, again, other = collect(1), collect(1), collect(2)
    for name in ("obs", "actions", "rewards", "next_actions"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.obs, other.obs)
    assert not torch.equal(first.actions, other.actions)


def test_epsilon_is_the_probability_of_a_uniform_action():
    policy = Table(np.full(100, 2))
    env = prefrl.envs.make_device(ENV, 200)
    count = 20_000
    data = collect_transitions(policy, env, count, epsilon=0.4)
    shares = torch.bincount(data.actions, minlength=4) / count
    expected = torch.tensor([0.1, 0.1, 0.7, 0.1])  # 0.4 spread evenly, the rest on action 2
    assert torch.all((shares - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt())


@pytest.mark.parametrize("face", FACES)
def test_a_random_policy_needs_no_agent(face):
    data = collect_transitions(None, FACES[face](AutoresetMode.SAME_STEP), 400, epsilon=1.0)
    counts = torch.bincount(data.actions, minlength=4)
    assert counts.sum() == 400
    assert (counts > 60).all()


def test_continuous_actions():
    env = gym.make("Pendulum-v1")
    data = collect_transitions(None, env, 500, epsilon=1.0)
    assert data.actions.shape == (500, 1)
    assert data.actions.dtype == torch.float32
    assert -2.0 <= data.actions.min() < -1.9
    assert 1.9 < data.actions.max() <= 2.0
    assert abs(data.actions.mean()) < 0.2
    assert data.env_id == "Pendulum-v1"

    class Half:
        device = torch.device("cpu")

        def act(self, obs, *, deterministic=False):
            return torch.full((len(obs), 1), 0.5)

    mixed = collect_transitions(Half(), gym.make("Pendulum-v1"), 300, epsilon=0.5).actions
    assert 100 < (mixed == 0.5).sum() < 200
    assert len(mixed.unique()) > 100


def test_an_agent_of_the_library():
    env = gym.make_vec(ENV, num_envs=4)
    agent = QLearning(env, device="cpu", seed=0)
    agent.learn(400)
    before = agent.num_timesteps
    data = collect_transitions(agent, gym.make(ENV), 50)
    greedy, _ = agent.predict(data.obs.numpy(), deterministic=True)
    np.testing.assert_array_equal(data.actions.numpy(), greedy)
    assert agent.num_timesteps == before


class Bad(gym.Env):
    """An environment that gives what no data set takes."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)

    def __init__(self, reward=0.0):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.reward, False, False, {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_transitions": 0}, "num_transitions is 0"),
        ({"num_transitions": 2.5}, "num_transitions is 2.5"),
        ({"num_transitions": True}, "num_transitions is True"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"agent": None, "epsilon": 0.5}, "agent is None and epsilon 0.5"),
        ({"env": Bad(float("nan"))}, "the environment's reward is nan after timestep 0"),
        ({"agent": Table(np.full(100, 4)), "env": BatchedEnv(DeliveryDynamics, 2)}, "actions must lie in"),
        (
            {"agent": Table(np.full(100, 4)), "env": prefrl.envs.make_device(ENV, 2)},
            "actions are wrong in row 0",
        ),
        (
            {"agent": SimpleNamespace(device=torch.device("cpu"), observation_space=Discrete(3))},
            r"agent's observation_space is Discrete\(3\); the environment's is Discrete\(100\)",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    class Zeros:
        device = torch.device("cpu")

        def act(self, obs, *, deterministic=False):
            return torch.zeros(len(obs), dtype=torch.int64)

    arguments = {"agent": Zeros(), "env": gym.make(ENV), "num_transitions": 10, **arguments}
    with pytest.raises((ValueError, FloatingPointError), match=message):
        collect_transitions(**arguments)


def test_spaces_without_uniform_actions():
    env = Bad()
    env.action_space = Box(-np.inf, np.inf, (1,))
    with pytest.raises(ValueError, match="no uniform actions"):
        collect_transitions(None, env, 10, epsilon=1.0)
    env.action_space = gym.spaces.MultiBinary(2)
    with pytest.raises(TypeError, match="action_space MultiBinary"):
        collect_transitions(None, env, 10, epsilon=1.0)


def test_one_whole_episode_of_each_row():
    rows = gym.make_vec("prefrl/Delivery-v0", 300, max_episode_steps=15)
    data = collect_episodes(None, rows, seed=3)
    assert data.num_episodes == 300
    ended = data.terminations | data.truncations
    assert torch.equal(ended, ~data.has_next_action)
    last = torch.nonzero(ended)[:, 0]
    lengths = torch.diff(last, prepend=torch.tensor([-1]))
    assert int(lengths.max()) == 15
    assert torch.equal(data.truncations[last], lengths == 15)  # terminal ones among them
    assert 0 < int(data.terminations[last].sum()) < 300
    # Every start is the row's own: what a first reset with the seed shows.
    firsts = data.obs[torch.cat([torch.zeros(1, dtype=torch.int64), last[:-1] + 1])]
    assert len(firsts.unique()) > 50
    again = collect_episodes(None, rows, seed=3)
    assert torch.equal(again.actions, data.actions)
    assert not torch.equal(collect_episodes(None, rows, seed=4).actions[:500], data.actions[:500])


def test_episodes_that_do_not_end_stay_unfinished():
    rows = gym.make_vec("prefrl/Delivery-v0", 50)
    data = collect_episodes(None, rows, max_steps=3)
    lengths = torch.diff(torch.nonzero(~data.has_next_action)[:, 0], prepend=torch.tensor([-1]))
    assert int(lengths.max()) == 3
    assert not data.truncations.any()
    for settings, message in (({"epsilon": 1.5}, "epsilon is 1.5"), ({"max_steps": 0}, "max_steps is 0")):
        with pytest.raises(ValueError, match=message):
            collect_episodes(None, rows, **settings)


def test_episodes_of_an_agent():
    rows = gym.make_vec("prefrl/Delivery-v0", 8, max_episode_steps=5)
    agent = QLearning(gym.make("prefrl/Delivery-v0"), seed=0)
    data = collect_episodes(agent, rows)
    assert torch.equal(data.actions, agent.act(data.obs, deterministic=True))
