"""Agents of prefrl, imported as ``prefrl.agents``: one file per algorithm.

The names are loaded when first used, so that one agent does not pay for another's imports.
"""

if not __name__.startswith("prefrl."):
    raise ImportError(f"import this package as 'prefrl.agents', not as {__name__!r}")

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefrl.agents.actor_critic.behaviour_cloning import (
        BehaviourCloning as BehaviourCloning,
        BehaviourCloningConfig as BehaviourCloningConfig,
    )
    from prefrl.agents.actor_critic.diffusion.diffusion_policy import (
        DiffusionPolicy as DiffusionPolicy,
        DiffusionPolicyConfig as DiffusionPolicyConfig,
    )
    from prefrl.agents.actor_critic.grouped.policy_gradient import (
        GroupedPolicyGradient as GroupedPolicyGradient,
        GroupedPolicyGradientConfig as GroupedPolicyGradientConfig,
    )
    from prefrl.agents.actor_critic.iql import IQL as IQL, IQLConfig as IQLConfig
    from prefrl.agents.actor_critic.mbpo import MBPO as MBPO
    from prefrl.agents.actor_critic.mbpo_config import MBPOConfig as MBPOConfig
    from prefrl.agents.actor_critic.ppo import PPO as PPO, PPOConfig as PPOConfig
    from prefrl.agents.actor_critic.sac import SAC as SAC, SACConfig as SACConfig
    from prefrl.agents.actor_critic.sac_learners import SACLearners as SACLearners
    from prefrl.agents.allocation.baselines import (
        AllocationBaseline as AllocationBaseline,
        AllocationBaselineConfig as AllocationBaselineConfig,
    )
    from prefrl.agents.allocation.dual_mirror_descent import (
        DualMirrorDescent as DualMirrorDescent,
        DualMirrorDescentConfig as DualMirrorDescentConfig,
    )
    from prefrl.agents.base import Agent as Agent, load as load
    from prefrl.agents.choice.dynamic_choice import (
        DynamicChoice as DynamicChoice,
        DynamicChoiceConfig as DynamicChoiceConfig,
    )
    from prefrl.agents.continuous_time.actor_critic import (
        ContinuousActorCritic as ContinuousActorCritic,
        ContinuousActorCriticConfig as ContinuousActorCriticConfig,
    )
    from prefrl.agents.continuous_time.evaluation import (
        MartingaleConfig as MartingaleConfig,
        MartingaleEvaluation as MartingaleEvaluation,
    )
    from prefrl.agents.continuous_time.q_learning import (
        ContinuousQLearning as ContinuousQLearning,
        ContinuousQLearningConfig as ContinuousQLearningConfig,
    )
    from prefrl.agents.preferences.brain import BRAIn as BRAIn, BRAInConfig as BRAInConfig
    from prefrl.agents.preferences.diffusion.dpo import (
        DiffusionDPO as DiffusionDPO,
        DiffusionDPOConfig as DiffusionDPOConfig,
    )
    from prefrl.agents.preferences.diffusion.dro import (
        DiffusionDRO as DiffusionDRO,
        DiffusionDROConfig as DiffusionDROConfig,
    )
    from prefrl.agents.preferences.diffusion.self_npo import (
        SelfNPO as SelfNPO,
        SelfNPOConfig as SelfNPOConfig,
    )
    from prefrl.agents.preferences.games.nash_learning import (
        NashLearning as NashLearning,
        NashLearningConfig as NashLearningConfig,
    )
    from prefrl.agents.preferences.heron import Heron as Heron, HeronConfig as HeronConfig
    from prefrl.agents.preferences.iterated_preference_optimization import (
        IteratedPreferenceOptimization as IteratedPreferenceOptimization,
        IteratedPreferenceOptimizationConfig as IteratedPreferenceOptimizationConfig,
    )
    from prefrl.agents.preferences.learners import LearnerConfig as LearnerConfig
    from prefrl.agents.preferences.matrix_self_play import (
        MatrixSelfPlay as MatrixSelfPlay,
        MatrixSelfPlayConfig as MatrixSelfPlayConfig,
    )
    from prefrl.agents.preferences.preference_optimization import (
        PreferenceOptimization as PreferenceOptimization,
        PreferenceOptimizationConfig as PreferenceOptimizationConfig,
    )
    from prefrl.agents.preferences.preference_rl import (
        PreferenceRL as PreferenceRL,
        PreferenceRLConfig as PreferenceRLConfig,
    )
    from prefrl.agents.preferences.regret import RegretAgent as RegretAgent
    from prefrl.agents.preferences.sb3 import SB3Agent as SB3Agent, SB3Config as SB3Config
    from prefrl.agents.preferences.search_preferences import (
        SearchPreferences as SearchPreferences,
        SearchPreferencesConfig as SearchPreferencesConfig,
    )
    from prefrl.agents.preferences.self_play import SelfPlay as SelfPlay, SelfPlayConfig as SelfPlayConfig
    from prefrl.agents.preferences.uncertain_objective import (
        UncertainObjective as UncertainObjective,
        UncertainObjectiveConfig as UncertainObjectiveConfig,
    )
    from prefrl.agents.returns.distributional_dp import (
        DistributionalDP as DistributionalDP,
        DistributionalDPConfig as DistributionalDPConfig,
    )
    from prefrl.agents.returns.stock_dqn import StockDQN as StockDQN, StockDQNConfig as StockDQNConfig
    from prefrl.agents.value_based.b_coder import BCoder as BCoder, BCoderConfig as BCoderConfig
    from prefrl.agents.value_based.dqn import DQN as DQN, DQNConfig as DQNConfig
    from prefrl.agents.value_based.dqn_learners import DQNLearners as DQNLearners
    from prefrl.agents.value_based.oreo import OREO as OREO, OREOConfig as OREOConfig
    from prefrl.agents.value_based.q_learning import (
        QLearning as QLearning,
        QLearningConfig as QLearningConfig,
    )
    from prefrl.agents.value_based.value_iteration import (
        ValueIteration as ValueIteration,
        ValueIterationConfig as ValueIterationConfig,
    )
    from prefrl.preferences.reward_fit import RegretConfig as RegretConfig

