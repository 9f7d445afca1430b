"""Nash learning: towards the policy that no other is preferred to, by any of eleven solvers.

Options beat each other by a matrix A that no reward need explain. With a price beta on leaving a reference,
the game

    V(p, q) = p A q - beta KL(p | reference) + beta KL(q | reference)

has one equilibrium, and it is the same policy for both players: p ~ reference exp(A p / beta) (Munos et al.
2023, arXiv 2312.00886). Without (beta 0) it is a minimax winner. Every timestep is one step of a solver on
the exact matrix, from ``prefrl.functional.preferences.game_steps``, where a table says what each does. How
far the policy still is from an equilibrium is known as exactly: the duality gap,

    gap(p) = max_q V(q, p) - min_q V(p, q).

Some solvers approach it with their last policy (EGPO, ONPO), others with the average of all (Hedge).

**Step by step.** With ``policy`` "table" or "network" the policy has a number, or a network's output, for
each next token, and takes a solver's step by descending the loss of its paper, from
:mod:`prefrl.functional.preferences.game_losses`. EGPO, mirror descent and Nash-MD descend that of online IPO
(arXiv 2503.08942), over even pairs of options i and j,

    mean_ij ( h_i - h_j - (A_i q - A_j q) / beta )^2,        h = log(p / reference),

whose slope in the logits of a softmax over K options is 4 / K (a - mean a), a = h - A q / beta: a step of
size s beta K / 4 is a step of mirror descent of size s against q. EGPO takes it twice from the same place: a
look ahead against q = p and, the weights put back, the step against what it saw there. INPO, MNPO, DNO and
GPO have losses whose minimiser is the step: ``inner_steps`` steps of descent go towards it. ONPO goes towards
two, one after the other, the first from the weights where its last first one ended.

Options are those of a matrix, the arms of a bandit, or all sequences that can be said after a prompt. A
policy of sequences is also one of steps: what is taken next in proportion to what all that begins so has
together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from prefrl.agents.base import Agent, Spaces
from prefrl.data import Transitions
from prefrl.data.devices import make_generator, restore_generator
from prefrl.functional.preferences.game_losses import (
    Pairs,
    all_pairs,
    dno_loss,
    drawn_options,
    drawn_pairs,
    gpo_loss,
    inpo_loss,
    online_ipo_loss,
)
from prefrl.functional.preferences.game_steps import (
    SOLVERS,
    Game,
    Play,
    advance,
    begin,
    duality_gap,
    population_means,
)
from prefrl.functional.preferences.games import check_payoff_matrix

from .nash_learning_config import NashLearningConfig as NashLearningConfig
from .step_policies import StepPolicy


class NashLearning(Agent):
    """The policy that no other is preferred to; see the module's text. One timestep is one step of a solver.

    Args:
        env: an environment that says how its sequences are preferred (``preference_matrix()``), as
            ``prefrl/TokenTree-v0`` and ``prefrl/PreferenceBandit-v0``: probabilities, of which 1/2 is taken.
            Not needed (None) with a matrix; the observation is then nothing, ``Discrete(1)``, and the action
            an option.
        config: settings.
        matrix: [K, K] antisymmetric payoffs, as they are, of any size (None: the environment's).
        reference: probabilities [K] or [P, K] (of P prompts), all above 0, where policies also begin (None:
            even).
        device: torch device, or "auto".
        seed: seeds the draws of :meth:`act` and of pairs, and a network's weights.

    Raises:
        ValueError: if there is no matrix, or one that is not antisymmetric, or the reference does not fit.

    Attributes:
        game: matrix [P, K, K], reference [P, K] and beta; of a matrix alone P is 1.
        play: where the solver stands.
    """

    config_class: ClassVar[type[NashLearningConfig]] = NashLearningConfig
    config: NashLearningConfig
    steps_env = False

    def __init__(
        self,
        env: Any = None,
        config: NashLearningConfig | None = None,
        *,
        matrix: Tensor | None = None,
        reference: Tensor | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        config = config or NashLearningConfig()
        games = _games(env, matrix)
        k = games.shape[-1]
        env = env or Spaces(gym.spaces.Discrete(1), gym.spaces.Discrete(k))
        super().__init__(env, config, device=device, seed=seed)
        self._vocabulary, self._depth, self._nodes = self._tree(*games.shape[:2])
        if config.step_size is None and (size := float(games.abs().max())) > 1.0:
            safe = 1.0 / (config.beta + 3.0 * size)
            warnings.warn(f"payoffs are as large as {size:g}, and the default step_size {config.step:.3g} is "
                          f"for at most 1; where the gap does not fall, give {safe:.3g}",
                          stacklevel=2)  # fmt: skip
        prior = _log_reference(reference, games)
        self.game = Game(games.to(self.device), prior.to(self.device), config.beta)
        self.play = begin(config.solver, self.game.reference, len(config.population))
        self._total = torch.zeros_like(self.game.reference)
        self._generator = make_generator(self.device, seed)
        self.steps: StepPolicy | None = None
        if config.policy != "exact":
            inner = (k - 1) // (self._vocabulary - 1)
            tables = self.step_policy().view(len(games), -1, self._vocabulary)
            hidden = config.hidden if config.policy == "network" else None
            adam = hidden is not None and config.optimizer == "adam"
            rate = config.learning_rate or (3e-3 if adam else config.table_rate(k))
            prior = tables[:, :inner].log()
            self.steps = StepPolicy(prior, self._depth, hidden, rate=rate, adam=adam, seed=seed)
        # ONPO's other policy, from which it steps: weights and Adam's averages.
        self._base = self.steps.snapshot() if self.steps is not None and config.solver == "onpo" else {}

    def _tree(self, prompts: int, k: int) -> tuple[int, int, int]:
        """Return V and T, of which V^T = K, and how many observations a prompt has."""
        spaces = self.observation_space, self.action_space
        if all(isinstance(space, gym.spaces.Discrete) for space in spaces):
            vocabulary, observed = int(spaces[1].n), int(spaces[0].n)
            depth = 1
            while vocabulary**depth < k and vocabulary > 1:
                depth += 1
            if vocabulary**depth == k and observed % prompts == 0:
                return vocabulary, depth, observed // prompts
        raise ValueError(f"observations {spaces[0]} and actions {spaces[1]} do not fit {prompts} matrices of "
                         f"{k} options")  # fmt: skip

    @property
    def last_policy(self) -> Tensor:
        """[P, K] the solver's present policy."""
        return self.play.policy.exp()

    @property
    def average_policy(self) -> Tensor:
        """[P, K] the mean of the policies so far; the present one before the first step."""
        return self._total / self._total.sum(-1, keepdim=True) if self.num_timesteps else self.last_policy

    @property
    def policy(self) -> Tensor:
        """[P, K] the one of the two that the solver's paper gives as its answer."""
        return self.last_policy if SOLVERS[self.config.solver].answer == "last" else self.average_policy

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return actions [n] for observations [n]: drawn from :attr:`policy`, or the likeliest next ones."""
        chances = self.step_policy()[obs - int(self.observation_space.start)]
        if deterministic:
            return chances.argmax(-1) + int(self.action_space.start)
        noise = torch.rand(len(obs), 1, generator=self._generator, device=self._generator.device)
        passed = (noise.to(self.device) >= chances.cumsum(-1)).sum(-1)
        return passed.clamp(max=self._vocabulary - 1) + int(self.action_space.start)

    def step_policy(self) -> Tensor:
        """Return :attr:`policy` step by step [S, A]; even in leaves and where it never comes."""
        mass, levels = self.policy.log(), []
        for _ in range(self._depth):
            children = mass.reshape(len(mass), -1, self._vocabulary)
            mass = torch.logsumexp(children, -1)
            reached = (mass > -torch.inf)[..., None]
            shares = (children - torch.where(reached, mass[..., None], 0.0)).exp()
            levels.append(torch.where(reached, shares, 1.0 / self._vocabulary))
        inner = torch.cat(levels[::-1], 1)[:, : self._nodes]
        leaves = self._nodes - inner.shape[1]
        even = inner.new_full((len(inner), leaves, self._vocabulary), 1.0 / self._vocabulary)
        return torch.cat([inner, even], 1).flatten(0, 1)

    def observe(self, transitions: Transitions) -> None:
        """There is nothing to observe."""

    def update(self) -> dict[str, Tensor]:
        """Take a step of the solver; see :meth:`Agent.update`."""
        self._total += self.play.policy.exp()
        config = self.config
        if self.steps is None:
            self.play = advance(config.solver, self.game, self.play, config.step, config.population)
        else:
            self.play = self._descend(self.steps, self.play)
        self.num_timesteps += 1
        return {
            "train/entropy": torch.special.entr(self.last_policy).sum(-1).mean(),
            "train/last_iterate_gap": duality_gap(self.game, self.play.policy).mean(),
            "train/average_gap": duality_gap(self.game, self.average_policy.log()).mean(),
        }

    def _descend(self, steps: StepPolicy, play: Play) -> Play:
        """Take the solver's step by descent from where it stands; return where that leads to."""
        game, config, (now, memory) = self.game, self.config, play
        solver, size = config.solver, config.step
        if solver == "egpo":
            before = steps.snapshot()
            ahead = self._against(steps, now)
            steps.load_state_dict(before)
            return Play(self._against(steps, ahead), memory)
        if solver == "omd":
            return Play(self._against(steps, now), memory)
        if solver == "nash_md":
            mixture = torch.log_softmax(torch.lerp(now, game.reference, size * game.beta), -1)
            return Play(self._against(steps, mixture), memory)
        if solver == "inpo":
            return Play(self._towards(steps, now, now.exp()), memory)
        if solver == "onpo":
            steps.load_state_dict(self._base)
            base = self._towards(steps, memory[:, 0], now.exp())
            self._base = steps.snapshot()
            return Play(self._towards(steps, base, now.exp()), base[:, None])
        if solver == "mnpo":
            base, mixture, memory = population_means(play, config.population)
            sampler = mixture if config.mnpo_pairs == "population" else now.exp()
            return Play(self._towards(steps, base, sampler), memory)
        if solver == "dno":
            pairs = self._compared(now.exp())
            return Play(self._fit(steps, lambda policy: dno_loss(game, policy, now, pairs(), size)), memory)
        form, seen = config.normaliser, self._seen(now.exp())
        return Play(self._fit(steps, lambda policy: gpo_loss(game, policy, now, size, form, seen())), memory)

    def _fit(self, steps: StepPolicy, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Descend a loss [P] of policies [P, K], summed over prompts; return the policies reached."""
        for _ in range(self.config.descents):
            steps.descend(loss(steps.log_probs()).sum())
        return steps.log_probs().detach()

    def _against(self, steps: StepPolicy, opponent: Tensor) -> Tensor:
        """Descend online IPO's loss against opponents [P, K]; return the policies reached."""
        count = self.config.pairs
        return self._fit(
            steps,
            lambda policy: online_ipo_loss(
                self.game, policy, opponent, None if count is None else self._noise(3, count)
            ),
        )

    def _towards(self, steps: StepPolicy, base: Tensor, sampler: Tensor) -> Tensor:
        """Descend INPO's loss from a base over pairs of a sampler [P, K]; return the policies reached."""
        size, pairs = self.config.step, self._compared(sampler)
        return self._fit(steps, lambda policy: inpo_loss(self.game, policy, base, pairs(), size))

    def _compared(self, sampler: Tensor) -> Callable[[], Pairs]:
        """Return what gives the pairs of a step of descent: all, or others each time."""
        count = self.config.pairs
        if count is None:
            every = all_pairs(sampler)
            return lambda: every
        return lambda: drawn_pairs(sampler, self._noise(2, count))

    def _seen(self, sampler: Tensor) -> Callable[[], Tensor | None]:
        """Return what gives the options of a step of descent: None for all, or others each time."""
        count = self.config.pairs
        if count is None:
            return lambda: None
        return lambda: drawn_options(sampler, self._noise(1, count)[0])

    def _noise(self, rows: int, count: int) -> Tensor:
        """Return numbers [rows, P, count], even in [0, 1)."""
        size, source = (rows, len(self.game.reference), count), self._generator
        return torch.rand(size, generator=source, device=source.device, dtype=torch.float64).to(self.device)

    def result(self) -> dict[str, Any]:
        """Return duality gaps, means over prompts, of policy, last policy and average; and the policy."""
        last, average, answer = (
            float(duality_gap(self.game, policy.log()).mean())
            for policy in (self.last_policy, self.average_policy, self.policy)
        )
        policy = self.policy[0] if len(self.policy) == 1 else self.policy
        return {
            "duality_gap": answer,
            "last_iterate_gap": last,
            "average_gap": average,
            "policy": policy.tolist(),
        }

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "matrix": self.game.matrix,
            "reference": self.game.reference,
            "policy": self.play.policy,
            "memory": self.play.memory,
            "total": self._total,
            "generator": self._generator.get_state(),
            "steps": {} if self.steps is None else self.steps.state_dict(),
            "base": self._base,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        ours = self.state_dict()
        for name in ("reference", "policy", "memory", "total"):
            if state[name].shape != ours[name].shape or state[name].dtype != torch.float64:
                raise ValueError(f"its {name} is {list(state[name].shape)} of {state[name].dtype}; this game "
                                 f"and solver have {list(ours[name].shape)} of float64")  # fmt: skip
        held = {name: state[name].to(self.device) for name in ("matrix", "reference")}
        if not torch.equal(held["matrix"], self.game.matrix):
            raise ValueError("it was trained on another matrix")
        if not torch.allclose(held["reference"], self.game.reference, rtol=0.0, atol=1e-9):
            raise ValueError("it was trained with another reference")
        self.game = self.game._replace(**held)  # to the last bit
        self.play = Play(state["policy"].to(self.device), state["memory"].to(self.device))
        self._total = state["total"].to(self.device)
        if self.steps is not None:
            self.steps.load_state_dict(state["steps"])
        if self._base:
            self._base = {name: value.to(self.device, copy=True) for name, value in state["base"].items()}
        restore_generator(self._generator, state["generator"])

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> NashLearning:
        with warnings.catch_warnings():  # it was told when it was made
            warnings.simplefilter("ignore")
            reference = torch.as_tensor(state["reference"])
            return cls(env, config, matrix=state["matrix"], reference=reference.exp(), **settings)


def _games(env: Any, matrix: Tensor | None) -> Tensor:
    """Return antisymmetric matrices [P, K, K] in float64: what was given, or what the environment knows."""
    if matrix is None:
        task = getattr(env, "unwrapped", env)
        if not hasattr(task, "preference_matrix"):
            raise ValueError(f"matrix is None and env {task!r} knows no preference_matrix(); give a [K, K] "
                             "matrix of payoffs, or an environment such as prefrl/TokenTree-v0")  # fmt: skip
        matrix = torch.as_tensor(task.preference_matrix(), dtype=torch.float64) - 0.5
    matrix = torch.as_tensor(matrix)
    games = matrix[None] if matrix.ndim == 2 else matrix
    if games.ndim != 3 or not len(games):
        raise ValueError(f"matrix has shape {list(matrix.shape)}; it must be [K, K] or [P, K, K]")
    return torch.stack([check_payoff_matrix(one) for one in games])


def _log_reference(reference: Tensor | None, games: Tensor) -> Tensor:
    """Return logarithms [P, K] of a reference [K] or [P, K], or of the even one."""
    shape = games.shape[:2]
    if reference is None:
        return torch.zeros(shape, dtype=torch.float64).log_softmax(-1)
    given = torch.as_tensor(reference, dtype=torch.float64)
    if tuple(given.shape) not in (tuple(shape), (shape[1],)):
        raise ValueError(f"reference has shape {list(given.shape)}; it must be [K] = [{shape[1]}] or "
                         f"[P, K] = {list(shape)}")  # fmt: skip
    if not bool((given > 0.0).all()) or float((given.sum(-1) - 1.0).abs().max()) > 1e-6:
        raise ValueError("reference must hold probabilities above 0 that sum to 1")
    return (given / given.sum(-1, keepdim=True)).log().expand(shape).clone()
