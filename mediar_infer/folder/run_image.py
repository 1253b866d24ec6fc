"""One image of a run: where it is, what it is called, and how its results are called."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.scenes import list_scenes
from mediar_infer.labels.naming import LabelNames, label_path

OVERLAY_DIR: Final = "overlays"
"""Folder of the overlays of a run, inside its output folder."""


@dataclass(frozen=True, slots=True)
class RunImage:
    """One image of a run; no other one of the run has its name."""

    path: Path
    """The file."""
    name: str
    """Path relative to the input folder, with slashes, as in ledger, log and errors."""
    label_name: PurePosixPath
    """Path of its label file relative to the output folder; other results are named after it."""
    scene: int | None = None
    """Which image of the file it is, where each of several is an image of the run."""

    @property
    def export_name(self) -> str:
        """Name of the image in the names of its exports, and in the table."""
        return str(self.label_name).removesuffix("_label.tiff")

    @classmethod
    def named(cls, path: Path, name: str, names: LabelNames = "challenge") -> "RunImage":
        """Name the results of an image after the image.

        Args:
            path: the file.
            name: its path relative to the input folder, with slashes.
            names: what of its name names its results.
        """
        relative = Path(name)
        label = label_path(relative.parent, relative, names=names)
        return cls(path, name, PurePosixPath(label.as_posix()))

    def split(self, options: ReadOptions, names: LabelNames) -> "list[RunImage]":
        """Images that a file is read as: one, or one for each of several scenes.

        Args:
            options: how images are read. A file whose scenes cannot be found stays one image, and
                is an error when it is opened.
            names: what of its name names its results.
        """
        if options.scene != "all":
            return [self]
        try:
            n_scenes = len(list_scenes(self.path))
        except ImageReadError:
            return [self]
        if n_scenes == 1:
            return [self]
        folder = Path(self.label_name.parent)
        return [
            RunImage(
                self.path,
                f"{self.name}, scene {scene}",
                PurePosixPath(label_path(folder, self.path, scene, names).as_posix()),
                scene,
            )
            for scene in range(n_scenes)
        ]

    def explain(self, error: str) -> str:
        """Name the image in an error as the run does; readers name a file without its folder."""
        if error.startswith(f"{self.path.name}: "):
            return f"{self.name}{error.removeprefix(self.path.name)}"
        return error
