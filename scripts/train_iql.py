"""Train implicit Q-learning; the flags are those of ``prefrl train iql``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("iql"))
