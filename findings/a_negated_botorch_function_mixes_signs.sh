#!/usr/bin/env bash
# BoTorch 0.18.1: of a test function that is made with `negate=True`, `optimal_value` is negated and
# `evaluate_true` is not.
#
# Guessed: `negate=True` turns the sign of everything that the object says, since it is for maximisers, and
# `evaluate_true` is the same as a call but for the noise. Seen: calls and `optimal_value` change their sign,
# `evaluate_true` keeps it; at the very optimum of Branin's function it says +0.398 where the optimum is said to
# be -0.398.
# What it means: regret as `optimal_value - evaluate_true(x)` is -0.80 at the best point and falls the further
# off a search is. Take `problem(x, noise=False)`, which has the sign of `optimal_value`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check botorch==0.18.1

"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from botorch.test_functions import Branin

torch.set_default_dtype(torch.float64)
problem = Branin(negate=True)
best = torch.tensor([[torch.pi, 2.275]])
called = problem(best, noise=False).item()
true = problem.evaluate_true(best).item()
print(f"botorch {version('botorch')}: optimal_value {problem.optimal_value:.4f}, called {called:.4f}, "
      f"evaluate_true {true:.4f}")
assert abs(problem.optimal_value - called) < 1e-5, "behaviour changed"
assert abs(problem.optimal_value + true) < 1e-5, "behaviour changed"
PYTHON
