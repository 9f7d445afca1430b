"""Factors of a reward: what a designer would rank instead of weighing it (HERON, arXiv 2309.02632).

A factor is a number per step, with a sign that says whether more of it is better. Those below are for
environments whose reward is a weighted sum of them, or nearly; one of your own tells its factors by
``register_factors``, or by the attributes ``factor_names`` and ``factor_signs`` and ``info["factors"]`` [F].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import array_api_compat
import numpy as np

from prefrl.envs.core.backend import Array
from prefrl.envs.core.face import registered_id

ANT_JOINTS = slice(5, 13)
"""Where Ant-v5 observes its eight joint angles: after height and orientation of the torso."""

ANT_OBSERVATION = 105
"""Numbers in an observation of Ant-v5 as it is made by default."""

ANT_RANGES = np.deg2rad(
    [(-30, 30), (30, 70), (-30, 30), (-70, -30), (-30, 30), (-70, -30), (-30, 30), (30, 70)]
)
"""[8, 2] smallest and largest angles of the joints, in rad: hip and ankle of each leg."""

AT_LIMIT = 0.01
"""A joint is at its limit within this share of its range from it, or beyond."""


class Step(Protocol):
    """What factors are computed from; ``prefrl.data.Transitions`` is one."""

    @property
    def obs(self) -> Any:
        """[n, ...] observations before the step."""

    @property
    def actions(self) -> Any:
        """[n, ...] actions."""

    @property
    def next_obs(self) -> Any:
        """[n, ...] observations after the step."""

    @property
    def terminations(self) -> Any:
        """[n] bool."""

    @property
    def infos(self) -> Any:
        """[n, ...] by name, those of ``info_keys``."""


@dataclass(frozen=True)
class Factors:
    """The factors of an environment.

    Raises:
        ValueError: if names repeat, or signs are not +1 or -1, one for each name.
    """

    names: tuple[str, ...]
    """[F] what they are called."""

    signs: tuple[int, ...]
    """[F] +1: more is better; -1: less is."""

    compute: Callable[[Step], Array]
    """Returns the factors [n, F] of a step."""

    info_keys: tuple[str, ...] = ()
    """What of the environment's infos they are computed from."""

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"factor names are {list(self.names)}; they must be some, and different")
        if len(self.signs) != len(self.names) or not set(self.signs) <= {1, -1}:
            raise ValueError(
                f"signs are {list(self.signs)}; there must be +1 or -1 for each of {list(self.names)}"
            )

    def ranked(self, ranking: tuple[str, ...]) -> tuple[list[int], list[int]]:
        """Return places and signs of a ranking's factors; all in their own order where it is empty.

        Raises:
            ValueError: if a name is unknown, or is ranked twice.
        """
        ranking = ranking or self.names
        for name in ranking:
            if name not in self.names:
                raise ValueError(f"ranking holds {name!r}; the factors here are {list(self.names)}")
        if len(set(ranking)) < len(ranking):
            raise ValueError(f"ranking is {list(ranking)}; a factor can have one rank only")
        places = [self.names.index(name) for name in ranking]
        return places, [self.signs[place] for place in places]

    def measured_in(self, units: Mapping[str, float]) -> Factors:
        """Return the same factors, those that are named multiplied by positive numbers.

        Raises:
            ValueError: if a name is unknown, or a number not positive and finite.
        """
        for name, unit in units.items():
            if name not in self.names:
                raise ValueError(f"factor units name {name!r}; the factors here are {list(self.names)}")
            if not 0.0 < unit < np.inf:
                raise ValueError(f"the unit of {name} is {unit}; it must be positive and finite")
        if not units:
            return self

        def compute(step: Step) -> Array:
            values = self.compute(step)
            columns = [values[:, i] * units.get(name, 1.0) for i, name in enumerate(self.names)]
            return _stacked(*columns)

        return Factors(self.names, self.signs, compute, self.info_keys)


def _stacked(*columns: Array) -> Array:
    return array_api_compat.array_namespace(columns[0]).stack(columns, axis=1)


def _real(values: Array, like: Array) -> Array:
    return array_api_compat.array_namespace(like).astype(values, like.dtype)


def _squares(actions: Array) -> Array:
    return (actions * actions).reshape(actions.shape[0], -1).sum(1)


