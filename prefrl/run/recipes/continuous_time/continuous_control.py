"""Learn to steer a diffusion, by actor-critic or q-learning in continuous time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from tyro.conf import arg

from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic, ContinuousActorCriticConfig
from prefrl.agents.continuous_time.control import ContinuousControlConfig
from prefrl.agents.continuous_time.q_learning import ContinuousQLearning, ContinuousQLearningConfig
from prefrl.data.devices import resolve_device
from prefrl.run.environments import make_scalar_env, parse_env_args, restore
from prefrl.run.evaluate import evaluate
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.diffusions import make_diffusions, policy_outcome, true_policy, with_settings

Control = ContinuousActorCritic | ContinuousQLearning

OWN = {"actor_critic": ("entropy", "policy_lam", "discount_policy"), "q_learning": ("normalizer",)}
"""Settings that only one of the agents has."""


@dataclass(frozen=True)
class TrainContinuousControl:
    """Actor-critic or q-learning in continuous time, beside the closed form of the best policy."""

    env_id: str = "prefrl/LQErgodic-v0"
    """A diffusion of prefrl with actions, stepped on the device, or another environment with --dt and
    --beta."""

    env_args: Annotated[tuple[str, ...], arg(metavar="[NAME=VALUE ...]", help_behavior_hint="")] = ()
    """Arguments of the environment, as in: A=-2 beta=0.5 (or --env.A -2)."""

    kind: Annotated[Literal["actor_critic", "q_learning"], arg(name="agent")] = "actor_critic"
    """Which agent."""

    num_envs: int = 256
    """Paths that run together."""

    total_timesteps: int = 5_120_000
    """Timesteps to train for; a step of n environments is n."""

    entropy: Literal["sampled", "closed_form"] | None = None
    """actor_critic only: p of the regulariser; None: sampled, -log pi(a)."""

    policy_lam: float | None = None
    """actor_critic only: lambda of the policy's trace, per unit of time, in (0, 1]; None: no trace."""

    discount_policy: bool | None = None
    """actor_critic only: weigh the policy's direction with e^{-beta t}; None: no."""

    normalizer: Literal["known", "unknown"] | None = None
    """q_learning only: whether q is normalised by its form; None: known."""

    log_every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 1 % of the run)")] = (
        None
    )
    """Timesteps between two rows of progress.csv."""

    checkpoint_every: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 10 % of the run)")
    ] = None
    """Timesteps between two checkpoints."""

    seed: int = 0
    """Seeds the paths and the policy's noise."""

    device: str = "auto"
    """Torch device: auto (CUDA when present), cpu, cuda."""

    settings: Annotated[ContinuousControlConfig, arg(name="")] = field(
        default_factory=ContinuousControlConfig
    )
    """Settings of the agent."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "total_timesteps", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        for kind, names in OWN.items():
            for name in names:
                if kind != self.kind and getattr(self, name) is not None:
                    raise ValueError(f"{name} is {getattr(self, name)}, but only {kind} has it")
        parse_env_args(self.env_args)
        resolve_device(self.device)
        self._config()

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, evaluate, and save the agent as ``agent.pt``."""
        torch.set_num_threads(1)  # more slow small operations down
        dt, beta = self.settings.dt, self.settings.beta
        env = make_diffusions(self.env_id, self.env_args, self.num_envs, self.device, dt, beta)
        agent = self._agent(env)
        best = true_policy(env, self.settings.temperature)  # there may be none: better known before
        loop = Loop(
            agent,
            self.total_timesteps,
            folder=folder,
            resume=resume,
            progress_bar=progress_bar,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every or max(1, self.total_timesteps // 10),
        )
        loop.run()
        agent.save(folder.path / "agent.pt")
        if agent.task.diffusion is None:
            scalar = make_scalar_env(self.env_id, self.env_args)
            outcome = {"final_return": evaluate(agent, scalar, episodes=20, seed=self.seed)["mean_return"]}
        else:
            outcome = policy_outcome(agent, env, self.settings.temperature, self.seed)
        return {
            "policy": agent.policy_parameters(),
            "true_policy": best,
            "parameters": agent.parameters(),
            **outcome,
            "num_timesteps": agent.num_timesteps,
            "seconds": loop.seconds,
        }

    def evaluation(self, folder: RunFolder) -> tuple[Control, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""
        env = make_scalar_env(
            self.env_id, with_settings(self.env_id, self.env_args, self.settings.dt, self.settings.beta)
        )
        agent = self._agent(env)
        restore(agent, folder)
        return agent, env

    def _config(self) -> Any:
        config_class = (
            ContinuousActorCriticConfig if self.kind == "actor_critic" else ContinuousQLearningConfig
        )
        shared = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(self.settings)}
        own = {name: getattr(self, name) for name in OWN[self.kind] if getattr(self, name) is not None}
        return config_class(**shared, **own)

    def _agent(self, env: Any) -> Control:
        agent_class = ContinuousActorCritic if self.kind == "actor_critic" else ContinuousQLearning
        return agent_class(env, self._config(), device=self.device, seed=self.seed)
