"""Self-play on a preference matrix, where every answer can be computed (SPO, arXiv 2401.04056).

K options, and P[i, j] in [-1, 1] how much i is preferred to j. One learner plays against its own mixture p_t;
the average of its mixtures approaches a minimax winner, at the rate of its regret,

    exploitability(average) = max_q q P average = Reg(T) / T   <= sqrt(2 ln K / T) for Hedge.

Mode "hedge" is :class:`NashLearning` with solver "hedge", beta 0 and that step size: one step, in
:func:`prefrl.functional.preferences.game_steps.hedge`, serves both.
Beside the exact expectation stands the algorithm as it is used in deep learning: options are drawn, compared
with a queue of earlier draws, and a softmax policy follows the gradient; and its opponent, a Bradley-Terry
reward per option fitted to the same comparisons, whose policy ends in a corner where preferences are
intransitive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.config import Count, Positive, Settings
from prefrl.data import Transitions
from prefrl.data.devices import make_generator, restore_generator
from prefrl.functional.preferences.game_steps import Game, advance, begin
from prefrl.functional.preferences.games import (
    bradley_terry,
    check_preference_matrix,
    exploitability,
    hedge_rate,
)


@dataclass(frozen=True)
class MatrixSelfPlayConfig(Settings):
    """Settings of :class:`MatrixSelfPlay`.

    Raises:
        ValueError: if a number is out of range, or the mode unknown.
    """

    mode: Literal["hedge", "sampled", "reward_model"] = "hedge"
    """Hedge on exact expected preferences; or a softmax policy that follows the policy gradient of sampled
    comparisons with a queue; or the same policy on a Bradley-Terry reward fitted to those comparisons."""

    rounds: Count = 10_000
    """T that Hedge's learning rate is made for."""

    learning_rate: Positive | None = None
    """None: sqrt(2 ln K / T) for Hedge, ``policy_rate`` otherwise."""

    policy_rate: Positive = 0.02
    """Step size of the policy gradient."""

    samples: Count = 32
    """Options drawn in a round."""

    queue: Count = 100
    """B: earlier draws that each is compared with."""

    fit_every: Count = 50
    """Rounds between two fits of the Bradley-Terry reward."""


