"""General preference models: margins between options, with or without a score behind them."""

from .base import GeneralModel, GeneralModelConfig, ModelSizes, ScoredModel
from .bradley_terry import BradleyTerry, BradleyTerryConfig
from .comparisons import Comparisons
from .files import GENERAL_MODELS, load_general_model
from .gpm import GPM, GPMConfig
from .pal import PAL, PALConfig
from .thurstone import Thurstone, ThurstoneConfig

__all__ = [
    "GENERAL_MODELS",
    "GPM",
    "PAL",
    "BradleyTerry",
    "BradleyTerryConfig",
    "Comparisons",
    "GPMConfig",
    "GeneralModel",
    "GeneralModelConfig",
    "ModelSizes",
    "PALConfig",
    "ScoredModel",
    "Thurstone",
    "ThurstoneConfig",
    "load_general_model",
]
