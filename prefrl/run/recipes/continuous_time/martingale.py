"""Evaluate a policy in continuous time by martingales."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from tyro.conf import arg

from prefrl.agents.continuous_time.evaluation import MartingaleConfig, MartingaleEvaluation
from prefrl.agents.continuous_time.task import default_value
from prefrl.data.devices import resolve_device
from prefrl.envs.diffusions.dynamics import Policy
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.run.environments import make_scalar_env, parse_env_args, restore
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.diffusions import (
    compare_values,
    draw_values,
    make_diffusions,
    panels,
    truth_arguments,
    with_settings,
)
from prefrl.run.plot import save_figure

DEFAULT_POLICY = {"f1": (-0.5,), "f2": (-0.5,), "v": (0.1,)}
"""The linear policy that is evaluated unless told otherwise."""


@dataclass(frozen=True)
class TrainMartingale:
    """Policy evaluation for diffusions by martingales, beside the closed form."""

    env_id: str = "prefrl/OrnsteinUhlenbeck-v0"
    """A diffusion of prefrl; it is stepped on the device."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: k=2 q=0.5 (or --env.k 2)."""

    num_envs: int = 256
    """Paths that run together."""

    total_time: float | None = None
    """Time that each path runs for, in the environment's units; None: 1000, or 200 episodes."""

    f1: Annotated[tuple[float, ...], arg(help_behavior_hint="(default: -0.5)")] = ()
    """Of linear-quadratic problems the policy evaluated, N(f1 x + f2, v): f1, m d numbers row by row, or
    one."""

    f2: Annotated[tuple[float, ...], arg(help_behavior_hint="(default: -0.5)")] = ()
    """f2, m numbers, or one."""

    v: Annotated[tuple[float, ...], arg(help_behavior_hint="(default: 0.1)")] = ()
    """v, m variances, or one. In mean-variance problems the policy evaluated is the best one."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 20 % of the run)")
    ] = None
    """Timesteps between two checkpoints."""

    seed: int = 0
    """Seeds the paths and the policy's noise."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    agent: Annotated[MartingaleConfig, arg(name="")] = field(default_factory=MartingaleConfig)
    """Settings of the agent."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.total_time is not None and not 0.0 < self.total_time < float("inf"):
            raise ValueError(f"total_time is {self.total_time}; it must be positive and finite")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        parse_env_args(self.env_args)
        resolve_device(self.device)

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Evaluate; save the agent as ``agent.pt``, and what it found beside the truth as ``value.png``."""
        torch.set_num_threads(1)  # more slow small operations down
        env = self._env(self.num_envs)
        agent = self._agent(env)
        task, truth = agent.task, self._truth(agent)
        compare_values(agent)  # the truth may be infinite, which is better known before
        total_time = self.total_time or (1000.0 if task.T is None else 200.0 * task.T)
        total = self.num_envs * max(1, round(total_time / task.dt))
        loop = Loop(
            agent,
            total,
            folder=folder,
            resume=resume,
            progress_bar=progress_bar,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every or max(1, total // 5),
        )
        loop.run()
        agent.save(folder.path / "agent.pt")
        comparison = compare_values(agent)
        if comparison is not None:
            figure, (axes,) = panels(1)
            draw_values(axes, {self.agent.objective: comparison}, title=self.env_id)
            save_figure(figure, folder.path / "value.png")
        return {
            "parameters": agent.parameters(),
            "true_parameters": truth,
            "sup_error": None if comparison is None else comparison.sup_error,
            "num_timesteps": agent.num_timesteps,
            "seconds": loop.seconds,
        }

    def evaluation(self, folder: RunFolder) -> tuple[MartingaleEvaluation, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(
            self.env_id, with_settings(self.env_id, self.env_args, self.agent.dt, self.agent.beta)
        )
        agent = self._agent(env)
        restore(agent, folder)
        return agent, env

    def _env(self, num_envs: int) -> Any:
        return make_diffusions(
            self.env_id, self.env_args, num_envs, self.device, self.agent.dt, self.agent.beta
        )

    def _agent(self, env: Any) -> MartingaleEvaluation:
        diffusion = getattr(env.unwrapped, "diffusion", None)
        if diffusion is None:
            raise ValueError(f"env_id is {self.env_id!r}, which is no diffusion of prefrl; evaluate "
                             "policies of others with MartingaleEvaluation(env, config, policy)")  # fmt: skip
        policy = self._policy(env.unwrapped, diffusion)
        return MartingaleEvaluation(env, self.agent, policy, device=self.device, seed=self.seed)

    def _policy(self, face: Any, diffusion: Any) -> Policy | None:
        """Return what is evaluated: nothing, the best mean-variance policy, or the flags' linear one."""
        linear = hasattr(diffusion, "problem")
        for name in ("f1", "f2", "v"):
            if getattr(self, name) and not linear:
                raise ValueError(f"{name} is {getattr(self, name)}; it is for linear-quadratic problems")
        if diffusion.action_dim == 0:
            return None
        if not linear:
            given = self.agent.temperature
            policy: Policy = face.true_optimum(0.1 if given is None else given).policy
            return policy
        d, m = diffusion.dim, diffusion.action_dim
        shaped = []
        for name, shape in (("f1", (m, d)), ("f2", (m,)), ("v", (m,))):
            numbers = np.array(getattr(self, name) or DEFAULT_POLICY[name])
            if numbers.size not in (1, np.prod(shape)):
                raise ValueError(
                    f"{name} has {numbers.size} numbers; this problem takes {np.prod(shape)}, or one"
                )
            shaped.append(np.broadcast_to(numbers.reshape(shape if numbers.size > 1 else ()), shape))
        return LinearPolicy(*shaped)

    def _truth(self, agent: MartingaleEvaluation) -> dict[str, Any] | None:
        face = agent.env.unwrapped
        family = default_value(agent.task) if self.agent.value == "auto" else self.agent.value
        known = truth_arguments(agent.policy, agent.temperature)
        truth: dict[str, Any] | None = face.true_parameters(family, **known)
        return truth
