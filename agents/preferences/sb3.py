"""An algorithm of Stable-Baselines3 as an agent of prefrl.

SB3's ``learn`` steps its own environments and takes the reward from them. Where the reward is learned, it
must be possible to step, replace the reward, and learn, one after the other. :class:`SB3Agent` gives an SB3
algorithm the face that the training loop asks for: ``act`` draws from its policy, ``observe`` fills its
rollout or replay buffer, ``update`` calls its own ``train``. The networks, losses, buffers, optimisers and
schedules are SB3's; only the stepping is done elsewhere, as its ``collect_rollouts`` does it.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.distributions import Distribution

from prefrl.agents.base import Agent, Spaces
from prefrl.config import Count, Settings
from prefrl.data import Transitions, map_obs
from prefrl.data.files.bounded import kept_rows

Algorithm = Literal["ppo", "a2c", "sac", "td3", "ddpg", "dqn"]

WITHHELD = {
    "env": "the agent's own",
    "seed": "the agent's",
    "device": "the agent's",
    "verbose": "prefrl's own loop logs",
    "tensorboard_log": "prefrl's own loop logs",
    "_init_setup_model": "always done",
    "monitor_wrapper": "prefrl's own loop keeps account of episodes",
    "use_sde": "for SB3's own stepping, which draws its noise anew",
    "sde_sample_freq": "for SB3's own stepping, which draws its noise anew",
    "use_sde_at_warmup": "for SB3's own stepping, which draws its noise anew",
}
"""Arguments of SB3's constructors that are not the user's to give here, and whose they are."""


@dataclass(frozen=True)
class SB3Config(Settings):
    """Settings of :class:`SB3Agent`.

    Raises:
        ValueError: if the algorithm, or one of its settings, is unknown, or a number is out of range.
    """

    algorithm: Algorithm = "sac"
    """Which algorithm of SB3."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of its constructor, under SB3's names and with SB3's defaults; JSON values. ``action_noise``
    is a number: the standard deviation of normal noise, in actions scaled to [-1, 1]."""

    schedule_timesteps: Count = 100_000
    """Timesteps that schedules are spread over, which SB3 takes from ``learn(total_timesteps)``."""

    warmup_hold: Count = 1
    """Steps that each uniform action before ``learning_starts`` is held for. SB3 draws a new one at every
    step, which hardly moves what has inertia; off-policy algorithms only."""

    def check(self) -> None:
        """Raise ValueError for settings that the algorithm does not have, or has from the agent."""
        known = sorted(set(inspect.signature(sb3_class(self.algorithm)).parameters) - set(WITHHELD))
        for name, value in self.settings.items():
            if name in WITHHELD:
                raise ValueError(f"settings hold {name!r}, which is {WITHHELD[name]}; allowed are {known}")
            if name not in known:
                raise ValueError(f"settings hold {name!r}; {self.algorithm} of SB3 has {known}")
            if name == "train_freq" and not (type(value) is int and value >= 1):
                raise ValueError(f"train_freq is {value!r}; it must be a number of steps, at least 1")
            if name == "action_noise" and not (isinstance(value, (int, float)) and 0.0 <= value < math.inf):
                raise ValueError(f"action_noise is {value!r}; it must be a standard deviation, not negative")
        try:
            json.dumps(dict(self.settings), allow_nan=False)  # files keep them
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"settings are {dict(self.settings)}; they must be JSON values: {error}"
            ) from None

    @property
    def on_policy(self) -> bool:
        """Whether it learns from what its present policy did, and no more."""
        return self.algorithm in ("ppo", "a2c")


def sb3_class(algorithm: str) -> Any:
    """Return SB3's class of an algorithm."""
    return getattr(import_module("stable_baselines3"), algorithm.upper())


