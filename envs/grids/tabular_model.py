"""What an environment with finitely many states tells a solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class TabularModel:
    """A finite MDP with linear reward features, in numpy; what an environment tells a solver.

    S states, A actions, at most K successors of a pair, F features. Rows of terminal states lead to
    themselves with zero features.

    Raises:
        ValueError: if the arrays contradict each other or the above.
    """

    successors: NDArray[np.int64]
    """[S, A, K] next states."""
    probabilities: NDArray[np.float64]
    """[S, A, K] their probabilities; unused places hold 0."""
    features: NDArray[np.float64]
    """[S, A, K, F] features of each transition."""
    weights: NDArray[np.float64]
    """[F] true reward weights."""
    terminal: NDArray[np.bool_]
    """[S] absorbing states: episode ends, and cells that cannot be entered."""
    start: NDArray[np.float64]
    """[S] start distribution."""
    feature_names: tuple[str, ...]
    """[F] names."""

    def __post_init__(self) -> None:
        shape = self.successors.shape
        if len(shape) != 3:
            raise ValueError(f"successors has shape {shape}; it must be [S, A, K]")
        states = shape[0]
        shapes = {
            "probabilities": shape,
            "features": (*shape, len(self.feature_names)),
            "weights": (len(self.feature_names),),
            "terminal": (states,),
            "start": (states,),
        }
        for name, expected in shapes.items():
            if getattr(self, name).shape != expected:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; "
                                 f"successors {shape} and feature_names ask for {expected}")  # fmt: skip
        if ((self.successors < 0) | (self.successors >= states)).any():
            raise ValueError(f"successors must be states from 0 to {states - 1}")
        for name, total in (("probabilities", self.probabilities.sum(-1)), ("start", self.start.sum())):
            if (getattr(self, name) < 0).any() or not np.allclose(total, 1.0, rtol=0.0, atol=1e-9):
                raise ValueError(f"{name} must not be negative and must sum to 1")
        here = np.flatnonzero(self.terminal)[:, None, None]
        if (self.successors[self.terminal] != here).any() or self.features[self.terminal].any():
            raise ValueError("terminal states must lead to themselves with zero features")
        if not (np.isfinite(self.weights).all() and np.isfinite(self.features).all()):
            raise ValueError("weights and features must be finite")

    @classmethod
    def from_arrays(
        cls, transitions: ArrayLike, rewards: ArrayLike, start: ArrayLike | None = None,
        terminal: ArrayLike | None = None,
    ) -> TabularModel:  # fmt: skip
        """Return the model of dense tables, whose one feature is the reward.

        Args:
            transitions: [S, A, S] probabilities of the next states.
            rewards: [S, A] expected rewards, or [S, A, S] one for each next state.
            start: [S] start distribution (None: even over all states that are not terminal).
            terminal: [S] states that end an episode (None: none does); what their rows say does not count.

        Raises:
            ValueError: naming the table that does not fit, or is no distribution, or not finite.
        """
        chances = np.array(transitions, dtype=np.float64)
        if chances.ndim != 3 or chances.shape[0] != chances.shape[2] or not chances.size:
            raise ValueError(f"transitions have shape {chances.shape}; they must be [S, A, S]")
        states, actions, _ = chances.shape
        ends = np.zeros(states, dtype=bool) if terminal is None else np.array(terminal)
        if ends.shape != (states,) or ends.dtype != np.bool_:
            raise ValueError(f"terminal has shape {ends.shape} and dtype {ends.dtype}; it must be {states} "
                             "booleans")  # fmt: skip
        pays = np.array(rewards, dtype=np.float64)
        if pays.shape not in ((states, actions), chances.shape):
            raise ValueError(f"rewards have shape {pays.shape}; they must be {(states, actions)} or "
                             f"{chances.shape}")  # fmt: skip
        chances[ends] = np.eye(states)[ends][:, None]
        wrong = np.argwhere(~np.isclose(chances.sum(-1), 1.0, rtol=0.0, atol=1e-9) | (chances < 0.0).any(-1))
        if len(wrong):
            state, action = wrong[0].tolist()
            raise ValueError(f"transitions of state {state} and action {action} are no distribution: they "
                             "must not be negative, and sum to 1")  # fmt: skip
        if start is None and ends.all():
            raise ValueError("all states are terminal; give one that is not, or a start")
        begin = (~ends / (~ends).sum()) if start is None else np.array(start, dtype=np.float64)
        most = int((chances > 0.0).sum(-1).max())
        successors = np.argsort(chances <= 0.0, axis=-1, kind="stable")[..., :most]  # the possible ones first
        probabilities = np.take_along_axis(chances, successors, -1)
        every = np.broadcast_to(pays[..., None], chances.shape) if pays.ndim == 2 else pays
        features = np.where(ends[:, None, None], 0.0, np.take_along_axis(every, successors, -1))[..., None]
        successors[ends] = np.flatnonzero(ends)[:, None, None]
        return cls(successors, probabilities, features, np.ones(1), ends, begin, ("reward",))

    @property
    def rewards(self) -> NDArray[np.float64]:
        """[S, A, K] true rewards."""
        return self.features @ self.weights

    def true_value(self, policy: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
        """Return V [S] of a policy [S, A] (probabilities) under the true reward, by a linear solve.

        Raises:
            ValueError: if ``policy`` or ``gamma`` is none, or ``gamma`` is 1 and the policy never ends from
                some state.
        """
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}; it must lie in [0, 1]")
        policy = np.asarray(policy, dtype=np.float64)
        if policy.shape != self.successors.shape[:2]:
            raise ValueError(f"policy has shape {policy.shape}; it must be {self.successors.shape[:2]}")
        if not (np.allclose(policy.sum(1), 1.0, rtol=0.0, atol=1e-9) and (policy >= 0.0).all()):
            raise ValueError("policy must hold probabilities: not negative, summing to 1 in every state")
        size = len(self.terminal)
        transition = np.zeros((size, size))
        weight = policy[:, :, None] * self.probabilities * ~self.terminal[:, None, None]
        np.add.at(transition, (np.arange(size)[:, None, None], self.successors), weight)
        if gamma == 1.0 and not self._ends(transition).all():
            raise ValueError("policy never ends from some states, so at gamma = 1 it has no value there")
        reward = (weight * self.rewards).sum((1, 2))
        return np.asarray(np.linalg.solve(np.eye(size) - gamma * transition, reward), dtype=np.float64)

    def _ends(self, transition: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return the states [S] from which ``transition`` [S, S] can reach a terminal one."""
        reached, before = self.terminal, 0
        while reached.sum() > before:
            before = reached.sum()
            reached = reached | (transition @ reached > 0.0)
        return reached

    def optimal_value(self, gamma: float) -> NDArray[np.float64]:
        """Return V* [S] under the true reward, by policy iteration from the policy that seeks an end.

        At ``gamma = 1`` it is the best value among policies that end. Strict improvements of such a policy
        end too, unless some loop pays: then there is no finite value.

        Raises:
            ValueError: if ``gamma`` lies outside [0, 1], or is 1 where from some state no end can be reached
                or a loop pays.
        """
        policy = np.eye(self.successors.shape[1])[self._towards_an_end()]
        for _ in range(10_000):
            value = self.true_value(policy, gamma)
            quality = (self.probabilities * (self.rewards + gamma * value[self.successors])).sum(2)
            better = quality.max(1) > value + 1e-9 * (1.0 + np.abs(value))
            better &= ~self.terminal
            if not better.any():
                return value
            policy[better] = np.eye(policy.shape[1])[quality[better].argmax(1)]
        raise RuntimeError("policy iteration did not settle")

    def _towards_an_end(self) -> NDArray[np.intp]:
        """Return actions [S] that reach a terminal state soon."""
        value = np.zeros(len(self.terminal))
        quality = np.zeros(self.successors.shape[:2])
        for _ in range(len(value) + 1):
            quality = (self.probabilities * value[self.successors]).sum(2)
            value = np.where(self.terminal, 0.0, quality.max(1) - 1.0)
        return np.asarray(quality.argmax(1))
