"""Mixed data of a pendulum: who acts how well, whole episodes, comparisons by return, the same by seed."""

import math
from typing import Any

import gymnasium as gym
import pytest
import torch

from prefrl.run.collect import collect_mixture, collect_transitions
from prefrl.run.study.mixed_data import EPISODE, QUALITIES, MixedData, SwingUp, mixed_pendulum


@pytest.fixture(scope="module")
def mixed() -> MixedData:
    return mixed_pendulum(seed=0)


def test_torques_by_hand() -> None:
    angle = math.pi - 0.1
    obs = torch.tensor(
        [
            [-1.0, 0.0, 0.0],  # hangs at rest: energy -30, any push
            [-1.0, 0.0, -1.0],  # swings back: with it
            [math.cos(angle), math.sin(angle), 8.0],  # too fast for the top, energy +2.1: against it
            [math.cos(0.05), math.sin(0.05), 0.1],  # nearly up: -10 * .05 - 2 * .1
        ]
    )
    wanted = torch.tensor([[2.0], [-2.0], [-2.0], [-0.7]])
    torch.testing.assert_close(SwingUp().act(obs), wanted, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(SwingUp(0.1).act(obs), wanted.clamp(-0.2, 0.2), atol=1e-5, rtol=0.0)


def test_noise_is_what_is_said_and_stays_within_the_torque() -> None:
    obs = torch.tensor([[1.0, 0.0, 0.0]]).expand(20_000, 3)
    torques = SwingUp(noise=0.3, seed=1).act(obs)
    assert torques.std().item() == pytest.approx(0.3, rel=0.03)
    assert SwingUp(noise=9.0).act(obs).abs().max().item() == 2.0
    assert (SwingUp(noise=0.3, seed=2).act(obs) != torques).any()


def test_it_swings_up_from_rest_and_holds() -> None:
    env = gym.make_vec("prefrl/Pendulum-v0", 20)
    data = collect_transitions(SwingUp(), env, 20 * EPISODE, seed=0)
    last = data.next_obs.view(20, EPISODE, 3)[:, -20:]
    assert last[..., 0].min() > 0.99


def test_qualities_are_in_their_order(mixed: MixedData) -> None:
    returns = mixed.transitions.rewards.view(len(QUALITIES), 25, EPISODE).sum(-1).mean(-1)
    assert list(QUALITIES) == ["good", "trembling", "weak", "uniform"]
    good, trembling, weak, uniform = returns.tolist()
    assert good > -250.0
    assert good - 200.0 > trembling > weak + 100.0 > uniform + 300.0


def test_episodes_are_whole_and_of_both_pendulums(mixed: MixedData) -> None:
    data = mixed.transitions
    assert (len(data), data.num_episodes) == (100 * EPISODE, 100)
    assert data.truncations.view(100, EPISODE)[:, -1].all()
    assert not data.terminations.any()
    for env_id in ("prefrl/Pendulum-v0", "Pendulum-v1"):
        env = gym.make(env_id)
        data.check_matches(env.observation_space, env.action_space)
    other = mixed_pendulum(2, 5, env_id="Pendulum-v1").transitions
    assert other.env_id == "Pendulum-v1"
    starts = other.obs.view(8, EPISODE, 3)[:, 0]
    assert len({tuple(start) for start in starts.tolist()}) == 8  # no two alike


def test_labels_are_those_of_the_rewards(mixed: MixedData) -> None:
    answers = mixed.preferences
    assert len(answers) == 500
    sums = []
    for side in (answers.first, answers.second):
        assert side.actions.shape == (500, 50, 1)
        angles = torch.atan2(side.obs[..., 1], side.obs[..., 0])[:, :-1]
        cost = angles**2 + 0.1 * side.obs[:, :-1, 2] ** 2 + 0.001 * side.actions[..., 0] ** 2
        sums.append(-cost.sum(1))
    clear = (sums[0] - sums[1]).abs() > 1e-2
    assert clear.sum() > 480
    assert torch.equal(answers.labels[clear], (sums[1] > sums[0])[clear].double())
    assert 0.4 < answers.labels.mean().item() < 0.6


def test_a_seed_gives_the_same_again(mixed: MixedData) -> None:
    again, other = mixed_pendulum(seed=0), mixed_pendulum(seed=1)
    assert torch.equal(again.transitions.obs, mixed.transitions.obs)
    assert torch.equal(again.transitions.actions, mixed.transitions.actions)
    assert torch.equal(again.preferences.first.obs, mixed.preferences.first.obs)
    assert torch.equal(again.preferences.labels, mixed.preferences.labels)
    assert not torch.equal(other.transitions.obs, mixed.transitions.obs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"num_pairs": 0}, "num_pairs is 0"),
        ({"length": 201}, "length is 201"),
        ({"env_id": "CartPole-v1"}, "env_id is 'CartPole-v1'"),
    ],
)
def test_wrong_arguments_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mixed_pendulum(**{"episodes": 1, "num_pairs": 3, **settings})


@pytest.mark.parametrize(("settings", "said"), [({"strength": 0.0}, "strength"), ({"noise": -1.0}, "noise")])
def test_wrong_controllers_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SwingUp(**settings)


@pytest.mark.parametrize("context", ["none", "rotation"])
def test_what_a_mixture_does_as_transitions(context: str) -> None:
    env: Any = gym.make("prefrl/Ring-v0", context=context)
    data = collect_mixture(env, 500, mixture="expert", seed=2)
    task = env.unwrapped
    assert (len(data), data.num_episodes, data.env_id) == (500, 500, "prefrl/Ring-v0")
    assert data.terminations.all()
    assert task.expert_mass(data.actions, data.obs) > 0.99
    wanted = torch.as_tensor(task.score(data.actions, data.obs)).float()
    torch.testing.assert_close(data.rewards, wanted)
    assert len(set(map(tuple, data.obs.tolist()))) == (1 if context == "none" else 500)
    with pytest.raises(ValueError, match="knows no mixture of actions"):
        collect_mixture(gym.make("prefrl/Pendulum-v0"), 5)
