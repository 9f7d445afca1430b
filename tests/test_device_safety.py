"""No agent waits for the device, or mixes devices, in ``act``, ``observe`` and ``update``.

No accelerator is needed: torch's backend registration makes up one called "gpu", and under FakeTensorMode
every operation is checked without being computed. A value that the host asks for raises
``DataDependentOutputException``, an operation over two devices ``FakeTensorDeviceMismatchError``, and a copy
to the host :class:`HostCopyError`. What may run on the host (validation, policy sets, planning, the convex
solver) runs on real numbers, and its results are moved in.

The registration holds for the whole process, so this file runs itself in another one:
``python tests/test_device_safety.py`` prints what came of every case, as JSON.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import prefrl.agents
import prefrl.envs
from prefrl.agents.actor_critic.behaviour_cloning import BehaviourCloning
from prefrl.agents.actor_critic.diffusion import chunks
from prefrl.agents.actor_critic.diffusion.chunks import ChunkBatch
from prefrl.agents.actor_critic.diffusion.diffusion_policy import DiffusionPolicy
from prefrl.agents.actor_critic.grouped.policy_gradient import (
    GroupedPolicyGradient,
    GroupedPolicyGradientConfig,
)
from prefrl.agents.actor_critic.iql import IQL
from prefrl.agents.actor_critic.mbpo import MBPO
from prefrl.agents.actor_critic.mbpo_config import MBPOConfig
from prefrl.agents.actor_critic.ppo import PPO, PPOConfig
from prefrl.agents.actor_critic.sac import SAC, SACConfig
from prefrl.agents.actor_critic.sac_learners import SACLearners
from prefrl.agents.allocation.baselines import AllocationBaseline, AllocationBaselineConfig, Resolving
from prefrl.agents.allocation.dual_mirror_descent import DualMirrorDescent, DualMirrorDescentConfig
from prefrl.agents.base import Agent, Spaces
from prefrl.agents.continuous_time.actor_critic import ContinuousActorCritic
from prefrl.agents.continuous_time.evaluation import MartingaleEvaluation
from prefrl.agents.continuous_time.q_learning import ContinuousQLearning
from prefrl.agents.preferences import matrix_self_play
from prefrl.agents.preferences.brain import BRAIn, BRAInConfig
from prefrl.agents.preferences.compared_segments import Pairs
from prefrl.agents.preferences.diffusion.chunks import ComparedChunks
from prefrl.agents.preferences.diffusion.dpo import DiffusionDPO
from prefrl.agents.preferences.diffusion.dro import DiffusionDRO
from prefrl.agents.preferences.diffusion.self_npo import SelfNPO
from prefrl.agents.preferences.games import nash_learning
from prefrl.agents.preferences.games.nash_learning import NashLearning, NashLearningConfig
from prefrl.agents.preferences.heron import Heron, HeronConfig
from prefrl.agents.preferences.iterated_preference_optimization import (
    IteratedPreferenceOptimization,
    IteratedPreferenceOptimizationConfig,
)
from prefrl.agents.preferences.matrix_self_play import MatrixSelfPlay, MatrixSelfPlayConfig
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.agents.preferences.preference_optimization_config import PairLossName
from prefrl.agents.preferences.preference_rl import PreferenceRL, PreferenceRLConfig
from prefrl.agents.preferences.regret import RegretAgent
from prefrl.agents.preferences.search_preferences import SearchPreferences, SearchPreferencesConfig
from prefrl.agents.preferences.uncertain_objective import UncertainObjective, UncertainObjectiveConfig
from prefrl.agents.returns.distributional_dp import DistributionalDP, DistributionalDPConfig
from prefrl.agents.returns.stock_dqn import StockDQN, StockDQNConfig
from prefrl.agents.value_based import dqn
from prefrl.agents.value_based.b_coder import BCoder
from prefrl.agents.value_based.dqn import DQN, DQNConfig
from prefrl.agents.value_based.dqn_learners import DQNLearners
from prefrl.agents.value_based.oreo import OREO, OREOConfig
from prefrl.agents.value_based.q_learning import QLearning, QLearningConfig
from prefrl.agents.value_based.value_iteration import ValueIteration
from prefrl.agents.value_based.whole_episodes import Episodes
from prefrl.data import Preferences, Segments, TransitionDataset, Transitions
from prefrl.data.devices import make_generator
from prefrl.data.replay import Batch
from prefrl.envs.allocation.hindsight import Optimum
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.vector import BatchedEnv
from prefrl.envs.diffusions.riccati import LinearPolicy
from prefrl.envs.grids.delivery import DeliveryDynamics
from prefrl.envs.grids.random_grid import RandomGridDynamics
from prefrl.envs.wrappers import AgentsAsRows, GroupedStarts
from prefrl.envs.wrappers.simulator_states import with_simulator_states
from prefrl.envs.wrappers.stock import StockAugmentation, VectorStockAugmentation
from prefrl.functional.preferences.games import cycle_of_three
from prefrl.nn import ensemble
from prefrl.nn.stochastic.units import GatedMLP
from prefrl.nn.update import GraphedStep
from prefrl.preferences import (
    Answerer,
    PartialReturn,
    Questions,
    RewardModelConfig,
    ask_teacher,
    reward_fit,
)
from prefrl.preferences.general_models import (
    GPMNetworkConfig,
    PALNetworkConfig,
    ThurstoneNetworkConfig,
    make_reward_model,
)
from prefrl.preferences.reward_fit import RegretConfig, RewardFit
from prefrl.run.stepping import Stepper
from prefrl.tabular import BackwardInduction, FiniteHorizon, StockLattice, TabularMDP
from prefrl.tabular.tree_search import DeterministicModel
from tests.shared.spots import HEIGHT, WIDTH, Spots

DEVICE = "gpu"


class HostCopyError(RuntimeError):
    """A tensor was copied from the accelerator to the host."""


class NoHostCopies(TorchDispatchMode):
    """Raises :class:`HostCopyError` where FakeTensorMode lets a copy to the host pass."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        if DEVICE in given and "cpu" in made:
            raise HostCopyError(f"{func} copied from the accelerator to the host")
        return result


class NoHostTensors(TorchDispatchMode):
    """Raises :class:`HostCopyError` where a tensor of the host is read: no CUDA graph may copy from there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if "cpu" in given:
            raise HostCopyError(f"{func} reads the host's memory while a graph is recorded")
        return func(*args, **(kwargs or {}))


def on_host(device: torch.device, seed: int) -> torch.Generator:
    """A CPU generator: the made-up accelerator has none."""
    assert device.type == DEVICE
    return make_generator(torch.device("cpu"), seed)


# Cases -------------------------------------------------------------------------------------------------
# Each makes an agent on the accelerator, and returns a function that takes one full step with it.

Step = Callable[[], dict[str, Tensor]]
Case = Callable[[FakeTensorMode], Step]


def q_learning_case(kind: type[QLearning] = QLearning, lottery: bool = False, mode: str = "NextStep") -> Case:
    """Q-learning in an environment on the accelerator, stepped as the training loop steps it."""

    def make(_: FakeTensorMode) -> Step:
        backend = TorchBackend(DEVICE, generator_device="cpu")
        settings: dict[str, Any] = {"backend": backend, "autoreset_mode": mode, "max_episode_steps": 5}
        if lottery:
            env: Any = BatchedEnv(RandomGridDynamics, 16, layout_seed=1, stochastic=True, **settings)
        else:
            env = BatchedEnv(DeliveryDynamics, 16, **settings)
        agent = kind(env, QLearningConfig(), device=DEVICE)
        stepper = Stepper.of_agent(agent)
        stepper.reset()

        def step() -> dict[str, Tensor]:
            stepper.step()
            return agent.update()

        return step

    return make


def allocation_case(
    env_id: str = "prefrl/NetworkRevenue-v0", mode: str = "SameStep", kind: str | None = None, **config: Any
) -> Case:
    """A policy of dual prices in an environment on the accelerator."""

    def make(_: FakeTensorMode) -> Step:
        place: dict[str, Any] = {"device": DEVICE, "generator_device": "cpu", "autoreset_mode": mode}
        env = prefrl.envs.make_device(env_id, 16, horizon=8, **place)
        # What these are on the host is a matter of the set-up, and of distributions without a closed form.
        env.fluid_optimum = lambda: Optimum(1.0, np.full(5, 0.5))
        env.fluid_price = lambda rho: rho * 1.0
        agent: DualMirrorDescent | AllocationBaseline
        if kind is None:
            agent = DualMirrorDescent(env, DualMirrorDescentConfig(**config), device=DEVICE)
        else:
            settings: Any = {"kind": kind, **config}
            with mock.patch.object(Resolving, "initial_price", return_value=np.zeros(5)):
                agent = AllocationBaseline(env, AllocationBaselineConfig(**settings), device=DEVICE)
        stepper = Stepper.of_agent(agent)
        stepper.reset()

        def step() -> dict[str, Tensor]:
            stepper.step()
            return agent.update()

        return step

    return make


@contextmanager
def real_numbers() -> Iterator[None]:
    """Leave the fake mode for a while."""
    with _disable_current_modes():
        yield


def fake(mode: FakeTensorMode, tensor: Tensor, device: str) -> Tensor:
    """A fake tensor of the same shape on a device."""
    copy = mode.from_tensor(tensor)
    return copy if device == "cpu" else copy.to(device)


def fake_preferences(mode: FakeTensorMode, preferences: Preferences) -> Preferences:
    """The comparisons as fake tensors on the host: moving them over is the agent's task."""
    sides = {}
    for name in ("first", "second"):
        side = getattr(preferences, name)
        sides[name] = side._map(lambda tensor: fake(mode, tensor, "cpu"))
    return Preferences(
        **sides,
        **{
            name: fake(mode, getattr(preferences, name), "cpu")
            for name in ("labels", "weights", "annotators")
        },
    )


