"""Policies from comparisons of what they do themselves, in rounds.

The flags are those of ``prefrl train iterated_preference_optimization``.
"""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("iterated_preference_optimization"))
