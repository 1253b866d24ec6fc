"""The widget that saves an image and its corrected labels for training."""

from typing import Any

from magicgui.widgets import (
    CheckBox,
    Container,
    FileEdit,
    Label,
    LineEdit,
    PushButton,
    create_widget,
)
from napari.utils.notifications import show_error

from mediar_infer.errors import MediarError, UsageError
from mediar_infer.napari_plugin.image_choice import NO_LABEL, ImageChoice
from mediar_infer.napari_plugin.layers import LayerPlane
from mediar_infer.napari_plugin.training_pairs import save_training_pair


class PairWidget(Container):  # type: ignore[misc]  # napari's packages have no types here
    """Image, labels, folder and name, and a button that saves.

    Args:
        napari_viewer: the viewer; napari passes it by this name.
    """

    def __init__(self, napari_viewer: Any) -> None:  # noqa: ANN401
        self._viewer = napari_viewer
        self.choice = ImageChoice(napari_viewer)
        self.labels_layer = create_widget(
            name="labels_layer", label="Labels", annotation="napari.layers.Labels",
            options={"tooltip": "Layer of corrected labels"},
        )  # fmt: skip
        self.folder = FileEdit(
            name="folder", label="Folder", mode="d", nullable=True,
            tooltip="Folder of all pairs, to be given to tune",
        )  # fmt: skip
        self.pair_name = LineEdit(
            name="pair_name", label="Name", tooltip="Empty: the name of the image layer"
        )
        self.replaces = CheckBox(
            name="replaces", label=NO_LABEL, text="Replace a pair of this name"
        )
        self.save = PushButton(name="save", text="Save pair")
        self.result = Label(name="result", label=NO_LABEL, value="")
        super().__init__(
            widgets=[
                *self.choice.widgets, self.labels_layer, self.folder, self.pair_name, self.replaces,
                self.save, self.result,
            ]
        )  # fmt: skip
        self.save.changed.connect(self._save)

    def _save(self) -> None:
        try:
            plane, source = self.choice.open()
            if self.labels_layer.value is None:
                raise UsageError("found no labels layer, expected one; segment the image first")
            if self.folder.value is None:
                raise UsageError("found no folder, expected one for the pairs; choose it")
            image_path, target = save_training_pair(
                self.folder.value,
                self.pair_name.value.strip() or _default_name(plane),
                source,
                plane.read_labels(self.labels_layer.value),
                plane.pixel_size_um,
                replaces=self.replaces.value,
            )
        except MediarError as error:
            self.result.value = "not saved"
            show_error(str(error))
            return
        self.result.value = f"saved {image_path.name} and {target.name}"


def _default_name(plane: LayerPlane) -> str:
    return "_".join([plane.layer.name, *map(str, plane.index.values())])
