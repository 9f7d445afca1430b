"""Learn to steer a diffusion, by actor-critic or q-learning in continuous time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import arg

from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic, ContinuousActorCriticConfig
from prefrl.agents.continuous_time.control import ContinuousControlConfig
from prefrl.agents.continuous_time.q_learning import ContinuousQLearning, ContinuousQLearningConfig
from prefrl.config import Count, PositiveShare, Rows
from prefrl.run.environments import make_scalar_env
from prefrl.run.evaluate import evaluate
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.diffusions import make_diffusions, policy_outcome, true_policy, with_settings
from prefrl.run.recipes.base import Pairs, SteppingRecipe

Control = ContinuousActorCritic | ContinuousQLearning

OWN = {"actor_critic": ("entropy", "policy_lam", "discount_policy"), "q_learning": ("normalizer",)}
"""Settings that only one of the agents has."""


@dataclass(frozen=True)
class TrainContinuousControl(SteppingRecipe):
    """Actor-critic or q-learning in continuous time, beside the closed form of the best policy."""

    env_id: str = "prefrl/LQErgodic-v0"
    """A diffusion of prefrl with actions, stepped on the device, or another environment with --dt and
    --beta."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: A=-2 beta=0.5 (or --env.A -2)."""

    kind: Annotated[Literal["actor_critic", "q_learning"], arg(name="agent")] = "actor_critic"
    """Which agent."""

    num_envs: Rows = 256
    """Paths that run together."""

    total_timesteps: Count = 5_120_000

    entropy: Literal["sampled", "closed_form"] | None = None
    """actor_critic only: p of the regulariser; None: sampled, -log pi(a)."""

    policy_lam: PositiveShare | None = None
    """actor_critic only: lambda of the policy's trace, per unit of time, in (0, 1]; None: no trace."""

    discount_policy: bool | None = None
    """actor_critic only: weigh the policy's direction with e^{-beta t}; None: no."""

    normalizer: Literal["known", "unknown"] | None = None
    """q_learning only: whether q is normalised by its form; None: known."""

    settings: ContinuousControlConfig = field(default_factory=ContinuousControlConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for settings that the agent does not have, or does not take."""
        super().check()
        for kind, names in OWN.items():
            for name in names:
                if kind != self.kind and getattr(self, name) is not None:
                    raise ValueError(f"{name} is {getattr(self, name)}, but only {kind} has it")
        self.agent_config()

    def agent_config(self) -> Any:
        """Return the settings of the agent that was chosen, its own among them."""
        kinds = {"actor_critic": ContinuousActorCriticConfig, "q_learning": ContinuousQLearningConfig}
        shared = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(self.settings)}
        own = {name: getattr(self, name) for name in OWN[self.kind] if getattr(self, name) is not None}
        return kinds[self.kind](**shared, **own)

    def scalar_env(self) -> Any:
        """Return the environment with the agent's time step and discount rate."""
        dt, beta = self.settings.dt, self.settings.beta
        return make_scalar_env(self.env_id, with_settings(self.env_id, self.env_args, dt, beta))

    def training_env(self) -> Any:
        """Return ``num_envs`` paths."""
        dt, beta = self.settings.dt, self.settings.beta
        return make_diffusions(self.env_id, self.env_args, self.rows, self.device, dt, beta)

    def make_agent(self, env: Any) -> Control:
        """See :meth:`Recipe.make_agent`."""
        agent_class = ContinuousActorCritic if self.kind == "actor_critic" else ContinuousQLearning
        return agent_class(env, self.agent_config(), device=self.device, seed=self.seed)

    def begin(self, agent: Control, folder: RunFolder, given: dict[str, Any]) -> None:
        """Raise ValueError where there is no best policy."""
        true_policy(agent.env, self.settings.temperature)

    def outcome(self, agent: Control, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return what the policy is worth, beside the best one."""
        if agent.task.diffusion is None:
            scalar = make_scalar_env(self.env_id, self.env_args)
            found = {"final_return": evaluate(agent, scalar, episodes=20, seed=self.seed)["mean_return"]}
        else:
            found = policy_outcome(agent, agent.env, self.settings.temperature, self.seed)
        best = true_policy(agent.env, self.settings.temperature)
        return {**super().outcome(agent, loop, folder), "true_policy": best, **found}
