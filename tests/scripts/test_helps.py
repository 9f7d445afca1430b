"""Every script says what it does and takes."""

import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_help(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(sys, "argv", [str(script), "--help"]), pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: " in printed
    assert "--help" in printed
