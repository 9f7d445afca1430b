"""The steps of docs/contributing.md, done as they stand there, in a copy of the library."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLACES = ("agents/value_based/last_reward.py", "prefrl/run/recipes/value_based/last_reward.py")
"""Where the page says that its two files lie, the agent and its recipe."""


@pytest.fixture(scope="module")
def tree(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library with the page's agent in it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("prefrl", "envs", "agents"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(project_root / name, tree / name, symlinks=True, ignore=ignore)
    page = (project_root / "docs" / "contributing.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert all(f"`{place}`" in page for place in PLACES)
    for place, block in zip(PLACES, blocks, strict=True):
        (tree / place).write_text(block)
    (line,) = re.findall(r"`(\"last_reward\": \"[^\"]+\")`", page)
    registry = tree / "prefrl" / "run" / "recipes" / "__init__.py"
    registry.write_text(registry.read_text("utf-8").replace("RECIPES = {\n", f"RECIPES = {{\n    {line},\n"))
    return tree


def prefrl(tree: Path, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "120"}
    command = [sys.executable, "-m", "prefrl.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_recipe_is_short(tree: Path) -> None:
    assert len((tree / PLACES[1]).read_text("utf-8").splitlines()) <= 40


def test_the_new_agent_trains_from_the_command_line(tree: Path) -> None:
    run = tree / "run"
    settings = ("--total-timesteps", 200, "--eval-episodes", 2, "--epsilon", 0.2, "--device", "cpu")
    prefrl(tree, "train", "last_reward", *settings, "--quiet", "--out", run)
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert result["num_timesteps"] == 200
    assert len(result["eval_returns"]) == 10
    assert json.loads((run / "config.json").read_text("utf-8"))["config"]["agent"] == {"epsilon": 0.2}
