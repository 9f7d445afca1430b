"""Tabular Q-learning: the update by hand and by a plain twin, exploration, convergence, SB3's face, files."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import prefrl.envs
from prefrl.agents import QLearning, QLearningConfig
from prefrl.agents.base import Spaces
from prefrl.data import Transitions
from prefrl.run.evaluate import scaled_return

CONSTANT = {"learning_rate_decay": 0.0}


def make_agent(
    states: int = 4, actions: int = 2, *, start: int = 0, seed: int = 0, **config: Any
) -> QLearning:
    spaces = Spaces(gym.spaces.Discrete(states, start=start), gym.spaces.Discrete(actions, start=start))
    return QLearning(spaces, QLearningConfig(**config), device="cpu", seed=seed)


def rows(*rows: tuple[int, int, float, int, bool, bool, bool]) -> Transitions:
    """One step from rows of (obs, action, reward, next_obs, terminated, truncated, mask)."""
    obs, actions, rewards, next_obs, terminations, truncations, mask = map(
        torch.tensor, zip(*rows, strict=True)
    )
    return Transitions(obs, actions, rewards, next_obs, terminations, truncations, mask)


def learn_from(agent: QLearning, *steps: Transitions) -> dict[str, torch.Tensor]:
    metrics = {}
    for step in steps:
        agent.observe(step)
        metrics = agent.update()
    return metrics


# The update --------------------------------------------------------------------------------------------


def test_update_by_hand() -> None:
    agent = make_agent(gamma=0.5, learning_rate=0.5, **CONSTANT)
    agent.q[1] = torch.tensor([4.0, 8.0])
    learn_from(
        agent,
        rows(
            (0, 0, 1.0, 1, False, False, True),  # 1 + .5 * 8 = 5
            (2, 1, 1.0, 1, True, False, True),  # terminal: 1
            (3, 1, 1.0, 1, False, True, True),  # truncated, the bootstrap stays: 5
            (3, 0, 9.0, 1, False, False, False),  # no transition
        ),
    )
    assert agent.q.tolist() == [[2.5, 0.0], [4.0, 8.0], [0.0, 0.5], [0.0, 2.5]]
    assert agent.visits.tolist() == [[1, 0], [0, 0], [0, 1], [0, 1]]


def test_rows_of_one_pair_use_the_mean_and_the_table_before_the_step() -> None:
    agent = make_agent(gamma=1.0, learning_rate=1.0, **CONSTANT)
    learn_from(
        agent,
        rows(
            (0, 0, 1.0, 0, True, False, True),
            (0, 0, 4.0, 0, True, False, True),
            (0, 0, 700.0, 0, True, False, False),  # masked: not in the mean either
            (1, 0, 0.0, 0, False, False, True),  # bootstraps from the old Q(0, .) = 0
        ),
    )
    assert agent.q[0, 0] == 2.5
    assert agent.q[1, 0] == 0.0
    assert agent.visits[0, 0] == 1


def test_visit_counts_shrink_the_step() -> None:
    agent = make_agent(learning_rate=1.0, learning_rate_decay=1.0)
    rewards = [3.0, 6.0, -9.0, 8.0]
    for reward in rewards:
        learn_from(agent, rows((2, 1, reward, 0, True, False, True)))
    assert agent.q[2, 1] == pytest.approx(np.mean(rewards))  # 1/N: the running mean
    half = make_agent(learning_rate=0.8, learning_rate_decay=0.5)
    learn_from(half, *[rows((0, 0, 1.0, 0, True, False, True))] * 2)
    first = 0.8
    assert half.q[0, 0].item() == pytest.approx(first + 0.8 / 2**0.5 * (1 - first))


def test_nothing_observed_nothing_learned() -> None:
    agent = make_agent()
    step = rows((0, 0, 1.0, 1, True, False, True))
    assert agent.update() == {}
    learn_from(agent, step)
    once = agent.q.clone()
    assert agent.update() == {}
    assert torch.equal(agent.q, once)


def test_a_step_of_masked_rows_changes_nothing() -> None:
    agent = make_agent(learning_rate_decay=0.6)
    metrics = learn_from(
        agent, rows((0, 0, 5.0, 1, False, False, False), (0, 0, 5.0, 1, False, False, False))
    )
    assert not agent.q.any()
    assert not agent.visits.any()
    assert metrics["train/td_error"] == 0.0


def twin(
    steps: list[list[tuple[int, int, float, int, bool, bool, bool]]], gamma: float, lr: float, omega: float
):
    """The same algorithm over dictionaries, one row at a time."""
    q: dict[tuple[int, int], float] = {(s, a): 0.0 for s in range(4) for a in range(2)}
    visits = dict.fromkeys(q, 0)
    for step in steps:
        errors: dict[tuple[int, int], list[float]] = {}
        for obs, action, reward, next_obs, terminated, _, mask in step:
            if mask:
                best = 0.0 if terminated else max(q[next_obs, 0], q[next_obs, 1])
                errors.setdefault((obs, action), []).append(reward + gamma * best - q[obs, action])
        for pair, deltas in errors.items():
            visits[pair] += 1
            q[pair] += lr / visits[pair] ** omega * sum(deltas) / len(deltas)
    return q, visits


flag = st.booleans()
row = st.tuples(st.integers(0, 3), st.integers(0, 1), st.floats(-5, 5), st.integers(0, 3), flag, flag, flag)


@given(
    st.lists(st.lists(row, min_size=1, max_size=6), min_size=1, max_size=6), st.sampled_from([0.0, 0.6, 1.0])
)
def test_update_equals_its_plain_twin(steps: list[list[Any]], omega: float) -> None:
    agent = make_agent(gamma=0.9, learning_rate=0.7, learning_rate_decay=omega)
    learn_from(agent, *[rows(*step) for step in steps])
    q, visits = twin(steps, 0.9, 0.7, omega)
    for (state, action), value in q.items():
        assert agent.q[state, action].item() == pytest.approx(value, abs=1e-5)  # rewards come as float32
        assert agent.visits[state, action] == visits[state, action]


def test_spaces_that_do_not_start_at_zero() -> None:
    agent = make_agent(start=5, learning_rate=1.0)
    learn_from(agent, rows((6, 6, 2.0, 8, True, False, True)))
    assert agent.q[1, 1] == 2.0
    assert agent.act(torch.tensor([6]), deterministic=True).tolist() == [6]
    assert set(agent.act(torch.full((100,), 7)).tolist()) == {5, 6}


# Exploration -------------------------------------------------------------------------------------------


def test_ties_are_broken_uniformly_and_deterministic_takes_the_first() -> None:
    agent = make_agent(2, 4, epsilon_start=0.0, epsilon_end=0.0)
    agent.q[0] = torch.tensor([1.0, 3.0, 3.0, 3.0])
    counts = torch.bincount(agent.act(torch.zeros(30_000, dtype=torch.int64)), minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 10_000).abs().max() < 5 * (30_000 * 2 / 9) ** 0.5
    assert agent.act(torch.zeros(3, dtype=torch.int64), deterministic=True).tolist() == [1, 1, 1]


def test_epsilon_is_the_share_of_uniform_actions() -> None:
    agent = make_agent(2, 4, epsilon_start=0.4, epsilon_end=0.4)
    agent.q[:, 2] = 1.0
    actions = agent.act(torch.zeros(40_000, dtype=torch.int64))
    share = (actions != 2).double().mean().item()
    assert share == pytest.approx(0.4 * 3 / 4, abs=0.012)


def test_epsilon_falls_linearly_with_the_timesteps() -> None:
    agent = make_agent(epsilon_start=0.8, epsilon_end=0.2, epsilon_timesteps=1000)
    seen = []
    for agent.num_timesteps in (0, 500, 1000, 9000):
        seen.append(agent.epsilon)
    assert seen == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert make_agent(epsilon_start=0.8, epsilon_end=0.2, epsilon_timesteps=0).epsilon == pytest.approx(0.8)


def test_exploration_is_seeded_and_unlike_the_environment_of_the_same_seed() -> None:
    obs = torch.zeros(64, dtype=torch.int64)
    first, same, other = (make_agent(seed=seed).act(obs) for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    agent = make_agent(seed=3)
    plain = torch.Generator().manual_seed(3)
    assert not torch.equal(torch.rand(8, generator=agent._generator), torch.rand(8, generator=plain))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gamma": 1.1}, "gamma is 1.1"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate_decay": -1.0}, "learning_rate_decay is -1.0"),
        ({"epsilon_end": 2.0}, "epsilon_end is 2.0"),
        ({"epsilon_timesteps": -1}, "epsilon_timesteps is -1"),
        ({"initial_value": float("inf")}, "initial_value is inf"),
    ],
)
def test_wrong_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QLearningConfig(**config)


def test_other_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"observation_space is Box.*takes Discrete"):
        QLearning(gym.make("CartPole-v1"))


# Convergence -------------------------------------------------------------------------------------------


def optimal_q(env: Any, gamma: float) -> np.ndarray:
    model, value = env.tabular_model(), env.optimal_value(gamma)
    return (model.probabilities * (model.rewards + gamma * value[model.successors])).sum(-1)


@pytest.mark.parametrize(
    ("env_id", "kwargs"), [("prefrl/Delivery-v0", {}), ("prefrl/RandomGrid-v0", {"layout_seed": 3})]
)
def test_the_table_becomes_optimal_where_nothing_is_random(env_id: str, kwargs: dict[str, Any]) -> None:
    fast = prefrl.envs.make_device(env_id, 1024, **kwargs)
    agent = QLearning(fast, QLearningConfig(**CONSTANT), device="cpu", seed=1)
    agent.learn(500_000)
    env = gym.make(env_id, **kwargs).unwrapped
    alive = ~env.tabular_model().terminal
    np.testing.assert_allclose(agent.q.numpy()[alive], optimal_q(env, 0.999)[alive], atol=1e-9)
    assert scaled_return(agent, env) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("layout_seed", [1, 2])
def test_a_decaying_step_size_is_nearly_optimal_in_a_lottery(layout_seed: int) -> None:
    kwargs = {"layout_seed": layout_seed, "stochastic": True}
    env = prefrl.envs.make_device("prefrl/RandomGrid-v0", 4096, **kwargs)
    agent = QLearning(env, QLearningConfig(learning_rate_decay=0.6), device="cpu")
    agent.learn(4_000_000)
    env = gym.make("prefrl/RandomGrid-v0", **kwargs).unwrapped
    alive = ~env.tabular_model().terminal
    assert scaled_return(agent, env) > 0.99
    error = np.abs(agent.q.numpy()[alive] - optimal_q(env, 0.999)[alive])
    assert error.mean() < 1.5  # the lottery's outcomes are 150 apart


@pytest.mark.parametrize("face", ["scalar", "vector", "device"])
def test_every_face_of_the_environment_teaches_the_same(face: str) -> None:
    kwargs = {"layout_seed": 60}  # 3 x 5 cells
    if face == "scalar":
        env = gym.make("prefrl/RandomGrid-v0", **kwargs)
    elif face == "vector":
        env = gym.make_vec("prefrl/RandomGrid-v0", num_envs=8, **kwargs)
    else:
        env = prefrl.envs.make_device("prefrl/RandomGrid-v0", 8, **kwargs)
    agent = QLearning(env, QLearningConfig(**CONSTANT), device="cpu", seed=0)
    agent.learn(3_000 if face == "scalar" else 16_000)
    plain = gym.make("prefrl/RandomGrid-v0", **kwargs).unwrapped
    assert scaled_return(agent, plain) == pytest.approx(1.0)


# Stable-Baselines3 -------------------------------------------------------------------------------------


def test_predict_takes_one_observation_or_many() -> None:
    agent = make_agent()
    agent.q[:, 1] = 1.0
    action, state = agent.predict(2, deterministic=True)
    assert action == 1
    assert state is None
    actions, _ = agent.predict(np.array([0, 1, 2]), deterministic=True)
    assert actions.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"observation has shape \(2, 2\)"):
        agent.predict(np.zeros((2, 2), dtype=np.int64))


def test_evaluate_policy_and_eval_callback(tmp_path: Path) -> None:
    fast = prefrl.envs.make_device("prefrl/Delivery-v0", 512)
    agent = QLearning(fast, QLearningConfig(**CONSTANT), device="cpu")
    callback = EvalCallback(
        Monitor(gym.make("prefrl/Delivery-v0")),
        n_eval_episodes=3,
        eval_freq=200,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(512 * 400, callback=callback)
    evaluations = np.load(tmp_path / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [512 * 200, 512 * 400]
    assert callback.last_mean_reward > 30.0
    best = QLearning.load(tmp_path / "best_model")
    mean, _ = evaluate_policy(best, Monitor(gym.make("prefrl/Delivery-v0")), n_eval_episodes=20)
    assert mean > 30.0


def test_ppo_of_sb3_trains_on_delivery() -> None:
    model = PPO(
        "MlpPolicy", "prefrl/Delivery-v0", n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu"
    )
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


# Files -------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> tuple[QLearning, Path]:
    agent = QLearning(prefrl.envs.make_device("prefrl/Delivery-v0", 64), device="cpu", seed=5)
    agent.learn(64 * 50)
    agent.save(tmp_path / "agent.pt")
    return agent, tmp_path / "agent.pt"


def test_save_and_load(saved: tuple[QLearning, Path]) -> None:
    agent, path = saved
    loaded = QLearning.load(path, device="cpu")
    assert torch.equal(loaded.q, agent.q)
    assert torch.equal(loaded.visits, agent.visits)
    assert (loaded.config, loaded.seed, loaded.num_timesteps) == (
        agent.config,
        agent.seed,
        agent.num_timesteps,
    )
    obs = torch.arange(100)
    assert torch.equal(loaded.act(obs), agent.act(obs))  # the generator too
    with pytest.raises(ValueError, match="no environment to learn in"):
        loaded.learn(10)


def test_a_loaded_agent_goes_on_learning(saved: tuple[QLearning, Path]) -> None:
    agent, path = saved
    loaded = QLearning.load(path, env=prefrl.envs.make_device("prefrl/Delivery-v0", 64), device="cpu")
    agent.learn(64 * 10)
    loaded.learn(64 * 10)
    assert loaded.num_timesteps == 64 * 60
    assert torch.equal(loaded.q, agent.q)


def test_load_refuses_other_spaces_and_other_agents(saved: tuple[QLearning, Path]) -> None:
    _, path = saved
    with pytest.raises(
        ValueError, match=r"trained on Discrete\(100\) and Discrete\(4\); env has Discrete\(16\)"
    ):
        QLearning.load(path, env=gym.make("FrozenLake-v1"))

    class Other(QLearning):
        pass

    with pytest.raises(ValueError, match="holds a QLearning, not a Other"):
        Other.load(path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty", "other"])
def test_load_refuses_a_damaged_file(saved: tuple[QLearning, Path], damage: str) -> None:
    _, path = saved
    content = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "flipped":
        middle = content.index(saved[0].q.numpy().tobytes()) + 8
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"agent\.pt is (damaged or )?no agent file of prefrl"):
        QLearning.load(path)


def test_load_says_when_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no agent file"):
        QLearning.load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (-1, "^observation is -1; this agent takes 0 to 99"),
        (100, "^observation is 100; this agent takes 0 to 99"),
        ([3, 100], "^observation is 100"),
        (3.0, "^observation has dtype float64; this agent takes whole numbers from 0 to 99"),
        (True, "^observation has dtype bool"),
        ("up", "^observation has dtype <U2"),
    ],
)
def test_predict_refuses_what_is_no_observation(observation: Any, message: str) -> None:
    agent = QLearning(gym.make("prefrl/Delivery-v0"), device="cpu")
    with pytest.raises(ValueError, match=message):
        agent.predict(observation, deterministic=True)


def test_predict_in_spaces_with_a_start_and_any_whole_numbers() -> None:
    agent = QLearning(Spaces(gym.spaces.Discrete(3, start=5), gym.spaces.Discrete(2)), device="cpu")
    agent.q[1, 1] = 1.0
    for kind in (int, np.int32, np.uint8, np.uint64):
        assert agent.predict(kind(6), deterministic=True)[0] == 1
        assert agent.predict(np.array([5, 6, 7]).astype(kind), deterministic=True)[0].tolist() == [0, 1, 0]
    for outside in (4, 8, 0):
        with pytest.raises(ValueError, match=f"observation is {outside}; this agent takes 5 to 7"):
            agent.predict(outside)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, state: (json.dumps([1]), state), "is no agent file of prefrl"),
        (lambda header, state: (header, [1]), "is no agent file of prefrl"),
        (lambda header, state: (without(header, "agent"), state), "its agent is None"),
        (lambda header, state: (without(header, "seed"), state), "its seed is None"),
        (
            lambda header, state: (with_entry(header, "config", {"gama": 1}), state),
            "no settings .*gama is unknown",
        ),
        (
            lambda header, state: (with_entry(header, "config", {"gamma": 7}), state),
            "no settings .*gamma is 7",
        ),
        (
            lambda header, state: (with_entry(header, "action_space", {}), state),
            "no spaces .*describes no space",
        ),
        (lambda header, state: (header, {}), "no state of a QLearning in these spaces: 'q' is missing"),
        (lambda header, state: (header, {**state, "q": 3}), "no state of a QLearning"),
        (lambda header, state: (header, {**state, "q": state["q"][:1]}), r"the table q is \[1, 4\]"),
        (lambda header, state: (header, {**state, "visits": state["visits"][:1]}), "the table visits is"),
        (lambda header, state: (header, {**state, "generator": torch.zeros(2)}), "no state of a QLearning"),
    ],
)
def test_load_names_the_file_whatever_is_wrong_in_it(
    saved: tuple[QLearning, Path], change: Callable[[str, Any], tuple[Any, Any]], message: str
) -> None:
    _, path = saved
    content = torch.load(path, weights_only=True)
    header, state = change(content["header"], content["state"])
    torch.save({"header": header, "state": state}, path)
    with pytest.raises(ValueError, match=rf"agent\.pt .*{message}"):
        QLearning.load(path)


def without(header: str, key: str) -> str:
    return json.dumps({name: value for name, value in json.loads(header).items() if name != key})


def with_entry(header: str, key: str, value: Any) -> str:
    return json.dumps({**json.loads(header), key: value})
