"""Learn a reward from preferences; the flags are those of ``prefrl train regret``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("regret"))
