"""``python -m mediar_infer``."""

from mediar_infer.cli import run_process

if __name__ == "__main__":
    run_process()
