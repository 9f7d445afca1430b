"""Deep Q-learning with seven losses: squared, Huber, HL-Gauss, Two-Hot, C51, quantile, softmax ablation.

A network gives Q(s, a), a target network Q'(s, a) that follows it slowly. A sampled transition of K <= n
steps (``prefrl.data.replay``) has the target

    y = sum_{k < K} gamma^k r_{t+k} + gamma^K (1 - terminal) Q'(s_{t+K}, a*)

with a* = argmax_a Q(s_{t+K}, a) (double Q-learning, van Hasselt et al. 2016, arXiv 1509.06461), argmax_a Q'
(Mnih et al. 2015), or the action that was taken there (SARSA, data sets only). What is made of it:

=============== ==============================================================================================
``mse``         (Q(s, a) - y)^2
``huber``       the same, linear from 1 on (Mnih et al. 2015; SB3's loss)
``hl_gauss``    cross-entropy to a normal distribution around y on m bins; Q is the mean of the softmax of m
                logits (Farebrother et al. 2024, arXiv 2403.03950)
``two_hot``     cross-entropy to y shared between the two atoms beside it (the same)
``c51``         cross-entropy to r + gamma Z'(s', a*), projected to the atoms: the whole distribution is
                backed up (Bellemare et al. 2017, arXiv 1707.06887)
``quantile``    quantile Huber loss to r + gamma Z'(s', a*) (Dabney et al. 2018, arXiv 1710.10044)
``mse_softmax`` (Q(s, a) - y)^2 with the network of ``hl_gauss``: the ablation that tells whether it is the
                loss or the parameterisation that helps (Farebrother et al. 2024, section 5.1)
=============== ==============================================================================================

Cross-entropies need a support [v_min, v_max] that holds every target: beyond it they are clamped. How many
are is counted, and a run stops where it is more than a share that is set.

With a data set, the agent learns from it alone: nothing is stepped, one timestep is one gradient step. And

    cql_alpha * (logsumexp_a Q(s, a) - Q(s, a_t))

holds down the values of actions that the data do not show (conservative Q-learning, Kumar et al. 2020,
arXiv 2006.04779, equation 4), on decoded values whatever the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from prefrl.agents.base import LearningFailedError
from prefrl.agents.shared import DeepQ, check_dataset
from prefrl.config import Count, NonNegative, Positive, PositiveShare, Share
from prefrl.data import Transitions
from prefrl.data.datasets import TransitionDataset
from prefrl.data.devices import Precision, low_dtype
from prefrl.data.metrics import mean_of
from prefrl.data.off_policy import OffPolicySettings, times_due
from prefrl.data.replay import Batch, ReplayBuffer
from prefrl.functional.value_based.exploration import epsilon_greedy_alone
from prefrl.nn.heads import CategoricalHead, Head, gather_actions
from prefrl.nn.q_network import Loss as Loss, QChain, QNetwork, QNetworkSettings
from prefrl.nn.update import GraphedStep, Network, check_cuda_graph

from .by_hand import clamped_shares, gradients_by_hand

LEARNING_RATES: dict[str, float] = {
    "mse": 1e-3,
    "huber": 1e-3,
    "hl_gauss": 2e-3,
    "two_hot": 2e-3,
    "c51": 2e-3,
    "quantile": 1e-3,
    "mse_softmax": 1e-3,
}
"""Adam's step size where none is given; from a few runs of one seed on CartPole-v1, not tuned evenly."""


