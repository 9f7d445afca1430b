"""Driving a weak car out of a valley: Moore 1990; Sutton and Barto 2018, example 10.1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import reset_bounds
from prefrl.envs.core.dynamics import Dynamics

MIN_POSITION, MAX_POSITION, MAX_SPEED = -1.2, 0.6, 0.07
GRAVITY = 0.0025
"""Velocity lost in one step on a slope of 1; the hill is sin(3 position)."""


class _ValleyDynamics(Dynamics):
    """What both cars share: the hill, the wall on the left, the goal on the right."""

    render_fps = 30
    goal: float
    """Position from which on a car that does not roll back has arrived."""

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(backend)
        low = np.array([MIN_POSITION, -MAX_SPEED], dtype=np.float32)
        high = np.array([MAX_POSITION, MAX_SPEED], dtype=np.float32)
        self.single_observation_space = gym.spaces.Box(low, high)

    @abstractmethod
    def throttle(self, actions: Array, dtype: Any) -> Array:
        """Return what the motor adds to the velocity [n]."""

    @abstractmethod
    def reward(self, actions: Array, terminated: Array, dtype: Any) -> Array:
        """Return the rewards [n]."""

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"start": rng.uniform(n)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: there is none."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Stand between -.6 and -.4, or between ``options["low"]`` and ``options["high"]``."""
        low, high = reset_bounds(options, -0.6, -0.4)
        position = noise["start"] * (high - low) + low
        return {"position": position, "velocity": self.xp.zeros_like(position)}

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: position and velocity."""
        return self.observation(state["position"], state["velocity"])

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`; the wall on the left stops the car."""
        xp, position, velocity = self.xp, state["position"], state["velocity"]
        velocity = velocity + (self.throttle(actions, velocity.dtype) - GRAVITY * xp.cos(3.0 * position))
        velocity = velocity.clip(-MAX_SPEED, MAX_SPEED)
        position = (position + velocity).clip(MIN_POSITION, MAX_POSITION)
        stopped = (position <= MIN_POSITION) & (velocity < 0.0)
        velocity = xp.where(stopped, xp.zeros_like(velocity), velocity)
        terminated = (position >= self.goal) & (velocity >= 0.0)
        rewards = self.reward(actions, terminated, velocity.dtype)
        return {"position": position, "velocity": velocity}, rewards, terminated

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the valley from the side."""
        from prefrl.envs.rendering.scenes import draw_mountain_car

        return draw_mountain_car(float(state["position"][index]), self.goal, MIN_POSITION, MAX_POSITION)


class MountainCarDynamics(_ValleyDynamics):
    """Drive a weak car out of a valley by swinging up to both sides.

    ## Description
    The mountain car of Moore, "Efficient memory-based learning for robot control" (1990), in the form of
    Sutton and Barto, "Reinforcement learning" (2018), example 10.1. Step for step the world of Gymnasium's
    `MountainCar-v0`: the same seed starts the same episodes.

    ## Action Space
    `Discrete(3)`: accelerate to the left (0), not at all (1), to the right (2).

    ## Observation Space
    `Box` of 2 float32: position in [-1.2, .6], velocity in [-.07, .07] per step.

    ## Rewards
    -1 for every step.

    ## Starting State
    Position uniform in [-.6, -.4], or between `options["low"]` and `options["high"]` of `reset`; standing.

    ## Episode End
    Terminates at a position of .5 or more, unless the car rolls back. `gym.make` truncates after 200 steps.

    ## Arguments
    `render_mode`: None, "rgb_array" or "human".

    ## Version History
    - v0: first version.
    """

    goal = 0.5

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.single_action_space = gym.spaces.Discrete(3)

    def throttle(self, actions: Array, dtype: Any) -> Array:
        """See :meth:`_ValleyDynamics.throttle`: .001 to the left, none, or to the right."""
        return (self.xp.astype(actions, dtype) - 1.0) * 0.001

    def reward(self, actions: Array, terminated: Array, dtype: Any) -> Array:
        """See :meth:`_ValleyDynamics.reward`: -1 a step."""
        return -self.xp.ones_like(terminated, dtype=dtype)


class MountainCarContinuousDynamics(_ValleyDynamics):
    """Drive a weak car out of a valley with a throttle, saving fuel.

    ## Description
    The valley of `prefrl/MountainCar-v0` with a throttle instead of three pedals. Each step is that of
    Gymnasium's `MountainCarContinuous-v0`, and the same seed starts the same episodes; but Gymnasium rounds
    this state to float32 after every step, and here it keeps the precision of the backend.

    ## Action Space
    `Box(-1, 1, (1,), float32)`: the throttle, positive to the right. On a device, where actions are trusted,
    the motor clips what lies outside.

    ## Observation Space
    `Box` of 2 float32: position in [-1.2, .6], velocity in [-.07, .07] per step.

    ## Rewards
    `-.1 throttle^2`, and 100 on arrival.

    ## Starting State
    Position uniform in [-.6, -.4], or between `options["low"]` and `options["high"]` of `reset`; standing.

    ## Episode End
    Terminates at a position of .45 or more, unless the car rolls back. `gym.make` truncates after 999 steps.

    ## Arguments
    `render_mode`: None, "rgb_array" or "human".

    ## Version History
    - v0: first version.
    """

    goal = 0.45

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def throttle(self, actions: Array, dtype: Any) -> Array:
        """See :meth:`_ValleyDynamics.throttle`: .0015 at full throttle."""
        return actions[:, 0].clip(-1.0, 1.0) * 0.0015

    def reward(self, actions: Array, terminated: Array, dtype: Any) -> Array:
        """See :meth:`_ValleyDynamics.reward`: fuel is charged for the throttle asked for, clipped or not."""
        return self.xp.astype(terminated, dtype) * 100.0 - 0.1 * actions[:, 0] ** 2
