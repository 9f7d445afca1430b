"""Adam's step, of Kingma and Ba (2015, ICLR, "Adam: a method for stochastic optimization", algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Adam:
    """Adam with torch's fused kernel, without what ``torch.optim.Adam`` has around it.

    (Hooks, and a search of the parameters for kinds of devices and numbers, are a third of the time of a
    small step; and the first optimiser of ``torch.optim`` loads torch's compiler, which takes over a second.)

    Args:
        parameters: tensors of any shapes, written to; each with its ``grad`` when a step is taken.
        lr: step size.
        eps: added to the root of the average of squares.
        betas: decay of the averages of gradients and of their squares.
        decays: L2 weights of parts of each parameter, which cover it.

    Attributes:
        states: of each parameter ``step`` [], ``exp_avg`` and ``exp_avg_sq``, named as torch names them.
    """

    def __init__(
        self, parameters: Sequence[Tensor], *, lr: float, eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999), decays: Sequence[tuple[Any, float]] = ((..., 0.0),),
    ) -> None:  # fmt: skip
        self.parameters, self.lr, self.eps, self.betas = list(parameters), lr, eps, betas
        self._decays = decays
        self.states = [
            {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter.detach()),
                "exp_avg_sq": torch.zeros_like(parameter.detach()),
            }
            for parameter in self.parameters
        ]

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter down its gradient."""
        for parameter, state in zip(self.parameters, self.states, strict=True):
            assert parameter.grad is not None
            step, mean, square = state["step"].add_(1.0), state["exp_avg"], state["exp_avg_sq"]
            tensors = parameter, parameter.grad, mean, square
            for part, decay in self._decays:
                values, slopes, means, squares = tensors if part is ... else (each[part] for each in tensors)
                torch._fused_adam_(
                    [values], [slopes], [means], [squares], [], [step], lr=self.lr, beta1=self.betas[0],
                    beta2=self.betas[1], weight_decay=decay, eps=self.eps, amsgrad=False, maximize=False,
                )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, as ``torch.optim.Adam`` does, but for settings."""
        return {"state": {index: dict(state) for index, state in enumerate(self.states)}}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Go on with a copy of what this, or ``torch.optim.Adam``, returned (before a first step: nothing).

        Raises:
            ValueError: for averages of other shapes.
        """
        for index, state in enumerate(self.states):
            given = content["state"].get(index)
            for name, value in state.items():
                new = torch.zeros_like(value) if given is None else given[name]
                if new.shape != value.shape:
                    raise ValueError(f"Adam's {name} is of shape {tuple(new.shape)}; it must be of shape "
                                     f"{tuple(value.shape)}")  # fmt: skip
                value.copy_(new)


class AdamOfEach(Adam):
    """Adam for the rows of a matrix, each of which is a learner with a step size and a count of its own.

    Args:
        vectors: [S, P] parameters, with their ``grad``.
        rates: step sizes, one for all or S of them.
        eps: added to the root of the average of squares.
        betas: decay of the averages of gradients and of their squares.

    Attributes:
        rates: [S, 1].
    """

    def __init__(
        self, vectors: Tensor, *, rates: float | Sequence[float], eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:  # fmt: skip
        super().__init__([vectors], lr=1.0, eps=eps, betas=betas)
        learners, device = len(vectors), vectors.device
        self.states[0]["step"] = torch.zeros(learners, 1, device=device)
        each = [rates] * learners if isinstance(rates, float) else list(rates)
        self.rates = torch.stack([torch.full((1,), rate, device=device) for rate in each])
        self._scratch: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step_of(self, going: Tensor, share: float | Tensor = 1.0) -> Tensor:
        """Move those learners down their gradients that are going; the others stay, state and all.

        One that would step to where numbers end stays too.

        Args:
            going: [S, 1] bool. What stands in the gradients of others does not matter, be it NaN.
            share: of the step sizes, a number or [].

        Returns:
            [S, 1] bool, False for learners that could not step.
        """
        vectors, state = self.parameters[0], self.states[0]
        assert vectors.grad is not None
        step, mean, square = state["step"], state["exp_avg"], state["exp_avg_sq"]
        weight = going.to(mean.dtype)
        # In memory that stays: fresh pages for every result take longer than the arithmetic. And a mask is
        # multiplied, since torch.where with one entry a row is slow on the CPU.
        if self._scratch is None:
            self._scratch = torch.empty_like(vectors), torch.empty_like(vectors)
        change, root = self._scratch
        torch.nan_to_num(vectors.grad, out=change).mul_(weight)
        step += weight
        mean.lerp_(change, (1.0 - self.betas[0]) * weight)
        square.lerp_(change.square_(), (1.0 - self.betas[1]) * weight)
        counts = step.clamp(min=1.0)
        torch.mul(square, (1.0 - self.betas[1] ** counts).reciprocal_(), out=root).sqrt_().add_(self.eps)
        rates = self.rates * (-share) / (1.0 - self.betas[0] ** counts)
        torch.div(mean, root, out=change).mul_(rates)
        moved = torch.add(vectors, change, out=root)
        finite: Tensor = torch.linalg.vector_norm(moved, dim=1, keepdim=True).isfinite()
        vectors.add_(change.nan_to_num_().mul_(weight * finite))
        return finite | ~going


class Descent:
    """Adam's steps of S learners, each with its own step size and its gradient cut by itself.

    Args:
        vectors: [S, P] parameters with ``grad``.
        rates: step sizes, one for all or S of them.
        eps: Adam's epsilon.
        max_grad_norm: the gradient of each is cut to this norm; None: it is not.

    Attributes:
        going: [S, 1] bool: learners whose gradients and parameters were numbers so far. Others stay as they
            were before.
    """

    def __init__(
        self, vectors: Tensor, *, rates: float | Sequence[float], eps: float, max_grad_norm: float | None
    ) -> None:
        self.vectors, self.max_grad_norm = vectors, max_grad_norm
        self.optimizer = AdamOfEach(vectors, rates=rates, eps=eps)
        self.going = torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device)

    @torch.no_grad()
    def step(self, going: Tensor | None = None, share: float | Tensor = 1.0) -> None:
        """Step down the gradients that are there.

        Args:
            going: [S, 1] bool, who steps; None: all whose gradients are numbers.
            share: of the step sizes, a number or [].
        """
        gradient = self.vectors.grad
        assert gradient is not None
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        self.going &= norms.isfinite()
        if self.max_grad_norm is not None:
            gradient.mul_((self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0))
        self.going &= self.optimizer.step_of(self.going if going is None else going & self.going, share)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean [] of values [S] over learners that are going; NaN where none has a finite one."""
        counted = self.going[:, 0] & values.isfinite()
        return torch.where(counted, values, 0.0).sum() / counted.sum()

    def frozen(self) -> list[int]:
        """Return the learners that diverged; waits for the device."""
        return (~self.going[:, 0]).nonzero().flatten().tolist()

    def state_dict(self) -> dict[str, Any]:
        """Return what a continuation needs besides the parameters."""
        return {"optimizer": self.optimizer.state_dict(), "going": self.going}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.going.copy_(state["going"])


def adam_step_(
    vector: Tensor, gradient: Tensor, state: Mapping[str, Tensor], *, lr: Tensor,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
) -> None:  # fmt: skip
    """Take one step in place, written out so that ``torch.compile`` can fuse it.

    Args:
        vector: [P] values.
        gradient: [P].
        state: of the vector, see :class:`Adam`.
        lr: step size, []; a tensor, so that another one needs no other function.
        betas: decay of the averages of gradients and of their squares.
        eps: added to the root of the latter.
    """
    step, mean, square = state["step"].add_(1.0), state["exp_avg"], state["exp_avg_sq"]
    mean.lerp_(gradient, 1.0 - betas[0])
    square.mul_(betas[1]).addcmul_(gradient, gradient, value=1.0 - betas[1])
    root = (square / (1.0 - betas[1] ** step)).sqrt() + eps
    vector.sub_(lr * (mean / (1.0 - betas[0] ** step)) / root)
