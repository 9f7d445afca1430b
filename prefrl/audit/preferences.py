"""``prefrl audit preferences``: can one reward explain these comparisons?"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.progress import Progress

from prefrl.config import to_json
from prefrl.run.folder import RunFolder

from .answers import Answers, KnownBy, read_answers
from .coherence import Audit, AuditSettings, audit_preferences
from .figures import draw_audit, show_audit


@dataclass(frozen=True, kw_only=True)
class AuditPreferences(AuditSettings):
    """Can one reward explain these comparisons? Held-out models, circles, agreement, groups and noise."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Comparisons: a table first,second,label[,user][,weight] (.csv), a preference file (.npz), or the
    published human comparisons (CONDITION_segment_pairs.npy beside its other two files)."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Run folder, new or empty."""

    known_by: KnownBy = "auto"
    """What models know of a segment: a number for each ("table"), or its features."""

    progress_bar: bool = True
    """Show a progress bar, where stderr is a terminal."""

    def run(self) -> None:
        """Look at the file, print a table, and the path of the result in the last line."""
        torch.set_num_threads(1)  # many small fits
        settings = {name: value for name, value in to_json(self).items() if name != "progress_bar"}
        answers = read_answers(self.file, self.known_by)
        folder = RunFolder.create(self.out, {"recipe": "audit preferences", "config": settings}, quiet=True)
        try:
            audit = self._audit(answers)
            draw_audit(audit, folder.path / "audit.png")
            folder.write_result(audit.result)
        except BaseException:  # also Ctrl-C
            folder.discard_if_unused()
            raise
        show_audit(audit)
        print(folder.result_path)

    def _audit(self, answers: Answers) -> Audit:
        """Return what is found, with a progress bar."""
        settings = AuditSettings(self.folds, self.blocks, self.prototypes, self.draws, self.seed)
        console = Console(stderr=True)
        bar = Progress(
            console=console, disable=not (self.progress_bar and sys.stderr.isatty()), transient=True
        )
        with bar:
            task = bar.add_task("fits", total=1.0)
            return audit_preferences(answers, settings, lambda share: bar.update(task, completed=share))
