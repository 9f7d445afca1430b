"""The tree search in NumPy, for the host: the same steps as :mod:`.device_trees`, in cheaper calls.

A simulation of all roots is some seventy calls of about a microsecond each. So tables lie such that a call
has few and long rows: what belongs to an edge by action and then by node, ``action * R + node``, and what
belongs to a path by level and then by root. Levels that no tree has reached are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .model import SearchTrees

Numbers = NDArray[np.float64]
Places = NDArray[np.intp]


class Nodes(NamedTuple):
    """B nodes as they are before any visit but the one that makes them."""

    numbers: Numbers
    """[2 A, B] Q of the edges, and then their w p."""
    mass: Numbers
    """[B] sum of Q."""
    first: Places
    """[B] the edge that is chosen first, as ``action * R``."""


class Arrivals(NamedTuple):
    """What B edges lead to."""

    pairs: Places
    """[B] where rewards and w p of these edges are found."""
    nodes: Nodes
    closed: NDArray[np.bool_]
    """[B] whether the episode ends there; in memory of its own."""
    later: Numbers
    """[B] what is to come there, if no node is made."""


class Problem(Protocol):
    """What is searched, by the rows of nodes."""

    count: int
    """A."""
    rewards: Numbers
    """Rewards by pair."""
    drive: Numbers
    """w p by pair."""

    def plant(self, roots: Any) -> Nodes:
        """Return the nodes of the roots, which become the first rows."""

    def arrive(self, rows: Places, actions: Places, new: slice) -> Arrivals:
        """Return what edges [B] lead to, which become the rows ``new``."""


class Tables:
    """A model in tables, for R rows; all of them NumPy's.

    Args:
        successors: [S, A].
        rewards: [S, A].
        terminal: [S].
        drive: [S, A] w p.
        later: [S] what is to come in a state before it is searched.
        gamma: discount.
        rows: R.
    """

    def __init__(
        self, successors: Places, rewards: Numbers, terminal: NDArray[np.bool_], drive: Numbers,
        later: Numbers, gamma: float, rows: int,
    ) -> None:  # fmt: skip
        self.states_count, self.count = successors.shape
        self.rewards: Numbers = rewards.T.ravel()
        self.drive: Numbers = drive.T.ravel()
        self._successors: Places = successors.T.ravel()
        fresh = rewards + gamma * later[successors]
        self._numbers = np.ascontiguousarray(np.concatenate([fresh, drive], 1).T)
        self._mass, self._first = fresh.sum(1), (fresh + drive).argmax(1) * rows
        self._terminal, self._later = terminal, later
        self.states = np.zeros(rows, np.intp)

    def plant(self, roots: Places) -> Nodes:
        """See :meth:`Problem.plant`."""
        self.states[: len(roots)] = roots
        return self._nodes(roots)

    def arrive(self, rows: Places, actions: Places, new: slice) -> Arrivals:
        """See :meth:`Problem.arrive`."""
        pairs = actions * self.states_count
        pairs += self.states.take(rows)
        states = self._successors.take(pairs)
        self.states[new] = states
        return Arrivals(pairs, self._nodes(states), self._terminal.take(states), self._later.take(states))

    def _nodes(self, states: Places) -> Nodes:
        return Nodes(self._numbers.take(states, axis=1), self._mass.take(states), self._first.take(states))


class HostTrees:
    """B trees as they grow.

    The node that simulation i makes in tree b is row ``i * B + b`` of R. The last row, scratch, is what a
    root hangs on: it has no edge but its first, whose visits are those of the root.

    Args:
        problem: what is searched.
        roots: B.
        size: nodes of a tree at most.
        gamma: discount.
        max_depth: steps of the longest path.
    """

    def __init__(self, problem: Problem, roots: int, size: int, gamma: float, max_depth: int) -> None:
        self.problem, self.roots, self.size, self.count = problem, roots, size, problem.count
        self.gamma, self.max_depth, self.rows = gamma, max_depth, roots * size + 1
        self.scratch, edges = roots * size, problem.count * self.rows
        # Of edges: Q and w p / (1 + N); N; the edge where a selection that takes it ends.
        self.numbers = np.zeros((2 * problem.count, self.rows))
        self.numbers[1 : problem.count, self.scratch] = -np.inf
        self.q, self.urge = self.numbers.reshape(-1)[:edges], self.numbers.reshape(-1)[edges:]
        self.visits, self.places, self.ends_of = np.zeros(edges), np.arange(self.rows), np.arange(edges)
        # Of nodes: sum max(1, N) Q and sum max(1, N); depth; the edge above and its pair; the nodes above.
        self.mass, self.weight = np.zeros(self.rows), np.full(self.rows, float(problem.count))
        self.depth, self.pair = np.zeros((2, self.rows), np.intp)
        self.made = np.zeros(self.rows, np.bool_)
        self.taken, self.above = np.full(self.rows, self.scratch), np.full((4, self.rows), self.scratch)

    @staticmethod
    def rows_for(roots: int, size: int) -> int:
        """Return R."""
        return roots * size + 1

    def plant(self, roots: Any) -> None:
        """Make the roots."""
        new = slice(0, self.roots)
        nodes = self.problem.plant(roots)
        self.numbers[:, new], self.mass[new], self.made[new] = nodes.numbers, nodes.mass, True
        self.ends = nodes.first + self.places[new]

    def simulate(self, node: int) -> None:
        """Make a node in every tree where selection ends, or visit an ending; back up."""
        start = node * self.roots
        edge, new = self.ends, slice(start, start + self.roots)
        action = edge // self.rows
        row = edge - action * self.rows
        depth = self.depth.take(row)
        depth += 1
        levels = int(depth.max())
        pairs, nodes, closed, later = self.problem.arrive(row, action, new)
        if levels == self.max_depth:
            closed |= depth == levels
        self.numbers[:, new], self.mass[new], self.depth[new] = nodes.numbers, nodes.mass, depth
        np.logical_not(closed, out=self.made[new])

        values = np.empty((levels + 1, self.roots))
        np.divide(nodes.mass, self.count, out=values[0])
        np.putmask(values[0], closed, later)
        ends = np.empty((levels + 1, self.roots), np.intp)
        np.add(nodes.first, self.places[new], out=ends[0])
        np.putmask(ends[0], closed, edge)

        path = self._path(row, edge, pairs, new, levels)
        self.visits[self.scratch] = node
        visits = self._back_up(*path, values)
        self._choose(*path[:2], visits, ends, node)

    def _path(
        self, row: Places, edge: Places, pair: Places, new: slice, levels: int
    ) -> tuple[Places, Places, Places]:
        """Return nodes, edges and pairs from last edges [B] up to the roots, each [levels * B]."""
        while levels > len(self.above):
            self.above = np.concatenate([self.above, np.full_like(self.above, self.scratch)])
        rows, edges, pairs = np.empty((3, levels, self.roots), np.intp)
        rows[0], edges[0], pairs[0] = row, edge, pair
        # A mode other than "raise" lets NumPy write where it is told without a copy in between.
        self.above[: levels - 1].take(row, axis=1, out=rows[1:], mode="clip")
        self.taken.take(rows[:-1], out=edges[1:], mode="clip")
        self.pair.take(rows[:-1], out=pairs[1:], mode="clip")
        self.above[:levels, new], self.taken[new], self.pair[new] = rows, edge, pair
        return rows.reshape(-1), edges.reshape(-1), pairs.reshape(-1)

    def _back_up(self, rows: Places, edges: Places, pairs: Places, values: Numbers) -> Numbers:
        """Count a visit along paths [levels * B]; return N of their edges.

        Args:
            rows: nodes, from the last edge up.
            edges: theirs that were taken.
            pairs: of these edges.
            values: [levels + 1, B], of which the first row, V of what last edges lead to, is given, and the
                others are filled with V of the nodes.
        """
        rewards, before = self.problem.rewards.take(pairs), self.visits.take(edges)
        visits, old = before + 1.0, np.maximum(before, 1.0)
        weight = self.weight.take(rows)
        weight += visits
        weight -= old
        # V(node) = a + b V(child), as of line_of_child.
        offsets = self.mass.take(rows)
        old *= self.q.take(edges)
        offsets -= old
        offsets /= weight
        slopes = visits / weight
        offsets += slopes * rewards
        slopes *= self.gamma
        a, b = offsets.reshape(-1, self.roots), slopes.reshape(-1, self.roots)
        for level in range(len(a)):
            above = values[level + 1]
            np.multiply(b[level], values[level], out=above)
            above += a[level]
        q = values[:-1].reshape(-1) * self.gamma
        q += rewards
        self.q[edges], self.visits[edges] = q, visits
        self.mass[rows], self.weight[rows] = values[1:].reshape(-1) * weight, weight
        drive = self.problem.drive.take(pairs)
        drive /= visits + 1.0
        self.urge[edges] = drive
        return visits

    def _choose(self, rows: Places, edges: Places, visits: Numbers, ends: Places, node: int) -> None:
        """Choose anew in the nodes of paths: where selection ends next.

        Args:
            rows: [levels * B] nodes, from the last edge up.
            edges: theirs that were taken.
            visits: N of these edges.
            ends: [levels + 1, B], of which the first row, where selection from the last edges ends, is given.
            node: simulations that were made, with this one.
        """
        # A node's 1 + sum N is N of the edge above it.
        total = np.empty(len(rows))
        total[: -self.roots], total[-self.roots :] = visits[self.roots :], node + 1
        np.sqrt(total, out=total)
        numbers = self.numbers.take(rows, axis=1)
        scores = numbers[self.count :]
        scores *= total
        scores += numbers[: self.count]
        best = _first_largest(scores)
        best *= self.rows
        best += rows
        stays = (best == edges).reshape(-1, self.roots)
        self.ends_of.take(best.reshape(-1, self.roots), out=ends[1:], mode="clip")
        for level, stay in enumerate(stays):
            np.putmask(ends[level + 1], stay, ends[level])
        self.ends_of[edges] = ends[:-1].reshape(-1)
        self.ends = ends[-1]

    def finished(self, states: Places) -> SearchTrees:
        """Return the trees, given what stands for the states of nodes [R]."""
        children = np.full(self.count * self.rows, -1)
        made = np.flatnonzero(self.made)[self.roots :]
        children[self.taken[made]] = made // self.roots
        seen = self._by_tree(np.where(self.made, states, -1))[..., 0]
        edges = (self._by_tree(table) for table in (self.q, self.visits, children))
        return SearchTrees(seen, *edges)

    def _by_tree(self, table: NDArray[Any]) -> Tensor:
        """Return a table of nodes [R] or edges [A * R] as [B, M, 1] or [B, M, A]."""
        by_node = table.reshape(-1, self.rows)[:, : self.scratch].reshape(-1, self.size, self.roots)
        return torch.as_tensor(np.ascontiguousarray(by_node.transpose(2, 1, 0)))


def _first_largest(scores: Numbers) -> Places:
    """Return the first row that holds a column's maximum [P], of [A, P], by how many rows before it do not.

    For A this small NumPy's argmax along either axis takes twice the time.
    """
    less = scores[:-1] != np.maximum.reduce(scores)
    for row in range(1, len(less)):
        less[row] &= less[row - 1]
    few = np.int8 if len(scores) < 128 else np.int16
    found: Places = less.view(np.int8).sum(0, dtype=few).astype(np.intp)
    return found
