"""Whether every agent does on a GPU what it does on the CPU, and how fast environments and training are.

Parity: each agent trains for a moment on the CPU and on the device, from the same weights and with the same
random numbers, which are drawn on the host for this. ``difference`` is the largest difference of what it has
learned, in units of the largest number of the same tensor; rounding grows while agents learn, so it is not 0.
Meanwhile ``act``, ``observe`` and ``update`` may not wait for the device
(``torch.cuda.set_sync_debug_mode("error")``).

Graphs: DQN, SAC and PPO train on the device with their steps as CUDA graphs (``cuda_graph``) and without,
likewise from the same weights and numbers; and how much faster that is with small networks.

Speed: steps per second of environments alone, and of training in them, at growing numbers of environments.

Without CUDA there is nothing to check: the script says so and ends well. With ``--device cpu`` it runs there.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import prefrl.envs
from prefrl.agents import DQN, PPO, DQNConfig, PPOConfig
from prefrl.cli import execute
from prefrl.config import Positive, checked, from_json
from prefrl.data import save_transitions
from prefrl.data.devices import make_generator
from prefrl.run.collect import collect_transitions
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn
from prefrl.run.recipes import RECIPES, load_recipe
from prefrl.run.recipes.offline import OfflineRecipe
from prefrl.run.settings import nest
from prefrl.run.study.study import run_study
from prefrl.run.study.timing import seconds, spread

TOLERANCE = 0.02
"""Largest difference between devices that counts as parity: a few of Adam's steps that fell the other way."""

