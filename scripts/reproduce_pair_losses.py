"""What policies trained by the pair losses come to, against what their papers and closed forms say.

Each claim is measured over seeds that nothing was chosen on: docs/preferences/preference_optimization.md has
what was asked and what was seen. The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

import prefrl.envs  # noqa: F401
from prefrl.agents.base import Spaces
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.cli import execute
from prefrl.data import Preferences, Segments
from prefrl.functional.preferences.pair_loss import expected_log_ratio, pair_loss, pair_slopes
from prefrl.preferences.asking import exact_answers
from prefrl.run.flags import parse
from prefrl.run.study.claims import Claim, ClaimStudy, Numbers

# Data, and agents that are tables ------------------------------------------------------------------------


def generator(seed: int) -> torch.Generator:
    """Return a generator of draws."""
    return torch.Generator().manual_seed(seed)


def choices(contexts: Tensor, arms: Tensor) -> Segments:
    """Return segments of one step each: arms [N] in contexts [N]."""
    ones = torch.ones_like(arms)
    return Segments(contexts[:, None].expand(-1, 2), arms[:, None], ones, ones > 0)


def table_agent(
    preferences: Preferences, states: int, actions: int, steps: int, *, logits: Tensor | None = None,
    **settings: Any,
) -> PreferenceOptimization:  # fmt: skip
    """Return a table that has learned for ``steps`` from all comparisons at once.

    Its reference are ``logits`` [states, actions], or the even policy.
    """
    given = {"learning_rate": 0.1, "schedule": "linear", "schedule_timesteps": max(1, steps), **settings}
    config = PreferenceOptimizationConfig(cloning_steps=0, batch_size=None, **given)
    spaces = Spaces(gym.spaces.Discrete(states), gym.spaces.Discrete(actions))
    agent = PreferenceOptimization(spaces, config, preferences, device="cpu")
    if logits is not None:
        agent.network.layers.weights()[0].detach()[0] = logits
    for _ in range(steps):
        agent.update()
    return agent


def log_policy(agent: PreferenceOptimization) -> Tensor:
    """Return log pi(a | s) [states, actions]."""
    return agent.policy_table()[0].log()


def log_reference(agent: PreferenceOptimization) -> Tensor:
    """Return the reference's log pi(a | s) [states, actions]."""
    return agent.policy_table(agent.reference)[0].log()


# DPO and IPO (arXiv 2305.18290, 2310.12036) --------------------------------------------------------------


def exact_optima(seed: int, steps: int = 1_500) -> dict[str, float]:
    """Four contexts with rewards and references of their own, exact answers of all pairs of arms.

    Returns the largest errors: of beta h as a difference of rewards (DPO, five arms), and of h as
    (p - 1/2) / beta (IPO, two arms).
    """
    errors, beta = {}, 0.5
    for loss, arms in (("dpo", 5), ("ipo", 2)):
        env: Any = gym.make("prefrl/PreferenceBandit-v0", contexts=4, arms=arms, layout_seed=seed).unwrapped
        states = int(env.observation_space.n)
        start = torch.randn(states, arms, generator=generator(seed), dtype=torch.float64)
        agent = table_agent(exact_answers(env), states, arms, steps, logits=start, loss=loss, beta=beta)
        ratios = (log_policy(agent) - log_reference(agent))[:: arms + 1]  # [contexts, arms]
        h = ratios[:, :, None] - ratios[:, None, :]
        rewards, wins = torch.as_tensor(env.sequence_returns()), torch.as_tensor(env.preference_matrix())
        if loss == "dpo":
            gap = beta * h - (rewards[:, :, None] - rewards[:, None, :])
        else:
            gap = h - (wins - 0.5) / beta
        errors[f"{loss}_error"] = float(gap.abs().max())
    return errors


# SimPO (arXiv 2405.14734) --------------------------------------------------------------------------------

SHORT, LONG, TOKENS = 2, 6, 3


