"""Steps that are recorded and played back, on tapes that stand for CUDA graphs."""

from typing import Any

import pytest
import torch
from taped_cuda import NotRecordableError, TapedCuda
from torch import Tensor

from prefrl.nn import update
from prefrl.nn.update import WARM, GraphedStep

CPU = torch.device("cpu")


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> TapedCuda:
    cuda = TapedCuda()
    monkeypatch.setattr(update, "cuda", cuda)
    monkeypatch.setattr(update, "check_cuda_graph", lambda wanted, device: None)
    return cuda


class Sum:
    """Adds what it is given to what it keeps, scaled."""

    def __init__(self) -> None:
        self.total, self.scale = torch.zeros(3), 1.0

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        added = self.scale * (x.flatten() + 2.0 * y).exp()
        self.total += added
        return {"total": self.total, "added": added}


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    draws = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(seed))
    return draws[:, 0, 1:2].expand(-1, 3)[1:2], draws[0, 1]  # of other strides than a buffer has


def test_a_recorded_step_is_the_step(taped: TapedCuda) -> None:
    plain, recorded = Sum(), Sum()
    step = GraphedStep(recorded, CPU)
    kept = []
    for call in range(WARM + 4):
        expected, found = plain(*inputs(call)), step(*inputs(call))
        assert len(taped.graphs) == (call >= WARM)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0.0, atol=0.0)
        kept.append((found["added"], expected["added"]))
    assert taped.graphs[0].replays == 4
    for found_then, expected_then in kept:  # what was returned does not change with later calls
        assert torch.equal(found_then, expected_then)
    assert torch.equal(recorded.total, plain.total)


def test_numbers_are_as_they_were_until_it_forgets(taped: TapedCuda) -> None:
    function = Sum()
    step = GraphedStep(function, CPU)
    for _ in range(WARM + 1):
        once = step(*inputs(0))["added"]
    function.scale = 5.0
    assert torch.equal(step(*inputs(0))["added"], once)
    step.forget()
    for _ in range(WARM + 2):
        torch.testing.assert_close(step(*inputs(0))["added"], 5.0 * once)
    assert len(taped.graphs) == 2


def test_every_shape_has_its_own(taped: TapedCuda) -> None:
    step = GraphedStep(lambda x: (x + 1, x.sum()), CPU)
    for call in range(2 * WARM + 4):
        x = torch.arange(3.0 + call % 2) + call
        plus, total = step(x)
        assert torch.equal(plus, x + 1)
        assert float(total) == float(x.sum())
    assert len(taped.graphs) == 2


@pytest.mark.parametrize("wrong", [lambda x: (x * float(x.sum()),), lambda x: (x + torch.rand(2),)])
def test_the_tape_tells_of_what_cuda_would_not_record(taped: TapedCuda, wrong: Any) -> None:
    step = GraphedStep(wrong, CPU)
    for _ in range(WARM):
        step(torch.ones(2))
    with pytest.raises(NotRecordableError):
        step(torch.ones(2))


def test_other_devices_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"cuda_graph is True and device 'cpu'; it must be False unless that is"
    ):
        GraphedStep(Sum(), CPU)
