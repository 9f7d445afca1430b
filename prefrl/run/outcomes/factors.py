"""What a policy does to the factors of its environment."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import Transitions
from prefrl.envs.factors import Factors
from prefrl.run.stepping import Stepper


class _Recorder:
    """Stands where the loop has its agent: acts for it, and adds up factors of each row's first episode."""

    num_timesteps = 0

    def __init__(self, agent: Agent, env: Any, factors: Factors, seed: int) -> None:
        self.agent, self.env, self.factors, self.seed = agent, env, factors, seed
        self.device, self.info_keys = agent.device, factors.info_keys
        self.total: Tensor | None = None
        self.steps = 0.0
        self.going: Tensor | None = None

    def get_env(self) -> Any:
        return self.env

    def restarted(self) -> None:
        """Take note of a reset: there is one, before the first step."""

    def act(self, obs: Any) -> Tensor:
        return self.agent.act(obs, deterministic=True)

    def observe(self, transitions: Transitions) -> None:
        going = transitions.mask if self.going is None else self.going & transitions.mask
        values = torch.as_tensor(self.factors.compute(transitions)).to(torch.float64)
        summed = (values * going[:, None]).sum(0)
        self.total = summed if self.total is None else self.total + summed
        self.steps += float(going.sum())
        ended = transitions.terminations | transitions.truncations
        before = torch.ones_like(going) if self.going is None else self.going
        self.going = before & ~ended


def factor_means(agent: Agent, env: Any, factors: Factors, *, seed: int) -> dict[str, float]:
    """Return the mean of each factor per step of the deterministic policy, over one episode per row.

    Args:
        agent: the agent.
        env: a scalar, vector or on-device environment; it is seeded.
        factors: what to measure.
        seed: seeds the environment.
    """
    recorder = _Recorder(agent, env, factors, seed)
    stepper = Stepper(cast(Agent, recorder))
    stepper.reset()
    while recorder.going is None or bool(recorder.going.any()):
        stepper.step()
    assert recorder.total is not None
    return dict(zip(factors.names, (recorder.total / recorder.steps).tolist(), strict=True))
