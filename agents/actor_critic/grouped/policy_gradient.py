"""A plain policy gradient from groups of sequences to the same prompt, without a value function.

At every step some prompts are taken, G sequences of each are drawn from the policy, and with the advantages A
of their rewards among their group (:mod:`prefrl.functional.actor_critic.grouped`)

    loss = -mean A log pi(y),    log pi(y) = sum_t log pi(a_t | s_t),

whose gradient is REINFORCE's (Williams 1992). Rewards are the sequences' returns, or successes: whether a
return is at least some number. Of several such numbers each makes a reward of its own, with advantages of its
own, which are averaged (the decomposition of arXiv 2506.02864).

The task knows all its sequences, as a bandit or a tree does, so that drawing is exact and cheap, and so that
the exact gradient of the mean reward, which draws only estimate, can be followed instead. With centred
rewards the estimate's mean is that gradient times 1 - 1 / G, since a sequence's own reward is in its group's
mean.

One timestep is one gradient step; nothing is stepped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.config import Count, Positive, Rows, Settings, Sizes
from prefrl.data import ScoredSegments, Segments, Transitions, seeded_generator
from prefrl.data.comparisons import check_segments
from prefrl.data.devices import building
from prefrl.functional.actor_critic.grouped import GroupedKind, LonelyRule, grouped_advantages
from prefrl.functional.streams import Streams
from prefrl.nn.likelihood_policies import (
    LikelihoodPolicy,
    PolicyKind,
    TabularPolicy,
    policy_table,
    segment_log_probs,
    table_or_network,
)
from prefrl.nn.update import AdamUpdate


@dataclass(frozen=True)
class GroupedPolicyGradientConfig(Settings):
    """Settings of :class:`GroupedPolicyGradient`; the defaults are ours."""

    advantage: Literal["exact"] | GroupedKind = "centred"
    """The exact gradient of the mean reward, or advantages of groups: centred, grpo, bnpo (of successes)."""

    group_size: Count = 16
    """G, sequences that are drawn for a prompt."""

    lonely: LonelyRule = "refuse"
    """What becomes of groups of one: an error, or rewards as they are (plain)."""

    success_returns: tuple[float, ...] = ()
    """Returns from which on a sequence is a success, which is then its reward; of several, the mean of the
    successes. None at all: the return itself, but for bnpo."""

    policy: PolicyKind = "auto"
    """A table of logits for Discrete observations and actions, in float64, or a network."""

    hidden: Sizes = (256, 256)
    """Sizes of the network's hidden layers, ReLU."""

    learning_rate: Positive | None = None
    """Adam's step size; None: 3e-4, for a table 0.01."""

    batch_size: Rows = 32
    """Prompts of a gradient step; all of them, where there are no more."""

    def check(self) -> None:
        """Raise ValueError for groups of one where they are refused, or bnpo without successes."""
        if self.group_size == 1 and self.lonely == "refuse" and self.advantage != "exact":
            raise ValueError("group_size is 1; it must be at least 2, or lonely 'plain'")
        if self.advantage == "bnpo" and not self.success_returns:
            raise ValueError("success_returns is (); it must hold a number where advantage is 'bnpo'")


