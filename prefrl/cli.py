"""The command ``prefrl``: list, train, resume, evaluate, plot, sweep.

A command is a dataclass whose fields tyro turns into flags, and whose ``run`` does the work. Only the modules
that a command needs are imported.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.util import find_spec
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, NamedTuple, TypeVar

import tyro

from prefrl.run.recipes import RECIPES, load_recipe, recipe_name

if TYPE_CHECKING:
    import gymnasium as gym

RecipeType = TypeVar("RecipeType")

FLAGS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
"""One flag per switch (--no-progress-bar), and --gamma for --recipe.agent.gamma."""

ProgressBar = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
Quiet = Annotated[bool, tyro.conf.arg(help_behavior_hint="")]
RunArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class ListCommand:
    """List what can be trained, and the environments."""

    def run(self) -> None:
        """Print two tables."""
        from rich.console import Console
        from rich.table import Table

        agents = Table("command", "what it trains", title="Agents", title_justify="left")
        for name in RECIPES:
            agents.add_row(f"prefrl train {name}", recipe_summary(name))
        columns = ("id", "observations", "actions", "steps", "what it is")
        environments = Table(*columns, title="Environments", title_justify="left")
        for row in environment_rows():
            environments.add_row(*row)
        for table in (agents, environments):
            table.columns[0].no_wrap = True
            Console().print(table)


def environment_rows() -> Iterator[tuple[str, ...]]:
    """Yield id, spaces, steps and a line of text for every environment."""
    import gymnasium as gym

    from prefrl.envs import MINATAR_IDS, REGISTRY, minatar

    for env_id in REGISTRY:
        env = gym.make(env_id)
        assert env.spec is not None
        spaces = (brief(env.observation_space), brief(env.action_space))
        yield env_id, *spaces, str(env.spec.max_episode_steps or "own"), summary(env.unwrapped)
    for env_id in MINATAR_IDS:
        spec = gym.spec(env_id)
        observations, actions = minatar.spaces(spec.kwargs["game"])
        about = f"{summary(minatar.MinAtarEnv)} (extra minatar)"
        yield env_id, brief(observations), brief(actions), str(spec.max_episode_steps), about


@dataclass(frozen=True)
class TrainCommand(Generic[RecipeType]):
    """Train an agent in a new run folder."""

    recipe: Annotated[RecipeType, tyro.conf.arg(name="")]

    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/RECIPE-SEED-TIME)")
    ] = None
    """Run folder, new or empty."""

    progress_bar: ProgressBar = True
    """Hide the progress bar, which is shown where stderr is a terminal."""

    quiet: Quiet = False
    """Print no tables of metrics, only the result's path."""

    def run(self) -> None:
        """Train, and print the path of the result."""
        from prefrl.run.launch import train

        recipe: Any = self.recipe
        bar = self.progress_bar and sys.stderr.isatty()
        train(recipe_name(recipe), recipe, self.out, progress_bar=bar, quiet=self.quiet)


@dataclass(frozen=True)
class ResumeCommand:
    """Go on with an interrupted run, from its last checkpoint."""

    folder: RunArgument
    """Run folder."""

    progress_bar: ProgressBar = True
    """Hide the progress bar, which is shown where stderr is a terminal."""

    quiet: Quiet = False
    """Print no tables of metrics, only the result's path."""

    def run(self) -> None:
        """Finish the run, and print the path of its result."""
        from prefrl.run.launch import resume

        resume(self.folder, progress_bar=self.progress_bar and sys.stderr.isatty(), quiet=self.quiet)


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate the agent of a run in fresh episodes; writes evaluation.json in the run folder."""

    folder: RunArgument
    """Run folder with a checkpoint."""

    episodes: int = 100
    """Number of episodes."""

    seed: int = 0
    """Seeds the environment."""

    max_steps: int = 50_000
    """Longest episode: one that is not over by then is an error, since it may never end."""

    def run(self) -> None:
        """Evaluate, and print the path of the evaluation."""
        from prefrl.run.launch import evaluate_run

        evaluate_run(self.folder, episodes=self.episodes, seed=self.seed, max_steps=self.max_steps)


def brief(space: gym.Space[Any]) -> str:
    """Return a space in a few words: of a Dict the names."""
    from gymnasium.spaces import Dict

    return f"Dict: {', '.join(space)}" if isinstance(space, Dict) else str(space)


def summary(thing: Any) -> str:
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").strip().splitlines()[0]


def recipe_summary(name: str) -> str:
    """Return the first line of a recipe's docstring, out of its source: loading it would load its agent."""
    module, _, class_name = RECIPES[name].partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return (ast.get_docstring(node) or "").splitlines()[0]
    raise ImportError(f"{spec.origin} has no class {class_name}")


def overview(summaries: dict[str, str]) -> Any:
    """Return a type for tyro that shows subcommands by name, and does nothing."""
    return reduce(or_, (Annotated[_Overview, tyro.conf.subcommand(name, description=text)]
                        for name, text in summaries.items()))  # fmt: skip


