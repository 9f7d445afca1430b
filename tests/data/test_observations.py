"""Observations of every kind of space as one tensor, and as the inputs of a network."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from prefrl.data.observations import ObservationLayout

DICT = gym.spaces.Dict(
    speed=gym.spaces.Box(-1.0, 1.0, (2,)),
    gear=gym.spaces.Discrete(3, start=1),
    picture=gym.spaces.Box(0, 255, (8, 7, 3), np.uint8),
    flags=gym.spaces.MultiBinary(2),
)


def batch(space, n=4):
    space.seed(0)
    rows = [space.sample() for _ in range(n)]
    if isinstance(space, gym.spaces.Dict):
        return {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in space}
    return torch.as_tensor(np.stack(rows))


@pytest.mark.parametrize(
    ("space", "vector_size", "picture"),
    [
        (gym.spaces.Box(-1.0, 1.0, (3,)), 3, None),
        (gym.spaces.Box(-1.0, 1.0, (2, 2)), 4, None),
        (gym.spaces.Discrete(5), 5, None),
        (gym.spaces.MultiBinary(4), 4, None),
        (gym.spaces.MultiDiscrete([2, 3]), 5, None),
        (gym.spaces.Box(0, 255, (9, 6, 3), np.uint8), 0, (9, 6, 3)),
        (gym.spaces.Box(0, 255, (3, 9, 6), np.uint8), 0, (9, 6, 3)),
        (DICT, 7, (8, 7, 3)),
    ],
)
def test_shapes(space, vector_size, picture):
    layout, obs = ObservationLayout(space), batch(space)
    assert (layout.vector_size, layout.picture) == (vector_size, picture)
    kept = layout.keep(obs)
    vectors, pictures = layout.read(kept)
    assert vectors.shape == (4, vector_size)
    assert (None if pictures is None else tuple(pictures.shape[1:])) == picture
    again = layout.unkeep(kept)
    if isinstance(space, gym.spaces.Dict):
        for name, values in obs.items():
            assert torch.equal(again[name], values), name
            assert again[name].dtype == values.dtype
    else:
        assert torch.equal(again, obs)


def test_indicators_count_from_the_start():
    layout = ObservationLayout(gym.spaces.Discrete(3, start=-1))
    assert layout.read(torch.tensor([-1, 1])).vectors.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    several = ObservationLayout(gym.spaces.MultiDiscrete([2, 3]))
    assert several.read(torch.tensor([[1, 2]])).vectors.tolist() == [[0.0, 1.0, 0.0, 0.0, 1.0]]


def test_channels_first_pictures_are_turned():
    picture = torch.arange(3 * 9 * 6, dtype=torch.uint8).reshape(1, 3, 9, 6)
    read = ObservationLayout(gym.spaces.Box(0, 255, (3, 9, 6), np.uint8)).read(picture).pictures
    assert torch.equal(read[0, :, :, 1], picture[0, 1])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Text(3), "is not supported"),
        (gym.spaces.Dict(a=gym.spaces.Tuple([gym.spaces.Discrete(2)])), "is not supported"),
        (gym.spaces.Dict(a=DICT["picture"], b=DICT["picture"]), "has 2 pictures"),
    ],
)
def test_other_spaces_are_refused(space, message):
    with pytest.raises(ValueError, match=message):
        ObservationLayout(space)
