"""The tree search of ``prefrl.tabular.tree_search`` in plain Python: one root, a node after the other.

Written for reading and as what the batched one is measured against; the formulas are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from prefrl.tabular.tree_search import DeterministicModel


class Node:
    """A state, and for every edge Q, visits and the node it leads to, if there is one."""

    __slots__ = ("children", "q", "state", "total", "visits")

    def __init__(self, state: int, q: Sequence[float]) -> None:
        self.state, self.q, self.total = state, list(q), 1
        self.visits: list[int] = [0] * len(q)
        self.children: list[Node | None] = [None] * len(q)


@dataclass(frozen=True)
class PlainSearch:
    """Searches one root after the other; the tables are lists of Python's numbers."""

    successors: list[list[int]]
    rewards: list[list[float]]
    terminal: list[bool]
    priors: list[list[float]]
    values: list[float]
    exploration: float
    gamma: float
    max_depth: int

    @classmethod
    def of(
        cls, model: DeterministicModel, priors: list[list[float]], values: list[float], exploration: float,
        gamma: float, max_depth: int,
    ) -> PlainSearch:  # fmt: skip
        """Take the model's tables."""
        later = [0.0 if ends else value for ends, value in zip(model.terminal.tolist(), values, strict=True)]
        tables = (model.successors.tolist(), model.rewards.tolist(), model.terminal.tolist())
        return cls(*tables, priors, later, exploration, gamma, max_depth)

    def search(self, root: int, simulations: int) -> Node:
        """Return the root of the tree after so many simulations."""
        top = self._node(root)
        for _ in range(simulations):
            self._simulate(top)
        return top

    def _node(self, state: int) -> Node:
        following, rewards = self.successors[state], self.rewards[state]
        q = [reward + self.gamma * self.values[s] for reward, s in zip(rewards, following, strict=True)]
        return Node(state, q)

    def _simulate(self, node: Node) -> None:
        path: list[tuple[Node, int]] = []
        while True:
            edge = self._best(node)
            path.append((node, edge))
            child = node.children[edge]
            if child is None:
                break
            node = child
        state = self.successors[node.state][edge]
        if self.terminal[state] or len(path) == self.max_depth:
            value = self.values[state]
        else:
            leaf = node.children[edge] = self._node(state)
            value = sum(leaf.q) / len(leaf.q)
        gamma, rewards = self.gamma, self.rewards
        for node, edge in reversed(path):
            node.visits[edge] += 1
            node.total += 1
            node.q[edge] = rewards[node.state][edge] + gamma * value
            mass = total = 0.0
            for q, visits in zip(node.q, node.visits, strict=True):
                weight = visits or 1
                mass += weight * q
                total += weight
            value = mass / total

    def _best(self, node: Node) -> int:
        scale = self.exploration * sqrt(node.total)
        best, highest = 0, -float("inf")
        edges = zip(node.q, self.priors[node.state], node.visits, strict=True)
        for edge, (q, prior, visits) in enumerate(edges):
            score = q + scale * prior / (1 + visits)
            if score > highest:
                best, highest = edge, score
        return best
