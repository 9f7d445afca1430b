"""Many soft actor-critics as one: each is what it would be alone, whoever its neighbours are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prefrl import cli
from prefrl.agents import SAC, SACConfig, SACLearners
from prefrl.agents.base import Spaces, load
from prefrl.data.replay import Batch
from prefrl.envs import make_device
from prefrl.reading.text import read_json
from prefrl.run.loop import learn
from tests.shared.resuming import assert_same, crash_at, new_folder

SMALL: dict[str, Any] = {"hidden": (8, 8), "learning_starts": 20, "batch_size": 8, "learning_rate": 1e-3}
PARTS = {"actor": 1, "critic": 2, "target": 2}
"""Stacks, and their members of a learner."""


def on_device(learners: int, rows: int = 2) -> Any:
    return make_device("prefrl/Pendulum-v0", learners * rows, num_streams=learners, max_episode_steps=30)


def in_sync(learners: int, rows: int = 2) -> Any:
    return gym.make_vec("Pendulum-v1", learners * rows, vectorization_mode="sync", max_episode_steps=30)


def trained(
    learners: int, steps: int = 200, *, seed: int = 0, env: Callable[[int], Any] = on_device, **settings: Any
) -> SACLearners:
    config = SACConfig(**{**SMALL, **settings})
    return learn(SACLearners(env(learners), config, num_learners=learners, device="cpu", seed=seed), steps)


def weights(agent: SACLearners | SAC, learner: int) -> dict[str, Tensor]:
    """Everything that a learner has learned, by name."""
    found = {
        f"{part}.{name}": value[members * learner : members * (learner + 1)]
        for part, members in PARTS.items()
        for name, value in getattr(agent.networks, part).state_dict().items()
    }
    return {**found, "temperature": agent.networks.log_temperature.detach().reshape(-1)[learner]}


def test_a_learner_is_the_same_among_others() -> None:
    many, few, alone = trained(4), trained(2), trained(1, seed=1)
    start = SACLearners(on_device(1), SACConfig(**SMALL), num_learners=1, device="cpu", seed=1)
    for index in range(2):
        assert_same(weights(many, index), weights(few, index))
    for name, value in weights(many, 1).items():
        torch.testing.assert_close(value, weights(alone, 0)[name], rtol=1e-4, atol=1e-5)
        if "weight" in name:
            assert not torch.allclose(value, weights(start, 0)[name], atol=1e-3), name
            assert not torch.allclose(value, weights(many, 0)[name], atol=1e-3), name
    for name, ahead in many._drawn.items():
        assert torch.equal(ahead.streams.keys[1:2], alone._drawn[name].streams.keys)


def test_actions_of_the_warm_up_are_held() -> None:
    many = SACLearners(on_device(2), SACConfig(**SMALL, warmup_hold=2), num_learners=2, device="cpu")
    first, second, third = (many.act(torch.zeros(4, 3)) for _ in range(3))
    assert torch.equal(first, second)
    assert (second != third).all()


def test_one_learner_starts_as_the_agent_of_its_seed() -> None:
    spaces = Spaces(in_sync(1).single_observation_space, in_sync(1).single_action_space)
    agent = SAC(spaces, SACConfig(**SMALL), device="cpu", seed=5)
    many = SACLearners(spaces, SACConfig(**SMALL), num_learners=3, device="cpu", seed=4)
    assert_same(weights(many, 1), weights(agent, 0))


def test_a_step_of_each_is_the_step_of_a_single_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every learner of a stack, taken out as an agent of its own, goes on as it does in the stack."""
    many = trained(3, 60, learning_rate=(1e-3, 1e-2, 1e-3), max_grad_norm=0.5, tau=0.1)
    singles = [many.learner(index).networks for index in range(3)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        obs, next_obs = torch.randn(2, 24, 3, generator=generator)
        actions, noise = torch.rand(24, 1, generator=generator), torch.randn(3, 16, 1, generator=generator)
        weights_ = (torch.arange(24) % 5 > 0).float()
        rows = (obs, actions, obs.square().sum(1), next_obs, torch.full((24,), 0.9), weights_)
        metrics = many.networks.step_of_all(Batch(*rows), noise)
        found = []
        for index, single in enumerate(singles):
            monkeypatch.setattr(single, "noise", lambda *_, own=noise[index : index + 1]: own)
            found.append(single.step(Batch(*(values[8 * index : 8 * index + 8] for values in rows))))
        for name, value in metrics.items():
            expected = torch.stack([each[name] for each in found]).mean()
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    for index, single in enumerate(singles):
        own = many.learner(index).networks
        for part in PARTS:
            for mine, theirs in zip(getattr(own, part).parameters(), getattr(single, part).parameters(),
                                    strict=True):  # fmt: skip
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.log_temperature, single.log_temperature, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.largest, single.largest)
        for part, adam in own.optimizers.items():
            torch.testing.assert_close(
                adam.state_dict(), single.optimizers[part].state_dict(), rtol=1e-3, atol=1e-6
            )


