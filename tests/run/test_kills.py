"""Every recipe, killed and ended again and again, comes out as the uninterrupted run."""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import unpack
from old_runs import ARCHIVE, CASES, NEWER, begin, tensors

from prefrl.agents.base import read_agent_file
from prefrl.run.launch import resume

KILLS, ENDS = 100, 20
"""How often each recipe is killed (SIGKILL), and how often asked to end (SIGTERM)."""

QUICK = ("oreo", "b_coder", "dynamic_choice", "search_preferences", "grouped_policy_gradient")
"""Recipes that are killed once in the fast suite, too."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    unpack(ARCHIVE, folder)
    return folder


def resumed_in_a_child(run: Path) -> int:
    """Go on with a run in a child of this process, which has everything loaded already; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        with Path(os.devnull).open("w") as nowhere:
            sys.stdout = sys.stderr = nowhere
            resume(run, quiet=True, patience=10.0)
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException:
        (run / "traceback.txt").write_text(traceback.format_exc(), "utf-8")
        os._exit(1)


def untimed(result: Any) -> Any:
    """Return a result without what was measured in seconds, also of each of several learners."""
    if isinstance(result, dict):
        return {name: untimed(value) for name, value in result.items() if "second" not in name}
    return [untimed(value) for value in result] if isinstance(result, list) else result


def outcome(run: Path) -> tuple[dict[str, object], dict[str, object]]:
    result = json.loads((run / "result.json").read_text("utf-8"))
    return untimed(result), dict(tensors(read_agent_file(run / "agent.pt")[1]))


def assert_same_outcome(run: Path, expected: tuple[dict[str, object], dict[str, object]]) -> None:
    plain, found = outcome(run)
    assert plain == expected[0]
    assert found.keys() == expected[1].keys()
    for place, value in expected[1].items():
        assert value.equal(found[place]), place  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("case", QUICK)
def test_a_run_that_is_killed_at_a_checkpoint_comes_out_the_same(case: str, tmp_path: Path) -> None:
    whole, cut = (begin(case, tmp_path, tmp_path / name, checkpoints=10) for name in ("whole", "cut"))
    resume(whole, quiet=True)
    child = resumed_in_a_child(cut)
    while not (cut / "checkpoint.previous.pt").exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(1e-3)
    assert not (cut / "result.json").exists(), "it was faster"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    resume(cut, quiet=True)
    assert_same_outcome(cut, outcome(whole))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.parametrize("case", [*CASES, *NEWER])
def test_a_recipe_that_is_killed_and_ended_comes_out_the_same(
    case: str, configs: Path, tmp_path: Path
) -> None:
    start = time.perf_counter()
    whole = begin(case, configs, tmp_path / "whole", checkpoints=40)  # some between two kills
    resume(whole, quiet=True)
    took = time.perf_counter() - start
    expected = outcome(whole)
    delays = np.random.default_rng(len(case))
    signals = [signal.SIGKILL] * KILLS + [signal.SIGTERM] * ENDS
    delays.shuffle(signals)
    runs = 0
    while signals:
        run = begin(case, configs, tmp_path / f"run{runs}", checkpoints=40)
        runs += 1
        while not (run / "result.json").exists():
            child = resumed_in_a_child(run)
            if signals:
                time.sleep(float(delays.uniform(0.02, max(0.3, 0.4 * took))))
                if os.waitpid(child, os.WNOHANG) == (0, 0):
                    os.kill(child, signals.pop())
                    os.waitpid(child, 0)
            else:
                os.waitpid(child, 0)
            assert not (run / "traceback.txt").exists(), (run / "traceback.txt").read_text("utf-8")
        assert_same_outcome(run, expected)
        shutil.rmtree(run)
