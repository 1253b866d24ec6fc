"""A layer of napari as an image of the engine, and where its labels lie."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mediar_infer.arrays import AnyArray
from mediar_infer.errors import ShapeError
from mediar_infer.images.channels import channel_notes, check_choice, find_channels
from mediar_infer.images.geometry import Geometry
from mediar_infer.images.sources import ImageSource, holds_intensities

_RGB_CHANNELS: Final = 3
_UM_PER_UNIT: Final = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3}


class LayerPlane:
    """The plane of a layer that a viewer shows: rows and columns, at a place on all other axes.

    Rows and columns are the last two axes that are not channels. Of a multiscale layer it is the
    plane of the finest level.

    Args:
        layer: an ``Image`` or ``Labels`` layer.
        point: where the viewer stands, in world coordinates (``viewer.dims.point``).
        channel_axis: number of the axis that holds channels; None if none does.

    Raises:
        ShapeError: if the layer has fewer than two other axes, or no plane where the viewer stands.
    """

    def __init__(
        self,
        layer: Any,  # noqa: ANN401 (napari has no types here)
        point: Sequence[float],
        channel_axis: int | None = None,
    ) -> None:
        self.layer, self.channel_axis = layer, channel_axis
        self.data = layer.data[0] if layer.multiscale else layer.data
        self.is_rgb = bool(getattr(layer, "rgb", False))
        axes = [axis for axis in range(layer.ndim) if axis != channel_axis]
        if len(axes) < 2:
            raise ShapeError(
                f"{layer.name}: found a layer of {layer.ndim} axes, one of them channels, expected"
                " rows and columns besides; choose another channel axis"
            )
        self.rows, self.columns = axes[-2:]
        self._seen_from = tuple(point)
        nearest = np.rint(layer.world_to_data(point))
        self.index = {axis: int(nearest[axis]) for axis in axes[:-2]}
        """Axis → place on it, of all axes but rows, columns and channels."""
        for axis, place in self.index.items():
            n_planes = int(self.data.shape[axis])
            if not 0 <= place < n_planes:
                raise ShapeError(
                    f"{layer.name}: found no plane {place} on axis {axis}, expected 0 to"
                    f" {n_planes - 1}; move the slider to a plane of this layer, or choose another"
                    " layer"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.data.shape[self.rows]), int(self.data.shape[self.columns])

    @property
    def n_channels(self) -> int:
        """Channels, without opacity."""
        if self.is_rgb:
            return _RGB_CHANNELS
        return 1 if self.channel_axis is None else int(self.data.shape[self.channel_axis])

    @property
    def point(self) -> tuple[float, ...]:
        """Where this plane lies, in world coordinates: the viewer may stand between two planes."""
        layer, seen_from = self.layer, self._seen_from
        place = np.array(layer.world_to_data(seen_from), float)
        place[list(self.index)] = list(self.index.values())
        return (*seen_from[: -layer.ndim], *map(float, layer.data_to_world(place)))

    @property
    def pixel_size_um(self) -> tuple[float, float] | None:
        """Height and width of a pixel; None if the layer states no unit of length."""
        units = [str(self.layer.units[axis]) for axis in (self.rows, self.columns)]
        if not _UM_PER_UNIT.keys() >= set(units):
            return None
        height, width = (
            abs(float(self.layer.scale[axis])) * _UM_PER_UNIT[unit]
            for axis, unit in zip((self.rows, self.columns), units, strict=True)
        )
        return height, width

    def read_rows(self, top: int, bottom: int) -> AnyArray:
        """Rows ``top`` … ``bottom - 1`` as ``(rows, W)`` or ``(rows, W, C)``."""
        window: list[int | slice] = [slice(None)] * len(self.data.shape)
        for axis, place in self.index.items():
            window[axis] = place
        window[self.rows] = slice(top, bottom)
        rows = np.asarray(self.data[tuple(window)])
        if self.is_rgb:
            return rows[..., :_RGB_CHANNELS]
        if self.channel_axis is None:
            return rows
        n_before = sum(axis < self.channel_axis for axis in (self.rows, self.columns))
        return np.moveaxis(rows, n_before, -1)

    def read_labels(self, layer: Any) -> AnyArray:  # noqa: ANN401 (napari has no types here)
        """Labels of this plane, as ``place_labels`` or a person laid them.

        Args:
            layer: a ``Labels`` layer, of as many axes as this one, or of fewer or more leading
                ones. An axis of length 1 in the place of the channels is dropped.

        Returns:
            ``(H, W)``.

        Raises:
            ShapeError: if the layer has no labels where this plane lies.
        """
        data = layer.data[0] if layer.multiscale else layer.data
        axis = None
        if self.channel_axis is not None:
            # The viewer aligns the last axes of its layers.
            aligned = self.channel_axis + layer.ndim - self.layer.ndim
            axis = aligned if aligned >= 0 and data.shape[aligned] == 1 else None
        drawn = LayerPlane(layer, self.point, axis)
        rows = drawn.read_rows(0, drawn.shape[0])
        return rows if axis is None else rows[..., 0]

    def place_labels(self, labels: npt.NDArray[Any]) -> tuple[AnyArray, dict[str, Any]]:
        """Put labels where the plane lies in the world.

        Args:
            labels: ``(H, W)``.

        Returns:
            The labels with axes of length 1 for the axes of a stack, and scale, units, translation
            and so on for ``viewer.add_labels``. A leading axis of channels is dropped, so labels
            are seen whichever channel is.
        """
        layer = self.layer
        first = self.rows if not self.index else 0
        axes = list(range(first, layer.ndim))
        inside = [slice(None) if axis in (self.rows, self.columns) else None for axis in axes]
        origin = np.zeros(layer.ndim)
        for axis, place in self.index.items():
            origin[axis] = place
        corner = layer.affine.inverse(layer.data_to_world(origin))
        settings = {
            "scale": np.asarray(layer.scale)[axes],
            "translate": np.asarray(corner)[axes],
            "rotate": np.asarray(layer.rotate)[np.ix_(axes, axes)],
            "shear": _submatrix_of_shear(layer.shear, layer.ndim, axes),
            "affine": layer.affine.set_slice(axes),
            "units": tuple(layer.units[axis] for axis in axes),
            "axis_labels": tuple(layer.axis_labels[axis] for axis in axes),
        }
        return labels[tuple(inside)], settings


def _submatrix_of_shear(shear: npt.ArrayLike, n_axes: int, axes: Sequence[int]) -> AnyArray:
    """The shear among some axes, as napari stores it: what is above the diagonal, row by row."""
    values = np.asarray(shear)
    if values.ndim == 2:
        return values[np.ix_(axes, axes)]
    matrix = np.eye(n_axes)
    matrix[np.triu_indices(n_axes, 1)] = values
    return matrix[np.ix_(axes, axes)][np.triu_indices(len(axes), 1)]


class LayerSource(ImageSource):
    """A plane of a layer, read by rows: a lazy array is computed as far as its rows are needed.

    Args:
        plane: the plane.
        channels: numbers of the channels to segment, from 0; by default the first three.

    Raises:
        ImageReadError: if a channel does not exist.
        ShapeError: if it holds no pixels, or no real numbers.
        UsageError: if no image can satisfy the choice of channels.
    """

    def __init__(self, plane: LayerPlane, channels: Sequence[str | int] = ()) -> None:
        check_choice(channels)
        name, (height, width) = plane.layer.name, plane.shape
        dtype = np.dtype(plane.data.dtype)
        if not holds_intensities(dtype) or not height * width * plane.n_channels:
            raise ShapeError(
                f"{name}: found {height} × {width} pixels of type {dtype}, expected one pixel or"
                " more of integers or floats; convert the layer first"
            )
        channel_names = ("",) * plane.n_channels
        size_um = plane.pixel_size_um
        super().__init__(
            name,
            height=height,
            width=width,
            dtype=dtype,
            warnings=[] if channels else channel_notes(plane.n_channels),
            geometry=None if size_um is None else Geometry.of_size(size_um),
            channel_names=channel_names,
            picked=find_channels(name, channels, channel_names),
        )
        self._plane = plane

    def _read_channels(self, top: int, bottom: int) -> AnyArray:
        return self._plane.read_rows(top, bottom)
