"""How fast soft actor-critic and MBPO are, beside SB3, mbrl-lib, and themselves without what makes them so.

- sac: steps per second in Pendulum-v1 and Hopper-v5, one gradient step each, batches of 256, 256 x 256
  networks, beside SB3's; in Pendulum-v1 also with batches of 128 and 64 x 64 networks; with --compile beside
  compiled steps too; and the share of the machine's own rate of matrix products that a gradient step
  reaches
- regularizers: a gradient step with capped and with robust critics, over one without
- fit: a gradient step of the ensemble of seven, over one of a single deterministic model
- single: MBPO in Hopper-v5 with the ensemble and with the single model, end to end
- parts: MBPO in Pendulum-v1 with and without rows split over the networks, transitions on the device,
  and batched critics with gradients in closed form
- mbrl: MBPO in InvertedPendulum-v5 beside mbrl-lib, with the same networks, rollouts and gradient steps,
  where --mbrl-python names a Python that has it

Sides run in turns in one run; ratios are taken within a turn, and their median, minimum and maximum are
reported, for every number of threads.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import stable_baselines3 as sb3
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from prefrl.agents.actor_critic.config import CriticRegularizer
from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.agents.actor_critic.mbpo_config import MBPOConfig, mbpo_preset
from prefrl.agents.actor_critic.networks import SoftActorCritic, draw
from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.cli import execute
from prefrl.data.replay import Batch
from prefrl.nn.ensemble import DECAYS, DynamicsEnsemble, EnsembleFit, FitSettings
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import seconds, spread

Part = Literal["sac", "regularizers", "fit", "single", "parts", "mbrl"]

SINGLE: dict[str, Any] = {"ensemble_size": 1, "probabilistic": False}

SILENT = 10**9
"""Timesteps between two logs: none."""

MBRL_SEEDS = 3
"""Runs of each side beside mbrl-lib, in turns, with seeds 0, 1, ..."""

MBRL = """
import json, os, sys, tempfile, time
import gymnasium as gym, numpy as np, omegaconf, torch
import mbrl.algorithms.mbpo as mbpo, mbrl.env.termination_fns as terms
import mbrl.examples
blocks, seed, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.set_flush_denormal(True)
stamps = []
def box_of(low, high, shape):
    return gym.spaces.Box(np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
class Timed(gym.Wrapper):
    def step(self, action):
        stamps.append(time.perf_counter())
        return self.env.step(action)
conf = os.path.join(list(mbrl.examples.__path__)[0], "conf")
load = omegaconf.OmegaConf.load
cfg = omegaconf.OmegaConf.create({"seed": seed, "device": "cpu", "log_frequency_agent": 10**9})
for name, file in (("algorithm", "mbpo"), ("dynamics_model", "gaussian_mlp_ensemble"),
                   ("overrides", "mbpo_inv_pendulum")):
    cfg[name] = load(os.path.join(conf, name, file + ".yaml"))
cfg.algorithm.initial_exploration_steps = 500
cfg.overrides.num_steps = 250 * (blocks + 1)
cfg.algorithm.agent.action_space._target_ = "__main__.box_of"
cfg.dynamics_model._recursive_ = False  # as Hydra was when mbrl-lib was written
os.chdir(tempfile.mkdtemp())
# Neither side evaluates or writes files while it is timed.
mbpo.evaluate = lambda *_: -float("inf")
fit = mbrl.util.common.train_model_and_save_model_and_data
fits, steps = [], []
def timed(*a, **k):
    start = time.perf_counter()
    fit(*a, **{**k, "work_dir": None})
    fits.append(time.perf_counter() - start)
mbrl.util.common.train_model_and_save_model_and_data = timed
update = mbrl.models.OneDTransitionRewardModel.update
def counted(self, *a, **k):
    steps.append(None)
    return update(self, *a, **k)
mbrl.models.OneDTransitionRewardModel.update = counted
env, test = Timed(gym.make("InvertedPendulum-v5")), gym.make("InvertedPendulum-v5")
mbpo.train(env, test, terms.inverted_pendulum, cfg, silent=True)
stamps.append(time.perf_counter())
# 500 steps to explore; the model is fitted in steps 249, 499, ...: blocks between those have one fit each
starts = [stamps[500 + 249 + 250 * block] for block in range(blocks + 1)]
rates = [250 / (b - a) for a, b in zip(starts, starts[1:])]
found = {"fit_steps": len(steps) / len(fits), "fit_step_seconds": sum(fits) / len(steps)}
print(json.dumps({"rates": rates, **found}))
"""
"""Times mbrl-lib's own MBPO; prints environment steps per second of each 250 steps, and what fits took."""


SAC_CASES = {
    "Pendulum-v1": ("Pendulum-v1", 256, 256),
    "Hopper-v5": ("Hopper-v5", 256, 256),
    "Pendulum-v1, 64 x 64": ("Pendulum-v1", 64, 128),
}
"""Environments, widths of both layers, and batches."""


@dataclass(frozen=True)
class Bench:
    """How fast soft actor-critic and MBPO are."""

    out: Path = Path("runs/bench_mbpo")
    """Run folder, new or empty."""

    parts: tuple[Part, ...] = get_args(Part)
    """Which; see above."""

    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads."""

    repeats: int = 7
    """Turns of each comparison."""

    steps: int = 100
    """Timesteps, or gradient steps, of a turn."""

    blocks: int = 3
    """Blocks of 250 timesteps in single, parts and mbrl, with a fit of the model each."""

    compile: bool = False
    """Measure compiled steps of soft actor-critic too, which takes a minute for each case and a compiler."""

    mbrl_python: Path | None = None
    """Python of an environment with mbrl-lib, to be measured too."""

    def __post_init__(self) -> None:
        check_positive(self, "threads", "repeats", "steps", "blocks")
        if not self.parts:
            raise ValueError(f"parts is empty; give some of {', '.join(get_args(Part))}")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return rates, and medians, minima and maxima of ratios."""
        if self.mbrl_python is not None:
            self._run_mbrl("import mbrl.algorithms.mbpo")
        torch.set_flush_denormal(True)
        result: dict[str, Any] = {"load": os.getloadavg()[0]}
        for threads in self.threads:
            torch.set_num_threads(threads)
            found: dict[str, Any] = {"products_gflops": spread([product_rate() for _ in range(self.repeats)])}
            for part in self.parts:
                if part != "mbrl" or self.mbrl_python is not None:
                    found[part] = getattr(self, f"_{part}")(threads)
                    show(threads, part, found[part])
            result[f"threads_{threads}"] = found
        torch.set_num_threads(1)
        return result

    def _turns(self, sides: dict[str, Callable[[], float]], base: str) -> dict[str, Any]:
        """Return the seconds of sides that run in turns, and those of ``base`` over the others'."""
        rows = [{name: side() for name, side in sides.items()} for _ in range(self.repeats)]
        found: dict[str, Any] = {f"{name}_seconds": spread([row[name] for row in rows]) for name in sides}
        for name in sides:
            if name != base:
                found[f"{base}_over_{name}"] = spread([row[base] / row[name] for row in rows])
        return found

    def _sac(self, threads: int) -> dict[str, Any]:
        found = {}
        for name, (env_id, width, size) in SAC_CASES.items():
            theirs = sb3.SAC("MlpPolicy", gym.make(env_id), device="cpu", batch_size=size,
                             policy_kwargs={"net_arch": [width, width]})  # fmt: skip
            theirs.learn(300)

            def they(model: Any = theirs) -> float:
                return seconds(lambda: model.learn(self.steps, reset_num_timesteps=False)) / self.steps

            sides: dict[str, Callable[[], float]] = {"sb3": they}
            for side, compile in (("compiled", True), ("ours", False)):
                if compile and not self.compile:
                    continue
                config = SACConfig(hidden=(width, width), batch_size=size, compile=compile)
                ours = SAC(gym.make(env_id), config, device="cpu")
                learn(ours, 300, log_every=SILENT)

                def we(agent: SAC = ours) -> float:
                    return seconds(lambda: learn(agent, self.steps, log_every=SILENT)) / self.steps

                sides[side] = we
            found[name] = self._turns(sides, "sb3")
            update = update_seconds(ours, self.steps)
            floor = update_flops(ours) / 1e9 / product_rate()
            found[name] |= {
                "update_seconds": spread([update]),
                "share_of_products": spread([floor / update]),
            }
        return found

    def _regularizers(self, threads: int) -> dict[str, Any]:
        found = {}
        for hidden in (256, 128):
            agents = {}
            for name in get_args(CriticRegularizer):
                config = SACConfig(critic_regularizer=name, hidden=(hidden, hidden))
                agents[name] = SAC(gym.make("Hopper-v5"), config, device="cpu")
                learn(agents[name], 300, log_every=SILENT)
            sides: dict[str, Callable[[], float]] = {
                name: partial(update_seconds, agent, self.steps) for name, agent in agents.items()
            }
            turns = self._turns(sides, "none")
            for name in ("spectral", "robust"):  # what they cost, not how many times as fast none is
                ratio = turns.pop(f"none_over_{name}")
                costs = {"median": ratio["median"], "min": ratio["max"], "max": ratio["min"]}
                turns[f"{name}_over_none"] = {key: 1.0 / value for key, value in costs.items()}
            found[f"hidden_{hidden}"] = turns
        return found

    def _fit(self, threads: int) -> dict[str, Any]:
        inputs, targets = torch.randn(4000, 14), torch.randn(4000, 12)
        sides: dict[str, Callable[[], float]] = {}
        for name, members in (("ensemble", 7), ("single", 1)):
            model = DynamicsEnsemble(members, 14, 12, (200,) * 4, probabilistic=members > 1)
            settings = FitSettings(max_steps=self.steps, max_epochs=SILENT, patience=SILENT)
            fit = EnsembleFit(model, settings, elites=min(5, members), lr=1e-3, decays=DECAYS)
            draws = torch.Generator().manual_seed(0)
            sides[name] = partial(fit_seconds, fit, inputs, targets, draws, self.steps)
        return self._turns(sides, "ensemble")

    def _single(self, threads: int) -> dict[str, Any]:
        config = replace(mbpo_preset("Hopper-v5", "cpu"), updates_per_step=5, learning_starts=1000)
        agents = {
            name: MBPO(gym.make("Hopper-v5"), replace(config, **change), device="cpu")
            for name, change in (("ensemble", {}), ("single", SINGLE))
        }
        for agent in agents.values():
            learn(agent, 1000, log_every=SILENT)
        turns: dict[str, list[float]] = {name: [] for name in agents}
        for _ in range(self.blocks):
            for name, agent in agents.items():
                turns[name].append(seconds(partial(learn, agent, 250, log_every=SILENT)))
        pairs = zip(turns["ensemble"], turns["single"], strict=True)
        found: dict[str, Any] = {f"{name}_seconds": spread(values) for name, values in turns.items()}
        found["ensemble_over_single"] = spread([one / other for one, other in pairs])
        found["model_seconds_ensemble_over_single"] = spread(
            [agents["ensemble"].seconds["model"] / agents["single"].seconds["model"]]
        )
        return found

    def _parts(self, threads: int) -> dict[str, Any]:
        config = replace(mbpo_preset("Pendulum-v1", "cpu"), learning_starts=250)
        kinds: dict[str, tuple[bool, bool, bool]] = {
            "without": (False, False, False), "split_rows": (True, False, False),
            "device_buffers": (False, True, False), "batched_critics": (False, False, True),
            "with": (True, True, True),
        }  # fmt: skip
        turns: dict[str, list[float]] = {name: [] for name in kinds}
        agents = {name: slowed(config, *kind) for name, kind in kinds.items()}
        for agent in agents.values():
            learn(agent, 250, log_every=SILENT)
        for _ in range(self.blocks):
            for name, agent in agents.items():
                turns[name].append(seconds(partial(learn, agent, 250, log_every=SILENT)))
        found: dict[str, Any] = {f"{name}_steps_per_second": spread([250 / value for value in values])
                                 for name, values in turns.items()}  # fmt: skip
        for name in kinds:
            if name != "without":
                pairs = zip(turns["without"], turns[name], strict=True)
                found[f"without_over_{name}"] = spread([one / other for one, other in pairs])
        return found

    def _mbrl(self, threads: int) -> dict[str, Any]:
        ours, theirs = [], []
        fits: dict[str, dict[str, list[float]]] = {
            side: {"fit_steps": [], "fit_step_seconds": []} for side in ("ours", "mbrl")
        }
        for seed in range(MBRL_SEEDS):
            config = replace(
                mbpo_preset("InvertedPendulum-v5", "paper"), target_entropy=-1.0, real_ratio=0.0,
                diagnostics_every=SILENT,
            )  # fmt: skip
            agent = CountedFits(gym.make("InvertedPendulum-v5"), config, device="cpu", seed=seed)
            learn(agent, 749, log_every=SILENT)
            ours += [250 / seconds(partial(learn, agent, 250, log_every=SILENT)) for _ in range(self.blocks)]
            steps = sum(agent.fit_steps)
            fits["ours"]["fit_steps"].append(steps / len(agent.fit_steps))
            fits["ours"]["fit_step_seconds"].append(agent.seconds["model"] / steps)
            found = json.loads(self._run_mbrl(MBRL, self.blocks, seed, threads).splitlines()[-1])
            theirs += found["rates"]
            for name, values in fits["mbrl"].items():
                values.append(found[name])
        return {
            "ours_steps_per_second": spread(ours), "mbrl_steps_per_second": spread(theirs),
            "ours_over_mbrl": spread([one / other for one, other in zip(ours, theirs, strict=True)]),
            **{f"{side}_{name}": spread(values)
               for side, each in fits.items() for name, values in each.items()},
        }  # fmt: skip

    def _run_mbrl(self, program: str, *arguments: int) -> str:
        """Return what a program prints in the Python that has mbrl-lib."""
        command = [str(self.mbrl_python), "-W", "ignore", "-c", program, *map(str, arguments)]
        place = {**os.environ, "OMP_NUM_THREADS": str(arguments[-1] if arguments else 1)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=place)
        except OSError as error:
            raise ValueError(f"mbrl_python is {self.mbrl_python}: {error.strerror}") from error
        if done.returncode:
            raise ValueError(f"mbrl-lib does not run with mbrl_python {self.mbrl_python}: "
                             f"{done.stderr.strip().splitlines()[-1]}")  # fmt: skip
        return done.stdout


class CountedFits(MBPO):
    """MBPO that keeps how many gradient steps each of its fits took."""

    fit_steps: tuple[float, ...] = ()

    def fit_model(self) -> dict[str, Tensor]:
        """See MBPO."""
        metrics = super().fit_model()
        self.fit_steps = (*self.fit_steps, float(metrics["model/steps"]))
        return metrics


def product_rate() -> float:
    """Return the machine's rate of products of 256 x 256 matrices, in GFLOP/s."""
    x, y = torch.randn(2, 256, 256).unbind(0)
    z = torch.empty(256, 256)
    best = min(seconds(lambda: [torch.mm(x, y, out=z) for _ in range(50)]) for _ in range(5))
    return float(50 * 2 * 256**3 / best / 1e9)


def update_flops(agent: SAC) -> float:
    """Return the floating-point operations in the matrix products of one gradient step."""
    inputs, outputs = agent.observations, agent.actions
    first, second = agent.config.hidden
    rows = 2.0 * agent.config.batch_size
    actor = rows * (inputs * first + first * second + second * 2 * outputs)
    critic = rows * 2 * ((inputs + outputs) * first + first * second + second)
    hidden = rows * 2 * first * second
    # targets: both forward; critics: forward, weights, back to the first layer; actor: forward, critics
    # forward and back to the action, weights, back to the first layer
    back_to_action = hidden + rows * 2 * first * outputs
    of_actor = actor + rows * (first * second + second * 2 * outputs)
    return float(actor + critic + (2 * critic + hidden) + actor + critic + back_to_action + of_actor)


def fit_seconds(
    fit: EnsembleFit, inputs: Tensor, targets: Tensor, draws: torch.Generator, steps: int
) -> float:
    """Return the seconds of a gradient step of a fit, with all that a fit does."""
    return seconds(lambda: fit.fit(inputs, targets, draws)) / steps


def update_seconds(agent: SAC, steps: int) -> float:
    """Return the seconds of a gradient step, with drawing its batch."""
    replay = agent.replay
    assert replay is not None
    networks, size = agent.networks, agent.config.batch_size
    draws = networks.generator
    return seconds(lambda: [networks.step(replay.sample(size, draws)) for _ in range(steps)]) / steps


# MBPO without what makes it fast ------------------------------------------------------------------------


def slowed(config: MBPOConfig, split: bool, device_buffers: bool, batched: bool) -> MBPO:
    """Return MBPO with or without each of three things."""
    agent = Slowed(gym.make("Pendulum-v1"), config, device="cpu")
    agent.split, agent.device_buffers = split, device_buffers
    if not batched:
        agent.networks = PlainActorCritic(
            agent.observations, agent.actions, config, device=agent.device, seed=0
        )
    return agent


class Slowed(MBPO):
    """MBPO that asks every network for every row, and keeps transitions as numpy arrays."""

    split = device_buffers = True

    @torch.no_grad()
    def model_step(self, obs: Tensor, actions: Tensor, *, deterministic: bool = False) -> Any:
        """See MBPO."""
        if self.split:
            return super().model_step(obs, actions, deterministic=deterministic)
        elite = self.model.elite
        predict_split = elite.predict_split

        def predict_all(inputs: Tensor, generator: torch.Generator) -> Any:
            means, stds = elite.predict(inputs)
            chosen = torch.randint(elite.members, (len(inputs),), generator=generator)
            rows = torch.arange(len(inputs))
            return means[chosen, rows], None if stds is None else stds[chosen, rows]

        elite.predict_split = predict_all  # type: ignore[method-assign]
        try:
            return super().model_step(obs, actions, deterministic=deterministic)
        finally:
            elite.predict_split = predict_split  # type: ignore[method-assign]

    def batches(self, steps: int) -> Iterator[Batch]:
        """See MBPO."""
        if self.device_buffers:
            yield from super().batches(steps)
            return
        assert self.imagined is not None
        real = int(self.config.real_share(self.num_timesteps) * self.config.batch_size)
        rows = {name: values.numpy() for name, values in self._rows().items()}
        table, filled = self.imagined.storage.numpy(), int(self.imagined.filled)
        sizes = list(itertools.accumulate([self.observations, self.actions, 1, 1]))
        for _ in range(steps):
            chosen = torch.randint(len(rows["rewards"]), (real,)).numpy()
            drawn = table[torch.randint(filled, (self.config.batch_size - real,)).numpy()]
            obs, actions, rewards, discounts, next_obs = (
                torch.as_tensor(part.copy()) for part in _split(drawn, sizes)
            )
            own = {name: torch.as_tensor(values[chosen]) for name, values in rows.items()}
            going = self.config.gamma * (~own["terminations"]).float()
            yield Batch(
                torch.cat([obs, own["obs"]]), torch.cat([actions, own["actions"]]),
                torch.cat([rewards[:, 0], own["rewards"]]), torch.cat([next_obs, own["next_obs"]]),
                torch.cat([discounts[:, 0], going]), torch.ones(self.config.batch_size),
            )  # fmt: skip


def _split(rows: Any, places: list[int]) -> list[Any]:
    edges = [0, *places, rows.shape[1]]
    return [rows[:, a:b] for a, b in itertools.pairwise(edges)]


class PlainActorCritic(SoftActorCritic):
    """The same losses as one writes them by hand: a module for each network, autograd, Adam as it comes."""

    def __init__(self, observations: int, actions: int, config: Any, **place: Any) -> None:
        super().__init__(observations, actions, config, **place)

        def mlp(inputs: int, outputs: int) -> nn.Sequential:
            a, b = config.hidden
            return nn.Sequential(
                nn.Linear(inputs, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, outputs)
            )

        self.pi = mlp(observations, 2 * actions)
        self.q, self.q_target = (
            nn.ModuleList(mlp(observations + actions, 1) for _ in range(2)) for _ in range(2)
        )
        self.q_target.load_state_dict(self.q.state_dict())
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.plain = [
            torch.optim.Adam(parameters, lr=config.learning_rate)
            for parameters in (self.pi.parameters(), self.q.parameters(), [self.log_alpha])
        ]

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """See SoftActorCritic."""
        output = self.pi(obs)
        if deterministic:
            return torch.tanh(output[:, : self.num_actions])
        return draw(output, self.noise(len(obs), self.num_actions))[0]

    def step(self, batch: Batch, *, evaluate: bool = False) -> dict[str, Tensor]:
        """See SoftActorCritic."""
        config, (of_pi, of_q, of_alpha) = self.config, self.plain
        noise = self.noise(2, len(batch.returns), self.num_actions)
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            actions, log_density = draw(self.pi(batch.next_obs), noise[0])
            inputs = torch.cat([batch.next_obs, actions], 1)
            next_q = torch.minimum(*(q(inputs)[:, 0] for q in self.q_target))
            targets = batch.returns + batch.discounts * (next_q - alpha * log_density)
        inputs = torch.cat([batch.obs, batch.actions], 1)
        critic_loss = sum(0.5 * F.mse_loss(q(inputs)[:, 0], targets) for q in self.q)
        assert isinstance(critic_loss, Tensor)
        of_q.zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        of_q.step()
        actions, log_density = draw(self.pi(batch.obs), noise[1])
        inputs = torch.cat([batch.obs, actions], 1)
        smaller_q = torch.minimum(*(q(inputs)[:, 0] for q in self.q))
        actor_loss = (alpha * log_density - smaller_q).mean()
        of_pi.zero_grad()
        actor_loss.backward()  # type: ignore[no-untyped-call]
        of_pi.step()
        of_alpha.zero_grad()
        alpha_loss = -(self.log_alpha * (log_density.detach() + self.target_entropy)).mean()
        alpha_loss.backward()  # type: ignore[no-untyped-call]
        of_alpha.step()
        with torch.no_grad():
            for target, q in zip(self.q_target.parameters(), self.q.parameters(), strict=True):
                target.mul_(1.0 - config.tau).add_(q, alpha=config.tau)
        return {"train/critic_loss": critic_loss.detach(), "train/actor_loss": actor_loss.detach()}


def show(threads: int, part: str, result: dict[str, Any]) -> None:
    """Print a table."""
    table = Table("what", "median", "min", "max", title=f"{part}, threads: {threads}", title_justify="left")

    def rows(name: str, found: dict[str, Any]) -> None:
        if "median" in found:
            table.add_row(name, *(f"{found[key]:.4g}" for key in ("median", "min", "max")))
            return
        for key, value in found.items():
            rows(f"{name} {key}".strip(), value)

    rows("", result)
    Console(width=110).print(table)


def main() -> int:
    """Run the benchmark that the flags describe; return the exit status."""
    return execute(lambda: parse(Bench, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