class MatrixSelfPlay(Agent):
    """Self-play on a preference matrix; see the module's text. One timestep is one round.

    Args:
        env: not needed (None); the observation is nothing, ``Discrete(1)``, the action an option.
        config: settings.
        matrix: [K, K] preference matrix (None: taken from the state that is loaded).
        device: torch device, or "auto".
        seed: seeds the draws.

    Raises:
        ValueError: if the matrix is none.

    Attributes:
        logits: [K] log of the present mixture.
    """

    config_class: ClassVar[type[MatrixSelfPlayConfig]] = MatrixSelfPlayConfig
    steps_env = False

    def __init__(
        self,
        env: Any = None,
        config: MatrixSelfPlayConfig | None = None,
        *,
        matrix: Tensor | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        if matrix is None:
            raise ValueError("matrix is missing; give a [K, K] preference matrix")
        matrix = check_preference_matrix(torch.as_tensor(matrix))
        num_options = len(matrix)
        env = env or Spaces(gym.spaces.Discrete(1), gym.spaces.Discrete(num_options))
        super().__init__(env, config or MatrixSelfPlayConfig(), device=device, seed=seed)
        config = self.config
        self.matrix = matrix.to(self.device)
        self._generator = make_generator(self.device, seed)
        with torch.device(self.device):
            self.logits = torch.full((num_options,), -float(np.log(num_options)), dtype=torch.float64)
            self._total = torch.zeros(num_options, dtype=torch.float64)
            self._queue = torch.zeros(config.queue, dtype=torch.int64)
            self._wins = torch.zeros(num_options, num_options, dtype=torch.float64)
            self._utility = torch.zeros(num_options, dtype=torch.float64)
        self._game = Game(self.matrix, self.logits, 0.0)  # beta 0: it costs nothing to leave a reference
        if config.mode == "hedge":
            self._rate = config.learning_rate or hedge_rate(num_options, config.rounds)
        else:
            self._rate = config.learning_rate or config.policy_rate

    @property
    def policy(self) -> Tensor:
        """[K] the present mixture."""
        return torch.softmax(self.logits, -1)

    @property
    def average_policy(self) -> Tensor:
        """[K] the mean of the mixtures so far; the present one before the first round."""
        return self._total / self._total.sum() if self.num_timesteps else self.policy

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return options [n] drawn from the average mixture, or the likeliest one."""
        policy = self.average_policy
        if deterministic:
            return policy.argmax().expand(len(obs))
        return self._draw(policy, len(obs))

    def observe(self, transitions: Transitions) -> None:
        """There is nothing to observe."""

    def update(self) -> dict[str, Tensor]:
        """Play one round; see :meth:`Agent.update`."""
        policy = self.policy
        self._total += policy
        if self.config.mode == "hedge":
            self.logits = advance("hedge", self._game, begin("hedge", self.logits), self._rate).policy
        else:
            self._sampled_round(policy)
        self.num_timesteps += 1
        return {
            "train/entropy": torch.special.entr(policy).sum(),
            "train/exploitability": exploitability(self.matrix, self._total / self._total.sum()),
        }

    def _sampled_round(self, policy: Tensor) -> None:
        """Draw options, compare them with the queue, and follow the gradient of the policy."""
        config = self.config
        drawn = self._draw(policy, config.samples)
        held = self._queue[: max(1, min(self.num_timesteps * config.samples, config.queue))]
        if self.num_timesteps == 0:
            held = drawn
        likely = (1.0 + self.matrix[drawn][:, held]) / 2.0  # probability that the draw is preferred
        noise = torch.rand(likely.shape, generator=self._generator, device=self._generator.device)
        wins = (noise.to(self.device) < likely).to(torch.float64)
        if config.mode == "reward_model":
            rewards = self._modelled(drawn, held, wins)
        else:
            rewards = 2.0 * wins.mean(1) - 1.0
        # The policy gradient of a softmax: mean over draws of (R - mean R) (indicator - policy).
        indicator = torch.zeros(config.samples, len(policy), dtype=torch.float64, device=self.device)
        indicator.scatter_(1, drawn[:, None], 1.0)
        advantage = rewards - rewards.mean()
        self.logits = torch.log_softmax(
            self.logits + self._rate * (advantage[:, None] * (indicator - policy)).mean(0), -1
        )
        places = (self.num_timesteps * config.samples + torch.arange(config.samples)) % config.queue
        self._queue[places.to(self.device)] = drawn

    def _modelled(self, drawn: Tensor, held: Tensor, wins: Tensor) -> Tensor:
        """Count who beat whom, and return the Bradley-Terry utilities [samples] of the draws."""
        k = len(self.logits)
        pair = (drawn[:, None] * k + held[None]).flatten()
        back = (held[None] * k + drawn[:, None]).flatten()
        counts = torch.zeros(k * k, dtype=torch.float64, device=self.device)
        counts.scatter_add_(0, pair, wins.flatten())
        counts.scatter_add_(0, back, 1.0 - wins.flatten())
        self._wins += counts.reshape(k, k)
        if self.num_timesteps % self.config.fit_every == 0:
            self._utility = bradley_terry(self._wins)
        return self._utility[drawn]

    def _draw(self, policy: Tensor, count: int) -> Tensor:
        """Return options [count] drawn from a mixture."""
        noise = torch.rand(count, generator=self._generator, device=self._generator.device).to(self.device)
        drawn = torch.searchsorted(policy.cumsum(0), noise.to(policy.dtype))
        return drawn.clamp(max=len(policy) - 1)

    def result(self) -> dict[str, Any]:
        """Return the exploitability of the average mixture, that mixture, and the last one."""
        average = self.average_policy
        return {
            "exploitability": float(exploitability(self.matrix, average)),
            "average_policy": average.tolist(),
            "last_policy": self.policy.tolist(),
        }

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "matrix": self.matrix,
            "logits": self.logits,
            "total": self._total,
            "queue": self._queue,
            "wins": self._wins,
            "utility": self._utility,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        if state["matrix"].shape != self.matrix.shape or bool(
            (state["matrix"].to(self.device) != self.matrix).any()
        ):
            raise ValueError("it was trained on another preference matrix")
        self.logits, self._total = state["logits"].to(self.device), state["total"].to(self.device)
        self._queue, self._wins = state["queue"].to(self.device), state["wins"].to(self.device)
        self._utility = state["utility"].to(self.device)
        restore_generator(self._generator, state["generator"])

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> MatrixSelfPlay:
        return cls(env, config, matrix=state["matrix"], **settings)
