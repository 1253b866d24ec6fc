"""TIFF images read by rows: only the strips or tiles that are asked for are decoded."""

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError
from mediar_infer.images.channel_names import tiff_channel_names
from mediar_infer.images.channels import (
    DROPPED_OPACITY,
    KEPT_OPACITY,
    Picks,
    channel_notes,
    find_channels,
    keep_picked,
)
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.file_bytes import FileBytes
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.pixel_size import tiff_geometry
from mediar_infer.images.sources import ImageSource
from mediar_infer.images.tiff_compressions import find_lossy_compression
from mediar_infer.images.tiff_directories import check_directories
from mediar_infer.images.tiff_layout import Colour, choose_series, resolve_layout
from mediar_infer.images.tiff_rows import (
    ContiguousRows,
    PagedRows,
    PlaneRows,
    ProjectedRows,
    SegmentRows,
)
from mediar_infer.images.tiff_segments import is_one_piece, stated_pages
from mediar_infer.images.ventana_bif import OverlappingTilesError, is_stitched_by_openslide

CACHE_BYTES = 64 * 2**20
"""Decoded strips or tile rows kept for the next read; one row of tiles is kept in any case."""
_MAX_WORKERS = 8
_ORIENTATION = 274
_GDAL_NODATA = 42113
"""Numbers of TIFF tags."""
_RGB, _YCBCR = 2, 6
"""Values of the tag of the colour space."""


def open_tiff(path: Path, options: ReadOptions, notes: tuple[str, ...] = ()) -> ImageSource:
    """Open a TIFF file, or a slide made of TIFF pages by OpenSlide where that has to stitch it.

    Args:
        path: TIFF, BigTIFF or a slide format made of TIFF pages.
        options: what to read of it.
        notes: sentences to start the warnings with.

    Raises:
        ImageReadError: if the file is damaged, ambiguous, too large or not supported.
    """
    try:
        return TiffSource(path, options, notes)
    except OverlappingTilesError:
        if not is_stitched_by_openslide(path):
            raise
    from mediar_infer.images.slide_source import SlideSource

    return SlideSource(path, options, notes)


