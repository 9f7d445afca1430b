"""How fast a diffusion policy samples and learns, beside the ordinary way, and beside the products alone.

Sampling: actions for 1,024 observations in 10 steps of DDIM. The ordinary way is a loop over the steps
that, in each of them, works out the time's features for every row, puts observation, features and sample
together, and calls the whole network, without gradients; the network is the same, and so is what comes out,
which is checked. Also without what our sampler alone leaves out: ``encoded_once`` has observations read
once and the time once for all rows, and loops over the rest in the ordinary way. ``floor`` is the products
of the trunk's square layers alone.

Learning: a gradient step of a batch of 1,024, 256 wide, beside its matrix products alone, forwards and
backwards, in random numbers of the same sizes; and beside the same step by autograd (with silu they are one).

One thread; all sides in turns; processor seconds, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from prefrl.agents.base import Spaces
from prefrl.cli import execute
from prefrl.data import TransitionDataset
from prefrl.functional.actor_critic.diffusion import ddim_step, predicted_clean, predicted_noise
from prefrl.nn.diffusion.denoiser import WAVES, Activation, Denoiser, time_waves
from prefrl.nn.diffusion.policy import GROUP, DenoisingPolicy
from prefrl.nn.mlp import ACTIVATIONS
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import spread

OBS, ACTIONS = 11, 3
"""Hopper's sizes."""


@dataclass(frozen=True)
class Bench:
    """How fast diffusion policies are."""

    out: Path = Path("runs/bench_diffusion")
    """Run folder, new or empty."""

    rows: int = 1_024
    """Actions that are sampled together, and batch of a gradient step."""

    width: int = 256
    """Width of all layers."""

    sampling_steps: int = 10
    """Steps of the sampler."""

    calls: int = 5
    """Samples, and gradient steps, of a turn."""

    repeats: int = 15
    """Turns."""

    def __post_init__(self) -> None:
        check_positive(self, "rows", "width", "sampling_steps", "calls", "repeats")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return ratios of processor seconds."""
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        result = {activation: self._measured(activation) for activation in get_args(Activation)}
        show(result)
        return result

    def _measured(self, activation: Activation) -> dict[str, Any]:
        agent = self._agent(activation)
        obs, noise = torch.randn(1, self.rows, OBS), torch.randn(1, self.rows, ACTIONS)
        policy = agent.policy
        for loop in (ordinary, encoded_once):
            torch.testing.assert_close(
                loop(policy, obs, noise), policy.sample(obs, noise), atol=1e-4, rtol=1e-3
            )
        square = torch.randn(1, self.width, self.width)
        hidden = torch.randn(1, self.rows, self.width)
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda: policy.sample(obs, noise),
            "ordinary": lambda: ordinary(policy, obs, noise),
            "encoded_once": lambda: encoded_once(policy, obs, noise),
            "floor": lambda: [torch.bmm(hidden, square) for _ in range(self.sampling_steps)],
            "step": agent.update,
            "step_by_autograd": lambda: by_autograd(agent),
            "step_floor": products(self.rows, self.width, math.gcd(self.rows, GROUP)),
        }
        rows = [{name: self._timed(side) for name, side in sides.items()} for _ in range(self.repeats)]
        ratios = {
            "ordinary_over_ours": ("ordinary", "ours"),
            "encoded_once_over_ours": ("encoded_once", "ours"),
            "ours_over_floor": ("ours", "floor"),
            "step_over_floor": ("step", "step_floor"),
            "autograd_over_step": ("step_by_autograd", "step"),
        }
        return {
            **{name: spread([row[a] / row[b] for row in rows]) for name, (a, b) in ratios.items()},
            **{f"{name}_ms": spread([1_000.0 * row[name] for row in rows]) for name in sides},
        }

    def _agent(self, activation: Activation) -> DiffusionPolicy:
        spaces = Spaces(gym.spaces.Box(-9.0, 9.0, (OBS,)), gym.spaces.Box(-1.0, 1.0, (ACTIONS,)))
        obs, no = torch.randn(self.rows + 1, OBS), torch.zeros(self.rows, dtype=torch.bool)
        data = TransitionDataset.from_transitions(
            obs[:-1], torch.rand(self.rows, ACTIONS), no.float(), obs[1:], no, no,
            observation_space=spaces.single_observation_space, action_space=spaces.single_action_space,
        )  # fmt: skip
        config = DiffusionPolicyConfig(hidden=(self.width, self.width), sampling_steps=self.sampling_steps,
                                       batch_size=self.rows, activation=activation)  # fmt: skip
        return DiffusionPolicy(spaces, config, dataset=data, device="cpu").learn(3)

    def _timed(self, work: Callable[[], Any]) -> float:
        """Return the processor seconds of a call."""
        started = time.process_time()
        for _ in range(self.calls):
            work()
        return (time.process_time() - started) / self.calls


def by_autograd(agent: DiffusionPolicy) -> None:
    """Take a gradient step as every activation can."""
    batch = agent._replay.sample(agent.config.batch_size, agent._generator)
    agent._update.step(batch, agent.draws(len(batch.obs)))
    agent.follow()


def ddim(policy: DenoisingPolicy, x: Tensor, predict: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return what a plain loop makes of noise [1, N, C], given what predicts it in samples at a time."""
    for now, then in pairwise(policy.stops):
        noise = predict(x, now)
        here, there = ((policy.alphas[time], policy.sigmas[time]) for time in (now, then))
        clean = predicted_clean(x, noise, *here).clamp(-1.0, 1.0)
        x = ddim_step(clean, predicted_noise(x, clean, *here), *there)
    return x


