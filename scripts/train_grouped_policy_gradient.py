"""Policy gradients from groups; the flags are those of ``prefrl train grouped_policy_gradient``."""

import sys

from prefrl.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main("grouped_policy_gradient"))
