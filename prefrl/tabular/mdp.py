"""Batches of finite MDPs of different size, padded and masked, as float64 tensors on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from prefrl.envs.grids.grid import TabularModel


@dataclass(frozen=True)
class TabularMDP:
    """M finite MDPs with linear reward features, padded to S states and K successors.

    Terminal states end the episode: what follows is worth nothing, whatever their successors say. Padding is
    terminal, and unused successors have probability 0, so that no solver needs to know about it.
    """

    successors: Tensor
    """[M, S, A, K] int64 next states."""
    probabilities: Tensor
    """[M, S, A, K] their probabilities."""
    features: Tensor
    """[M, S, A, K, F] reward features of each transition."""
    terminal: Tensor
    """[M, S] bool, padding included."""
    valid: Tensor
    """[M, S] bool, False for padding."""
    start: Tensor
    """[M, S] start distribution."""
    weights: Tensor
    """[M, F] true reward weights; columns a model does not have hold 0."""

    @classmethod
    def stack(cls, models: Sequence[TabularModel], device: torch.device | str = "cpu") -> TabularMDP:
        """Pad and stack what environments' ``tabular_model()`` return.

        Raises:
            ValueError: if there is no model, or the models' numbers of actions differ.
        """
        if not models:
            raise ValueError("models is empty; give at least one tabular model")
        if len({model.successors.shape[1] for model in models}) > 1:
            raise ValueError("models have different numbers of actions; stack those of one action space")
        sizes = [(*model.successors.shape, model.features.shape[-1]) for model in models]
        num_states, num_actions, num_successors, num_features = (
            max(size) for size in zip(*sizes, strict=True)
        )
        count = len(models)
        successors = np.zeros((count, num_states, num_actions, num_successors), dtype=np.int64)
        probabilities = np.zeros(successors.shape)
        features = np.zeros((*successors.shape, num_features))
        terminal = np.ones((count, num_states), dtype=bool)
        valid = np.zeros((count, num_states), dtype=bool)
        start = np.zeros((count, num_states))
        weights = np.zeros((count, num_features))
        for m, (model, (s, _, k, f)) in enumerate(zip(models, sizes, strict=True)):
            successors[m, :s, :, :k] = model.successors
            probabilities[m, :s, :, :k] = model.probabilities
            features[m, :s, :, :k, :f] = model.features
            terminal[m, :s], valid[m, :s], start[m, :s] = model.terminal, True, model.start
            weights[m, :f] = model.weights
        arrays = (successors, probabilities, features, terminal, valid, start, weights)
        return cls(*(torch.as_tensor(array, device=device) for array in arrays))

    @classmethod
    def from_env(cls, env: Any, device: torch.device | str = "cpu") -> TabularMDP:
        """Take the tabular model of one environment (any face, wrapped or not).

        Raises:
            ValueError: if the environment offers none.
        """
        inner = getattr(env, "unwrapped", env)
        if not hasattr(inner, "tabular_model"):
            raise ValueError(
                f"{inner} offers no tabular_model(); exact solvers need an environment that does"
            )
        return cls.stack([inner.tabular_model()], device)

    @classmethod
    def from_arrays(
        cls, transitions: ArrayLike, rewards: ArrayLike, start: ArrayLike | None = None,
        terminal: ArrayLike | None = None, *, device: torch.device | str = "cpu",
    ) -> TabularMDP:  # fmt: skip
        """Make one MDP of dense tables; see :meth:`prefrl.envs.grids.grid.TabularModel.from_arrays`.

        Args:
            transitions: [S, A, S] probabilities of the next states.
            rewards: [S, A] expected rewards, or [S, A, S] one for each next state.
            start: [S] start distribution (None: even over all states that are not terminal).
            terminal: [S] states that end an episode (None: none does); what their rows say does not count.
            device: torch device.

        Raises:
            ValueError: naming the table that does not fit, or is no distribution, or not finite.
        """
        return cls.stack([TabularModel.from_arrays(transitions, rewards, start, terminal)], device)

    def to(self, device: torch.device | str) -> TabularMDP:
        """Return the MDPs on a device."""
        return TabularMDP(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.successors.device

    @property
    def num_mdps(self) -> int:
        """M."""
        return self.successors.shape[0]

    @property
    def num_states(self) -> int:
        """S, padding included."""
        return self.successors.shape[1]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.successors.shape[2]

    @property
    def expected_features(self) -> Tensor:
        """[M, S, A, F] mean features of a pair: linear rewards need no more to plan."""
        return (self.probabilities[..., None] * self.features).sum(-2)

    def linear_rewards(self, weights: Tensor) -> Tensor:
        """Return expected rewards [..., M, S, A] of reward weights [..., M, F]."""
        return torch.einsum("msaf,...mf->...msa", self.expected_features, weights)

    def expected_rewards(self, rewards: Tensor) -> Tensor:
        """Return expected rewards [..., M, S, A] of rewards per transition [..., M, S, A, K]."""
        return (self.probabilities * rewards).sum(-1)

    def select(self, index: Tensor) -> TabularMDP:
        """Return the MDPs ``index`` [N] (repeats allowed), as a batch of N."""
        return TabularMDP(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})
