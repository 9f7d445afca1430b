"""What label models are good for, on linear and tabular models.

Each claim is measured over seeds that nothing was chosen on: docs/preferences/preference_optimization.md has
what was asked and what was seen. The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from prefrl.agents.base import Spaces
from prefrl.agents.preferences.preference_optimization import (
    PreferenceOptimization,
    PreferenceOptimizationConfig,
)
from prefrl.cli import execute
from prefrl.data import Preferences, Segments, concatenate_preferences, concatenate_segments
from prefrl.functional.preferences.label_models import smooth_labels
from prefrl.functional.preferences.logistic import logistic_regression
from prefrl.preferences.label_models import (
    AnchorRanking,
    DensityRatio,
    DropoutFilter,
    EnsembleVote,
    MultiLevelPairs,
    Rationale,
    RobustFlips,
)
from prefrl.run.flags import parse
from prefrl.run.study.claims import Claim, ClaimStudy


def one_step(features: Tensor) -> Segments:
    """Segments of one transition with reward features [N, F]."""
    n = len(features)
    nothing = torch.zeros(n, dtype=torch.int64)
    return Segments(
        nothing[:, None].expand(n, 2), nothing[:, None], nothing + 1, nothing > 0, features.double()[:, None]
    )


def linear_pairs(difference: Tensor, labels: Tensor) -> Preferences:
    """Comparisons of a segment without features and one with these."""
    return Preferences.from_labels(one_step(torch.zeros_like(difference)), one_step(difference), labels)


def differences(preferences: Preferences) -> Tensor:
    """[N, F] features of the second segment minus those of the first."""
    first, second = preferences.first.features, preferences.second.features
    assert first is not None
    assert second is not None
    return (second - first).sum(1)


def fitted(preferences: Preferences, *, ridge: float = 0.0) -> Tensor:
    """[F] weights of Bradley-Terry on features."""
    x, y, w = differences(preferences), preferences.labels, preferences.weights
    return logistic_regression(x[None], y[None], w[None], ridge=ridge)[0]


def linear_score(weights: Tensor) -> Callable[[Segments], Tensor]:
    """Score [K, N] of segments under weights [K, F]."""
    return lambda segments: torch.einsum("nlf,kf->kn", segments.features, weights)


def generator(seed: int) -> torch.Generator:
    """Generator of draws."""
    return torch.Generator().manual_seed(seed)


def flip(labels: Tensor, share: float, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Labels of which a share is turned round, and which ones."""
    wrong = torch.rand(len(labels), generator=g, dtype=torch.float64) < share
    return torch.where(wrong, 1.0 - labels, labels), wrong


# A2: labels outside [0, 1] ------------------------------------------------------------------------------


def robust_errors(seed: int, epsilon: float = 0.3) -> dict[str, float]:
    """Relative errors of weights |w| = sqrt 2 fitted to 4,000 labels of which 30 % are turned round."""
    g = generator(seed)
    truth = torch.randn(5, generator=g, dtype=torch.float64)
    truth *= math.sqrt(2.0) / truth.norm()
    x = torch.randn(4000, 5, generator=g, dtype=torch.float64)
    clean = (torch.rand(4000, generator=g, dtype=torch.float64) < torch.sigmoid(x @ truth)).double()
    noisy, _ = flip(clean, epsilon, g)
    pairs = linear_pairs(x, noisy)
    smooth = Preferences.from_labels(pairs.first, pairs.second, smooth_labels(noisy, epsilon))
    fits = {"plain": pairs, "robust": RobustFlips(epsilon)(pairs), "smooth": smooth}
    return {name: float((fitted(p) - truth).norm() / truth.norm()) for name, p in fits.items()}


# B2: votes ----------------------------------------------------------------------------------------------