SMALL: dict[str, Any] = {"agent.hidden": [32], "agent.batch_size": 32, "agent.learning_starts": 64}
POLES: dict[str, Any] = {**SMALL, "env_id": "prefrl/CartPole-v0", "total_timesteps": 400}
PENDULUMS: dict[str, Any] = {**SMALL, "env_id": "prefrl/Pendulum-v0", "num_envs": 4, "total_timesteps": 256}
ROLLOUTS: dict[str, Any] = {"env_id": "prefrl/CartPole-v0", "agent.n_steps": 32, "total_timesteps": 2_048}
OFFLINE: dict[str, Any] = {"agent.hidden": [32], "agent.batch_size": 32, "total_timesteps": 200}
TUNED: dict[str, Any] = {"agent.hidden": [32, 32], "agent.cloning_steps": 50, "total_timesteps": 100}
REWARD: dict[str, Any] = {"reward.hidden": [16], "reward.epochs": 3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "q_learning": ("q_learning", {"total_timesteps": 800}),
    "value_iteration": ("value_iteration", {}),
    "dqn hl_gauss": ("dqn", POLES),
    "dqn huber": ("dqn", {**POLES, "agent.loss": "huber"}),
    "dqn, 3 learners": ("dqn", {**POLES, "num_learners": 3}),
    "stock_dqn": ("stock_dqn", {
        "env_id": "prefrl/RiskyCliff-v0", "num_envs": 16, "total_timesteps": 400, "agent.hidden": [32],
        "agent.stock_low": -10.0, "agent.stock_high": 10.0,
    }),
    "ppo": ("ppo", ROLLOUTS),
    "ppo, actions in a box": ("ppo", {**ROLLOUTS, "env_id": "prefrl/Pendulum-v0"}),
    "ppo, 3 learners": ("ppo", {**ROLLOUTS, "num_learners": 3}),
    "sac": ("sac", PENDULUMS),
    "sac, 3 learners": ("sac", {**PENDULUMS, "num_learners": 3}),
    "sac robust": ("sac", {**PENDULUMS, "agent.critic_regularizer": "robust"}),
    "mbpo": ("mbpo", {
        **SMALL, "env_id": "prefrl/Pendulum-v0", "total_timesteps": 120, "agent.ensemble_size": 2,
        "agent.elites": 1, "agent.model_hidden": [16], "agent.max_fit_steps": 20, "agent.updates_per_step": 1,
        "agent.epoch_timesteps": 60, "agent.refit_every": 60,
    }),
    "iql": ("iql", {**OFFLINE, "env_id": "prefrl/Pendulum-v0"}),
    "iql, choices": ("iql", {**OFFLINE, "env_id": "prefrl/CartPole-v0"}),
    "behaviour_cloning": ("behaviour_cloning", {**OFFLINE, "env_id": "prefrl/Pendulum-v0"}),
    "diffusion_policy": ("diffusion_policy", {
        **OFFLINE, "env_id": "prefrl/Pendulum-v0", "agent.hidden": [32, 32], "agent.horizon": 2,
    }),
    "diffusion_dro": ("diffusion_dro", {**TUNED, "env_id": "prefrl/Ring-v0"}),
    "diffusion_dpo": ("diffusion_dpo", {**TUNED, "env_id": "prefrl/Ring-v0"}),
    "self_npo": ("self_npo", {**TUNED, "env_id": "prefrl/Ring-v0"}),
    "self_npo, unconditional": ("self_npo", {
        **TUNED, "env_id": "prefrl/Ring-v0", "agent.form": "unconditional",
    }),
    "preference_optimization": ("preference_optimization", {
        "total_timesteps": 100, "agent.cloning_steps": 20, "agent.learning_rate": 0.01,
    }),
    "iterated_preference_optimization": ("iterated_preference_optimization", {
        "env_id": "prefrl/Pendulum-v0", "total_timesteps": 600, "agent.hidden": [16], "agent.round_steps": 10,
        "agent.round_timesteps": 200, "agent.round_pairs": 20, "agent.segment_length": 5,
    }),
    "grouped_policy_gradient": ("grouped_policy_gradient", {"total_timesteps": 100}),
    "b_coder": ("b_coder", {
        "num_programs": 200, "agent.hidden": [16], "agent.cloning_steps": 20, "agent.value_steps": 20,
        "total_timesteps": 60,
    }),
    "dynamic_choice": ("dynamic_choice", {"num_choices": 600}),
    "oreo": ("oreo", {"num_episodes": 100, "total_timesteps": 60}),
    "search_preferences": ("search_preferences", {"total_timesteps": 2}),
    "brain": ("brain", {"total_timesteps": 100, "agent.cloning_steps": 20, "agent.learning_rate": 0.01}),
    "preference_rl": ("preference_rl", {
        **REWARD, "env_id": "prefrl/Pendulum-v0", "num_labels": 20, "sessions": 2, "segment_length": 5,
        "total_timesteps": 1_024,
    }),
    "heron": ("heron", {
        **REWARD, "env_id": "prefrl/Pendulum-v0", "ranking": "angle_squared,torque_squared", "num_envs": 4,
        "first_fit": 128, "fit_every": 128, "total_timesteps": 512,
    }),
    "self_play": ("self_play", {**REWARD, "env_id": "prefrl/ThreeGoals-v0", "total_timesteps": 400}),
    "nash_learning": ("nash_learning", {"agent.solver": "onpo", "total_timesteps": 300}),
    "regret": ("regret", {"env_id": "prefrl/Delivery-v0", "num_pairs": 40, "fit_steps": 50}),
    "distributional_dp": ("distributional_dp", {"env_id": "prefrl/TwoCoins-v0"}),
    "dual_mirror_descent": ("dual_mirror_descent", {"horizon": 200, "replications": 4}),
    "martingale": ("martingale", {"env_id": "prefrl/OrnsteinUhlenbeck-v0", "total_time": 2.0}),
    "continuous_control": ("continuous_control", {
        "env_id": "prefrl/LQErgodic-v0", "total_timesteps": 6_400,
    }),
}  # fmt: skip
"""Of each agent a recipe, and its settings by dotted names."""

GRAPHS = ("dqn hl_gauss", "dqn huber", "sac", "ppo", "ppo, actions in a box", "ppo, 3 learners")
"""Cases whose steps are recorded as CUDA graphs too."""

STEPPING: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn": ("dqn", {**POLES, "num_envs": 4, "agent.train_freq": 4, "agent.gradient_steps": 32}),
    "sac": ("sac", {**PENDULUMS, "agent.gradient_steps": 8}),
    "ppo": ("ppo", {**ROLLOUTS, "num_envs": 8, "agent.n_epochs": 32}),
}
"""Recipes and settings of which gradient steps are nearly all that takes time."""

