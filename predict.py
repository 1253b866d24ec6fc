"""Segment every image of a folder; see README.md."""

import sys

from mediar_infer.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["predict", *sys.argv[1:]]))
