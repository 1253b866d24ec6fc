"""What the challenge expects of a run and its label file; every breach is a finding."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mediar_infer.challenge.launchers import RunOutcome
from mediar_infer.errors import ImageReadError
from mediar_infer.folder.console import printable_name
from mediar_infer.images.open import open_image
from mediar_infer.images.tiff_directories import tiff_file
from mediar_infer.labels.naming import label_path
from mediar_infer.labels.ome import parse_description
from mediar_infer.tolerance import counted_s, tolerance_s

Aspect = Literal[
    "image", "time", "memory", "exit status", "output", "file format", "data type", "shape", "ids",
    "score",
]  # fmt: skip
"""Which part of the contract a finding is about."""

_MAX_ID: Final = int(np.iinfo(np.int32).max)
_N_LISTED = 3
_GIB = 2**30
_LINE_COLUMNS = 200
_SIGKILL_CODES = (-9, 137)


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of the contract."""

    image: str
    """Name of the image, or of the file where there is none."""
    aspect: Aspect
    """Part of the contract."""
    found: str
    """What was found."""
    expected: str
    """What was expected."""

    def __str__(self) -> str:
        return f"{self.image}: {self.aspect}: found {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """A label file that could be read."""

    name: str
    """Its name."""
    dtype: str
    """Stored data type."""
    shape: tuple[int, ...]
    """Shape of the array that a reader returns."""
    n_cells: int
    """Ids other than 0."""
    sha256: str
    """SHA-256 digest of the file."""
    made_of: Mapping[str, Any]
    """Provenance from the JSON in the file's description; empty if there is none."""


def read_size(path: Path) -> tuple[tuple[int, int] | None, list[Finding]]:
    """Height and width of the decoded image, to which everything is compared.

    Returns:
        The size, or ``None`` and a finding if the image cannot be read.
    """
    try:
        with open_image(path) as source:
            return (source.height, source.width), []
    except ImageReadError as error:
        # The error itself says what was expected.
        found = str(error).removeprefix(f"{path.name}: ").removeprefix("found ")
        found = found.partition(", expected")[0]
        return None, [Finding(path.name, "image", found, "a readable image")]


def check_run(image: str, outcome: RunOutcome, memory_limit_bytes: int) -> list[Finding]:
    """Check how a run ended and how much memory it used.

    Args:
        image: name of the image.
        outcome: how the run went.
        memory_limit_bytes: most memory allowed; for a container, this limit must also be in force.
    """
    found = []
    limit = _in_gib(memory_limit_bytes)
    if outcome.timed_out:
        stopped = f"a run stopped after {outcome.wall_s:.1f} s"
        found.append(Finding(image, "exit status", stopped, "a run that ends by itself"))
    elif outcome.out_of_memory:
        killed = f"a run killed ({_exit_text(outcome)}), as the kernel does when memory"
        found.append(Finding(image, "memory", f"{killed} runs out", f"at most {limit}"))
    elif outcome.exit_code != 0:
        found.append(Finding(image, "exit status", _exit_text(outcome), "0"))
    peak = outcome.peak_memory_bytes
    if peak is not None and peak > memory_limit_bytes:
        found.append(Finding(image, "memory", f"a peak of {_in_gib(peak)}", f"at most {limit}"))
    if outcome.memory_limit_bytes not in (None, memory_limit_bytes):
        in_force = _in_gib(outcome.memory_limit_bytes or 0) if outcome.memory_limit_bytes else "no"
        found.append(Finding(image, "memory", f"{in_force} limit in force", limit))
    return found


def check_time(image: str, wall_s: float, size: tuple[int, int] | None) -> list[Finding]:
    """Check that an image is within its tolerance; one of unknown size is not checked."""
    if size is None or counted_s(wall_s, *size) == 0:
        return []
    return [Finding(image, "time", f"{wall_s:.2f} s", f"at most {tolerance_s(*size):.2f} s")]


