"""Learners by name: ours, SB3's, other names of these, and what runs and sweeps written before meant."""

import json
from pathlib import Path

import pytest

from prefrl import cli
from prefrl.agents import DQNConfig, PPOConfig, SACConfig, SB3Config
from prefrl.config import to_json
from prefrl.run.folder import RunFolder
from prefrl.run.launch import open_recipe
from prefrl.run.plot import read_settings
from prefrl.run.recipes.preferences.heron import TrainHeron
from prefrl.run.recipes.preferences.preference_rl import TrainPreferenceRL
from prefrl.run.recipes.preferences.self_play import TrainSelfPlay
from prefrl.run.settings import FORMAT, as_now, present_name
from prefrl.run.sweep.trials import make_trials, open_sweep

RECIPES = {"heron": TrainHeron, "preference_rl": TrainPreferenceRL, "self_play": TrainSelfPlay}


def write_old(path: Path, recipe: str, agent: str, **more: object) -> Path:
    """Make a folder as it was before format 2, when SB3's learners had the bare names."""
    RunFolder.create(
        path, {"recipe": recipe, "config": {**to_json(RECIPES[recipe]()), "agent": agent, **more}}
    )
    content = json.loads((path / "config.json").read_text())
    assert content.pop("format") == FORMAT
    (path / "config.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_names_of_learners(recipe: str) -> None:
    kind = RECIPES[recipe]
    assert kind(agent="sac", agent_args=("hidden=[8]",)).learner_config() == SACConfig(hidden=(8,))
    assert kind(agent="dqn", agent_args=("gamma=0.5",)).learner_config() == DQNConfig(gamma=0.5)
    held = kind(agent="sac", warmup_hold=3)
    assert held.learner_config() == SACConfig(warmup_hold=3)
    made = kind(agent="ppo", agent_args=("gamma=0.5",), total_timesteps=70)
    assert made.learner_config() == PPOConfig(gamma=0.5, schedule_timesteps=70)
    assert made.rows == 8
    assert kind(agent="prefrl_dqn") == kind(agent="dqn")
    for name in ("ppo", "a2c", "sac", "td3", "ddpg", "dqn"):
        made = kind(agent=f"sb3_{name}", total_timesteps=70, warmup_hold=3)
        assert made.learner_config() == SB3Config(name, {}, 70, 3)
        assert made.rows == (8 if name in ("ppo", "a2c") else 1)
        if name not in ("sac", "dqn", "ppo"):
            assert kind(agent=name) == kind(agent=f"sb3_{name}")
    assert kind(agent="sac").rows == 1


@pytest.mark.parametrize(
    ("env_id", "learner", "rows"),
    [
        ("Pendulum-v1", "sac", 1),
        ("CartPole-v1", "ppo", 8),
        ("prefrl/Pendulum-v0", "ppo", 8),
        ("prefrl.envs:prefrl/CartPole-v0", "ppo", 8),
        ("prefrl/TrafficGrid-v0", "ppo", 8),
    ],
)
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_the_environment_chooses_the_learner(recipe: str, env_id: str, learner: str, rows: int) -> None:
    made = RECIPES[recipe](env_id=env_id)
    assert (made.agent, made.learner, made.rows) == ("auto", learner, rows)
    assert type(made.learner_config()) is {"sac": SACConfig, "ppo": PPOConfig}[learner]


def test_settings_of_a_learner_that_the_environment_chose_are_checked_before_it_is_trained() -> None:
    made = TrainPreferenceRL(env_id="CartPole-v1", agent_args=("buffer_size=9",))
    with pytest.raises(ValueError, match=r"do not suit ppo \(SB3's is sb3_ppo\): buffer_size is unknown"):
        made.learner_config()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agent": "sac", "agent_args": ("policy_kwargs={}",)}, r"do not suit sac \(SB3's is sb3_sac\): pol"),
        ({"agent": "sb3_sac", "agent_args": ("hidden=[8]",)}, "settings hold 'hidden'; sac of SB3 has"),
        ({"agent": "sac", "agent_args": ("gamma",)}, r"agent_args has 'gamma'"),
        ({"agent": "ppo", "warmup_hold": 3}, "warmup_hold is 3; ppo has none, as sac and SB3's have"),
        ({"agent": "reinforce"}, "agent is 'reinforce'; it must be one of"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_wrong_learners(recipe: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RECIPES[recipe](**settings)


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("name", ["ppo", "a2c", "sac", "td3", "ddpg", "dqn"])
def test_old_runs_with_bare_names_are_those_of_sb3(recipe: str, name: str, tmp_path: Path) -> None:
    run = write_old(tmp_path / "run", recipe, name)
    assert open_recipe(RunFolder.open(run)) == RECIPES[recipe](agent=f"sb3_{name}")
    assert read_settings(run)["agent"] == f"sb3_{name}"


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_runs_of_format_2_with_ppo_are_those_of_sb3_and_others_as_they_say(
    recipe: str, tmp_path: Path
) -> None:
    for name, meant in (("ppo", "sb3_ppo"), ("sac", "sac"), ("dqn", "dqn"), ("sb3_ppo", "sb3_ppo")):
        run = write_old(tmp_path / name, recipe, name)
        content = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**content, "format": 2}))
        assert open_recipe(RunFolder.open(run)) == RECIPES[recipe](agent=meant)
        assert read_settings(run)["agent"] == meant


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_old_runs_with_prefrl_dqn_are_those_of_our_dqn(recipe: str, tmp_path: Path) -> None:
    run = write_old(tmp_path / "run", recipe, "prefrl_dqn", warmup_hold=3)
    assert open_recipe(RunFolder.open(run)) == RECIPES[recipe](agent="dqn")


@pytest.mark.parametrize("name", ["auto", "sac", "dqn", "ppo", "sb3_sac"])
def test_new_runs_mean_what_they_say(name: str, tmp_path: Path) -> None:
    recipe = TrainPreferenceRL(agent=name)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "preference_rl", "config": to_json(recipe)})
    assert open_recipe(RunFolder.open(folder.path)) == recipe == open_recipe(folder)
    assert read_settings(folder.path)["agent"] == name


