"""Start weights of an encoder that was trained on ImageNet-1k.

Files of ``segmentation_models_pytorch`` (downloaded or given) and the authors' SegFormer files name
the entries as ours do, without the prefix ``encoder.`` and with the classifier's ``head``.
"""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mediar_infer.errors import CheckpointError

logger = logging.getLogger(__name__)

_PREFIX: Final = "encoder."
_DROPPED_PREFIXES: Final = ("module.", "encoder.", "backbone.")
_CLASSIFIER: Final = "head."
_LISTED: Final = 4
_UNREADABLE: Final = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    pickle.UnpicklingError,
    SafetensorError,
)


def load_encoder(model: nn.Module, encoder: str, weights: str) -> None:
    """Put trained weights into a network's encoder.

    Args:
        model: network with ``encoder.*`` entries; modified.
        encoder: ``mit_b0`` … ``mit_b5``.
        weights: ``imagenet``, which is downloaded once and cached, or a file.

    Raises:
        CheckpointError: if the file is missing, damaged or of another encoder, or cannot be
            downloaded.
    """
    entries = _download(encoder) if weights == "imagenet" else _read(Path(weights))
    put_encoder(model, entries, f"{encoder} ({weights})")


def put_encoder(model: nn.Module, entries: Mapping[str, Tensor], origin: str) -> None:
    """Put entries under their published names into a network's encoder, strictly.

    Args:
        model: modified.
        entries: with or without a prefix; the classifier's are skipped.
        origin: for messages.

    Raises:
        CheckpointError: if names or shapes are not those of the network's encoder.
    """
    found = {
        _PREFIX + stripped: value
        for name, value in entries.items()
        if not (stripped := _strip(name)).startswith(_CLASSIFIER)
    }
    state = model.state_dict()
    expected = {name: value for name, value in state.items() if name.startswith(_PREFIX)}
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    shaped = [
        f"{name} {tuple(found[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    if missing or unexpected or shaped:
        raise CheckpointError(
            f"{origin}: found {_list(missing)} missing, {_list(unexpected)} unexpected, shapes"
            f" {_list(shaped)}; expected the weights of the network's encoder; change [model]"
            " encoder or encoder_weights"
        )
    model.load_state_dict({**state, **found})
    logger.info("encoder: %d entries from %s", len(found), origin)


def _strip(name: str) -> str:
    for prefix in _DROPPED_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _list(names: list[str]) -> str:
    if not names:
        return "0"
    return f"{len(names)} ({', '.join(names[:_LISTED])})"


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        entries = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: found no such file, expected encoder weights, or encoder_weights ="
            ' "imagenet" to download them'
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: cannot be read ({str(error).partition(chr(10))[0]}); expected a state dict"
        ) from error
    if isinstance(entries, dict) and isinstance(entries.get("state_dict"), dict):
        entries = entries["state_dict"]
    if not isinstance(entries, dict) or not all(isinstance(v, Tensor) for v in entries.values()):
        raise CheckpointError(f"{path}: found something else, expected a state dict of tensors")
    return entries


def _download(encoder: str) -> Mapping[str, Tensor]:
    try:
        from segmentation_models_pytorch.encoders import get_encoder
    except ImportError as error:
        raise CheckpointError(
            f"{encoder}: found no segmentation_models_pytorch ({error}), which downloads the"
            " weights; pip install 'mediar-infer[training]', or name a file"
        ) from error
    try:
        model = get_encoder(encoder, weights="imagenet")
    except OSError as error:
        raise CheckpointError(
            f"{encoder}: the ImageNet weights cannot be downloaded ({error}); connect to the"
            " internet once, or name a file: [model] encoder_weights = FILE"
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state
