"""What studies of models share that fix a policy and transitions, and look at what models make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.data import seeded_generator
from prefrl.data.replay import ReplayBuffer
from prefrl.reading.errors import taking_over
from prefrl.run.folder import RunFolder


def take_over(
    agent: MBPO, source: Path, *, transitions: int, held_out: int, seed: int, critics: bool
) -> dict[str, Tensor]:
    """Give an MBPO agent the policy of a run of SAC, and some of its transitions, drawn at random.

    Args:
        agent: who takes over; its networks of actor and critics are of the run's sizes.
        source: the run's folder.
        transitions: how many are learned from.
        held_out: how many others are returned.
        seed: seeds the draw.
        critics: take over the critics too; else they stay as they are.

    Returns:
        The transitions held out, [held_out, ...] by name.

    Raises:
        ValueError: if the run has too few transitions, or no checkpoint.
    """
    checkpoint = RunFolder.open(source, quiet=True).load_checkpoint()
    if checkpoint is None:
        raise ValueError(f"{source} holds no checkpoint")
    with taking_over(source, "run of SAC with a replay"):
        state: Mapping[str, Any] = checkpoint["agent"]
        stored = {name: values.flatten(0, 1) for name, values in state["replay"]["storage"].items()}
    order = torch.randperm(len(stored["rewards"]), generator=seeded_generator(seed, "split"))
    if len(order) < transitions + held_out:
        raise ValueError(f"{source} holds {len(order)} transitions; {transitions + held_out} are needed")
    chosen, held = order[:transitions], order[transitions:][:held_out]
    agent.replay = ReplayBuffer(transitions, 1, gamma=agent.config.gamma)
    kept = {name: values[chosen][:, None] for name, values in stored.items()}
    agent.replay.load_state_dict({"added": transitions, "storage": kept}, agent.device)
    if critics:
        agent.networks.load_state_dict(state["policy"])
    else:
        agent.networks.actor.load_state_dict(state["policy"]["actor"])
        with torch.no_grad():
            agent.networks.log_temperature.copy_(state["policy"]["log_temperature"])
    agent.num_timesteps = int(checkpoint["num_timesteps"])
    fresh = type(agent.networks.moments)(agent.observations, agent.device)
    fresh.add(stored["obs"][chosen].to(agent.device), stored["mask"][chosen].to(agent.device))
    agent.networks.moments = fresh
    return {name: values[held].to(agent.device) for name, values in stored.items()}
