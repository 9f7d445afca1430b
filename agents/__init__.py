"""Agents of prefrl, imported as ``prefrl.agents``: one file per algorithm.

The names are loaded when first used, so that one agent does not pay for another's imports.
"""

if not __name__.startswith("prefrl."):
    raise ImportError(f"import this package as 'prefrl.agents', not as {__name__!r}")

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Agent": "base",
    "AllocationBaseline": "allocation.baselines",
    "AllocationBaselineConfig": "allocation.baselines",
    "ContinuousActorCritic": "continuous_time.actor_critic",
    "ContinuousActorCriticConfig": "continuous_time.actor_critic",
    "ContinuousQLearning": "continuous_time.q_learning",
    "ContinuousQLearningConfig": "continuous_time.q_learning",
    "DQN": "value_based.dqn",
    "DQNConfig": "value_based.dqn",
    "DistributionalDP": "returns.distributional_dp",
    "DistributionalDPConfig": "returns.distributional_dp",
    "DualMirrorDescent": "allocation.dual_mirror_descent",
    "DualMirrorDescentConfig": "allocation.dual_mirror_descent",
    "Heron": "preferences.heron",
    "HeronConfig": "preferences.heron",
    "LearnerConfig": "preferences.learners",
    "MBPO": "actor_critic.mbpo",
    "MBPOConfig": "actor_critic.mbpo_config",
    "MartingaleConfig": "continuous_time.evaluation",
    "MartingaleEvaluation": "continuous_time.evaluation",
    "MatrixSelfPlay": "preferences.matrix_self_play",
    "MatrixSelfPlayConfig": "preferences.matrix_self_play",
    "PreferenceRL": "preferences.preference_rl",
    "PreferenceRLConfig": "preferences.preference_rl",
    "QLearning": "value_based.q_learning",
    "QLearningConfig": "value_based.q_learning",
    "RegretAgent": "preferences.regret",
    "RegretConfig": "preferences.regret",
    "SAC": "actor_critic.box",
    "SACConfig": "actor_critic.box",
    "SB3Agent": "preferences.sb3",
    "SB3Config": "preferences.sb3",
    "SelfPlay": "preferences.self_play",
    "SelfPlayConfig": "preferences.self_play",
    "StockDQN": "returns.stock_dqn",
    "StockDQNConfig": "returns.stock_dqn",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module 'prefrl.agents' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
