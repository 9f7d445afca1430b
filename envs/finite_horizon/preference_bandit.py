"""One choice among arms, of which it is known how often each is preferred to each."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.checks import check_layout_seed

from .sequence_task import SequenceTask
from .sequence_tree import MAX_PAIRS, SequenceTree, bradley_terry_matrix, check_tree
from .token_tree import GRAIN, draw_rewards

Kind = Literal["bradley_terry", "general", "intransitive"]
"""Where preferences come from."""


def draw_preferences(layout_seed: int, contexts: int, arms: int, kind: Kind) -> NDArray[np.float64]:
    """Draw P(i is preferred to j) [contexts, arms, arms] that no rewards stand behind.

    "general": every pair evenly from the multiples of 1/256 between 0 and 1, without both ends.
    "intransitive": arms lie on a circle, and each beats those up to half the way round, with probabilities
    drawn evenly from the multiples above 1/2 and below 1; opposite arms tie. So every arm loses to some.
    """
    rng = np.random.default_rng(layout_seed)
    lowest = 1 if kind == "general" else GRAIN // 2 + 1
    drawn = rng.integers(lowest, GRAIN, size=(contexts, arms, arms)) / GRAIN
    first, second = np.ogrid[:arms, :arms]
    if kind == "general":
        wins, ties = first < second, first == second
    else:
        ahead = (second - first) % arms
        wins, ties = (ahead > 0) & (2 * ahead < arms), (ahead == 0) | (2 * ahead == arms)
    return np.where(ties, 0.5, np.where(wins, drawn, 1.0 - np.swapaxes(drawn, -1, -2)))


class PreferenceBanditDynamics(SequenceTask):
    """Choose one arm in a context; how often each arm is preferred to each is known, and may go in circles.

    ## Description
    The smallest problem of preference optimisation: a context, one choice, the end. By default arms have
    rewards drawn from a seed, and are preferred by Bradley and Terry's model of them. Or the preference
    matrix itself is drawn, and then no rewards explain it: any one (`"general"`), or one in which every arm
    is beaten by another (`"intransitive"`).

    ## Action Space
    `Discrete(arms)`.

    ## Observation Space
    `Discrete(contexts * (arms + 1))`: context c alone is `(arms + 1) c`; what is seen at the end, after arm
    a, is `(arms + 1) c + 1 + a`.

    ## Rewards
    Of Bradley and Terry's arms: a multiple of 1/256 from -2 to 2, drawn evenly from the seed. Where
    preferences are drawn themselves: the mean over all arms j, itself included, of
    P(arm is preferred to j) - 1/2.

    ## Starting State
    Uniform over the contexts; or `reset(options={"context": c})`.

    ## Episode End
    Terminates after one choice.

    ## Arguments
    `contexts` (int, 2), `arms` (int, 5), `layout_seed` (int, 0): which rewards or preferences;
    `reset(seed=...)` changes only the context. `preferences` ("bradley_terry", "general" or "intransitive",
    which takes at least three arms), `render_mode`.

    ## Ground truth
    That of `prefrl/TokenTree-v0`, its sequences being single arms: `sequence_returns()` [contexts, arms],
    `preference_matrix()` [contexts, arms, arms], `soft_optimum(beta, reference)`,
    `regularized_value(policy, beta, reference)`, `true_value(policy)`, `optimal_value()`, `tabular_model()`.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, contexts: int = 2, arms: int = 5, layout_seed: int = 0, preferences: Kind = "bradley_terry",
        backend: Backend | None = None,
    ) -> None:  # fmt: skip
        k, _, c = check_tree(arms, 1, contexts, ("arms", "depth", "contexts"))
        if preferences not in get_args(Kind):
            raise ValueError(f"preferences is {preferences!r}; allowed are {list(get_args(Kind))}")
        if preferences == "intransitive" and k < 3:
            raise ValueError(f"arms is {k}; preferences of two arms go in no circle: take at least 3")
        if c * k * k > MAX_PAIRS:
            raise ValueError(f"contexts {c} and arms {k} make more than {MAX_PAIRS} pairs; take fewer")
        seed = check_layout_seed(layout_seed)
        rewards = draw_rewards(seed, c, k + 1, most=2)
        if preferences == "bradley_terry":
            self._matrix = bradley_terry_matrix(rewards[:, 1:])
        else:
            self._matrix = draw_preferences(seed, c, k, preferences)
            rewards[:, 1:] = self._matrix.mean(-1) - 0.5
        super().__init__(SequenceTree(rewards, k, 1), "context", backend)

    def preference_matrix(self) -> NDArray[np.float64]:
        """Return P(i is preferred to j) [contexts, arms, arms], as exact probabilities.

        The label of a pair of segments is the probability that the second is preferred: ``matrix[:, j, i]``
        for the pair of arm i and, second, arm j.
        """
        return self._matrix.copy()
