"""Command modules of ``python -m mediar_infer.training``: options in, exit code out."""
