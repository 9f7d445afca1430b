"""Faces of families with many settings: what is not a face's own argument is the dynamics'."""

from __future__ import annotations

from typing import Any, ClassVar

from gymnasium.vector import AutoresetMode

from .backend import Backend
from .dynamics import BatchedEnv, Dynamics, ScalarEnv


class FamilyEnv(ScalarEnv):
    """Base of scalar faces over dynamics with settings.

    Args:
        render_mode: None, "rgb_array" or "human".
        **settings: the arguments of the family's dynamics, as the family's text lists them.
    """

    dynamics_class: ClassVar[type[Dynamics]]

    def __init__(self, render_mode: str | None = None, **settings: Any) -> None:
        super().__init__(self.dynamics_class(**settings), render_mode)
        self._settings = settings


class FamilyVectorEnv(BatchedEnv):
    """Base of vector faces over dynamics with settings.

    Args:
        num_envs: number of rows.
        backend: where the arrays live.
        max_episode_steps: see ``prefrl.envs.core.dynamics.BatchedEnv``, as for what follows.
        autoreset_mode: what happens to a row that ended.
        render_mode: None or "rgb_array".
        **settings: the arguments of the family's dynamics, as the scalar face's text lists them.
    """

    dynamics_class: ClassVar[type[Dynamics]]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        backend: Backend | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            self.dynamics_class(backend=backend, **settings),
            num_envs,
            max_episode_steps=max_episode_steps,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
        )
        self._settings = settings
