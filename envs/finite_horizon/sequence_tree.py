"""Everything that a small tree of sequences lets one know: returns, optima, who beats whom.

A prompt is followed by T tokens out of a vocabulary of V. What was said so far is a node of a tree; nodes are
numbered from the prompt down, so that token a leads from node i to node V i + 1 + a. The K = V^T complete
sequences are the leaves, in the order of their tokens. Everything is NumPy in float64, with any leading axes
(prompts, layouts), which lie before what is written in the shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.checks import check_count, check_number

Floats = NDArray[np.float64]

MAX_NODES = 2**20
"""Nodes of all trees of an environment together, whose tables are kept."""

MAX_PAIRS = 2**26
"""Entries of a preference matrix (half a GiB)."""


class SoftOptimum(NamedTuple):
    """What maximises E R - beta KL(policy | reference) over complete sequences."""

    log_probs: Floats
    """[..., K] logarithms of the probabilities of complete sequences, R / beta + log reference - log Z."""

    policy: Floats
    """[..., N, V] the same step by step: probabilities of the next token (even in leaves)."""

    values: Floats
    """[..., N] soft values of nodes, beta log E_reference exp(what is to come / beta); 0 in leaves."""

    value: Floats
    """[...] what is reached: E R - beta KL, which is the soft value of the prompt."""


def check_tree(
    vocabulary: Any, depth: Any, prompts: Any, names: tuple[str, str, str]
) -> tuple[int, int, int]:
    """Return the three sizes of an environment of trees as whole numbers.

    Args:
        vocabulary: V, at least 2.
        depth: T.
        prompts: how many trees there are.
        names: what the arguments are called.

    Raises:
        ValueError: naming the size that is none, or if there are more than :data:`MAX_NODES` nodes.
    """
    given = zip(names, (vocabulary, depth, prompts), strict=True)
    v, t, p = (check_count(name, value) for name, value in given)
    if v < 2:
        raise ValueError(f"{names[0]} is {v}; it must be at least 2, or there is nothing to choose")
    # The depth is looked at first: a power of a large number is not to be computed.
    if t >= MAX_NODES.bit_length() or p * num_nodes(v, t) > MAX_NODES:
        sizes = ", ".join(f"{name} {size}" for name, size in zip(names, (v, t, p), strict=True))
        raise ValueError(f"{sizes} make more than {MAX_NODES} states; take fewer")
    return v, t, p


def num_nodes(vocabulary: int, depth: int) -> int:
    """Return N, the nodes of a tree: 1 + V + ... + V^T."""
    return sum(vocabulary**level for level in range(depth + 1))


@dataclass(frozen=True)
class SequenceTree:
    """Trees of one size, with a reward for every token after every prefix.

    Raises:
        ValueError: if the rewards are not finite, or not one for each node of such a tree.
    """

    rewards: Floats
    """[..., N] paid for entering a node; that of the prompt itself is not read."""

    vocabulary: int
    """V."""

    depth: int
    """T."""

    def __post_init__(self) -> None:
        nodes = num_nodes(self.vocabulary, self.depth)
        if self.rewards.shape[-1:] != (nodes,):
            raise ValueError(f"rewards have shape {self.rewards.shape}; a tree of depth {self.depth} and "
                             f"vocabulary {self.vocabulary} has {nodes} nodes")  # fmt: skip
        if not np.isfinite(self.rewards).all():
            raise ValueError("rewards must be finite")

    @property
    def num_nodes(self) -> int:
        """N."""
        return int(self.rewards.shape[-1])

    @property
    def num_sequences(self) -> int:
        """K."""
        return int(self.vocabulary**self.depth)

    def _level(self, level: int) -> slice:
        """Return the nodes that ``level`` tokens lead to."""
        first = num_nodes(self.vocabulary, level - 1) if level else 0
        return slice(first, first + self.vocabulary**level)

    def sequences(self) -> NDArray[np.int64]:
        """Return the tokens [K, T] of all complete sequences."""
        places = self.vocabulary ** np.arange(self.depth - 1, -1, -1)
        return np.arange(self.num_sequences)[:, None] // places % self.vocabulary

    def sequence_nodes(self) -> NDArray[np.int64]:
        """Return the nodes [K, T + 1] that complete sequences pass, the prompt first."""
        nodes = np.zeros((self.num_sequences, self.depth + 1), dtype=np.int64)
        for t, token in enumerate(self.sequences().T):
            nodes[:, t + 1] = self.vocabulary * nodes[:, t] + 1 + token
        return nodes

    def returns(self) -> Floats:
        """Return the sums of rewards [..., K] of complete sequences."""
        return np.asarray(self.rewards[..., self.sequence_nodes()[:, 1:]].sum(-1))

    def preference_matrix(self) -> Floats:
        """Return P(i is preferred to j) [..., K, K] by Bradley and Terry: logistic(R_i - R_j).

        Raises:
            ValueError: if it has more than :data:`MAX_PAIRS` entries.
        """
        returns = self.returns()
        if returns.size * self.num_sequences > MAX_PAIRS:
            raise ValueError(f"{returns.size} sequences against {self.num_sequences} each are more than "
                             f"{MAX_PAIRS} pairs; take a smaller tree")  # fmt: skip
        return bradley_terry_matrix(returns)

    def log_probs(self, policy: ArrayLike) -> Floats:
        """Return log-probabilities [..., K] of complete sequences under a policy [..., N, V]."""
        with np.errstate(divide="ignore"):
            steps = np.log(self.check_policy("policy", policy))
        nodes = self.sequence_nodes()[:, :-1]
        return np.asarray(steps[..., nodes, self.sequences()].sum(-1))

    def step_policy(self, log_probs: ArrayLike) -> Floats:
        """Return the policy [..., N, V] that gives complete sequences these probabilities.

        Args:
            log_probs: [..., K]; they need not be normalised. After prefixes that never occur, and in leaves,
                tokens are evenly likely.

        Raises:
            ValueError: if they do not fit, or hold NaN or no sequence that is possible.
        """
        mass = np.asarray(log_probs, dtype=np.float64)
        if mass.shape[-1:] != (self.num_sequences,):
            raise ValueError(
                f"log_probs have shape {mass.shape}; they must end in [K] = [{self.num_sequences}]"
            )
        if np.isnan(mass).any() or (mass == np.inf).any() or (mass.max(-1) == -np.inf).any():
            raise ValueError("log_probs must be finite, or minus infinity for some sequences but not all")
        policy = self._even(mass.shape[:-1])
        for level in range(self.depth - 1, -1, -1):
            children = mass.reshape(*mass.shape[:-1], -1, self.vocabulary)
            mass = _log_sum_exp(children)
            reached = np.isfinite(mass)
            shares = np.exp(children - np.where(reached, mass, 0.0)[..., None])
            policy[..., self._level(level), :] = np.where(reached[..., None], shares, 1.0 / self.vocabulary)
        return policy

    def soft_optimum(self, beta: float, reference: ArrayLike | None = None) -> SoftOptimum:
        """Return what maximises E R - beta KL(policy | reference), by one soft Bellman sweep from the leaves.

        Args:
            beta: price of a nat of divergence, above 0.
            reference: [..., N, V] a policy (None: even over tokens). Tokens that it never takes stay so.

        Raises:
            ValueError: for a bad argument.
        """
        beta = check_beta(beta)
        with np.errstate(divide="ignore"):
            prior = np.log(self.check_reference(reference))
        lead = np.broadcast_shapes(self.rewards.shape[:-1], prior.shape[:-2])
        values, policy = np.zeros((*lead, self.num_nodes)), self._even(lead)
        for level in range(self.depth - 1, -1, -1):
            here, below = self._level(level), self._level(level + 1)
            worth = (self.rewards[..., below] + values[..., below]).reshape(*lead, -1, self.vocabulary)
            scores = prior[..., here, :] + worth / beta
            total = _log_sum_exp(scores)
            values[..., here] = beta * total
            policy[..., here, :] = np.exp(scores - total[..., None])
        nodes = self.sequence_nodes()[:, :-1]
        before = prior[..., nodes, self.sequences()].sum(-1)
        log_probs = before + (self.returns() - values[..., :1]) / beta
        return SoftOptimum(log_probs, policy, values, values[..., 0])

    def optimal_values(self, gamma: float = 1.0) -> Floats:
        """Return what the best sequel of each node is worth [..., N]; ValueError unless 0 <= gamma <= 1."""
        gamma = check_gamma(gamma)
        values = np.zeros(self.rewards.shape)
        for level in range(self.depth - 1, -1, -1):
            values[..., self._level(level)] = self._worth(values, level, gamma).max(-1)
        return values

    def policy_values(self, policy: ArrayLike, gamma: float = 1.0) -> Floats:
        """Return what a policy [..., N, V] is worth in each node [..., N]; ValueError for a bad argument."""
        chances, gamma = self.check_policy("policy", policy), check_gamma(gamma)
        values = np.zeros(np.broadcast_shapes(self.rewards.shape, chances.shape[:-1]))
        for level in range(self.depth - 1, -1, -1):
            here = self._level(level)
            values[..., here] = (chances[..., here, :] * self._worth(values, level, gamma)).sum(-1)
        return values

    def regularized_value(self, policy: ArrayLike, beta: float, reference: ArrayLike | None = None) -> Floats:
        """Return E R - beta KL(policy | reference) [...], by summing over complete sequences.

        Args:
            policy: [..., N, V].
            beta: price of a nat of divergence, above 0.
            reference: [..., N, V] (None: even over tokens).

        Returns:
            [...]; minus infinity where the policy does what the reference never does.
        """
        beta, log_probs = check_beta(beta), self.log_probs(policy)
        prior = self.log_probs(self.check_reference(reference))
        log_probs, prior, returns = np.broadcast_arrays(log_probs, prior, self.returns())
        possible = log_probs > -np.inf
        with np.errstate(invalid="ignore"):  # minus infinity from itself, which is left out
            paid = np.where(possible, np.exp(log_probs) * (returns - beta * (log_probs - prior)), 0.0)
        return np.asarray(paid.sum(-1))

    def check_policy(self, name: str, policy: ArrayLike) -> Floats:
        """Return a policy [..., N, V]; ValueError unless it holds probabilities after every prefix."""
        table = np.asarray(policy, dtype=np.float64)
        if table.shape[-2:] != (self.num_nodes, self.vocabulary):
            raise ValueError(f"{name} has shape {table.shape}; it must end in "
                             f"[N, V] = [{self.num_nodes}, {self.vocabulary}]")  # fmt: skip
        inner = table[..., : self._level(self.depth).start, :]
        if not (np.allclose(inner.sum(-1), 1.0, rtol=0.0, atol=1e-9) and (inner >= 0.0).all()):
            raise ValueError(
                f"{name} must hold probabilities: not negative, and summing to 1 after every prefix"
            )
        return table

    def check_reference(self, reference: ArrayLike | None) -> Floats:
        """Return a reference policy [..., N, V], the even one for None; ValueError if it is none."""
        return self._even(()) if reference is None else self.check_policy("reference", reference)

    def _even(self, lead: tuple[int, ...]) -> Floats:
        """Return the policy [*lead, N, V] that takes all tokens evenly."""
        return np.full((*lead, self.num_nodes, self.vocabulary), 1.0 / self.vocabulary)

    def _worth(self, values: Floats, level: int, gamma: float) -> Floats:
        """Return what each token [..., V^level, V] pays at a level, and leads to."""
        below = self._level(level + 1)
        worth = self.rewards[..., below] + gamma * values[..., below]
        return worth.reshape(*worth.shape[:-1], -1, self.vocabulary)


def bradley_terry_matrix(utilities: Floats) -> Floats:
    """Return P(i is preferred to j) = logistic(u_i - u_j) [..., K, K] of utilities [..., K]."""
    # By the smaller exponential of the two: nothing overflows, and rounding treats both sides alike.
    margin = utilities[..., :, None] - utilities[..., None, :]
    small = np.exp(-np.abs(margin))
    return np.asarray(np.where(margin >= 0.0, 1.0, small) / (1.0 + small))


def check_beta(beta: Any) -> float:
    """Return ``beta``; ValueError unless it is a finite number above 0."""
    value = check_number("beta", beta)
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"beta is {beta!r}; it must be finite and above 0")
    return value


def check_gamma(gamma: Any) -> float:
    """Return ``gamma``; ValueError unless it lies in [0, 1]."""
    value = check_number("gamma", gamma)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"gamma is {gamma!r}; it must lie in [0, 1]")
    return value


def _log_sum_exp(table: Floats) -> Floats:
    """Return log sum exp over the last axis [...]; minus infinity where all entries are."""
    top = table.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(top[..., 0] + np.log(np.exp(table - top).sum(-1)))
