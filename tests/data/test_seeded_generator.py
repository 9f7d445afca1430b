import pytest
import torch

from prefrl.data import seeded_generator


def draws(*key):
    return torch.rand(50, generator=seeded_generator(*key)).tolist()


def test_a_stream_is_named_by_seed_purpose_and_index():
    assert draws(1, "pairs") == draws(1, "pairs", 0)
    assert len({tuple(draws(*key)) for key in [(1, "a"), (2, "a"), (1, "b"), (1, "a", 1)]}) == 4


def test_neighbouring_seeds_and_indices_do_not_overlap():
    assert draws(1, "a", 1) != draws(2, "a", 0)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed is -1"):
        seeded_generator(-1, "a")
