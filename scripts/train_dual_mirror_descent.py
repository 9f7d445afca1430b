"""Allocate online by dual mirror descent; the flags are those of ``prefrl train dual_mirror_descent``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("dual_mirror_descent"))
