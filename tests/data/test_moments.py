"""Running moments against those of all rows at once."""

import torch

from prefrl.data.moments import RunningMoments


def test_moments_are_those_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    moments, seen = RunningMoments(3, torch.device("cpu")), []
    assert moments.std(0.1).tolist() == [1.0, 1.0, 1.0]
    for _ in range(50):
        rows = 1e3 + torch.randn(4, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.0])
        mask = torch.rand(4, generator=generator) < 0.7
        moments.add(torch.where(mask[:, None], rows, torch.full_like(rows, 1e9)), mask)
        seen.append(rows[mask])
    every = torch.cat(seen).double()
    torch.testing.assert_close(moments.mean, every.mean(0))
    expected = every.std(0, correction=0).clamp(min=1e-3).float()
    torch.testing.assert_close(moments.std(1e-3), expected, rtol=1e-5, atol=1e-6)
    other = RunningMoments(3, torch.device("cpu"))
    other.load_state_dict(moments.state_dict())
    assert torch.equal(other.std(1e-3), moments.std(1e-3))
