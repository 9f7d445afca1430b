"""How right a learned value function or policy of a diffusion is, beside the closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import prefrl.envs
from prefrl.agents.base import Agent
from prefrl.agents.continuous_control import ContinuousControl
from prefrl.agents.continuous_time import DTYPE
from prefrl.agents.martingale import MartingaleEvaluation
from prefrl.envs.diffusion import Policy
from prefrl.envs.mean_variance import MeanVarianceFace, MeanVariancePolicy
from prefrl.envs.riccati import LinearPolicy
from prefrl.nn.gaussian_policies import AffineGaussian

from .plot import PALETTE
from .recipes.shared import make_training_env, parse_env_args

Floats = NDArray[np.float64]

TIMES, PLACES = 11, 41
"""Points of the grid over which value functions are compared: times, and places in all."""

PATHS = 20_000
"""Paths that a policy without a closed form is judged by."""


def make_diffusions(
    env_id: str, env_args: tuple[str, ...], num_envs: int, device: str, dt: float | None
) -> Any:
    """Return ``num_envs`` environments in float64; those of prefrl without a horizon are never cut.

    Args:
        env_id: which.
        env_args: their arguments.
        num_envs: how many.
        device: where prefrl's own live.
        dt: time between two steps of prefrl's diffusions; None: their default.

    Raises:
        ValueError: if the arguments are not the environment's.
    """
    env_args = with_dt(env_id, env_args, dt)
    if _own(env_id) and "max_episode_steps" not in parse_env_args(env_args):
        env_args = (*env_args, "max_episode_steps=null")
    return make_training_env(env_id, env_args, num_envs, device, float_dtype=DTYPE)


def _own(env_id: str) -> bool:
    return prefrl.envs.bare_id(env_id) in prefrl.envs.REGISTRY


def with_dt(env_id: str, env_args: tuple[str, ...], dt: float | None) -> tuple[str, ...]:
    """Return arguments of an environment with ``dt`` among them, if it is given and one of prefrl's.

    Raises:
        ValueError: if they hold another one.
    """
    if dt is None or not _own(env_id):
        return env_args
    given = parse_env_args(env_args).get("dt", dt)
    if given != dt:
        raise ValueError(f"dt is {dt}, and {given} in env_args; give one of them")
    return (*(text for text in env_args if text.partition("=")[0] != "dt"), f"dt={dt!r}")


class Comparison(NamedTuple):
    """A learned value function beside the true one on a grid of P points."""

    t: Floats
    """[P]."""
    x: Floats
    """[P, d]."""
    learned: Floats
    """[P]."""
    true: Floats
    """[P]."""

    @property
    def sup_error(self) -> float:
        """Largest absolute difference."""
        return float(np.abs(self.learned - self.true).max())


def truth_arguments(policy: Policy | None, temperature: float) -> dict[str, Any]:
    """Return what ``true_value`` and ``true_parameters`` of a diffusion must be told of a policy."""
    if isinstance(policy, LinearPolicy):
        return {"policy": policy, "temperature": temperature}
    return {"temperature": temperature} if isinstance(policy, MeanVariancePolicy) else {}


def compare_values(agent: MartingaleEvaluation) -> Comparison | None:
    """Return the agent's value function beside the true one; None where that is not known.

    With average rewards J counts up to a constant, which is taken from the truth.
    """
    face, task = agent.env.unwrapped, agent.task
    if not hasattr(face, "true_value"):
        return None
    low, high = task.diffusion.region
    axis = np.linspace(low, high, PLACES if task.dim == 1 else max(3, round(PLACES ** (1.0 / task.dim))))
    places = np.stack(np.meshgrid(*[axis] * task.dim, indexing="ij"), -1).reshape(-1, task.dim)
    times = np.linspace(0.0, task.T, TIMES) if task.T is not None else np.zeros(1)
    t, x = np.repeat(times, len(places)), np.tile(places, (len(times), 1))
    known = truth_arguments(agent.policy, agent.temperature)
    true = face.true_value(t, x[:, 0] if task.dim == 1 else x, **known)
    learned = agent.value_at(t, x)
    if task.ergodic:
        learned = learned + (true - learned).mean()
    return Comparison(t, x, learned, true)


def draw_values(axes: Axes, comparisons: dict[str, Comparison], *, title: str = "") -> None:
    """Draw learned value functions over the first coordinate, at the start and (dashed) half way."""
    first = next(iter(comparisons.values()))
    middle = np.median(first.t)
    for at, style in ((0.0, "-"), (middle, "--")):
        if style == "--" and middle == 0.0:
            continue
        for index, (label, found) in enumerate(comparisons.items()):
            rows = (np.abs(found.t - at) < 1e-12) & (np.abs(found.x[:, 1:]).sum(1) < 1e-9)
            if index == 0:
                axes.plot(found.x[rows, 0], found.true[rows], color="0.55", linewidth=4.0, linestyle=style,
                          label="true value" if style == "-" else None)  # fmt: skip
            axes.plot(found.x[rows, 0], found.learned[rows], color=PALETTE[index % len(PALETTE)],
                      linewidth=1.5, linestyle=style, label=label if style == "-" else None)  # fmt: skip
    axes.set_xlabel("state x")
    axes.set_ylabel("value J(t, x)")
    axes.set_title(title, loc="left", fontsize=11)
    tidy(axes)
    both = "solid: t = 0, dashed: half way" if middle > 0.0 else None
    axes.legend(frameon=False, fontsize=8.5, title=both, title_fontsize=8.0)


def tidy(axes: Axes) -> None:
    """Take away what distracts."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def panels(count: int, *, height: float = 3.6) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with axes side by side."""
    figure = Figure(figsize=(1.2 + 4.2 * count, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def true_policy(env: Any, temperature: float) -> dict[str, Any] | None:
    """Return the best policy's parameters named as an agent's are; None if not known."""
    face = env.unwrapped
    if not hasattr(face, "true_optimum"):
        return None
    policy = face.true_optimum(temperature).policy
    if isinstance(policy, MeanVariancePolicy):
        return {"phi1": policy.phi1, "phi2": policy.phi2, "phi3": policy.phi3, "w": policy.w}
    single = policy.f1.shape == (1, 1)
    found = {"phi1": policy.f1, "phi2": policy.f2, "variance": np.diag(policy.v)}
    return {name: float(part.reshape(-1)[0]) if single else part.tolist() for name, part in found.items()}


class _Learned:
    """A learned policy, as ``simulate`` takes it."""

    def __init__(self, agent: ContinuousControl) -> None:
        self.agent = agent

    def __call__(self, t: Any, x: Any, z: Any) -> Any:
        with self.agent.averaged():
            times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
            return self.agent.policy.sample(times, x, z)


def policy_outcome(agent: Agent, env: Any, temperature: float, seed: int) -> dict[str, Any]:
    """Return what a learned policy is worth: exactly for linear policies, else by paths from the start.

    Returns:
        With average rewards ``average_reward``, without entropy; with a discount ``value``, J at x0 with
        entropy; with a horizon ``value``, the mean reward, and for mean-variance ``terminal_mean`` and
        ``terminal_variance``; None where it is infinite.
    """
    assert isinstance(agent, ContinuousControl)
    face, task = env.unwrapped, agent.task
    if task.T is None and isinstance(agent.policy, AffineGaussian):
        with agent.averaged():
            origin = torch.zeros(1, task.dim, dtype=DTYPE, device=agent.device)
            f2, log_variance = agent.policy.distribution(origin[:, 0], origin)
            f1 = [
                agent.policy.distribution(origin[:, 0], row[None])[0] - f2
                for row in torch.eye(task.dim).to(f2)
            ]
        slope = torch.cat(f1).T
        policy = LinearPolicy(slope.cpu().numpy(), f2[0].cpu().numpy(), log_variance[0].exp().cpu().numpy())
        try:
            if task.ergodic:
                return {"average_reward": task.diffusion.problem.value(policy).V}
            return {"value": float(face.true_value(0.0, task.diffusion.x0[None], policy, temperature)[0])}
        except ValueError:
            return {"average_reward" if task.ergodic else "value": None}
    steps = None if task.T is not None else max(1, round(50.0 / task.dt))
    paths = face.simulate(
        _Learned(agent), PATHS if task.T is not None else 256, steps, device=agent.device, seed=seed
    )
    if task.T is None:
        k = torch.arange(len(paths.reward_rates), device=agent.device)
        if task.ergodic:
            return {"average_reward": float(paths.reward_rates[len(k) // 5 :].mean())}
        discount = torch.exp(-task.beta * task.dt * k)[:, None]
        return {"value": float((discount * paths.reward_rates).sum(0).mean() * task.dt)}
    found = {"value": float((paths.reward_rates.sum(0) * task.dt + paths.terminal_rewards).mean())}
    if isinstance(face, MeanVarianceFace):
        wealth = paths.x[-1, :, 0]
        found |= {"terminal_mean": float(wealth.mean()), "terminal_variance": float(wealth.var())}
    return found
