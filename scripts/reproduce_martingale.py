"""Evaluation and control in continuous time beside closed forms: what each method finds, and for which dt.

Experiments, all of them by default:

- misspecified: BrownianSquare, a family that does not hold the value: each method has a limit of its own
- rough: BrownianSquare, a family that does: minimising the mean squared TD error misses it
- linear: OrnsteinUhlenbeck, online, and the bias of temporal differences over dt
- invariance: CTD(0) at several dt, the same total time and the same step size per unit of time
- call: BlackScholesCall, the volatility that each method finds in the option's price
- mean_variance: MeanVariance, the best policy's wealth, and theta3 of its value
- neural: LQDiscounted with a neural value function
- control: LQErgodic, actor-critic and q-learning beside the best policy
- investment: MeanVariance, actor-critic learns policy and multiplier
- sac: LQErgodic, SB3's SAC as dt shrinks, beside q-learning with as many steps of one chain or 256

The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table
from stable_baselines3 import SAC
from torch import Tensor

import prefrl.envs
from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic, ContinuousActorCriticConfig
from prefrl.agents.continuous_time.evaluation import MartingaleConfig, MartingaleEvaluation
from prefrl.agents.continuous_time.q_learning import ContinuousQLearning, ContinuousQLearningConfig
from prefrl.agents.continuous_time.task import DTYPE
from prefrl.cli import execute
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.envs.wrappers import DiscreteTimeTask
from prefrl.functional.continuous_time.martingale import clstd
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder, read_json, write_json
from prefrl.run.outcomes.diffusions import compare_values, draw_values, panels, policy_outcome, true_policy
from prefrl.run.plot import PALETTE, moving_average, save_figure, tidy
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import seconds

Experiment = Literal[
    "misspecified", "rough", "linear", "invariance", "call", "mean_variance", "neural", "control",
    "investment", "sac",
]  # fmt: skip

MISSPECIFIED_LIMITS = {"martingale_loss": 5 / 4, "ctd(0)": 2 / 3, "ctd(0.25)": 1.0764298,
                       "ctd(0.5)": 1.1541792, "ctd(1)": 5 / 4, "mstde": 3 / 4}  # fmt: skip
"""theta of J = x^2 + theta tau^2 as dt -> 0, exactly, for x0 = 0 and T = 1 (see
docs/continuous_time/martingale.md)."""

POLICY = LinearPolicy(-0.5, -0.5, 0.1)
"""What the neural value function evaluates."""

TUNED_ON = ((0.16, 0.2), (0.1, 0.2), (0.3, 0.2), (0.26, 0.4))
"""Coefficients mu and sigma with which the default steps of mean-variance policies were chosen."""

TESTED_ON = ((0.2, 0.3), (0.25, 0.2), (0.2, 0.2), (-0.1, 0.2), (0.1, 0.4))
"""Others, which were not looked at then."""

REWARDS: tuple[Literal["increment", "rate"], ...] = ("increment", "rate")
SAC_DTS = (0.2, 0.05, 0.01, 0.002)


@dataclass(frozen=True)
class MartingaleStudy:
    """Policy evaluation and control in continuous time beside closed forms."""

    out: Path = Path("runs/martingale_study")
    """Run folder: new, empty, or of the same study."""

    experiments: tuple[Experiment, ...] = get_args(Experiment)
    """Which; see above."""

    seeds: int = 3
    """Seeds 0, 1, ... of every experiment."""

    paths: int = 20_000
    """Paths of misspecified, rough and mean_variance."""

    control_steps: int = 60_000
    """Steps of each chain of actor-critic in control; q-learning with a known normaliser takes twice as many,
    with an unknown one half."""

    control_chains: int = 2048
    """Chains of actor-critic and of q-learning with an unknown normaliser in control."""

    sac_steps: int = 10_000
    """Environment steps that SAC takes for each dt."""

    def __post_init__(self) -> None:
        check_positive(self, "seeds", "paths", "control_steps", "control_chains", "sac_steps")
        if not self.experiments:
            raise ValueError(f"experiments is empty; give some of {', '.join(get_args(Experiment))}")

    def run(self) -> None:
        """Run the study in its folder, or go on with it."""
        run_study(self, resumable=True)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Measure what has not been measured yet; draw, print and return all of it."""
        parts = folder.path / "parts"
        parts.mkdir(exist_ok=True)
        result: dict[str, Any] = {}
        for name in self.experiments:
            rows = []
            for seed in range(self.seeds):
                path = parts / f"{name}-{seed}.json"
                if not path.exists():
                    found: dict[str, Any] = {}
                    taken = seconds(lambda: found.update(EXPERIMENTS[name](self, seed)))  # noqa: B023
                    write_json(path, {**found, "seconds": taken})
                rows.append(read_json(path))
            result[name] = rows
            show(name, rows)
        draw(self, result, folder.path)
        return result


