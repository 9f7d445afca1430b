"""Reward learning from preferences: the regret model, and partial return beside it.

Source: Knox, Hatgis-Kessell, Booth, Niekum, Stone, Allievi, "Models of human preference for learning reward
functions" (2022, arXiv 2206.02231), "Algorithm 1".

A person who prefers segment 2 to segment 1 may mean that it brought more reward (partial return), or that it
came closer to optimal behaviour (regret). With linear reward r = w . phi both are fitted by maximum
likelihood,

    L(w) = mean over pairs of  -[ mu log P(2 > 1) + (1 - mu) log P(1 > 2) ],
    P(2 > 1) = logistic( score_w(2) - score_w(1) ),

    partial return         score_w = w . sum_t phi_t                       (convex: Newton's method)
    regret, deterministic  score_w = w . sum_t phi_t + V_w(s_n) - V_w(s_0)
    regret, in general     score_w = sum_t [ Q_w(s_t, a_t) - V_w(s_t) ]

where V_w, Q_w are the optimal values under w. They are approximated, differentiably in w, from the successor
features psi^pi of a set of policies by soft generalised policy improvement,

    V_w(s) = sum_pi softmax_pi( psi^pi(s) . w / T )  psi^pi(s) . w,

so that no planning happens while w is fitted (Adam; not convex, so the best iterate is kept). Then the agent
plans in the learned reward and acts greedily, uniformly among ties.

:class:`RewardFit` fits many rewards as one batch (partitions of a data set, seeds, MDPs);
:class:`RegretAgent` is one of them with the face of an agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.data import Preferences, Transitions
from prefrl.data.devices import make_generator, restore_generator
from prefrl.preferences.reward_fit import RegretConfig, RewardFit, learned_reward
from prefrl.tabular import (
    TabularMDP,
    scaled_return,
)


class RegretAgent(Agent):
    """Learns reward weights from preferences, plans in the learned reward, and acts.

    One timestep is one optimiser step of the fit (the convex partial-return fit is solved exactly when the
    agent is made, whatever the number of steps). ``update()`` never waits for the device; planning does: it
    takes place when the agent is asked to act, or for its result, after the reward has changed.

    Args:
        env: an environment with a ``tabular_model()``; its true reward is used to report the scaled return,
            and to keep the truly optimal policy out of the policy set, never to learn.
        config: settings.
        preferences: comparisons with reward features; None for an agent that does not learn (a loaded one).
        device: torch device, or "auto".
        seed: of the policy set, of the neural reward and of action draws.

    Raises:
        ValueError: if the environment offers no tabular model, or the comparisons do not belong to it.
    """

    config_class = RegretConfig
    steps_env = False

    def __init__(
        self,
        env: Any,
        config: RegretConfig | None = None,
        preferences: Preferences | None = None,
        *,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or RegretConfig(), device=device, seed=seed)
        self._generator = make_generator(self.device, seed)
        self.mdp = None if isinstance(env, Spaces) else TabularMDP.from_env(env, self.device)
        self.fit: RewardFit | None = None
        if preferences is not None:
            if self.mdp is None:
                raise ValueError("preferences need an environment to be understood in; give env")
            self.fit = RewardFit(self.mdp, [preferences], self.config, seed=seed)
        num_states, num_actions = int(self.observation_space.n), int(self.action_space.n)
        # What is planned for a reward of 0: every action is as good as any other.
        shape = (num_states, num_actions)
        self.policy = torch.full(shape, 1.0 / num_actions, dtype=torch.float64, device=self.device)
        self.reward_parameters: dict[str, Tensor] = {}
        """What was learned: ``weights`` [1, F], or the parameters of the network."""
        self.train_cross_entropy: float | None = None
        self._planned = True

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """See :meth:`Agent.act`; plans first, if the reward has changed since."""
        self.plan()
        chances = self.policy[obs]
        if deterministic:
            return chances.argmax(-1)
        return torch.multinomial(chances, 1, generator=self._generator)[:, 0]

    def plan(self) -> None:
        """Plan in the learned reward, unless that has been done."""
        if self._planned or self.fit is None:
            return
        self.policy = self.fit.policy()[0]
        self.reward_parameters = self.fit.parameters
        self.train_cross_entropy = float(self.fit.best_loss[0])
        self._planned = True

    def reward(self, obs: Any, action: Any, next_obs: Any) -> float:
        """Return the learned reward of one transition, for ``prefrl.envs.wrappers.rewards.ReplaceReward``."""
        self.plan()
        if not self.reward_parameters:
            raise ValueError("this agent has learned no reward yet; call learn()")
        phi = torch.as_tensor(getattr(self.env, "unwrapped", self.env).features(obs, action, next_obs))
        features = phi.to(self.device).reshape(1, 1, -1)
        return float(learned_reward(self.config, self.reward_parameters, features))

    def observe(self, transitions: Transitions) -> None:
        """Nothing is learned from stepping: the comparisons are the data."""

    def update(self) -> dict[str, Tensor]:
        """Take ``steps_per_update`` optimiser steps; see :meth:`Agent.update`."""
        fit = self.fit
        if fit is None:
            raise ValueError(
                "this agent has no preferences to learn from; make it with them: RegretAgent(env, config, "
                "preferences). A loaded agent predicts and gives rewards, it does not go on with the fit"
            )
        best = fit.step(self.config.steps_per_update)[0]
        self.num_timesteps += self.config.steps_per_update
        self._planned = False
        metrics = {"train/loss": fit.loss[0], "train/best_loss": best}
        if self.config.reward == "linear":
            names = self._feature_names()
            metrics |= {
                f"reward_model/weight_{name}": w for name, w in zip(names, fit.weights[0], strict=True)
            }
        return metrics

    def _feature_names(self) -> list[str]:
        model = getattr(self.env, "unwrapped", self.env).tabular_model()
        return [name.replace(" ", "_") for name in model.feature_names]

    def result(self) -> dict[str, Any]:
        """Return the scaled return (near-optimal above 0.9), training cross-entropy and reward weights."""
        self.plan()
        if self.mdp is None:
            raise ValueError("this agent was loaded without an environment; its policy is judged in one")
        scaled = float(scaled_return(self.mdp, self.policy[None])[0])
        weights = self.reward_parameters.get("weights")
        return {
            "scaled_return": scaled,
            "near_optimal": scaled > 0.9,
            "train_cross_entropy": self.train_cross_entropy,
            "reward_weights": weights
            if weights is None
            else dict(zip(self._feature_names(), weights[0].tolist(), strict=True)),
        }

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        self.plan()
        return {
            "policy": self.policy,
            "reward_parameters": self.reward_parameters,
            "train_cross_entropy": self.train_cross_entropy,
            "generator": self._generator.get_state(),
            "fit": None if self.fit is None else self.fit.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        if state["policy"].shape != self.policy.shape:
            raise ValueError(
                f"policy has shape {tuple(state['policy'].shape)}; the agent's spaces need "
                f"{tuple(self.policy.shape)}"
            )
        self.policy = state["policy"].to(self.device)
        self.reward_parameters = {
            name: value.to(self.device) for name, value in state["reward_parameters"].items()
        }
        self.train_cross_entropy = state["train_cross_entropy"]
        restore_generator(self._generator, state["generator"])
        if self.fit is not None and state["fit"] is not None:
            self.fit.load_state_dict(state["fit"])
        self._planned = True
