"""Self-play: what a trajectory is worth, how it is paid, relabelling, the baselines, and resuming."""

import itertools

import pytest
import torch

import prefrl.envs
from prefrl.agents import DQNConfig, PPOConfig, SACConfig, SB3Config, SelfPlay, SelfPlayConfig
from prefrl.functional.preferences.games import cycle_of_three
from prefrl.preferences import RewardModelConfig
from prefrl.preferences.trajectories import ByOption, MaxReturn, Noisy, WithinBudget
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn
from tests.shared.resuming import assert_same

OFF_POLICY = {"learning_starts": 10, "batch_size": 8, "hidden": (8,), "buffer_size": 60}
LEARNERS = {
    "sac": SACConfig(**OFF_POLICY),
    "dqn": DQNConfig(**OFF_POLICY),
    "ppo": PPOConfig(n_steps=40, batch_size=16, n_epochs=2, hidden=(8,)),
    "sb3_ppo": SB3Config(
        "ppo", {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}
    ),
}
REWARD = RewardModelConfig(members=1, bootstrap=False, hidden=(8,), epochs=2, use_next_obs=True)


def agent_of(learner="dqn", seed=0, env_id="prefrl/ThreeGoals-v0", preference=None, rows=3, **settings):
    if learner == "sac":
        env_id = "prefrl/Pendulum-v0"
    limit = {"max_episode_steps": 9} if env_id in ("prefrl/CartPole-v0", "prefrl/Pendulum-v0") else {}
    env = prefrl.envs.make_device(env_id, rows, **limit)
    config = SelfPlayConfig(LEARNERS[learner], REWARD, **settings)
    preference = preference or (MaxReturn() if limit else ByOption(cycle_of_three(1.0, 0.5, 0.2)))
    return SelfPlay(env, config, preference=preference, device="cpu", seed=seed)


def watched(agent):
    """Keep what the learner is shown."""
    shown, inner = [], agent.learner.observe

    def observe(step):
        shown.append(step)
        inner(step)

    agent.learner.observe = observe
    return shown


@pytest.mark.parametrize("credit", ["spread", "last"])
def test_a_trajectory_is_paid_its_win_rate_against_the_queue(credit):
    agent = agent_of(credit=credit, queue=4, relabel_every=10_000)
    shown = watched(agent)
    learn(agent, 240)
    assert agent.trajectories == len(agent.history) > 15
    ends = [i for i, step in enumerate(shown) if bool(step.terminations[0])]
    starts = [0, *(i + 1 for i in ends[:-1])]
    for number, (first, last) in enumerate(zip(starts, ends, strict=True)):
        mine, queue = agent.history[number][None], agent.history[max(0, number - 4) : number]
        worth = 0.0
        if queue:
            worth = float(agent.preference.compare(mine, torch.stack(queue), torch.Generator()).mean())
        paid = torch.cat([step.rewards for step in shown[first : last + 1]])
        steps = len(paid)
        wanted = torch.full((steps,), worth / steps) if credit == "spread" else torch.zeros(steps)
        if credit == "last":
            wanted[-1] = worth
        torch.testing.assert_close(paid, wanted)


def test_the_learner_is_shown_whole_episodes_one_after_the_other():
    agent = agent_of()
    shown = watched(agent)
    learn(agent, 240)
    for step, following in itertools.pairwise(shown):
        assert len(step.rewards) == 1
        if not bool(step.terminations[0]):
            assert torch.equal(step.next_obs, following.obs)
        else:
            assert float(following.obs[0, 2]) == 0.0, "a new episode begins"
    assert agent.learner.num_timesteps == len(shown) <= 240


def test_truncations_are_ends_for_self_play_and_not_for_the_true_reward():
    def ends(source):
        agent = agent_of(env_id="prefrl/CartPole-v0", reward_source=source)
        shown = watched(agent)
        learn(agent, 120)
        flags = [(bool(step.terminations[0]), bool(step.truncations[0])) for step in shown]
        return set(flags)

    assert (False, True) not in ends("self_play")
    assert (False, True) in ends("true")


@pytest.mark.parametrize("learner", ["dqn", "sac", "ppo"])
def test_replayed_rewards_follow_the_queue(learner):
    """After a relabelling, what is replayed is worth what it is worth now."""
    agent = agent_of(learner, queue=5, relabel_every=1)
    learn(agent, 240)
    if learner == "ppo":
        rewards = agent.learner.rollout.storage["rewards"][: agent.learner.rollout.size, 0]
        assert len(rewards) > 12
    else:
        replay = agent.learner.replay
        order = replay.latest(min(replay.added, replay.steps), torch.device("cpu"))
        rewards = replay.storage["rewards"][order, 0]
    summaries, lengths = zip(*agent._known, strict=True)
    wins = agent._win_rate(torch.stack(list(summaries)))
    wanted = torch.cat([(win / n).expand(n) for win, n in zip(wins, lengths, strict=True)])
    torch.testing.assert_close(rewards.double(), wanted[-len(rewards) :], atol=1e-6, rtol=1e-5)


def test_the_memory_for_relabelling_is_bounded():
    agent = agent_of(relabel_size=30)
    learn(agent, 300)
    assert 30 <= agent._known_steps < 30 + 12
    assert agent._known_steps == sum(length for _, length in agent._known)


