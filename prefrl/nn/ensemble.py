"""Ensembles of learned dynamics: E networks as one chain of batched products, and how they are fitted.

A network reads a state and an action and predicts numbers about the step that follows, with a Gaussian for
each (Chua et al. 2018, arXiv 1805.12114) or without one. Inputs are standardised, targets too if wanted; the
ensemble takes and gives numbers in their own units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prefrl.config import Count, Natural, NonNegative, Settings, Share
from prefrl.functional.actor_critic.model_learning import gaussian_nll, improved, soft_clamp
from prefrl.functional.draws import integers, permutation, uniform

from .mlp import StackedMLP
from .update import AdamUpdate, Network

LOG_VARIANCE_RANGE = (-10.0, 0.5)
"""Bounds of log variances at the start (Janner et al. 2019)."""

BOUND_PENALTY = 0.01
"""Weight of how far apart the bounds are, where they are learned."""

DECAYS = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
"""L2 weights of four hidden layers and the output layer (Janner et al. 2019)."""

CHUNK = 1024
"""Rows that networks on the CPU read at once: their layers stay in its cache."""

STD_FLOOR = 1e-6
"""Inputs and targets that vary less, relative to their mean where that is above 1, are not scaled."""


class DynamicsEnsemble(nn.Module):
    """E networks with SiLU that predict numbers about a step.

    Args:
        members: E.
        inputs: size of the input.
        outputs: D, numbers predicted.
        hidden: sizes of the hidden layers.
        probabilistic: predict a variance with each number.
        learn_bounds: learn the bounds of the log variances, which all networks share.

    Raises:
        ValueError: for a size below 1.

    Attributes:
        network: the networks; they read standardised inputs.
    """

    low: Tensor
    """[D] bounds of the log variances."""
    high: Tensor
    input_mean: Tensor
    """[in] what inputs are standardised with."""
    input_std: Tensor
    target_mean: Tensor
    """[D] what outputs are in units of."""
    target_std: Tensor

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        *,
        probabilistic: bool,
        learn_bounds: bool = False,
    ) -> None:
        super().__init__()
        self.members, self.outputs, self.probabilistic = members, outputs, probabilistic
        self.learn_bounds = probabilistic and learn_bounds
        size = 2 * outputs if probabilistic else outputs
        self.network = StackedMLP(members, inputs, hidden, size, activation="silu")
        with torch.no_grad():
            for weight, bias in zip(self.network.weights(), self.network.biases(), strict=True):
                # normal within two standard deviations: by its inverse, as if drawn anew beyond them
                reach = math.erf(2.0 / math.sqrt(2.0))
                weight.uniform_(-reach, reach).erfinv_().mul_(
                    math.sqrt(2.0) * 0.5 / math.sqrt(weight.shape[1])
                )
                bias.zero_()
        for name, value in zip(("low", "high"), LOG_VARIANCE_RANGE, strict=True):
            bound = torch.full((outputs,), value)
            if self.learn_bounds:
                self.register_parameter(name, nn.Parameter(bound))
            else:
                self.register_buffer(name, bound)
        for name, count, value in (("input_mean", inputs, 0.0), ("input_std", inputs, 1.0),
                                   ("target_mean", outputs, 0.0), ("target_std", outputs, 1.0)):  # fmt: skip
            self.register_buffer(name, torch.full((count,), value))

    def forward(self, standardized: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map standardised inputs [E, N, in] to standardised means and log variances [E, N, D]."""
        output: Tensor = self.network(standardized)
        if not self.probabilistic:
            return output, None
        mean, raw = output.chunk(2, -1)
        return mean, soft_clamp(raw, self.low, self.high)

    def predict(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return means and standard deviations [E, N, D] of every network for inputs [N, in]."""
        standardized = (inputs - self.input_mean) / self.input_std
        return self._in_units(*self(standardized.expand(self.members, -1, -1)))

    def predict_split(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return means and standard deviations [N, D] where each row goes to one network, drawn at random.

        Each row by itself is as likely to go to each network, and every network gets as many rows (but for
        the remainder, which goes round): E times cheaper than asking all of them.

        Args:
            inputs: [N, in].
            generator: draws the split, on its own device.
        """
        if self.members == 1:
            mean, std = self.predict(inputs)
            return mean[0], None if std is None else std[0]
        count = len(inputs)
        order = permutation(generator, count, device=inputs.device)
        networks = permutation(generator, self.members, device=inputs.device)
        each = -(-count // self.members)
        padded = order.repeat(-(-each * self.members // count))[: each * self.members]
        standardized = ((inputs - self.input_mean) / self.input_std)[padded]
        # Networks in random order: which of them are short of rows, where it is not even, is chance.
        blocks = torch.empty_like(networks)
        blocks[networks] = torch.arange(self.members, device=inputs.device)
        mean, std = self._in_units(*self(standardized.view(self.members, each, -1)[blocks]))
        place = torch.arange(count, device=inputs.device)
        back = torch.empty_like(order)
        back[order] = networks[place // each] * each + place % each
        return mean.flatten(0, 1)[back], None if std is None else std.flatten(0, 1)[back]

    def _in_units(self, mean: Tensor, log_variance: Tensor | None) -> tuple[Tensor, Tensor | None]:
        std = None if log_variance is None else torch.exp(0.5 * log_variance) * self.target_std
        return mean * self.target_std + self.target_mean, std

    def layer_decays(self, decays: float | Sequence[float]) -> dict[str, float]:
        """Return the L2 weight of each parameter: those of the layers' weights; biases and bounds have none.

        Raises:
            ValueError: if there is not one for each layer.
        """
        layers = len(self.network.layers)
        each = [decays] * layers if isinstance(decays, (int, float)) else list(decays)
        if len(each) != layers:
            raise ValueError(f"model_weight_decay has {len(each)} entries; the networks have {layers} layers")
        return {f"network.layers.{place}.weight": float(decay) for place, decay in enumerate(each)}

    @torch.no_grad()
    def take_over(self, other: DynamicsEnsemble, chosen: Tensor) -> None:
        """Become the networks ``chosen`` [E] of another ensemble of the same shape."""
        for mine, theirs in zip(self.network.parameters(), other.network.parameters(), strict=True):
            mine.copy_(theirs[chosen])
        for name in ("low", "high", "input_mean", "input_std", "target_mean", "target_std"):
            getattr(self, name).copy_(getattr(other, name))


@dataclass(frozen=True)
class FitSettings(Settings):
    """How an ensemble is fitted; the defaults are those of Janner et al. 2019 (arXiv 1906.08253)."""

    batch_size: Count = 256
    """Rows of a gradient step, for each network."""

    holdout_fraction: Share = 0.2
    """Share of the rows that are held out to stop by."""

    holdout_max: Natural = 5000
    """Most rows held out."""

    patience: Natural = 5
    """Epochs without any better network after which one more ends the fit."""

    improvement: NonNegative = 0.01
    """Share by which a loss must fall for a network to count as better."""

    max_steps: Count | None = None
    """Most gradient steps of a fit; None: no limit."""

    max_epochs: Count = 1000
    """Most passes over the rows."""

    bootstrap: bool = True
    """Each network gets rows of its own, drawn with replacement once per fit."""

    standardize_targets: bool = False
    """Fit standardised targets."""


class EnsembleFit:
    """Fits an ensemble again and again: weights, Adam's moments and elites go on from one fit to the next.

    Args:
        ensemble: what is fitted.
        settings: how.
        elites: networks that predictions are made with, the best ones on held-out rows.
        lr: Adam's step size.
        decays: L2 weights of the layers, or one for all.
        max_grad_norm: gradients are cut to this norm; infinity: they are not.

    Attributes:
        elite: the best networks, as an ensemble of their own.
    """

    def __init__(
        self,
        ensemble: DynamicsEnsemble,
        settings: FitSettings,
        *,
        elites: int,
        lr: float,
        decays: float | Sequence[float],
        max_grad_norm: float = math.inf,
    ) -> None:
        self.ensemble, self.settings = ensemble, settings
        network = ensemble.network
        device, inputs = network.weights()[0].device, network.weights()[0].shape[1]
        hidden = [weight.shape[2] for weight in network.weights()[:-1]]
        with torch.device(device):
            self.elite = DynamicsEnsemble(
                elites, inputs, ensemble.outputs, hidden, probabilistic=ensemble.probabilistic
            ).requires_grad_(False)
            self.elite.take_over(ensemble, torch.arange(elites))
        self._update = AdamUpdate(ensemble, self._loss, lr=lr, eps=1e-8, max_grad_norm=max_grad_norm,
                                  weight_decays=ensemble.layer_decays(decays))  # fmt: skip
        owners = torch.zeros_like(self._update.weights.vector, dtype=torch.long, requires_grad=False)
        for name, place in self._update.weights.named(owners).items():
            if name.startswith("network."):  # bounds belong to nobody: they stay with the first network
                rows = torch.arange(ensemble.members, device=device)
                place.copy_(rows.view(-1, *[1] * (place.ndim - 1)).expand_as(place))
        self._owners = owners
        """[P] which network a parameter belongs to."""

    # Losses ----------------------------------------------------------------------------------------------

    def _loss(
        self, network: Network, inputs: Tensor, targets: Tensor, rows: Tensor, entries: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of standardised rows: inputs [E, B, in], targets [E, B, D], weights of rows [E, B].

        Errors of a deterministic ensemble may be weighted by entry too, [E, B, D].
        """
        ensemble = self.ensemble
        mean, log_variance = network(inputs)
        if log_variance is None:
            errors = (mean - targets).square()
            errors = errors if entries is None else errors * entries
        else:
            errors = gaussian_nll(mean, log_variance, targets)
        each = (errors.mean(-1) * rows).sum(1) / rows.sum(1).clamp(min=1.0)
        loss = each.sum()
        if ensemble.learn_bounds:
            loss = loss + BOUND_PENALTY * (ensemble.high.sum() - ensemble.low.sum())
        return loss, {"model/loss": each.detach().mean()}

    @torch.no_grad()
    def holdout_losses(self, inputs: Tensor, targets: Tensor, rows: Tensor, entries: Tensor | None) -> Tensor:
        """Return squared errors [E] of the means, weighted as in the loss, of standardised rows [n, ...]."""
        total = torch.zeros(self.ensemble.members, device=inputs.device)
        size = CHUNK if inputs.device.type == "cpu" else len(inputs)
        for start in range(0, len(inputs), size):
            part = slice(start, start + size)
            mean, _ = self.ensemble(inputs[part].expand(self.ensemble.members, -1, -1))
            errors = (mean - targets[part]).square()
            errors = errors if entries is None else errors * entries[part]
            total += (errors.mean(-1) * rows[part]).sum(1)
        return total / rows.sum().clamp(min=1.0)

    # Fitting ---------------------------------------------------------------------------------------------

    def fit(
        self,
        inputs: Tensor,
        targets: Tensor,
        generator: torch.Generator,
        *,
        rows: Tensor | None = None,
        entries: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Fit to rows until no network gets better on those that are held out; choose the elites.

        Every network ends as it was when it was best. The host asks once per epoch whether to go on.

        Args:
            inputs: [n, in] in their units.
            targets: [n, D] in their units.
            generator: draws the split, the bootstrap and the batches, on its own device.
            rows: [n] weights of rows, 0 for rows that are none; None: 1.
            entries: [n, D] weights of squared errors, as they are fitted (standardised or not); None: 1.

        Returns:
            Metrics: loss, epochs, gradient steps, and the elites' squared error on held-out rows.

        Raises:
            ValueError: if there are fewer than 2 rows, or entries are weighted with variances predicted.
        """
        if len(inputs) < 2:
            raise ValueError(f"there are {len(inputs)} rows to fit; give at least 2")
        if entries is not None and self.ensemble.probabilistic:
            raise ValueError("entries can be weighted in a deterministic ensemble only")
        ensemble, settings, device = self.ensemble, self.settings, inputs.device
        table, widths = self._table(inputs, targets, rows, entries)
        order = uniform(generator, len(table), device=device).argsort()
        held = max(1, min(int(settings.holdout_fraction * len(table)), settings.holdout_max))
        self._standardize(table, order[held:], widths)
        holdout, train = self._parts(table[order[:held]], widths), table[order[held:]]
        members, count = ensemble.members, len(train)
        chosen = torch.arange(count, device=device).expand(members, -1)
        if settings.bootstrap:
            chosen = integers(generator, count, members, count, device=device)
        vector = self._update.weights.vector.detach()
        best, kept = torch.full((members,), 1e10, device=device), vector.clone()
        idle, steps, epochs = torch.zeros((), device=device), 0, 0
        metrics: dict[str, Tensor] = {}
        while epochs < settings.max_epochs and (settings.max_steps is None or steps < settings.max_steps):
            shuffled = chosen.gather(1, uniform(generator, members, count, device=device).argsort(1))
            batches = torch.split(shuffled, settings.batch_size, 1)
            if settings.max_steps is not None:
                batches = batches[: settings.max_steps - steps]
            for batch in batches:
                drawn = train.index_select(0, batch.reshape(-1)).view(*batch.shape, -1)
                metrics = self._update.step(*self._parts(drawn, widths))
            steps, epochs = steps + len(batches), epochs + 1
            losses = self.holdout_losses(*holdout)
            better = improved(best, losses, settings.improvement)
            best = torch.where(better, losses, best)
            kept = torch.where(better[self._owners], vector, kept)
            idle = torch.where(better.any(), torch.zeros_like(idle), idle + 1.0)
            if asked(idle > settings.patience):
                break
        vector.copy_(kept)
        self.elite.take_over(ensemble, best.argsort()[: self.elite.members])
        return {
            **metrics,
            "model/epochs": torch.full((), float(epochs), device=device),
            "model/steps": torch.full((), float(steps), device=device),
            "model/holdout_mse": best.sort().values[: self.elite.members].mean(),
        }

    @staticmethod
    def _table(
        inputs: Tensor, targets: Tensor, rows: Tensor | None, entries: Tensor | None
    ) -> tuple[Tensor, list[int]]:
        """Return all that is known of a row side by side, and how wide each part is: one gather per batch."""
        weights = inputs.new_ones(len(inputs)) if rows is None else rows.to(inputs.dtype)
        parts = [inputs, targets, weights[:, None], *([] if entries is None else [entries])]
        return torch.cat(parts, 1), [part.shape[1] for part in parts]

    def _standardize(self, table: Tensor, train: Tensor, widths: Sequence[int]) -> None:
        """Learn means and deviations of training rows [m]; standardise the whole table in place."""
        ensemble = self.ensemble
        inputs, targets, weights, *_ = torch.split(table, list(widths), 1)
        chosen = weights[train]
        pairs = [(inputs, ensemble.input_mean, ensemble.input_std)]
        if self.settings.standardize_targets:
            pairs.append((targets, ensemble.target_mean, ensemble.target_std))
        for part, mean, std in pairs:
            seen = part[train].double()  # a mean that is rounded makes a constant seem to vary
            total = chosen.sum().clamp(min=1.0)
            middle = (seen * chosen).sum(0) / total
            found = (((seen - middle).square() * chosen).sum(0) / total).sqrt()
            varies = found > STD_FLOOR * middle.abs().clamp(min=1.0)
            mean.copy_(middle)
            std.copy_(torch.where(varies, found, torch.ones_like(found)))
            part.sub_(mean).div_(std)

    @staticmethod
    def _parts(table: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return inputs, targets, weights of rows, and of entries if there are any."""
        inputs, targets, rows, *entries = torch.split(table, list(widths), -1)
        return inputs, targets, rows[..., 0], entries[0] if entries else None

    def state_dict(self) -> dict[str, Any]:
        """Return networks, elites and Adam's moments."""
        return {
            "ensemble": self.ensemble.state_dict(),
            "elite": self.elite.state_dict(),
            "optimizer": self._update.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.ensemble.load_state_dict(state["ensemble"])
        self.elite.load_state_dict(state["elite"])
        self._update.optimizer.load_state_dict(state["optimizer"])


def asked(answer: Tensor) -> bool:
    """Ask the device a question, and wait for its answer."""
    return bool(answer)
