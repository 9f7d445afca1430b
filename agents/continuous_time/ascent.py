"""How parameters move per unit of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from prefrl.envs.diffusions.checks import whole_steps
from prefrl.nn.adam import Adam

from .task import Task


def step_factor(config: Any, time: float) -> float:
    """Return what step sizes are multiplied with at a time, by the config's schedule; see :data:`Decay`."""
    if config.decay == "log":
        return 1.0 / max(1.0, math.log(max(time, 1e-300)))
    if config.decay == "power":
        return float((1.0 + time / config.decay_time) ** -config.decay_power)
    return 1.0


class Ascent:
    """A vector of parameters that moves along directions, and its average over time.

    The average is that of Shamir and Zhang (2013, ICML, "Stochastic gradient descent for non-smooth
    optimization"): after k steps it moves to the parameters by (eta + 1) / (k + eta), which
    forgets the start without having to know the end.

    Args:
        parameters: [P], written to.
        adam: take steps of Adam instead of moving by rate times direction.
        averaging: eta, not negative; None: no average.
    """

    def __init__(self, parameters: Tensor, *, adam: bool, averaging: float | None) -> None:
        self.parameters, self.averaging = parameters, averaging
        self.average = parameters.clone()
        self.steps = 0
        self._adam = Adam([parameters], lr=0.0) if adam else None

    def step(self, direction: Tensor, rate: float, interval: float) -> None:
        """Move.

        Args:
            direction: [P], summed over the time since the last step.
            rate: step size.
            interval: time since the last step. A step of Adam has a size of its own: rate times its square
                root, as noise dominates directions over short times, so that halving dt changes nothing.
        """
        if self._adam is None:
            self.parameters.add_(direction, alpha=rate)
        else:
            self._adam.lr = rate * math.sqrt(interval)
            self.parameters.grad = -direction
            self._adam.step()
        self.steps += 1
        if self.averaging is not None:
            weight = (self.averaging + 1.0) / (self.steps + self.averaging)
            self.average.lerp_(self.parameters, weight)

    @property
    def best(self) -> Tensor:
        """[P] the average, or without one the parameters."""
        return self.parameters if self.averaging is None else self.average

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, average, and what Adam knows."""
        adam = {} if self._adam is None else self._adam.states[0]
        return {"parameters": self.parameters, "average": self.average, "steps": self.steps, "adam": adam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; ValueError for another number of parameters."""
        given, here = tuple(state["parameters"].shape), tuple(self.parameters.shape)
        if given != here:
            raise ValueError(f"the state has parameters of shape {given}; this agent's are {here}")
        self.parameters.copy_(state["parameters"])
        self.average.copy_(state["average"])
        self.steps = int(state["steps"])
        if self._adam is not None and state["adam"]:
            self._adam.load_state_dict({"state": {0: state["adam"]}})


class Pace:
    """When gathered directions are applied, and what time it is.

    Args:
        task: the task.
        mode: "online": after every step; "offline": once an episode is over.
        path_time: length of what counts as an episode offline, without a horizon; None elsewhere.
        lam: of the test process; where nothing ends a path it must be below 1.
        pauses: whether a step that is no transition follows the end of an episode (NEXT_STEP).

    Raises:
        ValueError: if ``path_time`` is needed and not given, or given and not needed, or no whole number of
            steps; or for a trace that never ends.
    """

    def __init__(
        self, task: Task, *, mode: str, path_time: float | None, lam: float = 0.0, pauses: bool = False
    ) -> None:
        self.dt, self.offline = task.dt, mode == "offline"
        self.cuts = self.offline and task.T is None
        """Whether paths end where directions are applied."""
        self.steps = self.phase = 0
        length = 1
        if path_time is not None and not self.cuts:
            raise ValueError(f"path_time is {path_time}; it is for learning offline without a horizon")
        if self.offline and task.num_steps is not None:
            length = task.num_steps
        elif self.offline:
            if path_time is None:
                raise ValueError("path_time must be given: without a horizon, learning from whole paths "
                                 "needs their length")  # fmt: skip
            length = whole_steps(path_time, task.dt, "path_time")
        if lam == 1.0 and task.T is None and not self.offline:
            raise ValueError("lam is 1 without a horizon: the trace never ends; "
                             "take a lower one, or mode offline and path_time")  # fmt: skip
        self.interval = length * task.dt
        """Time between two applications."""
        self.every = length + (self.offline and pauses and task.T is not None)

    @property
    def time(self) -> float:
        """Time that has passed."""
        return self.steps * self.dt

    def tick(self) -> bool:
        """Count a step; return whether it is time to apply what was gathered."""
        self.steps += 1
        self.phase = (self.phase + 1) % self.every
        return self.phase == 0

    def state_dict(self) -> dict[str, int]:
        """Return the time, and where in an episode it is."""
        return {"steps": self.steps, "phase": self.phase}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.steps, self.phase = int(state["steps"]), int(state["phase"])