def vote_shares(seed: int) -> dict[str, float]:
    """Shares of wrong labels in the weakest decile, fifth, and the strongest half; before and after flips."""
    g = generator(seed)
    truth = torch.randn(5, generator=g, dtype=torch.float64)
    x = torch.randn(2000, 5, generator=g, dtype=torch.float64)
    right = (x @ truth > 0).double()
    labels, wrong = flip(right, 0.2, g)
    drawn = torch.poisson(torch.ones(10, 2000, dtype=torch.float64), generator=g)
    members = logistic_regression(x.expand(10, -1, -1), labels.expand(10, -1), drawn)
    vote = EnsembleVote(linear_score(members), "flip", flip_share=0.2)
    pairs = linear_pairs(x, labels)
    order = vote.strength(pairs).argsort()
    parts = {"decile": slice(200), "fifth": slice(400), "strong_half": slice(1000, None)}
    shares = {name: float(wrong[order[part]].double().mean()) for name, part in parts.items()}
    after = float((vote(pairs).labels != right).double().mean())
    return {**shares, "before": float(wrong.double().mean()), "after": after}


# B1: dropout --------------------------------------------------------------------------------------------


def dropout_rates(seed: int, *, random_flips: bool = False) -> dict[str, float]:
    """Shares of wrong labels among 2,000 pseudo-labelled pairs, and in the half that is kept.

    A linear reward of 20 features, learned from 30 clean pairs, labels the others and, with a tenth of the
    features dropped, judges them; or labels are right but for a quarter that is turned round at random.
    """
    g = generator(seed)
    truth = torch.randn(20, generator=g, dtype=torch.float64)
    x = torch.randn(2100, 20, generator=g, dtype=torch.float64)
    right = (x @ truth > 0).double()
    model = fitted(linear_pairs(x[:30], right[:30]), ridge=1e-3)
    pseudo = flip(right[100:], 0.25, g)[0] if random_flips else (x[100:] @ model > 0).double()
    kept = torch.bernoulli(torch.full((10, 20), 0.9, dtype=torch.float64), generator=g) / 0.9
    marked = linear_pairs(x[100:], (pseudo != right[100:]).double())
    chosen = DropoutFilter(linear_score(model * kept), 0.5, smooth=False)(marked)
    return {"base": float(marked.labels.mean()), "kept": float(chosen.labels.mean())}


# A6: reasons --------------------------------------------------------------------------------------------


def rationale_accuracies(seed: int) -> dict[str, float]:
    """Held-out accuracy after 60 pairs: alone, and with reasons of weight 10; whether weight 0 changes a bit.

    Segments differ in each of 20 features by -1, 0 or 1; the most important one that differs decides.
    """
    g = generator(seed)
    importance = torch.randn(20, generator=g, dtype=torch.float64)
    x = torch.randint(-1, 2, (2060, 20), generator=g).double()
    decided = (x * importance).abs().argmax(1)
    labels = ((x * importance).gather(1, decided[:, None])[:, 0] > 0).double()
    pairs = linear_pairs(x[:60], labels[:60])
    data = [pairs, *(Rationale("factor", decided[:60], weight)(pairs) for weight in (0.0, 10.0))]
    fits = [fitted(part, ridge=0.1) for part in data]
    right = [float(((x[60:] @ w > 0) == (labels[60:] > 0.5)).double().mean()) for w in fits]
    same = float(torch.equal(fits[0], fits[1]))
    return {"plain": right[0], "reasons": right[2], "gain": right[2] - right[0], "same_at_weight_0": same}


# A7: contexts -------------------------------------------------------------------------------------------

WIDE = 9
"""Cells along a side of the square of the walks."""


def visits(count: int, length: int, g: torch.Generator) -> Tensor:
    """[N, 81] 1 where a random walk of so many steps was."""
    place = torch.randint(WIDE, (count, 2), generator=g)
    moves = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
    visited = torch.zeros(count, WIDE * WIDE)
    for _ in range(length):
        visited.scatter_(1, place[:, :1] * WIDE + place[:, 1:], 1.0)
        place = (place + moves[torch.randint(4, (count,), generator=g)]).clamp(0, WIDE - 1)
    return visited


def satisfied(visited: Tensor) -> Tensor:
    """[N, 4] whether walks were in the room of 3 x 3 cells in each corner."""
    square = visited.reshape(-1, WIDE, WIDE)
    rooms = [square[:, i : i + 3, j : j + 3] for i, j in itertools.product((0, WIDE - 3), repeat=2)]
    return torch.stack([room.flatten(1).any(1) for room in rooms], 1)


