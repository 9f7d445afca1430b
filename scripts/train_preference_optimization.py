"""Policies straight from preferences; the flags are those of ``prefrl train preference_optimization``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("preference_optimization"))
