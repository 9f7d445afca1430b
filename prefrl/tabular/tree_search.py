"""Monte-Carlo tree search from many roots at once, in a known deterministic model.

Every simulation goes down one tree per root to an edge that leads to no node yet, makes the node with all its
edges (each worth its reward and what a value function says of its successor), and backs up; see
:mod:`prefrl.functional.value_based.tree_search` for the formulas. All roots step together as tensor
operations, without a look at what they hold: nothing waits for the device.

Two observations keep a simulation short. Visits and values change along its path alone, so the edge at which
selection ends is known for every node that no simulation has touched since: each edge remembers it, and
going down is one look-up. And V of a node is a + b V(child), so that backing up is one multiplication per
level, with everything else done for all levels at once. What a node sums over its edges is kept and corrected
by what changed; rounding may so differ in the last bits from sums made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefrl.functional.value_based.tree_search import (
    line_of_child,
    node_values,
    puct_scores,
)

MAX_STEPS = 4_096
"""Steps that a state may offer."""


@dataclass(frozen=True)
class DeterministicModel:
    """A model in which every pair has one successor; S states, A steps, each of up to L actions."""

    successors: Tensor
    """[S, A] int64 next states; terminal states lead to themselves."""
    rewards: Tensor
    """[S, A] float64 rewards, 0 in terminal states; of several actions, their discounted sum."""
    terminal: Tensor
    """[S] bool."""
    start: Tensor
    """[S] float64 start distribution."""
    actions: Tensor
    """[A, L] int64 the actions of a step."""
    states: Tensor
    """[S, A, L] int64 the state in which each of them is taken."""

    @classmethod
    def from_env(cls, env: Any, device: torch.device | str = "cpu") -> DeterministicModel:
        """Take the model of an environment that offers ``tabular_model()``, any face, wrapped or not.

        Raises:
            ValueError: if it offers none, or a pair of it has several successors.
        """
        task = getattr(env, "unwrapped", env)
        if not hasattr(task, "tabular_model"):
            raise ValueError(f"{task} offers no tabular_model(); a search needs an environment that does")
        model = task.tabular_model()
        likely = model.probabilities.argmax(-1)[..., None]
        certain = np.take_along_axis(model.probabilities, likely, -1)[..., 0]
        wrong = np.argwhere((certain < 1.0 - 1e-9) & ~model.terminal[:, None])
        if len(wrong):
            state, action = wrong[0].tolist()
            raise ValueError(f"action {action} in state {state} has several successors; a search needs a "
                             "deterministic model")  # fmt: skip
        successors, rewards = (
            np.take_along_axis(table, likely, -1)[..., 0] for table in (model.successors, model.rewards)
        )
        return cls.of_tables(successors, rewards, model.terminal, model.start, device=device)

    @classmethod
    def of_tables(
        cls, successors: Any, rewards: Any, terminal: Any, start: Any, *, device: torch.device | str = "cpu"
    ) -> DeterministicModel:
        """Make one of tables [S, A], [S, A], [S] and [S].

        Raises:
            ValueError: if they do not fit together, or successors are no states.
        """
        following, pays = torch.as_tensor(successors), torch.as_tensor(rewards, dtype=torch.float64)
        ends, begin = torch.as_tensor(terminal), torch.as_tensor(start, dtype=torch.float64)
        if following.ndim != 2 or following.is_floating_point():
            raise ValueError(f"successors are {following.dtype} {list(following.shape)}; they must be whole "
                             "numbers [S, A]")  # fmt: skip
        states, count = following.shape
        for name, table, shape in (("rewards", pays, (states, count)), ("terminal", ends, (states,)),
                                   ("start", begin, (states,))):  # fmt: skip
            if tuple(table.shape) != shape:
                raise ValueError(f"{name} has shape {list(table.shape)}; it must be {list(shape)}")
        if int(following.min()) < 0 or int(following.max()) >= states:
            raise ValueError(f"successors lie in {int(following.min())} to {int(following.max())}; states "
                             f"are 0 to {states - 1}")  # fmt: skip
        if not bool(pays.isfinite().all()):
            raise ValueError("rewards hold NaN or infinity")
        here = torch.arange(states)[:, None]
        following = torch.where(ends[:, None], here, following)
        tables = (following, torch.where(ends[:, None], 0.0, pays), ends, begin,
                  torch.arange(count)[:, None], here[..., None].expand(-1, count, 1))  # fmt: skip
        return cls(*(table.to(device) for table in tables))

    def in_steps_of(self, length: int, gamma: float = 1.0) -> DeterministicModel:
        """Return the same model whose steps are ``length`` actions each, fewer where the episode ends.

        Raises:
            ValueError: if the steps would be more than 4,096.
        """
        base, count = self, self.successors.shape[1]
        if count**length > MAX_STEPS:
            raise ValueError(f"step_length is {length}; {count} actions make {count**length} such steps, at "
                             f"most {MAX_STEPS} are searched")  # fmt: skip
        found = base
        for done in range(1, length):
            last = found.successors[..., None].expand(-1, -1, count)  # [S, steps so far, A]
            rewards = found.rewards[..., None] + gamma**done * base.rewards[found.successors]
            before = found.states[:, :, None].expand(-1, -1, count, -1)
            actions = [found.actions.repeat_interleave(count, 0), base.actions.repeat(len(found.actions), 1)]
            found = DeterministicModel(
                base.successors[found.successors].flatten(1), rewards.flatten(1), base.terminal, base.start,
                torch.cat(actions, 1), torch.cat([before, last[..., None]], -1).flatten(1, 2),
            )  # fmt: skip
        return found

    def log_probs(self, policy: Tensor) -> Tensor:
        """Return log pi [S, A, L] of the actions of every step; NaN after the end of the episode.

        Args:
            policy: [S, actions] probabilities.
        """
        found = policy.log()[self.states, self.actions]
        return torch.where(self.after_the_end, torch.nan, found)

    @property
    def after_the_end(self) -> Tensor:
        """[S, A, L] bool: actions that a step does not have, since the episode ended before."""
        return self.terminal[self.states] & (
            torch.arange(self.states.shape[-1], device=self.states.device) > 0
        )


class SearchTrees(NamedTuple):
    """What a search leaves: B trees of up to M nodes, the root first."""

    states: Tensor
    """[B, M] int64 state of each node; -1 where a simulation made none."""
    q: Tensor
    """[B, M, A]."""
    visits: Tensor
    """[B, M, A] N."""
    children: Tensor
    """[B, M, A] int64 node that an edge leads to; -1: none, also where the episode ends."""

    @property
    def values(self) -> Tensor:
        """[B, M] V of the nodes."""
        return node_values(self.q, self.visits)


def tree_search(
    model: DeterministicModel, roots: Tensor, priors: Tensor, *, values: Tensor | None = None,
    rewards: Tensor | None = None, simulations: int, exploration: float = 1.0, gamma: float = 1.0,
    max_depth: int,
) -> SearchTrees:  # fmt: skip
    """Search from B roots, ``simulations`` times each.

    Ties in the choice of an edge go to the first. A visit of a terminal state, or of one ``max_depth`` steps
    away, makes no node, and counts.

    Args:
        model: what is searched.
        roots: [B] int64 states; in terminal ones there is nothing to find.
        priors: [S, A] p.
        values: [S] v, what is to come in a state before it is searched (None: 0); in terminal ones, nothing.
        rewards: [S, A] instead of the model's, such as ``value_differences`` of a judge's values.
        simulations: of each root.
        exploration: w of PUCT.
        gamma: discount of a step.
        max_depth: steps of the longest path.

    Raises:
        ValueError: if a table has another shape, or a number is not positive.
    """
    tables = {"priors": priors, "values": values, "rewards": rewards}
    _check(model, roots, tables, simulations, max_depth)
    with torch.inference_mode():
        paid = model.rewards if rewards is None else rewards.to(model.rewards.dtype)
        later = torch.zeros_like(model.start)
        if values is not None:
            later = torch.where(model.terminal, later, values.to(later.dtype))
        drive = exploration * priors.to(paid.dtype)
        trees = _Trees(model, paid, drive, later, len(roots), simulations + 1, gamma)
        trees.plant(roots)
        for node in range(1, simulations + 1):
            # On the host a look costs less than levels that no tree has reached.
            deepest = int(trees.depth.max()) if roots.device.type == "cpu" else node - 1
            trees.simulate(node, min(deepest + 1, max_depth), max_depth)
        found = trees.finished()
    return SearchTrees(*(table.clone() for table in found))


def _check(
    model: DeterministicModel, roots: Tensor, tables: Mapping[str, Tensor | None], simulations: int,
    max_depth: int,
) -> None:  # fmt: skip
    pairs = list(model.successors.shape)
    for name, table in tables.items():
        shape = pairs[:1] if name == "values" else pairs
        if table is not None and list(table.shape) != shape:
            raise ValueError(f"{name} has shape {list(table.shape)}; it must be {shape}")
    if roots.ndim != 1 or not len(roots):
        raise ValueError(f"roots has shape {list(roots.shape)}; it must be [B], B at least 1")
    for number, given in (("simulations", simulations), ("max_depth", max_depth)):
        if given < 1:
            raise ValueError(f"{number} is {given}; it must be at least 1")


class _Trees:
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