def worth_of_tokens(seed: int, count: int = 500) -> tuple[Preferences, Tensor]:
    """Return comparisons of sequences of two lengths by the mean worth of their tokens, and the lengths.

    What is observed is the position. Lengths are drawn apart from tokens, and mean nothing.
    """
    g = generator(seed)
    tokens = torch.randint(TOKENS, (2, count, LONG), generator=g)
    lengths = torch.where(torch.rand(2, count, generator=g) < 0.5, SHORT, LONG)
    inside = torch.arange(LONG) < lengths[..., None]
    tokens = torch.where(inside, tokens, 0)
    worth = 3.0 * torch.where(inside, tokens.double() - 1.0, 0.0).sum(-1) / lengths
    obs = torch.minimum(torch.arange(LONG + 1), lengths[..., None])
    sides = [Segments(obs[i], tokens[i], lengths[i], lengths[i] > 0) for i in range(2)]
    return Preferences.from_labels(sides[0], sides[1], torch.sigmoid(worth[1] - worth[0])), lengths


def length_bias(seed: int) -> dict[str, float]:
    """Return |correlation| of length and implicit reward: means (SimPO), and sums without a reference."""
    data, lengths = worth_of_tokens(seed)
    found = {}
    settings_of: dict[str, Any] = {"simpo": {"margin": 0.0}, "cpl": {"bias": 1.0}}
    for loss, settings in settings_of.items():
        agent = table_agent(data, LONG + 1, TOKENS, 400, loss=loss, beta=2.0, **settings)
        table = log_policy(agent)
        rewards = torch.stack([
            torch.where(side.mask, table[side.obs[:, :-1], side.actions], 0.0).sum(1)
            for side in (data.first, data.second)
        ])  # fmt: skip
        if loss == "simpo":
            rewards = rewards / lengths
        rho = torch.corrcoef(torch.stack([rewards.flatten(), lengths.flatten().double()]))[0, 1]
        found["mean" if loss == "simpo" else "sum"] = abs(float(rho))
    return found


# VPO (arXiv 2405.19320) ----------------------------------------------------------------------------------


def uncovered_arms(seed: int) -> dict[str, float]:
    """Ten arms, three in no pair, 200 answers; return probabilities that those three are left with."""
    g = generator(seed)
    rewards = torch.randn(10, generator=g, dtype=torch.float64)
    first = torch.randint(7, (200,), generator=g)
    second = (first + torch.randint(1, 7, (200,), generator=g)) % 7
    wins = torch.sigmoid(rewards[second] - rewards[first])
    labels = (torch.rand(200, generator=g, dtype=torch.float64) < wins).double()
    nothing = torch.zeros_like(first)
    data = Preferences.from_labels(choices(nothing, first), choices(nothing, second), labels)
    found = {}
    settings_of: dict[str, Any] = {"dpo": {}, "vpo": {"sign": -1}}
    for loss, settings in settings_of.items():
        agent = table_agent(data, 1, 10, 500, loss=loss, beta=1.0, **settings)
        found[loss] = float(agent.policy_table()[0, 0, 7:].sum())
    return {**found, "ratio": found["vpo"] / found["dpo"]}


