"""Settings of proximal policy optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from prefrl.config import Bounds, Count, NonNegative, Positive, Settings, Share, Sizes
from prefrl.data.devices import Precision
from prefrl.functional.actor_critic.grouped import GroupedKind
from prefrl.nn.torsos import TorsoKind

Schedule = Literal["constant", "linear"]
"""What becomes of a setting over the timesteps: it stays, or falls linearly to 0."""


ROLLOUT, SHORTEST = 2_048, 16
"""Transitions of a learner's rollout, and least steps of each environment, where n_steps does not say."""

LARGEST = 10.0
"""Size at which normalised numbers are cut."""

TOO_FAR = 1.5
"""Multiple of target_kl beyond which there are no more gradient steps, as in SB3."""

TERMS = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")
"""Metrics of a gradient step, under SB3's names."""


@dataclass(frozen=True)
class PPOConfig(Settings):
    """Settings of :class:`PPO`; names are SB3's where it has them."""

    on_policy: ClassVar[bool] = True

    of_each: ClassVar[tuple[str, ...]] = ("learning_rate", "gamma", "ent_coef")

    network: TorsoKind = "auto"
    """mlp, MinAtar's small convolution (conv), or that of Mnih et al. 2015 (nature); auto takes nature for
    pictures from 36 x 36 on, conv for smaller ones, with the channels last or first, and else mlp."""

    hidden: Sizes = (64, 64)
    """Layers of the mlp, of which policy and value have one each."""

    activation: Literal["relu", "tanh"] = "tanh"
    """What comes after a layer of the mlp."""

    conv_filters: Count = 16
    """3 x 3 filters of conv."""

    conv_features: Count = 128
    """Units of its full layer."""

    share_torso: bool = True
    """Let policy and value read the features of one conv, nature or given torso; else each has its own."""

    precision: Precision = "float32"
    """Of the products of networks: bf16 is faster where the processor has it (AMX or avx512_bf16), layers are
    256 wide or more and batches large; weights, Adam and losses stay float32."""

    cuda_graph: bool = False
    """Record the gradient step as a CUDA graph, whose kernels start together; for small networks on a GPU.
    Not tried on one yet."""

    n_steps: Count | None = None
    """Steps of each environment in a rollout; None: 16 or more, until a learner has 2,048 transitions."""

    batch_size: Count = 64
    """Transitions of a gradient step; the last batch of an epoch may be smaller."""

    n_epochs: Count = 10
    """Passes over a rollout."""

    learning_rate: Positive | tuple[Positive, ...] = 3e-4
    """Adam's step size; one for all learners, or one for each."""

    gamma: Share | tuple[Share, ...] = 0.99
    """Discount per step, likewise."""

    ent_coef: NonNegative | tuple[NonNegative, ...] = 0.0
    """Weight of the entropy, likewise."""

    advantage: Literal["gae"] | GroupedKind = "gae"
    """Generalised advantage estimation (gae), or all steps of an episode have that of its return among its
    group's, without a value function: centred, grpo (over the standard deviation) or bnpo (over a fitted Beta
    density; of successes). Groups start alike: the environment is wrapped in GroupedStarts. Only groups that
    lie whole within a rollout count: n_steps must be longer than episodes."""

    group_size: Annotated[int, Bounds(low=2)] | None = None
    """Rows next to each other that are a group, at least 2; not for gae."""

    success_return: float | None = None
    """Undiscounted return from which on an episode is a success, which is then all that counts in groups;
    None: the return itself, but for bnpo."""

    gae_lambda: Share = 0.95
    """Decay of the sum in an advantage: 1 is the whole return, 0 a single step."""

    clip_range: Positive = 0.2
    """How far the probability ratio counts."""

    clip_range_vf: Positive | None = None
    """How far the value may move in a rollout (it hangs on the scale of the returns); None: as it will."""

    vf_coef: NonNegative = 0.5
    """Weight of the value's squared error."""

    max_grad_norm: Positive | None = 0.5
    """Gradients are cut to this norm; None: they are not."""

    adam_eps: Positive = 1e-5
    """Adam's epsilon."""

    normalize_advantage: bool = True
    """Give the advantages of a batch mean 0 and standard deviation 1."""

    normalize_observations: bool = False
    """Give the numbers in observations mean 0 and standard deviation 1, by the rollouts before; cut at 10.
    Pictures are read as shares of 255 all the same."""

    normalize_rewards: bool = True
    """Divide rewards by the standard deviation of their discounted sums so far; cut at 10."""

    target_kl: Positive | None = None
    """No more gradient steps in a rollout once a batch is 1.5 times as far (in nats) from the old policy."""

    schedule: Schedule = "constant"
    """What becomes of the step size: it stays, or falls linearly to 0."""

    clip_schedule: Schedule = "constant"
    """What becomes of the clip range, likewise."""

    schedule_timesteps: Count | None = None
    """Timesteps in which linear schedules reach 0; None: those of the run, for ``prefrl train`` only."""

    log_std_init: Annotated[float, Bounds(low=-20, high=2)] = 0.0
    """Logarithm of the standard deviations at the start (Box actions; 0: half the width of a bounded Box)."""

    def check(self) -> None:
        """Raise ValueError for groups without what they need, or settings of groups without groups."""
        given = {"group_size": self.group_size, "success_return": self.success_return}
        if self.advantage == "gae":
            for name, value in given.items():
                if value is not None:
                    raise ValueError(f"{name} is {value}; it must be None where advantage is 'gae'")
            return
        needed = ["group_size", "n_steps"] + ["success_return"] * (self.advantage == "bnpo")
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is None; it must be given where advantage is {self.advantage!r}")
        if self.normalize_rewards:
            raise ValueError(f"normalize_rewards is True; it must be False where advantage is "
                             f"{self.advantage!r}: returns are looked at as they are")  # fmt: skip

    def share(self, schedule: Schedule, timesteps: int) -> float:
        """Return what a schedule leaves of a setting after a number of timesteps."""
        total = self.schedule_timesteps
        return 1.0 if schedule == "constant" or total is None else 1.0 - min(1.0, timesteps / total)
