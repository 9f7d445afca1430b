"""Many rewards fitted as one batch to preferences, by maximum likelihood under a preference model.

Source: Knox et al. 2022, arXiv 2206.02231, "Algorithm 1". The losses and the scores of segments, by partial
return and by regret, are written out in ``agents/preferences/regret.py``, whose agent is one such fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from prefrl.config import Bounds, Count, Length, NonNegative, Positive, Settings
from prefrl.data import Preferences, seeded_generator
from prefrl.data.devices import building
from prefrl.functional.preferences.logistic import logistic_regression
from prefrl.functional.preferences.preferences import (
    preference_cross_entropy,
    preference_slopes,
    weighted_mean,
)
from prefrl.functional.value_based.policy_improvement import soft_policy_improvement
from prefrl.nn import StackedMLP
from prefrl.nn.adam import Adam
from prefrl.nn.mlp import Chain
from prefrl.preferences.pairs import check_comparisons, collate_features, collate_pairs
from prefrl.tabular import (
    PolicySet,
    TabularMDP,
    build_policy_set,
    greedy_policy,
    optimal_policy,
    scaled_return,
)


@dataclass(frozen=True)
class RegretConfig(Settings):
    """Settings of :class:`RewardFit`; the defaults of the paper's delivery study where it has them."""

    preference_model: Literal["regret", "partial-return"] = "regret"
    """What a preference is taken to be about."""
    regret_form: Literal["auto", "deterministic", "action"] = "auto"
    """Which score the regret model fits: G + V(s_n) - V(s_0), exact where transitions are certain and
    gamma is 1 within segments, or the sum of advantages, exact in general. "auto" takes the first where no
    transition of the environment is uncertain, as the paper does."""
    reward: Literal["linear", "neural"] = "linear"
    """Linear in the environment's features, or (partial return only) a network of them."""
    hidden: tuple[Count, ...] = (64, 64)
    """Hidden layers of the neural reward."""
    gamma: Annotated[float, Bounds(low=0, high=1, below=True)] = 0.999
    """Discount of values and planning, per step; segments themselves are not discounted."""
    learning_rate: Positive = 2.0
    """Adam's, for the linear reward (released settings: 0.5 and 2), per step."""
    neural_learning_rate: Positive = 3e-3
    """Adam's, for the neural reward, per step."""
    steps_per_update: Count = 50
    """Optimiser steps of one ``update()`` call."""
    temperature: Positive = 1.0
    """Score differences are divided by it (1 in the newer released code, 0.1 in the older)."""
    uniform_response: bool = False
    """Fit the share of uniformly random answers too (then partial return is fitted by Adam as well)."""
    ridge: NonNegative = 1e-10
    """Penalty ridge / 2 |w|^2 of the convex fit. The likelihood alone has no maximum where data are
    separable (nobody ever prefers the sheep): this small, it lets such weights grow and only ends them."""
    gpi_temperature: NonNegative = 1e-3
    """T of soft generalised policy improvement, in units of return; 0 takes the maximum."""
    policy_entries: Annotated[tuple[float, ...], Length(1)] = (-1.0, 50.0, -50.0, 1.0, -1.0, -2.0)
    """A reward weight of a policy of the set is drawn from these (delivery domain's; the study of random
    MDPs draws from 50, -50, 1, -1, -2, 0, -10, 10, 5)."""
    max_duplicates: Count = 100
    """Draws that brought no new policy after which the set is complete."""
    max_policies: Count = 1_000
    """Size at which the set is complete anyway."""
    exclude_true_policy: bool = True
    """Whether the policy that is optimal under the true reward is kept out of the set."""
    absorbing: bool = False
    """Let terminated segments go on in the terminal state to the full length, and count the learned reward
    from that of such a step (Knox et al. 2023). Neural rewards only: absorbing steps have zero features, for
    which a linear reward pays nothing anyway."""
    interpretation: Literal["reward", "advantage"] = "reward"
    """Plan in the learned function, or act greedily on it as an advantage: what a partial-return model fitted
    to regret preferences learns (Knox et al. 2023, arXiv 2310.02456)."""

    def check(self) -> None:
        """Refuse rewards that the preference model cannot learn."""
        if self.reward == "neural" and self.preference_model == "regret":
            raise ValueError(
                "reward is 'neural'; the regret model needs a linear reward, since it values policies "
                "by successor features (use preference_model='partial-return')"
            )
        if self.interpretation == "advantage" and self.preference_model == "regret":
            raise ValueError("interpretation is 'advantage'; the regret model learns a reward")
        if self.absorbing and self.reward == "linear":
            raise ValueError("absorbing is True; for a linear reward absorbing steps change nothing")


