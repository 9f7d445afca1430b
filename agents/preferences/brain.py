"""BRAIn: a policy that matches the posterior of good outputs, by groups of outputs to the same prompt.

(Pandey et al. 2024, arXiv 2402.02479.) Of a reference p and scores r, the policy wanted is the reference
given that the output is good,

    p(y | x, G = 1)  proportional to  p(y | x) exp(r(y) / temperature),

which is also the optimum of E r - temperature KL(policy, p). First the policy imitates the segments (or a
reference is given). Then at every step some outputs y_1 ... y_n of each group are drawn from a proposal q',
and both the posterior and the policy pi are normalised over them,

    alpha_i ~ p(y_i) exp(r(y_i) / temperature) / q'(y_i),    beta_i ~ pi(y_i) / q'(y_i),
    loss = KL(alpha, beta),

with log pi(y) = sum_t log pi(a_t | s_t). With two outputs and alpha 0 or 1 (a temperature near 0) it is DPO's
loss with beta 1 and the reference q'; with all outputs of a prompt and an even proposal it is the exact
KL(posterior, policy). The formulas stand in :mod:`prefrl.functional.preferences.posterior_matching`.

A group is of segments that start in the same state: what is drawn are its members, by their probabilities
under the proposal. Where they are all that there are, as in a tree of sequences, that is a draw from q';
where they are some, posterior and policy are compared among those.

One timestep is one gradient step; nothing is stepped. Gradients are autograd's: every policy with a
likelihood then serves as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.config import Bounds, Count, Natural, Positive, Rows, Settings, Sizes
from prefrl.data import ScoredSegments, Segments, Transitions, seeded_generator
from prefrl.data.comparisons import check_segments
from prefrl.data.devices import building
from prefrl.functional.preferences.posterior_matching import posterior_kl, posterior_weights
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

AT_ONCE = 1_024
"""Segments whose likelihoods are looked at together where nothing is learned."""


@dataclass(frozen=True)
class BRAInConfig(Settings):
    """Settings of :class:`BRAIn`. The paper's are for language models; where not said, these are ours."""

    temperature: Positive = 1.0
    """What scores are divided by, in their unit: the price of a nat of divergence from the reference."""

    proposal: Literal["policy", "reference", "even"] = "policy"
    """q', from which outputs are drawn: the policy when the round began, the reference, or all members of a
    group alike."""

    num_outputs: Annotated[int, Bounds(low=2)] | None = 8
    """n, outputs that are drawn from a group at every step; None: its members as they are, which must then
    have been drawn from the reference, or be even."""

    round_steps: Count | None = 10
    """Gradient steps after which the policy's proposal is made anew; None: it stays as it was first."""

    baseline: bool = True
    """The self-normalised baseline beta; without it the loss is the likelihood weighted by alpha."""

    cloning_steps: Natural = 1_000
    """Gradient steps of behaviour cloning on all segments, first; what comes of it is the reference."""

    policy: PolicyKind = "auto"
    """A table of logits for Discrete observations and actions, in float64, or a network."""

    hidden: Sizes = (256, 256)
    """Sizes of the network's hidden layers, ReLU."""

    learning_rate: Positive | None = None
    """Adam's step size; None: 3e-4, for a table 0.01."""

    batch_size: Rows = 32
    """Groups of a gradient step; all of them, where there are no more."""

    def check(self) -> None:
        """Raise ValueError for a proposal that needs draws, without them."""
        if self.proposal == "policy" and self.num_outputs is None:
            raise ValueError("num_outputs is None; outputs of the policy are drawn: give a number of them, "
                             "or the proposal 'reference' or 'even'")  # fmt: skip


