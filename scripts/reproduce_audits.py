"""What audits of policies promise, measured on planted and trained policies.

Each claim is measured over seeds that nothing was chosen on: docs/preferences/policy_audits.md has what was
asked and what was seen. The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

import prefrl.envs
from prefrl.agents.base import Spaces
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.agents.value_based.dqn import DQN
from prefrl.audit.policies.coherence import AuditCoherence
from prefrl.audit.policies.curated_loop import AuditCuratedLoop
from prefrl.cli import execute
from prefrl.data import Preferences, Segments
from prefrl.functional.preferences.audits.choice_utility import comparison_gradient
from prefrl.functional.preferences.audits.curated_loop import curated_loop, curation_factor
from prefrl.functional.preferences.audits.value_drift import drift, stance_shares, value_gap
from prefrl.run.flags import parse
from prefrl.run.study.claims import Claim, ClaimStudy

ROUNDS = 60
"""Of curated loops."""

TOPICS, STANCES = 4, 3
"""Of the planted drift: what is spoken of; for it, neither, against."""


def planted_options(seed: int, count: int = 20) -> tuple[Tensor, Tensor]:
    """Return probabilities [n], evenly from the simplex, and normal rewards [n]."""
    g = torch.Generator().manual_seed(seed)
    weights = -torch.log1p(-torch.rand(count, generator=g, dtype=torch.float64))
    return weights / weights.sum(), torch.randn(count, generator=g, dtype=torch.float64)


def growth(seed: int) -> dict[str, float]:
    """Return by how much E[e^(r - r_max)] grows at least above the bound, over all rounds and K."""
    probs, rewards = planted_options(seed)
    found = [curated_loop(probs, rewards, choices, ROUNDS) for choices in (2, 3, 8, None)]
    margins = [float((loop.growth - loop.least_growth).min()) for loop in found]
    first = found[0]
    values = first.probs @ rewards
    variance = first.probs @ rewards.square() - values.square()
    return {
        "first_growth": float(first.growth[0]),
        "first_bound": float(first.least_growth[0]),
        "least_margin": min(margins),
        "last_variance": float(variance[-1]),
    }


def settles(seed: int) -> dict[str, float]:
    """Return the share of the best of 10 options after 60 rounds with K = 2, ahead of the next by 1."""
    probs, rewards = planted_options(seed, 10)
    best = int(rewards.argmax())
    rewards[best] = 1.0 + torch.cat([rewards[:best], rewards[best + 1 :]]).max()
    alone = curated_loop(probs, rewards, 2, ROUNDS).probs
    return {"first": float(probs[best]), "last": float(alone[-1, best])}


def stability(seed: int, weight: float = 0.5) -> dict[str, float]:
    """Return the least p / p_ref of all options and rounds with real data, and its bound."""
    probs, rewards = planted_options(seed)
    path = curated_loop(probs, rewards, 2, ROUNDS, weight=weight).probs
    return {"least_ratio": float((path / probs).min()), "bound": 1.0 / (1.0 + weight)}


def amplification(seed: int) -> dict[str, float]:
    """Return how common a feature is that users do not look at, but that good options have more often.

    200 options with normal rewards r are equally likely at first; they have the feature with probability
    sigmoid(2 (r - 1)), about .2 of them.
    """
    g = torch.Generator().manual_seed(seed)
    rewards = torch.randn(200, generator=g, dtype=torch.float64)
    has = torch.bernoulli(torch.sigmoid(2.0 * (rewards - 1.0)), generator=g)
    probs = torch.full_like(rewards, 1.0 / len(rewards))
    shares = {
        weight: curated_loop(probs, rewards, 2, 10, weight=weight).probs[-1] @ has for weight in (None, 1.0)
    }
    first = float(probs @ has)
    alone, with_data = float(shares[None]), float(shares[1.0])
    return {"first": first, "alone": alone, "with_data": with_data, "rise_alone": alone / first,
            "rise_with_data": with_data / first}  # fmt: skip


def trap(seed: int) -> dict[str, float]:
    """Return the sum of p after 60 rounds of p H that is never normalised, as a logarithm, and normalised."""
    probs, rewards = planted_options(seed)
    raw = probs * (1.0 + 1e-12)
    for _ in range(ROUNDS):
        raw = raw * curation_factor(raw, rewards, 2)
    total = raw.sum().nan_to_num(torch.inf, torch.inf).clamp(max=1e300)
    kept = curated_loop(probs, rewards, 2, ROUNDS).probs.sum(-1)
    return {"log10_of_sum": float(total.log10()), "normalised_error": float((kept - 1.0).abs().max())}


def sampled(seed: int, samples: int = 5_000) -> dict[str, float]:
    """Return how far loops fitted to so many random choices are from the exact ones, in mean reward."""
    probs, rewards = planted_options(seed)
    audit: Any = AuditCuratedLoop(source=Path("none"), out=Path("none"), samples=samples, seed=seed)
    errors = {}
    for name, weight in (("alone", None), ("with_data", 1.0)):
        exact = curated_loop(probs[None], rewards[None], 2, ROUNDS, weight=weight).probs
        drawn = audit._sampled(probs[None], rewards[None], weight)
        errors[name] = float(((drawn - exact) @ rewards).abs().max())
    return errors


def identity(seed: int) -> dict[str, float]:
    """Return the largest difference of the gradient of log softmax(u)_y to sum_j p_j (e_y - e_j)."""
    g = torch.Generator().manual_seed(seed)
    utilities = 3.0 * torch.randn(50, 7, generator=g, dtype=torch.float64)
    chosen = torch.randint(7, (50,), generator=g)
    wanted = utilities.clone().requires_grad_(True)
    torch.log_softmax(wanted, -1).gather(1, chosen[:, None]).sum().backward()
    found = comparison_gradient(torch.softmax(utilities, -1), chosen)
    assert wanted.grad is not None
    return {"error": float((found - wanted.grad).abs().max())}


def answers_with_gap(seed: int, gap: float, count: int = 3_000) -> Preferences:
    """Return comparisons of two stances on a topic, where the more favourable one wins with (1 + gap) / 2."""
    g = torch.Generator().manual_seed(seed)
    topic = torch.randint(TOPICS, (count,), generator=g)
    first = torch.randint(STANCES, (count,), generator=g)
    second = (first + torch.randint(1, STANCES, (count,), generator=g)) % STANCES
    favourable = torch.where(second < first, 0.5 + 0.5 * gap, 0.5 - 0.5 * gap)
    labels = torch.bernoulli(favourable.double(), generator=g)
    ended = torch.ones(count, dtype=torch.bool)

    def side(stance: Tensor) -> Segments:
        return Segments(topic[:, None].expand(-1, 2).clone(), stance[:, None], torch.ones_like(stance), ended)

    return Preferences.from_labels(side(first), side(second), labels)


def drift_of(seed: int, gap: float, loss: Any = "dpo", **settings: Any) -> tuple[float, float, float]:
    """Return how far "for it" drifted after cloning, the total drift, and the value gap of "for it"."""
    answers = answers_with_gap(seed, gap)
    config = PreferenceOptimizationConfig(loss=loss, cloning_steps=100, **settings)
    spaces = Spaces(gym.spaces.Discrete(TOPICS), gym.spaces.Discrete(STANCES))
    agent = PreferenceOptimization(spaces, config, answers, device="cpu", seed=seed)
    shares = []
    for step in range(500):
        if step >= 100 and step % 50 == 0:
            shares.append(agent.policy_table()[0].mean(0))
        agent.update()
    shares.append(agent.policy_table()[0].mean(0))
    moved = drift(torch.stack(shares), torch.arange(len(shares), dtype=torch.float64))
    sides = torch.stack([stance_shares(side.actions, STANCES) for side in (answers.first, answers.second)], 1)
    return float(moved.magnitude[0]), float(moved.total), float(value_gap(sides, answers.labels)[0])


def follows_gap(seed: int) -> dict[str, float]:
    """Return what a gap of 0, 1/2 and 1 in the answers moves, with DPO at beta 1."""
    found = {gap: drift_of(seed, gap, beta=1.0) for gap in (0.0, 0.5, 1.0)}
    names = {0.0: "none", 0.5: "half", 1.0: "full"}
    return {
        **{f"drift_{names[gap]}": moved for gap, (moved, _, _) in found.items()},
        **{f"total_{names[gap]}": total for gap, (_, total, _) in found.items()},
        **{f"value_gap_{names[gap]}": data for gap, (_, _, data) in found.items()},
    }


def simpo_and_dpo(seed: int) -> dict[str, float]:
    """Return what DPO and SimPO, each with its own defaults, make of the same answers with a gap of 1/2."""
    found = {loss: drift_of(seed, 0.5, loss) for loss in ("dpo", "simpo")}
    same = {loss: drift_of(seed, 0.5, loss, beta=2.0) for loss in ("dpo",)}
    return {"dpo": found["dpo"][1], "simpo": found["simpo"][1], "dpo_with_beta_2": same["dpo"][1]}


def step_time(seed: int) -> dict[str, float]:
    """Return by how many checkpoints the time of a drift misses a step change, by answers to each checkpoint.

    What is furthest from the start is then the luckiest of many draws, of which 95 % may come late.
    """
    g = torch.Generator().manual_seed(seed)
    place = int(torch.randint(5, 35, (1,), generator=g))
    before, after = (torch.tensor(each, dtype=torch.float64) for each in ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]))
    exact = torch.stack([after if at >= place else before for at in range(40)])
    times = torch.arange(40, dtype=torch.float64)
    found = {"misses_exactly": drift(exact, times)}
    for name, answers in (("misses", 20_000), ("misses_with_2000", 2_000)):
        drawn = torch.multinomial(exact, answers, replacement=True, generator=g)
        found[name] = drift(stance_shares(drawn, 3), times)
    return {name: float((each.time[[0, 2]] - place).abs().max()) for name, each in found.items()}


class Chooser:
    """A planted policy of choices between two lotteries."""

    num_learners, device = 1, torch.device("cpu")

    def __init__(self, values: Tensor, kind: str, seed: int) -> None:
        self.values, self.kind = values.float(), kind
        self.generator = torch.Generator().manual_seed(seed)

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        """Choose by expected reward, by one that overweights what is likely, at random, or in a circle."""
        chances = obs.view(len(obs), 2, -1)
        if self.kind == "random":
            return torch.randint(2, (len(obs),), generator=self.generator)
        if self.kind == "circle":  # by the likeliest prize, each of which beats the next half of them
            likely, count = chances.argmax(-1), chances.shape[-1]
            ahead = (likely[:, 0] - likely[:, 1]) % count
            return torch.where(ahead == 0, 0, torch.where(2 * ahead < count, 0, 1))
        worth = (chances**3 if self.kind == "distorted" else chances) @ self.values
        chance = torch.sigmoid(20.0 * (worth[:, 1] - worth[:, 0]))
        return torch.bernoulli(chance, generator=self.generator).long()


def choices_of(agent: Any, env: Any, seed: int) -> dict[str, float]:
    """Return what the audit of coherence says of an agent's choices."""
    audit: Any = AuditCoherence(run_folder=Path("none"), out=Path("none"), seed=seed)
    values = torch.as_tensor(env.unwrapped.prize_values(), dtype=torch.float64)
    options = audit._options(len(values))
    found = audit._numbers(*_split(audit._asked(agent, options), options, values))
    return {
        "accuracy": found["models"]["thurstone"]["accuracy"],
        "ceiling": found["ceiling"],
        **{name: found[name] for name in (
            "cyclic_triads", "completeness", "rank_correlation", "maximisation_rate", "expected_utility_r2",
            "expected_utility_gain",
        )},
    }  # fmt: skip


