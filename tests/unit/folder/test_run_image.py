"""An image of a run is named after its place in the input folder, and so are its results."""

from pathlib import Path

import pytest

from mediar_infer.folder.options import RunOptions
from mediar_infer.folder.run_image import RunImage
from mediar_infer.folder.selection import Selection


def named(name, names="challenge"):
    return RunImage.named(Path("in") / name, name, names)


@pytest.mark.parametrize(("names", "kept"), [("challenge", "field"), ("full", "field.w1")])
def test_results_lie_where_the_image_lies(names, kept):
    image = named("plate.1/well/field.w1.ome.tif", names)
    options = RunOptions(Selection((Path("in"),)), Path("out"))
    assert image.name == "plate.1/well/field.w1.ome.tif"
    assert options.label_path(image) == Path(f"out/plate.1/well/{kept}_label.tiff")
    assert options.output_name(image) == f"plate.1/well/{kept}_label.tiff"
    assert options.overlay_path(image) == Path(f"out/overlays/plate.1/well/{kept}_label.png")


def test_errors_of_readers_name_the_image_as_the_run_does():
    image = named("plate/field.tif")
    assert image.explain("field.tif: found nothing") == "plate/field.tif: found nothing"
    assert image.explain("out: found field.tif: there") == "out: found field.tif: there"
