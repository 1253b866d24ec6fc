"""Which planes of a stack, and which scene of a file, make the image: one rule for all formats."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ImageReadError, list_some
from mediar_infer.images.limits import ReadOptions
from mediar_infer.images.row_blocks import RowBlocks

StackAxes = Sequence[tuple[str, int]]
"""Letter and size of each axis of a stack apart from rows, columns and channels, slowest first."""

_PROJECTED_BYTES: Final = 64 * 2**20
"""Projected rows that are kept for the next read."""
_LISTED_SCENES: Final = 20


def choose_planes(
    name: str, axes: StackAxes, options: ReadOptions, *, shown: str, advice: str = ""
) -> tuple[list[int], list[str]]:
    """Choose one plane of a stack, or those that are projected to one.

    Args:
        name: file name, for messages.
        axes: axes of the stack.
        options: ``plane`` and ``project``.
        shown: what the file says of its axes, for messages.
        advice: what else could be done about a stack, a half-sentence.

    Returns:
        Planes, from 0 in the order of the axes, and sentences about choices without effect.

    Raises:
        ImageReadError: if it is open which planes are meant, or one beyond the last was asked for.
    """
    sizes = [size for _, size in axes]
    index = np.arange(int(np.prod(sizes, dtype=np.int64))).reshape(sizes)
    depth = _find_depth(axes)
    if options.project is None or index.size == 1:
        if depth is not None:
            advice = f"{advice} or take the maximum over z with --project max"
        chosen, notes = _choose_plane(name, shown, index.size, options.plane, advice)
        return [chosen], notes
    if depth is None:
        raise ImageReadError(
            f"{name}: found {index.size} planes ({shown}), expected a z-stack for --project"
            f" {options.project}; choose one with --plane N (0 to {index.size - 1})"
        )
    groups = np.moveaxis(index, depth, -1).reshape(-1, sizes[depth])
    left = f"{shown}, {len(groups)} after the projection of z"
    chosen, notes = _choose_plane(name, left, len(groups), options.plane, "")
    return [int(plane) for plane in groups[chosen]], notes


def _find_depth(axes: StackAxes) -> int | None:
    """Number of the z axis; an axis without a name is one if there is no other."""
    long = [(number, letter) for number, (letter, size) in enumerate(axes) if size > 1]
    depths = [number for number, letter in long if letter == "Z"]
    unnamed = [number for number, letter in long if letter in "QI" and len(long) == 1]
    return next(iter(depths or unnamed), None)


def _choose_plane(
    name: str, shown: str, n_planes: int, plane: int | None, advice: str
) -> tuple[int, list[str]]:
    if n_planes == 1:
        notes = [f"the image has one plane only: --plane {plane} has no effect"] if plane else []
        return 0, notes
    if plane is None:
        raise ImageReadError(
            f"{name}: found {n_planes} planes ({shown}), expected one 2-D image; choose one with"
            f" --plane N (0 to {n_planes - 1}){advice}"
        )
    if not 0 <= plane < n_planes:
        raise ImageReadError(
            f"{name}: found {n_planes} planes ({shown}), expected a --plane from 0 to"
            f" {n_planes - 1}, not {plane}"
        )
    return plane, []


def choose_scene(name: str, scenes: Sequence[str], options: ReadOptions) -> tuple[int, list[str]]:
    """Choose one scene of a file that may hold several images.

    Args:
        name: file name, for messages.
        scenes: name of each scene, empty where the file states none; at least one.
        options: ``scene``.

    Returns:
        The scene, from 0, and a sentence if the choice has no effect.

    Raises:
        ImageReadError: if there are several and none, or one beyond the last, was asked for.
    """
    scene = options.scene
    if len(scenes) == 1:
        is_idle = isinstance(scene, int) and scene > 0
        return 0, [f"the file has one scene only: --scene {scene} has no effect"] if is_idle else []
    if not isinstance(scene, int):
        titles = (f"{number} {title}".strip() for number, title in enumerate(scenes))
        raise ImageReadError(
            f"{name}: found {len(scenes)} scenes ({list_some(titles, _LISTED_SCENES)}),"
            " expected one image; choose one with --scene N, or all with --scene all"
        )
    if not 0 <= scene < len(scenes):
        raise ImageReadError(
            f"{name}: found {len(scenes)} scenes, expected a --scene from 0 to {len(scenes) - 1},"
            f" not {scene}"
        )
    return scene, []


class Projection:
    """Maximum over planes, computed in blocks of rows of which the last one is kept.

    Args:
        read: reads rows ``top`` … ``bottom - 1`` of a plane.
        planes: the planes.
        height: rows of a plane.
        row_bytes: bytes of one row.
        step: rows that are decoded together; a block is a multiple of it.
        nodata: value of pixels without a measurement, which counts only where nothing else is.
    """

    def __init__(
        self,
        read: Callable[[int, int, int], AnyArray],
        planes: Sequence[int],
        *,
        height: int,
        row_bytes: int,
        step: int = 1,
        nodata: np.generic | None = None,
    ) -> None:
        self._read, self._planes, self._height, self._nodata = read, planes, height, nodata
        n_together = max(1, _PROJECTED_BYTES // (step * row_bytes))
        self._blocks = RowBlocks(self._project, step * n_together)

    def rows(self, top: int, bottom: int) -> AnyArray:
        """Rows ``top`` … ``bottom - 1``; what is not a number counts only where nothing else is."""
        if len(self._planes) == 1:
            return self._read(self._planes[0], top, bottom)
        return self._blocks.rows(top, bottom)

    def _project(self, number: int) -> AnyArray:
        start = number * self._blocks.step
        stop = min(start + self._blocks.step, self._height)
        block = self._read(self._planes[0], start, stop).copy()
        for plane in self._planes[1:]:
            rows = self._read(plane, start, stop)
            if self._nodata is not None:
                rows = np.where(rows == self._nodata, block, rows)
                np.copyto(block, rows, where=block == self._nodata)
            np.fmax(block, rows, out=block)
        return block
