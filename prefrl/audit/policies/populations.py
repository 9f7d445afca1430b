"""What a policy can do, with how likely and how good it is: out of a table, or of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prefrl.reading.errors import reading
from prefrl.reading.text import finite_number, read_table
from prefrl.run.folder import RunFolder

from .base import Opened, open_run, refuse_file
from .behaviour import lived

NEEDED = ("option", "probability", "reward")
"""Columns that a table must have; others are features."""


@dataclass(frozen=True, eq=False)
class Population:
    """n options in each of P situations, such as prompts."""

    probs: Tensor
    """[P, n] of the policy, float64, summing to 1."""
    rewards: Tensor
    """[P, n]."""
    features: Tensor
    """[P, n, F] of options, such as how often an action is taken."""
    feature_names: tuple[str, ...]
    """Of the F features."""
    shares: Tensor
    """[P] how often each situation occurs."""
    known_by: str
    """Where they come from, in words."""


def read_population(source: Path, *, episodes: int, seed: int) -> Population:
    """Return the options of a table (.csv), or of a run's policy.

    Args:
        source: the file, or the run folder.
        episodes: of a policy that is no table of sequences, episodes that are lived through.
        seed: of the episodes.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is damaged, or rewards or probabilities are none.
    """
    if source.suffix.lower() == ".csv":
        return population_of_table(source)
    refuse_file(source)
    opened = open_run(RunFolder.open(source, quiet=True))
    task = getattr(opened.env, "unwrapped", opened.env)
    tabular = hasattr(task, "sequence_log_probs") and hasattr(task, "sequence_returns")
    if tabular and hasattr(opened.agent, "policy_table"):
        return _of_sequences(opened, task)
    return _of_episodes(opened, episodes, seed)


def population_of_table(path: Path) -> Population:
    """Read a table option,probability,reward, whose other columns are features of the options.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, and what is wrong with it.
    """
    lines = read_table(path, "table of options")
    with reading(path, "table of options"):
        if not lines:
            raise ValueError(f"it is empty; its first line must name the columns, as {','.join(NEEDED)}")
        names = [name.strip() for name in lines[0]]
        missing = [name for name in NEEDED if names.count(name) != 1]
        if missing:
            raise ValueError(f"its first line is {','.join(names)!r}; it must name {missing[0]!r} once")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"its first line names {twice[0]!r} twice; each column needs a name of its own")
        wrong = [row for row, line in enumerate(lines) if len(line) != len(names)]
        if wrong:
            raise ValueError(f"row {wrong[0]} has {len(lines[wrong[0]])} entries; the first line names "
                             f"{len(names)}")  # fmt: skip
        if len(lines) < 3:
            raise ValueError(f"it holds {len(lines) - 1} options; a loop needs at least 2")
        columns = {}
        for place, name in enumerate(names):
            if name != "option":
                cells = [finite_number(line[place], row, name) for row, line in enumerate(lines[1:], 1)]
                columns[name] = torch.tensor(cells, dtype=torch.float64)
        probs = columns["probability"]
        if bool((probs < 0.0).any()) or not 0.999 <= float(probs.sum()) <= 1.001:
            raise ValueError(f"probabilities sum to {float(probs.sum()):.6g}; they must not be negative, and "
                             "sum to 1 (within .001)")  # fmt: skip
    kinds = tuple(name for name in columns if name not in NEEDED)
    features = torch.stack([columns[name] for name in kinds], 1) if kinds else probs.new_zeros(len(probs), 0)
    return Population((probs / probs.sum())[None], columns["reward"][None], features[None], kinds,
                      torch.ones(1, dtype=torch.float64), f"a table of {len(probs)} options")  # fmt: skip


def _of_sequences(opened: Opened, task: object) -> Population:
    """Return all sequences of all prompts, with their exact probabilities under the first learner."""
    table = opened.agent.policy_table()  # type: ignore[attr-defined]  # was asked for
    policy = (table[0] if table.ndim == 3 else table).cpu().numpy()
    probs = torch.as_tensor(task.sequence_log_probs(policy)).double().exp()  # type: ignore[attr-defined]
    rewards = torch.as_tensor(task.sequence_returns()).double()  # type: ignore[attr-defined]
    tokens = torch.as_tensor(task.sequences()).long()  # type: ignore[attr-defined]
    actions = int(opened.env.action_space.n)
    used = torch.nn.functional.one_hot(tokens, actions).double().mean(1)
    prompts = len(probs)
    shares = torch.full((prompts,), 1.0 / prompts, dtype=torch.float64)
    return Population(probs, rewards, used.expand(prompts, -1, -1), _action_names(actions), shares,
                      f"all {probs.shape[1]} sequences of {prompts} prompts, exactly")  # fmt: skip


def _of_episodes(opened: Opened, episodes: int, seed: int) -> Population:
    """Return episodes that were lived through, each as likely as the others."""
    found = lived(opened.agent, opened.recipe, episodes, seed)
    count = len(found.returns)
    used = torch.zeros(count, 0, dtype=torch.float64)
    names: tuple[str, ...] = ()
    if found.action_counts is not None:
        used = found.action_counts.double() / found.action_counts.sum(1, keepdim=True)
        names = _action_names(used.shape[1], int(opened.env.action_space.start))
    probs = torch.full((1, count), 1.0 / count, dtype=torch.float64)
    return Population(probs, found.returns[None], used[None], names, torch.ones(1, dtype=torch.float64),
                      f"{count} episodes")  # fmt: skip


def _action_names(count: int, start: int = 0) -> tuple[str, ...]:
    return tuple(f"action {action}" for action in range(start, start + count))
