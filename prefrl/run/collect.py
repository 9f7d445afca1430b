"""Data sets of transitions, made by letting a policy act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.data import Preferences, Segments, TransitionDataset, Transitions, seeded_generator
from prefrl.data.datasets import space_dtype
from prefrl.data.observations import ObservationLayout
from prefrl.data.segment_store import SegmentStore
from prefrl.envs.wrappers.simulator_states import KEY as STATES, with_simulator_states

from .stepping import Listener, Policy, Stepper

_COLUMNS = ("obs", "actions", "rewards", "next_obs", "terminations", "truncations", "mask")


def collect_transitions(
    agent: Policy | None,
    env: Any,
    num_transitions: int,
    *,
    epsilon: float = 0.0,
    seed: int = 0,
    env_id: str | None = None,
) -> TransitionDataset:
    """Let a policy act, and return what happened.

    The agent's deterministic action is taken, or with probability ``epsilon`` a uniform one. Rows of a step
    that are no transitions are left out (see ``prefrl.data.transition_mask``). Each row of a vector
    environment contributes its episodes one after the other, the last of them possibly unfinished: then its
    last transition has ``has_next_action`` False though it neither terminated nor was truncated.

    Args:
        agent: an agent or other policy; None for uniform actions only (``epsilon`` 1).
        env: a scalar, vector or on-device environment. It is reset first, and left in the midst of episodes.
        num_transitions: how many transitions to return, exactly; where a step of many rows gives more
            than are wanted, its first rows are taken.
        epsilon: probability of a uniform action, in [0, 1].
        seed: seeds the environment and the uniform actions.
        env_id: id to note down; default: that of ``env.spec``, if it has one.

    Returns:
        The data set, on the CPU.

    Raises:
        ValueError: if an argument lies outside its range, the agent has other spaces than the environment,
            uniform actions are asked for in an unbounded action space, or the environment or agent gives
            what no data set takes (NaN, actions outside the space).
        FloatingPointError: if a reward on the host is NaN or infinite.
        TypeError: if a space is neither Discrete nor Box.
    """
    if isinstance(num_transitions, bool) or not isinstance(num_transitions, int) or num_transitions < 1:
        raise ValueError(f"num_transitions is {num_transitions!r}; it must be a whole number of at least 1")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon is {epsilon}; it must be a probability")
    if agent is None and epsilon < 1.0:
        raise ValueError(f"agent is None and epsilon {epsilon}; without an agent epsilon must be 1")
    spaces = _spaces(env, agent)
    policy = _EpsilonUniform(agent, spaces[1], epsilon, seed)
    record = _Record()
    stepper = Stepper(env, policy, record, seed=seed, deterministic=True)
    stepper.reset()
    while (missing := num_transitions - record.count()) > 0:
        for _ in range(-(-missing // stepper.num_envs)):
            stepper.step()
    spec = getattr(env, "spec", None)
    mask = torch.stack([step.mask for step in record.steps]).cpu()
    kept = mask & (mask.flatten().cumsum(0).reshape(mask.shape) <= num_transitions)
    return TransitionDataset.from_transitions(
        **_in_episodes(record.steps, kept, *spaces),
        observation_space=spaces[0],
        action_space=spaces[1],
        env_id=spec.id if env_id is None and spec is not None else env_id,
    )


def collect_episodes(
    agent: Policy | None, rows: Any, *, epsilon: float = 0.0, seed: int = 0, max_steps: int = 10_000
) -> TransitionDataset:
    """Let a policy act, and return one whole episode of each row: long ones are as likely as short ones.

    Args:
        agent: an agent or other policy, whose deterministic action is taken; None for uniform actions only.
        rows: a vector or on-device environment, which is reset first.
        epsilon: probability of a uniform action, in [0, 1]; of no agent it is 1 whatever is given.
        seed: seeds the environment and the uniform actions.
        max_steps: an episode that has not ended by then stays unfinished: its last transition has
            ``has_next_action`` False, and is neither terminal nor truncated.

    Raises:
        ValueError: as :func:`collect_transitions`.
        TypeError: as :func:`collect_transitions`.
    """
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"epsilon is {epsilon}; it must be a probability")
    if max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1")
    spaces = _spaces(rows, agent)
    policy = _EpsilonUniform(agent, spaces[1], 1.0 if agent is None else epsilon, seed)
    record = _Record()
    stepper = Stepper(rows, policy, record, seed=seed, deterministic=True)
    stepper.reset()
    going: list[Tensor] = []
    open_rows = torch.ones(stepper.num_envs, dtype=torch.bool)
    while len(record.steps) < max_steps and bool(open_rows.any()):
        stepper.step()
        step = record.steps[-1]
        going.append(open_rows & step.mask.cpu())
        open_rows = open_rows & ~(step.terminations | step.truncations).cpu()
    spec = getattr(rows, "spec", None)
    return TransitionDataset.from_transitions(
        **_in_episodes(record.steps, torch.stack(going), *spaces),
        observation_space=spaces[0],
        action_space=spaces[1],
        env_id=None if spec is None else spec.id,
    )


class _StatesRecord(Listener):
    """Keeps all steps and the simulator's states along them, to cut segments from."""

    info_keys = (STATES,)

    def __init__(self, observation_space: Any, capacity: int) -> None:
        self.store = SegmentStore(capacity, 1)
        self._layout = ObservationLayout(observation_space)

    def observe(self, transitions: Transitions) -> None:
        obs, next_obs = self._layout.keep(transitions.obs), self._layout.keep(transitions.next_obs)
        self.store.add(transitions, obs, next_obs, states=transitions.infos[STATES])