@dataclass(frozen=True)
class DQNConfig(QNetworkSettings, OffPolicySettings):
    """Settings of :class:`DQN`; names are SB3's where it has them."""

    of_each: ClassVar[tuple[str, ...]] = ("learning_rate", "gamma")

    gamma: Share | tuple[Share, ...] = 0.99
    """Discount per step, in [0, 1]; of many learners also one for each."""

    n_step: Count = 1
    """Steps of a return."""

    learning_rate: Positive | tuple[Positive, ...] | None = None
    """Adam's step size (default: 2e-3 for hl_gauss, two_hot and c51, 1e-3 for the others), likewise."""

    adam_eps: Positive = 1e-8
    """Adam's epsilon; the paper's classification agents take 3.125e-4, its squared loss 1.5e-4."""

    target_update_interval: Count = 500
    """Timesteps between two updates of the target network (one at most per step of all environments)."""

    tau: PositiveShare = 1.0
    """How far it then moves to the network: 1 copies it, less is Polyak averaging."""

    max_clamped_fraction: Share = 0.01
    """Share of clamped targets, of all so far, above which a run is stopped; 1 never stops it."""

    cql_alpha: NonNegative = 0.0
    """Weight of conservative Q-learning's regulariser, for data sets above all."""

    precision: Precision = "float32"
    """Of the products of a gradient step: bf16 is faster where the processor has it (AMX or avx512_bf16),
    layers are 256 wide or more and batches large; weights, Adam and losses stay float32."""

    target_policy: Literal["greedy", "sarsa"] = "greedy"
    """Action of the next state: the best one, or the one taken there (sarsa: data sets only)."""

    cuda_graph: bool = False
    """Record the gradient step as a CUDA graph, whose kernels start together; for small networks on a GPU.
    Not tried on one yet."""


