"""Reward models: ensembles of networks of transitions, fitted to preferences between segments.

The probability that the second of two segments is preferred is logistic(G' - G) with G the sum of the rewards
of a segment (Bradley and Terry; Christiano et al. 2017, arXiv 1706.03741). A reward is known up to a factor
and, where all segments have one length, up to a constant; so it is scaled before an agent sees it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from prefrl.config import Count, Natural, Positive, Settings, Sizes, checked, from_json
from prefrl.data import (
    Preferences,
    Segments,
    TransitionDataset,
    concatenate_segments,
    map_obs,
    seeded_generator,
)
from prefrl.data.devices import Precision, building, low_dtype, tensor_on
from prefrl.data.files.bounded import BoundedTensors
from prefrl.data.files.spaces import space_from_json, space_to_json
from prefrl.data.files.tensor_file import read_tensor_file, write_tensor_file
from prefrl.data.observations import ObservationLayout
from prefrl.functional.preferences.general_models.inference import fisher_information
from prefrl.functional.preferences.preferences import partial_return, weighted_mean
from prefrl.nn.reward_nets import RewardChain, RewardNetwork
from prefrl.nn.update import AdamUpdate
from prefrl.reading.errors import reading
from prefrl.reading.text import parse_json

from .reward_loss import Compared, gradients_by_hand, reward_loss
from .segment_pairs import PairModel

FILE_FORMAT = 1
"""Version of the files that :meth:`RewardModel.save` writes."""

CHUNK = 16_384
"""Transitions that are scored at once where very many are."""

SCALE_SAMPLE = 16_384
"""Transitions, about, that the scale of rewards is taken from after a fit, where there are more."""


@dataclass(frozen=True)
class RewardModelConfig(Settings):
    """Settings of :class:`RewardModel`.

    Raises:
        ValueError: if a number is out of range, or the model would look at nothing.
    """

    name: ClassVar[str] = "bradley_terry"
    """What the model is called in files."""

    members: Count = 3
    """Networks of the ensemble (PEBBLE: 3)."""

    hidden: Sizes = (64, 64)
    """Sizes of the hidden layers (PEBBLE: three of 256; HERON: two of 256)."""

    use_obs: bool = True
    """Whether the reward may depend on the observation before the step."""

    use_actions: bool = True
    """Whether it may depend on the action."""

    use_next_obs: bool = False
    """Whether it may depend on the observation after the step."""

    use_features: bool = False
    """Whether it may depend on the segments' features (for HERON: the factors)."""

    learning_rate: Positive = 1e-3
    """Adam's step size."""

    batch_size: Count = 32
    """Comparisons of a gradient step."""

    epochs: Count = 20
    """Passes over the comparisons in a fit."""

    bootstrap: bool = True
    """Each member weighs the comparisons by its own Poisson(1) draws, the online bootstrap; otherwise they
    see the same ones, and differ by where they start."""

    normalize_inputs: bool = True
    """Measure numbers in the inputs in their mean and standard deviation, taken anew at each fit."""

    normalize_rewards: Literal["scale", "standard", "none"] = "scale"
    """What an agent sees: rewards over their standard deviation among the fitted transitions ("scale"), less
    their mean too ("standard": not where episodes end early, which would become worth seeking or fearing),
    or as they are."""

    conv_filters: Count = 16
    """Filters of the first convolution, where observations have a picture."""

    precision: Precision = "float32"
    """Of the products of a fit: bf16 is faster where the processor has it (AMX or avx512_bf16), layers are
    256 wide or more and batches have many steps; weights, Adam and losses stay float32. Not with pictures."""

    @property
    def stepwise(self) -> bool:
        """Whether each transition has a reward, of which a segment's score is the sum."""
        return True

    def check(self) -> None:
        """Refuse a model without inputs."""
        if not (self.use_obs or self.use_actions or self.use_next_obs or self.use_features):
            raise ValueError("the reward model would look at nothing; set one of use_obs, use_actions, "
                             "use_next_obs, use_features")  # fmt: skip