def collect_with_states(
    agent: Policy | None, env: gym.Env[Any, Any], steps: int, *, seed: int = 0
) -> SegmentStore:
    """Let a policy act, and return what happened with the simulator's states, which pictures are drawn from.

    Args:
        agent: an agent or other policy, whose actions are taken as it draws them; None for uniform ones.
        env: a scalar environment.
        steps: how many.
        seed: seeds the environment and the uniform actions.

    Raises:
        ValueError: if the environment has no state that could be set again, or uniform actions are asked for
            in an unbounded action space.
        FloatingPointError: if a reward is NaN or infinite.
    """
    record = _StatesRecord(env.observation_space, steps)
    policy = _EpsilonUniform(None, env.action_space, 1.0, seed) if agent is None else agent
    stepper = Stepper(with_simulator_states(env), policy, record, seed=seed)
    stepper.reset()
    for _ in range(steps):
        stepper.step()
    return record.store


class People:
    """Acts as those did whose policy [H, S, A] is known, where observations are ``S * h + state``."""

    device = torch.device("cpu")

    def __init__(self, policy: Any, seed: int) -> None:
        table = torch.as_tensor(policy)
        self._policy = table.flatten(0, 1)
        self._generator = seeded_generator(seed, "choices of people")

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n], drawn whatever ``deterministic`` says."""
        chances = self._policy[obs.clamp(max=len(self._policy) - 1)]
        return torch.multinomial(chances, 1, generator=self._generator)[:, 0]


def collect_choices(env: Any, rows: Any, num_choices: int, *, seed: int) -> TransitionDataset:
    """Return choices of the people of an environment that knows them, as transitions.

    Args:
        env: the scalar environment, whose ``behaviour()`` is asked.
        rows: the same as a vector environment, in which they act.
        num_choices: how many.
        seed: of the episodes and the choices.

    Raises:
        ValueError: if the environment knows nobody.
    """
    task = getattr(env, "unwrapped", env)
    if not hasattr(task, "behaviour"):
        raise ValueError(f"{type(task).__name__} knows no people who act in it; give a file of transitions: "
                         "--dataset FILE")  # fmt: skip
    return collect_transitions(People(task.behaviour(), seed), rows, num_choices, seed=seed)


def collect_programs(
    env: Any, num_programs: int, *, correct_share: float = 0.3, mistakes: int = 5, seed: int = 0
) -> TransitionDataset:
    """Return programs of people who err, correct and incorrect ones, as transitions of whole episodes.

    Args:
        env: a scalar environment that knows such people, whose ``draw_programs`` is asked.
        num_programs: how many.
        correct_share: probability that a program passes its tests.
        mistakes: how many different ones are made after each prompt.
        seed: of the draws.

    Raises:
        ValueError: if the environment knows no programs, or an argument is bad.
    """
    task = getattr(env, "unwrapped", env)
    if not hasattr(task, "draw_programs"):
        raise ValueError(f"{type(task).__name__} knows nobody who writes programs; give a file of "
                         "transitions: --dataset FILE")  # fmt: skip
    drawn = task.draw_programs(num_programs, correct_share=correct_share, mistakes=mistakes, seed=seed)
    written = task.written(*drawn)
    steps = np.arange(written.actions.shape[1])
    kept, last = (rule(steps, written.lengths[:, None]) for rule in (np.less, lambda t, n: t == n - 1))
    rows = torch.as_tensor(kept)
    ends = torch.as_tensor(last)[rows]
    obs = torch.as_tensor(written.obs)
    return TransitionDataset.from_transitions(
        obs=obs[:, :-1][rows], actions=torch.as_tensor(written.actions)[rows],
        rewards=torch.as_tensor(last * written.rewards[:, None])[rows].to(torch.float32),
        next_obs=obs[:, 1:][rows], terminations=ends, truncations=torch.zeros_like(ends),
        observation_space=task.observation_space, action_space=task.action_space,
        env_id=None if env.spec is None else env.spec.id,
    )  # fmt: skip


def collect_mixture(
    env: Any, num_actions: int, *, mixture: str = "reference", seed: int = 0
) -> TransitionDataset:
    """Return actions of a mixture that an environment of one step knows, as transitions.

    Args:
        env: a scalar environment that knows mixtures, whose ``draw_actions`` is asked.
        num_actions: how many, each after a start of its own.
        mixture: whose actions; see the environment.
        seed: of the draws.

    Raises:
        ValueError: if the environment knows no mixtures, or an argument is bad.
    """
    task = getattr(env, "unwrapped", env)
    if not hasattr(task, "draw_actions"):
        raise ValueError(f"{type(task).__name__} knows no mixture of actions; give a file of transitions: "
                         "--dataset FILE")  # fmt: skip
    drawn = task.draw_actions(num_actions, mixture, seed)
    obs, actions, rewards = (torch.as_tensor(values) for values in drawn)
    ends = torch.ones(len(obs), dtype=torch.bool)
    return TransitionDataset.from_transitions(
        obs=obs, actions=actions, rewards=rewards.to(torch.float32), next_obs=obs, terminations=ends,
        truncations=~ends, observation_space=task.observation_space, action_space=task.action_space,
        env_id=None if env.spec is None else env.spec.id,
    )  # fmt: skip


def compare_mixtures(env: Any, num_pairs: int, *, seed: int = 0) -> Preferences:
    """Return comparisons of single actions after the same starts: an expert's, second, over the reference's.

    Args:
        env: a scalar environment that knows both mixtures.
        num_pairs: how many.
        seed: of the draws.

    Raises:
        ValueError: if the environment knows no mixtures, or an argument is bad.
    """
    task, reference = env.unwrapped, collect_mixture(env, num_pairs, seed=seed)
    rng = np.random.default_rng([seed, 1])
    draws = rng.random(num_pairs), rng.standard_normal((num_pairs, 2))
    expert = task.mixture_actions(reference.obs.numpy(), *draws, "expert")
    obs, ones = reference.obs[:, None].expand(-1, 2, -1).clone(), torch.ones(num_pairs)
    first, second = (
        Segments(obs, actions[:, None], ones.to(torch.int64), ones.to(torch.bool))
        for actions in (reference.actions, torch.as_tensor(expert, dtype=reference.actions.dtype))
    )
    labels = ones.to(torch.float64)
    nobody = torch.zeros(num_pairs, dtype=torch.int64)
    return Preferences(first, second, labels, labels.clone(), nobody, ("expert",))


def _spaces(env: Any, agent: Policy | None) -> tuple[Any, Any]:
    """Return the spaces of single observations and actions, which data sets and the agent must take."""
    found = []
    for name in ("observation_space", "action_space"):
        here = getattr(env, f"single_{name}", None) or getattr(env, name)
        if not isinstance(here, (gym.spaces.Discrete, gym.spaces.Box)):
            raise TypeError(f"env has the {name} {here}; allowed are Discrete and Box spaces")
        known = getattr(agent, name, here)
        if known != here:
            raise ValueError(f"the agent's {name} is {known}; the environment's is {here}")
        found.append(here)
    return found[0], found[1]


class _EpsilonUniform:
    """Acts as a policy does, but with probability epsilon uniformly."""

    def __init__(self, policy: Policy | None, space: Any, epsilon: float, seed: int) -> None:
        bounded = not isinstance(space, gym.spaces.Box) or (
            space_dtype(space).is_floating_point and space.is_bounded("both")
        )
        if epsilon > 0.0 and not bounded:
            raise ValueError(
                f"epsilon is {epsilon}, but the action space {space} has no uniform actions; "
                "it must be Discrete, or a bounded Box of floats"
            )
        self.policy, self.space, self.epsilon = policy, space, epsilon
        self.device = torch.device("cpu") if policy is None else policy.device
        self.generator = seeded_generator(seed, "uniform actions of a data set")

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        if self.policy is None:
            return self._uniform(len(obs)).to(self.device)
        actions = self.policy.act(obs, deterministic=deterministic)
        if self.epsilon == 0.0:
            return actions
        uniform = self._uniform(len(obs)).to(actions)
        chosen = torch.rand(len(obs), generator=self.generator) < self.epsilon
        chosen = chosen.reshape(-1, *(1,) * (actions.ndim - 1)).to(self.device)
        return torch.where(chosen, uniform, actions)

    def _uniform(self, count: int) -> Tensor:
        space = self.space
        if isinstance(space, gym.spaces.Discrete):
            drawn = torch.randint(int(space.n), (count,), generator=self.generator)
            return drawn + int(space.start)
        low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
        unit = torch.rand((count, *low.shape), generator=self.generator, dtype=low.dtype)
        return torch.lerp(low.expand_as(unit), high.expand_as(unit), unit)


class _Record(Listener):
    """Keeps all steps."""

    def __init__(self) -> None:
        self.steps: list[Transitions] = []

    def observe(self, transitions: Transitions) -> None:
        self.steps.append(transitions)

    def count(self) -> int:
        return int(torch.stack([step.mask for step in self.steps]).sum()) if self.steps else 0


def _in_episodes(
    steps: Sequence[Transitions], kept: Tensor, observation_space: Any, action_space: Any
) -> dict[str, Tensor]:
    """Return the fields of transitions that are kept [T, n], row after row, and where rows end."""
    columns = {name: torch.stack([getattr(step, name) for step in steps]).cpu() for name in _COLUMNS}
    columns.pop("mask")
    ends = torch.zeros_like(kept)
    last = torch.where(kept, torch.arange(len(kept))[:, None], -1).max(0).values
    rows = torch.nonzero(last >= 0).flatten()
    ends[last[rows], rows] = True
    columns["ends"] = ends
    by_row = {name: values.transpose(0, 1)[kept.T] for name, values in columns.items()}
    obs_dtype = space_dtype(observation_space)
    return {
        **by_row,
        "obs": by_row["obs"].to(obs_dtype),
        "next_obs": by_row["next_obs"].to(obs_dtype),
        "actions": by_row["actions"].to(space_dtype(action_space)),
        "rewards": by_row["rewards"].to(torch.float32),
    }
