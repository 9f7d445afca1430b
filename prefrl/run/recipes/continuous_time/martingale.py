"""Evaluate a policy in continuous time by martingales."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from tyro.conf import arg

from prefrl.agents.continuous_time.evaluation import MartingaleConfig, MartingaleEvaluation
from prefrl.agents.continuous_time.task import default_value
from prefrl.config import Count, Rows, Time
from prefrl.envs.diffusions.dynamics import Policy
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.run.environments import make_scalar_env
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.diffusions import (
    compare_values,
    make_diffusions,
    save_values,
    truth_arguments,
    with_settings,
)
from prefrl.run.recipes.base import Pairs, Recipe, default

DEFAULT_POLICY = {"f1": (-0.5,), "f2": (-0.5,), "v": (0.1,)}
"""The linear policy that is evaluated unless told otherwise."""


@dataclass(frozen=True)
class TrainMartingale(Recipe):
    """Policy evaluation for diffusions by martingales, beside the closed form."""

    checkpoints: ClassVar[int] = 5

    env_id: str = "prefrl/OrnsteinUhlenbeck-v0"
    """A diffusion of prefrl; it is stepped on the device."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: k=2 q=0.5 (or --env.k 2)."""

    num_envs: Rows = 256
    """Paths that run together."""

    total_time: Time | None = None
    """Time that each path runs for, in the environment's units; None: 1000, or 200 episodes."""

    f1: Annotated[tuple[float, ...], arg(help_behavior_hint="(default: -0.5)")] = ()
    """Of linear-quadratic problems the policy evaluated, N(f1 x + f2, v): f1, m d numbers row by row, or
    one."""

    f2: Annotated[tuple[float, ...], arg(help_behavior_hint="(default: -0.5)")] = ()
    """f2, m numbers, or one."""

    v: Annotated[tuple[float, ...], arg(help_behavior_hint="(default: 0.1)")] = ()
    """v, m variances, or one. In mean-variance problems the policy evaluated is the best one."""

    checkpoint_every: Annotated[Count | None, default("20 % of the run")] = None

    agent: MartingaleConfig = field(default_factory=MartingaleConfig)
    """Settings of the agent."""

    def scalar_env(self) -> Any:
        """Return the environment with the agent's time step and discount rate."""
        dt, beta = self.agent.dt, self.agent.beta
        return make_scalar_env(self.env_id, with_settings(self.env_id, self.env_args, dt, beta))

    def training_env(self) -> Any:
        """Return ``num_envs`` paths."""
        dt, beta = self.agent.dt, self.agent.beta
        return make_diffusions(self.env_id, self.env_args, self.num_envs, self.device, dt, beta)

    def make_agent(self, env: Any) -> MartingaleEvaluation:
        """See :meth:`Recipe.make_agent`; ValueError for other environments than diffusions."""
        diffusion = getattr(env.unwrapped, "diffusion", None)
        if diffusion is None:
            raise ValueError(f"env_id is {self.env_id!r}, which is no diffusion of prefrl; evaluate "
                             "policies of others with MartingaleEvaluation(env, config, policy)")  # fmt: skip
        policy = self._policy(env.unwrapped, diffusion)
        return MartingaleEvaluation(env, self.agent, policy, device=self.device, seed=self.seed)

    def begin(self, agent: MartingaleEvaluation, folder: RunFolder, given: dict[str, Any]) -> None:
        """Raise ValueError where the truth is infinite."""
        self._truth(agent)
        compare_values(agent)

    def timesteps(self, agent: MartingaleEvaluation) -> int:
        """See :meth:`Recipe.timesteps`."""
        task = agent.task
        total_time = self.total_time or (1000.0 if task.T is None else 200.0 * task.T)
        return self.num_envs * max(1, round(total_time / task.dt))

    def outcome(self, agent: MartingaleEvaluation, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return how far off the value function is, and draw it as ``value.png``."""
        comparison = compare_values(agent)
        if comparison is not None:
            save_values(folder.path / "value.png", {self.agent.objective: comparison}, title=self.env_id)
        return {
            "true_parameters": self._truth(agent),
            "sup_error": None if comparison is None else comparison.sup_error,
        }

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
