"""The agent: a small inside face for the loop, and Stable-Baselines3's outside face for people."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal, TypeVar

import gymnasium as gym
import torch
from torch import Tensor

import prefrl
from prefrl.config import Natural, checked, from_json
from prefrl.data import Transitions
from prefrl.data.devices import resolve_device, tensor_on
from prefrl.data.files.bounded import BoundedTensors
from prefrl.data.files.spaces import space_from_json, space_to_json
from prefrl.data.files.tensor_file import write_tensor_file
from prefrl.data.observations import as_batch
from prefrl.reading.errors import reading, refusal, taking_over as taking_over

from .agent_files import FILE_FORMAT, checked_content, read_agent_file as read_agent_file

AgentType = TypeVar("AgentType", bound="Agent")


class LearningFailedError(FloatingPointError):
    """A run that must not go on, since what it learns cannot be right."""


class Spaces:
    """Stands in for an environment where only its spaces are known (an agent loaded without one)."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        self.single_observation_space = observation_space
        self.single_action_space = action_space


class Agent(ABC):
    """Base of every agent.

    Inside face, for the loop: :meth:`act`, :meth:`observe`, :meth:`update`, :meth:`state_dict`,
    :meth:`load_state_dict`. Outside face, as in Stable-Baselines3: :meth:`learn`, :meth:`predict`,
    :meth:`save`, :meth:`load`; ``evaluate_policy`` and ``EvalCallback`` work on it.

    Agents that step an environment have ``steps_env`` True and count environment steps as timesteps. Agents
    that solve (reward fitting, dynamic programming) have it False and say what one timestep is.

    Args:
        env: a Gymnasium environment, a vector environment, an on-device environment, or :class:`Spaces`.
        config: the agent's frozen dataclass of settings.
        device: torch device, or "auto".
        seed: seeds everything random in the agent.
    """

    config_class: ClassVar[type[Any]]
    """The dataclass of this agent's settings."""

    steps_env: bool = True
    """Whether the loop steps an environment for this agent."""

    num_learners: int = 1
    """Learners that train side by side; rows of steps are theirs in blocks of as many."""

    keeps_rewards: bool = False
    """Whether rewards are kept from one update to the next, so that :meth:`relabel` matters."""

    keeps_state: bool = False
    """Whether :meth:`predict` returns a state that acting goes on from, which must be given back."""

    info_keys: tuple[str, ...] = ()
    """What the agent needs of the environment's infos; the loop hands it over in the transitions."""

    advice: str = ""
    """What may help where a metric is NaN or infinite; the message says it."""

    logger: Any = None
    """The SB3 logger of the run in progress; the loop sets it, callbacks read it."""

    dump_logs: Callable[[], None] | None = None
    """Writes what was measured since the last row; the loop sets it, callbacks call it."""

    def __new__(cls: type[AgentType], *args: Any, **kwargs: Any) -> AgentType:
        """Refuse what an SB3 user would give first, in words, before any agent looks at it."""
        _check_call(cls, args, kwargs)
        return super().__new__(cls)

    def __init__(self, env: Any, config: Any, *, device: torch.device | str = "auto", seed: int = 0) -> None:
        if not isinstance(config, self.config_class):
            raise TypeError(f"config is a {type(config).__name__}; {type(self).__name__} takes "
                            f"{self.config_class.__name__}")  # fmt: skip
        self.env = env
        self.config = config
        self.device = resolve_device(device)
        self.seed: int = checked(Natural, seed, "seed")
        self.num_timesteps = 0
        self.observation_space = getattr(env, "single_observation_space", None) or env.observation_space
        self.action_space = getattr(env, "single_action_space", None) or env.action_space

    @property
    def seeds(self) -> list[int]:
        """The seed of each learner."""
        return [self.seed]

    # Inside face -----------------------------------------------------------------------------------------

    @abstractmethod
    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...] (or a dict of them), both on the device."""

    @abstractmethod
    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments."""

    @abstractmethod
    def update(self) -> dict[str, Tensor]:
        """Learn from what was observed; return detached metrics without waiting for the device.

        Metric names follow SB3's loggers ("train/loss", ...). An agent with ``steps_env`` False advances
        ``num_timesteps`` itself; for others the loop does.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers, strings, lists and dicts: everything a bit-equal continuation needs.

        As torch's, it is of the tensors themselves, which learning changes: whoever keeps it copies it.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""

    def restarted(self) -> None:  # noqa: B027  (most agents do not mind)
        """Take note that the environment was reset in mid-episode: the last step has no successor."""

    def relabel(self, rewards: Tensor) -> None:  # noqa: B027  (most keep no rewards)
        """Replace the rewards of what is kept by those of the latest T steps [T, n], the newest last.

        A learned reward has changed; older steps that are kept stay as they are.
        """

    def kept_steps(self) -> int | None:
        """Return of how many of the latest steps rewards are kept; None: as many as :meth:`relabel` gives."""
        return None

    def check(self) -> None:  # noqa: B027  (most agents have nothing to say)
        """Raise :class:`LearningFailedError` where going on is no use; the loop asks when it logs.

        Unlike :meth:`update` it may wait for the device.
        """

    def waits(self) -> bool:
        """Say whether stepping is to wait, for somebody who answers; the loop asks before each step."""
        return False

    def schedules(self) -> dict[str, float]:
        """Return what to log that follows from the timestep alone; the loop asks when it logs."""
        return {}

    def result(self) -> dict[str, Any]:
        """Return what this agent alone can say of its outcome, for ``result.json``."""
        return {}

    def alone(self) -> list[Agent]:
        """Return each of several learners as an agent of its own; of one, the agent itself."""
        return [self]

    # Outside face ----------------------------------------------------------------------------------------

    def learn(
        self: AgentType,
        total_timesteps: int,
        callback: Any = None,
        progress_bar: bool = False,
        *,
        log_interval: None = None,
        tb_log_name: None = None,
        reset_num_timesteps: Literal[False] = False,
    ) -> AgentType:
        """Train for ``total_timesteps`` more timesteps; see :func:`prefrl.learn`.

        Args:
            total_timesteps: how many timesteps to add.
            callback: an SB3 callback, or a list of them.
            progress_bar: show rate and time left.
            log_interval: SB3's, refused: agents log by timesteps (``log_every`` of :func:`prefrl.learn`).
            tb_log_name: SB3's, refused: an agent logs to its ``logger``, a run to its folder.
            reset_num_timesteps: SB3's; only False, since agents always go on counting.

        Raises:
            TypeError: if ``progress_bar`` is no bool, as where ``log_interval`` stands in SB3.
            ValueError: for another value of SB3's three.
        """
        if not isinstance(progress_bar, bool):
            raise TypeError(f"progress_bar is {progress_bar!r}; it must be True or False")
        if log_interval is not None:
            raise ValueError(f"log_interval is {log_interval!r}; agents log by timesteps: give "
                             "prefrl.learn(agent, total_timesteps, log_every=...)")  # fmt: skip
        if tb_log_name is not None:
            raise ValueError(f"tb_log_name is {tb_log_name!r}; set agent.logger to SB3's configure(folder), "
                             "or train in a run folder: prefrl.train")  # fmt: skip
        if reset_num_timesteps is not False:
            raise ValueError(f"reset_num_timesteps is {reset_num_timesteps!r}; it must be False: agents "
                             "go on counting, and a new agent starts at 0")  # fmt: skip
        prefrl.learn(self, total_timesteps, callback=callback, progress_bar=progress_bar)
        return self

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Return ``(action, state)`` for one observation or a batch, as numpy, like SB3's ``predict``.

        Raises:
            ValueError: if the observation has neither the space's shape nor one batch axis more, or is none
                of a Discrete space, or there are several learners.
        """
        if self.num_learners > 1:
            raise ValueError(
                f"there are {self.num_learners} learners; ask one: agent.learner(0).predict(...)"
            )
        space = self.observation_space
        if isinstance(space, gym.spaces.Dict):
            if not isinstance(observation, Mapping) or set(observation) != set(space):
                raise ValueError(f"observation is {observation!r}; this agent takes a dict of {list(space)}")
            parts = {
                name: as_batch(f"observation[{name!r}]", observation[name], part)
                for name, part in space.items()
            }
        else:
            parts = {"": as_batch("observation", observation, space)}
        singles = {single for _, single in parts.values()}
        if len(singles) > 1:
            raise ValueError("some parts of the observation are a batch and others are not")
        single = singles.pop()
        with torch.no_grad():
            batch = {name: tensor_on(self.device, rows) for name, (rows, _) in parts.items()}
            obs = batch if isinstance(space, gym.spaces.Dict) else batch[""]
            actions = self.act(obs, deterministic=deterministic).cpu().numpy()
        return (actions[0] if single else actions), state

    def saved_state(self) -> dict[str, Any]:
        """Return what :meth:`save` keeps: what :meth:`load_state_dict` takes, less what only a run needs."""
        return self.state_dict()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to one file: tensors and JSON, no pickled objects; whole or not at all."""
        write_tensor_file(path, self.content())

    def content(self) -> dict[str, Any]:
        """Return what :meth:`save` writes; ``agents.agent_files.checked_content`` takes it apart."""
        header = {
            "format": FILE_FORMAT,
            "agent": type(self).__name__,
            "version": prefrl.__version__,
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "num_timesteps": self.num_timesteps,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
        }
        return {"header": json.dumps(header), "state": self.saved_state()}

    @classmethod
    def load(
        cls: type[AgentType],
        path: str | os.PathLike[str],
        env: Any = None,
        device: torch.device | str = "auto",
    ) -> AgentType:
        """Read an agent that :meth:`save` wrote.

        Args:
            path: the file.
            env: an environment to go on learning in; prediction needs none.
            device: torch device, or "auto".

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not an agent file, holds another agent, or ``env`` has other spaces.
        """
        return cls._from_file(path, env, device, {})

    @classmethod
    def _from_file(
        cls: type[AgentType], path: str | os.PathLike[str], env: Any, device: torch.device | str,
        given: Mapping[str, Any],
    ) -> AgentType:  # fmt: skip
        """Do the same, with what else the agent was made of, which no file holds."""
        header, state = read_agent_file(path)
        with reading(path, "agent file"), BoundedTensors(path):
            return cls.from_content(path, header, state, env, device, given)

    @classmethod
    def from_content(
        cls: type[AgentType], place: str | os.PathLike[str], header: Mapping[str, Any],
        state: Mapping[str, Any], env: Any, device: torch.device | str, given: Mapping[str, Any],
    ) -> AgentType:  # fmt: skip
        """Return the agent of what :meth:`content` returned; messages call it by its ``place``."""
        name = cls.__name__
        if header["agent"] != name:
            raise refusal(place, f"{place} holds a {header['agent']}, not a {name}")
        with taking_over(place, f"spaces for a {name}"):
            spaces = Spaces(*(space_from_json(header[f"{kind}_space"]) for kind in ("observation", "action")))
        with taking_over(place, f"settings of a {name}"):
            config = from_json(cls.config_class, header["config"])
        where = spaces if env is None else env
        agent = cls._rebuilt(where, config, state, device=device, seed=header["seed"], **given)
        theirs = (agent.observation_space, agent.action_space)
        if theirs != (spaces.single_observation_space, spaces.single_action_space):
            trained = f"{spaces.single_observation_space} and {spaces.single_action_space}"
            raise ValueError(f"{place} was trained on {trained}; env has {theirs[0]} and {theirs[1]}")
        agent.num_timesteps = header["num_timesteps"]
        with taking_over(place, f"state of a {name} in these spaces"):
            agent.load_state_dict(state)
        return agent

    @classmethod
    def _rebuilt(
        cls: type[AgentType], env: Any, config: Any, state: Mapping[str, Any], **settings: Any
    ) -> AgentType:
        """Return the agent that :meth:`load` is to fill; ``state`` is for what the constructor must know."""
        return cls(env, config, **settings)

    # What SB3's callbacks ask of a model ------------------------------------------------------------------

    def get_env(self) -> Any:
        """Return the environment (None when loaded without one)."""
        return None if isinstance(self.env, Spaces) else self.env

    def get_vec_normalize_env(self) -> None:
        """Return None: observations are not normalised by a wrapper."""
        return None


def load(path: str | os.PathLike[str], env: Any = None, device: torch.device | str = "auto") -> Agent:
    """Read any agent of the library that :meth:`Agent.save` wrote, whatever its class.

    Args:
        path: the file.
        env: an environment to go on learning in; prediction needs none.
        device: torch device, or "auto".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an agent file, holds an agent that is not the library's (its own class loads
            it), or ``env`` has other spaces.
    """
    name = read_agent_file(path)[0]["agent"]
    return agent_class(path, name).load(path, env=env, device=device)


def agent_class(place: str | os.PathLike[str], name: str) -> type[Agent]:
    """Return the library's agent of a name; ValueError if it has none."""
    public = import_module("prefrl.agents")
    kind = getattr(public, name) if name in public.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, Agent)):
        raise refusal(
            place, f"{place} holds a {name}, which is no agent of prefrl; load it with its own class"
        )
    return kind