def check_outputs(
    image: str, folder: Path, size: tuple[int, int] | None
) -> tuple[LabelFacts | None, list[Finding]]:
    """Check what a run on one image left in its output folder.

    Args:
        image: name of the image.
        folder: the output folder.
        size: height and width of the image; ``None`` if unknown.

    Returns:
        The label file, if it exists and is readable, and all findings.
    """
    expected = label_path(Path(), Path(image)).name
    entries = sorted(folder.iterdir())
    others = [each for each in entries if each.name != expected]
    found = []
    if len(others) == len(entries):
        names = _listed([each.name for each in others]) or "nothing"
        return None, [Finding(image, "output", names, expected)]
    if others:
        names = _listed([each.name for each in others])
        found.append(Finding(image, "output", f"{names} beside it", f"{expected} alone"))
    facts, more = check_label_file(image, folder / expected, size)
    return facts, found + more


def check_label_file(
    image: str, path: Path, size: tuple[int, int] | None
) -> tuple[LabelFacts | None, list[Finding]]:
    """Check one label file: TIFF, integers, 2-D, the size of its image, ids 1 … n.

    Args:
        image: name in the findings.
        path: the file.
        size: height and width of its image; ``None`` if unknown, which skips that check.

    Returns:
        What the file holds, if it can be read, and all findings.
    """
    if path.is_symlink() or not path.is_file():
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no file"
        return None, [Finding(image, "file format", f"{path.name} to be {kind}", "a TIFF file")]
    try:
        with tiff_file(path, "label image") as tif:
            labels = np.asarray(tif.asarray())
            description = str(tif.pages.first.description)
    except ImageReadError as error:
        reason = str(error).partition("(")[2].partition(")")[0] or str(error)
        found = f"{path.name} that cannot be read ({reason})"
        return None, [Finding(image, "file format", found, "a complete TIFF file")]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    n_cells, findings = _check_array(image, labels, size)
    made_of = parse_description(description)
    dtype = str(labels.dtype)
    return LabelFacts(path.name, dtype, labels.shape, n_cells, digest, made_of), findings


def _check_array(
    image: str, labels: npt.NDArray[Any], size: tuple[int, int] | None
) -> tuple[int, list[Finding]]:
    """Number of cells, and findings about data type, shape and ids."""
    found = []
    if labels.dtype.kind not in "iu":
        found.append(Finding(image, "data type", str(labels.dtype), "integers"))
    if labels.ndim != 2 or (size is not None and labels.shape != size):
        wanted = "(height, width)" if size is None else str(size)
        found.append(Finding(image, "shape", str(labels.shape), wanted))
    if labels.dtype.kind not in "iub" or labels.size == 0:
        return 0, found
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > _MAX_ID:
        expected = f"0 to {_MAX_ID}, which fit int32"
        found.append(Finding(image, "ids", f"{low} to {high}", expected))
        return int(np.unique(labels[labels > 0]).size), found
    ids = _find_ids(labels, high)
    if ids.size != high:
        listed = ""
        if high <= labels.size:
            listed = f" without {_listed(np.setdiff1d(np.arange(1, high + 1), ids))}"
        text = f"{ids.size} ids up to {high}{listed}"
        found.append(Finding(image, "ids", text, f"1 to {ids.size} without gaps"))
    return int(ids.size), found


def _find_ids(labels: npt.NDArray[Any], high: int) -> npt.NDArray[Any]:
    """All ids other than 0, ascending; by a table of flags where ids are dense enough."""
    if high > labels.size:
        ids = np.unique(labels)
        return ids[ids > 0]
    is_there = np.zeros(high + 1, np.bool_)
    for row in labels.reshape(-1, labels.shape[-1]):  # as one index, labels would become int64
        is_there[row.astype(np.intp)] = True
    return np.flatnonzero(is_there[1:]) + 1


def _exit_text(outcome: RunOutcome) -> str:
    code = outcome.exit_code
    text = f"signal {-code}" if code is not None and code < 0 else str(code)
    last = "" if code in _SIGKILL_CODES else (outcome.log.splitlines() or [""])[-1]
    last = printable_name(last, _LINE_COLUMNS)
    return f"{text} ({last})" if last else text


def _in_gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:.3g} GiB"


def _listed(names: Sequence[object] | npt.NDArray[Any]) -> str:
    more = len(names) - _N_LISTED
    return ", ".join(str(each) for each in names[:_N_LISTED]) + (
        f" and {more} more" if more > 0 else ""
    )
