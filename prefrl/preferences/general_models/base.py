"""What general preference models have in common: margins, fits by maximum likelihood, information, files."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prefrl.config import Count, Natural, NonNegative, Settings, checked, to_json
from prefrl.data import Preferences, Segments, seeded_generator
from prefrl.data.files.tensor_file import write_tensor_file
from prefrl.functional.preferences.general_models import inference, margins
from prefrl.functional.preferences.preferences import preference_cross_entropy, weighted_mean

from .comparisons import Comparisons, ModelSizes, feature_sums

FILE_FORMAT = 1
"""Version of the files that :meth:`GeneralModel.save` writes."""

SHORT = 50
"""Iterations of L-BFGS after which starts are compared."""

ROWS = 1024
"""Comparisons whose slopes in all parameters are worked out at once."""

Parameters = dict[str, Tensor]
"""Tensors by name."""

Rows = tuple[Tensor, Tensor, Tensor, Tensor]
"""First and second options (places [...], or features [..., F]), users [...], contexts [..., C]."""


@dataclass(frozen=True)
class GeneralModelConfig(Settings):
    """Settings that all models have."""

    ridge: NonNegative = 1e-3
    """A normal prior of variance 1 / ridge on what would else grow without end: ridge / 2 |parameters|^2 is
    added to the negative log-likelihood of all answers together."""


@dataclass(frozen=True)
class DescentConfig(GeneralModelConfig):
    """Settings of models that are fitted by L-BFGS, of which the best of several fits is kept."""

    starts: Count = 8
    """Random starts; a short descent from each says which quarter of them is worth a long one."""
    max_iterations: Count = 500
    """Of L-BFGS, in each long descent."""


class GeneralModel(ABC):
    """Says how likely one of two options is preferred: sigmoid of an antisymmetric margin.

    Args:
        config: settings (None: the defaults).
        seed: of the starts of a fit.

    Attributes:
        parameters: float64 tensors by name; empty before a fit.
        sizes: what the model knows of.
        user_names: of the users of the fit, where they had names.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[GeneralModelConfig]]
    sizes: ModelSizes

    def __init__(self, config: Any = None, *, seed: int = 0) -> None:
        self.config = config if config is not None else self.config_class()
        if not isinstance(self.config, self.config_class):
            raise TypeError(f"config is a {type(config).__name__}; it must be {self.config_class.__name__}")
        self.seed: int = checked(Natural, seed, "seed")
        self.parameters: Parameters = {}
        self.user_names: tuple[str, ...] | None = None

    # What each model says ---------------------------------------------------------------------------------

    @abstractmethod
    def shapes(self, sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters."""

    @abstractmethod
    def log_odds(self, parameters: Parameters, rows: Rows) -> Tensor:
        """Return the log-odds [...] that the second is preferred; a pure function of the parameters."""

    @abstractmethod
    def fit(self, comparisons: Comparisons) -> dict[str, Tensor]:
        """Fit the model to comparisons, anew.

        Returns:
            ``loss``, the mean cross-entropy, and ``accuracy``, see :meth:`accuracy`.

        Raises:
            ValueError: if they say nothing about an option or a user, or less than the settings ask for.
        """

    # What it believes -------------------------------------------------------------------------------------

    @torch.no_grad()
    def margin(self, first: Any, second: Any, user: Any = None, context: Tensor | None = None) -> Tensor:
        """Return the log-odds [...] that the SECOND option is preferred; exchanged options turn its sign.

        Args:
            first: [...] int64 places of options, or [..., F] their features, as in the fit.
            second: likewise.
            user: [...] int64, or one number for all; without use in models of one user.
            context: [..., C] where the comparisons of the fit had contexts.

        Raises:
            RuntimeError: before a fit.
            ValueError: for options, users or contexts that the fit did not know.
        """
        return self.log_odds(self.parameters, self._rows(first, second, user, context))

    def probability(self, first: Any, second: Any, user: Any = None, context: Tensor | None = None) -> Tensor:
        """Return P(second preferred) [...]; see :meth:`margin`."""
        return torch.sigmoid(self.margin(first, second, user, context))

    @torch.no_grad()
    def margins(self, comparisons: Comparisons) -> Tensor:
        """Return the margin [N] of each comparison."""
        self._check_known(comparisons)
        return self.log_odds(self.parameters, rows_of(comparisons))

    def preference_margins(self, preferences: Preferences) -> Tensor:
        """Return the margin [N] of comparisons of segments with features, as label models ask for it."""
        return self.margins(Comparisons.from_preferences(replace(preferences, offsets=None)))

    def loss(self, comparisons: Comparisons) -> Tensor:
        """Return the mean cross-entropy [] of answers, in nats."""
        return self.report(comparisons)["loss"]

    def accuracy(self, comparisons: Comparisons) -> Tensor:
        """Return the share [] of answers that the margin's sign guesses; ties of either count half."""
        return self.report(comparisons)["accuracy"]

    def report(self, comparisons: Comparisons) -> dict[str, Tensor]:
        """Return ``loss`` and ``accuracy`` [], as :meth:`loss` and :meth:`accuracy` say."""
        margins, labels, counts = self.margins(comparisons), comparisons.labels, comparisons.counts
        right = 0.5 + margins.sign() * (labels - 0.5)
        return {"loss": weighted_mean(preference_cross_entropy(margins, labels), counts),
                "accuracy": weighted_mean(right, counts)}  # fmt: skip

    # How sure it is ---------------------------------------------------------------------------------------

    def information(self, comparisons: Comparisons) -> Tensor:
        """Return the expected Fisher information [P, P] of comparisons about the parameters, as one vector.

        Directions that change no margin (a constant added to utilities, turned embeddings) have none.
        """
        comparisons = comparisons.merged()
        return inference.fisher_information(
            self.slopes(comparisons), self.margins(comparisons), comparisons.counts
        )

    def slopes(self, comparisons: Comparisons) -> Tensor:
        """Return the derivatives [N, P] of the margins in the parameters, as one vector in order of names."""
        self._check_known(comparisons)
        names = sorted(self.parameters)
        flat = torch.cat([self.parameters[name].flatten() for name in names])

        def margins(vector: Tensor, rows: Rows) -> Tensor:
            parts, at = {}, 0
            for name in names:
                like = self.parameters[name]
                parts[name] = vector[at : at + like.numel()].view_as(like)
                at += like.numel()
            return self.log_odds(parts, rows)

        pieces = (rows_of(comparisons[slice(i, i + ROWS)]) for i in range(0, len(comparisons), ROWS))
        return torch.cat([torch.func.jacfwd(margins)(flat, rows) for rows in pieces])

    def standard_errors(self, fitted: Comparisons, about: Comparisons) -> Tensor:
        """Return the standard error [N] of the margins of ``about``, by what ``fitted`` tells."""
        return inference.standard_error(self.slopes(about), inference.covariance(self.information(fitted)))

    # Doors ------------------------------------------------------------------------------------------------

    def _rows(self, first: Any, second: Any, user: Any, context: Tensor | None) -> Rows:
        """Return what a margin is asked for, checked."""
        options = [self._option(name, side) for name, side in (("first", first), ("second", second))]
        leading = options[0].shape[: -1 if self.sizes.num_features else None]
        device = options[0].device
        users = torch.as_tensor(0 if user is None else user, device=device)
        if self.sizes.num_users > 1 and user is None and "users" in self.parameters:
            raise ValueError(f"user is None; give one of the {self.sizes.num_users} users of the fit")
        known = self.sizes.num_users if "users" in self.parameters else None
        _check_places("user", users, known)
        width = self.sizes.num_contexts
        context = torch.zeros(0, dtype=torch.float64, device=device) if context is None else context
        if context.shape[-1:] != (width,):
            raise ValueError(f"context has shape {list(context.shape)}; it must be [..., {width}]")
        shape = np.broadcast_shapes(leading, users.shape, context.shape[:-1])
        return options[0], options[1], users.expand(shape), context.double().expand(*shape, width)

    def _option(self, name: str, value: Any) -> Tensor:
        """Return places or features of options, checked."""
        if not self.parameters:
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit, or load a file")
        options: Tensor = torch.as_tensor(value)
        if not self.sizes.num_features:
            _check_places(name, options, self.sizes.num_options)
        elif not options.is_floating_point() or options.shape[-1:] != (self.sizes.num_features,):
            raise ValueError(f"{name} is {options.dtype} {list(options.shape)}; the model was fitted to "
                             f"features: give [..., {self.sizes.num_features}] of them")  # fmt: skip
        return options.double() if options.is_floating_point() else options

    def _check_known(self, comparisons: Comparisons) -> None:
        """Raise ValueError unless comparisons are of what the model was fitted to."""
        if not self.parameters:
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit, or load a file")
        given, known = ModelSizes.of(comparisons), self.sizes
        for name in ("num_options", "num_features", "num_contexts"):
            if getattr(given, name) != getattr(known, name):
                raise ValueError(f"{name} of the comparisons is {getattr(given, name)}; the model was fitted "
                                 f"to {getattr(known, name)}")  # fmt: skip
        if "users" in self.parameters:
            _check_places("user", comparisons.user, known.num_users)
            for place, (name, wanted) in enumerate(
                zip(comparisons.user_names or (), self.user_names or (), strict=False)
            ):
                if name != wanted:
                    raise ValueError(
                        f"user {place} of the comparisons is {name!r}; in the fit it was {wanted!r}"
                    )

    # Files ------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a fitted model to one file: tensors and JSON, no pickled objects; whole or not at all.

        ``load_general_model`` reads it.
        """
        if not self.parameters:
            raise RuntimeError(f"{type(self).__name__} is not fitted; there is nothing to save")
        header = {"format": FILE_FORMAT, "model": self.name, "config": to_json(self.config),
                  "sizes": to_json(self.sizes), "seed": self.seed, "user_names": self.user_names}  # fmt: skip
        write_tensor_file(path, {"general_model": json.dumps(header), "parameters": self.parameters})

    def take(self, parameters: Mapping[str, Tensor], sizes: ModelSizes) -> None:
        """Take fitted parameters over.

        Raises:
            ValueError: if they are not those of such a model.
        """
        wanted = self.shapes(sizes)
        if set(parameters) != set(wanted):
            raise ValueError(f"parameters are {sorted(parameters)}; they must be {sorted(wanted)}")
        for name, value in parameters.items():
            if tuple(value.shape) != wanted[name] or value.dtype != torch.float64:
                raise ValueError(f"{name} is {value.dtype} {list(value.shape)}; it must be torch.float64 "
                                 f"{list(wanted[name])}")  # fmt: skip
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} holds NaN or infinity")
        self.parameters, self.sizes = dict(parameters), sizes


class ScoredModel(GeneralModel):
    """A model in which every user gives every option a score."""

    @abstractmethod
    def score(self, options: Any, user: Any = None, context: Tensor | None = None) -> Tensor:
        """Return how good options are [...]; arguments as of :meth:`GeneralModel.margin`."""

    def scores(self, segments: Segments, user: Any = None) -> Tensor:
        """Return the score [N] of segments by the sum of their features: what label models ask for."""
        return self.score(feature_sums(segments), user)


def rows_of(comparisons: Comparisons) -> Rows:
    """Return comparisons as rows of :meth:`GeneralModel.log_odds`."""
    sides = comparisons.first, comparisons.second
    if comparisons.features is not None:
        sides = comparisons.features[sides[0]], comparisons.features[sides[1]]
    context = comparisons.contexts
    context = comparisons.labels.new_zeros(len(comparisons), 0) if context is None else context
    return (*sides, comparisons.user, context)


def with_constant(features: Tensor) -> Tensor:
    """Return features [..., F + 1] with a 1 behind them."""
    return torch.cat([features, features.new_ones(*features.shape[:-1], 1)], -1)


def encoded(options: Tensor, encoder: Tensor) -> Tensor:
    """Return embeddings [..., d]: rows of the encoder [K, d], or features [..., F] times it [F + 1, d]."""
    if options.is_floating_point():
        return with_constant(options) @ encoder
    return margins.taken(encoder, options)


def normal_penalty(ridge: float, *values: Tensor) -> Tensor:
    """Return ridge / 2 times the sum of squares []: minus the log of a normal prior, up to a constant."""
    return 0.5 * ridge * torch.stack([value.square().sum() for value in values]).sum()


def descend(
    loss_at: Callable[[Parameters], Tensor], start: Parameters, max_iterations: int
) -> tuple[Parameters, float]:
    """Return parameters where a loss is least, near a start, and that loss: L-BFGS with a line search."""
    free = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.LBFGS(
        list(free.values()), max_iter=max_iterations, max_eval=2 * max_iterations, history_size=20,
        tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_at(free)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return {name: value.detach() for name, value in free.items()}, float(loss_at(free))


class DescentModel(GeneralModel):
    """A model whose likelihood has several maxima: fitted by L-BFGS from several starts."""

    config: Any

    def check(self, comparisons: Comparisons) -> None:
        """Raise ValueError for comparisons that say less than the settings ask for."""

    def start(self, sizes: ModelSizes, generator: torch.Generator) -> Parameters:
        """Return where a fit starts: standard normal numbers."""
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in self.shapes(sizes).items()
        }

    def settled(self, parameters: Parameters, comparisons: Comparisons) -> Parameters:
        """Return parameters that mean the same, in the form that they are kept in."""
        return parameters

    @abstractmethod
    def penalty(self, parameters: Parameters, comparisons: Comparisons) -> Tensor:
        """Return minus the log-prior [] of settled parameters, beside the log-likelihood of all answers."""

    def fit(self, comparisons: Comparisons) -> dict[str, Tensor]:
        """See :meth:`GeneralModel.fit`."""
        if comparisons.features is None:
            comparisons.check_linked()
        self.check(comparisons)
        sizes, merged = ModelSizes.of(comparisons), comparisons.merged()
        rows, counts = rows_of(merged), merged.counts
        total = counts.sum()

        def loss_at(parameters: Parameters) -> Tensor:
            settled = self.settled(parameters, merged)
            entropy = preference_cross_entropy(self.log_odds(settled, rows), merged.labels)
            loss: Tensor = ((counts * entropy).sum() + self.penalty(settled, merged)) / total
            return loss

        generator = seeded_generator(self.seed, f"{self.name} starts")
        starts = [self.start(sizes, generator) for _ in range(self.config.starts)]
        on_device = [{name: value.to(total.device) for name, value in start.items()} for start in starts]
        short = [descend(loss_at, start, SHORT) for start in on_device]
        short = sorted((each for each in short if math.isfinite(each[1])), key=lambda each: each[1])
        if not short:
            raise ValueError(f"no fit of {type(self).__name__} came to a finite loss; raise ridge (now "
                             f"{self.config.ridge})")  # fmt: skip
        ends = [
            descend(loss_at, found, self.config.max_iterations) for found, _ in short[: -(-len(short) // 4)]
        ]
        parameters, _ = min(ends, key=lambda each: each[1])
        self.user_names = comparisons.user_names
        self.take(self.settled(parameters, merged), sizes)
        return self.report(comparisons)


def _check_places(name: str, places: Tensor, count: int | None) -> None:
    """Raise ValueError unless these are whole numbers below ``count`` (None: any)."""
    if places.is_floating_point() or places.dtype == torch.bool:
        raise ValueError(f"{name} is {places.dtype}; it must hold whole numbers, the places in a table")
    low, high = (int(places.min()), int(places.max())) if places.numel() else (0, 0)
    if count is not None and not 0 <= low <= high < count:
        raise ValueError(f"{name} is unknown: {low if low < 0 else high}; the fit knew 0 to {count - 1}")
