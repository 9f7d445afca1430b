"""Solve a preference game; the flags are those of ``prefrl train nash_learning``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("nash_learning"))
