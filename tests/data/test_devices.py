"""Generators that go on from saved states, of another device, damaged; memory kept, and not yet taken."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prefrl.data.devices import restore_generator, unfilled


def test_a_generator_goes_on_from_its_state() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    later = generator.get_state()
    first = torch.rand(3, generator=generator)
    restore_generator(generator, later)
    assert torch.equal(torch.rand(3, generator=generator), first)


def test_a_generator_of_another_device_is_left_as_it_was_seeded() -> None:
    generator = torch.Generator().manual_seed(3)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(3))
    restore_generator(generator, torch.zeros(16, dtype=torch.uint8))  # as CUDA's
    assert torch.equal(torch.rand(3, generator=generator), expected)


@pytest.mark.parametrize("state", [
    torch.zeros(0, dtype=torch.uint8), torch.zeros(15, dtype=torch.uint8), torch.zeros(16),
    torch.zeros(16, dtype=torch.int64), torch.zeros(5055, dtype=torch.uint8),
    torch.zeros(5056, dtype=torch.uint8), torch.Generator().get_state()[:-1],
    torch.Generator().get_state().float(),
], ids=lambda state: f"{state.dtype}-{state.numel()}")  # fmt: skip
def test_a_damaged_state_is_refused(state: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    with pytest.raises((RuntimeError, TypeError)):
        restore_generator(generator, state)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its limits are glibc's")
def test_freed_blocks_are_kept_for_what_comes_next() -> None:
    """Three blocks of 256 pages, written and freed again and again, fault their pages in once only."""
    program = """
import resource, torch
from prefrl.data.devices import resolve_device
resolve_device('cpu')
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    blocks = [torch.ones(1 << 18) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, text=True, capture_output=True)
    assert int(told.stdout) < 2 * 3 * 256  # where each is handed back: five times as many


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (4, 3, 2)])
def test_unfilled_memory_is_zeros(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    found = unfilled(shape, dtype, torch.device("cpu"))
    assert torch.equal(found, torch.zeros(shape, dtype=dtype))
    assert found.dtype is dtype
    found.fill_(1)
    assert bool((found == 1).all())


def test_what_no_memory_holds_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"there is no memory for \d+ bytes"):
        unfilled((1 << 40, 1 << 20), torch.uint8, torch.device("cpu"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is Linux that says what is resident")
def test_a_replay_takes_memory_as_it_is_filled() -> None:
    program = """
from pathlib import Path
import torch
from prefrl.data.replay import ReplayBuffer
from prefrl.data.transitions import Transitions
def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
flag, obs = torch.zeros(1, dtype=torch.bool), torch.ones(1, 1000)
step = Transitions(obs, torch.zeros(1), torch.zeros(1), obs, flag, flag, ~flag)
replay = ReplayBuffer(20_000, 1, gamma=0.9)
replay.add(step)
before = resident()
for _ in range(9_999):
    replay.add(step)
half = resident() - before
restored = ReplayBuffer(20_000, 1, gamma=0.9)
restored.load_state_dict(replay.state_dict(), torch.device("cpu"))
print(before, half, resident() - before - half)
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, text=True, capture_output=True)
    before, half, restored = (float(number) for number in told.stdout.split())
    mib = 80e6 / 2**20  # of a half of it
    assert before < 600.0
    assert 0.9 * mib < half < 1.3 * mib
    assert 0.9 * mib < restored < 1.3 * mib
