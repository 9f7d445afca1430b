"""Whole episodes in a rollout as groups that started alike, and the advantages of their steps.

All steps of an episode have its advantage: that of its return among those of its group. Rows of a group lie
next to each other and start together, as :class:`prefrl.envs.wrappers.GroupedStarts` lets them. Episodes that
do not lie within the rollout as a whole, and those of a group where one does not, have weight 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prefrl.agents.base import LearningFailedError, Spaces
from prefrl.data import Transitions
from prefrl.functional.actor_critic.grouped import GroupedKind, grouped_advantages

from ..ppo_config import PPOConfig


def episode_advantages(
    steps: Mapping[str, Tensor], kind: GroupedKind, group_size: int, learners: int,
    success_return: float | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Return ``advantages`` [T, S * n] of a rollout and, as ``mask``, which steps count.

    Args:
        steps: rewards, mask, terminations, truncations and ages, [T, S * n] each.
        kind: how returns become advantages.
        group_size: G rows next to each other.
        learners: S; bnpo's exponents are of each learner's groups.
        success_return: what counts is whether a return is at least this; None: the return itself.
    """
    mask, ages = steps["mask"], steps["ages"]
    length, rows = mask.shape
    ended = (steps["terminations"] | steps["truncations"]) & mask
    number = (mask & (ages == 0)).cumsum(0)  # of the row's episode; 0 began before the rollout
    number = torch.where(mask, number, 0)

    def of_episodes(values: Tensor) -> Tensor:  # [T + 1, S * n]
        return torch.zeros(length + 1, rows, device=values.device).scatter_add_(0, number, values.float())

    returns, over = of_episodes(steps["rewards"] * mask), of_episodes(ended)
    if success_return is not None:
        returns = (returns >= success_return).to(returns.dtype)
    shape = length + 1, learners, -1, group_size
    whole = (over > 0.0).view(shape).all(-1)  # [T + 1, S, groups]
    whole[0] = False

    def in_row(values: Tensor) -> Tensor:  # [S, (T + 1) * groups, ...], since all groups are a learner's
        return values.transpose(0, 1).flatten(1, 2)

    found = grouped_advantages(in_row(returns.view(shape)), kind, counted=in_row(whole))
    groups = rows // (learners * group_size)
    advantages = found.view(learners, length + 1, groups, group_size).transpose(0, 1).reshape(-1, rows)
    counts = whole[..., None].expand(length + 1, learners, groups, group_size).reshape(-1, rows)
    return {"advantages": advantages.gather(0, number), "mask": mask & counts.gather(0, number)}


class GroupedEpisodes:
    """What an agent's grouped advantages need from one step to the next: how old episodes are.

    Args:
        env: an environment whose rows start in groups, or :class:`prefrl.agents.base.Spaces`.
        config: settings, of groups.
        learners: S.

    Raises:
        ValueError: if the environment's rows do not start in groups of that size, or a group would be of
            several learners.

    Attributes:
        ages: [S * n] transitions of each row's episode so far; None before the first step.
    """

    def __init__(self, env: Any, config: PPOConfig, learners: int) -> None:
        size = getattr(env, "group_size", None)
        if not isinstance(env, Spaces) and size != config.group_size:
            raise ValueError(f"group_size is {config.group_size}, and env starts rows in groups of {size}; "
                             f"wrap it: GroupedStarts(env, {config.group_size})")  # fmt: skip
        rows = getattr(env, "num_envs", 0) // learners
        if rows % (config.group_size or 1):
            raise ValueError(
                f"group_size is {config.group_size}; it must divide the {rows} rows of a learner"
            )
        self.config, self.learners = config, learners
        self.ages: Tensor | None = None
        self._whole: Tensor | None = None  # bool: whether any group was whole in a rollout

    def aged(self, transitions: Transitions) -> dict[str, Tensor]:
        """Return how old the rows' episodes are before a step, as ``ages``, and go on counting."""
        ages = self.ages
        if ages is None:
            ages = torch.zeros_like(transitions.rewards, dtype=torch.int64)
        goes_on = transitions.mask & ~(transitions.terminations | transitions.truncations)
        self.ages = torch.where(goes_on, ages + 1, 0)
        return {"ages": ages}

    def advantages(self, steps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what :func:`episode_advantages` does of a rollout."""
        config = self.config
        assert config.advantage != "gae"
        assert config.group_size is not None
        found = episode_advantages(
            steps, config.advantage, config.group_size, self.learners, config.success_return
        )
        whole = found["mask"].any()
        self._whole = whole if self._whole is None else self._whole | whole
        return found

    def check(self) -> None:
        """Raise :class:`LearningFailedError` if no group was ever whole within a rollout."""
        if self._whole is not None and not bool(self._whole):
            raise LearningFailedError("no group of episodes was over within a rollout of "
                                      f"{self.config.n_steps} steps: nothing was learned; "
                                      "give a larger n_steps")  # fmt: skip
