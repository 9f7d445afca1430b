"""Diffusion policies that are tuned: what their losses are, and what they learn."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from tuned_diffusion import OBS, RING, SMALL, clone_of, tuned_of

from prefrl.agents import (
    DiffusionDPO,
    DiffusionDPOConfig,
    DiffusionDRO,
    DiffusionDROConfig,
    SelfNPO,
    SelfNPOConfig,
)
from prefrl.agents.actor_critic.diffusion.chunks import ChunkBatch
from prefrl.agents.preferences.diffusion.chunks import compared_chunks, preferred_chunks
from prefrl.data import Preferences, Segments
from prefrl.functional.actor_critic.diffusion import denoising_error, mixed_weights, noised
from prefrl.nn.diffusion.policy import DenoisingPolicy
from prefrl.run.collect import collect_mixture

# Diffusion-DRO -----------------------------------------------------------------------------------------


@torch.no_grad()
def literal(policy: DenoisingPolicy, reference: DenoisingPolicy, inputs: Any, averaged: int) -> list[float]:
    """m + [e(x^E) - e_ref(x^E)] - [e(x^pi) - e_ref(x^pi)] of every pair, state by state."""
    obs, noisy, targets, times, _ = inputs
    rows, size = noisy.shape[1] // 2, noisy.shape[1] // times.shape[1]
    pairs = rows // averaged
    gaps = [0.001] * pairs
    for row in range(2 * rows):
        one = obs[:, row : row + 1], noisy[:, row : row + 1], times[:, row // size : row // size + 1]
        errors = [
            float((p.predict(*one)[0, 0] - targets[0, row]).square().sum()) for p in (policy, reference)
        ]
        sign = 1.0 if row >= rows else -1.0
        gaps[row % pairs] += sign * (errors[0] - errors[1]) / averaged
    return gaps


def test_dro_is_the_hinge_of_the_formula() -> None:
    agent = tuned_of(DiffusionDRO, averaged=16).learn(30)
    inputs = agent.tuning_inputs()
    with torch.no_grad():
        loss, metrics = agent.tuning_loss(agent.policy, *inputs)
    gaps = literal(agent.policy, agent.reference, inputs, 16)
    assert float(loss) == pytest.approx(sum(max(0.0, gap) for gap in gaps) / len(gaps), rel=1e-4)
    assert float(metrics["train/margin"]) == pytest.approx(0.001 - sum(gaps) / len(gaps), rel=1e-3, abs=1e-6)
    assert min(abs(gap - 0.001) for gap in gaps) > 1e-5  # the policy is no longer its reference


def test_at_the_reference_every_argument_is_the_margin() -> None:
    agent = tuned_of(DiffusionDRO).learn(10)
    agent.begin_tuning()
    loss, metrics = agent.tuning_loss(agent.policy, *agent.tuning_inputs())
    assert float(loss.detach()) == pytest.approx(0.001, abs=1e-6)
    assert float(metrics["train/margin"]) == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["train/active"]) == 1.0


class Exact(torch.nn.Module):
    """The exact denoiser of normal actions around two means, alike often, whatever is observed."""

    def __init__(self, policy: DenoisingPolicy, means: tuple[float, float], spread: float = 0.2) -> None:
        super().__init__()
        self.policy, self.spread = policy, spread
        self.means = torch.tensor(means)[:, None].expand(2, 2)

    def forward(self, x: Tensor, numbers: Tensor, times: Tensor) -> Tensor:
        alpha, sigma = (of[times][..., None, None] for of in (self.policy.alphas, self.policy.sigmas))
        variance = (alpha * self.spread).square() + sigma.square()
        away = x[..., None, :] - alpha[..., None] * self.means
        shares = torch.softmax(away.square().sum(-1) / (-2.0 * variance), -1)
        predicted: Tensor = sigma * (shares[..., None] * away).sum(-2) / variance
        return predicted


def test_where_the_policy_is_the_experts_the_mean_argument_is_the_margin() -> None:
    """With exact denoisers: what the expert gains on its data, the policy gains on its own paths.

    E|e_ref - eps|^2 - E|e - eps|^2 = E|e_ref - e|^2 where e is the mean of eps, and the paths have the
    distribution of noised data; the noise that the sampler predicted there is e itself.
    """
    rows = 65_536
    agent = tuned_of(DiffusionDRO, batch_size=rows, averaged=rows // 4, noise_steps=40, sampling_steps=40)
    generator = torch.Generator().manual_seed(0)
    own, other = Exact(agent.policy, (0.5, 0.5)), Exact(agent.policy, (0.5, -0.5))
    chunks = 0.5 + 0.2 * torch.randn(rows, 2, generator=generator)
    agent._experts = ChunkBatch(torch.zeros(rows, 2), chunks)
    noisy, targets = [], []
    for now in agent.policy.stops[:-1]:  # where a sampler without errors comes through
        fresh = torch.randn(rows, 2, generator=generator)
        noisy.append(noised(chunks, fresh, agent.policy.alphas[now], agent.policy.sigmas[now]))
        targets.append(own(noisy[-1][None, None], None, torch.full((1, 1), now))[0, 0])
    agent._states, agent._predicted = torch.stack(noisy, 1), torch.stack(targets, 1)
    agent._places, agent._refreshes, agent.num_timesteps = torch.arange(rows), 1, 11
    agent.policy.network, agent.reference.network = own, other
    leads = []
    with torch.no_grad():
        for _ in range(40):
            inputs = agent.tuning_inputs()
            leads.append(agent.tuning_loss(agent.policy, *inputs)[1]["train/margin"])
    assert float(torch.stack(leads).mean()) == pytest.approx(0.0, abs=1e-3)
    gain = denoising_error(agent.policy.predict(*inputs[:2], inputs[3]), inputs[2]) + inputs[4]
    assert float(gain[:, :rows].mean()) < -0.1  # of either side it is far from 0


def test_replay_keeps_the_last_paths() -> None:
    agent = tuned_of(DiffusionDRO, replay_refreshes=2).learn(11)
    first = agent._states[:32].clone()
    agent.learn(4)
    assert torch.equal(agent._states[:32], first)
    assert bool((agent._states[32:] != 0).any())
    agent.learn(4)  # the third refresh takes the place of the first
    assert not torch.equal(agent._states[:32], first)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_dro_leaves_the_modes_that_are_not_the_experts(seed: int) -> None:
    given = (
        collect_mixture(RING, 10_000, seed=seed),
        collect_mixture(RING, 1_000, mixture="expert", seed=seed),
    )
    config = DiffusionDROConfig(hidden=(128, 128), cloning_steps=5_000)
    agent = DiffusionDRO(RING, config, dataset=given[0], demonstrations=given[1], device="cpu", seed=seed)
    obs, task = OBS[:1].expand(4_000, 2), RING.unwrapped
    masses = []
    for steps in (5_000, 1_500):
        agent.learn(steps)
        masses.append(task.expert_mass(agent.act(obs).numpy(), obs.numpy()))  # type: ignore[attr-defined]
    assert masses[0] < 0.4
    assert masses[1] > 0.85


# Diffusion-DPO -----------------------------------------------------------------------------------------


def segments(count: int = 6, length: int = 5, seed: int = 0) -> Segments:
    generator = torch.Generator().manual_seed(seed)
    obs = torch.rand(count, length + 1, 2, generator=generator)
    acted = torch.rand(count, length, 2, generator=generator) * 2.0 - 1.0
    lengths = torch.arange(count) % (length - 1) + 2
    places = torch.minimum(torch.arange(length + 1), lengths[:, None])
    obs = obs.gather(1, places[..., None].expand(-1, -1, 2))  # padding
    acted = torch.where((places[:, :-1] < lengths[:, None])[..., None], acted, 0.0)
    return Segments(obs, acted, lengths, torch.zeros(count, dtype=torch.bool))


def test_comparisons_are_cut_into_chunks() -> None:
    labels = torch.tensor([1.0, 0.0, 0.5, 0.7, 0.2, 1.0], dtype=torch.float64)
    answers = Preferences.from_labels(segments(seed=0), segments(seed=1), labels)
    agent = DiffusionDPO(RING, DiffusionDPOConfig(**SMALL, horizon=2), device="cpu")
    found = compared_chunks(agent, agent.policy, answers)
    assert found.chunks.shape == (6, 2, 2, 4)
    assert found.mask[:, 0].tolist() == [[n >= 2, n >= 4] for n in (2, 3, 4, 5, 2, 3)]
    second = answers.second
    torch.testing.assert_close(found.chunks[3, 1, 1], second.actions[3, 2:4].flatten())
    torch.testing.assert_close(found.obs[3, 1, 1], second.obs[3, 2])
    wanted = preferred_chunks(agent, agent.policy, answers)
    sides = [answers.second, answers.first, None, answers.second, answers.first, answers.second]
    starts = [(i, t) for i, n in enumerate((2, 3, 4, 5, 2, 3)) for t in (0, 2) if t + 2 <= n and i != 2]
    rows = [sides[i].obs[i, t] for i, t in starts if sides[i] is not None]  # type: ignore[union-attr]
    torch.testing.assert_close(wanted.obs, torch.stack(rows))
    with pytest.raises(ValueError, match="horizon is 6; no segment of the preferences has as many actions"):
        DiffusionDPO(RING, DiffusionDPOConfig(**SMALL, horizon=6), preferences=answers, device="cpu")
    ties = Preferences.from_labels(segments(seed=0), segments(seed=1), torch.full((6,), 0.5).double())
    with pytest.raises(ValueError, match="preferences have no preferred side"):
        preferred_chunks(agent, agent.policy, ties)


def test_dpo_is_the_logistic_of_the_formula() -> None:
    """-log sigmoid(-beta sum of [(e(w) - e_ref(w)) - (e(l) - e_ref(l))]), with the same t and eps."""
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    answers = Preferences.from_labels(segments(seed=0), segments(seed=1), labels)
    config = DiffusionDPOConfig(**SMALL, cloning_steps=0, pairs=4, beta=0.7)
    agent = DiffusionDPO(RING, config, preferences=answers, clone=clone_of(), device="cpu")
    agent.learn(5)
    inputs = agent.tuning_inputs()
    obs, chunks, times, noise, _, mask, labels, _, _ = inputs
    steps, pairs = mask.shape[2], 4
    half = steps * pairs
    assert torch.equal(times[:, : times.shape[1] // 2], times[:, times.shape[1] // 2 :])
    assert torch.equal(noise[:, :half], noise[:, half:])
    group = chunks.shape[1] // times.shape[1]
    losses = []
    for pair in range(pairs):
        lead = 0.0
        for side in range(2):
            for step in range(steps):
                row = side * half + step * pairs + pair
                time = times[0, row // group]
                noisy = noised(
                    chunks[0, row], noise[0, row], agent.policy.alphas[time], agent.policy.sigmas[time]
                )
                one = obs[:, row : row + 1], noisy[None, None], time[None, None]
                own, base = (
                    float((p.predict(*one)[0, 0] - noise[0, row]).detach().square().sum())
                    for p in (agent.policy, agent.reference)
                )
                lead -= (1.0 if side else -1.0) * (own - base) * float(mask[pair, side, step])
        lead *= 1.0 if labels[pair] > 0.5 else -1.0
        losses.append(math.log1p(math.exp(-0.7 * lead)))
    loss = agent.tuning_loss(agent.policy, *inputs)[0].detach()
    assert float(loss) == pytest.approx(sum(losses) / pairs, rel=1e-4)
    assert abs(float(loss) - math.log(2.0)) > 1e-5


def test_dpo_learns_what_was_preferred() -> None:
    """At one time and one noise the errors tell little of a pair, so the accuracy is a mean of many."""
    agent = tuned_of(DiffusionDPO, beta=1.0, pairs=64, cloning_steps=100, tuning_rate=1e-3, averaging=0.9)
    agent.learn(100)
    found = [[agent.update()["train/accuracy"] for _ in range(20)]]
    agent.learn(200)
    found.append([agent.update()["train/accuracy"] for _ in range(20)])
    first, last = (float(torch.stack(each).mean()) for each in found)
    assert last > 0.6
    assert last > first + 0.03


# Self-NPO ----------------------------------------------------------------------------------------------


def test_the_negative_is_the_mixture_of_weights() -> None:
    dro = tuned_of(DiffusionDRO).learn(20)
    config = SelfNPOConfig(**SMALL, cloning_steps=0, positive_share=0.3, negative_share=2.0, guidance=0.5)
    agent = SelfNPO(RING, config, dataset=collect_mixture(RING, 500), positive=dro, device="cpu")
    assert torch.equal(agent.act(OBS, deterministic=True), dro.act(OBS, deterministic=True))
    agent.learn(5)
    theta, positive, tuned = (
        torch.cat([each.flatten() for each in policy.parameters()])
        for policy in (dro.reference, dro.average, agent.average)
    )
    acting, guide = agent.acting()
    assert guide is not None
    negative = torch.cat([each.flatten() for each in guide.negative.parameters()])
    assert torch.equal(negative, mixed_weights(theta, positive - theta, tuned - theta, 0.3, 2.0))
    assert not torch.equal(tuned, theta)
    assert torch.equal(torch.cat([each.flatten() for each in acting.parameters()]), positive)
    assert guide.weight == 0.5
    assert not torch.equal(agent.act(OBS, deterministic=True), dro.act(OBS, deterministic=True))


def test_without_guidance_the_clone_acts() -> None:
    clone = clone_of()
    config = SelfNPOConfig(**SMALL, cloning_steps=0, guidance=0.0)
    agent = SelfNPO(RING, config, dataset=collect_mixture(RING, 500), clone=clone, device="cpu").learn(5)
    assert torch.equal(agent.act(OBS, deterministic=True), clone.act(OBS, deterministic=True))


@pytest.mark.parametrize("form", ["unguided", "unconditional"])
def test_an_exact_teacher_is_met_already(form: Any) -> None:
    """The tower identity: with exact denoisers the best of the loss is the teacher itself.

    So the mean target, in bins of where the noisy samples lie, is what the teacher predicts there.
    """
    settings = {"noise_steps": 40, "sampling_steps": 40, "batch_size": 65_536, "truncated_steps": 20}
    agent = tuned_of(SelfNPO, form=form, **settings)
    chunks = 0.2 * torch.randn(50_000, 2, generator=torch.Generator().manual_seed(1)) + 0.5
    signs = torch.where(torch.arange(50_000)[:, None] % 2 == 0, 1.0, -1.0)
    agent._replay.obs, agent._replay.raw = torch.zeros(50_000, 2), chunks * signs
    agent._replay.starts = torch.arange(50_000)
    exact = Exact(agent.average, (0.5, -0.5))
    noisy, targets, times = batch_of(agent, exact)
    predicted = exact(noisy, None, times)
    alphas, sigmas = (of[times][..., None, None] for of in (agent.policy.alphas, agent.policy.sigmas))
    far = (targets - predicted) * sigmas / alphas  # of clean chunks
    middle = (times >= 8) & (times <= 30)
    bins = ((noisy.mean(-1) + 1.5) / 3.0 * 12).long().clamp(0, 11)
    chosen = middle[..., None].expand_as(bins)
    for place in range(12):
        rows = far[chosen & (bins == place)]
        if len(rows) > 4_000:
            assert float(rows.mean(0).abs().max()) < 0.05


def batch_of(agent: SelfNPO, exact: Exact) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy samples and targets [1, G, R, C] and times [1, G] of a teacher whose noise is told exactly."""
    network = agent.average.network
    network.forward = exact.forward  # type: ignore[method-assign]
    network.for_steps = lambda stops: Told(exact, stops)  # type: ignore[assignment,method-assign,return-value]
    _, noisy, times, targets = agent.tuning_inputs()
    shape = 1, times.shape[1], -1, 2
    return noisy.view(shape), targets.view(shape), times


class Told:
    """What predicts noise at a sampler's times."""

    def __init__(self, exact: Exact, stops: Any) -> None:
        self.exact, self.stops = exact, list(stops)

    def begin(self, numbers: Tensor) -> None:
        """Observations tell nothing."""

    def __call__(self, step: int, x: Tensor) -> Tensor:
        time = torch.full((1, 1), self.stops[step])
        return self.exact(x[None, ..., :-1], None, time)[0]  # type: ignore[no-any-return]
