"""The Python code on README and on the pages of docs/ runs as it stands."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted(
    page
    for page in (ROOT / "docs").rglob("*.md")
    if page.relative_to(ROOT / "docs").parts[0] not in ("_build", "reference")  # made by make docs
)
WITHOUT_CODE = {"changelog", "contributing", "environments", "glossary", "preference_files"}
"""Pages whose code, if any, is tested elsewhere.

The first pages of families (README) have equations and no code. What is done with other libraries is
marked py, and not run.
"""
ELSEWHERE = {"results", "tutorials"}
"""Folders of such pages: results are all commands, tutorials run from top to bottom (test_tutorials.py)."""

PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in DOCS
        if page.stem not in WITHOUT_CODE | {"README"} and page.parent.name not in ELSEWHERE
    ),
]
BLOCKS = {page.stem: re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL) for page in PAGES}

RUNNER = """
import json, os, sys, tempfile
for place, block in enumerate(json.load(sys.stdin)):
    print("block", place, file=sys.stderr, flush=True)
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    exec(compile(block, f"block {place}", "exec"), {"__name__": "__main__"})
"""
"""Runs each block by itself in an empty folder; in one process, since most of the time goes into imports."""


@pytest.mark.parametrize(
    "page", [page if page == "README" else pytest.param(page, marks=pytest.mark.slow) for page in BLOCKS]
)
def test_the_code_runs_in_an_empty_folder(page, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tmp_path)],
        input=json.dumps(BLOCKS[page]), cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == len(BLOCKS[page])


def test_there_is_code_on_every_page():
    assert all(BLOCKS.values())
    assert len(BLOCKS) == len(PAGES)
    assert sum(map(len, BLOCKS.values())) == 85


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: "/".join(page.parts[-2:]))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!reference/)([^)#]+)[^)]*\)", page.read_text())  # made by make docs
    assert all((page.parent / target).exists() for target in targets if "://" not in target)


def anchors(page: Path) -> set[str]:
    """Names that links to a page may end with: its headings as code hosts write them, and ids set by hand."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(
        re.findall(r'<a id="([^"]+)">', text)
    )


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS],
    ids=lambda page: "/".join(page.parts[-2:]),
)
def test_links_to_headings_find_them(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        assert anchor in anchors(page.parent / target if target else page), (target, anchor)


def test_the_quickstart_is_short():
    quickstart = re.findall(
        r"## Quickstart\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )[0]
    assert len(quickstart.strip().splitlines()) <= 12
