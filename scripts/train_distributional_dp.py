"""Optimise a return distribution exactly; the flags are those of ``prefrl train distributional_dp``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("distributional_dp"))
