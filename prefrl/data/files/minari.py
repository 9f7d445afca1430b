"""Minari's datasets as data sets of transitions: local ones only, nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.data.datasets import TransitionDataset, space_dtype
from prefrl.reading.errors import one_line, refusal

from .bounded import check_hdf5_promises


def load_minari(dataset: Any) -> TransitionDataset:
    """Return a Minari dataset (https://minari.farama.org) as transitions.

    Its episodes have one observation more than actions, so that true successors are known even where an
    episode ends. Image observations are what Minari made of them
    when the dataset was written: by default lossy JPEG.

    Args:
        dataset: id of a dataset on this machine ("D4RL/pointmaze/umaze-v2"), or a ``minari.MinariDataset``
            (with chosen episodes, for instance).

    Returns:
        A validated data set; its ``env_id`` is that of the dataset's environment, if it names one.

    Raises:
        ImportError: if Minari is not installed; it says how to install it.
        FileNotFoundError: if there is no such dataset on this machine; it says how to download one.
        TypeError: if ``dataset`` is neither an id nor a dataset.
        ValueError: if a space is neither Discrete nor Box, an episode is damaged (it names which), or the
            file promises much more than it holds.
    """
    minari = _import_minari()
    if not isinstance(dataset, (str, minari.MinariDataset)):
        raise TypeError(f"dataset is a {type(dataset).__name__}; give the id of a Minari dataset, or one")
    name = dataset if isinstance(dataset, str) else str(dataset.id)
    try:
        return _transitions(_local(minari, dataset) if isinstance(dataset, str) else dataset)
    except (FileNotFoundError, ImportError):
        raise
    except ValueError as error:
        raise refusal(name, one_line(error)) from error
    except Exception as error:  # Minari and HDF5 have a dozen kinds for files that are not theirs
        raise refusal(name, f"{name} is damaged or no Minari dataset ({one_line(error)})") from error


def _transitions(dataset: Any) -> TransitionDataset:
    """Return the transitions of a ``minari.MinariDataset``."""
    path = Path(dataset.storage.data_path, "main_data.hdf5")
    if path.is_file():  # Minari keeps data in other ways too
        check_hdf5_promises(path)
    for name in ("observation_space", "action_space"):
        space = getattr(dataset, name)
        if not isinstance(space, (gym.spaces.Discrete, gym.spaces.Box)):
            raise ValueError(f"{dataset.id} has the {name} {space}; allowed are Discrete and Box")
    columns: dict[str, list[Tensor]] = {}
    for steps in _episodes(dataset):
        for name, values in steps.items():
            columns.setdefault(name, []).append(values)
    if not columns:
        raise ValueError(f"{dataset.id} has no transitions")
    return TransitionDataset.from_transitions(
        **{name: torch.cat(values) for name, values in columns.items()},
        observation_space=dataset.observation_space,
        action_space=dataset.action_space,
        env_id=None if dataset.env_spec is None else dataset.env_spec.id,
    )


def _import_minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise ImportError('Minari is not installed: pip install ".[minari]"') from error
    return minari


def _local(minari: Any, dataset_id: str) -> Any:
    try:
        return minari.load_dataset(dataset_id, download=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no Minari dataset {dataset_id!r} on this machine (minari list local shows those that "
            f"are there; MINARI_DATASETS_PATH says where they lie); to download it: "
            f"minari download {dataset_id}"
        ) from error


def _episodes(dataset: Any) -> Iterator[dict[str, Tensor]]:
    """Yield the transitions of every episode that has any."""
    obs_dtype, action_dtype = space_dtype(dataset.observation_space), space_dtype(dataset.action_space)
    for episode in dataset.iterate_episodes():
        length = len(episode.rewards)
        flags = {name: np.asarray(getattr(episode, name)) for name in ("terminations", "truncations")}
        counts = {"observations": len(episode.observations) - 1, "actions": len(episode.actions),
                  **{name: len(values) for name, values in flags.items()}}  # fmt: skip
        for name, count in counts.items():
            if count != length:
                raise ValueError(f"episode {episode.id} of {dataset.id} has {length} rewards, but its {name} "
                                 f"are for {count} steps")  # fmt: skip
        if length == 0:
            continue
        obs = _cast(f"observations of episode {episode.id}", episode.observations, obs_dtype)
        ends = torch.zeros(length, dtype=torch.bool)
        ends[-1] = True
        yield {
            "obs": obs[:-1],
            "actions": _cast(f"actions of episode {episode.id}", episode.actions, action_dtype),
            "rewards": torch.as_tensor(np.asarray(episode.rewards)).to(torch.float32),
            "next_obs": obs[1:],
            **{name: torch.as_tensor(values).to(torch.bool) for name, values in flags.items()},
            "ends": ends,
        }


def _cast(name: str, values: Any, dtype: torch.dtype) -> Tensor:
    tensor = torch.as_tensor(np.asarray(values))
    if tensor.is_floating_point() and not dtype.is_floating_point:
        raise ValueError(f"the {name} are {tensor.dtype}; the space's are {dtype}")
    return tensor.to(dtype)
