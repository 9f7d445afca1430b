"""Soft Bellman equations: what maximises E R - beta KL(policy | reference), and residuals that are 0 there.

The soft optimum is

    V(s) = beta log sum_a pi_ref(a | s) exp(Q(s, a) / beta),    Q(s, a) = r + E V(s'),
    pi(a | s) = pi_ref(a | s) exp((Q(s, a) - V(s)) / beta),

with V = 0 after the end. So beta log pi / pi_ref = r + E V(s') - V(s): where transitions are deterministic
this telescopes along every path, whoever took it,

    V(s_t) = sum_{i >= t} [r_i - beta log pi(a_i | s_i) / pi_ref(a_i | s_i)] + V(s_T),

which OREO (Wang et al. 2024, arXiv 2412.16145) turns into losses.
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_backup(q: Tensor, log_reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return soft values and the policy that reaches them.

    Args:
        q: [..., A] what actions are worth.
        log_reference: [..., A] log pi_ref(a | s); minus infinity for what it never does.
        beta: price of a nat of divergence, above 0.

    Returns:
        V [...] and log pi(a | s) [..., A].
    """
    scores = log_reference + q / beta
    total = torch.logsumexp(scores, -1)
    return beta * total, scores - total[..., None]


def soft_value_iteration(
    successors: Tensor, probabilities: Tensor, rewards: Tensor, terminal: Tensor, log_reference: Tensor,
    beta: float, *, tolerance: float = 1e-12, max_sweeps: int = 100_000,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the soft optimum of a finite MDP, undiscounted, by sweeping the soft Bellman operator from 0.

    A tree has settled after as many sweeps as it is deep. Elsewhere it settles where going round in circles
    costs something.

    Args:
        successors: [S, A, K] int64 next states.
        probabilities: [S, A, K] of them.
        rewards: [S, A] expected rewards.
        terminal: [S] bool, states after the end, whose value is 0.
        log_reference: [S, A] log pi_ref(a | s).
        beta: price of a nat of divergence, above 0.
        tolerance: largest change of a value in the last sweep, relative to the largest value or 1.
        max_sweeps: give up after this many.

    Returns:
        V [S], and log pi [S, A], which in terminal states is the reference's.

    Raises:
        ValueError: if ``beta`` is not above 0.
        RuntimeError: if values have not settled by then (a circle that pays).
    """
    if not 0.0 < beta < float("inf"):
        raise ValueError(f"beta is {beta}; it must be finite and above 0")
    values = rewards.new_zeros(len(rewards))
    for _ in range(max_sweeps):
        q = (rewards + (probabilities * values[successors]).sum(-1)).masked_fill(terminal[:, None], 0.0)
        new, log_policy = soft_backup(q, log_reference, beta)
        new = new.masked_fill(terminal, 0.0)
        change, values = (new - values).abs().max(), new
        if not bool(change > tolerance * values.abs().max().clamp(min=1.0)):
            return values, torch.where(terminal[:, None], log_reference, log_policy)
    raise RuntimeError(f"soft values did not settle in {max_sweeps} sweeps (change {float(change):.3g}); "
                       "is there a circle that pays?")  # fmt: skip


def to_go(amounts: Tensor) -> Tensor:
    """Return the sums [..., L] of amounts [..., L] from each step to the last one."""
    return amounts.flip(-1).cumsum(-1).flip(-1)


def value_residuals(values: Tensor, returns: Tensor, log_ratios: Tensor, beta: float) -> Tensor:
    """Return V(s_t) - R_t + beta sum_{i >= t} log-ratio_i [..., L]: OREO's loss of values is their square.

    Args:
        values: [..., L] V(s_t).
        returns: [..., L] R_t, rewards from step t on, and the value of where the path is cut.
        log_ratios: [..., L] log pi / pi_ref of the actions taken, 0 after the end; no gradient reaches them.
        beta: price of a nat of divergence.
    """
    return values - returns + beta * to_go(log_ratios.detach())


def policy_residuals(
    values: Tensor, returns: Tensor, log_ratios: Tensor, beta: float, chunk: int | None = 1
) -> Tensor:
    """Return the same numbers, for the loss of the policy: only the steps of one chunk have a gradient.

    V(s_t) and the log-ratios after the chunk of steps t, ..., t + chunk - 1 are taken as they are.

    Args:
        values: [..., L] V(s_t); no gradient reaches them.
        returns: [..., L] as in :func:`value_residuals`.
        log_ratios: [..., L] log pi / pi_ref of the actions taken, 0 after the end.
        beta: price of a nat of divergence.
        chunk: steps that are learned about together: 1, OREO's own form; several, a step of reasoning;
            None: all that follow.
    """
    summed = to_go(log_ratios)
    length = summed.shape[-1]
    later = torch.zeros_like(summed)
    if chunk is not None and chunk < length:
        later = torch.cat([summed[..., chunk:], later[..., :chunk]], -1)
    own = summed - later
    return values.detach() - returns + beta * (own + later.detach())


def one_step_residuals(
    values: Tensor, rewards: Tensor, next_values: Tensor, log_ratios: Tensor, beta: float
) -> Tensor:
    """Return V(s_t) - r_t - V(s_{t+1}) + beta log-ratio_t [...]; its mean over s_{t+1} is 0 at the optimum.

    Args:
        values: [...] V(s_t).
        rewards: [...] r_t.
        next_values: [...] V(s_{t+1}), 0 after the end.
        log_ratios: [...] log pi / pi_ref of the actions taken.
        beta: price of a nat of divergence.
    """
    return values - rewards - next_values + beta * log_ratios
