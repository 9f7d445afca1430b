"""The tree search as tensor operations: nothing is looked at, so nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from prefrl.functional.value_based.tree_search import (
    line_of_child,
    node_values,
    puct_scores,
)

from .model import DeterministicModel, SearchTrees


class DeviceTrees:
    """B trees as they grow.

    Node i of tree b is row ``i * B + b``, so that nodes which are made together lie together. A row has two
    halves of A numbers each; edge a of a row is ``row * 2 A + a``, and its number in the second half lies A
    further. The last row, scratch, is what a root hangs on: whatever is written there does not count.
    """

    def __init__(
        self, model: DeterministicModel, rewards: Tensor, drive: Tensor, later: Tensor, roots: int,
        size: int, gamma: float,
    ) -> None:  # fmt: skip
        states, count = model.successors.shape
        self.roots, self.size, self.count, self.width, self.gamma = roots, size, count, 2 * count, gamma
        self.scratch = rows = roots * size
        # What a node is when it is made, by its state [S, ...].
        fresh = rewards + gamma * later[model.successors]
        nothing = torch.zeros_like(fresh)
        self.successors, self.terminal, self.states_count = model.successors.flatten(), model.terminal, states
        self.mass_of = fresh.sum(-1)
        self.pairs_of = torch.cat([fresh, drive], 1)
        self.facts_of = torch.cat([nothing, rewards], 1)
        self.leaf_of = torch.cat([node_values(fresh, nothing), later])  # [2 S]: of a new node, of an ending
        self.first = puct_scores(fresh, drive, nothing, 1.0).argmax(-1)
        with torch.device(model.successors.device):
            # Of edges: Q and w p / (1 + N); N and the reward; the edge where a selection that takes it ends.
            self.pairs, self.facts = torch.zeros(2, rows + 1, self.width, dtype=torch.float64)
            self.ends_of = torch.arange((rows + 1) * self.width)
            # Of nodes: sum max(1, N) Q, sum max(1, N), 1 + sum N; state, depth, the edge and the node above.
            self.mass, self.weight, self.total = torch.ones(3, rows + 1, dtype=torch.float64)
            self.states, self.depth, self.taken, self.above = torch.zeros(4, rows + 1, dtype=torch.int64)
            self.base = torch.arange(roots)
        self.weight.fill_(float(count))
        self.taken.fill_(rows * self.width)
        self.above.fill_(rows)
        self.q, self.visits = self.pairs.flatten(), self.facts.flatten()
        self.urge, self.rewards = self.q[count:], self.visits[count:]

    def plant(self, states: Tensor) -> None:
        """Make the roots."""
        self._make(0, states)
        self.ends = self.base * self.width + self.first[states]

    def _make(self, node: int, states: Tensor) -> None:
        """Write a node of every tree as it is before any visit but the one that makes it."""
        new = slice(node * self.roots, (node + 1) * self.roots)
        self.states[new] = states
        torch.index_select(self.pairs_of, 0, states, out=self.pairs[new])
        torch.index_select(self.facts_of, 0, states, out=self.facts[new])
        torch.index_select(self.mass_of, 0, states, out=self.mass[new])

    def simulate(self, node: int, levels: int, max_depth: int) -> None:
        """Make a node in every tree where selection ends, or visit an ending; back up ``levels`` edges."""
        new = slice(node * self.roots, (node + 1) * self.roots)
        edge = self.ends
        action = edge % self.width
        above = (edge - action) // self.width
        state = self.successors.take(torch.add(action, self.states.take(above), alpha=self.count))
        depth = self.depth.take(above) + 1
        closed = self.terminal.take(state) | (depth == max_depth)
        self._make(node, state)
        torch.mul(depth, ~closed, out=self.depth[new])
        self.above[new], self.taken[new] = above, edge
        value = self.leaf_of.take(torch.add(state, closed, alpha=self.states_count))
        start = (self.base + node * self.roots) * self.width
        ends = torch.where(closed, edge, start + self.first.take(state))
        edges, rows = [edge], [above]
        for _ in range(levels - 1):
            edges.append(self.taken.take(rows[-1]))
            rows.append(self.above.take(rows[-1]))
        self.ends = self._back_up(torch.cat(edges), torch.cat(rows), value, ends, levels)

    def _back_up(self, edges: Tensor, rows: Tensor, value: Tensor, ends: Tensor, levels: int) -> Tensor:
        """Count a visit along paths; return the edges where selection ends next [B].

        Args:
            edges: [D * B] from the last one up, those of the scratch row beyond the root.
            rows: [D * B] the nodes that they are of.
            value: [B] V of what the last edge leads to.
            ends: [B] where selection from there ends.
            levels: D.
        """
        before, rewards = self.visits.take(edges), self.rewards.take(edges)
        visits, old = before + 1.0, before.clamp(min=1.0)
        others = torch.addcmul(self.mass.take(rows), old, self.q.take(edges), value=-1.0)
        weight = self.weight.take(rows) + (visits - old)
        offsets, slopes = line_of_child(others, visits, weight, rewards, self.gamma)
        below = [value]
        for offset, slope in zip(offsets.chunk(levels), slopes.chunk(levels), strict=True):
            below.append(torch.addcmul(offset, slope, below[-1]))
        q = torch.add(rewards, torch.cat(below[:-1]), alpha=self.gamma)
        total = self.total.take(rows) + 1.0
        self.q.put_(edges, q)
        self.urge.put_(edges, self.urge.take(edges) * (visits / (visits + 1.0)))
        self.visits.put_(edges, visits)
        self.mass.put_(rows, torch.addcmul(others, visits, q))
        self.weight.put_(rows, weight)
        self.total.put_(rows, total)

        q_of_all, urge_of_all = self.pairs.index_select(0, rows).chunk(2, 1)
        scores = torch.addcmul(q_of_all, urge_of_all, total.sqrt()[:, None])
        best = torch.add(scores.max(1).indices, rows, alpha=self.width)
        stays = (best == edges) | (rows == self.scratch)
        reached = [ends]
        for stay, other in zip(stays.chunk(levels), self.ends_of.take(best).chunk(levels), strict=True):
            reached.append(torch.where(stay, reached[-1], other))
        self.ends_of.put_(edges, torch.cat(reached[:-1]))
        return reached[-1]

    def finished(self) -> SearchTrees:
        """Return the trees."""
        shape = (self.size, self.roots, self.width)
        nodes = torch.arange(self.size, device=self.base.device).repeat_interleave(self.roots)
        made = (self.depth[:-1] > 0) | (nodes == 0)
        children = torch.full_like(self.ends_of, -1)
        # What was not made hangs on the scratch row, as the roots do.
        children.put_(torch.where(made, self.taken[:-1], self.scratch * self.width), nodes)

        def by_root(table: Tensor) -> Tensor:
            return table.view(shape)[..., : self.count].transpose(0, 1)

        return SearchTrees(
            torch.where(made, self.states[:-1], -1).view(shape[:2]).T, by_root(self.pairs[:-1]),
            by_root(self.facts[:-1]), by_root(children[: -self.width]),
        )  # fmt: skip
