"""E1: how good a model of a real environment is, after one fit to 5,000 random steps."""

import warnings
from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from prefrl.agents import MBPO
from prefrl.agents.actor_critic.mbpo_config import mbpo_preset
from prefrl.run.loop import learn

STEPS, FRESH = 5_000, 1_000


def fitted(env_id: str, **settings: Any) -> tuple[MBPO, dict[str, Tensor]]:
    """An agent whose model was fitted once to random steps, and steps that it has not seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gym.make(env_id)
    config = replace(mbpo_preset(env_id, "cpu"), learning_starts=STEPS + FRESH + 1, **settings)
    agent = MBPO(env, config, device="cpu", seed=0)
    learn(agent, STEPS + FRESH)
    assert agent.replay is not None
    rows = agent._rows()
    for name, values in agent.replay.storage.items():  # the first steps are fitted, the last ones are not
        agent.replay.storage[name] = values[:STEPS]
    agent.replay.added = agent.replay.steps = STEPS
    agent.fit_model()
    return agent, {name: values[STEPS:] for name, values in rows.items()}


def explained(agent: MBPO, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """R^2 of the ensemble's mean by entry, its squared error, and each network's, standardised."""
    with torch.no_grad():
        means, _ = agent.model.elite.predict(torch.cat([rows["obs"], rows["actions"]], 1))
    change = rows["next_obs"] - rows["obs"]
    errors = (means[..., 1:] - change) / change.std(0)
    mean_error = (means.mean(0)[:, 1:] - change) / change.std(0)
    return 1.0 - mean_error.square().mean(0), mean_error.square().mean(), errors.square().mean((1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"ensemble_size": 1, "probabilistic": False}], ids=["7", "1"])
def test_of_a_pendulum_every_entry_is_explained(settings: dict[str, Any]) -> None:
    agent, rows = fitted("Pendulum-v1", **settings)
    shares, mean_error, errors = explained(agent, rows)
    assert shares.min() >= 0.99
    assert mean_error <= errors.mean() + 1e-9


@pytest.mark.slow
def test_of_a_hopper_most_entries_are_explained() -> None:
    agent, rows = fitted("Hopper-v5")
    shares, mean_error, errors = explained(agent, rows)
    assert shares.median() >= 0.9
    assert mean_error <= errors.mean()
