"""Deep distributional Q-learning with a stock: for CVaR, target returns and other objectives.

A network gives N quantiles theta_i(s, c, a) of the return-to-go G for a state s and a stock c (the return so
far, c' = (c + r) / gamma, which :class:`prefrl.envs.StockAugmentation` puts in the observations). The greedy
action is that of the best objective of the total,

    a* = argmax_a K(c + theta(s, c, a)),        for expected utilities  (1 / N) sum_i f(c + theta_i),

ties broken by the mean, when acting as in targets. A transition (s, a, r, s') teaches

    theta(s, c, a)  ->  r + gamma (1 - terminal) theta'(s', c', a'),    c' = (c + r) / gamma,  a' greedy at
    (s', c')

by the quantile Huber loss (Dabney et al. 2018, arXiv 1710.10044). What happens does not depend on c, so
every transition may be replayed with any stock: *relabelling* draws a new one each time, exactly
off-policy, which is why returns take one step here. Where the initial stock is open, as for CVaR, the best
one is searched for on a grid by the network's own values (an optimistic CVaR: by what greedy actions are
worth).

The combination of DQN with distributional dynamic programming over stocks is that of Avila Pires et al.
2025 (arXiv 2501.13028); the details are ours, since theirs could not be verified. Objectives that dynamic
programming does not optimise are refused (``prefrl/functional/returns/objectives.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from prefrl.agents.shared import DeepQ
from prefrl.config import Count, Natural, NonNegative, Positive, PositiveShare, Share, Sizes
from prefrl.data import Transitions
from prefrl.data.metrics import mean_of
from prefrl.data.off_policy import OffPolicySettings
from prefrl.data.replay import ReplayBuffer
from prefrl.functional.draws import uniform
from prefrl.functional.returns.objectives import MEAN, Lexicographic, Objective, check_optimisable
from prefrl.functional.returns.ordering import best_actions
from prefrl.functional.returns.stock_problems import ObjectiveSettings, StockProblem
from prefrl.nn.heads import QuantileHead, gather_actions
from prefrl.nn.torsos import ObservationTorso, TorsoKind
from prefrl.nn.update import Network

from .distributional_dp import check_stock_rule, stock_size

MAX_ROWS = 2**15
"""Observations times stocks that are looked at together in the search for the initial stock."""

STOCK, FROZEN, NAIVE = "stock", "frozen", "naive"


@dataclass(frozen=True)
class StockDQNConfig(OffPolicySettings, ObjectiveSettings):
    """Settings of :class:`StockDQN`; names are SB3's where it has them."""

    gamma: PositiveShare = 1.0
    """Discount per step, in (0, 1]."""

    stock_low: float = -10.0
    """Lowest stock of interest: of relabelling, and of the search for the initial one."""

    stock_high: float = 10.0
    """Highest stock of interest."""

    stock_points: Count = 201
    """Points of the grid on which the initial stock is searched."""

    stock_scale: Positive | None = None
    """The network sees c over this (default: the larger size of stock_low and stock_high)."""

    relabel: bool = True
    """Whether transitions are replayed with new stocks; else with the one they were made with."""

    use_of_stock: Literal["stock", "frozen", "naive"] = "stock"
    """stock: as it should be; for comparison, frozen: it stays where it started; naive: there is none, and
    actions are greedy on the objective of what is still to come."""

    tie_tolerance: NonNegative = 1e-4
    """Objectives of actions that differ by less are equal; then the mean decides."""

    quantiles: Count = 50
    """Quantiles N of the distribution of G."""

    kappa: NonNegative = 0.1
    """Where the quantile Huber loss becomes linear, in units of return; one much larger than the spacing of
    returns makes expectiles of quantiles, 0 is the plain quantile loss."""

    learning_rate: Positive = 1e-3
    """Adam's step size."""

    batch_size: Count = 128
    """Transitions per gradient step."""

    target_update_gradient_steps: Count = 500
    """Gradient steps between two updates of the target network."""

    polyak: PositiveShare = 1.0
    """How far it then moves to the network: 1 copies it."""

    epsilon_end: Share = 0.1
    """Probability of a uniform action once exploration has fallen off."""

    epsilon_timesteps: Natural = 50_000
    """Timesteps over which epsilon falls linearly from its start to its end."""

    network: TorsoKind = "auto"
    """mlp, MinAtar's small convolution (conv), or that of Mnih et al. 2015 (nature); auto takes nature for
    pictures from 36 x 36 on, conv for smaller ones, with the channels last or first, and else mlp."""

    hidden: Sizes = (128, 128)
    """Layers of the mlp."""

    renamed: ClassVar[dict[str, str]] = {"target_update_interval": "target_update_gradient_steps"}

    def check(self) -> None:
        """See :class:`Settings`."""
        super().check()
        if self.takes_vectors:
            raise ValueError(f"objective is {self.objective!r}; this agent learns distributions of numbers, "
                             "not of vectors: use DistributionalDP")  # fmt: skip
        if self.stock_low >= self.stock_high:
            raise ValueError(f"stock_low is {self.stock_low} and stock_high {self.stock_high}; they must be "
                             "finite and rise")  # fmt: skip
        start = self.problem().initial_stock
        if start is not None and not self.stock_low <= start[0] <= self.stock_high:
            raise ValueError(f"{self.objective} starts with the stock {start[0]:g}, outside stock_low "
                             f"{self.stock_low:g} to stock_high {self.stock_high:g}, where the agent "
                             "learns")  # fmt: skip

    @property
    def scale(self) -> float:
        """What the network's stocks are divided by."""
        return self.stock_scale or max(abs(self.stock_low), abs(self.stock_high))


