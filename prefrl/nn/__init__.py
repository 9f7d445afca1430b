"""Networks."""

from .mlp import StackedLinear, StackedMLP

__all__ = ["StackedLinear", "StackedMLP"]
