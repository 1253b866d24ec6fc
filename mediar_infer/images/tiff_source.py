"""TIFF images read by rows: only the strips or tiles that are asked for are decoded."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mediar_infer.errors import ImageReadError
from mediar_infer.images.pixel_size import tiff_geometry
from mediar_infer.images.sources import AnyArray, ImageSource, check_n_pixels
from mediar_infer.images.tiff_layout import Colour, choose_series, resolve_layout
from mediar_infer.images.tiff_rows import (
    ContiguousRows,
    FileBytes,
    PagedRows,
    PlaneRows,
    SegmentRows,
    reading_tiff,
)

CACHE_BYTES = 64 * 2**20
"""Decoded strips or tile rows kept for the next read; one row of tiles is kept in any case."""
_MAX_WORKERS = 8


class TiffSource(ImageSource):
    """The full-resolution image of a TIFF file, as rows of three channels."""

    def __init__(
        self, path: Path, *, plane: int | None, max_pixels: int, max_decoded_pixels: int
    ) -> None:
        """Open a file and check that all bytes of the image are there.

        Args:
            path: TIFF, BigTIFF or a slide format made of TIFF pages.
            plane: which plane of a stack; ``None`` if not chosen.
            max_pixels: largest accepted height × width.
            max_decoded_pixels: largest accepted number of pixels that must be decoded at once
                (one strip, one row of tiles).

        Raises:
            ImageReadError: if the file is damaged, ambiguous, too large or not supported.
        """
        with reading_tiff(path.name, "the file"):
            self._file = FileBytes(path)
        self._tif: Any = None
        self._pool = ThreadPoolExecutor(_n_workers(), thread_name_prefix="tiff")
        try:
            with reading_tiff(path.name, "the TIFF structure"):
                # a series over several files would be read once per file
                self._tif = tifffile.TiffFile(path, _multifile=False)
                series, notes = choose_series(self._tif, path.name)
                self._layout = resolve_layout(series, plane=plane, name=path.name)
                check_n_pixels(path.name, self._layout.height, self._layout.width, max_pixels)
                self._open_planes(series, max_decoded_pixels)
            notes += self._layout.warnings
            if n_missing := sum(rows.n_missing for rows in self._planes.values()):
                notes.append(f"{n_missing} tiles are not stored and read as no-data")
            is_palette = self._layout.colour is Colour.PALETTE
            self._palette = _to_rgb8(series.keyframe.colormap) if is_palette else None
            super().__init__(
                path.name,
                height=self._layout.height,
                width=self._layout.width,
                dtype=np.dtype(np.uint8) if is_palette else np.dtype(series.dtype),
                warnings=notes,
            )
            self.geometry = tiff_geometry(self._tif, series.keyframe)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and end the decoding threads."""
        self._pool.shutdown()
        if self._tif is not None:
            self._tif.close()
        self._file.close()

    def _open_planes(self, series: Any, max_decoded_pixels: int) -> None:  # noqa: ANN401
        layout = self._layout
        needed = sorted({plane for plane, _ in layout.channels})
        shape = (layout.height, layout.width, layout.n_samples)
        page_shape = (layout.width, layout.n_samples, 1)  # an (H, W, C) array saved as a stack
        start = series.dataoffset
        self._planes: dict[int, PlaneRows] = {}
        if start is not None:
            dtype = np.dtype(series.dtype).newbyteorder(self._tif.byteorder)
            n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            for plane in needed:
                self._planes[plane] = ContiguousRows(
                    self._file, offset=start + plane * n_bytes, shape=shape, dtype=dtype
                )
        elif tuple(series.keyframe.shaped[2:]) == page_shape != shape:
            self._planes[0] = PagedRows(
                lambda row: self._open_page(series, row, page_shape, 0, max_decoded_pixels),
                width=layout.width,
            )
        else:
            for plane in needed:
                self._planes[plane] = self._open_page(
                    series, plane, shape, CACHE_BYTES // len(needed), max_decoded_pixels
                )

    def _open_page(
        self,
        series: Any,  # noqa: ANN401
        plane: int,
        shape: tuple[int, int, int],
        cache_bytes: int,
        max_decoded_pixels: int,
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
        if page.is_final:
            dtype = np.dtype(series.dtype).newbyteorder(self._tif.byteorder)
            n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            offset = page.dataoffsets[0] + plane_of_page * n_bytes
            return ContiguousRows(self._file, offset=offset, shape=shape, dtype=dtype)
        return SegmentRows(
            self._file,
            page,
            plane=plane_of_page,
            cache_bytes=cache_bytes,
            max_decoded_pixels=max_decoded_pixels,
            pool=self._pool,
        )

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        planes = {plane: rows.read(top, bottom) for plane, rows in self._planes.items()}
        if len(planes) == 1:  # samples from 0 on, no copy
            (image,) = planes.values()
            return self._to_intensities(image[:, :, : len(self._layout.channels)])
        channels = [planes[plane][:, :, sample] for plane, sample in self._layout.channels]
        return self._to_intensities(np.stack(channels, axis=-1))

    def _to_intensities(self, image: AnyArray) -> AnyArray:
        match self._layout.colour:
            case Colour.PALETTE if self._palette is not None:
                return self._palette[image[:, :, 0]]
            case Colour.CMYK:
                return _cmyk_to_rgb(image)
            case Colour.YCBCR:
                import cv2

                # OpenCV wants Cr before Cb
                swapped = np.ascontiguousarray(image[:, :, [0, 2, 1]])
                return np.asarray(cv2.cvtColor(swapped, cv2.COLOR_YCrCb2RGB))
            case _:
                return image


def _to_rgb8(colormap: AnyArray) -> AnyArray:
    """``(3, n)`` 16-bit palette as ``(n, 3)`` uint8; some writers leave 8-bit values in it."""
    shift = 8 if colormap.max() > 255 else 0
    return (colormap >> shift).astype(np.uint8).T


def _cmyk_to_rgb(image: AnyArray) -> AnyArray:
    full = int(np.iinfo(image.dtype).max)
    paper = (full - image).astype(np.uint32)  # a product of two 16-bit values fits
    return ((paper[:, :, :3] * paper[:, :, 3:] + full // 2) // full).astype(image.dtype)


def _n_workers() -> int:
    if hasattr(os, "sched_getaffinity"):  # the CPUs of the container, not of the machine
        return min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
    return min(_MAX_WORKERS, os.cpu_count() or 1)
