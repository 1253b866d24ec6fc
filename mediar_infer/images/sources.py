"""Images in files and in memory as rows of three channels, read on demand."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError, ShapeError
from mediar_infer.images.array_likes import LazyArray, to_array
from mediar_infer.images.channels import (
    Picks,
    channel_notes,
    find_channels,
    pick_channels,
    to_three_channels,
    without_opacity,
)
from mediar_infer.images.faults import reading
from mediar_infer.images.geometry import Geometry

_REAL_KINDS: Final = "biuf"
"""Kinds of ``numpy.dtype`` that hold intensities: bool, integers, floats."""
_MAX_ITEM_BYTES: Final = 8
_Array = TypeVar("_Array", bound=AnyArray | LazyArray)


def holds_intensities(dtype: np.dtype[Any]) -> bool:
    """Whether a type is bool, integer or float of up to 64 bits."""
    return dtype.kind in _REAL_KINDS and dtype.itemsize <= _MAX_ITEM_BYTES


def check_samples(name: str, dtype: np.dtype[Any] | None, found: object = None) -> None:
    """Refuse a file whose samples are no intensities.

    Args:
        name: file name, for messages.
        dtype: type of the samples; None if numpy has none for them.
        found: what to call the type then.

    Raises:
        ImageReadError: if they are none.
    """
    if dtype is None or not holds_intensities(dtype):
        kind = found if dtype is None else dtype
        raise ImageReadError(
            f"{name}: found samples of type {kind}, expected integers or floats of up to 64 bits;"
            " convert the image"
        )


class ImageSource(ABC):
    """One 2-D image whose rows are read on demand as ``(rows, width, 3)``.

    Not for concurrent calls; a single background thread may read. Use as a context manager or
    call ``close``.
    """

    name: str
    """File name, for messages."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    dtype: np.dtype[Any]
    """Data type of the rows, native byte order; bool is read as uint8 0/1."""
    stored_dtype: np.dtype[Any]
    """Data type of the file; another one where the rows are computed from it."""
    warnings: tuple[str, ...]
    """What was decided in reading that a user may want to know, one sentence each."""
    geometry: Geometry | None
    """Place in space; None if the file states no size of its pixels."""
    channel_names: tuple[str, ...]
    """Name of each channel of ``read_channels``; empty where the file states none."""
    picked: Picks
    """Chosen channels of ``read_channels``; empty for the first three."""

    def __init__(
        self,
        name: str,
        *,
        height: int,
        width: int,
        dtype: np.dtype[Any],
        warnings: Iterable[str] = (),
        geometry: Geometry | None = None,
        channel_names: Sequence[str] = ("",),
        picked: Picks = (),
    ) -> None:
        self.name = name
        self.height = height
        self.width = width
        self.dtype = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
        self.stored_dtype = self.dtype
        self.warnings = tuple(warnings)
        self.geometry = geometry
        self.channel_names = tuple(channel_names)
        self.picked = picked

    @property
    def pixel_size_mm(self) -> tuple[float, float] | None:
        """Height and width of a pixel; None if the file states no size that is one."""
        return None if self.geometry is None else self.geometry.pixel_size_mm

    def read_rows(self, top: int, bottom: int) -> AnyArray:
        """Read the rows ``top`` … ``bottom - 1``.

        Args:
            top: first row.
            bottom: one past the last row; ``0 <= top <= bottom <= height``.

        Returns:
            ``(bottom - top, width, 3)`` of ``dtype``, C-contiguous, owned by the caller.

        Raises:
            ShapeError: if the rows are not inside the image.
            ImageReadError: if the file is damaged there.
        """
        rows = self._read_range(top, bottom)
        if self.picked:
            rows = pick_channels(rows, self.picked)
        return to_three_channels(rows).astype(self.dtype, copy=False)

    def read_channels(self, top: int, bottom: int) -> AnyArray:
        """Read the rows ``top`` … ``bottom - 1`` in all channels that were kept.

        Args:
            top: first row.
            bottom: one past the last row; ``0 <= top <= bottom <= height``.

        Returns:
            ``(bottom - top, width, C)`` of ``dtype``, a channel for each of ``channel_names``.

        Raises:
            ShapeError: if the rows are not inside the image.
            ImageReadError: if the file is damaged there.
        """
        rows = self._read_range(top, bottom)
        return (rows[:, :, None] if rows.ndim == 2 else rows).astype(self.dtype, copy=False)

    def _read_range(self, top: int, bottom: int) -> AnyArray:
        if not 0 <= top <= bottom <= self.height:
            raise ShapeError(
                f"{self.name}: rows {top} to {bottom} asked for, expected a range inside "
                f"0 to {self.height}"
            )
        with reading(self.name, f"pixels of rows {top} to {bottom}"):
            return self._read_channels(top, bottom)

    @abstractmethod
    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        """Rows as ``(rows, width)`` or ``(rows, width, channels)``, in any byte order.

        They are copied before anyone else sees them, so a view of a buffer will do.
        """

    def close(self) -> None:  # noqa: B027  (nothing to close for arrays)
        """Release the file; reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ArraySource(ImageSource):
    """An array in memory as an ``ImageSource``; the array is never modified."""

    def __init__(
        self,
        array: Any,  # noqa: ANN401  (see to_array)
        name: str = "array",
        *,
        has_alpha: bool = False,
        warnings: Iterable[str] = (),
        geometry: Geometry | None = None,
        channels: Sequence[str | int] = (),
        is_channels_last: bool = False,
    ) -> None:
        """Check the array and keep a reference to it.

        Args:
            array: ``(H, W)`` or ``(H, W, C)``, bool, integer or float of up to 64 bits: a numpy
                array, an array-like that is read by rows, a tensor, a Pillow image or nested lists.
            name: name for messages.
            has_alpha: the last channel is marked as opacity.
            warnings: sentences to start the warnings with.
            geometry: place in space.
            channels: numbers of the channels to read; by default the first three.
            is_channels_last: a third axis is known to be that of channels; otherwise an array that
                looks like ``(C, H, W)`` is refused.

        Raises:
            ImageReadError: if a channel does not exist.
            ShapeError: if the shape or the data type is not that of one 2-D image, or values are
                masked.
        """
        image, is_last_alpha, converted = to_array(array, name)
        image = _checked_image(image, name, is_channels_last=is_channels_last)
        notes = [*warnings, *converted]
        if image.ndim == 3:
            if (has_alpha or is_last_alpha) and isinstance(image, np.ndarray):
                image, more = without_opacity(image)
                notes += more
            notes += [] if channels else channel_notes(image.shape[2])
        n_channels = image.shape[2] if image.ndim == 3 else 1
        channel_names = ("",) * n_channels
        super().__init__(
            name,
            height=image.shape[0],
            width=image.shape[1],
            dtype=image.dtype,
            warnings=notes,
            geometry=geometry,
            channel_names=channel_names,
            picked=find_channels(name, channels, channel_names),
        )
        self._image = image

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        return self._image[top:bottom]


def _checked_image(image: _Array, name: str, *, is_channels_last: bool) -> _Array:
    found = f"{name}: found an array of shape {image.shape} and dtype {image.dtype}"
    if image.ndim not in (2, 3):
        raise ShapeError(f"{found}, expected (H, W) or (H, W, C); pass one 2-D image")
    if image.size == 0:
        raise ShapeError(f"{found}, expected at least one pixel and one channel")
    if not holds_intensities(image.dtype):
        raise ShapeError(
            f"{found}, expected bool, integers or floats of up to 64 bits; convert it first"
        )
    looks_channels_first = image.ndim == 3 and image.shape[0] <= 4 < min(image.shape[1:])
    if looks_channels_first and not is_channels_last:
        raise ShapeError(
            f"{found}, expected channels last (H, W, C); "
            "use numpy.moveaxis(image, 0, -1) for (C, H, W), or pass one plane of a stack"
        )
    return image
