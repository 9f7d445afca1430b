"""Evaluate a policy in continuous time by martingales; the flags are those of ``prefrl train martingale``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("martingale"))
