"""Comparisons laid out for a likelihood: many data sets as one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefrl.data import Preferences, Segments
from prefrl.tabular import TabularMDP


class PairBatch(NamedTuple):
    """The comparisons of B data sets, padded to n rows (weight 0).

    The difference of two segments' scores, second minus first, is linear in reward weights (``features``)
    and in a table of values (:meth:`difference_of_values`).
    """

    features: Tensor
    """[B, n, F] difference of feature sums."""
    place: Tensor
    """[B, n, J] places in a table of values: [S] states, or [S * A] pairs in the action form."""
    sign: Tensor
    """[B, n, J] what the value there counts for."""
    labels: Tensor
    """[B, n]."""
    weights: Tensor
    """[B, n]."""

    def difference_of_values(self, table: Tensor) -> Tensor:
        """Return sum_j sign_j table[place_j] as [B, n], of a table [B, X]."""
        b, n, j = self.place.shape
        values = torch.gather(table, 1, self.place.reshape(b, n * j)).reshape(b, n, j)
        return (values * self.sign).sum(-1)


def collate_pairs(preferences: Sequence[Preferences], num_actions: int, *, action_form: bool) -> PairBatch:
    """Lay out comparisons of segments of tabular environments.

    Args:
        preferences: B data sets with features, all padded to the same length.
        num_actions: A.
        action_form: values are summed over every pair on the way, sum_t A(s_t, a_t); otherwise they are taken
            at the segments' ends, V(s_n) - V(s_0).
    """
    terms = [
        _pair_terms(p, num_actions) if action_form else _end_terms(p.first, p.second) for p in preferences
    ]
    return PairBatch(
        _stack([_feature_sums(p.second) - _feature_sums(p.first) for p in preferences]),
        _stack([place for place, _ in terms]),
        _stack([sign for _, sign in terms]),
        _stack([p.labels for p in preferences]),
        _stack([p.weights for p in preferences]),
    )


def collate_features(preferences: Sequence[Preferences]) -> tuple[Tensor, Tensor]:
    """Return features [B, 2, n, L, F] and mask [B, 2, n, L] of first and second segments."""
    sides = [[p.first for p in preferences], [p.second for p in preferences]]
    features = [_stack([_features(segments) for segments in side]) for side in sides]
    mask = [_stack([segments.mask for segments in side]) for side in sides]
    return torch.stack(features, 1), torch.stack(mask, 1)


def check_comparisons(mdps: TabularMDP, preferences: Sequence[Preferences]) -> None:
    """Raise ValueError unless B data sets hold comparisons of segments of M MDPs, B / M for each."""
    count = len(preferences)
    if count == 0 or count % mdps.num_mdps:
        raise ValueError(
            f"there are {count} data sets for {mdps.num_mdps} MDPs; give the same number for each"
        )
    sizes = mdps.valid.sum(-1).tolist()
    for i, data in enumerate(preferences):
        size = sizes[i * mdps.num_mdps // count]
        try:
            data.validate_tabular(size, mdps.num_actions, mdps.features.shape[-1])
            if data.offsets is not None:
                raise ValueError("the comparisons carry offsets, which this fit knows nothing of")
            mdp = mdps.select(torch.tensor([i * mdps.num_mdps // count], device=mdps.device))
            for side, segments in (("first", data.first), ("second", data.second)):
                _check_transitions(mdp, side, segments.to(mdps.device))
        except ValueError as error:
            raise ValueError(f"data set {i}: {error}") from error


def _check_transitions(mdp: TabularMDP, side: str, segments: Segments) -> None:
    """Raise ValueError unless every transition can happen in an MDP (a batch of one), with these features."""
    obs, actions, next_obs = segments.obs[:, :-1], segments.actions, segments.obs[:, 1:]
    same = mdp.successors[0, obs, actions] == next_obs[..., None]  # [N, L, K]
    same &= mdp.probabilities[0, obs, actions] > 0
    same &= torch.isclose(mdp.features[0, obs, actions], _features(segments)[:, :, None]).all(-1)
    bad = (segments.mask & ~same.any(-1)).nonzero()
    if len(bad):
        row, step = bad[0].tolist()
        raise ValueError(
            f"row {row} of the {side} segments goes from state {int(obs[row, step])} by action "
            f"{int(actions[row, step])} to {int(next_obs[row, step])} with features "
            f"{_features(segments)[row, step].tolist()}, which cannot happen in this environment"
        )
    wrong = (mdp.terminal[0, segments.last_obs] != segments.terminated).nonzero()
    if len(wrong):
        row = int(wrong[0])
        end = "goes on" if bool(segments.terminated[row]) else "ends an episode"
        raise ValueError(
            f"row {row} of the {side} segments ends in state {int(segments.last_obs[row])}, which {end} in "
            f"this environment, with terminated {bool(segments.terminated[row])}"
        )


def _end_terms(first: Segments, second: Segments) -> tuple[Tensor, Tensor]:
    """Return places and signs [n, 4] of V(s_n) - V(s_0), second minus first."""
    place = torch.stack([second.last_obs, second.obs[:, 0], first.last_obs, first.obs[:, 0]], 1)
    sign = torch.ones_like(place, dtype=torch.float64)
    sign[:, 1:3] = -1.0
    return place, sign


def _pair_terms(preferences: Preferences, num_actions: int) -> tuple[Tensor, Tensor]:
    """Return places and signs [n, 2 L] of sum_t A(s_t, a_t), second minus first."""
    first, second = preferences.first, preferences.second
    place = torch.cat([s.obs[:, :-1] * num_actions + s.actions for s in (second, first)], 1)
    return place, torch.cat([second.mask.double(), -first.mask.double()], 1)


def _features(segments: Segments) -> Tensor:
    assert segments.features is not None  # checked at the door
    return segments.features


def _feature_sums(segments: Segments) -> Tensor:
    return (_features(segments) * segments.mask[..., None]).sum(1)


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Stack [n_i, ...] into [B, n, ...], padded with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
