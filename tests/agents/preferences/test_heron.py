"""HERON: what it compares, what it pays, its baselines, its errors, and resuming."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents import DQNConfig, Heron, HeronConfig, PPOConfig, SACConfig, SB3Config
from prefrl.agents.base import LearningFailedError
from prefrl.agents.preferences.heron import reference_size
from prefrl.envs import AgentsAsRows
from prefrl.envs.factors import FACTORS, Factors
from prefrl.functional.preferences.hierarchy import all_pairs, weighted_sum
from prefrl.preferences import RewardModelConfig
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn

OFF_POLICY = {"learning_starts": 10, "batch_size": 8, "buffer_size": 200}
SAC = SACConfig(hidden=(8,), **OFF_POLICY)
PPO = PPOConfig(hidden=(8,), n_steps=8, batch_size=8, n_epochs=2)
SB3_SAC = SB3Config("sac", {"policy_kwargs": {"net_arch": [8]}, **OFF_POLICY})
REWARD = RewardModelConfig(members=1, hidden=(16,), use_actions=False, use_features=True, bootstrap=False)
FITS = {"first_fit": 20, "fit_every": 10, "batches": 2}


def agent_of(seed=0, factors=None, rows=2, reward=REWARD, learner=SAC, **settings):
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", rows, max_episode_steps=9)
    config = HeronConfig(learner, reward, **{**FITS, **settings})
    return Heron(env, config, factors=factors, device="cpu", seed=seed)


def kept(agent):
    store = agent.store.latest()
    if agent.config.learner == SB3_SAC:
        buffer = agent.learner.model.replay_buffer
        return store, torch.as_tensor(buffer.rewards[: buffer.pos])
    if agent.config.learner == PPO:
        rollout = agent.learner.rollout
        return agent.store.latest(rollout.size), rollout.storage["rewards"][: rollout.size]
    replay = agent.learner.replay
    return store, replay.storage["rewards"][: replay.added]


def test_factors_are_kept_in_their_order_and_turned():
    agent = agent_of(ranking=("torque_squared", "angle_squared"))
    learn(agent, 10)
    store, _ = kept(agent)
    angle = torch.atan2(store["obs"][..., 1], store["obs"][..., 0])
    torch.testing.assert_close(store["features"][..., 0], -(store["actions"][..., 0] ** 2))
    torch.testing.assert_close(store["features"][..., 1], -(angle**2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learner", [SAC, PPO, SB3_SAC])
def test_the_learner_is_paid_by_the_model_and_never_by_the_environment(learner):
    agent = agent_of(learner=learner)
    learn(agent, 60)
    store, paid = kept(agent)
    flat = [store[name].flatten(0, 1) for name in ("obs", "actions", "next_obs", "features")]
    assert agent.fits == 5
    torch.testing.assert_close(
        paid, agent.reward_model.kept_rewards(*flat).reshape(-1, 2), atol=1e-4, rtol=1e-4
    )


def test_an_environment_that_pays_something_else_changes_nothing():
    """The true reward does not leak: with it replaced, the policy is the same to the bit."""
    policies = []
    for factor in (1.0, -3.0):
        agent = agent_of()
        inner = agent.observe
        agent.observe = lambda step, inner=inner, factor=factor: inner(
            type(step)(**{**vars(step), "rewards": factor * step.rewards})
        )
        learn(agent, 60)
        policies.append(torch.cat([p.detach().flatten() for p in agent.learner.networks.actor.parameters()]))
    assert torch.equal(*policies)


@pytest.mark.parametrize(
    "settings", [{"normalize_factors": True}, {"normalize_factors": False, "beta": 0.25}]
)
def test_the_engineered_sum(settings):
    agent = agent_of(reward_source="weighted_sum", **settings)
    learn(agent, 40)
    store, paid = kept(agent)
    scales = agent.spread if settings["normalize_factors"] else torch.ones(3)
    wanted = weighted_sum(store["features"], scales, agent.config.beta)
    newest = wanted[-1]
    torch.testing.assert_close(paid[-1], newest.float(), atol=1e-4, rtol=1e-4)


def test_a_constant_factor_is_summed_as_it_is():
    def with_constant(step):
        values = FACTORS["Pendulum-v1"].compute(step)
        return torch.cat([values, 0.0 * values[:, :1]], 1)

    factors = Factors((*FACTORS["Pendulum-v1"].names, "event"), (-1, -1, -1, 1), with_constant)
    agent = agent_of(factors=factors, reward_source="weighted_sum")
    learn(agent, 40)
    assert float(kept(agent)[1].abs().max()) < 100.0
    one = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    nothing = torch.zeros(1)
    paid = agent._rewards(nothing[None], nothing[None], nothing[None], one, nothing)
    assert float(paid) == pytest.approx(0.5**3)


def test_the_true_reward_for_comparison():
    agent = agent_of(reward_source="true")
    learn(agent, 40)
    store, paid = kept(agent)
    torch.testing.assert_close(paid, store["rewards"])
    assert agent.fits == 0


def test_units_of_factors_do_not_matter():
    scaled = FACTORS["Pendulum-v1"].measured_in({"torque_squared": 1024.0})  # a power of two: no rounding
    agents = []
    for factors in (None, scaled):
        agents.append(agent_of(factors=factors))
        learn(agents[-1], 60)
    plain, other = agents
    torch.testing.assert_close(other.spread / plain.spread, torch.tensor([1.0, 1.0, 1024.0]).double())
    results = [agent.result() for agent in (plain, other)]
    assert results[0]["decided_by_level"] == results[1]["decided_by_level"]
    assert torch.equal(kept(plain)[1], kept(other)[1])


def test_undecided_pairs_are_left_out():
    """With huge margins no pair is decided: the reward model stays as it is."""
    agent = agent_of(margins=(1e6, 1e6, 1e6))
    weights = [p.detach().clone() for p in agent.reward_model.network.parameters()]
    learn(agent, 40)
    assert all(
        torch.equal(a, b) for a, b in zip(weights, agent.reward_model.network.parameters(), strict=True)
    )
    assert agent.result()["decided_fraction"] == 0.0


def test_levels_can_be_separated():
    agent = agent_of(level_scale=5.0)
    learn(agent, 60)
    store, paid = kept(agent)
    assert agent._reference is not None
    flat = [store[name].flatten(0, 1) for name in ("obs", "actions", "next_obs", "features")]
    unscaled = agent.reward_model.kept_rewards(*flat).reshape(-1, 2)
    assert not torch.allclose(paid, unscaled)


def test_steps_are_set_apart_by_the_margin_of_a_step():
    agent = agent_of(level_scale=1e9, segment_length=4)  # so that only the first level counts
    learn(agent, 60)
    store, paid = kept(agent)
    flat = [store[name].flatten(0, 1) for name in ("obs", "actions", "next_obs", "features")]
    rewards, others = agent.reward_model.kept_rewards(*flat), agent._reference
    apart = (flat[3][:, None, 0] - others[1][None, :, 0]).abs() > agent.margins[0] / 4
    expected = ((rewards[:, None] - others[0]) * apart).mean(1)
    assert 0.1 < apart.float().mean() < 0.9
    torch.testing.assert_close(paid[: len(expected) // 2].flatten(), expected, atol=1e-4, rtol=1e-4)


def test_long_segments_are_measured_by_fewer():
    assert [reference_size(length) for length in (1, 50, 200, 1_000)] == [1_024, 1_024, 327, 128]


@pytest.mark.parametrize("length", [1, 4])
def test_what_is_compared_are_sums_over_segments(length):
    agent = agent_of(segment_length=length)
    learn(agent, 40)
    segments, verdicts = agent.verdicts(12)
    first, second = all_pairs(12)
    assert segments.max_length == length
    totals = (segments.features * segments.mask[..., None]).sum(1)
    gap = totals[second] - totals[first]
    for row in range(len(first)):
        for level in range(3):
            if abs(float(gap[row, level])) > float(agent.margins[level]):
                assert int(verdicts.levels[row]) == level
                assert float(verdicts.labels[row]) == float(gap[row, level] > 0)
                break


@pytest.mark.parametrize("learner", [SAC, PPO, SB3_SAC])
def test_resumes_bit_equal_and_loads(learner, tmp_path):
    settings = {"learner": learner, "level_scale": 2.0, "spread_of": "batch"}
    whole = agent_of(**settings)
    learn(whole, 60)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    first = agent_of(**settings)
    learn(
        first, 60, folder=folder, checkpoint_every=26, callback=lambda local, world: first.num_timesteps < 28
    )
    second = agent_of(**settings)
    learn(second, 60, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    obs = torch.randn(5, 3)
    assert torch.equal(*(agent.act(obs, deterministic=True) for agent in (whole, second)))
    assert whole.result() == second.result()
    whole.save(tmp_path / "agent.pt")
    loaded = Heron.load(tmp_path / "agent.pt", device="cpu")
    assert torch.equal(loaded.act(obs, deterministic=True), whole.act(obs, deterministic=True))
    Heron.load(tmp_path / "agent.pt", env=prefrl.envs.make_device("prefrl/Pendulum-v0", 2), device="cpu")


def test_agents_of_a_grid_share_policy_and_reward_model():
    env = AgentsAsRows(prefrl.envs.make_device("prefrl/TrafficGrid-v0", 2, rows=1, columns=2))
    ppo = {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
    config = HeronConfig(
        SB3Config("ppo", ppo), REWARD, ranking=("queue", "switches"), margins=(0.1, 0.1), **FITS
    )
    agent = Heron(env, config, device="cpu")
    learn(agent, 80)
    assert agent.fits > 0
    assert agent.reward_model.num_features == 2
    assert set(agent.result()["decided_by_level"]) == {"queue", "switches"}


def test_gymnasium_environments_with_infos():
    agent = Heron(gym.make("Hopper-v5"), HeronConfig(SAC, REWARD, first_fit=150), device="cpu")
    learn(agent, 200)
    velocity = agent.store.latest()["features"][..., 0]
    assert float(velocity.std()) > 0.0


def test_a_constant_factor_with_a_margin_stops_the_run():
    def with_constant(step):
        values = FACTORS["Pendulum-v1"].compute(step)
        return torch.cat([values, torch.ones_like(values[:, :1])], 1)

    factors = Factors((*FACTORS["Pendulum-v1"].names, "gravity"), (-1, -1, -1, 1), with_constant)
    with pytest.raises(
        LearningFailedError, match="the factor 'gravity' has been the same in all that was seen"
    ):
        learn(agent_of(factors=factors), 40)
    agent = agent_of(factors=factors, ranking=("gravity", "angle_squared"), margins=(0.0, 1.0))
    learn(agent, 40)
    assert agent.result()["decided_by_level"]["gravity"] == 0.0


@pytest.mark.parametrize("odd", [-7.0, 7.0])
def test_rows_between_episodes_do_not_make_a_constant_factor_vary(odd):
    masks = []

    def constant_but_there(step):
        masks.append(step.mask)
        return torch.stack([step.obs[:, 2], torch.where(step.mask, 1.0, odd)], 1)

    env = gym.make_vec("prefrl/CartPole-v0", 2, max_episode_steps=5)  # whose learner takes such rows
    learner = DQNConfig(learning_starts=10, batch_size=8, hidden=(8,))
    factors = Factors(("angle", "gravity"), (1, 1), constant_but_there)
    agent = Heron(env, HeronConfig(learner, REWARD, **FITS), factors=factors, device="cpu")
    with pytest.raises(LearningFailedError, match="the factor 'gravity' has been the same"):
        learn(agent, 40)
    assert not torch.stack(masks).all(), "there were such rows"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: agent_of(ranking=("angle_squared", "mass")), "ranking holds 'mass'; the factors here are"),
        (lambda: HeronConfig(ranking=("a", "b", "a")), "a factor can have one rank only"),
        (lambda: HeronConfig(ranking=("a", "b"), margins=(1.0,)), "1 margins for 2 ranked factors"),
        (lambda: agent_of(margins=(1.0,)), "1 margins for 3 ranked factors"),
        (lambda: HeronConfig(margins=(-1.0,)), r"margins\[0\] is -1.0"),
        (lambda: HeronConfig(beta=0.0), "beta is 0.0"),
        (lambda: HeronConfig(level_scale=0.5), "level_scale is 0.5"),
        (lambda: HeronConfig(batch_size=1), "batch_size is 1"),
        (lambda: HeronConfig(reward_source="env"), "reward_source is 'env'"),
        (lambda: Heron(gym.make("CartPole-v1")), "CartPole-v1 has no factors"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_predicts_like_sb3():
    agent = agent_of()
    action, state = agent.predict(np.zeros(3, dtype=np.float32), deterministic=True)
    assert action.shape == (1,)
    assert state is None


def test_a_loaded_agent_fits_once_it_has_seen_as_much_again(tmp_path):
    agent = agent_of()
    learn(agent, 40)
    agent.save(tmp_path / "agent.pt")
    assert agent.result()["reward_model_accuracy"] is not None
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 2, max_episode_steps=9)
    loaded = Heron.load(tmp_path / "agent.pt", env, device="cpu")
    assert loaded.result() == {
        "decided_fraction": None,
        "decided_by_level": None,
        "reward_model_accuracy": None,
    }
    fits, spread = loaded.fits, loaded.spread.clone()
    learn(loaded, 18)
    assert (loaded.fits, loaded.spread.tolist()) == (fits, spread.tolist())
    learn(loaded, 2)
    assert loaded.fits == fits + 1
    assert float(kept(loaded)[1].abs().max()) < 100.0


def test_no_fit_is_made_of_segments_that_were_cut():
    agent = agent_of(segment_length=12)  # episodes have 9 steps
    learn(agent, 60)
    assert agent.fits == 0
    assert not kept(agent)[1].any()


def test_the_accuracy_of_nothing_is_none():
    agent = agent_of(margins=(1e9,) * 3)
    learn(agent, 60)
    found = agent.result()
    assert (found["decided_fraction"], found["reward_model_accuracy"]) == (0.0, None)
