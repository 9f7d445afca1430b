"""Somebody teaches SAC on Pendulum-v1 through the labelling page: by keys alone, with a hundred answers.

For each seed three processes work at once: `prefrl train preference_rl --teacher human`, `prefrl label
serve`, and a chromium in which a scripted person looks at the clips and says which has the higher true
return. The labels are then exported, and an agent is trained from the file, without anybody. Needs the extra
dev and a chromium, whose path is in PREFRL_CHROMIUM.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefrl.cli import execute
from prefrl.label.store import LabelStore
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study

sys.path.append(str(Path(__file__).parents[1] / "tests" / "shared"))
from labelling_person import ScriptedPerson, chromium
from people import pendulum_return

ENV_ID = "Pendulum-v1"


@dataclass(frozen=True)
class Labelling:
    """People teach SAC on Pendulum through the page."""

    out: Path = Path("runs/labelling")
    """Run folder, new, or one to go on with."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the agents."""

    num_labels: int = 100
    """Questions in all."""

    total_timesteps: int = 6_000
    """Timesteps of each agent."""

    segment_length: int = 50
    """Steps of a clip."""

    wait: bool = True
    """Stop the agent at each session until its questions are answered."""

    speed: int = 3
    """How many steps faster than usual the clips play."""

    train: tuple[str, ...] = (
        "first-labels=40",
        "sessions=5",
        "first-session=500",
        "use-actions=False",
        "agent-args=learning_rate=1e-3 learning_starts=500 gamma=0.98 hidden=[64,64]",
    )
    """More settings of `prefrl train preference_rl`: chosen with other seeds, without a browser."""

    def __post_init__(self) -> None:
        check_positive(self, "num_labels", "total_timesteps", "segment_length")
        for setting in self.train:
            if "=" not in setting:
                raise ValueError(f"train has {setting!r}; each must be NAME=VALUE, as in sessions=5")

    def run(self) -> None:
        """Teach, and write what came out."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return what came out for every seed, and the least of it."""
        found = []
        for seed in self.seeds:
            part = folder.path / f"seed-{seed}"
            part.mkdir(exist_ok=True)
            kept = part / "found.json"
            if not kept.exists():
                kept.write_text(json.dumps(self._taught(part, seed), indent=2) + "\n", "utf-8")
            found.append(json.loads(kept.read_text("utf-8")))
            print(json.dumps(found[-1]))
        return {
            "num_timesteps": self.total_timesteps * len(self.seeds),
            "seeds": dict(zip(map(str, self.seeds), found, strict=True)),
            "least_accuracy": min(one["reward_model_accuracy"] for one in found),
            "least_share_of_the_way": min(one["share_of_the_way"] for one in found),
        }

    def _taught(self, part: Path, seed: int) -> dict[str, Any]:
        """Return what an agent learned from a person at the page, and another one from the file."""
        study, run = part / "study", part / "run"
        start = time.perf_counter()
        waits = ("--wait",) if self.wait else ()
        asked = ("--teacher", "human", "--label-dir", str(study), "--num-labels", str(self.num_labels))
        agent = [*self._agent(run, seed), "--baseline", *asked, *waits]
        with _process(part / "train.txt", "train", *agent) as trainer:
            while not (study / "labels.sqlite3").exists():
                _alive(trainer, part / "train.txt")
                time.sleep(0.1)
            with _process(part / "serve.txt", "label", "serve", str(study), "--port", "0") as server:
                link = _link(part / "serve.txt", server)
                keys = self._answer(link, study, run, trainer)
                if trainer.wait() != 0:
                    _alive(trainer, part / "train.txt")
        minutes = (time.perf_counter() - start) / 60
        file = part / "labels.npz"
        _run(part / "export.txt", "label", "export", str(study), "--out", str(file))
        _run(part / "status.txt", "label", "status", str(study))
        _run(part / "offline.txt", "train", *self._agent(part / "offline", seed), "--teacher", "file",
             "--preferences", str(file))  # fmt: skip
        online, offline = (json.loads((path / "result.json").read_text()) for path in (run, part / "offline"))
        low, high = online["random_return"], online["true_reward_baseline"]
        return {
            "answered": keys,
            "labels_used": online["labels_used"],
            "reward_model_accuracy": online["reward_model_accuracy"],
            "true_return": online["true_return"],
            "random_return": low,
            "true_reward_baseline": high,
            "share_of_the_way": (online["true_return"] - low) / (high - low),
            "minutes": minutes,
            "offline_reward_model_accuracy": offline["reward_model_accuracy"],
            "offline_share_of_the_way": (offline["true_return"] - low) / (high - low),
        }

    def _agent(self, run: Path, seed: int) -> list[str]:
        named = [setting.split("=", 1) for setting in self.train]
        more = [part for name, values in named for part in (f"--{name}", *values.split())]
        return ["preference_rl", "--env-id", ENV_ID, "--agent", "sac", "--seed", str(seed), "--out", str(run),
                "--total-timesteps", str(self.total_timesteps), "--segment-length", str(self.segment_length),
                "--quiet", *more]  # fmt: skip

    def _answer(self, link: str, study: Path, run: Path, trainer: subprocess.Popen[bytes]) -> int:
        """Answer what the page shows until the agent asks no more; return how many answers there were."""
        answers = 0
        with chromium() as browser, closing(browser.new_page()) as page:
            person = ScriptedPerson(page, lambda clips: _better(study, clips))
            person.enter(link, self.speed)
            while answers < self.num_labels and trainer.poll() is None:
                if person.state == "answerable":
                    person.answer()
                    answers += 1
                else:
                    page.wait_for_timeout(50)
            page.screenshot(path=str(run.parent / "page.png"))
        return answers


def _better(study: Path, clips: list[str]) -> str:
    """Return which of two clips on view has the higher true return."""
    with LabelStore.open(study) as store:
        left, right = (pendulum_return(store.segment(_segment(study, clip)).arrays) for clip in clips)
    if np.isclose(left, right, rtol=0.0, atol=1e-6):
        return "tie"
    return "left" if left > right else "right"


def _segment(study: Path, clip: str) -> str:
    """Return the digest of the segment that a clip shows."""
    with closing(sqlite3.connect(study / "labels.sqlite3", timeout=10)) as connection:
        rows = connection.execute(
            "SELECT segment.digest FROM segment JOIN clip ON clip.id = segment.clip WHERE clip.digest = ?",
            (clip,),
        )
        return str(rows.fetchone()[0])


@contextmanager
def _process(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of prefrl beside this one; end it if it still runs."""
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "prefrl.cli", *arguments], stdout=stream,
                                   stderr=subprocess.STDOUT)  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def _run(log: Path, *arguments: str) -> None:
    with _process(log, *arguments) as process:
        if process.wait() != 0:
            _alive(process, log)


def _alive(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raise OSError with the last line of its log for a process that has ended."""
    if process.poll() is not None:
        lines = log.read_text("utf-8", "replace").splitlines()
        raise OSError(f"{log.stem} ended with {process.returncode}: {lines[-1] if lines else 'no word'}")


def _link(log: Path, server: subprocess.Popen[bytes]) -> str:
    """Return the link that the server printed."""
    while True:
        for line in log.read_text("utf-8").splitlines():
            if "token=" in line:
                return line.split(": ", 1)[1]
        _alive(server, log)
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Labelling, description=__doc__)))
