"""napari itself with the plugin: manifest, reader, samples, and both widgets in a real window.

Needs napari with a Qt binding, pytest-qt, and a display: ``xvfb-run`` gives one without a screen.
"""

import importlib.util
import os

import numpy as np
import pytest
import tifffile
from fakes import FunctionBackend, draw_discs, know_cells_of
from folder_helpers import slide
from slides import decode_scene

from mediar_infer.config import EngineConfig
from mediar_infer.demo.scenes import make_scene
from mediar_infer.images.geometry import Geometry
from mediar_infer.labels.files import write_labels
from mediar_infer.labels.metrics import evaluate_labels
from mediar_infer.labels.reading import read_labels
from mediar_infer.napari_plugin import steps
from mediar_infer.segmenter import Segmenter
from mediar_infer.training.__main__ import main as train

if missing := [name for name in ("napari", "pytestqt") if importlib.util.find_spec(name) is None]:
    pytest.skip(f"needs {' and '.join(missing)}", allow_module_level=True)
if not os.environ.get("DISPLAY") and os.environ.get("QT_QPA_PLATFORM") != "offscreen":
    pytest.skip("needs a display; run it by xvfb-run", allow_module_level=True)

UM = 0.325
PLACE = Geometry((UM / 1000, UM / 1000), (0.0, 0.0), (1.0, 0.0, 0.0, 1.0))
pytestmark = pytest.mark.filterwarnings("default")  # those of napari and Qt are not ours
WAIT_MS = 60_000


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def network(monkeypatch):
    """A network that knows the generated slides, in place of any weights."""
    member = FunctionBackend(decode_scene, batch=1)
    asked = []

    def load(weights, config):
        asked.append((weights, config))
        return Segmenter([member], config, {}, 20.0)

    monkeypatch.setattr(steps, "load_segmenter", load)
    member.asked = asked
    return member


@pytest.fixture
def shown(monkeypatch):
    """Texts of the notifications."""
    from napari.utils.notifications import notification_manager

    texts = []
    monkeypatch.setattr(notification_manager, "dispatch", lambda note: texts.append(note.message))
    return texts


def dock(viewer, name):
    _, widget = viewer.window.add_plugin_dock_widget("mediar-infer", name)
    return widget


def segment(viewer, qtbot, image, **settings):
    """Segment a layer by the widget; the labels layer that was added."""
    widget = dock(viewer, "Segment cells")
    widget.choice.image.value = image
    widget.plan.value = "fast"
    own = ("channel_axis", "channels")
    for name, value in settings.items():
        getattr(widget.choice if name in own else widget, name).value = value
    n_layers = len(viewer.layers)
    widget.segment.changed.emit(True)
    qtbot.waitUntil(lambda: widget.segment.enabled, timeout=WAIT_MS)
    assert len(viewer.layers) == n_layers + 1, widget.result.value
    return viewer.layers[-1]


def f1(true, found):
    return evaluate_labels(true, np.asarray(found), (0.5,))[0].f1


def test_manifest_is_valid_and_every_command_is_there():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("mediar-infer")
    manifest.validate_imports()
    assert manifest.display_name == "MEDIAR"


def test_label_file_opens_as_labels_with_scale_and_table(viewer, tmp_path):
    _, true = slide()
    path = tmp_path / "a_label.tiff"
    write_labels(path, [true], height=120, width=150, geometry=PLACE)
    rows = ["image,label,area_px", *(f"a,{label},{label * 10}" for label in np.unique(true)[1:])]
    (tmp_path / "cells.csv").write_text("\n".join(rows))
    (layer,) = viewer.open(path, plugin="mediar-infer")
    assert type(layer).__name__ == "Labels"
    assert layer.scale == pytest.approx((UM, UM))
    assert {str(unit) for unit in layer.units} == {"micrometer"}
    assert (layer.data == true).all()
    label = int(true[60, 75]) or int(true.max())
    y, x = np.argwhere(true == label)[0]
    status = layer.get_status((y * UM, x * UM), world=True)
    assert f"area_px: {label * 10}" in status["coordinates"]


def test_other_files_of_the_name_are_left_to_napari(viewer, tmp_path):
    image = tmp_path / "dye_label.tif"
    tifffile.imwrite(image, make_scene("fluorescence", 200, 200, 0)[0])
    with pytest.raises(ValueError, match="refused the file"):
        viewer.open(image, plugin="mediar-infer")
    (layer,) = viewer.open(image)
    assert type(layer).__name__ == "Image"


@pytest.mark.parametrize(("key", "rgb"), [("nuclei", False), ("tissue", True)])
def test_samples_open(viewer, key, rgb):
    (layer,) = viewer.open_sample("mediar-infer", key)
    assert (type(layer).__name__, layer.rgb) == ("Image", rgb)
    assert layer.scale == pytest.approx((UM, UM))


