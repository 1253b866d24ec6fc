"""Which weight files are used: folders that are searched, their manifests.

A weight file is a float16 safetensors file, as shipped in ``weights/``, or a pickled state dict
(``.pth``, ``.pt``), as published by the authors of MEDIAR.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mediar_infer.errors import CheckpointError
from mediar_infer.output_files import write_bytes

MANIFEST_NAME: Final = "manifest.json"
WEIGHTS_VARIABLE: Final = "MEDIAR_WEIGHTS"
MAX_MEMBERS: Final = 2
SUFFIXES: Final = (".safetensors", ".pth", ".pt")
PUBLISHED_PAIRS: Final = (("from_phase1", "from_phase2"), ("main_model", "sub_model"))
"""File names, without suffix, of the authors' pair, in the order of the ensemble."""
MODEL_DIR: Final = Path("/opt/ml/model")
"""Where platforms unpack the weights of a container image."""
_DEFAULT_DIRS = (
    MODEL_DIR,
    Path(__file__).resolve().parents[1] / "weights",  # of a wheel
    Path(__file__).resolve().parents[2] / "weights",  # of a checkout
    Path("/workspace/weights"),
)
_KEYS = ("sha256", "cell_diameter", "flow_threshold", "int8_sha256")
"""What a manifest says of a file."""
_LISTED = 4


def compute_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); expected a weight file"
        ) from error


@dataclass(frozen=True, slots=True)
class ListedWeights:
    """What a manifest says of a weight file."""

    digest: str
    """SHA-256 of the file, hexadecimal."""
    cell_diameter: float | None = None
    """Median diameter in pixels of the cells that the network was trained on, if known."""
    int8_digest: str | None = None
    """SHA-256 of the ranges of its int8 network, if they were made."""
    flow_threshold: float | None = None
    """Flow error above which its cells are removed by default, if one was found for it."""


def read_weights_manifest(folder: Path) -> dict[str, ListedWeights]:
    """File name → what was published with the weights; empty without a manifest.

    Raises:
        CheckpointError: if the manifest cannot be read or has another structure.
    """
    path = folder / MANIFEST_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): _to_listed(entry) for name, entry in entries.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: found no readable list of files ({type(error).__name__}: {error}),"
            " expected"
            ' {"files": {NAME: {"sha256": DIGEST}}}, perhaps with a "cell_diameter" in pixels,'
            ' a "flow_threshold" (both numbers) and an "int8_sha256";'
            " correct it, or restore it from where the weights are from"
        ) from error


def _to_listed(entry: Mapping[str, Any]) -> ListedWeights:
    diameter, threshold = _to_number(entry, "cell_diameter"), _to_number(entry, "flow_threshold")
    if diameter == 0:
        raise ValueError("cell_diameter 0")
    ranges = entry.get("int8_sha256")
    return ListedWeights(
        str(entry["sha256"]),
        diameter,
        None if ranges is None else str(ranges),
        threshold,
    )


def _to_number(entry: Mapping[str, Any], key: str) -> float | None:
    """A finite number that is not negative; None if it is not there."""
    value = entry.get(key)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"{key} {value!r}")
    return number


def write_weights_manifest(folder: Path, weights: Mapping[str, ListedWeights]) -> None:
    """Write the manifest of the weight files of a folder.

    Args:
        folder: where the files are.
        weights: file name → what is to be known of it, in the order of the ensemble. What people
            have added to a manifest of the same files stays.

    Raises:
        OutputError: if it cannot be written.
    """
    before = _read_plain(folder / MANIFEST_NAME)
    files: dict[str, dict[str, Any]] = {}
    for name, listed in weights.items():
        files[name] = {"sha256": listed.digest}
        if listed.cell_diameter is not None:
            files[name]["cell_diameter"] = round(listed.cell_diameter, 1)
        if listed.flow_threshold is not None:
            files[name]["flow_threshold"] = listed.flow_threshold
        if listed.int8_digest is not None:
            files[name]["int8_sha256"] = listed.int8_digest
        known = before.get("files", {}).get(name, {})
        if known.get("sha256") == listed.digest:
            files[name] |= {key: value for key, value in known.items() if key not in _KEYS}
    content = json.dumps(before | {"files": files}, indent=2, ensure_ascii=False)
    write_bytes(folder / MANIFEST_NAME, content.encode() + b"\n")


def _read_plain(path: Path) -> dict[str, Any]:
    """A manifest with everything in it; empty if there is none that can be read."""
    try:
        read_weights_manifest(path.parent)
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, CheckpointError):
        return {}
    return content


