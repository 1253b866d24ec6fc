"""What an int8 network needs beyond its weights: the ranges of what is rounded; needs no OpenVINO.

Calibration finds, for each layer that is computed in int8, the range of its input and of each of
its kernels. They lie beside the weights in ``NAME.int8``, about 25 kB; graph and weights stay as
they are. So there is one copy of the weights, and one graph serves both members in either format.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mediar_infer.arrays import Float32Array
from mediar_infer.errors import CheckpointError
from mediar_infer.network.checkpoints import Checkpoint
from mediar_infer.network.weight_files import (
    MANIFEST_NAME,
    compute_digest,
    read_weights_manifest,
)
from mediar_infer.output_files import write_bytes

QUANTISE_COMMAND: Final = "python -m mediar_infer.training quantize"
"""Makes the file of ranges; needs the extra ``training``."""
WEIGHTS_INPUT: Final = 1
"""Number of the input of a layer that takes its weights."""
_SUFFIX: Final = ".int8"
_OF_WEIGHTS: Final = "weights_sha256"


@dataclass(frozen=True, slots=True)
class Int8Ranges:
    """Calibrated ranges of one network."""

    path: Path
    """Where they were read from."""
    digest: str
    """SHA-256 of the file."""
    bounds: Mapping[str, Float32Array]
    """``LAYER:INPUT`` → lowest and highest value that is not clipped, ``(2, …)``; the rest of the
    shape broadcasts to that of the input: one range for a map, one per kernel for weights."""

    @property
    def n_layers(self) -> int:
        """Number of layers that are computed in int8."""
        return sum(place.endswith(f":{WEIGHTS_INPUT}") for place in self.bounds)


def ranges_path(weights: Path) -> Path:
    """Where the ranges of a weight file lie."""
    return weights.with_suffix(_SUFFIX)


def require_ranges(weights: Path) -> Path:
    """The file of ranges beside a weight file.

    Raises:
        CheckpointError: if there is none.
    """
    path = ranges_path(weights)
    if not path.is_file():
        raise CheckpointError(
            f"{weights}: found no {path.name} beside it, expected the ranges of its int8 network"
            f" for --precision int8; make them with '{QUANTISE_COMMAND} {weights} --table"
            " TABLE.csv', or use --precision float32"
        )
    return path


def read_ranges(checkpoint: Checkpoint) -> Int8Ranges:
    """Read the ranges that were calibrated for a checkpoint.

    Args:
        checkpoint: the weights.

    Raises:
        CheckpointError: if the file is missing, damaged, swapped, or made for other weights.
    """
    path = require_ranges(checkpoint.path)
    again = f"make them again with '{QUANTISE_COMMAND} {checkpoint.path} --table TABLE.csv'"
    digest = compute_digest(path)
    listed = read_weights_manifest(path.parent).get(checkpoint.path.name)
    expected = None if listed is None else listed.int8_digest
    if expected is not None and expected != digest:
        raise CheckpointError(
            f"{path}: found SHA-256 {digest[:16]}…, expected {expected[:16]}… of {MANIFEST_NAME};"
            f" the file is damaged or was swapped; restore it, or {again}"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            weights = (file.metadata() or {}).get(_OF_WEIGHTS, "")
            bounds = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({type(error).__name__}: {error}), expected ranges of an int8"
            f" network; {again}"
        ) from error
    if weights != checkpoint.digest:
        raise CheckpointError(
            f"{path}: found ranges for weights of SHA-256 {weights[:16]}…, expected"
            f" {checkpoint.digest[:16]}… of {checkpoint.path.name}; {again}"
        )
    _check_bounds(path, bounds, again)
    return Int8Ranges(path, digest, bounds)


def _check_bounds(path: Path, bounds: Mapping[str, Float32Array], remedy: str) -> None:
    broken = [
        name
        for name, each in bounds.items()
        if each.dtype != np.float32
        or each.shape[:1] != (2,)
        or not bool(np.isfinite(each).all() and (each[0] < each[1]).all())
    ]
    if broken or not bounds:
        found = f"{broken[0]} without a range" if broken else "no ranges"
        raise CheckpointError(
            f"{path}: found {found}, expected finite numbers, each lowest below its highest;"
            f" {remedy}"
        )


def write_ranges(checkpoint: Checkpoint, bounds: Mapping[str, Float32Array]) -> Path:
    """Write ranges beside the weights they were calibrated for, complete or not at all.

    Raises:
        OutputError: if the file cannot be written.
    """
    path = ranges_path(checkpoint.path)
    arrays = {name: np.ascontiguousarray(values) for name, values in sorted(bounds.items())}
    write_bytes(path, save(arrays, {_OF_WEIGHTS: checkpoint.digest}))
    return path