WAITS = {
    "dynamic_choice": "it is solved once, by Newton's method until it has settled",
    "self_play": "whole trajectories are compared when they end, which the host has to know",
}
"""Agents that wait for the device by nature, and why."""


@dataclass(frozen=True)
class CheckGPU:
    """Parity of every agent between the CPU and a GPU, and throughput there."""

    out: Path = Path("runs/check_gpu")
    """Run folder, new or empty."""

    device: str = "cuda"
    """Which device is checked; cpu runs the same without one."""

    cases: tuple[str, ...] = tuple(CASES)
    """Which agents."""

    num_envs: tuple[int, ...] = (1_024, 4_096, 16_384, 65_536, 262_144)
    """Numbers of environments whose throughput is measured."""

    seconds: float = 3.0
    """How long each throughput is measured for, at least."""

    def __post_init__(self) -> None:
        checked(Positive, self.seconds, "seconds")
        for name in self.cases:
            if name not in CASES:
                raise ValueError(f"cases has {name!r}; there are {', '.join(CASES)}")
        if min(self.num_envs, default=1) < 1:
            raise ValueError(f"num_envs is {self.num_envs}; numbers of environments must be at least 1")

    def run(self) -> None:
        """Check and measure, unless there is no such device."""
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            print("torch finds no CUDA device here: nothing to check (--device cpu runs the same on the CPU)")
            return
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return the machine, the parity of every agent, and the throughputs; print them as tables."""
        device = torch.device(self.device)
        result: dict[str, Any] = {"machine": machine(device), "parity": {}, "throughput": {}}
        for name in self.cases:
            result["parity"][name] = parity(name, device)
        if device.type == "cuda":
            names = [name for name in GRAPHS if name in self.cases]
            result["graphs"] = {name: graph_parity(name, device) for name in names}
            result["plain_over_graph_seconds"] = {name: graph_speed(name, device) for name in STEPPING}
        for what, make in WORK.items():
            rates = {
                str(rows): throughput(make(rows, device), device, self.seconds) for rows in self.num_envs
            }
            result["throughput"][what] = rates
        checked_cases = (*result["parity"].values(), *result.get("graphs", {}).values())
        found = [case["difference"] for case in checked_cases]
        result["all_alike"] = all(each is not None and each <= TOLERANCE for each in found)
        show(result)
        return result


def machine(device: torch.device) -> dict[str, str]:
    """Return what is measured."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "cuda": str(torch.version.cuda) if cuda else "none",
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "prefrl": prefrl.__version__,
    }


# Parity --------------------------------------------------------------------------------------------------


def parity(name: str, device: torch.device) -> dict[str, Any]:
    """Return how far an agent differs between the CPU and a device, and what went wrong, if anything."""
    recipe, settings = CASES[name]

    def both() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        start, there = trained(recipe, settings, torch.device("cpu"))
        return there, trained(recipe, settings, device, start, guarded=name not in WAITS)[1]

    return compared(both)


def graph_parity(name: str, device: torch.device) -> dict[str, Any]:
    """Return how far an agent whose steps are CUDA graphs differs from itself without, on a device."""
    recipe, settings = CASES[name]

    def both() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        start, plain = trained(recipe, settings, device)
        return plain, trained(recipe, {**settings, "agent.cuda_graph": True}, device, start)[1]

    return compared(both)


def compared(both: Callable[[], tuple[dict[str, Tensor], dict[str, Tensor]]]) -> dict[str, Any]:
    """Return how far two states differ that ``both`` makes, and what went wrong, if anything."""
    try:
        with host_generators():
            return {"difference": largest_difference(*both()), "error": None}
    except Exception as error:  # the other agents are checked all the same
        return {"difference": None, "error": f"{type(error).__name__}: {str(error)[:300]}"}


