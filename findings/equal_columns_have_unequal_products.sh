#!/usr/bin/env bash
# torch 2.13.0 on an Intel processor with AVX-512: two tensors [n, 1] that are equal, both contiguous, of the same
# type and at aligned places, have products x.T @ x that differ in the last bit.
#
# Guessed: where `torch.equal(x, y)`, `x.is_contiguous()` and `y.is_contiguous()` hold, f(x) and f(y) are the
# same bits for any one function f on one thread.
# Seen: the stride of an axis with a single entry is free, `is_contiguous()` does not ask for it, and yet the
# product is given to the library of linear algebra in another way by it. With strides (1, 1) and (1, 8), x.T @ x
# of 8 float64 numbers differs in about 4 of 10 draws; other products of the same shapes did not differ.
# What it means: a program whose states must continue to the bit has to save strides too. `torch.save` does;
# the bytes with a shape, read by `.view(shape)`, do not. A column comes by such strides easily: it is a row of
# numbers, transposed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0 numpy

"$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
differ = 0
for _ in range(2_000):
    x = torch.randn(8, 1, dtype=torch.float64)
    y = x.as_strided((8, 1), (1, 8))
    assert torch.equal(x, y) and x.is_contiguous() and y.is_contiguous() and x.data_ptr() == y.data_ptr()
    differ += not torch.equal(x.T @ x, y.T @ y)
print(f"torch {torch.__version__}, x.T @ x of equal columns: different in {differ} of 2000 draws")
told = Path("/proc/cpuinfo").read_text()
if "GenuineIntel" in told and "avx512f" in told:
    assert differ > 100, "behaviour changed"
else:
    print("(this is another processor; nothing is claimed of it)")
PYTHON
