import json
from pathlib import Path

import pytest

from prefrl.run.recipes.value_based.q_learning import TrainQLearning
from prefrl.run.sweep.trials import MAX_NAME, make_trials, open_sweep, trial_name


def trials_of(**settings: list[str]):
    return make_trials("q_learning", [0, 1], settings)


def test_grid_in_the_order_of_the_recipe_whatever_the_order_of_the_settings() -> None:
    grid = {"gamma": ["0.9", "0.5"], "num-envs": ["8", "16"]}
    trials = make_trials("q_learning", [3, 1], grid)
    assert [trial.name for trial in trials] == [
        f"num_envs={num_envs},gamma={gamma},seed={seed}"
        for num_envs in (8, 16)
        for gamma in (0.9, 0.5)
        for seed in (3, 1)
    ]
    assert trials == make_trials("q_learning", [3, 1], dict(reversed(grid.items())))
    assert (trials[-1].seed, trials[-1].settings) == (1, {"num_envs": 16, "agent.gamma": 0.5})
    assert trials[-1].config["agent"]["gamma"] == 0.5
    assert (
        trials[-1].config["total_timesteps"] == TrainQLearning().total_timesteps
    )  # what is not swept has its default
    assert json.loads(json.dumps(trials[-1].config)) == trials[-1].config


def test_values_are_the_settings_own_however_they_are_written() -> None:
    trials = trials_of(**{"agent.initial_value": ["1"], "env_args": ["a=1 b=true"], "log_every": ["None"]})
    assert trials[0].settings == {
        "env_args": ["a=1", "b=true"],
        "log_every": None,
        "agent.initial_value": 1.0,
    }
    assert trials[0].name == "env_args=a=1-b=true,log_every=None,initial_value=1.0,seed=0"


def test_names_suit_a_file_system() -> None:
    assert trial_name({"env_id": "prefrl/Delivery-v0", "seed": 0}) == "env_id=prefrl-Delivery-v0,seed=0"
    assert trial_name({"a.x": 1, "b.x": 2}) == "a.x=1,b.x=2"
    names = {trial_name({"args": ["n=1"] * 100, "seed": seed}) for seed in range(3)}
    assert len(names) == 3
    assert max(map(len, names)) <= MAX_NAME + 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gammma": ["1"]},
            "setting 'gammma' of the recipe q_learning is unknown; it has agent.epsilon_end,",
        ),
        ({"agent": ["1"]}, "setting 'agent' of the recipe q_learning is unknown"),
        ({"gamma": ["high"]}, "agent.gamma is 'high'; it must be of type float"),
        ({"gamma": ["2"]}, "gamma is 2.0; it must lie in"),
        ({"gamma": []}, "agent.gamma has no value"),
        ({"gamma": ["1"], "agent.gamma": ["1"]}, "agent.gamma is given twice"),
        ({"gamma": ["0.9", ".90"]}, "the trial gamma=0.9,seed=0 twice"),
        ({"seed": ["1"]}, "seeds has a place of its own"),
    ],
)
def test_wrong_settings(settings: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trials("q_learning", [0], settings)


@pytest.mark.parametrize(
    ("recipe", "seeds", "message"),
    [
        ("sarsa", [0], "there is no recipe 'sarsa'"),
        ("q_learning", [], "seeds is empty"),
        ("q_learning", [1, 1], "the trial seed=1 twice"),
        ("q_learning", [-1], "seed is -1"),
    ],
)
def test_wrong_recipe_or_seeds(recipe: str, seeds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trials(recipe, seeds, {})


def test_a_sweep_may_grow(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "sweep"
    few, more = trials_of(gamma=["0.9"]), trials_of(gamma=["0.5", "0.9"], num_envs=["1024"])
    open_sweep(folder, "q_learning", few)
    config = folder / "gamma=0.9,seed=0" / "config.json"
    assert json.loads(config.read_text()) == {
        "recipe": "q_learning", "config": few[0].config, "format": 3,
    }  # fmt: skip
    written = config.stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"has a trial gamma=0\.9,seed=0, which is not in this one"):
        open_sweep(folder, "q_learning", more)  # a setting more makes other trials, if only in name
    more = trials_of(gamma=["0.5", "0.9"])
    open_sweep(folder, "q_learning", more)
    assert config.stat().st_mtime_ns == written
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert runs == sorted(trial.name for trial in more)


def test_a_sweep_may_not_change(tmp_path: Path) -> None:
    open_sweep(tmp_path, "q_learning", trials_of(gamma=["0.9", "0.5"]))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"has a trial gamma=0\.5,seed=0, which is not in this one"):
        open_sweep(tmp_path, "q_learning", trials_of(gamma=["0.9", "0.1"]))
    with pytest.raises(ValueError, match="is a sweep of q_learning, not of regret"):
        open_sweep(tmp_path, "regret", [])
    assert sorted(tmp_path.rglob("*")) == before


def test_changed_defaults_are_noticed(tmp_path: Path) -> None:
    trials = trials_of(gamma=["0.9"])
    open_sweep(tmp_path, "q_learning", trials)
    trials[0].config["agent"]["epsilon_end"] += 0.5
    with pytest.raises(ValueError, match=r"made with agent\.epsilon_end = 0\.\d, now it is 0\.\d: choose"):
        open_sweep(tmp_path, "q_learning", trials)


def test_what_is_no_sweep_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no sweep and not empty"):
        open_sweep(tmp_path, "q_learning", trials_of())
    with pytest.raises(FileExistsError, match=r"thesis\.txt is no sweep"):
        open_sweep(tmp_path / "thesis.txt", "q_learning", trials_of())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for damaged in ("{", "[]", '{"recipe": "q_learning"}'):
        (tmp_path / "sweep.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"sweep\.json"):
            open_sweep(tmp_path, "q_learning", trials_of())
