"""Docstrings write absolute values as mathematics does, ``|x|``, where reStructuredText sees substitutions.

The house has no substitutions: outside of literals and of blocks of code a bar is a bar.
"""

import re
from typing import Any

from sphinx.application import Sphinx

LITERALS = re.compile(r"(``.+?``|`[^`]+`)")


def escape(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with a backslash before every bar of the text."""
    found, code = [], None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if code is not None and line.strip() and indent <= code:
            code = None
        if code is None:
            parts = LITERALS.split(line)
            line = "".join(part if place % 2 else part.replace("|", r"\|") for place, part in enumerate(parts))
            if line.rstrip().endswith("::"):
                code = indent
        found.append(line)
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Go over every docstring, before napoleon does."""

    def process(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
        lines[:] = escape(lines)

    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
