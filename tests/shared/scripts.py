"""Scripts within the tests' own process: run, for what ends before any work is done, or loaded as modules."""

import importlib.util
import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def refused(script: str, *arguments: object) -> str:
    """Run a script that must end with exit status 2; return what it wrote to stderr."""
    errors = io.StringIO()
    argv = [str(SCRIPTS / script), *map(str, arguments)]
    quiet = redirect_stderr(errors), redirect_stdout(io.StringIO())
    with patch.object(sys, "argv", argv), quiet[0], quiet[1], pytest.raises(SystemExit) as stop:
        runpy.run_path(argv[0], run_name="__main__")
    assert stop.value.code == 2, f"{script} ended with {stop.value.code}: {errors.getvalue()}"
    return errors.getvalue()


def loaded(script: str) -> ModuleType:
    """Return a script as a module, whose functions a test calls."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, SCRIPTS / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
