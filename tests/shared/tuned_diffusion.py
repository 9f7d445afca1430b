"""Small diffusion policies that are tuned, with what they are tuned by."""

from typing import Any

import gymnasium as gym
import torch

import prefrl.envs
from prefrl.agents import DiffusionDPO, DiffusionDRO, DiffusionPolicy, DiffusionPolicyConfig
from prefrl.agents.preferences.diffusion.tuning import TunedDiffusionPolicy
from prefrl.run.collect import collect_mixture, compare_mixtures

assert prefrl.envs.REGISTRY
SMALL: dict[str, Any] = {"hidden": (16, 16), "batch_size": 32, "noise_steps": 10, "sampling_steps": 4}
RING = gym.make("prefrl/Ring-v0")
OBS = torch.tensor([[1.0, 0.0]]).expand(50, 2)


def clone_of(steps: int = 20, **settings: Any) -> DiffusionPolicy:
    config = DiffusionPolicyConfig(**{**SMALL, **settings})
    return DiffusionPolicy(RING, config, dataset=collect_mixture(RING, 500), device="cpu").learn(steps)


def tuned_of(kind: type[TunedDiffusionPolicy], seed: int = 0, **settings: Any) -> Any:
    """An agent with its data, cloned in ten steps."""
    given: dict[str, Any] = {"dataset": collect_mixture(RING, 500)}
    if kind is DiffusionDRO:
        given["demonstrations"] = collect_mixture(RING, 100, mixture="expert")
        settings = {"averaged": 8, "refresh_steps": 4, **settings}
    if kind is DiffusionDPO:
        given["preferences"] = compare_mixtures(RING, 100)
    config = kind.config_class(**{**SMALL, "cloning_steps": 10, **settings})
    return kind(RING, config, **given, device="cpu", seed=seed)
