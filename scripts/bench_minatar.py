"""How fast MinAtar is: the `minatar` package, one game at a time, and ours, thousands of games at once.

Both sides play uniform actions out of those that a game uses, start anew when a game is over and make every
observation, on one thread, in turns in one process; steps per second of processor time are reported as
median, minimum and maximum, ratios within a repetition. Ours is measured in both modes of starting anew: in
the next step, and in the same one, which makes two observations, that of the end and that of the start.
"fill" is how many observations' memory could be written in that time, if there was nothing else to do: no
environment that returns them can be faster. The package (`pip install minatar`) is measured bare and through
its own Gymnasium class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.table import Table

from prefrl.cli import execute
from prefrl.envs import MINATAR_IDS, make_device
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import clocked, spread

GAMES = {env_id.removeprefix("prefrl/MinAtar-").removesuffix("-v0"): env_id for env_id in MINATAR_IDS}

NAMES = {"SpaceInvaders": "space_invaders"}
"""What the package calls a game, where that is not our name in small letters."""

LARGE_BLOCK = 31 * 2**20
"""Bytes; once such a block was freed, the C library keeps smaller ones for the next step."""


@dataclass(frozen=True)
class Bench:
    """How fast MinAtar is."""

    out: Path = Path("runs/bench_minatar")
    """Run folder, new or empty."""

    games: tuple[str, ...] = tuple(GAMES)
    """MinAtar's games."""

    repeats: int = 7
    """Repetitions of each comparison."""

    num_envs: int = 4_096
    """Our games at once."""

    steps: int = 40
    """Steps of all of them in a repetition."""

    package_steps: int = 20_000
    """The package's steps in a repetition."""

    compile: bool = False
    """Compile ours, which takes some minutes for each game."""

    def __post_init__(self) -> None:
        for game in self.games:
            if game not in GAMES:
                raise ValueError(f"games has {game!r}; allowed are {', '.join(GAMES)}")
        check_positive(self, "repeats", "num_envs", "steps", "package_steps")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima."""
        torch.empty(LARGE_BLOCK, dtype=torch.uint8)
        result = {game: self._game(game) for game in self.games}
        show(result)
        return {"games": result}

    def _game(self, game: str) -> dict[str, Any]:
        from minatar import Environment
        from minatar.gym import BaseEnv

        name, draws = NAMES.get(game, game.lower()), np.random.default_rng(0)
        useful = Environment(name).minimal_action_set()  # ours has no others
        ours = {mode.name.lower(): self._ours(game, mode)
                for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)}  # fmt: skip
        theirs = {
            "package": package(Environment(name), draws.choice(useful, self.package_steps).tolist()),
            "package_gymnasium": gymnasium_face(
                BaseEnv(game=name, use_minimal_action_set=True),
                draws.integers(len(useful), size=self.package_steps).tolist(),
            ),
        }
        shape = (self.num_envs, *gym.make(GAMES[game]).observation_space.shape)  # type: ignore[misc]

        def fill() -> None:
            for _ in range(self.steps):
                torch.zeros(shape, dtype=torch.bool)

        sides = {**{name: (play, self.package_steps) for name, play in theirs.items()},
                 **{name: (play, self.num_envs * self.steps) for name, play in ours.items()},
                 "fill": (fill, self.num_envs * self.steps)}  # fmt: skip
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.repeats):
            for name, (play, count) in sides.items():
                found[name].append(count / clocked(play)[1])
        ratios = {name: [each / package for each, package in zip(found[name], found["package"], strict=True)]
                  for name in (*ours, "fill")}  # fmt: skip
        return {
            "steps_per_second": {name: spread(values) for name, values in found.items()},
            "over_package": {name: spread(values) for name, values in ratios.items()},
        }

    def _ours(self, game: str, mode: AutoresetMode) -> Callable[[], None]:
        """Return what plays ours, which is well under way."""
        env = make_device(GAMES[game], self.num_envs, device="cpu", autoreset_mode=mode, compile=self.compile)
        env.reset(seed=0)
        size: int = env.single_action_space.n
        generator = torch.Generator().manual_seed(0)
        actions = [torch.randint(size, (self.num_envs,), generator=generator) for _ in range(self.steps)]

        def play() -> None:
            for each in actions:
                env.step(each)

        for _ in range(3):
            play()
        return play


def package(env: Any, actions: list[int]) -> Callable[[], None]:
    """Return what plays the package's game."""
    env.seed(0)
    env.reset()

    def play() -> None:
        for action in actions:
            _, over = env.act(action)
            if over:
                env.reset()
            env.state()

    return play


def gymnasium_face(env: Any, actions: list[int]) -> Callable[[], None]:
    """Return what plays it through the package's Gymnasium class."""
    env.reset(seed=0)

    def play() -> None:
        for action in actions:
            _, _, over, _, _ = env.step(action)
            if over:
                env.reset()

    return play


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("game", "package, steps/s", "its Gymnasium", "ours", "over package", "same step", "fill")
    for game, found in result.items():
        rates, ratios = found["steps_per_second"], found["over_package"]
        table.add_row(
            game,
            *(f"{rates[name]['median']:,.0f}" for name in ("package", "package_gymnasium", "next_step")),
            *(
                "{median:.1f} ({min:.1f} to {max:.1f})".format(**ratios[name])
                for name in ("next_step", "same_step", "fill")
            ),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
