"""What a fitted model of segments says about two of them: margins, probabilities, shares of a population."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from prefrl.data import Preferences, Segments


class PairModel(ABC):
    """An ensemble of E members that embed segments, and compare embeddings.

    Attributes:
        device: torch device.
        stepwise: whether each transition has a reward, so that an agent can be told.
    """

    device: torch.device
    stepwise: bool

    @abstractmethod
    def embeddings(self, segments: Segments) -> Tensor:
        """Return what pairs of segments are compared by [E, N, D]."""

    @abstractmethod
    def member_margins(self, first: Tensor, second: Tensor, users: Tensor) -> Tensor:
        """Return each member's log-odds [E, ...] that the second is preferred.

        Args:
            first: [E, ..., D] embeddings of first segments.
            second: likewise.
            users: [...] int64 who is asked.
        """

    @property
    @abstractmethod
    def members(self) -> int:
        """E."""

    @property
    def user(self) -> int:
        """Whose preferences an agent is told, where users differ."""
        return 0

    @torch.no_grad()
    def margin(self, first: Segments, second: Segments, user: Tensor | int | None = None) -> Tensor:
        """Return the log-odds [N] that the SECOND segment is preferred, the mean over members.

        Exchanged segments turn its sign.

        Args:
            first: N segments.
            second: N segments.
            user: [N] int64, or one number for all: who is asked, where users differ; None: :attr:`user`.
        """
        sides = [self.embeddings(side) for side in (first, second)]
        return self.member_margins(sides[0], sides[1], self._users(user, len(first))).mean(0)

    def probability(self, first: Segments, second: Segments, user: Tensor | int | None = None) -> Tensor:
        """Return P(second preferred) [N]; see :meth:`margin`."""
        return torch.sigmoid(self.margin(first, second, user))

    def preference_margins(self, preferences: Preferences) -> Tensor:
        """Return the margin [N] of comparisons, each for who answered it."""
        return self.margin(preferences.first, preferences.second, preferences.annotators)

    @torch.no_grad()
    def margins_between(self, first: Tensor, second: Tensor, user: int | None = None) -> Tensor:
        """Return the margin [M, N] of every pair of embeddings [E, M, D] and [E, N, D]."""
        count = first.shape[1], second.shape[1]
        pairs = (first[:, :, None].expand(-1, -1, count[1], -1).flatten(1, 2),
                 second[:, None].expand(-1, count[0], -1, -1).flatten(1, 2))  # fmt: skip
        users = self._users(user, count[0] * count[1])
        return self.member_margins(*pairs, users).mean(0).view(count)

    def win_rates(self, segments: Segments, population: Segments, user: int | None = None) -> Tensor:
        """Return how often segments are preferred to those of a population: s(. > population) [N].

        It is what there is in place of a score where preferences go in circles (General Preference
        Optimization, arXiv 2410.02197).
        """
        margins = self.margins_between(self.embeddings(population), self.embeddings(segments), user)
        return torch.sigmoid(margins).mean(0)

    def accuracy(self, preferences: Preferences) -> Tensor:
        """Return the share [] of comparisons without tie in which the ensemble prefers what was preferred.

        NaN where there is none.
        """
        wanted = (preferences.labels - 0.5).sign()
        right = (self.preference_margins(preferences).sign() == wanted).to(torch.float64)
        weights = (wanted != 0) * preferences.weights
        return (right * weights).sum() / weights.sum()

    def _users(self, user: Tensor | int | None, count: int) -> Tensor:
        """Return who is asked [count]."""
        if not isinstance(user, Tensor):
            return torch.full((count,), self.user if user is None else user, device=self.device)
        return user.to(self.device).expand(count)
