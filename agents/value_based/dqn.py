"""Deep Q-learning with seven losses: squared, Huber, HL-Gauss, Two-Hot, C51, quantile, softmax ablation.

A network gives Q(s, a), a target network Q'(s, a) that follows it slowly. A sampled transition of K <= n
steps (``prefrl.data.replay``) has the target

    y = sum_{k < K} gamma^k r_{t+k} + gamma^K (1 - terminal) Q'(s_{t+K}, a*)

with a* = argmax_a Q(s_{t+K}, a) (double Q-learning, van Hasselt et al. 2016, arXiv 1509.06461), argmax_a Q'
(Mnih et al. 2015), or the action that was taken there (SARSA, data sets only). What is made of it:

==============  =========================================================================================
``mse``         (Q(s, a) - y)^2
``huber``       the same, linear from 1 on (Mnih et al. 2015; SB3's loss)
``hl_gauss``    cross-entropy to a normal law around y on m bins; Q is the mean of the softmax of m logits
                (Farebrother et al. 2024, arXiv 2403.03950)
``two_hot``     cross-entropy to y shared between the two atoms beside it (the same)
``c51``         cross-entropy to r + gamma Z'(s', a*), projected to the atoms: the whole law is backed up
                (Bellemare et al. 2017, arXiv 1707.06887)
``quantile``    quantile Huber loss to r + gamma Z'(s', a*) (Dabney et al. 2018, arXiv 1710.10044)
``mse_softmax`` (Q(s, a) - y)^2 with the network of ``hl_gauss``: the ablation that tells whether it is the
                loss or the parameterisation that helps (Farebrother et al. 2024, section 5.1)
==============  =========================================================================================

Cross-entropies need a support [v_min, v_max] that holds every target: beyond it they are clamped. How many
are is counted, and a run stops where it is more than a share that is set.

With a data set, the agent learns from it alone: nothing is stepped, one timestep is one gradient step. And

    cql_alpha * (logsumexp_a Q(s, a) - Q(s, a_t))

holds down the values of actions that the data do not show (conservative Q-learning, Kumar et al. 2020,
arXiv 2006.04779, equation 4), on decoded values whatever the loss.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from prefrl.agents.base import Agent, LearningFailedError, mean_of, times_due
from prefrl.config import check_kinds
from prefrl.data import Transitions, seeded_generator
from prefrl.data.datasets import TransitionDataset
from prefrl.data.devices import building, make_generator, restore_generator
from prefrl.data.replay import ReplayBuffer, replay_state, restored_replay
from prefrl.functional.draws import uniform
from prefrl.functional.value_based.exploration import epsilon_greedy, linear_epsilon
from prefrl.functional.value_based.value_distributions import resolve_sigma
from prefrl.nn.flat import FlatParameters
from prefrl.nn.heads import CategoricalHead, Loss, gather_actions, make_head
from prefrl.nn.torsos import ObservationTorso
from prefrl.nn.update import AdamUpdate, Network

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
class DQNConfig:
    """Settings of :class:`DQN`; names are SB3's where it has them."""

    loss: Loss = "hl_gauss"
    """What is made of a target; see the top of ``agents/value_based/dqn.py``."""

    gamma: float = 0.99
    """Discount per step, in [0, 1]."""

    n_step: int = 1
    """Steps of a return."""

    double: bool = True
    """Whether the network, rather than the target network, chooses the next action."""

    dueling: bool = False
    """A stream for the state's value beside that of the actions' advantages (Wang et al. 2016)."""

    learning_rate: float | None = None
    """Adam's step size (default: 2e-3 for hl_gauss, two_hot and c51, 1e-3 for the others)."""

    adam_eps: float = 1e-8
    """Adam's epsilon; the paper's classification agents take 3.125e-4, its squared loss 1.5e-4."""

    batch_size: int = 64
    """Transitions per gradient step."""

    buffer_size: int = 100_000
    """Transitions in the replay."""

    learning_starts: int = 1_000
    """Timesteps of uniform actions before the first gradient step."""

    train_freq: int = 4
    """Timesteps (rows of environments) between two rounds of gradient steps."""

    gradient_steps: int = 1
    """Gradient steps per round."""

    target_update_interval: int = 500
    """Timesteps between two updates of the target network (one at most per step of all environments)."""

    tau: float = 1.0
    """How far it then moves to the network: 1 copies it, less is Polyak averaging."""

    max_grad_norm: float = 10.0
    """The gradient's norm is cut to this."""

    epsilon_start: float = 1.0
    """Probability of a uniform action at the start."""

    epsilon_end: float = 0.05
    """Probability of a uniform action once exploration has fallen off."""

    epsilon_timesteps: int = 10_000
    """Timesteps over which epsilon falls linearly from its start to its end."""

    network: Literal["auto", "mlp", "conv"] = "auto"
    """mlp, or MinAtar's small convolution; auto takes that for observations (height, width, channels)."""

    hidden: tuple[int, ...] = (128, 128)
    """Layers of the mlp."""

    conv_filters: int = 16
    """3 x 3 filters of the convolution."""

    conv_features: int = 128
    """Units of its full layer."""

    v_min: float = -120.0
    """Lowest value of the support (classification losses, mse_softmax)."""

    v_max: float = 120.0
    """Highest value of the support; leave 3 sigma and half a bin between it and the highest target."""

    bins: int = 101
    """Bins (hl_gauss, mse_softmax) or atoms (two_hot, c51) of the support."""

    placement: Literal["edges", "centers"] = "edges"
    """Whether v_min and v_max are edges or centres of the outer bins (hl_gauss, mse_softmax)."""

    sigma: float | None = None
    """Width of HL-Gauss' normal law, in units of value (default: by sigma_ratio)."""

    sigma_ratio: float | None = None
    """The same in bin widths (default: 0.75)."""

    quantiles: int = 50
    """Quantiles of the law of returns (quantile)."""

    kappa: float = 1.0
    """Where the quantile Huber loss becomes linear; 0 is the plain quantile loss."""

    max_clamped_fraction: float = 0.01
    """Share of clamped targets, of all so far, above which a run is stopped; 1 never stops it."""

    cql_alpha: float = 0.0
    """Weight of conservative Q-learning's regulariser, for data sets above all."""

    target_policy: Literal["greedy", "sarsa"] = "greedy"
    """Action of the next state: the best one, or the one taken there (sarsa: data sets only)."""

    compile: bool = False
    """Compile the gradient step: faster after up to half a minute; on the CPU it takes a C++ compiler."""

    def __post_init__(self) -> None:
        check_kinds(self)
        object.__setattr__(self, "hidden", tuple(self.hidden))  # a file holds a list
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {list(allowed)}")
        for names, holds, must in BOUNDS:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not holds(value):
                    raise ValueError(f"{name} is {value}; it must {must}")
        if self.buffer_size < self.batch_size:
            raise ValueError(f"buffer_size is {self.buffer_size}; it must hold a batch of {self.batch_size}")
        if self.v_min >= self.v_max:
            raise ValueError(f"v_min is {self.v_min} and v_max {self.v_max}; v_min must be below v_max")
        _ = self.resolved_sigma

    @property
    def bin_width(self) -> float:
        """Width of a bin, in units of value."""
        return (self.v_max - self.v_min) / (self.bins - (self.placement == "centers"))

    @property
    def resolved_sigma(self) -> float:
        """HL-Gauss' sigma in units of value."""
        return resolve_sigma(self.bin_width, sigma=self.sigma, sigma_ratio=self.sigma_ratio)


