"""OREO: a policy and its soft values out of episodes that anybody acted (Wang et al. 2024, arXiv 2412.16145).

Of a reference pi_ref and a price beta, what maximises E R - beta KL(pi, pi_ref) satisfies on every path of a
deterministic environment, whoever took it,

    V(s_t) = R_t - beta sum_{i >= t} l_i,    l_i = log pi(a_i | s_i) - log pi_ref(a_i | s_i),

R_t the rewards from step t on. Both sides are learned at once, without pairs, and failures teach as well:

    L_V  = mean_t ( V(s_t) - R_t + beta sum_{i >= t} sg l_i )^2
    L_pi = mean_t ( sg V(s_t) - R_t + beta l_t + beta sum_{i > t} sg l_i )^2 + kappa KL(pi, pi_ref),

where sg lets no gradient through. These are steps of one action (``trajectory``). In the form ``step``
several actions are one step, in ``response`` a whole episode is. ``one_step`` is

    L = mean_t ( V(s_t) - r_t - sg V(s_{t+1}) + beta l_t )^2,

which is right where transitions are random too: the others hold path by path only where they are not, and
refuse data that show otherwise. An episode that is cut counts V of where it is cut.

With kappa above 0 the policy is nearer to the reference than the optimum for beta is. One timestep is one
gradient step; nothing is stepped. Acting deterministically takes the likeliest action or, with a ``beam``
above 1 in an environment whose deterministic model is known, the first action of the best path that a search
finds in which the policy proposes and V chooses (:mod:`prefrl.functional.value_based.beam_search`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from prefrl.agents.base import Agent, Spaces
from prefrl.agents.shared import check_dataset, check_discrete
from prefrl.config import Count, Natural, NonNegative, Positive, Rows, Settings, Sizes
from prefrl.data import ScoredSegments, TransitionDataset, Transitions, seeded_generator
from prefrl.data.devices import building
from prefrl.functional.streams import Streams
from prefrl.functional.value_based import soft_bellman as F
from prefrl.functional.value_based.beam_search import beam_search
from prefrl.nn.likelihood_policies import DiscretePolicy, PolicyKind, TabularPolicy, table_or_network
from prefrl.nn.mlp import StackedMLP
from prefrl.nn.update import AdamUpdate
from prefrl.tabular import TabularMDP

from .whole_episodes import Episodes, check_deterministic, check_scored, whole_episodes

Form = Literal["trajectory", "step", "response", "one_step"]
"""How many steps a residual spans, and how many of them the policy learns about at once."""

AT_ONCE = 1_024
"""Episodes whose reference is looked at together."""


@dataclass(frozen=True)
class OREOConfig(Settings):
    """Settings of :class:`OREO`. The paper's are for language models; where not said, these are ours."""

    form: Form = "trajectory"
    """Which residuals; see the module's text."""

    step_length: Count = 2
    """Actions of a step in the form ``step``, counted from an episode's start; others do not look at it."""

    beta: Positive = 0.03
    """Price of a nat of divergence, in units of return (the paper's, for returns of 0 and 1)."""

    kappa: NonNegative = 0.01
    """Weight of KL(policy, reference) in each state, beside the squares (the paper's). 0 for the exact
    optimum."""

    cloning_steps: Natural = 0
    """Gradient steps of behaviour cloning, first; what comes of them is the reference. 0: the reference is
    the policy at its start, even over actions in a table, and nearly so in a network."""

    policy: PolicyKind = "auto"
    """Tables of logits and values for Discrete observations, in float64, or networks."""

    hidden: Sizes = (256, 256)
    """Sizes of the hidden layers of both networks, ReLU."""

    learning_rate: Positive | None = None
    """Adam's step size of policy and values; None: 3e-4. Of tables, which are in nats, None is 0.05 / beta:
    0.05 in units of return."""

    adam_eps: Positive | None = None
    """Adam's epsilon; None: 1e-8. Of tables None is learning_rate beta^2 / 20: where residuals vanish on
    every path, so do gradients, and with less Adam would make jumps out of rounding errors."""

    batch_size: Rows = 64
    """Episodes of a gradient step; all of them, where there are no more."""

    beam: Count = 1
    """Paths that a search keeps where actions are deterministic; 1: the likeliest action is taken."""

    beam_depth: Count = 16
    """Steps that the search looks ahead."""

    def check(self) -> None:
        """Raise ValueError for a beam without values to go by."""
        if self.beam > 1 and self.form in ("step", "response"):
            raise ValueError(f"beam is {self.beam}; it must be 1 with the form {self.form!r}, which learns "
                             "values only where a step begins")  # fmt: skip


