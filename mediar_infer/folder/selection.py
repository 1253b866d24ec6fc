"""Which images a run is over, and what their results are called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mediar_infer.folder.parts import Image, RunPart
from mediar_infer.labels.naming import LabelNames

LIST_MARK: Final = "@"
"""Begins an input that is a text file of paths."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which images a run is over, and what their results are called."""

    inputs: tuple[Path, ...]
    """Folders of images, images, or ``@LIST``: a text file with the path of one image per line."""
    recursive: bool = False
    """Also read the folders below, and write results into folders of the same names."""
    patterns: tuple[str, ...] = ()
    """Only images whose names match, or whose paths match if the pattern has a /."""
    names: LabelNames = "challenge"
    """What of an image's name names its results: all before the first dot (challenge), or all but
    the extension (full)."""
    part: RunPart | None = None
    """Only every N-th image, from the I-th on; the other jobs of an array do the rest."""

    @property
    def is_first_part(self) -> bool:
        """Whether this is the part that also lists what is no image."""
        return self.part is None or self.part.number == 1

    def choose(self, images: Sequence[Image]) -> tuple[Image, ...]:
        """The images of this part, of all images in their order."""
        return self.part.choose(images) if self.part else tuple(images)

    def list_paths(self) -> list[Path]:
        """Folders, images and lists, as paths."""
        return [Path(str(given).removeprefix(LIST_MARK)) for given in self.inputs]

    def describe_inputs(self) -> str:
        """Inputs as the user wrote them, for messages."""
        return ", ".join(str(given) for given in self.inputs)

    def absolute(self) -> "Selection":
        """The same for another working directory."""
        inputs = [
            Path(f"{LIST_MARK if str(given).startswith(LIST_MARK) else ''}{path.absolute()}")
            for given, path in zip(self.inputs, self.list_paths(), strict=True)
        ]
        return replace(self, inputs=tuple(inputs))