class DQN(DeepQ):
    """Deep Q-learning; see the module's text.

    Args:
        env: an environment with Discrete actions and Discrete or Box observations, or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        dataset: learn from these transitions instead of stepping ``env``; one timestep is then one gradient
            step. Files of agents hold no data: a loaded agent acts, or goes on in an environment (but
            not with SARSA targets), exploring at ``epsilon_end``.
        torso: a network from observations to features in place of the settings'; see
            :func:`prefrl.nn.torsos.given_torso`. It learns by autograd, and is given again to :meth:`load`.
        device: torch device, or "auto".
        seed: seeds network, exploration and replay.

    Raises:
        TypeError: if ``dataset`` is none.
        ValueError: if a space is of another kind, or the data set's spaces are not the environment's, or its
            returns lie outside the support.
    """

    config_class: ClassVar[type[DQNConfig]] = DQNConfig
    config: DQNConfig
    network: QNetwork
    keeps_rewards = True

    def __init__(
        self,
        env: Any,
        config: DQNConfig | None = None,
        *,
        dataset: TransitionDataset | None = None,
        torso: nn.Module | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or DQNConfig(), torso=torso, device=device, seed=seed)
        self.config.check_learners(1)
        self.config = config = self.config.of_learner(0)
        gamma, rate = config.gamma, config.learning_rate or LEARNING_RATES[config.loss]
        assert not isinstance(gamma, tuple)
        assert not isinstance(rate, tuple)
        self._gamma = gamma
        size = self.observation_space, self.num_actions
        self.make_networks(lambda: QNetwork(*size, config, torso), rate)
        self._chains = None if config.compile else self._closed_form()
        layers_alone = self._chains is not None and self._chains[0].front is None
        for name, usual in (("precision", "float32"), ("cuda_graph", False)):
            if not layers_alone and (given := getattr(config, name)) != usual:
                raise ValueError(f"{name} is {given!r}; it must be {usual!r} unless the network is a "
                                 "multilayer perceptron of our own, and steps are not compiled")  # fmt: skip
        check_cuda_graph(config.cuda_graph, self.device)
        self._graph = GraphedStep(self._step_by_hand, self.device) if config.cuda_graph else None
        self._clamped = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.steps_env = dataset is None
        self._from_dataset = dataset is not None
        if dataset is not None:
            self._check_dataset(dataset)
            self.replay = ReplayBuffer.from_dataset(
                dataset, gamma=gamma, n_step=config.n_step, device=self.device
            )

    def _closed_form(self) -> tuple[QChain, QChain] | None:
        """Return network and target for steps by hand; None where autograd is needed."""
        if not self.network.has_chain:
            return None
        online, target = (weights.stacked() for weights in (self._update.weights, self._target_weights))
        low = low_dtype(self.config.precision, self.device, self.config.hidden)
        return QChain(self.network, *online, low), QChain(self.network, *target, low)

    @property
    def epsilon(self) -> float:
        """Probability of a uniform action at the present timestep."""
        # One that learned from data knows something already, and its timesteps were gradient steps.
        return self.config.epsilon_end if self._from_dataset else super().epsilon

    def q_values(self, obs: Tensor) -> Tensor:
        """Return Q(s, a) [n, A] for observations [n, ...] on the device."""
        head = self.network.head
        if self._chains is not None:
            return head.values(self._chains[0].outputs(obs))
        with torch.no_grad():
            return head.values(self.network(obs))

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return epsilon-greedy actions [n] for observations [n, ...]."""
        q = self.q_values(obs)
        if q.shape[0] == 1 and self.device.type == "cpu":
            return self._act_alone(q[0].tolist(), deterministic)
        return self.explore(q.argmax(-1), deterministic=deterministic)

    def _act_alone(self, q: list[float], deterministic: bool) -> Tensor:
        """Do the same for a single row on the CPU: plain numbers are quicker than tensors of one."""
        if deterministic:
            action = q.index(max(q))
        else:
            draws = torch.rand(2, generator=self._generator).tolist()
            action = epsilon_greedy_alone(q, self.epsilon, *draws)
        return torch.full((1,), action + self._first_action)

    def observe(self, transitions: Transitions) -> None:
        """Keep one step of the environments.

        Raises:
            ValueError: with SARSA targets, for which the replay knows no next actions.
        """
        if self.replay is None:
            if self.config.target_policy != "greedy":
                raise ValueError(f"target_policy is {self.config.target_policy!r}; without a dataset it must "
                                 "be 'greedy'")  # fmt: skip
            self.replay = self._empty_replay(len(transitions.rewards))
        self.replay.add(transitions)

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: n-step returns must not reach across."""
        if self.replay is not None and self.steps_env:
            self.replay.cut()

    def relabel(self, rewards: Tensor) -> None:
        """See :meth:`Agent.relabel`; a data set's rewards stay as they are."""
        if self.replay is not None and self.steps_env:
            self.replay.relabel(rewards)

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take the gradient steps that are due; see :meth:`Agent.update`."""
        config, before = self.config, self._learned_at
        if self.steps_env:
            steps = config.gradient_steps_due(self.replay, before, self.num_timesteps)
        else:
            self.num_timesteps += 1
            steps = 1
        self._learned_at = now = self.num_timesteps
        metrics = mean_of(self._gradient_step() for _ in range(steps))
        if times_due(config.target_update_interval, before, now):
            self._target_weights.follow(self._update.weights, config.tau)
        return metrics

    def _gradient_step(self) -> dict[str, Tensor]:
        assert self.replay is not None
        drawn = self.replay.draw(self.config.batch_size, self._generator)
        if self._chains is None:
            metrics = self._update.step(self.replay.storage, *drawn)
        else:
            metrics = (self._graph or self._step_by_hand)(*drawn)
        if "clamped" in metrics:
            self._clamped += metrics.pop("clamped")
        return metrics

    @torch.inference_mode()  # which takes .8 of the time of no_grad with networks of 64 x 64
    def _step_by_hand(self, index: Tensor, newest: Tensor) -> dict[str, Tensor]:
        """Take a gradient step on the transitions at places of the replay; return metrics."""
        assert self.replay is not None and self._chains is not None  # noqa: PT018
        batch = self.replay.batch(self.replay.storage, index, newest)
        found = gradients_by_hand(*self._chains, batch, self._first_action, self.config)
        self._update.descend()
        return {name: value[0] for name, value in found.items()}

    def _loss(
        self, network: Network, storage: dict[str, Tensor], index: Tensor, newest: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the transitions at places of the replay, and metrics.

        ``network`` is the agent's, or a function that stands for it with other parameters.
        """
        assert self.replay is not None
        batch = self.replay.batch(storage, index, newest)
        networks = network, self.network, self.target
        return q_loss(*networks, self.network.head, batch, self._first_action, self.config)

    # What came of it, and what a continuation needs -------------------------------------------------------

    @property
    def clamped_fraction(self) -> float:
        """Share of all targets so far that lay beyond the support; waits for the device."""
        clamped, count = self._clamped.tolist()
        return float(clamped) / max(1.0, float(count))

    def check(self) -> None:
        """Stop a run whose support is too narrow.

        Raises:
            LearningFailedError: if more targets were clamped than the settings allow.
        """
        fraction, config = self.clamped_fraction, self.config
        if fraction > config.max_clamped_fraction:
            raise LearningFailedError(
                f"{fraction:.1%} of the targets lay outside the support [{config.v_min:g}, {config.v_max:g}] "
                f"(max_clamped_fraction is {config.max_clamped_fraction:g}; widen v_min and v_max)"
            )

    def result(self) -> dict[str, Any]:
        """Return the share of clamped targets."""
        return {"clamped_fraction": self.clamped_fraction}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            **super().state_dict(),
            "clamped": self._clamped,
            "from_dataset": self._from_dataset,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        super().load_state_dict(state)
        if self._graph is not None:
            self._graph.forget()  # the replay is another one from now on
        self._clamped.copy_(state["clamped"])
        self._from_dataset = bool(state.get("from_dataset", False)) or not self.steps_env

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        config = self.config
        return ReplayBuffer(config.buffer_size, num_envs, gamma=self._gamma, n_step=config.n_step)

    def _check_dataset(self, dataset: TransitionDataset) -> None:
        """Raise ValueError for data of another environment, or of returns that the support cannot hold."""
        check_dataset(self, dataset)
        if len(dataset) < self.config.n_step:
            raise ValueError(f"the dataset has {len(dataset)} transitions; n_step is {self.config.n_step}")
        config = self.config
        if isinstance(self.network.head, CategoricalHead) and config.max_clamped_fraction < 1.0:
            returns = dataset.returns(self._gamma)
            low, high = float(returns.min()), float(returns.max())
            if low < config.v_min or high > config.v_max:
                raise ValueError(
                    f"the support [{config.v_min:g}, {config.v_max:g}] cannot hold the dataset's returns, "
                    f"from {low:g} to {high:g}; widen v_min and v_max"
                )


