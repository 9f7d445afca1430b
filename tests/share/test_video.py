"""Films of agents: a picture for every observation of the episode that the agent would have anyway."""

import io
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import prefrl
from prefrl.cli import main
from prefrl.run.evaluate import evaluate
from prefrl.share.video import filmed

av = pytest.importorskip("av")


def pictures(film: bytes) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(film)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_film_is_the_whole_episode() -> None:
    env = gym.make("prefrl.envs:prefrl/CartPole-v0", render_mode="rgb_array")
    agent = prefrl.PPO(env, seed=0)
    film, told = filmed(agent, env, seed=5)
    expected = evaluate(agent, env, episodes=1, seed=5)
    assert told["over"]
    assert (told["return"], told["steps"]) == (expected["mean_return"], expected["mean_length"])
    seen = pictures(film)
    assert len(seen) == told["steps"] + 1
    assert told["seconds"] == len(seen) / round(env.metadata["render_fps"])
    assert np.abs(seen[0].astype(int) - seen[-1]).max() > 50
    env.reset(seed=5)
    assert np.abs(seen[0].astype(int) - env.render()).mean() < 3  # H.264 is no copy


def test_a_film_ends_at_its_limit_and_has_the_rate_that_is_asked_for() -> None:
    env = gym.make("Pendulum-v1", render_mode="rgb_array")
    film, told = filmed(prefrl.SAC(env), env, seed=0, max_steps=9, fps=5)
    assert (len(pictures(film)), told["steps"], told["over"], told["seconds"]) == (10, 9, False, 2.0)


def test_the_command_films_episodes_by_their_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    flags = ["--env-id", "prefrl/CartPole-v0", "--num-learners", "2", "--total-timesteps", "200"]
    assert main(["train", "dqn", *flags, "--hidden", "8", "--out", run, "--quiet"]) == 0
    arguments = ["--episodes", "2", "--seed", "7", "--learner", "1", "--max-steps", "20"]
    assert main(["video", run, *arguments]) == 0
    made = Path(capsys.readouterr().out.splitlines()[-1])
    told = json.loads(made.read_text())
    assert [each["file"] for each in told["videos"]] == ["episode-7.mp4", "episode-8.mp4"]
    assert all((made.parent / each["file"]).stat().st_size > 1_000 for each in told["videos"])
    assert main(["video", run, "--learner", "9"]) == 2
    assert "learner is 9; this run has learners 0 to 1" in capsys.readouterr().err


def test_an_environment_that_draws_nothing_is_refused() -> None:
    env = gym.make("prefrl.envs:prefrl/CartPole-v0")
    with pytest.raises(ValueError, match="render_mode"):
        filmed(prefrl.PPO(env), env, seed=0)
