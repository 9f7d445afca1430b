"""The site: its settings tables, what its pages of the API hold, and that it builds without a warning."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest
from sphinx.util.inventory import InventoryFile

import prefrl
import prefrl.agents
from prefrl.config import Settings, Share

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module", autouse=True)
def extensions() -> Iterator[None]:
    sys.path.insert(0, str(DOCS / "_ext"))
    yield
    sys.path.remove(str(DOCS / "_ext"))


@dataclasses.dataclass(frozen=True)
class Base(Settings):
    """Settings that others have too."""

    size: int = 3
    """How large."""


@dataclasses.dataclass(frozen=True)
class Example(Base):
    """Settings of nothing."""

    share: Share | None = 0.5
    """A part
    of the whole."""
    names: tuple[str, ...] = ("a",)
    inner: Base = dataclasses.field(default_factory=Base)


def test_a_table_says_type_bounds_default_and_text() -> None:
    from settings_table import rows

    assert rows(Example) == [
        ("share", "float in [0, 1] or None", "0.5", "A part of the whole."),
        ("names", "tuple of str", "('a',)", ""),
        ("inner", "Base", "Base()", ""),
        ("size", "int", "3", "How large."),
    ]


def test_settings_of_what_is_none_are_refused() -> None:
    from settings_table import find

    assert find("DQNConfig") is prefrl.DQNConfig
    with pytest.raises(LookupError, match="DQN: there is no such dataclass"):
        find("DQN")


def test_every_config_has_its_table_on_a_page() -> None:
    shown = set()
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```\{settings\}\n(.*?)```", page.read_text(), re.DOTALL):
            shown |= set(block.split())
    configs = {name for name in prefrl.agents.__all__ if name.endswith("Config")} - {"LearnerConfig"}
    assert configs - shown == set()


def test_marks_of_docstrings_are_those_of_the_text() -> None:
    from plain_docstrings import escape

    lines = ["|x| of [n, *O] and ``|y|``", "*really*::", "", "    |z|", "", "|w|"]
    assert escape(lines) == [r"\|x\| of [n, \*O] and ``|y|``", "*really*::", "", "    |z|", "", r"\|w\|"]


def test_equations_of_docstrings_are_blocks() -> None:
    from plain_docstrings import with_equations

    text = [
        "The loss is",
        "",
        "    L = 1",
        "      + 2",
        "",
        "    M = 3",
        "",
        "of it.",
        "",
        "Args:",
        "    x: a number.",
    ]
    assert with_equations(text) == [*text[:2], ".. code-block:: text", "", *text[2:]]
    assert with_equations(["As in::", "", "    code"]) == ["As in::", "", "    code"]
    assert with_equations(["1. One", "", "   goes on."]) == ["1. One", "", "   goes on."]


def offered() -> dict[str, list[str]]:
    """Public names by the package that offers them."""
    from reference_pages import PACKAGES

    found = {}
    for package in ("prefrl", "prefrl.agents", *PACKAGES):
        found[package] = [name for name in import_module(package).__all__ if not name.startswith("__")]
    return found


def test_every_package_that_offers_names_has_a_page() -> None:
    named = {
        ".".join(path.relative_to(DOCS.parent / "prefrl").parent.parts)
        for path in (DOCS.parent / "prefrl").rglob("__init__.py")
        if re.search(r"^__all__", path.read_text(), re.MULTILINE)
    }
    pages = {package.removeprefix("prefrl").removeprefix(".") for package in offered()}
    # What a package offers to its parent alone is documented there.
    assert {name for name in named if name} - pages <= {"tabular.tree_search"}


def test_pages_hold_every_public_name(tmp_path: Path) -> None:
    from reference_pages import api_pages

    api_pages(tmp_path)
    text = "".join(page.read_text() for page in tmp_path.glob("*.rst"))
    data = r"^\.\. py:data:: (\S+)\n   :module: (\S+)$"
    text = re.sub(data, r".. autodata:: \2.\1", text, flags=re.MULTILINE)
    places = set(re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.MULTILINE))
    for package, names in offered().items():
        for name in names:
            assert {f"{package}.{name}", f"prefrl.{name}"} & places, (package, name)


class Links(HTMLParser):
    """What a page names: its ids, where its links lead, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-j", "2", "-W", "--keep-going",
         "-d", str(out / "trees"), str(DOCS), str(out / "html")],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_every_public_name_is_in_the_inventory(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        data = InventoryFile.load(file, "", lambda base, path: path)
    known = {name for domain, names in data.items() if domain.startswith("py:") for name in names}
    for package, names in offered().items():
        for name in names:
            assert {f"{package}.{name}", f"prefrl.{name}"} & known, (package, name)


@pytest.mark.slow
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    # Not those of the sources: Sphinx's way back from them misses names that a package re-exports.
    pages = {path: Links(path.read_text()) for path in site.rglob("*.html") if "_modules" not in path.parts}
    assert len(pages) > 100
    for path, page in pages.items():
        for load in page.loads:
            assert not re.match(r"\w+:|//", load), (path, load)
        for link in page.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            target, _, anchor = link.partition("#")
            to = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            assert to.exists(), (path, link)
            if anchor and to in pages:
                assert unquote(anchor) in pages[to].ids, (path, link)
