"""A language model's decision problem small enough to enumerate: tokens after a prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_layout_seed

from .sequence_task import SequenceTask
from .sequence_tree import SequenceTree, check_tree, num_nodes

GRAIN = 256
"""Rewards are whole multiples of 1 / GRAIN: sums of them are exact, in float32 too, in any order."""


def draw_rewards(layout_seed: int, prompts: int, nodes: int, most: int = 1) -> NDArray[np.float64]:
    """Draw rewards [P, N] evenly from the multiples of 1/256 between -most and most; 0 for prompts."""
    rng = np.random.default_rng(layout_seed)
    rewards = rng.integers(-most * GRAIN, most * GRAIN + 1, size=(prompts, nodes)) / GRAIN
    rewards[:, 0] = 0.0
    return rewards


class TokenTreeDynamics(SequenceTask):
    """Say so many tokens after a prompt; every token after every prefix has a reward drawn from a seed.

    ## Description
    What a language model does, small enough to enumerate: after a prompt, `depth` tokens are chosen one by
    one out of `vocabulary`, and what was said so far is all there is to know. So every sequence, every
    return, the policy that preference optimisation aims at and the exact preference of each sequence over
    each other can be written down.

    ## Action Space
    `Discrete(vocabulary)`: the next token.

    ## Observation Space
    `Discrete(prompts * N)`, N = 1 + V + ... + V^T: the prompt and the tokens so far, as a number. The
    prompt p alone is `N p`; token a leads from `N p + i` to `N p + V i + 1 + a`.

    ## Rewards
    A multiple of 1/256 from -1 to 1 for every token after every prefix, drawn evenly from the seed. Sums are
    exact, in float32 too.

    ## Starting State
    Uniform over the prompts; or `reset(options={"prompt": p})`.

    ## Episode End
    Terminates after `depth` tokens.

    ## Arguments
    `vocabulary` (int, 3), `depth` (int, 4), `prompts` (int, 2), `layout_seed` (int, 0): which rewards. The
    same seed always gives the same tree; `reset(seed=...)` changes only the prompt. `render_mode`.

    ## Ground truth
    With K = V^T complete sequences: `sequences()` [K, T], `sequence_observations()` [P, K, T + 1],
    `sequence_returns()` [P, K], `preference_matrix()` [P, K, K] (Bradley-Terry of the returns),
    `soft_optimum(beta, reference)`, `regularized_value(policy, beta, reference)`, `true_value(policy)`,
    `optimal_value()`, `tabular_model()`; `sequence_log_probs(policy)` and `step_policy(log_probs)` go from
    steps to sequences and back. After `env.unwrapped` where `gym.make` has wrapped it.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, vocabulary: int = 3, depth: int = 4, prompts: int = 2, layout_seed: int = 0,
        backend: Backend | None = None,
    ) -> None:  # fmt: skip
        v, t, p = check_tree(vocabulary, depth, prompts, ("vocabulary", "depth", "prompts"))
        rewards = draw_rewards(check_layout_seed(layout_seed), p, num_nodes(v, t))
        super().__init__(SequenceTree(rewards, v, t), "prompt", backend)
