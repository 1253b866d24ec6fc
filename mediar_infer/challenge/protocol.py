"""The organisers' protocol for one image: a separate input folder, a run, and all checks."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mediar_infer.challenge.checks import (
    Finding,
    LabelFacts,
    check_outputs,
    check_run,
    check_time,
    read_size,
)
from mediar_infer.challenge.launchers import LEDGER_DIR, Launcher, RunOutcome
from mediar_infer.challenge.records import ChallengeRecord
from mediar_infer.errors import MediarError, UsageError
from mediar_infer.folder.ledger import Ledger
from mediar_infer.labels.metrics import Scores, evaluate_labels
from mediar_infer.labels.naming import check_collisions, label_path
from mediar_infer.labels.plausibility import read_true_labels
from mediar_infer.labels.reading import read_labels
from mediar_infer.labels.scoring import list_label_files

LABELS_DIR: Final = "labels"
"""Folder of the results that collects the label files."""


def check_images(images: Sequence[Path]) -> None:
    """Raise ``UsageError`` if there is no image, or if two images share a label file name."""
    if not images:
        raise UsageError("found no image, expected a folder of one or more; check --input")
    for name, inputs in check_collisions(images).items():
        names = " and ".join(path.name for path in inputs)
        raise UsageError(f"found {names}, whose labels are both named {name}; rename one of them")


def find_truth(images: Sequence[Path], truth_dir: Path) -> dict[str, Path]:
    """Find the true label file of every image.

    Returns:
        Name of the image → file.

    Raises:
        UsageError: if an image has no label file, or more than one.
        DataError: if a file cannot be read, or is a mask instead of labels.
    """
    files = list_label_files(truth_dir)
    truth = {}
    for path in images:
        stem = label_path(Path(), path).name.removesuffix("_label.tiff")
        found = files.get(stem, [])
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "nothing"
            raise UsageError(
                f"{truth_dir}: found {names} for {path.name}, expected one file {stem}_label.tiff"
            )
        read_true_labels(found[0])  # a mask is refused before anything is run
        truth[path.name] = found[0]
    return truth


def judge_image(
    path: Path,
    launcher: Launcher,
    output_dir: Path,
    *,
    memory_limit_bytes: int,
    truth: Path | None = None,
) -> ChallengeRecord:
    """Run a submission on one image and check everything that the challenge requires.

    Args:
        path: the image.
        launcher: how the submission is run.
        output_dir: existing folder; a readable label file goes to its ``labels`` folder, whatever
            the findings.
        memory_limit_bytes: most memory that the run may use.
        truth: file of the true labels, for the score.

    Returns:
        The record of the image; one that cannot be placed in its input folder is not run.
    """
    size, findings = read_size(path)
    with tempfile.TemporaryDirectory(
        prefix=".run-", dir=output_dir, ignore_cleanup_errors=True
    ) as folder:
        work = Path(folder).resolve()
        try:
            _make_folders(path, work)
        except OSError as error:
            unplaced = findings or [_explain_copy(path, error)]
            return ChallengeRecord(
                image=path.name, size=size, outcome=RunOutcome(exit_code=None, wall_s=0.0),
                label=None, findings=tuple(unplaced),
            )  # fmt: skip
        outcome = launcher.run(work)
        findings += check_run(path.name, outcome, memory_limit_bytes)
        findings += check_time(path.name, outcome.wall_s, size)
        label, more = check_outputs(path.name, work / "outputs", size)
        findings += more
        labels_dir = output_dir / LABELS_DIR
        if label is not None:
            (work / "outputs" / label.name).replace(labels_dir / label.name)
        ledger = _read_ledger(work / LEDGER_DIR, path.name)
    scores: tuple[Scores, ...] = ()
    if truth is not None and label is not None:
        scores, more = _score(path.name, labels_dir, label, truth)
        findings += more
    return ChallengeRecord(
        image=path.name,
        size=size,
        outcome=outcome,
        label=label,
        scores=scores,
        findings=tuple(findings),
        ledger=ledger,
    )


def _make_folders(path: Path, work: Path) -> None:
    """Create an input folder that holds only the image, and an empty output folder.

    Raises:
        OSError: if the image cannot be linked or copied.
    """
    (work / "inputs").mkdir()
    (work / "outputs").mkdir()
    target = work / "inputs" / path.name
    if path.is_dir():
        shutil.copytree(path, target)
        return
    with suppress(OSError):  # another file system, or one without links
        os.link(path.resolve(), target)
    if not target.exists():
        shutil.copyfile(path, target)


def _explain_copy(path: Path, error: OSError) -> Finding:
    """The finding about an image that cannot be copied for its run."""
    is_folder = isinstance(error, shutil.Error)
    reason = f"{len(error.args[0])} of its files" if is_folder else error.strerror or error
    return Finding(
        path.name,
        "image",
        f"one that cannot be copied for its run ({reason})",
        "a readable image and space in the output folder",
    )


def _read_ledger(folder: Path, image: str) -> dict[str, Any]:
    record = Ledger(folder).read().latest.get(image)
    return {} if record is None else record.to_dict()


def _score(
    image: str, labels_dir: Path, label: LabelFacts, truth: Path
) -> tuple[tuple[Scores, ...], list[Finding]]:
    """Scores at all thresholds, or a finding that says why there are none."""
    try:
        true, predicted = read_labels(truth), read_labels(labels_dir / label.name)
        return tuple(evaluate_labels(true, predicted)), []
    except MediarError as error:
        return (), [Finding(image, "score", str(error), "labels that fit the true ones")]
