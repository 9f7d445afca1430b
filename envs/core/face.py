"""What the faces of a dynamics share: how they come to it, and that they tell what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from pkgutil import resolve_name
from typing import Any

import gymnasium as gym

from .checks import check_render_mode
from .dynamics import Dynamics, Episodes


def make_dynamics(dynamics: Dynamics | type[Dynamics] | str, settings: Mapping[str, Any]) -> Dynamics:
    """Return dynamics that are made already, or those of a class, or of "module:Class", with settings.

    Raises:
        TypeError: naming a setting that they do not take.
    """
    if isinstance(dynamics, Dynamics):
        if settings:
            kind = type(dynamics).__name__
            raise TypeError(f"{sorted(settings)} are for the class {kind}; this one is made already")
        return dynamics
    found: type[Dynamics] = resolve_name(dynamics) if isinstance(dynamics, str) else dynamics
    return found(**settings)


def registered_dynamics(env_id: str) -> type[Dynamics]:
    """Return the class whose faces Gymnasium's registry makes for an id; KeyError if it makes none."""
    place = gym.registry[env_id].kwargs["dynamics"]
    found: type[Dynamics] = resolve_name(place) if isinstance(place, str) else place
    return found


def registered_id(dynamics: Any) -> str | None:
    """Return the first id that is registered with where the class of these dynamics is; None if none is."""
    place = f"{type(dynamics).__module__}:{type(dynamics).__qualname__}"
    return next((spec.id for spec in gym.registry.values() if spec.kwargs.get("dynamics") == place), None)


class Face:
    """Base of the faces; a public attribute that a face does not have is its dynamics'."""

    dynamics: Dynamics
    metadata: dict[str, Any]
    _start_rng: dict[str, Any] | None = None

    def _show(
        self, dynamics: Dynamics | type[Dynamics] | str, settings: Mapping[str, Any], render_mode: str | None
    ) -> None:
        """Take the dynamics, their page, and how they are drawn."""
        made = make_dynamics(dynamics, settings)
        modes = self.metadata["render_modes"] if made.has_picture else []
        check_render_mode(render_mode, modes)
        self.dynamics, self.render_mode = made, render_mode
        self.metadata = {**self.metadata, "render_modes": modes, "render_fps": made.render_fps}
        self.__doc__ = type(made).__doc__

    def __getattr__(self, name: str) -> Any:
        """Return what the dynamics tell; ``_episodes`` goes with what is told of them."""
        if name.startswith("_") or "dynamics" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        told = getattr(self.dynamics, name)
        if not hasattr(told, "of_episodes"):
            return told

        @wraps(told)
        def of_these(*args: Any, **kwargs: Any) -> Any:
            return told(self._episodes(), *args, **kwargs)

        return of_these

    def __dir__(self) -> list[str]:
        told = [name for name in dir(self.dynamics) if not name.startswith("_")]
        return sorted({*super().__dir__(), *told})

    def _episodes(self) -> Episodes:
        """Return the episodes under way; each face knows its own."""
        raise NotImplementedError

    def _start_state(self) -> dict[str, Any]:
        """Return what a face's state holds besides, where the dynamics tell what is to come."""
        if not self.dynamics.foretells:
            return {}
        return {"start_rng": None if self._start_rng is None else dict(self._start_rng)}

    def _load_start_state(self, state: Mapping[str, Any]) -> None:
        start = state["start_rng"] if self.dynamics.foretells else None
        self._start_rng = None if start is None else dict(start)