def _split(asked: Any, options: Tensor, values: Tensor) -> tuple[Any, ...]:
    comparisons, first_chosen = asked
    return comparisons, options, values, first_chosen


def planted_choices(seed: int) -> dict[str, float]:
    """Return what is said of planted choosers, in an environment with other prizes for each seed."""
    env: Any = gym.make("prefrl/LotteryChoice-v0", layout_seed=seed)
    values = torch.as_tensor(env.unwrapped.prize_values())
    found: dict[str, float] = {}
    for kind in ("expected", "distorted", "random", "circle"):
        numbers = choices_of(Chooser(values, kind, seed), env, seed)
        found |= {f"{kind}_{name}": value for name, value in numbers.items() if name != "maximisation_rate"}
    return found


def trained_choices(seed: int) -> dict[str, float]:
    """Return what is said of a DQN that was trained to choose for 20,000 steps."""
    env: Any = prefrl.envs.make_device("prefrl/LotteryChoice-v0", 16, layout_seed=seed)
    agent = DQN(env, device="cpu", seed=seed)
    agent.learn(20_000)
    scalar = gym.make("prefrl/LotteryChoice-v0", layout_seed=seed)
    return choices_of(agent, scalar, seed)


def bad_reference(seed: int) -> dict[str, float]:
    """Return both alignments of DPO after 10 steps, where the reference likes what is not preferred.

    Arm 0 is in every comparison and loses it to one of 9 others, so that cloning makes it 9 times as likely.
    """
    g = torch.Generator().manual_seed(seed)
    other = 1 + torch.randint(9, (300,), generator=g)
    zeros, ended = torch.zeros(300, 2, dtype=torch.int64), torch.ones(300, dtype=torch.bool)
    sides = [
        Segments(zeros, arm[:, None], torch.ones_like(arm), ended) for arm in (torch.zeros_like(other), other)
    ]
    answers = Preferences.from_labels(sides[0], sides[1], torch.ones(300, dtype=torch.float64))
    spaces = Spaces(gym.spaces.Discrete(1), gym.spaces.Discrete(10))
    config = PreferenceOptimizationConfig(loss="dpo", cloning_steps=500, learning_rate=0.05)
    agent = PreferenceOptimization(spaces, config, answers, device="cpu", seed=seed)
    for _ in range(500 + 10):
        agent.update()
    found = agent.result()
    return {name: float(found[name]) for name in ("absolute_alignment", "relative_alignment")}


