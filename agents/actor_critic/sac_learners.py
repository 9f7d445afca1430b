"""Many soft actor-critics as one: the agent of ``prefrl.agents.actor_critic.sac``, with an axis of learners.

S actors with their critics, of S seeds, act in S times as many environments, keep what they saw in one
replay, each in a block of its columns, and learn by one batched product per layer. Each is a run of its own:
what is random about it comes from its seed alone, so that a learner is the same whoever its neighbours are.
Each has a temperature; step sizes, discount, target entropy and the temperature at the start may be given
for each. One that diverges, in whichever part, stays as it was, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.agents.shared import ManyLearners
from prefrl.data import Transitions
from prefrl.data.metrics import mean_of
from prefrl.data.moments import StackedMoments
from prefrl.data.replay import Batch, ReplayBuffer, replay_state, restored_replay
from prefrl.data.rollouts import each, one_of
from prefrl.functional.actor_critic.squashed_gaussian import squashed_sample
from prefrl.functional.streams import Ahead, Streams
from prefrl.nn.adam import Descent
from prefrl.nn.flat import FlatParameters

from .box import Boxes, HeldDraws
from .by_hand import step_by_hand
from .networks import SoftActorCritic
from .sac import SAC, SACConfig

ADAM_EPS = 1e-8
"""Adam's epsilon, as a single learner has it."""


