"""Wrappers for any Gymnasium environment, loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefrl.envs.allocation.pricing_action import DualPriceAction
    from prefrl.envs.diffusions.discrete_time import DiscreteTimeTask

    from .agents import AgentsAsRows
    from .distractors import Distractors
    from .grouped import GroupedStarts
    from .rewards import ReplaceReward, VectorReplaceReward
    from .stock import StockAugmentation, VectorStockAugmentation

_PUBLIC = {
    "AgentsAsRows": "prefrl.envs.wrappers.agents",
    "DiscreteTimeTask": "prefrl.envs.diffusions.discrete_time",
    "Distractors": "prefrl.envs.wrappers.distractors",
    "DualPriceAction": "prefrl.envs.allocation.pricing_action",
    "GroupedStarts": "prefrl.envs.wrappers.grouped",
    "ReplaceReward": "prefrl.envs.wrappers.rewards",
    "StockAugmentation": "prefrl.envs.wrappers.stock",
    "VectorReplaceReward": "prefrl.envs.wrappers.rewards",
    "VectorStockAugmentation": "prefrl.envs.wrappers.stock",
}

__all__ = [
    "AgentsAsRows",
    "DiscreteTimeTask",
    "Distractors",
    "DualPriceAction",
    "GroupedStarts",
    "ReplaceReward",
    "StockAugmentation",
    "VectorReplaceReward",
    "VectorStockAugmentation",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