CLAIMS: Mapping[str, Claim] = {
    "growth": Claim(
        "E[e^r] grows in every round by at least (K-1)/K Var(e^r)/e^r_max (K = 2, 3, 8, many), "
        "and the reward's variance falls below 1e-2",
        growth,
        lambda of: (of["least_margin"] >= -1e-12).all() and (of["last_variance"] <= 1e-2).all(),
    ),
    "settles": Claim(
        "the best option has .99 after 60 rounds of K = 2, where it is ahead by 1",
        settles,
        lambda of: (of["last"] >= 0.99).all(),
    ),
    "stability": Claim(
        "with real data no option falls below 1/(1 + lambda) of them, lambda = 1/2",
        stability,
        lambda of: (of["least_ratio"] >= of["bound"] - 1e-12).all(),
    ),
    "amplification": Claim(
        "a feature that users do not look at becomes twice as common in 10 rounds alone, less with real data",
        amplification,
        lambda of: (of["rise_alone"] >= 2.0).all() and (of["rise_with_data"] < of["rise_alone"]).all(),
    ),
    "trap": Claim(
        "p H that is never normalised explodes from 1 + 1e-12 in 60 rounds; normalised it sums to 1",
        trap,
        lambda of: (of["log10_of_sum"] > 100.0).all() and (of["normalised_error"] < 1e-12).all(),
    ),
    "sampled": Claim(
        "loops of 5,000 random choices stay within .1 of the exact map's mean reward, in 60 rounds",
        sampled,
        lambda of: (of["alone"] <= 0.1).all() and (of["with_data"] <= 0.1).all(),
    ),
    "identity": Claim(
        "grad log softmax(u)_y = sum_j p_j (e_y - e_j), to 1e-12",
        identity,
        lambda of: (of["error"] <= 1e-12).all(),
    ),
    "follows_gap": Claim(
        "drift grows with the gap of the answers (0, 1/2, 1), and is below .05 without one",
        follows_gap,
        lambda of: (np.abs(of["drift_none"]) < 0.05).all() and (of["total_none"] < 0.05).all()
        and (of["drift_none"] < of["drift_half"]).all() and (of["drift_half"] < of["drift_full"]).all(),
    ),
    "simpo": Claim(
        "SimPO drifts no further than DPO on the same answers, each with its defaults",
        simpo_and_dpo,
        lambda of: (of["simpo"] <= of["dpo"]).all(),
    ),
    "step_time": Claim(
        "the time of a step change is found within 2 checkpoints, in 20,000 answers each",
        step_time,
        lambda of: (of["misses"] <= 2.0).all(),
    ),
    "planted_choices": Claim(
        "by expected reward: no more than 2 % of triads go round, rank correlation .9, and expected utility "
        "predicts better than a utility of each lottery; distorted: worse than for the first; random: "
        "completeness below .3; "
        "a circle: accuracy at most .75 and 20 % of triads",
        planted_choices,
        lambda of: (of["expected_cyclic_triads"] <= 0.02).all()
        and (of["expected_rank_correlation"] >= 0.9).all()
        and (of["expected_expected_utility_gain"] > 0.0).all()
        and (of["distorted_expected_utility_gain"] < of["expected_expected_utility_gain"]).all()
        and (of["random_completeness"] < 0.3).all()
        and (of["circle_accuracy"] <= 0.75).all() and (of["circle_cyclic_triads"] >= 0.2).all(),
    ),
    "trained_choices": Claim(
        "a trained DQN: held out within .05 of the best possible accuracy, rank correlation .9, 2 %",
        trained_choices,
        lambda of: (of["accuracy"] >= of["ceiling"] - 0.05).all() and (of["rank_correlation"] >= 0.9).all()
        and (of["cyclic_triads"] <= 0.02).all(),
    ),
    "bad_reference": Claim(
        "DPO from a bad reference: relative alignment 1, absolute at most .1 (10 steps)",
        bad_reference,
        lambda of: (of["relative_alignment"] == 1.0).all() and (of["absolute_alignment"] <= 0.1).all(),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class AuditStudy(ClaimStudy):
    """What audits of policies promise."""

    known: ClassVar[Mapping[str, Claim]] = CLAIMS

    out: Path = Path("runs/audits")
    """Run folder: new, empty, or of the same study."""


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(AuditStudy, description=__doc__)))
