"""What agents that learn offline say of single steps."""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def step_log_probs(agent: Any, obs: Tensor, actions: Tensor) -> Tensor:
    """Return log pi(a | s) [n]."""
    found: Tensor = agent.policy.log_prob(obs[None], actions[None])[0]
    return found
