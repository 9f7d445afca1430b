"""Environments of prefrl, imported as ``prefrl.envs``: one file per family.

Importing this package registers the ids with Gymnasium::

    import gymnasium as gym
    import prefrl.envs

    env = gym.make("prefrl/Delivery-v0")                        # one environment
    envs = gym.make_vec("prefrl/Delivery-v0", num_envs=64)      # numpy, all rows at once
    fast = prefrl.envs.make_device("prefrl/Delivery-v0", num_envs=4096, device="cuda")  # tensors throughout
"""

if not __name__.startswith("prefrl."):
    raise ImportError(f"import this package as 'prefrl.envs', not as {__name__!r}")

from importlib import import_module
from typing import Any, NamedTuple

import gymnasium as gym


class _Entry(NamedTuple):
    """Where an environment's dynamics are, "module:Class" below this package, and when its episodes end."""

    place: str
    max_episode_steps: int | None = None

    @property
    def dynamics(self) -> str:
        """The same from the top."""
        return f"{__name__}.{self.place}"


_CONTROL = {
    "prefrl/Delivery-v0": _Entry("grids.delivery:DeliveryDynamics", 200),
    "prefrl/RandomGrid-v0": _Entry("grids.random_grid:RandomGridDynamics", 200),
    "prefrl/SparseGrid-v0": _Entry("grids.sparse_grid:SparseGridDynamics", 12),
    "prefrl/CartPole-v0": _Entry("classic_control.cart_pole:CartPoleDynamics", 500),
    "prefrl/Acrobot-v0": _Entry("classic_control.acrobot:AcrobotDynamics", 500),
    "prefrl/MountainCar-v0": _Entry("classic_control.mountain_car:MountainCarDynamics", 200),
    "prefrl/MountainCarContinuous-v0": _Entry(
        "classic_control.mountain_car:MountainCarContinuousDynamics", 999
    ),
    "prefrl/Pendulum-v0": _Entry("classic_control.pendulum:PendulumDynamics", 200),
}
# Those without a limit terminate by themselves: at the horizon, or after as many requests as they are told.
_DIFFUSIONS = {
    "prefrl/BrownianSquare-v0": _Entry("diffusions.brownian_square:BrownianSquareDynamics"),
    "prefrl/OrnsteinUhlenbeck-v0": _Entry("diffusions.ornstein_uhlenbeck:OrnsteinUhlenbeckDynamics", 1000),
    "prefrl/LQDiscounted-v0": _Entry("diffusions.linear_quadratic:LQDiscountedDynamics", 1000),
    "prefrl/LQErgodic-v0": _Entry("diffusions.linear_quadratic:LQErgodicDynamics", 1000),
    "prefrl/LQPlane-v0": _Entry("diffusions.linear_quadratic:LQPlaneDynamics", 1000),
    "prefrl/MeanVariance-v0": _Entry("diffusions.mean_variance:MeanVarianceDynamics"),
    "prefrl/BlackScholesCall-v0": _Entry("diffusions.black_scholes:BlackScholesCallDynamics"),
}
_ALLOCATION = {
    "prefrl/MultiSecretary-v0": _Entry("allocation.online_knapsack:MultiSecretaryDynamics"),
    "prefrl/NetworkRevenue-v0": _Entry("allocation.online_knapsack:NetworkRevenueDynamics"),
    "prefrl/AdversarialKnapsack-v0": _Entry("allocation.online_knapsack:AdversarialKnapsackDynamics"),
    "prefrl/SecondPriceBudget-v0": _Entry("allocation.second_price:SecondPriceBudgetDynamics"),
    "prefrl/EntropyMatching-v0": _Entry("allocation.entropy_matching:EntropyMatchingDynamics"),
    "prefrl/AssortmentMNL-v0": _Entry("allocation.assortment:AssortmentMNLDynamics"),
}
_RETURNS = {
    "prefrl/StochasticApples-v0": _Entry("finite_horizon.stochastic_apples:StochasticApplesDynamics"),
    "prefrl/RiskyCliff-v0": _Entry("finite_horizon.risky_cliff:RiskyCliffDynamics"),
    "prefrl/Homeostasis-v0": _Entry("finite_horizon.homeostasis:HomeostasisDynamics"),
    "prefrl/BudgetedCollection-v0": _Entry("finite_horizon.budgeted_collection:BudgetedCollectionDynamics"),
    "prefrl/TwoCoins-v0": _Entry("finite_horizon.small_mdps:TwoCoinsDynamics"),
    "prefrl/RandomMDP-v0": _Entry("finite_horizon.small_mdps:RandomMDPDynamics"),
}

_PREFERENCES = {
    "prefrl/TrafficGrid-v0": _Entry("multi_agent.traffic_grid:TrafficGridDynamics", 100),
    "prefrl/ThreeGoals-v0": _Entry("finite_horizon.preference_boards:ThreeGoalsDynamics"),
    "prefrl/Meadow-v0": _Entry("finite_horizon.preference_boards:MeadowDynamics"),
    "prefrl/TokenTree-v0": _Entry("finite_horizon.token_tree:TokenTreeDynamics"),
    "prefrl/PreferenceBandit-v0": _Entry("finite_horizon.preference_bandit:PreferenceBanditDynamics"),
}

