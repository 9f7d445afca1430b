"""Train by self-play from preferences; the flags are those of ``prefrl train self_play``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("self_play"))
