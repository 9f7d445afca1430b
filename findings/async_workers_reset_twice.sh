#!/usr/bin/env bash
# Gymnasium 1.4.0: after reset(), a worker of AsyncVectorEnv(shared_memory=False) ignores its first action.
#
# Guessed: `reset()` starts an episode, and the next `step` acts in it, as with shared memory and as in
# SyncVectorEnv. Seen: with the default autoreset mode (NEXT_STEP) a worker whose episode had just ended keeps
# that in mind over `reset()`: its next step resets once more, gives reward 0 and ignores the action. With
# shared memory, the default, it forgets.
# What it means: a learner that resets such an environment between two rounds of learning stores one step per
# ended row that never happened. Use shared memory, SyncVectorEnv or AutoresetMode.SAME_STEP.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check gymnasium==1.4.0 numpy

cat > "$folder/look.py" <<'PYTHON'
import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv


class Count(gym.Env):
    """Observes how many steps there were, pays 1 a step, ends after two."""

    observation_space, action_space = gym.spaces.Box(0, 9, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(1, self.steps, np.float32), 1.0, self.steps >= 2, False, {}


def first_step_after_reset(env):
    env.reset()
    for _ in range(2):
        env.step(np.zeros(1, np.int64))
    env.reset()
    obs, rewards, *_ = env.step(np.zeros(1, np.int64))
    env.close()
    return float(obs[0, 0]), float(rewards[0])


if __name__ == "__main__":
    seen = {
        "SyncVectorEnv": first_step_after_reset(SyncVectorEnv([Count])),
        "AsyncVectorEnv, shared memory": first_step_after_reset(AsyncVectorEnv([Count])),
        "AsyncVectorEnv, no shared memory": first_step_after_reset(AsyncVectorEnv([Count], shared_memory=False)),
    }
    for name, (obs, reward) in seen.items():
        print(f"gymnasium {gym.__version__}, {name}: observes {obs}, reward {reward}")
    assert list(seen.values()) == [(1.0, 1.0), (1.0, 1.0), (0.0, 0.0)], "behaviour changed"
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
