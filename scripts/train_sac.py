"""Train soft actor-critic; the flags are those of ``prefrl train sac``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("sac"))
