"""Bases of agents in several families: deep Q-learning of any loss, many learners as one, offline agents."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from prefrl.config import Count, Natural, Positive, Rows, Settings, Sizes, checked
from prefrl.data import Segments, TransitionDataset, Transitions, seeded_generator
from prefrl.data.devices import building, make_generator, restore_generator
from prefrl.data.off_policy import OffPolicySettings
from prefrl.data.replay import Batch, ReplayBuffer, replay_state, restored_replay
from prefrl.functional.draws import uniform
from prefrl.functional.streams import Streams
from prefrl.functional.value_based.exploration import epsilon_greedy
from prefrl.nn.adam import Descent
from prefrl.nn.flat import FlatParameters
from prefrl.nn.likelihood_policies import (
    GaussianKind,
    LikelihoodPolicy,
    likelihood_policy,
    segment_log_probs,
)  # fmt: skip
from prefrl.nn.update import AdamUpdate

from .base import Agent, Spaces

DeepQType = TypeVar("DeepQType", bound="DeepQ")
OfflineType = TypeVar("OfflineType", bound="OfflineAgent")


class DeepQ(Agent):
    """Base of agents with a Q-network, its target network and a replay.

    A torso may be given in place of the settings' network for observations; :meth:`load` takes it again.

    They give the loss of transitions at places of the replay (``_loss``), make their networks with
    :meth:`make_networks`, and say what an empty replay is (``_empty_replay``).

    Raises:
        ValueError: if actions are not Discrete.
    """

    config: OffPolicySettings
    network: nn.Module
    target: nn.Module
    _loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]

    def __init__(
        self, env: Any, config: OffPolicySettings, *, torso: nn.Module | None = None,
        device: torch.device | str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(env, config, device=device, seed=seed)
        self._torso_name = None if torso is None else type(torso).__name__
        self.num_actions, self._first_action = check_discrete(self.action_space, type(self).__name__)
        self._generator = make_generator(self.device, seed)
        self.replay: ReplayBuffer | None = None
        self._learned_at = 0

    def make_networks(self, network: Callable[[], nn.Module], lr: float) -> None:
        """Make the network, its target and their optimiser."""
        config = self.config
        with building(self.device, seeded_generator(self.seed, "network").initial_seed()):
            self.network, self.target = network(), network().requires_grad_(False)
        self.target.load_state_dict(self.network.state_dict())
        self._update = AdamUpdate(self.network, self._loss, lr=lr, eps=config.adam_eps,
                                  max_grad_norm=config.max_grad_norm, compile=config.compile)  # fmt: skip
        self.optimizer, self._target_weights = self._update.optimizer, FlatParameters(self.target)

    @property
    def epsilon(self) -> float:
        """Probability of a uniform action at the present timestep."""
        return self.config.epsilon(self.num_timesteps)

    def schedules(self) -> dict[str, float]:
        """See :meth:`Agent.schedules`: the exploration rate."""
        return {"rollout/exploration_rate": self.epsilon} if self.steps_env else {}

    def explore(self, best: Tensor, *, deterministic: bool) -> Tensor:
        """Return epsilon-greedy actions [n] for the best ones [n], which are counted from 0."""
        if not deterministic:
            noise = uniform(self._generator, 2, len(best), device=self.device)
            best = epsilon_greedy(best, self.num_actions, self.epsilon, noise)
        return best + self._first_action if self._first_action else best

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        raise NotImplementedError

    @classmethod
    def load(
        cls: type[DeepQType], path: str | os.PathLike[str], env: Any = None,
        device: torch.device | str = "auto", *, torso: nn.Module | None = None,
    ) -> DeepQType:  # fmt: skip
        """See :meth:`Agent.load`; a torso that the agent was given is given again, for what it learned."""
        return cls._from_file(path, env, device, {"torso": torso})

    @classmethod
    def _rebuilt(
        cls: type[DeepQType], env: Any, config: Any, state: Mapping[str, Any], **settings: Any
    ) -> DeepQType:
        check_torso(cls, settings.get("torso"), state)
        return cls(env, config, **settings)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "torso": self._torso_name,
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "learned_at": self._learned_at,
            **replay_state(self.replay if self.steps_env else None),  # a data set stays where it is
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the replay stays behind, as with SB3."""
        return {**self.state_dict(), "replay": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_generator(self._generator, state["generator"])
        self._learned_at = int(state["learned_at"])
        self._update.forget_compiled()  # the replay is another one from now on
        if state["replay"] is not None:
            self.replay = restored_replay(state, self._empty_replay, self.device)


class ManyLearners(Agent):
    """Base of agents that are S learners side by side, S from 1 on.

    Args:
        env: an environment, with as many rows for each learner, learner by learner; prefrl's own vector and
            on-device ones made with ``num_streams=num_learners``, so that the noise of a learner's rows is
            theirs alone. Or :class:`prefrl.agents.base.Spaces`.
        config: settings; timesteps are those of each learner.
        num_learners: S.
        device: torch device, or "auto".
        seed: of the first learner, the others having the next ones; or one of each.

    Raises:
        ValueError: if the rows do not suit, or settings are for another number of learners.

    Attributes:
        descent: takes their gradient steps, and knows who diverged: those stay as they were before.
    """

    config: Settings
    descent: Descent

    def __init__(
        self, env: Any, config: Any, *, num_learners: int, device: torch.device | str,
        seed: int | Sequence[int],
    ) -> None:  # fmt: skip
        seeds = [seed] if isinstance(seed, int | np.integer) else list(seed)
        super().__init__(env, config, device=device, seed=int(seeds[0]) if seeds else -1)
        self.num_learners = checked(Count, num_learners, "num_learners")
        if len(seeds) == 1:
            seeds = [self.seed + learner for learner in range(self.num_learners)]
        self._seeds = [checked(Natural, each, "seed") for each in seeds]
        if len(seeds) != self.num_learners:
            raise ValueError(
                f"seed has {len(seeds)} numbers; it must be one, or one for each of {num_learners} learners"
            )
        self._told: set[int] = set()
        config.check_learners(self.num_learners)
        rows = 0 if isinstance(env, Spaces) else int(getattr(env, "num_envs", 1))
        if rows % self.num_learners:
            raise ValueError(
                f"env has {rows} rows; they must be a multiple of the {self.num_learners} learners"
            )
        if self.num_learners > 1 and getattr(env, "num_streams", self.num_learners) != self.num_learners:
            raise ValueError("env draws the noise of all rows together; make it with "
                             f"num_streams={self.num_learners}")  # fmt: skip

    @property
    def seeds(self) -> list[int]:
        """See :attr:`Agent.seeds`."""
        return self._seeds

    def alone(self) -> list[Agent]:
        """See :meth:`Agent.alone`."""
        return [self] if self.num_learners == 1 else [self.learner(i) for i in range(self.num_learners)]

    @abstractmethod
    def learner(self, index: int) -> Agent:
        """Return one learner as an agent of its own, without an environment and what it saw last.

        Raises:
            ValueError: if there is none of that number.
        """

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.num_learners:
            raise ValueError(f"index is {index}; the learners are 0 to {self.num_learners - 1}")

    def check(self) -> None:
        """See :meth:`Agent.check`: warns of learners that diverged, once."""
        new = sorted(set(self.descent.frozen()) - self._told)
        if new:
            self._told |= set(new)
            advice = f"; {self.advice}" if self.advice else ""
            warnings.warn(f"learners {new} diverged and stay as they were before{advice}", stacklevel=2)

    def result(self) -> dict[str, Any]:
        """Return which learners diverged, of several."""
        return {"frozen_learners": self.descent.frozen()} if self.num_learners > 1 else {}


@dataclass(frozen=True)
class OfflineSettings(Settings):
    """Settings of agents that learn from a data set alone."""

    hidden: Sizes = (256, 256)
    """Sizes of the hidden layers of every network, ReLU (Kostrikov et al. 2021)."""

    learning_rate: Positive = 3e-4
    """Adam's step size, of every network (the same)."""

    batch_size: Rows = 256
    """Transitions of a gradient step (the same)."""


@dataclass(frozen=True)
class LikelihoodSettings(OfflineSettings):
    """Settings of those whose policy is :func:`prefrl.nn.likelihood_policies.likelihood_policy`."""

    policy: GaussianKind = "gaussian"
    """Of Boxes: normal numbers around a mean within the Box, of spreads that no observation changes
    (gaussian, the same), or squashed into it by tanh, of spreads that the network gives (squashed)."""


class OfflineAgent(Agent):
    """Base of agents with a policy that learn from a data set alone: one timestep is one gradient step.

    Nothing is stepped. They make their networks, the policy among them, in :meth:`make_network`, and give the
    loss of transitions (``_loss``).

    Args:
        env: an environment, for its spaces, or :class:`prefrl.agents.base.Spaces`.
        config: settings.
        dataset: what to learn from; None: the agent acts, and does not learn.
        device: torch device, or "auto".
        seed: seeds networks, batches and the actions that are drawn.

    Raises:
        TypeError: if ``dataset`` is none.
        ValueError: if a space is of another kind, or the data set's spaces are not the environment's.

    Attributes:
        policy: of a single learner; every parameter is [1, ...].
        network: all that learns.
    """

    config: OfflineSettings
    steps_env = False
    _loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]

    def __init__(
        self, env: Any, config: OfflineSettings, *, dataset: TransitionDataset | None = None,
        device: torch.device | str = "auto", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(env, config, device=device, seed=seed)
        if not isinstance(self.action_space, (gym.spaces.Discrete, gym.spaces.Box)):
            raise ValueError(f"action_space is {self.action_space}; {type(self).__name__} takes Discrete and "
                             "Box actions")  # fmt: skip
        if dataset is not None:
            check_dataset(self, dataset)
        with building(self.device, seeded_generator(self.seed, "network").initial_seed()):
            self.policy = self.make_policy()
            self.network = self.make_network()
        self._update = AdamUpdate(self.network, self._loss, lr=config.learning_rate, eps=1e-8,
                                  max_grad_norm=float("inf"))  # fmt: skip
        self._generator = make_generator(self.device, self.seed)
        self._noise = Streams([self.seed], "actions", self.device)
        self._replay: Any = None if dataset is None else self.make_replay(dataset)

    def make_policy(self) -> LikelihoodPolicy:
        """Return the policy, of a single learner; it is made on the device in use."""
        config = self.config
        assert isinstance(config, LikelihoodSettings)
        return likelihood_policy(self.observation_space, self.action_space, hidden=config.hidden,
                                 kind=config.policy, device=self.device)  # fmt: skip

    def make_replay(self, dataset: TransitionDataset) -> Any:
        """Return what samples of a data set: ``sample(count, generator)``."""
        gamma: float = getattr(self.config, "gamma", 0.0)
        return ReplayBuffer.from_dataset(dataset, gamma=gamma, n_step=1, device=self.device)

    @abstractmethod
    def make_network(self) -> nn.Module:
        """Return a module of all networks, :attr:`policy` among them; they are made on the device in use."""

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...]: drawn, or the most likely ones."""
        return self.policy.act(obs, self._noise, deterministic=deterministic)

    @torch.no_grad()
    def log_prob(self, segments: Segments) -> Tensor:
        """Return log pi(a_t | s_t) [N, L] of the steps of N segments, 0 where they are padding.

        Of a Box it is the logarithm of a density, in the environment's units. Label models can ask it
        (``DensityRatio``); :attr:`policy` has the same of single actions, with gradients.
        """
        return segment_log_probs(self.policy, segments.to(self.device))[0]

    def observe(self, transitions: Transitions) -> None:
        """See :meth:`Agent.observe`: the data set is all that there is to learn from."""

    def update(self) -> dict[str, Tensor]:
        """Take one gradient step.

        Raises:
            ValueError: if there is no data set.
        """
        if self._replay is None:
            name = type(self).__name__
            raise ValueError(f"dataset is None; {name} learns from a TransitionDataset alone: give "
                             f"{name}(env, dataset=...), or {name}.load(path, dataset=...)")  # fmt: skip
        self.num_timesteps += 1
        return self._step(self._replay.sample(self.config.batch_size, self._generator))

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        return self._update.step(batch)

    @classmethod
    def load(
        cls: type[OfflineType], path: str | os.PathLike[str], env: Any = None,
        device: torch.device | str = "auto", *, dataset: TransitionDataset | None = None,
    ) -> OfflineType:  # fmt: skip
        """See :meth:`Agent.load`; files hold no data, which are given again to go on learning."""
        return cls._from_file(path, env, device, {"dataset": dataset})

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`; a data set stays where it is."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "noise": self._noise.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`."""
        self.network.load_state_dict(state["network"])
        self._update.optimizer.load_state_dict(state["optimizer"])
        restore_generator(self._generator, state["generator"])
        self._noise.load_state_dict(state["noise"])


