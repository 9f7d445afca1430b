"""What does an agent reach, by its defaults, where rewards are measured in another unit?

Every agent of ``prefrl.agents`` learns for a short while with all rewards multiplied by 0.01, 1 and 100,
from the same seeds, and is judged by the rewards as they are. An entry of the table is the share

    (J(factor) - J(random)) / (J(1) - J(random))

with J the mean return of the deterministic policy, over seeds (a CVaR for agents of return distributions; 1
less the relative error of the values for evaluations of policies; for allocation what was collected, of 0).
A method that does not mind the unit has 1 everywhere. Settings are the defaults, but for the sizes, lengths
and step sizes that short runs need; they stand in the functions below.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import prefrl.envs
from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.agents.actor_critic.mbpo_config import mbpo_preset
from prefrl.agents.actor_critic.ppo import PPO, PPOConfig
from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.agents.allocation.baselines import AllocationBaseline, AllocationBaselineConfig
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent
from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic
from prefrl.agents.continuous_time.evaluation import MartingaleEvaluation
from prefrl.agents.continuous_time.q_learning import ContinuousQLearning
from prefrl.agents.preferences.heron import Heron, HeronConfig
from prefrl.agents.preferences.preference_rl import PreferenceRL, PreferenceRLConfig
from prefrl.agents.preferences.regret import RegretAgent
from prefrl.agents.preferences.sb3 import SB3Agent, SB3Config
from prefrl.agents.preferences.self_play import SelfPlay, SelfPlayConfig
from prefrl.agents.returns.distributional_dp import DistributionalDP, DistributionalDPConfig
from prefrl.agents.returns.stock_dqn import StockDQN, StockDQNConfig
from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.agents.value_based.q_learning import QLearning, QLearningConfig
from prefrl.cli import execute
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.envs.factors import factors_of
from prefrl.envs.wrappers.stock import StockAugmentation, augment
from prefrl.nn.q_network import Loss
from prefrl.preferences import Regret, ask_teacher
from prefrl.run.evaluate import evaluate, evaluate_rows, rollout
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.outcomes.diffusions import compare_values, make_diffusions, policy_outcome
from prefrl.run.outcomes.returns import sample_returns, start_observations
from prefrl.run.study.study import run_study
from prefrl.tabular import TabularMDP

CART_POLE, PENDULUM = "prefrl/CartPole-v0", "prefrl/Pendulum-v0"
GRID, SMALL_MDP, DIFFUSION = "prefrl/Delivery-v0", "prefrl/RandomMDP-v0", "prefrl/LQDiscounted-v0"
EPISODES = 20
"""Episodes of an evaluation."""

SHORT_SAC = SACConfig(hidden=(64, 64), batch_size=64, learning_rate=2e-3, gamma=0.95, learning_starts=300)
"""Soft actor-critic for short runs."""

warnings.filterwarnings("ignore", message=".*the critics diverge|the best initial stock is")


class ScaledRewards(gym.vector.VectorWrapper):
    """Rewards in another unit.

    Args:
        env: a vector environment.
        factor: what rewards are multiplied by.
    """

    def __init__(self, env: Any, factor: float) -> None:
        super().__init__(env)
        self.factor = factor

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``."""
        obs, rewards, terminations, truncations, infos = self.env.step(actions)
        return obs, rewards * self.factor, terminations, truncations, infos


@dataclass(frozen=True)
class Task:
    """One run of one agent."""

    factor: float
    """What rewards are multiplied by."""

    share: float
    """Part of the full number of timesteps."""

    seed: int
    """Seeds environment and agent."""

    def env(self, env_id: str, num_envs: int, **arguments: Any) -> Any:
        """Return environments on the CPU with scaled rewards."""
        return ScaledRewards(
            prefrl.envs.make_device(env_id, num_envs, device="cpu", **arguments), self.factor
        )

    def timesteps(self, full: int) -> int:
        """Return how long to learn."""
        return max(1, round(self.share * full))

    def settings(self) -> dict[str, Any]:
        """Return what every agent is made with."""
        return {"device": "cpu", "seed": self.seed}


def mean_return(agent: Any, env_id: str, seed: int) -> float:
    """Return the mean return of the deterministic policy; of uniform actions without an agent."""
    rows = gym.make_vec(env_id, num_envs=EPISODES)
    if agent is None:
        return float(rollout(None, rows, seed=seed)[0].mean())
    return evaluate_rows(agent, rows, seed=seed)["mean_return"]


