#!/usr/bin/env bash
# Gymnasium 1.4.0 with MuJoCo 4.0.0: by default the camera of MuJoCo environments stays, and what runs leaves the picture.
#
# Guessed: HalfCheetah, Hopper and the like are drawn by the camera "track" of their models, which runs along.
# Seen: where no camera is named, that one is looked up and not used. A free camera looks at the place where
# the bodies were at the first picture, so that all pictures hang on where the first one was drawn.
# What it means: give camera_name="track" to gym.make when clips are to show more than the start.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check 'gymnasium[mujoco]==1.4.0' mujoco==4.0.0

MUJOCO_GL=${MUJOCO_GL:-egl} "$folder/venv/bin/python" - <<'PYTHON'
import gymnasium as gym
import numpy as np

def colourful(**camera):
    """Return how many of the pixels are of the cheetah's kind of brown, at the start and 10 m further on."""
    env = gym.make("HalfCheetah-v5", render_mode="rgb_array", width=160, height=120, **camera).unwrapped
    env.reset(seed=0)
    counts = []
    for ahead in (0.0, 10.0):
        env.set_state(env.data.qpos + np.eye(9)[0] * ahead, env.data.qvel)
        picture = env.render().astype(int)
        counts.append(int((picture[..., 0] - picture[..., 2] > 40).sum()))
    env.close()
    return counts

free, tracking = colourful(), colourful(camera_name="track")
print(f"gymnasium {gym.__version__}: brown pixels at the start and 10 m on: {free} by default, {tracking} by "
      'camera_name="track"')
assert free[1] == 0 < free[0] and tracking[1] > 0, "behaviour changed"
PYTHON
