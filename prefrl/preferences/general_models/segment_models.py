"""General preference models as networks of an environment's steps, pooled over segments.

Thurstone's, GPM and PAL on what a :class:`prefrl.preferences.RewardModel` reads, with its ensemble, fits and
files; the reward model itself is Bradley and Terry's. What a network of a step says is summed (or averaged)
over the segment to an embedding, and a head compares two of these (:mod:`.heads`).

    Thurstone  a mean and a variance per step, both summed: the reward of a step is its mean
    GPM        2 k numbers per step: no score, since preferences may go in circles
    PAL        D numbers per step, one ideal per annotator: a score for each of them. Form "linear", the
               product with the ideal, is a sum over steps, and so has rewards; distances ("A") and cosines
               ("B") are of the whole segment.

Sources: as of the models on tables and features. Networks, sums over steps and form "linear" are ours.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.config import Count, Natural, NonNegative, Positive
from prefrl.data import Preferences, Segments
from prefrl.data.files.tensor_file import read_tensor_file
from prefrl.nn.reward_nets import RewardNetwork
from prefrl.preferences.reward_loss import Compared
from prefrl.preferences.reward_model import RewardModel, RewardModelConfig
from prefrl.reading.errors import reading
from prefrl.reading.text import parse_json

from .heads import GPMHead, MarginHead, PALHead, Pooling, SegmentNetwork, ThurstoneHead


@dataclass(frozen=True)
class SegmentModelConfig(RewardModelConfig):
    """Settings that all networks of segments have, beside those of a reward model."""

    pooling: Pooling = "sum"
    """How the numbers of steps become their segment's."""

    @abstractmethod
    def head(self) -> MarginHead:
        """Return the head, with parameters of its own."""


@dataclass(frozen=True)
class ThurstoneNetworkConfig(SegmentModelConfig):
    """Settings of Thurstone's model as a network."""

    name: ClassVar[str] = "thurstone"

    variance_ridge: NonNegative = 0.01
    """Half of it, times the mean square of the steps' log variances, is added to the mean cross-entropy; it
    holds the scale, which answers do not tell."""

    def head(self) -> MarginHead:
        """See :meth:`SegmentModelConfig.head`."""
        return ThurstoneHead(self.variance_ridge)


@dataclass(frozen=True)
class GPMNetworkConfig(SegmentModelConfig):
    """Settings of GPM as a network."""

    name: ClassVar[str] = "gpm"

    blocks: Count = 2
    """k, planes."""
    normalise: bool = True
    """Embeddings of length 1, as published; otherwise they are free."""
    temperature: Positive = 0.1
    """What the form is divided by, in [.1, 1] as published."""

    @property
    def stepwise(self) -> bool:
        """No: there is not even a score."""
        return False

    def head(self) -> MarginHead:
        """See :meth:`SegmentModelConfig.head`."""
        return GPMHead(self.members, self.blocks, self.normalise, self.temperature)


@dataclass(frozen=True)
class PALNetworkConfig(SegmentModelConfig):
    """Settings of PAL as a network.

    Raises:
        ValueError: if a number is out of range, or there are more prototypes than users.
    """

    name: ClassVar[str] = "pal"

    form: Literal["A", "B", "linear"] = "linear"
    """Minus the distance to a user's ideal point, the cosine with an ideal direction, or the product with an
    ideal: then each user has a reward, a mixture of the prototypes'."""
    num_users: Count = 2
    """U, annotators, as many as the comparisons name."""
    prototypes: Count = 2
    """K, ideals that every user's is a mixture of."""
    dimension: Count = 4
    """D, of the space that segments and ideals lie in."""
    user: Natural = 0
    """Whose score and reward are told where nobody is named, so to agents: a place among the annotators."""

    @property
    def stepwise(self) -> bool:
        """Only of form "linear"; distances and cosines are no sums over steps."""
        return self.form == "linear"

    def check(self) -> None:
        """Refuse a user who is none, and prototypes that users cannot tell apart."""
        super().check()
        if self.user >= self.num_users:
            raise ValueError(f"user is {self.user}; it must be below num_users, {self.num_users}")
        if self.prototypes > self.num_users:
            raise ValueError(f"prototypes is {self.prototypes}; {self.num_users} users allow at most as many")

    def head(self) -> MarginHead:
        """See :meth:`SegmentModelConfig.head`."""
        return PALHead(self.members, self.num_users, self.prototypes, self.dimension, self.form)


AnyRewardConfig: TypeAlias = RewardModelConfig | ThurstoneNetworkConfig | GPMNetworkConfig | PALNetworkConfig
"""Settings of whatever is learned from comparisons of segments; their type says what, and in a file their
fields do."""

REWARD_CONFIGS: dict[str, type[RewardModelConfig]] = {
    kind.name: kind
    for kind in (RewardModelConfig, ThurstoneNetworkConfig, GPMNetworkConfig, PALNetworkConfig)
}
"""Settings by the name of their model."""


