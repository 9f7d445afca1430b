"""Train tabular Q-learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefrl.agents.value_based.q_learning import QLearning, QLearningConfig
from prefrl.config import Count, Rows
from prefrl.run.evaluate import evaluate, scaled_return
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.recipes.base import SteppingRecipe


@dataclass(frozen=True)
class TrainQLearning(SteppingRecipe):
    """Tabular Q-learning, with thousands of environments at once."""

    env_id: str = "prefrl/Delivery-v0"
    """Environment with Discrete observations and actions; prefrl's own are stepped on the device."""

    num_envs: Rows = 4096

    total_timesteps: Count = 4_000_000

    eval_episodes: Rows = 100
    """Episodes of the greedy policy, after training, whose mean return is the final return."""

    agent: QLearningConfig = field(default_factory=QLearningConfig)
    """Settings of the agent."""

    def training_env(self) -> Any:
        """Return ``num_envs`` environments, once the scalar one has taken the arguments: it takes fewer."""
        self.scalar_env()
        return super().training_env()

    def make_agent(self, env: Any) -> QLearning:
        """See :meth:`Recipe.make_agent`."""
        return QLearning(env, self.agent, device=self.device, seed=self.seed)

    def outcome(self, agent: QLearning, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return how good the greedy policy is, by episodes and, where it can be told, exactly."""
        env = self.scalar_env()
        return {
            **super().outcome(agent, loop, folder),
            "scaled_return": scaled_return(agent, env),
            "final_return": evaluate(agent, env, episodes=self.eval_episodes, seed=self.seed)["mean_return"],
        }
