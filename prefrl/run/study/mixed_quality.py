"""Data of mixed quality for studies of learning without an environment, made by an agent that learns online.

Soft actor-critic learns online; at equal intervals in the first half of its training, from the untrained
policy on, it acts for a while, with some uniform actions. Comparisons of segments of that are answered by
their regret under what it knows at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefrl.agents.actor_critic.box import flat
from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.data import Preferences, TransitionDataset, load_transitions, save_transitions
from prefrl.data.segment_store import Excerpt
from prefrl.preferences import DeterministicRegret, Teacher, Valuation
from prefrl.preferences.asking import random_excerpts
from prefrl.run.collect import collect_transitions
from prefrl.run.environments import make_evaluation_env, make_training_env
from prefrl.run.loop import learn

STAGES = 10
"""Policies that the data are of."""

UNIFORM = 0.3
"""Share of uniform actions, but of the untrained policy: all of its."""

ROWS = 10
"""Environments that the data are collected in, side by side."""


@dataclass(frozen=True)
class MixedQuality:
    """Settings of the data.

    Args:
        env_id: an environment with a bounded Box of actions.
        timesteps: that the agent learns online.
        transitions: in all.
        seed: seeds agent and data.
    """

    env_id: str
    timesteps: int
    transitions: int
    seed: int

    def made(self, folder: Path) -> tuple[SAC, TransitionDataset]:
        """Return the agent as it is in the end, and the data; from the folder, if they are there.

        Args:
            folder: where both are kept, ``expert.pt`` and ``data.npz``.
        """
        expert, data = folder / "expert.pt", folder / "data.npz"
        if not (expert.exists() and data.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            self._make(expert, data)
        return SAC.load(expert, device="cpu"), load_transitions(data)

    def _make(self, expert: Path, data: Path) -> None:
        config = SACConfig(hidden=(64, 64))
        agent = SAC(make_training_env(self.env_id, (), 1, "cpu"), config, device="cpu", seed=self.seed)
        parts = []
        for stage in range(STAGES):
            if stage:
                learn(agent, self.timesteps * stage // (2 * STAGES) - agent.num_timesteps)
            rows = make_evaluation_env(self.env_id, (), ROWS)
            parts.append(collect_transitions(
                agent, rows, self.transitions // STAGES, epsilon=UNIFORM if stage else 1.0,
                seed=STAGES * self.seed + stage, env_id=self.env_id,
            ))  # fmt: skip
        learn(agent, self.timesteps - agent.num_timesteps)
        save_transitions(data, joined(parts))
        agent.save(expert)


_COLUMNS = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations")


def joined(parts: list[TransitionDataset]) -> TransitionDataset:
    """Return data sets of one environment as one, the episodes of one after those of the other."""
    return _of_columns(
        parts[0], {name: torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS},
        torch.cat([~part.has_next_action for part in parts]),
    )  # fmt: skip


def best_episodes(dataset: TransitionDataset, share: float) -> TransitionDataset:
    """Return the episodes of largest return: this share of them, rounded up."""
    last = torch.nonzero(~dataset.has_next_action)[:, 0]
    number = torch.searchsorted(last, torch.arange(len(dataset)))  # the episode that a row belongs to
    returns = torch.zeros(len(last), dtype=torch.float64).index_add_(0, number, dataset.rewards.double())
    best = returns.argsort(descending=True, stable=True)[: -(-len(last) * share // 1).__int__()]
    rows = torch.nonzero(torch.isin(number, best))[:, 0]
    return _of_columns(
        dataset, {name: getattr(dataset, name)[rows] for name in _COLUMNS}, ~dataset.has_next_action[rows]
    )


def _of_columns(like: TransitionDataset, columns: dict[str, Tensor], ends: Tensor) -> TransitionDataset:
    return TransitionDataset.from_transitions(
        **columns, ends=ends, observation_space=like.observation_space, action_space=like.action_space,
        env_id=like.env_id,
    )  # fmt: skip


def regret_answers(
    expert: SAC, dataset: TransitionDataset, num_pairs: int, length: int, *, noise: float = 0.0, seed: int
) -> Preferences:
    """Return comparisons of random segments by their regret, sum_t V(s_t) - r_t - gamma V(s_{t+1}).

    Args:
        expert: whose V(s), the smaller critic at its most likely action, is taken for the optimal one.
        dataset: what the segments are of.
        num_pairs: comparisons.
        length: steps of a segment.
        noise: share of labels that are turned round.
        seed: of pairs and flips.
    """
    first, second = random_excerpts(dataset, num_pairs, length, seed=seed)
    teacher = Teacher(DeterministicRegret(), mistake_rate=noise)
    labels, _ = teacher.label(_valued(expert, first), _valued(expert, second), seed=seed)
    metadata: dict[str, Any] = {"teacher": "regret", "seed": seed}
    return Preferences.from_labels(first.segments, second.segments, labels, metadata)


@torch.no_grad()
def _valued(expert: SAC, side: Excerpt) -> Valuation:
    """Return what the expert says along segments; V is 0 after a terminal state."""
    obs, lengths = side.segments.obs, side.segments.lengths
    rows = obs.flatten(0, 1).to(torch.float32)
    value = expert.networks.value(flat(rows)).view(obs.shape[:2]).double()
    steps = torch.arange(obs.shape[1])
    value = torch.where(side.segments.terminated[:, None] & (steps >= lengths[:, None]), 0.0, value)
    gamma = float(expert.config.of_learner(0).gamma)
    # The model's contributions are r_t + V(s_{t+1}) - V(s_t): the discount goes into the reward.
    rewards = side.rewards.double() - (1.0 - gamma) * value[:, 1:]
    return Valuation(rewards, side.segments.mask, value, value[:, :-1])
