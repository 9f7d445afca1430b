"""Films of a trained agent: its episodes in its own environment, one file each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro

from prefrl.agents.base import Agent
from prefrl.config import Count, Natural, Settings
from prefrl.data.files.atomic import atomic_path
from prefrl.label.clips import encode
from prefrl.label.drawing import draw, drawing_arguments
from prefrl.run.folder import RunFolder, write_json
from prefrl.run.launch import open_recipe


@dataclass(frozen=True)
class VideoCommand(Settings):
    """Film episodes of a run's agent, as MP4 (extra: label)."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder with a checkpoint."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: RUN/videos)")] = (
        None
    )
    """Folder of the films."""

    episodes: Count = 1
    """Number of episodes, each in a film of its own."""

    seed: Natural = 0
    """Seeds the environment: that of the first episode; the next ones take the following numbers."""

    deterministic: bool = True
    """Take the agent's deterministic actions, not drawn ones."""

    max_steps: Count = 1_000
    """Longest film, in steps."""

    fps: Annotated[
        Count | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the environment's)")
    ] = None
    """Pictures per second."""

    learner: Natural = 0
    """Which of many learners."""

    def run(self) -> None:
        """Write the films, print returns and lengths, and the path of videos.json in the last line."""
        folder = RunFolder.open(self.folder)
        recipe = open_recipe(folder)
        env_id, env_args = recipe.made
        names = {pair.partition("=")[0] for pair in env_args}
        more = drawing_arguments(env_id, names)
        recipe = dataclasses.replace(
            recipe, env_args=(*recipe.env_args, *(f"{name}={value}" for name, value in more.items()))
        )
        agent, env = recipe.evaluation(folder)
        alone = list(agent.alone())
        if self.learner >= len(alone):
            raise ValueError(f"learner is {self.learner}; this run has learners 0 to {len(alone) - 1}")
        out = self.out or self.folder / "videos"
        found = []
        for episode in range(self.episodes):
            film, told = filmed(
                alone[self.learner], env, seed=self.seed + episode, max_steps=self.max_steps,
                deterministic=self.deterministic, fps=self.fps,
            )  # fmt: skip
            out.mkdir(parents=True, exist_ok=True)
            name = f"episode-{self.seed + episode}.mp4"
            with atomic_path(out / name) as path:
                path.write_bytes(film)
            found.append({"file": name, "seed": self.seed + episode, **told})
        made = out / "videos.json"
        write_json(made, {"num_timesteps": agent.num_timesteps, "learner": self.learner, "videos": found})
        returns = [each["return"] for each in found]
        shown = {"episodes": len(found), "mean_return": float(np.mean(returns))}
        folder.announce(made, {**shown, "seconds_of_film": sum(each["seconds"] for each in found)})


def filmed(
    agent: Agent, env: gym.Env[Any, Any], *, seed: int, max_steps: int = 1_000, deterministic: bool = True,
    fps: int | None = None,
) -> tuple[bytes, dict[str, Any]]:  # fmt: skip
    """Return an episode as an MP4, and what happened in it: ``return``, ``steps``, ``over``, ``seconds``.

    Args:
        agent: a single learner.
        env: an environment made with ``render_mode="rgb_array"``.
        seed: seeds it.
        max_steps: the film ends there at the latest; ``over`` says whether the episode had ended.
        deterministic: whether deterministic actions are taken, or drawn ones.
        fps: pictures per second; None: the environment's, or 30 where it says nothing.

    Raises:
        ImportError: if PyAV is not installed.
        ValueError: if the environment draws no pictures.
    """
    told: dict[str, Any] = {"return": 0.0, "steps": 0, "over": False}
    rate = fps or max(1, round(env.metadata.get("render_fps") or 30))

    def pictures() -> Iterator[Any]:
        obs, _ = env.reset(seed=seed)
        state, start = None, np.ones(1, dtype=bool)
        yield draw(env)
        while not told["over"] and told["steps"] < max_steps:
            action, state = agent.predict(obs, state, start, deterministic=deterministic)
            obs, reward, terminated, truncated, _ = env.step(action)
            told["return"] += np.asarray(reward).item()
            told["steps"] += 1
            told["over"] = bool(terminated or truncated)
            start = np.zeros(1, dtype=bool)
            yield draw(env)

    clip = encode(pictures(), rate, "h264")
    return clip.media, {**told, "seconds": clip.frames / rate}
