#!/usr/bin/env bash
# sbx-rl 0.28.0 with JAX 0.10.2 on the CPU: its DQN, with one gradient step per timestep, is no faster than
# Stable-Baselines3's DQN in PyTorch.
#
# Guessed: compiled by XLA, a step of a network of 64 x 64 takes a fraction of PyTorch's time, as SBX's SAC does.
# Seen: the step is compiled, but the loop over gradient steps around it, jax.lax.scan, is called outside of any
# jit, and so is dispatched in pieces from Python at every call of train(). The same loop under one jit takes about
# half of the processor time of the whole timestep, environment included.
# What it means: a comparison with "JAX" is one with this loop. SBX's gain for DQN comes with many gradient
# steps in a call (train_freq and gradient_steps of 64), where the loop is entered once.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check \
    torch==2.13.0 sbx-rl==0.28.0 jax==0.10.2 jaxlib==0.10.2

cat > "$folder/steps.py" <<'PYTHON'
import os
import sys
import time

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
import sbx
import stable_baselines3
import torch

torch.set_num_threads(1)
library = stable_baselines3 if sys.argv[1] == "sb3" else sbx
if sys.argv[1] == "one_jit":
    scan = jax.lax.scan

    def loop(carry, indices):
        return scan(sbx.DQN._train, carry, indices)

    compiled = jax.jit(loop)
    jax.lax.scan = lambda function, carry, indices, unroll: compiled(carry, indices)
model = library.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [64, 64]}, batch_size=64, train_freq=1,
                    gradient_steps=1, learning_starts=200, seed=0)
model.learn(700)
took = []
for _ in range(5):
    start = time.process_time()
    model.learn(500, reset_num_timesteps=False)
    took.append((time.process_time() - start) / 500 * 1e6)
print(sorted(took)[2])
PYTHON

for side in sb3 released one_jit; do
    "$folder/venv/bin/python" -W ignore "$folder/steps.py" "$side" > "$folder/$side"
done
echo "microseconds of processor time per timestep: SB3 $(cat "$folder/sb3"), SBX $(cat "$folder/released")," \
    "SBX with its loop under one jit $(cat "$folder/one_jit")"
"$folder/venv/bin/python" - "$(cat "$folder/sb3")" "$(cat "$folder/released")" "$(cat "$folder/one_jit")" <<'PYTHON'
import sys

sb3, released, one_jit = map(float, sys.argv[1:])
assert released > 0.8 * sb3 and released > 1.4 * one_jit, "behaviour changed"
PYTHON