def q_loss(
    network: Network, chooser: Network, target_network: Network, head: Head, batch: Batch, first_action: int,
    config: DQNConfig,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Return the loss of transitions, and metrics: numbers [], or [S] for transitions of S learners.

    :func:`gradients_by_hand` is the same without autograd; the tests hold them equal.

    Args:
        network: what learns.
        chooser: the same, or what it stands for.
        target_network: its target.
        head: reads what they say.
        batch: [B, ...] or [S, B, ...] transitions.
        first_action: what actions are counted from.
        config: settings.
    """
    actions, weights = batch.actions - first_action, batch.weights
    outputs = network(batch.obs)
    with torch.no_grad():
        next_outputs = target_network(batch.next_obs)
        if config.target_policy == "sarsa":
            assert batch.next_actions is not None
            assert batch.next_known is not None
            next_actions = batch.next_actions - first_action
            weights = weights * batch.next_known  # the data end, or were cut, before the next action
        else:
            chosen_by = chooser(batch.next_obs) if config.double else next_outputs
            next_actions = head.values(chosen_by).argmax(-1)
        next_q = gather_actions(next_outputs, next_actions)
    target, outside = head.target(batch.returns, batch.discounts, next_q)
    q_taken = gather_actions(outputs, actions)
    losses = head.loss(q_taken, target)
    metrics = head.metrics(losses.detach(), q_taken.detach(), target)
    if config.cql_alpha:
        q = head.values(outputs)
        gap = torch.logsumexp(q, -1) - gather_actions(q, actions)
        losses = losses + config.cql_alpha * gap
        metrics["train/cql"] = gap.detach().mean(-1)
    if outside is not None:
        metrics |= clamped_shares(outside, batch.weights)
    loss = (losses * (weights / weights.sum(-1, keepdim=True).clamp(min=1.0))).sum(-1)
    return loss, {"train/loss": loss.detach(), **metrics}