def q_learning(task: Task) -> float:
    """Tabular Q-learning."""
    config = QLearningConfig(epsilon_timesteps=task.timesteps(50_000))
    agent = QLearning(task.env(GRID, 64), config, **task.settings()).learn(task.timesteps(100_000))
    return evaluate(agent, gym.make(GRID), episodes=EPISODES, seed=task.seed)["mean_return"]


def dqn(loss: Loss, task: Task) -> float:
    """Deep Q-learning with one of its losses."""
    config = DQNConfig(loss=loss, epsilon_timesteps=task.timesteps(4_000))
    agent = DQN(task.env(CART_POLE, 8), config, **task.settings()).learn(task.timesteps(10_000))
    return mean_return(agent, CART_POLE, task.seed)


def sac(task: Task) -> float:
    """Soft actor-critic."""
    agent = SAC(task.env(PENDULUM, 1), SHORT_SAC, **task.settings()).learn(task.timesteps(3_000))
    return mean_return(agent, PENDULUM, task.seed)


def mbpo(task: Task) -> float:
    """Soft actor-critic on what a model imagines."""
    config = replace(
        mbpo_preset(PENDULUM, "cpu"),
        hidden=(64, 64), batch_size=64, updates_per_step=4, learning_rate=2e-3, gamma=0.95,
        model_hidden=(64, 64), ensemble_size=3, elites=2, max_fit_steps=300, rollouts_per_step=20,
    )  # fmt: skip
    agent = MBPO(task.env(PENDULUM, 1), config, termination=never, **task.settings())
    return mean_return(agent.learn(task.timesteps(1_000)), PENDULUM, task.seed)


def never(next_obs: Any) -> Any:
    """Return that no step ends an episode of the pendulum."""
    return torch.zeros(next_obs.shape[:-1], dtype=torch.bool)


def stock_dqn(task: Task) -> float:
    """Deep Q-learning for a CVaR."""
    config = StockDQNConfig(
        objective="cvar", tau=0.25, hidden=(64, 64), batch_size=64, quantiles=20,
        epsilon_timesteps=task.timesteps(3_000), target_update_gradient_steps=100,
    )  # fmt: skip
    rule = {"gamma": config.gamma, "stock_range": (config.stock_low, config.stock_high), "frozen": False}
    env = augment(task.env(SMALL_MDP, 16), **rule)
    agent = StockDQN(env, config, **task.settings()).learn(task.timesteps(6_000))
    rows = augment(ScaledRewards(gym.make_vec(SMALL_MDP, num_envs=200), task.factor), **rule)
    stock = agent.search_initial_stock(start_observations(rows, task.seed))
    return worst_quarter(sample_returns(agent, rows, stock, seed=task.seed)) / task.factor