def trained(
    recipe_name: str, settings: Mapping[str, Any], device: torch.device,
    start: Mapping[str, Any] | None = None, guarded: bool = False,
) -> tuple[dict[str, Any], dict[str, Tensor]]:  # fmt: skip
    """Return the state that an agent started from, and the tensors that it had after training.

    Args:
        recipe_name: name of its recipe.
        settings: of the recipe.
        device: where it trains.
        start: the state to start from; None: its own.
        guarded: whether acting, observing and updating may not wait for the device.
    """
    given = {"device": str(device), **settings}
    recipe = from_json(load_recipe(recipe_name), nest(given))
    env = recipe.training_env()
    backend = getattr(getattr(env, "unwrapped", env), "backend", None)
    if hasattr(backend, "generator_device"):
        backend.generator_device = torch.device("cpu")
    with TemporaryDirectory() as folder:
        if isinstance(recipe, OfflineRecipe) and type(recipe).drawn is OfflineRecipe.drawn:
            recipe = with_data(recipe, Path(folder) / "data.npz")
        more = recipe.given(env, RunFolder(Path(folder), {}, quiet=True), resume=False)
    agent = recipe.make_agent(env, **more)
    begun = moved(agent.state_dict(), torch.device("cpu"))
    if start is not None:
        agent.load_state_dict(moved(start, device))
    if guarded and device.type == "cuda":
        for name in ("act", "observe", "update"):
            setattr(agent, name, never_waiting(getattr(agent, name)))
    learn(agent, recipe.timesteps(agent))
    return begun, dict(tensors(agent.state_dict()))


def with_data(recipe: OfflineRecipe, path: Path) -> OfflineRecipe:
    """Return a recipe with uniform actions in its environment, written to a file, for a data set."""
    save_transitions(path, collect_transitions(None, recipe.scalar_env(), 256, epsilon=1.0))
    return replace(recipe, dataset=path)


@contextmanager
def host_generators() -> Iterator[None]:
    """Have every agent draw its random numbers on the host, where they are the same for all devices."""

    def on_host(device: torch.device, seed: int) -> torch.Generator:
        return make_generator(torch.device("cpu"), seed)

    with ExitStack() as stack:
        for recipe in RECIPES:
            load_recipe(recipe)  # and the modules of its agent
        for name, module in list(sys.modules.items()):
            if name.startswith("prefrl.") and getattr(module, "make_generator", None) is make_generator:
                stack.enter_context(mock.patch.object(module, "make_generator", on_host))
        yield


def never_waiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises where it waits for the device."""

    def guarded(*args: Any, **kwargs: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return function(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return guarded


def tensors(tree: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of floating-point numbers in a state, with its place."""
    if isinstance(tree, Tensor):
        if tree.is_floating_point():
            yield place, tree.detach().to("cpu", torch.float64)
        return
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, part in parts:
        yield from tensors(part, f"{place}/{key}")


def moved(tree: Any, device: torch.device) -> Any:
    """Return a copy of a state on a device; states of generators stay on the host."""
    if isinstance(tree, Tensor):
        return tree.clone() if tree.dtype == torch.uint8 else tree.detach().clone().to(device)
    if isinstance(tree, Mapping):
        return {key: moved(part, device) for key, part in tree.items()}
    return [moved(part, device) for part in tree] if isinstance(tree, list) else tree