def check_dataset(agent: Agent, dataset: TransitionDataset) -> None:
    """Raise where an agent cannot learn from a data set; warn of one from another environment like its own.

    Raises:
        TypeError: if it is none.
        ValueError: if its spaces are not the environment's.
    """
    if not isinstance(dataset, TransitionDataset):
        raise TypeError(f"dataset is a {type(dataset).__name__}; it must be a TransitionDataset")
    dataset.check_matches(agent.observation_space, agent.action_space)
    spec = getattr(agent.env, "spec", None)
    if spec is not None and dataset.env_id not in (None, spec.id):
        warnings.warn(f"the dataset is from {dataset.env_id}, and the environment is {spec.id}; their "
                      "spaces are the same", stacklevel=4)  # fmt: skip


def check_torso(kind: type[Agent], torso: nn.Module | None, state: Mapping[str, Any]) -> None:
    """Raise ValueError where a saved agent was made with a torso and is loaded without, or the reverse."""
    saved, name = state.get("torso"), kind.__name__  # older files know of none
    if saved is not None and torso is None:
        raise ValueError(f"this {name} was given a torso, a {saved}; give a module like it: "
                         f"{name}.load(path, torso=...)")  # fmt: skip
    if saved is None and torso is not None:
        raise ValueError(f"this {name} was made without a torso, its networks are those of its settings; "
                         "give none to load it")  # fmt: skip


def check_discrete(space: gym.Space[Any], name: str) -> tuple[int, int]:
    """Return the number of Discrete actions and the first one; ValueError for another space."""
    if not isinstance(space, gym.spaces.Discrete):
        raise ValueError(f"action_space is {space}; {name} takes Discrete actions")
    return int(space.n), int(space.start)