def value_iteration_case(mode: FakeTensorMode) -> Step:
    """Sweeps over a model that was read on the host."""
    agent = ValueIteration(gym.make("prefrl/RandomGrid-v0", layout_seed=1), device=DEVICE)
    obs = torch.zeros(7, dtype=torch.int64, device=DEVICE)

    def step() -> dict[str, Tensor]:
        agent.act(obs)
        agent.act(obs, deterministic=True)
        return agent.update()

    return step


def regret_case(lottery: bool = False, **settings: Any) -> Case:
    """An agent whose host-side set-up was done before, on real numbers."""
    config = RegretConfig(steps_per_update=2, max_policies=5, hidden=(8,), **settings)

    def make(mode: FakeTensorMode) -> Step:
        with real_numbers():
            env = gym.make("prefrl/RandomGrid-v0", layout_seed=1, stochastic=lottery)
            real = TabularMDP.from_env(env)
            answers = ask_teacher(real, 20, model=PartialReturn(), length=(2, 4))
            policies = RewardFit(real, [answers], config).policies
            tables = policies.tables(real) if policies else ([], [])
        done_before = {
            "check_comparisons": lambda mdps, preferences: None,
            "build_policy_set": lambda mdps, *_, **__: Prepared(mode, tables, mdps),
            "logistic_regression": lambda inputs, *_, **__: inputs.new_zeros(len(inputs), inputs.shape[-1]),
        }
        with mock.patch.multiple(reward_fit, **done_before):
            agent = RegretAgent(env, config, fake_preferences(mode, answers), device=DEVICE)
            agent.update()  # the convex fit is solved at the first update
        obs = torch.zeros(7, dtype=torch.int64, device=DEVICE)
        flags = torch.zeros(7, dtype=torch.bool, device=DEVICE)

        def step() -> dict[str, Tensor]:
            agent._planned = True  # planning is the host's
            actions = agent.act(obs)
            agent.act(obs, deterministic=True)
            agent.observe(Transitions(obs, actions, flags.float(), obs, flags, flags, ~flags))
            return agent.update()

        return step

    return make


class Prepared:
    """The tables of a policy set that was built on real numbers, moved to the accelerator."""

    def __init__(self, mode: FakeTensorMode, tables: Sequence[list[Tensor]], mdps: TabularMDP) -> None:
        assert mdps.device.type == DEVICE
        self._moved = [[fake(mode, table, DEVICE) for table in part] for part in tables]

    def tables(self, mdps: TabularMDP) -> list[list[Tensor]]:
        return self._moved


SHARED: dict[str, Any] = {"learning_starts": 0, "train_freq": 16, "batch_size": 5, "hidden": (8,)}
DQN_SETTINGS: dict[str, Any] = {**SHARED, "target_update_interval": 1}


def learned(agent: DQN) -> dict[str, Tensor]:
    """The metrics of an update that took gradient steps."""
    metrics = agent.update()
    assert "train/loss" in metrics
    return metrics


def dqn_case(mode: str = "NextStep", kind: type[DQN] = DQN, **settings: Any) -> Case:
    """Deep Q-learning in an environment on the accelerator, stepped as the training loop steps it."""

    def make(_: FakeTensorMode) -> Step:
        backend = TorchBackend(DEVICE, generator_device="cpu")
        env = BatchedEnv(DeliveryDynamics, 16, backend=backend, autoreset_mode=mode, max_episode_steps=5)
        agent = kind(env, DQNConfig(**{**DQN_SETTINGS, **settings}), device=DEVICE)
        stepper = Stepper.of_agent(agent)
        stepper.reset()

        def step() -> dict[str, Tensor]:
            stepper.step()
            agent.num_timesteps += stepper.num_envs
            agent.act(stepper.obs, deterministic=True)
            return learned(agent)

        return step

    return make


LINEAR = (-0.5, -0.5, 0.1)


def diffusion_case(
    kind: type[MartingaleEvaluation | ContinuousActorCritic | ContinuousQLearning],
    env_id: str = "LQErgodic",
    mode: str = "SameStep",
    policy: Any = None,
    **config: Any,
) -> Case:
    """An agent of continuous time in a diffusion on the accelerator; two steps are an episode."""

    def make(_: FakeTensorMode) -> Step:
        place: dict[str, Any] = {"device": DEVICE, "generator_device": "cpu", "autoreset_mode": mode}
        limit = (
            {}
            if env_id in ("BrownianSquare", "BlackScholesCall", "MeanVariance")
            else {"max_episode_steps": 3}
        )
        env = prefrl.envs.make_device(f"prefrl/{env_id}-v0", 16, dt=0.5, **place, **limit)
        settings = kind.config_class(**config)
        given = {"policy": policy and LinearPolicy(*policy)} if kind is MartingaleEvaluation else {}
        agent = kind(env, settings, device=DEVICE, **given)
        stepper = Stepper.of_agent(agent)
        stepper.reset()
        metrics: dict[str, Tensor] = {}

        def step() -> dict[str, Tensor]:
            stepper.step()
            metrics.update(agent.update())  # not every update reports
            obs = stepper.obs
            agent.act(obs, deterministic=True)
            return metrics

        return step

    return make


def stock_dqn_case(kind: type[StockDQN] = StockDQN, mode: str = "SameStep", **settings: Any) -> Case:
    """Deep Q-learning with a stock, in an environment on the accelerator."""

    def make(_: FakeTensorMode) -> Step:
        env = prefrl.envs.make_device(
            "prefrl/RiskyCliff-v0", 16, device=DEVICE, generator_device="cpu", autoreset_mode=mode, horizon=4
        )
        config = StockDQNConfig(**{**SHARED, "target_update_gradient_steps": 1, **settings})
        frozen = config.use_of_stock == "frozen"
        agent = kind(
            VectorStockAugmentation(env, stock_range=(-9.0, 9.0), frozen=frozen), config, device=DEVICE
        )
        stepper = Stepper.of_agent(agent)
        stepper.reset()

        def step() -> dict[str, Tensor]:
            stepper.step()
            agent.num_timesteps += stepper.num_envs
            agent.act(stepper.obs, deterministic=True)
            agent.scores(stepper.obs["obs"], torch.zeros(3, device=DEVICE))
            metrics = agent.update()
            assert "train/loss" in metrics
            return metrics

        return step

    return make


LEARNER = DQNConfig(**{**DQN_SETTINGS, "hidden": (8,), "buffer_size": 4000})
OUR_PPO = PPOConfig(hidden=(8,), n_steps=3, batch_size=20, n_epochs=2)


def preference_rl_case(
    learner: Any = LEARNER, env_id: str = "prefrl/CartPole-v0", reward: Mapping[str, Any] | None = None,
    kind: type[RewardModelConfig] = RewardModelConfig, **settings: Any,
) -> Case:  # fmt: skip
    """Preference RL over deep Q-learning, or another learner: every step asks, fits and relabels."""

    def make(_: FakeTensorMode) -> Step:
        env = prefrl.envs.make_device(env_id, 16, device=DEVICE, generator_device="cpu", max_episode_steps=5)
        model = kind(members=2, hidden=(8,), epochs=2, batch_size=4, **(reward or {}))
        schedule = {"first_session": 1, "session_every": 16, "first_labels": 6, "session_labels": 5}
        config = PreferenceRLConfig(learner, model, segment_length=3, **{**schedule, **settings})
        return stepped(PreferenceRL(env, config, device=DEVICE))

    return make


def taught_case(_: FakeTensorMode) -> Step:
    """Preference RL with a teacher in Python, who looks at the states of the simulator."""

    class ByStates(Answerer):
        needs_states = True

        def ask(self, questions: Questions) -> Preferences:
            first, second = questions.first.states, questions.second.states
            assert first is not None
            assert second is not None
            return questions.answered((second[:, -1, 0] > first[:, -1, 0]).to(torch.float64))

    env = prefrl.envs.make_device("prefrl/CartPole-v0", 16, device=DEVICE, generator_device="cpu",
                                  max_episode_steps=5)  # fmt: skip
    config = PreferenceRLConfig(
        LEARNER, RewardModelConfig(members=2, hidden=(8,), epochs=2, batch_size=4), segment_length=3,
        first_session=1, session_every=16, first_labels=6, session_labels=5,
    )  # fmt: skip
    return stepped(PreferenceRL(with_simulator_states(env), config, teacher=ByStates(), device=DEVICE))


FEW: dict[str, Any] = {"hidden": (8,), "epochs": 2, "batch_size": 4}


