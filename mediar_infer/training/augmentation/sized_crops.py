"""Crops whose zoom follows the size of the cells, so that cells of all sizes are seen.

Sources differ in size more than cells of one source do. A zoom drawn without a look at them leaves
most crops near the sizes that the sources happen to have.
"""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from monai import transforms
from skimage.measure import label as split_regions

from mediar_infer.arrays import Float32Array, LabelArray
from mediar_infer.training.augmentation.crop_entries import IMAGE, LABEL, to_entries
from mediar_infer.training.augmentation.microscopes import draw_log
from mediar_infer.training.augmentation.settings import Range

_TRIES: Final = 3
_STRETCH: Final = (0.87, 1.15)
_LEAST_SHOWN: Final = 0.85
_ENLARGED: Final = 1.2
"""Images that are zoomed by more are interpolated smoothly, and outlines of their cells too."""


def measure_cell_size(labels: LabelArray) -> float:
    """Median diameter of the cells, as circles of their areas, in pixels; 0 without cells.

    Args:
        labels: ``(H, W)`` int32, 0 = background. Not modified.
    """
    if int(labels.max(initial=0)) > labels.size:
        # Counts by id would take more memory than the image.
        ids, areas = np.unique(labels, return_counts=True)
        areas = areas[ids > 0]
    else:
        areas = np.bincount(labels.ravel())[1:]
        areas = areas[areas > 0]
    return 2 * math.sqrt(float(np.median(areas)) / math.pi) if areas.size else 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What a crop shows of an image.

    Convention:
        - (y, x) order; pixel centres at integers.
    """

    centre: tuple[float, float]
    """Place in the image that the crop's middle shows."""
    zoom: tuple[float, float]
    """Crop pixels per image pixel along the crop's y and x."""
    angle: float
    """Turn in radians."""
    size: int
    """Side of the crop in pixels."""
    mirrors: bool
    """Beyond its edge the image goes on as its mirror image; otherwise black without cells."""

    def to_image(self) -> npt.NDArray[np.float64]:
        """``(2, 3)`` affine map from (x, y, 1) of the crop to (x, y) of the image."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        along_y, along_x = 1 / self.zoom[0], 1 / self.zoom[1]
        matrix = np.array([[cosine * along_x, -sine * along_y], [sine * along_x, cosine * along_y]])
        middle = np.full(2, (self.size - 1) / 2)
        offset = np.array(self.centre[::-1]) - matrix @ middle
        return np.column_stack([matrix, offset])

    @property
    def is_enlarged(self) -> bool:
        """Whether pixels are shown so much larger that their edges would be seen."""
        return min(self.zoom) > _ENLARGED

    def reaches_beyond(self, shape: tuple[int, ...]) -> bool:
        """Whether a pixel shows a place beyond the edge of an image of this height and width."""
        last = self.size - 1
        corners = np.array([(x, y, 1) for x in (0, last) for y in (0, last)])
        places = _nearest(corners @ self.to_image().T)
        return bool((places < 0).any() or (places >= shape[1::-1]).any())


def cut_view(
    image: npt.NDArray[Any], labels: LabelArray, view: View
) -> tuple[Float32Array, LabelArray]:
    """Cut a view out of an image: smooth where it is enlarged, averaged where it is shrunk.

    Args:
        image: ``(H, W, 3)`` uint8 or float32. Not modified.
        labels: ``(H, W)`` int32. Not modified.
        view: what to show.

    Returns:
        ``(S, S, 3)`` float32 in the range of the image, and ``(S, S)`` int32. Where the image goes
        on as its mirror image, each 8-connected part of a cell is a cell with an id of its own.
    """
    cut_all = enlarge_labels if view.is_enlarged else cut_labels
    cut = cut_all(labels, view.to_image(), view.size, mirrors=view.mirrors)
    if view.mirrors and view.reaches_beyond(labels.shape):
        # A cell and its mirror image elsewhere would have one centre, to which only one flows.
        cut = split_regions(cut, connectivity=2).astype(np.int32)
    return _cut_image(image, view), cut


def _cut_image(image: npt.NDArray[Any], view: View) -> Float32Array:
    source, to_source = image, view.to_image()
    shrinking = min(1.0, math.sqrt(view.zoom[0] * view.zoom[1]))
    if shrinking < 0.8:
        source, to_source = _shrink(image, to_source, shrinking)
    method = cv2.INTER_CUBIC if view.is_enlarged else cv2.INTER_LINEAR
    shown: Float32Array = cv2.warpAffine(
        np.ascontiguousarray(source),
        to_source,
        (view.size, view.size),
        flags=method | cv2.WARP_INVERSE_MAP,
        # The axis of the mirror is the outer edge of the last pixel, which shrinking does not move.
        borderMode=cv2.BORDER_REFLECT if view.mirrors else cv2.BORDER_CONSTANT,
    ).astype(np.float32)
    return shown


def _shrink(
    image: npt.NDArray[Any], to_image: npt.NDArray[np.float64], factor: float
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """An image averaged to a part of its size, and the map that leads to the same places in it."""
    height, width = (max(1, round(n * factor)) for n in image.shape[:2])
    shrunk = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    scale = np.array([width / image.shape[1], height / image.shape[0]])
    to_shrunk = to_image * scale[:, None]
    to_shrunk[:, 2] += scale / 2 - 0.5
    return shrunk, to_shrunk


def cut_labels(
    labels: LabelArray, to_image: npt.NDArray[np.float64], size: int, *, mirrors: bool
) -> LabelArray:
    """Cut a view out of labels: each pixel is the one nearest to its centre.

    Args:
        labels: ``(H, W)`` int32. Not modified.
        to_image: ``(2, 3)`` map of :meth:`View.to_image`.
        size: side of the crop in pixels.
        mirrors: beyond the edge labels go on as their mirror image; otherwise they are 0 there.

    Returns:
        ``(size, size)`` int32.
    """
    y, x = map(_nearest, _find_places(to_image, size))
    height, width = labels.shape
    if mirrors:
        return labels[_mirror(y, height), _mirror(x, width)]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    nearest = labels[y.clip(0, height - 1), x.clip(0, width - 1)]
    cut: LabelArray = np.where(inside, nearest, np.int32(0))
    return cut


def enlarge_labels(
    labels: LabelArray, to_image: npt.NDArray[np.float64], size: int, *, mirrors: bool
) -> LabelArray:
    """Cut an enlarged view out of labels, with smooth outlines instead of the edges of pixels.

    A pixel of the crop gets the id, or the background, that weighs most among the 3 × 3 pixels
    around the place that it shows, by a quadratic B-spline. Lines and gaps of one pixel along the
    axes keep their width; a cell of a single pixel may vanish.

    Args:
        labels: ``(H, W)`` int32. Not modified.
        to_image: as for :func:`cut_labels`.
        size: as for :func:`cut_labels`.
        mirrors: as for :func:`cut_labels`.

    Returns:
        ``(size, size)`` int32.
    """
    places = _find_places(to_image, size)
    y, x = map(_nearest, places)
    first = y.min() - 1, x.min() - 1
    shown = _cut_rectangle(labels, first, (y.max() + 2, x.max() + 2), mirrors=mirrors)
    n_columns = shown.shape[1]
    index = (y - first[0]) * n_columns + (x - first[1])
    cut: LabelArray = shown.ravel()[index]
    mixed = np.flatnonzero(_find_mixed(shown).ravel()[index])
    nearest, index = cut.ravel()[mixed], index.ravel()[mixed]
    weights_y, weights_x = (
        _spline_weights((place - whole).ravel()[mixed].astype(np.float32))
        for place, whole in zip(places, (y, x), strict=True)
    )
    weights = (weights_y[:, None] * weights_x).reshape(9, -1)
    steps = np.add.outer(np.arange(-1, 2) * n_columns, np.arange(-1, 2)).ravel()
    around = shown.ravel()[index + steps[:, None]]
    # Mostly the nearest pixel's label has more than all others together.
    open_ = np.flatnonzero((weights * (around == nearest)).sum(axis=0) < 0.5)
    weights, around = weights[:, open_], around[:, open_]
    votes = np.stack([(weights * (around == each)).sum(axis=0) for each in around])
    cut.ravel()[mixed[open_]] = around[votes.argmax(axis=0), np.arange(open_.size)]
    return cut


def _find_places(
    to_image: npt.NDArray[np.float64], size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``(size, size)`` y and x in the image of each pixel of a crop."""
    steps = np.arange(size)
    x, y = (row[0] * steps[None, :] + row[1] * steps[:, None] + row[2] for row in to_image)
    return y, x


