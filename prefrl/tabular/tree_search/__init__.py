"""Monte-Carlo tree search from many roots at once."""

from .model import DeterministicModel as DeterministicModel, SearchTrees as SearchTrees
from .search import tree_search as tree_search

__all__ = ["DeterministicModel", "SearchTrees", "tree_search"]
