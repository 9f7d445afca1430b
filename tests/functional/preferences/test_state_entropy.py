"""The reward for being somewhere new."""

import torch

from prefrl.functional.preferences.state_entropy import nearest_neighbour_reward


def test_distance_to_the_kth_neighbour():
    others = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    rewards = nearest_neighbour_reward(torch.tensor([[0.0], [10.0]]), others, 2)
    torch.testing.assert_close(rewards, torch.log1p(torch.tensor([1.0, 7.0])))


def test_fewer_others_than_k():
    rewards = nearest_neighbour_reward(torch.zeros(1, 2), torch.ones(3, 2), 10)
    torch.testing.assert_close(rewards, torch.log1p(torch.tensor([2.0]).sqrt()))
