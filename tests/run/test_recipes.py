"""Recipes: by name, to JSON and back, wrong settings refused."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import pytest
import torch
from hypothesis import given, strategies as st

from prefrl.agents import DQN, DQNConfig, QLearningConfig
from prefrl.config import from_json, to_json
from prefrl.data import save_transitions
from prefrl.run.collect import collect_transitions
from prefrl.run.environments import parse_env_args
from prefrl.run.folder import RunFolder
from prefrl.run.recipes import RECIPES, load_recipe, recipe_name
from prefrl.run.recipes.value_based.dqn import TrainDQN
from prefrl.run.recipes.value_based.q_learning import TrainQLearning


def test_every_recipe_is_a_frozen_dataclass_with_its_face() -> None:
    for name in RECIPES:
        recipe = load_recipe(name)
        assert dataclasses.is_dataclass(recipe)
        assert recipe.__dataclass_params__.frozen
        assert {"seed", "device"} <= {entry.name for entry in dataclasses.fields(recipe)}
        assert callable(recipe.run)
        assert callable(recipe.evaluation)


def test_names() -> None:
    assert load_recipe("q_learning") is TrainQLearning
    assert recipe_name(TrainQLearning()) == "q_learning"
    with pytest.raises(ValueError, match=r"there is no recipe 'sarsa'; there are .*q_learning"):
        load_recipe("sarsa")
    with pytest.raises(ValueError, match="is no recipe"):
        recipe_name(QLearningConfig())


@dataclass(frozen=True)
class Everything:
    number: int
    real: float = 0.5
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    path: Path | None = None
    words: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    nested: QLearningConfig = field(default_factory=QLearningConfig)


recipes = st.builds(
    Everything,
    number=st.integers(),
    real=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    path=st.none() | st.sampled_from([Path("x"), Path("/y/z")]),
    words=st.lists(st.text()).map(tuple),
    pair=st.tuples(st.integers(), st.floats(-9, 9)),
    nested=st.builds(QLearningConfig, gamma=st.floats(0, 1)),
)


@given(recipes)
def test_round_trip(recipe: Everything) -> None:
    text = json.dumps(to_json(recipe), allow_nan=False)
    assert from_json(Everything, json.loads(text)) == recipe


def test_integers_are_read_as_reals_and_missing_keys_take_their_defaults() -> None:
    recipe = from_json(Everything, {"number": 3, "real": 2})
    assert recipe == Everything(3, 2.0)
    assert type(recipe.real) is float


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"number": 1, "extra": 2}, r"^extra is unknown; Everything has \['flag', 'kind'"),
        ({}, "^number is missing"),
        ({"number": "1"}, "^number is '1'; it must be of type int"),
        ({"number": True}, "^number is True; it must be of type int"),
        ({"number": 1.0}, "^number is 1.0; it must be of type int"),
        ({"number": 1, "flag": 1}, "^flag is 1; it must be of type bool"),
        ({"number": 1, "real": None}, "^real is None; it must be of type float"),
        ({"number": 1, "kind": "c"}, "^kind is 'c'; it must be one of .*'a', 'b'"),
        ({"number": 1, "path": 3}, "^path is 3; it must be of type"),
        ({"number": 1, "words": "ab"}, "^words is 'ab'; it must be a tuple of words"),
        ({"number": 1, "words": [1]}, r"^words\[0\] is 1; it must be of type str"),
        ({"number": 1, "pair": [1]}, r"^pair is \[1\]; it must be a tuple of 2"),
        ({"number": 1, "nested": 3}, "^nested is 3; it must be of type QLearningConfig"),
        ({"number": 1, "nested": {"gama": 3}}, "^nested.gama is unknown; QLearningConfig has"),
        ({"number": 1, "nested": {"gamma": "x"}}, "^nested.gamma is 'x'; it must be of type float"),
        ({"number": 1, "nested": {"gamma": 7}}, "^nested.gamma is 7.0; it must lie in"),
    ],
)
def test_wrong_content_is_refused_by_name(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(Everything, content)


def test_env_args() -> None:
    parsed = parse_env_args(("layout_seed=3", "stochastic=true", "map_name=8x8", "x=", "y=a=b"))
    assert parsed == {"layout_seed": 3, "stochastic": True, "map_name": "8x8", "x": "", "y": "a=b"}
    assert parse_env_args(("a=True", "b=False", "c=None")) == {"a": True, "b": False, "c": None}
    for wrong in ("layout_seed", "=3", "two words=3"):
        with pytest.raises(ValueError, match="each must be NAME=VALUE"):
            TrainQLearning(env_args=(wrong,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"total_timesteps": -5}, "total_timesteps is -5"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"eval_episodes": 0}, "eval_episodes is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"device": "meta"}, "device is 'meta', which cannot hold float64 tensors and a generator"),
        ({"device": "vulkan"}, "device is 'vulkan', which cannot hold"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but torch finds"),
    ],
)
def test_q_learning_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainQLearning(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({name: 0}, rf"{name} is 0; it must (be at least 1|lie in \[1, 16777216\])") for name in
          ("num_envs", "total_timesteps", "eval_every", "eval_episodes", "final_episodes", "log_every",
           "checkpoint_every")),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"env_args": ("3",)}, "each must be NAME=VALUE"),
        ({"agent": DQNConfig(target_policy="sarsa")}, "target_policy is 'sarsa'; without a dataset"),
    ],
)  # fmt: skip
def test_dqn_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainDQN(**settings)


def test_dqn_in_json_and_back() -> None:
    recipe = TrainDQN(env_id="Acrobot-v1", agent=DQNConfig(loss="c51", hidden=(3, 4), sigma=0.5))
    assert from_json(TrainDQN, json.loads(json.dumps(to_json(recipe)))) == recipe
    with pytest.raises(ValueError, match="loss is 'l1'"):
        from_json(TrainDQN, {"agent": {"loss": "l1"}})


@pytest.mark.parametrize("env_id", ["CartPole-v1", "prefrl/RandomGrid-v0"])
def test_dqn_trains_evaluates_and_saves(env_id: str, tmp_path: Path) -> None:
    config = DQNConfig(learning_starts=50, hidden=(8,), batch_size=8)
    recipe = TrainDQN(env_id=env_id, num_envs=1, total_timesteps=200, eval_every=100, eval_episodes=2,
                      final_episodes=3, device="cpu", agent=config)  # fmt: skip
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    try:
        result = recipe.run(folder, resume=False, progress_bar=False)
    finally:
        torch.set_flush_denormal(False)  # the recipe does so for the whole process
    assert {"final_return", "eval_returns", "steps_per_second", "clamped_fraction", "seconds"} <= set(result)
    assert result["eval_timesteps"] == [100, 200]
    assert len(result["eval_returns"]) == 2
    assert result["num_timesteps"] == 200
    assert result["steps_per_second"] >= 200 / result["seconds"]
    for _ in range(2):
        agent, env = recipe.evaluation(folder)
        saved = DQN.load(folder.path / "agent.pt", device="cpu")
        obs = torch.as_tensor(env.reset(seed=0)[0])[None]
        assert torch.equal(agent.q_values(obs), saved.q_values(obs))
        assert agent.num_timesteps == 200
        folder.checkpoint_path.unlink(missing_ok=True)  # who wants the room it takes can still evaluate


def test_dqn_learns_from_a_file(tmp_path: Path) -> None:
    env_id = "prefrl/RandomGrid-v0"
    path = tmp_path / "data.npz"
    save_transitions(path, collect_transitions(None, gym.make(env_id), 300, epsilon=1.0))
    config = DQNConfig(hidden=(8,), batch_size=8, target_policy="sarsa", v_min=-400, v_max=400)
    recipe = TrainDQN(env_id=env_id, dataset=path, total_timesteps=20, eval_episodes=2, final_episodes=2,
                      device="cpu", agent=config)  # fmt: skip
    assert from_json(TrainDQN, json.loads(json.dumps(to_json(recipe)))) == recipe
    folder = RunFolder.create(tmp_path / "run", {"recipe": "dqn", "config": {}}, quiet=True)
    try:
        result = recipe.run(folder, resume=False, progress_bar=False)
    finally:
        torch.set_flush_denormal(False)
    assert result["num_timesteps"] == 20
    assert len(result["eval_returns"]) == 20
    agent, _ = recipe.evaluation(folder)
    step = agent.optimizer.state_dict()["state"][0]["step"]
    assert (int(step), agent.epsilon) == (20, config.epsilon_end)
    with pytest.raises(FileNotFoundError, match=r"there is no transition file .*missing\.npz"):
        dataclasses.replace(recipe, dataset=tmp_path / "missing.npz").run(
            folder, resume=False, progress_bar=False
        )
