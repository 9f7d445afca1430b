"""The command ``prefrl``: list, train, resume, evaluate, plot, report, video, export, sweep, tune, ...

A command is a dataclass whose fields tyro turns into flags, and whose ``run`` does the work. Only the modules
that a command needs are imported.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from prefrl.audit import parse_audit
from prefrl.config import unknown
from prefrl.run import flags
from prefrl.run.recipes import RECIPES, STACKED, load_recipe, recipe_name

if TYPE_CHECKING:
    import gymnasium as gym

RunArgument = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class ListCommand:
    """List what can be trained, and the environments; with ENV_ID, what is known of one of them."""

    env_id: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[ENV_ID]")] = None
    """An environment, whose spaces, limit and description are shown."""

    def run(self) -> None:
        """Print two tables, or a page."""
        if self.env_id is not None:
            print_environment(self.env_id)
            return
        from rich.console import Console
        from rich.table import Table

        agents = Table("prefrl train", "what it trains", title="Agents", title_justify="left")
        for name in RECIPES:
            agents.add_row(name, recipe_summary(name))
        environments = Table("id", "what it is", title="Environments", title_justify="left")
        for env_id, text in environment_rows():
            environments.add_row(env_id, text)
        for table in (agents, environments):
            table.columns[0].no_wrap = True
            Console().print(table)
        print("prefrl train NAME --help shows settings, prefrl list ENV_ID spaces and rewards")


def environment_rows() -> Iterator[tuple[str, str]]:
    """Yield id and a line of text for every environment of prefrl that is registered."""
    import gymnasium as gym

    for spec in gym.registry.values():
        if spec.namespace == "prefrl":
            yield spec.id, summary(described(spec))


def described(spec: Any) -> Any:
    """Return what has the description of a registered environment: its dynamics, or what makes it."""
    from gymnasium.envs.registration import load_env_creator

    place = spec.kwargs.get("dynamics", spec.entry_point)
    return load_env_creator(place) if isinstance(place, str) else place


def print_environment(env_id: str) -> None:
    """Print spaces, limit and description of an environment; gym.error.Error where there is none."""
    import gymnasium as gym

    import prefrl.envs  # noqa: F401 (registers the ids)

    env = gym.make(env_id)
    spec: Any = env.spec
    observations, actions = env.observation_space, env.action_space
    limit = spec.max_episode_steps
    print(spec.id)
    print(f"  observations  {space_text(observations)}")
    print(f"  actions       {space_text(actions)}")
    print(f"  step limit    {limit or 'none: episodes end by themselves, or never'}\n")
    print(inspect.getdoc(described(spec)) or "(no description)")


@dataclass(frozen=True)
class TrainCommand:
    """Train an agent in a new run folder."""

    recipe: Any
    """What to train."""

    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/RECIPE-SEED-TIME)")
    ] = None
    """Run folder, new or empty."""

    progress_bar: bool = True
    """Show a progress bar, where stderr is a terminal."""

    quiet: bool = False
    """Print no tables, only the result's path."""

    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Settings where no flag gives them: best.json of `prefrl tune`, or config.json of a run."""

    def run(self) -> None:
        """Train, print the outcome, and the path of the result in the last line."""
        from prefrl.run.launch import train

        bar = self.progress_bar and sys.stderr.isatty()
        train(recipe_name(self.recipe), self.recipe, self.out, progress_bar=bar, quiet=self.quiet)


@dataclass(frozen=True)
class ResumeCommand:
    """Go on with an interrupted run, from its last checkpoint."""

    folder: RunArgument
    """Run folder."""

    progress_bar: bool = True
    """Show a progress bar, where stderr is a terminal."""

    quiet: bool = False
    """Print no tables, only the result's path."""

    def run(self) -> None:
        """Finish the run, print the outcome, and the path of the result in the last line."""
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

    max_steps: int = 10_000
    """Longest episode: one that is not over by then is cut with a warning, since it may never end."""

    def run(self) -> None:
        """Evaluate, print what was found, and the path of the evaluation in the last line."""
        from prefrl.run.launch import evaluate_run

        evaluate_run(self.folder, episodes=self.episodes, seed=self.seed, max_steps=self.max_steps)


def space_text(space: gym.Space[Any]) -> str:
    """Return a space, a Dict with a line for each of its names."""
    from gymnasium.spaces import Dict

    if not isinstance(space, Dict):
        return " ".join(str(space).split())
    return ("\n" + 16 * " ").join(f"{name}: {space_text(part)}" for name, part in space.items())


