"""``prefrl audit coherence``: do a trained agent's choices between lotteries have a utility, and which?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from matplotlib.figure import Figure
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor

from prefrl.audit.answers import scaled
from prefrl.audit.held_out import Prediction, candidates, coin, held_out
from prefrl.config import Bounds, Count, Natural
from prefrl.data.devices import seeded_generator
from prefrl.functional.preferences.audits.choice_utility import (
    completeness,
    cyclic_chance,
    expected_utility,
    explained_share,
)
from prefrl.functional.preferences.general_models.triads import circles, compared_triads
from prefrl.preferences.general_models import Comparisons, Thurstone
from prefrl.run.folder import RunFolder
from prefrl.run.plot import PALETTE

from .base import PolicyAudit, RunArgument, facts, figure, open_run
from .behaviour import acted

MOST_TRIADS = 100_000
"""Triads that are looked at; where there are more, as many are drawn."""

SAME = 1e-4
"""Utilities [deviations] within that of each other are the same: what is between them is left of the fit."""

POWERS = (1.0, 8.0)
"""Between which the power lies that weights of prizes are raised to, as in the environment."""


@dataclass(frozen=True, kw_only=True)
class AuditCoherence(PolicyAudit):
    """Do a trained agent's choices between lotteries have a utility, and is it what the agent is paid?"""

    kind: ClassVar[str] = "coherence"

    run_folder: RunArgument
    """Run folder of an agent that was trained to choose, in prefrl/LotteryChoice-v0."""

    lotteries: Annotated[int, Bounds(low=2, high=100)] = 20
    """Lotteries that are compared with each other and with each prize for certain."""

    draws: Count = 5
    """How often each question is asked, in either order. Agents whose actions are not random answer the
    same each time."""

    deterministic: bool = False
    """Ask for deterministic actions."""

    folds: Annotated[int, Bounds(low=2, high=20)] = 5
    """Parts of the pairs, each of which is predicted by a fit to the others."""

    seed: Natural = 0
    """Of lotteries and folds."""

    def look(self) -> dict[str, Any]:
        """See :class:`PolicyAudit`."""
        agent, env, _ = open_run(RunFolder.open(self.run_folder, quiet=True))
        task = getattr(env, "unwrapped", env)
        if not hasattr(task, "prize_values"):
            name = getattr(getattr(env, "spec", None), "id", env)
            raise ValueError(f"{self.run_folder} is a run in {name}; choices between lotteries are asked for "
                             "in prefrl/LotteryChoice-v0")  # fmt: skip
        values = torch.as_tensor(task.prize_values(), dtype=torch.float64)
        options = self._options(len(values))
        comparisons, first_chosen = self._asked(agent, options)
        return self._numbers(comparisons, options, values, first_chosen)

    def _options(self, prizes: int) -> Tensor:
        """Return all prizes for certain, then lotteries over them [K + L, K]."""
        generator = seeded_generator(self.seed, "lotteries")
        shape = (self.lotteries, prizes)
        weights = -torch.log1p(-torch.rand(shape, generator=generator, dtype=torch.float64)) + 1e-6
        low, high = POWERS
        power = low + (high - low) * torch.rand((self.lotteries, 1), generator=generator, dtype=torch.float64)
        weights = (weights / weights.amax(1, keepdim=True)) ** power
        return torch.cat([torch.eye(prizes, dtype=torch.float64), weights / weights.sum(1, keepdim=True)])

    def _asked(self, agent: Any, options: Tensor) -> tuple[Comparisons, float]:
        """Return the answers to all pairs in both orders, and how often the lottery shown first is chosen."""
        first, second = torch.triu_indices(len(options), len(options), 1)
        sides = torch.stack([options[first], options[second]], 1)  # [M, 2, K]
        shown = torch.stack([sides, sides.flip(1)])  # [2, M, 2, K]
        obs = shown.flatten(2).to(torch.float32).repeat_interleave(self.draws, 1)
        actions = torch.as_tensor(acted(agent, obs.flatten(0, 1).numpy(), deterministic=self.deterministic))
        chosen = (
            actions.double().view(-1, 2, len(first), self.draws).mean((0, 3))
        )  # [2, M], of the second shown
        labels = 0.5 * (chosen[0] + 1.0 - chosen[1])
        counts = torch.full_like(labels, 2.0 * self.draws * agent.num_learners)
        found = Comparisons(first, second, labels, len(options), counts)
        return found, float(1.0 - chosen.mean())

    def _numbers(
        self, comparisons: Comparisons, options: Tensor, values: Tensor, first_chosen: float
    ) -> dict[str, Any]:  # fmt: skip
        """Return what the answers say."""
        prizes, worth = len(values), expected_utility(options, values)
        fitted = Thurstone(seed=self.seed)
        fitted.fit(comparisons)
        utility = fitted.score(torch.arange(len(options)))
        predicted = expected_utility(options, utility[:prizes])[prizes:]
        labels, first, second = comparisons.labels, comparisons.first, comparisons.second
        better = (worth[second] - worth[first]).sign()
        apart = (better != 0.0).double()
        maximised = ((0.5 + better * (labels - 0.5)) * apart).sum() / apart.sum()
        found = self._held_out(comparisons, options)
        gain, error = found["expected_utility"].ahead_of(found["thurstone"])
        return {
            "models": {name: _predicted(each) for name, each in found.items()},
            "expected_utility_gain": gain,
            "expected_utility_gain_error": error,
            "ceiling": float(torch.maximum(labels, 1.0 - labels).mean()),
            "completeness": float(completeness(labels)),
            "shown_first_chosen": first_chosen,
            **self._triads(comparisons),
            "utilities": utility.tolist(),
            "true_values": worth.tolist(),
            "num_prizes": prizes,
            "rank_correlation": _related(utility, worth, rank=True),
            "correlation": _related(utility, worth),
            "maximisation_rate": float(maximised),
            "expected_utilities": predicted.tolist(),
            "expected_utility_r2": (
                float(explained_share(utility[prizes:], predicted)) if _differ(utility[prizes:]) else None
            ),
            "expected_utility_correlation": _related(utility[prizes:], predicted),
        }

    def _held_out(self, comparisons: Comparisons, options: Tensor) -> dict[str, Prediction]:
        """Return what models say of pairs that they were not fitted to.

        The model of expected utility is Bradley and Terry's with a utility that is linear in the chances of
        prizes; the others have a number, or more, for each option.
        """
        order = torch.randperm(len(comparisons), generator=seeded_generator(self.seed, "folds"))
        folds, models = order % self.folds, candidates(comparisons, (), (), self.seed)
        linear = replace(comparisons, features=scaled(options, comparisons))
        of_chances = held_out(linear, {"expected_utility": models["bradley_terry"]}, folds)
        return {"coin": coin(comparisons), **of_chances, **held_out(comparisons, models, folds)}

    def _triads(self, comparisons: Comparisons) -> dict[str, float]:
        """Return how often three choices go round."""
        generator = seeded_generator(self.seed, "triads")
        triads = compared_triads(comparisons.first, comparisons.second, MOST_TRIADS, generator)
        counts, labels = comparisons.counts, comparisons.labels
        cyclic, directed, _ = circles((counts * labels)[None], counts, triads)
        chances = cyclic_chance(*(labels[triads[:, place]] for place in range(3)))
        return {"cyclic_triads": float(cyclic[0] / directed[0].clamp(min=1)),
                "triads": float(directed[0]), "cyclic_chance": float(chances.mean())}  # fmt: skip

    def draw(self, result: Mapping[str, Any]) -> Figure:
        """See :class:`PolicyAudit`: utilities of choices by true values, and lotteries by their prizes."""
        drawn = figure(9.2, 4.2)
        left, right = drawn.subplots(1, 2)
        prizes = result["num_prizes"]
        worth, utility = (torch.tensor(result[name]) for name in ("true_values", "utilities"))
        left.scatter(worth[prizes:], utility[prizes:], s=22, color=PALETTE[0], label="lotteries")
        left.scatter(worth[:prizes], utility[:prizes], s=34, color=PALETTE[1], marker="D", label="prizes")
        left.set(xlabel="expected reward", ylabel="utility that choices show [deviations]",
                 title=f"rank correlation {_shown(result['rank_correlation'])}")  # fmt: skip
        left.legend(fontsize=8, frameon=False)
        predicted = torch.tensor(result["expected_utilities"])
        both = torch.cat([predicted, utility[prizes:]])
        ends = [float(both.min()), float(both.max())]
        right.plot(ends, ends, color="0.5", linewidth=0.8, linestyle="--")
        right.scatter(predicted, utility[prizes:], s=22, color=PALETTE[2])
        right.set(xlabel="mean utility of a lottery's prizes", ylabel="utility of the lottery",
                  title=f"expected utility explains {_shown(result['expected_utility_r2'])}")  # fmt: skip
        return drawn

    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """See :class:`PolicyAudit`."""
        table = Table("model", "accuracy", "log-loss", title="Choices held out", title_justify="left")
        for name, numbers in result["models"].items():
            table.add_row(name.replace("_", " "), f"{numbers['accuracy']:.3f}", f"{numbers['log_loss']:.4f}")
        gain, error = (f"{result['expected_utility_gain' + part]:.4f}" for part in ("", "_error"))
        r2, correlation = (_shown(result["expected_utility_" + part]) for part in ("r2", "correlation"))
        rows = {
            "best possible accuracy": f"{result['ceiling']:.3f}",
            "decided (completeness)": f"{result['completeness']:.3f}",
            "what is shown first is chosen": f"{result['shown_first_chosen']:.1%}",
            "cyclic triads": f"{result['cyclic_triads']:.2%} of {result['triads']:.0f}; a chance of "
            f"{result['cyclic_chance']:.2%} a triad",
            "the better lottery is chosen": f"{result['maximisation_rate']:.1%}",
            "utility and expected reward": f"rank correlation {_shown(result['rank_correlation'])}",
            "expected utility predicts better than Thurstone by": f"{gain} ± {error} nats",
            "utility of a lottery is the mean of its prizes'": f"R2 {r2}, correlation {correlation}",
        }
        return [table, facts("All choices", rows)]


def _differ(values: Tensor) -> bool:
    return float(values.max() - values.min()) > SAME


def _related(first: Tensor, second: Tensor, *, rank: bool = False) -> float | None:
    """Return a correlation; None where one side is all the same, as the utilities of ties are."""
    if not (_differ(first) and _differ(second)):
        return None
    if rank:
        return float(spearmanr(first, second).statistic)
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def _shown(number: float | None) -> str:
    return "none (all the same)" if number is None else f"{number:.3f}"


def _predicted(prediction: Prediction) -> dict[str, float]:
    return {"accuracy": prediction.accuracy, "log_loss": prediction.log_loss}
