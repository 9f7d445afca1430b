"""MBPO: what is imagined and how much of it, what is learned from it, and that runs go on after a crash."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from resuming import assert_same, crash_at, new_folder
from torch import Tensor

import prefrl
from prefrl.agents import MBPO, MBPOConfig
from prefrl.agents.actor_critic.mbpo_config import PAPER, mbpo_preset
from prefrl.agents.base import Spaces
from prefrl.data import Transitions
from prefrl.envs.known_parts import KnownParts
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.loop import Loop, learn

SMALL: dict[str, Any] = {
    "hidden": (8, 8), "batch_size": 20, "learning_starts": 20, "buffer_size": 500, "updates_per_step": 2,
    "ensemble_size": 3, "elites": 2, "model_hidden": (8, 8), "model_batch_size": 16, "max_fit_steps": 12,
    "refit_every": 10, "rollouts_per_step": 6, "rollout_schedule": (0, 1, 1, 1), "epoch_timesteps": 20,
    "diagnostics_every": 20, "diagnostics_states": 30, "real_ratio": 0.25, "value_gradient_warmup": 0,
}  # fmt: skip


def make(env: Any = None, seed: int = 1, **settings: Any) -> MBPO:
    env = gym.make("prefrl/Pendulum-v0", max_episode_steps=12) if env is None else env
    return MBPO(env, MBPOConfig(**{**SMALL, **settings}), device="cpu", seed=seed)


def imagined(agent: MBPO) -> dict[str, Tensor]:
    """What the buffer of imagined transitions holds, the oldest first."""
    ring = agent.imagined
    assert ring is not None
    filled = int(ring.filled)
    places = (int(ring.position) - filled + torch.arange(filled)) % ring.capacity
    sizes = [agent.observations, agent.actions, 1, 1, agent.observations]
    parts = torch.split(ring.storage[places], sizes, 1)  # type: ignore[no-untyped-call]
    return dict(zip(("obs", "actions", "rewards", "discounts", "next_obs"), parts, strict=True))


# What is imagined --------------------------------------------------------------------------------------


def test_rollouts_and_what_is_kept_of_them_follow_the_schedule() -> None:
    agent = make(rollout_schedule=(1, 3, 1, 5))
    lengths = []
    for _ in range(4):
        learn(agent, 20)
        # at 20, 40, ...: epochs 0, 1, 2, 3
        metrics = agent.imagine()
        lengths.append(float(metrics["model/rollout_length"]))
        assert float(metrics["model/mean_rollout_length"]) == lengths[-1]  # nothing ends in a pendulum
        assert agent.imagined is not None
        assert agent.imagined.capacity == lengths[-1] * 6 * 20  # k M F (epoch / F)
    assert lengths == [1.0, 1.0, 3.0, 5.0]


def test_what_was_imagined_outlives_the_next_fit_until_an_epoch_is_over() -> None:
    agent = make()
    sizes = []
    for _ in range(5):
        learn(agent, 10)
        sizes.append(0 if agent.imagined is None else int(agent.imagined.filled))
    assert sizes == [0, 60, 120, 120, 120]  # M F at a time, for 2 refits of an epoch


def test_imagined_actions_are_drawn_from_the_policy_and_start_from_real_states() -> None:
    agent = make()
    learn(agent, 20)
    rows = imagined(agent)
    real = agent._rows()["obs"]
    distances = (rows["obs"][:, None] - real).abs().amax(-1)
    assert distances.min(1).values.max() == 0.0
    settled = agent.networks.act(rows["obs"], deterministic=True)
    assert (rows["actions"] - settled).abs().mean() > 0.2
    assert rows["actions"].abs().max() <= 1.0


def test_episodes_end_where_they_must_and_nothing_is_imagined_beyond() -> None:
    env = gym.make("prefrl/Pendulum-v0", max_episode_steps=12)
    config = MBPOConfig(**{**SMALL, "rollout_schedule": (0, 1, 4, 4)})
    agent = MBPO(env, config, termination=lambda obs: obs[:, 2] > 0.0, device="cpu", seed=0)
    learn(agent, 20)
    rows = imagined(agent)
    ended = rows["next_obs"][:, 2] > 0.0
    assert 0 < ended.sum() < len(ended)
    assert (rows["discounts"][ended] == 0.0).all()
    assert (rows["discounts"][~ended] == np.float32(0.99)).all()
    starts = rows["obs"][60:]  # second steps: of rows whose first did not end
    assert (starts[:, 2] <= 0.0).all()
    assert len(rows["obs"]) < 4 * 60


def test_numbers_that_are_none_are_not_kept() -> None:
    agent = make()
    learn(agent, 20)
    assert agent.known is not None
    broken = torch.tensor([torch.nan, 0.0, 0.0])
    agent.known = KnownParts(agent.known.termination, None, lambda obs: torch.where(
        obs[:, :1] > 0.0, broken, obs))  # fmt: skip
    before = int(agent.imagined.filled) if agent.imagined is not None else 0
    agent.imagine()
    rows = imagined(agent)
    assert torch.isfinite(rows["next_obs"]).all()
    assert before < len(rows["obs"]) < 120


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.2])
def test_predictions_stay_close_to_the_data(share: float, side: float) -> None:
    agent = make(clip_predictions=share)
    learn(agent, 20)
    with torch.no_grad():
        for network in (agent.model.ensemble, agent.model.elite):
            network.network.biases()[-1].fill_(side * 1e3)
    next_obs, _ = agent.model_step(torch.zeros(5, 3), torch.zeros(5, 1))
    speeds = torch.cat([agent._rows()["obs"], agent._rows()["next_obs"]])[:, 2]
    low, high = float(speeds.min()), float(speeds.max())
    bound = (high if side > 0.0 else low) + side * share * (high - low)
    assert abs(bound) < 8.0  # where a pendulum's speed ends anyway
    torch.testing.assert_close(next_obs[:, 2], torch.full((5,), bound))
    torch.testing.assert_close(next_obs[:, :2].square().sum(1), torch.ones(5))  # and on the circle


def test_policy_and_model_draw_unrelated_numbers() -> None:
    agent = make()
    assert not torch.equal(agent.networks.generator.get_state(), agent._generator.get_state())
    one, other = (torch.randn(50, generator=draws) for draws in (agent.networks.generator, agent._generator))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.5


def test_a_known_reward_is_not_learned() -> None:
    agent = make(reward="known", probabilistic=False)
    assert agent.model.ensemble.outputs == 3
    learn(agent, 20)
    rows = imagined(agent)
    angle = torch.atan2(rows["obs"][:, 1], rows["obs"][:, 0])
    torque = 2.0 * rows["actions"][:, 0]
    expected = -(angle**2 + 0.1 * rows["obs"][:, 2] ** 2 + 0.001 * torque**2)
    torch.testing.assert_close(rows["rewards"][:, 0], expected, rtol=1e-4, atol=1e-4)


def test_the_reward_is_learned_beside_the_change_of_the_state() -> None:
    agent = make(max_fit_steps=400, model_hidden=(32, 32), patience=30, probabilistic=False,
                 standardize_targets=True, learning_starts=300, refit_every=300, epoch_timesteps=300,
                 model_learning_rate=3e-3)  # fmt: skip
    learn(agent, 300)
    rows = agent._rows()
    next_obs, rewards = agent.model_step(rows["obs"], rows["actions"], deterministic=True)
    error = (next_obs - rows["next_obs"]).square().mean(0) / (rows["next_obs"] - rows["obs"]).var(0)
    assert error.max() < 0.2
    assert (rewards - rows["rewards"]).square().mean() < 0.1 * rows["rewards"].var()


# What is learned from it -------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "real"), [(0.0, 0), (0.05, 1), (0.25, 5), (1.0, 20)])
def test_batches_are_of_real_and_imagined_transitions(ratio: float, real: int) -> None:
    agent = make(real_ratio=ratio)
    learn(agent, 20)
    assert agent.replay is not None
    assert agent.imagined is not None
    agent.imagined.storage[:, -1] = 77.0
    batches = list(agent.batches(3))
    assert len(batches) == 3
    for batch in batches:
        assert batch.obs.shape == (20, 3)
        assert int((batch.next_obs[:, 2] != 77.0).sum()) == real
    drawn = torch.cat([batch.obs for batch in batches])
    assert len(drawn.unique(dim=0)) > 12


def test_the_share_of_real_transitions_follows_its_schedule() -> None:
    """From all to a quarter in 2 epochs of 20 timesteps, from the 20th timestep on."""
    agent = make(real_ratio_start=1.0, real_ratio_epochs=2)
    found = {}
    for timestep in (20, 25, 40, 59, 60, 75):
        learn(agent, timestep - agent.num_timesteps)
        assert agent.imagined is not None
        agent.imagined.storage[:, -1] = 77.0
        (batch,) = agent.batches(1)
        assert batch.obs.shape == (20, 3)
        found[timestep] = int((batch.next_obs[:, 2] != 77.0).sum())
        assert agent.schedules()["train/real_ratio"] == pytest.approx(
            {20: 1.0, 25: 0.90625, 40: 0.625, 59: 0.26875, 60: 0.25, 75: 0.25}[timestep]
        )
    assert found == {20: 20, 25: 18, 40: 12, 59: 5, 60: 5, 75: 5}  # 20 (1 - .75 epoch / 2), rounded down
    assert make().schedules() == {}


def test_rows_between_episodes_are_no_errors_of_the_model() -> None:
    env = gym.make_vec("prefrl/Pendulum-v0", num_envs=2, max_episode_steps=5)
    agent = make(env, reward="known", probabilistic=False, ensemble_size=1, model_hidden=(64, 64),
                 max_fit_steps=2000, patience=50, standardize_targets=True, learning_starts=400,
                 refit_every=400, epoch_timesteps=400, model_learning_rate=3e-3)  # fmt: skip
    learn(agent, 400)
    agent._unseen = 100
    agent.diagnose()
    assert agent.diagnostics["model/rmse"] < 0.1  # a jump to a new start is of the size of 1


@pytest.mark.parametrize(("settings", "found"), [
    ({"holdout_max": 3}, 17), ({"holdout_fraction": 0.5}, 10), ({}, 16),
])  # fmt: skip
def test_what_a_fit_learns_from(settings: dict[str, Any], found: int, monkeypatch: Any) -> None:
    agent = make(**settings)
    seen = []
    monkeypatch.setattr(agent.model, "_standardize", lambda table, train, widths: seen.append(len(train)))
    learn(agent, 20)
    assert set(seen) == {found}


def test_settings_reach_the_fit() -> None:
    agent = make(model_weight_decay=0.5, model_max_grad_norm=3.0, retain_epochs=3)
    update = agent.model._update
    assert update.max_grad_norm == 3.0
    assert {decay for _, decay in update.optimizer._decays} == {0.0, 0.5}
    learn(agent, 20)
    assert agent.imagined is not None
    assert agent.imagined.capacity == 3 * 6 * 20
    assert make(model_max_grad_norm=None).model._update.max_grad_norm == np.inf


def test_gradient_steps_are_those_that_are_due() -> None:
    agent = make(updates_per_step=3)
    learn(agent, 60)
    assert agent.networks.updates == (60 - 19) * 3
    assert agent._fitted_at == 60


def test_the_model_is_fitted_to_transitions_only() -> None:
    """Rows between two episodes are none: with NEXT_STEP they hold a jump to a new start."""
    env = gym.make_vec("prefrl/Pendulum-v0", num_envs=2, max_episode_steps=5)
    agent = make(env)
    seen: dict[str, Tensor] = {}
    fit = agent.model.fit

    def watch(inputs: Tensor, targets: Tensor, generator: Any, **more: Any) -> Any:
        seen.update(more)
        return fit(inputs, targets, generator, **more)

    agent.model.fit = watch  # type: ignore[method-assign]
    learn(agent, 24)
    rows = seen["rows"]
    assert rows.dtype == torch.bool
    assert 0 < int((~rows).sum()) <= 4


# Value gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
def test_errors_are_weighted_by_the_values_gradient(total: bool, standardize: bool) -> None:
    agent = make(probabilistic=False, model_loss="value_gradient", value_gradient_total=total,
                 value_gradient_quantile=None, value_gradient_normalize=False,
                 standardize_targets=standardize)  # fmt: skip
    learn(agent, 20)
    rows = agent._rows()
    before = [parameter.clone() for parameter in agent.networks.critic.parameters()]
    change = rows["next_obs"] - rows["obs"]
    weights = agent._entries(rows, change)
    assert weights is not None
    at = rows["next_obs"].clone().requires_grad_()
    mean = torch.tanh(agent.networks.actor(at[None])[0][:, :1])
    both = agent.networks.critic(torch.cat([at, mean if total else mean.detach()], 1).expand(2, -1, -1))
    expected = sum(torch.autograd.grad(both[i].sum(), at, retain_graph=True)[0] ** 2 for i in range(2)) / 2
    scale = change.var(0, correction=0) if standardize else torch.ones(3)
    torch.testing.assert_close(weights[:, 1:], expected * scale, rtol=1e-4, atol=1e-6)
    assert (weights[:, 0] == 1.0).all()  # the reward's
    assert not weights.requires_grad
    for parameter, then in zip(agent.networks.critic.parameters(), before, strict=True):
        assert torch.equal(parameter, then)


def test_value_gradients_wait_until_critics_mean_something() -> None:
    agent = make(probabilistic=False, model_loss="value_gradient", value_gradient_warmup=15)
    learn(agent, 30)
    rows = agent._rows()
    weights = agent._entries(rows, rows["next_obs"])
    assert weights is not None
    assert (weights == 1.0).all()
    learn(agent, 10)
    rows = agent._rows()
    weights = agent._entries(rows, rows["next_obs"])
    assert weights is not None
    assert weights[:, 1:].std() > 0.1
    assert float(weights[:, 1:].mean()) == pytest.approx(1.0, abs=1e-4)
    assert float(weights[:, 1:].min()) >= 0.05


# Runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {"learn_variance_bounds": True, "rollout_schedule": (0, 3, 1, 3)},
    {"real_ratio_start": 1.0, "real_ratio_epochs": 3},
    {"ensemble_size": 1, "probabilistic": False, "critic_regularizer": "robust"},
    {"probabilistic": False, "model_loss": "value_gradient", "critic_regularizer": "spectral"},
])  # fmt: skip
def test_resumed_equals_uninterrupted(settings: dict[str, Any], tmp_path: Path) -> None:
    run: dict[str, Any] = {"total_timesteps": 70, "log_every": 10, "checkpoint_every": 16}
    whole_folder, folder = new_folder(tmp_path / "whole"), new_folder(tmp_path / "crashed")
    whole = make(**settings)
    Loop(whole, **run, folder=whole_folder).run()

    with pytest.raises(RuntimeError, match="crash"):
        Loop(make(**settings), **run, folder=folder, callback=crash_at(55)).run()
    agent = make(**settings)
    Loop(agent, **run, folder=folder, resume=True).run()
    ours, theirs = (load_checkpoint(each.checkpoint_path) for each in (folder, whole_folder))
    for key in ("agent", "stepper", "metrics", "num_timesteps"):
        assert_same(ours[key], theirs[key])
    assert all(agent.seconds[name] > 0.0 for name in ("model", "rollout", "policy"))


def test_what_a_run_reports() -> None:
    agent = make()
    learn(agent, 50)
    result = agent.result()
    assert set(result) == {
        "seconds_model", "seconds_rollout", "seconds_policy", "local_lipschitz", "value_aware_model_error",
        "model_rmse", "bound_holds", "largest_q",
    }  # fmt: skip
    assert result["bound_holds"] > 0.99
    assert result["local_lipschitz"] > 0.0
    assert {name.partition("/")[0] for name in agent.diagnostics} == {"smoothness", "model"}
    assert len(agent.diagnostics) == 12


def test_saved_agents_act_alike_and_go_on_with_an_environment_only(tmp_path: Path) -> None:
    agent = make()
    learn(agent, 40)
    agent.save(tmp_path / "agent.pt")
    obs = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
    loaded = MBPO.load(tmp_path / "agent.pt", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0]
    )
    assert loaded.config == agent.config
    again = MBPO.load(tmp_path / "agent.pt", env=gym.make("prefrl/Pendulum-v0"), device="cpu")
    learn(again, 30)
    assert again.num_timesteps == 70
    assert again.networks.updates > agent.networks.updates
    flags = torch.zeros(1, dtype=torch.bool)
    for _ in range(20):
        loaded.observe(Transitions(torch.zeros(1, 3), torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 3),
                                   flags, flags, ~flags))  # fmt: skip
    with pytest.raises(ValueError, match="without an environment cannot learn; load it with env="):
        loaded.update()
    assert prefrl.MBPO is MBPO


def test_functions_are_given_again_to_a_loaded_agent(tmp_path: Path) -> None:
    env = gym.wrappers.FlattenObservation(gym.make("prefrl/Pendulum-v0", max_episode_steps=12))

    def never(next_obs: Tensor) -> Tensor:
        return next_obs[:, 0] > 9.0

    agent = MBPO(env, MBPOConfig(**SMALL), termination=never, device="cpu")
    learn(agent, 30)
    agent.save(tmp_path / "agent.pt")
    with pytest.raises(ValueError, match="give termination="):
        MBPO.load(tmp_path / "agent.pt", env=env, device="cpu")
    again = MBPO.load(tmp_path / "agent.pt", env=env, device="cpu", termination=never)
    learn(again, 30)
    assert again.num_timesteps == 60
    assert again.networks.updates > agent.networks.updates
    with pytest.raises(ValueError, match="was trained on"):
        MBPO.load(tmp_path / "agent.pt", env=gym.make("Hopper-v5"), device="cpu", termination=never)


def test_what_is_known_is_replaced_part_by_part() -> None:
    pendulum = gym.make("prefrl/Pendulum-v0")
    config = MBPOConfig(**{**SMALL, "reward": "known"})
    known = MBPO(pendulum, config, termination=lambda obs: obs[:, 2] > 7.0, device="cpu").known
    assert known is not None
    assert known.reward is not None
    assert known.project is not None
    assert known.termination(torch.tensor([[1.0, 0.0, 7.5]])).item()


class BreaksAtOnce(gym.Wrapper[Any, Any, Any, Any]):
    """A simulator whose second episode starts with numbers that are none."""

    episodes = 0

    def reset(self, **settings: Any) -> Any:
        obs, info = self.env.reset(**settings)
        self.episodes += 1
        return (np.full_like(obs, np.nan) if self.episodes == 2 else obs), info


def test_starts_that_are_no_numbers_stop_the_run_too() -> None:
    env = BreaksAtOnce(gym.make("prefrl/Pendulum-v0", max_episode_steps=12))
    agent = MBPO(env, MBPOConfig(**SMALL), termination=lambda obs: obs[:, 0] > 9.0, device="cpu")
    with pytest.raises(FloatingPointError, match="observation is nan after timestep 11"):
        learn(agent, 100)


class Breaks(gym.Wrapper[Any, Any, Any, Any]):
    """A simulator whose observations are no numbers after some steps."""

    steps = 0

    def step(self, action: Any) -> Any:
        obs, *rest = self.env.step(action)
        self.steps += 1
        return (np.full_like(obs, np.nan) if self.steps == 45 else obs), *rest


def test_a_simulator_that_breaks_stops_the_run_and_leaves_its_checkpoint(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    env = Breaks(gym.make("prefrl/Pendulum-v0"))
    agent = MBPO(env, MBPOConfig(**SMALL), termination=lambda obs: obs[:, 0] > 9.0, device="cpu")
    with pytest.raises(FloatingPointError, match="observation is nan after timestep 44; observations must"):
        learn(agent, 100, folder=folder, checkpoint_every=20)
    assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 44  # what was learned until then
    assert load_checkpoint(folder.previous_path)["num_timesteps"] == 40


# What is refused ---------------------------------------------------------------------------------------


def test_refuses_environments_whose_ends_are_unknown() -> None:
    box = gym.spaces.Box(-1.0, 1.0, (2,))

    class Unknown(gym.Env[Any, Any]):
        observation_space = action_space = box

    with pytest.raises(ValueError, match=r"not known when an episode of \S+Unknown ends.*give termination="):
        MBPO(Unknown(), device="cpu")
    agent = MBPO(Unknown(), MBPOConfig(**SMALL), termination=lambda obs: obs[:, 0] > 0.0, device="cpu")
    assert agent.known is not None
    with pytest.raises(ValueError, match="action_space is"):
        MBPO(Spaces(box, gym.spaces.Box(-np.inf, np.inf, (2,))), device="cpu")
    with pytest.raises(ValueError, match="reward is 'known', but nobody knows it"):
        MBPO(gym.make("Hopper-v5"), MBPOConfig(reward="known"), device="cpu")


@pytest.mark.parametrize("termination", [
    lambda obs: (obs[:, 0] > 0.0).long(), lambda obs: obs[:, :1] > 0.0, lambda obs: obs[:, 0],
    lambda obs: (obs[:, 0] > 0.0).numpy(), lambda obs: (obs > 0.0).any(),
])  # fmt: skip
def test_refuses_a_termination_that_returns_something_else(termination: Any) -> None:
    message = (
        r"termination returned .* for observations \[2, 3\]; it must return a tensor of torch.bool \[2\]"
    )
    with pytest.raises(ValueError, match=message):
        MBPO(gym.make("Pendulum-v1"), MBPOConfig(**SMALL), termination=termination, device="cpu")


def test_refuses_a_reward_that_returns_something_else_or_is_not_asked_for() -> None:
    env, known = gym.make("Pendulum-v1"), MBPOConfig(**SMALL, reward="known")
    with pytest.raises(ValueError, match=r"reward returned torch.float32 \[2, 1\] for observations"):
        MBPO(env, known, reward=lambda obs, actions, _: obs[:, :1] - actions, device="cpu")
    with pytest.raises(ValueError, match="reward= is given, but the setting reward is 'learned'"):
        MBPO(env, MBPOConfig(**SMALL), reward=lambda obs, *_: obs[:, 0], device="cpu")


@pytest.mark.parametrize(("settings", "message"), [
    ({"model_loss": "mse"}, "model_loss is 'mse' and probabilistic True; nll needs variances"),
    ({"model_loss": "nll", "probabilistic": False}, "model_loss is 'nll' and probabilistic False"),
    ({"model_loss": "l1"}, "model_loss is 'l1'; it must be one of"),
    ({"rollout_schedule": (1, 2, 3)}, "must be a tuple of 4"),
    ({"rollout_schedule": (0, 1, 3, 2)}, "1 at most k0 at most k1"),
    ({"epoch_timesteps": 5}, "it must be at least refit_every, 10"),
    ({"real_ratio": 1.5}, "real_ratio is 1.5"), ({"real_ratio_start": -0.1}, "real_ratio_start is -0.1"),
    ({"real_ratio_epochs": 0}, "real_ratio_epochs is 0"), ({"ensemble_size": 0}, "ensemble_size is 0"),
    ({"holdout_fraction": 1.0}, "holdout_fraction is 1.0"), ({"max_fit_steps": 0}, "max_fit_steps is 0"),
    ({"model_hidden": ()}, "model_hidden is"), ({"reward": "given"}, "reward is 'given'"),
    ({"value_gradient_quantile": 0.0}, "value_gradient_quantile is 0"),
    ({"patience": -1}, "patience is -1"), ({"target_entropy": math.nan}, "target_entropy is nan; it must be"),
    ({"spectral_cap": math.inf}, "spectral_cap is inf; it must be finite"),
    ({"learning_starts": 1}, "learning_starts is 1; it must be at least 2"),
    ({"value_gradient_floor": 2.0}, "value_gradient_floor is 2.0"),
    ({"model_learning_rate": 0.0}, "model_learning_rate is 0.0"), ({"clip_predictions": -1.0}, "clip_pred"),
])  # fmt: skip
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MBPOConfig(**{**SMALL, **settings})


@pytest.mark.parametrize("settings", [
    {"hidden": (8.5,)}, {"hidden": 8}, {"model_hidden": (True, 8)}, {"rollout_schedule": (0, 1, 1.5, 2.5)},
])  # fmt: skip
def test_refuses_settings_of_another_kind(settings: dict[str, Any]) -> None:
    with pytest.raises(
        TypeError, match=rf"{next(iter(settings))}.* is .*; it must be (of type int|a tuple of whole numbers)"
    ):
        MBPOConfig(**{**SMALL, **settings})


# Presets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "expected"), [
    ("InvertedPendulum-v5", (10, 250, (1, 15, 1, 1), -0.05, 1, 200, 400)),
    ("Hopper-v5", (20, 250, (20, 150, 1, 15), -1.0, 1, 200, 400)),
    ("Walker2d-v5", (20, 250, (20, 150, 1, 1), -3.0, 1, 200, 400)),
    ("HalfCheetah-v5", (40, 250, (20, 150, 1, 1), -3.0, 1, 200, 400)),
    ("Ant-v5", (20, 250, (20, 100, 1, 25), -4.0, 1, 200, 400)),
    ("Humanoid-v5", (20, 1000, (20, 300, 1, 25), -2.0, 5, 400, 100)),
])  # fmt: skip
def test_the_papers_settings(env_id: str, expected: tuple[Any, ...]) -> None:
    config = mbpo_preset(env_id, "paper")
    assert (config.updates_per_step, config.refit_every, config.rollout_schedule, config.target_entropy,
            config.retain_epochs, config.model_hidden[0], config.rollouts_per_step) == expected  # fmt: skip
    assert config.rollouts_per_step * config.refit_every == 100_000
    assert (config.ensemble_size, config.elites, config.real_ratio) == (7, 5, 0.05)
    assert config.hidden == (256, 256)
    assert (config.clip_predictions, config.model_max_grad_norm) == (None, None)
    assert config.loss == "nll"
    assert config.decays == (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    assert env_id.partition("-")[0] in PAPER


def test_settings_for_a_laptop() -> None:
    config = mbpo_preset("Pendulum-v1", "cpu")
    assert config.hidden == (128, 128)
    assert (config.rollouts_per_step, config.refit_every, config.max_fit_steps) == (50, 250, 2000)
    one = dataclasses.replace(config, ensemble_size=1, probabilistic=False, model_hidden=(16,))
    assert one.loss == "mse"
    assert one.decays == (2.5e-5, 1e-4)
    with pytest.raises(ValueError, match="preset is 'gpu'"):
        mbpo_preset("Pendulum-v1", "gpu")  # type: ignore[arg-type]
