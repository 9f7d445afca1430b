"""The gradient of deep Q-learning's loss without autograd, for our small networks and any head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prefrl.data.replay import Batch
from prefrl.nn.heads import gather_actions, scatter_actions
from prefrl.nn.q_network import QChain

if TYPE_CHECKING:
    from .dqn import DQNConfig


@torch.inference_mode()
def gradients_by_hand(
    online: QChain, target_network: QChain, batch: Batch, first_action: int, config: DQNConfig
) -> dict[str, Tensor]:
    """Put the gradients of the loss where :class:`QChain` has them; return metrics [S] of S learners.

    (A step then takes .4 to .8 of autograd's time: with networks of 64 x 64 and Huber's loss to 256 x 256,
    batches of 64, one thread.)

    Args:
        online: the networks that learn.
        target_network: their targets.
        batch: [S * B, ...] transitions, learner by learner.
        first_action: what actions are counted from.
        config: settings.
    """
    if online.arrays is not None and in_arrays(batch, config):
        return gradients_in_arrays(online, target_network, batch, first_action, config)
    batch = batch.of_learners(online.learners)
    weights = batch.weights
    if config.target_policy == "sarsa":
        assert batch.next_known is not None
        weights = weights * batch.next_known
    shares = weights / weights.sum(-1, keepdim=True).clamp(min=1.0)
    rows, parts = shares.shape[-1], 1
    if shares.device.type == "cpu" and rows > MANY:
        parts = -(-rows // IN_CACHE)
    online, target_network = online.cast(), target_network.cast()
    found: dict[str, Tensor] = {}
    for part in range(parts):
        places = slice(part * rows // parts, (part + 1) * rows // parts)
        some = batch if parts == 1 else _rows(batch, places)
        metrics = gradients_of_part(online, target_network, some, shares[:, places], first_action, config,
                                    add=part > 0)  # fmt: skip
        if parts == 1:
            return metrics
        share = (places.stop - places.start) / rows
        for name, value in metrics.items():
            value = value if name in SUMS else share * value
            found[name] = found[name] + value if name in found else value
    return found


def _rows(batch: Batch, places: slice) -> Batch:
    """Return some transitions of every learner."""
    return batch.mapped(lambda values: values[:, places])


MANY, IN_CACHE = 2_048, 512
"""Rows of a batch from which the CPU takes it in parts, and of a part: what flows between layers of 256 then
stays in its cache."""

SUMS = ("train/loss", "clamped")
"""Metrics that are sums over a batch; others are means."""


def gradients_of_part(
    online: QChain, target_network: QChain, batch: Batch, shares: Tensor, first_action: int,
    config: DQNConfig, *, add: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Do the same for a part of a batch, whose rows have ``shares`` [S, B] in the loss of the whole one.

    With ``add`` the gradients are added to what is there.
    """
    head, actions = online.head, batch.actions - first_action
    record, outputs = online.record(online.inputs(batch.obs))
    following = online.inputs(batch.next_obs)
    next_outputs = target_network.record(following)[1]
    if config.target_policy == "sarsa":
        assert batch.next_actions is not None
        next_actions = batch.next_actions - first_action
    else:
        chosen_by = online.record(following)[1] if config.double else next_outputs
        next_actions = head.values(chosen_by).argmax(-1)
    target, outside = head.target(batch.returns, batch.discounts, gather_actions(next_outputs, next_actions))
    q_taken = gather_actions(outputs, actions)
    losses, slopes = head.loss(q_taken, target), head.slopes(q_taken, target)

    slopes *= shares if slopes.ndim == shares.ndim else shares[..., None]
    of_outputs = scatter_actions(slopes, actions, head.actions)
    metrics = head.metrics(losses, q_taken, target)
    if config.cql_alpha:
        q = head.values(outputs)
        gap = torch.logsumexp(q, -1) - gather_actions(q, actions)
        of_values = torch.softmax(q, -1) - scatter_actions(torch.ones_like(gap), actions, head.actions)
        of_outputs += head.values_pulled(outputs, config.cql_alpha * shares[..., None] * of_values)
        losses = losses + config.cql_alpha * gap
        metrics["train/cql"] = gap.mean(-1)
    online.pull(record, of_outputs, add=add)
    if outside is not None:
        metrics |= clamped_shares(outside, batch.weights)
    return {"train/loss": (losses * shares).sum(-1), **metrics}


def in_arrays(batch: Batch, config: DQNConfig) -> bool:
    """Whether :func:`gradients_in_arrays` has what settings and the size of a batch ask for."""
    small = batch.returns.numel() * max(config.hidden) <= SMALL
    return small and not config.cql_alpha and config.target_policy == "greedy"


SMALL = 1 << 16
"""Rows of a batch times units of a layer up to which NumPy's calls are the quicker ones."""


def gradients_in_arrays(
    online: QChain, target_network: QChain, batch: Batch, first_action: int, config: DQNConfig
) -> dict[str, Tensor]:
    """Do the same with NumPy for one learner whose heads say a number per action (mse, huber).

    Args:
        online: the network that learns.
        target_network: its target.
        batch: [B, ...] transitions.
        first_action: what actions are counted from.
        config: settings; no conservative regulariser, greedy targets.
    """
    network, slow = online.arrays, target_network.arrays
    assert network is not None
    assert slow is not None
    actions = batch.actions.numpy()
    if first_action:
        actions = actions - first_action
    weights, rows = batch.weights.numpy(), np.arange(len(actions))
    x, following = (online.pictures(obs).flatten(1).numpy() for obs in (batch.obs, batch.next_obs))
    flows, next_outputs = network.record(x), slow.record(following)[-1]
    outputs = flows[-1]
    next_actions = (network.record(following)[-1] if config.double else next_outputs).argmax(1)
    target = batch.returns.numpy() + batch.discounts.numpy() * next_outputs[rows, next_actions]
    q_taken = outputs[rows, actions]
    errors = q_taken - target
    distances = np.abs(errors)
    if config.loss == "huber":
        slopes = np.clip(errors, -1.0, 1.0)
        losses = slopes * (errors - 0.5 * slopes)
    else:
        slopes, losses = 2.0 * errors, errors * errors
    shares = weights / max(1.0, float(weights.sum()))
    of_outputs = np.zeros_like(outputs)
    of_outputs[rows, actions] = slopes * shares
    network.pull(flows, of_outputs)
    means = np.add.reduce((q_taken, target, distances), 1) / np.float32(len(rows))
    metrics = torch.from_numpy(np.array([*means, losses @ shares])[:, None])
    return dict(zip(NAMES, metrics.unbind(), strict=True))


NAMES = ("train/q", "train/target", "train/td_error", "train/loss")
"""Metrics of losses on a number per action."""


def clamped_shares(outside: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return how many targets lay outside, of how many, and the share; from [..., B] of both."""
    counts = torch.stack([(outside * weights).sum(-1), weights.sum(-1)], -1)
    return {"clamped": counts, "train/clamped_fraction": counts[..., 0] / counts[..., 1].clamp(min=1.0)}