class TiffSource(ImageSource):
    """The full-resolution image of a TIFF file, as rows of three channels."""

    def __init__(self, path: Path, options: ReadOptions, notes: tuple[str, ...] = ()) -> None:
        """Open a file and check that all bytes of the image are there.

        Args:
            path: TIFF, BigTIFF or a slide format made of TIFF pages.
            options: plane and limits.
            notes: sentences to start the warnings with.

        Raises:
            ImageReadError: if the file is damaged, ambiguous, too large or not supported.
        """
        with reading(path.name, "file"):
            self._file = FileBytes(path)
        self._tif: Any = None
        self._planes: dict[int, PlaneRows] = {}
        self._nodata: np.generic | None = None
        self._is_rgb = False
        self._pool = ThreadPoolExecutor(_n_workers(), thread_name_prefix="tiff")
        try:
            with reading(path.name, "TIFF structure"):
                # a series over several files would be read once per file
                self._tif = tifffile.TiffFile(path, _multifile=False)
                check_directories(self._tif)
                series, found = choose_series(self._tif, options, path.name)
                layout = self._layout = resolve_layout(series, options, name=path.name)
                options.check_size(path.name, self._layout.height, self._layout.width)
                colour = layout.colour
                if colour is Colour.AS_STORED:
                    self._nodata = _nodata(series.keyframe, np.dtype(series.dtype))
                    self._is_rgb = int(series.keyframe.photometric) in (_RGB, _YCBCR)
                self._open_planes(series, options)
                found += [*self._layout.warnings, *self._missing_tiles_note()]
                found += self._judge_opacity()
                is_single = len(layout.channels) + len(layout.opacity) == 1
                self.holds_plain_numbers = (
                    is_single
                    and colour is Colour.AS_STORED
                    and find_lossy_compression(series.keyframe) is None
                )
                """Whether the file stores one channel of numbers, without a palette or loss."""
                if colour is not Colour.CMYK and not options.channels:
                    found += channel_notes(len(self._layout.channels))
                names, picked = self._choose_channels(series.keyframe, options)
                is_palette = colour is Colour.PALETTE
                self._palette = _to_rgb8(series.keyframe.colormap) if is_palette else None
                geometry, notes_on_size = tiff_geometry(self._tif, series.keyframe)
                found += notes_on_size
                if self._nodata is not None:
                    found.append(f"no-data value {self._nodata:g}: such pixels are read as missing")
            super().__init__(
                path.name,
                height=self._layout.height,
                width=self._layout.width,
                dtype=np.dtype(np.uint8) if is_palette else np.dtype(series.dtype),
                warnings=(*notes, *found, *_orientation_note(series.keyframe, options)),
                geometry=geometry,
                channel_names=names,
                picked=picked,
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and end the decoding threads."""
        self._pool.shutdown()
        if self._tif is not None:
            self._tif.close()
        self._file.close()

    def _missing_tiles_note(self) -> list[str]:
        n_missing = sum(rows.n_missing for rows in self._planes.values())
        return [f"{n_missing} tiles are not stored and read as no-data"] if n_missing else []

    def _judge_opacity(self) -> list[str]:
        """Drop opacity that is the same everywhere; a second channel that varies is a channel."""
        layout = self._layout
        if not layout.opacity:
            return []
        varies = any(self._varies(channel) for channel in layout.opacity)
        self._layout = replace(layout, opacity=())
        is_pair = len(layout.channels) == len(layout.opacity) == 1
        if varies and is_pair:
            self._layout = replace(self._layout, channels=layout.channels + layout.opacity)
        else:
            self._keep_channels(len(layout.channels))
        if not varies:
            return []
        return [KEPT_OPACITY] if is_pair else [DROPPED_OPACITY]

    def _varies(self, channel: tuple[int, int]) -> bool:
        """Whether a channel is not the same everywhere; reads rows until it is known."""
        plane, sample = channel
        first = None
        step = max(1, CACHE_BYTES // (16 * self._layout.width * self._layout.n_samples))
        for top in range(0, self._layout.height, step):
            rows = self._planes[plane].read(top, min(top + step, self._layout.height))[..., sample]
            first = rows[0, 0] if first is None else first
            if (rows != first).any():
                return True
        return False

    def _choose_channels(
        self,
        page: Any,  # noqa: ANN401
        options: ReadOptions,
    ) -> tuple[tuple[str, ...], Picks]:
        """Names of the channels, and those chosen; the planes of others are not read."""
        n_channels = 3 if self._layout.colour is Colour.CMYK else len(self._layout.channels)
        if self._layout.colour is Colour.PALETTE:
            n_channels = 3
        names = tiff_channel_names(self._tif, page, n_channels)
        picked = find_channels(self._file.name, options.channels, names)
        if self._layout.colour is not Colour.AS_STORED or options.all_channels:
            return names, picked
        kept, picked = keep_picked(picked, n_channels)
        self._layout = replace(self._layout, channels=tuple(self._layout.channels[k] for k in kept))
        self._keep_channels(len(kept))
        return tuple(names[k] for k in kept), picked

    def _keep_channels(self, count: int) -> None:
        """Keep the first channels, and only the planes that they lie in."""
        channels = self._layout.channels[:count]
        self._layout = replace(self._layout, channels=channels)
        needed = {plane for plane, _ in channels}
        self._planes = {plane: rows for plane, rows in self._planes.items() if plane in needed}

    def _open_planes(self, series: Any, options: ReadOptions) -> None:  # noqa: ANN401
        layout = self._layout
        is_part = layout.colour is Colour.AS_STORED and not (
            options.channels or options.all_channels
        )
        read = layout.channels[:3] if is_part else layout.channels
        needed = sorted({plane for plane, _ in (*read, *layout.opacity)})
        shape = (layout.height, layout.width, layout.n_samples)
        self._start = _find_start(series)
        for plane in needed:
            planes = layout.projected[plane]
            cache_bytes = CACHE_BYTES // len(needed) if len(planes) == 1 else 0
            rows = [self._open_plane(series, k, shape, cache_bytes, options) for k in planes]
            self._planes[plane] = (
                rows[0] if len(rows) == 1 else ProjectedRows(rows, shape, self._nodata)
            )

    def _open_plane(
        self,
        series: Any,  # noqa: ANN401
        plane: int,
        shape: tuple[int, int, int],
        cache_bytes: int,
        options: ReadOptions,
    ) -> PlaneRows:
        """Reader of one plane."""
        height, width, n_samples = shape
        page_shape = (width, n_samples, 1)  # an (H, W, C) array saved as a stack
        if self._start is not None:
            return self._open_contiguous(series, self._start, plane, shape)
        if tuple(series.keyframe.shaped[2:]) == page_shape != shape:
            first = plane * height
            return PagedRows(
                lambda row: self._open_page(series, first + row, page_shape, 0, options),
                width=width,
            )
        return self._open_page(series, plane, shape, cache_bytes, options)

    def _open_contiguous(
        self,
        series: Any,  # noqa: ANN401
        start: int,
        plane: int,
        shape: tuple[int, int, int],
    ) -> ContiguousRows:
        """Reader of one of the uncompressed planes that follow each other from a byte on."""
        dtype = np.dtype(series.dtype).newbyteorder(self._tif.byteorder)
        offset = start + plane * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return ContiguousRows(self._file, offset=offset, shape=shape, dtype=dtype)

    def _open_page(
        self,
        series: Any,  # noqa: ANN401
        plane: int,
        shape: tuple[int, int, int],
        cache_bytes: int,
        options: ReadOptions,
    ) -> PlaneRows:
        """Reader of one plane that lies in a page of its own or with others."""
        n_separate, n_depths, *page_shape = series.keyframe.shaped
        if tuple(page_shape) != shape:
            raise ImageReadError(
                f"{self._file.name}: found pages of shape {page_shape}, expected {list(shape)} "
                "(rows, columns, samples) as the metadata says; save the image again"
            )
        index, plane_of_page = divmod(plane, n_separate * n_depths)
        page = series[index]
        if page is None or page.keyframe is None:
            raise ImageReadError(
                f"{self._file.name}: found no page for plane {plane} although the metadata names "
                "it, expected a complete file; copy or export it again"
            )
        if is_one_piece(page):
            return self._open_contiguous(series, page.dataoffsets[0], plane_of_page, shape)
        return SegmentRows(
            self._file,
            page,
            plane=plane_of_page,
            cache_bytes=cache_bytes,
            options=options,
            pool=self._pool,
        )

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        planes = {plane: rows.read(top, bottom) for plane, rows in self._planes.items()}
        samples = [sample for _, sample in self._layout.channels]
        if len(planes) == 1 and samples == list(range(len(samples))):  # no copy
            (image,) = planes.values()
            return self._to_intensities(image[:, :, : len(samples)])
        channels = [planes[plane][:, :, sample] for plane, sample in self._layout.channels]
        return self._to_intensities(np.stack(channels, axis=-1))

    def _to_intensities(self, image: AnyArray) -> AnyArray:
        match self._layout.colour:
            case Colour.PALETTE if self._palette is not None:
                largest = int(image.max(initial=0))
                if largest >= len(self._palette):
                    raise DamagedFile(
                        f"number {largest} of a colour table of {len(self._palette)} colours"
                    )
                return self._palette[image[:, :, 0].astype(np.uint8, copy=False)]
            case Colour.CMYK:
                return _cmyk_to_rgb(image)
            case Colour.YCBCR:
                import cv2

                # OpenCV wants Cr before Cb
                swapped = np.ascontiguousarray(image[:, :, [0, 2, 1]])
                return np.asarray(cv2.cvtColor(swapped, cv2.COLOR_YCrCb2RGB))
            case _ if self._nodata is not None:
                # neither NaN nor 0 counts for the normalisation, and both become its lowest level
                missing = np.nan if image.dtype.kind == "f" else 0
                is_missing = image == self._nodata
                if self._is_rgb and image.shape[2] == 3:  # the value may be part of a colour
                    is_missing = is_missing.all(axis=2, keepdims=True)
                return np.where(is_missing, image.dtype.type(missing), image)
            case _:
                return image


def _find_start(series: Any) -> int | None:  # noqa: ANN401
    """First byte of a series whose pages follow each other uncompressed, as they are read."""
    start: int | None = series.dataoffset
    is_whole = start is not None and all(map(is_one_piece, stated_pages(series)))
    return start if is_whole else None


def _to_rgb8(colormap: AnyArray) -> AnyArray:
    """``(3, n)`` 16-bit palette as ``(n, 3)`` uint8; some writers leave 8-bit values in it."""
    shift = 8 if colormap.max() > 255 else 0
    return (colormap >> shift).astype(np.uint8).T


def _nodata(page: Any, dtype: np.dtype[Any]) -> np.generic | None:  # noqa: ANN401
    """The value that GDAL wrote for pixels without a measurement; ``None`` if it cannot occur."""
    if dtype.kind == "b":
        return None
    try:
        value = float(str(page.tags.valueof(_GDAL_NODATA)).strip("\0 "))
        with np.errstate(over="ignore"):
            found = dtype.type(value if dtype.kind == "f" else int(value))
    except (ValueError, OverflowError):
        return None
    is_exact = dtype.kind == "f" or int(value) == value
    return found if is_exact and math.isfinite(found) and found != 0 else None


def _orientation_note(page: Any, options: ReadOptions) -> Iterable[str]:  # noqa: ANN401
    orientation = page.tags.valueof(_ORIENTATION, 1)
    if orientation == 1:
        return []
    effect = ", --apply-orientation has no effect on TIFF" if options.apply_orientation else ""
    return [f"the orientation tag ({orientation}) is ignored: rows are as stored{effect}"]


def _cmyk_to_rgb(image: AnyArray) -> AnyArray:
    full = int(np.iinfo(image.dtype).max)
    paper = (full - image).astype(np.uint32)  # a product of two 16-bit values fits
    return ((paper[:, :, :3] * paper[:, :, 3:] + full // 2) // full).astype(image.dtype)


def _n_workers() -> int:
    if hasattr(os, "sched_getaffinity"):  # the CPUs of the container, not of the machine
        return min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
    return min(_MAX_WORKERS, os.cpu_count() or 1)