def dueling_regrets(seed: int, *, beta: float = 0.5, rounds: int = 500) -> dict[str, float]:
    """Return cumulative regrets in a dueling bandit of 20 arms, without and with optimism of strength 1.

    In each round both arms are drawn from the policy, one is preferred by Bradley and Terry, and the policy
    goes down the sum of DPO's losses so far plus strength beta E_ref[log pi - log pi_ref], with an even
    reference and rewards within 4: the paper's classes of rewards are bounded. Regret is that of
    E r - beta KL, as there. The optimist's loss has a minimum for each arm that might be good: ``optimistic``
    is the lowest of those found from a start at each arm, ``from_one_start`` is found from the even policy.
    """
    g = generator(seed)
    rewards = torch.randn(20, generator=g, dtype=torch.float64)
    draws = torch.rand(rounds, 3, generator=g, dtype=torch.float64)
    even = torch.zeros(1, 20, dtype=torch.float64)
    every = torch.cat([even, 2.0 * torch.eye(20, dtype=torch.float64)])
    sides = {
        "plain": Duel(even, beta, strength=0.0),
        "optimistic": Duel(every, beta, strength=1.0),
        "from_one_start": Duel(even, beta, strength=1.0),
    }
    found, best = dict.fromkeys(sides, 0.0), beta * (torch.logsumexp(rewards / beta, 0) - math.log(20))
    for drawn in draws:
        for name, side in sides.items():
            policy = side.policy()
            divergence = (torch.xlogy(policy, policy) + policy * math.log(20)).sum()
            found[name] += float(best - policy @ rewards + beta * divergence)
            a, b = (min(int((policy.cumsum(0) < u).sum()), 19) for u in drawn[:2])
            won = bool(drawn[2] < torch.sigmoid(rewards[a] - rewards[b]))
            side.learn(*((a, b) if won else (b, a)))
    return found


class Duel:
    """Who learns online from duels of K arms: implicit rewards [B, K], from B starts.

    Of those, the policy is the first at first, and then the one of the lowest loss.
    """

    bound = 4.0

    def __init__(self, rewards: Tensor, beta: float, *, strength: float) -> None:
        self.rewards, self.beta, self.strength = rewards, beta, strength
        arms = rewards.shape[1]
        self.pairs = torch.triu_indices(arms, arms, 1).T  # [N, 2]
        self.wins = torch.zeros(arms, arms, dtype=torch.float64)  # [winner, loser]
        self.mask = torch.ones(len(self.pairs), 2, 1, dtype=torch.bool)
        self.reference = torch.full((len(self.pairs), 2, 1), -math.log(arms), dtype=torch.float64)
        self.best = 0

    def policy(self) -> Tensor:
        """Return probabilities [K]."""
        return torch.softmax(self.rewards[self.best] / self.beta, -1)

    def learn(self, winner: int, loser: int, steps: int = 5) -> None:
        """Take in the outcome of a duel, which of an arm with itself says nothing."""
        self.wins[winner, loser] += winner != loser
        first, second = self.pairs.T
        times = self.wins[first, second] + self.wins[second, first]
        about: dict[str, Any] = {"reference": self.reference, "weights": times, "beta": self.beta}
        labels = self.wins[second, first] / times.clamp(min=1.0)
        # Curvature is at most a quarter of the duels for each side of a pair; 1 for an arm without duels.
        step = 1.0 / (1.0 + 0.5 * (self.wins.sum(0) + self.wins.sum(1)))
        for _ in range(steps):
            said = torch.log_softmax(self.rewards / self.beta, -1)
            slopes = pair_slopes("dpo", said[:, self.pairs][..., None], self.mask, labels, **about)
            by_arm = torch.zeros_like(said).index_add_(1, self.pairs.flatten(), slopes.flatten(1))
            by_arm = by_arm + self.strength * self.beta / said.shape[1]
            gradient = (by_arm - said.exp() * by_arm.sum(-1, keepdim=True)) / self.beta
            moved = self.rewards - step * gradient
            self.rewards = (moved - moved.mean(-1, keepdim=True)).clamp(-self.bound, self.bound)
        said = torch.log_softmax(self.rewards / self.beta, -1)
        losses = pair_loss("dpo", said[:, self.pairs][..., None], self.mask, labels, **about).sum(-1)
        losses = losses + self.strength * self.beta * expected_log_ratio(said, self.reference[0, 0])
        self.best = int(losses.argmin())


# Constrained preference optimisation (arXiv 2605.20834) --------------------------------------------------


