"""Implicit Q-learning (Kostrikov, Nair and Levine 2021, arXiv 2110.06169): learning from a data set alone.

Ordinary Q-learning asks for the value of actions that the data do not show, about which nobody knows. Here
none but the data's own is ever asked about. A value network looks at what they are worth and goes to the
upper end of that, an expectile tau of their distribution; critics learn from it; and the policy repeats the
data's actions the more the better they turned out:

    L_V  = E |tau - 1(u < 0)| u^2,  u = min_i Q_i^-(s, a) - V(s)          (equation 5)
    L_Q  = sum_i E (r + gamma (1 - terminal) V(s') - Q_i(s, a))^2          (equation 6)
    L_pi = -E min(exp(beta u), w) log pi(a | s)                            (equation 7)

for (s, a, r, s') from the data. Q_i^- follow the critics slowly; the two of which the smaller one counts, and
the limit w, are those of the released code. As tau comes to 1, V comes to the best that can be had with the
data's own actions. All three losses are stepped down at once, each in its own network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from prefrl.agents.shared import LikelihoodSettings, OfflineAgent
from prefrl.config import Bounds, NonNegative, Positive, PositiveShare, Share
from prefrl.data import TransitionDataset
from prefrl.data.replay import Batch
from prefrl.functional.actor_critic.implicit_q_learning import advantage_weights, expectile_loss
from prefrl.nn.likelihood_policies import DiscretePolicy, GaussianPolicy
from prefrl.nn.mlp import StackedMLP


@dataclass(frozen=True)
class IQLConfig(LikelihoodSettings):
    """Settings of :class:`IQL`; the defaults are the paper's in locomotion."""

    expectile: Annotated[float, Bounds(low=0, high=1, above=True, below=True)] = 0.7
    """Expectile tau of V, in (0, 1): 1/2 is the mean of the data's actions, towards 1 the best of them (the
    paper's is .9 for mazes)."""

    temperature: NonNegative = 3.0
    """Factor beta of advantages in the policy's weights, an inverse temperature, in 1 / units of reward: 0 is
    behaviour cloning (the paper's is 10 for mazes)."""

    largest_weight: Positive = 100.0
    """What the policy's weights are cut to (the released code)."""

    gamma: Share = 0.99
    """Discount per step, in [0, 1]."""

    tau: PositiveShare = 0.005
    """Share of the critics in their targets at every gradient step, in (0, 1]."""


class IQLNetwork(nn.Module):
    """Policy, value and two critics, each a network of its own.

    Args:
        policy: of one learner.
        hidden: sizes of the hidden layers of value and critics.
    """

    def __init__(self, policy: DiscretePolicy | GaussianPolicy, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.policy, self.hidden = policy, hidden
        self.value = StackedMLP(1, policy.numbers.size, hidden)
        self.critic = self.critics()

    def critics(self) -> StackedMLP:
        """Return two critics: of numbers they read the action, of choices they give the value of each."""
        size, outputs = self.policy.numbers.size, self.policy.distribution.outputs
        if isinstance(self.policy, DiscretePolicy):
            return StackedMLP(2, size, self.hidden, outputs)
        return StackedMLP(2, size + outputs, self.hidden)

    def values(self, obs: Tensor) -> Tensor:
        """Return V(s) [N] of observations [N, ...]."""
        values: Tensor = self.value(self.policy.numbers(obs, torch.float32)[None])[0]
        return values

    def q_values(self, critics: StackedMLP, obs: Tensor, actions: Tensor) -> Tensor:
        """Return Q_i(s, a) [2, N] of observations and actions [N, ...], by critics or their targets."""
        numbers, raw = self.policy.numbers(obs, torch.float32), self.policy.actions.from_env(actions)
        if isinstance(self.policy, DiscretePolicy):
            of_each: Tensor = critics(numbers.expand(2, -1, -1))
            return of_each.gather(-1, raw.expand(2, -1, -1))[..., 0]
        inputs = torch.cat([numbers, raw.to(torch.float32)], -1)
        q: Tensor = critics(inputs.expand(2, -1, -1))
        return q


def iql_loss(
    network: IQLNetwork, target: StackedMLP, batch: Batch, config: IQLConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of the three losses, whose gradients are each in its own network, and metrics.

    Args:
        network: what learns.
        target: the critics' target.
        batch: transitions.
        config: settings.
    """
    with torch.no_grad():
        q = network.q_values(target, batch.obs, batch.actions).amin(0)
        targets = batch.returns + batch.discounts * network.values(batch.next_obs)
    advantages = q - network.values(batch.obs)
    value_loss = expectile_loss(advantages, config.expectile).mean()
    predicted = network.q_values(network.critic, batch.obs, batch.actions)
    critic_loss = (targets - predicted).square().mean(-1).sum()
    weights = advantage_weights(advantages.detach(), config.temperature, config.largest_weight)
    log_probs = network.policy.log_prob(batch.obs[None], batch.actions[None])[0]
    actor_loss = -(weights * log_probs).mean()
    loss = value_loss + critic_loss + actor_loss
    metrics = {"loss": loss, "value_loss": value_loss, "critic_loss": critic_loss, "actor_loss": actor_loss,
               "q": q.mean(), "advantage_weight": weights.mean()}  # fmt: skip
    return loss, {f"train/{name}": value.detach() for name, value in metrics.items()}


class IQL(OfflineAgent):
    """Implicit Q-learning; see the module's text.

    Args:
        env: an environment with Discrete or Box actions and Discrete or Box observations (no pictures), or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        dataset: what to learn from; one timestep is one gradient step. Files of agents hold no data: a loaded
            agent acts, and learns on where it is given a data set again.
        device: torch device, or "auto".
        seed: seeds networks, batches and the actions that are drawn.

    Raises:
        TypeError: if ``dataset`` is none.
        ValueError: if a space is of another kind, or the data set's spaces are not the environment's.

    Attributes:
        network: policy, value and critics.
        target: the critics' target.
    """

    config_class: ClassVar[type[IQLConfig]] = IQLConfig
    config: IQLConfig
    policy: DiscretePolicy | GaussianPolicy
    network: IQLNetwork
    advice = "a lower learning_rate or temperature, or rewards in a larger unit, may help"

    def __init__(
        self,
        env: Any,
        config: IQLConfig | None = None,
        *,
        dataset: TransitionDataset | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or IQLConfig(), dataset=dataset, device=device, seed=seed)

    def make_network(self) -> IQLNetwork:
        """See :class:`OfflineAgent`; the critics' target is made beside it."""
        network = IQLNetwork(self.policy, self.config.hidden)
        self.target = network.critics().requires_grad_(False)
        self.target.load_state_dict(network.critic.state_dict())
        return network

    @torch.no_grad()
    def values(self, obs: Tensor) -> Tensor:
        """Return V(s) [n] of observations [n, ...] on the device."""
        return self.network.values(obs)

    @torch.no_grad()
    def q_values(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return min_i Q_i(s, a) [n] of observations and actions [n, ...] on the device."""
        return self.network.q_values(self.network.critic, obs, actions).amin(0)

    def _loss(self, network: IQLNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return iql_loss(network, self.target, batch, self.config)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        metrics = super()._step(batch)
        with torch.no_grad():
            mine: list[Tensor] = [*self.target.parameters()]
            followed: list[Tensor] = [*self.network.critic.parameters()]
            torch._foreach_lerp_(mine, followed, self.config.tau)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; a data set stays where it is."""
        return {**super().state_dict(), "target": self.target.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
