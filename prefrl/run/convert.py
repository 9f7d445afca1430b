"""``prefrl convert``: a preference file out of published human comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prefrl.data import load_human_archive, save_preferences
from prefrl.data.files.human_archives import Crossing


@dataclass(frozen=True)
class ConvertCommand:
    """Make a preference file of published human comparisons, with clips out of your own D4RL file."""

    labels: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder with label_human, indices_num<K> and indices_2_num<K>, or with human_label_<TASK>.pkl,
    indices_1_<TASK>.pkl and indices_2_<TASK>.pkl."""

    d4rl: Annotated[Path, tyro.conf.arg(metavar="FILE.hdf5")]
    """D4RL's file of the same task."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npz")]
    """The preference file to write."""

    length: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 100)")] = None
    """Steps of a clip, where the names of the files do not say."""

    max_episode_steps: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: not needed)")
    ] = None
    """The environment's limit of steps, for D4RL files without timeouts: 280 in kitchens."""

    crossing: Crossing = "refuse"
    """What to do with comparisons of clips that cross the end of an episode: they may be left out if they are
    at most 1 % of all."""

    def run(self) -> None:
        """Write the file, print what is in it, and its path in the last line."""
        if self.out.suffix != ".npz":
            raise ValueError(f"out is {self.out}; its name must end in .npz")
        if not self.out.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {self.out.parent} for out")
        preferences = load_human_archive(
            self.labels,
            self.d4rl,
            length=self.length,
            max_episode_steps=self.max_episode_steps,
            crossing=self.crossing,
        )
        save_preferences(self.out, preferences)
        table = Table(show_header=False)
        for name, count in (("comparisons", len(preferences)),
                            ("first preferred", int((preferences.labels == 0.0).sum())),
                            ("second preferred", int((preferences.labels == 1.0).sum())),
                            *preferences.metadata.items()):  # fmt: skip
            table.add_row(name.replace("_", " "), escape(str(count)))
        Console().print(table)
        print(self.out)