class OREONetwork(nn.Module):
    """A policy and soft values, as tables or networks of their own.

    Args:
        policy: of one learner.
        config: settings.
    """

    def __init__(self, policy: TabularPolicy | DiscretePolicy, config: OREOConfig) -> None:
        super().__init__()
        self.policy, self.beta = policy, config.beta
        if isinstance(policy, TabularPolicy):
            # V / beta, in nats as the logits are: one step size suits both.
            self.table = nn.Parameter(torch.zeros_like(policy.table[0, :, 0]))
        else:
            self.value = StackedMLP(1, policy.numbers.size, config.hidden)

    def values(self, obs: Tensor) -> Tensor:
        """Return V [N, L] of observations [N, L, ...]."""
        policy = self.policy
        if isinstance(policy, TabularPolicy):
            return self.beta * self.table[obs - policy.first_state]
        numbers = policy.numbers(obs.flatten(0, 1), torch.float32)
        values: Tensor = self.value(numbers[None])[0]
        return values.view(obs.shape[:2])

    def log_probs(self, obs: Tensor) -> Tensor:
        """Return log pi(a | s) [N, L, A] at observations [N, L, ...]."""
        logits = self.policy.logits(obs.flatten(0, 1)[None])[0]
        return torch.log_softmax(logits, -1).view(*obs.shape[:2], -1)


