"""Questions in rounds, about a pool of pairs that is known beforehand, and about points of a domain."""

from .gaussian_process import GaussianProcess, choose_points, maximise
from .rounds import Asked, Belief, LinearBelief, Rounds, SegmentBelief, ask_in_rounds, ask_options

__all__ = [
    "Asked",
    "Belief",
    "GaussianProcess",
    "LinearBelief",
    "Rounds",
    "SegmentBelief",
    "ask_in_rounds",
    "ask_options",
    "choose_points",
    "maximise",
]
