"""Print the lowest version of each dependency that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lowest_versions(pyproject: str) -> list[str]:
    """Return NAME==VERSION for each of the project's own dependencies.

    Raises:
        ValueError: naming a dependency without a lowest version.
    """
    block = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    if block is None:
        raise ValueError("pyproject.toml has no list of dependencies")
    found = []
    for wanted in re.findall(r'^\s*"([^"]+)"', block[1], re.MULTILINE):
        lowest = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:,<[\d.]+)?", wanted)
        if lowest is None:
            raise ValueError(f"{wanted!r} has no lowest version")
        found.append(f"{lowest[1]}=={lowest[2]}")
    return found


def main() -> int:
    """Print them, a line each; by the standard library alone, since nothing is installed yet."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print("\n".join(lowest_versions((ROOT / "pyproject.toml").read_text("utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
