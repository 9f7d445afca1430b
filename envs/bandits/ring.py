"""A bandit whose actions are points of the plane: modes on a ring, some of which are the experts'."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import (
    check_count,
    check_layout_seed,
    check_number,
    number_option,
    reject_unknown_options,
)
from prefrl.envs.core.dynamics import Dynamics

Floats = NDArray[np.float64]

Context = Literal["none", "experts", "rotation"]
"""How the ring is turned: not at all, from mode to mode, or by any angle."""

Mixture = Literal["reference", "expert"]
"""Whose actions: all modes alike, or the experts' alone."""

MARGIN = 5.0
"""Widths between the modes and the edge of the action space at least: few draws are cut off."""

MAX_MODES = 100
"""As many as a picture can tell apart."""


class RingDynamics(Dynamics):
    """Choose a point of the plane: of several modes on a ring, a few pay.

    ## Description
    Actions are points. `num_modes` round heaps of them stand on a ring; whoever acted before chose any heap,
    and `expert_modes` of them, spread over the ring, are the experts'. A policy that is cloned from what was
    done has to represent all modes, and one that is tuned has to leave those that do not pay; the mean of
    the experts' actions is worth nothing. A task for policies that are tuned by demonstrations of experts,
    as in Diffusion-DRO (arXiv 2510.18353); the task is ours.

    ## Action Space
    `Box(-1, 1, (2,), float32)`: a point. On a device, where actions are trusted, others count as they are.

    ## Observation Space
    `Box(-1, 1, (2,), float32)`: cosine and sine of the angle that the ring is turned by, which is the angle
    of mode 0, an expert's.

    ## Rewards
    `exp(-d^2 / (2 width^2))`, d the distance to the nearest expert mode: 1 at its centre.

    ## Starting State
    With `context="none"` the ring is not turned; with "experts" by a multiple of the angle between
    modes, evenly drawn, so that the ring looks the same and other modes are the experts'; with
    "rotation" by any angle. `reset(options={"turn": radians})` turns it by that, in any context.

    ## Episode End
    Terminates after one action.

    ## Arguments
    `num_modes` (int, 8): from 1 to 100. `expert_modes` (int, 2): how many of them pay. `radius` (float, .6):
    of the ring. `width` (float, .06): standard deviation of a mode in each direction; radius + 5 width is at
    most 1. `context` ("none", "experts" or "rotation"). `render_mode`.

    ## Ground truth
    `modes` [K, 2] and `experts` [E] of the ring that is not turned; of actions [M, 2] after observations
    [M, 2] `mode_of`, `expert_mass`, `off_mode_mass`, `score` and `log_density`; actions of the reference,
    the even mixture of all modes, and of the experts, the even mixture of theirs, from given noise,
    `mixture_actions`, or from a seed, `draw_actions`; their `true_value` and `optimal_value()`, 1. By
    symmetry the nearest mode of the reference's actions is each with the same probability: its
    `expert_mass` is exactly expert_modes / num_modes.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, num_modes: int = 8, expert_modes: int = 2, radius: float = 0.6, width: float = 0.06,
        context: Context = "none", backend: Backend | None = None,
    ) -> None:  # fmt: skip
        super().__init__(backend)
        self.num_modes, count = check_count("num_modes", num_modes), check_count("expert_modes", expert_modes)
        if self.num_modes > MAX_MODES:
            raise ValueError(f"num_modes is {num_modes}; it must be from 1 to {MAX_MODES}")
        if count > self.num_modes:
            raise ValueError(f"expert_modes is {count}; it must be from 1 to num_modes, {self.num_modes}")
        for name, value in (("radius", radius), ("width", width)):
            if not 0.0 < check_number(name, value) < np.inf:
                raise ValueError(f"{name} is {value!r}; it must be a finite number above 0")
        if radius + MARGIN * width > 1.0 + 1e-9:
            raise ValueError(f"radius is {radius} and width {width}; radius + {MARGIN:g} width must be at "
                             "most 1, so that modes lie in the action space")  # fmt: skip
        if context not in get_args(Context):
            raise ValueError(f"context is {context!r}; allowed are {list(get_args(Context))}")
        self.radius, self.width, self.context = float(radius), float(width), context
        pitch = 2.0 * math.pi / self.num_modes
        self.modes: Floats = self.radius * _on_circle(pitch * np.arange(self.num_modes))
        """[K, 2] centres of the ring that is not turned."""
        self.experts: NDArray[np.int64] = np.arange(count) * self.num_modes // count
        """[E] which modes pay; 0 is one of them."""
        self.single_observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.single_action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._paying = self.backend.asarray(self.modes[self.experts], self.backend.float_dtype)

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"turn": rng.uniform(n)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`: there is none."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Turn the ring as the context says, or by ``options["turn"]`` radians."""
        reject_unknown_options(options, ("turn",))
        if options and "turn" in options:
            return {"turn": self.xp.full_like(noise["turn"], number_option(options, "turn", 0.0))}
        return {"turn": self._turn(noise["turn"], self.xp)}

    def _turn(self, share: Array, xp: Any) -> Array:
        """Return the angles [n] of starts, from uniform draws [n]."""
        if self.context == "none":
            share = xp.zeros_like(share)
        elif self.context == "experts":
            share = xp.floor(share * self.num_modes) / self.num_modes
        return 2.0 * math.pi * share

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: cosine and sine of the turn."""
        return self.observation(self.xp.cos(state["turn"]), self.xp.sin(state["turn"]))

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`: pays for how near an expert mode is, and ends."""
        xp, turn = self.xp, state["turn"]
        back = _turned_back(actions, xp.cos(turn), xp.sin(turn), xp)
        return state, self._pay(back, self._paying, xp), xp.ones_like(turn, dtype=xp.bool)

    def _pay(self, points: Array, experts: Array, xp: Any) -> Array:
        """Return the rewards [n] of points [n, 2] of the ring that is not turned."""
        squares = xp.sum((points[:, None] - experts) ** 2, axis=2)
        return xp.exp(xp.min(squares, axis=1) / (-2.0 * self.width**2))

    def score(self, actions: ArrayLike, obs: ArrayLike) -> Floats:
        """Return the rewards [M] of actions [M, 2] after observations [M, 2]."""
        return np.asarray(self._pay(self._upright(actions, obs), self.modes[self.experts], np))

    def mode_of(self, actions: ArrayLike, obs: ArrayLike, reach: float = math.inf) -> NDArray[np.int64]:
        """Return the nearest mode [M] of each action, -1 where none is near.

        Args:
            actions: [M, 2].
            obs: [M, 2] what they answer to; modes are counted from the angle that it shows.
            reach: widths within which a mode is near.

        Raises:
            ValueError: for a bad argument.
        """
        if not check_number("reach", reach) > 0.0:
            raise ValueError(f"reach is {reach!r}; it must be above 0")
        gaps = self._upright(actions, obs)[:, None] - self.modes
        away = np.hypot(gaps[..., 0], gaps[..., 1])
        return np.where(away.min(1) <= reach * self.width, away.argmin(1), -1)

    def expert_mass(self, actions: ArrayLike, obs: ArrayLike, reach: float = math.inf) -> float:
        """Return the share of actions whose nearest mode is an expert's; see :meth:`mode_of`."""
        return float(np.isin(self.mode_of(actions, obs, reach), self.experts).mean())

    def off_mode_mass(self, actions: ArrayLike, obs: ArrayLike, reach: float = 3.0) -> float:
        """Return the share of actions that are near no mode: of one mode alone exp(-reach^2 / 2), .011."""
        return float((self.mode_of(actions, obs, reach) < 0).mean())

    def log_density(self, actions: ArrayLike, obs: ArrayLike, mixture: Mixture = "reference") -> Floats:
        """Return log-densities [M] of actions [M, 2] in a mixture, uncut at the action space's edge."""
        centres = self.modes[self._members(mixture)]
        squares = ((self._upright(actions, obs)[:, None] - centres) ** 2).sum(-1)
        heaps = squares / (-2.0 * self.width**2)
        scale = math.log(2.0 * math.pi * self.width**2 * len(centres))
        return np.asarray(np.logaddexp.reduce(heaps, axis=1) - scale)

    def mixture_actions(
        self, obs: ArrayLike, uniforms: ArrayLike, normals: ArrayLike, mixture: Mixture = "reference"
    ) -> Floats:
        """Return a mixture's actions [M, 2], from given noise; cut off at the action space's edge.

        Args:
            obs: [M, 2] what they answer to.
            uniforms: [M] in [0, 1): which mode.
            normals: [M, 2] standard normal: where in it.
            mixture: the reference's or the experts'.

        Raises:
            ValueError: for a bad argument.
        """
        members = self._members(mixture)
        shares = np.asarray(uniforms, dtype=np.float64)
        if shares.ndim != 1 or not ((shares >= 0.0) & (shares < 1.0)).all():
            raise ValueError(f"uniforms have shape {shares.shape}; they must be [M], from 0 to below 1")
        spread = _points("normals", normals, len(shares))
        seen = _points("obs", obs, len(shares))
        points = self.modes[members[(shares * len(members)).astype(np.int64)]] + self.width * spread
        turned = _turned_back(points, seen[:, 0], -seen[:, 1], np)
        return np.asarray(turned.clip(-1.0, 1.0))

    def draw_actions(
        self, count: int, mixture: Mixture = "reference", seed: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Floats]:
        """Return starts and what a mixture does at them: observations, actions [M, 2] and rewards [M].

        Raises:
            ValueError: for a bad argument.
        """
        m, rng = check_count("count", count), np.random.default_rng(check_layout_seed(seed))
        shares = rng.random((2, m))
        obs = _on_circle(self._turn(shares[0], np)).astype(np.float32)
        actions = self.mixture_actions(obs, shares[1], rng.standard_normal((m, 2)), mixture)
        rounded = actions.astype(np.float32)
        return obs, rounded, self.score(rounded, obs)

    def optimal_value(self) -> float:
        """Return the best expected reward: that of an expert mode's centre, 1."""
        return 1.0

    def true_value(self, mixture: Mixture = "reference") -> float:
        """Return the expected reward of a mixture, uncut: a sum over a grid of an eighth of the width.

        Where modes do not overlap it is half the expert mass: E exp(-|z|^2 / 2) is 1/2 in the plane.
        """
        steps = np.arange(-8.0, 8.0, 0.125)
        z = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        chances = np.exp(-0.5 * (z**2).sum(-1))
        centres = self.modes[self._members(mixture)]
        paid = [self._pay(c + self.width * z, self.modes[self.experts], np) @ chances for c in centres]
        return float(np.mean(paid) / chances.sum())

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the modes, the experts' in green, and the last action."""
        from prefrl.envs.rendering.puzzles import draw_ring

        turn = float(state["turn"][index])
        centres = _turned_back(self.modes, math.cos(turn), -math.sin(turn), np)
        paying = np.isin(np.arange(self.num_modes), self.experts)
        action = None if last_action is None else (float(last_action[0]), float(last_action[1]))
        return draw_ring(centres, paying, self.radius, self.width, action)

    def _members(self, mixture: Mixture) -> NDArray[np.int64]:
        """Return which modes a mixture has."""
        if mixture not in get_args(Mixture):
            raise ValueError(f"mixture is {mixture!r}; allowed are {list(get_args(Mixture))}")
        return self.experts if mixture == "expert" else np.arange(self.num_modes)

    def _upright(self, actions: ArrayLike, obs: ArrayLike) -> Floats:
        """Return actions [M, 2] as they lie on the ring that is not turned."""
        points = _points("actions", actions, None)
        seen = _points("obs", obs, len(points))
        return np.asarray(_turned_back(points, seen[:, 0], seen[:, 1], np))


def _on_circle(angles: NDArray[np.floating[Any]]) -> Floats:
    """Return points [M, 2] of the unit circle at angles [M]."""
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def _turned_back(points: Array, cosine: Any, sine: Any, xp: Any) -> Array:
    """Return points [n, 2] turned clockwise by angles whose cosines and sines are given."""
    x, y = points[:, 0], points[:, 1]
    return xp.stack([cosine * x + sine * y, cosine * y - sine * x], axis=1)


def _points(name: str, values: ArrayLike, count: int | None) -> Floats:
    """Return points as an array [M, 2]; raise ValueError unless they are finite, and ``count`` of them."""
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) != (len(points) if count is None else count):
        rows = "M" if count is None else count
        raise ValueError(f"{name} have shape {points.shape}; they must be numbers [{rows}, 2]")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} hold NaN or infinity; every number must be finite")
    return points
