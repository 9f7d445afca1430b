"""A world of small pictures: one cell is bright, and the action says whether it is in the lower half."""

from typing import Any

import gymnasium as gym
import numpy as np

from prefrl.envs.core.backend import Array, Backend, Noise, State
from prefrl.envs.core.dynamics import Dynamics

HEIGHT, WIDTH = 6, 5
PICTURE = (HEIGHT, WIDTH, 1)
SPACES: dict[str, gym.Space[Any]] = {
    "bytes": gym.spaces.Box(0, 255, PICTURE, np.uint8),
    "first": gym.spaces.Box(0, 255, (1, HEIGHT, WIDTH), np.uint8),
    "bools": gym.spaces.Box(0, 1, PICTURE, np.bool_),  # type: ignore[arg-type]
    "dict": gym.spaces.Dict(
        eye=gym.spaces.Box(0, 255, PICTURE, np.uint8), clock=gym.spaces.Box(0.0, 99.0, (1,), np.float32)
    ),
}
"""The same picture as it may come: of bytes, with the channel first, of bools, beside a number."""


class Spots(Dynamics):
    """The right answer is worth 1; the spot moves at every step, and at the first cell the episode ends."""

    def __init__(self, kind: str = "bytes", backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.single_observation_space = SPACES[kind]
        self.single_action_space = gym.spaces.Discrete(2, start=1)
        self._cells = self.backend.asarray(np.arange(HEIGHT * WIDTH))

    def reset_noise(self, rng: Any, n: int) -> Noise:
        return {"place": rng.uniform(n)}

    step_noise = reset_noise

    def initial(self, noise: Noise, options: Any = None) -> State:
        return {"spot": self._spot(noise), "count": self.xp.zeros_like(noise["place"])}

    def _spot(self, noise: Noise) -> Array:
        return self.xp.astype(noise["place"] * HEIGHT * WIDTH, self.xp.int64)

    def observe(self, state: State) -> Any:
        bright, space = state["spot"][:, None] == self._cells, self.single_observation_space
        shape = space["eye"].shape if isinstance(space, gym.spaces.Dict) else space.shape
        picture = self.xp.reshape(bright, (len(bright), *(shape or ())))
        if space == SPACES["bools"]:
            return picture
        picture = self.xp.astype(picture, self.xp.uint8) * 255
        if not isinstance(space, gym.spaces.Dict):
            return picture
        return {"eye": picture, "clock": self.xp.astype(state["count"][:, None], self.xp.float32)}

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        lower = state["spot"] >= HEIGHT // 2 * WIDTH
        rewards = self.xp.astype(lower == (actions == 2), state["count"].dtype)
        moved = {"spot": self._spot(noise), "count": state["count"] + 1}
        return moved, rewards, moved["spot"] == 0
