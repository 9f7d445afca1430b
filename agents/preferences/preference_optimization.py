"""Policies straight from preferences: behaviour cloning, then a loss on pairs of segments.

There is no reward model and no simulator: the log-likelihoods that a policy gives to what was done in two
segments are all that the loss looks at,

    log pi(segment) = sum_t log pi(a_t | s_t),
    loss = l( beta (log-ratio of the second - log-ratio of the first), label ),

with a row of the table ``prefrl.functional.preferences.pair_rows`` for each of its many forms: DPO (Rafailov
et al. 2023, arXiv 2305.18290), IPO (arXiv 2310.12036), CPL (Hejna et al. 2024, arXiv 2310.13639), SimPO
(arXiv 2405.14734) and others. First the policy imitates what the segments show, whatever was preferred; most
rows measure by how much it moves away from there, the reference pi_ref.

One timestep is one gradient step. Nothing is stepped; the agent acts once it has learned.

**Many learners.** With ``num_learners`` S, policies of S seeds learn from the same comparisons, in batches of
their own, as one: every parameter has an axis of learners. beta and the step size may be given for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.agents.shared import ManyLearners
from prefrl.data import Preferences, Segments, Transitions
from prefrl.data.comparisons import check_segments
from prefrl.data.devices import low_dtype
from prefrl.data.observations import ObservationLayout
from prefrl.data.rollouts import by_learner, each, one_of
from prefrl.functional.preferences.alignment import (
    alignment,
    effective_label_noise,
    likelihood_leads,
    pair_accuracy,
)  # fmt: skip
from prefrl.functional.preferences.label_models import dynamic_labels
from prefrl.functional.preferences.pair_loss import effective_labels, pair_leads, pair_loss, pair_slopes
from prefrl.functional.streams import Streams
from prefrl.nn.adam import Descent
from prefrl.nn.flat import FlatParameters
from prefrl.nn.likelihood_policies import Actions

from .compared_segments import Pairs, Pass, Policy, check_preferences, divergence
from .preference_optimization_config import PreferenceOptimizationConfig as PreferenceOptimizationConfig

STATES = 4_096
"""States in which the divergence from the reference is looked at, about."""

AT_ONCE = 256
"""Comparisons that are looked at together where nothing is learned."""


class PreferenceOptimization(ManyLearners):
    """Policies straight from preferences; see the module's text.

    Args:
        env: an environment, or :class:`prefrl.agents.base.Spaces`; of several learners with as many rows for
            each. Discrete, MultiDiscrete or Box actions; no pictures.
        config: settings.
        preferences: comparisons; None for an agent that does not learn (a loaded one).
        num_learners: S.
        device: torch device, or "auto".
        seed: of the first learner, the others having the next ones; or one of each.

    Raises:
        TypeError: if ``preferences`` are none.
        ValueError: if a space is of another kind, or there is no comparison, or one of other spaces.

    Attributes:
        network: the policies.
        reference: [S, P] their parameters after cloning; None before.
    """

    config_class: ClassVar[type[PreferenceOptimizationConfig]] = PreferenceOptimizationConfig
    config: PreferenceOptimizationConfig
    steps_env = False
    advice = "a lower learning_rate may help"

    def __init__(
        self,
        env: Any,
        config: PreferenceOptimizationConfig | None = None,
        preferences: Preferences | None = None,
        *,
        num_learners: int = 1,
        device: torch.device | str = "auto",
        seed: int | Sequence[int] = 0,
    ) -> None:
        config = config or PreferenceOptimizationConfig()
        super().__init__(env, config, num_learners=num_learners, device=device, seed=seed)
        config, device, learners = self.config, self.device, self.num_learners
        if config.schedule == "linear" and config.schedule_timesteps is None:
            raise ValueError("schedule_timesteps is None; a linear schedule needs a number of timesteps")
        self.layout = ObservationLayout(self.observation_space)
        if self.layout.picture is not None:
            raise ValueError(f"observation_space is {self.observation_space}; PreferenceOptimization reads "
                             "no pictures")  # fmt: skip
        self.actions = Actions(self.action_space, device, "PreferenceOptimization")
        if config.row.probabilities_only and isinstance(self.action_space, gym.spaces.Box):
            raise ValueError(f"loss is {config.loss!r}, which needs probabilities; actions of a Box have "
                             "densities")  # fmt: skip
        hidden = () if self._is_table() else config.hidden
        self.network = Policy(
            self.layout.vector_size, self.actions.distribution, hidden, config.activation,
            config.log_std_init, self.seeds, device,
        )  # fmt: skip
        if not hidden and config.precision != "float32":
            raise ValueError(f"precision is {config.precision!r}; a table is of float64: give float32")
        self.network.layers.low = low_dtype(config.precision, device, hidden)
        self.weights = FlatParameters(self.network, learners)
        rates = config.learning_rate or (3e-4 if hidden else 0.1)
        self.descent = Descent(self.weights.vector, rates=rates, eps=config.adam_eps,
                               max_grad_norm=config.max_grad_norm)  # fmt: skip
        self._batch_size = config.batch_size or (64 if hidden else None)
        self._orders, self._noise = (Streams(self.seeds, name, device) for name in ("batches", "actions"))
        self._beta = None if config.beta is None else each(config.beta, learners, device)
        self._states: Tensor | None = None  # [S, states, D], in Discrete spaces
        if isinstance(self.observation_space, gym.spaces.Discrete):
            self._first = int(self.observation_space.start)
            states = torch.arange(int(self.observation_space.n), device=device) + self._first
            self._states = self._read(states.expand(learners, -1))
        self.reference: Tensor | None = None
        self._round: Tensor | None = None  # [S, P] parameters of the policy when the round began
        self._said: dict[str, Tensor] = {}  # [S, N, 2, L] what reference and opponents say of the pairs
        self._labels: Tensor | None = None  # [S, N] labels as they have moved, if they move
        self.pairs: Pairs | None = None
        if preferences is not None:
            check_preferences(preferences, self.observation_space, self.action_space)
            self.pairs = Pairs.joined([self._read_pairs(preferences)])

    def _is_table(self) -> bool:
        spaces = self.observation_space, self.action_space
        fits = all(isinstance(space, gym.spaces.Discrete) for space in spaces)
        if self.config.policy == "table" and not fits:
            raise ValueError(f"policy is 'table'; it needs Discrete observations and actions, and they are "
                             f"{spaces[0]} and {spaces[1]}")  # fmt: skip
        return fits and self.config.policy != "mlp"

    def _read_pairs(self, preferences: Preferences) -> Pairs:
        return Pairs.of(preferences, self.actions, self.network.free)

    # Acting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return actions [S * n, ...] for observations [S * n, ...]: drawn, or the most likely ones."""
        rows = by_learner(self.layout.keep(obs)[None], self.num_learners)
        outputs = self.network.layers.record(self._read(rows)).outputs
        distribution = self.actions.distribution
        raw = distribution.mode(outputs)
        if not deterministic:
            noise = distribution.noise(self._noise, rows.shape[1])
            raw = distribution.draw(outputs, self.network.free, noise)
        return self.actions.to_env(raw.flatten(0, 1))

    def _read(self, kept: Tensor) -> Tensor:
        """Return observations as they are kept [S, M, ...] as numbers [S, M, D]."""
        numbers = self.layout.read(kept.flatten(0, 1)).vectors
        return numbers.view(*kept.shape[:2], -1).to(self.network.free.dtype)

    def observe(self, transitions: Transitions) -> None:
        """Nothing is learned from stepping: the comparisons are the data."""

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take a gradient step: of cloning, or down the pair loss; see :meth:`Agent.update`."""
        config, pairs = self.config, self.pairs
        if pairs is None:
            raise ValueError("this agent has no preferences to learn from; give them: "
                             "PreferenceOptimization(env, config, preferences)")  # fmt: skip
        learned = self.num_timesteps - config.cloning_steps
        if learned >= 0:
            begins = learned == 0 or (config.round_steps is not None and learned % config.round_steps == 0)
            self._prepare(pairs, new_reference=learned == 0, new_round=begins)
        metrics = self._descend(pairs, learned)
        self.num_timesteps += 1
        return metrics

    def _prepare(self, pairs: Pairs, *, new_reference: bool, new_round: bool) -> None:
        """Make the policy the reference, or what a round begins with; work out what both say of pairs."""
        if new_reference:
            self.reference = self.weights.vector.detach().clone()
        if new_round:
            self._round = self.weights.vector.detach().clone()
        if self._labels is None and self.config.label_rate:
            self._labels = pairs.labels.expand(self.num_learners, -1).clone()
        if new_round or not self._said:
            assert self.reference is not None and self._round is not None  # noqa: PT018
            moves = self.config.loss in ("dno", "upo")
            self._said = {"reference": self._say(self._round if moves else self.reference)}
            if self.config.row.needs_opponents:
                self._said["opponents"] = self._say(self._round)

    def _descend(self, pairs: Pairs, learned: int) -> dict[str, Tensor]:
        """Take the gradient step after ``learned`` ones down the pair loss; below 0, one of cloning."""
        self.weights.gradient.zero_()
        with torch.inference_mode():
            step = self._clone if learned < 0 else self._optimize
            metrics = step(pairs, self._places(len(pairs)))
            self.descent.step(share=self._share(learned))
        return {f"train/{name}": self.descent.mean(value) for name, value in metrics.items()}

    def _share(self, learned: int) -> float:
        """Return what the schedule leaves of the step size."""
        total = self.config.schedule_timesteps
        if self.config.schedule == "constant" or total is None or learned < 0:
            return 1.0
        return 1.0 - min(1.0, self._done(learned, total))

    def _done(self, learned: int, total: int) -> float:
        """Return the share of the schedule's timesteps that have passed after ``learned`` gradient steps."""
        return learned / max(1, total - self.config.cloning_steps)

    def _places(self, count: int) -> Tensor:
        """Return which comparisons the learners take a step on, [S, B]."""
        size = self._batch_size
        if size is None or size >= count:
            return torch.arange(count, device=self.device).expand(self.num_learners, -1)
        return self._orders.integers(count, size)

    def _pass(self, pairs: Pairs, places: Tensor) -> tuple[Pass, Tensor]:
        """Return what a pass through the policies leaves of pairs [S, b], and log pi(a|s) [S, b, 2, L]."""
        raw = pairs.raw[places]
        kept, log_probs = self._evaluate(pairs.obs[places].flatten(1, 3), raw.flatten(1, 3))
        return kept, log_probs.view(raw.shape[:4])

    def _evaluate(self, obs: Tensor, raw: Tensor) -> tuple[Pass, Tensor]:
        """Do the same for observations as they are kept [S, M, ...] and raw actions [S, M, A]."""
        if self._states is None:
            return self.network.evaluate(self._read(obs), raw)
        # In Discrete spaces the network is asked about each state once; padding need not be one.
        index = (obs.long() - self._first).clamp_(0, self._states.shape[1] - 1)
        return self.network.evaluate(self._states, raw, index)

    def _clone(self, pairs: Pairs, places: Tensor) -> dict[str, Tensor]:
        """Add the gradient of -mean log pi(a|s) over the steps of a batch [S, B] of pairs."""
        kept, log_probs = self._pass(pairs, places)
        mask = pairs.mask[places]
        # Steps of all pairs count alike; how many there are in a batch is counted on the average.
        shares = mask * (1.0 / (places.shape[1] * pairs.mask.sum((1, 2)).to(log_probs.dtype).mean()))
        self.network.pull(kept, -shares)
        return {"cloning_loss": -(torch.where(mask, log_probs, 0.0) * shares).sum((1, 2, 3))}

    def _optimize(self, pairs: Pairs, places: Tensor) -> dict[str, Tensor]:
        """Add the gradient of the mean pair loss of a batch [S, B]."""
        row, config = self.config.row, self.config
        kept, log_probs = self._pass(pairs, places)
        learners = torch.arange(self.num_learners, device=self.device)[:, None]
        said = {name: values[learners, places] for name, values in self._said.items()}
        mask, weights = pairs.mask[places], pairs.weights[places]
        labels = pairs.labels[places] if self._labels is None else self._labels[learners, places]
        about, offsets = self._about(said, pairs.starts[places]), pairs.offsets[places]
        given = {**about, "weights": weights / places.shape[1], "offsets": offsets}
        self.network.pull(kept, pair_slopes(row, log_probs, mask, labels, **given))

        leads = pair_leads(row, log_probs, mask, **about)
        if self._labels is not None:
            believed = dynamic_labels(labels, leads - offsets, config.label_rate)
            self._labels[learners, places] = believed
        own, base = (likelihood_leads(each, mask) for each in (log_probs, said["reference"]))
        found = alignment(own, base, labels, weights)
        return {
            "loss": pair_loss(row, log_probs, mask, labels, **given).sum(-1),
            "margin": (leads * torch.sign(labels - 0.5)).mean(-1),
            "accuracy": pair_accuracy(leads, labels, weights),
            "absolute_alignment": found.absolute,
            "relative_alignment": found.relative,
            "label_noise": effective_label_noise(effective_labels(row, labels, config.of_row)),
        }

    def _about(self, said: Mapping[str, Tensor], starts: Tensor) -> dict[str, Any]:
        """Return what the row asks for besides likelihoods and labels."""
        row = self.config.row
        about: dict[str, Any] = {"beta": self._beta, "settings": self.config.of_row}
        wanted = {"reference": row.needs_reference, "opponents": row.needs_opponents, "starts": row.suffix}
        return about | {name: {**said, "starts": starts}[name] for name in wanted if wanted[name]}

    @torch.inference_mode()
    def _say(self, vector: Tensor) -> Tensor:
        """Return log pi(a|s) of all pairs [S, N, 2, L] under other parameters [S, P]."""
        assert self.pairs is not None
        every = torch.arange(len(self.pairs), device=self.device).expand(self.num_learners, -1)
        with self.weights.holding(vector):
            found = [self._pass(self.pairs, part)[1] for part in torch.split(every, AT_ONCE, 1)]
        return torch.cat(found, 1)

    # What came of it, and what a continuation needs -------------------------------------------------------

    @torch.inference_mode()
    def log_prob(self, segments: Segments) -> Tensor:
        """Return log pi(a_t | s_t) [N, L] of the steps of N segments, 0 where they are padding.

        Of a Box it is the logarithm of a density, in its units; label models can ask it (``DensityRatio``).

        Raises:
            ValueError: if there are several learners, or segments of other spaces.
        """
        if self.num_learners > 1:
            raise ValueError(f"there are {self.num_learners} learners; ask one: agent.learner(0)")
        check_segments("the segments", segments, self.observation_space, self.action_space)
        segments = segments.to(self.device)
        mask, raw = segments.mask, self.actions.from_env(segments.actions.flatten(0, 1))
        raw = torch.where(mask.flatten()[:, None], raw, 0)  # padding need not be actions
        _, found = self._evaluate(segments.obs[None, :, :-1].flatten(1, 2), raw[None])
        return torch.where(mask, found.view(mask.shape) - self.actions.log_unit, 0.0)

    def reference_log_prob(self, segments: Segments) -> Tensor:
        """Return the same of the reference; ValueError before there is one."""
        if self.reference is None:
            raise ValueError("there is no reference yet: it is what cloning comes to")
        with self.weights.holding(self.reference):
            return self.log_prob(segments)

    @torch.inference_mode()
    def policy_table(self, vector: Tensor | None = None) -> Tensor:
        """Return pi(a | s) [S, states, actions] in Discrete spaces, float64.

        Args:
            vector: [S, P] parameters, such as :attr:`reference`; None: those that were learned.

        Raises:
            ValueError: if a space is another.
        """
        if self._states is None or not isinstance(self.action_space, gym.spaces.Discrete):
            raise ValueError("observations and actions must be Discrete; there is no table of others")
        with self.weights.holding(self.weights.vector if vector is None else vector):
            return torch.softmax(self.network.layers.record(self._states).outputs.double(), -1)

    def result(self) -> dict[str, Any]:
        """Return what the policy makes of all comparisons; means over learners.

        ``pair_accuracy``: share of pairs that the loss's own margins order rightly; ``absolute_alignment``
        and ``relative_alignment`` as in :func:`~prefrl.functional.preferences.alignment.alignment`, None
        without a reference; ``kl_to_reference``: nats per step, the mean over states of the segments.
        """
        pairs, row, reference = self.pairs, self.config.row, self.reference
        if pairs is None:
            return super().result()
        log_probs = self._say(self.weights.vector.detach())
        base = log_probs if reference is None else self._say(reference)
        about = self._about({"reference": base, "opponents": base}, pairs.starts)
        leads = pair_leads(row, log_probs, pairs.mask, **about)
        own, start = (likelihood_leads(each, pairs.mask) for each in (log_probs, base))
        found = alignment(own, start, pairs.labels, pairs.weights)
        states = pairs.obs[pairs.mask][None, :: max(1, int(pairs.mask.sum()) // STATES)]
        rows = self._read(states.expand(self.num_learners, *states.shape[1:]))
        moved = None if reference is None else divergence(self.network, self.weights, reference, rows)
        return {
            **super().result(),
            "pair_accuracy": pairs.share(pair_accuracy(leads, pairs.labels, pairs.weights)),
            "absolute_alignment": pairs.share(found.absolute),
            "relative_alignment": None if reference is None else pairs.share(found.relative),
            "kl_to_reference": moved,
        }

    def learner(self, index: int) -> PreferenceOptimization:
        """See :class:`ManyLearners`."""
        self._check_index(index)
        agent = type(self)(Spaces(self.observation_space, self.action_space), self.config.of_learner(index),
                           device=self.device, seed=self.seeds[index])  # fmt: skip
        agent.num_timesteps = self.num_timesteps
        agent.load_state_dict(one_of(self.state_dict(), index))
        return agent

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "seeds": torch.tensor(self.seeds),
            "network": self.network.state_dict(),
            "descent": self.descent.state_dict(),
            "orders": self._orders.state_dict(),
            "noise": self._noise.state_dict(),
            "reference": self.reference,
            "round": self._round,
            "labels": self._labels,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        self.network.load_state_dict(state["network"])
        self.descent.load_state_dict(state["descent"])
        self._orders.load_state_dict(state["orders"])
        self._noise.load_state_dict(state["noise"])
        self.reference, self._round, self._labels = (
            None if state[name] is None else state[name].to(self.device)
            for name in ("reference", "round", "labels")
        )
        self._said = {}  # is said anew when it is needed

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> Any:
        seeds = state["seeds"].tolist()
        return cls(env, config, **{**settings, "num_learners": len(seeds), "seed": seeds})
