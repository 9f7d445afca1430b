"""General preference models in place of the reward model: PreferenceRL, SelfPlay, their doors and recipes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents import (
    DQNConfig,
    HeronConfig,
    PPOConfig,
    PreferenceRL,
    PreferenceRLConfig,
    SelfPlay,
    SelfPlayConfig,
)
from prefrl.cli import main
from prefrl.data import concatenate_segments
from prefrl.preferences import RewardModelConfig
from prefrl.preferences.general_models import (
    GPMNetworkConfig,
    PALNetworkConfig,
    SegmentModel,
    ThurstoneNetworkConfig,
    load_reward_model,
)
from prefrl.preferences.trajectories import ByModel
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn

PPO = PPOConfig(hidden=(8,), n_steps=8, batch_size=8, n_epochs=2)
DQN = DQNConfig(learning_starts=10, batch_size=8, hidden=(8,), buffer_size=60)
SMALL = {"members": 2, "hidden": (8,), "epochs": 2, "batch_size": 8}
SCHEDULE = {"segment_length": 5, "num_labels": 14, "first_labels": 6, "session_labels": 5,
            "first_session": 20, "session_every": 10}  # fmt: skip


def asker(reward, preferences=None, seed=0, **settings):
    env = prefrl.envs.make_device("prefrl/Pendulum-v0", 2, max_episode_steps=9)
    config = PreferenceRLConfig(PPO, reward, **{**SCHEDULE, **settings})
    return PreferenceRL(env, config, preferences=preferences, device="cpu", seed=seed)


def player(reward, learner=PPO, preference=None, **settings):
    env = prefrl.envs.make_device("prefrl/CartPole-v0", 3, max_episode_steps=25)
    settings = {"reward_source": "reward_model", "fit_every": 4, **settings}
    return SelfPlay(env, SelfPlayConfig(learner, reward, **settings), preference=preference, device="cpu")


def observations(agent):
    return torch.as_tensor(np.stack([agent.observation_space.sample() for _ in range(4)]))


@pytest.mark.parametrize("reward", [ThurstoneNetworkConfig(**SMALL), PALNetworkConfig(**SMALL, num_users=2)])
def test_preference_rl_trains_and_resumes_bit_equal(reward, tmp_path):
    whole = asker(reward)
    learn(whole, 60)
    assert isinstance(whole.reward_model, SegmentModel)
    assert (whole.asked, whole.sessions) == (14, 3)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    first = asker(reward)
    learn(first, 60, folder=folder, checkpoint_every=26,
          callback=lambda local, world: first.num_timesteps < 28)  # fmt: skip
    second = asker(reward)
    learn(second, 60, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    scores = [agent.reward_model.scores(whole.preferences.first) for agent in (whole, second)]
    assert torch.equal(*scores)
    obs = observations(whole)
    assert torch.equal(*(agent.act(obs, deterministic=True) for agent in (whole, second)))
    whole.save(tmp_path / "agent.pt")
    loaded = PreferenceRL.load(tmp_path / "agent.pt", device="cpu")
    assert loaded.config == whole.config
    assert type(loaded.config.reward) is type(reward)
    assert torch.equal(loaded.reward_model.scores(whole.preferences.first), scores[0])


def test_the_learner_is_told_the_reward_of_the_chosen_annotator():
    """Two annotators say the opposite of each other; nobody else is asked."""
    source = asker(RewardModelConfig(**SMALL), num_labels=40, first_labels=40)
    learn(source, 60)
    answers = replace(source.preferences, annotators=torch.zeros(40, dtype=torch.int64))
    who = torch.arange(40) % 2
    labels = torch.where(who == 0, answers.labels, 1.0 - answers.labels)
    answers = replace(answers, labels=labels, annotators=who, annotator_names=("one", "other"))
    learning = {**SMALL, "epochs": 60, "learning_rate": 1e-2}
    agents = [asker(PALNetworkConfig(**learning, user=user), answers, num_labels=0) for user in (0, 1)]
    assert agents[0].preferences.annotator_names == ("one", "other"), "no teacher will add anything"
    part = answers.first
    rewards = [agent.reward_model.rewards(part.obs[:, :-1], part.actions).flatten() for agent in agents]
    assert float(torch.corrcoef(torch.stack(rewards))[0, 1]) < -0.3
    shown, inner = [], agents[1].learner.observe
    agents[1].learner.observe = lambda step: (shown.append(step), inner(step))
    learn(agents[1], 10)
    for step in shown:
        wanted = agents[1].reward_model.rewards(step.obs, step.actions)
        torch.testing.assert_close(step.rewards, wanted)


def test_a_teacher_is_an_annotator_more():
    answers = asker(RewardModelConfig(**SMALL))
    learn(answers, 30)
    two = replace(answers.preferences, annotator_names=("one", "other"))
    with pytest.raises(ValueError, match="the comparisons have 3 annotators: one, other, teacher"):
        asker(PALNetworkConfig(**SMALL), two)
    agent = asker(PALNetworkConfig(**SMALL, num_users=3), two)
    learn(agent, 30)
    assert agent.preferences.annotator_names == ("one", "other", "teacher")
    assert int(agent.preferences.annotators[-1]) == 2


@pytest.mark.parametrize("reward", [GPMNetworkConfig(), PALNetworkConfig(form="A")])
def test_a_reward_of_steps_must_be_had(reward):
    with pytest.raises(
        ValueError, match="query is 'd_optimal', which needs a RewardModelConfig, and reward is"
    ):
        PreferenceRLConfig(reward=ThurstoneNetworkConfig(), query="d_optimal")
    with pytest.raises(ValueError, match="without rewards of single steps; PreferenceRL takes"):
        PreferenceRLConfig(reward=reward)
    with pytest.raises(ValueError, match="and the learner DQNConfig keeps steps"):
        player(reward, DQN)
    with pytest.raises(ValueError, match="must be RewardModelConfig, since a hierarchy"):
        HeronConfig(reward=reward)


@pytest.mark.parametrize("learner", [PPO, DQN])
def test_the_baseline_of_self_play_may_be_thurstone(learner):
    agent = player(ThurstoneNetworkConfig(**SMALL), learner)
    learn(agent, 400)
    assert agent.fitted
    assert 0.0 <= agent.result()["reward_model_accuracy"] <= 1.0


@pytest.mark.parametrize("reward", [GPMNetworkConfig(**SMALL), PALNetworkConfig(**SMALL, form="A", user=1)])
@pytest.mark.parametrize("credit", ["spread", "last"])
def test_without_rewards_of_steps_trajectories_are_paid_what_the_model_thinks_of_them(reward, credit):
    agent = player(reward, queue=6, credit=credit)
    shown, inner, wanted, asked = [], agent.learner.observe, [], []
    agent.learner.observe = lambda step: (shown.append(step), inner(step))
    believed = agent._believed

    def watched(trajectory):
        others = [segment for _, segment in agent._opponents][:-1]
        asked.append(len(others))
        mine = trajectory.as_segment()
        chances = [agent.reward_model.probability(other, mine) for other in others]
        wanted.append((2.0 * torch.cat(chances).mean() - 1.0, len(trajectory)))
        return believed(trajectory)

    agent._believed = watched
    learn(agent, 500)
    assert len(wanted) > 5
    assert max(asked) == 6
    paid = torch.cat([step.rewards for step in shown])
    parts = [torch.zeros(n) if credit == "last" else (worth / n).expand(n) for worth, n in wanted]
    for part, (worth, _) in zip(parts, wanted, strict=True):
        if credit == "last":
            part[-1] = worth
    torch.testing.assert_close(paid, torch.cat(parts).float(), rtol=0, atol=1e-5)
    assert not any(bool(step.truncations.any()) for step in shown), "the whole was paid for"


def test_self_play_with_a_model_without_a_score_resumes_bit_equal(tmp_path):
    reward = GPMNetworkConfig(**SMALL)
    whole = player(reward, queue=6)
    learn(whole, 400)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    first = player(reward, queue=6)
    learn(first, 400, folder=folder, checkpoint_every=150,
          callback=lambda local, world: first.num_timesteps < 250)  # fmt: skip
    second = player(reward, queue=6)
    learn(second, 400, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    obs = observations(whole)
    assert torch.equal(*(agent.act(obs, deterministic=True) for agent in (whole, second)))
    everything = concatenate_segments([segment for _, segment in whole._opponents])
    assert torch.equal(*(agent.reward_model.embeddings(everything) for agent in (whole, second)))


def test_a_fitted_model_takes_the_place_of_who_compares():
    fitted = player(GPMNetworkConfig(**SMALL))
    learn(fitted, 300)
    agent = player(RewardModelConfig(), preference=ByModel(fitted.reward_model), reward_source="self_play")
    learn(agent, 300)
    assert agent.trajectories > 5
    rates = [float(agent._win_rate(mine[None])) for mine in agent.history]
    assert min(rates) < 0.0 < max(rates)


FLAGS = ("--env-id", "prefrl/CartPole-v0", "--agent", "ppo", "--total-timesteps", "400", "--eval-episodes",
         "2", "--hidden", "8", "--epochs", "1", "--quiet")  # fmt: skip


def test_models_have_names_on_the_command_line(tmp_path):
    asked = ("--num-labels", "14", "--segment-length", "5", "--agent-args", "n_steps=32", "batch_size=32")
    flags = ("--reward-model", "pal", "--reward-model-args", "num_users=2", "user=1")
    out = tmp_path / "pal"
    assert main(["train", "preference_rl", *FLAGS, *asked, *flags, "--out", str(out)]) == 0
    model = load_reward_model(out / "reward_model.pt")
    assert model.config == PALNetworkConfig(hidden=(8,), epochs=1, num_users=2, user=1)
    source = ("--reward-source", "reward_model", "--reward-model", "gpm", "--agent-args", "n_steps=32")
    out = tmp_path / "gpm"
    assert main(["train", "self_play", *FLAGS, *source, "--out", str(out)]) == 0
    assert isinstance(load_reward_model(out / "reward_model.pt").config, GPMNetworkConfig)
    # What was learned there judges another run, also when it is resumed without the file.
    flags = ("--preference", "model", "--preference-model", str(out / "reward_model.pt"))
    again = tmp_path / "judged"
    flags = (*flags, "--agent-args", "n_steps=32", "--out", str(again))
    assert main(["train", "self_play", *FLAGS, *flags]) == 0
    (out / "reward_model.pt").unlink()
    assert json.loads((again / "result.json").read_text())["trajectories"] > 5
    assert main(["evaluate", str(again), "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("preference_rl", ("--reward-model", "pal", "--reward-model-args", "form=A"), "without rewards"),
        ("preference_rl", ("--reward-model-args", "blocks=2"), "bradley_terry: blocks is unknown"),
        ("self_play", ("--reward-model", "gpm", "--reward-model-args", "members=2"), "give it as --members"),
        ("self_play", ("--preference", "model"), "a file of a model goes with --preference model"),
        ("self_play", ("--preference-model", "model.pt"), "a file of a model goes with --preference model"),
    ],
)  # fmt: skip
def test_wrong_flags(recipe, flags, message, tmp_path, capsys):
    assert main(["train", recipe, *flags, "--out", str(tmp_path / "run")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
