"""prefrl: reinforcement learning when the reward is not handed to you as a number.

This module is where the parts are put together: it imports nothing heavy, offers the public names lazily,
and is the one place through which an agent reaches the training loop.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "AllocationBaseline": "prefrl.agents.allocation.baselines",
    "AllocationBaselineConfig": "prefrl.agents.allocation.baselines",
    "ContinuousActorCritic": "prefrl.agents.continuous_time.actor_critic",
    "ContinuousActorCriticConfig": "prefrl.agents.continuous_time.actor_critic",
    "ContinuousQLearning": "prefrl.agents.continuous_time.q_learning",
    "ContinuousQLearningConfig": "prefrl.agents.continuous_time.q_learning",
    "DQN": "prefrl.agents.value_based.dqn",
    "DQNConfig": "prefrl.agents.value_based.dqn",
    "DistributionalDP": "prefrl.agents.returns.distributional_dp",
    "DistributionalDPConfig": "prefrl.agents.returns.distributional_dp",
    "DualMirrorDescent": "prefrl.agents.allocation.dual_mirror_descent",
    "DualMirrorDescentConfig": "prefrl.agents.allocation.dual_mirror_descent",
    "Heron": "prefrl.agents.preferences.heron",
    "HeronConfig": "prefrl.agents.preferences.heron",
    "LearnerConfig": "prefrl.agents.preferences.learners",
    "MBPO": "prefrl.agents.actor_critic.mbpo",
    "MBPOConfig": "prefrl.agents.actor_critic.mbpo_config",
    "MartingaleConfig": "prefrl.agents.continuous_time.evaluation",
    "MartingaleEvaluation": "prefrl.agents.continuous_time.evaluation",
    "MatrixSelfPlay": "prefrl.agents.preferences.matrix_self_play",
    "MatrixSelfPlayConfig": "prefrl.agents.preferences.matrix_self_play",
    "PreferenceRL": "prefrl.agents.preferences.preference_rl",
    "PreferenceRLConfig": "prefrl.agents.preferences.preference_rl",
    "QLearning": "prefrl.agents.value_based.q_learning",
    "QLearningConfig": "prefrl.agents.value_based.q_learning",
    "RegretAgent": "prefrl.agents.preferences.regret",
    "RegretConfig": "prefrl.agents.preferences.regret",
    "SAC": "prefrl.agents.actor_critic.box",
    "SACConfig": "prefrl.agents.actor_critic.box",
    "SB3Agent": "prefrl.agents.preferences.sb3",
    "SB3Config": "prefrl.agents.preferences.sb3",
    "SelfPlay": "prefrl.agents.preferences.self_play",
    "SelfPlayConfig": "prefrl.agents.preferences.self_play",
    "StockDQN": "prefrl.agents.returns.stock_dqn",
    "StockDQNConfig": "prefrl.agents.returns.stock_dqn",
    "Preferences": "prefrl.data",
    "load_preferences": "prefrl.data",
    "save_preferences": "prefrl.data",
    "RewardModel": "prefrl.preferences",
    "RewardModelConfig": "prefrl.preferences",
    "Teacher": "prefrl.preferences",
    "ask_teacher": "prefrl.preferences",
    "TabularMDP": "prefrl.tabular",
}

__all__ = ["__version__", "learn", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'prefrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def learn(agent: Any, total_timesteps: int, *, callback: Any = None, progress_bar: bool = False) -> Any:
    """Train an agent in its own environment for ``total_timesteps`` more timesteps, and return it.

    Args:
        agent: any agent of ``prefrl.agents``.
        total_timesteps: how many timesteps to add.
        callback: an SB3 callback, or a list of them.
        progress_bar: show rate and time left.
    """
    from prefrl.run.loop import learn as run_learn

    return run_learn(agent, total_timesteps, callback=callback, progress_bar=progress_bar)
