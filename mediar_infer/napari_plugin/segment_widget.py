"""The widget that segments an image layer."""

from typing import Any, Final

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FileEdit,
    FloatSpinBox,
    Label,
    LineEdit,
    ProgressBar,
    PushButton,
)
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_warning

from mediar_infer.commands.arguments import read_field_docs
from mediar_infer.config import (
    PLANS,
    CellSize,
    EngineConfig,
    MaskConfig,
    parse_flow_threshold,
    parse_scale,
)
from mediar_infer.errors import MediarError
from mediar_infer.napari_plugin.image_choice import NO_LABEL, ImageChoice
from mediar_infer.napari_plugin.layers import LayerPlane
from mediar_infer.napari_plugin.steps import SegmentedPlane, segment_in_steps
from mediar_infer.scales.choice import find_pixel_size_mm

_PERCENT: Final = 100
_BY_LAYER: Final = (
    "give the layer its scale and the unit µm, or the cell size in pixels, such as 30"
)


class SegmentWidget(Container):  # type: ignore[misc]  # napari's packages have no types here
    """Settings, a button that segments in a thread, and one that stops it between two bands.

    Args:
        napari_viewer: the viewer; napari passes it by this name.
    """

    def __init__(self, napari_viewer: Any) -> None:  # noqa: ANN401
        self._viewer, self._worker = napari_viewer, None
        masks, help_of = MaskConfig(), read_field_docs(MaskConfig) | read_field_docs(EngineConfig)
        self.choice = ImageChoice(napari_viewer)
        self.weights = FileEdit(
            name="weights", label="Weights", mode="d", nullable=True,
            tooltip="Folder or file of weights. Empty: the pair that comes with the package",
        )  # fmt: skip
        self.plan = ComboBox(
            name="plan", label="Plan", choices=list(PLANS),
            tooltip=help_of.get("plan", ""),
        )  # fmt: skip
        self.scale = LineEdit(
            name="scale", label="Scale", value=f"{EngineConfig().scale:g}",
            tooltip=help_of.get("scale", ""),
        )  # fmt: skip
        self.cell_size = LineEdit(
            name="cell_size", label="Cell size", tooltip=help_of.get("cell_size", "")
        )
        self.cellprob_threshold = FloatSpinBox(
            name="cellprob_threshold", label="Cell probability", min=0.01, max=0.99, step=0.05,
            value=masks.cellprob_threshold, tooltip=help_of.get("cellprob_threshold", ""),
        )  # fmt: skip
        self.flow_threshold = LineEdit(
            name="flow_threshold", label="Flow error", value=str(masks.flow_threshold),
            tooltip=help_of.get("flow_threshold", ""),
        )  # fmt: skip
        self.fill_holes = CheckBox(
            name="fill_holes", label=NO_LABEL, text="Fill holes of cells", value=masks.fill_holes,
            tooltip=help_of.get("fill_holes", ""),
        )  # fmt: skip
        self.segment = PushButton(name="segment", text="Segment")
        self.cancel = PushButton(name="cancel", text="Cancel", enabled=False)
        self.progress = ProgressBar(name="progress", label=NO_LABEL, min=0, max=_PERCENT, value=0)
        self.result = Label(name="result", label=NO_LABEL, value="")
        super().__init__(
            widgets=[
                *self.choice.widgets, self.weights, self.plan, self.scale, self.cell_size,
                self.cellprob_threshold, self.flow_threshold, self.fill_holes,
                Container(
                    widgets=[self.segment, self.cancel], layout="horizontal", labels=False,
                    label=NO_LABEL,
                ),
                self.progress, self.result,
            ]
        )  # fmt: skip
        self.segment.changed.connect(self._start)
        self.cancel.changed.connect(self._cancel)

    def to_config(self) -> EngineConfig:
        """Settings of the engine as they are chosen.

        Raises:
            UsageError: if a value is out of its range, or no scale, size or threshold.
        """
        cell_size = self.cell_size.value.strip()
        masks = MaskConfig(
            cellprob_threshold=self.cellprob_threshold.value,
            flow_threshold=parse_flow_threshold(self.flow_threshold.value),
            fill_holes=self.fill_holes.value,
        )
        return EngineConfig(
            plan=PLANS[self.plan.value],
            masks=masks,
            scale=parse_scale(self.scale.value),
            cell_size=CellSize.parse(cell_size) if cell_size else None,
        )

    def _start(self) -> None:
        """Segment the chosen plane in a thread."""
        try:
            plane, source = self.choice.open()
            config = self.to_config()
            if config.cell_size is not None and config.cell_size.unit == "um":
                # Now, and not after the networks were loaded.
                find_pixel_size_mm(source, config.cell_size, _BY_LAYER)
        except MediarError as error:
            show_error(str(error))
            return
        weights = () if self.weights.value is None else (self.weights.value,)
        worker = create_worker(segment_in_steps, source, weights, config, _ignore_errors=True)
        worker.yielded.connect(self._show_progress)
        worker.returned.connect(lambda found: self._add_labels(plane, found))
        worker.aborted.connect(lambda: self._show_result("cancelled"))
        worker.errored.connect(self._show_error)
        worker.finished.connect(self._finish)
        self._worker = worker
        self.segment.enabled, self.cancel.enabled = False, True
        self._show_result("loading the networks …")
        worker.start()

    def _cancel(self) -> None:
        if self._worker is not None:
            self._worker.quit()
            self._show_result("stopping after this band of rows …")

    def _finish(self) -> None:
        self._worker = None
        self.segment.enabled, self.cancel.enabled = True, False
        self.progress.value = 0

    def _show_progress(self, fraction: float) -> None:
        self.progress.value = round(fraction * _PERCENT)
        if fraction > 0:
            self._show_result(f"{fraction:.0%} of the rows")

    def _show_result(self, text: str) -> None:
        self.result.value = text

    def _show_error(self, error: Exception) -> None:
        self._show_result("failed")
        show_error(str(error))

    def _add_labels(self, plane: LayerPlane, found: SegmentedPlane) -> None:
        labels, settings = plane.place_labels(found.labels)
        place = "".join(f" {index}" for index in plane.index.values())
        self._viewer.add_labels(labels, name=f"{plane.layer.name}{place} cells", **settings)
        seen = "" if found.scale == 1 else f", seen at scale {found.scale:.3g}"
        self._show_result(f"{found.n_cells} cells in {found.seconds:.1f} s{seen}")
        for warning in found.warnings:
            show_warning(f"{plane.layer.name}: {warning}")
