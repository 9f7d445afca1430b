"""How fast dual mirror descent serves requests: batched, one by one, and with many resources.

Each comparison runs its sides back to back in one process, several times, on one thread; medians, minima and
maxima are reported, ratios within a repetition.

"batched" serves many streams of the multi-secretary at once, environment, prices and the loop's account
included. "single" decides one request after the other by `predict`, 5 resources and 10 products, deciding
only: the requests are drawn before the clock starts. Beside it stand a plain NumPy loop of the same algorithm
without any check, and a step of the scalar Gymnasium environment. "resources" is the time of one request over
the number of resources, batched, the drawing of requests included. "hindsight" is the linear program that
regret is measured against, by HiGHS.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import prefrl.envs
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent, DualMirrorDescentConfig, Reference
from prefrl.cli import execute
from prefrl.envs.allocation.hindsight import hindsight_values
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import seconds, spread

SECRETARY, REVENUE = "prefrl/MultiSecretary-v0", "prefrl/NetworkRevenue-v0"
M, D = 5, 10
"""Resources and products of single requests."""

REFERENCES: tuple[Reference, ...] = ("euclidean", "scaled_euclidean", "entropy", "projected_entropy")

BATCHED, COMPILED = "batched_requests_per_second", "batched_compiled_requests_per_second"

Observations = list[dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Bench:
    """How fast dual mirror descent serves requests."""

    out: Path = Path("runs/bench_allocation")
    """Run folder, new or empty."""

    repeats: int = 7
    """Repetitions of each comparison."""

    streams: int = 16_384
    """Streams served at once."""

    horizon: int = 300
    """Requests of each of them."""

    single_requests: int = 5_000
    """Requests served one by one."""

    resources: tuple[int, ...] = (1, 10, 100, 1_000)
    """Numbers of resources."""

    resource_streams: int = 64
    """Streams served at once where resources are many."""

    hindsight_requests: int = 1_000
    """Requests of the linear program."""

    skip_compiled: bool = False
    """Leave out the compiled environment, which takes half a minute to make."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "streams", "horizon", "single_requests", "resources",
        "resource_streams",
                       "hindsight_requests")  # fmt: skip

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima."""
        torch.set_num_threads(1)
        result = {
            BATCHED: self._batched(compiled=False),
            **({} if self.skip_compiled else {COMPILED: self._batched(compiled=True)}),
            **self._single(),
            **self._resources(),
            **self._hindsight(),
        }
        show(result)
        return result

    def _repeat(self, function: Callable[[], float]) -> dict[str, float]:
        """Return median, minimum and maximum of what a function returns."""
        return spread([function() for _ in range(self.repeats)])

    def _batched(self, *, compiled: bool) -> dict[str, float]:
        """Return requests per second of the whole loop, all streams together."""
        total = self.streams * self.horizon
        env = prefrl.envs.make_device(SECRETARY, self.streams, horizon=self.horizon, compile=compiled)
        agent = DualMirrorDescent(env, device="cpu")
        agent.learn(self.streams)
        return self._repeat(lambda: total / seconds(lambda: agent.learn(total)))

    def _single(self) -> dict[str, Any]:
        """Return microseconds per request of ``predict`` and of a plain loop, and the ratio of the two."""
        env = gym.make(REVENUE, m=M, d=D, horizon=self.single_requests + 1)
        observations: Observations = [env.reset(seed=0)[0]]
        stepping = seconds(lambda: observations.extend(env.step(0)[0] for _ in range(self.single_requests)))
        count = len(observations)
        rho = np.array(env.unwrapped.allocation.rho)  # type: ignore[attr-defined]
        times: dict[str, list[float]] = {name: [] for name in (*REFERENCES, "plain")}
        for _ in range(self.repeats):
            times["plain"].append(seconds(plain_loop(observations, rho)) / count * 1e6)
            for reference in REFERENCES:
                agent = DualMirrorDescent(env, DualMirrorDescentConfig(reference=reference), device="cpu")
                times[reference].append(seconds(partial(serve, agent, observations)) / count * 1e6)
        ratios = [ours / plain for ours, plain in zip(times["euclidean"], times["plain"], strict=True)]
        return {
            "single_microseconds": {name: spread(times[name]) for name in REFERENCES},
            "plain_loop_microseconds": spread(times["plain"]),
            "single_over_plain_loop": spread(ratios),
            "environment_step_microseconds": stepping / self.single_requests * 1e6,
        }

    def _resources(self) -> dict[str, Any]:
        """Return microseconds per request for each number of resources, and how they grow."""
        found: dict[str, dict[str, float]] = {}
        for m in self.resources:
            steps = max(10, 2_000 // m)
            env = prefrl.envs.make_device(REVENUE, self.resource_streams, m=m, d=D, horizon=steps)
            agent = DualMirrorDescent(env, device="cpu")
            total = self.resource_streams * steps
            agent.learn(total)
            serving = partial(agent.learn, total)
            found[str(m)] = spread([seconds(serving) / total * 1e6 for _ in range(self.repeats)])
        medians = [found[str(m)]["median"] for m in self.resources]
        growth = {
            f"{after}/{before}": medians[i + 1] / medians[i]
            for i, (before, after) in enumerate(zip(self.resources, self.resources[1:], strict=False))
        }
        return {"microseconds_by_resources": found, "growth_by_resources": growth}

    def _hindsight(self) -> dict[str, Any]:
        """Return the seconds of the hindsight program of one stream, beside those of serving the stream."""
        env = gym.make(REVENUE, m=M, d=D, horizon=self.hindsight_requests).unwrapped
        env.reset(seed=0)
        requests, budget = env.requests(), env.budget  # type: ignore[attr-defined]
        problem = env.allocation.problem  # type: ignore[attr-defined]
        seen = requests[:, : problem.num_seen].astype(np.float32)
        times = np.linspace(0.0, 1.0, len(seen), dtype=np.float32)[:, None]
        left = np.ones(M, dtype=np.float32)
        observations: Observations = [
            {"request": request, "remaining": left, "time": time}
            for request, time in zip(seen, times, strict=True)
        ]
        programs, ratios = [], []
        for _ in range(self.repeats):
            programs.append(seconds(lambda: hindsight_values(problem, requests[:, None], budget)))
            agent = DualMirrorDescent(env, device="cpu")
            ratios.append(programs[-1] / seconds(partial(serve, agent, observations)))
        return {
            "hindsight_seconds": spread(programs),
            "hindsight_over_serving": spread(ratios),
            "hindsight_requests": self.hindsight_requests,
        }


def serve(agent: DualMirrorDescent, observations: Observations) -> None:
    """Answer every request."""
    for observation in observations:
        agent.predict(observation)


def plain_loop(observations: Observations, rho: NDArray[np.float64]) -> Callable[[], None]:
    """Return the algorithm as a bare loop over requests that are unpacked already, with Euclidean steps."""
    rewards = [observation["request"][:D].astype(np.float64) for observation in observations]
    tables = [observation["request"][D:].reshape(M, D).astype(np.float64) for observation in observations]
    eta = 1.0 / len(observations) ** 0.5

    def loop() -> None:
        mu, left = np.zeros(M), rho * len(observations)
        nothing = np.zeros(M)
        for f, b in zip(rewards, tables, strict=True):
            gains = f - mu @ b
            best = gains.argmax()
            used = b[:, best] if gains[best] > 0.0 else nothing
            if (used <= left).all():
                left = left - used
            mu = np.maximum(mu - eta * (rho - used), 0.0)

    return loop


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("what", "median", "min", "max", title="dual mirror descent, one thread")

    def add(name: str, of: dict[str, float]) -> None:
        table.add_row(name, *(f"{of[key]:,.4g}" for key in ("median", "min", "max")))

    for name, key in (("batched", BATCHED), ("batched, compiled", COMPILED)):
        if key in result:
            add(f"{name}: million requests per second", {k: v / 1e6 for k, v in result[key].items()})
    for reference, of in result["single_microseconds"].items():
        add(f"single, {reference}: microseconds per request", of)
    add("plain NumPy loop: microseconds per request", result["plain_loop_microseconds"])
    add("single (euclidean) / plain loop", result["single_over_plain_loop"])
    for m, of in result["microseconds_by_resources"].items():
        add(f"{m} resources, batched: microseconds per request", of)
    count = result["hindsight_requests"]
    add(f"hindsight program of {count:,} requests: seconds", result["hindsight_seconds"])
    add("hindsight program / serving them one by one", result["hindsight_over_serving"])
    Console().print(table)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
