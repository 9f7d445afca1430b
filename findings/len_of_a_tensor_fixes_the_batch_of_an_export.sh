#!/usr/bin/env bash
# torch 2.13.0: in torch.export (strict=False), len(x) makes a dynamic batch a fixed one; x.shape[0] does not.
#
# Guessed: `len(x)` and `x.shape[0]` are two spellings of one number, and a program with a dynamic first axis may use
# either. Seen: with `x.shape[0]` the export goes through and takes any number of rows; with `len(x)`, which Python turns into
# an int, it ends in "You marked batch as dynamic but your code specialized it to be a constant". With strict=True both go through.
# What it means: policies written by people (`obs.reshape(len(obs), -1)`) cannot be exported for any batch until every
# `len` on the way is replaced; the message names no line.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0 numpy

cat > "$folder/look.py" <<'PYTHON'
import torch


class ByLen(torch.nn.Module):
    def forward(self, x):
        return x.reshape(len(x), -1) * 2.0


class ByShape(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], -1) * 2.0


def exported(module, strict):
    rows = torch.export.Dim("batch", min=1)
    try:
        program = torch.export.export(module, (torch.zeros(3, 2, 2),), dynamic_shapes=({0: rows},), strict=strict)
    except Exception as error:
        return "specialized" if "specialized it to be a constant" in str(error) else type(error).__name__
    return str(list(program.module()(torch.zeros(7, 2, 2)).shape))


seen = {f"{kind.__name__}, strict={strict}": exported(kind(), strict)
        for kind in (ByLen, ByShape) for strict in (False, True)}
print(f"torch {torch.__version__.partition('+')[0]}: {seen}")
assert seen == {"ByLen, strict=False": "specialized", "ByLen, strict=True": "[7, 4]",
                "ByShape, strict=False": "[7, 4]", "ByShape, strict=True": "[7, 4]"}, "behaviour changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/look.py"
