#!/usr/bin/env bash
# diffusers 0.42.1: `DDIMScheduler(num_train_timesteps=100).set_timesteps(60)` does not spread 60 steps over the
# 100 that noise was added in. It takes the times 59, 58, ..., 0: sampling starts from pure noise as if it were
# what is left at time 59, where samples still have most of themselves. `DDPMScheduler` does the same.
#
# Guessed: the number of steps trades time for quality, and the first is always near the most noisy time. Seen:
# the default spacing, "leading", walks up from 0 in strides of floor(100 / K); every K from 51 to 99 has stride 1,
# so it starts at K - 1. With the exact denoiser of a normal variable of mean .8 and deviation .1, and a cosine
# schedule, 50 steps give mean .797, 100 give .798, but 60 give .745; none of them warns.
# The other spacings do start near 99 and come out worse, .700 ("trailing") and .702 ("linspace"): `step` of DDIM takes
# every sample to time t - floor(100 / K), wherever the next one is.
# What it means: policies of 50 or 100 steps of noise, as robots have, sampled in "a few more steps than before"
# get worse. Take a divisor of the number of noise steps.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "diffusers==0.42.1" "torch==2.13.0" "numpy<3"

"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler

MEAN, DEVIATION = 0.8, 0.1


def sampled_mean(steps, spacing):
    scheduler = DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for time in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[time].double()
        alpha, sigma = kept.sqrt(), (1.0 - kept).sqrt()
        clean = (MEAN * sigma**2 + alpha * DEVIATION**2 * x) / (sigma**2 + alpha**2 * DEVIATION**2)
        x = scheduler.step((x - alpha * clean) / sigma, time, x).prev_sample
    return x.mean().item()


for kind in (DDIMScheduler, DDPMScheduler):
    for steps, first in ((50, 98), (60, 59), (99, 98), (100, 99)):
        scheduler = kind(num_train_timesteps=100)
        scheduler.set_timesteps(steps)
        print(f"diffusers {diffusers.__version__}, {kind.__name__}, {steps} steps begin at {scheduler.timesteps[0]}")
        assert int(scheduler.timesteps[0]) == first, "behaviour changed"
means = {steps: sampled_mean(steps, "leading") for steps in (50, 60, 100)}
others = {spacing: sampled_mean(60, spacing) for spacing in ("trailing", "linspace")}
print({steps: round(mean, 3) for steps, mean in means.items()}, others)
assert abs(means[50] - MEAN) < 0.01 and abs(means[100] - MEAN) < 0.01
assert all(mean < 0.76 for mean in (means[60], *others.values())), "behaviour changed"
PYTHON
