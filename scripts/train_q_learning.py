"""Train tabular Q-learning; the flags are those of ``prefrl train q_learning``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("q_learning"))
