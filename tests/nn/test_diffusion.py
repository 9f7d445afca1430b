"""The denoiser and its policy: the fast sampler against a plain loop, learners, likelihoods, errors."""

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from prefrl.functional.actor_critic.diffusion import (
    ddim_step,
    ddpm_step,
    guided,
    predicted_clean,
    predicted_noise,
)
from prefrl.functional.streams import Streams
from prefrl.nn.diffusion.denoiser import ROWS, Denoiser, time_waves
from prefrl.nn.diffusion.policy import DenoisingPolicy, Draws, Guide, groups_of
from prefrl.nn.likelihood_policies import joined_policies

PLANE = gym.spaces.Box(-9.0, 9.0, (3,))
BOX = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
CPU = torch.device("cpu")


def made(seed: int = 0, learners: int = 1, **settings: Any) -> DenoisingPolicy:
    torch.manual_seed(seed)
    return DenoisingPolicy(learners, PLANE, BOX, **{"hidden": (16, 8), "noise_steps": 12, **settings})


def plain(policy: DenoisingPolicy, obs: Tensor, noise: Tensor, guide: Guide | None = None) -> Tensor:
    """Return what a sampler makes that calls the whole network in every step."""
    x, *fresh = noise.split(policy.size, -1)
    for step, (now, then) in enumerate(pairwise(policy.stops)):
        times = torch.full((len(x), 1), now)
        noise = policy.predict(obs, x, times)
        if guide is not None:
            other = guide.negative.predict(obs, x, times)
            noise = guided(noise, other, guide.weight)
        here, there = ((policy.alphas[time], policy.sigmas[time]) for time in (now, then))
        clean = predicted_clean(x, noise, *here).clamp(-1.0, 1.0)
        if fresh:
            x = ddpm_step(x, clean, fresh[step], *here, *there)
        else:
            x = ddim_step(clean, predicted_noise(x, clean, *here), *there)
    return x


# Sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("learners", [1, 3])
def test_the_fast_sampler_is_the_plain_one(learners: int, sampler: str, activation: str) -> None:
    policy = made(learners=learners, sampler=sampler, activation=activation, horizon=2, sampling_steps=5)
    obs = torch.randn(learners, ROWS + 3, 3)
    noise = policy.noise(Streams(range(learners), "noise", CPU), ROWS + 3)
    assert noise.shape[2] == 4 * (1 if sampler == "ddim" else 6)
    found = policy.sample(obs, noise)
    torch.testing.assert_close(found, plain(policy, obs, noise), atol=2e-5, rtol=1e-4)
    assert float(found.abs().max()) <= 1.0
    torch.testing.assert_close(policy.path(obs, noise).chunks, found, atol=2e-5, rtol=1e-4)


