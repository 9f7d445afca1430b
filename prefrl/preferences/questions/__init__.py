"""Questions in rounds, about a pool of pairs that is known beforehand, and about points of a domain."""

from .rounds import Asked, Belief, LinearBelief, Rounds, SegmentBelief, ask_in_rounds, ask_options

__all__ = ["Asked", "Belief", "LinearBelief", "Rounds", "SegmentBelief", "ask_in_rounds", "ask_options"]
