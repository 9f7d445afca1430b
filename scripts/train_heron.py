"""Train HERON from a ranking of factors; the flags are those of ``prefrl train heron``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("heron"))
