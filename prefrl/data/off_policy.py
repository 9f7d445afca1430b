"""What agents with a replay and epsilon-greedy actions are set by, and what is due when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from prefrl.config import Count, Natural, Positive, Rows, Settings, Share
from prefrl.functional.value_based.exploration import linear_epsilon

from .replay import ReplayBuffer


def times_due(every: int, before: int, now: int) -> int:
    """Return how often something is due after count ``before`` and until ``now``, once ``every`` counts."""
    return now // every - before // every


def gathered(
    replay: ReplayBuffer | None, learning_starts: int, now: int, learners: int = 1
) -> TypeGuard[ReplayBuffer]:
    """Whether it is past ``learning_starts``, and a replay holds as many transitions, or all that it can.

    The replay of an agent that was read from a file starts anew. That of several learners holds as many of
    each.
    """
    if replay is None or now < learning_starts:
        return False
    return len(replay) // learners >= min(max(1, learning_starts), replay.capacity // learners)


@dataclass(frozen=True)
class OffPolicySettings(Settings):
    """Settings of deep Q-learning from a replay; names are SB3's where it has them."""

    double: bool = True
    """Whether the network, rather than the target network, chooses the next action."""

    adam_eps: Positive = 1e-8
    """Adam's epsilon."""

    max_grad_norm: Positive = 10.0
    """The gradient's norm is cut to this."""

    batch_size: Rows = 64
    """Transitions per gradient step."""

    buffer_size: Count = 100_000
    """Transitions in the replay."""

    learning_starts: Natural = 1_000
    """Timesteps of uniform actions before the first gradient step."""

    train_freq: Count = 4
    """Timesteps (of all environments together) between two rounds of gradient steps."""

    gradient_steps: Count = 1
    """Gradient steps per round."""

    epsilon_start: Share = 1.0
    """Probability of a uniform action at the start."""

    epsilon_end: Share = 0.05
    """Probability of a uniform action once exploration has fallen off."""

    epsilon_timesteps: Natural = 10_000
    """Timesteps over which epsilon falls linearly from its start to its end."""

    compile: bool = False
    """Compile the gradient step: faster after up to half a minute; on the CPU it takes a C++ compiler."""

    def check(self) -> None:
        """See :class:`Settings`."""
        super().check()
        if self.buffer_size < self.batch_size:
            raise ValueError(f"buffer_size is {self.buffer_size}; it must hold a batch of {self.batch_size}")

    def epsilon(self, now: int) -> float:
        """Return the probability of a uniform action at timestep ``now``."""
        if now < self.learning_starts:
            return 1.0
        return linear_epsilon(self.epsilon_start, self.epsilon_end, self.epsilon_timesteps, now)

    def gradient_steps_due(
        self, replay: ReplayBuffer | None, before: int, now: int, learners: int = 1
    ) -> int:
        """Return the gradient steps due after timestep ``before`` and until ``now``, of each learner.

        There are none before enough was gathered, or was gathered again.
        """
        if not gathered(replay, self.learning_starts, now, learners):
            return 0
        return times_due(self.train_freq, before, now) * self.gradient_steps