class BRAIn(Agent):
    """A policy that matches the posterior of good outputs; see the module's text.

    Args:
        env: an environment, or :class:`prefrl.agents.base.Spaces`: Discrete and Box observations (no
            pictures), Discrete, MultiDiscrete and Box actions.
        config: settings.
        groups: segments with scores; None for an agent that does not learn (a loaded one).
        reference: a policy of the same kind and sizes to start from, such as ``policy`` of a cloned agent;
            there are no cloning steps then.
        device: torch device, or "auto".
        seed: seeds the network, batches, outputs and the actions that are drawn.

    Raises:
        TypeError: if ``groups`` are none.
        ValueError: if a space is of another kind, groups are of other spaces or hold too little, or the
            reference is of another kind, or both given and cloned.

    Attributes:
        policy: what learns; every parameter is [1, ...].
        reference: [P] its parameters after cloning; None before.
    """

    config_class: ClassVar[type[BRAInConfig]] = BRAInConfig
    config: BRAInConfig
    steps_env = False
    advice = "a lower learning_rate may help, or a higher temperature"

    def __init__(
        self,
        env: Any,
        config: BRAInConfig | None = None,
        groups: ScoredSegments | None = None,
        *,
        reference: LikelihoodPolicy | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or BRAInConfig(), device=device, seed=seed)
        with building(self.device, seeded_generator(self.seed, "network").initial_seed()):
            self.policy = table_or_network(
                self.observation_space, self.action_space, self.config.policy,
                hidden=self.config.hidden, device=self.device,
            )  # fmt: skip
        if reference is not None:
            self._start_from(reference)
        rate = self.config.learning_rate or (0.01 if isinstance(self.policy, TabularPolicy) else 3e-4)
        self._update = AdamUpdate(self.policy, self._loss, lr=rate, eps=1e-8, max_grad_norm=float("inf"))
        names = ("batches", "outputs", "actions")
        self._orders, self._draws, self._noise = (Streams([self.seed], name, self.device) for name in names)
        self.weights = self._update.weights
        self.reference: Tensor | None = None
        self._round: Tensor | None = None  # [P] the policy's parameters when the round began
        self._log_prior = self._log_proposal = torch.empty(0)  # [N], said anew where there is nothing
        self.segments: Segments | None = None
        if groups is not None:
            if not isinstance(groups, ScoredSegments):
                raise TypeError(f"groups is a {type(groups).__name__}; it must be ScoredSegments")
            groups.validate()
            check_segments("the segments", groups.segments, self.observation_space, self.action_space)
            self._take(groups.segments, groups.scores, *groups.members())

    def _start_from(self, reference: LikelihoodPolicy) -> None:
        if self.config.cloning_steps:
            raise ValueError(f"cloning_steps is {self.config.cloning_steps}, and a reference is given; it "
                             "must be 0 then")  # fmt: skip
        own, given = (
            {name: tuple(value.shape) for name, value in policy.state_dict().items()}
            for policy in (self.policy, reference)
        )
        if own != given:
            raise ValueError(f"reference has parameters {given}; this agent's policy has {own}")
        self.policy.load_state_dict(reference.state_dict())

    def _take(self, segments: Segments, scores: Tensor, places: Tensor, there: Tensor) -> None:
        """Keep segments, and where a group's members are among them [G, M], on the device."""
        self.segments = segments.to(self.device)
        self._places, self._there = places.to(self.device), there.to(self.device)
        self._log_goodness = scores.to(self.device) / self.config.temperature

    # Acting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...]: drawn, or the most likely ones."""
        return self.policy.act(obs, self._noise, deterministic=deterministic)

    @torch.no_grad()
    def log_prob(self, segments: Segments) -> Tensor:
        """Return log pi(a_t | s_t) [N, L] of the steps of N segments, 0 where they are padding.

        Of a Box it is the logarithm of a density, in the environment's units.
        """
        return segment_log_probs(self.policy, segments.to(self.device))[0]

    def reference_log_prob(self, segments: Segments) -> Tensor:
        """Return the same of the reference; ValueError before there is one."""
        if self.reference is None:
            raise ValueError("there is no reference yet: it is what cloning comes to")
        with self.weights.holding(self.reference):
            return self.log_prob(segments)

    def observe(self, transitions: Transitions) -> None:
        """Nothing is learned from stepping: the groups are the data."""

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take a gradient step: of cloning, or down KL(alpha, beta); see :meth:`Agent.update`."""
        if self.segments is None:
            raise ValueError("this agent has no groups to learn from; make it with them: "
                             "BRAIn(env, config, groups)")  # fmt: skip
        learned = self.num_timesteps - self.config.cloning_steps
        if learned >= 0:
            self._begin(learned)
        self.num_timesteps += 1
        count, size = len(self._places), self.config.batch_size
        chosen = torch.arange(count, device=self.device)
        if size < count:
            chosen = self._orders.permutations(count)[0, :size]
        rows, there = self._places[chosen], self._there[chosen]
        if learned >= 0 and self.config.num_outputs is not None:
            rows, there = self._drawn(rows, there, self.config.num_outputs)
        return self._update.step(rows, there)

    def _begin(self, learned: int) -> None:
        """Make the policy the reference when cloning ends, and the proposal when a round begins."""
        config, every = self.config, self.config.round_steps
        if learned == 0:
            self.reference = self.weights.vector.detach().clone()
        if config.proposal == "policy" and (learned == 0 or (every is not None and learned % every == 0)):
            self._round, self._log_proposal = self.weights.vector.detach().clone(), torch.empty(0)
        assert self.reference is not None
        if not len(self._log_prior):
            self._log_prior = self._say(self.reference)
        if not len(self._log_proposal):
            even = torch.zeros_like(self._log_prior) if config.proposal == "even" else self._log_prior
            self._log_proposal = even if self._round is None else self._say(self._round)

    def _drawn(self, rows: Tensor, there: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return members [B, n] drawn from the proposal among members [B, M], and True for all."""
        shares = torch.softmax(torch.where(there, self._log_proposal[rows], -torch.inf), 1).cumsum(1)
        draws = self._draws.uniform(len(rows), count)[0].to(shares.dtype) * shares[:, -1:]
        drawn = rows.gather(1, torch.searchsorted(shares, draws))
        return drawn, torch.ones_like(drawn, dtype=torch.bool)

    def _loss(
        self, policy: LikelihoodPolicy, rows: Tensor, there: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of members [B, n] of groups, those that are there."""
        assert self.segments is not None
        chosen = self.segments[rows.flatten()]
        log_probs = segment_log_probs(policy, chosen)[0]
        if self.reference is None:
            steps = chosen.mask & there.flatten()[:, None]
            loss = -torch.where(steps, log_probs, 0.0).sum() / steps.sum()
            return loss, {"train/cloning_loss": loss.detach()}
        known = self._log_prior[rows], self._log_goodness[rows], self._log_proposal[rows], there
        baseline = self.config.baseline
        loss = posterior_kl(log_probs.sum(1).view(rows.shape), *known, baseline=baseline).mean()
        # As many outputs of the same weight would tell as much.
        outputs = 1.0 / posterior_weights(*known).square().sum(1)
        return loss, {"train/loss": loss.detach(), "train/effective_outputs": outputs.mean()}

    def _say(self, vector: Tensor) -> Tensor:
        """Return log pi(y) of all segments [N] with parameters [P]."""
        assert self.segments is not None
        parts = torch.split(torch.arange(len(self.segments), device=self.device), AT_ONCE)
        with self.weights.holding(vector):
            found = [segment_log_probs(self.policy, self.segments[part])[0].sum(1) for part in parts]
        return torch.cat(found)

    # What came of it, and what a continuation needs -------------------------------------------------------

    def policy_table(self, vector: Tensor | None = None) -> Tensor:
        """Return pi(a | s) [states, actions] in Discrete spaces, float64.

        Args:
            vector: [P] parameters, such as :attr:`reference`; None: those that were learned.

        Raises:
            ValueError: if a space is another.
        """
        with self.weights.holding(self.weights.vector.detach() if vector is None else vector):
            return policy_table(self.policy, self.observation_space)

    def result(self) -> dict[str, Any]:
        """Return ``posterior_kl``: KL(posterior, policy) over the members of groups, their mean, in nats."""
        if self.segments is None or self.reference is None:
            return {}
        own, prior = (
            self._say(each)[self._places] for each in (self.weights.vector.detach(), self.reference)
        )
        even = torch.zeros_like(own)
        found = posterior_kl(own, prior, self._log_goodness[self._places], even, self._there)
        return {"posterior_kl": float(found.mean())}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; groups stay where they are."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
            "orders": self._orders.state_dict(),
            "draws": self._draws.state_dict(),
            "noise": self._noise.state_dict(),
            "reference": self.reference,
            "round": self._round,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self._update.optimizer.load_state_dict(state["optimizer"])
        for name, streams in (("orders", self._orders), ("draws", self._draws), ("noise", self._noise)):
            streams.load_state_dict(state[name])
        self.reference, self._round = (
            None if state[name] is None else state[name].to(self.device) for name in ("reference", "round")
        )
        self._log_prior = self._log_proposal = torch.empty(0)
