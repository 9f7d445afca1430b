"""Observations with numbers beside them that have nothing to do with the task."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

LIMIT = 20.0
"""Magnitude beyond which a distractor jumps to its own fixed value."""


class Distractors(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Appends D numbers that move by dynamics of their own, unrelated to the task and without effect on it.

    z_0 ~ N(0, 0.1^2 I), then z <- A z, z_j <- z_j + 0.1 sin((W z)_j), with A_ij ~ N(0, 1) and W_ij the square
    of a draw of N(0, 10^2); where |z_j| > 20 it becomes a fixed number of its own, drawn uniformly from
    [-1, 1] (Voelcker et al. 2022, arXiv 2204.01464, experiments with distractors; how those numbers are
    drawn is this library's choice). The dynamics come from ``distractor_seed`` alone, so that training and
    evaluation share them; only z_0 depends on the seed of the reset.

    Args:
        env: an environment with a Box of vectors as observations.
        distractors: D, at least 1.
        distractor_seed: seeds A, W and the fixed numbers.

    Raises:
        ValueError: if observations are no vectors, or D is below 1.
    """

    def __init__(self, env: gym.Env[Any, Any], distractors: int = 15, distractor_seed: int = 0) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, distractors=distractors, distractor_seed=distractor_seed
        )
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"observation_space is {space}; distractors go beside a Box of vectors")
        if distractors < 1:
            raise ValueError(f"distractors is {distractors}; it must be at least 1")
        self.distractors = distractors
        rng = np.random.default_rng([distractor_seed, distractors])
        self.linear = rng.normal(size=(distractors, distractors))
        """[D, D] A."""
        self.waves = rng.normal(0.0, 10.0, size=(distractors, distractors)) ** 2
        """[D, D] W."""
        self.fixed = rng.uniform(-1.0, 1.0, size=distractors)
        """[D] where each one jumps to."""
        reach = np.full(distractors, LIMIT, dtype=space.dtype)
        self.observation_space = gym.spaces.Box(
            np.concatenate([space.low, -reach]), np.concatenate([space.high, reach]), dtype=space.dtype.type
        )
        self._z = np.zeros(distractors)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, the distractors close to 0."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._z = self.unwrapped.np_random.normal(0.0, 0.1, size=self.distractors)
        return self._beside(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the distractors move on."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._z = self.moved(self._z)
        return self._beside(obs), reward, terminated, truncated, info

    def moved(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where distractors [D] are a step later."""
        z = self.linear @ z
        z = z + 0.1 * np.sin(self.waves @ z)
        return np.where(np.abs(z) > LIMIT, self.fixed, z)

    def _beside(self, obs: Any) -> Any:
        return np.concatenate([obs, self._z]).astype(self.observation_space.dtype)


def make_distracted(
    env_id: str = "Pendulum-v1", distractors: int = 15, distractor_seed: int = 0, **kwargs: Any
) -> Distractors:
    """Another environment, with numbers beside its observations that have nothing to do with the task.

    Args:
        env_id: the other environment, whose observations are vectors.
        distractors: how many numbers.
        distractor_seed: seeds the dynamics of these; see :class:`Distractors`.
        **kwargs: the environment's own arguments.

    Raises:
        ValueError: if observations are no vectors, or ``distractors`` is below 1.
    """
    return Distractors(gym.make(env_id, **kwargs), distractors, distractor_seed)
