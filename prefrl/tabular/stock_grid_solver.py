"""Distributional value and policy iteration on a grid of stocks, for infinite horizons.

The table holds, for every state s and stock c of a grid, the distribution of the total X = c + G(s, c), as

* ``expectation``: of positively homogeneous utilities E f(X) alone, which is then all that is needed:
  E f(gamma X) = gamma^p E f(X);
* ``categorical``: probabilities of fixed atoms (projected as in C51, Bellemare et al. 2017);
* ``quantile``: the (i + 1/2) / N quantiles (Dabney et al. 2018).

No reward enters a backup but through the stock: c + R + gamma G(S', C') = gamma (C' + G(S', C')). Between two
stocks of the grid a distribution is the mixture of its neighbours', so that K is interpolated linearly.
Outside the grid two-slope utilities have closed forms: where c + G cannot change its sign, the best policy is
that of the largest (or smallest) mean, and the distribution stands for its mean, all that K sees of it there.

With L the Lipschitz constant of K, and V* its optimum, n iterations from G = 0 leave an error of at most
L gamma^n max|r| / (1 - gamma); N quantiles over a range of totals of width B add L B / (2 N (1 - gamma)); a
grid of spacing d adds gamma L d / (2 (1 - gamma)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from prefrl.functional.returns.objectives import Lexicographic, Objective, TwoSlope, check_optimisable
from prefrl.functional.returns.ordering import TOLERANCE, best_actions, exceeds
from prefrl.functional.value_based.value_distributions import categorical_projection
from prefrl.tabular.mdp import TabularMDP
from prefrl.tabular.solvers import value_iteration
from prefrl.tabular.stock_grid import MAX_POOLED_ELEMENTS, Form, StockGrid, degrees, quantile_projection
from prefrl.tabular.stock_lattice import check_rewards


class StockGridSolver:
    """Value iteration and policy iteration over states and a grid of stocks.

    Args:
        mdp: the MDPs.
        rewards: [M, S, A, K] or, for vectors, [M, S, A, K, k] rewards of transitions, float64.
        objective: K.
        gamma: discount, in (0, 1).
        grid: the stocks.
        form: what is kept of a distribution; see the module's text.
        places: atoms (categorical) or quantiles N (quantile).
        support: lowest and highest atom (categorical); None: what the totals can reach, with an atom at 0:
            then a two-slope utility is linear between atoms, and no projection changes K.
        outside: beyond the grid take "closed_form", for two-slope utilities and a grid that reaches to where
            the sign of c + G is certain, or "clamp" to the grid's edge, an approximation.
        tie_break: see :class:`prefrl.tabular.BackwardInduction`.
        unsound: go on with objectives that this does not optimise.

    Raises:
        UnsoundObjectiveError: if K cannot be optimised so, and ``unsound`` is False.
        ValueError: for arguments that do not fit each other.

    Attributes:
        rows: [M S C, J], distributions or expectations by state and stock.
        sweeps: backups made so far.
    """

    def __init__(
        self,
        mdp: TabularMDP,
        rewards: Tensor,
        objective: Objective,
        gamma: float,
        grid: StockGrid,
        *,
        form: Form = "expectation",
        places: int = 51,
        support: tuple[float, float] | None = None,
        outside: Literal["closed_form", "clamp"] = "closed_form",
        tie_break: Objective | None = None,
        unsound: bool = False,
    ) -> None:
        if not 0.0 < gamma < 1.0:
            raise ValueError(f"gamma is {gamma}; an infinite horizon needs it in (0, 1)")
        if form not in ("expectation", "categorical", "quantile"):
            raise ValueError(f"form is {form!r}; it must be 'expectation', 'categorical' or 'quantile'")
        check_rewards(mdp, rewards)
        if bool(mdp.terminal.all()):
            raise ValueError("all states are terminal: there is nothing to decide")
        least = {"expectation": 0, "categorical": 3, "quantile": 1}[form]
        if places < least:
            raise ValueError(f"places is {places}; a {form} distribution needs at least {least}")
        dim = rewards.shape[4] if rewards.ndim == 5 else 0
        if objective.dim != dim or len(grid.axes) != max(1, dim):
            raise ValueError(f"rewards have {dim} components (0: numbers), {objective} takes "
                             f"{objective.dim}, and the grid has {len(grid.axes)} axes; they must "
                             "agree")  # fmt: skip
        if dim and form != "expectation":
            raise ValueError(f"form is {form!r}; distributions of vectors are kept as 'expectation' only")
        if outside == "closed_form" and not isinstance(objective, TwoSlope):
            raise ValueError(f"{objective} has no closed form beyond the grid; give outside='clamp'")
        self.mdp, self.gamma, self.grid, self.form, self.dim = mdp, gamma, grid, form, dim
        self.objective = objective if tie_break is None else Lexicographic(objective, tie_break)
        self.rewards = rewards
        live = (mdp.probabilities > 0.0) & ~mdp.terminal[:, :, None, None]
        paid = (rewards if dim else rewards[..., None])[live]
        self._return_range = (float(paid.amin()) / (1.0 - gamma), float(paid.amax()) / (1.0 - gamma))
        self._return_range = (min(0.0, self._return_range[0]), max(0.0, self._return_range[1]))
        low = min(float(axis[0]) for axis in grid.axes) + self._return_range[0]
        high = max(float(axis[-1]) for axis in grid.axes) + self._return_range[1]
        if not unsound:
            check_optimisable(objective, gamma, time_indexed=False, reach=max(-low, high))
        if form == "expectation":
            self._degrees = rewards.new_tensor(degrees(self.objective))
        self.support = torch.empty(0)
        if form == "categorical":
            # The totals one step on are those of the grid over gamma.
            self.support = _support(low / gamma, high / gamma, places, support).to(mdp.device)
            place = torch.searchsorted(self.support, gamma * self.support, right=True) - 1
            place = place.clamp(0, places - 2)
            share = (gamma * self.support - self.support[place]) / (
                self.support[place + 1] - self.support[place]
            )
            self._shrink = (place, share.clamp(0.0, 1.0))
        self.places = places
        self._lay_out(closed=outside == "closed_form")
        self.sweeps = 0
        self.actions = torch.zeros(self._shape[:3], dtype=torch.int64, device=mdp.device)

    def _lay_out(self, *, closed: bool) -> None:
        """Make the table that G = 0 has, and list which rows a backup mixes."""
        mdp, grid = self.mdp, self.grid
        m, s, a, k = mdp.successors.shape
        points = grid.points  # [C, k']
        size = len(points)
        self._shape = (m, s, size)
        rewards = self.rewards if self.dim else self.rewards[..., None]
        # c' [M, S, C, A, K, k']
        stocks = (points[:, None, None] + rewards[:, :, None]) / self.gamma
        place, weight = grid.locate(stocks)
        offset = (torch.arange(m, device=mdp.device) * s)[:, None, None, None]
        next_states = (mdp.successors + offset)[:, :, None].expand(m, s, size, a, k)
        index = next_states[..., None] * size + place
        ends = mdp.terminal.flatten()[next_states]
        beyond = grid.outside(stocks)
        apart = ends | (beyond if closed else torch.zeros_like(beyond))
        sure = (apart & (mdp.probabilities > 0.0)[:, :, None].expand(apart.shape)).view(m * s * size, a, k)
        probs = mdp.probabilities[:, :, None].expand(apart.shape).reshape(sure.shape)
        totals = stocks.view(*sure.shape, -1)
        if closed:
            self._check_reach(points)
            means = self._outer_means().flatten(1)  # [2 sides, M S]
            side = (stocks[..., 0] > 0.0).to(torch.int64)
            means = torch.where(ends, 0.0, means[side, next_states]).view(*sure.shape, 1)
            totals = totals + torch.where(sure[..., None], means, 0.0)
        self._sure_weight, self._sure_total = torch.where(sure, probs, 0.0), totals
        self._index = index.view(*sure.shape[:2], -1)
        self._weight = (weight.view(*sure.shape, -1) * torch.where(sure, 0.0, probs)[..., None]).flatten(2)
        self.rows = self._certain(points.expand(m, s, *points.shape).reshape(m * s * size, -1))

    def _check_reach(self, points: Tensor) -> None:
        low, high = -self._return_range[1], -self._return_range[0]
        if float(points.amin()) > low + 1e-9 or float(points.amax()) < high - 1e-9:
            raise ValueError(
                f"the grid goes from {float(points.amin()):g} to {float(points.amax()):g}; closed forms "
                f"beyond it hold where it covers {low:g} to {high:g}, the negatives of all returns"
            )

    def _outer_means(self) -> Tensor:
        """Return mean returns [2, M, S] of the policies that are best below and above the grid."""
        objective = self.objective.first if isinstance(self.objective, Lexicographic) else self.objective
        assert isinstance(objective, TwoSlope)
        rewards = self.mdp.expected_rewards(self.rewards)
        found = []
        for slope in (objective.below, objective.above):
            sign = -1.0 if slope < 0.0 else 1.0
            found.append(sign * value_iteration(self.mdp, sign * rewards, self.gamma))
        return torch.stack(found)

    def _certain(self, totals: Tensor) -> Tensor:
        """Return rows that stand for certain totals [n, k']."""
        if self.form == "expectation":
            return self.objective.keys(totals[:, None] if self.dim else totals)
        if self.form == "quantile":
            return totals.expand(-1, self.places).contiguous()
        return categorical_projection(torch.ones_like(totals), totals, self.support)

    # Backups ---------------------------------------------------------------------------------------------

    def _backup(self, index: Tensor, weight: Tensor, sure_weight: Tensor, sure_total: Tensor) -> Tensor:
        """Return rows [n, J] of mixtures, times gamma.

        Args:
            index: [n, q] rows that are mixed.
            weight: [n, q] their weights.
            sure_weight: [n, K] weights of certain totals: after an end, and beyond the grid.
            sure_total: [n, K, k'] those totals.
        """
        if self.form == "quantile":
            atoms = torch.cat([self.rows[index].flatten(1), sure_total[..., 0]], 1)
            spread = (weight / self.places)[..., None].expand(*weight.shape, self.places)
            return quantile_projection(
                self.gamma * atoms, torch.cat([spread.flatten(1), sure_weight], 1), self.places
            )
        mixed = F.embedding_bag(index, self.rows, mode="sum", per_sample_weights=weight)
        if self.form == "expectation":
            keys = self._certain(sure_total.flatten(0, 1)).view(*sure_weight.shape, -1)
            return (mixed + (sure_weight[..., None] * keys).sum(1)) * self.gamma**self._degrees
        place, part = _between(sure_total[..., 0], self.support)
        mixed.scatter_add_(1, place, sure_weight * (1.0 - part)).scatter_add_(
            1, place + 1, sure_weight * part
        )
        lower, share = (
            self._shrink
        )  # where gamma z_j falls between two atoms: the same for every distribution
        projected = torch.zeros_like(mixed).index_add_(1, lower, mixed * (1.0 - share))
        return projected.index_add_(1, lower + 1, mixed * share)

    def _pieces(self, actions: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield places [n] of states and stocks, and their rows [n, A, J], or [n, 1, J] of given actions."""
        count, a, q = self._index.shape
        columns = q * self.places if self.form == "quantile" else max(q, self.rows.shape[1])
        tables = (self._index, self._weight, self._sure_weight, self._sure_total)
        for part in torch.split(torch.arange(count, device=self.rows.device), self._piece(a * columns)):
            chosen = [table[part] for table in tables]
            if actions is not None:
                row = torch.arange(len(part), device=part.device)
                chosen = [table[row, actions.flatten()[part]][:, None] for table in chosen]
            rows = self._backup(*(table.flatten(0, 1) for table in chosen))
            yield part, rows.view(len(part), -1, rows.shape[1])

    @staticmethod
    def _piece(columns: int) -> int:
        return max(1, MAX_POOLED_ELEMENTS // columns)

    def keys(self, rows: Tensor | None = None) -> Tensor:
        """Return K of the distribution at each state and stock, [M, S, C, J]; first key first."""
        return self._keys(self.rows if rows is None else rows).view(*self._shape, -1)

    def _keys(self, rows: Tensor) -> Tensor:
        if self.form == "expectation":
            return rows
        if self.form == "quantile":
            return self.objective.keys(rows)
        return self.objective.keys(self.support, rows)

    def sweep(self, actions: Tensor | None = None) -> float:
        """Back up once, with greedy actions or those given [M, S, C]; return the largest change of K."""
        ended, new = self._ended(), self.rows.clone()
        chosen = torch.zeros_like(self.actions).flatten()
        changes = []
        for part, rows in self._pieces(actions):
            if actions is None:
                chosen[part] = best_actions(self._keys(rows))
            pick = chosen[part] if actions is None else torch.zeros_like(part)
            picked = rows.gather(1, pick[:, None, None].expand(-1, 1, rows.shape[2]))[:, 0]
            old = self.rows[part]
            new[part] = torch.where(ended[part, None], old, picked)
            changes.append((self._keys(new[part]) - self._keys(old)).abs().amax())
        if actions is None:
            self.actions = chosen.view(self._shape)
        self.rows = new
        self.sweeps += 1
        return float(torch.stack(changes).amax())

    def value_iteration(self, *, tolerance: float = 1e-10, max_sweeps: int = 100_000) -> StockGridSolver:
        """Sweep until K changes by at most ``tolerance * (1 - gamma)``; return self.

        Distributions themselves need not settle, where K is indifferent between several; K does.

        Raises:
            RuntimeError: if it has not by then.
        """
        for _ in range(max_sweeps):
            if self.sweep() <= tolerance * (1.0 - self.gamma):
                return self
        raise RuntimeError(
            f"value iteration did not settle in {max_sweeps} sweeps at gamma {self.gamma}; projected "
            "distributions may alternate where K does not survive the projection: try another form, or a "
            "larger tolerance"
        )

    def policy_iteration(
        self, *, tolerance: float = 1e-10, max_improvements: int = 1_000, max_sweeps: int = 100_000
    ) -> list[Tensor]:
        """Improve the greedy policy until it is its own improvement; return K [M, S, C, J] of each policy.

        Raises:
            RuntimeError: if it has not settled by then.
        """
        history: list[Tensor] = []
        self.sweep()
        actions = self.actions
        for _ in range(max_improvements):
            for _ in range(max_sweeps):
                if self.sweep(actions) <= tolerance * (1.0 - self.gamma):
                    break
            else:
                raise RuntimeError(f"a policy's evaluation did not settle in {max_sweeps} sweeps at gamma "
                                   f"{self.gamma}")  # fmt: skip
            history.append(self.keys())
            keys = torch.cat([self._keys(rows) for _, rows in self._pieces()])  # [n, A, J]
            held = keys.gather(1, actions.reshape(-1, 1, 1).expand(-1, 1, keys.shape[2]))
            # The old action stays where it is as good: else ties could alternate for ever.
            better = exceeds(keys.unbind(-1), held.unbind(-1), 100.0 * max(TOLERANCE, tolerance)).any(1)
            improved = torch.where(better, best_actions(keys), actions.flatten())
            improved = torch.where(self._ended(), actions.flatten(), improved).view(actions.shape)
            if bool((improved == actions).all()):
                self.actions = actions
                return history
            actions = improved
        raise RuntimeError(f"policy iteration did not settle in {max_improvements} improvements")

    def _ended(self) -> Tensor:
        return self.mdp.terminal[:, :, None].expand(self._shape).reshape(-1)

    def act(self, states: Tensor, stocks: Tensor) -> Tensor:
        """Return greedy actions [n] of the first MDP in states [n] with any stocks [n] or [n, k].

        The action is that of the nearest stock of the grid.
        """
        place, weight = self.grid.locate(stocks if self.dim else stocks[:, None])
        nearest = place.gather(-1, weight.argmax(-1, keepdim=True))[:, 0]
        return self.actions[0][states, nearest]


def _between(values: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Return which atom is below each value, and how far it is to the next one, from 0 to 1."""
    place = (torch.searchsorted(support, values.contiguous(), right=True) - 1).clamp(0, len(support) - 2)
    share = (values - support[place]) / (support[place + 1] - support[place])
    return place, share.clamp(0.0, 1.0)


def _support(low: float, high: float, places: int, given: tuple[float, float] | None) -> Tensor:
    """Return evenly spaced atoms over [low, high], one of them 0, or as they were asked for."""
    if given is not None:
        if not given[0] < given[1]:
            raise ValueError(f"support is {given}; its lowest atom must be below its highest")
        return torch.linspace(*given, places, dtype=torch.float64)
    step = (high - low) / (places - 2)
    return step * (torch.arange(places, dtype=torch.float64) - math.ceil(-low / step - 1e-9))
