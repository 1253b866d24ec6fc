"""Rows of one TIFF plane: read straight from the file, or by decoding strips and tiles."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil, prod
from typing import Any, Protocol

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.images.faults import reading
from mediar_infer.images.file_bytes import FileBytes
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.planes import Projection
from mediar_infer.images.tiff_layout import JPEG_COMPRESSIONS
from mediar_infer.images.tiff_segments import check_segment, count_missing

_LARGEST_SAMPLE = 8
_N_BUNDLES = 32
"""Pieces that the segments of one read are cut into for the threads."""
_SMALL_TILE_PIXELS = 2**22
"""Padding of tiles up to this size does not count as pixels to decode."""


class PlaneRows(Protocol):
    """Reader of one stored plane."""

    n_missing: int
    """Tiles that the file leaves out on purpose (sparse); they read as the no-data value."""
    n_together: int
    """Rows that are decoded together."""

    def read(self, top: int, bottom: int) -> AnyArray:
        """Rows ``top`` … ``bottom - 1`` as ``(rows, width, n_samples)``."""

    def forget(self) -> None:
        """Drop what is kept for the next read."""


class ContiguousRows:
    """A plane whose rows lie uncompressed one after the other.

    Rows are read, not memory-mapped: mapped pages would count as resident memory, and a file
    that shrinks would kill the process.
    """

    n_missing = 0
    n_together = 1

    def __init__(
        self, file: FileBytes, *, offset: int, shape: tuple[int, int, int], dtype: np.dtype[Any]
    ) -> None:
        self._file = file
        self._offset = offset
        self._shape = shape
        self._dtype = dtype
        file.check_range(offset, prod(shape) * dtype.itemsize)

    def read(self, top: int, bottom: int) -> AnyArray:
        """See ``PlaneRows``."""
        _, width, n_samples = self._shape
        row_bytes = width * n_samples * self._dtype.itemsize
        data = self._file.read(self._offset + top * row_bytes, (bottom - top) * row_bytes)
        rows = np.frombuffer(data, self._dtype).reshape(bottom - top, width, n_samples)
        return rows.astype(self._dtype.newbyteorder("="), copy=False)

    def forget(self) -> None:
        """Nothing is kept."""


class SegmentRows:
    """A plane stored in strips or tiles, decoded where they are touched.

    A *segment row* is one strip, or the tiles side by side. The last segment rows stay decoded
    for the next read, as many as fit into ``cache_bytes`` and at least one.
    """

    def __init__(
        self,
        file: FileBytes,
        page: Any,  # noqa: ANN401  (tifffile is untyped here)
        *,
        plane: int,
        cache_bytes: int,
        options: ReadOptions,
        pool: ThreadPoolExecutor,
    ) -> None:
        """Locate the segments of a plane.

        Args:
            file: the file of the page.
            page: a ``tifffile.TiffPage`` or ``TiffFrame``.
            plane: index over the page's separate samples and depths, depth fastest.
            cache_bytes: room for decoded segment rows.
            options: largest accepted segment row.
            pool: threads to decode in.

        Raises:
            ImageReadError: if segments are missing or too large.
        """
        key = page.keyframe
        _, n_depths, self._height, self._width, self._n_samples = key.shaped
        self._file, self._pool = file, pool
        self._dtype = np.dtype(key.dtype)
        self._fill = key.nodata
        if key.is_tiled:
            self._depth_step, self._rows, columns = key.tiledepth, key.tilelength, key.tilewidth
        else:
            self._depth_step, self._rows, columns = 1, key.rowsperstrip, self._width
        self._n_across = ceil(self._width / columns)
        sample, depth = divmod(plane, n_depths)
        n_down = ceil(self._height / self._rows)
        layer = sample * ceil(n_depths / self._depth_step) + depth // self._depth_step
        self._first = layer * n_down * self._n_across
        self._depth = depth % self._depth_step
        self._columns = columns
        self._check_size(options)
        self._find_segments(page, n_down * self._n_across, is_tiled=key.is_tiled)
        self._decode = key.decode  # built once here: not thread-safe on first access
        self._compression = int(key.compression)
        self._tables: dict[str, bytes | None] = {}
        if key.compression in JPEG_COMPRESSIONS:
            self._tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        row_bytes = self._rows * self._width * self._n_samples * self._dtype.itemsize
        self.n_together = min(self._rows, self._height)
        self._n_cached = max(1, cache_bytes // row_bytes)
        self._cache: OrderedDict[int, AnyArray] = OrderedDict()

    def _check_size(self, options: ReadOptions) -> None:
        n_rows, columns = min(self._rows, self._height), self._width
        if self._rows * self._columns > max(_SMALL_TILE_PIXELS, n_rows * columns):
            # a tile is decoded with its padding, which must not be a bomb either
            n_rows, columns = self._rows, self._columns
        columns *= self._depth_step
        n_bytes = n_rows * columns * self._n_samples * self._dtype.itemsize
        where = "in one strip or row of tiles"
        options.check_decoded(self._file.name, n_rows, columns, n_bytes, where=where)

    def _find_segments(self, page: Any, n_segments: int, *, is_tiled: bool) -> None:  # noqa: ANN401
        stop = self._first + n_segments
        self._offsets = np.asarray(page.dataoffsets[self._first : stop], np.int64)
        self._counts = np.asarray(page.databytecounts[self._first : stop], np.int64)
        self.n_missing = count_missing(
            self._file.name, self._offsets, self._counts, n_segments, is_tiled=is_tiled
        )
        is_stored = (self._offsets > 0) & (self._counts > 0)
        last = int(np.argmax((self._offsets + self._counts) * is_stored))
        self._file.check_range(int(self._offsets[last]), int(self._counts[last]))

    def read(self, top: int, bottom: int) -> AnyArray:
        """See ``PlaneRows``."""
        rows = np.empty((bottom - top, self._width, self._n_samples), self._dtype)
        if bottom == top:
            return rows
        first, stop = top // self._rows, (bottom - 1) // self._rows + 1
        for start in range(first, stop, self._n_cached):
            group = range(start, min(start + self._n_cached, stop))
            self._load(group)
            for k in group:
                start_row = k * self._rows
                a, b = max(top, start_row), min(bottom, start_row + self._rows)
                rows[a - top : b - top] = self._cache[k][a - start_row : b - start_row]
        return rows

    def forget(self) -> None:
        """See ``PlaneRows``."""
        self._cache.clear()

    def _load(self, group: range) -> None:
        """Load segment rows into the cache in place of those used longest ago."""
        missing = [k for k in group if k not in self._cache]
        for k in group:
            if k in self._cache:
                self._cache.move_to_end(k)
        while self._cache and len(self._cache) + len(missing) > self._n_cached:
            self._cache.popitem(last=False)
        targets: list[tuple[int, AnyArray]] = []
        for k in missing:
            n_rows = min(self._rows, self._height - k * self._rows)
            self._cache[k] = np.empty((n_rows, self._width, self._n_samples), self._dtype)
            targets += [(k * self._n_across + i, self._cache[k]) for i in range(self._n_across)]
        try:
            self._decode_all(targets)
        except BaseException:
            for k in missing:
                del self._cache[k]
            raise

    def _decode_all(self, targets: list[tuple[int, AnyArray]]) -> None:
        if len(targets) <= 1:
            self._decode_into(targets)
            return
        # small strips go to a thread in bundles: a hand-over costs more than decoding one
        size = ceil(len(targets) / _N_BUNDLES)
        bundles = [targets[k : k + size] for k in range(0, len(targets), size)]
        for _ in self._pool.map(self._decode_into, bundles):
            pass

    def _decode_into(self, targets: list[tuple[int, AnyArray]]) -> None:
        for k, target in targets:
            with reading(self._file.name, f"TIFF strip or tile {self._first + k}"):
                data = self._segment_bytes(k)
                if data is not None:
                    n_pixels = self._rows * self._columns
                    check_segment(data, self._compression, n_pixels, **self._tables)
                segment, (_, _, _, left, _), shape = self._decode(
                    data, self._first + k, **self._tables
                )
                n_columns = min(shape[2], self._width - left)
                part = target[:, left : left + n_columns]
                part[...] = (
                    self._fill
                    if segment is None
                    else segment[self._depth, : len(target), :n_columns]
                )

    def _segment_bytes(self, k: int) -> bytes | None:
        offset, count = int(self._offsets[k]), int(self._counts[k])
        if offset == 0 or count == 0:
            return None
        return bytes(self._file.read(offset, count))


class PagedRows:
    """An image whose every row is a page of ``width × samples`` pixels."""

    n_missing = 0
    n_together = 1

    def __init__(self, open_row: Callable[[int], PlaneRows], *, width: int) -> None:
        self._open_row = open_row
        self._width = width

    def read(self, top: int, bottom: int) -> AnyArray:
        """See ``PlaneRows``."""
        rows = (self._open_row(row).read(0, self._width)[:, :, 0] for row in range(top, bottom))
        return np.stack(list(rows))

    def forget(self) -> None:
        """Nothing is kept."""


class ProjectedRows:
    """The maximum over planes.

    Args:
        planes: two or more.
        shape: rows, columns and samples of each.
        nodata: value of pixels without a measurement, if there are any.
    """

    def __init__(
        self,
        planes: Sequence[PlaneRows],
        shape: tuple[int, int, int],
        nodata: np.generic | None = None,
    ) -> None:
        height, width, n_samples = shape
        self._planes = planes
        self.n_missing = sum(plane.n_missing for plane in planes)
        self.n_together = max(plane.n_together for plane in planes)
        self._projection = Projection(
            self._read_plane,
            range(len(planes)),
            height=height,
            row_bytes=width * n_samples * _LARGEST_SAMPLE,
            step=self.n_together,
            nodata=nodata,
        )

    def read(self, top: int, bottom: int) -> AnyArray:
        """See ``PlaneRows``."""
        return self._projection.rows(top, bottom)

    def forget(self) -> None:
        """See ``PlaneRows``; the last rows stay."""

    def _read_plane(self, plane: int, top: int, bottom: int) -> AnyArray:
        rows = self._planes[plane].read(top, bottom)
        self._planes[plane].forget()
        return rows
