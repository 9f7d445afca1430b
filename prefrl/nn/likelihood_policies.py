"""Policies pi(a | s) with a likelihood, for S learners side by side.

Offline learning and learning from comparisons ask a policy how likely given actions are. Rows are [S, N]: S
learners, N observations of each, and every parameter has the axis of learners first:

================  ===================================================================================
TabularPolicy     a softmax of one number for each state and action
DiscretePolicy    a softmax of a network's outputs
GaussianPolicy    normal numbers around a network's output, with spreads that no observation changes,
                  or squashed into the Box by tanh, with spreads that the network gives
================  ===================================================================================

Observations and actions are the environment's own; densities are in its units.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from prefrl.functional.actor_critic.squashed_gaussian import squashed_log_prob, squashed_sample
from prefrl.functional.streams import Streams

from .mlp import StackedMLP
from .policies import ActionDistribution, Categoricals, DiagonalGaussian
from .torsos import Numbers

if TYPE_CHECKING:
    from prefrl.data.segments import Segments

PolicyType = TypeVar("PolicyType", bound="LikelihoodPolicy")

GaussianKind = Literal["gaussian", "squashed"]
"""Normal numbers around a mean within the Box, which are cut to it, or numbers squashed into it by tanh."""

LOG_STD_RANGE = (-5.0, 2.0)
"""What logarithms of spreads that no observation changes are cut to, as in implicit Q-learning's code."""


class Actions:
    """The actions of a space as a policy has them: raw ones that are drawn, and what the environment takes.

    Discrete and MultiDiscrete choices are counted from 0. Numbers of a bounded Box are in units of half its
    width around its middle, and cut to it; of an unbounded one they are as they are.

    Args:
        space: Discrete, MultiDiscrete, or a Box of floating-point numbers.
        device: torch device.
        name: of whoever takes them, for messages.

    Raises:
        ValueError: for another space.

    Attributes:
        distribution: the family of distributions over them.
        bounded: [A] bool, of a Box: which numbers have bounds.
        log_unit: what the logarithm of a density of raw actions is above that of the environment's own.
    """

    def __init__(self, space: gym.Space[Any], device: torch.device, name: str = "a policy") -> None:
        self.space = space
        self.distribution: ActionDistribution
        self.log_unit: float = 0.0
        if isinstance(space, gym.spaces.Discrete):
            self.distribution = Categoricals([int(space.n)])
            self.start = torch.full((1,), int(space.start), device=device)
        elif isinstance(space, gym.spaces.MultiDiscrete):
            self.distribution = Categoricals(space.nvec.ravel().tolist())
            self.start = torch.stack(
                [torch.full((), int(first), device=device) for first in space.start.flat]
            )
        elif isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.distribution = DiagonalGaussian(math.prod(space.shape))
            low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
            with np.errstate(over="ignore"):
                bounded = np.isfinite(high - low) & (low < high)
            self.bounded = torch.stack([torch.full((), bool(each), device=device) for each in bounded])
            half = np.where(bounded, 0.5 * (high - low), 1.0)
            self.log_unit = float(np.log(half).sum())
            middle = np.where(bounded, low + half, 0.0)
            self.low, self.high, self.half, self.middle = (
                torch.stack([torch.full((), float(value), device=device) for value in values])
                for values in (low, high, half, middle)
            )
        else:
            raise ValueError(f"action_space is {space}; {name} takes Discrete and MultiDiscrete actions, and "
                             "Boxes of floating-point numbers")  # fmt: skip

    def to_env(self, raw: Tensor) -> Tensor:
        """Return raw actions [n, ...] as the environment takes them."""
        shape = (len(raw), *(self.space.shape or ()))
        if isinstance(self.space, gym.spaces.Box):
            numbers = torch.addcmul(self.middle, raw, self.half).nan_to_num_()  # a learner may have diverged
            return torch.clamp(numbers, self.low, self.high).view(shape)
        return (raw + self.start).view(shape)

    def from_env(self, actions: Tensor) -> Tensor:
        """Return actions [n, ...] of the environment as raw ones [n, A]."""
        rows = actions.reshape(len(actions), -1)
        if isinstance(self.space, gym.spaces.Box):
            return (rows - self.middle) / self.half
        return rows - self.start


