"""SB3's algorithms as agents: the same numbers as SB3's own ``learn``, and everything an agent must do."""

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.agents import SB3Agent, SB3Config
from prefrl.agents.base import Spaces
from prefrl.data import Transitions
from prefrl.run.loop import learn

SMALL = {"net_arch": [8]}
SETTINGS = {
    "ppo": {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "policy_kwargs": SMALL},
    "a2c": {"n_steps": 4, "policy_kwargs": SMALL},
    "sac": {"learning_starts": 12, "batch_size": 8, "policy_kwargs": SMALL, "buffer_size": 100},
    "td3": {
        "learning_starts": 12,
        "batch_size": 8,
        "policy_kwargs": SMALL,
        "buffer_size": 100,
        "action_noise": 0.2,
    },
    "ddpg": {"learning_starts": 12, "batch_size": 8, "policy_kwargs": SMALL, "buffer_size": 100},
    "dqn": {"learning_starts": 12, "batch_size": 8, "policy_kwargs": SMALL, "buffer_size": 100},
}


def env_of(algorithm, n=2, **settings):
    env_id = "prefrl/CartPole-v0" if algorithm in ("dqn", "a2c") else "prefrl/Pendulum-v0"
    return prefrl.envs.make_device(env_id, n, **{"max_episode_steps": 9, **settings})


def agent_of(algorithm, n=2, seed=0, **settings):
    config = SB3Config(algorithm, {**SETTINGS[algorithm], **settings})
    return SB3Agent(env_of(algorithm, n), config, device="cpu", seed=seed)


def parameters(agent):
    return torch.cat([p.detach().flatten() for p in agent.model.policy.parameters()])


def drive(agent, env, steps):
    """Step as the loop does, in a scalar environment that was seeded as SB3 seeds its own."""
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        row = torch.as_tensor(np.asarray(obs)[None])
        action = agent.act(row)
        taken = action[0].numpy()
        following, reward, terminated, truncated, _ = env.step(taken.item() if taken.ndim == 0 else taken)
        agent.observe(Transitions(
            row, action, torch.tensor([float(reward)]), torch.as_tensor(np.asarray(following)[None]),
            torch.tensor([terminated]), torch.tensor([truncated]), torch.tensor([True]),
        ))  # fmt: skip
        agent.num_timesteps += 1
        agent.update()
        obs = env.reset()[0] if terminated or truncated else following


