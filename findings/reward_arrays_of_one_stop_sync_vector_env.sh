#!/usr/bin/env bash
# Gymnasium 1.4.0 with NumPy 2.4: an environment that pays np.array([1.0]) no longer runs in SyncVectorEnv.
#
# Guessed: what steps alone (`gymnasium.make`, whose checker only warns) also steps in SyncVectorEnv, whatever
# the version of NumPy that Gymnasium takes. Seen: with NumPy 2.3 it does, with a DeprecationWarning of NumPy's; with 2.4
# the same environment ends in "setting an array element with a sequence", which names neither the reward nor
# the environment. Flags that are arrays of one (terminated, truncated) are still taken.
# What it means: older simulators and wrappers that pay such arrays break in vector environments, and not alone,
# by an update of NumPy. Pay floats; what reads rewards should turn an array of one number into the number.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/look.py" <<'PYTHON'
import sys

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv


class Pays(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), np.array([1.0]), np.array([False]), np.array([False]), {}


env = SyncVectorEnv([Pays] * 2)
env.reset()
try:
    seen = f"rewards {env.step(np.zeros(2, np.int64))[1].tolist()}"
except ValueError as error:
    seen = f"ValueError: {error}"
print(f"gymnasium {gym.__version__}, numpy {np.__version__}: {seen}")
assert seen == sys.argv[1], "behaviour changed"
PYTHON

for versions in "2.3.5|rewards [1.0, 1.0]" "2.4.6|ValueError: setting an array element with a sequence."; do
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/python" -m pip install -q --disable-pip-version-check gymnasium==1.4.0 "numpy==${versions%%|*}"
    "$folder/venv/bin/python" -W ignore "$folder/look.py" "${versions#*|}"
done