def test_files_of_a_later_format_are_refused(tmp_path: Path) -> None:
    run = write_old(tmp_path / "run", "heron", "sac")
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**content, "format": FORMAT + 1}))
    for read in (RunFolder.open, read_settings):
        with pytest.raises(ValueError, match=r"config\.json.*format is 4; this version reads 2, 3, and"):
            read(run)


def test_settings_of_other_recipes_stay_as_they_are() -> None:
    for settings in ({"agent": {"gamma": 0.9}}, {"agent": "q_learning"}, {"seed": 1}):
        assert as_now(settings, None) == settings


def test_an_old_sweep_is_not_gone_on_with_by_another_learner(tmp_path: Path) -> None:
    """A trial that is called the same is compared by what it meant."""
    folder = tmp_path / "sweep"
    trials = make_trials("preference_rl", [0], {"agent": ["sac"]})
    open_sweep(folder, "preference_rl", trials)
    open_sweep(folder, "preference_rl", trials)
    there = json.loads((folder / "sweep.json").read_text())
    assert there.pop("format") == FORMAT
    (folder / "sweep.json").write_text(json.dumps(there))
    with pytest.raises(
        ValueError, match="was made with agent = sb3_sac, now it is sac: choose another --out"
    ):
        open_sweep(folder, "preference_rl", trials)


def test_a_flag_of_an_older_version_is_what_it_is_called_now() -> None:
    for flags in (["--target-update-interval", "3"], ["--target_update_interval=3"]):
        recipe = cli.parse_train("sac", flags, prog="prefrl train sac").recipe
        assert recipe.agent.target_update_gradient_steps == 3
    recipe = cli.parse_train("dqn", ["--target-update-interval", "3"], prog="prefrl train dqn").recipe
    assert recipe.agent.target_update_interval == 3
    assert present_name(type(recipe), "agent.gamma") == "agent.gamma"


def test_a_sweep_takes_settings_by_the_names_of_older_versions() -> None:
    trials = make_trials("sac", [0], {"target_update_interval": ["2", "3"]})
    steps = sorted(trial.config["agent"]["target_update_gradient_steps"] for trial in trials)
    assert steps == [2, 3]