def _plot_command() -> Any:
    from prefrl.run.plot import PlotCommand

    return PlotCommand


def _sweep_command() -> Any:
    from prefrl.run.sweep.sweep import SweepCommand

    return SweepCommand


class _Command(NamedTuple):
    summary: str
    load: Callable[[], Any]
    """Returns the type that tyro parses."""


COMMANDS = {
    "list": _Command("List what can be trained, and the environments.", lambda: ListCommand),
    "train": _Command(
        "Train an agent in a new run folder.",
        lambda: overview({name: recipe_summary(name) for name in RECIPES}),
    ),
    "resume": _Command("Go on with an interrupted run, from its last checkpoint.", lambda: ResumeCommand),
    "evaluate": _Command("Evaluate the agent of a run in fresh episodes.", lambda: EvaluateCommand),
    "plot": _Command("Draw learning curves of many seeds.", _plot_command),
    "sweep": _Command("Train over seeds and settings, several runs at once.", _sweep_command),
}


@dataclass(frozen=True)
class _Overview:
    """Stands for every command where only the list of commands is shown."""


def parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments name; tyro prints help and errors, and exits."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if name == "train" and rest and rest[0] in RECIPES:
        return parse_train(rest[0], rest[1:], prog=f"prefrl train {rest[0]}")
    if name in COMMANDS:
        description = COMMANDS["train"].summary if name == "train" else None  # the others have docstrings
        command = COMMANDS[name].load()
        return tyro.cli(command, prog=f"prefrl {name}", description=description, args=rest, config=FLAGS)
    commands = overview({name: command.summary for name, command in COMMANDS.items()})
    about = "Reinforcement learning when the reward is not handed to you as a number."
    return tyro.cli(commands, prog="prefrl", description=about, args=arguments)


ENV_ARGS = "--env-args"


def gather_env_flags(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with ``--env.NAME VALUE`` as entries NAME=VALUE of ``--env-args``.

    Raises:
        ValueError: if a flag has no name or no value.
    """
    rest: list[str] = []
    pairs: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") == "--env-args":  # in any way of writing it, as in two words
            rest += [ENV_ARGS, value] if equals else [ENV_ARGS]
        elif not flag.startswith("--env."):
            rest.append(argument)
        else:
            if not equals and (not waiting or waiting[0].startswith("--")):
                raise ValueError(f"{argument} has no value; give --env.NAME VALUE")
            name = flag.removeprefix("--env.").replace("-", "_")
            pairs.append(f"{name}={value if equals else waiting.pop(0)}")
    if not pairs:
        return rest
    if ENV_ARGS not in rest:
        return [*rest, ENV_ARGS, *pairs]
    place = rest.index(ENV_ARGS) + 1
    return [*rest[:place], *pairs, *rest[place:]]


def present_flag(recipe_class: type[Any], argument: str) -> str:
    """Return an argument of the command line with the name that its flag has now."""
    from prefrl.run.settings import present_name

    flag, equals, value = argument.partition("=")
    if not flag.startswith("--"):
        return argument
    now = present_name(recipe_class, flag.removeprefix("--").replace("-", "_"))
    old = flag.removeprefix("--").replace("-", "_")
    return argument if now == old else f"--{now.replace('_', '-')}{equals}{value}"


def parse_train(recipe: str, arguments: Sequence[str], *, prog: str) -> TrainCommand[Any]:
    """Return the command that trains a recipe with the settings given as flags.

    Arguments of the environment may also be given one by one, as ``--env.NAME VALUE``; flags of older
    versions are taken as what they are called now.
    """
    recipe_class = load_recipe(recipe)
    arguments = [present_flag(recipe_class, argument) for argument in arguments]
    settings: dict[str, Any] = {}
    if hasattr(recipe_class, "with_preset"):  # what flags start from depends on some of them
        settings["default"] = TrainCommand(recipe_class.with_preset(arguments))
    command: TrainCommand[Any] = tyro.cli(
        TrainCommand[recipe_class],  # type: ignore[valid-type]
        prog=prog,
        description=(recipe_class.__doc__ or "").strip(),
        args=gather_env_flags(arguments),
        config=FLAGS,
        **settings,
    )
    return command


def execute(parse: Callable[[], Any]) -> int:
    """Parse and run a command; return the exit status, with errors as one line on stderr."""
    try:
        parse().run()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has had enough, as in `prefrl list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except _refusals() as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _refusals() -> tuple[type[Exception], ...]:
    """Return the errors that say what is wrong with what was asked for; looked up once there is one."""
    import gymnasium as gym

    return ValueError, OSError, ImportError, gym.error.Error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``prefrl``; return its exit status (2: a wrong argument, 1: a failed run, 130: Ctrl-C)."""
    given = sys.argv[1:] if arguments is None else arguments
    return execute(lambda: parse(given))


def train_main(recipe: str) -> int:
    """Run a script that does what ``prefrl train RECIPE`` does; return its exit status."""
    return execute(lambda: parse_train(recipe, sys.argv[1:], prog=Path(sys.argv[0]).name))


if __name__ == "__main__":
    sys.exit(main())
