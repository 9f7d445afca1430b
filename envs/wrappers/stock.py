"""Stocks: the return so far, in the state, for agents that care about the distribution of the whole return.

    c' = (c + r) / gamma,        so that        c_0 + G_0 = gamma^t (c_t + G_t)

(Avila Pires et al. 2025, arXiv 2501.13028). One class augments a scalar environment, one a vector
environment, on the host or on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import array_api_compat
import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from prefrl.envs.core.backend import Array, NumpyRandom, Random


class _Stock:
    """What both wrappers know of a stock: its size, where it starts, how it moves."""

    def __init__(
        self,
        env: Any,
        gamma: float,
        initial_stock: Any,
        stock_range: tuple[Any, Any] | None,
        reward_key: str | None,
        frozen: bool,
    ) -> None:
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}; it must lie in (0, 1]")
        if initial_stock is not None and stock_range is not None:
            raise ValueError("initial_stock and stock_range are both given; a stock starts at one or within "
                             "the other")  # fmt: skip
        own = getattr(env.unwrapped, "initial_stock", None) if reward_key else None
        default = 0.0 if own is None else own
        given = (
            stock_range
            if stock_range is not None
            else (default if initial_stock is None else initial_stock,) * 2
        )
        if len(given) != 2:
            raise ValueError(f"stock_range is {stock_range}; it must be a pair (low, high)")
        self.low, self.high = (_vector("the stock", end) for end in given)
        if self.low.shape != self.high.shape or (self.low > self.high).any():
            raise ValueError(f"stock_range is {stock_range}; low must not exceed high")
        if not reward_key and len(self.low) != 1:
            raise ValueError(f"the stock has {len(self.low)} components; a reward that is a number makes "
                             "one of 1, name the info that holds a vector as reward_key")  # fmt: skip
        self.gamma, self.reward_key, self.frozen = float(gamma), reward_key, frozen
        self.space = gym.spaces.Box(-np.inf, np.inf, self.low.shape, np.float64)

    @property
    def size(self) -> int:
        return len(self.low)

    def observation_space(self, space: gym.Space[Any]) -> gym.spaces.Dict:
        if not isinstance(space, gym.spaces.Dict):
            return gym.spaces.Dict({"obs": space, "stock": self.space})
        if "stock" in space.spaces:
            raise ValueError("the observations have a part named 'stock' already")
        return gym.spaces.Dict({**space, "stock": self.space})

    @staticmethod
    def joined(obs: Any, stock: Any) -> dict[str, Any]:
        return {**obs, "stock": stock} if isinstance(obs, dict) else {"obs": obs, "stock": stock}

    def option(self, options: dict[str, Any]) -> NDArray[np.float64] | None:
        """Take the option "stock" out of those of a reset."""
        given = options.pop("stock", None)
        if given is None:
            return None
        stock = np.asarray(given, dtype=np.float64)
        if stock.ndim == 0:
            stock = stock[None]
        if stock.shape[-1] != self.size and self.size == 1:
            stock = stock[..., None]
        if stock.shape[-1] != self.size or not np.isfinite(stock).all():
            raise ValueError(f"the option 'stock' is {given}; it must be {self.size} finite numbers, for "
                             "all rows or for each")  # fmt: skip
        return stock

    def moved(self, stock: Any, rewards: Any) -> Any:
        return stock if self.frozen else (stock + rewards) / self.gamma

    def check_rewards(self, rewards: Any) -> Any:
        if rewards.shape[-1] != self.size:
            raise ValueError(f"the info {self.reward_key!r} has {rewards.shape[-1]} components; the stock "
                             f"has {self.size}")  # fmt: skip
        return rewards


def _vector(name: str, value: Any) -> NDArray[np.float64]:
    """Return a number or a vector as a vector; ValueError unless it is finite."""
    vector = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"{name} is {value}; it must be a finite number, or a vector of such")
    return vector


class StockAugmentation(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Adds the stock to the observations of any scalar environment.

    Observations become ``{"obs": ..., "stock": [k]}``, those that are dicts already get a part "stock"; the
    stock is kept in float64, from the rewards as the environment pays them, and stands in ``info["stock"]``.
    Choose where it starts with ``reset(options={"stock": c})``::

        env = StockAugmentation(gym.make("prefrl/RiskyCliff-v0"))
        obs, info = env.reset(seed=0, options={"stock": 9.0})

    Args:
        env: the environment.
        gamma: discount, in (0, 1].
        initial_stock: where the stock starts, a number or k of them; None: 0, of vector rewards the
            environment's own.
        stock_range: (low, high) to draw it from uniformly instead, to explore.
        reward_key: name of the info that holds a reward of several components; None: the reward.
        frozen: leave the stock where it started: the ablation that shows what following it is worth.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        gamma: float = 1.0,
        initial_stock: Any = None,
        stock_range: tuple[Any, Any] | None = None,
        reward_key: str | None = None,
        frozen: bool = False,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(
            self, gamma=gamma, initial_stock=initial_stock, stock_range=stock_range, reward_key=reward_key,
            frozen=frozen,
        )  # fmt: skip
        super().__init__(env)
        self.rule = _Stock(env, gamma, initial_stock, stock_range, reward_key, frozen)
        self.observation_space = self.rule.observation_space(env.observation_space)
        self.stock = self.rule.low.copy()
        """[k] the present stock."""
        self._rng = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with the stock ``options["stock"]`` where it is given."""
        rule, options = self.rule, dict(options or {})
        given = rule.option(options)
        if given is not None and given.ndim != 1:
            raise ValueError(f"the option 'stock' has shape {given.shape}; it must be ({rule.size},)")
        if seed is not None:
            self._rng = np.random.default_rng([seed, 3])  # not the environment's own numbers
        obs, info = self.env.reset(seed=seed, options=options or None)
        drawn = rule.low + (rule.high - rule.low) * self._rng.random(rule.size)
        self.stock = (drawn if given is None else given).copy()
        return rule.joined(obs, self.stock.copy()), {**info, "stock": self.stock.copy()}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        rule = self.rule
        paid = np.atleast_1d(np.asarray(info[rule.reward_key] if rule.reward_key else reward, np.float64))
        self.stock = rule.moved(self.stock, rule.check_rewards(paid))
        said = {**info, "stock": self.stock.copy()}
        return rule.joined(obs, self.stock.copy()), reward, terminated, truncated, said

    def stock_state(self) -> dict[str, Any]:
        """Return what a bit-equal continuation needs of the stock alone."""
        return {"stock": self.stock.copy(), "rng": NumpyRandom(self._rng).get_state()}

    def load_stock_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`stock_state` returned."""
        self.stock = np.array(state["stock"], dtype=np.float64)
        NumpyRandom(self._rng).set_state(state["rng"])


class VectorStockAugmentation(gym.vector.VectorWrapper):
    """:class:`StockAugmentation` for a vector environment, of numpy or, on a device, of torch.

    All autoreset modes are followed: a row that starts anew gets a new initial stock, and with SAME_STEP
    ``infos["final_obs"]`` holds the stock that the row ended with. Nothing waits for the device.

    Args:
        env: the vector environment.
        gamma: as for :class:`StockAugmentation`, like what follows.
        initial_stock: where the stock of every row starts.
        stock_range: (low, high) to draw it from uniformly instead.
        reward_key: name of the info that holds a reward of several components.
        frozen: leave the stock where it started.

    Raises:
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        gamma: float = 1.0,
        initial_stock: Any = None,
        stock_range: tuple[Any, Any] | None = None,
        reward_key: str | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__(env)
        self.rule = rule = _Stock(env, gamma, initial_stock, stock_range, reward_key, frozen)
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.single_observation_space = rule.observation_space(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        backend = getattr(getattr(env.unwrapped, "dynamics", None), "backend", None)
        self._backend = backend if backend is not None and backend.on_device else None
        self._rng: Random = self._random(None)
        self._low, self._span = self._rows(rule.low), self._rows(rule.high - rule.low)
        self._stock: Array = None
        self._done: Array = None

    def _random(self, seed: int | None) -> Random:
        seeds = None if seed is None else [seed, 3]  # not the environment's own numbers
        if self._backend is not None:
            rng: Random = self._backend.random(seeds)
            return rng
        return NumpyRandom(np.random.default_rng(seeds))

    def _rows(self, stock: NDArray[np.float64]) -> Array:
        """Return a stock [k] for every row, [n, k]."""
        if self._backend is None:
            return np.broadcast_to(stock, (self.num_envs, len(stock))).copy()
        xp, device = self._backend.xp, self._backend.device
        columns = [xp.full((self.num_envs,), c, dtype=xp.float64, device=device) for c in stock.tolist()]
        return xp.stack(columns, axis=1)

    def _starts(self) -> Array:
        """Return initial stocks [n, k]."""
        rule = self.rule
        if (rule.low == rule.high).all():
            return self._rows(rule.low)
        draws = self._rng.uniform(self.num_envs, rule.size)
        xp = array_api_compat.array_namespace(draws)
        return self._low + self._span * xp.astype(draws, xp.float64)

    @property
    def stock(self) -> Array:
        """[n, k] the present stocks."""
        return self._stock

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes, with the stocks ``options["stock"]`` ([k] or [n, k]) where they are given."""
        rule, options = self.rule, dict(options or {})
        given = rule.option(options)
        if given is not None and given.shape not in ((rule.size,), (self.num_envs, rule.size)):
            raise ValueError(f"the option 'stock' has shape {given.shape}; it must be ({rule.size},) or "
                             f"({self.num_envs}, {rule.size})")  # fmt: skip
        first = seed[0] if isinstance(seed, list) else seed
        if first is not None:
            self._rng = self._random(first)
        mask = options.get("reset_mask")
        obs, infos = self.env.reset(seed=seed, options=options or None)  # type: ignore[arg-type]
        if given is None:
            start = self._starts()
        elif given.ndim == 1:
            start = self._rows(given)
        else:
            start = given.copy() if self._backend is None else self._backend.asarray(given)
        xp = array_api_compat.array_namespace(start)
        if mask is None or self._stock is None:
            self._stock = start
            self._done = xp.zeros_like(start[:, 0], dtype=xp.bool)
        else:
            mask = np.asarray(mask) if self._backend is None else self._backend.asarray(mask)
            self._stock = xp.where(mask[:, None], start, self._stock)
            self._done = self._done & ~mask
        return self._joined(obs), {**infos, "stock": self._copy(self._stock)}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance all rows; see ``gymnasium.vector.VectorEnv.step``."""
        obs, rewards, terminations, truncations, infos = self.env.step(actions)
        rule, ended = self.rule, terminations | truncations
        xp = array_api_compat.array_namespace(rewards)
        paid = self._vector_rewards(rewards, infos) if rule.reward_key else rewards[:, None]
        after = rule.moved(self._stock, rule.check_rewards(xp.astype(paid, xp.float64)))
        infos = dict(infos)
        if self.mode is AutoresetMode.NEXT_STEP:
            after = self._restarted(after, self._done)
        elif self.mode is AutoresetMode.SAME_STEP:
            if "final_obs" in infos:
                infos["final_obs"] = self._final(infos["final_obs"], after, ended)
                infos["final_info"] = {**infos.get("final_info", {}), "stock": self._copy(after)}
                infos.setdefault("_final_info", ended)
            after = self._restarted(after, ended)
        self._done, self._stock = ended, after
        infos["stock"] = self._copy(after)
        return self._joined(obs), rewards, terminations, truncations, infos

    def _restarted(self, stock: Array, rows: Array) -> Array:
        """Return stocks, new ones where rows start anew."""
        if self._backend is None and not rows.any():
            return stock
        xp = array_api_compat.array_namespace(stock)
        return xp.where(rows[:, None], self._starts(), stock)

    def _vector_rewards(self, rewards: Array, infos: Mapping[str, Any]) -> Array:
        """Return the vector rewards [n, k] of a step; of rows that ended those of their last one."""
        key, final = str(self.rule.reward_key), infos.get("final_info", {})
        if key not in infos and key not in final:
            if self.mode is AutoresetMode.NEXT_STEP and self._backend is None and self._done.all():
                return np.zeros((self.num_envs, self.rule.size))  # all rows start anew: nothing is paid
            raise ValueError(f"the environment's info has no {key!r}; it has {sorted(infos)}")
        if key not in final:
            return infos[key]
        if key not in infos:
            return final[key]
        xp = array_api_compat.array_namespace(rewards)
        return xp.where(infos["_final_info"][:, None], final[key], infos[key])

    def _final(self, final: Any, stock: Array, ended: Array) -> Any:
        """Return the last observations of rows that ended, with their stock."""
        if not isinstance(final, np.ndarray) or final.dtype != object:
            return self.rule.joined(final, self._copy(stock))
        augmented = np.full(len(final), None, dtype=object)  # Gymnasium's own: an entry per row that ended
        for row in np.flatnonzero(ended):
            augmented[row] = self.rule.joined(final[row], stock[row].copy())
        return augmented

    @staticmethod
    def _copy(values: Array) -> Array:
        return array_api_compat.array_namespace(values).asarray(values, copy=True)

    def _joined(self, obs: Any) -> dict[str, Any]:
        return self.rule.joined(obs, self._copy(self._stock))

    def state_dict(self) -> dict[str, Any] | None:
        """Return everything a bit-equal continuation needs; None where the environment tells nothing."""
        env = self.env.unwrapped
        if not hasattr(env, "state_dict"):
            return None
        return {"env": env.state_dict(), "stock": self._stock, "done": self._done,
                "rng": self._rng.get_state()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.env.unwrapped.load_state_dict(state["env"])  # type: ignore[attr-defined]
        convert = np.asarray if self._backend is None else self._backend.asarray
        self._stock, self._done = convert(state["stock"]), convert(state["done"])
        self._rng.set_state(state["rng"])


def augment(env: Any, **settings: Any) -> Any:
    """Return an environment of any face with its stock; settings are those of :class:`StockAugmentation`."""
    if isinstance(env, gym.vector.VectorEnv):
        return VectorStockAugmentation(env, **settings)
    return StockAugmentation(env, **settings)
