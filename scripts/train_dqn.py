"""Train a deep Q-network; the flags are those of ``prefrl train dqn``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("dqn"))
