"""Options of a fine-tuning."""

from dataclasses import dataclass, field
from pathlib import Path

from mediar_infer.training.stages.execution import Execution


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Start, length and limits of a fine-tuning."""

    weights: tuple[Path, ...] = ()
    """Start weights (default: the shipped pair); of several files, the one that does best on the
    training images is used."""
    memory: Path | None = None
    """Labelled images whose quality must be kept: a folder, or a data table."""
    recipe: str = "finetune"
    """Recipe whose last stage is used: a name or a TOML file."""
    steps: int = 0
    """Maximum number of steps; 0 keeps the recipe's."""
    hold_out: float = 0.2
    """Fraction of the images to hold out for scoring, at least one image."""
    max_loss: float = 0.02
    """Largest accepted loss of F1 on the memory's held-out images."""
    accept_predictions: bool = False
    """Train on labels that this package predicted, as they are."""
    replaces: bool = False
    """Replace an existing output file."""
    has_graph: bool = True
    """Export the graph for fast prediction on CPUs too."""
    execution: Execution = field(default_factory=Execution)
    """Where and how to compute."""
