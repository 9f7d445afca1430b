"""Steer a diffusion in continuous time; the flags are those of ``prefrl train continuous_control``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("continuous_control"))
