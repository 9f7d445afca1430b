"""Settings of Nash learning."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from prefrl.config import Count, Length, NonNegative, Positive, Rows, Settings, Share, Sizes
from prefrl.functional.preferences.game_steps import SOLVERS, default_step_size

DESCENDING = ("egpo", "omd", "nash_md")
"""Solvers whose steps are steps down online IPO's loss against some opponent."""

REGRESSING = ("inpo", "onpo", "mnpo", "dno", "gpo")
"""Solvers whose steps are what minimises a loss."""


@dataclass(frozen=True)
class NashLearningConfig(Settings):
    """Settings of :class:`NashLearning`.

    Raises:
        ValueError: if a number is out of range, the solver unknown or without such a beta or policy, or a
            setting given that would do nothing.
    """

    solver: Literal[
        "egpo", "omd", "hedge", "optimistic_hedge", "nash_md", "inpo", "onpo", "mnpo", "dno", "gpo",
        "regret_matching",
    ] = "egpo"  # fmt: skip
    """Extragradient; mirror descent; Hedge; optimistic Hedge; Nash-MD; what minimises the losses of INPO, DNO
    and GPO; optimistic mirror descent; against past policies; regret matching (beta 0)."""

    beta: NonNegative = 0.1
    """Price of a nat of divergence from the reference, in the unit of the matrix; 0 for none."""

    step_size: Positive | None = None
    """None: 1 / (beta + 3), which EGPO's theorem allows for payoffs in [-1, 1]. (A network's steps are of its
    learning_rate.)"""

    policy: Literal["exact", "table", "network"] = "exact"
    """Probabilities of whole options; or a table, or a network, of next steps that descends its solver's
    loss: of egpo, omd and nash_md, with beta above 0, and of inpo, onpo, mnpo, dno and gpo."""

    hidden: Sizes = (64, 64)
    """network: sizes of its hidden layers."""

    optimizer: Literal["adam", "gradient"] = "adam"
    """network: Adam, or plain gradient descent as of a table. Adam is fast where mirror descent settles;
    where it goes round, so did EGPO with Adam, and by plain descent it did not."""

    learning_rate: Positive | None = None
    """Of a table or network; None: Adam's is 3e-3, a table's the one that mirror descent or the curvature of
    its loss gives (see ``table_rate``); plain descent of a network needs one, and smaller."""

    inner_steps: Count | None = None
    """table, network: steps down the loss in a step of the solver (ONPO: down each of two). None: 1 of egpo,
    omd and nash_md, which look where they are after each, and 32 of the others, whose losses are to be
    minimised (32 is ours)."""

    pairs: Rows | None = None
    """table, network: pairs of options drawn for each prompt and step of descent: evenly, each with an option
    of the opponent's to be compared with (egpo, omd, nash_md), or by the policy (the others; gpo: options);
    None: all there are, exactly."""

    normaliser: Literal["exact", "zero"] = "exact"
    """gpo's log Z: what makes the step one of probabilities, or 0, as its paper has it in practice."""

    mnpo_pairs: Literal["population", "present"] = "population"
    """mnpo, table and network: whether pairs are drawn from its whole population, by weight, which makes the
    loss's minimiser the solver's step; or from the present policy, whose wins alone count then. (The paper
    draws them from the present one.)"""

    population: Annotated[tuple[Share, ...], Length(1)] = (0.5, 0.5)
    """mnpo: weights of the present policy and those before it as opponents; they sum to 1."""

    @property
    def step(self) -> float:
        """The step size."""
        return self.step_size or default_step_size(self.beta)

    @property
    def descents(self) -> int:
        """Steps down a loss in a step of the solver."""
        return self.inner_steps or (1 if self.solver in DESCENDING else 32)

    def table_rate(self, options: int) -> float:
        """Return the step size of a table over K options.

        Of online IPO it is mirror descent's, s beta K / 4. Other losses are c Var(u) or nearly so, whose
        curvature in a table of steps is 2 c times Fisher's information, with pairs from the policy itself; no
        block of that is above 1/2, and so 1 / c never goes too far: c is 2 of INPO's squares, 1 of GPO's,
        1 / (4 s^2) at most of DNO.
        """
        if self.solver in DESCENDING:
            return self.step * self.beta * options / 4.0
        return {"dno": 4.0 * self.step**2, "gpo": 1.0}.get(self.solver, 0.5)

    def check(self) -> None:
        """Raise ValueError for settings that do not go together."""
        if self.step * self.beta > 1.0:
            raise ValueError(f"step_size is {self.step:g} and beta {self.beta:g}; their product must be at "
                             "most 1, or a step goes beyond the reference")  # fmt: skip
        if self.beta > 0.0 and not SOLVERS[self.solver].regularised:
            raise ValueError(f"beta is {self.beta:g}; {self.solver} knows no regulariser: give beta 0")
        if self.policy != "exact" and self.solver not in DESCENDING + REGRESSING:
            raise ValueError(f"policy is {self.policy!r} and solver {self.solver}; such a policy needs one "
                             f"of {', '.join(DESCENDING + REGRESSING)}")  # fmt: skip
        if self.policy != "exact" and self.solver in DESCENDING and self.beta == 0.0:
            raise ValueError(f"policy is {self.policy!r}, solver {self.solver} and beta 0; online IPO's loss "
                             "needs beta above 0")  # fmt: skip
        if self.policy == "network" and self.optimizer == "gradient" and self.learning_rate is None:
            raise ValueError("learning_rate is None; plain gradient descent of a network needs one")
        if abs(sum(self.population) - 1.0) > 1e-9:
            raise ValueError(f"population is {self.population}; its weights must sum to 1")
        self._check_of_use()

    def _check_of_use(self) -> None:
        """Raise ValueError for a setting that was given and that nothing looks at."""
        descends, network = self.policy != "exact", self.policy == "network"
        looked_at = {
            "pairs": (descends, "policy 'table' or 'network'"),
            "inner_steps": (descends, "policy 'table' or 'network'"),
            "learning_rate": (descends, "policy 'table' or 'network'"),
            "hidden": (network, "policy 'network'"),
            "optimizer": (network, "policy 'network'"),
            "normaliser": (descends and self.solver == "gpo", "solver gpo and policy 'table' or 'network'"),
            "mnpo_pairs": (descends and self.solver == "mnpo", "solver mnpo and policy 'table' or 'network'"),
            "population": (self.solver == "mnpo", "solver mnpo"),
        }
        for each in fields(self):
            (used, needs), given = looked_at.get(each.name, (True, "")), getattr(self, each.name)
            if not used and given != each.default:
                where = f"solver {self.solver} and policy {self.policy!r}"
                raise ValueError(f"{each.name} is {given!r}, which would do nothing with {where}; "
                                 f"it needs {needs}")  # fmt: skip
