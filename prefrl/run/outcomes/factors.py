"""What a policy does to the factors of its environment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prefrl.data import Transitions
from prefrl.envs.factors import Factors
from prefrl.run.evaluate import MAX_STEPS, check_limit, warn_of_cut
from prefrl.run.stepping import Listener, Policy, Stepper


class _Totals(Listener):
    """Adds up the factors of each row's first episode."""

    def __init__(self, factors: Factors, num_envs: int, device: torch.device) -> None:
        self.factors, self.info_keys = factors, factors.info_keys
        self.going = torch.ones(num_envs, dtype=torch.bool, device=device)
        self.total: Tensor | float = 0.0
        self.steps = 0.0

    def observe(self, transitions: Transitions) -> None:
        counted = self.going & transitions.mask
        values = torch.as_tensor(self.factors.compute(transitions)).to(torch.float64)
        self.total = self.total + (values * counted[:, None]).sum(0)
        self.steps += float(counted.sum())
        self.going = self.going & ~(transitions.terminations | transitions.truncations)


def factor_means(
    policy: Policy, env: Any, factors: Factors, *, seed: int, max_steps: int = MAX_STEPS
) -> dict[str, float]:
    """Return the mean of each factor per step of the deterministic policy, over one episode per row.

    Args:
        policy: an agent or other policy.
        env: a scalar, vector or on-device environment; it is seeded.
        factors: what to measure.
        seed: seeds the environment.
        max_steps: longest episode; one that is cut there counts up to then, and is warned of.

    Raises:
        ValueError: if ``max_steps`` is not positive.
    """
    check_limit(max_steps)
    totals = _Totals(factors, int(getattr(env, "num_envs", 1)), policy.device)
    stepper = Stepper(env, policy, totals, seed=seed, deterministic=True)
    stepper.reset()
    for _ in range(max_steps):
        stepper.step()
        if not totals.going.any():
            break
    else:
        warn_of_cut(env, max_steps)
    means = torch.as_tensor(totals.total) / totals.steps
    return dict(zip(factors.names, means.tolist(), strict=True))
