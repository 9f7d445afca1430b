"""Wrappers for any Gymnasium environment, loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefrl.envs.allocation.pricing_action import DualPriceAction
    from prefrl.envs.diffusions.discrete_time import DiscreteTimeTask

    from .agents import AgentsAsRows
    from .composers import ComposeReward, VectorComposeReward
    from .distractors import Distractors
    from .grouped import GroupedStarts
    from .reward_rules import (
        CountNovelty,
        GatedReward,
        InformationGain,
        NeighbourNovelty,
        RewardRule,
        RewardStep,
        ShapedReward,
    )
    from .rewards import ReplaceReward, VectorReplaceReward
    from .simulator_states import SimulatorStates
    from .stock import StockAugmentation, VectorStockAugmentation

_PUBLIC = {
    "AgentsAsRows": "prefrl.envs.wrappers.agents",
    "ComposeReward": "prefrl.envs.wrappers.composers",
    "CountNovelty": "prefrl.envs.wrappers.reward_rules",
    "DiscreteTimeTask": "prefrl.envs.diffusions.discrete_time",
    "Distractors": "prefrl.envs.wrappers.distractors",
    "DualPriceAction": "prefrl.envs.allocation.pricing_action",
    "GatedReward": "prefrl.envs.wrappers.reward_rules",
    "GroupedStarts": "prefrl.envs.wrappers.grouped",
    "InformationGain": "prefrl.envs.wrappers.reward_rules",
    "NeighbourNovelty": "prefrl.envs.wrappers.reward_rules",
    "ReplaceReward": "prefrl.envs.wrappers.rewards",
    "RewardRule": "prefrl.envs.wrappers.reward_rules",
    "RewardStep": "prefrl.envs.wrappers.reward_rules",
    "ShapedReward": "prefrl.envs.wrappers.reward_rules",
    "SimulatorStates": "prefrl.envs.wrappers.simulator_states",
    "StockAugmentation": "prefrl.envs.wrappers.stock",
    "VectorComposeReward": "prefrl.envs.wrappers.composers",
    "VectorReplaceReward": "prefrl.envs.wrappers.rewards",
    "VectorStockAugmentation": "prefrl.envs.wrappers.stock",
}

__all__ = [
    "AgentsAsRows",
    "ComposeReward",
    "CountNovelty",
    "DiscreteTimeTask",
    "Distractors",
    "DualPriceAction",
    "GatedReward",
    "GroupedStarts",
    "InformationGain",
    "NeighbourNovelty",
    "ReplaceReward",
    "RewardRule",
    "RewardStep",
    "ShapedReward",
    "SimulatorStates",
    "StockAugmentation",
    "VectorComposeReward",
    "VectorReplaceReward",
    "VectorStockAugmentation",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