def largest_difference(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> float:
    """Return the largest difference of two states, each tensor in units of its largest number.

    Raises:
        ValueError: if they do not hold the same tensors, or none.
    """
    if set(there) != set(here) or not there:
        raise ValueError(f"states hold different tensors: {sorted(set(there) ^ set(here)) or 'none at all'}")
    largest = 0.0
    for place, wanted in there.items():
        if wanted.shape != here[place].shape:
            raise ValueError(
                f"{place} has shape {tuple(here[place].shape)}; on the CPU {tuple(wanted.shape)}"
            )
        if wanted.numel():
            scale = max(float(wanted.abs().max()), 1e-6)
            largest = max(largest, float((wanted - here[place]).abs().max()) / scale)
    return largest


# Throughput ----------------------------------------------------------------------------------------------

Work = tuple[Callable[[], object], int]
"""What is timed, and how many environment steps it takes."""


def stepping(env_id: str) -> Callable[[int, torch.device], Work]:
    """Return what makes the work of stepping environments with actions drawn beforehand."""

    def make(rows: int, device: torch.device) -> Work:
        env = prefrl.envs.make_device(env_id, rows, device=device)
        env.reset(seed=0)
        space = env.single_action_space
        space.seed(0)
        actions = torch.as_tensor(np.stack([space.sample() for _ in range(64)])).to(device)
        chosen = actions[torch.arange(rows, device=device) % len(actions)]
        return lambda: env.step(chosen), rows

    return make


def training(
    agent_of: Callable[[Any, int, torch.device], Any], steps: int
) -> Callable[[int, torch.device], Work]:
    """Return what makes the work of training on ``steps`` steps of every environment."""

    def make(rows: int, device: torch.device) -> Work:
        agent = agent_of(prefrl.envs.make_device("prefrl/CartPole-v0", rows, device=device), rows, device)
        return lambda: learn(agent, steps * rows), steps * rows

    return make


def ppo(env: Any, rows: int, device: torch.device) -> PPO:
    """Return an agent that learns in 4 epochs of 4 batches from every 16 steps."""
    return PPO(env, PPOConfig(n_steps=16, batch_size=4 * rows, n_epochs=4), device=device)


def dqn(env: Any, rows: int, device: torch.device) -> DQN:
    """Return an agent that takes a gradient step on as many transitions as every step brings."""
    config = DQNConfig(
        loss="huber", batch_size=rows, train_freq=rows, learning_starts=rows, buffer_size=8 * rows
    )
    return DQN(env, config, device=device)


WORK = {
    "prefrl/CartPole-v0": stepping("prefrl/CartPole-v0"),
    "prefrl/Pendulum-v0": stepping("prefrl/Pendulum-v0"),
    "training ppo": training(ppo, steps=16),
    "training dqn": training(dqn, steps=8),
}
"""What is measured, in the order of the table."""


def throughput(work: Work, device: torch.device, seconds: float) -> float:
    """Return environment steps per second, with what is done once left out."""
    function, count = work
    for _ in range(2):
        function()
    wait(device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or not done:
        for _ in range(4):
            function()
        wait(device)
        done += 4 * count
    return done / (time.perf_counter() - started)


def graph_speed(name: str, device: torch.device) -> dict[str, float]:
    """Return the time of training that is nearly all gradient steps, without CUDA graphs over with them."""
    recipe_name, settings = STEPPING[name]
    agents = []
    for graph in (False, True):
        given = {"device": str(device), **settings, "agent.cuda_graph": graph}
        recipe = from_json(load_recipe(recipe_name), nest(given))
        agents.append(recipe.make_agent(recipe.training_env()))

    def taken(agent: Any) -> float:
        def work() -> None:
            learn(agent, recipe.total_timesteps)
            wait(device)

        return seconds(work)

    for agent in agents:
        taken(agent)  # what is made and recorded at first
    plain, recorded = agents
    return spread([taken(plain) / taken(recorded) for _ in range(5)])


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def show(result: Mapping[str, Any]) -> None:
    """Print parity and throughput as tables."""
    alike, rates = Table("agent", "difference", "error"), Table("steps per second")
    for name, case in result["parity"].items():
        found = case["difference"]
        alike.add_row(name, "" if found is None else f"{found:.2g}", case["error"] or "")
    for rows in next(iter(result["throughput"].values())):
        rates.add_column(f"{int(rows):,} environments", justify="right")
    for what, found in result["throughput"].items():
        rates.add_row(what, *(f"{rate:,.0f}" for rate in found.values()))
    Console().print(result["machine"], alike, rates)
    if "graphs" in result:
        graphs, speed = Table("as a graph", "difference", "error"), Table("as a graph", "times as fast")
        for name, case in result["graphs"].items():
            graphs.add_row(name, str(case["difference"]), case["error"] or "")
        for name, found in result["plain_over_graph_seconds"].items():
            speed.add_row(name, f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})")
        Console().print(graphs, speed)


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(CheckGPU, description=__doc__)))
