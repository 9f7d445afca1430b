"""The store of a labelling study, on the SQLite of the standard library alone."""

from .labels import LabelStore

__all__ = ["LabelStore"]