# Linear families, solved on a batch of paths ---------------------------------------------------------------


def least_squares(matrix: Tensor, target: Tensor) -> Tensor:
    """Return theta of the regression of target [..., n] on matrix [..., n, P]."""
    P = matrix.shape[-1]
    return torch.linalg.lstsq(matrix.reshape(-1, P), target.reshape(-1, 1)).solution[:, 0]


def solve_brownian(x: Tensor, dt: float, family: str) -> dict[str, float]:
    """Return theta of BrownianSquare's families for every objective, on paths x [K + 1, n] with T = 1."""
    tau = (1.0 - dt * torch.arange(len(x), dtype=DTYPE))[:, None].expand_as(x)
    phi = tau.square() if family == "tau_squared" else tau * x
    known = x.square() if family == "tau_squared" else x.square() + tau
    rates = torch.zeros_like(x[1:])
    found = {"martingale_loss": least_squares(phi[:-1, :, None], (x[-1].square() - known)[:-1])[0]}
    for lam in (0.0, 0.25, 0.5, 1.0):
        theta = clstd(phi[..., None], rates, dt, lam=lam, known=known, ridge=0.0)
        found[f"ctd({lam:g})"] = theta[0]
    found["mstde"] = least_squares((phi[1:] - phi[:-1])[..., None], known[:-1] - known[1:])[0]
    return {name: float(value) for name, value in found.items()}


