"""Train HERON: a reward learned from a ranking of factors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import arg

from prefrl.agents.preferences.heron import Heron, HeronConfig
from prefrl.agents.preferences.learners import Learner
from prefrl.config import Bounds, Count, PositiveShare
from prefrl.envs.factors import factors_of
from prefrl.preferences.reward_model import RewardModelConfig
from prefrl.run.folder import RunFolder
from prefrl.run.loop import Loop
from prefrl.run.outcomes.factors import factor_means
from prefrl.run.recipes.base import Pairs

from .with_learner import WithLearnerRecipe


@dataclass(frozen=True)
class TrainHeron(WithLearnerRecipe):
    """HERON: rank the factors of a reward, and train any agent on what is learned from the ranking."""

    ranking: Annotated[
        str, arg(metavar="F1,F2,...", help_behavior_hint="(default: the environment's order)")
    ] = ""
    """Factors, the most important one first; a wrong name is refused with a list of the environment's."""

    margins: Annotated[str, arg(metavar="C1,C2,...", help_behavior_hint="(default: 1 for each)")] = ""
    """Margin of each level, in standard deviations of the factor."""

    reward_source: Literal["hierarchy", "weighted_sum", "true"] = "hierarchy"
    """What the learner is rewarded with: the learned reward, or for comparison a weighted sum of the factors,
    or the environment's reward."""

    beta: PositiveShare = 0.5
    """Weight of a level against the one above it, in the weighted sum."""

    normalize_factors: bool = True
    """Take the weighted sum of the factors as they are, instead of over their standard deviations."""

    level_scale: Annotated[float, Bounds(low=1)] = 1.0
    """Separate the levels of the learned reward by this factor each; 1 leaves it as it is."""

    factor_units: Annotated[Pairs, arg(metavar="[NAME=FACTOR ...]")] = ()
    """Measure factors in other units, as in torque_squared=1000: HERON does not mind, a plain sum does."""

    compare_steps: Count = 1
    """Steps of what is compared."""

    first_fit: Count = 1_000
    """Timesteps before the first fit of the reward model."""

    fit_every: Count = 400
    """Timesteps between two fits."""

    reward: RewardModelConfig = field(default_factory=lambda: HeronConfig().reward)
    """Settings of the reward model."""

    def check(self) -> None:
        """Raise ValueError for settings that the agent does not take."""
        super().check()
        self.agent_config()
        self._units()

    def agent_config(self, learner: Learner | None = None) -> HeronConfig:
        """Return the settings of the agent."""
        try:
            margins = tuple(float(entry) for entry in self.margins.split(",") if entry.strip())
        except ValueError:
            raise ValueError(
                f"margins is {self.margins!r}; it must be numbers with commas between them"
            ) from None
        return HeronConfig(
            learner=learner,
            reward=self.reward,
            ranking=tuple(name.strip() for name in self.ranking.split(",") if name.strip()),
            margins=margins,
            reward_source=self.reward_source,
            beta=self.beta,
            normalize_factors=self.normalize_factors,
            level_scale=self.level_scale,
            segment_length=self.compare_steps,
            first_fit=self.first_fit,
            fit_every=self.fit_every,
            store_size=min(self.total_timesteps, 1_000_000),
        )

    def make_agent(self, env: Any) -> Heron:
        """See :meth:`Recipe.make_agent`."""
        factors = factors_of(env).measured_in(self._units())
        config = self.agent_config(self.learner_config())
        return Heron(env, config, factors=factors, rows=self.rows_of(env), device=self.device, seed=self.seed)

    def outcome(self, agent: Heron, loop: Loop, folder: RunFolder) -> dict[str, Any]:
        """Return what became of the factors; save ``reward_model.pt``."""
        agent.reward_model.save(folder.path / "reward_model.pt")
        rows = self.rollout_env(self.eval_episodes)
        return {
            **super().outcome(agent, loop, folder),
            "factor_means": factor_means(agent, rows, factors_of(rows), seed=self.seed),
            "ranking": list(agent.ranking),
        }

    def _units(self) -> dict[str, float]:
        """Return what each factor is multiplied with."""
        units = {}
        for entry in self.factor_units:
            name, _, text = entry.partition("=")
            try:
                units[name] = float(text)
            except ValueError:
                raise ValueError(
                    f"factor_units has {entry!r}; each must be NAME=FACTOR, as in torque_squared=1000"
                ) from None
        return units
