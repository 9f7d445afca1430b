"""Train a diffusion policy; the flags are those of ``prefrl train`` with the recipe of ``--method``."""

import argparse
import sys

from prefrl.cli import train_main

METHODS = {
    "clone": "diffusion_policy",
    "dro": "diffusion_dro",
    "self_npo": "self_npo",
    "dpo": "diffusion_dpo",
}
"""Recipes by method."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--method", choices=METHODS, default="clone", help="what it is trained by; each has flags of its own"
    )
    method = parser.parse_known_args()[0].method
    if {"-h", "--help"} & set(sys.argv):
        print(parser.format_help())
    sys.exit(train_main(METHODS[method]))
