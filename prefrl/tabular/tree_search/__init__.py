"""Monte-Carlo tree search from many roots at once."""

from .model import DeterministicModel as DeterministicModel, SearchTrees as SearchTrees
from .search import tree_search as tree_search
from .step_search import SteppedTrees as SteppedTrees, step_search as step_search

__all__ = ["DeterministicModel", "SearchTrees", "SteppedTrees", "step_search", "tree_search"]
