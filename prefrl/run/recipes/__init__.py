"""Recipes: what to train in what, as frozen dataclasses that become flags and ``config.json``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import gymnasium as gym

    from prefrl.agents.base import Agent
    from prefrl.run.folder import RunFolder

RECIPES = {
    "continuous_control": "prefrl.run.recipes.continuous_time.continuous_control:TrainContinuousControl",
    "distributional_dp": "prefrl.run.recipes.returns.distributional_dp:TrainDistributionalDP",
    "dual_mirror_descent": "prefrl.run.recipes.allocation.dual_mirror_descent:TrainDualMirrorDescent",
    "dqn": "prefrl.run.recipes.value_based.dqn:TrainDQN",
    "heron": "prefrl.run.recipes.preferences.heron:TrainHeron",
    "martingale": "prefrl.run.recipes.continuous_time.martingale:TrainMartingale",
    "mbpo": "prefrl.run.recipes.actor_critic.mbpo:TrainMBPO",
    "preference_rl": "prefrl.run.recipes.preferences.preference_rl:TrainPreferenceRL",
    "q_learning": "prefrl.run.recipes.value_based.q_learning:TrainQLearning",
    "regret": "prefrl.run.recipes.preferences.regret:TrainRegret",
    "sac": "prefrl.run.recipes.actor_critic.sac:TrainSAC",
    "self_play": "prefrl.run.recipes.preferences.self_play:TrainSelfPlay",
    "stock_dqn": "prefrl.run.recipes.returns.stock_dqn:TrainStockDQN",
}
"""Names and where they live; loaded when asked for, since each imports its agent."""


class Recipe(Protocol):
    """A frozen dataclass of JSON-like fields, each with a docstring string, that can be trained."""

    @property
    def seed(self) -> int:
        """Seeds everything random in the run."""

    @property
    def device(self) -> str:
        """Torch device, or "auto"."""

    def run(self, folder: RunFolder, *, resume: bool, progress_bar: bool) -> dict[str, Any]:
        """Train, from the folder's checkpoint if ``resume`` and there is one; return the result."""

    def evaluation(self, folder: RunFolder) -> tuple[Agent, gym.Env[Any, Any]]:
        """Return the agent of the folder's checkpoint and a fresh scalar environment for it."""


def load_recipe(name: str) -> type[Any]:
    """Return the recipe class of a name.

    Raises:
        ValueError: if there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {sorted(RECIPES)}")
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
