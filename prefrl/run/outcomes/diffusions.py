"""How right a learned value function or policy of a diffusion is, beside the closed form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

import prefrl.envs
from prefrl.agents.base import Agent
from prefrl.agents.continuous_time.control import ContinuousControl
from prefrl.agents.continuous_time.evaluation import MartingaleEvaluation
from prefrl.agents.continuous_time.task import DTYPE
from prefrl.data.devices import make_generator
from prefrl.envs.diffusions.dynamics import Policy
from prefrl.envs.diffusions.mean_variance import MeanVarianceDynamics, MeanVariancePolicy
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.nn.continuous_time.gaussian_policies import AffineGaussian
from prefrl.run.environments import make_training_env, parse_env_args
from prefrl.run.plot import PALETTE, save_figure, tidy

Floats = NDArray[np.float64]

TIMES, PLACES = 11, 41
"""Points of the grid over which value functions are compared: times, and places in all."""

PATHS, NUMBERS = 20_000, 20_000_000
"""Paths that a policy without a closed form is judged by, and the most steps of all of them together."""

CHUNK = 500
"""Steps of paths without a horizon that are held at once."""


def make_diffusions(
    env_id: str,
    env_args: tuple[str, ...],
    num_envs: int,
    device: str,
    dt: float | None = None,
    beta: float | None = None,
) -> Any:
    """Return ``num_envs`` environments in float64; those of prefrl without a horizon are never cut.

    Args:
        env_id: which.
        env_args: their arguments.
        num_envs: how many.
        device: where prefrl's own live.
        dt: time between two steps of prefrl's diffusions; None: their default.
        beta: their discount rate; None: their default.

    Raises:
        ValueError: if the arguments are not the environment's.
    """
    env_args = with_settings(env_id, env_args, dt, beta)
    if _is_diffusion(env_id) and "max_episode_steps" not in parse_env_args(env_args):
        env_args = (*env_args, "max_episode_steps=null")
    return make_training_env(env_id, env_args, num_envs, device, float_dtype=DTYPE)


def _is_diffusion(env_id: str) -> bool:
    return prefrl.envs.bare_id(env_id) in prefrl.envs.DIFFUSION_IDS


def with_settings(
    env_id: str, env_args: tuple[str, ...], dt: float | None, beta: float | None
) -> tuple[str, ...]:
    """Return arguments of an environment with ``dt`` and ``beta`` among them, if given and it is a diffusion.

    Raises:
        ValueError: if they hold others.
    """
    if not _is_diffusion(env_id):
        return env_args
    for name, value in (("dt", dt), ("beta", beta)):
        if value is None:
            continue
        given = parse_env_args(env_args).get(name, value)
        if given != value:
            raise ValueError(f"{name} is {value}, and {given} in env_args; give one of them")
        env_args = (*(text for text in env_args if text.partition("=")[0] != name), f"{name}={value!r}")
    return env_args


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


def panels(count: int, *, height: float = 3.6) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with axes side by side."""
    figure = Figure(figsize=(1.2 + 4.2 * count, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    return figure, list(axes)


def save_values(path: Path, comparisons: dict[str, Comparison], *, title: str) -> None:
    """Draw learned value functions beside the true one as a PNG; see :func:`draw_values`."""
    figure, (axes,) = panels(1)
    draw_values(axes, comparisons, title=title)
    save_figure(figure, path)


def true_policy(env: Any, temperature: float) -> dict[str, Any] | None:
    """Return the best policy's parameters named as an agent's are; None if not known."""
    face = env.unwrapped
    if not hasattr(face, "true_optimum"):
        return None
    policy = face.true_optimum(temperature).policy
    if isinstance(policy, MeanVariancePolicy):
        return {"phi1": policy.phi1, "phi2": policy.phi2, "phi3": policy.phi3, "w": policy.w}
    single = policy.f1.shape == (1, 1)
    # of the policies with independent noise, gamma / S_ii is best where the best of all has gamma S^{-1}
    variance = 1.0 / np.diag(np.linalg.inv(policy.v)) if temperature > 0.0 else np.diag(policy.v)
    found = {"phi1": policy.f1, "phi2": policy.f2, "variance": variance}
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
    if task.T is None:
        return _endless_outcome(agent, face, temperature, seed)
    assert task.num_steps is not None
    n_paths = max(100, min(PATHS, NUMBERS // task.num_steps))
    paths = face.simulate(_Learned(agent), n_paths, device=agent.device, seed=seed)
    found = {"value": float((paths.reward_rates.sum(0) * task.dt + paths.terminal_rewards).mean())}
    if isinstance(face.diffusion, MeanVarianceDynamics):
        wealth = paths.x[-1, :, 0]
        found |= {"terminal_mean": float(wealth.mean()), "terminal_variance": float(wealth.var())}
    return found


def _endless_outcome(agent: ContinuousControl, face: Any, temperature: float, seed: int) -> dict[str, Any]:
    """Return what a policy earns on 256 paths, on average or (with its entropy) discounted."""
    task = agent.task
    total = round((50.0 if task.ergodic else 20.0 / task.beta) / task.dt)
    skipped = round(10.0 / task.dt) if task.ergodic else 0
    generator = make_generator(agent.device, seed)
    place: dict[str, Any] = {"dtype": DTYPE, "device": agent.device}
    earned, start, done = torch.zeros((), **place), None, 0
    while done < total:
        steps = min(CHUNK, total - done)
        paths = face.simulate(_Learned(agent), 256, steps, x0=start, device=agent.device, generator=generator)
        k = torch.arange(done, done + steps, **place)
        rates = paths.reward_rates
        if not task.ergodic:
            x = paths.x[:-1].reshape(-1, task.dim)
            with agent.averaged():
                entropy = agent.policy.entropy(torch.zeros_like(x[:, 0]), x)[0]
            rates = rates + temperature * entropy.view_as(rates)
        weights = torch.exp(-task.beta * task.dt * k) * (k >= skipped)
        earned += (weights @ rates.mean(1)) * task.dt
        start, done = paths.x[-1], done + steps
    if task.ergodic:
        return {"average_reward": float(earned) / ((total - skipped) * task.dt)}
    return {"value": float(earned)}
