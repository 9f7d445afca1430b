"""BCoder: Q-learning that starts from a policy and aims low (B-Coder, arXiv 2310.03173, ICLR 2024).

A policy that imitates programs, correct and incorrect ones, is turned into Q-values and improved from their
unit tests alone. Nothing is stepped; a timestep is a gradient step on a data set.

0. Cloning: logits l are fitted to all data, or given. Their policy q is frozen.
1. With Q(s, a) = alpha [ l(s, a) - max_a l(s, a) ] + V^r(s) + V_phi(s), V^r = 0, softmax(Q / alpha) is q, and
   greedy actions are q's. Only V_phi learns, by TD:

       L_V = E ( r + gamma Q^-(s', argmax_a' q(a' | s')) - Q(s, a) )^2 / 2.

   No better action than q would take is ever hoped for (the operator B^q of
   :mod:`prefrl.functional.value_based.conservative`), so that Q is what q can reach.
2. l and V^r learn, V_phi stays:

       L = L_Q + beta_adv E_expert |A(s, a)| + beta_ce E_expert [ -log pi(a | s) ],

   L_Q as L_V, A = alpha (l - max l), pi = softmax(l), experts being the best episodes of the data.

Since B^q has an inverse, Q gives a reward for free, r~ = Q(s, a) - gamma Q(s', argmax q), or with less to go
wrong r~ = Q(s, a) - gamma V(s'), by which candidates can be ranked without their tests
(:meth:`BCoder.rerank`).

Ours, where the paper was known to us by a summary only: that V_phi stays in stage 2, that V^r is a network of
its own, that sums over the steps of expert programs are means here, that Q^- follows by a share tau per step,
and every default but gamma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import gymnasium as gym
import torch
from torch import Tensor, nn

from prefrl.agents.shared import LikelihoodSettings, OfflineAgent
from prefrl.config import Natural, NonNegative, Positive, PositiveShare, Rows, Share, Sizes
from prefrl.data import Segments, TransitionDataset
from prefrl.data.replay import Batch
from prefrl.functional.value_based import conservative as F
from prefrl.nn.flat import FlatParameters
from prefrl.nn.likelihood_policies import DiscretePolicy, likelihood_policy
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.update import AdamUpdate

Successors = Literal["value", "policy"]
"""What successors are worth in the recovered reward; see :meth:`BCoder.recovered_returns`."""


@dataclass(frozen=True)
class BCoderConfig(LikelihoodSettings):
    """Settings of :class:`BCoder`."""

    hidden: Sizes = (128, 128)
    """Sizes of the hidden layers of every network, ReLU."""

    learning_rate: Positive = 1e-3
    """Adam's step size, in every stage."""

    batch_size: Rows = 128
    """Transitions of a gradient step."""

    cloning_steps: Natural = 2_000
    """Gradient steps of stage 0; none where a policy is given."""

    value_steps: Natural = 1_000
    """Gradient steps of stage 1; all later ones are stage 2."""

    operator: Literal["conservative", "optimal"] = "conservative"
    """What successors are worth: Q of the frozen policy's likeliest action, or, as in plain Q-learning, the
    largest Q. With optimal, and no beta_adv and beta_ce, this is DQN that starts from the policy."""

    gamma: Share = 0.999
    """Discount per step (the paper)."""

    alpha: Positive = 0.1
    """Units of return that a nat of log-probability is worth at the start."""

    max_value: float | None = 1.0
    """R_max, the largest return, which Q of successors is cut to; None: it is not cut."""

    expert_return: float | None = None
    """Undiscounted return from which on an episode is an expert's; None: the largest in the data."""

    beta_adv: NonNegative = 0.1
    """Weight of the experts' advantages."""

    beta_ce: NonNegative = 0.1
    """Weight of the experts' cross-entropy."""

    tau: PositiveShare = 0.01
    """Share of the networks in their targets at every gradient step."""

    def check(self) -> None:
        """Raise ValueError for a kind of policy that there is only of Boxes."""
        super().check()
        if self.policy != "gaussian":
            raise ValueError(f"policy is {self.policy!r}; BCoder takes Discrete actions, whose policy is of "
                             "one kind: leave it as it is")  # fmt: skip


