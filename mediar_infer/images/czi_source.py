"""Zeiss CZI images: tiles of one scene composed to rows."""

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.devices import available_cores
from mediar_infer.errors import ImageReadError, list_some
from mediar_infer.images.czi_directory import (
    SAMPLE_TYPES,
    SEGMENT_BYTES,
    CziMetadata,
    CziTile,
    read_czi,
)
from mediar_infer.images.faults import DamagedFile, reading
from mediar_infer.images.file_bytes import FileBytes
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.planes import choose_scene
from mediar_infer.images.stack_source import StackLayout, StackSource

_CACHE_BYTES: Final = 64 * 2**20
"""Decoded tiles kept for the next read; those that reach below it are kept in any case."""
_MAX_WORKERS: Final = 8
_UNCOMPRESSED, _JPEG, _LZW, _JPEG_XR, _ZSTD, _ZSTD_WITH_HEADER = 0, 1, 2, 4, 5, 6
_PICTURES: Final = frozenset({_JPEG, _JPEG_XR})
_MAYBE_STORED: Final = frozenset({_JPEG, _LZW, _JPEG_XR, _ZSTD})
_LISTED: Final = 5
_SUB_BLOCK: Final = struct.Struct("<16sqq i i q")
_SUB_BLOCK_HEADER_BYTES: Final = 16
_MIN_SUB_BLOCK_BYTES: Final = 256
_LAST_AXES: Final = "TZ"
_NOT_PLANES: Final = frozenset("CSM")


def list_czi_scenes(path: Path) -> list[str]:
    """Name the scenes of a file, empty where it states no names.

    Raises:
        ImageReadError: if the file is damaged.
    """
    file = FileBytes(path)
    try:
        with reading(path.name, "CZI directory"):
            tiles, metadata = read_czi(file)
        return [name for _, name in _scenes(tiles, metadata)]
    finally:
        file.close()


