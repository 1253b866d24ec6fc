"""Weight files → networks: found, verified by checksum, read without unpickling code, strict.

Two formats: float16 safetensors, as shipped in ``weights/`` with a manifest of SHA-256 digests,
and the plain pickled state dicts (``.pth``) of the published MEDIAR checkpoints. The architecture
is read from the shapes, so any MEDIAR-Former loads without a configuration file.

Entries are held as numpy arrays, and torch is imported where a step needs it: a new process reads
its weights while another thread still imports torch.
"""

import hashlib
import json
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mediar_infer.errors import CheckpointError
from mediar_infer.network.architecture import Architecture
from mediar_infer.output_files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from mediar_infer.network.model import MediarFormer

logger = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
WEIGHTS_VARIABLE = "MEDIAR_WEIGHTS"
MAX_MEMBERS = 2
SUFFIXES = (".safetensors", ".pth", ".pt")
PUBLISHED_PAIRS = (("from_phase1", "from_phase2"), ("main_model", "sub_model"))
"""Stems under which the authors' pair is found, in the order of the ensemble."""
MODEL_DIR = Path("/opt/ml/model")
"""Where platforms unpack the weights of an image."""
_DEFAULT_DIRS = (
    MODEL_DIR,
    Path(__file__).resolve().parents[1] / "weights",  # of a wheel
    Path(__file__).resolve().parents[2] / "weights",  # of a checkout
    Path("/workspace/weights"),
)
_LISTED = 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A weight file that has been read."""

    path: Path
    """Where it was read from."""
    digest: str
    """SHA-256 of the file."""
    architecture: Architecture
    """Sizes of the network, read from the shapes."""
    entries: Mapping[str, npt.NDArray[Any]]
    """Entries as stored; types that numpy lacks, such as bfloat16, as float32."""

    @property
    def n_parameters(self) -> int:
        """Trainable numbers; statistics of BatchNorm are not counted."""
        return sum(
            values.size
            for name, values in self.entries.items()
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )

    @property
    def state_dict(self) -> "dict[str, Tensor]":
        """The entries as tensors that share their memory."""
        import torch

        return {name: torch.from_numpy(values) for name, values in self.entries.items()}


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


def read_manifest(folder: Path) -> dict[str, str]:
    """File name → SHA-256 as published with the weights; empty without a manifest.

    Raises:
        CheckpointError: if the manifest is not what it should be.
    """
    path = folder / MANIFEST_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): str(entry["sha256"]) for name, entry in entries.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: found no readable list of files ({error!r}), expected"
            ' {"files": {NAME: {"sha256": DIGEST}}}; restore it from the release'
        ) from error


def write_manifest(folder: Path, digests: Mapping[str, str]) -> None:
    """Write the digests of weight files beside them."""
    files = {name: {"sha256": digest} for name, digest in digests.items()}
    write_bytes(folder / MANIFEST_NAME, json.dumps({"files": files}, indent=2).encode() + b"\n")


def weights_dirs(model_dir: Path = MODEL_DIR) -> list[Path]:
    """Folders that may hold weights: $MEDIAR_WEIGHTS if set, else platform and package."""
    named = os.environ.get(WEIGHTS_VARIABLE)
    return [Path(named)] if named else list(dict.fromkeys((model_dir, *_DEFAULT_DIRS)))


def default_weights_dir(model_dir: Path = MODEL_DIR) -> Path:
    """The first folder with weights.

    Raises:
        CheckpointError: if there is none.
    """
    folders = weights_dirs(model_dir)
    for folder in folders:
        if folder.is_dir() and _list_weights(folder):
            return folder
    raise CheckpointError(
        f"found no weights in {', '.join(map(str, folders))}; expected {' or '.join(SUFFIXES)}"
        f" files; give them with --weights DIR or ${WEIGHTS_VARIABLE}"
    )


def find_weights(given: Sequence[Path] = (), model_dir: Path = MODEL_DIR) -> list[Path]:
    """Find the weight files of the ensemble, in its order.

    The first of these that is there counts: the given ones, $MEDIAR_WEIGHTS, the model folder if it
    holds any, the pair that comes with the package.

    Args:
        given: one folder, or one or two files.
        model_dir: where the platform puts weights.

    Returns:
        One or two files.

    Raises:
        CheckpointError: if a file is missing, or a folder holds none or more than two that cannot
            be told apart.
    """
    if len(given) > MAX_MEMBERS:
        raise CheckpointError(f"found {len(given)} weight files, expected 1 or {MAX_MEMBERS}")
    if len(given) == 0 or (len(given) == 1 and given[0].is_dir()):
        return _weights_of_folder(given[0] if given else default_weights_dir(model_dir))
    for path in given:
        if not path.is_file():
            beside = sorted(p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES)
            raise CheckpointError(
                f"{path}: there is no such weight file; beside it: {', '.join(beside) or 'none'}"
            )
    return list(given)


def _list_weights(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be listed ({error.strerror or error}), expected a readable folder of"
            " weights; check its permissions"
        ) from error


def _weights_of_folder(folder: Path) -> list[Path]:
    listed = [folder / name for name in read_manifest(folder)]
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
    except TypeError:  # a type that numpy lacks
        from safetensors.torch import load_file as load_tensors

        return _to_arrays(load_tensors(path))
    return arrays


def _read_pickle(path: Path) -> dict[str, npt.NDArray[Any]]:
    import torch

    # Files of torch before 1.6 are no archives and cannot be mapped.
    is_archive = zipfile.is_zipfile(path)
    entries = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    if not isinstance(entries, dict) or not all(
        isinstance(value, torch.Tensor) for value in entries.values()
    ):
        keys = ", ".join(map(str, list(entries)[:_LISTED])) if isinstance(entries, dict) else "none"
        raise CheckpointError(
            f"{path}: found {type(entries).__name__} (keys: {keys}), expected a plain state dict of"
            " tensors; save model.state_dict() alone"
        )
    return _to_arrays({name: tensor.detach() for name, tensor in entries.items()})


def _read_entries(path: Path) -> dict[str, npt.NDArray[Any]]:
    damaged = "the file is damaged or of another kind; fetch it again"
    try:
        if path.stat().st_size == 0:
            raise CheckpointError(f"{path}: found an empty file, expected weights; fetch it again")
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {damaged}") from error
    except (SafetensorError, zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); {damaged}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: found something other than tensors, which could run code when it is loaded;"
            " expected a plain state dict: torch.save(model.state_dict(), FILE)"
        ) from error


def read_architecture(entries: Mapping[str, npt.NDArray[Any]]) -> Architecture:
    """Read all sizes of a MEDIAR-Former from the shapes of its state dict.

    Raises:
        KeyError: if an entry that tells a size is missing.
    """

    def count(pattern: str) -> int:
        found = [int(m[1]) for name in entries if (m := re.match(pattern, name))]
        return max(found, default=-1) + 1

    def reduction(stage: int) -> int:
        kernel = entries.get(f"encoder.block{stage}.0.attn.sr.weight")
        return 1 if kernel is None else int(kernel.shape[-1])

    stages = (1, 2, 3, 4)
    fc1 = entries["encoder.block1.0.mlp.fc1.weight"]
    n_blocks = count(r"decoder\.blocks\.(\d+)\.")
    return Architecture(
        encoder_channels=tuple(
            entries[f"encoder.patch_embed{stage}.proj.weight"].shape[0] for stage in stages
        ),
        depths=tuple(count(rf"encoder\.block{stage}\.(\d+)\.") for stage in stages),
        decoder_channels=tuple(
            entries[f"decoder.blocks.{i}.conv1.0.weight"].shape[0] for i in range(n_blocks)
        ),
        pab_channels=entries["decoder.center.top_conv.weight"].shape[0],
        reductions=tuple(reduction(stage) for stage in stages),
        mlp_ratio=fc1.shape[0] // fc1.shape[1],
    )


@lru_cache(maxsize=MAX_MEMBERS)
def _expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    import torch

    from mediar_infer.network.model import MediarFormer

    with torch.device("meta"):
        entries = MediarFormer(architecture).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in entries.items()}


def _check_finite(path: Path, entries: Mapping[str, npt.NDArray[Any]]) -> None:
    broken = [
        name
        for name, values in entries.items()
        if values.dtype.kind == "f" and not bool(np.isfinite(values).all())
    ]
    if broken:
        raise CheckpointError(
            f"{path}: found NaN or infinity in {len(broken)} entries"
            f" ({', '.join(broken[:_LISTED])}), expected finite weights; the training that made"
            " them diverged"
        )


def check_entries(checkpoint: Checkpoint) -> None:
    """Check that a checkpoint has the entries of its network, all of them and no others.

    Raises:
        CheckpointError: if one is missing, unexpected or of another shape.
    """
    path, entries = checkpoint.path, checkpoint.entries
    try:
        expected = _expected_shapes(checkpoint.architecture)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise _no_network(path, entries, error) from error
    missing = sorted(expected.keys() - entries.keys())
    unexpected = sorted(entries.keys() - expected.keys())
    reshaped = [
        f"{name} {entries[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in entries and entries[name].shape != shape
    ]
    if missing or unexpected or reshaped:
        problems = [
            f"{len(names)} {kind} ({', '.join(names[:_LISTED])}{', …' * (len(names) > _LISTED)})"
            for names, kind in (
                (missing, "keys missing"), (unexpected, "unexpected"), (reshaped, "of wrong shape")
            )
            if names
        ]  # fmt: skip
        raise CheckpointError(
            f"{path}: {'; '.join(problems)}; expected a MEDIAR-Former state dict, see README"
            ' "Weights"'
        )


def _no_network(
    path: Path, entries: Mapping[str, npt.NDArray[Any]], error: Exception
) -> CheckpointError:
    names = ", ".join(map(str, list(entries)[:_LISTED]))
    return CheckpointError(
        f"{path}: found {len(entries)} entries ({names}, …) without {error}, expected a"
        ' MEDIAR-Former state dict, see README "Weights"'
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weight file and find out what it holds; safetensors need no torch for that.

    A file that a manifest in its folder lists must have the digest given there.

    Args:
        path: ``.safetensors``, or a ``.pth``/``.pt`` state dict.

    Returns:
        The entries as stored and all that was learnt from them; ``check_entries`` is still to do.

    Raises:
        CheckpointError: if it is missing, damaged, swapped, not finite, or no MEDIAR-Former.
    """
    digest = compute_digest(path)
    expected = read_manifest(path.parent).get(path.name)
    if expected not in (None, digest):
        raise CheckpointError(
            f"{path}: found SHA-256 {digest[:16]}…, expected {str(expected)[:16]}… of"
            f" {MANIFEST_NAME}; the file is damaged or was swapped; restore it, or put your own"
            " weights into another folder"
        )
    entries = _read_entries(path)
    try:
        architecture = read_architecture(entries)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _no_network(path, entries, error) from error
    _check_finite(path, entries)
    return Checkpoint(path, digest, architecture, entries)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check a weight file.

    Raises:
        CheckpointError: see ``read_checkpoint`` and ``check_entries``.
    """
    checkpoint = read_checkpoint(path)
    check_entries(checkpoint)
    return checkpoint


def build_model(checkpoint: Checkpoint) -> "MediarFormer":
    """Make the network of a checkpoint, float32, in evaluation mode, without initialising it."""
    import torch

    from mediar_infer.network.model import MediarFormer

    with torch.device("meta"):
        model = MediarFormer(checkpoint.architecture)
    entries = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.state_dict.items()
    }
    model.load_state_dict(entries, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def save_weights(state_dict: "Mapping[str, Tensor]", path: Path) -> None:
    """Write a state dict as float16 safetensors.

    Integers stay as they are, and so does a tensor that float16 cannot hold: the variance of a
    BatchNorm may pass 65,504, and is a few numbers only.

    Raises:
        CheckpointError: if a weight is NaN or infinite.
        OutputError: if the file cannot be written.
    """
    import torch
    from safetensors.torch import save

    compact = {}
    for name, tensor in state_dict.items():
        value = tensor.detach().cpu().contiguous()
        if value.is_floating_point():
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"{path}: {name} is not finite, expected numbers")
            half = value.half()
            value = half if bool(torch.isfinite(half).all()) else value.float()
        compact[name] = value
    write_bytes(path, save(compact))


def check_targets(
    weights: Sequence[Path],
    targets: Sequence[Path],
    listed: Mapping[str, str],
    *,
    replaces: bool = False,
    advice: str = "remove it or choose another folder",
) -> None:
    """Refuse a conversion before its first file is written.

    Args:
        weights: files to convert.
        targets: what each becomes, in one folder.
        listed: what the manifest of that folder lists.
        replaces: targets may exist.
        advice: what to do about one that does.

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
