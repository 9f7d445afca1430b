"""What an agent made of choices, exactly."""

from __future__ import annotations

from typing import Any

import torch

from prefrl.agents.choice.dynamic_choice import DynamicChoice


def choice_outcome(agent: DynamicChoice, env: Any) -> dict[str, Any]:
    """Return what the policy and the people's fall short of the best value, and the error of the reward.

    All are None in an environment that does not know its rewards; means are over starts, and over all steps,
    states and actions.
    """
    task = getattr(env, "unwrapped", env)
    names = ("suboptimality", "behaviour_suboptimality", "reward_rmse")
    if not (hasattr(task, "optimal_value") and hasattr(task, "rewards") and hasattr(task, "behaviour")):
        return dict.fromkeys(names)
    best = float(task.optimal_value().mean())
    error = agent.rewards.cpu() - torch.as_tensor(task.rewards())
    found = (best - float(task.true_value(agent.policy.cpu()).mean()),
             best - float(task.true_value(task.behaviour()).mean()),
             float(error.square().mean().sqrt()))  # fmt: skip
    return dict(zip(names, found, strict=True))
