"""prefrl: reinforcement learning when the reward is not handed to you as a number.

This module is where the parts are put together: it imports nothing heavy, offers the public names lazily,
and is the one place through which an agent reaches the training loop.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefrl import agents

AgentType = TypeVar("AgentType", bound="Agent")

if TYPE_CHECKING:
    from prefrl.agents import (
        DQN as DQN,
        IQL as IQL,
        MBPO as MBPO,
        OREO as OREO,
        PPO as PPO,
        SAC as SAC,
        Agent as Agent,
        AllocationBaseline as AllocationBaseline,
        AllocationBaselineConfig as AllocationBaselineConfig,
        BCoder as BCoder,
        BCoderConfig as BCoderConfig,
        BehaviourCloning as BehaviourCloning,
        BehaviourCloningConfig as BehaviourCloningConfig,
        BRAIn as BRAIn,
        BRAInConfig as BRAInConfig,
        ContinuousActorCritic as ContinuousActorCritic,
        ContinuousActorCriticConfig as ContinuousActorCriticConfig,
        ContinuousQLearning as ContinuousQLearning,
        ContinuousQLearningConfig as ContinuousQLearningConfig,
        DiffusionDPO as DiffusionDPO,
        DiffusionDPOConfig as DiffusionDPOConfig,
        DiffusionDRO as DiffusionDRO,
        DiffusionDROConfig as DiffusionDROConfig,
        DiffusionPolicy as DiffusionPolicy,
        DiffusionPolicyConfig as DiffusionPolicyConfig,
        DistributionalDP as DistributionalDP,
        DistributionalDPConfig as DistributionalDPConfig,
        DQNConfig as DQNConfig,
        DQNLearners as DQNLearners,
        DualMirrorDescent as DualMirrorDescent,
        DualMirrorDescentConfig as DualMirrorDescentConfig,
        DynamicChoice as DynamicChoice,
        DynamicChoiceConfig as DynamicChoiceConfig,
        GroupedPolicyGradient as GroupedPolicyGradient,
        GroupedPolicyGradientConfig as GroupedPolicyGradientConfig,
        Heron as Heron,
        HeronConfig as HeronConfig,
        IQLConfig as IQLConfig,
        IteratedPreferenceOptimization as IteratedPreferenceOptimization,
        IteratedPreferenceOptimizationConfig as IteratedPreferenceOptimizationConfig,
        LearnerConfig as LearnerConfig,
        MartingaleConfig as MartingaleConfig,
        MartingaleEvaluation as MartingaleEvaluation,
        MatrixSelfPlay as MatrixSelfPlay,
        MatrixSelfPlayConfig as MatrixSelfPlayConfig,
        MBPOConfig as MBPOConfig,
        NashLearning as NashLearning,
        NashLearningConfig as NashLearningConfig,
        OREOConfig as OREOConfig,
        PPOConfig as PPOConfig,
        PreferenceOptimization as PreferenceOptimization,
        PreferenceOptimizationConfig as PreferenceOptimizationConfig,
        PreferenceRL as PreferenceRL,
        PreferenceRLConfig as PreferenceRLConfig,
        QLearning as QLearning,
        QLearningConfig as QLearningConfig,
        RegretAgent as RegretAgent,
        RegretConfig as RegretConfig,
        SACConfig as SACConfig,
        SACLearners as SACLearners,
        SB3Agent as SB3Agent,
        SB3Config as SB3Config,
        SearchPreferences as SearchPreferences,
        SearchPreferencesConfig as SearchPreferencesConfig,
        SelfNPO as SelfNPO,
        SelfNPOConfig as SelfNPOConfig,
        SelfPlay as SelfPlay,
        SelfPlayConfig as SelfPlayConfig,
        StockDQN as StockDQN,
        StockDQNConfig as StockDQNConfig,
        UncertainObjective as UncertainObjective,
        UncertainObjectiveConfig as UncertainObjectiveConfig,
        ValueIteration as ValueIteration,
        ValueIterationConfig as ValueIterationConfig,
    )
    from prefrl.agents.base import load as load
    from prefrl.data import (
        Preferences as Preferences,
        ScoredSegments as ScoredSegments,
        Segments as Segments,
        TransitionDataset as TransitionDataset,
        load_preferences as load_preferences,
        load_transitions as load_transitions,
        save_preferences as save_preferences,
        save_transitions as save_transitions,
    )
    from prefrl.envs import make_device as make_device
    from prefrl.envs.wrappers import ReplaceReward as ReplaceReward, StockAugmentation as StockAugmentation
    from prefrl.preferences import (
        DeterministicRegret as DeterministicRegret,
        Expanded as Expanded,
        PartialReturn as PartialReturn,
        PreferenceModel as PreferenceModel,
        Regret as Regret,
        RewardModel as RewardModel,
        RewardModelConfig as RewardModelConfig,
        Teacher as Teacher,
        ask_teacher as ask_teacher,
    )
    from prefrl.preferences.general_models import (
        GPM as GPM,
        PAL as PAL,
        BradleyTerry as BradleyTerry,
        BradleyTerryConfig as BradleyTerryConfig,
        Comparisons as Comparisons,
        GPMConfig as GPMConfig,
        PALConfig as PALConfig,
        Thurstone as Thurstone,
        ThurstoneConfig as ThurstoneConfig,
        load_general_model as load_general_model,
    )
    from prefrl.preferences.trajectories import (
        ByOption as ByOption,
        MaxReturn as MaxReturn,
        Noisy as Noisy,
        TrajectoryPreference as TrajectoryPreference,
        WithinBudget as WithinBudget,
    )
    from prefrl.run.collect import collect_transitions as collect_transitions
    from prefrl.run.evaluate import evaluate as evaluate
    from prefrl.run.launch import train as train
    from prefrl.tabular import TabularMDP as TabularMDP

__version__ = "0.1.0"

_PUBLIC = {
    **dict.fromkeys(agents.__all__, "prefrl.agents"),
    "BradleyTerry": "prefrl.preferences.general_models",
    "BradleyTerryConfig": "prefrl.preferences.general_models",
    "ByOption": "prefrl.preferences.trajectories",
    "Comparisons": "prefrl.preferences.general_models",
    "DeterministicRegret": "prefrl.preferences",
    "Expanded": "prefrl.preferences",
    "GPM": "prefrl.preferences.general_models",
    "GPMConfig": "prefrl.preferences.general_models",
    "MaxReturn": "prefrl.preferences.trajectories",
    "Noisy": "prefrl.preferences.trajectories",
    "PAL": "prefrl.preferences.general_models",
    "PALConfig": "prefrl.preferences.general_models",
    "PartialReturn": "prefrl.preferences",
    "PreferenceModel": "prefrl.preferences",
    "Preferences": "prefrl.data",
    "Regret": "prefrl.preferences",
    "ReplaceReward": "prefrl.envs.wrappers",
    "RewardModel": "prefrl.preferences",
    "RewardModelConfig": "prefrl.preferences",
    "ScoredSegments": "prefrl.data",
    "Segments": "prefrl.data",
    "StockAugmentation": "prefrl.envs.wrappers",
    "TabularMDP": "prefrl.tabular",
    "Teacher": "prefrl.preferences",
    "Thurstone": "prefrl.preferences.general_models",
    "ThurstoneConfig": "prefrl.preferences.general_models",
    "TrajectoryPreference": "prefrl.preferences.trajectories",
    "TransitionDataset": "prefrl.data",
    "WithinBudget": "prefrl.preferences.trajectories",
    "ask_teacher": "prefrl.preferences",
    "collect_transitions": "prefrl.run.collect",
    "evaluate": "prefrl.run.evaluate",
    "load_general_model": "prefrl.preferences.general_models",
    "load_preferences": "prefrl.data",
    "load_transitions": "prefrl.data",
    "make_device": "prefrl.envs",
    "save_preferences": "prefrl.data",
    "save_transitions": "prefrl.data",
    "train": "prefrl.run.launch",
}
"""Public names and the modules that offer them."""

__all__ = ["__version__", "learn", *_PUBLIC]

if not TYPE_CHECKING:  # a type checker shall see the names above, and no others

    def __getattr__(name: str) -> Any:
        if name in _PUBLIC:
            return getattr(import_module(_PUBLIC[name]), name)
        raise AttributeError(f"module 'prefrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def learn(
    agent: AgentType,
    total_timesteps: int,
    *,
    callback: Any = None,
    progress_bar: bool = False,
    log_every: int | None = None,
    log_dir: str | os.PathLike[str] | None = None,
) -> AgentType:
    """Train an agent in its own environment for ``total_timesteps`` more timesteps, and return it.

    Nothing is printed, and without ``log_dir`` or a logger of the agent nothing is logged.

    Args:
        agent: any agent of ``prefrl.agents``.
        total_timesteps: how many timesteps to add.
        callback: an SB3 callback, or a list of them.
        progress_bar: show rate and time left.
        log_every: timesteps between two logs to ``agent.logger`` (None: a hundredth of ``total_timesteps``).
        log_dir: folder for ``progress.csv`` and tensorboard's events, in place of ``agent.logger``; made
            where it is missing. An agent that goes on goes on with the files.
    """
    from prefrl.run.loop import learn as run_learn

    settings: dict[str, Any] = {"callback": callback, "progress_bar": progress_bar, "log_every": log_every}
    if log_dir is None:
        return run_learn(agent, total_timesteps, **settings)
    from prefrl.run.logger import make_logger

    Path(log_dir).mkdir(parents=True, exist_ok=True)
    before, agent.logger = agent.logger, make_logger(Path(log_dir), since=agent.num_timesteps, quiet=True)
    try:
        return run_learn(agent, total_timesteps, **settings)
    finally:
        agent.logger.close()
        agent.logger = before