@pytest.mark.parametrize(
    ("algorithm", "env_id", "settings"),
    [
        ("ppo", "Pendulum-v1", {"n_steps": 30, "batch_size": 15}),
        ("ppo", "CartPole-v1", {"n_steps": 30, "batch_size": 15, "gae_lambda": 0.9}),
        pytest.param("a2c", "CartPole-v1", {}, marks=pytest.mark.slow),
        ("sac", "Pendulum-v1", {"learning_starts": 0, "batch_size": 8, "buffer_size": 200}),
        pytest.param(
            "td3",
            "Pendulum-v1",
            {"learning_starts": 0, "batch_size": 8, "buffer_size": 200, "action_noise": 0.1},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_equals_sb3_itself(algorithm, env_id, settings):
    """The same draws, the same data, the same updates: equal parameters, over ends and truncations."""
    from stable_baselines3.common.noise import NormalActionNoise

    def make():
        return gym.make(env_id, max_episode_steps=20)

    theirs = dict(settings)
    if "action_noise" in theirs:
        theirs["action_noise"] = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    model = getattr(stable_baselines3, algorithm.upper())("MlpPolicy", make(), seed=0, device="cpu", **theirs)
    model.learn(60)
    scalar = make()
    spaces = Spaces(scalar.observation_space, scalar.action_space)
    agent = SB3Agent(spaces, SB3Config(algorithm, settings, schedule_timesteps=60), device="cpu", seed=0)
    drive(agent, scalar, 60)
    wanted = torch.cat([p.detach().flatten() for p in model.policy.parameters()])
    if algorithm == "td3":  # which keeps a noisy action as it was before it was scaled, and not afterwards
        torch.testing.assert_close(parameters(agent), wanted, atol=1e-5, rtol=1e-4)
    else:
        assert torch.equal(parameters(agent), wanted)


@pytest.mark.parametrize("algorithm", list(SETTINGS))
def test_trains_saves_loads_and_resumes(algorithm, tmp_path):
    """A run that is stopped and resumed ends where the uninterrupted one does."""
    from prefrl.run.folder import RunFolder

    whole = agent_of(algorithm)
    start = parameters(whole).clone()
    learn(whole, 40)
    assert not torch.equal(start, parameters(whole))
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    first = agent_of(algorithm)
    learn(
        first, 40, folder=folder, checkpoint_every=20, callback=lambda local, world: first.num_timesteps < 22
    )
    second = agent_of(algorithm, seed=0)
    learn(second, 40, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    assert second.num_timesteps == 40
    assert torch.equal(parameters(second), parameters(whole))
    path = tmp_path / "agent.pt"
    whole.save(path)
    loaded = SB3Agent.load(path, device="cpu")
    obs = whole.observation_space.sample()
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], whole.predict(obs, deterministic=True)[0]
    )


def test_relabelling_replaces_the_latest_rewards():
    agent = agent_of("sac", n=2, buffer_size=20)  # 10 steps of 2 rows
    learn(agent, 30)
    agent.relabel(torch.arange(60.0).reshape(30, 2))
    buffer = agent.model.replay_buffer
    order = (buffer.pos + np.arange(10)) % 10
    assert buffer.rewards[order].tolist() == torch.arange(40.0, 60.0).reshape(10, 2).tolist()
    agent.relabel(torch.full((3, 2), -1.0))
    assert buffer.rewards[order][-3:].tolist() == [[-1.0] * 2] * 3
    assert buffer.rewards[order][:-3].tolist() == torch.arange(40.0, 54.0).reshape(7, 2).tolist()
    agent_of("ppo").relabel(torch.zeros(3, 2))


def test_warmup_actions_are_held():
    config = SB3Config("sac", SETTINGS["sac"], warmup_hold=3)
    agent = SB3Agent(env_of("sac"), config, device="cpu")
    obs = torch.zeros(2, 3)
    actions = torch.stack([agent.act(obs) for _ in range(9)])[..., 0]
    assert torch.equal(actions[0], actions[2])
    assert not torch.equal(actions[2], actions[3])
    assert torch.equal(actions[3], actions[5])


@pytest.mark.slow
def test_pictures_and_dicts():
    picture = gym.spaces.Box(0, 255, (36, 36, 3), np.uint8)
    for space in (picture, gym.spaces.Dict(eye=picture, speed=gym.spaces.Box(-1.0, 1.0, (2,)))):
        settings = {"n_steps": 2, "batch_size": 2, "n_epochs": 1}
        agent = SB3Agent(Spaces(space, gym.spaces.Discrete(3)), SB3Config("ppo", settings), device="cpu")
        sample = space.sample()
        obs = (
            {name: torch.as_tensor(part[None]) for name, part in sample.items()}
            if isinstance(sample, dict)
            else torch.as_tensor(sample[None])
        )
        flag = torch.zeros(1, dtype=torch.bool)
        for _ in range(2):
            action = agent.act(obs)
            agent.observe(Transitions(obs, action, torch.ones(1), obs, flag, flag, ~flag))
        assert "train/loss" in agent.update()
        agent.predict(sample, deterministic=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SB3Config("trpo"), r"algorithm is 'trpo'; it must be one of"),
        (lambda: SB3Config("sac", {"learning_rte": 1}), "settings hold 'learning_rte'; sac of SB3 has"),
        (lambda: SB3Config("sac", {"seed": 1}), "settings hold 'seed', which is the agent's"),
        (lambda: SB3Config("sac", {"action_noise": -1}), "action_noise is -1"),
        (lambda: SB3Config("sac", warmup_hold=0), "warmup_hold is 0"),
        (lambda: SB3Config("sac", {"train_freq": [1, "episode"]}), "train_freq is"),
        (
            lambda: SB3Config("ppo", {"use_sde": True}),
            "settings hold 'use_sde', which is for SB3's own stepping",
        ),
        (
            lambda: SB3Agent(
                Spaces(gym.spaces.Discrete(2), gym.spaces.Discrete(2, start=5)), SB3Config("dqn")
            ),
            "SB3 takes discrete numbers from 0",
        ),
        (lambda: SB3Agent(gym.make("CartPole-v1"), SB3Config("sac")), "SB3's sac does not take"),
        (
            lambda: SB3Agent(gym.make_vec("CartPole-v1", 2), SB3Config("ppo")),
            "make it with autoreset_mode SAME_STEP",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_of_another_size_are_refused():
    agent = agent_of("ppo")
    flag = torch.zeros(3, dtype=torch.bool)
    obs = torch.zeros(3, 3)
    step = Transitions(obs, obs[:, :1], obs[:, 0], obs, flag, flag, ~flag)
    with pytest.raises(ValueError, match="the step has 3 rows; this agent was made for 2"):
        agent.observe(step)


def test_sync_vector_environments_are_stepped():
    env = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync",
                       vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})  # fmt: skip
    agent = SB3Agent(env, SB3Config("ppo", SETTINGS["ppo"]), device="cpu")
    learn(agent, 64)
    assert agent.num_timesteps == 64


def test_a_loss_that_is_not_finite_stops_the_run():
    agent = agent_of("sac")
    inner = agent.observe
    agent.observe = lambda step: inner(type(step)(**{**vars(step), "rewards": step.rewards * float("nan")}))
    with pytest.raises(FloatingPointError, match="is nan"):
        learn(agent, 40)


def test_a_state_can_be_taken_over_without_a_file():
    for algorithm in ("ppo", "sac"):
        one, two = agent_of(algorithm), agent_of(algorithm, seed=1)
        learn(one, 22)
        two.load_state_dict(one.state_dict())
        assert torch.equal(parameters(one), parameters(two))
        assert two._buffer.pos == one._buffer.pos


# Cuts in the midst of episodes ---------------------------------------------------------------------------


class Endless(gym.Env):
    """Pays 1 for ever: with gamma 0.9 every state is worth 10."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_what_a_cut_takes_off_is_bootstrapped(algorithm):
    """The rollout is cut twice, once just after a reset without steps; episodes do not end there."""
    settings = {"n_steps": 8, "gamma": 0.9, "gae_lambda": 1.0}
    agent = SB3Agent(Endless(), SB3Config(algorithm, settings), device="cpu")
    with torch.no_grad():
        agent.model.policy.value_net.weight.zero_(), agent.model.policy.value_net.bias.fill_(10.0)
    found = []
    agent.model.train = lambda: found.extend(agent.model.rollout_buffer.returns.ravel().tolist())
    agent.learn(3)
    agent.restarted()
    agent.learn(5)
    assert found == pytest.approx([10.0] * 8, abs=1e-3)


def test_returns_of_several_steps_end_at_a_cut():
    agent = SB3Agent(Endless(), SB3Config("dqn", {**SETTINGS["dqn"], "n_steps": 3}), device="cpu")
    agent.learn(4).learn(4)
    buffer = agent.model.replay_buffer
    rewards = [float(buffer._get_samples(np.array([at])).rewards) for at in range(8)]
    steps = [3, 3, 2, 1, 3, 3, 2, 1]
    assert rewards == pytest.approx([sum(0.99**k for k in range(n)) for n in steps])
    assert not buffer._get_samples(np.arange(8)).dones.any()


@pytest.mark.parametrize("algorithm", ["sac", "dqn"])
def test_a_loaded_agent_learns_once_it_has_as_much_as_before_its_first_step(algorithm, tmp_path):
    agent = agent_of(algorithm)
    learn(agent, 30)
    agent.save(tmp_path / "agent.pt")
    loaded = SB3Agent.load(tmp_path / "agent.pt", env_of(algorithm), device="cpu")
    before = parameters(loaded)
    learn(loaded, 12)
    assert torch.equal(parameters(loaded), before)
    learn(loaded, 8)
    assert not torch.equal(parameters(loaded), before)


# Spaces that SB3 mistakes --------------------------------------------------------------------------------


def test_actions_in_float64_are_served():
    low, high = np.array([-2.0, 0.0]), np.array([1.0, 3.0])
    spaces = Spaces(gym.spaces.Box(-1, 1, (2,), np.float64), gym.spaces.Box(low, high, dtype=np.float64))
    agent = SB3Agent(spaces, SB3Config("sac", SETTINGS["sac"]), device="cpu")
    for _ in range(2):
        actions = agent.act(torch.zeros(64, 2, dtype=torch.float64)).numpy()
        assert ((actions >= low) & (actions <= high)).all()
        assert (np.ptp(actions, 0) > 1.0).all()
        agent.num_timesteps = 1000


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (gym.spaces.Discrete(4, start=2), gym.spaces.Discrete(2), "observation_space is Discrete"),
        (
            gym.spaces.MultiDiscrete([3, 2], start=[0, 1]),
            gym.spaces.Discrete(2),
            "observation_space is Multi",
        ),
        (
            gym.spaces.Dict(a=gym.spaces.Discrete(4, start=2)),
            gym.spaces.Discrete(2),
            r"space\['a'\] is Discr",
        ),
        (gym.spaces.Discrete(4), gym.spaces.MultiDiscrete([2], start=[5]), "action_space is MultiDiscrete"),
        (gym.spaces.Discrete(4), gym.spaces.Box(0, 9, (1,), np.int64), "a Box of floating-point numbers"),
        (gym.spaces.Tuple([gym.spaces.Discrete(2)]), gym.spaces.Discrete(2), "SB3's ppo does not take Tuple"),
    ],
)
def test_spaces_that_sb3_mistakes_are_refused(observations, actions, message):
    with pytest.raises(ValueError, match=message):
        SB3Agent(Spaces(observations, actions), SB3Config("ppo"), device="cpu")


@pytest.mark.parametrize("validates", [True, False])  # False: as torch.compile leaves it
def test_a_policy_that_diverges_is_said_to(validates, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", validates)
    # set by hand: what a step of 1e30 leaves, NaN or saturated, hangs on the processor
    agent = agent_of("ppo")
    with torch.no_grad():
        agent.model.policy.action_net.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the policy of SB3's ppo is NaN: it has diverged"):
        learn(agent, 64, log_every=64)