@pytest.mark.parametrize("learner", ["sb3_ppo", "ppo", "dqn"])
def test_the_baseline_fits_a_model_to_the_same_preferences(learner):
    agent = agent_of(learner, reward_source="reward_model", fit_every=4)
    shown = watched(agent)
    learn(agent, 200)
    assert agent.fitted
    agent.comparisons().validate()
    assert 0.0 <= agent.result()["reward_model_accuracy"] <= 1.0
    unpaid = agent.learner.num_timesteps - len(shown)
    assert unpaid > 0 if learner == "ppo" else unpaid == 0


@pytest.mark.parametrize("queue", [2, 10])
def test_the_baseline_is_told_who_beat_whom(queue):
    """Every label is that of the two trajectories it stands with: here, the longer one is preferred."""

    class Longer(MaxReturn):
        def summarize(self, trajectory):
            return torch.tensor([float(len(trajectory))], dtype=torch.float64)

    agent = agent_of(
        "sb3_ppo", reward_source="reward_model", fit_every=1000, queue=queue, preference=Longer()
    )
    learn(agent, 200)
    answers = agent.comparisons()
    gap = answers.second.lengths - answers.first.lengths
    assert len(answers) > 20
    assert torch.equal(answers.labels, (1.0 + gap.sign().double()) / 2.0)


def test_the_model_pays_the_learner():
    agent = agent_of("dqn", reward_source="reward_model", fit_every=4)
    learn(agent, 200)
    replay = agent.learner.replay
    newest = (replay.added - 1) % replay.steps
    step = {name: values[newest] for name, values in replay.storage.items()}
    wanted = agent.reward_model.kept_rewards(step["obs"], step["actions"], step["next_obs"])
    torch.testing.assert_close(step["rewards"], wanted)


@pytest.mark.parametrize(
    ("learner", "source"),
    [
        ("sb3_ppo", "self_play"),
        ("ppo", "self_play"),
        ("ppo", "reward_model"),
        ("dqn", "reward_model"),
        ("sac", "self_play"),
        ("sac", "reward_model"),
        pytest.param("sb3_ppo", "reward_model", marks=pytest.mark.slow),
        pytest.param("dqn", "self_play", marks=pytest.mark.slow),
    ],
)
def test_resumes_bit_equal_and_loads(learner, source, tmp_path):
    settings = {
        "reward_source": source,
        "fit_every": 4,
        "preference": Noisy(MaxReturn() if learner == "sac" else ByOption(cycle_of_three(1, 1, 1)), 0.1),
    }
    whole = agent_of(learner, **settings)
    learn(whole, 150)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    first = agent_of(learner, **settings)
    learn(
        first, 150, folder=folder, checkpoint_every=60, callback=lambda local, world: first.num_timesteps < 70
    )
    second = agent_of(learner, **settings)
    learn(second, 150, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    assert torch.equal(torch.stack(whole.history), torch.stack(second.history))
    if learner != "sb3_ppo":  # whose optimiser has tuples, which files keep as lists
        assert_same(whole.learner.saved_state(), second.learner.saved_state())
    obs = torch.rand(5, 3)
    assert torch.equal(*(agent.act(obs, deterministic=True) for agent in (whole, second)))
    whole.save(tmp_path / "agent.pt")
    loaded = SelfPlay.load(tmp_path / "agent.pt", device="cpu")
    assert torch.equal(loaded.act(obs, deterministic=True), whole.act(obs, deterministic=True))


def test_a_loaded_agent_wants_to_know_who_judges(tmp_path):
    agent = agent_of()
    learn(agent, 100)
    agent.save(tmp_path / "agent.pt")
    env = prefrl.envs.make_device("prefrl/ThreeGoals-v0", 3)
    loaded = SelfPlay.load(tmp_path / "agent.pt", env=env, device="cpu")
    with pytest.raises(ValueError, match=r"trained by the preference ByOption, and now has MaxReturn"):
        learn(loaded, 10)
    learn(loaded.judged_by(agent.preference), 60)
    assert loaded.trajectories > agent.trajectories
    assert torch.equal(loaded.history[0], agent.history[0])


def test_a_budget_over_the_whole_trajectory():
    agent = agent_of("sb3_ppo", env_id="prefrl/Meadow-v0", preference=WithinBudget(0.5))
    learn(agent, 100)
    returns, shares = torch.stack(agent.history).T
    torch.testing.assert_close(returns / 16.0, shares)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue": 0}, "queue is 0"),
        ({"credit": "first"}, "credit is 'first'"),
        ({"reward_source": "none"}, "reward_source is 'none'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SelfPlayConfig(**settings)


def test_a_loaded_baseline_fits_once_it_has_as_many_comparisons_as_before_its_first_fit(tmp_path):
    settings = {"reward_source": "reward_model", "fit_every": 6, "opponents": 2}
    agent = agent_of(rows=1, **settings)
    fits, fit = [], agent.reward_model.fit

    def counted(model, inner):
        def call(answers):
            fits.append(len(answers))
            return inner(answers)

        return call

    agent.reward_model.fit = counted(agent, fit)
    learn(agent, 200)
    assert fits[0] == 11, "1 and five times 2"
    agent.save(tmp_path / "agent.pt")
    env = prefrl.envs.make_device("prefrl/ThreeGoals-v0", 1)
    loaded = SelfPlay.load(tmp_path / "agent.pt", env, device="cpu").judged_by(agent.preference)
    fits.clear()
    loaded.reward_model.fit = counted(loaded, loaded.reward_model.fit)
    learn(loaded, 300)
    assert fits[0] >= 11
