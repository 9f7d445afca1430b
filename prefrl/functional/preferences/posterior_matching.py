"""Some outputs to one prompt, and the posterior that a policy shall have over them: BRAIn.

Of a prior policy p (the reference) and the probability g(y) = p(G = 1 | y, x) that output y to prompt x is a
good one, Bayes' rule makes the policy of good outputs, p(y | x, G = 1), proportional to p(y | x) g(y). With
g(y) = exp(r(y) / temperature), up to a factor, the odds that y is preferred to y' are g(y) / g(y'), as
Bradley and Terry have them, and the posterior is the optimum of E r - temperature KL(policy, p).

Of outputs y_1 ... y_n drawn from a proposal q',

    alpha_i ~ p(y_i) g(y_i) / q'(y_i),        beta_i ~ pi(y_i) / q'(y_i),        both sum to 1 over the n,
    loss = KL(alpha, beta) = sum_i alpha_i log(alpha_i / beta_i),
    d loss / d log pi(y_i) = -(alpha_i - beta_i).

beta is the self-normalised baseline: where pi is proportional to the posterior on the sample, nothing moves,
whatever was drawn. Without it the loss is the likelihood weighted by alpha, -sum_i alpha_i log pi(y_i).

Source: Pandey et al. 2024, "BRAIn: Bayesian reward-conditioned amortized inference for natural language
generation from feedback" (arXiv 2402.02479), by reviews of it and from memory: numbers of equations are not
known to us.
"""

from __future__ import annotations

import torch
from torch import Tensor


def posterior_weights(
    log_prior: Tensor, log_goodness: Tensor, log_proposal: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return alpha [..., n], the posterior's weights of the outputs, 0 for those that are not there.

    Args:
        log_prior: [..., n] log p(y_i | x).
        log_goodness: [..., n] log p(G = 1 | y_i, x), up to a number that all n share; minus infinity for an
            output that is never good.
        log_proposal: [..., n] log q'(y_i | x), up to such a number.
        mask: [..., n] bool, which outputs there are, one at least; None: all.
    """
    return _log_weights(log_prior + log_goodness - log_proposal, mask).exp()


def policy_weights(log_policy: Tensor, log_proposal: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return beta [..., n], the policy's weights of the outputs; arguments as of :func:`posterior_kl`."""
    return _log_weights(log_policy - log_proposal, mask).exp()


def posterior_kl(
    log_policy: Tensor, log_prior: Tensor, log_goodness: Tensor, log_proposal: Tensor,
    mask: Tensor | None = None, *, baseline: bool = True,
) -> Tensor:  # fmt: skip
    """Return KL(alpha, beta) [...], in nats.

    Args:
        log_policy: [..., n] log pi(y_i | x).
        log_prior: [..., n]; see :func:`posterior_weights`, also for what follows.
        log_goodness: [..., n].
        log_proposal: [..., n].
        mask: [..., n] bool.
        baseline: False for -sum_i alpha_i log pi(y_i) in its place.
    """
    log_alpha = _log_weights(log_prior + log_goodness - log_proposal, mask)
    if not baseline:
        return -(log_alpha.exp() * torch.where(log_alpha.isneginf(), 0.0, log_policy)).sum(-1)
    leads = log_alpha - _log_weights(log_policy - log_proposal, mask)
    return (log_alpha.exp() * torch.where(log_alpha.isneginf(), 0.0, leads)).sum(-1)


def posterior_slopes(
    log_policy: Tensor, log_prior: Tensor, log_goodness: Tensor, log_proposal: Tensor,
    mask: Tensor | None = None, *, baseline: bool = True,
) -> Tensor:  # fmt: skip
    """Return the derivative of :func:`posterior_kl` by each log pi(y_i) [..., n]; the same arguments."""
    alpha = posterior_weights(log_prior, log_goodness, log_proposal, mask)
    return policy_weights(log_policy, log_proposal, mask) - alpha if baseline else -alpha


def _log_weights(logits: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        logits = torch.where(mask, logits, -torch.inf)
    return torch.log_softmax(logits, -1)
