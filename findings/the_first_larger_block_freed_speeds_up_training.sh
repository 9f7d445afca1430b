#!/usr/bin/env bash
# torch 2.13.0 on the CPU, with glibc: a training step takes page faults for its temporaries, some hundred of them
# each time, until some block larger than they are was freed once.
#
# Guessed: the same network, data and kernels in a fresh process take the same time, whatever else the process
# has allocated before; blocks that are freed serve the next step.
# Seen: temporaries of half a megabyte are handed back to the system in every step and faulted in again.
# glibc's limits for that grow with the largest block of up to 32 MiB that was freed (M_MMAP_THRESHOLD in
# mallopt(3)), and torch's CPU allocator keeps nothing itself. So `del torch.empty(31 MiB)`, of which no page
# is ever written, ends it; so do MALLOC_TRIM_THRESHOLD_ with MALLOC_MMAP_THRESHOLD_, or any import that frees
# a large block.
# What it means: two programs cannot be compared in processor time unless both have freed such a block, and a
# benchmark can change when an import goes: by a twentieth here, by a fifth in soft actor-critic of 256 x 256,
# which took 870 faults a step. How many there are differs with the processor, whose kernels pack otherwise:
# this network took 12 a step on one with AVX2 only.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0 numpy

cat > "$folder/step.py" <<'PYTHON'
import resource
import sys
import time

import torch

torch.set_num_threads(1)
if sys.argv[1] == "freed":
    del_me = torch.empty(31 << 20, dtype=torch.uint8)
    del del_me
critics = torch.nn.Sequential(*[torch.nn.Linear(256, 256) if i % 2 == 0 else torch.nn.ReLU() for i in range(11)])
inputs = torch.randn(512, 256)


def steps(count):
    for _ in range(count):
        critics.zero_grad()
        critics(inputs).square().mean().backward()


steps(50)
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
steps(200)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults / 200, (time.process_time() - start) / 200 * 1e6)
PYTHON

fresh=$("$folder/venv/bin/python" "$folder/step.py" fresh)
freed=$("$folder/venv/bin/python" "$folder/step.py" freed)
echo "torch 2.13.0, page faults and microseconds of processor time of a step: fresh $fresh, after a block of 31 MiB was freed $freed"
"$folder/venv/bin/python" - "$fresh" "$freed" <<'PYTHON'
import sys

fresh, freed = (float(line.split()[0]) for line in sys.argv[1:])
assert fresh > 5 and freed < 2, "behaviour changed"
PYTHON
