"""What reward composers and tuning promise, measured: gates, information, potentials, paid loops, N tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

import prefrl.envs
from prefrl.agents import PPO, PPOConfig, QLearning, QLearningConfig
from prefrl.envs.core.backend import Backend, Noise, State
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.grids.grid import GOAL, HOUSE, GridDynamics
from prefrl.envs.wrappers import GatedReward, InformationGain, ShapedReward, VectorComposeReward
from prefrl.functional.shapley import (
    fact_importance,
    item_worths,
    shapley_by_permutations,
    shapley_values,
    subsets,
)
from prefrl.functional.tuning import tuning_gap
from prefrl.run.study.claims import Claim
from prefrl.tabular import (
    TabularMDP,
    greedy_policy,
    optimal_policy,
    potential_rewards,
    reward_loops,
    value_iteration,
)

LEARNER = PPOConfig(gamma=1.0, batch_size=256, ent_coef=0.01, learning_rate=1e-3)
"""Of tours and of questions, in every arm."""

ROWS = 64
TOUR_STEPS = 50_000
EPISODES = 20_000
"""Of questions, in every arm."""

MAZE = 10
"""Cells of a side."""
MAZE_ROWS = 8
MAZE_GAMMA = 0.99
MOST_STEPS = 100_000
"""Steps after which a maze counts as not solved."""


def tours(seed: int) -> dict[str, float]:
    """Feasibility and soft score of 500 tours of PPO, gated and additive, on the layout of the seed (F1)."""
    found = {}
    for arm in ("gated", "additive"):
        env: Any = prefrl.envs.make_device("prefrl/WindowTSP-v0", ROWS, layout_seed=seed, seed=seed)
        task = env.unwrapped
        if arm == "gated":
            env = VectorComposeReward(env, GatedReward(k=50.0, tau=0.9))
        agent = PPO(env, LEARNER, device="cpu", seed=seed).learn(TOUR_STEPS)
        rows = prefrl.envs.make_device("prefrl/WindowTSP-v0", 500, layout_seed=seed, seed=seed)
        obs, _ = rows.reset(seed=seed)
        chosen = []
        for _ in range(task.cities):
            chosen.append(agent.act(obs))
            obs = rows.step(chosen[-1])[0]
        hard, soft = task.score(torch.stack(chosen, 1).numpy()).T
        feasible = hard > 1.0 - 0.5 / task.cities
        found[f"{arm}_feasible"] = float(feasible.mean())
        found[f"{arm}_soft"] = float(soft[feasible].mean()) if feasible.any() else 0.0
        found["best_soft"] = task.best_feasible_tour()[1]
    return found


class _Episodes(gym.vector.VectorWrapper):
    """Counts the episodes that end."""

    count = 0

    def step(self, actions: Any) -> Any:
        found = self.env.step(actions)
        self.count += int(found[2].sum())
        return found


def _importance(task: Any) -> Tensor:
    """Return what facts are worth for each item [M, F]: softmax of Shapley values of log p(item)."""
    prior, features = torch.as_tensor(task.prior()), torch.as_tensor(task.item_features())
    worths = item_worths(prior, features, subsets(task.num_features), task.error)
    return fact_importance(shapley_values(worths))


def questions(seed: int) -> dict[str, float]:
    """Right guesses after at most 5 questions, paid for information and for the guess alone (F2)."""
    found = {}
    for arm in ("information", "terminal"):
        env: Any = prefrl.envs.make_device("prefrl/TwentyQuestions-v0", ROWS, layout_seed=seed, seed=seed)
        task = env.unwrapped
        counted = env = _Episodes(env)
        if arm == "information":
            env = VectorComposeReward(env, InformationGain(_importance(task).numpy()))
        agent = PPO(env, LEARNER, device="cpu", seed=seed)
        agent.learn(10 * EPISODES, callback=lambda *_: counted.count < EPISODES)  # noqa: B023
        rows = prefrl.envs.make_device("prefrl/TwentyQuestions-v0", 2_000, layout_seed=seed, seed=seed)
        obs, _ = rows.reset(seed=seed)
        going = torch.ones(2_000, dtype=torch.bool)
        right, asked = torch.zeros(2_000), torch.zeros(2_000)
        for _ in range(task.questions + 1):
            actions = agent.act(obs, deterministic=True)
            obs, rewards, ended, *_ = rows.step(actions)
            right += rewards * going
            asked += (actions < task.num_features) & going
            going &= ~ended
        found[f"{arm}_right"], found[f"{arm}_asked"] = float(right.mean()), float(asked.mean())
    return {**found, "best": task.optimal_value()}


def sampled_values(seed: int) -> dict[str, float]:
    """Mean and largest error of Shapley values from 500 drawn orders, in the games of items."""
    task: Any = gym.make("prefrl/TwentyQuestions-v0", layout_seed=seed).unwrapped
    prior, features = torch.as_tensor(task.prior()), torch.as_tensor(task.item_features())
    exact = shapley_values(item_worths(prior, features, subsets(task.num_features)))
    generator = torch.Generator().manual_seed(seed)
    drawn = shapley_by_permutations(
        lambda members: item_worths(prior, features, members), task.num_features, 500, generator
    )
    error = (drawn - exact).abs()
    return {"mean_error": float(error.mean()), "largest_error": float(error.max())}


def _random_mdp(rng: np.random.Generator, states: int = 12, actions: int = 3) -> TabularMDP:
    """Return an MDP with drawn transitions and rewards, whose last state is an end."""
    chances = rng.dirichlet(np.full(states, 0.2), (states, actions))
    return TabularMDP.from_arrays(
        chances, rng.normal(size=(states, actions)), terminal=np.arange(states) == states - 1
    )


def potentials(seed: int) -> dict[str, float]:
    """States of 5 random MDPs whose best actions a potential changes, and a bonus of the same size (F3)."""
    rng, gamma = np.random.default_rng(seed), 0.95
    changed = {"potential_changed": 0.0, "bonus_changed": 0.0}
    for _ in range(5):
        mdp = _random_mdp(rng)
        true = mdp.linear_rewards(mdp.weights)
        shaping = potential_rewards(mdp, torch.as_tensor(3.0 * rng.normal(size=(1, mdp.num_states))), gamma)
        other = torch.as_tensor(rng.permutation(shaping.numpy().ravel())).reshape(shaping.shape)
        best = optimal_policy(mdp, true, gamma)[2]
        for name, bonus in (("potential_changed", shaping), ("bonus_changed", other)):
            quality = optimal_policy(mdp, true + bonus, gamma)[1]
            differs = ((greedy_policy(quality) > 0.0) != (best > 0.0)).any(-1) & ~mdp.terminal
            changed[name] += float(differs.sum())
    return changed


class MazeDynamics(GridDynamics):
    """A maze with one reward, at the end of it; starts in the upper left corner.

    ## Description
    A grid of which a quarter of the cells, drawn from a seed, are blocked, as far as an end can be reached.
    """

    def __init__(self, layout_seed: int = 0, backend: Backend | None = None) -> None:
        rng = np.random.default_rng(layout_seed)
        while True:
            cells = np.where(rng.random((MAZE, MAZE)) < 0.25, HOUSE, 0)
            cells[0, 0], cells[-1, -1] = 0, GOAL
            super().__init__(cells, np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]), backend=backend)
            if self.optimal_value(0.9)[0] > 0.0:
                return

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """See :class:`GridDynamics`."""
        return super().initial(noise, {"cell": (0, 0)})


def _potential(obs: Any) -> Any:
    """Return what an end that can be walked to straight would be worth.

    Minus the distance would be below what Q-learning starts from by as much, and loops that it has tried
    would look better than what it has not: pilots were not solved in 400,000 steps.
    """
    return MAZE_GAMMA ** (2.0 * (MAZE - 1) - obs // MAZE - obs % MAZE)


def _steps_to_solve(seed: int, shaped: bool) -> float:
    """Return after how many steps of Q-learning the greedy way from the start is a shortest one."""
    gamma = MAZE_GAMMA
    env: Any = BatchedEnv(
        MazeDynamics, MAZE_ROWS, backend=TorchBackend("cpu"), layout_seed=seed, max_episode_steps=200,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )  # fmt: skip
    env.reset(seed=seed)
    mdp = TabularMDP.from_env(env)
    best = value_iteration(mdp, mdp.linear_rewards(mdp.weights), gamma)[0, 0]
    shortest = int(torch.log(best) / np.log(gamma) + 1.5)
    follow = mdp.successors[0, :, :, 0]
    if shaped:
        env = VectorComposeReward(env, ShapedReward(_potential, gamma))
    config = QLearningConfig(gamma=gamma, epsilon_start=0.2, epsilon_end=0.2)
    agent = QLearning(env, config, device="cpu", seed=seed)

    def solved() -> bool:
        here = torch.zeros(1, dtype=torch.int64)
        for _ in range(shortest):
            here = follow[here, agent.act(here, deterministic=True)]
        return bool(mdp.terminal[0, here])

    agent.learn(MOST_STEPS, callback=lambda *_: agent.num_timesteps % 400 != 0 or not solved())
    return float(agent.num_timesteps)


def maze(seed: int) -> dict[str, float]:
    """Steps until a maze with one reward is solved, with and without a potential (F3)."""
    return {"sparse": _steps_to_solve(seed, False), "shaped": _steps_to_solve(seed, True)}


def planted_loops(seed: int) -> dict[str, float]:
    """A bonus for entering a state makes a loop pay: is it found, and no loop where there is none (F3)?"""
    rng = np.random.default_rng(seed)
    states = 20
    ring, skip = (np.arange(states) + 1) % states, rng.integers(states, size=states)
    chances = np.eye(states)[np.stack([ring, skip, np.full(states, states - 1)], 1)]
    mdp = TabularMDP.from_arrays(
        chances, -0.01 * rng.random((states, 3)), terminal=np.arange(states) == states - 1
    )
    prize = int(rng.integers(states - 1))
    bonus = torch.as_tensor(chances[..., prize]) * 1.0
    found = reward_loops(mdp, bonus.masked_fill(mdp.terminal[0, :, None], 0.0))
    innocent = potential_rewards(mdp, torch.as_tensor(rng.random((1, states))), 1.0)[0]
    possible = _reaches_itself(chances[:-1, :, :-1].sum(1) > 0.0, prize)
    return {
        "possible": float(possible),
        "found": float(any(prize in loop.states for loop in found)),
        "found_for_potential": float(len(reward_loops(mdp, innocent))),
    }


def _reaches_itself(edges: Any, state: int) -> bool:
    reached = edges[state]
    for _ in range(len(edges)):
        reached = reached | (edges[reached].any(0))
    return bool(reached[state])


def lambda_utilities(seed: int, tasks: int = 4_096) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return minus the error of values by least squares with traces [lambdas, tasks], on drawn chains.

    A task is a Markov chain of 8 states with rewards, and one trajectory of 40 steps to learn its values from
    (LSTD(lambda) with a ridge of .1, gamma .9); a setting is one of 11 lambdas.
    """
    rng, states, gamma = np.random.default_rng(seed), 8, 0.9
    chances = rng.dirichlet(np.full(states, 0.3), (tasks, states))
    means = rng.normal(size=(tasks, states))
    true = np.linalg.solve(np.eye(states) - gamma * chances, means[..., None])[..., 0]
    lambdas, rows, eye = np.linspace(0.0, 1.0, 11), np.arange(tasks), np.eye(states)
    trace = np.zeros((11, tasks, states))
    left = np.tile(0.1 * eye, (11, tasks, 1, 1))
    right = np.zeros((11, tasks, states))
    here = rng.integers(states, size=tasks)
    for _ in range(40):
        thresholds = chances[rows, here].cumsum(-1)[:, :-1]
        following = (rng.random((tasks, 1)) >= thresholds).sum(-1)
        reward = means[rows, here] + rng.normal(size=tasks)
        trace = gamma * lambdas[:, None, None] * trace + eye[here]
        left += trace[..., None] * (eye[here] - gamma * eye[following])[:, None]
        right += trace * reward[:, None]
        here = following
    values = np.linalg.solve(left, right[..., None])[..., 0]
    return np.asarray(-np.sqrt(np.square(values - true).mean(-1)))


