"""Last layers of value networks: one number, a law over fixed places, or quantiles for every action."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from prefrl.functional.value_based.value_distributions import (
    expected_value,
)

BISECTIONS = 60
"""Halvings of the bracket in :func:`flattest_log_probs`: past float64's last digit."""

STEEPEST = 20.0
"""Bound on the slope of log-probabilities per spacing there."""


def flattest_log_probs(support: Tensor, value: float = 0.0) -> Tensor:
    """Return log p [m] of the flattest law on the support that decodes to ``value``.

    Equal logits decode to the middle of the support, which for a one-sided support is wildly optimistic. A
    narrow label at the value would be the wrong cure: its log-probabilities fall with the square of the
    distance, to -2,000 some fifty bins away, and a network would take ages to climb back. The law of largest
    entropy with the given mean is p_i proportional to exp(t z_i): with the value in the middle it is uniform,
    and else its logarithm falls no faster than a straight line.

    Args:
        support: [m] atoms or centres of bins, rising.
        value: in units of value. One outside the support, or nearer to its end than half the average spacing,
            is moved there: at the end itself all other places would have probability 0.

    Returns:
        [m], normalised; on the device and in the type of the support.

    Raises:
        ValueError: if the support is not one axis of at least 2 places.
    """
    if support.ndim != 1 or support.shape[0] < 2:
        raise ValueError(f"support has shape {tuple(support.shape)}; it must have one axis of at least 2")
    last = support.shape[0] - 1
    place = (support - support[0]) * (last / (support[-1] - support[0]))  # 0 .. m - 1
    wanted = ((value - support[0]) * (last / (support[-1] - support[0]))).clamp(0.5, last - 0.5)
    # For a long even support t is log 3 at half a spacing from the end, and smaller elsewhere.
    # The mean rises with t, so that halving finds it, and nothing has to be read on the host.
    low, high = torch.full_like(wanted, -STEEPEST), torch.full_like(wanted, STEEPEST)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        below = expected_value(middle * place, place) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.log_softmax(0.5 * (low + high) * place, -1)


class Head(nn.Module, ABC):
    """Turns features into what a loss needs for every action, and that into values.

    All kinds are one affine map. With ``dueling`` it has one more row of outputs, the state's, and the
    action's are advantages with their mean over actions taken off (Wang et al. 2016, arXiv 1511.06581,
    equation 9), for laws before the softmax.

    Args:
        inputs: features per row, F.
        actions: A.
        places: numbers per action, m.
        dueling: see above.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(self, inputs: int, actions: int, places: int, *, dueling: bool = False) -> None:
        super().__init__()
        if min(inputs, actions, places) < 1:
            raise ValueError(f"inputs {inputs}, actions {actions} and numbers per action {places} must be at "
                             "least 1")  # fmt: skip
        self.actions = actions
        self.places = places
        self.dueling = dueling
        self.output = nn.Linear(inputs, (actions + dueling) * places)

    def _rows(self, features: Tensor) -> Tensor:
        """Map [N, F] to [N, A, m]."""
        rows: Tensor = self.output(features).view(-1, self.actions + self.dueling, self.places)
        if not self.dueling:
            return rows
        advantages = rows[:, 1:]
        return rows[:, :1] + advantages - advantages.mean(1, keepdim=True)

    def _start_at(self, start: Tensor | None = None) -> None:
        """Let every action's numbers be ``start`` [m], or 0, whatever the features."""
        with torch.no_grad():
            self.output.weight.zero_()
            self.output.bias.zero_()
            if start is not None:
                # Dueling: the advantages stay at 0 and the state's row alone is the start.
                bias = self.output.bias.view(-1, self.places)
                (bias[:1] if self.dueling else bias).copy_(start)

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, F] to outputs, [N, A] or [N, A, m]."""

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Decode outputs to values [N, A]."""


class ScalarHead(Head):
    """One value per action; starts like ``torch.nn.Linear``.

    Args:
        inputs: features per row, F.
        actions: A.
        dueling: one output for the state and A advantages, see :class:`Head`.
    """

    def __init__(self, inputs: int, actions: int, *, dueling: bool = False) -> None:
        super().__init__(inputs, actions, 1, dueling=dueling)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, F] to values [N, A]."""
        return self._rows(features)[..., 0]

    def values(self, outputs: Tensor) -> Tensor:
        """Return the outputs [N, A]: they are the values."""
        return outputs


class CategoricalHead(Head):
    """The logits of a law over fixed places per action: HL-Gauss, Two-Hot, C51, or a mean of a softmax.

    Every action starts with the same law whatever the features: the weights are 0 and the bias is
    ``initial_log_probs``. Random weights would start every state elsewhere, which the bias is there to
    prevent. This holds no learning up: the gradient of the weights is not 0, and once they have moved,
    neither is that of the features.

    Args:
        inputs: features per row, F.
        actions: A.
        support: [m] atoms or centres of bins, rising; kept as a buffer, so that it moves with the module.
        initial_log_probs: [m] log-probabilities to start with; if None, :func:`flattest_log_probs` of the
            support, which decodes to 0.
        dueling: a row of logits for the state and A of advantages, see :class:`Head`.

    Raises:
        ValueError: if the support is not one axis of at least 2 places, or the shapes differ.
    """

    support: Tensor

    def __init__(
        self, inputs: int, actions: int, support: Tensor, initial_log_probs: Tensor | None = None, *,
        dueling: bool = False,
    ) -> None:  # fmt: skip
        start = flattest_log_probs(support) if initial_log_probs is None else initial_log_probs
        if start.shape != support.shape:
            raise ValueError(f"initial_log_probs {tuple(start.shape)} and support {tuple(support.shape)} "
                             "must have the same shape")  # fmt: skip
        super().__init__(inputs, actions, support.shape[0], dueling=dueling)
        self.register_buffer("support", support.detach().clone())
        self._start_at(start)

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, F] to logits [N, A, m]."""
        return self._rows(features)

    def values(self, outputs: Tensor) -> Tensor:
        """Return the means [N, A] of the laws with logits [N, A, m]."""
        return expected_value(outputs, self.support)


class QuantileHead(Head):
    """The (i + 1/2) / m quantiles of the return per action (Dabney et al. 2018, arXiv 1710.10044).

    They all start at 0, whatever the features, as with :class:`CategoricalHead`.

    Args:
        inputs: features per row, F.
        actions: A.
        quantiles: m.
        dueling: a row of quantiles for the state and A of advantages, see :class:`Head`.
    """

    def __init__(self, inputs: int, actions: int, quantiles: int, *, dueling: bool = False) -> None:
        super().__init__(inputs, actions, quantiles, dueling=dueling)
        self._start_at()

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, F] to quantiles [N, A, m]."""
        return self._rows(features)

    def values(self, outputs: Tensor) -> Tensor:
        """Return the means [N, A] of the quantiles."""
        return outputs.mean(-1, dtype=torch.promote_types(outputs.dtype, torch.float32))


def gather_actions(outputs: Tensor, actions: Tensor) -> Tensor:
    """Return what outputs [B, A] or [B, A, m] hold for actions [B]: [B] or [B, m]."""
    index = actions.view(-1, *[1] * (outputs.ndim - 1)).expand(-1, 1, *outputs.shape[2:])
    return outputs.gather(1, index).squeeze(1)