def pauses(env: Any) -> bool:
    """Whether a vector environment shows a step that is no transition after an episode's end (NEXT_STEP)."""
    if not isinstance(env, gym.vector.VectorEnv):
        return False
    mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    return AutoresetMode(mode) is AutoresetMode.NEXT_STEP


class Scale:
    """Largest running mean of what a parameter's direction responds with to it, for default steps.

    Directions xi delta change by about xi_j dJ/dtheta_j per unit of theta_j; divided by its mean size, one
    step size suits features of any size. It changes no fixed point.

    Args:
        like: [P] parameters.
        window: steps over which the mean is taken.
        warm: steps before which parameters do not move.
    """

    def __init__(self, like: Tensor, window: int, warm: int = 1) -> None:
        self.mean, self.peak = torch.zeros_like(like), torch.zeros_like(like)
        self.window, self.warm, self.steps = window, warm, 0

    def add(self, response: Tensor, share: Tensor) -> None:
        """Take in the mean response [P] of one step, of which a share [] of the rows were transitions."""
        self.steps += 1
        self.mean.lerp_(response, share / min(self.steps, self.window))
        if self.steps >= self.warm:  # never less: a feature that fades must not make steps larger
            self.peak = torch.maximum(self.peak, self.mean)

    def applied(self, direction: Tensor) -> Tensor:
        """Return a direction [P] over the mean response; 0 before that is known."""
        if self.steps < self.warm:
            return torch.zeros_like(direction)
        return direction / (self.peak + 1e-9 * self.peak.max() + 1e-300)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the number of steps."""
        return {"mean": self.mean, "peak": self.peak, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.mean.copy_(state["mean"])
        self.peak = state["peak"].to(self.mean.device, copy=True)
        self.steps = int(state["steps"])


FAR = 4.0
"""Leverage of a place, as a multiple of its mean, beyond which it counts less."""


class Moments:
    """Running mean of features' outer products, with which a direction E f delta is solved.

    Where delta answers to parameters by -f per unit of time, M^-1 E f delta moves all of them towards the
    solution at one pace, however small or correlated the features are; without it, small ones wait. It
    changes no fixed point.

    Args:
        like: [P] parameters.
        window: steps over which the mean is taken.
        warm: steps before which parameters do not move.
    """

    RIDGE = 1e-9
    """Added to the diagonal, as a share of its mean."""

    def __init__(self, like: Tensor, window: int, warm: int) -> None:
        self.mean = like.new_zeros(len(like), len(like))
        self.window, self.warm, self.steps = window, warm, 0

    def add(self, features: Tensor, weights: Tensor, share: Tensor) -> None:
        """Take in one step's features [n, P] with weights [n]; a share [] of the rows were transitions."""
        self.steps += 1
        self.mean.lerp_(features.T @ (features * weights[:, None]), share / min(self.steps, self.window))

    def solved(self, direction: Tensor) -> Tensor:
        """Return M^-1 times a direction [P]; 0 before there is enough to tell M."""
        if self.steps < self.warm:
            return torch.zeros_like(direction)
        solution: Tensor = torch.linalg.solve_ex(self._regular(), direction)[0]  # solve waits for the device
        return solution

    def _regular(self) -> Tensor:
        diagonal = self.mean.diagonal()
        return self.mean + torch.diag((self.RIDGE * diagonal.mean() + 1e-300).expand_as(diagonal))

    def leverage(self, features: Tensor) -> Tensor:
        """Return f' M^-1 f [n] of features [n, P], which is P on average: how far out rows lie."""
        towards: Tensor = torch.linalg.solve_ex(self._regular(), features.T)[0].T
        return (features * towards).sum(1)

    def trust(self, features: Tensor) -> Tensor:
        """Return weights [n] of rows: 1 up to :data:`FAR` times the mean leverage, beyond it less and less.

        Products of value functions' gradients and differences grow as that square. Weights of time and state
        change no fixed point that the family holds: differences are 0 on average in every state.
        """
        return (self.leverage(features) / (FAR * features.shape[1])).clamp(min=1.0).square().reciprocal()

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the number of steps."""
        return {"mean": self.mean, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.mean.copy_(state["mean"])
        self.steps = int(state["steps"])


@contextmanager
def holding(family: Any, name: str, parameters: Tensor) -> Iterator[None]:
    """Let a family of functions have other parameters for a while, in the place of its attribute ``name``."""
    kept = getattr(family, name)
    setattr(family, name, parameters)
    try:
        yield
    finally:
        setattr(family, name, kept)
