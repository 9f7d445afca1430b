"""What questions that are chosen teach, against questions at random.

Each claim is measured over seeds that nothing was chosen on: docs/preferences/questions.md has what was asked
and what was seen. The same command goes on with a study that was stopped. ``questions.png`` shows accuracy
against the number of labels. (Greedy designs are measured by ``reproduce_preference_models.py``.)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_args

import gymnasium as gym
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import prefrl.envs
from prefrl.agents.actor_critic.sac import SACConfig
from prefrl.agents.preferences.preference_rl import PreferenceRL, PreferenceRLConfig
from prefrl.cli import execute
from prefrl.data.files.atomic import atomic_path
from prefrl.functional.preferences.general_models.questions import edge_budget
from prefrl.preferences import RewardModel, RewardModelConfig
from prefrl.preferences.asking import answers_by_return, random_excerpts
from prefrl.preferences.general_models import Comparisons, Thurstone
from prefrl.preferences.queries import OptionQueryKind, PoolQueryKind, QueryKind
from prefrl.preferences.questions import Rounds, ask_options
from prefrl.preferences.questions.rounds import rounds_of_segments
from prefrl.run.collect import collect_transitions
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.loop import learn
from prefrl.run.plot import LINE_STYLES, PALETTE
from prefrl.run.study.claims import Claim, ClaimStudy, Numbers
from prefrl.run.study.known_functions import (
    curve,
    generator,
    improvement,
    noisy_optimum,
    normal,
    optimum,
    surface,
)

BUDGETS = (20, 40, 60, 80)
"""Labels at which reward models are fitted and judged."""

EDGES = (40, 80, 120, 160)
"""Comparisons of 30 options at which utilities are judged."""


# Pairs of options ---------------------------------------------------------------------------------------


@cache
def edges(seed: int, options: int = 20, draws: int = 10) -> dict[str, float]:
    """Log-loss over all pairs of Thurstone's model, after half of 2 N log2 N edges with 10 answers each.

    ``order``: share of all pairs that it orders rightly.

    Utilities are standard normal, and so are the logarithms of their deviations, times 1/2.
    """
    g = generator(seed)
    means, deviations = normal(g, options), (0.5 * normal(g, options)).exp()

    def chances(first: Tensor, second: Tensor) -> Tensor:
        spread = (deviations[first].square() + deviations[second].square()).sqrt()
        return torch.special.ndtr((means[second] - means[first]) / spread)

    answers = generator(seed + 1)

    def answer(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(draws, len(first), generator=answers, dtype=torch.float64)
        return (drawn < chances(first, second)).double().mean(0), torch.full((len(first),), float(draws))

    first, second = torch.triu_indices(options, options, 1)
    everything = Comparisons(first, second, chances(first, second), options)
    found = {}
    kinds: tuple[OptionQueryKind, ...] = ("uniform", "active_edges")
    for query in kinds:
        one, other, asked = ask_options(options, edge_budget(options) // 2, answer, Rounds(query), seed=seed)
        model = Thurstone()
        model.fit(Comparisons(one, other, asked.labels, options, asked.weights))
        found[query] = float(model.loss(everything))
        right = (model.margins(everything) > 0) == (everything.labels > 0.5)
        found[f"{query}_order"] = float(right.double().mean())
    return {**found, "gain": found["uniform"] - found["active_edges"]}


@cache
def options_by_kind(seed: int, options: int = 30, spread: float = 2.0) -> dict[str, float]:
    """Share of all pairs that utilities order rightly, by way to choose and number of answers, one a pair.

    Utilities are normal; answers are logistic in their difference. ``regret``: by how much the option that
    seems best falls short of the best.
    """
    g = generator(seed)
    utilities = spread * normal(g, options)
    noise = torch.rand(options, options, generator=g, dtype=torch.float64)

    def answer(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        high_won = noise[low, high] < torch.sigmoid(utilities[high] - utilities[low])
        return (high_won == (second == high)).double(), torch.ones(len(first))

    one, other = torch.triu_indices(options, options, 1)
    truth = utilities[other] > utilities[one]
    found = {}
    for query in get_args(OptionQueryKind):
        rounds = Rounds(query, rounds=8)
        first, second, asked = ask_options(options, EDGES[-1], answer, rounds, seed=seed)
        for count in EDGES:
            scores = _utilities(first[:count], second[:count], asked.labels[:count], options)
            found[f"{query}_{count}"] = float(((scores[other] > scores[one]) == truth).double().mean())
            found[f"regret_{query}_{count}"] = float(utilities.max() - utilities[scores.argmax()])
    return found


def _utilities(first: Tensor, second: Tensor, labels: Tensor, options: int) -> Tensor:
    """Utilities by Bradley and Terry with a normal prior of deviation 2."""
    from prefrl.functional.preferences.general_models.inference import utilities

    wins = torch.zeros(options * options, dtype=torch.float64)
    wins.index_add_(0, second * options + first, labels)
    wins.index_add_(0, first * options + second, 1.0 - labels)
    return utilities(wins.view(1, options, options), 0.25)[0]


# Pairs of segments --------------------------------------------------------------------------------------


def segments_by_kind(seed: int, pool: int = 800, length: int = 20) -> dict[str, float]:
    """Accuracy of reward models fitted anew, by way to choose and number of labels, on 1,000 other pairs.

    Segments of 20 steps are of Pendulum-v1 under uniform actions; the teacher is B-Pref's without fault.
    """
    env = gym.make("Pendulum-v1")
    data = collect_transitions(None, env, 10_000, epsilon=1.0, seed=seed)
    sides = random_excerpts(data, pool + 1_000, length, seed=seed)
    answers = answers_by_return("noiseless", *sides, seed=seed)
    asked_about, others = answers[:pool], answers[slice(pool, None)]

    def model() -> RewardModel:
        config = RewardModelConfig(hidden=(32, 32))
        return RewardModel(env.observation_space, env.action_space, config, seed=seed)

    found = {}
    for query in get_args(PoolQueryKind):
        asked = rounds_of_segments(
            Rounds(query, rounds=4), model(), asked_about.first, asked_about.second, BUDGETS[-1],
            lambda places: (asked_about.labels[places], asked_about.weights[places]), seed=seed,
        )  # fmt: skip
        for count in BUDGETS:
            fitted = model()
            fitted.fit(asked_about[asked.places[:count]], epochs=60)
            found[f"{query}_{count}"] = float(fitted.accuracy(others))
    return found


def preference_rl(seed: int, timesteps: int = 2_500) -> dict[str, float]:
    """Accuracy of PreferenceRL's reward model on prefrl/Pendulum-v0, by way to choose; 80 labels.

    Pairs for the judgement are drawn from what the agent visited.
    """
    found = {}
    for query in get_args(QueryKind):
        env = prefrl.envs.make_device("prefrl/Pendulum-v0", 4, seed=seed)
        config = PreferenceRLConfig(
            SACConfig(hidden=(32, 32), learning_starts=500, buffer_size=timesteps),
            RewardModelConfig(hidden=(32, 32)),
            query=query, segment_length=25, num_labels=80, first_labels=20, session_labels=20,
            first_session=500, session_every=500, store_size=timesteps,
        )  # fmt: skip
        agent = PreferenceRL(env, config, device="cpu", seed=seed)
        learn(agent, timesteps)
        found[query] = agent.accuracy()
    return found


FOR_THE_BEST = ("expected_improvement", "knowledge_gradient")
"""Ways to choose that look for the best option, and do not mean to order the others."""


def medians(of: Numbers, kinds: tuple[str, ...], before: str = "", behind: str = "") -> dict[str, float]:
    """Return the median over seeds of each way to choose."""
    return {kind: float(np.median(of[f"{before}{kind}{behind}"])) for kind in kinds}


def all_inform(of: Numbers, kinds: tuple[str, ...], behind: str = "") -> bool:
    """Whether no way to choose that is to inform is worse in the median than chance."""
    found = medians(of, kinds, behind=behind)
    return min(found[kind] for kind in kinds if kind not in FOR_THE_BEST) >= found["uniform"]


def finds_the_best(of: Numbers, count: int) -> bool:
    """Whether those that look for the best option have at most the median regret of chance."""
    found = medians(of, ("uniform", *FOR_THE_BEST), "regret_", f"_{count}")
    return max(found[kind] for kind in FOR_THE_BEST) <= found["uniform"]


CLAIMS: Mapping[str, Claim] = {
    "improvement": Claim(
        "expected improvement within 1e-3 of 4,000,000 draws",
        improvement,
        lambda of: of["difference"].max() <= 1e-3,
    ),
    "optimum": Claim(
        "Branin's function by expected improvement: regret .1 at most after 30 looks, in 90 % of seeds",
        optimum,
        lambda of: (of["regret"] <= 0.1).mean() >= 0.9,
    ),
    "noisy_optimum": Claim(
        "with noise the median regret by knowledge gradient is at most that by expected improvement",
        noisy_optimum,
        lambda of: np.median(of["knowledge_gradient"]) <= np.median(of["expected_improvement"]),
    ),
    "curve": Claim(
        "a curve of known length scale, 12 looks: median ratio of squared errors .3 at most",
        curve,
        lambda of: np.median(of["ratio"]) <= 0.3,
    ),
    "surface": Claim(
        "Hartmann's function of three variables with noise: median ratio .8 at most",
        surface,
        lambda of: np.median(of["ratio"]) <= 0.8,
    ),
    "edges": Claim(
        "active edges have at most the log-loss of random ones at half the budget, in 70 % of seeds",
        edges,
        lambda of: (of["gain"] >= 0.0).mean() >= 0.7,
    ),
    "edges_order": Claim(
        "active edges order at least as many pairs as random ones at half the budget, in 70 % of seeds",
        edges,
        lambda of: (of["active_edges_order"] >= of["uniform_order"]).mean() >= 0.7,
    ),
    "options_by_kind": Claim(
        "30 options, 80 answers: none that is to inform orders fewer pairs, in the median, than chance",
        options_by_kind,
        lambda of: all_inform(of, get_args(OptionQueryKind), f"_{EDGES[1]}"),
    ),
    "best_option": Claim(
        "30 options, 80 answers: those that look for the best have at most the median regret of chance",
        options_by_kind,
        lambda of: finds_the_best(of, EDGES[1]),
    ),
    "segments_by_kind": Claim(
        "segments, 60 labels: none that is to inform is less accurate, in the median, than chance",
        segments_by_kind,
        lambda of: all_inform(of, get_args(PoolQueryKind), f"_{BUDGETS[2]}"),
    ),
    "preference_rl": Claim(
        "PreferenceRL: none that is to inform is less accurate, in the median, than chance",
        preference_rl,
        lambda of: all_inform(of, get_args(QueryKind)),
    ),
}


def draw(axes: Axes, found: Mapping[str, Any], counts: tuple[int, ...], title: str) -> None:
    """Draw median accuracies with quartiles against numbers of labels."""
    numbers, colours = found["numbers"], PALETTE[:6]  # the seventh is black, which is chance's
    kinds = [kind for kind in get_args(OptionQueryKind) if f"{kind}_{counts[0]}" in numbers]
    for place, kind in enumerate(kinds):  # of which uniform comes first
        values = np.array([numbers[f"{kind}_{count}"] for count in counts])
        style = {"color": colours[(place - 1) % 6], "linestyle": LINE_STYLES[(place - 1) // 6]}
        if kind == "uniform":
            style = {"color": "black", "linestyle": ":"}
            low, high = np.quantile(values, (0.25, 0.75), axis=1)
            axes.fill_between(counts, low, high, color="black", alpha=0.1, lw=0)
        axes.plot(counts, np.median(values, 1), label=kind.replace("_", " "), **style)
    axes.set(xlabel="labels", ylabel="accuracy", title=title, xticks=counts)
    axes.legend(fontsize=7)


@dataclass(frozen=True)
class QuestionStudy(ClaimStudy):
    """What questions that are chosen teach."""

    known: ClassVar[Mapping[str, Claim]] = CLAIMS

    out: Path = Path("runs/questions")
    """Run folder: new, empty, or of the same study."""

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """See :meth:`ClaimStudy.measure`; draws accuracy against labels where both panels were measured."""
        found = super().measure(folder)
        if {"segments_by_kind", "options_by_kind"} <= set(found):
            figure = Figure((11, 4.5), layout="constrained")
            FigureCanvasAgg(figure)
            panels = figure.subplots(1, 2)
            draw(panels[0], found["segments_by_kind"], BUDGETS, "segments of Pendulum, reward models")
            draw(panels[1], found["options_by_kind"], EDGES, "30 options, noisy answers")
            with atomic_path(folder.path / "questions.png") as path:
                figure.savefig(path, format="png", dpi=120)
        return found


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(QuestionStudy, description=__doc__)))
