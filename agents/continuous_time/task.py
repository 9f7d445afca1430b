"""What the agents of continuous time share: the task they see, and how parameters move per unit of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from prefrl.data import Transitions
from prefrl.envs.diffusions.dynamics import DiffusionDynamics, whole_steps
from prefrl.nn.value_families import (
    ImpliedVolatility,
    MeanVarianceValue,
    NeuralValue,
    Quadratic,
    TauSquared,
    TauX,
    ValueFamily,
)

DTYPE = torch.float64
"""Of everything that is learned here: temporal differences are small differences of large numbers."""

Decay = Literal["constant", "log", "power"]
"""How step sizes fall with time t: not, as 1 / max(1, log t), or as (1 + t / decay_time)^-decay_power."""

METRICS_EVERY = 10
"""Updates for which one reports metrics: to name and keep them takes about as long as a third of an
update."""

FIRST_VOLATILITY = 0.5
"""Where learning an implied volatility starts."""


@dataclass(frozen=True)
class Task:
    """A problem in continuous time, as an agent sees it."""

    dt: float
    """Time between two steps."""
    T: float | None
    """Horizon; None: none, and then time is not part of the observation."""
    beta: float
    """Discount rate; 0 without a horizon: average rewards."""
    dim: int
    """Numbers in the state."""
    action_dim: int
    """Numbers in an action; 0 where nobody steers."""
    diffusion: Any = None
    """The environment's ``DiffusionDynamics``; None for environments that are not prefrl's."""
    description: str = ""
    """The diffusion as JSON, which ``diffusion_from_json`` reads; "" where there is none."""

    @property
    def ergodic(self) -> bool:
        """Whether rewards count by their average over time."""
        return self.T is None and self.beta == 0.0

    @property
    def num_steps(self) -> int | None:
        """Steps of an episode."""
        return None if self.T is None else round(self.T / self.dt)

    @property
    def info_keys(self) -> tuple[str, ...]:
        """What an agent needs of infos: h(X_T), which the last reward contains and dM discounts by itself."""
        return () if self.T is None else ("terminal_reward",)

    def split(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return times [n] and states [n, d] of observations, in :data:`DTYPE`."""
        obs = obs.to(DTYPE)
        return (torch.zeros_like(obs[:, 0]), obs) if self.T is None else (obs[:, 0], obs[:, 1:])


def task_of(agent: Any, dt: float | None, beta: float | None) -> Task:
    """Return the task of an agent's environment.

    Args:
        agent: the agent, its spaces and its environment known.
        dt: time between two steps; None: the environment's.
        beta: discount rate per unit of time; None: the environment's.

    Raises:
        ValueError: if the environment does not say and neither is given, or its spaces are not vectors.
    """
    spaces = (agent.observation_space, agent.action_space)
    face: Any = getattr(agent.env, "unwrapped", None)
    if hasattr(face, "diffusion"):
        diffusion = face.diffusion
        for name, given in (("dt", dt), ("beta", beta)):
            own = getattr(diffusion, name)
            if given is not None and given != own:
                raise ValueError(f"{name} is {given}, and the environment's is {own}; leave it out")
        return task_in(diffusion, face.diffusion_to_json())
    if dt is None or beta is None:
        raise ValueError("dt and beta must be given where the environment is no diffusion of prefrl: the "
                         "time between two steps, and the discount rate per unit of time")  # fmt: skip
    flat = all(isinstance(s, gym.spaces.Box) and len(s.shape) == 1 for s in spaces)
    if not flat:
        raise ValueError(f"observation and action space are {spaces[0]} and {spaces[1]}; outside prefrl's "
                         "diffusions this agent takes Box spaces of vectors")  # fmt: skip
    return Task(dt, None, beta, spaces[0].shape[0], spaces[1].shape[0])


def task_in(diffusion: DiffusionDynamics, description: str) -> Task:
    """Return the task that a diffusion of prefrl is."""
    return Task(
        diffusion.dt,
        diffusion.T,
        diffusion.beta,
        diffusion.dim,
        diffusion.action_dim,
        diffusion,
        description,
    )


