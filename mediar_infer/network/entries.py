"""The entries of a weight file: safetensors or a pickled state dict, read without running code.

Entries are numpy arrays, and torch is imported only for what needs it: a new process reads its
weights while another thread still imports torch.
"""

import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mediar_infer.devices import require_torch
from mediar_infer.errors import CheckpointError, list_some

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

FIRST_ENTRY: Final = "encoder.patch_embed1.proj.weight"
"""Entry that every MEDIAR-Former has, by which its state dict is recognised."""

_LISTED = 4
_CONVERT = ", or convert it to safetensors where torch is, by 'weights convert'"
_FETCH_AGAIN = "the file is damaged or of another kind; fetch it again"
# Files that failed downloads leave: first bytes, kind, remedy.
_IMPOSTORS = (
    (
        re.compile(rb"\s*(<!doctype html|<html|<\?xml|<head)", re.IGNORECASE),
        "a web page",
        "download the file itself and not the page that links to it",
    ),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer", "fetch it with 'git lfs pull'"),
)
_LOOKED_AT_BYTES = 512
# What the libraries raise on damaged files; torch's unpickler checks little.
_FOREIGN_ERRORS = (
    SafetensorError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)


def read_entries(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all entries of a weight file.

    A state dict may lie in a dictionary of other things (``{"state_dict": …}``), and its names may
    have a common prefix (``module.``); both are undone.

    Args:
        path: ``.safetensors``, or a ``.pth``/``.pt`` file written by ``torch.save``.

    Returns:
        Name → values as stored; float types that numpy lacks, such as bfloat16, as float32.

    Raises:
        CheckpointError: if the file is damaged, of another kind, or holds more than tensors.
    """
    try:
        _check_kind(path)
        entries = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {_FETCH_AGAIN}") from error
    except _FOREIGN_ERRORS as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: found something other than tensors, which could run code when it"
                f" is loaded ({refused[1]}); expected a plain state dict:"
                " torch.save(model.state_dict(), FILE)"
            ) from error
        # Of a long explanation by torch, what its unpickler met counts.
        text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        reason = f"{type(error).__name__}: {text.strip()}".partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); {_FETCH_AGAIN}") from error
    return _without_prefix(path, entries)


def _check_kind(path: Path) -> None:
    with path.open("rb") as file:
        beginning = file.read(_LOOKED_AT_BYTES)
    if not beginning:
        raise CheckpointError(f"{path}: found an empty file, expected weights; fetch it again")
    for pattern, kind, remedy in _IMPOSTORS:
        if pattern.match(beginning):
            raise CheckpointError(f"{path}: found {kind}, expected weights; {remedy}")


def _to_arrays(tensors: "Mapping[str, Tensor]") -> dict[str, npt.NDArray[Any]]:
    """The same memory as arrays; float types that numpy lacks are widened."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in tensors.items():
        try:
            arrays[name] = tensor.numpy()
        except TypeError:
            arrays[name] = tensor.float().numpy()
    return arrays


def _read_safetensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        arrays: dict[str, npt.NDArray[Any]] = load_file(path)
    except (TypeError, AttributeError):  # a type that numpy lacks
        require_torch(f"{path}: numbers of a type such as bfloat16", advice=_CONVERT)
        from safetensors.torch import load_file as load_tensors

        return _to_arrays(load_tensors(path))
    return arrays


def _read_pickle(path: Path) -> dict[str, npt.NDArray[Any]]:
    require_torch(f"{path}: a pickled state dict", advice=_CONVERT)
    import torch

    # Files of torch before 1.6 are no archives and cannot be mapped.
    is_archive = zipfile.is_zipfile(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    tensors = _find_state_dict(path, content)
    for name, tensor in tensors.items():
        n_stored = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > n_stored:
            raise CheckpointError(
                f"{path}: found {tuple(tensor.shape)} in {name} with {n_stored} stored values,"
                " expected a value for each element; save it contiguous:"
                " torch.save({k: v.contiguous() for k, v in model.state_dict().items()}, FILE)"
            )
    return _to_arrays({name: tensor.detach() for name, tensor in tensors.items()})


def _is_state_dict(content: object) -> bool:
    import torch

    return isinstance(content, dict) and all(isinstance(v, torch.Tensor) for v in content.values())


def _find_state_dict(path: Path, content: Any) -> "dict[str, Tensor]":  # noqa: ANN401 (any pickle)
    """The state dict that a checkpoint is or contains."""
    if _is_state_dict(content):
        tensors: dict[str, Tensor] = content
        return tensors
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: found {type(content).__name__}, expected a plain state dict of tensors;"
            " save model.state_dict() alone"
        )
    inside = {key: value for key, value in content.items() if value and _is_state_dict(value)}
    networks = {
        key: value
        for key, value in inside.items()
        if any(str(name).endswith(FIRST_ENTRY) for name in value)
    }
    if len(networks) == 1:
        [(key, tensors)] = networks.items()
        logger.info("%s: weights are those under %r", path, key)
        return tensors
    found = f"networks under {', '.join(map(repr, networks))}" if networks else "none"
    raise CheckpointError(
        f"{path}: found {type(content).__name__} (keys: {list_some(content, _LISTED)};"
        f" state dicts of a MEDIAR-Former: {found}), expected one; save model.state_dict() alone"
    )


def _without_prefix(
    path: Path, entries: dict[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Remove what wrappers (data parallel, ``torch.compile``) put before every name."""
    for name in entries:
        prefix = str(name).removesuffix(FIRST_ENTRY)
        if prefix and prefix != name and all(str(n).startswith(prefix) for n in entries):
            logger.info("%s: prefix %r removed from all entries", path, prefix)
            return {n.removeprefix(prefix): values for n, values in entries.items()}
    return entries


def check_finite_entries(path: Path, entries: Mapping[str, npt.NDArray[Any]]) -> None:
    """Check that networks with these entries compute finite numbers.

    Raises:
        CheckpointError: if an entry of ``path`` holds NaN or infinity, or a variance is negative.
    """
    broken = [
        name
        for name, values in entries.items()
        if values.dtype.kind == "f" and not bool(np.isfinite(values).all())
    ]
    if broken:
        raise CheckpointError(
            f"{path}: found NaN or infinity in {len(broken)} entries"
            f" ({', '.join(broken[:_LISTED])}), expected finite weights; the training that produced"
            " them diverged"
        )
    negative = [
        name
        for name, values in entries.items()
        if str(name).endswith("running_var") and values.dtype.kind == "f" and (values < 0).any()
    ]
    if negative:
        raise CheckpointError(
            f"{path}: found negative variances in {len(negative)} entries"
            f" ({', '.join(negative[:_LISTED])}), expected 0 or more; {_FETCH_AGAIN}"
        )
