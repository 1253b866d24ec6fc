"""Images of a run whose results would overwrite each other."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mediar_infer.folder.run_image import RunImage
from mediar_infer.labels.naming import LabelNames
from mediar_infer.output_files import find_indistinct_names


def explain_clashes(
    images: Iterable[RunImage], output_dir: Path, names: LabelNames
) -> Mapping[RunImage, str]:
    """Find images that share a label file, such as ``a.b.tif`` and ``a.c.tif``.

    On disks that do not tell upper from lower case, ``A.tif`` and ``a.tif`` do too, and so do names
    with composed and decomposed accents on those that do not tell these apart.

    Args:
        images: the images of a run.
        output_dir: folder of the results; asked only about names that differ by no more.
        names: what of an image's name names its results.

    Returns:
        Image → error that says which others it clashes with, in the order of the images.
    """
    listed = list(images)
    # Equal names come last, and win: they clash on every disk.
    errors = _explain_indistinct(listed, output_dir) | _explain_equal(listed, names)
    return {image: errors[image] for image in listed if image in errors}


def _explain_equal(images: Iterable[RunImage], names: LabelNames) -> dict[RunImage, str]:
    """Images whose label files have the same name."""
    errors = {}
    for name, clashing in _group(images, lambda image: str(image.label_name)).items():
        for image in clashing:
            others = _list_names(other for other in clashing if other != image)
            errors[image] = (
                f"{image.name}: maps to {name}, and so does {others}; {_remedy(clashing, names)}"
            )
    return errors


def _explain_indistinct(images: Iterable[RunImage], output_dir: Path) -> dict[RunImage, str]:
    """Images whose label files have names that the disk does not tell from each other."""
    by_folded = _group(images, _fold)
    alike = {
        folded: paths
        for folded, found in by_folded.items()
        if len(paths := list(dict.fromkeys(image.label_name for image in found))) > 1
    }
    errors = {}
    for folded in find_indistinct_names(output_dir, alike) if alike else ():
        for image in by_folded[folded]:
            others = _list_names(
                other for other in by_folded[folded] if other.label_name != image.label_name
            )
            errors[image] = (
                f"{image.name}: maps to {image.label_name}, which the disk of {output_dir} does not"
                f" tell from the label file of {others}; expected names that differ in more than"
                " upper and lower case or the composition of accents; rename one of them, or choose"
                " an output folder on another disk"
            )
    return errors


def _group(images: Iterable[RunImage], key: Callable[[RunImage], str]) -> dict[str, list[RunImage]]:
    """Images that are alike, where there are several."""
    groups: dict[str, list[RunImage]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return {name: found for name, found in groups.items() if len(found) > 1}


def _fold(image: RunImage) -> str:
    name = unicodedata.normalize("NFD", str(image.label_name)).casefold()
    return unicodedata.normalize("NFC", name)


def _list_names(images: Iterable[RunImage]) -> str:
    return ", ".join(sorted(image.name for image in images))


def _remedy(clashing: list[RunImage], names: LabelNames) -> str:
    in_full = {RunImage.named(image.path, image.name, "full").label_name for image in clashing}
    if names == "full":
        return "expected one image per name without extension; rename one of them"
    other = ", or keep the dots in results with --names full"
    return (
        "expected one image per name up to the first dot; rename one of them"
        f"{other if len(in_full) == len(clashing) else ''}"
    )
