"""Labels as OME-Zarr: an NGFF 0.5 image-label with a pyramid, beside or inside an image."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mediar_infer.errors import ExportError, OutputError
from mediar_infer.exports.cells import LabelRows
from mediar_infer.exports.options import ZARR_LABELS
from mediar_infer.output_files import to_output_error

if TYPE_CHECKING:
    import zarr

_VERSION: Final = "0.5"
_CHUNK: Final = 512
_SHARD: Final = 4096
"""Chunks of 512² in files of up to 4096²: a slide is some hundred files, not tens of thousands."""
_SMALLEST_SIDE: Final = 256
"""The pyramid ends with the first level whose longer side is no longer than this."""


def write_zarr(
    path: Path, labels: LabelRows, pixel_size_um: tuple[float, float] | None = None
) -> None:
    """Write a group with ``labels/cells``, or put that into the OME-Zarr image that is there.

    Levels of the pyramid take every second pixel of the level before, as means of labels are none.
    Memory: one row of shards.

    Args:
        path: the group, usually ``NAME.ome.zarr``; if it holds an image, the labels are put into
            it and refer to it. Labels of that name are replaced.
        labels: the label image.
        pixel_size_um: (y, x) size of a pixel in µm; None if unknown, the axes then have no unit.

    Raises:
        ExportError: if zarr is not installed.
        OutputError: if the folder cannot be written; no partial labels are left.
    """
    check_zarr()
    import zarr

    is_new = not path.exists()
    try:
        has_image = _open_image(path)
        group = zarr.open_group(path, mode="a", zarr_format=3)
        parent = group.require_group("labels")
        with _replacing_group(path / "labels" / ZARR_LABELS) as part:
            _write_levels(zarr.open_group(part, mode="w", zarr_format=3), labels)
            _describe(part, labels, pixel_size_um, has_image=has_image)
        names = list(_attributes(parent).get("labels", []))
        names += [] if ZARR_LABELS in names else [ZARR_LABELS]
        parent.attrs["ome"] = {"version": _VERSION, "labels": names}
    except BaseException as error:
        if is_new:
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, OSError):
            raise to_output_error(path, error) from error
        raise


def check_zarr() -> None:
    """Refuse to write OME-Zarr without its package, before any work is done for it.

    Raises:
        ExportError: if zarr is not installed.
    """
    try:
        import zarr  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            "found no zarr, expected it for OME-Zarr; install 'mediar-infer[zarr]'"
        ) from error


def _open_image(path: Path) -> bool:
    """Whether a group holds an image of this version; other content is not touched."""
    import zarr

    if not path.exists():
        return False
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError) as error:
        raise OutputError(
            f"{path}: found something that is no zarr group of format 3, expected an OME-Zarr"
            f" {_VERSION} image or nothing; choose another output folder"
        ) from error
    return "multiscales" in _attributes(group)


def _attributes(group: "zarr.Group") -> dict[str, Any]:
    attributes: Any = group.attrs.get("ome", {})
    return dict(attributes)


@contextmanager
def _replacing_group(path: Path) -> Iterator[Path]:
    """A folder beside a group that takes its place when the block ends well."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    shapes = [(height, width)]
    while max(shapes[-1]) > _SMALLEST_SIDE:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def _write_levels(group: "zarr.Group", labels: LabelRows) -> None:
    shapes = _level_shapes(labels.height, labels.width)
    levels = [_create_level(group, f"s{k}", shape) for k, shape in enumerate(shapes)]
    # A row of shards of the full resolution is cut down for all levels at once; where a level's
    # shards are higher than what comes of one row, they are written in parts.
    for top in range(0, labels.height, _SHARD):
        rows = labels.read(top, min(top + _SHARD, labels.height))
        for k, level in enumerate(levels):
            first = -(-top >> k) if top else 0
            thin = rows[(-top) % 2**k :: 2**k, :: 2**k]
            level[first : first + len(thin)] = thin


def _create_level(group: "zarr.Group", name: str, shape: Sequence[int]) -> "zarr.Array[Any]":
    chunk = tuple(min(_CHUNK, 2 ** max(0, (side - 1).bit_length())) for side in shape)
    shard = tuple(
        size * min(_SHARD // size, -(-side // size))
        for side, size in zip(shape, chunk, strict=True)
    )
    return group.create_array(
        name,
        shape=tuple(shape),
        chunks=chunk,
        shards=shard,
        dtype=np.uint32,
        fill_value=0,
        dimension_names=["y", "x"],
    )


def _describe(
    path: Path, labels: LabelRows, pixel_size_um: tuple[float, float] | None, *, has_image: bool
) -> None:
    import zarr

    unit = {} if pixel_size_um is None else {"unit": "micrometer"}
    size = pixel_size_um or (1.0, 1.0)
    datasets = [
        {
            "path": f"s{k}",
            "coordinateTransformations": [
                {"type": "scale", "scale": [size[0] * 2**k, size[1] * 2**k]}
            ],
        }
        for k in range(len(_level_shapes(labels.height, labels.width)))
    ]
    axes = [{"name": name, "type": "space", **unit} for name in "yx"]
    source = {"source": {"image": "../../"}} if has_image else {}
    zarr.open_group(path, mode="r+", zarr_format=3).attrs["ome"] = {
        "version": _VERSION,
        "multiscales": [{"name": ZARR_LABELS, "axes": axes, "datasets": datasets}],
        "image-label": {"version": _VERSION, **source},
    }
