"""Data of a pendulum that some swing up well, some badly, and some not at all; and who prefers what of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor

import prefrl.envs
from prefrl.config import Count, NonNegative, PositiveShare, checked
from prefrl.data import Preferences, TransitionDataset, concatenate_transitions, seeded_generator
from prefrl.preferences.asking import ask_about
from prefrl.run.collect import collect_transitions

assert prefrl.envs.REGISTRY

MAX_TORQUE = 2.0
"""N m."""

EPISODE = 200
"""Steps after which the pendulum is truncated."""


class SwingUp:
    """Swings a pendulum up by its energy, and holds it there; with a weak arm or a trembling hand if told so.

    The torque goes with the velocity as long as the energy is below that of the pendulum upright and at rest,
    and against it above (Astrom and Furuta, "Swinging up a pendulum by energy control", Automatica 2000);
    near the top it is proportional to angle and velocity.

    Args:
        strength: share of the largest torque that is used, in (0, 1].
        noise: standard deviation of what is added to the torque, in N m.
        seed: of the noise.

    Raises:
        ValueError: for an argument out of its range.
    """

    device = torch.device("cpu")

    def __init__(self, strength: float = 1.0, noise: float = 0.0, seed: int = 0) -> None:
        self.strength = checked(PositiveShare, strength, "strength")
        self.noise = checked(NonNegative, noise, "noise")
        self._generator = seeded_generator(seed, "noise of a controller")

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return torques [n, 1] at observations [n, 3], noisy whatever ``deterministic`` says."""
        cosine, sine, velocity = obs.unbind(-1)
        # Per moment of inertia, and 0 upright at rest: the angular acceleration is 15 sin(angle) + 3 torque.
        energy = 0.5 * velocity**2 + 15.0 * (cosine - 1.0)
        pump = -energy * torch.where(velocity >= 0.0, 1.0, -1.0)
        hold = -10.0 * torch.atan2(sine, cosine) - 2.0 * velocity
        near = (cosine > 0.9) & (velocity.abs() < 3.0)
        limit = self.strength * MAX_TORQUE
        torque = torch.where(near, hold, pump).clamp(-limit, limit)
        draws = torch.randn(len(obs), generator=self._generator)
        noisy: Tensor = torque + self.noise * draws
        return noisy.clamp(-MAX_TORQUE, MAX_TORQUE)[:, None]


QUALITIES: Mapping[str, Mapping[str, float] | None] = {
    "good": {"strength": 1.0, "noise": 0.3},
    "trembling": {"strength": 1.0, "noise": 2.0},
    "weak": {"strength": 0.2, "noise": 0.5},
    "uniform": None,
}
"""Who acts in the mixed data, as arguments of :class:`SwingUp`, the best first; None: uniform torques."""


class MixedData(NamedTuple):
    """What happened, and comparisons of it."""

    transitions: TransitionDataset
    """The same number of whole episodes of each quality, one quality after the other."""
    preferences: Preferences
    """Comparisons of segments of them, by their returns."""


def mixed_pendulum(
    episodes: int = 25, num_pairs: int = 500, *, length: int = 50, seed: int = 0,
    env_id: str = "prefrl/Pendulum-v0",
) -> MixedData:  # fmt: skip
    """Return episodes of a pendulum by who acts well and badly, :data:`QUALITIES`, and comparisons of them.

    Args:
        episodes: of each quality, 200 steps each.
        num_pairs: comparisons, answered without mistakes by who adds up rewards.
        length: steps of a segment.
        seed: of episodes, noise and pairs.
        env_id: "prefrl/Pendulum-v0" or "Pendulum-v1", which are the same world.

    Raises:
        ValueError: for a bad argument.
    """
    checked(Count, episodes, "episodes")
    if env_id not in ("prefrl/Pendulum-v0", "Pendulum-v1"):
        raise ValueError(f"env_id is {env_id!r}; the controller is made for prefrl/Pendulum-v0, Pendulum-v1")
    parts = []
    for place, settings in enumerate(QUALITIES.values()):
        rows: Any = gym.make_vec(env_id, episodes)
        own = seed * len(QUALITIES) + place  # so that no two start alike
        policy = None if settings is None else SwingUp(**settings, seed=own)
        epsilon = 1.0 if policy is None else 0.0
        parts.append(
            collect_transitions(policy, rows, episodes * EPISODE, epsilon=epsilon, seed=own, env_id=env_id)
        )
        rows.close()
    transitions = concatenate_transitions(parts)
    return MixedData(transitions, ask_about(transitions, num_pairs, length=length, seed=seed))