def in_context(visited: Tensor, contexts: Tensor) -> Segments:
    """Summaries of walks, seen with a context [N, 4]: features are context x (visited, 1)."""
    obs = torch.cat([contexts, visited], 1).double()
    ones = torch.ones(len(obs), 1, dtype=torch.float64)
    outer = contexts.double()[:, :, None] * torch.cat([visited.double(), ones], 1)[:, None]
    nothing = torch.zeros(len(obs), dtype=torch.int64)
    return Segments(
        obs[:, None].expand(-1, 2, -1), nothing[:, None], nothing + 1, nothing > 0, outer.flatten(1)[:, None]
    )


def context_sets(size: int) -> Tensor:
    """[C, 4] indicators of all contexts of so many predicates."""
    return torch.tensor([[float(i in s) for i in range(4)] for s in itertools.combinations(range(4), size)])


def context_accuracies(seed: int, wrong: float = 0.2) -> dict[str, float]:
    """Held-out accuracy in contexts of 3 predicates after 100 pairs in smaller ones; alone, with free pairs.

    A share of the 100 labels is turned round, as people's are; the checks of the free pairs are exact.
    """
    g = generator(seed)
    small, large = torch.cat([context_sets(1), context_sets(2)]), context_sets(3)

    def compared(count: int, contexts: Tensor) -> Preferences:
        """Return pairs of walks in one context, labelled by how much of it they satisfy."""
        visited = [visits(40 * count, 20, g) for _ in range(2)]
        context = contexts[torch.randint(len(contexts), (40 * count,), generator=g)]
        level = torch.stack([(satisfied(v) * context).sum(1) for v in visited])
        rows = torch.nonzero(level[0] != level[1])[:count, 0]
        sides = [in_context(v[rows], context[rows]) for v in visited]
        return Preferences.from_labels(sides[0], sides[1], (level[1] > level[0])[rows].double())

    def level(segments: Segments, contexts: Tensor) -> Tensor:
        return (satisfied(segments.obs[:, 0, 4:]) * contexts).sum(1)

    def with_context(segments: Segments, contexts: Tensor) -> Segments:
        return in_context(segments.obs[:, 0, 4:].float(), contexts)

    pairs, test = compared(100, small), compared(1000, large)
    pairs = replace(pairs, labels=flip(pairs.labels, wrong, g)[0])
    free = MultiLevelPairs(small, level, with_context, pairs_per_segment=4)(pairs)
    right = []
    for data in (pairs, free):
        logit = differences(test) @ fitted(data, ridge=0.03)
        right.append(float(((logit > 0) == (test.labels > 0.5)).double().mean()))
    return {"plain": right[0], "free": right[1], "gain": right[1] - right[0]}


# B3 and B4: a grid --------------------------------------------------------------------------------------

SIDE = 5
GOAL = SIDE * SIDE - 1


def grid_successors(side: int = SIDE) -> Tensor:
    """[cells, 4] cells of a square; the last one absorbs."""
    cell = torch.arange(side * side)
    row, column = cell // side, cell % side
    moves = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    successors = torch.stack([r.clamp(0, side - 1) * side + c.clamp(0, side - 1) for r, c in moves], 1)
    successors[-1] = side * side - 1
    return successors


class Tabular:
    """A policy of a table [25, 4] of logits."""

    def __init__(self, logits: Tensor) -> None:
        self.table = logits.log_softmax(1)

    def log_prob(self, segments: Segments) -> Tensor:
        """Log-likelihoods [N, L] of the actions."""
        return self.table[segments.obs[:, :-1], segments.actions]


