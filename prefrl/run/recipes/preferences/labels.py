"""Label models by name, for recipes: those that need nothing but the comparisons themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from prefrl.data import Preferences
from prefrl.preferences import RewardModelConfig
from prefrl.preferences.general_models import REWARD_CONFIGS, PALNetworkConfig, make_reward_model
from prefrl.preferences.label_models import (
    DropoutFilter,
    DynamicLabels,
    EnsembleVote,
    LabelModel,
    ModelLabels,
    RobustFlips,
)

LabelModelName = Literal[
    "robust_flips", "dynamic_labels", "ensemble_vote", "dropout_filter",
    "bradley_terry", "thurstone", "gpm", "pal",
]  # fmt: skip
"""Label models of :data:`prefrl.preferences.label_models.LABEL_MODELS` that are made from comparisons alone;
the others are given functions or data, in Python. The last four are ``model_labels``: what a model of that
name believes, fitted to the comparisons as a network of segments."""

PROTOTYPES = 3
"""Of PAL, as on features; as many as there are annotators, if these are fewer."""

MEMBERS = 10
"""Reward models that vote (arXiv 2401.06080), or stand for as many passes with dropout (arXiv 2409.11212)."""


def label_rate(names: Sequence[LabelModelName], rate: float) -> float:
    """Return at what rate labels move while the policy learns: with dynamic labels, never 0."""
    return DynamicLabels.rate if "dynamic_labels" in names and not rate else rate


def relabelled(
    names: Sequence[LabelModelName], preferences: Preferences, env: Any, label_noise: float, *, seed: int
) -> Preferences:
    """Return comparisons as label models leave them, one after the other.

    Each ensemble is fitted to the comparisons as they are by then.

    Args:
        names: of the label models; ``dynamic_labels`` is the agent's own, and changes nothing here.
        preferences: comparisons.
        env: has the spaces.
        label_noise: share of labels that is turned round, for ``robust_flips``; 0: its own default.
        seed: of ensembles.
    """
    for name in names:
        if name == "dynamic_labels":
            continue
        model: LabelModel
        if name == "robust_flips":
            model = RobustFlips(label_noise) if label_noise else RobustFlips()
        else:
            config = model_config(name, len(preferences.annotator_names))
            rewards = make_reward_model(env.observation_space, env.action_space, config, seed=seed)
            first, second = (replace(side, features=None) for side in (preferences.first, preferences.second))
            plain = replace(preferences, first=first, second=second)
            rewards.check(plain)
            rewards.fit(plain)
            if name in REWARD_CONFIGS:
                model = ModelLabels(rewards.preference_margins)
            else:
                vote = name == "ensemble_vote"
                model = EnsembleVote(rewards.scores) if vote else DropoutFilter(rewards.scores)
        preferences = model(preferences)
    return preferences


def model_config(name: LabelModelName, annotators: int) -> RewardModelConfig:
    """Return the settings of the model that a label model asks."""
    if name == PALNetworkConfig.name:
        return PALNetworkConfig(num_users=annotators, prototypes=min(PROTOTYPES, annotators))
    return RewardModelConfig(members=MEMBERS) if name not in REWARD_CONFIGS else REWARD_CONFIGS[name]()
