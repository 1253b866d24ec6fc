"""Arrays, tensors and Pillow images as plain numpy arrays, or an error that says why not."""

import sys
from typing import Any

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import MediarError, ShapeError

_PLAIN_MODES = frozenset({"1", "L", "RGB", "RGBA", "LA", "I", "F", "I;16", "I;16B", "I;16L"})
"""Modes of Pillow whose numbers are intensities (and opacity)."""
_ALPHA_MODES = frozenset({"RGBA", "LA"})


def to_array(image: Any, name: str) -> tuple[AnyArray, bool, tuple[str, ...]]:  # noqa: ANN401
    """Convert an image of any common kind to a numpy array.

    Args:
        image: an array, a torch tensor on any device, a Pillow image, a nested list.
        name: for messages.

    Returns:
        The array (shared where possible), whether its last channel is opacity, and sentences about
        what was converted.

    Raises:
        ShapeError: if pixels are masked, or it cannot be converted.
    """
    try:
        if _is_from("torch", "Tensor", image):
            return _from_tensor(image), False, ()
        if _is_from("PIL.Image", "Image", image):
            return _from_pillow(image)
        if isinstance(image, np.ma.MaskedArray):
            return _from_masked(image, name), False, ()
        return np.asarray(image), False, ()
    except MediarError:
        raise
    except Exception as exc:
        raise ShapeError(
            f"{name}: found a {type(image).__name__} that numpy cannot read"
            f" ({type(exc).__name__}: {exc}), expected (H, W) or (H, W, C) of numbers; convert it"
            " to a numpy array first"
        ) from exc


def _is_from(module: str, kind: str, image: object) -> bool:
    """Whether it is an instance of a class; a module that is not imported yet has no instances."""
    found = getattr(sys.modules.get(module), kind, None)
    return isinstance(found, type) and isinstance(image, found)


def _from_tensor(tensor: Any) -> AnyArray:  # noqa: ANN401
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # numpy has no such type; float32 holds every value
        tensor = tensor.float()
    return np.asarray(tensor.resolve_conj().resolve_neg().numpy())


def _from_pillow(image: Any) -> tuple[AnyArray, bool, tuple[str, ...]]:  # noqa: ANN401
    if image.mode in _PLAIN_MODES:
        return np.asarray(image), image.mode in _ALPHA_MODES, ()
    note = f"the Pillow image of mode {image.mode} is converted to RGB"
    return np.asarray(image.convert("RGB")), False, (note,)


def _from_masked(image: "np.ma.MaskedArray[Any, Any]", name: str) -> AnyArray:
    n_masked = int(np.ma.getmaskarray(image).sum())
    if n_masked:
        raise ShapeError(
            f"{name}: found a masked array with {n_masked:,} masked values, expected a value for"
            " every pixel; fill them first, with numpy.nan in a float array for missing pixels"
        )
    return np.asarray(image.data)
