"""Successor features of policy sets, and the policy sets themselves (Knox et al. 2022, "Algorithm 1")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefrl.data import seeded_generator

from .mdp import TabularMDP
from .solvers import check_gamma, check_policy, discounted_sum, expected_next, optimal_policy

DRAW_BATCH = 64
"""Reward vectors planned at once while a policy set grows."""


def successor_features(mdp: TabularMDP, policy: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return psi_pi(s) and psi_pi(s, a): discounted sums of features under a policy.

    psi_pi(s) = E_pi[ sum_k gamma^k phi_{t+k} | s_t = s ], so that V_pi(s) = psi_pi(s) . w for any weights w.

    Args:
        mdp: the MDPs.
        policy: [..., M, S, A].
        gamma: discount.

    Returns:
        psi(s) [..., M, S, F] and psi(s, a) [..., M, S, A, F]; 0 in terminal states.

    Raises:
        ValueError: for a bad argument; at gamma 1, if some policy never ends.
    """
    check_gamma(gamma)
    check_policy(policy, mdp)
    phi = mdp.expected_features
    psi = discounted_sum(mdp, policy, phi, gamma)
    psi_action = (phi + gamma * expected_next(mdp, psi)) * ~mdp.terminal[..., None, None]
    return psi, psi_action


@dataclass(frozen=True)
class PolicySet:
    """Successor features of P policies in each of M MDPs (members a short set lacks repeat its first)."""

    psi: Tensor
    """[M, P, S, F]."""
    psi_action: Tensor
    """[M, P, S, A, F]."""
    sizes: tuple[int, ...]
    """Distinct members per MDP."""

    def tables(self, mdps: TabularMDP) -> tuple[list[Tensor], list[Tensor]]:
        """Return per MDP psi(s) [S, P, F] and psi(s, a) [S * A, P, F], both without padding."""
        members = list(enumerate(zip(mdps.valid.sum(-1).tolist(), self.sizes, strict=True)))
        states = [self.psi[m, :p, :s] for m, (s, p) in members]
        pairs = [self.psi_action[m, :p, :s].flatten(1, 2) for m, (s, p) in members]
        return [t.transpose(0, 1).contiguous() for t in states], [
            t.transpose(0, 1).contiguous() for t in pairs
        ]


def build_policy_set(
    mdp: TabularMDP,
    gamma: float,
    *,
    entries: Sequence[float],
    max_duplicates: int = 100,
    max_policies: int = 1_000,
    exclude: Tensor | None = None,
    seed: int = 0,
) -> PolicySet:
    """Collect distinct policies that are optimal for random rewards.

    Reward vectors with entries drawn uniformly (with replacement) from ``entries`` are planned exactly; the
    greedy policy, uniform among ties, joins if its successor features are new. An MDP's set is complete after
    ``max_duplicates`` draws that brought nothing new, or with ``max_policies`` members.

    Args:
        mdp: the MDPs.
        gamma: discount.
        entries: values a reward weight is drawn from.
        max_duplicates: duplicates that end the search.
        max_policies: members that end the search.
        exclude: [M, F] weights whose own optimal policy must stay outside (the true ones), or None.
        seed: of the draws, the same for every MDP: a set does not depend on the batch it is built in.

    Raises:
        ValueError: for empty ``entries`` or limits below 1, or if no policy is left.
    """
    if not len(entries) or max_duplicates < 1 or max_policies < 1:
        raise ValueError("entries must not be empty; max_duplicates and max_policies must be at least 1")
    members = [_grow(mdp.select(torch.tensor([m], device=mdp.device)), gamma, entries, max_duplicates,
                     max_policies, None if exclude is None else exclude[m],
                     seeded_generator(seed, "policy set"))
               for m in range(mdp.num_mdps)]  # fmt: skip
    sizes = tuple(len(psi) for psi, _ in members)
    place = torch.arange(max(sizes), device=mdp.device)
    fill = [torch.where(place < size, place, 0) for size in sizes]
    return PolicySet(
        torch.stack([psi[index] for (psi, _), index in zip(members, fill, strict=True)]),
        torch.stack([psi_action[index] for (_, psi_action), index in zip(members, fill, strict=True)]),
        sizes,
    )


def _grow(
    mdp: TabularMDP,
    gamma: float,
    entries: Sequence[float],
    max_duplicates: int,
    max_policies: int,
    exclude: Tensor | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Collect the members [P, S, F] and [P, S, A, F] of one MDP's set."""
    choices = torch.as_tensor(entries, dtype=mdp.features.dtype)
    num_features = mdp.features.shape[-1]
    seen: set[bytes] = set()
    if exclude is not None:
        seen.add(_fingerprint(_plan(mdp, exclude[None, None], gamma)[0])[0])
    kept: list[Tensor] = []
    kept_action: list[Tensor] = []
    duplicates = 0
    while duplicates < max_duplicates and len(kept) < max_policies:
        drawn = torch.randint(len(choices), (DRAW_BATCH, 1, num_features), generator=generator)
        psi, psi_action = _plan(mdp, choices[drawn].to(mdp.device), gamma)
        for i, mark in enumerate(_fingerprint(psi)):
            if duplicates >= max_duplicates or len(kept) >= max_policies:
                break
            if mark in seen:
                duplicates += 1
            else:
                seen.add(mark)
                kept.append(psi[i])
                kept_action.append(psi_action[i])
    if not kept:
        raise ValueError("no policy is left in the set; give entries that lead to more than one policy")
    return torch.stack(kept), torch.stack(kept_action)


def _plan(mdp: TabularMDP, weights: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return successor features [R, S, F] and [R, S, A, F] of the optimal policies of weights [R, 1, F]."""
    _, _, policy = optimal_policy(mdp, mdp.linear_rewards(weights), gamma)
    psi, psi_action = successor_features(mdp, policy, gamma)
    return psi[:, 0], psi_action[:, 0]


def _fingerprint(psi: Tensor) -> list[bytes]:
    """Return one key per member [R, S, F]: equal where the features agree to 5 decimals."""
    rounded = (psi * 1e5).round().long().cpu().numpy()
    return [row.tobytes() for row in rounded]
