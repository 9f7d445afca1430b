"""``prefrl audit curated_loop``: what does a policy become that learns from its own chosen samples?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from prefrl.config import Count, Natural, Positive
from prefrl.data.devices import seeded_generator
from prefrl.functional.preferences.audits.curated_loop import (
    chosen_frequencies,
    curated_loop,
    mixed_with_data,
    rounds_until,
)
from prefrl.run.plot import PALETTE

from .base import PolicyAudit, facts, figure
from .populations import Population, read_population

CERTAIN = 0.99
"""Share of the best options at which a loop counts as having settled on them."""

MOST_APART = 10_000.0
"""Log-odds that rewards may lie apart: the work for the exact loop grows with it."""

MOST_DRAWN = 100_000_000
"""Samples that a round of the loop at random may show."""

SAME = 1e-9
"""Rewards as near as that to the largest are the largest."""


@dataclass(frozen=True, kw_only=True)
class AuditCuratedLoop(PolicyAudit):
    """What becomes of a policy that is trained on its own samples, as users choose them, again and again?"""

    kind: ClassVar[str] = "curated_loop"

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run folder, or a table option,probability,reward (.csv) whose other columns are features. Of a run
    in an environment of sequences the policy is looked at exactly, else by its episodes."""

    choices: Count | None = 2
    """Samples of which a user chooses one; None: very many."""

    rounds: Count = 60
    """How often the policy is trained on what was chosen."""

    weight: Positive = 1.0
    """Chosen samples for each one of the real data, in the loop that has some."""

    scale: Positive = 1.0
    """Log-odds of a user's choice for each unit of reward (of an episode: of its return)."""

    samples: Natural = 1_000
    """Choices that each round has in the loop that is drawn at random, by which rare options are lost for
    ever; 0: no such loop."""

    episodes: Count = 1_000
    """Episodes that a policy is looked at by, where it is no table."""

    seed: Natural = 0
    """Of episodes and random choices."""

    def check(self) -> None:
        """Raise ValueError where a round would show more samples than there is room for."""
        super().check()
        if self.samples * (self.choices or 1) > MOST_DRAWN:
            raise ValueError(f"samples is {self.samples} and choices {self.choices}; a round shows at most "
                             f"{MOST_DRAWN:,}: take fewer --samples, or 0, or --choices None")  # fmt: skip

    def look(self) -> dict[str, Any]:
        """See :class:`PolicyAudit`."""
        people = read_population(self.source, episodes=self.episodes, seed=self.seed)
        rewards = self.scale * people.rewards
        apart = float((rewards.amax(-1) - rewards.amin(-1)).max())
        if not apart <= MOST_APART:
            raise ValueError(f"scale is {self.scale} and rewards lie up to {apart:.4g} log-odds apart; that "
                             f"may be {MOST_APART:,.0f} at most: take a smaller --scale")  # fmt: skip
        alone = curated_loop(people.probs, rewards, self.choices, self.rounds)
        with_data = curated_loop(people.probs, rewards, self.choices, self.rounds, weight=self.weight)
        loops = {"alone": alone.probs, "with_data": with_data.probs}
        if self.samples:
            loops["alone_sampled"] = self._sampled(people.probs, rewards, None)
            loops["with_data_sampled"] = self._sampled(people.probs, rewards, self.weight)
        return {
            "known_by": people.known_by,
            "features": list(people.feature_names),
            "loops": {name: self._described(path, people, rewards) for name, path in loops.items()},
            "least_share": 1.0 / (1.0 + self.weight),
            "first_growth": float(alone.growth[0] @ people.shares),
            "first_growth_bound": float(alone.least_growth[0] @ people.shares),
            "growth_over_bound": float((alone.growth - alone.least_growth).min()),
        }

    def _sampled(self, probs: Tensor, rewards: Tensor, weight: float | None) -> Tensor:
        """Return the policies [T + 1, P, n] where rounds are fitted to so many random choices."""
        generator = seeded_generator(self.seed, "curated loop")
        path = [probs]
        for _ in range(self.rounds):
            pairs = zip(path[-1], rewards, strict=True)
            chosen = torch.stack([self._chosen(policy, reward, generator) for policy, reward in pairs])
            path.append(chosen if weight is None else mixed_with_data(chosen, probs, weight))
        return torch.stack(path)

    def _chosen(self, policy: Tensor, rewards: Tensor, generator: torch.Generator) -> Tensor:
        """Return how often options are chosen [n] in a round."""
        chances = policy
        if self.choices is None:  # of very many, one is chosen as if it were drawn with these chances
            chances = (policy.log() + rewards).softmax(-1)
        count = self.samples * (self.choices or 1)
        drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
        drawn = drawn.view(self.samples, -1)
        uniform = torch.rand(drawn.shape, generator=generator, dtype=torch.float64)
        gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        return chosen_frequencies(drawn, rewards, gumbel)

    def _described(self, path: Tensor, people: Population, rewards: Tensor) -> dict[str, Any]:
        """Return what is said of a loop's policies [T + 1, P, n]."""

        def mean(values: Tensor) -> Tensor:
            return (path * values).sum(-1)

        def listed(values: Tensor) -> list[float]:
            found: list[float] = (values @ people.shares).tolist()
            return found

        top = rewards.amax(-1, keepdim=True)
        worth, best = (rewards - top).exp(), (rewards >= top - SAME).double()
        variance = mean((people.rewards - mean(people.rewards)[..., None]).square())
        ratio = torch.where(people.probs > 0.0, path / people.probs, torch.inf).amin((1, 2))
        used = torch.einsum("tpn,pnf,p->tf", path, people.features, people.shares)
        return {
            "reward": listed(mean(people.rewards)),
            "reward_variance": listed(variance),
            "worth": listed(mean(worth)),
            "best_share": listed(mean(best)),
            "settled_after": int(rounds_until(mean(best) @ people.shares, CERTAIN)),
            "least_ratio": ratio.tolist(),
            "feature_shares": used.tolist(),
        }

    def draw(self, result: Mapping[str, Any]) -> Figure:
        """See :class:`PolicyAudit`: rewards, their spread, and how features change."""
        with_features = bool(result["features"])
        drawn = figure(12.4 if with_features else 8.6)
        axes = drawn.subplots(1, 3 if with_features else 2)
        labels = {"alone": "own samples alone", "with_data": "with real data"}
        for place, (name, label) in enumerate(labels.items()):
            for suffix, style in (("", "-"), ("_sampled", ":")):
                loop = result["loops"].get(name + suffix)
                if loop is None:
                    continue
                text = label if not suffix else f"{label}, {self.samples} choices"
                axes[0].plot(loop["reward"], style, color=PALETTE[place], label=text)
                axes[1].plot(loop["best_share"], style, color=PALETTE[place], label=text)
        axes[0].set(xlabel="round", ylabel="mean reward")
        axes[1].set(xlabel="round", ylabel="share of the best options", ylim=(-0.03, 1.03))
        axes[0].legend(fontsize=8, frameon=False)
        if with_features:
            for place, name in enumerate(result["features"][: len(PALETTE)]):
                for loop, style in (("alone", "-"), ("with_data", "--")):
                    shares = [row[place] for row in result["loops"][loop]["feature_shares"]]
                    legend = name if loop == "alone" else None
                    axes[2].plot(shares, style, color=PALETTE[place], label=legend)
            axes[2].set(xlabel="round", ylabel="mean of a feature (dashed: with real data)")
            axes[2].legend(fontsize=8, frameon=False)
        return drawn

    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """See :class:`PolicyAudit`."""
        table = Table("loop", "reward first, last", "its variance", "best options", f"{CERTAIN:.0%} after",
                      "least p / p_ref", title=f"{self.rounds} rounds", title_justify="left")  # fmt: skip
        for name, loop in result["loops"].items():
            never = loop["settled_after"] > self.rounds
            table.add_row(
                name.replace("_", " "), f"{loop['reward'][0]:.3f}, {loop['reward'][-1]:.3f}",
                f"{loop['reward_variance'][0]:.3g}, {loop['reward_variance'][-1]:.2g}",
                f"{loop['best_share'][0]:.3f}, {loop['best_share'][-1]:.3f}",
                "never" if never else str(loop["settled_after"]), f"{min(loop['least_ratio']):.3g}",
            )  # fmt: skip
        rows = {"options": result["known_by"],
                "with real data, p / p_ref is at least": f"{result['least_share']:.3f}"}  # fmt: skip
        for place, name in enumerate(result["features"]):
            path = result["loops"]["alone"]["feature_shares"]
            data = result["loops"]["with_data"]["feature_shares"]
            rows[name] = (
                f"{path[0][place]:.3f}, then {path[-1][place]:.3f} alone, {data[-1][place]:.3f} with data"
            )
        return [table, facts("The policy", rows)]
