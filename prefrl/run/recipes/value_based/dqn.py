"""Train a deep Q-network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.agents.value_based.dqn_learners import DQNLearners
from prefrl.config import Count, Rows
from prefrl.data import TransitionDataset, load_transitions
from prefrl.run.folder import RunFolder
from prefrl.run.recipes.base import EvaluatedRecipe, Pairs, default
from prefrl.run.recipes.stacked import StackedRecipe


@dataclass(frozen=True)
class TrainDQN(StackedRecipe):
    """Deep Q-learning with one of seven losses: HL-Gauss, Two-Hot, C51, quantile, squared, Huber, ..."""

    evaluated: ClassVar[int] = 20

    env_id: str = "CartPole-v1"
    """Environment with Discrete actions; prefrl's own are stepped on the device."""

    env_args: Pairs = ()
    """Arguments of the environment, as in: sticky_action_prob=0.25."""

    num_envs: Rows = 8

    dataset: Path | None = None
    """File of transitions to learn from alone: a timestep is then a gradient step, env_id for evaluations."""

    total_timesteps: Count = 100_000

    eval_every: Annotated[Count | None, default("5 % of the run")] = None
    """Timesteps between two evaluations of the greedy policy."""

    final_episodes: Rows = 100

    agent: DQNConfig = field(default_factory=DQNConfig)
    """Settings of the agent."""

    def check(self) -> None:
        """Raise ValueError for policies of a data set where there is none."""
        super().check()
        whole = "compile" if self.agent.compile else "cuda_graph" if self.agent.cuda_graph else None
        if self.num_learners > 1 and (self.dataset is not None or whole):
            with_what = "a data set" if self.dataset is not None else whole
            raise ValueError(f"num_learners is {self.num_learners}; with {with_what} it must be 1")
        if self.agent.target_policy != "greedy" and self.dataset is None:
            raise ValueError(f"target_policy is {self.agent.target_policy!r}; without a dataset it must be "
                             "'greedy'")  # fmt: skip

    def training_env(self) -> Any:
        """Return the environments to learn in; with a data set only the one that it is of."""
        if self.num_learners > 1:
            return super().training_env()
        return EvaluatedRecipe.training_env(self) if self.dataset is None else self.scalar_env()

    def given(self, env: Any, folder: RunFolder, *, resume: bool) -> dict[str, Any]:
        """Return the data set, if there is one."""
        return {} if self.dataset is None else {"dataset": load_transitions(self.dataset)}

    def make_agent(self, env: Any, dataset: TransitionDataset | None = None) -> DQN | DQNLearners:
        """See :meth:`Recipe.make_agent`."""
        if self.num_learners > 1:
            return DQNLearners(env, self.agent, num_learners=self.num_learners, device=self.device,
                               seed=self.given_seed)  # fmt: skip
        return DQN(env, self.agent, dataset=dataset, device=self.device, seed=self.seed)
