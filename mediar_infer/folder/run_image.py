"""One image of a run: where it is, what it is called, and how its results are called."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mediar_infer.errors import ImageReadError
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.scenes import list_scenes
from mediar_infer.labels.files import label_path


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
    def inside(cls, root: Path, path: Path) -> "RunImage":
        """Name a file after its place in a folder.

        Args:
            root: the input folder.
            path: a file in it, or in a folder below it.
        """
        relative = path.relative_to(root)
        label = label_path(relative.parent, relative)
        return cls(path, relative.as_posix(), PurePosixPath(label.as_posix()))

    def split(self, options: ReadOptions) -> "list[RunImage]":
        """Images that a file is read as: one, or one for each of several scenes.

        Args:
            options: how images are read. A file whose scenes cannot be found stays one image, and
                is an error when it is opened.
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
                PurePosixPath(label_path(folder, self.path, scene).as_posix()),
                scene,
            )
            for scene in range(n_scenes)
        ]

    def explain(self, error: str) -> str:
        """Name the image in an error as the run does; readers name a file without its folder."""
        if error.startswith(f"{self.path.name}: "):
            return f"{self.name}{error.removeprefix(self.path.name)}"
        return error


def find_clashes(images: Iterable[RunImage]) -> dict[PurePosixPath, list[RunImage]]:
    """Find images that share a label file, such as ``a.b.tif`` and ``a.c.tif``.

    Args:
        images: the images of a run.

    Returns:
        Label file → its images in the given order, for those with more than one image.
    """
    groups: dict[PurePosixPath, list[RunImage]] = defaultdict(list)
    for image in images:
        groups[image.label_name].append(image)
    return {name: found for name, found in groups.items() if len(found) > 1}
