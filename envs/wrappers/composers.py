"""Environments paid by rules; on every face.

``ComposeReward(env, rule)`` pays by rules instead of what the environment pays, ``VectorComposeReward`` in
all rows of a vector environment, on the host or on a device. Several rules are applied in their order, each
to what the one before it paid; ``prefrl.envs.wrappers.reward_rules`` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_compat
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from prefrl.envs.core.backend import Array

from .reward_rules import RewardRule, RewardStep
from .rewards import VectorReplaceReward, merged


def _as_rules(rules: RewardRule | Sequence[RewardRule]) -> tuple[RewardRule, ...]:
    """Return rules as a tuple; ValueError unless there is one, and all are rules."""
    found = (rules,) if isinstance(rules, RewardRule) else rules
    listed = isinstance(found, (tuple, list))
    if not listed or not found or not all(isinstance(rule, RewardRule) for rule in found):
        raise ValueError(f"rules are {rules!r}; give a RewardRule, such as GatedReward(), or several")
    return tuple(found)


class ComposeReward(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Pay by rules; the environment's own reward is kept in ``info["true_reward"]``.

    ::

        env = ComposeReward(gym.make("prefrl/WindowTSP-v0"), GatedReward(k=50.0, tau=0.9))

    Args:
        env: the environment.
        rules: how to pay; several, in their order. Rules with a memory belong to one environment.

    Raises:
        ValueError: if there is no rule.
    """

    def __init__(self, env: gym.Env[Any, Any], rules: RewardRule | Sequence[RewardRule]) -> None:
        # A copy is recorded: what is made of it again has a memory of its own.
        gym.utils.RecordConstructorArgs.__init__(self, rules=rules)
        super().__init__(env)
        self.rules = _as_rules(rules)
        self._obs: Any = None
        self._starts = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``."""
        self._obs, info = self.env.reset(seed=seed, options=options)
        self._starts = True
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``."""
        next_obs, true_reward, terminated, truncated, info = self.env.step(action)

        def told(name: str) -> Array:
            if name not in info:
                raise ValueError(f"the environment's info has no {name!r}; it has {sorted(info)}")
            return np.asarray(info[name])[None]

        step = RewardStep(
            np.asarray(self._obs)[None], np.asarray(action)[None], np.asarray(next_obs)[None],
            np.array([true_reward], dtype=np.float64), np.array([terminated]), np.array([self._starts]),
            np.array([True]), told,
        )  # fmt: skip
        for rule in self.rules:
            step = step._replace(rewards=rule(step))
        self._obs, self._starts = next_obs, False
        return next_obs, float(step.rewards[0]), terminated, truncated, {**info, "true_reward": true_reward}


class VectorComposeReward(VectorReplaceReward):
    """Pay by rules in all rows; ``infos["true_reward"]`` keeps the environment's own rewards.

    Successors and infos are the true ones, in every autoreset mode; rows that pause after an end (NEXT_STEP)
    get 0.

    Args:
        env: the vector environment, on the host or on a device.
        rules: how to pay; several, in their order. Rules with a memory belong to one vector environment.

    Raises:
        ValueError: if there is no rule.
    """

    def __init__(
        self, env: gym.vector.VectorEnv[Any, Any, Any], rules: RewardRule | Sequence[RewardRule]
    ) -> None:
        super().__init__(env, lambda *_: None)
        self.rules = _as_rules(rules)
        self._starts: Any = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes; see ``gymnasium.vector.VectorEnv.reset``."""
        mask = (options or {}).get("reset_mask")
        found = super().reset(seed=seed, options=options)
        if mask is None:
            self._starts = None
        elif self._starts is not None:
            xp = array_api_compat.array_namespace(self._starts)
            self._starts = self._starts | xp.asarray(mask, device=array_api_compat.device(self._starts))
        return found

    def _replaced(
        self, actions: Any, successors: Any, rewards: Any, terminations: Any, infos: dict[str, Any]
    ) -> Any:
        """Return what the rules pay."""
        xp = array_api_compat.array_namespace(rewards)
        starts = xp.ones_like(terminations) if self._starts is None else self._starts
        paused = self._done if self._mode is AutoresetMode.NEXT_STEP else None
        counts = xp.ones_like(terminations) if paused is None else ~paused
        final = infos.get("final_info", {}) if self._mode is AutoresetMode.SAME_STEP else {}

        def told(name: str) -> Array:
            if name not in infos and name not in final:
                raise ValueError(f"the environment's info has no {name!r}; it has {sorted(infos)}")
            if name not in final:
                return infos[name]
            return merged(infos.get(name, final[name]), final[name], infos["_final_info"])

        step = RewardStep(self._obs, actions, successors, rewards, terminations, starts, counts, told)
        for rule in self.rules:
            step = step._replace(rewards=rule(step))
        return step.rewards

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``."""
        found = super().step(actions)
        disabled = self._mode is AutoresetMode.DISABLED
        self._starts = self._done & ~self._done if disabled else self._done
        return found

    def state_dict(self) -> Any:
        """Return the state of environment and rules; None where the environment tells none."""
        state = super().state_dict()
        if state is None:
            return None
        return {**state, "starts": self._starts, "rules": [rule.state_dict() for rule in self.rules]}

    def load_state_dict(self, state: Any) -> None:
        """Continue from what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        like = next(iter(self._obs.values())) if isinstance(self._obs, dict) else self._obs

        def restored(values: Any) -> Any:
            if values is None or isinstance(values, (int, float)):
                return values
            return np.array(values) if isinstance(like, np.ndarray) else values.to(like.device)

        self._starts = restored(state["starts"])
        for rule, memory in zip(self.rules, state["rules"], strict=True):
            rule.load_state_dict({name: restored(values) for name, values in memory.items()})