def segment_model_case(config: RewardModelConfig) -> Case:
    """A general preference model of segments: every step fits it, and asks what it believes."""

    def make(_: FakeTensorMode) -> Step:
        spaces = gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Discrete(2)
        model = make_reward_model(*spaces, config, device=DEVICE)
        with torch.device(DEVICE):
            sides = [
                Segments(torch.rand(6, 5, 3), torch.zeros(6, 4, dtype=torch.int64), torch.full((6,), 4),
                         torch.zeros(6, dtype=torch.bool)) for _ in range(2)
            ]  # fmt: skip
            who = torch.zeros(6, dtype=torch.int64)
            labels = torch.rand(6, dtype=torch.float64)
            answers = Preferences(*sides, labels, torch.ones_like(labels), who, ("one", "other"))

        def step() -> dict[str, Tensor]:
            return {**model.fit(answers), "right": model.accuracy(answers),
                    "won": model.win_rates(sides[0], sides[1]).mean()}  # fmt: skip

        return step

    return make


def heron_case(**settings: Any) -> Case:
    """HERON over deep Q-learning, every crossing of a grid a row: every step compares, fits and relabels."""

    def make(_: FakeTensorMode) -> Step:
        env = prefrl.envs.make_device(
            "prefrl/TrafficGrid-v0", 4, device=DEVICE, generator_device="cpu", max_episode_steps=5
        )
        reward = RewardModelConfig(members=1, hidden=(8,), use_features=True, bootstrap=False)
        fits = {"first_fit": 1, "fit_every": 16, "batches": 2, "batch_size": 4}
        config = HeronConfig(**{"learner": LEARNER, "reward": reward, **fits, **settings})
        return stepped(Heron(AgentsAsRows(env), config, device=DEVICE))

    return make


def stepped(agent: Agent) -> Step:
    """Steps as the training loop takes them, of an agent with a policy learner.

    Whether there is something to ask about is asked of the device before each fit, which is left out.
    """
    stepper = Stepper.of_agent(agent)
    stepper.reset()

    def step() -> dict[str, Tensor]:
        stepper.step()
        agent.num_timesteps += stepper.num_envs
        agent.act(stepper.obs, deterministic=True)
        with mock.patch.object(sys.modules[type(agent).__module__], "asked", return_value=True, create=True):
            return agent.update()

    return step


BOX_SETTINGS: dict[str, Any] = {"hidden": (8,), "batch_size": 5, "learning_starts": 16, "buffer_size": 800}


def box_env(mode: str = "SameStep", num_envs: int = 16) -> Any:
    """Pendulums on the accelerator."""
    return prefrl.envs.make_device(
        "prefrl/Pendulum-v0", num_envs, device=DEVICE, generator_device="cpu", max_episode_steps=5,
        autoreset_mode=mode,
    )  # fmt: skip


def sac_case(mode: str = "SameStep", **settings: Any) -> Case:
    """Soft actor-critic on the accelerator: every step of sixteen rows takes two gradient steps."""

    def make(_: FakeTensorMode) -> Step:
        agent = SAC(box_env(mode), SACConfig(**{**BOX_SETTINGS, "train_freq": 8, **settings}), device=DEVICE)
        return box_steps(agent)

    return make


def sac_learners_case(**settings: Any) -> Case:
    """Several soft actor-critics on the accelerator."""

    def make(_: FakeTensorMode) -> Step:
        env = prefrl.envs.make_device("prefrl/Pendulum-v0", 8, device=DEVICE, generator_device="cpu",
                                      max_episode_steps=5, num_streams=2)  # fmt: skip
        config = SACConfig(**{**BOX_SETTINGS, "learning_starts": 4, **settings})
        agent = SACLearners(env, config, num_learners=2, device=DEVICE)
        return box_steps(agent)

    return make


def ppo_case(
    env_id: str = "prefrl/CartPole-v0", mode: str = "SameStep", learners: int = 1, kind: type[PPO] = PPO,
    **settings: Any,
) -> Case:  # fmt: skip
    """Proximal policy optimisation on the accelerator, of one learner or several: a rollout, its update."""

    def make(_: FakeTensorMode) -> Step:
        streams = {"num_streams": learners} if learners > 1 else {}
        env = prefrl.envs.make_device(env_id, 4 * learners, device=DEVICE, generator_device="cpu",
                                      max_episode_steps=3, autoreset_mode=mode, **streams)  # fmt: skip
        return ppo_steps(env, kind, learners, settings)

    return make


def ppo_groups_case(kind: str, learners: int = 1, **settings: Any) -> Case:
    """The same with advantages of groups that start alike."""

    def make(_: FakeTensorMode) -> Step:
        streams = {"num_streams": learners} if learners > 1 else {}
        env = prefrl.envs.make_device("prefrl/CartPole-v0", 4 * learners, device=DEVICE,
                                      generator_device="cpu", max_episode_steps=3,
                                      autoreset_mode="Disabled", **streams)  # fmt: skip
        given = {"advantage": kind, "group_size": 2, "normalize_rewards": False, **settings}
        return ppo_steps(GroupedStarts(env, 2), PPO, learners, given)

    return make


def gradient_case(advantage: str, kind: type[GroupedPolicyGradient] = GroupedPolicyGradient,
                  **settings: Any) -> Case:  # fmt: skip
    """A policy gradient from sequences, which are checked on the host, on real numbers."""
    spaces = Spaces(gym.spaces.Discrete(5), gym.spaces.Discrete(3, start=1))

    def make(mode: FakeTensorMode) -> Step:
        given = {"hidden": (8,), "batch_size": 2, "group_size": 3, "success_returns": (0.0, 1.0), **settings}
        config = GroupedPolicyGradientConfig(advantage=advantage, **given)  # type: ignore[arg-type]
        agent = kind(spaces, config, device=DEVICE)
        with real_numbers():
            places, there = torch.arange(6).view(3, 2), torch.ones(3, 2, dtype=torch.bool)
            scores = torch.randn(6, dtype=torch.float64)
        given_parts = (fake(mode, value, "cpu") for value in (scores, places, there))
        agent._take(fake_segments(mode, 6, False), *given_parts)
        return acting_and_learning(agent, False)

    return make


class GradientAsksTheDevice(GroupedPolicyGradient):
    """Wrong: looks whether the draws are within the group."""

    def _drawn(self, rows: Tensor, probs: Tensor) -> Tensor:
        assert bool((probs >= 0.0).all())
        return super()._drawn(rows, probs)


class GatedTorso(GatedMLP):
    """Likewise; what could be skipped on the CPU is not here."""

    def __init__(self, numbers: int = 400) -> None:
        super().__init__(numbers, (8,), 4, skip=True)
        self.numbers = numbers

    def __deepcopy__(self, memo: Any) -> GatedTorso:
        return GatedTorso(self.numbers)


def ppo_steps(
    env: Any, kind: type[PPO], learners: int, settings: dict[str, Any], torso: nn.Module | None = None
) -> Step:
    config = PPOConfig(**{"hidden": (8,), "n_steps": 5, "batch_size": 6, "n_epochs": 2, **settings})
    agent = kind(env, config, num_learners=learners, torso=torso, device=DEVICE)
    stepper = Stepper.of_agent(agent)
    stepper.reset()

    def step() -> dict[str, Tensor]:
        for _ in range(5):
            stepper.step()
            agent.num_timesteps += 4
        agent.act(stepper.obs, deterministic=True)
        stepper.reset()  # cuts the rollout that is full
        metrics = agent.update()
        assert "train/loss" in metrics
        return metrics

    return step


def dqn_learners_case(env_id: str = "prefrl/CartPole-v0", **settings: Any) -> Case:
    """Several deep Q-learners on the accelerator."""

    def make(_: FakeTensorMode) -> Step:
        env = prefrl.envs.make_device(env_id, 16, device=DEVICE, generator_device="cpu", num_streams=2)
        config = DQNConfig(**{**DQN_SETTINGS, **settings})
        agent = DQNLearners(env, config, num_learners=2, device=DEVICE)
        stepper = Stepper.of_agent(agent)
        stepper.reset()

        def step() -> dict[str, Tensor]:
            for _ in range(2):
                stepper.step()
                agent.num_timesteps += 8
            agent.act(stepper.obs, deterministic=True)
            metrics = agent.update()
            assert "train/loss" in metrics
            return metrics

        return step

    return make


class ManySwitches(DeliveryDynamics):
    """The grid with a MultiDiscrete action, of which the first number counts."""

    @property
    def single_action_space(self) -> Any:
        return gym.spaces.MultiDiscrete([4, 3])

    @single_action_space.setter
    def single_action_space(self, value: Any) -> None:
        pass

    def step(self, state: Any, actions: Any, noise: Any) -> Any:
        return super().step(state, actions[:, 0], noise)


def ppo_switches_case(**settings: Any) -> Case:
    """Proximal policy optimisation of several choices at once."""

    def make(_: FakeTensorMode) -> Step:
        backend = TorchBackend(DEVICE, generator_device="cpu")
        env = BatchedEnv(ManySwitches, 8, backend=backend, max_episode_steps=3, num_streams=2)
        return ppo_steps(env, PPO, 2, settings)

    return make


def ppo_picture_case(
    kind: str = "bytes", learners: int = 1, torso: Callable[[int], nn.Module] | None = None, **settings: Any
) -> Case:
    """Proximal policy optimisation from small pictures, by a convolution of ours or a given torso."""

    def make(_: FakeTensorMode) -> Step:
        backend = TorchBackend(DEVICE, generator_device="cpu")
        streams = {"num_streams": learners} if learners > 1 else {}
        env = BatchedEnv(Spots, 4 * learners, kind=kind, backend=backend, max_episode_steps=3, **streams)
        with torch.device(DEVICE):  # whose modules cannot be moved there
            given = None if torso is None else torso(HEIGHT * WIDTH)
        return ppo_steps(env, PPO, learners, settings, given)

    return make


