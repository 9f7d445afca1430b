"""What is due when."""

from typing import Any

import pytest
import torch

from prefrl.data import Transitions
from prefrl.data.off_policy import OffPolicySettings, times_due
from prefrl.data.replay import ReplayBuffer, replay_state, restored_replay


def filled(steps: int, num_envs: int = 2) -> ReplayBuffer:
    replay = ReplayBuffer(100, num_envs, gamma=0.9)
    ones, no = torch.ones(num_envs), torch.zeros(num_envs, dtype=torch.bool)
    for _ in range(steps):
        replay.add(Transitions(ones, ones, ones, ones, no, no, ~no))
    return replay


@pytest.mark.parametrize(
    ("every", "before", "now", "times"),
    [(4, 0, 3, 0), (4, 3, 4, 1), (4, 4, 7, 0), (4, 5, 16, 3), (1, 0, 8, 8)],
)
def test_times_due_are_multiples_passed(every: int, before: int, now: int, times: int) -> None:
    assert (
        times_due(every, before, now) == times == sum(1 for n in range(before + 1, now + 1) if n % every == 0)
    )


@pytest.mark.parametrize(
    ("settings", "steps", "due"),
    [
        ({}, 16, 4),  # timesteps 24 to 32, every 4, 2 steps each
        ({"gradient_steps": 1}, 16, 2),
        ({"learning_starts": 33}, 16, 0),
        ({"batch_size": 33}, 16, 4),  # learning_starts are enough
        ({"batch_size": 33, "learning_starts": 32}, 15, 0),
        ({}, 9, 0),  # fewer than learning_starts, as after loading
        ({}, 10, 4),
        ({"learning_starts": 100}, 40, 0),  # full, and too early
    ],
)
def test_gradient_steps_due(settings: dict[str, Any], steps: int, due: int) -> None:
    config = OffPolicySettings(**{"batch_size": 8, "learning_starts": 20, "gradient_steps": 2, **settings})
    assert config.gradient_steps_due(filled(steps), 24, 32) == due
    assert config.gradient_steps_due(None, 24, 32) == 0


def test_epsilon_is_1_until_learning_starts() -> None:
    config = OffPolicySettings(
        learning_starts=10, epsilon_start=0.5, epsilon_end=0.1, epsilon_timesteps=20, batch_size=1
    )
    assert [config.epsilon(now) for now in (0, 9, 10, 20, 99)] == pytest.approx([1.0, 1.0, 0.3, 0.1, 0.1])


def test_a_replay_in_an_agents_state() -> None:
    assert replay_state(None) == {"num_envs": None, "replay": None}
    first = filled(3, num_envs=5)
    made: list[int] = []

    def make(num_envs: int) -> ReplayBuffer:
        made.append(num_envs)
        return ReplayBuffer(100, num_envs, gamma=0.9)

    again = restored_replay(replay_state(first), make, torch.device("cpu"))
    assert made == [5]
    assert again.added == 3
    assert torch.equal(again.storage["rewards"][:3], first.storage["rewards"][:3])