class BCoderNetwork(nn.Module):
    """What learns in stage 2: the policy's logits l, and V^r, which is 0 at the start.

    Args:
        policy: of one learner.
        hidden: sizes of the hidden layers of V^r.
        alpha: see :class:`BCoderConfig`.
    """

    def __init__(self, policy: DiscretePolicy, hidden: tuple[int, ...], alpha: float) -> None:
        super().__init__()
        self.policy, self.alpha = policy, alpha
        self.residual = StackedMLP(1, policy.numbers.size, hidden)
        nn.init.zeros_(self.residual.weights()[-1])
        nn.init.zeros_(self.residual.biases()[-1])

    def q_values(self, value: StackedMLP, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q [N, A] and logits [N, A] at observations [N, ...], with V_phi of a network."""
        numbers = self.policy.numbers(obs, torch.float32)[None]
        logits: Tensor = self.policy.network(numbers)[0]
        return F.dueling_q(logits, self.residual(numbers)[0] + value(numbers)[0], self.alpha), logits


class BCoder(OfflineAgent):
    """B-Coder; see the module's text.

    Args:
        env: an environment with Discrete actions and Discrete or Box observations (no pictures), or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        dataset: whole episodes to learn from, with their rewards, good and bad. Files of agents hold no data.
        pretrained: a policy to start from, in place of stage 0, of one learner and the same hidden layers;
            a copy is taken. Files of agents hold it.
        device: torch device, or "auto".
        seed: seeds networks, batches and the actions that are drawn.

    Raises:
        TypeError: if ``dataset`` or ``pretrained`` is none.
        ValueError: if a space is of another kind, the data set's spaces are not the environment's, or the
            policy has another shape.

    Attributes:
        network: logits and V^r; ``policy`` is softmax(Q / alpha).
        value: V_phi.
        pretrained: q, frozen; as the policy while that is being cloned.
    """

    config_class: ClassVar[type[BCoderConfig]] = BCoderConfig
    config: BCoderConfig
    network: BCoderNetwork
    advice = "a lower learning_rate, or max_value set to the largest return, may help"

    def __init__(
        self,
        env: Any,
        config: BCoderConfig | None = None,
        *,
        dataset: TransitionDataset | None = None,
        pretrained: DiscretePolicy | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        config = config or BCoderConfig()
        super().__init__(env, config, dataset=dataset, device=device, seed=seed)
        self._value_update = AdamUpdate(self.value, self._value_loss, lr=config.learning_rate, eps=1e-8,
                                        max_grad_norm=float("inf"))  # fmt: skip
        self._followers = (FlatParameters(self.target), FlatParameters(self.target_value))
        self.cloning_steps: int = config.cloning_steps
        if pretrained is not None:
            self._take(pretrained)
        self._freeze()
        if self._replay is not None and dataset is not None:
            rows = expert_rows(dataset, config.expert_return).to(torch.float32)
            self._replay.storage["expert"] = rows.to(self.device)[:, None]

    def make_network(self) -> BCoderNetwork:
        """See :class:`OfflineAgent`; V_phi, the targets and q are made beside it."""
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ValueError(f"action_space is {self.action_space}; BCoder takes Discrete actions")
        hidden, alpha = self.config.hidden, self.config.alpha
        network = BCoderNetwork(self._policy(self.policy), hidden, alpha)
        size = network.policy.numbers.size
        self.value, self.target_value = StackedMLP(1, size, hidden), StackedMLP(1, size, hidden)
        self.pretrained = self._fresh_policy()
        self.target = BCoderNetwork(self._fresh_policy(), hidden, alpha)
        self.target_value.load_state_dict(self.value.state_dict())
        for frozen in (self.target_value, self.target, self.pretrained):
            frozen.requires_grad_(False)
        return network

    def _fresh_policy(self) -> DiscretePolicy:
        return self._policy(likelihood_policy(self.observation_space, self.action_space,
                                              hidden=self.config.hidden, device=self.device))  # fmt: skip

    @staticmethod
    def _policy(policy: Any) -> DiscretePolicy:
        assert isinstance(policy, DiscretePolicy)  # of Discrete actions it is
        return policy

    def _take(self, pretrained: DiscretePolicy) -> None:
        """Start from a policy, in place of stage 0."""
        if not isinstance(pretrained, DiscretePolicy):
            raise TypeError(f"pretrained is a {type(pretrained).__name__}; it must be a DiscretePolicy")
        given, ours = pretrained.state_dict(), self.network.policy.state_dict()
        shapes = [{name: list(value.shape) for name, value in each.items()} for each in (given, ours)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"pretrained has parameters {shapes[0]}; with these spaces and hidden "
                             f"{list(self.config.hidden)} they are {shapes[1]}")  # fmt: skip
        self.network.policy.load_state_dict(given)
        self.cloning_steps = 0

    def _freeze(self) -> None:
        """Make q, and the targets, of what there is now."""
        self.pretrained.load_state_dict(self.network.policy.state_dict())
        self.target.load_state_dict(self.network.state_dict())

    @property
    def stage(self) -> int:
        """The stage of the latest timestep: 0 cloning, 1 values, 2 all."""
        after = self.num_timesteps - self.cloning_steps
        return 0 if after <= 0 else 1 if after <= self.config.value_steps else 2

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        stage = self.stage
        if stage == 0:
            metrics = self._update.step(batch)
            if self.num_timesteps == self.cloning_steps:
                self._freeze()
            return metrics
        update, follower = (
            (self._value_update, self._followers[1]) if stage == 1 else (self._update, self._followers[0])
        )
        metrics = update.step(batch)
        follower.follow(update.weights, self.config.tau)
        return metrics

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Tensor:
        """Return what Q(s, a) is to be [N]."""
        next_q, _ = self.target.q_values(self.target_value, batch.next_obs)
        rewards, discounts, most = batch.returns, batch.discounts, self.config.max_value
        if self.config.operator == "optimal":
            return F.optimal_targets(rewards, discounts, next_q, most)
        frozen = self.pretrained.logits(batch.next_obs[None])[0]
        return F.conservative_targets(rewards, discounts, next_q, frozen, most)

    def _value_loss(self, value: StackedMLP, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = self._targets(batch)
        q, _ = self.network.q_values(value, batch.obs)
        taken = self.policy.actions.from_env(batch.actions)
        loss = 0.5 * (targets - q.gather(-1, taken)[:, 0]).square().mean()
        return loss, {"train/value_loss": loss.detach(), "train/q": targets.mean()}

    def _loss(self, network: BCoderNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.stage == 0:
            loss = -network.policy.log_prob(batch.obs[None], batch.actions[None]).mean()
            return loss, {"train/loss": loss.detach()}
        config, expert = self.config, batch.extras["expert"]
        targets = self._targets(batch)
        q, logits = network.q_values(self.value, batch.obs)
        taken = self.policy.actions.from_env(batch.actions)
        q_loss = 0.5 * (targets - q.gather(-1, taken)[:, 0]).square().mean()
        advantage = F.advantages(logits, config.alpha).gather(-1, taken)[:, 0]
        adv_loss = F.masked_mean(advantage.abs(), expert)
        ce_loss = F.masked_mean(-torch.log_softmax(logits, -1).gather(-1, taken)[:, 0], expert)
        loss = q_loss + config.beta_adv * adv_loss + config.beta_ce * ce_loss
        found = {
            "loss": loss,
            "q_loss": q_loss,
            "adv_loss": adv_loss,
            "ce_loss": ce_loss,
            "q": targets.mean(),
        }
        return loss, {f"train/{name}": value.detach() for name, value in found.items()}

    # What comes of it -------------------------------------------------------------------------------------

    @torch.no_grad()
    def q_values(self, obs: Tensor) -> Tensor:
        """Return Q [n, A] at observations [n, ...] on the device."""
        return self.network.q_values(self.value, obs)[0]

    @torch.no_grad()
    def recovered_returns(self, candidates: Segments, successors: Successors = "value") -> Tensor:
        """Return the discounted sums [N] of the recovered reward r~ over candidates, without their tests.

        Args:
            candidates: N whole episodes, as they were written.
            successors: what s' is worth in r~: V(s'), which is max_a Q(s', a), or Q(s', argmax q), by which
                r~ is T^q Q, the exact inverse.

        Raises:
            ValueError: for other successors.
        """
        if successors not in get_args(Successors):
            raise ValueError(f"successors is {successors!r}; allowed are {list(get_args(Successors))}")
        given = candidates.to(self.device)
        count, length = given.mask.shape
        obs = given.obs.flatten(0, 1)
        q = self.q_values(obs)
        ranks = q if successors == "value" else self.pretrained.logits(obs[None])[0]
        q, ranks = (values.view(count, length + 1, -1) for values in (q, ranks))
        taken = self.policy.actions.from_env(given.actions.reshape(-1, 1)).view(count, length, 1)
        taken = taken.clamp(min=0)  # padding is 0, which need not be an action
        step = torch.arange(length, device=self.device)
        ends = given.terminated[:, None] & (step + 1 == given.lengths[:, None])
        rewards = F.recovered_rewards(
            q[:, :-1].gather(-1, taken)[..., 0], self.config.gamma * ~ends, q[:, 1:], ranks[:, 1:]
        )
        return (self.config.gamma**step * rewards * given.mask).sum(-1)

    def rerank(self, candidates: Segments, successors: Successors = "value") -> Tensor:
        """Return the places [N] of candidates for one prompt, the best first (the paper's dual strategy).

        Args:
            candidates: N whole episodes, as they were written.
            successors: see :meth:`recovered_returns`.
        """
        return self.recovered_returns(candidates, successors).argsort(descending=True, stable=True)

    def result(self) -> dict[str, Any]:
        """Return the stage that was reached."""
        return {"stage": self.stage}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; a data set stays where it is."""
        return {
            **super().state_dict(), "value": self.value.state_dict(), "target": self.target.state_dict(),
            "target_value": self.target_value.state_dict(), "pretrained": self.pretrained.state_dict(),
            "value_optimizer": self._value_update.optimizer.state_dict(), "cloning_steps": self.cloning_steps,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        for name in ("value", "target", "target_value", "pretrained"):
            getattr(self, name).load_state_dict(state[name])
        self._value_update.optimizer.load_state_dict(state["value_optimizer"])
        self.cloning_steps = int(state["cloning_steps"])


def expert_rows(dataset: TransitionDataset, expert_return: float | None) -> Tensor:
    """Return which rows [N] bool are of episodes whose undiscounted return is at least ``expert_return``.

    Args:
        dataset: whole episodes.
        expert_return: None: the largest return there is.
    """
    ends = ~dataset.has_next_action
    episode = ends.cumsum(0) - ends.to(torch.int64)
    zeros = torch.zeros(len(dataset), dtype=torch.float64, device=dataset.rewards.device)
    returns = zeros.index_add(0, episode, dataset.rewards.to(torch.float64))[episode]
    least = returns.amax() if expert_return is None else expert_return
    return returns >= least - 1e-9
