"""OME-Zarr images, read by rows: only the chunks that are asked for are decoded."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.ngff import NgffImage, find_ome_attributes, parse_image
from mediar_infer.images.planes import choose_scene
from mediar_infer.images.row_blocks import RowBlocks
from mediar_infer.images.stack_source import StackLayout, StackSource

_LABELS: Final = "labels"
_SERIES: Final = "bioformats2raw.layout"
_BLOSC_HEADER: Final = 16
"""Bytes, of which the last four say how many there are with the header."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk of one channel of one plane that is not stored."""

    index: tuple[int, ...]
    """Place of the plane on the axes before y and x."""
    rows: tuple[int, int]
    """First row, and one past the last."""
    columns: tuple[int, int]
    """First column, and one past the last."""


class ZarrSource(StackSource):
    """The full resolution of an OME-Zarr image (NGFF 0.4 and 0.5, zarr formats 2 and 3).

    Args:
        path: the group, a folder.
        options: plane, projection, channels, scene and limits.
        notes: sentences to start the warnings with.

    Raises:
        ImageReadError: if it is no image, damaged, incomplete, ambiguous or too large.
    """

    def __init__(self, path: Path, options: ReadOptions, notes: tuple[str, ...] = ()) -> None:
        with reading(path.name, "OME-Zarr metadata"):
            group, ome, more = _open_scene(path, options)
            image = parse_image(ome)
            self._levels = [_open_array(group, name) for name in image.paths]
            array = self._array = self._levels[0]
            if array.ndim != len(image.axes):
                raise DamagedFile(f"an array of {array.ndim} axes, not {image.axes}")
        self._axes = image.axes
        self._stack = [(letter.upper(), array.shape[k]) for k, letter in self._outer("tz")]
        n_channels = array.shape[image.axes.index("c")] if "c" in image.axes else 1
        height, width = array.shape[-2:]
        step = min(array.chunks[-2], height)
        n_bytes = step * width * array.dtype.itemsize
        options.check_decoded(path.name, step, width, n_bytes, where="in one row of chunks")
        self._is_blosc = _is_blosc(array)
        self._blocks: dict[int, tuple[int, RowBlocks]] = {}
        """Channel → the plane that was read last, and its rows of chunks."""
        super().__init__(
            path.name,
            StackLayout(
                height=height,
                width=width,
                dtype=array.dtype,
                axes=self._stack,
                n_samples=(1,) * n_channels,
                channel_names=_fit_names(image, n_channels),
                pixel_size_um=image.pixel_size_um,
                step=step,
            ),
            options,
            (*notes, *more),
        )
        with reading(path.name, "OME-Zarr chunks"):
            missing = [
                chunk
                for plane, channel in product(self.planes, self.channels)
                for chunk in _find_missing(array, self._index(plane, channel))
            ]
            self.warnings += self._judge_missing(missing)

    def _outer(self, letters: str) -> list[tuple[int, str]]:
        return [(k, letter) for k, letter in enumerate(self._axes) if letter in letters]

    def _index(self, plane: int, channel: int) -> tuple[int, ...]:
        """Place of a channel of a plane on the axes before y and x."""
        places = iter(np.unravel_index(plane, [size for _, size in self._stack]))
        return tuple(channel if letter == "c" else int(next(places)) for letter in self._axes[:-2])

    def _read_channel(self, plane: int, channel: int, top: int, bottom: int) -> AnyArray:
        last_plane, blocks = self._blocks.get(channel, (None, None))
        if blocks is None or last_plane != plane:
            read = partial(self._read_chunks, self._index(plane, channel))
            blocks = RowBlocks(read, int(self._array.chunks[-2]))
            self._blocks[channel] = plane, blocks
        return blocks.rows(top, bottom)

    def _read_chunks(self, index: tuple[int, ...], number: int) -> AnyArray:
        """A row of chunks of one channel of one plane."""
        step = int(self._array.chunks[-2])
        if self._is_blosc:
            _check_blosc(self._array, index, number * step)
        return np.asarray(self._array[(*index, slice(number * step, (number + 1) * step))])

    def _judge_missing(self, missing: list[_Chunk]) -> tuple[str, ...]:
        """Say that chunks are not stored; an error if something must have been in one of them."""
        if not missing:
            return ()
        array = self._array
        fill = array.fill_value
        n_chunks = (
            len(self.planes)
            * len(self.channels)
            * math.prod(
                -(-size // chunk)
                for size, chunk in zip(array.shape[-2:], _stored(array), strict=True)
            )
        )
        found = f"{self.name}: found no data for {len(missing)} of {n_chunks} chunks"
        remedy = "expected a complete store; copy or write it again"
        if len(missing) == n_chunks:
            raise ImageReadError(f"{found} of level {array.path}, {remedy}")
        if fill is None:
            raise ImageReadError(f"{found}, which have no fill value, {remedy}")
        lost = next((chunk for chunk in missing if self._was_filled(chunk)), None)
        if lost is not None:
            raise ImageReadError(
                f"{found}, although the pyramid's next level shows something in rows"
                f" {lost.rows[0]} to {lost.rows[1]}, columns {lost.columns[0]} to"
                f" {lost.columns[1]}, {remedy}"
            )
        return (
            f"{len(missing)} of {n_chunks} chunks are not stored and read as the fill value {fill},"
            " as writers leave out chunks that hold nothing else; if the image is not empty there,"
            " copy or write it again",
        )

    def _was_filled(self, chunk: _Chunk) -> bool:
        """Whether a smaller level of the pyramid shows more than the fill value in a chunk."""
        if len(self._levels) < 2:
            return False
        full, level = self._array, self._levels[1]
        if level.shape[:-2] != full.shape[:-2]:
            return False
        place: list[int | slice] = list(chunk.index)
        for axis, (start, stop) in zip((-2, -1), (chunk.rows, chunk.columns), strict=True):
            factor = full.shape[axis] / level.shape[axis]
            # Pixels at the border of the chunk may show what lies beside it.
            place.append(slice(math.ceil(start / factor) + 1, math.floor(stop / factor) - 1))
        values = np.asarray(level[tuple(place)])
        # NaN, a usual fill value of floats, does not equal itself.
        return not np.array_equal(values, np.full_like(values, full.fill_value), equal_nan=True)


def list_zarr_scenes(path: Path) -> list[str]:
    """Name the images of a series: a number each, so their names are empty.

    Raises:
        ImageReadError: if it is no zarr group.
    """
    return ["" for _ in _find_series(_open_group(path))] or [""]


def _open_group(path: Path) -> Any:  # noqa: ANN401 (zarr is imported where needed)
    import zarr

    try:
        return zarr.open_group(path, mode="r")
    except (FileNotFoundError, zarr.errors.NodeTypeValidationError) as error:
        raise ImageReadError(
            f"{path.name}: found no zarr group, expected an OME-Zarr image; write it again as"
            " OME-Zarr, or as TIFF"
        ) from error


def _find_series(group: Any) -> list[str]:  # noqa: ANN401
    """Groups of the images of a series, as converters of Bio-Formats write them."""
    ome = find_ome_attributes(group.attrs.asdict())
    if _SERIES not in ome or "multiscales" in ome or "plate" in ome:
        return []
    return sorted((name for name in group.group_keys() if name.isdecimal()), key=int)


def _open_scene(path: Path, options: ReadOptions) -> tuple[Any, Any, list[str]]:
    """The group of the image, its metadata, and sentences about what else is there."""
    group = _open_group(path)
    notes: list[str] = []
    if scenes := _find_series(group):
        number, notes = choose_scene(path.name, ["" for _ in scenes], options)
        group = group[scenes[number]]
    ome = find_ome_attributes(group.attrs.asdict())
    if "plate" in ome or "well" in ome:
        raise ImageReadError(
            f"{path.name}: found a {'plate' if 'plate' in ome else 'well'} (HCS), expected one"
            " image; give a field inside it, such as A/1/0, a name that ends with .zarr"
        )
    if "multiscales" not in ome:
        held = " but labels" if _LABELS in group else ""
        raise ImageReadError(
            f"{path.name}: found a zarr group that holds no image{held}, expected multiscales of"
            " OME-Zarr; write it again as OME-Zarr, or as TIFF"
        )
    if _LABELS in group:
        notes = [*notes, "the labels inside the OME-Zarr are not read"]
    return group, ome, notes


def _open_array(group: Any, name: str) -> Any:  # noqa: ANN401
    import zarr

    found = group.get(name)
    if not isinstance(found, zarr.Array):
        raise DamagedFile(f"no array {name}, which the metadata name")
    return found


def _fit_names(image: NgffImage, n_channels: int) -> tuple[str, ...]:
    return image.channel_names if len(image.channel_names) == n_channels else ("",) * n_channels


def _stored(array: Any) -> tuple[int, int]:  # noqa: ANN401
    """Rows and columns of what is stored together: a chunk, or a shard of many."""
    height, width = (array.shards or array.chunks)[-2:]
    return height, width


def _find_missing(array: Any, index: tuple[int, ...]) -> list[_Chunk]:  # noqa: ANN401
    """Chunks of one channel of one plane without a file."""
    (height, width), (n_rows, n_columns) = _stored(array), array.shape[-2:]
    missing = []
    for row, column in product(range(-(-n_rows // height)), range(-(-n_columns // width))):
        if not _find_chunk(array, index, row, column).exists():
            rows = row * height, min((row + 1) * height, n_rows)
            columns = column * width, min((column + 1) * width, n_columns)
            missing.append(_Chunk(index, rows, columns))
    return missing


def _find_chunk(array: Any, index: tuple[int, ...], row: int, column: int) -> Path:  # noqa: ANN401
    """File of a chunk or shard, by its number along y and x."""
    sizes = array.shards or array.chunks
    outer = [k // size for k, size in zip(index, sizes, strict=False)]
    key = array.metadata.encode_chunk_key((*outer, row, column))
    return Path(array.store.root, array.path, key)


def _is_blosc(array: Any) -> bool:  # noqa: ANN401
    """Whether files begin with a header of Blosc."""
    compressors = list(array.compressors) if array.shards is None else []
    return bool(compressors) and type(compressors[-1]).__name__.startswith("Blosc")


def _check_blosc(array: Any, index: tuple[int, ...], top: int) -> None:  # noqa: ANN401
    """Refuse cut-off chunks of a row of them: Blosc decodes whatever lies in memory behind them."""
    height, width = array.chunks[-2:]
    for column in range(-(-array.shape[-1] // width)):
        path = _find_chunk(array, index, top // height, column)
        if not path.exists():
            continue
        with path.open("rb") as file:
            n_bytes = int.from_bytes(file.read(_BLOSC_HEADER)[-4:], "little")
            n_found = file.seek(0, 2)
        if n_found < max(n_bytes, _BLOSC_HEADER):
            name = path.relative_to(array.store.root)
            raise DamagedFile(f"{n_bytes:,} bytes in chunk {name} needed, {n_found:,} found")
