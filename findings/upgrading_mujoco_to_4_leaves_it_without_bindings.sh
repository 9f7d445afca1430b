#!/usr/bin/env bash
# MuJoCo 4.0.0 from PyPI: `pip install --upgrade mujoco` from any 3.x ends with success, and `import mujoco` fails.
#
# Guessed: an upgrade by pip leaves what a fresh installation of the same version leaves. Seen: 4.0.0 comes in parts
# (mujoco, mujoco-core, mujoco-studio) that lie in one folder; pip unpacks the parts first and removes the old mujoco after
# that, whose list of files holds the same names. `pip check` finds nothing wrong; the import says what to do:
# `pip install --force-reinstall --no-deps mujoco mujoco-core mujoco-studio`, which helps.
# What it means: Gymnasium's MuJoCo environments are gone in any environment, image or cache that was brought up to date in
# place. In new environments nothing is wrong.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip "$@" --disable-pip-version-check; }
look() {
    { "$folder/venv/bin/python" -c 'import mujoco; print("imports", mujoco.__version__)' 2>&1 || true; } |
        grep -oE "imports .*|^ImportError|core bindings" | xargs
}

pip install -q mujoco==3.17.0
before=$(look)
pip install -q --upgrade mujoco==4.0.0
upgraded=$(look)
check=$(pip check)
pip install -q --force-reinstall --no-deps mujoco==4.0.0 mujoco-core==4.0.0 mujoco-studio==4.0.0
mended=$(look)
echo "3.17.0: $before; upgraded to 4.0.0: $upgraded; pip check: $check; reinstalled: $mended"
[ "$before" = "imports 3.17.0" ] && [ "$upgraded" = "ImportError core bindings" ] &&
    [ "$check" = "No broken requirements found." ] && [ "$mended" = "imports 4.0.0" ] || {
    echo "behaviour changed"
    exit 1
}