def test_guidance_leads_away_from_the_other_policy() -> None:
    policy, other = made(0, sampling_steps=4), made(1, sampling_steps=4)
    obs, noise = torch.randn(1, 6, 3), torch.randn(1, 6, 2)
    guide = Guide(other, 1.5)
    found = policy.sample(obs, noise, guide)
    torch.testing.assert_close(found, plain(policy, obs, noise, guide), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(found, policy.sample(obs, noise))
    torch.testing.assert_close(policy.sample(obs, noise, Guide(other, -1.0)), other.sample(obs, noise))


def test_a_path_holds_what_the_network_was_asked_and_said() -> None:
    policy = made(sampling_steps=4)
    obs, noise = torch.randn(1, 6, 3), torch.randn(1, 6, 2)
    path = policy.path(obs, noise)
    assert path.times == policy.stops[:-1]
    assert path.states.shape == path.noise.shape == (4, 1, 6, 2)
    torch.testing.assert_close(path.states[0], noise)
    states, times = path.states.transpose(0, 1).flatten(1, 2), torch.tensor(path.times)[None]
    said = policy.predict(obs.repeat(1, 4, 1), states, times)  # a group for every step
    torch.testing.assert_close(said, path.noise.transpose(0, 1).flatten(1, 2), atol=1e-5, rtol=1e-4)


def test_actions_are_the_environments_and_chunks_begin_with_them() -> None:
    policy = made(horizon=3)
    obs, noise = torch.randn(1, 40, 3), torch.randn(1, 40, 6) * 3.0
    chunks = policy.draw_chunks(obs, noise)
    assert chunks.shape == (1, 40, 3, 2)
    assert all(BOX.contains(action) for action in chunks.flatten(0, 2).numpy())
    assert torch.equal(policy.draw(obs, noise), chunks[:, :, 0])
    assert torch.equal(policy.mode(obs), policy.mode_chunks(obs)[:, :, 0])
    torch.testing.assert_close(policy.to_env_chunks(policy.raw_chunks(chunks)), chunks)


# Learners, and likelihoods -----------------------------------------------------------------------------


def test_learners_are_alone_among_others() -> None:
    alone = [made(seed) for seed in range(3)]
    together = joined_policies(alone)
    obs, actions, noise = torch.randn(3, 8, 3), torch.rand(3, 8, 2), torch.randn(3, 8, 2)
    draws = Draws(torch.randint(1, 13, (3, 4)), torch.randn(3, 8, 2))
    samples, said = together.sample(obs, noise), together.log_prob(obs, actions, draws)
    for learner, policy in enumerate(alone):
        own = slice(learner, learner + 1)
        torch.testing.assert_close(policy.sample(obs[own], noise[own]), samples[own])
        given = Draws(draws.times[own], draws.noise[own])
        torch.testing.assert_close(policy.log_prob(obs[own], actions[own], given), said[own])


def test_the_error_is_of_the_noise_that_was_added() -> None:
    """A network that says 0 errs by |eps|^2; its log-likelihood is minus the mean of that."""
    policy = made()
    with torch.no_grad():
        for parameter in policy.network.trunk.parameters():
            parameter.zero_()
    noise = torch.tensor([[[1.0, 2.0], [0.0, 3.0], [1.0, 0.0], [0.0, 0.0]]])
    obs, actions = torch.randn(1, 4, 3), torch.rand(1, 4, 2)
    for times in ([3], [3, 9], [1, 2, 3, 4]):
        said = policy.log_prob(obs, actions, Draws(torch.tensor([times]), noise))
        assert said.tolist() == [[-5.0, -9.0, -1.0, 0.0]]
    expected = -policy.probes.noise.square().sum(-1).mean()
    torch.testing.assert_close(policy.log_prob(obs, actions), expected.expand(1, 4))
    with pytest.raises(ValueError, match="draws have 3 times; they must be a divisor of the 4 rows"):
        policy.log_prob(obs, actions, Draws(torch.tensor([[1, 2, 3]]), noise))


def test_groups_of_rows_are_rows_by_themselves() -> None:
    policy = made()
    obs, actions, noise = torch.randn(1, 6, 3), torch.rand(1, 6, 2), torch.randn(1, 6, 2)
    times = torch.tensor([[2, 11]])
    said = policy.log_prob(obs, actions, Draws(times, noise))
    alone = policy.log_prob(obs, actions, Draws(times.repeat_interleave(3, 1), noise))
    torch.testing.assert_close(said, alone)
    swapped = policy.log_prob(obs, actions, Draws(times.flip(1), noise))
    assert bool((swapped != said).all())
    probes = [
        policy.log_prob(obs, actions, Draws(time[:, None], noise[:, None].expand(-1, 6, -1)))
        for time, noise in zip(*(each.unbind(1) for each in policy.probes), strict=True)
    ]
    torch.testing.assert_close(policy.log_prob(obs, actions), torch.stack(probes).mean(0))


def test_policies_are_asked_at_the_same_probes() -> None:
    one, other = made(0), made(1)
    assert all(torch.equal(a, b) for a, b in zip(one.probes, other.probes, strict=True))
    times = one.probes.times.flatten()
    assert (int(times.min()), int(times.max())) == (1, 12)
    assert made(noise_steps=2, sampling_steps=2).probes.times.unique().tolist() == [1, 2]
    obs, actions = torch.randn(1, 4, 3), torch.rand(1, 4, 2)
    assert not torch.equal(one.log_prob(obs, actions), other.log_prob(obs, actions))


def test_draws_are_of_all_times() -> None:
    noise = torch.randn(2, 9_600, 2)
    draws = made(learners=2).draws(torch.rand(2, groups_of(9_600)), noise)
    assert draws.times.shape == (2, 600)
    assert draws.noise is noise
    for times in draws.times:
        assert torch.bincount(times, minlength=13).tolist() == [0, *[50] * 12]  # one in each of 600 parts
    alone = made().draws(torch.rand(1, 1), noise[:1, :1]).times
    assert 1 <= int(alone) <= 12
    assert made().draws(torch.tensor([[0.0, 1.0 - 2.0**-24]]), noise).times.tolist() == [[1, 12]]
    assert [groups_of(rows) for rows in (1, 6, 16, 100, 256)] == [1, 3, 1, 25, 16]


def test_gradients_reach_every_parameter() -> None:
    policy = made(learners=2)
    policy.log_prob(torch.randn(2, 9, 3), torch.rand(2, 9, 2)).sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None
        assert all(bool(each.any()) for each in parameter.grad), name


@pytest.mark.parametrize("hidden", [(16,), (16, 8), (16, 8, 24)])
def test_gradients_by_hand_are_those_of_autograd(hidden: tuple[int, ...]) -> None:
    policy = made(learners=2, hidden=hidden, activation="relu")
    obs, chunks, noise = torch.randn(2, 12, 3), torch.rand(2, 12, 2), torch.randn(2, 12, 2)
    draws = Draws(torch.randint(1, 13, (2, 4)), noise)
    errors = policy.errors(obs, chunks, draws)
    errors.mean(1).sum().backward()
    expected = {name: parameter.grad for name, parameter in policy.named_parameters()}
    for parameter in policy.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)  # whatever stood there is replaced
    torch.testing.assert_close(policy.pull_errors(obs, chunks, draws), errors.detach())
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_waves_tell_times_apart() -> None:
    waves = time_waves(torch.arange(51), 50)
    assert float(torch.cdist(waves, waves).add(9 * torch.eye(51)).min()) > 0.1
    network = Denoiser(1, 3, 2, (8,), 50)  # no layer but the first is hidden
    predicted = network(torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, 2, 3), torch.ones(1, 4).long())
    assert predicted.shape == (1, 4, 2, 2)


# What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.Box(-np.inf, 1.0, (2,)),
        gym.spaces.Box(0, 9, (2,), np.int64),
        gym.spaces.Box(1.0, 1.0, (2,)),
    ],
)
def test_other_spaces_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(ValueError, match=r"^action_space is .*; a DenoisingPolicy takes a Box"):
        DenoisingPolicy(1, PLANE, space)


def test_other_shapes_and_steps_are_refused() -> None:
    policy = made(horizon=2)
    with pytest.raises(ValueError, match=r"actions are \[1, 4, 2\]; they must be \[S, N, 2, \*\[2\]\]"):
        policy.log_prob(torch.zeros(1, 4, 3), torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="sampling_steps is 13; it must lie in 1 to noise_steps, 12"):
        made(sampling_steps=13)
