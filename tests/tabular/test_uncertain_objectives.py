"""Plans for several reward functions: what all members think worse is never done, and who abstains where."""

import pytest
import torch

from prefrl.envs.grids.random_grid import RandomGridDynamics, generate_grid
from prefrl.functional.preferences.uncertain_objectives import Choice
from prefrl.tabular import TabularMDP, optimal_policy, plan_under_uncertainty, policy_evaluation

CORRIDOR = 7


def corridor() -> tuple[TabularMDP, torch.Tensor]:
    """Cells in a row, left, right and standing still; members want the left end, or the right end."""
    moves = torch.zeros(CORRIDOR, 3, CORRIDOR)
    rewards = torch.zeros(2, CORRIDOR, 3, dtype=torch.float64)
    for cell in range(CORRIDOR):
        for action, step in enumerate((-1, 1, 0)):
            moves[cell, action, min(max(cell + step, 0), CORRIDOR - 1)] = 1.0
    rewards[0, 1, 0] = rewards[1, CORRIDOR - 2, 1] = 1.0
    ends = torch.tensor([cell in (0, CORRIDOR - 1) for cell in range(CORRIDOR)])
    return TabularMDP.from_arrays(moves.numpy(), rewards[0].numpy(), terminal=ends.numpy()), rewards


def test_a_corridor_by_hand() -> None:
    mdp, rewards = corridor()
    plan = plan_under_uncertainty(
        mdp, rewards, torch.tensor([0.5, 0.5]), 0.9, continuation="own", agreement=1.0
    )
    middle = CORRIDOR // 2
    # Each member's value is .9 to the power of the steps that are left; standing still costs both a step.
    assert plan.values[0, middle].tolist() == pytest.approx(
        [0.9 ** (middle - 1), 0.9 ** (middle + 1), 0.9**middle]
    )
    assert plan.undominated[1 : CORRIDOR - 1].tolist() == [[True, True, True]] * (CORRIDOR - 2)
    assert plan.abstains.tolist() == [False] + [True] * (CORRIDOR - 2) + [False]
    likely = plan_under_uncertainty(mdp, rewards, torch.tensor([0.3, 0.7]), 0.9)
    assert likely.actions[1:-1].tolist() == [1] * (CORRIDOR - 2)
    assert not likely.abstains.any()  # nobody asked for agreement
    alike = plan_under_uncertainty(
        mdp, rewards[:1].repeat(3, 1, 1), torch.full((3,), 1 / 3), 0.9, agreement=1.0
    )
    assert not alike.abstains.any()
    assert alike.actions[1:-1].tolist() == [0] * (CORRIDOR - 2)


def test_the_fallback_takes_over_where_the_plan_abstains() -> None:
    mdp, rewards = corridor()
    half = torch.tensor([0.5, 0.5])
    plan = plan_under_uncertainty(mdp, rewards, half, 0.9, continuation="own", agreement=1.0)
    still = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(CORRIDOR, 3)
    value = policy_evaluation(mdp, plan.policy(still)[None].expand(2, 1, -1, -1), rewards[:, None], 0.9)
    assert value.abs().max() == 0.0
    assert plan.policy().argmax(-1).tolist() == plan.actions.tolist()


@pytest.mark.parametrize("continuation", ["own", "shared"])
@pytest.mark.parametrize("choice", ["mean", "worst", "approval"])
def test_no_dominated_action_in_ten_thousand_states(continuation: str, choice: Choice) -> None:
    """Counted by another rule than the planner's: worse for one by a clear margin, and better for none."""
    states = 0
    for layout in range(4, 10):
        mdp = TabularMDP.from_env(RandomGridDynamics(layout_seed=layout))
        for draw in range(30):
            weights = torch.stack([torch.as_tensor(generate_grid(50 * draw + m)[1]) for m in range(4)])
            rewards = mdp.linear_rewards(weights[:, None])[:, 0]
            plan = plan_under_uncertainty(
                mdp, rewards, torch.full((4,), 0.25), 0.9, continuation=continuation, choice=choice  # type: ignore[arg-type]
            )  # fmt: skip
            taken = plan.values.gather(-1, plan.actions.expand(4, -1)[..., None])
            gain = plan.values - taken
            worse = (gain >= 0.0).all(0) & (gain > 1e-5 * plan.values.abs().amax((1, 2))[:, None, None]).any(
                0
            )
            assert not worse.any()
            states += int((~mdp.terminal).sum())
    assert states >= 10_000


def test_the_shared_plan_is_best_for_the_mean() -> None:
    mdp = TabularMDP.from_env(RandomGridDynamics(layout_seed=4))
    weights = torch.stack([torch.as_tensor(generate_grid(m)[1]) for m in range(3)])
    rewards, likely = (
        mdp.linear_rewards(weights[:, None])[:, 0],
        torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
    )
    plan = plan_under_uncertainty(mdp, rewards, likely, 0.9, rescale=False)
    mean = torch.tensordot(likely, rewards, dims=1)[None]
    reached = policy_evaluation(mdp, plan.policy()[None], mean, 0.9)
    torch.testing.assert_close(reached, optimal_policy(mdp, mean, 0.9)[0], rtol=0.0, atol=1e-6)


def test_refusals() -> None:
    mdp, rewards = corridor()
    half = torch.tensor([0.5, 0.5])
    for arguments, message in (
        ({"rewards": rewards[0]}, r"rewards has shape \[7, 3\]; it must be \[M, S, A\] = \[M, 7, 3\]"),
        ({"weights": half[:1]}, r"weights has shape \[1\]"),
        ({"weights": torch.tensor([1.0, 0.0])}, "above 0"),
        ({"weights": torch.tensor([0.5, 0.6])}, "sum to 1"),
        ({"agreement": 1.1}, r"agreement is 1.1; it must lie in \[0, 1\]"),
        ({"tolerance": -0.1}, "tolerance is -0.1"),
        ({"continuation": "mine"}, "continuation is 'mine'"),
        ({"gamma": 1.0}, "gamma is 1"),
    ):
        given = {"mdp": mdp, "rewards": rewards, "weights": half, "gamma": 0.9, **arguments}
        with pytest.raises(ValueError, match=message):
            plan_under_uncertainty(**given)
    two = mdp.select(torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="mdp holds 2 MDPs"):
        plan_under_uncertainty(two, rewards, half, 0.9)
