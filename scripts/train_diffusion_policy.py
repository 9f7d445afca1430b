"""Train a diffusion policy; the flags are those of ``prefrl train diffusion_policy``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("diffusion_policy"))
