"""The layout of the house: small rooms, short files, one word for a family, arrows without circles."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FAMILIES = {
    "value_based",
    "actor_critic",
    "returns",
    "preferences",
    "continuous_time",
    "allocation",
    "choice",
}
"""Families of agents; envs have theirs, which stand on what an environment is."""

LONG = {
    "agents/continuous_time/control.py": "the base of two algorithms, read with it and nothing else",
    "agents/continuous_time/evaluation.py": "one algorithm and its variants, read from top to bottom",
    "agents/preferences/sb3.py": "one thing: SB3's algorithms stepped by our loop, on and off policy",
    "envs/allocation/problems.py": "the kinds of request, each against the same dozen methods",
    "prefrl/preferences/reward_model.py": "one thing: an ensemble, how it is fitted, and its file",
}
"""Files of more than 400 lines, and why they stay whole."""


@pytest.fixture(scope="module")
def house(project_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", project_root / "scripts" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def folders(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir() if any(entry.glob("*.py")) or any(entry.glob("*.md"))}


def test_no_room_is_crowded(house: ModuleType) -> None:
    crowded = {folder.package: folder.modules for folder in house.survey() if folder.modules > 14}
    assert not crowded


def test_long_files_have_a_reason(house: ModuleType, project_root: Path) -> None:
    lines = {
        str(file.relative_to(project_root)): len(file.read_text("utf-8").splitlines())
        for file in house.modules_of(project_root).values()
    }
    assert {name for name, count in lines.items() if count > 400} == set(LONG)


def test_families_have_one_word_everywhere(project_root: Path) -> None:
    assert folders(project_root / "agents") == FAMILIES
    assert folders(project_root / "prefrl" / "run" / "recipes") == FAMILIES
    pages = {"results", "tutorials", "coming_from"}
    assert folders(project_root / "docs") - {"_ext", "reference"} == FAMILIES | pages
    assert folders(project_root / "tests" / "agents") == FAMILIES
    assert folders(project_root / "tests" / "envs") <= folders(project_root / "envs")
    assert folders(project_root / "prefrl" / "functional") <= FAMILIES


def test_every_family_is_named_on_the_page_for_contributors(project_root: Path) -> None:
    page = (project_root / "docs" / "contributing.md").read_text("utf-8")
    missing = [f for f in FAMILIES | folders(project_root / "envs") if f"`{f}`" not in page]
    assert not missing


@pytest.mark.parametrize(
    ("package", "most"), [("prefrl.envs", 30), ("prefrl.agents", 15), ("prefrl.run", 40)]
)
def test_imports_among_rooms_are_few(house: ModuleType, package: str, most: int) -> None:
    (folder,) = (folder for folder in house.survey() if folder.package == package)
    assert 0 < len(folder.imports) <= most


def test_no_rooms_import_each_other(house: ModuleType) -> None:
    assert {folder.package: folder.circles for folder in house.survey() if folder.circles} == {}


def test_the_survey_sees_late_relative_and_dotted_imports(house: ModuleType, tmp_path: Path) -> None:
    files = {
        "prefrl/__init__.py": "",
        "prefrl/a/__init__.py": "import prefrl.b.inner\n",
        "prefrl/b/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import prefrl.d\n",
        "prefrl/b/inner.py": "def f():\n    from .. import c\n",
        "prefrl/c.py": "from . import a\n",
        "prefrl/d.py": "from prefrl.c import something\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    whole = next(folder for folder in house.survey(tmp_path) if folder.package == "prefrl")
    assert whole.imports == [("a", "b"), ("b", "c"), ("c", "a"), ("d", "c")]
    assert whole.circles == [["a", "b", "c"]]
    assert (whole.modules, whole.lines) == (2, 8)
