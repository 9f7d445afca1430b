"""Train proximal policy optimisation; the flags are those of ``prefrl train ppo``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("ppo"))
