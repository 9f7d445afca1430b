"""Train OREO; the flags are those of ``prefrl train oreo``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("oreo"))
