"""General preference models: margins between options, with or without a score behind them."""

from .base import GeneralModel, GeneralModelConfig, ScoredModel
from .bradley_terry import BradleyTerry, BradleyTerryConfig
from .comparisons import Comparisons, ModelSizes
from .files import GENERAL_MODELS, load_general_model
from .gpm import GPM, GPMConfig
from .pal import PAL, PALConfig
from .segment_models import (
    REWARD_CONFIGS,
    AnyRewardConfig,
    GPMNetworkConfig,
    PALNetworkConfig,
    SegmentModel,
    SegmentModelConfig,
    ThurstoneNetworkConfig,
    load_reward_model,
    make_reward_model,
)
from .thurstone import Thurstone, ThurstoneConfig

__all__ = [
    "GENERAL_MODELS",
    "GPM",
    "PAL",
    "REWARD_CONFIGS",
    "AnyRewardConfig",
    "BradleyTerry",
    "BradleyTerryConfig",
    "Comparisons",
    "GPMConfig",
    "GPMNetworkConfig",
    "GeneralModel",
    "GeneralModelConfig",
    "ModelSizes",
    "PALConfig",
    "PALNetworkConfig",
    "ScoredModel",
    "SegmentModel",
    "SegmentModelConfig",
    "Thurstone",
    "ThurstoneConfig",
    "ThurstoneNetworkConfig",
    "load_general_model",
    "load_reward_model",
    "make_reward_model",
]