def misspecified(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """A-1: the limits of every method where the family does not hold the value."""
    env: Any = gym.make("prefrl/BrownianSquare-v0", dt=0.005).unwrapped
    x = env.simulate(None, study.paths, seed=seed).x[..., 0]
    return {**solve_brownian(x, 0.005, "tau_squared"), "exact": MISSPECIFIED_LIMITS}


def rough(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """A-2: minimising the mean squared TD error misses a value that the family holds (theta = 0)."""
    found: dict[str, Any] = {"exact": {"mstde": {}}}
    for dt in (0.1, 0.02, 0.005):
        env: Any = gym.make("prefrl/BrownianSquare-v0", dt=dt, x0=1.0).unwrapped
        solved = solve_brownian(env.simulate(None, study.paths, seed=seed).x[..., 0], dt, "tau_x")
        found[f"dt {dt:g}"] = {name: solved[name] for name in ("martingale_loss", "ctd(0)", "mstde")}
        t = dt * np.arange(round(1 / dt))
        ahead = 1.0 - t - dt
        exact = -2.0 * (ahead * dt).sum() / (ahead**2 * dt + dt**2 * (1.0 + t)).sum()
        found["exact"]["mstde"][f"dt {dt:g}"] = float(exact)
    return found


# Agents ----------------------------------------------------------------------------------------------------


def evaluate_policy(
    env_id: str, num_envs: int, steps: int, seed: int, policy: Any = None,
    env_args: dict[str, Any] | None = None, **settings: Any,
) -> MartingaleEvaluation:  # fmt: skip
    """Return an agent that has evaluated a policy on ``num_envs`` paths of ``steps`` steps."""
    env = prefrl.envs.make_device(env_id, num_envs, float_dtype=DTYPE, **(env_args or {}))
    agent = MartingaleEvaluation(env, MartingaleConfig(**settings), policy, device="cpu", seed=seed)
    return agent.learn(num_envs * steps)


LINEAR_METHODS: dict[str, dict[str, Any]] = {
    "ctd(0)": {"objective": "ctd"},
    "ctd(0.3)": {"objective": "ctd", "lam": 0.3},
    "clstd": {"objective": "clstd"},
    "gtd2": {"objective": "cgtd"},
    "tdc": {"objective": "cgtd", "correction": "tdc"},
    "mstde": {"objective": "mstde"},
}


def linear(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """A-3: online evaluation of an Ornstein-Uhlenbeck process, 64 chains of 40,000 steps; and the bias."""
    args = {"dt": 0.02, "max_episode_steps": None}
    found: dict[str, Any] = {
        name: evaluate_policy(
            "prefrl/OrnsteinUhlenbeck-v0", 64, 40_000, seed, env_args=args, **settings
        ).parameters()
        for name, settings in LINEAR_METHODS.items()
    }
    face: Any = gym.make("prefrl/OrnsteinUhlenbeck-v0").unwrapped
    dts = (0.1, 0.03, 0.01, 0.003, 0.001)
    bias = [population_bias(dt) for dt in dts]
    slope = np.polyfit(np.log(dts), np.log(np.abs(bias)), 1)[0]
    return {
        **found,
        "exact": face.true_parameters(),
        "bias": {"dt": list(dts), "c2": bias, "slope": float(slope)},
    }


def population_bias(dt: float) -> float:
    """Return the bias of c2 in the fixed point of temporal differences, expectations by Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    z, weight = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    start, noise = (grid.reshape(-1) for grid in torch.meshgrid(z, z, indexing="ij"))
    x = start * math.sqrt(0.5)
    after = x * math.exp(-dt) + noise * math.sqrt(-math.expm1(-2.0 * dt) / 2.0)
    root = (weight[:, None] * weight[None, :]).reshape(-1).sqrt()
    path = torch.stack([x, after])
    features = torch.stack([torch.ones_like(path), path, path.square()], -1) * root[:, None]
    theta = clstd(features, -(x.square() * root)[None], dt, 1.0, ridge=0.0)
    return float(theta[2]) + 1.0 / 3.0


def invariance(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """CTD(0) with the same total time and the same step size per unit of time."""
    found: dict[str, Any] = {}
    for dt in (0.1, 0.02, 0.004):
        args = {"dt": dt, "max_episode_steps": None}
        agent = evaluate_policy("prefrl/OrnsteinUhlenbeck-v0", 64, round(800 / dt), seed, env_args=args)
        found[f"dt {dt:g}"] = agent.parameters()
    return found


def call(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """A-5: the volatility in the price of a call; the truth is 0.2."""
    found: dict[str, Any] = {"exact": 0.2}
    for K in (1.0, 1.2):
        for objective in ("martingale_loss", "ctd", "mstde"):
            agent = evaluate_policy(
                "prefrl/BlackScholesCall-v0", 4000, 50 * 150, seed, env_args={"K": K}, objective=objective,
                learning_rate=2.0, decay_time=20.0,
            )  # fmt: skip
            found[f"K {K:g}, {objective}"] = agent.parameters()["theta"]
    return found


def mean_variance(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """A-6: wealth under the best policy, and theta3 of its value; (mu - r) / sigma = 0.4."""
    args: dict[str, Any] = {"mu": 0.1, "sigma": 0.2, "r": 0.02, "dt": 0.02}
    face: Any = gym.make("prefrl/MeanVariance-v0", **args).unwrapped
    best = face.true_optimum(0.1)
    wealth = face.simulate(best.policy, 2 * study.paths, seed=seed).x[-1, :, 0]
    found: dict[str, Any] = {
        "mean": float(wealth.mean()), "variance": float(wealth.var()),
        "exact": {"mean": best.mean, "variance": best.variance, "theta3": best.theta[2]},
    }  # fmt: skip
    for name, settings in {"ctd(1)": {"objective": "ctd", "lam": 1.0}, "ctd(0)": {"objective": "ctd"},
                           "mstde": {"objective": "mstde"}}.items():  # fmt: skip
        agent = evaluate_policy("prefrl/MeanVariance-v0", 4000, 50 * 400, seed, best.policy, args, **settings)
        found[name] = agent.parameters()["theta3"]
    return found


def neural(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """A-7: a neural value function of LQDiscounted, dt = .01, 2 x 32 tanh; the largest error over [-1, 1]."""
    found: dict[str, Any] = {}
    args: dict[str, Any] = {"dt": 0.01, "max_episode_steps": 100, "x0_spread": 1.0}
    settings: dict[str, Any] = {"value": "neural", "decay_time": 10.0, "decay_power": 1.0}
    for objective in ("ctd", "martingale_loss", "mstde"):
        own = {"path_time": 1.0, "learning_rate": 0.1} if objective == "martingale_loss" else {}
        agent = evaluate_policy("prefrl/LQDiscounted-v0", 256, 20_000, seed, POLICY, args,
                                objective=objective, **settings, **own)  # fmt: skip
        comparison = compare_values(agent)
        assert comparison is not None
        found[objective] = {"sup_error": comparison.sup_error, "learned": comparison.learned.tolist()}
    return found


def control(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """A-4: average rewards, dt = .05: the policies found, and what they earn.

    A policy gradient's error falls with chains times time only, so that actor-critic has many chains; what
    q-learning with a known normaliser lacks is time: it has 256.
    """
    steps, many = study.control_steps, study.control_chains
    rates: dict[str, Any] = {"policy_rate": 1.0, "value_rate": 1.0}
    kinds: dict[str, tuple[Any, int, int]] = {
        "actor_critic": (ContinuousActorCriticConfig(), many, steps),
        "q_learning": (ContinuousQLearningConfig(**rates), 256, 2 * steps),
        "q_learning, unknown": (ContinuousQLearningConfig(normalizer="unknown", **rates), many, steps // 2),
    }
    found: dict[str, Any] = {}
    for name, (config, chains, count) in kinds.items():
        args: dict[str, Any] = {"float_dtype": DTYPE, "max_episode_steps": None}
        env = prefrl.envs.make_device("prefrl/LQErgodic-v0", chains, **args)
        agent_class: Any = ContinuousActorCritic if name == "actor_critic" else ContinuousQLearning
        agent = agent_class(env, config, device="cpu", seed=seed)
        watch = Watch(agent, chains * count // 100)
        agent.learn(chains * count, callback=watch)
        found[name] = {
            **agent.policy_parameters(), "V": agent.parameters()["V"],
            **policy_outcome(agent, env, 0.1, seed), "path": watch.path,
        }  # fmt: skip
    return {**found, "exact": {**(true_policy(env, 0.1) or {}), "V": env.true_optimum(0.1).value.V,
                               "average_reward": env.true_optimum(0.1).average_reward}}  # fmt: skip


class Watch:
    """Keeps the policy's parameters as they are (not averaged) along a run; a callback of ``learn``."""

    def __init__(self, agent: Any, every: int) -> None:
        self.agent, self.every, self.due = agent, every, 0
        self.path: dict[str, list[float]] = {"time": [], "phi1": [], "phi2": [], "variance": []}

    def __call__(self, locals_: Any, globals_: Any) -> bool:
        """Take note of where the policy is; never stop the run."""
        agent = self.agent
        if agent.num_timesteps >= self.due:
            self.due += self.every
            phi = agent.policy.phi.tolist()
            for name, value in zip(self.path, (agent.pace.time, *phi[:2], math.exp(phi[2])), strict=True):
                self.path[name].append(value)
        return True


def investment(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """Actor-critic learns mean-variance policies and multipliers by default settings, offline."""
    return {f"mu {mu:g}, sigma {sigma:g}": invest(mu, sigma, seed) for mu, sigma in (*TUNED_ON, *TESTED_ON)}


def invest(mu: float, sigma: float, seed: int) -> dict[str, Any]:
    """Learn one policy and its multiplier in 500 episodes of 512 paths; r = .02."""
    args: dict[str, Any] = {"mu": mu, "sigma": sigma, "r": 0.02, "dt": 0.02}
    env = prefrl.envs.make_device("prefrl/MeanVariance-v0", 512, float_dtype=DTYPE, **args)
    config = ContinuousActorCriticConfig(multiplier_rate=0.05)
    agent = ContinuousActorCritic(env, config, device="cpu", seed=seed).learn(512 * 50 * 500)
    best = env.true_optimum(0.1)
    return {
        **agent.policy_parameters(), **policy_outcome(agent, env, 0.1, seed),
        "exact": {**(true_policy(env, 0.1) or {}), "terminal_mean": best.mean,
                  "terminal_variance": best.variance},
    }  # fmt: skip


def sac(study: MartingaleStudy, seed: int) -> dict[str, Any]:
    """What the mean action earns after so many steps, SB3's SAC beside q-learning, for several dt.

    SAC is told gamma = e^{-dt} and has its own defaults else; the reward is the increment, as an environment
    pays it, or the rate. q-learning takes as many steps, of one chain, as SAC, or of 256 at once; its step
    sizes per unit of time are the same for all dt.
    """
    found: dict[str, Any] = {}
    env_id = "prefrl/LQErgodic-v0"
    for dt in SAC_DTS:
        row: dict[str, float] = {}
        taken: dict[str, float] = {}
        for reward in REWARDS:
            diffusion = gym.make(env_id, dt=dt, max_episode_steps=None)
            task = DiscreteTimeTask(diffusion, 3.0, reward, episode_time=20.0, beta=1.0)
            model = SAC("MlpPolicy", task, gamma=task.gamma, seed=seed, device="cpu")
            taken[f"sac, {reward}"] = seconds(partial(model.learn, study.sac_steps))
            row[f"sac, {reward}"] = average_reward(partial(sac_action, model, task.action_bound), dt, seed)
        for chains, rate in ((1, 0.1), (256, 1.0)):
            env = prefrl.envs.make_device(env_id, chains, float_dtype=DTYPE, dt=dt, max_episode_steps=None)
            config = ContinuousQLearningConfig(policy_rate=rate, value_rate=rate, decay="power")
            agent = ContinuousQLearning(env, config, device="cpu", seed=seed)
            name = f"q-learning, {chains} chain{'s' if chains > 1 else ''}"
            taken[name] = seconds(partial(agent.learn, chains * study.sac_steps))
            row[name] = average_reward(partial(mean_action, agent), dt, seed)
        found[f"dt {dt:g}"] = {**row, "seconds": taken}
    face: Any = gym.make(env_id).unwrapped
    return {**found, "exact": face.true_optimum(0.0).best_average_reward}


def sac_action(model: Any, bound: float, obs: Any) -> Any:
    """Return SAC's mean action, undoing the scaling of its task."""
    return bound * model.predict(obs, deterministic=True)[0]


def mean_action(agent: Any, obs: Any) -> Any:
    """Return the mean action of an agent of ours."""
    return agent.predict(obs, deterministic=True)[0]


def average_reward(act: Callable[[Any], Any], dt: float, seed: int) -> float:
    """Return the average reward rate of a deterministic policy over 512 chains, from time 5 to 10."""
    envs: Any = gym.make_vec("prefrl/LQErgodic-v0", 512, dt=dt, max_episode_steps=None)
    obs, _ = envs.reset(seed=seed + 1000)
    steps, total = round(10.0 / dt), 0.0
    for k in range(steps):
        obs, rewards, *_ = envs.step(np.asarray(act(obs), dtype=np.float32))
        total += float(rewards.mean()) if k >= steps // 2 else 0.0
    return total / (steps - steps // 2) / dt


EXPERIMENTS: dict[str, Callable[[MartingaleStudy, int], dict[str, Any]]] = {
    "misspecified": misspecified, "rough": rough, "linear": linear, "invariance": invariance, "call": call,
    "mean_variance": mean_variance, "neural": neural, "control": control, "investment": investment,
    "sac": sac,
}  # fmt: skip


# What is shown ---------------------------------------------------------------------------------------------

HIDDEN = ("seconds", "learned", "path", "time")


def flat(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested results as one level, without curves."""
    rows: dict[str, Any] = {}
    for name, value in found.items():
        if name in HIDDEN:
            continue
        if isinstance(value, dict):
            rows.update(flat(value, f"{prefix}{name}: "))
        else:
            rows[f"{prefix}{name}"] = value
    return rows


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """Print one line per number and a column per seed."""
    table = Table("", *(f"seed {seed}" for seed in range(len(rows))), title=name, title_justify="left")
    flattened = [flat(row) for row in rows]
    for key in flattened[0]:
        cells = [row[key] for row in flattened]
        table.add_row(key, *(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells))
    Console().print(table)


def draw(study: MartingaleStudy, result: dict[str, Any], folder: Path) -> None:
    """Draw what there are figures of among the experiments that ran."""
    if "linear" in result:
        figure, (left, right) = panels(2)
        draw_bias(left, result["linear"][0]["bias"])
        draw_rough_values(right)
        save_figure(figure, folder / "bias.png")
    if "control" in result:
        figure, axes = panels(3)
        draw_paths(axes, result["control"])
        save_figure(figure, folder / "paths.png")
    if "neural" in result:
        figure, (axes,) = panels(1)
        draw_neural(axes, result["neural"][0])
        save_figure(figure, folder / "neural.png")
    if "sac" in result:
        figure, (axes,) = panels(1)
        draw_sac(axes, result["sac"])
        save_figure(figure, folder / "sac.png")


def draw_bias(axes: Axes, bias: dict[str, Any]) -> None:
    """Draw the bias of temporal differences over dt, and a line of slope 1."""
    dts, errors = np.array(bias["dt"]), np.abs(bias["c2"])
    axes.loglog(dts, errors, "o-", color=PALETTE[0], markersize=4, label=f"CTD, slope {bias['slope']:.2f}")
    axes.loglog(dts, errors[0] * dts / dts[0], ":", color="0.6", label="slope 1")
    axes.set_xlabel("time between two steps, dt")
    axes.set_ylabel("bias of c2")
    axes.set_title("Ornstein-Uhlenbeck, fixed point", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8.5)
    tidy(axes)


def draw_rough_values(axes: Axes) -> None:
    """Draw the value functions that three methods find for a Brownian motion's square from x0 = 1."""
    comparisons = {}
    for objective in ("martingale_loss", "ctd", "mstde"):
        args = {"x0": 1.0, "dt": 0.02}
        agent = evaluate_policy("prefrl/BrownianSquare-v0", 4000, 50 * 60, 0, env_args=args,
                                objective=objective, value="tau_x", learning_rate=1.0)  # fmt: skip
        comparison = compare_values(agent)
        assert comparison is not None
        comparisons[objective] = comparison
    draw_values(axes, comparisons, title="BrownianSquare, t = 0 (-) and 1/2 (--)")


SMOOTHED = 11
"""Logged points that a moving average is over."""


def draw_paths(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the policy's parameters along the runs of all seeds, their moving averages, and the truth."""
    for panel, name in zip(axes, ("phi1", "phi2", "variance"), strict=True):
        for index, kind in enumerate(("actor_critic", "q_learning", "q_learning, unknown")):
            for seed, row in enumerate(rows):
                path = row[kind]["path"]
                time, values = path["time"][1:], path[name][1:]  # the start is far to the left
                panel.plot(time, values, color=PALETTE[index], linewidth=0.5, alpha=0.25)
                panel.plot(time, moving_average(values, SMOOTHED), color=PALETTE[index], linewidth=1.4,
                           label=kind if seed == 0 else None)  # fmt: skip
        panel.axhline(rows[0]["exact"][name], color="0.25", linestyle="--", linewidth=1.0, label="best")
        panel.set_xscale("log")
        panel.set_xlabel("time")
        panel.set_title(name, loc="left", fontsize=11)
        tidy(panel)
    axes[0].legend(frameon=False, fontsize=8)
    axes[2].set_yscale("log")


def draw_neural(axes: Axes, row: dict[str, Any]) -> None:
    """Draw the neural value functions of the first seed beside the truth."""
    face: Any = gym.make("prefrl/LQDiscounted-v0").unwrapped
    x = np.linspace(-1.0, 1.0, len(row["ctd"]["learned"]))
    axes.plot(x, face.true_value(0.0, x, POLICY, 0.1), color="0.55", linewidth=4.0, label="true value")
    for index, objective in enumerate(("ctd", "martingale_loss", "mstde")):
        axes.plot(x, row[objective]["learned"], color=PALETTE[index], linewidth=1.5, label=objective)
    axes.set_xlabel("state x")
    axes.set_ylabel("value J(x)")
    axes.set_title("LQDiscounted, 2 x 32 tanh", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8.5)
    tidy(axes)


def draw_sac(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw average rewards over dt: the mean over seeds, and every seed."""
    names = [f"dt {dt:g}" for dt in SAC_DTS]
    kinds = [kind for kind in rows[0][names[0]] if kind != "seconds"]
    for index, kind in enumerate(kinds):
        found = np.array([[row[name][kind] for name in names] for row in rows])
        axes.plot(SAC_DTS, found.mean(0), "o-", color=PALETTE[index], markersize=4, linewidth=1.6, label=kind)
        axes.plot(SAC_DTS, found.T, "o", color=PALETTE[index], markersize=2.5, alpha=0.6)
    axes.axhline(rows[0]["exact"], color="0.25", linestyle="--", linewidth=1.0, label="best")
    axes.set_xscale("log")
    axes.set_xlabel("time between two steps, dt")
    axes.set_ylabel("average reward of the mean action")
    axes.set_title("LQErgodic, as many steps for every dt", loc="left", fontsize=11)
    axes.legend(frameon=False, fontsize=8.5)
    tidy(axes)


def main() -> int:
    """Run the study that the flags describe; return the exit status."""
    return execute(lambda: parse(MartingaleStudy, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
