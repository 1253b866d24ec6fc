"""Label files for the challenge's validation phase: checked, then zipped without folders."""

import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Final

from mediar_infer.challenge.checks import Finding, check_label_file, read_size
from mediar_infer.exports.options import CSV, GEOJSON_DIR, PARQUET, ROI_DIR, ZARR_DIR
from mediar_infer.folder.at_work import AT_WORK_NAME
from mediar_infer.folder.ledger import LEDGER_NAME, SUMMARY_NAME
from mediar_infer.folder.options import REPORT_NAME
from mediar_infer.folder.run_image import OVERLAY_DIR
from mediar_infer.images.listing import list_entries, list_images
from mediar_infer.labels.naming import LABEL_FOLDER, check_collisions, label_path
from mediar_infer.output_files import replacing, to_output_error

_LABEL_NAME = re.compile(r"[^.]+_label\.tiff", re.DOTALL)
_OTHER_FOLDERS: Final = {OVERLAY_DIR, ROI_DIR, GEOJSON_DIR, ZARR_DIR}
_OTHER_FILES: Final = re.compile(
    "|".join(
        rf"{re.escape(name.stem)}(?:\.\d+of\d+)?{re.escape(name.suffix)}"
        for name in map(PurePath, (LEDGER_NAME, SUMMARY_NAME, REPORT_NAME, AT_WORK_NAME))
    )
)
"""Names of what a run, or a part of one, writes besides labels."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""Fixed, for the same labels to give the same archive byte for byte."""


def find_label_files(folder: Path) -> tuple[list[Path], list[Finding]]:
    """List the label files of a folder, and what does not belong in a submission.

    Args:
        folder: label files; other results of ``predict`` are skipped.

    Returns:
        Correctly named files, sorted, and a finding for every other entry and for names that differ
        in case only, which overwrite each other when unpacked on some systems.

    Raises:
        UsageError: if the folder does not exist or cannot be listed.
    """
    files, findings = [], []
    for path in list_entries(folder, LABEL_FOLDER):
        if not _is_utf8(path.name):
            findings.append(
                Finding(path.name, "output", "a name that is not UTF-8", "one that zip can hold")
            )
        elif _LABEL_NAME.fullmatch(path.name):
            files.append(path)
        elif not _is_other_result(path):
            findings.append(
                Finding(path.name, "output", "this name", "NAME_label.tiff without further dots")
            )
    doubled: dict[str, list[str]] = defaultdict(list)
    for path in files:
        doubled[path.name.casefold()].append(path.name)
    findings += [
        Finding(names[0], "output", f"also {', '.join(names[1:])}", "one file of that name")
        for names in doubled.values()
        if len(names) > 1
    ]
    if not files:
        findings.append(Finding(folder.name, "output", "no label file", "one for each image"))
    return files, findings


def _is_other_result(path: Path) -> bool:
    """Whether ``predict`` may have written it beside the labels."""
    if path.is_dir():
        return path.name in _OTHER_FOLDERS
    is_table = path.suffix.lower() in (CSV, PARQUET)
    return is_table or _OTHER_FILES.fullmatch(path.name) is not None


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_submission(labels_dir: Path, images_dir: Path | None) -> tuple[list[Path], list[Finding]]:
    """Check a whole set of label files.

    Args:
        labels_dir: the label files.
        images_dir: their images; ``None`` skips the checks that need them.

    Returns:
        The label files, and all findings.

    Raises:
        UsageError: if a folder does not exist or cannot be listed.
    """
    files, findings = find_label_files(labels_dir)
    images: Mapping[str, Path] = {}
    if images_dir is not None:
        paths, _ = list_images(images_dir)
        for name, inputs in check_collisions(paths).items():
            names = " and ".join(path.name for path in inputs)
            findings.append(Finding(names, "output", f"one name, {name}", "a name for each"))
        images = {label_path(Path(), path).name: path for path in paths}
        given = {path.name for path in files}
        findings += [
            Finding(path.name, "output", "no label file", name)
            for name, path in images.items()
            if name not in given
        ]
        findings += [
            Finding(path.name, "image", "none of that name", f"one in {images_dir.name}")
            for path in files
            if path.name not in images
        ]
    for path in files:
        image = images.get(path.name)
        size, unread = read_size(image) if image else (None, [])
        findings += unread + check_label_file(path.name, path, size)[1]
    return files, findings


def write_submission(path: Path, files: list[Path]) -> None:
    """Write the zip archive completely or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        with replacing(path) as target, zipfile.ZipFile(target, "w") as archive:
            for file in files:
                entry = zipfile.ZipInfo(file.name, _DATE)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise to_output_error(path, error) from error
