"""The part of a widget that says which image, and which of its channels."""

from typing import Any, Final

from magicgui.widgets import ComboBox, LineEdit, create_widget

from mediar_infer.errors import UsageError
from mediar_infer.napari_plugin.layers import LayerPlane, LayerSource

NO_AXIS: Final = "none"
"""Choice of the channel axis of an image without one."""
NO_LABEL: Final = " "
"""Label of a widget that needs none; magicgui shows the name in place of an empty one."""
_PLANE_AXES: Final = 2


class ImageChoice:
    """An image layer, its axis of channels and the channels to use.

    Args:
        viewer: the viewer whose layers can be chosen.
    """

    def __init__(self, viewer: Any) -> None:  # noqa: ANN401 (napari has no types here)
        self._viewer = viewer
        self.image = create_widget(
            name="image", label="Image", annotation="napari.layers.Image",
            options={"tooltip": "Layer to segment; of a stack, the plane that is shown"},
        )  # fmt: skip
        self.channel_axis = ComboBox(
            name="channel_axis", label="Channel axis", choices=self._list_axes,
            tooltip="Axis of the layer that holds channels, if one does",
        )  # fmt: skip
        self.channels = LineEdit(
            name="channels", label="Channels",
            tooltip="One to three numbers from 0, such as 2 or 2,0; 0+2 merges two, - is zeros."
            " Empty: the first three",
        )  # fmt: skip
        self.widgets = [self.image, self.channel_axis, self.channels]
        """Widgets in the order in which they are shown."""
        self.image.changed.connect(self._offer_channels)

    def _offer_channels(self, layer: Any) -> None:  # noqa: ANN401
        self.channel_axis.reset_choices()
        has_more = layer is not None and layer.ndim > _PLANE_AXES
        self.channel_axis.enabled = has_more
        self.channels.enabled = has_more or (layer is not None and layer.rgb)

    def _list_axes(self, _widget: Any) -> list[tuple[str, int | None]]:  # noqa: ANN401
        """Name and number of each axis; an axis called c or channel comes first."""
        layer = self.image.value
        if layer is None or layer.rgb or layer.ndim <= _PLANE_AXES:
            return [(NO_AXIS, None)]
        data = layer.data[0] if layer.multiscale else layer.data
        axes: list[tuple[str, int | None]] = [
            (f"{axis} (of {data.shape[axis]})", axis) for axis in range(layer.ndim)
        ]
        named = [
            axis
            for axis, label in enumerate(layer.axis_labels)
            if label.casefold() in ("c", "channel", "channels")
        ]
        first = [axes.pop(axis) for axis in named[:1]]
        return [*first, (NO_AXIS, None), *axes]

    def open(self) -> tuple[LayerPlane, LayerSource]:
        """Open the plane that is shown.

        Raises:
            ImageReadError: if a channel does not exist.
            ShapeError: if the layer is no image.
            UsageError: if no image is chosen, or the channels cannot be satisfied.
        """
        layer = self.image.value
        if layer is None:
            raise UsageError("found no image layer, expected one; open an image first")
        text = self.channels.value.strip()
        channels = tuple(name.strip() for name in text.split(",")) if text else ()
        plane = LayerPlane(layer, self._viewer.dims.point, self.channel_axis.value)
        return plane, LayerSource(plane, channels)
