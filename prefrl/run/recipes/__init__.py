"""Recipes: what to train in what, as frozen dataclasses that become flags and ``config.json``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from prefrl.config import unknown

_PREFERENCES = "prefrl.run.recipes.preferences"

RECIPES = {
    "b_coder": "prefrl.run.recipes.value_based.b_coder:TrainBCoder",
    "behaviour_cloning": "prefrl.run.recipes.actor_critic.behaviour_cloning:TrainBehaviourCloning",
    "brain": f"{_PREFERENCES}.brain:TrainBRAIn",
    "continuous_control": "prefrl.run.recipes.continuous_time.continuous_control:TrainContinuousControl",
    "diffusion_dpo": f"{_PREFERENCES}.diffusion.dpo:TrainDiffusionDPO",
    "diffusion_dro": f"{_PREFERENCES}.diffusion.dro:TrainDiffusionDRO",
    "diffusion_policy": "prefrl.run.recipes.actor_critic.diffusion_policy:TrainDiffusionPolicy",
    "dynamic_choice": "prefrl.run.recipes.choice.dynamic_choice:TrainDynamicChoice",
    "distributional_dp": "prefrl.run.recipes.returns.distributional_dp:TrainDistributionalDP",
    "dual_mirror_descent": "prefrl.run.recipes.allocation.dual_mirror_descent:TrainDualMirrorDescent",
    "dqn": "prefrl.run.recipes.value_based.dqn:TrainDQN",
    "grouped_policy_gradient": (
        "prefrl.run.recipes.actor_critic.grouped_policy_gradient:TrainGroupedPolicyGradient"
    ),
    "heron": "prefrl.run.recipes.preferences.heron:TrainHeron",
    "iql": "prefrl.run.recipes.actor_critic.iql:TrainIQL",
    "iterated_preference_optimization": (
        f"{_PREFERENCES}.iterated_preference_optimization:TrainIteratedPreferenceOptimization"
    ),
    "martingale": "prefrl.run.recipes.continuous_time.martingale:TrainMartingale",
    "mbpo": "prefrl.run.recipes.actor_critic.mbpo:TrainMBPO",
    "nash_learning": f"{_PREFERENCES}.nash_learning:TrainNashLearning",
    "oreo": "prefrl.run.recipes.value_based.oreo:TrainOREO",
    "ppo": "prefrl.run.recipes.actor_critic.ppo:TrainPPO",
    "preference_optimization": f"{_PREFERENCES}.preference_optimization:TrainPreferenceOptimization",
    "preference_rl": "prefrl.run.recipes.preferences.preference_rl:TrainPreferenceRL",
    "q_learning": "prefrl.run.recipes.value_based.q_learning:TrainQLearning",
    "regret": "prefrl.run.recipes.preferences.regret:TrainRegret",
    "sac": "prefrl.run.recipes.actor_critic.sac:TrainSAC",
    "search_preferences": f"{_PREFERENCES}.search_preferences:TrainSearchPreferences",
    "self_npo": f"{_PREFERENCES}.diffusion.self_npo:TrainSelfNPO",
    "self_play": "prefrl.run.recipes.preferences.self_play:TrainSelfPlay",
    "stock_dqn": "prefrl.run.recipes.returns.stock_dqn:TrainStockDQN",
    "value_iteration": "prefrl.run.recipes.value_based.value_iteration:TrainValueIteration",
}
"""Names and where they live; loaded when asked for, since each imports its agent."""

STACKED = ("dqn", "ppo", "preference_optimization", "sac")
"""Recipes that can train many learners as one."""


def load_recipe(name: str) -> type[Any]:
    """Return the recipe class of a name.

    Raises:
        ValueError: if there is none.
    """
    if name not in RECIPES:
        raise ValueError(unknown("recipe", name, RECIPES))
    module, _, attribute = RECIPES[name].partition(":")
    recipe: type[Any] = getattr(import_module(module), attribute)
    return recipe


def recipe_name(recipe: Any) -> str:
    """Return the name that a recipe has in :data:`RECIPES`; ValueError if it has none."""
    place = f"{type(recipe).__module__}:{type(recipe).__qualname__}"
    for name, registered in RECIPES.items():
        if registered == place:
            return name
    raise ValueError(f"{place} is no recipe; there are {sorted(RECIPES)}")
