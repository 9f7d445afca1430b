"""Choosing tokens after a prompt, one by one, in a tree whose every reward is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.backend import Array, Backend, Noise, Random, State
from prefrl.envs.core.checks import reject_unknown_options
from prefrl.envs.core.dynamics import Dynamics
from prefrl.envs.grids.grid import TabularModel

from .sequence_tree import Floats, SequenceTree, SoftOptimum


class SequenceTask(Dynamics):
    """P trees, stepped through their tables; state ``N p + i`` is node i of the tree of prompt p.

    Args:
        tree: of rewards [P, N].
        prompt_name: what a prompt is called, in reset's options and in pictures.
        backend: where the arrays live.
        ends: [N] bool: nodes besides the leaves in which an episode ends (None: no other). What lies below
            them must pay nothing.
    """

    def __init__(
        self, tree: SequenceTree, prompt_name: str, backend: Backend | None = None,
        ends: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(backend)
        self.tree, self._prompt_name = tree, prompt_name
        self.num_prompts, self._nodes = tree.rewards.shape
        self._tokens = tree.vocabulary
        states = self.num_prompts * self._nodes
        self.single_observation_space = gym.spaces.Discrete(states)
        self.single_action_space = gym.spaces.Discrete(self._tokens)
        node, first = np.divmod(np.arange(states), self._nodes)[1], self._nodes - tree.num_sequences
        self._ends = node >= first
        if ends is not None:
            self._ends = self._ends | ends[node]
        children = (np.arange(states) - node + self._tokens * node)[:, None] + 1 + np.arange(self._tokens)
        self._children = np.where(self._ends[:, None], np.arange(states)[:, None], children)
        pays = np.where(self._ends[:, None], 0.0, tree.rewards.reshape(-1)[self._children])
        asarray = self.backend.asarray
        # Copies: what a user does to the model must not reach the running environment.
        self._successors = asarray(self._children.flatten())
        self._rewards = asarray(pays.flatten(), self.backend.float_dtype)
        self._terminal = asarray(self._ends.copy())

    def reset_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.reset_noise`."""
        return {"prompt": rng.uniform(n)}

    def step_noise(self, rng: Random, n: int) -> Noise:
        """See :meth:`Dynamics.step_noise`; a tree needs none."""
        return {}

    def initial(self, noise: Noise, options: Mapping[str, Any] | None = None) -> State:
        """Start after a prompt, evenly drawn, or the one that the options name."""
        reject_unknown_options(options, (self._prompt_name,))
        xp, uniform = self.xp, noise["prompt"]
        # Noise recorded in float64 can round up to 1 in float32.
        prompt = xp.astype(uniform * self.num_prompts, xp.int64)
        prompt = xp.where(prompt < self.num_prompts, prompt, self.num_prompts - 1)
        given = (options or {}).get(self._prompt_name)
        if given is not None:
            prompt = xp.full_like(prompt, self._check_prompt(given))
        return {"state": self._nodes * prompt}

    def _check_prompt(self, prompt: Any) -> int:
        whole = isinstance(prompt, (int, np.integer)) and not isinstance(prompt, bool)
        if not whole or not 0 <= prompt < self.num_prompts:
            raise ValueError(f"{self._prompt_name} is {prompt!r}; it must be a whole number from 0 to "
                             f"{self.num_prompts - 1}")  # fmt: skip
        return int(prompt)

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: the state's number."""
        return self.xp.asarray(state["state"], copy=True)

    def step(self, state: State, actions: Array, noise: Noise) -> tuple[State, Array, Array]:
        """See :meth:`Dynamics.step`."""
        pair = state["state"] * self._tokens + actions
        next_state = self._successors[pair]
        return {"state": next_state}, self._rewards[pair], self._terminal[next_state]

    def tabular_model(self) -> TabularModel:
        """Return the exact MDP, whose one feature is the reward; leaves are terminal."""
        size = (len(self._ends), self._tokens, 1)
        pays = np.where(self._ends[:, None], 0.0, self.tree.rewards.reshape(-1)[self._children])
        start = np.zeros(size[0])
        start[:: self._nodes] = 1.0 / self.num_prompts
        return TabularModel(self._children[..., None].copy(), np.ones(size), pays[..., None, None],
                            np.ones(1), self._ends.copy(), start, ("reward",))  # fmt: skip

    def sequences(self) -> NDArray[np.int64]:
        """Return the tokens [K, T] of all complete sequences."""
        return self.tree.sequences()

    def sequence_observations(self) -> NDArray[np.int64]:
        """Return what is observed along complete sequences [P, K, T + 1], the prompt first, the leaf last."""
        first = self._nodes * np.arange(self.num_prompts)
        return np.asarray(first[:, None, None] + self.tree.sequence_nodes())

    def sequence_returns(self) -> Floats:
        """Return the undiscounted returns [P, K] of complete sequences."""
        return self.tree.returns()

    def preference_matrix(self) -> Floats:
        """Return P(i is preferred to j) [P, K, K] over complete sequences, as exact probabilities.

        The label of a pair of segments is the probability that the second is preferred: ``matrix[:, j, i]``
        for the pair of sequence i and, second, sequence j.
        """
        return self.tree.preference_matrix()

    def sequence_log_probs(self, policy: ArrayLike) -> Floats:
        """Return log-probabilities [P, K] of complete sequences under a policy [S, A]."""
        return self.tree.log_probs(self._by_prompt("policy", policy))

    def step_policy(self, log_probs: ArrayLike) -> Floats:
        """Return the policy [S, A] that gives complete sequences probabilities exp(log_probs) [P, K]."""
        given = np.asarray(log_probs, dtype=np.float64)
        expected = (self.num_prompts, self.tree.num_sequences)
        if given.shape != expected:
            raise ValueError(f"log_probs have shape {given.shape}; they must be [P, K] = {list(expected)}")
        return self.tree.step_policy(given).reshape(-1, self._tokens)

    def soft_optimum(self, beta: float, reference: ArrayLike | None = None) -> SoftOptimum:
        """Return what maximises E R - beta KL(policy | reference), exactly.

        Args:
            beta: price of a nat of divergence, above 0.
            reference: [S, A] a policy (None: even over actions).

        Returns:
            Log-probabilities [P, K] of complete sequences, the policy [S, A], soft values [S], and the value
            E R - beta KL of each prompt [P].
        """
        prior = None if reference is None else self._by_prompt("reference", reference)
        found = self.tree.soft_optimum(beta, prior)
        return SoftOptimum(
            found.log_probs, found.policy.reshape(-1, self._tokens), found.values.reshape(-1), found.value
        )

    def regularized_value(self, policy: ArrayLike, beta: float, reference: ArrayLike | None = None) -> Floats:
        """Return E R - beta KL(policy | reference) [P] of a policy [S, A]; the reference as above."""
        prior = None if reference is None else self._by_prompt("reference", reference)
        return self.tree.regularized_value(self._by_prompt("policy", policy), beta, prior)

    def true_value(self, policy: ArrayLike, gamma: float = 1.0) -> Floats:
        """Return V [S] of a policy [S, A] under the true reward."""
        return self.tree.policy_values(self._by_prompt("policy", policy), gamma).reshape(-1)

    def optimal_value(self, gamma: float = 1.0) -> Floats:
        """Return V* [S] under the true reward."""
        return self.tree.optimal_values(gamma).reshape(-1)

    def _by_prompt(self, name: str, policy: ArrayLike) -> Floats:
        """Return a policy [S, A] as [P, N, V]; ValueError for another shape."""
        table, expected = np.asarray(policy, dtype=np.float64), (len(self._ends), self._tokens)
        if table.shape != expected:
            raise ValueError(f"{name} has shape {table.shape}; it must be [S, A] = {list(expected)}")
        return table.reshape(self.num_prompts, self._nodes, self._tokens)

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the prompt, and the tokens taken so far out of those there are."""
        from prefrl.envs.rendering.sequences import draw_sequence

        prompt, node = divmod(int(state["state"][index]), self._nodes)
        tokens: list[int] = []
        while node:
            node, token = divmod(node - 1, self._tokens)
            tokens.insert(0, token)
        return draw_sequence(f"{self._prompt_name} {prompt}", tokens, self._tokens, self.tree.depth)