@pytest.mark.parametrize("env", [on_device, in_sync])
def test_a_learner_is_an_agent_of_its_own(tmp_path: Path, env: Callable[[int], Any]) -> None:
    many = trained(3, 60, env=env)
    obs = torch.as_tensor(np.asarray(env(3).reset(seed=3)[0]))
    actions = many.act(obs, deterministic=True)
    for index in range(3):
        one = many.learner(index)
        rows = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(one.act(obs[rows], deterministic=True), actions[rows])
        torch.testing.assert_close(one.networks.moments.mean, many.networks.moments.mean[index, 0])
        assert (one.seed, one.num_timesteps) == (index, many.num_timesteps)
    one.save(tmp_path / "one.pt")
    again = SAC.load(tmp_path / "one.pt", env=env(1))
    assert_same(again.networks.state_dict(), one.networks.state_dict())
    learn(again, 30)
    assert again.num_timesteps == many.num_timesteps + 30
    with pytest.raises(ValueError, match="index is 3; the learners are 0 to 2"):
        many.learner(3)
    with pytest.raises(ValueError, match=r"there are 3 learners; ask one: agent.learner\(0\)"):
        many.predict(obs.numpy())


def test_all_of_them_are_saved_and_loaded(tmp_path: Path) -> None:
    many = trained(2, 60)
    many.save(tmp_path / "many.pt")
    again = load(tmp_path / "many.pt", env=on_device(2))
    assert isinstance(again, SACLearners)
    assert again.num_learners == 2
    for part in ("policy", "drawn", "learned_at"):
        assert_same(again.saved_state()[part], many.saved_state()[part])
    learn(again, 30)


def test_seeds_may_be_given(tmp_path: Path) -> None:
    many = SACLearners(on_device(2), SACConfig(**SMALL), num_learners=2, device="cpu", seed=(7, 3))
    other = SACLearners(on_device(1), SACConfig(**SMALL), num_learners=1, device="cpu", seed=3)
    assert_same(weights(many, 1), weights(other, 0))
    many.save(tmp_path / "many.pt")
    again = SACLearners.load(tmp_path / "many.pt")
    assert again.seeds == [7, 3]
    assert again.learner(1).seed == 3


def test_settings_may_be_those_of_each() -> None:
    each: dict[str, Any] = {
        "learning_rate": (1e-3, 1e-2, 1e-3), "gamma": (0.9, 0.9, 0.5), "target_entropy": (-1.0, -1.0, 1.0),
        "initial_temperature": (1.0, 0.1, 1.0), "temperature_learning_rate": (1e-2, 1e-3, 1e-2),
        "actor_learning_rate": (1e-3, 1e-3, 1e-2),
    }  # fmt: skip
    many = trained(3, **each)
    for index in range(3):
        own = {name: values[index] for name, values in each.items()}
        same = trained(3, **own)
        for name, value in weights(many, index).items():
            torch.testing.assert_close(value, weights(same, index)[name], rtol=1e-4, atol=1e-6)
        assert many.learner(index).config == SACConfig(**{**SMALL, **own})


