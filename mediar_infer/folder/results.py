"""What a run learns of each image: its entry, and what table and report get of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mediar_infer.folder.ledger import LedgerEntry
from mediar_infer.folder.run_image import RunImage

if TYPE_CHECKING:
    from mediar_infer.exports.measures import Columns
    from mediar_infer.report.figures import ImageFigures


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of finished labels, apart from files."""

    columns: "Columns | None" = None
    """Rows of the table; None unless it is asked for."""
    figures: "ImageFigures | None" = None
    """What the report shows; None unless it is asked for."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one image of a run."""

    image: RunImage
    """The image."""
    entry: LedgerEntry
    """Its line of the ledger."""
    made: Made
    """What table and report get of it; empty if it failed."""