class LikelihoodPolicy(nn.Module, ABC):
    """A policy that says how likely actions are; see the module's text.

    Args:
        learners: S.
        action_space: Discrete, MultiDiscrete, or a Box of floating-point numbers.
        device: torch device, where parameters are too.

    Raises:
        ValueError: for another space.

    Attributes:
        actions: what the space's actions are to the policy.
    """

    def __init__(self, learners: int, action_space: gym.Space[Any], device: torch.device | str) -> None:
        super().__init__()
        self.learners = learners
        self.actions = Actions(action_space, torch.device(device), "a policy with a likelihood")

    @property
    def distribution(self) -> ActionDistribution:
        """The family of distributions, of raw actions."""
        return self.actions.distribution

    @abstractmethod
    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return log pi(a | s) [S, N]; of Boxes the logarithm of a density.

        Args:
            obs: [S, N, ...] observations.
            actions: [S, N, ...] actions.
        """

    @abstractmethod
    def mode(self, obs: Tensor) -> Tensor:
        """Return the actions [S, N, ...] that a deterministic policy takes."""

    @abstractmethod
    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Return actions [S, N, ...] drawn from the policy.

        Args:
            obs: [S, N, ...] observations.
            noise: [S, N, K] of :meth:`noise`.
        """

    def noise(self, streams: Streams, rows: int) -> Tensor:
        """Return what :meth:`draw` takes for a number of rows, [S, rows, K]."""
        return self.distribution.noise(streams, rows)

    def _raw(self, actions: Tensor) -> Tensor:
        """Return the environment's actions [S, N, ...] as raw ones [S, N, A]."""
        raw = self.actions.from_env(actions.flatten(0, 1))
        return raw.view(*actions.shape[:2], -1)

    def _to_env(self, raw: Tensor) -> Tensor:
        actions = self.actions.to_env(raw.flatten(0, 1))
        return actions.view(*raw.shape[:2], *actions.shape[1:])


class _Choices(LikelihoodPolicy):
    """A softmax of logits, whatever gives them."""

    @abstractmethod
    def logits(self, obs: Tensor) -> Tensor:
        """Return the logits [S, N, K] at observations [S, N, ...]."""

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`."""
        logits = self.logits(obs)  # twice: choices have no free parameters, and look at none
        return self.distribution.evaluate(logits, logits, self._raw(actions)).log_probs

    def mode(self, obs: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`: the most likely ones."""
        return self._to_env(self.distribution.mode(self.logits(obs)))

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`; the noise is Gumbel's."""
        logits = self.logits(obs)
        return self._to_env(self.distribution.draw(logits, logits, noise))


