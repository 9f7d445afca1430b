"""What the agents have in common that answer requests by prices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prefrl.agents.base import Agent
from prefrl.data import Transitions
from prefrl.envs.allocation.problems import Allocation

from .prices import PriceRule, PriceStreams, allocation_from_json, allocation_to_json
from .serving import PriceServer


class Pricing:
    """The two faces of a policy of dual prices: streams that the loop steps, and requests that come by hand.

    Args:
        allocation: see :class:`PriceStreams`.
        rule: see :class:`PriceStreams`.
        device: where the streams of the loop live.
    """

    def __init__(self, allocation: Allocation, rule: PriceRule, device: torch.device) -> None:
        self.allocation = allocation
        self.streams = PriceStreams(allocation, rule)
        self.server = PriceServer(allocation, rule)
        self.device = device
        self._consumption: Tensor | None = None
        self._transitions: Transitions | None = None

    def act(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Return the best answers [n, ...] at the present prices."""
        self.streams.begin(obs)
        actions: Tensor
        actions, self._consumption = self.streams.answer(obs)
        return actions

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments."""
        self._transitions = transitions

    def update(self) -> dict[str, Tensor]:
        """Change the prices after the last observed step, once; return the mean price."""
        step, self._transitions = self._transitions, None
        if step is None:
            return {}
        intended = self._consumption
        if intended is None:
            intended = step.infos["intended_consumption"]
        self.streams.account(step.rewards, step.infos, step.mask)
        self.streams.advance(intended, step.next_obs, step.mask)
        return {
            "train/price": self.streams.state["mu"].mean(),
            "train/intended_consumption": intended.mean(),
        }

    def restart(self) -> None:
        """Forget the streams of the loop: the environment was reset. Those of ``predict`` go on."""
        self.streams.restart()
        self._consumption = self._transitions = None

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs."""
        return {
            "allocation": allocation_to_json(self.allocation),
            "streams": dict(self.streams.state),
            "horizons": self.streams.horizons,
            "server": self.server.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; ValueError for that of another allocation."""
        saved = allocation_from_json(state["allocation"])
        if saved != self.allocation:
            raise ValueError(f"its state is for {saved}, not for {self.allocation}")
        self.streams.restore({name: values.to(self.device) for name, values in state["streams"].items()})
        horizons = state["horizons"]
        self.streams.horizons = horizons.to(self.device) if isinstance(horizons, Tensor) else horizons
        self.server.load_state_dict(state["server"])


class ByPrices(Agent):
    """Base of the agents that answer by prices; they set ``self._pricing``."""

    info_keys = ("consumption", "intended_consumption", "depletion")
    _pricing: Pricing | None = None

    @property
    def pricing(self) -> Pricing:
        """The prices, of the streams in the loop and of the requests that come by ``predict``."""
        if self._pricing is None:
            raise ValueError("the agent does not know its allocation yet; give an environment or allocation=")
        return self._pricing

    @property
    def streams(self) -> PriceStreams:
        """Prices of the streams that the loop steps, and the account of what they earned and spent."""
        return self.pricing.streams

    def act(self, obs: Any, *, deterministic: bool = False) -> Tensor:
        """Return the best answers [n, ...] to requests at the present prices."""
        return self.pricing.act(obs)

    def observe(self, transitions: Transitions) -> None:
        """Take in one step of the environments; :meth:`update` moves the prices."""
        self.pricing.observe(transitions)

    def restarted(self) -> None:
        """Take note that the environment was reset: all streams begin."""
        self.pricing.restart()

    def update(self) -> dict[str, Tensor]:
        """Move the prices after the last observed step, once; see ``Agent.update``."""
        return self.pricing.update()

    def check(self) -> None:
        """Warn of prices that still rise at half the horizon; see :meth:`Agent.check`."""
        if self.streams.state:
            self.streams.warn_of_rising_prices(self.streams.state["tail_count"] > 0)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """Answer one request, or n of as many streams, and move the prices, which the agent keeps.

        So it can stand in a service's loop. A stream begins where the observation's ``time`` is 0 or
        ``episode_start`` is True, or where the number of streams is another than before. What an auction cost
        is read off the budget that remains at the next call.

        Args:
            observation: dict of ``request``, ``remaining`` and ``time``, as the environment gives them.
            state: returned as it is.
            episode_start: [n] bool, which streams begin.
            deterministic: makes no difference.

        Raises:
            ValueError: if the observation is none of such an environment's, or not finite: nothing changes.
            FloatingPointError: if prices have become infinite or NaN.
        """
        return self.pricing.server.serve(observation, episode_start), state

    def result(self) -> dict[str, Any]:
        """Return the mean price [m] over streams in the second half of the horizon, as ``final_dual``."""
        return {"final_dual": self.streams.final_dual()}
