"""Account of the returns and lengths of episodes, on the host and on a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

EPISODE_WINDOW = 100
"""Episodes that ``rollout/ep_rew_mean`` and ``rollout/ep_len_mean`` are the means of, as in SB3."""


class Episodes(Protocol):
    """Account of the episodes' returns and lengths."""

    def add(self, rewards: Any, mask: Any, ended: Any) -> None:
        """Take in rewards, which rows are transitions, and which episodes ended, all [n]."""

    def totals(self) -> Tensor:
        """Return [3]: sum of returns, sum of lengths and number of the episodes to report."""

    def reported(self) -> None:
        """Take note that the totals were logged."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""


class HostEpisodes:
    """:class:`Episodes` in host memory: reports the last :data:`EPISODE_WINDOW` episodes."""

    def __init__(self, num_envs: int) -> None:
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs)
        self._recent: deque[tuple[float, float]] = deque(maxlen=EPISODE_WINDOW)

    def add(self, rewards: Any, mask: Any, ended: Any) -> None:
        """See :class:`Episodes`."""
        if len(mask) == 1:  # between gradient steps NumPy's arithmetic is cold, plain numbers are not
            if mask[0]:
                self._returns[0] += rewards[0]
                self._lengths[0] += 1.0
        else:
            self._returns += rewards * mask
            self._lengths += mask
        if not np.count_nonzero(ended):
            return
        for row in np.flatnonzero(ended):
            self._recent.append((float(self._returns[row]), float(self._lengths[row])))
            self._returns[row] = self._lengths[row] = 0.0

    def totals(self) -> Tensor:
        """See :class:`Episodes`."""
        sums = np.array(self._recent).sum(0) if self._recent else np.zeros(2)
        return torch.tensor([*sums, len(self._recent)], dtype=torch.float64)

    def reported(self) -> None:
        """See :class:`Episodes`; the window slides on."""

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Episodes`."""
        return {"returns": self._returns, "lengths": self._lengths, "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Episodes`."""
        self._returns, self._lengths = state["returns"].numpy(), state["lengths"].numpy()
        self._recent.extend((episode[0], episode[1]) for episode in state["recent"])


class DeviceEpisodes:
    """:class:`Episodes` on a device: reports the episodes that ended since the last report.

    (With thousands of rows, the last hundred episodes would be the shortest ones.)
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        # Rows: returns, lengths, and ones, so that one product with `ended` gives all three totals.
        self._running = torch.zeros(3, num_envs, dtype=torch.float64, device=device)
        self._running[2] = 1.0
        self._totals = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, rewards: Any, mask: Any, ended: Any) -> None:
        """See :class:`Episodes`."""
        running = self._running
        running[0].addcmul_(rewards, mask)
        running[1].add_(mask)
        over = ended.to(running.dtype)
        self._totals.addmv_(running, over)
        running[:2].mul_(1.0 - over)

    def totals(self) -> Tensor:
        """See :class:`Episodes`."""
        return self._totals

    def reported(self) -> None:
        """See :class:`Episodes`."""
        self._totals.zero_()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Episodes`."""
        return {"running": self._running, "totals": self._totals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Episodes`."""
        self._running.copy_(state["running"])
        self._totals.copy_(state["totals"])