class TabularPolicy(_Choices):
    """A softmax of a table of logits, which are 0 at the start: all actions are as likely.

    Args:
        learners: S.
        observation_space: Discrete.
        action_space: Discrete.
        device: torch device.
        dtype: of the logits.

    Raises:
        ValueError: for another space.

    Attributes:
        table: [S, states, actions] the logits.
        first_state: the number that states are counted from.
    """

    def __init__(
        self, learners: int, observation_space: gym.Space[Any], action_space: gym.Space[Any],
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        for name, space in (("observation_space", observation_space), ("action_space", action_space)):
            if not isinstance(space, gym.spaces.Discrete):
                raise ValueError(f"{name} is {space}; a table of logits is for Discrete spaces")
        super().__init__(learners, action_space, device)
        assert isinstance(observation_space, gym.spaces.Discrete)
        self.first_state = int(observation_space.start)
        shape = learners, int(observation_space.n), self.distribution.outputs
        self.table = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    def logits(self, obs: Tensor) -> Tensor:
        """Return the logits [S, N, actions] at states [S, N]."""
        places = (obs - self.first_state)[..., None].expand(-1, -1, self.table.shape[2])
        return self.table.gather(1, places)


class DiscretePolicy(_Choices):
    """A softmax of a network's outputs.

    Args:
        learners: S.
        observation_space: Discrete, or a Box without pictures.
        action_space: Discrete or MultiDiscrete, whose choices are independent.
        hidden: sizes of the hidden layers, ReLU.
        device: torch device.

    Raises:
        ValueError: for another space.
    """

    def __init__(
        self, learners: int, observation_space: gym.Space[Any], action_space: gym.Space[Any],
        hidden: Sequence[int] = (256, 256), device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if not isinstance(action_space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            raise ValueError(f"action_space is {action_space}; a DiscretePolicy takes Discrete and "
                             "MultiDiscrete actions")  # fmt: skip
        super().__init__(learners, action_space, device)
        self.numbers = Numbers(observation_space, torch.device(device))
        with torch.device(device):
            self.network = StackedMLP(learners, self.numbers.size, hidden, self.distribution.outputs)

    def logits(self, obs: Tensor) -> Tensor:
        """See :class:`_Choices`."""
        logits: Tensor = self.network(self.numbers(obs, self.network.weights()[0].dtype))
        return logits


class GaussianPolicy(LikelihoodPolicy):
    """Independent normal numbers, within a Box.

    In units u of half a bounded Box around its middle (of an unbounded one in its own), with f a network:

    - gaussian: u ~ N(tanh(f(s)), diag sigma^2), without the tanh where there are no bounds; what is drawn is
      cut to the Box (arXiv 2110.06169 in its released form);
    - squashed: u = tanh(z), z ~ N(f_1(s), diag exp(f_2(s))^2) (arXiv 1801.01290).

    Args:
        learners: S.
        observation_space: Discrete, or a Box without pictures.
        action_space: a Box of floating-point numbers; with finite bounds where it is squashed.
        hidden: sizes of the hidden layers, ReLU.
        squashed: which of the two.
        log_std: logarithm of sigma at the start.
        device: torch device.

    Raises:
        ValueError: for another space.

    Attributes:
        free: [S, 1, A] log sigma; nothing of it where it is squashed.
    """

    def __init__(
        self, learners: int, observation_space: gym.Space[Any], action_space: gym.Space[Any],
        hidden: Sequence[int] = (256, 256), *, squashed: bool = False, log_std: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if not isinstance(action_space, gym.spaces.Box):
            raise ValueError(f"action_space is {action_space}; a GaussianPolicy takes a Box")
        super().__init__(learners, action_space, device)
        low, high = (np.asarray(side, np.float64) for side in (action_space.low, action_space.high))
        if squashed and not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise ValueError(f"action_space is {action_space}; a squashed policy takes finite bounds, "
                             "the low ones below the high ones")  # fmt: skip
        self.squashed, size = squashed, self.distribution.outputs
        self.numbers = Numbers(observation_space, torch.device(device))
        with torch.device(device):
            outputs = 2 * size if squashed else size
            self.network = StackedMLP(learners, self.numbers.size, hidden, outputs)
            self.free = nn.Parameter(torch.full((learners, 1, 0 if squashed else size), log_std))

    def parameters_at(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log standard deviations at observations [S, N, ...], in the units of u (or z).

        Returns:
            [S, N, A], and [S, N, A] where they are squashed, else [S, 1, A].
        """
        outputs: Tensor = self.network(self.numbers(obs, self.free.dtype))
        if self.squashed:
            mean, log_std = outputs.chunk(2, -1)
            return mean, log_std
        return torch.where(self.actions.bounded, torch.tanh(outputs), outputs), self.free.clamp(
            *LOG_STD_RANGE
        )

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`.

        Squashed, actions at the bounds are taken to be a millionth within, where the density is a number.
        """
        mean, log_std = self.parameters_at(obs)
        raw = self._raw(actions.to(mean.dtype))
        if self.squashed:
            return squashed_log_prob(mean, log_std, raw) - self.actions.log_unit
        return self.distribution.evaluate(mean, log_std, raw).log_probs - self.actions.log_unit

    def mode(self, obs: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`: the mean; squashed, tanh of the mean."""
        mean, _ = self.parameters_at(obs)
        return self._to_env(torch.tanh(mean) if self.squashed else mean)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """See :class:`LikelihoodPolicy`; the noise is standard normal."""
        mean, log_std = self.parameters_at(obs)
        if self.squashed:
            return self._to_env(squashed_sample(mean, log_std, noise))
        return self._to_env(self.distribution.draw(mean, log_std, noise))


def likelihood_policy(
    observation_space: gym.Space[Any], action_space: gym.Space[Any], *, learners: int = 1,
    hidden: Sequence[int] = (256, 256), kind: GaussianKind = "gaussian", device: torch.device | str = "cpu",
) -> DiscretePolicy | GaussianPolicy:  # fmt: skip
    """Return the policy by a network that suits a space of actions.

    Args:
        observation_space: Discrete, or a Box without pictures.
        action_space: Discrete, MultiDiscrete, or a Box of floating-point numbers.
        learners: S.
        hidden: sizes of the hidden layers.
        kind: of a Box' policy; see :class:`GaussianPolicy`.
        device: torch device.

    Raises:
        ValueError: for another space.
    """
    if isinstance(action_space, gym.spaces.Box):
        return GaussianPolicy(learners, observation_space, action_space, hidden, squashed=kind == "squashed",
                              device=device)  # fmt: skip
    return DiscretePolicy(learners, observation_space, action_space, hidden, device)


def joined_policies(policies: Sequence[PolicyType]) -> PolicyType:
    """Return copies of policies of one shape as a single one, of all their learners in turn."""
    whole = copy.deepcopy(policies[0])
    whole.learners = sum(policy.learners for policy in policies)
    states = [policy.state_dict() for policy in policies]
    for name, parameter in whole.named_parameters():
        parameter.data = torch.cat([state[name] for state in states])
        parameter.grad = None
    for module in whole.modules():
        if isinstance(module, StackedMLP):
            module.members = whole.learners
    return whole


def segment_log_probs(policy: LikelihoodPolicy, segments: Segments) -> Tensor:
    """Return log pi(a_t | s_t) [S, N, L] of every step of N segments, 0 where a segment is padding.

    Args:
        policy: of S learners; each is asked about all segments.
        segments: on the policy's device.
    """
    mask, first = segments.mask, segments.actions[:, :1]
    # Padding is of zeros, which some spaces do not hold; what stands there instead does not matter.
    inside = mask.view(*mask.shape, *[1] * (segments.actions.ndim - 2))
    rows = (segments.obs[:, :-1].flatten(0, 1), torch.where(inside, segments.actions, first).flatten(0, 1))
    obs, actions = (values.expand(policy.learners, *values.shape) for values in rows)
    return torch.where(mask, policy.log_prob(obs, actions).view(-1, *mask.shape), 0.0)
