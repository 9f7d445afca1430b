"""Deep Q-learning from a data set: its fixed points against exact ones, conservatism, what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents import DQN, DQNConfig
from prefrl.agents.base import Spaces
from prefrl.agents.value_based.dqn import LEARNING_RATES
from prefrl.data import TransitionDataset
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn

assert prefrl.envs.REGISTRY
GAMMA = 0.9
LOSSES = list(LEARNING_RATES)
SETTINGS: dict[str, Any] = {
    "gamma": GAMMA, "hidden": (32,), "batch_size": 64, "target_update_interval": 50, "v_min": -15.0,
    "v_max": 15.0, "bins": 31, "quantiles": 8, "learning_rate": 1e-2, "max_clamped_fraction": 1.0,
}  # fmt: skip

# Two states and a terminal one. In state 0, action 0 pays 1 and leads to state 1, action 1 pays 0 and stays;
# in state 1, action 0 pays -2 and ends the episode, action 1 pays 4 and does so too.
CHAIN: list[tuple[int, int, float, int, bool]] = [
    (0, 0, 1.0, 1, False), (1, 0, -2.0, 2, True), (0, 1, 0.0, 0, False), (0, 0, 1.0, 1, False),
    (1, 1, 4.0, 2, True),
]  # fmt: skip


def data_of(rows: list[tuple[int, int, float, int, bool]], cut: tuple[int, ...] = (), **changes: Any) -> Any:
    obs, actions, rewards, next_obs, terminations = zip(*rows, strict=True)
    truncations = torch.zeros(len(rows), dtype=torch.bool)
    truncations[list(cut)] = True
    fields = {
        "obs": torch.tensor(obs), "actions": torch.tensor(actions), "rewards": torch.tensor(rewards),
        "next_obs": torch.tensor(next_obs), "terminations": torch.tensor(terminations),
        "truncations": truncations, "observation_space": gym.spaces.Discrete(3),
        "action_space": gym.spaces.Discrete(2),
    }  # fmt: skip
    return TransitionDataset.from_transitions(**{**fields, **changes})


def learned(dataset: TransitionDataset, steps: int = 500, **settings: Any) -> DQN:
    spaces = Spaces(dataset.observation_space, dataset.action_space)
    agent = DQN(spaces, DQNConfig(**{**SETTINGS, **settings}), dataset=dataset, device="cpu")
    return agent.learn(steps)


def test_no_exploration_is_reported() -> None:
    assert learned(grid()[1], 2).schedules() == {}


def q_of(agent: DQN) -> np.ndarray:
    return agent.q_values(torch.arange(agent.observation_space.n)).numpy()


def grid() -> tuple[Any, TransitionDataset, np.ndarray]:
    """A grid of 3 x 5 cells, every pair of state and action once, and its optimal action values."""
    env = gym.make("prefrl/RandomGrid-v0", layout_seed=233).unwrapped
    model, value = env.tabular_model(), env.optimal_value(GAMMA)
    states, actions = np.nonzero(np.repeat(~model.terminal[:, None], 4, 1))
    successors = model.successors[states, actions, 0]
    rewards = model.rewards[states, actions, 0]
    rows = zip(*map(np.ndarray.tolist, (states, actions, rewards, successors, model.terminal[successors])),
               strict=True)  # fmt: skip
    no = torch.ones(len(states), dtype=torch.bool)
    data = data_of(
        list(rows), observation_space=env.observation_space, action_space=env.action_space, ends=no
    )
    return env, data, (model.rewards + GAMMA * value[model.successors])[..., 0]


# Fixed points ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_finds_the_optimal_values(loss: str) -> None:
    env, data, optimal = grid()
    agent = learned(data, 500, loss=loss)
    alive = ~env.tabular_model().terminal
    error = np.abs(q_of(agent) - optimal)[alive]
    assert error.max() < 1.0  # of a range of 11
    assert error.mean() < 0.25
    gaps = optimal.max(-1) - optimal[np.arange(len(optimal)), q_of(agent).argmax(-1)]
    assert gaps[alive].max() < 0.5


@pytest.mark.parametrize(("loss", "n_step"), [("mse", 2), ("hl_gauss", 1), ("c51", 2)])
def test_sarsa_values_are_those_of_the_data(loss: str, n_step: int) -> None:
    """After state 0 and action 0 came either action of state 1: the mean of -2 and 4 follows."""
    agent = learned(data_of(CHAIN), 300, loss=loss, target_policy="sarsa", n_step=n_step)
    q = q_of(agent)
    assert q[1] == pytest.approx([-2.0, 4.0], abs=0.15)
    assert q[0, 0] == pytest.approx(1.0 + GAMMA * 1.0, abs=0.6)
    assert q[0, 1] == pytest.approx(GAMMA * (1.0 + GAMMA * 4.0 if n_step == 2 else q[0, 0]), abs=0.6)
    greedy = q_of(learned(data_of(CHAIN), 300, loss=loss))
    assert greedy[0, 0] == pytest.approx(1.0 + GAMMA * 4.0, abs=0.3)


def test_a_cut_is_no_end() -> None:
    """The same rows: where the last is terminal its value is its reward, where it was cut it bootstraps."""
    loop = [(0, 0, 1.0, 0, False)]
    ended = learned(data_of([(0, 0, 1.0, 0, True)]), 200, loss="mse", gamma=0.5)
    cut = learned(data_of(loop, cut=(0,)), 400, loss="mse", gamma=0.5, target_update_interval=20)
    assert q_of(ended)[0, 0] == pytest.approx(1.0, abs=0.02)
    assert q_of(cut)[0].max() == pytest.approx(2.0, abs=1.0)
    assert q_of(cut)[0, 0] > 1.2


def test_sarsa_leaves_out_what_has_no_next_action() -> None:
    rows = [(0, 0, 1.0, 1, False), (1, 0, 7.0, 0, False), (1, 1, 3.0, 2, True)]
    kept = learned(data_of(rows, cut=(1,)), 150, loss="mse", target_policy="sarsa")
    assert q_of(kept)[1, 1] == pytest.approx(3.0, abs=0.1)
    assert q_of(kept)[1, 0] < 5.0  # nobody told of the 7
    assert q_of(learned(data_of(rows, cut=(1,)), 150, loss="mse"))[1, 0] > 7.0


def test_conservatism_holds_down_what_the_data_do_not_show() -> None:
    rows = [(0, 0, 1.0, 2, True), (1, 1, 1.0, 2, True)]
    gaps = []
    for alpha in (0.0, 0.3, 1.0):
        q = q_of(learned(data_of(rows), 200, loss="hl_gauss", cql_alpha=alpha))
        gaps.append(min(q[0, 0] - q[0, 1], q[1, 1] - q[1, 0]))
    assert gaps[1] > gaps[0] + 0.3
    assert gaps[2] > gaps[1] + 0.3


# How it runs -------------------------------------------------------------------------------------------


def test_a_timestep_is_a_gradient_step() -> None:
    agent = learned(data_of(CHAIN), 37, train_freq=5, gradient_steps=3, learning_starts=1000)
    assert not agent.steps_env
    assert agent.num_timesteps == 37
    assert int(agent.optimizer.state_dict()["state"][0]["step"]) == 37


@pytest.mark.parametrize("loss", ["hl_gauss", "c51", "mse"])
def test_resumed_equals_uninterrupted(loss: str, tmp_path: Path) -> None:
    def make() -> DQN:
        config = DQNConfig(**{**SETTINGS, "batch_size": 8}, loss=loss, cql_alpha=0.1, tau=0.5)
        return DQN(gym.make("prefrl/RandomGrid-v0", layout_seed=233), config, dataset=grid()[1], device="cpu")

    def crash(local: dict[str, Any], _: Any) -> bool:
        if local["self"].agent.num_timesteps >= 50:
            raise RuntimeError("crash")
        return True

    whole = make().learn(80)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "test", "config": {}}, quiet=True)
    with pytest.raises(RuntimeError, match="crash"):
        learn(make(), 80, folder=folder, checkpoint_every=30, callback=crash)
    resumed = learn(make(), 80, folder=folder, checkpoint_every=30, resume=True)
    assert resumed.num_timesteps == 80
    for ours, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (q_of(resumed) == q_of(whole)).all()
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint["agent"]["replay"] is None  # the data set stays where it is


def test_a_saved_agent_needs_no_data_to_predict(tmp_path: Path) -> None:
    agent = learned(data_of(CHAIN), 50, cql_alpha=0.5, target_policy="sarsa")
    agent.save(tmp_path / "agent.pt")
    loaded = DQN.load(tmp_path / "agent.pt", device="cpu")
    assert (q_of(loaded) == q_of(agent)).all()
    assert loaded.predict(1, deterministic=True)[0] == agent.predict(1, deterministic=True)[0]


def test_a_loaded_agent_goes_on_in_an_environment(tmp_path: Path) -> None:
    """Conservatively or not; it explores as little as it ever will, since it knows something already."""
    env, data, _ = grid()
    agent = learned(data, 20, cql_alpha=0.5, learning_starts=1_000, epsilon_end=0.125)
    agent.save(tmp_path / "agent.pt")
    loaded = DQN.load(tmp_path / "agent.pt", env=env, device="cpu")
    assert agent.epsilon == loaded.epsilon == 0.125
    before = q_of(loaded)
    loaded.learn(1_100)
    assert loaded.epsilon == 0.125
    assert (q_of(loaded) != before).any()


# What is refused ---------------------------------------------------------------------------------------


def test_data_of_another_environment_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a dataset from another environment.*Discrete\(3\).*Box\("):
        DQN(gym.make("CartPole-v1"), dataset=data_of(CHAIN), device="cpu")
    named = dataclasses.replace(data_of(CHAIN), env_id="test/Chain-v0")
    with pytest.warns(UserWarning, match="from test/Chain-v0, and the environment is prefrl/RandomGrid-v0"):
        DQN(grid()[0], dataset=dataclasses.replace(grid()[1], env_id="test/Chain-v0"), device="cpu")
    spaces = Spaces(gym.spaces.Discrete(3), gym.spaces.Discrete(2, start=1))
    with pytest.raises(ValueError, match=r"another environment \(test/Chain-v0\)"):
        DQN(spaces, dataset=named, device="cpu")


@pytest.mark.parametrize("loss", ["hl_gauss", "two_hot", "c51", "mse_softmax"])
def test_returns_that_the_support_cannot_hold_are_refused(loss: str) -> None:
    data = data_of(CHAIN)  # their returns at gamma 0.9 go from -2 to 4.6
    for low, high in ((-2.5, 4.5), (-1.5, 5.0)):
        settings = {**SETTINGS, "loss": loss, "v_min": low, "v_max": high, "max_clamped_fraction": 0.5}
        message = rf"the support \[{low:g}, {high:g}\] cannot hold .*from -2 to 4.6; widen v_min and v_max"
        with pytest.raises(ValueError, match=message):
            DQN(Spaces(data.observation_space, data.action_space), DQNConfig(**settings), dataset=data,
                device="cpu")  # fmt: skip
        learned(data, 1, **{**settings, "max_clamped_fraction": 1.0})  # who allows it gets it
        learned(data, 1, **{**settings, "loss": "mse"})
    learned(data, 1, loss=loss, v_min=-2.5, v_max=5.0)


def test_data_shorter_than_a_return_are_refused() -> None:
    with pytest.raises(ValueError, match="the dataset has 5 transitions; n_step is 6"):
        learned(data_of(CHAIN), 1, n_step=6)
