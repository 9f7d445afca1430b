"""Train dynamic choice; the flags are those of ``prefrl train dynamic_choice``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("dynamic_choice"))