def test_rgb_layer_with_a_scale(viewer, qtbot, network):
    image, true = slide()
    layer = viewer.add_image(image, name="a", scale=(UM, 0.5), translate=(3, 4), units=("um", "um"))
    found = segment(viewer, qtbot, layer)
    assert (type(found).__name__, found.name, found.data.shape) == ("Labels", "a cells", (120, 150))
    assert f1(true, found.data) == 1
    assert found.scale == pytest.approx((UM, 0.5))
    assert found.translate == pytest.approx((3, 4))
    assert found.units == layer.units
    assert (found.extent.world == layer.extent.world).all()


def test_turned_and_sheared_layer(viewer, qtbot, network):
    image, _ = slide()
    affine = np.array([[1, 0.2, 5], [0, 2, -7], [0, 0, 1]])
    layer = viewer.add_image(image, rotate=30, shear=[0.1], scale=(2, 3), affine=affine)
    found = segment(viewer, qtbot, layer)
    for point in ((0, 0), (10, 20)):
        assert found.data_to_world(point) == pytest.approx(layer.data_to_world(point))


def test_multiscale_layer_is_segmented_at_its_finest_level(viewer, qtbot, network):
    image, true = slide()
    layer = viewer.add_image([image, image[::2, ::2]], multiscale=True, scale=(UM, UM))
    found = segment(viewer, qtbot, layer)
    assert f1(true, found.data) == 1
    assert found.scale == pytest.approx((UM, UM))


def test_plane_of_a_stack_that_is_shown(viewer, qtbot, network):
    import dask.array

    slides = [slide(seed) for seed in range(3)]
    stack = dask.array.from_array(np.stack([image for image, _ in slides]), chunks=(1, 50, 150, 3))
    layer = viewer.add_image(stack, rgb=True, name="stack", scale=(2, UM, UM), translate=(10, 0, 0))
    viewer.dims.set_point(0, 14)
    found = segment(viewer, qtbot, layer)
    assert (found.name, found.data.shape) == ("stack 2 cells", (1, 120, 150))
    assert f1(slides[2][1], found.data[0]) == 1
    assert found.data_to_world((0, 0, 0)) == pytest.approx((14, 0, 0))


@pytest.mark.parametrize("axis", [0, 2])
def test_channels_of_a_layer(viewer, qtbot, network, axis):
    image, true = slide()
    channels = np.concatenate([np.zeros_like(image[..., :1]), image], axis=2)
    layer = viewer.add_image(np.moveaxis(channels, 2, axis), name="four", rgb=False)
    found = segment(viewer, qtbot, layer, channel_axis=axis, channels="1, 2,3")
    assert f1(true, found.data.squeeze()) == 1
    assert found.data.shape == ((120, 150) if axis == 0 else (120, 150, 1))


def test_channels_of_a_stack_lie_at_its_plane(viewer, qtbot, network):
    slides = [slide(seed) for seed in range(2)]
    stack = np.stack([np.moveaxis(image, -1, 0) for image, _ in slides])  # z, c, y, x
    layer = viewer.add_image(stack, rgb=False, axis_labels=("z", "c", "y", "x"))
    viewer.dims.set_point(0, 1)
    found = segment(viewer, qtbot, layer)  # the axis named c is taken
    assert f1(slides[1][1], found.data.squeeze()) == 1
    assert found.data_to_world((0,) * 4)[0] == 1


def test_settings_reach_the_engine(viewer, qtbot, network, tmp_path):
    layer = viewer.add_image(slide()[0])
    segment(
        viewer, qtbot, layer, weights=tmp_path, flow_threshold="none", cellprob_threshold=0.3,
        scale="1.5", fill_holes=False,
    )  # fmt: skip
    ((weights, config),) = network.asked
    assert (weights, config.plan.name) == ((tmp_path,), "fast")
    assert (config.masks.cellprob_threshold, config.masks.flow_threshold) == (0.3, None)
    assert (config.scale, config.masks.fill_holes) == (1.5, False)


def test_untouched_settings_are_those_of_predict(viewer, qtbot, network):
    segment(viewer, qtbot, viewer.add_image(slide()[0]), plan="paper")
    assert network.asked[0][1] == EngineConfig()