def network_output(network: StackedMLP, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Return the outputs [B, n] of networks with given parameters for features [B, n, F]."""
    named = {name: parameters[name] for name, _ in network.named_parameters()}
    output: Tensor = torch.func.functional_call(network, named, (features.float(),)).double()
    return output


def learned_reward(config: RegretConfig, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """Return the rewards [B, n] of features [B, n, F] under fitted parameters."""
    if config.reward == "linear":
        return torch.einsum("bnf,bf->bn", features, parameters["weights"])
    with torch.device("meta"), torch.no_grad():  # only its shape counts: the parameters are given
        network = StackedMLP(features.shape[0], features.shape[-1], config.hidden)
    with torch.no_grad():
        rewards = network_output(network, parameters, features)
        if not config.absorbing:
            return rewards
        # Only differences between steps were seen, and the step after the end is worth nothing.
        return rewards - network_output(network, parameters, torch.zeros_like(features[:, :1]))


class RewardFit:
    """B rewards fitted as one batch; fits are independent of each other.

    Args:
        mdps: M MDPs.
        preferences: B data sets with features, B / M for each MDP in turn.
        config: settings.
        seed: of the policy set and of the neural reward's initial weights.

    Raises:
        ValueError: if the data do not belong to the MDPs.
    """

    def __init__(
        self, mdps: TabularMDP, preferences: Sequence[Preferences], config: RegretConfig, *, seed: int = 0
    ) -> None:
        check_comparisons(mdps, preferences)
        self.mdps, self.config = mdps, config
        self.num_fits = len(preferences)
        self.regret = config.preference_model == "regret"
        uncertain = mdps.successors.shape[-1] > 1
        self.action_form = config.regret_form == "action" or (config.regret_form == "auto" and uncertain)
        if config.absorbing:
            preferences = [p.with_absorbing() for p in preferences]
        longest = max(side.max_length for p in preferences for side in (p.first, p.second))
        preferences = [
            replace(p, first=p.first.padded(longest), second=p.second.padded(longest)).to(mdps.device)
            for p in preferences
        ]
        self.policies: PolicySet | None = None
        if self.regret:
            self.policies = build_policy_set(
                mdps, config.gamma, entries=config.policy_entries, max_duplicates=config.max_duplicates,
                max_policies=config.max_policies, seed=seed,
                exclude=mdps.weights if config.exclude_true_policy else None,
            )  # fmt: skip
            self._state_psi, self._pair_psi = self.policies.tables(mdps)
        self._pairs = collate_pairs(preferences, mdps.num_actions, action_form=self.action_form)
        with torch.device(mdps.device):
            self._parameters = self._initial(preferences, seed)
        rate = config.neural_learning_rate if config.reward == "neural" else config.learning_rate
        self._optimizer = Adam(list(self._parameters.values()), lr=rate)
        self._best = {name: value.detach().clone() for name, value in self._parameters.items()}
        self.best_loss = torch.full((self.num_fits,), torch.inf, dtype=torch.float64, device=mdps.device)
        self.loss = self.best_loss
        self._newton = not self.regret and config.reward == "linear" and not config.uniform_response
        if self._newton:
            self._solve_convex()

    def _initial(self, preferences: Sequence[Preferences], seed: int) -> dict[str, Tensor]:
        """Return the parameters, each with leading axis [B]."""
        num_features = self.mdps.features.shape[-1]
        parameters: dict[str, Tensor] = {}
        self._network: StackedMLP | None = None
        self._chain: Chain | None = None
        if self.config.reward == "neural":
            with building(self.mdps.device, seeded_generator(seed, "neural reward").initial_seed()):
                self._network = StackedMLP(self.num_fits, num_features, self.config.hidden)
            parameters.update(self._network.named_parameters())
            for value in parameters.values():
                value.grad = torch.zeros_like(value)
            self._chain = Chain.of(self._network)
            features, self._segment_mask = collate_features(preferences)  # [B, 2, n, L, F], [B, 2, n, L]
            self._segment_features = features.float()
        else:
            zeros = torch.zeros(self.num_fits, num_features, dtype=torch.float64)
            parameters["weights"] = zeros.requires_grad_()
        if self.config.uniform_response:
            guess = torch.full((self.num_fits,), -3.0, dtype=torch.float64)  # 5 % at first
            parameters["uniform_logit"] = guess.requires_grad_()
        return parameters

    # The likelihood ---------------------------------------------------------------------------------------

    def values(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return V_w [B, S] and A_w = Q_w - V_w [B, S, A] by soft generalised policy improvement.

        Raises:
            ValueError: if the preference model is not regret, so that there is no policy set.
        """
        if self.policies is None:
            raise ValueError("there is no policy set: the preference model is partial return")
        state = self._improve(weights, self._state_psi)
        action = self._improve(weights, self._pair_psi)
        return state, action.reshape(*state.shape, self.mdps.num_actions) - state[..., None]

    def _improve(self, weights: Tensor, psi: Sequence[Tensor]) -> Tensor:
        """Return the soft maximum over policies of psi . weights [B, F], as [B, X]."""
        grouped = weights.reshape(len(psi), -1, weights.shape[-1])
        return soft_policy_improvement(grouped, psi, self.config.gpi_temperature).flatten(0, 1)

    def logits(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the log-odds [B, n] that the second segment is preferred."""
        if self._network is not None:
            return self._neural_scores(parameters) / self.config.temperature
        weights, pairs = parameters["weights"], self._pairs
        if self.regret and self.action_form:
            difference = pairs.difference_of_values(self.values(weights)[1].flatten(1))
        else:
            difference = torch.einsum("bnf,bf->bn", pairs.features, weights)
            if self.regret:
                difference = difference + pairs.difference_of_values(self._improve(weights, self._state_psi))
        return difference / self.config.temperature

    def _neural_scores(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the difference [B, n] of summed network outputs."""
        assert self._network is not None
        rewards = network_output(self._network, parameters, self._segment_features.flatten(1, 3))
        scores = (rewards.reshape(self._segment_mask.shape) * self._segment_mask).sum(-1)
        return scores[:, 1] - scores[:, 0]

    def losses(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy [B] of each fit."""
        pairs, guess = self._pairs, parameters.get("uniform_logit")
        entropy = preference_cross_entropy(
            self.logits(parameters), pairs.labels, None if guess is None else guess[:, None]
        )
        return weighted_mean(entropy, pairs.weights)

    # Fitting ----------------------------------------------------------------------------------------------

    def step(self, steps: int) -> Tensor:
        """Take optimiser steps, without waiting for the device; return the best losses [B] so far.

        The convex fit (linear partial return) was solved exactly when this object was made.
        """
        if self._newton:
            return self.best_loss
        for _ in range(steps):
            self.loss = self._gradients() if self._chain is None else self._gradients_by_hand(self._chain)
            self._keep_best(self.loss)
            self._optimizer.step()
        return self.best_loss

    def _gradients(self) -> Tensor:
        """Put the gradients of the losses where the optimiser takes them; return the losses [B]."""
        losses, parameters = self.losses(self._parameters), self._optimizer.parameters
        for value, slope in zip(parameters, torch.autograd.grad(losses.sum(), parameters), strict=True):
            value.grad = slope
        return losses.detach()

    @torch.no_grad()
    def _gradients_by_hand(self, chain: Chain) -> Tensor:
        """Do the same without autograd, for networks.

        (In .53 of the time with 64 x 64 and 100 pairs of 3 steps, .82 with 1,000; one thread.)
        """
        pairs, mask, guess = self._pairs, self._segment_mask, self._parameters.get("uniform_logit")
        record = chain.record(self._segment_features.flatten(1, 3))
        scores = (record.outputs.view(mask.shape).double() * mask).sum(-1)
        logits = (scores[:, 1] - scores[:, 0]) / self.config.temperature
        about = logits, pairs.labels, None if guess is None else guess[:, None]
        of_logits, of_guess = preference_slopes(*about)
        total = pairs.weights.sum(-1, keepdim=True)
        shares = pairs.weights / torch.where(total == 0, 1.0, total)
        slopes = shares * of_logits / self.config.temperature
        of_rewards = torch.stack([-slopes, slopes], 1)[..., None] * mask
        chain.pull(record, of_rewards.to(record.outputs.dtype).view(record.outputs.shape))
        if guess is not None and of_guess is not None:
            guess.grad = (shares * of_guess).sum(-1)
        return weighted_mean(preference_cross_entropy(*about), pairs.weights)

    def _solve_convex(self) -> None:
        pairs = self._pairs
        weights = logistic_regression(
            pairs.features / self.config.temperature, pairs.labels, pairs.weights, ridge=self.config.ridge
        )
        self._best["weights"] = weights
        self._parameters["weights"].data.copy_(weights)
        self.loss = self.best_loss = self.losses(self._best).detach()

    def _keep_best(self, losses: Tensor) -> None:
        better = losses < self.best_loss
        self.best_loss = torch.where(better, losses, self.best_loss)
        for name, value in self._parameters.items():
            mask = better.reshape((-1,) + (1,) * (value.ndim - 1))
            self._best[name] = torch.where(mask, value.detach(), self._best[name])

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The best parameters so far, each with leading axis [B]."""
        return dict(self._best)

    @property
    def weights(self) -> Tensor:
        """[B, F] best weights so far.

        Raises:
            ValueError: if the reward is neural.
        """
        if "weights" not in self._best:
            raise ValueError("the reward is neural; it has no weights per feature")
        return self._best["weights"]

    def reward(self, features: Tensor) -> Tensor:
        """Return the learned rewards [B, n] of features [n, F], or [B, n, F] of each fit's own."""
        features = features.expand(self.num_fits, *features.shape[-2:])
        return learned_reward(self.config, self._best, features)

    def rewards(self) -> Tensor:
        """Return the learned expected rewards [B, S, A] (their own MDP's states, padding included)."""
        mdps = self.fitted_mdps()
        rewards = self.reward(mdps.features.flatten(1, 3))
        return mdps.expected_rewards(rewards.reshape(mdps.features.shape[:-1]))

    def fitted_mdps(self) -> TabularMDP:
        """Return the MDP of each fit, as a batch of B."""
        per_mdp = self.num_fits // self.mdps.num_mdps
        return self.mdps.select(
            torch.arange(self.mdps.num_mdps, device=self.mdps.device).repeat_interleave(per_mdp)
        )

    def policy(self) -> Tensor:
        """Plan in the learned rewards; return the policies [B, S, A], uniform among ties."""
        rewards = self.rewards()
        if self.config.interpretation == "advantage":
            return greedy_policy(rewards)
        return optimal_policy(self.fitted_mdps(), rewards, self.config.gamma)[2]

    def scaled_returns(self) -> Tensor:
        """Return the scaled return [B] of the planned policies under the true rewards."""
        return scaled_return(self.fitted_mdps(), self.policy())

    def state_dict(self) -> dict[str, Any]:
        """Return parameters, optimiser and best iterates."""
        return {
            "parameters": {name: value.detach() for name, value in self._parameters.items()},
            "optimizer": self._optimizer.state_dict(),
            "best": dict(self._best),
            "best_loss": self.best_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        for name, value in self._parameters.items():
            value.data.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = {name: value.to(self.mdps.device) for name, value in state["best"].items()}
        self.loss = self.best_loss = state["best_loss"].to(self.mdps.device)
