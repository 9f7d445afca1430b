#!/usr/bin/env bash
# MinAtar 1.0.15: `from minatar import Environment` loads matplotlib.pyplot, seaborn and with it pandas.
#
# Guessed: an environment that is stepped without a window loads NumPy; what draws is loaded when something is
# drawn (`display_state`). Seen: the import itself loads the whole of it, most of a second or two of processor
# time in every process that makes a game, also in workers that never draw.
# What it means: ask for a game's spaces without importing the package where you only list environments, and
# count the import when you time short runs.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check minatar==1.0.15

"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time
from importlib.metadata import version

start = time.process_time()
from minatar import Environment

seconds = time.process_time() - start
loaded = [name for name in ("matplotlib.pyplot", "seaborn", "pandas") if name in sys.modules]
game = Environment("breakout")
game.act(0)
print(f"minatar {version('minatar')}: importing it took {seconds:.1f} s of processor time and loaded {loaded}")
assert loaded == ["matplotlib.pyplot", "seaborn", "pandas"], "behaviour changed"
PYTHON
