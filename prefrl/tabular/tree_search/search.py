"""Monte-Carlo tree search from many roots at once, in a known deterministic model.

Every simulation goes down one tree per root to an edge that leads to no node yet, makes the node with all its
edges (each worth its reward and what a value function says of its successor), and backs up; see
:mod:`prefrl.functional.value_based.tree_search` for the formulas. All roots step together.

Two observations keep a simulation short. Visits and values change along its path alone, so the edge at which
selection ends is known for every node that no simulation has touched since: each edge remembers it, and
going down is one look-up. And V of a node is a + b V(child), so that backing up is one multiplication per
level, with everything else done for all levels at once. What a node sums over its edges is kept and corrected
by what changed; rounding may so differ in the last bits from sums made anew.

Two engines do so: :mod:`.device_trees` by tensor operations, without a look at what they hold, so that
nothing waits for a device; and :mod:`.host_trees` in NumPy on the tensors' memory, whose calls cost less than
torch's on numbers this few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .device_trees import DeviceTrees
from .host_trees import HostTrees, Tables
from .model import DeterministicModel, SearchTrees, check_numbers

Engine = Literal["auto", "torch", "numpy"]
"""What searches."""


def tree_search(
    model: DeterministicModel, roots: Tensor, priors: Tensor, *, values: Tensor | None = None,
    rewards: Tensor | None = None, simulations: int, exploration: float = 1.0, gamma: float = 1.0,
    max_depth: int, engine: Engine = "auto",
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
        engine: "torch", which never waits for a device; "numpy", faster, on the host only; or "auto", NumPy
            where it can be had. They differ in the last bits.

    Raises:
        ValueError: if a table has another shape, a number is out of range, or NumPy is asked for on a device;
            on the host also if a root is no state, or a table holds NaN or infinity (of values, where the
            episode goes on). On a device nothing waits to see.
    """
    tables = {"priors": priors, "values": values, "rewards": rewards}
    _check(model, roots, tables, simulations, max_depth, engine)
    check_numbers(exploration, gamma)
    if roots.device.type == "cpu":
        _check_content(model, roots, tables)
    with torch.inference_mode():
        paid = model.rewards if rewards is None else rewards.to(model.rewards.dtype)
        later = torch.zeros_like(model.start)
        if values is not None:
            later = torch.where(model.terminal, later, values.to(later.dtype))
        drive = exploration * priors.to(paid.dtype)
        on_host = roots.device.type == "cpu" and engine != "torch"
        search = _on_the_host if on_host else _on_a_device
        return search(model, roots, paid, drive, later, simulations, gamma, max_depth)


def _on_a_device(
    model: DeterministicModel, roots: Tensor, rewards: Tensor, drive: Tensor, later: Tensor,
    simulations: int, gamma: float, max_depth: int,
) -> SearchTrees:  # fmt: skip
    trees = DeviceTrees(model, rewards, drive, later, len(roots), simulations + 1, gamma)
    trees.plant(roots)
    for node in range(1, simulations + 1):
        trees.simulate(node, min(node, max_depth), max_depth)
    return SearchTrees(*(table.clone() for table in trees.finished()))


def _on_the_host(
    model: DeterministicModel, roots: Tensor, rewards: Tensor, drive: Tensor, later: Tensor,
    simulations: int, gamma: float, max_depth: int,
) -> SearchTrees:  # fmt: skip
    size = simulations + 1
    # Nothing is drawn: roots that are the same state have the same tree.
    starts, which = np.unique(roots.numpy(), return_inverse=True)
    tables = Tables(
        model.successors.numpy(), rewards.numpy(), model.terminal.numpy(), drive.numpy(), later.numpy(),
        gamma, HostTrees.rows_for(len(starts), size),
    )  # fmt: skip
    trees = HostTrees(tables, len(starts), size, gamma, max_depth)
    trees.plant(starts)
    for node in range(1, size):
        trees.simulate(node)
    found = trees.finished(tables.states)
    return SearchTrees(*(table[torch.as_tensor(which)] for table in found))


def _check(
    model: DeterministicModel, roots: Tensor, tables: Mapping[str, Tensor | None], simulations: int,
    max_depth: int, engine: Engine,
) -> None:  # fmt: skip
    pairs = list(model.successors.shape)
    for name, table in tables.items():
        shape = pairs[:1] if name == "values" else pairs
        if table is not None and list(table.shape) != shape:
            raise ValueError(f"{name} has shape {list(table.shape)}; it must be {shape}")
    if roots.ndim != 1 or not len(roots) or roots.dtype != torch.int64:
        raise ValueError(f"roots is {roots.dtype} {list(roots.shape)}; it must be int64 [B], B at least 1")
    for number, given in (("simulations", simulations), ("max_depth", max_depth)):
        if given < 1:
            raise ValueError(f"{number} is {given}; it must be at least 1")
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}; it must be one of {', '.join(get_args(Engine))}")
    if engine == "numpy" and roots.device.type != "cpu":
        raise ValueError(f"engine is 'numpy', and roots are on {roots.device}; it searches on the CPU only")


def _check_content(model: DeterministicModel, roots: Tensor, tables: Mapping[str, Tensor | None]) -> None:
    states = len(model.terminal)
    low, high = int(roots.min()), int(roots.max())
    if low < 0 or high >= states:
        raise ValueError(f"roots lie in {low} to {high}; states are 0 to {states - 1}")
    for name, table in tables.items():
        if table is None:
            continue
        seen = table[~model.terminal]
        if not bool(seen.isfinite().all()):
            raise ValueError(f"{name} hold NaN or infinity; they must be finite where the episode goes on")
        if name == "priors" and bool((seen < 0.0).any()):
            raise ValueError(f"priors go down to {float(seen.min())}; they must not be negative")