class GroupedPolicyGradient(Agent):
    """A plain policy gradient from groups of sequences; see the module's text.

    Args:
        env: an environment, or :class:`prefrl.agents.base.Spaces`: Discrete and Box observations (no
            pictures), Discrete and MultiDiscrete actions.
        config: settings.
        sequences: all sequences of a task with their returns, a group for each prompt; see
            :func:`prefrl.preferences.asking.exact_groups`. None for an agent that does not learn.
        device: torch device, or "auto".
        seed: seeds the network, prompts, sequences and the actions that are drawn.

    Raises:
        TypeError: if ``sequences`` are none.
        ValueError: if a space is of another kind, or sequences are of other spaces.

    Attributes:
        policy: what learns; every parameter is [1, ...].
    """

    config_class: ClassVar[type[GroupedPolicyGradientConfig]] = GroupedPolicyGradientConfig
    config: GroupedPolicyGradientConfig
    steps_env = False
    advice = "a lower learning_rate may help"

    def __init__(
        self, env: Any, config: GroupedPolicyGradientConfig | None = None,
        sequences: ScoredSegments | None = None, *, device: torch.device | str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(env, config or GroupedPolicyGradientConfig(), device=device, seed=seed)
        if isinstance(self.action_space, gym.spaces.Box):
            raise ValueError(f"action_space is {self.action_space}; sequences of a Box cannot all be known: "
                             "it must be Discrete or MultiDiscrete")  # fmt: skip
        with building(self.device, seeded_generator(self.seed, "network").initial_seed()):
            self.policy = table_or_network(
                self.observation_space, self.action_space, self.config.policy,
                hidden=self.config.hidden, device=self.device,
            )  # fmt: skip
        rate = self.config.learning_rate or (0.01 if isinstance(self.policy, TabularPolicy) else 3e-4)
        self._update = AdamUpdate(self.policy, self._loss, lr=rate, eps=1e-8, max_grad_norm=float("inf"))
        self._streams = {
            name: Streams([self.seed], name, self.device) for name in ("prompts", "sequences", "actions")
        }
        self.segments: Segments | None = None
        if sequences is not None:
            if not isinstance(sequences, ScoredSegments):
                raise TypeError(f"sequences is a {type(sequences).__name__}; it must be ScoredSegments")
            sequences.validate()
            check_segments("the sequences", sequences.segments, self.observation_space, self.action_space)
            self._take(sequences.segments, sequences.scores, *sequences.members())

    def _take(self, segments: Segments, returns: Tensor, places: Tensor, there: Tensor) -> None:
        """Keep sequences, their rewards [R, N], and where a prompt's lie [Q, M], on the device."""
        self.segments = segments.to(self.device)
        self._places, self._there = places.to(self.device), there.to(self.device)
        returns, limits = returns.to(self.device), self.config.success_returns
        rewards = [(returns >= limit).to(returns.dtype) for limit in limits] or [returns]
        self._rewards = torch.stack(rewards)

    # Acting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...]: drawn, or the most likely ones."""
        return self.policy.act(obs, self._streams["actions"], deterministic=deterministic)

    def observe(self, transitions: Transitions) -> None:
        """Nothing is learned from stepping: the sequences are known."""

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take a gradient step; see :meth:`Agent.update`."""
        if self.segments is None:
            raise ValueError("this agent has no sequences to learn from; make it with them: "
                             "GroupedPolicyGradient(env, config, sequences)")  # fmt: skip
        self.num_timesteps += 1
        count, size = len(self._places), self.config.batch_size
        chosen = torch.arange(count, device=self.device)
        if size < count:
            chosen = self._streams["prompts"].permutations(count)[0, :size]
        return self._update.step(self._places[chosen], self._there[chosen])

    def _loss(
        self, policy: LikelihoodPolicy, rows: Tensor, there: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of prompts whose sequences are rows [B, M], those that are there."""
        with torch.set_grad_enabled(self.config.advantage == "exact"):
            probs = self._probs(policy, rows, there)
        rewards = self._rewards[:, rows].mean(0)
        value = (probs * rewards).sum(1).mean()
        metrics = {"train/mean_reward": value.detach()}
        if self.config.advantage == "exact":
            return -value, {**metrics, "train/loss": -value.detach()}
        drawn = self._drawn(rows, probs)
        advantages = grouped_advantages(
            self._rewards[:, drawn], self.config.advantage, lonely=self.config.lonely
        ).mean(0)
        log_probs = self._log_probs(policy, drawn)
        loss = -(advantages * log_probs).mean()
        metrics["train/loss"] = loss.detach()
        return loss, {**metrics, "train/advantage_std": advantages.square().mean().sqrt()}

    def _log_probs(self, policy: LikelihoodPolicy, rows: Tensor) -> Tensor:
        """Return log pi(y) of sequences [B, M]."""
        assert self.segments is not None
        return segment_log_probs(policy, self.segments[rows.flatten()])[0].sum(1).view(rows.shape)

    def _probs(self, policy: LikelihoodPolicy, rows: Tensor, there: Tensor) -> Tensor:
        """Return pi(y) of sequences [B, M], 0 of those that are not there."""
        return torch.where(there, self._log_probs(policy, rows).exp(), 0.0)

    def _drawn(self, rows: Tensor, probs: Tensor) -> Tensor:
        """Return G sequences of each prompt [B, G], drawn by their probabilities [B, M]."""
        shares = probs.cumsum(1)
        draws = self._streams["sequences"].uniform(len(rows), self.config.group_size)[0]
        places = torch.searchsorted(shares, draws.to(shares.dtype) * shares[:, -1:])
        return rows.gather(1, places.clamp(max=rows.shape[1] - 1))

    # What came of it, and what a continuation needs -------------------------------------------------------

    @torch.no_grad()
    def policy_table(self) -> Tensor:
        """Return pi(a | s) [states, actions] in Discrete spaces, float64.

        Raises:
            ValueError: if a space is another.
        """
        return policy_table(self.policy, self.observation_space)

    @torch.no_grad()
    def result(self) -> dict[str, Any]:
        """Return ``mean_reward`` of the policy's sequences; also the hardest ``success_rate``."""
        if self.segments is None:
            return {}
        probs = self._probs(self.policy, self._places, self._there)
        means = (probs * self._rewards[:, self._places]).sum(-1).mean(-1)  # of each reward
        found = {"mean_reward": float(means.mean())}
        return {**found, "success_rate": float(means.min())} if self.config.success_returns else found

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; sequences stay where they are."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
            **{name: streams.state_dict() for name, streams in self._streams.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self._update.optimizer.load_state_dict(state["optimizer"])
        for name, streams in self._streams.items():
            streams.load_state_dict(state[name])