_CHOICE = {"prefrl/DynamicChoice-v0": _Entry("finite_horizon.dynamic_choice:DynamicChoiceDynamics")}

_BANDITS = {
    "prefrl/WindowTSP-v0": _Entry("bandits.window_tsp:WindowTSPDynamics"),
    "prefrl/TwentyQuestions-v0": _Entry("bandits.twenty_questions:TwentyQuestionsDynamics"),
    "prefrl/ProgramSynthesis-v0": _Entry("bandits.program_synthesis:ProgramSynthesisDynamics"),
    "prefrl/Ring-v0": _Entry("bandits.ring:RingDynamics"),
    "prefrl/LotteryChoice-v0": _Entry("bandits.lottery_choice:LotteryChoiceDynamics"),
}

# MinAtar itself has no limit, and a policy that never fails would play for ever.
_MINATAR = {
    "prefrl/MinAtar-Asterix-v0": _Entry("minatar.asterix:AsterixDynamics", 5000),
    "prefrl/MinAtar-Breakout-v0": _Entry("minatar.breakout:BreakoutDynamics", 5000),
    "prefrl/MinAtar-Freeway-v0": _Entry("minatar.freeway:FreewayDynamics", 5000),
    "prefrl/MinAtar-Seaquest-v0": _Entry("minatar.seaquest:SeaquestDynamics", 5000),
    "prefrl/MinAtar-SpaceInvaders-v0": _Entry("minatar.space_invaders:SpaceInvadersDynamics", 5000),
}

REGISTRY = {
    **_CONTROL,
    **_DIFFUSIONS,
    **_ALLOCATION,
    **_RETURNS,
    **_PREFERENCES,
    **_CHOICE,
    **_BANDITS,
    **_MINATAR,
}
"""Registered ids and where they live."""

DIFFUSION_IDS, ALLOCATION_IDS, RETURN_IDS = tuple(_DIFFUSIONS), tuple(_ALLOCATION), tuple(_RETURNS)
"""Ids of diffusions, of online allocation, and of finite horizons whose return distributions are known."""

MINATAR_IDS = tuple(_MINATAR)
"""Ids of MinAtar's games."""

for _id, _entry in REGISTRY.items():
    gym.register(
        _id,
        entry_point="prefrl.envs.core.scalar:ScalarEnv",
        vector_entry_point="prefrl.envs.core.vector:BatchedEnv",
        max_episode_steps=_entry.max_episode_steps,
        kwargs={"dynamics": _entry.dynamics},
    )


gym.register("prefrl/Distracted-v0", entry_point="prefrl.envs.wrappers.distractors:make_distracted")


def bare_id(env_id: str) -> str:
    """Return an id without the module to import, as in ``prefrl.envs:prefrl/Delivery-v0``."""
    return env_id.removeprefix("prefrl.envs:")


def make_device(
    env_id: str,
    num_envs: int,
    *,
    device: Any = "cpu",
    float_dtype: Any = None,
    generator_device: Any = None,
    compile: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """Make an on-device vector environment: torch tensors in and out, no host copies.

    Rows that end restart in the same step (``AutoresetMode.SAME_STEP``) unless ``autoreset_mode`` says
    otherwise; actions are trusted, since looking at them would wait for the device.

    Args:
        env_id: one of :data:`REGISTRY`, with or without ``prefrl.envs:`` in front.
        num_envs: number of rows.
        device: torch device, or "auto": CUDA where present, else the CPU.
        float_dtype: dtype of rewards and continuous observations (default ``torch.float32``).
        generator_device: where random numbers are drawn (default: on ``device``); see ``TorchBackend``.
        compile: compile the steps ahead of time: faster, after half a minute at the first step; see
            ``TorchBackend``.
        seed: seeds the noise, as in ``reset(seed=...)``.
        **kwargs: ``max_episode_steps``, ``autoreset_mode`` and the environment's own arguments.

    Raises:
        ValueError: if the id is not one of ours, or torch does not know a device.
    """
    from gymnasium.vector import AutoresetMode

    from prefrl.envs.core.device import TorchBackend
    from prefrl.envs.core.vector import BatchedEnv

    if bare_id(env_id) not in REGISTRY:
        raise ValueError(f"env_id is {env_id!r}; on-device environments are {sorted(REGISTRY)}")
    entry = REGISTRY[bare_id(env_id)]
    defaults = {"max_episode_steps": entry.max_episode_steps, "autoreset_mode": AutoresetMode.SAME_STEP}
    backend = TorchBackend(device, float_dtype, generator_device, compile)
    env = BatchedEnv(entry.dynamics, num_envs, backend=backend, **{**defaults, **kwargs})
    if seed is not None:
        env.reset(seed=seed)
    return env


_WRAPPERS = (
    "AgentsAsRows",
    "Distractors",
    "GroupedStarts",
    "ReplaceReward",
    "StockAugmentation",
    "VectorReplaceReward",
    "VectorStockAugmentation",
)


def __getattr__(name: str) -> Any:
    if name in _WRAPPERS:
        return getattr(import_module(".wrappers", __name__), name)
    raise AttributeError(f"module 'prefrl.envs' has no attribute {name!r}")
