"""Formulas of composed rewards, over arrays of NumPy or torch, since environments step on both."""

from __future__ import annotations

import array_api_compat

from prefrl.envs.core.backend import Array


def gated(hard: Array, soft: Array, k: float, tau: float) -> Array:
    """Return hard + sigmoid(k (hard - tau)) soft: what is better counts once what must be is (nearly) met.

    At the threshold itself half of the soft part is paid. The form is a reconstruction of the gate of
    TourPlanner (arXiv 2601.04698), whose constants are not known to us.

    Args:
        hard: [...] how far constraints are met.
        soft: [...] what is better; not negative, or passing the gate costs something.
        k: steepness.
        tau: the threshold.
    """
    xp = array_api_compat.array_namespace(hard)
    # The sigmoid as a tangent, which does not overflow.
    return hard + 0.5 * (1.0 + xp.tanh(0.5 * k * (hard - tau))) * soft


def potential_difference(before: Array, after: Array, terminations: Array, gamma: float) -> Array:
    """Return F = gamma Phi(s') - Phi(s) [n]; nothing follows an end, whose potential is 0.

    The optimal policies stay what they were (Ng, Harada and Russell 1999).

    Args:
        before: [n] potentials Phi(s).
        after: [n] potentials Phi(s').
        terminations: [n] bool, whether s' is an end.
        gamma: the agent's discount.
    """
    xp = array_api_compat.array_namespace(before)
    return gamma * xp.where(terminations, xp.zeros_like(after), after) - before


def nearest_distance(queries: Array, memory: Array, neighbours: int) -> Array:
    """Return the Euclidean distance [n] of queries [n, d] to their k-th nearest among memory [m, d].

    Args:
        queries: [n, d].
        memory: [m, d], m at least ``neighbours``.
        neighbours: k, at least 1.
    """
    xp = array_api_compat.array_namespace(queries)
    squares = xp.sum((queries[:, None] - memory[None]) ** 2, axis=-1)
    return xp.sqrt(xp.sort(squares, axis=1)[:, neighbours - 1])


def gain_of_facts(before: Array, after: Array, importance: Array) -> Array:
    """Return sum_i importance_i (1(i known after) - 1(i known before)) [n], ProMed's gain of a question.

    Args:
        before: [n, F] bool, which facts were known.
        after: [n, F] bool, which are.
        importance: [n, F] what each is worth, such as normalised Shapley values.
    """
    xp = array_api_compat.array_namespace(importance)
    news = xp.astype(after, importance.dtype) - xp.astype(before, importance.dtype)
    return xp.sum(importance * news, axis=-1)
