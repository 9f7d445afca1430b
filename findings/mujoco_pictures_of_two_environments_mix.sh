#!/usr/bin/env bash
# Gymnasium 1.4.0 with MuJoCo 4.0.0: MuJoCo environments that draw in turns, in one process, spoil each other's pictures.
#
# Guessed: env.render() draws this environment, whatever else the process draws. Seen: a renderer makes its
# OpenGL context current when it is made, and at a picture only if it has several viewers; so after another
# environment's first picture, the first one draws into the other's context, with the other's shapes.
# What it means: before a picture call env.unwrapped.mujoco_renderer.viewer.make_context_current(), as
# prefrl.envs.simulator_states.picture does, or draw each environment in a process of its own.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check 'gymnasium[mujoco]==1.4.0' mujoco==4.0.0

MUJOCO_GL=${MUJOCO_GL:-egl} "$folder/venv/bin/python" - <<'PYTHON'
import gymnasium as gym

def made(env_id):
    env = gym.make(env_id, render_mode="rgb_array", width=160, height=120).unwrapped
    env.reset(seed=1)
    return env

cheetah = made("HalfCheetah-v5")
alone = cheetah.render()
assert (cheetah.render() == alone).all()
made("Hopper-v5").render()
mixed = int((cheetah.render() != alone).sum())
cheetah.mujoco_renderer.viewer.make_context_current()
mended = int((cheetah.render() != alone).sum())
print(f"gymnasium {gym.__version__}: {mixed} of {alone.size} bytes change after another environment's "
      f"picture; {mended} once the context is made current")
assert mixed > 0 and mended == 0, "behaviour changed"
PYTHON