class SegmentModel(RewardModel):
    """An ensemble of general preference models for segments of an environment; see the module's text.

    Arguments, fits, ensembles and files are those of :class:`RewardModel`. Users are places of annotators.
    """

    config: Any
    network: SegmentNetwork
    config_classes = (ThurstoneNetworkConfig, GPMNetworkConfig, PALNetworkConfig)

    @staticmethod
    def _loss(
        network: Any, vectors: Tensor, pictures: Tensor | None, compared: Compared
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [], the head's penalty included, and metrics (:meth:`Compared.metrics`)."""
        steps = network(vectors, pictures)
        first, second = compared.sides(network.pooled(steps, compared.mask))
        users = compared.users
        if users is None:
            users = torch.zeros(first.shape[1], dtype=torch.int64, device=first.device)
        logits = network.head.margin(first, second, users)
        losses = compared.losses(logits)
        penalty = network.head.penalty(steps, compared.mask.flatten())
        return losses.sum() + penalty, compared.metrics(logits.detach(), losses.detach())

    def _make_network(self, inputs: int, picture: tuple[int, ...] | None) -> SegmentNetwork:
        """See :meth:`RewardModel._make_network`."""
        config, head = self.config, self.config.head()
        self.begun = False
        encoder = RewardNetwork(config.members, inputs, config.hidden, picture, config.conv_filters,
                                head.outputs)  # fmt: skip
        return SegmentNetwork(encoder, head, config.pooling)

    @property
    def user(self) -> int:
        """Whose score and reward are told where nobody is named."""
        return int(getattr(self.config, "user", 0))

    @torch.no_grad()
    def embeddings(self, segments: Segments) -> Tensor:
        """See :meth:`PairModel.embeddings`."""
        pieces = []
        for part in self._parts(segments):
            steps = self.network(*self._inputs(*self._flat(part)))
            pieces.append(self.network.pooled(steps, part.mask))
        return torch.cat(pieces, 1)

    @torch.no_grad()
    def member_margins(self, first: Tensor, second: Tensor, users: Tensor) -> Tensor:
        """See :meth:`PairModel.member_margins`."""
        return self.network.head.margin(first, second, users)

    @torch.no_grad()
    def scores(self, segments: Segments, user: Tensor | int | None = None) -> Tensor:
        """Return the score [E, N] of each segment under each member, for a user (None: the settings').

        Raises:
            ValueError: if the model has none.
        """
        return self.network.head.score(self.embeddings(segments), self._users(user, len(segments)))

    def check(self, preferences: Preferences) -> None:
        """See :meth:`RewardModel.check`; also for annotators that the model has no place for."""
        super().check(preferences)
        known, names = getattr(self.config, "num_users", None), preferences.annotator_names
        if known is not None and len(names) > known:
            raise ValueError(f"num_users is {known}; the comparisons have {len(names)} annotators: "
                             f"{', '.join(names)}")  # fmt: skip

    def _users(self, user: Tensor | int | None, count: int) -> Tensor:
        """See :meth:`PairModel._users`; ValueError for one that there is not, where that costs no wait."""
        known = getattr(self.config, "num_users", None)
        if known is not None and user is not None and (not isinstance(user, Tensor) or user.is_cpu):
            asked = torch.as_tensor(user)
            if bool(((asked < 0) | (asked >= known)).any()):
                given = f"{int(asked.min())} to {int(asked.max())}"
                raise ValueError(f"user ranges from {given}; the model knows 0 to {known - 1}")
        return super()._users(user, count)

    @torch.no_grad()
    def take_statistics(self, segments: Segments) -> None:
        """See :meth:`RewardModel.take_statistics`; at the first fit embeddings are spread out too.

        Fresh networks say nearly the same of all segments. Where directions count, or distances to ideals,
        fits would end there: margins of 0 explain a circle better than all others nearby.
        """
        super().take_statistics(segments)
        if self.stepwise or self.begun:
            return
        self.begun = True
        steps = self.network(*self._inputs(*self._flat(segments)))
        there = segments.mask.flatten()[:, None].to(steps.dtype)
        mean = (there * steps).sum(1, keepdim=True) / there.sum().clamp(min=1)
        pooled = self.network.pooled(steps - mean, segments.mask)
        spread = pooled.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
        last = self.network.encoder.mlp
        last.biases()[-1].sub_(mean).div_(spread)
        last.weights()[-1].div_(spread)

    @torch.no_grad()
    def take_scale(self, segments: Segments) -> None:
        """See :meth:`RewardModel.take_scale`; without rewards there is no scale of them."""
        if self.stepwise:
            super().take_scale(segments)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`RewardModel.state_dict`."""
        return {**super().state_dict(), "begun": self.begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`RewardModel.load_state_dict`."""
        super().load_state_dict(state)
        self.begun = bool(state["begun"])

    def _members(
        self, obs: Tensor, actions: Tensor, next_obs: Tensor | None, features: Tensor | None
    ) -> Tensor:
        """Return rewards [E, N] of transitions, for the user of the settings."""
        if not self.stepwise:
            raise ValueError(f"a {self.config.name} model of this form has no reward of single transitions")
        steps = self.network(*self._inputs(obs, actions, next_obs, features))
        return self.network.head.score(steps, self._users(None, steps.shape[1]))


def make_reward_model(
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    config: RewardModelConfig | None = None,
    **more: Any,
) -> RewardModel:
    """Return the model that settings are of; arguments are those of :class:`RewardModel`."""
    kind = SegmentModel if isinstance(config, SegmentModelConfig) else RewardModel
    return kind(observation_space, action_space, config, **more)


def load_reward_model(path: str | os.PathLike[str], **more: Any) -> RewardModel:
    """Read a model of any kind that :meth:`RewardModel.save` wrote; arguments are those of its ``load``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, no such model, or one of other spaces.
    """
    content = read_tensor_file(path, "reward model")
    with reading(path, "reward model"):
        name = parse_json(content["reward_model"]).get("model", RewardModelConfig.name)
    kind = RewardModel if name == RewardModelConfig.name else SegmentModel
    return kind.load(path, **more)