CHOICES = {
    "loss": tuple(LEARNING_RATES),
    "network": ("auto", "mlp", "conv"),
    "placement": ("edges", "centers"),
    "target_policy": ("greedy", "sarsa"),
}
"""What a setting that is one of a few words may be."""

_Holds = Callable[[float], bool]
BOUNDS: tuple[tuple[str, _Holds, str], ...] = (
    ("gamma epsilon_start epsilon_end max_clamped_fraction", lambda x: 0 <= x <= 1, "lie in [0, 1]"),
    ("n_step batch_size train_freq gradient_steps target_update_interval quantiles conv_filters",
     lambda x: x >= 1, "be at least 1"),
    ("learning_starts epsilon_timesteps cql_alpha kappa", lambda x: 0 <= x < math.inf,
     "be finite and not negative"),
    ("learning_rate adam_eps max_grad_norm", lambda x: 0 < x < math.inf, "be finite and above 0"),
    ("tau", lambda x: 0 < x <= 1, "lie in (0, 1]"),
    ("bins", lambda x: x >= 2, "be at least 2"),
    ("v_min v_max", math.isfinite, "be finite"),
)  # fmt: skip
"""What a setting that is a number must be."""


class QNetwork(nn.Module):
    """Torso and head of the settings, for these spaces.

    Raises:
        ValueError: if the network does not take such observations, or the support is empty.
    """

    def __init__(self, observation_space: gym.Space[Any], num_actions: int, config: DQNConfig) -> None:
        super().__init__()
        self.torso = torso = ObservationTorso(
            observation_space,
            hidden=config.hidden,
            network=config.network,
            conv_filters=config.conv_filters,
            conv_features=config.conv_features,
        )
        self.head = make_head(
            config.loss, torso.features, num_actions, v_min=config.v_min, v_max=config.v_max,
            bins=config.bins, placement=config.placement, sigma=config.resolved_sigma,
            quantiles=config.quantiles, kappa=config.kappa, dueling=config.dueling,
        )  # fmt: skip

    def forward(self, obs: Tensor) -> Tensor:
        """Map observations [N, ...] to outputs [N, A] or [N, A, m], which the head reads as values."""
        outputs: Tensor = self.head(self.torso(obs))
        return outputs