@torch.no_grad()
def ordinary(policy: DenoisingPolicy, obs: Tensor, noise: Tensor) -> Tensor:
    """Return chunks [1, N, C] by a loop that calls the whole network in every step."""
    network = policy.network

    def predict(x: Tensor, now: int) -> Tensor:
        times = torch.full(x.shape[:2], now)
        together = torch.cat([x, time_waves(times, policy.noise_steps), obs], -1)
        sample, waves, seen = torch.split(together, [policy.size, WAVES, OBS], -1)
        return trunk(network, sample, network.condition(seen), network.time(waves))

    return ddim(policy, noise, predict)


@torch.no_grad()
def encoded_once(policy: DenoisingPolicy, obs: Tensor, noise: Tensor) -> Tensor:
    """Do the same with observations read once for all steps, and times once for all rows."""
    network = policy.network
    seen = network.condition(obs)

    def predict(x: Tensor, now: int) -> Tensor:
        waves = time_waves(torch.full((1, 1), now), policy.noise_steps)
        return trunk(network, x, seen, network.time(waves))

    return ddim(policy, noise, predict)


def trunk(network: Denoiser, x: Tensor, seen: Tensor, of_time: Tensor) -> Tensor:
    """Return the noise predicted in samples, given what was read of observations and times."""
    act = ACTIVATIONS[network.activation]
    gain, *gains, tau = torch.split(of_time, [*network.hidden, network.hidden[0]], -1)
    flow = act(torch.bmm(x, network.entry) * (1.0 + gain) + seen + tau)
    *inner, (weight, bias) = zip(network.trunk.weights(), network.trunk.biases(), strict=True)
    for gain, (inner_weight, inner_bias) in zip(gains, inner, strict=True):
        flow = act(torch.bmm(flow, inner_weight) * (1.0 + gain) + inner_bias)
    return torch.baddbmm(bias, flow, weight)


def products(rows: int, width: int, group: int) -> Callable[[], Any]:
    """Return a function that does the matrix products of a gradient step, forwards and backwards."""

    def layer(
        count: int, inputs: int, outputs: int, *, back: bool = True, batch: int = 1
    ) -> list[tuple[Tensor, Tensor]]:
        sizes = (count, inputs), (inputs, outputs), (count, outputs)
        x, weight, slopes = (torch.randn(batch, *size) for size in sizes)
        return [(x, weight), (x.mT, slopes), *([(slopes, weight.mT)] if back else [])]

    times = rows // group
    pairs = [
        *layer(rows, OBS, width, back=False), *layer(rows, width, width),
        *layer(times, WAVES, width, back=False), *layer(times, width, 3 * width),
        *layer(group, ACTIONS + 1, width, back=False, batch=times), *layer(rows, width, width),
        *layer(rows, width, ACTIONS),
    ]  # fmt: skip
    return lambda: [torch.bmm(a, b) for a, b in pairs]


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("activation", "what", "median", "min", "max")
    for activation, found in result.items():
        for name, numbers in found.items():
            row = (f"{numbers[key]:.3g}" for key in ("median", "min", "max"))
            table.add_row(activation, name.replace("_", " "), *row)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
