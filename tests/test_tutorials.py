"""Tutorials run from top to bottom as they stand: their claims are assertions in their own code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "tutorials"
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.stem != "README")
LARGEST_FIGURE = 60_000
"""Bytes of a picture that is kept with the code."""


def code(page: Path) -> list[str]:
    """Return the blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def figures(page: Path) -> set[str]:
    """Return the names of the pictures beside a page that it shows."""
    return set(re.findall(r"!\[[^\]]*\]\(([^)/]+\.png)\)", page.read_text("utf-8")))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_runs_and_draws_its_figures(page: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code(page))],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).stat().st_size > 1_000 for name in figures(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_checks_what_it_claims_and_ends_with_where_to_go(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "assert " in "".join(code(page))
    assert text.split("\n\n")[1].startswith("**What you will see.**")
    last = text.split("\n## Next\n")[1]
    assert "- Page: [" in last
    assert "](../../" in last  # the code of the formula
    saved = set(re.findall(r'savefig\("([^"]+)"', text))
    assert saved == figures(page)


def test_figures_are_small_and_all_are_shown() -> None:
    kept = {file.name: file.stat().st_size for file in FOLDER.glob("*.png")}
    assert set(kept) == {name for page in PAGES for name in figures(page)}
    assert max(kept.values()) < LARGEST_FIGURE


def test_the_index_names_every_page() -> None:
    assert len(PAGES) == 10
    linked = re.findall(
        r"^\| \[[^\]]+\]\((\w+)\.md\)", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted(linked) == [page.stem for page in PAGES]
