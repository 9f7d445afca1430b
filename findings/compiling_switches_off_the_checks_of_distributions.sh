#!/usr/bin/env bash
# torch 2.13.0: the first call of anything compiled by torch.compile switches off the argument checks of all
# torch.distributions in the process, also in code that is not compiled.
#
# Guessed: `torch.compile(f)` changes how f runs. A policy elsewhere whose mean has become NaN goes on raising
# ValueError when its distribution is made, as it does without the call.
# Seen: after one call of a compiled function, with any backend, Normal(NaN, 1) is made without a word, and its
# samples are NaN.
# What it means: who relies on that error to notice that a policy diverged (programs on Stable-Baselines3 do,
# mostly without knowing) notices nothing once anything in the process was compiled. Ask for it by name:
# Normal(..., validate_args=True), or Distribution.set_default_validate_args(True) after compiling.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0 numpy

"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.distributions import Normal


def made() -> str:
    try:
        return f"a sample of {Normal(torch.tensor(float('nan')), torch.tensor(1.0)).sample().item()}"
    except ValueError:
        return "ValueError"


before = made()
torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1))
after = made()
print(f"torch {torch.__version__}, Normal(NaN, 1): {before} before, {after} after something was compiled")
assert (before, after) == ("ValueError", "a sample of nan"), "behaviour changed"
PYTHON
