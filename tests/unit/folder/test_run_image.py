"""An image of a run is named after its place in the input folder, and so are its results."""

from pathlib import Path, PurePosixPath

from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.run_image import RunImage, find_clashes

ROOT = Path("in")


def inside(*names):
    return [RunImage.inside(ROOT, ROOT / name) for name in names]


def test_results_lie_where_the_image_lies():
    [image] = inside("plate/well/field.ome.tif")
    options = RunOptions(ROOT, Path("out"))
    assert image.name == "plate/well/field.ome.tif"
    assert options.label_path(image) == Path("out/plate/well/field_label.tiff")
    assert options.output_name(image) == "plate/well/field_label.tiff"
    assert options.overlay_path(image) == Path("out/overlays/plate/well/field_label.png")


def test_images_that_share_a_label_file_clash():
    images = inside("a.b.tif", "c.tif", "a.c.tif", "d/a.tif")
    assert find_clashes(images) == {PurePosixPath("a_label.tiff"): [images[0], images[2]]}
    assert find_clashes(images[1:]) == {}


def test_errors_of_readers_name_the_image_as_the_run_does():
    [image] = inside("plate/field.tif")
    assert image.explain("field.tif: found nothing") == "plate/field.tif: found nothing"
    assert image.explain("out: found field.tif: there") == "out: found field.tif: there"