class ManyActorCritics(SoftActorCritic):
    """Networks and gradient step of S learners; :class:`SoftActorCritic` says what is in them.

    Attributes:
        log_temperature: [S, 1].
        largest: [S, 2].
        descents: who takes the steps of critic, actor and temperature, in rows of the learners; they share
            what they know of who diverged.
    """

    def _make_learned(self) -> None:
        config, device, learners = self.config, self.device, self.num_learners
        rows = {"actor": learners, "critic": 2 * learners, "target": 2 * learners}
        self.flat = {name: FlatParameters(getattr(self, name), count) for name, count in rows.items()}
        self.log_temperature = each(config.initial_temperature, learners, device).log()
        self.log_temperature.grad = torch.zeros_like(self.log_temperature)
        entropy = -float(self.num_actions) if config.target_entropy is None else config.target_entropy
        self.target_entropy = each(entropy, learners, device)[:, 0]
        self.descents = {
            "critic": self._descent(self.flat["critic"].vector, None, config.max_grad_norm),
            "actor": self._descent(
                self.flat["actor"].vector, config.actor_learning_rate, config.max_grad_norm
            ),
            "temperature": self._descent(self.log_temperature, config.temperature_learning_rate, None),
        }
        self.descent = self.descents["critic"]
        for descent in self.descents.values():
            descent.going = self.descent.going
        self.optimizers = dict(self.descents)
        self.moments = StackedMoments(learners, self.observations, device)
        self.largest = torch.zeros(learners, 2, device=device)

    def _descent(self, vectors: Tensor, rates: Any, max_grad_norm: float | None) -> Descent:
        """Return Adam for the rows of each learner; both critics are one row."""
        assert vectors.grad is not None
        rows = vectors.detach().view(self.num_learners, -1)
        rows.grad = vectors.grad.view_as(rows)
        rates = self.config.learning_rate if rates is None else rates
        return Descent(rows, rates=rates, eps=ADAM_EPS, max_grad_norm=max_grad_norm)

    def descend(self, name: str, loss: Tensor | None = None) -> None:
        """Take the steps of actors, critics or temperatures, down the gradients that are there."""
        assert loss is None
        self.descents[name].step()

    @torch.no_grad()
    def follow(self) -> None:
        """See :class:`SoftActorCritic`; the targets of who diverged stay too."""
        self.updates += 1
        if self.updates % self.config.target_update_gradient_steps == 0:
            shares = (self.config.tau * self.descent.going).expand(-1, 2).reshape(-1, 1)
            self.flat["target"].vector.lerp_(self.flat["critic"].vector, shares)

    @torch.inference_mode()
    def step_of_all(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        """Take a gradient step of every learner; return means of metrics over those that did not diverge.

        Args:
            batch: [S * B, ...] transitions, learner by learner, with actions in [-1, 1].
            noise: [S, 2 B, A] standard normal numbers.
        """
        found = step_by_hand(self, batch, noise)
        self.remember(found)
        return {name: self.descent.mean(value) for name, value in found.items()}

    def of_learner(self, index: int, single: SoftActorCritic) -> dict[str, Any]:
        """Return the state of a single one, given one in its first state, that goes on as a learner."""
        state = self.state_dict()
        own = single.state_dict()
        pairs = {name: state[name] for name in ("critic", "target")}
        adams = {}
        for name, descent in self.descents.items():
            kept = {part: value[index] for part, value in descent.optimizer.states[0].items()}
            shapes = own["optimizers"][name]["state"][0]
            adams[name] = {"state": {0: {part: self._as_single(name, value).view_as(shapes[part])
                                         for part, value in kept.items()}}}  # fmt: skip
        return {
            **own,
            "actor": one_of(state["actor"], index),
            **{
                name: {part: value[2 * index : 2 * index + 2].clone() for part, value in stack.items()}
                for name, stack in pairs.items()
            },
            "log_temperature": self.log_temperature[index, 0].clone(),
            "optimizers": adams,
            "moments": {
                part: value[index].reshape(own["moments"][part].shape)
                for part, value in state["moments"].items()
            },
            "updates": self.updates,
            "largest": self.largest[index].clone(),
        }

    def _as_single(self, name: str, row: Tensor) -> Tensor:
        """Return a learner's row in the order that a single one has: of critics, layer by layer."""
        if name != "critic" or row.numel() == 1:
            return row.clone()
        sizes = [parameter[0].numel() for parameter in self.critic.parameters()]
        return torch.cat([piece.flatten() for piece in torch.split(row.view(2, -1), sizes, 1)])


class SACLearners(ManyLearners):
    """S soft actor-critics side by side; see the module's text.

    Args:
        env: an environment of :class:`SAC`; see :class:`ManyLearners`.
        config: settings; timesteps are those of each learner.
        num_learners: S.
        device: torch device, or "auto".
        seed: of the first learner, the others having the next ones; or one of each.

    Raises:
        ValueError: if a space or a setting is of another kind, or the rows do not suit.

    Attributes:
        networks: actors and critics.
        replay: transitions so far; None before the first one.
    """

    config_class: ClassVar[type[SACConfig]] = SACConfig
    config: SACConfig
    advice = SAC.advice
    keeps_rewards = True

    def __init__(
        self,
        env: Any,
        config: SACConfig | None = None,
        *,
        num_learners: int = 2,
        device: torch.device | str = "auto",
        seed: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(env, config or SACConfig(), num_learners=num_learners, device=device, seed=seed)
        config, device, seeds = self.config, self.device, self.seeds
        if config.critic_regularizer != "none":
            raise ValueError(f"critic_regularizer is {config.critic_regularizer!r}; for several learners it "
                             "must be 'none'")  # fmt: skip
        for name in ("compile", "cuda_graph"):
            if getattr(config, name):
                raise ValueError(f"{name} is True; for several learners it must be False")
        self.boxes = Boxes(self.observation_space, self.action_space, device, type(self).__name__)
        actions = self.boxes.actions
        self.networks = ManyActorCritics(self.boxes.observations, actions, config, device=device, seed=seeds)
        self.descent = self.networks.descent
        self._gammas = each(config.gamma, self.num_learners, device)
        makers = {
            "first actions": lambda streams, rows: streams.uniform(rows, actions),
            "actions": lambda streams, rows: streams.normal(rows, actions),
            "steps": lambda streams, rows: streams.normal(rows, actions),
            "replay": lambda streams, rows: streams.halves(rows),
        }
        self._drawn = {name: Ahead(Streams(seeds, name, device), make) for name, make in makers.items()}
        self.replay: ReplayBuffer | None = None
        self._learned_at = 0
        self._warmup = HeldDraws(config.warmup_hold)

    # Acting ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Return actions [S * n, ...]: uniform ones at first, then those of each policy."""
        rows = len(obs) // self.num_learners
        if not deterministic and self.num_timesteps < self.config.learning_starts:
            uniform = self._warmup.next(rows, self._drawn["first actions"].next)
            return self.boxes.to_env((2.0 * uniform - 1.0).flatten(0, 1))
        flat = obs.to(torch.float32).reshape(self.num_learners, rows, -1)
        outputs: Tensor = self.networks.actor(flat)
        if deterministic:
            actions = torch.tanh(outputs[..., : self.boxes.actions])
        else:
            mean, log_std = outputs.chunk(2, -1)
            actions = squashed_sample(mean, log_std, self._drawn["actions"].next(rows))
        return self.boxes.to_env(actions.flatten(0, 1))

    def observe(self, transitions: Transitions) -> None:
        """Keep one step of the environments."""
        if self.replay is None:
            self.replay = self._empty_replay(len(transitions.rewards))
        step = self.boxes.kept(transitions)
        self.replay.add(step)
        shape = self.num_learners, len(step.mask) // self.num_learners
        self.networks.moments.add(step.obs.view(*shape, -1), step.mask.view(shape))

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`."""
        if self.replay is not None:
            self.replay.cut()

    def relabel(self, rewards: Tensor) -> None:
        """See :meth:`Agent.relabel`."""
        if self.replay is not None:
            self.replay.relabel(rewards)

    def _empty_replay(self, num_envs: int) -> ReplayBuffer:
        gammas = self._gammas.expand(-1, num_envs // self.num_learners).flatten()
        return ReplayBuffer(self.config.buffer_size * self.num_learners, num_envs, gamma=gammas)

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take the gradient steps that are due; see :meth:`Agent.update`."""
        before, self._learned_at = self._learned_at, self.num_timesteps
        steps = self.config.gradient_steps_due(self.replay, before, self.num_timesteps, self.num_learners)
        return mean_of(self._gradient_step() for _ in range(steps))

    @torch.inference_mode()
    def _gradient_step(self) -> dict[str, Tensor]:
        replay, size = self.replay, self.config.batch_size
        assert replay is not None
        drawn = replay.places(self._drawn["replay"].next(size))
        return self.networks.step_of_all(
            replay.batch(replay.storage, *drawn), self._drawn["steps"].next(2 * size)
        )

    # What came of it, and what a continuation needs -------------------------------------------------------

    def check(self) -> None:
        """See :meth:`Agent.check`: warns of learners that diverged, and of values that no policy has."""
        super().check()
        self.networks.check()

    def result(self) -> dict[str, Any]:
        """Return which learners diverged, and the largest |Q| of each."""
        return {**super().result(), "largest_q": self.networks.largest[:, 0].tolist()}

    def learner(self, index: int) -> SAC:
        """See :class:`ManyLearners`."""
        self._check_index(index)
        agent = SAC(Spaces(self.observation_space, self.action_space), self.config.of_learner(index),
                    device=self.device, seed=self.seeds[index])  # fmt: skip
        agent.num_timesteps = self.num_timesteps
        policy = self.networks.of_learner(index, agent.networks)
        agent.load_state_dict({**agent.state_dict(), "policy": policy, "learned_at": self._learned_at})
        return agent

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            "seeds": torch.tensor(self.seeds),
            "policy": self.networks.state_dict(),
            "drawn": {name: ahead.state_dict() for name, ahead in self._drawn.items()},
            "warmup": self._warmup.state_dict(),
            "learned_at": self._learned_at,
            **replay_state(self.replay),
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the replay stays behind, as with SB3."""
        return {**self.state_dict(), "replay": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a replay, learning goes on with an empty one."""
        self.networks.load_state_dict(state["policy"])
        for name, ahead in self._drawn.items():
            ahead.load_state_dict(state["drawn"][name])
        self._warmup.load_state_dict(state.get("warmup"), self.device)
        self._learned_at = int(state["learned_at"])
        if state["replay"] is not None:
            self.replay = restored_replay(state, self._empty_replay, self.device)

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> SACLearners:
        seeds = state["seeds"].tolist()
        return cls(env, config, **{**settings, "num_learners": len(seeds), "seed": seeds})
