"""The Python code on README and on the pages of docs/ runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = (
    "regret",
    "q_learning",
    "dqn",
    "allocation",
    "martingale",
    "return_distributions",
    "preference_rl",
    "heron",
    "self_play",
    "datasets",
    "runs",
)
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMES)]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_runs_in_an_empty_folder(block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


def test_there_is_code_on_every_page():
    assert len(BLOCKS) == 29


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.stem
)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert all((page.parent / target).exists() for target in targets if "://" not in target)


def test_the_quickstart_is_short():
    quickstart = re.findall(
        r"## Quickstart\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )[0]
    assert len(quickstart.strip().splitlines()) <= 12
