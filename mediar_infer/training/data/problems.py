"""What can be wrong with a file of training data, its outcome, and the list of problems."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mediar_infer.training.data.csv_files import write_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One kind of problem and its consequence."""

    name: str
    """Short name, as in the list of problems."""
    expected: str
    """What is expected instead, and what to do."""
    is_kept: bool
    """Whether the image is used anyway."""

    @property
    def outcome(self) -> str:
        """``kept`` or ``skipped``."""
        return "kept" if self.is_kept else "skipped"


UNREADABLE_IMAGE: Final = ProblemKind(
    "unreadable image",
    "an intact file with one 2-D image; convert it, as training has no options such as --plane, or"
    " copy it again",
    False,
)
NAN_PIXELS: Final = ProblemKind(
    "NaN pixels", "finite intensities; these pixels are read as the lowest one", True
)
UNUSUAL_IMAGE: Final = ProblemKind(
    "unusual image", "labels on the rows, planes and channels that are read; compare them", True
)
DUPLICATE_IMAGE: Final = ProblemKind(
    "duplicate image", "every image once; all copies stay on one side of the split", True
)
LEAKED_IMAGE: Final = ProblemKind(
    "training copy of a held-out image", "held-out images that training never sees", False
)
LISTED_TWICE: Final = ProblemKind("file listed twice", "every file once", False)
SAME_NAME: Final = ProblemKind(
    "duplicate name", "one image per name in a folder, as its labels bear that name", False
)
DUPLICATE_ID: Final = ProblemKind(
    "duplicate id", "names that differ between folders; the folder's name is put before it", True
)
MISSING_LABELS: Final = ProblemKind(
    "image without label",
    "NAME_label.tiff beside it or in labels/, or a role without labels (tuning, unlabelled)",
    False,
)
MISSING_IMAGE: Final = ProblemKind(
    "label without image", "an image of that name in the folder or in images/", False
)
SECOND_LABELS: Final = ProblemKind(
    "second label file", "one label file per image; the first by name is used", True
)
NO_IMAGES: Final = ProblemKind(
    "no image",
    "images/ and labels/, or images with NAME_label.tiff beside them; name the sub-folder that"
    " holds them, or rename it",
    False,
)
UNREAD_IMAGES: Final = ProblemKind(
    "images in two places", "one folder of images; index the other one by itself", False
)
UNREAD_FORMAT: Final = ProblemKind(
    "format not read", "images as single files that training reads; export them as TIFF", False
)
SECOND_LABEL_FOLDER: Final = ProblemKind(
    "second folder of labels", "one folder of labels; the other one is not read", True
)
UNREAD_FOLDER: Final = ProblemKind(
    "folder not read", "labels in labels/ or masks/; rename the folder if it holds labels", True
)
FOREIGN_LABELS: Final = ProblemKind(
    "labels in another form", "label images NAME_label.tiff, one number per cell", False
)
PREDICTED_LABELS: Final = ProblemKind(
    "predicted labels",
    "labels that a person drew or corrected in another program; to train on predictions as they"
    " are, add --accept-predictions",
    False,
)
PREDICTED_LABELS_KEPT: Final = ProblemKind(
    "predicted labels", "predictions, as --accept-predictions says", True
)
UNUSED_LABELS: Final = ProblemKind(
    "unused labels", "no labels in this role; choose target or public to train on them", True
)
UNREADABLE_LABELS: Final = ProblemKind(
    "unreadable labels", "an intact TIFF or PNG with one 2-D image of whole numbers", False
)
RGB_LABELS: Final = ProblemKind(
    "RGB label",
    "one number per pixel, not colours; export the ids of the cells as grey TIFF",
    False,
)
NOT_INSTANCES: Final = ProblemKind(
    "not instances",
    "a whole number of its own for every cell, 0 = background; number the cells first",
    False,
)
NUMBERED_BACKGROUND: Final = ProblemKind(
    "numbered background",
    "the background as 0 and every cell with a number of its own; set it to 0",
    False,
)
UNUSUAL_BACKGROUND: Final = ProblemKind(
    "unusual background",
    "the background as 0; right if the cells leave no gap, or if there is a single large one",
    True,
)
EMPTY_LABELS: Final = ProblemKind(
    "empty labels", "at least one cell; --keep-empty if there really is none", False
)
EMPTY_LABELS_KEPT: Final = ProblemKind("empty labels", "no cell, as --keep-empty says", True)
MISMATCHED_SHAPES: Final = ProblemKind(
    "mismatched shapes", "labels with the image's height and width", False
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with one file."""

    kind: ProblemKind
    """What is wrong in general."""
    path: Path
    """The file."""
    found: str
    """What was found in this file."""

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.kind.name}: found {self.found}; expected {self.kind.expected} "
            f"({self.kind.outcome})"
        )


def log_problems(problems: Sequence[Problem]) -> None:
    """Log every problem as one line, then their number per kind."""
    for problem in problems:
        logger.warning("%s", problem)
    for kind, number in Counter(problem.kind for problem in problems).items():
        logger.info("%s: %d (%s)", kind.name, number, kind.outcome)


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """Write the list of problems.

    Args:
        problems: possibly none; the list then holds its header only, which replaces an older list.
        path: CSV file to create or replace: kind, outcome, file, found, expected.

    Raises:
        OutputError: if it cannot be written.
    """
    rows = [
        (each.kind.name, each.kind.outcome, each.path, each.found, each.kind.expected)
        for each in problems
    ]
    write_rows(path, ("kind", "outcome", "file", "found", "expected"), rows)
