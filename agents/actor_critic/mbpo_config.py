"""Settings of MBPO, and presets of them: the paper's for its environments, and others for a laptop.

``paper`` has the values of the authors' configuration files (Janner et al. 2019, arXiv 1906.08253): gradient
steps per step, rollout schedule, target entropy, size and lifetime of what is imagined; v5 environments take
those of their v2 ancestors. For an environment that is not among them, the values are those of Walker2d.
``cpu`` is this library's: small networks, short fits, standardised targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from prefrl.config import Bounds, Count, Natural, NonNegative, Positive, PositiveShare, Rows, Share, Sizes
from prefrl.functional.actor_critic.model_learning import real_share
from prefrl.nn.ensemble import DECAYS

from .config import ActorCriticConfig

ModelLoss = Literal["nll", "mse", "value_gradient"]
"""Likelihood, squared error, or squared error weighted by the value's gradient."""


@dataclass(frozen=True)
class MBPOConfig(ActorCriticConfig):
    """Settings of :class:`MBPO`; the defaults are those of Janner et al. 2019 for Hopper with guards.

    The guards (fixed variance bounds, cut predictions and gradients) are off in the preset ``paper``, which
    also has a target entropy for each environment.
    """

    buffer_size: Count = 1_000_000
    """Real transitions in the replay, over all environments together."""

    learning_starts: Annotated[int, Bounds(low=2)] = 5000
    """Timesteps of uniform actions before the first model."""

    updates_per_step: Count = 20
    """Gradient steps G of actor and critics per timestep."""

    real_ratio: Share = 0.05
    """Share of real transitions in each batch, in [0, 1], rounded down to whole ones."""

    real_ratio_start: Share | None = None
    """Share of real transitions when learning starts, from where it goes to real_ratio in a straight line;
    None: it is real_ratio throughout."""

    real_ratio_epochs: Count = 50
    """Epochs of epoch_timesteps until it is real_ratio, where there is a real_ratio_start."""

    ensemble_size: Count = 7
    """Networks E of the model."""

    elites: Count = 5
    """Networks that rollouts are made with, the best on held-out transitions; at most E count."""

    probabilistic: bool = True
    """Predict a Gaussian and draw from it, or a point."""

    model_loss: ModelLoss | None = None
    """nll with variances, mse or value_gradient without; None: nll or mse."""

    model_hidden: Sizes = (200, 200, 200, 200)
    """Sizes of the model's hidden layers, SiLU."""

    model_learning_rate: Positive = 1e-3
    """Adam's step size of the model."""

    model_weight_decay: NonNegative | None = None
    """L2 weight of every layer of the model; None: 2.5e-5 in the first layer to 1e-4 in the last."""

    model_batch_size: Rows = 256
    """Transitions of a gradient step of the model, for each network."""

    model_max_grad_norm: Positive | None = 100.0
    """Gradients of the model are cut to this norm; None: they are not."""

    learn_variance_bounds: bool = False
    """Learn the bounds of the log variances, as the paper's code does; others found it better not to."""

    standardize_targets: bool = False
    """Fit standardised targets: of use where entries differ in scale or hardly vary."""

    holdout_fraction: Annotated[float, Bounds(low=0, high=1, above=True, below=True)] = 0.2
    """Share of the transitions that a fit is stopped by."""

    holdout_max: Count = 5000
    """Most of those."""

    patience: Natural = 5
    """Epochs without a better network after which one more ends a fit."""

    max_fit_steps: Count | None = None
    """Most gradient steps of a fit; None: no limit."""

    bootstrap: bool | None = None
    """Give each network transitions of its own, drawn with replacement; None: where there are several."""

    reward: Literal["learned", "known"] = "learned"
    """Learn the reward with the model, or take the known function of it."""

    clip_predictions: NonNegative | None = 0.1
    """Predictions are cut to the range of the data, this share of it wider; None: they are not."""

    refit_every: Count = 250
    """Timesteps F between two fits of the model."""

    rollouts_per_step: Count = 400
    """Rollouts M per timestep."""

    rollout_schedule: tuple[Natural, Natural, Count, Count] = (20, 150, 1, 15)
    """e0, e1, k0, k1: rollouts grow from k0 steps in epoch e0 to k1 in epoch e1."""

    epoch_timesteps: Count = 1000
    """Timesteps of an epoch, in the schedules and in what the model buffer holds."""

    retain_epochs: Count = 1
    """Epochs of imagined transitions that are kept."""

    value_gradient_quantile: PositiveShare | None = 0.95
    """Value gradients longer than this quantile are cut to it; None: none is."""

    value_gradient_normalize: bool = True
    """Divide squared value gradients by their mean; the paper does not."""

    value_gradient_floor: Share = 0.05
    """Share of plain regression in the normalised weights, in [0, 1]; the paper has none."""

    value_gradient_total: bool = False
    """Let value gradients include the policy's answer to the state; the paper's are at fixed actions."""

    value_gradient_warmup: Natural = 1000
    """Timesteps of learning with plain regression, until critics mean something."""

    diagnostics_every: Count = 1000
    """Timesteps between two looks at how smooth the critics are; taken when the model is next fitted."""

    diagnostics_states: Count = 1000
    """States that are looked at."""

    diagnostics_radius: Positive = 0.05
    """Half side of the boxes of the local Lipschitz constant, in standard deviations."""

    def check(self) -> None:
        """See :class:`Settings`."""
        super().check()
        if self.model_loss is not None and (self.model_loss == "nll") != self.probabilistic:
            raise ValueError(f"model_loss is {self.model_loss!r} and probabilistic {self.probabilistic}; nll "
                             "needs variances, mse and value_gradient train none")  # fmt: skip
        if self.epoch_timesteps < self.refit_every:
            raise ValueError(f"epoch_timesteps is {self.epoch_timesteps}; it must be at least refit_every, "
                             f"{self.refit_every}")  # fmt: skip
        first, last, low, high = self.rollout_schedule
        if low > high or last < first:
            raise ValueError(f"rollout_schedule is {self.rollout_schedule}; it must be e0, e1, k0, k1 with "
                             "e0 at most e1 and 1 at most k0 at most k1")  # fmt: skip

    def real_share(self, timestep: int) -> float:
        """Return the share of real transitions in the batches of a timestep."""
        if self.real_ratio_start is None:
            return self.real_ratio
        epoch = (timestep - self.learning_starts) / self.epoch_timesteps
        return real_share(self.real_ratio_start, self.real_ratio, self.real_ratio_epochs, epoch)

    @property
    def loss(self) -> ModelLoss:
        """The model's loss, None resolved."""
        return self.model_loss or ("nll" if self.probabilistic else "mse")

    @property
    def decays(self) -> float | tuple[float, ...]:
        """L2 weights of the model's layers, None resolved."""
        layers = len(self.model_hidden) + 1
        if self.model_weight_decay is not None:
            return self.model_weight_decay
        if layers == len(DECAYS):
            return DECAYS
        low, high = DECAYS[0], DECAYS[-1]
        return tuple(low + (high - low) * place / (layers - 1) for place in range(layers))


