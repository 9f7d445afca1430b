"""Train search preferences (MCTS-DPO); the flags are those of ``prefrl train search_preferences``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("search_preferences"))
