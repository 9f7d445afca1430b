"""Count modules, lines, imports and circles of the library, folder by folder.

A room is a sub-folder, or a file on the floor. Imports are counted between rooms of the same folder, as
distinct ordered pairs: late ones, ``import x.y`` and those of a room's ``__init__`` alike; what only type
checkers see does not count. ``docs/contributing.md`` says how many there may be.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

ROOT = Path(__file__).resolve().parents[1]

PLACES = {"prefrl": "prefrl", "prefrl.envs": "envs", "prefrl.agents": "agents"}
"""Packages and their folders; those within the others are found by walking."""


@dataclass(frozen=True)
class Folder:
    """What is counted of one folder."""

    package: str
    modules: int
    """Modules directly in it, ``__init__`` apart."""
    lines: int
    """Lines of everything in it, sub-folders included."""
    imports: list[tuple[str, str]]
    """Distinct pairs of rooms (who imports, what)."""
    circles: list[list[str]]
    """Rooms that import each other, directly or through others."""


def modules_of(root: Path) -> dict[str, Path]:
    """Return the dotted names of all modules of the library and their files."""
    found = {}
    for package, folder in PLACES.items():
        for file in sorted((root / folder).rglob("*.py")):
            inside = file.relative_to(root / folder).with_suffix("")
            if package == "prefrl" and inside.parts[0] in ("envs", "agents"):  # links; counted where they lie
                continue
            parts = [package, *inside.parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(module: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the library's modules that a module imports, at any depth but for type checkers alone."""
    tree = ast.parse(file.read_text("utf-8"))
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for branch in node.body
        for child in ast.walk(branch)
        if not ast.unparse(node.test).startswith("not ")
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names if (name := _nearest(alias.name, known)))
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                if name := _nearest(f"{source}.{alias.name}", known):
                    yield name


def _nearest(name: str, known: dict[str, Path]) -> str | None:
    """Return the longest beginning of a dotted name that is a module of the library."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def room(module: str, package: str) -> str | None:
    """Return the room of a package that a module lies in; None for the package itself, and outside."""
    if not module.startswith(f"{package}."):
        return None
    return module.removeprefix(f"{package}.").split(".")[0]


def circles(imports: set[tuple[str, str]]) -> list[list[str]]:
    """Return the groups of rooms that reach each other."""
    reach = {here: {there for one, there in imports if one == here} for pair in imports for here in pair}
    for middle in reach:
        for here in reach:
            if middle in reach[here]:
                reach[here] |= reach[middle]
    groups = {
        tuple(sorted(there for there in reach if there in reach[here] and here in reach[there]))
        for here in reach
    }
    return sorted(list(group) for group in groups if group)


def survey(root: Path = ROOT) -> list[Folder]:
    """Return what is counted of every folder of the library."""
    known = modules_of(root)
    edges = [(module, other) for module, file in known.items() for other in imported(module, file, known)]
    lines = {module: len(file.read_text("utf-8").splitlines()) for module, file in known.items()}
    folders = []
    for package in (module for module, file in known.items() if file.stem == "__init__"):
        inside = [module for module in known if module == package or module.startswith(f"{package}.")]
        floor = [m for m in inside if m.rpartition(".")[0] == package and known[m].stem != "__init__"]
        pairs = {(room(one, package), room(other, package)) for one, other in edges}
        between = {(one, other) for one, other in pairs if one and other and one != other}
        folders.append(
            Folder(package, len(floor), sum(lines[m] for m in inside), sorted(between), circles(between))
        )
    return sorted(folders, key=lambda folder: folder.package)


def main(
    show: Annotated[str, tyro.conf.arg(metavar="PACKAGE")] = "",
    as_json: bool = False,
) -> int:
    """Print the counts.

    Args:
        show: a package whose imports among rooms are listed one by one, as in prefrl.agents.
        as_json: print JSON instead of a table.
    """
    folders = survey()
    if as_json:
        print(json.dumps([folder.__dict__ for folder in folders], indent=2))
        return 0
    print(f"{'package':36}{'modules':>8}{'lines':>8}{'imports':>8}  circles")
    for folder in folders:
        said = "; ".join(" - ".join(group) for group in folder.circles)
        print(f"{folder.package:36}{folder.modules:8}{folder.lines:8}{len(folder.imports):8}  {said}")
        if folder.package == show:
            for one, other in folder.imports:
                print(f"    {one} -> {other}")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
