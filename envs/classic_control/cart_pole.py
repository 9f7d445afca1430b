"""Balancing a pole on a cart: Barto, Sutton and Anderson 1983, with the equations of Florian 2007."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import reset_bounds
from prefrl.envs.core.dynamics import Dynamics

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH, FORCE = 9.8, 1.0, 0.1, 0.5, 10.0
"""SI units; the pole's length counts from the pivot to its centre of mass."""

TIME_STEP = 0.02
X_LIMIT, THETA_LIMIT = 2.4, math.radians(12.0)
"""Beyond them the episode has failed."""

FIELDS = ("x", "x_dot", "theta", "theta_dot")


class CartPoleDynamics(Dynamics):
    """Balance a pole on a cart by pushing the cart left or right.

    ## Description
    The cart-pole problem of Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve
    difficult learning control problems" (1983), without friction. Step for step the world of Gymnasium's
    `CartPole-v1`: the same seed starts the same episodes.

    ## Action Space
    `Discrete(2)`: push with 10 N, 0 to the left, 1 to the right.

    ## Observation Space
    `Box` of 4 float32:

    | | variable | range | unit |
    |---|---|---|---|
    | 0 | cart position | -4.8 to 4.8 | m |
    | 1 | cart velocity | unbounded | m/s |
    | 2 | pole angle, 0 upright | -24 to 24 degrees | rad |
    | 3 | pole angular velocity | unbounded | rad/s |

    ## Rewards
    1 for every step, the failing one included.

    ## Starting State
    Every variable uniform in [-.05, .05], or between `options["low"]` and `options["high"]` of `reset`.

    ## Episode End
    Terminates where the position leaves [-2.4, 2.4] or the angle leaves 12 degrees either way. `gym.make`
    truncates after 500 steps.

    ## Arguments
    `render_mode`: None, "rgb_array" or "human".

    ## Version History
    - v0: first version.
    """

    render_fps = 50

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(backend)
        high = np.array([2.0 * X_LIMIT, np.inf, 2.0 * THETA_LIMIT, np.inf], dtype=np.float32)
        self.single_observation_space = gym.spaces.Box(-high, high)
        self.single_action_space = gym.spaces.Discrete(2)

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        # Drawn variable by variable, so that each is contiguous; one row draws them in Gymnasium's order.
        return {"start": rng.uniform(len(FIELDS), n).T}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: there is none."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start every variable uniformly in [-.05, .05], or between ``options["low"]`` and ``["high"]``."""
        low, high = reset_bounds(options, -0.05, 0.05)
        start = noise["start"] * (high - low) + low
        return {name: start[:, i] for i, name in enumerate(FIELDS)}

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: the four variables."""
        return self.observation(*(state[name] for name in FIELDS))

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`: explicit Euler."""
        xp = self.xp
        x, x_dot, theta, theta_dot = (state[name] for name in FIELDS)
        mass = CART_MASS + POLE_MASS
        lever = POLE_MASS * HALF_LENGTH / mass
        sin, cos = xp.sin(theta), xp.cos(theta)
        # What the cart would gain, were the pole's own acceleration not to push back.
        push = xp.astype(actions, theta.dtype) * (2.0 * FORCE / mass) - FORCE / mass
        push = push + theta_dot * theta_dot * sin * lever
        inertia = HALF_LENGTH * 4.0 / 3.0 - cos * cos * lever
        theta_acc = (sin * GRAVITY - cos * push) / inertia
        x_acc = push - theta_acc * cos * lever
        state = {
            "x": x + x_dot * TIME_STEP,
            "x_dot": x_dot + x_acc * TIME_STEP,
            "theta": theta + theta_dot * TIME_STEP,
            "theta_dot": theta_dot + theta_acc * TIME_STEP,
        }
        terminated = (xp.abs(state["x"]) > X_LIMIT) | (xp.abs(state["theta"]) > THETA_LIMIT)
        return state, xp.ones_like(x), terminated

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the cart from the side; an arrow shows the last push."""
        from prefrl.envs.rendering.scenes import draw_cart_pole

        push = 0 if last_action is None else 2 * int(last_action) - 1
        return draw_cart_pole(float(state["x"][index]), float(state["theta"][index]), push, X_LIMIT)
