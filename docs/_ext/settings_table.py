"""The directive ``settings``: the table of a dataclass' settings, read from the dataclass itself.

On a page: a block of the kind ``{settings}`` that names a public name of prefrl, or ``module:Name``.
"""

import dataclasses
import types
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from prefrl.config import Bounds, field_texts, field_types


def find(name: str) -> type:
    """Return the dataclass of a name.

    Raises:
        LookupError: if there is none.
    """
    module, _, attribute = name.rpartition(":")
    kind = getattr(import_module(module or "prefrl"), attribute, None)
    if not dataclasses.is_dataclass(kind):
        raise LookupError(f"settings of {name}: there is no such dataclass")
    return kind


def in_words(annotation: Any) -> str:
    """Return what a setting may hold: a type with its bounds, or the choices."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = " ".join(shortly(limit) for limit in arguments[1:] if isinstance(limit, Bounds))
        return f"{in_words(arguments[0])} {bounds}".strip()
    if origin in (Union, types.UnionType):
        return " or ".join(map(in_words, arguments))
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        return f"tuple of {in_words(arguments[0])}"
    if origin is tuple:
        return f"({', '.join(map(in_words, arguments))})"
    if annotation is type(None):
        return "None"
    return str(getattr(origin or annotation, "__name__", annotation))


def shortly(bounds: Bounds) -> str:
    """Return bounds as mathematics writes them."""
    low, high = f"{bounds.low:.15g}", f"{bounds.high:.15g}"
    if low == "-inf" and high == "inf":
        return ""
    if high == "inf":
        return f"{'>' if bounds.above else '≥'} {low}"
    if low == "-inf":
        return f"{'<' if bounds.below else '≤'} {high}"
    return f"in {'(' if bounds.above else '['}{low}, {high}{')' if bounds.below else ']'}"


def default(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as Python writes it."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value) and value == type(value)():
        return f"{type(value).__name__}()"
    return repr(str(value)) if isinstance(value, Path) else repr(value)


def rows(kind: type) -> list[tuple[str, str, str, str]]:
    """Return name, type, default and text of every setting, those of the class itself first."""
    texts = {name: text for each in reversed(kind.__mro__) for name, text in field_texts(each).items()}
    own = vars(kind).get("__annotations__", {})
    fields = [field for field in dataclasses.fields(kind) if field.init]
    fields.sort(key=lambda field: field.name not in own)
    hints = field_types(kind)
    return [(f.name, in_words(hints[f.name]), default(f), texts.get(f.name, "")) for f in fields]


class SettingsTable(SphinxDirective):
    """The table of one dataclass."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return a table for every line of the block."""
        return [self._table(find(line.strip())) for line in self.content if line.strip()]

    def _table(self, kind: type) -> nodes.Node:
        self.env.note_dependency(import_module(kind.__module__).__file__)
        group = nodes.tgroup(cols=4)
        group += [nodes.colspec(colwidth=width) for width in (18, 20, 14, 48)]
        head, body = nodes.thead(), nodes.tbody()
        head += row(*(nodes.paragraph(text=text) for text in ("setting", "type", "default", "what it is")))
        for name, holds, value, text in rows(kind):
            cells = [nodes.literal(text=name), nodes.Text(holds), nodes.literal(text=value)]
            paragraphs = [nodes.paragraph("", "", cell) for cell in cells]
            told = nodes.paragraph()
            told += self.parse_inline(text)[0]
            body += row(*paragraphs, told)
        group += [head, body]
        table = nodes.table(classes=["settings"])
        table += [nodes.title(text=kind.__name__), group]
        return table


def row(*cells: nodes.Node) -> nodes.row:
    """Return a row of a table."""
    made = nodes.row()
    made += [nodes.entry("", cell) for cell in cells]
    return made


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True}