def bad_reference(seed: int, form: str = "clip") -> dict[str, float]:
    """200 contexts of two arms, delta_ref = -3, rewards 1 to 2 apart, exact answers, 400 steps of each loss.

    Returns the share of contexts in which the better arm is the likelier one, for DPO and a form of the
    constrained loss, and the share in which DPO's loss has fallen.
    """
    g = generator(seed)
    gap = 1.0 + torch.rand(200, generator=g, dtype=torch.float64)
    better, contexts = torch.randint(2, (200,), generator=g), torch.arange(200)
    start = torch.zeros(200, 2, dtype=torch.float64)
    start[contexts, better] = -3.0
    labels = torch.sigmoid(torch.where(better == 1, gap, -gap))
    zero = torch.zeros_like(better)
    data = Preferences.from_labels(choices(contexts, zero), choices(contexts, zero + 1), labels)
    dpo = table_agent(data, 200, 2, 400, logits=start, beta=1.0)
    constrained = table_agent(data, 200, 2, 400, logits=start, loss="constrained_po", form=form, beta=1.0)
    wanted = torch.where(better == 1, 1.0, -1.0)
    leads = [log_policy(agent).diff(dim=1)[:, 0] * wanted for agent in (dpo, constrained)]
    mask, reference = torch.ones(200, 2, 1, dtype=torch.bool), log_reference(dpo)[..., None]
    losses = [
        pair_loss("dpo", said[..., None], mask, labels, reference=reference, beta=1.0)
        for said in (log_reference(dpo), log_policy(dpo))
    ]
    shares = (leads[0] > 0.0, leads[1] > 0.0, losses[1] < losses[0])
    names = ("dpo", "constrained", "dpo_loss_fell")
    return {name: float(share.double().mean()) for name, share in zip(names, shares, strict=True)}


def turns_the_order(of: Numbers) -> bool:
    """Whether the constrained loss puts right what DPO does not, in every seed."""
    fell = of["dpo_loss_fell"].min() == 1.0
    return bool(of["constrained"].min() >= 0.9 and of["dpo"].max() <= 0.5 and fell)


# Dynamic labels (POWER-DL, arXiv 2412.09544) -------------------------------------------------------------


def one_wrong_pair(seed: int, steps: int = 2_000) -> dict[str, float]:
    """Arm A beats B 1,000 times, C beats A once; agents with Adam, step size 0.01, starts by the seed.

    Returns the margins of C over A and of A over B without and with labels that drift at rate 0.01.
    """
    zero = torch.zeros(2, dtype=torch.int64)
    first, second = torch.tensor([1, 0]), torch.tensor([0, 2])  # B < A, A < C
    data = Preferences.from_labels(choices(zero, first), choices(zero, second), torch.ones(2))
    data = replace(data, weights=torch.tensor([1000.0, 1.0], dtype=torch.float64))
    start = 0.1 * torch.randn(1, 3, generator=generator(seed), dtype=torch.float64)
    found = {}
    for name, rate in (("dpo", 0.0), ("dynamic", 0.01)):
        settings = {"beta": 1.0, "learning_rate": 1e-2, "schedule": "constant", "label_rate": rate}
        agent = table_agent(data, 1, 3, steps, logits=start, **settings)
        margins = (log_policy(agent) - torch.log_softmax(start, -1))[0]
        found[f"{name}_c_over_a"] = float(margins[2] - margins[0])
        found[f"{name}_a_over_b"] = float(margins[0] - margins[1])
    return found


# CPL (arXiv 2310.13639) ----------------------------------------------------------------------------------