def _cut_rectangle(
    labels: LabelArray, first: tuple[int, int], last: tuple[int, int], *, mirrors: bool
) -> LabelArray:
    """Cut whole pixels out of labels, from a first place to before a last one."""
    rows, columns = (np.arange(*ends) for ends in zip(first, last, strict=True))
    height, width = labels.shape
    if mirrors:
        return labels[_mirror(rows, height)[:, None], _mirror(columns, width)]
    cut: LabelArray = labels[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
    cut[(rows < 0) | (rows >= height)] = 0
    cut[:, (columns < 0) | (columns >= width)] = 0
    return cut


def _find_mixed(labels: LabelArray) -> npt.NDArray[np.bool_]:
    """``(H, W)`` pixels of which a 4-neighbour inside the array has another label.

    Where only a corner differs, the pixel and its 4-neighbours weigh more than half together.
    """
    mixed = np.zeros(labels.shape, np.bool_)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[one] != labels[other]
        mixed[one] |= differ
        mixed[other] |= differ
    return mixed


def _spline_weights(offset: Float32Array) -> Float32Array:
    """``(3, n)`` weights of the pixels before, at and after the one nearest to a place.

    Args:
        offset: ``(n,)`` from that pixel to the place, -0.5 to 0.5.
    """
    return np.stack([(0.5 - offset) ** 2 / 2, 0.75 - offset**2, (0.5 + offset) ** 2 / 2])


def _nearest(places: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Pixels nearest to places."""
    # Half-way places all round up: with numpy's rounding to even numbers, a view from between the
    # pixels would lose every second row or column.
    rounded: npt.NDArray[np.int64] = np.floor(places + 0.5).astype(np.int64)
    return rounded


def _mirror(places: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    folded = places % (2 * length)
    mirrored: npt.NDArray[np.int64] = np.minimum(folded, 2 * length - 1 - folded)
    return mirrored


class RandSizedCropd(transforms.RandomizableTransform):  # type: ignore[misc]
    """Zoom to a random size of the cells, turn, stretch a little, and cut a crop.

    A crop without any cell is drawn anew, up to three times.

    Args:
        crop_size: side of the crop in pixels.
        prob: how often the cells get a random size.
        cell_size_range: median diameters of the cells in pixels; every factor is as likely as any
            other.
        kept_zoom_range: zooms of the other crops.
        zoom_range: smallest and largest zoom; where black is shown beyond the edge, no image is
            shrunk to less than 0.85 of the crop.
        turn_prob: how often the crop is turned by any angle and stretched along one axis; beyond
            its edge, a turned image goes on as its mirror image.
        mirror_prob: how often a crop that is not turned shows the mirror image there instead of
            black.
    """

    def __init__(
        self,
        crop_size: int,
        *,
        prob: float,
        cell_size_range: Range,
        kept_zoom_range: Range,
        zoom_range: Range,
        turn_prob: float,
        mirror_prob: float,
    ) -> None:
        super().__init__(prob)
        self.crop_size = crop_size
        self.cell_size_range = cell_size_range
        self.kept_zoom_range = kept_zoom_range
        self.zoom_range = zoom_range
        self.turn_prob = turn_prob
        self.mirror_prob = mirror_prob

    def draw_view(self, shape: tuple[int, int], cell_size: float) -> View:
        """Draw what the crop shows.

        Args:
            shape: height and width of the image.
            cell_size: median diameter of its cells in pixels; 0 without cells.
        """
        self.randomize(None)
        zoom = draw_log(self.R, self.kept_zoom_range)
        if self._do_transform and cell_size > 0:
            zoom = draw_log(self.R, self.cell_size_range) / cell_size
        is_turned = bool(self.R.uniform() < self.turn_prob)
        mirrors = is_turned or bool(self.R.uniform() < self.mirror_prob)
        # Shrunk images would leave most of the crop black.
        filling = 0.0 if mirrors else _LEAST_SHOWN * self.crop_size / min(shape)
        smallest = max(self.zoom_range[0], min(1.0, filling))
        zoom = float(np.clip(zoom, smallest, max(smallest, self.zoom_range[1])))
        stretch = draw_log(self.R, _STRETCH) if is_turned else 1.0
        angle = self.R.uniform(0, 2 * math.pi) if is_turned else 0.0
        zooms = (zoom * stretch, zoom / stretch)
        y, x = (
            self._draw_centre(length, self.crop_size / each)
            for length, each in zip(shape, zooms, strict=True)
        )
        if zoom == 1 and not is_turned:
            y, x = self._move_to_pixels(y), self._move_to_pixels(x)
        return View((y, x), zooms, angle, self.crop_size, mirrors=mirrors)

    def _draw_centre(self, length: int, shown: float) -> float:
        middle, spare = (length - 1) / 2, length - shown
        return middle + self.R.uniform(-0.5, 0.5) * spare if spare > 0 else middle

    def _move_to_pixels(self, centre: float) -> float:
        """Centre nearby with which no pixel of an image that keeps its size is interpolated."""
        to_first = (self.crop_size - 1) / 2
        return math.floor(centre - to_first + 0.5) + to_first

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the crop out of image and labels."""
        image, labels = np.asarray(data[IMAGE]), np.asarray(data[LABEL])
        cell_size = measure_cell_size(labels[0])
        for _ in range(_TRIES):
            view = self.draw_view(labels.shape[1:], cell_size)
            cut = cut_labels(labels[0], view.to_image(), view.size, mirrors=view.mirrors)
            if cut.any() or cell_size == 0:
                break
        crop, cut = cut_view(np.moveaxis(image, 0, 2), labels[0], view)
        return dict(data) | to_entries(crop, cut, is_in_bytes=image.dtype == np.uint8)