def worst_quarter(returns: Any) -> float:
    """Return the CVaR at 1/4 of sampled returns [n]."""
    return float(np.sort(returns)[: len(returns) // 4].mean())


def distributional_dp(task: Task) -> float:
    """Exact dynamic programming for a CVaR."""
    config = DistributionalDPConfig(objective="cvar", tau=0.25)
    env = StockAugmentation(gym.make(SMALL_MDP), gamma=config.gamma)
    world = env.unwrapped.horizon_model()
    model = replace(world.model, weights=world.model.weights * task.factor)
    env.unwrapped.horizon_model = lambda: replace(world, model=model)
    agent = DistributionalDP(env, config, **task.settings())
    agent.learn(env.unwrapped.horizon_model().horizon)
    assert agent.solution is not None
    return agent.solution.value / task.factor


def regret(task: Task) -> float:
    """A reward from preferences by regret, of a teacher with rewards in this unit."""
    env = gym.make(GRID)
    mdp = TabularMDP.from_env(env)
    answers = ask_teacher(
        replace(mdp, weights=mdp.weights * task.factor), 500, model=Regret(), length=3, seed=task.seed
    )
    agent = RegretAgent(env, None, answers, **task.settings()).learn(task.timesteps(500))
    return evaluate(agent, env, episodes=EPISODES, seed=task.seed)["mean_return"]


def preference_rl(task: Task) -> float:
    """A reward from preferences between segments, of a teacher with rewards in this unit."""
    learner = DQNConfig(loss="mse", epsilon_timesteps=task.timesteps(4_000))
    sessions: Any = {
        "num_labels": 100,
        "first_labels": 50,
        "session_labels": 50,
        "first_session": task.timesteps(1_000),
    }
    config = PreferenceRLConfig(
        learner=learner, segment_length=10, session_every=task.timesteps(4_000), **sessions
    )
    agent = PreferenceRL(task.env(CART_POLE, 8), config, **task.settings()).learn(task.timesteps(10_000))
    return mean_return(agent, CART_POLE, task.seed)


def heron(task: Task) -> float:
    """A reward from a ranking of factors that are measured in this unit."""
    env = task.env(PENDULUM, 1)
    factors = factors_of(env)
    factors = factors.measured_in(dict.fromkeys(factors.names, task.factor))
    config = HeronConfig(learner=SHORT_SAC, first_fit=task.timesteps(500))
    agent = Heron(env, config, factors=factors, **task.settings()).learn(task.timesteps(3_000))
    return mean_return(agent, PENDULUM, task.seed)


def self_play(task: Task) -> float:
    """Self-play of PPO; the larger return, in this unit, is preferred."""
    env_id = "prefrl/ThreeGoals-v0"
    config = SelfPlayConfig(learner=SB3Config("ppo", {"n_steps": 128}))
    agent = SelfPlay(task.env(env_id, 4), config, **task.settings()).learn(task.timesteps(8_000))
    return mean_return(agent, env_id, task.seed)


def allocation(make: Callable[[Any], Any], task: Task) -> float:
    """Requests that pay 33 on average, in another currency, out of one budget."""
    rng = np.random.default_rng(task.seed)
    requests = np.column_stack([rng.lognormal(3.0, 1.0, 500) * task.factor, rng.uniform(1.0, 4.0, 500)])
    env = prefrl.envs.make_device(
        "prefrl/MultiSecretary-v0", 1, device="cpu", requests=requests, rho=0.8, float_dtype=torch.float64
    )
    agent = make(env).learn(task.timesteps(500))
    return float(agent.streams.state["rewards"][0]) / task.factor


def control(kind: Any, task: Task) -> float:
    """Actor-critic or q-learning in continuous time; the policy's value without its entropy."""
    env = ScaledRewards(make_diffusions(DIFFUSION, (), 64, "cpu"), task.factor)
    agent = kind(env, **task.settings())
    if task.share > 0.0:
        agent.learn(task.timesteps(64 * 4_000))
    value = policy_outcome(agent, env, 0.0, task.seed)["value"]
    return -math.inf if value is None else float(value)


def martingale(task: Task) -> float:
    """Evaluation of a policy in continuous time; one minus the relative error of its values."""
    env = ScaledRewards(make_diffusions(DIFFUSION, (), 64, "cpu"), task.factor)
    policy = LinearPolicy(-0.5, -0.5, 0.1)
    config = MartingaleEvaluation.config_class(temperature=0.0)
    agent = MartingaleEvaluation(env, config, policy, **task.settings()).learn(task.timesteps(64 * 4_000))
    found = compare_values(agent)
    assert found is not None
    error = found.learned / task.factor - found.true
    return 1.0 - float(np.sqrt((error**2).mean() / (found.true**2).mean()))


def ppo(task: Task) -> float:
    """Proximal policy optimisation, which measures rewards by the spread of their sums."""
    agent = PPO(task.env(CART_POLE, 8), PPOConfig(n_steps=128), **task.settings())
    return mean_return(agent.learn(task.timesteps(16_000)), CART_POLE, task.seed)


def sb3_ppo(task: Task) -> float:
    """PPO of Stable-Baselines3."""
    agent = SB3Agent(task.env(CART_POLE, 8), SB3Config("ppo", {"n_steps": 128}), **task.settings())
    return mean_return(agent.learn(task.timesteps(16_000)), CART_POLE, task.seed)


def pid(env: Any) -> AllocationBaseline:
    """Return the controller on the rate of spending."""
    return AllocationBaseline(env, AllocationBaselineConfig(kind="pid"), device="cpu")


Run = Callable[[Task], float]
RANDOM: dict[str, Callable[[int], float]] = {
    "cart_pole": partial(mean_return, None, CART_POLE),
    "pendulum": partial(mean_return, None, PENDULUM),
    "grid": partial(mean_return, None, GRID),
    "three_goals": partial(mean_return, None, "prefrl/ThreeGoals-v0"),
    "small_mdp": lambda seed: worst_quarter(
        rollout(None, gym.make_vec(SMALL_MDP, num_envs=200), seed=seed)[0]
    ),
    "diffusion": lambda seed: control(ContinuousActorCritic, Task(1.0, 0.0, seed)),
    "nothing": lambda seed: 0.0,
}
"""What J is without learning, by the environment."""

CASES: dict[str, tuple[Run, str]] = {
    "q_learning": (q_learning, "grid"),
    **{f"dqn {loss}": (partial(dqn, loss), "cart_pole") for loss in get_args(Loss)},
    "ppo": (ppo, "cart_pole"),
    "sac": (sac, "pendulum"),
    "mbpo": (mbpo, "pendulum"),
    "stock_dqn": (stock_dqn, "small_mdp"),
    "distributional_dp": (distributional_dp, "nothing"),
    "regret": (regret, "grid"),
    "preference_rl": (preference_rl, "cart_pole"),
    "heron": (heron, "pendulum"),
    "self_play": (self_play, "three_goals"),
    "sb3 ppo": (sb3_ppo, "cart_pole"),
    "dual_mirror_descent": (partial(allocation, partial(DualMirrorDescent, device="cpu")), "nothing"),
    "allocation_baseline pid": (partial(allocation, pid), "nothing"),
    "martingale": (martingale, "nothing"),
    "continuous actor_critic": (partial(control, ContinuousActorCritic), "diffusion"),
    "continuous q_learning": (partial(control, ContinuousQLearning), "diffusion"),
}
"""Agents: how they are run, and what J(random) is that of. Self-play on a matrix has no rewards."""


@dataclass(frozen=True)
class Units:
    """What agents reach by their defaults where rewards are measured in other units."""

    out: Path = Path("runs/units")
    """Run folder, new or empty."""

    agents: tuple[str, ...] = ()
    """Which of the cases, by the start of their names; none: all."""

    factors: tuple[float, ...] = (0.01, 1.0, 100.0)
    """What rewards are multiplied by; 1 must be among them."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of the runs."""

    share: float = 1.0
    """Part of the full numbers of timesteps, in (0, 1]."""

    def __post_init__(self) -> None:
        """Raise ValueError for settings that make no table."""
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share is {self.share}; it must lie in (0, 1]")
        if 1.0 not in self.factors or not all(0.0 < factor < math.inf for factor in self.factors):
            raise ValueError(f"factors are {self.factors}; they must be positive, and 1 among them")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds are {self.seeds}; give one or more, not negative")
        for name in self.agents:
            if not any(case.startswith(name) for case in CASES):
                raise ValueError(f"agents has {name!r}; there are {', '.join(CASES)}")

    def run(self) -> None:
        """Measure, and write ``result.json``."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Run the cases and print the table."""
        table = Table("agent", "J(random)", "J(1)", *(f"share, x {factor:g}" for factor in self.factors))
        found: dict[str, Any] = {}
        for name, (run, floor) in CASES.items():
            if self.agents and not name.startswith(self.agents):
                continue
            base = float(np.mean([RANDOM[floor](seed) for seed in self.seeds]))
            returns = [self._mean(run, factor) for factor in self.factors]
            found[name] = {"random": base, "returns": returns, "shares": self._shares(base, returns)}
            print(f"{name}: {returns}", file=sys.stderr, flush=True)  # the table comes when all are done
            cells = [base, returns[self.factors.index(1.0)], *found[name]["shares"]]
            table.add_row(name, *("stopped" if each is None else f"{each:.4g}" for each in cells))
        Console().print(table)
        return {"factors": list(self.factors), "agents": found}

    def _mean(self, run: Run, factor: float) -> float | None:
        """Return J over seeds; None where a run was stopped, since what it learned cannot be right."""
        try:
            return float(np.mean([run(Task(factor, self.share, seed)) for seed in self.seeds]))
        except FloatingPointError:
            return None

    def _shares(self, base: float, returns: list[float | None]) -> list[float | None]:
        one = returns[self.factors.index(1.0)]
        if one is None or one <= base:  # nothing was learned that could be kept or lost
            return [None] * len(returns)
        return [None if each is None else (each - base) / (one - base) for each in returns]


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Units, description=__doc__)))
