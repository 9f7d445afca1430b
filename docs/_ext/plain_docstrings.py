"""What our docstrings are to Sphinx.

Docstrings write absolute values, |x|, and shapes, [n, *O], where reStructuredText sees its own marks.

The house has no substitutions: outside of literals and of blocks of code a bar is a bar, and a star in a
shape is a star. Equations that stand apart are blocks of code.
"""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx

MARKS = re.compile(r"\||(?<=, )\*(?=\w+\])")
LITERALS = re.compile(r"(``.+?``|`[^`]+`)")


def escape(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with a backslash before every mark of the text."""
    found, code = [], None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if code is not None and line.strip() and indent <= code:
            code = None
        if code is None:
            parts = LITERALS.split(line)
            line = "".join(
                part if place % 2 else MARKS.sub(r"\\\g<0>", part) for place, part in enumerate(parts)
            )
            if line.rstrip().endswith("::") or line.lstrip().startswith(".. code-block::"):
                code = indent
        found.append(line)
    return found


def with_equations(lines: list[str]) -> list[str]:
    """Return the lines with what stands apart, four columns in after an empty line, as a block of code.

    Docstrings set equations so, in columns that a quotation would not keep.
    """
    found: list[str] = []
    before, apart = 0, None
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip():
            if apart is not None and indent < apart:
                apart = None
            empty = place > 1 and not lines[place - 1].strip()
            said = next((text for text in reversed(found) if text.strip()), "").rstrip()
            if apart is None and empty and indent >= before + 4 and not said.endswith("::"):
                found += [" " * before + ".. code-block:: text", ""]
                apart = indent
            if apart is None:
                before = indent
        found.append(line)
    return found


def signature(app: Sphinx, what: str, name: str, value: Any, options: Any, given: Any, returns: Any) -> Any:
    """Return the signature of ``__init__``, where ``__new__`` stands before it and takes anything."""
    if what == "class" and given and given.startswith("(*args") and "__init__" in vars(value):
        told = inspect.signature(value.__init__)
        return str(
            told.replace(parameters=list(told.parameters.values())[1:], return_annotation=told.empty)
        ), None
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Go over every docstring, before napoleon does."""

    def process(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
        lines[:] = escape(with_equations(lines))

    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True}