def episodes(
    policy: Tensor, starts: Tensor, length: int, g: torch.Generator, *, side: int = SIDE, slip: float = 0.0
) -> Segments:
    """Episodes under probabilities [cells, 4] that end in the goal or after so many steps.

    A share ``slip`` of the actions is replaced by random ones, behind the policy's back.
    """
    successors, cell, goal = grid_successors(side), starts, side * side - 1
    cells, actions = [cell], []
    for _ in range(length):
        action = torch.multinomial(policy[cell], 1, generator=g)[:, 0]
        actions.append(torch.where(cell == goal, 0, action))
        if slip:
            slipped = torch.rand(len(cell), generator=g) < slip
            action = torch.where(slipped, torch.randint(4, (len(cell),), generator=g), action)
        cell = successors[cell, action]
        cells.append(cell)
    obs = torch.stack(cells, 1)
    lengths = (obs[:, :-1] != goal).sum(1)
    return Segments(obs, torch.stack(actions, 1), lengths, cell == goal)


def checkpoint_agreements(seed: int, steps: int = 400) -> dict[str, float]:
    """How well the ratio of the last checkpoint to the first orders true returns, and how that grows.

    ``spearman`` correlates gains in value of 10 checkpoints over the first with their agreements.
    The episodes go on to the goal: of shorter ones the ratio orders the regret, not the return.
    Natural policy gradient on costs of cells, whose action values are known up to noise at every update.
    """
    g = generator(seed)
    costs = torch.rand(SIDE * SIDE, generator=g, dtype=torch.float64) + 0.1
    costs[GOAL] = 0.0
    successors, logits = grid_successors(), torch.zeros(SIDE * SIDE, 4, dtype=torch.float64)
    judged = [
        episodes(torch.full((25, 4), 0.25), torch.zeros(1000, dtype=torch.int64), steps, g) for _ in range(2)
    ]
    returns = [-(costs[side.obs[:, :-1]] * side.mask).sum(1) for side in judged]
    pairs = Preferences.from_labels(judged[0], judged[1], (returns[1] > returns[0]).double())
    gains, agreements, first = [], [], None
    for _ in range(11):
        value = torch.zeros(SIDE * SIDE, dtype=torch.float64)
        policy = logits.softmax(1)
        for _ in range(400):
            quality = -costs[:, None] + value[successors]
            value = (policy * quality).sum(1)
        if first is None:
            first, begin = Tabular(logits), float(value[0])
        else:
            answers = DensityRatio(Tabular(logits), first)(pairs).labels
            gains.append(float(value[0]) - begin)
            agreements.append(float((answers == pairs.labels).double().mean()))
        noise = torch.randn(SIDE * SIDE, 4, generator=g, dtype=torch.float64)
        logits = logits + 0.005 * (quality + 2.0 * noise)
    return {"agreement": agreements[-1], "spearman": float(spearmanr(gains, agreements).statistic)}


def expert_policy(side: int = SIDE) -> Tensor:
    """[cells, 4] probabilities of going right, and down at the wall."""
    right, down = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    return torch.where((torch.arange(side * side) % side < side - 1)[:, None], right, down)