class RewardModel(PairModel):
    """An ensemble of reward networks for the transitions of an environment.

    Args:
        observation_space: see :class:`prefrl.data.observations.ObservationLayout`.
        action_space: Box, Discrete, MultiBinary or MultiDiscrete.
        config: settings.
        num_features: features of a transition that the networks read too (with ``use_features``).
        device: torch device.
        seed: seeds the networks and the fits.

    Raises:
        ValueError: if a space is of another kind, or the settings do not fit it.
    """

    config_classes: ClassVar[tuple[type[RewardModelConfig], ...]] = (RewardModelConfig,)
    """Settings that it takes."""

    _loss = staticmethod(reward_loss)
    """Of the networks and what they read of some comparisons; its metrics too."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        config: RewardModelConfig | None = None,
        *,
        num_features: int = 0,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        self.config = config = config or RewardModelConfig()
        self.observation_space, self.action_space = observation_space, action_space
        self.device, self.num_features = torch.device(device), num_features
        self.stepwise = config.stepwise
        self.seed: int = checked(Natural, seed, "seed")
        self.layout, self._actions = ObservationLayout(observation_space), ObservationLayout(action_space)
        if config.use_features != (num_features > 0):
            raise ValueError(f"use_features is {config.use_features}, and num_features {num_features}; the "
                             "reward model reads features if there are some")  # fmt: skip
        if self.layout.picture is not None and config.use_obs and config.use_next_obs:
            raise ValueError("use_obs and use_next_obs are both set, and observations are pictures; a reward "
                             "model reads one")  # fmt: skip
        number = [torch.ones(num_features, dtype=torch.bool)] if num_features else []
        seen = self.layout.numeric
        kinds = [seen] * config.use_obs + [seen] * config.use_next_obs
        kinds += [self._actions.numeric] * config.use_actions + number
        self._numeric = torch.cat([*kinds, torch.zeros(0, dtype=torch.bool)])
        picture = self.layout.picture if config.use_obs or config.use_next_obs else None
        with building(self.device, seeded_generator(seed, "reward network").initial_seed()):
            self.network: nn.Module = self._make_network(len(self._numeric), picture)
            self._shift = torch.zeros(len(self._numeric))
            self._spread = torch.ones(len(self._numeric))
            self._mean, self._std = torch.zeros(()), torch.ones(())
        self._update = AdamUpdate(self.network, self._loss, lr=config.learning_rate, eps=1e-8,
                                  max_grad_norm=float("inf"))  # fmt: skip
        self._chain: RewardChain | None = None
        if picture is None and isinstance(self.network, RewardNetwork):
            low = low_dtype(config.precision, self.device, config.hidden)
            self._chain = RewardChain(self.network, low)
        elif config.precision != "float32":
            raise ValueError(f"precision is {config.precision!r}; it must be 'float32' where the reward "
                             "model reads pictures, or is no plain one")  # fmt: skip
        self._generator = seeded_generator(seed, "reward fit")

    def _make_network(self, inputs: int, picture: tuple[int, ...] | None) -> nn.Module:
        """Return the networks, of vectors of ``inputs`` numbers and perhaps pictures."""
        config = self.config
        return RewardNetwork(config.members, inputs, config.hidden, picture, config.conv_filters)

    # What an agent is told --------------------------------------------------------------------------------

    @torch.no_grad()
    def rewards(
        self, obs: Any, actions: Tensor, next_obs: Any = None, features: Tensor | None = None
    ) -> Tensor:
        """Return the ensemble's mean reward [...] of transitions, normalised as the settings say.

        Args:
            obs: [..., *O] observations before the steps, or a dict of them; any leading axes, as [n] of
                transitions or [n, T] of trajectories.
            actions: [..., *A] actions.
            next_obs: [..., *O] observations after the steps; needed with ``use_next_obs``.
            features: [..., F]; needed with ``use_features``.

        Raises:
            ValueError: if something is missing that the model looks at.
        """
        leading = actions.shape[: actions.ndim - len(self.action_space.shape or ())]

        def rows(values: Tensor) -> Tensor:
            return values.reshape(-1, *values.shape[len(leading) :])

        kept, following = (
            None if given is None else self.layout.keep(map_obs(rows, given)) for given in (obs, next_obs)
        )
        features = None if features is None else rows(features)
        assert kept is not None
        return self.kept_rewards(kept, rows(actions), following, features).reshape(leading)

    @torch.no_grad()
    def kept_rewards(
        self, obs: Tensor, actions: Tensor, next_obs: Tensor | None = None, features: Tensor | None = None
    ) -> Tensor:
        """Return :meth:`rewards` [n] for observations as they are kept (``prefrl.data.observations``)."""
        pieces = []
        for start in range(0, len(obs), CHUNK):
            part = slice(start, start + CHUNK)
            pieces.append(self._members(
                obs[part], actions[part], None if next_obs is None else next_obs[part],
                None if features is None else features[part],
            ).mean(0))  # fmt: skip
        return self.normalized(torch.cat(pieces) if len(pieces) != 1 else pieces[0])

    def normalized(self, rewards: Tensor) -> Tensor:
        """Return rewards as an agent sees them; see ``normalize_rewards``."""
        if self.config.normalize_rewards == "none":
            return rewards
        centred = rewards - self._mean if self.config.normalize_rewards == "standard" else rewards
        return centred / self._std

    def relabel(self, dataset: TransitionDataset) -> TransitionDataset:
        """Return a data set with the model's rewards (:meth:`rewards`) in place of its own, all else kept.

        An agent that learns from it offline learns what the comparisons say, not what the data's rewards say.

        Raises:
            TypeError: if ``dataset`` is none.
            ValueError: if its spaces are not the model's, the model reads features, which a data set does not
                have, or a reward is not finite.
        """
        if not isinstance(dataset, TransitionDataset):
            raise TypeError(f"dataset is a {type(dataset).__name__}; it must be a TransitionDataset")
        dataset.check_matches(self.observation_space, self.action_space)
        if self.num_features:
            raise ValueError(f"the reward model reads {self.num_features} features; a TransitionDataset has "
                             "none: fit one without use_features")  # fmt: skip
        fields = (dataset.obs, dataset.actions, dataset.next_obs)
        pieces = [
            self.kept_rewards(*(rows.to(self.device) for rows in part)).cpu()
            for part in zip(*(torch.split(field, CHUNK) for field in fields), strict=True)
        ]
        return dataclasses.replace(dataset, rewards=torch.cat(pieces).to(torch.float32))

    def numpy_rewards(self, obs: Any, actions: Any, next_obs: Any, infos: Any = None) -> Any:
        """Return :meth:`rewards` [n] of numpy arrays as float32, for wrappers of environments on the host."""

        def tensor(values: Any) -> Any:
            if isinstance(values, Mapping):
                return {name: tensor(part) for name, part in values.items()}
            return tensor_on(self.device, values)

        return self.rewards(tensor(obs), tensor(actions), tensor(next_obs)).cpu().numpy()

    def reward(self, obs: Any, action: Any, next_obs: Any) -> float:
        """Return the reward of one transition, for ``prefrl.envs.ReplaceReward``."""
        rows = [map_obs(lambda values: np.asarray(values)[None], part) for part in (obs, action, next_obs)]
        return float(self.numpy_rewards(*rows)[0])

    @torch.no_grad()
    def scores(self, segments: Segments) -> Tensor:
        """Return the sum of rewards [E, N] of each segment under each member, not normalised."""
        pieces = []
        for part in self._parts(segments):
            rewards = self._members(*self._flat(part)).reshape(self.config.members, *part.mask.shape)
            pieces.append(partial_return(rewards, part.mask))
        return torch.cat(pieces, 1)

    @property
    def members(self) -> int:
        """E, networks of the ensemble."""
        return self.config.members

    @torch.no_grad()
    def slopes(self, segments: Segments) -> Tensor:
        """Return the slopes [N, E H] of segments' mean scores in the weights of the members' last layers.

        They are the last hidden layers, summed over the steps and divided by the number of members: the
        features in which the ensemble's mean score is linear. In float64, for information matrices.
        """
        assert isinstance(self.network, RewardNetwork)  # others have no such slopes
        pieces = []
        for part in self._parts(segments):
            hidden = self.network.last_hidden(*self._inputs(*self._flat(part)))
            hidden = hidden.reshape(len(hidden), *part.mask.shape, -1)  # [E, n, L, H]
            pieces.append(torch.einsum("enlh,nl->neh", hidden, part.mask.to(hidden.dtype)).flatten(1))
        return torch.cat(pieces).to(torch.float64) / self.config.members

    def information(self, preferences: Preferences) -> Tensor:
        """Return the expected Fisher information [E H, E H] of comparisons about those weights."""
        sides = preferences.first, preferences.second
        first, second = (self.scores(side).mean(0).to(torch.float64) for side in sides)
        slopes = self.slopes(sides[1]) - self.slopes(sides[0])
        return fisher_information(slopes, second - first, preferences.weights)

    def embeddings(self, segments: Segments) -> Tensor:
        """See :meth:`PairModel.embeddings`; here they are the scores, D = 1."""
        return self.scores(segments)[..., None]

    def member_margins(self, first: Tensor, second: Tensor, users: Tensor) -> Tensor:
        """See :meth:`PairModel.member_margins`; all users are one."""
        return (second - first)[..., 0]

    # Fitting ----------------------------------------------------------------------------------------------

    def fit(self, preferences: Preferences, *, epochs: int | None = None) -> dict[str, Tensor]:
        """Fit the ensemble to comparisons, on from where it stands.

        Args:
            preferences: comparisons of segments of this environment, on the model's device. Their offsets,
                if any, are margins within the loss.
            epochs: passes over them (None: the settings').

        Returns:
            ``loss``, the mean over all gradient steps, and ``accuracy``, the share of comparisons without tie
            that the ensemble was right about in the last pass, each before the step that it was used for (NaN
            where there is none).

        Raises:
            ValueError: if there are none, or they are not of this environment's spaces.
        """
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs is {epochs}; it must be at least 1")
        self.check(preferences)
        if self.device.type == "cpu":  # elsewhere it would wait for the device
            self._check_values(preferences)
        count, config = len(preferences), self.config
        both = concatenate_segments([preferences.first, preferences.second])
        self.take_statistics(both)
        size = min(config.batch_size, count)
        weights = preferences.weights.to(torch.float32).expand(config.members, -1)
        if config.bootstrap:
            drawn = torch.poisson(torch.ones(config.members, count), generator=self._generator)
            weights = weights * drawn.to(self.device)

        def by_pair(values: Tensor) -> Tensor:
            """Return what is [2 N L, ...] as [N, 2, L, ...]."""
            return values.reshape(2, count, both.max_length, *values.shape[1:]).transpose(0, 1)

        vectors, pictures = self._inputs(*self._flat(both))
        vectors, mask = by_pair(vectors), by_pair(both.mask.flatten())
        pictures = None if pictures is None else by_pair(pictures)
        labels, losses, right = preferences.labels.to(torch.float32), [], []
        offsets = None if preferences.offsets is None else preferences.offsets.to(torch.float32)
        passes = config.epochs if epochs is None else epochs
        for epoch in range(passes):
            order = torch.randperm(count, generator=self._generator).to(self.device)
            x, m, y, w = vectors[order], mask[order], labels[order], weights[:, order]
            z = None if pictures is None else pictures[order]
            margins, u = None if offsets is None else offsets[order], preferences.annotators[order]
            for start in range(0, count, size):
                part = slice(start, start + size)
                metrics = self._step(
                    x[part].flatten(0, 2), None if z is None else z[part].flatten(0, 2),
                    Compared(m[part].flatten(0, 1), y[part], w[:, part],
                             None if margins is None else margins[part], users=u[part]),
                )  # fmt: skip
                losses.append(metrics["loss"])
                if epoch == passes - 1:
                    right.append(metrics["right"])
        self.take_scale(both[:: max(1, 2 * count * both.max_length // SCALE_SAMPLE)])
        totals = torch.stack(right).sum(0)
        return {"loss": torch.stack(losses).mean(), "accuracy": totals[0] / totals[1]}

    def fit_pairs(self, segments: Segments, first: Tensor, second: Tensor, labels: Tensor,
                  weights: Tensor) -> dict[str, Tensor]:  # fmt: skip
        """Take one gradient step on pairs among some segments, each of which is scored once.

        Args:
            segments: N of them, on the model's device.
            first: [P] places of the pairs' first segments.
            second: [P] places of their second ones.
            labels: [P] probability that the second is preferred.
            weights: [P] 0 for pairs that do not count.

        Returns:
            ``loss``, the weighted mean over the pairs.
        """
        vectors, pictures = self._inputs(*self._flat(segments))
        weights = weights.to(torch.float32).expand(self.config.members, -1)
        compared = Compared(segments.mask, labels.to(torch.float32), weights, first=first, second=second)
        return {"loss": self._step(vectors, pictures, compared)["loss"]}

    def _step(self, vectors: Tensor, pictures: Tensor | None, compared: Compared) -> dict[str, Tensor]:
        """Take a gradient step on what the networks read of segments; return metrics."""
        if self._chain is None:
            return self._update.step(vectors, pictures, compared)
        with torch.inference_mode():
            metrics = gradients_by_hand(self._chain, vectors, compared)
            self._update.descend()
        return metrics

    def check(self, preferences: Preferences) -> None:
        """Raise ValueError unless these are comparisons of segments that the model can score."""
        if not isinstance(preferences, Preferences):
            raise TypeError(f"preferences is a {type(preferences).__name__}; it must be Preferences")
        if not len(preferences):
            raise ValueError("there is no comparison to fit the reward model to")
        self._check_segments(preferences.first)

    def _check_segments(self, segments: Segments) -> None:
        """Raise ValueError unless these are segments that the model can read."""
        wanted = {"obs": self.layout.kept_shape, "actions": self._actions.kept_shape}
        for name, shape in wanted.items():
            given = tuple(getattr(segments, name).shape[2:])
            if given != shape:
                raise ValueError(f"{name} of the segments have shape {given}; the reward model was made for "
                                 f"{shape} ({self.observation_space}, {self.action_space})")  # fmt: skip
        if self.num_features and (
            segments.features is None or segments.features.shape[-1] != self.num_features
        ):
            given_features = None if segments.features is None else segments.features.shape[-1]
            raise ValueError(f"the segments have {given_features or 'no'} features; the reward model reads "
                             f"{self.num_features}")  # fmt: skip

    def _check_values(self, preferences: Preferences) -> None:
        """Raise ValueError for numbers that are not finite, or no states or actions of the spaces."""
        preferences.validate()
        for side in (preferences.first, preferences.second):
            for name, space in (("obs", self.observation_space), ("actions", self.action_space)):
                if not isinstance(space, gym.spaces.Discrete):
                    continue
                low, high = int(getattr(side, name).min()), int(getattr(side, name).max())
                if low < min(0, space.start) or high >= space.start + space.n:
                    raise ValueError(
                        f"{name} of the segments range from {low} to {high}; the space is {space}"
                    )

    @torch.no_grad()
    def take_statistics(self, segments: Segments) -> None:
        """Take the scale of inputs from segments; :meth:`fit` does it with those that it is given."""
        if not self.config.normalize_inputs:
            return
        self._shift.zero_(), self._spread.fill_(1.0)
        vectors, _ = self._inputs(*self._flat(segments))
        weights = segments.mask.flatten().to(vectors.dtype)[:, None]
        total = weights.sum().clamp(min=1.0)
        mean = (weights * vectors).sum(0) / total
        spread = ((weights * (vectors - mean).square()).sum(0) / total).sqrt()
        numeric = self._numeric.to(self.device)
        self._shift.copy_(torch.where(numeric, mean, 0.0))
        self._spread.copy_(torch.where(numeric & (spread > 1e-6), spread, 1.0))

    @torch.no_grad()
    def take_scale(self, segments: Segments) -> None:
        """Take the scale of rewards from segments; :meth:`fit` does it with those that it is given."""
        rewards = self._members(*self._flat(segments)).mean(0)
        weights = segments.mask.flatten().to(rewards.dtype)
        mean = weighted_mean(rewards, weights)
        self._mean.copy_(mean)
        std = weighted_mean((rewards - mean).square(), weights).sqrt()
        self._std.copy_(torch.where(std > 1e-6, std, 1.0))  # of what does not vary there is no scale

    # Inputs -----------------------------------------------------------------------------------------------

    def _parts(self, segments: Segments) -> Iterator[Segments]:
        """Yield segments in parts that are read at once; ValueError unless there are some, of its spaces."""
        if not len(segments):
            raise ValueError("there is no segment; give one or more")
        self._check_segments(segments)
        rows = max(1, CHUNK // segments.max_length)
        for start in range(0, len(segments), rows):
            yield segments[slice(start, start + rows)]

    @staticmethod
    def _flat(segments: Segments) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return observations, actions, next observations and features of all steps, [N L, ...]."""
        features = None if segments.features is None else segments.features.flatten(0, 1)
        return (segments.obs[:, :-1].flatten(0, 1), segments.actions.flatten(0, 1),
                segments.obs[:, 1:].flatten(0, 1), features)  # fmt: skip

    def _members(
        self, obs: Tensor, actions: Tensor, next_obs: Tensor | None, features: Tensor | None
    ) -> Tensor:
        """Return rewards [E, N] of transitions with observations as they are kept."""
        return self.network(*self._inputs(obs, actions, next_obs, features))  # type: ignore[no-any-return]

    def _inputs(
        self, obs: Tensor, actions: Tensor, next_obs: Tensor | None, features: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the networks read: vectors [N, D], and pictures."""
        config, columns, pictures = self.config, [], None
        for used, values, name in ((config.use_obs, obs, "obs"), (config.use_next_obs, next_obs, "next_obs")):
            if used:
                if values is None:
                    raise ValueError(f"the reward model looks at {name}, which was not given")
                read = self.layout.read(values)
                columns.append(read.vectors)
                pictures = read.pictures
        if config.use_actions:
            columns.append(self._actions.read(actions).vectors)
        if config.use_features:
            if features is None:
                raise ValueError("the reward model looks at features, which were not given")
            columns.append(features.to(torch.float32))
        vectors = columns[0] if len(columns) == 1 else torch.cat(columns, 1)
        return (vectors - self._shift) / self._spread, pictures

    # Files ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and numbers: everything a bit-equal continuation needs."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "inputs": [self._shift, self._spread],
            "scale": [self._mean, self._std],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self._update.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())
        for mine, given in zip((self._shift, self._spread, self._mean, self._std),
                               (*state["inputs"], *state["scale"]), strict=True):  # fmt: skip
            mine.copy_(given)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file: tensors and JSON, no pickled objects; whole or not at all."""
        header = {
            "format": FILE_FORMAT,
            "model": self.config.name,
            "config": dataclasses.asdict(self.config),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "num_features": self.num_features,
            "seed": self.seed,
        }
        write_tensor_file(path, {"reward_model": json.dumps(header), "state": self.state_dict()})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        observation_space: gym.Space[Any] | None = None,
        action_space: gym.Space[Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read a model that :meth:`save` wrote.

        Args:
            path: the file.
            observation_space: what the model is to be used with (None: what it was fitted in).
            action_space: likewise.
            device: torch device.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, no such model, or one of other spaces.
        """
        content = read_tensor_file(path, "reward model")
        with reading(path, "reward model"), BoundedTensors(path):
            header = parse_json(content["reward_model"])
            if header["format"] != FILE_FORMAT:
                raise ValueError(f"it has format {header['format']}; this version reads {FILE_FORMAT}")
            spaces = [space_from_json(header[f"{kind}_space"]) for kind in ("observation", "action")]
            name = header.get("model", RewardModelConfig.name)
            kinds = {kind.name: kind for kind in cls.config_classes}
            if name not in kinds:
                raise ValueError(f"it holds a model {name!r}; {cls.__name__} reads {list(kinds)}")
            config = from_json(kinds[name], header["config"])
            model = cls(spaces[0], spaces[1], config, num_features=header["num_features"], device=device,
                        seed=header["seed"])  # fmt: skip
            model.load_state_dict(content["state"])
        wanted = {
            "observation_space": (observation_space, spaces[0]),
            "action_space": (action_space, spaces[1]),
        }
        for name, (given, known) in wanted.items():
            if given is not None and given != known:
                raise ValueError(f"{path} was fitted with {name} {known}; this environment has {given}")
        return model
