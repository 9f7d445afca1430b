#!/usr/bin/env bash
# Gymnasium 1.4.0: `env.reset(seed=s)` and `env.action_space.seed(s)` with the same s draw the same numbers, so
# that the first random action is a function of where the episode starts.
#
# Guessed: an environment and its action space derive streams of their own from a seed, and the usual two lines
# at the top of a script make start and first action independent. Seen: both are PCG64 from s itself. In
# Pendulum-v1 and MountainCarContinuous-v0, over 300 seeds, the correlation of start and first sampled action is
# 1.000; with another seed for the actions it is that of chance.
# What it means: studies over seeds that begin with random actions (warm-up, epsilon 1, random baselines) see one
# start with one action. Seed the action space with another number.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "gymnasium[classic-control]==1.4.0"

"$folder/venv/bin/python" - <<'PYTHON'
import gymnasium as gym
import numpy as np

STARTS = {"Pendulum-v1": lambda obs: np.arctan2(obs[1], obs[0]), "MountainCarContinuous-v0": lambda obs: obs[0]}


def correlation(name, shift):
    env = gym.make(name)
    starts, actions = [], []
    for seed in range(300):
        starts.append(STARTS[name](env.reset(seed=seed)[0]))
        env.action_space.seed(seed + shift)
        actions.append(env.action_space.sample()[0])
    return np.corrcoef(starts, actions)[0, 1]


for name in STARTS:
    same, other = correlation(name, 0), correlation(name, 10_000)
    print(f"gymnasium {gym.__version__}, {name}: {same:.3f} with one seed, {other:.3f} with two")
    assert same > 0.999 and abs(other) < 0.3, "behaviour changed"
PYTHON
