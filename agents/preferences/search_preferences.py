"""A policy from what a tree search prefers: search with the policy, compare steps, learn, search again.

MCTS-DPO (Xie et al. 2024, arXiv 2405.00451). In an environment whose deterministic model is known, a round

1. searches from ``num_roots`` starts, all at once, with the policy as prior;
2. takes, at each step of the path that a search keeps, the best step and a sibling as a comparison;
3. makes the policy the reference, and takes ``round_steps`` gradient steps down a pair loss, of which the row
   ``mcts`` looks at what follows after two segments part: DPO on the last step.

The next round searches with the better policy, and so deeper: what no search from the first policy finds in
so few simulations, a later one does. No teacher and no reward model is asked; the search is the teacher.
Afterwards the policy acts alone. The search is :mod:`prefrl.tabular.tree_search`, and what it says
:mod:`prefrl.preferences.search_pairs`.

One timestep is one round; nothing is stepped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.config import Count, Natural, NonNegative, Positive, PositiveShare, Rows, Share
from prefrl.data import Preferences
from prefrl.data.devices import make_generator, restore_generator
from prefrl.functional.draws import uniform
from prefrl.functional.value_based.tree_search import policy_values, step_priors, value_differences
from prefrl.preferences.search_pairs import Sibling, search_pairs
from prefrl.tabular.tree_search import DeterministicModel, SearchTrees, tree_search

from .compared_segments import Pairs
from .iterated_preference_optimization import learn_round
from .preference_optimization import PreferenceOptimization
from .preference_optimization_config import PairLossName, PreferenceOptimizationConfig


@dataclass(frozen=True)
class SearchPreferencesConfig(PreferenceOptimizationConfig):
    """Settings of :class:`SearchPreferences`. The paper's are for language models: defaults are ours."""

    in_rounds: ClassVar[tuple[str, ...]] = get_args(PairLossName)

    loss: PairLossName = "mcts"
    """What is made of a comparison: the paper's DPO on what follows after two segments part, or another row
    of ``prefrl.functional.preferences.pair_rows`` (in the paper, also ipo)."""

    cloning_steps: Natural = 0
    """Must be 0: there is nothing to clone."""

    beta: Positive | tuple[Positive, ...] | None = 1.0
    """Scale of log-ratios: with 1, a round moves log-odds to what visits say; None: the loss's own."""

    round_steps: Count = 60
    """Gradient steps of a round."""

    num_roots: Rows = 64
    """Starts that are searched from in a round, drawn from the environment's start distribution."""

    simulations: Count = 64
    """Of each root."""

    exploration: NonNegative = 1.0
    """w of PUCT, in the unit of returns."""

    discount: PositiveShare = 0.95
    """Of rewards in the search, per action: below 1, a short way is better."""

    max_depth: Count = 12
    """Steps of the longest path of a search."""

    step_length: Count = 1
    """Actions of a step, as a sentence has words; all their sequences are edges, so that few are possible."""

    length_exponent: NonNegative = 1.25
    """Priors of steps are exp(sum log pi / length^this): 1.25 in the paper; it matters for longer steps."""

    even_share: Share = 0.25
    """Share of priors that is even over steps, so that a policy which is sure and wrong is found out (ours,
    in the place of AlphaZero's noise)."""

    value: Literal["none", "policy", "given"] = "policy"
    """What a state is worth before it is searched: 0; what the policy earns from there in as many actions as
    a search is deep, exactly; or, given to the agent, a judge's value of states, whose differences are the
    rewards then, as in the paper."""

    sibling: Sibling = "worst"
    """What the best step is compared with: the worst one, or the second best."""

    conservative: bool = True
    """Let visits smooth the labels: 1 - min(1 - c, 1/2) with c = N_best / (N_best + N_other)."""

    min_gap: NonNegative = 0.0
    """Compare only where Q of the best step is larger by more than this."""

    online: bool = True
    """Search with the present policy. Otherwise with the first, and all comparisons are off-policy."""

    fixed_reference: bool = False
    """Keep the first policy as the reference; else it is the policy that a round begins with."""

    def check(self) -> None:
        """Raise ValueError for steps of cloning."""
        super().check()
        if self.cloning_steps:
            raise ValueError(
                f"cloning_steps is {self.cloning_steps}; it must be 0, there is nothing to clone"
            )