class CziSource(StackSource):
    """One scene of a CZI file at full resolution."""

    def __init__(self, path: Path, options: ReadOptions, notes: tuple[str, ...] = ()) -> None:
        """Read the directory of a file.

        Args:
            path: the file.
            options: scene, plane, channels and limits.
            notes: sentences to start the warnings with.

        Raises:
            ImageReadError: if the file is damaged, ambiguous, too large or not supported.
        """
        with reading(path.name, "file"):
            self._file = FileBytes(path)
        self._pool = ThreadPoolExecutor(
            min(_MAX_WORKERS, available_cores()), thread_name_prefix="czi"
        )
        self._decoded: dict[int, AnyArray] = {}
        try:
            with reading(path.name, "CZI directory"):
                tiles, metadata = read_czi(self._file)
                scenes = _scenes(tiles, metadata)
                chosen, more = choose_scene(path.name, [name for _, name in scenes], options)
                number = scenes[chosen][0]
                tiles = [tile for tile in tiles if tile.index.get("S", 0) == number]
                layout = self._lay_out(path.name, tiles, metadata, options)
                super().__init__(path.name, layout, options, (*notes, *more))
                self.warnings += self._judge_missing(layout.channel_names)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file and end the decoding threads."""
        self._pool.shutdown()
        self._file.close()

    def _lay_out(
        self, name: str, tiles: Sequence[CziTile], metadata: CziMetadata, options: ReadOptions
    ) -> StackLayout:
        """Sort the tiles of a scene by plane and channel."""
        self._top, self._left = min(tile.y for tile in tiles), min(tile.x for tile in tiles)
        height = max(tile.y + tile.height for tile in tiles) - self._top
        width = max(tile.x + tile.width for tile in tiles) - self._left
        letters = sorted(
            {letter for tile in tiles for letter in tile.index} - _NOT_PLANES,
            key=lambda letter: (_LAST_AXES.find(letter), letter),
        )
        places = {
            letter: sorted({tile.index.get(letter, 0) for tile in tiles}) for letter in letters
        }
        axes = [(letter, len(places[letter])) for letter in letters if len(places[letter]) > 1]
        channels = sorted({tile.index.get("C", 0) for tile in tiles})
        types: dict[int, int] = {}
        self._tiles: dict[tuple[int, int], list[CziTile]] = {}
        for tile in sorted(tiles, key=lambda tile: tile.index.get("M", 0)):  # later ones lie on top
            if tile.pixel_type not in SAMPLE_TYPES:
                raise DamagedFile(f"pixels of type {tile.pixel_type}")
            index = [places[letter].index(tile.index.get(letter, 0)) for letter, _ in axes]
            plane = int(np.ravel_multi_index(index, [size for _, size in axes])) if axes else 0
            channel = channels.index(tile.index.get("C", 0))
            if types.setdefault(channel, tile.pixel_type) != tile.pixel_type:
                raise DamagedFile(f"pixels of types {types[channel]} and {tile.pixel_type}")
            self._tiles.setdefault((plane, channel), []).append(tile)
        self._spans = {
            key: np.array([(tile.y, tile.y + tile.height) for tile in each]).T - self._top
            for key, each in self._tiles.items()
        }
        self._types = [types[channel] for channel in range(len(channels))]
        step = max(tile.height for tile in tiles)
        dtype = np.result_type(*[SAMPLE_TYPES[number][0] for number in self._types])
        if any(tile.compression != _UNCOMPRESSED for tile in tiles):
            n_bytes = min(step, height) * width * dtype.itemsize * len(channels)
            options.check_decoded(name, step, width, n_bytes, where="in one row of tiles")
        names = [metadata.channel_names.get(channel, "") for channel in channels]
        return StackLayout(
            height=height,
            width=width,
            dtype=dtype,
            axes=axes,
            n_samples=tuple(min(SAMPLE_TYPES[number][1], 3) for number in self._types),
            channel_names=tuple(names),
            pixel_size_um=metadata.pixel_size_um,
            step=step,
        )

    def _judge_missing(self, names: Sequence[str]) -> tuple[str, ...]:
        """Say which channels lack a plane; an error if none that is wanted has a tile there."""
        missing = {
            channel: [plane for plane in self.planes if (plane, channel) not in self._tiles]
            for channel in self.channels
        }
        shown = {
            channel: f"channel {channel} ({names[channel]})".removesuffix(" ()")
            for channel in missing
        }
        if all(planes == self.planes for planes in missing.values()):
            found = f"no tile of {list_some(shown.values(), _LISTED)}"
            raise ImageReadError(
                f"{self.name}: found {found} in plane {list_some(self.planes, _LISTED)}, expected"
                " one at least; choose another plane with --plane N, or another channel"
            )
        return tuple(
            f"{shown[channel]} has no tile in plane {list_some(planes, _LISTED)} and is read"
            " as 0 there: it was not recorded, or not stored"
            for channel, planes in missing.items()
            if planes
        )

    def _read_channel(self, plane: int, channel: int, top: int, bottom: int) -> AnyArray:
        sample_type, n_samples = SAMPLE_TYPES[self._types[channel]]
        shape = (bottom - top, self.width) if n_samples == 1 else (bottom - top, self.width, 3)
        rows = np.zeros(shape, np.dtype(sample_type).newbyteorder("="))
        if (plane, channel) not in self._tiles:
            return rows
        tops, bottoms = self._spans[plane, channel]
        found = [
            self._tiles[plane, channel][k] for k in np.nonzero((tops < bottom) & (bottoms > top))[0]
        ]
        parts = self._pool.map(partial(self._tile_rows, top=top, bottom=bottom), found)
        for tile, part in zip(found, parts, strict=True):
            first = max(tile.y - self._top - top, 0)
            left = tile.x - self._left
            rows[first : first + len(part), left : left + tile.width] = part
        self._forget(bottom)
        return rows

    def _tile_rows(self, tile: CziTile, top: int, bottom: int) -> AnyArray:
        """The rows of a tile that lie between two rows of the image."""
        first = max(top - (tile.y - self._top), 0)
        stop = min(bottom - (tile.y - self._top), tile.height)
        with reading(self._file.name, f"CZI tile at byte {tile.position:,}"):
            if tile.compression == _UNCOMPRESSED:
                return self._read_stored(tile, first, stop)
            if (image := self._decoded.get(tile.position)) is None:
                image = self._decoded[tile.position] = self._decode(tile)
            return image[first:stop]

    def _forget(self, bottom: int) -> None:
        """Drop decoded tiles that end above a row, if there are many."""
        n_bytes = sum(image.nbytes for image in self._decoded.values())
        if n_bytes > _CACHE_BYTES:
            ends = {
                tile.position: tile.y - self._top + tile.height
                for tiles in self._tiles.values()
                for tile in tiles
                if tile.position in self._decoded
            }
            for position in [each for each, end in ends.items() if end <= bottom]:
                del self._decoded[position]

    def _find_pixels(self, tile: CziTile) -> tuple[int, int]:
        """Position and number of the stored bytes of a tile."""
        header = bytes(self._file.read(tile.position, _SUB_BLOCK.size))
        name, _, _, n_metadata, _, n_bytes = _SUB_BLOCK.unpack(header)
        if name.rstrip(b"\0") != b"ZISRAWSUBBLOCK" or n_metadata < 0 or n_bytes < 0:
            raise DamagedFile("no segment of a tile")
        fixed = max(_MIN_SUB_BLOCK_BYTES, _SUB_BLOCK_HEADER_BYTES + tile.entry_bytes)
        return tile.position + SEGMENT_BYTES + fixed + n_metadata, n_bytes

    def _read_stored(self, tile: CziTile, first: int, stop: int) -> AnyArray:
        sample_type, n_samples = SAMPLE_TYPES[tile.pixel_type]
        dtype = np.dtype(sample_type)
        row_bytes = tile.width * n_samples * dtype.itemsize
        start, n_bytes = self._find_pixels(tile)
        if n_bytes < tile.height * row_bytes:
            raise DamagedFile(f"{n_bytes:,} bytes, {tile.height * row_bytes:,} expected")
        data = self._file.read(start + first * row_bytes, (stop - first) * row_bytes)
        return _to_channels(np.frombuffer(data, dtype), tile, stop - first)

    def _decode(self, tile: CziTile) -> AnyArray:
        start, n_bytes = self._find_pixels(tile)
        data = bytes(self._file.read(start, n_bytes))
        # Some writers state a compression that they have not used.
        is_plain = tile.compression in _MAYBE_STORED and len(data) == _count_bytes(tile)
        if tile.compression in _PICTURES and not is_plain:
            return _decode_picture(data, tile)
        samples = np.frombuffer(
            data if is_plain else _decompress(data, tile), SAMPLE_TYPES[tile.pixel_type][0]
        )
        return _to_channels(samples, tile, tile.height)


def _scenes(tiles: Sequence[CziTile], metadata: CziMetadata) -> list[tuple[int, str]]:
    """Number and name of each scene, in order."""
    numbers = sorted({tile.index.get("S", 0) for tile in tiles})
    return [(number, metadata.scene_names.get(number, "")) for number in numbers]


def _to_channels(samples: AnyArray, tile: CziTile, height: int) -> AnyArray:
    """Samples as ``(height, width)``, or three colours: blue first as stored, red first here."""
    n_samples = SAMPLE_TYPES[tile.pixel_type][1]
    if samples.size != height * tile.width * n_samples:
        raise DamagedFile(f"{samples.size:,} samples, {height * tile.width * n_samples:,} expected")
    if n_samples == 1:
        return samples.reshape(height, tile.width)
    return samples.reshape(height, tile.width, n_samples)[:, :, 2::-1]


def _count_bytes(tile: CziTile) -> int:
    """Bytes of the pixels of a tile."""
    sample_type, n_samples = SAMPLE_TYPES[tile.pixel_type]
    return tile.height * tile.width * n_samples * np.dtype(sample_type).itemsize


def _decode_picture(data: bytes, tile: CziTile) -> AnyArray:
    """Decode JPEG or JPEG XR, whose decoders return red first."""
    import imagecodecs

    sample_type, n_samples = SAMPLE_TYPES[tile.pixel_type]
    decode = imagecodecs.jpeg8_decode if tile.compression == _JPEG else imagecodecs.jpegxr_decode
    image = np.asarray(decode(data))
    is_whole = image.shape[:2] == (tile.height, tile.width) and image.nbytes == _count_bytes(tile)
    if not is_whole or image.dtype != np.dtype(sample_type):
        raise DamagedFile(f"{image.shape} of {image.dtype} decoded")
    return image.reshape(tile.height, tile.width) if n_samples == 1 else image[:, :, :3]


def _decompress(data: bytes, tile: CziTile) -> Any:  # noqa: ANN401 (a buffer)
    import imagecodecs

    n_bytes = _count_bytes(tile)
    plain: Any
    match tile.compression:
        case int(code) if code == _LZW:
            plain = imagecodecs.lzw_decode(data, out=n_bytes)
        case int(code) if code == _ZSTD:
            plain = imagecodecs.zstd_decode(data, out=n_bytes)
        case int(code) if code == _ZSTD_WITH_HEADER:
            plain = _decompress_with_header(data, n_bytes)
        case code:
            raise DamagedFile(f"compression {code}, which is not supported")
    if len(plain) != n_bytes:
        raise DamagedFile(f"{len(plain):,} bytes decoded, {n_bytes:,} expected")
    return plain


def _decompress_with_header(data: bytes, n_bytes: int) -> Any:  # noqa: ANN401 (a buffer)
    """Undo Zstandard behind a header, which may say that low and high bytes lie apart."""
    import imagecodecs

    n_header = data[0]
    is_split = n_header == 3 and data[1] == 1 and data[2] & 1 == 1
    if n_header not in (1, 3):
        raise DamagedFile(f"a header of {n_header} bytes")
    plain = imagecodecs.zstd_decode(data[n_header:], out=n_bytes)
    if not is_split:
        return plain
    return np.frombuffer(plain, np.uint8).reshape(2, -1).T.tobytes()
