"""A task of few states in which somebody who looks ahead has chosen, with everything about them known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import check_count, check_layout_seed, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics
from prefrl.envs.grids.grid import TabularModel

Floats = NDArray[np.float64]

GRAIN = 64
"""Probabilities of next states are multiples of 1 / GRAIN: their sums are exact, in float32 too."""

SPREAD = 2.0
"""Values of choices are drawn evenly between minus this and this."""

ANCHOR = 0
"""The action whose value to people is 0 everywhere."""

ValueKind = Literal["policy", "logsumexp"]


class DynamicChoiceDynamics(Dynamics):
    """A few states and steps, whose reward people showed only by what they chose.

    ## Description
    States, actions and transitions are drawn from a seed. People who have acted here chose action a in step h
    with probability proportional to exp Q_h(s, a), Q_h = r_h + gamma P V_{h+1}: they look ahead, as far as
    `gamma` says, and do not always take the best. Their Q is drawn, 0 for action 0, and the reward is what
    makes them right: r_h = Q_h - gamma P V_{h+1}. `behaviour()` is their policy, from which data are made; an
    agent is to find a policy for the undiscounted sum of rewards without seeing them
    (arXiv 2305.18438 has the model, and no experiments; the draws are ours).

    ## Action Space
    `Discrete(num_actions)`.

    ## Observation Space
    `Discrete(num_states * (horizon + 1))`: `num_states * h + s` in state s after h steps.

    ## Rewards
    As above; some are negative, those of action 0 mostly, since Q is 0 there.

    ## Starting State
    Uniform over the states; or `reset(options={"state": s})`.

    ## Episode End
    Terminates after `horizon` steps.

    ## Arguments
    `num_states` (int, 5), `num_actions` (int, 3), `horizon` (int, 3), `layout_seed` (int, 0): which task;
    `reset(seed=...)` changes only what happens in it. `gamma` (float, 1), how far people look ahead, from 0
    to 1; `value` ("policy" or "logsumexp"): what a state is worth to them, the mean of Q over their choices,
    or log sum exp Q. `render_mode`.

    ## Ground truth
    `behaviour()` and `choice_values()` [H, S, A], `rewards()` [H, S, A], `transitions()` [S, A, S],
    `true_value(policy)` and `optimal_value()` [S], `reward_range()`, `tabular_model()`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, num_states: int = 5, num_actions: int = 3, horizon: int = 3, layout_seed: int = 0,
        gamma: float = 1.0, value: ValueKind = "policy", backend: Backend | None = None,
    ) -> None:  # fmt: skip
        super().__init__(backend)
        sizes = {"num_states": num_states, "num_actions": num_actions, "horizon": horizon}
        s, a, h = (check_count(name, size) for name, size in sizes.items())
        if a < 2:
            raise ValueError(f"num_actions is {num_actions}; a choice needs at least 2")
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma!r}; it must lie in [0, 1]")
        if value not in get_args(ValueKind):
            raise ValueError(f"value is {value!r}; allowed are {list(get_args(ValueKind))}")
        self.num_states, self.horizon, self.gamma, self.value = s, h, float(gamma), value
        rng = np.random.default_rng(check_layout_seed(layout_seed))
        self._transitions = rng.multinomial(GRAIN, rng.dirichlet(np.full(s, 0.5), (s, a))) / GRAIN
        self._q = rng.uniform(-SPREAD, SPREAD, (h, s, a))
        self._q[..., ANCHOR] = 0.0
        following = np.concatenate([self._choice_state_values()[1:], np.zeros((1, s))])
        self._rewards: Floats = self._q - self.gamma * np.einsum("sat,ht->hsa", self._transitions, following)
        self.single_observation_space = gym.spaces.Discrete(s * (h + 1))
        self.single_action_space = gym.spaces.Discrete(a)
        self.num_actions = a
        asarray, real = self.backend.asarray, self.backend.float_dtype
        thresholds = self._transitions.cumsum(-1)[..., : max(1, s - 1)]
        self._thresholds = asarray(thresholds.reshape(s * a, -1).copy(), real)
        self._pays = asarray(self._rewards.flatten(), real)

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"state": rng.uniform(n)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`."""
        return {"next": rng.uniform(n)}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start in a state drawn evenly, or the one that the options name."""
        reject_unknown_options(options, ("state",))
        xp, uniform = self.xp, noise["state"]
        state = xp.astype(uniform * self.num_states, xp.int64)
        # Noise recorded in float64 can round up to 1 in float32.
        state = xp.where(state < self.num_states, state, self.num_states - 1)
        given = (options or {}).get("state")
        if given is not None:
            whole = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
            if not whole or not 0 <= given < self.num_states:
                raise ValueError(f"state is {given!r}; it must be a whole number from 0 to "
                                 f"{self.num_states - 1}")  # fmt: skip
            state = xp.full_like(state, int(given))
        return {"state": state, "time": xp.zeros_like(state)}

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: the state's number after so many steps."""
        return self.num_states * state["time"] + state["state"]

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp, count = self.xp, self.num_actions
        pair = state["state"] * count + actions
        if self.num_states == 1:
            next_state = xp.zeros_like(pair)
        else:
            passed = noise["next"][:, None] >= self._thresholds[pair]
            next_state = xp.sum(xp.astype(passed, pair.dtype), axis=1)
        # The row after the end, where nothing is paid any more, is never stepped from.
        row = xp.where(state["time"] < self.horizon, state["time"], self.horizon - 1)
        rewards = self._pays[row * (self.num_states * count) + pair]
        time = state["time"] + 1
        return {"state": next_state, "time": time}, rewards, time >= self.horizon

    def transitions(self) -> Floats:
        """Return the probabilities [S, A, S] of next states."""
        return self._transitions.copy()

    def choice_values(self) -> Floats:
        """Return Q [H, S, A] of those who chose; 0 for action 0."""
        return self._q.copy()

    def behaviour(self) -> Floats:
        """Return the policy [H, S, A] of those who chose: exp Q over its sum."""
        weights = np.exp(self._q - self._q.max(-1, keepdims=True))
        return np.asarray(weights / weights.sum(-1, keepdims=True))

    def _choice_state_values(self) -> Floats:
        """Return what states are worth to those who chose [H, S]."""
        if self.value == "policy":
            return np.asarray(np.einsum("hsa,hsa->hs", self.behaviour(), self._q))
        return np.asarray(np.log(np.exp(self._q).sum(-1)))

    def rewards(self) -> Floats:
        """Return the rewards [H, S, A]."""
        return self._rewards.copy()

    def reward_range(self) -> tuple[float, float]:
        """Return the least and the largest reward."""
        return float(self._rewards.min()), float(self._rewards.max())

    def true_value(self, policy: ArrayLike) -> Floats:
        """Return the undiscounted value [S] of a policy [H, S, A] from each state, from the first step on."""
        table = np.asarray(policy, dtype=np.float64)
        if table.shape != self._q.shape:
            raise ValueError(f"policy has shape {table.shape}; it must be [H, S, A] = {list(self._q.shape)}")
        values: Floats = np.zeros(self.num_states)
        for h in reversed(range(self.horizon)):
            values = (table[h] * (self._rewards[h] + self._transitions @ values)).sum(-1)
        return values

    def optimal_value(self) -> Floats:
        """Return the largest undiscounted value [S] from each state, from the first step on."""
        values: Floats = np.zeros(self.num_states)
        for h in reversed(range(self.horizon)):
            values = (self._rewards[h] + self._transitions @ values).max(-1)
        return values

    def tabular_model(self) -> TabularModel:
        """Return the exact MDP over observations, whose one feature is the reward."""
        s, a, h = self.num_states, self.num_actions, self.horizon
        number = np.arange(s * (h + 1))
        successors = (
            np.broadcast_to(np.arange(s), (s * (h + 1), a, s)) + (s * (number // s + 1))[:, None, None]
        )
        terminal = number >= s * h
        successors = np.where(terminal[:, None, None], number[:, None, None], successors)
        pays = np.concatenate([self._rewards.reshape(s * h, a), np.zeros((s, a))])
        features = np.broadcast_to(pays[:, :, None, None], (*successors.shape, 1)).copy()
        start = np.where(number < s, 1.0 / s, 0.0)
        return TabularModel(successors, np.tile(self._transitions, (h + 1, 1, 1)), features, np.ones(1),
                            terminal, start, ("reward",))  # fmt: skip

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the states in a row for each step, with where the episode is."""
        from prefrl.envs.rendering.sequences import draw_states

        here, time = int(state["state"][index]), int(state["time"][index])
        return draw_states("state by step", self.num_states, self.horizon, here, min(time, self.horizon))