def closeness(candidates: Segments, beside: Segments, side: int = SIDE) -> Tensor:
    """Minus the mean distance [N] from where the expert is at the same time."""
    rows = (candidates.obs // side - beside.obs // side).abs()
    columns = (candidates.obs % side - beside.obs % side).abs()
    return -(rows + columns).double().mean(1)


def anchor_taus(seed: int) -> dict[str, float]:
    """Mean over starts of Kendall's tau of q with two true returns of 16 students: steps, and distances."""
    g = generator(seed)
    starts = torch.arange(0, 20, 2)
    expert = expert_policy()
    anchors = episodes(expert, starts, 16, g)
    ranking, taus = AnchorRanking(closeness, anchors), []
    for start in starts:
        greed = torch.rand(16, generator=g)
        students = [episodes(expert * e + 0.25 * (1.0 - e), start[None], 16, g) for e in greed]
        candidates = concatenate_segments(students)
        cells = candidates.obs
        q = ranking.distribution(candidates)
        left = (2 * SIDE - 2) - cells // SIDE - cells % SIDE
        taus.append([kendalltau(q, r).statistic for r in (-candidates.lengths, -left[:, 1:].sum(1))])
    mean = torch.tensor(taus).nanmean(0)
    return {"steps": float(mean[0]), "distances": float(mean[1])}


def learned(data: Preferences, states: int, actions: int, **settings: Any) -> Tensor:
    """Probabilities [states, actions] of a table that DPO has trained for 300 steps on all comparisons."""
    given = {"batch_size": None, "learning_rate": 0.1, "schedule": "linear", **settings}
    config = PreferenceOptimizationConfig(**given, schedule_timesteps=300 + given["cloning_steps"])
    spaces = Spaces(gym.spaces.Discrete(states), gym.spaces.Discrete(actions))
    agent = PreferenceOptimization(spaces, config, data, device="cpu")
    for _ in range(300 + config.cloning_steps):
        agent.update()
    return agent.policy_table()[0]


def filtered_returns(seed: int) -> dict[str, float]:
    """What policies are worth that DPO learns from all pseudo-labels, and from the half that is kept.

    Four contexts of eight arms. A linear reward of arms and of 12 numbers that mean nothing, learned from 70
    clean pairs, labels 2,000 others. UPO's loss adds the likelihood of the chosen. ``greedy`` takes the most
    likely arms.
    """
    g = generator(seed)
    rewards = torch.randn(4, 8, generator=g, dtype=torch.float64)

    def drawn(count: int) -> Preferences:
        """Return clean comparisons of two arms of one context."""
        context = torch.randint(4, (count,), generator=g)
        first = torch.randint(8, (count,), generator=g)
        second = (first + torch.randint(1, 8, (count,), generator=g)) % 8
        sides = []
        for arm in (first, second):
            about = torch.nn.functional.one_hot(8 * context + arm, 32).double()
            noise = torch.randn(count, 12, generator=g, dtype=torch.float64)
            side = one_step(torch.cat([about, noise], 1))
            sides.append(replace(side, obs=context[:, None].expand(-1, 2), actions=arm[:, None]))
        return Preferences.from_labels(
            sides[0], sides[1], (rewards[context, second] > rewards[context, first]).double()
        )

    clean, data = drawn(70), drawn(2000)
    model = fitted(clean, ridge=1e-2)
    pseudo = replace(data, labels=(differences(data) @ model > 0).double())
    kept = torch.bernoulli(torch.full((10, 44), 0.9, dtype=torch.float64), generator=g) / 0.9
    chosen = DropoutFilter(linear_score(model * kept), 0.5)(pseudo)
    found = {"wrong": float((pseudo.labels != data.labels).double().mean())}
    for name, labelled, settings in (
        ("all", pseudo, {}), ("kept", chosen, {}), ("kept_upo", chosen, {"loss": "upo"})
    ):  # fmt: skip
        policy = learned(labelled, 4, 8, beta=2.0, cloning_steps=0, **settings)
        found[name] = float((policy * rewards).sum(1).mean())
        found[f"{name}_greedy"] = float(rewards.gather(1, policy.argmax(1)[:, None]).mean())
    return found


def anchor_success(
    seed: int, *, side: int = 8, slip: float = 0.4, length: int = 30, beta: float = 0.1, group: int = 4
) -> dict[str, float]:
    """Probability of the goal in time from four starts, with one anchor of each, where actions slip.

    Of the expert, of cloning the anchors (even where they never were), and of DPO on comparisons of 1,024
    students, half clones and half random, in groups beside their anchor.
    """
    g, goal = generator(seed), side * side - 1
    world: dict[str, Any] = {"side": side, "slip": slip}
    starts, expert = torch.randperm(goal, generator=g)[:4], expert_policy(side)
    anchors = episodes(expert, starts, length, g, **world)
    counts = torch.zeros(goal + 1, 4)
    visited = anchors.obs[:, :-1][anchors.mask], anchors.actions[anchors.mask]
    counts.index_put_(visited, torch.ones(()), accumulate=True)
    clone = torch.where(counts.sum(1, keepdim=True) > 0, counts, 1.0)
    clone = clone / clone.sum(1, keepdim=True)
    students = episodes(0.5 * clone + 0.125, starts.repeat(256), length, g, **world)
    ranking = AnchorRanking(partial(closeness, side=side), anchors)
    groups = range(0, len(students), 4 * group)
    data = concatenate_preferences([ranking.pairs(students[i : i + 4 * group]) for i in groups])
    policy = learned(data, goal + 1, 4, beta=beta, cloning_steps=200)
    reach = {"expert": expert, "cloning": clone, "dpo": policy}
    return {name: success(each.double(), starts, length, **world) for name, each in reach.items()}


def success(policy: Tensor, starts: Tensor, length: int, *, side: int, slip: float) -> float:
    """Return the probability of the goal within so many steps, the mean over starts."""
    acted = (1.0 - slip) * policy + slip / 4.0
    moves = torch.nn.functional.one_hot(grid_successors(side), side * side).double()
    step, place = (
        torch.einsum("sa,sat->st", acted, moves),
        torch.eye(side * side, dtype=torch.float64)[starts],
    )
    for _ in range(length):
        place = place @ step
    return float(place[:, -1].mean())


# What is claimed -----------------------------------------------------------------------------------------

CLAIMS: Mapping[str, Claim] = {
    "robust_flips": Claim(
        "relative error of robust DPO at most .35 in every seed, and on the mean half of DPO's",
        robust_errors,
        lambda of: of["robust"].max() <= 0.35 and of["robust"].mean() <= 0.5 * of["plain"].mean(),
    ),
    "rationale": Claim(
        "mean gain of reasons .08 or more; weight 0 changes no bit",
        rationale_accuracies,
        lambda of: of["gain"].mean() >= 0.08 and of["same_at_weight_0"].min() == 1.0,
    ),
    "contexts": Claim(
        "mean gain of free pairs .1 or more, labels clean",
        partial(context_accuracies, wrong=0.0),
        lambda of: of["gain"].mean() >= 0.1,
    ),
    "contexts_noisy": Claim(
        "mean gain of free pairs .1 or more, a fifth of the labels wrong",
        context_accuracies,
        lambda of: of["gain"].mean() >= 0.1,
    ),
    "dropout_rates": Claim(
        "the kept half has at most .6 of the wrong labels' share, where the labels are a reward's own",
        dropout_rates,
        lambda of: of["kept"].mean() <= 0.6 * of["base"].mean(),
    ),
    "dropout_rates_random": Claim(
        "the same, where labels are turned round at random",
        partial(dropout_rates, random_flips=True),
        lambda of: of["kept"].mean() <= 0.6 * of["base"].mean(),
    ),
    "dropout_returns": Claim(
        "DPO from the kept half is worth at least what DPO from all is, in 8 of 10 seeds",
        filtered_returns,
        lambda of: (of["kept"] >= of["all"]).mean() >= 0.8,
    ),
    "votes": Claim(
        "wrong labels: .9 of the weakest decile, .8 of the weakest fifth, at most .02 of the strong half",
        vote_shares,
        lambda of: (of["decile"].min() >= 0.9 and of["fifth"].min() >= 0.8
                    and of["strong_half"].max() <= 0.02),
    ),
    "density_ratio": Claim(
        "agreement with returns .85 or more and rank correlation with the gain .6 or more, in every seed",
        checkpoint_agreements,
        lambda of: of["agreement"].min() >= 0.85 and of["spearman"].min() >= 0.6,
    ),
    "anchor_order": Claim(
        "Kendall's tau with both returns .6 or more, in every seed",
        anchor_taus,
        lambda of: min(of["steps"].min(), of["distances"].min()) >= 0.6,
    ),
    "anchor_success": Claim(
        "mean success .9 or more, and .1 or more above cloning",
        anchor_success,
        lambda of: of["dpo"].mean() >= 0.9 and (of["dpo"] - of["cloning"]).mean() >= 0.1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class LabelModelStudy(ClaimStudy):
    """What label models are good for, on linear and tabular models."""

    known: ClassVar[Mapping[str, Claim]] = CLAIMS

    out: Path = Path("runs/label_models")
    """Run folder: new, empty, or of the same study."""


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(LabelModelStudy, description=__doc__)))
