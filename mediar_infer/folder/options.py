"""What to do with a folder of images: where they are, where results go, and switches."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from mediar_infer.exports.options import (
    GEOJSON_DIR,
    ROI_DIR,
    ExportOptions,
    list_export_files,
)
from mediar_infer.folder.inputs import RunInputs, find_inputs
from mediar_infer.folder.run_image import OVERLAY_DIR, RunImage
from mediar_infer.folder.selection import Selection
from mediar_infer.images.limits import ReadOptions

REPORT_NAME: Final = "report.html"
MAX_OVERLAY_PIXELS: Final = 100_000_000
"""An overlay needs the whole image in memory, which a slide may not fit."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to do with a folder, apart from how to segment."""

    selection: Selection
    """Which images, and what their results are called."""
    output_dir: Path
    """Folder of results; created if necessary."""
    ledger_dir: Path | None = None
    """Folder of ledger and summary; None writes neither."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    """How images are read."""
    resume: bool = False
    """Skip images that an earlier run with the same weights and settings has done."""
    overlays: bool = False
    """Also write the outlines over each image as PNG."""
    exports: ExportOptions = field(default_factory=ExportOptions)
    """What else to make of each label file."""
    report: bool = False
    """Also write report.html, a page about all images and their cells."""
    with_budget: bool = False
    """Compare times with the challenge's tolerance, on the console and in the report."""
    show_progress: bool = False
    """Show a progress bar."""
    label_file: Path | None = None
    """Where the labels of a single image go, ``.tif`` or ``.mha``; None: named after the image."""

    def reading_of(self, image: RunImage) -> ReadOptions:
        """How an image is read."""
        # Cells are measured in channels that the network does not see.
        reading = replace(self.reading, all_channels=self.exports.table is not None)
        return reading if image.scene is None else replace(reading, scene=image.scene)

    def find_inputs(self) -> RunInputs:
        """Find the images of the run, those of other parts too.

        Raises:
            UsageError: if an input does not exist or cannot be read.
        """
        return find_inputs(self.selection, self.reading, self.list_result_dirs())

    def list_result_dirs(self) -> list[Path]:
        """Folders that this run writes to, which hold no inputs."""
        return [folder for folder in (self.output_dir, self.ledger_dir) if folder]

    def label_path(self, image: RunImage) -> Path:
        """Where the labels of an image go."""
        return self.label_file or self.output_dir / image.label_name

    def output_name(self, image: RunImage) -> str:
        """What the ledger calls the label file of an image: its path in the output folder."""
        return self.label_file.name if self.label_file else str(image.label_name)

    def check_packages(self) -> None:
        """Refuse results that this installation cannot make, before any work is done for them.

        Raises:
            ExportError: if a package or the compiled loops are missing.
        """
        if self.exports or self.report:
            from mediar_infer.exports.export import check_exports

            check_exports(self.exports)

    @property
    def result_dirs(self) -> tuple[Path, ...]:
        """Folders that get one file an image."""
        return tuple(self.output_dir / name for name in ("", OVERLAY_DIR, ROI_DIR, GEOJSON_DIR))

    @property
    def report_path(self) -> Path | None:
        """Where the report goes; None if it is not asked for."""
        part = self.selection.part
        name = part.rename(REPORT_NAME) if part else REPORT_NAME
        return self.output_dir / name if self.report else None

    def list_results(self, image: RunImage) -> list[Path]:
        """Files that an image may get."""
        exports = list_export_files(self.output_dir, image.export_name)
        return [self.label_path(image), self.overlay_path(image), *exports]

    def overlay_path(self, image: RunImage) -> Path:
        """Where the overlay of an image goes."""
        return self.output_dir / OVERLAY_DIR / image.label_name.with_suffix(".png")

    def has_overlay(self, height: int, width: int) -> bool:
        """Whether an image of this size gets an overlay."""
        return self.overlays and height * width <= MAX_OVERLAY_PIXELS

    def list_result_stages(self, height: int, width: int) -> list[str]:
        """List the stages that follow the labels of an image of this size."""
        follows = {
            "overlay": self.has_overlay(height, width),
            "export": bool(self.exports) or self.report,
            "report": self.report,
        }
        return ["write", *(stage for stage, is_asked in follows.items() if is_asked)]