@pytest.mark.parametrize(
    ("settings", "seen"),
    [({"scale": "2"}, 2), ({"scale": "auto"}, 2), ({"cell_size": "8"}, 2.5),
     ({"cell_size": "4 µm"}, 2.5)],
)  # fmt: skip
def test_small_cells_are_shown_larger(viewer, qtbot, network, settings, seen):
    network.function = know_cells_of(13, 30)
    picture, true = draw_discs(110, 110, 8)
    layer = viewer.add_image(picture, scale=(0.5, 0.5), units=("um", "um"))
    found = segment(viewer, qtbot, layer, **settings)
    assert found.data.shape == true.shape
    assert f1(true, found.data) > 0.99
    widget = viewer.window.dock_widgets["Segment cells (mediar-infer)"]
    assert float(widget.result.value.split()[-1]) == pytest.approx(seen, abs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"scale": "twice"}, "found scale 'twice', expected a number or auto"),
     ({"scale": "99"}, "found scale 99.0, expected 0.1 to 8, or auto"),
     ({"cell_size": "large"}, "found cell size 'large', expected a diameter in pixels"),
     ({"scale": "2", "cell_size": "9"}, "found scale 2.0 and cell size 9 px, expected one"),
     ({"cell_size": "9um"},
      "plain: found no pixel size, expected one for cells of 9 µm; give the layer its scale")],
)  # fmt: skip
def test_sizes_that_cannot_be_are_notifications(viewer, qtbot, network, shown, settings, message):
    viewer.add_image(slide()[0], name="plain")
    widget = dock(viewer, "Segment cells")
    for name, value in settings.items():
        getattr(widget, name).value = value
    widget.segment.changed.emit(True)
    assert shown[-1].startswith(message)
    assert widget.segment.enabled


def test_errors_are_notifications(viewer, qtbot, shown, tmp_path):
    widget = dock(viewer, "Segment cells")
    widget.segment.changed.emit(True)
    assert shown == ["found no image layer, expected one; open an image first"]
    viewer.add_image(np.zeros((2, 60, 70)), name="a")
    widget.choice.channel_axis.value = 0
    widget.choice.channels.value = "2"
    widget.segment.changed.emit(True)
    assert shown[-1].startswith("a: found no channel '2', expected one of: 0, 1")
    widget.choice.channels.value = ""
    widget.weights.value = tmp_path / "none.pth"
    widget.segment.changed.emit(True)
    qtbot.waitUntil(lambda: widget.segment.enabled, timeout=WAIT_MS)
    assert "there is no such weight file" in shown[-1]
    assert widget.result.value == "failed"
    assert len(viewer.layers) == 1


def test_warnings_are_notifications(viewer, qtbot, network, shown):
    layer = viewer.add_image(np.zeros((60, 70)), name="black")
    found = segment(viewer, qtbot, layer)
    assert not found.data.any()
    assert any(text.startswith("black: ") for text in shown)


def test_cancel_ends_between_bands(viewer, qtbot, network):
    layer = viewer.add_image(slide(height=4000, width=300)[0])
    widget = dock(viewer, "Segment cells")
    widget.choice.image.value, widget.plan.value = layer, "fast"
    widget.segment.changed.emit(True)
    qtbot.waitUntil(lambda: network.n_calls > 0, timeout=WAIT_MS)
    widget.cancel.changed.emit(True)
    qtbot.waitUntil(lambda: widget.segment.enabled, timeout=WAIT_MS)
    assert widget.result.value == "cancelled"
    assert network.n_calls < 8
    assert len(viewer.layers) == 1
    assert not widget.cancel.enabled


def test_corrected_labels_are_saved_as_a_pair_that_training_takes(
    viewer, qtbot, network, tmp_path, shown
):
    image, _ = slide()
    layer = viewer.add_image(image, name="a.tif", scale=(UM, UM), units=("um", "um"))
    labels = segment(viewer, qtbot, layer)
    labels.data[labels.data == 1] = 0
    labels.data[:9, :9] = 99
    widget = dock(viewer, "Save for training")
    widget.save.changed.emit(True)
    assert shown == ["found no folder, expected one for the pairs; choose it"]
    widget.folder.value = tmp_path / "pairs"
    widget.save.changed.emit(True)
    assert widget.result.value == "saved a_tif.tif and a_tif_label.tiff"
    assert (read_labels(tmp_path / "pairs" / "a_tif_label.tiff") == labels.data).all()
    widget.save.changed.emit(True)
    assert "found a file of that name" in shown[-1]
    assert train(["index", str(tmp_path / "pairs"), "-o", str(tmp_path / "table.csv")]) == 0
    assert "a_tif_label.tiff" in (tmp_path / "table.csv").read_text()


def test_plane_of_a_stack_is_saved(viewer, qtbot, network, tmp_path, shown):
    slides = [slide(seed) for seed in range(3)]
    stack = np.stack([image for image, _ in slides])
    layer = viewer.add_image(stack, rgb=True, name="stack")
    viewer.dims.set_point(0, 1)
    labels = segment(viewer, qtbot, layer)
    widget = dock(viewer, "Save for training")
    widget.choice.image.value, widget.labels_layer.value = layer, labels
    widget.folder.value = tmp_path
    widget.save.changed.emit(True)
    assert widget.result.value == "saved stack_1.tif and stack_1_label.tiff"
    assert f1(slides[1][1], read_labels(tmp_path / "stack_1_label.tiff")) == 1
    viewer.dims.set_point(0, 2)
    widget.save.changed.emit(True)
    assert widget.result.value == "not saved"
    assert "found no plane 1 on axis 0, expected 0 to 0" in shown[-1]
