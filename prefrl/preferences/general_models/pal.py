"""PAL: people as mixtures of a few prototypes, each an ideal that options come close to or not.

Options have embeddings f; user i has an ideal u_i = sum_k softmax(w_i)_k p_k.

    PAL-A: score = - |f - u_i|                       p_k a point
    PAL-B: score = temperature cos(f, u_i(x))        p_k(x) linear in the context x; temperature learned

P(second preferred) = sigmoid(score(second) - score(first)). New users need a few answers: only their weights
are fitted.

Source: PAL, arXiv 2406.08469. f and p are linear here (or tables), there heads of a language model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from prefrl.config import Count, NonNegative
from prefrl.functional.preferences.general_models.margins import angle_score, distance_score, taken
from prefrl.functional.preferences.preferences import preference_cross_entropy

from .base import (
    DescentConfig,
    DescentModel,
    Parameters,
    Rows,
    ScoredModel,
    descend,
    encoded,
    normal_penalty,
    rows_of,
    with_constant,
)
from .comparisons import Comparisons, ModelSizes, check_user_names

MAX_TEMPERATURE = 100.0
"""Of PAL-B, as published."""


@dataclass(frozen=True)
class PALConfig(DescentConfig):
    """Settings of :class:`PAL`."""

    form: Literal["A", "B"] = "A"
    """Ideal points ("A") or ideal directions that may depend on the context ("B")."""
    prototypes: Count = 3
    """K, ideals that every user's is a mixture of."""
    dimension: Count = 2
    """d, of the space that options and ideals lie in."""
    starts: Count = 16
    """As of :class:`DescentConfig`; up to 3 in 4 starts ended among other people's ideals."""
    ridge: NonNegative = 0.1
    """As of all models; of 3 groups of 20 users with 60 answers each, .1 was as good as .001, and faster."""


class PAL(DescentModel, ScoredModel):
    """Ideals of users, as mixtures of prototypes; see the module's text."""

    name = "pal"
    config_class = PALConfig

    def shapes(self, sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
        """See :meth:`GeneralModel.shapes`."""
        k, d = self.config.prototypes, self.config.dimension
        shapes = {"embeddings": (sizes.inputs, d), "users": (sizes.num_users, k)}
        if self.config.form == "A":
            return {**shapes, "prototypes": (k, d)}
        return {**shapes, "prototypes": (sizes.num_contexts + 1, k * d), "log_temperature": (1,)}

    def log_odds(self, parameters: Parameters, rows: Rows) -> Tensor:
        """See :meth:`GeneralModel.log_odds`."""
        first, second, user, context = rows
        table, users = parameters["embeddings"], len(parameters["users"])
        if (
            self.config.form == "A"
            and not first.is_floating_point()
            and users * len(table) < 2 * user.numel()
        ):
            # Fewer distances than comparisons have sides: each once.
            everyone = torch.arange(users, device=user.device)
            ideals = self._ideal(parameters, everyone, context)
            scores = self._worth(parameters, torch.arange(len(table), device=user.device), ideals[:, None])
            sides = [taken(scores.view(-1, 1), user * len(table) + side)[..., 0] for side in (first, second)]
            return sides[1] - sides[0]
        ideal = self._ideal(parameters, user, context)
        return self._worth(parameters, second, ideal) - self._worth(parameters, first, ideal)

    def score(self, options: Any, user: Any = None, context: Tensor | None = None) -> Tensor:
        """See :meth:`ScoredModel.score`."""
        options, _, user, context = self._rows(options, options, user, context)
        return self._worth(self.parameters, options, self._ideal(self.parameters, user, context))

    def _ideal(self, parameters: Parameters, user: Tensor, context: Tensor) -> Tensor:
        """Return the ideals [..., d] of users in contexts."""
        shares = torch.softmax(parameters["users"], -1)
        if self.config.form == "A":
            return taken(shares @ parameters["prototypes"], user)  # of each user once
        shares = taken(shares, user)
        prototypes = with_constant(context) @ parameters["prototypes"]
        prototypes = prototypes.reshape(*context.shape[:-1], self.config.prototypes, -1)
        return torch.einsum("...k,...kd->...d", shares, prototypes)

    def _worth(self, parameters: Parameters, options: Tensor, ideal: Tensor) -> Tensor:
        """Return scores [...]."""
        embedded = encoded(options, parameters["embeddings"])
        if self.config.form == "A":
            return distance_score(embedded, ideal)
        temperature = parameters["log_temperature"].exp().clamp(max=MAX_TEMPERATURE)[0]
        return angle_score(embedded, ideal, temperature)

    def check(self, comparisons: Comparisons) -> None:
        """See :meth:`DescentModel.check`."""
        comparisons.check_users()
        if self.config.form == "A" and comparisons.contexts is not None:
            raise ValueError("the comparisons have contexts, which form 'A' does not look at; take 'B'")
        if self.config.prototypes > comparisons.num_users:
            raise ValueError(f"prototypes is {self.config.prototypes}; {comparisons.num_users} users allow "
                             "at most as many")  # fmt: skip
        sizes = ModelSizes.of(comparisons)
        if self.config.dimension > sizes.inputs:
            raise ValueError(f"dimension is {self.config.dimension}; {sizes} allow at most {sizes.inputs}")

    def start(self, sizes: ModelSizes, generator: torch.Generator) -> Parameters:
        """Return options and prototypes at random, users between all prototypes, a temperature of 1.

        The published 1 / .07 makes a landscape with more hills than L-BFGS can cross.
        """
        start = super().start(sizes, generator)
        start["users"] = 0.1 * start["users"]
        if self.config.form == "B":
            start["log_temperature"] = torch.zeros(1, dtype=torch.float64)
        return start

    def penalty(self, parameters: Parameters, comparisons: Comparisons) -> Tensor:
        """See :meth:`DescentModel.penalty`; the length of directions says nothing."""
        held = ("embeddings", "prototypes", "users") if self.config.form == "A" else ("users",)
        return normal_penalty(self.config.ridge, *(parameters[name] for name in held))

    def add_users(self, comparisons: Comparisons) -> Tensor:
        """Fit the weights of new users, and nothing else; return their numbers [M] in this model from now on.

        Args:
            comparisons: their answers; its users are the M new ones, 0 to M - 1.

        Raises:
            ValueError: if one of them gave no answer or has a name that is known, or options are not those of
                the fit.
        """
        comparisons.check_users()
        known, old = self.parameters.get("users"), self.parameters
        self._check_known(replace(comparisons, users=None, num_users=1, user_names=None))
        assert known is not None  # it is fitted
        both = self.user_names, comparisons.user_names
        names = None if both[0] is None or both[1] is None else both[0] + both[1]
        check_user_names(names, len(known) + comparisons.num_users)
        merged = comparisons.merged()
        rows, total = rows_of(merged), merged.counts.sum()

        def loss_at(free: Parameters) -> Tensor:
            entropy = preference_cross_entropy(self.log_odds({**old, **free}, rows), merged.labels)
            ridge = 0.5 * self.config.ridge * free["users"].square().sum()
            loss: Tensor = ((merged.counts * entropy).sum() + ridge) / total
            return loss

        new = known.new_zeros(comparisons.num_users, self.config.prototypes)
        found, _ = descend(loss_at, {"users": new}, self.config.max_iterations)
        sizes = replace(self.sizes, num_users=len(known) + len(new))
        self.take({**old, "users": torch.cat([known, found["users"]])}, sizes)
        self.user_names = names
        return torch.arange(len(known), sizes.num_users, device=known.device)
