"""The arrows between the packages, and how much an import costs."""

import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

LINT_IMPORTS = [
    sys.executable,
    "-c",
    "from importlinter.cli import lint_imports_command as run; run()",
    "--no-cache",
    "--no-logo",
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(LINT_IMPORTS, cwd=folder, capture_output=True, text=True, timeout=120)


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def tree(project_root: Path, tmp_path: Path) -> Path:
    """A copy of the packages that a test may spoil."""
    for name in ("prefrl", "envs", "agents"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(project_root / name, tmp_path / name, symlinks=True, ignore=ignore)
    shutil.copy(project_root / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_are_kept(project_root: Path) -> None:
    result = lint_imports(project_root)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "statement", "contract"),
    [
        ("prefrl/functional/offender.py", "import prefrl.nn", "imports point one way"),
        ("prefrl/nn/offender.py", "from prefrl.data import pairs", "imports point one way"),
        ("prefrl/data/offender.py", "import prefrl.cli", "imports point one way"),
        ("agents/offender.py", "def f():\n    import prefrl.run.loop", "imports point one way"),
        ("envs/offender.py", "import prefrl.agents", "imports point one way"),
        ("prefrl/offender.py", "x = 1", "imports point one way"),
        ("envs/offender.py", "import torch", "envs need only"),
        ("prefrl/functional/offender.py", "import gymnasium", "knows tensors only"),
        ("prefrl/nn/offender.py", "from stable_baselines3.common import utils", "knows tensors only"),
        ("agents/offender.py", "import matplotlib.pyplot", "nothing below run"),
        ("prefrl/preferences/offender.py", "import argparse", "nothing below run"),
        ("prefrl/label/store/offender.py", "def f():\n    import av", "without a server or videos"),
    ],
)
def test_an_offending_import_breaks_its_contract(
    tree: Path, file: str, statement: str, contract: str
) -> None:
    (tree / file).write_text(f"{statement}\n")
    result = lint_imports(tree)
    assert result.returncode != 0
    broken = [line for line in result.stdout.splitlines() if " BROKEN" in line]
    assert [line for line in broken if contract in line], result.stdout + result.stderr
    assert "offender" in result.stdout


def test_the_graph_sees_every_module(project_root: Path) -> None:
    """The contracts also hold for what lies behind the links prefrl/envs and prefrl/agents."""
    graph = grimp.build_graph("prefrl", cache_dir=None)
    for name, folder in (("prefrl.envs", "envs"), ("prefrl.agents", "agents"), ("prefrl.run", "prefrl/run")):
        files = list((project_root / folder).rglob("*.py"))
        assert len({name} | graph.find_descendants(name)) == len(files) > 1


def test_agents_do_not_use_the_logger(project_root: Path) -> None:
    """The contracts see Stable-Baselines3 as a whole only, and agents may use the rest of it."""
    files = sorted((project_root / "agents").rglob("*.py"))
    assert files
    offenders = [file.name for file in files if "stable_baselines3.common.logger" in file.read_text("utf-8")]
    assert not offenders


@pytest.mark.parametrize(
    ("package", "heavy"),
    [
        (
            "prefrl",
            {"torch", "gymnasium", "numpy", "scipy", "matplotlib", "stable_baselines3", "tyro", "rich"},
        ),
        ("prefrl.envs", {"torch", "scipy", "matplotlib", "stable_baselines3", "pygame", "tyro", "rich"}),
    ],
)
def test_import_is_light(package: str, heavy: set[str], tmp_path: Path) -> None:
    result = python(f"import sys, {package}; print(*sys.modules)", tmp_path)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert package in loaded
    assert not loaded & heavy


@pytest.mark.parametrize("name", ["envs", "agents"])
def test_top_level_import_is_refused(name: str, project_root: Path) -> None:
    result = python(f"import {name}", project_root)
    assert result.returncode != 0
    assert f"ImportError: import this package as 'prefrl.{name}'" in result.stderr
