"""Pairs of segments as policies read them, and the networks that say how likely their actions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from prefrl.data import Preferences, seeded_generator
from prefrl.data.comparisons import check_segments
from prefrl.data.devices import building
from prefrl.functional.preferences.pair_loss import first_differing_step
from prefrl.nn.flat import FlatParameters
from prefrl.nn.likelihood_policies import Actions
from prefrl.nn.mlp import Record, StackedMLP
from prefrl.nn.policies import ActionDistribution

ROWS = 512
"""Rows that are taken through the network at once on the CPU: what flows then stays in its cache."""


class Pass(NamedTuple):
    """What a pass through :class:`Policy` leaves for the way back."""

    records: list[Record]
    places: Tensor | None
    evaluated: Any


class Policy(nn.Module):
    """Policies of S learners: a stack of networks, and the parameters that hang on no observation.

    Args:
        inputs: D, numbers of an observation.
        distribution: what the outputs mean.
        hidden: sizes of the hidden layers; none: a table in float64, for observations that are indicators.
        activation: after every hidden layer.
        log_std: what the free parameters start at.
        seeds: of the learners.
        device: torch device.
    """

    def __init__(
        self, inputs: int, distribution: ActionDistribution, hidden: Sequence[int],
        activation: Literal["relu", "tanh"], log_std: float, seeds: Sequence[int], device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__()
        self.distribution = distribution
        size = inputs, hidden, distribution.outputs, activation
        with building(device, 0):
            self.layers = StackedMLP(len(seeds), *size)
            self.free = nn.Parameter(torch.full((len(seeds), 1, distribution.width), log_std))
        if not hidden:
            self._make_table()
            return
        with torch.no_grad():
            for learner, seed in enumerate(seeds):
                with building(device, seeded_generator(seed, "network").initial_seed()):
                    one = StackedMLP(1, *size)
                for mine, drawn in zip(self.layers.parameters(), one.parameters(), strict=True):
                    mine[learner] = drawn[0]

    def _make_table(self) -> None:
        """Have all numbers in float64, and actions uniform."""
        self.free = nn.Parameter(self.free.detach().to(torch.float64))
        for layer in self.layers.layers:
            for name, values in list(layer.named_parameters()):
                setattr(layer, name, nn.Parameter(torch.zeros_like(values, dtype=torch.float64)))

    def evaluate(self, rows: Tensor, raw: Tensor, index: Tensor | None = None) -> tuple[Pass, Tensor]:
        """Return what :meth:`pull` takes, and log pi(a | s) [S, M].

        Args:
            rows: [S, R, D] observations.
            raw: [S, M, A] raw actions.
            index: [S, M] the row that each action was taken at; None: its own.
        """
        at_once = ROWS if self.layers.low is None else 2 * ROWS  # whose numbers are half as long
        parts = torch.split(rows, at_once if rows.device.type == "cpu" else rows.shape[1], 1)
        records = [self.layers.record(part) for part in parts]
        outputs = torch.cat([record.outputs for record in records], 1)
        if index is not None:
            index = index[..., None].expand(-1, -1, outputs.shape[2])
            outputs = outputs.gather(1, index)
        said = self.distribution.evaluate(outputs, self.free, raw)
        return Pass(records, index, said.kept), said.log_probs

    def pull(self, kept: Pass, slopes: Tensor) -> None:
        """Add the gradients, given those in log-likelihoods [S, ...] of M actions."""
        sizes = [record.outputs.shape[1] for record in kept.records]
        flat = slopes.flatten(1).to(kept.records[0].outputs.dtype)
        slope, of_free = self.distribution.slopes(kept.evaluated, flat, torch.zeros_like(flat[:, :1]))
        if kept.places is not None:
            whole = slope.new_zeros(len(slope), sum(sizes), slope.shape[2])
            slope = whole.scatter_add_(1, kept.places, slope)
        for record, part in zip(kept.records, torch.split(slope, sizes, 1), strict=True):
            self.layers.backward(record, part, add=True)
        self.free.grad += of_free  # type: ignore[operator]


@torch.inference_mode()
def divergence(policy: Policy, weights: FlatParameters, reference: Tensor, rows: Tensor) -> float:
    """Return the mean of KL(pi, pi_ref) over observations.

    Args:
        policy: of S learners.
        weights: its parameters.
        reference: [S, P] those of pi_ref.
        rows: [S, R, D] observations.
    """
    own = policy.layers.record(rows).outputs, policy.free.clone()
    with weights.holding(reference):
        base = policy.layers.record(rows).outputs, policy.free
        return float(policy.distribution.divergences(*own, *base).mean())


@dataclass(frozen=True, eq=False)
class Pairs:
    """Comparisons as a policy reads them, on its device."""

    obs: Tensor
    """[N, 2, L, ...] as they are kept."""
    raw: Tensor
    """[N, 2, L, ...] actions as the policy's distribution has them."""
    mask: Tensor
    """[N, 2, L] bool."""
    labels: Tensor
    """[N]."""
    weights: Tensor
    """[N]; the agents' are of mean 1."""
    offsets: Tensor
    """[N]."""
    starts: Tensor
    """[N] first step in which the two sides differ."""

    @classmethod
    def of(cls, preferences: Preferences, actions: Actions, like: Tensor) -> Pairs:
        """Return comparisons as a policy reads them.

        Args:
            preferences: N comparisons.
            actions: of the space.
            like: a number of the policy, on its device.
        """
        device, dtype = like.device, like.dtype
        longest = max(preferences.first.max_length, preferences.second.max_length)
        sides = [side.padded(longest).to(device) for side in (preferences.first, preferences.second)]
        acted, mask = (
            torch.stack([getattr(side, name) for side in sides], 1) for name in ("actions", "mask")
        )
        raw = actions.from_env(acted.flatten(0, 2)).view(*acted.shape[:3], -1)
        raw = torch.where(mask[..., None], raw, 0)  # padding need not be actions
        differs = (raw[:, 0] != raw[:, 1]).any(-1)
        labels, weights, offsets = (
            values.to(device, dtype)
            for values in (preferences.labels, preferences.weights, preferences.margins)
        )
        return cls(
            obs=torch.stack([side.obs[:, :-1] for side in sides], 1), raw=raw, mask=mask,
            labels=labels, weights=weights, offsets=offsets,
            starts=first_differing_step(differs, torch.zeros_like(differs)),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return several sets as one, of weights of mean 1, padded to the longest."""
        longest = max(part.mask.shape[2] for part in parts)
        found = {
            field.name: torch.cat([_padded(getattr(part, field.name), longest) for part in parts])
            for field in fields(cls)
        }
        # Of all weights 0 (nothing was answered) nothing is learned.
        weights = found["weights"] / found["weights"].mean().clamp(min=1e-30)
        return cls(**{**found, "weights": weights})

    def __len__(self) -> int:
        return len(self.labels)

    def share(self, found: Tensor) -> float | None:
        """Return the mean over learners [S] of a share of pairs without tie; None where there are none."""
        decided = (self.labels != 0.5) & (self.weights > 0)
        return float(found.mean()) if bool(decided.any()) else None


def _padded(values: Tensor, longest: int) -> Tensor:
    """Return [N, 2, L, ...] with zeros (or False) up to ``longest`` steps; [N] as it is."""
    if values.ndim < 3 or values.shape[2] == longest:
        return values
    short = longest - values.shape[2]
    return torch.cat([values, values.new_zeros(*values.shape[:2], short, *values.shape[3:])], 2)


def check_preferences(
    preferences: Preferences, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> None:
    """Refuse comparisons that a policy of these spaces cannot learn from.

    Raises:
        TypeError: if they are none.
        ValueError: naming what is wrong.
    """
    if not isinstance(preferences, Preferences):
        raise TypeError(f"preferences is a {type(preferences).__name__}; it must be Preferences")
    if not len(preferences):
        raise ValueError("preferences hold no comparison")
    preferences.validate()
    if not bool((preferences.weights > 0).any()):
        raise ValueError("preferences have weight 0 only")
    for side, segments in (("first", preferences.first), ("second", preferences.second)):
        check_segments(f"the {side} segments", segments, observation_space, action_space)


def check_segment_length(env: Any, length: int) -> None:
    """Raise ValueError for segments that are longer than the environment's episodes, where it says so."""
    spec = getattr(env, "spec", None)
    limit = getattr(env, "max_episode_steps", None) or getattr(spec, "max_episode_steps", None)
    if limit is not None and length > limit:
        raise ValueError(f"segment_length is {length}; episodes end after {limit} steps")
