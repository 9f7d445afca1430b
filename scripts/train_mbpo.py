"""Train MBPO; the flags are those of ``prefrl train mbpo``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("mbpo"))
