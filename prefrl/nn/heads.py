"""Last layers of value networks, with what they learn from: how a target is made, and how far one is off.

A head gives numbers for every action and reads them as values. Learning takes three lines, whatever it is:

    target, outside = head.target(returns, discounts, next_outputs)
    q_taken = gather_actions(head(features), actions)
    losses = head.loss(q_taken, target)

Where autograd is not wanted, :meth:`Head.slopes` is the gradient of the losses in ``q_taken``, and
:meth:`Head.pulled` leads it back to the numbers of the last layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefrl.functional.value_based.value_distributions import (
    bin_centers,
    categorical_projection,
    cross_entropy,
    entropy,
    expected_value,
    flattest_log_probs as flattest_log_probs,
    hl_gauss_probs,
    quantile_huber_loss,
    quantile_huber_slopes,
    two_hot_probs,
)


class Head(nn.Module, ABC):
    """Turns features into what a loss needs for every action, and that into values.

    All kinds are one affine map. With ``dueling`` it has one more row of outputs, the state's, and the
    action's are advantages with their mean over actions taken off (Wang et al. 2016, arXiv 1511.06581,
    equation 9), before any softmax.

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

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, F] to outputs [N, A, m], or [N, A] of a scalar head."""
        return self.read(self.output(features))

    def read(self, numbers: Tensor) -> Tensor:
        """Map the last layer's numbers [..., (A + 1 if dueling) m] to outputs [..., A, m]."""
        rows = numbers.view(*numbers.shape[:-1], self.actions + self.dueling, self.places)
        if not self.dueling:
            return rows
        advantages = rows[..., 1:, :]
        return rows[..., :1, :] + advantages - advantages.mean(-2, keepdim=True)

    def pulled(self, of_outputs: Tensor) -> Tensor:
        """Return a loss's gradient in the last layer's numbers, given that in outputs [..., A, m]."""
        if self.dueling:
            of_state = of_outputs.sum(-2, keepdim=True)
            of_outputs = torch.cat([of_state, of_outputs - of_state / self.actions], -2)
        return of_outputs.flatten(-2)

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
    def values(self, outputs: Tensor) -> Tensor:
        """Decode outputs to values: [..., A, m] to [..., A], or scalars to themselves."""

    @abstractmethod
    def values_pulled(self, outputs: Tensor, of_values: Tensor) -> Tensor:
        """Return a loss's gradient in outputs [..., A, m], given that in values [..., A]."""

    def target(
        self, returns: Tensor, discounts: Tensor, next_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return what outputs for the actions taken should be, and which of these targets cannot be reached.

        Args:
            returns: [B] sums of rewards until the next state.
            discounts: [B] of what follows, 0 where nothing does.
            next_outputs: [B] or [B, m] for the next state and action.

        Returns:
            The target, [B] or [B, m], and [B] 1 where it lies beyond the support, else 0; None: nowhere.
        """
        return returns + discounts * self.values(next_outputs), None

    @abstractmethod
    def loss(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """Return the losses [...] of outputs for the actions taken, [...] or [..., m]."""

    @abstractmethod
    def slopes(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """Return the gradient of :meth:`loss` in the outputs for the actions taken, of their shape."""

    def decoded(self, target: Tensor) -> Tensor:
        """Return the values [B] that targets, as :meth:`target` returns them, stand for."""
        return target

    def metrics(self, losses: Tensor, q_taken: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return what to log of losses [..., B], of outputs for the actions taken, and of their targets.

        All are means over the last axis.
        """
        q, y = self.values(q_taken), self.decoded(target)
        means = torch.stack([q, y, (y - q).abs()]).mean(-1).unbind()
        return dict(zip(("train/q", "train/target", "train/td_error"), means, strict=True))


class ScalarHead(Head):
    """One value per action; starts like ``torch.nn.Linear``.

    Args:
        inputs: features per row, F.
        actions: A.
        loss: squared, or Huber's, which is linear from 1 on.
        dueling: one output for the state and A advantages, see :class:`Head`.
    """

    def __init__(
        self, inputs: int, actions: int, loss: Literal["mse", "huber"] = "mse", *, dueling: bool = False
    ) -> None:
        super().__init__(inputs, actions, 1, dueling=dueling)
        self.kind = loss

    def read(self, numbers: Tensor) -> Tensor:
        """See :class:`Head`: values [..., A]."""
        return super().read(numbers)[..., 0] if self.dueling else numbers

    def pulled(self, of_outputs: Tensor) -> Tensor:
        """See :class:`Head`: given that in values [..., A]."""
        return super().pulled(of_outputs[..., None]) if self.dueling else of_outputs

    def values(self, outputs: Tensor) -> Tensor:
        """Return the outputs: they are the values."""
        return outputs

    def values_pulled(self, outputs: Tensor, of_values: Tensor) -> Tensor:
        """See :class:`Head`."""
        return of_values

    def loss(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """Return (q - y)^2 [B], or Huber's loss."""
        of = F.smooth_l1_loss if self.kind == "huber" else F.mse_loss
        return of(q_taken, target, reduction="none")

    def slopes(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """See :class:`Head`: 2 (q - y), or q - y cut at 1."""
        errors = q_taken - target
        return errors.clamp_(-1.0, 1.0) if self.kind == "huber" else errors.mul_(2.0)


class CategoricalHead(Head):
    """The logits of a distribution over fixed places per action, learned by cross-entropy to another one.

    Every action starts with the same distribution whatever the features: the weights are 0 and the bias is
    ``initial_log_probs``. Random weights would start every state elsewhere, which the bias is there to
    prevent. This holds no learning up: the gradient of the weights is not 0, and once they have moved,
    neither is that of the features.

    What a target becomes as a distribution is up to the kinds of this head: this one, C51, backs up the
    whole distribution of the next state (Bellemare et al. 2017, arXiv 1707.06887).

    Args:
        inputs: features per row, F.
        actions: A.
        support: [m] atoms or centres of bins, rising; kept as a buffer, so that it moves with the module.
        initial_log_probs: [m] log-probabilities to start with; if None, :func:`flattest_log_probs` of the
            support, which decodes to 0.
        limits: lowest and highest value that a target may have; None: any.
        dueling: a row of logits for the state and A of advantages, see :class:`Head`.

    Raises:
        ValueError: if the support is not one axis of at least 2 places, or the shapes differ.
    """

    support: Tensor

    def __init__(
        self, inputs: int, actions: int, support: Tensor, initial_log_probs: Tensor | None = None, *,
        limits: tuple[float, float] | None = None, dueling: bool = False,
    ) -> None:  # fmt: skip
        start = flattest_log_probs(support) if initial_log_probs is None else initial_log_probs
        if start.shape != support.shape:
            raise ValueError(f"initial_log_probs {tuple(start.shape)} and support {tuple(support.shape)} "
                             "must have the same shape")  # fmt: skip
        super().__init__(inputs, actions, support.shape[0], dueling=dueling)
        self.register_buffer("support", support.detach().clone())
        self._start_at(start)
        self.limits = limits

    def values(self, outputs: Tensor) -> Tensor:
        """Return the means [...] of the distributions with logits [..., m]."""
        return expected_value(outputs, self.support)

    def values_pulled(self, outputs: Tensor, of_values: Tensor) -> Tensor:
        """See :class:`Head`: dq/dlogits is p (z - q)."""
        probs = torch.softmax(outputs, -1)
        q = (probs * self.support).sum(-1, keepdim=True)
        return probs.mul_(self.support - q).mul_(of_values[..., None])

    def target(
        self, returns: Tensor, discounts: Tensor, next_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Head`: the next state's distribution, moved and projected to the support [B, m]."""
        locations = returns[..., None] + discounts[..., None] * self.support
        probs = torch.softmax(next_outputs, -1)
        # Of the mean: a distribution that is still wide, as all are at first, loses mass beyond any support.
        outside = self.outside((probs * locations).sum(-1))
        return categorical_projection(probs, locations, self.support), outside

    def outside(self, values: Tensor) -> Tensor | None:
        """Return 1 for values [B] beyond the limits, else 0; None without limits."""
        if self.limits is None:
            return None
        low, high = self.limits
        beyond: Tensor = (values - (high + low) / 2).abs() > (high - low) / 2 * (1 + 1e-6)
        return beyond.to(torch.float32)

    def loss(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropies [...] of logits to distributions, both [..., m]."""
        return cross_entropy(q_taken, target)

    def slopes(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """See :class:`Head`: softmax(logits) - p."""
        return torch.softmax(q_taken, -1).sub_(target)

    def decoded(self, target: Tensor) -> Tensor:
        """Return the means [B] of distributions [B, m]."""
        return target @ self.support

    def metrics(self, losses: Tensor, q_taken: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See :class:`Head`; also the divergence, since the targets' entropy cannot be learned away."""
        divergence = losses - entropy(target)
        return {**super().metrics(losses, q_taken, target), "train/kl": divergence.mean(-1)}


class TwoHotHead(CategoricalHead):
    """A target is shared between the two atoms beside it (Farebrother et al. 2024, arXiv 2403.03950)."""

    def target(
        self, returns: Tensor, discounts: Tensor, next_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Head`: distributions [B, m]."""
        y = returns + discounts * self.values(next_outputs)
        return two_hot_probs(y, self.support), self.outside(y)


class HLGaussHead(CategoricalHead):
    """A target is a normal distribution around it, on bins (Farebrother et al. 2024, arXiv 2403.03950).

    Args:
        inputs: features per row, F.
        actions: A.
        edges: [m + 1] of the bins.
        sigma: standard deviation of the normal distribution, in units of value.
        limits: as in :class:`CategoricalHead`.
        dueling: as there.
    """

    edges: Tensor

    def __init__(
        self, inputs: int, actions: int, edges: Tensor, sigma: float, *,
        limits: tuple[float, float] | None = None, dueling: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(inputs, actions, bin_centers(edges), limits=limits, dueling=dueling)
        self.register_buffer("edges", edges, persistent=False)
        self.sigma = sigma

    def target(
        self, returns: Tensor, discounts: Tensor, next_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Head`: distributions [B, m]."""
        y = returns + discounts * self.values(next_outputs)
        return hl_gauss_probs(y, self.edges, self.sigma, clamp=True), self.outside(y)


class SoftmaxMeanHead(CategoricalHead):
    """The same network with a squared loss on its mean: what is left of a gain is not the loss's.

    (The ablation of Farebrother et al. 2024, arXiv 2403.03950, section 5.1.)
    """

    def target(
        self, returns: Tensor, discounts: Tensor, next_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Head`: values y [B]."""
        y = returns + discounts * self.values(next_outputs)
        return y, self.outside(y)

    def loss(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """Return (q - y)^2 [...]."""
        return F.mse_loss(self.values(q_taken), target, reduction="none")

    def slopes(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """See :class:`Head`: 2 (q - y) p (z - q), with q the mean of p."""
        return self.values_pulled(q_taken, 2.0 * (self.values(q_taken) - target))

    def decoded(self, target: Tensor) -> Tensor:
        """Return the targets [B]: they are values."""
        return target

    def metrics(self, losses: Tensor, q_taken: Tensor, target: Tensor) -> dict[str, Tensor]:
        """See :class:`Head`: there is no divergence."""
        return Head.metrics(self, losses, q_taken, target)


class QuantileHead(Head):
    """The (i + 1/2) / m quantiles of the return per action (Dabney et al. 2018, arXiv 1710.10044).

    They all start at 0, whatever the features, as with :class:`CategoricalHead`.

    Args:
        inputs: features per row, F.
        actions: A.
        quantiles: m.
        kappa: where the quantile Huber loss becomes linear.
        dueling: a row of quantiles for the state and A of advantages, see :class:`Head`.
    """

    def __init__(
        self, inputs: int, actions: int, quantiles: int, kappa: float = 1.0, *, dueling: bool = False
    ) -> None:
        super().__init__(inputs, actions, quantiles, dueling=dueling)
        self.kappa = kappa
        self._start_at()

    def values(self, outputs: Tensor) -> Tensor:
        """Return the means [...] of the quantiles [..., m]."""
        return outputs.mean(-1, dtype=torch.promote_types(outputs.dtype, torch.float32))

    def values_pulled(self, outputs: Tensor, of_values: Tensor) -> Tensor:
        """See :class:`Head`."""
        return (of_values / self.places)[..., None].expand_as(outputs)

    def target(
        self, returns: Tensor, discounts: Tensor, next_outputs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`Head`: samples [B, m]."""
        return returns[..., None] + discounts[..., None] * next_outputs, None

    def decoded(self, target: Tensor) -> Tensor:
        """Return the means [B] of samples [B, m]."""
        return self.values(target)

    def loss(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """Return the quantile Huber losses [...] of quantiles to samples, both [..., m]."""
        return quantile_huber_loss(q_taken, target, kappa=self.kappa)

    def slopes(self, q_taken: Tensor, target: Tensor) -> Tensor:
        """See :class:`Head`."""
        return quantile_huber_slopes(q_taken, target, kappa=self.kappa)


def gather_actions(outputs: Tensor, actions: Tensor) -> Tensor:
    """Return what outputs [..., A] or [..., A, m] hold for actions [...]: [...] or [..., m]."""
    if outputs.ndim == actions.ndim + 1:
        return outputs.gather(-1, actions[..., None])[..., 0]
    index = actions[..., None, None].expand(*actions.shape, 1, outputs.shape[-1])
    return outputs.gather(-2, index)[..., 0, :]


def scatter_actions(taken: Tensor, actions: Tensor, num_actions: int) -> Tensor:
    """Return [..., A] or [..., A, m] with ``taken``, [...] or [..., m], at actions [...], and 0 elsewhere."""
    if taken.ndim == actions.ndim:
        return taken.new_zeros(*taken.shape, num_actions).scatter_(-1, actions[..., None], taken[..., None])
    index = actions[..., None, None].expand(*actions.shape, 1, taken.shape[-1])
    spread = taken.new_zeros(*actions.shape, num_actions, taken.shape[-1])
    return spread.scatter_(-2, index, taken[..., None, :])
