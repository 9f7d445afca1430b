"""Many deep Q-learners as one: the agent of ``prefrl.agents.value_based.dqn``, with an axis of learners.

S networks of S seeds act in S times as many environments, keep what they saw in one replay, each in a block
of its columns, and learn by one batched product per layer. Each is a run of its own: what is random about it
comes from its seed alone, so that a learner is the same whoever its neighbours are. Step size and discount
may be given for each. One that diverges stays as it was, and the others go on.

Multilayer perceptrons and the small convolution learn by
:func:`~prefrl.agents.value_based.by_hand.gradients_by_hand`, other networks by ``torch.vmap`` over autograd.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prefrl.agents.base import LearningFailedError, Spaces
from prefrl.agents.shared import ManyLearners, check_discrete, check_torso
from prefrl.data import Transitions, seeded_generator
from prefrl.data.devices import building, low_dtype
from prefrl.data.metrics import mean_of
from prefrl.data.off_policy import times_due
from prefrl.data.replay import ReplayBuffer, replay_state, restored_replay
from prefrl.data.rollouts import by_learner, each, one_of
from prefrl.functional.streams import Ahead, Streams
from prefrl.functional.value_based.exploration import epsilon_greedy
from prefrl.nn.adam import Descent
from prefrl.nn.flat import Learners
from prefrl.nn.q_network import QChain, QNetwork
from prefrl.nn.torsos import called_for_several

from .by_hand import gradients_by_hand
from .dqn import DQN, LEARNING_RATES, DQNConfig, q_loss


class DQNLearners(ManyLearners):
    """S deep Q-learners side by side; see the module's text.

    Args:
        env: an environment of :class:`DQN`; see :class:`ManyLearners`.
        config: settings; timesteps are those of each learner.
        num_learners: S.
        torso: see :class:`DQN`; one that ``torch.vmap`` can call with parameters of several learners.
        device: torch device, or "auto".
        seed: of the first learner, the others having the next ones; or one of each.

    Raises:
        ValueError: if a space or a setting is of another kind, or the rows do not suit.
    """

    config_class: ClassVar[type[DQNConfig]] = DQNConfig
    config: DQNConfig
    keeps_rewards = True

    def __init__(
        self,
        env: Any,
        config: DQNConfig | None = None,
        *,
        num_learners: int = 2,
        torso: nn.Module | None = None,
        device: torch.device | str = "auto",
        seed: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(env, config or DQNConfig(), num_learners=num_learners, device=device, seed=seed)
        config, device, learners, seeds = self.config, self.device, self.num_learners, self.seeds
        self.num_actions, self._first_action = check_discrete(self.action_space, type(self).__name__)
        for name in ("compile", "cuda_graph"):
            if getattr(config, name):
                raise ValueError(f"{name} is True; for several learners it must be False")
        self._torso = torso
        self.online, self.targets = (Learners([self._network(seed) for seed in seeds]) for _ in range(2))
        rates = LEARNING_RATES[config.loss] if config.learning_rate is None else config.learning_rate
        self.descent = Descent(self.online.vectors, rates=rates, eps=config.adam_eps,
                               max_grad_norm=config.max_grad_norm)  # fmt: skip
        network = self.online.modules[0]
        assert isinstance(network, QNetwork)
        self.head = network.head
        self._chains: tuple[QChain, QChain] | None = None
        if network.has_chain:
            low = low_dtype(config.precision, device, config.hidden)
            online, targets = self.online.views(), self.targets.views()
            self._chains = QChain(network, *online, low), QChain(network, *targets, low)
        layers_alone = self._chains is not None and self._chains[0].front is None
        if not layers_alone and config.precision != "float32":
            raise ValueError(f"precision is {config.precision!r}; it must be 'float32' unless the network is "
                             "a multilayer perceptron of our own")  # fmt: skip
        if torso is not None:
            space = self.observation_space
            shape, first = (learners, 2, *(space.shape or ())), int(getattr(space, "start", 0))
            with called_for_several(torso, ", as DQN"):
                self.q_values(torch.full(shape, first, device=device))
        self._gammas = each(config.gamma, learners, device)
        self._noise = Ahead(Streams(seeds, "exploration", device), lambda streams, n: streams.uniform(n, 2))
        self._places = Ahead(Streams(seeds, "replay", device), lambda streams, n: streams.halves(n))
        self._clamped = torch.zeros(learners, 2, dtype=torch.float64, device=device)
        self.replay: ReplayBuffer | None = None
        self._learned_at = 0

    def _network(self, seed: int) -> QNetwork:
        with building(self.device, seeded_generator(seed, "network").initial_seed()):
            return QNetwork(self.observation_space, self.num_actions, self.config, self._torso)

    # Acting ----------------------------------------------------------------------------------------------

    @property
    def epsilon(self) -> float:
        """Probability of a uniform action at the present timestep."""
        return self.config.epsilon(self.num_timesteps)

    @torch.no_grad()
    def q_values(self, obs: Tensor) -> Tensor:
        """Return Q(s, a) [S, n, A] for observations [S, n, ...] on the device."""
        if self._chains is None:
            return self.head.values(self.online(obs))
        online = self._chains[0]
        return self.head.values(online.record(online.inputs(obs))[1])

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return epsilon-greedy actions [S * n] for observations [S * n, ...]."""
        best = self.q_values(by_learner(obs[None], self.num_learners)).argmax(-1)
        if not deterministic:
            noise = self._noise.next(best.shape[1]).permute(2, 0, 1)
            best = epsilon_greedy(best, self.num_actions, self.epsilon, noise)
        return best.flatten() + self._first_action

    def schedules(self) -> dict[str, float]:
        """See :meth:`Agent.schedules`: the exploration rate."""
        return {"rollout/exploration_rate": self.epsilon}

    def observe(self, transitions: Transitions) -> None:
        """Keep one step of the environments.

        Raises:
            ValueError: with SARSA targets, for which the replay knows no next actions.
        """
        if self.config.target_policy != "greedy":
            raise ValueError(f"target_policy is {self.config.target_policy!r}; it must be 'greedy' where "
                             "several learners step environments")  # fmt: skip
        if self.replay is None:
            self.replay = self._empty_replay(len(transitions.rewards))
        self.replay.add(transitions)

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: n-step returns must not reach across."""
        if self.replay is not None:
            self.replay.cut()

    def relabel(self, rewards: Tensor) -> None:
        """See :meth:`Agent.relabel`."""
        if self.replay is not None:
            self.replay.relabel(rewards)

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        gammas = self._gammas.expand(-1, num_envs // self.num_learners).flatten()
        size = self.config.buffer_size * self.num_learners
        return ReplayBuffer(size, num_envs, gamma=gammas, n_step=self.config.n_step)

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take the gradient steps that are due; see :meth:`Agent.update`."""
        config, before, now = self.config, self._learned_at, self.num_timesteps
        steps = config.gradient_steps_due(self.replay, before, now, self.num_learners)
        self._learned_at = now
        metrics = mean_of(self._gradient_step() for _ in range(steps))
        if times_due(config.target_update_interval, before, now):
            self.targets.follow(self.online, config.tau)
        return metrics

    def _gradient_step(self) -> dict[str, Tensor]:
        assert self.replay is not None
        config, replay = self.config, self.replay
        drawn = replay.places(self._places.next(config.batch_size))
        batch = replay.batch(replay.storage, *drawn)
        if self._chains is not None:
            metrics = gradients_by_hand(*self._chains, batch, self._first_action, config)
            with torch.inference_mode():
                self.descent.step()
        else:
            self.online.vectors.grad.zero_()  # type: ignore[union-attr]
            networks = self.online, self.online, self.targets
            each = batch.of_learners(self.num_learners)
            losses, metrics = q_loss(*networks, self.head, each, self._first_action, config)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self.descent.step()
        if "clamped" in metrics:
            self._clamped += metrics.pop("clamped")
        return {name: self.descent.mean(value) for name, value in metrics.items()}

    # What came of it, and what a continuation needs -------------------------------------------------------

    def check(self) -> None:
        """Stop a run whose support is too narrow; warn of learners that diverged, once.

        Raises:
            LearningFailedError: if more of a learner's targets were clamped than the settings allow.
        """
        super().check()
        config, fractions = self.config, self.clamped_fractions
        worst = max(range(self.num_learners), key=fractions.__getitem__)
        if fractions[worst] > config.max_clamped_fraction:
            raise LearningFailedError(
                f"{fractions[worst]:.1%} of the targets of learner {worst} lay outside the support "
                f"[{config.v_min:g}, {config.v_max:g}] (max_clamped_fraction is "
                f"{config.max_clamped_fraction:g}; widen v_min and v_max)"
            )

    @property
    def clamped_fractions(self) -> list[float]:
        """Share of each learner's targets so far that lay beyond the support; waits for the device."""
        fractions: list[float] = (self._clamped[:, 0] / self._clamped[:, 1].clamp(min=1.0)).tolist()
        return fractions

    def result(self) -> dict[str, Any]:
        """Return which learners diverged, and the shares of clamped targets."""
        return {**super().result(), "clamped_fractions": self.clamped_fractions}

    def learner(self, index: int) -> DQN:
        """See :class:`ManyLearners`."""
        self._check_index(index)
        agent = DQN(Spaces(self.observation_space, self.action_space), self.config.of_learner(index),
                    torso=self._torso, device=self.device, seed=self.seeds[index])  # fmt: skip
        agent.num_timesteps = self.num_timesteps
        optimizer = one_of(self.descent.optimizer.states[0], index)
        agent.load_state_dict(
            {
                **agent.state_dict(),
                "network": self.online.modules[index].state_dict(),
                "target": self.targets.modules[index].state_dict(),
                "optimizer": {"state": {0: {name: value[0].squeeze() if name == "step" else value[0]
                                            for name, value in optimizer.items()}}},
                "learned_at": self._learned_at,
                "clamped": self._clamped[index],
            }
        )  # fmt: skip
        return agent

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "seeds": torch.tensor(self.seeds),
            "torso": None if self._torso is None else type(self._torso).__name__,
            "network": self.online.state_dict(),
            "target": self.targets.state_dict(),
            "descent": self.descent.state_dict(),
            "noise": self._noise.state_dict(),
            "places": self._places.state_dict(),
            "learned_at": self._learned_at,
            "clamped": self._clamped,
            **replay_state(self.replay),
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the replay stays behind, as with SB3."""
        return {**self.state_dict(), "replay": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        self.online.load_state_dict(state["network"])
        self.targets.load_state_dict(state["target"])
        self.descent.load_state_dict(state["descent"])
        self._noise.load_state_dict(state["noise"])
        self._places.load_state_dict(state["places"])
        self._learned_at = int(state["learned_at"])
        self._clamped.copy_(state["clamped"])
        if state["replay"] is not None:
            self.replay = restored_replay(state, self._empty_replay, self.device)

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> DQNLearners:
        check_torso(cls, settings.get("torso"), state)
        seeds = state["seeds"].tolist()
        return cls(env, config, **{**settings, "num_learners": len(seeds), "seed": seeds})

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], env: Any = None, device: torch.device | str = "auto", *,
        torso: nn.Module | None = None,
    ) -> DQNLearners:  # fmt: skip
        """See :meth:`Agent.load`; a torso that the agent was given is given again, for what it learned."""
        return cls._from_file(path, env, device, {"torso": torso})