def summary(thing: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n", 1)[0]


def recipe_summary(name: str) -> str:
    """Return the first line of a recipe's docstring."""
    return flags.class_summary(RECIPES[name])


def overview(summaries: dict[str, str]) -> Any:
    """Return a type for tyro that shows subcommands by name, and does nothing."""
    return reduce(or_, (Annotated[_Overview, tyro.conf.subcommand(name, description=text)]
                        for name, text in summaries.items()))  # fmt: skip


class _Command(NamedTuple):
    summary: str
    place: str = "prefrl.cli:_Overview"
    """Of the type that tyro parses, "module:Class"."""

    def load(self) -> Any:
        """Return that type."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


LABEL_COMMANDS = {
    "make": "prefrl.run.study.labelling.make:MakeCommand",
    "serve": "prefrl.label.serve:ServeCommand",
    "status": "prefrl.label.status:StatusCommand",
    "export": "prefrl.label.export:ExportCommand",
}
"""What ``prefrl label`` can do: the class of each command, a dataclass of flags with a ``run``."""

COMMANDS = {
    "list": _Command("List what can be trained, and the environments.", "prefrl.cli:ListCommand"),
    "train": _Command("Train an agent in a new run folder."),
    "resume": _Command(
        "Go on with an interrupted run, from its last checkpoint.", "prefrl.cli:ResumeCommand"
    ),
    "evaluate": _Command("Evaluate the agent of a run in fresh episodes.", "prefrl.cli:EvaluateCommand"),
    "plot": _Command("Draw learning curves of many seeds.", "prefrl.run.plot:PlotCommand"),
    "report": _Command(
        "Put runs on one page: settings, curves, results.", "prefrl.share.report:ReportCommand"
    ),
    "video": _Command("Film episodes of a run's agent.", "prefrl.share.video:VideoCommand"),
    "export": _Command(
        "Write a run's policy as a program that needs no prefrl.", "prefrl.share.export:ExportCommand"
    ),
    "sweep": _Command(
        "Train over seeds and settings, several runs at once.", "prefrl.run.sweep.sweep:SweepCommand"
    ),
    "tune": _Command("Look for good settings of a recipe.", "prefrl.tune.command:TuneCommand"),
    "audit": _Command("Look at what was answered or trained, and say what it shows."),
    "label": _Command("Let people answer in a browser, and use what they answered."),
    "convert": _Command(
        "Make a preference file of published human comparisons.", "prefrl.run.convert:ConvertCommand"
    ),
}


@dataclass(frozen=True)
class _Overview:
    """Stands for every command where only the list of commands is shown."""


def parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments name; tyro prints help and errors, and exits.

    Raises:
        ValueError: if there is no such command, or recipe.
    """
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if name == "train" and rest and not rest[0].startswith("-"):
        return parse_train(rest[0], rest[1:], prog=f"prefrl train {rest[0]}")
    if name == "audit":
        return parse_audit(rest)
    if name == "label":
        return flags.parse_kind("label", "step of labelling", LABEL_COMMANDS, rest, COMMANDS[name].summary)
    if name in COMMANDS:
        if name == "train":
            recipes = overview({recipe: recipe_summary(recipe) for recipe in RECIPES})
            return flags.parse(recipes, rest, prog="prefrl train", description=COMMANDS[name].summary)
        return flags.parse(COMMANDS[name].load(), rest, prog=f"prefrl {name}", description=None)
    if name and not name.startswith("-"):
        raise ValueError(unknown("command", name, COMMANDS))
    commands = overview({name: command.summary for name, command in COMMANDS.items()})
    about = "Reinforcement learning when the reward is not handed to you as a number."
    return flags.parse(commands, arguments, prog="prefrl", description=about)


def present_flag(recipe_class: type[Any], argument: str) -> str:
    """Return an argument of the command line with the name that its flag has now."""
    from prefrl.run.settings import present_name

    flag, equals, value = argument.partition("=")
    if not flag.startswith("--"):
        return argument
    now = present_name(recipe_class, flag.removeprefix("--").replace("-", "_"))
    old = flag.removeprefix("--").replace("-", "_")
    return argument if now == old else f"--{now.replace('_', '-')}{equals}{value}"


LEARNERS_FLAGS = ("--num-learners", "--num_learners")


def parse_train(recipe: str, arguments: Sequence[str], *, prog: str) -> TrainCommand:
    """Return the command that trains a recipe with the settings given as flags.

    Arguments of the environment may also be given one by one, as ``--env.NAME VALUE``; flags of older
    versions are taken as what they are called now. ``--config FILE`` names a file whose settings are the
    defaults of those that no flag gives.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such recipe, or it refuses a setting.
    """
    kind = load_recipe(recipe)
    arguments, file = flags.taken_out(arguments, "--config")
    if recipe not in STACKED and any(flag.partition("=")[0] in LEARNERS_FLAGS for flag in arguments):
        raise ValueError(f"{recipe} trains one learner; --num-learners is for {', '.join(STACKED)}, and "
                         f"`prefrl sweep {recipe} --seeds 0 1 2` trains several seeds")  # fmt: skip
    arguments = [present_flag(kind, argument) for argument in arguments]
    # What flags start from depends, in some recipes, on some of them.
    start = kind.with_preset(arguments) if hasattr(kind, "with_preset") else kind()
    if file is not None:
        from prefrl.run.settings import with_settings

        start = with_settings(recipe, start, Path(file))
    command = TrainCommand(start)
    known = [*flags.settings_flags(command, ("out", "progress_bar", "quiet", "config"), "run"),
             *flags.recipe_flags(start)]  # fmt: skip
    arguments = flags.plain_switches(flags.gather_env_flags(arguments), known)
    about = vars(kind)["__doc__"].text.strip()  # without the settings: flags say what they are
    given = flags.parse(flags.form(known), arguments, prog=prog, description=about)
    own = {name: getattr(given.run, name) for name in ("out", "progress_bar", "quiet")}
    return TrainCommand(flags.filled(start, flags.recipe_flags(start), given), **own)


def execute(parse: Callable[[], Any]) -> int:
    """Parse and run a command; return the exit status, with errors and warnings as one line on stderr."""
    as_lines, warnings.formatwarning = warnings.formatwarning, _as_line
    command = None
    try:
        command = parse()
        command.run()
    except KeyboardInterrupt as stop:
        return 128 + int(getattr(stop, "signum", signal.SIGINT))
    except BrokenPipeError:  # the reader of our output has had enough, as in `prefrl list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        status = _status(error)
        if status is None:  # it is our own mistake, and the traceback says where
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        if _out_of_range(error) and (asked := _enormous_settings(command)):
            status, text = 2, f"with {asked}: {text}"
        print(f"error: {text}", file=sys.stderr)
        return status
    finally:
        warnings.formatwarning = as_lines
    return 0


def _as_line(message: Warning | str, *where: Any, **more: Any) -> str:
    return f"warning: {message}\n"


def _enormous_settings(command: Any) -> str:
    """Return those settings of a command that may be why memory, or the range of a number, was exceeded."""
    from prefrl.config import to_json
    from prefrl.run.settings import enormous

    return ", ".join(enormous(to_json(command.recipe))) if hasattr(command, "recipe") else ""


def _status(error: Exception) -> int | None:
    """Return the exit status: 2 for what was asked for, 1 for a run that failed; None for neither."""
    import gymnasium as gym

    if isinstance(error, (ValueError, OSError, ImportError, gym.error.Error)):
        return 2
    if isinstance(error, (FloatingPointError, OverflowError, MemoryError)):
        return 1
    if isinstance(error, RuntimeError):
        from prefrl.run.loop import RunFailedError

        return 1 if isinstance(error, RunFailedError) or _out_of_range(error) else None
    return None


def _out_of_range(error: Exception) -> bool:
    """Whether memory, or the range of a number, was exceeded; torch has no classes of its own for either."""
    if isinstance(error, RuntimeError):
        return "alloc" in str(error) or "overflow" in str(error)
    return isinstance(error, (OverflowError, MemoryError))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``prefrl``; return its exit status (2: a wrong argument, 1: a failed run, 130: Ctrl-C)."""
    given = sys.argv[1:] if arguments is None else arguments
    return execute(lambda: parse(given))


def train_main(recipe: str) -> int:
    """Run a script that does what ``prefrl train RECIPE`` does; return its exit status."""
    return execute(lambda: parse_train(recipe, sys.argv[1:], prog=Path(sys.argv[0]).name))


if __name__ == "__main__":
    sys.exit(main())