def tuning(seed: int) -> dict[str, float]:
    """Slope of the gap of a lambda chosen on N = 4 to 256 tasks (G3)."""
    gap = tuning_gap(lambda_utilities(seed), [4, 8, 16, 32, 64, 128, 256], seed=seed)
    return {"slope": gap["slope"], "gap_4": gap["gap"][0], "gap_256": gap["gap"][-1],
            "regret_4": gap["regret"][0], "regret_256": gap["regret"][-1]}  # fmt: skip


CLAIMS: Mapping[str, Claim] = {
    "gate": Claim(
        "F1: gated, at least .95 of tours are feasible on average, additive at most .8; soft score of the "
        "gated ones within 5 % of the best feasible",
        tours,
        lambda n: (
            n["gated_feasible"].mean() >= 0.95
            and n["additive_feasible"].mean() <= 0.8
            and n["gated_soft"].mean() >= 0.95 * n["best_soft"].mean()
        ),
    ),
    "information": Claim(
        "F2: paid for information, right guesses after 5 questions are 5 points above those of the terminal "
        "reward alone (mean), at equal episodes",
        questions,
        lambda n: n["information_right"].mean() >= n["terminal_right"].mean() + 0.05,
    ),
    "sampled_shapley": Claim(
        "F2: 500 drawn orders leave a mean error of Shapley values of at most .03",
        sampled_values,
        lambda n: n["mean_error"].max() <= 0.03,
    ),
    "potentials": Claim(
        "F3: a potential changes no best action in 5 random MDPs of each seed; the same numbers in another "
        "order do",
        potentials,
        lambda n: n["potential_changed"].max() == 0.0 and n["bonus_changed"].min() > 0.0,
    ),
    "maze": Claim(
        "F3: with a potential a 10 x 10 maze with one reward is solved in at most half the steps (medians)",
        maze,
        lambda n: np.median(n["shaped"]) <= 0.5 * np.median(n["sparse"]),
    ),
    "loops": Claim(
        "F3: a loop that only a bonus pays is found wherever there is one, and none for a potential",
        planted_loops,
        lambda n: (n["found"] == n["possible"]).all() and n["found_for_potential"].max() == 0.0,
    ),
    "tuning": Claim(
        "G3: the gap of a setting chosen on N tasks falls with a slope in [-.65, -.35], N from 4 to 256",
        tuning,
        lambda n: ((n["slope"] >= -0.65) & (n["slope"] <= -0.35)).all(),
    ),
}
"""Claims of reward composers and of tuning by name."""
