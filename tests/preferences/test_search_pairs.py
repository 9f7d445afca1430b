"""Comparisons out of trees: which steps, which labels, along which path."""

import torch

from prefrl.preferences.search_pairs import best_and_sibling, search_pairs
from prefrl.tabular import DeterministicModel, SearchTrees


def test_the_best_and_its_sibling() -> None:
    q, visits = torch.tensor([[0.3, 0.9, 0.5, 0.1]]), torch.tensor([[2.0, 0.0, 4.0, 1.0]])
    assert [int(edge) for edge in best_and_sibling(q, visits, "worst")] == [2, 3]  # 1 was never visited
    assert [int(edge) for edge in best_and_sibling(q, visits, "second")] == [2, 0]


def test_the_kept_path() -> None:
    model = DeterministicModel.of_tables(
        [[1, 2], [2, 1], [2, 2]], [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], [False, False, True], [1.0, 0.0, 0.0]
    )
    trees = SearchTrees(
        torch.tensor([[0, 1]]), torch.tensor([[[0.9, 0.2], [0.7, 0.1]]]).double(),
        torch.tensor([[[6.0, 2.0], [1.0, 3.0]]]).double(), torch.tensor([[[1, -1], [-1, -1]]]),
    )  # fmt: skip
    found = search_pairs(trees, model, depth=3)
    assert found.second.actions[:2, 0].tolist() == [0, 0]
    assert found.first.actions[:2, 0].tolist() == [1, 1]
    assert found.second.obs[:2].tolist() == [[0, 1], [1, 2]]
    assert found.second.terminated[:2].tolist() == [False, True]
    assert found.weights.tolist() == [1.0, 1.0, 0.0]
    assert found.labels[:2].tolist() == [0.75, 0.5]  # c = 6/8; c = 1/4, no more than a tie
    found.validate()
    assert search_pairs(trees, model, depth=1, conservative=False).labels.tolist() == [1.0]
    assert search_pairs(trees, model, depth=2, min_gap=0.65).weights.tolist() == [1.0, 0.0]