class SearchPreferences(PreferenceOptimization):
    """A policy from what a tree search prefers; see the module's text.

    Args:
        env: an environment that offers ``tabular_model()`` with one successor of each pair, its states and
            actions Discrete and counted from 0; or :class:`prefrl.agents.base.Spaces`, to act alone.
        config: settings.
        values: [S] a judge's value of states, of endings too, for ``value="given"``; agents' files hold it.
        device: torch device, or "auto".
        seed: seeds the network, roots, batches and the actions that are drawn.

    Raises:
        ValueError: if the environment has no such model, or ``values`` are missing, of another size, or given
            in vain.

    Attributes:
        model: what is searched, in steps of ``step_length`` actions; None without an environment.
    """

    config_class: ClassVar[type[PreferenceOptimizationConfig]] = SearchPreferencesConfig
    config: SearchPreferencesConfig

    def __init__(
        self,
        env: Any,
        config: SearchPreferencesConfig | None = None,
        *,
        values: Tensor | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        config = config or SearchPreferencesConfig()
        super().__init__(env, config, device=device, seed=seed)
        spaces = self.observation_space, self.action_space
        if not all(isinstance(space, gym.spaces.Discrete) and space.start == 0 for space in spaces):
            raise ValueError(f"observations are {spaces[0]} and actions {spaces[1]}; both must be Discrete, "
                             "from 0 on")  # fmt: skip
        if (values is not None) != (config.value == "given"):
            given = "are missing" if values is None else "were given"
            raise ValueError(f"value is {config.value!r}, and values {given}; they go with 'given'")
        self.values = None if values is None else self._checked(values)
        self.model: DeterministicModel | None = None
        if not isinstance(env, Spaces):
            self._base = DeterministicModel.from_env(env, self.device)
            self.model = self._base.in_steps_of(config.step_length, config.discount)
        self._generator = make_generator(self.device, self.seed)
        self._first_policy: Tensor | None = None  # [1, P], where searches are with the first policy

    def _checked(self, values: Tensor) -> Tensor:
        table, states = torch.as_tensor(values, dtype=torch.float64), int(self.observation_space.n)
        if tuple(table.shape) != (states,) or not bool(table.isfinite().all()):
            raise ValueError(f"values have shape {list(table.shape)}; they must be [S] = [{states}], finite")
        return table.to(self.device)

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Search, compare and learn: a round; see :meth:`Agent.update`."""
        if self._first_policy is None:
            self._first_policy = self.weights.vector.detach().clone()
        answers = self.compare(self.search(self._roots()))
        self.pairs = Pairs.joined([self._read_pairs(answers)])
        moves = self.reference is None or not self.config.fixed_reference
        metrics = learn_round(self, self.config.round_steps, new_reference=moves)
        self.num_timesteps += 1
        return {**metrics, "preferences/pairs": (answers.weights > 0).sum()}

    def search(self, roots: Tensor) -> SearchTrees:
        """Search from states [B], with the present policy or, off-policy, with the first one.

        Raises:
            ValueError: if the agent has no environment.
        """
        model, config = self._searched(), self.config
        policy = self.policy_table(None if config.online else self._first_policy)[0]
        values = rewards = None
        if config.value == "given":
            assert self.values is not None
            rewards = value_differences(self.values, model.successors)
        elif config.value == "policy":
            base, horizon = self._base, config.max_depth * config.step_length
            values = policy_values(policy, base.successors, base.rewards, base.terminal, config.discount,
                                   horizon)  # fmt: skip
        priors = step_priors(model.log_probs(policy), config.length_exponent)
        even = config.even_share / priors.shape[1]
        return tree_search(
            model, roots, (1.0 - config.even_share) * priors + even, values=values, rewards=rewards,
            simulations=config.simulations, exploration=config.exploration,
            gamma=config.discount**config.step_length, max_depth=config.max_depth,
        )  # fmt: skip

    def compare(self, trees: SearchTrees) -> Preferences:
        """Return what searches say of steps; comparisons of weight 0 say nothing."""
        config = self.config
        return search_pairs(trees, self._searched(), depth=config.max_depth, sibling=config.sibling,
                            conservative=config.conservative, min_gap=config.min_gap)  # fmt: skip

    def _searched(self) -> DeterministicModel:
        if self.model is None:
            raise ValueError("this agent has no environment to search in; give it: "
                             "SearchPreferences.load(path, env=...)")  # fmt: skip
        return self.model

    def _roots(self) -> Tensor:
        """Draw starts [B]."""
        shares = self._searched().start.cumsum(0)
        draws = uniform(self._generator, self.config.num_roots, device=self.device, dtype=torch.float64)
        return torch.searchsorted(shares, draws * shares[-1], right=True)

    def _done(self, learned: int, total: int) -> float:
        """See :class:`PreferenceOptimization`: timesteps are rounds here."""
        return self.num_timesteps / total

    # What a continuation needs ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        pairs = None if self.pairs is None else dict(vars(self.pairs))
        return {**self.saved_state(), "pairs": pairs}

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the comparisons of the last round stay behind."""
        return {
            **super().state_dict(),
            "generator": self._generator.get_state(),
            "first_policy": self._first_policy,
            "values": self.values,
            "pairs": None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        super().load_state_dict(state)
        restore_generator(self._generator, state["generator"])
        self._first_policy, self.values = (
            None if state[name] is None else state[name].to(self.device)
            for name in ("first_policy", "values")
        )
        kept = state["pairs"]
        self.pairs = None
        if kept is not None:
            self.pairs = Pairs(**{name: values.to(self.device) for name, values in kept.items()})

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> Any:
        return cls(env, config, values=state["values"], **settings)
