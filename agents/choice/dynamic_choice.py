"""DynamicChoice: a reward out of what people chose, and a careful policy for it (DCPPO, arXiv 2305.18438).

People who look ahead chose actions in a finite number of steps h = 1..H, not always the best:

    pi_h(a | s) = exp Q_h(s, a) / sum_b exp Q_h(s, b),        Q_h = r_h + gamma P V_{h+1}.

Neither r nor P is known, only their choices and what followed. In three steps:

1. Q by maximum likelihood of the choices, in each state up to a constant, which the anchor settles, an action
   whose Q is known to be 0;
2. r by ridge regression of Q_h(s, a) - gamma V_{h+1}(s') on features;
3. value iteration for the undiscounted sum of r, less ``pessimism`` times the uncertainty of each pair,
   Gamma_h = beta sqrt( phi' (Lambda_h + ridge I)^-1 phi ), so that what was hardly ever seen does not tempt.

The best policy needs to be covered by the data, nothing else does. Everything is convex and done at once, in
``prefrl.functional.choice.dynamic_choice``, for many data sets as one batch there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.config import Natural, NonNegative, Positive, Settings, Share
from prefrl.data import TransitionDataset, Transitions, seeded_generator
from prefrl.functional.choice import dynamic_choice as F

FITS = 3
"""Timesteps: choices, rewards, plan."""


@dataclass(frozen=True)
class DynamicChoiceConfig(Settings):
    """Settings of :class:`DynamicChoice`."""

    gamma: Share = 1.0
    """How far the people look ahead: 0 not at all, 1 to the end. The plan is undiscounted whatever it is."""

    value: F.ValueKind = "policy"
    """What a state is worth to them: the mean of Q over their choices, or log sum exp Q (Rust 1987)."""

    anchor: Natural | None = 0
    """The action whose Q is 0 in every state and step, counted from 0; None: Q is of mean 0 in every state,
    which predicts the same choices, but its reward is right only up to a function of states."""

    pessimism: NonNegative = 1.0
    """beta: standard errors, about, that are taken off what was seldom seen; the theorem's is useless, find
    yours by a sweep."""

    ridge: Positive = 1.0
    """lambda of the regressions."""

    choice_ridge: NonNegative = 1e-3
    """1 / variance of a normal prior on the parameters of Q, for actions that were never chosen."""

    reward_range: tuple[float, float] | None = None
    """Least and largest reward, which bound the plan's values; None: the environment's ``reward_range()``
    where it has one, else no bound."""

    sample_splitting: bool = False
    """Give each of the three steps a third of the episodes, so that errors of one do not meet themselves in
    the next; otherwise all are used three times."""

    def check(self) -> None:
        """Raise ValueError for a range that is none."""
        if self.reward_range is not None and not self.reward_range[0] <= self.reward_range[1]:
            raise ValueError(f"reward_range is {self.reward_range}; the first must be the smaller")


class DynamicChoice(Agent):
    """Learns from choices; see the module's text. A timestep is one of the three steps.

    Args:
        env: an environment whose observations are ``num_states * h + state``, as
            ``prefrl/DynamicChoice-v0``, or :class:`prefrl.agents.base.Spaces` with the same.
        config: settings.
        dataset: what people did; its rewards are not looked at. None for an agent that only acts.
        horizon: H (None: the environment's ``horizon``).
        features: [S, A, d] of states and actions, of length at most 1 (None: an indicator of each pair).
        device: torch device, or "auto".
        seed: of the draw of thirds in sample splitting.

    Raises:
        ValueError: for spaces, data, features or an anchor that do not fit.

    Attributes:
        q: [H, S, A] what people think actions are worth.
        rewards: [H, S, A] the reward that explains it.
        plan: [H, S, A] pessimistic values, and ``penalty`` [H, S, A], what was taken off.
    """

    config_class: ClassVar[type[DynamicChoiceConfig]] = DynamicChoiceConfig
    config: DynamicChoiceConfig
    steps_env = False

    def __init__(
        self,
        env: Any,
        config: DynamicChoiceConfig | None = None,
        *,
        dataset: TransitionDataset | None = None,
        horizon: int | None = None,
        features: Tensor | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or DynamicChoiceConfig(), device=device, seed=seed)
        task = getattr(env, "unwrapped", env)
        known: Any = getattr(task, "horizon", 0)
        self.horizon = int(horizon or known)
        self.num_states, self.num_actions = self._sizes()
        config, pairs = self.config, (self.num_states, self.num_actions)
        if config.anchor is not None and config.anchor >= self.num_actions:
            raise ValueError(f"anchor is {config.anchor}; there are {self.num_actions} actions")
        self.features = F.indicator_features(*pairs) if features is None else _checked(features, pairs)
        self.features = self.features.to(self.device)
        known_range = getattr(task, "reward_range", None)
        self.reward_range = config.reward_range or (known_range() if callable(known_range) else None)
        size = (self.horizon, *pairs)
        with torch.device(self.device):
            self.q, self.rewards, self.plan, self.penalty = torch.zeros(4, *size, dtype=torch.float64)
        self._moves = None if dataset is None else self._counted(dataset).to(self.device)

    def _sizes(self) -> tuple[int, int]:
        """Return S and A."""
        spaces = self.observation_space, self.action_space
        if all(isinstance(space, gym.spaces.Discrete) and space.start == 0 for space in spaces):
            observed, actions = (int(space.n) for space in spaces)
            if self.horizon > 0 and observed % (self.horizon + 1) == 0:
                return observed // (self.horizon + 1), actions
        raise ValueError(
            f"observations are {spaces[0]}, actions {spaces[1]} and horizon {self.horizon}; both must be "
            "Discrete, from 0 on, with num_states * (horizon + 1) observations"
        )

    def _counted(self, dataset: TransitionDataset) -> Tensor:
        """Return how often each state followed each pair [3, H, S, A, S] in what each step is given."""
        dataset.check_matches(self.observation_space, self.action_space)
        before, after = (
            obs.div(self.num_states, rounding_mode="floor") for obs in (dataset.obs, dataset.next_obs)
        )
        wrong = torch.nonzero((after != before + 1) | (before >= self.horizon))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                f"next_obs[{row}] is {int(dataset.next_obs[row])} after {int(dataset.obs[row])}; "
                f"observations are {self.num_states} * h + state, and h goes up by 1"
            )
        part = torch.zeros_like(before)
        if self.config.sample_splitting:
            if dataset.num_episodes < FITS:
                raise ValueError(f"there are {dataset.num_episodes} episodes; sample_splitting needs {FITS}")
            episode = torch.cat([part[:1], (~dataset.has_next_action).cumsum(0)[:-1]])
            drawn = torch.randperm(dataset.num_episodes, generator=seeded_generator(self.seed, "thirds"))
            part = drawn[episode] % FITS
        size = (FITS, self.horizon, self.num_states, self.num_actions, self.num_states)
        states = [obs % self.num_states for obs in (dataset.obs, dataset.next_obs)]
        place = torch.zeros_like(part)
        for axis, among in zip((part, before, states[0], dataset.actions, states[1]), size, strict=True):
            place = among * place + axis
        moves: Tensor = place.bincount(minlength=math.prod(size)).view(size).to(torch.float64)
        shared: Tensor = moves[:1].expand(size)
        return moves if self.config.sample_splitting else shared

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return the plan's actions [n] in observations [n], the same whether ``deterministic`` or not."""
        values: Tensor = self.plan.flatten(0, 1)[obs.clamp(max=self.horizon * self.num_states - 1)]
        return values.argmax(-1)

    @property
    def policy(self) -> Tensor:
        """[H, S, A] the plan as probabilities."""
        return torch.nn.functional.one_hot(self.plan.argmax(-1), self.num_actions).to(self.plan.dtype)

    @property
    def behaviour(self) -> Tensor:
        """[H, S, A] the fitted policy of the people: behaviour cloning."""
        return torch.softmax(self.q, -1)

    def observe(self, transitions: Transitions) -> None:
        """There is nothing to observe."""

    def update(self) -> dict[str, Tensor]:
        """Take the next of the three steps; after them nothing changes. See :meth:`Agent.update`."""
        if self._moves is None:
            raise ValueError("this agent was given no data set; it can act, but not learn")
        config, moves, phi = self.config, self._moves, self.features
        if self.num_timesteps == 0:
            self.q = F.choice_values(moves[0].sum(-1), phi, config.anchor, config.choice_ridge)
        elif self.num_timesteps == 1:
            self.rewards = F.bellman_rewards(self.q, moves[1], phi, config.gamma, config.value, config.ridge)
        elif self.num_timesteps == 2:
            self.plan, self.penalty = F.pessimistic_plan(
                self.rewards, moves[2], phi, pessimism=config.pessimism, ridge=config.ridge,
                reward_range=self.reward_range,
            )  # fmt: skip
        self.num_timesteps += 1
        return {"train/reward": self.rewards.mean(), "train/penalty": self.penalty.mean()}

    def result(self) -> dict[str, Any]:
        """Return the mean planned value of the first step: what the policy is worth at least, it thinks."""
        if self.num_timesteps < FITS:
            warnings.warn(f"{self.num_timesteps} of {FITS} steps were taken; the plan is not made",
                          stacklevel=2)  # fmt: skip
        return {"planned_value": float(self.plan[0].amax(-1).mean())}

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {"q": self.q, "rewards": self.rewards, "plan": self.plan, "penalty": self.penalty,
                "features": self.features}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; ValueError for tables of another task."""
        ours = self.state_dict()
        for name in ("q", "rewards", "plan", "penalty"):
            if state[name].shape != ours[name].shape or state[name].dtype != torch.float64:
                raise ValueError(f"its {name} is {state[name].dtype} {list(state[name].shape)}; here it is "
                                 f"torch.float64 {list(ours[name].shape)}")  # fmt: skip
            setattr(self, name, state[name].to(self.device))
        self.features = _checked(state["features"], self.features.shape[:2]).to(self.device)

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> DynamicChoice:
        return cls(env, config, horizon=state["q"].shape[0], features=state["features"], **settings)


def _checked(features: Tensor, pairs: Any) -> Tensor:
    """Return features [S, A, d] as float64; ValueError for others."""
    given = torch.as_tensor(features)
    if given.ndim != 3 or tuple(given.shape[:2]) != tuple(pairs) or not given.shape[2]:
        raise ValueError(f"features have shape {list(given.shape)}; they must be [S, A, d] = "
                         f"[{pairs[0]}, {pairs[1]}, d]")  # fmt: skip
    if not bool(torch.isfinite(given).all()):
        raise ValueError("features hold NaN or infinity")
    return given.to(torch.float64)