def split_rewards(step: Transitions, next_value: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is paid during a step, r dt [n], and what the state after it is worth [n].

    Args:
        step: the step; infos without a ``terminal_reward`` are those of an environment without a horizon.
        next_value: [n] J at the successor, which counts where that is not terminal.
    """
    rewards, live = step.rewards.to(DTYPE), (~step.terminations).to(DTYPE)
    if "terminal_reward" not in step.infos:
        return rewards, next_value * live
    terminal = step.infos["terminal_reward"].to(DTYPE)
    return rewards - terminal, next_value * live + terminal


def check_schedule(config: Any) -> None:
    """Raise ValueError unless the fields of a schedule are in range; see :func:`step_factor`."""
    if config.decay not in ("constant", "log", "power"):
        raise ValueError(f"decay is {config.decay!r}; allowed are constant, log, power")
    for name in ("decay_time", "decay_power"):
        check_positive(name, getattr(config, name))


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless a setting is positive and finite."""
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be positive and finite")


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless a setting is finite and not negative."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} is {value}; it must be finite and not negative")


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
        self._adam: torch.optim.Adam | None = None
        if adam:
            self._variable = torch.nn.Parameter(parameters, requires_grad=True)
            # the state of fused and foreach steps lives on the device: no step waits for it
            self._adam = torch.optim.Adam(
                [self._variable], eps=1e-8, foreach=True, capturable=_on_cuda(parameters)
            )

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
            self._adam.param_groups[0]["lr"] = rate * math.sqrt(interval)
            self._variable.grad = -direction
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
        adam = {} if self._adam is None else dict(self._adam.state.get(self._variable, {}))
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
            device = self.parameters.device
            kept = {name: value.clone() for name, value in state["adam"].items()}
            self._adam.state[self._variable] = {
                name: value.to(device) if name != "step" or _on_cuda(self.parameters) else value.cpu()
                for name, value in kept.items()
            }


def _on_cuda(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


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


def make_value(
    name: str, task: Task, hidden: Sequence[int], w: Tensor, generator: torch.Generator, device: torch.device
) -> ValueFamily:
    """Return a family of value functions by name.

    Args:
        name: "tau_squared", "tau_x", "quadratic", "mean_variance", "implied_volatility" or "neural".
        task: the task.
        hidden: sizes of the hidden layers of "neural".
        w: [] the multiplier of mean-variance, which may change.
        generator: draws the weights of "neural".
        device: where the parameters live.

    Raises:
        ValueError: if the family is not one of the environment's.
    """
    diffusion = task.diffusion
    allowed = ("quadratic", "neural") if diffusion is None else diffusion.value_families
    if name not in allowed or (name == "quadratic" and task.T is not None):
        raise ValueError(f"value is {name!r}; this environment's families are {', '.join(allowed)}")
    place: dict[str, Any] = {"device": device, "dtype": DTYPE}
    if name == "quadratic":
        symbol = "c" if task.action_dim == 0 else "k"
        return Quadratic(task.dim, symbol, not task.ergodic, **place)
    if name == "neural":
        terminal = (lambda x: diffusion.terminal_reward(x, w)) if learns_multiplier(task) else None
        if terminal is None and diffusion is not None:
            terminal = diffusion.terminal_reward
        return NeuralValue(
            task.dim, hidden, task.T, terminal or (lambda x: 0.0 * x[:, 0]), generator, **place
        )
    assert task.T is not None
    if name == "mean_variance":
        return MeanVarianceValue(task.T, diffusion.z, w)
    if name == "implied_volatility":
        return ImpliedVolatility(diffusion.b, diffusion.K, task.T, FIRST_VOLATILITY, **place)
    return (TauSquared if name == "tau_squared" else TauX)(task.T, **place)


def learns_multiplier(task: Task) -> bool:
    """Whether the task is mean-variance, whose terminal reward depends on a multiplier w."""
    return task.diffusion is not None and hasattr(task.diffusion, "w") and hasattr(task.diffusion, "z")


def default_value(task: Task) -> str:
    """Return the family of value functions that the environment offers first; "neural" for foreign ones."""
    return "neural" if task.diffusion is None else task.diffusion.value_families[0]


@contextmanager
def holding(family: Any, name: str, parameters: Tensor) -> Iterator[None]:
    """Let a family of functions have other parameters for a while, in the place of its attribute ``name``."""
    kept = getattr(family, name)
    setattr(family, name, parameters)
    try:
        yield
    finally:
        setattr(family, name, kept)


def plain(values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return tensors as numbers and lists; this waits for the device."""
    return {name: value.tolist() for name, value in values.items()}


def scalars(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries of named parameters as metrics, those of vectors and matrices numbered."""
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        if value.ndim == 0:
            found[f"{prefix}/{name}"] = value
        else:
            flat = value.flatten()
            found.update({f"{prefix}/{name}_{i}": flat[i] for i in range(len(flat))})
    return found
