"""Train B-Coder; the flags are those of ``prefrl train b_coder``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("b_coder"))
