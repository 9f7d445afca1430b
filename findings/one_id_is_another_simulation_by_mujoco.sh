#!/usr/bin/env bash
# Gymnasium 1.4.0: Hopper-v5 and HumanoidStandup-v5 are other simulations with MuJoCo 3.3.7 than with 3.5.0.
#
# Guessed: a version in an id ("-v5") fixes the dynamics; the same seed and actions give the same trajectory under every
# MuJoCo 3.x that Gymnasium takes, but for rounding (1e-15 after a step, growing). Seen: Swimmer, Walker2d, Reacher and Pusher
# do so, to 1e-11 after 100 steps. Hopper's observation after nine steps differs by .06 between 3.3.7 and 3.5.0, after
# eight that agree to 1e-12; HumanoidStandup's first by 40 (forces) and its first reward by .06. From 3.5.0 to 4.0.0 Hopper
# agrees again to 1e-14, HumanoidStandup's first reward to 4e-6.
# What it means: scores of Hopper from before and after 3.5 are of two tasks with one name, and so are demonstrations and
# files of transitions. Write MuJoCo's version beside a score (a run folder has it in versions.json).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/roll.py" <<'PYTHON'
import sys

import gymnasium as gym
import numpy as np

found = {}
for name in ("Hopper", "HumanoidStandup", "Swimmer", "Walker2d"):
    env = gym.make(f"{name}-v5").unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    rows, rewards = [], []
    for _ in range(100):
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        obs, reward, *_ = env.step(action)
        rows.append(obs)
        rewards.append(reward)
    found[name], found[f"{name} rewards"] = np.array(rows), np.array(rewards)
np.savez(sys.argv[1], **found)
PYTHON
cat > "$folder/compare.py" <<'PYTHON'
import sys

import numpy as np

old, middle, new = (np.load(path) for path in sys.argv[1:])


def gap(a, b, key, step):
    return float(np.abs(a[key][step] - b[key][step]).max())


for name, pair in {"3.3.7 and 3.5.0": (old, middle), "3.5.0 and 4.0.0": (middle, new)}.items():
    told = {f"{key}, step {step + 1}": f"{gap(*pair, key, step):.1e}"
            for key, step in (("Hopper", 7), ("Hopper", 8), ("HumanoidStandup", 0),
                              ("HumanoidStandup rewards", 0), ("Swimmer", 99), ("Walker2d", 99))}
    print(f"MuJoCo {name}: {told}")
assert gap(old, middle, "Hopper", 7) < 1e-12 < 1e-2 < gap(old, middle, "Hopper", 8), "behaviour changed"
assert gap(old, middle, "HumanoidStandup", 0) > 1 and gap(old, middle, "HumanoidStandup rewards", 0) > 1e-2
assert gap(middle, new, "Hopper", 8) < 1e-12 and gap(middle, new, "HumanoidStandup rewards", 0) < 1e-4
for name in ("Swimmer", "Walker2d"):
    assert max(gap(old, middle, name, 99), gap(middle, new, name, 99)) < 1e-9, "behaviour changed"
PYTHON
for version in 3.3.7 3.5.0 4.0.0; do
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
        gymnasium==1.4.0 imageio packaging "mujoco==$version"
    "$folder/venv/bin/python" -W ignore "$folder/roll.py" "$folder/$version.npz" 2> "$folder/log" || cat "$folder/log"
done
"$folder/venv/bin/python" "$folder/compare.py" "$folder"/{3.3.7,3.5.0,4.0.0}.npz
