"""Beam search: a width of 1 is the policy, a wide one is exhaustive, values choose between."""

import itertools

import torch

from prefrl.functional.value_based.beam_search import beam_search


def tree(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A tree of three binary steps, 15 nodes, with random rewards."""
    nodes = torch.arange(15)
    terminal = nodes >= 7
    successors = torch.where(terminal[:, None], nodes[:, None], 2 * nodes[:, None] + torch.tensor([1, 2]))
    rewards = torch.randn(15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return successors, rewards.masked_fill(terminal[:, None], 0.0), terminal


def test_one_path_follows_the_policy_and_many_find_the_best() -> None:
    for seed in range(20):
        successors, rewards, terminal = tree(seed)
        log_policy = torch.log_softmax(torch.randn(15, 2, dtype=torch.float64), -1)
        values = torch.randn(15, dtype=torch.float64)
        start = torch.tensor([0, 2])
        single = beam_search(successors, rewards, terminal, log_policy, values, start, width=1, depth=3)
        wide = beam_search(successors, rewards, terminal, log_policy, values, start, width=8, depth=3)
        for row, state in enumerate(start.tolist()):
            node, total = state, 0.0
            for t in range(3):
                action = int(log_policy[node].argmax())
                assert terminal[node] or single.actions[row, t] == action
                total, node = total + float(rewards[node, action]), int(successors[node, action])
            assert abs(float(single.score[row]) - total) < 1e-12
            best = -torch.inf
            for actions in itertools.product(range(2), repeat=3):
                node, total = state, 0.0
                for action in actions:
                    total, node = total + float(rewards[node, action]), int(successors[node, action])
                best = max(best, total)
            assert abs(float(wide.score[row]) - best) < 1e-12


def test_values_choose_where_the_search_ends() -> None:
    successors, rewards, terminal = tree(0)
    even = torch.full((15, 2), 0.5, dtype=torch.float64).log()
    for wanted in (3, 4, 5, 6):
        values = torch.zeros(15, dtype=torch.float64)
        values[wanted] = 100.0
        plan = beam_search(
            successors, 0.0 * rewards, terminal, even, values, torch.tensor([0]), width=4, depth=2
        )
        assert (plan.actions[0].tolist(), float(plan.score)) == ([(wanted - 3) // 2, (wanted - 3) % 2], 100.0)
    values = torch.full((15,), 100.0, dtype=torch.float64)  # those of the end count as 0
    assert float(beam_search(successors, 0.0 * rewards, terminal, even, values, torch.tensor([0]), width=4,
                             depth=3).score) == 0.0  # fmt: skip


def test_paths_into_one_state_count_once() -> None:
    # Two steps lead to 3 by way of 1 and of 2; a beam of 2 must keep one of them, and 5, which pays later.
    successors = torch.tensor([[1, 2], [3, 4], [3, 5], [6, 6], [6, 6], [6, 6], [6, 6]])
    rewards = torch.tensor(
        [[1.0, 0.9], [0.0, -1.5], [0.0, -0.9], [0.0, 0.0], [0.0, 0.0], [9.0, 9.0], [0.0, 0.0]]
    )
    terminal = torch.arange(7) == 6
    even, start = torch.full((7, 2), 0.5).double().log(), torch.tensor([0])
    plan = beam_search(successors, rewards.double(), terminal, even, torch.zeros(7).double(), start, width=2,
                       depth=3)  # fmt: skip
    assert (plan.actions[0, :2].tolist(), float(plan.score)) == ([1, 1], 9.0)
