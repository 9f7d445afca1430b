"""``prefrl label make``: a study of questions about clips, for people to answer."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from prefrl.config import Count, Natural, Settings
from prefrl.envs.arguments import make_scalar_env, parse_env_args
from prefrl.envs.factors import factors_of
from prefrl.label.clips import make_clip, render_waiting
from prefrl.label.drawing import NotDrawn, Painter
from prefrl.label.making import factor_question, make_questions
from prefrl.label.notes import note_rendering_error
from prefrl.label.records import MOST_ITEMS, Kind, NewQuestion, StoredSegment, StudySettings
from prefrl.label.store import LabelStore
from prefrl.label.store.database import FILE, check_new

from .sources import Source, Wanted, of_environment, of_file, of_run, of_study

QUESTIONS: dict[str, str] = {
    "pair": "Which of the two does better?",
    "ranking": "Put the clips in order, the best first.",
    "rating": "How well is it done?",
    "factors": "What matters more? Put it in order, the most important first.",
}
"""What is asked where nothing else is given."""


@dataclass(frozen=True)
class MakeCommand(Settings):
    """Make a study for people to answer: questions about clips of a run, an environment or a file."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of the study, new or empty."""

    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN|FILE|DIR")] = None
    """What clips are of: a run, whose agent acts; a file of transitions or comparisons whose observations are
    pictures; the folder of another study."""

    env_id: str | None = None
    """An environment in which uniform actions are taken, instead of --from; of factors, whose they are."""

    env_args: tuple[str, ...] = ()
    """Arguments of that environment, each NAME=VALUE."""

    kind: Literal["pair", "ranking", "rating", "factors"] = "pair"
    """Which of two clips, an order of several, a number for one, or an order of the environment's factors."""

    num_pairs: Annotated[Count, tyro.conf.arg(aliases=("--num-questions",))] = 100
    """Questions; the factors of an environment make one."""

    segment_length: Count = 50
    """Steps of a clip."""

    steps: Count = 5000
    """Steps that the agent or the uniform actions take, to cut clips from."""

    every_checkpoint: bool = False
    """Take clips from the agent at every checkpoint that was kept, not the last alone."""

    items: Count = 4
    """Clips of a ranking."""

    question: str = ""
    """What people are asked (default: a sentence for the kind)."""

    instructions: str = ""
    """What people read before they begin."""

    annotators_per_question: Count = 1
    """How many people answer each question."""

    repeat_every: Natural = 0
    """After so many answers of a person one question comes again with its sides swapped; 0: never."""

    checks: Natural = 0
    """Pairs besides whose true returns are far apart, to see who looks."""

    practice: Natural = 0
    """Questions besides that each person answers first; their answers never count."""

    ratings: int = 5
    """Steps of the scale of ratings."""

    watch: Literal["once", "any"] = "once"
    """Whether answers are taken once all clips have played to their end, or at any time."""

    fps: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the environment's)")
    ] = None
    """Pictures per second."""

    size: int = 320
    """Most width and height of clips in pixels, even."""

    codec: Literal["vp9", "h264"] = "vp9"
    """How clips are encoded: VP9 in WebM, or H.264 in MP4."""

    seed: Natural = 0
    """Of episodes and draws."""

    lazy: bool = False
    """Leave the clips to `prefrl label serve`, which draws them while people answer."""

    def check(self) -> None:
        """See :meth:`prefrl.config.Settings.check`."""
        parse_env_args(self.env_args)
        if (self.source is None) == (self.env_id is None):
            raise ValueError("give either --from RUN|FILE|DIR or --env-id ID: what clips are of")
        if self.env_args and self.env_id is None:
            raise ValueError(
                f"env_args is {list(self.env_args)}; they are for --env-id, and a source has its own"
            )
        if self.size % 2:
            raise ValueError(f"size is {self.size}; it must be even, as video needs it")
        if self.kind == "ranking" and not 2 <= self.items <= MOST_ITEMS:
            raise ValueError(f"items is {self.items}; a ranking has 2 to {MOST_ITEMS} clips")
        if self.kind != "pair" and self.checks:
            raise ValueError(f"checks is {self.checks}; only pairs can be obvious, and kind is {self.kind!r}")
        if self.kind == "factors":
            self._check_factors()
        self._study(None, (), None)  # what it refuses is refused before anything acts

    def run(self) -> None:
        """Make the study, and its clips unless they are left for later; print its folder in the last line."""
        check_new(self.folder)  # before anything acts
        segments, questions, study = self._factors() if self.kind == "factors" else self._clips()
        with LabelStore.create(self.folder, study, segments, questions) as store:
            if segments and not self.lazy:
                _render(store, len(segments))
        count = f"{len(questions)} question{'s' * (len(questions) > 1)}"
        Console(stderr=True).print(
            f"{count}; answer them by `prefrl label serve {self.folder}`",
            markup=False,
            soft_wrap=True,
        )
        print(self.folder)

    def _check_factors(self) -> None:
        if self.env_id is None:
            raise ValueError("kind is 'factors'; give the environment whose factors they are: --env-id ID")
        for name in ("practice", "repeat_every"):
            if getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}; the order of factors is one question")

    def _factors(self) -> tuple[list[StoredSegment], list[NewQuestion], StudySettings]:
        """Return the question about the factors of an environment."""
        env = make_scalar_env(str(self.env_id), self.env_args)
        names = factors_of(env).names
        env.close()
        return [], [factor_question(names)], self._study(self.env_id, self.env_args, None)

    def _clips(self) -> tuple[list[StoredSegment], list[NewQuestion], StudySettings]:
        """Return the segments that are needed, questions about them, and the study; one clip is tried."""
        kind: Kind = "pair" if self.kind == "factors" else self.kind
        source = self._source({"pair": 2, "ranking": self.items, "rating": 1}[kind])
        questions = make_questions(
            source.pool, kind, self.num_pairs, items=self.items, practice=self.practice, checks=self.checks,
            seed=self.seed,
        )  # fmt: skip
        study = self._study(source.environment, source.env_args, source.fps)
        asked = {item.segment for question in questions for item in question.items}
        needed = [segment for segment in source.pool.segments if segment.digest in asked]
        with Painter(study) as painter:
            if self.lazy:
                painter.frames(needed[0])
            else:
                make_clip(painter, needed[0])
        return needed, questions, study

    def _source(self, size: int) -> Source:
        # Obvious pairs are the best and the worst of many.
        count = max(2, size * (self.num_pairs + self.practice) + 4 * self.checks)
        wanted = Wanted(count, self.segment_length, self.steps, self.seed)
        if self.source is None:
            return of_environment(str(self.env_id), self.env_args, wanted)
        if not self.source.exists():
            raise FileNotFoundError(f"there is no {self.source}; --from takes a run, a file or another study")
        if not self.source.is_dir():
            return of_file(self.source, wanted)
        if (self.source / FILE).exists():
            return of_study(self.source)
        return of_run(self.source, wanted, every_checkpoint=self.every_checkpoint)

    def _study(self, environment: str | None, env_args: tuple[str, ...], fps: int | None) -> StudySettings:
        found = StudySettings(
            question=self.question or QUESTIONS[self.kind],
            kind="ranking" if self.kind == "factors" else self.kind,
            environment=environment, env_args=env_args, width=self.size, height=self.size, codec=self.codec,
            instructions=self.instructions, annotators_per_question=self.annotators_per_question,
            repeat_every=self.repeat_every, watch=self.watch, ratings=self.ratings, practice=self.practice,
        )  # fmt: skip
        given = self.fps if self.fps is not None else fps
        return found if given is None else replace(found, fps=given)


def _render(store: LabelStore, count: int) -> None:
    """Make all clips, with a bar where stderr is a terminal; the study is there whatever comes."""
    try:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("clips", total=count)
            render_waiting(store, told=lambda made: progress.update(bar, completed=made))
    except NotDrawn as error:
        note_rendering_error(store.folder, str(error))
        told = f"the study is in {store.folder}, but not all of its questions can be asked: {error}"
        raise NotDrawn(told) from error
    except (KeyboardInterrupt, OSError):
        hint = f"`prefrl label serve {store.folder}` makes the clips that are missing"
        print(f"the study is in {store.folder}; {hint}", file=sys.stderr)
        raise
