"""What all recipes have from their base: checked settings, one thread for a while, the agent of a run."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import pytest
import torch

from prefrl.agents import DQN, DQNConfig
from prefrl.cli import recipe_summary, summary
from prefrl.run.folder import RunFolder
from prefrl.run.recipes import RECIPES, load_recipe
from prefrl.run.recipes.base import EvaluatedRecipe, Recipe, SteppingRecipe, small_networks
from prefrl.run.recipes.value_based.dqn import TrainDQN

SMALL = DQNConfig(learning_starts=8, hidden=(4,), batch_size=4)
QUICK: dict[str, Any] = {"num_envs": 1, "total_timesteps": 20, "eval_episodes": 1, "final_episodes": 1,
                         "device": "cpu", "agent": SMALL}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_stands_on_the_base(name: str) -> None:
    recipe = load_recipe(name)
    assert issubclass(recipe, Recipe)
    assert recipe.run is Recipe.run
    assert recipe.__dataclass_params__.frozen
    assert recipe_summary(name) == summary(recipe)


# Nonsense ------------------------------------------------------------------------------------------------

NEVER = (object(), b"x", [object()], float("nan"), float("-inf"))
"""What no setting of any recipe takes."""

NUMBERS = {
    "Count": (0, -1, 1.5, True, "3"),
    "Natural": (-1, 1.5, True, "3"),
    "Positive": (0.0, -1, True, "3"),
    "NonNegative": (-0.5, True, "3"),
    "Share": (-0.5, 1.5, True, "3"),
    "PositiveShare": (0.0, 1.5, True, "3"),
    "int": (-1, 1.5, True, "3"),  # without a bound of its own: there is no such setting
    "float": (True, "3"),
    "bool": (1, "yes"),
    "Literal": ("nonsense", 3),
    "str": (3, None),
    "Pairs": ("a=1", 3, (3,)),
}


def nonsense() -> Iterator[Any]:
    for name in RECIPES:
        for field in dataclasses.fields(load_recipe(name)):
            words = str(field.type).replace("[", " ").replace(",", " ").replace("]", " ").split()
            more = [value for word in words if word in NUMBERS for value in NUMBERS[word]]
            if "tuple" in words:
                more = []
            if "None" in words:
                more = [value for value in more if value is not None]
            values = [*NEVER, *more]
            yield pytest.param(name, field.name, values, id=f"{name}-{field.name}")


@pytest.mark.parametrize(("name", "field", "values"), list(nonsense()))
def test_nonsense_is_refused_by_name(name: str, field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"^{field}(\[0\])? (is|has) "):
            load_recipe(name)(**{field: value})


@pytest.mark.parametrize("name", ["iql", "behaviour_cloning", "brain", "preference_optimization"])
def test_environments_that_nobody_steps_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="num_envs is 3; it must be None, since nothing is stepped here"):
        load_recipe(name)(num_envs=3)


def test_bounds_of_recipes_of_their_own() -> None:
    for name, settings in (("self_play", {"flip": 0.5}), ("self_play", {"cycle": (1.0, 2.0, 0.0)}),
                           ("self_play", {"budget": 1.5}), ("heron", {"level_scale": 0.5})):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{next(iter(settings))}(\[1\])? is .*it must "):
            load_recipe(name)(**settings)


# Threads -------------------------------------------------------------------------------------------------

DENORMAL = 5e-324


def flushes() -> bool:
    return not bool(torch.tensor(DENORMAL, dtype=torch.float64) * 1.0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Watched(TrainDQN):
    """Notes how torch is settled while the agent is made, and may fail then."""

    fails: bool = False

    def make_agent(self, env: Any, dataset: Any = None) -> DQN:
        SEEN.append((torch.get_num_threads(), flushes()))
        if self.fails:
            raise ValueError("no agent")
        return super().make_agent(env, dataset)


SEEN: list[tuple[int, bool]] = []


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_denormals_are_settled_and_restored(
    tmp_path: Any, two_threads: None, fails: bool
) -> None:
    SEEN.clear()
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    recipe = Watched(fails=fails, **QUICK)
    if fails:
        with pytest.raises(ValueError, match="no agent"):
            recipe.run(folder, resume=False, progress_bar=False)
    else:
        recipe.run(folder, resume=False, progress_bar=False)
    assert SEEN == [(1, True)]
    assert (torch.get_num_threads(), flushes()) == (2, False)


def test_what_was_settled_before_stays_so(two_threads: None) -> None:
    with small_networks():
        with small_networks():
            pass
        assert (torch.get_num_threads(), flushes()) == (1, True)
    assert (torch.get_num_threads(), flushes()) == (2, False)


# The course of a run -------------------------------------------------------------------------------------


def test_a_part_of_the_run_where_nothing_else_is_said(tmp_path: Any) -> None:
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    recipe = TrainDQN(**{**QUICK, "total_timesteps": 40})
    result = recipe.run(folder, resume=False, progress_bar=False)
    assert result["eval_timesteps"] == list(range(2, 41, 2))  # 5 % each
    assert len((folder.path / "progress.csv").read_text().splitlines()) == 41
    assert {"num_timesteps", "seconds", "steps_per_second", "final_return", "clamped_fraction"} <= set(result)


def test_a_recipe_must_say_which_agent() -> None:
    @dataclass(frozen=True)
    class Nothing(EvaluatedRecipe):
        """Says nothing."""

    with pytest.raises(TypeError, match="abstract"):
        Nothing()  # type: ignore[abstract]


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_whether_environments_are_stepped(name: str) -> None:
    """Where nothing is stepped, a number of environments would do nothing, and is refused."""
    recipe = load_recipe(name)
    if issubclass(recipe, SteppingRecipe):
        agents = get_type_hints(recipe.make_agent)["return"]
        assert recipe.steps == any(agent.steps_env for agent in get_args(agents) or (agents,))
