"""How well a policy of dual prices did over a horizon, beside the best in hindsight."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prefrl.envs
from prefrl.agents.allocation.baselines import AllocationBaseline
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent
from prefrl.envs.allocation.dynamics import AllocationDynamics
from prefrl.envs.core.face import registered_dynamics
from prefrl.envs.core.vector import BatchedEnv

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AllocationOutcome:
    """What n replications of one horizon came to."""

    rewards: Floats
    """[n] rewards collected."""
    hindsight: Floats
    """[n] hindsight optima of the same requests."""
    spent: Floats
    """[n, m] what was consumed, as the policy counted it."""
    budget: Floats
    """[m] budgets."""
    depletion: NDArray[np.int64]
    """[n] requests before some budget was less than an answer may consume; T where none was."""
    price: Floats
    """[n, m] mean prices over the second half of the horizon."""

    @property
    def regret(self) -> Floats:
        """[n] hindsight optimum less reward."""
        return self.hindsight - self.rewards

    def summary(self) -> dict[str, Any]:
        """Return the entries of ``result.json``."""
        n = len(self.rewards)
        stderr = float(self.regret.std(ddof=1) / n**0.5) if n > 1 else None
        reward, hindsight = float(self.rewards.mean()), float(self.hindsight.mean())
        return {
            "reward_mean": reward,
            "hindsight_mean": hindsight,
            "regret_mean": float(self.regret.mean()),
            "regret_stderr": stderr,
            "competitive_ratio": hindsight / reward if reward > 0.0 else None,
            "final_dual": self.price.mean(0).tolist(),
            "smallest_share_spent": float((self.spent / self.budget).min(1).mean()),
            "overspend_max": float(np.maximum(self.spent - self.budget, 0.0).max()),
        }


def allocation_outcome(agent: DualMirrorDescent | AllocationBaseline, env: Any) -> AllocationOutcome:
    """Return what a policy came to that has just served one horizon in every row of a vector environment.

    Raises:
        ValueError: if it has served less or more than that since the environment was reset, as where rows
            restart early.
    """
    state, horizon = agent.streams.state, agent.pricing.allocation.horizon
    whole = bool((state["served"] == horizon).all()) and bool((agent.streams.horizons == 1).all())
    rows = isinstance(env.unwrapped, BatchedEnv) and isinstance(env.unwrapped.dynamics, AllocationDynamics)
    if not rows or not whole:
        raise ValueError(f"an outcome is that of one whole horizon, {horizon} requests, no more and no less, "
                         "in every row of a vector environment")  # fmt: skip
    return AllocationOutcome(
        rewards=state["rewards"].cpu().numpy(),
        hindsight=env.unwrapped.hindsight_optimum(),
        spent=state["spent"].cpu().numpy(),
        budget=env.unwrapped.budget,
        depletion=state["depletion"].cpu().numpy(),
        price=agent.streams.tail_price().cpu().numpy(),
    )


@dataclass(frozen=True)
class Slope:
    """Exponent of a power law."""

    value: float
    """Least squares over the logarithms."""
    interval: tuple[float, float] | None
    """Bootstrap interval, 95 %; None where it cannot be told."""


def regret_slope(horizons: Sequence[int], regrets: Sequence[Floats], *, seed: int = 0) -> Slope | None:
    """Return the exponent with which the mean regret grows with the horizon.

    Args:
        horizons: H horizons.
        regrets: H arrays of regrets, one per replication.
        seed: seeds the bootstrap, which draws replications anew for each horizon, 2,000 times.

    Returns:
        The slope; None where there are fewer than two horizons or a mean regret is not positive. Its interval
        is None where there is but one replication.
    """
    means = np.array([values.mean() for values in regrets])
    if len(horizons) < 2 or (means <= 0.0).any():
        return None
    logs = np.log(np.array(horizons, dtype=np.float64))
    slope = float(_slopes(logs, np.log(means)[None])[0])
    if min(len(values) for values in regrets) < 2:
        return Slope(slope, None)
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.choice(values, (2000, len(values))).mean(1) for values in regrets], axis=1)
    slopes = _slopes(logs, np.log(np.maximum(drawn, 1e-12)))
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Slope(slope, (float(low), float(high)))


def has_instances(env_id: str) -> bool:
    """Whether an environment of prefrl is one of many that are drawn from an ``instance_seed``."""
    env_id = prefrl.envs.bare_id(env_id)
    if env_id not in prefrl.envs.REGISTRY:
        return False
    return "instance_seed" in inspect.signature(registered_dynamics(env_id)).parameters


RESERVED = ("horizon", "stop_when_empty", "max_episode_steps", "autoreset_mode", "backend")
"""Arguments of environments that a study of whole horizons sets itself."""


def check_whole_horizons(env_args: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments of an environment that do not go with whole horizons."""
    for name in RESERVED:
        if name in env_args:
            hint = "it has a flag of its own" if name == "horizon" else "every horizon must be served whole"
            raise ValueError(f"env_args has {name}; {hint}")


def _slopes(x: Floats, y: Floats) -> Floats:
    """Return least-squares slopes of rows of y [b, H] over x [H]."""
    centred = x - x.mean()
    return np.asarray(y @ centred / (centred @ centred))