class DQN(Agent):
    """Deep Q-learning; see the module's text.

    Args:
        env: an environment with Discrete actions and Discrete or Box observations, or
            :class:`prefrl.agents.base.Spaces`.
        config: settings.
        dataset: learn from these transitions instead of stepping ``env``; one timestep is then one gradient
            step. Files of agents hold no data: a loaded agent acts, or goes on in an environment (but
            not with SARSA targets), exploring at ``epsilon_end``.
        device: torch device, or "auto".
        seed: seeds network, exploration and replay.

    Raises:
        TypeError: if ``dataset`` is none.
        ValueError: if a space is of another kind, or the data set's spaces are not the environment's, or its
            returns lie outside the support.
    """

    config_class: ClassVar[type[DQNConfig]] = DQNConfig
    config: DQNConfig
    keeps_rewards = True

    def __init__(
        self,
        env: Any,
        config: DQNConfig | None = None,
        *,
        dataset: TransitionDataset | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or DQNConfig(), device=device, seed=seed)
        config = self.config
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ValueError(f"action_space is {self.action_space}; DQN takes Discrete actions")
        self.num_actions, self._first_action = int(self.action_space.n), int(self.action_space.start)
        self._generator = make_generator(self.device, seed)
        with building(self.device, seeded_generator(seed, "network").initial_seed()):
            self.network = QNetwork(self.observation_space, self.num_actions, config)
            self.target = QNetwork(self.observation_space, self.num_actions, config).requires_grad_(False)
            self._clamped = torch.zeros(2, dtype=torch.float64)
        self.target.load_state_dict(self.network.state_dict())
        rate = LEARNING_RATES[config.loss] if config.learning_rate is None else config.learning_rate
        self._update = AdamUpdate(self.network, self._loss, lr=rate, eps=config.adam_eps,
                                  max_grad_norm=config.max_grad_norm, compile=config.compile)  # fmt: skip
        self.optimizer, self._target_weights = self._update.optimizer, FlatParameters(self.target)
        self._learned_at = 0
        self.steps_env = dataset is None
        self._from_dataset = dataset is not None
        self.replay: ReplayBuffer | None = None
        if dataset is not None:
            self._check_dataset(dataset)
            self.replay = ReplayBuffer.from_dataset(
                dataset, gamma=config.gamma, n_step=config.n_step, device=self.device
            )

    @property
    def epsilon(self) -> float:
        """Probability of a uniform action at the present timestep."""
        config = self.config
        if self._from_dataset:  # it knows something already, and its timesteps were gradient steps
            return config.epsilon_end
        if self.num_timesteps < config.learning_starts:
            return 1.0
        return linear_epsilon(
            config.epsilon_start, config.epsilon_end, config.epsilon_timesteps, self.num_timesteps
        )

    @torch.no_grad()
    def q_values(self, obs: Tensor) -> Tensor:
        """Return Q(s, a) [n, A] for observations [n, ...] on the device."""
        return self.network.head.values(self.network(obs))

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return epsilon-greedy actions [n] for observations [n, ...]."""
        best = self.q_values(obs).argmax(-1)
        if not deterministic:
            noise = uniform(self._generator, 2, len(obs), device=self.device)
            best = epsilon_greedy(best, self.num_actions, self.epsilon, noise)
        return best + self._first_action if self._first_action else best

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
            due = times_due(config.train_freq, before, self.num_timesteps) if self._can_learn() else 0
            steps = due * config.gradient_steps
        else:
            self.num_timesteps += 1
            steps = 1
        self._learned_at = now = self.num_timesteps
        metrics = mean_of(self._gradient_step() for _ in range(steps))
        if times_due(config.target_update_interval, before, now):
            self._target_weights.follow(self._update.weights, config.tau)
        if self.steps_env:
            metrics["rollout/exploration_rate"] = torch.full((), self.epsilon, device=self.device)
        return metrics

    def _can_learn(self) -> bool:
        """Whether there is enough to learn from: after :meth:`Agent.load` the replay starts anew."""
        config = self.config
        if self.num_timesteps < config.learning_starts or self.replay is None:
            return False
        return len(self.replay) >= min(config.batch_size, config.learning_starts, self.replay.capacity)

    def _gradient_step(self) -> dict[str, Tensor]:
        assert self.replay is not None
        drawn = self.replay.draw(self.config.batch_size, self._generator)
        metrics = self._update.step(self.replay.storage, *drawn)
        if "clamped" in metrics:
            self._clamped += metrics.pop("clamped")
        return metrics

    def _loss(
        self, network: Network, storage: dict[str, Tensor], index: Tensor, newest: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the transitions at places of the replay, and metrics.

        ``network`` is the agent's, or a function that stands for it with other parameters.
        """
        assert self.replay is not None
        config, head, first = self.config, self.network.head, self._first_action
        batch = self.replay.batch(storage, index, newest)
        actions, weights = batch.actions - first, batch.weights
        with torch.no_grad():
            next_outputs = self.target(batch.next_obs)
            if config.target_policy == "sarsa":
                assert batch.next_actions is not None
                assert batch.next_known is not None
                next_actions = batch.next_actions - first
                weights = weights * batch.next_known  # the data end, or were cut, before the next action
            else:
                chosen_by = self.network(batch.next_obs) if config.double else next_outputs
                next_actions = head.values(chosen_by).argmax(-1)
            next_q = gather_actions(next_outputs, next_actions)
            target, outside = head.target(batch.returns, batch.discounts, next_q)
        outputs = network(batch.obs)
        losses = head.loss(gather_actions(outputs, actions), target)
        metrics = head.metrics(losses.detach(), target)
        if config.cql_alpha:
            q = head.values(outputs)
            gap = torch.logsumexp(q, -1) - gather_actions(q, actions)
            losses = losses + config.cql_alpha * gap
            metrics["train/cql"] = gap.detach().mean()
        if outside is not None:
            clamped = torch.stack([(outside * batch.weights).sum(), batch.weights.sum()])
            metrics |= {"clamped": clamped, "train/clamped_fraction": clamped[0] / clamped[1].clamp(min=1.0)}
        loss = losses @ (weights / weights.sum().clamp(min=1.0))
        return loss, {"train/loss": loss.detach(), **metrics}

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
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "clamped": self._clamped,
            "learned_at": self._learned_at,
            "from_dataset": self._from_dataset,
            **replay_state(self.replay if self.steps_env else None),  # a data set stays where it is
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the replay stays behind, as with SB3."""
        return {**self.state_dict(), "replay": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self._update.load_optimizer(state["optimizer"])
        restore_generator(self._generator, state["generator"])
        self._clamped.copy_(state["clamped"])
        self._learned_at = int(state["learned_at"])
        self._from_dataset = bool(state.get("from_dataset", False)) or not self.steps_env
        self._update.forget_compiled()  # the replay is another one from now on
        if state["replay"] is not None:
            self.replay = restored_replay(state, self._empty_replay, self.device)

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        config = self.config
        return ReplayBuffer(config.buffer_size, num_envs, gamma=config.gamma, n_step=config.n_step)

    def _check_dataset(self, dataset: TransitionDataset) -> None:
        """Raise ValueError for data of another environment, or of returns that the support cannot hold."""
        if not isinstance(dataset, TransitionDataset):
            raise TypeError(f"dataset is a {type(dataset).__name__}; it must be a TransitionDataset")
        if len(dataset) < self.config.n_step:
            raise ValueError(f"the dataset has {len(dataset)} transitions; n_step is {self.config.n_step}")
        dataset.check_matches(self.observation_space, self.action_space)
        spec = getattr(self.env, "spec", None)
        if spec is not None and dataset.env_id not in (None, spec.id):
            warnings.warn(f"the dataset is from {dataset.env_id}, and the environment is {spec.id}; their "
                          "spaces are the same", stacklevel=3)  # fmt: skip
        config = self.config
        if isinstance(self.network.head, CategoricalHead) and config.max_clamped_fraction < 1.0:
            returns = dataset.returns(config.gamma)
            low, high = float(returns.min()), float(returns.max())
            if low < config.v_min or high > config.v_max:
                raise ValueError(
                    f"the support [{config.v_min:g}, {config.v_max:g}] cannot hold the dataset's returns, "
                    f"from {low:g} to {high:g}; widen v_min and v_max"
                )
