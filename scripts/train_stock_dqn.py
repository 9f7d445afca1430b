"""Train deep Q-learning with a stock; the flags are those of ``prefrl train stock_dqn``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("stock_dqn"))
