"""Arrays, tensors and Pillow images as plain numpy arrays, or an error that says why not."""

import math
import sys
from typing import Any

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import MediarError, ShapeError
from mediar_infer.images.row_blocks import RowBlocks

_PLAIN_MODES = frozenset({"1", "L", "RGB", "RGBA", "LA", "I", "F", "I;16", "I;16B", "I;16L"})
"""Modes of Pillow whose numbers are intensities (and opacity)."""
_ALPHA_MODES = frozenset({"RGBA", "LA"})
_ROWS_AT_ONCE = 64
"""Of an array-like that does not say how it is divided."""


class LazyArray:
    """Rows of an array that is stored or computed in chunks, such as those of zarr, dask or HDF5.

    Args:
        array: has ``shape``, ``dtype`` and slices that numpy can read; ``chunks`` if it has any.
        name: for messages.
    """

    def __init__(self, array: Any, name: str) -> None:  # noqa: ANN401
        self._array, self._name = array, name
        self.shape = tuple(int(size) for size in array.shape)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.dtype = np.dtype(array.dtype)
        self._blocks = RowBlocks(self._compute, _find_chunk_rows(array))

    def __getitem__(self, rows: slice) -> AnyArray:
        """Consecutive rows, of which whole chunks are computed; the last of these are kept.

        Raises:
            ShapeError: if pixels are masked, which only the computed rows tell.
        """
        top, bottom, _ = rows.indices(self.shape[0])
        return self._blocks.rows(top, bottom)

    def _compute(self, number: int) -> AnyArray:
        step = self._blocks.step
        rows = self._array[number * step : (number + 1) * step]
        if hasattr(rows, "compute"):  # as an array, one of dask would lose its mask
            rows = rows.compute()
        return _without_mask(np.asanyarray(rows), self._name)


def _find_chunk_rows(array: Any) -> int:  # noqa: ANN401
    """Rows of a chunk: zarr and h5py name them once, dask for every chunk."""
    rows = (getattr(array, "chunks", None) or [_ROWS_AT_ONCE])[0]
    return max(1, int(rows if isinstance(rows, int) else max(rows)))


def _is_lazy(image: Any) -> bool:  # noqa: ANN401
    """Whether it is an array-like that is read by slices; what numpy holds already is not."""
    if isinstance(image, np.ndarray | np.generic):
        return False
    try:
        np.dtype(image.dtype)
        return len(image.shape) > 0 and callable(image.__getitem__)
    except (AttributeError, TypeError):
        return False


def to_array(
    image: Any,  # noqa: ANN401
    name: str,
) -> tuple[AnyArray | LazyArray, bool, tuple[str, ...]]:
    """Convert an image of any common kind to a numpy array, or to one that is read by rows.

    Args:
        image: an array, an array-like with shape, dtype and slices (of zarr, dask, HDF5), a torch
            tensor on any device, a Pillow image, a nested list.
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
        if _is_lazy(image):
            return LazyArray(image, name), False, ()
        return _without_mask(np.asanyarray(image), name), False, ()
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
    notes = []
    n_frames = getattr(image, "n_frames", 1)  # of files only
    if n_frames > 1:
        notes.append(
            f"the Pillow image has {n_frames} frames, of which number {image.tell()} is read;"
            " choose another with its seek"
        )
    if image.mode in _PLAIN_MODES:
        return np.asarray(image), image.mode in _ALPHA_MODES, tuple(notes)
    notes.append(f"the Pillow image of mode {image.mode} is converted to RGB")
    return np.asarray(image.convert("RGB")), False, tuple(notes)


def _without_mask(image: AnyArray, name: str) -> AnyArray:
    if np.ma.is_masked(image):
        n_masked = int(np.ma.getmaskarray(image).sum())
        raise ShapeError(
            f"{name}: found a masked array with {n_masked:,} masked values, expected a value for"
            " every pixel; fill them first, with numpy.nan in a float array for missing pixels"
        )
    return np.asarray(image)
