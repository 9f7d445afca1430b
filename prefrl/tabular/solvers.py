"""Exact solvers for batches of finite MDPs: value iteration, policy iteration, policy evaluation.

Rewards and policies carry any leading batch axes before the M MDPs: ``[..., M, S, A]``. Everything runs in
float64 on the MDP's device.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .mdp import TabularMDP

CHECK_EVERY = 16
"""Sweeps between two looks at the residual: each look waits for the device."""

SHRINK_BELOW = 0.75
"""Settled problems leave a batch when fewer than this share of its states is still moving."""

MAX_SOLVE_ELEMENTS = 2**25
"""Elements of the dense systems solved at once (256 MiB); larger batches go in pieces."""


def check_gamma(gamma: float) -> None:
    """Raise ValueError unless 0 <= gamma <= 1."""
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma is {gamma}; it must lie in [0, 1]")


def check_table(name: str, table: Tensor, mdp: TabularMDP) -> None:
    """Raise ValueError unless a table is float64 [..., M, S, A] and finite."""
    expected = (mdp.num_mdps, mdp.num_states, mdp.num_actions)
    if tuple(table.shape[-3:]) != expected:
        raise ValueError(
            f"{name} has shape {tuple(table.shape)}; it must end in [M, S, A] = {list(expected)}"
        )
    if table.dtype != torch.float64:
        raise ValueError(f"{name} has dtype {table.dtype}; it must be torch.float64")
    # A sum is a single pass, and finite only if every entry is; the entries are looked at when it overflows.
    if not bool(torch.isfinite(table.sum())) and not bool(torch.isfinite(table).all()):
        raise ValueError(f"{name} holds NaN or infinity")


def check_policy(policy: Tensor, mdp: TabularMDP) -> None:
    """Raise ValueError unless a policy is a table of probabilities wherever an episode goes on."""
    check_table("policy", policy, mdp)
    wrong = (policy < 0.0).any(-1) | ((policy.sum(-1) - 1.0).abs() > 1e-9)
    if bool((wrong & ~mdp.terminal).any()):
        raise ValueError("policy must hold probabilities: not negative, and summing to 1 in every state")


def action_values(mdp: TabularMDP, values: Tensor, rewards: Tensor, gamma: float) -> Tensor:
    """Return Q(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) V(s').

    Args:
        mdp: the MDPs.
        values: [..., M, S].
        rewards: [..., M, S, A] expected rewards.
        gamma: discount.

    Returns:
        [..., M, S, A]; 0 in terminal states.
    """
    next_values = expected_next(mdp, values.masked_fill(mdp.terminal, 0.0)[..., None])[..., 0]
    return (rewards + gamma * next_values).masked_fill(mdp.terminal[..., None], 0.0)


def expected_next(mdp: TabularMDP, table: Tensor) -> Tensor:
    """Return the mean of a table [..., M, S, C] at the next state, [..., M, S, A, C]."""
    m, s, a, k = mdp.successors.shape
    index = mdp.successors.reshape(m, s * a * k, 1).expand(*table.shape[:-2], s * a * k, table.shape[-1])
    next_values = torch.gather(table, -2, index).reshape(*table.shape[:-2], s, a, k, table.shape[-1])
    return (mdp.probabilities[..., None] * next_values).sum(-2)


def value_iteration(
    mdp: TabularMDP, rewards: Tensor, gamma: float, *, tolerance: float = 1e-10, max_sweeps: int = 200_000
) -> Tensor:
    """Return V* by sweeping V <- max_a [r + gamma P V] from 0.

    All problems are swept as one: their non-terminal states are laid end to end, so padding costs nothing,
    and problems that have settled drop out. A problem has settled when a sweep changes it by at most
    ``tolerance * (1 - gamma)``, which bounds the error by ``tolerance`` (or by a few units in the last place
    of its largest value over ``1 - gamma``, where that is more); at gamma 1 the change itself is held against
    ``tolerance``.

    Args:
        mdp: the MDPs.
        rewards: [..., M, S, A] expected rewards.
        gamma: discount in [0, 1].
        tolerance: bound on the error of V.
        max_sweeps: give up after this many.

    Returns:
        [..., M, S].

    Raises:
        ValueError: for a bad argument.
        RuntimeError: if some problem has not settled by then (at gamma 1: a cycle that pays).
    """
    check_gamma(gamma)
    check_table("rewards", rewards, mdp)
    flat = rewards.detach().reshape(-1, *rewards.shape[-2:])
    problems = flat.shape[0]
    owner, gather, probabilities, reward = _lay_end_to_end(mdp, flat, problems)
    home = torch.arange(owner.shape[0], device=flat.device)  # where a state's value belongs in the result
    result = flat.new_zeros(owner.shape[0])
    value = flat.new_zeros(owner.shape[0] + 1)  # the last place: after the end
    bound = tolerance * (1.0 - gamma) if gamma < 1.0 else tolerance
    ulp = 4.0 * torch.finfo(flat.dtype).eps
    work = value.new_empty(gather.numel())
    for sweep in range(1, max_sweeps + 1):
        # In place: a fresh table of this size each sweep would cost more than the arithmetic.
        next_values = torch.index_select(value, 0, gather.view(-1), out=work).view(gather.shape)
        if probabilities is not None:
            next_values = next_values.mul_(probabilities).sum(0)
        new = torch.add(reward, next_values, alpha=gamma, out=next_values).amax(0)
        if sweep % CHECK_EVERY and sweep < max_sweeps:
            value[:-1] = new
            continue
        change = (new - value[:-1]).abs()
        value[:-1] = new
        zeros = value.new_zeros(problems)
        residual = zeros.scatter_reduce(0, owner, change, "amax")
        scale = zeros.scatter_reduce(0, owner, new.abs(), "amax")
        active = (residual > torch.clamp(ulp * scale, min=bound))[owner]
        remaining = int(active.sum())
        if remaining == 0:
            return _unlay(mdp, result.index_copy_(0, home, new), problems).reshape(rewards.shape[:-1])
        if remaining < SHRINK_BELOW * active.shape[0]:
            result.index_copy_(0, home, new)
            keep = active.nonzero()[:, 0]
            place = torch.full_like(value, remaining, dtype=torch.int32)
            place[keep] = torch.arange(remaining, dtype=torch.int32, device=place.device)
            gather = place[gather.index_select(-1, keep)]  # a problem's states lead to its own states only
            home, owner, reward = home[keep], owner[keep], reward.index_select(-1, keep)
            probabilities = None if probabilities is None else probabilities.index_select(-1, keep)
            value = torch.cat([new[keep], value[-1:]])
            work = work[: gather.numel()]
    raise RuntimeError(
        f"value iteration did not settle in {max_sweeps} sweeps at gamma {gamma}; lower gamma, or use "
        "policy_iteration, which does not slow down as gamma approaches 1"
    )


def _lay_end_to_end(
    mdp: TabularMDP, rewards: Tensor, problems: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return owner [T], gather [A, T] or [K, A, T], probabilities or None, rewards [A, T] of live states."""
    (m, s, a, k), device = mdp.successors.shape, mdp.device
    live = (~mdp.terminal).repeat(problems // m, 1).view(-1).nonzero()[:, 0]  # places in [problems * S]
    size = live.shape[0]
    place = torch.full((problems * s,), size, dtype=torch.int32, device=device)
    place[live] = torch.arange(size, dtype=torch.int32, device=device)
    owner, row = live // s, live % (m * s)
    target = mdp.successors.reshape(m * s, a * k).index_select(0, row) + (owner * s)[:, None]
    gather = place.index_select(0, target.view(-1)).view(size, a, k)
    reward = rewards.reshape(problems * s, a).index_select(0, live).T.contiguous()
    if k == 1:
        return owner, gather[..., 0].T.contiguous(), None, reward
    probabilities = mdp.probabilities.reshape(m * s, a, k).index_select(0, row).permute(2, 1, 0).contiguous()
    return owner, gather.permute(2, 1, 0).contiguous(), probabilities, reward


def _unlay(mdp: TabularMDP, value: Tensor, problems: int) -> Tensor:
    live = (~mdp.terminal).repeat(problems // mdp.num_mdps, 1)
    table = torch.zeros(live.shape, dtype=value.dtype, device=value.device)
    table[live] = value
    return table


def policy_transition(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """Return P_pi [..., M, S, S] of policies [..., M, S, A]; rows of terminal states are 0."""
    m, s, a, k = mdp.successors.shape
    weight = policy[..., None] * mdp.probabilities * ~mdp.terminal[..., None, None]
    index = mdp.successors.reshape(m, s, a * k).expand(*policy.shape[:-1], a * k)
    matrix = torch.zeros(*policy.shape[:-1], s, dtype=policy.dtype, device=policy.device)
    return matrix.scatter_add_(-1, index, weight.reshape(*policy.shape[:-1], a * k))


def discounted_sum(mdp: TabularMDP, policy: Tensor, amounts: Tensor, gamma: float) -> Tensor:
    """Return E_pi[ sum_k gamma^k amount(s_k, a_k) | s_0 = s ], by a linear solve per policy.

    Args:
        mdp: the MDPs.
        policy: [..., M, S, A] action probabilities.
        amounts: [..., M, S, A, C] what a pair pays, in C currencies; leading axes broadcast to the policy's.
        gamma: discount.

    Returns:
        [..., M, S, C].

    Raises:
        ValueError: at gamma 1, if some policy never ends from some state.
    """
    once = (policy[..., None] * amounts).sum(-2) * ~mdp.terminal[..., None]  # [..., M, S, C]
    s, rows = mdp.num_states, once[..., 0, 0].numel()
    policies = policy.expand(*once.shape[:-1], mdp.num_actions).reshape(rows, s, -1)
    right = once.reshape(rows, s, -1)
    solved = torch.empty_like(right)
    identity = torch.eye(s, dtype=policy.dtype, device=policy.device)
    pieces = max(1, math.ceil(rows * s * s / MAX_SOLVE_ELEMENTS))
    for index in torch.arange(rows, device=mdp.device).chunk(pieces):
        part = mdp.select(index % mdp.num_mdps)
        transition = policy_transition(part, policies[index])
        # At gamma 1 the system of a policy that never ends is singular, but rounding may hide that.
        exists = gamma < 1.0 or bool(_ends(part, transition).all())
        solution, failed = torch.linalg.solve_ex(identity - gamma * transition, right[index])
        if not exists or bool(failed.any()) or not bool(torch.isfinite(solution).all()):
            raise ValueError(
                f"a policy never ends from some state, so its sum at gamma {gamma} does not exist"
            )
        solved[index] = solution
    return solved.reshape(once.shape)


def _ends(mdp: TabularMDP, transition: Tensor) -> Tensor:
    """Return the states [..., M, S] from which P_pi [..., M, S, S] can reach a terminal one."""
    reached = mdp.terminal.expand(transition.shape[:-1])
    while True:
        further = reached | ((transition @ reached.to(transition.dtype)[..., None])[..., 0] > 0.0)
        if torch.equal(further, reached):
            return reached
        reached = further


def policy_evaluation(
    mdp: TabularMDP,
    policy: Tensor,
    rewards: Tensor,
    gamma: float,
    *,
    method: Literal["solve", "iterate"] = "solve",
    tolerance: float = 1e-10,
    max_sweeps: int = 200_000,
) -> Tensor:
    """Return V_pi [..., M, S] of policies [..., M, S, A] under expected rewards [..., M, S, A].

    Args:
        mdp: the MDPs.
        policy: action probabilities.
        rewards: expected rewards; leading axes broadcast against the policy's.
        gamma: discount in [0, 1].
        method: "solve" solves (I - gamma P_pi) V = r_pi; "iterate" sweeps V <- r_pi + gamma P_pi V with
            the dense matrix P_pi until the change is at most ``tolerance * (1 - gamma)``.
        tolerance: bound on the error of V ("iterate").
        max_sweeps: give up after this many ("iterate").

    Raises:
        ValueError: for a bad argument; at gamma 1, if some policy never ends ("solve").
        RuntimeError: if the sweeps have not settled by then ("iterate").
    """
    check_gamma(gamma)
    check_table("rewards", rewards, mdp)
    check_policy(policy, mdp)
    if method == "solve":
        return discounted_sum(mdp, policy, rewards[..., None], gamma)[..., 0]
    if method != "iterate":
        raise ValueError(f"method is {method!r}; it must be 'solve' or 'iterate'")
    once = ((policy * rewards).sum(-1) * ~mdp.terminal)[..., None]
    transition = gamma * policy_transition(mdp, policy)
    bound = tolerance * (1.0 - gamma) if gamma < 1.0 else tolerance
    value = torch.zeros_like(once)
    for sweep in range(1, max_sweeps + 1):
        new = once + transition @ value
        if sweep % CHECK_EVERY == 0 or sweep == max_sweeps:
            floor = 4.0 * torch.finfo(new.dtype).eps * float(new.abs().max())
            if float((new - value).abs().max()) <= max(bound, floor):
                return new[..., 0]
        value = new
    raise RuntimeError(f"policy evaluation did not settle in {max_sweeps} sweeps at gamma {gamma}")


def policy_iteration(
    mdp: TabularMDP, rewards: Tensor, gamma: float, *, max_iterations: int = 1_000
) -> Tensor:
    """Return V* [..., M, S] by Howard's policy iteration with exact evaluation.

    A handful of linear solves whatever gamma < 1 is: for rewards with cycles that pay, where value iteration
    needs on the order of 1 / (1 - gamma) sweeps per digit.

    Args:
        mdp: the MDPs.
        rewards: [..., M, S, A] expected rewards.
        gamma: discount in [0, 1).
        max_iterations: give up after this many.

    Raises:
        ValueError: for a bad argument.
        RuntimeError: if some problem has not settled by then.
    """
    check_gamma(gamma)
    if gamma == 1.0:
        raise ValueError("gamma is 1; policy_iteration needs gamma < 1, value_iteration takes 1")
    check_table("rewards", rewards, mdp)
    flat = rewards.reshape(-1, *rewards.shape[-3:])
    repeated = mdp.select(torch.arange(mdp.num_mdps, device=mdp.device).repeat(flat.shape[0]))
    problem_rewards = flat.reshape(-1, *rewards.shape[-2:])
    result = problem_rewards.new_zeros(problem_rewards.shape[:-1])
    rows = torch.arange(problem_rewards.shape[0], device=mdp.device)
    actions = problem_rewards.argmax(-1)
    value = torch.full_like(result, -math.inf)
    for _ in range(max_iterations):
        part, reward = repeated.select(rows), problem_rewards[rows]
        policy = torch.nn.functional.one_hot(actions, mdp.num_actions).to(reward.dtype)
        new = discounted_sum(part, policy, reward[..., None], gamma)[..., 0]
        quality = action_values(part, new, reward, gamma)
        scale = new.abs().amax(-1, keepdim=True).clamp(min=1.0)
        best, choice = quality.max(-1)
        better = best > quality.gather(-1, actions[..., None])[..., 0] + 1e-13 * scale
        # A change below what the solve resolves would go on for ever between equal policies.
        moving = better.any(-1) & ((new - value) > 1e-11 * scale).any(-1)
        result[rows] = new
        if not bool(moving.any()):
            return result.reshape(rewards.shape[:-1])
        rows, value = rows[moving], new[moving]
        actions = torch.where(better, choice, actions)[moving]
    raise RuntimeError(f"policy iteration did not settle in {max_iterations} iterations at gamma {gamma}")


def greedy_policy(quality: Tensor, *, tolerance: float = 1e-9) -> Tensor:
    """Return the greedy policy [..., S, A] of action values, uniform among ties.

    Args:
        quality: [..., S, A] action values.
        tolerance: actions tie when they differ by at most this times max(1, largest magnitude in the table).
    """
    scale = quality.abs().amax((-2, -1), keepdim=True).clamp(min=1.0)
    best = quality >= quality.amax(-1, keepdim=True) - tolerance * scale
    chosen = best.to(quality.dtype)
    return chosen / chosen.sum(-1, keepdim=True)


def optimal_policy(mdp: TabularMDP, rewards: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Plan: return V* [..., M, S], Q* [..., M, S, A] and the greedy policy, uniform among ties."""
    value = policy_iteration(mdp, rewards, gamma)
    quality = action_values(mdp, value, rewards, gamma)
    return value, quality, greedy_policy(quality)


def mean_start_value(mdp: TabularMDP, values: Tensor) -> Tensor:
    """Return J [..., M]: the mean of values [..., M, S] over the start distribution."""
    return (mdp.start * values).sum(-1)


def scaled_return(mdp: TabularMDP, policy: Tensor, gamma: float = 0.999) -> Tensor:
    """Return (J(pi) - J(uniform)) / (J(pi*) - J(uniform)) [..., M] under the true reward.

    1 is optimal, 0 is as good as uniformly random actions; it has no lower bound (Knox et al. 2022, sec. 5).

    Args:
        mdp: the MDPs, with their true weights.
        policy: [..., M, S, A].
        gamma: discount (the default is the published studies', whatever an agent learns or plans with).
    """
    rewards = mdp.linear_rewards(mdp.weights)
    uniform = torch.full_like(rewards, 1.0 / mdp.num_actions)
    best = mean_start_value(mdp, policy_iteration(mdp, rewards, gamma))
    worst = mean_start_value(mdp, policy_evaluation(mdp, uniform, rewards, gamma))
    reached = mean_start_value(mdp, policy_evaluation(mdp, policy, rewards, gamma))
    return (reached - worst) / (best - worst)
