"""Settings that every test shares."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Before any test starts a subprocess, which inherits them: figures without a display, one thread each.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# A shell starts what it runs in the background deaf to Ctrl-C, and tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No time limits per example: a busy machine is not a bug. The same examples every time in CI.
settings.register_profile(
    "prefrl",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("prefrl")

HUMAN_DATA = "PREFRL_HUMAN_DATA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked needs_human_data where no folder is named."""
    if os.environ.get(HUMAN_DATA):
        return
    skip = pytest.mark.skip(reason=f"{HUMAN_DATA} does not name a folder")
    for item in items:
        if item.get_closest_marker("needs_human_data"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout that the tests belong to."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def human_data() -> Path:
    """The folder of the published human comparisons; for tests marked needs_human_data."""
    named = os.environ.get(HUMAN_DATA)
    if not named:
        pytest.skip(f"{HUMAN_DATA} does not name a folder")
    folder = Path(named)
    # A folder that was named and is missing is a mistake, not a reason to skip.
    assert folder.is_dir(), f"{HUMAN_DATA} names {folder}, which is not a folder"
    return folder
