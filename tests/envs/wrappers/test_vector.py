"""Vector wrappers: learned rewards in every autoreset mode, and agents as rows."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents import DQN, DQNConfig
from prefrl.envs import AgentsAsRows, VectorReplaceReward
from prefrl.run.loop import learn


def make(face, mode, env_id="prefrl/CartPole-v0", n=4, **settings):
    if face == "device":
        return prefrl.envs.make_device(env_id, n, autoreset_mode=mode, **settings)
    if face == "host":
        return gym.make_vec(env_id, n, autoreset_mode=mode, **settings)
    return gym.make_vec(
        env_id, n, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **settings
    )


@pytest.mark.parametrize("mode", [gym.vector.AutoresetMode.NEXT_STEP, gym.vector.AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("face", ["device", "host", "sync"])
def test_rewards_are_of_true_transitions(face, mode):
    """The reward is |next_obs - obs|: small for a step, and it would be large across a restart."""

    def change(obs, actions, next_obs):
        return abs(next_obs - obs).sum(-1)

    env = VectorReplaceReward(
        make(face, mode, "prefrl/MountainCarContinuous-v0", max_episode_steps=50), change
    )
    env.reset(seed=0)
    push = torch.ones(4, 1) if face == "device" else np.ones((4, 1), dtype=np.float32)
    paused = np.zeros(4, dtype=bool)
    pauses = 0
    for _ in range(120):
        _, rewards, terminations, truncations, infos = env.step(push)
        assert len(infos["true_reward"]) == 4
        paid = np.asarray(rewards)
        assert (paid[paused] == 0.0).all()
        assert ((paid[~paused] > 0.0) & (paid[~paused] < 0.2)).all()
        pauses += paused.sum()
        done = np.asarray(terminations | truncations)
        paused = done if mode is gym.vector.AutoresetMode.NEXT_STEP else np.zeros(4, dtype=bool)
    assert (pauses > 0) == (mode is gym.vector.AutoresetMode.NEXT_STEP)


@pytest.mark.parametrize("wrong", [np.zeros((4, 1)), np.full(4, np.nan)])
def test_wrong_rewards_are_refused(wrong):
    env = VectorReplaceReward(make("host", "SameStep"), lambda *_: wrong)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="the replaced rewards"):
        env.step(np.zeros(4, dtype=np.int64))


def test_dqn_learns_from_a_replaced_reward_and_resumes(tmp_path):
    from prefrl.run.folder import RunFolder

    def agent():
        env = make("device", "SameStep", max_episode_steps=9)
        paid = VectorReplaceReward(env, lambda obs, actions, next_obs: -next_obs[:, 2].abs())
        return DQN(paid, DQNConfig(hidden=(8,), learning_starts=8, batch_size=8), device="cpu")

    whole, first = agent(), agent()
    learn(whole, 80)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    learn(
        first, 80, folder=folder, checkpoint_every=40, callback=lambda local, world: first.num_timesteps < 44
    )
    second = agent()
    learn(second, 80, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    for left, right in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(left, right)
    assert float(whole.replay.storage["rewards"].max()) <= 0.0


@pytest.mark.parametrize("face", ["device", "host"])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_agents_as_rows_are_the_same_world(face, mode):
    settings = {"rows": 2, "columns": 3, "max_episode_steps": 4}
    joint = make(face, mode, "prefrl/TrafficGrid-v0", 3, **settings)
    apart = AgentsAsRows(make(face, mode, "prefrl/TrafficGrid-v0", 3, **settings))
    assert apart.num_envs == 18
    assert apart.single_observation_space.shape == (11,)
    (obs, _), (rows, _) = joint.reset(seed=1), apart.reset(seed=1)
    generator = np.random.default_rng(0)
    for _ in range(9):
        np.testing.assert_array_equal(np.asarray(rows).reshape(3, -1), np.asarray(obs))
        actions = generator.integers(2, size=(3, 6))
        given = [torch.as_tensor(a) if face == "device" else a for a in (actions, actions.ravel())]
        obs, reward, _, cut, infos = joint.step(given[0])
        rows, rewards, _, cuts, told = apart.step(given[1])
        np.testing.assert_array_equal(
            np.asarray(rewards).reshape(3, 6), np.asarray(reward)[:, None].repeat(6, 1)
        )
        np.testing.assert_array_equal(np.asarray(cuts).reshape(3, 6), np.asarray(cut)[:, None].repeat(6, 1))
        factors = np.asarray(told["factors"]).reshape(3, 6, 6)
        np.testing.assert_allclose(factors.mean(1), np.asarray(infos["factors"]), rtol=1e-5)
        assert ("final_obs" in infos) == ("final_obs" in told)
        if "final_obs" in infos:
            np.testing.assert_array_equal(
                np.asarray(told["final_obs"]).reshape(3, -1), np.asarray(infos["final_obs"])
            )
        if mode == "Disabled" and bool(cut.any()):
            obs, _ = joint.reset(options={"reset_mask": cut})
            rows, _ = apart.reset(options={"reset_mask": cuts})


def test_environments_of_one_agent_are_refused():
    with pytest.raises(TypeError, match="has no num_agents"):
        AgentsAsRows(make("host", "SameStep"))
