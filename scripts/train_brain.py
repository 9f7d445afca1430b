"""BRAIn: the posterior of good outputs; the flags are those of ``prefrl train brain``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("brain"))
