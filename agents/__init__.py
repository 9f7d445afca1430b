"""Agents of prefrl, imported as ``prefrl.agents``: one file per algorithm.

The names are loaded when first used, so that one agent does not pay for another's imports.
"""

if not __name__.startswith("prefrl."):
    raise ImportError(f"import this package as 'prefrl.agents', not as {__name__!r}")

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Agent": "base",
    "AllocationBaseline": "allocation_baselines",
    "AllocationBaselineConfig": "allocation_baselines",
    "ContinuousActorCritic": "continuous_actor_critic",
    "ContinuousActorCriticConfig": "continuous_actor_critic",
    "ContinuousQLearning": "continuous_q_learning",
    "ContinuousQLearningConfig": "continuous_q_learning",
    "DQN": "dqn",
    "DQNConfig": "dqn",
    "DistributionalDP": "distributional_dp",
    "DistributionalDPConfig": "distributional_dp",
    "DualMirrorDescent": "dual_mirror_descent",
    "DualMirrorDescentConfig": "dual_mirror_descent",
    "Heron": "heron",
    "HeronConfig": "heron",
    "LearnerConfig": "learners",
    "MBPO": "mbpo",
    "MBPOConfig": "mbpo_config",
    "MartingaleConfig": "martingale",
    "MartingaleEvaluation": "martingale",
    "MatrixSelfPlay": "matrix_self_play",
    "MatrixSelfPlayConfig": "matrix_self_play",
    "PreferenceRL": "preference_rl",
    "PreferenceRLConfig": "preference_rl",
    "QLearning": "q_learning",
    "QLearningConfig": "q_learning",
    "RegretAgent": "regret",
    "RegretConfig": "regret",
    "SAC": "sac",
    "SACConfig": "sac",
    "SB3Agent": "sb3",
    "SB3Config": "sb3",
    "SelfPlay": "self_play",
    "SelfPlayConfig": "self_play",
    "StockDQN": "stock_dqn",
    "StockDQNConfig": "stock_dqn",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module 'prefrl.agents' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