_PUBLIC = {
    "Agent": "prefrl.agents.base",
    "AllocationBaseline": "prefrl.agents.allocation.baselines",
    "AllocationBaselineConfig": "prefrl.agents.allocation.baselines",
    "BCoder": "prefrl.agents.value_based.b_coder",
    "BCoderConfig": "prefrl.agents.value_based.b_coder",
    "BRAIn": "prefrl.agents.preferences.brain",
    "BRAInConfig": "prefrl.agents.preferences.brain",
    "BehaviourCloning": "prefrl.agents.actor_critic.behaviour_cloning",
    "BehaviourCloningConfig": "prefrl.agents.actor_critic.behaviour_cloning",
    "ContinuousActorCritic": "prefrl.agents.continuous_time.actor_critic",
    "ContinuousActorCriticConfig": "prefrl.agents.continuous_time.actor_critic",
    "ContinuousQLearning": "prefrl.agents.continuous_time.q_learning",
    "ContinuousQLearningConfig": "prefrl.agents.continuous_time.q_learning",
    "DQN": "prefrl.agents.value_based.dqn",
    "DQNConfig": "prefrl.agents.value_based.dqn",
    "DQNLearners": "prefrl.agents.value_based.dqn_learners",
    "DiffusionDPO": "prefrl.agents.preferences.diffusion.dpo",
    "DiffusionDPOConfig": "prefrl.agents.preferences.diffusion.dpo",
    "DiffusionDRO": "prefrl.agents.preferences.diffusion.dro",
    "DiffusionDROConfig": "prefrl.agents.preferences.diffusion.dro",
    "DiffusionPolicy": "prefrl.agents.actor_critic.diffusion.diffusion_policy",
    "DiffusionPolicyConfig": "prefrl.agents.actor_critic.diffusion.diffusion_policy",
    "DistributionalDP": "prefrl.agents.returns.distributional_dp",
    "DistributionalDPConfig": "prefrl.agents.returns.distributional_dp",
    "DualMirrorDescent": "prefrl.agents.allocation.dual_mirror_descent",
    "DualMirrorDescentConfig": "prefrl.agents.allocation.dual_mirror_descent",
    "DynamicChoice": "prefrl.agents.choice.dynamic_choice",
    "DynamicChoiceConfig": "prefrl.agents.choice.dynamic_choice",
    "Heron": "prefrl.agents.preferences.heron",
    "HeronConfig": "prefrl.agents.preferences.heron",
    "GroupedPolicyGradient": "prefrl.agents.actor_critic.grouped.policy_gradient",
    "GroupedPolicyGradientConfig": "prefrl.agents.actor_critic.grouped.policy_gradient",
    "IQL": "prefrl.agents.actor_critic.iql",
    "IQLConfig": "prefrl.agents.actor_critic.iql",
    "IteratedPreferenceOptimization": "prefrl.agents.preferences.iterated_preference_optimization",
    "IteratedPreferenceOptimizationConfig": ("prefrl.agents.preferences.iterated_preference_optimization"),
    "LearnerConfig": "prefrl.agents.preferences.learners",
    "MBPO": "prefrl.agents.actor_critic.mbpo",
    "MBPOConfig": "prefrl.agents.actor_critic.mbpo_config",
    "MartingaleConfig": "prefrl.agents.continuous_time.evaluation",
    "MartingaleEvaluation": "prefrl.agents.continuous_time.evaluation",
    "MatrixSelfPlay": "prefrl.agents.preferences.matrix_self_play",
    "MatrixSelfPlayConfig": "prefrl.agents.preferences.matrix_self_play",
    "OREO": "prefrl.agents.value_based.oreo",
    "OREOConfig": "prefrl.agents.value_based.oreo",
    "PPO": "prefrl.agents.actor_critic.ppo",
    "PPOConfig": "prefrl.agents.actor_critic.ppo",
    "NashLearning": "prefrl.agents.preferences.games.nash_learning",
    "NashLearningConfig": "prefrl.agents.preferences.games.nash_learning",
    "PreferenceOptimization": "prefrl.agents.preferences.preference_optimization",
    "PreferenceOptimizationConfig": "prefrl.agents.preferences.preference_optimization",
    "PreferenceRL": "prefrl.agents.preferences.preference_rl",
    "PreferenceRLConfig": "prefrl.agents.preferences.preference_rl",
    "QLearning": "prefrl.agents.value_based.q_learning",
    "QLearningConfig": "prefrl.agents.value_based.q_learning",
    "RegretAgent": "prefrl.agents.preferences.regret",
    "RegretConfig": "prefrl.preferences.reward_fit",
    "SAC": "prefrl.agents.actor_critic.sac",
    "SACConfig": "prefrl.agents.actor_critic.sac",
    "SACLearners": "prefrl.agents.actor_critic.sac_learners",
    "SB3Agent": "prefrl.agents.preferences.sb3",
    "SB3Config": "prefrl.agents.preferences.sb3",
    "SearchPreferences": "prefrl.agents.preferences.search_preferences",
    "SearchPreferencesConfig": "prefrl.agents.preferences.search_preferences",
    "SelfNPO": "prefrl.agents.preferences.diffusion.self_npo",
    "SelfNPOConfig": "prefrl.agents.preferences.diffusion.self_npo",
    "SelfPlay": "prefrl.agents.preferences.self_play",
    "SelfPlayConfig": "prefrl.agents.preferences.self_play",
    "StockDQN": "prefrl.agents.returns.stock_dqn",
    "StockDQNConfig": "prefrl.agents.returns.stock_dqn",
    "UncertainObjective": "prefrl.agents.preferences.uncertain_objective",
    "UncertainObjectiveConfig": "prefrl.agents.preferences.uncertain_objective",
    "ValueIteration": "prefrl.agents.value_based.value_iteration",
    "ValueIterationConfig": "prefrl.agents.value_based.value_iteration",
    "load": "prefrl.agents.base",
}
"""Public names and where they live."""

__all__ = list(_PUBLIC)

if not TYPE_CHECKING:  # a type checker shall see the names above, and no others

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        raise AttributeError(f"module 'prefrl.agents' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
