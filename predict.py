"""Segment every image of a folder; see README.md."""

import sys

from mediar_infer.cli import run_process

if __name__ == "__main__":
    sys.argv.insert(1, "predict")
    run_process()
