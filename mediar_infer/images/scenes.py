"""Files that may hold several images: their scenes, before any of them is opened."""

from collections.abc import Sequence
from pathlib import Path

from mediar_infer.images.faults import reading
from mediar_infer.images.formats import recognise_file


def list_scenes(path: Path) -> Sequence[str]:
    """Name the scenes of a file.

    Args:
        path: the file.

    Returns:
        A name for each scene, empty where the file states none.

    Raises:
        ImageReadError: if the file cannot be read.
    """
    # Here, as most runs start to load the network before they need a reader.
    from mediar_infer.images.open import find_reader

    format_name = recognise_file(path)
    with reading(path.name, f"{format_name} data"):
        return find_reader(format_name).list_scenes(path)