class SB3Agent(Agent):
    """An algorithm of Stable-Baselines3, stepped by prefrl's loop; see the module's text.

    SB3 keeps its buffers in host memory as numpy arrays: with observations on another device, ``act`` and
    ``observe`` wait for it. Ours that do not are such as :class:`prefrl.agents.DQN`.

    Args:
        env: an environment, or :class:`prefrl.agents.base.Spaces`. Rows that end must restart in the same
            step (``AutoresetMode.SAME_STEP``), or be reset by the loop (DISABLED).
        config: settings.
        rows: rows of the steps that :meth:`observe` is shown (None: the environment's).
        device: torch device, or "auto".
        seed: seeds network, exploration and buffers; as in SB3, the global generators of Python, numpy and
            torch are seeded with it.

    Raises:
        ValueError: if SB3 does not take the spaces or the settings, or rows pause after an end.

    Attributes:
        model: the SB3 algorithm, for use where SB3's own is wanted; ``model.save`` writes SB3's files.
        acted: [n, ...] what the algorithm must be told again with an action (on-policy: what was drawn
            before it was cut to the space, its log-probability, and the value); who observes an action later
            than the next step puts it into the ``infos`` of its transitions.
    """

    config_class: ClassVar[type[SB3Config]] = SB3Config

    def __init__(
        self,
        env: Any,
        config: SB3Config | None = None,
        *,
        rows: int | None = None,
        device: torch.device | str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or SB3Config(), device=device, seed=seed)
        metadata = getattr(env, "metadata", None) or {}
        if isinstance(env, gym.vector.VectorEnv) and (
            AutoresetMode(metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)) is AutoresetMode.NEXT_STEP
        ):
            raise ValueError("env pauses for a step after an end (AutoresetMode.NEXT_STEP); SB3's buffers "
                             "have no place for that; make it with autoreset_mode SAME_STEP")  # fmt: skip
        self._check_spaces()
        self.rows = rows or int(getattr(env, "num_envs", 1))
        settings = copy.deepcopy(dict(self.config.settings))  # SB3 writes into what it is given
        self._noise = float(settings.pop("action_noise", 0.0))
        policy = settings.pop("policy", None) or _policy_name(self.observation_space)
        stand_in = _SpacesOnly(self.rows, self.observation_space, self.action_space)
        try:
            self.model = sb3_class(self.config.algorithm)(
                policy, stand_in, **settings, seed=seed, device=self.device
            )
        except (AssertionError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
            reason = str(error).split("\n", 1)[0] or repr(error)
            given = f"{self.observation_space} and {self.action_space} with {dict(self.config.settings)}"
            raise ValueError(f"SB3's {self.config.algorithm} does not take {given}: {reason}") from error
        self._recorded = _Recorded()
        self.model.set_logger(self._recorded)
        self.model._total_timesteps = self.config.schedule_timesteps
        self.on_policy = self.config.on_policy
        self.keeps_rewards = not self.on_policy
        self.acted: dict[str, Tensor] = {}
        self._starts = np.ones(self.rows, dtype=np.float32)
        self._bootstrap: dict[str, Any] = {}
        self._observed = self._since = self._calls = 0
        self._held: Tensor | None = None

    def _check_spaces(self) -> None:
        """Raise ValueError for spaces that SB3 takes and then mistakes."""
        parts = {"action_space": self.action_space, "observation_space": self.observation_space}
        if isinstance(self.observation_space, gym.spaces.Dict):
            named = self.observation_space.items()
            parts.update({f"observation_space[{name!r}]": part for name, part in named})
        for name, space in parts.items():
            if np.any(getattr(space, "start", 0)):
                raise ValueError(f"{name} is {space}; SB3 takes discrete numbers from 0")
        actions = self.action_space
        if isinstance(actions, gym.spaces.Box) and not np.issubdtype(actions.dtype, np.floating):
            raise ValueError(f"action_space is {actions}; SB3 takes a Box of floating-point numbers")

    # Acting ----------------------------------------------------------------------------------------------

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return actions [n, ...] for observations [n, ...]."""
        model = self.model
        if not deterministic and not self.on_policy and self.num_timesteps < model.learning_starts:
            return self._warmup_action(obs)
        arrays = map_obs(lambda values: values.cpu().numpy(), obs)
        if self.on_policy and not deterministic:
            return self._drawn(arrays)
        with torch.no_grad():
            actions, _ = model.policy.predict(arrays, deterministic=deterministic)
        if not deterministic and self.config.algorithm == "dqn":
            actions = self._epsilon_greedy(actions)
        elif not deterministic and self._noise:
            scaled = model.policy.scale_action(actions)
            noise = np.random.normal(0.0, self._noise, scaled.shape).astype(np.float32)  # noqa: NPY002
            actions = model.policy.unscale_action(np.clip(scaled + noise, -1.0, 1.0))
        return torch.as_tensor(actions, device=self.device)

    def _drawn(self, arrays: Any) -> Tensor:
        """Return actions of a stochastic policy, and remember how they came about."""
        policy = self.model.policy
        with torch.no_grad(), self._diverged():
            raw, values, log_probs = policy(policy.obs_to_tensor(arrays)[0])
        self.acted = {"raw_actions": raw, "values": values.flatten(), "log_probs": log_probs}
        space = self.action_space
        if not isinstance(space, gym.spaces.Box):
            return raw  # type: ignore[no-any-return]
        if policy.squash_output:
            return torch.as_tensor(policy.unscale_action(raw.cpu().numpy()), device=self.device)
        low, high = (torch.as_tensor(bound, device=self.device) for bound in (space.low, space.high))
        return torch.clamp(raw, low, high)

    def _warmup_action(self, obs: Any) -> Tensor:
        """Return uniform actions, each held for a while."""
        count = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        if self._held is not None and len(self._held) == count and self._calls % self.config.warmup_hold:
            self._calls += 1
            return self._held
        self._calls += 1
        space = self.action_space
        if isinstance(space, gym.spaces.Discrete):
            drawn = torch.randint(int(space.n), (count,))
        else:
            low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
            drawn = torch.lerp(low.expand(count, *low.shape), high.expand(count, *low.shape),
                               torch.rand(count, *low.shape, dtype=low.dtype))  # fmt: skip
        self._held = drawn.to(self.device)
        return self._held

    def _epsilon_greedy(self, best: Any) -> Any:
        """Return the best actions [n], some of them replaced by uniform ones."""
        space = self.action_space
        uniform = torch.randint(int(space.n), (len(best),)).numpy()
        return np.where(torch.rand(len(best)).numpy() < self.model.exploration_rate, uniform, best)

    # Observing -------------------------------------------------------------------------------------------

    def observe(self, transitions: Transitions) -> None:
        """Put one step into SB3's buffer.

        Raises:
            ValueError: if the step has another number of rows.
        """
        count = len(transitions.rewards)
        if count != self.rows:
            raise ValueError(f"the step has {count} rows; this agent was made for {self.rows}")
        step = {
            "obs": self._arrays(transitions.obs),
            "next_obs": self._arrays(transitions.next_obs),
            "rewards": transitions.rewards.cpu().numpy().astype(np.float32),
            "ended": (transitions.terminations | transitions.truncations).cpu().numpy(),
            "cut": (transitions.truncations & ~transitions.terminations).cpu().numpy(),
        }
        self._observed += 1
        if self.on_policy:
            self._observe_on_policy(transitions, step)
            return
        actions = transitions.actions.cpu().numpy()
        if isinstance(self.action_space, gym.spaces.Box):
            actions = self.model.policy.scale_action(actions)
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in step["cut"]]
        self.model.replay_buffer.add(
            step["obs"], step["next_obs"], actions, step["rewards"], step["ended"], infos
        )

    def _observe_on_policy(self, transitions: Transitions, step: Mapping[str, Any]) -> None:
        rewards = step["rewards"]
        if step["cut"].any():  # an episode that could have gone on is worth what would have followed
            rewards = rewards + step["cut"] * self.model.gamma * self._values(step["next_obs"])
        acted = {name: transitions.infos.get(name, known) for name, known in self.acted.items()}
        raw = acted["raw_actions"].cpu().numpy()
        if isinstance(self.action_space, gym.spaces.Discrete):
            raw = raw.reshape(-1, 1)
        self.model.rollout_buffer.add(
            step["obs"], raw, rewards, self._starts, acted["values"], acted["log_probs"]
        )
        self._starts = step["ended"].astype(np.float32)
        self._bootstrap = {"next_obs": step["next_obs"], "ended": step["ended"]}

    def _values(self, obs: Any) -> Any:
        """Return what the policy is worth [n] from observations as SB3 keeps them."""
        policy = self.model.policy
        with torch.no_grad():
            return policy.predict_values(policy.obs_to_tensor(obs)[0]).flatten().cpu().numpy()

    def _arrays(self, obs: Any) -> Any:
        """Return observations as SB3 keeps them."""
        arrays = map_obs(lambda values: values.cpu().numpy(), obs)
        space = self.model.observation_space
        if isinstance(arrays, dict):
            return {name: maybe_transpose(values, space[name]) for name, values in arrays.items()}
        return maybe_transpose(arrays, space)

    def restarted(self) -> None:
        """See :meth:`Agent.restarted`: what was cut off is worth what would have followed."""
        self._starts = np.ones(self.rows, dtype=np.float32)
        buffer = self._buffer
        last = (buffer.pos - 1) % buffer.buffer_size
        if not self.on_policy:
            if buffer.size():  # returns of several steps end there
                cut = np.logical_not(buffer.dones[last])
                buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], cut)
        elif buffer.pos and not self._bootstrap["ended"].all():
            going = ~self._bootstrap["ended"]
            buffer.rewards[last] += going * self.model.gamma * self._values(self._bootstrap["next_obs"])
            self._bootstrap["ended"] = np.ones_like(going)

    # Learning --------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Call SB3's ``train`` where it is due; see :meth:`Agent.update`."""
        model = self.model
        model.num_timesteps = self.num_timesteps
        model._update_current_progress_remaining(self.num_timesteps, self.config.schedule_timesteps)
        if self.on_policy:
            return self._update_on_policy()
        observed, self._observed = self._observed, 0
        for _ in range(observed):
            model._on_step()
        frequency = int(model.train_freq.frequency)
        rounds, self._since = divmod(self._since + observed, frequency)
        buffer = model.replay_buffer  # empty after load()
        enough = buffer.full or buffer.size() * self.rows > model.learning_starts
        if not rounds or not enough:
            return {}
        steps = model.gradient_steps if model.gradient_steps >= 0 else frequency * self.rows
        if steps:
            with self._diverged():
                model.train(batch_size=model.batch_size, gradient_steps=rounds * steps)
        return self._metrics()

    def _update_on_policy(self) -> dict[str, Tensor]:
        model = self.model
        if not model.rollout_buffer.full:
            return {}
        policy = model.policy
        with torch.no_grad():
            last = policy.predict_values(policy.obs_to_tensor(self._bootstrap["next_obs"])[0])
        model.rollout_buffer.compute_returns_and_advantage(last_values=last, dones=self._bootstrap["ended"])
        with self._diverged():
            model.train()
        model.rollout_buffer.reset()
        return self._metrics()

    @contextmanager
    def _diverged(self) -> Iterator[None]:
        """Raise FloatingPointError for what torch says of distributions whose parameters are no numbers.

        (It looks at them unless something was compiled: ``torch.compile`` switches that off in the process.)
        """
        validates = Distribution._validate_args
        Distribution.set_default_validate_args(True)
        try:
            yield
        except ValueError as error:
            if "invalid values" not in str(error):
                raise
            raise FloatingPointError(f"the policy of SB3's {self.config.algorithm} is NaN: it has diverged, "
                                     "and a lower learning_rate may help") from error  # fmt: skip
        finally:
            Distribution.set_default_validate_args(validates)

    def _metrics(self) -> dict[str, Tensor]:
        """Return what SB3 recorded of its last call of ``train``."""
        recorded = self._recorded.values
        found = {
            name: torch.tensor(float(value))
            for name, value in recorded.items()
            if isinstance(value, (int, float, np.number))
        }
        recorded.clear()
        return {name: value for name, value in found.items() if name != "train/n_updates"}

    def relabel(self, rewards: Tensor) -> None:
        """See :meth:`Agent.relabel`; on-policy algorithms keep nothing from one update to the next."""
        if self.on_policy:
            return
        buffer = self.model.replay_buffer
        held = buffer.buffer_size if buffer.full else buffer.pos
        count = min(held, len(rewards))
        places = (buffer.pos - count + np.arange(count)) % buffer.buffer_size
        buffer.rewards[places] = rewards[len(rewards) - count :].cpu().numpy()

    # What a continuation needs ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Agent.state_dict`."""
        return {
            **self.saved_state(),
            "buffer": self._buffer_state(),
            "starts": self._starts.copy(),
            "bootstrap": dict(self._bootstrap),
            "observed": [self._observed, self._calls, self._since],
            "held": self._held,
            "numpy": _numpy_state(),
        }

    def saved_state(self) -> dict[str, Any]:
        """See :meth:`Agent.saved_state`; the buffers stay behind, as with SB3."""
        model = self.model
        names = ("log_ent_coef", "ent_coef_tensor")
        return {
            "rows": self.rows,
            "parameters": model.get_parameters(),
            "tensors": {name: getattr(model, name) for name in names if hasattr(model, name)},
            "counts": [model._n_updates, getattr(model, "_n_calls", 0)],
            "exploration_rate": getattr(model, "exploration_rate", 0.0),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Agent.load_state_dict`; without a buffer, learning goes on with an empty one."""
        model = self.model
        model.set_parameters(dict(state["parameters"]), exact_match=True, device=self.device)
        for name, value in state["tensors"].items():
            getattr(model, name).data.copy_(value)
        model._n_updates, calls = (int(count) for count in state["counts"])
        if hasattr(model, "_n_calls"):
            model._n_calls, model.exploration_rate = calls, float(state["exploration_rate"])
        if "buffer" not in state:
            return
        self._load_buffer(state["buffer"])
        self._starts = _array(state["starts"])
        self._bootstrap = {name: map_obs(_array, value) for name, value in state["bootstrap"].items()}
        self._observed, self._calls, self._since = (int(count) for count in state["observed"])
        self._held = None if state["held"] is None else state["held"].to(self.device)
        _restore_numpy(state["numpy"])

    @classmethod
    def _rebuilt(cls, env: Any, config: Any, state: Mapping[str, Any], **settings: Any) -> SB3Agent:
        return cls(env, config, rows=kept_rows(state) if isinstance(env, Spaces) else None, **settings)

    @property
    def _buffer(self) -> Any:
        return self.model.rollout_buffer if self.on_policy else self.model.replay_buffer

    def _buffer_state(self) -> dict[str, Any]:
        buffer = self._buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        arrays = {
            name: map_obs(lambda values: values[:filled], value)
            for name, value in vars(buffer).items()
            if isinstance(value, (np.ndarray, dict)) and name not in ("observation_space", "obs_shape")
        }
        return {"pos": buffer.pos, "full": bool(buffer.full), "arrays": arrays}

    def _load_buffer(self, state: Mapping[str, Any]) -> None:
        buffer = self._buffer
        buffer.pos, buffer.full = int(state["pos"]), bool(state["full"])
        if not 0 <= buffer.pos <= buffer.buffer_size:
            raise ValueError(f"its buffer goes on at {buffer.pos}; this one has {buffer.buffer_size} places")
        for name, value in state["arrays"].items():
            kept = getattr(buffer, name)
            parts = value.items() if isinstance(value, dict) else [(None, value)]
            for key, part in parts:
                (kept if key is None else kept[key])[: len(part)] = np.asarray(part)


def _array(values: Any) -> Any:
    """Return an array, or a tensor that a file made of one, as an array of its own."""
    return np.array(values.cpu().numpy() if isinstance(values, Tensor) else values)


def _policy_name(space: gym.Space[Any]) -> str:
    """Return SB3's name of the policy for an observation space."""
    if isinstance(space, gym.spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"


def _numpy_state() -> dict[str, Any]:
    """Return the state of numpy's global generator, which SB3's buffers draw from."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {"kind": kind, "keys": np.asarray(keys, dtype=np.int64), "numbers": [position, has_gauss, cached]}


def _restore_numpy(state: Mapping[str, Any]) -> None:
    keys = _array(state["keys"]).astype(np.uint32)
    position, has_gauss, cached = state["numbers"]
    np.random.set_state((state["kind"], keys, int(position), int(has_gauss), float(cached)))  # noqa: NPY002


class _Recorded:
    """Stands where SB3's algorithms have their logger: keeps what they record until the agent asks."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        """Keep the latest value of a key."""
        self.values[key] = value


class _SpacesOnly(VecEnv):
    """Tells SB3 the spaces, and nothing else: prefrl's loop steps the environment."""

    def _no(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("this algorithm is stepped by prefrl's loop: call the agent's learn()")

    reset = step_async = step_wait = set_attr = env_method = _no

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """There are no attributes."""
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """There are no wrappers."""
        return [False] * self.num_envs