def soft_optimal_advantage(seed: int) -> dict[str, float]:
    """Three states, two actions, exact regret labels of all pairs of segments of two steps, bias 1.

    Returns the largest error of a difference of alpha log pi of two segments against that of the advantages.
    """
    alpha, gamma, g = 0.5, 0.9, generator(seed)
    rewards = torch.randn(3, 2, generator=g, dtype=torch.float64)
    dynamics = torch.softmax(2.0 * torch.randn(3, 2, 3, generator=g, dtype=torch.float64), -1)
    values = torch.zeros(3, dtype=torch.float64)
    for _ in range(500):
        q = rewards + gamma * dynamics @ values
        values = alpha * torch.logsumexp(q / alpha, -1)
    advantage = q - values[:, None]
    steps = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    walks = torch.cartesian_prod(torch.arange(6), torch.arange(6))  # any step may follow any
    obs, actions = (steps[walks][..., i] for i in range(2))
    obs = torch.cat([obs, torch.zeros(36, 1, dtype=torch.int64)], 1)
    every = Segments(obs, actions, torch.full((36,), 2), torch.zeros(36, dtype=torch.bool))
    first, second = torch.triu_indices(36, 36, 1)
    worth = advantage[obs[:, :-1], actions].sum(1)
    data = Preferences.from_labels(every[first], every[second], torch.sigmoid(worth[second] - worth[first]))
    agent = table_agent(data, 3, 2, 1_000, loss="cpl", beta=alpha, bias=1.0)
    fitted = alpha * log_policy(agent)[obs[:, :-1], actions].sum(1)
    gap = (fitted[second] - fitted[first]) - (worth[second] - worth[first])
    return {"error": float(gap.abs().max())}


# What is claimed -----------------------------------------------------------------------------------------

CLAIMS: Mapping[str, Claim] = {
    "dpo_ipo": Claim(
        "beta h is the difference of rewards (DPO), h is (p - 1/2) / beta (IPO, two arms), to 1e-3",
        exact_optima,
        lambda of: max(of["dpo_error"].max(), of["ipo_error"].max()) < 1e-3,
    ),
    "simpo_length": Claim(
        "|correlation| of length and implicit reward below .1 by means, above .3 by sums, in every seed",
        length_bias,
        lambda of: of["mean"].max() < 0.1 and of["sum"].min() > 0.3,
    ),
    "vpo_offline": Claim(
        "VPO(-) leaves arms that nobody compared at most half of what DPO does, in every seed",
        uncovered_arms,
        lambda of: of["ratio"].max() <= 0.5,
    ),
    "vpo_online": Claim(
        "mean regret of the optimist at most .9 of that without optimism, beta 1/2",
        dueling_regrets,
        lambda of: of["optimistic"].mean() <= 0.9 * of["plain"].mean(),
    ),
    "vpo_online_soft": Claim(
        "the same, beta 1",
        partial(dueling_regrets, beta=1.0),
        lambda of: of["optimistic"].mean() <= 0.9 * of["plain"].mean(),
    ),
    "constrained_clip": Claim(
        "from delta_ref = -3 the form clip puts .9 of pairs right, DPO half at most, though its loss falls",
        partial(bad_reference, form="clip"),
        turns_the_order,
    ),
    "constrained_cpo": Claim("the same, form cpo", partial(bad_reference, form="cpo"), turns_the_order),
    "constrained_inverse": Claim(
        "the same, form inverse", partial(bad_reference, form="inverse"), turns_the_order
    ),
    "dynamic_labels_adam": Claim(
        "with Adam: DPO believes the wrong pair (margin above 1), drifting labels do not (below 0; the right "
        "margin above 2)",
        one_wrong_pair,
        lambda of: (of["dpo_c_over_a"].min() > 1.0 and of["dynamic_c_over_a"].max() < 0.0
                    and of["dynamic_a_over_b"].min() > 2.0),
    ),
    "cpl": Claim(
        "differences of alpha log pi are those of the soft-optimal advantage, to 1e-3",
        soft_optimal_advantage,
        lambda of: of["error"].max() < 1e-3,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PairLossStudy(ClaimStudy):
    """What policies trained by the pair losses come to."""

    known: ClassVar[Mapping[str, Claim]] = CLAIMS

    out: Path = Path("runs/pair_losses")
    """Run folder: new, empty, or of the same study."""


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(PairLossStudy, description=__doc__)))
