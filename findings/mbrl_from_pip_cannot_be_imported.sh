#!/usr/bin/env bash
# mbrl-lib 0.2.0 (pip install mbrl) on Python 3.11 or newer: it installs without a complaint, and its models cannot be imported.
#
# Guessed: what pip resolves for mbrl 0.2.0 can be imported on a Python that it takes. Seen: it asks for hydra-core 1.0.3
# itself, and `import mbrl.models` ends in "mutable default ... is not allowed: use default_factory", an error of dataclasses
# that names neither mbrl nor hydra's version. With hydra-core 1.3.2 and omegaconf 2.3.0, which pip calls conflicts, it imports.
# What it means: comparisons with mbrl-lib on a current Python need these two packages brought up by hand, against its pins.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import sys; assert sys.version_info >= (3, 11), "dataclasses are stricter from Python 3.11 on"'
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip "$@" --disable-pip-version-check; }
look() {
    { "$folder/venv/bin/python" -W ignore -c 'import mbrl.models; print("imports")' 2>&1 || true; } |
        grep -oE "^imports|mutable default|is not allowed" | sort -u | xargs
}

pip install -q "setuptools<80" wheel torch==2.13.0
pip install -q mbrl==0.2.0
hydra=$(pip show hydra-core | sed -n 's/^Version: //p')
before=$(look)
pip install -q hydra-core==1.3.2 omegaconf==2.3.0 2> /dev/null
after=$(look)
echo "mbrl 0.2.0 with hydra-core $hydra: $before; with 1.3.2: $after"
[ "$before" = "is not allowed mutable default" ] && [ "$after" = "imports" ] || {
    echo "behaviour changed"
    exit 1
}
