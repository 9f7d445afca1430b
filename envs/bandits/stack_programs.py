"""A stack language of seven words, and every program of it that is short enough, run on all inputs at once.

A program is a row of words, executed from the left on an empty stack of whole numbers:

========  =====================================================
x         pushes the input
1         pushes one
dup       pushes the top once more
add       takes two numbers, pushes their sum
sub       takes two numbers, pushes the lower less the upper
mul       takes two numbers, pushes their product
end       ends the program
========  =====================================================

What stands on top at the end is the output. A word that finds too few numbers spoils the program. Programs
are nodes of the tree of `prefrl.envs.finite_horizon.sequence_tree`: word a leads from node i to V i + 1 + a.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.finite_horizon.sequence_tree import num_nodes

WORDS = ("x", "1", "dup", "add", "sub", "mul", "end")
"""The words, in the order of their numbers."""

END = WORDS.index("end")
"""The number of the word that ends a program."""

INPUTS = (-2, -1, 0, 1, 2, 3)
"""What programs are tried with."""

_NEEDED = {"dup": 1, "add": 2, "sub": 2, "mul": 2}
"""How many numbers a word takes from the stack."""


class Programs(NamedTuple):
    """All N prefixes of programs of at most T words, as nodes of their tree."""

    words: NDArray[np.int64]
    """[N, T] the words so far; `end` after the last one."""

    lengths: NDArray[np.int64]
    """[N] how many words there are, `end` among them."""

    complete: NDArray[np.bool_]
    """[N] it ended, by its word or because it has T words."""

    reached: NDArray[np.bool_]
    """[N] no program before it ended already."""

    runs: NDArray[np.bool_]
    """[N] no word found too few numbers."""

    outputs: NDArray[np.int64]
    """[N, E] the top of the stack for each input; 0 where it is empty."""

    sizes: NDArray[np.int64]
    """[N] numbers on the stack."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[N] a complete program that has an output."""
        return self.complete & self.reached & self.runs & (self.sizes > 0)


class _Level(NamedTuple):
    """Programs of one number of words: stacks [K, E, T], sizes [K], and what is known of them."""

    stacks: NDArray[np.int64]
    sizes: NDArray[np.int64]
    runs: NDArray[np.bool_]
    ended: NDArray[np.bool_]
    words: NDArray[np.int64]


def all_programs(depth: int) -> Programs:
    """Run every program of at most so many words on :data:`INPUTS`.

    Args:
        depth: T, at least 1.
    """
    level = _Level(
        np.zeros((1, len(INPUTS), depth), np.int64), np.zeros(1, np.int64), np.ones(1, bool),
        np.zeros(1, bool), np.full((1, depth), END),
    )  # fmt: skip
    levels, reached = [level], [np.ones(1, bool)]
    for step in range(depth):
        reached.append(np.repeat(~level.ended & reached[-1], len(WORDS)))
        level = _next_level(level, step)
        levels.append(level)
    counts = [len(each.sizes) for each in levels]
    assert sum(counts) == num_nodes(len(WORDS), depth)
    sizes = np.concatenate([each.sizes for each in levels])
    stacks = np.concatenate([each.stacks for each in levels])
    top = np.take_along_axis(stacks, np.maximum(sizes - 1, 0)[:, None, None], 2)[..., 0]
    ended = np.concatenate([each.ended for each in levels])
    lengths = np.repeat(np.arange(depth + 1), counts)
    return Programs(
        np.concatenate([each.words for each in levels]), lengths, ended | (lengths == depth),
        np.concatenate(reached), np.concatenate([each.runs for each in levels]),
        np.where(sizes[:, None] > 0, top, 0), sizes,
    )  # fmt: skip


def _next_level(level: _Level, step: int) -> _Level:
    """Return the programs with one word more; after an end nothing happens any more."""
    count = len(level.sizes)
    after = [_executed(level, word) for word in WORDS]
    stacks, sizes, runs = (np.stack(parts, 1) for parts in zip(*after, strict=True))
    words = np.repeat(level.words[:, None], len(WORDS), 1)
    words[:, :, step] = np.where(level.ended[:, None], END, np.arange(len(WORDS)))
    ended = level.ended[:, None] | (np.arange(len(WORDS)) == END)
    flat = count * len(WORDS)
    return _Level(stacks.reshape(flat, *stacks.shape[2:]), sizes.reshape(flat), runs.reshape(flat),
                  ended.reshape(flat), words.reshape(flat, -1))  # fmt: skip


def _executed(level: _Level, word: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return stacks [K, E, T], their sizes [K] and whether all went well [K] after one word."""
    needed = _NEEDED.get(word, 0)
    fine = level.runs & (level.sizes >= needed)
    acts = fine & ~level.ended
    if word == "end":
        return level.stacks, level.sizes, level.runs
    rows = np.flatnonzero(acts)
    stacks, sizes = level.stacks.copy(), level.sizes.copy()
    here = sizes[rows]
    if word == "x":
        stacks[rows, :, here] = np.array(INPUTS)
    elif word == "1":
        stacks[rows, :, here] = 1
    elif word == "dup":
        stacks[rows, :, here] = stacks[rows, :, here - 1]
    else:
        lower, upper = stacks[rows, :, here - 2], stacks[rows, :, here - 1]
        operation = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[word]
        stacks[rows, :, here - 2] = operation(lower, upper)
    sizes[rows] += -1 if needed == 2 else 1
    return stacks, sizes, np.where(level.ended, level.runs, fine)