class BCoderAsksTheDevice(BCoder):
    """Wrong: it looks whether a batch holds experts."""

    def _loss(self, network: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.stage == 2 and float(batch.extras["expert"].sum()) == 0.0:
            return network.residual(batch.obs[None]).sum(), {}
        return super()._loss(network, batch)


class IQLAsksTheDevice(IQL):
    """Wrong: it looks whether the losses are finite."""

    def update(self) -> dict[str, Tensor]:
        metrics = super().update()
        return metrics if bool(metrics["train/loss"].isfinite()) else {}


class PPOAsksTheDevice(PPO):
    """Wrong: it warns of learners that diverged in every update."""

    def update(self) -> dict[str, Tensor]:
        self.check()
        return super().update()


class PPOMixesDevices(PPO):
    """Wrong: its advantages come from the host."""

    def advantages(self, steps: Any, values: Tensor, next_values: Tensor) -> Tensor:
        return values + torch.zeros(values.shape, device="cpu")


def mbpo_case(kind: type[MBPO] = MBPO, **settings: Any) -> Case:
    """MBPO on the accelerator: every step fits, imagines, looks at the critics and improves the policy.

    A fit asks once per epoch whether to go on, which is left out. Few environments, and diagnostics once in
    three steps, since every timestep is a gradient step and operations take their time here.
    """
    small = {"model_hidden": (8, 8), "model_batch_size": 2, "max_fit_steps": 3, "updates_per_step": 1,
             "refit_every": 1, "epoch_timesteps": 4, "rollouts_per_step": 11, "diagnostics_every": 6,
             "diagnostics_states": 6, "rollout_schedule": (0, 1, 2, 2), "ensemble_size": 3, "elites": 2,
             "value_gradient_warmup": 0, "learning_starts": 4}  # fmt: skip

    def make(_: FakeTensorMode) -> Step:
        agent = kind(box_env(num_envs=2), MBPOConfig(**{**BOX_SETTINGS, **small, **settings}), device=DEVICE)
        step = box_steps(agent)

        def patched() -> dict[str, Tensor]:
            with mock.patch.object(ensemble, "asked", return_value=False):
                return step()

        return patched

    return make


def box_steps(agent: SAC | SACLearners | MBPO) -> Step:
    """Steps as the training loop takes them; the second one learns."""
    stepper = Stepper.of_agent(agent)
    stepper.reset()

    def step() -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        for _ in range(3):
            stepper.step()
            agent.num_timesteps += stepper.num_envs // agent.num_learners
            agent.act(stepper.obs, deterministic=True)
            metrics |= agent.update()
        assert "train/critic_loss" in metrics
        assert not isinstance(agent, MBPO) or {"model/loss", "model/rmse"} <= metrics.keys()
        return metrics

    return step


class MBPOAsksTheDevice(MBPO):
    """Wrong: it looks whether a rollout is over."""

    def _roll_out(self, count: int, length: int) -> Tensor:
        done = super()._roll_out(count, length)
        return done if bool(done[0] > 0.0) else torch.zeros_like(done)


def matrix_case(mode: str) -> Case:
    """Self-play on a matrix, which was checked on real numbers."""

    def make(fake_mode: FakeTensorMode) -> Step:
        with real_numbers():
            matrix = cycle_of_three(1.0, 0.5, 0.2)
        settings: Any = {"mode": mode, "fit_every": 1}
        with mock.patch.object(matrix_self_play, "check_preference_matrix", lambda values: values):
            agent = MatrixSelfPlay(
                None, MatrixSelfPlayConfig(**settings), matrix=fake(fake_mode, matrix, "cpu"), device=DEVICE
            )
        obs = torch.zeros(7, dtype=torch.int64, device=DEVICE)

        def step() -> dict[str, Tensor]:
            agent.act(obs)
            return agent.update()

        return step

    return make


def nash_case(solver: Any, beta: float = 0.1, **settings: Any) -> Case:
    """A solver on the sequences of a tree, whose matrices were checked on real numbers."""

    def make(fake_mode: FakeTensorMode) -> Step:
        with real_numbers():
            env = gym.make("prefrl/TokenTree-v0", vocabulary=2, depth=2)
            games = torch.as_tensor(env.unwrapped.preference_matrix()) - 0.5  # type: ignore[attr-defined]
        config = NashLearningConfig(solver=solver, beta=beta, step_size=0.3, **settings)
        with mock.patch.object(nash_learning, "_games", return_value=fake(fake_mode, games, "cpu")):
            agent = NashLearning(env, config, device=DEVICE)
        obs = torch.zeros(5, dtype=torch.int64, device=DEVICE)

        def step() -> dict[str, Tensor]:
            agent.act(obs)
            agent.act(obs, deterministic=True)
            return agent.update()

        return step

    return make


def uncertain_case(mode: FakeTensorMode) -> Step:
    """An agent of two trained members that falls back where they disagree."""
    spaces = Spaces(gym.spaces.Box(-1.0, 1.0, (4,)), gym.spaces.Discrete(2))
    members = [DQN(spaces, DQNConfig(hidden=(8,)), device=DEVICE, seed=seed) for seed in range(2)]
    settings: Any = {"agreement": 0.9, "fallback": 1, "choice": "approval"}
    agent = UncertainObjective(config=UncertainObjectiveConfig(**settings), members=members, device=DEVICE)
    obs = torch.zeros(5, 4, device=DEVICE)

    def step() -> dict[str, Tensor]:
        return {"actions": agent.act(obs), "approval": agent.approval(obs), "abstains": agent.abstains(obs)}

    return step


def moved(mode: FakeTensorMode, value: Any) -> Any:
    """A copy of an object of the exact solver with its tensors on the accelerator."""
    if isinstance(value, Tensor):
        return fake(mode, value, DEVICE)
    if isinstance(value, list):
        return [moved(mode, part) for part in value]
    if isinstance(value, (TabularMDP, FiniteHorizon, StockLattice, BackwardInduction)):
        twin = copy.copy(value)
        for name, part in vars(value).items():
            object.__setattr__(twin, name, moved(mode, part))
        return twin
    return value


def distributional_dp_case(env_id: str = "prefrl/RiskyCliff-v0", **settings: Any) -> Case:
    """Stages of the exact solver; what can be reached was listed before, on real numbers."""

    def make(mode: FakeTensorMode) -> Step:
        config = DistributionalDPConfig(**settings)
        with real_numbers():
            key = "reward_vector" if config.takes_vectors else None
            env = StockAugmentation(gym.make(env_id, horizon=9), reward_key=key)
            agent = DistributionalDP(env, config, device="cpu")
            done = DistributionalDP(env, config, device="cpu")
            done.learn(done.stages_left)
        agent._induction = moved(mode, agent._induction)
        agent.device = torch.device(DEVICE)
        assert done._table is not None
        table = done._table
        agent._table = type(table)(*(fake(mode, part, DEVICE) for part in vars(table).values()))
        size = done.observation_space["stock"].shape[0]
        columns = table.coordinates.shape[1] + 1
        obs = {"obs": torch.rand(7, columns, device=DEVICE),
               "stock": torch.zeros(7, size, dtype=torch.float64, device=DEVICE)}  # fmt: skip

        def step() -> dict[str, Tensor]:
            agent.act(obs)
            return agent.update()

        return step

    return make


class GivenTorso(nn.Sequential):
    """A network of a user, whose copy is made anew: that of a fake tensor has a mode of its own."""

    def __init__(self, numbers: int = 400) -> None:
        super().__init__(nn.Flatten(), nn.Linear(numbers, 5))
        self.numbers = numbers

    def __deepcopy__(self, memo: Any) -> GivenTorso:
        return GivenTorso(self.numbers)


def dqn_picture_case(
    shape: tuple[int, ...] = (10, 10, 4), torso: Callable[[], nn.Module] | None = None, **settings: Any
) -> Case:
    """Deep Q-learning from pictures, by a convolution of ours or a given torso."""

    def make(_: FakeTensorMode) -> Step:
        spaces = Spaces(gym.spaces.Box(0, 255, shape, np.uint8), gym.spaces.Discrete(3, start=1))
        with torch.device(DEVICE):  # whose modules cannot be moved there
            given = None if torso is None else torso()
        agent = DQN(spaces, DQNConfig(**{**DQN_SETTINGS, **settings}), torso=given, device=DEVICE)
        obs = torch.zeros(7, *shape, dtype=torch.uint8, device=DEVICE)
        flags = torch.zeros(7, dtype=torch.bool, device=DEVICE)

        def step() -> dict[str, Tensor]:
            actions = agent.act(obs)
            agent.act(obs, deterministic=True)
            agent.observe(Transitions(obs, actions, flags.float(), obs, flags, flags, ~flags))
            agent.num_timesteps += 16
            return learned(agent)

        return step

    return make


def dqn_offline_case(**settings: Any) -> Case:
    """Deep Q-learning from a data set, which is checked on the host, on real numbers."""

    def make(mode: FakeTensorMode) -> Step:
        spaces = Spaces(gym.spaces.Discrete(9), gym.spaces.Discrete(4))
        with real_numbers():
            states, no = torch.arange(9), torch.zeros(9, dtype=torch.bool)
            data = TransitionDataset.from_transitions(
                states, states % 4, states.float(), (states + 1) % 9, no, no,
                observation_space=spaces.single_observation_space, action_space=spaces.single_action_space,
            )  # fmt: skip
        config = DQNConfig(**{**DQN_SETTINGS, **settings})
        with mock.patch.object(DQN, "_check_dataset", return_value=None):
            agent = DQN(spaces, config, dataset=moved_data(mode, data), device=DEVICE)
        return lambda: learned(agent)

    return make


def offline_case(
    kind: type[BehaviourCloning | DiffusionPolicy | IQL | BCoder], box: bool = True, **settings: Any
) -> Case:
    """An agent with a policy that learns from a data set, which is checked on the host, on real numbers."""
    actions: Any = gym.spaces.Box(-2.0, 3.0, (2,)) if box else gym.spaces.Discrete(3, start=1)
    spaces = Spaces(gym.spaces.Box(-9.0, 9.0, (4,)) if box else gym.spaces.Discrete(5), actions)

    def make(mode: FakeTensorMode) -> Step:
        with real_numbers():
            states = torch.randn(10, 4) if box else torch.arange(10) % 5
            taken = torch.rand(9, 2) if box else torch.arange(9) % 3 + 1
            no = torch.zeros(9, dtype=torch.bool)
            data = TransitionDataset.from_transitions(
                states[:-1], taken, torch.arange(9.0), states[1:], no, no,
                observation_space=spaces.single_observation_space, action_space=spaces.single_action_space,
            )  # fmt: skip
            starts = fake(mode, torch.arange(8), "cpu")  # where chunks begin is worked out on the host
        with mock.patch.object(chunks, "chunk_starts", return_value=starts):
            agent = kind(spaces, kind.config_class(**{"hidden": (8,), "batch_size": 5, **settings}),
                         dataset=moved_data(mode, data), device=DEVICE)  # fmt: skip
        obs = (torch.zeros(7, 4) if box else torch.zeros(7, dtype=torch.int64)).to(DEVICE)

        def step() -> dict[str, Tensor]:
            once, no = torch.ones(7, dtype=torch.int64, device=DEVICE), torch.zeros(7, dtype=torch.bool)
            steps = torch.stack([obs, obs], 1), agent.act(obs)[:, None]
            agent.log_prob(Segments(*steps, once, no.to(DEVICE)))
            agent.act(obs, deterministic=True)
            if isinstance(agent, IQL):
                agent.values(obs), agent.q_values(obs, agent.act(obs))
            if isinstance(agent, BCoder):
                # Candidates of one step, whose last observation is terminal; then each stage once.
                candidates = Segments(*steps, once, once.to(torch.bool))
                agent.rerank(candidates), agent.recovered_returns(candidates, "policy")
                agent.update(), agent.update()
                assert agent.stage >= 1
            return agent.update()

        return step

    return make


def tuned_case(kind: type[DiffusionDPO | DiffusionDRO | SelfNPO], **settings: Any) -> Case:
    """A diffusion policy that is cloned in its first step, and tuned in the others."""
    spaces = Spaces(gym.spaces.Box(-9.0, 9.0, (4,)), gym.spaces.Box(-2.0, 3.0, (2,)))

    def make(mode: FakeTensorMode) -> Step:
        config = {"hidden": (8, 8), "batch_size": 4, "cloning_steps": 1, "sampling_steps": 3, **settings}
        agent = kind(spaces, kind.config_class(**config), device=DEVICE)
        rows = torch.zeros(6, 4, device=DEVICE), torch.zeros(6, agent.policy.size, device=DEVICE)
        agent._replay = Rows(*rows)
        if isinstance(agent, DiffusionDRO):
            agent._experts = ChunkBatch(*rows)
        if isinstance(agent, DiffusionDPO):
            ones = torch.ones(3, 2, 2, device=DEVICE)
            sides = (
                ones[..., None].expand(-1, -1, -1, 4),
                ones[..., None].expand(-1, -1, -1, agent.policy.size),
            )
            of_pairs = [ones[:, 0, 0]] * 3
            agent._pairs = ComparedChunks(*sides, ones.to(torch.bool), *of_pairs)

        def step() -> dict[str, Tensor]:
            metrics = agent.update()
            agent.act(torch.zeros(7, 4, device=DEVICE))
            agent.act(torch.zeros(7, 4, device=DEVICE), deterministic=True)
            return metrics

        return step

    return make


class Rows(NamedTuple):
    """What chunks are sampled from."""

    obs: Tensor
    chunks: Tensor

    def sample(self, count: int, generator: torch.Generator) -> ChunkBatch:
        rows = torch.arange(count, device=DEVICE) % len(self.obs)
        return ChunkBatch(self.obs[rows], self.chunks[rows])


def fake_segments(mode: FakeTensorMode, count: int, box: bool) -> Segments:
    """Segments of five steps on the host, drawn as real numbers."""
    with real_numbers():
        obs = torch.randn(count, 6, 4) if box else torch.randint(5, (count, 6))
        acted = torch.rand(count, 5, 2) if box else torch.randint(1, 4, (count, 5))
        whole, no = torch.full((count,), 5), torch.zeros(count, dtype=torch.bool)
    return Segments(*(fake(mode, value, "cpu") for value in (obs, acted, whole, no)))


def acting_and_learning(agent: Agent, box: bool) -> Step:
    """Steps of an agent that learns from segments, and acts on nothing but zeros."""
    seen = torch.zeros(7, 4) if box else torch.zeros(7, dtype=torch.int64)

    def step() -> dict[str, Tensor]:
        agent.act(seen.to(DEVICE))
        agent.act(seen.to(DEVICE), deterministic=True)
        return agent.update()

    return step


def compared_case(loss: str, box: bool = True) -> Case:
    """A policy from comparisons, which are checked on the host, on real numbers."""
    actions: Any = gym.spaces.Box(-2.0, 3.0, (2,)) if box else gym.spaces.Discrete(3, start=1)
    spaces = Spaces(gym.spaces.Box(-9.0, 9.0, (4,)) if box else gym.spaces.Discrete(5), actions)

    def make(mode: FakeTensorMode) -> Step:
        every = 2 if loss in PreferenceOptimizationConfig.in_rounds else None
        config = PreferenceOptimizationConfig(loss=loss, hidden=(8,), batch_size=3, cloning_steps=1,
                                              round_steps=every)  # fmt: skip
        agent = PreferenceOptimization(spaces, config, device=DEVICE)
        sides = [fake_segments(mode, 4, box) for _ in range(2)]
        answers = Preferences.from_labels(*sides, torch.full((4,), 0.7, dtype=torch.float64))
        agent.pairs = Pairs.joined([agent._read_pairs(answers)])
        return acting_and_learning(agent, box)

    return make


def iterated_case(env_id: str, **settings: Any) -> Case:
    """A policy that is compared with itself: every step ends a round."""

    def make(_: FakeTensorMode) -> Step:
        env = prefrl.envs.make_device(env_id, 16, device=DEVICE, generator_device="cpu", max_episode_steps=5)
        config = IteratedPreferenceOptimizationConfig(
            hidden=(8,), batch_size=3, segment_length=3, round_timesteps=16, round_pairs=6, round_steps=2,
            **settings,
        )  # fmt: skip
        return stepped(IteratedPreferenceOptimization(env, config, device=DEVICE))

    return make


def searched_case(**settings: Any) -> Case:
    """A policy that learns from searches: the model's tables are checked on the host, on real numbers."""

    def make(mode: FakeTensorMode) -> Step:
        with real_numbers():
            base = DeterministicModel.from_env(prefrl.envs.make_device("prefrl/SparseGrid-v0", 1))
        spaces = Spaces(gym.spaces.Discrete(25), gym.spaces.Discrete(4))
        config = SearchPreferencesConfig(num_roots=4, simulations=5, max_depth=3, round_steps=2, **settings)
        agent = SearchPreferences(spaces, config, device=DEVICE)
        tables = {name: fake(mode, value, DEVICE) for name, value in vars(base).items()}
        agent._base = DeterministicModel(**tables)
        agent.model = agent._base.in_steps_of(config.step_length, config.discount)

        def step() -> dict[str, Tensor]:
            agent.act(torch.zeros(3, dtype=torch.int64, device=DEVICE))
            return agent.update()

        return step

    return make


class BRAInAsksTheDevice(BRAIn):
    """Wrong: looks whether the proposal is a number."""

    def _drawn(self, rows: Tensor, there: Tensor, count: int) -> tuple[Tensor, Tensor]:
        assert bool(self._log_proposal.isfinite().all())
        return super()._drawn(rows, there, count)


def grouped_case(proposal: Any, box: bool = True, kind: type[BRAIn] = BRAIn, **settings: Any) -> Case:
    """A policy from groups of segments, which are checked on the host, on real numbers."""
    actions: Any = gym.spaces.Box(-2.0, 3.0, (2,)) if box else gym.spaces.Discrete(3, start=1)
    spaces = Spaces(gym.spaces.Box(-9.0, 9.0, (4,)) if box else gym.spaces.Discrete(5), actions)

    def make(mode: FakeTensorMode) -> Step:
        config = BRAInConfig(proposal=proposal, hidden=(8,), cloning_steps=1, round_steps=1, batch_size=2,
                             **settings)  # fmt: skip
        agent = kind(spaces, config, device=DEVICE)
        with real_numbers():
            places, there = torch.arange(6).view(3, 2), torch.ones(3, 2, dtype=torch.bool)
            scores = torch.randn(6, dtype=torch.float64)
        agent._take(
            fake_segments(mode, 6, box), *(fake(mode, value, "cpu") for value in (scores, places, there))
        )
        return acting_and_learning(agent, box)

    return make


class OREOAsksTheDevice(OREO):
    """Wrong: looks whether the reference was said already by a number of it."""

    def update(self) -> dict[str, Tensor]:
        assert not bool((self._log_reference > 0.0).any())
        return super().update()


def episodes_case(form: Any, box: bool, kind: type[OREO] = OREO, **settings: Any) -> Case:
    """An agent that learns from whole episodes, which are checked on the host, on real numbers."""
    actions = gym.spaces.Discrete(3, start=1)
    spaces = Spaces(gym.spaces.Box(-9.0, 9.0, (4,)) if box else gym.spaces.Discrete(5), actions)

    def make(mode: FakeTensorMode) -> Step:
        config = OREOConfig(form=form, hidden=(8,), batch_size=2, cloning_steps=1, **settings)
        agent = kind(spaces, config, device=DEVICE)
        with real_numbers():
            states = torch.randn(4, 6, 4) if box else torch.randint(5, (4, 6))
            parts = (states, torch.randint(3, (4, 5)), torch.randn(4, 5), torch.arange(5) < torch.tensor(
                [[5], [2], [3], [5]]), torch.tensor([True, False, True, False]))  # fmt: skip
            model = TabularMDP.from_arrays(np.eye(5)[[[1, 2, 3]] * 5], np.ones((5, 3)))
        agent.episodes = Episodes(*(fake(mode, part, DEVICE) for part in parts))
        if config.beam > 1:
            agent._model = TabularMDP(
                **{name: fake(mode, getattr(model, name), DEVICE) for name in model.__dataclass_fields__}
            )
        return acting_and_learning(agent, box)

    return make


def moved_data(mode: FakeTensorMode, data: TransitionDataset) -> TransitionDataset:
    """A data set of fake tensors on the host: moving them over is the agent's task."""
    moved = copy.copy(data)
    for field in dataclasses.fields(data):
        if isinstance(value := getattr(data, field.name), Tensor):
            object.__setattr__(moved, field.name, fake(mode, value, "cpu"))
    return moved


def compiled(case: Case) -> Case:
    """A case whose agent compiles its gradient step; here the function to be compiled runs as it stands.

    (torch compiles nothing while operations are watched as they are here.)
    """

    def make(mode: FakeTensorMode) -> Step:
        step = case(mode)

        def uncompiled() -> dict[str, Tensor]:
            with mock.patch.object(torch, "compile", lambda function, **_: function):
                return step()

        return uncompiled

    return make


def graphed(case: Case) -> Case:
    """A case whose agent records its gradient step; here the function to be recorded runs as it stands."""

    def make(mode: FakeTensorMode) -> Step:
        def called(step: GraphedStep, *inputs: Tensor) -> Any:
            with NoHostTensors():
                return step._function(*[given.clone() for given in inputs])

        def unrecorded(function: Callable[[], Any]) -> Any:
            with ExitStack() as stack:
                for name in ("nn.update", "agents.value_based.dqn", "agents.actor_critic.sac",
                             "agents.actor_critic.ppo"):  # fmt: skip
                    module = importlib.import_module(f"prefrl.{name}")
                    stack.enter_context(mock.patch.object(module, "check_cuda_graph"))
                stack.enter_context(mock.patch.object(GraphedStep, "__call__", called))
                return function()

        step = unrecorded(lambda: case(mode))
        return lambda: unrecorded(step)

    return make


class AsksTheDevice(QLearning):
    """Wrong: it waits for the device in every update."""

    def update(self) -> dict[str, Tensor]:
        metrics = super().update()
        if metrics["train/td_error"] > 1.0:
            metrics["train/large"] = torch.ones((), device=self.device)
        return metrics


class MixesDevices(QLearning):
    """Wrong: its table is on the device, and what it adds is not."""

    def update(self) -> dict[str, Tensor]:
        metrics = super().update()
        self.q += torch.zeros(self.q.shape, dtype=self.q.dtype, device="cpu")
        return metrics


class CopiesToTheHost(QLearning):
    """Wrong: it copies its table to the host in every update."""

    def update(self) -> dict[str, Tensor]:
        return {**super().update(), "train/largest": self.q.cpu().amax()}


class DQNAsksTheDevice(DQN):
    """Wrong: it looks at how many targets were clamped in every update."""

    def update(self) -> dict[str, Tensor]:
        self.check()
        return super().update()


class DQNReadsTheHost(DQN):
    """Wrong: its gradient step takes a number of the host's memory."""

    def _step_by_hand(self, index: Tensor, newest: Tensor) -> dict[str, Tensor]:
        metrics = super()._step_by_hand(index, newest)
        return {name: value * torch.ones((), device="cpu") for name, value in metrics.items()}


class DQNMixesDevices(DQN):
    """Wrong: its observations come from the host."""

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        return super().act(torch.zeros(len(obs), dtype=torch.int64), deterministic=deterministic)


CASES: dict[str, Case] = {
    "QLearning, next step": q_learning_case(),
    "QLearning, same step": q_learning_case(mode="SameStep"),
    "QLearning, disabled": q_learning_case(mode="Disabled"),
    "QLearning, lottery": q_learning_case(lottery=True),
    **{f"DQN, {loss}": dqn_case(loss=loss) for loss in dqn.LEARNING_RATES},
    "DQN, same step": dqn_case(mode="SameStep"),
    "DQN, disabled": dqn_case(mode="Disabled"),
    "DQN, three steps": dqn_case(n_step=3),
    "DQN, dueling": dqn_case(dueling=True),
    "DQN, bfloat16": dqn_case(loss="huber", precision="bf16"),
    "DQN, a graph": graphed(dqn_case(loss="hl_gauss", n_step=2, cuda_graph=True)),
    "DQN, not double": dqn_case(double=False),
    "DQN, Polyak": dqn_case(tau=0.1),
    "DQN, many gradient steps": dqn_case(gradient_steps=3),
    "DQN, scalar with everything": dqn_case(loss="mse", n_step=3, dueling=True, tau=0.1),
    **{
        f"DQN, {loss}, compiled": compiled(dqn_case(loss=loss, n_step=2, compile=True))
        for loss in dqn.LEARNING_RATES
    },
    "DQN, conservative SARSA, compiled": compiled(
        dqn_offline_case(cql_alpha=0.5, target_policy="sarsa", compile=True)
    ),
    "DQN, convolution": dqn_picture_case(),
    "DQN, convolution and quantiles": dqn_picture_case(loss="quantile", n_step=2),
    "DQN, Nature's convolution": dqn_picture_case((3, 40, 36)),
    "DQN, a given torso": dqn_picture_case(torso=GivenTorso),
    "DQN, offline": dqn_offline_case(),
    "DQN, conservative": dqn_offline_case(cql_alpha=0.5, n_step=2),
    "DQN, SARSA": dqn_offline_case(target_policy="sarsa", n_step=2),
    "DQN, conservative SARSA by C51": dqn_offline_case(loss="c51", cql_alpha=0.5, target_policy="sarsa"),
    "DistributionalDP, CVaR": distributional_dp_case(),
    "DistributionalDP, worst case": distributional_dp_case(objective="worst_case"),
    "DistributionalDP, homeostasis": distributional_dp_case("prefrl/Homeostasis-v0", objective="homeostasis"),
    "StockDQN, CVaR": stock_dqn_case(),
    "StockDQN, next step": stock_dqn_case(mode="NextStep", objective="target_return", target=2.0),
    "StockDQN, disabled": stock_dqn_case(mode="Disabled", objective="worst_case", kappa=0.0, double=False),
    "StockDQN, frozen": stock_dqn_case(use_of_stock="frozen", relabel=False, gradient_steps=2, polyak=0.1),
    "StockDQN, naive": stock_dqn_case(use_of_stock="naive"),
    "StockDQN, probability": stock_dqn_case(objective="target_probability"),
    "StockDQN, compiled": compiled(stock_dqn_case(compile=True)),
    "DualMirrorDescent, Euclidean": allocation_case(),
    "DualMirrorDescent, scaled": allocation_case(reference="scaled_euclidean", mode="NextStep"),
    "DualMirrorDescent, entropy": allocation_case(reference="entropy", mode="Disabled"),
    "DualMirrorDescent, projected": allocation_case(reference="projected_entropy"),
    "DualMirrorDescent, fair": allocation_case(fairness=1.0),
    "DualMirrorDescent, uncertain horizon": allocation_case(earliest_horizon=3),
    "DualMirrorDescent, matching": allocation_case("prefrl/EntropyMatching-v0"),
    "DualMirrorDescent, assortments": allocation_case("prefrl/AssortmentMNL-v0"),
    "AllocationBaseline, greedy": allocation_case(kind="greedy"),
    "AllocationBaseline, PID": allocation_case(kind="pid"),
    "AllocationBaseline, static": allocation_case(kind="static"),
    "AllocationBaseline, re-solving": allocation_case(kind="resolving", resolve_every=1),
    "MartingaleEvaluation, loss": diffusion_case(
        MartingaleEvaluation, "BlackScholesCall", objective="martingale_loss"
    ),
    "MartingaleEvaluation, traces": diffusion_case(
        MartingaleEvaluation, "BrownianSquare", mode="NextStep", lam=0.5
    ),
    "MartingaleEvaluation, least squares": diffusion_case(
        MartingaleEvaluation, policy=LINEAR, objective="clstd", mode="Disabled"
    ),
    "MartingaleEvaluation, GTD2": diffusion_case(MartingaleEvaluation, "OrnsteinUhlenbeck", objective="cgtd"),
    "MartingaleEvaluation, TDC": diffusion_case(
        MartingaleEvaluation, "OrnsteinUhlenbeck", objective="cgtd", correction="tdc", lam=0.5
    ),
    "MartingaleEvaluation, squares": diffusion_case(
        MartingaleEvaluation, "LQPlane", policy=([[0.1, 0.2]], 0.1, 0.1), objective="mstde"
    ),
    "MartingaleEvaluation, network": diffusion_case(
        MartingaleEvaluation, policy=LINEAR, value="neural", hidden=(4,)
    ),
    "ContinuousActorCritic": diffusion_case(ContinuousActorCritic),
    "ContinuousActorCritic, traces": diffusion_case(
        ContinuousActorCritic, "LQPlane", lam=0.5, policy_lam=0.5, discount_policy=True, entropy="closed_form"
    ),
    "ContinuousActorCritic, multiplier": diffusion_case(
        ContinuousActorCritic, "MeanVariance", multiplier_rate=0.1, mode="NextStep"
    ),
    "ContinuousActorCritic, network": diffusion_case(
        ContinuousActorCritic, "MeanVariance", policy="neural", value="neural", hidden=(4,)
    ),
    "ContinuousQLearning": diffusion_case(ContinuousQLearning, "LQDiscounted"),
    "ContinuousQLearning, unknown": diffusion_case(ContinuousQLearning, normalizer="unknown"),
    "PreferenceRL, disagreement": preference_rl_case(),
    "PreferenceRL, entropy": preference_rl_case(query="entropy", pretraining=True, first_session=17),
    "PreferenceRL, recent": preference_rl_case(query="recent"),
    "PreferenceRL, BALD": preference_rl_case(query="bald"),
    "PreferenceRL, variance": preference_rl_case(query="variance"),
    "PreferenceRL, D-optimal": preference_rl_case(query="d_optimal"),
    "PreferenceRL, G-optimal": preference_rl_case(query="g_optimal"),
    "PreferenceRL, expected improvement": preference_rl_case(query="expected_improvement"),
    "PreferenceRL, knowledge gradient": preference_rl_case(query="knowledge_gradient"),
    "PreferenceRL, bfloat16": preference_rl_case(reward={"precision": "bf16"}),
    "PreferenceRL, SAC": preference_rl_case(
        SACConfig(hidden=(8,), learning_starts=8, batch_size=4, buffer_size=4000), "prefrl/Pendulum-v0"
    ),
    "PreferenceRL, PPO": preference_rl_case(OUR_PPO),
    "PreferenceRL, PPO of numbers": preference_rl_case(OUR_PPO, "prefrl/Pendulum-v0"),
    "PreferenceRL, a teacher in Python": taught_case,
    "PreferenceRL, Thurstone": preference_rl_case(kind=ThurstoneNetworkConfig),
    "PreferenceRL, PAL": preference_rl_case(OUR_PPO, kind=PALNetworkConfig, reward={"user": 1}),
    "SegmentModel, GPM": segment_model_case(GPMNetworkConfig(**FEW)),
    "SegmentModel, PAL-A": segment_model_case(PALNetworkConfig(**FEW, form="A")),
    "SegmentModel, PAL-B": segment_model_case(PALNetworkConfig(**FEW, form="B")),
    "Heron, hierarchy": heron_case(),
    "Heron, PPO": heron_case(learner=OUR_PPO),
    "Heron, levels apart": heron_case(level_scale=2.0, spread_of="batch", segment_length=2),
    "Heron, weighted sum": heron_case(reward_source="weighted_sum"),
    "SAC": sac_case(),
    "SAC, next step": sac_case("NextStep", learn_temperature=False, max_grad_norm=1.0),
    "SAC, disabled": sac_case("Disabled", target_update_gradient_steps=2),
    "SAC, spectral": sac_case(critic_regularizer="spectral"),
    "SAC, spectral everywhere": sac_case(critic_regularizer="spectral", spectral_layers="all"),
    "SAC, robust": sac_case(critic_regularizer="robust"),
    "SAC, robust and uniform": sac_case(
        critic_regularizer="robust", robust_attack="uniform", robust_every=2, robust_stop_gradient=True
    ),
    "SAC, robust in steps": sac_case(
        critic_regularizer="robust", robust_attack="multi_step", robust_normalize=False
    ),
    "SAC, compiled": compiled(sac_case(compile=True, max_grad_norm=1.0)),
    "SAC, bfloat16": sac_case(precision="bf16"),
    "SAC, a graph": graphed(sac_case(cuda_graph=True, max_grad_norm=1.0)),
    "SACLearners": sac_learners_case(),
    "SACLearners, settings of each": sac_learners_case(
        gamma=(0.9, 0.5), max_grad_norm=1.0, learn_temperature=False, target_update_gradient_steps=2
    ),
    "DQNLearners": dqn_learners_case(),
    "DQNLearners, two steps": dqn_learners_case(loss="huber", n_step=2, gamma=(0.9, 0.5)),
    "PPO": ppo_case(),
    "PPO, bfloat16": ppo_case(precision="bf16"),
    "PPO, a graph": graphed(
        ppo_case(learners=3, cuda_graph=True, target_kl=0.01, schedule="linear", schedule_timesteps=100)
    ),
    "PPO, next step": ppo_case(mode="NextStep", activation="relu", normalize_rewards=False),
    "PPO, disabled": ppo_case(mode="Disabled", normalize_advantage=False, max_grad_norm=None),
    "PPO, several learners": ppo_case(learners=3, learning_rate=(1e-3, 1e-4, 1e-5), ent_coef=0.1),
    "PPO, numbers": ppo_case("prefrl/Pendulum-v0", clip_range_vf=0.1, normalize_observations=True),
    "PPO, several learners of numbers": ppo_case("prefrl/Pendulum-v0", "NextStep", learners=2),
    "PPO, several choices": ppo_switches_case(),
    "PPO, pictures": ppo_picture_case(target_kl=0.1),
    "PPO, pictures and numbers of several learners": ppo_picture_case(
        "dict", 2, normalize_observations=True, share_torso=False
    ),
    "PPO, a given torso": ppo_picture_case("first", torso=GivenTorso),
    "PPO, a given torso of several learners": ppo_picture_case("bools", 2, torso=GivenTorso),
    "PPO, pictures as numbers": ppo_picture_case("dict", network="mlp"),
    "PPO, with everything": ppo_case(
        "prefrl/RandomGrid-v0",
        learners=2,
        target_kl=0.01,
        normalize_observations=True,
        schedule="linear",
        clip_schedule="linear",
        schedule_timesteps=100,
    ),
    "PPO, groups": ppo_groups_case("grpo"),
    "PPO, groups of several learners": ppo_groups_case("bnpo", 2, success_return=2.0),
    "PPO, a gated torso": ppo_picture_case("first", torso=GatedTorso),
    "DQN, a gated torso": dqn_picture_case(torso=GatedTorso),
    "GroupedPolicyGradient": gradient_case("bnpo"),
    "GroupedPolicyGradient, exact": gradient_case("exact"),
    "GroupedPolicyGradient, a network": gradient_case("grpo", policy="network"),
    "MBPO, ensemble": mbpo_case(learn_variance_bounds=True),
    "MBPO, standardized": mbpo_case(standardize_targets=True, reward="known", clip_predictions=None),
    "MBPO, one model": mbpo_case(ensemble_size=1, probabilistic=False, critic_regularizer="robust"),
    "MBPO, one model and caps": mbpo_case(
        ensemble_size=1, probabilistic=False, critic_regularizer="spectral", real_ratio=0.5
    ),
    "MBPO, value gradients": mbpo_case(
        probabilistic=False, model_loss="value_gradient", real_ratio_start=1.0, real_ratio_epochs=2
    ),
    "MBPO, total value gradients": mbpo_case(
        probabilistic=False, model_loss="value_gradient", value_gradient_total=True, standardize_targets=True
    ),
    "ValueIteration": value_iteration_case,
    "MatrixSelfPlay, Hedge": matrix_case("hedge"),
    "MatrixSelfPlay, sampled": matrix_case("sampled"),
    "MatrixSelfPlay, reward model": matrix_case("reward_model"),
    **{f"NashLearning, {name}": nash_case(name) for name in ("egpo", "optimistic_hedge", "onpo", "mnpo")},
    "UncertainObjective": uncertain_case,
    "NashLearning, a table": nash_case("nash_md", policy="table"),
    "NashLearning, a network": nash_case("egpo", policy="network", hidden=(8,), pairs=4),
    "NashLearning, INPO's loss": nash_case("inpo", policy="table", inner_steps=2),
    "NashLearning, ONPO's two, drawn": nash_case(
        "onpo", policy="network", hidden=(8,), pairs=4, inner_steps=2
    ),
    "NashLearning, MNPO's loss": nash_case("mnpo", policy="network", hidden=(8,), inner_steps=2),
    "NashLearning, DNO's loss, drawn": nash_case("dno", policy="table", pairs=4, inner_steps=2),
    "NashLearning, GPO's loss, drawn": nash_case(
        "gpo", policy="network", hidden=(8,), pairs=4, inner_steps=2
    ),
    "NashLearning, regret matching": nash_case("regret_matching", beta=0.0),
    "IQL": offline_case(IQL),
    "IQL, choices": offline_case(IQL, box=False),
    "IQL, squashed": offline_case(IQL, policy="squashed"),
    **{
        f"PreferenceOptimization, {loss}": compared_case(loss)
        for loss in get_args(PairLossName)
        if loss != "orpo"
    },
    "PreferenceOptimization, orpo in a table": compared_case("orpo", box=False),
    "PreferenceOptimization, a table": compared_case("inpo", box=False),
    "IteratedPreferenceOptimization": iterated_case("prefrl/Pendulum-v0"),
    "IteratedPreferenceOptimization, INPO": iterated_case("prefrl/CartPole-v0", loss="inpo", same_start=True),
    "IteratedPreferenceOptimization, moving labels": iterated_case("prefrl/Pendulum-v0", label_rate=0.1),
    "BCoder": offline_case(BCoder, box=False, cloning_steps=1, value_steps=1),
    "BCoder, plain": offline_case(
        BCoder, box=False, cloning_steps=1, value_steps=1, operator="optimal", expert_return=5.0
    ),
    "DiffusionPolicy": offline_case(DiffusionPolicy),
    "DiffusionPolicy, chunks, DDPM, SiLU": offline_case(
        DiffusionPolicy,
        hidden=(8, 8),
        batch_size=8,
        horizon=2,
        sampler="ddpm",
        activation="silu",
        schedule="linear",
    ),
    "DiffusionDRO": tuned_case(DiffusionDRO, averaged=2, refresh_steps=1),
    "DiffusionDRO, DDPM, guided": tuned_case(
        DiffusionDRO, averaged=4, horizon=2, sampler="ddpm", guidance=0.5, replay_refreshes=2
    ),
    "DiffusionDPO": tuned_case(DiffusionDPO, pairs=2),
    "DiffusionDPO, IPO": tuned_case(DiffusionDPO, pairs=3, loss="ipo", horizon=2),
    "SelfNPO": tuned_case(SelfNPO),
    "SelfNPO, unconditional": tuned_case(SelfNPO, form="unconditional", truncated_steps=2),
    "BehaviourCloning": offline_case(BehaviourCloning),
    "BehaviourCloning, choices": offline_case(BehaviourCloning, box=False),
    "BehaviourCloning, squashed": offline_case(BehaviourCloning, policy="squashed"),
    "BehaviourCloning, chi square": offline_case(
        BehaviourCloning, divergence="chi_square", reference_steps=1, value="zero"
    ),
    "BehaviourCloning, Hellinger": offline_case(
        BehaviourCloning, box=False, divergence="hellinger", reference_steps=1
    ),
    "OREO": episodes_case("trajectory", box=True),
    "OREO, a table and a beam": episodes_case("one_step", box=False, beam=2),
    "OREO, steps": episodes_case("step", box=False, policy="network"),
    "SearchPreferences": searched_case(),
    "SearchPreferences, long steps": searched_case(step_length=2, policy="mlp", hidden=(8,), online=False),
    "BRAIn": grouped_case("policy"),
    "BRAIn, a table": grouped_case("reference", box=False, num_outputs=None),
    "BRAIn, a network": grouped_case("even", box=False, policy="network", baseline=False),
    "RegretAgent, deterministic": regret_case(regret_form="deterministic"),
    "RegretAgent, action": regret_case(regret_form="action"),
    "RegretAgent, lottery": regret_case(lottery=True),
    "RegretAgent, hard maximum": regret_case(gpi_temperature=0.0),
    "RegretAgent, guessing": regret_case(uniform_response=True),
    "RegretAgent, partial return by Adam": regret_case(
        preference_model="partial-return", uniform_response=True
    ),
    "RegretAgent, partial return solved": regret_case(preference_model="partial-return"),
    "RegretAgent, neural": regret_case(preference_model="partial-return", reward="neural"),
    "RegretAgent, neural and absorbing": regret_case(
        preference_model="partial-return", reward="neural", absorbing=True, uniform_response=True
    ),
}

WRONG: dict[str, tuple[Case, str]] = {
    "DQN reads the host in a graph": (
        graphed(dqn_case(kind=DQNReadsTheHost, cuda_graph=True)),
        "HostCopyError",
    ),
    "IQL asks the device": (offline_case(IQLAsksTheDevice), "DataDependentOutputException"),
    "BCoder asks the device": (
        offline_case(BCoderAsksTheDevice, box=False, cloning_steps=1, value_steps=1),
        "DataDependentOutputException",
    ),
    "OREO asks the device": (
        episodes_case("trajectory", box=False, kind=OREOAsksTheDevice),
        "DataDependentOutputException",
    ),
    "BRAIn asks the device": (
        grouped_case("policy", kind=BRAInAsksTheDevice),
        "DataDependentOutputException",
    ),
    "GroupedPolicyGradient asks the device": (
        gradient_case("centred", kind=GradientAsksTheDevice),
        "DataDependentOutputException",
    ),
    "asks the device": (q_learning_case(AsksTheDevice), "DataDependentOutputException"),
    "mixes devices": (q_learning_case(MixesDevices), "FakeTensorDeviceMismatchError"),
    "copies to the host": (q_learning_case(CopiesToTheHost), "HostCopyError"),
    "DQN asks the device": (dqn_case(kind=DQNAsksTheDevice), "DataDependentOutputException"),
    "MBPO asks the device": (mbpo_case(kind=MBPOAsksTheDevice), "DataDependentOutputException"),
    "DQN mixes devices": (dqn_case(kind=DQNMixesDevices), "FakeTensorDeviceMismatchError"),
    "PPO asks the device": (ppo_case(kind=PPOAsksTheDevice), "DynamicOutputShapeException"),
    "PPO mixes devices": (ppo_case(kind=PPOMixesDevices), "FakeTensorDeviceMismatchError"),
}


def generating() -> list[ModuleType]:
    """Return the modules that make generators of their own."""
    modules = [module for name, module in sys.modules.items() if name.startswith("prefrl.")]
    return [module for module in modules if getattr(module, "make_generator", None) is make_generator]


HOST_BOUND = {
    "DynamicChoice": "three convex problems are solved once, by Newton's method until it has settled",
    "SB3Agent": "Stable-Baselines3 keeps its buffers in host memory",
    "SelfPlay": "whole trajectories are compared when they end, which the host has to know",
}
"""Agents that wait for the device by nature, and why."""


def run_case(case: Case) -> str:
    """Return "ok", or what was raised, and where."""
    mode = FakeTensorMode()
    try:
        with ExitStack() as stack:
            for module in generating():
                stack.enter_context(mock.patch.object(module, "make_generator", on_host))
            stack.enter_context(mode)  # and no default device: an agent has to know its own
            step = case(mode)
            with NoHostCopies():
                for _ in range(2):
                    metrics = step()
        wrong = [
            name for name, value in metrics.items() if value.device.type != DEVICE or value.requires_grad
        ]
        return f"metrics {wrong} are not detached tensors on the device" if wrong or not metrics else "ok"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in place if "site-packages" not in f.filename]
        return f"{type(error).__name__} at {' > '.join(ours)}: {str(error)[:200]}"


