"""Where segments come from that people are asked about: runs, environments, files, other studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import (
    Preferences,
    Segments,
    concatenate_segments,
    load_preferences,
    load_transitions,
    seeded_generator,
)
from prefrl.envs.arguments import make_scalar_env
from prefrl.label.drawing import pictures_of
from prefrl.label.making import Pool
from prefrl.label.records import StoredSegment
from prefrl.label.segments import segments_from
from prefrl.label.store import LabelStore
from prefrl.run.collect import collect_with_states
from prefrl.run.folder import RunFolder
from prefrl.run.launch import open_recipe


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a source."""

    segments: int
    """How many, all different; a source may have fewer."""

    length: int
    """Transitions of a segment; those that end in a terminal state may be shorter."""

    steps: int
    """Steps that are taken to cut them from, where something acts."""

    seed: int
    """Of episodes and draws."""


@dataclass(frozen=True)
class Source:
    """Segments, and the environment that draws them."""

    pool: Pool
    environment: str | None = None
    """Its id; None where pictures are there already."""

    env_args: tuple[str, ...] = ()
    """Its arguments."""

    fps: int | None = None
    """Pictures per second, as the environment says."""


def act(env: Any, policy: Agent | None, wanted: Wanted) -> tuple[list[StoredSegment], list[float]]:
    """Return segments of a policy's episodes, with simulator states, and their true returns.

    Args:
        env: a scalar environment.
        policy: whose actions are taken, as it draws them; None: uniform ones.
        wanted: how many segments, and of what.

    Raises:
        ValueError: if the environment has no simulator states, or no whole segment came about.
    """
    store = collect_with_states(policy, env, wanted.steps, seed=wanted.seed)
    generator = seeded_generator(wanted.seed, "segments to ask people about")
    found: dict[str, tuple[StoredSegment, float]] = {}
    for _ in range(10):  # segments that are drawn twice count once
        excerpt = store.sample(wanted.segments, wanted.length, generator)
        whole = excerpt.at((excerpt.weights > 0).nonzero()[:, 0])
        if not len(whole.segments):
            raise ValueError(f"segment_length is {wanted.length}; {wanted.steps} steps hold no whole segment "
                             "of that length")  # fmt: skip
        assert whole.states is not None
        cut = segments_from(whole.segments, whole.states.numpy(force=True))
        for segment, paid in zip(cut, whole.rewards.sum(1).tolist(), strict=True):
            found.setdefault(segment.digest, (segment, paid))
        if len(found) >= wanted.segments:
            break
    kept = list(found.values())[: wanted.segments]
    return [segment for segment, _ in kept], [paid for _, paid in kept]


def of_environment(env_id: str, env_args: tuple[str, ...], wanted: Wanted) -> Source:
    """Return segments of uniform actions in an environment."""
    env = make_scalar_env(env_id, env_args)
    space = env.action_space
    if isinstance(space, gym.spaces.Box) and not space.is_bounded("both"):
        raise ValueError(f"{env_id} has actions without bounds, of which none are uniform; let the agent of "
                         "a run act, by --from RUN")  # fmt: skip
    segments, returns = act(env, None, wanted)
    source = Source(Pool(segments, np.array(returns)), env_id, env_args, _fps(env))
    env.close()
    return source


def of_run(run: Path, wanted: Wanted, *, every_checkpoint: bool = False) -> Source:
    """Return segments of a run's agent, which acts in its environment as it does while it learns.

    Args:
        run: the run folder.
        wanted: how many segments, and of what.
        every_checkpoint: share them among the agent at all checkpoints that were kept, not the last alone.
    """
    folder = RunFolder.open(run)
    recipe = open_recipe(folder)
    views = folder.kept() if every_checkpoint else [folder]
    if not views:
        raise ValueError(f"{run} has no checkpoints; it must be trained with --keep-checkpoints")
    segments: dict[str, tuple[StoredSegment, float]] = {}
    for place, view in enumerate(views):
        agent, env = recipe.evaluation(view)
        share = -(-wanted.segments // len(views))
        steps = max(2 * wanted.length, -(-wanted.steps // len(views)))
        found = act(env, agent, Wanted(share, wanted.length, steps, wanted.seed + place))
        segments |= {one.digest: (one, paid) for one, paid in zip(*found, strict=True)}
        env.close()
    env_id, env_args = recipe.made
    pool = Pool([one for one, _ in segments.values()], np.array([paid for _, paid in segments.values()]))
    return Source(pool, env_id, tuple(env_args), _fps(env))


def of_file(path: Path, wanted: Wanted) -> Source:
    """Return segments of a file of transitions, or those of comparisons, whose observations are pictures.

    Raises:
        ValueError: if it is neither file, or its observations are no pictures.
    """
    found = _read(path)
    if isinstance(found, Preferences):
        both = concatenate_segments([found.first, found.second])
        stored = _pictured(both, path)
        places = {segment.digest: place for place, segment in reversed(list(enumerate(stored)))}
        known = {digest: place for place, digest in enumerate(places)}
        different = [stored[place] for place in places.values()]
        sides = [known[segment.digest] for segment in stored]
        half = len(found)
        pairs = dict.fromkeys(
            (one, two) for one, two in zip(sides[:half], sides[half:], strict=True) if one != two
        )
        return Source(Pool(different, pairs=list(pairs)))
    starts = found.segment_starts(wanted.length)
    if not len(starts):
        raise ValueError(f"segment_length is {wanted.length}; {path} has no segment of so many steps")
    generator = seeded_generator(wanted.seed, "segments to ask people about")
    chosen = starts[torch.randperm(len(starts), generator=generator)[: wanted.segments]]
    segments, rewards = found.segments(chosen, wanted.length)
    returns = {one.digest: (one, paid) for one, paid in
               zip(_pictured(segments, path), rewards.sum(1).tolist(), strict=True)}  # fmt: skip
    return Source(
        Pool([one for one, _ in returns.values()], np.array([paid for _, paid in returns.values()]))
    )


def _read(path: Path) -> Any:
    """Return the comparisons or the transitions that a file holds."""
    try:
        return load_preferences(path)
    except ValueError as error:
        try:
            return load_transitions(path)
        except ValueError as other:
            raise ValueError(f"{path} is neither a file of comparisons ({error}) nor one of transitions "
                             f"({other})") from other  # fmt: skip


def _pictured(segments: Segments, path: Path) -> list[StoredSegment]:
    obs: Tensor = segments.obs
    if pictures_of(obs[0].numpy()) is None:
        raise ValueError(f"{path} holds neither simulator states nor pictures: its observations are "
                         f"{obs.dtype} {list(obs.shape[2:])}, and there is nothing to draw; let the agent of "
                         "a run act, by --from RUN")  # fmt: skip
    return segments_from(segments)


def of_study(folder: Path) -> Source:
    """Return the segments of another study, with what it draws them by."""
    with LabelStore.open(folder) as store:
        digests: dict[str, None] = {}
        for row in store.questions():
            digests |= dict.fromkeys(item.segment for item in row.items if item.segment is not None)
        segments = [store.segment(digest) for digest in digests]
        if not segments:
            raise ValueError(f"{folder} has no segments")
        study = store.study
    return Source(Pool(segments), study.environment, study.env_args, study.fps)


def _fps(env: Any) -> int | None:
    fps = env.metadata.get("render_fps")
    return None if fps is None else max(1, min(60, round(fps)))
