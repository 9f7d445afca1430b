"""Find the hidden item by asking for its features: how much is an answer worth before it pays?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import check_count, check_layout_seed, check_number, reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics

Floats = NDArray[np.float64]

GRAIN = 1024
"""Chances of items are multiples of 1 / GRAIN: sums of them are exact, in float32 too."""

MAX_FEATURES = 16
"""So that items with features of their own can be drawn."""

MAX_SOLVED = 9
"""Features with which all that may be known (3 to the F) is gone through."""


class TwentyQuestionsDynamics(Dynamics):
    """Ask for binary features of a hidden item, then guess it; few questions, one guess.

    ## Description
    Each item has features of its own, drawn from a seed, and items are not equally frequent. An
    answer may be wrong, and stays the same when asked again. Only the guess pays, many questions later: a
    task for rewards of information, as ProMed's for questions of a physician (arXiv 2508.13514; the task is
    ours).

    ## Action Space
    `Discrete(features + items)`: ask for a feature, or, after those, guess an item.

    ## Observation Space
    `Box(-1, 1, (features + 1,))`: of each feature 1 if the answer was yes, -1 if no, 0 if it was not asked;
    and the share of the questions that were asked.

    ## Rewards
    1 for the right guess; minus `cost` for each question. `info["item"]` is the hidden item, and
    `info["correct"]` whether it has just been guessed.

    ## Starting State
    An item drawn by the chances of items, nothing known; or `reset(options={"item": i})`.

    ## Episode End
    Terminates with a guess, and with a question when none is left.

    ## Arguments
    `items` (int, 16), `features` (int, 8, at most 16), `questions` (int, 5), `error` (float, 0): chance that
    an answer is wrong, below 1/2. `cost` (float, 0). `layout_seed` (int, 0): which features and chances.
    `render_mode`.

    ## Ground truth
    `item_features()` [M, F], `prior()` [M], `posterior(obs)` [n, M] by Bayes' rule, and, by dynamic
    programming over all that may be known (up to 9 features), `action_values(obs)` [n, F + M] of the best
    way on and `optimal_value()`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, items: int = 16, features: int = 8, questions: int = 5, error: float = 0.0, cost: float = 0.0,
        layout_seed: int = 0, backend: Backend | None = None,
    ) -> None:  # fmt: skip
        super().__init__(backend)
        sizes = {"items": items, "features": features, "questions": questions}
        m, f, self.questions = (check_count(name, size) for name, size in sizes.items())
        if f > MAX_FEATURES:
            raise ValueError(f"features is {features}; it must be at most {MAX_FEATURES}")
        if not 2 <= m <= min(2**f, GRAIN // 2):
            raise ValueError(f"items is {items}; with {f} features it must be from 2 to "
                             f"{min(2**f, GRAIN // 2)}")  # fmt: skip
        if not 0.0 <= check_number("error", error) < 0.5:
            raise ValueError(f"error is {error!r}; it must lie in [0, 0.5)")
        if not 0.0 <= check_number("cost", cost) < np.inf:
            raise ValueError(f"cost is {cost!r}; it must be a finite number, not negative")
        self.num_items, self.num_features = m, f
        self.error, self.cost = float(error), float(cost)
        rng = np.random.default_rng(check_layout_seed(layout_seed))
        codes = rng.choice(2**f, size=m, replace=False)
        self._features = (codes[:, None] >> np.arange(f)) % 2 == 1
        self._prior: Floats = (1.0 + rng.multinomial(GRAIN - m, rng.dirichlet(np.full(m, 2.0)))) / GRAIN
        self._values: Floats | None = None
        self.single_observation_space = gym.spaces.Box(-1.0, 1.0, (f + 1,), np.float32)
        self.single_action_space = gym.spaces.Discrete(f + m)
        asarray, real = self.backend.asarray, self.backend.float_dtype
        self._thresholds = asarray(self._prior.cumsum()[:-1], real)
        self._signs = asarray(np.where(self._features, 1.0, -1.0), real)
        self._asks = asarray(np.concatenate([np.eye(f), np.zeros((m, f))]), real)

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`: which item, and which answers are wrong."""
        return {"item": rng.uniform(n), "wrong": rng.uniform(n, self.num_features)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`; what is answered was drawn at the start."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start with an item drawn by the chances of items, or the one that the options name."""
        reject_unknown_options(options, ("item",))
        xp, real = self.xp, self.backend.float_dtype
        item = xp.sum(xp.astype(noise["item"][:, None] >= self._thresholds, xp.int64), axis=1)
        given = (options or {}).get("item")
        if given is not None:
            whole = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
            if not whole or not 0 <= given < self.num_items:
                raise ValueError(f"item is {given!r}; it must be a whole number from 0 to "
                                 f"{self.num_items - 1}")  # fmt: skip
            item = xp.full_like(item, int(given))
        wrong = xp.astype(noise["wrong"] < self.error, real)
        answers = self._signs[item] * (1.0 - 2.0 * wrong)
        return {
            "item": item, "answers": answers, "known": xp.zeros_like(answers),
            "asked": xp.zeros_like(item), "correct": xp.zeros_like(item),
        }  # fmt: skip

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: the answers, and how many questions were asked."""
        asked = self.xp.astype(state["asked"], self.backend.float_dtype) / self.questions
        return self.observation(*state["known"].T, asked)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        xp, real = self.xp, self.backend.float_dtype
        asks = actions < self.num_features
        allowed = asks & (state["asked"] < self.questions)
        asked_for = self._asks[actions] * xp.astype(allowed, real)[:, None]
        correct = xp.astype(actions - self.num_features == state["item"], xp.int64)
        after = {
            **state, "known": xp.where(asked_for > 0.0, state["answers"], state["known"]),
            "asked": state["asked"] + xp.astype(allowed, xp.int64), "correct": correct,
        }  # fmt: skip
        rewards = xp.astype(correct, real) - self.cost * xp.astype(asks, real)
        return after, rewards, ~allowed

    def info(self, state: State) -> dict[str, Array]:
        """See :meth:`Dynamics.info`: the hidden item, and whether it has just been guessed."""
        return {name: self.xp.asarray(state[name], copy=True) for name in ("item", "correct")}

    def item_features(self) -> NDArray[np.bool_]:
        """Return whether items have features [M, F]."""
        return np.asarray(self._features.copy(), dtype=np.bool_)

    def prior(self) -> Floats:
        """Return the chances of items [M] before any question."""
        return self._prior.copy()

    def posterior(self, obs: ArrayLike) -> Floats:
        """Return the chances of items [n, M] after what was observed [n, F + 1], by Bayes' rule.

        Raises:
            ValueError: for observations of another shape, or answers that no item can give.
        """
        weights = self._weights(self._check_obs(obs)[:, :-1])
        total = weights.sum(-1, keepdims=True)
        if not (total > 0.0).all():
            raise ValueError("obs holds answers that no item gives")
        return np.asarray(weights / total)

    def _weights(self, answers: Floats) -> Floats:
        """Return chances of an item and answers together [n, M]."""
        agrees = (answers[:, None] > 0.0) == self._features
        likelihood = np.where(answers[:, None] == 0.0, 1.0, np.where(agrees, 1.0 - self.error, self.error))
        return np.asarray(self._prior * likelihood.prod(-1))

    def _check_obs(self, obs: ArrayLike) -> Floats:
        given = np.asarray(obs, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != self.num_features + 1:
            raise ValueError(f"obs has shape {given.shape}; it must be [n, {self.num_features + 1}]")
        return given

    def action_values(self, obs: ArrayLike) -> Floats:
        """Return the values [n, F + M] of actions after which one goes on in the best way.

        Args:
            obs: [n, F + 1] observations.

        Raises:
            ValueError: as :meth:`posterior`, and for more than 9 features.
        """
        given, chances = self._check_obs(obs), self.posterior(obs)
        left = self.questions - np.round(given[:, -1] * self.questions).astype(np.int64)
        digits = np.where(given[:, :-1] == 0.0, 0, np.where(given[:, :-1] > 0.0, 2, 1))
        power = 3 ** np.arange(self.num_features)
        code, values = digits @ power, self._solved()
        weight = self._weights(given[:, :-1]).sum(-1)
        asks = np.empty((len(given), self.num_features))
        for feature, step in enumerate(power):
            unknown = digits[:, feature] == 0
            fewer = np.maximum(left - 1, 0)
            split = values[fewer, code + np.where(unknown, step, 0)]
            split = split + np.where(unknown, values[fewer, np.where(unknown, code + 2 * step, 0)], 0.0)
            asks[:, feature] = np.where(left > 0, split / weight, 0.0) - self.cost
        return np.concatenate([asks, chances], -1)

    def optimal_value(self) -> float:
        """Return what the best way to ask and guess earns; ValueError for more than 9 features."""
        return float(self._solved()[self.questions, 0])

    def _solved(self) -> Floats:
        """Return values times chances [questions left + 1, 3^F] of all that may be known."""
        if self.num_features > MAX_SOLVED:
            raise ValueError(f"features is {self.num_features}; with more than {MAX_SOLVED} there is too "
                             "much that may be known to go through it")  # fmt: skip
        if self._values is None:
            f = self.num_features
            codes, power = np.arange(3**f), 3 ** np.arange(f)
            digits = codes[:, None] // power % 3
            weights = self._weights(np.array([0.0, -1.0, 1.0])[digits])
            guess, total = weights.max(-1), weights.sum(-1)
            values = np.empty((self.questions + 1, 3**f))
            values[0] = guess
            for left in range(1, self.questions + 1):
                best = guess.copy()
                for feature, step in enumerate(power):
                    rows = codes[digits[:, feature] == 0]
                    asked = values[left - 1, rows + step] + values[left - 1, rows + 2 * step]
                    best[rows] = np.maximum(best[rows], asked - self.cost * total[rows])
                values[left] = best
            self._values = values
        return self._values

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: items, their features, the answers, and what is likely now."""
        from prefrl.envs.rendering.puzzles import draw_answers

        known = np.asarray([float(answer) for answer in state["known"][index]])
        chances = self.posterior(np.append(known, 0.0)[None])[0]
        left = self.questions - int(state["asked"][index])
        return draw_answers(self._features, known.astype(np.int64).tolist(), chances, left)
