"""Train value iteration; the flags are those of ``prefrl train value_iteration``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("value_iteration"))
