"""Settings of actor and critics, which soft actor-critic with and without a model has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from prefrl.config import Count, NonNegative, Positive, PositiveShare, Rows, Settings, Share, Sizes
from prefrl.data.devices import Precision
from prefrl.nn.spectral import CappedLayers

CriticRegularizer = Literal["none", "spectral", "robust"]
"""What keeps the critics smooth; see the module's text."""

RobustAttack = Literal["uniform", "one_step", "multi_step"]
"""How the state within the box is found: at random, by one step of its gradient's sign, by several."""


@dataclass(frozen=True)
class ActorCriticConfig(Settings):
    """Settings of actor and critics; the defaults are Stable-Baselines3's where it has the same setting."""

    of_each: ClassVar[tuple[str, ...]] = (
        "learning_rate", "actor_learning_rate", "temperature_learning_rate", "gamma", "initial_temperature",
        "target_entropy",
    )  # fmt: skip

    hidden: Sizes = (256, 256)
    """Sizes of the hidden layers of actor and critics, ReLU."""

    learning_rate: Positive | tuple[Positive, ...] = 3e-4
    """Adam's step size, of everything that has none of its own; of many learners also one for each."""

    actor_learning_rate: Positive | tuple[Positive, ...] | None = None
    """Adam's step size of the actor, likewise; None: learning_rate."""

    temperature_learning_rate: Positive | tuple[Positive, ...] | None = None
    """Adam's step size of the temperature, likewise; None: learning_rate."""

    batch_size: Rows = 256
    """Transitions of a gradient step."""

    gamma: Share | tuple[Share, ...] = 0.99
    """Discount per step, in [0, 1], likewise."""

    warmup_hold: Count = 1
    """Steps that each uniform action before ``learning_starts`` is held for. Actions that are drawn anew at
    every step cancel each other, and hardly move what has inertia."""

    tau: PositiveShare = 0.005
    """Share of the critics in their targets at every update of those, in (0, 1]."""

    target_update_gradient_steps: Count = 1
    """Gradient steps between two updates of the targets."""

    initial_temperature: Positive | tuple[Positive, ...] = 1.0
    """Weight alpha of the entropy at the start, positive, likewise."""

    learn_temperature: bool = True
    """Learn alpha, so that the entropy comes to target_entropy; else it stays as it is."""

    target_entropy: float | tuple[float, ...] | None = None
    """Entropy that the temperature aims at, in nats, likewise; None: minus the number of action entries."""

    precision: Precision = "float32"
    """Of the products of a gradient step: bf16 is faster where the processor has it (AMX or avx512_bf16),
    layers are 256 wide or more and batches large; weights, Adam and losses stay float32."""

    max_grad_norm: Positive | None = None
    """Gradients of critics and actor are cut to this norm; None: they are not."""

    critic_regularizer: CriticRegularizer = "none"
    """What keeps the critics smooth: nothing (none), a cap on the spectral norms of their layers (spectral),
    or a penalty on how much the worst close state changes them (robust)."""

    spectral_cap: Positive = 1.0
    """Largest spectral norm of a capped layer, positive; hidden layers only: 1 and a free output layer."""

    spectral_layers: CappedLayers = "hidden"
    """Cap the layers below the output layer, or all."""

    robust_eps: Positive = 0.02
    """Half side of the box around a state, in standard deviations of each entry, positive."""

    robust_weight: NonNegative = 0.1
    """Weight lambda of the robust term, not negative."""

    robust_normalize: bool = False
    """Divide the weight by the running variance of the targets plus one. Squared errors and robust term grow
    alike with the scale of the rewards, so this is not needed to serve rewards of any scale."""

    robust_attack: RobustAttack = "one_step"
    """uniform noise, one_step (FGSM) or multi_step (PGD)."""

    robust_attack_steps: Count = 3
    """Steps of a multi_step attack."""

    robust_every: Count = 1
    """Gradient steps between two with the robust term."""

    robust_stop_gradient: bool = False
    """Let the robust term move the critics at the attacked state only, not at the state itself."""

    renamed: ClassVar[dict[str, str]] = {"target_update_interval": "target_update_gradient_steps"}

    @property
    def attack_steps(self) -> int:
        """Steps of the attack."""
        return {"uniform": 0, "one_step": 1, "multi_step": self.robust_attack_steps}[self.robust_attack]
