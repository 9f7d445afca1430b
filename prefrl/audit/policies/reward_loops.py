"""``prefrl audit reward_loops``: does a reward pay for going round, where the true one does not?"""

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

from prefrl.reading.errors import reading
from prefrl.reading.text import finite_number, read_table
from prefrl.run.environments import make_scalar_env
from prefrl.run.folder import RunFolder
from prefrl.run.outcomes.policies import has_table
from prefrl.run.plot import PALETTE
from prefrl.run.recipes.base import Pairs
from prefrl.tabular import RewardLoop, TabularMDP, reward_loops

from .base import PolicyAudit, facts, figure, open_run, refuse_file

COLUMNS = ("state", "action", "bonus")
"""Of a table of bonuses."""

SAME = 1e-9
"""Rewards that differ by no more than that share of them are the same."""

MOST_SHOWN = 12
"""States of a loop in the printed table."""


@dataclass(frozen=True, kw_only=True)
class AuditRewardLoops(PolicyAudit):
    """Does a learned reward, or a bonus, pay for going round and round where the true reward does not?"""

    kind: ClassVar[str] = "reward_loops"

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run folder of an agent with a reward model (preference_rl, heron, self_play), in an environment that
    knows a table of its model; or a table state,action,bonus (.csv) of what is paid besides, 0 where nothing
    is said."""

    env_id: str | None = None
    """With a table: the environment that it is about."""

    env_args: Pairs = ()
    """With a table: arguments of the environment, NAME=VALUE."""

    match: bool = True
    """Bring a learned reward to the true one's scale and origin by least squares first: comparisons of
    segments of one length leave the origin open, and all leave the scale open."""

    def check(self) -> None:
        """Raise ValueError for a table without its environment, or a run with another."""
        super().check()
        if self._is_table() and self.env_id is None:
            raise ValueError(f"env_id is None and {self.source} a table; give its environment: --env-id ID")
        if not self._is_table() and (self.env_id is not None or self.env_args):
            raise ValueError(f"env_id and env_args are for tables; the run {self.source} has its own")

    def _is_table(self) -> bool:
        return self.source.suffix.lower() == ".csv"

    def look(self) -> dict[str, Any]:
        """See :class:`PolicyAudit`."""
        if self._is_table():
            assert self.env_id is not None  # was checked
            mdp = _mdp_of(make_scalar_env(self.env_id, self.env_args))
            true, bonus, fit = _true_rewards(mdp), _read_bonus(self.source, mdp), None
        else:
            refuse_file(self.source)
            agent, env, _ = open_run(RunFolder.open(self.source, quiet=True))
            model = getattr(agent, "reward_model", None)
            if not hasattr(model, "rewards"):
                raise ValueError(f"{self.source} is a run of {type(agent).__name__}, which learns no reward "
                                 "of steps; give one that does, or a table")  # fmt: skip
            mdp = _mdp_of(env)
            true = _true_rewards(mdp)
            learned, fit = self._brought(_learned_rewards(mdp, model, env), true, mdp)
            bonus = learned - true
        live = ~mdp.terminal[0]
        bonus = torch.where(live[:, None], bonus, 0.0)
        loops = reward_loops(mdp, bonus)
        return {
            "loops": [_described(loop) for loop in loops],
            "num_loops": len(loops),
            "worst_gain": max((loop.gain for loop in loops), default=0.0),
            "states": int(live.sum()),
            "fit": fit,
            "true": true[live].flatten().tolist(),
            "paid": (true + bonus)[live].flatten().tolist(),
        }

    def _brought(
        self, learned: Tensor, true: Tensor, mdp: TabularMDP
    ) -> tuple[Tensor, dict[str, float] | None]:
        """Return learned rewards on the true scale, and how they were brought there."""
        if not self.match:
            return learned, None
        live = ~mdp.terminal[0]
        x, y = learned[live].flatten(), true[live].flatten()
        for name, values in (("learned", x), ("true", y)):
            if float(values.max() - values.min()) <= SAME * float(values.abs().max()):
                raise ValueError(f"the {name} reward is {float(values[0]):.6g} at every step: no scale "
                                 "brings it to the other; look at it as it is, with --no-match")  # fmt: skip
        centred = x - x.mean()
        scale = float((centred * (y - y.mean())).sum() / centred.square().sum().clamp(min=1e-300))
        if scale <= 0.0:
            raise ValueError("the learned reward falls where the true one grows: no scale brings them "
                             "together; look at it as it is, with --no-match")  # fmt: skip
        origin = float(y.mean()) - scale * float(x.mean())
        missed = float(
            (scale * x + origin - y).square().sum() / (y - y.mean()).square().sum().clamp(min=1e-300)
        )
        return scale * learned + origin, {"scale": scale, "origin": origin, "explained": 1.0 - missed}

    def draw(self, result: Mapping[str, Any]) -> Figure:
        """See :class:`PolicyAudit`: what each step is paid and should be, and what loops gain."""
        drawn = figure(9.2)
        left, right = drawn.subplots(1, 2)
        true, paid = result["true"], result["paid"]
        ends = min(*true, *paid), max(*true, *paid)
        left.plot(ends, ends, color="0.5", linewidth=0.8, linestyle="--")
        left.scatter(true, paid, s=9, color=PALETTE[0], alpha=0.4, linewidths=0)
        left.set(xlabel="true reward of a step", ylabel="what is paid", title=f"{result['states']} states")
        right.axhline(0.0, color="0.5", linewidth=0.8)
        if result["loops"]:
            places = torch.arange(result["num_loops"]).double()
            gains, trues = ([loop[name] for loop in result["loops"]] for name in ("gain", "true_gain"))
            right.bar(places - 0.2, gains, 0.38, color=PALETTE[1], label="paid")
            right.bar(places + 0.2, trues, 0.38, color=PALETTE[0], label="true")
            right.set_xticks(
                places, [f"{len(loop['states'])} states" for loop in result["loops"]], fontsize=8
            )
            right.legend(fontsize=8, frameon=False)
            right.set(ylabel="reward per step", title="loops that only the reward pays")
        else:
            right.text(0.5, 0.6, "no loop is paid\nthat should not be", ha="center", va="center", color="0.4",
                       transform=right.transAxes)  # fmt: skip
            right.set_xticks([])
            right.set_yticks([])
        return drawn

    def tables(self, result: Mapping[str, Any]) -> Sequence[Table]:
        """See :class:`PolicyAudit`."""
        table = Table("states", "actions", "paid per step", "true per step",
                      title="Loops that only the reward pays", title_justify="left")  # fmt: skip
        for loop in result["loops"]:
            more = " ..." if len(loop["states"]) > MOST_SHOWN else ""
            states, actions = (
                " ".join(map(str, loop[name][:MOST_SHOWN])) + more for name in ("states", "actions")
            )
            table.add_row(states, actions, f"{loop['gain']:+.4f}", f"{loop['true_gain']:+.4f}")
        rows = {"loops": str(result["num_loops"]), "states": str(result["states"])}
        if result["fit"] is not None:
            rows["true reward, explained by the learned one"] = f"{result['fit']['explained']:.1%}"
        return [table, facts("The reward", rows)]


def _mdp_of(env: Any) -> TabularMDP:
    """Return the model of an environment; ValueError where it knows no table, or shows something else."""
    if not has_table(env):
        name = getattr(getattr(env, "spec", None), "id", env)
        raise ValueError(f"{name} knows no table of its model, or does not show its states; loops are looked "
                         "for in those that do")  # fmt: skip
    return TabularMDP.from_env(env)


def _true_rewards(mdp: TabularMDP) -> Tensor:
    """Return expected rewards [S, A]."""
    return mdp.linear_rewards(mdp.weights)[0]


def _learned_rewards(mdp: TabularMDP, model: Any, env: Any) -> Tensor:
    """Return expected learned rewards [S, A], of all transitions that there are."""
    states, actions, branches = mdp.successors.shape[1:]
    if model.num_features:
        raise ValueError("the reward model reads features of transitions, which are not shown here")
    shape = (states, actions, branches)
    first_obs, first_action = (int(getattr(space, "start", 0)) for space in
                               (env.observation_space, env.action_space))  # fmt: skip
    obs = torch.arange(states)[:, None, None].expand(shape) + first_obs
    taken = torch.arange(actions)[None, :, None].expand(shape) + first_action
    rows = [values.reshape(-1).to(model.device) for values in (obs, taken, mdp.successors[0] + first_obs)]
    rewards: Tensor = model.rewards(*rows).double().cpu().view(shape)
    return mdp.expected_rewards(rewards)[0]


def _read_bonus(path: Path, mdp: TabularMDP) -> Tensor:
    """Return the bonus [S, A] of a table; ValueError naming the file and the row otherwise."""
    lines = read_table(path, "table of bonuses")
    bonus = torch.zeros(mdp.num_states, mdp.num_actions, dtype=torch.float64)
    with reading(path, "table of bonuses"):
        names = [name.strip() for name in lines[0]] if lines else []
        if sorted(names) != sorted(COLUMNS):
            raise ValueError(f"its first line is {','.join(names)!r}; it must name {', '.join(COLUMNS)}")
        for row, line in enumerate(lines[1:], 1):
            if len(line) != len(names):
                raise ValueError(f"row {row} has {len(line)} entries; the first line names {len(names)}")
            cells = dict(zip(names, line, strict=True))
            state, action = (
                _place(cells[name], row, name, most)
                for name, most in (("state", mdp.num_states), ("action", mdp.num_actions))
            )
            bonus[state, action] += finite_number(cells["bonus"], row, "bonus")
    return bonus


def _place(text: str, row: int, name: str, count: int) -> int:
    """Return a whole number below ``count``."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < count:
        raise ValueError(f"row {row} has {name} {text!r}; it must be a whole number from 0 to {count - 1}")
    return value


def _described(loop: RewardLoop) -> dict[str, Any]:
    return {"states": list(loop.states), "actions": list(loop.actions), "gain": loop.gain,
            "true_gain": loop.true_gain}  # fmt: skip
