"""Swinging up a two-link robot by its middle joint: Sutton 1996; Sutton and Barto 2018."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import reset_bounds
from prefrl.envs.core.dynamics import Dynamics

GRAVITY, MASS, LENGTH, CENTRE, INERTIA = 9.8, 1.0, 1.0, 0.5, 1.0
"""SI units, the same for both links; the centre of mass lies halfway."""

TIME_STEP = 0.2
MAX_SPEEDS = (4.0 * math.pi, 9.0 * math.pi)
"""Largest angular velocities of the first and second joint; more is cut off."""

FIELDS = ("theta1", "theta2", "theta1_dot", "theta2_dot")

Joints = tuple[Array, Array, Array, Array]
"""Values of :data:`FIELDS`, or their time derivatives."""


class AcrobotDynamics(Dynamics):
    """Swing a two-link robot up to a line, driving only the joint between the links.

    ## Description
    The acrobot of Sutton, "Generalization in reinforcement learning: successful examples using sparse coarse
    coding" (1996), with the equations of motion of Sutton and Barto, "Reinforcement learning". Step for step
    the world of Gymnasium's `Acrobot-v1`: the same seed starts the same episodes.

    ## Action Space
    `Discrete(3)`: a torque of -1 (0), 0 (1) or 1 N m (2) on the joint between the links.

    ## Observation Space
    `Box` of 6: cosine and sine of the first link's angle (0 hangs down), cosine and sine of the second
    link's angle to the first, each in [-1, 1]; then both angular velocities, within 4 pi and 9 pi rad/s.

    ## Rewards
    -1 for every step, 0 for the one that reaches the line.

    ## Starting State
    Angles and velocities uniform in [-.1, .1], or between `options["low"]` and `options["high"]` of `reset`.

    ## Episode End
    Terminates where the free end is more than one link above the bar. `gym.make` truncates after 500 steps.

    ## Arguments
    `render_mode`: None, "rgb_array" or "human".

    ## Version History
    - v0: first version.
    """

    render_fps = 15

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(backend)
        high = np.array([1.0, 1.0, 1.0, 1.0, *MAX_SPEEDS], dtype=np.float32)
        self.single_observation_space = gym.spaces.Box(-high, high)
        self.single_action_space = gym.spaces.Discrete(3)

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"start": rng.uniform(len(FIELDS), n).T}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: there is none."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start every variable uniformly in [-.1, .1], or between ``options["low"]`` and ``["high"]``."""
        xp = self.xp
        low, high = reset_bounds(options, -0.1, 0.1)
        start = noise["start"] * (high - low) + low
        # Gymnasium rounds its starts to float32; with that, the same seed starts the same episodes.
        start = xp.astype(xp.astype(start, xp.float32, copy=False), start.dtype, copy=False)
        return {name: start[:, i] for i, name in enumerate(FIELDS)}

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: cosines and sines of the angles, then the velocities."""
        cos, sin = self.xp.cos, self.xp.sin
        theta1, theta2, theta1_dot, theta2_dot = (state[name] for name in FIELDS)
        return self.observation(cos(theta1), sin(theta1), cos(theta2), sin(theta2), theta1_dot, theta2_dot)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`: one Runge-Kutta step of fourth order."""
        xp = self.xp
        joints = [state[name] for name in FIELDS]
        torque = xp.astype(actions, joints[0].dtype) - 1.0
        theta1, theta2, theta1_dot, theta2_dot = self._runge_kutta(joints, torque)
        theta1, theta2 = (
            theta - 2.0 * math.pi * xp.round(theta / (2.0 * math.pi)) for theta in (theta1, theta2)
        )
        fastest1, fastest2 = MAX_SPEEDS
        theta1_dot = theta1_dot.clip(-fastest1, fastest1)
        theta2_dot = theta2_dot.clip(-fastest2, fastest2)
        terminated = -xp.cos(theta1) - xp.cos(theta1 + theta2) > 1.0
        rewards = xp.astype(terminated, theta1.dtype) - 1.0
        values = (theta1, theta2, theta1_dot, theta2_dot)
        return dict(zip(FIELDS, values, strict=True)), rewards, terminated

    def _runge_kutta(self, joints: Sequence[Array], torque: Array) -> Joints:
        def beyond(slope: Joints, time: float) -> list[Array]:
            return [value + time * rate for value, rate in zip(joints, slope, strict=True)]

        first = self._rates(joints, torque)
        second = self._rates(beyond(first, TIME_STEP / 2.0), torque)
        third = self._rates(beyond(second, TIME_STEP / 2.0), torque)
        fourth = self._rates(beyond(third, TIME_STEP), torque)
        theta1, theta2, theta1_dot, theta2_dot = (
            value + TIME_STEP / 6.0 * (a + 2.0 * b + 2.0 * c + d)
            for value, a, b, c, d in zip(joints, first, second, third, fourth, strict=True)
        )
        return theta1, theta2, theta1_dot, theta2_dot

    def _rates(self, joints: Sequence[Array], torque: Array) -> Joints:
        """Return the time derivatives: the equations of motion in the book's form, symbols as there."""
        sin, cos = self.xp.sin, self.xp.cos
        theta1, theta2, theta1_dot, theta2_dot = joints
        bend, coupling = cos(theta2), MASS * LENGTH * CENTRE * sin(theta2)
        d1 = MASS * CENTRE**2 + MASS * (LENGTH**2 + CENTRE**2 + 2.0 * LENGTH * CENTRE * bend) + 2.0 * INERTIA
        d2 = MASS * (CENTRE**2 + LENGTH * CENTRE * bend) + INERTIA
        phi2 = MASS * CENTRE * GRAVITY * sin(theta1 + theta2)  # cos(angle - pi / 2) in the book
        phi1 = (
            -coupling * theta2_dot**2
            - 2.0 * coupling * theta2_dot * theta1_dot
            + MASS * (CENTRE + LENGTH) * GRAVITY * sin(theta1)
            + phi2
        )
        pull = torque + d2 / d1 * phi1 - coupling * theta1_dot**2 - phi2
        theta2_acc = pull / (MASS * CENTRE**2 + INERTIA - d2**2 / d1)
        theta1_acc = -(d2 * theta2_acc + phi1) / d1
        return theta1_dot, theta2_dot, theta1_acc, theta2_acc

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: both links, and the line to reach; an arrow shows the last torque."""
        from prefrl.envs.rendering.scenes import draw_acrobot

        torque = 0 if last_action is None else int(last_action) - 1
        return draw_acrobot(float(state["theta1"][index]), float(state["theta2"][index]), torque)
