#!/usr/bin/env bash
# Gymnasium 1.4.0: NormalizeReward carries an episode's return over its time limit into the next episode.
#
# Guessed: the running scale is that of discounted returns within episodes, however an episode ends and whichever of
# the wrappers is taken, as with SB3's VecNormalize. Seen, with a reward of 1 a step, episodes of ten steps and gamma
# 0.99: where episodes are terminated all agree to within 5 % (SB3 2.73). Where they are truncated, the scalar wrapper and
# the vector wrapper in NEXT_STEP mode divide by 9.7 and 10.2, since only `terminated` clears the return; the vector wrapper
# in SAME_STEP mode and SB3 divide by 2.73.
# What it means: in tasks that end by a time limit (Pendulum, HalfCheetah) the same code scales rewards differently by autoreset
# mode, and on and on upwards as long as nothing terminates, up to 1 / (1 - gamma) of a step's reward.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    gymnasium==1.4.0 torch==2.13.0 stable-baselines3==2.9.2

cat > "$folder/look.py" <<'PYTHON'
import gymnasium as gym
import numpy as np
import stable_baselines3
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import NormalizeReward
from gymnasium.wrappers.vector import NormalizeReward as VectorNormalizeReward
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class Ten(gym.Env):
    """Pays 1 a step for ten steps."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,), np.float32), gym.spaces.Discrete(2)

    def __init__(self, terminates):
        self.terminates = terminates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        ends = self.steps == 10
        return np.zeros(1, np.float32), 1.0, ends and self.terminates, ends and not self.terminates, {}


def scales(terminates):
    make = lambda: Ten(terminates)  # noqa: E731
    found = {}
    env = NormalizeReward(make(), gamma=0.99)
    env.reset()
    for _ in range(5000):
        _, _, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()
    found["scalar"] = env.return_rms.var**0.5
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        env = VectorNormalizeReward(SyncVectorEnv([make], autoreset_mode=mode), gamma=0.99)
        env.reset()
        for _ in range(5000):
            env.step(np.zeros(1, np.int64))
        found[mode.name] = env.return_rms.var**0.5
    env = VecNormalize(DummyVecEnv([make]), norm_obs=False, gamma=0.99)
    env.reset()
    for _ in range(5000):
        env.step(np.zeros(1, np.int64))
    found["SB3"] = env.ret_rms.var**0.5
    return {name: round(float(scale), 1) for name, scale in found.items()}


seen = {"terminated": scales(True), "truncated": scales(False)}
for name, of in seen.items():
    print(f"gymnasium {gym.__version__}, SB3 {stable_baselines3.__version__}, {name}: rewards are divided by {of}")
assert seen["terminated"] == {"scalar": 2.7, "NEXT_STEP": 2.7, "SAME_STEP": 2.6, "SB3": 2.7}, "behaviour changed"
assert seen["truncated"] == {"scalar": 9.7, "NEXT_STEP": 10.2, "SAME_STEP": 2.7, "SB3": 2.7}, "behaviour changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/look.py"
