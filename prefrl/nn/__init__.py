"""Networks."""

from .heads import CategoricalHead, Head, QuantileHead, ScalarHead, flattest_log_probs
from .mlp import StackedLinear, StackedMLP

__all__ = [
    "CategoricalHead",
    "Head",
    "QuantileHead",
    "ScalarHead",
    "StackedLinear",
    "StackedMLP",
    "flattest_log_probs",
]
