"""Command modules of ``python -m mediar_infer.training``: options in, exit code out."""

from typing import Final

TRAINING_PROGRAM: Final = "python -m mediar_infer.training"
"""How the commands are typed."""