def weights_dirs(model_dir: Path = MODEL_DIR) -> list[Path]:
    """Folders that may hold weights: $MEDIAR_WEIGHTS if set, else platform and package."""
    named = os.environ.get(WEIGHTS_VARIABLE)
    return [Path(named)] if named else list(dict.fromkeys((model_dir, *_DEFAULT_DIRS)))


def default_weights_dir(model_dir: Path = MODEL_DIR) -> Path:
    """The first of the searched folders that holds weights.

    Raises:
        CheckpointError: if none does.
    """
    folders = weights_dirs(model_dir)
    for folder in folders:
        # A folder that cannot be entered holds none for this user.
        if os.access(folder, os.R_OK | os.X_OK) and folder.is_dir() and _list_weights(folder):
            return folder
    raise CheckpointError(
        f"found no weights in {', '.join(map(str, folders))}; expected {' or '.join(SUFFIXES)}"
        f" files; name them with --weights DIR or ${WEIGHTS_VARIABLE}"
    )


def find_weights(given: Sequence[Path] = (), model_dir: Path = MODEL_DIR) -> list[Path]:
    """Find the weight files of the ensemble, in its order.

    The first of these counts: the given paths, $MEDIAR_WEIGHTS, the model folder if it holds any,
    the pair that comes with the package.

    Args:
        given: one folder, or one or two files.
        model_dir: where the platform puts weights.

    Returns:
        One or two files.

    Raises:
        CheckpointError: if a file is missing, or a folder holds none, or more than two of which
            none are listed in a manifest or named as published.
    """
    if len(given) > MAX_MEMBERS:
        raise CheckpointError(f"found {len(given)} weight files, expected 1 or {MAX_MEMBERS}")
    if len(given) == 0 or (len(given) == 1 and os.path.isdir(given[0])):  # noqa: PTH112 (no error)
        return _weights_of_folder(given[0] if given else default_weights_dir(model_dir))
    for path in given:
        if not os.path.isfile(path):  # noqa: PTH113 (no error)
            beside = sorted(p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES)
            raise CheckpointError(
                f"{path}: there is no such weight file; beside it: {', '.join(beside) or 'none'}"
            )
    return list(given)


def _list_weights(folder: Path) -> list[Path]:
    try:
        files = (path for path in folder.iterdir() if path.suffix in SUFFIXES)
        return sorted(path for path in files if not path.name.startswith("."))  # of macOS
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be listed ({error.strerror or error}), expected a readable folder of"
            " weights; check its permissions"
        ) from error


def _weights_of_folder(folder: Path) -> list[Path]:
    listed = [folder / name for name in read_weights_manifest(folder)]
    missing = [path.name for path in listed if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: found no {', '.join(missing)}, expected all files of {MANIFEST_NAME};"
            " restore them from the release"
        )
    if listed:
        return listed[:MAX_MEMBERS]
    found = _list_weights(folder)
    for stems in PUBLISHED_PAIRS:
        pair = [path for stem in stems for path in found if path.stem == stem]
        if len(pair) == MAX_MEMBERS:
            return pair
    if not found:
        raise CheckpointError(
            f"{folder}: found 0 weight files, expected one or two ({', '.join(SUFFIXES)}); put them"
            " there or name another folder"
        )
    if len(found) > MAX_MEMBERS:
        raise CheckpointError(
            f"{folder}: found {len(found)} weight files"
            f" ({', '.join(p.name for p in found[:_LISTED])}), expected one or two; name them:"
            " --weights A B"
        )
    return found


def check_targets(
    weights: Sequence[Path],
    targets: Sequence[Path],
    listed: Mapping[str, ListedWeights],
    *,
    replaces: bool = False,
    advice: str = "remove it or choose another folder",
) -> None:
    """Refuse a conversion before its first file is written.

    Args:
        weights: files to convert.
        targets: what each becomes, in one folder.
        listed: content of that folder's manifest.
        replaces: whether existing targets may be replaced.
        advice: remedy for an existing target that may not.

    Raises:
        CheckpointError: if files would be overwritten, or the manifest would list too many.
    """
    if len(targets) < len(weights):
        raise CheckpointError(
            f"{weights[0]} and {weights[-1]}: found two files that would both become"
            f" {targets[0]}, expected different names; rename one"
        )
    for target in targets:
        if target.exists() and not replaces:
            raise CheckpointError(f"{target}: exists already; {advice}")
    names = list(dict.fromkeys([*listed, *(target.name for target in targets)]))
    if len(names) > MAX_MEMBERS:
        raise CheckpointError(
            f"{targets[0].parent / MANIFEST_NAME}: would list {len(names)} models"
            f" ({', '.join(names)}), expected at most {MAX_MEMBERS}; choose another folder"
        )
