"""Train behaviour cloning; the flags are those of ``prefrl train behaviour_cloning``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("behaviour_cloning"))
