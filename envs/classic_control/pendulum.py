"""Swinging up a pendulum with a weak motor: a rod on a hinge, driven by a bounded torque."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import number_option, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics

GRAVITY, MASS, LENGTH, TIME_STEP = 10.0, 1.0, 1.0, 0.05
MAX_TORQUE, MAX_SPEED = 2.0, 8.0
"""N m and rad/s: more is cut off."""

GRAVITY_TERM = 1.5 * GRAVITY / LENGTH
TORQUE_TERM = 3.0 / (MASS * LENGTH**2)
"""Angular acceleration per sine of the angle and per N m, for the rod's moment of inertia m l^2 / 3."""


class PendulumDynamics(Dynamics):
    """Swing a pendulum up and hold it there with a motor too weak to lift it directly.

    ## Description
    A rod of 1 kg and 1 m on a hinge with a motor. Step for step the world of Gymnasium's `Pendulum-v1`
    (gravity 10): the same seed starts the same episodes.

    ## Action Space
    `Box(-2, 2, (1,), float32)`: the torque in N m, positive turns counter-clockwise. On a device, where
    actions are trusted, what lies outside is clipped.

    ## Observation Space
    `Box` of 3 float32: cosine and sine of the angle (0 is upright), each in [-1, 1], and the angular velocity
    in [-8, 8] rad/s.

    ## Rewards
    `-(angle^2 + .1 velocity^2 + .001 torque^2)` of the state before the step, the angle taken in [-pi, pi):
    from -16.3 to 0.

    ## Starting State
    Angle uniform in [-pi, pi], velocity in [-1, 1]; `options["x_init"]` and `options["y_init"]` of `reset`
    set other bounds.

    ## Episode End
    Never terminates. `gym.make` truncates after 200 steps.

    ## Arguments
    `render_mode`: None, "rgb_array" or "human".

    ## Version History
    - v0: first version.
    """

    endless = True
    render_fps = 20

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(backend)
        high = np.array([1.0, 1.0, MAX_SPEED], dtype=np.float32)
        self.single_observation_space = gym.spaces.Box(-high, high)
        self.single_action_space = gym.spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,))

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"start": rng.uniform(2, n).T}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: there is none."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start with |angle| at most ``options["x_init"]`` (pi), |velocity| at most ``["y_init"]`` (1)."""
        reject_unknown_options(options, ("x_init", "y_init"))
        widest = {"theta": ("x_init", math.pi), "theta_dot": ("y_init", 1.0)}
        state = {}
        for i, (name, (option, default)) in enumerate(widest.items()):
            high = number_option(options, option, default)
            if high < 0.0:
                raise ValueError(f"{option} is {high}; it must not be negative")
            state[name] = noise["start"][:, i] * (2.0 * high) - high
        return state

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: cosine and sine of the angle, and the angular velocity."""
        theta = state["theta"]
        return self.observation(self.xp.cos(theta), self.xp.sin(theta), state["theta_dot"])

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`: semi-implicit Euler; never terminates."""
        xp = self.xp
        theta, theta_dot = state["theta"], state["theta_dot"]
        torque = actions[:, 0].clip(-MAX_TORQUE, MAX_TORQUE)
        from_upright = (theta + math.pi) % (2.0 * math.pi) - math.pi
        cost = from_upright**2 + 0.1 * theta_dot**2 + 0.001 * torque**2
        theta_acc = GRAVITY_TERM * xp.sin(theta) + TORQUE_TERM * torque
        theta_dot = (theta_dot + theta_acc * TIME_STEP).clip(-MAX_SPEED, MAX_SPEED)
        next_state = {"theta": theta + theta_dot * TIME_STEP, "theta_dot": theta_dot}
        return next_state, -cost, xp.zeros_like(theta, dtype=xp.bool)

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the rod; an arrow shows the last torque."""
        from prefrl.envs.rendering.scenes import draw_pendulum

        torque = 0.0 if last_action is None else float(last_action[0])
        torque = min(max(torque, -MAX_TORQUE), MAX_TORQUE)
        return draw_pendulum(float(state["theta"][index]), torque / MAX_TORQUE)