def main() -> None:
    """Register the made-up accelerator, run the cases that are named, and print what came of them."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(DEVICE)
    assert prefrl.envs.REGISTRY
    cases = {**CASES, **{name: case for name, (case, _) in WRONG.items()}}
    print(json.dumps({name: run_case(cases[name]) for name in sys.argv[1:]}))


# Tests -------------------------------------------------------------------------------------------------


FAST = {name.split(",")[0]: name for name in reversed(CASES)}.values()
"""The first case of every agent; its variants, which take longer, are with the slow tests."""


def outcomes_of(names: Iterable[str], project_root: Path) -> dict[str, str]:
    """What came of some cases, in a process of their own."""
    environment = {**os.environ, "PYTHONPATH": str(project_root)}  # these files, whatever is installed
    result = subprocess.run(
        [sys.executable, __file__, *names], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def outcomes(project_root: Path) -> dict[str, str]:
    return outcomes_of([*FAST, *WRONG], project_root)


@pytest.fixture(scope="module")
def outcomes_of_variants(project_root: Path) -> dict[str, str]:
    return outcomes_of([name for name in CASES if name not in FAST], project_root)


@pytest.mark.parametrize("name", FAST)
def test_no_host_sync_and_no_device_mix(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in FAST])
def test_no_host_sync_and_no_device_mix_in_variants(outcomes_of_variants: dict[str, str], name: str) -> None:
    assert outcomes_of_variants[name] == "ok"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_agent_is_found_out(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name].startswith(f"{WRONG[name][1]} at ")
    assert "test_device_safety.py" in outcomes[name]


def test_every_agent_is_among_the_cases() -> None:
    found = {"SegmentModel"}  # no agent, but fitted on the device as one
    for module in pkgutil.walk_packages(prefrl.agents.__path__, "prefrl.agents."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and issubclass(value, Agent) and not inspect.isabstract(value):
                found.add(name)
    assert found == {name.split(",")[0] for name in CASES} | set(HOST_BOUND)


if __name__ == "__main__":
    main()