def agent_of(place: str, content: Mapping[str, Any], device: torch.device | str) -> Agent:
    """Return an agent that another one keeps, of what its ``content`` returned; ValueError for none."""
    header, state = checked_content(place, content)
    return agent_class(place, header["agent"]).from_content(place, header, state, None, device, {})


def _check_call(kind: type[Agent], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise TypeError where an agent is made as SB3's are."""
    name, config = kind.__name__, getattr(getattr(kind, "config_class", None), "__name__", "its config")
    env = args[0] if args else kwargs.get("env")
    if isinstance(env, str):
        if env.endswith("Policy"):
            raise TypeError(f"env is {env!r}; {name} takes no policy, its networks are settings: give "
                            f"{name}(env, {config}(...))")  # fmt: skip
        raise TypeError(f"env is {env!r}; give the environment: {name}(gymnasium.make({env!r}))")
    if hasattr(env, "step_wait") and hasattr(env, "get_attr"):
        raise TypeError(f"env is a {type(env).__name__} of Stable-Baselines3; give a Gymnasium environment, "
                        "of gymnasium.make or gymnasium.make_vec, or one of prefrl.make_device")  # fmt: skip
    if len(args) > 1 and isinstance(args[1], str):
        raise TypeError(f"config is {args[1]!r}; give {name}(env, {config}(...))")
    settings = set(kwargs) - set(inspect.signature(kind.__init__).parameters)
    known = settings & {field.name for field in dataclasses.fields(kind.config_class)} if settings else set()
    if known:
        given = ", ".join(f"{setting}={kwargs[setting]!r}" for setting in kwargs if setting in known)
        raise TypeError(f"{', '.join(sorted(known))}: settings belong to the config; give "
                        f"{name}(env, {config}({given}))")  # fmt: skip