def _pendulum(step: Step) -> Array:
    obs, xp = step.obs, array_api_compat.array_namespace(step.obs)
    angle = xp.atan2(obs[:, 1], obs[:, 0])
    return _stacked(angle**2, obs[:, 2] ** 2, _real(_squares(step.actions), obs))


def _mountain_car(step: Step) -> Array:
    return _stacked(_real(step.terminations, step.obs), _real(_squares(step.actions), step.obs))


def _half_cheetah(step: Step) -> Array:
    effort = _squares(step.actions)
    return _stacked(_real(step.infos["x_velocity"], effort), effort)


def _hopper(step: Step) -> Array:
    effort = _squares(step.actions)
    return _stacked(_real(step.infos["x_velocity"], effort), _real(~step.terminations, effort), effort)


def _ant(step: Step) -> Array:
    if step.next_obs.shape[1] != ANT_OBSERVATION:
        raise ValueError(f"observations have {step.next_obs.shape[1]} numbers; the factors of Ant-v5 are for "
                         f"the {ANT_OBSERVATION} that it has by default")  # fmt: skip
    effort, angles = _squares(step.actions), step.next_obs[:, ANT_JOINTS]
    at_limit = 0.0 * effort
    for joint, (low, high) in enumerate(ANT_RANGES.tolist()):
        slack = AT_LIMIT * (high - low)
        beyond = (angles[:, joint] <= low + slack) | (angles[:, joint] >= high - slack)
        at_limit = at_limit + _real(beyond, effort)
    return _stacked(
        _real(~step.terminations, effort), _real(step.infos["x_velocity"], effort), at_limit,
        -_real(step.infos["reward_contact"], effort),
    )  # fmt: skip


_PENDULUM = Factors(("angle_squared", "velocity_squared", "torque_squared"), (-1, -1, -1), _pendulum)
_MOUNTAIN_CAR = Factors(("reached_goal", "energy"), (1, -1), _mountain_car)

FACTORS: dict[str, Factors] = {
    "Pendulum-v1": _PENDULUM,
    "prefrl/Pendulum-v0": _PENDULUM,
    "MountainCarContinuous-v0": _MOUNTAIN_CAR,
    "prefrl/MountainCarContinuous-v0": _MOUNTAIN_CAR,
    "HalfCheetah-v5": Factors(("forward_velocity", "control"), (1, -1), _half_cheetah, ("x_velocity",)),
    "Hopper-v5": Factors(("forward_velocity", "alive", "control"), (1, 1, -1), _hopper, ("x_velocity",)),
    "Ant-v5": Factors(
        ("alive", "forward_velocity", "joints_at_limit", "contact"), (1, 1, -1, -1), _ant,
        ("x_velocity", "reward_contact"),
    ),
}  # fmt: skip
"""Factors by environment id, in the order of the paper's rankings."""


def register_factors(env_id: str, factors: Factors) -> None:
    """Tell the factors of an environment; ValueError if there are some already."""
    if env_id in FACTORS:
        raise ValueError(f"{env_id} has factors already: {list(FACTORS[env_id].names)}")
    FACTORS[env_id] = factors


def factors_of(env: Any) -> Factors:
    """Return the factors of an environment: its own, or those of its id.

    Raises:
        ValueError: if it has none.
    """
    inner = env.unwrapped
    rows = getattr(inner, "envs", None)  # of Gymnasium's SyncVectorEnv
    if rows and hasattr(rows[0].unwrapped, "factor_names"):
        inner = rows[0].unwrapped
    if hasattr(inner, "factor_names"):
        return Factors(tuple(inner.factor_names), tuple(inner.factor_signs),
                       lambda step: step.infos["factors"], ("factors",))  # fmt: skip
    spec = getattr(env, "spec", None) or getattr(inner, "spec", None)
    # Gymnasium's registry did not make an on-device environment: it has no spec
    env_id = getattr(spec, "id", None) or registered_id(getattr(inner, "dynamics", None))
    if env_id not in FACTORS:
        raise ValueError(f"{env_id or type(inner).__name__} has no factors; there are some for "
                         f"{sorted(FACTORS)} (see prefrl.envs.factors.register_factors)")  # fmt: skip
    return FACTORS[env_id]