@pytest.mark.parametrize("part", ["learning_rate", "actor_learning_rate", "temperature_learning_rate"])
def test_one_that_diverges_is_frozen_and_the_others_go_on(part: str) -> None:
    with pytest.warns(UserWarning, match=r"learners \[1\] diverged and stay as they were before; a lower"):
        many = trained(3, **{part: (1e-3, 3e38, 1e-3)})
    sound = trained(3, **{part: 1e-3})
    for index in (0, 2):
        assert_same(weights(many, index), weights(sound, index))
    assert many.result()["frozen_learners"] == [1]
    before = {name: value.clone() for name, value in weights(many, 1).items()}
    learn(many, 40)
    assert_same(weights(many, 1), before)
    assert all(value.isfinite().all() for value in before.values())


@pytest.mark.parametrize("settings", [{}, {"target_update_gradient_steps": 3, "learn_temperature": False}])
def test_a_resumed_run_is_bit_equal(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = SACConfig(**SMALL, **settings)
    whole, broken, fresh = (
        SACLearners(on_device(2), config, num_learners=2, device="cpu", seed=3) for _ in range(3)
    )
    learn(whole, 200, folder=new_folder(tmp_path / "whole"), checkpoint_every=60)
    folder = new_folder(tmp_path / "broken")
    with pytest.raises(RuntimeError, match="crash"):
        learn(broken, 200, folder=folder, checkpoint_every=60, callback=crash_at(150))
    learn(fresh, 200, folder=folder, checkpoint_every=60, resume=True)
    assert_same(fresh.state_dict(), whole.state_dict())


class Calls(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_more_learners_take_no_more_operations() -> None:
    counts = []
    for learners in (2, 16):
        agent = trained(learners, 40)
        for name, rows in (("replay", 8), ("steps", 16)):  # not the ones that draw ahead
            agent._drawn[name].next(rows)
        with Calls() as calls:
            agent._gradient_step()
        counts.append(calls.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("settings", "message"), [
    ({"learning_rate": (1e-3, 1e-3, 1e-3)}, "learning_rate is for 3 learners; num_learners is 2"),
    ({"critic_regularizer": "spectral"}, "critic_regularizer is 'spectral'; for several learners it must be"),
    ({"critic_regularizer": "robust"}, "critic_regularizer is 'robust'; for several learners it must be"),
    ({"compile": True}, "compile is True; for several learners it must be False"),
])  # fmt: skip
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SACLearners(on_device(2), SACConfig(**settings), num_learners=2, device="cpu")


def test_what_a_single_one_refuses() -> None:
    with pytest.raises(ValueError, match="gamma is for 2 learners; num_learners is 1"):
        SAC(on_device(1), SACConfig(gamma=(0.9, 0.9)), device="cpu")
    with pytest.raises(ValueError, match="env has 4 rows; they must be a multiple of the 3 learners"):
        SACLearners(on_device(2), num_learners=3, device="cpu")


def test_warns_of_a_learner_whose_values_no_policy_has() -> None:
    many = SACLearners(on_device(2), SACConfig(gamma=(0.5, 0.9)), num_learners=2, device="cpu")
    many.networks.largest[:] = torch.tensor([[15.0, 10.0], [15.0, 1.0]])
    with pytest.warns(UserWarning, match=r"\|Q\| of learner 1 reaches 15, but .* worth more than 10"):
        many.check()


def test_a_run_of_several_tells_of_each(tmp_path: Path) -> None:
    flags = {"env-id": "prefrl/Pendulum-v0", "num-learners": 3, "num-envs": 2, "total-timesteps": 80,
             "learning-starts": 20, "batch-size": 8, "hidden": 8, "eval-episodes": 2, "final-episodes": 2,
             "eval-every": 40, "distractors": 1, "device": "cpu", "out": tmp_path / "r"}  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert cli.main(["train", "sac", *words]) == 0
    result = read_json(tmp_path / "r" / "result.json", "result.json")
    assert [learner["seed"] for learner in result["learners"]] == [0, 1, 2]
    assert result["eval_timesteps"] == [40, 80]
    assert all(len(learner["eval_returns"]) == 2 for learner in result["learners"])
    assert len(result["largest_q"]) == 3
    low, high = result["interval"]
    assert low <= result["final_return"] <= high