Preset = Literal["cpu", "paper"]
"""Names of presets."""

PAPER: dict[str, dict[str, Any]] = {
    "InvertedPendulum": {
        "updates_per_step": 10, "rollout_schedule": (1, 15, 1, 1), "target_entropy": -0.05,
        "epoch_timesteps": 250, "learning_starts": 500,
    },
    "Hopper": {"updates_per_step": 20, "rollout_schedule": (20, 150, 1, 15), "target_entropy": -1.0},
    "Walker2d": {"updates_per_step": 20, "rollout_schedule": (20, 150, 1, 1), "target_entropy": -3.0},
    "HalfCheetah": {"updates_per_step": 40, "rollout_schedule": (20, 150, 1, 1), "target_entropy": -3.0},
    "Ant": {"updates_per_step": 20, "rollout_schedule": (20, 100, 1, 25), "target_entropy": -4.0},
    "Humanoid": {
        "updates_per_step": 20, "rollout_schedule": (20, 300, 1, 25), "target_entropy": -2.0,
        "refit_every": 1000, "rollouts_per_step": 100, "retain_epochs": 5,
        "model_hidden": (400, 400, 400, 400),
    },
}  # fmt: skip
"""By the environment's name, what differs from the defaults."""

OTHERS = {"updates_per_step": 20, "rollout_schedule": (20, 150, 1, 1)}
"""For environments that are not in the table; the target entropy is minus the size of an action."""

CPU: dict[str, Any] = {
    "hidden": (128, 128),
    "updates_per_step": 10,
    "learning_starts": 500,
    "rollouts_per_step": 50,
    "rollout_schedule": (0, 1, 1, 1),
    "max_fit_steps": 2000,
    "standardize_targets": True,
}
"""What differs from the defaults on a laptop."""


def mbpo_preset(env_id: str, preset: Preset) -> MBPOConfig:
    """Return the settings of a preset for an environment.

    Args:
        env_id: as in ``Hopper-v5`` or ``prefrl/Pendulum-v0``.
        preset: "paper" or "cpu".

    Raises:
        ValueError: if there is no such preset.
    """
    if preset not in ("cpu", "paper"):
        raise ValueError(f"preset is {preset!r}; allowed are cpu, paper")
    if preset == "cpu":
        return replace(MBPOConfig(), **CPU)
    name = env_id.rpartition("/")[2].rpartition("-")[0]
    common = {"learn_variance_bounds": True, "clip_predictions": None, "model_max_grad_norm": None}
    return replace(MBPOConfig(), **{**common, **PAPER.get(name, OTHERS)})