class StockQNetwork(nn.Module):
    """Quantiles of the return-to-go for observations and stocks."""

    def __init__(
        self, space: gym.Space[Any], num_actions: int, config: StockDQNConfig, torso: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.torso = ObservationTorso(space, hidden=config.hidden, network=config.network, extra=1,
                                      torso=torso)  # fmt: skip
        self.head = QuantileHead(self.torso.features, num_actions, config.quantiles, config.kappa)
        self.scale, reach = config.scale, config.stock_high - config.stock_low
        self.low, self.high = config.stock_low - reach, config.stock_high + reach

    def forward(self, obs: Tensor, stock: Tensor) -> Tensor:
        """Map observations [N, ...] and stocks [N] to quantiles [N, A, m]."""
        # Far outside the range of interest the network has not been, and the distribution changes no more.
        seen = (stock.clamp(self.low, self.high) / self.scale).to(torch.float32)[:, None]
        quantiles: Tensor = self.head(self.torso(obs, seen))
        return quantiles


class StockDQN(DeepQ):
    """Deep Q-learning for objectives of the whole return distribution; see the module's text.

    Args:
        env: an environment with Discrete actions and a stock (:class:`prefrl.envs.StockAugmentation`) that
            starts anywhere in the range of interest, or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        torso: a network for the observations in place of the settings' (beside whose features an embedding of
            the stock stands); see :func:`prefrl.nn.torsos.given_torso`.
        device: torch device, or "auto".
        seed: seeds network, exploration and replay.

    Raises:
        ValueError: if a space is of another kind, or the environment's stock moves by other rules.
        UnsoundObjectiveError: if dynamic programming does not optimise the objective.
    """

    config_class: ClassVar[type[StockDQNConfig]] = StockDQNConfig
    config: StockDQNConfig
    network: StockQNetwork

    def __init__(
        self,
        env: Any,
        config: StockDQNConfig | None = None,
        *,
        torso: nn.Module | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or StockDQNConfig(), torso=torso, device=device, seed=seed)
        config = self.config
        if stock_size(self.observation_space) != 1:
            raise ValueError("the stock has several components; this agent takes one")
        check_stock_rule(env, config.gamma, frozen=config.use_of_stock == FROZEN, vector=False)
        self.problem: StockProblem = config.problem()
        self._objective = self._greedy_objective()
        assert isinstance(self.observation_space, gym.spaces.Dict)
        inner = self.observation_space["obs"]
        actions = self.num_actions
        self.make_networks(lambda: StockQNetwork(inner, actions, config, torso), config.learning_rate)
        self.gradient_steps_done = 0
        """Gradient steps so far."""

    def _greedy_objective(self) -> Objective:
        """Return what actions are greedy on, of c + theta, or of theta alone for the naive agent."""
        if self.config.use_of_stock == NAIVE:
            objective = self.problem.criterion()
        else:
            objective = self.problem.objective
            check_optimisable(objective, self.config.gamma, time_indexed=False)
        return Lexicographic(objective, MEAN)

    # Acting ----------------------------------------------------------------------------------------------

    def keys(self, quantiles: Tensor, stock: Tensor) -> Tensor:
        """Return what actions are compared by, [N, A, J], for quantiles [N, A, m] and stocks [N]."""
        if self.config.use_of_stock == NAIVE:
            return self._objective.keys(quantiles)
        return self._objective.keys(quantiles + stock.to(quantiles.dtype)[:, None, None])

    def greedy(self, quantiles: Tensor, stock: Tensor) -> Tensor:
        """Return the best actions [N], counted from 0; ties go to the larger mean."""
        return best_actions(self.keys(quantiles, stock), self.config.tie_tolerance)

    def _shown(self, stock: Tensor) -> Tensor:
        """Return the stocks that the network sees: 0 where the agent has none."""
        return torch.zeros_like(stock) if self.config.use_of_stock == NAIVE else stock

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return epsilon-greedy actions [n] for observations and their stocks."""
        stock = obs["stock"][:, 0]
        with torch.no_grad():
            best = self.greedy(self.network(obs["obs"], self._shown(stock)), stock)
        return self.explore(best, deterministic=deterministic)

    def _greedy_of(self, obs: Tensor, stocks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what is greedy from initial stocks [P], for some observations [n, ...] at a time.

        The first keys [n, P] of the best actions, and their quantiles [n, P, m] of G.
        """
        for row in torch.split(obs.to(self.device), max(1, MAX_ROWS // len(stocks))):
            stock, shape = stocks.to(self.device).repeat(len(row)), (len(row), len(stocks))
            quantiles = self.network(row.repeat_interleave(len(stocks), 0), self._shown(stock))
            keys = self.keys(quantiles, stock)
            best = best_actions(keys, self.config.tie_tolerance)
            first = keys[..., 0].gather(1, best[:, None])[:, 0]
            yield first.view(shape), gather_actions(quantiles, best).view(*shape, -1)

    @torch.no_grad()
    def values(self, obs: Tensor, stocks: Tensor) -> Tensor:
        """Return max_a K(c + G) [P], the mean over observations [n, ...], of initial stocks [P]."""
        total = torch.zeros(len(stocks), device=self.device)
        for keys, _ in self._greedy_of(obs, stocks):
            total += keys.sum(0)
        return total / len(obs)

    @torch.no_grad()
    def greedy_returns(self, obs: Tensor, stocks: Tensor) -> Tensor:
        """Return the network's quantiles of G [P, n m] of what is greedy from initial stocks [P].

        They are those of all observations [n, ...] together.
        """
        return torch.cat(
            [quantiles.transpose(0, 1).flatten(1) for _, quantiles in self._greedy_of(obs, stocks)], 1
        )

    def scores(self, obs: Tensor, stocks: Tensor, problem: StockProblem | None = None) -> Tensor:
        """Return h [P] of initial stocks [P], for start observations [n, ...]; see :class:`StockProblem`.

        Args:
            obs: start observations.
            stocks: what to try.
            problem: another problem with the same objective of c_0 + G, as CVaR at all tau are; None: the
                agent's own.
        """
        wanted = self.problem if problem is None else problem
        return wanted.score(self.values(obs, stocks), stocks.to(self.device, torch.float32))

    def search_initial_stock(self, obs: Tensor, problem: StockProblem | None = None) -> float:
        """Return the initial stock for start observations [n, ...]: the objective's, or the best of the grid.

        It waits for the device; the arguments are those of :meth:`scores`.
        """
        config = self.config
        wanted = self.problem if problem is None else problem
        if not wanted.searched:
            assert wanted.initial_stock is not None
            return wanted.initial_stock[0]
        if config.use_of_stock == NAIVE:
            return 0.0
        grid = torch.linspace(config.stock_low, config.stock_high, config.stock_points, device=self.device)
        if wanted.minimise:  # h is a bound, which the policy of the smallest may fall short of
            worth = wanted.criterion().value(self.greedy_returns(obs, grid))
        else:
            worth = self.scores(obs, grid, wanted)
        best = int(worth.argmax())
        # At the lower end it is the mean that is wanted, and all low stocks are as good.
        if best == len(grid) - 1 and not wanted.minimise:
            warnings.warn(f"the best initial stock is stock_high {config.stock_high:g}; a larger one may "
                          "be better", stacklevel=2)  # fmt: skip
        return float(grid[best])

    # Learning --------------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Keep one step of the environments, with the stocks it was made with."""
        obs, next_obs = transitions.obs, transitions.next_obs
        if self.replay is None:
            self.replay = self._empty_replay(len(transitions.rewards))
        plain = Transitions(obs["obs"], transitions.actions, transitions.rewards, next_obs["obs"],
                            transitions.terminations, transitions.truncations, transitions.mask)  # fmt: skip
        self.replay.add(plain, {"stock": obs["stock"][:, 0]})

    def update(self) -> dict[str, Tensor]:
        """Take the gradient steps that are due; see :meth:`Agent.update`."""
        config, before = self.config, self._learned_at
        due = config.gradient_steps_due(self.replay, before, self.num_timesteps)
        self._learned_at = self.num_timesteps
        return mean_of(self._gradient_step() for _ in range(due))

    def _gradient_step(self) -> dict[str, Tensor]:
        assert self.replay is not None
        config, generator = self.config, self._generator
        drawn = self.replay.draw(config.batch_size, generator)
        draws = uniform(generator, config.batch_size, device=self.device)
        metrics = self._update.step(self.replay.storage, *drawn, draws)
        self.gradient_steps_done += 1
        if self.gradient_steps_done % config.target_update_gradient_steps == 0:
            self._target_weights.follow(self._update.weights, config.polyak)
        return metrics

    def _loss(
        self, network: Network, storage: dict[str, Tensor], index: Tensor, newest: Tensor, draws: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the transitions at places of the replay, and metrics."""
        assert self.replay is not None
        config, batch = self.config, self.replay.batch(storage, index, newest)
        stock = batch.extras["stock"].to(torch.float32)
        if config.relabel:
            stock = config.stock_low + (config.stock_high - config.stock_low) * draws
        moves = config.use_of_stock == STOCK
        next_stock = (stock + batch.returns) / config.gamma if moves else stock
        seen, next_seen = self._shown(stock), self._shown(next_stock)
        with torch.no_grad():
            next_outputs = self.target(batch.next_obs, next_seen)
            chosen_by = self.network(batch.next_obs, next_seen) if config.double else next_outputs
            next_q = gather_actions(next_outputs, self.greedy(chosen_by, next_stock))
            target, _ = self.network.head.target(batch.returns, batch.discounts, next_q)
        q_taken = gather_actions(network(batch.obs, seen), batch.actions - self._first_action)
        losses = self.network.head.loss(q_taken, target)
        loss = losses @ (batch.weights / batch.weights.sum().clamp(min=1.0))
        metrics = self.network.head.metrics(losses.detach(), q_taken.detach(), target)
        return loss, {"train/loss": loss.detach(), **metrics}

    # What a continuation needs ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {**super().state_dict(), "gradient_steps_done": self.gradient_steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        super().load_state_dict(state)
        self.gradient_steps_done = int(state["gradient_steps_done"])

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        return ReplayBuffer(self.config.buffer_size, num_envs, gamma=self.config.gamma)