def oreo_loss(
    network: OREONetwork, batch: Episodes, log_reference: Tensor, config: OREOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return L_V + L_pi, whose gradients are each in its own network, and metrics.

    Args:
        network: what learns.
        batch: whole episodes.
        log_reference: [E, L, A] log pi_ref at their observations.
        config: settings.
    """
    mask, beta = batch.mask, config.beta
    log_probs = network.log_probs(batch.obs[:, :-1])
    ratios = (log_probs - log_reference).gather(-1, batch.actions[..., None])[..., 0]
    values, ratios = network.values(batch.obs), torch.where(mask, ratios, 0.0)
    here, rewards = values[:, :-1], batch.rewards.to(values.dtype)
    counted = chunk_starts(mask, config)
    # Padding repeats the last observation, and its value ends an episode that was cut.
    end = torch.where(batch.cut, values[:, -1].detach(), 0.0)
    if config.form == "one_step":
        following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
        next_values = torch.where(following, values[:, 1:].detach(), end[:, None])
        value_residuals = F.one_step_residuals(here, rewards, next_values, ratios.detach(), beta)
        policy_residuals = F.one_step_residuals(here.detach(), rewards, next_values, ratios, beta)
    else:
        returns = F.to_go(rewards) + end[:, None]
        value_residuals = F.value_residuals(here, returns, ratios, beta)
        policy_residuals = F.policy_residuals(here, returns, ratios, beta, chunk_length(config))
    value_loss = masked_mean(value_residuals.square(), counted)
    policy_loss = masked_mean(policy_residuals.square(), counted)
    divergence = masked_mean((log_probs.exp() * (log_probs - log_reference)).sum(-1), mask)
    loss = value_loss + policy_loss + config.kappa * divergence
    metrics = {"loss": loss, "value_loss": value_loss, "policy_loss": policy_loss, "kl": divergence,
               "value": masked_mean(here, mask)}  # fmt: skip
    return loss, {f"train/{name}": value.detach() for name, value in metrics.items()}


def chunk_length(config: OREOConfig) -> int | None:
    """Return how many actions are one step; None: all of an episode."""
    return {"step": config.step_length, "response": None}.get(config.form, 1)


def chunk_starts(mask: Tensor, config: OREOConfig) -> Tensor:
    """Return which steps [E, L] have a residual: all transitions, or those at which a step begins."""
    chunk = chunk_length(config) or mask.shape[1]
    return mask & (torch.arange(mask.shape[1], device=mask.device) % chunk == 0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values [...] where a mask [...] is True."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


class OREO(Agent):
    """Offline reasoning optimisation; see the module's text.

    Args:
        env: an environment with Discrete actions and Discrete or Box observations (no pictures), or
            :class:`prefrl.agents.base.Spaces`; with a ``beam``, one that knows its deterministic
            ``tabular_model``.
        config: settings.
        dataset: transitions, or groups of segments with scores, which are what is paid at their ends; None:
            the agent acts, and does not learn.
        device: torch device, or "auto".
        seed: seeds the networks, batches and the actions that are drawn.

    Raises:
        TypeError: if ``dataset`` is none of these.
        ValueError: if a space is of another kind, the data are of other spaces, or show random transitions
            and the form is not ``one_step``; if there is a beam and no model for it.

    Attributes:
        network: policy and values.
        episodes: what it learns from; None without a data set.
        reference: [P] parameters of the network whose policy is the reference; None before cloning is over.
    """

    config_class: ClassVar[type[OREOConfig]] = OREOConfig
    config: OREOConfig
    steps_env = False
    advice = "a lower learning_rate may help"

    def __init__(
        self,
        env: Any,
        config: OREOConfig | None = None,
        dataset: TransitionDataset | ScoredSegments | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or OREOConfig(), device=device, seed=seed)
        self.num_actions, self._first_action = check_discrete(self.action_space, "OREO")
        with building(self.device, seeded_generator(self.seed, "network").initial_seed()):
            policy = table_or_network(
                self.observation_space, self.action_space, self.config.policy,
                hidden=self.config.hidden, device=self.device,
            )  # fmt: skip
            assert isinstance(policy, TabularPolicy | DiscretePolicy)  # actions are Discrete
            self.network = OREONetwork(policy, self.config)
        given, tabular = self.config, isinstance(self.network.policy, TabularPolicy)
        rate = given.learning_rate or (0.05 / given.beta if tabular else 3e-4)
        eps = given.adam_eps or (rate * given.beta**2 / 20.0 if tabular else 1e-8)
        self._update = AdamUpdate(self.network, self._loss, lr=rate, eps=eps, max_grad_norm=float("inf"))
        self._orders, self._noise = (
            Streams([self.seed], name, self.device) for name in ("batches", "actions")
        )
        self.reference: Tensor | None = None
        self._log_reference = torch.empty(0)  # [E, L, A], said anew where there is nothing
        self.episodes = None if dataset is None else self._read(dataset)
        self._model = self._read_model()

    def _read(self, dataset: TransitionDataset | ScoredSegments) -> Episodes:
        """Return what there is to learn from, checked, on the device."""
        assert isinstance(self.action_space, gym.spaces.Discrete)
        if isinstance(dataset, ScoredSegments):
            check_scored(dataset, self.observation_space, self.action_space)
        else:
            check_dataset(self, dataset)
        episodes = whole_episodes(dataset, self.action_space)
        if self.config.form != "one_step":
            check_deterministic(episodes, self.config.form)
        return episodes.to(self.device)

    def _read_model(self) -> TabularMDP | None:
        """Return the environment's model for a beam, on the device; None where none is needed or known."""
        if self.config.beam == 1 or isinstance(self.env, Spaces):
            return None
        mdp = TabularMDP.from_env(self.env)
        space = self.observation_space
        fits = isinstance(space, gym.spaces.Discrete) and space.n == mdp.num_states
        if not fits or bool(((mdp.probabilities > 0.0) & (mdp.probabilities < 1.0)).any()):
            raise ValueError(f"beam is {self.config.beam}; it must be 1 in an environment whose transitions "
                             "are random, or that does not show its states")  # fmt: skip
        return mdp.to(self.device)

    # Acting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n] for observations [n, ...]: drawn, or the best known (see the module's text)."""
        if deterministic and self.config.beam > 1:
            return self.plan(obs)[0][:, 0]
        return self.network.policy.act(obs, self._noise, deterministic=deterministic)

    @torch.no_grad()
    def plan(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Search with the beam from observations [n].

        Returns:
            The actions of the best path found [n, beam_depth], and its rewards with the value of its end [n].

        Raises:
            ValueError: if no model is known.
        """
        mdp, config = self._model, self.config
        if mdp is None:
            raise ValueError(f"beam is {config.beam}, and no model is known to search in; give an "
                             "environment that has a tabular_model, and a beam above 1")  # fmt: skip
        log_policy, values = self.tables()
        # Of a deterministic model the likeliest successor is the only one.
        way = mdp.probabilities[0].argmax(-1, keepdim=True)
        found = beam_search(
            mdp.successors[0].gather(-1, way)[..., 0], mdp.linear_rewards(mdp.weights)[0], mdp.terminal[0],
            log_policy, values, obs - int(self.observation_space.start),
            width=config.beam, depth=config.beam_depth,
        )  # fmt: skip
        return found.actions + self._first_action, found.score

    @torch.no_grad()
    def tables(self, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log pi(a | s) [states, A] and V [states] of Discrete observations, float64.

        Args:
            vector: [P] parameters, such as :attr:`reference`; None: those that were learned.

        Raises:
            ValueError: for observations of another space.
        """
        space = self.observation_space
        if not isinstance(space, gym.spaces.Discrete):
            raise ValueError(f"observation_space is {space}; there are tables of Discrete ones only")
        states = torch.arange(int(space.n), device=self.device)[None] + int(space.start)
        with self._update.weights.holding(self._update.weights.vector.detach() if vector is None else vector):
            return self.network.log_probs(states)[0].double(), self.network.values(states)[0].double()

    # Learning --------------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Nothing is learned from stepping: the episodes are the data."""

    def update(self) -> dict[str, Tensor]:
        """Take a gradient step: of cloning, or down OREO's losses; see :meth:`Agent.update`."""
        if self.episodes is None:
            raise ValueError("this agent was given no dataset; it can act, but not learn")
        learning = self.num_timesteps >= self.config.cloning_steps
        if learning and self.reference is None:
            self.reference = self._update.weights.vector.detach().clone()
        if learning and not len(self._log_reference):
            self._log_reference = self._say()
        self.num_timesteps += 1
        count, size = len(self.episodes.rewards), self.config.batch_size
        if size >= count:
            return self._update.step(self.episodes, self._log_reference)
        chosen = self._orders.integers(count, size)[0]
        known = self._log_reference[chosen] if learning else self._log_reference
        return self._update.step(self.episodes.rows(chosen), known)

    def _loss(
        self, network: OREONetwork, batch: Episodes, log_reference: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.reference is not None:
            return oreo_loss(network, batch, log_reference, self.config)
        log_probs = network.log_probs(batch.obs[:, :-1]).gather(-1, batch.actions[..., None])[..., 0]
        loss = -masked_mean(log_probs, batch.mask)
        return loss, {"train/cloning_loss": loss.detach()}

    def _say(self) -> Tensor:
        """Return the reference's log-probabilities [E, L, A] at the episodes' observations."""
        assert self.episodes is not None
        assert self.reference is not None
        with self._update.weights.holding(self.reference):
            parts = torch.split(self.episodes.obs[:, :-1], AT_ONCE)
            return torch.cat([self.network.log_probs(part) for part in parts])

    # What a continuation needs ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; episodes stay where they are."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
            "orders": self._orders.state_dict(),
            "noise": self._noise.state_dict(),
            "reference": self.reference,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        self.network.load_state_dict(state["network"])
        self._update.optimizer.load_state_dict(state["optimizer"])
        self._orders.load_state_dict(state["orders"])
        self._noise.load_state_dict(state["noise"])
        reference = state["reference"]
        self.reference = None if reference is None else reference.to(self.device)
        self._log_reference = torch.empty(0)
