"""Audits of coherence and of rewards, on agents and rewards that were planted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

import prefrl.envs
from prefrl.audit.policies.coherence import AuditCoherence
from prefrl.audit.policies.reward_loops import AuditRewardLoops, _learned_rewards, _true_rewards
from prefrl.tabular import TabularMDP, reward_loops

assert prefrl.envs.REGISTRY


class Chooser:
    """An agent that chooses by a function of two lotteries [n, 2, K]."""

    num_learners, device = 1, torch.device("cpu")

    def __init__(self, choose: Callable[[Tensor], Tensor]) -> None:
        self.choose = choose

    def act(self, obs: Tensor, *, deterministic: bool = False) -> Tensor:
        return self.choose(obs.view(len(obs), 2, -1)).long()


@pytest.fixture(scope="module")
def values() -> Tensor:
    env: Any = gym.make("prefrl/LotteryChoice-v0").unwrapped
    return torch.as_tensor(env.prize_values())


def said(choose: Callable[[Tensor], Tensor], values: Tensor, lotteries: int = 8) -> dict[str, Any]:
    audit = AuditCoherence(run_folder=Path("none"), out=Path("none"), lotteries=lotteries, draws=1)
    options = audit._options(len(values))
    comparisons, first_chosen = audit._asked(Chooser(choose), options)
    return audit._numbers(comparisons, options, values, first_chosen)


def test_lotteries_that_are_asked_about(values: Tensor) -> None:
    audit = AuditCoherence(run_folder=Path("none"), out=Path("none"), lotteries=30)
    options = audit._options(5)
    assert options.shape == (35, 5)
    torch.testing.assert_close(options[:5], torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(options.sum(1), torch.ones(35, dtype=torch.float64))
    assert float(options[5:].amax(1).min()) < 0.5 < 0.95 < float(options[5:].amax(1).max())


def test_a_maximiser_of_expected_reward(values: Tensor) -> None:
    """Every answer is right, none goes round, and a utility that is linear in chances predicts best."""
    found = said(lambda both: (both @ values.float()).diff(dim=1)[:, 0] > 0.0, values, 15)
    for name in ("maximisation_rate", "completeness", "ceiling"):
        assert found[name] == 1.0
    assert found["rank_correlation"] == pytest.approx(1.0)
    assert (found["cyclic_triads"], found["cyclic_chance"], found["shown_first_chosen"]) == (0.0, 0.0, 0.5)
    assert found["triads"] == 20 * 19 * 18 / 6
    assert found["expected_utility_gain"] > 0.0
    assert found["models"]["expected_utility"]["accuracy"] > 0.95


def test_one_who_wants_the_opposite(values: Tensor) -> None:
    found = said(lambda both: (both @ values.float()).diff(dim=1)[:, 0] < 0.0, values)
    assert found["maximisation_rate"] == 0.0
    assert found["rank_correlation"] == pytest.approx(-1.0)
    assert found["completeness"] == 1.0  # coherent all the same


def test_one_who_takes_what_is_shown_first(values: Tensor) -> None:
    """Both orders are asked, so that there is no preference in it."""
    found = said(lambda both: torch.zeros(len(both)), values)
    assert (found["shown_first_chosen"], found["completeness"], found["ceiling"]) == (1.0, 0.0, 0.5)
    assert found["cyclic_chance"] == pytest.approx(0.25)
    assert (found["triads"], found["maximisation_rate"]) == (0.0, 0.5)
    for name in ("rank_correlation", "correlation", "expected_utility_r2", "expected_utility_correlation"):
        assert found[name] is None  # not that of what is left of the fit


def test_one_who_goes_in_circles(values: Tensor) -> None:
    """The likeliest prize a beats the likeliest b where (a - b) mod 5 is 1 or 2: all are beaten."""

    def choose(both: Tensor) -> Tensor:
        likely = both.argmax(-1)
        ahead = (likely[:, 1] - likely[:, 0]) % 5
        return (ahead == 1) | (ahead == 2)

    found = said(choose, values, 15)
    assert found["cyclic_triads"] > 0.2
    assert found["models"]["thurstone"]["accuracy"] < 0.75


def grid() -> tuple[Any, TabularMDP]:
    env = gym.make("prefrl/SparseGrid-v0")
    return env, TabularMDP.from_env(env)


class Rewards:
    """A reward model that pays a multiple of the table's reward, and something besides."""

    num_features, device = 0, torch.device("cpu")

    def __init__(self, table: Tensor, scale: float, origin: float) -> None:
        self.table, self.scale, self.origin = table, scale, origin

    def rewards(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        return self.scale * self.table[obs, actions] + self.origin


def test_a_learned_reward_of_another_scale_and_origin() -> None:
    """Brought back, it pays nothing besides; as it is, its origin pays every loop."""
    env, mdp = grid()
    true = _true_rewards(mdp)
    learned = _learned_rewards(mdp, Rewards(true, 2.0, 0.5), env)
    torch.testing.assert_close(learned, 2.0 * true + 0.5)
    audit = AuditRewardLoops(source=Path("run"), out=Path("none"))
    brought, fit = audit._brought(learned, true, mdp)
    live = ~mdp.terminal[0]
    torch.testing.assert_close(brought[live], true[live])
    assert fit == pytest.approx({"scale": 0.5, "origin": -0.25, "explained": 1.0})
    assert reward_loops(mdp, torch.where(live[:, None], brought - true, 0.0)) == []
    assert reward_loops(mdp, torch.where(live[:, None], learned - true, 0.0)) != []
    with pytest.raises(ValueError, match="no scale brings them together"):
        audit._brought(-learned, true, mdp)
    with pytest.raises(ValueError, match=r"the learned reward is 0.3 at every step.*--no-match"):
        audit._brought(torch.full_like(true, 0.3), true, mdp)
    with pytest.raises(ValueError, match=r"the true reward is -1 at every step.*--no-match"):
        audit._brought(learned, torch.full_like(true, -1.0), mdp)
