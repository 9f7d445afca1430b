"""How much memory a run takes beside Stable-Baselines3's, what a checkpoint adds, and how long a start takes.

- run: the peak of a short run of SAC with a large replay, ours and SB3's in turn
- checkpoint: the peak of a process that writes a checkpoint of a full replay above what it had before, and of
  one that goes on from it above what it has afterwards, both in units of the replay
- start: the CPU time of ``prefrl train dqn --total-timesteps 100``, with all that it starts

Everything is measured in processes of its own, on one thread; median, minimum and maximum are reported. The
peak is what Linux says of a process (VmHWM): pages that were written, not those that were only asked for.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prefrl.cli import execute
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread

PEAK = """
import sys
from pathlib import Path
import gymnasium as gym, torch
torch.set_num_threads(1)
def mib(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024
"""

OURS = """
from prefrl import SAC, SACConfig
env_id, size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
agent = SAC(gym.make(env_id), SACConfig(buffer_size=size, learning_starts=steps // 2), device="cpu", seed=0)
agent.learn(steps)
print(mib("VmHWM"))
"""

THEIRS = """
import stable_baselines3 as sb3
env_id, size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
env = gym.make(env_id)
sb3.SAC("MlpPolicy", env, buffer_size=size, learning_starts=steps // 2, device="cpu", seed=0).learn(steps)
print(mib("VmHWM"))
"""

CHECKPOINT = """
from prefrl import SAC, SACConfig
from prefrl.data import Transitions
from prefrl.run.checkpoint import load_checkpoint, save_checkpoint
env_id, size, rows, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
agent = SAC(gym.make_vec(env_id, rows), SACConfig(buffer_size=size), device="cpu", seed=0)
def warm_up():
    save_checkpoint(path + ".small", {"tensor": torch.ones(3)})
    load_checkpoint(path + ".small")
    return mib("VmHWM")
def replay_mib():
    return sum(value.nbytes for value in agent.replay.storage.values()) / 2**20
"""

WRITE = """
space, never = agent.observation_space, torch.zeros(rows, dtype=torch.bool)
for _ in range(size // rows):
    obs = torch.rand(rows, *space.shape).to(getattr(torch, str(space.dtype)))
    actions = torch.rand(rows, *agent.action_space.shape)
    agent.observe(Transitions(obs, actions, torch.rand(rows), obs, never, never, ~never))
before = warm_up()
save_checkpoint(path, {"agent": agent.state_dict()})
print((mib("VmHWM") - before) / replay_mib())
"""

READ = """
before = warm_up()
agent.load_state_dict(load_checkpoint(path)["agent"])
print((mib("VmHWM") - before) / replay_mib() - 1.0)
"""


@dataclass(frozen=True)
class Bench:
    """How much memory a run and its checkpoints take, and how long a start takes."""

    out: Path = Path("runs/bench_memory")
    """Run folder, new or empty."""

    repeats: int = 5
    """Repetitions of each measurement."""

    env_id: str = "HalfCheetah-v5"
    """Environment with Box actions."""

    buffer_size: int = 1_000_000
    """Transitions that the replay has room for."""

    timesteps: int = 200
    """Timesteps of the runs, of which half learn."""

    full_size: int = 500_000
    """Transitions of the full replay that is written and read."""

    rows: int = 100
    """Environments that fill it."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "buffer_size", "timesteps", "full_size", "rows")
        if not Path("/proc/self/status").exists():
            raise OSError("memory is measured on Linux only, in /proc/self/status")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima."""
        run = (self.env_id, self.buffer_size, self.timesteps)
        pairs = [(probe(PEAK + OURS, *run), probe(PEAK + THEIRS, *run)) for _ in range(self.repeats)]
        checkpoint = folder.path / "full.pt"
        full = (self.env_id, self.full_size, self.rows, checkpoint)
        written = [probe(PEAK + CHECKPOINT + WRITE, *full) for _ in range(self.repeats)]
        read = [probe(PEAK + CHECKPOINT + READ, *full) for _ in range(self.repeats)]
        for path in (checkpoint, Path(f"{checkpoint}.small")):
            path.unlink()
        result = {
            "peak_mib": spread([ours for ours, _ in pairs]),
            "sb3_peak_mib": spread([theirs for _, theirs in pairs]),
            "peak_over_sb3": spread([ours / theirs for ours, theirs in pairs]),
            "copies_while_written": spread(written),
            "copies_while_read": spread(read),
            "start_cpu_seconds": spread([start(folder.path / f"start{n}") for n in range(self.repeats)]),
        }
        show(result)
        return result


def probe(program: str, *arguments: object) -> float:
    """Return the number that a program prints last."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a program of the benchmark failed: {done.stderr[-2_000:]}")
    return float(done.stdout.split()[-1])


def start(out: Path) -> float:
    """Return the CPU seconds of a short run from the command line, with those of all processes it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        sys.executable,
        "-m",
        "prefrl.cli",
        "train",
        "dqn",
        "--total-timesteps",
        "100",
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("what", "median", "min", "max")
    for name, numbers in result.items():
        table.add_row(name, *(f"{numbers[key]:.3g}" for key in ("median", "min", "max")))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
