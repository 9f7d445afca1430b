"""What the agents of continuous time share: the task they see, and how parameters move per unit of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.data import Transitions
from prefrl.envs.diffusions.dynamics import DiffusionDynamics
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
    if name not in allowed:
        raise ValueError(f"value is {name!r}; this environment's families are {', '.join(allowed)}")
    if name == "quadratic" and task.T is not None:
        raise ValueError("value is 'quadratic', which meets no end condition; with a horizon give 'neural', "
                         "or a family of your own")  # fmt: skip
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
