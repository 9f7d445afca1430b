"""Label models: comparisons in, comparisons with other labels, weights and offsets out; they compose."""

from .additions import MultiLevelPairs, Rationale
from .base import Composed, HasLogProb, LabelModel, Score, compose
from .believed import ModelLabels
from .ensembles import DropoutFilter, EnsembleVote
from .noise import DynamicLabels, RobustFlips
from .scorers import AnchorRanking, DensityRatio, Routed

LABEL_MODELS: dict[str, type[LabelModel]] = {
    "robust_flips": RobustFlips,
    "dynamic_labels": DynamicLabels,
    "ensemble_vote": EnsembleVote,
    "dropout_filter": DropoutFilter,
    "density_ratio": DensityRatio,
    "anchor_ranking": AnchorRanking,
    "multi_level_pairs": MultiLevelPairs,
    "rationale": Rationale,
    "model_labels": ModelLabels,
}
"""Label models by name."""

__all__ = [
    "LABEL_MODELS",
    "AnchorRanking",
    "Composed",
    "DensityRatio",
    "DropoutFilter",
    "DynamicLabels",
    "EnsembleVote",
    "HasLogProb",
    "LabelModel",
    "ModelLabels",
    "MultiLevelPairs",
    "Rationale",
    "RobustFlips",
    "Routed",
    "Score",
    "compose",
]
