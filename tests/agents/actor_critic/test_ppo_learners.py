"""Many learners as one: each is as it would be alone, one that diverges hurts nobody, cost is shared."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import prefrl
import prefrl.envs
from prefrl.agents import PPO, PPOConfig
from prefrl.agents.base import Spaces
from prefrl.run.evaluate import evaluate, evaluate_rows
from prefrl.run.loop import learn
from prefrl.run.stepping import Stepper

ENVS = 4
"""Environments of a learner."""

SMALL: dict[str, Any] = {"hidden": (8, 8), "n_steps": 8, "batch_size": 12, "n_epochs": 2}
CART_POLE, PENDULUM = "prefrl/CartPole-v0", "prefrl/Pendulum-v0"


def agent_of(learners: int, env_id: str = CART_POLE, *, seed: int = 5, face: str = "device",
             mode: str = "SameStep", **settings: Any) -> PPO:  # fmt: skip
    """A stack of learners; the environment draws the noise of each by itself, also that of one."""
    place: dict[str, Any] = {"max_episode_steps": 11, "autoreset_mode": mode, "num_streams": learners}
    rows = ENVS * learners
    if face == "device":
        env: Any = prefrl.make_device(env_id, rows, device="cpu", **place)
    elif face == "host":
        env = gym.make_vec(env_id, rows, **place)
    else:
        env = gym.make_vec(env_id, rows, vectorization_mode="sync", max_episode_steps=11,
                           vector_kwargs={"autoreset_mode": AutoresetMode(mode)})  # fmt: skip
    return PPO(env, PPOConfig(**{**SMALL, **settings}), num_learners=learners, device="cpu", seed=seed)


def rows_of(agent: PPO, learner: int) -> dict[str, Tensor]:
    """What a learner has learned, and seen in the rollout under way."""
    rollout = agent.rollout
    assert rollout is not None
    rows = slice(ENVS * learner, ENVS * (learner + 1))
    return {
        "weights": agent.network.vectors.detach()[learner],
        "mean": agent._seen.mean[learner],
        "scale": agent._sums.scale[learner],
        **{name: values[: rollout.size, rows] for name, values in rollout.storage.items()},
    }


TEAMS = [
    (CART_POLE, "device", "SameStep", {"normalize_observations": True}),
    (CART_POLE, "host", "NextStep", {"target_kl": 0.01, "learning_rate": 1e-2}),
    (CART_POLE, "host", "Disabled", {}),
    (CART_POLE, "device", "Disabled", {"activation": "relu"}),
    (PENDULUM, "device", "NextStep", {"clip_range_vf": 0.1}),
    (PENDULUM, "sync", "SameStep", {"normalize_observations": True}),
    ("prefrl/RandomGrid-v0", "host", "SameStep", {"normalize_observations": True}),
]


@pytest.mark.parametrize(("env_id", "face", "mode", "settings"), TEAMS)
def test_a_learner_is_the_same_in_other_company(env_id: str, face: str, mode: str, settings: Any) -> None:
    """Exactly for 200 steps beside one and beside three others; alone to rounding, with the same choices."""
    four = agent_of(4, env_id, face=face, mode=mode, **settings)
    two = agent_of(2, env_id, seed=6, face=face, mode=mode, **settings)  # the second and third of the four
    alone = agent_of(1, env_id, seed=6, face=face, mode=mode, **settings)
    for agent in (four, two, alone):
        learn(agent, 200 * ENVS)
        assert agent.num_timesteps == 200 * ENVS
    for learner in range(2):
        expected = rows_of(four, learner + 1)
        for name, values in rows_of(two, learner).items():
            assert torch.equal(values, expected[name]), name
    assert not torch.equal(rows_of(four, 0)["weights"], rows_of(four, 1)["weights"])
    expected = rows_of(four, 1)
    for name, values in rows_of(alone, 0).items():
        if values.is_floating_point():
            torch.testing.assert_close(values, expected[name], rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(values, expected[name]), name


def test_settings_of_each_are_settings_of_one() -> None:
    rates, gammas, weights = (1e-3, 3e-4, 1e-2), (0.9, 0.99, 0.5), (0.0, 0.1, 0.01)
    stack = agent_of(3, learning_rate=rates, gamma=gammas, ent_coef=weights)
    learn(stack, 40 * ENVS)
    for learner in range(3):
        alone = agent_of(1, seed=5 + learner, learning_rate=rates[learner], gamma=gammas[learner],
                         ent_coef=weights[learner])  # fmt: skip
        learn(alone, 40 * ENVS)
        mine, its = rows_of(alone, 0)["weights"], rows_of(stack, learner)["weights"]
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)


# One that diverges ---------------------------------------------------------------------------------------


def spoil(agent: PPO, learner: int) -> None:
    """Let the value of a learner be no number from now on."""
    with torch.no_grad():
        agent.network.value.biases()[-1][learner] = torch.nan


@pytest.mark.parametrize("env_id", [CART_POLE, PENDULUM])
def test_one_that_diverges_stays_and_the_others_go_on(env_id: str) -> None:
    agent, healthy = agent_of(3, env_id), agent_of(3, env_id)
    for each in (agent, healthy):
        learn(each, 8 * ENVS)
    spoil(agent, 1)
    before = agent.network.vectors.detach()[1].clone()
    state = {name: value[1].clone() for name, value in agent.descent.optimizer.states[0].items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn(agent, 80 * ENVS)
    learn(healthy, 80 * ENVS)
    assert [str(each.message) for each in caught] == [
        "learners [1] diverged and stay as they were before; a lower learning_rate may help"
    ]
    assert agent.descent.frozen() == [1]
    assert agent.result() == {"frozen_learners": [1]}
    assert healthy.result() == {"frozen_learners": []}
    assert torch.equal(agent.network.vectors.detach()[1].nan_to_num(), before.nan_to_num())
    assert all(
        torch.equal(agent.descent.optimizer.states[0][name][1], value) for name, value in state.items()
    )
    for learner in (0, 2):
        for name, values in rows_of(agent, learner).items():
            assert torch.equal(values, rows_of(healthy, learner)[name]), name


@pytest.mark.filterwarnings("ignore:learners")
def test_metrics_are_of_those_that_go_on() -> None:
    agent, others = agent_of(3), agent_of(2)
    spoil(agent, 2)
    found = [metrics_of(each) for each in (agent, others)]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert float(value) == pytest.approx(float(found[1][name]), rel=1e-5, abs=1e-7), name
    for learner in (0, 1):
        spoil(agent, learner)
    assert all(value.isnan() for value in metrics_of(agent).values())


def metrics_of(agent: PPO) -> dict[str, Tensor]:
    """The metrics of the next update."""
    seen: list[dict[str, Tensor]] = []
    update = agent.update

    def kept() -> dict[str, Tensor]:
        seen.append(update())
        return {}

    agent.update = kept  # type: ignore[method-assign]
    try:
        learn(agent, 8 * ENVS)
    finally:
        del agent.update
    return seen[-1]


@pytest.mark.filterwarnings("ignore:learners")
@pytest.mark.parametrize("rate", [1e3, 1e10, 1e30, 3e38])
@pytest.mark.parametrize("env_id", [CART_POLE, PENDULUM])
def test_no_step_size_of_one_stops_the_others(rate: float, env_id: str) -> None:
    agent = agent_of(2, env_id, learning_rate=(1e-3, rate))
    healthy = agent_of(2, env_id, learning_rate=(1e-3, 1e-3))
    for each in (agent, healthy):
        learn(each, 80 * ENVS)
    assert torch.equal(rows_of(agent, 0)["weights"], rows_of(healthy, 0)["weights"])


@pytest.mark.parametrize("learners", [1, 2])
def test_where_all_diverge_the_run_stops(learners: int) -> None:
    agent = agent_of(learners)
    for learner in range(learners):
        spoil(agent, learner)
    with pytest.raises(
        FloatingPointError, match=r"train/.* is nan at timestep .*; a lower learning_rate may help"
    ):
        learn(agent, 80 * ENVS)


# One of them as an agent of its own ----------------------------------------------------------------------


def test_one_of_them_is_an_ordinary_agent(tmp_path: Path) -> None:
    stack = agent_of(3, normalize_observations=True, learning_rate=(1e-3, 2e-3, 3e-3), gamma=(0.9, 0.8, 0.7))
    learn(stack, 30 * ENVS)
    obs = torch.randn(3 * ENVS, 4)
    actions = stack.act(obs, deterministic=True).view(3, ENVS)
    for learner in range(3):
        one = stack.learner(learner)
        assert (one.num_learners, one.seed, one.num_timesteps) == (1, 5 + learner, 30 * ENVS)
        assert one.config.learning_rate == (1e-3, 2e-3, 3e-3)[learner]
        assert one.config.gamma == (0.9, 0.8, 0.7)[learner]
        own = obs[ENVS * learner : ENVS * (learner + 1)]
        assert one.predict(own.numpy(), deterministic=True)[0].tolist() == actions[learner].tolist()
        one.save(tmp_path / "one.pt")
        loaded = prefrl.load(tmp_path / "one.pt", env=gym.make("CartPole-v1"), device="cpu")
        assert isinstance(loaded, PPO)
        assert loaded.predict(own.numpy(), deterministic=True)[0].tolist() == actions[learner].tolist()
        loaded.learn(20)
        assert loaded.num_timesteps == 30 * ENVS + 20
    before = stack.network.vectors.detach().clone()
    stack.learner(0).network.vectors.data.zero_()
    assert torch.equal(stack.network.vectors, before)  # it has copies


def test_one_of_them_goes_on_as_it_would_in_the_stack() -> None:
    stack = agent_of(2)
    learn(stack, 8 * ENVS)
    one = stack.learner(1)
    one.env = agent_of(1).env
    for each in (stack, one):
        learn(each, 16 * ENVS)
    torch.testing.assert_close(rows_of(one, 0)["weights"], rows_of(stack, 1)["weights"], rtol=1e-3, atol=1e-4)


def test_a_stack_is_saved_and_loaded_whole(tmp_path: Path) -> None:
    stack = agent_of(3)
    learn(stack, 8 * ENVS)
    stack.save(tmp_path / "stack.pt")
    loaded = prefrl.load(tmp_path / "stack.pt", env=agent_of(3).env, device="cpu")
    assert loaded.num_learners == 3
    for each in (stack, loaded):
        assert isinstance(each, PPO)
        learn(each, 16 * ENVS)
    assert torch.equal(loaded.network.vectors, stack.network.vectors)  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_other_learner(index: int) -> None:
    with pytest.raises(ValueError, match=f"index is {index}; the learners are 0 to 2"):
        agent_of(3).learner(index)


def test_a_stack_does_not_predict_as_one() -> None:
    with pytest.raises(ValueError, match=r"there are 2 learners; ask one: agent.learner\(0\).predict"):
        agent_of(2).predict(np.zeros(4, np.float32))


# Environments that suit ----------------------------------------------------------------------------------


def test_environments_that_do_not_suit_are_refused() -> None:
    config = PPOConfig(**SMALL)
    shared = prefrl.make_device(CART_POLE, 4, device="cpu")
    with pytest.raises(
        ValueError, match="env draws the noise of all rows together; make it with num_streams=2"
    ):
        PPO(shared, config, num_learners=2, device="cpu")
    with pytest.raises(ValueError, match="env has 4 rows; they must be a multiple of the 3 learners"):
        PPO(
            prefrl.make_device(CART_POLE, 4, device="cpu", num_streams=4),
            config,
            num_learners=3,
            device="cpu",
        )
    with pytest.raises(ValueError, match="env has 1 rows; they must be a multiple of the 2 learners"):
        PPO(gym.make("CartPole-v1"), config, num_learners=2, device="cpu").learn(10)
    together = gym.make_vec("CartPole-v1", 4, vectorization_mode="vector_entry_point")
    with pytest.raises(ValueError, match=r"env takes no list of seeds \(.*\); 2 learners .*'sync'"):
        PPO(together, config, num_learners=2, device="cpu").learn(10)


@pytest.mark.parametrize(("learners", "settings", "message"), [
    (2, {"gamma": (0.9, 0.8, 0.7)}, "gamma is for 3 learners; num_learners is 2"),
    (1, {"learning_rate": (0.1, 0.1)}, "learning_rate is for 2 learners; num_learners is 1"),
    (0, {}, "num_learners is 0"),
])  # fmt: skip
def test_settings_for_others_are_refused(learners: int, settings: dict[str, Any], message: str) -> None:
    spaces = Spaces(gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2))
    with pytest.raises(ValueError, match=message):
        PPO(spaces, PPOConfig(**settings), num_learners=learners, device="cpu")


# How good they are, and what they cost -------------------------------------------------------------------


def test_each_is_evaluated_as_it_would_be_alone_with_a_seed_of_its_own() -> None:
    stack = agent_of(3)
    learn(stack, 16 * ENVS)
    found = evaluate_rows(stack, gym.make_vec(CART_POLE, 6, num_streams=3), seed=3)
    seeds = [3, *(int(np.random.SeedSequence([3, i]).generate_state(1)[0]) for i in (1, 2))]
    one_by_one = [
        evaluate_rows(learner, gym.make_vec(CART_POLE, 2, num_streams=1), seed=seed)["mean_return"]
        for learner, seed in zip(stack.alone(), seeds, strict=True)
    ]
    assert found["learners"] == one_by_one
    assert found["episodes"] == 6
    assert found["mean_return"] == pytest.approx(np.mean(one_by_one))
    low, high = found["interval"]
    assert min(one_by_one) <= low <= found["interquartile_mean"] <= high <= max(one_by_one)
    scalar = evaluate(stack, gym.make("CartPole-v1"), episodes=4, seed=1)
    assert scalar["learners"] == [
        evaluate(stack.learner(i), gym.make("CartPole-v1"), episodes=4, seed=seed)["mean_return"]
        for i, seed in enumerate(
            [1, *(int(np.random.SeedSequence([1, i]).generate_state(1)[0]) for i in (1, 2))]
        )
    ]
    with pytest.raises(ValueError, match="env has 4 rows; they must be a multiple of the 3 learners"):
        evaluate_rows(stack, gym.make_vec(CART_POLE, 4), seed=0)


class Counting(TorchDispatchMode):
    """Counts calls of torch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


def rollout(agent: PPO, stepper: Stepper) -> None:
    for _ in range(8):
        assert not agent.update()
        stepper.step()
    assert agent.update()


@pytest.mark.parametrize("settings", [
    {}, {"target_kl": 0.1, "clip_range_vf": 0.1, "normalize_observations": True, "activation": "relu"},
])  # fmt: skip
@pytest.mark.parametrize("env_id", [CART_POLE, PENDULUM])
def test_more_learners_cost_no_more_calls(env_id: str, settings: dict[str, Any]) -> None:
    """Of steps of the environments, actions, what is kept of them, an update: all of a rollout."""
    counts = []
    for learners in (2, 16):
        agent = agent_of(learners, env_id, **settings)
        stepper = Stepper.of_agent(agent)
        stepper.reset()
        rollout(agent, stepper)  # what is drawn ahead, is
        with Counting() as mode:
            rollout(agent, stepper)
        counts.append(mode.calls)
    assert counts[0] == counts[1]
    assert counts[0].total() > 300
